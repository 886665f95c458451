"""Tasks on disk: nothing of others is lost, nothing damaged is believed, a killed writer leaves a whole task."""

import io
import json
import multiprocessing
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from tslab._files import FolderInUseError, only_writer
from tslab.coords import CoordinateError
from tslab.tasks import Table, Task, TaskDataError, TaskMeta
from tslab.tasks.native import read_task, write_task
from tslab.tasks.records import open_npy, read_csr, read_npz


def task(rows: int = 4, name: str = "mine") -> Task:
    places = torch.arange(2.0 * rows).reshape(rows, 2) + 1
    table = Table(places, torch.arange(rows) % 2, torch.ones(rows, 2) / 2)
    meta = TaskMeta(kind="classification", classes=("a", "b"), image_kind="probs")
    return Task(name, table, table.where([]), table, meta)


class TestFoldersOfOthers:
    """Only what tslab wrote is replaced."""

    def test_an_archive_is_never_written_over(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/train_test_split.csv").write_text("downloaded for hours")
        with pytest.raises(TaskDataError, match="did not write"):
            write_task(task(), tmp_path)
        assert os.listdir(tmp_path) == ["mine"] and os.listdir(tmp_path / "mine") == ["train_test_split.csv"]

    @pytest.mark.parametrize("meta", ["{}", "[1]", "{", '{"name": "of another program"}'])
    def test_a_meta_json_of_another_program_is_no_licence(self, meta: str, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        for name, content in (("meta.json", meta), ("data.csv", "1")):
            (tmp_path / "mine" / name).write_text(content)
        with pytest.raises(TaskDataError, match="did not write"):
            write_task(task(), tmp_path)
        assert (tmp_path / "mine/meta.json").read_text() == meta

    def test_a_plain_file_in_the_way_stays(self, tmp_path: Path) -> None:
        (tmp_path / "mine").write_text("mine")
        with pytest.raises(TaskDataError, match="did not write"):
            write_task(task(), tmp_path)
        assert (tmp_path / "mine").read_text() == "mine"

    def test_notes_beside_a_task_survive_its_replacement(self, tmp_path: Path) -> None:
        folder = write_task(task(4), tmp_path)
        (folder / "notes.txt").write_text("mine")
        (folder / "plots").mkdir()
        write_task(task(6), tmp_path)
        assert (folder / "notes.txt").read_text() == "mine" and (folder / "plots").is_dir()
        assert len(read_task(folder).train) == 6 and os.listdir(tmp_path) == ["mine"]

    def test_hidden_folders_beside_a_task_stay(self, tmp_path: Path) -> None:
        """A backup under a name like that of a temporary folder is nobody's leftover."""
        write_task(task(), tmp_path)
        for name in (".mine-20240101", ".mine.lock-old", ".mine-other.staging-abcdefgh"):
            (tmp_path / name).mkdir()
        write_task(task(), tmp_path)
        assert len(os.listdir(tmp_path)) == 4

    def test_old_image_files_do_not_stay(self, tmp_path: Path) -> None:
        folder = write_task(task(), tmp_path)
        bare = task()
        tables = {n: replace(t, image=None) for n, t in bare.tables.items()}
        write_task(replace(bare, **tables), tmp_path)
        assert read_task(folder).train.image is None

    @pytest.mark.parametrize("name", ["../up", "a/b", "..", "", "C:x", "a\\b", "n" * 300])
    def test_names_that_are_no_folder_names(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(TaskDataError, match="cannot be a folder"):
            write_task(task(name=name), tmp_path / "root")
        assert os.listdir(tmp_path) == []

    def test_a_damaged_task_can_be_made_again(self, tmp_path: Path) -> None:
        folder = write_task(task(), tmp_path)
        (folder / "meta.json").write_text("{")
        with pytest.raises(TaskDataError, match="make or convert the task again"):
            read_task(folder)
        assert len(read_task(write_task(task(), tmp_path)).train) == 4


def write_and_die(folder: Path, at: int) -> None:
    """Write a task of six rows and end without cleaning up at the ``at``-th rename of a folder."""
    real, seen = os.replace, []

    def dying(source: Any, target: Any) -> None:
        if Path(source).is_dir():
            seen.append(source)
            if len(seen) == at:
                os._exit(9)
        real(source, target)

    os.replace = dying
    write_task(task(6), folder)


@pytest.mark.parametrize(("at", "rows"), [(1, 4), (2, 4), (3, 6)])
def test_a_writer_killed_in_the_swap_leaves_one_whole_task(at: int, rows: int, tmp_path: Path) -> None:
    folder = write_task(task(4), tmp_path)
    (folder / "notes").mkdir()
    process = multiprocessing.get_context("fork").Process(target=write_and_die, args=(tmp_path, at))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert len(read_task(folder).train) == rows
    write_task(task(5), tmp_path)
    assert len(read_task(folder).train) == 5 and (folder / "notes").is_dir()
    assert os.listdir(tmp_path) == ["mine"]


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with (
        only_writer(tmp_path / ".mine.lock", hint="wait"),
        pytest.raises(FolderInUseError, match="wait until"),
    ):
        write_task(task(), tmp_path)
    write_task(task(), tmp_path)


def spoiled(path: Path, **changes: Any) -> Path:
    """A CSR file of two rows and three columns with some of its arrays replaced."""
    matrix = sp.csr_array(np.array([[1, 0, 0], [0, 2, 3]], dtype=np.float32))
    parts = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr, "shape": (2, 3)}
    np.savez(path, **{**parts, **changes})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indices": np.array([0, 1, 2**30], dtype=np.int32)}, "column indices 0 to 1073741824"),
        ({"indices": np.array([0, -1, 2])}, "column indices -1 to 2"),
        ({"indices": np.array([0, 1, 2**40])}, "column indices"),
        ({"indices": np.array([0.0, 1, 2])}, "dtypes"),
        ({"indices": np.array([0, 1])}, "indptr must rise"),
        ({"indptr": np.array([0, 5, 3])}, "indptr must rise"),
        ({"indptr": np.array([1, 1, 3])}, "indptr must rise"),
        ({"indptr": np.array([0, 2**62, 3])}, "indptr must rise"),
        ({"indptr": np.array([0, 3])}, "indptr has 2 entries"),
        ({"data": np.ones(2, dtype=np.float32)}, "2 numbers but 3"),
        ({"data": np.array([1, np.nan, 1])}, "row 1 holds NaN"),
        ({"data": np.array(["a", "b", "c"])}, "dtypes"),
        ({"data": np.ones((3, 1))}, "one dimension"),
        ({"shape": (2, -3)}, "shape must be"),
        ({"shape": (2, 3, 1)}, "shape must be"),
        ({"shape": (2.0, 3.5)}, "shape must be"),
        ({"shape": (10**12, 3)}, "indptr has 3 entries"),
        ({"format": "csc"}, "'csc' format"),
        ({"format": np.array(["csr", "csc"])}, "format"),
    ],
)
def test_sparse_files_are_checked_entry_by_entry(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """scipy follows an index without looking: one that lies outside ends the process."""
    with pytest.raises(TaskDataError, match=message) as caught:
        read_csr(spoiled(tmp_path / "p.npz", **changes))
    assert "p.npz" in str(caught.value)


def test_sound_sparse_files_are_read(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_csr(spoiled(tmp_path / "p.npz", format="csr")).toarray(), [[1, 0, 0], [0, 2, 3]])
    np.testing.assert_array_equal(
        read_csr(spoiled(tmp_path / "p.npz", indices=np.array([0, 1, 2], dtype=np.uint8))).toarray(),
        [[1, 0, 0], [0, 2, 3]],
    )


def header(shape: str) -> bytes:
    """A .npy file that announces more than it holds."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(16)


@pytest.mark.parametrize("shape", ["(1000000000000, 8)", "(-1, 8)", "(99999999999999999999, 2)", "(2,)", "()"])
def test_arrays_that_announce_what_they_do_not_hold(shape: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(header(shape))
    with pytest.raises(TaskDataError, match=r"a\.npy"):
        open_npy(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("data.npy", header(shape))
    if shape not in ("(2,)", "()"):
        with pytest.raises(TaskDataError, match=r"a\.npz is truncated or damaged"):
            read_npz(tmp_path / "a.npz", ("data",))


def test_arrays_of_another_kind_are_refused(tmp_path: Path) -> None:
    for number, array in enumerate([np.array([["a"]]), np.zeros((2, 2), dtype=complex), np.zeros(3)]):
        np.save(tmp_path / f"{number}.npy", array)
        with pytest.raises(TaskDataError, match=rf"{number}\.npy holds"):
            open_npy(tmp_path / f"{number}.npy")
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    (tmp_path / "a.npz").write_bytes(content.getvalue())
    with pytest.raises(TaskDataError, match=r"a\.npz is truncated or damaged .*no \.npz"):
        read_npz(tmp_path / "a.npz", ("data",))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("label"),
        lambda d: d.pop("counts"),
        lambda d: d["counts"].update(train="4"),
        lambda d: d.update(sha256={"../../etc/passwd": ""}),
        lambda d: d.update(task="cls"),
        lambda d: d["image"].pop("kind"),
        lambda d: d.update(classes=5),
        lambda d: d.update(name=None),
        lambda d: d.update(label=[]),
        lambda d: d.update(counts=[4, 0, 4]),
    ],
)
def test_a_spoiled_description_is_named(change: Any, tmp_path: Path) -> None:
    folder = write_task(task(), tmp_path)
    described = json.loads((folder / "meta.json").read_text())
    change(described)
    (folder / "meta.json").write_text(json.dumps(described))
    with pytest.raises(TaskDataError, match=r"meta\.json is damaged"):
        read_task(folder)


def test_spoiled_columns_are_named(tmp_path: Path) -> None:
    folder = write_task(task(), tmp_path)
    sound = dict(np.load(folder / "test.npz"))
    spoilt = {
        "lat": (sound["lat"] * 100, CoordinateError),
        "lon": (sound["lon"][:, None], TaskDataError),
        "y": (sound["y"] - 5, TaskDataError),
        "user": (sound["user"][:2], TaskDataError),
        "date": (np.array(["a"] * 4), TaskDataError),
    }
    for name, (values, error) in spoilt.items():
        np.savez(folder / "test.npz", **{**sound, name: values})
        with pytest.raises(error, match=r"test\.npz"):
            read_task(folder)
    np.savez(folder / "test.npz", **sound)
    (folder / "test_image.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"test_image\.npy is missing"):
        read_task(folder)
