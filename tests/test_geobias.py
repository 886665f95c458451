"""Geo-bias: facts that need no data. Weight graphs and moments against brute force, edge cases, symmetries."""

import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tslab import geobias
from tslab.coords import great_circle_distance, unit_vectors
from tslab.geobias.neighbors import NeighborGraph, neighbor_graph
from tslab.geobias.statistic import evaluate_joint
from tslab.geobias.weights import weight_graphs
from tslab_book.walkthrough import background_grid

RADIUS = 0.05


def cluster(n: int, seed: int = 0, center: tuple[float, float] = (10.0, 45.0), spread: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    lonlat = torch.randn((n, 2), generator=generator, dtype=torch.float64) * spread + torch.tensor(center)
    lonlat[:, 0] = torch.remainder(lonlat[:, 0] + 180, 360) - 180
    return torch.stack([lonlat[:, 0], lonlat[:, 1].clamp(-90, 90)], 1)


def coin(n: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(100 + seed)).double()


def dense_weights(
    graph: NeighborGraph, which: int, k: int, density: float | None = None, *, bits: int = 32
) -> tuple[Tensor, Tensor]:
    """The whole weight matrix of one neighbourhood, from all distances; and its internal samples."""
    ids = graph.indices[graph.indptr[which] : graph.indptr[which + 1]].long()
    n = len(ids)
    place = graph.frame_lonlat[which]
    given = {"n": n} if density is None else {"density": density}
    points = torch.cat([graph.xyz[ids], unit_vectors(background_grid(place, graph.radius_rad, **given))])
    d2 = (points[:, None] - points[None]).square().sum(-1)
    d2[:, :n] *= 1 - 1e-9  # samples before background points
    value = density or float(geobias.background_density(n, graph.radius_rad))
    key = torch.round(d2 * value * 2**bits)
    key.fill_diagonal_(math.inf)
    weights = torch.zeros_like(key)
    weights.scatter_(1, torch.sort(key, dim=1, stable=True)[1][:, :k], 1.0)
    return weights, ids


@pytest.mark.parametrize(
    ("n", "center", "spread", "radius", "max_neighbors", "k", "density"),
    [
        (120, (10.0, 45.0), 2.0, 0.05, 100, 4, None),
        (300, (179.5, -30.0), 1.5, 0.05, 40, 4, None),
        (90, (0.0, 89.0), 30.0, 0.05, None, 4, None),
        (100, (-60.0, 10.0), 3.0, 0.05, 100, 8, None),
        (100, (-60.0, 10.0), 3.0, 0.05, 100, 1, None),
        (60, (10.0, 45.0), 20.0, 0.5, 100, 4, None),
        (100, (10.0, 45.0), 2.0, 0.05, 100, 4, 20_000.0),
    ],
)
def test_weight_graphs_equal_those_from_all_distances(
    n: int,
    center: tuple[float, float],
    spread: float,
    radius: float,
    max_neighbors: int | None,
    k: int,
    density: float | None,
) -> None:
    graph = neighbor_graph(
        cluster(n, center=center, spread=spread),
        radius_rad=radius,
        max_neighbors=max_neighbors,
        centers=torch.arange(0, n, 20),
    )
    seen = 0
    for chunk in weight_graphs(graph, k, density):
        begin = 0
        for j, size in enumerate(chunk.n.tolist()):
            weights, _ = dense_weights(graph, chunk.first + j, k, density)
            rows = slice(begin, begin + size)
            target = torch.where(chunk.target[rows] < len(chunk.sample), chunk.target[rows].long() - begin, size)
            found = torch.zeros(size, size + 1, dtype=torch.float64).scatter_(1, target, 1.0)[:, :size]
            assert len(weights) == size + chunk.m[j]
            assert torch.equal(found, weights[:size, :size])
            assert torch.equal(chunk.in_degree[rows].double(), weights.sum(0)[:size])
            assert float(chunk.s1[j]) == float((weights + weights.T).square().sum() / 2)
            assert float(chunk.s2[j]) == float((weights.sum(0) + weights.sum(1)).square().sum())
            begin += size
            seen += 1
    assert seen == len(graph.sizes)


def test_statistic_is_the_moran_sum_and_exact_moments_are_those_of_shuffles() -> None:
    lonlat, hits = cluster(40, seed=3, spread=1.0), coin(40)
    graph = neighbor_graph(lonlat, radius_rad=0.02, centers=torch.tensor([0]))
    weights, ids = dense_weights(graph, 0, 4)
    z = torch.zeros(len(weights), dtype=torch.float64)
    z[: len(ids)] = 2 * hits[graph.order[ids]] - 1
    x = z - z.mean()
    result = geobias.ssi(graph, hits)
    assert float(result.statistic[0]) == pytest.approx(float(x @ weights @ x), abs=1e-9)
    generator = torch.Generator().manual_seed(1)
    shuffled = x[torch.rand((40_000, len(x)), generator=generator).argsort(1)]
    drawn = ((shuffled @ weights) * shuffled).sum(1)
    assert float(result.mean[0]) == pytest.approx(float(drawn.mean()), abs=4 * float(drawn.std()) / 200)
    assert float(result.sigma[0]) == pytest.approx(float(drawn.std()), rel=0.02)


def test_exact_moments_equal_those_over_all_permutations_of_a_small_graph() -> None:
    from itertools import permutations

    generator = torch.Generator().manual_seed(0)
    weights = (torch.rand((6, 6), generator=generator) < 0.4).double().fill_diagonal_(0)
    z = torch.tensor([1.0, 1, -1, 0, 0, 0], dtype=torch.float64)
    x = z - z.mean()
    every = torch.tensor([[x[i] for i in order] for order in permutations(range(6))], dtype=torch.float64)
    values = ((every @ weights) * every).sum(1)
    s1 = (weights + weights.T).square().sum() / 2
    s2 = (weights.sum(0) + weights.sum(1)).square().sum()
    powers = tuple((z**power).sum() for power in (1, 2, 3, 4))
    mean, sigma = geobias.exact_moments(weights.sum(), s1, s2, torch.tensor(6), powers)  # type: ignore[arg-type]
    assert float(mean) == pytest.approx(float(values.mean()), abs=1e-12)
    assert float(sigma) == pytest.approx(float(values.std(correction=0)), abs=1e-12)


@given(st.integers(2, 100), st.floats(0.01, 0.3))
@settings(max_examples=30, deadline=None)
def test_unmarked_published_moments_have_a_closed_form(n: int, radius: float) -> None:
    m = len(background_grid([0.0, 0.0], radius, n=n))
    total = n + m
    values, counts = torch.tensor([0.0, 1.0]), torch.tensor([m, n])
    mean, sigma = geobias.published_moments(values, counts)
    assert float(mean) == pytest.approx(-4 * n * m / total**2 - (n**2 + m**2) / total**2, abs=1e-12)
    variance = 8 * n * (n - 1) / total * (1 - 4 * (2 * n - 1) / (3 * total))
    assert float(sigma) == pytest.approx(math.sqrt(variance), abs=1e-12)


def test_signed_published_moments_have_a_closed_form() -> None:
    p, q, m = 60, 40, 578
    total = p + q + m
    average = (p - q) / total

    def single(x: int) -> float:
        return 8 * x * (x - 1) / total * (1 - 4 * (2 * x - 1) / (3 * total))

    variance = single(p) + single(q)
    variance += (2 + 8 * average**2) * 4 * p * q / total * (1 - 4 * max(p, q) / total)
    _, sigma = geobias.published_moments(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([q, m, p]))
    assert float(sigma) == pytest.approx(math.sqrt(variance), abs=1e-12)


def test_negative_published_variance_gives_nan_and_equal_counts_take_the_smaller_value() -> None:
    # 1 - 4 (2 * 45 - 1) / (3 * 100) < 0
    assert math.isnan(float(geobias.published_moments(torch.tensor([0.0, 1.0]), torch.tensor([55, 45])).sigma))
    # with base 0 the variance is 4^4 v(10) and terms of the value 1; with base 1 it would be 3^4 v(10) and terms of 0
    values, counts = torch.tensor([4.0, 1.0, 0.0]), torch.tensor([10, 30, 30])
    total, a = 70, torch.tensor([4.0, 1.0, 0.0]) - 1.0

    def single(x: int) -> float:
        return 8 * x * (x - 1) / total * (1 - 4 * (2 * x - 1) / (3 * total))

    pair = 4 * 10 * 30 / total * (1 - 4 * 30 / total)
    squares = sum(float(a[i] * a[j] - 2 * a[i] * a[2] + a[2] ** 2) ** 2 for i, j in ((0, 1), (1, 0)))
    variance = 4**4 * single(10) + single(30) + squares * pair
    assert float(geobias.published_moments(values, counts).sigma) == pytest.approx(math.sqrt(variance), abs=1e-9)


def test_forms_of_the_score() -> None:
    statistic, mean, sigma = (
        torch.tensor([1.0, 1e6], dtype=torch.float64),
        torch.zeros(2),
        torch.full((2,), 2.0),
    )
    density = geobias.surprisal(statistic, mean, sigma, "density")
    expected = -math.log(math.exp(-0.125) / (2 * math.sqrt(2 * math.pi)))
    assert float(density[0]) == pytest.approx(expected, abs=1e-6)
    assert float(density[1]) == pytest.approx(256 * math.log(10), abs=1e-4)
    tail = geobias.surprisal(statistic, mean, sigma, "tail")
    assert float(tail[0]) == pytest.approx(-math.log(math.erfc(0.5 / math.sqrt(2))), abs=1e-6)
    assert float(tail[1]) > 1e10  # a surprisal has no ceiling
    assert float(geobias.surprisal(torch.zeros(1), torch.zeros(1), torch.ones(1), "tail")) == 0


def test_a_single_sample_has_no_published_score_but_an_exact_one() -> None:
    lonlat = torch.tensor([[0.0, 0.0], [90.0, 0.0]])
    published = geobias.ssi(lonlat, torch.ones(2), radius_rad=RADIUS, preset="pygbs2025")
    assert published.n.tolist() == [1, 1] and published.background.tolist() == [20, 20]
    assert published.score.isnan().all()
    exact = geobias.ssi(lonlat, torch.ones(2), radius_rad=RADIUS)
    assert exact.score.isfinite().all()


def test_raw_marks_without_a_hit_have_no_score_and_signed_marks_have() -> None:
    lonlat = cluster(30)
    miss = torch.zeros(30)
    for moments in ("published", "exact"):
        raw = geobias.ssi(lonlat, miss, radius_rad=RADIUS, marks="raw", moments=moments)  # type: ignore[arg-type]
        assert raw.score.isnan().all()
    assert geobias.ssi(lonlat, miss, radius_rad=RADIUS).score.isfinite().all()


def test_equal_marks_are_unmarked() -> None:
    lonlat = cluster(60)
    unmarked = geobias.ssi(lonlat, None, radius_rad=RADIUS, marks="unmarked")
    for value in (0.0, 1.0):
        marked = geobias.ssi(lonlat, torch.full((60,), value), radius_rad=RADIUS)
        assert torch.allclose(marked.score, unmarked.score, atol=1e-9)


def test_density_form_depends_on_the_unit_of_the_marks_and_the_tail_form_does_not() -> None:
    lonlat, hits = cluster(60), 2 * coin(60) - 1
    for form, shift in (("density", 2 * math.log(3)), ("tail", 0.0)):
        once, thrice = (
            geobias.ssi(lonlat, hits * scale, radius_rad=0.1, marks="raw", form=form).score  # type: ignore[arg-type]
            for scale in (1, 3)
        )
        usable = once < 500
        assert torch.allclose(thrice[usable], once[usable] + shift, atol=1e-6)


def test_rows_without_a_location_take_no_part_and_get_nan() -> None:
    lonlat, hits = cluster(50), coin(50)
    holes = lonlat.clone()
    holes[::7, 0] = math.nan
    kept = ~holes.isnan().any(1)
    full = geobias.ssi(holes, hits, radius_rad=RADIUS)
    part = geobias.ssi(lonlat[kept], hits[kept], radius_rad=RADIUS)
    assert full.score[~kept].isnan().all() and (full.n[~kept] == 0).all()
    assert torch.equal(full.score[kept], part.score)


def test_turning_the_globe_in_longitude_changes_nothing() -> None:
    hits = coin(80)
    here = cluster(80, center=(10.0, 60.0))
    there = here.clone()
    there[:, 0] = torch.remainder(there[:, 0] + 169.5 + 180, 360) - 180  # across the date line
    a, b = (geobias.ssi(place, hits, radius_rad=RADIUS) for place in (here, there))
    assert torch.equal(a.n, b.n)
    assert torch.allclose(a.score, b.score, atol=1e-6)


def test_centres_at_a_pole_see_all_longitudes() -> None:
    lonlat = torch.tensor([[0.0, 90.0], [0.0, 89.5], [90.0, 89.5], [180.0, 89.5], [-90.0, 89.5], [-180.0, 89.5]])
    graph = neighbor_graph(lonlat, radius_km=60)
    assert graph.n[0] == 6
    assert torch.equal(graph.rows_of(3), graph.rows_of(5))  # 180 and -180 are one place


def test_neighbours_are_those_of_all_distances() -> None:
    lonlat = cluster(200, spread=3.0)
    graph = neighbor_graph(lonlat, radius_km=200, max_neighbors=15)
    km = great_circle_distance(lonlat[:, None], lonlat[None])
    for row in range(0, 200, 40):
        near = [j for j in km[row].argsort(stable=True).tolist() if km[row, j] <= 200][:15]
        assert sorted(near) == sorted(graph.rows_of(row).tolist())


def test_coincident_samples_are_cut_by_row_and_share_a_neighbourhood() -> None:
    lonlat = torch.cat([torch.tensor([[5.0, 5.0]]).repeat(8, 1), torch.tensor([[5.1, 5.0], [4.9, 5.0]])]).double()
    graph = neighbor_graph(lonlat, radius_km=100, max_neighbors=6)
    assert graph.rows_of(7).tolist() == list(range(6))
    assert len(graph.sizes) == 3
    result = geobias.ssi(lonlat, coin(10), neighbors=graph)
    assert (result.score[:8] == result.score[0]).all()


def test_order_of_rows_matters_only_for_ties() -> None:
    lonlat, hits = cluster(150), coin(150)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    here = geobias.ssi(lonlat, hits, radius_rad=RADIUS, max_neighbors=30)
    there = geobias.ssi(lonlat[order], hits[order], radius_rad=RADIUS, max_neighbors=30)
    assert torch.allclose(here.score[order], there.score, atol=1e-9)


def test_overfull_nodes_have_one_target_more_where_many_samples_coincide() -> None:
    lonlat = torch.tensor([[5.0, 5.0]], dtype=torch.float64).repeat(9, 1)
    graph = neighbor_graph(lonlat, radius_km=100)
    plain, overfull = (next(weight_graphs(graph, 4, overfull=flag)) for flag in (False, True))
    assert int(overfull.num_edges[0] - plain.num_edges[0]) == 9 - 5
    assert overfull.out_degree.tolist() == [4] * 5 + [5] * 4


def test_several_models_at_once_equal_one_after_another() -> None:
    lonlat = cluster(100)
    performance = torch.stack([coin(100, seed) for seed in range(3)], 1)
    graph = neighbor_graph(lonlat, radius_rad=RADIUS)
    together = geobias.ssi(graph, performance)
    for i in range(3):
        assert torch.equal(together.select(i).score, geobias.ssi(graph, performance[:, i]).score)


def test_chunks_do_not_change_the_result() -> None:
    from tslab.geobias.weights import build_weights

    graph = neighbor_graph(cluster(300), radius_rad=RADIUS, max_neighbors=40)
    z = torch.where(coin(300)[graph.order] > 0, 1.0, -1.0).double()[:, None]
    whole, pieces = (evaluate_joint(build_weights(graph, chunk_samples=size), z)[0] for size in (10**6, 50))
    assert torch.equal(whole, pieces)


def test_centres_can_be_places_and_a_centre_without_samples_is_nan() -> None:
    lonlat = cluster(40)
    centers = torch.cat([lonlat[:2], torch.tensor([[-120.0, -40.0]], dtype=torch.float64)])
    result = geobias.ssi(lonlat, coin(40), radius_rad=RADIUS, centers=centers)
    assert result.n[2] == 0 and math.isnan(float(result.score[2]))
    assert torch.equal(result.score[:2], geobias.ssi(lonlat, coin(40), radius_rad=RADIUS).score[:2])


def test_given_neighbours_replace_the_search() -> None:
    lonlat, hits = cluster(60), coin(60)
    graph = neighbor_graph(lonlat, radius_rad=RADIUS)
    rows = [graph.rows_of(i).flip(0) for i in range(60)]
    indptr = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    given = geobias.ssi(lonlat, hits, radius_rad=RADIUS, neighbors=(indptr, torch.cat(rows)))
    assert torch.equal(given.score, geobias.ssi(lonlat, hits, neighbors=graph).score)


def test_empty_input_gives_empty_output() -> None:
    result = geobias.ssi(torch.zeros(0, 2), torch.zeros(0), radius_rad=RADIUS)
    assert len(result.score) == 0
    nowhere = geobias.ssi(torch.full((3, 2), math.nan), torch.zeros(3), radius_rad=RADIUS)
    assert nowhere.score.isnan().all()
    assert geobias.sri(torch.full((3, 2), math.nan), torch.zeros(3), radius_rad=RADIUS).score.isnan().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"radius_km": 100, "radius_rad": 0.1}, "radius once"),
        ({}, "radius once"),
        ({"radius_rad": 100}, "radius_km"),
        ({"radius_rad": 0.1, "max_neighbors": 0}, "max_neighbors"),
        ({"radius_rad": 0.1, "k": 0}, "k must"),
        ({"radius_rad": 0.1, "marks": "odd"}, "marks"),
        ({"radius_rad": 0.1, "density": -1.0}, "density"),
        ({"radius_rad": 1.4, "density": 1.0}, "quarter of the globe"),
        ({"radius_rad": 0.1, "centers": torch.tensor([99])}, "centers"),
        ({"radius_rad": 0.1, "neighbors": (torch.tensor([0, 1]), torch.tensor([0]))}, "indptr"),
    ],
)
def test_errors_name_the_input(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        geobias.ssi(cluster(10), coin(10), **arguments)


def test_signed_marks_refuse_graded_performance() -> None:
    with pytest.raises(ValueError, match="hits and misses"):
        geobias.ssi(cluster(10), torch.rand(10), radius_rad=RADIUS)
    with pytest.raises(ValueError, match="NaN for 1 samples"):
        geobias.ssi(cluster(10), torch.tensor([math.nan] + [1.0] * 9), radius_rad=RADIUS)


def test_the_search_orders_ties_by_place() -> None:
    from tslab.geobias.neighbors import PlaceFinder

    xyz = unit_vectors(cluster(150).round(decimals=1).unique(dim=0))
    d2 = (xyz[:, None] - xyz[None]).square().sum(-1)
    d2_found, expected = torch.sort(d2, dim=1, stable=True)
    index, found = PlaceFinder(xyz).nearest(xyz, 12)
    apart = (d2_found[:, 1:13] - d2_found[:, :12] > 1e-12).all(1)  # rows in which rounding decides nothing
    assert torch.equal(index[apart], expected[apart, :12]) and int(apart.sum()) > 5
    assert (found[:, 1:] >= found[:, :-1]).all()
    ties = found[:, 1:] == found[:, :-1]
    assert (index[:, 1:] > index[:, :-1])[ties].all()


# ---- spatial relative information


def test_relative_information_is_zero_when_all_parts_are_alike() -> None:
    lonlat = cluster(400, spread=0.3).repeat_interleave(2, 0)
    hits = torch.tensor([0.0, 1.0]).repeat(400)  # one hit and one miss at every place
    for partition in ("scale_grid", "distance_lag", "direction_sector"):
        result = geobias.sri(lonlat, hits, radius_rad=RADIUS, partition=partition)  # type: ignore[arg-type]
        assert (result.parts > 0).all()
        assert float(result.score.abs().max()) < 1e-6


def test_relative_information_of_two_halves() -> None:
    sides = [cluster(100, seed=1, center=(x, 0.0), spread=0.1) for x in (1.0, -1.0)]
    lonlat = torch.cat([*sides, torch.zeros(1, 2, dtype=torch.float64)])
    hits = torch.cat([torch.ones(100), torch.zeros(100), torch.ones(1)])
    result = geobias.sri(
        lonlat, hits, radius_rad=RADIUS, partition="direction_sector", size=2, centers=torch.tensor([200])
    )
    share = 101 / 201
    half = share * math.log(share / (1 + 1e-8)) + (1 - share) * math.log((1 - share) / 1e-8)
    other = share * math.log(share / 1e-8) + (1 - share) * math.log((1 - share) / (1 + 1e-8))
    assert result.parts.tolist() == [2]
    assert float(result.score[0]) == pytest.approx(100 / 201 * (half + other), abs=1e-9)


def test_published_bins_take_all_misses_for_all_hits() -> None:
    lonlat = cluster(200, spread=0.2)
    hits = (lonlat[:, 0] > 10).double()
    plain, published = (
        geobias.sri(lonlat, hits, radius_rad=RADIUS, partition="scale_grid", histogram=kind).score  # type: ignore[arg-type]
        for kind in ("fixed", "published")
    )
    assert not torch.allclose(plain, published)
    assert float((geobias.sri(lonlat, torch.zeros(200), radius_rad=RADIUS).score).abs().max()) < 1e-6


def test_published_azimuths_collapse_south_of_the_equator_only() -> None:
    hits = coin(400)
    kept = {}
    for side in (40.0, -40.0):
        lonlat = cluster(400, center=(100.0, side), spread=0.5)
        for kind in ("correct", "published"):
            result = geobias.sri(lonlat, hits, radius_rad=RADIUS, partition="direction_sector", azimuth=kind)  # type: ignore[arg-type]
            kept[side, kind] = float(result.parts.double().mean())
    assert kept[40.0, "published"] > 4 > 2.5 > kept[-40.0, "published"]
    assert abs(kept[40.0, "correct"] - kept[-40.0, "correct"]) < 1


def test_cells_cross_the_date_line() -> None:
    hits = coin(300)
    here = cluster(300, center=(0.0, 10.0), spread=0.5)
    there = here.clone()
    there[:, 0] = torch.remainder(there[:, 0] + 360, 360) - 180
    kwargs = {"radius_rad": RADIUS, "partition": "scale_grid"}
    assert torch.allclose(geobias.sri(here, hits, **kwargs).score, geobias.sri(there, hits, **kwargs).score, atol=1e-9)
    assert not torch.allclose(
        geobias.sri(here, hits, **kwargs).score,
        geobias.sri(there, hits, wrap_longitude=False, **kwargs).score,
    )


# ---- data sets


def test_false_discovery_is_benjamini_and_hochberg() -> None:
    p = torch.tensor([0.01, 0.04, 0.03, 0.005, math.nan, 0.9], dtype=torch.float64)
    called, q = geobias.false_discovery(p, 0.05)
    expected = [0.025, 0.05, 0.05, 0.025, math.nan, 0.9]
    assert torch.allclose(q, torch.tensor(expected, dtype=torch.float64), equal_nan=True)
    assert called.tolist() == [True, True, True, True, False, False]
    assert not geobias.false_discovery(torch.full((3,), math.nan))[0].any()


def test_random_hits_are_rarely_significant_and_split_hits_are() -> None:
    lonlat = cluster(300, spread=3.0)
    chance = geobias.summary(lonlat, coin(300), radius_km=150, num_resamples=50)
    split = geobias.summary(lonlat, (lonlat[:, 0] > 10).double(), radius_km=150, num_resamples=50)
    assert split.mean > chance.mean
    hot = split.getis_ord
    assert hot is not None and float((hot.z * (lonlat[:, 0] - 10)).mean()) > 0
    assert set(split.to_pandas().columns) >= {
        "lon",
        "lat",
        "score",
        "z",
        "q",
        "significant",
        "moran",
        "getis_ord",
    }


def test_bootstrap_interval_holds_the_mean_and_blocks_are_wide() -> None:
    lonlat, hits = cluster(400, spread=15.0), coin(400)
    result = geobias.ssi(lonlat, hits, radius_km=300)
    low, high = geobias.block_bootstrap(result, num_resamples=400)
    assert low < float(result.score.nanmean()) < high
    assert geobias.block_bootstrap(result, num_resamples=400) == (low, high)  # seeded
    single = geobias.block_bootstrap(result, block_km=20.0, num_resamples=400)
    assert high - low > 1.2 * (single[1] - single[0])  # near-by centres are not independent
    assert all(map(math.isnan, geobias.block_bootstrap(geobias.ssi(cluster(5), coin(5), radius_km=300), block_km=2e4)))


def test_base_and_relative_see_a_split_and_repeat_with_the_seed() -> None:
    lonlat = cluster(300, spread=0.6)
    split, chance = (lonlat[:, 0] > 10).double(), coin(300)
    of_split, again = (geobias.base_and_relative(lonlat, split, max_centers=40, num_seeds=2) for _ in range(2))
    of_chance = geobias.base_and_relative(lonlat, chance, max_centers=40, num_seeds=2)
    assert of_split == again
    assert of_split.relative > of_chance.relative + 5
    assert math.isnan(geobias.base_and_relative(lonlat, torch.ones(300)).base)  # no miss, no centre


def test_local_statistics_equal_those_of_esda() -> None:
    esda = pytest.importorskip("esda", reason="compares with esda, the reference: pip install esda")
    weights_module = pytest.importorskip("libpysal.weights")
    lonlat, values = (
        cluster(120),
        torch.rand(120, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    )
    graph = neighbor_graph(lonlat, radius_rad=RADIUS, max_neighbors=None)
    near = {i: [j for j in graph.rows_of(i).tolist() if j != i] for i in range(120)}
    linked = torch.tensor([bool(near[i]) for i in range(120)])
    theirs = esda.Moran_Local(values.numpy(), weights_module.W(near, silence_warnings=True), permutations=0)
    ours = geobias.local_moran(graph, values)
    # esda divides by n - 1 where Anselin (and its own moments) divide by n
    assert torch.allclose(ours.statistic[linked], torch.from_numpy(theirs.Is)[linked] * 120 / 119, atol=1e-12)
    assert torch.allclose(ours.mean[linked], torch.from_numpy(theirs.EIc)[linked], atol=1e-12)
    assert torch.allclose(ours.sigma[linked] ** 2, torch.from_numpy(theirs.VIc)[linked], atol=1e-12)
    assert torch.equal(ours.quadrant[linked], torch.from_numpy(theirs.q)[linked].to(ours.quadrant))
    with_self = weights_module.fill_diagonal(weights_module.W(near, silence_warnings=True))
    star = esda.G_Local(values.numpy(), with_self, transform="B", permutations=0, star=True)
    assert torch.allclose(geobias.getis_ord(graph, values).z, torch.from_numpy(star.Zs), atol=1e-9)


# ---- training


def test_straight_through_marks_are_hard_with_a_soft_gradient() -> None:
    p = torch.tensor([0.2, 0.9], requires_grad=True)
    marks = geobias.straight_through_marks(p)
    assert marks.tolist() == [-1.0, 1.0]
    marks.sum().backward()
    assert p.grad is not None and (p.grad > 0).all()


@pytest.mark.parametrize("null", ["conditional", "joint"])
def test_the_loss_is_the_score_of_the_marks_and_its_gradient_is_finite(null: Literal["conditional", "joint"]) -> None:
    lonlat = torch.cat([cluster(80, spread=1.0), torch.tensor([[100.0, 0.0], [-100.0, 0.0], [-100.1, 0.0]])])
    graph = neighbor_graph(lonlat, radius_rad=RADIUS)
    p = torch.rand(83, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = geobias.marked_ssi_loss(graph, p, null=null, clustering_only=False)
    score = geobias.ssi(graph, (p > 0.5).double(), null=null).score
    assert float(loss.detach()) == pytest.approx(float(score.nanmean()), abs=1e-9)
    (gradient,) = torch.autograd.grad(loss, p)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize("null", ["conditional", "joint"])
def test_training_with_the_loss_lowers_geo_bias(null: Literal["conditional", "joint"]) -> None:
    lonlat = cluster(300, spread=1.0)
    generator = torch.Generator().manual_seed(0)
    ease = 1.5 * (lonlat[:, 0] > 10).double() - 0.5 + 0.3 * torch.randn(300, generator=generator, dtype=torch.float64)
    graph = neighbor_graph(lonlat, radius_rad=0.02, centers=torch.arange(0, 300, 10))
    features = torch.stack([(lonlat[:, 0] - 10) / 2, (lonlat[:, 1] - 45) / 2], 1)

    def fit(weight: float) -> tuple[float, float]:
        slope = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([slope], lr=0.1)
        for _ in range(25):
            p = torch.sigmoid(2 * (ease + features @ slope))
            error = -torch.log(p).mean() + 0.2 * slope.square().sum()
            loss = error + weight * geobias.marked_ssi_loss(graph, p, null=null)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        hits = torch.sigmoid(2 * (ease + features @ slope)) > 0.5
        scores = geobias.ssi(graph, hits, null=null).score
        return float(scores.mean()), float(error.detach())

    (plain, plain_error), (fair, fair_error) = fit(0.0), fit(0.5)
    assert fair < 0.7 * plain
    assert fair_error > plain_error  # it is not free


def test_density_weights_are_even_for_even_samples_and_mean_one() -> None:
    lonlat = torch.cat([cluster(50, spread=0.01), cluster(5, center=(-60.0, 0.0), spread=0.01)])
    weights = geobias.density_weights(neighbor_graph(lonlat, radius_km=50, max_neighbors=None))
    assert float(weights.mean()) == pytest.approx(1)
    assert float(weights[50] / weights[0]) == pytest.approx(10)


@pytest.mark.gpu
def test_scores_on_a_gpu_equal_those_on_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    lonlat, hits = cluster(2000), coin(2000)
    here = geobias.ssi(lonlat, hits, radius_rad=RADIUS)
    there = geobias.ssi(lonlat, hits, radius_rad=RADIUS, device="cuda")
    assert torch.allclose(there.score.cpu(), here.score, atol=1e-9, equal_nan=True)


# ---- edge cases


def test_too_few_nodes_for_k_neighbours_are_an_error_and_one_less_is_not() -> None:
    alone = torch.tensor([[3.0, 3.0]])  # one sample has 20 background points, so 21 nodes
    assert geobias.ssi(alone, torch.ones(1), radius_rad=RADIUS, k=20).background.tolist() == [20]
    with pytest.raises(ValueError, match="only 21 nodes"):
        geobias.ssi(alone, torch.ones(1), radius_rad=RADIUS, k=21)


def test_more_samples_than_background_points_are_warned_of_and_still_scored() -> None:
    lonlat = cluster(80, spread=0.5)
    few = {"radius_rad": RADIUS, "density": 2_000.0, "moments": "published", "marks": "unmarked"}
    with pytest.warns(UserWarning, match="raise the density"):
        result = geobias.ssi(lonlat, None, **few)  # type: ignore[arg-type]
    n, m = int(result.n[0]), int(result.background[0])
    assert n > m
    moments = geobias.published_moments(torch.tensor([0.0, 1.0]), torch.tensor([m, n]))
    assert float(result.mean[0]) == pytest.approx(float(moments.mean), abs=1e-12)


def test_missing_scores_do_not_enter_the_mean_of_a_data_set() -> None:
    lonlat = torch.cat([cluster(40), torch.tensor([[100.0, -40.0]], dtype=torch.float64)])  # the last one is alone
    hits = coin(41)
    result = geobias.summary(lonlat, hits, radius_rad=RADIUS, preset="pygbs2025", num_resamples=10)
    assert result.num_centers == 41 and result.num_scored < 41
    score = result.scores.score[~result.scores.score.isnan()]
    assert result.mean == pytest.approx(float(score.mean()))
    assert math.isnan(float(result.scores.score[-1]))


def test_a_centre_at_the_pole_scores_like_the_same_samples_elsewhere() -> None:
    from tslab.coords import lonlat_from_unit_vectors

    here = torch.cat([torch.tensor([[0.0, 45.0]], dtype=torch.float64), cluster(70, center=(0.0, 45.0), spread=1.0)])
    turn = math.radians(45)  # along the meridian of Greenwich, from 45 degrees north to the pole
    x, y, z = unit_vectors(here).unbind(-1)
    turned = torch.stack([x * math.cos(turn) - z * math.sin(turn), y, x * math.sin(turn) + z * math.cos(turn)], -1)
    there = lonlat_from_unit_vectors(turned)
    there[0] = torch.tensor([0.0, 90.0])
    a, b = (geobias.ssi(p, coin(71), radius_rad=RADIUS, centers=torch.tensor([0])) for p in (here, there))
    assert a.n.tolist() == b.n.tolist()
    assert torch.allclose(a.score, b.score, atol=1e-6)


def test_single_precision_coordinates_are_used_as_the_numbers_they_are() -> None:
    lonlat = cluster(60).float()
    a, b = (geobias.ssi(p, coin(60), radius_rad=RADIUS).score for p in (lonlat, lonlat.double()))
    assert torch.equal(a, b)


def test_nothing_as_large_as_a_square_of_the_samples_is_ever_made() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            for part in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(part, Tensor) and part.untyped_storage().nbytes() >= part.numel():
                    self.numel = max(self.numel, part.untyped_storage().nbytes() // part.element_size())
            return result

    n, threads = 10_000, torch.get_num_threads()
    torch.set_num_threads(1)  # the mode sees its own thread only
    try:
        with Largest() as largest:
            geobias.ssi(cluster(n, spread=10.0), coin(n), radius_rad=RADIUS)
    finally:
        torch.set_num_threads(threads)
    assert 100 * n < largest.numel < n * n / 10


# ---- parts, and the tests of the ruler


@pytest.mark.parametrize("partition", ["scale_grid", "distance_lag", "direction_sector"])
def test_the_score_follows_from_the_part_of_each_sample(partition: str) -> None:
    lonlat, hits = cluster(500, center=(179.0, 30.0), spread=1.0), coin(500)
    lonlat[7] = math.nan
    center = lonlat[3]
    size = 6 if partition == "direction_sector" else 0.02
    arguments = {"radius_rad": RADIUS, "partition": partition, "size": size}
    part = geobias.parts_of(lonlat, center, **arguments)  # type: ignore[arg-type]
    result = geobias.sri(lonlat, hits, centers=torch.tensor([3]), **arguments)  # type: ignore[arg-type]
    near = great_circle_distance(center, lonlat) <= RADIUS * 6371.0088
    assert part[7] == -1 and int(result.n) == int(near.sum())
    whole = torch.stack([1 - hits[near].mean(), hits[near].mean()])
    total, kept = 0.0, 0
    for number in part[part >= 0].unique():
        inside = part == number
        if int(inside.sum()) >= 20:
            share = torch.stack([1 - hits[inside].mean(), hits[inside].mean()])
            total += float(inside.sum() / near.sum() * (whole * (whole / (share + 1e-8)).log()).sum())
            kept += 1
    assert kept == int(result.parts) and kept > 1
    assert float(result.score) == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("marks", ["unmarked", "signed", "raw"])
def test_shuffled_values_have_the_exact_moments(marks: str) -> None:
    from tslab_book.ruler import shuffled_statistics

    lonlat, hits = cluster(50, spread=1.0), coin(50)
    graph = neighbor_graph(lonlat, radius_rad=0.03)
    result = geobias.ssi(graph, hits, marks=marks)  # type: ignore[arg-type]
    drawn = shuffled_statistics(graph, 4, hits, marks=marks, num_shuffles=20_000)  # type: ignore[arg-type]
    assert drawn.observed == pytest.approx(float(result.statistic[4]), abs=1e-9)
    assert float(drawn.shuffled.mean()) == pytest.approx(float(result.mean[4]), abs=4 * float(result.sigma[4]) / 141)
    assert float(drawn.shuffled.std()) == pytest.approx(float(result.sigma[4]), rel=0.03)
    nowhere = neighbor_graph(lonlat, radius_rad=0.03, centers=torch.tensor([[100.0, 0.0]]))
    with pytest.raises(ValueError, match="no samples"):
        shuffled_statistics(nowhere, 0, hits)


def test_facts_of_the_ruler_on_a_set_with_known_answers() -> None:
    from tslab_book.ruler import ruler_facts

    north, south = (cluster(300, center=(100.0, lat), spread=0.4) for lat in (40.0, -40.0))
    lonlat = torch.cat([north, south, torch.full((5, 2), math.nan, dtype=torch.float64)])
    hits = torch.stack([coin(605), torch.zeros(605)], 1)
    facts = ruler_facts(lonlat, hits, ["coin", "never"]).set_index("name")
    assert facts.loc["never", "top1"] == 0 and 40 < facts.loc["coin", "top1"] < 60
    assert (facts["located"] == 600).all()
    assert (facts["saturated"] == 1).all() and facts["reach"].iloc[0] < 0.5  # 300 samples near each centre, 100 kept
    assert facts.loc["never", "unscored_raw"] == 1 and math.isnan(facts.loc["never", "raw"])
    assert 0.9 < facts.loc["coin", "sigma_unmarked"] < 1 and facts.loc["coin", "sigma_signed"] < 0.9
    assert facts.loc["coin", "rank_agreement"] > 0.8
    assert facts.loc["coin", "sectors_south"] > 2.5 > facts.loc["coin", "sectors_south_published"]


def test_pictures_of_a_neighbourhood() -> None:
    from tslab_book.neighborhood_plots import Dots, dots_slider, local_km, parts_frame

    center = torch.tensor([30.0, 60.0], dtype=torch.float64)
    east_and_north = local_km(torch.tensor([[31.0, 60.0], [30.0, 61.0]], dtype=torch.float64), center)
    assert east_and_north[0, 0] == pytest.approx(55.6, abs=0.1) and abs(float(east_and_north[0, 1])) < 0.5
    assert east_and_north[1, 1] == pytest.approx(111.2, abs=0.1) and abs(float(east_and_north[1, 0])) < 1e-6
    lonlat = cluster(300, center=(30.0, 60.0), spread=0.5)
    layers = parts_frame(
        lonlat, coin(300), center, radius_rad=RADIUS, partition="direction_sector", size=3, min_samples=50
    )
    assert sum(len(layer.km) for layer in layers) == 300
    figure = dots_slider([layers, layers], ["a", "b"], radius_km=300, colorbar="share")
    assert len(figure.frames) == 2 and len(figure.layout.sliders[0].steps) == 2
    with pytest.raises(ValueError, match="as many layers"):
        dots_slider([layers, [Dots("one", layers[0].km)]], ["a", "b"], radius_km=300)
