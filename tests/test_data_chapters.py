"""The chapters on data run without released files, and what they show is true of simple cases."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from tslab.published import published_tables
from tslab.released import load_released_results
from tslab.synthetic.values import linear_quantiles
from tslab.tasks import DATASETS, Table, load_task
from tslab.tasks.datasets import TaskMeta
from tslab.tasks.task import Task as TaskOf
from tslab_book import overview, split_study
from tslab_book.records import read_record

NEIGHBORS = {"knn": split_study.METHODS["knn"]}


def pooled(lonlat, target):
    table = Table(lonlat=lonlat.float(), target=target.float())
    nothing = table.where(torch.zeros(len(table), dtype=torch.bool))
    return TaskOf("invented", table, nothing, nothing, TaskMeta(kind="regression"))


def scattered(n=3000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
    lonlat = torch.stack([torch.rad2deg(torch.atan2(xyz[:, 1], xyz[:, 0])), torch.rad2deg(torch.asin(xyz[:, 2]))], 1)
    return lonlat, xyz, generator


# --- splits -----------------------------------------------------


def test_blocks_move_the_held_out_places_away_and_neighbours_lose():
    lonlat, xyz, _ = scattered()
    waves = torch.sin(8 * xyz[:, 0]) * torch.cos(8 * xyz[:, 2])
    found = split_study.compare_splits(pooled(lonlat, waves), [0, 4000], methods=NEIGHBORS).set_index("size_km")
    assert found.loc[4000, "nearest_km"] > 2 * found.loc[0, "nearest_km"]
    assert found.loc[0, "r2"] > 0.8 > found.loc[4000, "r2"]
    assert (found["train"] + found["test"] == len(lonlat)).all()


def test_where_places_say_nothing_no_split_helps():
    lonlat, _, generator = scattered()
    noise = torch.randn(len(lonlat), generator=generator)
    found = split_study.compare_splits(pooled(lonlat, noise), [0, 1000], seeds=[0, 1], methods=NEIGHBORS)
    assert found["r2"].max() < 0.05 and len(found) == 4


def test_a_buffer_is_as_wide_as_it_says_and_compares_equal_numbers_of_rows():
    lonlat, xyz, _ = scattered()
    found = split_study.compare_buffers(pooled(lonlat, xyz[:, 0]), [0.0, 300.0, 600.0], methods=NEIGHBORS)
    assert found["train"].nunique() == found["test"].nunique() == 1
    assert (found["nearest_km"].iloc[1:].to_numpy() > [300, 600]).all()


def test_a_buffer_that_takes_everything_is_refused():
    lonlat, xyz, _ = scattered(500)
    with pytest.raises(ValueError, match="no training rows"):
        split_study.compare_buffers(pooled(lonlat, xyz[:, 0]), [15_000.0], methods=NEIGHBORS)


def test_only_regression_tasks_and_only_synthetic_ones_have_a_truth():
    with pytest.raises(ValueError, match="regression"):
        split_study.compare_splits(load_task("sphere_toy"), [0], methods=NEIGHBORS)
    lonlat, xyz, _ = scattered(200)
    with pytest.raises(ValueError, match="truth"):
        split_study.fit_truth(pooled(lonlat, xyz[:, 0]), 0)


def test_the_record_is_complete_and_says_where_it_comes_from():
    stored = read_record("splits.csv")
    record, origin = stored.data, stored.about
    cells = record.groupby(["size_km", "seed"])["method"].agg(set)
    assert (cells == set(split_study.METHODS)).all() and 0 in set(record["size_km"])
    assert (record["train"] + record["test"] == origin["places"]).all()
    assert not record.duplicated(["size_km", "seed", "method"]).any()
    assert json.dumps(origin) and {"date", "release", "repository", "tslab"} <= set(origin)


# --- overview -----------------------------------------------------


def test_gains_are_differences_of_printed_numbers():
    printed = published_tables().set_index(["dataset", "encoder", "metric"])["published"]
    for key, row in overview.published_gains().iterrows():
        assert row["image_alone"] == printed[key, "no_prior", row["metric"]]
        column = printed.xs((key, row["metric"]), level=["dataset", "metric"])
        assert row["with_location"] == column.drop("no_prior").max()
        assert row["gain"] == pytest.approx(row["with_location"] - row["image_alone"])


def test_printed_examples_are_sums_of_the_splits_or_none():
    table = overview.printed_examples()
    sums = table["train"] + table["validation"]
    assert (sums == table["printed"]).drop("yfcc").all() and sums["yfcc"] != 36_146
    assert sums["yfcc"] + table.loc["yfcc", "test"] == 88_986


def test_regions_are_measured_only_where_coordinates_were_released():
    regions = overview.measured_regions()
    assert "inat2017" not in regions.index and len(regions) == 6
    assert (regions.sum(axis=1) - 1).abs().max() < 0.02


@pytest.mark.mirror
def test_regions_are_those_of_the_released_results(mirror):
    for key, shares in overview.measured_regions().iterrows():
        results = load_released_results(key, "no_prior", mirror)
        known = results[["lon", "lat"]].dropna().to_numpy()
        assert overview.region_shares(known) == pytest.approx(shares.to_numpy(), abs=0.006)


def test_the_image_alone_is_not_what_was_printed():
    rows = [line.split("|") for line in overview.image_alone_lines().splitlines()[2:]]
    alone = {row[1].strip(): (float(row[2]), float(row[3])) for row in rows}
    assert alone["MOSAIKS elevation"] == (0.27, 0.11) and alone["MOSAIKS forest cover"] == (0.52, 0.52)
    assert len(alone) == 4


def test_facts_are_those_of_the_metadata():
    facts = overview.facts_table()
    assert list(facts.index) == list(DATASETS)
    assert facts.loc["birdsnap", "no_location"] == pytest.approx(1446 / 2262)
    assert facts.loc["mosaiks_elevation", "total"] == 498_115 and pd.isna(facts.loc["mosaiks_elevation", "train"])


def test_every_dataset_has_its_terms():
    text = overview.terms_list()
    for info in DATASETS.values():
        assert info.licence in text and info.upstream in text
    assert text.count("**BirdSnap") == 1


def test_density_and_shares_count_rows():
    task = load_task("yfcc", scale="tiny")
    one = task.train.where(torch.tensor([0]))
    density = overview.row_density(replace(task, train=one, val=one, test=one))
    assert density.max() == density.sum() == 1
    row, column = np.unravel_index(density.argmax(), density.shape)
    lon, lat = one.lonlat[0].tolist()
    assert abs((column + 0.5) * 5 - 180 - lon) <= 2.5
    assert abs((row + 0.5) / 18 - 1 - np.sin(np.radians(lat))) <= 1 / 36
    assert overview.region_shares([[2.0, 48.0], [10.0, 50.0], [140.0, -30.0], [-100.0, 40.0]]).tolist() == [
        *(0.25, 0, 0.5, 0, 0, 0.25)
    ]


def test_histogram_holds_every_training_row():
    for name in ("fmow", "mosaiks_nightlights"):
        task = load_task(name, scale="tiny")
        x, heights = overview.label_histogram(task)
        assert heights.sum() == len(task.train) and len(x) == len(heights)


def test_the_figure_has_a_frame_and_a_button_for_each_task():
    tasks = [load_task(name, scale="tiny") for name in ("yfcc", "fmow")]
    figure = overview.tour_figure(tasks, [0.2, 0.1, 0.2, 0.2, 0.2, 0.1])
    assert [frame.name for frame in figure.frames] == ["yfcc", "fmow"]
    assert [button.args[0][0] for button in figure.layout.updatemenus[0].buttons] == ["yfcc", "fmow"]


# --- speed without another answer -----------------------------------------------------


def test_quantiles_are_numpys():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 1200):
        values, p = rng.standard_normal(n), np.r_[0, rng.random(500), 1]
        assert np.array_equal(linear_quantiles(values, p), np.quantile(values, p))
