"""Tasks: the datasets of the benchmark, released or synthetic, behind one function.

`load_task` is the way in. `tslab.tasks.task` says what a task is, `tslab.tasks.splits` how to split one so that a test
means what you think it means, `tslab.tasks.verification` whether an archive is the published one.
"""

from tslab.tasks.datasets import DATASETS, DatasetInfo, dataset_info
from tslab.tasks.loading import TASK_NAMES, load_task
from tslab.tasks.task import LazyRows, Table, TableDataset, Task, TaskDataError, TaskMeta
from tslab.tasks.verification import Check, Report, verify

__all__ = [
    "DATASETS",
    "TASK_NAMES",
    "Check",
    "DatasetInfo",
    "LazyRows",
    "Report",
    "Table",
    "TableDataset",
    "Task",
    "TaskDataError",
    "TaskMeta",
    "dataset_info",
    "load_task",
    "verify",
]
