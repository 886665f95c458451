"""Sweeps: tasks x encoders x seeds, one job each, on this machine or on any Dask cluster.

    python -m tslab_book.sweeps --tasks sphere_toy --encoders all --seeds 0 1 2 --out sweep

Each job trains, evaluates on the test split and writes one folder: per-sample results, metrics by stratum
and block, and at the very end ``result.json``. A job with a result is never run again, so a sweep that was
interrupted is continued by starting it again. Jobs are done by `tslab.benchmark.runner`, like those of the benchmark.
"""

import argparse
import hashlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from tslab._checks import check_choice, check_count
from tslab._files import atomic_path
from tslab.baselines import CLASS_BASELINES, REGRESSION_BASELINES
from tslab.benchmark.driver import fitted
from tslab.benchmark.runner import Failure, Workers, do_missing, import_modules
from tslab.benchmark.store import JobStore, check_folder
from tslab.encoders import ENCODERS
from tslab.evaluation import evaluate
from tslab.tasks import TASK_NAMES, load_task


@dataclass(frozen=True)
class Job:
    """One training and evaluation.

    Attributes:
        task: name for `tslab.load_task`.
        encoder: key of an encoder, of a baseline, or "no_prior".
        seed: of the training (the data keep their own, see ``task_options``).
        options: further arguments of `tslab.train` (or of the baseline).
        task_options: further arguments of `tslab.load_task`.
    """

    task: str
    encoder: str
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    task_options: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """Name of the job's folder; jobs that differ in anything have different names."""
        text = json.dumps([self.options, self.task_options], sort_keys=True)
        suffix = "" if not (self.options or self.task_options) else "-" + hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{self.task}-{self.encoder}-{self.seed}{suffix}"


def sweep(
    jobs: Sequence[Job],
    folder: str | Path,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    retries: int = 2,
    run: Callable[[Job, str], dict[str, Any]] | None = None,
    modules: Sequence[str] = (),
    progress: bool = True,
) -> pd.DataFrame:
    """Run the jobs that have no result yet and return one row for each job.

    Columns: task, encoder, seed, status ("done" or "failed"), attempts, error, seconds, and the metrics.

    Args:
        jobs: see `jobs_for`.
        folder: where results go; all workers must see it.
        scheduler: address of a Dask scheduler ("tcp://..."); None (or "local") starts processes of this machine;
            "synchronous" runs in this process.
        workers: processes of this machine; default one for each two processors.
        retries: how often a failed job is tried again. A job whose worker died does not count as failed, it
            moves to another worker.
        run: what does a job, for tests and special needs; default `run_job`.
        modules: that register encoders of your own; they are imported here and in every worker.
        progress: show a progress bar.

    Raises:
        ValueError: an argument out of its range, before anything is written.
    """
    if not all(isinstance(job, Job) for job in jobs):
        raise TypeError("jobs must be a list of Job; jobs_for makes them")
    crew = Workers(scheduler or "local", workers, retries, modules, progress)
    store = JobStore(check_folder("folder", folder))
    work = partial(_work, run=run_job if run is None else run, folder=str(folder))
    outcome = do_missing(jobs, store, work, crew)
    return pd.DataFrame([_row(job, store, outcome.failed.get(job)) for job in jobs])


def jobs_for(
    tasks: Iterable[str],
    encoders: Iterable[str],
    seeds: Iterable[int],
    *,
    options: dict[str, Any] | None = None,
    task_options: dict[str, Any] | None = None,
) -> list[Job]:
    """Every combination of tasks, encoders and seeds, each once.

    Raises:
        ValueError: an unknown task or encoder, a negative seed, or options that are no dictionary.
    """
    known = dict.fromkeys([*ENCODERS, *CLASS_BASELINES, *REGRESSION_BASELINES, "no_prior"])
    for name, given in (("tasks", tasks), ("encoders", encoders)):
        if isinstance(given, str):
            raise ValueError(f"{name} must be a list, got the string {given!r}; use [{given!r}]")
    for name, given_options in (("options", options), ("task_options", task_options)):
        if not isinstance(given_options, dict | None):
            raise ValueError(f"{name} must be a dictionary of arguments, got {type(given_options).__name__}")
    tasks = dict.fromkeys(check_choice("task", task, TASK_NAMES) for task in tasks)
    encoders = dict.fromkeys(check_choice("encoder", encoder, known) for encoder in encoders)
    seeds = dict.fromkeys(check_count("seed", seed, at_least=0) for seed in seeds)
    return [
        Job(task, encoder, seed, dict(options or {}), dict(task_options or {}))
        for task, encoder, seed in itertools.product(tasks, encoders, seeds)
    ]


