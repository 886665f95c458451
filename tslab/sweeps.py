"""Sweeps: tasks x encoders x seeds, one job each, on this machine or on any Dask cluster.

    python -m tslab.sweeps --tasks sphere_toy --encoders all --seeds 0 1 2 --folder sweep

Each job trains, evaluates on the test split and writes one folder: per-sample results, metrics by stratum
and block, and at the very end ``result.json``. A job with a result is never run again, so a sweep that was
interrupted is continued by starting it again.
"""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from tslab._files import atomic_path, atomic_write
from tslab.baselines import CLASS_BASELINES, REGRESSION_BASELINES, fit_baseline
from tslab.encoders import ENCODERS
from tslab.evaluation import Evaluation, evaluate
from tslab.tasks import load_task
from tslab.training import train

RESULT_FILE = "result.json"


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
    options: dict[str, Any] = field(default_factory=dict)
    task_options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the job's folder; jobs that differ in anything have different names."""
        text = json.dumps([self.options, self.task_options], sort_keys=True)
        suffix = (
            ""
            if not (self.options or self.task_options)
            else "-" + hashlib.sha256(text.encode()).hexdigest()[:8]
        )
        return f"{self.task}-{self.encoder}-{self.seed}{suffix}"


def sweep(
    jobs: Sequence[Job],
    folder: str | Path,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    retries: int = 2,
    run: Callable[[Job, str], dict[str, Any]] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Run the jobs that have no result yet and return one row for each job.

    Columns: task, encoder, seed, status ("done" or "failed"), attempts, error, seconds, and the metrics.

    Args:
        jobs: see `jobs_for`.
        folder: where results go; all workers must see it.
        scheduler: address of a Dask scheduler ("tcp://..."); None starts a LocalCluster; "synchronous" runs
            in this process.
        workers: processes of the LocalCluster; default one for each two cores.
        retries: how often a failed job is tried again. A job whose worker died does not count as failed, it
            moves to another worker.
        run: what does a job, for tests and special needs; default `run_job`.
        progress: show a progress bar.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run = run_job if run is None else run
    finished = {job.name for job in jobs if (folder / job.name / RESULT_FILE).is_file()}
    todo = list({job.name: job for job in jobs if job.name not in finished}.values())
    run_all = _run_here if scheduler == "synchronous" else _run_on_dask
    records: dict[str, dict[str, Any]] = {}
    with tqdm(total=len(todo), desc="sweep", unit="job", disable=not progress) as bar:
        for job, record in run_all(todo, str(folder), run, retries, scheduler, workers):
            records[job.name] = record
            bar.update()
    return pd.DataFrame([_row(job, folder, records.get(job.name)) for job in jobs])


def jobs_for(
    tasks: Iterable[str],
    encoders: Iterable[str],
    seeds: Iterable[int],
    *,
    options: dict[str, Any] | None = None,
    task_options: dict[str, Any] | None = None,
) -> list[Job]:
    """Every combination of tasks, encoders and seeds."""
    encoders, seeds = list(encoders), list(seeds)
    return [
        Job(task, encoder, seed, dict(options or {}), dict(task_options or {}))
        for task in tasks
        for encoder in encoders
        for seed in seeds
    ]


def run_job(job: Job, folder: str) -> dict[str, Any]:
    """Train and evaluate one job, write its folder, and return the content of its ``result.json``."""
    started = time.perf_counter()
    target = Path(folder) / job.name
    task = load_task(job.task, **job.task_options)
    baselines = CLASS_BASELINES if task.meta.kind == "classification" else REGRESSION_BASELINES
    if job.encoder in baselines:
        model: Any = fit_baseline(job.encoder, task, **job.options)
    elif job.encoder == "no_prior" and task.meta.kind == "classification":
        model = "no_prior"
    else:
        model = train(task, job.encoder, seed=job.seed, **({"progress": False} | job.options))
    result = evaluate(model, task.test)
    _write_tables(result, target)
    record = {
        "job": asdict(job),
        "metrics": result.metrics,
        "environment": getattr(model, "environment", None),
        "config": asdict(model.config) if hasattr(model, "config") else None,
        "synthetic": task.meta.synthetic,
        "seconds": time.perf_counter() - started,
    }
    atomic_write(target / RESULT_FILE, json.dumps(record, indent=2) + "\n")
    return record


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: see the head of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m tslab.sweeps", description="Train and evaluate every combination."
    )
    parser.add_argument("--tasks", nargs="+", required=True, help="task names")
    parser.add_argument(
        "--encoders", nargs="+", default=["all"], help='keys, or "all"; baselines and no_prior too'
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--folder", required=True, help="where results go")
    parser.add_argument("--scheduler", help='Dask scheduler address; "synchronous" for this process')
    parser.add_argument("--workers", type=int, help="processes of the local cluster")
    parser.add_argument("--retries", type=int, default=2)
    parser.add_argument(
        "--options", type=json.loads, default={}, help="JSON: further arguments of tslab.train"
    )
    parser.add_argument(
        "--task-options", type=json.loads, default={}, help="JSON: further arguments of load_task"
    )
    given = parser.parse_args(arguments)
    encoders = list(ENCODERS) if given.encoders == ["all"] else given.encoders
    jobs = jobs_for(
        given.tasks, encoders, given.seeds, options=given.options, task_options=given.task_options
    )
    table = sweep(jobs, given.folder, scheduler=given.scheduler, workers=given.workers, retries=given.retries)
    with atomic_path(Path(given.folder) / "sweep.csv") as temporary:
        table.to_csv(temporary, index=False)
    print(table.to_string(index=False, max_colwidth=60))


Outcome = tuple[Job, dict[str, Any]]


def _run_here(
    jobs: list[Job],
    folder: str,
    run: Callable[[Job, str], dict[str, Any]],
    retries: int,
    scheduler: str | None,
    workers: int | None,
) -> Iterator[Outcome]:
    for job in jobs:
        yield job, _attempt(job, folder, run, retries)


def _run_on_dask(
    jobs: list[Job],
    folder: str,
    run: Callable[[Job, str], dict[str, Any]],
    retries: int,
    scheduler: str | None,
    workers: int | None,
) -> Iterator[Outcome]:
    """Yield each job when it is done; a job whose worker died is given to another one by the scheduler."""
    if not jobs:
        return
    try:
        from distributed import Client, LocalCluster, as_completed
    except ImportError as error:
        raise ImportError(
            "sweeps run on Dask: pip install 'tslab[sweep]', or pass scheduler='synchronous'"
        ) from error
    cluster = None
    if scheduler is None:
        workers = workers or max(1, (os.cpu_count() or 2) // 2)
        cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
    try:
        with Client(scheduler or cluster) as client:
            futures = {
                client.submit(_attempt, job, folder, run, retries, key=f"tslab-{job.name}", pure=False): job
                for job in jobs
            }
            for future in as_completed(futures):
                job = futures[future]
                if future.status == "finished":
                    yield job, future.result()
                else:  # the scheduler gave up: the job killed several workers
                    yield job, {"error": repr(future.exception()), "attempts": retries + 1}
    finally:
        if cluster is not None:
            cluster.close()


def _attempt(
    job: Job, folder: str, run: Callable[[Job, str], dict[str, Any]], retries: int
) -> dict[str, Any]:
    """The record of a job, or after ``retries`` + 1 failures the last error."""
    for attempt in range(1, retries + 2):
        try:
            return run(job, folder)
        except Exception as error:  # whatever a job raises is its result, the sweep goes on
            failure = {"error": f"{type(error).__name__}: {error}", "attempts": attempt}
    return failure


def _row(job: Job, folder: Path, record: dict[str, Any] | None) -> dict[str, Any]:
    base = {"task": job.task, "encoder": job.encoder, "seed": job.seed}
    path = folder / job.name / RESULT_FILE
    if path.is_file():
        stored = json.loads(path.read_text())
        done = {"status": "done", "attempts": 1, "error": "", "seconds": stored["seconds"]}
        return base | done | stored["metrics"]
    failure = record or {"error": "did not run", "attempts": 0}
    return base | {"status": "failed", "attempts": failure["attempts"], "error": failure["error"]}


def _write_tables(result: Evaluation, folder: Path) -> None:
    tables = {"results": result.results, "strata": result.strata, "blocks": result.blocks}
    if result.reliability is not None:
        tables["reliability"] = result.reliability
    for name, table in tables.items():
        with atomic_path(folder / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=name == "results", float_format="%.7g")


if __name__ == "__main__":
    main()
