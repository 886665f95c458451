"""What callers may give to a geo-bias score, read in one way: places, rows, outcomes and radii.

Tensors, NumPy arrays, pandas Series and lists are all taken, by position: an index that a Series carries plays no
part. Whatever cannot be meant is refused here, before anything is searched or drawn, with the argument's name.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tslab._checks import check_count, check_number
from tslab._numbers import Numbers
from tslab.coords import EARTH_RADIUS_KM, check_lonlat

Pair: TypeAlias = Sequence[Tensor | Numbers]
"""Neighbours of each centre as compressed rows, (indptr, indices)."""


def as_tensor(name: str, value: Any) -> Tensor:
    """Numbers of any kind as a tensor: tensors as they are, everything else as bool, int64 or float64 on the CPU.

    Missing values of pandas become NaN. Errors: ``ValueError`` for text, dates and anything else that is no number.
    """
    if isinstance(value, Tensor):
        if value.is_complex():
            raise ValueError(f"{name} must hold real numbers, got {value.dtype}")
        return value
    array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
    if array.dtype == object:
        entries = [math.nan if v is None or type(v).__name__ == "NAType" else v for v in array.ravel().tolist()]
        array = np.array(entries).reshape(array.shape)
    kinds: dict[str, Any] = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float64}
    if array.dtype.kind not in kinds:
        raise ValueError(f"{name} must hold numbers, got {type(value).__name__} of {array.dtype}")
    return torch.from_numpy(array.astype(kinds[array.dtype.kind], copy=True))


def as_places(lonlat: Any, name: str = "lonlat") -> Float[Tensor, "n 2"]:
    """Checked places in degrees, see `tslab.coords.check_lonlat`; what is no tensor becomes one in float64."""
    return check_lonlat(lonlat if isinstance(lonlat, Tensor) else as_tensor(name, lonlat).double(), name=name)


def as_rows(name: str, index: Any, num_rows: int) -> Int[Tensor, " r"]:
    """Row numbers on the CPU from row numbers or from a mask of all rows.

    Errors: ``ValueError`` for a mask of another length, numbers that are not whole, and the first row that is not
    there; negative numbers do not count from the end.
    """
    rows = as_tensor(name, index).detach().cpu()
    if rows.ndim != 1:
        raise ValueError(f"{name} must have one dimension, got shape {tuple(rows.shape)}")
    if rows.dtype == torch.bool:
        if len(rows) != num_rows:
            raise ValueError(f"{name} is a mask of {len(rows)} rows, but there are {num_rows}")
        return rows.nonzero()[:, 0]
    if len(rows) == 0:
        return torch.zeros(0, dtype=torch.long)
    if rows.is_floating_point():
        raise ValueError(f"{name} must be row numbers (integers) or a mask (bool), got {rows.dtype}")
    rows = rows.long()
    if len(rows) == num_rows > 2 and bool(((rows == 0) | (rows == 1)).all()):
        raise ValueError(f"{name} names rows 0 and 1 only, {num_rows} times; a mask must be bool, not 0 and 1")
    for first in ((rows < 0) | (rows >= num_rows)).nonzero()[:1, 0].tolist():
        raise ValueError(f"{name}[{first}] = {int(rows[first])} is not a row: there are {num_rows}, numbered from 0")
    return rows


def as_outcomes(
    values: Any, num_samples: int, order: Int[Tensor, " v"], *, name: str = "performance"
) -> tuple[Float[Tensor, "v e"], bool]:
    """Outcomes of the located samples ``order``, in float64 on its device, and whether they came without an axis
    of models.

    Errors: ``ValueError`` for another shape than (n,) or (n, models), and for values that are NaN or infinite where
    there is a location.
    """
    given = as_tensor(name, values)
    if given.ndim not in (1, 2) or len(given) != num_samples or 0 in given.shape[1:]:
        raise ValueError(
            f"{name} must have shape ({num_samples},) or ({num_samples}, models), got {tuple(given.shape)}"
        )
    single = given.ndim == 1
    located = (given[:, None] if single else given).to(order.device, torch.float64)[order]
    missing, infinite = (order[bad.any(1)] for bad in (located.isnan(), located.isinf()))
    if len(missing):
        raise ValueError(
            f"{name} is NaN for {len(missing)} samples that have a location, the first in row {int(missing.min())}; "
            "drop these rows, or set their coordinates to NaN to leave them out"
        )
    if len(infinite):
        raise ValueError(f"{name} is infinite in row {int(infinite.min())}")
    return located, single


def as_hits(values: Float[Tensor, "*v"], what: str) -> Bool[Tensor, "*v"]:
    """True for hits; ``ValueError`` where the values are more than two outcomes. ``what`` begins the sentence."""
    found = set(torch.unique(values).tolist())
    if not (found <= {0, 1} or found <= {-1, 1}):
        raise ValueError(
            f"{what} takes hits and misses: bool, 1 and 0, or +1 and -1; compare graded performance with a threshold "
            'first, or score it with marks="raw"'
        )
    return values > 0


def as_radius(radius_km: float | None, radius_rad: float | None) -> float:
    """The radius of a neighbourhood in radians, given once: in kilometres or in radians, below a quarter circle."""
    hint = "a quarter of the globe is 10,007 km (radius_km), pi/2 rad (radius_rad)"
    if radius_rad is not None and radius_km is None:
        return float(check_number("radius_rad", radius_rad, above=0, below=math.pi / 2, hint=hint))
    if radius_km is not None and radius_rad is None:
        check_number("radius_km", radius_km, above=0, below=math.pi / 2 * EARTH_RADIUS_KM, hint=hint)
        return float(radius_km / EARTH_RADIUS_KM)
    raise ValueError("give the radius once: radius_km=100 or radius_rad=0.05")


def check_seed(seed: int) -> None:
    """Raise ``ValueError`` unless ``seed`` is a whole number that a generator of torch takes."""
    check_count("seed", seed, at_least=0, at_most=2**63 - 1)
