"""The background points: a regular pattern of rings around a centre, what "no sample here" looks like.

A spatial self-information score compares the samples near a centre with points placed around it by rule. The points
lie on rings at colatitude ``j q`` from the centre, ``ceil(2 pi j)`` of them on ring ``j``, so that neighbours are about
``q`` apart in every direction. In the frame of its centre (x to the south, y to the east, z up) the pattern depends
only on the density, so it is built once for every neighbourhood size and never rotated; it is the samples that are
turned into the frame of the centre.

The ring patterns' own graphs: which background points are among the k nearest of which, and which of them can
matter to a place.

A place on the pattern sees its nearest points by arithmetic (its ring, its azimuth), so a few candidates replace all
m points; `tslab.geobias.background` proves the window. The graph is made once per pattern; the samples of a
neighbourhood only displace its last edges (`tslab.geobias.weights`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import pad

from tslab._checks import check_number
from tslab.geobias.neighbors import squared_chord

BACKGROUND_PER_SAMPLE = 5
"""Automatic density: this many background points per sample, over the disc of the neighbourhood."""

MOST_POINTS = 2**24
"""Background points of one neighbourhood that are still made."""


def background_density(n: int | Int[Tensor, "*s"], radius_rad: float) -> Tensor:
    """Automatic density ceil(5 n / (pi r^2)), in points per steradian, for neighbourhoods of ``n`` samples."""
    check_number("radius_rad", radius_rad, above=0, below=math.pi / 2)
    n = torch.as_tensor(n)
    if bool((n < 0).any()):
        raise ValueError(f"n must not be negative, got {int(n.min())}")
    return torch.ceil(BACKGROUND_PER_SAMPLE * n.double() / (math.pi * radius_rad**2))


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
    """Ring patterns for several densities, one after another: the points of pattern t are rows ``offset[t]`` on.

    Attributes:
        spacing, rings, count, offset: of each pattern; spacing in radians, count = points.
        starts: number, within a pattern, of the first point of ring j (index j; entry 0 is unused).
        points_on_ring: ceil(2 pi j), index j.
        points: offset of each point from the centre, in the frame (south, east, up), on the unit sphere.
    """

    spacing: Float[Tensor, " t"]
    rings: Int[Tensor, " t"]
    count: Int[Tensor, " t"]
    offset: Int[Tensor, " t"]
    starts: Int[Tensor, " r"]
    points_on_ring: Int[Tensor, " r"]
    points: Float[Tensor, "m 3"]


def make_lattice(density: list[float] | Tensor, radius_rad: float, device: torch.device) -> Lattice:
    """Ring patterns for the given densities, in points per steradian: rings j = 1 .. ceil(r sqrt(density)),
    ceil(2 pi j) points on ring j."""
    values = torch.as_tensor(density, dtype=torch.float64).to(device)
    if float(values.max()) * math.pi * radius_rad**2 > MOST_POINTS:
        most = MOST_POINTS / (math.pi * radius_rad**2)
        raise ValueError(f'density must be at most {most:.3g} here, got {float(values.max()):g}; or density="auto"')
    spacing = 1 / values.sqrt()
    rings = torch.ceil(radius_rad / spacing).long()
    if bool((rings * spacing >= math.pi / 2).any()):
        raise ValueError(
            "background points would lie beyond a quarter of the globe; use a smaller radius or a higher density"
        )
    on_ring = torch.ceil(2 * math.pi * torch.arange(int(rings.max()) + 1, device=device).double()).long()
    ends = torch.cumsum(on_ring, 0)
    starts, count = ends - on_ring, ends[rings]
    offset = torch.cumsum(count, 0) - count
    number = torch.arange(int(count.sum()), device=device) - torch.repeat_interleave(offset, count)
    ring = torch.searchsorted(ends, number, right=True)
    azimuth = -math.pi + 2 * math.pi * ((number - starts[ring]).double() / on_ring[ring])
    colatitude = ring * torch.repeat_interleave(spacing, count)
    sine, half = colatitude.sin(), (colatitude / 2).sin()
    points = torch.stack([sine * azimuth.cos(), sine * azimuth.sin(), -2 * half * half], -1)
    return Lattice(spacing, rings, count, offset, starts, on_ring, points)


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
    return search_window(k, int(20 * math.sin(outer) / outer) / 20)


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
    windows = [_window(max(reach[small:]), shrink, small, alike) for small in range(alike, 0, -1)]
    cost = [(w.rings, w.azimuths, w.near_rings) for w in windows]
    return [w for w, c in zip(windows, cost, strict=True) if c <= cost[0]][-1]


def _window(reach: float, shrink: float, small: int, alike: int) -> SearchWindow:
    """The window for patterns of more than ``small`` rings, in which the k nearest points are within ``reach``."""
    rings = math.ceil(reach - 0.5)
    u = torch.arange(0.5, 4 * alike, 0.02, dtype=torch.float64)[:, None]
    ring = torch.arange(1, 4 * alike + rings).double()
    aside = torch.minimum(_half_arc(u, ring, reach / shrink), (torch.ceil(2 * math.pi * ring) - 1) / 2 + 0.5)
    aside = torch.where((ring - u).abs() > rings + 0.5, 0, aside).amax(1) - 0.5  # to either side of the nearest point
    azimuths = math.ceil(reach / shrink - 0.5)
    while bool((aside > azimuths)[u[:, 0] > 3].any()):
        azimuths += 1
    near = max([0.5, *(u[aside > azimuths, 0] + 0.02).tolist()])
    return SearchWindow(small, near, math.floor(near + reach), rings, azimuths)


def _half_arc(u: Tensor, ring: Tensor, distance: Tensor | float) -> Tensor:
    """How many points of a ring fit into half the arc that lies within a distance of a place, all in spacings."""
    sine2 = (distance**2 - (ring - u) ** 2) / (4 * ring * u)
    return 2 * torch.asin(sine2.clamp(0, 1).sqrt()) * torch.ceil(2 * math.pi * ring) / (2 * math.pi)


def _reach(k: int, num_rings: int) -> float:
    """Largest distance, in spacings, to the k-th nearest point over all places of a pattern, found by halving."""
    step, margin = 0.005, 0.01
    ring = torch.arange(1, num_rings + 1).double()
    u = torch.cat([torch.arange(step, num_rings, step, dtype=torch.float64), ring])[:, None]
    low, high = torch.zeros_like(u), torch.full_like(u, 2.0 * num_rings)
    for _ in range(20):
        distance = (low + high) / 2
        arc = 2 * _half_arc(u, ring, distance) + 1e-9
        held = torch.floor(arc).sum(-1)
        own = torch.floor(arc) - 2 * torch.floor(arc / 2)  # counted too many if the place is a point of that ring
        held[-num_rings:] -= torch.diagonal(own[-num_rings:])
        enough = (held >= k)[:, None]
        low, high = torch.where(enough, low, distance), torch.where(enough, distance, high)
    return float(high.max()) + margin


DISTANCE_BITS = 38
"""Bits of a rounded squared distance; the point's number takes the other bits of a key."""

