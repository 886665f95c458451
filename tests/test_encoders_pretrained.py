"""Published encoders: small random weights in the layout of the authors' files, against the formulas of their papers.

Independent here: SciPy's associated Legendre functions for SatCLIP, the projection written out for GeoCLIP.
"""

import math

import numpy as np
import pytest
import scipy.special
import torch

import tslab
from tslab.encoders import PRETRAINED, CheckpointError
from tslab.encoders.pretrained import FETCHED, EqualEarthFourier, ParallelMLPs, equal_earth


@pytest.fixture
def lonlat():
    places = tslab.sample_sphere(20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.cat([places, torch.tensor([[0.0, 90.0], [180.0, 0.0]], dtype=torch.float64)])


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def satclip_state(degree=5, hidden=7, width=4, prefix="model.location.nnet."):
    shapes = {"layers.0": (hidden, degree**2), "layers.1": (hidden, hidden), "last_layer": (width, hidden)}
    state = {f"{prefix}{name}.weight": 0.1 * randn(*shape) for name, shape in shapes.items()}
    return state | {f"{prefix}{name}.bias": randn(shape[0]) for name, shape in shapes.items()}


def satclip_harmonics(degree, lonlat):
    """As the authors define them: azimuth lon + 180, colatitude lat + 90, no Condon-Shortley phase, pi at m = 0."""
    azimuth, colatitude = np.radians(lonlat[:, 0] + 180), np.radians(lonlat[:, 1] + 90)
    columns = []
    for l in range(degree):  # noqa: E741
        for m in range(-l, l + 1):
            k = abs(m)
            legendre = (-1) ** k * scipy.special.lpmv(k, l, np.cos(colatitude))
            norm = math.sqrt((2 * l + 1) / (4 * math.pi) * math.factorial(l - k) / math.factorial(l + k))
            wave = math.sqrt(2) * (np.sin(k * azimuth) if m < 0 else np.cos(k * azimuth)) if m else math.pi
            columns.append(norm * legendre * wave)
    return torch.from_numpy(np.stack(columns, axis=-1))


@pytest.mark.parametrize("complete", [True, False])
def test_satclip_against_its_formula(complete, lonlat, tmp_path):
    state = satclip_state(prefix="model.location.nnet." if complete else "nnet.")
    path = tmp_path / "satclip.ckpt"
    others = {"model.visual.conv1.weight": randn(2, 2), "model.logit_scale": randn(1)} if complete else {}
    options = {"le_type": "sphericalharmonics", "pe_type": "siren", "harmonics_calculation": "analytic"}
    torch.save({"state_dict": state | others, "hyper_parameters": options} if complete else state, path)
    encoder = tslab.load_pretrained("satclip", path)
    layers = {name.split("nnet.")[1]: value for name, value in state.items()}
    x = satclip_harmonics(5, lonlat.numpy())
    x = torch.sin(30 * (x @ layers["layers.0.weight"].T + layers["layers.0.bias"]))
    x = torch.sin(x @ layers["layers.1.weight"].T + layers["layers.1.bias"])
    expected = x @ layers["last_layer.weight"].T + layers["last_layer.bias"]
    assert torch.allclose(encoder(lonlat).double(), expected, rtol=0, atol=2e-4)  # weights rounded to float32
    assert encoder(lonlat.float()).dtype == torch.float32 and not encoder.training


def test_satclip_can_be_saved_in_the_format_of_tslab(lonlat, tmp_path):
    torch.save(satclip_state(), tmp_path / "satclip.ckpt")
    encoder = tslab.load_pretrained("satclip", tmp_path / "satclip.ckpt")
    again = tslab.load_encoder(tslab.save_encoder(encoder, tmp_path / "satclip"))
    assert torch.equal(again(lonlat), encoder(lonlat))


def geoclip_state(prefix=""):
    state = {}
    for k, sigma in enumerate((1, 16, 256)):
        state[f"LocEnc{k}.capsule.0.b"] = sigma * randn(6, 2, seed=k)
        for layer, shape in ((1, (5, 12)), (3, (5, 5)), (5, (5, 5))):
            state[f"LocEnc{k}.capsule.{layer}.weight"] = 0.5 * randn(*shape, seed=k + layer)
            state[f"LocEnc{k}.capsule.{layer}.bias"] = randn(shape[0], seed=k + layer)
        state[f"LocEnc{k}.head.0.weight"], state[f"LocEnc{k}.head.0.bias"] = (
            randn(4, 5, seed=k),
            randn(4, seed=k),
        )
    return {prefix + name: value.float() for name, value in state.items()}


def geoclip_formula(state, lonlat):
    a1, a2, a3, a4 = 1.340264, -0.081106, 0.000893, 0.003796
    lon, lat = np.radians(lonlat.numpy()).T
    theta = np.arcsin(np.sqrt(3) / 2 * np.sin(lat))
    slope = 9 * a4 * theta**8 + 7 * a3 * theta**6 + 3 * a2 * theta**2 + a1
    x = 2 * np.sqrt(3) * lon * np.cos(theta) / (3 * slope)
    y = a4 * theta**9 + a3 * theta**7 + a2 * theta**3 + a1 * theta
    v = torch.from_numpy(np.stack([x, y], axis=-1)) * 66.50336 / 180
    total = torch.zeros(len(lonlat), 4, dtype=torch.float64)
    for k in range(3):
        part = {name.split(f"LocEnc{k}.")[1]: value.double() for name, value in state.items() if f"LocEnc{k}." in name}
        phase = 2 * math.pi * v @ part["capsule.0.b"].T
        out = torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)
        for layer in ("capsule.1", "capsule.3", "capsule.5"):
            out = (out @ part[f"{layer}.weight"].T + part[f"{layer}.bias"]).relu()
        total += out @ part["head.0.weight"].T + part["head.0.bias"]
    return total


