"""Runs: what there is to compute. A *run* is one encoder on one dataset for one table, from one source, with one seed;
its outcome is kept in a `tslab.benchmark.ResultStore`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from tslab._checks import check_count
from tslab.baselines import CLASS_BASELINES, REGRESSION_BASELINES
from tslab.encoders import ENCODERS
from tslab.published import CLASSIFICATION_DATASETS, ENCODER_ROWS, REGRESSION_DATASETS, published_tables

MOSAIKS = tuple(key for key in REGRESSION_DATASETS if key.startswith("mosaiks_"))
SUSTAINBENCH = tuple(key for key in REGRESSION_DATASETS if key.startswith("sustainbench_"))

TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "top1": (tuple(CLASSIFICATION_DATASETS), ("top1",)),
    "r2_mosaiks": (MOSAIKS, ("r2",)),
    "r2_sustainbench": (SUSTAINBENCH, ("r2",)),
    "geobias_classification": (tuple(CLASSIFICATION_DATASETS), ("geobias_base", "geobias_relative")),
    "geobias_regression": (MOSAIKS, ("geobias_base", "geobias_relative")),
}
"""Table -> its datasets and metrics."""

SOURCES: dict[str, str] = {
    "released": "recompute from the released per-sample results; nothing is trained",
    "locbench": "train and evaluate on the LocBench archive",
    "synthetic": "train and evaluate on synthetic stand-ins: the same path, other numbers",
    "released-points": "train on the real MOSAIKS places inside the released results, without images",
}
"""Where the numbers of a run come from."""

SCALES = ("tiny", "small", "full")
SPLITS = ("random", "block")
PROTOCOLS = {
    "ours": "the recorded hyper-parameters, with tslab's corrections",
    "paper": "as the released code trained, slips included: preset locbench2024 and what data/paper_protocol.json adds",
}
"""How a model is trained on the archive. Numbers of the two never stand in one column."""

BASELINE_PREFIX = "baseline:"


@dataclass(frozen=True)
class RunSpec:
    """One run: what is computed.

    Attributes:
        table: key of `TABLES`.
        dataset: one of its datasets.
        encoder: a row of the tables, a key of ``tslab.ENCODERS``, or ``baseline:<key>`` of `tslab.baselines`.
        source: key of `SOURCES`.
        scale: how much of it: of synthetic data, the size; elsewhere always ``full``.
        seed: of everything random in training; 0 for released results, where nothing is trained.
        epochs: passes over the training rows; None: as recorded.
        split: of released points: ``random`` or ``block``.
        protocol: on the archive: key of `PROTOCOLS`; elsewhere always ``ours``.
    """

    table: str
    dataset: str
    encoder: str
    source: str = "released"
    scale: str = "full"
    seed: int = 0
    epochs: int | None = None
    split: str = "random"
    protocol: str = "ours"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of its table."""
        return TABLES[self.table][1]

    @property
    def trains(self) -> bool:
        """Whether a network is trained: not for released results, baselines, or the image alone."""
        fits = self.encoder == "no_prior" or self.encoder.startswith(BASELINE_PREFIX)
        return self.source != "released" and not fits

    @property
    def name(self) -> str:
        """Name of its file, without suffix."""
        parts = [self.table, self.dataset, self.encoder.replace(":", "_"), self.source]
        if self.source != "released":
            parts += [self.scale, f"seed{self.seed}"]
            parts += [f"{self.epochs}epochs"] if self.epochs is not None else []
            parts += [self.split] if self.source == "released-points" else []
            parts += [self.protocol] if self.protocol != "ours" else []
        return "-".join(parts)

    @property
    def command(self) -> str:
        """The command that computes this run alone."""
        words = ["python -m tslab.benchmark run", f"--table {self.table}", f"--datasets {self.dataset}"]
        words += [f"--encoders {self.encoder}", f"--source {self.source}"]
        if self.source == "synthetic":
            words.append(f"--scale {self.scale}")
        if self.source == "released-points":
            words.append(f"--split {self.split}")
        if self.source == "locbench":
            words.append(f"--protocol {self.protocol}")
        if self.source != "released":
            words.append("--seeds 1" + (f" --first-seed {self.seed}" if self.seed else ""))
        if self.epochs is not None:
            words.append(f"--epochs {self.epochs}")
        return " ".join(words)


