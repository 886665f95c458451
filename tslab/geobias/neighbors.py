"""Who is near whom: the neighbourhood of every centre, found once and used by every score.

All geo-bias scores start from the samples within a radius of a centre, often cut at the ``max_neighbors`` nearest.
`neighbor_graph` finds them for all centres at once and returns a `NeighborGraph` that any number of encoders,
marks and shuffles of the same samples can share. Three decisions make it exact and fast:

- distances are chords between unit vectors in float64, so the poles and the date line are ordinary places;
- samples at the same place share everything, so only distinct places are searched (a third of fMoW's samples);
- ties have one stated rule: of two samples at equal distance the one whose *place* appears first in the data comes
  first, and at the same place the lower row does. Internally samples are renumbered in that order, so that the rule
  is "lower number first" everywhere.

The search itself stands at the end: nearest places by SciPy's k-d tree.
"""

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from tslab._checks import check_count
from tslab._numbers import Numbers
from tslab.coords import check_lonlat, has_location, unit_vectors
from tslab.geobias.inputs import Pair, as_places, as_radius, as_rows, as_tensor


@dataclass
class NeighborGraph:
    """Neighbourhoods of a set of centres among a set of samples. Made by `neighbor_graph`.

    Attributes:
        num_samples: rows of the input, rows without a location included.
        radius_rad, max_neighbors: as asked for (``max_neighbors=None``: no cut).
        order: input row of each internal sample; only rows with a location appear.
        xyz: unit vectors of the internal samples, float64.
        location: index of the place of each internal sample; samples of one place are contiguous.
        center_rows: input row of each centre, -1 for a centre given by coordinates.
        center_lonlat: place of each centre in degrees, float64, NaN where the row has no location.
        neighborhood: index of each centre's neighbourhood, -1 for a centre without a location. Centres at one
            place share a neighbourhood.
        frame_lonlat: place of each distinct neighbourhood's centre in degrees.
        indptr, indices: the neighbourhoods as compressed rows; ``indices`` are internal samples, ascending.
        cache: what scores have derived from the graph and may need again.
    """

    num_samples: int
    radius_rad: float
    max_neighbors: int | None
    order: Int[Tensor, " v"]
    xyz: Float[Tensor, "v 3"]
    location: Int[Tensor, " v"]
    center_rows: Int[Tensor, " c"]
    center_lonlat: Float[Tensor, "c 2"]
    neighborhood: Int[Tensor, " c"]
    frame_lonlat: Float[Tensor, "d 2"]
    indptr: Int[Tensor, " d+1"]
    indices: Int[Tensor, " e"]
    cache: dict[Hashable, Any] = field(default_factory=dict, repr=False, init=False)

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
        return self.n >= (math.inf if self.max_neighbors is None else self.max_neighbors)

    def rows_of(self, center: int) -> Int[Tensor, " n"]:
        """Input rows in the neighbourhood of one centre (an index into ``center_rows``), in tie order."""
        check_count("center", center, at_least=0, at_most=len(self.center_rows) - 1)
        which = int(self.neighborhood[center])
        if which < 0:
            return self.order[:0]
        return self.order[self.indices[self.indptr[which] : self.indptr[which + 1]].long()]

    def per_center(self, values: Tensor, *, missing: float = math.nan) -> Tensor:
        """Spread values of the distinct neighbourhoods over the centres; ``missing`` where there is no place."""
        return spread(values, self.neighborhood, missing)


def spread(values: Tensor, which: Int[Tensor, " c"], missing: float) -> Tensor:
    """Row ``which`` of the values for each centre; ``missing`` where that is negative."""
    padded = torch.cat([values, values.new_full((1, *values.shape[1:]), missing)])
    return padded[torch.where(which < 0, len(values), which).to(values.device)]


def neighbor_graph(
    lonlat: Float[Tensor, "n 2"] | Numbers,
    *,
    radius_km: float | None = None,
    radius_rad: float | None = None,
    max_neighbors: int | None = 100,
    centers: Tensor | Numbers | None = None,
    neighbors: Pair | None = None,
    device: str | torch.device | None = None,
) -> NeighborGraph:
    """Samples within a radius of each centre, at most the ``max_neighbors`` nearest, the centre's own included.

    Args:
        lonlat: samples, (longitude, latitude) in degrees; rows with NaN take no part.
        radius_km, radius_rad: give one; kilometres are divided by the mean Earth radius 6371.0088 km. The boundary
            belongs to the neighbourhood.
        max_neighbors: cut, or None for all samples in the radius.
        centers: rows of ``lonlat`` (integers), a mask of them (bool), or places in degrees (float, shape (c, 2)); all
            rows by default.
        neighbors: (indptr, indices) with the rows of ``lonlat`` near each centre: takes the place of the search.
        device: of the result; that of ``lonlat`` by default.

    Errors: ``ValueError`` for a missing, doubled or impossible radius, and for neighbours that do not fit the centres.
    """
    lonlat = as_places(lonlat)
    radius = as_radius(radius_km, radius_rad)
    if max_neighbors is not None:
        max_neighbors = check_count("max_neighbors", max_neighbors, hint="None is no cut")
    target = torch.device(device) if device is not None else lonlat.device
    degrees = lonlat.detach().to("cpu", torch.float64)
    order, xyz, location, first_of_place = places_in_order(degrees)
    center_rows, center_lonlat = read_centers(centers, degrees)

    if neighbors is not None:
        located = has_location(center_lonlat)
        indptr, indices = _given_neighbors(neighbors, located, order, len(degrees))
        neighborhood = torch.where(located, torch.arange(len(center_rows)), -1)
        frame_lonlat = center_lonlat.nan_to_num()
    else:
        neighborhood, frame_lonlat = distinct_places(center_lonlat)
        starts = torch.cat([first_of_place, torch.tensor([len(order)])])
        indptr, indices = samples_within(unit_vectors(frame_lonlat), xyz, starts, radius, max_neighbors)
    samples, centers = (order, xyz, location), (center_rows, center_lonlat, neighborhood, frame_lonlat)
    tensors = (part.to(target) for part in (*samples, *centers, indptr, indices))
    return NeighborGraph(len(degrees), radius, max_neighbors, *tensors)


