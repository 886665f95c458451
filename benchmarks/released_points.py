"""Does a location encoder beat its baselines on real data? The released MOSAIKS points, random and block
splits, several seeds.

    TSLAB_MIRROR=... python benchmarks/released_points.py [--tasks elevation ...] [--seeds 1 2 3]

Every method sees the same rows. Each seed draws its own split (80 % training, 20 % test; at random, or in
blocks of 10 degrees) and its own weights. What a method can choose, it chooses on training rows: the
neighbours' number and weight by leaving one out, the trees' number on a tenth of the rows, kriging's two
numbers by leaving one out, the weight of the encoder against kriging on folds. The encoder's
hyper-parameters are fixed in this file, the same for all labels and seeds, one set for random and one for
block splits; they were chosen on elevation with the split seeds 0 (random) and 100 (block), which are not
in the table.

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
from tslab.kriging import LocalKriging, train_stack
from tslab.tasks import Table, Task

RESULTS = Path(__file__).resolve().parent.parent / "book" / "results"
TASKS = ("elevation", "forest_cover", "population")
BLOCK_DEG = 10.0

ENCODER = "sphere2vec_sphereC+"
NETWORK: dict[str, Any] = {
    **{"hidden_dim": 512, "activation": "gelu", "head": (256,), "head_dropout": 0.0, "num_scales": 16},
    **{"lr": 2e-3, "batch_size": 512, "schedule": "cosine"},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "random": NETWORK | {"min_radius": 0.01, "dropout": 0.1, "epochs": 10},
    "block": NETWORK | {"num_scales": 8, "min_radius": 0.1, "dropout": 0.1, "epochs": 3},
}


class Predictor:
    """A function of places, as `tslab.evaluate` takes it."""

    def __init__(self, predict: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.predict = predict


def best_neighbours(table: Table) -> NeighborAverage:
    """The neighbour average with the smallest error on training places left out one at a time."""
    distance, index = SphereNeighbors(table.lonlat, 20).query_self()
    label = table.target.double()

    def error(k: int, power: float) -> float:
        weight = (distance[:, :k] + 1.0) ** -power  # as NeighborAverage, softened by a kilometre
        average = (weight * label[index[:, :k]]).sum(1) / weight.sum(1)
        return float(((average - label) ** 2).mean())

    k, power = min(((k, p) for k in (5, 10, 20) for p in (0.0, 1.0, 2.0)), key=lambda choice: error(*choice))
    return NeighborAverage(table, k=k, power=power)


def methods(task: Task, split: str, seed: int) -> Iterator[tuple[str, Any, str, float]]:
    """(name, fitted model, what was chosen, seconds), one after the other."""

    def timed(fit: Callable[[], Any]) -> tuple[Any, float]:
        started = time.perf_counter()
        return fit(), time.perf_counter() - started

    model, seconds = timed(lambda: NeighborAverage(task.train, k=10, power=0.0))
    yield "knn10", model, "k=10, not weighted", seconds
    model, seconds = timed(lambda: best_neighbours(task.train))
    yield "knn", model, f"k={model.neighbors.k}, power={model.power:g}", seconds
    model, seconds = timed(lambda: CoordinateTrees(task.train, seed=seed))
    yield "trees", model, f"{model.trees.n_iter_} iterations", seconds
    model, seconds = timed(lambda: LocalKriging(task.train, seed=seed))
    yield "kriging", model, f"L={model.length_km:g} km, nugget={model.nugget:g}", seconds
    blocks = BLOCK_DEG if split == "block" else None
    model, seconds = timed(
        lambda: train_stack(
            task, ENCODER, folds=3, block_degrees=blocks, seed=seed, progress=False, **SETTINGS[split]
        )
    )
    yield "encoder", Predictor(model.encoders), f"{ENCODER}, mean of 3 folds", seconds
    yield "encoder + kriging", model, f"weight of the encoder {model.weight:.2f}", seconds


def measure(name: str, split: str, seed: int) -> pd.DataFrame:
    """All methods on one task, split and seed."""
    task = tslab.load_task(
        f"mosaiks_{name}", source="released", seed=seed, split=split, fractions=(0.8, 0.0, 0.2)
    )
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


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Mean R2 over seeds, its standard deviation, and the difference to the better of knn and trees, seed by seed."""
    wide = table.pivot_table(index=["task", "split", "seed"], columns="method", values="r2")
    gain = wide.sub(wide[["knn", "knn10", "trees"]].max(axis=1), axis=0)
    by = ["task", "split"]
    parts = {"r2": wide.groupby(by).mean(), "sd": wide.groupby(by).std()}
    parts |= {
        "gain": gain.groupby(by).mean(),
        "gain_min": gain.groupby(by).min(),
        "gain_max": gain.groupby(by).max(),
    }
    long = pd.concat({k: v.stack() for k, v in parts.items()}, axis=1).rename_axis([*by, "method"])
    return long.assign(
        seeds=wide.groupby(by).size().reindex(long.index.droplevel("method")).to_numpy()
    ).reset_index()


def write(table: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--splits", nargs="+", default=["random", "block"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=RESULTS / "released_points.csv")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    done = pd.read_csv(given.out) if given.out.is_file() else pd.DataFrame(columns=["task", "split", "seed"])
    for seed in given.seeds:
        for name in given.tasks:
            for split in given.splits:
                match = (
                    (done["task"] == f"mosaiks_{name}") & (done["split"] == split) & (done["seed"] == seed)
                )
                if match.any():
                    continue
                fresh = measure(name, split, seed)
                done = fresh if done.empty else pd.concat([done, fresh], ignore_index=True)
                write(done.sort_values(["task", "split", "seed"], kind="stable"), given.out)
    summary = summarise(done)
    write(summary, given.out.with_name(given.out.stem + "_summary.csv"))
    print(summary.to_string(index=False))


if __name__ == "__main__":
    main()
