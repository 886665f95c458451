"""A fair table: every encoder, every baseline and their stacks on the released MOSAIKS points, on equal terms.

    python -m tslab_book.fair run --out fair_store [--fast] [--workers 2]
    python -m tslab_book.fair record --out fair_store

For each label, kind of split and seed every method gets the same training places and the same number of settings
(`tslab_book.fair_methods`). Each setting is fitted to four fifths of the training places and judged on the fifth; the
best is fitted again to all of them and predicts the test places, once. On block splits that fifth consists of blocks,
as the test places do. What was predicted is kept, so that means and stacks need no further training
(`tslab_book.fair_record`), and a job that is done is not done again: start the command again after an interruption.

Places are cut into six parts, at random or by blocks of 10 degrees; the seed says which of the first five is tested.
The sixth is never tested: on it the settings were drawn up.
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

import tslab
from tslab._files import atomic_path
from tslab.benchmark import JobStore, do_jobs, open_pool
from tslab.metrics import r2
from tslab.tasks import Table
from tslab.tasks.splits import block_folds, random_split
from tslab.tasks.table import concatenate
from tslab_book.fair_methods import BLOCK_DEG, METHODS, Setting, fit, settings_of

LABELS = ("mosaiks_elevation", "mosaiks_forest_cover", "mosaiks_population", "mosaiks_nightlights")
SPLITS = ("random", "block")
SEEDS = 5
PARTS = SEEDS + 1
TRAIN, TEST = 4000, 3000
"""Training and test places of one split; the rest of the label's places is left aside, for time."""
VALIDATION = 0.2
PREDICTIONS = "predictions.npz"


@dataclasses.dataclass(frozen=True)
class Job:
    """One method on one split. ``fast`` is for tests: synthetic places, a tenth of them, two epochs."""

    label: str
    split: str
    seed: int
    method: str
    fast: bool = False

    @property
    def name(self) -> str:
        """Name of the job's folder."""
        parts = [self.label.removeprefix("mosaiks_"), self.split, str(self.seed), self.method.replace(":", "-")]
        return "-".join(parts + (["fast"] if self.fast else []))


class Split(NamedTuple):
    """Training places, cut into those that settings are fitted to and those that choose, and test places."""

    fitted: Table
    chooses: Table
    test: Table

    @property
    def train(self) -> Table:
        return concatenate([self.fitted, self.chooses])


def jobs(labels: Sequence[str] = LABELS, methods: Sequence[str] = METHODS, *, fast: bool = False) -> list[Job]:
    """All jobs of the table, label by label and split by split, so that an unfinished store holds whole columns."""
    seeds = range(2 if fast else SEEDS)
    return [Job(la, sp, seed, m, fast) for la in labels for sp in SPLITS for seed in seeds for m in methods]


