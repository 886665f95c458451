"""The conditional score: marks shuffled among the samples of a neighbourhood; against brute force, and calibrated."""

import math
from itertools import permutations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.test_geobias import RADIUS, cluster, coin, dense_weights
from tslab import geobias
from tslab.geobias.conditional import (
    arrangement_sums,
    conditional_moments,
    evaluate_conditional,
    mark_sums,
    normal_score,
)
from tslab.geobias.neighbors import NeighborGraph, neighbor_graph
from tslab.geobias.weights import build_weights, weight_graphs

CONDITIONAL = {"radius_rad": RADIUS, "null": "conditional"}


def moments_of(weights: Tensor, marks: Tensor) -> tuple[float, float, float]:
    """Mean, standard deviation and skewness of the Moran sum over rows of marks; background zero."""
    z = torch.zeros(len(marks), len(weights), dtype=torch.float64)
    z[:, : marks.shape[1]] = marks
    x = z - z.mean(1, keepdim=True)
    values = ((x @ weights) * x).sum(1)
    mean, sigma = values.mean(), values.std(correction=0)
    return float(mean), float(sigma), float(((values - mean) ** 3).mean() / sigma**3)


def ours(graph: NeighborGraph, marks: Tensor, k: int = 4, *, counted: bool = False) -> tuple[float, ...]:
    """Mean, sigma and skewness of the first neighbourhood, from the marks or from how often each occurs."""
    z = marks[graph.order][:, None]
    chunk = next(weight_graphs(graph, k))
    sums = mark_sums(chunk, z, torch.unique(z) if counted else None)
    return tuple(float(part[0, 0]) for part in conditional_moments(arrangement_sums(chunk), sums))


