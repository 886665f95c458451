"""Splits that decide what a test means: at random, by spatial block, or with a buffer around the test places.

A random split asks how well a model fills the gaps between places that it has seen. If neighbours resemble each other,
that is an easy question: nearly every test place has a training place next door. A block split asks about regions the
model has never seen, and a buffer makes sure that nothing next door was. Every function here works on plain coordinates
or counts, so you can split any data; all return row numbers or one number per row, and never drop a row silently.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from tslab.coords import EARTH_RADIUS_KM, check_lonlat, has_location, unit_vectors


def random_split(
    n: int, fractions: Sequence[float] = (0.8, 0.1, 0.1), *, seed: int = 0
) -> tuple[Int[Tensor, " m"], ...]:
    """Split ``n`` rows at random into parts whose sizes follow ``fractions`` to the row.

    Returns:
        one sorted int64 tensor of row numbers per fraction; together they hold every row exactly once.

    Raises:
        ValueError: negative fractions, or fractions that do not add up to 1.
    """
    part = np.empty(n, dtype=np.int64)
    part[_rng(seed).permutation(n)] = np.repeat(np.arange(len(fractions)), _sizes(n, fractions))
    return tuple(torch.from_numpy(np.flatnonzero(part == i)) for i in range(len(fractions)))


def block_split(
    lonlat: Float[Tensor, "n 2"],
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    *,
    size_degrees: float | None = None,
    size_km: float | None = None,
    seed: int = 0,
) -> tuple[Int[Tensor, " m"], ...]:
    """Split rows so that each spatial block (`spatial_blocks`) lies in one part as a whole.

    Blocks are taken in random order and each goes to the part that lacks most rows, so sizes come close to
    ``fractions`` but cannot meet them exactly. Rows without location are in no block; they are split at random.

    Returns:
        one sorted int64 tensor of row numbers per fraction; together they hold every row exactly once.

    Raises:
        ValueError: fractions that do not add up to 1, no block size or two of them.
    """
    blocks = spatial_blocks(lonlat, size_degrees=size_degrees, size_km=size_km).cpu().numpy()
    part = _assign_blocks(blocks, np.asarray(_checked(fractions)), seed)
    return tuple(torch.from_numpy(np.flatnonzero(part == i)) for i in range(len(fractions)))


def block_folds(
    lonlat: Float[Tensor, "n 2"],
    num_folds: int = 5,
    *,
    size_degrees: float | None = None,
    size_km: float | None = None,
    seed: int = 0,
) -> Int[Tensor, " n"]:
    """The fold (0 to ``num_folds`` - 1) of each row for spatial k-fold cross-validation; blocks stay whole.

    For fold i, test on ``folds == i`` and train on ``folds != i``. Sizes, seeds and rows without location as in
    `block_split`.
    """
    if num_folds < 2:
        raise ValueError(f"num_folds must be at least 2, got {num_folds}")
    blocks = spatial_blocks(lonlat, size_degrees=size_degrees, size_km=size_km).cpu().numpy()
    return torch.from_numpy(_assign_blocks(blocks, np.full(num_folds, 1 / num_folds), seed))


def buffered_leave_out(
    lonlat: Float[Tensor, "n 2"], test: Int[Tensor, " m"] | Bool[Tensor, " n"], radius_km: float
) -> Int[Tensor, " t"]:
    """Training rows for a given test set: every other row farther than ``radius_km`` from each test place.

    Distances are great-circle distances on the mean sphere. Rows without location are near nothing and stay in.

    Args:
        lonlat: all rows.
        test: the test rows, as numbers or as a mask.
        radius_km: width of the buffer; 0 removes only places that are exactly test places.

    Returns:
        sorted int64 row numbers; disjoint from ``test``. Rows in neither are the buffer.

    Raises:
        ValueError: a negative radius.
    """
    check_lonlat(lonlat)
    if not radius_km >= 0:
        raise ValueError(f"radius_km must not be negative, got {radius_km}")
    is_test = np.zeros(len(lonlat), dtype=bool)
    is_test[test.cpu().numpy()] = True
    located = has_location(lonlat).cpu().numpy()
    xyz = unit_vectors(lonlat.double()).cpu().numpy()
    keep = ~is_test
    candidates = np.flatnonzero(keep & located)
    if (is_test & located).any() and len(candidates):
        angle = min(radius_km / EARTH_RADIUS_KM, np.pi)
        chord = 2 * np.sin(angle / 2)
        nearest, _ = cKDTree(xyz[is_test & located]).query(xyz[candidates])
        keep[candidates[nearest <= chord]] = False
    return torch.from_numpy(np.flatnonzero(keep))


def spatial_blocks(
    lonlat: Float[Tensor, "n 2"], *, size_degrees: float | None = None, size_km: float | None = None
) -> Int[Tensor, " n"]:
    """The block each row lies in, numbered from 0 in no particular order; -1 where the location is missing.

    ``size_degrees`` makes squares on the longitude/latitude plane, starting at (-180, -90): familiar, but a 10 degree
    square at 75° is a quarter of the area of one at the equator. ``size_km`` makes cells of exactly equal area on the
    sphere, about ``size_km`` wide and high: bands of latitude cut into as many cells as fit, with the band
    limits moved so that all cells have the same area. Longitudes 180 and -180 are the same place in both.

    Raises:
        ValueError: none or both sizes given, or one that is not positive or larger than the sphere.
    """
    check_lonlat(lonlat)
    located = has_location(lonlat)
    lon, lat = lonlat[located].detach().double().cpu().numpy().T
    lon = np.where(lon == 180, -180.0, lon)
    if (size_degrees is None) == (size_km is None):
        raise ValueError(
            "give one block size: size_degrees (squares in degrees) or size_km (equal-area cells)"
        )
    if size_degrees is not None:
        if not 0 < size_degrees <= 180:
            raise ValueError(f"size_degrees must be in (0, 180], got {size_degrees}")
        rows = np.minimum(np.floor((lat + 90) / size_degrees), np.ceil(180 / size_degrees) - 1)
        cell = rows * np.ceil(360 / size_degrees) + np.floor((lon + 180) / size_degrees)
    else:
        columns, limits = equal_area_cells(float(size_km))  # type: ignore[arg-type]
        band = np.clip(
            np.searchsorted(limits, np.sin(np.radians(lat)), side="right") - 1, 0, len(columns) - 1
        )
        first = np.cumsum(columns) - columns
        cell = first[band] + np.floor((lon + 180) / 360 * columns[band])
    blocks = torch.full((len(lonlat),), -1, dtype=torch.int64)
    blocks[located.cpu()] = torch.from_numpy(np.unique(cell, return_inverse=True)[1].astype(np.int64))
    return blocks.to(lonlat.device)


def equal_area_cells(size_km: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The grid behind ``spatial_blocks(size_km=...)``: cells per band of latitude and the limits of the bands.

    With n_j cells in band j and N in all, the limits are, in sin(latitude), s_0 = -1 and s_{j+1} = s_j + 2 n_j / N:
    each cell covers the same area, 4 pi R² / N.
    """
    if not 0 < size_km <= np.pi * EARTH_RADIUS_KM:
        raise ValueError(
            f"size_km must be positive and at most half the Earth's circumference, got {size_km}"
        )
    bands = max(2, round(np.pi * EARTH_RADIUS_KM / size_km))
    middle = (np.arange(bands) + 0.5) / bands * np.pi - np.pi / 2
    columns = np.maximum(3, np.round(2 * np.pi * EARTH_RADIUS_KM * np.cos(middle) / size_km)).astype(np.int64)
    limits = np.concatenate([[0], np.cumsum(columns)]) / columns.sum() * 2 - 1
    return columns, limits


