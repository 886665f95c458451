"""Turn every executable chapter into the notebook that Colab, papermill and nbval open.

A chapter has one source, its MyST ``.md`` file. This script writes ``book/notebooks/<part>/<name>.ipynb``
from it: no outputs, ids and order that depend on the text only, so that a diff shows what changed; MyST
directives and roles, which a notebook would show raw, rewritten as plain Markdown; and a first cell that
installs tslab where it is missing. ``tests/test_notebooks.py`` fails when a notebook is not what its
chapter says.

    python book/make_notebooks.py           write them
    python book/make_notebooks.py --check   list those that are out of date and exit with 1
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import jupytext
import nbformat

BOOK = Path(__file__).resolve().parent
sys.path.insert(0, str(BOOK / "_ext"))

from repository import ROOT, repository_address  # noqa: E402

NOTEBOOKS = BOOK / "notebooks"
NOT_CHAPTERS = {"_ext", "_vendor", "_build", "frontend", "notebooks", "results"}

#: What shows, in the code of a chapter, that it needs an extra of tslab.
EXTRAS = {
    "geo": r"\b(geopandas|pyarrow|encode_parquet|to_geoparquet|from_geoparquet)\b",
    "maps": r"\b(matplotlib\w*|cartopy|static_map)\b",
    "ml": r"\b(sklearn|fit_baseline|CoordinateTrees|compare_splits|baseline:trees)\b",
    "onnx": r"\b(onnx\w*|export_onnx)\b",
    "sweep": r"\b(dask|distributed|sweeps)\b",
    "tune": r"\b(optuna|tslab\.tune|tslab\.tuning)\b",
}

INSTALL_CELL = """\
# Set-up. Where tslab is installed, this does nothing. Elsewhere (Colab, say) it installs tslab from its
# repository and keeps the torch that is there.
import importlib.util
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

if importlib.util.find_spec("tslab") is None:
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        kept = importlib.util.find_spec("torch") is not None
        constraints.write_text("torch==" + metadata.version("torch").partition("+")[0] if kept else "")
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints),
             "tslab{extras} @ git+{repository}@{branch}"],
            check=True,
        )
if "google.colab" in sys.modules:
    from google.colab import output

    output.enable_custom_widget_manager()
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if one is old")
    check = parser.parse_args(argv).check
    wanted = {notebook_path(chapter): notebook_text(chapter) for chapter in executable_chapters()}
    surplus = sorted(set(NOTEBOOKS.rglob("*.ipynb")) - set(wanted))
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
    if check:
        for path in stale + surplus:
            print(f"out of date: {path.relative_to(ROOT)}")
        return 1 if stale or surplus else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    for path in surplus:
        path.unlink()
        print(f"removed {path.relative_to(ROOT)} (its chapter is gone)")
    return 0


def executable_chapters() -> list[Path]:
    """Chapters with code, in alphabetical order."""
    chapters = []
    for path in sorted(BOOK.rglob("*.md")):
        if NOT_CHAPTERS.isdisjoint(path.relative_to(BOOK).parts) and "{code-cell}" in path.read_text("utf-8"):
            chapters.append(path)
    return chapters


def notebook_path(chapter: Path) -> Path:
    return (NOTEBOOKS / chapter.relative_to(BOOK)).with_suffix(".ipynb")


