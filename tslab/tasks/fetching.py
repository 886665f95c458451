"""Getting the LocBench archives from figshare: listed first, accepted, resumed, checked, and unpacked safely.

An archive is downloaded into ``<root>/.downloads/`` under a name that ends in ``.part`` until its checksum agrees;
what an interrupted download got stays there and the next run continues behind it. Archives are unpacked into a
temporary folder next to the datasets, every member checked to stay inside, and then moved into place, so no dataset
folder is ever half there. Checksums of what was fetched are recorded in ``<root>/checksums.json``.
"""

import errno
import hashlib
import inspect
import json
import os
import shutil
import stat
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import requests
from pooch.downloaders import doi_to_repository

from tslab._files import atomic_write
from tslab.tasks.datasets import DATASETS, DOI, DatasetInfo

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


class FetchLocbenchError(RuntimeError):
    """An archive that could not be had. The message says what was left where, and the next step."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of the figshare item."""

    name: str
    url: str
    size: int
    md5: str

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
    try:
        limited = "timeout" in inspect.signature(doi_to_repository).parameters  # pooch 1.9 and newer
        listed = doi_to_repository(doi, **({"timeout": timeout} if limited else {})).api_response
        return [RemoteFile(f["name"], f["download_url"], int(f["size"]), f["computed_md5"]) for f in listed]
    except (requests.RequestException, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
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
    lines = [
        f"  {DATASETS[name].title}: {DATASETS[name].licence}. {DATASETS[name].upstream}" for name in names
    ]
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
    """
    target = Path(root).expanduser() / DOWNLOADS / file.name
    if target.is_file() and _md5(target) == file.md5:
        progress(file.size)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    _check_space(file, part)
    progress(part.stat().st_size if part.exists() else 0)
    try:
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
        if _md5(part) != file.md5:
            part.unlink()
            raise FetchLocbenchError(
                f"{file.name}: the checksum does not agree with figshare's ({file.md5}); the file was removed, run the "
                "same command again"
            )
        os.replace(part, target)
    except requests.HTTPError as error:
        raise FetchLocbenchError(
            f"{file.url} answers {error}; run --list to see the files there are"
        ) from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        part.unlink(missing_ok=True)
        raise FetchLocbenchError(
            f"the disk is full: {file.name} needs {file.size / 1e9:.2f} GB in {target.parent}; nothing was left "
            "behind, "
            "free some space or choose another --root, and run the same command again"
        ) from error
    return target


def unpack(archive: str | os.PathLike[str], root: str | os.PathLike[str], folder: str) -> Path:
    """Unpack a zip or tar archive to ``<root>/<folder>/``, merging with what is there; a plain file is copied.

    Members that are absolute, climb out with ``..``, or are links or devices are refused before anything is written. A
    single top folder inside the archive is taken off, so that files lie directly in ``<root>/<folder>/``.

    Raises:
        FetchLocbenchError: an unsafe member, a truncated archive, a full disk; nothing is left behind.
    """
    archive, root = Path(archive), Path(root).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder}-", dir=root))
    try:
        _extract(archive, staging)
        _merge(_content_root(staging, folder), root / folder)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise FetchLocbenchError(
            f"{archive.name} is truncated or damaged ({error}); remove it and fetch it again"
        ) from error
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise FetchLocbenchError(
            f"cannot unpack {archive.name}: {what}; the half-unpacked files were removed"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return root / folder


def record(file: RemoteFile, path: Path, root: str | os.PathLike[str]) -> None:
    """Note name, size, MD5, SHA-256 and address of a fetched file in ``<root>/checksums.json``."""
    book = Path(root).expanduser() / RECORD
    known = json.loads(book.read_text()) if book.is_file() else {}
    known[file.name] = {**asdict(file), "sha256": _digest(path, "sha256")}
    atomic_write(book, json.dumps(known, indent=2, sort_keys=True) + "\n")


def changed_downloads(root: str | os.PathLike[str]) -> list[str]:
    """Names of recorded downloads that are still there but no longer have their recorded SHA-256."""
    root = Path(root).expanduser()
    book = root / RECORD
    known = json.loads(book.read_text()) if book.is_file() else {}
    kept = {name: root / DOWNLOADS / name for name in known}
    return [n for n, path in kept.items() if path.is_file() and _digest(path, "sha256") != known[n]["sha256"]]


def datasets_in(folders: Iterable[str]) -> list[DatasetInfo]:
    """The datasets whose files lie in some folders."""
    wanted = set(folders)
    return [info for info in DATASETS.values() if info.folder in wanted]


def _continue(file: RemoteFile, part: Path, timeout: float, progress: Callable[[int], object]) -> None:
    """Append what is missing; start over if the server cannot continue or the part is too long."""
    have = part.stat().st_size if part.exists() else 0
    if have > file.size:
        part.unlink()
        have = 0
    if have == file.size:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    with requests.get(file.url, headers=headers, stream=True, timeout=timeout) as response:
        response.raise_for_status()
        if have and response.status_code != 206:
            progress(-have)
            have = 0
        with part.open("ab" if have else "wb") as stream:
            for chunk in response.iter_content(CHUNK):
                stream.write(chunk)
                progress(len(chunk))


def _lost(file: RemoteFile, part: Path, reason: object) -> FetchLocbenchError:
    have = part.stat().st_size if part.exists() else 0
    return FetchLocbenchError(
        f"connection lost while fetching {file.name} ({reason}); {have:,} of {file.size:,} bytes are kept in {part}, "
        "run "
        "the same command again to continue"
    )


def _check_space(file: RemoteFile, part: Path) -> None:
    needed = file.size - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise FetchLocbenchError(
            f"the disk is full: {file.name} needs {needed / 1e9:.2f} GB in {part.parent}, {free / 1e9:.2f} GB are "
            "free; make some space or choose another --root"
        )


def _extract(archive: Path, staging: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for member in packed.infolist():
                _check_member(archive, member.filename, link=stat.S_ISLNK(member.external_attr >> 16))
            packed.extractall(staging)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as packed_tar:
            for entry in packed_tar:
                _check_member(archive, entry.name, link=not (entry.isfile() or entry.isdir()))
            packed_tar.extractall(staging, filter="data")
    elif archive.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz"):
        raise zipfile.BadZipFile("no archive that can be opened")
    else:
        shutil.copy2(archive, staging / archive.name)


def _check_member(archive: Path, name: str, *, link: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
        raise FetchLocbenchError(
            f"{archive.name} wants to write outside its folder ({name!r}): it was not unpacked; do not trust this file"
        )
    if link:
        raise FetchLocbenchError(f"{archive.name} holds a link or device ({name!r}): it was not unpacked")


def _content_root(staging: Path, folder: str) -> Path:
    """Step into single wrapping folders such as ``data/birdsnap/``, never into a dataset's own ``features_…``."""
    here = staging
    while True:
        inside = [path for path in here.iterdir() if path.name not in ("__MACOSX", ".DS_Store")]
        if len(inside) != 1 or not inside[0].is_dir() or inside[0].name.startswith(("feature", "fewshot")):
            return here
        here = inside[0]


def _merge(source: Path, target: Path) -> None:
    """Move files into ``target``; each arrives by a rename."""
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if path.is_file() and "__MACOSX" not in relative.parts:
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target / relative)


def _md5(path: Path) -> str:
    return _digest(path, "md5")


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()
