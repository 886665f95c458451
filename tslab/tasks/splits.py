"""Splits that decide what a test means: at random, by spatial block, or with a buffer around the test places.

A random split asks how well a model fills the gaps between places that it has seen. If neighbours resemble each other,
that is an easy question: nearly every test place has a training place next door. A block split asks about regions the
model has never seen, and a buffer makes sure that nothing next door was. Every function here works on plain coordinates
or counts, so you can split any data; all return row numbers or one number per row, never drop a row silently, and warn
where a part that should have rows has none.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from tslab._checks import check_count, check_number
from tslab.coords import EARTH_RADIUS_KM, check_lonlat, has_location, unit_vectors
from tslab.earth import spatial_blocks
from tslab.tasks.columns import read_rows
from tslab.tasks.table import Table


def random_split(
    n: int, fractions: Sequence[float] = (0.8, 0.1, 0.1), *, seed: int = 0
) -> tuple[Int[Tensor, " m"], ...]:
    """Split ``n`` rows at random into parts whose sizes follow ``fractions`` to the row.

    Returns:
        one sorted int64 tensor of row numbers per fraction; together they hold every row exactly once.

    Raises:
        ValueError: negative fractions, or fractions that do not add up to 1.
    """
    part = _assign(np.full(check_count("n", n, at_least=0), -1), fractions, seed)
    return tuple(torch.from_numpy(np.flatnonzero(part == i)) for i in range(len(fractions)))


def block_split(
    lonlat: Float[Tensor, "n 2"],
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    *,
    size_degrees: float | None = None,
    size_km: float | None = None,
    seed: int = 0,
) -> tuple[Int[Tensor, " m"], ...]:
    """Split rows so that each spatial block (`tslab.earth.spatial_blocks`) lies in one part as a whole.

    Blocks are taken in random order and each goes to the part that lacks most rows, so sizes come close to
    ``fractions`` but cannot meet them exactly. Rows without location are in no block; they are split at random.

    Returns:
        one sorted int64 tensor of row numbers per fraction; together they hold every row exactly once.

    Raises:
        ValueError: fractions that do not add up to 1, no block size or two of them.
    """
    blocks = spatial_blocks(lonlat, size_degrees=size_degrees, size_km=size_km)
    part = _assign(blocks.cpu().numpy(), fractions, seed)
    return tuple(torch.from_numpy(np.flatnonzero(part == i)) for i in range(len(fractions)))


def split_table(
    table: Table, fractions: Sequence[float], *, seed: int = 0, size_degrees: float | None, size_km: float | None
) -> tuple[list[Table], str]:
    """The rows of a table in parts, split by `random_split`, or by `block_split` where a block size is given, and how
    that was, in words. The parts know the blocks that they were split by, and forget those of an earlier split."""
    whole = table.in_blocks(size_degrees=size_degrees, size_km=size_km)
    if size_degrees is None and size_km is None:
        return [whole.where(part) for part in random_split(len(table), fractions, seed=seed)], "at random"
    parts = block_split(table.lonlat, fractions, size_degrees=size_degrees, size_km=size_km, seed=seed)
    size = f"spatial blocks of {size_degrees:g} degrees" if size_km is None else f"equal-area blocks of {size_km:g} km"
    return [whole.where(part) for part in parts], f"in {size}"


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
    `block_split`. Where there are fewer blocks than folds, some folds stay empty, and a warning says so.

    Raises:
        ValueError: fewer than two folds, no block size or two of them.
    """
    num_folds = check_count("num_folds", num_folds, at_least=2)
    blocks = spatial_blocks(lonlat, size_degrees=size_degrees, size_km=size_km)
    return torch.from_numpy(_assign(blocks.cpu().numpy(), [1 / num_folds] * num_folds, seed, what="fold"))


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
        ValueError: a radius that is negative or not finite, test rows that are not there, are named twice, or a mask
            of another length.
    """
    check_lonlat(lonlat)
    check_number("radius_km", radius_km, at_least=0)
    rows, n = read_rows("test", test, len(lonlat)).cpu().numpy().astype(np.int64), len(lonlat)
    if rows.size and (rows.min() < 0 or rows.max() >= n):
        raise ValueError(f"test names rows {rows.min()} to {rows.max()}, there are {n} (0 to {n - 1})")
    count = np.bincount(rows, minlength=n)
    if (count > 1).any():
        raise ValueError("test names a row more than once; a mask must hold truth values (.bool())")
    is_test = count == 1
    located = has_location(lonlat).cpu().numpy()
    xyz = unit_vectors(lonlat.double()).cpu().numpy()
    keep = ~is_test
    candidates = np.flatnonzero(keep & located)
    if (is_test & located).any() and len(candidates):
        chord = 2 * np.sin(min(radius_km / EARTH_RADIUS_KM, np.pi) / 2)
        nearest, _ = cKDTree(xyz[is_test & located]).query(xyz[candidates])
        keep[candidates[nearest <= chord]] = False
    if not keep.any() and not is_test.all():
        warnings.warn(
            f"no training row is left: all {int((~is_test).sum()):,} lie within {radius_km:g} km of a test place; use "
            "a smaller radius_km, or fewer test rows",
            stacklevel=2,
        )
    return torch.from_numpy(np.flatnonzero(keep))


def _assign(blocks: NDArray[np.int64], fractions: Sequence[float], seed: int, what: str = "part") -> NDArray[np.int64]:
    """One part per row: whole blocks in random order to the part that lacks most; rows in no block (-1) at random."""
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.ndim != 1 or not (len(shares) and (shares >= 0).all() and abs(shares.sum() - 1) <= 1e-9):
        raise ValueError(f"fractions must be non-negative and add up to 1, got {list(fractions)}")
    rng = np.random.Generator(np.random.Philox(key=[check_count("seed", seed, at_least=0), 0x5B117]))
    inside = blocks >= 0
    counts = np.bincount(blocks[inside])
    lacking = shares * counts.sum()
    part_of_block = np.empty(len(counts), dtype=np.int64)
    for block in rng.permutation(len(counts)):
        part_of_block[block] = np.argmax(lacking)
        lacking[part_of_block[block]] -= counts[block]
    part = np.empty(len(blocks), dtype=np.int64)
    part[inside] = part_of_block[blocks[inside]]
    alone = np.flatnonzero(~inside)
    edges = np.round(np.cumsum(shares) * len(alone)).astype(np.int64)  # sizes that follow the shares to the row
    edges[-1] = len(alone)
    part[rng.permutation(alone)] = np.repeat(np.arange(len(shares)), np.diff(edges, prepend=0))
    sizes = np.bincount(part, minlength=len(shares))
    empty = np.flatnonzero((sizes == 0) & (shares > 0)).tolist()
    if len(part) and empty:
        hint = f"the places lie in {len(counts)} blocks; use smaller blocks, or fewer parts"
        if len(counts) == 0:
            hint = "give the part a larger fraction, or split more rows"
        listed = ", ".join(map(str, empty[:8])) + (" …" if len(empty) > 8 else "")
        message = f"{what} {listed} of {len(shares)} has no rows ({len(part):,} rows in all): {hint}"
        warnings.warn(message, stacklevel=3)
    return part
