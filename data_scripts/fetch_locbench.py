"""Fetch the LocBench archives (doi:10.6084/m9.figshare.26026798), verify them, convert them.

    python data_scripts/fetch_locbench.py --list                     # files, sizes, terms; fetches nothing
    python data_scripts/fetch_locbench.py --names yfcc birdsnap      # asks you to accept the terms, then fetches
    python data_scripts/fetch_locbench.py --names yfcc --accept-terms
    python data_scripts/fetch_locbench.py --verify                   # compare what is here with the published facts
    python data_scripts/fetch_locbench.py --convert OUT              # rewrite what is here in tslab's native format

Data go to --root (default: TSLAB_LOCBENCH, then tslab's cache folder). An interrupted download continues when you
run the same command again. Nothing upstream is shipped with tslab: you fetch it under its own terms.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from locbench_download import RemoteFile, changed_downloads, fetch, files_for, list_remote, record, terms
from locbench_unpacking import FetchLocbenchError, unpack
from locbench_verification import verify
from tslab._files import DamagedFileError, FolderInUseError
from tslab.coords import CoordinateError
from tslab.tasks import DATASETS, TaskDataError, load_task
from tslab.tasks.native import task_folder, write_task
from tslab.tasks.records import locbench_root

FAILURES = (
    FetchLocbenchError,
    TaskDataError,
    CoordinateError,
    DamagedFileError,
    FolderInUseError,
    OSError,
)
"""What may go wrong with one dataset while others are sound; the messages name the file and the next step."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse(argv)
    root = locbench_root(options.root)
    try:
        if options.verify:
            return check(options.names or present(root), root)
        if options.convert:
            return convert(options.names or present(root), root, Path(options.convert))
        return get(options, root)
    except FAILURES as error:
        print(error, file=sys.stderr)
        return 1


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", choices=list(DATASETS), metavar="NAME", help=", ".join(DATASETS))
    parser.add_argument("--root", help="folder that holds (or will hold) birdsnap/, inat_2018/ and so on")
    parser.add_argument("--accept-terms", action="store_true", help="you have read the terms and accept them")
    parser.add_argument("--keep-archives", action="store_true", help="keep downloaded archives after unpacking")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--list", action="store_true", help="list files, sizes and terms, fetch nothing")
    action.add_argument("--verify", action="store_true", help="compare the data here with the published facts")
    action.add_argument("--convert", metavar="OUT", help="write the data here in the native format to OUT")
    return parser.parse_args(argv)


def get(options: argparse.Namespace, root: Path) -> int:
    """List files, and fetch and unpack them once the terms are accepted."""
    remote = list_remote()
    chosen = files_for(options.names, remote) if options.names else remote
    names = options.names or list(DATASETS)
    for file in chosen:
        print(f"{file.size / 1e9:9.3f} GB  {file.name}  ({file.folder or 'no dataset by its name'})")
    print(f"{sum(file.size for file in chosen) / 1e9:9.3f} GB in all, to {root}\n\n{terms(names)}\n")
    if options.list:
        return 0
    if not options.names:
        print("Say which datasets you want: --names ...", file=sys.stderr)
        return 2
    if not (options.accept_terms or accepted()):
        print("Nothing was fetched: the terms were not accepted.", file=sys.stderr)
        return 1
    failed = 0
    for file in chosen:
        try:
            get_one(file, root, keep=options.keep_archives)
        except FAILURES as error:
            print(error, file=sys.stderr)
            failed = 1
    return max(failed, check(options.names, root))


def get_one(file: RemoteFile, root: Path, *, keep: bool) -> None:
    """Fetch, record and unpack one archive."""
    with tqdm(total=file.size, unit="B", unit_scale=True, desc=file.name) as bar:
        path = fetch(file, root, progress=bar.update)
    record(file, path, root)
    folder = unpack(path, root, file.folder or "other")
    if not keep:
        path.unlink()
    print(f"{file.name} -> {folder}")


def accepted() -> bool:
    """Ask, if someone is there to answer."""
    if not sys.stdin.isatty():
        print("Run again with --accept-terms once you have read them.", file=sys.stderr)
        return False
    return input("Do you accept these terms? [y/N] ").strip().lower() in ("y", "yes")


def check(names: list[str], root: Path) -> int:
    """Print the verification report of each dataset; 0 if all agree."""
    good = True
    try:
        for name in changed_downloads(root):
            print(f"{name}: the archive is no longer the one that was fetched")
            good = False
    except DamagedFileError as error:
        print(error)
        good = False
    for name in names:
        try:
            report = verify(load_task(name, source="locbench", root=root))
        except FAILURES as error:
            print(f"{name}: {error}")
            good = False
        else:
            print(report)
            good &= report.ok
    return 0 if good else 1


def convert(names: list[str], root: Path, out: Path) -> int:
    """Write each dataset in the native format; 0 if all could be. Nothing is written over what was downloaded.

    Raises:
        TaskDataError: OUT holds something else under one of the names; nothing was written.
    """
    if out.expanduser().resolve() == root.resolve():
        raise TaskDataError(f"{out} holds the downloaded data; convert them to another folder")
    for name in names:
        task_folder(out, name)
    failed = 0
    for name in names:
        try:
            print(write_task(load_task(name, source="locbench", root=root), out))
        except FAILURES as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
    return failed


def present(root: Path) -> list[str]:
    """Datasets whose folder is there.

    Raises:
        FileNotFoundError: there is none.
    """
    names = [name for name, info in DATASETS.items() if (root / info.folder).is_dir()]
    if not names:
        raise FileNotFoundError(f"no dataset folder in {root}; fetch one first, or pass --root")
    return names


if __name__ == "__main__":
    raise SystemExit(main())
