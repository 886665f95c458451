"""The explorer and the laboratory in a browser: alone on a page made here, in the book, and with a kernel behind.

The page made here embeds the widget the way the book does (require.js, the widget manager, anywidget, the state
in the page), with the files that ``make book`` collects, and nothing else is served. Numbers are compared with
torch in this process.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tslab.widgets import EncoderExplorer, explorer
from tslab.widgets.explorer import EncoderWidget
from tslab.widgets.parametric import CONTROLS, grid_places
from tslab_book.laboratory import Laboratory, Prediction, compute

from .conftest import ROOT, Explorer, OpenPage, pages_with, served, unavailable

ASSETS = ROOT / "book" / "_ext" / "assets"
VENDOR = ROOT / "book" / "_vendor" / "tslab"
AXE = ROOT / "book" / "frontend" / "node_modules" / "axe-core" / "axe.min.js"
TOLERANCE = 1e-5

PAGE = """<!doctype html>
<html lang="en" data-theme="light"><head><meta charset="utf-8"><title>Explorer</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">
<style>
  body { margin: 0; background: #fff; } html[data-theme=dark] body { background: #10171d; } main { max-width: 50rem; }
</style>{scripts}</head><body><main>{body}</main></body></html>"""
SCRIPTS = ("tslab-setup.js", "tslab/widgets/require.js", "tslab-widgets.js", "tslab/widgets/embed-amd.js")


def embedded(widget: EncoderWidget) -> str:
    from ipywidgets.embed import dependency_state, embed_data

    data = embed_data(views=[widget], state=dependency_state(widget, drop_defaults=False))
    script = '<script type="application/vnd.jupyter.widget-{}+json">{}</script>'
    return script.format("state", json.dumps(data["manager_state"])) + script.format(
        "view", json.dumps(data["view_specs"][0])
    )


KERNEL = """<div id="here"></div><script type="module">
  import widget from "./_static/explorer.mjs";
  const decode = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const bytes = (value) => (value?.bytes === undefined ? value : new DataView(decode(value.bytes).buffer));
  const state = JSON.parse(JSON.stringify(STATE), (key, value) => bytes(value)), listeners = {};
  window.model = {
    get: (name) => state[name],
    set: (name, value) => {
      const same = JSON.stringify(state[name]) === JSON.stringify(value);
      state[name] = value;
      if (!same) window.model.emit(`change:${name}`);
    },
    save_changes: () => {
      window.saved = structuredClone({ place: state.place, encoder: state.encoder, sides: state.sides });
    },
    on: (event, listener) => { (listeners[event] ||= []).push(listener); },
    off: (event, listener) => { listeners[event] = listeners[event].filter((other) => other !== listener); },
    emit: (event, ...values) => (listeners[event] || []).forEach((listener) => listener(...values)),
    send: async (request) => {
      const { content, buffers } = await window.askKernel(request);
      const views = buffers.map((buffer) => new DataView(decode(buffer).buffer));
      for (const listener of listeners["msg:custom"]) listener(content, views);
    },
  };
  widget.render({ model: window.model, el: document.querySelector("#here") });
</script>"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page with the widget."""
    if not (VENDOR / "models" / "manifest.json").exists():
        unavailable("the front-end files are not there: run `make assets` first")
    import base64

    out = tmp_path_factory.mktemp("explorer")
    static = out / "_static"
    (static / "tslab").mkdir(parents=True)
    for name in ("ort", "widgets", "models"):
        (static / "tslab" / name).symlink_to(VENDOR / name)
    for name in ("tslab-setup.js", "tslab-widgets.js"):
        shutil.copyfile(ASSETS / name, static / name)
    widget = EncoderExplorer()
    scripts = "".join(f'<script src="_static/{name}"></script>' for name in SCRIPTS)
    laboratory = Laboratory("space2vec_grid", "siren_sh", place=(178.0, -17.5))
    for name, shown in (("page", widget), ("laboratory", laboratory)):
        (out / f"{name}.html").write_text(PAGE.replace("{scripts}", scripts).replace("{body}", embedded(shown)))

    (static / "explorer.mjs").write_text(explorer.script())
    for name, shown in (("kernel", widget), ("kernel-laboratory", laboratory)):
        state = {n: value for n, value in shown.get_state().items() if not n.startswith(("_esm", "_css"))}
        text = json.dumps(state, default=lambda value: {"bytes": base64.b64encode(value).decode()})
        body = f"<style>{explorer.style_sheet()}</style>{KERNEL.replace('STATE', text)}"
        (out / f"{name}.html").write_text(PAGE.replace("{scripts}", "").replace("{body}", body))
    return out


@pytest.fixture(scope="session")
def address(folder: Path) -> Iterator[str]:
    with served(folder) as found:
        yield found


def check_against_torch(found: dict[str, Any]) -> None:
    request = found["request"]
    expected = compute(**request)
    np.testing.assert_allclose(found["feature"], expected.feature, atol=TOLERANCE)
    np.testing.assert_allclose(found["similarity"], expected.similarity, atol=TOLERANCE)
    facts = expected.facts()
    for name in ("channel", "outFeatures"):
        assert found[name] == facts[name]
    for name in ("value", "seamGap", "poleSpread", "wavelengths"):
        assert found[name] == pytest.approx(facts[name], abs=TOLERANCE)


def test_there_is_a_picture_before_anything_is_loaded(address: str, explorer: Any) -> None:
    widget = explorer().open(address + "page.html")
    assert all(widget.colors(n) > 100 for n in range(4))
    assert not [url for url in widget.requests if "/ort/" in url or "/models/" in url]
    assert widget.page.locator("#tslab-explorer-1-encoder").is_disabled()
    widget.page.locator("canvas.tslab-map").first.click()
    assert "Run in your browser" in widget.page.inner_text(".tslab-note")
    assert not widget.errors


def test_the_browser_computes_what_torch_computes(address: str, explorer: Any) -> None:
    widget = explorer().open(address + "page.html").run()
    check_against_torch(widget.last())
    for key in CONTROLS:
        if key == "sphere2vec_sphereC+":
            continue
        found = widget.after(lambda key=key: widget.page.get_by_label("Encoder", exact=True).select_option(key))
        assert found["request"]["encoder"] == key
        check_against_torch(found)
    check_against_torch(widget.after(lambda: widget.page.get_by_label("Measure").select_option("dot")))
    assert not widget.errors


def test_a_slider_changes_the_picture(address: str, explorer: Any) -> None:
    widget = explorer().open(address + "page.html").run()
    for label, position, name in (("Scales", "24", "num_scales"), ("Finest scale", "60", "min_radius")):
        before = [widget.picture(n) for n in range(4)]
        found = widget.after(lambda label=label, p=position: widget.page.get_by_label(label, exact=True).fill(p))
        assert found["request"]["parameters"][name] != CONTROLS["sphere2vec_sphereC+"].defaults[name]
        check_against_torch(found)
        after = [widget.picture(n) for n in range(4)]
        assert before[2] != after[2] and before[3] != after[3]
    found = widget.after(lambda: widget.page.get_by_label("Coarsest scale").fill("40"))
    values = found["request"]["parameters"]
    assert values["min_radius"] <= values["max_radius"]
    found = widget.after(lambda: widget.page.get_by_role("button", name="Reset").click())
    assert found["request"]["parameters"] == CONTROLS["sphere2vec_sphereC+"].defaults
    widget.page.get_by_label("Encoder", exact=True).select_option("xyz")
    assert widget.page.get_by_label("Scales", exact=True).is_disabled()


def test_a_click_chooses_the_place(address: str, explorer: Any) -> None:
    widget = explorer().open(address + "page.html").run()
    map_canvas = widget.page.locator("canvas.tslab-map").last
    box = map_canvas.bounding_box()
    found = widget.after(lambda: map_canvas.click(position={"x": box["width"] * 0.75, "y": box["height"] / 2}))
    lon, lat = found["request"]["place"]
    assert lon == pytest.approx(90, abs=1) and lat == pytest.approx(0, abs=1)
    check_against_torch(found)
    nearest = int(np.abs(grid_places().numpy() - [lon, lat]).sum(1).argmin())
    assert found["similarity"][nearest] > 0.98
    globe = widget.page.locator("canvas.tslab-globe").first
    box = globe.bounding_box()
    found = widget.after(lambda: globe.click(position={"x": box["width"] / 2, "y": box["height"] / 2}))
    assert found["request"]["place"] == pytest.approx([17.35, 33.85], abs=1)  # the middle of the first view


def test_dragging_turns_both_globes_but_keeps_the_place(address: str, explorer: Any) -> None:
    widget = explorer().open(address + "page.html").run()
    before = [widget.picture(n) for n in range(4)]
    count = widget.page.evaluate("results.length")
    box = widget.page.locator("canvas.tslab-globe").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    widget.page.mouse.move(x, y)
    widget.page.mouse.down()
    widget.page.mouse.move(x + 90, y + 10, steps=8)
    widget.page.mouse.up()
    widget.page.wait_for_timeout(300)
    after = [widget.picture(n) for n in range(4)]
    assert [a != b for a, b in zip(before, after, strict=True)] == [True, False, True, False]
    assert widget.page.evaluate("results.length") == count


def test_everything_works_from_the_keyboard(address: str, explorer: Any) -> None:
    widget = explorer().open(address + "page.html")
    page = widget.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Run in your browser"
    page.keyboard.press("Enter")
    page.wait_for_selector('.tslab-explorer[data-state="ready"]')
    order = [page.evaluate("document.activeElement.id.replace(/.*explorer-\\d+-/, '') || 'body'")]
    for _ in range(10):
        page.keyboard.press("Tab")
        order.append(
            page.evaluate(
                "(e => e.id.replace(/.*explorer-\\d+-/, '') || e.className || e.tagName)(document.activeElement)"
            )
        )
    assert order == [
        "encoder", "tslab-quiet", "num_scales", "min_radius", "max_radius", "channel", "tslab-globe", "tslab-map",
        "lat", "lon", "measure",
    ]  # fmt: skip
    page.get_by_label("Scales", exact=True).focus()
    found = widget.after(lambda: page.keyboard.press("ArrowRight"))
    assert found["request"]["parameters"]["num_scales"] == 9

    page.locator("canvas.tslab-map").first.focus()
    found = widget.after(lambda: (page.keyboard.press("ArrowRight"), page.keyboard.press("Shift+ArrowDown")))
    assert found["request"]["place"] == [4.35, 38.85]
    page.locator("canvas.tslab-globe").first.focus()
    page.keyboard.press("ArrowDown")
    found = widget.after(lambda: page.keyboard.press("Enter"))
    assert found["request"]["place"] == [
        4.35,
        28.85,
    ]  # the globe had followed the place, then turned by ten degrees
    page.get_by_label("Longitude").fill("200")
    page.keyboard.press("Enter")
    assert "longitude runs from" in page.inner_text(".tslab-trouble")
    page.get_by_label("Longitude").fill("-70")
    found = widget.after(lambda: page.keyboard.press("Enter"))
    assert found["request"]["place"] == [-70, 28.85]
    assert page.locator(".tslab-trouble").is_hidden()
    page.wait_for_function("document.querySelector('.tslab-explorer [role=status]').textContent.includes('70.0°W')")
    assert not widget.errors


@pytest.mark.parametrize(
    ("blocked", "words"),
    [
        ("**/models/manifest.json", "does not hold the list of encoders"),
        ("**/models/sphere2vec_sphereC_plus.onnx*", "does not hold the encoder"),
        ("**/ort/ort.wasm.bundle.min.mjs", "ONNX Runtime Web could not be loaded"),
        ("**/ort/*.wasm", "could not start the encoder"),
    ],
)
def test_a_missing_file_is_explained_and_can_be_retried(address: str, explorer: Any, blocked: str, words: str) -> None:
    widget = explorer().open(address + "page.html")
    widget.page.route(blocked, lambda route: route.fulfill(status=404))
    widget.page.get_by_role("button", name="Run in your browser").click()
    widget.page.wait_for_selector(".tslab-trouble:visible")
    assert words in widget.page.inner_text(".tslab-trouble")
    assert widget.page.get_by_role("button", name="Run in your browser").is_enabled()
    assert widget.colors(0) > 100
    if "models" in blocked:
        widget.page.unroute(blocked)
        widget.run()
        assert widget.page.locator(".tslab-trouble").is_hidden()


def test_a_page_opened_from_a_file_says_what_to_do(folder: Path, explorer: Any) -> None:
    widget = explorer().open((folder / "page.html").as_uri())
    widget.page.get_by_role("button", name="Run in your browser").click()
    widget.page.wait_for_selector(".tslab-trouble:visible")
    assert "make serve" in widget.page.inner_text(".tslab-trouble")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("ran", [False, True])
def test_it_is_accessible(address: str, explorer: Any, theme: str, ran: bool) -> None:
    if not AXE.exists():
        unavailable("axe-core is not installed: run `make assets`")
    widget = explorer().open(address + "page.html")
    widget.page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
    widget.page.wait_for_selector(f'.tslab-explorer[data-theme="{theme}"]')
    if ran:
        widget.run()
    widget.page.add_script_tag(path=str(AXE))
    found = widget.page.evaluate("axe.run('.tslab-explorer', {resultTypes: ['violations']})")["violations"]
    assert not [f"{v['id']}: {node['html'][:160]}" for v in found for node in v["nodes"]]


def test_it_fits_a_phone(address: str, explorer: Any) -> None:
    widget = explorer(width=390, height=844).open(address + "page.html")
    assert widget.page.evaluate("document.documentElement.scrollWidth") <= 390
    first, second = (panel.bounding_box() for panel in widget.page.locator(".tslab-panel").all())
    assert second["y"] > first["y"] + first["height"] - 1
    assert first["width"] > 300


def test_turning_is_smooth(address: str, explorer: Any) -> None:
    """Frames a second while the globes turn; the limit is low because test machines draw without a graphics card."""
    widget = explorer().open(address + "page.html")
    frames = widget.page.evaluate(
        """async () => {
            const globe = document.querySelector('canvas.tslab-globe');
            const box = globe.getBoundingClientRect();
            globe.setPointerCapture = () => {};
            const fire = (type, x) => globe.dispatchEvent(
                new PointerEvent(type, { pointerId: 1, clientX: x, clientY: box.y + box.height / 2 }));
            fire('pointerdown', box.x + 60);
            let frames = 0;
            const began = performance.now();
            while (performance.now() - began < 1500) {
                fire('pointermove', box.x + 70 + (frames++ % 100));
                await new Promise(requestAnimationFrame);
            }
            fire('pointerup', box.x + 70);
            return frames / 1.5;
        }"""
    )
    assert frames > 10


def test_live_the_kernel_computes(address: str, explorer: Any) -> None:
    """Without the files of the book the same front end asks the kernel, at once and without a button."""
    widget = explorer()
    connect_kernel(widget, EncoderExplorer())
    widget.open(address + "kernel.html")
    widget.page.wait_for_function("results.length > 0")
    check_against_torch(widget.last())
    assert widget.page.get_by_role("button", name="Run in your browser").count() == 0
    found = widget.after(lambda: widget.page.get_by_label("Encoder", exact=True).select_option("nerf"))
    check_against_torch(found)
    # a value set from Python arrives as a change of the model
    found = widget.after(lambda: widget.page.evaluate("model.set('place', [139.7, 35.7])"))
    assert found["request"]["place"] == [139.7, 35.7]
    widget.after(lambda: widget.page.locator("canvas.tslab-map").first.press("ArrowUp"))
    widget.page.wait_for_function("window.saved && saved.place[1] === 37.7 && saved.encoder === 'nerf'")
    assert not widget.errors and not [url for url in widget.requests if "/ort/" in url]


def connect_kernel(widget: Explorer, kernel: EncoderWidget) -> None:
    """Let the page's model send its messages to ``kernel`` in this process."""
    import base64

    answers: list[dict[str, Any]] = []

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        kernel.send = lambda content, buffers=(): answers.append(  # type: ignore[method-assign]
            {"content": content, "buffers": [base64.b64encode(b).decode() for b in buffers]}
        )
        kernel._handle_custom_msg(request, [])
        return answers[-1]

    widget.page.expose_function("askKernel", ask)


# ------------------------------------------------------------------------------------------------------- laboratory


def side(page: Any, name: str) -> Any:
    """One of the two explorers of the laboratory: "A" or "B"."""
    return page.get_by_role("group", name=f"encoder {name}", exact=True)


def last_of(widget: Explorer, encoder: str) -> dict[str, Any]:
    """The last result of the side that shows ``encoder``."""
    return widget.page.evaluate(
        """encoder => {
            const { request, result } = results.findLast((found) => found.request.encoder === encoder);
            const plain = Object.fromEntries(Object.entries(result).map(
                ([name, value]) => [name, value instanceof Float32Array ? Array.from(value) : value]));
            return { request, ...plain };
        }""",
        encoder,
    )


def check_prediction(found: dict[str, Any]) -> None:
    """The trained map of the browser is the one of the torch model, trained again in this process."""
    expected = compute(**found["request"])
    assert isinstance(expected, Prediction)
    np.testing.assert_allclose(found["presence"], expected.presence, atol=TOLERANCE)
    assert found["present"] == pytest.approx(expected.present, abs=TOLERANCE)
    assert found["top1"] == expected.top1


def run_laboratory(widget: Explorer) -> Explorer:
    widget.page.get_by_role("button", name="Run in your browser").click()
    return wait_for_laboratory(widget)


def wait_for_laboratory(widget: Explorer) -> Explorer:
    widget.page.wait_for_function(
        """() => {
            const sides = [...document.querySelectorAll('.tslab-side')];
            return sides.length && sides.every((side) => side.dataset.state === 'ready' && side.dataset.results > 0);
        }"""
    )
    widget.page.wait_for_timeout(500)
    return widget


def test_two_encoders_side_by_side_compute_what_torch_computes(address: str, explorer: Any) -> None:
    widget = explorer(width=1300).open(address + "laboratory.html")
    assert widget.page.locator(".tslab-side").count() == 2
    assert all(widget.colors(n) > 20 for n in range(12))
    assert not [url for url in widget.requests if "/ort/" in url or "/models/" in url]
    run_laboratory(widget)
    for encoder in ("space2vec_grid", "siren_sh"):
        check_against_torch(last_of(widget, encoder))
        check_prediction(last_of(widget, encoder))
    first, second = (box for side in widget.page.locator(".tslab-side").all() if (box := side.bounding_box()))
    assert first["y"] == second["y"] and second["x"] > first["x"] + first["width"]
    assert not widget.errors


def test_both_sides_follow_one_place_one_species_and_one_turn(address: str, explorer: Any) -> None:
    widget = run_laboratory(explorer(width=1300, height=2200).open(address + "laboratory.html"))
    page = widget.page
    canvas = side(page, "A").locator("canvas.tslab-map").last
    box = canvas.bounding_box()
    widget.after(lambda: canvas.click(position={"x": box["width"] / 2, "y": box["height"] / 2}))
    for encoder in ("space2vec_grid", "siren_sh"):
        found = last_of(widget, encoder)
        assert found["request"]["place"] == pytest.approx([0, 0], abs=1)
        check_against_torch(found)
    widget.after(lambda: page.get_by_label("Species (synthetic)").select_option("Great Plains"))
    for encoder in ("space2vec_grid", "siren_sh"):
        assert last_of(widget, encoder)["request"]["species"] == "Great Plains"
        check_prediction(last_of(widget, encoder))
    widget.after(lambda: page.get_by_label("Measure").select_option("dot"))
    assert last_of(widget, "siren_sh")["request"]["measure"] == "dot"
    before = [widget.picture(n) for n in range(12)]
    side(page, "B").locator("canvas.tslab-globe").first.press("ArrowLeft")
    page.wait_for_timeout(300)
    turned = [a != b for a, b in zip(before, (widget.picture(n) for n in range(12)), strict=True)]
    assert turned == [True, False] * 6  # every globe, no map
    assert not widget.errors


def test_a_slider_moves_its_own_side_only(address: str, explorer: Any) -> None:
    widget = run_laboratory(explorer(width=1300).open(address + "laboratory.html"))
    count = widget.page.evaluate("results.length")
    found = widget.after(lambda: side(widget.page, "A").get_by_label("Scales", exact=True).fill("12"))
    assert found["request"]["parameters"]["num_scales"] == 12
    check_against_torch(found)
    moved = widget.page.evaluate(f"results.slice({count}).map((found) => found.request.encoder)")
    assert set(moved) == {"space2vec_grid"}


def test_the_address_holds_the_state_and_brings_it_back(address: str, explorer: Any) -> None:
    widget = run_laboratory(explorer(width=1300).open(address + "laboratory.html"))
    page = widget.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    widget.after(lambda: side(page, "A").get_by_label("Encoder", exact=True).select_option("sphere2vec_sphereC+"))
    widget.after(lambda: side(page, "A").get_by_label("Finest scale", exact=True).fill("60"))
    widget.after(lambda: side(page, "B").get_by_label("Feature 51 of 64").fill("3"))
    page.get_by_label("Longitude").fill("-70.25")
    widget.after(lambda: page.get_by_label("Longitude").press("Enter"))
    widget.after(lambda: page.get_by_label("Measure").select_option("dot"))
    widget.after(lambda: page.get_by_label("Species (synthetic)").select_option("Great Plains"))
    expected = [last_of(widget, encoder) for encoder in ("sphere2vec_sphereC+", "siren_sh")]
    page.get_by_role("button", name="Copy link").click()
    page.wait_for_function("document.querySelector('.tslab-copied').textContent === 'Copied.'")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url and "+" in link and "place=-70.25,-17.5" in link

    again = explorer(width=1300).open(link)
    wait_for_laboratory(again)
    for before in expected:
        after = last_of(again, before["request"]["encoder"])
        assert after["request"] == before["request"]
        np.testing.assert_allclose(after["similarity"], before["similarity"], atol=1e-7)
    again.page.wait_for_timeout(400)
    assert again.page.url == link
    # a link inside the page: the same laboratory takes over another state, with one encoder
    again.after(lambda: again.page.evaluate("location.hash = '#a=xyz&place=0,90'"))
    assert again.page.locator(".tslab-side").count() == 1
    assert last_of(again, "xyz")["request"]["place"] == [0, 90]
    assert not again.errors


def test_the_second_encoder_comes_and_goes(address: str, explorer: Any) -> None:
    widget = run_laboratory(explorer(width=1300).open(address + "laboratory.html"))
    page, box = widget.page, widget.page.get_by_label("Compare two encoders")
    box.uncheck()
    page.wait_for_function("document.querySelectorAll('.tslab-side').length === 1")
    page.wait_for_function("location.hash.includes('a=') && !location.hash.includes('b=')")
    widget.after(lambda: box.check())
    assert last_of(widget, "siren_sh")["request"]["place"] == [178, -17.5]
    assert all(widget.colors(n) > 20 for n in range(12))
    assert not widget.errors


def test_the_laboratory_works_from_the_keyboard(address: str, explorer: Any) -> None:
    widget = explorer(width=1300).open(address + "laboratory.html")
    page = widget.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Run in your browser"
    page.keyboard.press("Enter")
    wait_for_laboratory(widget)
    page.get_by_label("Latitude").focus()
    names = []
    for _ in range(28):  # every control once
        name, outline = page.evaluate(
            """(e => [(e.labels?.[0]?.textContent || e.getAttribute('aria-label') || e.textContent).slice(0, 60),
                     getComputedStyle(e).outlineStyle])(document.activeElement)"""
        )
        assert outline != "none", f"the focus on {name} cannot be seen"
        names.append(name)
        page.keyboard.press("Tab")
    shared = ["Latitude", "Longitude", "Measure", "Species (synthetic)", "Compare two encoders", "Copy link"]
    assert names[:6] == shared and names[6:8] == ["Encoder", "Reset"]
    assert sum("on a globe" in name for name in names) == 6
    assert sum("on a map" in name for name in names) == 6
    assert names.count("Encoder") == names.count("Reset") == 2
    found = widget.after(lambda: side(page, "B").locator("canvas.tslab-map").nth(2).press("ArrowUp"))
    assert found["request"]["place"] == [178, -15.5]
    page.get_by_label("Compare two encoders").press("Space")
    page.wait_for_function("document.querySelectorAll('.tslab-side').length === 1")
    assert not widget.errors


@pytest.mark.parametrize(("width", "theme"), [(1300, "light"), (390, "dark")])
def test_the_laboratory_is_accessible_and_fits(address: str, explorer: Any, width: int, theme: str) -> None:
    if not AXE.exists():
        unavailable("axe-core is not installed: run `make assets`")
    widget = explorer(width=width).open(address + "laboratory.html")
    widget.page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
    widget.page.wait_for_selector(f'.tslab-side[data-theme="{theme}"]')
    widget.page.add_script_tag(path=str(AXE))
    for run in (False, True):
        if run:
            run_laboratory(widget)
        found = widget.page.evaluate("axe.run('.tslab-laboratory', {resultTypes: ['violations']})")["violations"]
        assert not [f"{v['id']}: {node['html'][:160]}" for v in found for node in v["nodes"]]
        assert widget.page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_encoder_without_a_trained_model_says_so(address: str, explorer: Any) -> None:
    """Where the backend predicts nothing, the panel says it and shows no map."""
    widget = explorer()
    kernel = Laboratory("space2vec_grid")
    answered = kernel._handle_custom_msg
    kernel._handle_custom_msg = lambda content, buffers: answered(content | {"species": None}, buffers)  # type: ignore[method-assign]
    connect_kernel(widget, kernel)
    widget.open(address + "kernel-laboratory.html")
    widget.page.wait_for_function("results.length >= 2")
    panel = widget.page.locator(".tslab-empty").first
    assert "No model is trained with this encoder" in panel.inner_text()
    assert panel.locator("canvas").first.is_hidden()


def test_dragging_a_slider(address: str, explorer: Any, capsys: Any) -> None:
    """A new value at every frame, two encoders on the page: milliseconds for each map and maps a second.

    What a machine manages is printed, not asserted: test machines draw without a graphics card and share processors.
    """
    widget = run_laboratory(explorer(width=1300).open(address + "laboratory.html"))
    for key in ("sphere2vec_sphereC+", "space2vec_grid", "siren_sh"):
        widget.after(lambda key=key: side(widget.page, "A").get_by_label("Encoder", exact=True).select_option(key))
        name = "num_scales" if key != "siren_sh" else "degree"
        count, seconds, worked = widget.page.evaluate(
            """async (name) => {
                const inputs = document.querySelectorAll('.tslab-side input');
                const find = (wanted) => [...inputs].find((input) => input.name === wanted && !input.disabled);
                const input = find('min_radius') || find(name);
                const [low, high] = [Number(input.min), Number(input.max)];
                const [before, began] = [results.length, performance.now()];
                for (let step = 0; performance.now() - began < 2000; step++) {
                    input.value = low + ((step * (high - low)) / 120) % (high - low);
                    input.dispatchEvent(new Event('input', { bubbles: true }));
                    await new Promise(requestAnimationFrame);
                }
                const found = results.slice(before);
                const work = found.reduce((sum, { milliseconds }) => sum + milliseconds, 0);
                return [found.length, (performance.now() - began) / 1000, work / found.length];
            }""",
            name,
        )
        with capsys.disabled():
            print(f"\n{key}: {worked:.0f} ms for each map, {count / seconds:.0f} maps a second")
        assert count > 2
    assert not widget.errors


def test_live_the_kernel_serves_both_sides(address: str, explorer: Any) -> None:
    widget = explorer(width=1300)
    connect_kernel(widget, Laboratory("xyz"))
    widget.open(address + "kernel-laboratory.html")
    widget.page.wait_for_function("results.length >= 2")
    for encoder in ("space2vec_grid", "siren_sh"):
        check_against_torch(last_of(widget, encoder))
        check_prediction(last_of(widget, encoder))
    sides = '[{"encoder": "xyz", "parameters": {}, "channel": 1}]'
    found = widget.after(lambda: widget.page.evaluate(f"model.set('sides', {sides})"))
    assert found["request"]["encoder"] == "xyz" and found["request"]["channel"] == 1
    assert widget.page.locator(".tslab-side").count() == 1
    assert "#" not in widget.page.url
    widget.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    widget.page.get_by_role("button", name="Copy Python").click()
    widget.page.wait_for_function("document.querySelector('.tslab-copied').textContent === 'Copied.'")
    assert widget.page.evaluate("navigator.clipboard.readText()").startswith('Laboratory({"encoder": "xyz"')
    assert not widget.errors and not [url for url in widget.requests if "/ort/" in url]


def test_in_the_book_it_answers(open_page: OpenPage) -> None:
    """On each page of the book that holds an explorer: run it, move it, and compare with torch."""
    pages = pages_with("_initial_similarity")
    if not pages:
        pytest.skip("needs a page of the book with an explorer")
    for name in pages:
        visit = open_page(name)
        widget = Explorer(visit.page)
        root = visit.page.locator(".tslab-explorer").first
        root.wait_for()
        root.scroll_into_view_if_needed()
        visit.page.evaluate(
            "window.results = []; document.addEventListener('tslab:result', (e) => window.results.push(e.detail));"
        )
        root.get_by_role("button", name="Run in your browser").click()
        visit.page.wait_for_function("results.length > 0")
        check_against_torch(widget.last())
        found = widget.after(lambda root=root: root.get_by_label("Encoder", exact=True).select_option("space2vec_grid"))
        check_against_torch(found)
        assert not visit.problems(), f"{name}: {visit.problems()}"


def test_in_the_book_every_link_brings_up_its_state(open_page: OpenPage) -> None:
    """Each link to a state on the page of the laboratory: both encoders appear, and the numbers are torch's."""
    pages = pages_with('"_anywidget_id": "tslab_book.laboratory.Laboratory"')
    if not pages:
        pytest.skip("needs the page of the book with the laboratory")
    for name in pages:
        visit = open_page(name, height=1400)
        page, widget = visit.page, Explorer(visit.page)
        page.locator(".tslab-side canvas").first.wait_for()
        assert page.locator(".bd-sidebar-secondary").count() == 0
        width = page.locator(".tslab-laboratory").bounding_box()["width"]
        assert width > 0.9 * page.locator(".bd-article-container").bounding_box()["width"] > 1000
        page.evaluate(
            "window.results = []; document.addEventListener('tslab:result', (e) => window.results.push(e.detail));"
        )
        links = page.locator('.bd-article a[href^="#a="]')
        assert links.count() >= 5
        for link in links.all():
            link.evaluate(
                "link => { for (let at = link; at; at = at.parentElement) at.classList.remove('toggle-hidden'); }"
            )
            link.scroll_into_view_if_needed()
            widget.after(link.click)
            wanted = link.get_attribute("href")
            shown = page.evaluate("[...document.querySelectorAll('.tslab-side select')].map((s) => s.value)")
            assert [key for key in shown if f"={key}&" in wanted] == shown
            for key in set(shown):
                found = last_of(widget, key)
                check_against_torch(found)
                check_prediction(found)
                assert f"place={','.join(f'{value:g}' for value in found['request']['place'])}" in wanted
        assert not visit.problems(), f"{name}: {visit.problems()}"
