"""One visual language for every figure: colours, the plotly template, maps and globes, text alternatives and
captions.

The design tokens at the top are the only place where colours are chosen. Plotly, matplotlib and the widget's
style sheet (`css_tokens`) all read them. Importing this module registers the plotly template ``tslab`` and
makes it the default.

Fields are drawn on equal-area maps (Equal Earth) or on a globe, over the coastlines of `tslab.land`; nothing
is downloaded. A map never smooths a field across the date line, because the seam there is often what a
figure is about.
"""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np
import plotly.colors
import plotly.graph_objects as go
import plotly.io as pio
import shapely
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from tslab._checks import check_choice, check_count, check_number
from tslab.encoders import ENCODERS
from tslab.land import land_lines, land_polygons

FAMILY_COLORS = {
    "baseline": "#565f67",
    "planar": "#d68b00",
    "kernel": "#c986b6",
    "multi-scale planar": "#b14400",
    "spherical": "#8196f6",
    "sphere2vec": "#0364a4",
    "harmonic": "#099f6d",
}
"""One colour for each encoder family. Close to Okabe and Ito's, moved apart until every pair differs by more
than 20 CIELAB units for readers with protan, deutan and tritan vision too, and until each has a contrast of
2.7 on the white and on the dark page."""

FAMILY_DASHES = {
    "baseline": "dot",
    "planar": "dash",
    "kernel": "dashdot",
    "multi-scale planar": "longdash",
    "spherical": "dash",
    "sphere2vec": "solid",
    "harmonic": "longdashdot",
}
"""A plotly line dash for each family, for lines that must be told apart without colour."""

Scale: TypeAlias = list[list[float | str]]


def _stops(colors: Sequence[str]) -> Scale:
    return [[i / (len(colors) - 1), color] for i, color in enumerate(colors)]


FIELD_SCALE: Scale = _stops(plotly.colors.sequential.Viridis)
"""For a field without a special value: viridis, perceptually uniform and readable without colour vision."""

DIVERGING_SCALE: Scale = _stops(
    [
        "#123c73",
        "#345fa0",
        "#5c84bd",
        "#8dabd3",
        "#c0d2e6",
        "#f2f1ee",
        "#ecc9a6",
        "#d99f68",
        "#bd7536",
        "#94500f",
        "#643000",
    ]
)
"""For a field with a meaningful zero: blue below, brown above, as light as paper at zero, equally dark at
both ends."""

MISSING_COLOR = "#9aa1a8"
"""Where a field has no value."""

NEUTRAL = "#757f88"
"""Text and lines that must be readable on a white and on a dark page alike (contrast 4 on both)."""

DARK_LINE = "#1d2730"
"""Coastlines on light colours."""

LIGHT_LINE = "#f4f6f7"
"""Coastlines on dark colours."""

THEMES = {
    "light": {
        "text": "#1c2730",
        "muted": "#55626d",
        "line": "#9aa7b1",
        "grid": "#e2e7eb",
        "raised": "#ffffff",
        "page": "#ffffff",
        "accent": "#0b6480",
        "coast": DARK_LINE,
        "focus": "#0b6480",
        "danger": "#a3260f",
    },
    "dark": {
        "text": "#dce4ea",
        "muted": "#9dabb6",
        "line": "#6b7a86",
        "grid": "#2b3843",
        "raised": "#1d2932",
        "page": "#10171d",
        "accent": "#6fcbe6",
        "coast": DARK_LINE,
        "focus": "#8fd8ee",
        "danger": "#ff9d85",
    },
}
"""Colours of the page around a figure, for the light and the dark theme."""

FONT = 'Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

ScaleName = Literal["field", "diverging"]
Place = tuple[float, float]


def encoder_color(key: str) -> str:
    """The colour of the family of encoder ``key``; rows that are no encoders (``no_prior``) have the neutral
    colour."""
    return FAMILY_COLORS[ENCODERS[key].family] if key in ENCODERS else NEUTRAL


def encoder_dash(key: str) -> str:
    """The line dash of the family of encoder ``key``."""
    return FAMILY_DASHES[ENCODERS[key].family] if key in ENCODERS else "dot"


