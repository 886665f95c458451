"""Every encoder: what holds for all of them, and the geometry that each one has or lacks."""

import copy
import math
import pickle
import re

import mpmath
import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tslab
from tslab import CoordinateError
from tslab.encoders import geometric_scales
from tslab.encoders.networks import FFN, ResidualNet, Siren

SMALL = {
    "tile": {"cell_size": 30.0, "num_features": 8},
    "wrap": {},
    "wrap_ffn": {},
    "rbf": {"num_anchors": 12, "kernel_size": 20.0},
    "rff": {"num_scales": 16},
    "space2vec_grid": {"num_scales": 5},
    "space2vec_theory": {"num_scales": 5},
    "xyz": {},
    "nerf": {"num_scales": 5},
    "sphere2vec_sphereC": {"num_scales": 5},
    "sphere2vec_sphereC+": {"num_scales": 5},
    "sphere2vec_sphereM": {"num_scales": 5},
    "sphere2vec_sphereM+": {"num_scales": 5},
    "sphere2vec_dfs": {"num_scales": 3},
    "siren_sh": {"degree": 6},
}
KEYS = list(SMALL)
WAVES = [key for key in KEYS if key.startswith(("space2vec", "sphere2vec", "wrap", "nerf"))]

lon_deg = st.floats(-180, 180, width=32)
lat_deg = st.floats(-90, 90, width=32)


def small(key, **changes):
    parameters = SMALL[key] | changes
    if "generator" in tslab.ENCODERS[key].parameters:
        parameters["generator"] = torch.Generator().manual_seed(0)
    return tslab.position_encoder(key, **parameters)


def places(n=64, dtype=torch.float64, seed=0):
    return tslab.sample_sphere(n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_rotation(seed):
    q, r = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    q = q * r.diagonal().sign()
    return q * torch.det(q)


def rotate(lonlat, rotation):
    return tslab.lonlat_from_unit_vectors(tslab.unit_vectors(lonlat) @ rotation.T)


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


# What holds for every encoder


def test_every_encoder_is_tested():
    assert set(KEYS) == set(tslab.ENCODERS)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_follow_the_input(key, dtype):
    encoder = small(key)
    for n in (0, 1, 7):
        encoded = encoder(places(n, dtype))
        assert encoded.shape == (n, encoder.out_features)
        assert encoded.dtype == dtype


@pytest.mark.parametrize("key", KEYS)
def test_float32_output_is_the_float64_output_rounded(key):
    encoder = small(key)
    lonlat = places(512, torch.float32)
    exact = encoder(lonlat.double())
    assert (encoder(lonlat).double() - exact).abs().max() < 2e-6


@pytest.mark.parametrize("key", KEYS)
def test_autocast_does_not_round_the_features(key):
    encoder, lonlat = small(key), places(64, torch.float32)
    plain = encoder(lonlat)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder(lonlat), plain)


@pytest.mark.gpu
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gpu_computes_the_same(key, dtype, cuda):
    encoder, lonlat = small(key), places(512, dtype)
    on_cpu = encoder(lonlat)
    on_gpu = encoder.to(cuda)(lonlat.to(cuda))
    assert on_gpu.device.type == "cuda" and on_gpu.dtype == dtype
    assert (on_gpu.cpu() - on_cpu).abs().max() < (2e-6 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_place_gives_a_row_of_nan_and_leaves_the_others_alone(key):
    encoder, lonlat = small(key), places(6, torch.float32)
    expected = encoder(lonlat)
    lonlat[1, 0] = lonlat[2, 1] = torch.nan
    lonlat[4] = torch.nan
    encoded = encoder(lonlat)
    assert encoded[[1, 2, 4]].isnan().all()
    assert torch.equal(encoded[[0, 3, 5]], expected[[0, 3, 5]])


@pytest.mark.parametrize("key", KEYS)
def test_large_inputs_are_the_same_as_small_ones(key):
    encoder = small(key)
    lonlat = places(5 * 2**17 // encoder.out_features + 3, torch.float32)
    with torch.no_grad():
        whole, parts = encoder(lonlat), torch.cat([encoder(block) for block in lonlat.split(20000)])
    assert torch.allclose(whole, parts, rtol=0, atol=1e-6)


@pytest.mark.parametrize("key", KEYS)
def test_bad_input_is_refused(key):
    encoder = small(key)
    with pytest.raises(CoordinateError, match="swapped"):
        encoder(torch.tensor([[40.0, 120.0]]))
    with pytest.raises(CoordinateError, match="float32 or float64"):
        encoder(places(3).half())
    with pytest.raises(CoordinateError, match=r"shape \(n, 2\)"):
        encoder(torch.zeros(3, 3))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("preset", [None, "locbench2024"])
def test_an_encoder_made_on_the_meta_device_computes_the_same_once_it_is_loaded(key, preset):
    parameters = SMALL[key] if preset is None else {"hidden_dim": 4} if key != "wrap" else {}
    saved = tslab.location_encoder(key, 4, preset=preset, **parameters).eval()
    expected, lonlat = saved(places(9)), places(9)
    for assign in (False, True):
        with torch.device("meta"):
            made = tslab.location_encoder(key, 4, preset=preset, **parameters)
        if not assign:
            made.to_empty(device="cpu")
        made.load_state_dict(saved.state_dict(), assign=assign)
        assert torch.equal(made.eval()(lonlat), expected)
    again = saved.to_empty(device="cpu")  # new memory for every weight of an encoder that was a whole one
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(lonlat), expected)


def test_an_own_constant_without_a_value_is_named():
    class Mine(tslab.PositionEncoder):
        out_features = 2

        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(2), persistent=False)

        def encode(self, lonlat):
            return lonlat * self.scale

    with torch.device("meta"):
        encoder = Mine()
    with pytest.raises(RuntimeError, match="scale of Mine has no value on the meta device"):
        encoder.to_empty(device="cpu")


