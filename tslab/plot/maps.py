"""Maps and globes of a field, of points, or of both.

Fields are drawn on equal-area maps (Equal Earth) or on a globe, over the coastlines of `tslab.earth`; nothing is
downloaded. A map never smooths a field across the date line, because the seam there is often what a figure is about.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
import shapely
from numpy.typing import ArrayLike, NDArray

from tslab._checks import check_choice, check_count, check_number
from tslab.earth import land_lines, land_polygons
from tslab.plot.colors import DARK_LINE, LIGHT_LINE, NEUTRAL, Scale, ScaleName, named_scale, value_range
from tslab.plot.projection import (
    HALF_HEIGHT,
    HALF_WIDTH,
    Place,
    checked_grid,
    closed_grid,
    coastline_points,
    equal_earth,
    graticule,
    inverse_equal_earth,
    map_edge,
    on_sphere,
    pieces,
    place_name,
)
from tslab.plot.theme import matplotlib_style


def globe(
    lon: ArrayLike | None = None,
    lat: ArrayLike | None = None,
    values: ArrayLike | None = None,
    *,
    label: str = "",
    scale: ScaleName | Scale = "field",
    limits: tuple[float, float] | None = None,
    points: ArrayLike | None = None,
    point_text: Sequence[str] | None = None,
    point_color: str = "#d1290b",
    center: Place = (15, 20),
    height: int = 460,
) -> go.Figure:
    """A globe to turn by hand, coloured by a field on a longitude/latitude grid, with coastlines and, if
    given, points.

    Args:
        lon: (x,) longitudes of the grid in degrees, increasing, at most 360 degrees wide.
        lat: (y,) latitudes in degrees, increasing or decreasing.
        values: (y, x) field; NaN where there is none. About 45 x 90 values make a light figure (100 kB) that
            turns smoothly.
        label: title of the colour bar, with the unit.
        scale: "field", "diverging" (symmetric about zero unless ``limits`` are given), or a plotly colour
            scale.
        limits: (lowest, highest) value of the colour bar.
        points: (n, 2) longitude and latitude of places to mark.
        point_text: what the pointer shows at each of them.
        point_color: their colour.
        center: the place in the middle.
        height: pixels.
    """
    check_count("height", height)
    _check_place("center", center)
    figure = go.Figure(_plain_globe() if values is None else _field_globe(lon, lat, values, scale, limits, label))
    figure.add_scatter3d(
        **_on_globe(coastline_points(simplified=True), 1.004),
        mode="lines",
        line={"color": LIGHT_LINE if values is not None and scale == "field" else DARK_LINE, "width": 2},
        hoverinfo="skip",
        showlegend=False,
    )
    if points is not None:
        places = _places(points, point_text)
        figure.add_scatter3d(
            **_on_globe(places, 1.012),
            mode="markers",
            showlegend=False,
            **_hover(places, point_text),
            marker={"size": 5, "color": point_color, "line": {"color": "white", "width": 1}},
        )
    return figure.update_layout(height=height, margin={"l": 0, "r": 0, "t": 0, "b": 0}, scene=_turntable(center))


def world_map(
    lon: ArrayLike | None = None,
    lat: ArrayLike | None = None,
    values: ArrayLike | None = None,
    *,
    label: str = "",
    scale: ScaleName | Scale = "field",
    limits: tuple[float, float] | None = None,
    points: ArrayLike | None = None,
    point_text: Sequence[str] | None = None,
    point_color: str | Sequence[float] = "#d1290b",
    point_size: float = 7,
    height: int = 420,
) -> go.Figure:
    """An equal-area world map (Equal Earth) of a field on a longitude/latitude grid, of points, or of both,
    with coastlines.

    Arguments as in `globe`; ``point_color`` may also be (n,) numbers, which are then drawn on the colour
    scale. The field is resampled, without smoothing, to cells of two degrees.
    """
    check_count("height", height)
    check_number("point_size", point_size, above=0)
    figure = go.Figure()
    if values is not None:
        figure.add_heatmap(
            **_projected_field(lon, lat, values), colorscale=named_scale(scale), colorbar=_colorbar(label), name=label
        )
        low, high = value_range(np.asarray(values, np.float64), scale, limits)
        figure.update_traces(zmin=low, zmax=high, hovertemplate="%{z:.3g}<extra></extra>", selector={"type": "heatmap"})
    figure.add_traces(
        [
            _lines(graticule(), "rgba(117,127,136,0.45)", 0.6),
            _lines(map_edge(), NEUTRAL, 1.5),
            _lines(coastline_points(simplified=True), NEUTRAL if values is None else DARK_LINE, 0.9),
        ]
    )
    if points is not None:
        places = _places(points, point_text)
        marker = {
            "size": point_size,
            "color": point_color,
            "line": {"color": "white", "width": 0.8},
            **_point_colors(point_color, len(places), scale, limits, label),
        }
        x, y = map(_f4, equal_earth(*places.T))
        figure.add_scatter(x=x, y=y, mode="markers", marker=marker, showlegend=False, **_hover(places, point_text))
    axis = {"visible": False, "fixedrange": False}
    half_width, half_height = HALF_WIDTH * 1.01, HALF_HEIGHT * 1.02
    figure.update_layout(
        height=height,
        margin={"l": 0, "r": 0, "t": 5, "b": 5},
        xaxis={**axis, "range": [-half_width, half_width]},
        yaxis={**axis, "range": [-half_height, half_height], "scaleanchor": "x", "constrain": "domain"},
    )
    return figure


def static_map(
    *,
    projection: Literal["equal_earth", "globe"] = "equal_earth",
    center: Place = (0, 20),
    width: float = 7.0,
    land: bool = True,
) -> tuple[Any, Any]:
    """A matplotlib figure and cartopy axes with the land outline, for pictures that need no interaction.

    Plot on the axes with ``transform=cartopy.crs.PlateCarree()`` and display with `show`. Nothing is
    downloaded.

    Args:
        projection: "equal_earth" (equal-area world map) or "globe" (orthographic, seen from above
            ``center``).
        center: longitude and latitude of the middle; the map uses the longitude only.
        width: width of the figure in inches.
        land: fill the land below the data; the coastline is drawn either way.
    """
    import matplotlib.pyplot as plt
    from cartopy import crs

    check_choice("projection", projection, ("equal_earth", "globe"))
    check_number("width", width, above=0)
    _check_place("center", center)
    globe_like = projection == "globe"
    target = crs.Orthographic(*center) if globe_like else crs.EqualEarth(center[0])
    with matplotlib_style():
        figure = plt.figure(
            figsize=(width, width if globe_like else width * HALF_HEIGHT / HALF_WIDTH), layout="constrained"
        )
        axes = figure.add_subplot(projection=target)
    axes.set_global()
    axes.spines["geo"].set(linewidth=0.6, edgecolor=NEUTRAL)
    plain = crs.PlateCarree()
    if land:
        axes.add_geometries([land_polygons()], plain, facecolor="#dde4e8", edgecolor="none", zorder=0.5)
    coast = shapely.MultiLineString(pieces(land_lines()))
    axes.add_geometries([coast], plain, facecolor="none", edgecolor=DARK_LINE, linewidth=0.5, zorder=2)
    return figure, axes


def _field_globe(
    lon: ArrayLike | None,
    lat: ArrayLike | None,
    values: ArrayLike,
    scale: ScaleName | Scale,
    limits: tuple[float, float] | None,
    label: str,
) -> go.Surface:
    lon_deg, lat_deg, field = closed_grid(lon, lat, values)
    low, high = value_range(field, scale, limits)
    return _surface(
        lon_deg,
        lat_deg,
        field.astype(np.float32),
        cmin=low,
        cmax=high,
        colorscale=named_scale(scale),
        colorbar=_colorbar(label),
        name=label,
        lighting={"ambient": 1, "diffuse": 0, "specular": 0, "fresnel": 0},
    )


def _plain_globe() -> go.Surface:
    return _surface(
        np.linspace(-180, 180, 73),
        np.linspace(-90, 90, 37),
        np.zeros((37, 73), np.int8),
        showscale=False,
        colorscale=[[0, "#e9eef1"], [1, "#e9eef1"]],
        lighting={"ambient": 1, "diffuse": 0},
    )


def _surface(lon: NDArray[Any], lat: NDArray[Any], colors: NDArray[Any], **how: Any) -> go.Surface:
    x, y, z = map(_int16, on_sphere(*np.meshgrid(lon, lat)))
    return go.Surface(x=x, y=y, z=z, surfacecolor=colors, hoverinfo="skip", contours=_NO_HIGHLIGHT, **how)


def _turntable(center: Place) -> dict[str, Any]:
    """The scene of a globe that turns about its axis, seen from above ``center``."""
    eye = 2 * np.array(on_sphere(np.float64(center[0]), np.float64(center[1])))
    hidden = {"visible": False, "range": [-1.02 * _RADIUS, 1.02 * _RADIUS]}
    return {
        "xaxis": hidden,
        "yaxis": hidden,
        "zaxis": hidden,
        "aspectmode": "manual",
        "aspectratio": dict.fromkeys("xyz", 1.9),
        "dragmode": "turntable",
        "camera": {
            "eye": dict(zip("xyz", eye.tolist(), strict=True)),
            "up": {"x": 0, "y": 0, "z": 1},
            "projection": {"type": "orthographic"},
        },
    }


def _lines(lonlat: NDArray[Any], color: str, width: float) -> go.Scatter:
    """A polyline on the Equal Earth map."""
    x, y = map(_f4, equal_earth(*lonlat.T))
    line = {"color": color, "width": width}
    return go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _point_colors(
    point_color: str | Sequence[float],
    count: int,
    scale: ScaleName | Scale,
    limits: tuple[float, float] | None,
    label: str,
) -> dict[str, Any]:
    """How numbers colour the markers; nothing for one colour."""
    if isinstance(point_color, str):
        return {}
    if np.shape(point_color) != (count,):
        raise ValueError(
            f"point_color must be a colour or one number for each of {count} points, got shape {np.shape(point_color)}"
        )
    low, high = value_range(np.asarray(point_color, np.float64), scale, limits)
    return {"colorscale": named_scale(scale), "cmin": low, "cmax": high, "colorbar": _colorbar(label)}


def _projected_field(lon: ArrayLike | None, lat: ArrayLike | None, values: ArrayLike) -> dict[str, Any]:
    """Heatmap arguments: the nearest grid value at each cell of the Equal Earth plane, NaN outside the world
    and the grid."""
    lon_deg, lat_deg, field = checked_grid(lon, lat, values)
    columns, rows = 200, 98
    x = (np.arange(columns) + 0.5) / columns * 2 * HALF_WIDTH - HALF_WIDTH
    y = (np.arange(rows) + 0.5) / rows * 2 * HALF_HEIGHT - HALF_HEIGHT
    at_lon, at_lat = inverse_equal_earth(*np.meshgrid(x, y))
    column, far_x = _nearest(lon_deg, at_lon)
    row, far_y = _nearest(lat_deg, at_lat)
    z = np.where(np.isnan(at_lon) | far_x | far_y, np.nan, field[row, column])
    return {"x": _f4(x), "y": _f4(y), "z": _f4(z), "hoverongaps": False}


def _nearest(grid: NDArray[np.float64], at: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Index of the nearest grid value, and where even that is more than a cell away."""
    middle = (grid[1:] + grid[:-1]) / 2
    index = np.searchsorted(middle, np.nan_to_num(at))
    step = np.diff(grid).max() if grid.size > 1 else 360.0
    return index, np.abs(grid[index] - at) > step


