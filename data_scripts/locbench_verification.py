"""Comparing a task with the published facts about its dataset: reported, never repaired.

What is compared: rows and missing coordinates per split, classes, the range of classes and coordinates, the latitudes
(which give away swapped columns), sums of predicted probabilities, labels. A fact that is not known is not checked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from tslab.tasks.datasets import DatasetInfo, SplitFacts, dataset_info
from tslab.tasks.images import LazyRows
from tslab.tasks.locbench import training_mask
from tslab.tasks.table import Table
from tslab.tasks.task import Task

CHECK_ROWS = 4096
"""Rows of an image input that are read for the check of probability sums."""

LATITUDE_TOLERANCE = 1.5
"""Degrees by which latitude quantiles may differ from the published whole numbers."""


@dataclass(frozen=True)
class Check:
    """One comparison: what, the fact, what was found, and whether they agree."""

    what: str
    expected: str
    found: str
    ok: bool


@dataclass(frozen=True)
class Report:
    """All comparisons of one task. ``report.ok`` is True if every one agrees; printing shows each."""

    name: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """True if every check agrees."""
        return all(check.ok for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that do not agree."""
        return tuple(check for check in self.checks if not check.ok)

    def to_pandas(self) -> pd.DataFrame:
        """One row per check: what, expected, found, ok."""
        return pd.DataFrame([vars(check) for check in self.checks], columns=["what", "expected", "found", "ok"])

    def __str__(self) -> str:
        width = max((len(check.what) for check in self.checks), default=0)
        lines = [
            f"  {'ok  ' if c.ok else 'DIFF'} {c.what:{width}}  expected {c.expected}, found {c.found}"
            for c in self.checks
        ]
        verdict = "agrees with the published facts" if self.ok else f"{len(self.failures)} of {len(self.checks)} differ"
        return "\n".join([f"{self.name}: {verdict}", *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.to_pandas().to_html(index=False)


def verify(task: Task) -> Report:
    """Compare a LocBench task with the published facts.

    Raises:
        ValueError: a task that is no LocBench dataset.
    """
    info = dataset_info(task.name)
    checks = [*_counts(task, info), *_values(task, info)]
    return Report(task.name, tuple(checks))


def _counts(task: Task, info: DatasetInfo) -> Iterator[Check]:
    tables = {info.train_split: task.train, info.eval_split: task.test}
    if info.val_split:
        tables[info.val_split] = task.val
    for split, table in tables.items():
        facts = info.splits.get(split, SplitFacts())
        if facts.rows is not None:
            yield _equal(f"{split} rows", facts.rows, len(table))
        if facts.missing is not None:
            yield _equal(f"{split} rows without location", facts.missing, int((~table.has_location).sum()))
        if facts.kept is not None:
            yield _equal(
                f"{split} rows with location, user and date",
                facts.kept,
                int(training_mask(task.name, table).sum()),
            )
    if info.total_rows is not None:
        yield _equal("rows of all splits", info.total_rows, sum(len(table) for table in task.tables.values()))
    if info.num_classes:
        yield _equal("classes", info.num_classes, task.num_classes)


def _values(task: Task, info: DatasetInfo) -> Iterator[Check]:
    for split, table in task.tables.items():
        if len(table) == 0:
            continue
        lonlat = table.lonlat[table.has_location]
        if len(lonlat):
            low, high = lonlat.amin(0).tolist(), lonlat.amax(0).tolist()
            inside = abs(low[0]) <= 180 and abs(high[0]) <= 180 and abs(low[1]) <= 90 and abs(high[1]) <= 90
            found = f"{low[0]:.2f} to {high[0]:.2f}, {low[1]:.2f} to {high[1]:.2f}"
            yield Check(f"{split} longitudes, latitudes", "within ±180, ±90", found, inside)
            zero = int((lonlat == 0).all(-1).sum())
            yield Check(f"{split} rows at exactly (0, 0)", "0", str(zero), zero == 0)
        if task.meta.kind == "classification":
            top = int(table.target.max())
            yield Check(f"{split} class numbers", f"0 to {task.num_classes - 1}", f"to {top}", top < task.num_classes)
        else:
            finite = bool(torch.isfinite(table.target).all())
            yield Check(f"{split} labels", "finite", "finite" if finite else "not finite", finite)
        if table.image is not None:
            yield _gaps(split, table)
        if task.meta.image_kind == "probs" and table.image is not None:
            yield _probabilities(split, table)
    if info.lat_quantiles is not None:
        lat = task.test.lonlat[task.test.has_location, 1].double()
        found_lat = (
            torch.quantile(lat, torch.tensor([0.01, 0.5, 0.99], dtype=torch.float64)).tolist() if len(lat) else []
        )
        close = len(found_lat) == 3 and bool(
            np.all(np.abs(np.array(found_lat) - info.lat_quantiles) <= LATITUDE_TOLERANCE)
        )
        shown = ", ".join(f"{value:.1f}" for value in found_lat) or "no locations"
        wanted = ", ".join(f"{value:g}" for value in info.lat_quantiles)
        yield Check(f"{info.eval_split} latitudes, 1, 50 and 99 %", wanted, shown, close)


def _gaps(split: str, table: Table) -> Check:
    """NaN and infinite numbers in an image input, of large ones in every few rows."""
    image: Any = table.image
    if sp.issparse(image):
        finite, row = bool(np.isfinite(image.data).all()), -1
    else:
        at = torch.arange(0, len(table), max(1, len(table) // CHECK_ROWS))
        sound = torch.cat([torch.isfinite(table.image_rows(part)).all(-1).cpu() for part in at.split(256)])
        finite = bool(sound.all())
        row = int(at[int(sound.int().argmin())])
    found = "finite" if finite else "not finite" + (f", first in row {row}" if row >= 0 else "")
    return Check(f"{split} image input", "finite", found, finite)


def _probabilities(split: str, table: Table) -> Check:
    """Sums of predicted probabilities: 1, or a little less where small entries were dropped."""
    image: Any = table.image
    if sp.issparse(image):
        sums = np.asarray(image.sum(axis=1)).ravel()
        low, high = 1 - 1e-6 * image.shape[1] - 1e-3, 1 + 1e-3
        expected = f"{low:.4f} to 1 (entries below 1e-6 dropped)"
    else:
        step = max(1, len(table) // CHECK_ROWS)
        at = slice(0, None, step)
        sums = (
            np.asarray(image[at], dtype=np.float64).sum(axis=1) if isinstance(image, LazyRows) else _sums(table, step)
        )
        low, high, expected = 1 - 1e-3, 1 + 1e-3, "1"
    found = f"{sums.min():.4f} to {sums.max():.4f}"
    return Check(f"{split} sums of predictions", expected, found, bool(sums.min() >= low and sums.max() <= high))


def _sums(table: Table, step: int) -> np.ndarray:
    return table.image_rows(torch.arange(0, len(table), step)).double().sum(-1).cpu().numpy()


def _equal(what: str, expected: int, found: int) -> Check:
    return Check(what, f"{expected:,}", f"{found:,}", expected == found)
