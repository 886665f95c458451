"""Tuning: search hyper-parameters on the validation split, with Optuna.

The evaluated split stays out of it: `tune` cannot see ``task.test``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from tslab._checks import check_count, check_number
from tslab.encoders import encoder_info
from tslab.evaluation import quick_metrics
from tslab.tasks.task import Task
from tslab.training.loop import NonFiniteLossError
from tslab.training.options import check_task
from tslab.training.run import train

Choice = tuple[float, float] | tuple[float, float, str] | list[Any]
"""(low, high): a number in between, whole if both are; (low, high, "log"): on a logarithmic scale; [a, b,
...]: one of them."""


@dataclass(frozen=True)
class Tuning:
    """What `tune` found.

    Attributes:
        best: the best parameters; ``tslab.train(task, encoder, **best)`` takes them.
        value: their metric on the validation split.
        metric: "top1" or "r2".
        trials: one row for each trial: its parameters, value, and state ("complete" or "fail").
    """

    best: dict[str, Any]
    value: float
    metric: str
    trials: pd.DataFrame


def tune(
    task: Task,
    encoder: str,
    *,
    trials: int = 20,
    space: Mapping[str, Choice] | None = None,
    fixed: Mapping[str, Any] | None = None,
    seed: int = 0,
    storage: str | None = None,
    progress: bool = True,
) -> Tuning:
    """Search hyper-parameters of an encoder on a task.

    The metric is that of the validation split after training: top1 (with the image predictions, where there
    are some) or r2. A trial whose loss explodes counts as failed.

    Args:
        task: with a validation split (see ``task.with_validation()``).
        encoder: its key.
        trials: number of configurations to try.
        space: what to search; default `default_space`.
        fixed: further arguments of `tslab.train`, for example ``{"epochs": 10}``.
        seed: of the search and of every training.
        storage: an Optuna storage address, to continue a search or to share it between processes.
        progress: show Optuna's progress bar.

    Raises:
        ValueError: the task has no validation split, an argument out of its range, or a storage that cannot be read;
            names it.
        RuntimeError: every trial failed.
        ImportError: Optuna is not installed.
    """
    check_task(task)
    check_count("trials", trials)
    check_count("seed", seed, at_least=0, at_most=2**32 - 1)
    if len(task.val) == 0:
        raise ValueError(f"{task.name} has no validation split; use task.with_validation()")
    optuna = _import_optuna()
    space = default_space(encoder) if space is None else space
    for name, choice in space.items():
        _check_choice_of(name, choice)
    metric = "top1" if task.meta.kind == "classification" else "r2"
    searched = replace(task, test=task.val)  # nothing below can look at the evaluated rows
    common: dict[str, Any] = {"progress": False, "seed": seed} | dict(fixed or {})

    def objective(trial: Any) -> float:
        parameters = {name: _suggest(trial, name, choice) for name, choice in space.items()}
        run = train(searched, encoder, **(common | parameters))
        return quick_metrics(run.model, searched.val)[metric]

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a trial that failed is a row of the result
    try:
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed),
            storage=storage,
            study_name=f"{task.name}-{encoder}",
            load_if_exists=storage is not None,
        )
    except Exception as error:  # whatever the database's driver raises
        if storage is None:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"storage {storage!r} cannot be used ({reason}); it must be an address such as "
            "'sqlite:///search.db' of a new file or of a search of Optuna's; name another one"
        ) from error
    study.optimize(objective, n_trials=trials, catch=(NonFiniteLossError,), show_progress_bar=progress)
    rows = [{**trial.params, "value": trial.value, "state": trial.state.name.lower()} for trial in study.trials]
    if not any(row["state"] == "complete" for row in rows):
        raise RuntimeError(
            f"all {len(rows)} trials failed because the loss exploded; search smaller learning rates (space=)"
        )
    return Tuning(dict(study.best_params), float(study.best_value), metric, pd.DataFrame(rows))


def default_space(encoder: str) -> dict[str, Choice]:
    """What `tune` searches for an encoder: the learning rate, the width, and the scales where it has some."""
    names = encoder_info(encoder).parameters
    space: dict[str, Choice] = {"lr": (1e-4, 2e-2, "log")}
    if encoder_info(encoder).network == "ffn":
        space |= {"hidden_dim": [256, 512, 1024], "dropout": [0.0, 0.1, 0.3, 0.5]}
    if "num_scales" in names and encoder != "sphere2vec_dfs":
        space["num_scales"] = [16, 32, 64] if encoder != "nerf" else [6, 8, 10, 12]
    if "min_radius" in names:
        space["min_radius"] = (1e-2, 5.0, "log") if encoder.startswith("space2vec") else (1e-4, 1e-1, "log")
    if "kernel_size" in names:
        space["kernel_size"] = (0.5, 50.0, "log")
    if "cell_size" in names:
        space["cell_size"] = [1.0, 2.0, 5.0, 10.0]
    if "degree" in names:
        space["degree"] = [5, 10, 20]
    return space


def _check_choice_of(name: str, choice: Any) -> None:
    what = f"space[{name!r}]"
    if isinstance(choice, list):
        if not choice:
            raise ValueError(f"{what} is an empty list; name at least one value")
        return
    if not isinstance(choice, tuple) or len(choice) not in (2, 3) or (len(choice) == 3 and choice[2] != "log"):
        raise ValueError(f'{what} must be (low, high), (low, high, "log") or a list of values, got {choice!r}')
    low = check_number(f"{what}, low,", choice[0], above=0 if len(choice) == 3 else None)
    check_number(f"{what}, high,", choice[1], at_least=low)


def _suggest(trial: Any, name: str, choice: Choice) -> Any:
    if isinstance(choice, list):
        return trial.suggest_categorical(name, choice)
    low, high, log = choice[0], choice[1], len(choice) == 3
    suggest: Callable[..., Any] = trial.suggest_float
    if isinstance(low, int) and isinstance(high, int):
        suggest = trial.suggest_int
    return suggest(name, low, high, log=log)


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError("tslab.tune needs Optuna: pip install 'tslab[tune]'") from error
    return optuna
