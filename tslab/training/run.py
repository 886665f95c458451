"""Training: from a task and the name of an encoder to a trained model, in one call.

`train` fills in the recorded hyper-parameters, builds the model, runs the loop of `tslab.training.loop` and returns a
`Run`: the model, its history, the configuration and the environment, enough to do it again. A run can live
in a folder, which is written once, and be continued from there.
"""

import dataclasses
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from tslab._checks import check_choice
from tslab._files import DamagedFileError, atomic_path
from tslab.encoders import LocationEncoder
from tslab.evaluation import quick_metrics
from tslab.models import LocationClassifier, Regressor
from tslab.tasks.task import Task
from tslab.training import folder as folders
from tslab.training.config import (
    OPTION_NAMES,
    TrainConfig,
    build_model,
    check_storable,
    check_task,
    configure,
    read_config,
    resolve_device,
)
from tslab.training.folder import CHECKPOINT_FILE, CONFIG_FILE, HISTORY_FILE, read_checkpoint, writes_files
from tslab.training.loop import Objective, PresenceOnly, SquaredError, Standardised, current_share, fit, join_processes


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
    seed: int | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    lr_decay: float | None = None,
    schedule: str | None = None,
    weight_decay: float | None = None,
    batch_size: int | None = None,
    max_per_class: int | None = None,
    background: str | None = None,
    background_weight: float | None = None,
    loss_eps: float | None = None,
    embedding_dim: int | None = None,
    fusion: str | None = None,
    location_activation: str | None = None,
    standardise_label: bool | None = None,
    head: Sequence[int] | None = None,
    head_dropout: float | None = None,
    patience: int | None = None,
    precision: str | None = None,
    preset: str | None = None,
    device: str | torch.device = "auto",
    compile: bool | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    progress: bool = True,
    **encoder_parameters: Any,
) -> Run:
    """Train a location encoder on a task.

    The options from ``seed`` to ``precision`` are those of `TrainOptions`, which says what each is and what it is
    when you leave it out (None); they are named here so that an editor can complete them. The same arguments give
    the same numbers on the same kind of device, bit for bit on a CPU.

    Args:
        task: what `tslab.load_task` returns.
        encoder: a key of `tslab.ENCODERS`, or a `LocationEncoder` of your own (a pre-trained one, say),
            which is then trained further; one that is frozen (no parameter requires a gradient) and in evaluation
            mode stays as it is. "no_prior" trains a regressor on the image alone.
        preset: "locbench2024" restores the released protocol: background points in the north-east quadrant,
            at most 100 rows of each class in an epoch, learning rate times 0.98 after each epoch, -ln(p +
            1e-5), activation and dropout on the embedding; for regression sigmoid on the embedding and
            labels as they are. What you pass wins over the preset.
        device: "auto" takes a GPU if there is one.
        compile: compile the step; default on a GPU only.
        run_dir: folder of this run, which must not exist yet or be empty; the state is stored there after each
            epoch. Nothing is written before every argument is known to be good.
        resume: folder of an interrupted run to continue; its configuration is used. Nothing but ``task``, ``device``,
            ``on_epoch``, ``progress``, ``compile`` and an encoder object may be given with it.
        on_epoch: called with each row of the history.
        progress: show a progress bar.
        **encoder_parameters: of `tslab.location_encoder`, for example ``num_scales=32, hidden_dim=1024``.

    Raises:
        ValueError: an option out of its range or that this task does not have, arguments that contradict each other,
            or ``resume`` with other data.
        FileExistsError: ``run_dir`` holds a run already.
        tslab._files.FolderInUseError: another training writes into the folder.
        NonFiniteLossError: the loss became NaN; names the step and what to try.
    """
    arguments = locals()
    given = {name: arguments[name] for name in OPTION_NAMES if arguments[name] is not None}
    _check_arguments(task, encoder, compile, on_epoch)
    where = resolve_device(device)
    how: dict[str, Any] = {"device": where, "compile": compile, "on_epoch": on_epoch, "progress": progress}
    if resume is not None:
        more = [*given, *(["preset"] if preset else []), *(["run_dir"] if run_dir else []), *encoder_parameters]
        if more:
            hint = f"leave out {', '.join(more)}, or train anew in another run_dir"
            raise ValueError(f"resume continues a run with its own configuration; {hint}")
        config = _resumed(task, Path(resume), encoder)
        encoder = encoder if config.encoder == "custom" else config.encoder
        return _run(task, config, encoder, Path(resume), resumed=True, **how)
    config = configure(task, encoder, preset, given, encoder_parameters)
    folder = None if run_dir is None else Path(run_dir)
    if folder is not None:
        check_storable(config.encoder_parameters)
        if writes_files():
            folders.check_free(folder)
        config = dataclasses.replace(config, data=_data_of(task, config))
    return _run(task, config, encoder, folder, **how)


