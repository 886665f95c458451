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
from importlib.resources import files

import pandas as pd

from tslab._checks import check_count

WHOLE_ROWS = 20
"""Tables of so many rows are shown whole; longer ones scroll."""

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class SortableTable:
    """A table for display; make one with `sortable_table`."""

    def __init__(self, markup: str, text: str) -> None:
        self._markup = markup
        self._text = text

    def _repr_html_(self) -> str:
        return self._markup

    def __repr__(self) -> str:
        return self._text


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
    numeric = {column: pd.api.types.is_numeric_dtype(table[column]) for column in table.columns}
    shown = {column: _shown(table[column], (formats or {}).get(column, "{}")) for column in table.columns}
    head = "".join(
        f'<th scope="col"{_kind(numeric[column])}>{html.escape(label)}</th>' for column, label in headings.items()
    )
    body = "\n".join(_row(table, shown, numeric, position) for position in range(len(table)))
    height = f"max-height: {html.escape(max_height)}" if len(table) > WHOLE_ROWS else ""
    key = "t" + hashlib.sha256(f"{caption}{head}{body}".encode()).hexdigest()[:12]
    columns = list(table.columns)
    setup = json.dumps({"filters": [columns.index(column) for column in filters]}).replace("</", "<\\/")
    folder = files("tslab") / "data" / "table"
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("table.css", "table.js"))
    markup = f"""<div class="tslab-table" data-table="{key}">
<style>{style}</style>
<div class="tslab-table-controls" hidden></div>
<div class="tslab-table-scroll" style="{height}" tabindex="0" role="region" \
aria-label="{html.escape(caption)}">
<table>
<caption>{html.escape(caption)}</caption>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</div>
<script>(function (key, setup) {{
{script}
}})("{key}", {setup});</script>
</div>"""
    return SortableTable(markup, f"{caption}\n{pd.DataFrame(shown).rename(columns=headings).to_string(index=False)}")


def readable(value: float, digits: int = 2) -> str:
    """A number for running text: very small and very large ones as 3 × 10⁻⁵ instead of 3e-05.

    Args:
        value: any number.
        digits: how many digits count; zeros at the end are left out.
    """
    check_count("digits", digits)
    text = f"{value:.{digits}g}"
    if "e" not in text:
        return text
    factor, exponent = text.split("e")
    return f"{factor}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}10{str(int(exponent)).translate(_RAISED)}"


def _row(table: pd.DataFrame, shown: Mapping[str, list[str]], numeric: Mapping[str, bool], position: int) -> str:
    """One body row; numbers carry their exact value for sorting."""
    cells = []
    for place, column in enumerate(table.columns):
        value, text = table[column].iloc[position], html.escape(shown[column][position])
        exact = "" if not numeric[column] or _is_missing(value) else repr(float(value))
        sort = f' data-value="{exact}"' if numeric[column] else ""
        tag = 'th scope="row"' if place == 0 else f"td{_kind(numeric[column])}"
        cells.append(f"<{tag}{sort}>{text}</{tag.split()[0]}>")
    return f"<tr>{''.join(cells)}</tr>"


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


def _kind(numeric: bool) -> str:
    """The class attribute of a number's cell."""
    return ' class="number"' if numeric else ""
