"""Checkpoints of the TorchSpatial benchmark (LocBench, 2024): back to life from the released ``.pth.tar``
files.

A released file holds the weights of a location encoder and of the class vectors behind it, together with the
options it was trained with. `load_released_checkpoint` rebuilds the model from those, with the encodings as
released (see ``preset="locbench2024"``), and never runs code from the file.
"""

import os
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tslab._files import packaged_json
from tslab.encoders.planar import GLOBE, Extent
from tslab.encoders.registry import LocationEncoder, encoder_info, location_encoder
from tslab.encoders.storage import CheckpointError, load_weights, read_torch_file, renamed

HOW_TO_GET = "data_scripts/fetch_released.py fetches the released checkpoints"

NAMES = packaged_json("released_names.json")
"""Options of the files by the parameters that they are here (of the position encoder, of the network), and how names of
weights change; ``feats`` is the residual net of wrap, whose first block is number 2."""


class ReleasedModel(nn.Module):
    """A released location model: a location encoder and one vector for each class.

    P(class c | place) = sigmoid(<w_c, Enc(place)>), each class for itself: the probabilities do not add up to
    1.

    Attributes:
        encoder: the `LocationEncoder`, to go on with as with any other.
        class_vectors: linear layer without bias, weight (classes, embedding_dim).
        key: key of the encoder in `tslab.ENCODERS`.
        dataset: data set that it was trained on, as the file names it.
        epoch: epoch of training at which it was saved.
        params: all options stored in the file.
    """

    def __init__(
        self, encoder: LocationEncoder, class_vectors: Float[Tensor, "c e"], key: str, checkpoint: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.class_vectors = nn.utils.skip_init(nn.Linear, class_vectors.shape[1], len(class_vectors), bias=False)
        self.class_vectors.weight = nn.Parameter(class_vectors.float())
        self.key = key
        self.params = dict(checkpoint["params"])
        self.dataset: str = self.params.get("dataset", "")
        self.epoch: int | None = checkpoint.get("epoch")

    def forward(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n c"]:
        """Logits (n, classes) of places in degrees; NaN for a missing place."""
        return self.class_vectors(self.encoder(lonlat))

    @torch.no_grad()
    def embed(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n e"]:
        """Embeddings (n, embedding_dim) of places in degrees, without gradients; NaN for a missing place."""
        return self.encoder(lonlat)

    @torch.no_grad()
    def predict_proba(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n c"]:
        """Probability of each class at each place, (n, classes), without gradients; NaN for a missing
        place."""
        return self(lonlat).sigmoid()


def load_released_checkpoint(path: str | os.PathLike[str], *, extent: Extent = GLOBE) -> ReleasedModel:
    """Rebuild a released TorchSpatial model from its ``.pth.tar`` file, in evaluation mode.

    Args:
        path: the file.
        extent: (lon_min, lon_max, lat_min, lat_max) that rff scales its coordinates over. The file does not
            tell which one it was trained with (its option "map_range" is not what the code used); the whole
            globe is what the released predictions agree with.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not a released checkpoint, damaged, or one that cannot be restored: rbf (its anchors
            are not in the file, only their row numbers in a training set), spherical harmonics, and models
            with an image network.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no checkpoint {path}; {HOW_TO_GET}")
    checkpoint = read_torch_file(path)
    params, state = _parts(checkpoint, path)
    key = _encoder_key(params, path)
    classes = state.get("class_emb.weight")
    if classes is None or classes.ndim != 2:
        raise CheckpointError(f"{path} holds no class vectors (class_emb.weight); is it a regression model?")
    weights = _encoder_weights(state, path)
    parameters = _parameters(key, params, path)
    if key == "rff":
        parameters["extent"] = extent
    if key == "tile":
        table = weights.get("position_encoder.table")
        if table is None or len(table) != 1:
            which = "is missing, or it has several cells and the file does not tell their size"
            raise CheckpointError(f"{path}: the table of the tile encoder {which}; {HOW_TO_GET}")
        parameters["num_features"] = table.shape[-1]
    encoder = location_encoder(key, classes.shape[1], preset="locbench2024", **parameters)
    load_weights(encoder, weights, path)
    return ReleasedModel(encoder, classes, key, checkpoint).eval()


def _parts(checkpoint: Any, path: object) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The stored options and weights."""
    content = checkpoint if isinstance(checkpoint, dict) else {}
    params, state = content.get("params"), content.get("state_dict")
    if not isinstance(params, dict) or not isinstance(state, dict):
        raise CheckpointError(f"{path} is not a released TorchSpatial checkpoint, with params and state_dict")
    broken = [name for name, value in state.items() if not (isinstance(value, Tensor) and value.is_floating_point())]
    if broken:
        raise CheckpointError(f"{path}: {broken[:3]} in its state_dict should be floating point tensors")
    return params, state


def _encoder_key(params: Mapping[str, Any], path: object) -> str:
    """The encoder of the checkpoint; an error says why one cannot be restored."""
    from tslab.released_files import ENCODER_TOKENS

    keys = {token: key for key, token in ENCODER_TOKENS.items() if key != "no_prior"}
    token, scales = params.get("spa_enc_type"), params.get("freq_init", "geometric")
    if token not in keys:
        raise CheckpointError(f"{path}: spa_enc_type {token!r} is not an encoder of the benchmark ({', '.join(keys)})")
    key = keys[token]
    dates = params.get("use_date_feats") or params.get("loc_encode", "encode_cos_sin") != "encode_cos_sin"
    obstacles = {
        "an rbf encoder needs its anchor places, and the file holds only their row numbers in the training set of the "
        "LocBench archive. Train one instead: tslab.location_encoder('rbf', anchors=...)": key == "rbf",
        "the released code does not contain the spherical harmonics it was trained with": key == "siren_sh",
        "it was trained with dates or other coordinate features": dates,
        f"it was trained with {scales!r} scales, not with geometric ones": scales != "geometric",
    }
    for reason, found in obstacles.items():
        if found:
            raise CheckpointError(f"{path} cannot be restored: {reason}")
    return key


def _encoder_weights(state: Mapping[str, Tensor], path: object) -> dict[str, Tensor]:
    """Weights of the encoder, without the class vectors behind it and the unused vectors of the users."""
    inside = {name: value for name, value in state.items() if name.split(".")[0] not in ("class_emb", "user_emb")}
    weights = renamed(inside, NAMES["weights"])
    for old, new in zip(inside, weights, strict=True):
        if not new.startswith(("network.", "position_encoder.")):
            raise CheckpointError(f"{path}: {old} does not belong to a released location model; {HOW_TO_GET}")
    return {name: value.T if name.endswith("directions") else value for name, value in weights.items()}


def _parameters(key: str, params: Mapping[str, Any], path: object) -> dict[str, Any]:
    """Parameters of `tslab.location_encoder` that the stored options say: those that the preset does not set."""
    info = encoder_info(key)
    taken = set(info.parameters) - set(info.preset_parameters("locbench2024"))
    options = {name: option for name, option in NAMES["position"].items() if name in taken}
    if key != "wrap":  # its residual net has no options
        options |= NAMES["network"]
    if missing := [repr(option) for option in options.values() if option not in params]:
        raise CheckpointError(f"{path}: the option {', '.join(missing)} is missing from its params; {HOW_TO_GET}")
    return {name: params[option] for name, option in options.items()}
