"""Committed records as a page shows them: numbers in a CSV or JSON file of the book, and the sentence that says where
they come from.

A page shows a record to a reader who cannot recompute it, and says so; `recompute_or_read` does either.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tslab._files import read_csv, read_json
from tslab.benchmark.store import RECORD_REMEDY, find_record
from tslab.released_files import REPOSITORY, ReleasedFilesMissingError


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


def read_record(name: str | os.PathLike[str]) -> Record:
    """The committed record ``name``: a JSON file, or a CSV file with a JSON file beside it that says where it is from.

    Raises:
        FileNotFoundError: there is none, see `find_record`.
        DamagedFileError: the JSON file cannot be read.
    """
    path = find_record(name)
    about: dict[str, Any] = {}
    if path.with_suffix(".json").is_file():
        about = read_json(path.with_suffix(".json"), remedy=RECORD_REMEDY)
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
