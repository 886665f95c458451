"""The networks behind a position encoder: the benchmark's feed-forward net, its residual net, and SIREN."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tslab._checks import check_choice, check_count, check_number

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leakyrelu": lambda: nn.LeakyReLU(0.2),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
}
"""Activation functions by name; the slope of leakyrelu is 0.2, as in the benchmark."""


class FFN(nn.Module):
    """The benchmark's feed-forward network.

    Each hidden layer is Linear, activation, dropout, skip connection (where the widths match), LayerNorm. The
    output layer is Linear; ``final_activation=True`` puts the activation and dropout behind it too, which the
    released checkpoints need. Weights are Xavier-uniform, biases zero.

    Args:
        in_features, out_features: widths of input and output.
        hidden_dim: width of the hidden layers.
        num_hidden_layers: their number; 0 leaves the output layer alone.
        activation: a key of `ACTIVATIONS`.
        dropout: probability, in [0, 1).
        layer_norm, skip: as above.
        final_activation: see above.
        generator: random source of the weights.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden_dim: int = 512,
        num_hidden_layers: int = 1,
        activation: str = "relu",
        dropout: float = 0.5,
        layer_norm: bool = True,
        skip: bool = True,
        final_activation: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_layers(dropout, in_features=in_features, out_features=out_features, hidden_dim=hidden_dim)
        check_count("num_hidden_layers", num_hidden_layers, at_least=0)
        for name, value in (("layer_norm", layer_norm), ("skip", skip), ("final_activation", final_activation)):
            check_choice(name, value, (True, False))
        check_choice("activation", activation, ACTIVATIONS)
        widths = [in_features, *[hidden_dim] * num_hidden_layers]
        self.layers = nn.ModuleList(
            FFNLayer(xavier_linear(a, b, generator), activation, dropout, layer_norm=layer_norm, skip=skip)
            for a, b in pairwise(widths)
        )
        output = xavier_linear(widths[-1], out_features, generator)
        self.layers.append(FFNLayer(output, activation if final_activation else None, dropout))

    def forward(self, features: Float[Tensor, "n in_features"]) -> Float[Tensor, "n out_features"]:
        for layer in self.layers:
            features = layer(features)
        return features


class FFNLayer(nn.Module):
    """Linear, activation and dropout (neither if ``activation`` is None), skip connection (where input and output are
    of the same width), LayerNorm."""

    def __init__(
        self, linear: nn.Linear, activation: str | None, dropout: float, layer_norm: bool = False, skip: bool = False
    ) -> None:
        super().__init__()
        self.linear = linear
        self.activation = nn.Identity() if activation is None else ACTIVATIONS[activation]()
        self.dropout = nn.Identity() if activation is None else Dropout(dropout)
        self.norm = nn.LayerNorm(linear.out_features) if layer_norm else nn.Identity()
        self.skip = skip and linear.in_features == linear.out_features

    def forward(self, features: Float[Tensor, "n in_features"]) -> Float[Tensor, "n out_features"]:
        out = self.dropout(self.activation(self.linear(features)))
        return self.norm(out + features if self.skip else out)


class ResidualNet(nn.Module):
    """The network of the ``wrap`` encoder.

    Linear, ReLU, then blocks of Linear, ReLU, dropout, Linear, ReLU, each added to its input.

    Source: Mac Aodha et al., ICCV 2019.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        num_blocks: int = 4,
        dropout: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_layers(dropout, in_features=in_features, out_features=out_features)
        check_count("num_blocks", num_blocks, at_least=0)
        self.input = xavier_linear(in_features, out_features, generator)
        linear = partial(xavier_linear, out_features, out_features, generator)
        self.blocks = nn.ModuleList(
            nn.Sequential(linear(), nn.ReLU(), Dropout(dropout), linear(), nn.ReLU()) for _ in range(num_blocks)
        )

    def forward(self, features: Float[Tensor, "n in_features"]) -> Float[Tensor, "n out_features"]:
        out = self.input(features).relu()
        for block in self.blocks:
            out = out + block(out)
        return out


class Siren(nn.Module):
    """A sine-activated network: x -> sin(omega (W x + b)), then a linear output layer.

    Weights of the first layer are U(-1/d, 1/d), of the later ones U(-sqrt(6/d)/omega, sqrt(6/d)/omega), d the
    input width.

    Args:
        in_features, out_features, hidden_dim: widths.
        num_hidden_layers: number of sine layers, at least 1.
        first_omega, omega: frequency factor of the first and of the later sine layers.
        dropout: probability behind each sine layer.
        generator: random source of the weights.

    Source: Sitzmann et al., Implicit neural representations with periodic activation functions, NeurIPS 2020.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden_dim: int = 512,
        num_hidden_layers: int = 1,
        first_omega: float = 30.0,
        omega: float = 1.0,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_layers(dropout, in_features=in_features, out_features=out_features, hidden_dim=hidden_dim)
        check_count("num_hidden_layers", num_hidden_layers, hint="a SIREN needs a sine layer")
        check_number("first_omega", first_omega, above=0)
        check_number("omega", omega, above=0)
        widths = [in_features, *[hidden_dim] * num_hidden_layers, out_features]
        self.omegas = [first_omega, *[omega] * (num_hidden_layers - 1)]
        self.layers = nn.ModuleList()
        for i, (a, b) in enumerate(pairwise(widths)):
            bound = 1 / a if i == 0 else math.sqrt(6 / a) / omega
            self.layers.append(uniform_linear(a, b, bound, generator))
        self.dropout = Dropout(dropout)

    def forward(self, features: Float[Tensor, "n in_features"]) -> Float[Tensor, "n out_features"]:
        for i, omega in enumerate(self.omegas):
            features = self.dropout(torch.sin(omega * self.layers[i](features)))
        return self.layers[-1](features)


class Dropout(nn.Dropout):
    """Dropout that draws its mask on a CPU from 16 random bits an element, four elements for one number.

    On other devices, and while the call is compiled, it is the ordinary one. The probability is rounded to a
    multiple of 2^-16, and the elements that stay are scaled by its exact inverse, so the mean is kept. Random
    numbers come from torch's own generator.
    """

    def forward(self, features: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        n, dropped = features.numel(), round(self.p * 2**16)
        plain = features.device.type != "cpu" or torch.compiler.is_compiling()
        if plain or not self.training or not 0 < dropped < 2**16:
            return super().forward(features)
        draws = torch.empty((n + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[:n].view(features.shape)
        mask = (bits >= dropped - 2**15).to(features.dtype).mul_(2**16 / (2**16 - dropped))
        return features * mask


def xavier_linear(in_features: int, out_features: int, generator: torch.Generator | None = None) -> nn.Linear:
    """A linear layer with Xavier-uniform weights and zero bias."""
    bound = math.sqrt(6 / (in_features + out_features))
    layer = uniform_linear(in_features, out_features, bound, generator)
    nn.init.zeros_(layer.bias)
    return layer


def uniform_linear(
    in_features: int, out_features: int, bound: float, generator: torch.Generator | None = None
) -> nn.Linear:
    """A linear layer with weights and bias uniform in (-bound, bound)."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, in_features, out_features)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer


def check_layers(dropout: float = 0.0, **widths: int) -> None:
    """Raise ValueError, with the name, for a width that is no positive whole number or a dropout outside [0, 1)."""
    check_number("dropout", dropout, at_least=0, below=1)
    for name, width in widths.items():
        check_count(name, width)
