"""The state of a training after an epoch, in one file: what an interrupted run goes on from.

Weights, optimiser, random generators and history; a run that is continued from such a file gives the same numbers as
one that was never interrupted. The file is written completely or not at all.
"""

import math
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tslab._files import DamagedFileError, atomic_path


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
        raise ValueError(
            f"{path.name} was written on {content['device']}, this run is on {device.type}; "
            f"a run continues exactly only on the same kind of device: pass device={content['device']!r}"
        )
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
