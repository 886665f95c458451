"""The Sphinx extension of the book: offline, with live figures, and no build over a broken page.

Jupyter Book's defaults load MathJax, require.js, the widget manager, plotly and Thebe from other servers.
Here every page loads them from the site itself, and only what the page uses. ``book/vendor_assets.py``
collects those files in ``book/_vendor`` beforehand. In order of the build, this extension

1. points Sphinx at the vendored files and at the repository's address, which stands in ``pyproject.toml``
   only;
2. prepares the kernel that executes the chapters (plotly renderer, no progress bars), keys the execution cache by
   the content of the package, so that a change in ``tslab/`` or ``tslab_book/`` runs
   the chapters again, and runs them side by side (``execution.py``);
3. fits each page: scripts it needs, no Thebe, Colab button to the generated notebook, code whose lines break
   (``code_lines.py``);
   ``reference.py`` and ``status.py`` write the API reference and say when each page was executed;
4. makes the markup of the finished pages clearer (``accessibility.py``), takes out of the theme what none of them
   uses (``trim.py``), and fails the build on a traceback or a figure without a text alternative.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from accessibility import clearer
from code_lines import breakable
from docstrings import rewrite
from execution import execute_side_by_side, prepare
from repository import colab_url, repository_address
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.domains.math import MathDomain
from sphinx.errors import ExtensionError
from trim import move_figures, remove_trimmed, trim

EXT = Path(__file__).resolve().parent
BOOK = EXT.parent
VENDOR = BOOK / "_vendor"
ASSETS = EXT / "assets"

#: Left column: the theme's own parts, and a link to the index below the table of contents.
SIDEBAR = [
    *("navbar-logo.html", "icon-links.html", "search-button-field.html", "sbt-sidebar-nav.html"),
    "tslab-index-link.html",
]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_domain(PageMath, override=True)
    app.setup_extension("reference")
    app.setup_extension("status")
    app.add_config_value("tslab_execution_key", "", "env")
    app.connect("config-inited", configure, priority=100)
    app.connect("config-inited", prepare, priority=110)
    app.connect("env-before-read-docs", execute_side_by_side)
    app.connect("html-page-context", fit_page, priority=900)
    app.connect("autodoc-process-docstring", rewrite)
    app.connect("build-finished", finish_pages, priority=900)
    app.connect("build-finished", check_html, priority=950)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


class PageMath(MathDomain):
    """Equations, by page: Sphinx gives MathJax also to the pages whose table of contents leads to some."""

    def has_equations(self, docname: str | None = None) -> bool:
        return super().has_equations() if docname is None else bool(self.data["has_equations"].get(docname))


# ------------------------------------------------------------------------------------------ 1: configuration


def configure(app: Sphinx, config: Config) -> None:
    """Set what ``_config.yml`` cannot know: paths and the repository's address."""
    if not (VENDOR / ".assets").exists():
        raise ExtensionError("book/_vendor is missing or incomplete. Run: python book/vendor_assets.py")
    config.html_static_path += [str(VENDOR), str(ASSETS)]
    config.templates_path += [str(EXT / "templates")]
    config.html_sidebars = {"**": SIDEBAR}

    repository, branch = repository_address()
    config.html_theme_options.update(
        repository_url=repository,
        repository_branch=branch,
        path_to_docs="book",
        use_repository_button=True,
        launch_buttons={"colab_url": "https://colab.research.google.com"},
    )

    remove_trimmed(Path(app.outdir) / "_static")


# ----------------------------------------------------------------------------------------------- 3: the page


def fit_page(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Give a page the scripts it uses and take away those it does not; mend the Colab button."""
    body = move_figures(_without_thebe_block(context.get("body") or ""), Path(app.outdir))
    body = breakable(body)
    context["body"] = body
    scripts = context.get("script_files")
    if isinstance(scripts, list):
        scripts[:] = [script for script in scripts if not _is_thebe(script)]
        app.add_js_file("tslab-setup.js", priority=1)
        app.add_css_file("tslab-book.css", priority=900)
        if 'class="tslab-figure"' in body:
            app.add_js_file("tslab-figures.js", priority=900, defer="defer")
    for button in context.get("header_buttons", []):
        for entry in button.get("buttons", []):
            if "/blob/" in entry.get("url", "") and entry.get("text") == "Colab":
                entry["url"] = colab_url(pagename)


def _is_thebe(script: Any) -> bool:
    """sphinx-thebe is always on and declares its constants twice, an error on every page; it is not used."""
    body = (getattr(script, "attributes", None) or {}).get("body") or ""
    return "THEBE_JS_URL" in body or "sphinx-thebe" in str(getattr(script, "filename", ""))


def _without_thebe_block(body: str) -> str:
    body = re.sub(r'\s*<script type="text/x-thebe-config">.*?</script>', "", body, flags=re.DOTALL)
    return re.sub(r"<script>kernelName = '[^']*'</script>", "", body)


# -------------------------------------------------------------------------------------- 4: the finished HTML


def finish_pages(app: Sphinx, exception: Exception | None) -> None:
    """Make the markup of the pages clearer, and take out of the theme's files what none of them uses."""
    if exception is not None or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        if (better := clearer(text)) != text:
            page.write_text(better, encoding="utf-8")
    trim(Path(app.outdir))


def check_html(app: Sphinx, exception: Exception | None) -> None:
    """Fail on what a green build can hide: a traceback on a page, a figure nobody can read without eyes."""
    if exception is not None or app.builder.format != "html":
        return
    problems = []
    for page in sorted(Path(app.outdir).rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(app.outdir)
        visible = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
        if "Traceback (most recent call last)" in html.unescape(re.sub(r"<[^>]+>", "", visible)):
            problems.append(f"{name}: a cell left a traceback on the page")
        if re.search(r'class="tslab-plot"[^>]*aria-label=""', text):
            problems.append(f'{name}: a plotly figure has no text alternative (fig.layout.meta["alt"])')
    if problems:
        raise ExtensionError("the built pages are not fit to be read:\n  " + "\n  ".join(problems))
