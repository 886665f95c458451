"""The Earth: its land, its parts, and the one way to cut it into cells.

Land is Natural Earth 1:110m (public domain), shipped with the package as polygons on the longitude/latitude plane, cut
at the date line and closed over the South Pole, so that it needs no download and fills correctly in every projection
(``data_scripts/build_land.py`` rebuilds it). Strata are named sets of places (near the date line, polar, tropics,
continents), so that an average cannot hide where a model fails. Cells are squares in degrees or have equal areas;
evaluation counts by cell, splits keep the places of a cell together.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import shapely
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from tslab._checks import check_count, check_number
from tslab._files import packaged_json
from tslab.coords import EARTH_RADIUS_KM, check_lonlat, has_location, sample_sphere

DATE_LINE_BAND_DEG = 12.0
POLAR_CIRCLE_DEG = 66.5
TROPIC_DEG = 23.44

CONTINENTS = {
    "north_america": "North America",
    "south_america": "South America",
    "europe": "Europe",
    "africa": "Africa and Middle East",
    "asia": "Asia",
    "oceania": "Oceania",
}
"""Key and name of each continent, in the order of the numbers that `continents` gives."""

SMALLEST_CELL_KM = 0.1
SMALLEST_CELL_DEGREES = 1e-3
"""Smaller cells hold one place each."""


@cache
def land_polygons() -> shapely.MultiPolygon:
    """All land as one shapely geometry in degrees, x longitude and y latitude."""
    return shapely.MultiPolygon([shapely.Polygon(rings[0], rings[1:]) for rings in _polygon_rings()])


def land_lines(*, include_cuts: bool = False) -> Float[np.ndarray, "m 2"]:
    """All coastlines as one polyline in degrees, shape (m, 2), with a NaN row between two lines.

    The artificial edges along the date line and the South Pole are left out unless ``include_cuts``.
    """
    pieces: list[NDArray[np.float64]] = []
    gap = np.full((1, 2), np.nan)
    for rings in _polygon_rings():
        for ring in rings:
            line = np.asarray(ring, dtype=np.float64)
            if not include_cuts:
                line = _without_cuts(line)
            pieces += [line, gap]
    return np.concatenate(pieces[:-1])


def is_land(lonlat: Float[Tensor, "n 2"]) -> Bool[Tensor, " n"]:
    """True where a place lies on land; False at sea and where the place is missing (NaN). Works on the CPU."""
    check_lonlat(lonlat)
    lon, lat = lonlat.detach().double().cpu().numpy().T
    return torch.from_numpy(shapely.intersects_xy(_prepared_land(), lon, lat)).to(lonlat.device)


def sample_land(
    n: int,
    *,
    lat_range: tuple[float, float] = (-90.0, 90.0),
    decimals: int | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n 2"]:
    """``n`` places uniform by area on the land between two latitudes: degrees, float64, rounded to ``decimals``."""
    south, north = lat_range
    found = torch.zeros((0, 2), dtype=torch.float64)
    while len(found) < n:
        drawn = sample_sphere(4 * (n - len(found)) + 1000, generator=generator, dtype=torch.float64)
        drawn = drawn[(drawn[:, 1] >= south) & (drawn[:, 1] <= north)]
        drawn = drawn if decimals is None else torch.round(drawn, decimals=decimals)
        found = torch.cat([found, drawn[is_land(drawn)]])
    return found[:n]


def strata(lonlat: Float[Tensor, "n 2"]) -> dict[str, Bool[Tensor, " n"]]:
    """Masks of the strata that every evaluation reports; a missing place is in none but "missing".

    "date_line": within 12 degrees of longitude of it; "polar": beyond 66.5 degrees of latitude; "tropics":
    within 23.44; "mid_latitudes": between those two; the continents of `continents`; "missing": no location.
    """
    check_lonlat(lonlat)
    lon, lat = lonlat.unbind(-1)
    continent = continents(lonlat)
    present = has_location(lonlat)
    masks = {
        "date_line": lon.abs() >= 180 - DATE_LINE_BAND_DEG,
        "polar": lat.abs() > POLAR_CIRCLE_DEG,
        "tropics": lat.abs() < TROPIC_DEG,
        "mid_latitudes": (lat.abs() >= TROPIC_DEG) & (lat.abs() <= POLAR_CIRCLE_DEG),
    }
    masks |= {name: continent == i for i, name in enumerate(CONTINENTS)}
    return {name: mask & present for name, mask in masks.items()} | {"missing": ~present}


def continents(lonlat: Float[Tensor, "n 2"]) -> Int[Tensor, " n"]:
    """Index into `CONTINENTS` by a coarse rule of six boxes, -1 for a missing place. Sea counts to the
    continent of its box.

    North America: lon < -30 and lat >= 13; South America: lon < -30 and lat < 13; Europe (to western
    Russia): -30 <= lon < 60 and lat >= 36; Africa (with the Middle East): same longitudes, lat < 36; Asia:
    lon >= 60 and lat >= -11; Oceania: the rest.
    """
    check_lonlat(lonlat)
    lon, lat = lonlat.unbind(-1)
    west, middle = lon < -30, (lon >= -30) & (lon < 60)
    out = torch.where(lat >= -11, 4, 5)
    out = torch.where(middle, torch.where(lat >= 36, 2, 3), out)
    out = torch.where(west, torch.where(lat >= 13, 0, 1), out)
    return torch.where(has_location(lonlat), out, -1)


def grid_cells(lonlat: Float[Tensor, "n 2"], size_deg: float = 10.0) -> Int[Tensor, " n"]:
    """Number of the grid cell of each place, row by row from the south-west corner; -1 for a missing place.

    Cells are ``size_deg`` wide in longitude and latitude, counted from (-180, -90); longitude 180 belongs to
    the cell of -180. `cell_corner` tells where a cell lies.

    Raises:
        ValueError: ``size_deg`` that does not divide 180.
    """
    check_grid("size_deg", size_deg)
    return _numbers(lonlat, lambda lon, lat: _square(lon, lat, size_deg))


def cell_corner(cell: int, size_deg: float = 10.0) -> tuple[float, float]:
    """South-west corner (longitude, latitude) in degrees of a cell of `grid_cells`."""
    check_grid("size_deg", size_deg)
    columns = round(360 / size_deg)
    row, column = divmod(check_count("cell", cell, at_least=0, at_most=columns**2 // 2 - 1), columns)
    return column * size_deg - 180.0, row * size_deg - 90.0


def check_grid(name: str, size_deg: float) -> None:
    """Raise `ValueError` if cells of this size do not fill the Earth: the size must divide 180 degrees."""
    hint = "it must divide 180, for example 5, 10 or 30"
    check_number(name, size_deg, at_least=SMALLEST_CELL_DEGREES, at_most=180, hint=hint)
    if abs(180 / size_deg - round(180 / size_deg)) > 1e-9:
        raise ValueError(f"{name} must divide 180, for example 5, 10 or 30; got {size_deg}")


def spatial_blocks(
    lonlat: Float[Tensor, "n 2"], *, size_degrees: float | None = None, size_km: float | None = None
) -> Int[Tensor, " n"]:
    """The block each row lies in: occupied cells, numbered from 0 from south to north; -1 where the place is missing.

    ``size_degrees`` makes squares on the longitude/latitude plane, starting at (-180, -90): familiar, but a 10 degree
    square at 75° is a quarter of the area of one at the equator. ``size_km`` makes cells of exactly equal area on the
    sphere, about ``size_km`` wide and high: bands of latitude cut into as many cells as fit, with the band
    limits moved so that all cells have the same area. Longitudes 180 and -180 are the same place in both.

    Raises:
        ValueError: none or both sizes given, or one that is not positive or larger than the sphere.
    """
    if (size_degrees is None) == (size_km is None):
        raise ValueError("give one block size: size_degrees (squares in degrees) or size_km (equal-area cells)")
    if size_degrees is not None:
        size = check_number("size_degrees", size_degrees, at_least=SMALLEST_CELL_DEGREES, at_most=180)
        cells = _numbers(lonlat, lambda lon, lat: _square(lon, lat, size))
    else:
        columns, limits = equal_area_cells(float(size_km))  # type: ignore[arg-type]
        cells = _numbers(lonlat, lambda lon, lat: _equal_area(lon, lat, columns, limits))
    located = cells >= 0
    cells[located] = cells[located].unique(return_inverse=True)[1]
    return cells


def equal_area_cells(size_km: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The grid behind ``spatial_blocks(size_km=...)``: cells per band of latitude and the limits of the bands.

    With n_j cells in band j and N in all, the limits are, in sin(latitude), s_0 = -1 and s_{j+1} = s_j + 2 n_j / N:
    each cell covers the same area, 4 pi R² / N.
    """
    half = np.pi * EARTH_RADIUS_KM
    check_number("size_km", size_km, at_least=SMALLEST_CELL_KM, at_most=half, hint="half the way around")
    bands = max(2, round(half / size_km))
    middle = (np.arange(bands) + 0.5) / bands * np.pi - np.pi / 2
    columns = np.maximum(3, np.round(2 * half * np.cos(middle) / size_km)).astype(np.int64)
    limits = np.concatenate([[0], np.cumsum(columns)]) / columns.sum() * 2 - 1
    return columns, limits


