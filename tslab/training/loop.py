"""The training loop: the same one for every objective, on one device or on several.

A loop without a data loader: rows are indices into tensors that lie on the device, and nothing is copied to
the host between the steps. After every epoch the complete state can be written to one file
(`tslab.training.checkpoint`), from which an interrupted run goes on bit for bit.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from tslab._checks import check_choice
from tslab.training.checkpoint import LoopState, load_state, save_state
from tslab.training.objectives import Objective, Share
from tslab.training.options import PRECISIONS, TrainOptions

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
        options: see `tslab.training.options.TrainOptions`.
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
    with seeded(options.seed, steps.share.rank, device):
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
