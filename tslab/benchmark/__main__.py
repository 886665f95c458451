"""Command line of the benchmark: do runs, and turn them into the committed record.

    python -m tslab.benchmark run --table top1 --datasets birdsnap yfcc --encoders all
    python -m tslab.benchmark run --table r2_mosaiks --source synthetic --scale tiny --seeds 3 --epochs 2
    python -m tslab.benchmark record
    python -m tslab.benchmark show --source synthetic

``run`` does what the store (``--out``) does not hold yet; ``record`` puts everything in the store beside the
published numbers and writes the records in ``book/results``; ``show`` prints what the store holds.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tslab.benchmark.cells import CELLS, VERDICTS, audit, write_cells
from tslab.benchmark.comparison import COMPARISONS, compare_released, write_comparisons
from tslab.benchmark.driver import probe, run_all
from tslab.benchmark.leaderboard import FAIR_TABLE, fair_table, write_fair_table
from tslab.benchmark.records import write_record
from tslab.benchmark.runs import BASELINE_PREFIX, SCALES, SOURCES, TABLES, ResultStore, RunSpec, plan
from tslab.benchmark.top1 import recompute_top1
from tslab.published import CLASSIFICATION_DATASETS, ENCODER_ROWS
from tslab.released_files import ReleasedResultsError, has_released_results

DEFAULT_STORE = "_out/benchmark"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 if everything went well, 1 if a run failed, 2 if the command makes no sense."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.action(arguments, sys.argv[1:] if argv is None else argv))
    except (ValueError, ReleasedResultsError, FileNotFoundError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2


def run(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """``run``: do the runs that are missing."""
    sys.path.insert(0, os.getcwd())
    for module in arguments.modules:
        importlib.import_module(module)
    specs = _plan(arguments)
    if arguments.estimate:
        return _estimate(specs, arguments)
    outcome = run_all(
        specs,
        arguments.out,
        root=arguments.root,
        device=arguments.device,
        again=arguments.again,
        retries=arguments.retries,
        dask=arguments.dask,
        progress=not arguments.quiet,
        command="python -m tslab.benchmark " + " ".join(words),
    )
    print(outcome)
    return 1 if outcome.failed else 0


def record(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """``record``: verdicts of all published cells, from the runs in the store."""
    table = audit(ResultStore(arguments.out))
    path = Path(arguments.results) / CELLS
    state = write_cells(table, path)
    counts = table["verdict"].value_counts().reindex(list(VERDICTS), fill_value=0)
    print(f"{path}: {state}. {len(table)} cells: " + ", ".join(f"{n} {word}" for word, n in counts.items()))
    if state == "kept":
        print("The record holds numbers that this store lacks; run the missing tables first.")
    points = fair_table(ResultStore(arguments.out))
    if len(points):
        state = write_fair_table(points, path.with_name(FAIR_TABLE))
        print(f"{path.with_name(FAIR_TABLE)}: {state}. {len(points)} runs on the released points")
    if has_released_results(arguments.root, list(CLASSIFICATION_DATASETS)):
        write_comparisons(compare_released(root=arguments.root), path.with_name(COMPARISONS))
        print(f"{path.with_name(COMPARISONS)}: pairs of encoders on the same images")
        print(
            f"{path.with_name('top1.csv')}:",
            write_record(recompute_top1(root=arguments.root), path.with_name("top1.csv")),
        )
    else:
        print(f"{COMPARISONS} and top1.csv are left as they are: the released files are not on this machine")
    return 0


def show(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """``show``: what the store holds."""
    table = ResultStore(arguments.out).frame()
    for column, chosen in (("table", arguments.table), ("source", arguments.source)):
        table = table[table[column].isin(chosen)] if chosen else table
    columns = [
        "table",
        "dataset",
        "encoder",
        "source",
        "scale",
        "seed",
        "metric",
        "value",
        "low",
        "high",
        "n",
    ]
    print(table[columns].to_string(index=False) if len(table) else f"no runs in {arguments.out}")
    return 0


def _plan(arguments: argparse.Namespace) -> list[RunSpec]:
    every = [key for word in arguments.encoders for key in (ENCODER_ROWS if word == "all" else [word])]
    first = arguments.first_seed
    return plan(
        list(TABLES) if arguments.table == ["all"] else arguments.table,
        datasets=None if arguments.datasets == ["all"] else arguments.datasets,
        encoders=list(dict.fromkeys(every)),
        seeds=range(first, first + arguments.seeds),
        source=arguments.source,
        scale=arguments.scale,
        epochs=arguments.epochs,
        split=arguments.split,
    )


def _estimate(specs: Sequence[RunSpec], arguments: argparse.Namespace) -> int:
    """Time one epoch for each dataset and say how long everything would take."""
    if arguments.source == "released":
        print("nothing is trained: seconds for each cell of Top-1 and R2, about 15 s for each of geo-bias")
        return 0
    total = 0.0
    for dataset in dict.fromkeys(spec.dataset for spec in specs):
        mine = [spec for spec in specs if spec.dataset == dataset]
        trained = [
            spec
            for spec in mine
            if spec.encoder != "no_prior" and not spec.encoder.startswith(BASELINE_PREFIX)
        ]
        seconds = probe(trained[0], root=arguments.root, device=arguments.device) if trained else 0.0
        total += seconds * len(trained)
        print(f"{dataset}: about {seconds:.0f} s for each of {len(trained)} trainings")
    print(f"in all about {total / 60:.0f} min")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tslab.benchmark", description=(__doc__ or "").split("\n\n")[0]
    )
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run", help="do the runs that the store does not hold yet")
    one.set_defaults(action=run)
    one.add_argument("--import", dest="modules", nargs="+", default=[], help="modules that register encoders")
    one.add_argument("--table", nargs="+", default=["all"], choices=[*TABLES, "all"])
    one.add_argument("--datasets", nargs="+", default=["all"], help="dataset keys, or all (default)")
    one.add_argument(
        "--encoders", nargs="+", default=["all"], help="encoder keys, baseline:<key>, or all (default)"
    )
    one.add_argument("--seeds", type=int, default=1, help="how many trainings of each cell")
    one.add_argument("--first-seed", type=int, default=0)
    one.add_argument(
        "--source", default="released", choices=list(SOURCES), help="where the numbers come from"
    )
    one.add_argument("--scale", default="small", choices=list(SCALES), help="size of synthetic data")
    one.add_argument("--split", default="random", choices=["random", "block"], help="of released points")
    one.add_argument("--epochs", type=int, help="default: as recorded for the dataset and encoder")
    one.add_argument("--device", default="auto")
    one.add_argument("--again", action="store_true", help="do runs again that are done already")
    one.add_argument("--retries", type=int, default=1)
    one.add_argument("--dask", metavar="ADDRESS", help="'local', or the address of a Dask scheduler")
    one.add_argument(
        "--estimate", action="store_true", help="train one epoch of each dataset and say how long it takes"
    )
    one.add_argument("--quiet", action="store_true", help="no progress bar")
    two = commands.add_parser("record", help="write book/results/cells.csv from the store")
    two.set_defaults(action=record)
    two.add_argument("--results", default="book/results", help="folder of the record")
    three = commands.add_parser("show", help="print what the store holds")
    three.set_defaults(action=show)
    three.add_argument("--table", nargs="+", choices=list(TABLES))
    three.add_argument("--source", nargs="+", choices=list(SOURCES))
    for command in (one, two):
        command.add_argument(
            "--root", help="released files or archive; default TSLAB_MIRROR, then the cache folder"
        )
    for command in (one, two, three):
        command.add_argument(
            "--out", default=os.environ.get("TSLAB_BENCHMARK", DEFAULT_STORE), help="the store"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
