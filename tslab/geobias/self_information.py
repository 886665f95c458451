"""Spatial self-information: how surprising the pattern of hits and misses around each centre is.

Around a centre, samples carry marks (did the model get it right?) and background points carry zero. The statistic is
the Moran sum over the k-nearest-neighbour graph of both; the score is the surprisal of its value. `ssi` evaluates it
for every centre and any number of models at once. The marks decide what is measured:

- ``"unmarked"``: every sample is 1. Only where the samples are matters, not what the model did.
- ``"signed"``: a hit is +1, a miss -1. The recommended marks: hit, miss and background are three different things.
- ``"raw"``: the performance itself. With hits 1 and misses 0, a miss cannot be told from background.

The null hypothesis decides what would be no surprise:

- ``"joint"``: marks and background shuffled together. A crowd of samples is a surprise, whatever the model did there.
- ``"conditional"``: marks shuffled among the samples of the neighbourhood. It asks about the model alone; see
  `tslab.geobias.conditional`.

*Training against geo-bias.* The marked score is a function of the marks, and marks come from a threshold, which has no
useful gradient. `marked_ssi_loss` uses the straight-through trick: the forward pass has the marks +1 and -1, the
backward pass the slope of a soft version. The graph does not depend on the model, so it is built once for the training
samples. `density_weights` is the plain alternative of reweighting.
"""

import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, get_args

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from tslab._checks import check_choice, check_count, check_number
from tslab._numbers import Numbers
from tslab.coords import has_location, unit_vectors
from tslab.geobias.conditional import evaluate_conditional
from tslab.geobias.inputs import Pair, as_hits, as_outcomes, as_places, as_radius, as_tensor
from tslab.geobias.neighbors import NeighborGraph, neighbor_graph
from tslab.geobias.statistic import Form, MomentKind, evaluate_joint, two_sided_p
from tslab.geobias.weights import MOST_NEIGHBORS, weight_graphs

if TYPE_CHECKING:
    import pandas as pd

Marks = Literal["unmarked", "signed", "raw"]
Null = Literal["joint", "conditional"]
Preset = Literal["pygbs2025"]


@dataclass(frozen=True)
class Formulation:
    """What is measured: marks, moments, form, null, and whether nodes among many coincident samples are overfull.

    Errors: ``ValueError`` for an unknown word, and for a conditional score with anything but exact moments and tail.
    """

    marks: Marks = "signed"
    moments: MomentKind = "exact"
    form: Form = "tail"
    null: Null = "joint"
    overfull: bool = False

    def __post_init__(self) -> None:
        for name, words in (("marks", Marks), ("moments", MomentKind), ("form", Form), ("null", Null)):
            check_choice(name, getattr(self, name), get_args(words))
        if self.null == "conditional" and (self.moments, self.form) != ("exact", "tail"):
            raise ValueError(
                'null="conditional" has exact moments and the tail form only, got '
                f'moments="{self.moments}", form="{self.form}"; published forms go with null="joint"'
            )


PRESETS = {"pygbs2025": Formulation("raw", "published", "density", overfull=True)}
"""``pygbs2025``: the published per-sample tables of fMoW and iNat2018 (January 2025)."""


