"""Spatial relative information: how much the parts of a neighbourhood differ from the whole.

Around each centre the samples within a radius are split by a rule (square cells, distance rings, direction sectors),
and the share of hits in every part is compared with the share of hits in the whole neighbourhood by a
Kullback-Leibler divergence. A model that is right and wrong in the same proportion in every part scores zero.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int, Real, Shaped
from numpy.typing import NDArray
from torch import Tensor

from tslab._checks import check_count, check_number
from tslab._numbers import Numbers
from tslab.coords import has_location, unit_vectors
from tslab.geobias.inputs import as_hits, as_outcomes, as_places, as_radius, check_word
from tslab.geobias.neighbors import distinct_places, places_in_order, read_centers
from tslab.geobias.search import squared_chord

Partition = Literal["scale_grid", "distance_lag", "direction_sector"]

SMALL = 1e-8
"""Added to the shares of a part inside the logarithm."""

PAIRS_PER_CHUNK = 2_000_000
"""(centre, place) pairs held at a time."""

MOST_PARTS = 1_000_000
"""Parts of one neighbourhood."""

MOST_PARTS_IN_ALL = 1_000_000_000
"""Parts of all neighbourhoods together: minutes of work."""


@dataclass(frozen=True)
class SRIResult:
    """Scores of all centres; NaN where a centre has no location.

    Attributes:
        score: float64, (c,) or (c, e) for performance of shape (n, e), in nats; 0 where no part was large enough.
        n: samples within the radius (no cut at a number of neighbours), (c,).
        parts: parts with at least ``min_samples`` samples, (c,).
        weight: n divided by the number of located samples: the published weight of a centre.
        lonlat, rows: place and input row of each centre.
    """

    score: Float[Tensor, "c *e"]
    n: Int[Tensor, " c"]
    parts: Int[Tensor, " c"]
    weight: Float[Tensor, " c"]
    lonlat: Float[Tensor, "c 2"]
    rows: Int[Tensor, " c"]
    partition: Partition


def sri(
    lonlat: Float[Tensor, "n 2"] | Numbers,
    performance: Shaped[Tensor, "n *e"] | Numbers,
    *,
    radius_km: float | None = None,
    radius_rad: float | None = None,
    partition: Partition = "distance_lag",
    size: float | int | None = None,
    min_samples: int = 20,
    centers: Tensor | Numbers | None = None,
    histogram: Literal["fixed", "published"] | None = None,
    azimuth: Literal["correct", "published"] | None = None,
    wrap_longitude: bool | None = None,
    preset: Literal["pygbs2025"] | None = None,
    device: str | torch.device | None = None,
) -> SRIResult:
    """Spatial relative information of every centre, for hits and misses.

    With A the samples within the radius, g the shares of misses and hits in A and l those in a part,
        score = sum over parts with at least ``min_samples`` of (n_part / |A|) sum_b g_b log(g_b / (l_b + 1e-8)).
    The weights are not renormalised: small parts are left out. Parts are made of *all* samples, so the outermost ring
    and cells can reach beyond the radius.

    Args:
        lonlat: samples in degrees; rows with NaN take no part and get NaN.
        performance: hits and misses (bool, 1/0 or +1/-1), (n,) or one column per model (n, e).
        radius_km, radius_rad: of the neighbourhood; all samples within it count.
        partition: "scale_grid": square cells of ``size`` radians in latitude and longitude, anchored at the centre
            (longitude is not scaled by the cosine of the latitude); "distance_lag": rings ``size`` radians wide;
            "direction_sector": ``size`` equal sectors of azimuth, samples at the centre's own place left out.
        size: default radius / 5, radius / 10 and 8 sectors.
        min_samples: smallest part that counts.
        centers: rows of ``lonlat``, a mask of them, or places (c, 2) in degrees; all rows by default.
        histogram: "fixed" (default) has one bin for misses and one for hits. "published" derives the bins from the
            data, so that a part of misses only counts as a part of hits only.
        azimuth: "correct" (default) is measured from south toward east. "published" mirrors the longitude of southern
            samples, subtracts the longitude of the centre a second time and leaves samples at the centre's place in
            the sector that rounding puts them in.
        wrap_longitude: let cells reach across the date line (default; the published cells do not).
        preset: "pygbs2025" makes the published behaviour the default of the last three arguments.

    Errors: ``ValueError`` for shapes, marks and sizes that cannot be.
    """
    if preset is not None:
        check_word("preset", preset, ("pygbs2025",))
    for name, word, words in (
        ("histogram", histogram, ("fixed", "published")),
        ("azimuth", azimuth, ("correct", "published")),
    ):
        if word is not None:
            check_word(name, word, words)
    check_count("min_samples", min_samples)
    published = preset == "pygbs2025"
    old_bins = (histogram or ("published" if published else "fixed")) == "published"
    old_azimuth = (azimuth or ("published" if published else "correct")) == "published"
    wrap = wrap_longitude if wrap_longitude is not None else not published
    lonlat = as_places(lonlat)
    radius = as_radius(radius_km, radius_rad)
    parting = _parting(partition, size, radius)
    target = torch.device(device) if device is not None else lonlat.device

    degrees = lonlat.detach().to("cpu", torch.float64)
    order, xyz, location, first = places_in_order(degrees)
    outcomes, single = as_outcomes(performance, len(degrees), order)
    hits = as_hits(outcomes, "spatial relative information").double()
    num_places = len(first)
    counts = torch.zeros((num_places, 1 + hits.shape[1]), dtype=torch.float64)
    counts.index_add_(0, location, torch.cat([torch.ones_like(hits[:, :1]), hits], 1))
    places = _Places(degrees[order[first]], xyz[first], counts)
    center_rows, center_lonlat = read_centers(centers, degrees)
    which, frames = distinct_places(center_lonlat)
    _check_work(parting, len(frames), hits.shape[1] + 1)

    outputs = [
        _scores(places, frames[begin:end], radius, parting, min_samples, old_bins, old_azimuth, wrap, target)
        for begin, end in _center_chunks(places, frames, radius, parting)
    ]
    outputs.append((hits.new_zeros((0, hits.shape[1])).to(target), *(hits.new_zeros(0).to(target),) * 2))
    columns = [torch.cat(part) for part in zip(*outputs, strict=True)]
    score, n, parts = (
        _spread(column, which, missing) for column, missing in zip(columns, (math.nan, 0.0, 0.0), strict=True)
    )
    return SRIResult(
        score=score[:, 0] if single else score,
        n=n.long(),
        parts=parts.long(),
        weight=n.double() / max(len(order), 1),
        lonlat=center_lonlat.to(target),
        rows=center_rows.to(target),
        partition=partition,
    )


def parts_of(
    lonlat: Float[Tensor, "n 2"] | Numbers,
    center: Real[Tensor, "2"] | NDArray[Any] | Sequence[float],
    *,
    radius_km: float | None = None,
    radius_rad: float | None = None,
    partition: Partition = "distance_lag",
    size: float | int | None = None,
    azimuth: Literal["correct", "published"] = "correct",
    wrap_longitude: bool = True,
) -> Int[Tensor, " n"]:
    """Which part of the neighbourhood of one centre each sample is in; -1 for samples in no part.

    The arguments are those of `sri`, ``center`` is (longitude, latitude) in degrees. Rings and cells count from the
    centre outward and from the south-west corner; sectors from azimuth -pi, north, over west, south and east.
    """
    lonlat = as_places(lonlat)
    check_word("azimuth", azimuth, ("correct", "published"))
    radius = as_radius(radius_km, radius_rad)
    parting = _parting(partition, size, radius)
    rows = has_location(lonlat.detach().cpu()).nonzero()[:, 0]
    degrees = lonlat.detach().to("cpu", torch.float64)[rows]
    places = _Places(degrees, unit_vectors(degrees), degrees[:, :0])
    frame = as_places(torch.as_tensor(center, dtype=torch.float64)[None], "center")
    if bool(frame.isnan().any()):
        raise ValueError("center must be a place; it is missing (NaN)")
    _, place, part, _ = _partition(places, frame, radius, parting, azimuth == "published", wrap_longitude)
    result = torch.full((len(lonlat),), -1)
    result[rows[place]] = part
    return result


def _spread(values: Tensor, which: Tensor, missing: float) -> Tensor:
    """Values of distinct places given to the centres; ``missing`` where there is no place."""
    padded = torch.cat([values, values.new_full((1, *values.shape[1:]), missing)])
    return padded[torch.where(which < 0, len(values), which).to(values.device)]


@dataclass(frozen=True)
class _Parting:
    kind: Partition
    size: float
    steps: int  # rings, sectors, or cells from the centre to the edge
    count: int  # parts in all


def _parting(kind: Partition, size: float | int | None, radius: float) -> _Parting:
    check_word("partition", kind, get_args(Partition))
    if kind == "direction_sector":
        if size is not None and check_number("size", size, at_least=1, at_most=MOST_PARTS) != int(size):
            raise ValueError(f"a direction_sector partition takes a whole number of sectors as size, got {size}")
        sectors = 8 if size is None else int(size)
        return _Parting(kind, 2 * math.pi / sectors, sectors, sectors)
    if size is not None:
        steps = MOST_PARTS if kind == "distance_lag" else math.isqrt(MOST_PARTS) // 2
        hint = f"radians; a smaller size would cut a neighbourhood into more than {MOST_PARTS:,} parts"
        check_number("size", size, at_least=radius / steps, at_most=math.pi / 2, hint=hint)
    width = float(size) if size is not None else radius / (5 if kind == "scale_grid" else 10)
    steps = math.ceil(radius / width - (0 if size is not None else 1e-9))
    return _Parting(kind, width, steps, steps if kind == "distance_lag" else (2 * steps) ** 2)


def _check_work(parting: _Parting, num_centers: int, columns: int) -> None:
    """Raise ``ValueError`` before hours of work, with a size that takes minutes."""
    total = num_centers * parting.count * columns
    if total <= MOST_PARTS_IN_ALL:
        return
    fewer = total / MOST_PARTS_IN_ALL
    if parting.kind == "direction_sector":
        better = f"{max(1, int(parting.count / fewer))} sectors"
    else:
        better = f"{parting.size * (fewer if parting.kind == 'distance_lag' else fewer**0.5) * 1.01:.3g} rad"
    raise ValueError(
        f"this size cuts each of {num_centers:,} neighbourhoods into {parting.count:,} parts, too many; "
        f"take a size of {better}, or fewer centers"
    )


@dataclass(frozen=True)
class _Places:
    """Distinct places: degrees, unit vectors, and samples and hits at each, (u, 1 + e)."""

    degrees: Tensor
    xyz: Tensor
    counts: Tensor


def _reach(radius: float, parting: _Parting) -> float:
    return max(radius, parting.size * parting.steps) if parting.kind == "distance_lag" else radius


def _center_chunks(places: _Places, frames: Tensor, radius: float, parting: _Parting) -> Iterator[tuple[int, int]]:
    """Ranges of centres that have about `PAIRS_PER_CHUNK` pairs of centre and place."""
    if len(frames) == 0 or len(places.xyz) == 0:
        return
    from scipy.spatial import cKDTree

    tree = cKDTree(places.xyz.numpy())
    chord = 2 * math.sin(_reach(radius, parting) / 2)
    pairs = tree.query_ball_point(unit_vectors(frames).numpy(), chord, return_length=True, workers=-1)
    cost = torch.cumsum(torch.from_numpy(np.asarray(pairs)) + parting.count * places.counts.shape[1], 0)
    first = 0
    while first < len(frames):
        spent = int(cost[first - 1]) if first else 0
        last = max(int(torch.searchsorted(cost, spent + PAIRS_PER_CHUNK)), first + 1)
        yield first, last
        first = last


def _scores(
    places: _Places,
    frames: Tensor,
    radius: float,
    parting: _Parting,
    min_samples: int,
    old_bins: bool,
    old_azimuth: bool,
    wrap: bool,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Score (c, e), samples within the radius and parts kept of each centre."""
    owner, place, part, (near_owner, near_place) = _partition(places, frames, radius, parting, old_azimuth, wrap)
    whole = _total(near_owner, places.counts[near_place], len(frames), device)
    n = whole[:, 0]
    key = owner * parting.count + part
    parts = _total(key, places.counts[place], len(frames) * parting.count, device)
    parts = parts.view(len(frames), parting.count, -1)
    size, hits = parts[..., :1], parts[..., 1:]
    kept = (size >= min_samples).double()
    share = _share(hits, size, old_bins)
    base = _share(whole[:, None, 1:], whole[:, None, :1], old_bins)
    divergence = _term(base, share) + _term(1 - base, 1 - share)
    score = (kept * size * divergence).sum(1) / n[:, None].clamp_min(1)
    return torch.where(n[:, None] > 0, score, torch.nan), n, kept[..., 0].sum(1)


