"""The API reference: every public object once, under its shortest name, linked from every other name it has.

A page of the reference says which modules it is about, one directive for each (inside ``eval-rst``)::

    .. api-module:: tslab.geobias.relative

This writes what the module says of itself and then its public members in the order of the source, each under the
name a reader would type (``tslab.geobias.sri``, not ``tslab.geobias.relative.sri``). Three things follow from
that:

- a reference to any other name of the same object is resolved here, and a reference to something of the packages
  that no page documents is a warning, which fails the build;
- a docstring ends with the chapters that explain the object: those that refer to it or show its source, else those
  whose code uses it, if they are few;
- ``.. api-names:: tslab`` lists what a package offers, a line each.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from docstrings import to_rst
from docutils import nodes
from docutils.statemachine import StringList
from repository import ROOT
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

BOOK = ROOT / "book"
#: The package, and the code of the book beside it.
ROOTS = ("tslab", "tslab_book")
#: Packages whose ``__all__`` gives objects a shorter name; the first that has an object names it.
ROOMS = ("encoders", "tasks", "synthetic", "training", "geobias", "benchmark", "plot", "widgets")
PACKAGES = ("tslab", *(f"tslab.{room}" for room in ROOMS))
#: Functions of a module that start it as a program.
PROGRAMS = {"main"}
#: At most so many chapters are named when none explains an object and some use it.
MAX_USERS = 3

logger = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------- names


def public_modules() -> list[str]:
    """Every module of `tslab` and of `tslab_book` whose name has no underscore in front, the packages first."""
    found = list(ROOTS)
    for root in ROOTS:
        for info in pkgutil.walk_packages(importlib.import_module(root).__path__, f"{root}."):
            if not any(part.startswith("_") for part in info.name.split(".")):
                found.append(info.name)
    return sorted(found)


def members(module: ModuleType) -> Iterator[tuple[str, str, str]]:
    """Public members that a module defines, in the order of the source: kind, own name, public name."""
    analyzer = ModuleAnalyzer.for_module(module.__name__)
    analyzer.analyze()
    commented = {name for scope, name in analyzer.attr_docs if not scope}
    order = analyzer.tagorder
    for name, value in sorted(vars(module).items(), key=lambda item: order.get(item[0], 10**6)):
        if name.startswith("_") or name in PROGRAMS:
            continue
        if inspect.isclass(value) and value.__module__ == module.__name__ and value.__doc__:
            yield "class", name, public_name(module.__name__, name, value)
        elif inspect.isroutine(value) and value.__module__ == module.__name__ and value.__doc__:
            yield "function", name, public_name(module.__name__, name, value)
        elif name in commented and not inspect.isroutine(value) and not inspect.isclass(value):
            yield "data", name, f"{module.__name__}.{name}"


def public_name(module: str, name: str, value: object) -> str:
    """The shortest name under which an object may be imported, unless a module has that name."""
    for package in map(importlib.import_module, PACKAGES):
        short = f"{package.__name__}.{name}"
        if name in package.__all__ and getattr(package, name) is value and short not in sys.modules:
            return short
    return f"{module}.{name}"


def documented_name(target: str) -> str | None:
    """Under which name the reference has the object that is called ``target``; None if there is no such object."""
    parts = target.split(".")
    for end in range(len(parts), 0, -1):
        path = ".".join(parts[:end])
        try:
            module = importlib.import_module(path)
        except ImportError:
            continue
        if end == len(parts):
            return path
        value = getattr(module, parts[end], None)
        if value is None:
            return None
        home = getattr(value, "__module__", None) if callable(value) else _home(value, parts[end])
        first = public_name(home, value.__name__, value) if callable(value) and home else None
        return ".".join([first or f"{home or path}.{parts[end]}", *parts[end + 1 :]])
    return None


def _home(value: object, name: str) -> str | None:
    """Module that defines a constant which others import: the one whose source comments on it."""
    for path in public_modules():
        if getattr(sys.modules.get(path), name, None) is value:
            analyzer = ModuleAnalyzer.for_module(path)
            analyzer.analyze()
            if ("", name) in analyzer.attr_docs:
                return path
    return None


# ----------------------------------------------------------------------------------------- directives


class ApiModule(SphinxDirective):
    """A module: what it says of itself, then its public members."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module(self.arguments[0])
        lines = [
            f".. py:module:: {module.__name__}",
            "",
            *to_rst(inspect.getdoc(module) or "").split("\n"),
            "",
        ]
        for kind, _, public in members(module):
            lines.append(f".. auto{kind}:: {public}")
            lines += ["   :members:"] if kind == "class" else []
            lines.append("")
        for chapter in chapter_files():  # the links to chapters follow the chapters
            self.env.note_dependency(str(chapter))
        return _parsed(self, lines)


