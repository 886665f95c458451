"""The explorer: pick an encoder, move its scales, click a place, and see what the encoder sees.

One front end (the JavaScript modules beside this file) and two back ends. In a live notebook the kernel
computes: the front end sends a request, `EncoderExplorer` answers with two maps as float32. In a static page
ONNX Runtime Web runs the graphs of `tslab.widgets.export`. Either way the numbers come from the modules of
`tslab.widgets.parametric`. A first picture is computed here, so that no page is ever blank.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import anywidget
import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from tslab import plot
from tslab._checks import check_count
from tslab.encoders import ENCODERS, encoder_info
from tslab.widgets import frontend, trained
from tslab.widgets.parametric import (
    CONTROLS,
    MEASURES,
    Meters,
    ParametricEncoder,
    Similarity,
    controls,
    grid_places,
    meter_places,
)


class EncoderWidget(anywidget.AnyWidget):
    """What the explorer and the laboratory share: the front end, a place and a measure, and the kernel's answers."""

    _esm = frontend.script()
    _css = frontend.style_sheet()

    place = traitlets.List(traitlets.Float(), minlen=2, maxlen=2).tag(sync=True)
    measure = traitlets.Enum(MEASURES, "cosine").tag(sync=True)

    _encoders = traitlets.Dict().tag(sync=True)
    _colors = traitlets.Dict().tag(sync=True)
    _land = traitlets.Bytes().tag(sync=True)

    def __init__(self, shown: Iterable[str], **state: Any) -> None:
        super().__init__(
            _encoders=_encoder_menu(shown),
            _colors={
                "field": plot.FIELD_SCALE,
                "diverging": plot.DIVERGING_SCALE,
                "missing": plot.MISSING_COLOR,
                "families": plot.FAMILY_COLORS,
            },
            _land=frontend.packed_land(),
            **state,
        )
        self.on_msg(_answer)

    @traitlets.validate("place")
    def _check_place(self, proposal: dict[str, Any]) -> list[float]:
        return list(_checked_place(proposal["value"]))


class EncoderExplorer(EncoderWidget):
    """Feature map and similarity map of a position encoder, on globe and map, with controls for its
    parameters.

    In a live notebook its attributes can be read and set: ``explorer.place = (139.7, 35.7)``.

    Args:
        encoder: key of `tslab.ENCODERS`.
        parameters: values that differ from the explorer's defaults, by name (see
            `tslab.widgets.parametric.CONTROLS`).
        place: longitude and latitude in degrees of the place that the similarity map compares with.
        channel: number of the feature that is shown, from 0; by default one that shows well.
        measure: "cosine" or "dot" (scaled so that the place has similarity 1 with itself).

    Raises:
        KeyError: an unknown encoder.
        ValueError: a parameter that the explorer has no control for, or a value outside its limits; a place
            outside the globe.
    """

    encoder = traitlets.Unicode().tag(sync=True)
    parameters = traitlets.Dict().tag(sync=True)
    channel = traitlets.Int(0, min=0).tag(sync=True)

    _initial = traitlets.Dict().tag(sync=True)
    _initial_feature = traitlets.Bytes().tag(sync=True)
    _initial_similarity = traitlets.Bytes().tag(sync=True)

    def __init__(
        self,
        encoder: str = "sphere2vec_sphereC+",
        *,
        parameters: dict[str, float] | None = None,
        place: Sequence[float] = (2.35, 48.85),
        channel: int | None = None,
        measure: str = "cosine",
        **options: Any,
    ) -> None:
        side = filled_in(encoder, parameters, channel)
        result = compute(**side, place=place, measure=measure)
        picture = first_picture(result)
        super().__init__(
            [encoder],
            **(side | {"channel": result.channel}),
            place=list(place),
            measure=measure,
            _initial_feature=picture.pop("feature"),
            _initial_similarity=picture.pop("similarity"),
            _initial=picture,
            **options,
        )


def filled_in(encoder: str, parameters: dict[str, float] | None = None, channel: int | None = None) -> dict[str, Any]:
    """Encoder, all of its parameters and the feature to show, where some are left to the explorer's defaults."""
    encoder_info(encoder)
    if channel is not None:
        check_count("channel", channel, at_least=0)
    return {
        "encoder": encoder,
        "parameters": controls(encoder).defaults | (parameters or {}),
        "channel": controls(encoder).channel if channel is None else channel,
    }


@dataclass(frozen=True)
class Result:
    """What both back ends answer to a request.

    Attributes:
        feature, similarity: float32 over the grid (`grid_places`).
        channel: the feature shown; the last one if the request asked for more.
        out_features: number of features.
        value: the feature at the place.
        seam_gap, pole_spread, effective_rank: see `tslab.widgets.parametric.Meters`.
        wavelengths: of the scales, in degrees; empty for an encoder without scales in degrees.
        presence: predicted presence of a species over the grid, if one was asked for and a model is trained
            with this encoder (`tslab.widgets.trained`).
        present: the same at the place.
        top1: share of the held-out sightings whose species that model ranks first.
    """

    feature: Float[Tensor, " n"]
    similarity: Float[Tensor, " n"]
    channel: int
    out_features: int
    value: float
    seam_gap: float
    pole_spread: float
    effective_rank: float
    wavelengths: list[float]
    presence: Float[Tensor, " n"] | None = None
    present: float | None = None
    top1: float | None = None

    def facts(self) -> dict[str, Any]:
        """The numbers besides the maps, by the names that the front end uses."""
        return {
            "channel": self.channel,
            "outFeatures": self.out_features,
            "value": self.value,
            "seamGap": self.seam_gap,
            "poleSpread": self.pole_spread,
            "effectiveRank": self.effective_rank,
            "wavelengths": self.wavelengths,
            "present": self.present,
            "top1": self.top1,
        }


