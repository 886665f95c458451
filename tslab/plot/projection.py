"""Places on paper: the Equal Earth projection, grids of cells to draw fields on, coastlines and the edge of the map."""

from functools import cache
from typing import Any

import numpy as np
import shapely
import torch
from jaxtyping import Float
from numpy.polynomial import Polynomial
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tslab._checks import check_count
from tslab.earth import land_lines

Place = tuple[float, float]

Grid = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Longitudes (x,), latitudes (y,) and the values (y, x) of a field."""


_Y = Polynomial([0, 1.340264, 0, -0.081106, 0, 0, 0, 0.000893, 0, 0.003796])
"""The height of a place on the Equal Earth map, y(theta), where sin theta = sqrt(3) / 2 sin latitude."""

_SLOPE = _Y.deriv()


def equal_earth(lon: ArrayLike, lat: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Equal Earth projection of degrees to the plane, on a sphere of radius 1: equal areas stay equal.

    Source: Savric, Patterson and Jenny, The Equal Earth map projection, IJGIS 2019.
    """
    theta = np.arcsin(np.sqrt(3) / 2 * np.sin(np.deg2rad(lat, dtype=np.float64)))
    x = 2 * np.sqrt(3) * np.deg2rad(lon, dtype=np.float64) * np.cos(theta) / (3 * _SLOPE(theta))
    return np.asarray(x), np.asarray(_Y(theta))


def inverse_equal_earth(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Degrees of points of the Equal Earth plane; NaN outside the world."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    theta = y / _Y.coef[1]
    for _ in range(8):
        theta = theta - (_Y(theta) - y) / _SLOPE(theta)
    with np.errstate(invalid="ignore"):
        lat = np.rad2deg(np.arcsin(2 / np.sqrt(3) * np.sin(theta)))
        lon = np.rad2deg(x * 3 * _SLOPE(theta) / (2 * np.sqrt(3) * np.cos(theta)))
    outside = (np.abs(lon) > 180 + 1e-9) | (np.abs(y) > HALF_HEIGHT + 1e-12) | np.isnan(lat)
    return np.where(outside, np.nan, lon), np.where(outside, np.nan, lat)


HALF_WIDTH = float(equal_earth(180, 0)[0])


HALF_HEIGHT = float(equal_earth(0, 90)[1])


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


def globe_grid(step_deg: int = 4) -> tuple[np.ndarray, np.ndarray, Float[Tensor, "n 2"]]:
    """Cell centres of a regular grid for `globe_slider`: longitudes, latitudes and the places (n_lat * n_lon, 2)."""
    check_count("step_deg", step_deg, at_most=90)
    if 180 % step_deg:
        raise ValueError(f"step_deg must divide 180, for example 2, 4 or 5, got {step_deg}")
    lon = np.arange(-180 + step_deg / 2, 180, step_deg)
    lat = np.arange(-90 + step_deg / 2, 90, step_deg)
    return lon, lat, torch.from_numpy(np.stack(np.meshgrid(lon, lat), axis=-1).reshape(-1, 2))


def place_name(place: Place) -> str:
    """A place in words: (2.35, 48.85) is "48.85°N 2.35°E"; a missing place is "no location"."""
    lon, lat = place
    if np.isnan(lon) or np.isnan(lat):
        return "no location"
    return f"{abs(lat):.2f}°{'N' if lat >= 0 else 'S'} {abs(lon):.2f}°{'E' if lon >= 0 else 'W'}"


def check_place(name: str, place: Any) -> Place:
    """The longitude and latitude of a place; raises `ValueError` where there is none."""
    try:
        lon, lat = map(float, place)
    except (TypeError, ValueError):
        lon = lat = float("nan")
    if not (abs(lon) <= 180 and abs(lat) <= 90):
        raise ValueError(f"{name} must be (longitude, latitude) within [-180, 180] x [-90, 90], got {place!r}")
    return lon, lat


def closed_grid(lon: ArrayLike | None, lat: ArrayLike | None, values: ArrayLike) -> Grid:
    """The grid, south to north, grown to the date line and the poles by repeating its outermost values."""
    lon_deg, lat_deg, field = checked_grid(lon, lat, values)
    around = lon_deg[-1] - lon_deg[0] > 330
    sides = int(around and lon_deg[0] > -180), int(around and lon_deg[-1] < 180)
    ends = int(-90 < lat_deg[0] < -80), int(80 < lat_deg[-1] < 90)
    lon_deg = np.pad(lon_deg, sides, constant_values=(-180, 180))
    lat_deg = np.pad(lat_deg, ends, constant_values=(-90, 90))
    return lon_deg, lat_deg, np.pad(field, (ends, sides), mode="edge")


def checked_grid(lon: ArrayLike | None, lat: ArrayLike | None, values: ArrayLike) -> Grid:
    """The grid of a field, south to north; `ValueError` if it is none."""
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


@cache
def coastline_points() -> Float[np.ndarray, "m 2"]:
    """The coastlines simplified to a quarter of a degree, as fine as a figure shows; NaN rows between two lines."""
    return _joined([np.asarray(shapely.LineString(line).simplify(0.25).coords) for line in coastline_pieces()])


def coastline_pieces() -> list[NDArray[np.float64]]:
    """The coastlines in full, one unbroken line at a time."""
    lines = land_lines()
    parts = np.split(lines, np.flatnonzero(np.isnan(lines[:, 0])))
    pieces = [part[~np.isnan(part[:, 0])] for part in parts]
    return [piece for piece in pieces if len(piece) > 1]


def _joined(pieces: list[NDArray[np.float64]]) -> Float[np.ndarray, "m 2"]:
    """Lines as one, with a NaN row between two."""
    gap = np.full((1, 2), np.nan)
    return np.concatenate([part for piece in pieces for part in (piece, gap)][:-1])


def graticule() -> Float[np.ndarray, "m 2"]:
    """Meridians every 60 degrees and parallels every 30, as one polyline with NaN rows."""
    lat = np.linspace(-90, 90, 46)
    pieces = [np.c_[np.full_like(lat, lon), lat] for lon in range(-120, 121, 60)]
    pieces += [np.array([[-180.0, lat], [180.0, lat]]) for lat in (-60, -30, 0, 30, 60)]
    return _joined(pieces)


def map_edge() -> Float[np.ndarray, "m 2"]:
    """The edge of the map: twice the date line, joined by the poles."""
    lat = np.linspace(-90, 90, 91)
    west, east = np.c_[np.full_like(lat, -180), lat], np.c_[np.full_like(lat, 180), lat[::-1]]
    return np.concatenate([west, east, west[:1]])


def on_sphere(lon: Any, lat: Any) -> tuple[Any, Any, Any]:
    """Places in degrees as x, y, z of the unit sphere."""
    lam, phi = np.deg2rad(lon), np.deg2rad(lat)
    return np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)


def short(values: Any) -> NDArray[np.float32]:
    """Numbers of a figure in float32, from a tensor on any device or from anything that numpy takes."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values).astype(np.float32)
