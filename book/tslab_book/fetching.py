"""Getting the released files: pinned commits of the official repository, verified by checksum.

``data_scripts/fetch_released.py`` is the command; the chapter on Table 1 offers the same. `tslab.released_files` says
which files there are and where they lie.
"""

import dataclasses
import errno
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pooch
import requests

from tslab._checks import check_count
from tslab._files import atomic_write, data_folder, read_json
from tslab.released import check_results
from tslab.released_files import (
    DATASET_TOKENS,
    ENCODER_TOKENS,
    RECORDED,
    REPOSITORY,
    SECOND_FOLDER,
    SECOND_SOURCE,
    ReleasedFile,
    ReleasedResultsError,
    difference,
    released_root,
    sha256_of,
)


@dataclass(frozen=True)
class Source:
    """One commit to download from. ``flat`` commits keep classification results directly in ``eval_results/``;
    ``path`` is where a file lies that has another place there than here."""

    commit: str
    flat: bool = False
    repository: str = REPOSITORY
    path: str = ""

    def url(self, path: str, host: str = "https://raw.githubusercontent.com") -> str:
        """The address of a repository file at this commit."""
        if self.flat:
            path = path.replace("eval_results/classification/", "eval_results/")
        return f"{host}/{self.repository}/{self.commit}/{quote(self.path or path)}"


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


def fetch_second_source(
    folder: str | os.PathLike[str] | None = None,
    *,
    commits: Sequence[str] = tuple(SECOND_SOURCE["commits"]),
    host: str = "https://raw.githubusercontent.com",
    api: str = "https://api.github.com",
    retries: int = 2,
) -> dict[str, str]:
    """Download the per-sample results that only the second repository has (`tslab.released_files.SECOND_SOURCE`).

    A file is looked up by its name in the list of files of a pinned commit. Its SHA-256 is recorded beside it at the
    first download; later downloads, and every reading, must have it. A file that cannot be read as results is refused.

    Args:
        folder: repository-like folder to fill, default ``TorchSpatial`` in `data_folder`.
        commits: to look in, in order.
        host, api: where files and lists of files are served from.
        retries: further attempts after a dropped connection.

    Returns:
        path -> ``skipped`` (was there, with the recorded checksum), ``fetched``, or ``absent`` (no commit has it).

    Raises:
        FetchError: a file could not be had, could not be written, or is another one than at the first download.
    """
    check_count("retries", retries, at_least=0)
    target = Path(folder) if folder is not None else data_folder() / "TorchSpatial"
    beside = target / SECOND_FOLDER / RECORDED
    recorded = read_json(beside, remedy="delete the folder and fetch it again") if beside.is_file() else {}
    dataset = SECOND_SOURCE["dataset"]
    listed: dict[str, tuple[Source, int]] = {}
    outcome: dict[str, str] = {}
    for encoder in SECOND_SOURCE["encoders"]:
        name = f"eval_{DATASET_TOKENS[dataset]}_{ENCODER_TOKENS[encoder]}.csv"
        path = f"{SECOND_FOLDER}/{name}"
        file = ReleasedFile(path, 0, recorded.get(name, ""), "classification", dataset, encoder)
        if (target / path).is_file() and sha256_of(target / path) == file.sha256:
            outcome[path] = "skipped"
            continue
        listed = listed or _listed_files(commits, api)
        if name not in listed:
            outcome[path] = "absent"
            continue
        source, size = listed[name]
        (target / path).unlink(missing_ok=True)
        _fetch_one(dataclasses.replace(file, size=size), target, [source], host, retries)
        try:
            check_results(target / path)
        except ReleasedResultsError as error:
            (target / path).unlink()
            raise FetchError(f"{source.url(path, host)} holds no results: {error}") from error
        recorded[name] = sha256_of(target / path)
        atomic_write(beside, json.dumps(recorded, indent=1) + "\n")
        outcome[path] = "fetched"
    return outcome


def _listed_files(commits: Sequence[str], api: str) -> dict[str, tuple[Source, int]]:
    """Name of a file -> where it lies and its size, at the first of the commits that has it."""
    found: dict[str, tuple[Source, int]] = {}
    repository = SECOND_SOURCE["repository"]
    for commit in commits:
        url = f"{api}/repos/{repository}/git/trees/{commit}?recursive=1"
        try:
            answer = requests.get(url, timeout=60)
            answer.raise_for_status()
            entries = answer.json()["tree"]
        except (requests.RequestException, KeyError) as error:
            raise FetchError(f"{url} lists no files: {error}; run the same command again later") from error
        for entry in entries:
            source = Source(commit, repository=repository, path=entry["path"])
            found.setdefault(entry["path"].rsplit("/", 1)[-1], (source, int(entry.get("size", 0))))
    return found


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
                known_hash=f"sha256:{file.sha256}" if file.sha256 else None,
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
