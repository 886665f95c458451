"""Geo-bias of the TorchSpatial benchmark: base and relative scores as in its tables, and maps of its released results.

The paper's tables have two columns per model and dataset. How they were computed is documented nowhere; what follows
is a reading of early code and of the published numbers (steps 1 to 3 from the former, 4 and 5 fitted); it is random:

1. centres are the misses; a neighbourhood is the 100 nearest samples within 100 km; fewer than 5 samples: skipped;
2. background points are drawn uniformly from the neighbourhood's box of longitudes and latitudes, 400 nodes in all;
3. each node asks for its 4 nearest nodes, itself among them, and is joined to those that are not itself, in both
   directions; where more than 4 samples coincide, the same 4 answer for all, and the rest do not find themselves;
4. marks are +1 and -1, background 0; mean and sigma are the published ones; the score is -log of the density;
5. *base* is the mean score over the centres; *relative* is the mean of the score minus the smallest score among 30
   shuffles of the marks over the same samples.

Both are therefore marked scores. Expect values within a few per cent of the published ones, not equal to them;
`base_and_relative` reports the mean and the spread over seeds.
"""

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from tslab._checks import check_choice, check_count
from tslab._numbers import Numbers
from tslab.coords import has_location
from tslab.geobias.aggregate import GeoBiasSummary, summary
from tslab.geobias.background import local_frame
from tslab.geobias.inputs import as_hits, as_outcomes, as_places, check_seed
from tslab.geobias.neighbors import NeighborGraph, neighbor_graph
from tslab.geobias.statistic import published_moments
from tslab.released import load_released_results
from tslab.released_files import ReleasedResultsError

if TYPE_CHECKING:
    import pandas as pd

Outcome = Literal["hit1", "hit3"]

NUM_NODES = 400
NUM_ASKED = 4
NUM_SHUFFLES = 30
RADIUS_RAD = 100 / 6371
"""100 km with the Earth radius of the original code."""

CHUNK = {"cpu": 48, "gpu": 1024}
"""Centres at a time; each takes about 4 MB."""

COINCIDENT = 1e-15
"""Squared distance below which nodes are at one place (0.2 m)."""

DENSITY_CEILING = 256 * math.log(10)
LARGEST_FINITE = 745.0
"""-log of the smallest positive double: a larger score was infinite in the original."""


@dataclass(frozen=True)
class BaseRelative:
    """Base and relative geo-bias, mean and standard deviation over the seeds, and how many centres entered."""

    base: float
    base_std: float
    relative: float
    relative_std: float
    num_centers: int
    num_relative_centers: int
    num_seeds: int


def base_and_relative(
    lonlat: Float[Tensor, "n 2"] | Numbers,
    hits: Shaped[Tensor, " n"] | Numbers,
    *,
    num_seeds: int = 3,
    seed: int = 0,
    min_samples: int = 5,
    min_samples_relative: int = 15,
    max_centers: int | None = None,
) -> BaseRelative:
    """Base and relative geo-bias by the recipe above.

    Args:
        lonlat, hits: samples in degrees and whether the model got them right (bool, 1/0 or +1/-1).
        num_seeds, seed: backgrounds and shuffles are drawn anew for ``seed``, ``seed + 1``, ...
        min_samples, min_samples_relative: smallest neighbourhoods for the base and the relative score. Which ones
            the paper averaged is not known; 5 and 15 fit its tables best. Base scores are cut at 589.46, relative
            scores leave out infinities.
        max_centers: look at a random subset of so many misses.

    Centres at one place share neighbourhood, background and shuffles. NaN if there is no centre to average over.
    """
    check_count("num_seeds", num_seeds, at_most=10_000)
    check_seed(seed)
    check_seed(seed + num_seeds)
    check_count("min_samples_relative", min_samples_relative)
    graph, marks = _centers(lonlat, hits, max_centers, seed)
    n, means = graph.n, []
    for offset in range(num_seeds):
        score, lowest = _scores(graph, marks, min_samples, seed + offset)
        finite = (n >= min_samples_relative) & (score < LARGEST_FINITE) & (lowest < LARGEST_FINITE)
        base = score[n >= min_samples].clamp_max(DENSITY_CEILING).nanmean()
        means.append(torch.stack([base, (score - lowest)[finite].nanmean()]))
    table = torch.stack(means)
    base, relative = table.mean(0).tolist()
    base_std, relative_std = table.std(0).tolist() if num_seeds > 1 else (math.nan, math.nan)
    base_n, relative_n = (int((n >= least).sum()) for least in (min_samples, min_samples_relative))
    return BaseRelative(base, base_std, relative, relative_std, base_n, relative_n, num_seeds)


