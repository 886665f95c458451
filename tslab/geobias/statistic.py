"""The statistic of spatial self-information in every neighbourhood, and its score under the joint null hypothesis.

Works on chunks of weight graphs (`tslab.geobias.weights`) and the marks of the samples, one column per model; no loop
over neighbourhoods. Background points carry zero and enter through the sums that a chunk keeps of them.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tslab.geobias.moments import Form, Moments, check_few_values, exact_moments, published_moments, surprisal
from tslab.geobias.patterns import pick, segment_sum
from tslab.geobias.weights import WeightChunk

MomentKind = Literal["published", "exact"]


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
