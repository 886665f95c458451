"""Tables and tasks: what may be in them, how they travel, how they look; and the toy task."""

import importlib.util
import math
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from tslab import CoordinateError
from tslab.earth import is_land
from tslab.tasks import DATASETS, LazyRows, Table, Task, TaskDataError, TaskMeta, load_task
from tslab.tasks.loading import RELEASED_COUNTS, released_points
from tslab.tasks.native import open_npy, read_task, write_task
from tslab.tasks.table import TableDataset, concatenate

HAS_GEOPARQUET = all(importlib.util.find_spec(name) for name in ("geopandas", "pyarrow"))


@pytest.fixture
def table() -> Table:
    return Table(
        lonlat=torch.tensor([[179.5, -16.0], [math.nan, math.nan], [0.1, 51.5], [10.0, -89.5]]),
        target=torch.tensor([0, 2, 1, 2]),
        image=torch.tensor([[0.7, 0.2, 0.1], [0, 0, 1], [0.5, 0.5, 0], [0.1, 0.1, 0.8]]),
        user=torch.tensor([5, -1, 5, 8]),
        date=torch.tensor([0.25, math.nan, 0.5, 0.75]),
        id=torch.tensor([40, 10, 30, 20]),
        group=torch.tensor([0, -1, 1, 1]),
        year=torch.tensor([2011, -1, 2012, 2015]),
    )


def as_kind(table: Table, kind: str, tmp_path: Path) -> Table:
    """The same table with its image input dense, sparse or on disk."""
    if kind == "dense":
        return table
    values = table.image_rows().numpy()
    if kind == "sparse":
        return replace(table, image=sp.csr_array(values))
    np.save(tmp_path / "image.npy", values)
    return replace(table, image=LazyRows(open_npy(tmp_path / "image.npy")))


@pytest.mark.parametrize("kind", ["dense", "sparse", "disk"])
class TestImageInputs:
    """Dense, sparse and on-disk image inputs behave alike."""

    def test_filters_compose(self, table: Table, kind: str, tmp_path: Path) -> None:
        given = as_kind(table, kind, tmp_path)
        kept = given.where(given.has_location).where(torch.tensor([2, 0]))
        assert kept.id.tolist() == [20, 40] and kept.year.tolist() == [2015, 2011]
        torch.testing.assert_close(kept.image_rows(), table.image[[3, 0]])
        assert type(kept.image) is type(given.image)

    def test_batches(self, table: Table, kind: str, tmp_path: Path) -> None:
        given = as_kind(table, kind, tmp_path)
        loader = torch.utils.data.DataLoader(given.dataset(), batch_size=3)
        rows = torch.cat([batch["image"] for batch in loader])
        torch.testing.assert_close(rows, table.image)
        assert given.dataset()[-1]["target"] == 2
        torch.testing.assert_close(given.image_rows(slice(1, 3)), table.image[1:3])

    def test_round_trip_through_the_native_format(self, table: Table, kind: str, tmp_path: Path) -> None:
        meta = TaskMeta(kind="classification", classes=("a", "b", "c"), image_kind="probs")
        given = as_kind(table, kind, tmp_path)
        empty = given.where(torch.zeros(4, dtype=torch.bool))
        again = read_task(write_task(Task("tiny", given, empty, given, meta), tmp_path / "out"))
        pd.testing.assert_frame_equal(again.train.to_pandas(), given.to_pandas())
        torch.testing.assert_close(again.test.image_rows(), table.image)
        assert again.meta == meta and len(again.val) == 0

    def test_concatenation_undoes_a_split(self, table: Table, kind: str, tmp_path: Path) -> None:
        given = as_kind(table, kind, tmp_path)
        whole = concatenate([given.where(torch.tensor([0, 1])), given.where(torch.tensor([2, 3]))])
        pd.testing.assert_frame_equal(whole.to_pandas(), given.to_pandas())
        torch.testing.assert_close(whole.image_rows(), table.image)


def test_pandas_round_trip_keeps_every_column(table: Table) -> None:
    again = Table.from_pandas(table.to_pandas(), image=table.image)
    pd.testing.assert_frame_equal(again.to_pandas(), table.to_pandas())
    assert again.target.dtype == torch.int64
    values = Table(lonlat=table.lonlat, target=torch.tensor([0.5, 1, 2, 3]), image=torch.ones(4, 1))
    assert Table.from_pandas(values.to_pandas()).image_rows().tolist() == [[1.0]] * 4


