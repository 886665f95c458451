"""What a task is: three tables of places with something to predict, and what is known about them.

Every dataset of the benchmark, synthetic or real, arrives as a `Task`. A `Table` holds one row per example and nothing
else; it never drops a row by itself: what is missing is marked (NaN coordinates, user -1), and a filter is something
you write down, ``table.where(table.has_location)``. Image inputs may be large, so they may stay on disk or sparse and
become dense a batch at a time (`Table.image_rows`).

How tasks are made is the business of the other modules of this package; how they look in a notebook that of
`tslab.tasks.display`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from tslab._files import atomic_path
from tslab.coords import CoordinateError, check_lonlat, has_location

TaskKind = Literal["classification", "regression"]
ImageKind = Literal["probs", "feats", "scalar", "none"]


class TaskDataError(ValueError):
    """Data that are not what the task says they are. The message names the input and the next step."""


class RowSource(Protocol):
    """A two-dimensional array that need not be in memory: a ``numpy.memmap``, or rows computed when asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> NDArray[Any]: ...


class LazyRows:
    """Some rows of a two-dimensional array that is not in memory until they are asked for, see `RowSource`.

    ``lazy[index]`` reads those rows and returns an ordinary array; ``lazy.select(index)`` stays lazy.
    """

    def __init__(self, array: RowSource, rows: NDArray[np.int64] | None = None) -> None:
        if len(array.shape) != 2:
            raise TaskDataError(f"image features must have shape (n, d), got {array.shape}")
        self.array = array
        self.rows = rows

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d) of the selected rows."""
        return (len(self), self.array.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """dtype of the stored numbers."""
        return self.array.dtype

    def select(self, index: NDArray[Any]) -> "LazyRows":
        """The rows ``index`` (integers or a boolean mask) of these rows, still on disk."""
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        return LazyRows(self.array, index if self.rows is None else self.rows[index])

    def __len__(self) -> int:
        return len(self.array) if self.rows is None else len(self.rows)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        return np.asarray(self.array[index if self.rows is None else self.rows[index]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def __repr__(self) -> str:
        where = (
            Path(str(self.array.filename)).name
            if isinstance(self.array, np.memmap)
            else type(self.array).__name__
        )
        return f"LazyRows({self.shape[0]:,} x {self.shape[1]:,} {self.dtype}, from {where})"


ImageInput: TypeAlias = Tensor | sp.csr_array | LazyRows | None
"""What a table may hold as image input: a dense tensor, a sparse matrix, rows on disk, or nothing."""

EXTRA_COLUMNS = ("user", "date", "id", "group", "year")
"""Columns besides coordinates, target and image input."""


@dataclass(frozen=True, repr=False, eq=False)
class Table:
    """One row per example.

    Attributes:
        lonlat: (n, 2) float32, degrees, longitude then latitude; NaN where the location is missing.
        target: (n,) int64 class index, or (n,) float32 in the unit of ``TaskMeta.label_unit``.
        image: per-row image input: class probabilities (n, classes), features (n, d) or one scalar (n, 1).
        user: (n,) int64 photographer, -1 where unknown.
        date: (n,) float32 fraction of the year in [0, 1), NaN where unknown.
        id: (n,) int64, the row's name in its source.
        group: (n,) int64 the group the row belongs to (country, site, stratum), -1 for none; see ``TaskMeta.groups``.
        year: (n,) int64 calendar year, -1 where unknown.

    Left out, ``user``, ``group`` and ``year`` are -1, ``date`` is NaN and ``id`` counts rows.

    Raises:
        TaskDataError: columns of different lengths, NaN or negative targets.
        tslab.CoordinateError: coordinates that are no degrees, for instance swapped columns.
    """

    lonlat: Float[Tensor, "n 2"]
    target: Int[Tensor, " n"] | Float[Tensor, " n"]
    image: ImageInput = None
    user: Int[Tensor, " n"] = None  # type: ignore[assignment]
    date: Float[Tensor, " n"] = None  # type: ignore[assignment]
    id: Int[Tensor, " n"] = None  # type: ignore[assignment]
    group: Int[Tensor, " n"] = None  # type: ignore[assignment]
    year: Int[Tensor, " n"] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        n, device = len(self.lonlat), self.lonlat.device
        defaults = {
            "user": lambda: torch.full((n,), -1, device=device),
            "date": lambda: torch.full((n,), torch.nan, device=device),
            "id": lambda: torch.arange(n, device=device),
            "group": lambda: torch.full((n,), -1, device=device),
            "year": lambda: torch.full((n,), -1, device=device),
        }
        for name, make in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, make())
        self._check(n)

    def _check(self, n: int) -> None:
        check_lonlat(self.lonlat)
        for name in ("target", "image", *EXTRA_COLUMNS):
            column = getattr(self, name)
            if column is not None and column.shape[0] != n:
                raise TaskDataError(
                    f"{name} has {column.shape[0]} rows but lonlat has {n}: rows are missing or belong to "
                    "another file; check how the two were joined"
                )
        if self.target.ndim != 1:
            raise TaskDataError(f"target must have shape (n,), got {tuple(self.target.shape)}")
        if self.target.is_floating_point():
            bad = self.target.isnan()
            what = "is NaN"
        else:
            bad = self.target < 0
            what = "is negative"
        if bool(bad.any()):
            row = int(bad.nonzero()[0, 0])
            raise TaskDataError(
                f"target[{row}] {what} ({int(bad.sum())} such rows): drop rows without a label before making a table"
            )

    def __len__(self) -> int:
        return len(self.lonlat)

    @property
    def has_location(self) -> Bool[Tensor, " n"]:
        """True where both coordinates are present."""
        return has_location(self.lonlat)

    @property
    def device(self) -> torch.device:
        """Where the columns are (a sparse or on-disk image input stays on the CPU)."""
        return self.lonlat.device

    def where(self, mask: Bool[Tensor, " n"] | Int[Tensor, " m"] | NDArray[Any]) -> "Table":
        """The rows where ``mask`` is true, or the rows with the given indices, in that order."""
        index = torch.as_tensor(mask, device=self.device)
        if index.dtype == torch.bool and len(index) != len(self):
            raise TaskDataError(f"mask has {len(index)} entries, the table has {len(self)} rows")
        columns = {name: getattr(self, name)[index] for name in ("lonlat", "target", *EXTRA_COLUMNS)}
        image = self.image
        if isinstance(image, LazyRows):
            image = image.select(index.cpu().numpy())
        elif image is not None:
            image = image[index if isinstance(image, Tensor) else index.cpu().numpy()]
        return Table(image=image, **columns)

    def image_rows(
        self, index: Int[Tensor, " b"] | slice | None = None, *, device: torch.device | str | None = None
    ) -> Float[Tensor, "b d"]:
        """Image input of some rows (all if None), dense float32, on ``device`` (default: the table's).

        Only these rows become dense: loop over batches where the whole does not fit.
        """
        if self.image is None:
            raise TaskDataError("this table has no image input (image is None)")
        if isinstance(self.image, Tensor):
            rows = self.image if index is None else self.image[index]
        else:
            at = slice(None) if index is None else index.cpu().numpy() if isinstance(index, Tensor) else index
            chosen: Any = self.image[at]
            dense = chosen.toarray() if sp.issparse(chosen) else chosen
            rows = torch.from_numpy(np.array(dense, dtype=np.float32))
        return rows.to(device=device or self.device, dtype=torch.float32)

    def to(self, device: torch.device | str) -> "Table":
        """The table with its columns on ``device``, for full-batch work. Sparse and on-disk image inputs stay put."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return Table(**{name: c.to(device) if isinstance(c, Tensor) else c for name, c in moved.items()})

    def dataset(self) -> "TableDataset":
        """A map-style ``torch.utils.data.Dataset`` over the rows, for a ``DataLoader``."""
        return TableDataset(self)

    def to_pandas(self) -> pd.DataFrame:
        """Columns id, lon, lat, target, user, date, group, year (and ``image`` where the image input is one scalar)."""
        lonlat = self.lonlat.cpu().numpy()
        columns: dict[str, Any] = {
            "id": self.id,
            "lon": lonlat[:, 0],
            "lat": lonlat[:, 1],
            "target": self.target,
        }
        columns |= {name: getattr(self, name) for name in ("user", "date", "group", "year")}
        if self.image is not None and self.image.shape[1] == 1:
            columns["image"] = self.image_rows(device="cpu")[:, 0]
        return pd.DataFrame(
            {name: np.asarray(c.cpu() if isinstance(c, Tensor) else c) for name, c in columns.items()}
        )

    @classmethod
    def from_pandas(cls, frame: pd.DataFrame, image: ImageInput = None) -> Self:
        """The inverse of `to_pandas`; needs ``lon``, ``lat`` and ``target``, takes the other columns if there.

        Integer targets are classes, floating point targets are values.

        Raises:
            TaskDataError: a missing column, a NaN target, or a row count that does not fit ``image``.
        """
        missing = [name for name in ("lon", "lat", "target") if name not in frame]
        if missing:
            raise TaskDataError(
                f"the frame has no column {', '.join(missing)} "
                f"(it has {', '.join(map(str, frame.columns))}); rename yours"
            )
        kinds = {name: np.float32 if name == "date" else np.int64 for name in EXTRA_COLUMNS}
        extra = {
            n: torch.from_numpy(frame[n].to_numpy(kind).copy()) for n, kind in kinds.items() if n in frame
        }
        integer = pd.api.types.is_integer_dtype(frame["target"])
        target = torch.from_numpy(frame["target"].to_numpy(np.int64 if integer else np.float32).copy())
        if image is None and "image" in frame:
            image = torch.from_numpy(frame["image"].to_numpy(np.float32).copy())[:, None]
        lonlat = torch.from_numpy(frame[["lon", "lat"]].to_numpy(np.float32).copy())
        return cls(lonlat=lonlat, target=target, image=image, **extra)

    def to_geoparquet(self, path: str | os.PathLike[str]) -> None:
        """Write GeoParquet: WGS 84 points, no geometry where the location is missing. Needs geopandas and pyarrow."""
        gpd = _import_geopandas()
        frame = self.to_pandas()
        located = self.has_location.cpu().numpy()
        points = gpd.points_from_xy(frame["lon"], frame["lat"]).to_numpy()
        points[~located] = None
        frame = gpd.GeoDataFrame(frame.drop(columns=["lon", "lat"]), geometry=points, crs="OGC:CRS84")
        with atomic_path(path) as temporary:
            frame.to_parquet(temporary)

    @classmethod
    def from_geoparquet(cls, path: str | os.PathLike[str], image: ImageInput = None) -> Self:
        """Read GeoParquet points with a ``target`` column, in any coordinate reference system."""
        frame = _import_geopandas().read_parquet(path)
        if frame.crs is None:
            raise TaskDataError(
                f"{path} does not say what its coordinates are (no CRS); "
                "set it with GeoDataFrame.set_crs, usually OGC:CRS84"
            )
        points = frame.geometry.to_crs("OGC:CRS84")
        plain = pd.DataFrame(frame.drop(columns=frame.geometry.name)).assign(lon=points.x, lat=points.y)
        return cls.from_pandas(plain, image)

    def __repr__(self) -> str:
        missing = int((~self.has_location).sum())
        image = "no image input" if self.image is None else f"image {self.image.shape[1]:,} wide"
        return f"Table({len(self):,} rows, {missing:,} without location, {image}, on {self.device})"


class TableDataset(Dataset[dict[str, Tensor]]):
    """Rows of a `Table` for a ``DataLoader``: dicts of ``lonlat``, ``target``, ``user``, ``date``, ``image``.

    A whole batch is read at once (``__getitems__``), so on-disk and sparse image inputs are touched once per batch;
    ``collate_fn`` is `TableDataset.collate`.
    """

    def __init__(self, table: Table) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of a table of {len(self)} rows")
        return {name: column[0] for name, column in self.batch([index % len(self)]).items()}

    def __getitems__(self, index: Sequence[int]) -> list[dict[str, Tensor]]:
        batch = self.batch(index)
        return [{name: column[i] for name, column in batch.items()} for i in range(len(index))]

    def batch(self, index: Sequence[int]) -> dict[str, Tensor]:
        """Some rows as stacked tensors."""
        at = torch.as_tensor(index, device=self.table.device)
        rows = {name: getattr(self.table, name)[at] for name in ("lonlat", "target", "user", "date")}
        if self.table.image is not None:
            rows["image"] = self.table.image_rows(at)
        return rows


@dataclass(frozen=True, repr=False)
class TaskMeta:
    """What is known about a task beyond its rows.

    Attributes:
        kind: ``classification`` or ``regression``.
        classes: class names, in the order of the targets; empty for regression.
        groups: names of the group numbers, where they have any.
        label_name, label_unit, label_transform: what the target is; the transform that was applied to the unit.
        image_kind: ``probs`` (class probabilities of an image model), ``feats`` (features), ``scalar`` or ``none``.
        image_model: where the image input comes from.
        eval_split: what the source calls the split that is in ``Task.test``.
        licence, citation: of the data.
        synthetic: True for generated data.
        source: ``synthetic``, ``locbench``, ``released`` or ``native``.
        scale, seed, generator_version: of generated data.
        ceiling: the best any model can do, where it is known (synthetic data): for classification ``location_top1``,
            ``image_top1``, ``both_top1``, for regression ``location_r2`` and others; fractions.
        notes: sentences on everything a reader should know.
    """

    kind: TaskKind
    classes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    label_name: str = "class"
    label_unit: str = ""
    label_transform: str = "none"
    image_kind: ImageKind = "none"
    image_model: str = ""
    eval_split: str = "test"
    licence: str = ""
    citation: str = ""
    synthetic: bool = False
    source: str = ""
    scale: str = ""
    seed: int | None = None
    generator_version: str = ""
    ceiling: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for regression."""
        return len(self.classes)

    def __repr__(self) -> str:
        shown = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name != "classes" and getattr(self, f.name)
        }
        if self.classes:
            shown["classes"] = f"{self.num_classes} names"
        return f"TaskMeta({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


class Truth(Protocol):
    """What generated data know about themselves: the best prediction from the location alone.

    Called with (n, 2) degrees it returns P(class | location), (n, classes), or E[target | location], (n,).
    """

    def __call__(self, lonlat: Float[Tensor, "n 2"]) -> Tensor: ...


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
    """

    name: str
    train: Table
    val: Table
    test: Table
    meta: TaskMeta
    truth: Truth | Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        for split, table in self.tables.items():
            if self.meta.kind == "classification":
                check_classes(table.target, self.meta.num_classes, f"{self.name} {split}")
            if self.meta.image_kind == "probs" and table.image is not None:
                width = table.image.shape[1]
                if width != self.meta.num_classes:
                    raise TaskDataError(
                        f"{self.name} {split}: image predictions have {width} columns, the task has "
                        f"{self.meta.num_classes} classes; they belong to another dataset"
                    )

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
        self,
        fraction: float = 0.1,
        *,
        seed: int = 0,
        size_degrees: float | None = None,
        size_km: float | None = None,
    ) -> "Task":
        """The task with its validation rows taken from train: at random, or in spatial blocks if a size is given.

        A task that has validation rows is returned as it is.
        """
        if len(self.val):
            return self
        parts, how = _split(self.train, (1 - fraction, fraction), seed, size_degrees, size_km)
        note = f"Validation rows: {len(parts[1]):,} of the training rows, chosen {how} (seed {seed})."
        meta = replace(self.meta, notes=(*self.meta.notes, note))
        return replace(self, train=self.train.where(parts[0]), val=self.train.where(parts[1]), meta=meta)

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
        parts, how = _split(whole, fractions, seed, size_degrees, size_km)
        note = f"All rows split anew {how} (seed {seed}): this is not the split of the source."
        meta = replace(self.meta, notes=(*self.meta.notes, note), ceiling={}, eval_split="test")
        train, val, test = (whole.where(part) for part in parts)
        return replace(self, train=train, val=val, test=test, meta=meta)

    def __repr__(self) -> str:
        from tslab.tasks.display import task_text

        return task_text(self)

    def _repr_html_(self) -> str:
        from tslab.tasks.display import task_html

        return task_html(self)


