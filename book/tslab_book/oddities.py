"""Oddities of the released code: what is wrong or surprising, what it changes, and what tslab does.

Found by reading the released TorchSpatial repository (commit 9f8d833 and its history), its logs and its checkpoints.
The chapter on the audit groups them by what they change and shows the evidence for those that matter. What of it needs
the released regression files is a record, which

    python -m tslab_book.oddities

computes again.
"""

import argparse
import json
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tslab._files import atomic_write
from tslab.benchmark.recompute import released_samples
from tslab.released_files import has_released_results
from tslab_book import RESULTS

FACTS = "audit_facts.json"
"""The record of `compute_facts`, for `tslab_book.records.read_record`."""

TASKS = ("mosaiks_population", "mosaiks_forest_cover", "mosaiks_nightlights", "mosaiks_elevation")
"""Tasks of the record."""

GROUPS: dict[str, str] = {
    "encoder": "changes what an encoder is",
    "training": "changes what is trained",
    "evaluation": "changes what is evaluated and reported",
    "storage": "loses or mixes up what was stored",
    "broken": "stops the code",
}
"""Group -> what its oddities do."""


def read_oddities() -> pd.DataFrame:
    """The oddities, by group: columns group (key of `GROUPS`), where, what (happens), tslab (what it does instead)."""
    with (files("tslab_book") / "oddities.csv").open(encoding="utf-8") as handle:
        return pd.read_csv(handle)


def compute_facts(root: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Evidence from the released regression files: labels and draws.

    Returns:
        task -> n, label minimum, maximum and share of zeros, and the share of places that the files of two encoders
        (xyz and nerf) have in common.
    """
    facts: dict[str, Any] = {}
    for task in TASKS:
        first, second = (released_samples(task, encoder, root)[0] for encoder in ("xyz", "nerf"))
        label = first["label"].to_numpy()
        places = [set(map(tuple, np.round(table[["lon", "lat"]].to_numpy(), 4))) for table in (first, second)]
        facts[task] = {
            "n": len(first),
            "label_min": round(float(label.min()), 4),
            "label_max": round(float(label.max()), 4),
            "zeros": round(float((label == 0).mean()), 4),
            "common_places": round(len(places[0] & places[1]) / len(places[0]), 4),
        }
    return facts


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the facts and write their record, if the released files are on this machine."""
    parser = argparse.ArgumentParser(description="Compute the facts behind the oddities of the released code.")
    parser.add_argument("--root", type=Path, help="the released files; default: TSLAB_MIRROR, then the cache folder")
    parser.add_argument("--out", type=Path, default=RESULTS / FACTS)
    chosen = parser.parse_args(arguments)
    if has_released_results(chosen.root, list(TASKS)):
        atomic_write(chosen.out, json.dumps(compute_facts(chosen.root), indent=1) + "\n")
        print(f"wrote {chosen.out}")
    else:
        print(f"{FACTS} is left as it is: the released files are not on this machine")


if __name__ == "__main__":
    main()
