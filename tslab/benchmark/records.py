"""Committed records: numbers in a CSV or JSON file of the book, and the sentence that says where they come from.

A page shows a record to a reader who cannot recompute it, and says so; `recompute_or_read` does either. A record may
only ever grow: a run that recomputed fewer cells, or none, leaves it as it is.
"""

import datetime
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from tslab._files import DamagedFileError, read_csv, read_json
from tslab.released_files import RELEASE, REPOSITORY, ReleasedFilesMissingError

REMEDY = "take it from the repository again"


@dataclass(frozen=True)
class Record:
    """Numbers and where they come from.

    Attributes:
        data: a table, or what a JSON file holds.
        origin: a sentence for the reader, in Markdown.
        recomputed: True if they were computed just now, False if they were read from the committed record.
        about: what stands beside the numbers: date, tslab, repository, release, and what else a record notes.
    """

    data: Any
    origin: str
    recomputed: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Provenance:
    """When and from what a record was computed.

    Attributes:
        date: day of the computation, ISO format, UTC.
        tslab: version of tslab.
        repository, release: where the released files come from, and their commit.
        index_sha256: checksum of tslab's list of released files, which holds the checksum of every file.
        files_read: released files that were read.
        rows_read: rows in them.
        located: dataset -> number of evaluated images that have a location, where the release says so.
    """

    date: str
    tslab: str
    repository: str
    release: str
    index_sha256: str
    files_read: int
    rows_read: int
    located: dict[str, int]

    @classmethod
    def now(cls, table: pd.DataFrame) -> "Provenance":
        """Provenance of a table recomputed just now (columns recomputed and n, attribute located)."""
        done = table[table["recomputed"].notna()]
        if "source" in done:  # the record of the audit: a file stands behind several cells
            done = done[done["metric"].isin(["top1", "r2"]) & (done["dataset"] != "avg_species")]
        index = (files("tslab") / "data" / "released_files.csv").read_bytes()
        return cls(
            **release_stamp(),
            tslab=_version(),
            index_sha256=hashlib.sha256(index).hexdigest(),
            files_read=len(done),
            rows_read=int(done["n"].sum()),
            located=dict(table.attrs.get("located", {})),
        )

    def __str__(self) -> str:
        return computed_on(asdict(self))


def computed_on(about: Mapping[str, Any]) -> str:
    """When, with which tslab and from what a record was computed, as far as ``about`` knows."""
    words = [f"computed on {about['date']}"] if "date" in about else ["computed earlier"]
    if "tslab" in about:
        words.append(f"with tslab {about['tslab']}")
    if "repository" in about:
        what = "the released files"
        if "files_read" in about:
            what = f"{about['files_read']} released files ({about['rows_read']:,} rows)"
        elif "file" in about:
            what = f"`{Path(about['file']).name}`"
        words.append(f"from {what} of {about['repository']}, commit {about['release'][:10]}")
    return " ".join(words)


def release_stamp() -> dict[str, str]:
    """What every record made from the released files says: date (today, ISO format, UTC), repository and release."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": today, "repository": REPOSITORY, "release": RELEASE}


def loses_numbers(
    earlier: pd.DataFrame, table: pd.DataFrame, column: str, key: Sequence[str] = ("dataset", "encoder", "metric")
) -> bool:
    """Whether ``earlier`` has a number in ``column`` that ``table`` lacks, in the row of the same key."""
    held, kept = (
        set(rows.loc[rows[column].notna(), list(key)].itertuples(index=False, name=None)) for rows in (earlier, table)
    )
    return not held <= kept


def read_record(name: str | os.PathLike[str]) -> Record:
    """The committed record ``name``: a JSON file, or a CSV file with a JSON file beside it that says where it is from.

    Raises:
        FileNotFoundError: there is none, see `find_record`.
        DamagedFileError: the JSON file cannot be read.
    """
    path = find_record(name)
    about: dict[str, Any] = {}
    if path.with_suffix(".json").is_file():
        about = read_json(path.with_suffix(".json"), remedy=REMEDY)
    data = about if path.suffix == ".json" else read_csv(path)
    return Record(data, f"**This is the committed record**, {computed_on(about)}.", False, about)


def recompute_or_read(
    name: str | os.PathLike[str], compute: Callable[[], Any], read: Callable[[Any], Any] = lambda data: data
) -> Record:
    """What ``compute`` gives, or the committed record ``name`` where the released files are not on this machine.

    Args:
        name: of the record.
        compute: raises `tslab.released_files.ReleasedFilesMissingError` where it lacks files.
        read: brings the data of the record into the form that ``compute`` gives.
    """
    try:
        return Record(compute(), f"**Recomputed now** from the released files of {REPOSITORY}.", True)
    except ReleasedFilesMissingError:
        record = read_record(name)
    origin = (
        "**The released files were not on the machine that ran this page.** What follows is the committed record, "
        f"{computed_on(record.about)}."
    )
    return Record(read(record.data), origin, False, record.about)


def read_provenance(path: str | os.PathLike[str]) -> Provenance:
    """The provenance of the record at ``path``, from the JSON file beside it.

    Raises:
        DamagedFileError: the JSON file cannot be read, or lacks a field.
    """
    source = Path(path).with_suffix(".json")
    try:
        return Provenance(**read_json(source, remedy=REMEDY))
    except TypeError as error:
        raise DamagedFileError(f"{source} is damaged ({error}); {REMEDY}") from error


def find_record(path: str | os.PathLike[str]) -> Path:
    """The record at ``path``, or the committed one of the same name if ``path`` is not there.

    The committed record is looked for in ``book/results`` and ``benchmarks/results`` of the working folder and the
    folders above it, and of the repository that tslab is installed from; then in the installed package itself,
    which carries a copy (``setup.py`` puts it there).

    Raises:
        FileNotFoundError: none is there.
    """
    wanted = Path(path)
    here = Path.cwd()
    roots = (here, *here.parents, Path(__file__).parents[2])
    folders = [root / part / "results" for root in roots for part in ("book", "benchmarks")]
    folders.append(Path(str(files("tslab"))) / "data" / "results")
    for candidate in (wanted, *(folder / wanted.name for folder in folders)):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"no record {wanted.name} at {wanted} or in book/results; get the released files with "
        "`python data_scripts/fetch_released.py`, or run this in a clone of the repository"
    )


def _version() -> str:
    """Version of the installed tslab."""
    try:
        return version("tslab")
    except PackageNotFoundError:
        return "(not installed)"
