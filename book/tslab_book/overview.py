"""The seventeen datasets side by side: tables of published facts, and the figure that switches between them.

Facts come from `tslab.tasks.datasets` and the printed tables (`tslab.published`), shapes from synthetic stand-ins;
every function says which. The chapter {ref}`tour` shows what is here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from tslab import plot
from tslab.benchmark import read_cells
from tslab.earth import CONTINENTS, continents
from tslab.plot.sliders import as_bytes
from tslab.plot.style import with_missing
from tslab.published import encoder_row_name, published_tables
from tslab.synthetic import CLASS_SPECS
from tslab.tasks.datasets import DATASETS
from tslab.tasks.task import Task

SHORT_REGIONS = ("N. America", "S. America", "Europe", "Africa, M. East", "Asia", "Oceania")
CELLS = (72, 36)
BARS = 40


def facts_table() -> pd.DataFrame:
    """Published facts, one row per dataset: title, what is predicted, kind, classes, train, evaluated, no_location.

    Train counts the rows that the reference trains on, or all rows of the split; no_location is a share of the
    evaluated rows.

    Unknown facts are missing, not guessed. Of MOSAIKS only the rows of all splits together are known (column total).
    """
    rows = []
    for info in DATASETS.values():
        train, scored = info.splits[info.train_split], info.splits[info.eval_split]
        missing = None if scored.rows is None or scored.missing is None else scored.missing / scored.rows
        if scored.rows is None and scored.missing == 0:
            missing = 0.0
        rows.append(
            {
                "dataset": info.title,
                "predicts": info.label_name + (f" ({info.label_unit})" if info.label_unit else ""),
                "kind": info.kind,
                "classes": info.num_classes or None,
                "train": train.kept or train.rows,
                "evaluated": scored.rows,
                "total": info.total_rows,
                "no_location": missing,
            }
        )
    return pd.DataFrame(rows, index=pd.Index(DATASETS, name="key"))


PRINTED_EXAMPLES = {
    **{"birdsnap": 19_576, "birdsnap_ebird": 43_470, "nabirds": 23_699},
    **{"inat2017": 675_170, "inat2018": 461_939, "yfcc": 36_146, "fmow": 416_612},
}
"""Examples of each classification dataset as the slides of the paper print them."""


def printed_examples() -> pd.DataFrame:
    """Examples as printed beside the rows of the files, one row per classification dataset.

    Columns: dataset, printed, train, validation, test (rows; of training and validation those that the printed number
    counts, if it counts any), reason (what the printed number counts).
    """
    rows = []
    for key, printed in PRINTED_EXAMPLES.items():
        splits = DATASETS[key].splits
        kept = {name: splits[name].kept or splits[name].rows for name in ("train", "val")}
        listed = {name: splits[name].rows for name in ("train", "val")}
        if _total(listed) == printed:
            counts, reason = listed, "training and validation, with or without a location"
        elif _total(kept) == printed:
            counts, reason = (kept, "training and validation with all metadata; not the test rows that are scored")
        else:
            counts, reason = kept, "no sum of the splits gives it; the documentation counts all three"
        test = splits["test"].rows if "test" in splits else None
        row = {"dataset": DATASETS[key].title, "printed": printed, "train": counts["train"]}
        rows.append(row | {"validation": counts["val"], "test": test, "reason": reason})
    return pd.DataFrame(rows, index=pd.Index(PRINTED_EXAMPLES, name="key"))


def _total(counts: Mapping[str, int | None]) -> int | None:
    return None if None in counts.values() else sum(n for n in counts.values() if n is not None)


def measured_regions() -> pd.DataFrame:
    """Shares of the evaluated rows with a location in six parts of the world, one row per classification dataset.

    Measured on the released results; datasets whose results hold no coordinates (iNat2017) are left out. Their
    stand-ins borrow the geography of another dataset, which is no measurement.
    """
    measured = {
        key: spec.geography.regions for key, spec in CLASS_SPECS.items() if DATASETS[key].lat_quantiles is not None
    }
    return pd.DataFrame(list(measured.values()), index=list(measured), columns=list(SHORT_REGIONS))


def image_alone_lines() -> str:
    """R² of the image alone and with location, printed and recomputed from the released files, as a Markdown table."""
    cells = read_cells()
    cells = cells[(cells["metric"] == "r2") & cells["recomputed"].notna()]
    lines = [
        "| Label | Image alone, printed | recomputed | Best with location, printed | recomputed "
        "| Gain, printed | recomputed |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for key, rows in cells.groupby("dataset", sort=False):
        column = rows.set_index("encoder")[["published", "recomputed"]]
        alone, best = column.loc["no_prior"], column.drop(index="no_prior").max()
        values = (alone["published"], alone["recomputed"], best["published"], best["recomputed"])
        gain = best - alone
        lines.append(
            f"| {DATASETS[str(key)].title} | "
            + " | ".join(f"{value:.2f}" for value in values)
            + f" | {gain['published']:+.2f} | {gain['recomputed']:+.2f} |"
        )
    return "\n".join(lines)


def published_gains() -> pd.DataFrame:
    """What location added in the published tables, one row per dataset: metric, image_alone, with_location (the best
    printed row), encoder (its name), gain.

    Top-1 in percent, R² as printed. The best of some fifteen rows, chosen on the evaluated rows: an upper estimate.
    """
    printed = published_tables()
    printed = printed[printed["metric"].isin(["top1", "r2"]) & printed["dataset"].isin(list(DATASETS))]
    rows = []
    for key in DATASETS:
        column = printed[(printed["dataset"] == key) & printed["published"].notna()].set_index("encoder")
        alone, others = column["published"].get("no_prior"), column.drop(index="no_prior", errors="ignore")
        best = others["published"].idxmax()
        rows.append(
            {
                "metric": column["metric"].iloc[0],
                "image_alone": alone,
                "with_location": others["published"].max(),
                "encoder": encoder_row_name(best),
                "gain": others["published"].max() - alone,
            }
        )
    return pd.DataFrame(rows, index=pd.Index(DATASETS, name="key"))


def terms_list() -> str:
    """Licence, home and source of every dataset, as a Markdown list; datasets with the same terms share an item."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for info in DATASETS.values():
        groups.setdefault((info.licence, info.upstream, info.citation), []).append(info.title)
    items = []
    for (licence, upstream, citation), titles in groups.items():
        common = titles[0].split()[0]
        names = ", ".join(t if i == 0 else t.removeprefix(f"{common} ") for i, t in enumerate(titles))
        items.append(f"- **{names}**: {licence}. [Home]({upstream}). {citation}.")
    return "\n".join(items)


