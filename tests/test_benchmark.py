"""The driver, its store, and the statistics of comparisons."""

import json
import math
import os
import threading
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
    read_cells,
    run_all,
)
from tslab.benchmark.__main__ import main
from tslab.benchmark.comparison import COMPARISONS
from tslab_book.leaderboard import leaderboard, seed_means
from tslab_book.rankings import rank_test, ranking_survival
from tslab_book.table1 import standard_error

# --- which runs ----------------------------------------------------------


def test_the_plans_of_all_tables_cover_every_published_number_but_the_averages():
    covered = {(s.dataset, s.encoder, m) for table in benchmark.TABLES for s in plan([table]) for m in s.metrics}
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
        ({"source": "synthetic", "scale": "huge"}, "no scale 'huge'"),
        ({"source": "synthetic", "split": "block"}, "of source 'released-points', not of 'synthetic'"),
        ({"split": "blocks"}, "no split 'blocks'"),
        ({"protocol": "paper"}, "of source 'locbench', not of 'released'"),
        ({"source": "locbench", "protocol": "thiers"}, "no protocol 'thiers'"),
        ({"encoders": ["baseline:forest"]}, "no encoder 'baseline:forest'"),
        ({"encoders": []}, "nothing to run"),
        ({"seeds": []}, "seeds are empty"),
        ({"seeds": [-1]}, "seed must be a finite number at least 0"),
        ({"source": "synthetic", "epochs": 0}, "epochs must be a finite number at least 1"),
        ({"source": "synthetic", "epochs": 1.5}, "epochs must be a whole number"),
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


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"spec": {}}', '{"spec": 3, "metrics": {}}', b"\xff\xfe", "copy of another run"],
)
def test_one_damaged_outcome_is_named_and_the_others_are_read(tmp_path, content):
    store = ResultStore(tmp_path)
    for encoder in ("nerf", "xyz", "rbf"):
        store.save(RunSpec("top1", "yfcc", encoder), OUTCOME)
    path = store.path(SPEC)
    if content == "copy of another run":
        content = store.path(RunSpec("top1", "yfcc", "xyz")).read_text()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.warns(UserWarning, match=path.name):
        table = store.frame()
    assert sorted(table["encoder"]) == ["rbf", "xyz"]


@pytest.mark.parametrize("field", ["metrics", "seconds", "code", "spec"])
def test_an_outcome_without_a_field_is_damaged(tmp_path, field):
    store = ResultStore(tmp_path)
    store.save(SPEC, OUTCOME)
    content = json.loads(store.path(SPEC).read_text())
    del content[field]
    store.path(SPEC).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=field):
        store.load(SPEC)


def test_a_run_that_was_kept_before_there_were_protocols_is_found(tmp_path):
    store, spec = ResultStore(tmp_path), RunSpec("top1", "yfcc", "nerf", "locbench")
    store.save(spec, OUTCOME)
    content = json.loads(store.path(spec).read_text())
    del content["spec"]["protocol"]
    store.path(spec).write_text(json.dumps(content))
    assert store.load(spec)["code"] == "x"
    assert store.frame()["protocol"].tolist() == ["ours"]
    assert store.load(RunSpec("top1", "yfcc", "nerf", "locbench", protocol="paper")) is None


