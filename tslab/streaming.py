"""Encoding places by the million: a Parquet file in, a Parquet file out, batch by batch.

`encode_parquet` reads a table of places in batches, encodes each and writes it with its embedding, so that memory
holds a few batches whatever the length of the table. The output appears under its name only when it is complete. On
the way it is kept as parts, one for each stretch of rows; a run that was stopped goes on after the last whole part.
`encode_frame` does the same for a frame in memory, also one with geometries, and is what Dask maps over partitions.

Needs pyarrow (``pip install "tslab[geo]"``). The chapter *Encoding a table at scale* uses and measures it.
"""

import os
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from tslab._checks import check_choice, check_count, require
from tslab._files import only_writer
from tslab._geometry import geo_metadata, kept_geo_metadata, places_of_frame, places_of_table
from tslab._parquet import LOCK, ParquetSource, Parts, identity_of, owner_of
from tslab.coords import CoordinateError, check_lonlat
from tslab.encoders.storage import evaluating

Encoder = Callable[[Float[Tensor, "n 2"]], Float[Tensor, "n d"]]
Dtype = Literal["float32", "float16"]


@dataclass(frozen=True)
class StreamReport:
    """What `encode_parquet` did: rows and width of the result, rows taken over from an earlier run, seconds, bytes."""

    rows: int
    features: int
    resumed_rows: int
    seconds: float
    bytes: int

    @property
    def rows_per_second(self) -> float:
        """Rows encoded in this run, over its seconds."""
        return (self.rows - self.resumed_rows) / max(self.seconds, 1e-9)


