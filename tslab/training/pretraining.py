"""Contrastive spatial pre-training (CSP): learn a location encoder from unlabelled pairs of place and image,
then fine-tune on few labels.

`pretrain` runs the loop of `tslab.training.loop` with `tslab.losses.csp_loss`; what it returns goes into
``tslab.train(task, encoder=...)``. `few_shot` makes the small labelled task to fine-tune on.

Source: Mai et al., CSP: Self-supervised contrastive spatial pre-training for geospatial-visual
representations, ICML 2023.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tslab._checks import check_choice, check_count, check_finite, check_number
from tslab.encoders import LocationEncoder, location_encoder
from tslab.encoders.networks import xavier_linear
from tslab.hyperparameters import hyperparameters
from tslab.losses import BACKGROUNDS, background_points, csp_loss
from tslab.tasks.table import Table
from tslab.tasks.task import Task
from tslab.training.config import TrainOptions, check_task, resolve_device
from tslab.training.loop import Objective, Share, balanced, fit


class PairEncoder(nn.Module):
    """A location encoder and a linear projector of image features into the same space."""

    def __init__(
        self, encoder: LocationEncoder, image_features: int, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = xavier_linear(image_features, encoder.out_features, generator)

    def forward(
        self, lonlat: Float[Tensor, "m 2"], image: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "m e"], Float[Tensor, "n e"]]:
        return self.encoder(lonlat), self.projector(image)


class Contrast(Objective):
    """The CSP loss over the rows of a table that have a location; negatives are random places.

    With several processes each one contrasts within its own share of the batch. ``loss`` are temperatures, weights and
    symmetric of `tslab.losses.csp_loss`.

    Raises:
        ValueError: no image features, features that are not finite, no row with a location, or an argument out of
            its range.
    """

    def __init__(
        self, table: Table, device: torch.device, *, negatives: int = 1, background: str = "sphere", **loss: Any
    ) -> None:
        check_count("negatives", negatives, at_least=0)
        check_choice("background", background, BACKGROUNDS)
        if table.image is None:
            raise ValueError("pre-training pairs places with image features, and this table has none")
        located = table.where(table.has_location)
        if len(located) < 2:
            raise ValueError("pre-training needs at least two rows with a location")
        self.lonlat = located.lonlat.to(device)
        image = located.image_rows(device=device)
        check_finite("the image features", image, table.has_location.nonzero()[:, 0])
        self.image = (image - image.mean(0)) / image.std(0, correction=0).clamp_min(1e-6)
        self.negatives, self.background, self.options = negatives, background, loss

    def batch(self, rows: Int[Tensor, " b"], generator: torch.Generator, share: Share) -> tuple[Any, ...]:
        points = background_points(len(rows) * self.negatives, self.background, generator=generator)
        own, lonlat = share.of(rows), self.lonlat
        others = share.of(points.view(len(rows), self.negatives, 2)).flatten(0, 1)
        places = lonlat[own]
        return torch.cat([places, places, others]), self.image[own]  # the place twice: dropout makes two views

    def loss(self, forward: Callable[..., Any], *batch: Any) -> Float[Tensor, ""]:
        lonlat, image = batch
        n = len(image)
        embedding, projected = forward(lonlat, image)
        own, second, others = embedding.split([n, n, len(lonlat) - 2 * n])
        negative = others.view(n, self.negatives, -1) if self.negatives else None
        return csp_loss(own, projected, negative, second, **self.options)


@dataclass
class Pretrained:
    """What `pretrain` returns: the location encoder, the image projector and the history of the loss."""

    encoder: LocationEncoder
    projector: nn.Linear
    history: pd.DataFrame

    def fresh_encoder(self) -> LocationEncoder:
        """A copy of the encoder, so that one pre-training serves several fine-tunings."""
        return copy.deepcopy(self.encoder)


def pretrain(
    task: Task,
    encoder: str | LocationEncoder = "space2vec_grid",
    *,
    seed: int = 0,
    epochs: int = 30,
    lr: float = 5e-4,
    batch_size: int = 1024,
    embedding_dim: int = 256,
    negatives: int = 1,
    temperatures: tuple[float, float, float] = (20.0, 1.0, 1.0),
    weights: tuple[float, float] = (1.0, 1.0),
    symmetric: bool = False,
    background: str = "sphere",
    device: str | torch.device = "auto",
    progress: bool = True,
    **encoder_parameters: Any,
) -> Pretrained:
    """Pre-train a location encoder on the training rows of a task, without looking at a label.

    Image features are what ``task.train.image`` holds (class probabilities serve too), standardised by
    column. Defaults of the loss are those of the published scripts. The same arguments give the same weights.

    Raises:
        ValueError: a task without image features, or an argument out of its range.
    """
    check_task(task)
    _check_numbers("temperatures", temperatures, 3)
    _check_numbers("weights", weights, 2)
    check_choice("symmetric", symmetric, (True, False))
    options = TrainOptions(epochs=epochs, lr=lr, batch_size=batch_size, seed=seed, embedding_dim=embedding_dim)
    where = resolve_device(device)
    generator = torch.Generator().manual_seed(seed)
    if isinstance(encoder, str):
        recorded = hyperparameters(task.name, encoder) | encoder_parameters
        known = {name: value for name, value in recorded.items() if name not in ("lr", "batch_size", "epochs")}
        encoder = location_encoder(encoder, embedding_dim, generator=generator, **known)
    loss = {"temperatures": temperatures, "weights": weights, "symmetric": symmetric}
    objective = Contrast(task.train, where, negatives=negatives, background=background, **loss)
    model = PairEncoder(encoder, task.image_dim, generator=generator).to(where)
    state = fit(model, objective, options, where, progress=progress, label=f"{task.name} · pre-training")
    return Pretrained(model.encoder, model.projector, pd.DataFrame(state.history))


def few_shot(task: Task, fraction: float, *, seed: int = 0) -> Task:
    """The task with a ``fraction`` of its training rows: of each class at least one row, at random (all rows
    for 1)."""
    check_task(task)
    check_number("fraction", fraction, above=0, at_most=1)
    check_count("seed", seed, at_least=0)
    order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(seed))
    if task.meta.kind == "classification":
        target = task.train.target.cpu()
        rows = balanced(order, target, (torch.bincount(target) * fraction).ceil().long())
    else:
        rows = order[: max(1, round(fraction * len(order)))]
    return replace(task, train=task.train.where(rows.sort().values))


def _check_numbers(name: str, values: Any, count: int) -> None:
    if not isinstance(values, tuple | list) or len(values) != count:
        raise ValueError(f"{name} must be {count} numbers, got {values!r}")
    for i, value in enumerate(values):
        check_number(f"{name}[{i}]", value)
