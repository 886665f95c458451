"""Columns of a data frame as tensors: what may stand in one, what a missing entry becomes, and what is refused.

Data frames hold the same thing in many ways: NumPy, nullable and Arrow dtypes, Python objects, categories, dates. Every
reader here takes all of them (and lists and arrays), looks at what the values are, and refuses with a sentence that
names the column, the row and the next step. Nothing is rounded, wrapped or guessed.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

TaskKind = Literal["classification", "regression"]

LARGEST_WHOLE_FLOAT = 2.0**53
"""Up to here every whole number is a float64 of its own."""

KINDS = {
    "text": ("string",),
    "truth values": ("boolean",),
    "whole numbers": ("integer",),
    "numbers": ("floating", "mixed-integer-float", "decimal"),
    "dates": ("date", "datetime", "datetime64"),
    "categories": ("categorical",),
    "nothing": ("empty",),
    "values of several kinds": ("mixed", "mixed-integer"),
}
"""What a sentence calls the values of a column, and what pandas calls them."""


class TaskDataError(ValueError):
    """Data that are not what the task says they are. The message names the input and the next step."""


def kind_of(column: pd.Series) -> str:
    """What the values of a column are: text, truth values, whole numbers, numbers, dates, categories, nothing, …"""
    inferred = pd.api.types.infer_dtype(column, skipna=True)
    if inferred == "unknown-array":  # dictionaries of Arrow, for instance
        inferred = pd.api.types.infer_dtype(column.astype(object), skipna=True)
    return next((what for what, names in KINDS.items() if inferred in names), str(inferred))


def read_numbers(name: str, values: Any, *, missing: bool = True) -> Float[Tensor, " n"]:
    """Numbers as float32, NaN where one is ``missing``, if that may be.

    Raises:
        TaskDataError: text, truth values, dates, a number that float32 cannot hold, or a missing one that may not be.
    """
    column, what, absent = _column(name, values)
    if not missing and absent.any():
        raise _bad_row(name, column, absent, "is missing; drop such rows first")
    if what not in ("whole numbers", "numbers", "nothing"):
        raise _refused(name, column, what, f"numbers; use pd.to_numeric(frame[{name!r}]) if they are some")
    numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    too_large = np.isfinite(numbers) & (np.abs(numbers) > float(np.finfo(np.float32).max))
    if too_large.any():
        raise _bad_row(name, column, too_large, "is too large for a 32-bit number; use a smaller unit")
    return torch.from_numpy(numbers.astype(np.float32))


def read_whole_numbers(name: str, values: Any, *, missing: int | None = -1) -> Int[Tensor, " n"]:
    """Whole numbers as int64; ``missing`` stands where one is missing, None refuses that.

    Truth values are 0 and 1, floating point numbers are taken if they are whole.

    Raises:
        TaskDataError: text, dates, fractions, numbers beyond 64 bits, or a missing one that may not be missing.
    """
    column, what, absent = _column(name, values)
    if missing is None and absent.any():
        raise _bad_row(name, column, absent, "is missing; drop such rows first, or leave the column out")
    filler = missing or 0
    if what in ("whole numbers", "truth values"):  # without a detour over floats
        if isinstance(column.dtype, np.dtype) and column.dtype.kind in "bi":
            return torch.from_numpy(column.to_numpy(np.int64, copy=True))
        exact = [filler if gone else int(value) for value, gone in zip(column.tolist(), absent, strict=True)]
        large = np.array([abs(value) > np.iinfo(np.int64).max for value in exact])
        if large.any():
            raise _bad_row(name, column, large, "does not fit into 64 bits; number them with pd.factorize")
        return torch.tensor(exact, dtype=torch.int64)
    if what not in ("numbers", "nothing"):
        hint = f"; number them with pd.factorize(frame[{name!r}])[0]" if what in ("text", "categories") else ""
        raise _refused(name, column, what, f"whole numbers{hint}")
    numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    with np.errstate(invalid="ignore"):
        bad = ~absent & ~((numbers % 1 == 0) & (np.abs(numbers) <= LARGEST_WHOLE_FLOAT))
    if bad.any():
        raise _bad_row(name, column, bad, "is no whole number that a float holds exactly; read the column as 'Int64'")
    return torch.from_numpy(np.where(absent, filler, np.nan_to_num(numbers)).astype(np.int64))


def read_dates(name: str, values: Any) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"] | None]:
    """Fractions of the year in [0, 1] as float32, NaN where missing, and the calendar years if the column tells them.

    Dates (pandas, Python or ISO 8601 text such as 2020-07-01; with a time zone they are taken in UTC) give
    (date - 1 January) / length of that year. Numbers must be fractions already; they tell no year.

    Raises:
        TaskDataError: anything else, text that is no date, or a number outside [0, 1].
    """
    column, what, absent = _column(name, values)
    if what in ("whole numbers", "numbers", "nothing"):
        fraction = read_numbers(name, column)
        bad = ~absent & ~((fraction >= 0) & (fraction <= 1)).numpy()
        if bad.any():
            raise _bad_row(name, column, bad, "is no fraction of the year in [0, 1]; give dates (pd.to_datetime)")
        return fraction, None
    if what not in ("dates", "text"):
        raise _refused(name, column, what, "dates, or fractions of the year")
    form = "ISO8601" if what == "text" else None
    plain = column if pd.api.types.is_datetime64_dtype(column.dtype) else column.astype(object)
    dates = pd.to_datetime(plain, format=form, utc=True, errors="coerce")
    unread = dates.isna().to_numpy(dtype=bool) & ~absent
    if unread.any():
        raise _bad_row(name, column, unread, "is no date that can be read; write it as 2020-07-01")
    moment = dates.dt.tz_localize(None).to_numpy("datetime64[us]")
    year = moment.astype("datetime64[Y]")
    length = (year + np.timedelta64(1, "Y")).astype("datetime64[us]") - year
    fraction = np.minimum((moment - year) / length, np.nextafter(np.float32(1), np.float32(0)))
    years = np.where(np.isnat(year), -1, year.astype(np.int64) + 1970)
    return torch.from_numpy(fraction.astype(np.float32)), torch.from_numpy(years)


def read_target(
    values: Any, kind: TaskKind | None = None, classes: Sequence[str] | None = None
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels, and the names of their classes where they are text or categories.

    Args:
        values: whole numbers and truth values are classes, other numbers are values (float32). Text becomes classes
            in alphabetical order, categories in theirs.
        kind: says which it is: with ``regression`` whole numbers are values, with ``classification`` floating point
            numbers must be whole.
        classes: names in the order of the class numbers, so that a second table gets the numbers of the first.

    Raises:
        TaskDataError: a missing label, a name that is not among ``classes``, or something that cannot be a label.
    """
    column, what, absent = _column("target", values)
    if absent.any():
        first, count = int(absent.argmax()), int(absent.sum())
        raise TaskDataError(f"target[{first}] is NaN ({count} such rows): drop rows without a label first")
    if what in ("text", "categories"):
        if kind == "regression":
            raise _refused("target", column, what, "numbers, because kind='regression'")
        return read_names("target", column, classes)
    if kind == "regression" or (kind is None and classes is None and what == "numbers"):
        return read_numbers("target", column.astype(int) if what == "truth values" else column), ()
    names = tuple(map(str, classes or ()))
    target = read_whole_numbers("target", column, missing=None)
    if names and len(target) and int(target.max()) >= len(names):
        row = int(target.argmax())
        raise TaskDataError(f"target[{row}] is class {int(target[row])}, but there are {len(names)} classes")
    return target, names


