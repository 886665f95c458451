"""The conditional score: is the arrangement of hits and misses *among the samples* more than chance?

The exact moments of `tslab.geobias.moments` shuffle the marks over all nodes, background included. Under that null
hypothesis a crowd of samples is already a surprise, whatever the model did. Here the background keeps its zeros, the
samples keep their places, and only the marks are shuffled among the n samples of a neighbourhood. A model that is
right everywhere, or wrong everywhere, leaves nothing to shuffle and scores zero.

*The statistic* stays I = sum_ij w_ij x_i x_j, x = z - mean(z) over all N nodes. Write the marks of the samples as
z = mu + y, mu their mean, so that sum y = 0. Background nodes have x = -mu n / N, hence
    I = c + Q + L,    Q = sum_{i != j} C_ij y_i y_j,    L = mu sum_i d_i y_i,
with C = (A + A') / 2 of the sample-to-sample block A of w, and d_i = (row + column sum of i in A) - (n / N)
(out-degree + in-degree of i in the whole graph). The constant c = mu^2 (sum A - (n / N) sum of degrees + (n / N)^2 W)
is the value for y = 0. Since sum y = 0, d may be centred: sum d = 0.

*Its moments.* Let e(a, b, ...) be the mean of y_i^a y_j^b ... over distinct samples, R = row sums of C, W = sum R:
    mean = c + W e(1, 1)
    var  = S1 e(2, 2) + (S2 - 2 S1) e(2, 1, 1) + (W^2 - S2 + S1) e(1, 1, 1, 1) - (mean - c)^2
           + 4 mu D (e(2, 1) - e(1, 1, 1)) + mu^2 sum d^2 (e(2) - e(1, 1)),
S1 = 2 sum C_ij^2, S2 = 4 sum R^2, D = sum R d. The first line is the variance of a quadratic form under randomisation
(Cliff and Ord 1981, chapter 2), the second follows in the same way: terms in which samples coincide are collected
by the pattern of coincidence. So does the third moment (`_third_moment`), in which triangles and paths of the graph
enter.

*Tails.* z = (I - mean) / sigma has about 5 % of its values beyond +-1.96, but nearly all of them above: the
distribution leans to the right, most of all with few samples or few misses, and a normal law would call several times
too many centres at the small p-values that decide a map. `normal_score` turns z and the skewness into a score whose
normal tails are those of a gamma law (Wilson and Hilferty 1931), the usual law of permutation statistics with three
known moments (Mielke and Berry 2007). And no pattern is rarer than one of all arrangements of the marks, so p is at
least one over their number, n! / prod n_v! for n_v samples of value v: three or four samples, or a single miss among
twenty, prove nothing.
"""

import math
from collections.abc import Hashable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tslab.geobias.neighbors import NeighborGraph
from tslab.geobias.patterns import blocks
from tslab.geobias.statistic import moran_sum, segment_sum
from tslab.geobias.weights import WeightChunk

FEWEST_SAMPLES = 3
"""Below, an exchange of marks is no rearrangement worth a test: the score is zero."""

MOST_LEVELS = 8
"""Up to so many different marks are counted value by value."""

SPECK = 1e-12
"""A variance below this share of the terms that it is a sum of is rounding, and zero."""


class ArrangementSums(NamedTuple):
    """Sums over each graph that the conditional moments need, (c,) in float64; they do not depend on the marks.

    With C, R and d of the module: ``w`` = sum R, ``c2`` and ``c3`` = sums of C_ij^2 and C_ij^3, ``r2`` and ``r3`` of
    R^2 and R^3, ``qr`` of q_i R_i with q_i = sum_j C_ij^2, ``crr`` of C_ij R_i R_j, ``triangles`` = trace of C^3,
    ``d2`` and ``d3`` of d^2 and d^3, ``rd``, ``rrd``, ``rdd``, ``qd`` of products per node, ``cdd`` and ``crd`` of
    C_ij d_i d_j and C_ij R_i d_j. ``constant`` is c / mu^2.
    """

    w: Tensor
    c2: Tensor
    c3: Tensor
    r2: Tensor
    r3: Tensor
    qr: Tensor
    crr: Tensor
    triangles: Tensor
    d2: Tensor
    d3: Tensor
    rd: Tensor
    rrd: Tensor
    rdd: Tensor
    qd: Tensor
    cdd: Tensor
    crd: Tensor
    constant: Tensor


class MarkSums(NamedTuple):
    """Of the marks of each neighbourhood: ``n``, (c, 1), and, each (c, e), the mean mark mu, the sums of y^2 to y^6,
    whether all marks are equal, and the log of the number of arrangements that differ."""

    n: Tensor
    mu: Tensor
    y2: Tensor
    y3: Tensor
    y4: Tensor
    y5: Tensor
    y6: Tensor
    equal: Tensor
    log_arrangements: Tensor