def notebook_text(chapter: Path) -> str:
    """The notebook of a chapter as JSON text; the same chapter always gives the same text."""
    repository, branch = repository_address()
    source = chapter.relative_to(ROOT).as_posix()
    notebook = jupytext.reads(chapter.read_text(encoding="utf-8"), fmt="md:myst")
    head = nbformat.v4.new_markdown_cell(
        f"*This notebook is made from [`{source}`]({repository}/blob/{branch}/{source}), a chapter of an "
        f"interactive book on location encoders. Run the first code cell once, then the others in order.*"
    )
    extras = needed_extras("\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code"))
    install = nbformat.v4.new_code_cell(
        INSTALL_CELL.replace("{extras}", f"[{','.join(extras)}]" if extras else "")
        .replace("{repository}", repository)
        .replace("{branch}", branch),
        metadata={"tags": ["install"]},
    )
    cells = [head, install]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = plain_markdown(cell.source, chapter).strip()
            if text:
                cells.append(nbformat.v4.new_markdown_cell(text))
        else:
            metadata = dict(cell.metadata)
            if {"hide-input", "hide-cell", "remove-input"} & set(metadata.get("tags", [])):
                metadata |= {"cellView": "form", "jupyter": {"source_hidden": True}}
            cells.append(nbformat.v4.new_code_cell(cell.source, metadata=metadata))
    for cell, cell_id in zip(cells, _cell_ids([cell.source for cell in cells]), strict=True):
        cell["id"] = cell_id
    fresh = nbformat.v4.new_notebook(
        cells=cells,
        metadata={
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
    )
    fresh.nbformat_minor = 5
    return nbformat.writes(fresh) + "\n"


def needed_extras(code: str) -> list[str]:
    """The extras of tslab that code needs, from the names in it."""
    return [extra for extra, sign in EXTRAS.items() if re.search(sign, code)]


def _cell_ids(sources: list[str]) -> Iterator[str]:
    """Ids from the content, so that inserting a cell leaves the ids of the others alone."""
    seen: dict[str, int] = {}
    for source in sources:
        digest = hashlib.sha256(source.encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        yield digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


# ------------------------------------------------------------------------------- MyST to plain Markdown


def plain_markdown(text: str, chapter: Path) -> str:
    """Rewrite what only MyST understands (directives, roles, labels) as Markdown that any notebook shows."""
    plain = _roles(_directives(text.split("\n"), chapter), chapter)
    return re.sub(r"\n{3,}", "\n\n", plain)


_FENCE = re.compile(r"^ *(?P<fence>`{3,}|:{3,}|~{3,})(?:\{(?P<name>[\w:.-]+)\})?[ ]*(?P<argument>.*)$")
_ADMONITIONS = {
    "note", "tip", "warning", "important", "caution", "danger", "attention", "hint", "error", "seealso",
    "admonition", "topic", "card", "grid-item-card",
}  # fmt: skip
_DROPPED = {
    "bibliography", "tableofcontents", "toctree", "contents", "raw", "eval-rst", "index", "only",
    "automodule", "autofunction", "autoclass", "currentmodule", "glue:figure",
}  # fmt: skip


def _directives(lines: list[str], chapter: Path) -> str:
    out: list[str] = []
    at = 0
    while at < len(lines):
        match = _FENCE.match(lines[at])
        if match is None:
            if not re.match(r"^\([\w:.-]+\)=\s*$", lines[at]):  # a label
                out.append(lines[at])
            at += 1
            continue
        end = _closing(lines, at, match["fence"])
        if match["name"] is None and match["fence"][0] != ":":  # an ordinary code block stays as it is
            out += lines[at : end + 1]
        else:
            options, body = _options(lines[at + 1 : end])
            out += [
                "",
                *_directive(match["name"] or "", match["argument"].strip(), options, body, chapter),
                "",
            ]
        at = end + 1
    return "\n".join(out)


def _closing(lines: list[str], start: int, fence: str) -> int:
    for at in range(start + 1, len(lines)):
        stripped = lines[at].strip()
        if stripped.startswith(fence) and set(stripped) == {fence[0]}:
            return at
    return len(lines)


def _options(lines: list[str]) -> tuple[dict[str, str], list[str]]:
    """Split the lines of a directive into its options (``:name: value`` or a YAML block) and its body."""
    options: dict[str, str] = {}
    at = 0
    if lines and lines[0].strip() == "---":
        at = 1
        while at < len(lines) and lines[at].strip() != "---":
            name, _, value = lines[at].partition(":")
            options[name.strip()] = value.strip().strip("\"'")
            at += 1
        at += 1
    while at < len(lines) and (match := re.match(r"^\s*:([\w-]+):\s*(.*)$", lines[at])):
        options[match[1]] = match[2].strip()
        at += 1
    return options, lines[at:]


def _directive(name: str, argument: str, options: dict[str, str], body: list[str], chapter: Path) -> list[str]:
    if name in _DROPPED:
        return []
    if name == "math":
        return ["$$", *body, "$$"]
    if name == "literalinclude":
        return _included_source((chapter.parent / argument).resolve(), options)
    if name in ("code", "code-block", "sourcecode"):
        return [f"```{argument}", *body, "```"]
    if name in ("figure", "image"):
        repository, branch = repository_address()
        path = (chapter.parent / argument).resolve()
        url = f"{repository}/raw/{branch}/{path.relative_to(ROOT).as_posix()}"
        caption = ["", *_directives(body, chapter).strip().split("\n")] if name == "figure" and body else []
        return [f"![{options.get('alt', '')}]({url})", *caption]
    inner = _directives(body, chapter).strip().split("\n")
    hidden = name in ("dropdown", "toggle", "solution") or "dropdown" in options.get("class", "")
    title = argument or name.split("-")[-1].capitalize()
    if hidden:
        return ["<details>", f"<summary>{title}</summary>", "", *inner, "", "</details>"]
    if name in _ADMONITIONS:
        return [f"> **{title}**", ">", *(f"> {line}".rstrip() for line in inner)]
    return inner  # containers such as grids, tabs and margins: what they hold


def _included_source(path: Path, options: dict[str, str]) -> list[str]:
    """The part of a source file that a ``literalinclude`` shows."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    if wanted := options.get("pyobject"):
        body: list[ast.stmt] = ast.parse(text).body
        node: ast.stmt | None = None
        for part in wanted.split("."):
            node = next((item for item in body if getattr(item, "name", None) == part), None)
            if node is None:
                raise SystemExit(f"literalinclude: {path.relative_to(ROOT)} defines no {wanted!r}.")
            body = getattr(node, "body", [])
        assert node is not None and node.end_lineno is not None
        decorators = getattr(node, "decorator_list", [])
        lines = lines[min([node.lineno, *(item.lineno for item in decorators)]) - 1 : node.end_lineno]
    elif wanted := options.get("lines"):
        first, _, last = wanted.partition("-")
        lines = lines[int(first) - 1 : int(last or first)]
    return [f"```{options.get('language', 'python')}", *lines, "```"]


def _roles(text: str, chapter: Path) -> str:
    """Rewrite roles and links outside code blocks."""
    out = []
    in_code = False
    for line in text.split("\n"):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        out.append(line if in_code else _inline(line, chapter))
    return "\n".join(out)


def _inline(line: str, chapter: Path) -> str:
    line = re.sub(r"\{([\w:.+-]+)\}`([^`]+)`", lambda match: _role(match[1], match[2]), line)
    # Chapters link to chapters; notebooks to notebooks. Links to labels have no target here.
    line = re.sub(r"(?<!!)\[([^\]]+)\]\(((?!https?:)[^)#\s]+)\.md(?:#[^)]*)?\)", _chapter_link(chapter), line)
    return re.sub(r"(?<!!)\[([^\]]+)\]\(#[^)]*\)", r"\1", line)


def _chapter_link(chapter: Path) -> Callable[[re.Match[str]], str]:
    def link(match: re.Match[str]) -> str:
        target = (chapter.parent / f"{match[2]}.md").resolve()
        return f"[{match[1]}]({match[2]}.ipynb)" if target in executable_chapters() else match[1]

    return link


def _role(name: str, content: str) -> str:
    titled = re.match(r"^(.*?)\s*<([^>]+)>$", content)
    text = titled[1] if titled else content
    if name == "math":
        return f"${content}$"
    if name.startswith("cite"):
        cited = "; ".join(_citation(key.strip()) for key in content.split(","))
        return cited if name in ("cite:t", "cite:ts") else f"({cited})"
    if name == "eq":
        return "the equation above"
    if name == "numref":
        return "the figure"
    if name in ("func", "meth", "class", "mod", "attr", "data", "exc", "obj") or name.startswith("py:"):
        return f"`{text.split('.')[-1] if text.startswith('~') else text}`"
    if name == "doc" and not titled:
        return f"*{Path(text).name.replace('-', ' ').replace('_', ' ')}*"
    return text


def _citation(key: str) -> str:
    """``wu2024torchspatial`` -> Wu et al., 2024."""
    entry = _bibliography().get(key)
    if entry is None:
        raise SystemExit(f"{key!r} is cited, but is not in book/references.bib.")
    names, year = entry
    who = names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."
    return f"{who}, {year}"


@cache
def _bibliography() -> dict[str, tuple[list[str], str]]:
    from pybtex.database import parse_file

    entries = parse_file(str(BOOK / "references.bib")).entries
    works = {}
    for key, entry in entries.items():
        people = entry.persons.get("author", [])
        names = [" ".join([*person.prelast_names, *person.last_names]).strip("{}") for person in people]
        works[key] = (names, entry.fields.get("year", "n.d."))
    return works


if __name__ == "__main__":
    sys.exit(main())
