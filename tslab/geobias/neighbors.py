"""Who is near whom: the neighbourhood of every centre, found once and used by every score.

All geo-bias scores start from the samples within a radius of a centre, often cut at the ``max_neighbors`` nearest.
`neighbor_graph` finds them for all centres at once and returns a `NeighborGraph` that any number of encoders,
marks and shuffles of the same samples can share. Three decisions make it exact and fast:

- distances are chords between unit vectors in float64, so the poles and the date line are ordinary places;
- samples at the same place share everything, so only distinct places are searched (a third of fMoW's samples);
- ties have one stated rule: of two samples at equal distance the one whose *place* appears first in the data comes
  first, and at the same place the lower row does. Internally samples are renumbered in that order, so that the rule
  is "lower number first" everywhere.

The tree search runs on the CPU (SciPy's k-d tree); on a GPU, sets of up to a few hundred thousand places are
searched there by blocked brute force, which gives the same neighbours.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from tslab.coords import EARTH_RADIUS_KM, check_lonlat, has_location, unit_vectors

if TYPE_CHECKING:
    from tslab.geobias.weights import WeightChunk

SEARCH_CHUNK = 20_000
"""Places searched at a time on the CPU."""

BRUTE_FORCE_LIMIT = 300_000
"""On a GPU, more places than this are searched by the tree on the CPU instead."""

KEPT_WEIGHT_BYTES = 1 << 30
"""Weight graphs larger than this are built again for each use instead of being kept."""


@dataclass
class NeighborGraph:
    """Neighbourhoods of a set of centres among a set of samples. Made by `neighbor_graph`.

    Attributes:
        num_samples: rows of the input, rows without a location included.
        order: input row of each internal sample; only rows with a location appear.
        xyz: unit vectors of the internal samples, float64.
        location: index of the place of each internal sample; samples of one place are contiguous.
        radius_rad, max_neighbors: as asked for (``max_neighbors=None``: no cut).
        center_rows: input row of each centre, -1 for a centre given by coordinates.
        center_lonlat: place of each centre in degrees, float64, NaN where the row has no location.
        neighborhood: index of each centre's neighbourhood, -1 for a centre without a location. Centres at one
            place share a neighbourhood.
        frame_lonlat: place of each distinct neighbourhood's centre in degrees.
        indptr, indices: the neighbourhoods as compressed rows; ``indices`` are internal samples, ascending.
    """

    num_samples: int
    order: Int[Tensor, " v"]
    xyz: Float[Tensor, "v 3"]
    location: Int[Tensor, " v"]
    radius_rad: float
    max_neighbors: int | None
    center_rows: Int[Tensor, " c"]
    center_lonlat: Float[Tensor, "c 2"]
    neighborhood: Int[Tensor, " c"]
    frame_lonlat: Float[Tensor, "d 2"]
    indptr: Int[Tensor, " d_plus_1"]
    indices: Int[Tensor, " e"]
    _weights: dict[tuple[int, float | None, bool], list["WeightChunk"]] = field(default_factory=dict, repr=False)
    _nearest: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the graph lies and where scores are computed."""
        return self.xyz.device

    @property
    def sizes(self) -> Int[Tensor, " d"]:
        """Number of samples in each distinct neighbourhood."""
        return self.indptr.diff()

    @property
    def n(self) -> Int[Tensor, " c"]:
        """Number of samples in the neighbourhood of each centre, the centre's own included; 0 if it has no place."""
        return self.per_center(self.sizes, missing=0)

    @property
    def saturated(self) -> Bool[Tensor, " c"]:
        """True for centres whose neighbourhood was cut, or exactly filled, at ``max_neighbors``."""
        if self.max_neighbors is None:
            return torch.zeros_like(self.neighborhood, dtype=torch.bool)
        return self.n >= self.max_neighbors

    def rows_of(self, center: int) -> Int[Tensor, " n"]:
        """Input rows in the neighbourhood of one centre (an index into ``center_rows``), in tie order."""
        which = int(self.neighborhood[center])
        if which < 0:
            return self.order[:0]
        return self.order[self.indices[self.indptr[which] : self.indptr[which + 1]].long()]

    def per_center(self, values: Tensor, *, missing: float = math.nan) -> Tensor:
        """Spread values of the distinct neighbourhoods over the centres; ``missing`` where there is no place."""
        absent = self.neighborhood < 0
        padded = torch.cat([values, values.new_full((1, *values.shape[1:]), missing)])
        return padded[torch.where(absent, len(values), self.neighborhood)]

    def weights(
        self, k: int = 4, density: float | None = None, *, overfull: bool = False
    ) -> Iterator["WeightChunk"]:
        """Weight graphs of all neighbourhoods with their background points, in chunks; kept if they are small.

        ``density=None`` is the automatic background density. See `tslab.geobias.weights` for this and
        for ``overfull``.
        """
        from tslab.geobias.weights import build_weights

        key = (k, density, overfull)
        if key in self._weights:
            yield from self._weights[key]
            return
        keep = len(self.indices) * k * 8 <= KEPT_WEIGHT_BYTES
        kept = []
        for chunk in build_weights(self, k=k, density=density, overfull=overfull):
            if keep:
                kept.append(chunk)
            yield chunk
        if keep:
            self._weights[key] = kept

    def nearest_samples(self, count: int) -> tuple[Int[Tensor, "u count"], Float[Tensor, "u count"]]:
        """For each place the ``count`` nearest samples (its own first) and their squared chords; -1 and inf beyond.

        A sample that ties with one beyond the list is left out, so what stands in the list is always decided.
        """
        if count not in self._nearest:
            self._nearest[count] = _nearest_samples(self, count)
        return self._nearest[count]


