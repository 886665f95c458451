"""Synthetic stand-ins of the seven classification datasets.

Each stand-in is drawn from a model whose every probability is known, so the best possible accuracy is known too:

- *where a class lives*: r_c(x) = w / 4 pi + (1 - w) n_c(x) mean_b vMF(x; mu_cb, kappa_cb), up to four bumps of 13°
  to 0.8° and a climatic niche n_c; for land use (fMoW) r_c(x) is log-linear in relief, climate and settlement;
- *which class stands at a place*: P(c | x) proportional to beta_c r_c(x), with beta fitted so that classes are as
  frequent as they should be;
- *what an image model says*: see `tslab.synthetic.images`.

w is calibrated to the published gain from location (by ``data_scripts/make_synthetic.py --calibrate``). Members of a
genus look alike; in four of five genera they live apart, so there location helps.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from tslab.coords import has_location, unit_vectors
from tslab.synthetic.images import CHUNK, ImageModel, draw_images, drop_small, evidence, predictions
from tslab.synthetic.specs import CLASS_SPECS, ROWS, calibration, stand_in_meta
from tslab.synthetic.world import World, draw, photographed_places, random_stream, scatter
from tslab.tasks.datasets import DATASETS, Scale
from tslab.tasks.images import ImageInput, concatenate_images
from tslab.tasks.table import Table
from tslab.tasks.task import Task

BUMPS = 4
APART = 0.8
KAPPA_RANGE = (20.0, 5000.0)
REFERENCE_PLACES = 2000
CEILING_ROWS = 20_000
SPLITS = ("train", "val", "test")


class Ranges:
    """Ranges of classes: bumps on the sphere, a climatic niche, and a floor that is the same everywhere."""

    def __init__(
        self, world: World, genus: NDArray[np.int64], homes: Tensor, floor: float, rng: np.random.Generator
    ) -> None:
        """``homes`` (h, 2) are places of the dataset; bumps stand around some of them. ``floor`` is w."""
        classes, genera = len(genus), int(genus.max()) + 1
        apart = rng.random(genera) < APART
        own = rng.integers(0, len(homes), (classes, BUMPS))
        shared = rng.integers(0, len(homes), (genera, BUMPS))[genus]
        at = np.where(apart[genus][:, None], own, shared)
        kappa = np.exp(rng.uniform(math.log(KAPPA_RANGE[0]), math.log(KAPPA_RANGE[1]), (classes, BUMPS)))
        count = rng.integers(1, BUMPS + 1, classes)
        used = np.arange(BUMPS) < count[:, None]
        home = unit_vectors(homes)[torch.from_numpy(at)]
        moved = scatter(rng, home.reshape(-1, 3), 4 * kappa.ravel())
        self.world, self.floor = world, floor
        self.centres = moved  # (classes * BUMPS, 3)
        self.kappa = torch.from_numpy(kappa.ravel())
        norm = kappa / (2 * np.pi * -np.expm1(-2 * kappa)) * used / count[:, None]
        self.weight = torch.from_numpy(norm.ravel())
        self.niche = world.temperature(moved.reshape(classes, BUMPS, 3)[:, 0])
        self.niche_width = torch.from_numpy(np.exp(rng.uniform(np.log(0.3), np.log(1.5), classes)))

    def __call__(self, xyz: Float[Tensor, "n 3"]) -> Float[Tensor, "n c"]:
        """r_c at unit vectors."""
        cosine = xyz @ self.centres.T.to(xyz.dtype)
        bumps = torch.exp(self.kappa.to(xyz.dtype) * (cosine - 1)).mul_(self.weight.to(xyz.dtype))
        lives = bumps.view(len(xyz), -1, BUMPS).sum(-1)
        away = (self.world.temperature(xyz).to(xyz.dtype)[:, None] - self.niche) / self.niche_width
        return self.floor / (4 * math.pi) + (1 - self.floor) * lives * torch.exp(-0.5 * away**2).to(xyz.dtype)


class LandUse:
    """Classes that follow relief, climate and settlement: ln r_c(x) = (1 - w) 4 theta_c . fields(x)."""

    def __init__(self, world: World, classes: int, floor: float, rng: np.random.Generator) -> None:
        self.world, self.floor = world, floor
        self.preference = torch.from_numpy(rng.standard_normal((classes, 4)))

    def __call__(self, xyz: Float[Tensor, "n 3"]) -> Float[Tensor, "n c"]:
        """r_c at unit vectors."""
        world = self.world
        fields = [world.relief(xyz), world.temperature(xyz), world.moisture(xyz), world.settlement(xyz)]
        bounded = torch.tanh(torch.stack(fields, -1) / 2)
        return torch.exp(4 * (1 - self.floor) / 2 * bounded @ self.preference.T).to(xyz.dtype)


class ClassPosterior:
    """P(class | place), the truth of a stand-in: (n, 2) degrees to (n, classes); P(class) where a place is missing."""

    def __init__(
        self, ranges: Ranges | LandUse, beta: Float[Tensor, " c"], prior: Float[Tensor, " c"], dtype: torch.dtype
    ) -> None:
        self.ranges, self.beta, self.prior, self.dtype = ranges, beta.to(dtype), prior.to(dtype), dtype

    def __call__(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n c"]:
        result = self.prior.repeat(len(lonlat), 1)
        located = has_location(lonlat.cpu())
        xyz = unit_vectors(lonlat.cpu()[located].double()).to(self.dtype)
        mass = self.ranges(xyz) * self.beta
        result[located] = mass / mass.sum(-1, keepdim=True)
        return result.to(lonlat.device)

    def chunks(self, lonlat: Float[Tensor, "n 2"]) -> Iterator[tuple[slice, Float[Tensor, "m c"]]]:
        """The posterior in pieces that fit in memory."""
        step = max(1, CHUNK // (len(self.prior) * BUMPS))
        for start in range(0, len(lonlat), step):
            part = slice(start, start + step)
            yield part, self(lonlat[part])


def class_frequencies(classes: int, tail: float, rng: np.random.Generator) -> Float[Tensor, " c"]:
    """Class probabilities proportional to (rank + 10)^-tail, in random order."""
    weights = (np.arange(classes) + 10.0) ** -tail
    return torch.from_numpy(weights[rng.permutation(classes)] / weights.sum())


def genera(classes: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The genus of each class: genera have 3 to 8 classes."""
    sizes = rng.integers(3, 9, classes)
    return np.repeat(np.arange(classes), sizes)[:classes]


