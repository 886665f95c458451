"""The folder of a run: what lies in it, who may write there, and what to do when a file is damaged.

``config.json`` and ``environment.json`` are written before the first epoch, ``checkpoint.pt`` after each,
``history.csv`` at the end; all of them completely or not at all. A lock keeps a second training out.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tslab._files import atomic_write, only_writer, read_json
from tslab.tasks.table import Table

CONFIG_FILE = "config.json"
"""All options of a run, in its folder."""
ENVIRONMENT_FILE = "environment.json"
"""Versions and the machine of a run."""
CHECKPOINT_FILE = "checkpoint.pt"
"""What an interrupted run goes on from."""
HISTORY_FILE = "history.csv"
"""One row for each epoch of a run."""
LOCK_FILE = ".lock"

SAMPLED_ROWS = 1024


def check_free(folder: Path) -> None:
    """Raise `FileExistsError` if a run that has finished an epoch, or anything else, lies in ``folder``.

    A run that was killed before its first epoch is no obstacle.
    """
    own = (CONFIG_FILE, ENVIRONMENT_FILE, HISTORY_FILE, LOCK_FILE)
    if not folder.exists():
        return
    if folder.is_dir() and all(path.name in own or _is_leftover(path) for path in folder.iterdir()):
        return
    other = f", or continue with resume={str(folder)!r}" if (folder / CONFIG_FILE).is_file() else ""
    what = "is not empty" if folder.is_dir() else "is a file"
    raise FileExistsError(f"{folder} exists and {what}; a run folder is written once: choose another run_dir{other}")


@contextmanager
def writing(folder: Path | None) -> Iterator[None]:
    """Keep other trainings out of the folder while this one writes; does nothing for None."""
    if folder is None:
        yield
        return
    with only_writer(folder / LOCK_FILE, hint="wait until it has ended, or choose another run_dir"):
        for path in filter(_is_leftover, folder.iterdir()):
            path.unlink(missing_ok=True)
        yield


def begin(folder: Path, config: dict[str, Any], environment: dict[str, Any]) -> None:
    """Write what is known before the first epoch."""
    check_free(folder)
    (folder / HISTORY_FILE).unlink(missing_ok=True)
    for name, content in ((ENVIRONMENT_FILE, environment), (CONFIG_FILE, config)):
        atomic_write(folder / name, json.dumps(content, indent=2) + "\n")


def read_environment(folder: Path) -> dict[str, Any]:
    """The stored environment; empty if the file is gone, since no number depends on it."""
    path = folder / ENVIRONMENT_FILE
    return read_json(path, remedy="delete it, the run can be loaded without it") if path.is_file() else {}


def data_digest(*tables: Table) -> str:
    """A name for the data of tables: places and labels in full, of the images the shape and 1,024 rows."""
    digest = hashlib.sha256()
    for table in tables:
        for column in (table.lonlat, table.target):
            values = column.detach().cpu().contiguous()
            digest.update(f"{values.dtype} {tuple(values.shape)};".encode())
            digest.update(values.numpy().tobytes())
        if table.image is not None and len(table):
            digest.update(f"{tuple(table.image.shape)};".encode())
            rows = torch.linspace(0, len(table) - 1, min(len(table), SAMPLED_ROWS), dtype=torch.float64)
            digest.update(table.image_rows(rows.long(), device="cpu").numpy().tobytes())
    return digest.hexdigest()[:32]


def writes_files() -> bool:
    """True in the one process that writes files."""
    return int(os.environ.get("RANK", "0")) == 0


def _is_leftover(path: Path) -> bool:
    """True for the temporary file of a write that was killed."""
    stems = (Path(name).stem for name in (CONFIG_FILE, ENVIRONMENT_FILE, CHECKPOINT_FILE, HISTORY_FILE))
    return path.is_file() and path.name.startswith(tuple(f".{stem}-" for stem in stems))
