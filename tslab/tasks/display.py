"""How a task looks when you print it, and in a notebook: counts, a small map, a histogram of the labels.

Everything is inline SVG of a few kilobytes that follows the colour of the text, so it reads in light and dark themes.
"""

import html
from collections.abc import Mapping
from functools import cache

import numpy as np

from tslab.earth import grid_cells, land_lines
from tslab.tasks.meta import TaskMeta
from tslab.tasks.table import Table

CELL_DEGREES = 5
SHADES = 4
BARS = 40
MARK = "#4a8bc9"
IMAGE_KINDS = {"probs": "class probabilities", "feats": "features", "scalar": "one number"}


def task_text(name: str, meta: TaskMeta, tables: Mapping[str, Table]) -> str:
    """The task in a few lines of text."""
    what = f"{meta.num_classes} classes" if meta.kind == "classification" else meta.label_name
    origin = ("" if "synthetic" in what else "synthetic") if meta.synthetic else meta.source
    settings = [f"scale {meta.scale}" if meta.scale else "", f"seed {meta.seed}" if meta.seed is not None else ""]
    lines = [f"Task {name!r} ({', '.join(filter(None, [f'{meta.kind}, {what}', origin, *settings]))})"]
    for split, table in tables.items():
        missing = int((~table.has_location).sum())
        where = f" (the source's {meta.eval_split!r})" if split == "test" and meta.eval_split != "test" else ""
        lines.append(f"  {split:5} {len(table):>9,} rows, {missing:,} without location{where}")
    return "\n".join([*lines, *(f"  {about} {fact}" for about, fact in _facts(meta, tables).items())])


def task_html(name: str, meta: TaskMeta, tables: Mapping[str, Table]) -> str:
    """The task as HTML for notebooks: counts, map thumbnail and label histogram, with text alternatives."""
    origin = "synthetic data" if meta.synthetic else f"source: {meta.source}"
    rows = "".join(
        f"<tr><th scope='row' style='text-align:left'>{split}</th><td>{len(table):,}</td>"
        f"<td>{int((~table.has_location).sum()):,}</td></tr>"
        for split, table in tables.items()
    )
    facts = _facts(meta, tables) | {"licence": meta.licence or "not stated"}
    listed = "".join(f"<div>{html.escape(f'{about}: {fact}')}</div>" for about, fact in facts.items())
    return (
        "<div class='tslab-task' style='display:flex;flex-wrap:wrap;gap:1.5em;align-items:flex-start'>"
        f"<div><strong>{html.escape(name)}</strong> ({html.escape(meta.kind)}, {html.escape(origin)})"
        "<table style='color:inherit;border-spacing:.6em 0;text-align:right'>"
        "<thead><tr><th scope='col'>table</th><th scope='col'>rows</th>"
        f"<th scope='col'>without location</th></tr></thead><tbody>{rows}</tbody></table>"
        f"<div style='font-size:.85em;max-width:26em'>{listed}</div></div>"
        f"<div>{_map_svg(tables['train'])}</div><div>{_histogram_svg(meta, tables['train'])}</div></div>"
    )


def _facts(meta: TaskMeta, tables: Mapping[str, Table]) -> dict[str, str]:
    """What is predicted, from which image input, and what is known of the best prediction."""
    transform = "" if meta.label_transform == "none" else meta.label_transform
    facts = {"label": ", ".join(filter(None, [meta.label_name, meta.label_unit, transform])), "image": "none"}
    widths = [table.image.shape[1] for table in tables.values() if table.image is not None]
    if widths and meta.image_kind != "none":
        model = f" from {meta.image_model}" if meta.image_model else ""
        facts["image"] = f"{IMAGE_KINDS[meta.image_kind]} ({widths[0]:,} wide){model}"
    if meta.ceiling:
        facts["known"] = ", ".join(f"{what} {value:.3f}" for what, value in meta.ceiling.items())
    return facts


def _map_svg(table: Table) -> str:
    """The number of rows per cell of the world, darker for more, a pixel for a degree."""
    columns, rows = 360 // CELL_DEGREES, 180 // CELL_DEGREES
    cells = grid_cells(table.lonlat[table.has_location].cpu(), CELL_DEGREES).numpy()
    logs = np.log1p(np.bincount(cells, minlength=columns * rows).reshape(rows, columns).T)
    shade = np.ceil(SHADES * logs / max(float(logs.max()), 1e-9))
    marks = ""
    for level in range(1, SHADES + 1):
        corners = CELL_DEGREES * np.argwhere(shade == level)
        squares = (f"M{x} {180 - CELL_DEGREES - y}h{CELL_DEGREES}v{CELL_DEGREES}h-{CELL_DEGREES}z" for x, y in corners)
        marks += f"<path opacity='{level / SHADES:g}' d='{''.join(squares)}'/>"
    coast = f"<path d='{_coast_path()}' fill='none' stroke='currentColor' stroke-width='.5' opacity='.6'/>"
    alt = f"World map, where the {len(table):,} training rows lie"
    return _svg(360, 180, alt, f"<g fill='{MARK}'>{marks}</g>{coast}")


def _histogram_svg(meta: TaskMeta, table: Table) -> str:
    """Rows per class (sorted) or rows per value."""
    target = table.target.cpu().numpy()
    if meta.kind == "classification":
        counts = np.sort(np.bincount(target, minlength=meta.num_classes))[::-1]
        heights = np.array([part.mean() for part in np.array_split(counts, min(BARS, max(len(counts), 1)))])
        caption = f"rows per class, {meta.num_classes} classes from common to rare"
    else:
        heights, edges = np.histogram(target, bins=BARS)
        first, last = (f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.3g}" for v in (edges[0], edges[-1]))
        caption = f"{meta.label_name}, from {first} to {last}"
    high = 120 * heights / max(float(np.max(heights, initial=0)), 1e-9)
    width = 200 / max(len(heights), 1)
    bars = "".join(
        f"<rect x='{i * width:.2f}' y='{120 - h:.1f}' width='{0.85 * width:.2f}' height='{h:.1f}'/>"
        for i, h in enumerate(high)
    )
    described = f"<div style='font-size:.85em;max-width:200px'>{html.escape(caption)}</div>"
    return _svg(200, 120, f"Histogram: {caption}", f"<g fill='{MARK}'>{bars}</g>") + described


def _svg(width: int, height: int, alt: str, content: str) -> str:
    """A drawing with its text alternative."""
    alt = html.escape(alt, quote=True)
    return (
        f"<svg role='img' aria-label='{alt}' width='{width}' height='{height}' "
        f"viewBox='0 0 {width} {height}'><title>{alt}</title>{content}</svg>"
    )


@cache
def _coast_path() -> str:
    """The coastline in relative steps of whole pixels, a pixel for a degree; the smallest islands are left out."""
    points = np.round(land_lines() * [1, -1] + [180, 90])
    path = ""
    for line in np.split(points, np.flatnonzero(np.isnan(points[:, 0]))):
        line = line[~np.isnan(line[:, 0])].astype(int)
        steps = np.diff(line, axis=0)
        steps = steps[steps.any(axis=1)]
        if len(steps) >= 3:
            path += f"M{line[0, 0]} {line[0, 1]}l" + " ".join(f"{x} {y}" for x, y in steps).replace(" -", "-")
    return path
