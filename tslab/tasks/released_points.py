"""Real regression tasks that need no archive: the MOSAIKS test points inside the released results.

Each released MOSAIKS result file holds another random draw from the same pool of test rows, with coordinates and true
labels. Put together they give back about half of the pool, a real dataset of some fifty thousand places per label:

- every file of the task is used, except those of ``wrap``, which store sines in place of degrees;
- two rows are the same place when their coordinates agree after rounding to 1e-4 degrees (about 11 m);
- a place that several files hold has the same label in all of them; this is checked, not assumed.

There is no image input: these tasks ask what the location alone can tell.
"""

import os
from typing import Literal

import numpy as np
import pandas as pd
import torch

from tslab._checks import check_count
from tslab.released import load_released_results
from tslab.released_files import ENCODER_TOKENS, ReleasedResultsError
from tslab.tasks.datasets import TORCHSPATIAL_TERMS, dataset_info
from tslab.tasks.splits import split_rows
from tslab.tasks.table import Table
from tslab.tasks.task import Task

ROUNDING = 4
"""Decimals of a degree within which two rows are the same place."""

RELEASED_COUNTS = {
    "mosaiks_elevation": 53_487,
    "mosaiks_forest_cover": 53_359,
    "mosaiks_nightlights": 52_724,
    "mosaiks_population": 45_704,
}
"""Places that the complete release (15 result files per label) yields."""


def released_points(name: str, root: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """All distinct places of one MOSAIKS label in the released results, with their true labels.

    Returns:
        columns lon, lat (degrees), label (released unit, see `tslab.tasks.datasets.DATASETS`) and draws (how many
        result files hold the place), float64, sorted by longitude, then latitude.

    Raises:
        ValueError: a dataset without released points.
        tslab.released_files.ReleasedFilesMissingError: files are not on this machine; says how to get them.
        ReleasedResultsError: files contradict each other about a label.
    """
    if name not in RELEASED_COUNTS:
        raise ValueError(
            f"the release holds no labelled points of {name!r}; source='released' knows {', '.join(RELEASED_COUNTS)}"
        )
    encoders = [encoder for encoder in ENCODER_TOKENS if encoder != "wrap"]
    rows = pd.concat([load_released_results(name, encoder, root) for encoder in encoders], ignore_index=True)
    rows[["lon", "lat"]] = np.round(rows[["lon", "lat"]].to_numpy(), ROUNDING)
    places = rows.groupby(["lon", "lat"], as_index=False)["label"].agg(
        label="first", least="min", most="max", draws="size"
    )
    contradicting = places["most"] != places["least"]
    if contradicting.any():
        worst = places[contradicting].iloc[0]
        raise ReleasedResultsError(
            f"{name}: {int(contradicting.sum())} places have several labels, for instance ({worst.lon}, {worst.lat}): "
            f"{worst.least:g} and {worst.most:g}; compare the files with their checksums: "
            "python data_scripts/fetch_released.py --verify"
        )
    return places[["lon", "lat", "label", "draws"]]


def released_task(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    split: Literal["random", "block"] = "random",
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    size_degrees: float | None = None,
    size_km: float | None = None,
) -> Task:
    """The released places of one MOSAIKS label as a regression task without image input.

    Args:
        name: mosaiks_elevation, mosaiks_forest_cover, mosaiks_nightlights or mosaiks_population.
        root: a copy of the TorchSpatial repository; default ``TSLAB_MIRROR``, then the cache folder.
        seed: of the split.
        split: ``random``, or ``block`` to keep spatial blocks whole.
        fractions: of train, validation and test rows.
        size_degrees, size_km: block size, see `tslab.earth.spatial_blocks`; default 10 degrees.

    Raises:
        ValueError: a dataset without released points, or a split, seed, fractions or sizes that cannot be.
        tslab.released_files.ReleasedFilesMissingError, ReleasedResultsError: as `released_points`.
    """
    if split not in ("random", "block"):
        raise ValueError(f"split must be 'random' or 'block', got {split!r}")
    check_count("seed", seed, at_least=0)
    if len(fractions) != 3:
        raise ValueError(f"fractions must be three, of train, validation and test rows; got {fractions!r}")
    if split == "random" and not (size_degrees is None and size_km is None):
        raise ValueError("size_degrees and size_km are of blocks; use split='block' with them")
    info, points = dataset_info(name), released_points(name, root)
    lonlat = torch.from_numpy(points[["lon", "lat"]].to_numpy(np.float32))
    target = torch.from_numpy(points["label"].to_numpy(np.float32))
    table = Table(lonlat=lonlat, target=target)
    if split == "block" and size_degrees is None and size_km is None:
        size_degrees = 10.0
    parts, how = split_rows(lonlat, fractions, size_degrees=size_degrees, size_km=size_km, seed=seed)
    notes: tuple[str, ...] = (
        f"Real data: {len(table):,} places with true labels, the union of the test rows in the released result files "
        f"(without wrap), one row per place after rounding to 1e-{ROUNDING} degrees.",
        f"Split {how} (seed {seed}); the release's own training rows are not public in this form.",
    )
    expected = RELEASED_COUNTS[name]
    if len(table) != expected:
        notes += (f"The complete release has {expected:,} places; this copy of it differs.",)
    meta = info.task_meta("released", licence=f"{TORCHSPATIAL_TERMS}. {info.licence}", seed=seed, notes=notes)
    table = table.in_blocks(size_degrees=size_degrees, size_km=size_km)
    train, val, test = (table.where(part) for part in parts)
    return Task(name=name, train=train, val=val, test=test, meta=meta)
