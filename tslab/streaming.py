"""Encoding places by the million: a Parquet file in, a Parquet file out, batch by batch.

`encode_parquet` reads a table of places in batches, encodes each and writes it with its embedding, so that memory
holds a few batches whatever the length of the table. The output appears under its name only when it is complete. On
the way it is kept as parts, one for each stretch of rows; a run that was stopped goes on after the last whole part.
`encode_frame` does the same for a frame in memory, also one with geometries, and is what Dask maps over partitions.

Needs pyarrow (``pip install "tslab[geo]"``). The chapter *Encoding a table at scale* uses and measures it.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from tslab._files import atomic_path, atomic_write
from tslab.coords import CoordinateError, check_lonlat

Encoder = Callable[[Float[Tensor, "n 2"]], Float[Tensor, "n d"]]
Dtype = Literal["float32", "float16"]
DTYPES = ("float32", "float16")


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
    """Encode the places of a Parquet file into a Parquet file with one more column.

    Args:
        source: Parquet file with one row for each place; GeoParquet of points if ``geometry`` is given.
        target: file to write. Parts of an unfinished run lie beside it in ``.<name>.parts``.
        encoder: any function of places (n, 2) in degrees that returns (n, d); a module is put in evaluation mode and
            runs on the device of its weights.
        lon, lat: columns of degrees. A missing value gives a row of NaN.
        geometry: column of WKB points, in place of ``lon`` and ``lat``.
        column: the new column, a list of d numbers for each row.
        keep: columns to copy; all but the geometry by default.
        dtype: of the new column; "float16" halves the file and keeps three digits.
        batch_rows: rows encoded at a time; with d it decides the memory.
        part_rows: rows of a part, after which a stopped run can go on.
        fingerprint: what identifies the encoder; by default a hash of a module's weights. A part that another encoder
            wrote is not taken over.
        progress: show a bar.

    Raises:
        FileNotFoundError: no such source.
        KeyError: a column that the source lacks, with those it has.
        CoordinateError: a place out of range, with its row in the file.
        ValueError: a batch or part without rows, or another dtype.
    """
    import pyarrow.parquet as pq

    start = time.perf_counter()
    path, out = Path(source), Path(target)
    if batch_rows < 1 or part_rows < 1:
        raise ValueError(f"batch_rows and part_rows must be at least 1, got {batch_rows} and {part_rows}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not known; choose one of {', '.join(DTYPES)}")
    if not path.is_file():
        raise FileNotFoundError(f"no Parquet file at {path}")
    file = pq.ParquetFile(path)
    place_columns = [geometry] if geometry else [lon, lat]
    kept = [name for name in file.schema_arrow.names if name != geometry] if keep is None else list(keep)
    for name in [*place_columns, *kept]:
        if name not in file.schema_arrow.names:
            raise KeyError(f"no column {name!r} in {path}; it has {', '.join(file.schema_arrow.names)}")
    plan = {
        "source": str(path.resolve()),
        "size": path.stat().st_size,
        "modified": path.stat().st_mtime_ns,
        "encoder": fingerprint or _fingerprint(encoder),
        "columns": [*place_columns, column, *kept],
        "dtype": dtype,
        "part_rows": part_rows,
    }
    parts = out.with_name(f".{out.name}.parts")
    done = _parts_of(parts, plan)
    total, resumed = file.metadata.num_rows, done * part_rows
    columns = [*dict.fromkeys([*place_columns, *kept])]
    with tqdm(
        total=total, initial=min(resumed, total), unit="row", unit_scale=True, disable=not progress
    ) as bar:
        pieces = _pieces(file, columns, batch_rows, part_rows, resumed)
        for number, group in groupby(pieces, key=lambda piece: piece[0] // part_rows):
            with atomic_path(parts / f"{number:06d}.parquet") as temporary, ExitStack() as stack:
                writer = None
                for first_row, batch in group:
                    lonlat = _places_of(batch, lon, lat, geometry, first_row)
                    table = _with_column(batch.select(kept), column, _encode(encoder, lonlat, dtype))
                    writer = writer or stack.enter_context(pq.ParquetWriter(temporary, table.schema))
                    writer.write_table(table)
                    bar.update(len(lonlat))
    names = sorted(parts.glob("*.parquet"))
    if not names:  # a table without rows
        nothing = _encode(encoder, torch.empty(0, 2, dtype=torch.float64), dtype)
        names = [parts / "000000.parquet"]
        pq.write_table(_with_column(file.schema_arrow.empty_table().select(kept), column, nothing), names[0])
    width = pq.read_schema(names[0]).field(column).type.list_size
    _join(names, out)
    shutil.rmtree(parts)
    return StreamReport(total, width, min(resumed, total), time.perf_counter() - start, out.stat().st_size)


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
        CoordinateError: a place out of range; geometries without a coordinate system, or that are not points.
    """
    lonlat = torch.from_numpy(_frame_places(frame, lon, lat))
    check_lonlat(lonlat)
    blocks = [_encode(encoder, block, dtype) for block in lonlat.split(batch_rows)]
    values = np.concatenate(blocks)
    return pd.DataFrame(values, index=frame.index, columns=[f"{prefix}{i}" for i in range(values.shape[1])])


