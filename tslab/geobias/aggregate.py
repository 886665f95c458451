"""From centres to a data set: the one number, how certain it is, and where on the map it comes from.

The score of a data set is a mean over centres. Near-by centres share samples, so their scores are not independent and
an interval that resamples single centres would be far too narrow: `block_bootstrap` resamples blocks of the Earth's
surface instead. `significance_map` asks at which centres the pattern is more than chance, `summary` puts everything
into one object.

Hot spots: where hits and misses cluster, by the local statistics that spatial analysts know.

Spatial self-information says how unusual a neighbourhood is; local Moran's I and Getis and Ord's G* say in which
direction: high among high, low among low, or an exception to its surroundings. Both use the neighbourhoods of a
`NeighborGraph` and are compared in the tests with esda (PySAL), the reference for them. Testing every centre means
testing thousands of times; `false_discovery` turns p-values into decisions that hold for all of them together.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from tslab._checks import check_count, check_number
from tslab._numbers import Numbers
from tslab.coords import EARTH_RADIUS_KM
from tslab.earth import spatial_blocks
from tslab.geobias.inputs import as_outcomes, as_tensor, check_seed
from tslab.geobias.neighbors import NeighborGraph
from tslab.geobias.relative import SRIResult
from tslab.geobias.self_information import Neighborhoods, Null, SSIResult, formulation, graph_of, ssi
from tslab.geobias.statistic import two_sided_p
from tslab.metrics import interval_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LocalMoran:
    """Local Moran's I of each centre with its conditional moments; NaN without neighbours or location.

    ``quadrant``: 1 high among high, 2 low among high, 3 low among low, 4 high among low (0: undefined).
    """

    statistic: Float[Tensor, " c"]
    mean: Float[Tensor, " c"]
    sigma: Float[Tensor, " c"]
    z: Float[Tensor, " c"]
    p: Float[Tensor, " c"]
    quadrant: Int[Tensor, " c"]


@dataclass(frozen=True)
class GetisOrd:
    """Getis and Ord's G* of each centre as a z-score: positive in hot spots, negative in cold ones, and its p-value."""

    z: Float[Tensor, " c"]
    p: Float[Tensor, " c"]


def local_moran(graph: NeighborGraph, values: Shaped[Tensor, " n"] | Numbers) -> LocalMoran:
    """Local Moran's I with row-standardised binary weights over the neighbourhoods (the sample itself excluded).

    With z the deviations from the mean of all located samples and m2 their mean square:
        I_i = z_i / m2 * (mean of z over the neighbours of i).
    Mean and variance are those under random placement of the other values, given z_i (Anselin 1995; Sokal et al.
    1998, equations A7 and A8); the p-value is two-sided under a normal law, an approximation for few neighbours.

    Errors: ``ValueError`` if the graph's centres are not rows of the data, or values are missing or constant.
    """
    z, own, total, count = _sums(graph, values, include_self=False)
    n = len(z)
    m2 = z.square().mean()
    statistic = own / m2 * total / count
    mean = -own.square() / ((n - 1) * m2)
    variance = (own / m2) ** 2 * n / (n - 2) * (1 / count - 1 / (n - 1)) * (m2 - own.square() / (n - 1))
    sigma = variance.clamp_min(0).sqrt()
    score = (statistic - mean) / sigma
    high, around = own > 0, total > 0
    quadrant = torch.where(high, torch.where(around, 1, 4), torch.where(around, 2, 3))
    usable = ~(own.isnan() | (count == 0))
    statistic, mean, sigma, score = (torch.where(usable, x, torch.nan) for x in (statistic, mean, sigma, score))
    return LocalMoran(statistic, mean, sigma, score, two_sided_p(score), torch.where(usable, quadrant, 0))


