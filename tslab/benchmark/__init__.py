"""Reproducing the published benchmark: what we get, beside what was printed, with a verdict that follows from
a rule.

- `tslab.benchmark.recompute`: one number and its interval from per-sample results;
- `tslab.benchmark.runs`, `tslab.benchmark.driver` and `tslab.benchmark.store`: doing many runs, and a store that
  remembers what is done (``python -m tslab.benchmark run``);
- `tslab.benchmark.runner`: doing jobs here or on Dask, those of `tslab.benchmark.sweeps` too;
- `tslab.benchmark.cells`: the record of all 652 published numbers, with verdict and reason;
- `tslab.benchmark.verdicts`: the rules that verdicts and reasons follow from;
- `tslab.benchmark.comparison`: whether two encoders differ, which rankings survive, how far apart two runs may be;
- `tslab.benchmark.records`: where committed records lie, and that they only grow.

Published numbers come from `tslab.published` and are never changed.
"""

from tslab.benchmark.cells import audit, cells_csv, read_cells, with_verdicts, write_cells
from tslab.benchmark.comparison import (
    RankTest,
    best_group,
    compare_hits,
    compare_released,
    holm,
    mcnemar,
    paired_bootstrap,
    rank_test,
    ranking_survival,
    read_comparisons,
    run_noise,
    write_comparisons,
)
from tslab.benchmark.driver import forecast, run_all
from tslab.benchmark.leaderboard import leaderboard, read_fair_table
from tslab.benchmark.recompute import measure
from tslab.benchmark.records import find_record
from tslab.benchmark.runner import do_jobs, open_pool
from tslab.benchmark.runs import SOURCES, TABLES, RunSpec, plan
from tslab.benchmark.store import JobStore, ResultStore
from tslab.benchmark.verdicts import MARKS, REASONS, VERDICTS, draw_noise, judge

__all__ = [
    "MARKS",
    "REASONS",
    "SOURCES",
    "TABLES",
    "VERDICTS",
    "JobStore",
    "RankTest",
    "ResultStore",
    "RunSpec",
    "audit",
    "best_group",
    "cells_csv",
    "compare_hits",
    "compare_released",
    "do_jobs",
    "draw_noise",
    "find_record",
    "forecast",
    "holm",
    "judge",
    "leaderboard",
    "mcnemar",
    "measure",
    "open_pool",
    "paired_bootstrap",
    "plan",
    "rank_test",
    "ranking_survival",
    "read_cells",
    "read_comparisons",
    "read_fair_table",
    "run_all",
    "run_noise",
    "with_verdicts",
    "write_cells",
    "write_comparisons",
]
