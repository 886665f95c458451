"""Which files the TorchSpatial authors released, where they lie on this machine, and how to get them.

The release is a git repository. Its per-sample evaluation results (``eval_results/``) and checkpoints
(``pre_trained_models/``) are what the reproduction chapters start from. They are licensed CC BY-NC 4.0, so tslab does
not ship them: it ships their checksums and this module. Files are looked for in, by precedence, an explicit ``root``,
the folder named by ``TSLAB_MIRROR`` (a copy of the repository, or a folder holding one as ``TorchSpatial/``) and the
cache folder ``TSLAB_DATA`` (default: the platform's cache folder), which ``data_scripts/fetch_released.py`` fills.

Numbers are only computed from files that have the released checksum (`check_released_file`). To read files of your own
in the place and format of the released ones, set ``TSLAB_OWN_RESULTS=1``.

Apart from `tslab.released`, which reads the files and knows their traps: nothing here looks inside one.
"""

import errno
import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import platformdirs
import pooch
import requests

from tslab._checks import check_count

REPOSITORY = "seai-lab/TorchSpatial"
"""The official repository on GitHub."""

RELEASE = "9f8d833"
"""Abbreviated commit of the release that the checksums were computed from."""

DATASET_TOKENS: dict[str, str] = {
    "birdsnap": "birdsnap_orig_meta_test",
    "birdsnap_ebird": "birdsnap_ebird_meta_test",
    "nabirds": "nabirds_ebird_meta_test",
    "inat2017": "inat_2017__val",
    "inat2018": "inat_2018__val",
    "yfcc": "yfcc__test",
    "fmow": "fmow__val",
    "mosaiks_population": "mosaiks_population__test",
    "mosaiks_forest_cover": "mosaiks_forest_cover__test",
    "mosaiks_nightlights": "mosaiks_nightlights__test",
    "mosaiks_elevation": "mosaiks_elevation__test",
}
"""How the released files call each dataset."""

ENCODER_TOKENS: dict[str, str] = {
    "no_prior": "no_prior",
    "tile": "tile_ffn",
    "wrap": "wrap",
    "wrap_ffn": "wrap_ffn",
    "rbf": "rbf",
    "rff": "rff",
    "space2vec_grid": "Space2Vec-grid",
    "space2vec_theory": "Space2Vec-theory",
    "xyz": "xyz",
    "nerf": "NeRF",
    "sphere2vec_sphereC": "Sphere2Vec-sphereC",
    "sphere2vec_sphereC+": "Sphere2Vec-sphereC+",
    "sphere2vec_sphereM": "Sphere2Vec-sphereM",
    "sphere2vec_sphereM+": "Sphere2Vec-sphereM+",
    "sphere2vec_dfs": "Sphere2Vec-dfs",
    "siren_sh": "spherical_harmonics",
}
"""How the released files call each encoder (``no_prior`` is ``no_prior_regress`` in regression files)."""


@dataclass(frozen=True)
class ReleasedFile:
    """One file of the release: its path in the repository, its size in bytes and its SHA-256."""

    path: str
    size: int
    sha256: str
    kind: str
    dataset: str
    encoder: str


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


class FetchError(ReleasedResultsError):
    """A download that did not end in a verified file. Nothing was left behind."""


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


def data_folder() -> Path:
    """tslab's cache folder: ``TSLAB_DATA``, by default the platform's cache folder for tslab."""
    return Path(os.environ.get("TSLAB_DATA") or platformdirs.user_cache_dir("tslab")).expanduser()


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
    for name in (f"{stem}.csv", f"{stem} copy.csv"):
        if (folder / name).is_file():
            return folder / name
    if released_files(datasets=[dataset], encoders=[encoder]):
        raise ReleasedFilesMissingError(f"{stem}.csv is not in {folder}; {HOW_TO_GET}")
    raise NotReleasedError(
        f"no per-sample results of {encoder} on {dataset} are among the {RELEASE} release files ({stem}.csv is "
        "absent); use another encoder, or train this one with tslab.train"
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
    found = path.stat()
    if known is None:
        different = "the release has no file of this name"
    elif found.st_size != known.size:
        different = f"it has {found.st_size:,} bytes, the released file {known.size:,}"
    elif (digest := _sha256(path, found.st_size, found.st_mtime_ns)) != known.sha256:
        different = f"its SHA-256 is {digest[:12]}..., that of the released file {known.sha256[:12]}..."
    else:
        return ""
    if os.environ.get("TSLAB_OWN_RESULTS", "0") not in ("", "0"):
        return different
    raise DamagedReleasedFileError(
        f"{path} is not the released file: {different}. Delete it and {HOW_TO_GET}; to read files of your own in this "
        "place, set TSLAB_OWN_RESULTS=1"
    )


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
    found = path.stat()
    same = found.st_size == file.size and _sha256(path, found.st_size, found.st_mtime_ns) == file.sha256
    return "ok" if same else "differs"


@lru_cache(maxsize=1024)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Checksum of a file; ``size`` and ``mtime_ns`` tell two states of it apart."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@cache
def _index() -> tuple[ReleasedFile, ...]:
    with (files("tslab") / "data" / "released_files.csv").open(encoding="utf-8") as stream:
        table = pd.read_csv(stream).rename(columns={"bytes": "size"})
    return tuple(ReleasedFile(**row) for row in table.to_dict("records"))


def _check_known(what: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise if a key is unknown, listing the keys there are."""
    for key in given:
        if key not in known:
            raise ValueError(f"no {what} {key!r} among the released results; use one of {', '.join(known)}")
