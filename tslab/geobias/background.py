"""The background points: a regular pattern of rings around a centre, what "no sample here" looks like.

A spatial self-information score compares the samples near a centre with points placed around it by rule. The points
lie on rings at colatitude ``j q`` from the centre, ``ceil(2 pi j)`` of them on ring ``j``, so that neighbours are about
``q`` apart in every direction. In the frame of its centre (x to the south, y to the east, z up) the pattern depends
only on the density, so it is built once for every neighbourhood size and never rotated; it is the samples that are
turned into the frame of the centre.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int, Real
from numpy.typing import NDArray
from torch import Tensor

from tslab._checks import check_count, check_number
from tslab.coords import check_lonlat, lonlat_from_unit_vectors

BACKGROUND_PER_SAMPLE = 5
"""Automatic density: this many background points per sample, over the disc of the neighbourhood."""

MOST_POINTS = 2**24
"""Background points of one neighbourhood that are still made."""


def background_density(n: int | Int[Tensor, "*s"], radius_rad: float) -> Tensor:
    """Automatic density ceil(5 n / (pi r^2)), in points per steradian, for neighbourhoods of ``n`` samples."""
    check_radius(radius_rad)
    n = torch.as_tensor(n)
    if bool((n < 0).any()):
        raise ValueError(f"n must not be negative, got {int(n.min())}")
    return torch.ceil(BACKGROUND_PER_SAMPLE * n.double() / (math.pi * radius_rad**2))


def background_count(density: float | Tensor, radius_rad: float) -> Int[Tensor, "*s"]:
    """Number of background points: rings j = 1 .. ceil(r sqrt(density)), ceil(2 pi j) points on ring j."""
    check_radius(radius_rad)
    values = torch.as_tensor(density, dtype=torch.float64)
    if not bool((values >= 0).all()) or bool((values * math.pi * radius_rad**2 > MOST_POINTS).any()):
        raise ValueError(
            f"density must lie between 0 and {MOST_POINTS / (math.pi * radius_rad**2):.3g} for this radius"
        )
    rings = _num_rings(values, radius_rad)
    return ring_starts(int(rings.max()) if rings.numel() else 0).to(rings.device)[rings]


def background_grid(
    center: Real[Tensor, "2"] | NDArray[Any] | Sequence[float],
    radius_rad: float,
    *,
    n: int | None = None,
    density: float | None = None,
) -> Float[Tensor, "m 2"]:
    """Background points around one centre, (longitude, latitude) in degrees, float64.

    Give the number of samples ``n`` (automatic density) or the density in points per steradian. Points are ordered
    by ring, then by azimuth from -pi, where azimuth 0 points south and pi / 2 east. The outermost ring can lie beyond
    the radius, by less than one spacing.
    """
    if (n is None) == (density is None):
        raise ValueError("give n (number of samples, automatic density) or density (points per steradian)")
    check_radius(radius_rad)
    place = torch.as_tensor(center, dtype=torch.float64)
    rounded = place.round(decimals=9)  # a pole that came through radians
    check_lonlat(rounded[None] if place.ndim == 1 else rounded, name="center")
    if place.shape != (2,) or bool(place.isnan().any()):
        raise ValueError(f"center must be one place (longitude, latitude), got {center}")
    if n is not None:
        check_count("n", n)
    value = float(background_density(n, radius_rad)) if n is not None else float(density)  # type: ignore[arg-type]
    lattice = make_lattice([value], radius_rad, torch.device("cpu"))
    grid = torch.arange(int(lattice.count[0]))
    offset = lattice.local(grid, torch.zeros_like(grid))
    south, east, up = local_frame(place[None])
    return lonlat_from_unit_vectors(up + offset[:, :1] * south + offset[:, 1:2] * east + offset[:, 2:] * up)


def check_radius(radius_rad: float) -> None:
    """Raise ``ValueError`` unless the radius, in radians, lies between 0 and a quarter of the globe."""
    check_number("radius_rad", radius_rad, above=0, below=math.pi / 2)


def local_frame(lonlat: Float[Tensor, "c 2"]) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors to the south, to the east and up at each place, each (c, 3) in float64."""
    lon, lat = torch.deg2rad(lonlat.double()).unbind(-1)
    sin_lat, cos_lat, sin_lon, cos_lon = lat.sin(), lat.cos(), lon.sin(), lon.cos()
    south = torch.stack([sin_lat * cos_lon, sin_lat * sin_lon, -cos_lat], -1)
    east = torch.stack([-sin_lon, cos_lon, torch.zeros_like(lon)], -1)
    up = torch.stack([cos_lat * cos_lon, cos_lat * sin_lon, sin_lat], -1)
    return south, east, up


