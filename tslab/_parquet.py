"""What stands below `tslab.streaming`: a Parquet file or folder read piece by piece in the order of its rows, the parts
that a job writes until its result is whole, and which encoder it is that a stopped job goes on with.

The identity of an encoder is a hash of everything that decides what it computes: the weights, all buffers, the
attributes of every module (scales, options) and the source of its methods. What cannot be read in this way has none: a
lambda, a closure, an object in an attribute, a hook.
"""

import hashlib
import inspect
import json
import os
import re
import shutil
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tslab._checks import require
from tslab._files import DamagedFileError, atomic_path, atomic_write, read_json
from tslab._geometry import geo_metadata
from tslab.encoders.storage import unwrap

PLAN, LOCK = "plan.json", "lock"


@dataclass(frozen=True)
class ParquetSource:
    """A table in one Parquet file, or in the files of a folder, by their names with numbers in their order; folders
    called ``name=value`` give a column more.

    Attributes:
        path: of the file or folder.
        files: the files, each with the values of its folders.
        schema: Arrow schema of the whole table, which is that of its first file.
        unread: columns that only later files have.
        rows: their number.
    """

    path: Path
    files: tuple[tuple[Path, dict[str, Any]], ...]
    schema: Any
    unread: tuple[str, ...]
    rows: int

    @classmethod
    def open(cls, path: Path) -> "ParquetSource":
        """Look at the footers.

        Raises:
            FileNotFoundError: no such file, or a folder without any.
            DamagedFileError: a file that is no Parquet file; names it.
            ValueError: geometries in two coordinate systems.
        """
        files: list[tuple[Path, dict[str, Any]]] = [(path, {})]
        if path.is_dir():
            dataset = require("pyarrow.dataset", "geo")
            table = _readable(path, dataset.dataset, path, format="parquet", partitioning="hive")
            files = [
                (Path(piece.path), dataset.get_partition_keys(piece.partition_expression))
                for piece in table.get_fragments()
            ]
            files.sort(key=lambda file: _in_order(file[0]))
        if not files or not files[0][0].is_file():
            raise FileNotFoundError(f"no Parquet file at {path}")
        opened = [_open(file) for file, _ in files]
        schema = opened[0].schema_arrow
        if any(_systems(file.schema_arrow) != _systems(schema) for file in opened):
            raise ValueError(f"the files in {path} have different coordinate systems; encode them one by one")
        for name in files[0][1]:
            if name not in schema.names:
                schema = schema.append(table.schema.field(name))
        unread = sorted({name for file in opened for name in file.schema_arrow.names} - set(schema.names))
        return cls(path, tuple(files), schema, tuple(unread), sum(file.metadata.num_rows for file in opened))

    def state(self) -> list[list[Any]]:
        """Name, size and time of every file: what changes with the table."""
        stats = [(file, file.stat()) for file, _ in self.files]
        return [[str(file.resolve()), stat.st_size, stat.st_mtime_ns] for file, stat in stats]

    def pieces(self, columns: list[str], batch_rows: int, part_rows: int, start: int) -> Iterator[tuple[int, Any]]:
        """(first row, Arrow table) from row ``start`` on, where a part begins, in order; no piece is longer than
        ``batch_rows`` or reaches over the end of a part. A table without rows gives one piece without rows."""
        if self.rows == 0:
            yield 0, self.schema.empty_table().select(columns)
        row = 0
        for path, values in self.files:
            file = _open(path)
            groups = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
            first = 0
            while first < len(groups) and row + groups[first] <= start:
                row, first = row + groups[first], first + 1
            if first == len(groups):  # nothing left; older pyarrow cannot iterate over no row group
                continue
            stored = [name for name in columns if name in file.schema_arrow.names]
            batches = file.iter_batches(batch_rows, row_groups=[*range(first, len(groups))], columns=stored)
            while (batch := _readable(path, next, batches, None)) is not None:
                table = self._as_table(batch, columns, values, path)
                while len(table):
                    piece = table.slice(0, part_rows - row % part_rows)
                    if row >= start:
                        yield row, piece
                    row, table = row + len(piece), table.slice(len(piece))

    def _as_table(self, batch: Any, columns: list[str], values: dict[str, Any], path: Path) -> Any:
        """The batch with the values of its folders, in the types of the whole table."""
        pa = require("pyarrow", "geo")
        table = pa.Table.from_batches([batch])
        for name, value in values.items():
            if name not in table.column_names:
                field = self.schema.field(name)
                table = table.append_column(field, pa.repeat(pa.scalar(value, field.type), len(table)))
        try:
            wanted = pa.schema([self.schema.field(name) for name in columns], metadata=self.schema.metadata)
            return table.select(columns).cast(wanted)
        except (KeyError, ValueError, pa.ArrowException) as error:
            raise ValueError(f"{path} does not have the columns of the other files in {self.path}: {error}") from error


