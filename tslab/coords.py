"""Coordinates: the one representation that everything in tslab speaks.

A set of places is a float tensor of shape ``(n, 2)``: longitude, then latitude, in degrees, longitude in [-180, 180]
and latitude in [-90, 90]. A missing place is NaN in either column. This module checks such tensors, turns them into
unit vectors and back, measures distances between them and draws places uniformly from the sphere.
"""

import math

import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor

from tslab._checks import check_count, check_number

EARTH_RADIUS_KM = 6371.0088
"""Mean Earth radius (IUGG), in kilometres."""

TAU_HIGH = 6.28125
TAU_LOW = 2 * math.pi - TAU_HIGH
"""2 pi in two parts: the ONNX exporter rounds constants to float32, which the first part survives unchanged."""

LON_LIMIT = 180.0
LAT_LIMIT = 90.0


class CoordinateError(ValueError):
    """Coordinates that cannot be what the caller meant. The message names the row and the next step."""


def check_lonlat(lonlat: Float[Tensor, "n 2"], *, name: str = "lonlat") -> Float[Tensor, "n 2"]:
    """Return ``lonlat`` unchanged if it is a valid set of places, else raise `CoordinateError`.

    Valid is a floating point tensor of shape ``(n, 2)`` (longitude, latitude) in degrees, inside
    [-180, 180] x [-90, 90]. NaN marks a missing place and is allowed.

    The values are looked at only when that is possible: not while the call is traced, exported or vmapped.

    Raises:
        CoordinateError: wrong type, dtype or shape; infinite values; values out of range, with the hint that
            the columns are swapped when swapping them would make the row valid.
    """
    check_lonlat_shape(lonlat, name=name)
    if values_are_hidden(lonlat):
        return lonlat
    _check_range(lonlat, name)
    return lonlat


def check_lonlat_shape(lonlat: Float[Tensor, "n 2"], *, name: str = "lonlat") -> None:
    """Raise `CoordinateError` unless ``lonlat`` is a floating point tensor of shape ``(n, 2)``; values are not read."""
    if not isinstance(lonlat, Tensor):
        hint = "use torch.as_tensor(values, dtype=torch.float32)"
        raise CoordinateError(f"{name} must be a torch tensor of shape (n, 2), got {type(lonlat).__name__}; {hint}")
    if lonlat.ndim != 2 or lonlat.shape[-1] != 2:
        hint = "; add a row dimension with lonlat[None]" if tuple(lonlat.shape) == (2,) else ""
        raise CoordinateError(f"{name} needs shape (n, 2), longitude then latitude, got {tuple(lonlat.shape)}{hint}")
    if not lonlat.is_floating_point():
        raise CoordinateError(f"{name} must be floating point degrees, got {lonlat.dtype}; use {name}.float()")


def values_are_hidden(tensor: Tensor) -> bool:
    """True while torch.compile, torch.export or a torch.func transform looks through the tensor, and without values."""
    return tensor.is_meta or torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def has_location(lonlat: Float[Tensor, "n 2"]) -> Bool[Tensor, " n"]:
    """True for each row whose longitude and latitude are both present (not NaN)."""
    return ~lonlat.isnan().any(dim=-1)


