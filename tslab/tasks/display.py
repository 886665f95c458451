"""How a task looks when you print it, and in a notebook: counts, a small map, a histogram of the labels.

Everything is inline SVG of a few kilobytes that follows the colour of the text, so it reads in light and dark themes.
"""

import html
from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tslab.earth import grid_cells, land_lines
from tslab.tasks.meta import TaskMeta
from tslab.tasks.table import Table

CELL_DEGREES = 5
MAP_WIDTH, MAP_HEIGHT = 360, 180
BARS = 40
MARK = "#4a8bc9"
SHADES = 4


def task_text(name: str, meta: TaskMeta, tables: Mapping[str, Table]) -> str:
    """The task in a few lines of text."""
    what = f"{meta.num_classes} classes" if meta.kind == "classification" else meta.label_name
    origin = ("" if "synthetic" in what else "synthetic") if meta.synthetic else meta.source
    settings = [f"scale {meta.scale}" if meta.scale else "", f"seed {meta.seed}" if meta.seed is not None else ""]
    head = ", ".join(filter(None, [f"{meta.kind}, {what}", origin, *settings]))
    lines = [f"Task {name!r} ({head})"]
    for split, table in tables.items():
        missing = int((~table.has_location).sum())
        where = f" (the source's {meta.eval_split!r})" if split == "test" and meta.eval_split != "test" else ""
        lines.append(f"  {split:5} {len(table):>9,} rows, {missing:,} without location{where}")
    lines.append(f"  label {_label(meta)}")
    lines.append(f"  image {_image(meta, tables)}")
    if meta.ceiling:
        lines.append("  known " + ", ".join(f"{what} {value:.3f}" for what, value in meta.ceiling.items()))
    return "\n".join(lines)


def task_html(name: str, meta: TaskMeta, tables: Mapping[str, Table]) -> str:
    """The task as HTML for notebooks: counts, map thumbnail and label histogram, with text alternatives."""
    train = tables["train"]
    origin = "synthetic data" if meta.synthetic else f"source: {meta.source}"
    rows = "".join(
        f"<tr><th scope='row' style='text-align:left'>{split}</th><td>{len(table):,}</td>"
        f"<td>{int((~table.has_location).sum()):,}</td></tr>"
        for split, table in tables.items()
    )
    facts = [f"label: {_label(meta)}", f"image: {_image(meta, tables)}", f"licence: {meta.licence or 'not stated'}"]
    if meta.ceiling:
        facts.append("known: " + ", ".join(f"{what} {value:.3f}" for what, value in meta.ceiling.items()))
    listed = "".join(f"<div>{html.escape(fact)}</div>" for fact in facts)
    return (
        "<div class='tslab-task' style='display:flex;flex-wrap:wrap;gap:1.5em;align-items:flex-start'>"
        f"<div><strong>{html.escape(name)}</strong> ({html.escape(meta.kind)}, {html.escape(origin)})"
        "<table style='color:inherit;border-spacing:.6em 0;text-align:right'>"
        "<thead><tr><th scope='col'>table</th><th scope='col'>rows</th>"
        f"<th scope='col'>without location</th></tr></thead><tbody>{rows}</tbody></table>"
        f"<div style='font-size:.85em;max-width:26em'>{listed}</div></div>"
        f"<div>{map_svg(train, f'where the {len(train):,} training rows lie')}</div>"
        f"<div>{_histogram_svg(meta, train)}</div></div>"
    )


