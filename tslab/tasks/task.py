"""What a task is: three tables of places with something to predict, and what is known about them.

Every dataset of the benchmark, synthetic or real, arrives as a `Task`. Its rows are `tslab.tasks.table`, image inputs
`tslab.tasks.images`, what is known about it `tslab.tasks.datasets.TaskMeta`. Printed, and in a notebook, it shows
counts, a small map and a histogram of the labels: inline SVG of a few kilobytes that follows the colour of the text, so
it reads in light and dark themes.
"""

import html
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tslab._checks import check_number
from tslab.earth import grid_cells, land_lines
from tslab.tasks.columns import TaskDataError
from tslab.tasks.datasets import TaskMeta, Truth
from tslab.tasks.images import LazyRows as LazyRows
from tslab.tasks.splits import split_table
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
        size: dict[str, Any] = {"size_degrees": size_degrees, "size_km": size_km}
        (train, val), how = split_table(self.train, (1 - fraction, fraction), seed=seed, **size)
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
        size: dict[str, Any] = {"size_degrees": size_degrees, "size_km": size_km}
        (train, val, test), how = split_table(concatenate([*self.tables.values()]), fractions, seed=seed, **size)
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
        known = f"{num_classes} classes (0 to {num_classes - 1}); number them from 0"
        raise TaskDataError(f"{name}: row {row} has class {int(target[row])}, but there are {known}")


CELL_DEGREES = 5
SHADES = 4
BARS = 40
MARK = "#4a8bc9"
IMAGE_KINDS = {"probs": "class probabilities", "feats": "features", "scalar": "one number"}


def task_text(name: str, meta: TaskMeta, tables: Mapping[str, Table]) -> str:
    """The task in a few lines of text."""
    what = f"{meta.num_classes} classes" if meta.kind == "classification" else meta.label_name
    origin = ("" if "synthetic" in what else "synthetic") if meta.synthetic else meta.source
    settings = [f"scale {meta.scale}" if meta.scale else "", f"seed {meta.seed}" if meta.seed is not None else ""]
    lines = [f"Task {name!r} ({', '.join(filter(None, [f'{meta.kind}, {what}', origin, *settings]))})"]
    for split, table in tables.items():
        missing = int((~table.has_location).sum())
        where = f" (the source's {meta.eval_split!r})" if split == "test" and meta.eval_split != "test" else ""
        lines.append(f"  {split:5} {len(table):>9,} rows, {missing:,} without location{where}")
    return "\n".join([*lines, *(f"  {about} {fact}" for about, fact in _facts(meta, tables).items())])


def task_html(name: str, meta: TaskMeta, tables: Mapping[str, Table]) -> str:
    """The task as HTML for notebooks: counts, map thumbnail and label histogram, with text alternatives."""
    origin = "synthetic data" if meta.synthetic else f"source: {meta.source}"
    rows = "".join(
        f"<tr><th scope='row' style='text-align:left'>{split}</th><td>{len(table):,}</td>"
        f"<td>{int((~table.has_location).sum()):,}</td></tr>"
        for split, table in tables.items()
    )
    facts = _facts(meta, tables) | {"licence": meta.licence or "not stated"}
    listed = "".join(f"<div>{html.escape(f'{about}: {fact}')}</div>" for about, fact in facts.items())
    return (
        "<div class='tslab-task' style='display:flex;flex-wrap:wrap;gap:1.5em;align-items:flex-start'>"
        f"<div><strong>{html.escape(name)}</strong> ({html.escape(meta.kind)}, {html.escape(origin)})"
        "<table style='color:inherit;border-spacing:.6em 0;text-align:right'>"
        "<thead><tr><th scope='col'>table</th><th scope='col'>rows</th>"
        f"<th scope='col'>without location</th></tr></thead><tbody>{rows}</tbody></table>"
        f"<div style='font-size:.85em;max-width:26em'>{listed}</div></div>"
        f"<div>{_map_svg(tables['train'])}</div><div>{_histogram_svg(meta, tables['train'])}</div></div>"
    )


