"""`load_task`: one way to every task. And `released_task`: real regression tasks that need no archive.

Each released MOSAIKS result file holds another random draw from the same pool of test rows, with coordinates and true
labels. Put together they give back about half of the pool, a real dataset of some fifty thousand places per label:

- every file of the task is used, except those of ``wrap``, which store sines in place of degrees;
- two rows are the same place when their coordinates agree after rounding to 1e-4 degrees (about 11 m);
- a place that several files hold has the same label in all of them; this is checked, not assumed.

There is no image input: these tasks ask what the location alone can tell.
"""

import os
from typing import Any, Literal, get_args

import pandas as pd

from tslab._checks import check_choice, check_count
from tslab.released import load_released_results
from tslab.released_files import ENCODER_TOKENS, ReleasedResultsError
from tslab.tasks.datasets import DATASETS, SCALES, STRESS_TASKS, TORCHSPATIAL_TERMS, Scale
from tslab.tasks.earth import EARTH_TASKS, ROWS, earth_task
from tslab.tasks.locbench import load_locbench
from tslab.tasks.native import read_task
from tslab.tasks.records import locbench_root
from tslab.tasks.splits import split_table
from tslab.tasks.table import Table
from tslab.tasks.task import Task

Source = Literal["synthetic", "locbench", "released", "native", "earth"]

TASK_NAMES = (*DATASETS, *STRESS_TASKS, "sphere_toy", *EARTH_TASKS)
"""Every name that `load_task` knows."""

LARGEST_SEED = 2**63 - 1


def load_task(
    name: str,
    source: Source | None = None,
    root: str | os.PathLike[str] | None = None,
    scale: Scale = "small",
    seed: int = 0,
    **options: Any,
) -> Task:
    """Load a task.

    Args:
        name: one of the seventeen LocBench datasets (`tslab.tasks.DATASETS`), ``stress_classes`` or ``stress_field``
            (synthetic tasks at the date line and the poles), ``sphere_toy``, or a real one that ships with tslab
            (`tslab.tasks.earth.EARTH_TASKS`: earth_temperature, earth_climate, ...).
        source: ``earth`` for the real tasks that ship with tslab, and their default (`tslab.tasks.earth.earth_task`,
            options n, split and resolution); for all others the default is ``synthetic``, a generated stand-in, no data
            needed (`tslab.synthetic`); ``locbench`` for the released archive, unpacked
            (`tslab.tasks.locbench.load_locbench`, options image, variant and fraction); ``released`` for the MOSAIKS
            points inside the released results (`tslab.tasks.loading.released_task`, options split, fractions,
            size_degrees, size_km); ``native`` for a folder written by `tslab.tasks.native.write_task`.
        root: where the files are: the folder that holds the dataset folders; for ``released`` a copy of the
            TorchSpatial repository.
        scale: size of synthetic data: ``tiny`` for tests, ``small`` for a laptop, ``full`` for the released counts; of
            ``earth`` it is the default of n (`tslab.tasks.earth.ROWS`).
        seed: of generated data, of splits and of draws; not negative.

    Raises:
        ValueError: unknown name, source or scale, a seed or an option out of its range.
        FileNotFoundError: the files are not there; says how to get them.
        TaskDataError, tslab.CoordinateError: files that are not what they should be.
    """
    if name not in TASK_NAMES:
        raise ValueError(f"no task {name!r}; use one of {', '.join(TASK_NAMES)}")
    source = check_choice("source", source or ("earth" if name in EARTH_TASKS else "synthetic"), get_args(Source))
    check_choice("scale", scale, SCALES)
    check_count("seed", seed, at_least=0, at_most=LARGEST_SEED)
    if source == "native":
        if options:
            raise ValueError(f"source 'native' takes no {', '.join(options)}: the task is read as it was written")
        return read_task(locbench_root(root) / name)
    if (source == "earth") != (name in EARTH_TASKS):
        raise ValueError(f"source 'earth' has {', '.join(EARTH_TASKS)}, and only it; got task {name!r} and {source!r}")
    if source == "earth":
        return earth_task(name, seed=seed, **{"n": ROWS[scale]} | options)
    if source == "locbench":
        return load_locbench(name, root, seed=seed, **options)
    if source == "released":
        return released_task(name, root, seed=seed, **options)
    from tslab.synthetic import sphere_toy, synthetic_task  # it makes tasks itself, so not when this is imported

    if name == "sphere_toy":
        return sphere_toy(seed, **options)
    return synthetic_task(name, scale, seed, **options)


ROUNDING = 4
"""Decimals of a degree within which two rows are the same place."""

RELEASED_COUNTS = {key: info.released_places for key, info in DATASETS.items() if info.released_places}
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
        raise ValueError(f"the release holds no labelled points of {name!r}, but of {', '.join(RELEASED_COUNTS)}")
    encoders = [encoder for encoder in ENCODER_TOKENS if encoder != "wrap"]
    rows = pd.concat([load_released_results(name, encoder, root) for encoder in encoders], ignore_index=True)
    rows[["lon", "lat"]] = rows[["lon", "lat"]].round(ROUNDING)
    labels = {"label": "first", "least": "min", "most": "max", "draws": "size"}
    places = rows.groupby(["lon", "lat"], as_index=False)["label"].agg(**labels)
    contradicting = places[places["most"] != places["least"]]
    if len(contradicting):
        worst = contradicting.iloc[0]
        example = f"for instance ({worst.lon}, {worst.lat}): {worst.least:g} and {worst.most:g}"
        hint = "compare the files with their checksums: python data_scripts/fetch_released.py --verify"
        raise ReleasedResultsError(f"{name}: {len(contradicting)} places have several labels, {example}; {hint}")
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
    check_choice("split", split, ("random", "block"))
    check_count("seed", seed, at_least=0)
    if len(fractions) != 3:
        raise ValueError(f"fractions must be three, of train, validation and test rows; got {fractions!r}")
    if size_degrees is None and size_km is None:
        size_degrees = 10.0 if split == "block" else None
    elif split == "random":
        raise ValueError("size_degrees and size_km are of blocks; use split='block' with them")
    info, points = DATASETS[name], released_points(name, root)
    table = Table(points[["lon", "lat"]], points["label"])
    (train, val, test), how = split_table(table, fractions, seed=seed, size_degrees=size_degrees, size_km=size_km)
    notes = [
        f"Real data: {len(table):,} places with true labels, the union of the test rows in the released result files "
        f"(without wrap), one row per place after rounding to 1e-{ROUNDING} degrees.",
        f"Split {how} (seed {seed}); the release's own training rows are not public in this form.",
    ]
    if len(table) != RELEASED_COUNTS[name]:
        notes.append(f"The complete release has {RELEASED_COUNTS[name]:,} places; this copy of it differs.")
    meta = info.task_meta("released", licence=f"{TORCHSPATIAL_TERMS}. {info.licence}", seed=seed, notes=notes)
    return Task(name, train, val, test, meta)
