"""Training: from a task and the name of an encoder to a trained model, in one call.

`tslab.train` fills in the recorded hyper-parameters, builds the model, trains it and returns a `Run`.
`tslab.training.config` has the list of options, `tslab.training.loop` the loop, `tslab.training.folder` what a
stored run is made of and what an interrupted one goes on from.
"""

from tslab.training.config import TrainConfig, TrainOptions, build_model, resolve_device
from tslab.training.loop import NonFiniteLossError
from tslab.training.run import Run, load_run, train

__all__ = [
    "NonFiniteLossError",
    "Run",
    "TrainConfig",
    "TrainOptions",
    "build_model",
    "load_run",
    "resolve_device",
    "train",
]
