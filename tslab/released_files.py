"""Which files the TorchSpatial authors released, and where they lie on this machine.

The release is a git repository. Its per-sample evaluation results (``eval_results/``) and checkpoints
(``pre_trained_models/``) are what the reproduction chapters start from. They are licensed CC BY-NC 4.0, so tslab does
not ship them: it ships their checksums. Files are looked for in, by precedence, an explicit ``root``,
the folder named by ``TSLAB_MIRROR`` (a copy of the repository, or a folder holding one as ``TorchSpatial/``) and the
cache folder ``TSLAB_DATA`` (default: the platform's cache folder), which ``data_scripts/fetch_released.py`` fills.

Numbers are only computed from files that have the released checksum (`check_released_file`). To read files of your own
in the place and format of the released ones, set ``TSLAB_OWN_RESULTS=1``.

Apart from `tslab.released`, which reads the files and knows their traps: nothing here looks inside one.
"""

import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from tslab._files import data_folder, packaged_json, read_json

REPOSITORY = "seai-lab/TorchSpatial"
"""The official repository on GitHub."""

RELEASE = "9f8d833"
"""Abbreviated commit of the release that the checksums were computed from."""

INDEX = "released_files.csv"
"""tslab's list of the released files, among its data."""

_NAMES = packaged_json("released_tokens.json")
DATASET_TOKENS: dict[str, str] = _NAMES["datasets"]
"""How the released files call each dataset."""

ENCODER_TOKENS: dict[str, str] = _NAMES["encoders"]
"""How the released files call each encoder (``no_prior`` is ``no_prior_regress`` in regression files)."""


SECOND_SOURCE: dict[str, Any] = packaged_json("second_source.json")
"""A second repository of the same group, with per-sample results of one dataset that the release lacks: its name,
pinned commits, the dataset and the encoders. Nobody recorded its checksums, so each is recorded at the first download
(`RECORDED`), and the file must keep it."""

SECOND_FOLDER = "eval_results/PyGBS"
RECORDED = "checksums.json"


@dataclass(frozen=True)
class ReleasedFile:
    """One file of the release: its path in the repository, its size in bytes and its SHA-256."""

    path: str
    size: int
    sha256: str
    kind: str
    dataset: str
    encoder: str


class ReleasedResultsError(Exception):
    """Released results that cannot be had or cannot be read truthfully. The message names the next step."""


class ReleasedFilesMissingError(ReleasedResultsError, FileNotFoundError):
    """The release has the file, this machine does not."""


class NotReleasedError(ReleasedResultsError):
    """The release has no such file, or an empty one: there is nothing to fetch."""


class EmptyFileError(NotReleasedError):
    """The release has the file, without content."""


class DamagedReleasedFileError(ReleasedResultsError):
    """A file in the place of a released one that has not its size or checksum."""


HOW_TO_GET = (
    "run `python data_scripts/fetch_released.py`, or set TSLAB_MIRROR to a copy of the TorchSpatial repository "
    "(TSLAB_DATA chooses the cache folder)"
)


def released_files(
    *,
    kinds: Sequence[str] = ("classification", "regression"),
    datasets: Sequence[str] | None = None,
    encoders: Sequence[str] | None = None,
) -> list[ReleasedFile]:
    """The released files tslab knows by checksum, filtered.

    Args:
        kinds: any of ``classification``, ``regression`` (evaluation CSVs) and ``checkpoint``.
        datasets: dataset keys (`DATASET_TOKENS`), all if None.
        encoders: encoder keys (`ENCODER_TOKENS`), all if None.

    Raises:
        ValueError: an unknown kind, dataset or encoder.
    """
    _check_known("kind", kinds, ("classification", "regression", "checkpoint"))
    _check_known("dataset", datasets or (), DATASET_TOKENS)
    _check_known("encoder", encoders or (), ENCODER_TOKENS)
    return [
        file
        for file in _index()
        if file.kind in kinds
        and (datasets is None or file.dataset in datasets)
        and (encoders is None or file.encoder in encoders)
    ]


