"""Committed records: where they lie, what is noted beside them, and that they only ever grow.

A run that recomputed fewer cells than a record holds, or none, leaves it as it is.
"""

import datetime
import os
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from tslab.released_files import RELEASE, REPOSITORY, index_sha256

REMEDY = "take it from the repository again"


def release_stamp() -> dict[str, str]:
    """What every record made from the released files says: date (today, ISO format, UTC), repository and release."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": today, "repository": REPOSITORY, "release": RELEASE}


def provenance(table: pd.DataFrame) -> dict[str, Any]:
    """When and from what the record of the audit was computed.

    Args:
        table: cells computed just now (columns dataset, metric, recomputed and n, attribute located).

    Returns:
        date, tslab (version), repository, release (commit), index_sha256 (of tslab's list of released files, which
        holds the checksum of every file), files_read (released files), rows_read (rows in them), located (dataset ->
        number of evaluated images that have a location, where the release says so).
    """
    done = table[
        table["recomputed"].notna() & table["metric"].isin(["top1", "r2"]) & (table["dataset"] != "avg_species")
    ]
    try:
        tslab = version("tslab")
    except PackageNotFoundError:
        tslab = "(not installed)"
    stamp = release_stamp()
    return {
        "date": stamp["date"],
        "tslab": tslab,
        "repository": stamp["repository"],
        "release": stamp["release"],
        "index_sha256": index_sha256(),
        "files_read": len(done),
        "rows_read": int(done["n"].sum()),
        "located": dict(table.attrs.get("located", {})),
    }


def loses_numbers(earlier: pd.DataFrame, table: pd.DataFrame, column: str) -> bool:
    """Whether ``earlier`` has a number in ``column`` that ``table`` lacks, in the row of the same cell."""
    key = ["dataset", "encoder", "metric"]
    held, kept = (set(map(tuple, rows.loc[rows[column].notna(), key].to_numpy())) for rows in (earlier, table))
    return not held <= kept


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
