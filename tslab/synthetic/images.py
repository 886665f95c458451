"""What the simulated image models of the classification stand-ins say.

Logits L ~ N(0, 1) for every class, raised by s ~ N(s_0, v²) at the true class and by g at the other classes of its
genus, nothing raised for a share q of bad images; the stored prediction is softmax(t h(L)), with h(L) = L except for
unlikely classes among thousands (`fade_tail`). (s_0, v, g, q, t) are calibrated to the published accuracy of the image
models (by ``data_scripts/make_synthetic.py --calibrate``).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

SMALLEST_PROBABILITY = 1e-6

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


@dataclass(frozen=True)
class ImageDraw:
    """Some rows of what the image model saw: the logits of every class."""

    rows: slice
    logits: NDArray[np.float32]


def draw_images(
    model: ImageModel, target: Int[Tensor, " n"], genus: NDArray[np.int64], rng: np.random.Generator
) -> Iterator[ImageDraw]:
    """Logits, a chunk of rows at a time."""
    step = max(1, CHUNK // len(genus))
    size, first = np.bincount(genus), np.searchsorted(genus, genus)
    for start in range(0, len(target), step):
        part = slice(start, min(start + step, len(target)))
        true = target.numpy()[part]
        row = np.arange(len(true))
        logits = rng.standard_normal((len(true), len(genus)), dtype=np.float32)
        seen = rng.random(len(true)) >= model.bad
        raised = model.signal + model.spread * rng.standard_normal(len(true))
        own = logits[row, true]
        for k in range(int(size.max())):
            rows = np.flatnonzero(seen & (k < size[genus[true]]))
            logits[rows, first[true[rows]] + k] += np.float32(model.genus)
        logits[row, true] = own + np.where(seen, raised, 0)
        yield ImageDraw(part, logits)


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
    """Predictions as the released files hold them: sparse, without entries below 1e-6, which are set to 0 in place."""
    stated[stated < SMALLEST_PROBABILITY] = 0
    return sp.csr_array(stated)
