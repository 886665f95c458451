"""Tasks of the real Earth: climate, countries, people, elevation. They ship with the package and need no download.

Each draws as many places as you ask for, uniformly by area on land, and looks up what is there in a field that comes
from open data (``data_scripts/fetch_earth.py`` says from where, rebuilds the files, and fetches finer ones). Elevation
is known at airports, so its places are those. A field on a grid cannot be known finer than its grid: ``meta.notes``
says how well the shipped grid agrees with the full one, which is a ceiling for every model.

Splits are part of the task, because they decide what it asks: ``random`` fills gaps, ``block`` (10 degrees) and
``buffer`` (at random, with no training place near a test place) ask about places farther away, ``continent`` about one
that no model has seen.
"""

import json
import zipfile
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import shapely
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from tslab._checks import check_choice, check_count
from tslab._files import DamagedFileError, data_folder, packaged_json
from tslab.coords import check_lonlat, has_location
from tslab.earth import CONTINENTS, continents, sample_land
from tslab.tasks.datasets import TaskMeta
from tslab.tasks.splits import buffered_leave_out, split_table
from tslab.tasks.table import Table
from tslab.tasks.task import Task

Resolution = Literal["shipped", "full"]
EarthSplit = Literal["random", "block", "buffer", "continent"]

BUFFER_KM = 300.0
BLOCK_DEGREES = 10.0
EARTH_TASKS: dict[str, dict[str, Any]] = packaged_json("earth_tasks.json")
"""Name -> which field, what kind of label, and its unit."""

ROWS = {"tiny": 500, "small": 10_000, "full": 100_000}
"""Places for each scale of `load_task`."""


def earth_task(
    name: str,
    *,
    n: int = ROWS["small"],
    seed: int = 0,
    split: EarthSplit = "random",
    resolution: Resolution = "shipped",
) -> Task:
    """A task of the real Earth.

    Args:
        name: a key of `EARTH_TASKS`.
        n: places in all; for elevation at most the airports there are.
        seed: of the places and of the split; with ``continent`` it also chooses which one is left out.
        split: see the module's text. 80 % train, 10 % validation (cut from the training side), 10 % test.
        resolution: the coarse grids that ship with tslab, or the ``full`` ones that ``fetch_earth.py`` has fetched.

    Raises:
        ValueError: a name, split or resolution that is not known, or more places than there are.
        FileNotFoundError: ``full`` without the fetched file; says how to get it.
    """
    facts = EARTH_TASKS[check_choice("task", name, EARTH_TASKS)]
    n = check_count("n", n, at_least=20)
    check_count("seed", seed, at_least=0)
    check_choice("split", split, get_args(EarthSplit))
    arrays, about = fields(facts["file"], resolution)
    generator = torch.Generator().manual_seed(seed)
    if facts["file"] == "airports":
        available = len(arrays["elevation"])
        check_count("n", n, at_most=available, hint="the number of airports")
        rows = torch.randperm(available, generator=generator)[:n].numpy()
        lonlat = torch.from_numpy(arrays["lonlat"][rows] / 1e4)
        target = torch.from_numpy(arrays["elevation"][rows].astype(np.float32))
    else:
        lonlat = sample_land(n, lat_range=(facts.get("south", -90.0), 90.0), generator=generator)
        target = look_up(name, lonlat, resolution=resolution)
    classes = about.get("names") or about.get(facts["field"], ())
    table = Table(lonlat=lonlat.float(), target=target, group=continents(lonlat))
    (train, val, test), how = _split(table, split, seed)
    meta = TaskMeta(
        kind=facts["kind"],
        classes=classes if facts["kind"] == "classification" else (),
        groups=tuple(CONTINENTS.values()),
        label_name=facts["label"],
        label_unit=facts.get("unit", ""),
        label_transform=facts.get("transform", "none"),
        licence=about["licence"],
        citation=about["source"],
        source="earth",
        seed=seed,
        notes=(
            facts["note"],
            f"Real data, {resolution} resolution. Split {how} (seed {seed}).",
            *_limits(facts, about),
        ),
    )
    return Task(name, train, val, test, meta)


def look_up(
    name: str, lonlat: Float[Tensor, "n 2"], *, resolution: Resolution = "shipped"
) -> Int[Tensor, " n"] | Float[Tensor, " n"]:
    """The label of a task at places of your own: class numbers, or numbers in the unit of the task. Not for elevation.

    Raises:
        ValueError: a task that is not known, elevation, which is known at airports only, or missing places.
        tslab.CoordinateError: places that are no degrees.
    """
    facts = EARTH_TASKS[check_choice("task", name, [key for key in EARTH_TASKS if key != "earth_elevation"])]
    check_lonlat(lonlat)
    if not has_location(lonlat).all():
        raise ValueError("lonlat has missing places; look up those with has_location(lonlat)")
    arrays, _ = fields(facts["file"], resolution)
    if facts["file"] == "countries":
        polygons, country, _ = country_outlines(resolution)
        nearest = shapely.STRtree(polygons).query_nearest(shapely.points(lonlat.numpy()), all_matches=False)[1]
        return torch.from_numpy(country[nearest])
    field = arrays[facts["field"]]
    if facts["kind"] == "classification":
        return nearest_node(field, lonlat)
    value = interpolate(field, lonlat) * facts["scale"]
    return (torch.log10(1 + value) if facts.get("transform") == "log10(1 + x)" else value).float()


