"""``sphere_toy``: the smallest task that a location encoder can get wrong for the right reasons.

Twelve synthetic species live on the real land outline. Some ranges lie around the date line, some at high latitude,
some overlap. What you get is what field data give you: places where a species was seen, never where it was not.
There is no image. Because the ranges are known, so is the best possible accuracy.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from tslab._checks import check_count, check_number
from tslab._files import packaged_json
from tslab.coords import unit_vectors
from tslab.earth import is_land
from tslab.synthetic.specs import synthetic_meta
from tslab.synthetic.world import Mixture, on_grid, scattered
from tslab.tasks.table import Table
from tslab.tasks.task import Task

TOY_VERSION = "1"
"""Raised whenever the same seed would give other rows."""

RANGES: dict[str, list[tuple[float, float, float]]] = packaged_json("toy_ranges.json")
"""The bumps of each species: longitude, latitude (degrees) and concentration of a von Mises-Fisher density."""

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
    truth = _ranges(spread)
    tables = {}
    for stream, (split, size) in enumerate(sizes.items()):
        lonlat, target = _draw(np.random.Generator(np.random.Philox(key=[seed, stream])), size, truth)
        tables[split] = Table(lonlat=lonlat, target=target)
    meta = synthetic_meta(
        "",
        seed,
        kind="classification",
        classes=tuple(RANGES),
        label_name="species (synthetic)",
        citation="tslab, synthetic task sphere_toy",
        generator_version=TOY_VERSION,
        ceiling={"location_top1": _ceiling(spread)},
        notes=("Synthetic: presences drawn from twelve invented ranges on the Natural Earth land outline.",),
    )
    return Task(name="sphere_toy", meta=meta, truth=truth, **tables)


def _ranges(spread: float) -> Mixture:
    """The ranges as the law that the rows are drawn from, which is also the truth of the task."""
    flat = [(c, *bump) for c, bumps in enumerate(RANGES.values()) for bump in bumps]
    table = torch.tensor(flat, dtype=torch.float64)
    return Mixture(unit_vectors(table[:, 1:3]), table[:, 3] / spread, table[:, 0].long())


def _draw(rng: np.random.Generator, size: int, ranges: Mixture) -> tuple[Tensor, Tensor]:
    """Presences on land: places (size, 2) float32 on a grid of 1e-4 degrees, and species (size,)."""
    places, labels = torch.zeros((0, 2), dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    owner = ranges.owner.numpy()
    first, count = np.searchsorted(owner, np.arange(len(RANGES))), np.bincount(owner)
    while len(places) < size:  # a species, then one of its bumps, then a place around that, land or sea
        u = rng.random((4096, 4))
        species = (u[:, 0] * len(RANGES)).astype(np.int64)
        bump = first[species] + (u[:, 1] * count[species]).astype(np.int64)
        lonlat = on_grid(scattered(ranges.centres[bump], ranges.kappa.numpy()[bump], u[:, 2], u[:, 3]))
        keep = is_land(lonlat)
        places, labels = torch.cat([places, lonlat[keep]]), torch.cat([labels, torch.from_numpy(species)[keep]])
    return places[:size].float(), labels[:size]


@cache
def _ceiling(spread: float) -> float:
    """E[max_c P(c | x)] over 40,000 places of the task's own distribution (standard error below 0.002)."""
    ranges = _ranges(spread)
    lonlat, _ = _draw(np.random.Generator(np.random.Philox(key=[0, 99])), 40_000, ranges)
    return float(ranges(lonlat).max(dim=-1).values.mean())
