"""The training loop, the same one for every objective, on one device or on several; and the objectives: which rows an
epoch visits and the loss of a batch.

All data of an objective lie on its device from the start; a batch is an index, there is no data loader, and nothing is
copied to the host between the steps. After every epoch the complete state can be written to one file, from which an
interrupted run goes on bit for bit.

Several processes started by ``torchrun --nproc-per-node=4 your_script.py`` train as one, with the same script: every
process draws the same batches and takes its share of each, so the gradient is that of one process with the whole batch;
only the first one writes files and shows progress.
"""

import atexit
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from tslab._checks import check_choice, check_finite
from tslab.coords import has_location
from tslab.losses import background_points, presence_only_loss, presence_only_loss_of_pass
from tslab.models import Regressor
from tslab.tasks.table import Table
from tslab.training.config import PRECISIONS, TrainOptions
from tslab.training.folder import LoopState, load_state, save_state


@dataclass(frozen=True)
class Share:
    """This process's part of a batch: rows ``rank``, ``rank + world``, ... of it."""

    rank: int = 0
    world: int = 1

    def of(self, batch: Tensor) -> Tensor:
        return batch if self.world == 1 else batch[self.rank :: self.world]


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
        options: background, background_weight and loss_eps are those of `tslab.losses`; with max_per_class, at most so
            many rows of each class count in one epoch, drawn anew each time.

    Raises:
        ValueError: no row has a location, or labels that are numbers.
    """

    def __init__(self, table: Table, device: torch.device, options: TrainOptions) -> None:
        located = has_location(table.lonlat)
        if not bool(located.any()):
            raise ValueError("no training row has a location; a location prior cannot be trained on this table")
        self.lonlat = table.lonlat[located].to(device)
        self.target = table.target[located].to(device)
        if self.target.is_floating_point():
            raise ValueError("the presence-only loss needs class numbers; train a regression task on other numbers")
        self.background, self.weight, self.eps = options.background, options.background_weight, options.loss_eps
        self.max_per_class = options.max_per_class

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
        if self.eps == 0 and not torch.compiler.is_compiling():  # a compiler fuses the formula by itself
            return presence_only_loss_of_pass(logits, target, background_weight=self.weight, rows=rows)
        data, background = logits[: len(target)], logits[len(target) :]
        return presence_only_loss(data, target, background, background_weight=self.weight, eps=self.eps, rows=rows)


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


def join_processes(device: torch.device) -> None:
    """Join the processes that ``torchrun`` started, once; nothing to do without it.

    The group stays open until Python exits, because one that was closed cannot be opened again in the same
    process.

    Raises:
        ValueError: WORLD_SIZE, which ``torchrun`` sets, is no number of processes.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if not processes.isdecimal() or int(processes) < 1:
        raise ValueError(f"the environment variable WORLD_SIZE must be a number of processes, got {processes!r}")
    if int(processes) == 1 or not torch.distributed.is_available() or torch.distributed.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(_leave)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


