"""The statistic of spatial self-information in every neighbourhood, with its moments under the joint null hypothesis.

Works on chunks of weight graphs (`tslab.geobias.weights`) and the marks of the samples, one column per model; no loop
over neighbourhoods. Background points carry zero and enter through the sums that a chunk keeps of them.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tslab.geobias.moments import Moments, exact_moments, published_moments
from tslab.geobias.weights import WeightChunk

MomentKind = Literal["published", "exact"]


def evaluate(chunk: WeightChunk, z: Tensor, moments: MomentKind) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Statistic, mean and sigma, each (neighbourhoods, e), and the number of background points."""
    statistic, sums = (moran_sum(chunk, z), [segment_sum(part, chunk.n) for part in _powers(z[chunk.sample.long()])])
    nodes = (chunk.n + chunk.m)[:, None].double()
    weight_sum = chunk.num_edges[:, None].double()
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


def moran_sum(chunk: WeightChunk, z: Tensor) -> Tensor:
    """The Moran sum of the marks less their mean over all nodes."""
    mine = z[chunk.sample.long()]
    weighted = segment_sum(mine * (chunk.out_degree + chunk.in_degree)[:, None], chunk.n)
    average = segment_sum(mine, chunk.n) / (chunk.n + chunk.m)[:, None].double()
    return edge_products(chunk, z) - average * weighted + average**2 * chunk.num_edges[:, None].double()


def edge_products(chunk: WeightChunk, z: Float[Tensor, "v e"]) -> Float[Tensor, "c e"]:
    """Sum over the sample-to-sample edges of each graph of the product of the marks at both ends."""
    mine = z[chunk.sample.long()]
    padded = torch.cat([mine, mine.new_zeros((1, mine.shape[1]))])
    target = chunk.target.long()
    reached = torch.zeros_like(mine)
    for column in range(target.shape[1]):
        reached = reached + padded[target[:, column]]
    return segment_sum(mine * reached, chunk.n)


def _powers(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    square = z * z
    return z, square, square * z, square * square


def segment_sum(values: Float[Tensor, "v *e"], lengths: Int[Tensor, " c"]) -> Float[Tensor, "c *e"]:
    """Sum of the values of each neighbourhood, which lie one after another."""
    return torch.segment_reduce(values.contiguous(), "sum", lengths=lengths)


def _is_constant(chunk: WeightChunk, z: Tensor) -> Tensor:
    """True where every sample of the neighbourhood has the background's value, zero."""
    return segment_sum((z[chunk.sample.long()] != 0).double(), chunk.n) == 0


def _published(chunk: WeightChunk, z: Tensor) -> Moments:
    values = torch.unique(torch.cat([z.flatten(), z.new_zeros(1)]))
    if len(values) > 64:
        return published_moments(values, torch.zeros_like(values, dtype=torch.long))  # raises, naming the way out
    mine = z[chunk.sample.long()]
    counts = torch.stack([segment_sum((mine == value).double(), chunk.n) for value in values], -1)
    counts[..., values == 0] += chunk.m[:, None, None].double()
    return published_moments(values, counts)
