"""Hot spots: where hits and misses cluster, by the local statistics that spatial analysts know.

Spatial self-information says how unusual a neighbourhood is; local Moran's I and Getis and Ord's G* say in which
direction: high among high, low among low, or an exception to its surroundings. Both use the neighbourhoods of a
`NeighborGraph` and are compared in the tests with esda (PySAL), the reference for them. Testing every centre means
testing thousands of times; `false_discovery` turns p-values into decisions that hold for all of them together.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from tslab._checks import check_number
from tslab._numbers import Numbers
from tslab.geobias.inputs import as_outcomes, as_tensor
from tslab.geobias.neighbors import NeighborGraph


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


def two_sided_p(z: Float[Tensor, "*c"]) -> Float[Tensor, "*c"]:
    """Probability of a standard normal value at least as far from 0 as z; NaN for NaN."""
    return torch.special.erfc(z.abs() / math.sqrt(2))


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
    present = _holds(graph, mine)
    if include_self:  # beyond the cut among many coincident samples the centre itself can be missing
        total = torch.where(present, total, total + own)
        count = torch.where(present, count, count + 1)
    else:
        total = torch.where(present, total - own, total)
        count = torch.where(present, count - 1, count)
    return z, own, total, count


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
