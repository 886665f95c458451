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
from tslab.evaluation import Evaluation, evaluate
from tslab.published import published_tables
from tslab.released import load_released_results
from tslab.tasks import Table, Task, TaskMeta, load_task
from tslab.training import Run, load_run, train

__version__ = "0.1.0"

__all__ = [
    "ENCODERS",
    "CoordinateError",
    "Evaluation",
    "LocationEncoder",
    "PositionEncoder",
    "Run",
    "Table",
    "Task",
    "TaskMeta",
    "check_lonlat",
    "evaluate",
    "great_circle_distance",
    "has_location",
    "load_released_results",
    "load_run",
    "load_task",
    "location_encoder",
    "lonlat_from_unit_vectors",
    "position_encoder",
    "published_tables",
    "register_encoder",
    "sample_sphere",
    "train",
    "unit_vectors",
]
