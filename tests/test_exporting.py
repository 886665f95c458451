"""What is exported computes what the module computes, whatever the module takes; what cannot be exported says why."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

import tslab
from tslab.exporting import check_places, export_onnx, export_program
from tslab.models import Ensemble, LocationClassifier, PriorProduct, Regressor


def encoder(seed=0):
    return tslab.location_encoder("rff", 8, hidden_dim=8, generator=torch.Generator().manual_seed(seed))


def regressor(image_features=0, **how):
    generator = torch.Generator().manual_seed(1)
    if image_features == 0:
        how["fusion"] = "none"
    model = Regressor(encoder(), image_features, generator=generator, embedding_dim=8, head=(8,), **how)
    label = torch.randn(50, generator=generator)
    model.fit_scales(label, 5 + 3 * torch.rand((50, image_features), generator=generator))
    return model.eval()


REGRESSORS = {
    "place": lambda: regressor(),
    "concat": lambda: regressor(4),
    "hadamard": lambda: regressor(4, fusion="hadamard"),
    "night light": lambda: regressor(1, image_kind="scalar"),
    "ensemble": lambda: Ensemble([regressor(4), regressor(4)]),
}


@pytest.mark.parametrize("kind", REGRESSORS)
def test_a_regressor_is_exported_with_its_image(kind, tmp_path):
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'tslab[onnx]'")
    model = REGRESSORS[kind]()
    report = export_onnx(model, tmp_path / "model.onnx", output="value")
    assert report.features == 1 and report.relative_error < 1e-5
    session = ort.InferenceSession(tmp_path / "model.onnx")
    names = [entry.name for entry in session.get_inputs()]
    assert names == (["lonlat"] if kind == "place" else ["lonlat", "image"])
    for n in (1, 5):
        inputs = {"lonlat": check_places()[-n:]}
        if len(names) == 2:
            width = session.get_inputs()[1].shape[1]
            inputs["image"] = 6 + torch.rand((n, width), generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            expected = model(*inputs.values()).numpy()
        (found,) = session.run(["value"], {name: value.numpy() for name, value in inputs.items()})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)  # a missing place has a value too


def test_programs_of_regressors_and_ensembles(tmp_path):
    for model in (regressor(4), Ensemble([regressor(4)]), Ensemble([LocationClassifier(encoder(), 3)])):
        assert export_program(model, tmp_path / "model.pt2").relative_error < 1e-5


def test_wrappers_are_left_out(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'tslab[onnx]'")
    sizes = {
        export_onnx(wrap(encoder()), tmp_path / "model.onnx").bytes
        for wrap in (lambda module: module, torch.compile, nn.DataParallel)
    }
    assert len(sizes) == 1


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_names_the_extra(package, tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'tslab[onnx]'")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}: pip install 'tslab\[onnx\]'"):
        export_onnx(encoder(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


class Blank(nn.Module):
    def forward(self, lonlat):
        return lonlat * float("nan")


@pytest.mark.parametrize(
    ("module", "how", "message"),
    [
        (encoder(), {"dtype": torch.float16}, "dtype"),
        (encoder(), {"output": "lonlat"}, "output must be a name other than lonlat"),
        (encoder(), {"metadata": {"a": object()}}, "metadata must be text"),
        (encoder(), {"tolerance": float("inf")}, "tolerance"),
        (nn.Flatten(0), {}, r"\(n, k\) numbers"),
        (Blank(), {}, "every place with NaN"),
    ],
)
def test_what_cannot_be_exported_says_why(module, how, message, tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'tslab[onnx]'")
    with pytest.raises(ValueError, match=message):
        export_onnx(module, tmp_path / "model.onnx", **how)
    assert list(tmp_path.iterdir()) == []


def test_other_inputs_are_named(tmp_path):
    product = PriorProduct(nn.Linear(4, 3), LocationClassifier(encoder(), 3))
    with pytest.raises(TypeError, match="lonlat"):
        export_program(product, tmp_path / "model.pt2")
    with pytest.raises(TypeError, match="torch module"):
        export_program(lambda x: x, tmp_path / "model.pt2")
    with pytest.raises(ValueError, match=r"ends in \.pt2"):
        export_program(encoder(), tmp_path / "model")


def test_a_constant_zero_is_no_division_by_zero(tmp_path):
    layer = nn.Linear(2, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    assert export_program(layer, tmp_path / "model.pt2").max_error == 0
