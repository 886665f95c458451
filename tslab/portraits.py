"""Portraits of an encoder: the figures that the encoder chapters of the book share.

Most functions take an encoder (anything that `tslab.diagnostics` can measure) and return a plotly figure
whose controls work without
a kernel: what its features look like on the map, which places look similar to it, how similarity falls with
distance, and what happens at the date line and the poles. `map_slider`, `globe_slider` and `curve_slider` are the
general ones, for fields and curves of your own.

Maps are cylindrical equal-area: longitude along x, the sine of latitude along y. Fields travel as bytes, so
that a figure of twenty maps weighs some 200 kB.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from tslab import diagnostics, figures
from tslab._checks import check_choice, check_count
from tslab.diagnostics import Encoder
from tslab.published import CLASSIFICATION_DATASETS, encoder_row_name, published_tables
from tslab.tables import readable

LAT_TICKS = (-90, -60, -30, 0, 30, 60, 90)
MARKER = "#d1290b"

Place = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """One line of a `curve_slider`: its name, its points and how it is drawn."""

    name: str
    x: Any
    y: Any
    color: str = figures.NEUTRAL
    dash: str = "solid"
    mode: str = "lines"


def equal_area_grid(n_lon: int = 120, n_lat: int = 60) -> tuple[np.ndarray, np.ndarray, Float[Tensor, "n 2"]]:
    """Centres of an equal-area grid: longitudes (n_lon,), sines of latitude (n_lat,), places (n_lat * n_lon, 2).

    Places are ordered by latitude, then longitude, south to north.
    """
    check_count("n_lon", n_lon)
    check_count("n_lat", n_lat)
    lon = (np.arange(n_lon) + 0.5) * 360 / n_lon - 180
    sin_lat = (np.arange(n_lat) + 0.5) * 2 / n_lat - 1
    grid = np.stack(np.meshgrid(lon, np.rad2deg(np.arcsin(sin_lat))), axis=-1).reshape(-1, 2)
    return lon, sin_lat, torch.from_numpy(grid)


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
    grids = [_as_grid(field) for field in fields]
    _check_steps(grids, labels, active, points)
    low, high = _range(grids, diverging) if limits is None else figures._limits(grids[0], "field", limits)
    n_lat, n_lon = grids[0].shape
    lon, sin_lat, _ = equal_area_grid(n_lon, n_lat)
    scale = figures.DIVERGING_SCALE if diverging else figures.FIELD_SCALE
    ticks = {"tickvals": [-127, 0, 127], "ticktext": [f"{v:.2g}" for v in (low, (low + high) / 2, high)]}
    bytes_ = [_as_bytes(grid, low, high) for grid in grids]
    figure = go.Figure(
        [
            go.Heatmap(
                x=lon.astype(np.float32),
                y=sin_lat.astype(np.float32),
                z=bytes_[active],
                zmin=-128,
                zmax=127,
                hoverinfo="skip",
                colorscale=_with_missing(scale),
                colorbar=_bar_on_top(colorbar, ticks),
            ),
            coastline() if diverging else coastline(color=figures.LIGHT_LINE),
        ]
    )
    frames = [[go.Heatmap(z=z)] for z in bytes_]
    traces = [0]
    if points is not None:
        figure.add_trace(_markers(points[active]))
        frames = [[*data, _markers(places)] for data, places in zip(frames, points, strict=True)]
        traces = [0, 2]
    if len(grids) > 1:
        figure.frames = [go.Frame(data=data, traces=traces, name=str(i)) for i, data in enumerate(frames)]
        figure.update_layout(sliders=[frame_slider(labels, prefix, active)])
    figure.update_layout(height=height, margin={"l": 45, "r": 18, "t": 55, "b": 10})
    _map_axes(figure)
    return figure


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
    `tslab.figures.globe`.
    """
    grids = [
        np.asarray(field.detach() if isinstance(field, Tensor) else field, np.float64) for field in fields
    ]
    _check_steps(grids, labels, active, None)
    low, high = _range(grids, diverging) if limits is None else figures._limits(grids[0], "field", limits)
    n_lat, n_lon = grids[0].shape
    if n_lon != 2 * n_lat or 180 % n_lat:
        raise ValueError(
            f"fields must lie on a grid of globe_grid, (180 / step, 360 / step), got {grids[0].shape}"
        )
    lon, lat, _ = globe_grid(180 // n_lat)
    scale = figures.DIVERGING_SCALE if diverging else figures.FIELD_SCALE

    def drawn(grid: np.ndarray) -> go.Figure:
        values = _as_bytes(grid, low, high).astype(np.float64)
        return figures.globe(lon, lat, values, scale=scale, limits=(-127, 127), points=points, center=center)

    figure = drawn(grids[active])
    ticks = {"tickvals": [-127, 0, 127], "ticktext": [f"{v:.2g}" for v in (low, (low + high) / 2, high)]}
    figure.data[0].update(
        colorbar={**ticks, "title": {"text": colorbar, "side": "right"}, "thickness": 12, "len": 0.8}
    )
    colors = [np.asarray(drawn(grid).data[0].surfacecolor).astype(np.int8) for grid in grids]
    figure.data[0].update(surfacecolor=colors[active])
    figure.frames = [
        go.Frame(data=[go.Surface(surfacecolor=color)], traces=[0], name=str(i))
        for i, color in enumerate(colors)
    ]
    figure.update_layout(sliders=[frame_slider(labels, prefix, active)], height=height)
    return figure


def globe_grid(step_deg: int = 4) -> tuple[np.ndarray, np.ndarray, Float[Tensor, "n 2"]]:
    """Cell centres of a regular grid for `globe_slider`: longitudes, latitudes and the places (n_lat * n_lon, 2)."""
    check_count("step_deg", step_deg, at_most=90)
    if 180 % step_deg:
        raise ValueError(f"step_deg must divide 180, for example 2, 4 or 5, got {step_deg}")
    lon = np.arange(-180 + step_deg / 2, 180, step_deg)
    lat = np.arange(-90 + step_deg / 2, 90, step_deg)
    return lon, lat, torch.from_numpy(np.stack(np.meshgrid(lon, lat), axis=-1).reshape(-1, 2))


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
            if np.shape(_short(curve.x)) != np.shape(_short(curve.y)):
                raise ValueError(
                    f"curve {curve.name!r} has {len(curve.x)} values of x, but {len(curve.y)} of y"
                )
    _check_labels(len(frames), labels, active)

    def traces(curves: Sequence[Curve]) -> list[go.Scatter]:
        return [
            go.Scatter(
                x=_short(c.x),
                y=_short(c.y),
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
        figure.frames = [go.Frame(data=traces(curves), name=str(i)) for i, curves in enumerate(frames)]
        figure.update_layout(sliders=[frame_slider(labels, prefix, active, space_px=65)])
    figure.update_layout(
        xaxis=dict(x),
        yaxis=dict(y),
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        height=height,
        margin={"l": 60, "r": 15, "t": 45, "b": 10 if len(frames) > 1 else 50},
    )
    return figure


def frame_slider(
    labels: Sequence[str], prefix: str, active: int = 0, *, space_px: int = 45
) -> dict[str, Any]:
    """Layout of a slider that plays one frame a step. Labels too long to stand side by side show only when chosen."""
    now = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    steps = [{"label": label, "method": "animate", "args": [[str(i)], now]} for i, label in enumerate(labels)]
    crowded = sum(map(len, labels)) > 40
    return {
        "active": active,
        "currentvalue": {"prefix": prefix},
        "font": {"color": "rgba(0,0,0,0)" if crowded else figures.NEUTRAL},
        "pad": {"t": space_px, "b": 5},
        "steps": steps,
    }


def feature_browser(
    encoder: Encoder,
    columns: Sequence[int],
    labels: Sequence[str],
    *,
    prefix: str = "",
    n_lon: int = 120,
    n_lat: int = 60,
) -> go.Figure:
    """A world map of one feature at a time, with a slider over the features ``columns`` named ``labels``."""
    _, _, places = equal_area_grid(n_lon, n_lat)
    every = diagnostics._encode(encoder, places)
    for column in columns:
        check_count("columns", column, at_least=0, at_most=every.shape[1] - 1)
    features = every[:, list(columns)].reshape(n_lat, n_lon, -1)
    return map_slider(list(features.unbind(-1)), labels, prefix=prefix, colorbar="value")


def kernel_maps(
    encoder: Encoder | Sequence[Encoder],
    places: Sequence[Place],
    labels: Sequence[str],
    *,
    prefix: str = "",
    n_lon: int = 120,
    n_lat: int = 60,
    active: int = 0,
) -> go.Figure:
    """A world map of the similarity (cosine) of every place to one marked place, with a slider.

    The slider runs over ``places``, over several encoders, or over pairs of both; a single one of either is
    used throughout.
    """
    encoders = list(encoder) if isinstance(encoder, Sequence) else [encoder] * len(places)
    marked = list(places) if len(places) > 1 else list(places) * len(encoders)
    _, _, grid = equal_area_grid(n_lon, n_lat)
    fields = [
        _similarity(one, torch.tensor([place], dtype=torch.float64), grid)
        for one, place in zip(encoders, marked, strict=True)
    ]
    return map_slider(
        [field.reshape(n_lat, n_lon) for field in fields],
        labels,
        prefix=prefix,
        colorbar="similarity",
        limits=(-1, 1),
        points=[[place] for place in marked],
        active=active,
    )


def kernel_profiles(
    encoder: Encoder,
    *,
    color: str,
    lat_deg: Sequence[float] = (0, 30, 60, 80),
    max_km: float = 4000.0,
    steps: int = 200,
    active: int = 0,
) -> go.Figure:
    """Similarity against great-circle distance, along parallel and meridian, with a slider over latitude."""
    distances = torch.linspace(0, max_km, steps, dtype=torch.float64)

    def curves(lat: float) -> list[Curve]:
        both = {
            direction: diagnostics.kernel_profile(
                encoder, distances, lon_deg=20, lat_deg=lat, direction=direction
            )
            for direction in ("parallel", "meridian")
        }
        return [
            Curve("east along the parallel", distances, both["parallel"], color, "solid"),
            Curve("along the meridian", distances, both["meridian"], figures.NEUTRAL, "dash"),
        ]

    return curve_slider(
        [curves(lat) for lat in lat_deg],
        [f"{lat:g}°" for lat in lat_deg],
        prefix="latitude ",
        active=active,
        x={"title": "great-circle distance (km)", "range": [0, max_km]},
        y={"title": "similarity (cosine)", "range": [-1.02, 1.05]},
    )


def edges(encoder: Encoder, *, color: str, lat_deg: float = 40.0) -> go.Figure:
    """The two places where a map tears: similarity across the date line, and of a pole to itself.

    On the left, similarity of (179 E, ``lat_deg``) to the places of its parallel on both sides of the date
    line: an encoder of the sphere has the same curve on both sides. On the right, similarity of the North
    Pole named with longitude 0 to the same point named with other longitudes: it should be 1 throughout.
    """
    offsets = torch.linspace(-30, 30, 241, dtype=torch.float64)
    lon = (180 + offsets + 180) % 360 - 180
    lon[offsets == 0] = 180
    parallel = torch.stack([lon, torch.full_like(lon, lat_deg)], dim=-1)
    here = torch.tensor([[179.0, lat_deg]], dtype=torch.float64)
    across = _similarity(encoder, here, parallel)
    west, east = offsets <= 0, offsets > 0

    names = torch.linspace(-180, 180, 181, dtype=torch.float64)
    pole = torch.stack([names, torch.full_like(names, 90)], dim=-1)
    at_pole = _similarity(encoder, torch.tensor([[0.0, 90.0]], dtype=torch.float64), pole)

    figure = make_subplots(
        1,
        2,
        horizontal_spacing=0.14,
        shared_yaxes=True,
        subplot_titles=("the date line", "the North Pole"),
    )
    line = {"color": color, "width": 2}
    for side in (west, east):
        figure.add_scatter(
            x=_short(180 + offsets[side]), y=_short(across[side]), mode="lines", line=line, row=1, col=1
        )
    figure.add_scatter(x=_short(names), y=_short(at_pole), mode="lines", line=line, row=1, col=2)
    figure.add_vline(x=180, line={"dash": "dot", "width": 1, "color": figures.NEUTRAL}, row=1, col=1)
    figure.update_xaxes(
        title="longitude",
        row=1,
        col=1,
        tickvals=[150, 180, 210],
        ticktext=["150°E", "180°", "150°W"],
    )
    figure.update_xaxes(
        title="the pole's longitude", tickvals=[-90, 0, 90], ticktext=["90°W", "0°", "90°E"], row=1, col=2
    )
    figure.update_yaxes(title="similarity (cosine)", range=[-1.05, 1.08], row=1, col=1)
    figure.update_layout(showlegend=False, height=320, margin={"l": 60, "r": 15, "t": 40, "b": 50})
    return figure


def report_card(measured: Mapping[str, Any], features: int) -> str:
    """The result of `tslab.diagnostics.diagnose` as a Markdown table: question, value, the value on a sphere."""

    def number(value: float) -> str:
        return "0" if abs(value) < 5e-7 else readable(value) if abs(value) < 0.01 else f"{value:.2f}"

    def distance(km: float) -> str:
        return f"{km:,.0f} km" if km >= 10 else f"{km:.2g} km"

    verdict = {True: "yes", False: "no"}
    rows = [
        (
            "Jump at the date line (seam gap)",
            number(measured["seam_gap"]),
            "0",
            verdict[measured["continuous"]],
        ),
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
    table = table[
        (table.metric == metric) & table.dataset.isin(CLASSIFICATION_DATASETS) & (table.encoder != "gpt4v")
    ]
    matrix = table.pivot(index="encoder", columns="dataset", values="published")[
        list(CLASSIFICATION_DATASETS)
    ]
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
        x=_short(spots.to_numpy()),
        y=[CLASSIFICATION_DATASETS[d] for _, d in spots.index],
        mode="markers",
        name="other encoders",
        marker={"color": figures.NEUTRAL, "size": 7, "opacity": 0.45},
        text=[encoder_row_name(key) for key, _ in spots.index],
        hovertemplate="%{text}: %{x:+.2f}<extra></extra>",
    )
    shapes = ("diamond", "square", "triangle-up", "circle", "x", "star")
    for i, (key, shape) in enumerate(zip(chosen, shapes, strict=False)):
        name = encoder_row_name(key)  # all but the first are hollow, so that they hide none
        figure.add_scatter(
            x=_short(gains.loc[key].to_numpy()),
            y=names,
            mode="markers",
            name=name,
            marker={
                "color": figures.encoder_color(key),
                "symbol": f"{shape}-open" if i else shape,
                "size": 12,
                "line": {"width": 2} if i else {"color": "white", "width": 1},
            },
            hovertemplate=f"{name}: %{{x:+.2f}}<extra></extra>",
        )
    figure.add_vline(x=0, line={"width": 1, "color": figures.NEUTRAL})
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
        f"{CLASSIFICATION_DATASETS[d]} {gains.loc[key, d]:+.2f} (rank {int(order[d])})"
        for d in CLASSIFICATION_DATASETS
    ]
    return (
        f"Published gain of {encoder_row_name(key)} over the image model alone, in points of Top-1, and its rank among "
        f"{len(gains)} encoders: " + ", ".join(parts) + "."
    )


def coastline(*, width: float = 0.8, equal_area: bool = True, color: str = figures.DARK_LINE) -> go.Scatter:
    """The coastlines as one line, on the equal-area map or, without ``equal_area``, in degrees."""
    lines = figures._coastline(simplified=True)
    lat = np.sin(np.deg2rad(lines[:, 1])) if equal_area else lines[:, 1]
    return go.Scatter(
        x=np.round(lines[:, 0], 1).astype(np.float32),
        y=np.round(lat, 3).astype(np.float32),
        mode="lines",
        line={"color": color, "width": width},
        hoverinfo="skip",
        showlegend=False,
    )


def _similarity(
    encoder: Encoder, one: Float[Tensor, "1 2"], places: Float[Tensor, "n 2"]
) -> Float[Tensor, " n"]:
    return torch.cosine_similarity(
        diagnostics._encode(encoder, one), diagnostics._encode(encoder, places), dim=-1
    )


def _as_grid(field: Any) -> np.ndarray:
    """A field as (n_lat, n_lon); a flat one is taken to be twice as wide as high."""
    grid = np.asarray(field.detach().cpu() if isinstance(field, Tensor) else field, np.float64)
    if grid.ndim == 1:
        n_lat = round((grid.size / 2) ** 0.5)
        if not grid.size or 2 * n_lat**2 != grid.size:
            raise ValueError(
                f"a flat field must fill a grid twice as wide as high, got {grid.size} values; shape it (n_lat, n_lon)"
            )
        grid = grid.reshape(n_lat, -1)
    return grid


def _check_steps(
    grids: Sequence[np.ndarray], labels: Sequence[str], active: int, points: Sequence[Any] | None
) -> None:
    """Raise ``ValueError`` unless there are fields, all of one shape, each with a label (and with its points)."""
    _check_labels(len(grids), labels, active)
    if any(grid.ndim != 2 or grid.shape != grids[0].shape or not grid.size for grid in grids):
        shapes = ", ".join(sorted({str(grid.shape) for grid in grids}))
        raise ValueError(f"fields must be (n_lat, n_lon), not empty and all of one shape, got {shapes}")
    if points is not None and len(points) != len(grids):
        raise ValueError(f"points must have one entry for each of {len(grids)} fields, got {len(points)}")


def _check_labels(steps: int, labels: Sequence[str], active: int) -> None:
    if steps == 0:
        raise ValueError("there is nothing to show: give at least one field or set of curves")
    if steps > 1 and len(labels) != steps:
        raise ValueError(f"labels must name each of {steps} steps of the slider, got {len(labels)}")
    check_count("active", active, at_least=0, at_most=steps - 1)


def _range(grids: Sequence[np.ndarray], diverging: bool) -> tuple[float, float]:
    """Limits of the colours; of fields without any value those of a field of zeros."""
    finite = [part for part in (grid[np.isfinite(grid)] for grid in grids) if part.size]
    low, high = (
        (min(part.min() for part in finite), max(part.max() for part in finite)) if finite else (0.0, 0.0)
    )
    if diverging:
        most = max(abs(low), abs(high)) or 1.0
        return -most, most
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _as_bytes(grid: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values on [low, high] as -127 ... 127; a missing value is -128."""
    scaled = np.round((np.clip(grid, low, high) - low) / (high - low) * 254 - 127)
    return np.where(np.isnan(scaled), -128, scaled).astype(np.int8)


def _with_missing(scale: figures.Scale) -> figures.Scale:
    """A colour scale for -128 ... 127 whose lowest value is the colour of missing values."""
    first = 1 / 255
    start: figures.Scale = [[0.0, figures.MISSING_COLOR], [first * 0.999, figures.MISSING_COLOR]]
    return start + [[first + (1 - first) * float(stop), color] for stop, color in scale]


def _bar_on_top(title: str, ticks: Mapping[str, Any]) -> dict[str, Any]:
    """A colour bar above the map, so that the map has the full width of a phone."""
    return {
        **ticks,
        "title": {"text": title, "side": "top"},
        "orientation": "h",
        "x": 0.5,
        "y": 1.0,
        "yanchor": "bottom",
        "len": 0.6,
        "thickness": 10,
    }


def _markers(places: Any) -> go.Scatter:
    lonlat = np.asarray(places, np.float64).reshape(-1, 2)
    return go.Scatter(
        x=_short(lonlat[:, 0]),
        y=_short(np.sin(np.deg2rad(lonlat[:, 1]))),
        mode="markers",
        showlegend=False,
        cliponaxis=False,
        marker={
            "size": 9 if len(lonlat) < 20 else 4,
            "color": MARKER,
            "line": {"color": "white", "width": 1},
        },
        hovertemplate="%{text}<extra></extra>",
        text=[figures.place_name((a, b)) for a, b in lonlat] if len(lonlat) < 20 else None,
    )


def _short(values: Any) -> np.ndarray:
    return np.asarray(values.detach() if isinstance(values, Tensor) else values).astype(np.float32)


def _map_axes(figure: go.Figure) -> None:
    lat_values = [float(np.sin(np.deg2rad(lat))) for lat in LAT_TICKS]
    figure.update_xaxes(
        tickvals=[-180, -90, 0, 90, 180],
        ticktext=["180°", "90°W", "0°", "90°E", "180°"],
        range=[-180, 180],
        showgrid=False,
        zeroline=False,
        ticks="outside",
        ticklen=5,
        tickcolor="rgba(0,0,0,0)",
    )
    figure.update_yaxes(
        tickvals=lat_values,
        ticktext=[f"{abs(lat)}°{'S' if lat < 0 else 'N' if lat > 0 else ''}" for lat in LAT_TICKS],
        range=[-1, 1],
        showgrid=False,
        zeroline=False,
    )
