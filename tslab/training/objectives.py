"""What one training step computes, for each kind of task: which rows an epoch visits and the loss of a batch.

All data of an objective lie on its device from the start; a batch is an index. Every objective serves the
same loop (`tslab.training.loop`) and the same sharing between processes: a batch is drawn once, from the same
generator everywhere, and each process takes its share.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tslab._checks import check_choice, check_count, check_finite, check_number
from tslab.coords import has_location
from tslab.losses import BACKGROUNDS, background_points, presence_only_loss, presence_only_loss_of_pass
from tslab.models import Regressor
from tslab.tasks.table import Table


@dataclass(frozen=True)
class Share:
    """This process's part of a batch: rows ``rank``, ``rank + world``, ... of it."""

    rank: int = 0
    world: int = 1

    def of(self, batch: Tensor) -> Tensor:
        return batch if self.world == 1 else batch[self.rank :: self.world]


@runtime_checkable
class Objective(Protocol):
    """A training objective, as `tslab.training.loop.fit` needs it."""

    lonlat: Float[Tensor, "n 2"]

    def epoch_rows(self, generator: torch.Generator) -> Int[Tensor, " m"]:
        """Rows that one epoch visits, in order: all of them, shuffled."""
        return torch.randperm(len(self.lonlat), generator=generator, device=self.lonlat.device)

    def batch(self, rows: Int[Tensor, " b"], generator: torch.Generator, share: Share) -> tuple[Any, ...]:
        """Inputs of `loss` for a batch: this process's share of the rows, with whatever is drawn at random."""

    def loss(self, forward: Callable[..., Tensor], *batch: Any) -> Float[Tensor, ""]:
        """Loss of a batch; its mean over the processes is the loss of the whole batch."""


class PresenceOnly(Objective):
    """The presence-only loss over the located rows of a classification table, with one background point for each row.

    Args:
        table: training rows; those without a location are left out, they say nothing about places.
        device: where everything lies.
        background, background_weight, eps: see `tslab.losses`.
        max_per_class: at most so many rows of each class in one epoch, drawn anew each time; None takes every row.

    Raises:
        ValueError: no row has a location, labels that are numbers, or an argument out of its range.
    """

    def __init__(
        self,
        table: Table,
        device: torch.device,
        *,
        background: str = "sphere",
        background_weight: float = 1.0,
        eps: float = 0.0,
        max_per_class: int | None = None,
    ) -> None:
        check_choice("background", background, BACKGROUNDS)
        check_number("background_weight", background_weight, at_least=0)
        check_number("eps", eps, at_least=0)
        if max_per_class is not None:
            check_count("max_per_class", max_per_class, hint="None takes every row")
        located = has_location(table.lonlat)
        if not bool(located.any()):
            raise ValueError("no training row has a location; a location prior cannot be trained on this table")
        self.lonlat = table.lonlat[located].to(device)
        self.target = table.target[located].to(device)
        if self.target.is_floating_point():
            raise ValueError("the presence-only loss needs class numbers; train a regression task on other numbers")
        self.background, self.background_weight, self.eps = background, background_weight, eps
        self.max_per_class = max_per_class

    def epoch_rows(self, generator: torch.Generator) -> Int[Tensor, " m"]:
        order = super().epoch_rows(generator)
        return order if self.max_per_class is None else balanced(order, self.target, self.max_per_class)

    def batch(self, rows: Int[Tensor, " b"], generator: torch.Generator, share: Share) -> tuple[Any, ...]:
        points = share.of(background_points(len(rows), self.background, generator=generator))
        own = share.of(rows)
        # the caller's rows are shared out, so each process divides by its part of the whole batch
        return torch.cat([self.lonlat[own], points]), self.target[own], len(rows) / share.world

    def loss(self, forward: Callable[..., Tensor], *batch: Any) -> Float[Tensor, ""]:
        lonlat, target, rows = batch
        logits = forward(lonlat)  # one pass for data and background
        logits = logits if logits.dtype == torch.float64 else logits.float()
        weight = self.background_weight
        if self.eps == 0 and not torch.compiler.is_compiling():  # a compiler fuses the formula by itself
            return presence_only_loss_of_pass(logits, target, background_weight=weight, rows=rows)
        data, background = logits[: len(target)], logits[len(target) :]
        return presence_only_loss(data, target, background, background_weight=weight, eps=self.eps, rows=rows)


class SquaredError(Objective):
    """Mean squared error of the standardised label, over all rows of a regression table.

    Args:
        table: training rows.
        device: where everything lies.
        model: the regressor, whose scales are fitted to these rows.
        standardise_label: False compares in the label's own unit, as the released code does.

    Raises:
        ValueError: a label or an image feature that is not finite; names the row.
    """

    def __init__(self, table: Table, device: torch.device, model: Regressor, *, standardise_label: bool = True) -> None:
        self.lonlat = table.lonlat.to(device)
        label = table.target.to(device)
        check_finite("the label", label)
        self.image = None
        if model.image is not None:
            self.image = table.image_rows(device=device)
            check_finite("the image features", self.image)
        model.fit_scales(label, self.image, standardise_label=standardise_label)
        self.label = ((label - model.label_mean) / model.label_scale).to(torch.float32)

    def batch(self, rows: Int[Tensor, " b"], generator: torch.Generator, share: Share) -> tuple[Any, ...]:
        own = share.of(rows)
        image = None if self.image is None else self.image[own]
        return self.lonlat[own], image, self.label[own], len(rows) / share.world

    def loss(self, forward: Callable[..., Tensor], *batch: Any) -> Float[Tensor, ""]:
        lonlat, image, label, rows = batch
        return ((forward(lonlat, image).float() - label) ** 2).sum() / rows


class Standardised(nn.Module):
    """A regressor seen in standardised units: what the loss compares and what processes wrap together."""

    def __init__(self, model: Regressor) -> None:
        super().__init__()
        self.model = model

    def forward(self, lonlat: Float[Tensor, "n 2"], image: Float[Tensor, "n d"] | None = None) -> Float[Tensor, " n"]:
        return self.model.standardised(lonlat, image)


def balanced(
    order: Int[Tensor, " n"], target: Int[Tensor, " n"], max_per_class: int | Int[Tensor, " k"]
) -> Int[Tensor, " m"]:
    """The rows of ``order`` without those that come after the first ``max_per_class`` of their class (one number, or
    one for each class), in the same order.

    ``order`` is a random permutation of the rows, so each class keeps a random part of its rows. No loop
    over classes.
    """
    classes, by_class = target[order].sort(stable=True)
    count = torch.bincount(classes)
    start = count.cumsum(0) - count
    place = torch.arange(len(order), device=order.device) - start[classes]
    keep = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    keep[by_class] = place < torch.as_tensor(max_per_class, device=order.device).expand(len(count))[classes]
    return order[keep]
