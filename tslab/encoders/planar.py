"""Encoders that treat longitude and latitude as a plane: tile, wrap, rbf, rff and the two Space2Vec encoders.

They are simple and strong in the middle latitudes, where most labelled data lies. What the plane costs them
shows at the date line and at the poles: every class says which of the two it gets right.
"""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tslab._checks import check_count, check_number
from tslab.coords import check_lonlat, has_location, sample_sphere
from tslab.encoders.base import QUARTER, MultiScaleEncoder, PositionEncoder, WaveEncoder, interleave, sin_cos, sin_turns

GLOBE = (-180.0, 180.0, -90.0, 90.0)
"""The whole globe as an extent: (lon_min, lon_max, lat_min, lat_max) in degrees."""

Extent = tuple[float, float, float, float]


class Tile(PositionEncoder):
    """Tile: one learned vector for each cell of a regular longitude/latitude grid.

    PE(lon, lat) = table[row * n_cols + col],
    col = floor((lon - lon_min) / cell_size), row = floor((lat - lat_min) / cell_size).

    Places outside the extent belong to its nearest edge cell; when the extent spans 360 degrees, longitude
    180 is longitude -180. The table (cells, ``num_features``) starts as N(0, 1 / num_features).

    The released code of the benchmark never passes its cell size on: the default of 1,000,000 degrees makes
    one single cell, and the published ``tile`` rows are a constant. ``preset="locbench2024"`` restores that
    cell.

    Date line: single-valued, but every cell edge is a jump. Poles: each pole is split between the cells of
    its row.

    Args:
        cell_size: side of a cell in degrees.
        num_features: width of the table.
        extent: (lon_min, lon_max, lat_min, lat_max) in degrees.
        generator: random source of the initial table.

    Source: Tang et al., Improving image classification with location context, ICCV 2015; Mai et al., ICLR
    2020 (baseline "tile").
    """

    def __init__(
        self,
        cell_size: float = 5.0,
        num_features: int = 256,
        extent: Extent = GLOBE,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_number("cell_size", cell_size, above=0, hint="it is in degrees")
        num_features = check_count("num_features", num_features)
        self.extent = lon_min, lon_max, lat_min, lat_max = check_extent(extent)
        self.cell_size = cell_size
        self.n_cols = math.ceil((lon_max - lon_min) / cell_size)
        self.n_rows = math.ceil((lat_max - lat_min) / cell_size)
        if self.n_cols * self.n_rows * num_features > 2**31:
            cells = f"{self.n_rows} x {self.n_cols} cells"
            raise ValueError(f"cell_size={cell_size} makes {cells}, a table of over 8 GB; choose larger cells")
        self.out_features = self.num_features = num_features
        table = torch.randn((self.n_rows * self.n_cols, num_features), generator=generator)
        self.table = nn.Parameter(table / math.sqrt(num_features))

    def cell_index(self, lonlat: Float[Tensor, "n 2"]) -> Tensor:
        """Row number in the table of each place, (n,) int64; cell 0 for a missing place."""
        lon_min, lon_max, lat_min, _ = self.extent
        lon, lat = lonlat.double().nan_to_num().unbind(-1)
        col = ((lon - lon_min) / self.cell_size).floor().long()
        row = ((lat - lat_min) / self.cell_size).floor().long().clamp(0, self.n_rows - 1)
        if lon_max - lon_min == 360:
            col = torch.where(lon >= lon_max, torch.zeros_like(col), col)
        return row * self.n_cols + col.clamp(0, self.n_cols - 1)

    def encode(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n out_features"]:
        features = nn.functional.embedding(self.cell_index(lonlat), self.table)
        present = has_location(lonlat)[:, None]
        return torch.where(present, features, torch.full_like(features, math.nan)).to(lonlat.dtype)


class Wrap(WaveEncoder):
    """Wrap: one sine and one cosine for each coordinate, which closes the map at the date line.

    PE(lon, lat) = [sin(pi u), sin(pi v), cos(pi u), cos(pi v)], u = lon / 180, v = lat / 90.

    The same four numbers feed a residual network (key ``wrap``) or the ordinary one (key ``wrap_ffn``).

    Date line: continuous. Poles: longitude still matters there, and because latitude has a period of 180
    degrees, the North and the South Pole get the same values.

    Source: Mac Aodha et al., Presence-only geographical priors for fine-grained image classification, ICCV
    2019.
    """

    out_features = 4

    def __init__(self) -> None:
        super().__init__(torch.tensor([1 / 360, 1 / 180], dtype=torch.float64, device="cpu"))

    def encode(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n 4"]:
        return torch.cat(sin_cos(lonlat, self.frequencies, lonlat.dtype), dim=-1)


class RBF(PositionEncoder):
    """RBF: similarity to M anchor places, a Gaussian of the distance on the longitude/latitude plane.

    PE_m(x) = exp(-|x - a_m|^2 / (2 sigma^2)), with x, a_m and sigma in degrees.

    The benchmark draws its anchors from the training places: pass those as ``anchors``. Without ``anchors``,
    ``num_anchors`` places are drawn uniformly from the sphere. Anchors are a buffer, saved with the weights.
    (The released code draws them anew at every start and does not store them, so its rbf checkpoints cannot
    be restored.)

    Date line: a break, an anchor at 179 degrees does not see -179. Poles: longitude still matters.

    Args:
        num_anchors: number of anchors to draw when ``anchors`` is not given.
        kernel_size: sigma in degrees.
        anchors: (m, 2) anchor places in degrees.
        generator: random source of drawn anchors.

    Source: Mai et al., ICLR 2020 (baseline "rbf").
    """

    anchors: Tensor

    def __init__(
        self,
        num_anchors: int | None = None,
        kernel_size: float = 2.0,
        anchors: Float[Tensor, "m 2"] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_number("kernel_size", kernel_size, above=0, hint="it is sigma, in degrees")
        if anchors is None:
            count = check_count("num_anchors", 200 if num_anchors is None else num_anchors)
            anchors = sample_sphere(count, generator=generator)
        elif num_anchors not in (None, len(anchors)):
            raise ValueError(f"num_anchors={num_anchors} but {len(anchors)} anchors are given; leave num_anchors out")
        if len(check_lonlat(anchors, name="anchors")) == 0 or not bool(has_location(anchors).all()):
            raise ValueError("anchors must hold at least one place and no missing ones; see tslab.has_location")
        self.kernel_size = kernel_size
        self.out_features = self.num_anchors = len(anchors)
        # (m, 2), but column by column in memory: a compiled encoder then reads each coordinate in one sweep
        self.register_buffer("anchors", anchors.detach().T.clone(memory_format=torch.contiguous_format).T)

    def encode(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n out_features"]:
        lon, lat = lonlat.unbind(-1)
        anchor_lon, anchor_lat = self.anchors.to(lonlat.dtype).unbind(-1)
        squared_degrees = (lon[:, None] - anchor_lon) ** 2 + (lat[:, None] - anchor_lat) ** 2
        # 2^(x / ln 2) = e^x, without the slow path of exp for results near zero, which most of them are
        return torch.exp2(squared_degrees * (-0.5 / (self.kernel_size**2 * math.log(2))))


class RFF(PositionEncoder):
    """RFF: random Fourier features, waves in random directions over the map.

    PE(x) = sqrt(2 / F) cos(W x' + b), x' the coordinates scaled to [-1, 1] over the extent,
    W ~ N(0, s^2 I), b ~ U[0, 2 pi).

    <PE(x), PE(y)> approximates the Gaussian kernel exp(-s^2 |x' - y'|^2 / 2). ``kernel_size`` is the variance
    s^2 of the directions, the name that the released code gives it: a larger value is a *narrower* kernel.

    The directions and shifts are buffers, saved with the weights; the extent is part of the saved
    configuration. (Reloading a released checkpoint with another extent cost up to 66 points of accuracy.)

    Date line: a break. Poles: longitude still matters.

    Args:
        num_scales: F, the number of features.
        kernel_size: variance of the random directions.
        extent: (lon_min, lon_max, lat_min, lat_max) in degrees, mapped to [-1, 1].
        generator: random source of directions and shifts.

    Source: Rahimi and Recht, Random features for large-scale kernel machines, NeurIPS 2007.
    """

    directions: Tensor
    shift: Tensor

    def __init__(
        self,
        num_scales: int = 64,
        kernel_size: float = 1.0,
        extent: Extent = GLOBE,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.out_features = self.num_scales = check_count("num_scales", num_scales, hint="it is the number of features")
        check_number("kernel_size", kernel_size, above=0, hint="it is the variance of the directions")
        self.extent = check_extent(extent)
        self.kernel_size = kernel_size
        self.register_buffer("directions", torch.randn((num_scales, 2), generator=generator) * math.sqrt(kernel_size))
        self.register_buffer("shift", torch.rand(num_scales, generator=generator) * (2 * math.pi))

    def encode(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n out_features"]:
        lon_min, lon_max, lat_min, lat_max = self.extent
        lon, lat = lonlat.unbind(-1)
        x = 2 * (lon - lon_min) / (lon_max - lon_min) - 1
        y = 2 * (lat - lat_min) / (lat_max - lat_min) - 1
        directions, shift = self.directions.to(lonlat.dtype), self.shift.to(lonlat.dtype)
        phase = x[:, None] * directions[:, 0] + y[:, None] * directions[:, 1] + shift
        return math.sqrt(2 / self.out_features) * torch.cos(phase)


class Space2VecGrid(MultiScaleEncoder):
    """Space2Vec-grid: sine and cosine of each coordinate at many scales.

    PE(lon, lat) = for each coordinate c, for each scale f: sin(c / s_f), cos(c / s_f), with c in degrees
    taken as the number itself (not converted to radians); s_f geometric from ``min_radius`` to ``max_radius``
    (see `tslab.encoders.geometric_scales`).

    The wavelength of scale f is 2 pi s_f degrees: 6.3 ``min_radius`` at the finest.

    Date line: a break, 360 degrees is no multiple of the wavelengths. Poles: longitude still matters.

    Args:
        num_scales: F; `out_features` is 4 F.
        min_radius: finest scale, in degrees.
        max_radius: coarsest scale, in degrees.

    Source: Mai et al., Multi-scale representation learning for spatial feature distributions using grid
    cells, ICLR 2020.
    """

    turns_per_unit: ClassVar[float] = 1 / (2 * math.pi)

    def __init__(self, num_scales: int = 64, min_radius: float = 0.01, max_radius: float = 360.0) -> None:
        super().__init__(num_scales, min_radius, max_radius)
        self.out_features = 4 * num_scales

    def encode(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n out_features"]:
        f, zero = self.frequencies, torch.zeros_like(self.frequencies)
        turns = lonlat.double()[:, :, None] * interleave(f, f)  # (n, coordinate, 2 f)
        ahead = interleave(zero, zero + QUARTER)  # sine, cosine
        return sin_turns(turns + ahead, lonlat.dtype).flatten(1)


class Space2VecTheory(MultiScaleEncoder):
    """Space2Vec-theory: waves in three directions 120 degrees apart, at many scales.

    PE(x) = for each scale f, for each direction v_j: sin(<x, v_j> / s_f), cos(<x, v_j> / s_f), with
    x = (lon, lat) in degrees taken as numbers and v_j the unit vectors at 0, 120 and 240 degrees; s_f as in
    `Space2VecGrid`. It is modelled on the grid cells of the mammalian brain.

    Within one scale the kernel <PE(x), PE(y)> depends on the difference x - y only, and is nearly round for
    short distances *on the map* (on the globe it is not: a degree of longitude shrinks towards the poles).

    Date line: a break. Poles: longitude still matters.

    Args:
        num_scales: F; `out_features` is 6 F.
        min_radius: finest scale, in degrees.
        max_radius: coarsest scale, in degrees.

    Source: Mai et al., ICLR 2020; Gao et al., Learning grid cells as vector representation of self-position,
    ICLR 2019.
    """

    turns_per_unit: ClassVar[float] = 1 / (2 * math.pi)
    directions: Tensor

    def __init__(self, num_scales: int = 64, min_radius: float = 0.01, max_radius: float = 360.0) -> None:
        super().__init__(num_scales, min_radius, max_radius)
        self.out_features = 6 * num_scales
        half, high = 1 / 2, math.sqrt(3) / 2
        directions = [[1.0, 0.0], [-half, high], [-half, -high]]
        self.register_constant("directions", torch.tensor(directions, dtype=torch.float64, device="cpu"))

    def encode(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n out_features"]:
        f, zero = self.frequencies, torch.zeros_like(self.frequencies)
        east, north = (
            interleave(*(f * component for component in components.repeat_interleave(2)))
            for components in self.directions.T
        )  # turns per degree of each feature
        ahead = interleave(*[zero, zero + QUARTER] * 3)  # sine, cosine of each direction
        lon, lat = lonlat.double().split(1, dim=-1)
        return sin_turns(lon * east + lat * north + ahead, lonlat.dtype)


def check_extent(extent: Extent) -> Extent:
    """Return ``extent`` as four floats.

    Raises:
        ValueError: not four finite numbers (lon_min, lon_max, lat_min, lat_max) in increasing pairs.
    """
    try:
        lon_min, lon_max, lat_min, lat_max = (float(check_number("extent", value)) for value in extent)
    except (TypeError, ValueError):
        lon_min = lon_max = lat_min = lat_max = math.nan
    if not (lon_min < lon_max and lat_min < lat_max):
        raise ValueError(f"extent must be degrees with lon_min < lon_max and lat_min < lat_max, got {extent}")
    return lon_min, lon_max, lat_min, lat_max
