"""The record of the audit: every published number beside what we get, with a verdict and a reason.

`audit` puts the outcomes of the runs (`tslab.benchmark.runs`) beside the published tables; `write_cells` keeps
the result in ``book/results/cells.csv``. Verdict and reason follow from the numbers of the record by `judge`; none
is written by hand, and a published number is never used in place of a recomputed one. A record only ever grows.

How far from print a recomputed number may lie by chance depends on the measure. Published and released Top-1 are about
the same images, so only the difference between two runs is left (`tslab.benchmark.comparison.run_noise`). R2 and
geo-bias are about independent draws, so the difference of two numbers scatters by sqrt(2) times as much as one of them
(`draw_noise`).
"""

import json
import math
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from tslab._checks import check_number
from tslab._files import atomic_write, packaged_json, read_csv, read_json
from tslab.benchmark.comparison import read_comparisons, run_noise
from tslab.benchmark.recompute import top1_replicates
from tslab.benchmark.runs import TABLES, RunSpec
from tslab.benchmark.store import RECORD_REMEDY, ResultStore, find_record, release_stamp
from tslab.metrics import interval_of, mean_interval
from tslab.published import published_tables
from tslab.released_files import index_sha256

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

_TEXTS = packaged_json("verdicts.json")
VERDICTS: dict[str, str] = _TEXTS["verdicts"]
"""Verdict of a cell and what it says, in order of precedence."""

REASONS: dict[str, str] = _TEXTS["reasons"]
"""Reason for a verdict and what it says."""

MARKS: dict[str, str] = _TEXTS["marks"]
"""What the marks in the published tables mean."""

ROUNDING = 0.005
"""Half a unit of the last printed digit, of every published number."""


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
            `draw_noise`.
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
        row = dict.fromkeys(COLUMNS) | {"dataset": cell.dataset, "encoder": cell.encoder, "metric": cell.metric}
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


def draw_noise(recomputed: float, low: float, high: float) -> float:
    """How far a published number may lie from ours by chance if both come from independent draws of one size.

    sqrt((recomputed - low)^2 + (high - recomputed)^2) + 0.005: the 95 % interval of a difference from the intervals
    of its two terms (Zou and Donner 2008), both taken as wide as ours, plus the rounding of print. For a symmetric
    interval this is sqrt(2) times its half-width. What it leaves out is another training of the model.
    """
    for name, number in (("recomputed", recomputed), ("low", low), ("high", high)):
        check_number(name, number)
    return math.hypot(recomputed - low, high - recomputed) + ROUNDING


def judge(
    metric: str, encoder: str, published: float, recomputed: float, noise: float, spread: float = math.inf
) -> tuple[str, str]:
    """Verdict and reason of a cell that was recomputed: the rule.

    ``reproduced`` if the two numbers are at most half a unit of the last printed digit apart (1e-9 for rounding),
    except for geo-bias, which is drawn at random; else ``differs`` if they are further apart than ``noise``; else
    ``undecided`` if the noise is unknown (NaN) or, for geo-bias, if 2 ``noise`` is wider than ``spread``; else
    ``another run`` for Top-1 and ``within noise`` for R2 and geo-bias.

    The reason of geo-bias is always ``inferred recipe``, of tile ``one-cell tile``. Of the others: reproduced, ``same
    results`` (Top-1) or ``same digits`` (R2); unknown noise, ``no second encoder``; left to chance, ``another run``
    (Top-1) or ``another draw`` (R2); different, ``reloaded rbf`` or ``reloaded rff`` for a Top-1 of these two below
    print, else ``unexplained``.

    Args:
        metric: ``top1``, ``r2``, ``geobias_base`` or ``geobias_relative``.
        encoder: row of the table.
        published, recomputed: the two numbers.
        noise: how far apart they may be by chance, rounding included.
        spread: largest minus smallest published number of the column.
    """
    for name, number in (("published", published), ("recomputed", recomputed)):
        check_number(name, number)
    geobias, top1 = metric.startswith("geobias"), metric == "top1"
    apart = abs(recomputed - published)
    if apart <= ROUNDING + 1e-9 and not geobias:
        verdict, reason = "reproduced", "same results" if top1 else "same digits"
    elif apart > noise:
        broken = top1 and encoder in ("rbf", "rff") and recomputed < published
        verdict, reason = "differs", f"reloaded {encoder}" if broken else "unexplained"
    elif math.isnan(noise) or (geobias and 2 * noise > spread):
        verdict, reason = "undecided", "no second encoder"
    else:
        verdict, reason = ("another run", "another run") if top1 else ("within noise", "another draw")
    if geobias:
        return verdict, "inferred recipe"
    return verdict, "one-cell tile" if encoder == "tile" else reason


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
        if any(_loses_numbers(earlier, table, column) for column in ("recomputed", "retrained", "retrained_paper")):
            return "kept"
    atomic_write(target, content)
    about, beside = _provenance(table), target.with_suffix(".json")
    if not about["located"] and beside.is_file():
        about["located"] = read_json(beside, remedy=RECORD_REMEDY).get("located", {})  # a fact of the release
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


def _loses_numbers(earlier: pd.DataFrame, table: pd.DataFrame, column: str) -> bool:
    """Whether ``earlier`` has a number in ``column`` that ``table`` lacks, in the row of the same cell."""
    key = ["dataset", "encoder", "metric"]
    held, kept = (set(map(tuple, rows.loc[rows[column].notna(), key].to_numpy())) for rows in (earlier, table))
    return not held <= kept


def _provenance(table: pd.DataFrame) -> dict[str, Any]:
    """When and from what the record of the audit was computed.

    Args:
        table: cells computed just now (columns dataset, metric, recomputed and n, attribute located).

    Returns:
        date, tslab (version), repository, release (commit), index_sha256 (of tslab's list of released files, which
        holds the checksum of every file), files_read (released files), rows_read (rows in them), located (dataset ->
        number of evaluated images that have a location, where the release says so).
    """
    done = table[
        table["recomputed"].notna() & table["metric"].isin(["top1", "r2"]) & (table["dataset"] != "avg_species")
    ]
    try:
        installed = version("tslab")
    except PackageNotFoundError:
        installed = "(not installed)"
    stamp = release_stamp()
    return {
        "date": stamp.pop("date"),
        "tslab": installed,
        **stamp,
        "index_sha256": index_sha256(),
        "files_read": len(done),
        "rows_read": int(done["n"].sum()),
        "located": dict(table.attrs.get("located", {})),
    }


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
