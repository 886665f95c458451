"""The record of the audit: 652 verdicts that follow from numbers by a rule."""

import math

import numpy as np
import pandas as pd
import pytest

from tslab.benchmark import REASONS, VERDICTS, ResultStore, audit, plan, read_cells, read_comparisons
from tslab.benchmark.cells import NUMBERS, SPECIES, cells_csv, table_of, with_verdicts, write_cells
from tslab.benchmark.recompute import measure_r2, measure_top1, top1_replicates
from tslab.benchmark.runs import TABLES
from tslab.published import published_tables

KEYS = ["dataset", "encoder", "metric"]


@pytest.fixture(scope="module")
def cells():
    return read_cells()


def test_every_metric_of_every_dataset_belongs_to_one_table():
    for metric, dataset in published_tables()[["metric", "dataset"]].drop_duplicates().itertuples(index=False):
        assert metric in TABLES[table_of(metric, dataset)][1]


# --- intervals -----------------------------------------------------------


def test_the_interval_of_a_share_has_the_width_of_the_binomial():
    samples = pd.DataFrame({"hit1": np.arange(10_000) < 7000})
    top1 = measure_top1(samples, "yfcc")
    assert top1.value == 70
    assert (top1.high - top1.low) / 2 == pytest.approx(1.96 * 100 * math.sqrt(0.7 * 0.3 / 10_000), rel=0.05)


def test_the_interval_of_r2_has_the_width_of_the_normal_theory():
    rng = np.random.default_rng(0)
    x = rng.normal(size=5000)
    samples = pd.DataFrame({"prediction": x, "label": x + rng.normal(size=5000)})
    r2 = measure_r2(samples)
    assert r2.value == pytest.approx(0.5, abs=0.03)
    # for a correlation r, R2 of the best prediction has a standard error of 2 r (1 - r^2) / sqrt(n)
    assert (r2.high - r2.low) / 2 == pytest.approx(1.96 * 2 * math.sqrt(0.5) * 0.5 / math.sqrt(5000), rel=0.15)


def test_the_two_birdsnap_rows_are_the_same_images_and_share_their_draws():
    assert (top1_replicates(1585, 2262, "birdsnap") == top1_replicates(1585, 2262, "birdsnap_ebird")).all()
    draws = np.corrcoef(top1_replicates(1000, 2000, "birdsnap"), top1_replicates(1000, 2000, "nabirds"))
    assert abs(draws[0, 1]) < 0.1


# --- the committed record ------------------------------------------------


def test_each_published_number_has_one_row_with_a_verdict_and_a_reason(cells):
    published = published_tables()
    assert len(cells) == len(published) == 652
    pd.testing.assert_frame_equal(cells[[*KEYS, "published"]], published[[*KEYS, "published"]], check_dtype=False)
    assert set(cells["verdict"]) <= set(VERDICTS)
    assert set(cells["reason"]) <= set(REASONS) - {"not computed"}
    assert cells["command"].str.startswith("python -m tslab.benchmark run --table ").all()


def test_verdicts_of_the_record_follow_from_its_numbers(cells):
    done = cells["recomputed"].notna()
    blank = cells.assign(noise=np.nan, verdict=cells["verdict"].mask(done), reason=cells["reason"].mask(done))
    again = with_verdicts(blank, read_comparisons())
    assert cells_csv(again) == cells_csv(cells)
    assert cells.loc[~done & (cells["encoder"] != "gpt4v"), "verdict"].eq("not released").all()
    assert cells.loc[cells["encoder"] == "gpt4v", "verdict"].eq("published only").all()
    assert (cells.loc[done, "noise"] >= 0.005).all() and cells.loc[~done, "noise"].isna().all()


def test_numbers_lie_inside_their_intervals(cells):
    done = cells[cells["recomputed"].notna()]
    inside = done["recomputed"].between(done["recomputed_low"], done["recomputed_high"])
    assert inside.all(), done[~inside]
    assert (done["n"] > 0).all() and (done["source"] != "").all()
    assert cells.loc[cells["recomputed"].isna(), "n"].isna().all()


def test_nothing_is_said_about_what_was_not_released(cells):
    sustainbench = cells[cells["dataset"].str.startswith("sustainbench")]
    assert len(sustainbench) == 96
    assert (sustainbench["reason"] == "no SustainBench files").all()
    average = cells[(cells["dataset"] == "avg_species") & (cells["encoder"] != "gpt4v")]
    assert average.set_index("encoder")["verdict"].value_counts().to_dict() == {
        "not released": 15,
        "reproduced": 1,
    }
    assert cells["retrained"].isna().all()  # the archive was not at hand


def test_a_cell_command_is_one_the_command_line_understands(cells):
    from tslab.benchmark.__main__ import _parser, _plan

    for command in cells["command"].drop_duplicates():
        arguments = _parser().parse_args(command.removeprefix("python -m tslab.benchmark ").split())
        assert len(_plan(arguments)) in (1, len(SPECIES))


def test_a_record_only_grows(tmp_path, cells):
    path = tmp_path / "cells.csv"
    assert write_cells(cells, path) == "written"
    before = path.read_bytes()
    assert write_cells(cells, path) == "unchanged"
    poorer = cells.assign(**dict.fromkeys(NUMBERS, np.nan))
    assert write_cells(poorer, path) == "kept" and path.read_bytes() == before
    pd.testing.assert_frame_equal(read_cells(path), cells)
    assert cells_csv(read_cells(path)) == before.decode()


