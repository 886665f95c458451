"""Figures of the reproduction chapters."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from tslab.benchmark.cells import VERDICTS
from tslab.encoders import ENCODERS
from tslab.plot import FAMILY_COLORS, MISSING_COLOR, NEUTRAL, encoder_color
from tslab_book.rankings import RankTest

VERDICT_COLORS: dict[str, str] = {
    "reproduced": FAMILY_COLORS["harmonic"],
    "another run": FAMILY_COLORS["sphere2vec"],
    "within noise": FAMILY_COLORS["spherical"],
    "undecided": FAMILY_COLORS["kernel"],
    "differs": FAMILY_COLORS["multi-scale planar"],
    "not released": MISSING_COLOR,
    "published only": FAMILY_COLORS["baseline"],
}
"""One colour for each verdict."""


DATASET_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "star")


def row_color(key: str) -> str:
    """Colour of a table row: of its encoder family; grey for the image model, baselines and GPT-4V."""
    return encoder_color(key) if key in ENCODERS else NEUTRAL


def verdict_bars(cells: pd.DataFrame, labels: Mapping[str, str]) -> go.Figure:
    """Stacked bars of verdicts, one bar for each metric.

    Args:
        cells: columns metric, verdict.
        labels: metric -> name, top to bottom.
    """
    fig = go.Figure()
    for verdict in VERDICTS:
        counts = [int(((cells["metric"] == key) & (cells["verdict"] == verdict)).sum()) for key in labels]
        fig.add_bar(
            y=list(labels.values()),
            x=counts,
            name=verdict,
            orientation="h",
            marker_color=VERDICT_COLORS[verdict],
            text=[str(n) if n else "" for n in counts],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            hovertemplate=f"%{{y}}: %{{x}} {verdict}<extra></extra>",
        )
    fig.update_layout(
        barmode="stack",
        height=120 + 56 * len(labels),
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
    )
    fig.update_yaxes(autorange="reversed", showgrid=False)
    fig.update_xaxes(title={"text": "cells", "standoff": 5})
    return fig


def published_against_recomputed(cells: pd.DataFrame, names: Mapping[str, str], *, title: str) -> go.Figure:
    """Published (across) against recomputed (up) with bars of noise; a bar that meets the diagonal agrees with print.

    Colour is the verdict, the symbol is the dataset.

    Args:
        cells: rows with a recomputed number.
        names: encoder -> name for the hover text.
        title: what is measured, for the axes.
    """
    fig = go.Figure()
    ends = np.array([cells["published"].min(), cells["published"].max()])
    fig.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        line={"color": NEUTRAL, "dash": "dot", "width": 1},
        showlegend=False,
        hoverinfo="skip",
    )
    symbols = dict(zip(dict.fromkeys(cells["dataset"]), DATASET_SYMBOLS, strict=False))
    for dataset, symbol in symbols.items():
        fig.add_scatter(x=[None], y=[None], mode="markers", marker={"symbol": symbol, "color": NEUTRAL}, name=dataset)
    for verdict, color in VERDICT_COLORS.items():
        part = cells[cells["verdict"] == verdict]
        if part.empty:
            continue
        positive = part["metric"].str.startswith("geobias")  # drawn on a logarithmic axis, where no bar may reach zero
        most = (0.98 * part["recomputed"]).where(positive, np.inf)
        fig.add_scatter(
            x=part["published"],
            y=part["recomputed"].round(4),
            error_y={
                "array": part["noise"].round(4),
                "arrayminus": part["noise"].where(part["noise"] < most, most).round(4),
                "thickness": 1,
                "width": 0,
            },
            mode="markers",
            marker={"color": color, "size": 8, "symbol": part["dataset"].map(symbols)},
            name=verdict,
            customdata=[f"{names.get(e, e)}, {d}" for e, d in zip(part["encoder"], part["dataset"], strict=True)],
            hovertemplate="%{customdata}<br>published %{x}, recomputed %{y}<extra></extra>",
        )
    fig.update_xaxes(title=f"published {title}")
    fig.update_yaxes(title=f"recomputed {title}")
    fig.update_layout(height=500, margin={"l": 10, "r": 10, "t": 10, "b": 10}, legend={"orientation": "h", "y": -0.2})
    return fig


def critical_difference_diagram(test: RankTest, names: Mapping[str, str]) -> go.Figure:
    """Mean ranks with one bar for each group that the critical difference cannot tell apart; best on the left."""
    fig = go.Figure()
    count = len(test.ranks)
    for place, (key, rank) in enumerate(test.ranks.items()):
        fig.add_scatter(
            x=[rank],
            y=[place],
            mode="markers+text",
            marker={"color": row_color(str(key)), "size": 10},
            text=[names.get(str(key), str(key))],
            textposition="middle right" if place < count / 2 else "middle left",
            hovertemplate=f"{names.get(str(key), key)}: mean rank %{{x:.2f}}<extra></extra>",
            showlegend=False,
        )
    for level, group in enumerate(test.groups):
        ends = [float(test.ranks[group[0]]), float(test.ranks[group[-1]])]
        fig.add_scatter(
            x=ends,
            y=[-1.2 - 0.8 * level] * 2,
            mode="lines",
            line={"color": NEUTRAL, "width": 5},
            hovertemplate=f"{len(group)} rows within one critical difference<extra></extra>",
            showlegend=False,
        )
    fig.update_yaxes(visible=False, autorange="reversed")
    margin = 0.12 * count
    fig.update_xaxes(title="mean rank (1 is best)", range=[1 - margin / 4, count + margin / 4])
    fig.update_layout(height=130 + 26 * count, margin={"l": 10, "r": 10, "t": 10, "b": 10})
    return fig
