"""Doing jobs: one after another in this process, or side by side on a Dask cluster.

A job that fails is tried again and does not stop the others, not even if it kills the process that runs it. What a job
yields is not passed back: it keeps it in its store (`tslab.benchmark.store`), where it is found after an interruption.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from tqdm.auto import tqdm

from tslab._checks import check_count
from tslab._files import DamagedFileError
from tslab.benchmark.store import JobStore

J = TypeVar("J")
"""A job: anything that ``work`` takes."""

KILLED = "KilledWorker: the process died each time (no memory left, or a crash below Python)"


@dataclass(frozen=True)
class Workers:
    """How jobs are done.

    Attributes:
        dask: where, see `open_pool`.
        processes: of ``dask="local"``; default one for each two processors.
        retries: further tries of a job that fails.
        modules: that register encoders of your own; they are imported here and in every process.
        progress: show a progress bar.
    """

    dask: str | None = None
    processes: int | None = None
    retries: int = 1
    modules: Sequence[str] = ()
    progress: bool = True

    def __post_init__(self) -> None:
        check_count("retries", self.retries, at_least=0)


@dataclass
class Outcome:
    """What was done: jobs that were there already (``stale``: done by another state of the code), jobs done now,
    jobs that failed with their last error."""

    skipped: list[Any] = field(default_factory=list)
    done: list[Any] = field(default_factory=list)
    failed: dict[Any, "Failure"] = field(default_factory=dict)
    stale: int = 0

    def __str__(self) -> str:
        text = f"{len(self.done)} runs done, {len(self.skipped)} were there already, {len(self.failed)} failed"
        if self.stale:
            text += f"\n{self.stale} of those were done by another state of the code; --again does them again"
        for job, failure in self.failed.items():
            text += f"\n  {job.name}: {failure.error.strip().splitlines()[-1]}"
        return text


@dataclass(frozen=True)
class Failure:
    """Why a job has no outcome: ``error`` in one line, ``trace`` (the traceback, or ``error`` again), ``attempts``."""

    error: str
    trace: str
    attempts: int


def do_missing(
    jobs: Sequence[J],
    store: JobStore,
    work: Callable[[J], object],
    workers: Workers,
    *,
    again: bool = False,
    begin: Callable[[list[J]], object] = lambda todo: None,
    fatal: tuple[type[Exception], ...] = (),
) -> Outcome:
    """Do the jobs whose outcome the store does not hold yet.

    A job that fails, or whose file in the store is damaged, does not stop the others. A job is not done twice when Dask
    sends it again, because the process that remembered its end has died.

    Args:
        jobs: dataclasses with a name; one that comes twice is done once.
        store: which knows what is done; ``work`` fills it.
        work: does one job and keeps its outcome.
        workers: who does them.
        again: do jobs again that are done already.
        begin: called with the jobs that are missing, before the first is done.
        fatal: exceptions that stop everything.

    Raises:
        ValueError: an argument out of its range, before anything is written.
    """
    import_modules(workers.modules)
    outcome = Outcome()
    todo: list[J] = []
    for job in dict.fromkeys(jobs):
        try:
            missing = again or store.load(job) is None
        except DamagedFileError as error:
            outcome.failed[job] = Failure(str(error), "", 0)
            continue
        (todo if missing else outcome.skipped).append(job)
    if not todo:
        return outcome
    with (
        open_pool(workers.dask, workers.processes) as client,
        tqdm(total=len(todo), unit="run", disable=not workers.progress) as bar,
    ):
        begin(todo)
        options: dict[str, Any] = {"retries": workers.retries, "modules": workers.modules, "fatal": fatal}
        attempt = work if again else partial(_unless_done, store=store, work=work)
        for job, failure in do_jobs(todo, attempt, client, **options):
            if failure is None:
                outcome.done.append(job)
            else:
                outcome.failed[job] = failure
            bar.update()
    return outcome


def _unless_done(job: J, store: JobStore, work: Callable[[J], object]) -> None:
    if store.load(job) is None:
        work(job)


@contextmanager
def open_pool(dask: str | None, workers: int | None = None) -> Iterator[Any]:
    """Where jobs are done, for `do_jobs`: a Dask client, or None for this process.

    Args:
        dask: None or ``"synchronous"`` for this process; ``"local"`` for processes of this machine, which listen on
            this machine only; else the address of a scheduler, such as ``tcp://node1:8786``.
        workers: processes of ``"local"``; default one for each two processors.

    Raises:
        ValueError: no such kind of place, or no whole number of workers.
        ImportError: the package distributed is missing; says how to get it.
        OSError: no scheduler answers at the address.
    """
    if dask not in (None, "synchronous", "local") and "://" not in str(dask):
        raise ValueError(f"dask must be 'local' or an address such as tcp://node1:8786, got {dask!r}")
    if workers is not None:
        check_count("workers", workers)
    if dask in (None, "synchronous"):
        yield None
        return
    try:
        import dask as dask_package
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ImportError("Dask is not installed: pip install 'tslab[sweep]', or run without it") from error
    if dask != "local":
        with Client(dask) as client:
            yield client
        return
    count = workers or max(1, (os.cpu_count() or 2) // 2)
    here = {"host": "127.0.0.1", "dashboard_address": None, "worker_dashboard_address": None}
    with (
        dask_package.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(n_workers=count, threads_per_worker=1, processes=True, **here) as cluster,
        Client(cluster) as client,
    ):
        yield client


def do_jobs(
    jobs: Sequence[J],
    work: Callable[[J], object],
    client: Any = None,
    *,
    retries: int = 0,
    modules: Sequence[str] = (),
    fatal: tuple[type[Exception], ...] = (),
) -> Iterator[tuple[J, Failure | None]]:
    """Do each job and yield it with its `Failure`, or None; in any order.

    Args:
        jobs: anything that can be pickled.
        work: does one job and keeps its outcome.
        client: of `open_pool`.
        retries: further tries of a job that raises. A job whose process died is moved to another one by Dask; if that
            dies too, the job is tried once more alone, because a neighbour may have been the cause.
        modules: imported first, in every process.
        fatal: exceptions that stop everything.
    """
    attempt = partial(_attempt, work=work, retries=retries, modules=tuple(modules), folder=os.getcwd(), fatal=fatal)
    if client is None:
        for job in jobs:
            yield job, attempt(job)
        return
    from distributed import as_completed

    suspects = []
    futures = {client.submit(attempt, job, pure=False): job for job in jobs}
    for future in as_completed(list(futures)):
        job = futures.pop(future)  # what is let go of is not done again when the process that remembers it dies
        failure = _result(future, fatal)
        if failure is not None and failure.error == KILLED:
            suspects.append(job)
        else:
            yield job, failure
    for job in suspects:
        yield job, _result(client.submit(attempt, job, pure=False), fatal)


def import_modules(modules: Sequence[str], folder: str | None = None) -> None:
    """Import modules by name; those in ``folder`` (default: the working folder) are found too.

    Raises:
        ValueError: there is no such module, or importing it failed; names it and the cause.
    """
    folder = os.getcwd() if folder is None else folder
    if modules and folder not in sys.path:
        sys.path.insert(0, folder)
    for name in modules:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            hint = "; name the module, not its file" if name.endswith(".py") or os.sep in name else ""
            raise ValueError(f"module {name!r} cannot be imported ({type(error).__name__}: {error}){hint}") from error


def _attempt(
    job: J,
    *,
    work: Callable[[J], object],
    retries: int,
    modules: Sequence[str],
    folder: str,
    fatal: tuple[type[Exception], ...],
) -> Failure | None:
    """Do a job; after ``retries`` + 1 failures the last one."""
    for attempt in range(1, retries + 2):
        try:
            import_modules(modules, folder)
            work(job)
            return None
        except fatal:
            raise
        except (Exception, SystemExit) as error:  # whatever a job raises is its result, the others go on
            failure = Failure(f"{type(error).__name__}: {error}", traceback.format_exc(), attempt)
    return failure


def _result(future: Any, fatal: tuple[type[Exception], ...]) -> Failure | None:
    """What `_attempt` returned, or what kept it from returning anything; waits for it."""
    from distributed import KilledWorker

    try:
        result: Failure | None = future.result()
        return result
    except fatal:
        raise
    except KilledWorker:
        return Failure(KILLED, KILLED, 1)
    except Exception as lost:  # cancelled: the scheduler is gone
        what = f"{type(lost).__name__}: {lost}"
        return Failure(what, what, 1)