class ConditionalMoments(NamedTuple):
    """Of the statistic, each (c, e): sigma and skewness are 0 where nothing can vary.

    ``log_arrangements``: log of the number of arrangements of the marks that differ.
    """

    mean: Tensor
    sigma: Tensor
    skewness: Tensor
    log_arrangements: Tensor


def conditional_moments(sums: ArrangementSums, marks: MarkSums) -> ConditionalMoments:
    """Moments of the statistic when the marks are shuffled among the samples of each neighbourhood.

    Exact for any marks and any n; sigma is 0 for n < 3, for equal marks and where no exchange changes the statistic.
    """
    mu = marks.mu
    e = _DistinctMeans(marks.n, [marks.n, torch.zeros_like(mu), *marks[2:7]])
    g = ArrangementSums(*(part[:, None] for part in sums))
    mean = g.w * e(1, 1)
    s1, s2 = 2 * g.c2, 4 * g.r2
    terms = (
        s1 * e(2, 2),
        (s2 - 2 * s1) * e(2, 1, 1),
        (g.w**2 - s2 + s1) * e(1, 1, 1, 1),
        4 * mu * g.rd * (e(2, 1) - e(1, 1, 1)),
        mu**2 * g.d2 * (e(2) - e(1, 1)),
    )
    second = torch.stack(terms).sum(0)
    variance = second - mean**2
    scale = torch.stack(terms).abs().sum(0) + mean**2
    fixed = marks.equal | (marks.n < FEWEST_SAMPLES) | (variance <= SPECK * scale)
    sigma = torch.where(fixed, 1.0, variance).sqrt()
    third = _third_moment(g, mu, e) - 3 * mean * second + 2 * mean**3
    skewness = torch.where(fixed, 0.0, third / sigma**3)
    sigma = torch.where(fixed, 0.0, sigma)
    return ConditionalMoments(mu**2 * g.constant + mean, sigma, skewness, marks.log_arrangements)


def conditional_score(statistic: Tensor, moments: ConditionalMoments) -> tuple[Tensor, Tensor]:
    """z = (I - mean) / sigma, and the score -log p of the two-sided p-value; both 0 where sigma is 0."""
    varies = moments.sigma > 0
    z = torch.where(varies, (statistic - moments.mean) / torch.where(varies, moments.sigma, 1.0), 0.0)
    surprise = -math.log(2) - torch.special.log_ndtr(-normal_score(z, moments.skewness).abs())
    return z, torch.where(varies, torch.minimum(surprise.clamp_min(0), moments.log_arrangements), 0.0)


