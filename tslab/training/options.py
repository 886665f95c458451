"""The options of training: what each is called, what it may be and what it is when you leave it out.

This is the only list. `tslab.train` takes the names as keyword arguments, so that an editor can complete them; the
loop, pre-training and the stored configuration use the object.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from typing import Any

import torch

from tslab._checks import check_choice, check_count, check_number
from tslab._files import packaged_json
from tslab.losses import BACKGROUNDS
from tslab.models import FUSIONS, LOCATION_ACTIVATIONS
from tslab.tasks.task import Task

SCHEDULES = ("exponential", "cosine")
PRECISIONS = ("auto", "float32", "bfloat16")

PRESETS: dict[str, dict[str, Any]] = packaged_json("training_presets.json")
"""What a preset changes in training; the encoder's part (output activation and dropout, scales) is in
`tslab.encoders`."""


def _real(name: str, value: Any, **bounds: Any) -> float:
    return float(check_number(name, value, **bounds))


def _widths(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list):
        raise ValueError(f"{name} must be a tuple of widths such as (256, 256), got {value!r}")
    return tuple(check_count(f"{name}[{i}]", width) for i, width in enumerate(value))


def _option(check: Callable[..., Any], default: Any = MISSING, **bounds: Any) -> Any:
    """A field with the check of its value; one whose default is None may be None."""
    return field(default=default, metadata={"check": partial(check, **bounds)})


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to train; each is a keyword argument of `tslab.train`, where None means left out.

    What has no default here comes from `tslab.hyperparameters.hyperparameters`: the best recorded values of the
    dataset and encoder, or a rule.

    Attributes:
        seed: of weights, order of rows, background points and dropout.
        epochs: passes over the training rows.
        lr, lr_decay, schedule, weight_decay, batch_size: of Adam; ``schedule`` is "exponential" (lr_decay for each
            epoch; default for classes) or "cosine" (default for numbers).
        max_per_class, background, background_weight, loss_eps: of the presence-only loss, see
            `tslab.training.objectives.PresenceOnly`. For `tslab.train`, ``max_per_class=0`` takes every row, against
            the preset.
        embedding_dim: width of the location embedding.
        fusion: for regression: "concat" (default where the task has image features), "hadamard", or "none":
            the place alone (the image alone with "no_prior").
        location_activation, standardise_label, head, head_dropout: of the regressor, see `tslab.models.Regressor`;
            ``standardise_label=False`` compares labels in their own unit.
        patience: stop after so many epochs without a better validation metric (top1, r2) and return the best
            weights; the validation split is not looked at without it.
        precision: "auto" (bfloat16 products on a GPU that has them), "float32" or "bfloat16".

    Raises:
        ValueError: a value out of its range; names the option.
    """

    seed: int = _option(check_count, 0, at_least=0, at_most=2**62)
    epochs: int = _option(check_count, at_least=0)
    lr: float = _option(_real, above=0)
    lr_decay: float = _option(_real, 0.98, above=0)
    schedule: str = _option(check_choice, "exponential", choices=SCHEDULES)
    weight_decay: float = _option(_real, 0.0, at_least=0)
    batch_size: int = _option(check_count)
    max_per_class: int | None = _option(check_count, None)
    background: str = _option(check_choice, "sphere", choices=BACKGROUNDS)
    background_weight: float = _option(_real, 1.0, at_least=0)
    loss_eps: float = _option(_real, 0.0, at_least=0, below=1)
    embedding_dim: int = _option(check_count, 256)
    fusion: str = _option(check_choice, "none", choices=FUSIONS)
    location_activation: str = _option(check_choice, "identity", choices=LOCATION_ACTIVATIONS)
    standardise_label: bool = _option(check_choice, True, choices=(True, False))
    head: Sequence[int] = _option(_widths, (256, 256))
    head_dropout: float = _option(_real, 0.1, at_least=0, below=1)
    patience: int | None = _option(check_count, None)
    precision: str = _option(check_choice, "auto", choices=PRECISIONS)

    def __post_init__(self) -> None:
        for option in fields(TrainOptions):
            value = getattr(self, option.name)
            if value is not None or option.default is not None:
                object.__setattr__(self, option.name, option.metadata["check"](option.name, value))

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0.

        "exponential": lr lr_decay^epoch, whatever the number of epochs. "cosine": from lr to 1 % of it over
        all epochs.
        """
        if self.schedule == "exponential":
            return self.lr * self.lr_decay**epoch
        return self.lr * (0.01 + 0.99 * (1 + math.cos(math.pi * epoch / max(self.epochs, 1))) / 2)


OPTION_NAMES = tuple(option.name for option in fields(TrainOptions))
"""Names of all options of training, in order."""


def resolve_options(
    given: Mapping[str, Any], recorded: Mapping[str, Any], *, preset: str | None, kind: str
) -> dict[str, Any]:
    """Options by name: what was given, else the preset's, else the recorded, else the default.

    Args:
        given: options by name; None counts as left out.
        recorded: what `tslab.hyperparameters.hyperparameters` says.
        preset: None or a key of `PRESETS`.
        kind: of the task; numbers are trained with the cosine schedule, without a preset.

    Raises:
        ValueError: an unknown preset, or a value out of its range; names the option.
    """
    check_choice("preset", preset, (None, *PRESETS))
    schedule = {"schedule": "cosine"} if kind == "regression" else {}
    chosen = {**recorded, **(PRESETS[preset] if preset is not None else schedule)}
    chosen |= {name: value for name, value in given.items() if value is not None}
    if chosen.get("max_per_class") == 0:
        chosen["max_per_class"] = None
    return {name: getattr(TrainOptions(**chosen), name) for name in OPTION_NAMES}


def check_task(task: Any) -> None:
    """Raise `TypeError` for something else than a task, `ValueError` for one without training rows."""
    if not isinstance(task, Task):
        example = repr(task) if isinstance(task, str) else "name"
        raise TypeError(f"task must be a Task, got {type(task).__name__}; load one with tslab.load_task({example})")
    if len(task.train) == 0:
        raise ValueError(f"{task.name} has no training rows; check its filter, or choose another split")


def resolve_device(device: str | torch.device) -> torch.device:
    """The device called ``device``; "auto" is a GPU if there is one (the process's own under torchrun), else
    the CPU.

    Raises:
        ValueError: an unknown word, or a device that this machine does not have.
    """
    if device == "auto":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
        if found.type == "meta":
            raise TypeError("it holds no numbers")
        torch.empty(1, device=found)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used here ({reason}); try device='auto'") from error
    return found
