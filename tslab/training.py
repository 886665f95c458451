"""Training: from a task and the name of an encoder to a trained model, in one call.

`train` fills in the recorded hyper-parameters, builds the model, runs the loop of `tslab.loop` and returns a
`Run`: the model, its history, the configuration and the environment, enough to do it again. A run can live
in a folder, which is written once, and be continued from there.
"""

import dataclasses
import inspect
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from tslab._files import atomic_path, atomic_write
from tslab.coords import has_location
from tslab.distributed import join_processes
from tslab.encoders import ENCODERS, LocationEncoder, location_encoder
from tslab.evaluation import quick_metrics
from tslab.hyperparameters import hyperparameters
from tslab.loop import LoopSettings, current_share, fit
from tslab.models import LocationClassifier, Regressor
from tslab.objectives import Objective, PresenceOnly, SquaredError, Standardised
from tslab.tasks.task import Table, Task

CONFIG_FILE, ENVIRONMENT_FILE, CHECKPOINT_FILE, HISTORY_FILE = (
    *("config.json", "environment.json", "checkpoint.pt", "history.csv"),
)

PRESETS: dict[str, dict[str, Any]] = {
    "locbench2024": {
        "background": "north_east",
        "max_per_class": 100,
        "lr_decay": 0.98,
        "loss_eps": 1e-5,
        "location_activation": "sigmoid",
        "standardise_label": False,
    }
}
"""What a preset changes in training; the encoder's part (output activation and dropout, scales) is in
`tslab.encoders`."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the outcome of a run, apart from data, device and versions."""

    task: str
    kind: str
    encoder: str
    encoder_parameters: dict[str, Any]
    embedding_dim: int
    seed: int
    epochs: int
    lr: float
    lr_decay: float
    schedule: str
    weight_decay: float
    batch_size: int
    max_per_class: int | None
    background: str
    background_weight: float
    loss_eps: float
    fusion: str
    location_activation: str
    standardise_label: bool
    head: tuple[int, ...]
    head_dropout: float
    patience: int | None
    precision: str
    preset: str | None
    num_classes: int
    image_features: int
    image_kind: str


@dataclass
class Run:
    """A trained model and how it came about.

    Attributes:
        model: `LocationClassifier` or `Regressor`, in evaluation mode, on the device it was trained on.
        history: one row for each epoch: epoch, loss, lr, seconds, rows, and validation metrics with ``patience``.
        config: see `TrainConfig`.
        environment: versions, device, threads.
        folder: where the run is stored, or None.
    """

    model: nn.Module
    history: pd.DataFrame
    config: TrainConfig
    environment: dict[str, Any]
    folder: Path | None = field(default=None)

    def __repr__(self) -> str:
        loss = f", loss {self.history['loss'].iloc[-1]:.4g}" if len(self.history) else ""
        what = f"{self.config.task}, {self.config.encoder}, seed {self.config.seed}"
        return f"Run({what}, {len(self.history)} epochs{loss})"


