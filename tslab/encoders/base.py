"""What every position encoder shares: the contract, the scales and exact phases.

A position encoder is an ``nn.Module`` that maps (n, 2) degrees to (n, ``out_features``) numbers. Its subclass
holds the formula, in `PositionEncoder.encode`; this base class checks the input and keeps large inputs inside
the processor's cache.

The finest scales of the benchmark turn 180 degrees into millions of radians, where a float32 phase is wrong
by 0.2 radians. `sin_turns` therefore counts phases in turns, in float64, drops the whole turns exactly, and
only then goes to the dtype of the input.
"""

import inspect
import math
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tslab._checks import check_count, check_number
from tslab.coords import CoordinateError, check_lonlat, has_location, values_are_hidden

BLOCK_ELEMENTS = 2**18
"""Large inputs are encoded in blocks of rows that write about this many numbers, so that intermediate results
stay in cache."""

QUARTER = 0.25
"""A cosine is a sine that is a quarter of a turn ahead."""


class PositionEncoder(nn.Module):
    """Maps places to features, without any learned network behind it (`tslab.location_encoder` adds one).

    Call it with a float tensor (n, 2) of (longitude, latitude) in degrees; it returns (n, `out_features`) in
    the same dtype and on the same device. It is differentiable, and a missing place (NaN) gives a row of NaN.

    Subclasses set `out_features` and define `encode`.
    """

    out_features: int

    def forward(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n {self.out_features}"]:
        """Encode places; see the class.

        Raises:
            CoordinateError: not a float32 or float64 tensor of shape (n, 2) with valid degrees.
        """
        check_lonlat(lonlat)
        if lonlat.dtype not in (torch.float32, torch.float64):
            raise CoordinateError(f"{lonlat.dtype} moves places by up to a degree; pass lonlat in float32 or float64")
        lonlat = torch.where(has_location(lonlat)[:, None], lonlat, math.nan)  # missing is missing in both columns
        if self._fits_in_cache(lonlat):
            return self._encode_checked(lonlat)
        out = _empty(len(lonlat), self.out_features, lonlat.dtype)
        for target, block in zip(out.split(self.rows_per_block), lonlat.split(self.rows_per_block), strict=True):
            target.copy_(self._encode_checked(block))
        return out

    def _encode_checked(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n out_features"]:
        features = self.encode(lonlat)
        expected, got = (lonlat.shape[0], self.out_features), tuple(features.shape)
        if got != expected:
            raise ValueError(f"{type(self).__name__}.encode must return (n, out_features) = {expected}, got {got}")
        return features

    def encode(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n out_features"]:
        """The formula. `lonlat` is checked already."""
        raise NotImplementedError(f"{type(self).__name__} must define encode(lonlat)")

    def extra_repr(self) -> str:
        """The constructor's arguments that are kept under their names, but for tensors."""
        kept = {name: getattr(self, name, None) for name in inspect.signature(type(self)).parameters}
        return ", ".join(f"{k}={v}" for k, v in kept.items() if v is not None and not isinstance(v, Tensor))

    @property
    def rows_per_block(self) -> int:
        """Number of places that are encoded at a time where the input is large."""
        return max(1, BLOCK_ELEMENTS // self.out_features)

    def register_constant(self, name: str, value: Float[Tensor, "*shape"]) -> None:
        """Register a buffer that follows from the arguments. It is not saved with the weights and keeps precision and
        value whatever happens to them, also where the module is built on the meta device: compute it on the CPU."""
        default = torch.empty(0).device
        self.register_buffer(name, value if default.type == "meta" else value.to(default), persistent=False)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        """Follow ``.to(device)``, but let buffers keep their precision when the module is cast, and constants their
        values when weights are made anew (``.to_empty``)."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in list(self.named_buffers(recurse=False)):
            constant = name in self._non_persistent_buffers_set
            if constant and before[name].is_meta and not buffer.is_meta:
                what = f"{name} of {type(self).__name__} has no value on the meta device"
                raise RuntimeError(f"{what}; make it with register_constant on the CPU")
            if constant or buffer.dtype != before[name].dtype:
                setattr(self, name, before[name].to(buffer.device))
        return self

    def _fits_in_cache(self, lonlat: Tensor) -> bool:
        """True where one pass is right: small input, an accelerator, or operations that are recorded."""
        if values_are_hidden(lonlat) or lonlat.device.type != "cpu":
            return True
        recorded = torch.is_grad_enabled() and any(t.requires_grad for t in (lonlat, *self.parameters()))
        return recorded or len(lonlat) <= 2 * self.rows_per_block


def _empty(rows: int, columns: int, dtype: torch.dtype) -> Float[Tensor, "n d"]:
    """A new output in memory that costs few page faults, which else take longer than the sines.

    NumPy asks Linux to back large arrays with pages of 2 MB instead of 4 kB. (A compiled encoder allocates its own
    output; start Python with ``THP_MEM_ALLOC_ENABLE=1`` to let PyTorch ask for huge pages everywhere.) And glibc adapts
    how much freed memory it keeps to the largest block (up to 32 MB) freed so far: one block of 16 MB, freed untouched,
    costs microseconds, and makes it keep the temporaries of one block of places for the next.
    """
    torch.empty(2**24, dtype=torch.uint8)
    return torch.from_numpy(np.empty((rows, columns), np.float32 if dtype == torch.float32 else np.float64))


class WaveEncoder(PositionEncoder):
    """A position encoder whose features are waves: phases are coordinates times fixed `frequencies`.

    The buffer `frequencies` is float64, in turns per unit of the coordinate. It is derived from the
    arguments, so it is not saved with the weights. Like all buffers of a position encoder, it keeps its precision
    when the module is cast.
    """

    frequencies: Tensor

    def __init__(self, frequencies: Float[Tensor, "*f"]) -> None:
        super().__init__()
        self.register_constant("frequencies", frequencies.double())


class MultiScaleEncoder(WaveEncoder):
    """A `WaveEncoder` with one frequency for each scale of a geometric progression."""

    turns_per_unit: ClassVar[float]
    """Turns of phase for one unit of the coordinate at scale 1."""

    def __init__(self, num_scales: int, min_radius: float, max_radius: float) -> None:
        super().__init__(self.frequencies_of(geometric_scales(num_scales, min_radius, max_radius)))
        self.num_scales, self.min_radius, self.max_radius = num_scales, min_radius, max_radius

    @classmethod
    def frequencies_of(cls, scales: Float[Tensor, " f"]) -> Float[Tensor, " f"]:
        """Frequencies, in turns per unit of the coordinate, of the given scales (float64)."""
        return cls.turns_per_unit / scales


def geometric_scales(num_scales: int, min_radius: float, max_radius: float) -> Float[Tensor, " f"]:
    """F scales in geometric progression: s_f = r_min (r_max / r_min)^(f / (F - 1)), f = 0 ... F - 1.

    They are float64, on the CPU.

    Source: Mai et al., Multi-scale representation learning for spatial feature distributions using grid
    cells, ICLR 2020.

    Raises:
        ValueError: fewer than one scale, or not 0 < min_radius <= max_radius, both finite.
    """
    num_scales = check_count("num_scales", num_scales)
    min_radius = float(check_number("min_radius", min_radius, above=0))
    max_radius = float(check_number("max_radius", max_radius, above=0))
    if min_radius > max_radius:
        raise ValueError(f"min_radius <= max_radius must hold, got {min_radius} and {max_radius}")
    exponents = torch.linspace(0, 1, num_scales, dtype=torch.float64, device="cpu")
    return scales_between(exponents, min_radius, max_radius)


def scales_between(
    exponents: Float[Tensor, " f"], min_radius: float | Float[Tensor, ""], max_radius: float | Float[Tensor, ""]
) -> Float[Tensor, " f"]:
    """The scales r_min (r_max / r_min)^e, e in [0, 1]; all may be tensors, so that a graph can take them as inputs."""
    return min_radius * (max_radius / min_radius) ** exponents


def sin_turns(turns: Float[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """sin(2 pi ``turns``), exact for phases of any size.

    ``turns`` (float64) lose their whole turns in float64; only the sine of the rest is taken in ``dtype``. Before
    that last rounding, a phase of T turns is off by about T x 10^-16 turns.
    """
    return ((turns - turns.round()).to(dtype) * (2 * math.pi)).sin()


def sin_cos(
    values: Float[Tensor, "*#shape"], frequencies: Float[Tensor, "*#shape"], dtype: torch.dtype
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Sine and cosine of 2 pi ``values`` x ``frequencies``, exact as in `sin_turns`.

    ``values`` and ``frequencies`` (turns per unit, float64) broadcast.
    """
    turns = values.double() * frequencies
    phase = (turns - turns.round()).to(dtype) * (2 * math.pi)
    return phase.sin(), phase.cos()


def interleave(*features: Float[Tensor, "*n f"]) -> Float[Tensor, "*n {len(features)}*f"]:
    """k features of each scale, (n, f) each, in the order of the output: all of the first scale, then the second.

    Also for tables (f,): with its frequencies in that order, an encoder computes each feature where it is written, side
    by side. A compiler makes one vectorised loop of that, without any intermediate result.
    """
    return torch.stack(features, dim=-1).flatten(-2)