class Parts:
    """The folder of a job that is under way: its plan, and one Parquet file for each stretch of ``part_rows`` rows."""

    def __init__(self, folder: Path, rows: int, part_rows: int) -> None:
        self.folder, self.rows, self.part_rows = folder, rows, part_rows
        self.count = max(1, -(-rows // part_rows))

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.parquet"

    def resume(self, plan: dict[str, Any]) -> int:
        """How many parts from the first on are whole and of this very job; everything else is removed."""
        record = self.folder / PLAN
        try:
            same = record.is_file() and read_json(record, remedy="") == plan
        except DamagedFileError:
            same = False
        whole = 0
        while same and whole < self.count and self._is_whole(whole):
            whole += 1
        keep = {PLAN, LOCK, *(self.path(number).name for number in range(whole))}
        for path in self.folder.iterdir():
            if path.name not in keep:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not same:
            atomic_write(record, json.dumps(plan, indent=1) + "\n")
        return whole

    def write(self, number: int, tables: Iterator[Any]) -> None:
        """Write a part, of one Arrow table at least; it is there when the last is written."""
        pq = require("pyarrow.parquet", "geo")
        first = next(tables)
        with (
            atomic_path(self.path(number)) as temporary,
            pq.ParquetWriter(temporary, first.schema, write_page_checksum=True) as writer,
        ):
            for table in chain([first], tables):
                writer.write_table(table)

    def join(self, target: Path) -> Any:
        """Write all parts one after the other into ``target``, which appears when it is complete; return its schema.

        Raises:
            DamagedFileError: a part was changed since it was written; the next run computes it anew.
        """
        pq = require("pyarrow.parquet", "geo")
        schema = pq.read_schema(self.path(0))
        with atomic_path(self.folder / "joined.parquet") as temporary:
            with pq.ParquetWriter(temporary, schema) as writer:
                for number in range(self.count):
                    for table in self._groups(number):
                        if table.schema != schema:
                            later = f"{table.schema.types[-1]} from row {number * self.part_rows:,} on"
                            raise ValueError(f"the encoder gives {schema.types[-1]} and {later}; its width must stay")
                        writer.write_table(table)
            written = pq.read_metadata(temporary).num_rows
            if written != self.rows:
                hint = "delete it and run the same call again"
                raise DamagedFileError(f"{self.folder} holds {written:,} rows for {self.rows:,}; {hint}")
        os.replace(self.folder / "joined.parquet", target)
        return schema

    def _groups(self, number: int) -> Iterator[Any]:
        pa, pq = require("pyarrow", "geo"), require("pyarrow.parquet", "geo")
        path = self.path(number)
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group)
        except (OSError, pa.ArrowException) as error:
            raise DamagedFileError(f"{path} is damaged ({error}); run the same call again") from error

    def _is_whole(self, number: int) -> bool:
        wanted = min(self.part_rows, self.rows - number * self.part_rows)
        try:
            return sum(len(table) for table in self._groups(number)) == wanted
        except DamagedFileError:
            return False


def _open(path: Path) -> Any:
    return _readable(path, require("pyarrow.parquet", "geo").ParquetFile, path)


def _readable(path: Path, read: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What ``read(*args, **options)`` gives; an error names the file."""
    try:
        return read(*args, **options)
    except FileNotFoundError:
        raise FileNotFoundError(f"no Parquet file at {path}") from None
    except (OSError, require("pyarrow", "geo").ArrowException) as error:
        raise DamagedFileError(f"{path} is no Parquet file, or a damaged one ({error}); write it again") from error


def _systems(schema: Any) -> dict[str, Any]:
    """The coordinate system of every geometry column."""
    return {name: about.get("crs", "") for name, about in geo_metadata(schema).get("columns", {}).items()}


def _in_order(path: Path) -> list[tuple[int, str]]:
    """Sorts ``part.2`` before ``part.10``."""
    return [(int(text), "") if text.isdigit() else (-1, text) for text in re.split(r"(\d+)", str(path))]


BOOKKEEPING = {*vars(nn.Module()), "_is_torch_compile", "_compiled_call_impl"}
"""Attributes that every module has, or that a compiler adds; weights, buffers and submodules are read in their own
way."""

PLAIN = bool | int | float | complex | str | bytes | np.generic | torch.dtype | torch.device
"""What its own text says all about."""


class NoIdentityError(ValueError):
    """Something whose behaviour cannot be told from outside."""


def identity_of(encoder: Callable[..., Any]) -> str | None:
    """A hash of a module, or of a method of one; None for a function without identity."""
    digest, owner = hashlib.sha256(), owner_of(encoder)
    if owner is None:
        return None
    try:
        _add(digest, ("" if owner is encoder else getattr(encoder, "__name__", ""), owner))
    except (NoIdentityError, RecursionError):
        return None
    return digest.hexdigest()


def owner_of(encoder: Callable[..., Any]) -> nn.Module | None:
    """The module that computes: the encoder itself, or the one that it is a method of."""
    owner = encoder if isinstance(encoder, nn.Module) else getattr(encoder, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def _add(digest: Any, value: Any) -> None:
    """Put a value with all its parts into the hash."""
    if isinstance(value, nn.Module):
        value = unwrap(value)
    digest.update(f"{type(value).__name__}(".encode())
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, types.FunctionType) and value.__closure__ is None and "<" not in value.__qualname__:
        digest.update(f"{value.__module__}.{value.__qualname__}{_source(value)}".encode())
    elif isinstance(value, type | types.BuiltinFunctionType):
        digest.update(f"{value.__module__}.{value.__qualname__}".encode())
    elif value is None or isinstance(value, PLAIN):
        digest.update(repr(value).encode())
    else:
        for part in _parts_of(digest, value):
            _add(digest, part)
    digest.update(b")")


def _parts_of(digest: Any, value: Any) -> Iterable[Any]:
    if isinstance(value, nn.Module):
        if value._forward_hooks or value._forward_pre_hooks:
            raise NoIdentityError("a hook")
        _add_class(digest, type(value))
        own = {name: part for name, part in vars(value).items() if name not in BOOKKEEPING}
        return [value._parameters, value._buffers, own, value._modules]
    if is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, list | tuple):
        return value
    raise NoIdentityError(type(value).__name__)


def _add_class(digest: Any, kind: type) -> None:
    """Name and source of a class and of those that it inherits from, as far as they are not torch's."""
    for ancestor in kind.__mro__:
        name = f"{ancestor.__module__}.{ancestor.__qualname__}"
        digest.update(name.encode())
        if ancestor.__module__.split(".")[0] not in ("torch", "builtins"):
            for member, value in sorted(vars(ancestor).items()):
                value = getattr(value, "__wrapped__", getattr(value, "fget", value))
                if isinstance(value, types.FunctionType):
                    digest.update(f"{member}{_source(value)}".encode())


def _source(function: types.FunctionType) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        raise NoIdentityError(f"{function.__qualname__}, whose source is not at hand") from None