def center_scores(
    lonlat: Float[Tensor, "n 2"] | Numbers,
    hits: Shaped[Tensor, " n"] | Numbers,
    *,
    seed: int = 0,
    min_samples: int = 5,
    max_centers: int | None = None,
) -> "pd.DataFrame":
    """The scores behind `base_and_relative`, one row for each centre, for one seed.

    Returns:
        columns row (of ``lonlat``), n (samples in the neighbourhood), score, and lowest (the smallest score among the
        shuffles); both scores are NaN where n < ``min_samples``. Base is the mean of score cut at `DENSITY_CEILING`,
        relative the mean of score - lowest over finite scores.
    """
    import pandas as pd

    graph, marks = _centers(lonlat, hits, max_centers, seed)
    score, lowest = _scores(graph, marks, min_samples, seed)
    columns = {"row": graph.center_rows, "n": graph.n, "score": score, "lowest": lowest}
    return pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})


def _centers(
    lonlat: Tensor | Numbers, hits: Tensor | Numbers, max_centers: int | None, seed: int
) -> tuple[NeighborGraph, Tensor]:
    """Neighbourhoods of the misses, and marks of all samples."""
    lonlat = as_places(lonlat)
    check_seed(seed)
    if max_centers is not None:
        check_count("max_centers", max_centers, hint="None takes all misses")
    rows = has_location(lonlat.detach().cpu()).nonzero()[:, 0]
    outcome, single = as_outcomes(hits, len(lonlat), rows, name="hits")
    if not single:
        raise ValueError(f"hits must have shape ({len(lonlat)},): base and relative scores are of one model")
    right = as_hits(outcome[:, 0], "a base or relative score")
    misses = rows[~right]
    if max_centers is not None and len(misses) > max_centers:
        drawn = torch.randperm(len(misses), generator=torch.Generator().manual_seed(seed))[:max_centers]
        misses = misses[drawn.sort()[0]]
    graph = neighbor_graph(lonlat, radius_rad=RADIUS_RAD, max_neighbors=100, centers=misses)
    marks = torch.full((len(lonlat),), -1.0, dtype=torch.float64)
    marks[rows[right]] = 1.0
    return graph, marks.to(graph.device)[graph.order]


