"""Training against geo-bias: the score as a loss, and the plain alternative of reweighting.

The marked spatial self-information is a function of the marks, and marks come from a threshold, which has no useful
gradient. `marked_ssi_loss` uses the straight-through trick: the forward pass has the marks +1 and -1, the backward pass
the slope of a soft version. The graph does not depend on the model, so it is built once for the training samples.
"""

from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tslab._checks import check_choice, check_number
from tslab.geobias.conditional import evaluate_conditional
from tslab.geobias.neighbors import NeighborGraph
from tslab.geobias.self_information import Null
from tslab.geobias.statistic import evaluate_joint
from tslab.geobias.weights import weight_graphs


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
    return hard + soft - soft.detach()


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
