"""Columns of data frames as a table takes them: every dtype that people have, and a sentence for what cannot be."""

import datetime
import importlib.util
import pickle
import warnings
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from tslab.tasks import LazyRows, Table, Task, TaskDataError, TaskMeta
from tslab.tasks.native import open_npy, read_task, write_task
from tslab.tasks.table import concatenate

HAS_ARROW = importlib.util.find_spec("pyarrow") is not None


def frame(**columns: Any) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    base = {"lon": np.arange(1.0, n + 1), "lat": np.arange(1.0, n + 1), "target": np.zeros(n, dtype=int)}
    return pd.DataFrame({**base, **columns})


def arrow(values: list[Any], kind: str) -> Any:
    pa = pytest.importorskip("pyarrow")
    return pd.Series(values, dtype=object).astype(pd.ArrowDtype(getattr(pa, kind)()))


CLASSES = {
    "int8": np.array([1, 0], dtype=np.int8),
    "uint64": np.array([1, 0], dtype=np.uint64),
    "nullable": pd.array([1, 0], dtype="Int64"),
    "objects": pd.Series([1, 0], dtype=object),
    "truth": np.array([True, False]),
    "truth nullable": pd.array([True, False], dtype="boolean"),
    "truth objects": pd.Series([True, False], dtype=object),
}


@pytest.mark.parametrize("values", CLASSES.values(), ids=CLASSES.keys())
def test_whole_numbers_and_truth_values_are_classes(values: Any) -> None:
    target = Table.from_pandas(frame(target=values)).target
    assert target.dtype == torch.int64 and target.tolist() == [1, 0]


@pytest.mark.parametrize("values", [[1.5, 2.0], [Decimal("1.5"), Decimal(2)], pd.array([1.5, 2.0], dtype="Float64")])
def test_other_numbers_are_values(values: Any) -> None:
    target = Table.from_pandas(frame(target=values)).target
    assert target.dtype == torch.float32 and target.tolist() == [1.5, 2.0]


@pytest.mark.parametrize("kind", ["string", "dictionary"])
def test_arrow_columns(kind: str) -> None:
    pa = pytest.importorskip("pyarrow")
    dtype = pa.dictionary(pa.int8(), pa.string()) if kind == "dictionary" else pa.string()
    table = Table.from_pandas(
        frame(
            target=pd.Series(["oak", "elm"]).astype(pd.ArrowDtype(dtype)),
            user=arrow([2**60 + 1, None], "int64") if kind == "string" else [1, 2],
            date=arrow([datetime.date(2021, 1, 1), None], "date32"),
        )
    )
    assert table.classes == ("elm", "oak") and table.target.tolist() == [1, 0]
    assert table.date[0] == 0 and table.year.tolist() == [2021, -1]
    assert kind != "string" or table.user.tolist() == [2**60 + 1, -1]


def test_names_of_text_labels_and_groups_reach_the_task_and_the_disk(tmp_path: Path) -> None:
    table = Table.from_pandas(frame(target=["oak", "elm", "oak"], group=["Kenya", None, "Chad"]))
    assert table.classes == ("elm", "oak") and table.target.tolist() == [1, 0, 1]
    assert table.groups == ("Chad", "Kenya") and table.group.tolist() == [1, -1, 0]
    task = Task("trees", table, table.where([0]), table, TaskMeta(kind="classification"))
    assert task.meta.classes == ("elm", "oak") and task.num_classes == 2
    again = read_task(write_task(task, tmp_path))
    assert again.meta.classes == ("elm", "oak") and again.meta.groups == ("Chad", "Kenya")
    assert again.train.group.tolist() == [1, -1, 0]


def test_categories_keep_their_order_and_the_unused_ones() -> None:
    table = Table.from_pandas(frame(target=pd.Categorical(["b", "a"], categories=["c", "b", "a"])))
    assert table.classes == ("c", "b", "a") and table.target.tolist() == [1, 2]


