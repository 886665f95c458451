"""The options of training, the configuration of a run, and the model that it describes.

`TrainOptions` is the only list of options: what each is called, what it may be and what it is when you leave it out.
`tslab.train` takes the names as keyword arguments, so that an editor can complete them. A configuration holds
everything that was left out of a call, filled in; the same configuration gives the same untrained model.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tslab._checks import check_choice, check_count, check_number
from tslab._files import DamagedFileError, packaged_json, read_json
from tslab.encoders import ENCODERS, LocationEncoder, location_encoder
from tslab.hyperparameters import hyperparameters
from tslab.losses import BACKGROUNDS
from tslab.models import FUSIONS, LOCATION_ACTIVATIONS, LocationClassifier, Regressor
from tslab.tasks.task import Task
from tslab.training.folder import CONFIG_FILE

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
            `tslab.training.loop.PresenceOnly`. For `tslab.train`, ``max_per_class=0`` takes every row, against
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


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainOptions):
    """Everything that decides the outcome of a run, apart from data, device and versions: the options of
    `TrainOptions`, all of them resolved, and what the task and the encoder add.

    Attributes:
        task, kind: name and kind of the task.
        encoder: key of the encoder, "no_prior", or "custom" for an encoder object.
        encoder_parameters: of `tslab.location_encoder`.
        preset: None or its name.
        num_classes, image_features, image_kind: what the model is built for.
        data: digest of the rows that were trained on, in a stored run; None elsewhere.
    """

    task: str
    kind: str
    encoder: str
    encoder_parameters: dict[str, Any]
    preset: str | None
    num_classes: int
    image_features: int
    image_kind: str
    data: str | None = None


def configure(
    task: Task,
    encoder: str | LocationEncoder,
    preset: str | None,
    given: dict[str, Any],
    encoder_parameters: dict[str, Any],
) -> TrainConfig:
    """Fill in what was left out of ``given`` options and encoder parameters.

    Raises:
        ValueError, TypeError, KeyError: an option, encoder or parameter that does not exist or is out of its range.
    """
    key = encoder if isinstance(encoder, str) else "custom"
    kind = task.meta.kind
    recorded, parameters = _resolve_parameters(task, key, preset, encoder_parameters)
    options = resolve_options(given, recorded, preset=preset, kind=kind)
    features = task.image_dim if kind == "regression" else 0
    options["fusion"] = _resolve_fusion(given.get("fusion"), key, features, task)
    if not isinstance(encoder, str):
        options["embedding_dim"] = encoder.out_features
    return TrainConfig(
        task=task.name,
        kind=kind,
        encoder=key,
        encoder_parameters=parameters,
        preset=preset,
        num_classes=task.num_classes,
        image_features=features,
        image_kind="scalar" if task.meta.image_kind == "scalar" else "feats",
        **options,
    )


def build_model(
    config: TrainConfig, task: Task | None, encoder: LocationEncoder | None = None
) -> LocationClassifier | Regressor:
    """The untrained model of a configuration; the same configuration gives the same weights.

    ``task`` is needed for one thing only: rbf draws its anchors from the training places. Without it they
    are drawn from the sphere, which is enough to load weights into.
    """
    generator = torch.Generator().manual_seed(config.seed)
    if encoder is None and config.encoder != "no_prior":
        parameters: dict[str, Any] = {"preset": config.preset, "generator": generator} | config.encoder_parameters
        if "anchors" in parameters:
            parameters["anchors"] = torch.tensor(parameters["anchors"])
        elif config.encoder == "rbf" and task is not None:
            places = task.train.lonlat[task.train.has_location].cpu()
            drawn = torch.randperm(len(places), generator=generator)[: int(parameters.pop("num_anchors", 200))]
            parameters["anchors"] = places[drawn]
        encoder = location_encoder(config.encoder, config.embedding_dim, **parameters)
    if config.kind == "classification":
        assert encoder is not None
        return LocationClassifier(encoder, config.num_classes, generator=generator)
    image_features = config.image_features if config.fusion != "none" or encoder is None else 0
    names = ("fusion", "image_kind", "embedding_dim", "head", "location_activation")
    options: dict[str, Any] = {name: getattr(config, name) for name in names}
    return Regressor(encoder, image_features, dropout=config.head_dropout, generator=generator, **options)


def _resolve_parameters(
    task: Task, encoder: str, preset: str | None, given: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(training parameters, encoder parameters): the recorded ones that the encoder takes, then those given."""
    recorded = hyperparameters(task.name, encoder, preset, kind=task.meta.kind)
    training = {name: recorded.pop(name) for name in ("lr", "batch_size", "epochs")}
    if encoder in ("custom", "no_prior"):
        if given:
            raise TypeError(f"{', '.join(given)}: encoder parameters need the key of an encoder, not {encoder!r}")
        return training, {}
    if encoder not in ENCODERS:
        raise KeyError(f"encoder {encoder!r} is not known; choose one of {', '.join(ENCODERS)}, or no_prior")
    replaced = {*given, "num_anchors"} if "anchors" in given else set(given)
    if "network" in given:  # recorded parameters belong to the recorded network
        replaced |= {"activation", "num_hidden_layers", "hidden_dim"}
    taken = {name: value for name, value in recorded.items() if name not in replaced}
    return training, taken | {name: _plain(value) for name, value in given.items()}


