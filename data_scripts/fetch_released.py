"""Fetch the released per-sample results (and checkpoints) of TorchSpatial into tslab's cache folder.

    python data_scripts/fetch_released.py                      # all evaluation CSVs
    python data_scripts/fetch_released.py --datasets yfcc fmow --encoders wrap nerf
    python data_scripts/fetch_released.py --checkpoints        # the .pth.tar files as well
    python data_scripts/fetch_released.py --list               # what there is, and what is here
    python data_scripts/fetch_released.py --verify             # compare files with the checksums
    python data_scripts/fetch_released.py --second-source      # iNat2017 results of four encoders, from PyGBS

Files come from the official repository at pinned commits and are checked against SHA-256 sums that tslab
ships. Files already here are skipped, so an interrupted run is resumed by running the command again. With
TSLAB_MIRROR set
nothing is downloaded: tslab reads that folder in place, and this script verifies it. The files are licensed
CC BY-NC 4.0 by their authors. TSLAB_DATA chooses the cache folder.
"""

import argparse
import os
import sys

from tqdm import tqdm

from tslab.released_files import (
    DATASET_TOKENS,
    ENCODER_TOKENS,
    ReleasedFile,
    ReleasedResultsError,
    released_files,
    released_root,
)
from tslab_book.fetching import fetch_released, fetch_second_source, verify_released


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse(argv)
    kinds = ["classification", "regression"] + (["checkpoint"] if options.checkpoints else [])
    chosen = released_files(kinds=kinds, datasets=options.datasets, encoders=options.encoders)
    if not chosen:
        print("The release has no such file. See --list.", file=sys.stderr)
        return 1
    try:
        if options.second_source:
            return fetch_more()
        if options.list or options.verify or os.environ.get("TSLAB_MIRROR"):
            return show(chosen, every_file=options.list)
        return fetch(chosen)
    except ReleasedResultsError as error:
        print(error, file=sys.stderr)
        return 1


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--datasets", nargs="+", choices=list(DATASET_TOKENS), metavar="KEY", help=", ".join(DATASET_TOKENS)
    )
    parser.add_argument(
        "--encoders", nargs="+", choices=list(ENCODER_TOKENS), metavar="KEY", help=", ".join(ENCODER_TOKENS)
    )
    parser.add_argument("--checkpoints", action="store_true", help="include the .pth.tar files")
    parser.add_argument("--list", action="store_true", help="list files and their state, fetch nothing")
    parser.add_argument("--second-source", action="store_true", help="fetch what only a second repository has")
    parser.add_argument("--verify", action="store_true", help="compare files with the checksums, fetch nothing")
    return parser.parse_args(argv)


def fetch_more() -> int:
    """Download what only the second repository has; 0 if it has everything."""
    outcome = fetch_second_source()
    for path, state in outcome.items():
        print(f"{state:8} {path}")
    return int("absent" in outcome.values())


def show(chosen: list[ReleasedFile], *, every_file: bool) -> int:
    """Print the state of files; 0 if all are there and verified."""
    states = verify_released(chosen)
    for path, state in states.items():
        if every_file or state != "ok":
            print(f"{state:8} {path}")
    counts = {state: list(states.values()).count(state) for state in ("ok", "missing", "differs")}
    print(
        f"{released_root()}: {counts['ok']} verified, {counts['missing']} missing, {counts['differs']} with "
        "another checksum"
    )
    return 0 if counts["ok"] == len(states) else 1


def fetch(chosen: list[ReleasedFile]) -> int:
    """Download what is not here yet, with progress."""
    total = sum(file.size for file in chosen)
    with tqdm(total=total, unit="B", unit_scale=True, desc="released files") as bar:

        def report(file: ReleasedFile, _outcome: str) -> None:
            bar.update(file.size)
            bar.set_postfix_str(file.path.rsplit("/", 1)[-1][-40:])

        outcome = fetch_released(chosen, report=report)
    fetched = list(outcome.values()).count("fetched")
    print(f"{released_root()}: {fetched} files fetched, {len(outcome) - fetched} were already here and verified")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
