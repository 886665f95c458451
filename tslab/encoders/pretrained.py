"""Published pre-trained location encoders, from files that you have: SatCLIP and GeoCLIP.

Nothing is downloaded here. `load_pretrained` reads the file that the authors publish, without running code from it, and
returns a `LocationEncoder` that takes (longitude, latitude) in degrees like every other one. `PRETRAINED` says what
there is, under which licence, and where to get it.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tslab._checks import check_count, check_number
from tslab.encoders.base import PositionEncoder, sin_cos
from tslab.encoders.location import LocationEncoder
from tslab.encoders.networks import check_widths
from tslab.encoders.registry import location_encoder
from tslab.encoders.storage import CheckpointError, load_weights, read_torch_file


@dataclass(frozen=True)
class PretrainedInfo:
    """What tslab knows about one published encoder.

    Attributes:
        name: its name in prose.
        read: builds the encoder from the content of the file.
        source: where the authors publish the file.
        licence: licence of the authors' repository; check it for the weights too.
        citation: the paper.
    """

    name: str
    read: Callable[[Any, object], LocationEncoder]
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
        num_frequencies = check_count("num_frequencies", num_frequencies)
        if not sigmas:
            raise ValueError("sigmas must hold at least one number, got none")
        for sigma in sigmas:
            check_number("sigmas", sigma, above=0)
        self.sigmas, self.num_frequencies = tuple(sigmas), num_frequencies
        self.out_features = 2 * num_frequencies * len(self.sigmas)
        normal = torch.randn((len(self.sigmas), num_frequencies, 2), generator=generator)
        self.register_buffer("directions", normal * torch.tensor(self.sigmas)[:, None, None])

    def encode(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n out_features"]:
        x, y = equal_earth(lonlat.double()).mul(66.50336 / 180).unbind(-1)
        directions = self.directions.double()
        along = x[:, None, None] * directions[..., 0] + y[:, None, None] * directions[..., 1]  # (n, scale, frequency)
        sine, cosine = sin_cos(along, along.new_ones(()), lonlat.dtype)
        return torch.cat([cosine, sine], dim=-1).flatten(1)

    def extra_repr(self) -> str:
        return f"sigmas={self.sigmas}, num_frequencies={self.num_frequencies}"


class ParallelMLPs(nn.Module):
    """GeoCLIP's network: one ReLU network for each scale of the position encoding, their outputs added up."""

    def __init__(self, in_features: int, out_features: int, *, num_scales: int = 3, hidden_dim: int = 1024) -> None:
        super().__init__()
        check_widths(in_features=in_features, out_features=out_features, num_scales=num_scales, hidden_dim=hidden_dim)
        if in_features % num_scales:
            raise ValueError(f"in_features must be a multiple of num_scales={num_scales}, got {in_features}")
        self.num_scales = num_scales
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(nn.Linear(in_features // num_scales, hidden_dim), nn.ReLU()),
                *(nn.Linear(hidden_dim, hidden_dim), nn.ReLU()),
                *(nn.Linear(hidden_dim, hidden_dim), nn.ReLU()),
                nn.Linear(hidden_dim, out_features),
            )
            for _ in range(num_scales)
        )

    def forward(self, features: Float[Tensor, "n in_features"]) -> Float[Tensor, "n out_features"]:
        parts = features.chunk(self.num_scales, dim=-1)
        return torch.stack([branch(part) for branch, part in zip(self.branches, parts, strict=True)]).sum(0)


def load_pretrained(kind: str, path: str | os.PathLike[str]) -> LocationEncoder:
    """Load the published encoder ``kind`` (a key of `PRETRAINED`) from the file that its authors publish.

    The result is in evaluation mode and in float32, whatever the file holds; ``.double()`` computes in float64.

    Raises:
        KeyError: unknown kind, with the list of kinds.
        FileNotFoundError: no such file, with where to get it.
        CheckpointError: damaged, or not a file of this encoder; the message names the tensors that do not fit.
    """
    if not isinstance(kind, str) or kind not in PRETRAINED:
        raise KeyError(f"pre-trained encoder {kind!r} is not known; choose one of {', '.join(PRETRAINED)}")
    info = PRETRAINED[kind]
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}; {info.name} is published at {info.source}")
    if Path(path).suffix == ".safetensors":
        content = _read_safetensors(path)
    else:
        content = read_torch_file(path)
    return info.read(content, path).eval()


