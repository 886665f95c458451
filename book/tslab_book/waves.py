"""Random fields as sums of waves in space, for the synthetic species and the worlds of the encoder guide."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from tslab.coords import EARTH_RADIUS_KM


def random_waves(
    count: int, shortest_km: float, longest_km: float, generator: torch.Generator
) -> tuple[Float[Tensor, "w 3"], Float[Tensor, " w"], Float[Tensor, " w"]]:
    """Waves in space for a field cos(waves . u + phase) on the unit sphere: wave vectors, phases and wavelengths.

    Directions are random, wavelengths log-uniform between the two given in kilometres, phases uniform; all float64.
    """
    direction = torch.randn((count, 3), generator=generator, dtype=torch.float64)
    direction = direction / direction.norm(dim=1, keepdim=True)
    share = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    km = shortest_km * (longest_km / shortest_km) ** share
    phase = 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    return direction * (2 * math.pi * EARTH_RADIUS_KM / km), phase, km[:, 0]