def fit_posterior(
    ranges: Ranges | LandUse, frequencies: Float[Tensor, " c"], places: Float[Tensor, "k 2"], dtype: torch.dtype
) -> ClassPosterior:
    """The posterior whose average over ``places`` is ``frequencies`` (a fixed number of fitting steps)."""
    frequencies = frequencies.to(dtype)
    density = ranges(unit_vectors(places[:REFERENCE_PLACES].double()).to(dtype))
    beta = frequencies / density.mean(0).clamp_min(1e-30)
    for _ in range(20):
        mass = density * beta
        beta = beta * (frequencies / (mass / mass.sum(-1, keepdim=True)).mean(0).clamp_min(1e-30))
        beta = beta / beta.sum()
    return ClassPosterior(ranges, beta, frequencies, dtype)


def draw_classes(
    posterior: ClassPosterior, lonlat: Float[Tensor, "n 2"], rng: np.random.Generator
) -> Int[Tensor, " n"]:
    """One class per place."""
    u = torch.from_numpy(rng.random(len(lonlat))).to(posterior.dtype)
    drawn = torch.empty(len(lonlat), dtype=torch.int64)
    for part, probability in posterior.chunks(lonlat):
        cumulative = probability.cumsum(-1)
        drawn[part] = torch.searchsorted(cumulative, u[part, None] * cumulative[:, -1:], right=True)[:, 0]
    return drawn.clamp_max(len(posterior.prior) - 1)