def unit_vectors(lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Places as points (x, y, z) on the unit sphere: x = cos(lat) cos(lon), y = cos(lat) sin(lon), z = sin(lat).

    The poles and the date line are exact: every longitude at latitude +-90 gives (0, 0, +-1), and longitudes
    180 and -180 give the same vector, bit for bit. NaN rows give NaN. dtype and device are those of the input.
    """
    check_lonlat_shape(lonlat)
    lon, lat = lonlat.unbind(-1)
    cos_lat, sin_lat = _cos_deg(lat), _sin_deg(lat)
    return torch.stack([cos_lat * _cos_deg(lon), cos_lat * _sin_deg(lon), sin_lat], dim=-1)


def lonlat_from_unit_vectors(xyz: Float[Tensor, "n 3"]) -> Float[Tensor, "n 2"]:
    """Inverse of `unit_vectors`, for vectors of any positive length; the longitude of a pole is 0.

    Raises:
        CoordinateError: no floating point tensor whose last axis has three entries.
    """
    if not isinstance(xyz, Tensor) or not xyz.is_floating_point() or xyz.ndim == 0 or xyz.shape[-1] != 3:
        got = f"{xyz.dtype} of shape {tuple(xyz.shape)}" if isinstance(xyz, Tensor) else type(xyz).__name__
        raise CoordinateError(f"xyz must be a floating point tensor of shape (n, 3), got {got}")
    x, y, z = xyz.unbind(-1)
    lon = torch.atan2(y, x)
    lat = torch.atan2(z, torch.hypot(x, y))
    return torch.rad2deg(torch.stack([lon, lat], dim=-1))


def great_circle_distance(
    a: Real[Tensor, "*#n 2"], b: Real[Tensor, "*#n 2"], *, radius_km: float = EARTH_RADIUS_KM
) -> Float[Tensor, "*n"]:
    """Great-circle distance in kilometres between places, row by row; the shapes broadcast against each other.

    Uses the atan2 form (Vincenty on the sphere), which is accurate for neighbouring, distant and antipodal places
    alike; computed in float64 and returned in the dtype of the inputs. NaN if either place is missing.
    ``radius_km=1`` gives the angle in radians. Places in whole degrees (integer tensors) give a distance in torch's
    default dtype.

    Raises:
        CoordinateError: no tensor, another last axis than (longitude, latitude), shapes that do not broadcast, or a
            place that does not exist.
        ValueError: a radius that is not positive.
    """
    for name, places in (("a", a), ("b", b)):
        if not isinstance(places, Tensor) or places.ndim == 0 or places.shape[-1] != 2 or places.is_complex():
            got = f"shape {tuple(places.shape)}" if isinstance(places, Tensor) else type(places).__name__
            raise CoordinateError(f"{name} must be a tensor of longitude and latitude, shape (n, 2), got {got}")
        if not values_are_hidden(places):
            _check_range(places, name)
    try:
        torch.broadcast_shapes(a.shape, b.shape)
    except RuntimeError as error:
        shapes = f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
        raise CoordinateError(
            f"a and b must have as many places, got {shapes}; for all pairs: a[:, None], b"
        ) from error
    check_number("radius_km", radius_km, above=0)
    dtype = torch.promote_types(a.dtype, b.dtype)
    if not dtype.is_floating_point:
        dtype = torch.get_default_dtype()
    lon_a, lat_a = a.double().unbind(-1)
    lon_b, lat_b = b.double().unbind(-1)
    sin_a, cos_a, sin_b, cos_b = _sin_deg(lat_a), _cos_deg(lat_a), _sin_deg(lat_b), _cos_deg(lat_b)
    sin_dlon, cos_dlon = _sin_deg(lon_b - lon_a), _cos_deg(lon_b - lon_a)
    # cos a sin b - sin a cos b cos dlon, without the cancellation that it suffers between close places
    north = _sin_deg(lat_b - lat_a) + 2 * sin_a * cos_b * _sin_deg((lon_b - lon_a) / 2) ** 2
    across = torch.hypot(cos_b * sin_dlon, north)
    along = sin_a * sin_b + cos_a * cos_b * cos_dlon
    return (radius_km * torch.atan2(across, along)).to(dtype)


def sample_sphere(
    n: int, *, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "n 2"]:
    """Draw ``n`` places uniformly by area: longitude uniform, latitude the arcsine of a uniform number.

    The result lies on the device of ``generator`` (CPU without one).
    """
    check_count("n", n, at_least=0, hint="a number of places is never negative")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be floating point, got {dtype}")
    device = generator.device if generator is not None else torch.device("cpu")
    u = torch.rand((n, 2), generator=generator, dtype=torch.float64, device=device)
    lon = (2 * u[:, 0] - 1) * LON_LIMIT
    lat = torch.rad2deg(torch.asin(2 * u[:, 1] - 1))
    return torch.stack([lon, lat], dim=-1).to(dtype)


def _check_range(lonlat: Real[Tensor, "*n 2"], name: str) -> None:
    """Raise `CoordinateError` for the first place that is outside the world; NaN is not."""
    lon, lat = lonlat.detach().unbind(-1)
    bad = (lon.abs() > LON_LIMIT) | (lat.abs() > LAT_LIMIT)  # false for NaN, true for infinity
    if bool(bad.any()):
        row = tuple(bad.nonzero()[0].tolist())
        where = f"{name}[{', '.join(map(str, row))}]"
        raise CoordinateError(_describe_bad_row(name, where, int(bad.sum()), lon[row].cpu(), lat[row].cpu()))


def _describe_bad_row(name: str, where: str, count: int, lon_here: Tensor, lat_here: Tensor) -> str:
    lon, lat = float(lon_here), float(lat_here)
    lon_text, lat_text = _digits(lon_here), _digits(lat_here)
    where += f" = ({lon_text}, {lat_text})" + (f" (and {count - 1} more rows)" if count > 1 else "")
    if math.isinf(lon) or math.isinf(lat):
        return f"{where} is infinite; mark a missing place with NaN in both columns"
    if abs(lat) > LAT_LIMIT and abs(lon) <= LAT_LIMIT and abs(lat) <= LON_LIMIT:
        hint = f"the order is (longitude, latitude): if your columns are swapped, use {name}.flip(-1)"
        return f"{where}: latitude {lat_text} is outside [-90, 90]; {hint}"
    if abs(lat) > LAT_LIMIT:
        return f"{where}: latitude {lat_text} is outside [-90, 90]; coordinates are degrees, not metres"
    return f"{where}: longitude {lon_text} is outside [-180, 180]; bring it there with (longitude + 180) % 360 - 180"


def _digits(value: Tensor) -> str:
    """A number with as many digits as tell it apart in its own precision: 180.00002, not 180 and not 180.00001526."""
    exact = value.numpy() if value.dtype in (torch.float32, torch.float64) else float(value)
    return str(exact).removesuffix(".0")


def _sin_deg(degrees: Tensor) -> Tensor:
    """Sine of an angle in degrees, |angle| <= 360: exactly 0 at multiples of 180, +-1 at +-90 and +-270."""
    turns = degrees / 360
    turns = turns - turns.round()  # [-1/2, 1/2], exact
    folded = torch.where(turns.abs() > 0.25, 0.5 * turns.sign() - turns, turns)
    return torch.sin(TAU_HIGH * folded + TAU_LOW * folded)


def _cos_deg(degrees: Tensor) -> Tensor:
    """Cosine of an angle in degrees, |angle| <= 360: exactly 0 at odd multiples of 90, +-1 at multiples of 180."""
    turns = degrees / 360
    turns = (turns - turns.round()).abs()  # [0, 1/2]
    folded = 0.25 - turns
    return torch.sin(TAU_HIGH * folded + TAU_LOW * folded)
