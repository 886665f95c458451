"""Parts of the Earth, so that an average cannot hide where a model fails.

Strata are named sets of places (near the date line, polar, tropics, continents), blocks are the cells of a
longitude/latitude grid. Both come with every evaluation.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tslab._checks import check_number
from tslab.coords import has_location

DATE_LINE_BAND_DEG = 12.0
POLAR_CIRCLE_DEG = 66.5
TROPIC_DEG = 23.44
CONTINENTS = ("north_america", "south_america", "europe", "africa", "asia", "oceania")


def strata(lonlat: Float[Tensor, "n 2"]) -> dict[str, Bool[Tensor, " n"]]:
    """Masks of the strata that every evaluation reports; a missing place is in none but "missing".

    "date_line": within 12 degrees of longitude of it; "polar": beyond 66.5 degrees of latitude; "tropics":
    within 23.44; "mid_latitudes": between those two; the continents of `continents`; "missing": no location.
    """
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
    check_number("size_deg", size_deg, above=0, at_most=180)
    columns = round(360 / size_deg)
    if abs(180 / size_deg - round(180 / size_deg)) > 1e-9:
        raise ValueError(f"size_deg must divide 180, for example 5, 10 or 30; got {size_deg}")
    lon, lat = lonlat.double().nan_to_num().unbind(-1)
    column = ((lon + 180) / size_deg).floor().long() % columns
    row = ((lat + 90) / size_deg).floor().long().clamp(max=columns // 2 - 1)
    return torch.where(has_location(lonlat), row * columns + column, -1)


def cell_corner(cell: int, size_deg: float = 10.0) -> tuple[float, float]:
    """South-west corner (longitude, latitude) in degrees of a cell of `grid_cells`."""
    row, column = divmod(cell, round(360 / size_deg))
    return column * size_deg - 180.0, row * size_deg - 90.0