def draw_balanced(
    posterior: ClassPosterior, pool: Float[Tensor, "m 2"], per_class: int, rng: np.random.Generator
) -> tuple[Float[Tensor, "n 2"], Int[Tensor, " n"], ClassPosterior]:
    """``per_class`` rows of every class, places from ``pool``; and the posterior of rows that are drawn like that.

    Given c, the place is drawn with probability P(c | x) / sum_x P(c | x), so P(c | row) is proportional to that.
    """
    classes = len(posterior.prior)
    table = torch.cat([p.float() for _, p in posterior.chunks(pool)]) if len(pool) * classes < 4 * CHUNK else None
    total = torch.zeros(classes, dtype=torch.float64)
    for _, probability in posterior.chunks(pool) if table is None else [(None, table)]:
        total += probability.double().sum(0)
    wanted = torch.from_numpy(rng.random((classes, per_class))) * total[:, None]
    wanted, _ = wanted.sort(-1)
    at = torch.full((classes, per_class), len(pool) - 1)
    before = torch.zeros(classes, dtype=torch.float64)
    for part, probability in posterior.chunks(pool) if table is None else [(slice(0, len(pool)), table)]:
        after = before[:, None] + probability.double().cumsum(0).T
        here = (wanted >= before[:, None]) & (wanted < after[:, -1:])
        local = torch.searchsorted(after.contiguous(), wanted.contiguous(), right=True).clamp_max(after.shape[1] - 1)
        at = torch.where(here, local + part.start, at)
        before = after[:, -1]
    order = torch.from_numpy(rng.permutation(classes * per_class))
    target = torch.arange(classes).repeat_interleave(per_class)[order]
    equal = torch.full((classes,), 1 / classes, dtype=posterior.dtype)
    beta = posterior.beta / total.clamp_min(1e-30).to(posterior.dtype)
    truth = ClassPosterior(posterior.ranges, beta / beta.sum(), equal, posterior.dtype)
    return pool[at.flatten()[order]], target, truth


@dataclass(frozen=True)
class ClassWorld:
    """A classification stand-in without its images: places, sites, classes, and the truth of the test rows."""

    lonlat: dict[str, Tensor]
    site: dict[str, Tensor]
    target: dict[str, Tensor]
    genus: NDArray[np.int64]
    truth: ClassPosterior


def class_rows(name: str, scale: Scale) -> dict[str, int]:
    """Rows of train, val and test. Full scale follows the release (kept rows of birds where only those are known)."""
    info = DATASETS[name]
    facts = [info.splits[s] if s else None for s in (info.train_split, info.val_split, info.eval_split)]
    full = [0 if f is None else (f.rows or f.kept or 0) for f in facts]
    most = full if scale == "full" else ROWS[scale]["classification"]
    return {split: min(n, size) for split, n, size in zip(SPLITS, full, most, strict=True)}


def class_world(name: str, scale: Scale, seed: int, floor: float, rows: dict[str, int] | None = None) -> ClassWorld:
    """Draw places and classes of a stand-in; ``floor`` is the share w of every range that is the same everywhere.

    ``rows`` of train, val and test take the place of the usual numbers (calibration needs few).
    """
    spec, world, rows = CLASS_SPECS[name], World(seed), rows or class_rows(name, scale)
    classes = spec.classes[scale]
    dtype = torch.float32 if scale == "full" else torch.float64
    stream = partial(random_stream, seed, name, scale)
    genus = genera(classes, stream("genera"))
    per_class = round(rows["test"] / classes) if spec.balanced_test else 0
    drawn = {**rows, "test": 5 * per_class * classes} if per_class else rows
    lonlat, site = photographed_places(sum(drawn.values()), spec.geography, world, stream("places"))
    places = dict(zip(drawn, lonlat.split(list(drawn.values())), strict=True))
    sites = dict(zip(drawn, site.split(list(drawn.values())), strict=True))
    frequencies = class_frequencies(classes, spec.tail, stream("frequencies"))
    if spec.land_use:
        ranges: Ranges | LandUse = LandUse(world, classes, floor, stream("ranges"))
    else:
        ranges = Ranges(world, genus, lonlat[: 20 * classes], floor, stream("ranges"))
    truth = fit_posterior(ranges, frequencies, lonlat, dtype)
    drawn_alike = SPLITS[:2] if per_class else SPLITS
    target = {split: draw_classes(truth, places[split], stream(f"classes {split}")) for split in drawn_alike}
    if per_class:
        equal = torch.full((classes,), 1 / classes, dtype=torch.float64)
        even = fit_posterior(ranges, equal, places["test"], dtype)
        places["test"], target["test"], truth = draw_balanced(even, places["test"], per_class, stream("classes test"))
        sites["test"] = torch.full((len(places["test"]),), -1)
    return ClassWorld(places, sites, target, genus, truth)


