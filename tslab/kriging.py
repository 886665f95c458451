"""Kriging: neighbours weighted by how labels covary, and an encoder stacked with it.

A nearest-neighbour average knows that near places are alike; `LocalKriging` does that properly and is the strongest
baseline of places here. `train_stack` asks how much an encoder knows beyond it: it weighs both by how well they predict
training rows that they have not seen.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tslab._checks import check_count, check_finite, check_number
from tslab.baselines import NeighborAverage, SphereNeighbors
from tslab.coords import EARTH_RADIUS_KM, lonlat_from_unit_vectors
from tslab.metrics import r2
from tslab.tasks.splits import block_folds
from tslab.tasks.table import Table
from tslab.tasks.task import Task
from tslab.training import Run, train
from tslab.training.config import check_task

LENGTHS_KM = (100.0, 300.0, 1000.0, 3000.0)
NUGGETS = (0.02, 0.1, 0.3, 1.0)


class LocalKriging(NeighborAverage):
    """Ordinary kriging from the k nearest training places, with the covariance exp(-d / L) and a nugget: an average of
    neighbours with other weights.

    The weights w of the neighbours solve (K + g I) w + m 1 = c with sum w = 1, K_ij = exp(-d_ij / L), c_i =
    exp(-d_i / L), g the nugget: the best linear unbiased prediction if labels covary like that around an
    unknown local mean. L and g are chosen by leaving out training places, one at a time or fold by fold, if they are
    not given.

    Args:
        table: training rows; those without a location are left out.
        k: number of neighbours.
        length_km: L, or None to choose it from `LENGTHS_KM`.
        nugget: g, or None to choose it from `NUGGETS`.
        folds: fold of each row, to choose by leaving out whole folds. Blocks of the Earth as folds choose for
            regions without data; one place at a time (None) chooses for gaps between known places.
        seed: of the places that are left out to choose.

    Raises:
        ValueError: an argument out of its range, fewer than three located rows, or equations without a solution
            (places that coincide, without a nugget).

    Source: Cressie, Statistics for Spatial Data, 1993, section 3.2.
    """

    def __init__(
        self,
        table: Table,
        *,
        k: int = 32,
        length_km: float | None = None,
        nugget: float | None = None,
        folds: Int[Tensor, " n"] | None = None,
        seed: int = 0,
    ) -> None:
        check_count("k", k)
        check_count("seed", seed, at_least=0)
        if length_km is not None:
            check_number("length_km", length_km, above=0)
        if nugget is not None:
            check_number("nugget", nugget, at_least=0)
        located = table.where(table.has_location)
        if len(located) < 3:
            raise ValueError(f"kriging needs at least three rows with a location, this table has {len(located)}")
        check_finite("the label", located.target, table.has_location.nonzero()[:, 0])
        folds = None if folds is None else _check_folds(folds, table)
        self.neighbors = SphereNeighbors(located.lonlat, min(k, len(located) - 1))
        self.xyz = torch.from_numpy(self.neighbors.xyz)
        label = located.target.double().cpu()
        self.mean = float(label.mean())
        self.label = label - self.mean
        self.length_km, self.nugget = self._choose(length_km, nugget, folds, seed)

    def average(self, distance: Float[Tensor, "n k"], index: Int[Tensor, "n k"]) -> Float[Tensor, " n"]:
        return self._krige(distance, index, self.length_km, self.nugget) + self.mean

    def _krige(
        self, distance: Float[Tensor, "n k"], index: Int[Tensor, "n k"], length_km: float, nugget: float
    ) -> Float[Tensor, " n"]:
        parts = []
        for d, i in zip(distance.split(4096), index.split(4096), strict=True):
            places = self.xyz[i]
            chord = torch.cdist(places, places)
            between = 2 * EARTH_RADIUS_KM * torch.asin((chord / 2).clamp(max=1))
            covariance = torch.exp(-between / length_km) + nugget * torch.eye(i.shape[1], dtype=torch.float64)
            factor, failed = torch.linalg.cholesky_ex(covariance)
            if bool(failed.any()):
                where = f"neighbours coincide around located row {int(i[failed.nonzero()[0, 0], 0])}"
                hint = "pass a nugget above 0, such as 0.02, or average the labels of equal places first"
                raise ValueError(f"kriging equations have no solution with nugget={nugget:g}: {where}; {hint}")
            right = torch.stack([torch.exp(-d / length_km), torch.ones_like(d)], dim=-1)
            solved = torch.cholesky_solve(right, factor)
            weight, ones = solved.unbind(-1)
            weight = weight + ones * ((1 - weight.sum(1)) / ones.sum(1))[:, None]
            parts.append((weight * self.label[i]).sum(1))
        return torch.cat(parts)

    def _choose(
        self, length_km: float | None, nugget: float | None, folds: Int[Tensor, " n"] | None, seed: int
    ) -> tuple[float, float]:
        if length_km is not None and nugget is not None:
            return length_km, nugget
        asked = torch.randperm(len(self.label), generator=torch.Generator().manual_seed(seed))[:2000]
        if folds is None:
            distance, index = (part[asked] for part in self.neighbors.query_self())
        else:
            distance, index = neighbors_in_other_folds(self.neighbors, folds, asked)
        lengths = LENGTHS_KM if length_km is None else (length_km,)
        nuggets = NUGGETS if nugget is None else (nugget,)

        def error(choice: tuple[float, float]) -> float:
            predicted = self._krige(distance, index, *choice)
            return float(((predicted - self.label[asked]) ** 2).mean())

        return min(((length, g) for length in lengths for g in nuggets), key=error)


def neighbors_in_other_folds(
    neighbors: SphereNeighbors, folds: Int[Tensor, " n"], asked: Int[Tensor, " m"]
) -> tuple[Float[Tensor, "m k"], Int[Tensor, "m k"]]:
    """(distance in km, row) of the k nearest places of each row ``asked`` that lie in another fold than itself.

    Fewer than k where the other folds hold no more than that.
    """
    lonlat = lonlat_from_unit_vectors(torch.from_numpy(neighbors.xyz))
    k = min(neighbors.k, len(folds) - int(torch.bincount(folds).max()) - 1)
    distance = torch.empty((len(asked), k), dtype=torch.float64)
    index = torch.empty((len(asked), k), dtype=torch.long)
    for fold in folds[asked].unique():
        inside, seen = folds[asked] == fold, (folds != fold).nonzero()[:, 0]
        near, row = SphereNeighbors(lonlat[seen], k).query(lonlat[asked[inside]])
        distance[inside], index[inside] = near, seen[row]
    return distance, index


def _check_folds(folds: Int[Tensor, " n"], table: Table) -> Int[Tensor, " m"]:
    """Folds of the located rows; each leaves at least two other rows to predict from."""
    folds = torch.as_tensor(folds, device=table.device)
    if folds.shape != (len(table),) or folds.is_floating_point() or (len(folds) and int(folds.min()) < 0):
        got = f"{folds.dtype} of shape {tuple(folds.shape)}"
        raise ValueError(f"folds must be a whole number from 0 for each of the {len(table)} rows, got {got}")
    folds = folds[table.has_location].long().cpu()
    if len(folds) - int(torch.bincount(folds).max()) < 2:
        raise ValueError("nearly all rows lie in one fold, nothing is left to predict them from; use smaller blocks")
    return folds


@dataclass(frozen=True)
class StackedRegressor:
    """a f(x) + (1 - a) g(x): f the mean of encoder models trained on different folds, g the kriged labels.

    Attributes:
        runs: one run for each fold.
        kriging: of the labels, over all training rows.
        weight: a, in [0, 1].
        fold_r2: R^2 of encoder, kriging and both on training rows that they have not seen.
    """

    runs: tuple[Run, ...]
    kriging: LocalKriging
    weight: float
    fold_r2: dict[str, float]

    def encoders(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        """What the encoders alone say: f."""
        with torch.inference_mode():
            return torch.stack([run.model(lonlat) for run in self.runs]).double().mean(0)

    def predict(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        return self.weight * self.encoders(lonlat) + (1 - self.weight) * self.kriging.predict(lonlat)


def train_stack(
    task: Task,
    encoder: str = "sphere2vec_sphereC+",
    *,
    folds: int = 3,
    block_degrees: float | None = None,
    seed: int = 0,
    k: int = 32,
    build: Callable[..., Run] = train,
    **options: Any,
) -> StackedRegressor:
    """Train an encoder on a regression task without images once for each fold, and stack it with kriging.

    For each fold, encoder and kriging predict rows that neither has seen; the weight a minimises the squared error of
    a f + (1 - a) g there. At a new place, f is the mean of all fold models and g uses all rows.

    Args:
        task: a regression task; only places are used.
        folds: number of folds, at least 2.
        block_degrees: make folds of blocks of this size, to choose the weight and the kriging's numbers for regions
            never seen; at random otherwise, for gaps between known places.
        seed: of folds and trainings.
        k: neighbours of the kriging.
        build: what trains one model, for tests.
        **options: of `tslab.train`.

    Raises:
        ValueError: an argument out of its range, a task of classes, or too few rows for the folds.
    """
    check_task(task)
    check_count("folds", folds, at_least=2)
    check_count("seed", seed, at_least=0)
    check_count("k", k)
    if task.meta.kind != "regression":
        raise ValueError(f"train_stack predicts numbers, and {task.name} has classes; use tslab.train")
    table = task.train.where(task.train.has_location)
    if len(table) < 3 * folds:
        needed = f"{folds} folds need at least {3 * folds}"
        raise ValueError(f"{task.name} has {len(table)} training rows with a location; {needed}")
    if block_degrees is None:
        fold = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed)).argsort() % folds
    else:
        fold = block_folds(table.lonlat, folds, size_degrees=block_degrees, seed=seed)
    size = torch.bincount(fold, minlength=folds)
    if int(size.min()) == 0 or len(table) - int(size.max()) < 3:
        sizes = ", ".join(map(str, size.tolist()))
        raise ValueError(f"folds have {sizes} rows; use smaller blocks, fewer folds, or block_degrees=None")
    kriging = LocalKriging(table, k=k, folds=None if block_degrees is None else fold, seed=seed)
    label = table.target.double()
    by_encoder, by_kriging = torch.empty_like(label), torch.empty_like(label)
    runs = []
    for i in range(folds):
        seen, unseen = table.where(fold != i), fold == i
        runs.append(build(replace(task, train=seen), encoder, seed=seed * folds + i, fusion="none", **options))
        with torch.inference_mode():
            by_encoder[unseen] = runs[-1].model(table.lonlat[unseen]).double()
        part = LocalKriging(seen, k=k, length_km=kriging.length_km, nugget=kriging.nugget)
        by_kriging[unseen] = part.predict(table.lonlat[unseen])
    difference = by_encoder - by_kriging
    weight = float(((label - by_kriging) @ difference) / (difference @ difference).clamp_min(1e-30))
    weight = min(max(weight, 0.0), 1.0)
    both = weight * by_encoder + (1 - weight) * by_kriging
    scores = {"encoder": r2(by_encoder, label), "kriging": r2(by_kriging, label), "both": r2(both, label)}
    return StackedRegressor(tuple(runs), kriging, weight, scores)
