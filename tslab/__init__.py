"""tslab: location encoders, the models around them and the benchmark that compares them.

Everything works on ``(longitude, latitude)`` pairs in degrees, as float tensors of shape ``(n, 2)``.
"""

import importlib
import pkgutil
from functools import cache
from types import ModuleType

from tslab.baselines import fit_baseline
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
    load_encoder,
    load_pretrained,
    load_released_checkpoint,
    location_encoder,
    position_encoder,
    register_encoder,
    save_encoder,
)
from tslab.evaluation import Evaluation, evaluate
from tslab.kriging import train_stack
from tslab.published import published_tables
from tslab.released import load_released_results
from tslab.tasks import Table, Task, TaskMeta, load_task
from tslab.training import Run, load_run, train
from tslab.training.pretraining import few_shot, pretrain
from tslab.training.tuning import tune

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


_MOVED = {
    "presence": "tslab_book.presence",
    "probes": "tslab_book.probes",
    "sweeps": "tslab.benchmark.sweeps",
}
"""Modules that were here once, and where they are now; ``tslab_book`` is installed too."""


def __getattr__(name: str) -> ModuleType:
    """A public submodule, imported when it is first used: ``import tslab`` is enough for ``tslab.plot.globe``."""
    if name in _public_submodules():
        return importlib.import_module(f"tslab.{name}")
    if name in _MOVED:
        return importlib.import_module(_MOVED[name])
    raise AttributeError(f"module 'tslab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_public_submodules()})


@cache
def _public_submodules() -> frozenset[str]:
    return frozenset(
        module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")
    )