def test_a_record_of_before_there_was_a_column_of_noise_is_read_and_renewed(tmp_path, cells):
    path = tmp_path / "cells.csv"
    cells.drop(columns="noise").to_csv(path, index=False)
    assert read_cells(path)["noise"].isna().all()
    assert write_cells(cells, path) == "written" and read_cells(path).equals(cells)


# --- from runs to the record ---------------------------------------------


def fake_store(folder, source="released", values=(80.0,), protocol="ours", **changes):
    """A store with made-up outcomes of nerf on yfcc, one for each value."""
    store, cell = ResultStore(folder), {"datasets": ["yfcc"], "encoders": ["nerf"]}
    for seed, value in enumerate(values):
        (spec,) = plan(["top1"], **cell, source=source, seeds=[seed], protocol=protocol)
        measured = {"value": value, "low": value - 1, "high": value + 1, "n": 100, "details": {}}
        outcome = {"metrics": {"top1": measured}, "reason": "", "file": "f.csv", "seconds": 1.0, "code": "x"}
        store.save(spec, outcome | changes)
    return store


def cell_of(table, dataset="yfcc", encoder="nerf", metric="top1"):
    rows = table.query("dataset == @dataset and encoder == @encoder and metric == @metric")
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_run_becomes_a_cell(tmp_path):
    cell = cell_of(audit(fake_store(tmp_path, values=[50.9])))
    assert (cell["recomputed"], cell["n"], cell["source"]) == (50.9, 100, "f.csv")
    assert (cell["verdict"], cell["reason"]) == ("another run", "another run")  # 51.27 was printed
    assert cell["noise"] == pytest.approx(100 * 1.96 * math.sqrt(1135) / 17798 + 0.005)


def test_without_a_second_encoder_nothing_says_how_far_apart_runs_are(tmp_path):
    cell = cell_of(audit(fake_store(tmp_path, values=[50.9]), read_comparisons()[:0]))
    assert (cell["verdict"], cell["reason"]) == ("undecided", "no second encoder") and math.isnan(cell["noise"])


def test_cells_without_a_run_say_so(tmp_path):
    table = audit(fake_store(tmp_path))
    assert cell_of(table, "fmow")["reason"] == "not computed"
    assert cell_of(table, "avg_species")["reason"] == "incomplete average"
    assert cell_of(table, encoder="gpt4v")["verdict"] == "published only"


def test_only_training_on_the_archive_counts_as_retrained(tmp_path):
    values = [50.0, 51.0, 52.0]
    trained = cell_of(audit(fake_store(tmp_path / "archive", "locbench", values)))
    half = 4.302653 / math.sqrt(3)  # Student's t, two degrees of freedom, standard deviation 1
    assert trained["retrained"] == 51
    assert trained["retrained_high"] - trained["retrained"] == pytest.approx(half, abs=1e-4)
    assert math.isnan(trained["recomputed"])
    for source in ("synthetic", "released"):
        assert math.isnan(cell_of(audit(fake_store(tmp_path / source, source, values[:1])))["retrained"])


def test_the_two_protocols_have_columns_of_their_own(tmp_path):
    fake_store(tmp_path, "locbench", [50.0, 51.0])
    store = fake_store(tmp_path, "locbench", [60.0, 61.0, 62.0], protocol="paper")
    table = audit(store)
    cell = cell_of(table)
    assert (cell["retrained"], cell["retrained_paper"]) == (50.5, 61)
    assert cell["retrained_paper_low"] < 61 < cell["retrained_paper_high"]
    path = tmp_path / "cells.csv"
    assert write_cells(table, path) == "written"
    assert cell_of(read_cells(path))["retrained_paper"] == 61
    ours = fake_store(tmp_path / "ours", "locbench", [50.0, 51.0])
    assert write_cells(audit(ours), path) == "kept"  # it holds no number of the paper's protocol
    assert "retrained_paper" not in cells_csv(audit(ours))


@pytest.mark.mirror
def test_top1_and_r2_of_the_record_come_out_again(mirror, tmp_path, cells):
    from tslab.benchmark import run_all

    chosen = ["no_prior", "nerf", "rbf"]
    specs = plan(["top1", "r2_mosaiks", "r2_sustainbench"], encoders=chosen)
    outcome = run_all(specs, tmp_path, root=mirror, progress=False)
    assert not outcome.failed
    again = audit(ResultStore(tmp_path))
    rows = again["encoder"].isin(chosen) & again["metric"].isin(["top1", "r2"])
    assert cells_csv(again[rows]) == cells_csv(cells[rows.to_numpy()])


@pytest.mark.mirror
@pytest.mark.slow
def test_geobias_of_the_record_comes_out_again(mirror, tmp_path, cells):
    from tslab.benchmark import run_all

    specs = plan(["geobias_classification"], datasets=["birdsnap"], encoders=["nerf"])
    specs += plan(["geobias_regression"], datasets=["mosaiks_elevation"], encoders=["xyz", "wrap"])
    run_all(specs, tmp_path, root=mirror, progress=False)
    again = audit(ResultStore(tmp_path))
    rows = again["metric"].str.startswith("geobias") & (again["reason"] != "not computed")
    committed = cells[rows.to_numpy()]
    assert rows.sum() > 5
    np.testing.assert_allclose(again.loc[rows, "recomputed"], committed["recomputed"], atol=2e-3)
    assert (again.loc[rows, "verdict"] == committed["verdict"].to_numpy()).all()
