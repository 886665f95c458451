"""Doing runs: one after another or on a Dask cluster, with progress, another try after a failure, and a store
that remembers what is done.

`run_all` is what ``python -m tslab.benchmark run`` and the reproduction notebooks call.
"""

import dataclasses
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from tslab._files import atomic_path
from tslab.benchmark.recompute import NothingToRecomputeError, measure, released_samples
from tslab.benchmark.runs import BASELINE_PREFIX, ResultStore, RunSpec, code_version
from tslab.released_files import ReleasedFilesMissingError

FAIR_TRAINING: dict[str, Any] = {
    **{"epochs": 10, "lr": 2e-3, "batch_size": 512, "schedule": "cosine"},
    **{"head": (256,), "head_dropout": 0.0},
}
FAIR_NETWORK: dict[str, Any] = {"hidden_dim": 512, "activation": "gelu", "dropout": 0.1}
FAIR_ENCODERS: dict[str, dict[str, Any]] = {
    "tile": FAIR_NETWORK | {"cell_size": 4.0},
    "wrap": {"dropout": 0.1},
    "space2vec_grid": FAIR_NETWORK | {"num_scales": 16, "min_radius": 0.573, "max_radius": 360.0},
    "space2vec_theory": FAIR_NETWORK | {"num_scales": 16, "min_radius": 0.573, "max_radius": 360.0},
    "rbf": FAIR_NETWORK | {"num_anchors": 500, "kernel_size": 4.0},
    "nerf": FAIR_NETWORK | {"num_scales": 6},
    "sphere2vec_dfs": FAIR_NETWORK | {"num_scales": 8, "min_radius": 0.01},
    "siren_sh": {"hidden_dim": 512, "dropout": 0.1},
}
FAIR_ENCODERS |= {
    f"sphere2vec_sphere{kind}": FAIR_NETWORK | {"num_scales": 16, "min_radius": 0.01}
    for kind in ("C", "C+", "M", "M+")
}
"""How every encoder is trained on the released points: one network, one optimiser, as many passes for all. Encoders
with scales go down to the same wavelength, about 400 km (0.01 radians, 0.573 degrees, 2^-5 of the radius); cells of
the tile are as wide. Nothing is tuned by encoder."""


@dataclass
class Outcome:
    """What `run_all` did: runs that were there already (``stale``: done by another state of the code), runs done now,
    runs that failed with their last error."""

    skipped: list[RunSpec] = field(default_factory=list)
    done: list[RunSpec] = field(default_factory=list)
    failed: dict[RunSpec, str] = field(default_factory=dict)
    stale: int = 0

    def __str__(self) -> str:
        text = (
            f"{len(self.done)} runs done, {len(self.skipped)} were there already, {len(self.failed)} failed"
        )
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
    progress: bool = True,
    command: str = "",
) -> Outcome:
    """Do every run that the store in ``out`` does not hold yet.

    Args:
        specs: from `tslab.benchmark.plan`.
        out: folder of the `ResultStore`.
        root: the released files or the LocBench archive; default ``TSLAB_MIRROR``, then the cache folder.
        device: for training; "auto" takes a GPU if there is one.
        again: do runs again that are done already.
        retries: further tries of a run that fails.
        dask: ``"local"`` or the address of a scheduler; its workers must see ``out``. Needs the package distributed.
        progress: show a bar, and the estimated time if runs like these are in the store.
        command: noted in the manifest.

    A run that fails does not stop the others. Missing released files stop everything, with what to do about it.
    """
    store, outcome = ResultStore(out), Outcome()
    todo: list[RunSpec] = []
    for spec in specs:
        kept = None if again else store.load(spec)
        (todo if kept is None else outcome.skipped).append(spec)
        outcome.stale += kept is not None and kept["code"] != code_version()
    if not todo:
        return outcome
    store.write_manifest(todo, command)
    arguments = {"out": str(out), "root": None if root is None else str(root), "device": device}
    with tqdm(total=len(todo), unit="run", disable=not progress) as bar:
        if progress and (seconds := estimate(todo, store)) is not None:
            bar.write(
                f"{len(todo)} runs, about {_duration(seconds)} going by the runs in {out}", file=sys.stderr
            )
        for spec, error in _execute(
            todo, arguments, retries, dask, lambda spec: bar.set_postfix_str(spec.name)
        ):
            if error is None:
                outcome.done.append(spec)
            else:
                outcome.failed[spec] = error
            bar.update()
    return outcome


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


