"""The driver, its store, and the statistics of comparisons."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tslab import benchmark
from tslab.benchmark import (
    ResultStore,
    RunSpec,
    compare_hits,
    holm,
    mcnemar,
    paired_bootstrap,
    plan,
    rank_test,
    ranking_survival,
    read_cells,
    run_all,
)
from tslab.benchmark.__main__ import main
from tslab.benchmark.comparison import COMPARISONS

# --- which runs ----------------------------------------------------------


def test_the_plans_of_all_tables_cover_every_published_number_but_the_averages():
    covered = {
        (s.dataset, s.encoder, m) for table in benchmark.TABLES for s in plan([table]) for m in s.metrics
    }
    cells = read_cells()
    keys = set(cells[["dataset", "encoder", "metric"]].itertuples(index=False, name=None))
    assert {key for key in keys if key[0] != "avg_species"} <= covered


def test_names_of_runs_are_distinct():
    specs = plan(["top1", "r2_mosaiks"], source="synthetic", scale="tiny", seeds=range(2), epochs=1)
    specs += plan(["top1", "r2_mosaiks"]) + plan(["r2_mosaiks"], source="released-points", split="block")
    assert len({spec.name for spec in specs}) == len(specs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tables": ["top2"]}, "no table 'top2'; use one of top1"),
        ({"datasets": ["mosaiks_elevation"]}, "no dataset 'mosaiks_elevation'"),
        ({"datasets": "yfcc"}, "must be a list"),
        ({"encoders": ["nerv"]}, "no encoder 'nerv'"),
        ({"source": "archive"}, "no source 'archive'"),
        ({"source": "released-points"}, "nothing to run"),
    ],
)
def test_unknown_keys_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        plan(**({"tables": ["top1"]} | changes))


# --- the store -----------------------------------------------------------

SPEC = RunSpec("top1", "yfcc", "nerf")
OUTCOME = {"metrics": {}, "reason": "no file", "file": "", "seconds": 0.1, "code": "x"}


def test_an_outcome_comes_back_and_leaves_no_other_file(tmp_path):
    store = ResultStore(tmp_path)
    assert store.load(SPEC) is None
    store.save(SPEC, OUTCOME)
    assert store.load(SPEC)["reason"] == "no file"
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["top1-yfcc-nerf-released.json"]


def test_a_damaged_outcome_says_which_file_to_delete(tmp_path):
    store = ResultStore(tmp_path)
    store.save(SPEC, OUTCOME)
    store.path(SPEC).write_text("{")
    with pytest.raises(ValueError, match="delete it and run the same command again"):
        store.load(SPEC)


# --- the driver ----------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """Runs take no time and are counted; the first try of ``fails`` of them fails."""
    from tslab.benchmark import driver

    calls: list[RunSpec] = []
    fails: set[str] = set()

    def produce(spec, out, root=None, device="auto"):
        calls.append(spec)
        if spec.encoder in fails:
            fails.discard(spec.encoder)
            raise RuntimeError("out of luck")
        return OUTCOME

    monkeypatch.setattr(driver, "produce", produce)
    return calls, fails


def test_the_same_runs_twice_do_nothing_the_second_time(tmp_path, counted):
    calls, _ = counted
    specs = plan(["top1"], datasets=["yfcc"], encoders=["nerf", "xyz"])
    assert len(run_all(specs, tmp_path, progress=False).done) == 2
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    second = run_all(specs, tmp_path, progress=False)
    assert (len(second.skipped), len(second.done), len(calls)) == (2, 0, 2)
    assert second.stale == 2 and "--again" in str(second)  # these outcomes say that code "x" made them
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == before
    assert len(run_all(specs, tmp_path, progress=False, again=True).done) == 2


def test_a_failed_run_is_tried_again_and_does_not_stop_the_others(tmp_path, counted):
    calls, fails = counted
    specs = plan(["top1"], datasets=["yfcc"], encoders=["nerf", "xyz"])
    fails.add("nerf")
    outcome = run_all(specs, tmp_path, progress=False, retries=0)
    assert [s.encoder for s in outcome.done] == ["xyz"] and "out of luck" in str(outcome)
    fails.add("nerf")
    assert not run_all(specs, tmp_path, progress=False, retries=1).failed
    assert [s.encoder for s in calls] == ["nerf", "xyz", "nerf", "nerf"]


def test_the_manifest_says_what_a_folder_was_made_with(tmp_path, counted):
    run_all(plan(["top1"], datasets=["yfcc"]), tmp_path, progress=False, command="make it so")
    (entry,) = json.loads((tmp_path / "manifest.json").read_text())["commands"]
    assert entry["command"] == "make it so" and entry["runs"] == 17 and entry["seeds"] == [0]
    assert entry["code"].startswith("0.1.0+") and entry["environment"]["torch"]
    assert len(entry["data"]["released_files.csv"]) == 64


def test_missing_released_files_stop_with_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TSLAB_MIRROR", raising=False)
    monkeypatch.setenv("TSLAB_DATA", str(tmp_path / "empty"))
    words = ["run", "--table", "top1", "--datasets", "yfcc", "--out", str(tmp_path / "out"), "--quiet"]
    assert main(words) == 2
    assert "fetch_released.py" in capsys.readouterr().err


@pytest.mark.slow
def test_a_dask_cluster_does_the_same_runs(tmp_path):
    pytest.importorskip("distributed")
    specs = plan(["r2_sustainbench"], datasets=["sustainbench_women_bmi"], encoders=["nerf", "xyz"])
    outcome = run_all(specs, tmp_path, progress=False, dask="local")
    assert len(outcome.done) == 2 and not outcome.failed
    assert set(ResultStore(tmp_path).frame()["reason"]) == {"no SustainBench files"}


@pytest.mark.slow
def test_training_on_stand_ins_from_the_command_line_to_the_store(tmp_path, capsys):
    words = [
        "run",
        "--source",
        "synthetic",
        "--scale",
        "tiny",
        "--epochs",
        "1",
        "--quiet",
        "--out",
        str(tmp_path),
    ]
    words += ["--device", "cpu", "--encoders", "no_prior", "xyz", "baseline:knn"]
    table = ["--table", "top1", "geobias_classification", "--datasets", "birdsnap_ebird"]
    assert main([*words, *table]) == 0
    assert main([*words, "--table", "r2_mosaiks", "--datasets", "mosaiks_elevation"]) == 0
    runs = ResultStore(tmp_path).frame().set_index(["table", "encoder", "metric"])
    assert runs.loc["top1", "value"].between(0, 100).all()
    assert runs.loc["r2_mosaiks", "value"].notna().all()
    assert len(list((tmp_path / "samples").glob("*.csv.gz"))) == 6  # top1 and geo-bias share theirs
    capsys.readouterr()
    assert main([*words, *table]) == 0
    assert "0 runs done, 6 were there already, 0 failed" in capsys.readouterr().out


# --- comparisons ---------------------------------------------------------


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (5, 5), (3, 12), (40, 60)])
def test_mcnemar_is_the_sign_test_of_the_discordant_rows(only_a, only_b):
    total = only_a + only_b
    tail = sum(math.comb(total, i) for i in range(min(only_a, only_b) + 1)) / 2**total
    assert mcnemar(only_a, only_b) == pytest.approx(min(1, 2 * tail))
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a)


def test_holm_agrees_with_its_definition():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])


def test_identical_models_never_differ_and_a_better_one_does():
    rng = np.random.default_rng(0)
    a = rng.random(4000) < 0.7
    better = a | (rng.random(4000) < 0.1)
    table = compare_hits({"a": a, "copy": a, "better": better}).set_index(["a", "b"])
    assert table.loc[("a", "copy"), "p_holm"] == 1
    assert table.loc[("a", "better"), "p_holm"] < 1e-6 and table.loc[("a", "better"), "difference"] < 0
    assert (table["difference"] == 100 * (table["only_a"] - table["only_b"]) / 4000).all()
    with pytest.raises(ValueError, match="same rows"):
        compare_hits({"a": a, "short": a[1:]})


def test_the_paired_bootstrap_sees_a_difference_that_two_intervals_hide():
    rng = np.random.default_rng(1)
    label = rng.normal(size=2000)
    noise = rng.normal(size=2000)
    a = pd.DataFrame({"label": label, "prediction": label + noise * 0.60})
    b = pd.DataFrame({"label": label, "prediction": label + noise * 0.61})
    difference, low, high, p = paired_bootstrap(a, b, replicates=500)
    assert 0 < low < difference < high and p < 0.01
    alone = benchmark.measure(a, ("r2",), "")["r2"]
    assert alone.low < benchmark.measure(b, ("r2",), "")["r2"].value < alone.value
    same = paired_bootstrap(a, a, replicates=50)
    assert same[:3] == (0, 0, 0) and same[3] == 1
    with pytest.raises(ValueError, match="same rows"):
        paired_bootstrap(a, b.iloc[::-1])


def test_the_critical_difference_is_nemenyis():
    # Demsar (2006), table 5: q is 2.569 for 4 methods at 0.05; with 14 datasets the difference is 1.25
    scores = pd.DataFrame(np.random.default_rng(0).random((4, 14)), index=list("abcd"))
    test = rank_test(scores)
    assert test.critical_difference == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), abs=2e-3)
    assert test.critical_difference == pytest.approx(1.25, abs=5e-3)
    assert test.p == pytest.approx(stats.friedmanchisquare(*scores.to_numpy()).pvalue)
    assert test.ranks.sum() == pytest.approx(10)


def test_groups_are_maximal_and_a_clear_winner_stands_alone():
    scores = pd.DataFrame({d: [4.0, 3, 2, 1] for d in range(40)}, index=list("abcd"))
    test = rank_test(scores)
    assert list(test.ranks) == [1, 2, 3, 4] and test.groups == ()
    alike = pd.DataFrame(np.random.default_rng(3).random((4, 5)), index=list("abcd"))
    assert len(rank_test(alike).groups) == 1 and len(rank_test(alike).groups[0]) == 4
    with pytest.raises(ValueError, match="at least three methods"):
        rank_test(scores.iloc[:2])


def test_survival_counts_pairs(tmp_path):
    cells = pd.DataFrame(
        {
            "metric": "top1",
            "dataset": "yfcc",
            "encoder": ["a", "b", "c"],
            "published": [3.0, 2.0, 1.0],
            "recomputed": [3.0, 1.0, 2.0],
        }
    )
    pairs = pd.DataFrame(
        {
            "dataset": "yfcc",
            "a": ["a", "a", "b"],
            "b": ["b", "c", "c"],
            "difference": [2.0, 1.0, -1.0],
            "p_holm": [0.01, 0.2, 0.03],
        }
    )
    (row,) = ranking_survival(cells, pairs).to_dict("records")
    assert (row["pairs"], row["same"], row["significant"], row["contradicted"]) == (3, 2, 1, 1)
    assert row["leader_recomputed"] == "a" and row["tied_with"] == 1


@pytest.mark.mirror
def test_the_committed_comparisons_come_out_again(mirror, tmp_path):
    committed = benchmark.find_record(COMPARISONS)
    benchmark.write_comparisons(benchmark.compare_released(root=mirror), tmp_path / COMPARISONS)
    assert (tmp_path / COMPARISONS).read_bytes() == committed.read_bytes()


# --- the record travels with the package ---------------------------------


@pytest.mark.slow
def test_a_built_package_carries_the_committed_records(tmp_path):
    import subprocess
    import sys

    repository = Path(__file__).parents[1]
    script = (
        "import sys; sys.argv = ['setup.py', '-q', 'build', '--build-base', sys.argv[1]]\n"
        "exec(compile(open('setup.py').read(), 'setup.py', 'exec'), {'__file__': 'setup.py', '__name__': '__main__'})"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "build")]
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (built,) = (tmp_path / "build").rglob("tslab/data/results")
    originals = {file.name: file.read_bytes() for file in repository.glob("*/results/*.*")}
    assert {file.name: file.read_bytes() for file in built.iterdir()} == originals
    # and what is built finds them where there is no repository around
    elsewhere = "from tslab.benchmark import read_cells, find_record; print(len(read_cells()), find_record('top1.csv'))"
    answer = subprocess.run(
        [sys.executable, "-c", elsewhere],
        cwd=tmp_path,
        env={"PYTHONPATH": str(built.parents[2]), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == ["652", str(built / "top1.csv")]
