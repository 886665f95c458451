"""How far do neighbours get on real data? k-nearest-neighbour averages of the released MOSAIKS points.

    TSLAB_MIRROR=... python benchmarks/baselines.py

All four labels, random and 10-degree block splits (80 % training, 20 % test), three seeds, k from 1 to 100, not
weighted. Writes R^2 to book/results/baselines_released.csv: metrics only, no rows of the data.
"""

import argparse
from pathlib import Path

import pandas as pd

import tslab
from tslab._files import atomic_path
from tslab.baselines import NeighborAverage
from tslab.metrics import mae, r2

RESULTS = Path(__file__).resolve().parent.parent / "book" / "results"
TASKS = ("elevation", "forest_cover", "population", "nightlights")
NEIGHBOURS = (1, 3, 10, 30, 100)


def measure(task: str, split: str, seed: int) -> list[dict[str, object]]:
    """One row for each k."""
    data = tslab.load_task(f"mosaiks_{task}", source="released", seed=seed, split=split, fractions=(0.8, 0.0, 0.2))
    rows = []
    for k in NEIGHBOURS:
        prediction = NeighborAverage(data.train, k=k, power=0.0).predict(data.test.lonlat)
        label = data.test.target.double()
        scores = {"r2": r2(prediction, label), "mae": mae(prediction, label)}
        rows.append({"task": f"mosaiks_{task}", "split": split, "seed": seed, "k": k, **scores})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=RESULTS / "baselines_released.csv")
    args = parser.parse_args()
    cases = [(task, split, seed) for task in TASKS for split in ("random", "block") for seed in args.seeds]
    table = pd.DataFrame([row for case in cases for row in measure(*case)])
    with atomic_path(args.out) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")
    print(table.groupby(["task", "split", "k"])["r2"].mean().unstack().round(3))


if __name__ == "__main__":
    main()
