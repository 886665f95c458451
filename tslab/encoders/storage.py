"""Encoders in files: tslab's own format, and a safe way to read the files of others.

An encoder is saved as a folder with two files: ``config.json``, which says how to build it, and its weights
as safetensors. The configuration names the weights by their checksum and is written last, so that a save that
is interrupted leaves the older encoder in place, and files of two saves never mix.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tslab._files import atomic_write
from tslab.encoders.registry import EncoderConfig, LocationEncoder, build_encoder

FORMAT = "tslab location encoder"
FORMAT_VERSION = 1
CONFIG_FILE = "config.json"

CODE_IN_FILE = (
    r"(?:Unsupported (?:global|class)|Trying to (?:load unsupported|call)|[Cc]an only (?:create|build))[^\n]*"
)
"""What torch says of a file with other objects than tensors. (An *unsupported operand* is a damaged file.)"""


class CheckpointError(ValueError):
    """A file that does not hold what was expected. The message names the file, the reason and the next
    step."""


def save_encoder(encoder: LocationEncoder, path: str | os.PathLike[str]) -> Path:
    """Save a location encoder, its configuration and its weights, as the folder ``path``; returns the folder.

    Everything that `load_encoder` needs is in it, also anchors, directions and extents. An encoder that was
    saved there before is replaced in one step. What `torch.compile` or a parallel wrapper put around it is left out.

    Raises:
        TypeError: something else than a `LocationEncoder`.
        ValueError: the encoder was put together by hand and has no configuration, or a parameter of a
            registered encoder is not a plain value (number, string, list) that JSON can hold.
        FileExistsError: ``path`` is a file.
    """
    from safetensors.torch import save

    folder = Path(path)
    encoder = unwrap(encoder)  # type: ignore[assignment]
    if not isinstance(encoder, LocationEncoder):
        raise TypeError(f"a LocationEncoder is saved, got {type(encoder).__name__}; of a model, save its .encoder")
    if encoder.config is None:
        raise ValueError("it has no configuration to build it again; register yours, use tslab.location_encoder")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; an encoder is saved as a folder, choose another name")
    state = {name.replace("_orig_mod.", ""): value for name, value in encoder.state_dict().items()}
    if any(value.is_meta for value in state.values()):
        raise ValueError("the encoder lies on the meta device and has no weights yet; load or initialise them first")
    weights = save({name: value.detach().cpu().contiguous() for name, value in state.items()})
    checksum = hashlib.sha256(weights).hexdigest()
    weights_file = f"weights-{checksum[:12]}.safetensors"
    dtype = next((p.dtype for p in encoder.parameters() if p.is_floating_point()), torch.float32)
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "torch_version": torch.__version__,
        "weights": {"file": weights_file, "sha256": checksum},
        "dtype": str(dtype).removeprefix("torch."),
        "encoder": asdict(encoder.config),
    }
    try:
        text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"parameters of a saved encoder must be numbers, strings, lists or None: {error}") from error
    atomic_write(folder / weights_file, weights)
    atomic_write(folder / CONFIG_FILE, text)
    for older in folder.glob("weights-*.safetensors"):
        if older.name != weights_file:
            older.unlink()
    return folder


def load_encoder(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> LocationEncoder:
    """Load a location encoder that `save_encoder` wrote, in evaluation mode (no dropout; ``.train()`` to go
    on).

    Raises:
        FileNotFoundError: no such folder, or not one of `save_encoder`.
        CheckpointError: the files are damaged, of an unknown format version, or do not fit the configuration;
            the message lists each tensor that is missing, unexpected or of another shape.
    """
    config_path = Path(path) / CONFIG_FILE
    if not config_path.is_file():
        raise FileNotFoundError(f"{path} holds no {CONFIG_FILE}; give the folder that tslab.save_encoder wrote")
    config = _read_config(config_path)
    weights_path = config_path.with_name(Path(config["weights"]["file"]).name)
    if not weights_path.is_file():
        raise FileNotFoundError(f"{config_path} names {weights_path.name}, which is missing; copy the whole folder")
    if hashlib.sha256(weights_path.read_bytes()).hexdigest() != config["weights"]["sha256"]:
        raise CheckpointError(f"{weights_path} is damaged: its checksum is not the one in {CONFIG_FILE}; copy it again")
    try:
        encoder = build_encoder(EncoderConfig(**config["encoder"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{config_path}: no encoder known here (see tslab.register_encoder): {error}") from error
    encoder.to(getattr(torch, config["dtype"]))
    load_weights(encoder, read_safetensors(weights_path), weights_path)
    return encoder.eval().to(device)


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], source: object) -> None:
    """Copy ``weights`` into ``module``, all of them and nothing else.

    Raises:
        CheckpointError: names differ or shapes do not match; lists which, and names ``source``.
    """
    expected = module.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is not expected" for name in weights if name not in expected]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if name in weights and weights[name].shape != value.shape
    ]
    if problems:
        raise CheckpointError(f"{source} does not fit the encoder: {'; '.join(problems)}")
    module.load_state_dict(dict(weights))


def renamed(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights of others under our names: in each name, the keys of ``names`` become their values, one after another."""
    ours = {}
    for name, value in weights.items():
        for theirs, here in names.items():
            name = name.replace(theirs, here)
        ours[name] = value
    return ours


