"""Location encoders that others trained, from files that you have: SatCLIP, GeoCLIP, and the TorchSpatial benchmark.

Nothing is downloaded here (``data_scripts/fetch_earth.py`` fetches GeoCLIP). `load_pretrained` reads the file that the
authors publish, without running code from it, and returns a `LocationEncoder` that takes (longitude, latitude) in
degrees like every other one. `PRETRAINED` says what there is, under which licence, and where to get it.

A released checkpoint of the benchmark (LocBench, 2024; ``.pth.tar``) holds the weights of a location encoder and of the
class vectors behind it, together with the options it was trained with. `load_released_checkpoint` rebuilds the model
from those, with the encodings as released (see ``preset="locbench2024"``), and never runs code from the file.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tslab._checks import check_count, check_number
from tslab._files import data_folder, packaged_json
from tslab.encoders.base import PositionEncoder, sin_cos
from tslab.encoders.networks import check_layers
from tslab.encoders.planar import GLOBE, Extent
from tslab.encoders.registry import LocationEncoder, encoder_info, location_encoder
from tslab.encoders.storage import CheckpointError, load_weights, read_safetensors, read_torch_file, renamed

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class PretrainedInfo:
    """What tslab knows about one published encoder.

    Attributes:
        name: its name in prose.
        source: where the authors publish the file.
        licence: licence of the authors' repository; check it for the weights too.
        citation: the paper.
    """

    name: str
    source: str
    licence: str
    citation: str


class EqualEarthFourier(PositionEncoder):
    """GeoCLIP's position encoding: random Fourier features of the Equal Earth projection, at several scales.

    PE(x) = for each scale k: [cos(2 pi B_k v), sin(2 pi B_k v)], with v = (X, Y) 66.50336 / 180 and
    B_k ~ N(0, sigma_k^2). (X, Y) are Equal Earth coordinates: with sin(theta) = sqrt(3)/2 sin(phi),

        X = 2 sqrt(3) lambda cos(theta) / (3 (9 A4 theta^8 + 7 A3 theta^6 + 3 A2 theta^2 + A1)),
        Y = A4 theta^9 + A3 theta^7 + A2 theta^3 + A1 theta.

    Date line: a break. Poles: longitude still matters, the projection draws a pole as a line.

    Args:
        sigmas: standard deviations of the random frequencies, one for each scale.
        num_frequencies: frequencies for each scale; `out_features` is 2 x that x scales.
        generator: random source of the frequencies.

    Source: Vivanco Cepeda et al., GeoCLIP, NeurIPS 2023; Savric, Patterson and Jenny, The Equal Earth map projection,
    International Journal of Geographical Information Science 33, 2019.
    """

    directions: Tensor

    def __init__(
        self,
        sigmas: tuple[float, ...] = (1.0, 16.0, 256.0),
        num_frequencies: int = 256,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.num_frequencies = check_count("num_frequencies", num_frequencies)
        self.sigmas = tuple(check_number("sigmas", sigma, above=0) for sigma in sigmas)
        self.out_features = 2 * num_frequencies * check_count("the number of sigmas", len(self.sigmas))
        normal = torch.randn((len(self.sigmas), num_frequencies, 2), generator=generator)
        self.register_buffer("directions", normal * torch.tensor(self.sigmas)[:, None, None])

    def encode(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n out_features"]:
        x, y = equal_earth(lonlat.double()).mul(66.50336 / 180).unbind(-1)
        directions = self.directions.double()
        along = x[:, None, None] * directions[..., 0] + y[:, None, None] * directions[..., 1]  # (n, scale, frequency)
        sine, cosine = sin_cos(along, along.new_ones(()), lonlat.dtype)
        return torch.cat([cosine, sine], dim=-1).flatten(1)


class ParallelMLPs(nn.Module):
    """GeoCLIP's network: one ReLU network for each scale of the position encoding, their outputs added up."""

    def __init__(self, in_features: int, out_features: int, *, num_scales: int = 3, hidden_dim: int = 1024) -> None:
        super().__init__()
        check_layers(in_features=in_features, out_features=out_features, num_scales=num_scales, hidden_dim=hidden_dim)
        if in_features % num_scales:
            raise ValueError(f"in_features must be a multiple of num_scales={num_scales}, got {in_features}")
        self.num_scales = num_scales
        self.branches = nn.ModuleList()
        for _ in range(num_scales):
            branch = nn.Sequential(nn.Linear(in_features // num_scales, hidden_dim), nn.ReLU())
            for width in (hidden_dim, hidden_dim, out_features):
                branch.extend([nn.Linear(hidden_dim, width), nn.ReLU()])
            self.branches.append(branch[:-1])

    def forward(self, features: Float[Tensor, "n in_features"]) -> Float[Tensor, "n out_features"]:
        parts = features.chunk(self.num_scales, dim=-1)
        return torch.stack([branch(part) for branch, part in zip(self.branches, parts, strict=True)]).sum(0)


def load_pretrained(kind: str, path: str | os.PathLike[str] | None = None) -> LocationEncoder:
    """Load the published encoder ``kind`` (a key of `PRETRAINED`) from the file that its authors publish.

    Without a ``path``, GeoCLIP is the file that ``python data_scripts/fetch_earth.py --only geoclip`` fetches into
    tslab's cache folder (``TSLAB_DATA``). The result is in evaluation mode and in float32, whatever the file holds;
    ``.double()`` computes in float64.

    Raises:
        KeyError: unknown kind, with the list of kinds.
        FileNotFoundError: no such file, with where to get it.
        CheckpointError: damaged, or not a file of this encoder; the message names the tensors that do not fit.
    """
    if not isinstance(kind, str) or kind not in PRETRAINED:
        raise KeyError(f"pre-trained encoder {kind!r} is not known; choose one of {', '.join(PRETRAINED)}")
    info = PRETRAINED[kind]
    published = f"{info.name} is published at {info.source}"
    if path is None and kind not in FETCHED:
        raise FileNotFoundError(f"{kind} is read from a file: load_pretrained({kind!r}, path); {published}")
    fetch = "" if path is not None else f"run `python data_scripts/fetch_earth.py --only {kind}`, or pass a path; "
    path = Path(data_folder() / FETCHED[kind] if path is None else path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; {fetch}{published}")
    content: Any = read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path)
    options = content.get("hyper_parameters", {}) if isinstance(content, Mapping) else {}
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
    weights = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    try:
        encoder, weights = READERS[kind](weights, options)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; {published}") from None
    load_weights(encoder, weights, path)
    return encoder.eval()


def _read_satclip(state: Weights, options: Mapping[str, Any]) -> tuple[LocationEncoder, Weights]:
    """SatCLIP: spherical harmonics and a SIREN.

    Its harmonics are ours at the opposite point of the globe (colatitude 90 + lat, azimuth 180 + lon), where
    Y_l^m(-x) = (-1)^l Y_l^m(x), and its m = 0 terms carry a factor pi: the authors' generator of formulas writes
    sqrt((2 l + 1) / 4 * pi) for sqrt((2 l + 1) / (4 pi)). Both are constants for each column, so they go into the
    weights of the first layer.
    """
    published = {"le_type": "sphericalharmonics", "pe_type": "siren", "harmonics_calculation": "analytic"}
    for name, value in published.items():
        if options.get(name, value) != value:
            raise CheckpointError(f"only SatCLIP with {name}={value!r} is supported, it has {name}={options[name]!r}")
    nnet = {name: value for name, value in state.items() if "nnet." in name}
    num_layers = len({name for name in nnet if re.search(r"nnet\.layers\.\d+\.weight$", name)})
    nnet = {f"network.{name.partition('nnet.')[2]}": value for name, value in nnet.items()}
    weights = renamed(nnet, {"last_layer": f"layers.{num_layers}"})
    first, last = (weights.get(f"network.layers.{layer}.weight") for layer in (0, num_layers))
    if first is None or last is None or first.ndim != 2 or last.ndim != 2 or num_layers == 0:
        raise CheckpointError("it holds no SatCLIP location encoder (nnet.layers.0.weight)")
    degree = math.isqrt(first.shape[1])
    if degree**2 != first.shape[1]:
        raise CheckpointError(f"{first.shape[1]} input features are no set of spherical harmonics (a square number)")
    weights["network.layers.0.weight"] = first * _satclip_factors(degree)
    size: dict[str, Any] = {"hidden_dim": len(first), "num_hidden_layers": num_layers}
    return location_encoder("siren_sh", len(last), degree=degree, dropout=0.5, **size), weights


def _satclip_factors(degree: int) -> Float[Tensor, "{degree}*{degree}"]:
    """SatCLIP's harmonics divided by ours, column by column: (-1)^l, times pi where m = 0."""
    columns = [(l, m) for l in range(degree) for m in range(-l, l + 1)]  # noqa: E741
    return torch.tensor([(-1) ** l * (math.pi if m == 0 else 1.0) for l, m in columns])  # noqa: E741


def _read_geoclip(state: Weights, _: Mapping[str, Any]) -> tuple[LocationEncoder, Weights]:
    """GeoCLIP: Equal Earth coordinates, Fourier features at three scales, a ReLU network for each, added up.

    The file is ``location_encoder_weights.pth`` of the authors' package, or a complete model that holds its tensors
    under ``location_encoder.``.
    """
    names = {"location_encoder.": "", "LocEnc": "network.branches.", ".head.0.": ".6."}
    names |= {".capsule.1.": ".0.", ".capsule.3.": ".2.", ".capsule.5.": ".4."}
    weights = {name: value for name, value in renamed(state, names).items() if name.startswith("network.")}
    bands = [weights.pop(name) for name in sorted(weights) if name.endswith(".capsule.0.b")]
    if not bands or any(band.ndim != 2 or band.shape != bands[0].shape for band in bands):
        raise CheckpointError("it holds no GeoCLIP location encoder (LocEnc0.capsule.0.b, ...)")
    first, last = (weights.get(f"network.branches.0.{layer}.weight") for layer in (0, 6))
    if first is None or last is None or first.ndim != 2 or last.ndim != 2:
        raise CheckpointError("the layers LocEnc0.capsule.1 and LocEnc0.head.0 are missing")
    sigmas = tuple(float(band.float().std()) for band in bands)
    position = EqualEarthFourier(sigmas, num_frequencies=len(bands[0]))
    network = ParallelMLPs(position.out_features, len(last), num_scales=len(bands), hidden_dim=len(first))
    weights["position_encoder.directions"] = torch.stack(bands)
    return LocationEncoder(position, network, len(last)), weights


FETCHED = {"geoclip": "earth/geoclip/location_encoder_weights.pth"}
"""Encoders that ``fetch_earth.py`` fetches, and where in tslab's cache folder it puts them."""

READERS = {"satclip": _read_satclip, "geoclip": _read_geoclip}
"""From the weights and options in the file, the encoder and its weights under the names they have here."""

PRETRAINED: dict[str, PretrainedInfo] = {
    kind: PretrainedInfo(**facts) for kind, facts in packaged_json("pretrained.json").items()
}
"""Published encoders by kind."""


def equal_earth(lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
    """Equal Earth map coordinates (X, Y) of places, for a globe of radius 1; the formula is in `EqualEarthFourier`."""
    a1, a2, a3, a4 = 1.340264, -0.081106, 0.000893, 0.003796
    lon, lat = torch.deg2rad(lonlat).unbind(-1)
    theta = torch.asin(math.sqrt(3) / 2 * torch.sin(lat))
    t2, t6 = theta**2, theta**6
    x = 2 * math.sqrt(3) * lon * torch.cos(theta) / (3 * (9 * a4 * t6 * t2 + 7 * a3 * t6 + 3 * a2 * t2 + a1))
    y = theta * (a4 * t6 * t2 + a3 * t6 + a2 * t2 + a1)
    return torch.stack([x, y], dim=-1)


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
