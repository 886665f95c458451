"""The record of the audit: every published number beside what we get, with a verdict and a reason.

`audit` puts the outcomes of the runs (`tslab.benchmark.runs`) beside the published tables; `write_cells` keeps
the result in ``book/results/cells.csv``. Verdict and reason follow from the numbers by `judge`; none is written
by hand, and a published number is never used in place of a recomputed one.
"""

import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tslab._checks import check_number
from tslab._files import atomic_write, read_csv, read_json
from tslab.benchmark.recompute import top1_replicates
from tslab.benchmark.records import REMEDY, find_record, loses_numbers, provenance
from tslab.benchmark.runs import TABLES, RunSpec
from tslab.benchmark.store import ResultStore
from tslab.metrics import interval_of, mean_interval
from tslab.published import published_tables

CELLS = "cells.csv"
TOLERANCE = 0.01
SQRT2 = math.sqrt(2)
SPECIES = ("birdsnap", "birdsnap_ebird", "nabirds", "inat2017", "inat2018")
"""The datasets that the paper's species column averages."""

VERDICTS: dict[str, str] = {
    "reproduced": "What we recompute is the published number, to within one unit of its last printed digit.",
    "within noise": "Another number, but the published one lies inside the 95 % interval of ours.",
    "differs": "Another number, and the published one lies outside the 95 % interval of ours.",
    "not released": "The release holds nothing that this number could be recomputed from.",
    "published only": "The number was never meant to be recomputed from the release (GPT-4V).",
}
"""Verdict of a cell and what it says, in order of precedence."""

REASONS: dict[str, str] = {
    "same results": "The released per-sample results are those behind the published number.",
    "another run": "The released per-sample results come from another training run than the published number, or from "
    "other settings.",
    "reloaded rbf": "The released model was trained, saved and loaded again, and rbf does not survive that: its anchor "
    "points are drawn anew at every start. Given as the reason only where "
    "the recomputed number is far below the published one.",
    "reloaded rff": "As for rbf: a reloaded rff scales coordinates by a box around the United States, where training "
    "scaled them by the globe.",
    "one-cell tile": "The released tile encoder has a single cell that covers the whole map, because its cell size was "
    "never passed on: it says the same everywhere.",
    "another draw": "Every regression result was evaluated on its own unseeded 5 % draw from the test rows: the "
    "published and the recomputed number are about different places, and two such draws can be this far apart.",
    "inferred recipe": "How the paper computed its geo-bias is documented nowhere; ours is a reading of early code and "
    "of the published numbers, and it is random.",
    "too sparse": "No miss has enough neighbours within 100 km to be scored.",
    "no coordinates": "The per-sample results have no coordinates in degrees, so there is no neighbourhood to look at.",
    "no file": "No per-sample results of this encoder and dataset are among the released files.",
    "empty file": "The released file of per-sample results is empty.",
    "no SustainBench files": "No per-sample results of any SustainBench task were released.",
    "incomplete average": "An average over five datasets, and not all five can be recomputed.",
    "asked GPT-4V": "The paper asked GPT-4V about each image; no answers were released.",
    "asked GPT-4V, 100 images": "The paper asked GPT-4V about 100 resampled images only; neither answers nor the list "
    "of images were released.",
    "not computed": "The runs behind this record left this cell out.",
}
"""Reason for a verdict and what it says."""

MARKS: dict[str, str] = {
    "largest": "the paper highlights it as the largest, that is worst, value of its geo-bias column",
    "resampled_100": "GPT-4V was asked about 100 resampled images of this dataset, not about the whole test split",
}
"""What the marks in the published tables mean."""

COLUMNS = (
    *("dataset", "encoder", "metric", "published", "recomputed", "recomputed_low", "recomputed_high"),
    *("retrained", "retrained_low", "retrained_high", "n", "verdict", "reason", "source", "command"),
)
PAPER = ("retrained_paper", "retrained_paper_low", "retrained_paper_high")
NUMBERS = ("recomputed", "recomputed_low", "recomputed_high", "retrained", "retrained_low", "retrained_high")


