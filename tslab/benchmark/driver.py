"""Doing runs: what `tslab.benchmark.plan` lists and the store does not hold yet.

`run_all` is what ``python -m tslab.benchmark run`` and the reproduction notebooks call; `fitted` trains whatever can be
trained, `training_options` says how.
"""

import dataclasses
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tslab._files import DamagedFileError, atomic_path, packaged_json
from tslab.baselines import CLASS_BASELINES, REGRESSION_BASELINES, fit_baseline
from tslab.benchmark.recompute import NothingToRecomputeError, measure, released_samples
from tslab.benchmark.runner import Outcome, Workers, do_missing
from tslab.benchmark.runs import BASELINE_PREFIX, RunSpec
from tslab.benchmark.store import ResultStore, check_folder, code_version
from tslab.evaluation import evaluate
from tslab.hyperparameters import hyperparameters, recorded_hyperparameters
from tslab.released_files import ReleasedFilesMissingError
from tslab.tasks import Task, load_task
from tslab.tasks.locbench import training_mask
from tslab.training import resolve_device, train
from tslab.training.config import PRESETS
from tslab.training.folder import CHECKPOINT_FILE

MEASURED_STEPS = 10
"""Steps of an epoch that `forecast` times."""


def run_all(
    specs: Sequence[RunSpec],
    out: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    device: str = "auto",
    again: bool = False,
    retries: int = 1,
    dask: str | None = None,
    workers: int | None = None,
    modules: Sequence[str] = (),
    progress: bool = True,
    command: str = "",
) -> Outcome:
    """Do every run that the store in ``out`` does not hold yet.

    Args:
        specs: from `tslab.benchmark.plan`.
        out: folder of the `ResultStore`.
        root: the released files or the LocBench archive; default ``TSLAB_MIRROR``, then the cache folder.
        device: for training; "auto" takes a GPU if there is one.
        again: do runs again that are done already, trainings included.
        retries, dask, workers, modules, progress: see `tslab.benchmark.runner.Workers`; the processes of a Dask
            scheduler must see ``out``.
        command: noted in the manifest.

    A run that fails, or whose file in the store is damaged, does not stop the others. Missing released files stop
    everything, with what to do about it.

    Raises:
        ValueError: an argument out of its range, before anything is written.
    """
    crew = Workers(dask, workers, retries, modules, progress)
    store = ResultStore(check_folder("out", out))
    if "://" not in (dask or "") and any(spec.source != "released" for spec in specs):
        resolve_device(device)
    where: dict[str, Any] = {"out": str(out), "root": None if root is None else str(root), "device": device}
    outcome = do_missing(
        specs,
        store,
        partial(_run_and_keep, **where),
        crew,
        again=again,
        begin=lambda todo: store.begin_command(todo, command, again=again),
        fatal=(ReleasedFilesMissingError,),
    )
    outcome.stale = sum((store.load(spec) or {}).get("code") != _code(spec) for spec in outcome.skipped)
    return outcome


def forecast(
    specs: Sequence[RunSpec], store: ResultStore, *, root: str | os.PathLike[str] | None = None, device: str = "auto"
) -> pd.DataFrame:
    """How long the trainings that the store lacks will take on this machine, from measured steps.

    Of each encoder on each dataset a few batches are trained on for three epochs. The first one starts up; a row of the
    two others costs what every row will.

    Returns:
        one row for each dataset and encoder: dataset, encoder, trainings (tables share them), seconds (of one, without
        its evaluation).
    """
    missing = {store.samples_path(spec): spec for spec in specs if spec.trains and not store.path(spec).is_file()}
    groups: dict[tuple[str, str], list[RunSpec]] = {}
    for spec in missing.values():
        groups.setdefault((spec.dataset, spec.encoder), []).append(spec)
    rows = []
    tasks: dict[str, Task] = {}
    for (dataset, encoder), group in sorted(groups.items()):
        if dataset not in tasks:
            tasks = {dataset: load_run_task(group[0], root)}
        rows.append((dataset, encoder, len(group), _seconds_of_training(group[0], tasks[dataset], device)))
    return pd.DataFrame(rows, columns=["dataset", "encoder", "trainings", "seconds"])


