"""From centres to a data set: the one number, how certain it is, and where on the map it comes from.

The score of a data set is a mean over centres. Near-by centres share samples, so their scores are not independent and
an interval that resamples single centres would be far too narrow: `block_bootstrap` resamples blocks of the Earth's
surface instead. `significance_map` asks at which centres the pattern is more than chance, `summary` puts everything
into one object.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Unpack

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from tslab._checks import check_count, check_number
from tslab._numbers import Numbers
from tslab.coords import EARTH_RADIUS_KM
from tslab.earth import spatial_blocks
from tslab.geobias.hotspots import GetisOrd, LocalMoran, false_discovery, getis_ord, local_moran
from tslab.geobias.inputs import as_outcomes, check_seed
from tslab.geobias.neighbors import NeighborGraph
from tslab.geobias.relative import SRIResult
from tslab.geobias.self_information import Neighborhoods, SSIOptions, SSIResult, formulation, graph_of, ssi
from tslab.metrics import interval_of

if TYPE_CHECKING:
    import pandas as pd

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
        table = self.scores.to_pandas()
        for name in ("z", "p", "q", "significant"):
            table[name] = getattr(self.significance, name).cpu().numpy()
        if self.moran is not None and self.getis_ord is not None:
            table["moran"] = self.moran.statistic.cpu().numpy()
            table["moran_p"] = self.moran.p.cpu().numpy()
            table["quadrant"] = self.moran.quadrant.cpu().numpy()
            table["getis_ord"] = self.getis_ord.z.cpu().numpy()
        return table


class SummaryOptions(SSIOptions, total=False):
    """All keyword arguments of `summary`."""

    alpha: float
    block_km: float
    num_resamples: int
    seed: int


def summary(
    samples: Float[Tensor, "n 2"] | Numbers | NeighborGraph,
    performance: Shaped[Tensor, "n *e"] | Numbers | None,
    *,
    alpha: float = 0.05,
    block_km: float = BLOCK_KM,
    num_resamples: int = 1000,
    seed: int = 0,
    **score: Unpack[SSIOptions],
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
    where = {name: score.pop(name) for name in (*Neighborhoods.__annotations__, "neighbors") if name in score}  # type: ignore[misc]
    preset, marks = score.get("preset"), score.get("marks")
    usual = score.get("null") or ("joint" if marks == "unmarked" else "conditional")
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
