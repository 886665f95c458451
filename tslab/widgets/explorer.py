"""The explorer: pick an encoder, move its scales, click a place, and see what the encoder sees.

One front end (the JavaScript modules beside this file) and two back ends. In a live notebook the kernel
computes: the front end sends a request, `EncoderExplorer` answers with two maps as float32. In a static page
ONNX Runtime Web runs the graphs of `tslab_book.widget_graphs`. Either way the numbers come from the modules of
`tslab.widgets.parametric`. A first picture is computed here, so that no page is ever blank.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any

import anywidget
import numpy as np
import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from tslab import plot
from tslab._checks import check_choice, check_count
from tslab.earth import land_lines
from tslab.encoders import ENCODERS, encoder_info
from tslab.plot.projection import check_place
from tslab.plot.style import css_tokens
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

MODULES = ("maps.js", "backends.js", "explorer.js", "laboratory.js")
"""The front end of the explorer and of the laboratory of the book, in the order of its imports. A widget's code must be
one module, so they are joined."""


@cache
def script() -> str:
    """The JavaScript modules joined to one: imports between them and exports but the default one are taken
    out."""
    parts = [re.sub(r"^import .*?;\n", "", _read(name), flags=re.MULTILINE | re.DOTALL) for name in MODULES]
    return "".join(re.sub(r"^export (?!default)", "", part, flags=re.MULTILINE) for part in parts)


@cache
def style_sheet() -> str:
    """The widget's style sheet, with the design tokens of `tslab.plot` in front."""
    return css_tokens(".tslab-explorer") + _read("explorer.css")


@cache
def packed_land() -> bytes:
    """The coastlines as int16 pairs in hundredths of a degree; -32768 marks a break."""
    hundredths = np.round(np.nan_to_num(land_lines() * 100, nan=-32768.0))
    return hundredths.astype("<i2").tobytes()


def _read(name: str) -> str:
    return resources.files("tslab.widgets").joinpath(name).read_text(encoding="utf-8")


class EncoderWidget(anywidget.AnyWidget):
    """What the explorer and the laboratory of the book share: the front end, a place and a measure, and the kernel's
    answers."""

    _esm = script()
    _css = style_sheet()

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
            _land=packed_land(),
            **state,
        )
        self.on_msg(type(self)._answer)

    def look(self, request: dict[str, Any]) -> "Result":
        """What the front end asks for: `compute` with what the request names."""
        return compute(**{name: request[name] for name in ("encoder", "parameters", "place", "channel", "measure")})

    def _answer(self, content: dict[str, Any], _: list[bytes]) -> None:
        """Answer a request of the front end, in a live notebook."""
        if content.get("kind") != "compute":
            return
        try:
            result = self.look(content)
        except Exception as error:  # shown to the reader in the widget, who sees no log of the kernel
            text = f"The kernel could not compute this: {error}"
            self.send({"kind": "error", "id": content.get("id"), "text": text})
            return
        buffers = [values.numpy().tobytes() for values in result.maps().values()]
        self.send({"kind": "result", "id": content["id"], "result": result.facts()}, buffers)

    @traitlets.validate("place")
    def _check_place(self, proposal: dict[str, Any]) -> list[float]:
        return list(check_place("place", proposal["value"]))


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

    def maps(self) -> dict[str, Float[Tensor, " n"]]:
        """The values over the grid, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def facts(self) -> dict[str, Any]:
        """The numbers besides the maps, by the names that the front end uses: ``seamGap`` for ``seam_gap``."""
        numbers = {name: value for name, value in vars(self).items() if not isinstance(value, Tensor)}
        return {re.sub("_(.)", lambda found: found[1].upper(), name): value for name, value in numbers.items()}


def compute(
    encoder: str, parameters: dict[str, float], place: Sequence[float], channel: int, measure: str = "cosine"
) -> Result:
    """Feature map, similarity map and meters of one encoder, by torch."""
    check_choice("measure", measure, MEASURES)
    encoder_info(encoder)
    at = torch.tensor([check_place("place", place)], dtype=torch.float64)
    features, wavelengths, meters = _encoded(encoder, tuple(sorted(parameters.items())))
    here, _ = _parametric(encoder).encode(at, parameters)
    shown = min(max(int(channel), 0), features.shape[1] - 1)
    similarity = Similarity()(features, here)[:, MEASURES.index(measure)]
    return Result(
        features[:, shown].contiguous(),
        similarity.contiguous(),
        channel=shown,
        out_features=features.shape[1],
        value=float(here[0, shown]),
        wavelengths=wavelengths,
        **dict(zip(("seam_gap", "pole_spread", "effective_rank"), meters, strict=True)),
    )


def first_picture(result: Result) -> dict[str, Any]:
    """A result as the page carries it before anything runs: its numbers, and each map as one byte for a cell."""
    area = torch.cos(torch.deg2rad(grid_places()[:, 1]))
    similar = float((area * (result.similarity > 0.5)).sum() / area.sum())
    ranges = {name: [float(values.min()), float(values.max())] for name, values in result.maps().items()}
    pictures = {name: _as_bytes(values, *ranges[name]) for name, values in result.maps().items()}
    return result.facts() | {"ranges": ranges, "similarArea": similar} | pictures


@lru_cache(maxsize=4)
def _encoded(
    encoder: str, parameters: tuple[tuple[str, float], ...]
) -> tuple[Float[Tensor, "n d"], list[float], list[float]]:
    """Features of the grid, wavelengths and meters; kept, so that moving the place is quick."""
    module = _parametric(encoder)
    features, wavelengths = module.encode(grid_places(), dict(parameters))
    meters = Meters()(module.encode(meter_places(), dict(parameters))[0])
    return features, wavelengths.tolist(), meters.tolist()


@cache
def _parametric(encoder: str) -> ParametricEncoder:
    return ParametricEncoder(encoder)


def _encoder_menu(shown: Iterable[str]) -> dict[str, Any]:
    """What the front end knows of each encoder: the built-in ones, and those shown that are the reader's own."""
    keys = [key for key in ENCODERS if key in CONTROLS or key in set(shown)]
    return {
        key: {"name": ENCODERS[key].name, "family": ENCODERS[key].family, "summary": ENCODERS[key].summary}
        | controls(key).as_json()
        for key in keys
    }


def _as_bytes(values: Float[Tensor, " n"], low: float, high: float) -> bytes:
    """A map as one byte for each cell, between its lowest and its highest value: a picture needs no more."""
    scaled = (values - low) / (high - low if high > low else 1)
    return (scaled * 255).round().to(torch.uint8).numpy().tobytes()