def test_two_commands_at_once_both_stand_in_the_manifest(tmp_path):
    def many(name):
        for i in range(10):
            ResultStore(tmp_path).write_manifest([SPEC], f"{name} {i}")

    threads = [threading.Thread(target=many, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    commands = [entry["command"] for entry in json.loads((tmp_path / "manifest.json").read_text())["commands"]]
    assert sorted(commands) == sorted(f"{name} {i}" for name in "abcd" for i in range(10))


def test_a_damaged_manifest_is_set_aside_not_lost(tmp_path):
    (tmp_path / "manifest.json").write_text('{"commands": [1, 2')
    with pytest.warns(UserWarning, match="set aside"):
        ResultStore(tmp_path).write_manifest([SPEC], "x")
    (aside,) = tmp_path.glob("manifest-damaged-*.json")
    assert aside.read_text() == '{"commands": [1, 2'
    assert len(json.loads((tmp_path / "manifest.json").read_text())["commands"]) == 1


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


def test_a_damaged_outcome_fails_and_the_others_are_done(tmp_path, counted):
    specs = plan(["top1"], datasets=["yfcc"], encoders=["nerf", "xyz"])
    run_all(specs, tmp_path, progress=False)
    path = ResultStore(tmp_path).path(specs[0])
    path.write_text(path.read_text()[:40])
    outcome = run_all([*specs, *plan(["top1"], datasets=["yfcc"], encoders=["rbf"])], tmp_path, progress=False)
    assert [s.encoder for s in outcome.skipped] == ["xyz"] and [s.encoder for s in outcome.done] == ["rbf"]
    assert path.name in str(outcome) and "delete it" in str(outcome)
    assert not run_all(specs, tmp_path, progress=False, again=True).failed


def test_a_full_disk_is_said_for_each_run(tmp_path, counted, monkeypatch):
    import errno

    from tslab import _files

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    specs = plan(["top1"], datasets=["yfcc"], encoders=["nerf"])
    ResultStore(tmp_path).write_manifest(specs, "before the disk was full")
    monkeypatch.setattr(ResultStore, "write_manifest", lambda *_: None)
    monkeypatch.setattr(_files.os, "replace", full)
    outcome = run_all(specs, tmp_path, progress=False)
    assert "no space left to write" in str(outcome) and not list(tmp_path.rglob("*nerf*"))


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--retries", "-1"], "retries"),
        (["--epochs", "0"], "epochs"),
        (["--seeds", "0"], "--seeds"),
        (["--seeds", "-2"], "--seeds"),
        (["--first-seed", "-1"], "--first-seed"),
        (["--workers", "0", "--dask", "local"], "workers"),
        (["--dask", "locl"], "locl"),
        (["--device", "gpu"], "gpu"),
        (["--import", "no_such_module"], "no_such_module"),
        (["--import", "breaks"], "on purpose"),
        (["--import", "leaves"], "leaves"),
        (["--import", "breaks.py"], "not its file"),
        (["--encoders", "xyzz"], "xyzz"),
        (["--datasets", "mosaik"], "mosaik"),
        (["--out", "a_file"], "a_file"),
        (["--out", "a_file/store"], "a_file"),
        (["--out", ""], "out is empty"),
    ],
)
def test_the_command_line_refuses_by_name_and_writes_nothing(tmp_path, monkeypatch, capsys, words, name):
    monkeypatch.chdir(tmp_path)
    Path("a_file").write_text("x")
    Path("breaks.py").write_text("raise RuntimeError('on purpose')")
    Path("leaves.py").write_text("raise SystemExit(0)")
    given = [
        "run",
        "--source",
        "synthetic",
        "--table",
        "r2_mosaiks",
        "--encoders",
        "xyz",
        "--out",
        "store",
        "--quiet",
    ]
    assert main([*given, *words]) == 2
    assert name in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {
        "a_file",
        "breaks.py",
        "leaves.py",
    }


def test_show_and_record_go_on_past_a_damaged_file(tmp_path, counted, capsys):
    run_all(plan(["top1"], datasets=["yfcc"], encoders=["nerf", "xyz"]), tmp_path / "s", progress=False)
    ResultStore(tmp_path / "s").path(SPEC).write_text("{")
    assert main(["show", "--out", str(tmp_path / "s")]) == 0
    shown = capsys.readouterr()
    assert "xyz" in shown.out and "top1-yfcc-nerf-released.json is damaged" in shown.err
    words = ["--out", str(tmp_path / "s"), "--results", str(tmp_path / "r"), "--root", str(tmp_path)]
    (tmp_path / "eval_results").mkdir()
    assert main(["record", *words]) == 0
    assert "top1-yfcc-nerf-released.json is damaged" in capsys.readouterr().err
    assert len(read_cells(tmp_path / "r" / "cells.csv")) == 652


def test_there_is_nothing_to_record_in_an_empty_store(tmp_path, capsys):
    assert main(["record", "--out", str(tmp_path / "s"), "--results", str(tmp_path / "r")]) == 2
    assert "no finished runs" in capsys.readouterr().err and not (tmp_path / "r").exists()


# --- the paper's protocol --------------------------------------------------


def options_of(dataset, encoder, protocol="paper", **more):
    from tslab.benchmark.driver import training_options

    (spec,) = plan(list(benchmark.TABLES), datasets=[dataset], encoders=[encoder], source="locbench",
                   protocol=protocol, **more)[:1]  # fmt: skip
    return training_options(spec)


