"""Figures with a slider that works without a kernel: fields on a map or a globe, and curves.

Maps are cylindrical equal-area: longitude along x, the sine of latitude along y. Fields travel as bytes, so that a
figure of twenty maps weighs some 200 kB.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from tslab._checks import check_count
from tslab.plot.maps import globe
from tslab.plot.projection import Place, closed_grid, coastline_points, equal_area_grid, globe_grid, place_name, short
from tslab.plot.style import (
    DARK_LINE,
    DIVERGING_SCALE,
    FIELD_SCALE,
    LIGHT_LINE,
    MARKER,
    NEUTRAL,
    STYLE,
    color_bar,
    value_range,
    with_missing,
)


@dataclass(frozen=True)
class Curve:
    """One line of a `curve_slider`: its name, its points and how it is drawn."""

    name: str
    x: Any
    y: Any
    color: str = NEUTRAL
    dash: str = "solid"
    mode: str = "lines"


def map_slider(
    fields: Sequence[Any],
    labels: Sequence[str],
    *,
    prefix: str = "",
    colorbar: str = "value",
    limits: tuple[float, float] | None = None,
    diverging: bool = True,
    points: Sequence[Any] | None = None,
    active: int = 0,
    height: int = 470,
) -> go.Figure:
    """A world map of one field at a time, with a slider over ``fields``.

    Args:
        fields: each (n_lat, n_lon) or flat, on the cells of `equal_area_grid`; all of one shape. NaN is drawn
            grey.
        labels: what the slider calls them, after ``prefix``.
        colorbar: title of the colour bar.
        limits: values at the ends of the colours; by default those of the fields, symmetric about 0 if
            ``diverging``.
        diverging: the colours have a meaningful middle.
        points: for each field, (k, 2) places in degrees to mark.
        active: the field shown first.
        height: pixels.
    """
    grids, ticks = _steps(fields, labels, active, diverging, limits)
    if points is not None and len(points) != len(grids):
        raise ValueError(f"points must have one entry for each of {len(grids)} fields, got {len(points)}")
    n_lat, n_lon = grids[0].shape
    lon, sin_lat, _ = equal_area_grid(n_lon, n_lat)
    field = go.Heatmap(
        x=short(lon),
        y=short(sin_lat),
        z=grids[active],
        zmin=-128,
        zmax=127,
        hoverinfo="skip",
        colorscale=with_missing(DIVERGING_SCALE if diverging else FIELD_SCALE),
        colorbar=color_bar("bar_above", colorbar) | ticks,
    )
    figure = go.Figure([field, coastline(color=DARK_LINE if diverging else LIGHT_LINE)])
    frames: list[list[Any]] = [[go.Heatmap(z=grid)] for grid in grids]
    if points is not None:
        figure.add_trace(_markers(points[active]))
        frames = [[*data, _markers(places)] for data, places in zip(frames, points, strict=True)]
    if len(grids) > 1:
        _animate(figure, frames, frame_slider(labels, prefix, active), traces=[0] if points is None else [0, 2])
    return figure.update_layout(STYLE["map_axes"], height=height, margin={"l": 45, "r": 18, "t": 55, "b": 10})


def globe_slider(
    fields: Sequence[Any],
    labels: Sequence[str],
    *,
    prefix: str = "",
    colorbar: str = "value",
    limits: tuple[float, float] | None = None,
    diverging: bool = True,
    points: Any = None,
    center: Place = (15.0, 20.0),
    active: int = 0,
    height: int = 520,
) -> go.Figure:
    """A globe to turn by hand, coloured by one field at a time, with a slider over ``fields``.

    Each field is (n_lat, n_lon) on the grid of `globe_grid`; the other arguments are those of `map_slider` and
    `tslab.plot.globe`.
    """
    grids, ticks = _steps(fields, labels, active, diverging, limits)
    n_lat, n_lon = grids[0].shape
    if n_lon != 2 * n_lat or 180 % n_lat:
        raise ValueError(f"fields must lie on a grid of globe_grid, (180 / step, 360 / step), got {grids[0].shape}")
    lon, lat, _ = globe_grid(180 // n_lat)
    scale = DIVERGING_SCALE if diverging else FIELD_SCALE
    figure = globe(
        lon, lat, grids[active], scale=scale, limits=(-127, 127), points=points, center=center, height=height
    )
    colors = [closed_grid(lon, lat, grid)[2].astype(np.int8) for grid in grids]
    bar = color_bar("bar_beside", colorbar) | ticks
    figure.update_traces(surfacecolor=colors[active], colorbar=bar, selector=0)
    frames = [[go.Surface(surfacecolor=color)] for color in colors]
    return _animate(figure, frames, frame_slider(labels, prefix, active), traces=[0])


def curve_slider(
    frames: Sequence[Sequence[Curve]],
    labels: Sequence[str],
    *,
    prefix: str = "",
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    active: int = 0,
    height: int = 400,
) -> go.Figure:
    """A set of curves at a time, with a slider over the sets; ``x`` and ``y`` are plotly axes (title, range, type).

    Raises:
        ValueError: no set, or sets of different sizes; an empty curve, ``Curve("", [], [])``, fills a place.
    """
    if len({len(curves) for curves in frames}) != 1:
        raise ValueError("every set needs as many curves as the others; fill up with Curve('', [], [])")
    for curves in frames:
        for curve in curves:
            if np.shape(short(curve.x)) != np.shape(short(curve.y)):
                raise ValueError(f"curve {curve.name!r} has {len(curve.x)} values of x, but {len(curve.y)} of y")
    _check_labels(len(frames), labels, active)

    def traces(curves: Sequence[Curve]) -> list[go.Scatter]:
        return [
            go.Scatter(
                x=short(c.x),
                y=short(c.y),
                name=c.name,
                mode=c.mode,
                showlegend=bool(c.name),
                line={"color": c.color, "dash": c.dash, "width": 2},
                marker={"color": c.color, "size": 8},
            )
            for c in curves
        ]

    figure = go.Figure(traces(frames[active]))
    if len(frames) > 1:
        _animate(figure, [traces(curves) for curves in frames], frame_slider(labels, prefix, active, space_px=65))
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    margin = {"l": 60, "r": 15, "t": 45, "b": 10 if len(frames) > 1 else 50}
    return figure.update_layout(xaxis=dict(x), yaxis=dict(y), legend=legend, height=height, margin=margin)


def frame_slider(labels: Sequence[str], prefix: str, active: int = 0, *, space_px: int = 45) -> dict[str, Any]:
    """Layout of a slider that plays one frame a step. Labels too long to stand side by side show only when chosen."""
    now = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    steps = [{"label": label, "method": "animate", "args": [[str(i)], now]} for i, label in enumerate(labels)]
    crowded = sum(map(len, labels)) > 40
    return {
        "active": active,
        "currentvalue": {"prefix": prefix},
        "font": {"color": "rgba(0,0,0,0)" if crowded else NEUTRAL},
        "pad": {"t": space_px, "b": 5},
        "steps": steps,
    }


def coastline(*, width: float = 0.8, equal_area: bool = True, color: str = DARK_LINE) -> go.Scatter:
    """The coastlines as one line, on the equal-area map or, without ``equal_area``, in degrees."""
    lines = coastline_points()
    lat = np.sin(np.deg2rad(lines[:, 1])) if equal_area else lines[:, 1]
    return go.Scatter(
        x=np.round(lines[:, 0], 1).astype(np.float32),
        y=np.round(lat, 3).astype(np.float32),
        mode="lines",
        line={"color": color, "width": width},
        hoverinfo="skip",
        showlegend=False,
    )


def _animate(
    figure: go.Figure, frames: Sequence[Any], slider: dict[str, Any], traces: list[int] | None = None
) -> go.Figure:
    """Give the figure a frame for each step of the slider; a frame changes ``traces``, or all of them."""
    figure.frames = [go.Frame(data=data, traces=traces, name=str(i)) for i, data in enumerate(frames)]
    return figure.update_layout(sliders=[slider])


def _steps(
    fields: Sequence[Any], labels: Sequence[str], active: int, diverging: bool, limits: tuple[float, float] | None
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The fields as bytes, and the ticks of their colour bar: both ends and the middle, named by their values.

    A flat field is taken to be twice as wide as high. The limits of fields without any value are those of zeros.
    """
    grids = [_as_grid(field) for field in fields]
    _check_labels(len(grids), labels, active)
    if any(grid.ndim != 2 or grid.shape != grids[0].shape or not grid.size for grid in grids):
        shapes = ", ".join(sorted({str(grid.shape) for grid in grids}))
        raise ValueError(f"fields must be (n_lat, n_lon), not empty and all of one shape, got {shapes}")
    every = np.stack(grids)
    known = every if np.isfinite(every).any() else np.zeros(1)
    low, high = value_range(known, "diverging" if diverging else "field", limits)
    ticks = {"tickvals": [-127, 0, 127], "ticktext": [f"{v:.2g}" for v in (low, (low + high) / 2, high)]}
    return [as_bytes(grid, low, high) for grid in grids], ticks


