"""Every chapter shows a recipe to copy: short, by the public API alone, and it runs in an empty session."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
sys.path.insert(0, str(BOOK))

import make_notebooks  # noqa: E402

COURSE = [
    path
    for path in sorted(BOOK.rglob("*.md"))
    if make_notebooks.NOT_CHAPTERS.isdisjoint(path.relative_to(BOOK).parts)
    and path.parent != BOOK / "reference"
    and path.stem != "intro"
]
MOST_LINES, WIDEST = 10, 88
#: Tags of cells whose code a reader does not see at once.
HIDDEN = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
#: What a recipe may import: the standard library, what the wheel depends on, and these modules of tslab.
PUBLIC = {"tslab", "torch", "numpy", "pandas", *sys.stdlib_module_names}
PUBLIC_MODULES = {"tslab", "tslab.streaming", "tslab.exporting", "tslab.models"}
PUBLIC_NAMES = {"plot", "diagnostics", "geobias", "losses", "metrics", "models", "baselines", "benchmark"}
#: Libraries that come with an extra of the wheel, and which recipe may use one, as its prose says.
EXTRAS = ["cartopy", "dask", "geopandas", "matplotlib", "optuna", "pyarrow", "sklearn"]
ONNX = ["onnx", "onnxruntime", "onnxscript"]
NEEDS = {"work/export": ONNX}
#: Parts of the book whose recipes run in one process: starting it takes longer than most recipes.
PARTS = [("explorer", "foundations", "data", "encoders"), ("models", "geobias"), ("reproduction", "work")]


@dataclass(frozen=True)
class Cell:
    """A code cell: where its first line of code stands, its tags, its code, and how many headings come before it."""

    chapter: str
    line: int
    tags: frozenset[str]
    code: str
    headings: int

    @property
    def place(self) -> str:
        return f"book/{self.chapter}.md, line {self.line}"


def cells_of(chapter: Path) -> list[Cell]:
    """The code cells of a chapter in their order."""
    name = chapter.relative_to(BOOK).with_suffix("").as_posix()
    cells, headings, lines = [], 0, iter(enumerate(chapter.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        if not line.startswith("```"):
            headings += line.startswith("## ")
            continue
        body = []
        for _, inside in lines:
            if inside.startswith("```"):
                break
            body.append(inside)
        if not line.startswith("```{code-cell}"):
            continue
        options = next((at for at, text in enumerate(body) if not re.match(r":[\w-]+:|$", text)), len(body))
        tags = re.findall(r"[\w-]+", " ".join(text.removeprefix(":tags:") for text in body[:options]))
        cells.append(Cell(name, number + 1 + options, frozenset(tags), "\n".join(body[options:]), headings))
    return cells


CELLS = {chapter: cells_of(chapter) for chapter in COURSE}
RECIPES = [cell for cells in CELLS.values() for cell in cells if "recipe" in cell.tags]
every_chapter = pytest.mark.parametrize("chapter", COURSE, ids=lambda path: path.stem)
every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda cell: cell.chapter)


@every_chapter
def test_a_chapter_has_a_recipe_near_its_top(chapter: Path) -> None:
    early = [
        cell
        for number, cell in enumerate(CELLS[chapter])
        if "recipe" in cell.tags and (cell.headings < 3 or 3 * number < len(CELLS[chapter]))
    ]
    assert early, f"{chapter.relative_to(ROOT)} has no cell tagged `recipe` in its first third"
    assert not any(cell.tags & HIDDEN for cell in early), f"the recipe of {chapter.name} is hidden"


@every_chapter
def test_visible_code_fits_the_page(chapter: Path) -> None:
    wide = [
        f"book/{cell.chapter}.md, line {cell.line + at}: {len(line)}"
        for cell in CELLS[chapter]
        if not cell.tags & HIDDEN
        for at, line in enumerate(cell.code.splitlines())
        if len(line) > WIDEST
    ]
    assert not wide, f"visible code wraps beyond {WIDEST} characters: {wide}"


@every_recipe
def test_a_recipe_is_short_and_public(recipe: Cell) -> None:
    assert sum(bool(line.strip()) for line in recipe.code.splitlines()) <= MOST_LINES, recipe.place
    for node in ast.walk(ast.parse(recipe.code)):
        if isinstance(node, ast.Import):
            for name in (alias.name for alias in node.names):
                allowed = name in PUBLIC_MODULES if name.startswith("tslab") else name.split(".")[0] in PUBLIC
                assert allowed, f"{recipe.place} imports {name}"
        elif isinstance(node, ast.ImportFrom):
            module, names = node.module or "", {alias.name for alias in node.names}
            assert node.level == 0 and module.split(".")[0] in PUBLIC, f"{recipe.place} imports from {module}"
            if module == "tslab":
                assert names <= PUBLIC_NAMES, f"{recipe.place} imports {names} from tslab"
            elif module.startswith("tslab"):
                assert module in PUBLIC_MODULES, f"{recipe.place} imports from {module}"
            assert not any(name.startswith("_") or name == "*" for name in names), recipe.place
        elif isinstance(node, ast.Attribute):
            dunder = node.attr in ("__name__", "__init__")
            assert dunder or not node.attr.startswith("_"), f"{recipe.place} uses {node.attr}"


def test_every_part_of_the_book_is_run() -> None:
    assert {cell.chapter.split("/")[0] for cell in RECIPES} == {part for parts in PARTS for part in parts}


@every_recipe
def test_a_recipe_overwrites_nothing_of_its_chapter(recipe: Cell) -> None:
    """Its cell runs in the page, too: the cells after it must find what those before it made."""
    cells = CELLS[BOOK / f"{recipe.chapter}.md"]
    before = {name for cell in cells if cell.line < recipe.line for name in _bound(cell.code)}
    imported = {name for name in re.findall(r"^(?:from .*)?import .*?(\w+)$", recipe.code, re.MULTILINE)}
    anew = (_bound(recipe.code) | imported) & before
    assert not anew, f"{recipe.place} gives new values to {anew}, which the chapter has used before"


def _bound(code: str) -> set[str]:
    """The names that a cell gives a value to, apart from imports and what is bound inside functions."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            return
        if isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            return
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(code))
    return names - {"_"}


