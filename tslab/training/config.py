"""The configuration of a run and the model that it describes.

A configuration holds everything that was left out of a call of `tslab.train`, filled in; the same configuration gives
the same untrained model.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tslab._files import DamagedFileError, read_json
from tslab.encoders import ENCODERS, LocationEncoder, location_encoder
from tslab.hyperparameters import hyperparameters
from tslab.models import LocationClassifier, Regressor
from tslab.tasks.task import Task
from tslab.training.folder import CONFIG_FILE
from tslab.training.options import TrainOptions, resolve_options


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainOptions):
    """Everything that decides the outcome of a run, apart from data, device and versions: the options of
    `TrainOptions`, all of them resolved, and what the task and the encoder add.

    Attributes:
        task, kind: name and kind of the task.
        encoder: key of the encoder, "no_prior", or "custom" for an encoder object.
        encoder_parameters: of `tslab.location_encoder`.
        preset: None or its name.
        num_classes, image_features, image_kind: what the model is built for.
        data: digest of the rows that were trained on, in a stored run; None elsewhere.
    """

    task: str
    kind: str
    encoder: str
    encoder_parameters: dict[str, Any]
    preset: str | None
    num_classes: int
    image_features: int
    image_kind: str
    data: str | None = None


def configure(
    task: Task,
    encoder: str | LocationEncoder,
    preset: str | None,
    given: dict[str, Any],
    encoder_parameters: dict[str, Any],
) -> TrainConfig:
    """Fill in what was left out of ``given`` options and encoder parameters.

    Raises:
        ValueError, TypeError, KeyError: an option, encoder or parameter that does not exist or is out of its range.
    """
    key = encoder if isinstance(encoder, str) else "custom"
    kind = task.meta.kind
    recorded, parameters = _resolve_parameters(task, key, preset, encoder_parameters)
    options = resolve_options(given, recorded, preset=preset, kind=kind)
    features = task.image_dim if kind == "regression" else 0
    options["fusion"] = _resolve_fusion(given.get("fusion"), key, features, task)
    if not isinstance(encoder, str):
        options["embedding_dim"] = encoder.out_features
    return TrainConfig(
        task=task.name,
        kind=kind,
        encoder=key,
        encoder_parameters=parameters,
        preset=preset,
        num_classes=task.num_classes,
        image_features=features,
        image_kind="scalar" if task.meta.image_kind == "scalar" else "feats",
        **options,
    )


def build_model(
    config: TrainConfig, task: Task | None, encoder: LocationEncoder | None = None
) -> LocationClassifier | Regressor:
    """The untrained model of a configuration; the same configuration gives the same weights.

    ``task`` is needed for one thing only: rbf draws its anchors from the training places. Without it they
    are drawn from the sphere, which is enough to load weights into.
    """
    generator = torch.Generator().manual_seed(config.seed)
    if encoder is None and config.encoder != "no_prior":
        parameters: dict[str, Any] = {"preset": config.preset, "generator": generator} | config.encoder_parameters
        if "anchors" in parameters:
            parameters["anchors"] = torch.tensor(parameters["anchors"])
        elif config.encoder == "rbf" and task is not None:
            places = task.train.lonlat[task.train.has_location].cpu()
            drawn = torch.randperm(len(places), generator=generator)[: int(parameters.pop("num_anchors", 200))]
            parameters["anchors"] = places[drawn]
        encoder = location_encoder(config.encoder, config.embedding_dim, **parameters)
    if config.kind == "classification":
        assert encoder is not None
        return LocationClassifier(encoder, config.num_classes, generator=generator)
    image_features = config.image_features if config.fusion != "none" or encoder is None else 0
    names = ("fusion", "image_kind", "embedding_dim", "head", "location_activation")
    options: dict[str, Any] = {name: getattr(config, name) for name in names}
    return Regressor(encoder, image_features, dropout=config.head_dropout, generator=generator, **options)


def _resolve_parameters(
    task: Task, encoder: str, preset: str | None, given: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(training parameters, encoder parameters): the recorded ones that the encoder takes, then those given."""
    recorded = hyperparameters(task.name, encoder, preset, kind=task.meta.kind)
    training = {name: recorded.pop(name) for name in ("lr", "batch_size", "epochs")}
    if encoder in ("custom", "no_prior"):
        if given:
            raise TypeError(f"{', '.join(given)}: encoder parameters need the key of an encoder, not {encoder!r}")
        return training, {}
    if encoder not in ENCODERS:
        raise KeyError(f"encoder {encoder!r} is not known; choose one of {', '.join(ENCODERS)}, or no_prior")
    replaced = {*given, "num_anchors"} if "anchors" in given else set(given)
    if "network" in given:  # recorded parameters belong to the recorded network
        replaced |= {"activation", "num_hidden_layers", "hidden_dim"}
    taken = {name: value for name, value in recorded.items() if name not in replaced}
    return training, taken | {name: _plain(value) for name, value in given.items()}


def _plain(value: Any) -> Any:
    """An encoder parameter without arrays, as it can stand in config.json."""
    return value.tolist() if isinstance(value, Tensor | np.ndarray | np.generic) else value


def check_storable(parameters: dict[str, Any]) -> None:
    """Raise `TypeError` for an encoder parameter that config.json cannot hold."""
    for name, value in parameters.items():
        try:
            json.dumps(value)
        except TypeError as error:
            hint = "numbers, text and tensors can; pass what tslab.location_encoder returns as encoder="
            raise TypeError(f"{name} cannot be stored in run_dir ({type(value).__name__}); {hint}") from error


def _resolve_fusion(fusion: str | None, encoder: str, image_features: int, task: Task) -> str:
    alone, given = encoder == "no_prior", fusion not in (None, "none")
    if task.meta.kind == "classification":
        if given:
            raise ValueError("fusion is for regression; tslab.evaluate multiplies a class prior with the image's")
        if alone:
            raise ValueError("no_prior has nothing to train; use tslab.evaluate('no_prior', task.test)")
        return "none"
    if alone and image_features == 0:
        raise ValueError(f"no_prior is the image alone, and {task.name} has no image features")
    if given and not alone and image_features == 0:
        raise ValueError(f"fusion={fusion!r} needs image features and {task.name} has none; leave fusion out")
    return "none" if alone or image_features == 0 else fusion or "concat"


def read_config(folder: Path) -> TrainConfig:
    """The configuration of the run in a folder.

    Raises:
        FileNotFoundError: no run there.
        tslab._files.DamagedFileError: the file cannot be read.
        KeyError: an encoder that is not registered here.
    """
    path, remedy = folder / CONFIG_FILE, "put the file back, or train again in a new folder"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no run (no {CONFIG_FILE}); check the path, or train with run_dir=")
    try:
        config = TrainConfig(**read_json(path, remedy=remedy))
        if not isinstance(config.encoder_parameters, dict) or not isinstance(config.preset, str | None):
            raise TypeError("encoder_parameters or preset")
    except DamagedFileError:
        raise
    except (TypeError, ValueError) as error:
        raise DamagedFileError(f"{path} is not the configuration of a run ({error}); {remedy}") from error
    if config.encoder not in (*ENCODERS, "custom", "no_prior"):
        hint = "import the module that registers it (tslab.register_encoder) first"
        raise KeyError(f"the encoder {config.encoder!r} of the run in {folder} is not known here; {hint}")
    return config
