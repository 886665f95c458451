"""Synthetic stand-ins of the seven classification datasets.

Each stand-in is drawn from a model whose every probability is known, so the best possible accuracy is known too:

- *where a class lives*: r_c(x) = w / 4 pi + (1 - w) n_c(x) mean_b vMF(x; mu_cb, kappa_cb), up to four bumps of 13°
  to 0.8° and a climatic niche n_c; for land use (fMoW) r_c(x) is log-linear in relief, climate and settlement;
- *which class stands at a place*: P(c | x) proportional to beta_c r_c(x), with beta fitted so that classes are as
  frequent as they should be;
- *what an image model says*: logits L ~ N(0, 1) for every class, raised by s ~ N(s_0, v²) at the true class and by g
  at the other classes of its genus, nothing raised for a share q of bad images; the stored prediction is
  softmax(t h(L)), with h(L) = L except for unlikely classes among thousands (`fade_tail`).

(s_0, v, g, q, t) are calibrated to the published accuracy of the image models, w to the published gain from location
(by ``data_scripts/make_synthetic.py --calibrate``). Members of a genus look alike; in four of five genera they live
apart, so there location helps.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from tslab.coords import has_location, unit_vectors
from tslab.synthetic.world import World, scatter

BUMPS = 4
APART = 0.8
KAPPA_RANGE = (20.0, 5000.0)
SMALLEST_PROBABILITY = 1e-6
REFERENCE_PLACES = 2000
CHUNK = 8_000_000
"""Numbers that are worked on at once: bounds the memory at every scale."""


NO_FADE = -100.0
"""A logit below which nothing lies."""

FADE_SLOPE = 5.0


@dataclass(frozen=True)
class ImageModel:
    """What the image model of a stand-in sees, see the module's first paragraph.

    ``signal``, ``spread``, ``genus``, ``bad`` and ``sharpness`` are s_0, v, g, q and t. Below ``fade`` the stated
    logits fall off `FADE_SLOPE` times as fast: among thousands of classes nearly all get a probability below 1e-6,
    which is why sparse files can hold them.
    """

    signal: float
    spread: float
    genus: float
    bad: float
    sharpness: float
    fade: float = NO_FADE


class Ranges:
    """Ranges of classes: bumps on the sphere, a climatic niche, and a floor that is the same everywhere."""

    def __init__(
        self,
        world: World,
        genus: NDArray[np.int64],
        homes: Float[Tensor, "h 2"],
        floor: float,
        rng: np.random.Generator,
    ) -> None:
        """``homes`` are places of the dataset; bumps stand around some of them. ``floor`` is w."""
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
        fields = torch.stack(
            [world.relief(xyz), world.temperature(xyz), world.moisture(xyz), world.settlement(xyz)], -1
        )
        return torch.exp(4 * (1 - self.floor) / 2 * torch.tanh(fields / 2) @ self.preference.T).to(xyz.dtype)


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
    return (
        pool[at.flatten()[order]],
        target,
        ClassPosterior(posterior.ranges, beta / beta.sum(), equal, posterior.dtype),
    )


@dataclass(frozen=True)
class ImageDraw:
    """Some rows of what the image model saw: the logits of every class."""

    rows: slice
    logits: NDArray[np.float32]


def draw_images(
    model: ImageModel, target: Int[Tensor, " n"], genus: NDArray[np.int64], rng: np.random.Generator
) -> Iterator[ImageDraw]:
    """Logits, a chunk of rows at a time."""
    classes = len(genus)
    y = target.numpy()
    step = max(1, CHUNK // classes)
    for start in range(0, len(y), step):
        part = slice(start, min(start + step, len(y)))
        true = y[part]
        row = np.arange(len(true))
        logits = rng.standard_normal((len(true), classes), dtype=np.float32)
        seen = rng.random(len(true)) >= model.bad
        raised = model.signal + model.spread * rng.standard_normal(len(true))
        own = logits[row, true]
        raise_genus(logits, true, genus, np.where(seen, model.genus, 0).astype(np.float32))
        logits[row, true] = own + np.where(seen, raised, 0)
        yield ImageDraw(part, logits)


def raise_genus(
    logits: NDArray[np.float32], true: NDArray[np.int64], genus: NDArray[np.int64], amount: NDArray[np.float32]
) -> None:
    """Add ``amount`` (one number a row) to the logits of all classes of the true class's genus, in place."""
    first = np.searchsorted(genus, genus)[true]
    size = np.bincount(genus)[genus[true]]
    for k in range(int(size.max(initial=0))):
        rows = np.flatnonzero(k < size)
        logits[rows, first[rows] + k] += amount[rows]


def evidence(model: ImageModel, logits: NDArray[np.float32], genus: NDArray[np.int64]) -> NDArray[np.float32]:
    """The log-likelihood ratio of every class, ln p(L | c) / p(L | no signal): with d = L_c - s_0,

        ln [ q + (1 - q) exp( -ln(1 + v²)/2 - d² / 2(1 + v²) + L_c²/2 + g sum_{k in genus, k != c} (L_k - g/2) ) ],

    which is all that the image says about the class: Bayes' rule with it is the best any model can do.
    """
    size, width = np.bincount(genus), 1 + model.spread**2
    in_genus = np.add.reduceat(logits, np.r_[0, np.cumsum(size)[:-1]], axis=1)[:, genus]
    genus_term = model.genus * (in_genus - logits - (size[genus] - 1) * model.genus / 2)
    good = -0.5 * math.log(width) - (logits - model.signal) ** 2 / (2 * width) + logits**2 / 2 + genus_term
    return np.logaddexp(math.log(max(model.bad, 1e-30)), math.log1p(-model.bad) + good).astype(np.float32)


def fade_tail(logits: NDArray[Any], fade: float) -> NDArray[Any]:
    """h(L): L itself down to ``fade``, falling `FADE_SLOPE` times as fast below it."""
    if fade <= NO_FADE:
        return logits
    fade = logits.dtype.type(fade)
    return np.minimum(logits, fade + logits.dtype.type(FADE_SLOPE) * (logits - fade))


def predictions(model: ImageModel, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the image model states: softmax(t h(L)), with h from `fade_tail`."""
    faded = fade_tail(logits, model.fade)
    scaled = model.sharpness * (faded - faded.max(axis=1, keepdims=True))
    np.exp(scaled, out=scaled)
    return (scaled / scaled.sum(axis=1, keepdims=True)).astype(np.float32)


def drop_small(stated: NDArray[np.float32]) -> sp.csr_array:
    """A sparse matrix of predictions without the entries below 1e-6, as the released files hold them."""
    return sp.csr_array(np.where(stated >= SMALLEST_PROBABILITY, stated, np.float32(0)))
