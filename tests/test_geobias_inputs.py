"""Geo-bias takes places, rows and outcomes of every common kind, and refuses what cannot be meant by its name."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.test_geobias import cluster, coin, dense_weights
from tslab import geobias, sample_sphere
from tslab.geobias.neighbors import neighbor_graph
from tslab.geobias.weights import weight_graphs
from tslab_book.walkthrough import background_grid

RADIUS = 0.05


def test_a_mask_of_centres_means_the_rows_where_it_is_true() -> None:
    lonlat, hits = cluster(30), coin(30)
    rows = torch.tensor([0, 1, 7, 20])
    mask = torch.zeros(30, dtype=torch.bool)
    mask[rows] = True
    whole = geobias.ssi(lonlat, hits, radius_rad=RADIUS)
    for centers in (
        mask,
        mask.numpy(),
        pd.Series(mask.numpy(), index=range(5, 35)),
        mask.tolist(),
        rows.tolist(),
    ):
        found = geobias.ssi(lonlat, hits, radius_rad=RADIUS, centers=centers)
        assert torch.equal(found.rows, rows) and torch.equal(found.score, whole.score[rows])
        parts = geobias.sri(lonlat, hits, radius_rad=RADIUS, centers=centers, min_samples=1)
        assert torch.equal(parts.rows, rows)
    nobody = geobias.ssi(lonlat, hits, radius_rad=RADIUS, centers=torch.zeros(30, dtype=torch.bool))
    assert len(nobody.score) == 0 and len(geobias.ssi(lonlat, hits, radius_rad=RADIUS, centers=[]).score) == 0


@pytest.mark.parametrize(
    ("centers", "message"),
    [
        (torch.ones(29, dtype=torch.bool), "mask of 29 rows, but there are 30"),
        ([0, 5, 30], r"centers\[2\] = 30 is not a row: there are 30"),
        (np.array([3, -1]), r"centers\[1\] = -1 is not a row"),
        ([[0, 1]], "one dimension"),
        (["a"], "centers must hold numbers"),
        (torch.arange(30) % 2, "mask must be bool"),
        (torch.ones(30, dtype=torch.uint8), "mask must be bool"),
    ],
)
def test_rows_that_are_not_there_are_named(centers: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        neighbor_graph(cluster(30), radius_rad=RADIUS, centers=centers)


def test_an_index_of_a_result_must_exist() -> None:
    graph = neighbor_graph(cluster(30), radius_rad=RADIUS)
    two = geobias.ssi(graph, torch.stack([coin(30), coin(30, 1)], 1))
    for wrong in (2, -1, 0.5, True):
        with pytest.raises(ValueError, match="index"):
            two.select(wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="center"):
            graph.rows_of(30 if wrong == 2 else wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one model"):
        two.select(0).select(0)


def test_series_arrays_and_lists_are_taken_by_position() -> None:
    lonlat, hits = cluster(40), coin(40)
    expected = geobias.ssi(lonlat, hits, radius_rad=RADIUS).score
    frame = pd.DataFrame(lonlat.numpy(), columns=["lon", "lat"], index=range(3, 43))
    series = pd.Series(hits.numpy(), index=range(1, 41))
    for outcome in (
        series,
        series.astype("Int64"),
        series.astype(bool),
        series.astype("boolean"),
        series.tolist(),
    ):
        assert torch.equal(geobias.ssi(lonlat, outcome, radius_rad=RADIUS).score, expected)
    assert torch.equal(geobias.ssi(frame, hits.numpy()[::-1].copy()[::-1], radius_rad=RADIUS).score, expected)
    graph = neighbor_graph(frame, radius_rad=RADIUS)
    assert torch.equal(geobias.local_moran(graph, series).statistic, geobias.local_moran(graph, hits).statistic)
    summed = geobias.summary(frame, series, radius_rad=RADIUS, num_resamples=20)
    assert summed.mean == geobias.summary(lonlat, hits, radius_rad=RADIUS, num_resamples=20).mean
    relative = {"radius_rad": RADIUS, "min_samples": 2}
    assert torch.equal(geobias.sri(frame, series, **relative).score, geobias.sri(lonlat, hits, **relative).score)
    pair = {"num_seeds": 1, "max_centers": 10, "min_samples": 1}
    assert geobias.base_and_relative(frame, series, **pair).num_centers == 10
    rows = [graph.rows_of(i) for i in range(40)]
    indptr = np.cumsum([0, *map(len, rows)])
    given = geobias.ssi(frame, hits, radius_rad=RADIUS, neighbors=(indptr, torch.cat(rows).tolist()))
    assert torch.equal(given.score, expected)
    assert torch.equal(geobias.ssi(lonlat, hits, radius_rad=RADIUS, k=np.int64(4)).score, expected)
    with pytest.raises(ValueError, match="shape"):
        geobias.ssi(lonlat, hits[:5], radius_rad=RADIUS, marks="unmarked")


def test_a_graph_is_scored_like_its_samples() -> None:
    lonlat, hits = cluster(50), coin(50)
    graph = neighbor_graph(lonlat, radius_km=300)
    for kwargs in ({}, {"preset": "pygbs2025"}, {"marks": "raw", "k": 3, "density": 9000.0}):
        one = geobias.ssi(graph, hits, **kwargs)
        assert torch.equal(
            one.score.nan_to_num(), geobias.ssi(lonlat, hits, radius_km=300, **kwargs).score.nan_to_num()
        )
        same = geobias.ssi(lonlat, hits, neighbors=graph, radius_km=300, **kwargs)
        assert torch.equal(one.score.nan_to_num(), same.score.nan_to_num())
    here, there = (
        geobias.summary(s, hits, num_resamples=30, **at) for s, at in ((graph, {}), (lonlat, {"radius_km": 300}))
    )
    assert here.to_series().equals(there.to_series())
    with pytest.raises(ValueError, match="radius of"):
        geobias.ssi(graph, hits, radius_km=200)
    with pytest.raises(TypeError, match="radius"):
        geobias.ssi(graph, hits, radius=200)


@pytest.mark.parametrize("k", [2, 3, 5, 6, 7, 12])
def test_lonely_samples_among_crowds_have_the_graph_of_all_distances(k: int) -> None:
    alone = torch.tensor([[60.0, 20.0], [80.0, 20.0], [80.2, 20.1], [100.0, -20.0]], dtype=torch.float64)
    crowds = [cluster(n, seed=n, center=(-150.0 + 4 * n, -10.0), spread=0.5) for n in range(3, 25, 7)]
    for lonlat in (alone, torch.cat([alone, *crowds])):
        graph = neighbor_graph(lonlat, radius_rad=RADIUS)
        for chunk in weight_graphs(graph, k):
            begin = 0
            for j, size in enumerate(chunk.n.tolist()):
                weights, _ = dense_weights(graph, chunk.first + j, k)
                rows = slice(begin, begin + size)
                assert torch.equal(chunk.in_degree[rows].double(), weights.sum(0)[:size])
                assert float(chunk.s1[j]) == float((weights + weights.T).square().sum() / 2)
                assert float(chunk.s2[j]) == float((weights.sum(0) + weights.sum(1)).square().sum())
                begin += size


@pytest.mark.parametrize("k", [33, 120])
def test_a_large_k_is_the_graph_of_all_distances_too(k: int) -> None:
    graph = neighbor_graph(cluster(130, spread=0.4), radius_rad=RADIUS, centers=[0, 50])
    first = next(weight_graphs(graph, k))
    weights, _ = dense_weights(graph, 0, k, bits=26)
    assert torch.equal(first.in_degree[:100].double(), weights.sum(0)[:100])
    assert float(first.s1[0]) == float((weights + weights.T).square().sum() / 2)
    assert float(first.s2[0]) == float((weights.sum(0) + weights.sum(1)).square().sum())


SSI = [
    ({"radius_km": math.nan}, "radius_km"),
    ({"radius_km": math.inf}, "radius_km"),
    ({"radius_km": -5}, "radius_km"),
    ({"radius_km": 10_008}, "radius_km"),
    ({"radius_km": "100"}, "radius_km"),
    ({"radius_rad": True}, "radius_rad"),
    ({"radius_km": 100, "k": 1_000_000}, "k must"),
    ({"radius_km": 100, "k": 4.0}, "k must"),
    ({"radius_km": 100, "max_neighbors": 2.5}, "max_neighbors"),
    ({"radius_km": 100, "density": math.nan}, "density"),
    ({"radius_km": 100, "density": "many"}, "density"),
    ({"radius_km": 100, "density": 1e15}, "density"),
    ({"radius_km": 100, "marks": ""}, "marks .* is not known"),
    ({"radius_km": 100, "moments": "fixed"}, "moments .* is not known"),
    ({"radius_km": 100, "form": "log"}, "form .* is not known"),
    ({"radius_km": 100, "preset": "pygbs"}, "preset .* is not known"),
    ({"radius_km": 100, "neighbors": "queen"}, "pair"),
    ({"radius_km": 100, "neighbors": (torch.arange(1, 12), torch.zeros(11).long())}, "from 0"),
    (
        {"radius_km": 100, "neighbors": (torch.arange(11), torch.arange(10) + 1)},
        "indices of neighbors.9. = 10",
    ),
]
SRI = [
    ({"radius_km": math.nan}, "radius_km"),
    ({"radius_km": 100, "partition": "rings"}, "partition"),
    ({"radius_km": 100, "size": math.nan}, "size"),
    ({"radius_km": 100, "size": -1.0}, "size"),
    ({"radius_km": 100, "size": 2.0}, "size"),
    ({"radius_km": 100, "size": 1e-12}, "size"),
    ({"radius_km": 100, "size": 1e-12, "partition": "scale_grid"}, "size"),
    ({"radius_km": 100, "size": 1e9, "partition": "direction_sector"}, "size"),
    ({"radius_km": 100, "size": 2.5, "partition": "direction_sector"}, "whole number"),
    ({"radius_km": 100, "min_samples": 0}, "min_samples"),
    ({"radius_km": 100, "histogram": "old"}, "histogram"),
    ({"radius_km": 100, "azimuth": "old"}, "azimuth"),
    ({"radius_km": 100, "preset": "pygbs"}, "preset"),
]
SUMMARY = [
    ({"alpha": 0.0}, "alpha"),
    ({"alpha": math.nan}, "alpha"),
    ({"block_km": math.nan}, "block_km"),
    ({"block_km": 1e-9}, "block_km"),
    ({"num_resamples": 0}, "num_resamples"),
    ({"num_resamples": 10**13}, "num_resamples"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**70}, "seed"),
    ({"k": 0}, "k must"),
    ({"preset": "none"}, "preset"),
]
BASE_AND_RELATIVE = [
    ({"num_seeds": 10**9}, "num_seeds"),
    ({"num_seeds": 0}, "num_seeds"),
    ({"max_centers": 0}, "max_centers"),
    ({"seed": -1}, "seed"),
    ({"min_samples": 0}, "min_samples"),
]


@pytest.mark.parametrize(("arguments", "message"), SSI)
def test_arguments_of_ssi_out_of_range_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        geobias.ssi(cluster(10), coin(10), **arguments)


@pytest.mark.parametrize(("arguments", "message"), SRI)
def test_arguments_of_sri_out_of_range_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        geobias.sri(cluster(10), coin(10), **arguments)


@pytest.mark.parametrize(("arguments", "message"), BASE_AND_RELATIVE)
def test_arguments_of_base_and_relative_out_of_range_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        geobias.base_and_relative(cluster(10), coin(10), **arguments)


@pytest.mark.parametrize(("arguments", "message"), SUMMARY)
def test_arguments_of_summary_out_of_range_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        geobias.summary(cluster(10), coin(10), radius_km=100, **arguments)


def test_a_partition_that_would_take_hours_names_a_size_that_does_not() -> None:
    lonlat = cluster(3000, spread=20.0)
    with pytest.raises(ValueError, match=r"2,962 neighbourhoods into 999,999 parts, .* size of ([\d.e-]+) rad"):
        geobias.sri(lonlat, coin(3000), radius_rad=RADIUS, size=RADIUS / 999_998.5)


@pytest.mark.parametrize(
    ("performance", "message"),
    [
        (torch.ones(9), r"shape \(10,\)"),
        (torch.ones(10, 0), r"shape \(10,\)"),
        (torch.tensor([math.inf] + [1.0] * 9), "infinite in row 0"),
        (["hit"] * 10, "performance must hold numbers"),
        ([True] * 9 + [None], "NaN for 1 samples that have a location, the first in row 9"),
        ([1, 0, -1] + [1] * 7, "hits and misses"),
        ([0.5] * 10, "hits and misses"),
    ],
)
def test_outcomes_that_are_none_are_named_by_every_score(performance: Any, message: str) -> None:
    lonlat = cluster(10)
    for score in (geobias.ssi, geobias.sri, geobias.summary):
        with pytest.raises(ValueError, match=message):
            score(lonlat, performance, radius_km=100)  # type: ignore[operator]
    with pytest.raises(ValueError, match=message.replace("performance must", "hits must").replace("shape", "shape")):
        geobias.base_and_relative(lonlat, performance)


def test_probabilities_weights_and_losses_out_of_range_are_named() -> None:
    graph = neighbor_graph(cluster(10), radius_km=100)
    p = torch.rand(10)
    for call, name in (
        (lambda: geobias.false_discovery(torch.tensor([0.5, 1.5])), "p must be"),
        (lambda: geobias.false_discovery(p, alpha=1.0), "alpha"),
        (lambda: geobias.straight_through_marks(p, temperature=0.0), "temperature"),
        (lambda: geobias.marked_ssi_loss(graph, p[:9]), "performance"),
        (lambda: geobias.marked_ssi_loss(graph, p * math.nan), "performance is NaN"),
        (lambda: geobias.marked_ssi_loss(graph, p, null="odd"), "null"),  # type: ignore[arg-type]
        (lambda: geobias.density_weights(graph, strength=math.inf), "strength"),
        (lambda: background_grid(torch.tensor([0.0, 95.0]), RADIUS, n=3), "latitude 95"),
        (lambda: background_grid(torch.tensor([0.0, 9.0]), RADIUS, n=0), "n must"),
        (lambda: background_grid([0.0, 0.0], RADIUS, density=1e30), "density"),
        (lambda: geobias.background_density(5, math.nan), "radius_rad"),
        (lambda: geobias.local_moran(graph, torch.rand(10, 2)), "one model"),
    ):
        with pytest.raises(ValueError, match=name):
            call()


def test_a_graph_of_other_places_is_refused() -> None:
    """As many places are not the same places: the score would be that of the graph's."""
    places, others = (sample_sphere(40, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    graph, hits = geobias.neighbor_graph(places, radius_km=3000), torch.arange(40) % 2
    assert len(geobias.ssi(places.double(), hits, neighbors=graph).score) == 40
    missing = places.clone()
    missing[3] = torch.nan
    for wrong in (others, places.flip(0), missing):
        with pytest.raises(ValueError, match="other places"):
            geobias.ssi(wrong, hits, neighbors=graph)
