"""The readers of the released archive, on tiny archives written here in the documented format.

Each archive has ids out of order, missing metadata and splits of different sizes, so that a join by position, a
shifted row or a swapped column changes a number that is checked.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from locbench_verification import verify
from tslab import CoordinateError
from tslab.tasks import LazyRows, TaskDataError, load_task
from tslab.tasks.datasets import DATASETS
from tslab.tasks.locbench import load_locbench, training_mask
from tslab.tasks.native import damaged_files, read_task, write_task

LONDON, SUVA, LIMA = (-0.1, 51.5), (178.4, -18.1), (-77.0, -12.0)


def probabilities(rows: int, classes: int, seed: int = 0) -> np.ndarray:
    """Random rows that add up to 1."""
    return np.random.default_rng(seed).dirichlet(np.ones(classes), rows).astype(np.float32)


def write_birds(root: Path, name: str = "birdsnap") -> Path:
    """Three train, one val and four test images, of which one train and one test image were never found."""
    folder = root / name
    (folder / "features_inception").mkdir(parents=True)

    def image(
        number: int, place: tuple[float | None, float | None], *, valid: bool = True, ebird: Any = SUVA
    ) -> dict[str, Any]:
        meta = {
            "lon": place[0],
            "lat": place[1],
            "user_id": None if place[0] is None else number,
            "date": 0.25,
        }
        simulated = {"lon": ebird[0], "lat": ebird[1], "user_id": 7, "date": None}
        entry = {
            "valid_image": valid,
            "im_path": f"{number}.jpg",
            "class_id": number % 3,
            "ebird_meta": simulated,
        }
        return entry | ({"orig_meta": meta} if name == "birdsnap" else {})

    listed = {
        "train": [image(0, LONDON), image(1, LIMA, valid=False), image(2, (None, None))],
        "val": [image(3, LIMA)],
        "test": [image(4, LIMA), image(5, (None, None)), image(6, SUVA, valid=False), image(8, LONDON)],
        "classes": ["auk", "bee-eater", "crane"],
    }
    (folder / f"{name}_with_loc_2019.json").write_text(json.dumps(listed))
    for split, rows in (("train", 2), ("val", 1), ("test", 3)):
        sp.save_npz(
            folder / f"features_inception/{name}_{split}_preds_sparse.npz",
            sp.csr_matrix(probabilities(rows, 3)),
        )
    return folder


def write_coco(folder: Path, annotations: str, locations: str, ids: list[int], places: list[Any]) -> None:
    """Annotations and locations of some images, listed in different orders; the class is the id modulo 3."""
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 1} for i in ids]
    labels = [{"id": 9, "image_id": i, "category_id": i % 3} for i in reversed(ids)]
    (folder / annotations).write_text(json.dumps({"info": {}, "images": images, "annotations": labels}))
    listed = [
        {"id": i, "lon": p and p[0], "lat": p and p[1], "user_id": p and i * 10, "date_c": p and 0.5}
        for i, p in zip(ids, places, strict=True)
    ]
    (folder / locations).write_text(json.dumps(listed[1:] + listed[:1]))


def write_inat(root: Path, year: int = 2018) -> Path:
    """Four training and three validation images; train has no predictions."""
    folder = root / f"inat_{year}"
    (folder / "features_inception").mkdir(parents=True)
    write_coco(folder, f"train{year}.json", f"train{year}_locations.json", [14, 3, 8, 25], [LONDON, None, SUVA, LIMA])
    write_coco(folder, f"val{year}.json", f"val{year}_locations.json", [7, 1, 30], [LIMA, SUVA, None])
    (folder / f"categories{year}.json").write_text(
        json.dumps([{"id": i, "name": n} for i, n in ((2, "c"), (0, "a"), (1, "b"))])
    )
    sparse = sp.csr_matrix(probabilities(3, 3))
    sp.save_npz(folder / f"features_inception/inat{year}_val_preds_sparse.npz", sparse)
    return folder


def write_fmow(root: Path) -> Path:
    folder = root / "fmow"
    (folder / "feature_moco").mkdir(parents=True)
    write_coco(folder, "train.json", "train_location.json", [5, 2], [LONDON, LIMA])
    write_coco(folder, "val.json", "val_location.json", [4, 9, 6], [LONDON, LIMA, SUVA])
    (folder / "category.json").write_text(json.dumps({"zoo": 2, "airport": 0, "barn": 1}))
    np.save(folder / "feature_moco/fmow_val_preds.npy", probabilities(3, 3))
    return folder


def write_yfcc(root: Path) -> Path:
    folder = root / "yfcc"
    (folder / "features_inception").mkdir(parents=True)
    (folder / "class_names.csv").write_text("id,name\n1,beach\n0,arch\n")
    rows = [
        "path,lat,lon,split,class",
        "a,30,-90,test,1",
        "b,40,-100,train,0",
        "c,41,-101,val,1",
        "d,42,-102,test,0",
    ]
    (folder / "train_test_split.csv").write_text("\n".join(rows) + "\n")
    for split, count in (("train", 1), ("val", 1), ("test", 2)):
        np.save(folder / f"features_inception/YFCC_{split}_preds.npy", probabilities(count, 2))
    return folder


def write_mosaiks(root: Path, label: str = "forest") -> Path:
    folder = root / "mosaiks"
    folder.mkdir(parents=True, exist_ok=True)
    rows = pd.DataFrame({"lon": [10.0, 20.0, 30.0, 40.0, 50.0], "lat": [1.0, 2.0, 3.0, 4.0, 5.0]})
    rows["split"] = ["test", "train", "train", "test", "train"]
    rows[label] = [0.0, 1.5, 2.5, 3.5, 4.5]
    rows.to_csv(folder / f"Y_{label}.csv", index=False)
    np.save(folder / f"X_{label}.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    return folder


def write_dhs(root: Path) -> Path:
    folder = root / "sustainbench"
    folder.mkdir(parents=True)
    for name, countries in (("trainval", "AO BJ AO"), ("test", "TZ BJ TZ")):
        keys = [f"{code}-2012-6#-{i:08d}" for i, code in enumerate(countries.split())]
        rows = pd.DataFrame(
            {"DHSID_EA": keys, "year": [2010, 2011, 2012], "lat": [-9.0, 6.5, -8.0], "lon": [13.0, 2.5, 14.0]}
        )
        rows["nl_mean"] = [0.5, 6.0, 1.5]
        for label in (
            "asset_index",
            "women_bmi",
            "water_index",
            "under5_mort",
            "sanitation_index",
            "women_edu",
        ):
            rows[f"{label}_normalized"] = [0.25, np.nan, -1.0] if label == "women_edu" else [0.25, 0.5, -1.0]
        rows.to_csv(folder / f"dhs_{name}_labels.csv", index=False)
    return folder


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """All six families in the documented layout."""
    write_birds(tmp_path)
    write_birds(tmp_path, "nabirds")
    write_inat(tmp_path, 2017)
    write_inat(tmp_path, 2018)
    write_fmow(tmp_path)
    write_yfcc(tmp_path)
    for label in ("population", "forest", "nightlights", "elevation"):
        write_mosaiks(tmp_path, label)
    write_dhs(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_loads_converts_and_reads_back(name: str, archive: Path, tmp_path: Path) -> None:
    task = load_task(name, source="locbench", root=archive)
    again = read_task(write_task(task, tmp_path / "native"))
    assert again.meta.classes == task.meta.classes and again.meta.groups == task.meta.groups
    assert again.meta.licence == task.meta.licence and not again.meta.synthetic
    for split, table in task.tables.items():
        other = again.tables[split]
        pd.testing.assert_frame_equal(other.to_pandas(), table.to_pandas())
        assert (other.image is None) == (table.image is None)
        if table.image is not None:
            torch.testing.assert_close(other.image_rows(), table.image_rows())
            assert type(other.image) is (LazyRows if isinstance(table.image, torch.Tensor) else type(table.image))
    assert damaged_files(tmp_path / "native" / name) == []


def test_birds_rows_are_the_images_that_exist(archive: Path) -> None:
    task = load_locbench("birdsnap", archive)
    assert [len(t) for t in task.tables.values()] == [2, 1, 3]
    torch.testing.assert_close(task.test.lonlat[0], torch.tensor(LIMA))
    assert task.test.has_location.tolist() == [True, False, True]
    assert task.test.target.tolist() == [1, 2, 2] and task.test.user.tolist() == [4, -1, 8]
    assert any("1 of 3 listed images" in note for note in task.meta.notes)
    assert training_mask("birdsnap", task.train).tolist() == [True, False]


def test_birds_have_two_kinds_of_metadata(archive: Path) -> None:
    task = load_locbench("birdsnap_ebird", archive)
    torch.testing.assert_close(task.test.lonlat, torch.tensor([SUVA] * 3))
    assert task.test.date.isnan().all() and not training_mask("birdsnap_ebird", task.test).any()


def test_inat_rows_keep_image_order_and_join_by_id(archive: Path) -> None:
    task = load_locbench("inat2018", archive)
    assert task.train.id.tolist() == [14, 3, 8, 25] and task.train.target.tolist() == [2, 0, 2, 1]
    torch.testing.assert_close(task.train.lonlat[2:], torch.tensor([SUVA, LIMA]))
    assert task.train.user.tolist() == [140, -1, 80, 250] and bool(task.train.date[1].isnan())
    assert task.meta.eval_split == "val" and len(task.test) == 3 and len(task.val) == 0
    assert task.meta.classes == ("a", "b", "c")
    assert task.train.image is None and sp.issparse(task.test.image)
    np.testing.assert_allclose(task.test.image_rows(), probabilities(3, 3), atol=1e-6)


def test_fmow_reads_class_numbers_by_name(archive: Path) -> None:
    task = load_locbench("fmow", archive)
    assert task.meta.classes == ("airport", "barn", "zoo") and task.test.target.tolist() == [1, 0, 0]


def test_yfcc_splits_by_column(archive: Path) -> None:
    task = load_locbench("yfcc", archive)
    assert task.test.target.tolist() == [1, 0] and task.test.lonlat[:, 0].tolist() == [-90, -102]
    assert task.meta.classes == ("arch", "beach") and isinstance(task.test.image, LazyRows)


def test_mosaiks_features_follow_csv_row_numbers_and_stay_on_disk(archive: Path) -> None:
    task = load_locbench("mosaiks_forest_cover", archive)
    assert isinstance(task.train.image, LazyRows) and isinstance(task.train.image.array, np.memmap)
    np.testing.assert_array_equal(task.train.image_rows(), [[2, 3], [4, 5], [8, 9]])
    np.testing.assert_array_equal(task.test.where(torch.tensor([1])).image_rows(), [[6, 7]])
    assert task.train.target.tolist() == [1.5, 2.5, 4.5]


def test_a_seeded_fraction_replaces_the_unseeded_draw(archive: Path) -> None:
    one, two = (load_locbench("mosaiks_forest_cover", archive, fraction=0.7, seed=3) for _ in range(2))
    assert len(one.train) == 2 and torch.equal(one.train.id, two.train.id)
    with pytest.raises(ValueError, match="fraction"):
        load_locbench("mosaiks_forest_cover", archive, fraction=0)


def test_dhs_keeps_country_and_year_and_leaves_out_unlabelled_clusters(archive: Path) -> None:
    task = load_locbench("sustainbench_women_edu", archive)
    assert task.meta.groups == ("AO", "TZ")
    assert task.train.group.tolist() == [0, 0] and task.test.group.tolist() == [1, 1]
    assert task.train.year.tolist() == [2010, 2012] and task.train.image_rows().tolist() == [[0.5], [1.5]]
    assert any("1 of 3 clusters" in note for note in task.meta.notes)


def test_image_input_is_a_choice(archive: Path) -> None:
    bare = load_locbench("inat2018", archive, image="none")
    assert bare.test.image is None and bare.meta.image_kind == "none" and bare.meta.image_model == ""
    assert load_locbench("birdsnap", archive).meta.image_model.startswith("InceptionV3 fine-tuned")
    with pytest.raises(FileNotFoundError, match="net_feats"):
        load_locbench("inat2018", archive, image="feats")
    with pytest.raises(ValueError, match="no image input 'probs'"):
        load_locbench("mosaiks_elevation", archive, image="probs")  # type: ignore[arg-type]


def test_verify_reports_what_differs_from_the_published_facts(archive: Path) -> None:
    report = verify(load_locbench("inat2018", archive))
    failed = {check.what for check in report.failures}
    assert {"train rows", "val rows", "classes"} <= failed and not report.ok
    assert "val sums of predictions" not in failed
    assert "expected 24,426, found 3" in str(report)


def test_verify_sees_swapped_columns_that_are_still_valid_coordinates(archive: Path) -> None:
    task = load_locbench("yfcc", archive)
    swapped = task.test.where(torch.tensor([0]))
    swapped = type(swapped)(lonlat=swapped.lonlat.flip(-1), target=swapped.target, image=swapped.image)
    report = verify(type(task)("yfcc", task.train, task.val, swapped, task.meta))
    assert "test latitudes, 1, 50 and 99 %" in {check.what for check in report.failures}


def test_verify_sees_predictions_that_are_no_probabilities(archive: Path) -> None:
    path = archive / "yfcc/features_inception/YFCC_test_preds.npy"
    np.save(path, 3 * np.load(path))
    report = verify(load_locbench("yfcc", archive))
    assert "test sums of predictions" in {check.what for check in report.failures}


class TestBadInput:
    """Every kind of damage is named, with the file and the next step."""

    def test_no_such_folder(self, tmp_path: Path) -> None:
        (tmp_path / "somewhere_else").mkdir()
        with pytest.raises(
            FileNotFoundError, match=r"expected a folder inat_2018/.*found somewhere_else/.*fetch_locbench"
        ):
            load_locbench("inat2018", tmp_path)

    def test_another_layout(self, archive: Path) -> None:
        (archive / "inat_2018/train2018_locations.json").rename(archive / "inat_2018/places.json")
        with pytest.raises(FileNotFoundError, match=r"expected train2018_locations.json.*found .*places.json"):
            load_locbench("inat2018", archive)

    @pytest.mark.parametrize(
        ("name", "file"),
        [
            ("birdsnap", "birdsnap/birdsnap_with_loc_2019.json"),
            ("birdsnap", "birdsnap/features_inception/birdsnap_test_preds_sparse.npz"),
            ("inat2018", "inat_2018/train2018.json"),
            ("inat2018", "inat_2018/features_inception/inat2018_val_preds_sparse.npz"),
            ("fmow", "fmow/feature_moco/fmow_val_preds.npy"),
            ("mosaiks_forest_cover", "mosaiks/X_forest.npy"),
        ],
    )
    def test_truncated_files(self, name: str, file: str, archive: Path) -> None:
        content = (archive / file).read_bytes()
        (archive / file).write_bytes(content[: int(0.7 * len(content))])
        with pytest.raises(TaskDataError, match=rf"{Path(file).name}.*(truncated|damaged)"):
            load_locbench(name, archive)

    @pytest.mark.parametrize(
        ("name", "file"),
        [
            ("yfcc", "yfcc/train_test_split.csv"),
            ("mosaiks_elevation", "mosaiks/Y_elevation.csv"),
            ("sustainbench_asset_index", "sustainbench/dhs_test_labels.csv"),
        ],
    )
    def test_tables_cut_in_the_middle_of_a_row(self, name: str, file: str, archive: Path) -> None:
        lines = (archive / file).read_text().splitlines()
        lines[-1] = lines[-1].rsplit(",", 2)[0]
        (archive / file).write_text("\n".join(lines))
        with pytest.raises(TaskDataError, match=rf"{Path(file).name} is truncated"):
            load_locbench(name, archive)

    def test_rows_without_a_split(self, archive: Path) -> None:
        path = archive / "yfcc/train_test_split.csv"
        path.write_text(path.read_text().replace("val", ""))
        with pytest.raises(TaskDataError, match="1 rows name no split, the first is row 2"):
            load_locbench("yfcc", archive)

    @pytest.mark.parametrize(
        ("name", "file", "key"),
        [
            ("nabirds", "nabirds/nabirds_with_loc_2019.json", "class_id"),
            ("inat2018", "inat_2018/val2018.json", "category_id"),
            ("fmow", "fmow/val.json", "category_id"),
        ],
    )
    @pytest.mark.parametrize("empty", ["null", "NaN"])
    def test_classes_that_are_missing(self, name: str, file: str, key: str, empty: str, archive: Path) -> None:
        path = archive / file
        path.write_text(path.read_text().replace(f'"{key}": 1', f'"{key}": {empty}'))
        with pytest.raises(TaskDataError, match=rf"{path.name}.*{key}"):
            load_locbench(name, archive)

    def test_words_in_place_of_coordinates(self, archive: Path) -> None:
        path = archive / "inat_2018/val2018_locations.json"
        path.write_text(path.read_text().replace("-77.0", '"west"'))
        with pytest.raises(TaskDataError, match=r"val2018_locations.json: column lon holds .*west"):
            load_locbench("inat2018", archive)

    def test_missing_columns(self, archive: Path) -> None:
        path = archive / "yfcc/train_test_split.csv"
        pd.read_csv(path).drop(columns="lon").to_csv(path, index=False)
        with pytest.raises(TaskDataError, match="lon missing, found path, lat, split, class"):
            load_locbench("yfcc", archive)

    def test_swapped_coordinates(self, archive: Path) -> None:
        path = archive / "yfcc/train_test_split.csv"
        pd.read_csv(path).rename(columns={"lon": "lat", "lat": "lon"}).to_csv(path, index=False)
        with pytest.raises(CoordinateError, match=r"train_test_split.csv.*columns are swapped"):
            load_locbench("yfcc", archive)

    def test_predictions_of_another_length(self, archive: Path) -> None:
        path = archive / "birdsnap/features_inception/birdsnap_test_preds_sparse.npz"
        sp.save_npz(path, sp.csr_matrix(probabilities(4, 3)))
        with pytest.raises(TaskDataError, match="image has 4 rows but lonlat has 3"):
            load_locbench("birdsnap", archive)

    def test_features_of_another_length(self, archive: Path) -> None:
        np.save(archive / "mosaiks/X_elevation.npy", np.zeros((4, 2), np.float32))
        with pytest.raises(TaskDataError, match=r"X_elevation.npy has 4 rows but Y_elevation.csv has 5"):
            load_locbench("mosaiks_elevation", archive)

    def test_predictions_of_another_dataset(self, archive: Path) -> None:
        np.save(archive / "fmow/feature_moco/fmow_val_preds.npy", probabilities(3, 5))
        with pytest.raises(TaskDataError, match="5 columns, the task has 3 classes"):
            load_locbench("fmow", archive)

    def test_nan_labels(self, archive: Path) -> None:
        path = archive / "mosaiks/Y_elevation.csv"
        rows = pd.read_csv(path)
        rows.loc[3, "elevation"] = np.nan
        rows.to_csv(path, index=False)
        with pytest.raises(TaskDataError, match=r"Y_elevation.csv: column elevation, row 3: nan is missing"):
            load_locbench("mosaiks_elevation", archive)

    def test_no_label_at_all(self, archive: Path) -> None:
        path = archive / "sustainbench/dhs_test_labels.csv"
        pd.read_csv(path).assign(women_bmi_normalized=np.nan).to_csv(path, index=False)
        with pytest.raises(TaskDataError, match="NaN in every row"):
            load_locbench("sustainbench_women_bmi", archive)

    def test_text_in_place_of_numbers(self, archive: Path) -> None:
        path = archive / "mosaiks/Y_elevation.csv"
        path.write_text(path.read_text().replace("2.5", "two"))
        with pytest.raises(TaskDataError, match="holds text"):
            load_locbench("mosaiks_elevation", archive)

    def test_images_without_location_entry(self, archive: Path) -> None:
        path = archive / "inat_2018/val2018_locations.json"
        path.write_text(json.dumps([entry for entry in json.loads(path.read_text()) if entry["id"] != 1]))
        with pytest.raises(TaskDataError, match=r"1 of 3 images in val2018.json.*locations.*id 1\)"):
            load_locbench("inat2018", archive)

    def test_ids_that_occur_twice(self, archive: Path) -> None:
        path = archive / "inat_2018/val2018_locations.json"
        entries = json.loads(path.read_text())
        path.write_text(json.dumps([*entries, entries[0]]))
        with pytest.raises(TaskDataError, match="occurs more than once"):
            load_locbench("inat2018", archive)

    def test_class_numbers_that_do_not_start_at_zero(self, archive: Path) -> None:
        path = archive / "fmow/category.json"
        path.write_text(json.dumps({"zoo": 3, "airport": 1, "barn": 2}))
        with pytest.raises(TaskDataError, match="0 to 2, found 1 to 3"):
            load_locbench("fmow", archive)

    def test_a_class_beyond_the_names(self, archive: Path) -> None:
        path = archive / "yfcc/train_test_split.csv"
        path.write_text(path.read_text().replace("test,1", "test,2"))
        with pytest.raises(TaskDataError, match="class 2, but there are 2 classes"):
            load_locbench("yfcc", archive)

    def test_a_split_without_rows(self, archive: Path) -> None:
        path = archive / "mosaiks/Y_elevation.csv"
        path.write_text(path.read_text().replace("test", "holdout"))
        with pytest.raises(TaskDataError, match="no rows of split 'test'; found 'train'"):
            load_locbench("mosaiks_elevation", archive)


def test_nothing_becomes_dense_while_inat_is_read(tmp_path: Path) -> None:
    """30,000 images times 5,000 classes would be 600 MB dense; reading and converting stay far below."""
    folder = write_inat(tmp_path, 2017)
    n, classes = 30_000, 5_000
    ids = list(range(n))
    write_coco(folder, "train2017.json", "train2017_locations.json", ids, [LONDON] * n)
    (folder / "categories2017.json").write_text(json.dumps([{"id": i, "name": str(i)} for i in range(classes)]))
    rng = np.random.default_rng(0)
    picked = rng.integers(0, classes, (n, 8))
    indptr = np.arange(0, 8 * n + 1, 8)
    sparse = sp.csr_matrix((np.full(8 * n, 0.125, np.float32), np.sort(picked, 1).ravel(), indptr), shape=(n, classes))
    sp.save_npz(folder / "features_inception/inat2017_train_preds_sparse.npz", sparse)
    sp.save_npz(folder / "features_inception/inat2017_val_preds_sparse.npz", sp.csr_matrix(probabilities(3, classes)))
    pytest.importorskip("resource", reason="the system does not tell the peak memory of a process")
    code = (
        "import resource, sys; from tslab.tasks.locbench import load_locbench;"
        "from tslab.tasks.native import write_task;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "task = load_locbench('inat2017', sys.argv[1]); write_task(task, sys.argv[2]);"
        "task.train.image_rows(slice(0, 64)); task.train.where(task.train.target > 0);"
        "unit = 2**20 if sys.platform == 'darwin' else 2**10;"  # bytes on macOS
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "native")]
    grown_mb = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown_mb < 150


def test_a_full_disk_leaves_nothing(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_locbench("inat2018", archive)
    write_task(task, tmp_path / "native")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(TaskDataError, match="the disk is full; nothing was left behind"):
        write_task(task, tmp_path / "native")
    with pytest.raises(TaskDataError, match="the disk is full"):
        write_task(task, tmp_path / "empty")
    assert [path.name for path in (tmp_path / "native").iterdir()] == ["inat2018"]
    assert list((tmp_path / "empty").iterdir()) == []
    assert len(read_task(tmp_path / "native/inat2018").test) == 3


def test_damage_of_the_native_format_is_seen(archive: Path, tmp_path: Path) -> None:
    folder = write_task(load_locbench("yfcc", archive), tmp_path / "native")
    content = (folder / "test_image.npy").read_bytes()
    (folder / "test_image.npy").write_bytes(content[:-1] + b"x")
    assert damaged_files(folder) == ["test_image.npy"]
    (folder / "test.npz").write_bytes((folder / "test.npz").read_bytes()[:100])
    with pytest.raises(TaskDataError, match="truncated or damaged"):
        read_task(folder)
    (folder / "meta.json").write_text("{")
    with pytest.raises(TaskDataError, match="not readable JSON"):
        read_task(folder)
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match="make_synthetic"):
        read_task(folder)


def test_gaps_in_images_on_disk_are_found(tmp_path: Path) -> None:
    """Features on disk are not read when a table is made; `verify` looks at some of their rows."""
    task = load_task("mosaiks_elevation", scale="tiny")
    features = task.test.image_rows().numpy()
    features[3] = np.nan
    np.save(tmp_path / "features.npy", features)
    spoilt = replace(task.test, image=LazyRows(np.load(tmp_path / "features.npy", mmap_mode="r")))
    check = next(c for c in verify(replace(task, test=spoilt)).checks if c.what == "test image input")
    assert not check.ok and "first in row 3" in check.found


def test_every_dataset_states_its_terms() -> None:
    assert len(DATASETS) == 17
    assert all(info.licence and info.citation for info in DATASETS.values())


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("train2018_locations.json", lambda text: "[]", "have no entry in train2018_locations.json"),
        (
            "train2018_locations.json",
            lambda text: text.replace('"lon"', '"longitude"'),
            "not one row of train",
        ),
        ("categories2018.json", lambda text: text.replace('"name"', '"nome"'), "a class has no name"),
    ],
)
def test_files_without_what_is_documented_are_named(
    file: str, damage: Any, said: str, archive: Path, tmp_path: Path
) -> None:
    path = next(archive.rglob(file))
    path.write_text(damage(path.read_text()))
    with pytest.raises(TaskDataError, match=said):
        load_locbench("inat2018", archive)