def gains_figure() -> go.Figure:
    """The published scores as one line per dataset, from the image alone to the best row with location."""
    gains = published_gains()
    counts = gains["metric"].value_counts()
    fig = make_subplots(rows=2, cols=1, vertical_spacing=0.14, row_heights=[float(counts["top1"]), float(counts["r2"])])
    for row, (metric, title) in enumerate((("top1", "Top-1, %"), ("r2", "R²")), start=1):
        part = gains[gains["metric"] == metric].iloc[::-1]
        names = [DATASETS[key].title.replace("SustainBench ", "SB ") for key in part.index]
        x = np.stack([part["image_alone"], part["with_location"], np.full(len(part), np.nan)], 1).ravel()
        fig.add_scatter(
            x=x,
            y=np.repeat(names, 3),
            mode="lines",
            line={"color": plot.NEUTRAL, "width": 2},
            hoverinfo="skip",
            showlegend=False,
            row=row,
            col=1,
        )
        for column, name, color in (
            ("image_alone", "image alone", plot.NEUTRAL),
            ("with_location", "best with location", plot.FAMILY_COLORS["sphere2vec"]),
        ):
            fig.add_scatter(
                x=part[column],
                y=names,
                mode="markers",
                name=name,
                showlegend=row == 1,
                marker={"color": color, "size": 10, "symbol": "circle-open" if color == plot.NEUTRAL else "circle"},
                hovertemplate="%{y}: %{x}<extra></extra>",
                row=row,
                col=1,
            )
        fig.update_xaxes(title=title, row=row, col=1)
    fig.update_layout(
        height=620,
        margin={"l": 10, "r": 10, "t": 35, "b": 45},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    return fig


def row_density(task: Task) -> NDArray[np.float64]:
    """Rows of all splits on the cells of `tslab.plot.equal_area_grid`, as shares, (36, 72), south to north."""
    lonlat = _places(task)
    column = np.floor((lonlat[:, 0] + 180) / 360 * CELLS[0]).astype(int).clip(0, CELLS[0] - 1)
    row = np.floor((np.sin(np.radians(lonlat[:, 1])) + 1) / 2 * CELLS[1]).astype(int).clip(0, CELLS[1] - 1)
    counts = np.bincount(row * CELLS[0] + column, minlength=CELLS[0] * CELLS[1])
    return counts.reshape(CELLS[1], CELLS[0]) / counts.sum()


def region_shares(lonlat: Any) -> NDArray[np.float64]:
    """Shares of places in the six parts of the world, in the order of `tslab.earth.CONTINENTS`."""
    index = continents(torch.as_tensor(lonlat))
    return np.bincount(index[index >= 0].numpy(), minlength=len(CONTINENTS)) / int((index >= 0).sum())


def tour_figure(tasks: Sequence[Task], land_shares: Sequence[float]) -> go.Figure:
    """One dataset at a time, with a menu: where its rows lie, their shares by continent, its labels.

    Args:
        tasks: synthetic stand-ins, whose rows are drawn. Shares measured on the released results are marked where the
            package knows them.
        land_shares: shares of the land area, see `region_shares`, marked for comparison.
    """
    lon, sin_lat, _ = plot.equal_area_grid(*CELLS)
    fig = make_subplots(rows=3, cols=1, row_heights=[0.5, 0.26, 0.24], vertical_spacing=0.12)
    drawn = [_tour_traces(task) for task in tasks]
    density, shares, measured, bars = drawn[0]
    fig.add_trace(
        go.Heatmap(density).update(
            x=lon.astype("f4"),
            y=sin_lat.astype("f4"),
            colorscale=with_missing(plot.FIELD_SCALE),
            zmin=-128,
            zmax=127,
            showscale=False,
            hoverinfo="skip",
        ),
        row=1,
        col=1,
    )
    fig.add_trace(plot.coastline(width=0.7), row=1, col=1)
    fig.add_trace(shares, row=2, col=1)
    fig.add_trace(measured, row=2, col=1)
    fig.add_scatter(
        x=np.round(land_shares, 3),
        y=SHORT_REGIONS,
        mode="markers",
        name="share of the land",
        marker={"symbol": "line-ns-open", "size": 14, "color": plot.NEUTRAL, "line": {"width": 3}},
        row=2,
        col=1,
    )
    fig.add_trace(bars, row=3, col=1)
    hidden = {"visible": False, "showgrid": False, "zeroline": False}
    fig.update_xaxes(range=[-180, 180], **hidden, row=1, col=1)
    fig.update_yaxes(range=[-1, 1], **hidden, row=1, col=1)
    fig.update_xaxes(range=[0, 1.02], tickformat=".0%", row=2, col=1)
    fig.update_yaxes(autorange="reversed", row=2, col=1)
    fig.update_xaxes(title=_label_axis(tasks[0]), row=3, col=1)
    fig.update_yaxes(title="rows", row=3, col=1)
    fig.frames = [
        go.Frame(
            data=list(parts),
            traces=[0, 2, 3, 5],
            name=task.name,
            layout={"xaxis3": {"title": {"text": _label_axis(task)}}},
        )
        for task, parts in zip(tasks, drawn, strict=True)
    ]
    now = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    menu = {
        "buttons": [
            {"label": DATASETS[task.name].title, "method": "animate", "args": [[task.name], now]} for task in tasks
        ],
        "x": 1,
        "xanchor": "right",
        "y": 1.02,
        "yanchor": "bottom",
    }
    fig.update_layout(
        updatemenus=[menu],
        height=820,
        margin={"l": 10, "r": 10, "t": 60, "b": 80},
        legend={"orientation": "h", "y": -0.11, "yanchor": "top", "x": 0},
        bargap=0.25,
    )
    return fig


def _tour_traces(task: Task) -> tuple[go.Heatmap, go.Bar, go.Scatter, go.Bar]:
    """What changes with the dataset: density, shares of continents, measured shares, labels."""
    density = row_density(task)
    seen = np.where(density > 0, np.log10(np.maximum(density, 1e-12)), np.nan)
    z = as_bytes(seen, float(np.nanmin(seen)) - 0.5, float(np.nanmax(seen)))
    color = plot.FAMILY_COLORS["sphere2vec"]
    shares = go.Bar(
        x=region_shares(_places(task)).round(3),
        y=SHORT_REGIONS,
        orientation="h",
        name="rows, synthetic",
        marker={"color": color},
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )
    regions = measured_regions()
    known = regions.loc[task.name] if task.name in regions.index else [None] * len(CONTINENTS)
    measured = go.Scatter(
        x=list(known),
        y=SHORT_REGIONS,
        mode="markers",
        name="rows, released results",
        marker={"symbol": "diamond", "size": 10, "color": plot.FAMILY_COLORS["planar"]},
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )
    x, heights = label_histogram(task)
    bars = go.Bar(x=x, y=heights, marker={"color": color}, showlegend=False, hovertemplate="%{y} rows<extra></extra>")
    return go.Heatmap(z=z), shares, measured, bars


def label_histogram(task: Task) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(positions, rows): rows per class from common to rare in training, or rows per interval of the label."""
    target = task.train.target.cpu().numpy()
    if task.meta.kind == "classification":
        counts = np.sort(np.bincount(target, minlength=task.num_classes))[::-1]
        return np.arange(1, len(counts) + 1, dtype=np.float64), counts.astype(np.float64)
    heights, edges = np.histogram(target, bins=BARS)
    return ((edges[:-1] + edges[1:]) / 2).round(3), heights.astype(np.float64)


def _label_axis(task: Task) -> str:
    if task.meta.kind == "classification":
        return f"{task.num_classes} classes, common to rare"
    info = DATASETS[task.name]
    unit = info.label_unit
    if info.label_transform.startswith("ln"):
        return f"ln(1 + {info.label_name} in {unit})"
    return f"{info.label_name}, {unit}" if unit else f"{info.label_name}, normalised"


def _places(task: Task) -> NDArray[np.float64]:
    lonlat = torch.cat([table.lonlat[table.has_location] for table in task.tables.values()])
    return lonlat.double().cpu().numpy()