def plan(
    tables: Sequence[str],
    *,
    datasets: Sequence[str] | None = None,
    encoders: Sequence[str] | None = None,
    seeds: Iterable[int] = (0,),
    source: str = "released",
    scale: str = "full",
    epochs: int | None = None,
    split: str = "random",
    protocol: str = "ours",
) -> list[RunSpec]:
    """The runs of some tables, in the order of the tables, each once.

    ``datasets`` and ``encoders`` choose among those of the tables (all by default); encoders may also be keys of
    ``tslab.ENCODERS`` and baselines. Released results have one run for each cell, whatever the seeds.

    Raises:
        ValueError: an unknown table, dataset, encoder, source, scale, split or protocol, a negative seed, epochs that
            are no whole number, or nothing left to run.
    """
    _check("table", tables, TABLES)
    _check("source", [source], SOURCES)
    _check("scale", [scale], SCALES)
    for what, given, words, owner in (
        ("split", split, SPLITS, "released-points"),
        ("protocol", protocol, tuple(PROTOCOLS), "locbench"),
    ):
        _check(what, [given], words)
        if given != words[0] and source != owner:
            raise ValueError(f"{what} {given!r} is of source {owner!r}, not of {source!r}")
    seeds = list(dict.fromkeys(check_count("seed", seed, at_least=0) for seed in seeds))
    if not seeds:
        raise ValueError("seeds are empty; name at least one")
    if epochs is not None:
        check_count("epochs", epochs)
    known = {key for table in tables for key in TABLES[table][0]}
    _check("dataset", datasets or (), sorted(known))
    _check("encoder", encoders or (), _known_encoders())
    released, points = source == "released", source == "released-points"
    without = ["gpt4v"] * (not released) + ["no_prior"] * points  # nothing to train; no images
    rows = [key for key in dict.fromkeys(ENCODER_ROWS if encoders is None else encoders) if key not in without]
    size, passes = scale if source == "synthetic" else "full", None if released else epochs
    specs = [
        RunSpec(table, dataset, encoder, source, size, seed, passes, split, protocol)
        for table in dict.fromkeys(tables)
        for dataset in TABLES[table][0]
        if (datasets is None or dataset in datasets) and (not points or dataset in MOSAIKS)
        for encoder in rows
        for seed in ((0,) if released else seeds)
        if not (released and (table, dataset, encoder) not in _published())
    ]
    if not specs:
        raise ValueError(
            f"nothing to run: {', '.join(tables)} has no cell of these datasets and encoders with source {source!r}"
        )
    return specs


@cache
def _published() -> frozenset[tuple[str, str, str]]:
    """(table, dataset, encoder) of every published number."""
    keys = published_tables()[["dataset", "encoder", "metric"]].itertuples(index=False, name=None)
    return frozenset(
        (table, dataset, encoder)
        for dataset, encoder, metric in keys
        for table, (datasets, metrics) in TABLES.items()
        if dataset in datasets and metric in metrics
    )


def _known_encoders() -> list[str]:
    baselines = dict.fromkeys([*CLASS_BASELINES, *REGRESSION_BASELINES])
    return list(dict.fromkeys([*ENCODER_ROWS, *ENCODERS, *(BASELINE_PREFIX + key for key in baselines)]))


def _check(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    if isinstance(given, str):
        raise ValueError(f"{what}s must be a list of keys, got the string {given!r}; use [{given!r}]")
    known = list(known)
    for key in given:
        if key not in known:
            raise ValueError(f"no {what} {key!r}; use one of {', '.join(known)}")
