"""The folder of a run: what lies in it, who may write there, and what to do when a file is damaged.

``config.json`` and ``environment.json`` are written before the first epoch, ``checkpoint.pt`` after each,
``history.csv`` at the end; all of them completely or not at all. A lock keeps a second training out. The checkpoint
holds weights, optimiser, random generators and history: a run that goes on from it gives the same numbers as one that
was never interrupted.
"""

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tslab._files import DamagedFileError, atomic_path, atomic_write, only_writer, read_json
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


@dataclass
class LoopState:
    """Everything that changes while training, apart from weights, optimiser and random generators."""

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_value: float = -math.inf
    best_epoch: int = -1
    best_weights: dict[str, Tensor] | None = None


OTHER_PARTS = ("model", "optimizer", "generator", "torch_rng", "device_rng", "device")
"""What a checkpoint holds beside a `LoopState`."""


def save_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator, state: LoopState
) -> None:
    """Write the complete state to ``path``, completely or not at all; ``generator`` is on the device of training."""
    device = generator.device
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "torch_rng": torch.get_rng_state(),
        "device_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "device": device.type,
    }
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(content | vars(state), file)  # into an open file: a full disk is then an OSError that says so


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> LoopState:
    """Bring model, optimiser and generators to the state in ``path``.

    Raises:
        ValueError: the file is damaged, of another model, or was written on another kind of device, whose random
            numbers differ.
    """
    content, device = read_checkpoint(path), generator.device
    if content["device"] != device.type:
        hint = f"a run continues exactly only on the same kind of device: pass device={content['device']!r}"
        raise ValueError(f"{path.name} was written on {content['device']}, this run is on {device.type}; {hint}")
    try:
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        hint = "pass the same encoder, or train anew in another run_dir"
        raise ValueError(f"{path} was written by another model than this one; {hint}") from error
    generator.set_state(content["generator"])
    torch.set_rng_state(content["torch_rng"])
    if content["device_rng"] is not None:
        torch.cuda.set_rng_state(content["device_rng"], device)
    return LoopState(**{part.name: content[part.name] for part in fields(LoopState)})


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_state` wrote, on the CPU.

    Raises:
        tslab._files.DamagedFileError: cut, changed, or not a checkpoint of tslab.
    """
    remedy = f"put the file back, or delete it and train(task, resume={str(path.parent)!r}) from the start"
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not compare the checksums
            if (bad := archive.testzip()) is not None:
                raise DamagedFileError(f"the checksum of {bad} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # a damaged archive may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise DamagedFileError(f"{path} is damaged ({reason}); {remedy}") from error
    needed = OTHER_PARTS + tuple(part.name for part in fields(LoopState))
    missing = [name for name in needed if not isinstance(content, dict) or name not in content]
    if missing:
        raise DamagedFileError(f"{path} is no checkpoint of a run (no {', '.join(missing)}); {remedy}")
    return content