def judge(
    metric: str,
    encoder: str,
    published: float,
    recomputed: float,
    low: float,
    high: float,
    tolerance: float = TOLERANCE,
) -> tuple[str, str]:
    """Verdict and reason of a cell that was recomputed: the rule.

    ``reproduced`` if the two numbers are at most ``tolerance`` apart (at full precision, 1e-9 for rounding), else
    ``within noise`` if ``low <= published <= high``, else ``differs``.

    The reason, in this order: geo-bias is always ``inferred recipe``; tile ``one-cell tile``; a reproduced cell
    ``same results``; R2 ``another draw`` if the published number lies inside the interval widened by sqrt(2), as for
    the difference of two draws; Top-1 that differs, lies below the published number and belongs to rbf or rff
    ``reloaded rbf`` or ``reloaded rff``; else ``another run``.
    """
    for name, number in (("published", published), ("recomputed", recomputed), ("low", low), ("high", high)):
        check_number(name, number)
    if abs(recomputed - published) <= tolerance + 1e-9:
        verdict = "reproduced"
    else:
        verdict = "within noise" if low <= published <= high else "differs"
    if metric.startswith("geobias"):
        reason = "inferred recipe"
    elif encoder == "tile":
        reason = "one-cell tile"
    elif verdict == "reproduced":
        reason = "same results"
    elif metric == "r2" and -SQRT2 * (recomputed - low) <= published - recomputed <= SQRT2 * (high - recomputed):
        reason = "another draw"
    elif metric == "top1" and verdict == "differs" and encoder in ("rbf", "rff") and recomputed < published:
        reason = f"reloaded {encoder}"
    else:
        reason = "another run"
    return verdict, reason


def audit(store: ResultStore) -> pd.DataFrame:
    """One row for each published number, in the order of the published tables.

    Columns:
        dataset, encoder, metric, published: as in `tslab.published_tables`.
        recomputed, recomputed_low, recomputed_high: from the released per-sample results, with a 95 % bootstrap
            interval; NaN where there is nothing to recompute from.
        retrained, retrained_low, retrained_high: mean over the seeds of models trained on the LocBench archive by our
            protocol, with the 95 % interval of that mean; NaN where none was trained. Stand-ins and other data never
            enter. retrained_paper and its interval: the same by the paper's
            protocol (`tslab.benchmark.runs.PROTOCOLS`).
        n: rows (geo-bias: distinct centres) behind ``recomputed``.
        verdict, reason: see `judge`, `VERDICTS` and `REASONS`.
        source: the released file that was read.
        command: what recomputes the cell.
    """
    runs = store.frame()
    released = runs[runs["source"] == "released"].set_index(["metric", "dataset", "encoder"])
    trained = {"retrained": _retrained(runs, "ours"), "retrained_paper": _retrained(runs, "paper")}
    rows = []
    for cell in published_tables().itertuples(index=False):
        row = dict.fromkeys((*COLUMNS, *PAPER)) | {
            "dataset": cell.dataset,
            "encoder": cell.encoder,
            "metric": cell.metric,
        }
        row |= {"published": cell.published, "source": "", "command": _command(cell.metric, cell.dataset, cell.encoder)}
        key = (cell.metric, cell.dataset, cell.encoder)
        if cell.dataset == "avg_species":
            row |= _average(cell.encoder, cell.published, released)
        elif key in released.index:
            row |= _judged(cell.metric, cell.encoder, cell.published, released.loc[key])
        else:
            row |= {"verdict": "not released", "reason": "not computed"}
        if cell.encoder == "gpt4v":
            few = cell.mark == "resampled_100"
            row |= {"verdict": "published only", "reason": "asked GPT-4V, 100 images" if few else "asked GPT-4V"}
        for name, means in trained.items():
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), means.get(key, ()), strict=False))
        rows.append(row)
    table = pd.DataFrame(rows, columns=[*COLUMNS, *PAPER])
    return table.astype(dict.fromkeys((*NUMBERS, *PAPER), float) | {"n": "Int64"})


def write_cells(table: pd.DataFrame, path: str | os.PathLike[str]) -> str:
    """Write the record and its provenance (``.json``), each completely or not at all; a record only grows.

    Returns:
        ``written``; ``unchanged`` if the file says exactly this already; ``kept`` if the file holds a recomputed or
        retrained number that ``table`` lacks, which is then not lost.
    """
    target = Path(path)
    content = cells_csv(table)
    if target.is_file():
        if target.read_text(encoding="utf-8") == content:
            return "unchanged"
        earlier = read_cells(target)
        if any(loses_numbers(earlier, table, column) for column in ("recomputed", "retrained", "retrained_paper")):
            return "kept"
    atomic_write(target, content)
    about, beside = provenance(table), target.with_suffix(".json")
    if not about["located"] and beside.is_file():
        about["located"] = read_json(beside, remedy=REMEDY).get("located", {})  # a fact of the release
    atomic_write(beside, json.dumps(about, indent=2) + "\n")
    return "written"


