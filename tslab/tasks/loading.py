"""`load_task`: one way to every task."""

import os
from typing import Any, Literal, get_args

from tslab._checks import check_choice, check_count
from tslab.tasks.archive import locbench_root
from tslab.tasks.datasets import DATASETS, STRESS_TASKS
from tslab.tasks.earth import EARTH_TASKS, ROWS, earth_task
from tslab.tasks.locbench import load_locbench
from tslab.tasks.meta import SCALES, Scale
from tslab.tasks.native import read_task
from tslab.tasks.released_points import released_task
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
            needed (`tslab.synthetic`); ``locbench`` for the
            released archive, unpacked (`tslab.tasks.locbench.load_locbench`, options image, variant and fraction);
            ``released`` for the MOSAIKS points inside the released results
            (`tslab.tasks.released_points.released_task`, options split, fractions, size_degrees, size_km); ``native``
            for a folder written by `tslab.tasks.native.write_task`.
        root: where the files are: the folder that holds the dataset folders; for ``released`` a copy of the
            TorchSpatial repository.
        scale: size of synthetic data: ``tiny`` for tests, ``small`` for a laptop, ``full`` for the released counts.
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
