"""What the encoder chapters share: the report card of an encoder and its published rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tslab._checks import check_choice
from tslab.plot import NEUTRAL, encoder_color
from tslab.plot.projection import short
from tslab.published import CLASSIFICATION_DATASETS, encoder_row_name, published_tables
from tslab_book.prose import readable


def report_card(measured: Mapping[str, Any], features: int) -> str:
    """The result of `tslab.diagnostics.diagnose` as a Markdown table: question, value, the value on a sphere."""

    def number(value: float) -> str:
        return "0" if abs(value) < 5e-7 else readable(value) if abs(value) < 0.01 else f"{value:.2f}"

    def distance(km: float) -> str:
        return f"{km:,.0f} km" if km >= 10 else f"{km:.2g} km"

    verdict = {True: "yes", False: "no"}
    rows = [
        ("Jump at the date line (seam gap)", number(measured["seam_gap"]), "0", verdict[measured["continuous"]]),
        (
            "Spread of a pole over its longitudes",
            number(measured["pole_spread"]),
            "0",
            verdict[measured["single_valued_poles"]],
        ),
        (
            "Dependence on direction at 60° (anisotropy)",
            number(measured["anisotropy"]),
            "0",
            verdict[measured["isotropic"]],
        ),
        ("Resolution: distance at half the typical difference", distance(measured["resolution_km"]), "", ""),
        (
            "Features; numerical rank; effective rank",
            f"{features}; {measured['rank']}; {measured['effective_rank']:.3g}",
            "",
            "",
        ),
    ]
    head = "| Measured | Value | On a sphere | Holds? |\n|:--|--:|:-:|:-:|\n"
    return head + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def published_gains(metric: str = "top1") -> pd.DataFrame:
    """Published Top-1 minus that of the image model alone, in points: one row per encoder, one column per dataset."""
    table = published_tables()
    check_choice("metric", metric, sorted(set(table.metric[table.dataset.isin(CLASSIFICATION_DATASETS)])))
    table = table[(table.metric == metric) & table.dataset.isin(CLASSIFICATION_DATASETS) & (table.encoder != "gpt4v")]
    matrix = table.pivot(index="encoder", columns="dataset", values="published")[list(CLASSIFICATION_DATASETS)]
    return (matrix - matrix.loc["no_prior"]).drop(index="no_prior")


def published_dots(keys: str | Sequence[str]) -> go.Figure:
    """Published Top-1 gain over the image model alone: rows ``keys`` in colour, the other encoders in grey."""
    chosen = [keys] if isinstance(keys, str) else list(keys)
    gains = published_gains()
    for key in chosen:
        check_choice("encoder", key, gains.index)
    names = list(CLASSIFICATION_DATASETS.values())
    figure = go.Figure()
    others = gains.drop(index=chosen)
    spots = others.stack()
    figure.add_scatter(
        x=short(spots.to_numpy()),
        y=[CLASSIFICATION_DATASETS[d] for _, d in spots.index],
        mode="markers",
        name="other encoders",
        marker={"color": NEUTRAL, "size": 7, "opacity": 0.45},
        text=[encoder_row_name(key) for key, _ in spots.index],
        hovertemplate="%{text}: %{x:+.2f}<extra></extra>",
    )
    shapes = ("diamond", "square", "triangle-up", "circle", "x", "star")
    for i, (key, shape) in enumerate(zip(chosen, shapes, strict=False)):
        name = encoder_row_name(key)  # all but the first are hollow, so that they hide none
        figure.add_scatter(
            x=short(gains.loc[key].to_numpy()),
            y=names,
            mode="markers",
            name=name,
            marker={
                "color": encoder_color(key),
                "symbol": f"{shape}-open" if i else shape,
                "size": 12,
                "line": {"width": 2} if i else {"color": "white", "width": 1},
            },
            hovertemplate=f"{name}: %{{x:+.2f}}<extra></extra>",
        )
    figure.add_vline(x=0, line={"width": 1, "color": NEUTRAL})
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title="published gain in Top-1 (points)")
    figure.update_layout(
        height=360,
        margin={"l": 10, "r": 10, "t": 40, "b": 50},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    return figure


def published_sentence(key: str) -> str:
    """The published Top-1 row of an encoder in words, with its rank among the fifteen encoders on each dataset."""
    gains = published_gains()
    check_choice("encoder", key, gains.index)
    order = gains.rank(ascending=False, method="min").loc[key]
    parts = [
        f"{CLASSIFICATION_DATASETS[d]} {gains.loc[key, d]:+.2f} (rank {int(order[d])})" for d in CLASSIFICATION_DATASETS
    ]
    return (
        f"Published gain of {encoder_row_name(key)} over the image model alone, in points of Top-1, and its rank among "
        f"{len(gains)} encoders: " + ", ".join(parts) + "."
    )
