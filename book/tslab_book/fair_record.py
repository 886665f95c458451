"""The record of the fair table: means of encoders and stacks from what was predicted, and intervals of blocks.

`write_record` turns the finished jobs of `tslab_book.fair` into two files. ``fair_table.csv`` is the table: R² of every
row on every label and split, the mean over the seeds, with an interval, the setting that was chosen and what every
setting scored on the places that choose; ``fair_runs.csv`` has each seed. Beside them ``fair_table.json`` says when,
from what and at which size.

Errors of near places are alike, so places are no sample of independent rows. Intervals draw blocks of 10 degrees with
replacement, within the test places of each seed, and take the mean over the seeds as the table does; of two rows the
same blocks are drawn, so that the interval of their difference is a paired one.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import nnls

import tslab
from tslab._files import atomic_write
from tslab.benchmark import JobStore, find_record
from tslab.benchmark.store import release_stamp
from tslab.earth import spatial_blocks
from tslab.tasks import Table
from tslab_book import RESULTS
from tslab_book.fair import SIZES, SPLITS, Job, design, predictions
from tslab_book.fair_methods import BASELINES, BLOCK_DEG, settings_of
from tslab_book.records import read_record

RECORD = RESULTS / "fair_table.csv"
RUNS = "fair_runs.csv"
FULL = RESULTS / "fair_full.csv"
"""The few rows that were done with all places; no file of runs, there is one seed."""
DRAWS = 2000
AVERAGED = 3
"""How many encoders are averaged: those that do best on the places that choose."""

STACKS = {
    "stack:best": "the encoder that did best on the places that choose",
    "stack:mean": f"the mean of the {AVERAGED} encoders that did best there",
    "stack:mean+kriging": "a times that mean and 1 - a times kriging, a from the places that choose",
    "stack:all": "all encoders and baselines, weights of at least zero from the places that choose",
}
"""Row -> what it is. The places that choose a setting choose these weights too."""

REFERENCES = ("baseline:knn", "baseline:trees", "baseline:kriging", "stack:best")
"""Rows that every other is compared with, beside the best one of its column."""

Members = Mapping[str, Mapping[str, NDArray[np.float64]]]
"""Row -> what it predicts for the places that choose (``chooses``) and for those of the test (``test``)."""


def stack(members: Members, label: NDArray[np.float64]) -> dict[str, tuple[NDArray[np.float64], str]]:
    """The rows of `STACKS`: predictions at the test places, and what was chosen, in words.

    Args:
        members: predictions of every method; ``test`` may have a row for each seed.
        label: of the places that choose.
    """
    error = {key: float(np.square(part["chooses"] - label).mean()) for key, part in members.items()}
    first = sorted((key for key in members if key in tslab.ENCODERS), key=error.__getitem__)[:AVERAGED]
    mean = {part: np.mean([members[key][part] for key in first], axis=0) for part in ("chooses", "test")}
    kriging = members["baseline:kriging"]
    difference = mean["chooses"] - kriging["chooses"]
    a = float((label - kriging["chooses"]) @ difference / max(difference @ difference, 1e-30))
    a = min(max(a, 0.0), 1.0)
    keys = [key for key in members if key != "baseline:mean"]
    centre = label.mean()
    weights, _ = nnls(np.stack([members[key]["chooses"] - centre for key in keys], axis=1), label - centre)
    everything = centre + sum(w * (members[key]["test"] - centre) for w, key in zip(weights, keys, strict=True))
    listed = ", ".join(
        f"{w:.2f} {key}" for w, key in sorted(zip(weights, keys, strict=True), reverse=True) if w >= 0.005
    )
    found = (
        (members[first[0]]["test"], first[0]),
        (mean["test"], ", ".join(first)),
        (a * mean["test"] + (1 - a) * kriging["test"], f"a = {a:.2f}"),
        (everything, listed),
    )
    return dict(zip(STACKS, found, strict=True))


def block_sums(test: Table, predicted: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Sums over each block that R² is made of, (blocks, 3 + rows): places, label, its square, then the squared error of
    each prediction. The label is counted from its mean."""
    blocks = spatial_blocks(test.lonlat, size_degrees=BLOCK_DEG).numpy()
    _, block = np.unique(blocks, return_inverse=True)
    label = test.target.double().numpy()
    centred = label - label.mean()
    columns = [np.ones_like(label), centred, centred**2, *(np.square(p - label) for p in predicted)]
    return np.stack([np.bincount(block, weights=column) for column in columns], axis=1)