def _scores(graph: NeighborGraph, marks: Tensor, min_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Score of each centre and the smallest among its shuffles; NaN for smaller neighbourhoods."""
    used = (graph.sizes >= check_count("min_samples", min_samples)).nonzero()[:, 0]
    generator = torch.Generator(device=graph.device).manual_seed(seed)
    found = torch.full((len(graph.sizes), 2), torch.nan, dtype=torch.float64, device=graph.device)
    for rows in used.split(CHUNK["cpu" if graph.device.type == "cpu" else "gpu"]) if len(used) else ():
        found[rows] = torch.stack(_chunk_scores(graph, marks, rows, generator), 1)
    score, lowest = graph.per_center(found).unbind(1)
    return score, lowest


def _chunk_scores(
    graph: NeighborGraph, marks: Tensor, rows: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    device = graph.device
    n = graph.sizes[rows]
    width = int(n.max())
    column = torch.arange(width, device=device)
    real = column < n[:, None]
    member = graph.indices[torch.where(real, graph.indptr[rows][:, None] + column, 0)].long()
    south, east, up = local_frame(graph.frame_lonlat[rows])

    # nodes: `width` slots for samples (the unused ones are background too), then background up to 400
    places = graph.xyz[member]
    angles = torch.atan2(places[..., 1], places[..., 0]), torch.asin(places[..., 2].clamp(-1, 1))
    drawn = torch.rand((len(rows), NUM_NODES, 2), dtype=torch.float64, device=device, generator=generator)
    lon, lat = (_within_range(angle, real, drawn[..., i]) for i, angle in enumerate(angles))
    nodes = torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], -1)
    nodes[:, :width] = torch.where(real[..., None], places, nodes[:, :width])
    offset = nodes - up[:, None]
    local = torch.stack([(offset * axis[:, None]).sum(-1) for axis in (south, east, up)], -1)
    norm = local.square().sum(-1)
    d2 = norm[:, :, None] + norm[:, None, :] - 2 * local @ local.transpose(1, 2)
    d2 = torch.where(d2 < COINCIDENT, torch.arange(NUM_NODES, device=device) * 1e-20, d2)  # the lower node first
    nearest = torch.topk(d2, NUM_ASKED, dim=2, largest=False, sorted=False)[1]
    joined = torch.zeros_like(d2, dtype=torch.bool).scatter_(2, nearest, True)
    joined = joined | joined.transpose(1, 2)
    joined.diagonal(dim1=1, dim2=2).fill_(False)
    degree = joined.sum(2).double()[:, :width] * 2  # in and out
    edges = joined.sum((1, 2)).double()
    inner = joined[:, :width, :width].double()

    z = torch.where(real, marks[member], 0.0)
    keys = torch.rand((len(rows), NUM_SHUFFLES, width), device=device, generator=generator)
    order = torch.argsort(torch.where(real[:, None], keys, torch.inf), dim=2)  # unused slots stay last
    shuffled = z[:, None].expand(-1, NUM_SHUFFLES, -1).gather(2, order)
    every = torch.cat([z[:, None], shuffled], 1)  # (c, 1 + shuffles, width)

    average = z.sum(1, keepdim=True) / NUM_NODES
    products = ((every @ inner) * every).sum(-1)
    statistic = products - average * (every * degree[:, None]).sum(-1) + average**2 * edges[:, None]
    plus, minus = (z > 0).sum(1), (z < 0).sum(1)
    counts = torch.stack([minus, NUM_NODES - plus - minus, plus], -1)
    mean, sigma = published_moments(torch.tensor([-1.0, 0.0, 1.0], device=device), counts)
    deviation = (statistic - mean[:, None]) / sigma[:, None]
    score = deviation**2 / 2 + torch.log(sigma * math.sqrt(2 * math.pi))[:, None]
    return score[:, 0], score[:, 1:].min(1)[0]


def _within_range(values: Tensor, real: Tensor, share: Tensor) -> Tensor:
    """Numbers that lie the share of the way from the smallest to the largest real value of each row."""
    low = torch.where(real, values, torch.inf).amin(1, keepdim=True)
    return low + share * (torch.where(real, values, -torch.inf).amax(1, keepdim=True) - low)


def released_geobias(
    dataset: str,
    encoder: str,
    *,
    outcome: Outcome = "hit1",
    root: str | os.PathLike[str] | None = None,
    **options: Any,
) -> GeoBiasSummary:
    """Geo-bias of a released result, by one call: ``released_geobias("fmow", "rbf").to_pandas()`` is a map's data.

    The radius is 100 km unless ``options`` say another; they are the keyword arguments of `tslab.geobias.summary`.
    A hit is ``outcome`` for classification, and for regression (MOSAIKS) an absolute error that is at most the mean
    absolute error of the table.

    Pass ``neighbors=neighbor_graph(...)`` to share one graph between the encoders of a classification dataset, whose
    rows are the same images; regression tables hold other rows for each encoder.

    Errors: those of `tslab.released.load_released_results`; ``ReleasedResultsError`` where no row has coordinates
    (iNat2017, of which the release holds the image-only results alone).
    """
    table = load_released_results(dataset, encoder, root=root)
    lonlat = torch.from_numpy(table[["lon", "lat"]].to_numpy(dtype=np.float64, copy=True))
    if bool(lonlat.isnan().any(1).all()):
        raise ReleasedResultsError(
            f"the released results of {encoder} on {dataset} have no coordinates to map; take another dataset"
        )
    if options.get("neighbors") is None and options.get("radius_rad") is None:
        options = {"radius_km": 100.0, **options}
    return summary(lonlat, torch.from_numpy(released_hits(table, outcome)), **options)


def released_hits(table: "pd.DataFrame", outcome: Outcome = "hit1") -> np.ndarray:
    """Hits of a released table as float64 1 and 0: its ``outcome`` column, or errors at most the mean error."""
    check_choice("outcome", outcome, get_args(Outcome))
    if outcome in table:
        return table[outcome].to_numpy(dtype=np.float64)
    error = (table["prediction"] - table["label"]).abs().to_numpy(dtype=np.float64)
    return (error <= np.nanmean(error)).astype(np.float64)