def show(figure: Any, *, alt: str, caption: str | None = None) -> None:
    """Display a plotly or matplotlib figure with a text alternative and, unless it is None, a caption below
    it.

    Works in the book, in Jupyter and in Colab. ``alt`` says what the picture shows to those who do not see
    it; it is kept in ``figure.layout.meta["alt"]``. ``caption`` says what to look at; it may contain inline
    HTML. Leave it None only where the sentence beside the figure already does that.

    Raises:
        ValueError: an empty text alternative.
    """
    from IPython.display import HTML, display

    if not isinstance(alt, str) or not alt.strip():
        raise ValueError("alt is empty; say in one or two sentences what the figure shows")
    if not isinstance(figure, go.Figure):
        display(HTML(_matplotlib_html(figure, alt, caption)))
        return
    meta = dict(figure.layout.meta or {}) | {"alt": alt}
    in_book = (
        pio.renderers.default == "tslab-book"
    )  # its renderer writes the caption itself, as a <figcaption>
    if caption and in_book:
        meta["caption"] = caption
    figure.update_layout(meta=meta)
    figure.show(config={"scrollZoom": False, "displaylogo": False, "responsive": True})
    if caption and not in_book:
        display(HTML(f'<p class="tslab-caption">{caption}</p>'))


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
    figure = go.Figure()
    if values is not None:
        lon_deg, lat_deg, field = _closed_grid(lon, lat, values)
        x, y, z = _xyz(*np.meshgrid(lon_deg, lat_deg))
        low, high = _limits(field, scale, limits)
        figure.add_surface(
            x=_int16(x),
            y=_int16(y),
            z=_int16(z),
            surfacecolor=field.astype(np.float32),
            cmin=low,
            cmax=high,
            colorscale=_scale(scale),
            colorbar=_colorbar(label),
            hoverinfo="skip",
            name=label,
            lighting={"ambient": 1, "diffuse": 0, "specular": 0, "fresnel": 0},
            contours=_NO_HIGHLIGHT,
        )
    else:
        grid_lon, grid_lat = np.meshgrid(np.linspace(-180, 180, 73), np.linspace(-90, 90, 37))
        x, y, z = _xyz(grid_lon, grid_lat)
        figure.add_surface(
            x=_int16(x),
            y=_int16(y),
            z=_int16(z),
            surfacecolor=np.zeros(x.shape, np.int8),
            showscale=False,
            hoverinfo="skip",
            colorscale=[[0, "#e9eef1"], [1, "#e9eef1"]],
            lighting={"ambient": 1, "diffuse": 0},
            contours=_NO_HIGHLIGHT,
        )
    coast = _coastline(simplified=True)
    figure.add_scatter3d(
        **_on_globe(coast, 1.004),
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
    eye = 2 * np.array(_xyz(np.float64(center[0]), np.float64(center[1])))
    hidden = {"visible": False, "range": [-1.02 * _RADIUS, 1.02 * _RADIUS]}
    figure.update_layout(
        height=height,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        scene={
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
        },
    )
    return figure


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
            **_projected_field(lon, lat, values),
            colorscale=_scale(scale),
            colorbar=_colorbar(label),
            name=label,
        )
        low, high = _limits(np.asarray(values, np.float64), scale, limits)
        figure.update_traces(
            zmin=low, zmax=high, hovertemplate="%{z:.3g}<extra></extra>", selector={"type": "heatmap"}
        )
    for lines, width in ((_graticule(), 0.6), (_frame(), 1.5)):
        x, y = equal_earth(*lines.T)
        line = {"color": "rgba(117,127,136,0.45)" if width < 1 else NEUTRAL, "width": width}
        figure.add_scatter(x=_f4(x), y=_f4(y), mode="lines", line=line, hoverinfo="skip", showlegend=False)
    x, y = equal_earth(*_coastline(simplified=True).T)
    coast = DARK_LINE if values is not None else NEUTRAL
    figure.add_scatter(
        x=_f4(x),
        y=_f4(y),
        mode="lines",
        line={"color": coast, "width": 0.9},
        hoverinfo="skip",
        showlegend=False,
    )
    if points is not None:
        places = _places(points, point_text)
        x, y = equal_earth(*places.T)
        colored = not isinstance(point_color, str)
        if colored and np.shape(point_color) != (len(places),):
            raise ValueError(
                f"point_color must be a colour or one number for each of {len(places)} points, got shape "
                f"{np.shape(point_color)}"
            )
        marker: dict[str, Any] = {
            "size": point_size,
            "color": point_color,
            "line": {"color": "white", "width": 0.8},
        }
        if colored:
            low, high = _limits(np.asarray(point_color, np.float64), scale, limits)
            marker |= {"colorscale": _scale(scale), "cmin": low, "cmax": high, "colorbar": _colorbar(label)}
        figure.add_scatter(
            x=_f4(x), y=_f4(y), mode="markers", marker=marker, showlegend=False, **_hover(places, point_text)
        )
    axis = {"visible": False, "fixedrange": False}
    half_width, half_height = _HALF_WIDTH * 1.01, _HALF_HEIGHT * 1.02
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
            figsize=(width, width if globe_like else width * _HALF_HEIGHT / _HALF_WIDTH), layout="constrained"
        )
        axes = figure.add_subplot(projection=target)
    axes.set_global()
    axes.spines["geo"].set(linewidth=0.6, edgecolor=NEUTRAL)
    plain = crs.PlateCarree()
    if land:
        axes.add_geometries([land_polygons()], plain, facecolor="#dde4e8", edgecolor="none", zorder=0.5)
    coast = shapely.MultiLineString(_pieces(land_lines()))
    axes.add_geometries([coast], plain, facecolor="none", edgecolor=DARK_LINE, linewidth=0.5, zorder=2)
    return figure, axes