KEY_BITS = 32
"""Squared distances around background points are rounded to 2^-32 of the squared spacing."""

CHUNK_SAMPLES = 16_384
"""Samples (over all neighbourhoods) worked on at a time on a CPU: their arrays stay in the cache."""

BLOCK_CELLS = 4_000_000
"""Entries of the largest temporary table: rows are worked on in blocks of so many entries."""


@dataclass(frozen=True)
class PatternGraph:
    """The k-nearest-neighbour graph of each ring pattern, for the points of a lattice.

    Attributes:
        lattice, window: the patterns, and where to look in them.
        d2: squared chords to the k nearest other points, ascending, (points, k); infinite beyond.
        target: those points (rows of the lattice), -1 beyond.
        reverse_rank: rank of the point in the list of its target; k if it is not there.
        key_bits: squared distances are compared in units of 2^-key_bits squared spacings.
    """

    lattice: Lattice
    window: SearchWindow
    d2: Float[Tensor, "m k"]
    target: Int[Tensor, "m k"]
    reverse_rank: Int[Tensor, "m k"]
    key_bits: int


def graph_of_patterns(lattice: Lattice, k: int) -> PatternGraph:
    """The graphs of all patterns of a lattice, for the k nearest other points of each point."""
    window, bits = window_for(k, lattice), KEY_BITS
    if k > WINDOW_LIMIT:
        bits = min(bits, DISTANCE_BITS - 2 * math.ceil(math.log2(2 * int(lattice.rings.max()) + 2)))
    point, which = (torch.arange(len(x), device=lattice.count.device) for x in (lattice.points, lattice.count))
    pattern = torch.repeat_interleave(which, lattice.count)
    d2 = lattice.points.new_empty((len(point), k))
    target = point.new_empty((len(point), k))
    for rows in point.split(4 * CHUNK_SAMPLES):
        for part, candidate, distance2 in candidates_near(lattice, window, lattice.points[rows], pattern[rows]):
            own = rows[part]
            distance2 = torch.where(candidate == own[:, None], torch.inf, distance2)
            best, column = smallest(lattice, pattern[own], candidate, distance2, k, bits)
            d2[own], target[own] = best, torch.where(best < torch.inf, candidate.gather(1, column), -1)
    reverse_rank = torch.full_like(target, k)
    for rows in blocks(point, k * k):
        back = pick(target, target[rows].clamp_min(0)) == rows[:, None, None]  # does the target's slot hold this point?
        exists = back.any(-1) & (target[rows] >= 0)
        reverse_rank[rows] = torch.where(exists, back.int().argmax(-1), k)
    return PatternGraph(lattice, window, d2, target, reverse_rank, bits)