def read_names(name: str, values: Any, names: Sequence[str] | None = None) -> tuple[Int[Tensor, " n"], tuple[str, ...]]:
    """Text or categories as numbers (-1 where missing) and the names that they stand for.

    Text is numbered in alphabetical order, categories in theirs, both in the order of ``names`` where they are given.

    Raises:
        TaskDataError: a name that is not among ``names``; labels that are all the same name, which is a part of a
            larger set whose ``names`` must be given.
    """
    column, what, _ = _column(name, values)
    if what == "categories":
        codes, found = column.cat.codes.to_numpy(np.int64), [str(c) for c in column.cat.categories]
    else:
        codes, uniques = pd.factorize(column.astype(object), sort=True)
        found = [str(value) for value in uniques]
        if names is None and name == "target" and len(found) == 1:
            hint = "name all classes, Table.from_pandas(frame, classes=[...])"
            raise TaskDataError(f"column target holds one name only ({found[0]!r} in every row); {hint}")
    if names is None:
        return torch.from_numpy(codes.astype(np.int64)), tuple(found)
    known = {str(known): number for number, known in enumerate(names)}
    if isinstance(names, str) or len(known) != len(names):
        raise TaskDataError(f"names of column {name} must be a list in which each stands once, got {names!r}")
    place = np.array([*(known.get(value, -2) for value in found), -1], dtype=np.int64)
    number = place[codes]
    if (number == -2).any():
        listed = ", ".join(list(known)[:8]) + (" …" if len(known) > 8 else "")
        raise _bad_row(name, column, number == -2, f"is not among the {len(known)} names ({listed})")
    return torch.from_numpy(number), tuple(known)