def _partition(
    places: _Places, frames: Tensor, radius: float, parting: _Parting, old_azimuth: bool, wrap: bool
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """(owner, place, part) of all places in a part, and (owner, place) of those within the radius."""
    center = unit_vectors(frames)
    owner, place = _pairs(center, places.xyz, 2 * math.sin(_reach(radius, parting) / 2) * (1 + 1e-9), 2.0)
    chord = squared_chord(center[owner], places.xyz[place]).sqrt()
    distance = 2 * torch.asin((chord / 2).clamp_max(1))
    inside = distance <= radius
    near = owner[inside], place[inside]
    if parting.kind == "distance_lag":
        part = torch.floor(distance / parting.size).long()
        usable = part < parting.steps
        return owner[usable], place[usable], part[usable], near
    if parting.kind == "direction_sector":
        part = _sectors(frames[near[0]], places.degrees[near[1]], parting, old_azimuth)
        usable = torch.ones_like(part, dtype=torch.bool) if old_azimuth else distance[inside] > 0
        return near[0][usable], near[1][usable], part[usable], near
    return *_cells(frames, places.degrees, parting, wrap), near


def _share(hits: Tensor, size: Tensor, old_bins: bool) -> Tensor:
    share = hits / size.clamp_min(1)
    return torch.where(share == 0, 1.0, share) if old_bins else share


def _term(base: Tensor, share: Tensor) -> Tensor:
    return torch.where(base > 0, base * torch.log(base.clamp_min(1e-300) / (share + SMALL)), 0.0)


def _total(key: Tensor, values: Tensor, size: int, device: torch.device) -> Tensor:
    total = torch.zeros((size, values.shape[1]), dtype=torch.float64, device=device)
    return total.index_add_(0, key.to(device), values.to(device))


def _pairs(points: Tensor, others: Tensor, radius: float, norm: float) -> tuple[Tensor, Tensor]:
    if len(points) == 0 or len(others) == 0:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    from scipy.spatial import cKDTree

    tree = cKDTree(others.numpy())
    pairs = cKDTree(points.numpy()).sparse_distance_matrix(tree, radius, p=norm, output_type="ndarray")
    return torch.from_numpy(pairs["i"].astype(np.int64)), torch.from_numpy(pairs["j"].astype(np.int64))


def _cells(frames: Tensor, degrees: Tensor, parting: _Parting, wrap: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(owner, place, cell) of all places inside the square of cells around each centre."""
    center, place = torch.deg2rad(frames), torch.deg2rad(degrees)
    half = parting.steps * parting.size
    number = torch.arange(len(place))
    if wrap:
        west, east = place[:, 0] < half - math.pi, place[:, 0] > math.pi - half
        turn = torch.tensor([2 * math.pi, 0.0], dtype=torch.float64)
        number = torch.cat([number, number[west], number[east]])
        place = torch.cat([place, place[west] + turn, place[east] - turn])
    owner, other = _pairs(center, place, half * (1 + 1e-9), math.inf)
    cell = torch.floor((place[other] - center[owner]) / parting.size).long() + parting.steps
    inside = ((cell >= 0) & (cell < 2 * parting.steps)).all(1)
    index = cell[:, 1] * (2 * parting.steps) + cell[:, 0]
    return owner[inside], number[other[inside]], index[inside]


def _sectors(center: Tensor, place: Tensor, parting: _Parting, published: bool) -> Tensor:
    """Sector of the azimuth (from south toward east, from -pi) at which each place is seen from its centre."""
    lon_c, lat_c = torch.deg2rad(center).unbind(-1)
    lon, lat = torch.deg2rad(place).unbind(-1)
    if published:
        x, y, z = lat.cos() * lon.cos(), lat.cos() * lon.sin() * lat.sign(), lat.sin()
        south = lon_c.cos() * x + lon_c.sin() * y
        east = lon_c.cos() * y - lon_c.sin() * x
        tilt = math.pi / 2 - lat_c
        azimuth = torch.atan2(east, tilt.cos() * south - tilt.sin() * z) - lon_c
        azimuth = torch.remainder(azimuth + math.pi, 2 * math.pi) - math.pi
    else:
        dlon = lon - lon_c
        south = lat.cos() * dlon.cos() * lat_c.sin() - lat.sin() * lat_c.cos()
        azimuth = torch.atan2(lat.cos() * dlon.sin(), south)
    return torch.floor((azimuth + math.pi) / parting.size).long().clamp(0, parting.steps - 1)