def load_run(folder: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Run:
    """Load a run from its folder: the model as it was after the last stored epoch (the best one where there
    was early stopping).

    Raises:
        FileNotFoundError: no run there, or none that has finished an epoch.
        ValueError: a file of the run is damaged; names it and the way out.
    """
    folder = Path(folder)
    where = resolve_device(device)
    config = read_config(folder)
    checkpoint = folder / CHECKPOINT_FILE
    if not checkpoint.is_file():
        raise FileNotFoundError(f"the run in {folder} has not finished an epoch; go on with resume={str(folder)!r}")
    if config.encoder == "custom":
        raise ValueError("the run was trained with an encoder object; build it and load checkpoint.pt['model'] into it")
    content = read_checkpoint(checkpoint)
    weights = content["model"]
    if config.patience is not None and content["best_weights"]:
        weights = content["best_weights"]
    more = {}
    if config.encoder == "rbf" and "anchors" not in config.encoder_parameters:  # few places are fewer anchors
        more = {"num_anchors": next((len(w) for name, w in weights.items() if name.endswith(".anchors")), 1)}
    whole = dataclasses.replace(config, encoder_parameters=config.encoder_parameters | more)
    fault = f"{folder / CONFIG_FILE} describes a model that cannot be built"
    try:
        model = build_model(whole, None)
        fault = f"{checkpoint} does not hold the weights of the model that {CONFIG_FILE} beside it describes"
        model.load_state_dict(weights)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DamagedFileError(f"{fault} ({reason}); put the file back, or train again in a new folder") from error
    model.to(where).eval()
    return Run(model, pd.DataFrame(content["history"]), config, folders.read_environment(folder), folder)


def environment_of(device: torch.device) -> dict[str, Any]:
    """Versions and hardware that a number may depend on."""
    import tslab

    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "tslab": tslab.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "device": device.type,
        "device_name": gpu or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


@torch.inference_mode(False)
@torch.enable_grad()
def _run(
    task: Task,
    config: TrainConfig,
    encoder: str | LocationEncoder,
    folder: Path | None,
    *,
    device: torch.device,
    compile: bool | None,
    resumed: bool = False,
    **shown: Any,
) -> Run:
    """Build everything, then write to the folder, then train."""
    join_processes(device)
    model = build_model(config, task, None if isinstance(encoder, str) else encoder).to(device)
    objective, trained = _objective(config, task, model, device)
    validate = None
    if config.patience is not None:
        if len(task.val) == 0:
            raise ValueError(f"patience needs a validation split and {task.name} has none; leave patience out")
        validate = partial(quick_metrics, model, task.val.to(device))
    environment = environment_of(device)
    if compile is None:
        compile = device.type == "cuda" and current_share().world == 1
    written = folder if writes_files() else None
    with folders.writing(written):
        if written is not None and not resumed:
            folders.begin(written, dataclasses.asdict(config), environment)
        state = fit(
            model,
            objective,
            config,
            device,
            trained=trained,
            validate=validate,
            checkpoint=None if folder is None else folder / CHECKPOINT_FILE,
            compile=compile,
            label=f"{config.task} · {config.encoder}",
            **shown,
        )
        history = pd.DataFrame(state.history)
        if written is not None:
            with atomic_path(written / HISTORY_FILE) as temporary:
                history.to_csv(temporary, index=False)
    return Run(model, history, config, environment, folder)


def _objective(
    config: TrainConfig, task: Task, model: LocationClassifier | Regressor, device: torch.device
) -> tuple[Objective, nn.Module]:
    """The objective and the module that it calls."""
    if isinstance(model, Regressor):
        error = SquaredError(task.train, device, model, standardise_label=config.standardise_label)
        return error, Standardised(model)
    return PresenceOnly(task.train, device, config), model


def _check_arguments(task: Any, encoder: Any, compile: Any, on_epoch: Any) -> None:
    check_task(task)
    if not isinstance(encoder, str | LocationEncoder):
        what = "a key of tslab.ENCODERS or what tslab.location_encoder returns"
        raise TypeError(f"encoder must be {what}, got {type(encoder).__name__}")
    if not isinstance(encoder, str) and any(p.dtype != torch.float32 for p in encoder.parameters()):
        hint = 'pass encoder.float(); for faster products on a GPU there is precision="bfloat16"'
        raise ValueError(f"encoder must have float32 weights to be trained: {hint}")
    check_choice("compile", compile, (None, True, False))
    if on_epoch is not None and not callable(on_epoch):
        raise TypeError(f"on_epoch must be a function of a row of the history, got {type(on_epoch).__name__}")


def _resumed(task: Task, folder: Path, encoder: str | LocationEncoder) -> TrainConfig:
    """The configuration of the run in ``folder``, if it is one of this task and encoder."""
    config = read_config(folder)
    if config.task != task.name:
        raise ValueError(f"the run in {folder} was trained on {config.task}, not on {task.name}; load that task")
    if config.data is not None and config.data != _data_of(task, config):
        hint = "load the task as it was (scale, source, split, filters), or train anew in another run_dir"
        raise ValueError(f"the run in {folder} was trained on other rows than this {task.name} holds; {hint}")
    if config.encoder == "custom" and isinstance(encoder, str):
        raise ValueError("this run was trained with an encoder object; pass the same object as encoder=")
    return config


def _data_of(task: Task, config: TrainConfig) -> str:
    """Digest of the rows that decide the outcome: the training rows, and with patience the validation rows."""
    return folders.data_digest(task.train, *([task.val] if config.patience is not None else []))
