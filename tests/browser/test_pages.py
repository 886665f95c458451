"""Every page of the book, as a reader sees it: nothing missing, nothing broken, nothing from elsewhere."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import numpy as np
import pytest

from .conftest import HTML, ROOT, OpenPage, Visit, book_pages

AXE = ROOT / "book" / "frontend" / "node_modules" / "axe-core" / "axe.min.js"
PAGES = book_pages() or ["intro"]
#: How each page is looked at: width in pixels, theme.
LOOKS = [(1440, "light"), (390, "dark")]
#: Width of a column of A4 between margins of 16 mm (tslab-book.css), in pixels.
PAPER_COLUMN = 672
#: Most a page may load before the reader does anything, in bytes, compressed: a page of text and figures; one that
#: draws globes, for which the figure library alone weighs 560 kB; one with a live widget.
WEIGHT_LIMITS = {"figures": 1_000_000, "globes": 1_100_000, "widgets": 3_000_000}
#: Code that a page must not load unless its source asks for it: part of the file's path, sign in the page.
CODE_OF_OTHERS = {
    "/mathjax/": "math notranslate",
    "/plotly/": 'class="tslab-figure"',
    "plotly-gl3d": 'data-bundle="gl3d"',
    "plotly-full": 'data-bundle="full"',
    "/widgets/": "application/vnd.jupyter.widget-view",
    "/ort/": "application/vnd.jupyter.widget-view",
    "/tslab/models/": "application/vnd.jupyter.widget-view",
    "searchindex.js": 'id="search-results"',
}


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "theme"), LOOKS)
def test_page_is_whole_light_and_accessible(open_page: OpenPage, name: str, width: int, theme: str) -> None:
    """One visit finds everything that is wrong with a page, since opening one takes longer than looking at it."""
    visit = open_page(name, width=width, theme=theme)
    visit.page.wait_for_timeout(500)
    problems = _weight_problems(visit)
    visit.scroll_through()
    problems += _text_problems(visit.page) + _image_problems(visit.page) + _figure_problems(visit.page)
    problems += _overflow_problems(visit.page, width) + _access_problems(visit.page)
    problems += visit.problems()
    assert not problems, f"{name} at {width} px, {theme}:\n  " + "\n  ".join(problems)


def test_theme_switch_recolours_figures(open_page: OpenPage) -> None:
    """The text of a drawn figure is dark in the light theme and light in the dark one."""
    pages = [name for name in PAGES if 'class="tslab-figure"' in _source(name)]
    if not pages:
        pytest.skip("needs a page with a plotly figure")
    visit = open_page(pages[0], theme="light")
    visit.scroll_through()
    color = "document.querySelector('.tslab-plot')._fullLayout.font.color"
    before = visit.page.evaluate(color)
    visit.page.evaluate("document.documentElement.dataset.theme = 'dark'")
    visit.page.wait_for_function(f"{color} !== '{before}'")
    assert _luminance(before) < 0.3 < 0.6 < _luminance(visit.page.evaluate(color))


def test_what_a_globe_has_drawn_is_still_there_when_it_prints(open_page: OpenPage) -> None:
    """A browser prints the buffer of a canvas, which WebGL by default empties once it was shown."""
    name = next((name for name in PAGES if 'data-bundle="gl3d"' in _source(name)), None)
    if name is None:
        pytest.skip("needs a page with a globe")
    visit = open_page(name)
    visit.scroll_through()
    colors = visit.page.evaluate(
        """() => {
            const canvas = document.querySelector('[data-bundle="gl3d"] .gl-container canvas');
            const { width, height } = canvas;
            const context = Object.assign(document.createElement('canvas'), { width, height }).getContext('2d');
            context.drawImage(canvas, 0, 0);
            return new Set(new Uint32Array(context.getImageData(0, 0, width, height).data.buffer)).size;
        }"""
    )
    assert colors > 50


def test_paper_is_light_and_holds_whole_figures_and_tables(open_page: OpenPage) -> None:
    signs = ('class="tslab-figure"', 'class="tslab-table"')
    name = next((name for name in PAGES if all(sign in _source(name) for sign in signs)), None)
    if name is None:
        pytest.skip("needs a page with a figure and a table to sort")
    visit = open_page(name, theme="dark")
    visit.scroll_through()
    page = visit.page
    theme = "document.documentElement.dataset.theme"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")  # the window stays wide, so only the event can have fitted the figures
    widths = "[...document.querySelectorAll('.tslab-plot .main-svg:first-child')].map(svg => svg.clientWidth)"
    page.wait_for_function(f"Math.max(...{widths}) <= {PAPER_COLUMN}")  # at once, but for a figure still being drawn
    found = page.evaluate(
        """() => ({
            text: document.querySelector('.tslab-plot')._fullLayout.font.color,
            cut: [...document.querySelectorAll('.tslab-table-scroll')].map(e => e.scrollHeight - e.clientHeight),
            headings: [...document.querySelectorAll('.tslab-table th > button')].map(e => e.clientHeight),
        })"""
    )
    assert page.evaluate(theme) == "light" and _luminance(found["text"]) < 0.3
    assert max(found["cut"]) <= 1 and min(found["headings"]) > 0
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(theme) == "dark"
    page.wait_for_function(f"Math.min(...{widths}) > {PAPER_COLUMN}")


@pytest.mark.parametrize("touch", [False, True])
def test_a_slider_of_a_figure_loads_its_frames_and_shows_them(open_page: OpenPage, touch: bool) -> None:
    name = next((name for name in PAGES if " data-frames=" in _source(name)), None)
    if name is None:
        pytest.skip("needs a page with a figure that has frames of its own")
    visit = open_page(name, touch=touch)
    visit.scroll_through()
    file = re.search(r' data-frames="(\w+)"', _source(name))[1] + ".js"
    assert not [path for path in visit.files if path.endswith(file)]
    figure = visit.page.locator(".tslab-figure:has([data-frames])").first
    figure.scroll_into_view_if_needed()
    picture = figure.locator(".main-svg").first
    before = picture.screenshot()
    rail = figure.locator(".slider-rail-touch-rect").first.bounding_box()
    place = (rail["x"] + 0.95 * rail["width"], rail["y"] + rail["height"] / 2)
    if touch:
        visit.page.touchscreen.tap(*place)
    else:
        visit.page.mouse.click(*place)
    visit.page.wait_for_selector('.tslab-figure[data-frames="there"]', state="attached")
    visit.page.wait_for_timeout(800)
    assert [path for path in visit.files if path.endswith(file)]
    assert before != picture.screenshot()
    assert not visit.problems()


def test_packed_arrays_arrive_as_the_numbers_they_stand_for(open_page: OpenPage) -> None:
    """The page unpacks what ``book_kernel.pack`` packed: a field of a heat map, step by step."""
    name = next(filter(_packed_heatmaps, PAGES), None)
    if name is None:
        pytest.skip("needs a page with a packed heat map")
    figures = _packed_heatmaps(name)
    visit = open_page(name)
    visit.scroll_through()
    for figure, (trace, field) in figures.items():
        found = visit.page.evaluate(
            """([name, trace]) => {
                const holder = document.querySelector(`.tslab-spec[data-name="${name}"]`);
                const plot = holder.closest('.tslab-figure').querySelector('.tslab-plot');
                return Array.from(plot.data[trace].z, (row) => Array.from(row, (n) => (isNaN(n) ? null : n)));
            }""",
            [figure, trace],
        )
        steps = np.frombuffer(base64.b64decode(field["bdata"]), "<u2")
        expected = np.where(steps == 65535, np.nan, field["low"] + field["step"] * steps)
        shape = tuple(map(int, field["shape"].split(",")))
        np.testing.assert_allclose(np.array(found, float), expected.reshape(shape), atol=10.0 ** -field["digits"])


def _packed_heatmaps(name: str) -> dict[str, tuple[int, dict[str, Any]]]:
    """Of a page: name of a figure -> number of a heat map with a packed field in it, and the field as it was sent."""
    found = {}
    for figure in re.findall(r'class="tslab-spec" data-name="(\w+)"', _source(name)):
        text = (HTML / "_static" / "figures" / f"{figure}.js").read_text(encoding="utf-8")
        spec = json.loads(text[text.index("] = ") + 4 :].rstrip().rstrip(";"))
        for number, trace in enumerate(spec["data"]):
            field = trace.get("z")
            if trace.get("type") == "heatmap" and isinstance(field, dict) and field.get("dtype") == "steps":
                found[figure] = (number, field)
    return found


def test_internal_links_and_anchors_lead_somewhere() -> None:
    """Each link inside the book goes to a page that exists, and its #anchor to an element of that page."""
    if not (HTML / "index.html").exists():
        pytest.skip("the book is not built: run `make book` first")
    ids = {name: set(re.findall(r'\bid="([^"]+)"', _source(name))) for name in PAGES}
    broken = []
    for name in PAGES:
        for target in re.findall(r'<a [^>]*href="([^"]+)"', _source(name)):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            page = (HTML / name).parent / path if path else HTML / f"{name}.html"
            page = page.resolve()
            if not page.exists():
                broken.append(f"{name}: {target}")
            elif anchor and "=" not in anchor and page.suffix == ".html":  # else the state of the laboratory
                linked = page.relative_to(HTML.resolve()).with_suffix("").as_posix()
                if linked in ids and anchor not in ids[linked]:
                    broken.append(f"{name}: {target}")
    assert not broken, "\n".join(broken)


