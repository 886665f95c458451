"""Reproducing the published benchmark: what we get, beside what was printed, with a verdict that follows from
a rule.

`tslab.benchmark.top1` recomputes Table 1 from the released per-sample results; `tslab.benchmark.records`
writes and reads the committed record of such a recomputation. Published numbers come from `tslab.published`
and are never changed.
"""

from tslab.benchmark.records import Provenance, find_record, read_record, write_record
from tslab.benchmark.top1 import NOTES, VERDICTS, explain, recompute_top1, standard_error, verdict

__all__ = [
    "NOTES",
    "VERDICTS",
    "Provenance",
    "explain",
    "find_record",
    "read_record",
    "recompute_top1",
    "standard_error",
    "verdict",
    "write_record",
]
