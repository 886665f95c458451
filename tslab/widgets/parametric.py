"""Encoders whose parameters are tensors, so that one graph serves every position of a slider.

`ParametricEncoder` calls the very torch encoder with its buffers replaced by ones computed from the
parameters. The kernel of a live notebook calls it as it is; `tslab_book.widget_graphs` turns it into an ONNX
graph for the reader's browser. What is done with the features afterwards (similarity, the meters for the
date line and the poles) is a module here for the same reason: one implementation, run by torch or by ONNX
Runtime.

`CONTROLS` says which parameters a reader may move, within which limits, and what the features of an encoder
are called; it stands in ``data/widget_controls.json``.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tslab._checks import check_number
from tslab._files import packaged_json
from tslab.coords import sample_sphere
from tslab.diagnostics import EPSILON_DEG
from tslab.encoders import MultiScaleEncoder, PositionEncoder, position_encoder
from tslab.encoders.base import scales_between
from tslab.encoders.planar import RBF, RFF, Tile
from tslab.encoders.spherical import NeRF, SphericalHarmonics

GRID_STEP_DEG = 2.0
"""Distance of the places at which the widget computes a map: 90 x 180 cells of two degrees."""

BLOCK_ROWS = 2048
"""Places encoded at once: keeps memory small and lets the reader's browser answer between two blocks."""


@dataclass(frozen=True)
class Parameter:
    """One parameter that a reader may move.

    Attributes:
        name: as in `tslab.position_encoder`.
        label: what stands beside the slider.
        kind: "count" (whole number; a graph takes it as the indices 0 ... count - 1), "log" (slider in equal
            ratios) or "linear".
        low, high, default: limits and first value. Defaults suit a map of two degrees and are coarser than
            the library's.
        unit: "°" or nothing.
    """

    name: str
    label: str
    kind: Literal["count", "log", "linear"]
    low: float
    high: float
    default: float
    unit: str = ""


@dataclass(frozen=True)
class Controls:
    """What a reader may move in one encoder and what its features are called.

    Attributes:
        parameters: in the order in which they are shown.
        axes: the axes along which features are counted, slowest first: (name, labels of its values); the
            axis "scale" has no labels, its values are counted. Empty where features have no individual meaning.
        template: name of a feature, with the names of the axes in braces; "Y" stands for spherical
            harmonics, "{n}" for the number of the feature.
        channel: the feature that is shown first.
    """

    parameters: tuple[Parameter, ...] = ()
    axes: Sequence[Sequence[Any]] = ()
    template: str = "feature {n}"
    channel: int = 0

    @property
    def defaults(self) -> dict[str, float]:
        """Parameter values by name."""
        return {parameter.name: parameter.default for parameter in self.parameters}

    def as_json(self) -> dict[str, Any]:
        """Plain lists and dictionaries, for the front end and the manifest."""
        return asdict(self)


def _controls(parameters: Sequence[Mapping[str, Any]] = (), **described: Any) -> Controls:
    return Controls(tuple(Parameter(**parameter) for parameter in parameters), **described)


CONTROLS = {key: _controls(**stored) for key, stored in packaged_json("widget_controls.json").items()}
"""Controls of each encoder by key."""


def controls(key: str) -> Controls:
    """Controls of encoder ``key``; an encoder of your own has none and is shown as it is built by default."""
    return CONTROLS.get(key, Controls())