@contextmanager
def matplotlib_style() -> Iterator[None]:
    """Within this context matplotlib figures have the fonts, colours and transparent background of the other
    figures."""
    import matplotlib as mpl
    from cycler import cycler

    style: Any = {
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "savefig.dpi": 160,
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": "#2b3843",
        "axes.labelcolor": "#2b3843",
        "xtick.color": "#2b3843",
        "ytick.color": "#2b3843",
        "axes.edgecolor": "#9aa7b1",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "image.cmap": "viridis",
        "axes.prop_cycle": cycler(color=list(FAMILY_COLORS.values())),
    }
    with mpl.rc_context(style):
        yield


def css_tokens(selector: str = ".tslab") -> str:
    """The design tokens as CSS custom properties: ``--tslab-text`` and so on, for ``selector`` and its dark
    form."""
    families = {f"family-{name.replace(' ', '-')}": color for name, color in FAMILY_COLORS.items()}
    shared = families | {"missing": MISSING_COLOR, "neutral": NEUTRAL, "font": FONT}
    rules = [(selector, shared | THEMES["light"]), (f'{selector}[data-theme="dark"]', THEMES["dark"])]
    return "".join(
        f"{where} {{\n" + "".join(f"  --tslab-{name}: {value};\n" for name, value in tokens.items()) + "}\n"
        for where, tokens in rules
    )