def candidates_near(
    lattice: Lattice, window: SearchWindow, place: Tensor, pattern: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pattern points that can matter to each place (given in its centre's frame), in groups of equal width.

    Yields (rows, candidate, squared chord); candidate -1 and chord infinity where there is none.
    """
    sine = (place.square().sum(-1).sqrt() / 2).clamp_max(1)
    u = 2 * torch.asin(sine) / pick(lattice.spacing, pattern)
    rings = pick(lattice.rings, pattern)
    everything = (rings <= window.small) | (u > rings + 1e-6)
    near = ~everything & (u < window.near)

    def with_chords(rows: Tensor, number: Tensor, exists: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        candidate = torch.where(exists, number + pick(lattice.offset, pattern[rows])[:, None], -1)
        d2 = squared_chord(pick(place, rows)[:, None], pick(lattice.points, candidate.clamp_min(0)))
        return rows, candidate, torch.where(exists, d2, torch.inf)

    by_width = everything.nonzero()[:, 0]
    by_width = by_width[torch.argsort(rings[by_width], stable=True)]
    inner = min(window.near_rings + 1, len(lattice.starts))
    groups = [
        (part, int(lattice.count[pattern[part]].max())) for part in by_width.split(CHUNK_SAMPLES // 4) if len(part)
    ]
    groups.append((near.nonzero()[:, 0], int(lattice.points_on_ring[:inner].sum())))
    for group, width in groups:
        for rows in blocks(group, width):
            number = torch.arange(width, device=place.device).expand(len(rows), -1)
            yield with_chords(rows, number, number < lattice.count[pattern[rows], None])

    width = (2 * window.rings + 1) * (2 * window.azimuths + 1)
    for rows in blocks((~(everything | near)).nonzero()[:, 0], width):
        span = torch.arange(-window.rings, window.rings + 1, device=place.device)
        ring = torch.round(u[rows])[:, None].long() + span
        exists = (ring >= 1) & (ring <= rings[rows, None])
        ring = ring.clamp(1, len(lattice.points_on_ring) - 1)
        points = pick(lattice.points_on_ring, ring)
        azimuth = torch.atan2(place[rows, 1], place[rows, 0])
        turn = torch.round((azimuth[:, None] / (2 * torch.pi) + 0.5) * points).long()
        side = torch.arange(-window.azimuths, window.azimuths + 1, device=place.device)
        number = pick(lattice.starts, ring)[..., None] + torch.remainder(turn[..., None] + side, points[..., None])
        inside = exists[..., None] & (side + window.azimuths < points[..., None])
        yield with_chords(rows, number.flatten(1), inside.flatten(1))


def blocks(rows: Tensor, cells_per_row: int) -> list[Tensor]:
    """The rows in parts whose tables of ``cells_per_row`` entries a row have at most `BLOCK_CELLS` entries."""
    return [part for part in rows.split(max(1, BLOCK_CELLS // max(cells_per_row, 1))) if len(part)]


def pick(table: Shaped[Tensor, "r *d"], index: Int[Tensor, "*i"]) -> Tensor:
    """``table[index]`` for an index without negative numbers; several times as fast."""
    return table.index_select(0, index.flatten()).view(*index.shape, *table.shape[1:])


def segment_sum(values: Float[Tensor, "v *e"], lengths: Int[Tensor, " c"]) -> Float[Tensor, "c *e"]:
    """Sum of the values of each neighbourhood, which lie one after another."""
    return torch.segment_reduce(values.contiguous(), "sum", lengths=lengths)


def smallest(
    lattice: Lattice, pattern: Tensor, candidate: Tensor, d2: Tensor, k: int, bits: int
) -> tuple[Tensor, Tensor]:
    """The k nearest candidates of each row, by (rounded distance, point): squared chords, infinite beyond, and
    columns."""
    number = (candidate - pick(lattice.offset, pattern)[:, None]).clamp_min(0)
    key = rounded(d2, pick(lattice.spacing, pattern)[:, None], bits) * (1 << 24) + number
    column = torch.topk(key, min(k, key.shape[1]), dim=1, largest=False, sorted=True)[1]
    missing = (0, k - column.shape[1])
    return pad(d2.gather(1, column), missing, value=torch.inf), pad(column, missing)


def rounded(d2: Tensor, spacing: Tensor, bits: int) -> Tensor:
    """Squared chords as integers of `DISTANCE_BITS` bits, in units of 2^-bits squared spacings."""
    units = (d2 / (spacing * spacing)).clamp_max(1 << (DISTANCE_BITS - bits)).mul(1 << bits).round().long()
    return units.clamp_max((1 << DISTANCE_BITS) - 1)
