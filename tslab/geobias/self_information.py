"""Spatial self-information: how surprising the pattern of hits and misses around each centre is.

Around a centre, samples carry marks (did the model get it right?) and background points carry zero. The statistic is
the Moran sum over the k-nearest-neighbour graph of both; the score is the surprisal of its value. `ssi` evaluates it
for every centre and any number of models at once. The marks decide what is measured:

- ``"unmarked"``: every sample is 1. Only where the samples are matters, not what the model did.
- ``"signed"``: a hit is +1, a miss -1. The recommended marks: hit, miss and background are three different things.
- ``"raw"``: the performance itself. With hits 1 and misses 0, a miss cannot be told from background.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, cast

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tslab.geobias.moments import Form, Moments, exact_moments, published_moments, surprisal
from tslab.geobias.neighbors import NeighborGraph, neighbor_graph
from tslab.geobias.weights import WeightChunk

Marks = Literal["unmarked", "signed", "raw"]
MomentKind = Literal["published", "exact"]
Preset = Literal["pygbs2025"]


class Formulation(TypedDict):
    """What is measured: marks, moments and form, and whether nodes among many coincident samples are overfull."""

    marks: Marks
    moments: MomentKind
    form: Form
    overfull: bool


DEFAULT: Formulation = {"marks": "signed", "moments": "exact", "form": "tail", "overfull": False}

PRESETS: dict[str, Formulation] = {
    "pygbs2025": {"marks": "raw", "moments": "published", "form": "density", "overfull": True}
}
"""``pygbs2025``: the published per-sample tables of fMoW and iNat2018 (January 2025)."""


@dataclass(frozen=True)
class SSIResult:
    """Scores of all centres with their parts; NaN where a centre has no location or the score is not defined.

    Attributes:
        score, statistic, mean, sigma: float64, (c,) or, for performance of shape (n, e), (c, e).
        n, background: samples and background points of each centre's neighbourhood, (c,).
        saturated: True where the neighbourhood was cut at ``max_neighbors``.
        lonlat: place of each centre in degrees.
        rows: input row of each centre, -1 if it was given by coordinates.
        marks, moments, form: what was measured.
    """

    score: Float[Tensor, "c *e"]
    statistic: Float[Tensor, "c *e"]
    mean: Float[Tensor, "c *e"]
    sigma: Float[Tensor, "c *e"]
    n: Int[Tensor, " c"]
    background: Int[Tensor, " c"]
    saturated: Tensor
    lonlat: Float[Tensor, "c 2"]
    rows: Int[Tensor, " c"]
    marks: Marks
    moments: MomentKind
    form: Form

    def to_pandas(self) -> pd.DataFrame:
        """One row per centre (single performance only): lon, lat, n, background, statistic, mean, sigma, score."""
        if self.score.ndim != 1:
            raise ValueError(f"this result holds {self.score.shape[1]} models; take one with result.select(i)")
        columns = {name: getattr(self, name).cpu().numpy() for name in ("n", "background", "saturated")}
        parts = {name: getattr(self, name).cpu().numpy() for name in ("statistic", "mean", "sigma", "score")}
        lon, lat = self.lonlat.cpu().unbind(-1)
        return pd.DataFrame({"row": self.rows.cpu(), "lon": lon, "lat": lat, **columns, **parts})

    def select(self, index: int) -> "SSIResult":
        """The result of one model out of several."""
        from dataclasses import replace

        parts = {name: getattr(self, name)[:, index] for name in ("score", "statistic", "mean", "sigma")}
        return replace(self, **parts)


def ssi(
    lonlat: Float[Tensor, "n 2"],
    performance: Float[Tensor, "n *e"] | None,
    *,
    radius_km: float | None = None,
    radius_rad: float | None = None,
    k: int = 4,
    max_neighbors: int | None = 100,
    centers: Tensor | None = None,
    neighbors: tuple[Tensor, Tensor] | NeighborGraph | None = None,
    density: float | Literal["auto"] = "auto",
    marks: Marks | None = None,
    moments: MomentKind | None = None,
    form: Form | None = None,
    preset: Preset | None = None,
    device: str | torch.device | None = None,
) -> SSIResult:
    """Spatial self-information of every centre.

    Args:
        lonlat: samples, (longitude, latitude) in degrees; rows with NaN take no part and get NaN.
        performance: one value per sample, or one column per model, (n, e); not needed for ``marks="unmarked"``.
            ``"signed"`` takes hits and misses as bool, 1/0 or +1/-1.
        radius_km, radius_rad: of the neighbourhood; not needed if ``neighbors`` is a graph.
        k: nearest nodes in the weight graph.
        max_neighbors: neighbourhoods are cut at so many nearest samples; None: no cut.
        centers: rows of ``lonlat``, or places (c, 2) in degrees; all rows by default.
        neighbors: a graph from `neighbor_graph` (shared by all calls on the same samples), or (indptr, indices) to
            take the neighbourhoods as given; then ``radius`` sets the background only.
        density: background points per steradian, or "auto": ceil(5 n / (pi r^2)).
        marks, moments, form: default "signed", "exact", "tail"; see `tslab.geobias.moments`.
        preset: "pygbs2025" makes the defaults those of the published per-sample tables: raw marks, published moments,
            density form, and overfull nodes (see `tslab.geobias.weights`). Arguments that you give are kept.
        device: where to compute; that of the graph, or of ``lonlat``, by default.

    Warns if published moments meet more samples than background points (a density that is too low).

    The score is NaN for n = 0, for values that are all equal (sigma = 0; the published sigma is 0 for n = 1 too) and
    where the published variance is negative.

    Errors: ``ValueError`` for wrong shapes, marks that are no marks, missing or doubled radius.
    """
    chosen = formulation(preset, marks=marks, moments=moments, form=form)
    if isinstance(neighbors, NeighborGraph):
        graph = neighbors
        if centers is not None:
            raise ValueError("a NeighborGraph has its own centers; give centers to neighbor_graph instead")
        if graph.num_samples != len(lonlat):
            raise ValueError(f"the graph is of {graph.num_samples} samples, but lonlat has {len(lonlat)}")
    else:
        graph = neighbor_graph(
            lonlat,
            radius_km=radius_km,
            radius_rad=radius_rad,
            max_neighbors=max_neighbors,
            centers=centers,
            neighbors=neighbors,
            device=device,
        )
    return ssi_on_graph(graph, performance, k=k, density=density, **chosen)


def ssi_on_graph(
    graph: NeighborGraph,
    performance: Float[Tensor, "n *e"] | None,
    *,
    k: int = 4,
    density: float | Literal["auto"] = "auto",
    marks: Marks = "signed",
    moments: MomentKind = "exact",
    form: Form = "tail",
    overfull: bool = False,
) -> SSIResult:
    """`ssi` on neighbourhoods that are already known: the way to score many models on one set of samples."""
    z, single = _mark_values(graph, performance, marks)
    value = None if density == "auto" else float(density)
    parts = [_evaluate(chunk, z, moments) for chunk in graph.weights(k, value, overfull=overfull)]
    empty = z.new_zeros((0, z.shape[1]))
    columns = [torch.cat([part[i] for part in parts]) if parts else empty for i in range(3)]
    statistic, mean, sigma = (graph.per_center(column) for column in columns)
    m = torch.cat([part[3] for part in parts]) if parts else graph.indptr[:0]
    if moments == "published" and bool((graph.sizes > m).any()):
        warnings.warn(
            f"{int((graph.sizes > m).sum())} neighbourhoods have more samples than background points: their most "
            "frequent value need not be the background's, which the published moments take for granted; raise the "
            'density, or use density="auto"',
            stacklevel=2,
        )
    score = surprisal(statistic, mean, sigma, form)
    if single:
        score, statistic, mean, sigma = (column[:, 0] for column in (score, statistic, mean, sigma))
    return SSIResult(
        score=score,
        statistic=statistic,
        mean=mean,
        sigma=sigma,
        n=graph.n,
        background=graph.per_center(m, missing=0),
        saturated=graph.saturated,
        lonlat=graph.center_lonlat,
        rows=graph.center_rows,
        marks=marks,
        moments=moments,
        form=form,
    )


def formulation(
    preset: str | None, *, marks: Marks | None, moments: MomentKind | None, form: Form | None
) -> Formulation:
    """Marks, moments and form: what is given, else the preset's, else the defaults."""
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    base = PRESETS[preset] if preset is not None else DEFAULT
    chosen = {
        "marks": marks or base["marks"],
        "moments": moments or base["moments"],
        "form": form or base["form"],
        "overfull": base["overfull"],
    }
    allowed: dict[str, Sequence[str]] = {
        "marks": ("unmarked", "signed", "raw"),
        "moments": ("published", "exact"),
        "form": ("density", "tail", "tail_plus_one"),
    }
    for name, names in allowed.items():
        if chosen[name] not in names:
            raise ValueError(f"{name} must be one of {', '.join(names)}, got {chosen[name]!r}")
    return cast(Formulation, chosen)


