"""How much the split decides: the same rows and the same models, split at random and in blocks of growing size.

Two questions, one function each. `compare_splits` splits all rows anew for each block size and measures every model
on the rows held out. `compare_buffers` keeps one test set and takes away, step by step, the training rows around it.
Both ask what the location alone can tell, so image inputs are left aside. The chapter {ref}`splits` shows both, and
the record ``book/results/splits.csv`` holds what they found on the released MOSAIKS points
(``benchmarks/splits.py`` writes it).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from tslab.baselines import CoordinateTrees, NeighborAverage, SphereNeighbors
from tslab.evaluation import quick_metrics
from tslab.tasks.splits import buffered_leave_out, random_split
from tslab.tasks.table import concatenate
from tslab.tasks.task import Task

RANDOM = 0.0
"""The block size, in km, that stands for a random split."""

Fit = Callable[[Task, int], Any]


def fit_neighbors(task: Task, seed: int) -> NeighborAverage:
    """The plain average of the ten nearest training places; nothing in it is random."""
    return NeighborAverage(task.train, k=10, power=0)


def fit_trees(task: Task, seed: int) -> CoordinateTrees:
    """Gradient-boosted trees on longitude, latitude and the unit vector."""
    return CoordinateTrees(task.train, seed=seed, max_iter=400)


def fit_encoder(task: Task, seed: int) -> Any:
    """Sphere2Vec-sphereC+ (16 scales down to 0.01 radians, about 400 km) and a small network, ten passes."""
    from tslab.training import train

    network: dict[str, Any] = {"hidden_dim": 256, "num_scales": 16, "min_radius": 0.01}
    how: dict[str, Any] = {
        "epochs": 10,
        "lr": 2e-3,
        "batch_size": 512,
        "schedule": "cosine",
        "head": (256,),
        "head_dropout": 0.0,
    }
    return train(task, "sphere2vec_sphereC+", seed=seed, device="cpu", progress=False, **how, **network)


class TruthPredictor:
    """The best prediction there is, E[label | place]; synthetic tasks know it."""

    def __init__(self, task: Task) -> None:
        if task.truth is None:
            raise ValueError(f"nobody knows the truth of {task.name}; only synthetic tasks have one")
        self.predict = task.truth


def fit_truth(task: Task, seed: int) -> TruthPredictor:
    """No fitting at all: the truth of a synthetic task."""
    return TruthPredictor(task)


METHODS: dict[str, tuple[str, Fit]] = {
    "knn": ("Ten neighbours", fit_neighbors),
    "trees": ("Trees", fit_trees),
    "encoder": ("Encoder", fit_encoder),
}
"""Key -> name and how it is fitted, (task, seed) to something that `tslab.evaluate` takes."""


def compare_splits(
    task: Task,
    sizes_km: Sequence[float] = (RANDOM, 500.0, 1000.0, 2000.0, 4000.0),
    *,
    seeds: Sequence[int] = (0,),
    methods: Mapping[str, tuple[str, Fit]] = METHODS,
) -> pd.DataFrame:
    """R² of each method when 20 % of all rows are held out, in blocks of each size.

    Args:
        task: a regression task; its rows are pooled, rows without a location and image inputs left out.
        sizes_km: widths of equal-area blocks (`tslab.earth.spatial_blocks`); 0 splits at random.
        seeds: of the splits and of the methods.
        methods: see `METHODS`.

    Returns:
        one row per size, seed and method: size_km, seed, method, r2 on the held-out rows, nearest_km (median distance
        of a held-out place to the nearest training place), train, test (numbers of rows).
    """
    pooled = _pooled(task)
    rows = []
    for size in sizes_km:
        for seed in seeds:
            split = pooled.resplit((0.8, 0.0, 0.2), seed=seed, size_km=None if size == RANDOM else size)
            rows += [{"size_km": size, "seed": seed, **row} for row in _measure(split, seed, methods)]
    return pd.DataFrame(rows)


def compare_buffers(
    task: Task,
    radii_km: Sequence[float] = (0.0, 50.0, 100.0, 200.0, 400.0),
    *,
    seed: int = 0,
    size_km: float = 1000.0,
    methods: Mapping[str, tuple[str, Fit]] = METHODS,
) -> pd.DataFrame:
    """R² on one tenth of all rows, in blocks of ``size_km``, when training rows within a radius of them are left out.

    The test rows are the same for every radius. So that fewer rows are not mistaken for farther ones, every radius
    trains on as many rows as the largest one leaves, drawn at random.

    Returns:
        columns as of `compare_splits`, with radius_km in place of size_km.

    Raises:
        ValueError: the largest radius leaves no training rows.
    """
    split = _pooled(task).resplit((0.9, 0.0, 0.1), seed=seed, size_km=size_km)
    both = concatenate([split.train, split.test])
    test = torch.arange(len(split.train), len(both))
    kept = {radius: buffered_leave_out(both.lonlat, test, radius) for radius in radii_km}
    fewest = min(len(rows) for rows in kept.values())
    if not fewest:
        raise ValueError(f"a buffer of {max(radii_km):g} km leaves no training rows; use smaller radii")
    found = []
    for radius, rows in kept.items():
        chosen, _ = random_split(len(rows), (fewest / len(rows), 1 - fewest / len(rows)), seed=seed)
        part = replace(split, train=both.where(rows[chosen]))
        found += [{"radius_km": radius, "seed": seed, **row} for row in _measure(part, seed, methods)]
    return pd.DataFrame(found)


def _pooled(task: Task) -> Task:
    """The task with all rows that have a location in ``train``, without images."""
    if task.meta.kind != "regression":
        raise ValueError(f"{task.name} is a {task.meta.kind} task; the comparison of splits needs a regression task")
    whole = concatenate([replace(table, image=None) for table in task.tables.values()])
    whole = whole.where(whole.has_location)
    nothing = whole.where(torch.zeros(len(whole), dtype=torch.bool))
    return replace(task, train=whole, val=nothing, test=nothing, meta=replace(task.meta, image_kind="none"))


def _measure(split: Task, seed: int, methods: Mapping[str, tuple[str, Fit]]) -> Iterator[dict[str, Any]]:
    """One row per method, for one split."""
    distance, _ = SphereNeighbors(split.train.lonlat, 1).query(split.test.lonlat)
    same = {"nearest_km": float(distance.median()), "train": len(split.train), "test": len(split.test)}
    for key, (_, fit) in methods.items():
        model = fit(split, seed)
        r2 = quick_metrics(getattr(model, "model", model), split.test)["r2"]
        yield {"method": key, "r2": r2, **same}
