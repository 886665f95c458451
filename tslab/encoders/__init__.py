"""Location encoders: position encodings of the sphere and the plane, the networks behind them, and the
registry that names them."""

from tslab.encoders.base import MultiScaleEncoder, PositionEncoder, WaveEncoder, geometric_scales, sin_cos
from tslab.encoders.pretrained import PRETRAINED, EqualEarthFourier, load_pretrained, load_released_checkpoint
from tslab.encoders.registry import (
    ENCODERS,
    LocationEncoder,
    encoder_info,
    location_encoder,
    position_encoder,
    register_encoder,
)
from tslab.encoders.storage import CheckpointError, load_encoder, save_encoder

__all__ = [
    "ENCODERS",
    "PRETRAINED",
    "CheckpointError",
    "EqualEarthFourier",
    "LocationEncoder",
    "MultiScaleEncoder",
    "PositionEncoder",
    "WaveEncoder",
    "encoder_info",
    "geometric_scales",
    "load_encoder",
    "load_pretrained",
    "load_released_checkpoint",
    "location_encoder",
    "position_encoder",
    "register_encoder",
    "save_encoder",
    "sin_cos",
]
