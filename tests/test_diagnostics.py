"""The diagnostics against closed forms: encoders whose geometry is known must measure as they are."""

import math

import pytest
import torch

import tslab
from tslab import diagnostics
from tslab.coords import EARTH_RADIUS_KM, great_circle_distance

XYZ = tslab.position_encoder("xyz")


def test_typical_distance_of_unit_vectors_is_the_square_root_of_two():
    # |u - v|^2 = 2 - 2 u.v, and u.v averages to zero over the sphere
    assert diagnostics.typical_distance(XYZ, n=20000) == pytest.approx(math.sqrt(2), rel=1e-3)


@pytest.mark.parametrize("key", ["xyz", "nerf", "siren_sh"])
def test_functions_of_the_unit_vector_have_no_seam_and_single_valued_poles(key):
    encoder = tslab.position_encoder(key)
    assert diagnostics.seam_gap(encoder) < 1e-3
    assert diagnostics.pole_spread(encoder) < 1e-12


def test_raw_coordinates_tear_the_map_at_the_date_line_and_at_the_poles():
    def raw(lonlat):
        return lonlat / torch.tensor([180.0, 90.0], dtype=lonlat.dtype)

    # longitude jumps by 2; the spread of two random places is sqrt(2 var(lon) + 2 var(lat))
    lat_variance = (math.pi**2 / 4 - 2) / (math.pi / 2) ** 2  # of latitude / 90 under cos(lat) weights
    expected = 2 / math.sqrt(2 * (1 / 3 + lat_variance))
    assert diagnostics.seam_gap(raw, n=20000) == pytest.approx(expected, rel=0.02)
    assert diagnostics.pole_spread(raw) > 0.5


def test_wrap_closes_the_seam_but_not_the_poles():
    wrap = tslab.position_encoder("wrap")
    assert diagnostics.seam_gap(wrap) < 1e-6
    assert diagnostics.pole_spread(wrap) > 0.5


def test_xyz_kernel_is_the_cosine_of_the_great_circle_angle_in_every_direction():
    distances = torch.linspace(0, 5000, 50, dtype=torch.float64)
    expected = torch.cos(distances / EARTH_RADIUS_KM)
    for direction in ("parallel", "meridian"):
        profile = diagnostics.kernel_profile(XYZ, distances, lon_deg=170, lat_deg=50, direction=direction)
        assert torch.allclose(profile, expected, atol=1e-9)
    assert diagnostics.anisotropy(XYZ) < 1e-9


def test_spherical_harmonics_kernel_follows_the_addition_theorem():
    degree = 8
    distances = torch.linspace(0, 20000, 40, dtype=torch.float64)
    z = torch.cos(distances / EARTH_RADIUS_KM)
    # sum over m of Y_nm(x) Y_nm(y) is (2 n + 1) / (4 pi) P_n(x.y);
    # at x = y the sum over n < degree is degree^2 / (4 pi)
    kernel = torch.stack([(2 * n + 1) * torch.special.legendre_polynomial_p(z, n) for n in range(degree)]).sum(0)
    expected = kernel / degree**2
    profile = diagnostics.kernel_profile(
        tslab.position_encoder("siren_sh", degree=degree), distances, lat_deg=-35, direction="meridian"
    )
    assert torch.allclose(profile, expected, atol=1e-9)


@pytest.mark.parametrize("direction", ["parallel", "meridian"])
@pytest.mark.parametrize("lat_deg", [-80.0, 0.0, 45.0])
def test_places_at_distance_are_at_that_distance(direction, lat_deg):
    distances = torch.linspace(10, 2000, 20, dtype=torch.float64)
    places = diagnostics.places_at_distance(distances, lon_deg=175, lat_deg=lat_deg, direction=direction)
    origin = torch.tensor([[175.0, lat_deg]], dtype=torch.float64)
    assert torch.allclose(great_circle_distance(origin, places), distances, rtol=1e-9)


def test_a_parallel_has_a_far_side():
    places = diagnostics.places_at_distance(torch.tensor([1000.0, 5000.0]), lat_deg=80, direction="parallel")
    assert not places[0].isnan().any()
    assert places[1].isnan().all()  # the far side of the parallel at 80 degrees is 2,224 km away


def test_resolution_of_xyz_is_the_chord_of_half_the_typical_distance():
    expected = 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(2) / 4)
    assert diagnostics.resolution_km(XYZ) == pytest.approx(expected, rel=0.02)


def test_finer_scales_resolve_shorter_distances():
    fine, coarse = (
        diagnostics.resolution_km(tslab.position_encoder("sphere2vec_sphereC+", min_radius=radius))
        for radius in (1e-4, 1e-2)
    )
    assert fine < coarse / 5


def test_released_dfs_has_one_frequency_and_rank_eight():
    released = tslab.position_encoder("sphere2vec_dfs", num_scales=8, preset="locbench2024")
    paper = tslab.position_encoder("sphere2vec_dfs", num_scales=8)
    assert released.out_features == paper.out_features == 288
    assert diagnostics.numerical_rank(released) == 8
    assert diagnostics.numerical_rank(paper) == 288


def test_effective_rank_of_xyz_is_three():
    assert diagnostics.effective_rank(XYZ) == pytest.approx(3, abs=0.01)


def test_a_constant_encoder_is_refused():
    one_cell = tslab.position_encoder("tile", preset="locbench2024")
    with pytest.raises(ValueError, match="same features"):
        diagnostics.diagnose(one_cell)


def test_the_table_has_a_row_for_every_encoder_and_names_the_spherical_ones():
    table = diagnostics.diagnostics_table()
    assert list(table.index) == list(tslab.ENCODERS)
    assert set(table.index[table["spherical"]]) == {"xyz", "siren_sh"}
    assert set(table.index[table["single_valued_poles"]]) == {"xyz", "nerf", "siren_sh"}


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: diagnostics.typical_distance(XYZ, n=0), "n must"),
        (lambda: diagnostics.pole_spread(XYZ, n_meridians=0), "n_meridians"),
        (lambda: diagnostics.anisotropy(XYZ, steps=0), "steps"),
        (lambda: diagnostics.anisotropy(XYZ, max_km=-1.0), "max_km"),
        (lambda: diagnostics.places_at_distance(torch.ones(1), lat_deg=100.0), "lat_deg"),
        (lambda: diagnostics.places_at_distance(torch.ones(1), direction="up"), "direction"),  # type: ignore[arg-type]
        (lambda: diagnostics.numerical_rank(XYZ, tolerance=2.0), "tolerance"),
    ],
)
def test_parameters_of_the_diagnostics_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()


def test_what_is_no_encoder_is_named():
    with pytest.raises(TypeError, match="encoder must be a function"):
        diagnostics.diagnose("xyz")
    with pytest.raises(ValueError, match=r"got \(1, 3\) for 2048 places"):
        diagnostics.spectrum(lambda lonlat: torch.zeros(1, 3))
    with pytest.raises(KeyError, match="choose one of"):
        diagnostics.diagnostics_table(["nowhere"])