#: Runs recipes as a notebook would, each with a fresh namespace in an empty folder, and tells how each one ended.
READER = """
import json, os, sys, tempfile, warnings

recipes, extras = json.load(sys.stdin)
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
import plotly.io

shell = InteractiveShell.instance(colors="nocolor", cache_size=0)
plotly.io.renderers.default = "json"
ended = {}
for name, code, needs in recipes:
    blocked = [extra for extra in extras if extra not in needs and extra not in sys.modules]
    sys.modules.update(dict.fromkeys(blocked))  # None: import says that it is not there
    shell.reset(new_session=True)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as warned:
        os.chdir(folder)
        warnings.simplefilter("default")
        with capture_output() as shown:
            result = shell.run_cell(code)
        os.chdir("/")
    for extra in blocked:
        del sys.modules[extra]
    error = result.error_before_exec or result.error_in_exec
    ended[name] = {
        "error": error and f"{type(error).__name__}: {error}",
        "warnings": [f"{w.filename}:{w.lineno}: {w.message}" for w in warned],
        "stderr": shown.stderr,
        "shown": bool(shown.stdout.strip() or shown.outputs),
    }
json.dump(ended, sys.__stdout__)
"""


@pytest.mark.parametrize("parts", PARTS, ids="-".join)
def test_recipes_run_in_an_empty_session(parts: tuple[str, ...], tmp_path: Path) -> None:
    """Outside the checkout, without released files, and without the libraries that only extras bring."""
    recipes = [cell for cell in RECIPES if cell.chapter.split("/")[0] in parts]
    for extra in {extra for cell in recipes for extra in NEEDS.get(cell.chapter, ())}:
        pytest.importorskip(extra)
    empty = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path)}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TSLAB_")} | empty
    run = subprocess.run(
        [sys.executable, "-c", READER], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        input=json.dumps([[(cell.place, cell.code, NEEDS.get(cell.chapter, ())) for cell in recipes], EXTRAS + ONNX]),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    ended = json.loads(run.stdout[run.stdout.index("{") :])
    for place, end in ended.items():
        assert not end["error"], f"{place} fails in an empty session: {end['error']}"
        ours = [text for text in end["warnings"] if "tslab" in text or "ipython-input" in text]
        assert not ours, f"{place} warns: {ours}"
        assert not end["stderr"], f"{place} writes to stderr: {end['stderr']}"
        assert end["shown"], f"{place} shows nothing"
