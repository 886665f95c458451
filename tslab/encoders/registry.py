"""The encoders by name: which class stands behind a key, what it takes, and how others can join.

`ENCODERS` is a plain dict. `position_encoder` builds the fixed part PE(x), `location_encoder` puts the
network behind it and returns a `LocationEncoder`, whose `EncoderConfig` rebuilds it. `register_encoder` adds an
encoder of your own, which then works everywhere a key does.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tslab._checks import check_choice, check_count
from tslab._files import packaged_json
from tslab.encoders.base import PositionEncoder
from tslab.encoders.networks import FFN, ResidualNet, Siren
from tslab.encoders.planar import RBF, RFF, Space2VecGrid, Space2VecTheory, Tile, Wrap
from tslab.encoders.spherical import DFS, XYZ, NeRF, SphereC, SphereCPlus, SphereM, SphereMPlus, SphericalHarmonics

Preset = Literal["locbench2024"]
PRESETS = ("locbench2024",)
NETWORKS: dict[str, Callable[..., nn.Module]] = {"ffn": FFN, "residual": ResidualNet, "siren": Siren}
FAMILIES = ("baseline", "planar", "kernel", "multi-scale planar", "spherical", "sphere2vec", "harmonic")


@dataclass(frozen=True)
class EncoderInfo:
    """What tslab knows about one encoder.

    Attributes:
        key: its name in tables and calls.
        name: its name in prose.
        family: one of `FAMILIES`; figures colour by it.
        build: class or function that makes the position encoder; its signature says which parameters it
            takes.
        network: key of `NETWORKS` that stands behind it by default.
        presets: for each preset, the position parameters that it changes, and ``network`` if it changes that.
        summary: one line on what it computes.
    """

    key: str
    name: str
    family: str
    build: Callable[..., PositionEncoder]
    network: str = "ffn"
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    summary: str = ""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that the position encoder takes."""
        return tuple(_named(self.build))

    def preset_parameters(self, preset: str | None) -> dict[str, Any]:
        """Position parameters that ``preset`` changes (none for None)."""
        check_choice("preset", preset, (None, *PRESETS))
        return {k: v for k, v in self.presets.get(preset or "", {}).items() if k != "network"}


@dataclass(frozen=True)
class EncoderConfig:
    """Everything but the weights that it takes to build a location encoder again; plain values only.

    Presets and defaults are written out, so that a configuration means the same in later versions. Random
    parts (anchors, directions, tables) are not in it: they are saved with the weights.

    Attributes:
        key: key of `tslab.ENCODERS`.
        embedding_dim: width of the embedding.
        position: parameters of the position encoder.
        network: key of the network behind it ("ffn", "residual", "siren").
        network_parameters: its parameters.
    """

    key: str
    embedding_dim: int
    position: Mapping[str, Any] = field(default_factory=dict)
    network: str = "ffn"
    network_parameters: Mapping[str, Any] = field(default_factory=dict)