def equal_earth(lon: ArrayLike, lat: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Equal Earth projection of degrees to the plane, on a sphere of radius 1: equal areas stay equal.

    Source: Savric, Patterson and Jenny, The Equal Earth map projection, IJGIS 2019.
    """
    lam, phi = np.deg2rad(np.asarray(lon, np.float64)), np.deg2rad(np.asarray(lat, np.float64))
    theta = np.arcsin(np.sqrt(3) / 2 * np.sin(phi))
    t2 = theta**2
    x = 2 * np.sqrt(3) * lam * np.cos(theta) / (3 * _equal_earth_slope(t2))
    a1, a2, a3, a4 = _EQUAL_EARTH
    return x, theta * (a1 + t2 * (a2 + t2**2 * (a3 + t2 * a4)))


def inverse_equal_earth(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Degrees of points of the Equal Earth plane; NaN outside the world."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    a1, a2, a3, a4 = _EQUAL_EARTH
    theta = y / a1
    for _ in range(8):
        t2 = theta**2
        theta = theta - (theta * (a1 + t2 * (a2 + t2**2 * (a3 + t2 * a4))) - y) / _equal_earth_slope(t2)
    with np.errstate(invalid="ignore"):
        lat = np.rad2deg(np.arcsin(2 / np.sqrt(3) * np.sin(theta)))
        lon = np.rad2deg(x * 3 * _equal_earth_slope(theta**2) / (2 * np.sqrt(3) * np.cos(theta)))
    outside = (np.abs(lon) > 180 + 1e-9) | (np.abs(y) > _HALF_HEIGHT + 1e-12) | np.isnan(lat)
    return np.where(outside, np.nan, lon), np.where(outside, np.nan, lat)


_EQUAL_EARTH = (1.340264, -0.081106, 0.000893, 0.003796)


def _equal_earth_slope(t2: Any) -> Any:
    """dy / dtheta of Equal Earth, as a function of theta squared."""
    a1, a2, a3, a4 = _EQUAL_EARTH
    return a1 + t2 * (3 * a2 + t2**2 * (7 * a3 + t2 * 9 * a4))


_HALF_WIDTH = float(equal_earth(180, 0)[0])
_HALF_HEIGHT = float(equal_earth(0, 90)[1])

_RADIUS = 10_000
"""Radius of the plotly globe, so that its coordinates fit into 16-bit integers."""

_NO_HIGHLIGHT = {axis: {"highlight": False} for axis in "xyz"}


def _template() -> go.layout.Template:
    """Transparent, in the system's font, and readable on light and dark pages without knowing which one it
    is on."""
    soft = "rgba(117,127,136,0.28)"
    axis = {
        "gridcolor": soft,
        "linecolor": NEUTRAL,
        "zerolinecolor": "rgba(117,127,136,0.6)",
        "ticks": "",
        "automargin": True,
        "exponentformat": "none",
        "separatethousands": True,
    }
    axis3d = {"gridcolor": soft, "backgroundcolor": "rgba(0,0,0,0)", "color": NEUTRAL}
    colorbar = {"thickness": 12, "outlinewidth": 0}
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": NEUTRAL},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": list(FAMILY_COLORS.values()),
            "colorscale": {"sequential": FIELD_SCALE, "diverging": DIVERGING_SCALE},
            "coloraxis": {"colorbar": colorbar},
            "xaxis": axis,
            "yaxis": axis,
            "scene": {"xaxis": axis3d, "yaxis": axis3d, "zaxis": axis3d},
            "geo": {
                "bgcolor": "rgba(0,0,0,0)",
                "coastlinecolor": NEUTRAL,
                "framecolor": NEUTRAL,
                "showland": False,
            },
            "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
            "legend": {"bgcolor": "rgba(0,0,0,0)"},
            "hoverlabel": {"font": {"family": FONT}},
            "sliderdefaults": {"currentvalue": {"font": {"color": NEUTRAL, "size": 14}}},
        },
        data={
            "heatmap": [{"colorscale": FIELD_SCALE, "colorbar": colorbar}],
            "surface": [{"colorscale": FIELD_SCALE, "colorbar": colorbar}],
            "contour": [{"colorscale": FIELD_SCALE, "colorbar": colorbar}],
        },
    )


def _closed_grid(
    lon: ArrayLike | None, lat: ArrayLike | None, values: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The grid, south to north, grown to the date line and the poles by repeating its outermost values."""
    lon_deg, lat_deg, field = _checked_grid(lon, lat, values)
    if lon_deg[-1] - lon_deg[0] > 330 and lon_deg[0] > -180:
        lon_deg, field = np.r_[-180.0, lon_deg], np.concatenate([field[:, :1], field], axis=1)
    if lon_deg[-1] - lon_deg[0] > 330 and lon_deg[-1] < 180:
        lon_deg, field = np.r_[lon_deg, 180.0], np.concatenate([field, field[:, -1:]], axis=1)
    if -90 < lat_deg[0] < -80:
        lat_deg, field = np.r_[-90.0, lat_deg], np.concatenate([field[:1], field])
    if 80 < lat_deg[-1] < 90:
        lat_deg, field = np.r_[lat_deg, 90.0], np.concatenate([field, field[-1:]])
    return lon_deg, lat_deg, field


def _checked_grid(
    lon: ArrayLike | None, lat: ArrayLike | None, values: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    if lon is None or lat is None:
        raise ValueError("values need a grid: pass lon (x,), lat (y,) and values (y, x)")
    lon_deg, lat_deg, field = (np.asarray(a, np.float64) for a in (lon, lat, values))
    if field.shape != (lat_deg.size, lon_deg.size):
        raise ValueError(
            f"values must have shape (len(lat), len(lon)) = ({lat_deg.size}, {lon_deg.size}), got {field.shape}; "
            "transpose them if longitude comes first"
        )
    if field.size == 0:
        raise ValueError("the field has no cell: lon, lat or values are empty")
    for name, degrees, most in (("lon", lon_deg, 540), ("lat", lat_deg, 90)):
        if not (np.abs(degrees) <= most).all():
            span = f"{degrees.min():g} ... {degrees.max():g}"
            raise ValueError(f"{name} must be degrees, at most {most} and none missing; got {span}")
    if np.ptp(lon_deg) > 360 + 1e-9:
        raise ValueError(f"lon spans {np.ptp(lon_deg):g} degrees; a grid is at most 360 degrees wide")
    if np.any(np.diff(lon_deg) <= 0):
        raise ValueError("lon must increase; sort it, and the columns of values with it")
    if lat_deg[0] > lat_deg[-1]:
        lat_deg, field = lat_deg[::-1], field[::-1]
    if np.any(np.diff(lat_deg) <= 0):
        raise ValueError("lat must increase or decrease throughout; sort it, and the rows of values with it")
    return lon_deg, lat_deg, field


def _projected_field(lon: ArrayLike | None, lat: ArrayLike | None, values: ArrayLike) -> dict[str, Any]:
    """Heatmap arguments: the nearest grid value at each cell of the Equal Earth plane, NaN outside the world
    and the grid."""
    lon_deg, lat_deg, field = _checked_grid(lon, lat, values)
    columns, rows = 200, 98
    x = (np.arange(columns) + 0.5) / columns * 2 * _HALF_WIDTH - _HALF_WIDTH
    y = (np.arange(rows) + 0.5) / rows * 2 * _HALF_HEIGHT - _HALF_HEIGHT
    at_lon, at_lat = inverse_equal_earth(*np.meshgrid(x, y))
    column, far_x = _nearest(lon_deg, at_lon)
    row, far_y = _nearest(lat_deg, at_lat)
    z = np.where(np.isnan(at_lon) | far_x | far_y, np.nan, field[row, column])
    return {"x": _f4(x), "y": _f4(y), "z": _f4(z), "hoverongaps": False}


def _nearest(
    grid: NDArray[np.float64], at: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Index of the nearest grid value, and where even that is more than a cell away."""
    middle = (grid[1:] + grid[:-1]) / 2
    index = np.searchsorted(middle, np.nan_to_num(at))
    step = np.diff(grid).max() if grid.size > 1 else 360.0
    return index, np.abs(grid[index] - at) > step


def _limits(
    field: NDArray[np.float64], scale: ScaleName | Scale, limits: tuple[float, float] | None
) -> tuple[float, float]:
    if limits is not None:
        low, high = check_number("limits[0]", limits[0]), check_number("limits[1]", limits[1])
        if low >= high:
            raise ValueError(f"limits must be (lowest, highest), got {limits}")
        return low, high
    finite = field[np.isfinite(field)]
    if not finite.size:
        raise ValueError(
            "the field has no finite value to draw; give limits=(lowest, highest) to draw it empty"
        )
    if scale == "diverging":
        largest = float(np.abs(finite).max()) or 1.0
        return -largest, largest
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _scale(scale: ScaleName | Scale) -> Scale:
    if isinstance(scale, str):
        named = {"field": FIELD_SCALE, "diverging": DIVERGING_SCALE}
        if scale not in named:
            raise ValueError(f"scale must be 'field', 'diverging' or a plotly colour scale, got {scale!r}")
        return named[scale]
    return scale


def _colorbar(label: str) -> dict[str, Any]:
    """Below the figure, so that a phone's width is left to the map."""
    where = {"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.02, "yanchor": "top"}
    return where | {
        "title": {"text": label, "side": "bottom"},
        "thickness": 10,
        "len": 0.6,
        "outlinewidth": 0,
    }


def _hover(places: NDArray[np.float64], text: Sequence[str] | None) -> dict[str, Any]:
    shown = list(text) if text is not None else [f"{place_name((float(a), float(b)))}" for a, b in places]
    return {"text": shown, "hovertemplate": "%{text}<extra></extra>"}


def place_name(place: Place) -> str:
    """A place in words: (2.35, 48.85) is "48.85°N 2.35°E"; a missing place is "no location"."""
    lon, lat = place
    if np.isnan(lon) or np.isnan(lat):
        return "no location"
    return f"{abs(lat):.2f}°{'N' if lat >= 0 else 'S'} {abs(lon):.2f}°{'E' if lon >= 0 else 'W'}"


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


@cache
def _coastline(*, simplified: bool) -> Float[NDArray[np.float64], "m 2"]:
    """The coastlines; simplified to a quarter of a degree, as fine as a figure of this size shows."""
    lines = land_lines()
    if not simplified:
        return lines
    gap = np.full((1, 2), np.nan)
    short = [np.asarray(shapely.LineString(piece).simplify(0.25).coords) for piece in _pieces(lines)]
    return np.concatenate([part for piece in short for part in (piece, gap)][:-1])


def _pieces(lines: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """A polyline with NaN rows as the list of its unbroken pieces."""
    parts = np.split(lines, np.flatnonzero(np.isnan(lines[:, 0])))
    pieces = [part[~np.isnan(part[:, 0])] for part in parts]
    return [piece for piece in pieces if len(piece) > 1]


def _graticule() -> Float[NDArray[np.float64], "m 2"]:
    """Meridians every 60 degrees and parallels every 30, as one polyline with NaN rows."""
    gap = np.full((1, 2), np.nan)
    lat = np.linspace(-90, 90, 46)
    pieces = [np.c_[np.full_like(lat, lon), lat] for lon in range(-120, 121, 60)]
    pieces += [np.array([[-180.0, lat], [180.0, lat]]) for lat in (-60, -30, 0, 30, 60)]
    return np.concatenate([part for piece in pieces for part in (piece, gap)])


def _frame() -> Float[NDArray[np.float64], "m 2"]:
    """The edge of the map: twice the date line, joined by the poles."""
    lat = np.linspace(-90, 90, 91)
    west, east = np.c_[np.full_like(lat, -180), lat], np.c_[np.full_like(lat, 180), lat[::-1]]
    return np.concatenate([west, east, west[:1]])


def _xyz(lon: Any, lat: Any) -> tuple[Any, Any, Any]:
    lam, phi = np.deg2rad(lon), np.deg2rad(lat)
    return np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)


def _on_globe(places: NDArray[np.float64], radius: float) -> dict[str, NDArray[np.float32]]:
    return {axis: _f4(np.round(a * radius * _RADIUS)) for axis, a in zip("xyz", _xyz(*places.T), strict=True)}


def _int16(values: NDArray[np.float64]) -> NDArray[np.int16]:
    return np.round(values * _RADIUS).astype(np.int16)


def _f4(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)


def _matplotlib_html(figure: Any, alt: str, caption: str | None) -> str:
    """A matplotlib figure as an <img> with its text alternative, closed so that the notebook does not show
    it twice."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    below = f'<p class="tslab-caption">{caption}</p>' if caption else ""
    return f'<img class="dark-light" alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{data}">{below}'


pio.templates["tslab"] = _template()
pio.templates.default = "tslab"
