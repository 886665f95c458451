"""Tasks: the datasets of the benchmark, released or synthetic, behind one function.

`load_task` is the way in. `tslab.tasks.task` says what a task is, `tslab.tasks.splits` how to split one so that a test
means what you think it means. Generated tasks are `tslab.synthetic`.
"""

from tslab.tasks.columns import TaskDataError
from tslab.tasks.datasets import DATASETS, DatasetInfo, TaskMeta, dataset_info
from tslab.tasks.images import LazyRows
from tslab.tasks.loading import TASK_NAMES, load_task
from tslab.tasks.table import Table, TableDataset
from tslab.tasks.task import Task

__all__ = [
    "DATASETS",
    "TASK_NAMES",
    "DatasetInfo",
    "LazyRows",
    "Table",
    "TableDataset",
    "Task",
    "TaskDataError",
    "TaskMeta",
    "dataset_info",
    "load_task",
]
