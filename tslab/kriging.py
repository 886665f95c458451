"""Kriging: neighbours weighted by how labels covary, and an encoder with the neighbours' residuals on top.

A nearest-neighbour average knows that near places are alike, an encoder knows what the world looks like at
every scale. `LocalKriging` does the first properly; `train_with_residuals` adds both: a location encoder for
the trend, and kriging of what it left over.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tslab.baselines import SphereNeighbors
from tslab.coords import EARTH_RADIUS_KM, has_location
from tslab.tasks.splits import block_folds
from tslab.tasks.task import Table, Task
from tslab.training import Run, train

LENGTHS_KM = (100.0, 300.0, 1000.0, 3000.0)
NUGGETS = (0.02, 0.1, 0.3, 1.0)


class LocalKriging:
    """Ordinary kriging from the k nearest training places, with the covariance exp(-d / L) and a nugget.

    The weights w of the neighbours solve (K + g I) w + m 1 = c with sum w = 1, K_ij = exp(-d_ij / L), c_i =
    exp(-d_i / L), g the nugget: the best linear unbiased prediction if labels covary like that around an
    unknown local mean. L and g are chosen by leaving out training places one at a time, if they are not given.

    Args:
        table: training rows; those without a location are left out.
        k: number of neighbours.
        length_km: L, or None to choose it from `LENGTHS_KM`.
        nugget: g, or None to choose it from `NUGGETS`.
        seed: of the places that are left out to choose.

    Source: Cressie, Statistics for Spatial Data, 1993, section 3.2.
    """

    def __init__(
        self,
        table: Table,
        *,
        k: int = 32,
        length_km: float | None = None,
        nugget: float | None = None,
        seed: int = 0,
    ) -> None:
        located = table.where(table.has_location)
        self.neighbors = SphereNeighbors(located.lonlat, min(k, len(located) - 1))
        self.xyz = torch.from_numpy(self.neighbors.xyz)
        label = located.target.double().cpu()
        self.mean = float(label.mean())
        self.label = label - self.mean
        self.length_km, self.nugget = self._choose(length_km, nugget, seed)

    def predict(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        """Predictions (float64); the mean label for a missing place."""
        located = has_location(lonlat).cpu()
        out = torch.zeros(len(lonlat), dtype=torch.float64)
        distance, index = self.neighbors.query(lonlat.cpu()[located])
        out[located] = self._krige(distance, index, self.length_km, self.nugget)
        return (out + self.mean).to(lonlat.device)

    def _krige(
        self, distance: Float[Tensor, "n k"], index: Int[Tensor, "n k"], length_km: float, nugget: float
    ) -> Float[Tensor, " n"]:
        parts = []
        for d, i in zip(distance.split(4096), index.split(4096), strict=True):
            places = self.xyz[i]
            chord = torch.cdist(places, places)
            between = 2 * EARTH_RADIUS_KM * torch.asin((chord / 2).clamp(max=1))
            covariance = torch.exp(-between / length_km) + nugget * torch.eye(i.shape[1], dtype=torch.float64)
            right = torch.stack([torch.exp(-d / length_km), torch.ones_like(d)], dim=-1)
            solved = torch.cholesky_solve(right, torch.linalg.cholesky(covariance))
            weight, ones = solved.unbind(-1)
            weight = weight + ones * ((1 - weight.sum(1)) / ones.sum(1))[:, None]
            parts.append((weight * self.label[i]).sum(1))
        return torch.cat(parts)

    def _choose(self, length_km: float | None, nugget: float | None, seed: int) -> tuple[float, float]:
        if length_km is not None and nugget is not None:
            return length_km, nugget
        distance, index = self.neighbors.query_self()
        some = torch.randperm(len(distance), generator=torch.Generator().manual_seed(seed))[:2000]
        lengths = LENGTHS_KM if length_km is None else (length_km,)
        nuggets = NUGGETS if nugget is None else (nugget,)

        def error(choice: tuple[float, float]) -> float:
            predicted = self._krige(distance[some], index[some], *choice)
            return float(((predicted - self.label[some]) ** 2).mean())

        return min(((length, g) for length in lengths for g in nuggets), key=error)


@dataclass(frozen=True)
class ResidualRegressor:
    """The mean of encoder models trained on different folds, plus the kriged residuals that they left on the
    rows they did not see.

    Attributes:
        runs: one run for each fold.
        residuals: kriging of the residuals.
    """

    runs: tuple[Run, ...]
    residuals: LocalKriging

    def trend(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        """What the encoders alone say."""
        with torch.inference_mode():
            return torch.stack([run.model(lonlat) for run in self.runs]).double().mean(0)

    def predict(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        return self.trend(lonlat) + self.residuals.predict(lonlat)


def train_with_residuals(
    task: Task,
    encoder: str = "sphere2vec_sphereC+",
    *,
    folds: int = 3,
    block_degrees: float | None = None,
    seed: int = 0,
    k: int = 32,
    build: Callable[..., Run] = train,
    **options: Any,
) -> ResidualRegressor:
    """Train an encoder on a regression task without images, once for each fold, and krige the residuals of
    the fold left out.

    Every training row thus has the residual of a model that has not seen it. What an encoder fits by heart
    leaves no such residual, and what it cannot resolve does.

    Args:
        task: a regression task; only places are used.
        folds: number of folds, at least 2.
        block_degrees: make folds of blocks of this size (for a test in regions never seen); at random otherwise.
        seed: of folds and trainings.
        k: neighbours of the kriging.
        build: what trains one model, for tests.
        **options: of `tslab.train`.
    """
    table = task.train
    if block_degrees is None:
        order = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))
        fold = torch.empty(len(table), dtype=torch.long)
        fold[order] = torch.arange(len(table)) % folds
    else:
        fold = block_folds(table.lonlat, folds, size_degrees=block_degrees, seed=seed)
    residual = torch.empty(len(table), dtype=table.target.dtype)
    runs = []
    for i in range(folds):
        part = replace(task, train=table.where(fold != i))
        run = build(part, encoder, seed=seed * folds + i, fusion="none", **options)
        with torch.inference_mode():
            predicted = run.model(table.lonlat[fold == i])
        residual[fold == i] = table.target[fold == i] - predicted.to(residual)
        runs.append(run)
    return ResidualRegressor(
        tuple(runs), LocalKriging(Table(lonlat=table.lonlat, target=residual), k=k, seed=seed)
    )
