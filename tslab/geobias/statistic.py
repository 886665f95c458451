"""The statistic of spatial self-information, its mean and spread under the joint null hypothesis, and the score.

The statistic is the un-normalised Moran sum I = sum_ij w_ij x_i x_j of centred values x. How surprising a value of I is
depends on its distribution when the values are shuffled over the nodes. This module has both versions of its first two
moments, the published approximation and the exact ones of the permutation distribution, and the published ways to turn
(I, mean, sigma) into a score, in log space throughout. `evaluate_joint` does it for every neighbourhood: on chunks of
weight graphs (`tslab.geobias.weights`) and the marks of the samples, one column per model, without a loop over
neighbourhoods. Background points carry zero and enter through the sums that a chunk keeps of them.
"""

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Real
from torch import Tensor

from tslab._checks import check_choice
from tslab.geobias.background import pick, segment_sum
from tslab.geobias.weights import WeightChunk

MomentKind = Literal["published", "exact"]
Form = Literal["density", "tail", "tail_plus_one"]

LOG_FLOOR = -256 * math.log(10)
"""log of the 1e-256 that published scores add inside the logarithm; the ceiling of their scores is 589.46."""

ASSUMED_DEGREE = 4
"""Degree that the published moments assume, whatever the k of the graph."""

MAX_DISTINCT_VALUES = 64
"""Distinct values up to which the published moments are evaluated (they sum over pairs of values)."""


class Moments(NamedTuple):
    """Mean and standard deviation of the statistic; NaN where the published variance is negative."""

    mean: Tensor
    sigma: Tensor


def published_moments(values: Float[Tensor, " v"], counts: Real[Tensor, "*c v"]) -> Moments:
    """Published mean and sigma for nodes that hold ``values[c]`` ``counts[..., c]`` times (0 is allowed).

    With N = sum n_c, a_c = c - zbar, S = sum n_c a_c^2, over the values that occur:
        mean = -(4 / N) S - sum_c a_c^2
        var  = sum_{c != b} (c - b)^4 v_c + sum_{c != e, both != b} q_ce^2 v_ce,
        v_c  = 8 n_c (n_c - 1) / N (1 - 4 (2 n_c - 1) / (3 N)),
        v_ce = 4 n_c n_e / N (1 - 4 max(n_c, n_e) / N),
        q_ce = a_c a_e - 2 a_c a_b + a_b^2,
    b the most frequent value (the smallest of equally frequent ones). The degree 4 is part of the formula: it does
    not follow k. sigma is 0 if only b occurs and NaN if var < 0. Source: the PyGBS scores.
    """
    if values.ndim != 1 or counts.shape[-1:] != values.shape:
        raise ValueError(f"counts must have {len(values)} columns, one a value, got shape {tuple(counts.shape)}")
    check_few_values(values)
    order = torch.argsort(values)
    value, count = values[order].double(), counts[..., order].double()
    total = count.sum(-1, keepdim=True)
    occurs = count > 0
    a = torch.where(occurs, value - (count * value).sum(-1, keepdim=True) / total, 0.0)
    mean = -(ASSUMED_DEGREE / total[..., 0]) * (count * a * a).sum(-1) - (a * a).sum(-1)

    base = count.argmax(-1, keepdim=True)  # first of the largest
    other = occurs & (torch.arange(len(value), device=value.device) != base)
    v_single = 8 * count * (count - 1) / total * (1 - 4 * (2 * count - 1) / (3 * total))
    single = ((value - value[base]) ** 4 * v_single * other).sum(-1)

    a_base = a.gather(-1, base)[..., None]
    n_c, n_e, a_c, a_e = count[..., :, None], count[..., None, :], a[..., :, None], a[..., None, :]
    v_pair = 4 * n_c * n_e / total[..., None] * (1 - 4 * torch.maximum(n_c, n_e) / total[..., None])
    q = a_c * a_e - 2 * a_c * a_base + a_base**2
    pair_occurs = other[..., :, None] & other[..., None, :]
    pair_occurs &= ~torch.eye(len(value), dtype=torch.bool, device=value.device)
    variance = single + (q * q * v_pair * pair_occurs).sum((-1, -2))
    return Moments(mean, variance.sqrt())


def check_few_values(values: Float[Tensor, " v"]) -> None:
    """Raise ``ValueError`` for more distinct values than the published moments are made for."""
    if len(values) > MAX_DISTINCT_VALUES:
        raise ValueError(
            f'the published moments are made for a few distinct values, got {len(values)}; use moments="exact"'
        )