def read_rows(name: str, rows: Any, n: int) -> Int[Tensor, " m"]:
    """Rows of a table of ``n`` rows, given as a mask or as numbers, as numbers.

    Raises:
        TaskDataError: a mask of another length or with gaps, numbers that are no whole ones; a mask of zeros and ones.
    """
    if not isinstance(rows, Tensor):
        listed = np.asarray(rows)
        if listed.size and listed.dtype.kind not in "biu":
            raise TaskDataError(f"{name} must be a mask without gaps or whole numbers, got {listed.dtype}")
        rows = torch.tensor(listed, dtype=torch.bool if listed.dtype == bool else torch.int64)
    if rows.ndim != 1 or rows.is_floating_point() or rows.dtype == torch.uint8:
        got = f"{rows.dtype} of shape {tuple(rows.shape)}"
        raise TaskDataError(f"{name} must be a mask (.bool()) or row numbers (.long()), shape (n,); got {got}")
    if rows.dtype == torch.bool:
        if len(rows) != n:
            raise TaskDataError(f"{name} has {len(rows)} entries, there are {n} rows")
        return rows.nonzero()[:, 0]
    if len(rows) == n > 2 and 0 <= int(rows.min()) <= int(rows.max()) < 2:
        raise TaskDataError(f"{name} holds 0 and 1 only, once for each row: make a mask of it with .bool()")
    return rows


def read_columns(given: dict[str, Any]) -> dict[str, Any]:
    """Columns of a table that were not given as the tensors they should be, as tensors; names of classes and groups.

    ``given`` has all fields of `tslab.tasks.table.Table`; the image input is not looked at.
    """
    changed: dict[str, Any] = {"classes": given["classes"], "groups": given["groups"]}
    lonlat, target, date = given["lonlat"], given["target"], given["date"]
    if isinstance(lonlat, pd.DataFrame):
        named = ["lon", "lat"] if {"lon", "lat"} <= set(lonlat) else list(lonlat)
        changed["lonlat"] = torch.stack([read_numbers(str(n), lonlat[n]) for n in named], -1)
    elif isinstance(lonlat, np.ndarray | list | tuple):
        changed["lonlat"] = torch.from_numpy(np.array(lonlat, dtype=np.float32))
    if not isinstance(target, Tensor):
        changed["target"], names = read_target(target, classes=given["classes"] or None)
        changed["classes"] = names or given["classes"]
    elif not target.is_floating_point():
        changed["target"] = target.long()
    if date is not None and not isinstance(date, Tensor):
        changed["date"], year = read_dates("date", date)
        if given["year"] is None:
            changed["year"] = year
    for name in ("user", "id", "group", "year", "block"):
        column = given[name]
        if column is None or (isinstance(column, Tensor) and not column.is_floating_point()):
            continue
        values = column.detach().cpu().numpy() if isinstance(column, Tensor) else column
        if name == "group" and _column(name, values)[1] in ("text", "categories"):
            numbers, changed["groups"] = read_names(name, values, given["groups"] or None)
        else:
            numbers = read_whole_numbers(name, values, missing=None if name == "id" else -1)
        changed[name] = numbers.to(column.device) if isinstance(column, Tensor) else numbers
    return changed | {names: tuple(map(str, changed[names])) for names in ("classes", "groups")}


def _column(name: str, values: Any) -> tuple[pd.Series, str, NDArray[np.bool_]]:
    """Any column as a Series whose rows are counted from 0, what its values are, and which are missing."""
    if isinstance(values, pd.DataFrame):
        raise TaskDataError(f"there are {values.shape[1]} columns {name!r}; rename or drop all but one")
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise TaskDataError(f"{name} must have shape (n,), got {values.shape}")
    column = pd.Series(values).reset_index(drop=True)
    return column, kind_of(column), column.isna().to_numpy(dtype=bool)


def _refused(name: str, column: pd.Series, what: str, wanted: str) -> TaskDataError:
    text = column.map(lambda value: isinstance(value, str)).to_numpy(dtype=bool)
    row = int((text if text.any() else column.notna().to_numpy(dtype=bool)).argmax())
    shown = f" ({_plain(column.iloc[row])!r} in row {row})" if len(column) else ""
    return TaskDataError(f"column {name} holds {what}{shown}, expected {wanted}")


def _bad_row(name: str, column: pd.Series, bad: NDArray[np.bool_], why: str) -> TaskDataError:
    row, count = int(np.argmax(bad)), int(np.sum(bad))
    others = f" (and {count - 1:,} more rows)" if count > 1 else ""
    return TaskDataError(f"column {name}, row {row}: {_plain(column.iloc[row])!r}{others} {why}")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
