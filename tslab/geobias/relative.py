"""Spatial relative information: how much the parts of a neighbourhood differ from the whole.

Around each centre the samples within a radius are split by a rule (square cells, distance rings, direction sectors),
and the share of hits in every part is compared with the share of hits in the whole neighbourhood by a
Kullback-Leibler divergence. A model that is right and wrong in the same proportion in every part scores zero.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int, Real, Shaped
from numpy.typing import NDArray
from torch import Tensor

from tslab._checks import check_choice, check_count, check_number
from tslab._numbers import Numbers
from tslab.coords import has_location, unit_vectors
from tslab.geobias.background import pick
from tslab.geobias.inputs import as_hits, as_outcomes, as_places, as_radius
from tslab.geobias.neighbors import (
    PlaceFinder,
    distinct_places,
    places_in_order,
    ranges,
    read_centers,
    spread,
    squared_chord,
)

Partition = Literal["scale_grid", "distance_lag", "direction_sector"]
Histogram = Literal["fixed", "published"]
Azimuth = Literal["correct", "published"]

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
    histogram: Histogram | None = None,
    azimuth: Azimuth | None = None,
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
        check_choice("preset", preset, ("pygbs2025",))
    histogram = check_choice("histogram", histogram or ("published" if preset else "fixed"), get_args(Histogram))
    check_count("min_samples", min_samples)
    lonlat = as_places(lonlat)
    parting = _parting(
        as_radius(radius_km, radius_rad),
        partition,
        size,
        azimuth or ("published" if preset else "correct"),
        not preset if wrap_longitude is None else wrap_longitude,
    )
    target = torch.device(device) if device is not None else lonlat.device

    degrees = lonlat.detach().to("cpu", torch.float64)
    order, xyz, location, first = places_in_order(degrees)
    outcomes, single = as_outcomes(performance, len(degrees), order)
    hits = as_hits(outcomes, "spatial relative information").double()
    counts = torch.zeros((len(first), 1 + hits.shape[1]), dtype=torch.float64)
    counts.index_add_(0, location, torch.cat([torch.ones_like(hits[:, :1]), hits], 1))  # samples and hits of each place
    center_rows, center_lonlat = read_centers(centers, degrees)
    which, frames = distinct_places(center_lonlat)
    _check_work(parting, len(frames), counts.shape[1])

    finder, seen = PlaceFinder(xyz[first]), unit_vectors(frames)
    cost = finder.count_within(seen, parting.reach) + parting.count * counts.shape[1]
    columns = torch.full((len(frames), hits.shape[1] + 2), math.nan, dtype=torch.float64, device=target)
    for begin, end in ranges(cost, PAIRS_PER_CHUNK):
        pairs = _partition(finder, degrees[order[first]], frames[begin:end], parting)
        columns[begin:end] = _scores(pairs, counts.to(target), end - begin, parting.count, min_samples, histogram)
    score, n, parts = spread(columns, which, math.nan).split([hits.shape[1], 1, 1], 1)
    return SRIResult(
        score=score[:, 0] if single else score,
        n=n[:, 0].nan_to_num().long(),
        parts=parts[:, 0].nan_to_num().long(),
        weight=n[:, 0].nan_to_num() / max(len(order), 1),
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
    azimuth: Azimuth = "correct",
    wrap_longitude: bool = True,
) -> Int[Tensor, " n"]:
    """Which part of the neighbourhood of one centre each sample is in; -1 for samples in no part.

    The arguments are those of `sri`, ``center`` is (longitude, latitude) in degrees. Rings and cells count from the
    centre outward and from the south-west corner; sectors from azimuth -pi, north, over west, south and east.
    """
    lonlat = as_places(lonlat)
    parting = _parting(as_radius(radius_km, radius_rad), partition, size, azimuth, wrap_longitude)
    rows = has_location(lonlat.detach().cpu()).nonzero()[:, 0]
    degrees = lonlat.detach().to("cpu", torch.float64)[rows]
    frame = as_places(torch.as_tensor(center, dtype=torch.float64)[None], "center")
    if bool(frame.isnan().any()):
        raise ValueError("center must be a place; it is missing (NaN)")
    _, place, part, _ = _partition(PlaceFinder(unit_vectors(degrees)), degrees, frame, parting)
    result = torch.full((len(lonlat),), -1)
    result[rows[place]] = part.where(part >= 0, -1)
    return result


@dataclass(frozen=True)
class _Parting:
    """A rule that splits a neighbourhood: ``steps`` rings, sectors, or cells from the centre to the edge, ``count``
    parts in all, which lie within ``reach`` of the centre."""

    radius: float
    kind: Partition
    size: float
    steps: int
    azimuth: Azimuth
    wrap: bool

    @property
    def count(self) -> int:
        return (2 * self.steps) ** 2 if self.kind == "scale_grid" else self.steps

    @property
    def reach(self) -> float:
        edge = {"scale_grid": math.sqrt(2), "distance_lag": 1.0, "direction_sector": 0.0}[self.kind]
        return min(max(self.radius, edge * self.size * self.steps), math.pi)


def _parting(radius: float, kind: Partition, size: float | int | None, azimuth: Azimuth, wrap: bool) -> _Parting:
    check_choice("partition", kind, get_args(Partition))
    check_choice("azimuth", azimuth, get_args(Azimuth))
    if kind == "direction_sector":
        if size is not None and check_number("size", size, at_least=1, at_most=MOST_PARTS) != int(size):
            raise ValueError(f"a direction_sector partition takes a whole number of sectors as size, got {size}")
        sectors = 8 if size is None else int(size)
        return _Parting(radius, kind, 2 * math.pi / sectors, sectors, azimuth, wrap)
    usual = 5 if kind == "scale_grid" else 10
    if size is None:
        return _Parting(radius, kind, radius / usual, usual, azimuth, wrap)
    steps = MOST_PARTS if kind == "distance_lag" else math.isqrt(MOST_PARTS) // 2
    hint = f"radians; a smaller size would cut a neighbourhood into more than {MOST_PARTS:,} parts"
    check_number("size", size, at_least=radius / steps, at_most=math.pi / 2, hint=hint)
    return _Parting(radius, kind, float(size), math.ceil(radius / size), azimuth, wrap)


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


_Pairs = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of each (centre, place): centre, place, part (-1 for none), and whether it is within the radius."""


