"""The committed record of a recomputation: a CSV of cells and, beside it, a JSON that says when and from
what.

The record is what a chapter shows to a reader who has no released data. It may only ever grow: a run that
recomputed fewer cells, or none, leaves it as it is.
"""

import datetime
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

import pandas as pd

from tslab._files import atomic_write
from tslab.released_files import RELEASE, REPOSITORY

NUMBERS = ("recomputed", "low", "high")


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
        return (
            f"computed on {self.date} with tslab {self.tslab} from {self.files_read} released files "
            f"({self.rows_read:,} rows) of {self.repository}, commit {self.release}"
        )


def release_stamp() -> dict[str, str]:
    """What every record made from the released files says: date (today, ISO format, UTC), repository and release."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": today, "repository": REPOSITORY, "release": RELEASE}


def write_record(table: pd.DataFrame, path: str | os.PathLike[str]) -> str:
    """Write a table of cells to ``path`` and its `Provenance` beside it (``.json``), each completely or not
    at all.

    ``published`` is written with 2 decimals, ``recomputed`` and its interval with 6.

    Returns:
        ``written``; ``unchanged`` if the record already says exactly this (its date then stays); ``kept`` if
        the record holds a recomputed cell that the table lacks, so that writing would lose it.
    """
    target = Path(path)
    content = _as_csv(table)
    if target.is_file():
        if target.read_text(encoding="utf-8") == content:
            return "unchanged"
        if loses_numbers(pd.read_csv(target), table, "recomputed"):
            return "kept"
    provenance = json.dumps(asdict(Provenance.now(table)), indent=2) + "\n"
    atomic_write(target, content)
    atomic_write(target.with_suffix(".json"), provenance)
    return "written"


def loses_numbers(
    earlier: pd.DataFrame, table: pd.DataFrame, column: str, key: Sequence[str] = ("dataset", "encoder", "metric")
) -> bool:
    """Whether ``earlier`` has a number in ``column`` that ``table`` lacks, in the row of the same key."""
    held, kept = (
        set(rows.loc[rows[column].notna(), list(key)].itertuples(index=False, name=None)) for rows in (earlier, table)
    )
    return not held <= kept


def read_record(path: str | os.PathLike[str]) -> tuple[pd.DataFrame, Provenance]:
    """A record and its provenance.

    Raises:
        FileNotFoundError: there is no record at ``path``.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(
            f"no record at {source}; recompute it with the released files, or clone the repository"
        )
    table = pd.read_csv(
        source,
        dtype={"n": "Int64"},
        keep_default_na=False,
        na_values={name: [""] for name in (*NUMBERS, "n")},
    )
    return table, read_provenance(source)


def read_provenance(path: str | os.PathLike[str]) -> Provenance:
    """The provenance of the record at ``path``, from the JSON file beside it."""
    return Provenance(**json.loads(Path(path).with_suffix(".json").read_text(encoding="utf-8")))


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


def _as_csv(table: pd.DataFrame) -> str:
    """The text of the CSV file; equal tables give equal text."""
    rows = table.copy()
    rows["published"] = rows["published"].map("{:.2f}".format)
    for name in [name for name in NUMBERS if name in rows]:
        rows[name] = rows[name].map(lambda value: "" if pd.isna(value) else f"{value:.6f}")
    return rows.to_csv(index=False, lineterminator="\n")


def _version() -> str:
    """Version of the installed tslab."""
    try:
        return version("tslab")
    except PackageNotFoundError:
        return "(not installed)"
