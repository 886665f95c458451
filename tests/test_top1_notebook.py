"""The chapter on Table 1 runs through papermill, its numbers are compared by nbval, and the rules behind it
hold."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import papermill
import pytest

from tslab.benchmark import find_record, read_cells
from tslab.benchmark.cells import cells_csv
from tslab.benchmark.recompute import located_images
from tslab.released_files import ReleasedFilesMissingError
from tslab_book.records import computed_on, read_record, recompute_or_read
from tslab_book.table1 import standard_error, table1

REPOSITORY = Path(__file__).parents[1]
CHAPTER = REPOSITORY / "book" / "reproduction" / "top1.md"
RECORD = REPOSITORY / "book" / "results" / "cells.csv"

# --- rules ---------------------------------------------------------------


def test_standard_error_of_2262_images_is_085_points_at_79_percent():
    assert standard_error(79.0, 2262) == pytest.approx(0.856, abs=1e-3)
    assert standard_error(50.0, 10_000) == pytest.approx(0.5)
    assert standard_error(100.0, 50) == 0


def test_unknown_keys_are_named():
    with pytest.raises(ValueError, match="use one of birdsnap, "):
        table1(datasets=["mosaiks_population"])
    with pytest.raises(ValueError, match="must be a list"):
        table1(encoders="nerf")


# --- the record ----------------------------------------------------------


def test_a_missing_record_says_what_to_do(tmp_path):
    assert find_record("somewhere/cells.csv") == RECORD
    with pytest.raises(FileNotFoundError, match=re.escape("fetch_released.py")):
        find_record(tmp_path / "made_up.csv")


def test_a_record_says_where_it_comes_from(tmp_path):
    (tmp_path / "mine.csv").write_text("a,b\n0.1,2\n")
    assert "computed earlier" in read_record(tmp_path / "mine.csv").origin
    about = '{"date": "2026-01-02", "tslab": "1", "repository": "someone/something", "release": "0123456789abcdef"}'
    (tmp_path / "mine.json").write_text(about)
    record = read_record(tmp_path / "mine.csv")
    assert record.data["a"].tolist() == [0.1] and not record.recomputed
    assert (
        "computed on 2026-01-02 with tslab 1 from the released files of someone/something, commit 0123456789."
        in record.origin
    )
    (tmp_path / "mine.json").write_text(about[:-4])
    with pytest.raises(ValueError, match=re.escape("mine.json is damaged")):
        read_record(tmp_path / "mine.csv")


def test_numbers_are_recomputed_where_the_files_are_and_read_where_not():
    def missing():
        raise ReleasedFilesMissingError("not here")

    now = recompute_or_read("splits.csv", lambda: 7)
    assert (now.data, now.recomputed) == (7, True) and "Recomputed now" in now.origin
    read = recompute_or_read("splits.csv", missing, len)
    assert not read.recomputed and read.data > 5 and "were not on the machine" in read.origin
    assert read.about["places"] == 53487


def test_reproduced_is_what_prints_as_published(tmp_path, monkeypatch):
    hide_released_files(tmp_path, monkeypatch)
    cells = table1().cells
    done = cells[cells["recomputed"].notna()]
    prints_alike = done["recomputed"].map("{:.2f}".format) == done["published"].map("{:.2f}".format)
    assert (prints_alike == (done["verdict"] == "reproduced")).all() and prints_alike.sum() == 53


@pytest.mark.mirror
def test_recomputing_from_the_release_gives_the_committed_record(mirror):
    again, committed = table1(root=mirror), read_cells()
    assert again.recomputed and len(again.cells) == 119
    rows = (committed["metric"] == "top1") & (committed["dataset"] != "avg_species")
    assert cells_csv(again.cells) == cells_csv(committed[rows])
    assert located_images(mirror) == read_record(RECORD).about["located"]


@pytest.mark.mirror
def test_the_image_model_is_reproduced_everywhere(mirror):
    cells = table1(encoders=["no_prior"], root=mirror).cells
    assert (cells["verdict"] == "reproduced").all() and len(cells) == 7


# --- the notebook --------------------------------------------------------


def run_chapter(folder, monkeypatch, **parameters):
    """Execute the chapter with papermill; returns the path of the executed notebook."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    source, executed = folder / "top1.ipynb", folder / "executed.ipynb"
    nbformat.write(jupytext.read(CHAPTER), source)
    papermill.execute_notebook(
        str(source),
        str(executed),
        parameters=parameters,
        kernel_name="python3",
        progress_bar=False,
        cwd=str(folder),
    )
    return executed


