"""Runs and where their outcomes are kept: one small file for each finished run, nothing for an unfinished one.

A *run* is one encoder on one dataset for one table, from one source, with one seed. Its outcome is a JSON file
whose name follows from the run, so that a second call finds it and has nothing left to do. Files are written to
a temporary name and renamed: an interrupted driver leaves finished runs and no halves.
"""

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tslab._files import atomic_write
from tslab.encoders import ENCODERS
from tslab.published import CLASSIFICATION_DATASETS, ENCODER_ROWS, REGRESSION_DATASETS

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
    """

    table: str
    dataset: str
    encoder: str
    source: str = "released"
    scale: str = "full"
    seed: int = 0
    epochs: int | None = None
    split: str = "random"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of its table."""
        return TABLES[self.table][1]

    @property
    def name(self) -> str:
        """Name of its file, without suffix."""
        parts = [self.table, self.dataset, self.encoder.replace(":", "_"), self.source]
        if self.source != "released":
            parts += [self.scale, f"seed{self.seed}"]
            parts += [f"{self.epochs}epochs"] if self.epochs is not None else []
            parts += [self.split] if self.source == "released-points" else []
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
) -> list[RunSpec]:
    """The runs of some tables, in the order of the tables.

    ``datasets`` and ``encoders`` choose among those of the tables (all by default); encoders may also be keys of
    ``tslab.ENCODERS`` and baselines. Released results have one run for each cell, whatever the seeds.

    Raises:
        ValueError: an unknown table, dataset, encoder, source or scale, or nothing left to run.
    """
    _check("table", tables, TABLES)
    _check("source", [source], SOURCES)
    _check("scale", [scale], SCALES)
    known = {key for table in tables for key in TABLES[table][0]}
    _check("dataset", datasets or (), sorted(known))
    for key in encoders or ():
        if not key.startswith(BASELINE_PREFIX) and key not in ENCODER_ROWS:
            _check("encoder", [key], [*ENCODER_ROWS, *(k for k in ENCODERS if k not in ENCODER_ROWS)])
    released = source == "released"
    rows = list(encoders) if encoders else list(ENCODER_ROWS)
    if not released:
        rows = [key for key in rows if key != "gpt4v"]  # nothing to train
    if source == "released-points":
        rows = [key for key in rows if key != "no_prior"]  # there are no images
    specs = [
        RunSpec(
            table,
            dataset,
            encoder,
            source,
            scale if source == "synthetic" else "full",
            seed,
            None if released else epochs,
            split if source == "released-points" else "random",
        )
        for table in tables
        for dataset in TABLES[table][0]
        if (datasets is None or dataset in datasets) and (source != "released-points" or dataset in MOSAIKS)
        for encoder in rows
        for seed in ((0,) if released else tuple(seeds))
        if not (released and not _published(table, dataset, encoder))
    ]
    if not specs:
        raise ValueError(
            f"nothing to run: {', '.join(tables)} has no cell of these datasets and encoders with source {source!r}"
        )
    return specs


