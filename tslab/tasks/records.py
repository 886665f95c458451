"""Records in JSON and CSV files that others made: read strictly, joined by their ids, and made into tables.

Every reader names the file, what was expected and what was found. No row is dropped and nothing is filled in to make
things fit.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from tslab._files import read_csv as read_exact_csv
from tslab.coords import CoordinateError
from tslab.tasks.columns import TaskDataError
from tslab.tasks.images import ImageInput
from tslab.tasks.table import Table


def read_json(path: Path, keep: Iterable[str] | None = None) -> Any:
    """A JSON file; of every object only the keys in ``keep`` (all if None), which saves most of the memory.

    Raises:
        TaskDataError: truncated or no JSON.
    """
    hook = None
    if keep is not None:
        wanted = frozenset(keep)

        def hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            return {key: value for key, value in pairs if key in wanted}

    try:
        with path.open("rb") as stream:
            return json.load(stream, object_pairs_hook=hook)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TaskDataError(f"{path} is truncated or not JSON ({error}); download it again") from error


def read_entries(path: Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """A JSON list of objects, reduced to ``keys``; the first of them must be there."""
    entries = read_json(path, keep=keys)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and keys[0] in entry for entry in entries):
        raise TaskDataError(f"{path}: expected a list of objects with {', '.join(keys)}, found something else")
    return entries


def read_csv(path: Path, columns: list[str], numeric: Iterable[str] = ()) -> pd.DataFrame:
    """A CSV that must have ``columns``, of which ``numeric`` must be numbers; all columns are read.

    Raises:
        TaskDataError: truncated, missing columns, text in place of numbers.
    """
    try:
        rows = read_exact_csv(path, low_memory=False)
    except (ValueError, UnicodeDecodeError) as error:
        raise TaskDataError(f"{path} is not a readable CSV ({error}); download it again") from error
    if len(rows) and pd.isna(rows.iloc[-1, -1]) and not _ends_with_newline(path):
        raise TaskDataError(f"{path} is truncated: it ends in the middle of row {len(rows) - 1}; download it again")
    missing = [name for name in columns if name not in rows]
    if missing:
        raise TaskDataError(
            f"{path}: expected columns {', '.join(columns)}; {', '.join(missing)} missing, found "
            f"{', '.join(map(str, rows.columns))}"
        )
    expect_numbers(path, rows, numeric)
    return rows


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - 1))
        return stream.read(1) in (b"\n", b"\r")


def make_table(path: Path, lon: Any, lat: Any, target: NDArray[Any], image: ImageInput = None, **columns: Any) -> Table:
    """A table from columns as they were read; None becomes NaN, a place with one coordinate missing is missing.

    Raises:
        TaskDataError, tslab.CoordinateError: values that cannot be; names ``path``.
    """
    with errors_name(path):
        lonlat = np.stack([floats(lon), floats(lat)], axis=1)
        lonlat[np.isnan(lonlat).any(axis=1)] = np.nan
        made: dict[str, Any] = {}
        for name, values in columns.items():
            if name == "date":
                made[name] = torch.from_numpy(floats(values).astype(np.float32))
            else:
                made[name] = torch.from_numpy(np.array(users(values) if name == "user" else values, np.int64))
        return Table(
            torch.from_numpy(lonlat.astype(np.float32)), torch.from_numpy(np.array(target)), image=image, **made
        )


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Put ``path`` in front of what `Table` says of columns that came from there."""
    try:
        yield
    except (CoordinateError, TaskDataError) as error:
        raise type(error)(f"{path}: {error}") from error


def floats(values: Any) -> NDArray[np.float64]:
    """Numbers with None for missing, as float64 with NaN."""
    if isinstance(values, np.ndarray):
        return values.astype(np.float64)
    try:
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise TaskDataError(f"a coordinate or date is no number ({error}); download the file again") from error


def users(values: Any) -> NDArray[np.int64]:
    """User numbers with -1 for missing."""
    if isinstance(values, np.ndarray):
        return values.astype(np.int64)
    try:
        return np.array([-1 if value is None or value != value else int(value) for value in values], dtype=np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise TaskDataError(f"a user is no number ({error}); download the file again") from error


def whole_numbers(path: Path, entries: list[dict[str, Any]], key: str) -> NDArray[np.int64]:
    """One whole number of each entry, for instance its id."""
    try:
        return np.array([int(entry[key]) for entry in entries], dtype=np.int64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise TaskDataError(f"{path}: an entry has no whole number {key!r} ({error!r})") from error


def whole_column(path: Path, column: pd.Series) -> NDArray[np.int64]:
    """A column of a CSV that must hold whole numbers in every row."""
    if column.isna().any() or (column % 1 != 0).any():
        raise TaskDataError(
            f"{path}: column {column.name} must hold whole numbers in every row (one is missing or has a fraction)"
        )
    return column.to_numpy(np.int64)


def join(
    wanted: NDArray[np.int64], found: NDArray[np.int64], what: str, where: Path, other: str, source: Path
) -> NDArray[np.int64]:
    """Position in ``found`` of each id in ``wanted``; every id must be there exactly once."""
    order = np.argsort(found, kind="stable")
    sorted_ids = found[order]
    if len(sorted_ids) > 1 and (sorted_ids[1:] == sorted_ids[:-1]).any():
        twice = int(sorted_ids[1:][sorted_ids[1:] == sorted_ids[:-1]][0])
        raise TaskDataError(f"{source}: id {twice} occurs more than once among the {other}")
    at = np.searchsorted(sorted_ids, wanted)
    missing = at >= len(sorted_ids)
    missing[~missing] = sorted_ids[at[~missing]] != wanted[~missing]
    if missing.any():
        first = int(wanted[np.argmax(missing)])
        raise TaskDataError(
            f"{int(missing.sum()):,} of {len(wanted):,} {what} in {where.name} have no entry among the {other} of "
            f"{source.name} (the first is id {first}): the files do not belong together"
        )
    return order[at]


def class_names(path: Path, numbered: Iterable[tuple[Any, Any]]) -> tuple[str, ...]:
    """Class names ordered by number, which must run from 0 without gaps."""
    try:
        names = {int(number): str(name) for number, name in numbered}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise TaskDataError(
            f"{path}: a class has no name, or no whole number ({error!r}); download it again"
        ) from error
    if sorted(names) != list(range(len(names))):
        raise TaskDataError(
            f"{path}: class numbers must be 0 to {len(names) - 1}, "
            f"found {min(names, default=0)} to {max(names, default=0)}"
        )
    return tuple(names[number] for number in range(len(names)))


def expect_keys(path: Path, whole: Any, keys: Iterable[str]) -> None:
    """Raise `TaskDataError` unless a JSON file holds an object with these keys."""
    if not isinstance(whole, dict) or any(key not in whole for key in keys):
        found = sorted(whole) if isinstance(whole, dict) else type(whole).__name__
        raise TaskDataError(f"{path}: expected an object with {', '.join(keys)}, found {found}")


def expect_numbers(path: Path, rows: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raise `TaskDataError` if one of these columns holds text."""
    text = [name for name in columns if not pd.api.types.is_numeric_dtype(rows[name])]
    if text:
        raise TaskDataError(f"{path}: column {', '.join(text)} holds text where numbers belong; download it again")