def nearest_samples(graph: NeighborGraph, count: int) -> tuple[Int[Tensor, "u count"], Float[Tensor, "u count"]]:
    """For each place the ``count`` nearest samples (its own first) and their squared chords; -1 and inf beyond.

    The lists are kept with the graph.
    """
    key = ("nearest samples", count)
    if key in graph.cache:
        return graph.cache[key]
    xyz, location = graph.xyz.cpu(), graph.location.cpu()
    starts = torch.searchsorted(location, torch.arange(int(location.max()) + 2 if len(location) else 1))
    places, finder = xyz[starts[:-1]], PlaceFinder(xyz[starts[:-1]])
    ids = torch.full((len(places), count), -1, dtype=torch.int32)
    squared = torch.full((len(places), count), math.inf, dtype=torch.float64)
    for rows in torch.arange(len(places)).split(SEARCH_CHUNK) if len(places) else ():
        owner, sample = samples_by_distance(finder, places[rows], starts, math.pi, count)
        rank = torch.arange(len(owner)) - torch.searchsorted(owner, owner)
        ids[rows[owner], rank] = sample.int()
        squared[rows[owner], rank] = squared_chord(places[rows[owner]], xyz[sample])
    graph.cache[key] = ids.to(graph.device), squared.to(graph.device)
    return graph.cache[key]


def read_centers(centers: Any, degrees: Float[Tensor, "n 2"]) -> tuple[Tensor, Tensor]:
    """Input row (-1 for a place) and place of each centre, from rows, a mask of rows, places, or None for all rows."""
    if centers is None:
        return torch.arange(len(degrees)), degrees
    given = as_tensor("centers", centers).detach().cpu()
    if given.is_floating_point() and given.numel():
        check_lonlat(given, name="centers")
        return torch.full((len(given),), -1), given.double()
    rows = as_rows("centers", given.flatten() if not given.numel() else given, len(degrees))
    return rows, degrees[rows]


def places_in_order(degrees: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sort located rows by (first row of their place, row): order, xyz, place of each, first sample of each place."""
    rows = has_location(degrees).nonzero()[:, 0]
    xyz = unit_vectors(degrees[rows])
    first = _first_rows(xyz)
    by_place = torch.argsort(first, stable=True)
    first = first[by_place]
    new = first != torch.cat([first.new_full((1,), -1), first])[:-1]
    return rows[by_place], xyz[by_place].contiguous(), torch.cumsum(new, 0) - 1, new.nonzero()[:, 0]


def _first_rows(xyz: Tensor) -> Tensor:
    """For each row the lowest row with the same vector."""
    table = pd.DataFrame((xyz + 0.0).numpy())  # -0.0 and 0.0 are the same place
    first = np.flatnonzero(~table.duplicated().to_numpy())
    return torch.from_numpy(first[table.groupby([0, 1, 2], sort=False).ngroup().to_numpy()])


def distinct_places(center_lonlat: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the distinct place of each centre (-1 without one), and those places in degrees."""
    located = has_location(center_lonlat)
    places = center_lonlat[located]
    first = _first_rows(unit_vectors(places))
    kept, which = torch.unique(first, return_inverse=True)
    neighborhood = torch.full((len(center_lonlat),), -1)
    neighborhood[located] = which
    return neighborhood, places[kept]


def _given_neighbors(neighbors: Pair, located: Tensor, order: Tensor, num_samples: int) -> tuple[Tensor, Tensor]:
    if not isinstance(neighbors, tuple | list) or len(neighbors) != 2:
        raise ValueError("neighbors must be a NeighborGraph or a pair (indptr, indices)")
    parts = [as_tensor("neighbors", part).detach().cpu() for part in neighbors]
    if any(part.ndim != 1 or (part.is_floating_point() and len(part)) or part.dtype == torch.bool for part in parts):
        raise ValueError("neighbors must be (indptr, indices), both of whole numbers in one dimension")
    indptr, rows = (part.long() for part in parts)
    fits = len(indptr) == len(located) + 1 and int(indptr[0]) == 0 and int(indptr[-1]) == len(rows)
    if not fits or bool((indptr.diff() < 0).any()):
        raise ValueError(
            f"neighbors must be (indptr, indices): {len(located)} centres need an indptr of {len(located) + 1} entries "
            f"that ascend from 0 to len(indices) = {len(rows)}"
        )
    rows = as_rows("indices of neighbors", rows, num_samples)
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
