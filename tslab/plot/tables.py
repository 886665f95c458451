"""Tables that the reader can sort and filter, in the book, in Jupyter and in Colab, with nothing loaded from
anywhere.

A table is plain, accessible HTML with a few lines of script beside it. Where scripts do not run (a notebook
that is not trusted, a printed page) it is still the whole table.
"""

import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template

import pandas as pd

WHOLE_ROWS = 20
"""Tables of so many rows are shown whole; longer ones scroll."""


@dataclass(frozen=True, repr=False)
class SortableTable:
    """A table for display, as HTML and as text; make one with `sortable_table`."""

    markup: str
    text: str

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return self.text


def sortable_table(
    table: pd.DataFrame,
    *,
    caption: str,
    labels: Mapping[str, str] | None = None,
    formats: Mapping[str, str] | None = None,
    filters: Sequence[str] = (),
    max_height: str = "32rem",
) -> SortableTable:
    """Show a table with sortable columns, a search box (above ten rows) and a menu for each filter column.

    Columns sort by value, not by text, missing values last. The first column holds the row headers.

    Args:
        table: the rows; the index is not shown.
        caption: what the table shows; read by screen readers before the table.
        labels: column -> heading, default the column's name.
        formats: column -> format string such as ``"{:.2f}"``; missing values show as an en dash.
        filters: columns that get a menu of their values.
        max_height: CSS height beyond which a table of more than twenty rows scrolls.

    Raises:
        ValueError: no table, columns of one name, a format that does not fit, or a column named in ``labels``,
            ``formats`` or ``filters`` that is not in the table.
    """
    if not isinstance(table, pd.DataFrame):
        raise ValueError(f"table must be a pandas DataFrame, got {type(table).__name__}")
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"columns must have different names; {twice!r} is twice there")
    if not isinstance(caption, str) or not caption.strip():
        raise ValueError("caption is empty; say in one sentence what the table shows")
    for column in (*(labels or {}), *(formats or {}), *filters):
        if column not in table:
            raise ValueError(f"no column {column!r} in the table; it has {', '.join(map(str, table.columns))}")
    headings = {column: (labels or {}).get(column, str(column)) for column in table.columns}
    shown = {column: _shown(table[column], (formats or {}).get(column, "{}")) for column in table.columns}
    head = "".join(f'<th scope="col"{_kind(table[column])}>{html.escape(headings[column])}</th>' for column in headings)
    cells = [_cells(table[column], shown[column], header=place == 0) for place, column in enumerate(table.columns)]
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in zip(*cells, strict=True))
    height = f"max-height: {html.escape(max_height)}" if len(table) > WHOLE_ROWS else ""
    key = "t" + hashlib.sha256(f"{caption}{head}{body}".encode()).hexdigest()[:12]
    columns = list(table.columns)
    setup = json.dumps({"filters": [columns.index(column) for column in filters]}).replace("</", "<\\/")
    page, style, script = (_part(f"table.{kind}") for kind in ("html", "css", "js"))
    texts = {"caption": html.escape(caption), "head": head, "body": body, "key": key, "setup": setup}
    markup = Template(page).substitute(texts, height=height, style=style, script=script)
    return SortableTable(markup, f"{caption}\n{pd.DataFrame(shown).rename(columns=headings).to_string(index=False)}")


def _part(name: str) -> str:
    return (files("tslab") / "data" / "table" / name).read_text(encoding="utf-8").rstrip("\n")


def _cells(column: pd.Series, shown: Sequence[str], *, header: bool) -> list[str]:
    """The cells of a column; numbers carry their exact value for sorting."""
    tag, kind = ("th", ' scope="row"') if header else ("td", _kind(column))
    exact = (
        ["" if _is_missing(value) else repr(float(value)) for value in column]
        if pd.api.types.is_numeric_dtype(column)
        else []
    )
    sort = [f' data-value="{value}"' for value in exact] or [""] * len(column)
    return [f"<{tag}{kind}{key}>{html.escape(text)}</{tag}>" for key, text in zip(sort, shown, strict=True)]


def _shown(column: pd.Series, form: str) -> list[str]:
    """The text of each cell of a column."""
    try:
        return ["–" if _is_missing(value) else _formatted(value, form) for value in column]
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"the format {form!r} does not fit the values of column {column.name!r}: {error}") from None


def _is_missing(value: object) -> bool:
    """True for None, NaN and their like; a cell that holds a list is not missing."""
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _formatted(value: object, form: str) -> str:
    """A value as text; a number that is rounded to zero has no minus sign."""
    text = form.format(value)
    return form.format(0.0) if isinstance(value, float) and re.fullmatch("-[0.]+[ %]*", text) else text


def _kind(column: pd.Series) -> str:
    """The class attribute of a number's cell."""
    return ' class="number"' if pd.api.types.is_numeric_dtype(column) else ""