def run_job(job: Job, folder: str) -> dict[str, Any]:
    """Train and evaluate one job, write its folder, and return the content of its ``result.json``."""
    started = time.perf_counter()
    task = load_task(job.task, **job.task_options)
    model = fitted(task, job.encoder, seed=job.seed, **job.options)
    result = evaluate(model, task.test)
    for name in ("results", "strata", "blocks", "reliability"):
        if (table := getattr(result, name)) is not None:
            with atomic_path(Path(folder) / job.name / f"{name}.csv") as temporary:
                table.to_csv(temporary, index=name == "results", float_format="%.7g")
    outcome = {
        "metrics": result.metrics,
        "environment": getattr(model, "environment", None),
        "config": asdict(model.config) if hasattr(model, "config") else None,
        "synthetic": task.meta.synthetic,
        "seconds": time.perf_counter() - started,
    }
    JobStore(folder).save(job, outcome)
    return {"job": asdict(job)} | outcome


def _work(job: Job, run: Callable[[Job, str], dict[str, Any]], folder: str) -> None:
    run(job, folder)


def _row(job: Job, store: JobStore, failure: Failure | None) -> dict[str, Any]:
    base = {"task": job.task, "encoder": job.encoder, "seed": job.seed}
    if failure is None:
        stored = store.load(job) or {"seconds": None, "metrics": {}}
        return base | {"status": "done", "attempts": 1, "error": "", "seconds": stored["seconds"]} | stored["metrics"]
    return base | {"status": "failed", "attempts": failure.attempts, "error": failure.error}


def main(words: Sequence[str] | None = None) -> int:
    """Do the jobs that have no result yet, and print and keep one row for each; 1 if a job failed, 2 if the command
    makes no sense, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tslab_book.sweeps", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--tasks", nargs="+", required=True, help="task names")
    parser.add_argument("--encoders", nargs="+", default=["all"], help="keys, baselines too, or all (default)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", "--folder", required=True, help="where results go")
    parser.add_argument("--options", type=_json_object, default={}, help="JSON: further arguments of tslab.train")
    parser.add_argument("--task-options", type=_json_object, default={}, help="JSON: further arguments of load_task")
    parser.add_argument("--import", dest="modules", nargs="+", default=[], help="modules that register encoders")
    parser.add_argument("--retries", type=int, default=2)
    place = "'local', the address of a Dask scheduler, or 'synchronous' for this process"
    parser.add_argument("--dask", "--scheduler", default="local", metavar="ADDRESS", help=place)
    parser.add_argument("--workers", type=int, help="processes of --dask local")
    given = parser.parse_args(words)
    try:
        import_modules(given.modules)
        encoders = list(ENCODERS) if given.encoders == ["all"] else given.encoders
        extra = {"options": given.options, "task_options": given.task_options}
        table = sweep(
            jobs_for(given.tasks, encoders, given.seeds, **extra),
            given.out,
            scheduler=given.dask,
            workers=given.workers,
            retries=given.retries,
            modules=given.modules,
        )
    except (ValueError, OSError, ImportError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    with atomic_path(Path(given.out) / "sweep.csv") as temporary:
        table.to_csv(temporary, index=False)
    print(table.to_string(index=False, max_colwidth=60))
    return int((table["status"] == "failed").any())


def _json_object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object such as '{{\"epochs\": 3}}'")
    return content


if __name__ == "__main__":
    sys.exit(main())
