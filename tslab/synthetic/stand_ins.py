"""Synthetic stand-ins for all seventeen datasets: no download, known truth.

A stand-in has the schema of its dataset, its geography, its gaps, its class frequencies or label distribution, and an
image input about as good as the published one; so code that runs on it runs on the released data. It has no images,
no species and no people: results on it say nothing about the world. What it has that the real data have not is a
known truth, ``task.truth``, and known limits, ``task.meta.ceiling``.

The world is `tslab.synthetic.world`, what distinguishes the datasets `tslab.synthetic.specs`; how rows are drawn is in
`tslab.synthetic.classes` and `tslab.synthetic.values`. This module puts tables together.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from tslab._checks import check_choice, check_count
from tslab.synthetic.classes import (
    ClassPosterior,
    ImageModel,
    LandUse,
    Ranges,
    class_frequencies,
    draw_balanced,
    draw_classes,
    draw_images,
    drop_small,
    evidence,
    fit_posterior,
    genera,
    predictions,
)
from tslab.synthetic.specs import CLASS_SPECS, VALUE_SPECS, ClassSpec, calibration, synthetic_meta
from tslab.synthetic.stress import stress_classes, stress_field
from tslab.synthetic.values import (
    GeneratedRows,
    Marginal,
    ValueTruth,
    build_truth,
    explained_share,
    image_scores,
    night_lights,
    surveyed_places,
)
from tslab.synthetic.world import World, land_places, photographed_places, random_stream
from tslab.tasks.datasets import DATASETS, STRESS_TASKS
from tslab.tasks.images import ImageInput, LazyRows, concatenate_images
from tslab.tasks.meta import SCALES, Scale
from tslab.tasks.table import Table
from tslab.tasks.task import Task

CLASS_ROWS = {"tiny": (800, 100, 400), "small": (8000, 800, 4000)}
VALUE_ROWS = {"tiny": 1200, "small": 12_000}
FEATURES = {"tiny": 64, "small": 64, "full": 2048}
CEILING_ROWS = 20_000


def synthetic_task(
    name: str, scale: Scale = "small", seed: int = 0, *, split: Literal["source", "random"] = "source"
) -> Task:
    """A synthetic stand-in, or a stress test.

    The same (``meta.generator_version``, name, scale, seed) gives the same rows. ``task.meta.ceiling`` holds what is
    known to be possible, as fractions. Classification, measured over the test rows:

        location_top1: best accuracy from the location alone, over rows that have one;
        image_top1: accuracy of the image model as it is;
        product_top1: accuracy of its predictions times the true P(class | location), the benchmark's way to combine
            them;
        both_top1: best accuracy from image and location, by Bayes' rule.

    Regression: ``location_r2``, ``image_r2`` (linear in the image's scores), ``both_r2``, over the law of the data.

    Args:
        name: a LocBench dataset, ``stress_classes`` or ``stress_field``.
        scale: ``tiny`` (about a thousand rows), ``small`` (about ten thousand), ``full`` (the released counts).
        seed: of the whole world.
        split: ``random`` ignores countries when it splits SustainBench stand-ins; the source's split keeps them whole.

    Raises:
        ValueError: a name, scale or split that is not known, a negative seed.
    """
    check_choice("name", name, (*DATASETS, *STRESS_TASKS))
    check_choice("scale", scale, SCALES)
    check_count("seed", seed, at_least=0)
    check_choice("split", split, ("source", "random"))
    if name == "stress_classes":
        return stress_classes(scale, seed)
    if name == "stress_field":
        return stress_field(scale, seed)
    if name in CLASS_SPECS:
        return _class_task(name, scale, seed)
    task = _value_task(name, scale, seed)
    return task.resplit(seed=seed) if split == "random" else task


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
    if scale == "full":
        return dict(zip(("train", "val", "test"), full, strict=True))
    sizes = CLASS_ROWS[scale]
    return {
        split: min(n, size) if n else 0 for split, n, size in zip(("train", "val", "test"), full, sizes, strict=True)
    }


def class_world(name: str, scale: Scale, seed: int, floor: float, rows: dict[str, int] | None = None) -> ClassWorld:
    """Draw places and classes of a stand-in; ``floor`` is the share w of every range that is the same everywhere.

    ``rows`` of train, val and test take the place of the usual numbers (calibration needs few).
    """
    spec, world = CLASS_SPECS[name], World(seed)
    rows = rows or class_rows(name, scale)
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
    posterior = fit_posterior(ranges, frequencies, lonlat, dtype)
    target = {split: draw_classes(posterior, places[split], stream(f"classes {split}")) for split in ("train", "val")}
    if per_class:
        equal = torch.full((classes,), 1 / classes, dtype=torch.float64)
        even = fit_posterior(ranges, equal, places["test"], dtype)
        places["test"], target["test"], truth = draw_balanced(even, places["test"], per_class, stream("classes test"))
        sites["test"] = torch.full((len(places["test"]),), -1)
    else:
        target["test"], truth = draw_classes(posterior, places["test"], stream("classes test")), posterior
    return ClassWorld(places, sites, target, genus, truth)


def _class_task(name: str, scale: Scale, seed: int) -> Task:
    info, spec, fitted = DATASETS[name], CLASS_SPECS[name], calibration(name, scale)
    drawn = class_world(name, scale, seed, fitted.floor)
    classes = spec.classes[scale]
    tables: dict[str, Table] = {}
    ceiling: dict[str, float] = {}
    for split, missing in zip(("train", "val", "test"), spec.missing, strict=True):
        stream = partial(random_stream, seed, name, scale, split)
        target, n = drawn.target[split], len(drawn.target[split])
        lonlat = drawn.lonlat[split].clone()
        lonlat[torch.from_numpy(stream("missing").random(n) < missing)] = torch.nan
        image: ImageInput = None
        if n and (spec.train_images or split != "train"):
            image, found = _class_images(drawn, split, lonlat, fitted.image, spec.sparse, stream("images"))
            ceiling = found or ceiling
        tables[split] = Table(
            lonlat=lonlat.float(),
            target=target,
            image=image,
            user=_users(n, spec.users, scale, stream("users")),
            date=_dates(target, classes, stream("dates")) if spec.dates else None,
            group=drawn.site[split] if spec.land_use else None,
        )
    meta = synthetic_meta(
        scale,
        seed,
        kind="classification",
        classes=_class_names(spec, drawn.genus),
        label_name=f"{info.label_name} (synthetic)",
        image_kind="probs",
        image_model="simulated, calibrated to the published accuracy",
        eval_split=info.eval_split,
        ceiling=ceiling,
        notes=_notes(info.title),
    )
    return Task(name, tables["train"], tables["val"], tables["test"], meta, drawn.truth)


def _class_images(
    drawn: ClassWorld,
    split: str,
    lonlat: Float[Tensor, "n 2"],
    model: ImageModel,
    sparse: bool,
    rng: np.random.Generator,
) -> tuple[ImageInput, dict[str, float]]:
    """Predictions for every row of a split, and what is possible on (the first 20,000 of) the test rows."""
    target, measure = drawn.target[split], split == "test"
    parts: list[ImageInput] = []
    hits: dict[str, list[Tensor]] = {name: [] for name in ("location", "image", "product", "both")}
    for draw in draw_images(model, target, drawn.genus, rng):
        stated = predictions(model, draw.logits)
        if sparse:
            parts.append(drop_small(stated))
            stated[stated < 1e-6] = 0
        else:
            parts.append(torch.from_numpy(stated))
        if measure and draw.rows.start < CEILING_ROWS:
            rows, y = lonlat[draw.rows], target[draw.rows]
            prior = drawn.truth(rows)
            said = torch.from_numpy(stated).to(prior.dtype)
            found = torch.from_numpy(evidence(model, draw.logits, drawn.genus))
            both = torch.softmax(torch.log(prior.clamp_min(1e-30)) + found, -1)
            hits["location"].append(prior[~rows.isnan().any(-1)].amax(-1))
            hits["image"].append(said.argmax(-1) == y)
            hits["product"].append((said * prior).argmax(-1) == y)
            hits["both"].append(both.amax(-1))
    ceiling = {f"{name}_top1": round(float(torch.cat(h).double().mean()), 4) for name, h in hits.items() if h}
    return concatenate_images(parts), ceiling


def _value_task(name: str, scale: Scale, seed: int) -> Task:
    info, spec, world = DATASETS[name], VALUE_SPECS[name], World(seed)
    stream = partial(random_stream, seed, name, scale)
    truth = build_truth(name, spec, world, seed)
    n = spec.rows if scale == "full" else VALUE_ROWS[scale]
    lonlat = (
        surveyed_places(n, world, stream("places"))
        if spec.countries
        else land_places(n, stream("places"), spec.lat_range)
    )
    field = truth.field(lonlat)
    latent = field + truth.noise * torch.from_numpy(stream("noise").standard_normal(n))
    truth = ValueTruth(truth.field, truth.noise, Marginal(latent, spec.quantiles))
    label = truth.marginal(latent)
    location_r2 = explained_share(truth, field)
    extra: dict[str, Any] = {}
    ceiling = {"location_r2": location_r2, "image_r2": spec.image_r2}
    if truth.field.countries is not None:
        countries = truth.field.countries
        group = countries.of(lonlat)
        year = torch.from_numpy(stream("year").integers(1996, 2020, n))
        extra = {"group": group, "year": year}
        image: ImageInput = night_lights(label, year, spec, stream("image"))
        certain = 1 / (1 - location_r2) + spec.image_r2 / (1 - spec.image_r2)
        ceiling["both_r2"] = 1 - 1 / certain
        test = torch.isin(group, countries.test)
        val = torch.isin(group, countries.val)
    else:
        scores, ceiling["both_r2"] = image_scores(label, truth.given_field(field), location_r2, spec, stream("image"))
        generated = GeneratedRows(scores, FEATURES[scale], stream("mixing"))
        image = LazyRows(generated) if scale == "full" else torch.from_numpy(generated[:])
        test = torch.zeros(n, dtype=torch.bool)
        test[torch.from_numpy(stream("split").permutation(n)[: round(0.2 * n)])] = True
        val = torch.zeros(n, dtype=torch.bool)
    whole = Table(lonlat=lonlat.float(), target=label.float(), image=image, **extra)
    meta = synthetic_meta(
        scale,
        seed,
        kind="regression",
        groups=truth.field.countries.names if truth.field.countries is not None else (),
        label_name=f"{info.label_name} (synthetic)",
        label_unit=info.label_unit,
        label_transform=info.label_transform if not spec.countries else "standard normal",
        image_kind="scalar" if spec.countries else "feats",
        image_model="simulated, calibrated to the published R² without location",
        eval_split=info.eval_split,
        ceiling={key: round(value, 4) for key, value in ceiling.items()},
        notes=_notes(info.title),
    )
    return Task(name, whole.where(~test & ~val), whole.where(val), whole.where(test), meta, truth)


def _users(n: int, users: int, scale: Scale, rng: np.random.Generator) -> Int[Tensor, " n"]:
    """Photographers, few of whom take most photographs; -1 where the dataset does not know them."""
    if users == 0:
        return torch.full((n,), -1)
    count = users if scale == "full" else max(1, min(users, {"tiny": 50, "small": 500}[scale]))
    cumulative = np.cumsum(1 / (np.arange(count) + 5.0))
    return torch.from_numpy(np.searchsorted(cumulative, rng.random(n) * cumulative[-1]).clip(max=count - 1))


def _dates(target: Int[Tensor, " n"], classes: int, rng: np.random.Generator) -> Float[Tensor, " n"]:
    """Fractions of the year: half of the rows around a season of their class, the others at any time."""
    season = random_stream("season", classes).random(classes)[target.numpy()]
    around = (season + 0.1 * rng.standard_normal(len(target))) % 1
    date = np.where(rng.random(len(target)) < 0.5, around, rng.random(len(target)))
    return torch.from_numpy(np.floor(date * 1e5) / 1e5).float()


def _class_names(spec: ClassSpec, genus: NDArray[np.int64]) -> tuple[str, ...]:
    if spec.land_use:
        return tuple(f"land use {i}" for i in range(len(genus)))
    first = np.searchsorted(genus, genus)
    return tuple(f"genus {g} species {i - f}" for i, (g, f) in enumerate(zip(genus, first, strict=True)))


def _notes(title: str) -> tuple[str, ...]:
    return (
        f"Synthetic stand-in of {title}: generated rows with its schema and statistics. "
        f"Results on it are no results on {title}.",
    )