def concatenate(tables: Sequence[Table]) -> Table:
    """The rows of several tables, one after the other. On-disk image inputs must come from the same file."""
    filled = [table for table in tables if len(table)]
    if len(filled) <= 1:
        return filled[0] if filled else tables[0]
    columns = {
        name: torch.cat([getattr(t, name) for t in filled]) for name in ("lonlat", "target", *EXTRA_COLUMNS)
    }
    return Table(image=concatenate_images([table.image for table in filled]), **columns)


def check_classes(target: Tensor, num_classes: int, name: str) -> None:
    """Raise `TaskDataError` if a target is no class index in [0, ``num_classes``)."""
    if target.is_floating_point():
        raise TaskDataError(f"{name}: classification targets must be integers, got {target.dtype}")
    if len(target) and int(target.max()) >= num_classes:
        row = int(target.argmax())
        raise TaskDataError(
            f"{name}: row {row} has class {int(target[row])}, but there are {num_classes} classes "
            f"(0 to {num_classes - 1}); class numbers must start at 0"
        )


def concatenate_images(images: Sequence[Any]) -> ImageInput:
    if all(image is None for image in images):
        return None
    if all(isinstance(image, Tensor) for image in images):
        return torch.cat(list(images))
    if all(sp.issparse(image) for image in images):
        return sp.vstack(images, format="csr")
    if all(isinstance(image, LazyRows) and image.array is images[0].array for image in images):
        rows = [np.arange(len(image.array)) if image.rows is None else image.rows for image in images]
        return LazyRows(images[0].array, np.concatenate(rows))
    kinds = ", ".join("none" if image is None else type(image).__name__ for image in images)
    raise TaskDataError(
        f"the tables have different kinds of image input ({kinds}); "
        "remove it first with dataclasses.replace(table, image=None)"
    )


def _split(
    table: Table, fractions: Sequence[float], seed: int, size_degrees: float | None, size_km: float | None
) -> tuple[tuple[Tensor, ...], str]:
    """Parts of a table and how they were chosen, in words."""
    from tslab.tasks.splits import block_split, random_split

    if size_degrees is None and size_km is None:
        return random_split(len(table), fractions, seed=seed), "at random"
    size = f"{size_degrees:g} degrees" if size_km is None else f"{size_km:g} km, equal areas"
    blocks = block_split(table.lonlat, fractions, size_degrees=size_degrees, size_km=size_km, seed=seed)
    return blocks, f"in spatial blocks of {size}"


def _import_geopandas() -> Any:
    try:
        import geopandas  # type: ignore[import-untyped]
        import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"GeoParquet needs geopandas and pyarrow ({error}); pip install geopandas pyarrow"
        ) from error
    return geopandas


__all__ = [
    "CoordinateError",
    "ImageInput",
    "LazyRows",
    "Table",
    "TableDataset",
    "Task",
    "TaskDataError",
    "TaskMeta",
    "Truth",
    "check_classes",
    "concatenate",
]