def _source(name: str) -> str:
    page = HTML / f"{name}.html"
    return page.read_text(encoding="utf-8") if page.exists() else ""


def _text_problems(page: Any) -> list[str]:
    """Raw TeX, raw MyST or a traceback in the visible text, code aside."""
    text = page.evaluate(
        """() => {
            const copy = document.querySelector('.bd-article, main').cloneNode(true);
            copy.querySelectorAll('pre, code, script, style, mjx-assistive-mml').forEach(e => e.remove());
            return copy.textContent;
        }"""
    )
    signs = {
        "raw TeX": r"\\\(|\\\[|\$\$|\\(frac|sin|cos|lambda|phi|mathbf|text)\b",
        "raw MyST": r"\{(math|cite|ref|doc|func|numref|code-cell|note)[\w:]*\}|```",
    }
    found = [
        f"{what}: ...{text[max(match.start() - 40, 0) : match.end() + 40]!r}"
        for what, sign in signs.items()
        for match in re.finditer(sign, text)
    ]
    if "Traceback (most recent call last)" in page.evaluate("document.body.innerText"):
        found.append("a traceback on the page")
    return found


def _weight_problems(visit: Visit) -> list[str]:
    """Too much at once, or code that only other pages use."""
    source = _source(visit.name)
    weight, limit = visit.weight(), WEIGHT_LIMITS[_kind(source)]
    found = [f"loads {weight / 1e6:.2f} MB at once, budget {limit / 1e6} MB"] if weight > limit else []
    return found + [
        f"loads {file} without use for it"
        for part, sign in CODE_OF_OTHERS.items()
        if sign not in source
        for file in visit.files
        if part in f"/{file}"
    ]


