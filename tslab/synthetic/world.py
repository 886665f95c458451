"""The world that all synthetic stand-ins share: fields on the sphere, and people who take photographs on it.

A field is a sum of plane waves in space, restricted to the sphere,

    f(u) = sum_s a_s sqrt(2 / M) sum_m cos(w_sm . u + phi_sm),   u on S², w_sm ~ N(0, k_s² I_3), phi_sm ~ U[0, 2 pi),

a Gaussian random field with one octave per k_s, of correlation length R / k_s (k = 2: about 3,000 km, k = 54: about
120 km). It knows no longitude and no latitude, so it has no seam and no poles, and it is no encoder's own basis.

Places come in four layers: land, hot spots, observers, and the places an observer visits; then they are thinned so
that the shares of world regions and the quantiles of latitude are those of the dataset they stand in for.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from tslab.coords import EARTH_RADIUS_KM, lonlat_from_unit_vectors, unit_vectors
from tslab.earth import continents, is_land, sample_land

GENERATOR_VERSION = "2"
"""Raised whenever the same seed would give other data."""

STREAMS = 1
"""Part of the key of every random stream; raised to get other random numbers everywhere."""

COORDINATE_DECIMALS = 4
WAVES = 64


def random_stream(*key: object) -> np.random.Generator:
    """A generator of random numbers of its own for every key, for instance (seed, dataset, purpose)."""
    digest = hashlib.sha256("/".join(map(str, (STREAMS, *key))).encode()).digest()
    return np.random.Generator(np.random.Philox(key=[int.from_bytes(digest[i : i + 8], "little") for i in (0, 8)]))


class SphereField:
    """A random field on the sphere, see the module's first paragraph; called with (n, 3) unit vectors, returns (n,)
    float64.

    Mean 0 and variance sum of ``amplitudes``² over random fields; a single field differs from that by chance.
    """

    def __init__(self, rng: np.random.Generator, wavenumbers: Sequence[float], amplitudes: Sequence[float]) -> None:
        k = np.repeat(np.asarray(wavenumbers, dtype=np.float64), WAVES)
        self.waves = torch.from_numpy(rng.standard_normal((len(k), 3)) * k[:, None])
        self.phases = torch.from_numpy(rng.random(len(k)) * 2 * np.pi)
        self.weights = torch.from_numpy(np.repeat(np.asarray(amplitudes, np.float64), WAVES) * math.sqrt(2 / WAVES))

    def __call__(self, xyz: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        parts = [torch.cos(part.double() @ self.waves.T + self.phases) @ self.weights for part in xyz.split(1 << 15)]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


class World:
    """Relief, climate and settlement of one synthetic world (one per seed); all in standard units of about 1.

    Attributes:
        relief: how high the land is, a `SphereField`.
        moisture: how wet it is, a `SphereField`.
    """

    def __init__(self, seed: int) -> None:
        octaves, amplitudes = (2, 6, 18, 54), (0.8, 0.5, 0.3, 0.15)
        self.relief = SphereField(random_stream(seed, "relief"), octaves, amplitudes)
        self.moisture = SphereField(random_stream(seed, "moisture"), octaves, amplitudes)
        self._settlement = SphereField(random_stream(seed, "settlement"), (6, 18, 54), (0.6, 0.7, 0.4))

    def temperature(self, xyz: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Warm at the equator, cold at the poles and on high ground."""
        return 1.5 - 4 * xyz[:, 2].double() ** 2 - 0.5 * self.relief(xyz)

    def settlement(self, xyz: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Logarithm of how many people live there: sparse and peaked, less where it is cold or high."""
        return 1.5 * self._settlement(xyz) + 0.5 * self.temperature(xyz) - 0.5 * self.relief(xyz)


@dataclass(frozen=True)
class Geography:
    """Where the rows of a dataset lie.

    Attributes:
        regions: shares of `tslab.earth.CONTINENTS`.
        latitudes: 1, 50 and 99 % quantile of the latitude, degrees.
        distinct: distinct places per row.
        boxes: (west, south, east, north) boxes outside which nothing lies, degrees; none means the whole world.
        hot_spots: how many.
    """

    regions: tuple[float, ...]
    latitudes: tuple[float, float, float]
    distinct: float = 1.0
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    hot_spots: int = 400


def photographed_places(
    n: int, geography: Geography, world: World, rng: np.random.Generator
) -> tuple[Float[Tensor, "n 2"], Int[Tensor, " n"]]:
    """``n`` rows where people photograph: degrees, float64 on a grid of 1e-4, and the number of each row's distinct
    place.

    Rows are in random order. Region shares and latitude quantiles are met as far as the pool of places allows.
    """
    distinct = max(1, min(n, round(geography.distinct * n)))
    pool = _pool(max(3 * distinct, 12_000), geography, world, rng)
    chosen = pool[_thin(pool, geography, distinct, rng)]
    popularity = 1 / (np.arange(len(chosen)) + 3.0)
    repeats = draw(rng, popularity, n - len(chosen))
    site = np.concatenate([np.arange(len(chosen)), repeats])[rng.permutation(n)]
    return chosen[torch.from_numpy(site)], torch.from_numpy(site)


def land_places(n: int, rng: np.random.Generator, lat_range: tuple[float, float] = (-90, 90)) -> Float[Tensor, "n 2"]:
    """``n`` places uniform by area on land between two latitudes: degrees, float64 on a grid of 1e-4."""
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
    return sample_land(n, lat_range=lat_range, decimals=COORDINATE_DECIMALS, generator=generator)


def scatter(
    rng: np.random.Generator, centres: Float[Tensor, "n 3"], kappa: NDArray[np.float64]
) -> Float[Tensor, "n 3"]:
    """One draw from the von Mises-Fisher density around each centre (unit vectors, float64)."""
    return scattered(centres, kappa, rng.random(len(centres)), rng.random(len(centres)))


def scattered(
    centres: Float[Tensor, "n 3"], kappa: NDArray[np.float64], v: NDArray[np.float64], turn: NDArray[np.float64]
) -> Float[Tensor, "n 3"]:
    """The places of `scatter` for uniform random numbers ``v`` and ``turn``, (n,) in [0, 1).

    The cosine of the distance is 1 + ln(v + (1 - v) exp(-2 kappa)) / kappa, the direction is uniform.
    """
    along = torch.from_numpy(1 + np.log(v + (1 - v) * np.exp(-2 * kappa)) / kappa)
    across = torch.sqrt((1 - along**2).clamp_min(0))
    helper = torch.where(centres[:, 2:].abs() < 0.9, torch.tensor([[0.0, 0, 1]]), torch.tensor([[1.0, 0, 0]])).double()
    east = torch.nn.functional.normalize(torch.linalg.cross(helper, centres), dim=-1)
    north = torch.linalg.cross(centres, east)
    angle = torch.from_numpy(turn * 2 * np.pi)
    offset = torch.cos(angle)[:, None] * east + torch.sin(angle)[:, None] * north
    return along[:, None] * centres + across[:, None] * offset


class Mixture:
    """P(class | place) where classes are equally frequent mixtures of von Mises-Fisher densities,

        f_c(x) = mean_b kappa_b / (4 pi sinh kappa_b) exp(kappa_b mu_b . x),   P(c | x) = f_c(x) / sum_k f_k(x),

    called with places (n, 2) in degrees, returns (n, classes) float64. ``owner`` is the class of each bump, in order.
    """

    def __init__(self, centres: Float[Tensor, "b 3"], kappa: Float[Tensor, " b"], owner: Int[Tensor, " b"]) -> None:
        self.centres, self.kappa, self.owner = centres, kappa, owner

    def __call__(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n c"]:
        xyz = unit_vectors(lonlat.double())
        kappa, centres = self.kappa.to(xyz.device), self.centres.to(xyz.device)
        log_norm = torch.log(kappa / (2 * math.pi)) - torch.log1p(-torch.exp(-2 * kappa))
        log_density = (kappa * (xyz @ centres.T - 1) + log_norm).split(self.owner.bincount().tolist(), dim=-1)
        per_class = [torch.logsumexp(bumps, -1) - math.log(bumps.shape[-1]) for bumps in log_density]
        return torch.softmax(torch.stack(per_class, -1), -1)


def draw(rng: np.random.Generator, weights: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """``n`` independent draws of an index with probability proportional to its weight."""
    cumulative = np.cumsum(weights)
    return np.minimum(np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right"), len(weights) - 1)


def on_grid(xyz: Float[Tensor, "n 3"]) -> Float[Tensor, "n 2"]:
    """Degrees of unit vectors, rounded to the grid of 1e-4 degrees that all synthetic places lie on."""
    return torch.round(lonlat_from_unit_vectors(xyz), decimals=COORDINATE_DECIMALS)


def _pool(n: int, geography: Geography, world: World, rng: np.random.Generator) -> Tensor:
    """At least ``n`` places on land: hot spots by settlement, observers around them, places around those."""
    land = land_places(20_000, rng)
    if geography.boxes:
        land = torch.cat([land, _land_in_boxes(4_000, geography, rng)])
        land = land[_in_boxes(land, geography)]
    cell, wanted = _wanted_cells(land, geography)
    thinning = (wanted / np.maximum(np.bincount(cell, minlength=len(wanted)), 1))[cell]
    weights = torch.exp(world.settlement(unit_vectors(land))).numpy() * thinning
    spots = unit_vectors(land[torch.from_numpy(draw(rng, weights, geography.hot_spots))])
    reach = np.exp(rng.uniform(np.log(50), np.log(5000), geography.hot_spots))
    fame = 1 / (np.arange(geography.hot_spots) + 5.0)
    observers = max(200, n // 6)
    found = torch.zeros((0, 2), dtype=torch.float64)
    while len(found) < n:
        at = draw(rng, fame, observers)
        homes = scatter(rng, spots[torch.from_numpy(at)], reach[at])
        home = torch.from_numpy(rng.integers(0, observers, 6 * observers))
        kilometres = np.exp(rng.normal(np.log(4.0), 1.0, len(home)))
        around = on_grid(scatter(rng, homes[home], (EARTH_RADIUS_KM / kilometres) ** 2))
        keep = is_land(around)
        if geography.boxes:
            keep &= _in_boxes(around, geography)
        found = torch.cat([found, around[keep]])
    pool = torch.cat([found, land])
    key = torch.round(pool * 10**COORDINATE_DECIMALS).long()
    _, first = np.unique((key[:, 0] * 4_000_000 + key[:, 1]).numpy(), return_index=True)
    return pool[torch.from_numpy(rng.permutation(first))]


def _thin(pool: Tensor, geography: Geography, n: int, rng: np.random.Generator) -> Tensor:
    """Rows of ``pool``, ``n`` distinct ones, whose regions and latitudes follow the geography."""
    cell, wanted = _wanted_cells(pool, geography)
    quota = np.floor(wanted * n + rng.random(len(wanted)) * 0.999).astype(np.int64)
    taken = [np.flatnonzero(cell == c)[: quota[c]] for c in range(len(wanted))]
    rows = np.concatenate(taken)
    if len(rows) > n:
        rows = rng.permutation(rows)[:n]
    if len(rows) < n:  # cells that ran out of places: fill up with whatever is left where something is wanted
        rest = np.setdiff1d(np.flatnonzero(wanted[cell] > 0), rows)
        rows = np.concatenate([rows, rest[: n - len(rows)]])
    return torch.from_numpy(rng.permutation(rows))


def _wanted_cells(lonlat: Tensor, geography: Geography) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The (region, latitude band) cell of each place, and the wanted share of each cell.

    Iterative proportional fitting of what is there to the two margins that are known.
    """
    edges = torch.tensor(geography.latitudes, dtype=torch.float64)
    band = torch.bucketize(lonlat[:, 1].double().contiguous(), edges)
    cell = (continents(lonlat) * 4 + band).numpy()
    shares = np.bincount(cell, minlength=24).reshape(6, 4) / max(len(cell), 1)
    regions, bands = np.asarray(geography.regions), np.array([0.01, 0.49, 0.49, 0.01])
    for _ in range(50):
        shares = shares * (bands / np.maximum(shares.sum(0), 1e-12))
        shares = shares * (regions / np.maximum(shares.sum(1), 1e-12))[:, None]
    return cell, (shares / max(shares.sum(), 1e-12)).ravel()


def _in_boxes(lonlat: Tensor, geography: Geography) -> Tensor:
    lon, lat = lonlat.unbind(-1)
    west, south, east, north = torch.tensor(geography.boxes, dtype=torch.float64)[..., None].unbind(1)
    return ((lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)).any(0)


def _land_in_boxes(n: int, geography: Geography, rng: np.random.Generator) -> Tensor:
    parts = []
    for west, south, east, north in geography.boxes:
        u = torch.from_numpy(rng.random((n, 2)))
        low, high = math.sin(math.radians(south)), math.sin(math.radians(north))
        lat = torch.rad2deg(torch.asin(low + (high - low) * u[:, 1]))
        drawn = torch.round(torch.stack([west + (east - west) * u[:, 0], lat], -1), decimals=COORDINATE_DECIMALS)
        parts.append(drawn[is_land(drawn)])
    return torch.cat(parts)