def test_a_second_frame_takes_the_numbers_of_the_first() -> None:
    train = Table.from_pandas(frame(target=["a", "b", "c"]))
    other = Table.from_pandas(frame(target=["b", "c"]))
    meta = TaskMeta(kind="classification")
    with pytest.raises(TaskDataError, match="another order"):
        Task("x", train, train, other, meta)
    with pytest.raises(TaskDataError, match="number their classes differently"):
        concatenate([train, other])
    test = Table.from_pandas(frame(target=["c", "b"]), classes=train.classes)
    assert test.target.tolist() == [2, 1] and Task("x", train, train, test, meta).num_classes == 3
    with pytest.raises(TaskDataError, match=r"row 1: 'yew' is not among the 3 names \(a, b, c\)"):
        Table.from_pandas(frame(target=["a", "yew"]), classes=train.classes)
    with pytest.raises(TaskDataError, match="another order"):
        Task("x", train, train, test, TaskMeta(kind="classification", classes=("b", "a", "c")))


def test_names_are_no_values() -> None:
    table = Table.from_pandas(frame(target=["a", "b"]))
    with pytest.raises(TaskDataError, match="a regression needs numbers"):
        Task("x", table, table, table, VALUES)


def test_one_name_alone_is_a_part_of_something() -> None:
    with pytest.raises(TaskDataError, match="'oak' in every row"):
        Table.from_pandas(frame(target=["oak", "oak"]))
    assert Table.from_pandas(frame(target=["oak"]), classes=["elm", "oak"]).target.tolist() == [1]


def test_what_missing_entries_become() -> None:
    table = Table.from_pandas(
        frame(
            lon=[1.0, None],
            user=[7, np.nan],
            group=pd.array([3, None], dtype="Int64"),
            year=[2012.0, np.nan],
            date=[0.5, None],
        )
    )
    assert table.has_location.tolist() == [True, False] and table.user.tolist() == [7, -1]
    assert table.group.tolist() == [3, -1] and table.year.tolist() == [2012, -1]
    assert table.date[0] == 0.5 and bool(table.date[1].isnan())


@pytest.mark.parametrize(
    "values",
    [
        pd.to_datetime(["2020-07-01", None]),
        pd.to_datetime(["2020-07-01", None]).tz_localize("UTC"),
        [datetime.date(2020, 7, 1), None],
        ["2020-07-01", None],
    ],
)
def test_dates_become_fractions_of_their_year(values: Any) -> None:
    """2020 is a leap year: 182 of 366 days have passed before the first of July."""
    table = Table.from_pandas(frame(date=values))
    assert table.date[0] == pytest.approx(182 / 366) and bool(table.date[1].isnan())
    assert table.year.tolist() == [2020, -1]


def test_the_last_moment_of_a_year_is_still_in_it() -> None:
    table = Table.from_pandas(frame(date=["2021-12-31T23:59:59.999999"], year=[1999]))
    assert 0.999 < float(table.date) < 1 and table.year.tolist() == [1999]


def test_large_numbers_survive_memory_and_disk(tmp_path: Path) -> None:
    large = 2**40 + 1
    table = Table.from_pandas(frame(id=[large, 1], group=[large, 0], user=[large, 2]))
    task = Task("large", table, table, table, TaskMeta(kind="classification", classes=("only",)))
    again = read_task(write_task(task, tmp_path)).train
    for name in ("id", "group", "user"):
        assert getattr(again, name)[0] == large


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"target": [1.0, np.nan]}, r"target\[1\] is NaN"),
        ({"target": [1.0, np.inf]}, r"target\[1\] is infinite"),
        ({"target": pd.array([1, None], dtype="Int64")}, r"target\[1\] is NaN"),
        ({"target": ["a", 3]}, "column target holds values of several kinds"),
        ({"target": [1e300, 1]}, r"target, row 0: 1e\+300 is too large"),
        ({"lon": ["1", "2"]}, r"column lon holds text \('1' in row 0\).*to_numeric"),
        ({"lat": [True, False]}, "column lat holds truth values"),
        ({"user": [1, 1.5]}, "user, row 1: 1.5 is no whole number"),
        ({"user": ["ann", "bob"]}, "column user holds text.*factorize"),
        ({"id": [1, None]}, "id, row 1: nan is missing"),
        ({"id": np.array([1, 2**64 - 1], dtype=np.uint64)}, "id, row 1: 18446744073709551615 does not fit"),
        ({"user": [2.0**60, 1]}, "row 0.*'Int64'"),
        ({"date": [0.5, 181]}, "date, row 1: 181.0 is no fraction of the year"),
        ({"date": ["2020-07-01", "soon"]}, "date, row 1: 'soon' is no date"),
        ({"date": [True, False]}, "column date holds truth values"),
        ({"year": pd.to_datetime(["2020-01-01"])}, "column year holds dates"),
        ({"image": [1.0, np.nan]}, r"image\[1\] holds NaN"),
    ],
)
def test_what_cannot_be_is_refused_with_column_and_row(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskDataError, match=message):
        Table.from_pandas(frame(**columns))


