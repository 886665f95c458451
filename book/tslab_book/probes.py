"""What can be read off an encoding: land and sea, drawn by one linear layer or by a small network.

Land and sea make a good test pattern: real, known everywhere, with large and small forms, and crossing the
date line and both poles. A probe sees the answer at some random places and then draws the whole map. The
chapters on encoders use it to show what an encoding makes easy, what it makes hard and what no network behind
it can repair.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tslab.coords import sample_sphere
from tslab.diagnostics import Encoder, encodings
from tslab.earth import is_land

PENALTIES = tuple(10.0**e for e in range(-12, 1))
"""Ridge penalties to choose from, relative to the largest eigenvalue of the Gram matrix."""


@dataclass(frozen=True)
class LinearProbe:
    """One linear layer on an encoding, fitted to land (1) and sea (0); make one with `fit_linear_probe`.

    Attributes:
        encoder: the encoder that was probed.
        weights: (d,) float64.
        bias: a number.
        penalty: the ridge penalty that did best on places held out for the choice.
        accuracy: share of fresh random places that are told right (threshold 1/2).
        always_sea: the same for the answer "sea" everywhere.
    """

    encoder: Encoder
    weights: Float[Tensor, " d"]
    bias: float
    penalty: float
    accuracy: float
    always_sea: float

    def __call__(self, lonlat: Float[Tensor, "n 2"], *, encoder: Encoder | None = None) -> Float[Tensor, " n"]:
        """The drawn map at places: about 1 on land, 0 at sea. ``encoder`` puts another one before the same weights."""
        return encodings(encoder or self.encoder, lonlat) @ self.weights + self.bias


def land_and_sea(n: int, *, seed: int = 0) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
    """``n`` places drawn uniformly from the sphere (float64 degrees) and whether they are land (1) or sea (0)."""
    places = sample_sphere(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return places, is_land(places).double()


def fit_linear_probe(
    encoder: Encoder, *, n: int = 3000, seed: int = 0, penalties: Sequence[float] = PENALTIES
) -> LinearProbe:
    """Fit one linear layer to land and sea at ``n`` random places, by ridge regression in closed form.

    w = argmin |X w - y|^2 + p s |w|^2 over centred features X, s the largest eigenvalue of X^T X. The penalty
    p is the one with the highest accuracy on n other places; `LinearProbe.accuracy` is measured on 2 n places
    that neither step has seen.
    """
    places, land = land_and_sea(n, seed=3 * seed)
    features = encodings(encoder, places)
    mean, share = features.mean(0), land.mean()
    values, vectors = torch.linalg.eigh((features - mean).T @ (features - mean))
    target = vectors.T @ ((features - mean).T @ (land - share))
    values = values.clamp_min(0)

    check, check_land = land_and_sea(n, seed=3 * seed + 1)
    check_features = encodings(encoder, check) - mean
    solutions = torch.stack([vectors @ (target / (values + p * values[-1])) for p in penalties], dim=-1)
    right = ((check_features @ solutions + share > 0.5) == (check_land[:, None] > 0.5)).double().mean(0)
    best = int(right.argmax())
    weights = solutions[:, best]

    fresh, fresh_land = land_and_sea(2 * n, seed=3 * seed + 2)
    bias = float(share - mean @ weights)
    drawn = encodings(encoder, fresh) @ weights + bias
    accuracy = float(((drawn > 0.5) == (fresh_land > 0.5)).double().mean())
    return LinearProbe(encoder, weights, bias, penalties[best], accuracy, float(1 - fresh_land.mean()))


@dataclass(frozen=True)
class Training:
    """How a network learned land and sea; made by `train_on_land`.

    Attributes:
        steps: the steps at which a picture was taken.
        pictures: (pictures, n) float32, P(land) at the places asked for.
        accuracy: at each picture, share of 4,000 fresh random places told right.
    """

    steps: list[int]
    pictures: Float[Tensor, "s n"]
    accuracy: list[float]


def train_on_land(
    model: nn.Module,
    places: Float[Tensor, "n 2"],
    *,
    steps: Sequence[int] = (0, 30, 100, 300),
    n_train: int = 3000,
    learning_rate: float = 3e-3,
    batch_size: int = 512,
    seed: int = 0,
) -> Training:
    """Train a model with one output (the logit of land) on random places, and draw ``places`` at the given ``steps``.

    Adam on the binary cross-entropy; the learning rate falls to zero along a half cosine. The model is
    changed in place and left in evaluation mode. Runs in float32 on the CPU.
    """
    examples, land = land_and_sea(n_train, seed=3 * seed)
    fresh, fresh_land = land_and_sea(4000, seed=3 * seed + 2)
    examples, land, asked = examples.float(), land.float(), places.float()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    pictures, accuracy = [], []

    def look() -> None:
        model.eval()
        with torch.no_grad():
            pictures.append(torch.sigmoid(model(asked)).squeeze(-1))
            right = (model(fresh.float()).squeeze(-1) > 0) == (fresh_land > 0.5)
            accuracy.append(float(right.double().mean()))
        model.train()

    last = max(steps)
    for step in range(last + 1):
        if step in steps:
            look()
        if step == last:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / last))
        rows = torch.randint(len(examples), (batch_size,), generator=generator)
        loss = nn.functional.binary_cross_entropy_with_logits(model(examples[rows]).squeeze(-1), land[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    return Training(sorted(set(steps)), torch.stack(pictures), accuracy)
