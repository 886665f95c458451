"""The fair table: equal terms, choices on training places only, and intervals that know about blocks."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import tslab
from tslab.benchmark import JobStore
from tslab.earth import spatial_blocks
from tslab.metrics import r2
from tslab.tasks import Table
from tslab_book import fair, fair_methods, fair_record
from tslab_book.leaderboard import leaderboard

LABEL = "mosaiks_elevation"


def places(table: Table) -> set[tuple[float, ...]]:
    return {tuple(row) for row in table.lonlat.tolist()}


def blocks(*tables: Table) -> list[set[int]]:
    joined = torch.cat([table.lonlat for table in tables])
    numbers = spatial_blocks(joined, size_degrees=fair_methods.BLOCK_DEG)
    return [set(part.tolist()) for part in numbers.split([len(table) for table in tables])]


@pytest.mark.parametrize("kind", fair.SPLITS)
def test_no_place_that_is_tested_is_trained_on_or_chooses(kind):
    design = fair.design(LABEL, kind, "fast")
    chooses = places(design.chooses)
    assert not places(design.fitted) & chooses
    for seed, (train, test) in enumerate(zip(design.train, design.test, strict=True)):
        assert len(places(test)) == len(test) and len(train) == len(design.fitted)
        assert not places(test) & (places(train) | places(design.fitted) | chooses)
        assert not any(places(test) & places(other) for other in design.test[:seed])


def test_on_a_block_split_whole_blocks_are_tested_and_whole_blocks_choose():
    design = fair.design(LABEL, "block", "fast")
    fitted, chooses, *tests = blocks(design.fitted, design.chooses, *design.test)
    assert fitted and chooses and not chooses & fitted
    for train, test in zip(design.train, tests, strict=True):
        assert test and not test & chooses
        trained, tested = blocks(train, design.test[tests.index(test)])
        assert not trained & tested


def test_every_method_has_the_same_number_of_settings_to_choose_from():
    counts = {method: len(fair_methods.settings_of(method)) for method in fair_methods.METHODS}
    assert counts.pop("baseline:mean") == 1
    assert set(counts.values()) == {fair_methods.BUDGET}
    assert set(tslab.ENCODERS) <= set(counts)


@pytest.mark.parametrize("key", list(tslab.ENCODERS))
def test_an_encoder_chooses_from_the_released_setting_and_from_the_same_as_all_others(key):
    released, *searched = fair_methods.settings_of(key)
    assert released["km"] == "released" and released["dropout"] == 0.5
    assert tuple(searched) == fair_methods.SEARCHED


def test_every_encoder_with_a_scale_has_a_parameter_for_each_that_is_searched():
    searched = {setting["km"] for setting in (*fair_methods.SEARCHED, *fair_methods.FULL)}
    assert set(fair_methods.scales()) == {(key, km) for key in fair_methods.scales_of() for km in searched}
    assert set(tslab.ENCODERS) - fair_methods.scales_of() == {"wrap", "wrap_ffn", "xyz"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with one complete column of a few methods, done in this process."""
    folder = tmp_path_factory.mktemp("fair")
    methods = [*fair_methods.BASELINES, "xyz", "siren_sh", "tile"]
    todo = [job for job in fair.jobs([LABEL], methods, "fast") if job.split == "block"]
    assert fair.run(todo, folder, progress=False) == []
    return folder, todo


def test_the_setting_is_the_best_on_the_places_that_choose(store):
    folder, todo = store
    design = fair.design(LABEL, "block", "fast")
    for job in todo:
        outcome = JobStore(folder).load(job)
        scores = outcome["validation"]
        assert len(scores) == len(fair_methods.settings_of(job.method))
        assert scores[outcome["setting"]] == max(score for score in scores if score is not None)
        predicted = fair.predictions(JobStore(folder), job)
        again = r2(predicted["chooses"], design.chooses.target.double())
        assert again == pytest.approx(scores[outcome["setting"]])
        for seed, test in enumerate(design.test):
            assert r2(predicted["test"][seed], test.target) == pytest.approx(outcome["metrics"][f"r2_{seed}"])


def test_what_is_done_is_not_done_again(store, monkeypatch):
    folder, todo = store
    monkeypatch.setattr(fair, "fit", lambda *_: pytest.fail("trained again"))
    assert fair.run(todo, folder, progress=False) == []


def test_a_record_holds_complete_columns_and_names_the_others(store, tmp_path):
    folder, todo = store
    other = [fair.Job(LABEL, "random", "xyz", "fast")]
    said = fair_record.write_record(folder, [*todo, *other], tmp_path / "fair_table.csv")
    assert "not complete: mosaiks_elevation, random" in said
    table, runs = pd.read_csv(tmp_path / "fair_table.csv"), pd.read_csv(tmp_path / "fair_runs.csv")
    assert set(table["split"]) == {"block"}
    assert set(table["encoder"]) == {job.method for job in todo} | set(fair_record.STACKS)
    assert json.loads((tmp_path / "fair_table.json").read_text())["missing"] == ["mosaiks_elevation, random"]
    means = runs.groupby("encoder")["value"].mean()
    assert np.allclose(table["value"], means[table["encoder"]], atol=2e-4)
    with pytest.raises(ValueError, match="no column of the table is complete"):
        fair_record.write_record(folder, other, tmp_path / "empty.csv")


