"""The Earth that every map, every synthetic world and every evaluation refers to: land, continents, strata, cells.

The land outline is Natural Earth 1:110m (public domain), shipped with the package as polygons on the
longitude/latitude plane, cut at the date line and closed over the South Pole, so that it needs no download and fills
correctly in every projection. ``data_scripts/build_land.py`` rebuilds it. Strata are named sets of places (near the
date line, polar, tropics, continents), so that an average cannot hide where a model fails; grid cells are those of a
longitude/latitude grid. Both come with every evaluation.
"""

import json
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import shapely
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from tslab._checks import check_count, check_number
from tslab.coords import check_lonlat, has_location

DATE_LINE_BAND_DEG = 12.0
POLAR_CIRCLE_DEG = 66.5
TROPIC_DEG = 23.44
CONTINENTS = ("north_america", "south_america", "europe", "africa", "asia", "oceania")


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
    the cell of -180.

    Raises:
        ValueError: ``size_deg`` that does not divide 180.
    """
    check_lonlat(lonlat)
    columns = _grid_columns(size_deg)
    lon, lat = lonlat.double().nan_to_num().unbind(-1)
    column = ((lon + 180) / size_deg).floor().long() % columns
    row = ((lat + 90) / size_deg).floor().long().clamp(max=columns // 2 - 1)
    return torch.where(has_location(lonlat), row * columns + column, -1)


def cell_corner(cell: int, size_deg: float = 10.0) -> tuple[float, float]:
    """South-west corner (longitude, latitude) in degrees of a cell of `grid_cells`."""
    columns = _grid_columns(size_deg)
    row, column = divmod(check_count("cell", cell, at_least=0, at_most=columns**2 // 2 - 1), columns)
    return column * size_deg - 180.0, row * size_deg - 90.0


@cache
def _prepared_land() -> shapely.MultiPolygon:
    land = land_polygons()
    shapely.prepare(land)
    return land


@cache
def _land_file() -> dict[str, Any]:
    return json.loads(resources.files("tslab").joinpath("data/land_110m.json").read_text())


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


def _grid_columns(size_deg: float) -> int:
    """Cells of a grid from west to east; ``ValueError`` for a size that does not divide 180."""
    check_number(
        "size_deg", size_deg, at_least=1e-3, at_most=180, hint="it must divide 180, for example 5, 10 or 30"
    )
    if abs(180 / size_deg - round(180 / size_deg)) > 1e-9:
        raise ValueError(f"size_deg must divide 180, for example 5, 10 or 30; got {size_deg}")
    return round(360 / size_deg)
