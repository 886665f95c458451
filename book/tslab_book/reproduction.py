"""What the reproduction notebooks share: one call that recomputes a table, trains for it, or reads the record, and
says which.

A notebook must never show a number without saying where it came from; so the numbers and the sentence about their
origin come out of the same function.
"""

import os
import tempfile
from collections.abc import Sequence

import pandas as pd

from tslab._checks import check_count
from tslab.benchmark.cells import CELLS, REASONS, SPECIES, VERDICTS, audit, read_cells
from tslab.benchmark.driver import forecast, run_all
from tslab.benchmark.runs import RunSpec, plan
from tslab.benchmark.store import ResultStore
from tslab.plot import sortable_table
from tslab.plot.tables import SortableTable
from tslab.published import published_tables
from tslab.released_files import DATASET_TOKENS, REPOSITORY, has_released_results, released_root
from tslab_book.leaderboard import EVALUATED_SPLIT, seed_means
from tslab_book.records import Record, computed_on, read_record


class Reproduction(Record):
    """A table, recomputed or read: a `Record` whose data are cells.

    With ``source="released"`` they are rows as `tslab.benchmark.read_cells` gives them; with a source that trains:
    dataset, encoder, metric, published, value (mean over seeds), low, high, seeds, n, source.
    """

    @property
    def cells(self) -> pd.DataFrame:
        """The data."""
        return self.data


def reproduce(
    table: str,
    *,
    datasets: Sequence[str] | None = None,
    encoders: Sequence[str] | None = None,
    seeds: int = 1,
    device: str = "auto",
    data_root: str | os.PathLike[str] | None = None,
    source: str = "released",
    scale: str = "tiny",
    epochs: int | None = None,
    output: str | os.PathLike[str] | None = None,
    recompute: bool = True,
    progress: bool = False,
) -> Reproduction:
    """Recompute a table of the paper, or read the committed record of it.

    Args:
        table: key of `tslab.benchmark.TABLES`.
        datasets, encoders: which of them; None: all.
        seeds: trainings of each cell (sources that train).
        device, scale, epochs: of training.
        data_root: the released files or the LocBench archive.
        source: ``released`` recomputes from the released per-sample results if they are on this machine, else reads
            the record; ``locbench``, ``synthetic`` and ``released-points`` train and evaluate.
        output: folder of the result store; a second call continues there. None: a temporary one.
        recompute: False reads the record even if the released files are there.
        progress: show a progress bar.

    Raises:
        ValueError: unknown keys, or a run failed.
        tslab.released_files.ReleasedFilesMissingError: ``data_root`` names a folder without released files.
    """
    check_count("seeds", seeds)
    specs = plan(
        [table], datasets=datasets, encoders=encoders, seeds=range(seeds), source=source, scale=scale, epochs=epochs
    )
    if source == "released":
        if data_root is not None:
            released_root(data_root)  # says what is wrong if that folder holds no released files
        wanted = [key for key in dict.fromkeys(spec.dataset for spec in specs) if key in DATASET_TOKENS]
        if not (recompute and wanted and has_released_results(data_root, wanted)):
            return _from_record(specs, "recompute" if not recompute else "missing" if wanted else "nothing")
    with tempfile.TemporaryDirectory() as temporary:
        store = ResultStore(output or temporary)
        if source == "locbench":
            expected = forecast(specs, store, root=data_root, device=device)
            minutes = (expected["seconds"] * expected["trainings"]).sum() / 60
            print(f"{expected['trainings'].sum()} trainings, about {minutes:.0f} minutes")
        outcome = run_all(specs, store.folder, root=data_root, device=device, progress=progress)
        if outcome.failed:
            raise ValueError(f"{outcome}\nRun this again to repeat what failed; what is done is kept in {store.folder}")
        if source == "released":
            return Reproduction(
                _chosen(audit(store), specs),
                f"**Recomputed now** from the released per-sample results ({REPOSITORY}).",
                True,
            )
        return Reproduction(_trained(store.frame(specs)), _training_origin(source, scale, seeds, epochs), True)


def _from_record(specs: Sequence[RunSpec], why: str) -> Reproduction:
    origin = computed_on(read_record(CELLS).about)
    because = {
        "missing": "**The released files were not on the machine that ran this page.** What follows is the committed "
        "record, {}. To recompute it yourself, run `python data_scripts/fetch_released.py` and then this page again.",
        "recompute": "**This is the committed record**, {}. Set `recompute = True` above to recompute it "
        "from the released files; that takes a while.",
        "nothing": "**There is nothing to recompute from.** What follows is the committed record, {}.",
    }[why]
    return Reproduction(_chosen(read_cells(), specs), because.format(origin), False)


