"""From centres to a data set: the one number, how certain it is, and where on the map it comes from.

The score of a data set is a mean over centres. Near-by centres share samples, so their scores are not independent and
an interval that resamples single centres would be far too narrow: `block_bootstrap` resamples blocks of the Earth's
surface instead. `significance_map` asks at which centres the pattern is more than chance, `summary` puts everything
into one object.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from tslab._checks import check_count, check_number
from tslab._numbers import Numbers
from tslab.coords import check_lonlat, has_location
from tslab.geobias.hotspots import GetisOrd, LocalMoran, false_discovery, getis_ord, local_moran
from tslab.geobias.inputs import as_outcomes, check_seed
from tslab.geobias.neighbors import NeighborGraph
from tslab.geobias.relative import SRIResult
from tslab.geobias.self_information import Neighborhoods, SSIOptions, SSIResult, formulation, graph_of, ssi
from tslab.geobias.torchspatial import BaseRelative, base_and_relative
from tslab.metrics import interval_of

if TYPE_CHECKING:
    import pandas as pd

BLOCK_KM = 500.0
"""Edge of a bootstrap block: wider than the neighbourhoods in use, narrow enough for hundreds of blocks."""

MOST_RESAMPLES = 1_000_000
"""More of them take hours and change nothing."""

QUARTER_KM = 10_007.543
"""From the equator to a pole."""


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
        base_relative: TorchSpatial's two columns with their spread over seeds, if asked for.
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
    base_relative: BaseRelative | None
    scores: SSIResult = field(repr=False)
    significance: SignificanceMap = field(repr=False)
    moran: LocalMoran | None = field(repr=False)
    getis_ord: GetisOrd | None = field(repr=False)

    def to_series(self) -> "pd.Series":
        """The numbers by name."""
        import pandas as pd

        values = {
            "mean": self.mean,
            "weighted_mean": self.weighted_mean,
            "interval_low": self.interval[0],
            "interval_high": self.interval[1],
            "num_centers": self.num_centers,
            "num_scored": self.num_scored,
            "saturated": self.saturated,
            "significant": self.significant,
        }
        if self.base_relative is not None:
            for name in ("base", "base_std", "relative", "relative_std"):
                values[name] = getattr(self.base_relative, name)
        return pd.Series(values)

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
    base_relative: bool
    num_seeds: int
    max_centers: int | None


def summary(
    samples: Float[Tensor, "n 2"] | Numbers | NeighborGraph,
    performance: Shaped[Tensor, "n *e"] | Numbers | None,
    *,
    alpha: float = 0.05,
    block_km: float = BLOCK_KM,
    num_resamples: int = 1000,
    seed: int = 0,
    base_relative: bool = False,
    num_seeds: int = 3,
    max_centers: int | None = None,
    **score: Unpack[SSIOptions],
) -> GeoBiasSummary:
    """Everything about one model on one data set.

    Args:
        samples, performance: as for `tslab.geobias.ssi`; a graph must be of all samples as centres for the local
            statistics.
        alpha: share of false discoveries that the significance map accepts.
        block_km, num_resamples, seed: of the block bootstrap.
        base_relative: also compute TorchSpatial's base and relative scores (slow: minutes for large data sets) over
            ``num_seeds`` seeds, from at most ``max_centers`` misses. Needs the places as ``samples``.
        score: the keyword arguments of `tslab.geobias.ssi`: radius, neighbours, marks, moments, form, null, preset...

    The significance map always uses the exact moments, whatever the score uses, and the null hypothesis of the score.
    With ``null="joint"`` it also calls places where samples crowd, even if the hits are dealt at random;
    ``null="conditional"`` calls those where the model's hits and misses are arranged.
    """
    check_number("alpha", alpha, above=0, below=1)
    _check_bootstrap(block_km, num_resamples, 0.95, seed)
    places = None if isinstance(samples, NeighborGraph) else samples
    if base_relative and places is None:
        raise ValueError(
            "base_relative needs the places themselves: give lonlat first, and the graph as neighbors=graph"
        )
    given: dict[str, Any] = dict(score)
    where = (*Neighborhoods.__annotations__, "neighbors")
    search = {name: value for name, value in given.items() if name in where}
    rule = {name: value for name, value in given.items() if name not in where}
    formulation(
        score.get("preset"),
        marks=score.get("marks"),
        moments=score.get("moments"),
        form=score.get("form"),
        null=score.get("null"),
    )
    graph = graph_of(samples, **search)
    scores = ssi(graph, performance, **rule)
    if scores.score.ndim != 1:
        raise ValueError(f"a summary is of one model, got {scores.score.shape[1]}; take one with performance[:, i]")
    tested = scores
    if scores.moments != "exact":
        rule = {name: rule[name] for name in ("k", "density") if name in rule}
        tested = ssi(graph, performance, marks=scores.marks, **rule)
    significance = significance_map(tested, alpha=alpha)
    located = graph.neighborhood >= 0
    scored = ~scores.score.isnan()
    local = performance is not None and _can_be_local(graph, performance)
    pair = None
    if base_relative and places is not None:
        pair = base_and_relative(
            places, performance, num_seeds=num_seeds, seed=seed, max_centers=max_centers, device=score.get("device")
        )
    return GeoBiasSummary(
        mean=_weighted(scores.score, torch.ones_like(scores.score)),
        weighted_mean=_weighted(scores.score, scores.n.double()),
        interval=block_bootstrap(scores, block_km=block_km, num_resamples=num_resamples, seed=seed),
        num_centers=int(located.sum()),
        num_scored=int(scored.sum()),
        saturated=float(scores.saturated[located].double().mean()) if bool(located.any()) else math.nan,
        significant=float(significance.significant[scored].double().mean()) if bool(scored.any()) else math.nan,
        base_relative=pair,
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
    confidence: float = 0.95,
    weighted: bool = False,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the mean score, resampling blocks of the Earth's surface with replacement.

    Blocks have about equal area: bands of latitude ``block_km`` high, each cut into a whole number of blocks about
    ``block_km`` wide. Every block keeps all its centres. NaN if fewer than two blocks hold scores.
    ``weighted=True`` gives the interval of the mean weighted with the size of the neighbourhood.
    """
    _check_bootstrap(block_km, num_resamples, confidence, seed)
    score = result.score
    if score.ndim != 1:
        raise ValueError("the bootstrap is of one model; take one with result.select(i)")
    usable = ~score.isnan()
    values = score[usable].cpu()
    weight = result.n[usable].double().cpu() if weighted else torch.ones_like(values)
    block = spatial_blocks(result.lonlat[usable].cpu(), block_km)
    total = torch.bincount(block, weights=values * weight)
    mass = torch.bincount(block, weights=weight)
    if len(total) < 2:
        return math.nan, math.nan
    generator = torch.Generator().manual_seed(seed)
    means = []
    for _ in range(0, num_resamples, 100):  # a hundred resamples at a time
        drawn = torch.randint(len(total), (min(100, num_resamples), len(total)), generator=generator)
        means.append(total[drawn].sum(1) / mass[drawn].sum(1))
    return interval_of(torch.cat(means)[:num_resamples], level=confidence)


