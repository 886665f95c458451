"""Fitting the synthetic stand-ins to the published statistics: done once, stored, then only read.

``python data_scripts/make_synthetic.py --calibrate`` runs this and writes ``tslab/data/synthetic_calibration.json``,
so that the same generator version and seed always give the same rows.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp, ndtri

from tslab._checks import check_choice
from tslab.synthetic.classes import class_world, genera
from tslab.synthetic.images import NO_FADE, ImageModel, draw_images, fade_tail, predictions
from tslab.synthetic.specs import CLASS_SPECS, calibration
from tslab.synthetic.world import random_stream
from tslab.tasks.datasets import DATASETS, SCALES, Scale

ROWS = 4000
GAIN_ROWS = 3000
DECIMALS = 3
MANY_CLASSES = 1000
LIKELY_CLASSES = 150
"""About so many classes keep their stated probability where there are more than `MANY_CLASSES`; the others fade."""

SHARPNESS_GRID = np.geomspace(0.2, 20, 64)

CONFIDENCE: dict[str, tuple[float, float, float]] = {
    "birdsnap": (0.24, 0.86, 0.99),
    "birdsnap_ebird": (0.24, 0.86, 0.99),
    "nabirds": (0.39, 0.90, 0.99),
    "inat2017": (0.06, 0.84, 1.0),
    "inat2018": (0.07, 0.49, 0.90),
    "yfcc": (0.04, 0.32, 0.89),
    "fmow": (0.04, 1.0, 1.0),
}
"""Quartiles of P(true class) of the released image predictions."""


def calibrate(name: str, scale: Scale) -> dict[str, float]:
    """Parameters of the image model and the floor w of one stand-in, rounded to three decimals."""
    check_choice("name", name, CLASS_SPECS)
    check_choice("scale", scale, SCALES)
    model = fit_image_model(name, scale)
    return {**vars(model), "floor": fit_floor(name, scale, model)}


def fit_image_model(name: str, scale: Scale) -> ImageModel:
    """The image model whose accuracy and confidence are closest to the published ones (Nelder-Mead, fixed noise)."""
    classes = CLASS_SPECS[name].classes[scale]
    simulation = Simulation(
        genera(classes, random_stream("calibration", name, scale)),
        random_stream("simulate", classes),
        fade=fade_of(classes),
    )
    targets = dict(DATASETS[name].no_prior)
    if classes < 50:
        targets.pop("top10")

    def loss(x: NDArray[np.float64]) -> float:
        found = simulation(_model(x, simulation.fade))
        score = sum((found[key] - target) ** 2 for key, target in targets.items())
        confidence = sum((found[key] - p) ** 2 for key, p in zip(("p25", "p50", "p75"), CONFIDENCE[name], strict=True))
        return float(1e4 * score + 60 * confidence)

    start = np.array([3.0 + 0.25 * np.log(classes), 1.0, 1.5, -3.0, np.log(2.5)])
    simplex = start + np.vstack([np.zeros(5), np.diag([0.8, 0.5, 0.8, 1.0, 0.5])])
    options = {"maxfev": 400, "xatol": 1e-3, "fatol": 1e-4, "initial_simplex": simplex}
    best = minimize(loss, start, method="Nelder-Mead", options=options)
    fitted = _model(best.x, simulation.fade)
    return ImageModel(**{key: round(value, DECIMALS) for key, value in vars(fitted).items()})


def fade_of(classes: int) -> float:
    """The logit below which stated probabilities fade, see `tslab.synthetic.images.ImageModel`."""
    return round(float(ndtri(1 - LIKELY_CLASSES / classes)), DECIMALS) if classes > MANY_CLASSES else NO_FADE


class Simulation:
    """Accuracy and confidence of any image model on the same rows and noise, fast for thousands of classes.

    Classes outside the true one's genus have logits that do not depend on the model, so they are drawn and sorted
    once: how many of them lie above the true class is a binary search, and the sum of their exp(t h(L)) is tabulated
    over t and interpolated (its logarithm is smooth in t).
    """

    def __init__(
        self,
        genus: NDArray[np.int64],
        rng: np.random.Generator,
        rows: int = ROWS,
        fade: float = NO_FADE,
    ) -> None:
        classes, row = len(genus), np.arange(rows)
        target = rng.integers(0, classes, rows)
        self.others = rng.standard_normal((rows, classes), dtype=np.float32)
        self.own = self.others[row, target].astype(np.float64)
        mates = genus_mates(genus)[target]
        real = mates >= 0
        self.mates = np.where(real, self.others[row[:, None], mates], -np.inf).astype(np.float64)
        self.others[row, target] = -np.inf
        self.others[np.broadcast_to(row[:, None], mates.shape)[real], mates[real]] = -np.inf
        self.others.sort(axis=1)
        self.luck, self.strength = rng.random(rows), rng.standard_normal(rows)
        self.fade = fade
        faded = fade_tail(self.others, fade)
        top = faded[:, -1:].copy()
        faded = faded - top
        sums = [np.exp(np.float32(t) * faded).sum(1, dtype=np.float64) for t in SHARPNESS_GRID]
        self.log_sums = SHARPNESS_GRID * top.astype(np.float64) + np.log(np.stack(sums, 1))

    def __call__(self, model: ImageModel) -> dict[str, float]:
        """top1, top3, top10, mrr, and the quartiles p25, p50, p75 of P(true class)."""
        seen = self.luck >= model.bad
        own = self.own + np.where(seen, model.signal + model.spread * self.strength, 0)
        mates = self.mates + np.where(seen, model.genus, 0)[:, None]
        above = [len(line) - np.searchsorted(line, x, side="right") for line, x in zip(self.others, own, strict=True)]
        rank = 1 + np.array(above) + (mates > own[:, None]).sum(1)
        t = float(np.clip(model.sharpness, SHARPNESS_GRID[0], SHARPNESS_GRID[-1]))
        at = min(int(np.searchsorted(SHARPNESS_GRID, t, side="right")) - 1, len(SHARPNESS_GRID) - 2)
        part = (t - SHARPNESS_GRID[at]) / (SHARPNESS_GRID[at + 1] - SHARPNESS_GRID[at])
        others = (1 - part) * self.log_sums[:, at] + part * self.log_sums[:, at + 1]
        true = t * fade_tail(own, model.fade)
        scores = np.concatenate([true[:, None], t * fade_tail(mates, model.fade), others[:, None]], 1)
        p = np.exp(true - logsumexp(scores, axis=1))
        found = {f"top{k}": float((rank <= k).mean()) for k in (1, 3, 10)}
        quartiles = np.quantile(p, [0.25, 0.5, 0.75]).tolist()
        return found | {"mrr": float((1 / rank).mean())} | dict(zip(("p25", "p50", "p75"), quartiles, strict=True))


def genus_mates(genus: NDArray[np.int64]) -> NDArray[np.int64]:
    """The other classes of each class's genus, (classes, largest genus - 1), filled up with -1."""
    size, first = np.bincount(genus), np.searchsorted(genus, genus)
    place = np.arange(size.max())
    members = first[:, None] + place
    mine = np.arange(len(genus))[:, None]
    mates = np.where((place < size[genus][:, None]) & (members != mine), members, -1)
    return -np.sort(-mates, axis=1)[:, : max(1, int(size.max()) - 1)]