def test_pandas_frames_without_coordinates_are_refused() -> None:
    with pytest.raises(TaskDataError, match="no column lon, lat"):
        Table.from_pandas(pd.DataFrame({"longitude": [0.0], "latitude": [0.0], "target": [1]}))


def test_geoparquet(table: Table, tmp_path: Path) -> None:
    """With geopandas and pyarrow a round trip; without them an error that says what to install."""
    path = tmp_path / "table.parquet"
    if not HAS_GEOPARQUET:
        with pytest.raises(ImportError, match=r"pip install 'tslab\[geo\]'"):
            table.to_geoparquet(path)
        return
    table.to_geoparquet(path)
    again = Table.from_geoparquet(path, image=table.image)
    frames = (t.to_pandas() for t in (again, table))
    pd.testing.assert_frame_equal(*frames, check_column_type=False)  # type: ignore[arg-type]


@pytest.mark.skipif(not HAS_GEOPARQUET, reason="needs geopandas and pyarrow: pip install 'tslab[geo]'")
def test_geoparquet_is_read_in_its_own_coordinate_system(tmp_path: Path) -> None:
    import geopandas

    path = tmp_path / "places.parquet"
    points = geopandas.GeoDataFrame({"target": [0, 1]}, geometry=geopandas.points_from_xy([10, 11.5], [50, 48.25]))
    points.set_crs(4326).to_crs("EPSG:32632").to_parquet(path)
    torch.testing.assert_close(Table.from_geoparquet(path).lonlat, torch.tensor([[10.0, 50.0], [11.5, 48.25]]))
    points.to_parquet(path)
    with pytest.raises(CoordinateError, match=r"places\.parquet: .* no coordinate system.*set_crs"):
        Table.from_geoparquet(path)
    points.set_crs(3857).buffer(1).to_frame("geometry").assign(target=0).to_parquet(path)
    with pytest.raises(CoordinateError, match=r"places\.parquet: row 0: geometry Polygon is not a point"):
        Table.from_geoparquet(path)


def test_columns_must_have_the_same_length(table: Table) -> None:
    with pytest.raises(TaskDataError, match="user has 3 rows but lonlat has 4"):
        replace(table, user=table.user[:3])


def test_targets_must_be_there(table: Table) -> None:
    with pytest.raises(TaskDataError, match=r"target\[1\] is NaN \(1 such rows\)"):
        replace(table, target=torch.tensor([0.0, math.nan, 1.0, 2.0]))
    with pytest.raises(TaskDataError, match=r"target\[0\] is negative"):
        replace(table, target=torch.tensor([-1, 0, 1, 2]))


def test_swapped_columns_are_named(table: Table) -> None:
    with pytest.raises(CoordinateError, match="swapped"):
        replace(table, lonlat=table.lonlat.flip(-1))


def test_classes_must_exist(table: Table) -> None:
    with pytest.raises(TaskDataError, match="class 2, but there are 2 classes"):
        Task("x", table, table, table, TaskMeta(kind="classification", classes=("a", "b")))


def test_a_mask_of_another_table_is_refused(table: Table) -> None:
    with pytest.raises(TaskDataError, match="mask has 3 entries"):
        table.where(torch.tensor([True, False, True]))


def test_to_moves_every_column(table: Table) -> None:
    moved = table.to("cpu")
    assert moved.device == torch.device("cpu") and len(moved) == 4


@pytest.mark.gpu
def test_columns_on_the_gpu(table: Table) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    moved = table.to("cuda")
    assert moved.where(moved.has_location).image_rows().device.type == "cuda"


def test_dataset_rejects_rows_that_are_not_there(table: Table) -> None:
    with pytest.raises(IndexError):
        TableDataset(table)[4]