def test_the_papers_protocol_is_asked_for_by_name_and_ours_is_not_it():
    assert options_of("birdsnap", "nerf", "ours") == {"epochs": None}
    bird, fmow, yfcc = (options_of(key, "sphere2vec_sphereC") for key in ("birdsnap", "fmow", "yfcc"))
    assert bird["preset"] == fmow["preset"] == yfcc["preset"] == "locbench2024"
    assert (bird["epochs"], fmow["epochs"], yfcc["epochs"]) == (30, 100, 100)
    assert options_of("fmow", "space2vec_grid")["epochs"] == 120  # as its log says
    assert options_of("yfcc", "nerf")["max_per_class"] == 0 and "max_per_class" not in bird  # YFCC takes every row
    harmonics = options_of("inat2018", "siren_sh")
    assert (harmonics["lr"], harmonics["num_hidden_layers"], harmonics["epochs"]) == (0.001, 3, 20)
    assert options_of("mosaiks_elevation", "xyz")["head"] == [893, 881, 510]
    assert options_of("birdsnap", "xyz", epochs=2)["epochs"] == 2


@pytest.fixture
def archive(tmp_path):
    """A tiny LocBench archive with BirdSnap, some rows of which the paper does not train on."""
    from tests.test_locbench import write_birds

    write_birds(tmp_path / "archive")
    return tmp_path / "archive"


def test_both_protocols_train_on_an_archive_and_their_results_stand_apart(archive, tmp_path, capsys):
    words = ["run", "--source", "locbench", "--root", str(archive), "--table", "top1", "--datasets", "birdsnap",
             "--encoders", "xyz", "--epochs", "1", "--out", str(tmp_path / "s"), "--quiet"]  # fmt: skip
    for protocol in ("ours", "paper"):
        assert main([*words, "--protocol", protocol]) == 0
    runs = ResultStore(tmp_path / "s").frame()
    assert sorted(runs["protocol"]) == ["ours", "paper"]
    trained = {
        path.name: json.loads((path / "config.json").read_text()) for path in (tmp_path / "s/training").iterdir()
    }
    presets = {name.rsplit("-", 1)[-1]: config["preset"] for name, config in trained.items()}
    assert presets == {"1epochs": None, "paper": "locbench2024"}
    rows = leaderboard(tmp_path / "s").query("source.str.startswith('trained:locbench')")
    assert sorted(rows["source"]) == ["trained:locbench", "trained:locbench:paper"]
    cell = benchmark.audit(ResultStore(tmp_path / "s")).query("dataset == 'birdsnap' and encoder == 'xyz'").iloc[0]
    assert not math.isnan(cell["retrained"]) and not math.isnan(cell["retrained_paper"])


def test_the_paper_trains_on_the_rows_it_trained_on(archive):
    from tslab.benchmark.driver import load_run_task

    ours, paper = (
        load_run_task(RunSpec("top1", "birdsnap", "xyz", "locbench", protocol=key), archive)
        for key in ("ours", "paper")
    )
    assert len(ours.train) == 2 and len(paper.train) == 1  # one has neither place nor user
    assert len(ours.test) == len(paper.test)


def test_the_estimate_comes_from_measured_steps(tmp_path, capsys):
    """It grows with the epochs asked for, and a training takes about that long."""
    import time

    given = {"datasets": ["mosaiks_elevation"], "encoders": ["xyz", "baseline:mean"], "source": "synthetic"}
    store = ResultStore(tmp_path)
    few, many = (
        benchmark.driver.forecast(plan(["r2_mosaiks"], **given, scale="tiny", epochs=epochs), store)
        for epochs in (2, 200)
    )
    assert list(few["encoder"]) == ["xyz"] and few["trainings"].item() == 1  # a baseline is not trained
    assert many["seconds"].item() > 10 * few["seconds"].item() > 0
    (spec,) = plan(["r2_mosaiks"], **given | {"encoders": ["xyz"]}, scale="tiny", epochs=200)
    start = time.perf_counter()
    run_all([spec], tmp_path, progress=False)
    assert 0.1 < (time.perf_counter() - start) / many["seconds"].item() < 10
    assert benchmark.driver.forecast([spec], store).empty