def _read_satclip(content: Any, path: object) -> LocationEncoder:
    """SatCLIP: spherical harmonics and a SIREN.

    Its harmonics are ours at the opposite point of the globe (colatitude 90 + lat, azimuth 180 + lon), where
    Y_l^m(-x) = (-1)^l Y_l^m(x), and its m = 0 terms carry a factor pi: the authors' generator of formulas writes
    sqrt((2 l + 1) / 4 * pi) for sqrt((2 l + 1) / (4 pi)). Both are constants for each column, so they go into the
    weights of the first layer.
    """
    options = content.get("hyper_parameters", {}) if isinstance(content, Mapping) else {}
    if (
        options.get("le_type", "sphericalharmonics") != "sphericalharmonics"
        or options.get("pe_type", "siren") != "siren"
    ):
        raise CheckpointError(
            f"{path} is a SatCLIP model with le_type={options.get('le_type')!r}, pe_type={options.get('pe_type')!r}; "
            "only the published kind, spherical harmonics with a SIREN, is supported"
        )
    calculation = options.get("harmonics_calculation", "analytic")
    if calculation != "analytic":
        raise CheckpointError(
            f"{path} uses {calculation!r} harmonics; only the published kind, 'analytic', is supported"
        )
    state = _state_dict(content, path)
    nnet = {name[name.index("nnet.") + 5 :]: value for name, value in state.items() if "nnet." in name}
    num_layers = len({name.split(".")[1] for name in nnet if name.startswith("layers.")})
    weights = {}
    for name, value in nnet.items():
        name = name.replace("last_layer.", f"layers.{num_layers}.")
        weights[f"network.{name}"] = value.float()
    first, last = weights.get("network.layers.0.weight"), weights.get(f"network.layers.{num_layers}.weight")
    if first is None or last is None or first.ndim != 2 or last.ndim != 2 or num_layers == 0:
        raise CheckpointError(f"{path} holds no SatCLIP location encoder (nnet.layers.0.weight); {_get('satclip')}")
    degree = math.isqrt(first.shape[1])
    if degree**2 != first.shape[1]:
        raise CheckpointError(
            f"{path}: {first.shape[1]} input features are no set of spherical harmonics (a square number)"
        )
    encoder = location_encoder(
        "siren_sh", len(last), degree=degree, hidden_dim=len(first), num_hidden_layers=num_layers, dropout=0.5
    )
    weights["network.layers.0.weight"] = first * _satclip_factors(degree)
    load_weights(encoder, weights, path)
    return encoder


def _satclip_factors(degree: int) -> Float[Tensor, "{degree}*{degree}"]:
    """SatCLIP's harmonics divided by ours, column by column: (-1)^l, times pi where m = 0."""
    columns = [(l, m) for l in range(degree) for m in range(-l, l + 1)]  # noqa: E741
    return torch.tensor([(-1) ** l * (math.pi if m == 0 else 1.0) for l, m in columns])  # noqa: E741


def _read_geoclip(content: Any, path: object) -> LocationEncoder:
    """GeoCLIP: Equal Earth coordinates, Fourier features at three scales, a ReLU network for each, added up.

    The file is ``location_encoder_weights.pth`` of the authors' package, or a complete model that holds its tensors
    under ``location_encoder.``.
    """
    state = {name.removeprefix("location_encoder."): value for name, value in _state_dict(content, path).items()}
    state = {name: value for name, value in state.items() if name.startswith("LocEnc")}
    bands = [value.float() for name, value in sorted(state.items()) if name.endswith(".capsule.0.b")]
    if not bands or any(band.ndim != 2 or band.shape != bands[0].shape for band in bands):
        raise CheckpointError(f"{path} holds no GeoCLIP location encoder (LocEnc0.capsule.0.b, ...); {_get('geoclip')}")
    weights = {"position_encoder.directions": torch.stack(bands)}
    for name, value in state.items():
        branch, part, layer, kind = [*name.split("."), "", "", ""][:4]
        number = branch.removeprefix("LocEnc")
        if part == "capsule" and layer == "0":
            continue
        layer = "6" if part == "head" else str(int(layer) - 1) if layer.isdecimal() else layer
        weights[f"network.branches.{number}.{layer}.{kind}"] = value.float()
    first, last = weights.get("network.branches.0.0.weight"), weights.get("network.branches.0.6.weight")
    if first is None or last is None or first.ndim != 2 or last.ndim != 2:
        raise CheckpointError(f"{path}: the layers LocEnc0.capsule.1 and LocEnc0.head.0 are missing; {_get('geoclip')}")
    position = EqualEarthFourier(sigmas=tuple(float(band.std()) for band in bands), num_frequencies=len(bands[0]))
    network = ParallelMLPs(position.out_features, len(last), num_scales=len(bands), hidden_dim=len(first))
    encoder = LocationEncoder(position, network, len(last))
    load_weights(encoder, weights, path)
    return encoder


PRETRAINED: dict[str, PretrainedInfo] = {
    "satclip": PretrainedInfo(
        name="SatCLIP",
        read=_read_satclip,
        source="https://huggingface.co/microsoft (SatCLIP-*, file satclip-*.ckpt)",
        licence="MIT",
        citation="Klemmer et al., SatCLIP: Global, general-purpose location embeddings with satellite imagery, AAAI 25",
    ),
    "geoclip": PretrainedInfo(
        name="GeoCLIP",
        read=_read_geoclip,
        source="https://github.com/VicenteVivan/geo-clip (geoclip/model/weights/location_encoder_weights.pth)",
        licence="MIT",
        citation="Vivanco Cepeda et al., GeoCLIP: CLIP-inspired alignment between locations and images, NeurIPS 2023",
    ),
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


def _state_dict(content: Any, path: object) -> dict[str, Tensor]:
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def _read_safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}; fetch it again") from error


def _get(kind: str) -> str:
    return f"{PRETRAINED[kind].name} is published at {PRETRAINED[kind].source}"
