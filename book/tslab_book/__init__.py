"""The book's own code: what single chapters compute and draw, and what chapters share but readers do not reuse.

One module for each chapter that needs one. Nothing in `tslab` imports it; the wheel ships both, so that a notebook runs
from the wheel alone.
"""

from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "results"
"""Folder of the committed records in a clone, where the programs of these modules write them; chapters read them with
`tslab.benchmark.find_record`, which also works without a clone."""
