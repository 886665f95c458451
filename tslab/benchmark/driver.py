"""Doing runs: what `tslab.benchmark.plan` lists and the store does not hold yet.

`run_all` is what ``python -m tslab.benchmark run`` and the reproduction notebooks call.
"""

import dataclasses
import errno
import os
import shutil
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from tslab._checks import check_count
from tslab._files import DamagedFileError, atomic_path
from tslab.benchmark.recompute import NothingToRecomputeError, measure, released_samples
from tslab.benchmark.runner import do_jobs, import_modules, open_pool
from tslab.benchmark.runs import BASELINE_PREFIX, RunSpec
from tslab.benchmark.store import ResultStore, check_folder, code_version
from tslab.released_files import ReleasedFilesMissingError


@dataclass
class Outcome:
    """What `run_all` did: runs that were there already (``stale``: done by another state of the code), runs done now,
    runs that failed with their last error."""

    skipped: list[RunSpec] = field(default_factory=list)
    done: list[RunSpec] = field(default_factory=list)
    failed: dict[RunSpec, str] = field(default_factory=dict)
    stale: int = 0

    def __str__(self) -> str:
        text = f"{len(self.done)} runs done, {len(self.skipped)} were there already, {len(self.failed)} failed"
        if self.stale:
            text += f"\n{self.stale} of those were done by another state of the code; --again does them again"
        for spec, error in self.failed.items():
            text += f"\n  {spec.name}: {error.strip().splitlines()[-1]}"
        return text


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
        retries: further tries of a run that fails.
        dask: ``"local"`` or the address of a scheduler; its workers must see ``out``. Needs the package distributed.
        workers: processes of ``dask="local"``; default one for each two processors.
        modules: that register encoders of your own; they are imported here and in every worker.
        progress: show a bar, and the estimated time if runs like these are in the store.
        command: noted in the manifest.

    A run that fails, or whose file in the store is damaged, does not stop the others. Missing released files stop
    everything, with what to do about it.

    Raises:
        ValueError: an argument out of its range, before anything is written.
    """
    check_count("retries", retries, at_least=0)
    store, outcome = ResultStore(check_folder("out", out)), Outcome()
    import_modules(modules)
    if any(spec.source != "released" for spec in specs):
        _check_device(device, elsewhere=dask not in (None, "local"))
    todo = [spec for spec in dict.fromkeys(specs) if again or _missing(spec, store, outcome)]
    if not todo:
        return outcome
    where: dict[str, Any] = {"out": str(out), "root": None if root is None else str(root), "device": device}
    work = partial(_run_and_keep, **where, again=uuid.uuid4().hex if again else "")
    with open_pool(dask, workers) as client, tqdm(total=len(todo), unit="run", disable=not progress) as bar:
        store.write_manifest(todo, command)
        if progress and (seconds := estimate(todo, store)) is not None:
            bar.write(f"{len(todo)} runs, about {_duration(seconds)} going by the runs in {out}", file=sys.stderr)
        options: dict[str, Any] = {"retries": retries, "modules": modules}
        for spec, failure in do_jobs(todo, work, client, **options, fatal=(ReleasedFilesMissingError,)):
            if failure is None:
                outcome.done.append(spec)
            else:
                outcome.failed[spec] = failure.trace
            bar.set_postfix_str(spec.name, refresh=False)
            bar.update()
    return outcome


def _missing(spec: RunSpec, store: ResultStore, outcome: Outcome) -> bool:
    """Whether the store has to be filled; otherwise ``outcome`` notes why not."""
    try:
        kept = store.load(spec)
    except DamagedFileError as error:
        outcome.failed[spec] = str(error)
        return False
    if kept is not None:
        outcome.skipped.append(spec)
        outcome.stale += kept["code"] != _code(spec)
    return kept is None


def estimate(specs: Sequence[RunSpec], store: ResultStore) -> float | None:
    """Seconds that the runs will take, from finished runs of the same table, dataset, source and scale; None if
    there is a kind without any."""
    known = store.frame().drop_duplicates(["table", "dataset", "encoder", "source", "scale", "seed"])
    keys = ["table", "dataset", "source", "scale"]
    median = known.groupby(keys)["seconds"].median() if len(known) else {}
    try:
        return float(sum(median[spec.table, spec.dataset, spec.source, spec.scale] for spec in specs))
    except KeyError:
        return None


def probe(spec: RunSpec, *, root: str | os.PathLike[str] | None = None, device: str = "auto") -> float:
    """Seconds that a run with training will take, from training one epoch of it now."""
    from tslab.hyperparameters import hyperparameters

    task = load_run_task(spec, root)
    if spec.encoder.startswith(BASELINE_PREFIX):
        return 0.0
    start = time.perf_counter()
    _train(dataclasses.replace(spec, epochs=1), task, device, None)
    epochs = spec.epochs or hyperparameters(spec.dataset, spec.encoder)["epochs"]
    return float(epochs * (time.perf_counter() - start))


def forecast(
    specs: Sequence[RunSpec], store: ResultStore, *, root: str | os.PathLike[str] | None = None, device: str = "auto"
) -> pd.DataFrame:
    """How long the runs that the store lacks will take.

    Returns:
        one row for each dataset: dataset, trainings (tables share them), seconds (of one training): from finished runs
        (`estimate`) where there are such, else from one epoch (`probe`).
    """
    rows = []
    for dataset in dict.fromkeys(spec.dataset for spec in specs):
        mine = {
            store.samples_path(spec): spec
            for spec in specs
            if spec.dataset == dataset and spec.source != "released" and not store.path(spec).is_file()
        }
        trained = [s for s in mine.values() if s.encoder != "no_prior" and not s.encoder.startswith(BASELINE_PREFIX)]
        known = estimate(trained, store)
        seconds = 0.0
        if trained:
            seconds = probe(trained[0], root=root, device=device) if known is None else known / len(trained)
        rows.append((dataset, len(trained), seconds))
    return pd.DataFrame(rows, columns=["dataset", "trainings", "seconds"])


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
            code = store.made_by(spec)["code"]
        measured = measure(samples, spec.metrics, spec.dataset)
        metrics = {name: dataclasses.asdict(value) for name, value in measured.items()}
    except NothingToRecomputeError as error:
        reason = error.reason
    seconds = round(time.perf_counter() - start, 3)
    return {"metrics": metrics, "reason": reason, "file": file, "seconds": seconds, "code": code}


def load_run_task(spec: RunSpec, root: str | os.PathLike[str] | None = None) -> Any:
    """The task that a run with training uses.

    Raises:
        ValueError: the run does not train.
    """
    from tslab.tasks import load_task

    if spec.source == "synthetic":
        return load_task(spec.dataset, "synthetic", scale=spec.scale)  # type: ignore[arg-type]
    if spec.source == "locbench":
        return load_task(spec.dataset, "locbench", root=root)
    if spec.source == "released-points":
        return load_task(spec.dataset, "released", root=root, seed=spec.seed, split=spec.split)
    raise ValueError(f"source {spec.source!r} does not train; choose locbench, synthetic or released-points")


def _run_and_keep(spec: RunSpec, out: str, root: str | None, device: str, again: str) -> None:
    """Do a run and keep its outcome; ``again`` marks the command that wants trainings done anew."""
    store = ResultStore(out)
    if spec.source == "released":
        store.save(spec, produce(spec, out, root, device))
        return
    with store.training_lock(spec):
        if again:
            store.begin(spec, _code(spec), again)
        store.save(spec, produce(spec, out, root, device))


def _code(spec: RunSpec) -> str:
    """The code that would do a run now."""
    return code_version(None if spec.source == "released" else spec.encoder)


def _trained_samples(
    spec: RunSpec, store: ResultStore, root: str | os.PathLike[str] | None, device: str
) -> pd.DataFrame:
    """Per-sample results of a trained run, from the store if another table trained it already."""
    path = store.samples_path(spec)
    if path.is_file():
        return store.samples(spec)
    from tslab.evaluation import evaluate

    store.begin(spec, _code(spec), store.made_by(spec).get("again", ""))
    task = load_run_task(spec, root)
    if spec.encoder == "no_prior" and task.meta.kind == "classification":
        model: Any = "no_prior"
    elif spec.encoder.startswith(BASELINE_PREFIX):
        from tslab.baselines import fit_baseline

        model = fit_baseline(spec.encoder.removeprefix(BASELINE_PREFIX), task)
    else:
        model = _train(spec, task, device, store.training_path(spec))
    samples = evaluate(model, task.test, intervals=False).results
    with atomic_path(path) as temporary:
        samples.to_csv(temporary, index=False, compression="gzip")
    return store.samples(spec)


def _train(spec: RunSpec, task: Any, device: str, folder: Path | None) -> Any:
    """Train, or continue a training that was interrupted."""
    from tslab.training import CHECKPOINT_FILE, train
    from tslab.training.loop import NonFiniteLossError

    if folder is not None and (folder / CHECKPOINT_FILE).is_file():
        try:
            return train(task, device=device, resume=folder, progress=False)
        except NonFiniteLossError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DamagedFileError(
                f"the training in {folder} cannot be continued ({type(error).__name__}: {error}); delete that folder "
                "and run the same command again"
            ) from error
    if folder is not None and folder.is_dir():  # stopped before the first epoch was stored
        shutil.rmtree(folder)
    return train(task, spec.encoder, seed=spec.seed, device=device, run_dir=folder, progress=False, epochs=spec.epochs)


def _check_device(device: str, *, elsewhere: bool) -> None:
    from tslab.training import resolve_device

    try:
        where = resolve_device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"device {device!r} is not known; use auto, cpu or cuda") from error
    if where.type == "cuda" and not elsewhere and not torch.cuda.is_available():
        raise ValueError(f"device {device!r}: torch finds no GPU here; use auto or cpu")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