def r2_of_sums(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """R² of each prediction, (..., rows), from sums over blocks (..., 3 + rows)."""
    n, label, square = (sums[..., i, None] for i in range(3))
    return 1 - sums[..., 3:] / (square - label**2 / n)


def drawn_r2(sums: NDArray[np.float64], draws: int, seed: int) -> NDArray[np.float64]:
    """R² of each prediction for blocks drawn with replacement, (draws, rows)."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws)
    return r2_of_sums(counts @ sums)


def column(store: JobStore, todo: Sequence[Job]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One column of the table, from the jobs of one label and split: its rows, and its runs."""
    places = design(todo[0].label, todo[0].split, todo[0].size)
    members = {job.method: predictions(store, job) for job in todo}
    outcomes = {job.method: store.load(job) or {} for job in todo}
    stacked = stack(members, places.chooses.target.double().numpy())
    predicted = {key: part["test"] for key, part in members.items()} | {key: part for key, (part, _) in stacked.items()}
    rows, values, draws, blocks = [], [], [], 0
    for seed, test in enumerate(places.test):
        sums = block_sums(test, [part[seed] for part in predicted.values()])
        blocks += len(sums)
        values.append(r2_of_sums(sums.sum(0)))
        draws.append(drawn_r2(sums, DRAWS, seed))
        for key, value in zip(predicted, values[-1].tolist(), strict=True):
            rows.append({"seed": seed, "encoder": key, "value": value})
    runs = pd.DataFrame(rows).assign(dataset=todo[0].label, split=todo[0].split)
    table = _summarise(list(predicted), np.mean(values, axis=0), np.mean(draws, axis=0))
    table = pd.concat([table, pd.DataFrame([_chosen(key, outcomes, stacked) for key in predicted])], axis=1)
    sizes = {"seeds": len(values), "n": len(places.test[0]), "blocks": blocks}
    return table.assign(dataset=todo[0].label, split=todo[0].split, metric="r2", **sizes), runs


def _chosen(
    key: str, outcomes: Mapping[str, Mapping[str, Any]], stacked: Mapping[str, tuple[Any, str]]
) -> dict[str, Any]:
    if key in stacked:
        return {"setting": -1, "chosen": stacked[key][1]}
    outcome = outcomes[key]
    words = ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
                      for name, value in outcome["chosen"].items())  # fmt: skip
    scores = {f"setting{i}": score for i, score in enumerate(outcome["validation"])}
    return {"setting": outcome["setting"], "chosen": words, **scores} | {
        name: outcome[name] for name in ("search_seconds", "seconds")
    }