@pytest.mark.parametrize("dataset", ["inat2018", "fmow"])
def test_the_rehearsal_writes_an_archive_that_is_read_and_trained_on(dataset, tmp_path, monkeypatch, capsys):
    import dataclasses

    import rehearse_locbench

    info = rehearse_locbench.DATASETS[dataset]
    splits = {name: dataclasses.replace(facts, rows=60, missing=None, kept=None) for name, facts in info.splits.items()}
    small = {dataset: dataclasses.replace(info, splits=splits, num_classes=30)}
    monkeypatch.setattr(rehearse_locbench, "DATASETS", small)
    assert rehearse_locbench.main([dataset, "--folder", str(tmp_path), "--encoders", "xyz", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "60 rows, 30 classes" in said and "GiB" in said and "60 rows evaluated" in said


# --- trainings in the store ----------------------------------------------

OWN = """
import tslab
from tslab.encoders.spherical import SphereC

class Mine(SphereC):
    def __init__(self):
        super().__init__({scales})

tslab.register_encoder("{key}", Mine, overwrite=True)
"""


def r2_of(store, spec):
    return store.load(spec)["metrics"]["r2"]["value"]


@pytest.fixture
def own_encoder(tmp_path, monkeypatch):
    """A module that registers an encoder with as many scales as asked for; its key."""
    import importlib
    import sys

    from tslab.encoders import ENCODERS

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(scales):
        (tmp_path / "own_encoder_module.py").write_text(OWN.format(scales=scales, key="own_encoder"))
        sys.modules.pop("own_encoder_module", None)
        importlib.invalidate_caches()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        importlib.import_module("own_encoder_module")

    yield write
    ENCODERS.pop("own_encoder", None)
    sys.modules.pop("own_encoder_module", None)


def test_again_gives_the_number_of_a_fresh_store(tmp_path, own_encoder):
    def specs():
        return plan(["r2_mosaiks"], datasets=["mosaiks_elevation"], encoders=["own_encoder"], source="synthetic",
                    scale="tiny", epochs=2)  # fmt: skip

    own_encoder(1)
    run_all(specs(), tmp_path / "s", progress=False)
    before = ResultStore(tmp_path / "s").load(specs()[0])
    own_encoder(16)
    kept = run_all(specs(), tmp_path / "s", progress=False)
    assert kept.stale == 1 and "--again" in str(kept)  # the file of the encoder has changed
    run_all(specs(), tmp_path / "s", progress=False, again=True)
    run_all(specs(), tmp_path / "fresh", progress=False)
    again, fresh = (ResultStore(tmp_path / name).load(specs()[0]) for name in ("s", "fresh"))
    assert again["metrics"] == fresh["metrics"] != before["metrics"]
    assert again["code"] == fresh["code"] != before["code"]


def test_tables_of_one_training_share_it_also_again(tmp_path, monkeypatch):
    from tslab.benchmark import driver

    trained = []
    real = driver._train
    monkeypatch.setattr(driver, "_train", lambda spec, *rest: trained.append(spec.table) or real(spec, *rest))
    specs = plan(["r2_mosaiks", "geobias_regression"], datasets=["mosaiks_elevation"], encoders=["xyz"],
                 source="synthetic", scale="tiny", epochs=1)  # fmt: skip
    run_all(specs, tmp_path, progress=False)
    assert trained == ["r2_mosaiks"]
    run_all(specs, tmp_path, progress=False, again=True)
    assert trained == ["r2_mosaiks"] * 2


def test_a_number_from_stored_samples_bears_the_code_that_trained_for_them(tmp_path, monkeypatch):
    from tslab.benchmark import driver

    specs = plan(["r2_mosaiks", "geobias_regression"], datasets=["mosaiks_elevation"], encoders=["baseline:mean"],
                 source="synthetic", scale="tiny")  # fmt: skip
    run_all(specs[:1], tmp_path, progress=False)
    trained_by = ResultStore(tmp_path).load(specs[0])["code"]
    monkeypatch.setattr(driver, "code_version", lambda encoder=None: "later")
    run_all(specs[1:], tmp_path, progress=False)
    assert ResultStore(tmp_path).load(specs[1])["code"] == trained_by


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-40] + bytes(8) + b[-32:], lambda b: b""])
def test_damaged_samples_are_named_and_do_not_stop_the_others(tmp_path, damage):
    specs = plan(["r2_mosaiks", "geobias_regression"], datasets=["mosaiks_elevation"],
                 encoders=["baseline:mean", "baseline:knn"], source="synthetic", scale="tiny")  # fmt: skip
    r2, geobias = specs[:2], specs[2:]
    run_all(r2, tmp_path, progress=False)
    store = ResultStore(tmp_path)
    path = store.samples_path(r2[0])
    path.write_bytes(damage(path.read_bytes()))
    outcome = run_all(geobias, tmp_path, progress=False)
    assert list(outcome.failed) == geobias[:1] and outcome.done == geobias[1:]
    assert f"{path.name} is damaged" in str(outcome)
    path.unlink()
    assert not run_all(geobias, tmp_path, progress=False).failed


