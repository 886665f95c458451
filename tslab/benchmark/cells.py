"""The record of the audit: every published number beside what we get, with a verdict and a reason.

`audit` puts the outcomes of the runs (`tslab.benchmark.runs`) beside the published tables; `write_cells` keeps
the result in ``book/results/cells.csv``. Verdict and reason follow from the numbers of the record by `judge`
(`tslab.benchmark.verdicts`); none is written by hand, and a published number is never used in place of a recomputed
one.
"""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tslab._files import atomic_write, read_csv, read_json
from tslab.benchmark.comparison import read_comparisons, run_noise
from tslab.benchmark.recompute import top1_replicates
from tslab.benchmark.records import REMEDY, find_record, loses_numbers, provenance
from tslab.benchmark.runs import TABLES, RunSpec
from tslab.benchmark.store import ResultStore
from tslab.benchmark.verdicts import ROUNDING, draw_noise, judge
from tslab.metrics import interval_of, mean_interval
from tslab.published import published_tables

CELLS = "cells.csv"
SPECIES = ("birdsnap", "birdsnap_ebird", "nabirds", "inat2017", "inat2018")
"""The datasets that the paper's species column averages."""

PAPER = ("retrained_paper", "retrained_paper_low", "retrained_paper_high")
COLUMNS = (
    *("dataset", "encoder", "metric", "published", "recomputed", "recomputed_low", "recomputed_high"),
    *("noise", "retrained", "retrained_low", "retrained_high", "n", "verdict", "reason", "source", "command", *PAPER),
)
NUMBERS = (
    *("recomputed", "recomputed_low", "recomputed_high", "noise", "retrained", "retrained_low", "retrained_high"),
    *PAPER,
)
DIGITS = 4
"""Decimals of our numbers in the record; verdicts follow from what it says."""


def audit(store: ResultStore, comparisons: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row for each published number, in the order of the published tables.

    Args:
        store: finished runs.
        comparisons: pairs of encoders on the same images (`tslab.benchmark.compare_released`), which say how far apart
            two runs may be; None: the committed record of them.

    Columns:
        dataset, encoder, metric, published: as in `tslab.published_tables`.
        recomputed, recomputed_low, recomputed_high: from the released per-sample results, with a 95 % bootstrap
            interval; NaN where there is nothing to recompute from.
        noise: how far from print ``recomputed`` may lie by chance, rounding included. Top-1: the ``largest`` bound of
            `tslab.benchmark.run_noise` (the image alone has no runs; an average, the mean of its bounds); else
            `tslab.benchmark.verdicts.draw_noise`.
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
        row = dict.fromkeys(COLUMNS) | {
            "dataset": cell.dataset,
            "encoder": cell.encoder,
            "metric": cell.metric,
        }
        row |= {"published": cell.published, "source": "", "command": _command(cell.metric, cell.dataset, cell.encoder)}
        key = (cell.metric, cell.dataset, cell.encoder)
        if cell.dataset == "avg_species":
            row |= _average(cell.encoder, released)
        elif key in released.index:
            row |= _measured(released.loc[key])
        else:
            row |= {"verdict": "not released", "reason": "not computed"}
        if cell.encoder == "gpt4v":
            few = cell.mark == "resampled_100"
            row |= {"verdict": "published only", "reason": "asked GPT-4V, 100 images" if few else "asked GPT-4V"}
        for name, means in trained.items():
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), means.get(key, ()), strict=False))
        rows.append(row)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table = table.astype(dict.fromkeys(NUMBERS, float) | {"n": "Int64"})
    return with_verdicts(table, read_comparisons() if comparisons is None else comparisons)


def with_verdicts(cells: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """``cells`` with noise, verdict and reason of those that were recomputed, which follow from their other columns.

    Numbers are taken with the `DIGITS` of the record, so that verdicts are those of the record, too.
    """
    largest = run_noise(comparisons)["largest"]
    printed = published_tables()
    columns = printed[printed["encoder"] != "gpt4v"].groupby(["metric", "dataset"])["published"]
    spread = columns.max() - columns.min()
    table = cells.copy()
    for index, cell in table[table["recomputed"].notna()].iterrows():
        value, low, high = (round(cell[name], DIGITS) for name in ("recomputed", "recomputed_low", "recomputed_high"))
        if cell["metric"] != "top1":
            noise = draw_noise(value, low, high)
        elif cell["encoder"] == "no_prior":
            noise = ROUNDING
        else:
            parts = list(SPECIES) if cell["dataset"] == "avg_species" else [cell["dataset"]]
            noise = largest.reindex(parts).mean(skipna=False) + ROUNDING
        table.loc[index, "noise"] = noise
        table.loc[index, ["verdict", "reason"]] = judge(
            *(cell["metric"], cell["encoder"], cell["published"], value),
            *(noise, spread[cell["metric"], cell["dataset"]]),
        )
    return table


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
        dtype=dict.fromkeys(NUMBERS, float) | {"n": "Int64"},
        keep_default_na=False,
        na_values={name: [""] for name in (*NUMBERS, "n")},
    )
    return table.reindex(columns=list(COLUMNS)).astype(dict.fromkeys(PAPER, float))


def cells_csv(table: pd.DataFrame) -> str:
    """The text of the record: published numbers as printed, ours with 4 decimals; equal tables give equal text.

    The columns of the paper's protocol are left out while nothing was trained by it.
    """
    rows = table.drop(columns=[name for name in PAPER if table[name].isna().all()])
    rows["published"] = rows["published"].map("{:.2f}".format)
    for name in rows.columns.intersection(NUMBERS):
        rows[name] = rows[name].map(lambda value: "" if pd.isna(value) else f"{value:.{DIGITS}f}")
    return rows.to_csv(index=False, lineterminator="\n")


def table_of(metric: str, dataset: str) -> str:
    """The table (key of `tslab.benchmark.runs.TABLES`) that holds a metric of a dataset."""
    for name, (datasets, metrics) in TABLES.items():
        if metric in metrics and (dataset in datasets or (dataset == "avg_species" and name == "top1")):
            return name
    raise ValueError(f"no table has {metric} of {dataset}")


def _measured(run: pd.Series) -> dict[str, object]:
    if pd.isna(run["value"]):
        return {"verdict": "not released", "reason": run["reason"] or "too sparse", "source": run["file"]}
    value, low, high = (float(run[name]) for name in ("value", "low", "high"))
    return {
        **{"recomputed": value, "recomputed_low": low, "recomputed_high": high},
        **{"n": run["n"], "source": run["file"]},
    }


def _average(encoder: str, released: pd.DataFrame) -> dict[str, object]:
    """The cell of the species average: recomputed if all five datasets are, with an interval from their bootstrap
    replicates (the two BirdSnap rows are the same images and share theirs)."""
    keys = [("top1", dataset, encoder) for dataset in SPECIES]
    if not all(key in released.index and pd.notna(released.loc[key, "value"]) for key in keys):
        return {"verdict": "not released", "reason": "incomplete average"}
    runs = released.loc[keys]
    shares = zip(runs["value"], runs["n"], SPECIES, strict=True)
    replicates = np.mean([top1_replicates(round(v * n / 100), n, dataset) for v, n, dataset in shares], axis=0)
    low, high = interval_of(torch.from_numpy(replicates))
    return {
        **{"recomputed": float(runs["value"].mean()), "recomputed_low": low, "recomputed_high": high},
        **{"n": int(runs["n"].sum()), "source": "mean of the five cells above"},
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