def _mark_values(graph: NeighborGraph, performance: Tensor | None, marks: Marks) -> tuple[Tensor, bool]:
    """Marks of the internal samples, (v, e) in float64, and whether there is a single column without an axis."""
    if marks == "unmarked":
        columns = 1 if performance is None or performance.ndim == 1 else performance.shape[1]
        single = performance is None or performance.ndim == 1
        return torch.ones((len(graph.order), columns), dtype=torch.float64, device=graph.device), single
    if performance is None:
        raise ValueError(f'marks="{marks}" needs a performance value for each sample; only "unmarked" does without')
    performance = torch.as_tensor(performance)
    if performance.ndim not in (1, 2) or len(performance) != graph.num_samples:
        raise ValueError(
            f"performance must have shape ({graph.num_samples},) or ({graph.num_samples}, models), "
            f"got {tuple(performance.shape)}"
        )
    single = performance.ndim == 1
    values = (performance[:, None] if single else performance).to(graph.device, torch.float64)[graph.order]
    if bool(values.isnan().any()):
        raise ValueError(
            f"performance is NaN for {int(values.isnan().any(1).sum())} samples that have a location; "
            "drop these rows, or set their coordinates to NaN to leave them out"
        )
    if marks == "raw":
        return values, single
    if not bool(((values == 0) | (values.abs() == 1)).all()) or bool((values == 0).any() and (values == -1).any()):
        raise ValueError(
            'marks="signed" takes hits and misses: bool, 1 and 0, or +1 and -1; for graded performance use "raw" or '
            "make it hits first, for example performance > performance.median()"
        )
    return torch.where(values > 0, 1.0, -1.0), single