def produce(
    spec: RunSpec,
    out: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Do one run and return its outcome: metrics, reason (why there is no number, else ""), file, seconds, code.

    A training that was interrupted is continued where it stopped.
    """
    start = time.perf_counter()
    reason, file = "", ""
    metrics: dict[str, Any] = {}
    try:
        if spec.source == "released":
            samples, file = released_samples(spec.dataset, spec.encoder, root)
        else:
            samples = _trained_samples(spec, ResultStore(out), root, device)
        measured = measure(samples, spec.metrics, spec.dataset)
        metrics = {name: dataclasses.asdict(value) for name, value in measured.items()}
    except NothingToRecomputeError as error:
        reason = error.reason
    seconds = round(time.perf_counter() - start, 3)
    return {"metrics": metrics, "reason": reason, "file": file, "seconds": seconds, "code": code_version()}


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


def _execute(
    specs: Sequence[RunSpec],
    arguments: dict[str, Any],
    retries: int,
    dask: str | None,
    started: Callable[[RunSpec], None],
) -> Iterator[tuple[RunSpec, str | None]]:
    """Each run with its last error, or None; in any order."""
    if dask is None:
        for spec in specs:
            started(spec)
            yield spec, _attempt(spec, retries, **arguments)
        return
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise ImportError("a Dask cluster needs the package distributed: pip install distributed") from error
    with Client(
        **({"processes": True, "threads_per_worker": 1} if dask == "local" else {"address": dask})
    ) as client:
        futures = {client.submit(_attempt, spec, retries, pure=False, **arguments): spec for spec in specs}
        for future in as_completed(futures):
            started(futures[future])
            yield futures[future], future.result()


def _attempt(spec: RunSpec, retries: int, out: str, root: str | None, device: str) -> str | None:
    """Do a run and keep its outcome; the traceback of the last failure, or None."""
    for attempt in range(retries + 1):
        try:
            ResultStore(out).save(spec, produce(spec, out, root, device))
        except ReleasedFilesMissingError:
            raise
        except Exception:
            if attempt == retries:
                return traceback.format_exc()
        else:
            return None
    return None


def _trained_samples(
    spec: RunSpec, store: ResultStore, root: str | os.PathLike[str] | None, device: str
) -> pd.DataFrame:
    """Per-sample results of a trained run, from the store if another table trained it already."""
    path = store.samples_path(spec)
    if path.is_file():
        return pd.read_csv(path)
    from tslab.evaluation import evaluate

    task = load_run_task(spec, root)
    if spec.encoder == "no_prior" and task.meta.kind == "classification":
        model: Any = "no_prior"
    elif spec.encoder.startswith(BASELINE_PREFIX):
        from tslab.baselines import fit_baseline

        model = fit_baseline(spec.encoder.removeprefix(BASELINE_PREFIX), task)
    else:
        model = _train(spec, task, device, store.folder / "training" / path.name.removesuffix(".csv.gz"))
    samples = evaluate(model, task.test, intervals=False).results
    with atomic_path(path) as temporary:
        samples.to_csv(temporary, index=False, compression="gzip")
    return pd.read_csv(path)


def _train(spec: RunSpec, task: Any, device: str, folder: Path | None) -> Any:
    """Train, or continue a training that was interrupted."""
    from tslab.training import CHECKPOINT_FILE, train

    if folder is not None and (folder / CHECKPOINT_FILE).is_file():
        return train(task, device=device, resume=folder, progress=False)
    if folder is not None and folder.is_dir():  # stopped before the first epoch was stored
        for leftover in folder.iterdir():
            leftover.unlink()
    options: dict[str, Any] = {"epochs": spec.epochs}
    if spec.source == "released-points":
        options = FAIR_TRAINING | FAIR_ENCODERS.get(spec.encoder, FAIR_NETWORK)
        options["epochs"] = spec.epochs or FAIR_TRAINING["epochs"]
    return train(task, spec.encoder, seed=spec.seed, device=device, run_dir=folder, progress=False, **options)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
