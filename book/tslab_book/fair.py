"""A fair table: every encoder, every baseline and their stacks on the released MOSAIKS points, on equal terms.

    python -m tslab_book.fair run --out fair_store [--size full] [--workers 2]
    python -m tslab_book.fair record --out fair_store [--size full]

Places are cut into six parts, at random or by blocks of 10 degrees. The seed says which of the first five is tested;
its training places are drawn from the other five. The sixth is never tested: on it every method chooses one of its
settings (`tslab_book.fair_methods`), as many for each method, after a fit to places of the other parts that no seed
tests. With the chosen setting it is trained once for each seed and predicts the test places of that seed. On block
splits the places that choose are blocks, as those of the test are.

What was predicted is kept, so that means and stacks need no further training (`tslab_book.fair_record`), and a job that
is done is not done again: start the command again after an interruption.
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
from jaxtyping import Bool, Int
from torch import Tensor

import tslab
from tslab._files import atomic_path
from tslab.benchmark import JobStore
from tslab.benchmark.runner import Workers, do_missing
from tslab.metrics import r2
from tslab.tasks import Table
from tslab.tasks.splits import block_folds, random_split
from tslab.tasks.table import concatenate
from tslab_book.fair_methods import BLOCK_DEG, FULL_METHODS, METHODS, Setting, fit, settings_of

LABELS = ("mosaiks_elevation", "mosaiks_forest_cover", "mosaiks_population", "mosaiks_nightlights")
SPLITS = ("random", "block")
SEEDS = 5
PARTS = SEEDS + 1


class Size(NamedTuple):
    """How many places to train on, to choose on and to test on (None: all that there are), seeds, and methods."""

    train: int | None
    choose: int | None
    test: int | None
    seeds: int
    methods: tuple[str, ...] = METHODS


SIZES = {
    "reduced": Size(4000, 2000, 3000, SEEDS),
    "full": Size(None, None, None, 1, FULL_METHODS),
    "fast": Size(300, 100, 60, 2),
}
"""``reduced`` is the table, for time; ``full`` the few methods that were also done with all places, once; ``fast`` is
for tests, on synthetic places and with two epochs."""
PREDICTIONS = "predictions.npz"


@dataclasses.dataclass(frozen=True)
class Job:
    """One method on one label and kind of split, all seeds; ``size`` is one of `SIZES`."""

    label: str
    split: str
    method: str
    size: str = "reduced"

    @property
    def name(self) -> str:
        """Name of the job's folder."""
        parts = [self.label.removeprefix("mosaiks_"), self.split, self.method.replace(":", "-")]
        return "-".join(parts + ([] if self.size == "reduced" else [self.size]))


class Design(NamedTuple):
    """The places of one label and kind of split, the same for every method: those that settings are fitted to and those
    that choose, then training and test places of each seed."""

    fitted: Table
    chooses: Table
    train: tuple[Table, ...]
    test: tuple[Table, ...]


def jobs(labels: Sequence[str] = LABELS, methods: Sequence[str] | None = None, size: str = "reduced") -> list[Job]:
    """All jobs of the table, column by column, so that an unfinished store holds whole columns."""
    asked = SIZES[size].methods if methods is None else methods
    return [Job(label, split, method, size) for label in labels for split in SPLITS for method in asked]


@cache
def design(label: str, split: str, size: str = "reduced") -> Design:
    """The places of one label and kind of split.

    Raises:
        FileNotFoundError: the released files are not on this machine; says how to get them.
    """
    places, of = _places(label, size == "fast"), SIZES[size]
    if split == "random":
        part = torch.empty(len(places), dtype=torch.long)
        for i, rows in enumerate(random_split(len(places), [1 / PARTS] * PARTS)):
            part[rows] = i
    else:
        part = block_folds(places.lonlat, PARTS, size_degrees=BLOCK_DEG)
    generator = torch.Generator().manual_seed(0)

    def draw(rows: Bool[Tensor, " n"], number: int | None) -> Int[Tensor, " m"]:
        found = rows.nonzero()[:, 0]
        return found[torch.randperm(len(found), generator=generator)[:number]]

    tested = [draw(part == seed, of.test) for seed in range(of.seeds)]
    free = part != SEEDS
    free[torch.cat(tested)] = False
    return Design(
        places.where(draw(free, of.train)),
        places.where(draw(part == SEEDS, of.choose)),
        tuple(places.where(draw(part != seed, of.train)) for seed in range(len(tested))),
        tuple(places.where(rows) for rows in tested),
    )


