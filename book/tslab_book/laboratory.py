"""The laboratory: one or two explorers over the same place, and the predictions of models trained behind them.

It adds nothing to what an encoder computes. Each side is the explorer of `tslab.widgets.explorer`, in the
browser as in the kernel; the laboratory holds what the sides share (place, measure, species), shows the
predictions of `tslab_book.trained`, and in a page without a kernel keeps its whole state in the address.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import unquote

import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from tslab.widgets.explorer import EncoderWidget, Result, filled_in, first_picture
from tslab.widgets.explorer import compute as compute_encoding
from tslab.widgets.parametric import CONTROLS, controls, grid_places
from tslab_book import trained

SIDE_NAMES = ("a", "b")  # in the address of a page
MOST_SIDES = len(SIDE_NAMES)


class Laboratory(EncoderWidget):
    """One encoder, or two side by side, at the same place: features, similarity, meters, and the predicted
    presence of a synthetic species by a small model that was trained with each encoder.

    In a live notebook its attributes can be read and set: ``laboratory.place = (139.7, 35.7)``. A link that was
    copied from the page of the book opens with `from_link`.

    Args:
        encoders: one or two; each is a key of `tslab.ENCODERS` or a dictionary with the key as "encoder" and, if they
            differ from the explorer's defaults, its "parameters" and the "channel" to show.
        place: longitude and latitude in degrees of the place that the similarity maps compare with.
        measure: "cosine" or "dot", see `EncoderExplorer`.
        species: name of the synthetic species, one of `tslab_book.trained.SPECIES`.

    Raises:
        KeyError: an unknown encoder.
        ValueError: none or more than two encoders; an unknown species; a parameter or a place outside its limits.
    """

    sides = traitlets.List(traitlets.Dict(), minlen=1, maxlen=MOST_SIDES).tag(sync=True)
    species = traitlets.Enum(trained.SPECIES).tag(sync=True)

    _initial = traitlets.List(traitlets.Dict()).tag(sync=True)
    _trained = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        *encoders: str | dict[str, Any],
        place: tuple[float, float] = (2.35, 48.85),
        measure: str = "cosine",
        species: str = "Fiji",
        **options: Any,
    ) -> None:
        if not 1 <= len(encoders) <= MOST_SIDES:
            raise ValueError(
                f"a laboratory shows one encoder or {MOST_SIDES}, got {len(encoders)}; "
                'for example Laboratory("wrap", "sphere2vec_sphereC+")'
            )
        sides = [filled_in(**({"encoder": e} if isinstance(e, str) else e)) for e in encoders]
        results = [compute(**side, place=place, measure=measure, species=species) for side in sides]
        for side, result in zip(sides, results, strict=True):
            side["channel"] = result.channel
        super().__init__(
            [side["encoder"] for side in sides],
            sides=sides,
            place=list(place),
            measure=measure,
            species=species,
            _initial=[first_picture(result) for result in results],
            _trained=trained.described(),
            **options,
        )

    @classmethod
    def from_link(cls, link: str, **options: Any) -> "Laboratory":
        """The laboratory in the state of a link that was copied from the page of the book.

        Args:
            link: the whole address, or its part from "#" on; what it leaves out takes the usual value.

        Raises:
            KeyError: an unknown encoder.
            ValueError: an address that holds no state of the laboratory, or one that cannot be shown.
        """
        parts = [part.partition("=") for part in link.partition("#")[2].split("&")]
        given = {name: unquote(value) for name, _, value in parts}
        if SIDE_NAMES[0] not in given:
            raise ValueError(
                f"{link!r} is no link of the laboratory: behind '#' it names an encoder, "
                "as in '#a=wrap&b=sphere2vec_sphereC+&place=2.35,48.85'"
            )
        try:
            sides = [_side(given, name) for name in SIDE_NAMES if name in given]
            shared: dict[str, Any] = {name: given[name] for name in ("measure", "species") if name in given}
            if "place" in given:
                lon, lat = (float(degrees) for degrees in given["place"].split(","))
                shared["place"] = (lon, lat)
        except ValueError as error:
            raise ValueError(f"a part of {link!r} is not the number that it should be: {error}") from None
        return cls(*sides, **shared, **options)

    def look(self, request: dict[str, Any]) -> Result:
        """What the front end asks for, with the prediction for the species."""
        names = ("encoder", "parameters", "place", "channel", "measure")
        return compute(**{name: request[name] for name in names}, species=request.get("species"))

    @traitlets.validate("sides")
    def _check_sides(self, proposal: dict[str, Any]) -> list[dict[str, Any]]:
        return [filled_in(**side) for side in proposal["value"]]


@dataclass(frozen=True)
class Prediction(Result):
    """What the laboratory shows of an encoder that a model is trained with.

    Attributes:
        presence: predicted presence of the species, float32 over the grid.
        present: the same at the place.
        top1: share of the held-out sightings whose species the model ranks first.
    """

    presence: Float[Tensor, " n"]
    present: float
    top1: float


def compute(
    encoder: str,
    parameters: dict[str, float],
    place: Sequence[float],
    channel: int,
    measure: str = "cosine",
    species: str | None = None,
) -> Result:
    """What `tslab.widgets.explorer.compute` says, and where the model that is trained with this encoder predicts the
    species, if one is asked for and there is a model."""
    result = compute_encoding(encoder, parameters, place, channel, measure)
    if species is None or encoder not in CONTROLS:
        return result
    column = trained.column_of(species)
    at = torch.tensor([list(place)], dtype=torch.float64)
    return Prediction(
        **vars(result),
        presence=_presence(encoder)[:, column].contiguous(),
        present=float(trained.Presence(encoder).predict(at)[0, column]),
        top1=trained.top1(encoder),
    )


@cache
def _presence(encoder: str) -> Float[Tensor, "n k"]:
    return trained.Presence(encoder).predict(grid_places())


def _side(given: dict[str, str], name: str) -> dict[str, Any]:
    """One encoder of an address: its key, and the parameters and the feature that the address sets."""
    kinds = {parameter.name: parameter.kind for parameter in controls(given[name]).parameters}
    own = {key.removeprefix(f"{name}."): value for key, value in given.items() if key.startswith(f"{name}.")}
    side: dict[str, Any] = {"encoder": given[name]}
    if "channel" in own:
        side["channel"] = int(own.pop("channel"))
    side["parameters"] = {key: int(value) if kinds.get(key) == "count" else float(value) for key, value in own.items()}
    return side
