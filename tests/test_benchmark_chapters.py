"""The reproduction chapters run, from the committed record and through training on stand-ins, and repeat themselves."""

import os
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import papermill
import pytest

from tslab.benchmark import TABLES, read_cells
from tslab.published import published_tables
from tslab_book.oddities import GROUPS, read_oddities
from tslab_book.reproduction import (
    BOLD,
    cell_table,
    geobias_as_printed,
    geobias_noise,
    over_no_prior,
    reproduce,
    species_averages,
    verdict_sentence,
)

BOOK = Path(__file__).parents[1] / "book" / "reproduction"
TABLE_CHAPTERS = ["r2_mosaiks", "r2_sustainbench", "geobias_classification", "geobias_regression"]
CHAPTERS = [*TABLE_CHAPTERS, "rankings", "audit", "fair_table", "leaderboard"]


@pytest.fixture
def without_released_files(tmp_path, monkeypatch):
    monkeypatch.delenv("TSLAB_MIRROR", raising=False)
    monkeypatch.setenv("TSLAB_DATA", str(tmp_path / "empty"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def run_chapter(name, folder, **parameters):
    source, executed = folder / f"{name}.ipynb", folder / f"{name}-executed.ipynb"
    nbformat.write(jupytext.read(BOOK / f"{name}.md"), source)
    papermill.execute_notebook(
        str(source),
        str(executed),
        parameters=parameters,
        kernel_name="python3",
        progress_bar=False,
        cwd=str(folder),
    )
    return executed


def shown(executed):
    """All text and Markdown that the notebook shows."""
    outputs = [out for cell in nbformat.read(executed, 4).cells for out in cell.get("outputs", [])]
    return "\n".join(str(out.get("text") or out.get("data", {}).get("text/markdown", "")) for out in outputs)


# --- the shared call -----------------------------------------------------


@pytest.mark.parametrize("table", [key for key in TABLES if key != "r2_sustainbench"])
def test_without_released_files_the_record_is_shown_and_said_so(table, without_released_files):
    result = reproduce(table, encoders=["nerf", "xyz"])
    assert not result.recomputed and "The released files were not on the machine that ran this page" in result.origin
    datasets, metrics = TABLES[table]
    assert len(result.cells) == 2 * len(datasets) * len(metrics)


def test_sustainbench_has_nothing_to_recompute_from(without_released_files):
    result = reproduce("r2_sustainbench")
    assert "There is nothing to recompute from" in result.origin
    assert len(result.cells) == 96 and result.cells["recomputed"].isna().all()


@pytest.mark.mirror
def test_recomputed_cells_are_those_of_the_record(mirror):
    result = reproduce("r2_mosaiks", datasets=["mosaiks_forest_cover"], encoders=["nerf", "tile"], data_root=mirror)
    assert result.recomputed and "Recomputed now" in result.origin
    keys = ["dataset", "encoder", "metric"]
    both = result.cells.merge(read_cells(), on=keys, suffixes=("", "_record"))
    assert (both["verdict"] == both["verdict_record"]).all() and len(both) == 2


def test_the_sentence_counts_every_cell():
    cells = read_cells()
    sentence = verdict_sentence(cells)
    assert sentence.startswith("Of the 652 cells, ")
    assert sum(int(word) for word in sentence.split("**")[1::2]) == 652


def test_there_are_35_oddities_each_in_a_group_with_what_tslab_does():
    oddities = read_oddities()
    assert len(oddities) == len(oddities[["where", "what"]].drop_duplicates()) == 35
    assert set(oddities["group"]) == set(GROUPS)
    assert not oddities.isna().any(axis=None)


def test_the_board_keeps_published_and_recomputed_apart():
    from tslab_book.leaderboard import leaderboard

    board = leaderboard()
    published = board[board["source"] == "published"]
    assert (published["value"].to_numpy() == published_tables()["published"].to_numpy()).all()
    assert published["low"].isna().all()
    recomputed = board[board["source"] == "recomputed"]
    assert len(recomputed) == read_cells()["recomputed"].notna().sum()


def test_bold_is_what_lies_more_than_30_percent_above_no_prior():
    cells = read_cells().set_index(["dataset", "encoder", "metric"], drop=False)
    over = over_no_prior(cells)
    assert over["inat2018", "wrap", "geobias_base"] == pytest.approx(30.78 / 18.20 - 1)
    assert (over.xs("no_prior", level="encoder").dropna() == 0).all()
    assert over[cells["metric"] == "top1"].isna().all()


def test_the_tables_of_the_slides_are_bold_where_the_rule_says():
    cells = read_cells()
    over = over_no_prior(cells)
    for metric in ("geobias_base", "geobias_relative"):
        table = geobias_as_printed(cells, metric)
        assert table.count("**") == 2 * ((over > BOLD) & (cells["metric"] == metric)).sum() > 0
    base = geobias_as_printed(cells, "geobias_base").splitlines()
    assert base[0].startswith("| Row | BirdSnap | BirdSnap† | NABirds† |") and len(base) == 2 + 17
    (theory,) = [line for line in base if line.startswith("| Space2Vec-theory")]
    assert "| **36.78** |" in theory and "| 382.49 |" in theory  # 36.78 is 30.3 % above 28.22


def test_noise_of_geobias_is_stated_for_every_column():
    cells = read_cells()
    rows = geobias_noise(cells[cells["metric"].str.startswith("geobias")]).splitlines()[2:]
    assert len(rows) == 20
    (fmow,) = [row for row in rows if row.startswith("| fMoW | base")]
    assert "375.43 … 382.49 (7.06)" in fmow and fmow.endswith("| 0 | 15 | 0 |")


def test_the_average_column_is_taken_apart_by_split():
    averages = species_averages(read_cells())
    alone = averages.loc["no_prior"]
    assert alone["printed"] == pytest.approx(alone["five"], abs=0.005)
    assert alone["test"] == pytest.approx((70.07 + 70.07 + 76.08) / 3)
    assert alone["validation"] == pytest.approx((63.27 + 60.20) / 2)
    assert alone["five"] == pytest.approx((3 * alone["test"] + 2 * alone["validation"]) / 5)
    assert averages["test_recomputed"].drop("gpt4v").notna().all()


def test_the_species_average_is_over_test_and_validation_rows():
    from tslab_book.leaderboard import leaderboard

    split = leaderboard().drop_duplicates("dataset").set_index("dataset")["split"]
    assert split["birdsnap"] == split["nabirds"] == "test"
    assert split["inat2017"] == split["inat2018"] == "validation"
    assert split["avg_species"] == "test and validation"


# --- the chapters --------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAPTERS)
def test_chapters_run_from_the_record(name, tmp_path, without_released_files):
    text = shown(run_chapter(name, tmp_path))
    if name in TABLE_CHAPTERS:
        assert "committed record" in text
    if name == "audit":
        assert "Of the 652 cells" in text and "We found 35" in text


@pytest.mark.parametrize("name", ["r2_mosaiks", "geobias_classification"])
def test_training_on_stand_ins_runs_through_papermill(name, tmp_path, without_released_files):
    dataset = "mosaiks_elevation" if name == "r2_mosaiks" else "birdsnap_ebird"
    executed = run_chapter(
        name,
        tmp_path,
        datasets=[dataset],
        encoders=["xyz", "nerf"],
        source="synthetic",
        scale="tiny",
        epochs=1,
    )
    text = shown(executed)
    assert "Synthetic stand-ins" in text and "committed record" in text


@pytest.mark.slow
def test_an_encoder_of_ones_own_gets_a_row(tmp_path, without_released_files):
    text = shown(run_chapter("add_your_encoder", tmp_path, epochs=1))
    assert "3 runs done, 0 were there already, 0 failed" in text
    assert "0 runs done, 3 were there already, 0 failed" in text
    assert "['baseline:trees', 'fibonacci_bumps', 'xyz'] True" in text


def test_nbval_finds_the_same_numbers_again_and_notices_a_changed_one(tmp_path, without_released_files):
    executed = run_chapter("r2_mosaiks", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", executed.name]
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout
    notebook = nbformat.read(executed, 4)
    output = notebook.cells[-1].outputs[0]
    cells = read_cells().set_index(["dataset", "encoder", "metric"])["recomputed"]
    right = f"mosaiks_elevation nerf r2 0.76 {round(cells['mosaiks_elevation', 'nerf', 'r2'], 3)}\n"
    wrong = right[:-1] + "1\n"
    assert right in output["text"]
    output["text"] = output["text"].replace(right, wrong)
    nbformat.write(notebook, executed)
    changed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert changed.returncode == 1 and "mismatch 'stdout'" in changed.stdout
    assert wrong.split(" r2 ")[1].strip() in changed.stdout  # the difference is shown


@pytest.mark.parametrize("metric", ["top1", "r2", "geobias_base"])
def test_the_table_of_cells_shows_every_metric_in_its_own_digits(metric: str) -> None:
    cells = read_cells()
    shown = repr(cell_table(cells[cells["metric"] == metric], "Cells"))
    assert ("Over no prior" in shown) == metric.startswith("geobias")
