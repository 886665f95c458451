"""Files that others made, JSON, CSV and arrays: opened without trust, joined by their ids, and made into tables.

Every reader names the file, what was expected and what was found. Columns are read by `tslab.tasks.columns`, as those
of any data frame. No row is dropped, nothing is filled in to make things fit, and no pickled object is ever loaded.
`Archive` is the unpacked folder of one dataset of the release; which file holds which image input stands in
``data/locbench_files.json``: family, variant of the image model, kind of input, and for that the model and (for
classes) the file.
"""

import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from tslab._files import data_folder, packaged_json
from tslab._files import read_csv as read_exact_csv
from tslab.coords import CoordinateError
from tslab.tasks.columns import TaskDataError, TaskKind, read_numbers, read_whole_numbers
from tslab.tasks.datasets import DatasetInfo, ImageKind
from tslab.tasks.images import GivenImage, ImageInput, LazyRows, csr_fault
from tslab.tasks.table import Table


def read_json(path: Path, *keys: str, keep: Collection[str] | None = None) -> Any:
    """A JSON file; of every object in it only the keys in ``keep`` (all if None), which saves most of the memory.

    Args:
        path: of the file.
        keys: the file holds an object with these keys; without any it may hold anything.
        keep: see above.

    Raises:
        TaskDataError: truncated, no JSON, or no such object.
    """
    hook = None if keep is None else lambda pairs: {key: value for key, value in pairs if key in keep}
    try:
        with path.open("rb") as stream:
            whole = json.load(stream, object_pairs_hook=hook)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TaskDataError(f"{path} is truncated or not JSON ({error}); download it again") from error
    if keys and not (isinstance(whole, dict) and whole.keys() >= {*keys}):
        found = sorted(whole) if isinstance(whole, dict) else type(whole).__name__
        raise TaskDataError(f"{path}: expected an object with {', '.join(keys)}, found {found}")
    return whole


def read_entries(path: Path, listed: Any, *keys: str) -> pd.DataFrame:
    """A JSON list of objects as a frame with the columns ``keys``, of which the first must be in every object.

    Raises:
        TaskDataError: something else.
    """
    if not isinstance(listed, list) or not all(isinstance(entry, dict) and keys[0] in entry for entry in listed):
        raise TaskDataError(f"{path}: expected a list of objects with {', '.join(keys)}, found something else")
    return pd.DataFrame(listed, columns=[*keys])


def read_csv(path: Path, *columns: str) -> pd.DataFrame:
    """A CSV that must have ``columns``; all columns are read.

    Raises:
        TaskDataError: truncated, or without one of the columns.
    """
    try:
        rows = read_exact_csv(path, low_memory=False)
    except (ValueError, UnicodeDecodeError) as error:
        raise TaskDataError(f"{path} is not a readable CSV ({error}); download it again") from error
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        ended = stream.read(1) in b"\r\n"
    if len(rows) and pd.isna(rows.iloc[-1, -1]) and not ended:
        raise TaskDataError(f"{path} is truncated: it ends in the middle of row {len(rows) - 1}; download it again")
    missing = [name for name in columns if name not in rows]
    if missing:
        found = ", ".join(map(str, rows.columns))
        raise TaskDataError(f"{path}: expected {', '.join(columns)}; {', '.join(missing)} missing, found {found}")
    return rows


