"""Getting the LocBench archives from figshare: listed first, accepted, resumed, checked, and unpacked safely.

An archive is downloaded into ``<root>/.downloads/`` under a name that ends in ``.part`` until its checksum agrees;
what an interrupted download got stays there and the next run continues behind it. Archives are unpacked into a
temporary folder next to the datasets, every member checked to stay inside, and then moved into place, so no dataset
folder is ever half there. Checksums of what was fetched are recorded in ``<root>/checksums.json``.

Nothing that comes from the network is trusted: names must be plain file names, no more bytes are written than were
announced, and `locbench_unpacking` looks at an archive before it unpacks it.
"""

import errno
import hashlib
import inspect
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import requests
from pooch.downloaders import doi_to_repository

from locbench_unpacking import FetchLocbenchError
from tslab._checks import check_count, check_number
from tslab._files import DamagedFileError, atomic_write, only_writer, read_json
from tslab.tasks.datasets import DATASETS, DOI

CHUNK = 1 << 16
DOWNLOADS = ".downloads"
RECORD = "checksums.json"

FOLDER_WORDS: dict[str, tuple[str, ...]] = {
    "birdsnap": ("birdsnap",),
    "nabirds": ("nabirds",),
    "inat_2017": ("inat2017", "inat17"),
    "inat_2018": ("inat2018", "inat18"),
    "yfcc": ("yfcc",),
    "fmow": ("fmow",),
    "mosaiks": ("mosaiks",),
    "sustainbench": ("sustainbench", "dhs"),
}
"""Words by which the name of an archive (letters and digits only) gives away its dataset folder."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of the figshare item.

    Raises:
        FetchLocbenchError: a name that is no plain file name, or a size that is none.
    """

    name: str
    url: str
    size: int
    md5: str

    def __post_init__(self) -> None:
        name = self.name
        if not isinstance(name, str) or name in ("", ".", "..") or any(c in name for c in "/\\:\0"):
            raise FetchLocbenchError(
                f"the list of files names {name!r}, which would be written outside its folder: nothing was fetched; do "
                f"not trust this list, and download by hand from https://doi.org/{DOI}"
            )
        if self.size < 0:
            raise FetchLocbenchError(f"the list of files gives {name} a size of {self.size} bytes")

    @property
    def folder(self) -> str | None:
        """The dataset folder that it belongs to, by its name; None if the name says nothing."""
        plain = "".join(c for c in self.name.lower() if c.isalnum())
        return next((f for f, words in FOLDER_WORDS.items() if any(word in plain for word in words)), None)


def list_remote(doi: str = DOI, *, timeout: float = 60) -> list[RemoteFile]:
    """The files of the figshare item behind ``doi``, with sizes and checksums.

    Raises:
        FetchLocbenchError: no connection, or an answer that is no file list.
    """
    check_number("timeout", timeout, above=0)
    limit = {"timeout": timeout} if "timeout" in inspect.signature(doi_to_repository).parameters else {}
    try:
        listed = doi_to_repository(doi, **limit).api_response
        return [RemoteFile(f["name"], f["download_url"], int(f["size"]), f["computed_md5"]) for f in listed]
    except (
        requests.RequestException,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OverflowError,
    ) as error:
        raise FetchLocbenchError(
            f"cannot list doi:{doi} ({type(error).__name__}: {error}); check the connection, or download the archives "
            f"by hand from https://doi.org/{doi} and unpack them into one folder per dataset"
        ) from error


def files_for(names: Iterable[str], remote: Sequence[RemoteFile]) -> list[RemoteFile]:
    """The remote files that hold some datasets.

    Raises:
        FetchLocbenchError: a dataset that no file name mentions; lists the names there are.
    """
    chosen: list[RemoteFile] = []
    for name in names:
        info = DATASETS[name]
        found = [file for file in remote if file.folder == info.folder]
        if not found:
            there = ", ".join(file.name for file in remote) or "none"
            raise FetchLocbenchError(
                f"no file of doi:{DOI} is named after {info.folder} (files: {there}); download the right one by hand "
                f"and unpack it to {info.folder}/"
            )
        chosen += [file for file in found if file not in chosen]
    return chosen


def terms(names: Iterable[str]) -> str:
    """Licence and terms of some datasets, to be shown before downloading."""
    lines = [f"  {DATASETS[name].title}: {DATASETS[name].licence}. {DATASETS[name].upstream}" for name in names]
    return "\n".join(
        [
            "TorchSpatial data products are CC BY-NC 4.0 where no upstream terms apply; upstream terms prevail:",
            *lines,
        ]
    )