def fit_floor(name: str, scale: Scale, model: ImageModel) -> float:
    """The floor w at which the true location prior raises the image model's accuracy by the wanted gain (bisection).

    Thousands of classes take the floor of scale small: how common each class is already adds more than the wanted
    gain there (8 points for iNat2017, wanted are 6.5), so no floor could reach it.
    """
    if scale == "full" and CLASS_SPECS[name].classes[scale] > MANY_CLASSES:
        return calibration(name, "small").floor
    wanted = CLASS_SPECS[name].gain
    seeds = (0,) if scale == "full" else (0, 1)
    low, high = 0.0, 1.0  # no floor: most information; all floor: none
    for _ in range(6):
        middle = (low + high) / 2
        if measured_gain(name, scale, model, middle, seeds) > wanted:
            low = middle
        else:
            high = middle
    return round((low + high) / 2, DECIMALS)


def measured_gain(name: str, scale: Scale, model: ImageModel, floor: float, seeds: tuple[int, ...] = (0, 1)) -> float:
    """Accuracy of prediction times true P(class | place), minus that of the prediction, on test rows of some seeds."""
    gains = []
    missing = CLASS_SPECS[name].missing[2]
    classes = CLASS_SPECS[name].classes[scale]
    rows = {"train": 0, "val": 0, "test": max(GAIN_ROWS, classes)}
    for seed in seeds:
        drawn = class_world(name, scale, seed, floor, rows)
        target, lonlat = drawn.target["test"][:GAIN_ROWS], drawn.lonlat["test"][:GAIN_ROWS].clone()
        rng = random_stream("gain", name, scale, seed)
        lonlat[torch.from_numpy(rng.random(len(lonlat)) < missing)] = torch.nan
        for draw in draw_images(model, target, drawn.genus, rng):
            y = target[draw.rows]
            stated = torch.from_numpy(predictions(model, draw.logits))
            prior = drawn.truth(lonlat[draw.rows])
            better = ((stated * prior).argmax(-1) == y).double() - (stated.argmax(-1) == y).double()
            gains.append(better)
    return float(torch.cat(gains).mean())


def _model(x: NDArray[np.float64], fade: float) -> ImageModel:
    """Parameters from unconstrained numbers."""
    bad = 1 / (1 + np.exp(-x[3]))
    return ImageModel(float(x[0]), float(abs(x[1])), float(abs(x[2])), float(bad), float(np.exp(x[4])), fade)
