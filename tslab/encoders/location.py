"""The location encoder: a position encoder with a network behind it."""

from jaxtyping import Float
from torch import Tensor, nn

from tslab.encoders.base import PositionEncoder


class LocationEncoder(nn.Module):
    """Enc(x) = NN(PE(x)): places (n, 2) in degrees to embeddings (n, `out_features`).

    A missing place (NaN) gives a row of NaN, so that whoever uses the embedding decides what it means.

    Attributes:
        position_encoder: the fixed part PE.
        network: the learned part NN.
        out_features: width of the embedding.
    """

    def __init__(self, position_encoder: PositionEncoder, network: nn.Module, embedding_dim: int) -> None:
        super().__init__()
        self.position_encoder = position_encoder
        self.network = network
        self.out_features = embedding_dim

    def forward(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n out_features"]:
        return self.network(self.position_encoder(lonlat))