@cache
def _places(label: str, fast: bool) -> Table:
    if fast:
        task = tslab.load_task(label, source="synthetic", scale="tiny")
    else:
        task = tslab.load_task(label, source="released")
    whole = concatenate([Table(lonlat=table.lonlat, target=table.target) for table in task.tables.values()])
    return whole.where(whole.has_location)


def work(job: Job, folder: str) -> None:
    """Choose a setting, train with it for each seed, and keep what that predicts."""
    store = JobStore(folder)
    torch.set_num_threads(1)
    places = design(job.label, job.split, job.size)
    started, label = time.process_time(), places.chooses.target.double()
    settings = settings_of(job.method, full=job.size == "full")
    tried = []
    for setting in settings:
        predicted = _fit(job, setting, places.fitted, seed=0)(places.chooses.lonlat)
        tried.append((r2(predicted, label) if bool(predicted.isfinite().all()) else -np.inf, predicted))
    best = max(range(len(settings)), key=lambda i: tried[i][0])
    searched = time.process_time()
    tests = []
    for seed, (train, test) in enumerate(zip(places.train, places.test, strict=True)):
        tests.append(_fit(job, settings[best], train, seed=seed)(test.lonlat))
    done = time.process_time()
    with atomic_path(store.path(job).with_name(PREDICTIONS)) as temporary, open(temporary, "wb") as file:
        np.savez(file, chooses=tried[best][1].numpy(), test=torch.stack(tests).numpy())
    outcome: dict[str, Any] = {
        "metrics": {f"r2_{i}": r2(p, t.target) for i, (p, t) in enumerate(zip(tests, places.test, strict=True))},
        "validation": [score if np.isfinite(score) else None for score, _ in tried],
        "setting": best,
        "chosen": settings[best],
        "search_seconds": searched - started,
        "seconds": (done - searched) / len(tests),
    }
    store.save(job, outcome)


def _fit(job: Job, setting: Setting, table: Table, seed: int) -> Any:
    short = setting | {"epochs": 2} if job.size == "fast" and "epochs" in setting else setting
    return fit(job.method, short, table, job.split, seed)


def predictions(store: JobStore, job: Job) -> dict[str, np.ndarray]:
    """What a finished job predicted: ``chooses`` (n,), fitted without them, and ``test`` (seeds, n)."""
    with np.load(store.path(job).with_name(PREDICTIONS)) as file:
        return dict(file)


def run(todo: Sequence[Job], folder: str | Path, *, workers: int | None = None, progress: bool = True) -> list[str]:
    """Do the jobs that ``folder`` does not hold yet, in this process or in ``workers`` processes; the errors of those
    that failed."""
    crew = Workers("local" if workers else None, workers, progress=progress)
    outcome = do_missing(todo, JobStore(folder), partial(work, folder=str(folder)), crew)
    return [f"{job.name}: {failure.error}" for job, failure in outcome.failed.items()]


def main(words: Sequence[str] | None = None) -> int:
    """The command line; see the module."""
    from tslab_book.fair_record import FULL, RECORD, write_record

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "record"])
    parser.add_argument("--out", type=Path, default=Path("fair_store"), help="folder of finished jobs")
    parser.add_argument("--labels", nargs="+", default=list(LABELS), choices=LABELS)
    parser.add_argument("--splits", nargs="+", default=list(SPLITS), choices=SPLITS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: all of the size")
    parser.add_argument("--size", default="reduced", choices=list(SIZES), help="fast is synthetic, to try it")
    parser.add_argument("--workers", type=int, help="processes; default: this one")
    parser.add_argument("--record", type=Path, help="file of the record")
    given = parser.parse_args(words)
    todo = [job for job in jobs(given.labels, given.methods, given.size) if job.split in given.splits]
    if given.action == "record":
        print(write_record(given.out, todo, given.record or (FULL if given.size == "full" else RECORD)))
        return 0
    failed = run(todo, given.out, workers=given.workers)
    print(*failed, f"{len(todo) - len(failed)} of {len(todo)} jobs are done", sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