def train(
    task: Task,
    encoder: str | LocationEncoder = "sphere2vec_sphereC+",
    *,
    seed: int = 0,
    epochs: int | None = None,
    device: str | torch.device = "auto",
    preset: str | None = None,
    lr: float | None = None,
    lr_decay: float | None = None,
    schedule: str | None = None,
    weight_decay: float | None = None,
    batch_size: int | None = None,
    max_per_class: int | None = None,
    background: str | None = None,
    background_weight: float = 1.0,
    loss_eps: float | None = None,
    embedding_dim: int = 256,
    fusion: str | None = None,
    location_activation: str | None = None,
    standardise_label: bool | None = None,
    head: tuple[int, ...] = (256, 256),
    head_dropout: float = 0.1,
    patience: int | None = None,
    precision: str = "auto",
    compile: bool | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    progress: bool = True,
    **encoder_parameters: Any,
) -> Run:
    """Train a location encoder on a task.

    Whatever you leave out comes from `tslab.hyperparameters.hyperparameters`: the best recorded values of
    this dataset and encoder, or a rule. The same arguments give the same numbers on the same kind of device,
    bit for bit on a CPU.

    Args:
        task: what `tslab.load_task` returns.
        encoder: a key of `tslab.ENCODERS`, or a `LocationEncoder` of your own (a pre-trained one, say),
            which is then trained further; "no_prior" trains a regressor on the image alone.
        seed: of weights, order of rows, background points and dropout.
        epochs: passes over the training rows.
        device: "auto" takes a GPU if there is one.
        preset: "locbench2024" restores the released protocol: background points in the north-east quadrant,
            at most 100 rows of each class in an epoch, learning rate times 0.98 after each epoch, -ln(p +
            1e-5), activation and dropout on the embedding; for regression sigmoid on the embedding and
            labels as they are. What you pass wins over the preset.
        lr, lr_decay, schedule, weight_decay, batch_size: of Adam; ``schedule`` is "exponential" (lr_decay
            for each epoch; default for classes) or "cosine" (default for numbers).
        max_per_class, background, background_weight, loss_eps: of the presence-only loss, see
            `tslab.objectives.PresenceOnly`.
            ``max_per_class=0`` takes every row, against the preset.
        embedding_dim: width of the location embedding.
        fusion: for regression: "concat" (default where the task has image features), "hadamard", or "none":
            the place alone (the image alone with "no_prior").
        location_activation, standardise_label, head, head_dropout: of the regressor, see `tslab.models.Regressor`.
        patience: stop after so many epochs without a better validation metric (top1, r2) and return the best
            weights; the validation split is not looked at without it.
        precision: "auto" (bfloat16 products on a GPU that has them), "float32" or "bfloat16".
        compile: compile the step; default on a GPU only.
        run_dir: folder of this run, which must not exist yet or be empty; the state is stored there after each epoch.
        resume: folder of an interrupted run to continue; its configuration is used. Nothing but ``task``, ``device``,
            ``on_epoch``, ``progress``, ``compile`` and an encoder object may be given with it.
        on_epoch: called with each row of the history.
        progress: show a progress bar.
        **encoder_parameters: of `tslab.location_encoder`, for example ``num_scales=32, hidden_dim=1024``.

    Raises:
        ValueError: an option that this task does not have, or arguments that contradict each other.
        FileExistsError: ``run_dir`` holds a run already.
        NonFiniteLossError: the loss became NaN; names the step and what to try.
    """
    if resume is not None:
        _check_alone(locals() | encoder_parameters)
        return _resume(
            task, Path(resume), encoder, device=device, on_epoch=on_epoch, progress=progress, compile=compile
        )
    given = {
        **{
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "max_per_class": max_per_class,
            "background": background,
        },
        **{
            "loss_eps": loss_eps,
            "location_activation": location_activation,
            "standardise_label": standardise_label,
        },
    }
    options = _resolve_options(preset, given)
    key = encoder if isinstance(encoder, str) else "custom"
    recorded, parameters = _resolve_parameters(task, key, preset, encoder_parameters)
    features = task.image_dim if task.meta.kind == "regression" else 0
    config = TrainConfig(
        task=task.name,
        kind=task.meta.kind,
        encoder=key,
        encoder_parameters=parameters,
        embedding_dim=embedding_dim if isinstance(encoder, str) else encoder.out_features,
        seed=seed,
        epochs=recorded["epochs"] if epochs is None else epochs,
        lr=recorded["lr"] if lr is None else lr,
        schedule=schedule
        or ("cosine" if task.meta.kind == "regression" and preset is None else "exponential"),
        batch_size=recorded["batch_size"] if batch_size is None else batch_size,
        background_weight=background_weight,
        fusion=_resolve_fusion(fusion, key, features, task),
        head=tuple(head),
        head_dropout=head_dropout,
        patience=patience,
        precision=precision,
        preset=preset,
        num_classes=task.num_classes,
        image_features=features,
        image_kind="scalar" if task.meta.image_kind == "scalar" else "feats",
        **options,
    )
    folder = (
        _new_folder(run_dir) if run_dir is not None and _writes() else (Path(run_dir) if run_dir else None)
    )
    return _run(task, config, encoder, folder, None, device, on_epoch, progress, compile)