def neighbor_graph(
    lonlat: Float[Tensor, "n 2"],
    *,
    radius_km: float | None = None,
    radius_rad: float | None = None,
    max_neighbors: int | None = 100,
    centers: Tensor | None = None,
    neighbors: tuple[Tensor, Tensor] | None = None,
    device: str | torch.device | None = None,
) -> NeighborGraph:
    """Samples within a radius of each centre, at most the ``max_neighbors`` nearest, the centre's own included.

    Args:
        lonlat: samples, (longitude, latitude) in degrees; rows with NaN take no part.
        radius_km, radius_rad: give one; kilometres are divided by the mean Earth radius 6371.0088 km. The boundary
            belongs to the neighbourhood.
        max_neighbors: cut, or None for all samples in the radius.
        centers: rows of ``lonlat`` (integers), or places in degrees (float, shape (c, 2)); all rows by default.
        neighbors: (indptr, indices) with the rows of ``lonlat`` near each centre: takes the place of the search.
        device: of the result; that of ``lonlat`` by default.

    Errors: ``ValueError`` for a missing, doubled or impossible radius, and for neighbours that do not fit the centres.
    """
    check_lonlat(lonlat)
    radius = _radius_in_radians(radius_km, radius_rad)
    if max_neighbors is not None and max_neighbors < 1:
        raise ValueError(f"max_neighbors must be at least 1, or None for no cut, got {max_neighbors}")
    target = torch.device(device) if device is not None else lonlat.device
    degrees = lonlat.detach().to("cpu", torch.float64)
    order, xyz, location, first_of_place = _places_in_order(degrees)
    center_rows, center_lonlat = _centers(centers, degrees)

    if neighbors is not None:
        located = has_location(center_lonlat)
        indptr, indices = _given_neighbors(neighbors, located, order, len(degrees))
        neighborhood = torch.where(located, torch.arange(len(center_rows)), -1)
        frame_lonlat = center_lonlat.nan_to_num()
    else:
        neighborhood, frame_lonlat = _distinct_places(center_lonlat)
        starts = torch.cat([first_of_place, torch.tensor([len(order)])])
        indptr, indices = _search(unit_vectors(frame_lonlat), xyz, starts, radius, max_neighbors, target)
    return NeighborGraph(
        num_samples=len(degrees),
        order=order.to(target),
        xyz=xyz.to(target),
        location=location.to(target),
        radius_rad=radius,
        max_neighbors=max_neighbors,
        center_rows=center_rows.to(target),
        center_lonlat=center_lonlat.to(target),
        neighborhood=neighborhood.to(target),
        frame_lonlat=frame_lonlat.to(target),
        indptr=indptr.to(target),
        indices=indices.to(target),
    )