def _kind(source: str) -> str:
    """What makes a page heavy."""
    if "application/vnd.jupyter.widget-view" in source or "tslab-laboratory" in source:
        return "widgets"
    return "globes" if re.search(r'data-bundle="(gl3d|full)"', source) else "figures"


def _access_problems(page: Any) -> list[str]:
    """What axe-core finds: anything in what the book itself puts on the page, what is serious or critical around it."""
    if not AXE.exists():
        return ["axe-core is not installed: run `make book`"]
    page.add_script_tag(path=str(AXE))
    found = page.evaluate(
        """async () => {
            const { violations } = await axe.run(document, { resultTypes: ['violations'] });
            const own = document.querySelector('.bd-article');
            return violations.flatMap(({ id, impact, nodes }) => nodes.map(({ html, target }) => ({
                id, impact, html, own: !!own?.contains(document.querySelector(target[0])),
            })));
        }"""
    )
    return [
        f"{one['id']} ({one['impact']}): {one['html'][:160]}"
        for one in found
        if one["own"] or one["impact"] in ("serious", "critical")
    ]


def _image_problems(page: Any) -> list[str]:
    return page.evaluate(
        """async () => {
            const images = [...document.querySelectorAll('.bd-article img, main img')];
            images.forEach(image => { image.loading = 'eager'; });
            await Promise.all(images.map(image => image.decode().catch(() => {})));
            return [...new Set(images)].flatMap(image => {
                const name = image.currentSrc.slice(0, 120);
                return [
                    ...(image.naturalWidth === 0 ? [`broken image: ${name}`] : []),
                    ...(image.getAttribute('alt') ? [] : [`image without text alternative: ${name}`]),
                ];
            });
        }"""
    )


def _figure_problems(page: Any) -> list[str]:
    """Each plotly figure has drawn marks of its traces and a text alternative."""
    return page.evaluate(
        """() => [...document.querySelectorAll('.tslab-plot')].flatMap((plot, n) => {
            const marks = plot.querySelectorAll(
                '.trace *, .heatmaplayer image, .contour path, .points path, .choroplethlayer path,'
                + ' .scatterlayer path, .barlayer path, .gl-container canvas, .cell-text, .imagelayer image');
            return [
                ...(marks.length ? [] : [`figure ${n + 1} shows no trace`]),
                ...(plot.getAttribute('aria-label') ? [] : [`figure ${n + 1} has no text alternative`]),
            ];
        })"""
    )


def _overflow_problems(page: Any, width: int) -> list[str]:
    """Neither the page nor a block of code nor a formula in it is wider than its column; a wide table may scroll."""
    return page.evaluate(
        """width => {
            const blocks = '.bd-article div.highlight pre, .bd-article mjx-container[display="true"]';
            const cut = [...document.querySelectorAll(blocks)].filter(e => e.scrollWidth > e.clientWidth + 1)
                .map(e => `cut off at ${e.clientWidth} of ${e.scrollWidth} px: ${e.textContent.trim().slice(0, 80)}`);
            if (document.documentElement.scrollWidth <= width + 1) return cut;
            const scrolls = e => e && (['auto', 'scroll', 'hidden'].includes(getComputedStyle(e).overflowX)
                || scrolls(e.parentElement));
            const wide = [...document.querySelectorAll('.bd-article *')].filter(
                e => e.getBoundingClientRect().right > width + 1 && !scrolls(e.parentElement));
            return [...cut, `scrolls sideways: ${document.documentElement.scrollWidth} px wide; `
                + wide.slice(0, 3).map(e => e.outerHTML.slice(0, 100)).join(' | ')];
        }""",
        width,
    )


def _luminance(color: str) -> float:
    """Relative luminance of a ``#rrggbb`` or ``rgb(r, g, b)`` colour, between 0 and 1."""
    if color.startswith("#"):
        channels = [int(color[at : at + 2], 16) for at in (1, 3, 5)]
    else:
        channels = [int(value) for value in re.findall(r"\d+", color)[:3]]
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