def _partition(finder: PlaceFinder, degrees: Tensor, frames: Tensor, parting: _Parting) -> _Pairs:
    """The places that are in a part of each centre or within the radius."""
    center = unit_vectors(frames)
    owner, place = finder.within(center, parting.reach)
    chord = squared_chord(pick(center, owner), pick(finder.places, place)).sqrt()
    distance = 2 * torch.asin((chord / 2).clamp_max(1))
    inside = distance <= parting.radius
    if parting.kind == "distance_lag":
        part = torch.floor(distance / parting.size)
        usable = part < parting.steps
    elif parting.kind == "direction_sector":
        part = _sectors(pick(frames, owner), pick(degrees, place), parting)
        usable = inside & ((distance > 0) | (parting.azimuth == "published"))
    else:
        offset = pick(torch.deg2rad(degrees), place) - pick(torch.deg2rad(frames), owner)
        if parting.wrap:
            offset[:, 0] -= 2 * math.pi * torch.round(offset[:, 0] / (2 * math.pi))
        cell = torch.floor(offset / parting.size) + parting.steps
        usable = ((cell >= 0) & (cell < 2 * parting.steps)).all(1)
        part = cell[:, 1] * (2 * parting.steps) + cell[:, 0]
    return owner, place, torch.where(usable, part, -1).long(), inside


def _scores(pairs: _Pairs, counts: Tensor, num: int, num_parts: int, min_samples: int, histogram: Histogram) -> Tensor:
    """Score of each model, samples within the radius, and parts kept, side by side for ``num`` centres."""
    owner, place, part, inside = (values.to(counts.device) for values in pairs)
    whole = counts.new_zeros((num, counts.shape[1])).index_add_(0, owner[inside], pick(counts, place[inside]))
    parts = counts.new_zeros((num * num_parts, counts.shape[1]))
    used = part >= 0
    parts.index_add_(0, owner[used] * num_parts + part[used], pick(counts, place[used]))
    parts = parts.view(num, num_parts, -1)
    size, n = parts[..., :1], whole[:, :1]
    share, base = (
        hits / total.clamp_min(1) for hits, total in ((parts[..., 1:], size), (whole[:, None, 1:], n[:, None]))
    )
    if histogram == "published":  # bins from the data: misses only are taken for hits only
        share, base = (torch.where(values == 0, 1.0, values) for values in (share, base))
    kept = (size >= min_samples).double()
    divergence = _term(base, share) + _term(1 - base, 1 - share)
    score = (kept * size * divergence).sum(1) / n.clamp_min(1)
    return torch.cat([torch.where(n > 0, score, torch.nan), n, kept.sum(1)], 1)


def _term(base: Tensor, share: Tensor) -> Tensor:
    return torch.where(base > 0, base * torch.log(base.clamp_min(1e-300) / (share + SMALL)), 0.0)


def _sectors(center: Tensor, place: Tensor, parting: _Parting) -> Tensor:
    """Sector of the azimuth (from south toward east, from -pi) at which each place is seen from its centre."""
    lon_c, lat_c = torch.deg2rad(center).unbind(-1)
    lon, lat = torch.deg2rad(place).unbind(-1)
    if parting.azimuth == "published":
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
    return torch.floor((azimuth + math.pi) / parting.size).clamp(0, parting.steps - 1)