@pytest.mark.parametrize("prefix", ["", "location_encoder."])
def test_geoclip_against_its_formula(prefix, lonlat, tmp_path):
    state = geoclip_state(prefix)
    others = {"logit_scale": torch.ones(()), "image_encoder.mlp.0.weight": torch.zeros(2, 2)} if prefix else {}
    torch.save(state | others, tmp_path / "weights.pth")
    encoder = tslab.load_pretrained("geoclip", tmp_path / "weights.pth")
    expected = geoclip_formula(state, lonlat)
    assert torch.allclose(encoder(lonlat).double(), expected, rtol=1e-4, atol=1e-4)
    assert encoder.out_features == 4
    lonlat[2, 1] = torch.nan
    assert encoder(lonlat)[2].isnan().all()


def test_geoclip_is_read_from_safetensors(lonlat, tmp_path):
    from safetensors.torch import save_file

    state = geoclip_state("location_encoder.")
    save_file(state, tmp_path / "model.safetensors")
    encoder = tslab.load_pretrained("geoclip", tmp_path / "model.safetensors")
    assert torch.allclose(encoder(lonlat).double(), geoclip_formula(state, lonlat), rtol=1e-4, atol=1e-4)


def test_the_equal_earth_map_has_equal_areas():
    # the determinant of its derivative by (lon, sin lat) is the same everywhere
    places = tslab.sample_sphere(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    places[:, 1] *= 0.95
    jacobian = torch.func.vmap(torch.func.jacrev(lambda place: equal_earth(place[None])[0]))(places)
    area = torch.linalg.det(jacobian) / torch.cos(torch.deg2rad(places[:, 1])) * (180 / math.pi) ** 2
    assert torch.allclose(area, torch.ones_like(area), atol=2e-3)  # the published polynomial is an approximation


def test_equal_earth_fourier_features_draw_their_frequencies_at_each_scale():
    encoder = EqualEarthFourier(num_frequencies=4000, generator=torch.Generator().manual_seed(0))
    assert encoder.out_features == 2 * 4000 * 3
    assert torch.allclose(encoder.directions.std((1, 2)) / torch.tensor([1.0, 16.0, 256.0]), torch.ones(3), atol=0.05)


@pytest.mark.parametrize("kind", ["satclip", "geoclip"])
def test_without_the_file_the_error_says_where_it_is_published(kind, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is published at https://"):
        tslab.load_pretrained(kind, tmp_path / "none.ckpt")
    assert PRETRAINED[kind].citation and PRETRAINED[kind].licence


def test_geoclip_without_a_path_is_the_fetched_file(lonlat, tmp_path, monkeypatch):
    monkeypatch.setenv("TSLAB_DATA", str(tmp_path))
    target = tmp_path / "earth" / "geoclip" / "location_encoder_weights.pth"
    with pytest.raises(FileNotFoundError, match=r"python data_scripts/fetch_earth\.py --only geoclip") as caught:
        tslab.load_pretrained("geoclip")
    assert str(target) in str(caught.value)
    target.parent.mkdir(parents=True)
    torch.save(geoclip_state(), target)
    assert torch.equal(tslab.load_pretrained("geoclip")(lonlat), tslab.load_pretrained("geoclip", target)(lonlat))


def test_the_fetching_script_puts_geoclip_where_it_is_looked_for():
    fetch_earth = pytest.importorskip("fetch_earth")
    assert FETCHED["geoclip"] == f"earth/{fetch_earth.RESULTS['geoclip']}"


def test_satclip_is_not_fetched_and_needs_its_file():
    with pytest.raises(FileNotFoundError, match=r"read from a file.*is published at https://"):
        tslab.load_pretrained("satclip")


def test_unknown_kinds_are_answered_with_the_known_ones(tmp_path):
    with pytest.raises(KeyError, match="satclip, geoclip"):
        tslab.load_pretrained("csp", tmp_path)


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("satclip", [1], "not a dict of tensors"),
        ("satclip", {"a": torch.zeros(2)}, "holds no SatCLIP location encoder"),
        (
            "satclip",
            {"hyper_parameters": {"le_type": "grid"}, "state_dict": satclip_state()},
            "le_type='grid'",
        ),
        (
            "satclip",
            {"hyper_parameters": {"harmonics_calculation": "discretized"}, "state_dict": {}},
            "discretized",
        ),
        (
            "satclip",
            {"nnet.layers.0.weight": torch.zeros(3, 24), "nnet.last_layer.weight": torch.zeros(2, 3)},
            "square",
        ),
        ("satclip", satclip_state() | {"nnet.layers.1.weight": torch.zeros(3, 3)}, "has shape"),
        ("geoclip", satclip_state(), "holds no GeoCLIP location encoder"),
        ("geoclip", {"LocEnc0.capsule.0.b": torch.ones(3, 2)}, "are missing"),
        (
            "geoclip",
            {k: v for k, v in geoclip_state().items() if "LocEnc2.head" not in k},
            "branches.2.6.weight is missing",
        ),
    ],
)
def test_other_files_are_refused_with_the_reason(kind, content, message, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=message):
        tslab.load_pretrained(kind, tmp_path / "file.pth")


def test_damaged_safetensors_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        tslab.load_pretrained("geoclip", tmp_path / "model.safetensors")


def test_networks_of_geoclip_share_their_input_evenly():
    with pytest.raises(ValueError, match="in_features must be a multiple of num_scales"):
        ParallelMLPs(8, 2, num_scales=3)
    with pytest.raises(ValueError, match="hidden_dim"):
        ParallelMLPs(9, 2, num_scales=3, hidden_dim=0)