def _chosen(cells: pd.DataFrame, specs: Sequence[RunSpec]) -> pd.DataFrame:
    keys = {(spec.dataset, spec.encoder, metric) for spec in specs for metric in spec.metrics}
    mine = [key in keys for key in cells[["dataset", "encoder", "metric"]].itertuples(index=False, name=None)]
    return cells[mine].reset_index(drop=True)


def _trained(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds beside the published number; the interval spans the bootstrap intervals of the seeds."""
    table = seed_means(runs, ["dataset", "encoder", "metric", "source"])
    printed = published_tables()[["dataset", "encoder", "metric", "published"]]
    table = table.merge(printed, on=["dataset", "encoder", "metric"], how="left")
    columns = ["dataset", "encoder", "metric", "published", "value", "low", "high", "seeds", "n", "source"]
    return table[columns]


def _training_origin(source: str, scale: str, seeds: int, epochs: int | None) -> str:
    data = {
        "synthetic": f"**Synthetic stand-ins** at scale {scale}: generated data that have the shape of the datasets "
        "and nothing else in common with them. The numbers say that the pipeline works, nothing about encoders.",
        "locbench": "**Trained and evaluated now** on the LocBench archive.",
        "released-points": "**Trained and evaluated now** on the real MOSAIKS places inside the released results, "
        "without images; not comparable with the published numbers, which had images.",
    }[source]
    length = "the recorded number of epochs" if epochs is None else f"{epochs} epochs"
    return f"{data} {seeds} seed{'s' if seeds > 1 else ''}, {length}."


BOLD = 0.3
"""A geo-bias score this share above that of the image alone is bold in the slides of the paper."""

DIGITS = {"top1": "{:.2f}", "r2": "{:.3f}", "geobias_base": "{:.2f}", "geobias_relative": "{:.2f}"}
METRIC_NAMES = {"top1": "Top-1", "r2": "R²", "geobias_base": "Geo-bias, base", "geobias_relative": "Geo-bias, relative"}
"""Metric -> name in prose and tables."""


def row_names() -> dict[str, str]:
    """Row or dataset key -> printed name."""
    from tslab.published import CLASSIFICATION_DATASETS, ENCODER_ROWS, REGRESSION_DATASETS

    return {**ENCODER_ROWS, **CLASSIFICATION_DATASETS, **REGRESSION_DATASETS, "avg_species": "Species, average"}


def cell_table(cells: pd.DataFrame, caption: str) -> SortableTable:
    """Cells of the record for the reader: published, recomputed with interval, verdict and reason."""
    names, several = row_names(), cells["metric"].nunique() > 1
    form = DIGITS[cells["metric"].iloc[0]]
    view = pd.DataFrame({"Row": cells["encoder"].map(names), "Dataset": cells["dataset"].map(names)})
    if several:
        view["Measure"] = cells["metric"].map(METRIC_NAMES)
    numbers = {"Published": "published", "Recomputed": "recomputed", "from": "recomputed_low", "to": "recomputed_high"}
    for label, column in (numbers | {"Noise ±": "noise"}).items():
        view[label] = cells[column]
    view["Rows"] = cells["n"]
    formats = {"Published": "{:.2f}", "Rows": "{:,}"} | dict.fromkeys(("Recomputed", "from", "to", "Noise ±"), form)
    if cells["metric"].str.startswith("geobias").any():
        view["Over no prior"], formats["Over no prior"] = over_no_prior(cells), "{:+.0%}"
    view["Verdict"], view["Reason"] = cells["verdict"], cells["reason"]
    return sortable_table(
        view,
        caption=caption,
        formats=formats,
        filters=["Dataset", *(["Measure"] if several else []), "Verdict", "Reason"],
    )


def over_no_prior(cells: pd.DataFrame) -> pd.Series:
    """How far a published geo-bias lies above that of the image alone, as a share of it; NaN for other metrics.

    The slides of the paper print in bold what is more than 30 % above (`BOLD`).
    """
    printed = published_tables()
    alone = printed[printed["encoder"] == "no_prior"].set_index(["dataset", "metric"])["published"]
    base = alone.reindex(pd.MultiIndex.from_frame(cells[["dataset", "metric"]])).to_numpy()
    share = cells["published"] / base - 1
    return share.where(cells["metric"].str.startswith("geobias"))


def geobias_as_printed(cells: pd.DataFrame, metric: str) -> str:
    """The published scores as the paper's slides show them, a Markdown table of rows by datasets: bold is what lies
    more than `BOLD` above the image alone."""
    names, part = row_names(), cells[cells["metric"] == metric]
    bold = over_no_prior(part) > BOLD
    text = part["published"].map("{:.2f}".format).where(~bold, part["published"].map("**{:.2f}**".format))
    wide = part.assign(text=text).pivot(index="encoder", columns="dataset", values="text").fillna("–")
    wide = wide.reindex(index=part["encoder"].unique(), columns=part["dataset"].unique())
    lines = ["| Row | " + " | ".join(names[key] for key in wide) + " |", "|:--|" + "--:|" * wide.shape[1]]
    lines += [f"| {names[key]} | " + " | ".join(row) + " |" for key, row in wide.iterrows()]
    return "\n".join(lines)


def geobias_noise(cells: pd.DataFrame) -> str:
    """How wide noise is in each column of geo-bias, beside what there is to tell apart, as a Markdown table."""
    names, printed = row_names(), published_tables()
    columns = printed[printed["encoder"] != "gpt4v"].groupby(["dataset", "metric"])["published"]
    lines = [
        "| Dataset | Score | Printed column, smallest to largest | Noise, end to end: median (range) | Of the score | "
        "Differ | Undecided | Within noise |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for key, part in cells[cells["recomputed"].notna()].groupby(["dataset", "metric"], sort=False):
        ends, width, count = columns.get_group(key), 2 * part["noise"], part["verdict"].value_counts()
        lines.append(
            f"| {names[key[0]]} | {key[1].removeprefix('geobias_')} | {ends.min():.2f} … {ends.max():.2f} "
            f"({ends.max() - ends.min():.2f}) | {width.median():.2f} ({width.min():.2f} … {width.max():.2f}) | "
            f"{100 * (width / part['recomputed']).median():.0f} % | "
            + " | ".join(str(count.get(verdict, 0)) for verdict in ("differs", "undecided", "within noise"))
            + " |"
        )
    return "\n".join(lines)


def species_averages(cells: pd.DataFrame) -> pd.DataFrame:
    """The paper's species average beside the averages of the two kinds of split that it mixes, one row per table row.

    Returns:
        index encoder; columns printed (the average as printed), five (mean of the five printed numbers), test (of
        BirdSnap, BirdSnap† and NABirds†, scored on test rows) and validation (of iNat2017 and iNat2018, scored on
        validation rows), and test_recomputed; NaN where a number is missing.
    """
    top1 = cells[cells["metric"] == "top1"]
    printed = top1.pivot(index="encoder", columns="dataset", values="published")
    ours = top1.pivot(index="encoder", columns="dataset", values="recomputed")
    validation = [key for key in SPECIES if EVALUATED_SPLIT.get(key) == "validation"]
    test = [key for key in SPECIES if key not in validation]
    return pd.DataFrame(
        {
            "printed": printed["avg_species"],
            "five": printed[list(SPECIES)].mean(axis=1, skipna=False),
            "test": printed[test].mean(axis=1, skipna=False),
            "validation": printed[validation].mean(axis=1, skipna=False),
            "test_recomputed": ours[test].mean(axis=1, skipna=False),
        }
    ).reindex(top1["encoder"].unique())


def trained_table(result: Reproduction, caption: str) -> SortableTable:
    """What was trained, beside the published number of the same name."""
    names, cells = row_names(), result.cells
    form = DIGITS[cells["metric"].iloc[0]]
    view = pd.DataFrame(
        {
            "Row": [names.get(key, key) for key in cells["encoder"]],
            "Dataset": cells["dataset"].map(names),
            "Measure": cells["metric"].map(METRIC_NAMES),
            "Trained": cells["value"],
            "from": cells["low"],
            "to": cells["high"],
            "Seeds": cells["seeds"],
            "Source": cells["source"],
        }
    )
    return sortable_table(
        view, caption=caption, formats=dict.fromkeys(("Trained", "from", "to"), form), filters=["Dataset"]
    )


def verdict_sentence(cells: pd.DataFrame) -> str:
    """How many cells have which verdict, as a sentence in Markdown."""
    counts = cells["verdict"].value_counts()
    words = {
        "reproduced": "are reproduced",
        "another run": "are as near to print as another run may be",
        "within noise": "lie within the noise of a draw",
        "undecided": "are undecided, because noise is wider than the column",
        "differs": "differ",
        "not released": "were not released in any form that they could be recomputed from",
        "published only": "were published without any intention to release what is behind them",
    }
    parts = [f"**{counts[key]}** {words[key]}" for key in VERDICTS if counts.get(key)]
    if len(parts) == 1:
        return f"All {len(cells)} cells {parts[0].split(' ', 1)[1]}."
    return f"Of the {len(cells)} cells, {', '.join(parts[:-1])} and {parts[-1]}."


def reason_list(cells: pd.DataFrame) -> str:
    """The verdicts and reasons that occur, how often, and what they mean, as a Markdown list."""
    lines = [f"- **{key}** ({n} cells). {VERDICTS[key]}" for key in VERDICTS if (n := (cells["verdict"] == key).sum())]
    lines.append("")
    lines += [f"- *{key}* ({n} cells). {REASONS[key]}" for key in REASONS if (n := (cells["reason"] == key).sum())]
    return "\n".join(lines)