def patterns() -> Tensor:
    """Crowds and thin country, and a third of all samples on the place of another."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand((60, 2), generator=generator, dtype=torch.float64) * torch.tensor([300.0, 120.0])
    sizes = torch.tensor([3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 40, 60, 90, 150, 250] * 4)
    middle = (centers - torch.tensor([150.0, 60.0])).repeat_interleave(sizes, 0)
    lonlat = middle + 0.4 * torch.randn(middle.shape, generator=generator, dtype=torch.float64)
    copied = torch.rand(len(lonlat), generator=generator) < 0.3
    copied[0] = False
    lonlat[copied] = lonlat[copied.nonzero()[:, 0] - 1]
    return lonlat


@pytest.fixture(scope="module")
def crowds() -> NeighborGraph:
    return neighbor_graph(patterns(), radius_rad=RADIUS, max_neighbors=100)


def deal(performance: Tensor, times: int, seed: int = 0) -> Tensor:
    """The performance permuted over all samples, one column a time."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([performance[torch.randperm(len(performance), generator=generator)] for _ in range(times)], 1)


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7])
@pytest.mark.parametrize("k", [1, 3, 4, 8])
@pytest.mark.parametrize("copies", [0, 2])
def test_moments_are_those_of_all_arrangements(n: int, k: int, copies: int) -> None:
    lonlat = cluster(n, seed=n + k, spread=0.5)
    lonlat[n - copies :] = lonlat[0]
    graph = neighbor_graph(lonlat, radius_rad=0.2, centers=torch.tensor([0]))
    weights, ids = dense_weights(graph, 0, k)
    order = torch.tensor(list(permutations(range(n))))
    generator = torch.Generator().manual_seed(n)
    signs = torch.where(torch.arange(n) < n // 2, -1.0, 1.0).double()
    for marks in (signs, 1 + torch.randn(n, generator=generator, dtype=torch.float64)):
        mean, sigma, skewness = moments_of(weights, marks[graph.order[ids]][order])
        for counted in (False, True):
            found = ours(graph, marks, k, counted=counted)
            assert found[:2] == pytest.approx((mean, sigma), abs=1e-9)
            assert found[2] == pytest.approx(skewness if sigma > 1e-9 else 0, abs=1e-6)


def test_moments_of_a_crowd_far_from_its_background() -> None:
    """Where background is far, crowded samples see one another only, in many triangles."""
    lonlat = cluster(7, seed=2, spread=0.01)
    graph = neighbor_graph(lonlat, radius_rad=0.2, centers=torch.tensor([0]))
    weights, ids = dense_weights(graph, 0, 3)
    assert float(weights[:7, :7].sum()) == 21  # all edges of samples stay among them
    marks = torch.tensor([5.0, -1, 0, 2, 2, -3, 1], dtype=torch.float64)
    every = marks[graph.order[ids]][torch.tensor(list(permutations(range(7))))]
    assert ours(graph, marks, 3) == pytest.approx(moments_of(weights, every), abs=1e-8)


@pytest.mark.parametrize("n", [40, 100])
@pytest.mark.parametrize("kind", ["rare misses", "coin", "real"])
def test_moments_are_those_of_many_shuffles(n: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(n)
    lonlat = cluster(n, seed=1, spread=0.5).round(decimals=1)
    marks = {
        "rare misses": torch.where(torch.arange(n) < n // 10, -1.0, 1.0).double(),
        "coin": 2 * coin(n) - 1,
        "real": torch.randn(n, generator=generator, dtype=torch.float64).exp(),
    }[kind]
    graph = neighbor_graph(lonlat, radius_rad=0.1, centers=torch.tensor([0]))
    weights, ids = dense_weights(graph, 0, 4)
    assert len(ids) == n
    shuffled = marks[torch.rand((20_000, n), generator=generator).argsort(1)]
    mean, sigma, skewness = moments_of(weights, shuffled)
    found = ours(graph, marks)
    assert found[0] == pytest.approx(mean, abs=4 * sigma / 141)
    assert found[1] == pytest.approx(sigma, rel=0.05)
    assert found[2] == pytest.approx(skewness, abs=0.15)


def test_a_model_that_is_always_right_or_always_wrong_scores_zero(crowds: NeighborGraph) -> None:
    for marks, value in (("signed", 1.0), ("signed", 0.0), ("raw", 0.3), ("raw", 1e9 / 7)):
        performance = torch.full((crowds.num_samples,), value)
        result = geobias.ssi(crowds, performance, marks=marks, null="conditional")  # type: ignore[arg-type]
        assert (result.score == 0).all() and (result.z == 0).all() and (result.p == 1).all()
        assert (result.sigma == 0).all()
        assert torch.allclose(result.statistic, result.mean, rtol=1e-9)


def test_equal_marks_among_many_graded_ones_score_zero() -> None:
    lonlat = torch.cat([cluster(30), cluster(30, center=(-100.0, 0.0))])
    graded = torch.cat([torch.full((30,), 0.1), 0.1 * torch.arange(30.0)])
    result = geobias.ssi(lonlat, graded, marks="raw", **CONDITIONAL)  # type: ignore[arg-type]
    assert (result.score[:30] == 0).all() and (result.score[30:] > 0).any()


def test_one_or_two_samples_score_zero_and_none_is_missing() -> None:
    lonlat = torch.tensor([[0.0, 0.0], [0.1, 0.0], [90.0, 0.0], [math.nan, 0.0]], dtype=torch.float64)
    result = geobias.ssi(lonlat, torch.tensor([1.0, 0.0, 1.0, 0.0]), **CONDITIONAL)  # type: ignore[arg-type]
    assert result.score[:3].tolist() == [0, 0, 0] and result.p[:3].tolist() == [1, 1, 1]
    assert result.score[3].isnan() and result.z[3].isnan() and result.p[3].isnan()
    empty = geobias.ssi(torch.zeros(0, 2), torch.zeros(0), **CONDITIONAL)  # type: ignore[arg-type]
    assert len(empty.score) == len(empty.p) == 0


def test_no_p_value_is_below_one_arrangement_of_all() -> None:
    lonlat = cluster(4, spread=0.3)
    result = geobias.ssi(lonlat, torch.tensor([1.0, 0.0, 1.0, 1.0]), **CONDITIONAL)  # type: ignore[arg-type]
    assert (result.n == 4).all() and (result.p >= 1 / 4 - 1e-12).all()
    lonlat = cluster(20, spread=0.3)
    for miss in range(20):
        hits = torch.ones(20)
        hits[miss] = 0
        assert float(geobias.ssi(lonlat, hits, **CONDITIONAL).p.min()) >= 1 / 20 - 1e-12  # type: ignore[arg-type]


def test_the_unit_of_the_marks_plays_no_part() -> None:
    lonlat, hits = cluster(80), 2 * coin(80) - 1
    once, scaled = (geobias.ssi(lonlat, hits * s, marks="raw", **CONDITIONAL) for s in (1, -3e4))  # type: ignore[arg-type]
    assert torch.allclose(once.z, scaled.z, atol=1e-9) and torch.allclose(once.score, scaled.score, atol=1e-9)
    assert torch.equal(once.score, geobias.ssi(lonlat, coin(80), **CONDITIONAL).score)  # type: ignore[arg-type]
    assert torch.allclose(once.p, torch.exp(-once.score))


def test_models_at_once_one_by_one_and_in_pieces_score_alike() -> None:
    lonlat, hits = cluster(300).round(decimals=1), coin(300)
    performance = torch.stack([hits, 1 - hits, coin(len(lonlat), 1)], 1)
    graph = neighbor_graph(lonlat, radius_rad=RADIUS)
    together = geobias.ssi(graph, performance, null="conditional")
    for i in range(3):
        alone = geobias.ssi(graph, performance[:, i], null="conditional")
        for name in ("score", "z", "p", "sigma"):
            assert torch.allclose(getattr(together.select(i), name), getattr(alone, name), atol=1e-12)
    z = (2 * performance - 1)[graph.order]
    pieces = evaluate_conditional(build_weights(graph, chunk_samples=50), z)[4]
    assert torch.allclose(graph.per_center(pieces), together.score, atol=1e-9)


def test_the_joint_null_stays_the_default_of_the_score_and_of_presets_and_has_z_and_p() -> None:
    lonlat, hits = cluster(60), coin(60)
    plain = geobias.ssi(lonlat, hits, radius_rad=RADIUS)
    assert plain.formulation.null == "joint"
    assert torch.equal(plain.z, (plain.statistic - plain.mean) / plain.sigma)
    assert torch.allclose(plain.score, -plain.p.log())
    conditional = geobias.ssi(lonlat, hits, **CONDITIONAL)  # type: ignore[arg-type]
    assert torch.equal(conditional.statistic, plain.statistic)
    assert geobias.ssi(lonlat, hits, radius_rad=RADIUS, preset="pygbs2025").formulation.null == "joint"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"null": "odd"}, "null .* is not known"),
        ({"null": "conditional", "form": "density"}, "tail form only"),
        ({"null": "conditional", "moments": "published"}, "exact moments"),
        ({"null": "conditional", "preset": "pygbs2025"}, 'published forms go with null="joint"'),
    ],
)
def test_what_the_conditional_score_has_not_is_refused(arguments: dict, message: str) -> None:
    for score in (geobias.ssi, geobias.summary):
        with pytest.raises(ValueError, match=message):
            score(cluster(10), coin(10), radius_rad=RADIUS, **arguments)


