"""Every number in one long table: published, recomputed, and trained here; and the record of the fair table.

The leaderboard never fills one source from another. A row says where its number comes from, and rows of different
sources or splits are not to be ranked against each other.
"""

import os
from collections.abc import Sequence

import pandas as pd

from tslab._files import read_csv
from tslab.benchmark.cells import read_cells
from tslab.benchmark.store import ResultStore, find_record
from tslab.metrics import mean_interval
from tslab.published import published_tables

FAIR_TABLE = "fair_table.csv"
SPLIT_OVERLAP = 0.1 / 0.8
"""(Test rows) / (training rows) of the splits of the released points, for `tslab.metrics.mean_interval`."""
LEADERBOARD_COLUMNS = ("dataset", "encoder", "metric", "source", "split", "value", "low", "high", "n", "seeds")
EVALUATED_SPLIT = {
    **{"inat2017": "validation", "inat2018": "validation", "fmow": "validation"},
    "avg_species": "test and validation",  # three sets are scored on test rows, two on validation rows
}


def leaderboard(store: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Published, recomputed and trained numbers, one row each.

    Args:
        store: folder of a `ResultStore` with runs of your own to add, for example of an encoder that you registered.

    Returns:
        columns dataset, encoder, metric, source (published, recomputed, or ``trained:`` and the source of the data),
        split (test, validation, test and validation, test draw, random, block), value, low, high (95 % interval; NaN if
        unknown), n, seeds.
    """
    published = published_tables().rename(columns={"published": "value"}).assign(source="published")
    cells = read_cells()
    recomputed = cells[cells["recomputed"].notna()].assign(source="recomputed")
    ours = {"recomputed": "value", "recomputed_low": "low", "recomputed_high": "high"}
    released = pd.concat([published, recomputed.drop(columns="published").rename(columns=ours)])
    parts = [released.assign(split=released["dataset"].map(_split))]
    if (fair := read_fair_table()) is not None:
        parts.append(fair.assign(source="trained:released-points"))
    if store is not None:
        runs = ResultStore(store).frame()
        runs = runs[(runs["source"] != "released") & runs["value"].notna()]
        more = (":" + runs["scale"]).where(runs["source"] == "synthetic", "")
        more += (":" + runs["protocol"]).where(runs["protocol"] != "ours", "")
        points = runs["source"] == "released-points"
        runs = runs.assign(split=runs["split"].where(points, "test"), source="trained:" + runs["source"] + more)
        parts.append(seed_means(runs))
    kinds = {"value": float, "low": float, "high": float, "n": "Int64", "seeds": "Int64"}
    alike = [part.reindex(columns=list(LEADERBOARD_COLUMNS)).astype(kinds) for part in parts if len(part)]
    return pd.concat(alike, ignore_index=True)


def read_fair_table() -> pd.DataFrame | None:
    """The committed record of the fair table, or None if there is none."""
    try:
        return read_csv(find_record(FAIR_TABLE))
    except FileNotFoundError:
        return None


def seed_means(
    runs: pd.DataFrame, keys: Sequence[str] = ("dataset", "encoder", "metric", "source", "split")
) -> pd.DataFrame:
    """Mean over the seeds of each group: ``keys``, value, low and high, n, seeds.

    Seeds that split the same rows anew (released points) have the interval of `tslab.metrics.mean_interval`
    with `SPLIT_OVERLAP`; elsewhere low and high span the intervals of the seeds.
    """
    grouped = runs.groupby(list(keys), sort=False)
    means = grouped.agg(
        value=("value", "mean"), low=("low", "min"), high=("high", "max"), n=("n", "first"), seeds=("seed", "nunique")
    )
    for key, group in grouped:
        if len(group) > 1 and str(group["source"].iloc[0]).endswith("released-points"):
            means.loc[key, ["low", "high"]] = mean_interval(group["value"], overlap=SPLIT_OVERLAP)[1:]
    return means.reset_index()


def _split(dataset: str) -> str:
    return "test draw" if dataset.startswith("mosaiks_") else EVALUATED_SPLIT.get(dataset, "test")
