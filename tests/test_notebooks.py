"""The generated notebooks: current, free of outputs, and the parameterised ones run and repeat themselves.

The run is the one a reader makes: papermill executes the notebook outside the repository, then nbval
executes it again and compares the cells tagged ``nbval-check-output``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
sys.path.insert(0, str(BOOK))

import make_notebooks  # noqa: E402

NOTEBOOKS = sorted(make_notebooks.NOTEBOOKS.rglob("*.ipynb"))
#: What differs between two runs without meaning anything: addresses, ids, times.
SANITIZE = """\
[address]
regex: 0x[0-9a-f]+
replace: ADDRESS

[id]
regex: [0-9a-f]{32}
replace: ID

[time]
regex: [0-9]+\\.[0-9]+ ?m?s\\b
replace: TIME
"""


def _name(path: Path) -> str:
    return path.relative_to(make_notebooks.NOTEBOOKS).with_suffix("").as_posix()


def _cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


PARAMETERISED = [path for path in NOTEBOOKS if any("parameters" in c["metadata"].get("tags", []) for c in _cells(path))]


def test_notebooks_are_what_their_chapters_say() -> None:
    assert make_notebooks.main(["--check"]) == 0, "run `make notebooks` and commit the result"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=_name)
def test_notebook_is_clean_and_starts_by_installing(path: Path) -> None:
    code = [cell for cell in _cells(path) if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    first = "".join(code[0]["source"])
    assert 'find_spec("tslab") is None' in first and "enable_custom_widget_manager" in first


@pytest.mark.parametrize("path", NOTEBOOKS, ids=_name)
def test_notebook_installs_the_extras_that_its_code_imports(path: Path) -> None:
    """Every optional package that a cell imports comes with an extra that the first cell names."""
    code = ["".join(cell["source"]) for cell in _cells(path) if cell["cell_type"] == "code"]
    named = re.search(r"tslab\[([a-z,]+)\] @ git", code[0])
    extras = set(named[1].split(",")) if named else set()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extras <= set(project["optional-dependencies"])
    brought = {re.split("[<>=]", wish)[0] for extra in extras for wish in project["optional-dependencies"][extra]}
    always = {re.split("[<>=]", wish)[0] for wish in project["dependencies"]}
    always |= {"IPython", "tslab", "tslab_book", "__future__"}
    imported = set(re.findall(r"^ *(?:import|from) +(\w+)", "\n".join(code), flags=re.MULTILINE))
    imported = {"scikit-learn" if name == "sklearn" else name for name in imported} - set(sys.stdlib_module_names)
    assert imported - {"google"} <= always | brought


def test_needed_extras_are_seen_in_code() -> None:
    assert make_notebooks.needed_extras("tslab.exporting.export_onnx(encoder, path)") == ["onnx"]
    assert make_notebooks.needed_extras("import dask.dataframe\nimport geopandas") == ["geo", "sweep"]
    assert make_notebooks.needed_extras('tslab.fit_baseline("trees", task)') == ["ml"]
    assert make_notebooks.needed_extras("tslab.plot.static_map()") == ["maps"]
    assert make_notebooks.needed_extras("tslab.tune(task)  # hyper-parameters") == ["tune"]
    assert make_notebooks.needed_extras('plot.world_map(title="fine-tuning")') == []


def test_the_same_chapter_gives_the_same_notebook() -> None:
    for chapter in make_notebooks.executable_chapters():
        assert make_notebooks.notebook_text(chapter) == make_notebooks.notebook_text(chapter)


def test_the_install_cell_does_nothing_where_tslab_is_installed() -> None:
    code = make_notebooks.INSTALL_CELL.replace("subprocess.run(", "raise SystemExit(")
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("path", PARAMETERISED, ids=_name)
def test_parameterised_notebook_runs_and_repeats(path: Path, tmp_path: Path) -> None:
    papermill = pytest.importorskip("papermill", reason="papermill is not installed: pip install papermill")
    pytest.importorskip("nbval", reason="nbval is not installed: pip install nbval")
    work = tmp_path / "book" / "chapter"  # what a chapter writes beside itself stays in here
    work.mkdir(parents=True)
    executed = work / path.name
    papermill.execute_notebook(str(path), str(executed), cwd=str(work), progress_bar=False, log_output=False)
    (work / "sanitize.cfg").write_text(SANITIZE, encoding="utf-8")
    nbval = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env",
         "--nbval-sanitize-with", "sanitize.cfg", "-p", "no:cacheprovider", "-c", os.devnull,
         "--rootdir", str(tmp_path), executed.name],
        cwd=work, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert nbval.returncode == 0, nbval.stdout[-3000:] + nbval.stderr[-1000:]