def formulation(preset: str | None = None, **given: Any) -> Formulation:
    """The fields of `Formulation` that are given (not None), else the preset's, else the defaults."""
    base = Formulation() if preset is None else PRESETS[check_choice("preset", preset, PRESETS)]
    return replace(base, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class SSIResult:
    """Scores of all centres with their parts; NaN where a centre has no location or the score is not defined.

    Attributes:
        score, statistic, mean, sigma: float64, (c,) or, for performance of shape (n, e), (c, e).
        z, p: (statistic - mean) / sigma and its two-sided p-value, of the same shape; positive z where like marks are
            neighbours more often than by chance.
        n, background: samples and background points of each centre's neighbourhood, (c,).
        saturated: True where the neighbourhood was cut at ``max_neighbors``.
        lonlat: place of each centre in degrees.
        rows: input row of each centre, -1 if it was given by coordinates.
        formulation: what was measured.
    """

    score: Float[Tensor, "c *e"]
    statistic: Float[Tensor, "c *e"]
    mean: Float[Tensor, "c *e"]
    sigma: Float[Tensor, "c *e"]
    z: Float[Tensor, "c *e"]
    p: Float[Tensor, "c *e"]
    n: Int[Tensor, " c"]
    background: Int[Tensor, " c"]
    saturated: Tensor
    lonlat: Float[Tensor, "c 2"]
    rows: Int[Tensor, " c"]
    formulation: Formulation

    def to_pandas(self) -> "pd.DataFrame":
        """One row per centre (single performance only): lon, lat, n, background, statistic, mean, sigma, score."""
        import pandas as pd

        if self.score.ndim != 1:
            raise ValueError(f"this result holds {self.score.shape[1]} models; take one with result.select(i)")
        lon, lat = self.lonlat.cpu().unbind(-1)
        names = ("n", "background", "saturated", "statistic", "mean", "sigma", "score")
        columns = {name: getattr(self, name).cpu().numpy() for name in names}
        return pd.DataFrame({"row": self.rows.cpu(), "lon": lon, "lat": lat, **columns})

    def select(self, index: int) -> "SSIResult":
        """The result of one model out of several."""
        if self.score.ndim != 2:
            raise ValueError("this result is of one model already")
        check_count("index", index, at_least=0, at_most=self.score.shape[1] - 1)
        names = ("score", "statistic", "mean", "sigma", "z", "p")
        return replace(self, **{name: getattr(self, name)[:, index] for name in names})


class Neighborhoods(TypedDict, total=False):
    """Keyword arguments that say where the neighbourhoods are: those of `neighbor_graph`."""

    radius_km: float | None
    radius_rad: float | None
    max_neighbors: int | None
    centers: Tensor | Numbers | None
    device: str | torch.device | None


def ssi(
    samples: Float[Tensor, "n 2"] | Numbers | NeighborGraph,
    performance: Shaped[Tensor, "n *e"] | Numbers | None,
    *,
    neighbors: Pair | NeighborGraph | None = None,
    k: int = 4,
    density: float | Literal["auto"] = "auto",
    marks: Marks | None = None,
    moments: MomentKind | None = None,
    form: Form | None = None,
    null: Null | None = None,
    overfull: bool | None = None,
    preset: Preset | None = None,
    **where: Unpack[Neighborhoods],
) -> SSIResult:
    """Spatial self-information of every centre.

    Args:
        samples: (longitude, latitude) in degrees, (n, 2), rows with NaN take no part and get NaN; or the graph that
            `neighbor_graph` has made of them: make it once to score many models.
        performance: one value per sample, or one column per model, (n, e); not needed for ``marks="unmarked"``.
            ``"signed"`` takes hits and misses as bool, 1/0 or +1/-1.
        neighbors: the graph, where ``samples`` are the places; or (indptr, indices) to take the neighbourhoods as
            given: then ``radius`` sets the background only.
        k: nearest nodes in the weight graph.
        density: background points per steradian, or "auto": ceil(5 n / (pi r^2)).
        marks, moments, form: default "signed", "exact", "tail"; see `tslab.geobias.statistic`.
        null: what is shuffled: "joint" (default) marks and background together, "conditional" marks among the samples
            of the neighbourhood (exact moments and tail form only).
        overfull: nodes as the released code makes them among many coincident samples, see `tslab.geobias.weights`.
        preset: "pygbs2025" makes the defaults those of the published per-sample tables: raw marks, published moments,
            density form, and overfull nodes. Arguments that you give are kept.
        where: ``radius_km`` or ``radius_rad``, ``max_neighbors`` (100; None: no cut), ``centers`` and ``device`` of the
            neighbourhoods, see `neighbor_graph`; not for a graph, which has them.

    Warns if published moments meet more samples than background points (a density that is too low).

    The score is NaN for n = 0, for values that are all equal (sigma = 0; the published sigma is 0 for n = 1 too) and
    where the published variance is negative. The conditional score is 0 where nothing can be rearranged: n < 3, equal
    marks, no variance; only n = 0 gives NaN.

    Errors: ``ValueError`` for wrong shapes, marks that are no marks, missing or doubled radius.
    """
    how = formulation(preset, marks=marks, moments=moments, form=form, null=null, overfull=overfull)
    k = check_count("k", k, at_most=MOST_NEIGHBORS)
    if density != "auto":
        check_number("density", density, above=0, hint='points per steradian, or "auto"')
    graph = graph_of(samples, neighbors=neighbors, **where)
    marked, single = _mark_values(graph, performance, how.marks)
    sums = (how.moments, how.null) == ("exact", "joint")
    chunks = weight_graphs(graph, k, None if density == "auto" else density, overfull=how.overfull, sums=sums)
    columns, m = [marked.new_zeros((0, marked.shape[1]))] * 5, graph.indptr[:0]
    if len(graph.sizes):
        *columns, m = (
            evaluate_conditional(chunks, marked)
            if how.null == "conditional"
            else evaluate_joint(chunks, marked, how.moments, how.form)
        )
    crowded = int((graph.sizes > m).sum())
    if how.moments == "published" and crowded:
        warnings.warn(
            f"{crowded} neighbourhoods have more samples than background points, for which the published moments are "
            'not made; raise the density, or use density="auto"',
            stacklevel=2,
        )
    statistic, mean, sigma, z, score = (graph.per_center(part[:, 0] if single else part) for part in columns)
    return SSIResult(
        score=score,
        statistic=statistic,
        mean=mean,
        sigma=sigma,
        z=z,
        p=torch.exp(-score) if how.form == "tail" else two_sided_p(z),
        n=graph.n,
        background=graph.per_center(m, missing=0),
        saturated=graph.saturated,
        lonlat=graph.center_lonlat,
        rows=graph.center_rows,
        formulation=how,
    )


def graph_of(
    samples: Float[Tensor, "n 2"] | Numbers | NeighborGraph,
    *,
    neighbors: Pair | NeighborGraph | None = None,
    **where: Unpack[Neighborhoods],
) -> NeighborGraph:
    """The graph that the arguments of a score mean: a given one, or the one that a search finds.

    A radius beside a graph must be the graph's, and so must the places.
    """
    if isinstance(samples, NeighborGraph):
        if neighbors is not None:
            raise ValueError("the samples are a graph already; leave out neighbors")
        given = samples
    elif isinstance(neighbors, NeighborGraph):
        given, degrees = neighbors, as_places(samples).double().to(neighbors.device)
        if given.num_samples != len(degrees):
            raise ValueError(f"the graph is of {given.num_samples} samples, but lonlat has {len(degrees)}")
        same = torch.isclose(unit_vectors(degrees[given.order]), given.xyz, rtol=0, atol=1e-6)
        if not same.all() or int(has_location(degrees).sum()) != len(given.order):
            raise ValueError("the graph is of other places than lonlat holds; make it of these with neighbor_graph")
    else:
        return neighbor_graph(samples, neighbors=neighbors, **where)
    if where.get("centers") is not None:
        raise ValueError("a NeighborGraph has its own centers; give centers to neighbor_graph instead")
    if unknown := set(where) - set(Neighborhoods.__annotations__):
        raise TypeError(f"unknown argument {sorted(unknown)[0]!r}; known: {', '.join(Neighborhoods.__annotations__)}")
    radius_km, radius_rad = where.get("radius_km"), where.get("radius_rad")
    if radius_km is not None or radius_rad is not None:
        radius = as_radius(radius_km, radius_rad)
        if not math.isclose(radius, given.radius_rad, rel_tol=1e-6):
            raise ValueError(f"the graph has a radius of {given.radius_rad:g} rad, but {radius:g} rad is asked for")
    return given


def _mark_values(graph: NeighborGraph, performance: Tensor | Numbers | None, marks: Marks) -> tuple[Tensor, bool]:
    """Marks of the internal samples, (v, e) in float64, and whether there is a single column without an axis."""
    if marks == "unmarked":  # the values play no part, their shape does
        given = torch.ones(graph.num_samples) if performance is None else as_tensor("performance", performance)
        return as_outcomes(torch.ones_like(given, dtype=torch.float64), graph.num_samples, graph.order)
    if performance is None:
        raise ValueError(f'marks="{marks}" needs a performance value for each sample; only "unmarked" does without')
    values, single = as_outcomes(performance, graph.num_samples, graph.order)
    if marks == "raw":
        return values, single
    return torch.where(as_hits(values, 'marks="signed"'), 1.0, -1.0).double(), single


def straight_through_marks(
    performance: Float[Tensor, " n"], *, threshold: float = 0.5, temperature: float = 0.25
) -> Float[Tensor, " n"]:
    """+1 where the performance exceeds the threshold, else -1; gradient of tanh((p - threshold) / temperature).

    ``performance`` is any per-sample score that grows with quality, such as the probability of the true class.
    """
    check_number("threshold", threshold)
    check_number("temperature", temperature, above=0)
    soft = torch.tanh((performance - threshold) / temperature)
    hard = torch.where(performance > threshold, 1.0, -1.0).to(soft)
    return hard + (soft - soft.detach())  # the sum in brackets is exactly 0: marks are exactly +1 and -1


def marked_ssi_loss(
    graph: NeighborGraph,
    performance: Float[Tensor, " n"],
    *,
    k: int = 4,
    threshold: float = 0.5,
    temperature: float = 0.25,
    null: Null = "conditional",
    clustering_only: bool = True,
) -> Float[Tensor, ""]:
    """Mean marked spatial self-information over the centres of ``graph``, differentiable in ``performance``.

    Args:
        graph: of the training samples. ``centers`` of the graph decide which neighbourhoods enter: a random
            hundred per epoch is enough.
        performance: per sample, larger is better, with gradient; see `straight_through_marks`.
        k: of the weight graph.
        threshold, temperature: of the marks.
        null: "conditional" asks for hits and misses that are mixed, whatever their number; "joint" also for as many
            misses as hits where samples crowd, and its score of a perfect model is far from zero. Exact moments and
            the tail form in both.
        clustering_only: leave out centres where like marks are *less* often neighbours than by chance: the loss then
            asks for no more than an even spread.

    The value has the dtype of ``performance``; the sums are in float64. Centres without a score do not count; 0 with
    zero gradient if none is left.
    """
    check_choice("null", null, get_args(Null))
    if performance.shape != (graph.num_samples,) or not performance.is_floating_point():
        raise ValueError(
            f"performance must be a floating point tensor of shape ({graph.num_samples},), got {performance.dtype} of "
            f"shape {tuple(performance.shape)}"
        )
    marks = straight_through_marks(performance, threshold=threshold, temperature=temperature)
    z = marks.to(graph.device, torch.float64)[graph.order][:, None]
    if bool(z.isnan().any()):
        raise ValueError("performance is NaN for samples that have a location; a score of them has no value")
    if len(graph.sizes) == 0:
        return performance.sum() * 0
    evaluate = evaluate_conditional if null == "conditional" else evaluate_joint
    *_, standard, score, _ = evaluate(weight_graphs(graph, k, sums=null == "joint"), z)
    centers = graph.neighborhood[graph.neighborhood >= 0]
    standard, score = standard[centers, 0], score[centers, 0]
    counted = ~score.isnan() & ((standard > 0) if clustering_only else True)
    return (score[counted].sum() / (~score.isnan()).sum().clamp_min(1)).to(performance.dtype)


def density_weights(graph: NeighborGraph, *, strength: float = 1.0) -> Float[Tensor, " n"]:
    """Sample weights that undo uneven sampling: proportional to n^-strength for n samples in the neighbourhood, mean 1.

    The plain baseline beside `marked_ssi_loss`: multiply the per-sample training loss with them. Needs a graph whose
    centres are all rows; samples without a location get weight 1.
    """
    check_number("strength", strength)
    if not torch.equal(graph.center_rows.cpu(), torch.arange(graph.num_samples)):
        raise ValueError("density weights need a graph with all rows as centers; make it with centers=None")
    n = graph.n.double()
    located = n > 0
    weight = torch.where(located, n.clamp_min(1) ** -strength, 1.0)
    scale = weight[located].mean() if bool(located.any()) else weight.new_ones(())
    return torch.where(located, weight / scale, 1.0)