def make_table(path: Path, rows: pd.DataFrame, label: str, kind: TaskKind, image: GivenImage = None) -> Table:
    """A table of rows as they were read; a place with one coordinate missing is missing.

    Args:
        path: where they come from.
        rows: columns lon, lat and ``label``, and those of user, date, id, group and year that there are.
        label: the column to predict.
        kind: what its numbers are.
        image: image input, row by row.

    Raises:
        TaskDataError, tslab.CoordinateError: values that cannot be; names ``path``.
    """
    with errors_name(path):
        lonlat = torch.stack([read_numbers(name, rows[name]) for name in ("lon", "lat")], -1)
        lonlat[lonlat.isnan().any(-1)] = torch.nan
        target = whole_numbers(rows, label) if kind == "classification" else read_numbers(label, rows[label])
        columns = {name: rows[name] for name in ("user", "id", "group", "year") if name in rows}
        date = read_numbers("date", rows["date"]) if "date" in rows else None
        return Table(lonlat, target, image, date=date, **columns)


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Put ``path`` in front of what is said of columns that came from there."""
    try:
        yield
    except (CoordinateError, TaskDataError) as error:
        raise type(error)(f"{path}: {error}") from error


def whole_numbers(rows: pd.DataFrame, name: str) -> torch.Tensor:
    """A column that must hold whole numbers in every row."""
    return read_whole_numbers(name, rows[name], missing=None)


def places_of(wanted: pd.DataFrame, path: Path, found: pd.DataFrame, source: Path, key: str) -> NDArray[np.int64]:
    """Where each id of the images ``wanted`` stands in the column ``key`` of ``found``; each must stand there once.

    Raises:
        TaskDataError: an image that has no entry, an entry that is there twice, ids that are no whole numbers.
    """
    with errors_name(path):
        ids = whole_numbers(wanted, "id").numpy()
    with errors_name(source):
        known = pd.Index(whole_numbers(found, key).numpy())
    if known.has_duplicates:
        raise TaskDataError(f"{source}: {key} {known[known.duplicated()][0]} occurs more than once")
    at = known.get_indexer(ids)
    if (at < 0).any():
        lost = ids[at < 0]
        count = f"{len(lost):,} of {len(ids):,} images in {path.name}"
        raise TaskDataError(f"{count} have no entry in {source.name} (the first is id {lost[0]}); download both again")
    return at


def class_names(path: Path, rows: pd.DataFrame) -> tuple[str, ...]:
    """Class names (column ``name``) ordered by number (``id``), which must run from 0 without gaps."""
    with errors_name(path):
        numbers = whole_numbers(rows, "id").numpy()
    if rows["name"].isna().any():
        raise TaskDataError(f"{path}: a class has no name; download it again")
    if sorted(numbers) != [*range(len(numbers))]:
        found = f"{min(numbers)} to {max(numbers)}"
        raise TaskDataError(f"{path}: class numbers must be 0 to {len(numbers) - 1}, found {found}")
    return tuple(rows["name"].astype(str).iloc[np.argsort(numbers)])


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Whatever NumPy and zipfile raise means a damaged file; NumPy parses a header as Python, so it may be anything."""
    try:
        yield
    except TaskDataError:
        raise
    except Exception as error:
        raise TaskDataError(f"{path} is truncated or damaged ({error}); download or convert it again") from error


def open_npy(path: Path) -> NDArray[Any]:
    """A .npy file of numbers in two dimensions, memory-mapped.

    Raises:
        TaskDataError: truncated, no .npy file, or something else than rows of numbers.
    """
    with _opening(path):
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise TaskDataError(f"{path} holds {array.dtype}, shape {array.shape}; expected rows of numbers, shape (n, d)")
    return array


def read_csr(path: Path) -> sp.csr_array:
    """A sparse matrix in the layout of ``scipy.sparse.save_npz`` (CSR), as float32; never made dense.

    Every index is checked, because compiled code follows them without looking.

    Raises:
        TaskDataError: truncated, another format, or index arrays that do not belong together.
    """
    parts = read_npz(path, ("data", "indices", "indptr", "shape"))
    stored = parts["format"].tolist() if "format" in parts else "csr"
    if stored not in (b"csr", "csr"):
        raise TaskDataError(f"{path} holds a sparse matrix in {stored!r} format, expected csr")
    data, indices, indptr = (parts[name] for name in ("data", "indices", "indptr"))
    shape = tuple(parts["shape"].ravel().tolist())
    fault = csr_fault(data, indices, indptr, shape)
    if fault:
        raise TaskDataError(f"{path} is not a sound CSR matrix ({fault}); download or convert it again")
    with _opening(path):
        return sp.csr_array((data.astype(np.float32, copy=False), indices, indptr), shape=shape)