class LocationEncoder(nn.Module):
    """Enc(x) = NN(PE(x)): places (n, 2) in degrees to embeddings (n, `out_features`).

    A missing place (NaN) gives a row of NaN, so that whoever uses the embedding decides what it means. Places
    may be float64 whatever the dtype of the network: the features are cast to it.

    Attributes:
        position_encoder: the fixed part PE.
        network: the learned part NN.
        out_features: width of the embedding.
        config: what `tslab.save_encoder` writes beside the weights; None for an encoder put together by hand.
    """

    def __init__(
        self,
        position_encoder: PositionEncoder,
        network: nn.Module,
        embedding_dim: int,
        config: EncoderConfig | None = None,
    ) -> None:
        super().__init__()
        self.position_encoder = position_encoder
        self.network = network
        self.out_features = embedding_dim
        self.config = config

    def forward(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n {self.out_features}"]:
        features = self.position_encoder(lonlat)
        weight = [*self.network.parameters(), features][0]
        return self.network(features.to(weight.dtype))


CLASSES: dict[str, type[PositionEncoder]] = {
    "tile": Tile,
    "wrap": Wrap,
    "wrap_ffn": Wrap,
    "rbf": RBF,
    "rff": RFF,
    "space2vec_grid": Space2VecGrid,
    "space2vec_theory": Space2VecTheory,
    "xyz": XYZ,
    "nerf": NeRF,
    "sphere2vec_sphereC": SphereC,
    "sphere2vec_sphereC+": SphereCPlus,
    "sphere2vec_sphereM": SphereM,
    "sphere2vec_sphereM+": SphereMPlus,
    "sphere2vec_dfs": DFS,
    "siren_sh": SphericalHarmonics,
}
"""The classes of the package's own encoders; ``data/encoders.json`` says the rest."""

ENCODERS: dict[str, EncoderInfo] = {
    key: EncoderInfo(key=key, build=CLASSES[key], **facts) for key, facts in packaged_json("encoders.json").items()
}
"""Every encoder by key; the keys are those of the published tables."""

RESERVED = ("no_prior", "custom")
"""Words that stand in the place of a key: a model without a place, and an encoder object in a stored run."""


def position_encoder(key: str, *, preset: Preset | None = None, **parameters: Any) -> PositionEncoder:
    """Build the position encoder PE(x) called ``key``.

    Parameters are those of its class, for example ``num_scales``, ``min_radius``, ``max_radius``, ``extent``,
    ``num_anchors``, ``kernel_size``, ``anchors``, ``cell_size``, ``degree``, ``generator``: whichever apply.
    The paper's definition is the default; ``preset="locbench2024"`` gives what the released code computes
    where that differs (tile: one cell; nerf: always 16 octaves; sphereM+ and dfs: all frequencies 1;
    siren_sh: degree 8). Parameters that you pass win over the preset.

    Raises:
        KeyError: unknown key, with the list of keys.
        TypeError: a parameter that this encoder does not take, with the list of those it takes.
        ValueError: a value out of range, or an unknown preset.
    """
    info = encoder_info(key)
    _reject_unknown(key, parameters, info.parameters)
    encoder = info.build(**(info.preset_parameters(preset) | parameters))
    if not isinstance(getattr(encoder, "out_features", None), int):
        raise TypeError(f"encoder {key!r} has no whole number out_features; set it in its constructor")
    return encoder


def location_encoder(
    key: str,
    embedding_dim: int = 256,
    *,
    network: str | None = None,
    preset: Preset | None = None,
    generator: torch.Generator | None = None,
    **parameters: Any,
) -> LocationEncoder:
    """Build a location encoder Enc(x) = NN(PE(x)): places (n, 2) in degrees to embeddings (n,
    ``embedding_dim``).

    Takes the parameters of `position_encoder` and those of the network: ``hidden_dim``,
    ``num_hidden_layers``, ``activation``, ``dropout``, ``layer_norm``, ``skip``, ``final_activation`` for
    "ffn" (the default of most encoders), ``num_blocks`` and ``dropout`` for "residual" (wrap),
    ``hidden_dim``, ``num_hidden_layers``, ``first_omega``, ``omega`` and ``dropout`` for "siren" (siren_sh).

    ``preset="locbench2024"`` puts activation and dropout on the output layer, as the released checkpoints
    need, takes the released position encoding (see `position_encoder`) and puts the ordinary network behind
    spherical harmonics.

    Raises:
        KeyError, TypeError, ValueError: as `position_encoder`; a parameter that neither part takes is
            rejected by name.
    """
    info = encoder_info(key)
    check_count("embedding_dim", embedding_dim)
    position = info.preset_parameters(preset)
    network = network or info.presets.get(preset or "", {}).get("network", info.network)
    network_defaults = _defaults(network_class(network), "in_features", "out_features", "generator")
    _reject_unknown(key, parameters, (*info.parameters, *network_defaults, "generator"))
    position |= {name: value for name, value in parameters.items() if name in info.parameters}
    behind = {name: value for name, value in parameters.items() if name in network_defaults}
    if preset and "final_activation" in network_defaults:
        behind.setdefault("final_activation", True)
    config = EncoderConfig(
        key=key,
        embedding_dim=embedding_dim,
        position=_plain(_defaults(info.build, "generator") | position),
        network=network,
        network_parameters=_plain(network_defaults | behind),
    )
    return build_encoder(config, generator, **{k: v for k, v in position.items() if isinstance(v, Tensor)})


def build_encoder(
    config: EncoderConfig, generator: torch.Generator | None = None, **tensors: Tensor
) -> LocationEncoder:
    """A location encoder with the given configuration and random weights.

    Args:
        config: what to build.
        generator: random source of the weights and of the random parts of the position encoding.
        tensors: parameters of the position encoder that a configuration cannot hold.

    Raises:
        KeyError: the key is not in `ENCODERS`; an encoder of your own must be registered first.
        TypeError, ValueError: parameters that the encoder or its network does not take.
    """
    position = {**config.position, **tensors}
    if generator is not None and "generator" in encoder_info(config.key).parameters:
        position["generator"] = generator
    encoder = position_encoder(config.key, **position)
    build = network_class(config.network)
    net = build(encoder.out_features, config.embedding_dim, generator=generator, **config.network_parameters)
    return LocationEncoder(encoder, net, config.embedding_dim, config)


def register_encoder(
    key: str,
    build: Callable[..., PositionEncoder],
    *,
    name: str | None = None,
    family: str = "baseline",
    network: str = "ffn",
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    summary: str = "",
    overwrite: bool = False,
) -> EncoderInfo:
    """Add an encoder of your own under ``key``; it then works wherever a key of `ENCODERS` does.

    ``build`` is a `PositionEncoder` subclass or a function that returns one; the names of its parameters
    become the parameters of `position_encoder(key, ...)`.

    Raises:
        ValueError: the key is taken (pass ``overwrite=True`` to replace it) or cannot be the name of a file, or an
            unknown family, network or preset.
        TypeError: ``build`` cannot be called, or does not say which parameters it takes.
    """
    if not isinstance(key, str) or not key or any(c in '/\\:"\0' for c in key) or key.startswith("."):
        raise ValueError(f"key must be a name that a file can have, got {key!r}")
    if key in RESERVED:
        raise ValueError(f"key {key!r} has a meaning of its own in tslab.train; choose another")
    try:
        inspect.signature(build)
    except (TypeError, ValueError) as error:
        raise TypeError(f"build must be a class or function with named parameters: {error}") from error
    for preset in presets or {}:
        check_choice("preset", preset, PRESETS)
    if key in ENCODERS and not overwrite:
        raise ValueError(f"encoder {key!r} exists already; choose another key or pass overwrite=True")
    check_choice("family", family, FAMILIES)
    network_class(network)
    ENCODERS[key] = EncoderInfo(key, name or key, family, build, network, dict(presets or {}), summary)
    return ENCODERS[key]


def encoder_info(key: str) -> EncoderInfo:
    """The entry of `ENCODERS`, or a KeyError that lists the keys."""
    if not isinstance(key, str) or key not in ENCODERS:
        raise KeyError(f"encoder {key!r} is not known; choose one of {', '.join(ENCODERS)}")
    return ENCODERS[key]


def network_class(network: str) -> Callable[..., nn.Module]:
    """The entry of `NETWORKS`, or a ValueError that lists the keys."""
    return NETWORKS[check_choice("network", network, NETWORKS)]


def _named(build: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Parameters that have a name, without ``*args`` and ``**kwargs``."""
    rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: p for name, p in inspect.signature(build).parameters.items() if p.kind not in rest}


def _defaults(build: Callable[..., Any], *without: str) -> dict[str, Any]:
    """Parameters of ``build`` and their defaults, ``without`` some."""
    return {name: p.default for name, p in _named(build).items() if name not in without}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as a configuration holds them. A tensor is saved with the weights: only its length stays here."""
    lengths = {f"num_{name}": len(value) for name, value in values.items() if isinstance(value, Tensor)}
    values = {**values, **{name: length for name, length in lengths.items() if name in values}}
    return {k: v for k, v in values.items() if not isinstance(v, Tensor) and v is not inspect.Parameter.empty}


def _reject_unknown(key: str, given: Mapping[str, Any], valid: tuple[str, ...]) -> None:
    if unknown := [name for name in given if name not in valid]:
        takes = ", ".join(dict.fromkeys(valid)) or "no parameters"
        raise TypeError(f"encoder {key!r} does not take {', '.join(unknown)}; it takes {takes}")
