"""The training loop: the same one for every objective, on one device or on several.

A loop without a data loader: rows are indices into tensors that lie on the device, and nothing is copied to
the host between the steps. After every epoch the complete state (weights, optimiser, random generators,
history) can be written to one file, atomically; a run that is continued from that file gives the same
numbers as one that was never interrupted.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from tslab._checks import check_choice
from tslab._files import atomic_path
from tslab.training.folder import read_checkpoint
from tslab.training.objectives import Objective, Share
from tslab.training.options import PRECISIONS, TrainOptions

CHECK_EVERY = 50
"""Steps between two looks at the loss; a look makes an accelerator wait."""


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite. The message names the step and what to try."""


@dataclass
class LoopState:
    """Everything that changes while training, apart from weights and optimiser."""

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_value: float = -math.inf
    best_epoch: int = -1
    best_weights: dict[str, Tensor] | None = None


def fit(
    model: nn.Module,
    objective: Objective,
    options: TrainOptions,
    device: torch.device,
    *,
    trained: nn.Module | None = None,
    validate: Callable[[], dict[str, float]] | None = None,
    checkpoint: Path | None = None,
    resume_from: Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    progress: bool = True,
    compile: bool = False,
    label: str = "training",
) -> LoopState:
    """Train ``model`` in place and return the state at the end.

    Args:
        model: whose weights are trained and stored; already on ``device``.
        objective: rows and loss, on ``device`` too.
        options: see `tslab.training.options.TrainOptions`.
        device: where to train.
        trained: the module that the objective calls, if it is not ``model`` itself but something around it.
        validate: called after each epoch; its numbers go to the history. The first one decides about early
            stopping (larger is better) when ``options.patience`` is set: after so many epochs without a new
            best, training stops and the best weights return.
        checkpoint: file that holds the state after each epoch.
        resume_from: such a file, to continue from.
        on_epoch: called with each row of the history, after the checkpoint is written.
        progress: show a progress bar on standard error.
        compile: compile the step.
        label: its title.

    Raises:
        NonFiniteLossError: NaN or infinite loss; the model then holds the weights of that moment, the
            checkpoint those before the epoch.
    """
    share = current_share()
    called = trained if trained is not None else model
    optimizer = make_optimizer([p for p in called.parameters() if p.requires_grad], options, device)
    frozen = _frozen_parts(called)
    generator = torch.Generator(device)
    forward: Callable[..., Tensor] = called
    if share.world > 1:
        ids = [device.index] if device.type == "cuda" else None
        forward = DistributedDataParallel(called, device_ids=ids)
    step_loss = torch.compile(objective.loss) if compile else objective.loss
    with seeded(options.seed, share.rank, device):
        generator.manual_seed(options.seed)
        state = LoopState()
        if resume_from is not None:
            state = load_state(resume_from, model, optimizer, generator, device)
        writes = share.rank == 0
        with tqdm(
            total=options.epochs, initial=state.epoch, desc=label, unit="epoch", disable=not (progress and writes)
        ) as bar:
            while state.epoch < options.epochs and not _has_stopped(state, options):
                started = time.perf_counter()
                lr = options.lr_at(state.epoch)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                called.train()
                for module in frozen:
                    module.eval()
                loss, rows = _run_epoch(
                    objective, step_loss, forward, optimizer, generator, share, options, device, state.epoch
                )
                seconds = time.perf_counter() - started
                row = {"epoch": state.epoch, "loss": loss, "lr": lr, "seconds": seconds, "rows": rows}
                if validate is not None:
                    measured = validate()
                    _remember_best(state, next(iter(measured.values())), model, options)
                    row |= measured
                state.history.append(row)
                state.epoch += 1
                if checkpoint is not None and writes:
                    save_state(checkpoint, model, optimizer, generator, state, device)
                bar.set_postfix({k: f"{v:.4g}" for k, v in row.items() if k not in ("epoch", "rows", "seconds")})
                bar.update()
                if on_epoch is not None:
                    on_epoch(row)
    if options.patience is not None and state.best_weights is not None:
        model.load_state_dict(state.best_weights)
    model.eval()
    return state


