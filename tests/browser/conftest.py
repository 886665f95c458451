"""The built book, served on this machine under a sub-path, and a Chromium that can reach nothing else.

`make book` builds what these tests open. Without a built book or a browser they are skipped and say so; with
``TSLAB_REQUIRE_BROWSER=1`` (CI) they fail instead.
"""

from __future__ import annotations

import functools
import gzip
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_out" / "_build" / "html"
#: The book must work wherever it is put, so it is served below a folder, not at the root of a host.
PREFIX = "/some/where"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


def book_pages() -> list[str]:
    """Names of the pages of the built book, without ``.html``; empty if it is not built."""
    names = (page.relative_to(HTML).with_suffix("").as_posix() for page in HTML.rglob("*.html"))
    return sorted(name for name in names if not name.startswith("_") and name != "index")


def pages_with(text: str) -> list[str]:
    """Names of the pages whose HTML contains ``text``."""
    return [name for name in book_pages() if text in (HTML / f"{name}.html").read_text(encoding="utf-8")]


def unavailable(reason: str) -> None:
    """Skip, or fail where a browser is required."""
    if os.environ.get("TSLAB_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the book below PREFIX; quiet; nothing is cached between pages."""

    extensions_map = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
    }

    def translate_path(self, path: str) -> str:
        path = urlsplit(path).path
        if not path.startswith(PREFIX + "/"):
            return os.fspath(HTML / "no-such-file")
        return super().translate_path(path.removeprefix(PREFIX))

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address of a folder that this machine serves below PREFIX, ending in a slash."""
    handler = functools.partial(_Handler, directory=os.fspath(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{PREFIX}/"
    finally:
        server.shutdown()


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """Address of the served book, ending in a slash."""
    if not (HTML / "index.html").exists():
        unavailable("the book is not built: run `make book` first")
    with served(HTML) as address:
        yield address


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A running Chromium: ``TSLAB_CHROMIUM``, else the one on the path, else Playwright's own."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = os.environ.get("TSLAB_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    with sync_api.sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).exists():
            unavailable("no Chromium found: install chromium, or set TSLAB_CHROMIUM to its path")
        browser = playwright.chromium.launch(
            executable_path=found,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--enable-unsafe-swiftshader"],
        )
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page that was opened, and what went wrong on it so far.

    page: the Playwright page. name: the page of the book. off_site: addresses it asked for outside the book (they
    were refused). errors: console errors and uncaught exceptions. missing: files of the book it asked for that do not
    exist. files: paths below the site's root that it loaded.
    """

    page: Any
    site: str
    name: str
    off_site: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        return (
            [f"asked another server: {url}" for url in self.off_site]
            + [f"console: {text}" for text in self.errors]
            + [f"missing file: {url}" for url in self.missing]
        )

    def scroll_through(self) -> None:
        """Go down the page step by step, so that what is drawn only when near gets drawn, and back up."""
        height = self.page.evaluate("document.documentElement.scrollHeight")
        for top in range(0, height, 700):
            self.page.evaluate("top => window.scrollTo(0, top)", top)
            self.page.wait_for_timeout(40)
        # A busy page can pass a figure between two looks of its observer, so each one left is waited for on the spot.
        waiting = self.page.locator(".tslab-figure:not([data-drawn])")
        while (left := waiting.count()) > 0:
            waiting.first.evaluate("figure => figure.scrollIntoView({block: 'center', behavior: 'instant'})")
            self.page.wait_for_function(
                "left => document.querySelectorAll('.tslab-figure:not([data-drawn])').length < left",
                arg=left,
                timeout=90_000,
            )
        self.page.evaluate("window.scrollTo(0, 0)")

    def weight(self) -> int:
        """Bytes of everything loaded so far, each file once, compressed as a web server would."""
        return sum(_compressed_size(path) for path in set(self.files))


@functools.cache
def _compressed_size(path: str) -> int:
    data = (HTML / path).read_bytes()
    if path.endswith((".woff2", ".png", ".jpg", ".webp")):
        return len(data)
    return len(gzip.compress(data, 6))