def test_a_column_that_is_there_twice_is_refused() -> None:
    once = frame(target=[1])
    with pytest.raises(TaskDataError, match="2 columns 'lon'"):
        Table.from_pandas(pd.concat([once, once[["lon"]]], axis=1))


def test_the_kind_of_label_can_be_said() -> None:
    assert Table.from_pandas(frame(target=[3, 4]), kind="regression").target.tolist() == [3.0, 4.0]
    assert Table.from_pandas(frame(target=[3.0, 4.0]), kind="classification").target.dtype == torch.int64
    with pytest.raises(TaskDataError, match=r"row 0: 3\.5 is no whole number"):
        Table.from_pandas(frame(target=[3.5, 4.0]), kind="classification")
    with pytest.raises(ValueError, match="kind 'classes' is not known"):
        Table.from_pandas(frame(target=[3]), kind="classes")  # type: ignore[arg-type]


def test_whole_numbers_of_a_regression_become_values() -> None:
    table = Table.from_pandas(frame(target=[3, 4]))
    assert Task("x", table, table, table, TaskMeta(kind="regression")).test.target.dtype == torch.float32


def test_series_with_an_index_of_their_own_are_columns_and_masks() -> None:
    index = pd.Index([7, 9])
    table = Table(
        pd.DataFrame({"lon": [1.0, 2.0], "lat": [3.0, 4.0]}, index=index),
        pd.Series([1, 0], index=index),
        user=pd.Series([5, None], index=index, dtype="Int64"),
        image=np.ones((2, 3)),
    )
    assert table.lonlat.tolist() == [[1, 3], [2, 4]] and table.user.tolist() == [5, -1]
    assert table.where(pd.Series([False, True], index=index)).target.tolist() == [0]
    with pytest.raises(TaskDataError, match=r"mask must be .* whole numbers, got float64"):
        table.where([0.5])
    with pytest.raises(TaskDataError, match=r"make a mask of it with \.bool"):
        Table(torch.ones(4, 2), torch.zeros(4)).where(pd.Series([0, 1, 0, 1]))
    with pytest.raises(TaskDataError, match="uint8"):
        table.where(torch.tensor([0, 1], dtype=torch.uint8))


