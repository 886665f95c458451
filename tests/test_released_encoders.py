"""Facts about the released checkpoints: the record says what the files say."""

import json

import pytest

from tslab_book import released_encoders

RECORD = released_encoders.RECORD


def test_the_record_shows_one_cell_no_anchors_and_sixteen_octaves():
    facts = json.loads(RECORD.read_text(encoding="utf-8"))["facts"]
    assert facts["tile"]["table_shape"] == [1, 256] and facts["tile"]["largest_difference"] == 0
    assert not [name for name in facts["rbf"]["stored_tensors"] if "anchor" in name]
    assert facts["nerf"]["input_width"] == 6 * 16
    assert facts["wrap_ffn"]["largest_difference"] < 1e-5


def test_without_files_the_record_is_read_and_named(monkeypatch, tmp_path):
    monkeypatch.delenv("TSLAB_MIRROR", raising=False)
    monkeypatch.setenv("TSLAB_DATA", str(tmp_path))
    record = released_encoders.released_encoder_facts()
    assert record.data == json.loads(RECORD.read_text(encoding="utf-8"))["facts"]
    assert "not on the machine that ran this page" in record.origin
    with pytest.raises(FileNotFoundError, match="TSLAB_MIRROR"):
        released_encoders.write_released_encoder_facts(tmp_path / "record.json")


@pytest.mark.mirror
def test_the_record_is_what_the_released_files_give(mirror):
    record = released_encoders.released_encoder_facts(mirror)
    assert "Recomputed now" in record.origin
    facts = record.data
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))["facts"]
    for name in ("tile", "rbf", "nerf"):
        assert facts[name] == recorded[name]
    assert facts["rff"]["extents"] == recorded["rff"]["extents"]
    assert facts["rff"]["same_top_class"] == pytest.approx(recorded["rff"]["same_top_class"], abs=0.01)
