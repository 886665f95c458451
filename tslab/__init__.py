"""tslab: location encoders, the models around them and the benchmark that compares them.

Everything works on ``(longitude, latitude)`` pairs in degrees, as float tensors of shape ``(n, 2)``.
"""

from tslab.coords import (
    CoordinateError,
    check_lonlat,
    great_circle_distance,
    has_location,
    lonlat_from_unit_vectors,
    sample_sphere,
    unit_vectors,
)
from tslab.encoders import (
    ENCODERS,
    LocationEncoder,
    PositionEncoder,
    location_encoder,
    position_encoder,
    register_encoder,
)

__version__ = "0.1.0"

__all__ = [
    "ENCODERS",
    "CoordinateError",
    "LocationEncoder",
    "PositionEncoder",
    "check_lonlat",
    "great_circle_distance",
    "has_location",
    "location_encoder",
    "lonlat_from_unit_vectors",
    "position_encoder",
    "register_encoder",
    "sample_sphere",
    "unit_vectors",
]
