"""The native format: a task on disk, in a form that opens fast and says what it is.

    <root>/<name>/meta.json           what `TaskMeta` holds, counts, sizes and SHA-256 of every file
    <root>/<name>/<table>.npz         id, lon, lat, y, user, date, group, year; uncompressed
    <root>/<name>/<table>_image.npy   dense image input, opened memory-mapped
    <root>/<name>/<table>_image.npz   or sparse: data, indices, indptr, shape (CSR)

``<table>`` is train, val or test. A folder is written under a temporary name and renamed when it is complete, so
a reader never meets half of one; a writer that is killed between the renames is repaired by the next reader or writer.
A folder that is no task of tslab is never written over. float32 coordinates and labels are stored as they are; a
missing place is NaN.
"""

import dataclasses
import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from tslab._files import DamagedFileError, atomic_write, only_writer, read_json
from tslab.tasks.columns import TaskDataError
from tslab.tasks.datasets import TaskMeta
from tslab.tasks.images import LazyRows
from tslab.tasks.records import errors_name, open_npy, read_csr, read_npz
from tslab.tasks.table import Table
from tslab.tasks.task import Task

FORMAT_VERSION = 1
TABLES = ("train", "val", "test")
LABEL, IMAGE = ("name", "unit", "transform"), ("kind", "model")
CHUNK_BYTES = 64 << 20

FILES = {"meta.json", *(f"{table}{end}" for table in TABLES for end in (".npz", "_image.npy", "_image.npz"))}
"""Every file name that a task folder may have."""

LONGEST_NAME = 200
"""Bytes of a task's name, so that a temporary name beside it fits, too."""

AGAIN = "make or convert the task again"


def write_task(task: Task, root: str | os.PathLike[str]) -> Path:
    """Write a task to ``<root>/<name>/`` completely or not at all; an earlier task there is replaced at the end.

    On-disk and sparse image inputs are copied in pieces and never become dense. Files in an existing task folder that
    are none of that task are kept. What a writer that was killed left behind is cleaned up.

    Returns:
        the folder.

    Raises:
        TaskDataError: the folder holds something else than a task (a downloaded archive, for instance), the disk is
            full, or the folder cannot be written; nothing is left behind.
        tslab._files.FolderInUseError: another process writes this task there.
    """
    target = task_folder(root, task.name)
    try:
        with _only_writer(target):
            recover(target)
            staging = Path(tempfile.mkdtemp(prefix=_beside(target), dir=target.parent))
            try:
                for name, table in task.tables.items():
                    _write_table(staging, name, table)
                described = json.dumps(_describe(task, staging), indent=2, ensure_ascii=False)
                atomic_write(staging / "meta.json", described + "\n")
                staging.chmod(0o755)
                _swap(staging, target)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
        raise TaskDataError(f"cannot write {target}: {what}; nothing was left behind") from error
    return target


def task_folder(root: str | os.PathLike[str], name: str) -> Path:
    """Where a task of this name is written; nothing is created yet.

    Raises:
        TaskDataError: the name is no plain folder name, or what lies there was not written by `write_task`.
    """
    if name in ("", ".", "..") or len(name.encode()) > LONGEST_NAME or any(c in name for c in "/\\:\0"):
        raise TaskDataError(f"a task named {name!r} cannot be a folder; use dataclasses.replace(task, name=...)")
    target = Path(root).expanduser() / name
    if target.exists() and not (target.is_dir() and (_is_ours(target) or not any(target.iterdir()))):
        why = "holds something that tslab did not write (no meta.json of a task)"
        raise TaskDataError(f"{target} {why}; it was left as it is: choose another folder to write to")
    return target


def read_task(folder: str | os.PathLike[str]) -> Task:
    """Read a task that `write_task` wrote. Dense image inputs stay on disk (`LazyRows`), sparse ones stay sparse.

    A task whose writer was killed between two renames is put back first.

    Raises:
        FileNotFoundError: no such task.
        TaskDataError: the folder is damaged or of another format version.
    """
    folder = Path(folder).expanduser()
    if not (folder / "meta.json").is_file() and _leftovers(folder):
        with _only_writer(folder, wait=10):
            recover(folder)
    described = read_description(folder)
    tables = {name: _read_table(folder, name, described) for name in TABLES}
    return Task(described["name"], tables["train"], tables["val"], tables["test"], _meta(folder, described))


