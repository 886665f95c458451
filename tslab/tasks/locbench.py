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
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from tslab._checks import check_choice, check_number
from tslab.tasks.archive import Archive, ImageChoice, open_archive
from tslab.tasks.arrays import open_npy
from tslab.tasks.columns import TaskDataError
from tslab.tasks.datasets import TORCHSPATIAL_TERMS, DatasetInfo, dataset_info
from tslab.tasks.images import ImageInput, LazyRows
from tslab.tasks.records import (
    class_names,
    expect_keys,
    expect_numbers,
    floats,
    join,
    make_table,
    read_csv,
    read_entries,
    read_json,
    users,
    whole_column,
    whole_numbers,
)
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
    check_choice("variant", variant, INAT_IMAGES if info.family == "inat" else ("standard",))
    if fraction is not None:
        check_number("fraction", fraction, above=0, at_most=1)
    files = open_archive(info, root, image, variant)
    content = READERS[info.family](files)
    test = content.tables[info.eval_split]
    train = content.tables[info.train_split]
    val = content.tables[info.val_split] if info.val_split else train.where(torch.zeros(0, dtype=torch.int64))
    nowhere = [split for split, t in content.tables.items() if len(t) and not t.has_location.any()]
    if nowhere:
        raise TaskDataError(
            f"{name}: not one row of {', '.join(nowhere)} has a location, so the files in {files.folder} do not have "
            "the names or columns that are documented; download the dataset again"
        )
    notes = content.notes
    if fraction is not None:
        shares = (fraction, 1 - fraction)
        train, test = (table.where(random_split(len(table), shares, seed=seed)[0]) for table in (train, test))
        notes += (f"A seeded sample of {fraction:g} of the training and of the evaluated rows (seed {seed}).",)
    meta = info.task_meta(
        "locbench",
        classes=content.classes,
        groups=content.groups,
        image_kind=files.image,
        image_model=content.image_model,
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
    image_model: str = ""
    notes: tuple[str, ...] = ()


def read_birds(files: Archive) -> Content:
    """BirdSnap and NABirds: one JSON with both kinds of metadata, predictions for rows with ``valid_image``."""
    info, stem = files.info, files.info.folder
    meta = "orig_meta" if info.key == "birdsnap" else "ebird_meta"
    path = files.path(f"{stem}_with_loc_2019.json")
    whole = read_json(path)
    expect_keys(path, whole, ("train", "test", "classes"))
    if not isinstance(whole["classes"], list):
        raise TaskDataError(f"{path}: classes must be a list of names; download it again")
    notes, tables = [], {}
    for split in info.splits:
        rows = _bird_rows(path, whole, split, meta)
        known = [row for row in rows if row.get("valid_image")]
        if len(known) < len(rows):
            lost = len(rows) - len(known)
            notes.append(f"{split}: {lost:,} of {len(rows):,} listed images were never found and are no rows.")
        about = [row[meta] for row in known]
        tables[split] = make_table(
            path,
            lon=[a.get("lon") for a in about],
            lat=[a.get("lat") for a in about],
            target=whole_numbers(path, known, "class_id"),
            image=files.class_image(split, f"features_inception/{stem}"),
            user=[a.get("user_id") for a in about],
            date=[a.get("date") for a in about],
        )
    model = "InceptionV3 fine-tuned on the training images" if files.image == "probs" else "InceptionV3 features"
    return Content(tables, tuple(map(str, whole["classes"])), image_model=model, notes=tuple(notes))


def _bird_rows(path: Path, whole: Mapping[str, Any], split: str, meta: str) -> list[dict[str, Any]]:
    """The entries of a split; those with an image must have a class and the metadata ``meta``."""
    rows = whole.get(split, whole.get("valid") if split == "val" else None)
    if rows is None:
        raise TaskDataError(f"{path} has no split {split!r}, it has {', '.join(map(str, whole))}")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TaskDataError(f"{path}: {split} must be a list of objects, one per image; download it again")
    for number, row in enumerate(row for row in rows if row.get("valid_image")):
        if not isinstance(row.get(meta), dict) or "class_id" not in row:
            raise TaskDataError(f"{path}: {split} entry {number} has no class_id or no {meta}; found {sorted(row)}")
    return rows


INAT_IMAGES = {
    "standard": ("features_inception", "net_feats"),
    "high_res": ("features_inception_hr", "net_feats"),
    "pretrain": ("features_inception_pretrain", "pretrain_net_feats"),
}
"""Variant of the image model of iNaturalist -> its folder, and how its features are called."""


def read_inat(files: Archive) -> Content:
    """iNat2017 and iNat2018: COCO-like annotations in image order, locations joined by image id."""
    year = files.info.folder[-4:]
    path = files.path(f"categories{year}.json")
    names = class_names(path, ((entry["id"], entry["name"]) for entry in read_entries(path, ("id", "name"))))
    folder, features = INAT_IMAGES[files.variant]
    tables = {
        split: read_coco_with_locations(
            files.path(f"{split}{year}.json"),
            files.path(f"{split}{year}_locations.json"),
            partial(files.class_image, split, f"{folder}/inat{year}", features),
        )
        for split in files.info.splits
    }
    model = f"InceptionV3, {files.variant.replace('_', ' ')}"
    return Content(tables, names, image_model=model, notes=files.without_image(tables))


def read_fmow(files: Archive) -> Content:
    """fMoW: as iNat, class numbers by name, dense predictions for the evaluated split only."""
    path = files.path("category.json")
    named = read_json(path)
    if not isinstance(named, dict) or not all(isinstance(number, int) for number in named.values()):
        raise TaskDataError(f"{path}: expected an object from class name to class number, found {type(named).__name__}")
    names = class_names(path, ((number, name) for name, number in named.items()))
    folder = "features_inception_pretrain" if files.image == "feats" else "feature_moco"
    tables = {
        split: read_coco_with_locations(
            files.path(f"{split}.json"),
            files.path(f"{split}_location.json", f"{split}_locations.json"),
            partial(files.class_image, split, f"{folder}/fmow", "pretrain_net_feats"),
        )
        for split in files.info.splits
    }
    return Content(tables, names, image_model="MoCo-v2+TP", notes=files.without_image(tables))


def read_yfcc(files: Archive) -> Content:
    """YFCC: one CSV with a split column, class names in another, dense predictions."""
    path = files.path("class_names.csv")
    listed = read_csv(path, ["id", "name"])
    names = class_names(path, zip(listed["id"].tolist(), listed["name"].tolist(), strict=True))
    path = files.path("train_test_split.csv")
    rows = read_csv(path, ["lat", "lon", "split", "class"], numeric=["lat", "lon", "class"])
    tables = {}
    for split, part in _by_split(path, rows, files.info).items():
        image = files.class_image(split, "features_inception/YFCC")
        tables[split] = _csv_table(path, part, whole_column(path, part["class"]), image)
    return Content(tables, names, image_model="InceptionV3", notes=files.without_image(tables))


def read_mosaiks(files: Archive) -> Content:
    """MOSAIKS: a CSV of labels and an array of features whose rows are the rows of the CSV."""
    label = files.info.key.removeprefix("mosaiks_")
    short = label.split("_")[0]
    path = files.path(f"Y_{short}.csv", f"Y_{label}.csv")
    rows = read_csv(path, ["lon", "lat", "split"], numeric=["lon", "lat"])
    column = next((name for name in (short, label) if name in rows), None)
    if column is None:
        raise TaskDataError(f"{path} has no column {short!r}, it has {', '.join(map(str, rows.columns))}")
    expect_numbers(path, rows, [column])
    empty = rows[column].isna()
    if empty.any():
        raise TaskDataError(
            f"{path}: {int(empty.sum())} rows have no label ({column} is NaN), the first is row {int(empty.idxmax())}; "
            "the release has a label in every row, download the file again"
        )
    features = None
    if files.image == "feats":
        source = files.path(f"X_{short}.npy", f"X_{label}.npy")
        features = LazyRows(open_npy(source))
        if len(features) != len(rows):
            raise TaskDataError(
                f"{source.name} has {len(features):,} rows but {path.name} has {len(rows):,}: row i of one belongs to "
                "row i of the other, so one of them is incomplete; download both again"
            )
    tables = {}
    for split, part in _by_split(path, rows, files.info).items():
        image = None if features is None else features.select(part.index.to_numpy())
        tables[split] = _csv_table(path, part, part[column].to_numpy(np.float32), image)
    others = sorted(set(rows["split"]) - set(files.info.splits))
    notes = [f"Rows of split {name!r} are not used: {int((rows['split'] == name).sum()):,}." for name in others]
    return Content(tables, image_model="convolutional features (network not documented)", notes=tuple(notes))


def read_dhs(files: Archive) -> Content:
    """SustainBench: one row per DHS cluster; the image input is the mean night light; groups are countries."""
    column = files.info.key.removeprefix("sustainbench_") + "_normalized"
    read: dict[str, pd.DataFrame] = {}
    notes = []
    for split in files.info.splits:
        path = files.path(f"dhs_{split}_labels.csv")
        rows = read_csv(path, ["DHSID_EA", "year", "lat", "lon", "nl_mean", column])
        expect_numbers(path, rows, ["year", "lat", "lon", "nl_mean", column])
        labelled = rows[rows[column].notna()]
        if labelled.empty:
            raise TaskDataError(f"{path}: {column} is NaN in every row, there is nothing to predict")
        if len(labelled) < len(rows):
            notes.append(
                f"{split}: {len(rows) - len(labelled):,} of {len(rows):,} clusters have no {column} and are no "
                "rows of this task."
            )
        read[split] = labelled
    codes = pd.Index(sorted({str(key)[:2] for rows in read.values() for key in rows["DHSID_EA"]}))
    tables = {}
    for split, rows in read.items():
        path = files.path(f"dhs_{split}_labels.csv")
        lights = torch.from_numpy(rows["nl_mean"].to_numpy(np.float32))[:, None]
        tables[split] = _csv_table(
            path,
            rows,
            rows[column].to_numpy(np.float32),
            None if files.image == "none" else lights,
            group=codes.get_indexer(rows["DHSID_EA"].astype(str).str[:2]),
            year=whole_column(path, rows["year"].fillna(-1)),
        )
    notes.append(
        f"Night lights before {VIIRS_FROM_YEAR} come from DMSP, later ones from VIIRS, in different units: "
        "see table.year."
    )
    return Content(tables, groups=tuple(codes), image_model="mean night light around the cluster", notes=tuple(notes))


READERS: dict[str, Callable[[Archive], Content]] = {
    "birds": read_birds,
    "inat": read_inat,
    "fmow": read_fmow,
    "yfcc": read_yfcc,
    "mosaiks": read_mosaiks,
    "dhs": read_dhs,
}
"""Family of `DatasetInfo` -> its reader."""


def read_coco_with_locations(annotations: Path, locations: Path, image: Callable[[], ImageInput]) -> Table:
    """Rows in the order of ``images`` of a COCO-like file, with class and location joined by image id.

    Raises:
        TaskDataError: an image without annotation or location entry, or listed twice.
    """
    whole = read_json(annotations, keep=("images", "annotations", "id", "image_id", "category_id"))
    expect_keys(annotations, whole, ("images", "annotations"))
    ids = whole_numbers(annotations, whole["images"], "id")
    labelled = whole_numbers(annotations, whole["annotations"], "image_id")
    classes = whole_numbers(annotations, whole["annotations"], "category_id")
    del whole
    entries = read_entries(locations, ("id", "lon", "lat", "user_id", "date_c"))
    located = whole_numbers(locations, entries, "id")
    columns = {name: [entry.get(name) for entry in entries] for name in ("lon", "lat", "user_id", "date_c")}
    del entries
    place = join(ids, located, "images", annotations, "locations", locations)
    lon, lat = (floats(columns[name])[place] for name in ("lon", "lat"))
    return make_table(
        locations,
        lon=lon,
        lat=lat,
        target=classes[join(ids, labelled, "images", annotations, "annotations", annotations)],
        user=users(columns["user_id"])[place],
        date=floats(columns["date_c"])[place],
        id=ids,
        image=image(),
    )


def _csv_table(
    path: Path, rows: pd.DataFrame, target: np.ndarray[Any, Any], image: ImageInput, **columns: Any
) -> Table:
    """Rows of a CSV as a table; their ids are their numbers in the file."""
    lon, lat = rows["lon"].to_numpy(), rows["lat"].to_numpy()
    return make_table(path, lon, lat, target, image, id=rows.index.to_numpy(), **columns)


def _by_split(path: Path, rows: pd.DataFrame, info: DatasetInfo) -> dict[str, pd.DataFrame]:
    """Rows of each split the benchmark uses; a split of the release may not be empty, a row must be in one."""
    if rows["split"].isna().any():
        raise TaskDataError(
            f"{path}: {int(rows['split'].isna().sum()):,} rows name no split, the first is row "
            f"{int(rows['split'].isna().idxmax())}; download it again"
        )
    parts = {split: rows[rows["split"] == split] for split in info.splits}
    empty = [split for split, part in parts.items() if part.empty]
    if empty:
        there = ", ".join(f"{name!r} ({count:,} rows)" for name, count in rows["split"].value_counts().items())
        raise TaskDataError(f"{path} has no rows of split {', '.join(map(repr, empty))}; found {there or 'no rows'}")
    return parts
