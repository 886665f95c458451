"""Tasks that stand in for no dataset: ``sphere_toy``, the smallest one that a location encoder can get wrong for the
right reasons, and two stress tests, made of what the released sets hardly have: places near the poles and the date
line.

Twelve synthetic species of ``sphere_toy`` live on the real land outline. Some ranges lie around the date line, some at
high latitude, some overlap. What you get is what field data give you: places where a species was seen, never where it
was not. There is no image. Because the ranges are known, so is the best possible accuracy.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tslab._checks import check_count, check_number
from tslab._files import packaged_json
from tslab.coords import sample_sphere, unit_vectors
from tslab.earth import is_land
from tslab.synthetic.specs import STRESS_SPECS, synthetic_meta
from tslab.synthetic.world import Mixture, SphereField, on_grid, random_stream, scatter, scattered
from tslab.tasks.datasets import Scale, TaskMeta
from tslab.tasks.table import Table
from tslab.tasks.task import Task

TOY_VERSION = "1"
"""Raised whenever the same seed would give other rows."""

RANGES: dict[str, list[tuple[float, float, float]]] = packaged_json("toy_ranges.json")
"""The bumps of each species: longitude, latitude (degrees) and concentration of a von Mises-Fisher density."""

SPREADS = (1e-3, 1e3)
"""Beyond these the ranges are points, or the whole Earth."""

STRATA = ("elsewhere", "date line", "polar")
"""Groups of the stress tests: neither; within 12 degrees of the date line; beyond 66 degrees of latitude."""

NOISE = 0.2
"""Standard deviation of the labels of ``stress_field`` about the field."""


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


def stress_classes(scale: Scale, seed: int) -> Task:
    """Sixty ranges on the whole sphere, most of them small, near the poles and across the date line; no image."""
    classes = 20 if scale == "tiny" else 60
    rng = random_stream(seed, "stress_classes", scale)
    kind = np.arange(classes) % 10
    lon, lat = rng.uniform(-180, 180, classes), np.degrees(np.arcsin(rng.uniform(-1, 1, classes)))
    at_line, polar = kind < 3, (kind >= 3) & (kind < 6)
    lon[at_line] = (180 + rng.uniform(-8, 8, at_line.sum()) + 180) % 360 - 180
    lat[at_line] = rng.uniform(-60, 60, at_line.sum())
    lat[polar] = rng.uniform(74, 89.5, polar.sum()) * np.where(np.arange(polar.sum()) % 2, -1, 1)
    lon[polar] = np.arange(polar.sum()) // 2 * (720 / polar.sum()) + rng.uniform(-10, 10, polar.sum()) - 170
    lon = (lon + 180) % 360 - 180
    kappa = np.exp(rng.uniform(math.log(40), math.log(600), classes))
    kappa[at_line] = np.exp(rng.uniform(math.log(400), math.log(1500), at_line.sum()))
    kappa[polar] = np.exp(rng.uniform(math.log(1000), math.log(3000), polar.sum()))
    centres = unit_vectors(torch.from_numpy(np.stack([lon, lat], 1)))
    truth = Mixture(centres, torch.from_numpy(kappa), torch.arange(classes))

    def drawn(n: int) -> tuple[Tensor, Tensor]:
        target = torch.from_numpy(rng.integers(0, classes, n))
        return on_grid(scatter(rng, centres[target], kappa[target.numpy()])), target

    tables = _tables("stress_classes", scale, drawn)
    best = float(truth(tables["test"].lonlat.double()).amax(-1).mean())
    names = tuple(f"range {i}" for i in range(classes))
    meta = _meta("stress_classes", scale, seed, classes=names, ceiling={"location_top1": round(best, 4)})
    return Task("stress_classes", **tables, meta=meta, truth=truth)


def stress_field(scale: Scale, seed: int) -> Task:
    """A field of four octaves on the whole sphere with little noise, sampled sparsely."""
    rng = random_stream(seed, "stress_field", scale)
    field = SphereField(random_stream(seed, "stress_field", "field"), (2, 6, 12, 24), (1.0, 0.7, 0.4, 0.2))

    def drawn(n: int) -> tuple[Tensor, Tensor]:
        lonlat = _stress_places(n, rng)
        return lonlat, (field(unit_vectors(lonlat)) + NOISE * torch.from_numpy(rng.standard_normal(n))).float()

    tables = _tables("stress_field", scale, drawn)
    r2 = 1 - NOISE**2 / float(tables["test"].target.double().var())
    meta = _meta("stress_field", scale, seed, ceiling={"location_r2": round(r2, 4)})
    return Task("stress_field", **tables, meta=meta, truth=StressField(field))


def _tables(name: str, scale: Scale, drawn: Callable[[int], tuple[Tensor, Tensor]]) -> dict[str, Table]:
    """The tables of a stress test; ``drawn`` gives places and labels of so many rows."""
    tables = {}
    for split, n in zip(("train", "val", "test"), STRESS_SPECS[name]["rows"][scale], strict=True):
        lonlat, target = drawn(n)
        tables[split] = Table(lonlat=lonlat.float(), target=target, group=strata(lonlat))
    return tables


def _meta(name: str, scale: Scale, seed: int, **facts: Any) -> TaskMeta:
    said = {key: value for key, value in STRESS_SPECS[name].items() if key != "rows"}
    return synthetic_meta(scale, seed, groups=STRATA, **said, **facts)


class StressField:
    """The field behind ``stress_field``: (n, 2) degrees to (n,) float64."""

    def __init__(self, field: SphereField) -> None:
        self.field = field

    def __call__(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        return self.field(unit_vectors(lonlat.double().cpu())).to(lonlat.device)


def strata(lonlat: Float[Tensor, "n 2"]) -> Int[Tensor, " n"]:
    """Number in `STRATA` of each place; polar wins where both apply."""
    lon, lat = lonlat.unbind(-1)
    stratum = torch.zeros(len(lonlat), dtype=torch.int64)
    stratum[lon.abs() > 168] = 1
    stratum[lat.abs() > 66] = 2
    return stratum


def _stress_places(n: int, rng: np.random.Generator) -> Float[Tensor, "n 2"]:
    """A third uniform on the sphere, a third within 12 degrees of the date line, a third beyond 66 degrees."""
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
    lonlat = sample_sphere(n, generator=generator, dtype=torch.float64)
    u = torch.from_numpy(rng.random(n))
    kind = torch.arange(n) % 3
    lonlat[kind == 1, 0] = ((180 + 24 * u[kind == 1] - 12) + 180) % 360 - 180
    low = math.sin(math.radians(66))
    cap = torch.rad2deg(torch.asin(low + (1 - low) * u[kind == 2]))
    lonlat[kind == 2, 1] = torch.where(torch.from_numpy(rng.random(int((kind == 2).sum())) < 0.5), cap, -cap)
    return torch.round(lonlat, decimals=4)