def test_parameters_are_those_with_a_name():
    assert tslab.ENCODERS["xyz"].parameters == ()
    assert tslab.ENCODERS["wrap"].parameters == ()
    for name in ("args", "kwargs"):
        with pytest.raises(TypeError, match=f"does not take {name}; it takes no parameters"):
            tslab.position_encoder("xyz", **{name: 3})


def test_an_encoder_shows_the_arguments_it_was_built_with():
    assert repr(tslab.position_encoder("xyz")) == "XYZ()"
    assert repr(tslab.position_encoder("nerf", num_scales=4)) == "NeRF(num_scales=4)"
    shown = repr(tslab.position_encoder("rbf", anchors=torch.zeros(3, 2), kernel_size=5.0))
    assert shown == "RBF(num_anchors=3, kernel_size=5.0)"  # how many anchors, not where they are


@pytest.mark.parametrize("key", KEYS)
def test_state_dict_carries_every_random_part(key):
    encoder, lonlat = small(key), places()
    other = tslab.position_encoder(key, **SMALL[key])
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(lonlat), encoder(lonlat))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_compute_the_same(key, duplicate):
    encoder, lonlat = small(key), places()
    assert torch.equal(duplicate(encoder)(lonlat), encoder(lonlat))


@pytest.mark.parametrize("key", [key for key in KEYS if key != "tile"])
def test_casting_the_module_does_not_touch_the_encoding(key):
    encoder, lonlat = small(key), places()
    expected = encoder(lonlat)
    for cast in ("half", "bfloat16", "float", "double"):
        assert torch.equal(getattr(encoder, cast)()(lonlat), expected)


@pytest.mark.parametrize("key", KEYS)
def test_the_same_seed_gives_the_same_encoder(key):
    lonlat = places()
    assert torch.equal(small(key)(lonlat), small(key)(lonlat))