def _evaluate(chunk: WeightChunk, z: Tensor, moments: MomentKind) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Statistic, mean and sigma, each (neighbourhoods, e), and the number of background points."""
    edges = edge_products(chunk, z)
    sums = [_segment_sum(z_power, chunk.n) for z_power in _powers(z[chunk.sample.long()])]
    weighted = _segment_sum(z[chunk.sample.long()] * (chunk.out_degree + chunk.in_degree)[:, None], chunk.n)
    nodes = (chunk.n + chunk.m)[:, None].double()
    weight_sum = chunk.num_edges[:, None].double()
    average = sums[0] / nodes
    statistic = edges - average * weighted + average**2 * weight_sum
    if moments == "exact":
        power_sums = (sums[0], sums[1], sums[2], sums[3])
        mean, sigma = exact_moments(weight_sum, chunk.s1[:, None], chunk.s2[:, None], nodes, power_sums)
        constant = _is_constant(chunk, z)
        sigma = torch.where(constant, 0.0, sigma)
    else:
        mean, sigma = _published(chunk, z)
    empty = (chunk.n == 0)[:, None]
    statistic, mean, sigma = (torch.where(empty, torch.nan, part) for part in (statistic, mean, sigma))
    return statistic, mean, sigma, chunk.m


def edge_products(chunk: WeightChunk, z: Float[Tensor, "v e"]) -> Float[Tensor, "c e"]:
    """Sum over the sample-to-sample edges of each graph of the product of the marks at both ends."""
    mine = z[chunk.sample.long()]
    padded = torch.cat([mine, mine.new_zeros((1, mine.shape[1]))])
    target = chunk.target.long()
    reached = torch.zeros_like(mine)
    for column in range(target.shape[1]):
        reached = reached + padded[target[:, column]]
    return _segment_sum(mine * reached, chunk.n)


def _powers(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    square = z * z
    return z, square, square * z, square * square


def _segment_sum(values: Tensor, lengths: Tensor) -> Tensor:
    return torch.segment_reduce(values.contiguous(), "sum", lengths=lengths)


def _is_constant(chunk: WeightChunk, z: Tensor) -> Tensor:
    """True where every sample of the neighbourhood has the background's value, zero."""
    return _segment_sum((z[chunk.sample.long()] != 0).double(), chunk.n) == 0


def _published(chunk: WeightChunk, z: Tensor) -> Moments:
    values = torch.unique(torch.cat([z.flatten(), z.new_zeros(1)]))
    if len(values) > 64:
        return published_moments(values, torch.zeros_like(values, dtype=torch.long))  # raises, naming the way out
    mine = z[chunk.sample.long()]
    counts = torch.stack([_segment_sum((mine == value).double(), chunk.n) for value in values], -1)
    counts[..., values == 0] += chunk.m[:, None, None].double()
    return published_moments(values, counts)