def exact_moments(
    weight_sum: Tensor, s1: Tensor, s2: Tensor, num_nodes: Tensor, power_sums: tuple[Tensor, Tensor, Tensor, Tensor]
) -> Moments:
    """Mean and sigma of sum_ij w_ij x_i x_j over all permutations of the values (Cliff and Ord 1981).

    ``weight_sum`` W = sum w_ij, ``s1`` = sum (w_ij + w_ji)^2 / 2, ``s2`` = sum_i (sum_j w_ij + sum_j w_ji)^2,
    ``power_sums`` = sums of z, z^2, z^3, z^4 over the ``num_nodes`` = N > 3 nodes. With x = z - mean(z),
    S = sum x^2 and b2 = N sum x^4 / S^2:
        mean = -W S / (N (N - 1))
        E[(I N / (W S))^2] = [N ((N^2 - 3 N + 3) S1 - N S2 + 3 W^2) - b2 ((N^2 - N) S1 - 2 N S2 + 6 W^2)]
                             / ((N - 1) (N - 2) (N - 3) W^2)
    """
    n = num_nodes.double()
    z1, z2, z3, z4 = power_sums
    average = z1 / n
    spread = z2 - n * average**2
    fourth = z4 - 4 * average * z3 + 6 * average**2 * z2 - 3 * n * average**4
    w2 = weight_sum.double() ** 2
    # the second moment of I, with S^2 multiplied in so that S = 0 needs no division
    first_term = n * ((n * n - 3 * n + 3) * s1 - n * s2 + 3 * w2) * spread**2
    second_term = n * fourth * ((n * n - n) * s1 - 2 * n * s2 + 6 * w2)
    second_moment = (first_term - second_term) / ((n - 1) * (n - 2) * (n - 3) * n * n)
    mean = -weight_sum * spread / (n * (n - 1))
    variance = second_moment - mean**2
    # rounding leaves a speck where the values are constant
    variance = torch.where(variance.abs() <= 1e-12 * (second_moment.abs() + mean**2), 0.0, variance)
    return Moments(mean, variance.sqrt())


def surprisal(statistic: Tensor, mean: Tensor, sigma: Tensor, form: Form = "tail") -> Tensor:
    """Score of a statistic under a normal law with the given moments; NaN where sigma is 0 or NaN.

    ``"tail"``: -log(2 Phi(-|I - mean| / sigma)), the negative log of a two-sided p-value: at least 0, free of units.
    ``"density"``: -log(N(I; mean, sigma) + 1e-256), the form of all published tables: neither bounded below by 0 nor
    free of units (marks scaled by s add 2 log s), at most 589.46.
    ``"tail_plus_one"``: -log(2 Phi(-|I - mean| / (sigma + 1)) + 1e-256), the form of the released code's last version.
    """
    check_choice("form", form, get_args(Form))
    z = (statistic - mean) / (sigma + 1 if form == "tail_plus_one" else sigma)
    if form == "density":
        log_p = -z * z / 2 - torch.log(sigma) - math.log(2 * math.pi) / 2
    else:
        log_p = math.log(2) + torch.special.log_ndtr(-z.abs())
    score = (-log_p).clamp_min(0) if form == "tail" else -torch.logaddexp(log_p, torch.full_like(log_p, LOG_FLOOR))
    return torch.where(sigma >= 0 if form == "tail_plus_one" else sigma > 0, score, torch.nan)


def two_sided_p(z: Float[Tensor, "*c"]) -> Float[Tensor, "*c"]:
    """Probability of a standard normal value at least as far from 0 as z; NaN for NaN."""
    return torch.special.erfc(z.abs() / math.sqrt(2))


def evaluate_joint(
    chunks: Iterable[WeightChunk], z: Float[Tensor, "v e"], moments: MomentKind = "exact", form: Form = "tail"
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Statistic, mean, sigma, z and score, each (neighbourhoods, e), and the background points of at least one chunk.

    ``z`` are the marks of the internal samples.
    """
    parts = [(moran_sum(chunk, z), *_moments(chunk, z, moments), chunk.n, chunk.m) for chunk in chunks]
    statistic, mean, sigma, n, m = (torch.cat(column) for column in zip(*parts, strict=True))
    statistic, mean, sigma = (torch.where(n[:, None] == 0, torch.nan, part) for part in (statistic, mean, sigma))
    standard = torch.where(sigma > 0, (statistic - mean) / sigma, torch.nan)
    return statistic, mean, sigma, standard, surprisal(statistic, mean, sigma, form), m


def moran_sum(chunk: WeightChunk, z: Float[Tensor, "v e"]) -> Float[Tensor, "c e"]:
    """The Moran sum of the marks less their mean over all nodes."""
    mine = pick(z, chunk.sample)
    padded = torch.cat([mine, mine.new_zeros((1, mine.shape[1]))])
    reached = pick(padded, chunk.target).sum(1)
    weighted = segment_sum(mine * (chunk.out_degree + chunk.in_degree)[:, None], chunk.n)
    average = segment_sum(mine, chunk.n) / (chunk.n + chunk.m)[:, None].double()
    products = segment_sum(mine * reached, chunk.n)  # over the sample-to-sample edges
    return products - average * weighted + average**2 * chunk.num_edges[:, None].double()


def value_counts(chunk: WeightChunk, z: Float[Tensor, "v e"], values: Float[Tensor, " l"]) -> Float[Tensor, "c e l"]:
    """How many samples of each neighbourhood hold each value."""
    mine = pick(z, chunk.sample)
    return torch.stack([segment_sum((mine == value).double(), chunk.n) for value in values], -1)


def _moments(chunk: WeightChunk, z: Tensor, kind: MomentKind) -> Moments:
    if kind == "published":
        values = torch.unique(torch.cat([z.flatten(), z.new_zeros(1)]))
        check_few_values(values)
        counts = value_counts(chunk, z, values)
        counts[..., values == 0] += chunk.m[:, None, None].double()
        return published_moments(values, counts)
    mine = pick(z, chunk.sample)
    square = mine * mine
    first, second, third, fourth = (
        segment_sum(part, chunk.n) for part in (mine, square, square * mine, square * square)
    )
    nodes = (chunk.n + chunk.m)[:, None]
    sums = chunk.num_edges[:, None].double(), chunk.s1[:, None], chunk.s2[:, None]
    mean, sigma = exact_moments(*sums, nodes, (first, second, third, fourth))
    return Moments(mean, torch.where(second == 0, 0.0, sigma))  # all as the background: zero