@pytest.mark.parametrize("key", [key for key in KEYS if key != "tile"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_everywhere_also_at_the_poles(key, dtype):
    lonlat = torch.tensor(
        [[0, 90], [30, -90], [180, 90], [-180, 0], [180, 0], [0, 0], [12, 34]],
        dtype=dtype,
        requires_grad=True,
    )
    small(key)(lonlat).square().sum().backward()
    assert lonlat.grad.isfinite().all()


@pytest.mark.parametrize("key", [key for key in KEYS if key != "tile"])
def test_gradients_agree_with_finite_differences(key):
    lonlat = places(4).requires_grad_()
    assert torch.autograd.gradcheck(small(key), lonlat, eps=1e-5, atol=1e-4)


# Parameters, presets, registry


@pytest.mark.parametrize("key", KEYS)
def test_unknown_parameters_are_rejected_by_name(key):
    with pytest.raises(TypeError, match=re.escape(f"{key!r} does not take wavelength; it takes")):
        tslab.position_encoder(key, wavelength=3)
    with pytest.raises(TypeError, match="does not take wavelength"):
        tslab.location_encoder(key, wavelength=3)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(KeyError, match="sphere2vec_dfs"):
        tslab.position_encoder("sphere2vec")
    with pytest.raises(ValueError, match="locbench2024"):
        tslab.position_encoder("xyz", preset="paper")
    with pytest.raises(ValueError, match="siren"):
        tslab.location_encoder("xyz", network="cnn")
    with pytest.raises(ValueError, match="leakyrelu"):
        tslab.location_encoder("xyz", activation="swish")


@pytest.mark.parametrize(
    ("key", "parameters", "message"),
    [
        ("space2vec_grid", {"num_scales": 0}, "num_scales"),
        ("space2vec_grid", {"min_radius": 0.0}, "min_radius"),
        ("sphere2vec_sphereC", {"min_radius": 2.0, "max_radius": 1.0}, "min_radius <= max_radius"),
        ("sphere2vec_dfs", {"scales": "harmonic"}, "geometric"),
        ("nerf", {"num_scales": 41}, "octaves"),
        ("siren_sh", {"degree": 101}, "degree"),
        ("tile", {"cell_size": 0.0}, "cell_size"),
        ("tile", {"cell_size": 0.001}, "larger cells"),
        ("tile", {"extent": (0, 0, 0, 1)}, "lon_min < lon_max"),
        ("rbf", {"kernel_size": -1.0}, "kernel_size"),
        ("rbf", {"num_anchors": 0}, "num_anchors"),
        ("rbf", {"num_anchors": 3, "anchors": torch.zeros(2, 2)}, "leave num_anchors out"),
        ("rbf", {"anchors": torch.tensor([[0.0, torch.nan]])}, "missing"),
        ("rff", {"num_scales": 0}, "num_scales"),
        ("rff", {"kernel_size": 0.0}, "kernel_size"),
        ("rff", {"kernel_size": math.inf}, "kernel_size"),
        ("rff", {"extent": (0, math.inf, 0, 1)}, "extent"),
        ("rff", {"extent": 5}, "lon_min"),
        ("rff", {"num_scales": 2.5}, "num_scales"),
        ("rbf", {"kernel_size": math.inf}, "kernel_size"),
        ("rbf", {"num_anchors": True}, "num_anchors"),
        ("rbf", {"anchors": torch.zeros(0, 2)}, "at least one place"),
        ("tile", {"cell_size": math.inf}, "cell_size"),
        ("tile", {"num_features": 0}, "num_features"),
        ("nerf", {"num_scales": 2.5}, "num_scales"),
        ("siren_sh", {"degree": math.nan}, "degree"),
        ("space2vec_theory", {"min_radius": math.nan}, "min_radius"),
        ("space2vec_grid", {"max_radius": math.inf}, "max_radius"),
        ("sphere2vec_sphereM+", {"num_scales": "4"}, "num_scales"),
        ("sphere2vec_dfs", {"num_scales": 0}, "num_scales"),
    ],
)
def test_values_out_of_range_are_refused(key, parameters, message):
    with pytest.raises(ValueError, match=message):
        tslab.position_encoder(key, **parameters)


@pytest.mark.parametrize(
    ("key", "parameters", "message"),
    [
        ("xyz", {"embedding_dim": 0}, "embedding_dim"),
        ("xyz", {"hidden_dim": -1}, "hidden_dim"),
        ("xyz", {"hidden_dim": 1.5}, "hidden_dim"),
        ("xyz", {"num_hidden_layers": -1}, "num_hidden_layers"),
        ("xyz", {"dropout": 1.0}, "dropout"),
        ("xyz", {"dropout": math.nan}, "dropout"),
        ("xyz", {"layer_norm": "no"}, "layer_norm"),
        ("xyz", {"activation": "Swish", "num_hidden_layers": 0}, "activation"),
        ("wrap", {"num_blocks": -1}, "num_blocks"),
        ("wrap", {"dropout": -0.1}, "dropout"),
        ("siren_sh", {"num_hidden_layers": 0}, "num_hidden_layers"),
        ("siren_sh", {"omega": 0.0}, "omega"),
        ("siren_sh", {"first_omega": math.inf}, "first_omega"),
        ("siren_sh", {"dropout": 2}, "dropout"),
    ],
)
def test_networks_refuse_values_out_of_range(key, parameters, message):
    with pytest.raises(ValueError, match=message):
        tslab.location_encoder(key, **parameters)


@pytest.mark.parametrize(
    ("arguments", "how", "error"),
    [
        (("", tslab.PositionEncoder), {}, ValueError),
        (("mine", 3), {}, TypeError),
        (("mine", tslab.PositionEncoder), {"presets": {"paper": {}}}, ValueError),
        (("mine", tslab.PositionEncoder), {"network": ["ffn"]}, ValueError),
        (("mine", tslab.PositionEncoder), {"family": "own"}, ValueError),
    ],
)
def test_what_cannot_be_registered_is_refused(arguments, how, error):
    with pytest.raises(error):
        tslab.register_encoder(*arguments, **how)
    assert set(tslab.ENCODERS) == set(KEYS)


def test_preset_tile_is_one_cell():
    encoder = tslab.position_encoder("tile", preset="locbench2024")
    assert encoder.table.shape == (1, 256)
    encoded = encoder(places())
    assert (encoded == encoded[0]).all()
    assert len(tslab.position_encoder("tile").table) == 72 * 36


def test_preset_nerf_always_has_sixteen_octaves():
    assert tslab.position_encoder("nerf", preset="locbench2024").out_features == 6 * 16
    assert tslab.position_encoder("nerf", preset="locbench2024", num_scales=4).out_features == 6 * 4


@pytest.mark.parametrize(("key", "num_scales", "rank"), [("sphere2vec_dfs", 8, 8), ("sphere2vec_sphereM+", 16, 8)])
def test_presets_with_one_frequency_have_its_rank(key, num_scales, rank):
    lonlat = places(600)
    released = tslab.position_encoder(key, num_scales=num_scales, preset="locbench2024")(lonlat)
    paper = tslab.position_encoder(key, num_scales=num_scales)(lonlat)
    assert released.shape == paper.shape
    assert torch.linalg.matrix_rank(released, rtol=1e-9) <= rank
    assert torch.linalg.matrix_rank(paper, rtol=1e-9) > 5 * rank


def test_preset_siren_sh_has_the_ordinary_network():
    released, paper = (
        tslab.location_encoder("siren_sh", preset="locbench2024"),
        tslab.location_encoder("siren_sh"),
    )
    assert isinstance(released.network, FFN) and isinstance(paper.network, Siren)
    assert released.position_encoder.degree == 8
    assert isinstance(tslab.location_encoder("wrap").network, ResidualNet)


def test_preset_puts_the_activation_on_the_output_layer():
    lonlat = places(200, torch.float32)
    released, plain = (
        tslab.location_encoder("xyz", preset=preset, generator=torch.Generator().manual_seed(0)).eval()(lonlat)
        for preset in ("locbench2024", None)
    )
    assert released.min() == 0
    assert torch.equal(released, plain.relu())


def test_a_registered_encoder_works_like_any_other(tmp_path):
    class Latitude(tslab.PositionEncoder):
        out_features = 1

        def __init__(self, power: int = 1):
            super().__init__()
            self.power = power

        def encode(self, lonlat):
            return (lonlat[:, 1:] / 90) ** self.power

    try:
        info = tslab.register_encoder("latitude", Latitude, family="planar", summary="nothing but latitude")
        assert info.parameters == ("power",)
        encoder = tslab.location_encoder("latitude", 4, power=2, hidden_dim=8).eval()
        assert encoder(places(5, torch.float32)).shape == (5, 4)
        with pytest.raises(ValueError, match="overwrite=True"):
            tslab.register_encoder("latitude", Latitude)
        with pytest.raises(ValueError, match="family"):
            tslab.register_encoder("latitude2", Latitude, family="round")
        tslab.save_encoder(encoder, tmp_path / "latitude")
        again = tslab.load_encoder(tmp_path / "latitude")
        assert torch.equal(again(places(5)), encoder(places(5)))
    finally:
        tslab.ENCODERS.pop("latitude", None)
    with pytest.raises(tslab.encoders.CheckpointError, match="register_encoder"):
        tslab.load_encoder(tmp_path / "latitude")


@pytest.mark.parametrize("key", KEYS)
def test_location_encoders_embed_places_of_either_dtype(key):
    encoder = tslab.location_encoder(key, 7, **SMALL[key]).eval()
    lonlat = places(5, torch.float32)
    lonlat[2, 0] = torch.nan
    for dtype in (torch.float32, torch.float64):
        embedding = encoder(lonlat.to(dtype))
        assert embedding.shape == (5, 7) and embedding.dtype == torch.float32
        assert embedding[2].isnan().all() and not embedding[[0, 1, 3, 4]].isnan().any()
    assert encoder.double()(lonlat).dtype == torch.float64
    assert encoder.out_features == 7


# Geometry: the date line, the poles, rotations


@pytest.mark.parametrize("key", ["tile", "wrap", "xyz", "nerf", "siren_sh"])
@settings(max_examples=25, deadline=None)
@given(lat=lat_deg)
def test_the_date_line_is_one_line(key, lat):
    east, west = small(key)(torch.tensor([[180.0, lat], [-180.0, lat]]))
    assert torch.allclose(east, west, rtol=0, atol=1e-6)


@pytest.mark.parametrize("key", [key for key in KEYS if key.startswith("sphere2vec")])
@settings(max_examples=25, deadline=None)
@given(lat=lat_deg, whole=st.integers(1, 1000))
def test_sphere2vec_is_periodic_where_the_scale_divides_the_circle(key, lat, whole):
    encoder = tslab.position_encoder(key, num_scales=1, min_radius=1 / whole, max_radius=1 / whole)
    east, west = encoder(torch.tensor([[180.0, lat], [-180.0, lat]], dtype=torch.float64))
    assert torch.allclose(east, west, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "key",
    ["rbf", "rff", "space2vec_grid", "space2vec_theory", *(k for k in KEYS if k.startswith("sphere2vec"))],
)
def test_the_others_break_at_the_date_line(key):
    lat = torch.linspace(-60, 60, 25, dtype=torch.float64)
    encoder = small(key, num_scales=6) if key != "rbf" else small(key)
    east, west = (encoder(torch.stack([torch.full_like(lat, lon), lat], dim=-1)) for lon in (180.0, -180.0))
    assert (east - west).abs().max() > 0.05


@pytest.mark.parametrize("key", ["xyz", "nerf", "siren_sh"])
@settings(max_examples=25, deadline=None)
@given(lon=lon_deg, pole=st.sampled_from([-90.0, 90.0]))
def test_a_pole_is_one_place(key, lon, pole):
    one, other = small(key)(torch.tensor([[lon, pole], [0.0, pole]]))
    assert torch.allclose(one, other, rtol=0, atol=1e-6)


def test_sphereC_has_single_poles_at_scale_one_only():
    lonlat = torch.tensor([[0.0, 90.0], [77.0, 90.0]], dtype=torch.float64)
    one = tslab.position_encoder("sphere2vec_sphereC", num_scales=1, min_radius=1.0)(lonlat)
    half = tslab.position_encoder("sphere2vec_sphereC", num_scales=1, min_radius=0.3, max_radius=0.3)(lonlat)
    assert torch.allclose(one[0], one[1], rtol=0, atol=1e-15)
    assert (half[0] - half[1]).abs().max() > 0.1


@pytest.mark.parametrize("key", [key for key in KEYS if key not in ("xyz", "nerf", "siren_sh")])
def test_for_the_others_the_longitude_of_a_pole_matters(key):
    lon = torch.linspace(-170, 170, 35, dtype=torch.float64)
    encoded = small(key)(torch.stack([lon, torch.full_like(lon, 90)], dim=-1))
    assert (encoded.amax(0) - encoded.amin(0)).max() > 0.05


def test_wrap_gives_both_poles_the_same_values():
    north, south = small("wrap")(torch.tensor([[25.0, 90.0], [25.0, -90.0]], dtype=torch.float64))
    assert torch.allclose(north, south, rtol=0, atol=1e-15)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_rotating_the_earth_rotates_xyz(seed):
    rotation, lonlat = random_rotation(seed), places(seed=seed)
    encoder = small("xyz")
    assert torch.allclose(encoder(rotate(lonlat, rotation)), encoder(lonlat) @ rotation.T, rtol=0, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_kernels_of_xyz_and_spherical_harmonics_do_not_know_how_the_earth_is_turned(seed):
    rotation, lonlat = random_rotation(seed), places(seed=seed)
    for key in ("xyz", "siren_sh"):
        before, after = small(key)(lonlat), small(key)(rotate(lonlat, rotation))
        assert torch.allclose(before @ before.T, after @ after.T, rtol=0, atol=1e-11)


def test_the_kernel_of_sphere2vec_does():
    rotation, lonlat = random_rotation(1), places()
    for key in ("sphere2vec_sphereC", "sphere2vec_sphereM"):
        before, after = small(key)(lonlat), small(key)(rotate(lonlat, rotation))
        assert (before @ before.T - after @ after.T).abs().max() > 0.5


# Formulas, each against an independent form


@pytest.mark.parametrize("min_radius", [1e-4, 1e-2])
def test_phases_are_exact_at_the_finest_scales(min_radius):
    lonlat = places(8, torch.float32)
    scale = float(geometric_scales(64, min_radius, 360.0)[0])
    encoded = tslab.position_encoder("space2vec_grid", num_scales=64, min_radius=min_radius)(lonlat)
    with mpmath.workdps(40):
        for row, (lon, lat) in zip(encoded, lonlat.tolist(), strict=True):
            phase = mpmath.mpf(lon) / mpmath.mpf(scale), mpmath.mpf(lat) / mpmath.mpf(scale)
            expected = [f(p) for p in phase for f in (mpmath.sin, mpmath.cos)]
            found = row[[0, 1, 128, 129]]
            assert max(abs(float(e) - float(x)) for e, x in zip(expected, found, strict=True)) < 2e-6


def test_geometric_scales_have_the_ends_and_the_ratio_asked_for():
    scales = geometric_scales(5, 0.01, 100.0)
    assert torch.allclose(scales, torch.tensor([0.01, 0.1, 1.0, 10.0, 100.0], dtype=torch.float64), rtol=1e-14)
    assert geometric_scales(1, 0.5, 2.0).tolist() == [0.5]


def test_rff_approximates_its_gaussian_kernel():
    generator = torch.Generator().manual_seed(0)
    variance = 3.0
    encoder = tslab.position_encoder("rff", num_scales=20000, kernel_size=variance, generator=generator)
    lonlat = places(40)
    scaled = lonlat / torch.tensor([180.0, 90.0], dtype=torch.float64)
    expected = torch.exp(-variance * torch.cdist(scaled, scaled) ** 2 / 2)
    encoded = encoder(lonlat)
    assert (encoded @ encoded.T - expected).abs().max() < 6 / math.sqrt(20000)


def test_rff_over_an_extent_scales_it_to_the_unit_square():
    generator = torch.Generator().manual_seed(0)
    encoder = tslab.position_encoder("rff", extent=(0, 40, 10, 30), generator=generator)
    encoder.shift.zero_()
    centre = encoder(torch.tensor([[20.0, 20.0]], dtype=torch.float64))
    assert torch.allclose(centre, torch.full_like(centre, math.sqrt(2 / 64)))


def test_the_theory_kernel_depends_on_the_difference_of_coordinates_only():
    encoder = tslab.position_encoder("space2vec_theory", num_scales=1, min_radius=50.0, max_radius=50.0)
    x = torch.tensor([[10.0, 20.0], [-60.0, -5.0]], dtype=torch.float64)
    step = torch.tensor([7.0, -11.0], dtype=torch.float64)
    kernel = (encoder(x) * encoder(x + step)).sum(-1)
    angles = torch.deg2rad(torch.tensor([0.0, 120.0, 240.0], dtype=torch.float64))
    expected = torch.cos((step[0] * angles.cos() + step[1] * angles.sin()) / 50).sum()
    assert torch.allclose(kernel, expected.expand(2))


def test_rbf_is_one_at_its_anchor_and_falls_as_a_gaussian_in_degrees():
    encoder = tslab.position_encoder("rbf", anchors=torch.tensor([[10.0, 20.0], [11.0, 20.0]]), kernel_size=2.0)
    near, off, far = encoder(torch.tensor([[10.0, 20.0], [13.0, 24.0], [-170.0, -80.0]], dtype=torch.float64))
    assert near[0] == 1
    assert near[1].item() == pytest.approx(math.exp(-1 / 8), rel=1e-12)
    assert off[0].item() == pytest.approx(math.exp(-25 / 8), rel=1e-12)
    assert far.max() == 0


def test_tile_looks_up_the_cell_of_a_place():
    encoder = tslab.position_encoder("tile", cell_size=10.0, num_features=4)
    lonlat = torch.tensor([[-180.0, -90.0], [-170.1, -80.1], [-170.0, -80.0], [180.0, 90.0], [179.9, 89.9]])
    assert encoder.cell_index(lonlat).tolist() == [0, 0, 37, 17 * 36, 17 * 36 + 35]
    assert torch.equal(encoder(lonlat)[2], encoder.table[37])


def test_tile_learns_only_the_cells_it_is_shown():
    encoder = tslab.position_encoder("tile", cell_size=90.0, num_features=2)
    encoder(torch.tensor([[10.0, 10.0], [torch.nan, 0.0]])).nansum().backward()
    assert encoder.table.grad.isfinite().all()
    assert encoder.table.grad.abs().sum(1).nonzero().tolist() == [[1 * 4 + 2]]


def test_dfs_is_the_outer_product_of_the_waves_of_both_angles():
    encoder = tslab.position_encoder("sphere2vec_dfs", num_scales=2, min_radius=0.25)
    lon, lat = 0.3, -0.7
    encoded = encoder(torch.rad2deg(torch.tensor([[lon, lat]], dtype=torch.float64)))[0]
    f = np.array([4.0, 1.0])
    waves_lon, waves_lat = (np.concatenate([np.sin(f * a), np.cos(f * a)]) for a in (lon, lat))
    assert np.allclose(encoded[:16], np.outer(waves_lon, waves_lat).ravel())
    single = [g for k in f for g in (np.sin(k * lat), np.cos(k * lat), np.sin(k * lon), np.cos(k * lon))]
    assert np.allclose(encoded[16:], single)


# Spherical harmonics


def real_harmonics(degree, lonlat):
    """Orthonormal real spherical harmonics without Condon-Shortley phase, from SciPy's complex ones with it."""
    columns = [(l, m) for l in range(degree) for m in range(-l, l + 1)]  # noqa: E741
    l, m = np.array(columns).T  # noqa: E741
    azimuth, colatitude = np.radians(lonlat[:, :1]), np.radians(90 - lonlat[:, 1:])
    y = scipy.special.sph_harm_y(l, np.abs(m), colatitude, azimuth) * (-1.0) ** m
    return np.where(m == 0, y.real, math.sqrt(2) * np.where(m > 0, y.real, y.imag))


@pytest.mark.parametrize(
    ("degree", "float32", "float64"),
    [(1, 1e-7, 1e-14), (10, 5e-7, 2e-14), (20, 7e-7, 1e-13), (40, 1e-6, 4e-13), (100, 2e-6, 1e-12)],
)
def test_harmonics_agree_with_scipy_up_to_degree_100(degree, float32, float64):
    poles = torch.tensor([[0.0, 90.0], [50.0, -90.0], [-180.0, 89.999], [180.0, 0.0]], dtype=torch.float64)
    lonlat = torch.cat([poles, places(60)]).float().double()
    expected = real_harmonics(degree, lonlat.numpy())
    encoder = tslab.position_encoder("siren_sh", degree=degree)
    assert np.abs(encoder(lonlat).numpy() - expected).max() < float64
    assert np.abs(encoder(lonlat.float()).numpy() - expected).max() < float32
    near = places(200)  # and within four degrees of the poles
    near[:, 1] = near[:, 1].sign() * (90 - near[:, 1].abs() / 22.5)
    assert (encoder(near.float()) - encoder(near.float().double())).abs().max() < float32


def test_harmonics_are_the_same_on_both_sides_of_the_date_line():
    lat = torch.linspace(-90, 90, 19)
    encoder = tslab.position_encoder("siren_sh", degree=20)
    east, west = (encoder(torch.stack([torch.full_like(lat, lon), lat], dim=-1)) for lon in (180.0, -180.0))
    assert torch.equal(east, west)


def test_second_derivatives_of_harmonics_make_the_laplacian_of_the_sphere():
    """The surface Laplacian of Y_l^m is -l (l + 1) Y_l^m; on the equator it is the sum of both second derivatives."""
    encoder = tslab.position_encoder("siren_sh", degree=6)
    for lon in (0.0, 33.0, 180.0, -180.0):
        place = torch.tensor([lon, 0.0], dtype=torch.float64)
        second = torch.func.hessian(lambda place: encoder(place[None])[0])(place).diagonal(dim1=-2, dim2=-1)
        laplacian = second.sum(-1) * (180 / math.pi) ** 2
        l = torch.arange(36).sqrt().floor()  # noqa: E741
        expected = -l * (l + 1) * encoder(place[None])[0]
        assert torch.allclose(laplacian, expected, rtol=0, atol=1e-11)


def test_harmonics_are_orthonormal():
    degree = 12
    z, weight = np.polynomial.legendre.leggauss(degree)  # exact for products of degree up to 2 degree - 1
    lon = np.arange(2 * degree) * (360 / (2 * degree)) - 180
    lonlat = np.stack(np.meshgrid(lon, np.degrees(np.arcsin(z))), axis=-1).reshape(-1, 2)
    y = tslab.position_encoder("siren_sh", degree=degree)(torch.from_numpy(lonlat)).numpy()
    area = np.repeat(weight, len(lon)) * (2 * math.pi / len(lon))
    assert np.abs((y * area[:, None]).T @ y - np.eye(degree**2)).max() < 1e-13


def test_harmonics_of_one_degree_have_the_same_total_everywhere():
    y = tslab.position_encoder("siren_sh", degree=30)(places())
    for l in (0, 7, 29):  # noqa: E741
        total = y[:, l**2 : (l + 1) ** 2].square().sum(-1)
        assert torch.allclose(total, torch.full_like(total, (2 * l + 1) / (4 * math.pi)), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_harmonics_of_degree_100_have_finite_gradients_at_the_poles(dtype):
    lonlat = torch.tensor([[0.0, 90.0], [45.0, -90.0], [10.0, 89.99]], dtype=dtype, requires_grad=True)
    encoded = tslab.position_encoder("siren_sh", degree=100)(lonlat)
    encoded.sum().backward()
    assert encoded.isfinite().all() and lonlat.grad.isfinite().all()


def test_the_gradient_of_harmonics_at_a_pole_points_along_the_meridian():
    """Y_1^1 is proportional to x = cos(lat) cos(lon), whose derivative by latitude at the North Pole is -cos(lon)."""
    lonlat = torch.tensor([[0.0, 90.0], [60.0, 90.0], [-180.0, 90.0]], dtype=torch.float64, requires_grad=True)
    x = tslab.position_encoder("siren_sh", degree=2)(lonlat)[:, 3] / math.sqrt(3 / (4 * math.pi))
    (gradient,) = torch.autograd.grad(x.sum(), lonlat)
    expected = torch.tensor([[0.0, -1.0], [0.0, -0.5], [0.0, 1.0]], dtype=torch.float64) * (math.pi / 180)
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-15)


# Networks


def test_siren_starts_with_sine_layers_of_the_two_frequencies():
    net = Siren(3, 2, hidden_dim=5, num_hidden_layers=2, generator=torch.Generator().manual_seed(0)).eval()
    x = torch.randn(4, 3)
    first, second, last = net.layers
    assert torch.allclose(net(x), last(torch.sin(second(torch.sin(30 * first(x))))))
    assert first.weight.abs().max() <= 1 / 3 and second.weight.abs().max() <= math.sqrt(6 / 5)


def test_residual_net_adds_its_blocks():
    net = ResidualNet(4, 6, num_blocks=2, generator=torch.Generator().manual_seed(0)).eval()
    x = torch.randn(3, 4)
    out = torch.relu(net.input(x))
    for block in net.blocks:
        out = out + torch.relu(block[3](torch.relu(block[0](out))))
    assert torch.equal(net(x), out)


def test_ffn_skips_where_the_widths_match():
    net = FFN(4, 6, hidden_dim=5, num_hidden_layers=2, activation="leakyrelu").eval()
    x = torch.randn(3, 4)
    a, b, c = net.layers
    leaky = torch.nn.LeakyReLU(0.2)
    hidden = a.norm(leaky(a.linear(x)))
    hidden = b.norm(leaky(b.linear(hidden)) + hidden)
    assert torch.allclose(net(x), c.linear(hidden))
    bound = math.sqrt(6 / (4 + 5))
    assert a.linear.weight.abs().max() <= bound and a.linear.bias.abs().max() == 0


@pytest.mark.parametrize("bad", [{"hidden_dim": 0}, {"num_hidden_layers": -1}])
def test_widths_are_checked(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        tslab.location_encoder("xyz", **bad)


class OneColumn(tslab.PositionEncoder):
    """Says that it has more features than it has."""

    def __init__(self):
        super().__init__()
        self.out_features = 256

    def encode(self, lonlat):
        return lonlat[:, :1]


@pytest.mark.parametrize("rows", [3, 200_000])
def test_an_encoder_that_returns_another_width_than_it_says_is_refused(rows):
    """Also where places are encoded in blocks, which a single column would fill by broadcasting."""
    with pytest.raises(ValueError, match=r"OneColumn\.encode must return .*256\), got"):
        OneColumn()(torch.zeros(rows, 2))


@pytest.mark.parametrize("key", ["no_prior", "custom", "a/b", "../up", "a\\b", ".hidden", "c:d"])
def test_keys_that_mean_something_else_or_cannot_name_a_file_are_refused(key):
    """Keys name folders of runs and files of the benchmark; "no_prior" and "custom" stand in stored runs."""
    with pytest.raises(ValueError, match="key"):
        tslab.register_encoder(key, OneColumn)
    assert key not in tslab.ENCODERS


def test_an_encoder_without_weights_is_not_saved(tmp_path):
    with torch.device("meta"):
        encoder = tslab.location_encoder("xyz", 4)
    with pytest.raises(ValueError, match="meta device"):
        tslab.save_encoder(encoder, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