def compute(
    encoder: str,
    parameters: dict[str, float],
    place: Sequence[float],
    channel: int,
    measure: str = "cosine",
    species: str | None = None,
) -> Result:
    """Feature map, similarity map and meters of one encoder, by torch; with a ``species`` also where the model
    that is trained with this encoder predicts it."""
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
    encoder_info(encoder)
    at = torch.tensor([_checked_place(place)], dtype=torch.float64)
    features, wavelengths, meters = _encoded(encoder, tuple(sorted(parameters.items())))
    here, _ = _parametric(encoder).encode(at, parameters)
    shown = min(max(int(channel), 0), features.shape[1] - 1)
    similarity = Similarity()(features, here)[:, MEASURES.index(measure)]
    predicted: dict[str, Any] = {}
    if species is not None and encoder in CONTROLS:
        column = trained.column_of(species)
        predicted["presence"] = _presence(encoder)[:, column].contiguous()
        predicted["present"] = float(trained.Presence(encoder).predict(at)[0, column])
        predicted["top1"] = trained.top1(encoder)
    return Result(
        feature=features[:, shown].contiguous(),
        similarity=similarity.contiguous(),
        channel=shown,
        out_features=features.shape[1],
        value=float(here[0, shown]),
        seam_gap=meters[0],
        pole_spread=meters[1],
        effective_rank=meters[2],
        wavelengths=wavelengths,
        **predicted,
    )


def first_picture(result: Result) -> dict[str, Any]:
    """A result as the page carries it before anything runs: its numbers, and each map as one byte for a cell."""
    maps = {"feature": result.feature, "similarity": result.similarity}
    if result.presence is not None:
        maps["presence"] = result.presence
    return (
        result.facts()
        | {"ranges": {name: _range(values) for name, values in maps.items()}}
        | {"similarArea": _similar_area(result.similarity)}
        | {name: _as_bytes(values) for name, values in maps.items()}
    )


def _answer(widget: EncoderWidget, content: dict[str, Any], buffers: list[bytes]) -> None:
    """Answer a request of the front end, in a live notebook."""
    if content.get("kind") != "compute":
        return
    try:
        names = ("encoder", "parameters", "place", "channel", "measure")
        result = compute(**{name: content[name] for name in names}, species=content.get("species"))
    except Exception as error:  # shown to the reader in the widget, who sees no log of the kernel
        widget.send({"kind": "error", "id": content.get("id"), "text": f"The kernel could not compute this: {error}"})
        return
    maps = [m for m in (result.feature, result.similarity, result.presence) if m is not None]
    widget.send({"kind": "result", "id": content["id"], "result": result.facts()}, [m.numpy().tobytes() for m in maps])


_recent: dict[tuple[str, tuple[tuple[str, float], ...]], tuple[Tensor, list[float], list[float]]] = {}


def _encoded(
    encoder: str, parameters: tuple[tuple[str, float], ...]
) -> tuple[Float[Tensor, "n d"], list[float], list[float]]:
    """Features of the grid, wavelengths and meters; the last four are kept, so that moving the place is
    quick."""
    key = (encoder, parameters)
    if key not in _recent:
        module = _parametric(encoder)
        features, wavelengths = module.encode(grid_places(), dict(parameters))
        meters = Meters()(module.encode(meter_places(), dict(parameters))[0]).tolist()
        while len(_recent) > 3:
            del _recent[next(iter(_recent))]
        _recent[key] = features, wavelengths.tolist(), meters
    return _recent[key]


@cache
def _parametric(encoder: str) -> ParametricEncoder:
    return ParametricEncoder(encoder)


@cache
def _presence(encoder: str) -> Float[Tensor, "n k"]:
    return trained.Presence(encoder).predict(grid_places())


def _encoder_menu(shown: Iterable[str]) -> dict[str, Any]:
    """What the front end knows of each encoder: the built-in ones, and those shown that are the reader's own."""
    keys = [key for key in ENCODERS if key in CONTROLS or key in set(shown)]
    return {
        key: {"name": ENCODERS[key].name, "family": ENCODERS[key].family, "summary": ENCODERS[key].summary}
        | controls(key).as_json()
        for key in keys
    }


def _checked_place(place: Any) -> tuple[float, float]:
    try:
        lon, lat = (float(value) for value in place)
    except (TypeError, ValueError):
        lon = lat = float("nan")
    if not (-180 <= lon <= 180 and -90 <= lat <= 90):
        raise ValueError(f"place must be (longitude, latitude) within [-180, 180] x [-90, 90], got {place!r}")
    return lon, lat


def _similar_area(similarity: Float[Tensor, " n"]) -> float:
    """Share of the Earth's surface whose similarity exceeds one half."""
    area = torch.cos(torch.deg2rad(grid_places()[:, 1]))
    return float((area * (similarity > 0.5)).sum() / area.sum())


def _range(values: Float[Tensor, " n"]) -> list[float]:
    return [float(values.min()), float(values.max())]


def _as_bytes(values: Float[Tensor, " n"]) -> bytes:
    """A map as one byte for each cell, between its lowest and its highest value: a picture needs no more."""
    low, high = _range(values)
    scaled = (values - low) / (high - low if high > low else 1)
    return (scaled * 255).round().to(torch.uint8).numpy().tobytes()