def _frame_places(frame: pd.DataFrame, lon: str, lat: str) -> NDArray[np.float64]:
    if not hasattr(frame, "geometry"):
        return np.array(frame[[lon, lat]].to_numpy(np.float64))
    points = frame.geometry
    if points.crs is None:
        raise CoordinateError(
            "the geometries have no coordinate system; say which one they are in with frame.set_crs(...)"
        )
    kinds = points.geom_type.dropna()
    if not (kinds == "Point").all():
        raise CoordinateError(
            f"geometry {kinds[kinds != 'Point'].iloc[0]} is not a point; use frame.representative_point() first"
        )
    points = points.to_crs("EPSG:4326")
    return np.stack([points.x.to_numpy(np.float64), points.y.to_numpy(np.float64)], axis=1)


def _pieces(
    file: Any, columns: list[str], batch_rows: int, part_rows: int, start: int
) -> Iterator[tuple[int, Any]]:
    """(first row, record batch) from row ``start`` on; no piece reaches over the end of a part. Row groups that end
    before ``start`` are not read."""
    sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    ends = np.cumsum(sizes)
    groups = np.flatnonzero(ends > start).tolist()
    if not groups:  # nothing left; older pyarrow cannot iterate over no row group
        return
    row = int(ends[groups[0]] - sizes[groups[0]])
    for batch in file.iter_batches(batch_rows, row_groups=groups, columns=columns):
        end = row + len(batch)
        while (first := max(row, start)) < end:
            size = min(end, (first // part_rows + 1) * part_rows) - first
            yield first, batch.slice(first - row, size)
            batch, row = batch.slice(first - row + size), first + size
        row = end


def _places_of(batch: Any, lon: str, lat: str, geometry: str | None, first_row: int) -> Float[Tensor, "n 2"]:
    """Places of a record batch, float64; the row of a bad one is counted from the top of the file."""
    if geometry:
        import shapely

        points = shapely.from_wkb(batch.column(geometry).to_numpy(zero_copy_only=False))
        places = np.stack([shapely.get_x(points), shapely.get_y(points)], axis=1)
    else:
        columns = [batch.column(name).cast("float64").to_numpy(zero_copy_only=False) for name in (lon, lat)]
        places = np.stack(columns, axis=1)
    lonlat = torch.from_numpy(np.ascontiguousarray(places))
    try:
        return check_lonlat(lonlat)
    except CoordinateError as error:
        raise CoordinateError(f"rows from {first_row:,} on: {error}") from None


@torch.inference_mode()
def _encode(encoder: Encoder, lonlat: Float[Tensor, "n 2"], dtype: str) -> NDArray[Any]:
    """Embeddings as a NumPy array of ``dtype``; a module on another device gets its places there."""
    if not isinstance(encoder, nn.Module):
        return encoder(lonlat).cpu().numpy().astype(dtype)
    weight = next(encoder.parameters(), None)
    device = weight.device if weight is not None else next(encoder.buffers(), lonlat).device
    was_training = encoder.training
    encoder.eval()
    try:
        # float64 places where the encoder computes its phases in float64; the network casts to its own dtype
        return encoder(lonlat.to(device)).float().cpu().numpy().astype(dtype)
    finally:
        encoder.train(was_training)


def _with_column(batch: Any, name: str, values: NDArray[Any]) -> Any:
    """An Arrow table of the batch and one fixed-width list column."""
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
    lists = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return table.append_column(name, lists).replace_schema_metadata(None)


def _parts_of(folder: Path, plan: dict[str, Any]) -> int:
    """How many whole parts of this very job lie in ``folder``, which is emptied if they are of another job."""
    record = folder / "plan.json"
    if not record.is_file() or json.loads(record.read_text()) != plan:
        shutil.rmtree(folder, ignore_errors=True)
        atomic_write(record, json.dumps(plan, indent=1) + "\n")
    count = 0
    while (folder / f"{count:06d}.parquet").is_file():
        count += 1
    return count


def _join(parts: list[Path], target: Path) -> None:
    """Write the parts one after the other into one file, which appears when it is complete."""
    import pyarrow.parquet as pq

    with atomic_path(target) as temporary, pq.ParquetWriter(temporary, pq.read_schema(parts[0])) as writer:
        for part in parts:
            file = pq.ParquetFile(part)
            for group in range(file.num_row_groups):
                writer.write_table(file.read_row_group(group))


def _fingerprint(encoder: Encoder) -> str:
    """A hash of what a module is and of all its weights; of its name only for another function."""
    if not isinstance(encoder, nn.Module):
        return getattr(encoder, "__qualname__", type(encoder).__qualname__)
    digest = hashlib.sha256(repr(encoder).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
