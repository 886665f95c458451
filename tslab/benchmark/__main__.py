"""Command line of the benchmark: do runs, and turn them into the committed record.

    python -m tslab.benchmark run --table top1 --datasets birdsnap yfcc --encoders all
    python -m tslab.benchmark run --table r2_mosaiks --source synthetic --scale tiny --seeds 3 --epochs 2
    python -m tslab.benchmark record
    python -m tslab.benchmark show --source synthetic

``run`` does what the store (``--out``) does not hold yet; ``record`` puts everything in the store beside the
published numbers and writes the records in ``book/results``; ``show`` prints what the store holds. For every
combination of tasks, encoders and seeds, benchmark or not, there is ``python -m tslab_book.sweeps``.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from tslab._checks import check_count
from tslab.benchmark.cells import CELLS, VERDICTS, audit, write_cells
from tslab.benchmark.comparison import COMPARISONS, compare_released, write_comparisons
from tslab.benchmark.driver import forecast, run_all
from tslab.benchmark.recompute import located_images
from tslab.benchmark.runner import import_modules
from tslab.benchmark.runs import PROTOCOLS, SCALES, SOURCES, SPLITS, TABLES, RunSpec, plan
from tslab.benchmark.store import FIELDS, ResultStore, check_folder
from tslab.published import CLASSIFICATION_DATASETS, ENCODER_ROWS
from tslab.released_files import ReleasedResultsError, has_released_results

DEFAULT_STORE = "_out/benchmark"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 if everything went well, 1 if a run failed, 2 if the command makes no sense,
    130 after Ctrl-C."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"{parser.prog}: {message}", file=sys.stderr)
        try:
            return int(arguments.action(arguments, sys.argv[1:] if argv is None else argv))
        except (ValueError, ReleasedResultsError, OSError, ImportError) as error:
            print(f"{parser.prog}: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"{parser.prog}: interrupted; the same command goes on from here", file=sys.stderr)
            return 130


def run(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """``run``: do the runs that are missing."""
    import_modules(arguments.modules)
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
        workers=arguments.workers,
        modules=arguments.modules,
        progress=not arguments.quiet,
        command="python -m tslab.benchmark " + " ".join(words),
    )
    print(outcome)
    return 1 if outcome.failed else 0


def record(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """``record``: verdicts of all published cells, from the runs in the store."""
    store = _store(arguments)
    if store.frame().empty:
        raise ValueError(f"no finished runs in {arguments.out}; python -m tslab.benchmark run fills it")
    path = check_folder("--results", arguments.results) / CELLS
    released = has_released_results(arguments.root, list(CLASSIFICATION_DATASETS))
    comparisons = compare_released(root=arguments.root) if released else None
    table = audit(store, comparisons)
    if released:
        table.attrs["located"] = located_images(arguments.root)
    state = write_cells(table, path)
    counts = table["verdict"].value_counts().reindex(list(VERDICTS), fill_value=0)
    print(f"{path}: {state}. {len(table)} cells: " + ", ".join(f"{n} {word}" for word, n in counts.items()))
    if state == "kept":
        print("The record holds numbers that this store lacks; run the missing tables first.")
    if comparisons is not None:
        write_comparisons(comparisons, path.with_name(COMPARISONS))
        print(f"{path.with_name(COMPARISONS)}: pairs of encoders on the same images")
    else:
        print(f"{COMPARISONS} is left as it is: the released files are not on this machine")
    return 0


def show(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """``show``: what the store holds."""
    table = _store(arguments).frame()
    for column, chosen in (("table", arguments.table), ("source", arguments.source)):
        table = table[table[column].isin(chosen)] if chosen else table
    shown = table.drop(columns=["epochs", "split", "details", *FIELDS])
    print(shown.to_string(index=False) if len(table) else f"no runs in {arguments.out}")
    return 0


def _store(arguments: argparse.Namespace) -> ResultStore:
    if Path(arguments.out).exists() and not Path(arguments.out).is_dir():
        raise ValueError(f"--out {arguments.out} is a file; name the folder of a store")
    return ResultStore(arguments.out)


def _plan(arguments: argparse.Namespace) -> list[RunSpec]:
    first = check_count("--first-seed", arguments.first_seed, at_least=0)
    every = [key for word in arguments.encoders for key in (ENCODER_ROWS if word == "all" else [word])]
    return plan(
        list(TABLES) if "all" in arguments.table else arguments.table,
        datasets=None if "all" in arguments.datasets else arguments.datasets,
        encoders=list(dict.fromkeys(every)),
        seeds=range(first, first + check_count("--seeds", arguments.seeds)),
        source=arguments.source,
        scale=arguments.scale,
        epochs=arguments.epochs,
        split=arguments.split,
        protocol=arguments.protocol,
    )


def _estimate(specs: Sequence[RunSpec], arguments: argparse.Namespace) -> int:
    """Say how long everything that is missing would take."""
    if arguments.source == "released":
        print("nothing is trained: seconds for each cell of Top-1 and R2, about 15 s for each of geo-bias")
        return 0
    expected = forecast(specs, _store(arguments), root=arguments.root, device=arguments.device)
    for row in expected.itertuples():
        print(f"{row.dataset} {row.encoder}: about {row.seconds:.0f} s for each of {row.trainings} trainings")
    print(f"in all about {(expected['seconds'] * expected['trainings']).sum() / 60:.0f} min, from measured steps")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tslab.benchmark", description=(__doc__ or "").split("\n\n")[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run", help="do the runs that the store does not hold yet")
    one.set_defaults(action=run)
    one.add_argument("--table", nargs="+", default=["all"], choices=[*TABLES, "all"])
    one.add_argument("--datasets", nargs="+", default=["all"], help="dataset keys, or all (default)")
    one.add_argument("--seeds", type=int, default=1, help="how many trainings of each cell")
    one.add_argument("--first-seed", type=int, default=0)
    one.add_argument("--source", default="released", choices=list(SOURCES), help="where the numbers come from")
    one.add_argument("--protocol", default="ours", choices=list(PROTOCOLS), help="how locbench is trained on")
    one.add_argument("--scale", default="small", choices=list(SCALES), help="size of synthetic data")
    one.add_argument("--split", default="random", choices=list(SPLITS), help="of released points")
    one.add_argument("--epochs", type=int, help="default: as recorded for the dataset and encoder")
    one.add_argument("--device", default="auto")
    one.add_argument("--again", action="store_true", help="do runs again that are done already")
    one.add_argument(
        "--estimate", action="store_true", help="time a few steps of each training and say how long all take"
    )
    one.add_argument("--quiet", action="store_true", help="no progress bar")
    one.add_argument("--encoders", nargs="+", default=["all"], help="keys, baselines too, or all (default)")
    one.add_argument("--import", dest="modules", nargs="+", default=[], help="modules that register encoders")
    one.add_argument("--retries", type=int, default=1)
    one.add_argument("--dask", metavar="ADDRESS", help="'local', or the address of a Dask scheduler")
    one.add_argument("--workers", type=int, help="processes of --dask local")
    two = commands.add_parser("record", help="write book/results/cells.csv from the store")
    two.set_defaults(action=record)
    two.add_argument("--results", default="book/results", help="folder of the record")
    three = commands.add_parser("show", help="print what the store holds")
    three.set_defaults(action=show)
    three.add_argument("--table", nargs="+", choices=list(TABLES))
    three.add_argument("--source", nargs="+", choices=list(SOURCES))
    for command in (one, two):
        command.add_argument("--root", help="released files or archive; default TSLAB_MIRROR, then the cache folder")
    for command in (one, two, three):
        command.add_argument("--out", default=os.environ.get("TSLAB_BENCHMARK", DEFAULT_STORE), help="the store")
    return parser


if __name__ == "__main__":
    sys.exit(main())