def test_r2_from_sums_over_blocks_is_r2():
    generator = torch.Generator().manual_seed(0)
    lonlat = tslab.sample_sphere(300, generator=generator)
    label = torch.rand(300, generator=generator) * 5 + 100
    predicted = [(label + noise).double().numpy() for noise in torch.randn((2, 300), generator=generator)]
    sums = fair_record.block_sums(Table(lonlat=lonlat, target=label), predicted)
    assert sums[:, 0].sum() == 300
    expected = [r2(torch.from_numpy(p), label) for p in predicted]
    assert fair_record.r2_of_sums(sums.sum(0)) == pytest.approx(expected)


def made_up(rng: np.random.Generator, better: float = 0.0) -> np.ndarray:
    """Sums of 60 blocks of 30 places, two predictions whose errors differ from block to block; the second is worse in
    the mean if ``better`` is positive."""
    label = rng.normal(size=(60, 30)) + rng.normal(size=(60, 1))
    errors = [rng.normal(size=(60, 30)) * 0.5 + rng.normal(size=(60, 1)) * (0.5 + more) for more in (0.0, better)]
    label -= label.mean()
    return np.stack([np.full(60, 30.0), label.sum(1), (label**2).sum(1), *((e**2).sum(1) for e in errors)], axis=1)


def test_of_two_equal_methods_few_are_called_worse_and_a_worse_one_is_found():
    rng = np.random.default_rng(0)

    def worse(better: float) -> float:
        found = 0
        for i in range(200):
            drawn = fair_record.drawn_r2(made_up(rng, better), 400, i)
            found += np.quantile(drawn[:, 0] - drawn[:, 1], 0.025) > 0
        return found / 200

    assert worse(0.0) < 0.06  # one side of 95 %
    assert worse(0.5) > 0.9


def test_a_stack_trusts_what_is_right_where_it_chooses():
    rng = np.random.default_rng(0)
    label, tested = rng.normal(size=400), rng.normal(size=50)
    noise = lambda size: {"chooses": label + size * rng.normal(size=400), "test": tested + size * rng.normal(size=50)}  # noqa: E731
    members = {"baseline:mean": noise(9.0), "baseline:kriging": noise(1.0)}
    members |= {
        key: noise(size) for key, size in zip(tslab.ENCODERS, np.linspace(0.1, 3, len(tslab.ENCODERS)), strict=True)
    }
    found = fair_record.stack(members, label)
    first = list(tslab.ENCODERS)[:3]
    assert found["stack:best"][1] == first[0] and found["stack:mean"][1] == ", ".join(first)
    assert np.allclose(found["stack:mean"][0], np.mean([members[key]["test"] for key in first], axis=0))
    assert float(found["stack:mean+kriging"][1].removeprefix("a = ")) > 0.9
    assert np.square(found["stack:all"][0] - tested).mean() < 0.02


def test_the_committed_table_is_whole_and_its_rows_belong_together():
    table, runs = fair_record.read_table(), fair_record.read_runs()
    rows = {*fair_methods.METHODS, *fair_record.STACKS}
    columns = table.groupby(["dataset", "split"])
    assert all(set(part) == rows for _, part in columns["encoder"])
    assert (columns["behind"].min() == 0).all()
    assert table["value"].between(table["low"], table["high"]).mean() > 0.98
    assert (table["seeds"] == fair.SEEDS).all()
    mean = runs.groupby(["dataset", "split", "encoder"])["value"].mean()
    index = pd.MultiIndex.from_frame(table[["dataset", "split", "encoder"]])
    assert np.allclose(mean[index], table["value"], atol=2e-4)
    board = leaderboard()
    trained = board[board["source"] == "trained:released-points"]
    assert len(trained) == len(table) and trained["value"].notna().all()


def test_the_rows_with_all_places_are_those_few_and_saw_all_places():
    table = fair_record.read_table("fair_full.csv")
    columns = table.groupby(["dataset", "split"])
    assert all(set(part) == {*fair_methods.FULL_METHODS, *fair_record.STACKS} for _, part in columns["encoder"])
    assert (table["seeds"] == 1).all() and (table["n"] > 7000).all()
    reduced = fair_record.read_table().set_index(["dataset", "split", "encoder"])["value"]
    both = table.set_index(["dataset", "split", "encoder"])["value"].dropna()
    random = both[both.index.get_level_values("split") == "random"]
    assert (random > reduced[random.index]).all()  # nearer neighbours, higher numbers