def fetch(
    file: RemoteFile,
    root: str | os.PathLike[str],
    *,
    retries: int = 4,
    timeout: float = 60,
    pause: float = 1.0,
    progress: Callable[[int], object] = lambda _: None,
) -> Path:
    """Download one file into ``<root>/.downloads/``, continuing an earlier attempt, and check it.

    Args:
        file: from `list_remote`.
        root: folder of the datasets.
        retries: further attempts after a lost connection, after ``pause``, 2 ``pause``, 4 ``pause`` ... seconds.
        progress: called with the number of new bytes.

    Returns:
        the complete, verified file.

    Raises:
        FetchLocbenchError: connection lost (what came so far is kept and the next call continues), no space, or a
            checksum that does not agree (the file is removed).
        tslab._files.FolderInUseError: another process fetches this file.
    """
    check_count("retries", retries, at_least=0)
    check_number("timeout", timeout, above=0)
    check_number("pause", pause, at_least=0)
    target = Path(root).expanduser() / DOWNLOADS / file.name
    if target.is_file() and _md5(target) == file.md5:
        progress(file.size)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    _check_space(file, part)
    lock = target.with_name(f".{file.name}.lock")
    with only_writer(lock, hint=f"{file.name} is being fetched already, wait until it has come", keep=False):
        progress(part.stat().st_size if part.exists() else 0)
        try:
            _complete(file, part, retries=retries, timeout=timeout, pause=pause, progress=progress)
            if _md5(part) != file.md5:
                part.unlink()
                raise FetchLocbenchError(
                    f"{file.name}: the checksum does not agree with figshare's ({file.md5}); the file was removed, run "
                    "the same command again"
                )
            os.replace(part, target)
        except requests.RequestException as error:
            raise FetchLocbenchError(f"{file.url} answers {error}; run --list to see the files there are") from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            part.unlink(missing_ok=True)
            raise FetchLocbenchError(
                f"the disk is full: {file.name} needs {file.size / 1e9:.2f} GB in {target.parent}; nothing was left "
                "behind, free some space or choose another --root, and run the same command again"
            ) from error
    return target


def record(file: RemoteFile, path: Path, root: str | os.PathLike[str]) -> None:
    """Note name, size, MD5, SHA-256 and address of a fetched file in ``<root>/checksums.json``.

    Raises:
        tslab._files.DamagedFileError: that file is damaged; says what to do.
    """
    book = Path(root).expanduser() / RECORD
    sha256 = _digest(path, "sha256")
    lock = book.with_name(f".{RECORD}.lock")
    with only_writer(lock, hint="run the same command again when it has ended", wait=10, keep=False):
        known = _recorded(book)
        known[file.name] = {**asdict(file), "sha256": sha256}
        atomic_write(book, json.dumps(known, indent=2, sort_keys=True) + "\n")


def changed_downloads(root: str | os.PathLike[str]) -> list[str]:
    """Names of recorded downloads that are still there but no longer have their recorded SHA-256.

    Raises:
        tslab._files.DamagedFileError: the record is damaged; says what to do.
    """
    root = Path(root).expanduser()
    known = _recorded(root / RECORD)
    kept = {name: root / DOWNLOADS / Path(name).name for name in known}
    return [n for n, path in kept.items() if path.is_file() and _digest(path, "sha256") != known[n]["sha256"]]


def _recorded(book: Path) -> dict[str, dict[str, Any]]:
    remedy = "remove it and run the same command again; downloads and data stay"
    known = read_json(book, remedy=remedy) if book.is_file() else {}
    for name, entry in known.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            raise DamagedFileError(f"{book} is damaged (no sha256 of {name!r}); {remedy}")
    return known


def _complete(
    file: RemoteFile,
    part: Path,
    *,
    retries: int,
    timeout: float,
    pause: float,
    progress: Callable[[int], object],
) -> None:
    """Fetch what is missing, again and again after lost connections."""
    for attempt in range(retries + 1):
        try:
            _continue(file, part, timeout, progress)
            break
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            if attempt == retries:
                raise _lost(file, part, error) from error
            time.sleep(pause * min(2.0**attempt, 30))
    if part.stat().st_size < file.size:
        raise _lost(file, part, "the server closed the connection early")


def _continue(file: RemoteFile, part: Path, timeout: float, progress: Callable[[int], object]) -> None:
    """Append what is missing; start over if the server cannot continue or the part is too long."""
    have = part.stat().st_size if part.exists() else 0
    if have > file.size:
        part.unlink()
        have = 0
    if have == file.size:
        part.touch()
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    with requests.get(file.url, headers=headers, stream=True, timeout=timeout) as response:
        response.raise_for_status()
        if have and response.status_code != 206:
            progress(-have)
            have = 0
        with part.open("ab" if have else "wb") as stream:
            for chunk in response.iter_content(CHUNK):
                have += len(chunk)
                if have > file.size:
                    break
                stream.write(chunk)
                progress(len(chunk))
    if have > file.size:
        part.unlink()
        raise FetchLocbenchError(
            f"{file.url} sends more than the {file.size:,} bytes that were announced: the download was stopped and "
            "removed; run --list to see the files there are"
        )


def _lost(file: RemoteFile, part: Path, reason: object) -> FetchLocbenchError:
    have = part.stat().st_size if part.exists() else 0
    return FetchLocbenchError(
        f"connection lost while fetching {file.name} ({reason}); {have:,} of {file.size:,} bytes are kept in {part}, "
        "run the same command again to continue"
    )


def _check_space(file: RemoteFile, part: Path) -> None:
    needed = file.size - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise FetchLocbenchError(
            f"the disk is full: {file.name} needs {needed / 1e9:.2f} GB in {part.parent}, {free / 1e9:.2f} GB are "
            "free; make some space or choose another --root"
        )


def _md5(path: Path) -> str:
    return _digest(path, "md5")


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()
