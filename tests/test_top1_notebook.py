"""The chapter on Table 1 runs through papermill, its numbers are compared by nbval, and the rules behind it
hold."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pandas as pd
import papermill
import pytest

from tslab.benchmark import (
    REASONS,
    VERDICTS,
    find_record,
    judge,
    read_cells,
    read_record,
    recompute_top1,
    standard_error,
    write_record,
)
from tslab.published import published_tables

REPOSITORY = Path(__file__).parents[1]
CHAPTER = REPOSITORY / "book" / "reproduction" / "top1.md"
RECORD = REPOSITORY / "book" / "results" / "top1.csv"

# --- rules ---------------------------------------------------------------


def test_standard_error_of_2262_images_is_085_points_at_79_percent():
    assert standard_error(79.0, 2262) == pytest.approx(0.856, abs=1e-3)
    assert standard_error(50.0, 10_000) == pytest.approx(0.5)
    assert standard_error(100.0, 50) == 0


def test_unknown_keys_are_named():
    with pytest.raises(ValueError, match="use one of birdsnap, "):
        recompute_top1(datasets=["mosaiks_population"])
    with pytest.raises(ValueError, match="must be a list"):
        recompute_top1(encoders="nerf")


# --- the record ----------------------------------------------------------


def record(**changes):
    """Two made-up cells."""
    table = pd.DataFrame(
        {
            "dataset": ["yfcc", "yfcc"],
            "encoder": ["nerf", "xyz"],
            "metric": "top1",
            "published": [51.27, 50.87],
            "recomputed": [50.5, math.nan],
            "low": [49.9, math.nan],
            "high": [51.2, math.nan],
            "n": pd.array([200, None], dtype="Int64"),
            "verdict": ["differs", "not released"],
            "note": ["another run", "no file"],
        }
    )
    return table.assign(**changes)


def test_a_record_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "top1.csv"
    assert write_record(record(), path) == "written"
    table, provenance = read_record(path)
    pd.testing.assert_frame_equal(table, record(), check_dtype=False)
    assert (provenance.files_read, provenance.rows_read) == (1, 200)
    assert "1 released files (200 rows)" in str(provenance)


def test_a_record_only_grows(tmp_path):
    path = tmp_path / "top1.csv"
    write_record(record(), path)
    before = path.read_bytes(), path.with_suffix(".json").read_bytes()
    assert write_record(record(), path) == "unchanged"
    assert write_record(record(recomputed=math.nan), path) == "kept"
    assert write_record(record().iloc[1:], path) == "kept"
    assert (path.read_bytes(), path.with_suffix(".json").read_bytes()) == before
    assert write_record(record(recomputed=[50.5, 50.8]), path) == "written"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["top1.csv", "top1.json"]


def test_a_missing_record_says_what_to_do(tmp_path):
    assert find_record("somewhere/top1.csv") == RECORD
    with pytest.raises(FileNotFoundError, match=re.escape("fetch_released.py")):
        find_record(tmp_path / "made_up.csv")


def test_the_committed_record_has_a_verdict_for_all_112_cells_and_published_numbers_as_printed():
    table, provenance = read_record(RECORD)
    columns = ["dataset", "encoder", "metric", "published", "recomputed", "low", "high", "n", "verdict", "note"]
    assert list(table.columns) == columns
    assert (table["encoder"] != "gpt4v").sum() == 112
    assert set(table["verdict"]) <= set(VERDICTS)
    assert set(table["note"]) <= set(REASONS)
    keys = ["dataset", "encoder", "metric"]
    printed = table[keys].merge(published_tables(), on=keys, how="left")["published"]
    assert (printed == table["published"]).all()
    assert table["recomputed"].notna().sum() == provenance.files_read
    assert table.loc[table["recomputed"].isna(), "verdict"].isin(["not released", "published only"]).all()


def test_the_committed_record_agrees_with_the_rules_and_with_the_record_of_the_audit():
    table, _ = read_record(RECORD)
    for cell in table[table["recomputed"].notna()].itertuples():
        ruled = judge("top1", cell.encoder, cell.published, cell.recomputed, cell.low, cell.high)
        assert (cell.verdict, cell.note) == ruled
    keys = ["dataset", "encoder", "metric"]
    both = table.merge(read_cells(), on=keys, suffixes=("", "_audit"))
    assert len(both) == len(table)
    assert (both["verdict"] == both["verdict_audit"]).all()
    assert (both["note"] == both["reason"]).drop(both.index[both["encoder"] == "gpt4v"]).all()
    assert (both["recomputed"] - both["recomputed_audit"]).abs().max() < 1e-4


@pytest.mark.mirror
def test_recomputing_from_the_release_gives_the_committed_record(mirror, tmp_path):
    assert write_record(recompute_top1(root=mirror), tmp_path / "top1.csv") == "written"
    assert (tmp_path / "top1.csv").read_bytes() == RECORD.read_bytes()


@pytest.mark.mirror
def test_the_image_model_is_reproduced_everywhere(mirror):
    table = recompute_top1(encoders=["no_prior"], root=mirror)
    assert (table["verdict"] == "reproduced").all() and len(table) == 7


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
    text = shown(run_chapter(tmp_path, monkeypatch, output=str(RECORD)))
    assert "The released files were not on the machine that ran this page" in text
    assert str(read_record(RECORD)[1]) in text
    assert "Of the 112 cells (7 datasets × 16 rows), **53 are reproduced**" in text
    assert (RECORD.read_bytes(), RECORD.with_suffix(".json").read_bytes()) == before


def test_a_wrong_data_folder_is_an_error_not_a_silent_fallback(tmp_path, monkeypatch):
    hide_released_files(tmp_path, monkeypatch)
    with pytest.raises(papermill.PapermillExecutionError, match="holds no released files"):
        run_chapter(tmp_path, monkeypatch, output=str(RECORD), data_root=str(tmp_path))


@pytest.mark.mirror
def test_recomputed_and_committed_numbers_agree_by_nbval(tmp_path, monkeypatch, mirror):
    monkeypatch.setenv("TSLAB_MIRROR", str(mirror))
    executed = run_chapter(tmp_path, monkeypatch, output=str(tmp_path / "top1.csv"))
    assert "**Recomputed now:**" in shown(executed)
    assert (tmp_path / "top1.csv").read_bytes() == RECORD.read_bytes()

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
            output=str(RECORD),
            datasets=["yfcc"],
            encoders=["no_prior", "nerf", "tile"],
        )
    )
    assert "Of the 3 cells (1 datasets × 3 rows)" in text and "was left as it is" in text
    assert RECORD.read_bytes() == before