def unwrap(module: nn.Module) -> nn.Module:
    """The module itself, without what `torch.compile`, data-parallel wrappers or averaged weights put around it."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
    while isinstance(module, wrappers) or hasattr(module, "_orig_mod"):
        module = module.module if isinstance(module, wrappers) else module._orig_mod  # type: ignore[assignment]
    return module


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """Inference mode, with a module and all of its parts in evaluation mode, and each back in its own afterwards; of
    anything else than a module, inference mode alone."""
    modes = [(part, part.training) for part in module.modules()] if isinstance(module, nn.Module) else []
    try:
        with torch.inference_mode():
            if modes:
                module.eval()
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def read_torch_file(path: str | os.PathLike[str]) -> Any:
    """Read a file of ``torch.save`` without running any code from it: tensors, plain values and NumPy scalars
    only.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not such a file, damaged, or holding objects that could run code.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated archives, foreign pickles and text raise half a dozen types
        if found := re.search(CODE_IN_FILE, str(error)):
            what = f"{path} was not read: it holds objects that could run code ({found[0].strip()})"
            raise CheckpointError(f"{what}; if you trust its source, open it there and save its state dict") from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is not a readable torch file ({reason[:200]}); fetch it again") from None


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        CheckpointError: not such a file, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}; fetch it again") from error


def _read_config(path: Path) -> dict[str, Any]:
    """What ``config.json`` says, if it says everything that `load_encoder` needs."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}); copy the folder again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not the configuration of a {FORMAT}")
    version, weights, encoder = (config.get(name) for name in ("format_version", "weights", "encoder"))
    if version != FORMAT_VERSION:
        versions = f"format version {version}, this tslab reads version {FORMAT_VERSION}"
        raise CheckpointError(f"{path} has {versions}; install a newer tslab")
    complete = isinstance(weights, dict) and {"file", "sha256"} <= weights.keys()
    if not complete or config.get("dtype") not in ("float16", "bfloat16", "float32", "float64"):
        raise CheckpointError(f"{path} is incomplete; save the encoder again")
    names = {field.name for field in fields(EncoderConfig)}
    if not isinstance(encoder, dict) or set(encoder) != names:
        raise CheckpointError(f'{path}: "encoder" must be an object with {", ".join(sorted(names))}')
    return config


def _numpy_scalars() -> list[Any]:
    """What a pickled NumPy number needs: a constructor of scalars and the plain numeric dtypes, nothing
    callable else."""
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    named = [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype]
    return [*named, *(type(np.dtype(kind)) for kind in ("int32", "int64", "float32", "float64", "bool"))]
