"""What a task is: three tables of places with something to predict, and what is known about them.

Every dataset of the benchmark, synthetic or real, arrives as a `Task`. Its rows are `tslab.tasks.table`, image inputs
`tslab.tasks.images`, what is known about it `tslab.tasks.meta`. How it looks in a notebook is `tslab.tasks.display`.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from tslab._checks import check_number
from tslab.tasks.columns import TaskDataError
from tslab.tasks.display import task_html, task_text
from tslab.tasks.images import LazyRows as LazyRows  # a task's parts are found here too
from tslab.tasks.meta import TaskMeta, Truth
from tslab.tasks.splits import split_rows
from tslab.tasks.table import Table, concatenate
from tslab.tasks.table import TableDataset as TableDataset


@dataclass(frozen=True, repr=False)
class Task:
    """A dataset ready to train and evaluate on.

    Attributes:
        name: dataset key.
        train: rows to learn from.
        val: rows to choose hyper-parameters with; empty where the source has no such split (see `with_validation`).
        test: the rows the benchmark scores (what ``meta.eval_split`` calls them in the source).
        meta: everything else.
        truth: for synthetic data, the best prediction from the location alone; see `Truth`.

    Names of classes and groups that the tables found in a data frame go to ``meta`` where it has none. Whole numbers
    as labels of a regression become float32.

    Raises:
        TaskDataError: labels, groups or image inputs that do not fit each other or ``meta``.
    """

    name: str
    train: Table
    val: Table
    test: Table
    meta: TaskMeta
    truth: Truth | None = None

    def __post_init__(self) -> None:
        for names in ("classes", "groups"):
            self._take_names(names)
        for split, table in self.tables.items():
            if self.meta.kind == "classification":
                check_classes(table.target, self.num_classes, f"{self.name} {split}")
            elif not table.classes and not table.target.is_floating_point():
                object.__setattr__(self, split, table.as_values())
            fault = self._fault(table)
            if fault:
                raise TaskDataError(f"{self.name} {split}: {fault}")

    def _take_names(self, names: Literal["classes", "groups"]) -> None:
        """Names of classes or groups from the tables to ``meta``; all must number them alike."""
        known = getattr(self.meta, names)
        for split, table in self.tables.items():
            found = getattr(table, names)
            if found and known and found != known:
                what = f"its {names} are numbered in another order than elsewhere in the task"
                raise TaskDataError(f"{self.name} {split}: {what}; read all with Table.from_pandas(frame, {names}=...)")
            known = known or found
        if known != getattr(self.meta, names):
            object.__setattr__(self, "meta", replace(self.meta, **{names: known}))

    def _fault(self, table: Table) -> str | None:
        """What is wrong with a table of this task; None if nothing is."""
        meta = self.meta
        if meta.kind == "regression" and table.classes:
            names = ", ".join(table.classes[:3])
            return f"the labels are names ({names} …), a regression needs numbers; use kind='classification'"
        if meta.groups and len(table) and int(table.group.max()) >= len(meta.groups):
            row = int(table.group.argmax())
            return f"row {row} has group {int(table.group[row])}, but meta names {len(meta.groups)} groups"
        if table.image is None:
            return None
        width = table.image.shape[1]
        if meta.image_kind == "probs" and width != self.num_classes:
            of_task = f"the task has {self.num_classes} classes"
            return f"image predictions have {width} columns, {of_task}; they belong to another dataset"
        return None if width == self.image_dim else f"image input {width} wide, that of other rows {self.image_dim}"

    @property
    def tables(self) -> dict[str, Table]:
        """The three tables by name: train, val, test."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for regression."""
        return self.meta.num_classes

    @property
    def image_dim(self) -> int:
        """Width of the image input; 0 without one."""
        return next((int(t.image.shape[1]) for t in self.tables.values() if t.image is not None), 0)

    def to(self, device: torch.device | str) -> "Task":
        """The task with all columns on ``device``."""
        return replace(self, train=self.train.to(device), val=self.val.to(device), test=self.test.to(device))

    def with_validation(
        self, fraction: float = 0.1, *, seed: int = 0, size_degrees: float | None = None, size_km: float | None = None
    ) -> "Task":
        """The task with its validation rows taken from train: at random, or in spatial blocks if a size is given.

        A task that has validation rows is returned as it is.
        """
        check_number("fraction", fraction, above=0, below=1)
        if len(self.val):
            return self
        shares = (1 - fraction, fraction)
        parts, how = split_rows(self.train.lonlat, shares, size_degrees=size_degrees, size_km=size_km, seed=seed)
        rows = self.train.in_blocks(size_degrees=size_degrees, size_km=size_km)
        train, val = (rows.where(part) for part in parts)
        note = f"Validation rows: {len(val):,} of the training rows, chosen {how} (seed {seed})."
        return replace(self, train=train, val=val, meta=replace(self.meta, notes=(*self.meta.notes, note)))

    def resplit(
        self,
        fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
        *,
        seed: int = 0,
        size_degrees: float | None = None,
        size_km: float | None = None,
    ) -> "Task":
        """All rows of the three tables, split anew into train, val and test: at random, or in spatial blocks.

        Ceilings no longer hold for other test rows and are left out.
        """
        whole = concatenate(list(self.tables.values()))
        parts, how = split_rows(whole.lonlat, fractions, size_degrees=size_degrees, size_km=size_km, seed=seed)
        whole = whole.in_blocks(size_degrees=size_degrees, size_km=size_km)
        train, val, test = (whole.where(part) for part in parts)
        note = f"All rows split anew {how} (seed {seed}): this is not the split of the source."
        meta = replace(self.meta, notes=(*self.meta.notes, note), ceiling={}, eval_split="test")
        return replace(self, train=train, val=val, test=test, meta=meta)

    def __repr__(self) -> str:
        return task_text(self.name, self.meta, self.tables)

    def _repr_html_(self) -> str:
        return task_html(self.name, self.meta, self.tables)


def check_classes(target: Tensor, num_classes: int, name: str) -> None:
    """Raise `TaskDataError` if a target is no class index in [0, ``num_classes``)."""
    if target.is_floating_point():
        hint = "Table.from_pandas(frame, kind='classification') or target.long()"
        raise TaskDataError(f"{name}: classification targets must be integers, got {target.dtype}; use {hint}")
    if len(target) and int(target.max()) >= num_classes:
        row = int(target.argmax())
        known = f"{num_classes} classes (0 to {num_classes - 1})"
        raise TaskDataError(
            f"{name}: row {row} has class {int(target[row])}, but there are {known}; number them from 0"
        )
