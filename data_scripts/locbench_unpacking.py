"""Unpacking archives that nobody here made: looked at member by member first, then unpacked beside, then moved in.

Extraction needs nothing that older Pythons lack: files get no owner and no mode from the archive.
"""

import errno
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from tslab._files import FolderInUseError, only_writer

CHUNK = 1 << 16

MOST_GROWTH = 200
SMALL_BYTES = 16 << 20
"""An archive may unpack to `MOST_GROWTH` times its size, or to `SMALL_BYTES`: real ones grow tenfold, bombs more."""


class FetchLocbenchError(RuntimeError):
    """An archive that could not be had. The message says what was left where, and the next step."""


def unpack(archive: str | os.PathLike[str], root: str | os.PathLike[str], folder: str) -> Path:
    """Unpack a zip or tar archive to ``<root>/<folder>/``, merging with what is there; a plain file is copied.

    Members that are absolute, climb out with ``..``, or are links or devices are refused before anything is written,
    and so is an archive that would grow more than `MOST_GROWTH` times or beyond the free space. A single top folder
    inside the archive is taken off, so that files lie directly in ``<root>/<folder>/``.

    Raises:
        FetchLocbenchError: an unsafe member, a truncated archive, a full disk; nothing is left behind.
        tslab._files.FolderInUseError: another process unpacks to this folder.
    """
    archive, root = Path(archive), Path(root).expanduser()
    try:
        with only_writer(root / f".unpacking-{folder}.lock", hint="wait until it has ended", keep=False):
            for left in root.glob(f".unpacking-{folder}-????????"):  # of an earlier one that was killed
                shutil.rmtree(left, ignore_errors=True)
            staging = Path(tempfile.mkdtemp(prefix=f".unpacking-{folder}-", dir=root))
            try:
                _extract(archive, staging)
                _merge(_content_root(staging, folder), root / folder)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except (FetchLocbenchError, FolderInUseError):
        raise
    except DAMAGED as error:
        raise FetchLocbenchError(
            f"{archive.name} is truncated or damaged ({error}); remove it and fetch it again"
        ) from error
    except OSError as error:
        what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
        raise FetchLocbenchError(
            f"cannot unpack {archive.name}: {what}; the half-unpacked files were removed"
        ) from error
    return root / folder


DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    LZMAError,
    NotImplementedError,
    RuntimeError,
)
"""What the archive modules raise for damaged, encrypted or unknown content."""


def _extract(archive: Path, staging: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            total = 0
            for member in packed.infolist():
                _check_member(archive, member.filename, link=stat.S_ISLNK(member.external_attr >> 16))
                total = _grown(archive, staging, total + member.file_size)
            packed.extractall(staging)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as packed_tar:
            total, entries = 0, []
            for entry in packed_tar:
                _check_member(archive, entry.name, link=not (entry.isfile() or entry.isdir()))
                total = _grown(archive, staging, total + entry.size)
                entries.append(entry)
            # the checksum of a compressed stream stands at its end, behind where tarfile stops reading
            while packed_tar.fileobj is not None and (rest := packed_tar.fileobj.read(CHUNK)):
                total = _grown(archive, staging, total + len(rest))
            for entry in entries:
                _extract_entry(packed_tar, entry, staging / entry.name)
    elif archive.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz"):
        raise zipfile.BadZipFile("no archive that can be opened")
    else:
        shutil.copy2(archive, staging / archive.name)


def _extract_entry(packed: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> None:
    """One file or folder, without owner and mode. (``extractall(filter=)`` is missing before Python 3.11.4.)"""
    if entry.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    content = packed.extractfile(entry)
    if content is None:
        raise tarfile.ExtractError(f"{entry.name} has no content")
    with content, path.open("wb") as stream:
        shutil.copyfileobj(content, stream, CHUNK)
    if path.stat().st_size != entry.size:
        raise tarfile.ReadError("unexpected end of data")


def _grown(archive: Path, staging: Path, total: int) -> int:
    """Return ``total`` bytes, if an archive may unpack to that much."""
    if total > max(SMALL_BYTES, MOST_GROWTH * archive.stat().st_size):
        raise FetchLocbenchError(
            f"{archive.name} ({archive.stat().st_size:,} bytes) would unpack to {total:,} bytes or more: it was not "
            "unpacked; do not trust this file"
        )
    if total > shutil.disk_usage(staging).free:
        raise FetchLocbenchError(
            f"the disk is full: {archive.name} unpacks to {total / 1e9:.2f} GB or more in {staging.parent}; make some "
            "space or choose another --root"
        )
    return total


def _check_member(archive: Path, name: str, *, link: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if "\0" in name or path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
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