@cache
def split_of(label: str, split: str, seed: int, fast: bool = False) -> Split:
    """The places of one split; the same for every method.

    Raises:
        FileNotFoundError: the released files are not on this machine; says how to get them.
    """
    places = _places(label, fast)
    if split == "random":
        part = torch.empty(len(places), dtype=torch.long)
        for i, rows in enumerate(random_split(len(places), [1 / PARTS] * PARTS)):
            part[rows] = i
    else:
        part = block_folds(places.lonlat, PARTS, size_degrees=BLOCK_DEG)
    generator = torch.Generator().manual_seed(seed)
    sizes = (len(places) // 2, len(places) // 8) if fast else (TRAIN, TEST)
    train, test = (
        places.where(rows[torch.randperm(len(rows), generator=generator)[:size]])
        for rows, size in zip(((part != seed).nonzero()[:, 0], (part == seed).nonzero()[:, 0]), sizes, strict=True)
    )
    if split == "random":
        chooses, fitted = random_split(len(train), (VALIDATION, 1 - VALIDATION), seed=seed)
    else:
        fold = block_folds(train.lonlat, round(1 / VALIDATION), size_degrees=BLOCK_DEG, seed=seed)
        chooses, fitted = (fold == 0).nonzero()[:, 0], (fold != 0).nonzero()[:, 0]
    shuffled = fitted[torch.randperm(len(fitted), generator=generator)]
    return Split(train.where(shuffled), train.where(chooses), test)


@cache
def _places(label: str, fast: bool) -> Table:
    if fast:
        task = tslab.load_task(label, source="synthetic", scale="tiny")
    else:
        task = tslab.load_task(label, source="released")
    whole = concatenate([Table(lonlat=table.lonlat, target=table.target) for table in task.tables.values()])
    return whole.where(whole.has_location)


def work(job: Job, folder: str) -> None:
    """Choose a setting, predict with it, and keep both; nothing if that is done."""
    store = JobStore(folder)
    if store.load(job) is not None:
        return
    torch.set_num_threads(1)
    split = split_of(job.label, job.split, job.seed, job.fast)
    started, label = time.process_time(), split.chooses.target.double()
    settings = settings_of(job.method)
    tried = []
    for setting in settings:
        predicted = _fit(job, setting, split.fitted)(split.chooses.lonlat)
        tried.append((r2(predicted, label) if bool(predicted.isfinite().all()) else -np.inf, predicted))
    best = max(range(len(settings)), key=lambda i: tried[i][0])
    searched = time.process_time()
    model = _fit(job, settings[best], split.train)
    trained = time.process_time()
    test = model(split.test.lonlat)
    with atomic_path(store.path(job).with_name(PREDICTIONS)) as temporary, open(temporary, "wb") as file:
        np.savez(file, chooses=tried[best][1].numpy(), test=test.numpy())
    outcome: dict[str, Any] = {
        "metrics": {"r2": r2(test, split.test.target.double())},
        "validation": [score if np.isfinite(score) else None for score, _ in tried],
        "setting": best,
        "chosen": settings[best],
        "search_seconds": searched - started,
        "seconds": trained - searched,
    }
    store.save(job, outcome)


def _fit(job: Job, setting: Setting, table: Table) -> Any:
    short = setting | {"epochs": 2} if job.fast and "epochs" in setting else setting
    return fit(job.method, short, table, job.split, job.seed)


def predictions(store: JobStore, job: Job) -> dict[str, np.ndarray]:
    """What a finished job predicted: ``chooses`` (of the chosen setting, fitted without them) and ``test``."""
    with np.load(store.path(job).with_name(PREDICTIONS)) as file:
        return dict(file)


def run(todo: Sequence[Job], folder: str | Path, *, workers: int | None = None, progress: bool = True) -> list[str]:
    """Do the jobs that ``folder`` does not hold yet, in this process or in ``workers`` processes; the errors of those
    that failed."""
    missing = [job for job in todo if JobStore(folder).load(job) is None]
    failed = []
    with (
        open_pool("local" if workers else None, workers) as client,
        tqdm(total=len(missing), unit="job", disable=not progress, mininterval=60) as bar,
    ):
        for job, failure in do_jobs(missing, partial(work, folder=str(folder)), client):
            if failure is not None:
                failed.append(f"{job.name}: {failure.error}")
            bar.update()
    return failed


def main(words: Sequence[str] | None = None) -> int:
    """The command line; see the module."""
    from tslab_book.fair_record import RECORD, write_record

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "record"])
    parser.add_argument("--out", type=Path, default=Path("fair_store"), help="folder of finished jobs")
    parser.add_argument("--labels", nargs="+", default=list(LABELS), choices=LABELS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--fast", action="store_true", help="synthetic places and two epochs: does it work at all?")
    parser.add_argument("--workers", type=int, help="processes; default: this one")
    parser.add_argument("--record", type=Path, default=RECORD, help="file of the record")
    given = parser.parse_args(words)
    todo = jobs(given.labels, given.methods, fast=given.fast)
    if given.action == "record":
        print(write_record(given.out, todo, given.record))
        return 0
    failed = run(todo, given.out, workers=given.workers)
    print(*failed, f"{len(todo) - len(failed)} of {len(todo)} jobs are done", sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