def _as_grid(field: Any) -> np.ndarray:
    grid = np.asarray(field.detach().cpu() if isinstance(field, Tensor) else field, np.float64)
    n_lat = round((grid.size / 2) ** 0.5)
    if grid.ndim != 1:
        return grid
    if not grid.size or 2 * n_lat**2 != grid.size:
        raise ValueError(
            f"a flat field must fill a grid twice as wide as high, got {grid.size} values; shape it (n_lat, n_lon)"
        )
    return grid.reshape(n_lat, -1)


def _check_labels(steps: int, labels: Sequence[str], active: int) -> None:
    if steps == 0:
        raise ValueError("there is nothing to show: give at least one field or set of curves")
    if steps > 1 and len(labels) != steps:
        raise ValueError(f"labels must name each of {steps} steps of the slider, got {len(labels)}")
    check_count("active", active, at_least=0, at_most=steps - 1)


def as_bytes(grid: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values on [low, high] as -127 ... 127; a missing value is -128."""
    scaled = np.round((np.clip(grid, low, high) - low) / (high - low) * 254 - 127)
    return np.where(np.isnan(scaled), -128, scaled).astype(np.int8)


def _markers(places: Any) -> go.Scatter:
    lonlat = np.asarray(places, np.float64).reshape(-1, 2)
    few = len(lonlat) < 20
    return go.Scatter(
        x=short(lonlat[:, 0]),
        y=short(np.sin(np.deg2rad(lonlat[:, 1]))),
        mode="markers",
        showlegend=False,
        cliponaxis=False,
        marker={"size": 9 if few else 4, "color": MARKER, "line": {"color": "white", "width": 1}},
        hovertemplate="%{text}<extra></extra>",
        text=[place_name((a, b)) for a, b in lonlat] if few else None,
    )
