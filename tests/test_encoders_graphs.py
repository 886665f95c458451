"""Every encoder through torch.compile, torch.export, ONNX Runtime and torch.func, against the eager result."""

import pytest
import torch

import tslab

SMALL = {
    "tile": {"cell_size": 30.0, "num_features": 8},
    "wrap": {},
    "wrap_ffn": {},
    "rbf": {"num_anchors": 12, "kernel_size": 20.0},
    "rff": {"num_scales": 16},
    "space2vec_grid": {"num_scales": 3},
    "space2vec_theory": {"num_scales": 3},
    "xyz": {},
    "nerf": {"num_scales": 3},
    "sphere2vec_sphereC": {"num_scales": 3},
    "sphere2vec_sphereC+": {"num_scales": 3},
    "sphere2vec_sphereM": {"num_scales": 3},
    "sphere2vec_sphereM+": {"num_scales": 3},
    "sphere2vec_dfs": {"num_scales": 3},
    "siren_sh": {"degree": 4},
}
SAMPLE = ("tile", "rbf", "sphere2vec_sphereM+", "siren_sh")
"""The four that differ most; the others, built of the same parts, are marked slow."""

SAMPLE_FIRST = [key if key in SAMPLE else pytest.param(key, marks=pytest.mark.slow) for key in SMALL]


def places(n):
    lonlat = tslab.sample_sphere(n, generator=torch.Generator().manual_seed(n))
    lonlat[0] = torch.tensor([180.0, 90.0])
    return lonlat


def build(key):
    return tslab.location_encoder(
        key, 6, **SMALL[key], generator=torch.Generator().manual_seed(0)
    ).eval()  # fmt: skip


@pytest.mark.parametrize("key", SMALL)
def test_the_whole_encoder_is_one_graph_for_any_number_of_places(key):
    torch._dynamo.reset()
    encoder = build(key)
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for n in (5, 37):
            assert torch.allclose(compiled(places(n)), encoder(places(n)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("key", SAMPLE_FIRST)
def test_compiled_code_computes_the_same(key):
    torch._dynamo.reset()
    encoder = build(key).position_encoder
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for n in (5, 37):
            assert torch.allclose(compiled(places(n)), encoder(places(n)), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["space2vec_grid", "siren_sh"])
def test_compiled_code_has_the_same_gradients(key):
    torch._dynamo.reset()
    encoder = build(key)
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True)
    gradients = []
    for module in (encoder, compiled):
        lonlat = places(9).requires_grad_()
        module(lonlat).square().sum().backward()
        gradients.append(lonlat.grad)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("key", SMALL)
def test_an_exported_program_takes_any_number_of_places(key):
    encoder = build(key)
    program = torch.export.export(encoder, (places(5),), dynamic_shapes=({0: torch.export.Dim("n")},))
    for n in (2, 5, 37):
        assert torch.allclose(program.module()(places(n)), encoder(places(n)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("key", SAMPLE_FIRST)
def test_onnx_runtime_computes_the_same(key, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    encoder = build(key)
    path = tmp_path / "encoder.onnx"
    torch.onnx.export(
        encoder,
        (places(5),),
        path,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("n")},),
        input_names=["lonlat"],
        output_names=["encoded"],
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for n in (2, 5, 37):
        (embedding,) = session.run(None, {"lonlat": places(n).numpy()})
        assert torch.allclose(torch.from_numpy(embedding), encoder(places(n)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("key", SMALL)
def test_vmap_over_places_is_the_batch(key):
    encoder, lonlat = build(key), places(7)
    one_by_one = torch.func.vmap(lambda place: encoder(place[None])[0])(lonlat)
    assert torch.allclose(one_by_one, encoder(lonlat), rtol=0, atol=1e-5)


@pytest.mark.parametrize("key", SMALL)
def test_functional_gradients_are_those_of_autograd(key):
    encoder, lonlat = build(key).double(), places(5).double()
    tracked = lonlat.clone().requires_grad_()
    encoder(tracked).sum().backward(inputs=[tracked]) if key != "tile" else None
    expected = tracked.grad if key != "tile" else torch.zeros_like(lonlat)
    found = torch.func.vmap(torch.func.grad(lambda place: encoder(place[None]).sum()))(lonlat)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("key", ["siren_sh", "tile", "wrap"])
def test_weights_can_be_handed_in_and_differentiated(key):
    encoder, lonlat = build(key), places(5)
    weights = {name: value.detach() for name, value in encoder.named_parameters()}
    loss = torch.func.grad(lambda w: torch.func.functional_call(encoder, w, (lonlat,)).square().mean())
    encoder(lonlat).square().mean().backward()
    for name, gradient in loss(weights).items():
        assert torch.allclose(gradient, encoder.get_parameter(name).grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("key", ["space2vec_grid", "space2vec_theory", "sphere2vec_sphereM+"])
def test_compiled_waves_are_as_precise_as_eager_ones(key):
    torch._dynamo.reset()
    encoder = tslab.position_encoder(key, num_scales=5, min_radius=1e-4)
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True)
    lonlat = places(40)
    with torch.no_grad():
        exact = encoder(lonlat.double())
        assert (compiled(lonlat).double() - exact).abs().max() < 1e-6
        assert (compiled(lonlat.double()) - exact).abs().max() < 1e-9
