"""Pictures of one neighbourhood: samples and background as dots in kilometres around a centre, one state at a time.

The chapters on geo-bias show the same plane again and again, with other dots switched on: `dots_slider` draws it,
`parts_frame` colours the samples of one neighbourhood by the part that spatial relative information puts them in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from tslab import plot
from tslab.coords import EARTH_RADIUS_KM, unit_vectors
from tslab.geobias.background import local_frame
from tslab.geobias.relative import Partition, parts_of
from tslab.plot import frame_slider

HIT_COLOR = plot.FAMILY_COLORS["sphere2vec"]
MISS_COLOR = plot.FAMILY_COLORS["multi-scale planar"]


@dataclass(frozen=True)
class Dots:
    """One layer of a `dots_slider`: kilometres east and north, and one colour, or a number in [0, 1] for each dot."""

    name: str
    km: Float[Tensor, "n 2"]
    color: str | Float[Tensor, " n"] = plot.NEUTRAL
    symbol: str = "circle"
    size: float = 6


def local_km(lonlat: Float[Tensor, "n 2"], center: Float[Tensor, "2"]) -> Float[Tensor, "n 2"]:
    """Kilometres east and north of the centre, seen from straight above (orthographic projection)."""
    south, east, up = local_frame(torch.as_tensor(center, dtype=torch.float64).reshape(1, 2))
    offset = unit_vectors(lonlat.double()) - up
    return EARTH_RADIUS_KM * torch.stack([(offset * east).sum(-1), -(offset * south).sum(-1)], -1)


def dots_slider(
    frames: Sequence[Sequence[Dots]],
    labels: Sequence[str],
    *,
    radius_km: float,
    prefix: str = "",
    colorbar: str = "",
    active: int = 0,
    height: int = 520,
) -> go.Figure:
    """The neighbourhood's circle and one set of `Dots` at a time, with a slider over the sets.

    Raises:
        ValueError: sets of different numbers of layers; a layer without dots fills a place.
    """
    if len({len(layers) for layers in frames}) != 1:
        raise ValueError("every set needs as many layers as the others; fill up with a layer of no dots")
    figure = go.Figure([_scatter(layer, colorbar, i) for i, layer in enumerate(frames[active])])
    turn = torch.linspace(0, 2 * torch.pi, 91)
    figure.add_scatter(
        x=(radius_km * turn.cos()).numpy(),
        y=(radius_km * turn.sin()).numpy(),
        mode="lines",
        line={"color": plot.NEUTRAL, "width": 1},
        hoverinfo="skip",
        showlegend=False,
    )
    shown = list(range(len(frames[active])))
    figure.frames = [
        go.Frame(data=[_scatter(x, colorbar, i) for i, x in enumerate(layers)], traces=shown, name=str(number))
        for number, layers in enumerate(frames)
    ]
    limit = 1.25 * radius_km
    figure.update_layout(
        sliders=[frame_slider(labels, prefix, active, space_px=65)],
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        height=height,
        margin={"l": 55, "r": 15, "t": 60, "b": 10},
        xaxis={"title": "km east", "range": [-limit, limit], "zeroline": False},
        yaxis={"title": "km north", "range": [-limit, limit], "scaleanchor": "x", "zeroline": False},
    )
    return figure


def parts_frame(
    lonlat: Float[Tensor, "n 2"],
    hits: Float[Tensor, " n"],
    center: Float[Tensor, "2"],
    *,
    radius_rad: float,
    partition: Partition,
    size: float,
    min_samples: int = 20,
) -> list[Dots]:
    """Hits and misses of one neighbourhood, coloured by the share of hits in their part; small parts in grey."""
    part = parts_of(lonlat, center, radius_rad=radius_rad, partition=partition, size=size)
    numbered = part.clamp_min(0)
    count = torch.bincount(numbered[part >= 0], minlength=1)
    total = torch.bincount(numbered[part >= 0], weights=hits[part >= 0].double(), minlength=len(count))
    kept = (part >= 0) & (count[numbered] >= min_samples)
    share = (total / count)[numbered]
    km, right = local_km(lonlat, center), hits > 0
    return [
        Dots("hit", km[kept & right], share[kept & right]),
        Dots("miss", km[kept & ~right], share[kept & ~right], symbol="x"),
        Dots("in no part that counts", km[~kept], symbol="circle-open", size=5),
    ]


def _scatter(layer: Dots, colorbar: str, position: int) -> go.Scatter:
    marker: dict[str, Any] = {"size": layer.size, "symbol": layer.symbol}
    if isinstance(layer.color, str):
        marker["color"] = layer.color
    else:
        marker |= {"color": layer.color.float().numpy(), "cmin": 0, "cmax": 1, "colorscale": plot.FIELD_SCALE}
        if position == 0:
            marker["colorbar"] = {"title": {"text": colorbar, "side": "right"}, "thickness": 12, "len": 0.9}
    return go.Scatter(
        x=layer.km[:, 0].float().numpy(),
        y=layer.km[:, 1].float().numpy(),
        mode="markers",
        name=layer.name,
        marker=marker,
        hoverinfo="skip",
    )
