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
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import pad

from tslab.geobias.background import WINDOW_LIMIT, Lattice, SearchWindow, window_for
from tslab.geobias.search import squared_chord

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