class ParametricEncoder(nn.Module):
    """Position encoder ``key`` as a function of places and of its parameters, all tensors.

    Call it with places (n, 2) in degrees, float64, and one tensor for each parameter of ``CONTROLS[key]``,
    in that order: a count as the int64 indices 0 ... count - 1, anything else as a float64 scalar (`tensors`
    makes them). Returns the features (n, d) in float32 and the wavelengths (f,) in degrees of its scales,
    float64, empty for an encoder without scales in degrees.

    The random parts (anchors, directions, tables) are drawn once with seed 0, as many as the largest count
    needs; a smaller count uses the first ones. So they do not jump while a slider moves.
    """

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key, self.controls = key, controls(key)
        parameters: dict[str, Any] = {p.name: int(p.high) for p in self.controls.parameters if p.kind == "count"}
        if key == "tile":
            parameters |= {"num_features": 16, "cell_size": 5.0}
        if key in ("tile", "rbf", "rff"):
            parameters["generator"] = torch.Generator().manual_seed(0)
        self.encoder = position_encoder(key, **parameters).eval()
        self.adapt = next((adapt for kind, adapt in _ADAPTERS.items() if isinstance(self.encoder, kind)), _as_it_is)

    def forward(
        self, lonlat: Float[Tensor, "n 2"], *parameters: Tensor
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, " f"]]:
        features, wavelengths_deg = self.adapt(self.encoder, lonlat, *parameters)
        return features.float(), wavelengths_deg

    def tensors(self, parameters: Mapping[str, float]) -> dict[str, Tensor]:
        """Parameter values as the tensors that `forward` takes.

        Raises:
            ValueError: a parameter that this encoder does not have, or a value outside its limits.
        """
        known = {p.name: p for p in self.controls.parameters}
        if unknown := set(parameters) - set(known):
            takes = ", ".join(known) or "none"
            raise ValueError(
                f"the explorer has no control {', '.join(sorted(unknown))} for {self.key!r}; it has {takes}"
            )
        values = self.controls.defaults | dict(parameters)  # in the order of the controls
        for name, value in values.items():
            check_number(name, value)
            if known[name].kind == "count" and value != int(value):
                raise ValueError(f"{name} must be a whole number, got {value!r}")
            if not known[name].low <= value <= known[name].high:
                raise ValueError(
                    f"{name}={value:g} is outside {known[name].low:g} ... {known[name].high:g}, the limits of the "
                    f"explorer; tslab.position_encoder({self.key!r}, {name}=...) has none"
                )
        return {
            name: torch.arange(int(value)) if known[name].kind == "count" else torch.tensor(value, dtype=torch.float64)
            for name, value in values.items()
        }

    @torch.no_grad()
    def encode(
        self, lonlat: Float[Tensor, "n 2"], parameters: Mapping[str, float]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, " f"]]:
        """Features and wavelengths for plain numbers, block by block."""
        tensors = self.tensors(parameters).values()
        blocks = [self(block, *tensors) for block in lonlat.double().split(BLOCK_ROWS)]
        return torch.cat([features for features, _ in blocks]), blocks[0][1]


def _multi_scale(
    encoder: MultiScaleEncoder, lonlat: Tensor, num_scales: Int[Tensor, " f"], min_radius: Tensor, max_radius: Tensor
) -> tuple[Tensor, Tensor]:
    index = num_scales.double()
    exponents = index / index[-1].clamp(min=1)
    coarsest = torch.maximum(min_radius, max_radius)
    frequencies = encoder.frequencies_of(scales_between(exponents, min_radius, coarsest))
    return _with(encoder, frequencies=frequencies).encode(lonlat), 1 / frequencies


def _octaves(encoder: NeRF, lonlat: Tensor, num_scales: Int[Tensor, " f"]) -> tuple[Tensor, Tensor]:
    frequencies = encoder.frequencies[num_scales]
    return _with(encoder, frequencies=frequencies).encode(lonlat), _none(lonlat)


def _anchors(
    encoder: RBF, lonlat: Tensor, num_anchors: Int[Tensor, " m"], kernel_size: Tensor
) -> tuple[Tensor, Tensor]:
    changed = _with(encoder, anchors=encoder.anchors[num_anchors])
    changed.kernel_size = kernel_size
    return changed.encode(lonlat), _none(lonlat)


def _directions(
    encoder: RFF, lonlat: Tensor, num_scales: Int[Tensor, " f"], kernel_size: Tensor
) -> tuple[Tensor, Tensor]:
    """All waves, then the first ones, with the factor sqrt(2 / F) for their number."""
    features = _with(encoder, directions=encoder.directions * kernel_size.sqrt()).encode(lonlat)
    count = (num_scales[-1] + 1).double()
    return features[:, num_scales] * torch.sqrt(encoder.out_features / count), _none(lonlat)


def _degrees_below(encoder: SphericalHarmonics, lonlat: Tensor, degree: Int[Tensor, " l"]) -> tuple[Tensor, Tensor]:
    return encoder.encode(lonlat)[:, : degree.shape[0] ** 2], _none(lonlat)


def _cells(encoder: Tile, lonlat: Tensor, cell_size: Tensor) -> tuple[Tensor, Tensor]:
    """Cells of any size down to the size that the table was made for; a coarser grid leaves rows of it
    unused."""
    lon, lat = lonlat.unbind(-1)
    inside = torch.stack([lon, lat.clamp(max=90 - 1e-9)], dim=-1)  # the pole belongs to the last row of any size
    changed = _with(encoder)
    changed.cell_size = cell_size
    return changed.encode(inside), _none(lonlat)