def evaluate_conditional(
    graph: NeighborGraph, chunks: Iterable[WeightChunk], z: Float[Tensor, "v e"], key: tuple[Hashable, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Statistic, conditional mean and sigma, z and score, each (neighbourhoods, e), and the background points.

    ``z`` are the marks of the internal samples; ``key`` says which weight graphs the chunks are of.
    """
    levels = torch.unique(z)
    few = 0 < len(levels) <= MOST_LEVELS
    statistics, marks, arrangements, background = [], [], [], [graph.indptr[:0]]
    for chunk in chunks:
        statistics.append(moran_sum(chunk, z))
        marks.append((mark_counts(chunk, z, levels),) if few else mark_sums(chunk, z))
        arrangements.append(cached_sums(graph, chunk, key))
        background.append(chunk.m)
    m = torch.cat(background)
    if not statistics:
        none = z.new_zeros((0, z.shape[1]))
        return none, none, none, none, none, m
    together = [torch.cat(part) for part in zip(*marks, strict=True)]
    summed = mark_sums_of_counts(together[0], levels) if few else MarkSums(*together)
    sums = ArrangementSums(*(torch.cat(part) for part in zip(*arrangements, strict=True)))
    statistic, moments = torch.cat(statistics), conditional_moments(sums, summed)
    standard, score = conditional_score(statistic, moments)
    parts = (statistic, moments.mean, moments.sigma, standard, score)
    a, b, c, d, e = (torch.where(summed.n == 0, torch.nan, part) for part in parts)
    return a, b, c, d, e, m


def normal_score(standard: Tensor, skewness: Tensor) -> Tensor:
    """z-score of a standardised value of a gamma law with this skewness, by Wilson and Hilferty's cube root.

    With g the skewness: (6 / g) ((1 + g s / 2)^(1/3) - 1) + g / 6, and s itself for g = 0. Increasing in s.
    """
    small = skewness.abs() < 1e-6
    g = torch.where(small, 1.0, skewness)
    inner = 1 + g * standard / 2
    root = inner.sign() * inner.abs() ** (1 / 3)
    return torch.where(small, standard, 6 / g * (root - 1) + g / 6)


def cached_sums(graph: NeighborGraph, chunk: WeightChunk, key: tuple[Hashable, ...]) -> ArrangementSums:
    """`arrangement_sums` of a chunk, kept with the graph; ``key`` says which weight graphs they are of."""
    place = ("arrangement", *key, chunk.first, len(chunk.n))
    if place not in graph.cache:
        graph.cache[place] = arrangement_sums(chunk)
    return graph.cache[place]


def arrangement_sums(chunk: WeightChunk) -> ArrangementSums:
    """The sums over each graph of a chunk; once for all marks."""
    size, lengths = len(chunk.sample), chunk.n
    target = chunk.target.long()
    edge = target < size
    degree = (chunk.out_degree + chunk.in_degree).double()
    inward = torch.bincount(target[edge], minlength=size)
    both = (edge.sum(1) + inward).double()  # row sums of A + A'
    mutual, triangles = _mutual_and_triangles(target, size)
    row, q, cubes = both / 2, (both + 2 * mutual) / 4, (both + 6 * mutual) / 8

    def total(values: Tensor) -> Tensor:
        return segment_sum(values, lengths)

    count, nodes = lengths.double(), (lengths + chunk.m).double()
    share = count / nodes.clamp_min(1)
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=target.device), lengths)
    d = both - share[owner] * degree
    d = d - (total(d) / count.clamp_min(1))[owner]
    near_row, near_d = (_neighbor_sums(target, edge, values) for values in (row, d))
    return ArrangementSums(
        w=total(row),
        c2=total(q),
        c3=total(cubes),
        r2=total(row**2),
        r3=total(row**3),
        qr=total(q * row),
        crr=total(row * near_row),
        triangles=total(triangles),
        d2=total(d**2),
        d3=total(d**3),
        rd=total(row * d),
        rrd=total(row**2 * d),
        rdd=total(row * d**2),
        qd=total(q * d),
        cdd=total(d * near_d),
        crd=total(row * near_d),
        constant=total(row) - share * total(degree) + share**2 * chunk.num_edges.double(),
    )


def _neighbor_sums(target: Tensor, edge: Tensor, values: Tensor) -> Tensor:
    """C times the values: half the sum over the nodes that each node points to and that point to it."""
    padded = torch.cat([values, values.new_zeros(1)])
    result = values.new_zeros(len(values) + 1)
    for column in range(target.shape[1]):
        result[:-1] += padded[target[:, column]]
        result.index_add_(0, target[:, column], torch.where(edge[:, column], values, 0.0))
    return result[:-1] / 2


def _mutual_and_triangles(target: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Of each node: targets that point back to it, and its share of the trace of C^3.

    With A' the transpose, trace (A + A')^3 = 2 trace A^3 + 6 trace A A A'.
    """
    width = target.shape[1]
    padded = torch.cat([target, target.new_full((1, width), -1)]).int()  # the last row is that of no node
    node = torch.arange(size, device=target.device)
    mutual, triangles = node.double(), node.double()
    for rows in blocks(node, width**2):
        mine = padded[rows]
        onward = padded[mine.flatten()].reshape(len(rows), width, width)
        origin = rows[:, None, None].int()
        mine = torch.where(mine < size, mine, -2)
        shortcut, closed = (torch.zeros_like(onward, dtype=torch.bool), torch.zeros_like(onward, dtype=torch.bool))
        for column in range(width):
            shortcut |= onward == mine[:, column, None, None]
            closed |= padded[:, column][onward] == origin
        mutual[rows] = (onward == origin).sum((1, 2)).double()
        triangles[rows] = (6 * shortcut.sum((1, 2)) + 2 * closed.sum((1, 2))).double() / 8
    return mutual, triangles


def mark_counts(chunk: WeightChunk, z: Float[Tensor, "v e"], levels: Float[Tensor, " l"]) -> Tensor:
    """How many samples of each neighbourhood hold each value, (c, e, l)."""
    mine = z[chunk.sample.long()]
    counts = [segment_sum((mine == value).double(), chunk.n) for value in levels[:-1]]
    rest = chunk.n[:, None].double().expand(len(chunk.n), z.shape[1])
    for held in counts:
        rest = rest - held
    return torch.stack([*counts, rest], -1)


def mark_sums_of_counts(counts: Tensor, levels: Tensor) -> MarkSums:
    """From how many samples hold each value."""
    n = counts[:, :1].sum(-1)
    mu = levels[-1] + (counts * (levels - levels[-1])).sum(-1) / n.clamp_min(1)  # exact for equal marks
    y = levels - mu[..., None]
    weighted, sums = counts * y, []
    for _ in range(5):
        weighted = weighted * y
        sums.append(weighted.sum(-1))
    equal = (counts == n[..., None]).any(-1)
    return MarkSums._make([n, mu, *sums, equal, torch.lgamma(n + 1) - torch.lgamma(counts + 1).sum(-1)])


def mark_sums(chunk: WeightChunk, z: Float[Tensor, "v e"]) -> MarkSums:
    """From the marks themselves, differentiable; all arrangements count as different, n! of them."""
    n = chunk.n[:, None].double()
    mine = z[chunk.sample.long()]
    owner = torch.repeat_interleave(torch.arange(len(chunk.n), device=z.device), chunk.n)
    first = (torch.cumsum(chunk.n, 0) - chunk.n)[owner]
    mu = segment_sum(mine, chunk.n) / n.clamp_min(1)
    y = mine - mu[owner]
    power, sums = y, []
    for _ in range(5):
        power = power * y
        sums.append(segment_sum(power, chunk.n))
    equal = segment_sum((mine != mine[first]).double(), chunk.n) == 0
    return MarkSums._make([n, mu, *sums, equal, torch.lgamma(n + 1).expand_as(mu)])


class _DistinctMeans:
    """Means of y_i^a y_j^b ... over distinct samples i, j, ..., from the sums of powers of y; sum y = 0."""

    def __init__(self, count: Tensor, powers: list[Tensor]) -> None:
        self.count, self.powers = count, powers
        self.known: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, *exponents: int) -> Tensor:
        """Zero where there are fewer samples than exponents."""
        tuples = torch.ones_like(self.count)
        for taken in range(len(exponents)):
            tuples = tuples * (self.count - taken).clamp_min(0)
        return torch.where(tuples > 0, self._sum(exponents) / tuples.clamp_min(1), 0.0)

    def _sum(self, exponents: tuple[int, ...]) -> Tensor:
        """Over distinct samples: the last factor runs free, less the cases in which it meets one before."""
        exponents = tuple(sorted(exponents, reverse=True))
        if len(exponents) == 1:
            return self.powers[exponents[0]]
        if exponents not in self.known:
            *rest, last = exponents
            total = torch.zeros_like(self.powers[1]) if last == 1 else self.powers[last] * self._sum(tuple(rest))
            for i in range(len(rest)):
                total = total - self._sum((*rest[:i], rest[i] + last, *rest[i + 1 :]))
            self.known[exponents] = total
        return self.known[exponents]


def _third_moment(g: ArrangementSums, mu: Tensor, e: _DistinctMeans) -> Tensor:
    """Mean of (Q + L)^3: Q^3 by the shapes that three edges can form, then the terms with L (sum d = 0)."""
    two_apart = g.w * g.c2 - 4 * g.qr + 2 * g.c3  # a double edge and another edge that does not touch it
    star = g.r3 - 3 * g.qr + 2 * g.c3
    path = g.crr - 2 * g.qr + g.c3 - g.triangles
    fork_apart = (g.r2 - g.c2) * g.w - 2 * g.r3 + 10 * g.qr - 4 * g.crr - 4 * g.c3 + 2 * g.triangles
    touching = 4 * g.c3 + 24 * (g.qr - g.c3) + 6 * two_apart + 8 * g.triangles + 8 * star + 24 * path
    cube = (
        4 * g.c3 * e(3, 3)
        + 24 * (g.qr - g.c3) * e(3, 2, 1)
        + 8 * g.triangles * e(2, 2, 2)
        + 8 * star * e(3, 1, 1, 1)
        + (6 * two_apart + 24 * path) * e(2, 2, 1, 1)
        + 12 * fork_apart * e(2, 1, 1, 1, 1)
        + (g.w**3 - touching - 12 * fork_apart) * e(1, 1, 1, 1, 1, 1)
    )
    apart = g.w * g.rd - 2 * g.rrd - 2 * g.crd + 2 * g.qd
    fork = g.rrd - g.qd + 2 * (g.crd - g.qd)
    square_linear = (
        4 * g.qd * (e(3, 2) - e(2, 2, 1))
        + 4 * (g.rrd - g.qd) * e(3, 1, 1)
        + 8 * (g.crd - g.qd) * e(2, 2, 1)
        - 4 * fork * e(2, 1, 1, 1)
        + 4 * apart * (e(2, 1, 1, 1) - e(1, 1, 1, 1, 1))
    )
    linear_square = (
        2 * g.rdd * e(3, 1)
        + 2 * g.cdd * e(2, 2)
        + (g.w * g.d2 - 6 * g.rdd - 4 * g.cdd) * e(2, 1, 1)
        + (4 * g.rdd + 2 * g.cdd - g.w * g.d2) * e(1, 1, 1, 1)
    )
    linear_cube = g.d3 * (e(3) - 3 * e(2, 1) + 2 * e(1, 1, 1))
    return cube + mu * (3 * square_linear + mu * (3 * linear_square + mu * linear_cube))