OpenPage = Callable[..., Visit]


@pytest.fixture
def open_page(site: str, chromium: Any) -> Iterator[OpenPage]:
    """``open_page("intro", width=390, theme="dark")`` -> Visit, once the page has come to rest."""
    contexts = []

    def open_it(name: str, width: int = 1440, height: int = 900, theme: str = "light", touch: bool = False) -> Visit:
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, has_touch=touch, reduced_motion="reduce"
        )
        contexts.append(context)
        context.set_default_timeout(30_000)
        page = context.new_page()
        visit = Visit(page, site, name)

        def route(route: Any) -> None:
            url = route.request.url
            if url.startswith((site, "data:", "blob:")):
                route.continue_()
            else:
                visit.off_site.append(url)
                route.abort()

        def answered(response: Any) -> None:
            if not response.url.startswith(site):
                return
            path = urlsplit(response.url).path.removeprefix(PREFIX + "/")
            if response.status >= 400:
                visit.missing.append(path)
            elif (HTML / path).is_file():
                visit.files.append(path)

        page.route("**/*", route)
        page.on("response", answered)
        page.on("console", lambda message: visit.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: visit.errors.append(str(error)))
        page.goto(f"{site}{name}.html", wait_until="load")
        page.evaluate("document.fonts.ready")
        page.wait_for_function("!window.MathJax?.startup?.promise || window.MathJax.startup.promise.then(() => true)")
        return visit

    yield open_it
    for context in contexts:
        context.close()


class Explorer:
    """The widget on an open page, and what the page asked for and complained about."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.add_init_script(
            "window.results = []; document.addEventListener('tslab:result', (e) => window.results.push(e.detail));"
        )

    def open(self, url: str) -> Explorer:
        self.page.goto(url)
        self.page.wait_for_selector(".tslab-explorer canvas")
        self.page.wait_for_timeout(200)
        return self

    def run(self) -> Explorer:
        self.page.get_by_role("button", name="Run in your browser").click()
        self.page.wait_for_selector('.tslab-explorer[data-state="ready"]')
        return self

    def after(self, action: Callable[[], Any]) -> dict[str, Any]:
        """The last result once ``action`` has led to a new one and the widget rests."""
        count = self.page.evaluate("results.length")
        action()
        self.page.wait_for_function(f"results.length > {count}")
        self.page.wait_for_timeout(150)
        self.page.wait_for_function(
            """async () => {
                const before = results.length;
                await new Promise((resolve) => setTimeout(resolve, 400));
                return results.length === before;
            }"""
        )
        return self.last()

    def last(self) -> dict[str, Any]:
        return self.page.evaluate(
            """() => {
                const { request, result } = results.at(-1);
                const plain = (array) => Array.from(array);
                return { request, ...result, feature: plain(result.feature), similarity: plain(result.similarity) };
            }"""
        )

    def picture(self, number: int) -> str:
        """What canvas ``number`` shows: feature globe, feature map, similarity globe, similarity map."""
        return self.page.evaluate("n => document.querySelectorAll('.tslab-explorer canvas')[n].toDataURL()", number)

    def colors(self, number: int) -> int:
        return self.page.evaluate(
            """n => {
                const canvas = document.querySelectorAll('.tslab-explorer canvas')[n];
                const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
                return new Set(new Uint32Array(data.buffer)).size;
            }""",
            number,
        )


@pytest.fixture
def explorer(chromium: Any) -> Iterator[Callable[..., Explorer]]:
    """``explorer(width=390)`` -> an `Explorer` on a blank page that can reach this machine only."""
    contexts = []

    def make(width: int = 1000, height: int = 1300, motion: str = "reduce") -> Explorer:
        context = chromium.new_context(viewport={"width": width, "height": height}, reduced_motion=motion)
        contexts.append(context)
        context.set_default_timeout(30_000)
        context.route(
            lambda url: not url.startswith(("http://127.0.0.1", "data:", "blob:", "file:")),
            lambda r: r.abort(),
        )
        return Explorer(context.new_page())

    yield make
    for context in contexts:
        context.close()
