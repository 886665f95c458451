"""Arrays in files that others may have made: opened without trust, never half read.

A file is either what it says it is or refused with its name. Pickled objects are never loaded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from tslab.tasks.columns import TaskDataError
from tslab.tasks.images import csr_fault


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