@pytest.mark.parametrize("name", ["checkpoint.pt", "config.json"])
def test_a_damaged_training_names_its_folder(tmp_path, monkeypatch, name):
    from tslab.benchmark import driver
    from tslab.training import train

    (spec,) = plan(["r2_mosaiks"], datasets=["mosaiks_elevation"], encoders=["xyz"], source="synthetic",
                   scale="tiny", epochs=2)  # fmt: skip
    store = ResultStore(tmp_path)
    folder = store.training_path(spec)
    train(driver.load_run_task(spec), "xyz", epochs=1, run_dir=folder, progress=False)
    store.begin(spec, driver.code_version("xyz"))
    (folder / name).write_bytes((folder / name).read_bytes()[:30])
    outcome = run_all([spec], tmp_path, progress=False, retries=0)
    assert str(folder) in str(outcome) and "delete that folder" in str(outcome)
    import shutil

    shutil.rmtree(folder)
    assert not run_all([spec], tmp_path, progress=False, retries=0).failed


def test_half_a_training_by_other_code_is_not_continued(tmp_path):
    from tslab.benchmark import driver
    from tslab.training import train

    (spec,) = plan(["r2_mosaiks"], datasets=["mosaiks_elevation"], encoders=["xyz"], source="synthetic",
                   scale="tiny", epochs=2)  # fmt: skip
    store, fresh = ResultStore(tmp_path / "s"), ResultStore(tmp_path / "fresh")
    store.begin(spec, "other code")
    train(driver.load_run_task(spec), "xyz", epochs=2, seed=9, run_dir=store.training_path(spec), progress=False)
    for one in (store, fresh):
        run_all([spec], one.folder, progress=False)
    assert r2_of(store, spec) == r2_of(fresh, spec)


# --- Dask ----------------------------------------------------------------


def _job(name):
    """What a job of the test below does."""
    if name == "kills its process":
        os._exit(9)
    if name == "leaves":
        raise SystemExit(3)
    import own_module_of_the_test

    assert own_module_of_the_test.VALUE == 7


@pytest.mark.slow
def test_on_dask_a_job_that_kills_its_workers_fails_alone_and_nobody_else_can_listen(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    psutil = pytest.importorskip("psutil")
    from tslab.benchmark.runner import do_jobs, open_pool

    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_module_of_the_test.py").write_text("VALUE = 7\n")
    jobs = ["a", "kills its process", "b", "leaves", "c", "d"]
    with open_pool("local", 2) as client:
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            listening = [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
            assert all(c.laddr.ip in ("127.0.0.1", "::1") for c in listening), listening
        failures = dict(do_jobs(jobs, _job, client, modules=["own_module_of_the_test"]))
    assert {name for name, failure in failures.items() if failure} == {"kills its process", "leaves"}
    assert "KilledWorker" in failures["kills its process"].error and "SystemExit" in failures["leaves"].error


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


TWO = pd.DataFrame({"label": [1.0, 2.0], "prediction": [1.0, 2.0]})


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: mcnemar(-1, 3), "only_a"),
        (lambda: holm([0.1, math.nan]), "p must"),
        (lambda: holm([2.0]), "p must"),
        (lambda: paired_bootstrap(TWO, TWO, replicates=0), "replicates"),
        (lambda: paired_bootstrap(TWO, TWO, seed=-1), "seed"),
        (lambda: rank_test(pd.DataFrame(np.eye(4)), level=2), "level"),
        (lambda: benchmark.judge("top1", "xyz", 1.0, math.nan, 1), "recomputed"),
        (lambda: standard_error(50, 0), "n must"),
        (lambda: standard_error(120, 10), "top1"),
        (lambda: benchmark.measure(pd.DataFrame({"hit1": []}), ("top1",), "x"), "no rows"),
        (
            lambda: benchmark.measure(TWO.assign(lon=0.0, lat=0.0), ("geobias_base",), "x", max_centers=0),
            "max_centers",
        ),
    ],
)
def test_statistics_refuse_what_is_out_of_their_range_by_name(call, name):
    with pytest.raises(ValueError, match=name):
        call()


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