def read_description(folder: Path) -> dict[str, Any]:
    """The contents of ``meta.json``, checked for the format version and for everything that reading a task needs.

    Raises:
        FileNotFoundError: no such file.
        TaskDataError: damaged, or of another version.
    """
    path = folder / "meta.json"
    if not path.is_file():
        hint = "make one with data_scripts/make_synthetic.py, or with data_scripts/fetch_locbench.py --convert"
        raise FileNotFoundError(f"no task in {folder} (no meta.json); {hint}")
    try:
        described = read_json(path, remedy=f"it is not readable JSON; {AGAIN}")
    except DamagedFileError as error:
        raise TaskDataError(str(error)) from error
    if described.get("format_version") != FORMAT_VERSION:
        version = f"format version {described.get('format_version')}"
        raise TaskDataError(f"{path} has {version}, this tslab reads {FORMAT_VERSION}; {AGAIN}")
    kinds = {"name": str, "task": str, "counts": dict, "image": dict, "label": dict, "sha256": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(described.get(key), kind)]
    if not wrong:
        wrong = [f"counts.{name}" for name in TABLES if not isinstance(described["counts"].get(name), int)]
        wrong += [f"sha256.{name}" for name in described["sha256"] if Path(name).name != name]
    if wrong:
        raise TaskDataError(f"{path} is damaged: {', '.join(wrong)} missing or of the wrong kind; {AGAIN}")
    return described


