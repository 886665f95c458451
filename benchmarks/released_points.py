"""Does a location encoder beat its baselines on real data? The released MOSAIKS points, random and block
splits, several seeds.

    TSLAB_MIRROR=... python benchmarks/released_points.py [--tasks elevation ...] [--seeds 1 2 3]
    TSLAB_MIRROR=... python benchmarks/released_points.py --trials

Every method sees the same rows. Each seed draws its own split (80 % training, 20 % test; at random, or in
blocks of 10 degrees) and its own weights. What a method can choose, it chooses on training rows, in the way
that its split asks for. Random: neighbours and kriging leave out one place at a time, the trees a tenth of
the rows, the stack a third. Block: all of them leave out the same five folds of blocks. The encoder's
hyper-parameters are fixed in this file, the same for all labels and seeds, one set for each split; they were
chosen on elevation with the split seeds 0 (random) and 100 (block), which are not in the table. What other
settings give there is what ``--trials`` computes.

Each finished (task, split, seed) is written to book/results/released_points.csv at once and not computed again.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import tslab
from tslab._files import atomic_path
from tslab.baselines import CoordinateTrees, NeighborAverage, SphereNeighbors
from tslab.evaluation import evaluate
from tslab.kriging import LocalKriging, neighbors_in_other_folds, train_stack
from tslab.metrics import mean_interval, r2
from tslab.tasks import Table, Task
from tslab.tasks.splits import block_folds

RESULTS = Path(__file__).resolve().parent.parent / "book" / "results"
TASKS = ("elevation", "forest_cover", "population")
BLOCK_DEG = 10.0
FOLDS = {"random": 3, "block": 5}

ENCODER = "sphere2vec_sphereC+"
NETWORK: dict[str, Any] = {
    **{"hidden_dim": 512, "activation": "gelu", "head": (256,), "head_dropout": 0.0, "num_scales": 16},
    **{"lr": 2e-3, "batch_size": 512, "schedule": "cosine"},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "random": NETWORK | {"min_radius": 0.01, "dropout": 0.1, "epochs": 10},
    "block": NETWORK | {"num_scales": 8, "min_radius": 0.1, "dropout": 0.1, "epochs": 3},
}
TRIALS: dict[str, list[dict[str, Any]]] = {
    "random": [
        *({"min_radius": radius} for radius in (0.1, 0.03, 0.001)),
        *({"hidden_dim": width} for width in (128, 1024)),
        *({"dropout": dropout} for dropout in (0.0, 0.3)),
        *({"epochs": epochs} for epochs in (3, 20)),
    ],
    "block": [
        *({"min_radius": radius} for radius in (0.5, 0.03, 0.01)),
        *({"hidden_dim": width} for width in (128, 1024)),
        *({"dropout": dropout} for dropout in (0.0, 0.3)),
        *({"epochs": epochs} for epochs in (1, 10)),
    ],
}
"""What ``--trials`` changes in `SETTINGS`, one thing at a time."""
TRIAL_SEEDS = {"random": 0, "block": 100}


class Predictor:
    """A function of places, as `tslab.evaluate` takes it."""

    def __init__(self, predict: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.predict = predict


Folds = torch.Tensor | None
"""The fold of each training row for methods that choose by leaving out folds, None on random splits."""


def folds_of(task: Task, split: str, seed: int) -> Folds:
    if split == "random":
        return None
    return block_folds(task.train.lonlat, FOLDS[split], size_degrees=BLOCK_DEG, seed=seed)


def best_neighbours(table: Table, folds: Folds) -> NeighborAverage:
    """The neighbour average with the smallest error on training places that are left out."""
    neighbors = SphereNeighbors(table.lonlat, 50)
    label = table.target.double()
    if folds is None:
        distance, index = neighbors.query_self()
    else:
        distance, index = neighbors_in_other_folds(neighbors, folds, torch.arange(len(label)))

    def error(k: int, power: float) -> float:
        weight = (distance[:, :k] + 1.0) ** -power  # as NeighborAverage, softened by a kilometre
        average = (weight * label[index[:, :k]]).sum(1) / weight.sum(1)
        return float(((average - label) ** 2).mean())

    choices = [(k, p) for k in (5, 10, 20, 50) for p in (0.0, 1.0, 2.0)]
    k, power = min(choices, key=lambda choice: error(*choice))
    return NeighborAverage(table, k=k, power=power)


def best_trees(table: Table, folds: Folds, seed: int) -> CoordinateTrees:
    """Trees that stop early on a tenth of the rows, or whose size and number are the best on left-out folds."""
    if folds is None:
        return CoordinateTrees(table, seed=seed)
    numbers = (25, 50, 100, 200, 400, 800)
    squared: dict[tuple[int, int], float] = {}
    for leaves in (15, 63):
        sums = torch.zeros(len(numbers), dtype=torch.float64)
        for fold in folds.unique():
            rest, out = table.where(folds != fold), table.where(folds == fold)
            options = {"max_iter": numbers[-1], "max_leaf_nodes": leaves, "early_stopping": False}
            trees = CoordinateTrees(rest, seed=seed, **options)
            stages = list(trees.trees.staged_predict(trees._features(out.lonlat)))
            for i, number in enumerate(numbers):
                sums[i] += ((torch.from_numpy(stages[number - 1]) - out.target.double()) ** 2).sum()
        squared |= {(leaves, number): float(total) for number, total in zip(numbers, sums, strict=True)}
    leaves, number = min(squared, key=lambda choice: squared[choice])
    return CoordinateTrees(table, seed=seed, max_iter=number, max_leaf_nodes=leaves, early_stopping=False)


def methods(task: Task, split: str, seed: int) -> Iterator[tuple[str, Any, str, float]]:
    """(name, fitted model, what was chosen, seconds), one after the other."""
    folds = folds_of(task, split, seed)

    def timed(fit: Callable[[], Any]) -> tuple[Any, float]:
        started = time.perf_counter()
        return fit(), time.perf_counter() - started

    model, seconds = timed(lambda: NeighborAverage(task.train, k=10, power=0.0))
    yield "knn10", model, "k=10, not weighted", seconds
    model, seconds = timed(lambda: best_neighbours(task.train, folds))
    yield "knn", model, f"k={model.neighbors.k}, power={model.power:g}", seconds
    model, seconds = timed(lambda: best_trees(task.train, folds, seed))
    yield "trees", model, f"{model.trees.n_iter_} iterations, {model.trees.max_leaf_nodes} leaves", seconds
    model, seconds = timed(lambda: LocalKriging(task.train, folds=folds, seed=seed))
    yield "kriging", model, f"L={model.length_km:g} km, nugget={model.nugget:g}", seconds
    number, blocks = FOLDS[split], BLOCK_DEG if split == "block" else None
    model, seconds = timed(
        lambda: train_stack(
            task, ENCODER, folds=number, block_degrees=blocks, seed=seed, progress=False, **SETTINGS[split]
        )
    )
    yield "encoder", Predictor(model.encoders), f"{ENCODER}, mean of {number} folds", seconds
    yield "encoder + kriging", model, f"weight of the encoder {model.weight:.2f}", seconds


def points(name: str, split: str, seed: int) -> Task:
    return tslab.load_task(f"mosaiks_{name}", source="released", seed=seed, split=split, fractions=(0.8, 0.0, 0.2))


def measure(name: str, split: str, seed: int) -> pd.DataFrame:
    """All methods on one task, split and seed."""
    task = points(name, split, seed)
    rows = []
    for method, model, chosen, seconds in methods(task, split, seed):
        metrics = evaluate(model, task.test).metrics
        shown = {k: metrics[k] for k in ("r2", "r2_low", "r2_high", "mae", "rmse", "mae_blocks")}
        where = {"task": f"mosaiks_{name}", "split": split, "seed": seed, "method": method}
        rows.append(
            {
                **where,
                **shown,
                "n_train": len(task.train),
                "n_test": len(task.test),
                "chosen": chosen,
                "seconds": seconds,
            }
        )
        print(
            f"{name:13s} {split:7s} {seed} {method:20s} R2 {metrics['r2']:.4f}  {chosen}  {seconds:.0f} s",
            flush=True,
        )
    return pd.DataFrame(rows)


def trials(name: str, split: str) -> pd.DataFrame:
    """One encoder with the settings of this file and with each change of `TRIALS`; no kriging, no folds."""
    seed = TRIAL_SEEDS[split]
    task = points(name, split, seed)
    rows = []
    for change in ({}, *TRIALS[split]):
        started = time.perf_counter()
        settings = SETTINGS[split] | change
        run = tslab.train(task, ENCODER, seed=seed, progress=False, **settings)
        with torch.inference_mode():
            value = r2(run.model(task.test.lonlat).double(), task.test.target.double())
        what = ", ".join(f"{k}={v:g}" for k, v in change.items()) or "as chosen"
        where = {"task": f"mosaiks_{name}", "split": split, "split_seed": seed, "change": what}
        shown = {k: settings[k] for k in ("num_scales", "min_radius", "hidden_dim", "dropout", "epochs")}
        rows.append({**where, **shown, "r2": value, "seconds": time.perf_counter() - started})
        print(f"{name} {split} {what:20s} R2 {value:.4f}", flush=True)
    return pd.DataFrame(rows)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Mean R2 over seeds, its standard deviation, and the gain over the best of knn, knn10 and trees, taken seed
    by seed, with a 95 % interval of its mean (`tslab.metrics.mean_interval`): the splits of the seeds share rows."""
    overlap = float((table["n_test"] / table["n_train"]).mean())
    wide = table.pivot_table(index=["task", "split", "seed"], columns="method", values="r2")
    gain = wide.sub(wide[["knn", "knn10", "trees"]].max(axis=1), axis=0)
    rows = []
    for (task, split), part in wide.groupby(["task", "split"]):
        for method in wide.columns:
            gains = gain.loc[part.index, method]
            mean, low, high = mean_interval(gains, overlap=overlap)
            interval = {"gain": mean, "gain_low": low, "gain_high": high}
            extremes = {"gain_min": gains.min(), "gain_max": gains.max(), "seeds": len(gains)}
            where = {"task": task, "split": split, "method": method}
            rows.append(where | {"r2": part[method].mean(), "sd": part[method].std()} | interval | extremes)
    return pd.DataFrame(rows)


def write(table: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--splits", nargs="+", default=["random", "block"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=RESULTS / "released_points.csv")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trials", action="store_true", help="other settings of the encoder, on elevation")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.trials:
        table = pd.concat([trials("elevation", split) for split in given.splits], ignore_index=True)
        write(table, given.out.with_name(given.out.stem + "_trials.csv"))
        return
    done = pd.read_csv(given.out) if given.out.is_file() else pd.DataFrame(columns=["task", "split", "seed"])
    for seed in given.seeds:
        for name in given.tasks:
            for split in given.splits:
                match = (done["task"] == f"mosaiks_{name}") & (done["split"] == split) & (done["seed"] == seed)
                if match.any():
                    continue
                fresh = measure(name, split, seed)
                done = fresh if done.empty else pd.concat([done, fresh], ignore_index=True)
                write(done.sort_values(["task", "split", "seed"], kind="stable"), given.out)
                write(summarise(done), given.out.with_name(given.out.stem + "_summary.csv"))
    summary = summarise(done)
    write(summary, given.out.with_name(given.out.stem + "_summary.csv"))
    print(summary.to_string(index=False))


if __name__ == "__main__":
    main()