def _as_it_is(encoder: PositionEncoder, lonlat: Tensor) -> tuple[Tensor, Tensor]:
    return encoder(lonlat), _none(lonlat)


_ADAPTERS: dict[type, Callable[..., tuple[Tensor, Tensor]]] = {
    MultiScaleEncoder: _multi_scale,
    NeRF: _octaves,
    RBF: _anchors,
    RFF: _directions,
    SphericalHarmonics: _degrees_below,
    Tile: _cells,
}


def _with(encoder: Any, **buffers: Tensor) -> Any:
    """The same encoder with other buffers; the original stays as it is."""
    changed = copy.copy(encoder)
    changed._buffers = {**encoder._buffers, **buffers}
    return changed


def _none(lonlat: Tensor) -> Float[Tensor, "0"]:
    return lonlat.new_zeros(0, dtype=torch.float64)


class Similarity(nn.Module):
    """How similar places are to one place: <a, p> / (|a| |p|) and <a, p> / <p, p>, as columns (n, 2) in
    float32."""

    def forward(self, features: Float[Tensor, "n d"], place: Float[Tensor, "1 d"]) -> Float[Tensor, "n 2"]:
        dot = (features * place).sum(-1)
        power = (place * place).sum(-1)
        lengths = torch.sqrt((features * features).sum(-1) * power).clamp(min=1e-30)
        return torch.stack([dot / lengths, dot / power.clamp(min=1e-30)], dim=-1)


MEASURES = ("cosine", "dot")
"""The columns of `Similarity`."""


class Meters(nn.Module):
    """Seam gap, pole spread and effective rank from the features of the places `meter_places`, as (3,) float64.

    The first two are the numbers of `tslab.diagnostics.seam_gap` and `tslab.diagnostics.pole_spread`; both
    are 0 for an encoder that gives every place the same features. The third is the effective rank of order
    two, (sum_i s_i^2)^2 / sum_i s_i^4 with the singular values s_i of `tslab.diagnostics.spectrum`: between 1
    and the number of features, it needs no decomposition and never exceeds
    `tslab.diagnostics.effective_rank`.
    """

    def forward(self, features: Float[Tensor, "m d"]) -> Float[Tensor, "3"]:
        random, east, west, south, north = features.double().split([2048, 181, 181, 360, 360])
        typical = (2 * random.var(dim=0, unbiased=False).sum()).sqrt().clamp(min=1e-12)
        weight = torch.cos(torch.deg2rad(torch.linspace(-89.5, 89.5, 181).double()))
        seam = (weight * (east - west).square().sum(-1)).sum() / weight.sum()
        poles = south.var(dim=0, unbiased=False).sum() + north.var(dim=0, unbiased=False).sum()
        products = random.T @ random
        rank = products.diagonal().sum().square() / products.square().sum().clamp(min=1e-30)
        return torch.stack([seam.sqrt() / typical, poles.sqrt() / typical, rank])


def meter_places() -> Float[Tensor, "3130 2"]:
    """The places that `Meters` needs: 2048 random ones, both sides of the date line, both poles at 360
    longitudes."""
    lat = torch.linspace(-89.5, 89.5, 181).double()
    lon = torch.arange(360, dtype=torch.float64) - 180
    random = sample_sphere(2048, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sides = [torch.stack([torch.full_like(lat, s * (180 - EPSILON_DEG)), lat], dim=-1) for s in (1, -1)]
    poles = [torch.stack([lon, torch.full_like(lon, s * 90.0)], dim=-1) for s in (-1, 1)]
    return torch.cat([random, *sides, *poles])


def grid_places(step_deg: float = GRID_STEP_DEG) -> Float[Tensor, "n 2"]:
    """Centres of the cells of a longitude/latitude grid, row by row from the north-west corner, float64."""
    rows, columns = round(180 / step_deg), round(360 / step_deg)
    lat = 90 - (torch.arange(rows, dtype=torch.float64) + 0.5) * step_deg
    lon = (torch.arange(columns, dtype=torch.float64) + 0.5) * step_deg - 180
    return torch.stack([lon.repeat(rows), lat.repeat_interleave(columns)], dim=-1)