def produce(
    spec: RunSpec, out: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Do one run and return its outcome: metrics, reason (why there is no number, else ""), file, seconds, code.

    A training that was interrupted is continued where it stopped.
    """
    start = time.perf_counter()
    reason, file, code = "", "", code_version()
    metrics: dict[str, Any] = {}
    try:
        if spec.source == "released":
            samples, file = released_samples(spec.dataset, spec.encoder, root)
        else:
            store = ResultStore(out)
            samples = _trained_samples(spec, store, root, device)
            code = store.made_by(spec)
        measured = measure(samples, spec.metrics, spec.dataset)
        metrics = {name: dataclasses.asdict(value) for name, value in measured.items()}
    except NothingToRecomputeError as error:
        reason = error.reason
    seconds = round(time.perf_counter() - start, 3)
    return {"metrics": metrics, "reason": reason, "file": file, "seconds": seconds, "code": code}


def load_run_task(spec: RunSpec, root: str | os.PathLike[str] | None = None) -> Task:
    """The task that a run with training uses.

    Raises:
        ValueError: the run does not train.
    """
    if spec.source == "synthetic":
        return load_task(spec.dataset, "synthetic", scale=spec.scale)  # type: ignore[arg-type]
    if spec.source == "released-points":
        return load_task(spec.dataset, "released", root=root, seed=spec.seed, split=spec.split)
    if spec.source != "locbench":
        raise ValueError(f"source {spec.source!r} does not train; choose locbench, synthetic or released-points")
    if spec.protocol != "paper":
        return load_task(spec.dataset, "locbench", root=root)
    drawn: dict[str, Any] = {}
    if spec.dataset.startswith("mosaiks_"):
        drawn = {"fraction": packaged_json("paper_protocol.json")["regression_fraction"], "seed": spec.seed}
    task = load_task(spec.dataset, "locbench", root=root, **drawn)
    return dataclasses.replace(task, train=task.train.where(training_mask(spec.dataset, task.train)))


def training_options(spec: RunSpec) -> dict[str, Any]:
    """Arguments of `tslab.train` that the source and the protocol of a run ask for.

    Of the paper's protocol, ``data/paper_protocol.json`` holds what the preset and the recorded hyper-parameters do
    not: epochs where no log has them, every row for YFCC, the run scripts of Siren(SH), heads of the regressions. What
    was not recorded (most learning rates of regressions) or cannot be asked for (the image branch) stays ours.
    """
    if spec.protocol != "paper":
        return {"epochs": spec.epochs}
    facts = packaged_json("paper_protocol.json")
    options = {"preset": facts["preset"], "epochs": None} | facts["datasets"].get(spec.dataset, {})
    if spec.encoder == "siren_sh":
        options |= facts["siren_sh"][""] | facts["siren_sh"].get(spec.dataset, {})
    table = recorded_hyperparameters().set_index(["dataset", "encoder"])["epochs"].dropna()
    recorded = table.get((spec.dataset, spec.encoder))
    return options | {"epochs": spec.epochs or (options["epochs"] if recorded is None else int(recorded))}


def fitted(task: Task, encoder: str, **options: Any) -> Any:
    """What `tslab.evaluate` takes: a trained run, a fitted baseline, or the image alone.

    Args:
        task: to train on.
        encoder: key of an encoder or a baseline (also as ``baseline:<key>``), or ``no_prior``.
        **options: of `tslab.train`; a baseline takes those of `tslab.baselines.fit_baseline`, ``seed`` is none of them.
    """
    classes = task.meta.kind == "classification"
    key = encoder.removeprefix(BASELINE_PREFIX)
    if key != encoder or key in (CLASS_BASELINES if classes else REGRESSION_BASELINES):
        return fit_baseline(key, task, **{name: value for name, value in options.items() if name != "seed"})
    if encoder == "no_prior" and classes:
        return "no_prior"
    return train(task, encoder, **({"progress": False} | options))


def _run_and_keep(spec: RunSpec, out: str, root: str | None, device: str) -> None:
    store = ResultStore(out)
    with nullcontext() if spec.source == "released" else store.training_lock(spec):
        store.save(spec, produce(spec, out, root, device))


def _code(spec: RunSpec) -> str:
    """The code that would do a run now."""
    return code_version(None if spec.source == "released" else spec.encoder)


def _trained_samples(
    spec: RunSpec, store: ResultStore, root: str | os.PathLike[str] | None, device: str
) -> pd.DataFrame:
    """Per-sample results of a trained run, from the store if another table trained it already."""
    path = store.samples_path(spec)
    if not path.is_file():
        store.begin(spec, _code(spec))
        task = load_run_task(spec, root)
        model = _train(spec, task, device, store.training_path(spec))
        samples = evaluate(model, task.test, intervals=False).results
        with atomic_path(path) as temporary:
            samples.to_csv(temporary, index=False, compression="gzip")
    return store.samples(spec)


def _train(spec: RunSpec, task: Task, device: str, folder: Path) -> Any:
    """Fit what a run is about, or continue a training that was interrupted."""
    if not (folder / CHECKPOINT_FILE).is_file():
        shutil.rmtree(folder, ignore_errors=True)  # stopped before the first epoch was stored
        options = {"device": device, "run_dir": folder} | training_options(spec)
        return fitted(
            task, spec.encoder, **({} if spec.encoder.startswith(BASELINE_PREFIX) else options), seed=spec.seed
        )
    try:
        return train(task, device=device, resume=folder, progress=False)
    except (ValueError, FileNotFoundError) as error:
        raise DamagedFileError(
            f"the training in {folder} cannot be continued ({type(error).__name__}: {error}); delete that folder "
            "and run the same command again"
        ) from error


def _seconds_of_training(spec: RunSpec, task: Task, device: str) -> float:
    """See `forecast`."""
    options = training_options(spec)
    asked = {name: value for name, value in options.items() if value is not None}
    preset = options.get("preset")
    chosen = hyperparameters(spec.dataset, spec.encoder, preset, kind=task.meta.kind) | asked
    few = min(len(task.train), MEASURED_STEPS * chosen["batch_size"])
    sample = dataclasses.replace(task, train=task.train.where(torch.arange(few)))
    short = options | {"epochs": 3, "max_per_class": 0}
    first, *others = train(sample, spec.encoder, device=device, progress=False, **short).history.itertuples()
    each = min(epoch.seconds / epoch.rows for epoch in others)
    rows = len(task.train)
    limit = chosen.get("max_per_class", PRESETS[preset]["max_per_class"] if preset else None)
    if limit and task.meta.kind == "classification":
        rows = int(torch.bincount(task.train.target).clamp(max=limit).sum())
    return float(first.seconds - first.rows * each + chosen["epochs"] * rows * each)
