"""The native format: a task on disk, in a form that opens fast and says what it is.

    <root>/<name>/meta.json           what `TaskMeta` holds, counts, sizes and SHA-256 of every file
    <root>/<name>/<table>.npz         id, lon, lat, y, user, date, group, year; uncompressed
    <root>/<name>/<table>_image.npy   dense image input, opened memory-mapped
    <root>/<name>/<table>_image.npz   or sparse: data, indices, indptr, shape (CSR)

``<table>`` is train, val or test. A folder is written under a temporary name and renamed when it is complete, so
a reader never meets half of one. float32 coordinates and labels are stored as they are; a missing place is NaN.
"""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from tslab._files import atomic_write
from tslab.tasks.task import LazyRows, Table, Task, TaskDataError, TaskMeta

FORMAT_VERSION = 1
TABLES = ("train", "val", "test")
CHUNK_BYTES = 64 << 20


def write_task(task: Task, root: str | os.PathLike[str]) -> Path:
    """Write a task to ``<root>/<name>/`` completely or not at all; an existing folder is replaced at the end.

    On-disk and sparse image inputs are copied in pieces and never become dense.

    Returns:
        the folder.

    Raises:
        TaskDataError: the disk is full, or the folder cannot be written; nothing is left behind.
    """
    target = Path(root).expanduser() / task.name
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{task.name}-", dir=target.parent))
    try:
        for name, table in task.tables.items():
            _write_table(staging, name, table)
        atomic_write(
            staging / "meta.json", json.dumps(_describe(task, staging), indent=2, ensure_ascii=False) + "\n"
        )
        staging.chmod(0o755)
        _swap(staging, target)
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise TaskDataError(f"cannot write {target}: {what}; nothing was left behind") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def read_task(folder: str | os.PathLike[str]) -> Task:
    """Read a task that `write_task` wrote. Dense image inputs stay on disk (`LazyRows`), sparse ones stay sparse.

    Raises:
        FileNotFoundError: no such task.
        TaskDataError: the folder is damaged or of another format version.
    """
    folder = Path(folder).expanduser()
    described = read_description(folder)
    tables = {name: _read_table(folder, name, described) for name in TABLES}
    return Task(described["name"], tables["train"], tables["val"], tables["test"], _meta(described))


def read_description(folder: Path) -> dict[str, Any]:
    """The contents of ``meta.json``, checked for the format version."""
    path = folder / "meta.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no task in {folder} (no meta.json); make one with data_scripts/make_synthetic.py, or convert "
            "a downloaded archive with data_scripts/fetch_locbench.py --convert"
        )
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TaskDataError(
            f"{path} is not readable JSON ({error}); make or convert the task again"
        ) from error
    if described.get("format_version") != FORMAT_VERSION:
        raise TaskDataError(
            f"{path} has format version {described.get('format_version')}, this tslab reads {FORMAT_VERSION}; "
            "make or convert the task again"
        )
    return described


def damaged_files(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the files whose SHA-256 differs from the one in ``meta.json``, or that are gone."""
    folder = Path(folder).expanduser()
    recorded: Mapping[str, str] = read_description(folder)["sha256"]
    return [
        name
        for name, sha in recorded.items()
        if not (folder / name).is_file() or file_sha256(folder / name) != sha
    ]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_table(folder: Path, name: str, table: Table) -> None:
    lonlat = table.lonlat.cpu().numpy()
    target = table.target.cpu().numpy()
    np.savez(
        folder / f"{name}.npz",
        id=table.id.cpu().numpy(),
        lon=lonlat[:, 0].astype(np.float32),
        lat=lonlat[:, 1].astype(np.float32),
        y=target.astype(np.float32) if target.dtype.kind == "f" else _narrow(target),
        user=table.user.cpu().numpy().astype(np.int64),
        date=table.date.cpu().numpy().astype(np.float32),
        group=_narrow(table.group.cpu().numpy()),
        year=_narrow(table.year.cpu().numpy()),
    )
    if sp.issparse(table.image):
        csr = sp.csr_array(table.image)
        np.savez(
            folder / f"{name}_image.npz",
            data=csr.data,
            indices=csr.indices,
            indptr=csr.indptr,
            shape=csr.shape,
        )
    elif table.image is not None:
        _write_rows(folder / f"{name}_image.npy", table.image)


def _narrow(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Whole numbers in 32 bits where they fit, in 64 where they do not."""
    limits = np.iinfo(np.int32)
    fits = len(numbers) == 0 or (limits.min <= numbers.min() and numbers.max() <= limits.max)
    return numbers.astype(np.int32 if fits else np.int64)


def _write_rows(path: Path, image: Tensor | LazyRows) -> None:
    """A dense image input as .npy, a chunk of rows at a time."""
    dtype = image.dtype if isinstance(image, LazyRows) else image.cpu().numpy().dtype
    width = image.shape[1]
    step = max(1, CHUNK_BYTES // max(1, width * dtype.itemsize))
    with path.open("wb") as stream:
        header = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": tuple(image.shape),
        }
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, image.shape[0], step):
            rows = image[start : start + step]
            stream.write(
                np.ascontiguousarray(rows.cpu().numpy() if isinstance(rows, Tensor) else rows).tobytes()
            )