def _colorbar(label: str) -> dict[str, Any]:
    """Below the figure, so that a phone's width is left to the map."""
    where = {"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.02, "yanchor": "top"}
    return where | {"title": {"text": label, "side": "bottom"}, "thickness": 10, "len": 0.6, "outlinewidth": 0}


def _hover(places: NDArray[np.float64], text: Sequence[str] | None) -> dict[str, Any]:
    shown = list(text) if text is not None else [f"{place_name((float(a), float(b)))}" for a, b in places]
    return {"text": shown, "hovertemplate": "%{text}<extra></extra>"}


def _places(points: ArrayLike, text: Sequence[str] | None) -> NDArray[np.float64]:
    places = np.asarray(points, np.float64)
    if places.size == 0:
        places = places.reshape(0, 2)
    if places.ndim != 2 or places.shape[1] != 2:
        raise ValueError(f"points must have shape (n, 2), longitude then latitude, got {places.shape}")
    outside = np.flatnonzero((np.abs(places) > (180, 90)).any(axis=1))
    if len(outside):
        raise ValueError(
            f"points[{outside[0]}] = {tuple(places[outside[0]].tolist())} is no (longitude, latitude) in degrees"
        )
    if text is not None and len(text) != len(places):
        raise ValueError(f"point_text must have one text for each of {len(places)} points, got {len(text)}")
    return places


def _check_place(name: str, place: Place) -> None:
    """Raise ``ValueError`` unless the place exists."""
    values = np.asarray(place, np.float64)
    if values.shape != (2,) or not (np.abs(values) <= (180, 90)).all():
        raise ValueError(f"{name} must be (longitude, latitude) in degrees, got {place!r}")


_RADIUS = 10_000
"""Radius of the plotly globe, so that its coordinates fit into 16-bit integers."""


_NO_HIGHLIGHT = {axis: {"highlight": False} for axis in "xyz"}


def _on_globe(places: NDArray[np.float64], radius: float) -> dict[str, NDArray[np.float32]]:
    return {axis: _f4(np.round(a * radius * _RADIUS)) for axis, a in zip("xyz", on_sphere(*places.T), strict=True)}


def _int16(values: NDArray[np.float64]) -> NDArray[np.int16]:
    return np.round(values * _RADIUS).astype(np.int16)


def _f4(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)
