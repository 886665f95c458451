"""The records behind the chapters on models, and the functions that make them."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from tslab_book.background_map import (
    REGIONS,
    mean_presence,
    region_means,
    released_background_map,
    write_record,
)
from tslab_book.fair_record import LABEL_NAMES

RESULTS = Path(__file__).resolve().parents[1] / "book" / "results"


def _quarter(lonlat: torch.Tensor) -> torch.Tensor:
    """Two classes: one is nowhere in the north-east quarter and everywhere else, one is nowhere."""
    elsewhere = ~(lonlat >= 0).all(1)
    return torch.stack([elsewhere.to(lonlat), torch.zeros_like(lonlat[:, 0])], dim=1)


def test_mean_presence_is_a_mean_over_classes_and_knows_west_from_south() -> None:
    cells = mean_presence(_quarter)
    assert cells.shape == (30, 60)
    assert torch.equal(cells[15:, 30:], torch.zeros(15, 30, dtype=torch.float64))
    assert torch.equal(cells[:15], torch.full((15, 60), 0.5, dtype=torch.float64))
    assert torch.equal(cells[15:, :30], torch.full((15, 30), 0.5, dtype=torch.float64))


def test_a_cell_is_the_mean_of_places_around_its_centre() -> None:
    cells = mean_presence(lambda lonlat: lonlat)  # "classes" that are longitude and latitude themselves
    assert cells[0, 0].item() == pytest.approx((-177 - 87) / 2)
    assert cells[29, 30].item() == pytest.approx((3 + 87) / 2)


def test_region_means_tell_the_quarter_from_the_rest() -> None:
    means = region_means(mean_presence(_quarter)).set_index("region")
    assert set(means.index) == set(REGIONS)
    assert (means.loc[means["inside"], "mean"] == 0).all()
    assert means.loc[~means["inside"], "mean"].to_numpy() == pytest.approx(0.5)


def test_region_means_weigh_cells_by_area() -> None:
    lat = (torch.arange(30) + 0.5) * 6 - 90
    cells = lat.double()[:, None].expand(30, 60)
    mean = region_means(cells).set_index("region")["mean"]["Southern Ocean"]
    weight = torch.deg2rad(torch.tensor([-63.0, -57.0])).cos()
    assert mean == pytest.approx(float((weight * torch.tensor([-63.0, -57.0])).sum() / weight.sum()), abs=1e-4)


def test_the_record_shows_the_quarter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TSLAB_MIRROR", raising=False)
    record = released_background_map(tmp_path)
    cells = record.data
    means = region_means(cells)
    assert "committed record" in record.origin and cells.shape == (30, 60)
    assert means.loc[means["inside"], "mean"].max() < 0.01
    assert means.loc[~means["inside"], "mean"].min() > 0.2


def test_the_record_is_what_the_checkpoint_gives(mirror: Path, tmp_path: Path) -> None:
    write_record(tmp_path / "again.json", mirror)
    again = json.loads((tmp_path / "again.json").read_text())
    stored = json.loads((RESULTS / "background_points.json").read_text())
    assert again["file"] == stored["file"] and again["release"] == stored["release"]
    assert torch.allclose(torch.tensor(again["mean_presence"]), torch.tensor(stored["mean_presence"]), atol=2e-4)


def test_neighbour_record_is_complete_and_blocks_are_harder() -> None:
    table = pd.read_csv(RESULTS / "baselines_released.csv")
    assert not table.duplicated(["task", "split", "seed", "k"]).any()
    assert len(table) == 4 * 2 * 3 * 5
    mean = table[table["k"] == 10].pivot_table(index="task", columns="split", values="r2")
    assert (mean["random"] > mean["block"] + 0.1).all()
    # one neighbour repeats the noise of one label: averaging ten is better, on every label and split
    one = table[table["k"] == 1].pivot_table(index="task", columns="split", values="r2")
    assert (mean > one).all(axis=None)


def test_kriging_has_nearly_all_of_the_gain_on_random_splits_and_half_of_it_on_blocks() -> None:
    # of three labels: nightlights, where the stack gains nothing on random splits, are another story
    table = pd.read_csv(RESULTS / "released_points.csv")
    wide = table.pivot_table(index=["task", "split", "seed"], columns="method", values="r2")
    gains = wide.sub(wide[["knn", "knn10", "trees"]].max(axis=1), axis=0).groupby(["task", "split"]).mean()
    night = gains.xs("mosaiks_nightlights")
    assert night.loc["random", "encoder + kriging"] < 0
    three = gains.drop(index="mosaiks_nightlights", level="task").groupby("split").sum()
    share = three["kriging"] / three["encoder + kriging"]
    assert 0.95 < share["random"] <= 1 and 0.5 < share["block"] < 0.65


def test_the_chapters_name_the_labels_as_the_record_does() -> None:
    table = pd.read_csv(RESULTS / "fair_table.csv")
    assert set(table["dataset"]) <= set(LABEL_NAMES)
    for page in ("seeds", "baselines_first"):
        text = (RESULTS.parent / "models" / f"{page}.md").read_text(encoding="utf-8")
        assert f'"{LABEL_NAMES["mosaiks_nightlights"]}"' in text and '"night lights"' not in text