def _describe(task: Task, folder: Path) -> dict[str, Any]:
    meta = dataclasses.asdict(task.meta)
    images = {name: table.image for name, table in task.tables.items()}
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return {
        "format_version": FORMAT_VERSION,
        "name": task.name,
        "task": meta.pop("kind"),
        "n_classes": task.num_classes,
        "coord": "lonlat_deg",
        "counts": {name: len(table) for name, table in task.tables.items()},
        "image": {
            "kind": meta.pop("image_kind"),
            "model": meta.pop("image_model"),
            "dim": task.image_dim,
            "sparse": any(sp.issparse(image) for image in images.values()),
        },
        "label": {part: meta.pop(f"label_{part}") for part in ("name", "unit", "transform")},
        **meta,
        "sha256": {path.name: file_sha256(path) for path in files},
    }


def _meta(described: Mapping[str, Any]) -> TaskMeta:
    known = {f.name for f in dataclasses.fields(TaskMeta)}
    plain = {name: value for name, value in described.items() if name in known}
    plain |= {name: tuple(plain.get(name, ())) for name in ("classes", "groups", "notes")}
    label, image = described["label"], described["image"]
    return TaskMeta(
        kind=described["task"],
        image_kind=image["kind"],
        image_model=image["model"],
        label_name=label["name"],
        label_unit=label["unit"],
        label_transform=label["transform"],
        **plain,
    )


def _read_table(folder: Path, name: str, described: Mapping[str, Any]) -> Table:
    path = folder / f"{name}.npz"
    expected = described["counts"][name]
    columns = read_npz(path, ("id", "lon", "lat", "y", "user", "date", "group", "year"))
    if len(columns["y"]) != expected:
        raise TaskDataError(
            f"{path} has {len(columns['y'])} rows, meta.json says {expected}; convert the task again"
        )
    target = columns["y"].astype(np.float32 if columns["y"].dtype.kind == "f" else np.int64)
    extra = {n: torch.from_numpy(columns[n].astype(np.int64)) for n in ("id", "user", "group", "year")}
    return Table(
        lonlat=torch.from_numpy(np.stack([columns["lon"], columns["lat"]], axis=1)),
        target=torch.from_numpy(target),
        image=_read_image(folder, name),
        date=torch.from_numpy(columns["date"]),
        **extra,
    )


def _read_image(folder: Path, name: str) -> LazyRows | sp.csr_array | None:
    dense, sparse = folder / f"{name}_image.npy", folder / f"{name}_image.npz"
    if dense.is_file():
        return LazyRows(open_npy(dense))
    return read_csr(sparse) if sparse.is_file() else None


def open_npy(path: Path) -> np.ndarray[Any, Any]:
    """A .npy file, memory-mapped.

    Raises:
        TaskDataError: truncated, or no .npy file.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise TaskDataError(
            f"{path} is truncated or no .npy file ({error}); download or convert it again"
        ) from error


def read_csr(path: Path) -> sp.csr_array:
    """A sparse matrix in the layout of ``scipy.sparse.save_npz`` (CSR), as float32; never made dense.

    Raises:
        TaskDataError: truncated, another format, or index arrays that do not belong together.
    """
    parts = read_npz(path, ("data", "indices", "indptr", "shape"))
    stored = parts.get("format")
    if stored is not None and stored.item() not in (b"csr", "csr"):
        raise TaskDataError(f"{path} holds a sparse matrix in {stored.item()!r} format, expected csr")
    data = parts["data"].astype(np.float32, copy=False)
    try:
        matrix = sp.csr_array((data, parts["indices"], parts["indptr"]), shape=tuple(parts["shape"]))
        matrix.check_format(full_check=False)
    except (ValueError, TypeError) as error:
        raise TaskDataError(
            f"{path} is not a sound CSR matrix ({error}); download or convert it again"
        ) from error
    return matrix


def read_npz(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Arrays of an .npz file; all of ``names`` must be there, an optional ``format`` is read along.

    Raises:
        FileNotFoundError, TaskDataError: absent, truncated or without one of the arrays.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; download or convert the task again")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive]
            if missing:
                raise TaskDataError(
                    f"{path} holds no {', '.join(missing)}; it has {', '.join(archive.files)}"
                )
            return {name: archive[name] for name in (*names, "format") if name in archive}
    except (zipfile.BadZipFile, EOFError, OSError, KeyError) as error:
        raise TaskDataError(
            f"{path} is truncated or damaged ({error}); download or convert it again"
        ) from error
    except ValueError as error:
        if isinstance(error, TaskDataError):
            raise
        raise TaskDataError(f"{path} is damaged ({error}); download or convert it again") from error


def _swap(staging: Path, target: Path) -> None:
    """Put a complete folder in the place of another one."""
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
        os.replace(target, old / target.name)
        try:
            os.replace(staging, target)
        except OSError:
            os.replace(old / target.name, target)
            raise
        finally:
            shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(staging, target)
