"""The land outline: as much land as there is, in the right places, and fit to draw in any projection."""

import math

import numpy as np
import pytest
import shapely
import torch

import tslab
from tslab import earth
from tslab.earth import is_land, land_lines, land_polygons

LAND = {
    "Paris": (2.35, 48.86),
    "Sahara": (10.0, 23.0),
    "Alice Springs": (133.9, -23.7),
    "South Pole": (0.0, -90.0),
    "Amazon": (-62.0, -5.0),
    "Chukotka, beyond the date line": (-175.0, 66.5),
    "Kansas": (-98.0, 38.5),
    "Greenland": (-40.0, 72.0),
}
SEA = {
    "Gulf of Guinea": (0.0, 0.0),
    "North Pole": (0.0, 90.0),
    "Pacific": (-150.0, 10.0),
    "Pacific at the date line": (180.0, 30.0),
    "Atlantic": (-40.0, 30.0),
    "Southern Ocean": (90.0, -58.0),
}


@pytest.mark.parametrize(("places", "expected"), [(LAND, True), (SEA, False)])
def test_known_places(places, expected):
    for name, lonlat in places.items():
        assert bool(is_land(torch.tensor([lonlat]))[0]) is expected, name


def test_missing_places_are_not_on_land():
    assert is_land(torch.tensor([[torch.nan, torch.nan], [2.35, 48.86]])).tolist() == [False, True]


def test_twenty_nine_percent_of_the_earth_is_land():
    n = 40_000
    lonlat = tslab.sample_sphere(n, generator=torch.Generator().manual_seed(0))
    share = is_land(lonlat).double().mean().item()
    assert share == pytest.approx(0.292, abs=4 * math.sqrt(0.292 * 0.708 / n))


def test_polygons_are_valid_and_stay_on_the_map():
    land = land_polygons()
    assert land.is_valid
    assert all(polygon.is_valid and polygon.area > 0 for polygon in land.geoms)
    west, south, east, north = land.bounds
    assert (west, south, east) == (-180, -90, 180) and 83 < north < 84


def pieces():
    lines = land_lines()
    breaks = np.flatnonzero(np.isnan(lines[:, 0]))
    return [piece[~np.isnan(piece[:, 0])] for piece in np.split(lines, breaks)]


def test_no_coastline_crosses_the_map_or_runs_along_its_edge():
    for line in pieces():
        if len(line) < 2:
            continue
        steps = np.abs(np.diff(line, axis=0))
        assert steps.max() < 20, "a coastline jumps across the map"
        at_edge = np.isclose(np.abs(line[:, 0]), 180)
        assert not (at_edge[:-1] & at_edge[1:]).any(), "a cut along the date line is drawn"
        assert not np.isclose(np.abs(line[:, 1]), 90).any(), "a cut along the pole is drawn"


def test_with_cuts_the_outlines_are_closed_rings():
    lines = land_lines(include_cuts=True)
    breaks = np.flatnonzero(np.isnan(lines[:, 0]))
    for ring in np.split(lines, breaks):
        ring = ring[~np.isnan(ring[:, 0])]
        assert np.array_equal(ring[0], ring[-1])


def projections():
    crs = pytest.importorskip("cartopy.crs")
    return {
        "equirectangular": crs.PlateCarree(),
        "Mollweide": crs.Mollweide(),
        "Robinson": crs.Robinson(),
        "orthographic": crs.Orthographic(20, 30),
    }


@pytest.mark.parametrize("name", ["equirectangular", "Mollweide", "Robinson", "orthographic"])
def test_fills_and_lines_hold_in_the_projection(name):
    crs = pytest.importorskip("cartopy.crs")
    projection = projections()[name]
    filled = projection.project_geometry(land_polygons(), crs.PlateCarree())
    filled = shapely.make_valid(filled)
    for places, expected in ((LAND, True), (SEA, False)):
        for place, lonlat in places.items():
            x, y = projection.transform_point(*lonlat, crs.PlateCarree())
            inside_the_map = np.isfinite([x, y]).all() and abs(lonlat[1]) < 89 and abs(lonlat[0]) < 179
            if inside_the_map:
                assert filled.contains(shapely.Point(x, y)) is expected, place
    if name == "Mollweide":  # equal-area: the share of the map is the share of the Earth
        assert filled.area / shapely.Polygon(projection.boundary).area == pytest.approx(0.292, abs=0.005)
    width = projection.x_limits[1] - projection.x_limits[0]
    for line in pieces():
        projected = projection.transform_points(crs.PlateCarree(), line[:, 0], line[:, 1])[:, :2]
        visible = np.isfinite(projected).all(1)
        steps = np.linalg.norm(np.diff(projected, axis=0), axis=1)[visible[:-1] & visible[1:]]
        assert not len(steps) or steps.max() < 0.06 * width


@pytest.mark.parametrize("size_deg", [0, -5.0, math.nan, math.inf, 7.0, 1e-9, "10"])
def test_cells_have_a_size_that_divides_the_earth(size_deg):
    with pytest.raises(ValueError, match="size_deg must"):
        earth.grid_cells(torch.zeros(2, 2), size_deg)
    with pytest.raises(ValueError, match="size_deg must"):
        earth.cell_corner(0, size_deg)


def test_cells_and_strata_are_of_places_on_the_earth():
    for of in (earth.grid_cells, earth.strata, earth.continents):
        with pytest.raises(tslab.CoordinateError, match="latitude 95"):
            of(torch.tensor([[0.0, 95.0]]))
    with pytest.raises(ValueError, match="cell must be"):
        earth.cell_corner(648, 10.0)
    assert earth.cell_corner(647, 10.0) == (170.0, 80.0)
