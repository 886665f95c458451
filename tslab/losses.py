"""Losses: presence-only classification, the background points it needs, and the contrastive loss of CSP.

A set of photographs says where a species *was* seen, never where it was not. The presence-only loss therefore
draws background points and asks the model to say "probably absent" there. Where those points lie decides what
the model says in places without data: see the chapter *What the background points do*.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tslab._checks import check_choice, check_count
from tslab.coords import sample_sphere


def presence_only_loss(
    logits: Float[Tensor, "b k"],
    target: Int[Tensor, " b"],
    background_logits: Float[Tensor, "r k"],
    *,
    background_weight: float = 1.0,
    eps: float = 0.0,
    rows: float | None = None,
) -> Float[Tensor, ""]:
    """Presence-only loss over B data rows and R background rows, K independent classes.

    With p = sigmoid(logit) and l(p) = -ln p,

        L = 1/(B K) sum_i [ K l(p_{i, y_i}) + sum_{c != y_i} l(1 - p_{ic}) ] + w/(R K) sum_r sum_c l(1 -
        p_{rc}).

    Computed from logits, l(sigmoid(z)) = softplus(-z) and l(1 - sigmoid(z)) = softplus(z), so that a class
    that is wrong by a logit of 100 still has a gradient. ``eps`` > 0 restores the released l(p) = -ln(p +
    eps), which flattens there.

    Args:
        logits: at the data rows.
        target: true class of each data row.
        background_logits: at the background points; R may be 0.
        background_weight: w.
        eps: see above.
        rows: divide by this number of rows in place of B and R, which a batch shared between processes needs.

    Source: Mac Aodha et al., Presence-only geographical priors for fine-grained image classification, ICCV
    2019, eq. 7.
    """
    num_classes = logits.shape[1]
    if background_logits.shape[1:] != logits.shape[1:] or target.shape != logits.shape[:1]:
        got = f"{tuple(logits.shape)}, {tuple(target.shape)} and {tuple(background_logits.shape)}"
        raise ValueError(f"needed are logits (b, k), target (b,) and background_logits (r, k), got {got}")
    data_scale = 1 / ((rows or max(len(logits), 1)) * num_classes)
    background_scale = background_weight / ((rows or max(len(background_logits), 1)) * num_classes)
    present, absent = _log_losses(eps)
    true_logit = logits.gather(1, target[:, None])[:, 0]
    at_truth = (num_classes * present(true_logit) - absent(true_logit)).sum()
    data = (at_truth + absent(logits).sum()) * data_scale
    return data + absent(background_logits).sum() * background_scale


def presence_only_loss_of_pass(
    logits: Float[Tensor, "n k"],
    target: Int[Tensor, " b"],
    *,
    background_weight: float = 1.0,
    rows: float | None = None,
) -> Float[Tensor, ""]:
    """`presence_only_loss` of one pass over B data rows followed by R background rows, with its gradient in
    closed form.

    dL/dz = s sigmoid(z), and at the true class s K (sigmoid(z) - 1), with s = 1/(B K) for data rows and w/(R
    K) for background rows. The gradient is written once, where automatic differentiation would write five
    arrays of the size of the logits; the value is the same.
    """
    data_rows, num_classes = len(target), logits.shape[1]
    if target.ndim != 1 or data_rows > len(logits):
        got = f"{tuple(logits.shape)} and {tuple(target.shape)}"
        raise ValueError(f"needed are logits (b + r, k) and target (b,), got {got}")
    background_rows = len(logits) - data_rows
    data_scale = 1 / ((rows or max(data_rows, 1)) * num_classes)
    background_scale = background_weight / ((rows or max(background_rows, 1)) * num_classes)
    return _PresenceOnly.apply(logits, target, data_scale, background_scale)


BACKGROUNDS = ("sphere", "uniform_lonlat", "north_east")


def background_points(
    n: int, kind: str = "sphere", *, generator: torch.Generator | None = None
) -> Float[Tensor, "n 2"]:
    """Draw ``n`` background points (longitude, latitude) in degrees, on the device of ``generator``.

    kind:
        "sphere": uniform by area.
        "uniform_lonlat": uniform in longitude and latitude, so a third of the points lies beyond 60 degrees
            of latitude, where 13 % of the Earth's surface is.
        "north_east": uniform in [0, 180) x [0, 90), what the released code draws by mistake: it computes
            points on the sphere, then overwrites them with the raw uniform numbers.
    """
    check_count("n", n, at_least=0)
    if kind == "sphere":
        return sample_sphere(n, generator=generator)
    check_choice("background", kind, BACKGROUNDS)
    device = generator.device if generator is not None else torch.device("cpu")
    unit = torch.rand((n, 2), generator=generator, device=device)
    if kind == "north_east":
        return unit * unit.new_tensor([180.0, 90.0])
    return (2 * unit - 1) * unit.new_tensor([180.0, 90.0])


def csp_loss(
    location: Float[Tensor, "b d"],
    image: Float[Tensor, "b d"],
    negative: Float[Tensor, "b m d"] | None = None,
    second_view: Float[Tensor, "b d"] | None = None,
    *,
    temperatures: tuple[float, float, float] = (20.0, 1.0, 1.0),
    weights: tuple[float, float] = (1.0, 1.0),
    symmetric: bool = False,
) -> Float[Tensor, ""]:
    """Contrastive spatial pre-training: pull a location towards its own image, away from three kinds of
    others.

    With cosine similarity s, the three terms are cross entropies over s(X_i, I_j) t_1 for all j in the batch
        (own image against other images), [s(X_i, I_i), s(X^-_{i1}, I_i), ...] t_2 (own place against random
        places), weight w_1, s(X_i, X^+_j) t_3 for all j (a second dropout pass of the same place against
        other places), weight w_2. ``temperatures`` multiply (the released code calls them temperatures; they
        are inverse temperatures, t_1 = 20).

    Args:
        location: location embeddings X.
        image: projected image features I, row by row the image taken at X.
        negative: embeddings of m random places for each row; the second term is left out without them.
        second_view: embeddings of the same places with other dropout; the third term is left out without
            them.
        symmetric: average the first and third term over both directions.

    Source: Mai et al., CSP: Self-supervised contrastive spatial pre-training for geospatial-visual
    representations, ICML 2023.
    """
    for name, other in (("image", image), ("second_view", second_view)):
        if other is not None and other.shape != location.shape:
            wanted = f"embeddings of the rows of location, {tuple(location.shape)}"
            raise ValueError(f"{name} must be {wanted}, got {tuple(other.shape)}")
    x, i = F.normalize(location, dim=-1), F.normalize(image, dim=-1)
    loss = _in_batch_cross_entropy(temperatures[0] * x @ i.T, symmetric)
    if negative is not None:
        own = (x * i).sum(-1, keepdim=True)
        others = torch.einsum("bmd,bd->bm", F.normalize(negative, dim=-1), i)
        first = torch.zeros(len(x), dtype=torch.long, device=x.device)
        loss = loss + weights[0] * F.cross_entropy(temperatures[1] * torch.cat([own, others], dim=1), first)
    if second_view is not None:
        similarity = temperatures[2] * x @ F.normalize(second_view, dim=-1).T
        loss = loss + weights[1] * _in_batch_cross_entropy(similarity, symmetric)
    return loss


class _PresenceOnly(torch.autograd.Function):
    """See `presence_only_loss_of_pass`."""

    @staticmethod
    def forward(context: Any, logits: Tensor, target: Tensor, data_scale: float, background_scale: float) -> Tensor:
        b, k = len(target), logits.shape[1]
        true_logit = logits[:b].gather(1, target[:, None])[:, 0]
        losses = F.softplus(logits)
        at_truth = (k * F.softplus(-true_logit) - F.softplus(true_logit)).sum()
        context.save_for_backward(logits, target)
        context.scales = (data_scale, background_scale)
        return (losses[:b].sum() + at_truth) * data_scale + losses[b:].sum() * background_scale

    @staticmethod
    def backward(context: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        logits, target = context.saved_tensors
        data_scale, background_scale = context.scales
        b, k = len(target), logits.shape[1]
        if torch.is_grad_enabled():  # create_graph=True: the same, so that it can be differentiated again
            truth = F.one_hot(target, k).to(logits.dtype)
            absent, present = torch.sigmoid(logits), torch.sigmoid(-logits[:b])
            data = absent[:b] * (1 - truth) - k * present * truth
            whole = torch.cat([data * data_scale, absent[b:] * background_scale])
            return whole * upstream, None, None, None
        gradient = torch.sigmoid(logits)
        at_truth = k * (gradient[:b].gather(1, target[:, None]) - 1)
        gradient[:b].scatter_(1, target[:, None], at_truth)
        if data_scale == background_scale:
            gradient.mul_(upstream * data_scale)
        else:
            gradient[:b].mul_(upstream * data_scale)
            gradient[b:].mul_(upstream * background_scale)
        return gradient, None, None, None


def _log_losses(eps: float) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """(-ln sigmoid(z), -ln(1 - sigmoid(z))) as functions of the logit."""
    if eps == 0:
        return (lambda z: F.softplus(-z)), F.softplus
    return (lambda z: -torch.log(torch.sigmoid(z) + eps)), (lambda z: -torch.log(torch.sigmoid(-z) + eps))


def _in_batch_cross_entropy(similarity: Float[Tensor, "b b"], symmetric: bool) -> Float[Tensor, ""]:
    own = torch.arange(len(similarity), device=similarity.device)
    loss = F.cross_entropy(similarity, own)
    return (loss + F.cross_entropy(similarity.T, own)) / 2 if symmetric else loss
