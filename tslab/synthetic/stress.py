"""Two stress tests: tasks made of what the released sets hardly have, places near the poles and the date line."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tslab.coords import sample_sphere, unit_vectors
from tslab.synthetic.specs import STRESS_SPECS, synthetic_meta
from tslab.synthetic.world import Mixture, SphereField, on_grid, random_stream, scatter
from tslab.tasks.datasets import Scale, TaskMeta
from tslab.tasks.table import Table
from tslab.tasks.task import Task

STRATA = ("elsewhere", "date line", "polar")
"""Groups of the stress tests: neither; within 12 degrees of the date line; beyond 66 degrees of latitude."""


NOISE = 0.2
"""Standard deviation of the labels of ``stress_field`` about the field."""


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
