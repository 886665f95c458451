"""Reading the released LocBench archives as they are.

Six families of files, one small reader each, one result: a `Task`. The readers are lazy where it matters (sparse image
predictions stay sparse, large features stay on disk) and strict everywhere: rows are joined by their ids and counted
against each other, and a file that is not what was documented is refused with what was expected and what was found. No
row is dropped to make things fit. Two rules of the release itself decide what a row is:

- birds list images that were never found (``valid_image`` false); predictions exist only for the others, so only those
  are rows;
- SustainBench rows without the label of a task are no examples of that task.

`training_mask` gives the filter that the reference applies before training. ``data_scripts/fetch_locbench.py --verify``
compares what was read with the published facts.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pandas as pd
from jaxtyping import Bool
from torch import Tensor

from tslab._checks import check_choice, check_number
from tslab.tasks import records
from tslab.tasks.columns import TaskDataError, read_numbers
from tslab.tasks.datasets import TORCHSPATIAL_TERMS, DatasetInfo, dataset_info
from tslab.tasks.images import LazyRows
from tslab.tasks.records import IMAGE_FILES, Archive, ImageChoice, open_archive
from tslab.tasks.splits import random_split
from tslab.tasks.table import Table
from tslab.tasks.task import Task

VIIRS_FROM_YEAR = 2012
"""First year whose night-time lights come from VIIRS in place of DMSP; the two have different units."""


def load_locbench(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    image: ImageChoice = "default",
    variant: Literal["standard", "high_res", "pretrain"] = "standard",
    fraction: float | None = None,
    seed: int = 0,
) -> Task:
    """Read one dataset from the released archive, unpacked.

    ``task.test`` holds the rows that the benchmark scores (``meta.eval_split`` is their name in the release) and
    ``task.val`` the release's validation rows, empty where it has none.

    Args:
        name: dataset key, see `tslab.tasks.datasets.DATASETS`.
        root: folder that holds ``birdsnap/``, ``inat_2018/`` and so on; default ``TSLAB_LOCBENCH``, then
            ``locbench`` in tslab's cache folder.
        image: ``probs`` (class probabilities), ``feats`` (features), ``none``; the default is ``probs`` for
            classification and what there is for regression.
        variant: which image model of iNat2017 and iNat2018: ``high_res`` (iNat2018 predictions and features at
            520 px) or ``pretrain`` (features of the model before fine-tuning).
        fraction: keep this share of the training and of the evaluated rows, drawn with ``seed`` (the release
            drew 0.05 of MOSAIKS without a seed).

    Raises:
        ValueError: unknown dataset, an image input or a variant that it does not have, a fraction outside (0, 1].
        FileNotFoundError: a file is not there; says what was expected, what was found and how to get it.
        TaskDataError, tslab.CoordinateError: a file is damaged or not what was documented.
    """
    info = dataset_info(name)
    check_choice("image", image, get_args(ImageChoice))
    check_choice("variant", variant, IMAGE_FILES[info.family])
    check_number("fraction", 1.0 if fraction is None else fraction, above=0, at_most=1)
    files = open_archive(info, root, image, variant)
    content = READERS[info.family](files)
    for split, table in content.tables.items():
        if len(table) and not table.has_location.any():
            what = f"not one row of {split} has a location"
            raise TaskDataError(f"{name}: {what}, so {files.folder} is not what is documented; download it again")
    notes = content.notes
    if files.image != "none":
        tables = content.tables.items()
        notes += tuple(f"{split}: no image input among the files." for split, t in tables if t.image is None)
    train, test = content.tables[info.train_split], content.tables[info.eval_split]
    val = content.tables[info.val_split] if info.val_split else train.where([])
    if fraction is not None:
        shares = (fraction, 1 - fraction)
        train, test = (table.where(random_split(len(table), shares, seed=seed)[0]) for table in (train, test))
        notes += (f"A seeded sample of {fraction:g} of the training and of the evaluated rows (seed {seed}).",)
    meta = info.task_meta(
        "locbench",
        classes=content.classes,
        groups=content.groups,
        image_kind=files.image,
        image_model=files.image_model,
        eval_split=info.eval_split,
        licence=f"{info.licence}. {TORCHSPATIAL_TERMS}",
        notes=notes,
    )
    return Task(name=name, train=train, val=val, test=test, meta=meta)


def training_mask(name: str, table: Table) -> Bool[Tensor, " n"]:
    """Rows the reference trains on: a location and a known user, and for birds also a date.

    Datasets without users (YFCC and all regression sets) keep every row that has a location.
    """
    family = dataset_info(name).family
    keep = table.has_location
    if family in ("birds", "inat", "fmow"):
        keep = keep & (table.user >= 0)
    if family == "birds":
        keep = keep & ~table.date.isnan()
    return keep


@dataclass(frozen=True)
class Content:
    """What a reader found: a table per split of the release, names, and remarks."""

    tables: Mapping[str, Table]
    classes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_birds(files: Archive) -> Content:
    """BirdSnap and NABirds: one JSON with both kinds of metadata, predictions for rows with ``valid_image``."""
    meta = "orig_meta" if files.info.key == "birdsnap" else "ebird_meta"
    path = files.path(f"{files.info.folder}_with_loc_2019.json")
    whole = records.read_json(path, "train", "test", "classes")
    if not isinstance(whole["classes"], list):
        raise TaskDataError(f"{path}: classes must be a list of names; download it again")
    whole.setdefault("val", whole.get("valid"))
    notes, tables = [], {}
    for split in files.info.splits:
        listed = whole[split]
        if not isinstance(listed, list) or not all(isinstance(row, dict) for row in listed):
            raise TaskDataError(f"{path}: {split} must be a list of objects, one per image; download it again")
        images = [row for row in listed if row.get("valid_image")]
        if len(images) < len(listed):
            lost = len(listed) - len(images)
            notes.append(f"{split}: {lost:,} of {len(listed):,} listed images were never found and are no rows.")
        entries = records.read_entries(path, images, meta, "class_id")
        if not all(isinstance(about, dict) for about in entries[meta]):
            raise TaskDataError(f"{path}: an image of {split} has no {meta}; download it again")
        keys = {"lon": "lon", "lat": "lat", "user_id": "user", "date": "date"}
        rows = pd.DataFrame([*entries[meta]], columns=[*keys]).rename(columns=keys)
        rows["class_id"] = entries["class_id"]
        tables[split] = records.make_table(path, rows, "class_id", "classification", files.class_image(split))
    return Content(tables, tuple(map(str, whole["classes"])), notes=tuple(notes))


def read_coco(files: Archive) -> Content:
    """iNaturalist and fMoW: COCO-like annotations in image order, locations joined by image id."""
    if files.info.family == "fmow":
        year, path = "", files.path("category.json")
        names = records.read_json(path)
        if not isinstance(names, dict):
            raise TaskDataError(f"{path}: expected an object from class name to class number")
        categories = pd.DataFrame(names.items(), columns=["name", "id"])
    else:
        year = files.info.folder[-4:]
        path = files.path(f"categories{year}.json")
        categories = records.read_entries(path, records.read_json(path), "id", "name")
    tables = {}
    for split in files.info.splits:
        annotations = files.path(f"{split}{year}.json")
        locations = files.path(f"{split}{year}_locations.json", f"{split}{year}_location.json")
        rows = joined(annotations, locations)
        tables[split] = records.make_table(locations, rows, "category_id", "classification", files.class_image(split))
    return Content(tables, records.class_names(path, categories))


def joined(annotations: Path, locations: Path) -> pd.DataFrame:
    """Rows in the order of ``images`` of a COCO-like file, with class and location joined by image id.

    Raises:
        TaskDataError: an image without annotation or location entry, or listed twice.
    """
    whole = records.read_json(
        annotations, "images", "annotations", keep=("images", "annotations", "id", "image_id", "category_id")
    )
    images = records.read_entries(annotations, whole["images"], "id")
    labels = records.read_entries(annotations, whole["annotations"], "image_id", "category_id")
    keys = ("id", "lon", "lat", "user_id", "date_c")
    places = records.read_entries(locations, records.read_json(locations, keep=keys), *keys)
    rows = places.iloc[records.places_of(images, annotations, places, locations, "id")].reset_index(drop=True)
    at = records.places_of(images, annotations, labels, annotations, "image_id")
    with records.errors_name(annotations):
        rows["category_id"] = records.whole_numbers(labels, "category_id").numpy()[at]
    return rows.rename(columns={"user_id": "user", "date_c": "date"})


def read_yfcc(files: Archive) -> Content:
    """YFCC: one CSV with a split column, class names in another, dense predictions."""
    path = files.path("class_names.csv")
    names = records.class_names(path, records.read_csv(path, "id", "name"))
    path = files.path("train_test_split.csv")
    parts = _by_split(path, records.read_csv(path, "lat", "lon", "split", "class"), files.info)
    tables = {}
    for split, part in parts.items():
        tables[split] = records.make_table(path, part, "class", "classification", files.class_image(split))
    return Content(tables, names)


def read_mosaiks(files: Archive) -> Content:
    """MOSAIKS: a CSV of labels and an array of features whose rows are the rows of the CSV."""
    label = files.info.key.removeprefix("mosaiks_")
    short = label.split("_")[0]
    path = files.path(f"Y_{short}.csv", f"Y_{label}.csv")
    rows = records.read_csv(path, "lon", "lat", "split")
    column = label if label in rows and short not in rows else short
    if column not in rows:
        raise TaskDataError(f"{path} has no column {short!r}, it has {', '.join(map(str, rows.columns))}")
    with records.errors_name(path):  # every row of the release has a label
        read_numbers(column, rows[column], missing=False)
    features = None
    if files.image == "feats":
        source = files.path(f"X_{short}.npy", f"X_{label}.npy")
        features = LazyRows(records.open_npy(source))
        if len(features) != len(rows):
            lengths = f"{source.name} has {len(features):,} rows but {path.name} has {len(rows):,}"
            raise TaskDataError(f"{lengths}: they must have the same rows; download both again")
    tables = {}
    for split, part in _by_split(path, rows, files.info).items():
        image = None if features is None else features.select(part["id"].to_numpy())
        tables[split] = records.make_table(path, part, column, "regression", image)
    others = sorted(set(rows["split"]) - set(files.info.splits))
    notes = [f"Rows of split {name!r} are not used: {int((rows['split'] == name).sum()):,}." for name in others]
    return Content(tables, notes=tuple(notes))


def read_dhs(files: Archive) -> Content:
    """SustainBench: one row per DHS cluster; the image input is the mean night light; groups are countries."""
    column = files.info.key.removeprefix("sustainbench_") + "_normalized"
    read = []
    notes = [
        f"Night lights before {VIIRS_FROM_YEAR} come from DMSP, later ones from VIIRS, in different units: "
        "see table.year."
    ]
    for split in files.info.splits:
        path = files.path(f"dhs_{split}_labels.csv")
        rows = records.read_csv(path, "DHSID_EA", "year", "lat", "lon", "nl_mean", column)
        labelled = rows[rows[column].notna()]
        if labelled.empty:
            raise TaskDataError(f"{path}: {column} is NaN in every row, there is nothing to predict")
        if len(labelled) < len(rows):
            lost = f"{len(rows) - len(labelled):,} of {len(rows):,} clusters"
            notes.append(f"{split}: {lost} have no {column} and are no rows of this task.")
        read.append(labelled.assign(path=path, split=split, id=labelled.index))
    whole = pd.concat(read)
    whole["group"], countries = pd.factorize(whole["DHSID_EA"].astype(str).str[:2], sort=True)
    tables = {}
    for (split, path), rows in whole.groupby(["split", "path"]):
        lights = None if files.image == "none" else rows[["nl_mean"]].to_numpy()
        tables[split] = records.make_table(path, rows, column, "regression", lights)
    return Content(tables, groups=tuple(countries), notes=tuple(notes))


READERS: dict[str, Callable[[Archive], Content]] = {
    "birds": read_birds,
    "inat": read_coco,
    "fmow": read_coco,
    "yfcc": read_yfcc,
    "mosaiks": read_mosaiks,
    "dhs": read_dhs,
}
"""Family of `DatasetInfo` -> its reader."""


def _by_split(path: Path, rows: pd.DataFrame, info: DatasetInfo) -> dict[str, pd.DataFrame]:
    """Rows of each split the benchmark uses, with their numbers in the file as ``id``; a split may not be empty, a row
    must be in one."""
    nowhere = rows["split"].isna()
    if nowhere.any():
        first, count = int(nowhere.idxmax()), int(nowhere.sum())
        raise TaskDataError(f"{path}: {count:,} rows name no split, the first is row {first}; download it again")
    numbered = rows.assign(id=range(len(rows)))
    parts = {split: numbered[rows["split"] == split] for split in info.splits}
    empty = [split for split, part in parts.items() if part.empty]
    if empty:
        there = ", ".join(f"{name!r} ({count:,} rows)" for name, count in rows["split"].value_counts().items())
        raise TaskDataError(f"{path} has no rows of split {', '.join(map(repr, empty))}; found {there or 'no rows'}")
    return parts