def map_svg(table: Table, description: str) -> str:
    """A small world map (equirectangular) of the number of rows per cell, darker for more, as inline SVG."""
    cells = grid_cells(table.lonlat[table.has_location].cpu(), CELL_DEGREES).numpy()
    columns, rows = 360 // CELL_DEGREES, 180 // CELL_DEGREES
    counts = np.bincount(cells, minlength=columns * rows).reshape(rows, columns).T
    alt = f"World map, {description}"
    side = CELL_DEGREES * MAP_WIDTH // 360
    shade = np.ceil(SHADES * np.log1p(counts) / max(float(np.log1p(counts.max())), 1e-9))
    squares = "".join(
        f"<path opacity='{level / SHADES:g}' d='"
        + "".join(
            f"M{i * side} {MAP_HEIGHT - (j + 1) * side}h{side}v{side}h-{side}z" for i, j in np.argwhere(shade == level)
        )
        + "'/>"
        for level in range(1, SHADES + 1)
    )
    return (
        f"<svg role='img' aria-label='{html.escape(alt, quote=True)}' width='{MAP_WIDTH}' height='{MAP_HEIGHT}' "
        f"viewBox='0 0 {MAP_WIDTH} {MAP_HEIGHT}'><title>{html.escape(alt)}</title>"
        f"<g fill='{MARK}'>{squares}</g>"
        f"<path d='{_coast_path()}' fill='none' stroke='currentColor' stroke-width='.5' opacity='.6'/></svg>"
    )


def _histogram_svg(meta: TaskMeta, table: Table) -> str:
    """Rows per class (sorted) or rows per value, as inline SVG."""
    target = table.target.cpu().numpy()
    if meta.kind == "classification":
        counts = np.sort(np.bincount(target, minlength=meta.num_classes))[::-1]
        heights = np.array([part.mean() for part in np.array_split(counts, min(BARS, max(len(counts), 1)))])
        caption = f"rows per class, {meta.num_classes} classes from common to rare"
    else:
        heights, edges = np.histogram(target, bins=BARS)
        caption = f"{meta.label_name}, from {_number(edges[0])} to {_number(edges[-1])}"
    top = max(float(np.max(heights, initial=0)), 1e-9)
    width = 200 / max(len(heights), 1)
    bars = "".join(
        f"<rect x='{i * width:.2f}' y='{120 - 120 * h / top:.1f}' width='{0.85 * width:.2f}' "
        f"height='{120 * h / top:.1f}'/>"
        for i, h in enumerate(heights)
    )
    label = html.escape(caption)
    return (
        f"<svg role='img' aria-label='Histogram: {html.escape(caption, quote=True)}' width='200' height='120' "
        f"viewBox='0 0 200 120'><title>Histogram: {label}</title><g fill='{MARK}'>{bars}</g></svg>"
        f"<div style='font-size:.85em;max-width:200px'>{label}</div>"
    )


@cache
def _coast_path() -> str:
    """The coastline as an SVG path on the thumbnail's pixels, thinned to whole pixels."""
    lines = land_lines()
    x = np.round((lines[:, 0] + 180) * MAP_WIDTH / 360, 0)
    y = np.round((90 - lines[:, 1]) * MAP_HEIGHT / 180, 0)
    return "".join(_polyline(np.stack([x[part], y[part]], 1)) for part in _parts(lines))


def _parts(lines: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Row numbers of each run between NaN rows."""
    gaps = np.flatnonzero(np.isnan(lines[:, 0]))
    runs = np.split(np.arange(len(lines)), gaps)
    return [run[~np.isnan(lines[run, 0])] for run in runs]


def _polyline(points: NDArray[np.float64]) -> str:
    """One run as relative whole-pixel steps; islands smaller than a few pixels are left out."""
    if len(points) == 0:
        return ""
    kept = points[np.r_[True, np.any(np.diff(points, axis=0) != 0, axis=1)]].astype(int)
    if len(kept) < 4:
        return ""
    steps = "".join(f"{x} {y} " for x, y in np.diff(kept, axis=0))
    return f"M{kept[0, 0]} {kept[0, 1]}l{steps}".replace(" -", "-").rstrip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _label(meta: TaskMeta) -> str:
    unit = f", {meta.label_unit}" if meta.label_unit else ""
    transform = f", {meta.label_transform}" if meta.label_transform not in ("", "none") else ""
    return f"{meta.label_name}{unit}{transform}"


def _image(meta: TaskMeta, tables: Mapping[str, Table]) -> str:
    if meta.image_kind == "none" or all(table.image is None for table in tables.values()):
        return "none"
    width = next(t.image.shape[1] for t in tables.values() if t.image is not None)
    kinds = {"probs": "class probabilities", "feats": "features", "scalar": "one number"}
    model = f" from {meta.image_model}" if meta.image_model else ""
    return f"{kinds[meta.image_kind]} ({width:,} wide){model}"
