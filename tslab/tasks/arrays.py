"""Arrays in files that others may have made: opened without trust, never half read.

A file is either what it says it is or refused with its name. Pickled objects are never loaded.
"""

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from tslab.tasks.columns import TaskDataError
from tslab.tasks.images import csr_fault

UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    KeyError,
    ValueError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
)
"""What NumPy and zipfile raise when an .npy or .npz file is damaged; its header is Python that NumPy parses."""


def open_npy(path: Path) -> NDArray[Any]:
    """A .npy file of numbers in two dimensions, memory-mapped.

    Raises:
        TaskDataError: truncated, no .npy file, or something else than rows of numbers.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except UNREADABLE as error:
        raise TaskDataError(f"{path} is truncated or no .npy file ({error}); download or convert it again") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiub":
        found = f"{array.dtype}, shape {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise TaskDataError(f"{path} holds {found}; expected rows of numbers, shape (n, d)")
    return array


def read_csr(path: Path) -> sp.csr_array:
    """A sparse matrix in the layout of ``scipy.sparse.save_npz`` (CSR), as float32; never made dense.

    Every index is checked, because compiled code follows them without looking.

    Raises:
        TaskDataError: truncated, another format, or index arrays that do not belong together.
    """
    parts = read_npz(path, ("data", "indices", "indptr", "shape"))
    stored = parts.get("format")
    if stored is not None and stored.tolist() not in (b"csr", "csr"):
        raise TaskDataError(f"{path} holds a sparse matrix in {stored.tolist()!r} format, expected csr")
    data, indices, indptr = (parts[name] for name in ("data", "indices", "indptr"))
    shape = parts["shape"].ravel().tolist()
    fault = csr_fault(data, indices, indptr, shape)
    if fault:
        raise TaskDataError(f"{path} is not a sound CSR matrix ({fault}); download or convert it again")
    try:
        return sp.csr_array((data.astype(np.float32, copy=False), indices, indptr), shape=tuple(shape))
    except (ValueError, TypeError, OverflowError) as error:
        raise TaskDataError(f"{path} is not a sound CSR matrix ({error}); download or convert it again") from error


def read_npz(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Arrays of an .npz file; all of ``names`` must be there, an optional ``format`` is read along.

    Raises:
        FileNotFoundError, TaskDataError: absent, truncated or without one of the arrays.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; download or convert the task again")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("one array, no .npz archive")
        with archive:
            missing = [name for name in names if name not in archive]
            if missing:
                raise TaskDataError(f"{path} holds no {', '.join(missing)}; it has {', '.join(archive.files)}")
            return {name: archive[name] for name in (*names, "format") if name in archive}
    except TaskDataError:
        raise
    except UNREADABLE as error:
        raise TaskDataError(f"{path} is truncated or damaged ({error}); download or convert it again") from error