def released_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder laid out like the repository (it holds ``eval_results/``) that files are read from.

    ``root`` if given, else ``TSLAB_MIRROR``, else ``TorchSpatial`` in `data_folder`, which need not exist yet.

    Raises:
        ReleasedFilesMissingError: ``root`` or ``TSLAB_MIRROR`` names a folder without released files.
    """
    named = root or os.environ.get("TSLAB_MIRROR")
    if not named:
        return data_folder() / "TorchSpatial"
    origin = "root" if root else "TSLAB_MIRROR"
    for folder in (Path(named).expanduser() / "TorchSpatial", Path(named).expanduser()):
        if (folder / "eval_results").is_dir() or (folder / "pre_trained_models").is_dir():
            return folder
    raise ReleasedFilesMissingError(
        f"{origin}={os.fspath(named)} holds no released files (no eval_results/ in it or in its "
        f"TorchSpatial/); {HOW_TO_GET}"
    )


def has_released_results(root: str | os.PathLike[str] | None = None, datasets: Sequence[str] | None = None) -> bool:
    """True if every checksummed result file of the ``datasets`` (all if None) is there; contents are not read."""
    try:
        folder = released_root(root)
    except ReleasedFilesMissingError:
        return False
    return all((folder / file.path).is_file() for file in released_files(datasets=datasets))


def result_path(dataset: str, encoder: str, root: str | os.PathLike[str] | None = None) -> Path:
    """Path of the evaluation CSV of one dataset and encoder, with the irregular names of the release.

    Raises:
        ValueError: unknown dataset or encoder.
        NotReleasedError: the release has no such file.
        ReleasedFilesMissingError: the release has it, this machine does not.
    """
    _check_known("dataset", [dataset], DATASET_TOKENS)
    _check_known("encoder", [encoder], ENCODER_TOKENS)
    kind = "regression" if dataset.startswith("mosaiks_") else "classification"
    token = ENCODER_TOKENS[encoder] + ("_regress" if (kind, encoder) == ("regression", "no_prior") else "")
    stem = f"eval_results/{kind}/eval_{DATASET_TOKENS[dataset]}_{token}"
    folder = released_root(root)
    second = f"{SECOND_FOLDER}/{Path(stem).name}.csv"
    for name in (f"{stem}.csv", f"{stem} copy.csv", second):
        if (folder / name).is_file():
            return folder / name
    if released_files(datasets=[dataset], encoders=[encoder]):
        raise ReleasedFilesMissingError(f"{stem}.csv is not in {folder}; {HOW_TO_GET}")
    elsewhere = ""
    if dataset == SECOND_SOURCE["dataset"] and encoder in SECOND_SOURCE["encoders"]:
        elsewhere = f", fetch them from {SECOND_SOURCE['repository']} (data_scripts/fetch_released.py --second-source)"
    raise NotReleasedError(
        f"no per-sample results of {encoder} on {dataset} are among the {RELEASE} release files ({stem}.csv is "
        f"absent); use another encoder{elsewhere}, or train this one with tslab.train"
    )


def check_released_file(path: Path) -> str:
    """Refuse a file that is not, byte for byte, the released one of its name.

    A file is read once in a process for its checksum, and again if its size or date changes.

    Returns:
        "" for the released file; what is different where ``TSLAB_OWN_RESULTS=1`` lets files of one's own pass.

    Raises:
        DamagedReleasedFileError: another size or checksum, or the release has no file of this name; says what differs
            and how to get the released one.
    """
    folder_and_name = "/".join(path.parts[-3:]).replace(" copy.csv", ".csv")
    known = {file.path.replace(" copy.csv", ".csv"): file for file in _index()}.get(folder_and_name)
    if path.parent.name == Path(SECOND_FOLDER).name and (path.parent / RECORDED).is_file():
        digest = read_json(path.parent / RECORDED, remedy="delete the folder and fetch it again").get(path.name)
        known = ReleasedFile(path.name, path.stat().st_size, str(digest), "classification", "", "")
    different = "the release has no file of this name" if known is None else difference(path, known)
    if not different:
        return ""
    if os.environ.get("TSLAB_OWN_RESULTS", "0") not in ("", "0"):
        return different
    raise DamagedReleasedFileError(
        f"{path} is not the released file: {different}. Delete it and {HOW_TO_GET}; to read files of your own in this "
        "place, set TSLAB_OWN_RESULTS=1"
    )


def difference(path: Path, file: ReleasedFile) -> str:
    """What tells the file at ``path`` from the released one; "" if it is that, byte for byte."""
    found = path.stat()
    if found.st_size != file.size:
        return f"it has {found.st_size:,} bytes, the released file {file.size:,}"
    digest = sha256_of(path)
    return (
        ""
        if digest == file.sha256
        else f"its SHA-256 is {digest[:12]}..., that of the released file {file.sha256[:12]}..."
    )


@cache
def index_sha256() -> str:
    """Checksum of tslab's list of released files, which holds the checksum of every file."""
    return hashlib.sha256((files("tslab") / "data" / INDEX).read_bytes()).hexdigest()


def sha256_of(path: Path) -> str:
    """Checksum of a file, read once in a process, and again if its size or date changes."""
    found = path.stat()
    return _sha256(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=1024)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Checksum of a file; ``size`` and ``mtime_ns`` tell two states of it apart."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@cache
def _index() -> tuple[ReleasedFile, ...]:
    with (files("tslab") / "data" / INDEX).open(encoding="utf-8") as stream:
        table = pd.read_csv(stream).rename(columns={"bytes": "size"})
    return tuple(ReleasedFile(**row) for row in table.to_dict("records"))


def _check_known(what: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise if a key is unknown, listing the keys there are."""
    for key in given:
        if key not in known:
            raise ValueError(f"no {what} {key!r} among the released results; use one of {', '.join(known)}")