def _facts(meta: TaskMeta, tables: Mapping[str, Table]) -> dict[str, str]:
    """What is predicted, from which image input, and what is known of the best prediction."""
    transform = "" if meta.label_transform == "none" else meta.label_transform
    facts = {"label": ", ".join(filter(None, [meta.label_name, meta.label_unit, transform])), "image": "none"}
    widths = [table.image.shape[1] for table in tables.values() if table.image is not None]
    if widths and meta.image_kind != "none":
        model = f" from {meta.image_model}" if meta.image_model else ""
        facts["image"] = f"{IMAGE_KINDS[meta.image_kind]} ({widths[0]:,} wide){model}"
    if meta.ceiling:
        facts["known"] = ", ".join(f"{what} {value:.3f}" for what, value in meta.ceiling.items())
    return facts


def _map_svg(table: Table) -> str:
    """The number of rows per cell of the world, darker for more, a pixel for a degree."""
    columns, rows = 360 // CELL_DEGREES, 180 // CELL_DEGREES
    cells = grid_cells(table.lonlat[table.has_location].cpu(), CELL_DEGREES).numpy()
    logs = np.log1p(np.bincount(cells, minlength=columns * rows).reshape(rows, columns).T)
    shade = np.ceil(SHADES * logs / max(float(logs.max()), 1e-9))
    marks = ""
    for level in range(1, SHADES + 1):
        corners = CELL_DEGREES * np.argwhere(shade == level)
        squares = (f"M{x} {180 - CELL_DEGREES - y}h{CELL_DEGREES}v{CELL_DEGREES}h-{CELL_DEGREES}z" for x, y in corners)
        marks += f"<path opacity='{level / SHADES:g}' d='{''.join(squares)}'/>"
    coast = f"<path d='{_coast_path()}' fill='none' stroke='currentColor' stroke-width='.5' opacity='.6'/>"
    alt = f"World map, where the {len(table):,} training rows lie"
    return _svg(360, 180, alt, f"<g fill='{MARK}'>{marks}</g>{coast}")


def _histogram_svg(meta: TaskMeta, table: Table) -> str:
    """Rows per class (sorted) or rows per value."""
    target = table.target.cpu().numpy()
    if meta.kind == "classification":
        counts = np.sort(np.bincount(target, minlength=meta.num_classes))[::-1]
        heights = np.array([part.mean() for part in np.array_split(counts, min(BARS, max(len(counts), 1)))])
        caption = f"rows per class, {meta.num_classes} classes from common to rare"
    else:
        heights, edges = np.histogram(target, bins=BARS)
        first, last = (f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.3g}" for v in (edges[0], edges[-1]))
        caption = f"{meta.label_name}, from {first} to {last}"
    high = 120 * heights / max(float(np.max(heights, initial=0)), 1e-9)
    width = 200 / max(len(heights), 1)
    bars = "".join(
        f"<rect x='{i * width:.2f}' y='{120 - h:.1f}' width='{0.85 * width:.2f}' height='{h:.1f}'/>"
        for i, h in enumerate(high)
    )
    described = f"<div style='font-size:.85em;max-width:200px'>{html.escape(caption)}</div>"
    return _svg(200, 120, f"Histogram: {caption}", f"<g fill='{MARK}'>{bars}</g>") + described


def _svg(width: int, height: int, alt: str, content: str) -> str:
    """A drawing with its text alternative."""
    alt = html.escape(alt, quote=True)
    return (
        f"<svg role='img' aria-label='{alt}' width='{width}' height='{height}' "
        f"viewBox='0 0 {width} {height}'><title>{alt}</title>{content}</svg>"
    )


@cache
def _coast_path() -> str:
    """The coastline in relative steps of whole pixels, a pixel for a degree; the smallest islands are left out."""
    points = np.round(land_lines() * [1, -1] + [180, 90])
    path = ""
    for line in np.split(points, np.flatnonzero(np.isnan(points[:, 0]))):
        line = line[~np.isnan(line[:, 0])].astype(int)
        steps = np.diff(line, axis=0)
        steps = steps[steps.any(axis=1)]
        if len(steps) >= 3:
            path += f"M{line[0, 0]} {line[0, 1]}l" + " ".join(f"{x} {y}" for x, y in steps).replace(" -", "-")
    return path
