"""Which encoder for which task: synthetic worlds with known answers, and what each encoder makes of them.

The worlds differ in what a reader's task may differ in: how far apart its values change, whether it has borders, and
whether it covers the Earth or a region. Four are waves, which harmonics fit well; the patches of the fifth lie outside
the span of every encoder, as `span` measures. Every encoder gets the same places, the same small network and the same
choice of three finest scales, made on held-out places; `resolved_at` turns a scale in kilometres into each encoder's
own parameter. The chapter *Choosing an encoder* shows the record that

    python -m tslab_book.encoder_guide

writes, world by world; it goes on where it was stopped. About twenty minutes on one core. Beside it lies what follows
from the encoders alone: which parameter resolves how many kilometres, and the diagnostics at 1,000 km.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tslab import __version__
from tslab._files import atomic_write
from tslab.benchmark.comparison import holm
from tslab.coords import EARTH_RADIUS_KM, sample_sphere, unit_vectors
from tslab.diagnostics import diagnose, resolution_km
from tslab.encoders import PositionEncoder
from tslab.encoders.registry import ENCODERS, position_encoder
from tslab_book import RESULTS
from tslab_book.records import read_record
from tslab_book.waves import random_waves

RECORD = RESULTS / "encoder_guide.csv"
FACTS = RECORD.with_suffix(".json")
"""What `write_facts` writes; `tslab_book.records.read_record` reads it."""

PLACES = (300, 3000)
SEEDS = 5
NOISE = 0.1
"""Standard deviation of the noise on the labels; that of every field is 1."""

NEIGHBOURS = "neighbours"
"""The row without any encoder: the mean of the k nearest places."""


@dataclass(frozen=True)
class World:
    """A kind of field on the sphere.

    Attributes:
        shortest_km, longest_km: between which its wavelengths lie.
        borders: only the sign of the field is kept, so that it jumps.
        patches: instead of waves, so many patches of irregular shape, each with a level and a slope of its own.
        radius_km: it lives within this distance of `CENTER`; None for the whole Earth.
        scales_km: finest scales that an encoder may choose from.
    """

    shortest_km: float
    longest_km: float
    borders: bool = False
    patches: int = 0
    radius_km: float | None = None
    scales_km: tuple[float, ...] = (4000.0, 1500.0, 500.0)

    def field(self, seed: int) -> Callable[[Float[Tensor, "n 2"]], Float[Tensor, " n"]]:
        """A random field of this kind: 64 waves in space in random directions, read off on the sphere, or patches."""
        generator = torch.Generator().manual_seed(seed)
        if self.patches:
            return _patches(self.patches, generator)
        waves, phase, km = random_waves(64, self.shortest_km, self.longest_km, generator)
        strength = km.sqrt() / km.mean().sqrt()

        def value(lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
            z = ((unit_vectors(lonlat.double()) @ waves.T + phase).cos() * strength).sum(1) / math.sqrt(32)
            return z.sign() if self.borders else z

        return value

    def places(self, n: int, generator: torch.Generator) -> Float[Tensor, "n 2"]:
        """``n`` random places, uniform by area."""
        if self.radius_km is None:
            return sample_sphere(n, generator=generator, dtype=torch.float64)
        u = torch.rand((n, 2), generator=generator, dtype=torch.float64)
        away = torch.acos(1 - u[:, 0] * (1 - math.cos(self.radius_km / EARTH_RADIUS_KM)))
        bearing = 2 * math.pi * u[:, 1]
        lon0, lat0 = (math.radians(v) for v in CENTER)
        sin_lat = math.sin(lat0) * away.cos() + math.cos(lat0) * away.sin() * bearing.cos()
        east = torch.atan2(bearing.sin() * away.sin() * math.cos(lat0), away.cos() - math.sin(lat0) * sin_lat)
        return torch.rad2deg(torch.stack([lon0 + east, torch.asin(sin_lat)], dim=1))


def _patches(count: int, generator: torch.Generator) -> Callable[[Float[Tensor, "n 2"]], Float[Tensor, " n"]]:
    """Cells around random centres: in each a level and a cone, so that the field jumps at borders and has peaks."""
    centers = unit_vectors(sample_sphere(count, generator=generator, dtype=torch.float64))
    level, slope = torch.randn((2, count), generator=generator, dtype=torch.float64)

    def raw(lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        nearest, cell = (unit_vectors(lonlat.double()) @ centers.T).max(1)
        return level[cell] + slope[cell] * torch.acos(nearest.clamp(-1, 1)) * math.sqrt(count / math.pi)

    known = raw(sample_sphere(20_000, generator=generator, dtype=torch.float64))
    mean, spread = known.mean(), known.std()
    return lambda lonlat: (raw(lonlat) - mean) / spread


CENTER = (10.0, 50.0)

WORLDS: dict[str, World] = {
    "smooth": World(10_000, 30_000),
    "detailed": World(2_000, 10_000),
    "borders": World(5_000, 20_000, borders=True),
    "patches": World(2_000, 10_000, patches=200),
    "region": World(200, 1_000, radius_km=1_000, scales_km=(400.0, 150.0, 50.0)),
}

ZONES: dict[str, Callable[[Float[Tensor, "n 2"]], Tensor]] = {
    "everywhere": lambda lonlat: torch.ones(len(lonlat), dtype=torch.bool),
    "date line": lambda lonlat: lonlat[:, 0].abs() > 170,
    "poles": lambda lonlat: lonlat[:, 1].abs() > 70,
}
"""Where the error is taken; a region has only the first."""

FIXED: dict[str, dict[str, Any]] = {
    "tile": {"num_features": 32},
    "rff": {"num_scales": 128},
    "space2vec_grid": {"num_scales": 16},
    "space2vec_theory": {"num_scales": 16},
    "sphere2vec_sphereC": {"num_scales": 16},
    "sphere2vec_sphereC+": {"num_scales": 16},
    "sphere2vec_sphereM": {"num_scales": 16},
    "sphere2vec_sphereM+": {"num_scales": 16},
    "sphere2vec_dfs": {"num_scales": 6},
}
"""Parameters that keep the networks small; the finest scale is set by `resolved_at`."""

KNOBS: dict[str, tuple[str, tuple[float, ...]]] = {
    "tile": ("cell_size", tuple(np.geomspace(60, 0.25, 60).tolist())),
    "rbf": ("kernel_size", tuple(np.geomspace(60, 0.01, 80).tolist())),
    "rff": ("kernel_size", tuple(np.geomspace(0.5, 1e7, 80).tolist())),
    "space2vec_grid": ("min_radius", tuple(np.geomspace(300, 1e-5, 100).tolist())),
    "space2vec_theory": ("min_radius", tuple(np.geomspace(300, 1e-5, 100).tolist())),
    "nerf": ("num_scales", tuple(range(1, 21))),
    "sphere2vec_sphereC": ("min_radius", tuple(np.geomspace(0.9, 1e-7, 100).tolist())),
    "sphere2vec_sphereC+": ("min_radius", tuple(np.geomspace(0.9, 1e-7, 100).tolist())),
    "sphere2vec_sphereM": ("min_radius", tuple(np.geomspace(0.9, 1e-7, 100).tolist())),
    "sphere2vec_sphereM+": ("min_radius", tuple(np.geomspace(0.9, 1e-7, 100).tolist())),
    "sphere2vec_dfs": ("min_radius", tuple(np.geomspace(0.9, 1e-7, 100).tolist())),
    "siren_sh": ("degree", tuple(range(2, 25))),
}
"""The parameter that sets the finest scale of an encoder, with the values tried, from coarse to fine. wrap and xyz have
none."""

GUIDE_ENCODERS = tuple(key for key in ENCODERS if key != "wrap_ffn")
"""wrap and wrap_ffn have the same position encoding."""


def resolved_at(key: str, km: float) -> dict[str, Any] | None:
    """Parameters with which encoder ``key`` just resolves ``km`` kilometres, or None if it cannot.

    The coarsest of the values in `KNOBS` whose `tslab.diagnostics.resolution_km` is at most ``km``, found by
    bisection. ``{}`` for an encoder without such a parameter.
    """
    if key not in KNOBS:
        return {}
    name, values = KNOBS[key]

    def reaches(index: int) -> bool:
        return resolution_km(guide_encoder(key, 0, **{name: values[index]}), n=64) <= km

    low, high = 0, len(values) - 1
    if not reaches(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle + 1, high)
    return {name: values[high]}


def guide_encoder(key: str, seed: int = 0, **parameters: Any) -> PositionEncoder:
    """The position encoder of this study, with `FIXED` and the given parameters."""
    if "generator" in ENCODERS[key].parameters:
        parameters["generator"] = torch.Generator().manual_seed(seed)
    return position_encoder(key, **{**FIXED.get(key, {}), **parameters})


def measure(world_name: str, n: int, seed: int, keys: tuple[str, ...] = GUIDE_ENCODERS) -> list[dict[str, Any]]:
    """The errors of every encoder, and of the nearest neighbours, on one random field.

    Each row has ``world, n, seed, encoder, scale_km`` (chosen; NaN where there is no choice) and the root mean square
    error in each of `ZONES`, in standard deviations of the field. A fifth of the places is held out to choose.
    """
    world = WORLDS[world_name]
    generator = torch.Generator().manual_seed(1000 * seed + n)
    field = world.field(seed)
    places, test = world.places(n, generator), world.places(8_000, generator)
    label = field(places) + NOISE * torch.randn(n, generator=generator, dtype=torch.float64)
    truth = field(test)
    cut = n // 5
    held, train = slice(0, cut), slice(cut, n)
    rows = []
    for key in (*keys, NEIGHBOURS):
        candidates: list[tuple[float, float, Predictor]] = []
        for scale_km, fitted in _fits(key, world, places[train], label[train], seed):
            candidates.append((_rmse(fitted(places[held]), label[held]), scale_km, fitted))
        _, scale_km, best = min(candidates, key=lambda candidate: candidate[0])
        error = (best(test) - truth).square()
        zones = ZONES if world.radius_km is None else {"everywhere": ZONES["everywhere"]}
        at = {zone: round(float(error[inside(test)].mean().sqrt()), 4) for zone, inside in zones.items()}
        rows.append({"world": world_name, "n": n, "seed": seed, "encoder": key, "scale_km": scale_km, **at})
    return rows


Predictor = Callable[[Float[Tensor, "n 2"]], Float[Tensor, " n"]]


def _fits(key: str, world: World, places: Tensor, label: Tensor, seed: int) -> list[tuple[float, Predictor]]:
    """The candidates of one encoder: (finest scale in km, prediction)."""
    if key == NEIGHBOURS:
        return [(math.nan, nearest_neighbours(places, label, k)) for k in (1, 3, 10, 30)]
    fits: list[tuple[float, Predictor]] = []
    for km in world.scales_km:
        how = _resolved(key, km)
        if how is None:
            continue
        if key == "rbf":
            how = how | {"anchors": places[:200].float()}
        fits.append((km if how else math.nan, fit_network(guide_encoder(key, seed, **how), places, label, seed)))
        if not how:
            break
    if not fits:  # it resolves none of them: take the finest it has
        name, values = KNOBS[key]
        fits.append((math.nan, fit_network(guide_encoder(key, seed, **{name: values[-1]}), places, label, seed)))
    return fits


_resolved = cache(resolved_at)


def fit_network(
    encoder: PositionEncoder, places: Float[Tensor, "n 2"], label: Float[Tensor, " n"], seed: int, epochs: int = 200
) -> Predictor:
    """Train the study's network (two hidden layers of 64) behind an encoder, on all places at once."""
    lonlat, mean, spread = places, float(label.mean()), float(label.std())
    target = ((label - mean) / spread).float()
    with torch.no_grad():
        size = float(encoder(lonlat).float().square().mean().sqrt()) or 1.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(encoder.out_features, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1)
        )
    learned = list(encoder.parameters())
    optimizer = torch.optim.Adam([*net.parameters(), *learned], lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    fixed = None if learned else encoder(lonlat).float() / size
    for _ in range(epochs):
        inputs = encoder(lonlat).float() / size if fixed is None else fixed
        loss = (net(inputs)[:, 0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    @torch.no_grad()
    def predict(at: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        return net(encoder(at).float() / size)[:, 0].double() * spread + mean

    return predict


def nearest_neighbours(places: Float[Tensor, "n 2"], label: Float[Tensor, " n"], k: int) -> Predictor:
    """The mean label of the k nearest places, weighted by one over the distance."""
    known = unit_vectors(places)

    def predict(at: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        distance, index = torch.cdist(unit_vectors(at), known).topk(k, largest=False)
        weight = 1 / (distance + 1e-9)
        return (label[index] * weight).sum(1) / weight.sum(1)

    return predict


def span(world_name: str, key: str, km: float, *, n: int = 3000, seed: int = 0) -> float:
    """Share of the variance of a noise-free field that a least-squares fit of an encoder's features explains at places
    that it has not seen; a tiny ridge keeps the fit apart from rounding. NaN if the encoder does not reach ``km``."""
    world, how = WORLDS[world_name], resolved_at(key, km)
    if how is None:
        return math.nan
    generator = torch.Generator().manual_seed(seed)
    known, new = world.places(n, generator), world.places(n, generator)
    field = world.field(seed)
    if key == "rbf":
        how = how | {"anchors": known[:200].float()}
    encoder = guide_encoder(key, seed, **how)
    with torch.no_grad():
        inputs, asked = (torch.cat([encoder(at), torch.ones(n, 1, dtype=torch.float64)], 1) for at in (known, new))
    gram = inputs.T @ inputs
    ridge = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    weights = torch.linalg.solve(gram + ridge, inputs.T @ field(known))
    truth = field(new)
    return 1 - float((truth - asked @ weights).square().mean() / truth.var(correction=0))


def _rmse(prediction: Tensor, label: Tensor) -> float:
    return float((prediction - label).square().mean().sqrt())


def write_record(path: Path = RECORD, *, seconds: float = math.inf) -> bool:
    """Measure what ``path`` does not hold yet, for at most about ``seconds``; True when it is complete."""
    start = time.monotonic()
    rows = pd.read_csv(path).to_dict("records") if path.is_file() else []
    done = {(row["world"], row["n"], row["seed"]) for row in rows}
    for seed in range(SEEDS):
        for n in PLACES:
            for world in WORLDS:
                if (world, n, seed) in done:
                    continue
                if time.monotonic() - start > seconds:
                    return False
                rows += measure(world, n, seed)
                text = pd.DataFrame(rows).to_csv(index=False, float_format="%.4g", lineterminator="\n")
                atomic_write(path, text)
    return True


def write_facts(path: Path = FACTS) -> None:
    """Write the parameters of every encoder for each of `FACT_SCALES_KM`, and its diagnostics at 1,000 km."""
    encoders = {}
    for key in GUIDE_ENCODERS:
        scales = {f"{km:g}": resolved_at(key, km) for km in FACT_SCALES_KM}
        encoder = guide_encoder(key, 0, **(scales["1000"] or {}))
        measured = diagnose(encoder)
        kept = {name: round(measured[name], 5) for name in ("seam_gap", "pole_spread", "anisotropy")}
        encoders[key] = {"features": encoder.out_features, "scales": scales, "at_1000_km": kept}
    facts = {"date": date.today().isoformat(), "tslab": __version__, "encoders": encoders}
    atomic_write(path, json.dumps(facts, indent=1) + "\n")


FACT_SCALES_KM = (3000.0, 1000.0, 300.0, 100.0, 30.0, 10.0)


def read_guide(path: Path = RECORD) -> pd.DataFrame:
    """The record in long form: one row for each world, n, zone, seed and encoder, with its ``error``."""
    wide = read_record(path).data
    long = wide.melt(["world", "n", "seed", "encoder", "scale_km"], list(ZONES), var_name="zone", value_name="error")
    return long.dropna(subset="error").reset_index(drop=True)


def summarise(guide: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, and which encoders the record cannot tell from the best.

    One row for each world, n, zone and encoder: ``error`` (mean over the seeds), ``sd``, ``scale_km`` (the median of
    the chosen ones), ``behind`` (how much larger than the best error, in units of it), ``p`` (a paired t-test over the
    seeds against the best, Holm-corrected within its task) and ``as_good`` (p >= 0.05).
    """
    rows = []
    for (world, n, zone), task in guide.groupby(["world", "n", "zone"], sort=False):
        table = task.pivot(index="seed", columns="encoder", values="error")
        scale = task.groupby("encoder")["scale_km"].median()
        best = table.mean().idxmin()
        others = [key for key in table if key != best]
        p = [float(scipy.stats.ttest_rel(table[key], table[best]).pvalue) for key in others]
        corrected = {best: 1.0} | dict(zip(others, holm(p).tolist(), strict=True))
        for key in table:
            mean = table[key].mean()
            rows.append(
                {"world": world, "n": n, "zone": zone, "encoder": key, "error": mean, "sd": table[key].std()}
                | {"scale_km": scale[key], "behind": mean / table[best].mean() - 1, "p": corrected[key]}
            )
    summary = pd.DataFrame(rows)
    return summary.assign(as_good=summary["p"] >= 0.05)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure the record of the chapter Choosing an encoder.")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="stop after about this time; run again to go on"
    )
    parser.add_argument("--out", type=Path, default=RECORD)
    chosen = parser.parse_args()
    if write_record(chosen.out, seconds=chosen.seconds):
        write_facts(chosen.out.with_suffix(".json"))
        print("complete")
    else:
        print("to be continued: run it again")
