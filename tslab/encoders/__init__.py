"""Location encoders: position encodings of the sphere and the plane, the networks behind them, and the registry that names them."""

from tslab.encoders.base import MultiScaleEncoder, PositionEncoder, WaveEncoder, geometric_scales, scales_between, sin_cos
from tslab.encoders.location import LocationEncoder
from tslab.encoders.registry import (
    ENCODERS,
    EncoderInfo,
    encoder_info,
    location_encoder,
    position_encoder,
    register_encoder,
)

__all__ = [
    "ENCODERS",
    "EncoderInfo",
    "LocationEncoder",
    "MultiScaleEncoder",
    "PositionEncoder",
    "WaveEncoder",
    "encoder_info",
    "geometric_scales",
    "location_encoder",
    "position_encoder",
    "register_encoder",
    "scales_between",
    "sin_cos",
]
