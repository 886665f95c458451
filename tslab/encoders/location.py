"""The location encoder: a position encoder with a network behind it, and the configuration that rebuilds
it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from tslab.encoders.base import PositionEncoder


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