def _assign_blocks(blocks: NDArray[np.int64], fractions: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """One part per row: whole blocks in random order to the part that lacks most; rows in no block at random."""
    rng = _rng(seed)
    counts = np.bincount(blocks[blocks >= 0])
    lacking = fractions * counts.sum()
    part_of_block = np.empty(len(counts), dtype=np.int64)
    for block in rng.permutation(len(counts)):
        neediest = int(np.argmax(lacking))
        part_of_block[block] = neediest
        lacking[neediest] -= counts[block]
    part = np.empty(len(blocks), dtype=np.int64)
    part[blocks >= 0] = part_of_block[blocks[blocks >= 0]]
    alone = np.flatnonzero(blocks < 0)
    part[rng.permutation(alone)] = np.repeat(np.arange(len(fractions)), _sizes(len(alone), fractions))
    return part


def _sizes(n: int, fractions: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers that add up to ``n`` and follow ``fractions`` (rounded cumulative sums)."""
    edges = np.round(np.concatenate([[0], np.cumsum(_checked(fractions))]) * n).astype(np.int64)
    edges[-1] = n
    return np.diff(edges)


def _checked(fractions: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    values = np.asarray(fractions, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or (values < 0).any() or abs(values.sum() - 1) > 1e-9:
        raise ValueError(
            f"fractions must be non-negative and add up to 1, got {list(fractions)} (sum {values.sum():g})"
        )
    return values


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, 0x5B117]))
