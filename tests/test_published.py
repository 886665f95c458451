"""The published tables are complete, and spot values are as printed."""

import pytest

from tslab.published import (
    CLASSIFICATION_DATASETS,
    ENCODER_ROWS,
    METRICS,
    REGRESSION_DATASETS,
    dataset_name,
    encoder_row_name,
    published_tables,
)


def test_all_652_numbers_are_there_once():
    table = published_tables()
    assert len(table) == 652
    assert not table.duplicated(["dataset", "encoder", "metric"]).any()
    assert table["published"].notna().all()
    assert list(table.columns) == ["dataset", "encoder", "metric", "published", "mark"]
    assert "NeurIPS 2024" in table.attrs["source"]


def test_keys_are_the_documented_ones():
    table = published_tables()
    assert set(table["dataset"]) == {*CLASSIFICATION_DATASETS, *REGRESSION_DATASETS, "avg_species"}
    assert set(table["encoder"]) == set(ENCODER_ROWS)
    assert set(table["metric"]) == set(METRICS)
    assert set(table["mark"]) == {"", "largest", "resampled_100"}


def test_table_1_has_seven_datasets_and_sixteen_rows_besides_gpt4v():
    table = published_tables()
    top1 = table[(table["metric"] == "top1") & table["dataset"].isin(CLASSIFICATION_DATASETS)]
    cells = top1[top1["encoder"] != "gpt4v"]
    assert len(cells) == 7 * 16 == 112
    assert cells.groupby("dataset").size().eq(16).all()


def test_spot_values():
    published = published_tables().set_index(["dataset", "encoder", "metric"])["published"]
    assert published["birdsnap", "no_prior", "top1"] == 70.07
    assert published["inat2018", "tile", "top1"] == 56.30
    assert published["nabirds", "sphere2vec_sphereC+", "top1"] == 82.13
    assert published["fmow", "gpt4v", "top1"] == 17.00


def test_the_species_average_is_the_mean_of_the_five_species_columns():
    table = published_tables()
    top1 = table[table["metric"] == "top1"].pivot(index="encoder", columns="dataset", values="published")
    species = top1[["birdsnap", "birdsnap_ebird", "nabirds", "inat2017", "inat2018"]].mean(axis=1)
    off = (species - top1["avg_species"]).abs()
    assert (off <= 0.011).sum() >= 15, off.sort_values()  # printed numbers are rounded to 0.01


def test_largest_marks_are_the_largest_of_their_column():
    table = published_tables()
    for _, column in table.groupby(["dataset", "metric"]):
        marked = column[column["mark"] == "largest"]
        if len(marked):
            assert marked["published"].item() == column["published"].max()


def test_names():
    assert dataset_name("birdsnap_ebird") == "BirdSnap†"
    assert encoder_row_name("nerf") == "NeRF"
    with pytest.raises(ValueError, match="use one of birdsnap, "):
        dataset_name("imagenet")
    with pytest.raises(ValueError, match="use one of no_prior, "):
        encoder_row_name("resnet")
