"""The explorer: pick an encoder, move its scales, click a place, and see what the encoder sees.

One front end (the JavaScript modules beside this file) and two back ends. In a live notebook the kernel
computes: the front end sends a request, `EncoderExplorer` answers with two maps as float32. In a static page
ONNX Runtime Web runs the graphs of `tslab.widgets.export`. Either way the numbers come from the modules of
`tslab.widgets.parametric`. A first picture is computed here, so that no page is ever blank.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import anywidget
import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from tslab import figures
from tslab.encoders import ENCODERS, encoder_info
from tslab.widgets import frontend
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


class EncoderExplorer(anywidget.AnyWidget):
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

    _esm = frontend.script()
    _css = frontend.style_sheet()

    encoder = traitlets.Unicode().tag(sync=True)
    parameters = traitlets.Dict().tag(sync=True)
    place = traitlets.List(traitlets.Float(), minlen=2, maxlen=2).tag(sync=True)
    channel = traitlets.Int(0, min=0).tag(sync=True)
    measure = traitlets.Enum(MEASURES, "cosine").tag(sync=True)

    _encoders = traitlets.Dict().tag(sync=True)
    _colors = traitlets.Dict().tag(sync=True)
    _land = traitlets.Bytes().tag(sync=True)
    _initial = traitlets.Dict().tag(sync=True)
    _initial_feature = traitlets.Bytes().tag(sync=True)
    _initial_similarity = traitlets.Bytes().tag(sync=True)

    def __init__(
        self,
        encoder: str = "sphere2vec_sphereC+",
        *,
        parameters: dict[str, float] | None = None,
        place: tuple[float, float] = (2.35, 48.85),
        channel: int | None = None,
        measure: str = "cosine",
        **options: Any,
    ) -> None:
        encoder_info(encoder)
        values = controls(encoder).defaults | (parameters or {})
        first: dict[str, Any] = {
            "encoder": encoder,
            "parameters": values,
            "place": place,
            "channel": controls(encoder).channel if channel is None else channel,
            "measure": measure,
        }
        result = compute(**first)
        super().__init__(
            **(first | {"place": list(place), "channel": result.channel}),
            _encoders=_encoder_menu(encoder),
            _colors={
                "field": figures.FIELD_SCALE,
                "diverging": figures.DIVERGING_SCALE,
                "missing": figures.MISSING_COLOR,
                "families": figures.FAMILY_COLORS,
            },
            _land=frontend.packed_land(),
            _initial=result.facts()
            | {
                "ranges": [_range(result.feature), _range(result.similarity)],
                "similarArea": _similar_area(result.similarity),
            },
            _initial_feature=_as_bytes(result.feature),
            _initial_similarity=_as_bytes(result.similarity),
            **options,
        )
        self.on_msg(_answer)

    @traitlets.validate("place")
    def _check_place(self, proposal: dict[str, Any]) -> list[float]:
        return list(_checked_place(proposal["value"]))


@dataclass(frozen=True)
class Result:
    """What both back ends answer to a request.

    Attributes:
        feature, similarity: float32 over the grid (`grid_places`).
        channel: the feature shown; the last one if the request asked for more.
        out_features: number of features.
        value: the feature at the place.
        seam_gap, pole_spread: see `tslab.diagnostics`.
        wavelengths: of the scales, in degrees; empty for an encoder without scales in degrees.
    """

    feature: Float[Tensor, " n"]
    similarity: Float[Tensor, " n"]
    channel: int
    out_features: int
    value: float
    seam_gap: float
    pole_spread: float
    wavelengths: list[float]

    def facts(self) -> dict[str, Any]:
        """The numbers besides the two maps, by the names that the front end uses."""
        return {
            "channel": self.channel,
            "outFeatures": self.out_features,
            "value": self.value,
            "seamGap": self.seam_gap,
            "poleSpread": self.pole_spread,
            "wavelengths": self.wavelengths,
        }


def compute(
    encoder: str,
    parameters: dict[str, float],
    place: tuple[float, float],
    channel: int,
    measure: str = "cosine",
) -> Result:
    """Feature map, similarity map and meters of one encoder, by torch."""
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
    encoder_info(encoder)
    at = torch.tensor([_checked_place(place)], dtype=torch.float64)
    features, wavelengths, seam_gap, pole_spread = _encoded(encoder, tuple(sorted(parameters.items())))
    here, _ = _parametric(encoder).encode(at, parameters)
    shown = min(max(int(channel), 0), features.shape[1] - 1)
    similarity = Similarity()(features, here)[:, MEASURES.index(measure)]
    return Result(
        feature=features[:, shown].contiguous(),
        similarity=similarity.contiguous(),
        channel=shown,
        out_features=features.shape[1],
        value=float(here[0, shown]),
        seam_gap=seam_gap,
        pole_spread=pole_spread,
        wavelengths=wavelengths,
    )


def _answer(widget: EncoderExplorer, content: dict[str, Any], buffers: list[bytes]) -> None:
    """Answer a request of the front end, in a live notebook."""
    if content.get("kind") != "compute":
        return
    try:
        names = ("encoder", "parameters", "place", "channel", "measure")
        result = compute(**{name: content[name] for name in names})
    except Exception as error:  # shown to the reader in the widget, who sees no log of the kernel
        widget.send(
            {"kind": "error", "id": content.get("id"), "text": f"The kernel could not compute this: {error}"}
        )
        return
    maps = [result.feature.numpy().tobytes(), result.similarity.numpy().tobytes()]
    widget.send({"kind": "result", "id": content["id"], "result": result.facts()}, maps)


_recent: dict[tuple[str, tuple[tuple[str, float], ...]], tuple[Tensor, list[float], float, float]] = {}


def _encoded(
    encoder: str, parameters: tuple[tuple[str, float], ...]
) -> tuple[Float[Tensor, "n d"], list[float], float, float]:
    """Features of the grid, wavelengths, seam gap and pole spread; the last four are kept, so that moving
    the place is quick."""
    key = (encoder, parameters)
    if key not in _recent:
        module = _parametric(encoder)
        features, wavelengths = module.encode(grid_places(), dict(parameters))
        seam_gap, pole_spread = Meters()(module.encode(meter_places(), dict(parameters))[0]).tolist()
        while len(_recent) > 3:
            del _recent[next(iter(_recent))]
        _recent[key] = features, wavelengths.tolist(), seam_gap, pole_spread
    return _recent[key]


@cache
def _parametric(encoder: str) -> ParametricEncoder:
    return ParametricEncoder(encoder)


def _encoder_menu(shown: str) -> dict[str, Any]:
    """What the front end knows of each encoder: the built-in ones, and the shown one if it is the reader's
    own."""
    keys = [key for key in ENCODERS if key in CONTROLS or key == shown]
    return {
        key: {"name": ENCODERS[key].name, "family": ENCODERS[key].family, "summary": ENCODERS[key].summary}
        | controls(key).as_json()
        for key in keys
    }


def _checked_place(place: Any) -> tuple[float, float]:
    lon, lat = (float(value) for value in place)
    if not (-180 <= lon <= 180 and -90 <= lat <= 90):
        raise ValueError(
            f"place must be (longitude, latitude) within [-180, 180] x [-90, 90], got ({lon:g}, {lat:g})"
        )
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