@dataclass(frozen=True)
class Lattice:
    """Ring patterns for several densities. Point numbers run ring by ring and mean the same ring in every pattern.

    Attributes:
        density, spacing, rings, count: of each pattern; spacing in radians, count = points.
        starts: number of the first point of ring j (index j; entry 0 is unused).
        points_on_ring: ceil(2 pi j), index j.
        ring, cos_azimuth, sin_azimuth: of each point number, up to the largest pattern.
    """

    density: Float[Tensor, " t"]
    spacing: Float[Tensor, " t"]
    rings: Int[Tensor, " t"]
    count: Int[Tensor, " t"]
    starts: Int[Tensor, " r"]
    points_on_ring: Int[Tensor, " r"]
    ring: Int[Tensor, " m"]
    cos_azimuth: Float[Tensor, " m"]
    sin_azimuth: Float[Tensor, " m"]

    def local(self, point: Int[Tensor, "*#s"], pattern: Int[Tensor, "*#s"]) -> Float[Tensor, "*s 3"]:
        """Offset of points from the centre, in the frame (south, east, up), on the unit sphere."""
        colatitude = self.ring[point] * self.spacing[pattern]
        sine, half = colatitude.sin(), (colatitude / 2).sin()
        x, y = sine * self.cos_azimuth[point], sine * self.sin_azimuth[point]
        return torch.stack([x, y, -2 * half * half], -1)


def make_lattice(density: list[float] | Tensor, radius_rad: float, device: torch.device) -> Lattice:
    """Ring patterns for the given densities, in points per steradian."""
    values = torch.as_tensor(density, dtype=torch.float64)
    if not bool(((values > 0) & values.isfinite()).all()):
        raise ValueError('density must be positive and finite, in points per steradian, or "auto"')
    if float(values.max()) * math.pi * radius_rad**2 > MOST_POINTS:
        raise ValueError(
            f"a density of {float(values.max()):g} points per steradian puts more than {MOST_POINTS:,} points "
            f'around a centre; take at most {MOST_POINTS / (math.pi * radius_rad**2):.3g} here, or density="auto"'
        )
    rings = _num_rings(values, radius_rad)
    spacing = 1 / values.sqrt()
    if bool((rings * spacing >= math.pi / 2).any()):
        raise ValueError(
            f"the outermost ring of background points would lie {float((rings * spacing).max()):.3g} rad from the "
            "centre, beyond a quarter of the globe; use a smaller radius or a higher density"
        )
    starts = ring_starts(int(rings.max()))
    last = int(rings.max())
    on_ring = torch.ceil(2 * math.pi * torch.arange(last + 1).double()).long()
    ring = torch.repeat_interleave(torch.arange(1, last + 1), on_ring[1:])
    turn = (torch.arange(len(ring)) - starts[ring - 1]).double() / on_ring[ring]
    azimuth = -math.pi + 2 * math.pi * turn
    return Lattice(
        density=values.to(device),
        spacing=spacing.to(device),
        rings=rings.to(device),
        count=starts[rings].to(device),
        starts=torch.cat([torch.zeros(1, dtype=torch.long), starts[:-1]]).to(device),
        points_on_ring=on_ring.to(device),
        ring=ring.to(device),
        cos_azimuth=azimuth.cos().to(device),
        sin_azimuth=azimuth.sin().to(device),
    )


def ring_starts(last: int) -> Int[Tensor, " r"]:
    """Number of points on rings 1 to j, for j = 0 .. last."""
    on_ring = torch.ceil(2 * math.pi * torch.arange(last + 1).double()).long()
    return torch.cumsum(on_ring, 0)


@dataclass(frozen=True)
class SearchWindow:
    """Which pattern points can matter to a place, from its distance u to the centre, in spacings.

    ``small``: patterns of up to so many rings, and places outside the pattern, look at all points;
    ``near``: places with u < near look at all points of the rings 1 .. near_rings;
    others look at rings round(u) - rings .. round(u) + rings and there at the 2 azimuths + 1 nearest points.
    """

    small: int
    near: float
    near_rings: int
    rings: int
    azimuths: int