@pytest.mark.parametrize("skewness", [0.05, 0.5, 1.0, -0.5])
def test_the_normal_score_has_the_tails_of_a_gamma_law(skewness: float) -> None:
    shape = torch.tensor(4 / skewness**2, dtype=torch.float64)
    standard = torch.tensor([-1.2, 0.0, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    upper = torch.special.gammaincc(shape.expand(6), shape + standard * shape.sqrt())
    found = normal_score(standard.sign() * standard.abs() * math.copysign(1, skewness), torch.tensor(skewness).double())
    tail = torch.special.ndtr(-found * math.copysign(1, skewness))
    assert torch.allclose(tail, upper, rtol=0.1, atol=1e-5)
    assert torch.equal(normal_score(standard, torch.zeros(6, dtype=torch.float64)), standard)


@pytest.mark.parametrize("share", [0.15, 0.5])
def test_chance_is_called_as_often_as_promised(crowds: NeighborGraph, share: float) -> None:
    """Duplicates, thin and full neighbourhoods, marks dealt at random: 5 % beyond 1.96, and few far out."""
    hits = (torch.arange(crowds.num_samples) < share * crowds.num_samples).double()
    result = geobias.ssi(crowds, deal(hits, 200), null="conditional")
    z, p, n = result.z, result.p, result.n
    assert 0.04 < float((z.abs() > 1.96).double().mean()) < 0.06
    for low, high in ((26, 99), (100, 100)):
        size = (n >= low) & (n <= high)
        assert int(size.sum()) > 50
        assert 0.04 < float((p[size] <= 0.05).double().mean()) < 0.06
        assert float((p[size] <= 0.001).double().mean()) < 0.0025
    for low, high in ((3, 12), (13, 25)):  # few arrangements: it may call less often than promised, not more
        thin = (n >= low) & (n <= high)
        assert 0.01 < float((p[thin] <= 0.05).double().mean()) < 0.055
        assert float((p[thin] <= 0.001).double().mean()) < 0.0025


def test_the_map_of_dealt_hits_is_empty_and_that_of_a_split_is_not(crowds: NeighborGraph) -> None:
    hits = coin(crowds.num_samples)
    west = torch.remainder(patterns()[:, 0], 1.0) < 0.5  # stripes within every crowd
    dealt, dealt_joint, split = (
        geobias.summary(crowds, marks, null=null, num_resamples=20)  # type: ignore[arg-type]
        for marks, null in ((hits, None), (hits, "joint"), (west, None))
    )
    assert dealt.significant < 0.01 and dealt_joint.significant > 0.1 and split.significant > 0.3
    assert split.mean > dealt.mean
    assert torch.equal(split.significance.z, split.scores.z) and torch.equal(split.significance.p, split.scores.p)
    for value in (0.0, 1.0):
        alike = geobias.summary(crowds, torch.full((crowds.num_samples,), value), num_resamples=20)
        assert alike.mean == alike.significant == 0 and alike.num_scored == alike.num_centers


def test_a_summary_asks_about_the_model_and_a_preset_keeps_its_score() -> None:
    lonlat, hits = cluster(120, spread=1.0), coin(120)
    usual, named, published, places = (
        geobias.summary(lonlat, hits, radius_rad=RADIUS, num_resamples=20, **how)  # type: ignore[arg-type]
        for how in ({}, {"null": "conditional"}, {"preset": "pygbs2025"}, {"marks": "unmarked"})
    )
    assert usual.to_series().equals(named.to_series()) and usual.scores.formulation.null == "conditional"
    table = geobias.ssi(lonlat, hits, radius_rad=RADIUS, preset="pygbs2025")
    assert torch.equal(published.scores.score, table.score)
    conditional = geobias.ssi(lonlat, hits, radius_rad=RADIUS, marks="raw", null="conditional")
    assert torch.equal(published.significance.z, conditional.z)
    assert places.scores.formulation.null == "joint" and places.mean > 0  # where samples are, whatever the model does
    both = geobias.summary(lonlat, hits, radius_rad=RADIUS, num_resamples=20, preset="pygbs2025", null="joint")
    assert torch.equal(both.significance.z, geobias.ssi(lonlat, hits, radius_rad=RADIUS, marks="raw").z)


@pytest.mark.mirror
@pytest.mark.parametrize("dataset", ["yfcc", "inat2018"])
def test_released_hits_dealt_anew_are_called_as_often_as_promised(mirror: Path, dataset: str) -> None:
    from tslab_book.ruler import released_models

    lonlat, hits, _ = released_models(dataset, at_most=1, root=mirror)
    located = ~lonlat.isnan().any(1)
    lonlat, hits = lonlat[located], hits[located, 0]
    centers = torch.randperm(len(lonlat), generator=torch.Generator().manual_seed(1))[:1500]
    graph = neighbor_graph(lonlat, radius_km=100, centers=centers)
    result = geobias.ssi(graph, deal(hits, 40), null="conditional")
    assert 0.04 < float((result.z.abs() > 1.96).double().mean()) < 0.06
    assert 0.04 < float((result.p <= 0.05).double().mean()) < 0.06
    assert float((result.p <= 0.001).double().mean()) < 0.0015
    observed = geobias.ssi(graph, hits, null="conditional")
    assert float((observed.p <= 0.05).double().mean()) > 0.065  # there is geography in the hits
    called = [float(geobias.significance_map(result.select(i)).significant.double().mean()) for i in range(10)]
    assert sum(called) / 10 < 0.005
    joint = geobias.significance_map(geobias.ssi(graph, deal(hits, 1)[:, 0]))
    assert float(joint.significant.double().mean()) > 0.15  # this null calls the crowd, not the model
