"""Fitting the synthetic stand-ins to the published statistics: done once, stored, then only read.

``python data_scripts/make_synthetic.py --calibrate`` runs this and writes ``tslab/data/synthetic_calibration.json``,
so that the same generator version and seed always give the same rows.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from tslab.tasks.datasets import DATASETS
from tslab.tasks.synthetic import CLASS_SPECS, Scale, class_world
from tslab.tasks.synthetic_classes import ImageModel, draw_images, genera, predictions
from tslab.tasks.world import random_stream

ROWS = 1500
GAIN_ROWS = 3000
DECIMALS = 3

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
    model = fit_image_model(name, scale)
    return {**vars(model), "floor": fit_floor(name, scale, model)}


def fit_image_model(name: str, scale: Scale) -> ImageModel:
    """The image model whose accuracy and confidence are closest to the published ones (Nelder-Mead, fixed noise)."""
    classes = CLASS_SPECS[name].classes[scale]
    genus = genera(classes, random_stream("calibration", name, scale))
    targets = dict(DATASETS[name].no_prior)
    if classes < 50:
        targets.pop("top10")

    def loss(x: NDArray[np.float64]) -> float:
        found = simulate(_model(x), genus)
        score = sum((found[key] - target) ** 2 for key, target in targets.items())
        confidence = sum(
            (found[key] - p) ** 2 for key, p in zip(("p25", "p50", "p75"), CONFIDENCE[name], strict=True)
        )
        return float(1e4 * score + 60 * confidence)

    start = np.array([3.0 + 0.25 * np.log(classes), 1.0, 1.5, -3.0, np.log(2.5)])
    simplex = start + np.vstack([np.zeros(5), np.diag([0.8, 0.5, 0.8, 1.0, 0.5])])
    options = {"maxfev": 300, "xatol": 1e-3, "fatol": 1e-4, "initial_simplex": simplex}
    best = minimize(loss, start, method="Nelder-Mead", options=options)
    fitted = _model(best.x)
    return ImageModel(**{key: round(value, DECIMALS) for key, value in vars(fitted).items()})


def simulate(model: ImageModel, genus: NDArray[np.int64], rows: int = ROWS) -> Mapping[str, float]:
    """Accuracy and confidence of an image model on ``rows`` rows with fixed random numbers."""
    rng = random_stream("simulate", len(genus))
    target = torch.from_numpy(rng.integers(0, len(genus), rows))
    ranks, stated = [], []
    for draw in draw_images(model, target, genus, rng):
        y = target[draw.rows].numpy()
        own = draw.logits[np.arange(len(y)), y]
        ranks.append(1 + (draw.logits > own[:, None]).sum(1))
        stated.append(predictions(model, draw.logits)[np.arange(len(y)), y])
    rank, p = np.concatenate(ranks), np.concatenate(stated)
    found = {f"top{k}": float((rank <= k).mean()) for k in (1, 3, 10)}
    quartiles = np.quantile(p, [0.25, 0.5, 0.75])
    return (
        found
        | {"mrr": float((1 / rank).mean())}
        | dict(zip(("p25", "p50", "p75"), quartiles.tolist(), strict=True))
    )


def fit_floor(name: str, scale: Scale, model: ImageModel) -> float:
    """The floor w at which the true location prior raises the image model's accuracy by the wanted gain (bisection)."""
    wanted = CLASS_SPECS[name].gain
    low, high = 0.0, 1.0  # no floor: most information; all floor: none
    for _ in range(6):
        middle = (low + high) / 2
        if measured_gain(name, scale, model, middle) > wanted:
            low = middle
        else:
            high = middle
    return round((low + high) / 2, DECIMALS)


def measured_gain(
    name: str, scale: Scale, model: ImageModel, floor: float, seeds: tuple[int, ...] = (0, 1)
) -> float:
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


def _model(x: NDArray[np.float64]) -> ImageModel:
    """Parameters from unconstrained numbers."""
    bad = 1 / (1 + np.exp(-x[3]))
    return ImageModel(float(x[0]), float(abs(x[1])), float(abs(x[2])), float(bad), float(np.exp(x[4])))
