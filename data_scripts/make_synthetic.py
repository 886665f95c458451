"""Write synthetic stand-ins of the LocBench datasets in tslab's native format.

    python data_scripts/make_synthetic.py OUT                         # all of them at scale small
    python data_scripts/make_synthetic.py OUT --names yfcc fmow --scale full --seed 1
    python data_scripts/make_synthetic.py --report                    # target against achieved, nothing written
    python data_scripts/make_synthetic.py --calibrate --scale small   # fit the generator again (developers)

Every folder is written completely or not at all, and never over data that tslab did not write;
`tslab.load_task(name, source="native", root=OUT)` opens it. The same generator version, scale and seed always give the
same rows.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from synthetic_calibration import calibrate
from tslab._files import FolderInUseError, atomic_write, read_json
from tslab.synthetic import CLASS_SPECS
from tslab.tasks import DATASETS, TaskDataError, load_task
from tslab.tasks.datasets import SCALES, STRESS_TASKS
from tslab.tasks.native import task_folder, write_task
from tslab_book.stand_ins import compare_with_targets

CALIBRATION_FILE = Path(__file__).resolve().parents[1] / "tslab" / "data" / "synthetic_calibration.json"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse(argv)
    try:
        if options.calibrate:
            return recalibrate(options)
        if options.report:
            return report(options)
        return write(options)
    except (TaskDataError, FolderInUseError) as error:
        print(error, file=sys.stderr)
        return 1


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the options."""
    names = [*DATASETS, *STRESS_TASKS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", help="folder to write to")
    parser.add_argument("--names", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="print target and achieved statistics, write nothing")
    parser.add_argument("--calibrate", action="store_true", help="fit the classification stand-ins again")
    options = parser.parse_args(argv)
    if options.seed < 0:
        parser.error(f"--seed must not be negative, got {options.seed}")
    if not (options.out or options.report or options.calibrate):
        parser.error("say where to write to: make_synthetic.py OUT")
    return options


def write(options: argparse.Namespace) -> int:
    """Generate and write each task; nothing at all if one of the folders holds other data."""
    for name in options.names:
        task_folder(options.out, name)
    for name in options.names:
        start = time.perf_counter()
        task = load_task(name, scale=options.scale, seed=options.seed)
        folder = write_task(task, options.out)
        rows = sum(len(table) for table in task.tables.values())
        print(f"{folder}: {rows:,} rows in {time.perf_counter() - start:.1f} s")
    return 0


def report(options: argparse.Namespace) -> int:
    """Print target and achieved statistics of each stand-in."""
    for name in options.names:
        if name in DATASETS:
            task = load_task(name, scale=options.scale, seed=options.seed)
            print(f"\n{name}, {options.scale}, seed {options.seed}; known limits {dict(task.meta.ceiling)}")
            print(compare_with_targets(task).round(3).to_string())
    return 0


def recalibrate(options: argparse.Namespace) -> int:
    """Fit each classification stand-in and store the numbers."""
    for name in options.names:
        if name in CLASS_SPECS:
            fitted = calibrate(name, options.scale)
            stored = read_json(CALIBRATION_FILE, remedy="restore it") if CALIBRATION_FILE.is_file() else {}
            stored.setdefault(name, {})[options.scale] = fitted
            ordered = {
                key: {s: stored[key][s] for s in SCALES if s in stored[key]} for key in CLASS_SPECS if key in stored
            }
            atomic_write(CALIBRATION_FILE, json.dumps(ordered, indent=1) + "\n")
            print(name, options.scale, fitted)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
