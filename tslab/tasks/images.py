"""Image inputs of a table: dense tensors, sparse matrices, and rows that stay on disk until they are asked for."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from tslab._numbers import Numbers
from tslab.tasks.columns import TaskDataError


class LazyRows:
    """Some rows of a two-dimensional array that is not in memory until they are asked for.

    The array is a ``numpy.memmap``, or anything with shape, dtype, length and rows that are computed when indexed.
    ``lazy[index]`` reads those rows and returns an ordinary array; ``lazy.select(index)`` stays lazy. Pickled rows of a
    file hold the file's path and their numbers, not its content: the file must be there when they are unpickled.
    """

    def __init__(self, array: Any, rows: NDArray[np.int64] | None = None) -> None:
        if len(array.shape) != 2:
            raise TaskDataError(f"image features must have shape (n, d), got {array.shape}")
        self.array = array
        self.rows = rows

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d) of the selected rows."""
        return (len(self), self.array.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """dtype of the stored numbers."""
        return self.array.dtype

    def select(self, index: NDArray[Any]) -> "LazyRows":
        """The rows ``index`` (integers or a boolean mask) of these rows, still on disk."""
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        return LazyRows(self.array, index if self.rows is None else self.rows[index])

    def __len__(self) -> int:
        return len(self.array) if self.rows is None else len(self.rows)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        return np.asarray(self.array[index if self.rows is None else self.rows[index]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def __reduce__(self) -> tuple[Callable[..., "LazyRows"], tuple[Any, ...]]:
        place = _place_in_file(self.array)
        if place is not None:
            return _reopened, (*place, self.rows)
        if isinstance(self.array, np.ndarray):
            return LazyRows, (self[:],)
        return LazyRows, (self.array, self.rows)

    def __repr__(self) -> str:
        where = Path(str(self.array.filename)).name if isinstance(self.array, np.memmap) else type(self.array).__name__
        return f"LazyRows({self.shape[0]:,} x {self.shape[1]:,} {self.dtype}, from {where})"


CHUNK_ROWS = 8192
"""Rows that are looked at together."""

ImageInput: TypeAlias = Tensor | sp.csr_array | LazyRows | None
"""What a table may hold as image input: a dense tensor, a sparse matrix, rows on disk, or nothing."""

GivenImage: TypeAlias = ImageInput | Numbers | sp.sparray | sp.spmatrix
"""What `as_image` makes such an input of."""


def as_image(image: GivenImage) -> ImageInput:
    """An image input in one of the forms of `ImageInput`: arrays become tensors, other sparse matrices CSR.

    Raises:
        TaskDataError: no two-dimensional numbers, NaN or infinite numbers in memory (rows on disk are not looked at),
            a sparse matrix whose index arrays do not belong together.
    """
    if image is None or isinstance(image, LazyRows):
        return image
    if isinstance(image, np.memmap):
        return LazyRows(image)
    if sp.issparse(image):
        matrix = sp.csr_array(image)
        fault = csr_fault(matrix.data, matrix.indices, matrix.indptr, matrix.shape)
        if fault:
            raise TaskDataError(f"image is no sound sparse matrix: {fault}")
        return matrix
    if not isinstance(image, Tensor):
        try:
            if np.iscomplexobj(image):
                raise TypeError("complex numbers")
            image = torch.from_numpy(np.array(image, dtype=np.float32))
        except (TypeError, ValueError) as error:
            raise TaskDataError(f"image must hold numbers, shape (n, d): {error}") from error
    if image.layout != torch.strided:
        raise TaskDataError("image is a sparse torch tensor; give a scipy.sparse.csr_array, or image.to_dense()")
    if image.ndim != 2:
        hint = "; add a column dimension with image[:, None]" if image.ndim == 1 else ""
        raise TaskDataError(f"image must have shape (n, d), got {tuple(image.shape)}{hint}")
    bad = ~torch.cat([torch.isfinite(part).all(-1) for part in image.split(CHUNK_ROWS)])
    if bool(bad.any()):
        first, count = int(bad.nonzero()[0, 0]), int(bad.sum())
        hint = "fill them in, leave those rows out, or give no image input"
        raise TaskDataError(f"image[{first}] holds NaN or infinite numbers ({count:,} such rows): {hint}")
    return image


def csr_fault(data: NDArray[Any], indices: NDArray[Any], indptr: NDArray[Any], shape: Sequence[Any]) -> str | None:
    """What is wrong with the arrays of a CSR matrix, None if nothing is: only then may compiled code read them.

    An index outside the shape makes scipy read past the end of its memory.
    """
    if len(shape) != 2 or any(not isinstance(n, int | np.integer) or n < 0 for n in shape):
        return f"shape must be two whole numbers that are not negative, got {tuple(shape)}"
    if any(part.ndim != 1 for part in (data, indices, indptr)):
        return "data, indices and indptr must have one dimension"
    if data.dtype.kind not in "fiub" or any(part.dtype.kind not in "iu" for part in (indices, indptr)):
        return f"dtypes {data.dtype}, {indices.dtype}, {indptr.dtype}: expected numbers and two kinds of integers"
    if len(indptr) != int(shape[0]) + 1:
        return f"indptr has {len(indptr):,} entries, {shape[0]:,} rows need {int(shape[0]) + 1:,}"
    if int(indptr[0]) != 0 or int(indptr[-1]) != len(indices) or (indptr[1:] < indptr[:-1]).any():
        return f"indptr must rise from 0 to the {len(indices):,} stored entries"
    if len(data) != len(indices):
        return f"{len(data):,} numbers but {len(indices):,} column indices"
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= int(shape[1])):
        return f"column indices {int(indices.min())} to {int(indices.max())}, there are {shape[1]} columns"
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        at = int(np.argmin(np.isfinite(data)))
        return f"row {int(np.searchsorted(indptr, at, side='right')) - 1} holds NaN or an infinite number"
    return None


def concatenate_images(images: Sequence[Any]) -> ImageInput:
    """The image inputs of several tables, one after the other; all must be of one kind.

    Raises:
        TaskDataError: different kinds, or rows of different files.
    """
    first = images[0]
    if all(image is None for image in images):
        return None
    if all(isinstance(image, Tensor) for image in images):
        return torch.cat(list(images))
    if all(sp.issparse(image) for image in images):
        return sp.vstack(images, format="csr")
    if all(isinstance(image, LazyRows) and _same_source(image.array, first.array) for image in images):
        rows = [np.arange(len(image.array)) if image.rows is None else image.rows for image in images]
        return LazyRows(first.array, np.concatenate(rows))
    kinds = ", ".join("none" if image is None else type(image).__name__ for image in images)
    hint = "remove it first with dataclasses.replace(table, image=None)"
    raise TaskDataError(f"the tables have image inputs of different kinds or files ({kinds}); {hint}")


def _same_source(one: Any, other: Any) -> bool:
    place = _place_in_file(one)
    return one is other or (place is not None and place == _place_in_file(other))


def _place_in_file(array: Any) -> tuple[str, int, str, tuple[int, ...], str] | None:
    """Path, offset, dtype, shape and order by which a memory-mapped array can be opened again; None if it cannot.

    A view into a memory map keeps the attributes of the whole, so its offset is measured.
    """
    if not isinstance(array, np.memmap) or array.filename is None or array.mode == "c":
        return None
    whole = array
    while isinstance(whole.base, np.memmap):
        whole = whole.base
    order = "C" if array.flags.c_contiguous else "F" if array.flags.f_contiguous else None
    if order is None or array.dtype.hasobject:
        return None
    offset = int(whole.offset) + array.ctypes.data - whole.ctypes.data
    return os.path.abspath(array.filename), offset, array.dtype.str, array.shape, order


def _reopened(
    path: str, offset: int, dtype: str, shape: tuple[int, ...], order: Any, rows: NDArray[np.int64] | None
) -> LazyRows:
    try:
        array = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order=order)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is gone, and pickled rows of it cannot be read; put it back") from error
    except ValueError as error:
        raise TaskDataError(f"{path} changed since rows of it were pickled ({error})") from error
    return LazyRows(array, rows)
