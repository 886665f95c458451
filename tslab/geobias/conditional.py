"""The conditional score: is the arrangement of hits and misses *among the samples* more than chance?

The exact moments of `tslab.geobias.statistic` shuffle the marks over all nodes, background included. Under that null
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
from collections import namedtuple
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tslab.geobias.background import blocks, pick, segment_sum
from tslab.geobias.statistic import moran_sum, value_counts
from tslab.geobias.weights import WeightChunk, counted

FEWEST_SAMPLES = 3
"""Below, an exchange of marks is no rearrangement worth a test: the score is zero."""

MOST_LEVELS = 8
"""Up to so many different marks are counted value by value."""

SPECK = 1e-12
"""A variance below this share of the terms that it is a sum of is rounding, and zero."""


class ArrangementSums(
    namedtuple("ArrangementSums", "w c2 c3 r2 r3 qr crr triangles d2 d3 rd rrd rdd qd cdd crd constant")
):
    """Sums over each graph that the conditional moments need, (c,) in float64; they do not depend on the marks.

    With C, R and d of the module: ``w`` = sum R, ``c2`` and ``c3`` = sums of C_ij^2 and C_ij^3, ``r2`` and ``r3`` of
    R^2 and R^3, ``qr`` of q_i R_i with q_i = sum_j C_ij^2, ``crr`` of C_ij R_i R_j, ``triangles`` = trace of C^3,
    ``d2`` and ``d3`` of d^2 and d^3, ``rd``, ``rrd``, ``rdd``, ``qd`` of products per node, ``cdd`` and ``crd`` of
    C_ij d_i d_j and C_ij R_i d_j. ``constant`` is c / mu^2.
    """


class MarkSums(NamedTuple):
    """Of the marks of each neighbourhood: ``n``, (c, 1), and, each (c, e), the mean mark ``mu``, the sums of y^2 to
    y^6 (``powers``, (c, e, 5)), whether all marks are equal, and the log of the number of arrangements that differ."""

    n: Tensor
    mu: Tensor
    powers: Tensor
    equal: Tensor
    log_arrangements: Tensor


class ConditionalMoments(NamedTuple):
    """Of the statistic, each (c, e): sigma and skewness are 0 where nothing can vary."""

    mean: Tensor
    sigma: Tensor
    skewness: Tensor


def evaluate_conditional(
    chunks: Iterable[WeightChunk], z: Float[Tensor, "v e"]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Statistic, mean, sigma, z and score, each (neighbourhoods, e), and the background points of at least one chunk.

    ``z`` are the marks of the internal samples.
    """
    levels = torch.unique(z.detach())
    known = levels if len(levels) <= MOST_LEVELS else None
    parts = [(moran_sum(chunk, z), chunk.m, mark_sums(chunk, z, known), arrangement_sums(chunk)) for chunk in chunks]
    statistics, background, of_marks, of_graphs = zip(*parts, strict=True)
    marks = MarkSums(*(torch.cat(part) for part in zip(*of_marks, strict=True)))
    sums = ArrangementSums(*(torch.cat(part) for part in zip(*of_graphs, strict=True)))
    statistic, moments = torch.cat(statistics), conditional_moments(sums, marks)
    standard, score = conditional_score(statistic, moments, marks.log_arrangements)
    columns = (statistic, moments.mean, moments.sigma, standard, score)
    a, b, c, d, e = (torch.where(marks.n == 0, torch.nan, part) for part in columns)
    return a, b, c, d, e, torch.cat(background)


def conditional_moments(sums: ArrangementSums, marks: MarkSums) -> ConditionalMoments:
    """Moments of the statistic when the marks are shuffled among the samples of each neighbourhood.

    Exact for any marks and any n; sigma is 0 for n < 3, for equal marks and where no exchange changes the statistic.
    """
    mu = marks.mu
    e = _DistinctMeans(marks.n, [marks.n, torch.zeros_like(mu), *marks.powers.unbind(-1)])
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
    return ConditionalMoments(mu**2 * g.constant + mean, sigma, skewness)


def conditional_score(
    statistic: Tensor, moments: ConditionalMoments, log_arrangements: Tensor
) -> tuple[Tensor, Tensor]:
    """z = (I - mean) / sigma, and the score -log p of the two-sided p-value; both 0 where sigma is 0."""
    varies = moments.sigma > 0
    z = torch.where(varies, (statistic - moments.mean) / torch.where(varies, moments.sigma, 1.0), 0.0)
    surprise = -math.log(2) - torch.special.log_ndtr(-normal_score(z, moments.skewness).abs())
    return z, torch.where(varies, torch.minimum(surprise.clamp_min(0), log_arrangements), 0.0)


def normal_score(standard: Tensor, skewness: Tensor) -> Tensor:
    """z-score of a standardised value of a gamma law with this skewness, by Wilson and Hilferty's cube root.

    With g the skewness: (6 / g) ((1 + g s / 2)^(1/3) - 1) + g / 6, and s itself for g = 0. Increasing in s.
    """
    small = skewness.abs() < 1e-6
    g = torch.where(small, 1.0, skewness)
    inner = 1 + g * standard / 2
    root = inner.sign() * inner.abs() ** (1 / 3)
    return torch.where(small, standard, 6 / g * (root - 1) + g / 6)


