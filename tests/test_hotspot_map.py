"""The hot-spot map: a patch with a known rate is found, luck is not, and the record is what the release gives."""

import numpy as np
import pytest
import torch

from tslab_book.hotspot_map import (
    ENCODERS,
    MIN_IMAGES,
    NUM_LAT,
    NUM_LON,
    RECORD,
    as_field,
    hotspots,
    released_hotspots,
)
from tslab_book.records import read_record


def test_a_patch_that_is_right_more_often_is_hot_and_nothing_else_is():
    generator = torch.Generator().manual_seed(0)
    lonlat = torch.rand((4000, 2), generator=generator, dtype=torch.float64) * 16
    patch = (lonlat < 4).all(1)
    hits = (torch.rand(4000, generator=generator) < torch.where(patch, 0.95, 0.5)).double()
    lonlat[7] = float("nan")
    cells, totals = hotspots(lonlat, hits)
    assert totals["images"] == cells["images"].sum() == 3999
    assert totals["permuted"] < 0.01 < totals["hot"]
    corner = (cells["lon_index"] == NUM_LON // 2) & (cells["hot"] > 0.9)
    assert corner.any() and cells.loc[cells["lon_index"] > NUM_LON // 2 + 1, "hot"].max() < 0.05
    assert np.nanmax(as_field(cells)) == cells["hot"].max() and as_field(cells).shape == (NUM_LAT, NUM_LON)


def test_the_record_holds_only_cells_of_enough_images():
    record = read_record(RECORD)
    assert set(record.data["encoder"]) == set(ENCODERS) == set(record.about["totals"])
    assert record.data["images"].min() >= MIN_IMAGES
    for encoder, cells in record.data.groupby("encoder"):
        whole = record.about["totals"][encoder]
        assert 0.95 * whole["images"] < cells["images"].sum() <= whole["images"]
        assert np.average(cells["hot"], weights=cells["images"]) == pytest.approx(whole["hot"], abs=0.02)


@pytest.mark.mirror
def test_the_record_is_what_the_release_gives(mirror):
    cells, totals = released_hotspots(ENCODERS[0], mirror)
    record = read_record(RECORD)
    assert totals == pytest.approx(record.about["totals"][ENCODERS[0]])
    stored = record.data[record.data["encoder"] == ENCODERS[0]].reset_index(drop=True)
    assert stored["images"].tolist() == cells["images"].tolist()
    assert np.allclose(stored["cold"], cells["cold"], atol=1e-3)
