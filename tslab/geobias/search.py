"""The search behind every neighbourhood: nearest places by SciPy's k-d tree, ties decided by one rule."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

SEARCH_CHUNK = 20_000
"""Places searched at a time."""


def squared_chord(a: Float[Tensor, "*#n 3"], b: Float[Tensor, "*#n 3"]) -> Float[Tensor, "*n"]:
    """Squared straight-line distance between unit vectors, each operation rounded on its own.

    Equal inputs give equal bits whatever their position in the tensor, which is what ties are decided by.
    """
    dx, dy, dz = a[..., 0] - b[..., 0], a[..., 1] - b[..., 1], a[..., 2] - b[..., 2]
    return dx * dx + dy * dy + dz * dz


class PlaceFinder:
    """Nearest places by a k-d tree, in the order (squared chord in float64, place)."""

    def __init__(self, places: Tensor) -> None:
        self.places = places
        self.tree = cKDTree(places.numpy())

    def nearest(self, points: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The ``count`` nearest places of each point and their squared chords."""
        index = torch.from_numpy(self.tree.query(points.numpy(), k=[*range(1, count + 1)], workers=-1)[1])
        d2 = squared_chord(points[:, None], self.places[index])
        rows = (d2[:, 1:] <= d2[:, :-1]).any(1).nonzero()[:, 0]  # ties and rounding differences
        if len(rows):
            by_place, columns = torch.sort(index[rows], dim=1)
            d2[rows], columns_2 = torch.sort(d2[rows].gather(1, columns), dim=1, stable=True)
            index[rows] = by_place.gather(1, columns_2)
        return index, d2

    def count_within(self, points: Tensor, radius: float) -> Tensor:
        """How many places lie within the radius of each point; a rounding error at the edge is possible."""
        if len(self.places) == 0:
            return torch.zeros(len(points), dtype=torch.long)
        counts = self.tree.query_ball_point(points.numpy(), _chord(radius), return_length=True, workers=-1)
        return torch.from_numpy(np.asarray(counts, dtype=np.int64))

    def within(self, points: Tensor, radius: float) -> tuple[Tensor, Tensor]:
        """(point, place) of all places within the radius, and a hair more, in no order."""
        pairs = cKDTree(points.numpy()).sparse_distance_matrix(self.tree, _chord(radius), output_type="ndarray")
        owner, place = (torch.from_numpy(pairs[name].astype(np.int64)) for name in ("i", "j"))
        return owner, place


def _chord(radius: float) -> float:
    return 2 * math.sin(radius / 2) * (1 + 1e-9)


def ranges(cost: Int[Tensor, " c"], limit: int) -> Iterator[tuple[int, int]]:
    """Ranges of items in turn, (first, end), whose costs add up to about the limit: at least one item each."""
    total = torch.cumsum(cost, 0)
    first = 0
    while first < len(total):
        spent = int(total[first - 1]) if first else 0
        end = max(int(torch.searchsorted(total, spent + limit)), first + 1)
        yield first, end
        first = end


def samples_within(
    centers: Tensor, xyz: Tensor, starts: Tensor, radius: float, max_neighbors: int | None
) -> tuple[Tensor, Tensor]:
    """Compressed rows of internal samples near each centre, ascending within a row."""
    if len(xyz) == 0 or len(centers) == 0:
        return torch.zeros(len(centers) + 1, dtype=torch.long), torch.zeros(0, dtype=torch.int32)
    finder = PlaceFinder(xyz[starts[:-1]])
    sizes, parts = [], []
    for chunk in centers.split(SEARCH_CHUNK):
        owner, ids = samples_by_distance(finder, chunk, starts, radius, max_neighbors)
        parts.append((torch.sort(owner * len(xyz) + ids)[0] % len(xyz)).int())
        sizes.append(torch.bincount(owner, minlength=len(chunk)))
    indptr = torch.zeros(len(centers) + 1, dtype=torch.long)
    torch.cumsum(torch.cat(sizes), 0, out=indptr[1:])
    return indptr, torch.cat(parts)


def samples_by_distance(
    finder: PlaceFinder, centers: Tensor, starts: Tensor, radius: float, max_neighbors: int | None
) -> tuple[Tensor, Tensor]:
    """(centre, sample) pairs within the radius, per centre by (distance, sample), cut at ``max_neighbors``.

    The samples of place j are ``starts[j]`` to ``starts[j + 1]``. Without a cut, samples come in no order.
    """
    owner, place = _places_within(finder, centers, starts.diff(), radius, max_neighbors)
    count = starts[place + 1] - starts[place]
    before = torch.cumsum(count, 0) - count
    if max_neighbors is not None:
        taken = before - before[torch.searchsorted(owner, owner)]
        count = torch.minimum(count, max_neighbors - taken).clamp_min(0)
        before = torch.cumsum(count, 0) - count
    ids = torch.repeat_interleave(starts[place] - before, count) + torch.arange(int(count.sum()))
    return torch.repeat_interleave(owner, count), ids


def _places_within(
    finder: PlaceFinder, centers: Tensor, multiplicity: Tensor, radius: float, max_neighbors: int | None
) -> tuple[Tensor, Tensor]:
    """(owner, place) pairs within the radius, per owner ordered by distance; enough of them to fill the cut."""
    limit = 4 * math.sin(radius / 2) ** 2
    if max_neighbors is None:
        owner, place = finder.within(centers, radius)
        d2 = squared_chord(centers[owner], finder.places[place])
        keep = d2 <= limit
        return owner[keep], place[keep]
    want = min(max_neighbors + 1, len(multiplicity))
    while True:
        place, d2 = finder.nearest(centers, want)
        filled = torch.cumsum(multiplicity[place] * (d2 <= limit), 1) >= max_neighbors
        cut = torch.where(filled.any(1), filled.int().argmax(1), want - 1)
        cut_d2 = d2.gather(1, cut[:, None])
        # a place beyond the list may tie with the last one that is needed
        undecided = (cut_d2[:, 0] == d2[:, -1]) & (d2[:, -1] <= limit) & (want < len(multiplicity))
        if not bool(undecided.any()):
            break
        want = min(4 * want, len(multiplicity))
    keep = (d2 <= limit) & (torch.arange(want) <= cut[:, None])
    owner = torch.arange(len(centers))[:, None].expand(-1, want)
    return owner[keep], place[keep]
