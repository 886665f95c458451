"""Tables: one row per example, a place and something to predict there.

A `Table` never drops a row by itself: what is missing is marked (NaN coordinates, user -1), and a filter is something
you write down, ``table.where(table.has_location)``. Image inputs may be large, so they may stay on disk or sparse and
become dense a batch at a time (`Table.image_rows`).
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor
from torch.utils.data import Dataset

from tslab._checks import check_choice, require
from tslab._files import atomic_path
from tslab._geometry import places_of_frame
from tslab._numbers import Numbers
from tslab.coords import CoordinateError, check_lonlat, has_location
from tslab.earth import spatial_blocks
from tslab.tasks.columns import TaskDataError, TaskKind, read_columns, read_numbers, read_rows, read_target
from tslab.tasks.images import GivenImage, ImageInput, LazyRows, as_image, concatenate_images

EXTRA_COLUMNS = ("user", "date", "id", "group", "year", "block")
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
        block: (n,) int64 the spatial block that the row was split by, -1 where rows were not split by blocks;
            intervals of `tslab.evaluate` resample whole blocks.
        classes: names of the class numbers, where the labels were text or categories; else empty.
        groups: names of the group numbers, where the groups were text or categories; else empty.

    Left out, ``user``, ``group``, ``year`` and ``block`` are -1, ``date`` is NaN and ``id`` counts rows. Columns may
    also be lists, arrays and pandas Series, which are read like those of `Table.from_pandas`.

    Two or more rows at exactly (0, 0) give a warning: that is usually what a missing place became on its way.

    Raises:
        TaskDataError: columns of different lengths, targets that are negative or not finite, an image input in memory
            with NaN.
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
    block: Int[Tensor, " n"] = None  # type: ignore[assignment]
    classes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def __init__(
        self,
        lonlat: Float[Tensor, "n 2"] | Numbers,
        target: Real[Tensor, " n"] | Numbers,
        image: GivenImage = None,
        user: Real[Tensor, " n"] | Numbers | None = None,
        date: Real[Tensor, " n"] | Numbers | None = None,
        id: Real[Tensor, " n"] | Numbers | None = None,
        group: Real[Tensor, " n"] | Numbers | None = None,
        year: Real[Tensor, " n"] | Numbers | None = None,
        block: Real[Tensor, " n"] | Numbers | None = None,
        classes: Sequence[str] = (),
        groups: Sequence[str] = (),
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self"}
        read = given | read_columns(given) | {"image": as_image(image)}
        n, device = len(check_lonlat(read["lonlat"])), read["lonlat"].device
        unknown = {"user": -1, "date": torch.nan, "group": -1, "year": -1, "block": -1}
        left_out = {name: torch.full((n,), fill, device=device) for name, fill in unknown.items() if read[name] is None}
        if read["id"] is None:
            left_out["id"] = torch.arange(n, device=device)
        for name, value in (read | left_out).items():
            object.__setattr__(self, name, value)
        self._check(n)

    def _check(self, n: int) -> None:
        for name in ("target", "image", *EXTRA_COLUMNS):
            column = getattr(self, name)
            if column is None:
                continue
            if name != "image" and column.ndim != 1:
                raise TaskDataError(f"{name} must have shape (n,), got {tuple(column.shape)}")
            if column.shape[0] != n:
                raise TaskDataError(f"{name} has {column.shape[0]} rows but lonlat has {n}: how were they joined?")
        bad = ~self.target.isfinite() if self.target.is_floating_point() else self.target < 0
        if bool(bad.any()):
            row = int(bad.nonzero()[0, 0])
            value = float(self.target[row])
            what = "is NaN" if value != value else "is infinite" if np.isinf(value) else "is negative"
            raise TaskDataError(f"target[{row}] {what} ({int(bad.sum())} such rows): drop rows without a label first")
        zero = int((self.lonlat == 0).all(-1).sum())
        if zero > 1:
            where = f"{zero:,} of {n:,} rows lie at exactly (0, 0), in the Gulf of Guinea"
            hint = "usually places that were missing; mark those with NaN in both columns"
            warnings.warn(f"{where}: {hint}", stacklevel=3)

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

    def where(self, mask: Bool[Tensor, " n"] | Int[Tensor, " m"] | Numbers) -> "Table":
        """The rows where ``mask`` is true, or the rows with the given indices, in that order."""
        index = read_rows("mask", mask, len(self)).to(self.device)
        columns = {name: getattr(self, name)[index] for name in ("lonlat", "target", *EXTRA_COLUMNS)}
        image = self.image
        if isinstance(image, LazyRows):
            image = image.select(index.cpu().numpy())
        elif image is not None:
            image = image[index if isinstance(image, Tensor) else index.cpu().numpy()]
        return self._derived(image=image, **columns)

    def in_blocks(self, *, size_degrees: float | None = None, size_km: float | None = None) -> "Table":
        """The table with the block (`tslab.earth.spatial_blocks`) of each row in ``block``; -1 without a size."""
        block = torch.full_like(self.id, -1)
        if size_degrees is not None or size_km is not None:
            block = spatial_blocks(self.lonlat, size_degrees=size_degrees, size_km=size_km)
        return self._derived(block=block)

    def image_rows(
        self, index: Int[Tensor, " b"] | slice | None = None, *, device: torch.device | str | None = None
    ) -> Float[Tensor, "b d"]:
        """Image input of some rows (all if None), dense float32, on ``device`` (default: the table's).

        Only these rows become dense: loop over batches where the whole does not fit.
        """
        if self.image is None:
            raise TaskDataError("this table has no image input (image is None)")
        at: Any = slice(None) if index is None else index
        if isinstance(self.image, Tensor):
            rows = self.image[at]
        else:
            chosen: Any = self.image[at.cpu().numpy() if isinstance(at, Tensor) else at]
            rows = torch.from_numpy(np.array(chosen.toarray() if sp.issparse(chosen) else chosen, dtype=np.float32))
        return rows.to(device=device or self.device, dtype=torch.float32)

    def to(self, device: torch.device | str) -> "Table":
        """The table with its columns on ``device``, for full-batch work. Sparse and on-disk image inputs stay put."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return self._derived(**{name: c.to(device) for name, c in moved.items() if isinstance(c, Tensor)})

    def as_values(self) -> "Table":
        """The table with its labels as float32: values in place of class numbers."""
        return self._derived(target=self.target.float(), classes=())

    def dataset(self) -> "TableDataset":
        """A map-style ``torch.utils.data.Dataset`` over the rows, for a ``DataLoader``."""
        return TableDataset(self)

    def to_pandas(self) -> pd.DataFrame:
        """Columns id, lon, lat, target, user, date, group, year; ``block`` where rows were split by blocks, ``image``
        where the image input is one scalar."""
        lon, lat = self.lonlat.unbind(-1)
        columns: dict[str, Tensor] = {"id": self.id, "lon": lon, "lat": lat, "target": self.target}
        columns |= {name: getattr(self, name) for name in ("user", "date", "group", "year")}
        if bool((self.block >= 0).any()):
            columns["block"] = self.block
        if self.image is not None and self.image.shape[1] == 1:
            columns["image"] = self.image_rows(device="cpu")[:, 0]
        return pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})

    @classmethod
    def from_pandas(
        cls,
        frame: pd.DataFrame,
        image: GivenImage = None,
        *,
        kind: TaskKind | None = None,
        classes: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> "Table":
        """The inverse of `to_pandas`; needs ``lon``, ``lat`` and ``target``, takes the other columns if there.

        Args:
            frame: with columns of any dtype, see `tslab.tasks.columns`. A missing coordinate is NaN, a missing user,
                group, year or block -1. ``date`` may hold dates: they become fractions of the year and, where there
                is no column ``year``, years.
            image: image input, row by row.
            kind: what the labels are. Left out, whole numbers, truth values, text and categories are classes, other
                numbers are values. ``regression`` makes whole numbers values.
            classes, groups: names in the order of their numbers, so that two frames get the same ones:
                ``Table.from_pandas(test, classes=train.classes)``. Left out, text is numbered in alphabetical order;
                the names are in ``table.classes`` and ``table.groups``, and a `Task` takes them over.

        Raises:
            TaskDataError: a missing column or label, a value that cannot be what its column says, or a row count that
                does not fit ``image``. Names column and row.
        """
        check_choice("kind", kind, (None, *get_args(TaskKind)))
        if isinstance(frame, pd.Series):
            raise TaskDataError("a table is made of a frame with columns lon, lat and target, got one Series")
        missing = [name for name in ("lon", "lat", "target") if name not in frame]
        if missing:
            found = ", ".join(map(str, frame.columns))
            raise TaskDataError(f"the frame has no column {', '.join(missing)} (it has {found}); rename yours")
        target, names = read_target(frame["target"], kind, classes)
        if image is None and "image" in frame:
            image = read_numbers("image", frame["image"])[:, None]
        columns = {name: frame[name] for name in EXTRA_COLUMNS if name in frame}
        return cls(frame[["lon", "lat"]], target, image, classes=names, groups=groups or (), **columns)

    def to_geoparquet(self, path: str | os.PathLike[str]) -> None:
        """Write GeoParquet: WGS 84 points, no geometry where the location is missing. Needs geopandas and pyarrow."""
        require("pyarrow", "geo")
        gpd: Any = require("geopandas", "geo")
        frame = self.to_pandas()
        points = gpd.points_from_xy(frame["lon"], frame["lat"]).to_numpy()
        points[~self.has_location.cpu().numpy()] = None
        frame = gpd.GeoDataFrame(frame.drop(columns=["lon", "lat"]), geometry=points, crs="OGC:CRS84")
        with atomic_path(path) as temporary:
            frame.to_parquet(temporary)

    @classmethod
    def from_geoparquet(cls, path: str | os.PathLike[str], image: GivenImage = None, **options: Any) -> "Table":
        """Read GeoParquet points with a ``target`` column, in any coordinate reference system.

        ``options`` (kind, classes, groups) and errors are those of `Table.from_pandas`; geometries that are no points,
        or in no known system, are a `tslab.CoordinateError`.
        """
        require("pyarrow", "geo")
        gpd: Any = require("geopandas", "geo")
        frame = gpd.read_parquet(path)
        try:
            lon, lat = places_of_frame(frame, "lon", "lat").T
        except CoordinateError as error:
            raise CoordinateError(f"{path}: {error}") from None
        plain = pd.DataFrame(frame.drop(columns=frame.geometry.name)).assign(lon=lon, lat=lat)
        return cls.from_pandas(plain, image, **options)

    def _derived(self, **columns: Any) -> "Table":
        """A table of rows of this one: they were checked when this one was made, so nothing is looked at again."""
        table = object.__new__(Table)
        for f in fields(self):
            object.__setattr__(table, f.name, columns.get(f.name, getattr(self, f.name)))
        return table

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: a column that is a view into a larger tensor goes alone, without the rest of it."""
        state = dict(self.__dict__)
        for name, column in state.items():
            if isinstance(column, Tensor) and column.untyped_storage().nbytes() > column.nbytes:
                state[name] = column.clone()
        return state

    def __repr__(self) -> str:
        missing = int((~self.has_location).sum())
        image = "no image input" if self.image is None else f"image {self.image.shape[1]:,} wide"
        return f"Table({len(self):,} rows, {missing:,} without location, {image}, on {self.device})"


class TableDataset(Dataset[dict[str, Tensor]]):
    """Rows of a `Table` for a ``DataLoader``: dicts of ``lonlat``, ``target``, ``user``, ``date``, ``image``.

    A whole batch is read at once (``__getitems__``), so on-disk and sparse image inputs are touched once per batch; the
    loader's own ``collate_fn`` stacks the rows.
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


def concatenate(tables: Sequence[Table]) -> Table:
    """The rows of several tables, one after the other. On-disk image inputs must come from the same file."""
    if not tables:
        raise TaskDataError("there are no tables to put together")
    filled = [table for table in tables if len(table)]
    if len(filled) <= 1:
        return filled[0] if filled else tables[0]
    columns: dict[str, Any] = {
        name: torch.cat([getattr(t, name) for t in filled]) for name in ("lonlat", "target", *EXTRA_COLUMNS)
    }
    for names in ("classes", "groups"):
        given = {getattr(table, names) for table in filled} - {()}
        if len(given) > 1:
            hint = f"read the later ones with Table.from_pandas(frame, {names}=first.{names})"
            raise TaskDataError(f"the tables number their {names} differently; {hint}")
        columns[names] = next(iter(given), ())
    return filled[0]._derived(image=concatenate_images([table.image for table in filled]), **columns)