class ResultStore:
    """A folder of outcomes. ``folder/runs/<name>.json`` is the outcome of a run, ``folder/samples/<name>.csv.gz``
    its per-sample results where something was trained, ``folder/manifest.json`` what the folder was made with."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def path(self, spec: RunSpec) -> Path:
        """Where the outcome of a run is kept."""
        return self.folder / "runs" / f"{spec.name}.json"

    def samples_path(self, spec: RunSpec) -> Path:
        """Where the per-sample results of a trained run are kept; the tables of one training share them."""
        of = spec.name.removeprefix(f"{spec.table}-")
        return self.folder / "samples" / f"{of}.csv.gz"

    def load(self, spec: RunSpec) -> dict[str, Any] | None:
        """The outcome of a run, or None if it has not finished.

        Raises:
            ValueError: the file belongs to another run or is damaged; says which to delete.
        """
        path = self.path(spec)
        if not path.is_file():
            return None
        try:
            outcome: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            same = outcome["spec"] == dataclasses.asdict(spec)
        except (json.JSONDecodeError, KeyError) as error:
            raise ValueError(
                f"{path} is damaged ({error}); delete it and run the same command again"
            ) from error
        if not same:
            raise ValueError(
                f"{path} holds the outcome of another run; delete it or choose another output folder"
            )
        return outcome

    def save(self, spec: RunSpec, outcome: dict[str, Any]) -> None:
        """Keep the outcome of a run; ``outcome`` is what `tslab.benchmark.produce` returns."""
        content = {"spec": dataclasses.asdict(spec), **outcome}
        atomic_write(self.path(spec), json.dumps(content, indent=1, sort_keys=True) + "\n")

    def write_manifest(self, specs: Sequence[RunSpec], command: str) -> None:
        """Write down code version, environment, checksums of the data and seeds; every command adds an entry."""
        path = self.folder / "manifest.json"
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"commands": []}
        entry = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command,
            "runs": len(specs),
            "seeds": sorted({spec.seed for spec in specs}),
            "code": code_version(),
            "environment": environment(),
            "data": data_checksums({spec.source for spec in specs}),
        }
        atomic_write(path, json.dumps({"commands": [*earlier["commands"], entry]}, indent=1) + "\n")

    def frame(self, specs: Sequence[RunSpec] | None = None) -> pd.DataFrame:
        """All finished runs (or those of ``specs``), one row for each run and metric.

        Columns: those of `RunSpec`, then metric, value, low, high, n, reason (why there is no number), file (what
        was read), seconds, details (a dict), code (version that computed it).
        """
        if specs is None:
            outcomes = [
                json.loads(p.read_text(encoding="utf-8")) for p in sorted(self.folder.glob("runs/*.json"))
            ]
        else:
            outcomes = [outcome for spec in specs if (outcome := self.load(spec)) is not None]
        rows = []
        for outcome in outcomes:
            spec = RunSpec(**outcome["spec"])
            shared = {"reason": outcome["reason"], "file": outcome["file"], "seconds": outcome["seconds"]}
            for metric in spec.metrics:
                measured = outcome["metrics"].get(metric) or dict.fromkeys(
                    ("value", "low", "high", "n", "details")
                )
                rows.append(
                    outcome["spec"] | {"metric": metric} | measured | shared | {"code": outcome["code"]}
                )
        columns = [field.name for field in dataclasses.fields(RunSpec)]
        columns += ["metric", "value", "low", "high", "n", "reason", "file", "seconds", "details", "code"]
        table = pd.DataFrame(rows, columns=columns)
        return table.astype({"value": float, "low": float, "high": float, "seconds": float, "n": "Int64"})


@cache
def code_version() -> str:
    """Version of tslab and a digest of its source, which tells two states of one version apart."""
    import tslab

    folder = Path(tslab.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return f"{tslab.__version__}+{digest.hexdigest()[:12]}"


def environment() -> dict[str, Any]:
    """Versions and hardware that a number may depend on."""
    import numpy
    import scipy

    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "pandas": pd.__version__,
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
    }


def data_checksums(sources: Iterable[str]) -> dict[str, str]:
    """SHA-256 of what the data are checked against: the list of released files with their checksums."""
    from importlib.resources import files

    if not {"released", "released-points"} & set(sources):
        return {}
    index = (files("tslab") / "data" / "released_files.csv").read_bytes()
    return {"released_files.csv": hashlib.sha256(index).hexdigest()}


@cache
def _published_keys() -> frozenset[tuple[str, str, str]]:
    from tslab.published import published_tables

    keys = published_tables()[["dataset", "encoder", "metric"]].itertuples(index=False, name=None)
    return frozenset(keys)


def _published(table: str, dataset: str, encoder: str) -> bool:
    return any((dataset, encoder, metric) in _published_keys() for metric in TABLES[table][1])


def _check(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    if isinstance(given, str):
        raise ValueError(f"{what}s must be a list of keys, got the string {given!r}; use [{given!r}]")
    known = list(known)
    for key in given:
        if key not in known:
            raise ValueError(f"no {what} {key!r}; use one of {', '.join(known)}")