def class_task(name: str, scale: Scale, seed: int) -> Task:
    """The stand-in of one classification dataset."""
    info, spec, fitted = DATASETS[name], CLASS_SPECS[name], calibration(name, scale)
    drawn = class_world(name, scale, seed, fitted.floor)
    tables: dict[str, Table] = {}
    ceiling: dict[str, float] = {}
    for split, missing in zip(SPLITS, spec.missing, strict=True):
        stream = partial(random_stream, seed, name, scale, split)
        target, n = drawn.target[split], len(drawn.target[split])
        lonlat = drawn.lonlat[split].clone()
        lonlat[torch.from_numpy(stream("missing").random(n) < missing)] = torch.nan
        image: ImageInput = None
        if n and (spec.train_images or split != "train"):
            image, ceiling = _images(drawn, split, lonlat, fitted.image, spec.sparse, stream("images"))
        tables[split] = Table(
            lonlat=lonlat.float(),
            target=target,
            image=image,
            user=_users(n, spec.users, scale, stream("users")),
            date=_dates(target, spec.classes[scale], stream("dates")) if spec.dates else None,
            group=drawn.site[split] if spec.land_use else None,
        )
    first = np.searchsorted(drawn.genus, drawn.genus)
    species = [f"genus {g} species {i - f}" for i, (g, f) in enumerate(zip(drawn.genus, first, strict=True))]
    meta = stand_in_meta(
        info,
        scale,
        seed,
        classes=tuple(f"land use {i}" for i in range(len(species))) if spec.land_use else tuple(species),
        image_kind="probs",
        image_model="simulated, calibrated to the published accuracy",
        ceiling=ceiling,
    )
    return Task(name, **tables, meta=meta, truth=drawn.truth)


def _images(
    drawn: ClassWorld,
    split: str,
    lonlat: Float[Tensor, "n 2"],
    model: ImageModel,
    sparse: bool,
    rng: np.random.Generator,
) -> tuple[ImageInput, dict[str, float]]:
    """Predictions for every row of a split, and what is possible on (the first 20,000 of) its rows."""
    target = drawn.target[split]
    parts: list[ImageInput] = []
    hits: list[dict[str, Tensor]] = []
    for seen in draw_images(model, target, drawn.genus, rng):
        stated = predictions(model, seen.logits)
        parts.append(drop_small(stated) if sparse else torch.from_numpy(stated))
        if split == "test" and seen.rows.start < CEILING_ROWS:
            rows, y = lonlat[seen.rows], target[seen.rows]
            prior = drawn.truth(rows)
            said = torch.from_numpy(stated).to(prior.dtype)
            found = torch.from_numpy(evidence(model, seen.logits, drawn.genus))
            both = torch.softmax(torch.log(prior.clamp_min(1e-30)) + found, -1)
            hits.append({"location": prior[has_location(rows)].amax(-1), "image": said.argmax(-1) == y})
            hits[-1] |= {"product": (said * prior).argmax(-1) == y, "both": both.amax(-1)}
    top1 = {kind: torch.cat([found[kind] for found in hits]).double().mean() for kind in hits[0]} if hits else {}
    return concatenate_images(parts), {f"{kind}_top1": round(float(share), 4) for kind, share in top1.items()}


def _users(n: int, users: int, scale: Scale, rng: np.random.Generator) -> Int[Tensor, " n"]:
    """Photographers, few of whom take most photographs; -1 where the dataset does not know them."""
    if users == 0:
        return torch.full((n,), -1)
    count = users if scale == "full" else min(users, {"tiny": 50, "small": 500}[scale])
    return torch.from_numpy(draw(rng, 1 / (np.arange(count) + 5.0), n))


def _dates(target: Int[Tensor, " n"], classes: int, rng: np.random.Generator) -> Float[Tensor, " n"]:
    """Fractions of the year: half of the rows around a season of their class, the others at any time."""
    season = random_stream("season", classes).random(classes)[target.numpy()]
    around = (season + 0.1 * rng.standard_normal(len(target))) % 1
    date = np.where(rng.random(len(target)) < 0.5, around, rng.random(len(target)))
    return torch.from_numpy(np.floor(date * 1e5) / 1e5).float()
