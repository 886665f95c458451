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

from tslab.encoders.location import LocationEncoder
from tslab.encoders.planar import GLOBE, Extent
from tslab.encoders.registry import location_encoder
from tslab.encoders.storage import CheckpointError, load_weights, read_torch_file

HOW_TO_GET = "data_scripts/fetch_released.py fetches the released checkpoints"


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
        with torch.no_grad():
            self.class_vectors.weight.copy_(class_vectors)
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
    try:
        checkpoint = read_torch_file(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no checkpoint {path}; {HOW_TO_GET}") from error
    params, state = _parts(checkpoint, path)
    key = _encoder_key(params, path)
    if key == "wrap":
        weights = _residual_weights(state, path)
    else:
        weights = _ffn_weights(state, path)
    if "class_emb.weight" not in state or state["class_emb.weight"].ndim != 2:
        raise CheckpointError(f"{path} holds no class vectors (class_emb.weight); is it a regression model?")
    encoder = location_encoder(
        key,
        state["class_emb.weight"].shape[1],
        preset="locbench2024",
        **_position_parameters(key, params, weights, extent),
        **_network_parameters(key, params),
    )
    load_weights(encoder, weights, path)
    return ReleasedModel(encoder, state["class_emb.weight"], key, checkpoint).eval()


def _parts(checkpoint: Any, path: object) -> tuple["_Options", dict[str, Tensor]]:
    if not isinstance(checkpoint, dict) or not {"state_dict", "params"} <= checkpoint.keys():
        found = (
            f"holds {', '.join(map(str, list(checkpoint)[:5]))}"
            if isinstance(checkpoint, dict)
            else "is something else"
        )
        raise CheckpointError(
            f"{path} is not a released TorchSpatial checkpoint: that is a dict with state_dict and params, this {found}"
        )
    state, params = checkpoint["state_dict"], checkpoint["params"]
    if not isinstance(params, dict) or not isinstance(state, dict):
        raise CheckpointError(f"{path}: state_dict and params must be dicts; {HOW_TO_GET}")
    broken = [
        str(name) for name, value in state.items() if not (isinstance(value, Tensor) and value.is_floating_point())
    ]
    if broken:
        raise CheckpointError(f"{path}: {', '.join(broken[:3])} in its state_dict should be floating point tensors")
    return _Options(params, path), state


class _Options:
    """The stored options; a missing one is an error that names it."""

    def __init__(self, values: Mapping[str, Any], path: object) -> None:
        self.values, self.path = values, path

    def __getitem__(self, name: str) -> Any:
        if name not in self.values:
            raise CheckpointError(f"{self.path}: the option {name!r} is missing from its params; {HOW_TO_GET}")
        return self.values[name]


def _encoder_key(params: _Options, path: object) -> str:
    from tslab.released_files import ENCODER_TOKENS

    keys = {token: key for key, token in ENCODER_TOKENS.items()}
    token = params["spa_enc_type"]
    if token not in keys or keys[token] == "no_prior":
        raise CheckpointError(f"{path}: spa_enc_type {token!r} is not an encoder of the benchmark ({', '.join(keys)})")
    key = keys[token]
    if key == "rbf":
        raise CheckpointError(
            f"{path} cannot be restored: an rbf encoder needs its anchor places, and the file holds only their row "
            "numbers in the training set of the LocBench archive. Train one instead: "
            "tslab.location_encoder('rbf', anchors=...)"
        )
    if key == "siren_sh":
        raise CheckpointError(
            f"{path} cannot be restored: the released code does not contain the spherical harmonics it was trained with"
        )
    if params.values.get("use_date_feats") or params.values.get("loc_encode", "encode_cos_sin") != "encode_cos_sin":
        raise CheckpointError(
            f"{path} was trained with dates or other coordinate features, which tslab does not restore"
        )
    if params.values.get("freq_init", "geometric") != "geometric":
        raise CheckpointError(f"{path} was trained with {params['freq_init']!r} scales; tslab restores geometric ones")
    return key


def _ffn_weights(state: Mapping[str, Tensor], path: object) -> dict[str, Tensor]:
    """Names of the released state dict in tslab's words: ``spa_enc.ffn.layers.0.layernorm`` is
    ``network.layers.0.norm``."""
    names = {
        "spa_enc.ffn.layers.": "network.layers.",
        "spa_enc.position_encoder.embedding.weight": "position_encoder.table",
        "spa_enc.position_encoder.dirvec": "position_encoder.directions",
        "spa_enc.position_encoder.shift": "position_encoder.shift",
    }
    weights = {}
    for name, value in _without_heads(state).items():
        prefix = next((p for p in names if name.startswith(p)), None)
        if prefix is None:
            raise CheckpointError(f"{path}: {name} does not belong to a released location model; {HOW_TO_GET}")
        new = (names[prefix] + name.removeprefix(prefix)).replace(".layernorm.", ".norm.")
        weights[new] = value.T if new.endswith("directions") else value
    return weights


def _residual_weights(state: Mapping[str, Tensor], path: object) -> dict[str, Tensor]:
    """The residual net of wrap: ``feats.0`` is the input layer, ``feats.2`` ... the blocks with layers ``w1``
    and ``w2``."""
    weights = {}
    for name, value in _without_heads(state).items():
        match name.split("."):
            case ["feats", "0", kind]:
                weights[f"network.input.{kind}"] = value
            case ["feats", block, "w1" | "w2" as layer, kind] if block.isdecimal() and int(block) >= 2:
                weights[f"network.blocks.{int(block) - 2}.{0 if layer == 'w1' else 3}.{kind}"] = value
            case _:
                raise CheckpointError(f"{path}: {name} does not belong to a released wrap model; {HOW_TO_GET}")
    return weights


def _without_heads(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the class vectors, which stand behind the encoder, and the unused vectors of the users."""
    return {name: value for name, value in state.items() if name.split(".")[0] not in ("class_emb", "user_emb")}


def _position_parameters(key: str, params: _Options, weights: Mapping[str, Tensor], extent: Extent) -> dict[str, Any]:
    if key == "tile":
        table = weights.get("position_encoder.table")
        if table is None or table.ndim != 2:
            raise CheckpointError(f"{params.path}: the table of the tile encoder is missing; {HOW_TO_GET}")
        if len(table) != 1:
            raise CheckpointError(
                f"{params.path}: its table has {len(table)} cells, but the file does not tell their size (released "
                "tile checkpoints have one cell)"
            )
        return {"num_features": table.shape[1]}
    if key == "rff":
        return {"num_scales": params["frequency_num"], "kernel_size": params["rbf_kernel_size"], "extent": extent}
    if key in ("wrap", "wrap_ffn", "xyz", "nerf"):
        return {}
    return {
        "num_scales": params["frequency_num"],
        "min_radius": params["min_radius"],
        "max_radius": params["max_radius"],
    }


def _network_parameters(key: str, params: _Options) -> dict[str, Any]:
    if key == "wrap":
        return {"dropout": 0.5}
    return {
        "hidden_dim": params["hidden_dim"],
        "num_hidden_layers": params["num_hidden_layer"],
        "activation": params["spa_f_act"],
        "dropout": params["dropout"],
        "layer_norm": params["use_layn"],
        "skip": params["skip_connection"],
    }
