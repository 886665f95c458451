"""What `import tslab` offers, for editors and type checkers. At run time a name is imported when it is first used."""

import types

from .baselines import fit_baseline
from .coords import (
    CoordinateError,
    check_lonlat,
    great_circle_distance,
    has_location,
    lonlat_from_unit_vectors,
    sample_sphere,
    unit_vectors,
)
from .encoders import (
    ENCODERS,
    LocationEncoder,
    PositionEncoder,
    load_encoder,
    load_pretrained,
    load_released_checkpoint,
    location_encoder,
    position_encoder,
    register_encoder,
    save_encoder,
)
from .evaluation import Evaluation, evaluate
from .kriging import train_stack
from .published import published_tables
from .released import load_released_results
from .tasks import Table, Task, TaskMeta, load_task
from .training import Run, load_run, train
from .training.pretraining import few_shot, pretrain
from .training.tuning import tune

__version__: str
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
    "few_shot",
    "fit_baseline",
    "great_circle_distance",
    "has_location",
    "load_encoder",
    "load_pretrained",
    "load_released_checkpoint",
    "load_released_results",
    "load_run",
    "load_task",
    "location_encoder",
    "lonlat_from_unit_vectors",
    "position_encoder",
    "pretrain",
    "published_tables",
    "register_encoder",
    "sample_sphere",
    "save_encoder",
    "train",
    "train_stack",
    "tune",
    "unit_vectors",
]

def __getattr__(name: str) -> types.ModuleType: ...
