"""When and with what each page was executed: a line below every page, and the status page.

The outcome of every execution (when, how long) is kept by myst-nb; versions are those of this build, which is
right because a change of one of them empties the execution cache (``execution.execution_key``). Three directives
stand on pages of the reference:

- ``notebook-status``: a table of all chapters with code, filled in when all of them have run;
- ``build-status``: versions, and sums over that table;
- ``citation``: how to cite this version of the book and the package.
"""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from typing import Any

from docutils import nodes
from myst_nb.sphinx_ import NbMetadataCollector
from repository import ROOT, colab_url, repository_address
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

NOTEBOOKS = ROOT / "book" / "notebooks"
STATUS_PAGE = "reference/status"
#: What is named below each page, besides Python.
PACKAGES = ("tslab", "torch")
#: What the status page names in addition: packages that numbers or figures come from.
MORE_PACKAGES = ("numpy", "scipy", "pandas", "scikit-learn", "plotly", "sphinx", "jupyter-book", "myst-nb")


class StatusNode(nodes.General, nodes.Element):
    """Placeholder for what is known only when every chapter has run; ``kind`` says for which table."""


class NotebookStatus(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [StatusNode(kind="notebooks")]


class BuildStatus(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [StatusNode(kind="build")]


class Citation(SphinxDirective):
    """BibTeX entries of the book and of the package."""

    def run(self) -> list[nodes.Node]:
        version, repository = versions()["tslab"], repository_address()[0]
        year = self.config.copyright.split()[0]
        about = f"  author  = {{{{{self.config.author}}}}},\n  year    = {{{year}}},\n  url     = {{{repository}}},"
        text = (
            f"@book{{tslab-book,\n  title   = {{{self.config.html_title}}},\n{about}\n"
            f"  note    = {{Interactive book, version {version}}}\n}}\n\n"
            f"@software{{tslab,\n  title   = {{tslab: location encoders for geospatial machine learning}},\n{about}\n"
            f"  version = {{{version}}}\n}}"
        )
        return [nodes.literal_block(text, text, language="bibtex")]


class FillStatus(SphinxPostTransform):
    """Put the tables in the place of their placeholders."""

    default_priority = 8  # before links are resolved

    def run(self, **kwargs: Any) -> None:
        for node in list(self.document.findall(StatusNode)):
            made = notebook_table(self.env) if node["kind"] == "notebooks" else build_list(self.env)
            node.replace_self(made)


def notebook_table(env: Any) -> nodes.table:
    """One row for each chapter with code, in the order of the book."""
    rows = []
    for docname, facts in chapters(env).items():
        when = facts["executed"].strftime("%Y-%m-%d") if facts["executed"] else "not executed"
        runtime = f"{facts['runtime']:.1f} s" if facts["runtime"] is not None else ""
        rows.append(
            [
                _chapter_link(docname),
                nodes.Text(when),
                nodes.Text(runtime),
                *(nodes.Text(str(facts[name])) for name in ("cells", "figures", "repeated")),
                nodes.reference("", "Colab", refuri=colab_url(docname), internal=False),
            ]
        )
    return _table(["Chapter", "Executed", "Run time", "Cells", "Figures", "Repeated", "Open"], rows)


def build_list(env: Any) -> nodes.bullet_list:
    """Versions of this build and sums over all chapters."""
    facts = list(chapters(env).values())
    ran = [entry for entry in facts if entry["executed"]]
    total = sum(entry["runtime"] or 0 for entry in ran)
    named = {**versions(), **{name: metadata.version(name) for name in MORE_PACKAGES}}
    lines = [
        f"{len(ran)} of {len(facts)} chapters with code were executed, without an error in any cell; "
        f"together they take {total / 60:.1f} minutes.",
        f"{sum(entry['figures'] for entry in facts)} interactive figures, each with a text alternative.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in named.items()) + ".",
        f"Machine: {platform.system()} on {platform.machine()}.",
    ]
    return nodes.bullet_list("", *(nodes.list_item("", nodes.paragraph(text=line)) for line in lines))


def chapters(env: Any) -> dict[str, dict[str, Any]]:
    """Facts about each chapter with code: when it ran, how long, and what is in its notebook."""
    executions = NbMetadataCollector.get_doc_data(env)
    order = list(dict.fromkeys([env.config.root_doc, *_toctree_order(env, env.config.root_doc)]))
    facts = {}
    for docname in order:
        notebook = NOTEBOOKS / f"{docname}.ipynb"
        if not notebook.exists():
            continue
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        tags = [cell["metadata"].get("tags", []) for cell in cells if cell["cell_type"] == "code"]
        ran = executions.get(docname, {}).get("exec_data") or {}
        facts[docname] = {
            "executed": datetime.fromtimestamp(ran["mtime"], UTC) if ran.get("mtime") else None,
            "runtime": ran.get("runtime"),
            "cells": len(tags) - 1,  # the first one installs
            "figures": getattr(env, "tslab_figures", {}).get(docname, 0),
            "repeated": sum("nbval-check-output" in names for names in tags),
        }
    return facts


@cache
def versions() -> dict[str, str]:
    """Python and the packages that results depend on most."""
    return {
        "Python": platform.python_version(),
        **{name: metadata.version(name).partition("+")[0] for name in PACKAGES},
    }


def executed_line(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """``html-page-context``: below a page with code, when it was executed and with which versions."""
    ran = NbMetadataCollector.get_doc_data(app.env).get(pagename, {}).get("exec_data")
    if not ran or not ran.get("mtime"):
        return
    day = datetime.fromtimestamp(ran["mtime"], UTC)
    named = ", ".join(f"{name} {version}" for name, version in versions().items())
    status = context["pathto"](STATUS_PAGE) if STATUS_PAGE in app.env.found_docs else None
    link = f' (<a href="{status}">all pages</a>)' if status else ""
    context["body"] = (
        f'{context["body"]}<p class="tslab-executed">Executed on <time datetime="{day:%Y-%m-%d}">'
        f"{day.day} {day:%B %Y}</time> with {named}{link}.</p>"
    )


def count_figures(app: Sphinx, doctree: Any) -> None:
    """``doctree-read``: how many interactive figures a page has."""
    count = sum('class="tslab-figure"' in node.astext() for node in doctree.findall(nodes.raw))
    _figures(app.env)[app.env.docname] = count


def forget_figures(app: Sphinx, env: Any, docname: str) -> None:
    _figures(env).pop(docname, None)


def merge_figures(app: Sphinx, env: Any, docnames: list[str], other: Any) -> None:
    _figures(env).update({name: _figures(other).get(name, 0) for name in docnames})


def renew_status(app: Sphinx, env: Any) -> list[str]:
    """``env-updated``: the status page is written in every build."""
    return [STATUS_PAGE] if STATUS_PAGE in env.found_docs else []


def _figures(env: Any) -> dict[str, int]:
    if not hasattr(env, "tslab_figures"):
        env.tslab_figures = {}
    return env.tslab_figures


def _toctree_order(env: Any, docname: str) -> list[str]:
    found = []
    for child in env.toctree_includes.get(docname, []):
        found += [child, *_toctree_order(env, child)]
    return found


def _chapter_link(docname: str) -> nodes.Node:
    link = addnodes.pending_xref(
        "", reftype="doc", refdomain="std", refexplicit=False, refwarn=True, reftarget=f"/{docname}", refdoc=STATUS_PAGE
    )
    link += nodes.inline("", docname)
    return link


def _table(header: list[str], rows: list[list[nodes.Node]]) -> nodes.table:
    group = nodes.tgroup(cols=len(header))
    group += [nodes.colspec(colwidth=1) for _ in header]
    cells = [[nodes.Text(title) for title in header], *rows]
    lines = [nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in row)) for row in cells]
    group += nodes.thead("", lines[0])
    group += nodes.tbody("", *lines[1:])
    return nodes.table("", group, classes=["colwidths-auto"])


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(StatusNode)
    app.add_directive("notebook-status", NotebookStatus)
    app.add_directive("build-status", BuildStatus)
    app.add_directive("citation", Citation)
    app.add_post_transform(FillStatus)
    app.connect("doctree-read", count_figures)
    app.connect("env-purge-doc", forget_figures)
    app.connect("env-merge-info", merge_figures)
    app.connect("env-updated", renew_status)
    app.connect("html-page-context", executed_line, priority=950)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