@cache
def _prepared_land() -> shapely.MultiPolygon:
    land = land_polygons()
    shapely.prepare(land)
    return land


@cache
def _land_file() -> dict[str, Any]:
    return packaged_json("land_110m.json")


def _polygon_rings() -> list[list[list[list[float]]]]:
    return _land_file()["polygons"]


def _without_cuts(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """Break a closed ring wherever a step runs along the date line or along the pole."""
    on_date_line = np.abs(np.abs(ring[:, 0]) - 180) < 1e-6
    at_pole = np.abs(np.abs(ring[:, 1]) - 90) < 1e-6
    artificial = (on_date_line[:-1] & on_date_line[1:]) | (at_pole[:-1] & at_pole[1:])
    gaps = np.flatnonzero(artificial) + 1
    line = np.insert(ring, gaps, np.nan, axis=0)
    return line


Degrees = NDArray[np.float64]


def _numbers(lonlat: Tensor, number: Callable[[Degrees, Degrees], NDArray[Any]]) -> Tensor:
    """The number of each place's cell by longitude in [-180, 180) and latitude; -1 for a missing place."""
    check_lonlat(lonlat)
    located = has_location(lonlat).cpu()
    lon, lat = lonlat.detach().double().cpu()[located].numpy().T
    cells = torch.full((len(lonlat),), -1, dtype=torch.int64)
    cells[located] = torch.from_numpy(number(np.where(lon == 180, -180.0, lon), lat).astype(np.int64))
    return cells.to(lonlat.device)


def _square(lon: Degrees, lat: Degrees, size_deg: float) -> NDArray[Any]:
    """Squares in degrees; the last row and column are narrower where the size does not divide the circle."""
    rows, columns = (max(1, math.ceil(degrees / size_deg - 1e-9)) for degrees in (180, 360))
    row = np.minimum(np.floor((lat + 90) / size_deg), rows - 1)
    return row * columns + np.minimum(np.floor((lon + 180) / size_deg), columns - 1)


def _equal_area(lon: Degrees, lat: Degrees, columns: NDArray[np.int64], limits: NDArray[np.float64]) -> NDArray[Any]:
    """Cells of `equal_area_cells`."""
    sine = np.sin(np.radians(lat))
    band = np.clip(np.searchsorted(limits, sine, side="right") - 1, 0, len(columns) - 1)
    first = np.cumsum(columns) - columns
    return first[band] + np.floor((lon + 180) / 360 * columns[band])
