"""Random against spatial blocks on the released MOSAIKS elevation points: the record of the chapter on splits.

    TSLAB_MIRROR=... python benchmarks/splits.py [--seeds 0 1 2] [--sizes 0 500 1000 2000 4000]

Runs `tslab_book.split_study.compare_splits` on the points inside the released results and writes its rows to
book/results/splits.csv (aggregates only, no place and no label), with day, versions and source in splits.json. Each
finished size and seed is written at once and not computed again; about a minute for each on one thread.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

import tslab
from tslab._files import atomic_write
from tslab.benchmark.store import release_stamp
from tslab_book.split_study import RANDOM, compare_splits

RESULTS = Path(__file__).resolve().parent.parent / "book" / "results" / "splits.csv"
TASK = "mosaiks_elevation"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sizes", type=float, nargs="+", default=[RANDOM, 500.0, 1000.0, 2000.0, 4000.0])
    args = parser.parse_args()
    task = tslab.load_task(TASK, source="released")
    found = pd.read_csv(RESULTS) if RESULTS.is_file() else pd.DataFrame(columns=["size_km", "seed"])
    for seed in args.seeds:
        for size in args.sizes:
            if ((found["size_km"] == size) & (found["seed"] == seed)).any():
                continue
            rows = compare_splits(task, [size], seeds=[seed])
            found = pd.concat([found, rows], ignore_index=True) if len(found) else rows
            write(found, sum(len(table) for table in task.tables.values()))
            print(rows.to_string(index=False, header=False), flush=True)


def write(found: pd.DataFrame, places: int) -> None:
    """The rows, and beside them when and from what they were computed."""
    rows = found.sort_values(["size_km", "seed"], kind="stable").round({"r2": 5, "nearest_km": 2})
    origin = {
        **release_stamp(),
        "tslab": tslab.__version__,
        "task": TASK,
        "places": places,
    }
    atomic_write(RESULTS, rows.to_csv(index=False, lineterminator="\n"))
    atomic_write(RESULTS.with_suffix(".json"), json.dumps(origin, indent=2) + "\n")


if __name__ == "__main__":
    main()