def hide_released_files(folder, monkeypatch):
    monkeypatch.delenv("TSLAB_MIRROR", raising=False)
    monkeypatch.setenv("TSLAB_DATA", str(folder / "empty"))


def shown(executed):
    """All text and Markdown that the notebook shows."""
    outputs = [out for cell in nbformat.read(executed, 4).cells for out in cell.get("outputs", [])]
    return "\n".join(str(out.get("text") or out.get("data", {}).get("text/markdown", "")) for out in outputs)


def nbval(notebook):
    """Run the notebook again and compare the outputs of the cells marked for comparison."""
    (notebook.parent / "pytest.ini").write_text("[pytest]\n")
    (notebook.parent / "sanitize.cfg").write_text("[addresses]\nregex: 0x[0-9a-f]+\nreplace: ADDRESS\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax"]
    command += ["--nbval-sanitize-with", "sanitize.cfg", notebook.name]
    return subprocess.run(
        command, cwd=notebook.parent, env={**os.environ, "PYTEST_ADDOPTS": ""}, capture_output=True, text=True
    )


def test_without_released_files_the_chapter_shows_the_committed_record_and_says_so(tmp_path, monkeypatch):
    hide_released_files(tmp_path, monkeypatch)
    before = RECORD.read_bytes(), RECORD.with_suffix(".json").read_bytes()
    text = shown(run_chapter(tmp_path, monkeypatch))
    assert "The released files were not on the machine that ran this page" in text
    assert computed_on(read_record(RECORD).about) in text
    assert "Of the 112 cells (7 datasets × 16 rows), **53 are reproduced**" in text
    assert (RECORD.read_bytes(), RECORD.with_suffix(".json").read_bytes()) == before


def test_a_wrong_data_folder_is_an_error_not_a_silent_fallback(tmp_path, monkeypatch):
    hide_released_files(tmp_path, monkeypatch)
    with pytest.raises(papermill.PapermillExecutionError, match="holds no released files"):
        run_chapter(tmp_path, monkeypatch, data_root=str(tmp_path))


@pytest.mark.mirror
def test_recomputed_and_committed_numbers_agree_by_nbval(tmp_path, monkeypatch, mirror):
    monkeypatch.setenv("TSLAB_MIRROR", str(mirror))
    executed = run_chapter(tmp_path, monkeypatch)
    assert "**Recomputed now**" in shown(executed)

    hide_released_files(tmp_path, monkeypatch)  # nbval runs it from the record: same numbers
    result = nbval(executed)
    assert result.returncode == 0, result.stdout

    notebook = nbformat.read(executed, 4)
    notebook.cells[-1].outputs[0]["text"] = notebook.cells[-1].outputs[0]["text"].replace("70.07", "70.17", 1)
    nbformat.write(notebook, executed)
    result = nbval(executed)
    assert result.returncode == 1 and "70.17" in result.stdout  # a changed number is noticed


@pytest.mark.mirror
def test_a_subset_runs_and_does_not_shrink_the_record(tmp_path, monkeypatch, mirror):
    monkeypatch.setenv("TSLAB_MIRROR", str(mirror))
    before = RECORD.read_bytes()
    text = shown(
        run_chapter(
            tmp_path,
            monkeypatch,
            datasets=["yfcc"],
            encoders=["no_prior", "nerf", "tile"],
        )
    )
    assert "Of the 3 cells (1 datasets × 3 rows)" in text
    assert RECORD.read_bytes() == before
