"""Tasks: the datasets of the benchmark, released or synthetic, behind one function.

`load_task` is the way in. `tslab.tasks.task` says what a task is, `tslab.tasks.splits` how to split one so that a test
means what you think it means.
"""

from typing import Any, Literal

from tslab.tasks.task import LazyRows, Table, TableDataset, Task, TaskDataError, TaskMeta
from tslab.tasks.toy import sphere_toy

Source = Literal["synthetic", "locbench", "released", "native"]
Scale = Literal["tiny", "small", "full"]


def load_task(name: str, *, seed: int = 0, **options: Any) -> Task:
    """Load a task by name."""
    if name == "sphere_toy":
        return sphere_toy(seed, **options)
    raise ValueError(f"no task {name!r}")


__all__ = [
    "LazyRows",
    "Scale",
    "Source",
    "Table",
    "TableDataset",
    "Task",
    "TaskDataError",
    "TaskMeta",
    "load_task",
    "sphere_toy",
]