class ApiNames(SphinxDirective):
    """What a package offers: its names, each with the first line of its docstring."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        package = importlib.import_module(self.arguments[0])
        lines: list[str] = []
        for name in sorted(package.__all__, key=lambda name: (name.isupper(), name.lower())):
            value = getattr(package, name)
            full = documented_name(f"{package.__name__}.{name}")
            summary = to_rst(first_line(value) if callable(value) else _comment(full or "")).strip()
            lines += [f":py:obj:`{name} <{full}>`", f"    {' '.join(summary.split())}", ""]
        return _parsed(self, lines)


def first_line(value: object) -> str:
    """The first paragraph of a docstring."""
    return (inspect.getdoc(value) or "").split("\n\n")[0]


def _comment(full: str) -> str:
    """What the source says above a constant."""
    path, _, name = full.rpartition(".")
    analyzer = ModuleAnalyzer.for_module(path)
    analyzer.analyze()
    return " ".join(analyzer.attr_docs.get(("", name), []))


def _parsed(directive: SphinxDirective, lines: list[str]) -> list[nodes.Node]:
    parent = nodes.container()
    parent.document = directive.state.document
    directive.state.nested_parse(StringList(lines, directive.arguments[0]), directive.content_offset, parent)
    return parent.children


# ------------------------------------------------------------------------------------------- references


def resolve(app: Sphinx, env: Any, node: Any, contnode: nodes.Node) -> nodes.Node | None:
    """``missing-reference``: another name of a documented object, or a bare name from the module it stands in."""
    if node.get("refdomain") != "py":
        return None
    target: str = node["reftarget"]
    objects = env.get_domain("py").objects
    candidates = [target]
    if not target.startswith("tslab"):
        context = node.get("py:module") or ""
        candidates = [f"{context}.{target}"] if context else []
        endings = {name for name in objects if name.endswith(f".{target}") and not objects[name].aliased}
        candidates += endings if len(endings) == 1 else []
    for candidate in candidates:
        full = candidate if candidate in objects else documented_name(candidate)
        if full and full in objects:
            entry = objects[full]
            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, full)
    if target.startswith(("tslab.", "tslab_book.")) and "reference/api" in env.found_docs:
        logger.warning("%r is on no page of the API reference", target, location=node, type="ref", subtype="api")
    return None


# ------------------------------------------------------------------------------- which chapters explain what

_ROLE = re.compile(r"\{(?:py:)?(?:func|class|meth|mod|attr|data|obj)\}`([^`]+)`")
_INCLUDED = re.compile(r"^`{3,}\{literalinclude\}\s+(\S+)\n(?:---\n)?(?:.*\n)*?:?pyobject:\s*([\w.]+)", re.MULTILINE)
_CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)

_CELL_OPTIONS = re.compile(r"\A(?:---\n(?:.*\n)*?---\n|(?::.*\n)+)")


def chapter_files() -> list[Path]:
    folders = (folder for folder in sorted(BOOK.iterdir()) if folder.is_dir() and folder.name[0] not in "._")
    left_out = ("notebooks", "frontend", "results", "reference", "images", "tslab_book")
    return [path for folder in folders if folder.name not in left_out for path in sorted(folder.rglob("*.md"))]


def explanations() -> dict[str, list[str]]:
    """For each documented object the chapters (document names) that refer to it or show its source."""
    return _chapters_by_name(_stamp())[0]


def uses() -> dict[str, list[str]]:
    """For each documented object the chapters whose code uses it."""
    return _chapters_by_name(_stamp())[1]


def chapters_note(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """``autodoc-process-docstring``: end a docstring with the chapters that explain the object."""
    if what not in ("function", "class", "method", "data"):
        return
    full = documented_name(name) or name
    label, chapters = "Explained in", explanations().get(full, [])
    if not chapters:
        label, chapters = "Used in", uses().get(full, [])
        chapters = chapters if len(chapters) <= MAX_USERS else []
    if chapters := [name for name in chapters if name in app.env.found_docs]:
        lines += ["", f"*{label}:* " + ", ".join(f":doc:`/{chapter}`" for chapter in chapters) + ".", ""]


def _stamp() -> tuple[tuple[Path, float], ...]:
    return tuple((path, path.stat().st_mtime) for path in chapter_files())


@cache
def _chapters_by_name(
    stamp: tuple[tuple[Path, float], ...],
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    explained: dict[str, list[str]] = {}
    used: dict[str, list[str]] = {}
    for path, _ in stamp:
        docname = path.relative_to(BOOK).with_suffix("").as_posix()
        text = path.read_text(encoding="utf-8")
        for table, targets in ((explained, set(_explained_in(text, path))), (used, set(_used_in(text)))):
            for full in filter(None, map(documented_name, sorted(targets))):
                if docname not in table.setdefault(full, []):
                    table[full].append(docname)
    return explained, used


def _explained_in(text: str, path: Path) -> Iterator[str]:
    for content in _ROLE.findall(text):
        titled = re.search(r"<([^>]+)>$", content)
        yield (titled[1] if titled else content).lstrip("~!")
    for included, pyobject in _INCLUDED.findall(text):
        source = (path.parent / included).resolve()
        if source.is_relative_to(ROOT):
            folder = BOOK if source.is_relative_to(BOOK) else ROOT
            yield ".".join([*source.relative_to(folder).with_suffix("").parts, pyobject])


def _used_in(text: str) -> Iterator[str]:
    """Names of the packages that the code cells mention, spelled in full."""
    names: dict[str, str] = {}
    for code in _CELL.findall(text):
        source = _CELL_OPTIONS.sub("", code)
        try:
            tree = ast.parse(source)
        except SyntaxError:  # an IPython magic
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {item.asname or item.name.split(".")[0]: item.name if item.asname else item.name.split(".")[0]
                          for item in node.names if item.name.split(".")[0] in ROOTS}  # fmt: skip
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ROOTS:
                names |= {item.asname or item.name: f"{node.module}.{item.name}" for item in node.names}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and (dotted := _dotted(node)):
                first, _, rest = dotted.partition(".")
                if first in names:
                    yield f"{names[first]}.{rest}"
            elif isinstance(node, ast.Name) and names.get(node.id, "tslab") not in ROOTS:
                yield names[node.id]


def _dotted(node: ast.expr) -> str:
    """``tslab.geobias.ssi`` of an attribute chain that starts with a name; empty for any other."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("sphinx.ext.autodoc")
    app.add_directive("api-module", ApiModule)
    app.add_directive("api-names", ApiNames)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-docstring", chapters_note, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