def _plain(value: Any) -> Any:
    """An encoder parameter without arrays, as it can stand in config.json."""
    return value.tolist() if isinstance(value, Tensor | np.ndarray | np.generic) else value


def check_storable(parameters: dict[str, Any]) -> None:
    """Raise `TypeError` for an encoder parameter that config.json cannot hold."""
    for name, value in parameters.items():
        try:
            json.dumps(value)
        except TypeError as error:
            hint = "numbers, text and tensors can; pass what tslab.location_encoder returns as encoder="
            raise TypeError(f"{name} cannot be stored in run_dir ({type(value).__name__}); {hint}") from error


def _resolve_fusion(fusion: str | None, encoder: str, image_features: int, task: Task) -> str:
    alone, given = encoder == "no_prior", fusion not in (None, "none")
    if task.meta.kind == "classification":
        if given:
            raise ValueError("fusion is for regression; tslab.evaluate multiplies a class prior with the image's")
        if alone:
            raise ValueError("no_prior has nothing to train; use tslab.evaluate('no_prior', task.test)")
        return "none"
    if alone and image_features == 0:
        raise ValueError(f"no_prior is the image alone, and {task.name} has no image features")
    if given and not alone and image_features == 0:
        raise ValueError(f"fusion={fusion!r} needs image features and {task.name} has none; leave fusion out")
    return "none" if alone or image_features == 0 else fusion or "concat"


def read_config(folder: Path) -> TrainConfig:
    """The configuration of the run in a folder.

    Raises:
        FileNotFoundError: no run there.
        tslab._files.DamagedFileError: the file cannot be read.
        KeyError: an encoder that is not registered here.
    """
    path, remedy = folder / CONFIG_FILE, "put the file back, or train again in a new folder"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no run (no {CONFIG_FILE}); check the path, or train with run_dir=")
    try:
        config = TrainConfig(**read_json(path, remedy=remedy))
        if not isinstance(config.encoder_parameters, dict) or not isinstance(config.preset, str | None):
            raise TypeError("encoder_parameters or preset")
    except DamagedFileError:
        raise
    except (TypeError, ValueError) as error:
        raise DamagedFileError(f"{path} is not the configuration of a run ({error}); {remedy}") from error
    if config.encoder not in (*ENCODERS, "custom", "no_prior"):
        hint = "import the module that registers it (tslab.register_encoder) first"
        raise KeyError(f"the encoder {config.encoder!r} of the run in {folder} is not known here; {hint}")
    return config
