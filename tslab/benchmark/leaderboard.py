"""Every number in one long table: published, recomputed, and trained here; and the record of the fair table.

The leaderboard never fills one source from another. A row says where its number comes from, and rows of different
sources or splits are not to be ranked against each other.
"""

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tslab._files import DamagedFileError, atomic_write, read_csv
from tslab.benchmark.cells import read_cells
from tslab.benchmark.comparison import holm, paired_bootstrap
from tslab.benchmark.records import find_record, loses_numbers
from tslab.benchmark.runs import RunSpec
from tslab.benchmark.store import ResultStore
from tslab.published import published_tables

FAIR_TABLE = "fair_table.csv"
FAIR_GROUP = ("dataset", "split", "seed")
FAIR_KEY = (*FAIR_GROUP, "encoder")
REFERENCE = "baseline:trees"
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
        parts.append(seed_means(fair.assign(source="trained:released-points")))
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


def fair_table(store: ResultStore) -> pd.DataFrame:
    """The record of all encoders and baselines on the released points.

    Returns:
        one row for each run: dataset, encoder, split, seed, value (R2), low, high, n, gain (R2 minus that of the
        trees on the coordinates, same rows), gain_low, gain_high (paired bootstrap), p_holm (corrected over the rows
        of the same dataset, split and seed), seconds.
    """
    runs = store.frame()
    runs = runs[(runs["source"] == "released-points") & runs["value"].notna()].reset_index(drop=True)
    columns = ["dataset", "encoder", "metric", "split", "seed", "value", "low", "high", "n"]
    table = runs[[*columns, "seconds"]].assign(gain=float("nan"), gain_low=float("nan"), gain_high=float("nan"))
    table["p_holm"] = float("nan")
    for _, part in runs.groupby(list(FAIR_GROUP)):
        reference = part[part["encoder"] == REFERENCE]
        if reference.empty:
            continue
        others = part[part["encoder"] != REFERENCE]
        try:
            trees = _samples(store, reference.iloc[0])
            gains = [paired_bootstrap(_samples(store, run), trees) for _, run in others.iterrows()]
        except (DamagedFileError, FileNotFoundError) as error:  # these rows are compared with each other
            warnings.warn(f"left out with all runs that it is compared with: {error}", stacklevel=2)
            table = table.drop(part.index)
            continue
        if gains:
            table.loc[others.index, ["gain", "gain_low", "gain_high"]] = [gain[:3] for gain in gains]
            table.loc[others.index, "p_holm"] = holm([gain[3] for gain in gains])
    return table.sort_values(list(FAIR_KEY), ignore_index=True)


def write_fair_table(table: pd.DataFrame, path: str | os.PathLike[str]) -> str:
    """Add to the record, with 4 decimals; it only grows.

    The rows of one dataset, split and seed are compared with each other (``p_holm``), so they are taken together:
    those of ``table``, unless the file holds an encoder there that ``table`` lacks. So labels may be trained on
    several machines and recorded one after the other.

    Returns:
        ``written``, or ``kept`` if ``table`` has nothing that may be added.
    """
    new = table.drop(columns="seconds")
    if Path(path).is_file():
        earlier = read_csv(path)
        kept = {group: rows for group, rows in earlier.groupby(list(FAIR_GROUP))}
        offered = {group: rows for group, rows in new.groupby(list(FAIR_GROUP))}
        taken = {
            group: rows
            for group, rows in offered.items()
            if group not in kept or not loses_numbers(kept[group], rows, "value", FAIR_KEY)
        }
        if not taken:
            return "kept"
        new = pd.concat((kept | taken).values()).sort_values(list(FAIR_KEY))
    atomic_write(path, new.to_csv(index=False, float_format="%.4f", lineterminator="\n"))
    return "written"


def read_fair_table() -> pd.DataFrame | None:
    """The committed record of the fair table, or None if there is none."""
    try:
        return read_csv(find_record(FAIR_TABLE))
    except FileNotFoundError:
        return None


def seed_means(
    runs: pd.DataFrame, keys: Sequence[str] = ("dataset", "encoder", "metric", "source", "split")
) -> pd.DataFrame:
    """Mean over the seeds of each group: ``keys``, value, low and high (which span those of the seeds), n, seeds."""
    grouped = runs.groupby(list(keys), sort=False)
    return grouped.agg(
        value=("value", "mean"), low=("low", "min"), high=("high", "max"), n=("n", "first"), seeds=("seed", "nunique")
    ).reset_index()


def _samples(store: ResultStore, run: pd.Series) -> pd.DataFrame:
    given = {field.name: run[field.name] for field in dataclasses.fields(RunSpec)}
    given |= {"seed": int(run["seed"]), "epochs": None if pd.isna(run["epochs"]) else int(run["epochs"])}
    return store.samples(RunSpec(**given))


def _split(dataset: str) -> str:
    return "test draw" if dataset.startswith("mosaiks_") else EVALUATED_SPLIT.get(dataset, "test")