class TestToy:
    """The toy task: real land, known ranges, known best accuracy."""

    def test_it_takes_less_than_a_second(self) -> None:
        load_task("sphere_toy")
        start = time.perf_counter()
        load_task("sphere_toy", seed=1)
        assert time.perf_counter() - start < 1

    def test_the_same_seed_gives_the_same_bytes(self) -> None:
        one, two, other = (load_task("sphere_toy", seed=s) for s in (3, 3, 4))
        for split in ("train", "val", "test"):
            assert torch.equal(one.tables[split].lonlat, two.tables[split].lonlat)
            assert torch.equal(one.tables[split].target, two.tables[split].target)
        assert not torch.equal(one.test.lonlat, other.test.lonlat)
        assert not torch.equal(one.train.lonlat[:1024], one.val.lonlat)

    def test_the_generator_is_pinned(self) -> None:
        """Change the numbers only together with TOY_VERSION."""
        task = load_task("sphere_toy")
        assert task.meta.generator_version == "1"
        assert task.train.target[:8].tolist() == PINNED_TARGETS
        np.testing.assert_allclose(task.train.lonlat[:3].numpy(), PINNED_PLACES, atol=1e-4)

    def test_species_live_on_land_at_the_date_line_and_near_the_poles(self) -> None:
        task = load_task("sphere_toy")
        assert is_land(task.train.lonlat).all()
        lon, lat = task.train.lonlat.T
        assert float((lon.abs() > 168).float().mean()) > 0.1 and float((lat.abs() > 66).float().mean()) > 0.15
        bering = task.train.lonlat[task.train.target == 0]
        assert (bering[:, 0] > 170).any() and (bering[:, 0] < -170).any()

    def test_nothing_beats_the_ceiling_and_the_truth_reaches_it(self) -> None:
        task = load_task("sphere_toy", n_test=20_000)
        posterior = task.truth(task.test.lonlat)
        torch.testing.assert_close(posterior.sum(-1), torch.ones(20_000, dtype=torch.float64))
        accuracy = float((posterior.argmax(-1) == task.test.target).double().mean())
        assert accuracy == pytest.approx(task.meta.ceiling["location_top1"], abs=0.008)

    def test_larger_ranges_are_harder(self) -> None:
        ceilings = [load_task("sphere_toy", spread=s, n_train=1).meta.ceiling["location_top1"] for s in (0.5, 1, 4)]
        assert ceilings[0] > ceilings[1] > ceilings[2]


PINNED_TARGETS = [0, 6, 3, 6, 3, 8, 5, 3]
PINNED_PLACES = [[164.3368, 61.5729], [5.7622, -82.7654], [-42.0781, 72.8968]]


class TestDisplay:
    """What a task shows."""

    def test_text_counts_rows(self) -> None:
        text = repr(load_task("sphere_toy"))
        assert "4,096 rows" in text and "synthetic" in text and "12 classes" in text

    def test_html_is_small_sound_and_has_text_alternatives(self) -> None:
        page = load_task("sphere_toy")._repr_html_()
        tree = ET.fromstring(page)
        drawings = [e for e in tree.iter() if e.tag == "svg"]
        assert len(drawings) == 2 and all(d.get("aria-label") for d in drawings)
        assert "synthetic" in page and len(page) < 40_000

    def test_html_escapes_what_files_may_hold(self, table: Table) -> None:
        meta = TaskMeta(kind="classification", classes=("a", "b", "c"), licence="<script>")
        assert "<script>" not in Task("x", table, table, table, meta)._repr_html_()

    def test_empty_tables_have_a_picture_too(self, table: Table) -> None:
        empty = table.where(torch.zeros(4, dtype=torch.bool))
        meta = TaskMeta(kind="classification", classes=("a", "b", "c"))
        assert "svg" in Task("x", empty, empty, empty, meta)._repr_html_()


def test_a_validation_split_is_taken_from_train_only() -> None:
    task = load_task("sphere_toy")
    assert task.with_validation() is task
    bare = replace(task, val=task.val.where(torch.zeros(len(task.val), dtype=torch.bool)))
    split = bare.with_validation(0.25, seed=1)
    assert len(split.val) == 1024 and sorted([*split.train.id.tolist(), *split.val.id.tolist()]) == list(range(4096))
    assert torch.equal(split.test.lonlat, task.test.lonlat) and "at random" in split.meta.notes[-1]
    assert len(bare.with_validation(0.25, size_km=2000).val) == pytest.approx(1024, rel=0.3)


def test_resplitting_keeps_all_rows_and_forgets_ceilings() -> None:
    task = load_task("sphere_toy")
    split = task.resplit((0.5, 0.2, 0.3), size_degrees=10)
    assert sum(map(len, split.tables.values())) == sum(map(len, task.tables.values())) and not split.meta.ceiling