def damaged_files(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the files whose SHA-256 differs from the one in ``meta.json``, or that are gone.

    Raises:
        FileNotFoundError, TaskDataError: as `read_description`.
    """
    folder = Path(folder).expanduser()
    recorded: Mapping[str, str] = read_description(folder)["sha256"]
    there = {name: (folder / name).is_file() for name in recorded}
    return [name for name, sha in recorded.items() if not there[name] or file_sha256(folder / name) != sha]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_table(folder: Path, name: str, table: Table) -> None:
    columns = {n: getattr(table, n).cpu().numpy() for n in ("id", "user", "date", "group", "year")}
    for whole in ("group", "year"):
        columns[whole] = _narrow(columns[whole])
    lon, lat = table.lonlat.cpu().numpy().astype(np.float32).T
    y = table.target.cpu().numpy()
    y = y.astype(np.float32) if y.dtype.kind == "f" else _narrow(y)
    np.savez(folder / f"{name}.npz", id=columns.pop("id"), lon=lon, lat=lat, y=y, **columns)
    if sp.issparse(table.image):
        csr = sp.csr_array(table.image)
        np.savez(folder / f"{name}_image.npz", data=csr.data, indices=csr.indices, indptr=csr.indptr, shape=csr.shape)
    elif table.image is not None:
        _write_rows(folder / f"{name}_image.npy", table.image)


def _narrow(numbers: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers in 32 bits where they fit."""
    narrow = numbers.astype(np.int32)
    return narrow if (narrow == numbers).all() else numbers


def _write_rows(path: Path, image: Tensor | LazyRows) -> None:
    """A dense image input as .npy, a chunk of rows at a time."""
    rows = image if isinstance(image, LazyRows) else image.cpu().numpy()
    step = max(1, CHUNK_BYTES // max(1, rows.shape[1] * rows.dtype.itemsize))
    described = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": rows.shape}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, described)
        for start in range(0, len(rows), step):
            stream.write(np.ascontiguousarray(rows[start : start + step]).tobytes())


def _describe(task: Task, folder: Path) -> dict[str, Any]:
    meta = dataclasses.asdict(task.meta)
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return {
        "format_version": FORMAT_VERSION,
        "name": task.name,
        "task": meta.pop("kind"),
        "n_classes": task.num_classes,
        "coord": "lonlat_deg",
        "counts": {name: len(table) for name, table in task.tables.items()},
        "image": {
            **{part: meta.pop(f"image_{part}") for part in IMAGE},
            "dim": task.image_dim,
            "sparse": any(sp.issparse(table.image) for table in task.tables.values()),
        },
        "label": {part: meta.pop(f"label_{part}") for part in LABEL},
        **meta,
        "sha256": {path.name: file_sha256(path) for path in files},
    }


def _meta(folder: Path, described: Mapping[str, Any]) -> TaskMeta:
    plain = {f.name: described[f.name] for f in dataclasses.fields(TaskMeta) if f.name in described}
    label, image = described["label"], described["image"]
    try:
        nested = {f"label_{part}": label[part] for part in LABEL} | {f"image_{part}": image[part] for part in IMAGE}
        return TaskMeta(kind=described["task"], **nested, **plain)
    except (KeyError, TypeError, ValueError) as error:
        raise TaskDataError(f"{folder / 'meta.json'} is damaged ({error}); {AGAIN}") from error


def _read_table(folder: Path, name: str, described: Mapping[str, Any]) -> Table:
    path, expected = folder / f"{name}.npz", described["counts"][name]
    columns: dict[str, Any] = {}
    for column, values in read_npz(path, ("id", "lon", "lat", "y", "user", "date", "group", "year")).items():
        if values.shape != (expected,) or values.dtype.kind not in "fiu":
            found = f"{column} of shape {values.shape} and {values.dtype}"
            raise TaskDataError(f"{path} has {found}, meta.json says {expected} rows; {AGAIN}")
        columns[column] = torch.from_numpy(values.astype(np.float32 if values.dtype.kind == "f" else np.int64))
    lonlat = torch.stack([columns.pop("lon"), columns.pop("lat")], dim=-1)
    image = _read_image(folder, name, described["sha256"])
    with errors_name(path):
        return Table(lonlat, columns.pop("y"), image, **columns)


def _read_image(folder: Path, name: str, recorded: Mapping[str, str]) -> LazyRows | sp.csr_array | None:
    dense, sparse = folder / f"{name}_image.npy", folder / f"{name}_image.npz"
    gone = [path.name for path in (dense, sparse) if path.name in recorded and not path.is_file()]
    if gone:
        raise FileNotFoundError(f"{folder / gone[0]} is missing; {AGAIN}")
    if dense.is_file():
        return LazyRows(open_npy(dense))
    return read_csr(sparse) if sparse.is_file() else None


def _only_writer(target: Path, wait: float = 0.0) -> AbstractContextManager[None]:
    """Hold the lock of a task folder."""
    lock = target.parent / f".{target.name}.lock"
    return only_writer(lock, hint="wait until it has ended, or choose another folder", wait=wait, keep=False)


def recover(target: Path) -> None:
    """Put back, or finish, what a writer of ``target`` left beside it. Only for who holds its lock."""
    for left in _leftovers(target):
        before = left / target.name
        if before.is_dir() and not target.exists():
            os.replace(before, target)
        elif before.is_dir():
            for path in before.iterdir():  # what is no file of a task moves into the new folder
                if path.name not in FILES and not (target / path.name).exists():
                    os.replace(path, target / path.name)
        shutil.rmtree(left, ignore_errors=True)


def _leftovers(target: Path) -> list[Path]:
    """Folders in which a writer of ``target`` put what it wrote, or what stood there before, by their names."""
    return sorted(target.parent.glob(f"{glob.escape(_beside(target))}*"))


def _beside(target: Path) -> str:
    """How the name of a temporary folder of a writer begins."""
    return f".{target.name}.staging-"


def _is_ours(folder: Path) -> bool:
    """Whether `write_task` wrote the folder: it has the ``meta.json``, or a damaged one without foreign files."""
    if not (folder / "meta.json").is_file():
        return False
    try:
        return {"format_version", "sha256"} <= set(read_json(folder / "meta.json", remedy=AGAIN))
    except DamagedFileError:
        return {path.name for path in folder.iterdir()} <= FILES


def _swap(staging: Path, target: Path) -> None:
    """Put a complete folder in the place of another one; `recover` finishes, here or after a kill."""
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=_beside(target), dir=target.parent))
        os.replace(target, old / target.name)
    try:
        os.replace(staging, target)
    finally:
        recover(target)
