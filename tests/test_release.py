"""The release: what the wheel and the source distribution hold, and that the wheel works where the repository is not.

Everything is built and installed without a network: the environment of the wheel sees the packages of this one, but
not the editable tslab.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
#: The committed results, which an installed tslab carries.
RESULTS = ("book/results", "benchmarks/results")
NOTEBOOKS = ROOT / "book" / "notebooks"
#: One that reads them, and those with the rarest extras; all with TSLAB_EVERY_NOTEBOOK=1 (`make test-versions`).
TRIED = ["reproduction/audit", "work/at_scale", "work/export"]
if os.environ.get("TSLAB_EVERY_NOTEBOOK"):
    TRIED = [path.relative_to(NOTEBOOKS).with_suffix("").as_posix() for path in sorted(NOTEBOOKS.rglob("*.ipynb"))]
#: What the extras of tslab bring, as modules; an extra that a first cell does not name is not there for its notebook.
MODULES = {
    "geo": ["geopandas", "pyarrow", "pyogrio"],
    "maps": ["matplotlib", "cartopy"],
    "ml": ["sklearn"],
    "onnx": ["onnx", "onnxscript", "onnxruntime"],
    "sweep": ["dask", "distributed"],
    "tune": ["optuna"],
}
PROGRAM = """
import json, pathlib, sys
from importlib.machinery import PathFinder
from IPython.core.interactiveshell import InteractiveShell

class WithoutAbsent(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in sys.argv[2:] else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutAbsent
shell = InteractiveShell.instance()
for cell in json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        shell.run_cell("".join(cell["source"])).raise_error()
import tslab
print(tslab.__file__)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, the wheel made from the latter."""
    pytest.importorskip("build", reason="build is not installed: pip install build")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return out


@pytest.fixture(scope="session")
def clean_python(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment that has the wheel, and the packages of this one except tslab."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    python = Path(sysconfig.get_paths("venv", {"base": str(home)})["scripts"]) / "python"
    site = Path(sysconfig.get_paths(vars={"base": str(home)})["purelib"])
    wheel = next(built.glob("*.whl"))
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--target", str(site)]
    install = [sys.executable, "-m", "pip", "install", *options, str(wheel)]
    subprocess.run(install, check=True)
    # Added as a plain path: .pth files in there, such as that of the editable tslab, are not read.
    (site / "packages.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return python


def test_the_wheel_holds_the_package_and_the_code_of_the_book_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        metadata = wheel.read(next(name for name in names if name.endswith("METADATA"))).decode()
    files = {
        path.relative_to(home).as_posix()
        for home, package in ((ROOT, "tslab"), (ROOT / "book", "tslab_book"))
        for suffix in ("py", "json", "csv", "js", "css")
        for path in (home / package).rglob(f"*.{suffix}")
    }
    results = {f"tslab/data/results/{path.name}" for part in RESULTS for path in (ROOT / part).glob("*.*")}
    assert not (files | results | {"tslab/py.typed"}) - names
    strays = {name for name in names if not name.startswith(("tslab/", "tslab_book/", "tslab-"))}
    assert not strays
    assert "License-Expression: MIT" in metadata and any("licenses/LICENSE" in name for name in names)


def test_the_source_distribution_builds_itself_and_leaves_the_book_out(built: Path) -> None:
    """It holds what the wheel is made of; chapters and browser files stay in the repository."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE", "tslab/__init__.py"} <= names
    assert all(any(name.startswith(f"{folder}/") for name in names) for folder in RESULTS)
    assert "book/tslab_book/oddities.csv" in names
    wanted = (*RESULTS, "book/tslab_book")
    strays = [name for name in names if name.startswith(("book/", "benchmarks/")) and not name.startswith(wanted)]
    assert not strays


def test_the_wheel_is_the_same_from_the_checkout_and_from_the_source_distribution(built: Path, tmp_path: Path) -> None:
    """Built in a copy, so that no left-over of an earlier build gets in."""
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(
        ".*", "__pycache__", "_out", "_vendor", "build", "dist", "*.egg-info", "node_modules"
    )
    shutil.copytree(ROOT, checkout, ignore=ignored)
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", str(checkout)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert _contents(next(checkout.glob("dist/*.whl"))) == _contents(next(built.glob("*.whl")))


def test_the_names_of_the_files_carry_the_version(built: Path) -> None:
    import tslab

    stem = f"tslab-{tslab.__version__}"
    assert sorted(path.name for path in built.iterdir()) == [f"{stem}-py3-none-any.whl", f"{stem}.tar.gz"]


def test_the_wheel_works_outside_the_repository(clean_python: Path, tmp_path: Path) -> None:
    """Import, encode, land outline, published numbers, stored results, a synthetic task, a widget."""
    program = """
import json, pathlib, torch, tslab
from tslab.benchmark import read_cells
from tslab.widgets import explorer
places = torch.tensor([[36.82, -1.29], [179.9, -16.5]])
print(json.dumps({
    "home": str(pathlib.Path(tslab.__file__).resolve()),
    "shape": list(tslab.location_encoder("sphere2vec_sphereC+", embedding_dim=32)(places).shape),
    "land": tslab.earth.is_land(torch.tensor([[36.82, -1.29], [-30.0, 0.0]])).tolist(),
    "published": len(tslab.published_tables()),
    "cells": len(read_cells()),
    "rows": len(tslab.load_task("sphere_toy", source="synthetic").train),
    "script": len(explorer.script()),
}))
"""
    command, bare = [clean_python, "-c", program], _bare_environment(tmp_path)
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=bare)
    assert run.returncode == 0, run.stderr[-3000:]
    said = json.loads(run.stdout.splitlines()[-1])
    assert str(ROOT) not in said["home"]
    assert said["shape"] == [2, 32] and said["land"] == [True, False]
    assert said["published"] > 0 and said["cells"] == 652 and said["rows"] > 0 and said["script"] > 0


@pytest.mark.parametrize("name", TRIED)
def test_a_notebook_runs_with_the_wheel_and_the_extras_it_names(clean_python: Path, tmp_path: Path, name: str) -> None:
    """The cells of a generated notebook, in order, the installing one included, in a folder of their own."""
    notebook = NOTEBOOKS / f"{name}.ipynb"
    named = re.search(r"tslab\[([a-z,]+)\] @ git", notebook.read_text(encoding="utf-8"))
    extras = named[1].split(",") if named else []
    absent = [module for extra, modules in MODULES.items() if extra not in extras for module in modules]
    (tmp_path / "run.py").write_text(PROGRAM, encoding="utf-8")
    command, bare = [clean_python, "run.py", str(notebook), *absent], _bare_environment(tmp_path)
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=bare)
    assert run.returncode == 0, run.stdout[-1000:] + run.stderr[-3000:]
    assert str(ROOT) not in run.stdout.splitlines()[-1]


def _contents(wheel: Path) -> dict[str, int]:
    """Checksum of every file, without the list that the wheel keeps of itself."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            entry.filename: entry.CRC for entry in archive.infolist() if not entry.filename.endswith("dist-info/RECORD")
        }


def _bare_environment(home: Path) -> dict[str, str]:
    """No variable that leads to the repository or to released data."""
    return {"PATH": "/usr/bin:/bin", "HOME": str(home), "OMP_NUM_THREADS": "2", "PLOTLY_RENDERER": "json"}
