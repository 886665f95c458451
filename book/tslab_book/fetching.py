"""Getting the released files: pinned commits of the official repository, verified by checksum.

``data_scripts/fetch_released.py`` is the command; the chapter on Table 1 offers the same. `tslab.released_files` says
which files there are and where they lie.
"""

import errno
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pooch
import requests

from tslab._checks import check_count
from tslab.released_files import (
    REPOSITORY,
    ReleasedFile,
    ReleasedResultsError,
    data_folder,
    difference,
    released_root,
)


@dataclass(frozen=True)
class Source:
    """One commit to download from. ``flat`` commits keep classification results directly in ``eval_results/``."""

    commit: str
    flat: bool = False

    def url(self, path: str, host: str = "https://raw.githubusercontent.com") -> str:
        """The address of a repository file at this commit."""
        if self.flat:
            path = path.replace("eval_results/classification/", "eval_results/")
        return f"{host}/{REPOSITORY}/{self.commit}/{quote(path)}"


SOURCES: tuple[Source, ...] = (
    Source("6d7c6388b11452185dfb1aa89019094d34b3652c"),
    Source("1c2dc7aa48e239d0aa9a561517fd1e25694b28bb"),
    Source("bf92dabe6f76564536d9e43d7831c77f901f0f78"),
    Source("68c53860f553c79593d2e014696f27a7468dbf62"),
    Source("4434b1c14cebc70d37cdb46900749ad315597e16"),
    Source("d8994dcf992a7fcd262411051d1a22a6878875f6", flat=True),
)
"""Pinned commits, tried in this order. The checksum decides: every source yields the same bytes or none."""


class FetchError(ReleasedResultsError):
    """A download that did not end in a verified file. Nothing was left behind."""


def verify_released(chosen: Iterable[ReleasedFile], root: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """Compare files on this machine with the released checksums.

    Returns:
        path -> ``ok``, ``missing`` or ``differs``.
    """
    folder = released_root(root)
    return {file.path: _state(folder / file.path, file) for file in chosen}


def fetch_released(
    chosen: Sequence[ReleasedFile],
    folder: str | os.PathLike[str] | None = None,
    *,
    sources: Sequence[Source] = SOURCES,
    host: str = "https://raw.githubusercontent.com",
    retries: int = 2,
    report: Callable[[ReleasedFile, str], None] | None = None,
) -> dict[str, str]:
    """Download released files, each verified and put in place by a rename; verified files are skipped.

    A second call continues where an interrupted one stopped. No call leaves a partial or unverified file.

    Args:
        chosen: files, for instance from `released_files`.
        folder: repository-like folder to fill, default ``TorchSpatial`` in `data_folder`.
        sources: commits to try, in order, for each file.
        host: where the repository is served from.
        retries: further attempts after a dropped connection.
        report: called with each file and ``skipped`` or ``fetched`` when it is done (for progress).

    Returns:
        path -> ``skipped`` (was there, verified) or ``fetched``.

    Raises:
        FetchError: a file could not be had from any source, or could not be written.
    """
    check_count("retries", retries, at_least=0)
    target = Path(folder) if folder is not None else data_folder() / "TorchSpatial"
    outcome: dict[str, str] = {}
    preferred = list(sources)
    for file in chosen:
        if _state(target / file.path, file) == "ok":
            outcome[file.path] = "skipped"
        else:
            used = _fetch_one(file, target, preferred, host, retries)
            preferred.sort(key=lambda source: source != used)  # what answered goes first
            outcome[file.path] = "fetched"
        if report:
            report(file, outcome[file.path])
    return outcome


def _fetch_one(file: ReleasedFile, target: Path, sources: Sequence[Source], host: str, retries: int) -> Source:
    """Fetch one file from the first source that has it, and return that source."""
    problems = []
    for source in sources:
        url = source.url(file.path, host)
        try:
            _download(url, file, target, retries)
        except requests.HTTPError as error:
            problems.append(f"{url}: {error}")
        except requests.RequestException as error:
            raise FetchError(
                f"connection lost while fetching {url}: {error}; nothing was left behind, run the same command again "
                "to resume"
            ) from error
        except ValueError as error:  # pooch: the checksum does not match
            problems.append(f"{url}: {error}")
        except OSError as error:
            what = "the disk is full" if error.errno == errno.ENOSPC else str(error)
            raise FetchError(
                f"cannot write {target / file.path} ({file.size / 1e6:.1f} MB): {what}; nothing was left behind, free "
                "some space or set TSLAB_DATA to a folder on another disk, and run the same command again"
            ) from error
        else:
            return source
    listed = "\n  ".join(problems)
    raise FetchError(
        f"no pinned commit serves {file.path} with the expected checksum:\n  {listed}\n"
        "Nothing was left behind. If the repository has moved, clone it and set TSLAB_MIRROR to the clone."
    )


def _download(url: str, file: ReleasedFile, target: Path, retries: int) -> None:
    """One verified download through pooch, which writes to a temporary name in the same folder and renames."""
    pooch.get_logger().setLevel("WARNING")
    destination = target / file.path
    destination.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(retries + 1):
        if attempt:
            time.sleep(min(2.0**attempt, 10.0))
        try:
            pooch.retrieve(
                url,
                known_hash=f"sha256:{file.sha256}",
                fname=destination.name,
                path=destination.parent,
                downloader=pooch.HTTPDownloader(timeout=60, progressbar=_Limit(file.size)),
            )
            return
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
            if attempt == retries:
                raise


class _Limit:
    """Ends a download that goes on behind the last byte; pooch reports to it as to a progress bar."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.total = self.left = size

    def update(self, chunk: int) -> None:
        if self.left <= 0:  # pooch counts whole chunks, the last one too
            raise ValueError(f"it sends more than the {self.size:,} bytes of the released file")
        self.left -= chunk

    def reset(self) -> None:
        self.left = max(self.size, self.total)

    def close(self) -> None:
        """Nothing to close."""


def _state(path: Path, file: ReleasedFile) -> str:
    """``ok``, ``missing`` or ``differs``."""
    if not path.is_file():
        return "missing"
    return "differs" if difference(path, file) else "ok"