def _summarise(keys: Sequence[str], values: NDArray[np.float64], draws: NDArray[np.float64]) -> pd.DataFrame:
    """Mean R² of each row with its interval, and how far it is behind the best row and ahead of `REFERENCES`."""

    def interval(drawn: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
        return low, high

    table = pd.DataFrame({"encoder": keys, "value": values})
    table["low"], table["high"] = interval(draws)
    best = int(values.argmax())
    table["behind"] = values[best] - values
    table["behind_low"], table["behind_high"] = interval(draws[:, [best]] - draws)
    for key in REFERENCES:
        i, name = list(keys).index(key), f"over_{key.split(':')[1]}"
        table[name] = values - values[i]
        table[f"{name}_low"], table[f"{name}_high"] = interval(draws - draws[:, [i]])
    return table


def write_record(folder: str | Path, todo: Sequence[Job], path: Path = RECORD) -> str:
    """Write the record of every column whose jobs are all done; says which are missing.

    Raises:
        ValueError: no column is complete.
    """
    store, tables, runs, missing = JobStore(folder), [], [], []
    for label in dict.fromkeys(job.label for job in todo):
        for split in SPLITS:
            own = [job for job in todo if (job.label, job.split) == (label, split)]
            if not own:
                continue
            if any(store.load(job) is None for job in own):
                missing.append(f"{label}, {split}")
                continue
            table, run = column(store, own)
            tables.append(table)
            runs.append(run)
    if not tables:
        raise ValueError(f"no column of the table is complete in {folder}; python -m tslab_book.fair run fills it")
    budget = max(len(settings_of(job.method, full=job.size == "full")) for job in todo)
    about = {
        **(release_stamp() | {"tslab": tslab.__version__}),
        **{name: value for name, value in SIZES[todo[0].size]._asdict().items() if name != "methods"},
        **{"budget": budget, "draws": DRAWS, "missing": missing},
    }
    first = ["dataset", "split", "encoder", "metric", "value", "low", "high"]
    whole = pd.concat(tables, ignore_index=True)
    _write(whole[first + [name for name in whole if name not in first]], path)
    if SIZES[todo[0].size].seeds > 1:
        every = pd.concat(runs, ignore_index=True)
        _write(every[["dataset", "split", "seed", "encoder", "value"]], path.with_name(RUNS))
    atomic_write(path.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    return f"{path}: {len(tables)} columns" + (f"; not complete: {'; '.join(missing)}" if missing else "")


def _write(table: pd.DataFrame, path: Path) -> None:
    atomic_write(path, table.to_csv(index=False, float_format="%.4f", lineterminator="\n"))


def read_table(name: str = RECORD.name) -> pd.DataFrame:
    """A committed table, with ``not_worse``: the interval of the distance to the best of the column holds zero."""
    table = read_record(name).data
    return table.assign(not_worse=table["behind_low"] <= 0)


def read_runs() -> pd.DataFrame:
    """The committed runs, one row for each row of the table and seed."""
    return pd.read_csv(find_record(RUNS))


def kind_of(key: str) -> str:
    """``baseline``, ``encoder`` or ``stack``."""
    return key.split(":")[0] if key in BASELINES or key in STACKS else "encoder"


def row_labels() -> dict[str, str]:
    """Row -> what the pages call it."""
    named = {key: info.name.removeprefix("Sphere2Vec-") for key, info in tslab.ENCODERS.items()}
    return named | {
        "baseline:mean": "Mean of training, no place",
        "baseline:knn": "Neighbours",
        "baseline:trees": "Trees on coordinates",
        "baseline:kriging": "Kriging",
        "baseline:kriging+trees": "Kriging, trees on its residuals",
        "stack:best": "One encoder, chosen",
        "stack:mean": "Mean of encoders",
        "stack:mean+kriging": "Mean and kriging, stacked",
        "stack:all": "Everything, stacked",
    }


LABEL_NAMES = {
    "mosaiks_elevation": "elevation",
    "mosaiks_forest_cover": "forest cover",
    "mosaiks_population": "population",
    "mosaiks_nightlights": "nightlights",
}
"""Label -> what the pages call it."""


def paper_table(table: pd.DataFrame) -> str:
    """The table as a paper prints it, in Markdown: a row for each method, a column for each label and split; the best
    in bold, and ≈ before what is not worse."""
    columns = list(dict.fromkeys(zip(table["dataset"], table["split"], strict=True)))
    order = {"baseline": 0, "encoder": 1, "stack": 2}
    rows = sorted(dict.fromkeys(table["encoder"]), key=lambda key: order[kind_of(key)])
    cells = table.set_index(["encoder", "dataset", "split"])
    lines = [
        "| | " + " | ".join(f"{LABEL_NAMES[label]}, {split}" for label, split in columns) + " |",
        "|:--|" + "--:|" * len(columns),
    ]
    for key in rows:
        shown = []
        for label, split in columns:
            cell = cells.loc[(key, label, split)]
            number = f"{cell['value']:.3f}"
            shown.append(f"**{number}**" if cell["behind"] == 0 else f"≈ {number}" if cell["not_worse"] else number)
        lines.append(f"| {row_labels()[key]} | {' | '.join(shown)} |")
    return "\n".join(lines)