CHECK_EVERY = 50
"""Steps between two looks at the loss; a look makes an accelerator wait."""


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite. The message names the step and what to try."""


def fit(
    model: nn.Module,
    objective: Objective,
    options: TrainOptions,
    device: torch.device,
    *,
    trained: nn.Module | None = None,
    validate: Callable[[], dict[str, float]] | None = None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    progress: bool = True,
    compile: bool = False,
    label: str = "training",
) -> LoopState:
    """Train ``model`` in place and return the state at the end.

    Args:
        model: whose weights are trained and stored; already on ``device``.
        objective: rows and loss, on ``device`` too.
        options: see `tslab.training.config.TrainOptions`.
        device: where to train.
        trained: the module that the objective calls, if it is not ``model`` itself but something around it.
        validate: called after each epoch; its numbers go to the history. The first one decides about early
            stopping (larger is better) when ``options.patience`` is set: after so many epochs without a new
            best, training stops and the best weights return.
        checkpoint: file that holds the state after each epoch; training goes on from it if it is there.
        on_epoch: called with each row of the history, after the checkpoint is written.
        progress: show a progress bar on standard error.
        compile: compile the step.
        label: its title.

    Raises:
        NonFiniteLossError: NaN or infinite loss; the model then holds the weights of that moment, the
            checkpoint those before the epoch.
    """
    steps = _Steps(model if trained is None else trained, objective, options, device, compile)
    state, first = LoopState(), steps.share.rank == 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # which dropout draws from
        torch.manual_seed(options.seed + 1_000_003 * steps.share.rank)
        if checkpoint is not None and checkpoint.is_file():
            state = load_state(checkpoint, model, steps.optimizer, steps.generator)
        shown = {"total": options.epochs, "initial": state.epoch, "desc": label, "disable": not (progress and first)}
        with tqdm(unit="epoch", **shown) as bar:
            while state.epoch < options.epochs and not _has_stopped(state, options):
                row = steps.run_epoch(state.epoch)
                if validate is not None:
                    measured = validate()
                    _remember_best(state, next(iter(measured.values())), model, options)
                    row |= measured
                state.history.append(row)
                state.epoch += 1
                if checkpoint is not None and first:
                    save_state(checkpoint, model, steps.optimizer, steps.generator, state)
                bar.set_postfix({k: f"{v:.4g}" for k, v in row.items() if k not in ("epoch", "rows", "seconds")})
                bar.update()
                if on_epoch is not None:
                    on_epoch(row)
    if options.patience is not None and state.best_weights is not None:
        model.load_state_dict(state.best_weights)
    model.eval()
    return state


class _Steps:
    """What the steps of one training need: the module, its optimiser, random numbers, and this process's share."""

    def __init__(
        self, called: nn.Module, objective: Objective, options: TrainOptions, device: torch.device, compile: bool
    ) -> None:
        self.called, self.objective, self.options, self.device = called, objective, options, device
        self.share = current_share()
        self.optimizer = make_optimizer([p for p in called.parameters() if p.requires_grad], options, device)
        self.frozen = [module for module in called.modules() if _is_frozen(module)]
        self.generator = torch.Generator(device).manual_seed(options.seed)
        self.forward: Callable[..., Tensor] = called
        if self.share.world > 1:
            self.forward = DistributedDataParallel(called, [device.index] if device.type == "cuda" else None)
        self.loss = torch.compile(objective.loss) if compile else objective.loss

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the epoch's rows: a row of the history, with the mean loss of the steps, weighted by their
        rows."""
        started, lr = time.perf_counter(), self.options.lr_at(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.called.train()
        for module in self.frozen:
            module.eval()
        rows = self.objective.epoch_rows(self.generator)
        batches = rows.split(self.options.batch_size)
        losses = torch.zeros(len(batches), device=self.device)
        for step, batch in enumerate(batches):
            inputs = self.objective.batch(batch, self.generator, self.share)
            with autocast(self.options.precision, self.device):
                loss = self.loss(self.forward, *inputs)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            losses[step] = loss.detach()
            if (step + 1) % CHECK_EVERY == 0 or step + 1 == len(batches):
                _check_finite(losses[: step + 1], epoch, self.options)
        if self.share.world > 1:
            torch.distributed.all_reduce(losses)
            losses /= self.share.world
        weights = torch.tensor([len(batch) for batch in batches], dtype=torch.float64)
        mean = float((losses.double().cpu() * weights).sum() / weights.sum())
        return {"epoch": epoch, "loss": mean, "lr": lr, "seconds": time.perf_counter() - started, "rows": len(rows)}


def current_share() -> Share:
    """The share of this process in a group started by ``torchrun``, the whole otherwise."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Share(torch.distributed.get_rank(), torch.distributed.get_world_size())
    return Share()


def make_optimizer(
    parameters: list[nn.Parameter], options: TrainOptions, device: torch.device
) -> torch.optim.Optimizer:
    """Adam (AdamW with weight decay), the fused kernel where this torch has one for the device."""
    kind = torch.optim.AdamW if options.weight_decay else torch.optim.Adam
    how: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay}
    try:
        return kind(parameters, fused=True, **how)
    except RuntimeError:  # torch before 2.4 has no fused kernel for the CPU
        return kind(parameters, **how)


def _is_frozen(module: nn.Module) -> bool:
    """True for a part that came in evaluation mode with nothing to train: its dropout and norms stay as they are."""
    learns = [p.requires_grad for p in module.parameters()]
    return bool(learns) and not any(learns) and not module.training


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 on a GPU that has it ("auto" or "bfloat16"), float32 everywhere else ("auto" or "float32")."""
    check_choice("precision", precision, PRECISIONS)
    gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if precision == "bfloat16" or (precision == "auto" and gpu):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def _check_finite(losses: Tensor, epoch: int, options: TrainOptions) -> None:
    finite = torch.isfinite(losses)
    if bool(finite.all()):
        return
    step = int((~finite).nonzero()[0, 0])
    rate = f"the learning rate {options.lr_at(epoch):g} is probably too high: try lr={options.lr / 10:g}"
    hint = "If it happens at step 0, look for NaN or infinite values in the image features or the label"
    raise NonFiniteLossError(f"the loss is {float(losses[step])} at step {step} of epoch {epoch}; {rate}. {hint}")


def _remember_best(state: LoopState, value: float, model: nn.Module, options: TrainOptions) -> None:
    if options.patience is not None and value > state.best_value:
        state.best_value, state.best_epoch = value, state.epoch
        state.best_weights = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}


def _has_stopped(state: LoopState, options: TrainOptions) -> bool:
    return options.patience is not None and state.epoch - 1 - max(state.best_epoch, 0) >= options.patience
