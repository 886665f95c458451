"""Reproducing the published benchmark: what we get, beside what was printed, with a verdict that follows from
a rule.

- `tslab.benchmark.recompute`: one number and its interval from per-sample results;
- `tslab.benchmark.runs`, `tslab.benchmark.driver` and `tslab.benchmark.store`: doing many runs, and a store that
  remembers what is done (``python -m tslab.benchmark run``);
- `tslab.benchmark.runner`: doing jobs here or on Dask;
- `tslab.benchmark.cells`: the record of all 652 published numbers, and the rules that verdict and reason follow from;
- `tslab.benchmark.comparison`: whether two encoders differ, and how far apart two runs may be.

Published numbers come from `tslab.published` and are never changed.
"""

from tslab.benchmark.cells import REASONS, VERDICTS, audit, judge, read_cells
from tslab.benchmark.comparison import (
    compare_hits,
    compare_released,
    holm,
    mcnemar,
    paired_bootstrap,
    read_comparisons,
    run_noise,
)
from tslab.benchmark.driver import run_all
from tslab.benchmark.recompute import measure
from tslab.benchmark.runs import TABLES, RunSpec, plan
from tslab.benchmark.store import JobStore, ResultStore, find_record

__all__ = [
    "REASONS",
    "TABLES",
    "VERDICTS",
    "JobStore",
    "ResultStore",
    "RunSpec",
    "audit",
    "compare_hits",
    "compare_released",
    "find_record",
    "holm",
    "judge",
    "mcnemar",
    "measure",
    "paired_bootstrap",
    "plan",
    "read_cells",
    "read_comparisons",
    "run_all",
    "run_noise",
]