def read_npz(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Arrays of an .npz file; all of ``names`` must be there, an optional ``format`` is read along.

    Raises:
        FileNotFoundError, TaskDataError: absent, truncated or without one of the arrays.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; download or convert the task again")
    with _opening(path):
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("one array, no .npz archive")
        with archive:
            missing = [name for name in names if name not in archive]
            if missing:
                raise TaskDataError(f"{path} holds no {', '.join(missing)}; it has {', '.join(archive.files)}")
            return {name: archive[name] for name in (*names, "format") if name in archive}


ImageChoice = Literal["default", "probs", "feats", "none"]

IMAGE_FILES: dict[str, dict[str, dict[ImageKind, dict[str, str]]]] = packaged_json("locbench_files.json")
"""Family -> variant -> kind of image input -> its model, and for classes its file without the ending."""

HOW_TO_GET = (
    "download it with `python data_scripts/fetch_locbench.py`, or pass root= (or set TSLAB_LOCBENCH to) the "
    "folder that holds birdsnap/, inat_2018/, mosaiks/ and so on; source='synthetic' needs no download"
)


def locbench_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Where the unpacked archive is looked for: ``root``, ``TSLAB_LOCBENCH``, ``locbench`` in tslab's cache folder."""
    return Path(root or os.environ.get("TSLAB_LOCBENCH") or data_folder() / "locbench").expanduser()


@dataclass(frozen=True)
class Archive:
    """The unpacked folder of one dataset, and which image input of it is wanted."""

    info: DatasetInfo
    folder: Path
    image: ImageKind
    variant: str

    @property
    def image_model(self) -> str:
        """Where the image input comes from."""
        return "" if self.image == "none" else IMAGE_FILES[self.info.family][self.variant][self.image]["model"]

    def path(self, *names: str) -> Path:
        """The first of several possible files that is there.

        Raises:
            FileNotFoundError: none is; lists what the folder holds instead.
        """
        for name in names:
            if (self.folder / name).is_file():
                return self.folder / name
        expected = f"expected {' or '.join(names)} in {self.folder}"
        raise FileNotFoundError(f"{self.info.key}: {expected}, found {_listing(self.folder)}; {HOW_TO_GET}")

    def class_image(self, split: str) -> ImageInput:
        """Predictions or features of one split; None where the release has none, except for the evaluated rows."""
        if self.image == "none":
            return None
        pattern = IMAGE_FILES[self.info.family][self.variant][self.image]["file"]
        name = pattern.format(split=split, stem=self.info.folder.replace("_", ""))
        names = [f"{name}{end}" for end in ("_sparse.npz", ".npy")]
        if split != self.info.eval_split and not any((self.folder / name).is_file() for name in names):
            return None
        found = self.path(*names)
        return read_csr(found) if found.suffix == ".npz" else LazyRows(open_npy(found))


def open_archive(info: DatasetInfo, root: str | os.PathLike[str] | None, image: ImageChoice, variant: str) -> Archive:
    """The folder of a dataset, and the image input that is meant by ``image``.

    Raises:
        FileNotFoundError: no such folder; says what was expected, what was found and how to get it.
        ValueError: an image input that the dataset does not have.
    """
    base, kinds = locbench_root(root), [*IMAGE_FILES[info.family][variant]]
    kind: ImageKind = kinds[0] if image == "default" or (image, kinds) == ("feats", ["scalar"]) else image
    if kind not in (*kinds, "none"):
        raise ValueError(f"{info.key} has no image input {image!r}; it has {', '.join(kinds)}, or choose 'none'")
    folders = [base / parent / info.folder for parent in ("", "data", "geo_prior_data/data")]
    folders += [base] if base.name == info.folder else []
    for folder in folders:
        if folder.is_dir():
            return Archive(info, folder, kind, variant)
    expected = f"expected a folder {info.folder}/ in {base}"
    raise FileNotFoundError(f"{info.key}: {expected}, found {_listing(base)}; {HOW_TO_GET}")


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if not path.name.startswith("."))
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return (", ".join(names[:12]) + more) or "nothing"
