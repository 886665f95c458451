"""Tuning: search hyper-parameters on the validation split, with Optuna.

The evaluated split stays out of it: `tune` cannot see ``task.test``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from tqdm.auto import trange

from tslab._checks import check_count, check_number, require
from tslab.encoders import encoder_info
from tslab.evaluation import quick_metrics
from tslab.tasks.task import Task
from tslab.training.config import check_task
from tslab.training.loop import NonFiniteLossError
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
        progress: show a progress bar.

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
    optuna: Any = require("optuna", "tune")
    space = {name: _distribution(name, choice) for name, choice in (space or default_space(encoder)).items()}
    metric = "top1" if task.meta.kind == "classification" else "r2"
    searched = replace(task, test=task.val)  # nothing below can look at the evaluated rows
    common: dict[str, Any] = {"progress": False, "seed": seed} | dict(fixed or {})
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a trial that failed is a row of the result
    where = {"storage": storage, "study_name": f"{task.name}-{encoder}", "load_if_exists": storage is not None}
    try:
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed), **where)
    except Exception as error:  # whatever the database's driver raises
        if storage is None:
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        hint = "name another one, such as 'sqlite:///search.db' for a new file"
        raise ValueError(f"storage {storage!r} cannot be used ({reason}); {hint}") from error
    for _ in trange(trials, disable=not progress, unit="trial"):
        trial = study.ask(space)
        try:
            run = train(searched, encoder, **(common | trial.params))
        except Exception as error:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            if not isinstance(error, NonFiniteLossError):
                raise
        else:
            study.tell(trial, quick_metrics(run.model, searched.val)[metric])
    rows = [{**trial.params, "value": trial.value, "state": trial.state.name.lower()} for trial in study.trials]
    if not any(row["state"] == "complete" for row in rows):
        raise RuntimeError(f"the loss of all {len(rows)} trials exploded; search smaller learning rates (space=)")
    return Tuning(dict(study.best_params), float(study.best_value), metric, pd.DataFrame(rows))


def default_space(encoder: str) -> dict[str, Choice]:
    """What `tune` searches for an encoder: the learning rate, the width, and the scales where it has some."""
    info = encoder_info(encoder)
    space: dict[str, Choice] = {"lr": (1e-4, 2e-2, "log")}
    if info.network == "ffn":
        space |= {"hidden_dim": [256, 512, 1024], "dropout": [0.0, 0.1, 0.3, 0.5]}
    scales: dict[str, Choice] = {
        "num_scales": [6, 8, 10, 12] if encoder == "nerf" else [16, 32, 64],
        "min_radius": (1e-2, 5.0, "log") if encoder.startswith("space2vec") else (1e-4, 1e-1, "log"),
        "kernel_size": (0.5, 50.0, "log"),
        "cell_size": [1.0, 2.0, 5.0, 10.0],
        "degree": [5, 10, 20],
    }
    if encoder == "sphere2vec_dfs":
        del scales["num_scales"]  # its width grows with their square
    return space | {name: choice for name, choice in scales.items() if name in info.parameters}


def _distribution(name: str, choice: Any) -> Any:
    """What Optuna draws from."""
    from optuna import distributions

    try:
        if isinstance(choice, list):
            return distributions.CategoricalDistribution(choice)
        low, high, *log = choice
        if log not in ([], ["log"]):
            raise ValueError("the third is not log")
        check_number("high", high, at_least=check_number("low", low))
        whole = isinstance(low, int) and isinstance(high, int)
        kind = distributions.IntDistribution if whole else distributions.FloatDistribution
        return kind(low, high, log=bool(log))
    except (TypeError, ValueError) as error:
        wanted = '(low, high), (low, high, "log") or a list of values'
        raise ValueError(f"space[{name!r}] must be {wanted}, got {choice!r} ({error})") from error