def interpolate(field: NDArray[Any], lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """Bilinear value of a field of nodes (rows from 90 to -90 degrees, columns from -180) at places; float64."""
    row, column, rows, columns = _position(field, lonlat)
    above, left = np.minimum(np.floor(row), rows - 2).astype(int), np.floor(column).astype(int)
    down, right = row - above, column - left
    values = field.astype(np.float64)
    west, east = left % columns, (left + 1) % columns
    top = values[above, west] * (1 - right) + values[above, east] * right
    bottom = values[above + 1, west] * (1 - right) + values[above + 1, east] * right
    return torch.from_numpy(top * (1 - down) + bottom * down)


def nearest_node(field: NDArray[Any], lonlat: Float[Tensor, "n 2"]) -> Int[Tensor, " n"]:
    """Value of the nearest node of a field of classes at places; int64."""
    row, column, _, columns = _position(field, lonlat)
    found = field[np.floor(row + 0.5).astype(int), np.floor(column + 0.5).astype(int) % columns]
    return torch.from_numpy(found.astype(np.int64))


@cache
def read_fields(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays of a file of ``fetch_earth.py`` and what it says of itself.

    Raises:
        tslab._files.DamagedFileError: not such a file; says how to get it again.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return arrays, json.loads(str(arrays.pop("about")))
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        hint = "delete it and run `python data_scripts/fetch_earth.py` again"
        raise DamagedFileError(f"{path} is damaged ({error}); {hint}") from error


@cache
def country_outlines(resolution: Resolution = "shipped") -> tuple[list[shapely.Polygon], NDArray[np.int64], list[str]]:
    """Polygons of all countries in degrees, the number of the country of each, and the countries' names."""
    arrays, about = fields("countries", resolution)
    points = np.split(arrays["points"] / 1e3, np.cumsum(arrays["ring_sizes"])[:-1])
    first = np.cumsum(arrays["polygon_rings"]) - arrays["polygon_rings"]
    polygons = [
        shapely.Polygon(points[at], points[at + 1 : at + rings])
        for at, rings in zip(first, arrays["polygon_rings"], strict=True)
    ]
    return polygons, arrays["country"].astype(np.int64), about["names"]


def fields(file: str, resolution: Resolution = "shipped") -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays of ``climate``, ``places``, ``airports`` or ``countries``, and what they say of themselves.

    Raises:
        FileNotFoundError: ``full`` without the fetched file; says how to get it.
    """
    if check_choice("resolution", resolution, get_args(Resolution)) == "shipped":
        return read_fields(Path(str(files("tslab") / "data" / "earth" / f"{file}.npz")))
    path = data_folder() / "earth" / f"{file}.npz"
    if not path.is_file():
        hint = f"run `python data_scripts/fetch_earth.py --only {file}`, or use resolution='shipped'"
        raise FileNotFoundError(f"no {path}: {hint}")
    return read_fields(path)


def _limits(facts: dict[str, Any], about: dict[str, Any]) -> tuple[str, ...]:
    """What a reader must know about the label's error."""
    if "noise" in about:
        return (f"Labels are noisy: {about['noise']:g} m ({about['noise_note']}).",)
    known = about.get("agreement", {}).get(facts["field"])
    if known is None:
        return ()
    step = about["step"][facts["field"]]
    measure = "accuracy" if facts["kind"] == "classification" else "R²"
    return (f"The shipped grid of {step:g}° tells the 0.25° one with {measure} {known:.4f}.",)


def _split(table: Table, split: str, seed: int) -> tuple[tuple[Table, Table, Table], str]:
    """Train, validation and test, and how they were chosen."""
    blocks: dict[str, Any] = {"size_degrees": BLOCK_DEGREES, "size_km": None}
    if split == "continent":
        left_out = seed % len(CONTINENTS)
        inside = table.group == left_out
        (train, val), _ = split_table(table.where(~inside), (0.9, 0.1), seed=seed, **blocks)
        test = table.where(inside).in_blocks(**blocks)
        return (train, val, test), f"by continent: {list(CONTINENTS.values())[left_out]} left out"
    size = blocks if split == "block" else dict.fromkeys(blocks)
    (train, val, test), how = split_table(table, (0.8, 0.1, 0.1), seed=seed, **size)
    if split != "buffer":
        return (train, val, test), how
    far = buffered_leave_out(table.lonlat, test.id, BUFFER_KM)
    train, val = (part.where(torch.isin(part.id, far)) for part in (train, val))
    return (train, val, test), f"{how}, without training places within {BUFFER_KM:g} km of a test place"


def _position(field: NDArray[Any], lonlat: Tensor) -> tuple[NDArray[Any], NDArray[Any], int, int]:
    """Row and column of places in a field, as real numbers, and its shape."""
    rows, columns = field.shape
    lon, lat = lonlat.double().numpy().T
    return (90 - lat) / 180 * (rows - 1), (lon + 180) / 360 * columns, rows, columns