def load_run(folder: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Run:
    """Load a run from its folder: the model as it was after the last stored epoch (the best one where there
    was early stopping).

    Raises:
        FileNotFoundError: no run there, or none that has finished an epoch.
    """
    folder = Path(folder)
    config = _read_config(folder)
    checkpoint = folder / CHECKPOINT_FILE
    if not checkpoint.is_file():
        raise FileNotFoundError(
            f"the run in {folder} has not finished an epoch; train it again in a new folder"
        )
    if config.encoder == "custom":
        raise ValueError(
            "this run was trained with an encoder object; build it and load checkpoint.pt['model'] into it"
        )
    model = build_model(config, None)
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    best = content["best_weights"] if config.patience is not None else None
    model.load_state_dict(best or content["model"])
    model.to(resolve_device(device)).eval()
    environment = json.loads((folder / ENVIRONMENT_FILE).read_text())
    return Run(model, pd.DataFrame(content["history"]), config, environment, folder)


def build_model(
    config: TrainConfig, task: Task | None, encoder: LocationEncoder | None = None
) -> LocationClassifier | Regressor:
    """The untrained model of a configuration; the same configuration gives the same weights.

    ``task`` is needed for one thing only: rbf draws its anchors from the training places. Without it they
    are drawn from the sphere, which is enough to load weights into.
    """
    generator = torch.Generator().manual_seed(config.seed)
    if encoder is None and config.encoder != "no_prior":
        parameters = dict(config.encoder_parameters)
        if "anchors" in parameters:
            parameters["anchors"] = torch.tensor(parameters["anchors"])
        elif config.encoder == "rbf" and task is not None:
            parameters["anchors"] = _draw_anchors(
                task.train, int(parameters.pop("num_anchors", 200)), generator
            )
        encoder = location_encoder(
            config.encoder,
            config.embedding_dim,
            preset=config.preset,  # type: ignore[arg-type]
            generator=generator,
            **parameters,
        )
    if config.kind == "classification":
        assert encoder is not None
        return LocationClassifier(encoder, config.num_classes, generator=generator)
    with_image = config.fusion != "none" or encoder is None
    return Regressor(
        encoder,
        config.image_features if with_image else 0,
        fusion=config.fusion,
        image_kind=config.image_kind,
        embedding_dim=config.embedding_dim,
        head=config.head,
        location_activation=config.location_activation,
        dropout=config.head_dropout,
        generator=generator,
    )


def resolve_device(device: str | torch.device) -> torch.device:
    """The device called ``device``; "auto" is a GPU if there is one (the process's own under torchrun), else
    the CPU."""
    if device != "auto":
        return torch.device(device)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def environment_of(device: torch.device) -> dict[str, Any]:
    """Versions and hardware that a number may depend on."""
    import tslab

    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    return {
        "tslab": tslab.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "device": device.type,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def _run(
    task: Task,
    config: TrainConfig,
    encoder: str | LocationEncoder,
    folder: Path | None,
    resume_from: Path | None,
    device: str | torch.device,
    on_epoch: Callable[[dict[str, float]], None] | None,
    progress: bool,
    compile: bool | None,
) -> Run:
    where = resolve_device(device)
    join_processes(where)
    model = build_model(config, task, None if isinstance(encoder, str) else encoder).to(where)
    objective, trained = _objective(config, task, model, where)
    environment = environment_of(where)
    if folder is not None and resume_from is None and _writes():
        atomic_write(folder / ENVIRONMENT_FILE, json.dumps(environment, indent=2) + "\n")
        atomic_write(folder / CONFIG_FILE, json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    settings = LoopSettings(
        epochs=config.epochs,
        lr=config.lr,
        lr_decay=config.lr_decay,
        schedule=config.schedule,
        weight_decay=config.weight_decay,
        batch_size=config.batch_size,
        seed=config.seed,
        patience=config.patience,
        precision=config.precision,
        compile=where.type == "cuda" and current_share().world == 1 if compile is None else compile,
    )
    validate = None
    if config.patience is not None:
        if len(task.val) == 0:
            raise ValueError(
                f"patience needs a validation split and {task.name} has none; leave patience out"
            )
        validation = task.val.to(where)
        validate = lambda: quick_metrics(model, validation)  # noqa: E731
    state = fit(
        model,
        objective,
        settings,
        where,
        trained=trained,
        validate=validate,
        checkpoint=None if folder is None else folder / CHECKPOINT_FILE,
        resume_from=resume_from,
        on_epoch=on_epoch,
        progress=progress,
        label=f"{config.task} · {config.encoder}",
    )
    history = pd.DataFrame(state.history)
    if folder is not None and _writes():
        with atomic_path(folder / HISTORY_FILE) as temporary:
            history.to_csv(temporary, index=False)
    return Run(model, history, config, environment, folder)


def _objective(
    config: TrainConfig, task: Task, model: LocationClassifier | Regressor, device: torch.device
) -> tuple[Objective, nn.Module]:
    """The objective and the module that it calls."""
    if isinstance(model, LocationClassifier):
        objective = PresenceOnly(
            task.train,
            device,
            background=config.background,
            background_weight=config.background_weight,
            eps=config.loss_eps,
            max_per_class=config.max_per_class,
        )
        return objective, model
    error = SquaredError(task.train, device, model, standardise_label=config.standardise_label)
    return error, Standardised(model)


def _check_alone(arguments: dict[str, Any]) -> None:
    """A run that is continued has its configuration already; say so to who gives another one."""
    allowed = {"task", "encoder", "device", "compile", "resume", "on_epoch", "progress", "encoder_parameters"}
    defaults = {name: p.default for name, p in inspect.signature(train).parameters.items()}
    more = [
        k for k, v in arguments.items() if k not in allowed and v != defaults.get(k, inspect.Parameter.empty)
    ]
    if more:
        raise ValueError(
            f"resume continues a run with its own configuration; leave out {', '.join(more)}, "
            "or train anew in another run_dir"
        )


def _resume(task: Task, folder: Path, encoder: str | LocationEncoder, **how: Any) -> Run:
    config = _read_config(folder)
    if config.task != task.name:
        raise ValueError(
            f"the run in {folder} was trained on {config.task}, not on {task.name}; load that task"
        )
    if config.encoder == "custom" and isinstance(encoder, str):
        raise ValueError("this run was trained with an encoder object; pass the same object as encoder=")
    given = encoder if config.encoder == "custom" else config.encoder
    checkpoint = folder / CHECKPOINT_FILE
    start = checkpoint if checkpoint.is_file() else None  # interrupted in the first epoch: begin again
    return _run(
        task, config, given, folder, start, how["device"], how["on_epoch"], how["progress"], how["compile"]
    )


def _resolve_options(preset: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """Options of the loss and the models: what was given, else the preset's, else the default."""
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is not known; choose None or one of {', '.join(PRESETS)}")
    defaults = {
        **{
            "lr_decay": 0.98,
            "weight_decay": 0.0,
            "max_per_class": None,
            "background": "sphere",
            "loss_eps": 0.0,
        },
        **{"location_activation": "identity", "standardise_label": True},
    }
    chosen = defaults | (PRESETS[preset] if preset is not None else {})
    chosen |= {name: value for name, value in given.items() if value is not None}
    return chosen | {"max_per_class": chosen["max_per_class"] or None}


def _resolve_parameters(
    task: Task, encoder: str, preset: str | None, given: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(training parameters, encoder parameters): the recorded ones that the encoder takes, then those given."""
    recorded = hyperparameters(task.name, encoder, preset, kind=task.meta.kind)
    training = {name: recorded.pop(name) for name in ("lr", "batch_size", "epochs")}
    if encoder in ("custom", "no_prior"):
        if given:
            raise TypeError(
                f"{', '.join(given)}: encoder parameters need the key of an encoder, not {encoder!r}"
            )
        return training, {}
    if encoder not in ENCODERS:
        raise KeyError(f"encoder {encoder!r} is not known; choose one of {', '.join(ENCODERS)}, or no_prior")
    taken = {name: value for name, value in recorded.items() if name not in given}
    if "anchors" in given:
        taken.pop("num_anchors", None)
    if "network" in given:  # recorded parameters belong to the recorded network
        taken = {k: v for k, v in taken.items() if k not in ("activation", "num_hidden_layers", "hidden_dim")}
    plain = {name: value.tolist() if isinstance(value, Tensor) else value for name, value in given.items()}
    return training, taken | plain


def _resolve_fusion(fusion: str | None, encoder: str, image_features: int, task: Task) -> str:
    if task.meta.kind == "classification":
        if fusion not in (None, "none"):
            raise ValueError(
                "fusion is for regression; a class prior is multiplied with the image predictions by tslab.evaluate"
            )
        if encoder == "no_prior":
            raise ValueError("no_prior has nothing to train; use tslab.evaluate('no_prior', task.test)")
        return "none"
    if encoder == "no_prior":
        if image_features == 0:
            raise ValueError(f"no_prior is the image alone, and {task.name} has no image features")
        return "none"
    if image_features == 0:
        if fusion not in (None, "none"):
            raise ValueError(
                f"fusion={fusion!r} needs image features and {task.name} has none; leave fusion out"
            )
        return "none"
    return "concat" if fusion is None else fusion


def _draw_anchors(table: Table, count: int, generator: torch.Generator) -> Tensor:
    places = table.lonlat[has_location(table.lonlat)].cpu()
    return places[torch.randperm(len(places), generator=generator)[:count]]


def _new_folder(run_dir: str | os.PathLike[str]) -> Path:
    folder = Path(run_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"{folder} exists and is not empty; a run folder is written once: "
            f"choose another run_dir, or continue with resume={str(folder)!r}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _read_config(folder: Path) -> TrainConfig:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no run (no {CONFIG_FILE}); check the path, or train with run_dir="
        )
    content = json.loads(path.read_text())
    return TrainConfig(**{**content, "head": tuple(content["head"])})


def _writes() -> bool:
    """True in the one process that writes files."""
    return int(os.environ.get("RANK", "0")) == 0
