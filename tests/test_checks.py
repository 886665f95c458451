"""Arguments are refused with their name, files are whole or named, a folder has one writer."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from tslab._checks import check_choice, check_count, check_number
from tslab._files import DamagedFileError, FolderInUseError, atomic_path, atomic_write, only_writer, read_json


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 0, "3", True, None])
def test_a_number_out_of_range_is_refused_with_its_name(value: object) -> None:
    with pytest.raises(ValueError, match=r"^lr must be a finite number above 0, got .*; use 1e-3$"):
        check_number("lr", value, above=0, hint="use 1e-3")  # type: ignore[type-var]


def test_numbers_of_numpy_are_numbers_and_bounds_are_closed_or_open_as_said() -> None:
    assert check_number("lr", np.float32(0.5), at_least=0.5, at_most=0.5) == 0.5
    with pytest.raises(ValueError, match="below 1"):
        check_number("dropout", 1.0, at_least=0, below=1)


@pytest.mark.parametrize("value", [1.0, True, "1", 0])
def test_a_count_is_a_whole_number(value: object) -> None:
    with pytest.raises(ValueError, match=r"^epochs must be"):
        check_count("epochs", value)  # type: ignore[arg-type]
    assert check_count("epochs", np.int64(3)) == 3


def test_an_unknown_word_gets_the_known_ones() -> None:
    with pytest.raises(ValueError, match="schedule 'cosin' is not known; choose one of cosine, exponential"):
        check_choice("schedule", "cosin", ["cosine", "exponential"])
    assert check_choice("fusion", None, [None, "concat"]) is None


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1]", b"[" * 100_000])
def test_a_damaged_json_file_is_named_with_the_way_out(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"plan\.json .*; delete it$"):
        read_json(path, remedy="delete it")


def test_a_full_disk_names_the_file_and_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    atomic_write(path, "before")
    with pytest.raises(OSError, match=r"no space left to write .*table\.csv") as caught, atomic_path(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "run" / ".lock"
    refused = pytest.raises(FolderInUseError, match=r"run is being written .*; wait")
    with only_writer(lock, hint="wait"), refused, only_writer(lock, hint="wait"):
        raise AssertionError("two writers")
    with only_writer(lock, hint="wait"):
        pass
