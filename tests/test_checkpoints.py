"""Released checkpoints against golden outputs, tslab's own format, and files that are neither."""

import json
import pickle

import numpy as np
import pytest
import torch

import tslab
from tslab.encoders import CheckpointError

NAMES = [
    "fmow__NeRF", "yfcc__NeRF", "fmow__rff", "yfcc__rff", "yfcc__Space2Vec-grid", "yfcc__Space2Vec-theory",
    "fmow__Sphere2Vec-sphereC", "yfcc__Sphere2Vec-sphereC", "fmow__Sphere2Vec-sphereM", "yfcc__Sphere2Vec-sphereM",
    "fmow__tile_ffn", "fmow__wrap_ffn", "yfcc__wrap_ffn", "yfcc__xyz",
]  # fmt: skip


@pytest.fixture(scope="module")
def outputs(golden_of_released):
    return dict(np.load(golden_of_released / "checkpoint_outputs.npz"))


def test_every_golden_checkpoint_is_tested(golden_of_released):
    assert set(NAMES) == set(json.loads((golden_of_released / "checkpoint_outputs.json").read_text()))


@pytest.mark.mirror
@pytest.mark.parametrize("name", NAMES)
def test_released_checkpoint_gives_the_golden_embeddings_and_probabilities(name, golden_of_released, outputs, mirror):
    about = json.loads((golden_of_released / "checkpoint_outputs.json").read_text())[name]
    model = tslab.load_released_checkpoint(mirror / "pre_trained_models" / about["file"])
    lonlat = torch.from_numpy(outputs["lonlat"]).float()
    assert (model.dataset, model.epoch) == (name.split("__")[0], about["epoch"])
    embedding, probability = model.embed(lonlat), model.predict_proba(lonlat)
    print(
        name,
        np.abs(embedding.numpy() - outputs[f"{name}__embedding"]).max(),
        np.abs(probability.numpy() - outputs[f"{name}__probs"]).max(),
    )
    np.testing.assert_allclose(embedding.numpy(), outputs[f"{name}__embedding"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(probability.numpy(), outputs[f"{name}__probs"], rtol=0, atol=1e-5)
    lonlat[3, 0] = torch.nan
    assert model.predict_proba(lonlat)[3].isnan().all()
    assert not model.predict_proba(lonlat)[[2, 4]].isnan().any()


@pytest.mark.mirror
@pytest.mark.parametrize("dataset", ["fmow", "yfcc"])
def test_rbf_says_why_it_cannot_be_restored(dataset, mirror):
    (path,) = (mirror / "pre_trained_models" / "rbf").glob(f"model_{dataset}_rbf_*.pth.tar")
    with pytest.raises(CheckpointError, match="anchor places, and the file holds only their row numbers"):
        tslab.load_released_checkpoint(path)


# Files in the layout of the release, made here


PARAMS = {
    "dataset": "toy",
    "spa_enc_type": "Sphere2Vec-sphereC+",
    "frequency_num": 4,
    "min_radius": 0.1,
    "max_radius": 1.0,
    "rbf_kernel_size": 1.0,
    "hidden_dim": 6,
    "num_hidden_layer": 1,
    "spa_f_act": "relu",
    "dropout": 0.5,
    "use_layn": True,
    "skip_connection": True,
    "loc_encode": "encode_cos_sin",
    "use_date_feats": False,
    "freq_init": "geometric",
}


def random_tensors(**shapes):
    generator = torch.Generator().manual_seed(0)
    return {name.replace("__", "."): torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def ffn_state(in_features, classes=3, hidden=6, width=5):
    return random_tensors(
        spa_enc__ffn__layers__0__linear__weight=(hidden, in_features),
        spa_enc__ffn__layers__0__linear__bias=(hidden,),
        spa_enc__ffn__layers__0__layernorm__weight=(hidden,),
        spa_enc__ffn__layers__0__layernorm__bias=(hidden,),
        spa_enc__ffn__layers__1__linear__weight=(width, hidden),
        spa_enc__ffn__layers__1__linear__bias=(width,),
        class_emb__weight=(classes, width),
        user_emb__weight=(1, width),
    )


def write(tmp_path, params=None, state=None, **others):
    path = tmp_path / "model.pth.tar"
    torch.save({"epoch": 7, "params": PARAMS | (params or {}), "state_dict": state, "optimizer": {}} | others, path)
    return path


@pytest.fixture
def lonlat():
    return tslab.sample_sphere(9, generator=torch.Generator().manual_seed(1))


def test_wrap_is_restored_with_its_residual_net(tmp_path, lonlat):
    shapes = {"feats__0__weight": (5, 4), "feats__0__bias": (5,), "class_emb__weight": (3, 5)}
    for block in range(2, 6):
        for layer in ("w1", "w2"):
            shapes |= {f"feats__{block}__{layer}__weight": (5, 5), f"feats__{block}__{layer}__bias": (5,)}
    state = random_tensors(**shapes)
    model = tslab.load_released_checkpoint(write(tmp_path, {"spa_enc_type": "wrap"}, state))

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    u = lonlat / torch.tensor([180.0, 90.0])
    out = linear(torch.cat([torch.sin(torch.pi * u), torch.cos(torch.pi * u)], dim=1), "feats.0").relu()
    for block in range(2, 6):
        out = out + linear(linear(out, f"feats.{block}.w1").relu(), f"feats.{block}.w2").relu()
    assert torch.allclose(model.embed(lonlat), out, rtol=1e-4, atol=1e-3)
    expected = torch.sigmoid(out @ state["class_emb.weight"].T)
    assert torch.allclose(model.predict_proba(lonlat), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("token", ["Sphere2Vec-sphereM+", "Sphere2Vec-dfs"])
def test_encoders_with_one_frequency_are_restored_as_released(token, tmp_path):
    width = {"Sphere2Vec-sphereM+": 32, "Sphere2Vec-dfs": 80}[token]
    model = tslab.load_released_checkpoint(write(tmp_path, {"spa_enc_type": token}, ffn_state(width)))
    assert model.encoder.position_encoder.scales == "released"


def test_rff_takes_its_directions_from_the_file_and_its_extent_from_the_caller(tmp_path, lonlat):
    state = ffn_state(4) | random_tensors(
        spa_enc__position_encoder__dirvec=(2, 4), spa_enc__position_encoder__shift=(4,)
    )
    path = write(tmp_path, {"spa_enc_type": "rff"}, state)
    globe, part = (
        tslab.load_released_checkpoint(path),
        tslab.load_released_checkpoint(path, extent=(-10, 10, -5, 5)),
    )
    scaled = lonlat / torch.tensor([180.0, 90.0])
    directions, shift = (state[f"spa_enc.position_encoder.{name}"] for name in ("dirvec", "shift"))
    expected = (2 / 4) ** 0.5 * torch.cos(scaled @ directions + shift)
    assert torch.allclose(globe.encoder.position_encoder(lonlat), expected, atol=1e-5)
    assert not torch.allclose(part.encoder.position_encoder(lonlat), expected, atol=1e-1)


@pytest.mark.parametrize(
    ("params", "state", "message"),
    [
        ({"spa_enc_type": "gridcellnorm"}, ffn_state(24), "not an encoder of the benchmark"),
        ({"spa_enc_type": "spherical_harmonics"}, ffn_state(24), "does not contain the spherical harmonics"),
        ({"use_date_feats": True}, ffn_state(24), "dates"),
        ({"freq_init": "random"}, ffn_state(24), "geometric"),
        ({}, ffn_state(25), r"network.layers.0.linear.weight has shape \(6, 25\), expected \(6, 24\)"),
        ({}, ffn_state(24) | {"cnn_ffn.0.weight": torch.zeros(2, 2)}, "cnn_ffn.0.weight does not belong"),
        ({}, {k: v for k, v in ffn_state(24).items() if "class" not in k}, "class_emb.weight"),
        (
            {},
            {k: v for k, v in ffn_state(24).items() if "1.linear.bias" not in k},
            "layers.1.linear.bias is missing",
        ),
        ({}, {"class_emb.weight": "text"}, "floating point tensors"),
        ({"spa_enc_type": "tile_ffn"}, ffn_state(8), "table of the tile encoder is missing"),
        (
            {"spa_enc_type": "tile_ffn"},
            ffn_state(8) | {"spa_enc.position_encoder.embedding.weight": torch.zeros(9, 8)},
            "does not tell their size",
        ),
    ],
)
def test_what_cannot_be_restored_is_refused_with_the_reason(params, state, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        tslab.load_released_checkpoint(write(tmp_path, params, state))


def test_a_missing_option_is_named(tmp_path):
    params = {name: value for name, value in PARAMS.items() if name != "hidden_dim"}
    path = tmp_path / "model.pth.tar"
    torch.save({"params": params, "state_dict": ffn_state(24)}, path)
    with pytest.raises(CheckpointError, match="'hidden_dim' is missing"):
        tslab.load_released_checkpoint(path)


class Harmful:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a checkpoint was run')",))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken", pickle.dumps({"a": 1})])
def test_foreign_files_are_refused(content, tmp_path):
    path = tmp_path / "model.pth.tar"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.pth\.tar"):
        tslab.load_released_checkpoint(path)


def test_truncated_and_foreign_torch_files_are_refused(tmp_path):
    path = write(tmp_path, {}, ffn_state(24))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="not a readable torch file"):
        tslab.load_released_checkpoint(path)
    torch.save([1, 2, 3], path)
    with pytest.raises(CheckpointError, match="not a released TorchSpatial checkpoint"):
        tslab.load_released_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="fetch_released"):
        tslab.load_released_checkpoint(tmp_path / "none.pth.tar")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    path = write(tmp_path, {}, ffn_state(24), optimizer=Harmful())
    with pytest.raises(CheckpointError, match="could run code"):
        tslab.load_released_checkpoint(path)


class Pickled:
    """Something of this very module, harmless, but no tensor."""


def test_damaged_files_and_files_with_code_are_told_apart(tmp_path):
    path = write(tmp_path, {}, ffn_state(24))
    whole = path.read_bytes()
    damaged = [
        whole[: len(whole) // 2],
        b"not a checkpoint",
        b"\x80\x02}q\x00",
        whole.replace(b"PK\x03\x04", b"PK\x00\x00"),
    ]
    with_code = [pickle.dumps(Harmful(), protocol=2), pickle.dumps({"a": Pickled()}, protocol=2)]
    for contents, message in ((damaged, "not a readable torch file"), (with_code, "could run code")):
        for content in contents:
            path.write_bytes(content)
            with pytest.raises(CheckpointError, match=message):
                tslab.load_released_checkpoint(path)
    torch.save({"params": PARAMS, "state_dict": Pickled()}, path)
    with pytest.raises(CheckpointError, match="could run code"):
        tslab.load_released_checkpoint(path)


# tslab's own format


CASES = {
    "tile": {"cell_size": 45.0, "num_features": 4, "extent": (-180, 180, -60, 60)},
    "wrap": {"num_blocks": 2},
    "rbf": {"anchors": torch.tensor([[1.0, 2.0], [30.0, -4.0], [-170.0, 80.0]]), "kernel_size": 30.0},
    "rff": {"num_scales": 8, "extent": (-20, 60, 30, 70), "kernel_size": 2.0},
    "space2vec_theory": {"num_scales": 4, "activation": "gelu", "num_hidden_layers": 2},
    "sphere2vec_dfs": {"num_scales": 3, "preset": "locbench2024"},
    "siren_sh": {"degree": 4, "first_omega": 20.0},
}


@pytest.mark.parametrize("key", CASES)
def test_a_saved_encoder_comes_back_the_same(key, tmp_path, lonlat):
    encoder = tslab.location_encoder(key, 6, hidden_dim=7, **CASES[key]) if key != "wrap" else (
        tslab.location_encoder(key, 6, **CASES[key])
    )  # fmt: skip
    folder = tslab.save_encoder(encoder.eval(), tmp_path / "encoder")
    again = tslab.load_encoder(folder)
    assert not again.training and again.config == again.config
    assert torch.equal(again(lonlat), encoder(lonlat))
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".safetensors"]


@pytest.mark.parametrize("wrap", [torch.compile, torch.nn.DataParallel, torch.optim.swa_utils.AveragedModel])
def test_a_wrapped_encoder_is_saved_as_what_it_wraps(wrap, tmp_path, lonlat):
    encoder = tslab.location_encoder("xyz", 4, hidden_dim=4).eval()
    tslab.save_encoder(wrap(encoder), tmp_path)
    with torch.no_grad():
        assert torch.equal(tslab.load_encoder(tmp_path)(lonlat), encoder(lonlat))
    encoder.network = torch.compile(encoder.network)
    tslab.save_encoder(encoder, tmp_path)
    assert not any("_orig_mod" in name for name in tslab.load_encoder(tmp_path).state_dict())
    with pytest.raises(TypeError, match=r"save its \.encoder"):
        tslab.save_encoder(tslab.position_encoder("xyz"), tmp_path)


def test_saving_again_replaces_and_keeps_the_dtype(tmp_path, lonlat):
    first = tslab.location_encoder("xyz", 4, hidden_dim=8).eval()
    second = tslab.location_encoder("wrap", 5).double().eval()
    tslab.save_encoder(first, tmp_path / "encoder")
    folder = tslab.save_encoder(second, tmp_path / "encoder")
    assert len(list(folder.iterdir())) == 2
    again = tslab.load_encoder(folder)
    assert torch.equal(again(lonlat.double()), second(lonlat.double())) and again(lonlat).dtype == torch.float64


@pytest.fixture
def saved(tmp_path):
    return tslab.save_encoder(tslab.location_encoder("xyz", 4, hidden_dim=8), tmp_path / "encoder")


def edit(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, value in changes.items():
        target = config
        *parents, last = name.split("__")
        for parent in parents:
            target = target[parent]
        target[last] = value
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format version 2, this tslab reads version 1; install a newer"),
        ({"format": "something"}, "not the configuration"),
        ({"dtype": "complex64"}, "incomplete"),
        ({"weights": None}, "incomplete"),
        ({"weights__sha256": "0"}, "damaged"),
        ({"encoder": {"key": "xyz"}}, "must be an object with"),
        ({"encoder__key": "sphere3vec"}, "'sphere3vec' is not known"),
        (
            {"encoder__embedding_dim": 5},
            r"network.layers.1.linear.weight has shape \(4, 8\), expected \(5, 8\)",
        ),
        ({"encoder__position": {"degree": 3}}, "does not take degree"),
        ({"encoder__network": "cnn"}, "'cnn' is not known"),
        (
            {"encoder__network_parameters": {"hidden_dim": 8, "num_hidden_layers": 2}},
            "layers.1.norm.weight is missing",
        ),
    ],
)
def test_a_changed_configuration_is_refused_with_the_reason(changes, message, saved):
    edit(saved, **changes)
    with pytest.raises(CheckpointError, match=message):
        tslab.load_encoder(saved)


def test_missing_and_damaged_files_are_named(saved, tmp_path):
    (weights,) = saved.glob("weights-*.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="checksum"):
        tslab.load_encoder(saved)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="copy the whole folder"):
        tslab.load_encoder(saved)
    (saved / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not readable JSON"):
        tslab.load_encoder(saved)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        tslab.load_encoder(tmp_path)


def test_what_cannot_be_saved_says_so(tmp_path):
    by_hand = tslab.LocationEncoder(tslab.position_encoder("xyz"), torch.nn.Linear(3, 4), 4)
    with pytest.raises(ValueError, match=r"tslab\.location_encoder"):
        tslab.save_encoder(by_hand, tmp_path / "encoder")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        tslab.save_encoder(tslab.location_encoder("xyz"), tmp_path / "file")


def test_a_configuration_has_defaults_and_presets_written_out():
    config = tslab.location_encoder("sphere2vec_dfs", 4, preset="locbench2024").config
    assert config.position == {"num_scales": 8, "min_radius": 0.01, "max_radius": 1.0, "scales": "released"}
    assert config.network == "ffn" and config.network_parameters["final_activation"] is True
    rbf = tslab.location_encoder("rbf", anchors=torch.zeros(3, 2)).config
    assert rbf.position == {"num_anchors": 3, "kernel_size": 2.0}