def squared_chord(a: Float[Tensor, "*n 3"], b: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
    """Squared straight-line distance between unit vectors, each operation rounded on its own.

    Equal inputs give equal bits whatever their position in the tensor, which is what ties are decided by.
    """
    dx, dy, dz = a[..., 0] - b[..., 0], a[..., 1] - b[..., 1], a[..., 2] - b[..., 2]
    return dx * dx + dy * dy + dz * dz


def _radius_in_radians(radius_km: float | None, radius_rad: float | None) -> float:
    if (radius_km is None) == (radius_rad is None):
        raise ValueError("give the radius once: radius_km=100 or radius_rad=0.05")
    radius = radius_rad if radius_rad is not None else radius_km / EARTH_RADIUS_KM  # type: ignore[operator]
    if not 0 < radius < math.pi / 2:
        raise ValueError(
            f"the radius must lie between 0 and a quarter of the globe (pi/2 rad, 10,007 km), got {radius:g} rad; "
            "kilometres go into radius_km, radians into radius_rad"
        )
    return float(radius)


def _places_in_order(degrees: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sort located rows by (first row of their place, row): order, xyz, place of each, first sample of each place."""
    rows = has_location(degrees).nonzero()[:, 0]
    xyz = unit_vectors(degrees[rows])
    first, _ = _first_rows(xyz)
    by_place = torch.argsort(first, stable=True)
    first = first[by_place]
    new = torch.ones(len(first), dtype=torch.bool)
    new[1:] = first[1:] != first[:-1]
    return rows[by_place], xyz[by_place].contiguous(), torch.cumsum(new, 0) - 1, new.nonzero()[:, 0]


def _first_rows(xyz: Tensor) -> tuple[Tensor, int]:
    """For each row the lowest row with the same vector, and the number of distinct vectors."""
    if len(xyz) == 0:
        return torch.zeros(0, dtype=torch.long), 0
    values = (xyz + 0.0).numpy()  # -0.0 and 0.0 are the same place
    by_value = np.lexsort((np.arange(len(values)), values[:, 2], values[:, 1], values[:, 0]))
    ordered = values[by_value]
    new = np.ones(len(values), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    run = np.cumsum(new) - 1
    first = np.empty(len(values), dtype=np.int64)
    first[by_value] = by_value[np.flatnonzero(new)][run]  # runs are sorted by row
    return torch.from_numpy(first), int(run[-1]) + 1


def _centers(centers: Tensor | None, degrees: Tensor) -> tuple[Tensor, Tensor]:
    if centers is None:
        return torch.arange(len(degrees)), degrees
    centers = torch.as_tensor(centers).detach().cpu()
    if centers.is_floating_point():
        check_lonlat(centers, name="centers")
        return torch.full((len(centers),), -1), centers.double()
    rows = centers.long()
    if rows.ndim != 1 or bool(((rows < 0) | (rows >= len(degrees))).any()):
        raise ValueError(
            f"centers must be rows of lonlat, integers in [0, {len(degrees)}) in one dimension, "
            "or float places of shape (c, 2) in degrees"
        )
    return rows, degrees[rows]


def _distinct_places(center_lonlat: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the distinct place of each centre (-1 without one), and those places in degrees."""
    located = has_location(center_lonlat)
    places = center_lonlat[located]
    first, _ = _first_rows(unit_vectors(places))
    kept, which = torch.unique(first, return_inverse=True)
    neighborhood = torch.full((len(center_lonlat),), -1)
    neighborhood[located] = which
    return neighborhood, places[kept]


def _given_neighbors(
    neighbors: tuple[Tensor, Tensor], located: Tensor, order: Tensor, num_samples: int
) -> tuple[Tensor, Tensor]:
    indptr, rows = (torch.as_tensor(part).detach().cpu().long() for part in neighbors)
    if len(indptr) != len(located) + 1 or int(indptr[-1]) != len(rows) or bool((indptr.diff() < 0).any()):
        raise ValueError(
            f"neighbors must be (indptr, indices) with one row per centre: {len(located)} centres need an indptr of "
            f"{len(located) + 1} ascending entries that ends at len(indices) = {len(rows)}, got {len(indptr)} entries"
        )
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= num_samples):
        raise ValueError(f"neighbors hold rows outside [0, {num_samples})")
    internal = torch.full((num_samples,), -1)
    internal[order] = torch.arange(len(order))
    ids = internal[rows]
    if bool((ids < 0).any()):
        raise ValueError("neighbors hold rows of lonlat without a location (NaN); drop them from indices")
    segment = torch.repeat_interleave(torch.arange(len(located)), indptr.diff())
    ids = torch.sort(segment * max(len(order), 1) + ids)[0] - segment * max(len(order), 1)
    if bool(((ids[1:] == ids[:-1]) & (segment[1:] == segment[:-1])).any()):
        raise ValueError("neighbors name the same row twice for one centre; make the rows of each centre unique")
    return indptr, ids.int()


def _search(
    centers: Tensor, xyz: Tensor, starts: Tensor, radius: float, max_neighbors: int | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Compressed rows of internal samples near each centre, ascending within a row."""
    if len(xyz) == 0 or len(centers) == 0:
        return torch.zeros(len(centers) + 1, dtype=torch.long), torch.zeros(0, dtype=torch.int32)
    places = xyz[starts[:-1]]
    finder = _place_finder(places, device)
    sizes, parts = [], []
    for chunk in centers.split(SEARCH_CHUNK):
        owner, place = _places_within(finder, chunk, places, starts, radius, max_neighbors)
        owner, ids = _expand(owner, place, starts, max_neighbors)
        key = torch.sort(owner * len(xyz) + ids)[0]
        parts.append((key % len(xyz)).int())
        sizes.append(torch.bincount(owner, minlength=len(chunk)))
    indptr = torch.zeros(len(centers) + 1, dtype=torch.long)
    torch.cumsum(torch.cat(sizes), 0, out=indptr[1:])
    return indptr, torch.cat(parts)


def _places_within(
    finder: "_PlaceFinder",
    centers: Tensor,
    places: Tensor,
    starts: Tensor,
    radius: float,
    max_neighbors: int | None,
) -> tuple[Tensor, Tensor]:
    """(owner, place) pairs within the radius, per owner ordered by distance; enough of them to fill the cut."""
    limit = 4 * math.sin(radius / 2) ** 2
    if max_neighbors is None:
        owner, place = finder.within(centers, radius)
        d2 = squared_chord(centers[owner], places[place])
        keep = d2 <= limit
        return owner[keep], place[keep]
    multiplicity = starts.diff()
    want = min(max_neighbors + 1, len(places))
    while True:
        place, d2 = finder.nearest(centers, want)
        filled = torch.cumsum(multiplicity[place] * (d2 <= limit), 1) >= max_neighbors
        cut = torch.where(filled.any(1), filled.int().argmax(1), want - 1)
        cut_d2 = d2.gather(1, cut[:, None])
        # a place beyond the list may tie with the last one that is needed
        undecided = (cut_d2[:, 0] == d2[:, -1]) & (d2[:, -1] <= limit) & (want < len(places))
        if not bool(undecided.any()):
            break
        want = min(4 * want, len(places))
    keep = (d2 <= limit) & (torch.arange(want) <= cut[:, None])
    owner = torch.arange(len(centers))[:, None].expand(-1, want)
    return owner[keep], place[keep]


def _expand(owner: Tensor, place: Tensor, starts: Tensor, max_neighbors: int | None) -> tuple[Tensor, Tensor]:
    """From places to samples: all of each place, in order, cut at ``max_neighbors`` samples per owner."""
    count = starts[place + 1] - starts[place]
    before = torch.cumsum(count, 0) - count
    if max_neighbors is not None:
        new = torch.ones(len(owner), dtype=torch.bool)
        new[1:] = owner[1:] != owner[:-1]
        base = torch.cummax(torch.where(new, before, 0), 0)[0]
        count = torch.minimum(count, max_neighbors - (before - base)).clamp_min(0)
        before = torch.cumsum(count, 0) - count
    total = int(count.sum())
    ids = torch.repeat_interleave(starts[place] - before, count) + torch.arange(total)
    return torch.repeat_interleave(owner, count), ids


def _nearest_samples(graph: NeighborGraph, count: int) -> tuple[Tensor, Tensor]:
    xyz, location = graph.xyz.cpu(), graph.location.cpu()
    if len(xyz) == 0:
        return graph.indices.new_zeros((0, count)), graph.xyz.new_zeros((0, count))
    new = torch.ones(len(location), dtype=torch.bool)
    new[1:] = location[1:] != location[:-1]
    starts = torch.cat([new.nonzero()[:, 0], torch.tensor([len(location)])])
    places = xyz[starts[:-1]]
    finder = _place_finder(places, graph.device)
    want = min(count + 1, len(places))
    ids = torch.full((len(places), count), -1, dtype=torch.int32)
    squared = torch.full((len(places), count), math.inf, dtype=torch.float64)
    column = torch.arange(count)
    for begin in range(0, len(places), SEARCH_CHUNK):
        end = min(begin + SEARCH_CHUNK, len(places))
        place, d2 = finder.nearest(places[begin:end], want)
        ends = torch.cumsum(starts[place + 1] - starts[place], 1)
        decided = torch.ones_like(d2, dtype=torch.bool)
        if want < len(places):
            decided = d2 < d2[:, -1:]
        slot = torch.searchsorted(ends, column.expand(end - begin, count).contiguous(), right=True)
        valid = slot < want
        slot = slot.clamp_max(want - 1)
        valid &= decided.gather(1, slot)
        offset = column - torch.where(slot > 0, ends.gather(1, (slot - 1).clamp_min(0)), 0)
        ids[begin:end] = torch.where(valid, starts[place.gather(1, slot)] + offset, -1).int()
        squared[begin:end] = torch.where(valid, d2.gather(1, slot), math.inf)
    return ids.to(graph.device), squared.to(graph.device)


class _PlaceFinder:
    """Nearest places by a k-d tree, in the order (squared chord in float64, place)."""

    def __init__(self, places: Tensor) -> None:
        self.places = places
        self.tree = cKDTree(places.numpy())

    def nearest(self, points: Tensor, count: int) -> tuple[Tensor, Tensor]:
        index = self.tree.query(points.numpy(), k=[*range(1, count + 1)], workers=-1)[1]
        return self.sort(points, torch.from_numpy(index))

    def within(self, points: Tensor, radius: float) -> tuple[Tensor, Tensor]:
        chord = 2 * math.sin(radius / 2) * (1 + 1e-9)
        pairs = cKDTree(points.numpy()).sparse_distance_matrix(self.tree, chord, output_type="ndarray")
        owner, place = torch.from_numpy(pairs["i"].copy()), torch.from_numpy(pairs["j"].copy())
        order = torch.argsort(owner, stable=True)
        return owner[order].long(), place[order].long()

    def sort(self, points: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Put each row in order; only rows with ties or rounding differences need it."""
        d2 = squared_chord(points[:, None], self.places[index])
        rows = (d2[:, 1:] <= d2[:, :-1]).any(1).nonzero()[:, 0]
        if len(rows):
            by_place, columns = torch.sort(index[rows], dim=1)
            by_d2, columns_2 = torch.sort(d2[rows].gather(1, columns), dim=1, stable=True)
            index[rows] = by_place.gather(1, columns_2)
            d2[rows] = by_d2
        return index, d2


class _BruteForceFinder(_PlaceFinder):
    """The same on a GPU: blocks of all distances, then the smallest of each row."""

    def __init__(self, places: Tensor, device: torch.device, block_bytes: int = 1 << 30) -> None:
        super().__init__(places)
        self.on_device = places.to(device)
        self.block = max(1, block_bytes // (24 * max(len(places), 1)))

    def nearest(self, points: Tensor, count: int) -> tuple[Tensor, Tensor]:
        found = []
        spare = min(count + 8, len(self.places))  # rounding may order near-equal distances differently
        for block in points.to(self.on_device.device).split(self.block):
            d2 = squared_chord(block[:, None], self.on_device[None])
            found.append(torch.topk(d2, spare, dim=1, largest=False)[1].cpu())
        index, d2 = self.sort(points, torch.cat(found))
        return index[:, :count], d2[:, :count]


def _place_finder(places: Tensor, device: torch.device) -> _PlaceFinder:
    if device.type == "cuda" and len(places) <= BRUTE_FORCE_LIMIT:
        return _BruteForceFinder(places, device)
    return _PlaceFinder(places)