def getis_ord(graph: NeighborGraph, values: Shaped[Tensor, " n"] | Numbers) -> GetisOrd:
    """Getis and Ord's G* with binary weights over the neighbourhoods, the sample itself included.

    With mean y and standard deviation s (divisor n) of all located samples and w the neighbourhood's size:
        z = (sum of values in the neighbourhood - w y) / (s sqrt((n w - w^2) / (n - 1)))   (Ord and Getis 1995).
    NaN for a neighbourhood that holds all samples. Errors as for `local_moran`.
    """
    z, own, total, count = _sums(graph, values, include_self=True)
    n = len(z)
    score = total / (z.square().mean().sqrt() * ((n * count - count**2) / (n - 1)).sqrt())
    score = torch.where(own.isnan() | (count >= n), torch.nan, score)
    return GetisOrd(score, two_sided_p(score))


def false_discovery(
    p: Float[Tensor, " c"] | Numbers, alpha: float = 0.05
) -> tuple[Bool[Tensor, " c"], Float[Tensor, " c"]]:
    """Benjamini and Hochberg (1995): which tests to call, and the q-value of each; NaN p-values take no part.

    A test is called if its q-value, min over larger p of p m / rank, is at most ``alpha``. Among the called tests the
    expected share of false ones is then at most ``alpha``, for independent or positively dependent tests: the
    overlapping neighbourhoods of near-by centres are positively dependent.
    """
    check_number("alpha", alpha, above=0, below=1)
    values = as_tensor("p", p).detach()
    if values.ndim != 1 or bool(((values < 0) | (values > 1)).any()):
        raise ValueError("p must be probabilities, between 0 and 1, in one dimension; NaN for no test")
    q = torch.full_like(values, torch.nan, dtype=torch.float64)
    tested = ~values.isnan()
    if bool(tested.any()):
        from scipy.stats import false_discovery_control

        found = false_discovery_control(values[tested].double().cpu().numpy())
        q[tested] = torch.from_numpy(found).to(q.device)
    return q <= alpha, q


