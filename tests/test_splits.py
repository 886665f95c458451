"""Splits: disjoint, complete, blocks intact, buffers wide enough; and what the sphere does to a grid."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tslab import great_circle_distance, sample_sphere
from tslab.coords import EARTH_RADIUS_KM
from tslab.earth import equal_area_cells, spatial_blocks
from tslab.tasks.splits import (
    block_folds,
    block_split,
    buffered_leave_out,
    random_split,
)


def places(n: int, seed: int, missing: float = 0.1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    lonlat = sample_sphere(n, generator=generator)
    lonlat[torch.rand(n, generator=generator) < missing] = torch.nan
    return lonlat


fractions = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(lambda parts: [p / sum(parts) for p in parts])
sizes = st.one_of(
    st.floats(0.5, 90).map(lambda d: {"size_degrees": d}), st.floats(50, 5000).map(lambda km: {"size_km": km})
)


@given(n=st.integers(0, 300), parts=fractions, seed=st.integers(0, 99))
def test_random_split_is_disjoint_complete_and_of_the_right_size(n: int, parts: list[float], seed: int) -> None:
    split = random_split(n, parts, seed=seed)
    assert torch.equal(torch.cat(split).sort().values, torch.arange(n))
    for rows, fraction in zip(split, parts, strict=True):
        assert abs(len(rows) - fraction * n) <= 1 and torch.equal(rows, rows.sort().values)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 300), parts=fractions, size=sizes, seed=st.integers(0, 99))
def test_block_split_is_disjoint_complete_and_keeps_blocks_whole(
    n: int, parts: list[float], size: dict, seed: int
) -> None:
    lonlat = places(n, seed)
    split = block_split(lonlat, parts, seed=seed, **size)
    assert torch.equal(torch.cat(split).sort().values, torch.arange(n))
    blocks = spatial_blocks(lonlat, **size)
    seen = [set(blocks[rows].tolist()) - {-1} for rows in split]
    assert sum(map(len, seen)) == len(set().union(*seen))


@settings(deadline=None, max_examples=30)
@given(n=st.integers(10, 200), folds=st.integers(2, 6), size=sizes, seed=st.integers(0, 9))
def test_folds_keep_blocks_whole(n: int, folds: int, size: dict, seed: int) -> None:
    lonlat = places(n, seed)
    fold = block_folds(lonlat, folds, seed=seed, **size)
    assert int(fold.min()) >= 0 and int(fold.max()) < folds
    blocks = spatial_blocks(lonlat, **size)
    for block in set(blocks.tolist()) - {-1}:
        assert len(set(fold[blocks == block].tolist())) == 1


@settings(deadline=None, max_examples=30)
@given(n=st.integers(2, 200), radius=st.floats(0, 20_100), seed=st.integers(0, 99))
def test_buffer_is_exactly_the_rows_within_the_radius(n: int, radius: float, seed: int) -> None:
    lonlat = places(n, seed).double()
    test = torch.arange(0, n, 3)
    train = buffered_leave_out(lonlat, test, radius)
    nearest = great_circle_distance(lonlat[:, None], lonlat[None, test]).nan_to_num(torch.inf).amin(1)
    expected = nearest > radius
    expected[test] = False
    on_the_edge = (nearest - radius).abs() < 1e-6
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[train] = True
    assert torch.equal(chosen | on_the_edge, expected | on_the_edge)


def test_buffer_reaches_across_the_date_line_and_over_the_pole() -> None:
    lonlat = torch.tensor([[179.9, 0.0], [-179.9, 0.0], [0.0, 89.9], [180.0, 89.9], [0.0, 0.0]])
    test = torch.tensor([True, False, True, False, False])
    assert buffered_leave_out(lonlat, test, 30.0).tolist() == [4]


def test_blocks_close_over_the_date_line() -> None:
    edge = torch.tensor([[180.0, 10.0], [-180.0, 10.0]])
    for size in ({"size_degrees": 10.0}, {"size_km": 500.0}):
        assert spatial_blocks(edge, **size).tolist() == [0, 0]


def test_poles_and_missing_places_have_their_blocks() -> None:
    lonlat = torch.tensor([[0.0, 90.0], [0.0, -90.0], [math.nan, math.nan]])
    for size in ({"size_degrees": 7.0}, {"size_km": 400.0}):
        blocks = spatial_blocks(lonlat, **size)
        assert blocks[2] == -1 and blocks[0] != blocks[1] and int(blocks.min()) == -1


@pytest.mark.parametrize("size_km", [200.0, 1000.0, 5000.0])
def test_cells_have_equal_area_and_the_right_size(size_km: float) -> None:
    columns, limits = equal_area_cells(size_km)
    area = 2 * math.pi * EARTH_RADIUS_KM**2 * np.diff(limits) / columns
    np.testing.assert_allclose(area, 4 * math.pi * EARTH_RADIUS_KM**2 / columns.sum(), rtol=1e-9)
    assert area[0] == pytest.approx(size_km**2, rel=0.15)


def test_uniform_places_fill_equal_area_cells_evenly() -> None:
    lonlat = sample_sphere(200_000, generator=torch.Generator().manual_seed(1))
    counts = torch.bincount(spatial_blocks(lonlat, size_km=2000.0)).double()
    chi2 = ((counts - counts.mean()) ** 2 / counts.mean()).sum() / (len(counts) - 1)
    assert 0.6 < float(chi2) < 1.5


def test_block_splits_come_close_to_the_fractions() -> None:
    parts = block_split(places(5000, 3, missing=0), (0.8, 0.1, 0.1), size_degrees=5)
    assert [len(p) / 5000 for p in parts] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


def test_a_seed_is_a_split() -> None:
    lonlat = places(500, 0)
    one, two, other = (block_split(lonlat, size_degrees=10, seed=s) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[2], other[2])


def test_a_block_split_keeps_test_places_farther_from_training_places() -> None:
    lonlat = places(3000, 5, missing=0)

    def median_gap(train: torch.Tensor, test: torch.Tensor) -> float:
        return float(great_circle_distance(lonlat[test][:, None], lonlat[train][None]).amin(1).median())

    by_chance, by_block = random_split(3000, (0.8, 0.2)), block_split(lonlat, (0.8, 0.2), size_km=2000)
    assert median_gap(*by_block) > 2 * median_gap(*by_chance)


def test_folds_without_rows_are_reported() -> None:
    """A hundred places in one block of ten degrees cannot make five folds."""
    crowd = torch.rand(100, 2, generator=torch.Generator().manual_seed(0)) + 5
    with pytest.warns(UserWarning, match=r"fold 1, 2, 3, 4 of 5 has no rows.*1 blocks; use smaller blocks"):
        fold = block_folds(crowd, 5, size_degrees=10.0)
    assert fold.tolist() == [0] * 100
    with pytest.warns(UserWarning, match="part 1, 2 of 3 has no rows"):
        block_split(crowd, size_km=5000)


def test_other_splits_without_rows_are_reported() -> None:
    with pytest.warns(UserWarning, match="part 1 of 2 has no rows"):
        random_split(3, (0.9, 0.1))
    with pytest.warns(UserWarning, match="all 9 lie within 300 km of a test place"):
        assert len(buffered_leave_out(torch.ones(10, 2), torch.tensor([0]), 300)) == 0


def test_parts_that_should_be_empty_are_no_news() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        random_split(10, (1.0, 0.0))
        random_split(0)
        block_folds(places(200, 0), 5, size_degrees=10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: random_split(10, (0.5, 0.6)), "add up to 1"),
        (lambda x: random_split(10, (1.5, -0.5)), "non-negative"),
        (lambda x: block_split(x), "give one block size"),
        (lambda x: block_split(x, size_km=10, size_degrees=1), "give one block size"),
        (lambda x: spatial_blocks(x, size_degrees=0), "size_degrees"),
        (lambda x: spatial_blocks(x, size_km=30_000), "size_km"),
        (lambda x: block_folds(x, 1, size_km=100), "num_folds"),
        (lambda x: buffered_leave_out(x, torch.tensor([0]), -1), "radius_km"),
        (lambda x: buffered_leave_out(x, torch.tensor([0]), math.inf), "radius_km"),
        (lambda x: buffered_leave_out(x, torch.tensor([99]), 1), "test names rows 99"),
        (lambda x: buffered_leave_out(x, torch.tensor([-1]), 1), "test names rows -1"),
        (lambda x: buffered_leave_out(x, torch.tensor([0, 1, 0, 1]), 1), "more than once"),
        (lambda x: buffered_leave_out(x, torch.tensor([True]), 1), "test has 1 entries"),
        (lambda x: random_split(10, (math.nan, 0.5)), "add up to 1"),
        (lambda x: random_split(10, ()), "add up to 1"),
        (lambda x: random_split(-1), "n must be"),
        (lambda x: random_split(10, seed=-1), "seed must be"),
        (lambda x: spatial_blocks(x, size_degrees=math.nan), "size_degrees"),
        (lambda x: spatial_blocks(x, size_degrees=1e-300), "size_degrees"),
        (lambda x: spatial_blocks(x, size_km=1e-9), "size_km"),
        (lambda x: spatial_blocks(x, size_km=math.inf), "size_km"),
        (lambda x: block_folds(x, 2.5, size_km=100), "num_folds"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call(places(10, 0))
