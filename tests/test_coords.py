"""Coordinates: checked input, unit vectors, distances near and far, sampling by area."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tslab
from tslab.coords import EARTH_RADIUS_KM, CoordinateError, check_lonlat

lon_deg = st.floats(-180, 180)
lat_deg = st.floats(-90, 90)


def place(lon, lat, dtype=torch.float64):
    return torch.tensor([[lon, lat]], dtype=dtype)


@pytest.mark.parametrize(
    ("lonlat", "message"),
    [
        ([[0.0, 1.0]], r"must be a torch tensor of shape \(n, 2\), got list; use torch.as_tensor"),
        (torch.zeros(2), r"got \(2,\); add a row dimension with lonlat\[None\]"),
        (torch.zeros(4, 3), r"shape \(n, 2\), longitude then latitude, got \(4, 3\)"),
        (
            torch.zeros(4, 2, dtype=torch.int64),
            r"floating point degrees, got torch.int64; use lonlat.float\(\)",
        ),
        (place(10, 120), r"lonlat\[0\] = \(10, 120\): latitude 120 is outside .* use lonlat.flip\(-1\)"),
        (place(300, 5000), "coordinates are degrees, not metres"),
        (place(200, 10), r"longitude 200 is outside .* \(longitude \+ 180\) % 360 - 180"),
        (place(math.inf, 10), "infinite; mark a missing place with NaN"),
        (torch.tensor([[0.0, 0.0], [0.0, 91.0], [0.0, 95.0]]), r"lonlat\[1\] .* \(and 1 more rows\)"),
    ],
)
def test_bad_coordinates_are_refused_with_the_row_and_the_next_step(lonlat, message):
    with pytest.raises(CoordinateError, match=message):
        check_lonlat(lonlat)


def test_the_edges_of_the_world_and_missing_places_are_allowed():
    lonlat = torch.tensor([[180.0, 90.0], [-180.0, -90.0], [torch.nan, 3.0], [3.0, torch.nan]])
    assert check_lonlat(lonlat) is lonlat
    assert tslab.has_location(lonlat).tolist() == [True, True, False, False]
    assert tslab.has_location(torch.zeros(0, 2)).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unit_vectors_of_the_six_ends_of_the_axes_are_exact(dtype):
    lonlat = torch.tensor([[0, 0], [90, 0], [180, 0], [-90, 0], [33, 90], [-77, -90]], dtype=dtype)
    expected = torch.tensor([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=dtype)
    assert torch.equal(tslab.unit_vectors(lonlat).abs(), expected.abs())
    assert torch.equal(tslab.unit_vectors(lonlat), expected)


@settings(deadline=None)
@given(lat=lat_deg)
def test_both_sides_of_the_date_line_are_the_same_vector(lat):
    assert torch.equal(tslab.unit_vectors(place(180, lat)), tslab.unit_vectors(place(-180, lat)))


@settings(deadline=None)
@given(lon=lon_deg, lat=st.floats(-89.9, 89.9))
def test_unit_vectors_have_length_one_and_lead_back(lon, lat):
    xyz = tslab.unit_vectors(place(lon, lat))
    assert xyz.norm().item() == pytest.approx(1, abs=1e-15)
    back = tslab.lonlat_from_unit_vectors(3 * xyz)[0]
    assert back[1].item() == pytest.approx(lat, abs=1e-11)
    assert math.remainder(back[0].item() - lon, 360) == pytest.approx(0, abs=1e-10)


def test_a_missing_place_has_no_vector_and_no_distance():
    assert tslab.unit_vectors(place(torch.nan, torch.nan)).isnan().all()
    assert tslab.great_circle_distance(place(torch.nan, 0), place(0, 0)).isnan().all()


def exact_distance(a, b):
    """Great-circle angle from the haversine at 60 digits, in radians."""
    with mpmath.workdps(60):
        lon_a, lat_a, lon_b, lat_b = (mpmath.mpf(v) * mpmath.pi / 180 for v in (*a, *b))
        dlat, dlon = lat_b - lat_a, lon_b - lon_a
        h = mpmath.sin(dlat / 2) ** 2 + mpmath.cos(lat_a) * mpmath.cos(lat_b) * mpmath.sin(dlon / 2) ** 2
        return float(2 * mpmath.asin(mpmath.sqrt(h)))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((0.0, 0.0), (1e-9, 0.0)),
        ((12.5, 45.0), (12.5, 45.0 + 1e-10)),
        ((179.99999999, 60.0), (-179.99999999, 60.0)),
        ((10.0, 89.9999999), (-170.0, 89.9999999)),
        ((10.0, 50.0), (-170.0, -49.9999999)),
        ((10.0, 50.0), (-169.9999999, -50.0)),
        ((-73.8, 40.6), (2.55, 49.0)),
        ((0.0, 0.0), (90.0, 0.0)),
    ],
)
def test_distances_hold_ten_digits_near_and_far(a, b):
    angle = tslab.great_circle_distance(place(*a), place(*b), radius_km=1).item()
    assert angle == pytest.approx(exact_distance(a, b), rel=1e-10, abs=1e-15)


def test_distances_with_a_closed_form():
    quarter = EARTH_RADIUS_KM * math.pi / 2
    north = place(123, 90)
    assert tslab.great_circle_distance(place(5, 0), north).item() == pytest.approx(quarter, rel=1e-15)
    assert tslab.great_circle_distance(place(5, 30), place(-175, -30)).item() == pytest.approx(2 * quarter, rel=1e-15)
    assert tslab.great_circle_distance(north, place(-40, 90)).item() == 0
    # every place on the meridian of 90 degrees is a quarter circle away from (0, 0)
    assert tslab.great_circle_distance(place(0, 0), place(90, 45)).item() == pytest.approx(quarter, rel=1e-15)


@settings(deadline=None, max_examples=50)
@given(a=st.tuples(lon_deg, lat_deg), b=st.tuples(lon_deg, lat_deg))
def test_distance_is_symmetric_and_the_angle_between_the_vectors(a, b):
    one, other = place(*a), place(*b)
    there, back = tslab.great_circle_distance(one, other), tslab.great_circle_distance(other, one)
    assert there.item() == pytest.approx(back.item(), rel=1e-12, abs=1e-9)
    cosine = (tslab.unit_vectors(one) * tslab.unit_vectors(other)).sum().clamp(-1, 1)
    assert math.cos(there.item() / EARTH_RADIUS_KM) == pytest.approx(cosine.item(), abs=1e-12)


def test_distances_broadcast_and_keep_the_dtype():
    a, b = tslab.sample_sphere(4), tslab.sample_sphere(3)
    table = tslab.great_circle_distance(a[:, None], b[None])
    assert table.shape == (4, 3) and table.dtype == torch.float32


def test_sampling_is_uniform_by_area():
    n = 40_000
    lonlat = tslab.sample_sphere(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    xyz = tslab.unit_vectors(lonlat)
    deviation = 1 / math.sqrt(3 * n)  # of the mean of one coordinate of a uniform place
    assert xyz.mean(0).abs().max() < 4 * deviation
    # Archimedes: equal heights are equal areas, so z is uniform on [-1, 1]
    counts = torch.histc(xyz[:, 2], bins=20, min=-1, max=1)
    assert (counts - n / 20).abs().max() < 5 * math.sqrt(n / 20)
    assert torch.allclose((xyz.T @ xyz) / n, torch.eye(3, dtype=torch.float64) / 3, atol=0.01)


def test_sampling_repeats_with_its_seed_and_refuses_negative_numbers():
    one, other = (tslab.sample_sphere(5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other) and one.dtype == torch.float32
    assert tslab.sample_sphere(0).shape == (0, 2)
    with pytest.raises(ValueError, match="negative"):
        tslab.sample_sphere(-1)


def test_whole_degrees_have_a_distance_with_a_fraction():
    one_degree = EARTH_RADIUS_KM * math.pi / 180
    whole = tslab.great_circle_distance(torch.tensor([[0, 0]]), torch.tensor([[0, 1]]))
    assert whole.dtype == torch.float32 and whole.item() == pytest.approx(one_degree, rel=1e-6)
    mixed = tslab.great_circle_distance(torch.tensor([[0, 0]]), place(1, 0))
    assert mixed.dtype == torch.float64 and mixed.item() == pytest.approx(one_degree, rel=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (place(0, 91), place(0, 0), r"a\[0\] = \(0, 91\): latitude 91"),
        (place(0, 0), place(200, 0), r"b\[0\] = \(200, 0\): longitude 200"),
        (torch.zeros(2, 3, 2) + torch.tensor([0.0, 95.0]), place(0, 0), r"a\[0, 0\] .* \(and 5 more rows\)"),
        (place(0, 0), place(math.inf, 0), "infinite"),
        (torch.zeros(3), place(0, 0), r"a must be a tensor of longitude and latitude"),
        ([[0.0, 0.0]], place(0, 0), "got list"),
    ],
)
def test_distances_check_their_places(a, b, message):
    with pytest.raises(CoordinateError, match=message):
        tslab.great_circle_distance(a, b)


@pytest.mark.parametrize("radius_km", [0, -1.0, math.nan, math.inf])
def test_a_sphere_has_a_radius(radius_km):
    with pytest.raises(ValueError, match="radius_km"):
        tslab.great_circle_distance(place(0, 0), place(0, 1), radius_km=radius_km)


def test_distances_are_traced_without_a_look_at_the_values():
    a, b = tslab.sample_sphere(4), tslab.sample_sphere(4)
    rowwise = torch.func.vmap(lambda x, y: tslab.great_circle_distance(x, y))(a, b)
    assert torch.allclose(rowwise, tslab.great_circle_distance(a, b))
    assert tslab.great_circle_distance(a.to("meta"), b.to("meta")).shape == (4,)
    assert check_lonlat(a.to("meta")).is_meta


@pytest.mark.parametrize(
    ("lonlat", "shown"),
    [
        (torch.tensor([[180.00002, 0.0]]), "longitude 180.00002 is"),
        (torch.tensor([[180.00000000000003, 0.0]], dtype=torch.float64), "longitude 180.00000000000003 is"),
        (torch.tensor([[0.0, 90.00001]]), "latitude 90.00001 is"),
        (torch.tensor([[0.0, 91.0]], dtype=torch.float16), "latitude 91 is"),
    ],
)
def test_messages_show_the_digits_that_are_too_many(lonlat, shown):
    with pytest.raises(CoordinateError, match=shown):
        check_lonlat(lonlat)


@pytest.mark.parametrize("xyz", [torch.zeros(4, 2), torch.ones(3, dtype=torch.int64), [1.0, 0.0, 0.0]])
def test_vectors_that_are_none_are_refused(xyz):
    with pytest.raises(CoordinateError, match="xyz must be"):
        tslab.lonlat_from_unit_vectors(xyz)


def test_sampling_refuses_numbers_that_are_none():
    for n in (2.5, True, "3"):
        with pytest.raises(ValueError, match="n must be"):
            tslab.sample_sphere(n)
    with pytest.raises(ValueError, match="dtype"):
        tslab.sample_sphere(3, dtype=torch.int64)


def test_distances_of_unequal_numbers_of_places_are_refused_and_all_pairs_are_not():
    a, b = torch.zeros(3, 2), torch.tensor([[0.0, 90.0], [180.0, 0.0]])
    with pytest.raises(CoordinateError, match=r"\(3, 2\) and \(2, 2\)"):
        tslab.great_circle_distance(a, b)
    assert tslab.great_circle_distance(a[:, None], b).shape == (3, 2)