def current_share() -> Share:
    """The share of this process in a group started by ``torchrun``, the whole otherwise."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Share(torch.distributed.get_rank(), torch.distributed.get_world_size())
    return Share()


@contextlib.contextmanager
def seeded(seed: int, rank: int, device: torch.device) -> Iterator[None]:
    """Seed torch's own generators, which dropout draws from, and give them back to the caller as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed + 1_000_003 * rank)
        yield


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


def save_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    state: LoopState,
    device: torch.device,
) -> None:
    """Write the complete state to ``path``, completely or not at all."""
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "torch_rng": torch.get_rng_state(),
        "device_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "device": device.type,
        "epoch": state.epoch,
        "history": state.history,
        "best_value": state.best_value,
        "best_epoch": state.best_epoch,
        "best_weights": state.best_weights,
    }
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)  # into an open file: a full disk is then an OSError that says so


def load_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator, device: torch.device
) -> LoopState:
    """Bring model, optimiser and generators to the state in ``path``.

    Raises:
        ValueError: the file is damaged, of another model, or was written on another kind of device, whose random
            numbers differ.
    """
    content = read_checkpoint(path)
    if content["device"] != device.type:
        raise ValueError(
            f"{path.name} was written on {content['device']}, this run is on {device.type}; "
            f"a run continues exactly only on the same kind of device: pass device={content['device']!r}"
        )
    try:
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} was written by another model than this one; pass the same encoder, or train anew in another "
            "run_dir"
        ) from error
    generator.set_state(content["generator"])
    torch.set_rng_state(content["torch_rng"])
    if content["device_rng"] is not None:
        torch.cuda.set_rng_state(content["device_rng"], device)
    names = ("epoch", "history", "best_value", "best_epoch", "best_weights")
    return LoopState(**{name: content[name] for name in names})


def _frozen_parts(model: nn.Module) -> list[nn.Module]:
    """Parts that came in evaluation mode and have nothing to train: their dropout and norms stay as they are."""
    return [
        module
        for module in model.modules()
        if not module.training
        and any(True for _ in module.parameters())
        and not any(p.requires_grad for p in module.parameters())
    ]


def _run_epoch(
    objective: Objective,
    step_loss: Callable[..., Tensor],
    forward: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    share: Share,
    options: TrainOptions,
    device: torch.device,
    epoch: int,
) -> tuple[float, int]:
    """One pass over the epoch's rows; returns the mean loss of the steps, weighted by their rows, and the
    number of rows."""
    rows = objective.epoch_rows(generator)
    batches = rows.split(options.batch_size)
    losses = torch.zeros(len(batches), device=device)
    for step, batch in enumerate(batches):
        inputs = objective.batch(batch, generator, share)
        with autocast(options.precision, device):
            loss = step_loss(forward, *inputs)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses[step] = loss.detach()
        if (step + 1) % CHECK_EVERY == 0 or step + 1 == len(batches):
            _check_finite(losses[: step + 1], epoch, options)
    if share.world > 1:
        torch.distributed.all_reduce(losses)
        losses /= share.world
    weights = torch.tensor([len(batch) for batch in batches], dtype=torch.float64)
    return float((losses.double().cpu() * weights).sum() / weights.sum()), len(rows)


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
    raise NonFiniteLossError(
        f"the loss is {float(losses[step])} at step {step} of epoch {epoch}; the learning rate "
        f"{options.lr_at(epoch):g} is probably too high: try lr={options.lr / 10:g}. "
        "If it happens at step 0, look for NaN or infinite values in the image features or the label"
    )


def _remember_best(state: LoopState, value: float, model: nn.Module, options: TrainOptions) -> None:
    if options.patience is not None and value > state.best_value:
        state.best_value, state.best_epoch = value, state.epoch
        state.best_weights = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}


def _has_stopped(state: LoopState, options: TrainOptions) -> bool:
    return options.patience is not None and state.epoch - 1 - max(state.best_epoch, 0) >= options.patience