def _sums(
    graph: NeighborGraph, values: Tensor | Numbers, *, include_self: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Deviations of all located samples; per centre its own, the sum over its neighbourhood, and the count."""
    if bool((graph.center_rows < 0).any()):
        raise ValueError("local statistics need centres that are samples; make the graph with centers=None or rows")
    columns, single = as_outcomes(values, graph.num_samples, graph.order, name="values")
    if not single:
        raise ValueError(f"values must have shape ({graph.num_samples},): local statistics are of one model")
    located = columns[:, 0]
    z = located - located.mean()
    if bool(z.square().sum() <= 1e-14 * located.square().sum()):
        raise ValueError("values are all equal: there is nothing to be hot or cold")
    sizes = graph.sizes
    sums = torch.segment_reduce(z[graph.indices.long()], "sum", lengths=sizes)
    total, count = graph.per_center(sums), graph.n.double()

    internal = torch.full((graph.num_samples,), -1, device=graph.device)
    internal[graph.order] = torch.arange(len(graph.order), device=graph.device)
    mine = internal[graph.center_rows]
    own = torch.where(mine >= 0, z[mine.clamp_min(0)], torch.nan)
    missing = (
        int(include_self) - _holds(graph, mine).double()
    )  # among many coincident samples the cut can drop the centre
    return z, own, total + missing * own, count + missing


def _holds(graph: NeighborGraph, internal: Tensor) -> Tensor:
    """True where a centre's neighbourhood holds the given internal sample."""
    if len(graph.indices) == 0:
        return torch.zeros_like(internal, dtype=torch.bool)
    stride = max(len(graph.order), 1)
    owner = torch.repeat_interleave(torch.arange(len(graph.sizes), device=graph.device), graph.sizes)
    keys = owner * stride + graph.indices
    wanted = graph.neighborhood.clamp_min(0) * stride + internal.clamp_min(0)
    position = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
    return (keys[position] == wanted) & (internal >= 0) & (graph.neighborhood >= 0)


BLOCK_KM = 500.0
"""Edge of a bootstrap block: wider than the neighbourhoods in use, narrow enough for hundreds of blocks."""

MOST_RESAMPLES = 1_000_000
"""More of them take hours and change nothing."""


@dataclass(frozen=True)
class SignificanceMap:
    """What a score says at each centre when all centres are tested together.

    Attributes:
        z: (statistic - mean) / sigma; positive where like marks are neighbours more often than by chance.
        p, q: two-sided p-value, and Benjamini and Hochberg's q-value over all centres.
        significant: q at most ``alpha``.
    """

    z: Float[Tensor, " c"]
    p: Float[Tensor, " c"]
    q: Float[Tensor, " c"]
    significant: Bool[Tensor, " c"]
    alpha: float


@dataclass(frozen=True)
class GeoBiasSummary:
    """Scores of one model on one data set. ``to_series()`` has the numbers, the rest is per centre.

    Attributes:
        mean: mean score over centres with a score.
        weighted_mean: the same weighted with the size of the neighbourhood.
        interval: bootstrap interval of the mean, by spatial block.
        num_centers, num_scored: centres with a location, and of these those with a score.
        saturated: share of centres whose neighbourhood was cut at ``max_neighbors``.
        significant: share of scored centres called after control of false discoveries.
        scores, significance, moran, getis_ord: per centre; the local statistics are of the hits, None if all
            values are equal.
    """

    mean: float
    weighted_mean: float
    interval: tuple[float, float]
    num_centers: int
    num_scored: int
    saturated: float
    significant: float
    scores: SSIResult = field(repr=False)
    significance: SignificanceMap = field(repr=False)
    moran: LocalMoran | None = field(repr=False)
    getis_ord: GetisOrd | None = field(repr=False)

    def to_series(self) -> "pd.Series":
        """The numbers by name."""
        import pandas as pd

        names = ("mean", "weighted_mean", "num_centers", "num_scored", "saturated", "significant")
        values = {name: getattr(self, name) for name in names}
        return pd.Series(values | {"interval_low": self.interval[0], "interval_high": self.interval[1]})

    def to_pandas(self) -> "pd.DataFrame":
        """One row per centre: the parts of the score, z, p, q, significance and the local statistics."""
        columns = {name: getattr(self.significance, name) for name in ("z", "p", "q", "significant")}
        if self.moran is not None and self.getis_ord is not None:
            columns |= {"moran": self.moran.statistic, "moran_p": self.moran.p, "quadrant": self.moran.quadrant}
            columns["getis_ord"] = self.getis_ord.z
        return self.scores.to_pandas().assign(**{name: column.cpu().numpy() for name, column in columns.items()})


def summary(
    samples: Float[Tensor, "n 2"] | Numbers | NeighborGraph,
    performance: Shaped[Tensor, "n *e"] | Numbers | None,
    *,
    alpha: float = 0.05,
    block_km: float = BLOCK_KM,
    num_resamples: int = 1000,
    seed: int = 0,
    **score: Any,
) -> GeoBiasSummary:
    """Everything about one model on one data set.

    Args:
        samples, performance: as for `tslab.geobias.ssi`; a graph must be of all samples as centres for the local
            statistics.
        alpha: share of false discoveries that the significance map accepts.
        block_km, num_resamples, seed: of the block bootstrap.
        score: the keyword arguments of `tslab.geobias.ssi`: radius, neighbours, marks, moments, form, null, preset...

    The null hypothesis is the conditional one unless you name another: score and map ask where the model's hits and
    misses are arranged, and a model that is always right scores zero. With ``null="joint"`` they also call places
    where samples crowd, even if the hits are dealt at random. A preset keeps its published score, with the conditional
    map beside it. ``marks="unmarked"``, which says nothing about a model, has the joint null in both.

    The significance map always uses the exact moments, whatever the score uses.
    """
    check_number("alpha", alpha, above=0, below=1)
    _check_bootstrap(block_km, num_resamples, seed)
    where = {name: score.pop(name) for name in (*Neighborhoods.__annotations__, "neighbors") if name in score}
    preset, marks = score.get("preset"), score.get("marks")
    usual: Null = score.get("null") or ("joint" if marks == "unmarked" else "conditional")
    if preset is None:
        score["null"] = usual
    how = formulation(preset, **{name: score.get(name) for name in ("marks", "moments", "form", "null", "overfull")})
    graph = graph_of(samples, **where)
    scores = tested = ssi(graph, performance, **score)
    if scores.score.ndim != 1:
        raise ValueError(f"a summary is of one model, got {scores.score.shape[1]}; take one with performance[:, i]")
    if (how.moments, how.null) != ("exact", usual):
        k, density = score.get("k", 4), score.get("density", "auto")
        tested = ssi(graph, performance, k=k, density=density, marks=how.marks, null=usual)
    significance = significance_map(tested, alpha=alpha)
    located, scored = graph.neighborhood >= 0, ~scores.score.isnan()
    local = performance is not None and _can_be_local(graph, performance)
    return GeoBiasSummary(
        mean=float(scores.score.nanmean()),
        weighted_mean=float((scores.score * scores.n)[scored].sum() / scores.n[scored].sum()),
        interval=block_bootstrap(scores, block_km=block_km, num_resamples=num_resamples, seed=seed),
        num_centers=int(located.sum()),
        num_scored=int(scored.sum()),
        saturated=float(scores.saturated[located].double().mean()),
        significant=float(significance.significant[scored].double().mean()),
        scores=scores,
        significance=significance,
        moran=local_moran(graph, performance) if local else None,
        getis_ord=getis_ord(graph, performance) if local else None,
    )


def _can_be_local(graph: NeighborGraph, performance: Tensor | Numbers) -> bool:
    """True if the local statistics exist: the centres are samples, and the values are not all equal."""
    if len(graph.order) == 0 or bool((graph.center_rows < 0).any()):
        return False
    values, _ = as_outcomes(performance, graph.num_samples, graph.order)
    return bool((values != values[:1]).any())


def significance_map(result: SSIResult, *, alpha: float = 0.05) -> SignificanceMap:
    """At which centres the marks are arranged in a way that chance does not explain.

    The p-values are those of the result; use exact moments. Centres at one place are one test: they share samples,
    statistic and decision.
    """
    check_number("alpha", alpha, above=0, below=1)
    if result.score.ndim != 1:
        raise ValueError("a significance map is of one model; take one with result.select(i)")
    z, p = result.z, result.p
    places, which = torch.unique(result.lonlat.nan_to_num(nan=999.0), dim=0, return_inverse=True)
    first = torch.full((len(places),), len(p), device=p.device)
    first = first.scatter_reduce(0, which, torch.arange(len(p), device=p.device), "amin")
    significant, q = false_discovery(p[first], alpha)
    return SignificanceMap(z, p, q[which], significant[which], alpha)


def block_bootstrap(
    result: SSIResult | SRIResult,
    *,
    block_km: float = BLOCK_KM,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of the mean score, resampling blocks of the Earth's surface with replacement.

    Blocks are the cells of equal area of `tslab.earth.spatial_blocks`, about ``block_km`` wide and high. Every block
    keeps all its centres. NaN if fewer than two blocks hold scores.
    """
    _check_bootstrap(block_km, num_resamples, seed)
    if result.score.ndim != 1:
        raise ValueError("the bootstrap is of one model; take one with result.select(i)")
    usable = ~result.score.isnan()
    values = result.score[usable].cpu()
    block = spatial_blocks(result.lonlat[usable].cpu(), size_km=block_km)
    total, mass = torch.bincount(block, weights=values), torch.bincount(block)
    if len(total) < 2:
        return math.nan, math.nan
    generator = torch.Generator().manual_seed(seed)
    means = []
    for _ in range(0, num_resamples, 100):  # a hundred resamples at a time
        drawn = torch.randint(len(total), (min(100, num_resamples), len(total)), generator=generator)
        means.append(total[drawn].sum(1) / mass[drawn].sum(1))
    return interval_of(torch.cat(means)[:num_resamples])


def _check_bootstrap(block_km: float, num_resamples: int, seed: int) -> None:
    check_number("block_km", block_km, at_least=1, at_most=math.pi * EARTH_RADIUS_KM)
    check_count("num_resamples", num_resamples, at_most=MOST_RESAMPLES)
    check_seed(seed)