def arrangement_sums(chunk: WeightChunk) -> ArrangementSums:
    """The sums over each graph of a chunk; made once for all marks and kept with the chunk."""
    if "arrangement" in chunk.cache:
        return chunk.cache["arrangement"]
    size, lengths, target = len(chunk.sample), chunk.n, chunk.target.long()
    edge = target < size
    degree, mutual = (chunk.out_degree + chunk.in_degree).double(), chunk.mutual.double()
    both = edge.sum(1) + counted(target, edge, size).double()  # row sums of A + A'
    row, q, cubes = both / 2, (both + 2 * mutual) / 4, (both + 6 * mutual) / 8

    def total(values: Tensor) -> Tensor:
        return segment_sum(values, lengths)

    count = lengths.double()
    share = count / (lengths + chunk.m).clamp_min(1)
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=target.device), lengths)
    d = both - share[owner] * degree
    d = d - (total(d) / count.clamp_min(1))[owner]
    near_row, near_d = (_neighbor_sums(target, edge, values) for values in (row, d))
    chunk.cache["arrangement"] = ArrangementSums(
        w=total(row),
        c2=total(q),
        c3=total(cubes),
        r2=total(row**2),
        r3=total(row**3),
        qr=total(q * row),
        crr=total(row * near_row),
        triangles=total(_triangles(target, size)),
        d2=total(d**2),
        d3=total(d**3),
        rd=total(row * d),
        rrd=total(row**2 * d),
        rdd=total(row * d**2),
        qd=total(q * d),
        cdd=total(d * near_d),
        crd=total(row * near_d),
        constant=total(row) - share * total(degree) + share**2 * chunk.num_edges,
    )
    return chunk.cache["arrangement"]


def _neighbor_sums(target: Tensor, edge: Tensor, values: Tensor) -> Tensor:
    """C times the values: half the sum over the nodes that each node points to and that point to it."""
    padded = torch.cat([values, values.new_zeros(1)])
    result = values.new_zeros(len(values) + 1)
    result.index_add_(0, target.flatten(), torch.where(edge, values[:, None], 0.0).flatten())
    return (result[:-1] + pick(padded, target).sum(1)) / 2


def _triangles(target: Tensor, size: int) -> Tensor:
    """Of each node its share of the trace of C^3. With A' the transpose, trace (A + A')^3 = 2 trace A^3 +
    6 trace A A A'."""
    width = target.shape[1]
    padded = torch.cat([target, target.new_full((1, width), size)]).int()  # the last row is that of no node
    triangles = torch.zeros(size, dtype=torch.float64, device=target.device)
    for rows in blocks(torch.arange(size, device=target.device), width**3):
        mine = pick(padded, rows)
        onward = pick(padded, mine)
        mine = torch.where(mine < size, mine, -1)
        shortcut = (onward[..., None] == mine[:, None, None]).sum((1, 2, 3))
        closed = (pick(padded, onward) == rows[:, None, None, None].int()).sum((1, 2, 3))
        triangles[rows] = (6 * shortcut + 2 * closed).double() / 8
    return triangles


def mark_sums(chunk: WeightChunk, z: Float[Tensor, "v e"], levels: Float[Tensor, " l"] | None = None) -> MarkSums:
    """The sums of a chunk, from the marks themselves, differentiable; all n! arrangements count as different.

    With ``levels``, all values that occur, equal marks may change places without a difference; and where no gradient
    is asked for, the sums follow from how many samples hold each value.
    """
    n = chunk.n[:, None].double()
    log_arrangements = torch.lgamma(n + 1)
    if levels is not None:
        counts = value_counts(chunk, z.detach(), levels)
        equal = (counts == n[..., None]).any(-1)
        log_arrangements = log_arrangements - torch.lgamma(counts + 1).sum(-1)
        if not z.requires_grad:
            mu = levels[-1] + (counts * (levels - levels[-1])).sum(-1) / n.clamp_min(1)  # exact for equal marks
            y = (levels - mu[..., None])[..., None, :]
            powers = (counts[..., None, :] * y ** torch.arange(2, 7, device=y.device)[:, None]).sum(-1)
            return MarkSums(n, mu, powers, equal, log_arrangements)
    mine = pick(z, chunk.sample)
    owner = torch.repeat_interleave(torch.arange(len(chunk.n), device=z.device), chunk.n)
    mu = segment_sum(mine, chunk.n) / n.clamp_min(1)
    y = mine - mu[owner]
    powers = torch.stack([segment_sum(y**power, chunk.n) for power in range(2, 7)], -1)
    if levels is None:
        first = (torch.cumsum(chunk.n, 0) - chunk.n)[owner]
        equal = segment_sum((mine != mine[first]).double(), chunk.n) == 0
    return MarkSums(n, mu, powers, equal, log_arrangements.expand_as(mu))


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
