"""The land outline that every map and every synthetic world of tslab is drawn on.

Natural Earth 1:110m (public domain), shipped with the package as polygons on the longitude/latitude plane, cut at the
date line and closed over the South Pole, so that it needs no download and fills correctly in every projection.
``data_scripts/build_land.py`` rebuilds it.
"""

import json
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import shapely
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from tslab.coords import check_lonlat


@cache
def land_polygons() -> shapely.MultiPolygon:
    """All land as one shapely geometry in degrees, x longitude and y latitude."""
    return shapely.MultiPolygon([shapely.Polygon(rings[0], rings[1:]) for rings in _polygon_rings()])


def land_geojson() -> dict[str, Any]:
    """All land as a GeoJSON ``Feature`` (RFC 7946) with a ``MultiPolygon`` geometry."""
    geometry = {"type": "MultiPolygon", "coordinates": _polygon_rings()}
    return {"type": "Feature", "properties": {"source": _land_file()["source"]}, "geometry": geometry}


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