def encode_parquet(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    encoder: Encoder,
    *,
    lon: str = "lon",
    lat: str = "lat",
    geometry: str | None = None,
    column: str = "embedding",
    keep: list[str] | None = None,
    dtype: Dtype = "float32",
    batch_rows: int = 65_536,
    part_rows: int = 1_048_576,
    fingerprint: str | None = None,
    progress: bool = True,
) -> StreamReport:
    """Encode the places of a Parquet file into a Parquet file with one more column. Rows keep their order.

    Args:
        source: Parquet file with one row for each place, or a folder of such files (in the order of their names;
            folders called ``name=value`` give a column); GeoParquet of points if ``geometry`` is given.
        target: file to write. Parts of an unfinished run lie beside it in ``.<name>.parts``.
        encoder: any function of places (n, 2) in degrees that returns (n, d); a module is put in evaluation mode and
            runs on the device of its weights.
        lon, lat: columns of degrees. A missing value gives a row of NaN.
        geometry: column of points (well-known binary or GeoArrow), in place of ``lon`` and ``lat``; brought to degrees
            from the coordinate system that the file names. An empty point gives a row of NaN.
        column: the new column, a list of d numbers for each row.
        keep: columns to copy; all but the geometry by default. A kept geometry keeps its metadata.
        dtype: of the new column; "float16" halves the file and keeps three digits.
        batch_rows: rows encoded at a time; with d it decides the memory.
        part_rows: rows of a part, after which a stopped run can go on.
        fingerprint: what identifies the encoder; by default a hash of a module's weights, buffers, attributes and
            source. Parts of another encoder are not taken over. A function (a lambda, a closure) has no such hash:
            without a fingerprint, its job starts anew.
        progress: show a bar.

    Raises:
        FileNotFoundError: no such source.
        KeyError: a column that the source lacks, with those it has.
        CoordinateError: a place out of range, with its row in the file; geometries that are not points, or in no known
            coordinate system.
        FolderInUseError: another process writes the same target.
        ValueError: a column that is there already, other arguments out of range, an encoder whose output does not fit,
            a source that is damaged or changes meanwhile.
    """
    start = time.perf_counter()
    _check_arguments(encoder, dtype)
    batch_rows, part_rows = check_count("batch_rows", batch_rows), check_count("part_rows", part_rows)
    table, out = ParquetSource.open(Path(source)), Path(target)
    _check_target(table, out)
    place_columns = [lon, lat] if geometry is None else [geometry]
    kept = _kept_columns(table, place_columns, column, keep)
    # types and coordinate system are wrong before anything is written
    _places_of(table.schema.empty_table(), place_columns, str(source))
    metadata = kept_geo_metadata(table.schema, kept)
    plan = {
        "source": table.state(),
        "encoder": fingerprint or identity_of(encoder) or uuid.uuid4().hex,
        "columns": [*place_columns, column, *kept],
        "dtype": dtype,
        "part_rows": part_rows,
    }
    folder = out.with_name(f".{out.name}.parts")
    with only_writer(folder / LOCK, hint="wait for it to end, or choose another target"):
        parts = Parts(folder, table.rows, part_rows)
        done = parts.resume(plan)
        resumed = min(done * part_rows, table.rows)
        columns = [*dict.fromkeys([*place_columns, *kept])]
        with tqdm(total=table.rows, initial=resumed, unit="row", unit_scale=True, disable=not progress) as bar:

            def encoded(first_row: int, rows: Any) -> Any:
                lonlat = _places_of(rows, place_columns, f"rows from {first_row:,} on")
                bar.update(len(lonlat))
                return _with_column(rows.select(kept), column, _encode(encoder, lonlat, dtype), metadata)

            pieces = table.pieces(columns, batch_rows, part_rows, resumed) if done < parts.count else ()
            for number, group in groupby(pieces, key=lambda piece: piece[0] // part_rows):
                parts.write(number, (encoded(*piece) for piece in group))
        if table.state() != plan["source"]:
            raise ValueError(f"{source} was changed while it was read; run the same call again")
        width = parts.join(out).field(column).type.list_size
        shutil.rmtree(folder, ignore_errors=True)
    return StreamReport(table.rows, width, resumed, time.perf_counter() - start, out.stat().st_size)


def encode_frame(
    frame: pd.DataFrame,
    encoder: Encoder,
    *,
    lon: str = "lon",
    lat: str = "lat",
    prefix: str = "e",
    dtype: Dtype = "float32",
    batch_rows: int = 65_536,
) -> pd.DataFrame:
    """The embeddings of a frame's places as columns ``e0``, ``e1``, ..., with the index of the frame.

    A GeoDataFrame is read from its point geometries, brought to longitude and latitude first if it has another
    coordinate system; other frames from the columns ``lon`` and ``lat``. Works on a partition of Dask:
    ``ddf.map_partitions(encode_frame, encoder, meta=encode_frame(ddf._meta, encoder))``.

    Raises:
        TypeError: no pandas frame.
        KeyError: a column that the frame lacks, with those it has.
        CoordinateError: a place out of range; columns that are no numbers; geometries without a coordinate system, or
            that are not points.
        ValueError: other arguments out of range, an encoder whose output does not fit.
    """
    if not isinstance(frame, pd.DataFrame):
        hint = "call the encoder itself for a tensor of places, and map_partitions for a Dask frame"
        raise TypeError(f"encode_frame takes a pandas DataFrame, got {type(frame).__name__}; {hint}")
    _check_arguments(encoder, dtype)
    batch_rows = check_count("batch_rows", batch_rows)
    lonlat = torch.from_numpy(np.array(places_of_frame(frame, lon, lat)))
    check_lonlat(lonlat)
    values = np.concatenate([_encode(encoder, block, dtype) for block in lonlat.split(batch_rows)])
    return pd.DataFrame(values, index=frame.index, columns=[f"{prefix}{i}" for i in range(values.shape[1])])


def _check_arguments(encoder: Encoder, dtype: str) -> None:
    if not callable(encoder):
        hint = "tslab.location_encoder(key) makes one of a key"
        raise TypeError(f"encoder must be a function of places (n, 2), got {type(encoder).__name__}; {hint}")
    check_choice("dtype", dtype, get_args(Dtype))


def _check_target(table: ParquetSource, out: Path) -> None:
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder; give the file to write")
    if out.resolve() in (file.resolve() for file, _ in table.files):
        raise ValueError(f"{out} is the source itself; write to another file and rename it when you are content")
    if table.path.is_dir() and out.resolve().parent.is_relative_to(table.path.resolve()):
        raise ValueError(f"{out} lies in the source folder, whose files are its table; write it elsewhere")


def _kept_columns(table: ParquetSource, place_columns: list[str], column: str, keep: list[str] | None) -> list[str]:
    """The columns to copy, all of which are there, and none of which is the new one."""
    names = table.schema.names
    if isinstance(keep, str) or not isinstance(column, str) or not column:
        raise ValueError(f"keep is a list of columns and column a name, got {keep!r} and {column!r}")
    for name in [*place_columns, *(keep or ())]:
        if name not in names:
            points = list(geo_metadata(table.schema).get("columns", {})) if name in place_columns[:-1] else []
            hint = f"; it is GeoParquet: pass geometry={points[0]!r}" if points else ""
            raise KeyError(f"no column {name!r} in {table.path}; it has {', '.join(names)}{hint}")
    if keep is None and table.unread:
        only = f"only some of the files in {table.path} have column {', '.join(table.unread)}"
        raise ValueError(f"{only}; name the columns to copy with keep=[...]")
    geometry = place_columns if len(place_columns) == 1 else []
    kept = [name for name in names if name not in geometry] if keep is None else list(keep)
    for name in {*place_columns, *kept}:
        if names.count(name) > 1 or kept.count(name) > 1:
            raise ValueError(f"column {name!r} is there more than once; every column needs a name of its own")
    if column in kept:
        hint = "choose another name with column=, or list the columns to copy in keep="
        raise ValueError(f"the source has a column {column!r} already; {hint}")
    return kept


def _places_of(table: Any, columns: list[str], where: str) -> Float[Tensor, "n 2"]:
    """Places of a piece of the table; an error says ``where`` that is."""
    try:
        return check_lonlat(torch.from_numpy(np.ascontiguousarray(places_of_table(table, columns))))
    except CoordinateError as error:
        raise CoordinateError(f"{where}: {error}") from None


def _encode(encoder: Encoder, lonlat: Float[Tensor, "n 2"], dtype: str) -> NDArray[Any]:
    """Embeddings as a NumPy array of ``dtype``; a module on another device gets its places there."""
    owner = owner_of(encoder)
    weights = (*owner.parameters(), *owner.buffers()) if owner is not None else ()
    with evaluating(owner):
        # float64 places where the encoder computes its phases in float64; the network casts to its own dtype
        out = encoder(lonlat.to(next(iter(weights), lonlat).device))
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(lonlat) or out.shape[1] == 0:
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"the encoder must return a tensor (n, d) for n places, got {got} for {len(lonlat)}")
    values = out.float().cpu().numpy()
    with np.errstate(over="ignore"):
        small = values.astype(dtype)
    if dtype == "float16" and bool((np.isinf(small) & np.isfinite(values)).any()):
        largest = np.nanmax(np.abs(values))
        raise ValueError(f"float16 ends at 65,504, the encoder gives {largest:g}; use dtype='float32'")
    return small


def _with_column(table: Any, name: str, values: NDArray[Any], metadata: dict[str, str]) -> Any:
    """An Arrow table with one fixed-width list column more."""
    pa = require("pyarrow", "geo")
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    lists = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return table.append_column(name, lists).replace_schema_metadata(metadata or None)