def test_places_at_zero_zero_are_mentioned_once() -> None:
    with pytest.warns(UserWarning, match=r"3 of 4 rows lie at exactly \(0, 0\)"):
        table = Table(torch.tensor([[0.0, 0.0]] * 3 + [[1.0, 1.0]]), torch.zeros(4, dtype=torch.int64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table.where([0, 1]).to("cpu")
        Table(torch.tensor([[0.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 1]))


def test_images_with_gaps_are_refused_in_memory() -> None:
    place, label = torch.ones(2, 2), torch.tensor([0, 1])
    with pytest.raises(TaskDataError, match=r"image\[1\] holds NaN or infinite numbers \(1 such rows\)"):
        Table(place, label, torch.tensor([[1.0, 2.0], [1.0, np.nan]]))
    with pytest.raises(TaskDataError, match="row 0 holds NaN"):
        Table(place, label, sp.csr_array(np.array([[np.nan, 0], [0, 1]])))
    with pytest.raises(TaskDataError, match=r"shape \(n, d\).*None"):
        Table(place, label, torch.ones(2))


class TestPickles:
    """Tables travel to other processes without the files or tensors that they are parts of."""

    @pytest.fixture
    def stored(self, tmp_path: Path) -> np.ndarray[Any, Any]:
        path = tmp_path / "rows.npy"
        np.save(path, np.arange(40_000, dtype=np.float32).reshape(4000, 10))
        return open_npy(path)

    @pytest.mark.parametrize("part", [slice(None), slice(100, 300)])
    def test_rows_on_disk_travel_as_a_path(self, stored: np.ndarray[Any, Any], part: slice) -> None:
        rows = LazyRows(stored[part]).select(np.arange(5, 15))
        table = Table(torch.ones(10, 2), torch.zeros(10, dtype=torch.int64), rows)
        content = pickle.dumps(table.dataset())
        again = pickle.loads(content).table
        assert len(content) < 5000 and isinstance(again.image.array, np.memmap)
        np.testing.assert_array_equal(again.image[:], rows[:])

    def test_a_task_can_be_split_anew_after_its_journey(self, stored: np.ndarray[Any, Any]) -> None:
        whole = Table(torch.ones(4000, 2), torch.zeros(4000), LazyRows(stored))
        task = Task("x", whole.where(range(3000)), whole.where([]), whole.where(range(3000, 4000)), VALUES)
        again = pickle.loads(pickle.dumps(task)).resplit()
        assert sum(map(len, again.tables.values())) == 4000

    def test_a_file_that_changed_is_named(self, stored: np.ndarray[Any, Any]) -> None:
        content = pickle.dumps(LazyRows(stored))
        path = Path(stored.filename)
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(TaskDataError, match=r"rows\.npy changed"):
            pickle.loads(content)
        path.unlink()
        with pytest.raises(FileNotFoundError, match=r"rows\.npy is gone"):
            pickle.loads(content)

    def test_views_travel_without_the_rest(self) -> None:
        large = torch.ones(100_000, 2)
        table = Table(large[:3], torch.zeros(100_000, dtype=torch.int64)[:3])
        assert len(pickle.dumps(table)) < 5000


VALUES = TaskMeta(kind="regression")


def test_facts_of_a_task_are_checked() -> None:
    with pytest.raises(ValueError, match="kind 'cls' is not known"):
        TaskMeta(kind="cls")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="classes must be a sequence"):
        TaskMeta(kind="classification", classes="abc")  # type: ignore[arg-type]
    table = Table(torch.ones(2, 2), torch.zeros(2), group=torch.tensor([0, 3]))
    with pytest.raises(TaskDataError, match="row 1 has group 3, but meta names 1 groups"):
        Task("x", table, table, table, TaskMeta(kind="regression", groups=("Kenya",)))
    wide, narrow = (Table(torch.ones(2, 2), torch.zeros(2), torch.ones(2, width)) for width in (3, 4))
    with pytest.raises(TaskDataError, match="4 wide, that of other rows 3"):
        Task("x", wide, wide, narrow, VALUES)


@pytest.mark.parametrize("names", [["oak", "oak", "elm"], "oe"])
def test_names_that_are_not_a_list_of_different_names_are_refused(names: Any) -> None:
    """With a name twice, a class would get a number beyond the number of classes."""
    with pytest.raises(TaskDataError, match="each stands once"):
        Table.from_pandas(frame(target=["oak", "elm"]), classes=names)


def test_a_single_column_is_no_frame() -> None:
    with pytest.raises(TaskDataError, match="one Series"):
        Table.from_pandas(frame(target=[0, 1])["lon"])  # type: ignore[arg-type]


def test_a_header_that_cannot_be_parsed_is_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.ones((3, 2), np.float32))
    for damage in (b"(", b"'"):
        content = path.read_bytes()
        path.write_bytes(content.replace(b"}", damage, 1))
        with pytest.raises(TaskDataError, match=r"rows\.npy is truncated"):
            open_npy(path)
        path.write_bytes(content)


def test_complex_numbers_are_no_images() -> None:
    """Their imaginary part would be dropped."""
    with pytest.raises(TaskDataError, match="complex"):
        Table(torch.zeros(2, 2) + 1, torch.tensor([0, 1]), image=np.ones((2, 3), complex))