def spatial_blocks(lonlat: Float[Tensor, "c 2"], block_km: float) -> Tensor:
    """Index of the block of about ``block_km`` by ``block_km`` that each place lies in, counted from 0; -1 for none."""
    check_lonlat(lonlat)
    check_number("block_km", block_km, at_least=1, at_most=2 * QUARTER_KM)
    bands = max(1, round(2 * QUARTER_KM / block_km))
    located = has_location(lonlat)
    lon, lat = lonlat[located].double().unbind(-1)
    band = ((lat + 90) / 180 * bands).floor().clamp(0, bands - 1)
    middle = torch.deg2rad((band + 0.5) / bands * 180 - 90)
    columns = (4 * QUARTER_KM * middle.cos() / block_km).round().clamp_min(1)
    column = (torch.remainder(lon + 180, 360) / 360 * columns).floor()
    block = torch.full((len(lonlat),), -1, device=lonlat.device)
    block[located] = torch.unique(band * 100_000 + column, return_inverse=True)[1]
    return block


def _check_bootstrap(block_km: float, num_resamples: int, confidence: float, seed: int) -> None:
    check_number("block_km", block_km, at_least=1, at_most=2 * QUARTER_KM)
    check_count("num_resamples", num_resamples, at_most=MOST_RESAMPLES)
    check_number("confidence", confidence, above=0, below=1)
    check_seed(seed)


def _weighted(values: Tensor, weight: Tensor) -> float:
    usable = ~values.isnan()
    if not bool(usable.any()):
        return math.nan
    return float((values[usable] * weight[usable]).sum() / weight[usable].sum())