def read_cells(path: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """The record of the audit: the committed one, or the one at ``path``."""
    table = read_csv(
        find_record(CELLS) if path is None else path,
        dtype=dict.fromkeys((*NUMBERS, *PAPER), float) | {"n": "Int64"},
        keep_default_na=False,
        na_values={name: [""] for name in (*NUMBERS, *PAPER, "n")},
    )
    return table.reindex(columns=[*COLUMNS, *PAPER]).astype(dict.fromkeys(PAPER, float))


def cells_csv(table: pd.DataFrame) -> str:
    """The text of the record: published numbers as printed, ours with 4 decimals; equal tables give equal text.

    The columns of the paper's protocol are left out while nothing was trained by it.
    """
    rows = table.drop(columns=[name for name in PAPER if table[name].isna().all()])
    rows["published"] = rows["published"].map("{:.2f}".format)
    for name in rows.columns.intersection([*NUMBERS, *PAPER]):
        rows[name] = rows[name].map(lambda value: "" if pd.isna(value) else f"{value:.4f}")
    return rows.to_csv(index=False, lineterminator="\n")


def table_of(metric: str, dataset: str) -> str:
    """The table (key of `tslab.benchmark.runs.TABLES`) that holds a metric of a dataset."""
    for name, (datasets, metrics) in TABLES.items():
        if metric in metrics and (dataset in datasets or (dataset == "avg_species" and name == "top1")):
            return name
    raise ValueError(f"no table has {metric} of {dataset}")


def _judged(metric: str, encoder: str, published: float, run: pd.Series) -> dict[str, object]:
    if pd.isna(run["value"]):
        return {"verdict": "not released", "reason": run["reason"] or "too sparse", "source": run["file"]}
    value, low, high = (float(run[name]) for name in ("value", "low", "high"))
    verdict, reason = judge(metric, encoder, published, value, low, high)
    return {
        **{"recomputed": value, "recomputed_low": low, "recomputed_high": high, "n": run["n"]},
        **{"verdict": verdict, "reason": reason, "source": run["file"]},
    }


def _average(encoder: str, published: float, released: pd.DataFrame) -> dict[str, object]:
    """The cell of the species average: recomputed if all five datasets are, with an interval from their bootstrap
    replicates (the two BirdSnap rows are the same images and share theirs)."""
    keys = [("top1", dataset, encoder) for dataset in SPECIES]
    if not all(key in released.index and pd.notna(released.loc[key, "value"]) for key in keys):
        return {"verdict": "not released", "reason": "incomplete average"}
    runs = released.loc[keys]
    shares = zip(runs["value"], runs["n"], SPECIES, strict=True)
    replicates = np.mean([top1_replicates(round(v * n / 100), n, dataset) for v, n, dataset in shares], axis=0)
    value = float(runs["value"].mean())
    low, high = interval_of(torch.from_numpy(replicates))
    verdict, reason = judge("top1", encoder, published, value, low, high)
    return {
        **{"recomputed": value, "recomputed_low": low, "recomputed_high": high, "n": int(runs["n"].sum())},
        **{"verdict": verdict, "reason": reason, "source": "mean of the five cells above"},
    }


def _retrained(runs: pd.DataFrame, protocol: str) -> dict[tuple[str, str, str], tuple[float, float, float]]:
    """(metric, dataset, encoder) -> mean over seeds and its 95 % interval (Student's t; of one seed, its bootstrap
    interval)."""
    part = runs[(runs["source"] == "locbench") & (runs["protocol"] == protocol) & runs["value"].notna()]
    means = {}
    for key, group in part.groupby(["metric", "dataset", "encoder"]):
        one = group.iloc[0]
        several = len(group) > 1
        means[key] = mean_interval(group["value"].to_numpy()) if several else (one["value"], one["low"], one["high"])
    return means


def _command(metric: str, dataset: str, encoder: str) -> str:
    if dataset == "avg_species":
        return f"python -m tslab.benchmark run --table top1 --datasets {' '.join(SPECIES)} --encoders {encoder}"
    return RunSpec(table_of(metric, dataset), dataset, encoder).command
