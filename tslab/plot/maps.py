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
from tslab.earth import land_polygons
from tslab.plot.projection import (
    HALF_HEIGHT,
    HALF_WIDTH,
    Place,
    check_place,
    checked_grid,
    closed_grid,
    coastline_pieces,
    coastline_points,
    equal_earth,
    graticule,
    inverse_equal_earth,
    map_edge,
    on_sphere,
    place_name,
    short,
)
from tslab.plot.style import DARK_LINE, LIGHT_LINE, MARKER, NEUTRAL, STYLE, Scale, ScaleName, colored, matplotlib_style


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
    point_color: str = MARKER,
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
    check_place("center", center)
    if values is None:
        surface = _surface(
            np.linspace(-180, 180, 73), np.linspace(-90, 90, 37), np.zeros((37, 73), np.int8), STYLE["plain_globe"]
        )
    else:
        lon_deg, lat_deg, field = closed_grid(lon, lat, values)
        how = STYLE["field_globe"] | {"name": label} | colored(field, scale, limits, label)
        surface = _surface(lon_deg, lat_deg, short(field), how)
    figure = go.Figure(surface)
    line = {"color": LIGHT_LINE if values is not None and scale == "field" else DARK_LINE, "width": 2}
    coast = _on_globe(coastline_points(), 1.004)
    figure.add_scatter3d(**coast, mode="lines", line=line, hoverinfo="skip", showlegend=False)
    if points is not None:
        places, shown = _marked(points, point_text)
        marker = {"size": 5, "color": point_color, "line": {"color": "white", "width": 1}}
        figure.add_scatter3d(**_on_globe(places, 1.012), **shown, marker=marker)
    hidden = {"visible": False, "range": [-1.02 * _RADIUS, 1.02 * _RADIUS]}
    eye = dict(zip("xyz", (2 * float(part) for part in on_sphere(*center)), strict=True))
    scene = STYLE["globe_scene"] | {"camera": STYLE["globe_scene"]["camera"] | {"eye": eye}}
    scene |= {axis: hidden for axis in ("xaxis", "yaxis", "zaxis")}
    return figure.update_layout(height=height, margin={"l": 0, "r": 0, "t": 0, "b": 0}, scene=scene)


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
    point_color: str | Sequence[float] = MARKER,
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
        field = _projected_field(lon, lat, values)
        how = colored(np.asarray(values, np.float64), scale, limits, label)
        field |= {"zmin": how.pop("cmin"), "zmax": how.pop("cmax")} | how
        figure.add_heatmap(**field, name=label, hovertemplate="%{z:.3g}<extra></extra>")
    figure.add_trace(_lines(graticule(), "rgba(117,127,136,0.45)", 0.6))
    figure.add_trace(_lines(map_edge(), NEUTRAL, 1.5))
    figure.add_trace(_lines(coastline_points(), NEUTRAL if values is None else DARK_LINE, 0.9))
    if points is not None:
        places, shown = _marked(points, point_text)
        marker: dict[str, Any] = {"size": point_size, "color": point_color, "line": {"color": "white", "width": 0.8}}
        if not isinstance(point_color, str):
            if np.shape(point_color) != (len(places),):
                raise ValueError(
                    f"point_color must be a colour or one number for each of {len(places)} points, got shape "
                    f"{np.shape(point_color)}"
                )
            marker |= colored(np.asarray(point_color, np.float64), scale, limits, label)
        x, y = map(short, equal_earth(*places.T))
        figure.add_scatter(x=x, y=y, marker=marker, **shown)
    x_axis = {"visible": False, "fixedrange": False, "range": [-1.01 * HALF_WIDTH, 1.01 * HALF_WIDTH]}
    y_axis = x_axis | {"range": [-1.02 * HALF_HEIGHT, 1.02 * HALF_HEIGHT], "scaleanchor": "x", "constrain": "domain"}
    return figure.update_layout(height=height, margin={"l": 0, "r": 0, "t": 5, "b": 5}, xaxis=x_axis, yaxis=y_axis)


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
    check_place("center", center)
    if projection == "globe":
        target, height = crs.Orthographic(*center), width
    else:
        target, height = crs.EqualEarth(center[0]), width * HALF_HEIGHT / HALF_WIDTH
    with matplotlib_style():
        figure = plt.figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot(projection=target)
    axes.set_global()
    axes.spines["geo"].set(linewidth=0.6, edgecolor=NEUTRAL)
    plain = crs.PlateCarree()
    if land:
        axes.add_geometries([land_polygons()], plain, facecolor="#dde4e8", edgecolor="none", zorder=0.5)
    coast = shapely.MultiLineString(coastline_pieces())
    axes.add_geometries([coast], plain, facecolor="none", edgecolor=DARK_LINE, linewidth=0.5, zorder=2)
    return figure, axes


def _surface(lon: NDArray[Any], lat: NDArray[Any], colors: NDArray[Any], how: dict[str, Any]) -> go.Surface:
    x, y, z = (np.round(part * _RADIUS).astype(np.int16) for part in on_sphere(*np.meshgrid(lon, lat)))
    contours = {axis: {"highlight": False} for axis in "xyz"}
    return go.Surface(x=x, y=y, z=z, surfacecolor=colors, hoverinfo="skip", contours=contours, **how)


def _lines(lonlat: NDArray[Any], color: str, width: float) -> go.Scatter:
    """A polyline on the Equal Earth map."""
    x, y = map(short, equal_earth(*lonlat.T))
    line = {"color": color, "width": width}
    return go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)


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
    return {"x": short(x), "y": short(y), "z": short(z), "hoverongaps": False}


def _nearest(grid: NDArray[np.float64], at: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Index of the nearest grid value, and where even that is more than a cell away."""
    middle = (grid[1:] + grid[:-1]) / 2
    index = np.searchsorted(middle, np.nan_to_num(at))
    step = np.diff(grid).max() if grid.size > 1 else 360.0
    return index, np.abs(grid[index] - at) > step


def _marked(points: ArrayLike, text: Sequence[str] | None) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Places (n, 2) to mark, and how plotly shows them: by their text, or their coordinates."""
    places = np.asarray(points, np.float64)
    if places.size == 0:
        places = places.reshape(0, 2)
    if places.ndim != 2 or places.shape[1] != 2:
        raise ValueError(f"points must have shape (n, 2), longitude then latitude, got {places.shape}")
    outside = np.flatnonzero((np.abs(places) > (180, 90)).any(axis=1))
    if len(outside):
        at = tuple(places[outside[0]].tolist())
        raise ValueError(f"points[{outside[0]}] = {at} is no (longitude, latitude) in degrees")
    if text is not None and len(text) != len(places):
        raise ValueError(f"point_text must have one text for each of {len(places)} points, got {len(text)}")
    shown = [place_name((lon, lat)) for lon, lat in places.tolist()] if text is None else list(text)
    return places, {"mode": "markers", "text": shown, "hovertemplate": "%{text}<extra></extra>", "showlegend": False}


_RADIUS = 10_000
"""Radius of the plotly globe, so that its coordinates fit into 16-bit integers."""


def _on_globe(places: NDArray[np.float64], radius: float) -> dict[str, NDArray[np.float32]]:
    return {
        axis: short(np.round(part * radius * _RADIUS)) for axis, part in zip("xyz", on_sphere(*places.T), strict=True)
    }