def test_unknown_names_and_sources_say_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"no task 'inat'.*inat2018.*sphere_toy"):
        load_task("inat")
    with pytest.raises(ValueError, match="source"):
        load_task("inat2018", source="kaggle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mosaiks_elevation"):
        load_task("yfcc", source="released")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_task("sphere_toy", seed=-1), "seed must be"),
        (lambda: load_task("sphere_toy", seed=1.5), "seed must be a whole number"),  # type: ignore[arg-type]
        (lambda: load_task("yfcc", scale="medium"), "scale 'medium' is not known"),  # type: ignore[arg-type]
        (lambda: load_task("sphere_toy", n_train=-1), "n_train must be"),
        (lambda: load_task("sphere_toy", n_test=True), "n_test must be"),
        (lambda: load_task("sphere_toy", spread=math.nan), "spread must be"),
        (lambda: load_task("sphere_toy", spread=math.inf), "spread must be"),
        (lambda: load_task("yfcc", split="spatial"), "split 'spatial' is not known"),
        (lambda: load_task("yfcc", source="native", root=".", image="none"), "takes no image"),
        (lambda: load_task("yfcc", source="locbench", root=".", fraction=0.0), "fraction must be"),
        (lambda: load_task("yfcc", source="locbench", root=".", fraction=math.nan), "fraction must be"),
        (lambda: load_task("yfcc", source="locbench", root=".", image="pixels"), "image 'pixels'"),
        (lambda: load_task("inat2018", source="locbench", root=".", variant="highres"), "variant 'highres'"),
        (lambda: load_task("yfcc", source="locbench", root=".", variant="high_res"), "variant 'high_res'"),
        (lambda: load_task("mosaiks_elevation", source="released", fractions=(0.5, 0.5)), "three"),
        (lambda: load_task("mosaiks_elevation", source="released", size_km=10), "split='block'"),
        (lambda: load_task("sphere_toy").with_validation(1.5), "fraction must be"),
        (lambda: load_task("sphere_toy").resplit((math.nan, 0.5, 0.5)), "add up to 1"),
        (lambda: load_task("sphere_toy").resplit(seed=-1), "seed must be"),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.mirror
class TestReleasedPoints:
    """The real MOSAIKS points inside the released results."""

    @pytest.mark.parametrize(("name", "count"), RELEASED_COUNTS.items())
    def test_the_counts_are_exact(self, name: str, count: int, mirror: Path) -> None:
        task = load_task(name, source="released", root=mirror)
        tables = list(task.tables.values())
        assert sum(map(len, tables)) == count and not task.meta.synthetic
        assert all(bool(t.has_location.all()) for t in tables)
        places = concatenate(tables).lonlat.double().numpy()
        assert len(np.unique(np.round(places, 4), axis=0)) == count

    def test_labels_are_in_the_stated_unit(self, mirror: Path) -> None:
        elevation = released_points("mosaiks_elevation", mirror)["label"]
        forest = released_points("mosaiks_forest_cover", mirror)["label"]
        assert elevation.min() < 0 and 5000 < elevation.max() < 8850
        assert forest.max() <= math.log1p(100) + 1e-3 and (forest == 0).mean() == pytest.approx(0.36, abs=0.01)

    def test_block_splits_of_real_points(self, mirror: Path) -> None:
        task = load_task("mosaiks_elevation", source="released", root=mirror, split="block", size_km=1000)
        assert len(task.test) / RELEASED_COUNTS["mosaiks_elevation"] == pytest.approx(0.1, abs=0.01)
        assert "equal-area" in task.meta.notes[1]
        with pytest.raises(ValueError, match="split 'spatial' is not known; choose one of random, block"):
            load_task("mosaiks_elevation", source="released", root=mirror, split="spatial")


def test_released_points_without_files_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSLAB_MIRROR", raising=False)
    monkeypatch.setenv("TSLAB_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="fetch_released"):
        load_task("mosaiks_elevation", source="released")


def test_seventeen_datasets() -> None:
    """Counts that the papers of the datasets print."""
    assert len(DATASETS) == 17
    classes = {name: info.num_classes for name, info in DATASETS.items() if info.kind == "classification"}
    assert classes == {
        "birdsnap": 500,
        "birdsnap_ebird": 500,
        "nabirds": 555,
        "inat2017": 5089,
        "inat2018": 8142,
        "yfcc": 100,
        "fmow": 62,
    }
    assert DATASETS["inat2018"].splits["val"].rows == 24_426  # three photographs of each species
    assert DATASETS["inat2017"].splits["train"].rows == 579_184
    assert all(info.num_classes == 0 and "r2" in info.no_prior for info in list(DATASETS.values())[7:])


def test_what_a_dataset_says_of_itself_fits_together() -> None:
    for name, info in DATASETS.items():
        assert info.key == name and info.licence and info.upstream.startswith("https://") and info.citation
        assert info.train_split != info.eval_split and {info.train_split, info.eval_split} <= set(info.splits)
        assert all(0 <= score < 1 for score in info.no_prior.values())
        south, middle, north = info.lat_quantiles or (-90, 0, 90)
        assert -90 <= south < middle < north <= 90
        for facts in info.splits.values():
            assert facts.rows is None or (facts.kept or 0) + (facts.missing or 0) <= facts.rows