def test_blocks_widen_intervals_and_two_models_that_differ_in_one_region_are_not_told_apart():
    """A model that is better in two of twenty blocks and as good elsewhere: rows are sure of it, blocks are not."""
    rng = np.random.default_rng(2)
    block = np.repeat(np.arange(20), 100)
    label, noise = rng.normal(size=2000), rng.normal(size=2000)
    a = pd.DataFrame({"label": label, "prediction": label + noise * np.where(block < 2, 0.3, 0.6)})
    b = pd.DataFrame({"label": label, "prediction": label + noise * 0.6})
    _, low, _, p = paired_bootstrap(a, b, replicates=500)
    assert low > 0 and p < 0.01
    difference, low, high, p = paired_bootstrap(a.assign(block=block), b, replicates=500)
    assert difference > 0 and low <= 0 < high and p > 0.01
    rows, blocks = (benchmark.measure(t, ("r2",), "")["r2"] for t in (a, a.assign(block=block)))
    assert rows.value == blocks.value and blocks.high - blocks.low > 1.5 * (rows.high - rows.low)


def test_samples_of_a_block_split_know_their_blocks(tmp_path):
    """Also those that were kept before samples said so."""
    store, samples = (
        ResultStore(tmp_path),
        pd.DataFrame({"lon": [1.0, 2, 55], "lat": 3.0, "prediction": 0.0, "label": 1.0}),
    )
    for split in ("random", "block"):
        spec = RunSpec("r2_mosaiks", "mosaiks_elevation", "xyz", "released-points", split=split)
        store.samples_path(spec).parent.mkdir(exist_ok=True)
        samples.to_csv(store.samples_path(spec), index=False)
        kept = store.samples(spec)
        assert ("block" in kept) == (split == "block")
    assert kept["block"].nunique() == 2 and kept["block"][0] == kept["block"][1]


def test_seeds_that_split_the_same_rows_are_not_independent():
    """Nadeau and Bengio: s sqrt(1/n + r), r the test rows by the training rows; seeds of weights alone have no r."""
    runs = pd.DataFrame(
        {"dataset": "d", "encoder": "e", "metric": "r2", "source": "trained:released-points"}, index=range(5)
    )
    runs = runs.assign(split="block", seed=range(5), value=[0.5, 0.6, 0.4, 0.55, 0.45], low=0.1, high=0.9, n=10)
    row = seed_means(runs).iloc[0]
    half = stats.t.ppf(0.975, 4) * runs["value"].std() * math.sqrt(1 / 5 + 1 / 8)
    assert (row["low"], row["high"]) == pytest.approx((0.5 - half, 0.5 + half))
    row = seed_means(runs.assign(source="trained:synthetic")).iloc[0]
    assert (row["low"], row["high"]) == (0.1, 0.9)


def test_labels_that_are_all_equal_have_no_r2_and_no_difference():
    flat = pd.DataFrame({"label": [0.1] * 30, "prediction": np.linspace(0, 1, 30)})
    alone = benchmark.measure(flat, ("r2",), "")["r2"]
    assert np.isnan([alone.value, alone.low, alone.high]).all() and alone.n == 30
    assert np.isnan(paired_bootstrap(flat, flat.assign(prediction=0.2), replicates=20)).all()


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
    benchmark.comparison.write_comparisons(benchmark.compare_released(root=mirror), tmp_path / COMPARISONS)
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
    elsewhere = "from tslab.benchmark import *; print(len(read_cells()), find_record('cells.csv'))"
    answer = subprocess.run(
        [sys.executable, "-c", elsewhere],
        cwd=tmp_path,
        env={"PYTHONPATH": str(built.parents[2]), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == ["652", str(built / "cells.csv")]


def test_ctrl_c_ends_the_command_with_a_sentence(tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tslab.benchmark.__main__.run_all", interrupted)
    assert main(["run", "--table", "top1", "--datasets", "yfcc", "--out", str(tmp_path / "out")]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_numbers_that_are_no_p_values_or_counts_are_refused():
    for p in ([0.5, 2.0], [-0.1], [[0.5]]):
        with pytest.raises(ValueError, match="p-values"):
            holm(p)
    with pytest.raises(ValueError, match="only_a"):
        mcnemar(-1, 3)
