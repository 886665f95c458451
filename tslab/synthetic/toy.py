"""``sphere_toy``: the smallest task that a location encoder can get wrong for the right reasons.

Twelve synthetic species live on the real land outline. Some ranges lie around the date line, some at high latitude,
some overlap. What you get is what field data give you: places where a species was seen, never where it was not.
There is no image. Because the ranges are known, so is the best possible accuracy.
"""

import math
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tslab._checks import check_count, check_number
from tslab._files import packaged_json
from tslab.coords import lonlat_from_unit_vectors, unit_vectors
from tslab.earth import is_land
from tslab.synthetic.specs import SYNTHETIC_LICENCE
from tslab.tasks.meta import TaskMeta
from tslab.tasks.table import Table
from tslab.tasks.task import Task

TOY_VERSION = "1"
"""Raised whenever the same seed would give other rows."""

RANGES: tuple[tuple[str, tuple[tuple[float, float, float], ...]], ...] = tuple(
    (name, tuple((lon, lat, kappa) for lon, lat, kappa in bumps))
    for name, bumps in packaged_json("toy_ranges.json").items()
)
"""Name and bumps of each species: longitude, latitude (degrees) and concentration of a von Mises-Fisher density."""

SPREADS = (1e-3, 1e3)
"""Beyond these the ranges are points, or the whole Earth."""


def sphere_toy(
    seed: int = 0, *, n_train: int = 4096, n_val: int = 1024, n_test: int = 2048, spread: float = 1.0
) -> Task:
    """A synthetic presence-only classification task on the real land outline, in well under a second.

    A species is chosen uniformly, then a place from its range, a mixture of von Mises-Fisher densities

        f_c(x) = mean_b kappa_b / (4 pi sinh kappa_b) exp(kappa_b mu_b . x),

    and the pair is kept if the place is on land. So P(c | x) = f_c(x) / sum_k f_k(x) exactly, which is ``task.truth``,
    and no model can do better on average than ``task.meta.ceiling["location_top1"]`` = E[max_c P(c | x)].

    Args:
        seed: the same seed gives the same rows, bit for bit, for a given ``meta.generator_version``.
        n_train, n_val, n_test: rows per table.
        spread: divides every concentration; larger ranges overlap more and make the task harder.

    Raises:
        ValueError: negative numbers of rows, a negative seed, a spread outside `SPREADS`.
    """
    check_number("spread", spread, at_least=SPREADS[0], at_most=SPREADS[1])
    check_count("seed", seed, at_least=0)
    sizes = {"train": n_train, "val": n_val, "test": n_test}
    for split, size in sizes.items():
        check_count(f"n_{split}", size, at_least=0)
    truth = RangePosterior(spread)
    tables = {}
    for stream, (split, size) in enumerate(sizes.items()):
        rng = np.random.Generator(np.random.Philox(key=[seed, stream]))
        lonlat, target = _draw(rng, size, spread)
        tables[split] = Table(lonlat=lonlat, target=target)
    meta = TaskMeta(
        kind="classification",
        classes=tuple(name for name, _ in RANGES),
        label_name="species (synthetic)",
        eval_split="test",
        licence=SYNTHETIC_LICENCE,
        citation="tslab, synthetic task sphere_toy",
        synthetic=True,
        source="synthetic",
        seed=seed,
        generator_version=TOY_VERSION,
        ceiling={"location_top1": _ceiling(spread)},
        notes=("Synthetic: presences drawn from twelve invented ranges on the Natural Earth land outline.",),
    )
    return Task(name="sphere_toy", meta=meta, truth=truth, **tables)


class RangePosterior:
    """P(species | place) under the ranges that generated the data: (n, 2) degrees to (n, 12) float64."""

    def __init__(self, spread: float = 1.0) -> None:
        self.spread = spread

    def __call__(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n c"]:
        centres, kappa, species = _bumps(self.spread)
        xyz = unit_vectors(lonlat.double())
        bumps = torch.from_numpy(kappa).to(xyz.device)
        log_norm = torch.log(bumps / (2 * math.pi)) - torch.log1p(-torch.exp(-2 * bumps))
        log_density = bumps * (xyz @ torch.from_numpy(centres.T).to(xyz.device) - 1) + log_norm
        members = [torch.from_numpy(np.flatnonzero(species == c)) for c in range(len(RANGES))]
        per_species = [torch.logsumexp(log_density[:, m], -1) - math.log(len(m)) for m in members]
        return torch.softmax(torch.stack(per_species, -1), -1)


def _bumps(spread: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Centres (b, 3), concentrations (b,) and species (b,) of all bumps."""
    flat = [(c, *bump) for c, (_, bumps) in enumerate(RANGES) for bump in bumps]
    table = np.array(flat, dtype=np.float64)
    centres = unit_vectors(torch.from_numpy(table[:, 1:3])).numpy()
    return centres, table[:, 3] / spread, table[:, 0].astype(np.int64)


def _draw(rng: np.random.Generator, size: int, spread: float) -> tuple[Tensor, Tensor]:
    """Presences on land: places (size, 2) float32 on a grid of 1e-4 degrees, and species (size,)."""
    places, labels, found = [np.zeros((0, 2))], [np.zeros(0, dtype=np.int64)], 0
    while found < size:
        lonlat, species = _propose(rng, 4096, spread)
        keep = is_land(torch.from_numpy(lonlat)).numpy()
        places.append(lonlat[keep])
        labels.append(species[keep])
        found += int(keep.sum())
    lonlat, species = np.concatenate(places)[:size], np.concatenate(labels)[:size]
    return torch.from_numpy(lonlat.astype(np.float32)), torch.from_numpy(species)


def _propose(rng: np.random.Generator, n: int, spread: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Draw species uniformly and a place from each one's range, land or sea."""
    centres, kappa, owner = _bumps(spread)
    u = rng.random((n, 4))
    species = (u[:, 0] * len(RANGES)).astype(np.int64)
    first = np.searchsorted(owner, np.arange(len(RANGES)))
    count = np.bincount(owner)
    bump = first[species] + (u[:, 1] * count[species]).astype(np.int64)
    k = kappa[bump]
    along = 1 + np.log(u[:, 2] + (1 - u[:, 2]) * np.exp(-2 * k)) / k  # inverse of the cumulative distribution
    angle = 2 * np.pi * u[:, 3]
    across = np.sqrt(np.maximum(0, 1 - along**2))
    mu = centres[bump]
    helper = np.where(np.abs(mu[:, [2]]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    east = np.cross(helper, mu)
    east /= np.linalg.norm(east, axis=1, keepdims=True)
    north = np.cross(mu, east)
    xyz = along[:, None] * mu + across[:, None] * (np.cos(angle)[:, None] * east + np.sin(angle)[:, None] * north)
    lonlat = lonlat_from_unit_vectors(torch.from_numpy(xyz)).numpy()
    return np.round(lonlat, 4), species


@cache
def _ceiling(spread: float) -> float:
    """E[max_c P(c | x)] over 40,000 places of the task's own distribution (standard error below 0.002)."""
    lonlat, _ = _draw(np.random.Generator(np.random.Philox(key=[0, 99])), 40_000, spread)
    return float(RangePosterior(spread)(lonlat).max(dim=-1).values.mean())
