"""The ring patterns' own graphs: which background points are among the k nearest of which, and which of them can
matter to a place.

A place on the pattern sees its nearest points by arithmetic (its ring, its azimuth), so a few candidates replace all
m points; `tslab.geobias.background` proves the window. The graph is made once per pattern; the samples of a
neighbourhood only displace its last edges (`tslab.geobias.weights`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tslab.geobias.background import WINDOW_LIMIT, Lattice, SearchWindow

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
    """The k-nearest-neighbour graph of each ring pattern; rows of pattern t start at ``offset[t]``."""

    offset: Tensor
    d2: Tensor  # (rows, k) squared chords to the k nearest points, ascending
    target: Tensor  # (rows, k) their numbers, -1 beyond
    reverse_rank: Tensor  # (rows, k) rank of the point in the list of its target; k if not there
    in_degree: Tensor  # (rows,)
    mutual: Tensor  # (patterns,) number of edges whose reverse is an edge
    squares: Tensor  # (patterns,) sum over points of (out-degree + in-degree)^2
    key_bits: int  # squared distances are compared in units of 2^-key_bits squared spacings


def graph_of_patterns(lattice: Lattice, k: int, window: SearchWindow) -> PatternGraph:
    """The graphs of all patterns of a lattice, for the k nearest other points of each point."""
    device = lattice.count.device
    bits = KEY_BITS
    if k > WINDOW_LIMIT:
        bits = min(bits, DISTANCE_BITS - 2 * math.ceil(math.log2(2 * int(lattice.rings.max()) + 2)))
    offset = torch.cumsum(lattice.count, 0) - lattice.count
    total = int(lattice.count.sum())
    d2 = torch.full((total, k), torch.inf, dtype=torch.float64, device=device)
    target = torch.full((total, k), -1, device=device)
    pattern = torch.repeat_interleave(torch.arange(len(lattice.count), device=device), lattice.count)
    point = torch.arange(total, device=device) - offset[pattern]
    for rows in torch.arange(total, device=device).split(4 * CHUNK_SAMPLES):
        place = lattice.local(point[rows], pattern[rows])
        for part, candidate, distance2 in candidates_near(lattice, window, place, pattern[rows]):
            distance2 = torch.where(candidate == point[rows[part], None], torch.inf, distance2)
            best, column = smallest(distance2, candidate, lattice.spacing[pattern[rows[part]]], k, bits)
            width = best.shape[1]
            d2[rows[part], :width] = best
            chosen = torch.where(best < torch.inf, candidate.gather(1, column), -1)
            target[rows[part], :width] = chosen
    exists = target >= 0
    flat = offset[pattern][:, None] + target.clamp_min(0)
    in_degree = torch.bincount(flat[exists], minlength=total)
    reverse_rank = torch.full_like(target, k)
    for rows in blocks(torch.arange(total, device=device), k * k):
        back = target[flat[rows]] == point[rows, None, None]  # does the target's slot hold this point?
        reverse_rank[rows] = torch.where(back.any(-1) & exists[rows], back.int().argmax(-1), k)
    mutual = torch.bincount(pattern, weights=(reverse_rank < k).sum(1).double(), minlength=len(offset))
    squares = torch.bincount(pattern, weights=((k + in_degree) ** 2).double(), minlength=len(offset))
    return PatternGraph(offset, d2, target, reverse_rank, in_degree, mutual, squares, bits)


def candidates_near(
    lattice: Lattice, window: SearchWindow, place: Tensor, pattern: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pattern points that can matter to each place (given in its centre's frame), in groups of equal width.

    Yields (rows, candidate, squared chord); candidate -1 and chord infinity where there is none.
    """
    sine = (place.square().sum(-1).sqrt() / 2).clamp_max(1)
    u = 2 * torch.asin(sine) / lattice.spacing[pattern]
    rings = lattice.rings[pattern]
    everything = (rings <= window.small) | (u > rings + 1e-6)
    near = ~everything & (u < window.near)
    windowed = ~(everything | near)

    by_width = everything.nonzero()[:, 0]
    by_width = by_width[torch.argsort(rings[by_width], stable=True)]
    last = min(window.near_rings, len(lattice.points_on_ring) - 1)
    inner = int(lattice.starts[last] + lattice.points_on_ring[last])
    groups = [
        (part, int(lattice.count[pattern[part]].max())) for part in by_width.split(CHUNK_SAMPLES // 4) if len(part)
    ]
    groups.append((near.nonzero()[:, 0], inner))
    for group, width in groups:
        for rows in blocks(group, width):
            candidate = torch.arange(width, device=place.device).expand(len(rows), -1)
            candidate = torch.where(candidate < lattice.count[pattern[rows], None], candidate, -1)
            yield rows, candidate, _chords(lattice, place[rows], pattern[rows], candidate)

    width = (2 * window.rings + 1) * (2 * window.azimuths + 1)
    for rows in blocks(windowed.nonzero()[:, 0], width):
        span = torch.arange(-window.rings, window.rings + 1, device=place.device)
        ring = torch.round(u[rows])[:, None].long() + span
        exists = (ring >= 1) & (ring <= rings[rows, None])
        ring = ring.clamp(1, len(lattice.points_on_ring) - 1)
        points = lattice.points_on_ring[ring]
        azimuth = torch.atan2(place[rows, 1], place[rows, 0])
        turn = torch.round((azimuth[:, None] / (2 * torch.pi) + 0.5) * points).long()
        side = torch.arange(-window.azimuths, window.azimuths + 1, device=place.device)
        number = torch.remainder(turn[..., None] + side, points[..., None])
        inside = exists[..., None] & (side + window.azimuths < points[..., None])
        candidate = torch.where(inside, lattice.starts[ring][..., None] + number, -1).flatten(1)
        yield rows, candidate, _chords(lattice, place[rows], pattern[rows], candidate)


def blocks(rows: Tensor, cells_per_row: int) -> list[Tensor]:
    """The rows in parts whose tables of ``cells_per_row`` entries a row have at most `BLOCK_CELLS` entries."""
    return [part for part in rows.split(max(1, BLOCK_CELLS // max(cells_per_row, 1))) if len(part)]


def _chords(lattice: Lattice, place: Tensor, pattern: Tensor, candidate: Tensor) -> Tensor:
    point = candidate.clamp_min(0)
    colatitude = lattice.ring[point] * lattice.spacing[pattern][:, None]
    sine, half = colatitude.sin(), (colatitude / 2).sin()
    dx = place[:, 0:1] - sine * lattice.cos_azimuth[point]
    dy = place[:, 1:2] - sine * lattice.sin_azimuth[point]
    dz = place[:, 2:3] + 2 * half * half
    return torch.where(candidate >= 0, dx * dx + dy * dy + dz * dz, torch.inf)


def smallest(d2: Tensor, candidate: Tensor, spacing: Tensor, k: int, bits: int = KEY_BITS) -> tuple[Tensor, Tensor]:
    """The k nearest candidates of each row: squared chords and columns, by (rounded distance, point number)."""
    key = rounded(d2, spacing[:, None], bits) * (1 << 24) + candidate.clamp_min(0)
    column = torch.topk(key, min(k, key.shape[1]), dim=1, largest=False, sorted=True)[1]
    return d2.gather(1, column), column


def rounded(d2: Tensor, spacing: Tensor, bits: int = KEY_BITS) -> Tensor:
    """Squared chords as integers, in units of 2^-bits squared spacings, at most 2^38."""
    return (d2 / (spacing * spacing)).clamp_max(1 << (DISTANCE_BITS - bits)).mul(1 << bits).round().long()