WINDOW_LIMIT = 32
"""Largest k that has a window: beyond, finding one takes longer than looking at all points."""


def window_for(k: int, lattice: Lattice) -> SearchWindow:
    """The window for the patterns of a lattice; all points for a large k."""
    if k > WINDOW_LIMIT:
        return SearchWindow(small=int(lattice.rings.max()), near=0.0, near_rings=0, rings=0, azimuths=0)
    outer = float((lattice.rings * lattice.spacing).max())
    return search_window(k, int(20 * torch.sinc(torch.tensor(outer / torch.pi))) / 20)


@cache
def search_window(k: int, shrink: float = 1.0) -> SearchWindow:
    """A window that contains the k nearest pattern points and all points that can prefer a sample at the place.

    Both are within ``reach``: every place in the disc has k pattern points that near, and every pattern point has k
    others. The bound counts points per ring: on ring j, seen from distance u, an arc of length 2 theta holds at least
    floor(2 theta M_j / (2 pi)) points, and an arc around a point of the ring itself twice floor(theta M_j / (2 pi))
    others. ``shrink`` is sin(c) / c at the outermost colatitude c: on a sphere the points of outer rings are closer
    to each other than the pattern's spacing.
    """
    alike = 4 + math.isqrt(4 * k)  # rings; the edges of larger patterns see the same surroundings
    reach = [_reach(k, rings) for rings in range(1, alike + 5)]
    best = _window(max(reach[alike:]), shrink, alike, alike)
    for small in range(alike - 1, 0, -1):
        window = _window(max(reach[small:]), shrink, small, alike)
        if window.rings > best.rings or window.azimuths > best.azimuths or window.near_rings > best.near_rings:
            break
        best = window
    return best


def _window(reach: float, shrink: float, small: int, alike: int) -> SearchWindow:
    """The window for patterns of more than ``small`` rings, in which the k nearest points are within ``reach``."""
    rings = math.ceil(reach - 0.5)
    azimuths = math.ceil(reach / shrink - 0.5)
    while True:
        for near in (0.5, 0.75, 1.0, 1.5, 2.0, 3.0):
            if _covers(near, rings, azimuths, reach / shrink, alike):
                return SearchWindow(small, near, math.floor(near + reach), rings, azimuths)
        azimuths += 1


def _reach(k: int, num_rings: int) -> float:
    """Largest distance, in spacings, to the k-th nearest point over all places of a pattern, found by halving."""
    step, margin = 0.005, 0.01
    ring = torch.arange(1, num_rings + 1).double()
    u = torch.cat([torch.arange(step, num_rings, step, dtype=torch.float64), ring])[:, None]
    low, high = torch.zeros_like(u), torch.full_like(u, 2.0 * num_rings)
    for _ in range(20):
        distance = (low + high) / 2
        sine2 = (distance**2 - (ring - u) ** 2) / (4 * ring * u)
        arc = 2 * torch.asin(sine2.clamp(0, 1).sqrt()) * torch.ceil(2 * math.pi * ring) / math.pi + 1e-9
        held = torch.floor(arc).sum(-1)
        own = torch.floor(arc) - 2 * torch.floor(arc / 2)  # counted too many if the place is a point of that ring
        held[-num_rings:] -= torch.diagonal(own[-num_rings:])
        enough = (held >= k)[:, None]
        low, high = torch.where(enough, low, distance), torch.where(enough, distance, high)
    return float(high.max()) + margin


def _covers(u_min: float, rings: int, azimuths: int, reach: float, small: int) -> bool:
    """True if, from u >= u_min on, every point outside the azimuth window of a ring in the window is out of reach."""
    u = torch.arange(u_min, 4 * small, 0.02, dtype=torch.float64)[:, None]
    ring = torch.arange(1, 4 * small + rings).double()
    points = torch.ceil(2 * math.pi * ring)
    angle = (azimuths + 0.5) * 2 * math.pi / points
    d2 = (ring - u) ** 2 + 4 * ring * u * torch.sin(angle.clamp_max(math.pi) / 2) ** 2
    irrelevant = ((ring - u).abs() > rings + 0.5) | (points <= 2 * azimuths + 1)
    return bool(((d2 >= reach**2) | irrelevant).all())


def _num_rings(density: Tensor, radius_rad: float) -> Tensor:
    return torch.ceil(radius_rad / (1 / density.sqrt())).long()
