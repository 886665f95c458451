"""The plan of the package: which room uses which, no circles, no private names across modules, a light import.

CONTRIBUTING.md draws the same map for people.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tslab"

#: Room -> its modules, as the first part of the name behind ``tslab.``; every module has one.
ROOMS = {
    "ground": ("_checks", "_numbers", "_files", "_geometry", "coords", "land", "strata", "earth"),
    "encoders": ("encoders",),
    "models": ("models", "losses"),
    "released": ("published", "released", "released_files"),
    "tasks": ("tasks", "synthetic"),
    "measures": ("metrics", "diagnostics", "evaluation", "_results", "baselines"),
    "training": ("training", "hyperparameters", "kriging"),
    "geobias": ("geobias",),
    "use": ("streaming", "_parquet", "exporting"),
    "show": ("plot", "widgets"),
    "benchmark": ("benchmark",),
}

#: What a room may use beside itself and the ground.
ALLOWED = {
    "ground": (),
    "encoders": ("released",),  # a released checkpoint that is missing says how to fetch it
    "models": ("encoders",),
    "released": ("encoders",),  # the published rows are named after encoders
    "tasks": ("released",),
    "measures": ("encoders", "models", "tasks"),
    "training": ("encoders", "models", "tasks", "measures"),
    "geobias": ("released", "measures"),
    "use": ("encoders", "models"),
    "show": ("encoders", "measures"),
    "benchmark": ("encoders", "released", "tasks", "measures", "training", "geobias"),
}


@cache
def modules() -> dict[str, Path]:
    named = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path for path in PACKAGE.rglob("*.py")
    }
    return {name.removesuffix(".__init__"): path for name, path in named.items()}


def room_of(module: str) -> str | None:
    """The room of a module; None for the package itself, which may name all of them."""
    parts = module.split(".")
    if len(parts) == 1:
        return None
    return next(room for room, names in ROOMS.items() if parts[1] in names)


def imports(module: str, *, inside_functions: bool = True) -> set[tuple[str, str]]:
    """(module of tslab, name taken from it or "") for each import of ``module``."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if inside_functions else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add((inner, "") if inner in modules() else (node.module, alias.name))
        elif isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
    return {(target, name) for target, name in found if target.split(".")[0] == "tslab"}


def test_every_module_has_a_room() -> None:
    homeless = {name for name in modules() if name.count(".") and name.split(".")[1] not in sum(ROOMS.values(), ())}
    assert not homeless
    assert set(ALLOWED) == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_uses_what_it_may(room: str) -> None:
    """Imports inside functions count too."""
    may = {room, "ground", *ALLOWED[room]}
    if room == "benchmark":
        may.add("")
    wrong = [
        f"{module} uses {target}"
        for module in sorted(modules())
        if room_of(module) == room
        for target, name in sorted(imports(module))
        if (used := room_of(target)) not in may
        and not (used is None and name == "__version__")
        and not (used is None and target == "tslab" and name == "")
    ]
    assert not wrong


def test_the_package_uses_nothing_of_the_book_or_of_scripts() -> None:
    for module, path in modules().items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        named |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not {name for name in named if name.split(".")[0] in ("tslab_book", "data_scripts", "tests")}, module


def test_no_module_imports_itself_through_others() -> None:
    """Imports inside functions count too, but for the package itself, whose names a program may need."""
    graph = {name: {target for target, _ in imports(name)} & set(modules()) - {"tslab"} for name in modules()}

    def reached(start: str) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            for target in graph[todo.pop()] - seen:
                seen.add(target)
                todo.append(target)
        return seen

    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    circles = sorted(name for name in graph if name not in packages and name in reached(name))
    assert not circles


def test_no_private_name_is_imported_from_another_module() -> None:
    private = [
        f"{module} takes {name} from {target}"
        for module in sorted(modules())
        for target, name in sorted(imports(module))
        if name.startswith("_") and not name.startswith("__")
    ]
    assert not private


def test_every_public_submodule_is_there_after_import_and_nothing_heavy_is() -> None:
    heavy_ones = (
        "plotly",
        "matplotlib",
        "sklearn",
        "dask",
        "onnx",
        "IPython",
        "pandas",
        "scipy",
        "shapely",
        "tslab.tasks",
    )
    program = (
        "import json, sys, tslab\n"
        "import torch; tslab.location_encoder('xyz', 4)(torch.zeros(1, 2))\n"
        f"heavy = [n for n in {heavy_ones} if n in sys.modules]\n"
        "import pkgutil\n"
        "names = [m.name for m in pkgutil.iter_modules(tslab.__path__) if not m.name.startswith('_')]\n"
        "missing = [n for n in (*names, *tslab.__all__) if getattr(tslab, n, None) is None or n not in dir(tslab)]\n"
        "print(json.dumps([heavy, missing, len(names)]))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy, missing, count = json.loads(answer.stdout)
    assert not heavy and not missing and count > 15


def test_modules_that_moved_are_found_by_their_old_names() -> None:
    import tslab
    import tslab_book.presence
    import tslab_book.sweeps

    assert tslab.sweeps is tslab_book.sweeps
    assert tslab.presence is tslab_book.presence
    assert tslab.fusion.PriorProduct is tslab.models.PriorProduct
