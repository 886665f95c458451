"""Reading the released LocBench archives as they are.

Six families of files, one small reader each, one result: a `Task`. The readers are lazy where it matters (sparse image
predictions stay sparse, large features stay on disk) and strict everywhere: rows are joined by their ids and counted
against each other, and a file that is not what was documented is refused with what was expected and what was found. No
row is dropped to make things fit. Two rules of the release itself decide what a row is:

- birds list images that were never found (``valid_image`` false); predictions exist only for the others, so only those
  are rows;
- SustainBench rows without the label of a task are no examples of that task.

`training_mask` gives the filter that the reference applies before training. `tslab.tasks.verification` compares what
was read with the published facts.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from tslab._checks import check_choice, check_number
from tslab.coords import CoordinateError
from tslab.released_files import data_folder
from tslab.tasks.arrays import open_npy, read_csr
from tslab.tasks.datasets import LOCBENCH_CITATION, TORCHSPATIAL_TERMS, DatasetInfo, dataset_info
from tslab.tasks.splits import random_split
from tslab.tasks.task import ImageInput, ImageKind, LazyRows, Table, Task, TaskDataError, TaskMeta

ImageChoice = Literal["default", "probs", "feats", "none"]

HOW_TO_GET = (
    "download it with `python data_scripts/fetch_locbench.py`, or pass root= (or set TSLAB_LOCBENCH to) the "
    "folder that holds birdsnap/, inat_2018/, mosaiks/ and so on; source='synthetic' needs no download"
)

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
    check_choice(
        "variant", variant, ("standard", "high_res", "pretrain") if info.family == "inat" else ("standard",)
    )
    if fraction is not None:
        check_number("fraction", fraction, above=0, at_most=1)
    files = Archive(info, _dataset_folder(info, root))
    choice = _image_choice(info, image)
    content = READERS[info.family](files, choice, variant)
    test = content.tables[info.eval_split]
    train = content.tables[info.train_split]
    val = content.tables[info.val_split] if info.val_split else train.where(torch.zeros(0, dtype=torch.int64))
    nowhere = [
        split for split, table in content.tables.items() if len(table) and not table.has_location.any()
    ]
    if nowhere:
        raise TaskDataError(
            f"{name}: not one row of {', '.join(nowhere)} has a location, so the files in {files.folder} do not have "
            "the names or columns that are documented; download the dataset again"
        )
    notes = list(content.notes)
    if fraction is not None:
        train, test = (table.where(_sample(len(table), fraction, seed)) for table in (train, test))
        notes.append(
            f"A seeded sample of {fraction:g} of the training and of the evaluated rows (seed {seed})."
        )
    meta = TaskMeta(
        kind=info.kind,
        classes=content.classes,
        groups=content.groups,
        label_name=info.label_name,
        label_unit=info.label_unit,
        label_transform=info.label_transform,
        image_kind=choice,
        image_model=content.image_model,
        eval_split=info.eval_split,
        licence=f"{info.licence}. {TORCHSPATIAL_TERMS}",
        citation=f"{LOCBENCH_CITATION}; {info.citation}",
        source="locbench",
        notes=tuple(notes),
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


@dataclass(frozen=True)
class Archive:
    """The unpacked folder of one dataset."""

    info: DatasetInfo
    folder: Path

    def path(self, *names: str) -> Path:
        """The first of several possible files that is there.

        Raises:
            FileNotFoundError: none is; lists what the folder holds instead.
        """
        for name in names:
            if (self.folder / name).is_file():
                return self.folder / name
        raise FileNotFoundError(
            f"{self.info.key}: expected {' or '.join(names)} in {self.folder}, found "
            f"{_listing(self.folder)}; {HOW_TO_GET}"
        )

    def optional(self, name: str) -> Path | None:
        """A file that the release may lack."""
        return self.folder / name if (self.folder / name).is_file() else None


def read_birds(files: Archive, image: ImageKind, variant: str) -> Content:
    """BirdSnap and NABirds: one JSON with both kinds of metadata, predictions for rows with ``valid_image``."""
    info = files.info
    stem = info.folder
    meta = "orig_meta" if info.key == "birdsnap" else "ebird_meta"
    path = files.path(f"{stem}_with_loc_2019.json")
    whole = read_json(path)
    _expect_keys(path, whole, ["train", "test", "classes"])
    if not isinstance(whole["classes"], list):
        raise TaskDataError(f"{path}: classes must be a list of names; download it again")
    notes, tables = [], {}
    for split in info.splits:
        rows = whole.get(split, whole.get("valid") if split == "val" else None)
        if rows is None:
            raise TaskDataError(f"{path} has no split {split!r}, it has {', '.join(map(str, whole))}")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise TaskDataError(
                f"{path}: {split} must be a list of objects, one per image; download it again"
            )
        listed, rows = len(rows), [row for row in rows if row.get("valid_image")]
        if len(rows) < listed:
            notes.append(
                f"{split}: {listed - len(rows):,} of {listed:,} listed images were never found and are no rows."
            )
        for number, row in enumerate(rows):
            if not isinstance(row.get(meta), dict) or "class_id" not in row:
                raise TaskDataError(
                    f"{path}: {split} entry {number} has no class_id or no {meta}; found {sorted(row)}"
                )
        about = [row[meta] for row in rows]
        tables[split] = _table(
            path,
            lon=[a.get("lon") for a in about],
            lat=[a.get("lat") for a in about],
            target=_id_array(path, rows, "class_id"),
            user=[a.get("user_id") for a in about],
            date=[a.get("date") for a in about],
            image=_class_image(files, split, image, f"features_inception/{stem}", "net_feats"),
        )
    model = "InceptionV3 fine-tuned on the training images" if image == "probs" else "InceptionV3 features"
    return Content(tables, tuple(map(str, whole["classes"])), image_model=model, notes=tuple(notes))


def read_inat(files: Archive, image: ImageKind, variant: str) -> Content:
    """iNat2017 and iNat2018: COCO-like annotations in image order, locations joined by image id."""
    year = files.info.folder[-4:]
    path = files.path(f"categories{year}.json")
    names = _class_names(path, ((entry["id"], entry["name"]) for entry in _entries(path, ("id", "name"))))
    stem, kind = f"features_inception/inat{year}", "net_feats"
    if variant == "high_res":
        stem = f"features_inception_hr/inat{year}"
    elif variant == "pretrain":
        stem, kind = f"features_inception_pretrain/inat{year}", "pretrain_net_feats"
    tables = {
        split: read_coco_with_locations(
            files.path(f"{split}{year}.json"),
            files.path(f"{split}{year}_locations.json"),
            lambda split=split: _class_image(files, split, image, stem, kind),  # type: ignore[misc]
        )
        for split in files.info.splits
    }
    return Content(
        tables, names, image_model=f"InceptionV3, {variant.replace('_', ' ')}", notes=_absent(tables, image)
    )


def read_fmow(files: Archive, image: ImageKind, variant: str) -> Content:
    """fMoW: as iNat, class numbers by name, dense predictions for the evaluated split only."""
    path = files.path("category.json")
    named = read_json(path)
    if not isinstance(named, dict) or not all(isinstance(number, int) for number in named.values()):
        raise TaskDataError(
            f"{path}: expected an object from class name to class number, found {type(named).__name__}"
        )
    names = _class_names(path, ((number, name) for name, number in named.items()))
    stem = "features_inception_pretrain/fmow" if image == "feats" else "feature_moco/fmow"
    tables = {
        split: read_coco_with_locations(
            files.path(f"{split}.json"),
            files.path(f"{split}_location.json", f"{split}_locations.json"),
            lambda split=split: _class_image(files, split, image, stem, "pretrain_net_feats"),  # type: ignore[misc]
        )
        for split in files.info.splits
    }
    return Content(tables, names, image_model="MoCo-v2+TP", notes=_absent(tables, image))


def read_yfcc(files: Archive, image: ImageKind, variant: str) -> Content:
    """YFCC: one CSV with a split column, class names in another, dense predictions."""
    path = files.path("class_names.csv")
    listed = read_csv(path, ["id", "name"])
    names = _class_names(path, zip(listed["id"].tolist(), listed["name"].tolist(), strict=True))
    path = files.path("train_test_split.csv")
    rows = read_csv(path, ["lat", "lon", "split", "class"], numeric=["lat", "lon", "class"])
    tables = {}
    for split, chosen in _by_split(path, rows, files.info).items():
        tables[split] = _table(
            path,
            lon=chosen["lon"].tolist(),
            lat=chosen["lat"].tolist(),
            target=_integers(path, chosen["class"]),
            id=chosen.index.to_numpy(),
            image=_class_image(files, split, image, "features_inception/YFCC", "net_feats"),
        )
    return Content(tables, names, image_model="InceptionV3", notes=_absent(tables, image))


def read_mosaiks(files: Archive, image: ImageKind, variant: str) -> Content:
    """MOSAIKS: a CSV of labels and an array of features whose rows are the rows of the CSV."""
    label = files.info.key.removeprefix("mosaiks_")
    short = label.split("_")[0]
    path = files.path(f"Y_{short}.csv", f"Y_{label}.csv")
    rows = read_csv(path, ["lon", "lat", "split"], numeric=["lon", "lat"])
    column = next((name for name in (short, label) if name in rows), None)
    if column is None:
        raise TaskDataError(f"{path} has no column {short!r}, it has {', '.join(map(str, rows.columns))}")
    _expect_numbers(path, rows, [column])
    empty = rows[column].isna()
    if empty.any():
        raise TaskDataError(
            f"{path}: {int(empty.sum())} rows have no label ({column} is NaN), the first is row {int(empty.idxmax())}; "
            "the release has a label in every row, download the file again"
        )
    features = None
    if image == "feats":
        source = files.path(f"X_{short}.npy", f"X_{label}.npy")
        features = LazyRows(open_npy(source))
        if len(features) != len(rows):
            raise TaskDataError(
                f"{source.name} has {len(features):,} rows but {path.name} has {len(rows):,}: row i of one belongs to "
                "row i of the other, so one of them is incomplete; download both again"
            )
    tables = {}
    for split, chosen in _by_split(path, rows, files.info).items():
        tables[split] = _table(
            path,
            lon=chosen["lon"].tolist(),
            lat=chosen["lat"].tolist(),
            target=chosen[column].to_numpy(np.float32),
            id=chosen.index.to_numpy(),
            image=None if features is None else features.select(chosen.index.to_numpy()),
        )
    others = sorted(set(rows["split"]) - set(files.info.splits))
    notes = [
        f"Rows of split {name!r} are not used: {int((rows['split'] == name).sum()):,}." for name in others
    ]
    return Content(tables, image_model="convolutional features (network not documented)", notes=tuple(notes))


def read_dhs(files: Archive, image: ImageKind, variant: str) -> Content:
    """SustainBench: one row per DHS cluster; the image input is the mean night light; groups are countries."""
    column = files.info.key.removeprefix("sustainbench_") + "_normalized"
    read: dict[str, pd.DataFrame] = {}
    notes = []
    for split in files.info.splits:
        path = files.path(f"dhs_{split}_labels.csv")
        rows = read_csv(path, ["DHSID_EA", "year", "lat", "lon", "nl_mean", column])
        _expect_numbers(path, rows, ["year", "lat", "lon", "nl_mean", column])
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
        path = files.folder / f"dhs_{split}_labels.csv"
        tables[split] = _table(
            path,
            lon=rows["lon"].tolist(),
            lat=rows["lat"].tolist(),
            target=rows[column].to_numpy(np.float32),
            id=rows.index.to_numpy(),
            group=codes.get_indexer(rows["DHSID_EA"].astype(str).str[:2]).astype(np.int64),
            year=_integers(path, rows["year"].fillna(-1)),
            image=None
            if image == "none"
            else torch.from_numpy(rows["nl_mean"].to_numpy(np.float32))[:, None],
        )
    notes.append(
        f"Night lights before {VIIRS_FROM_YEAR} come from DMSP, later ones from VIIRS, in different units: "
        "see table.year."
    )
    return Content(
        tables, groups=tuple(codes), image_model="mean night light around the cluster", notes=tuple(notes)
    )


READERS: dict[str, Callable[[Archive, ImageKind, str], Content]] = {
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
    _expect_keys(annotations, whole, ["images", "annotations"])
    ids = _id_array(annotations, whole["images"], "id")
    labelled = _id_array(annotations, whole["annotations"], "image_id")
    classes = _id_array(annotations, whole["annotations"], "category_id")
    del whole
    entries = _entries(locations, ("id", "lon", "lat", "user_id", "date_c"))
    located = _id_array(locations, entries, "id")
    columns = {name: [entry.get(name) for entry in entries] for name in ("lon", "lat", "user_id", "date_c")}
    del entries
    place = _join(ids, located, "images", annotations, "locations", locations)
    lon, lat = (_floats(columns[name])[place] for name in ("lon", "lat"))
    return _table(
        locations,
        lon=lon,
        lat=lat,
        target=classes[_join(ids, labelled, "images", annotations, "annotations", annotations)],
        user=_users(columns["user_id"])[place],
        date=_floats(columns["date_c"])[place],
        id=ids,
        image=image(),
    )


def read_json(path: Path, keep: Iterable[str] | None = None) -> Any:
    """A JSON file; of every object only the keys in ``keep`` (all if None), which saves most of the memory.

    Raises:
        TaskDataError: truncated or no JSON.
    """
    hook = None
    if keep is not None:
        wanted = frozenset(keep)

        def hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            return {key: value for key, value in pairs if key in wanted}

    try:
        with path.open("rb") as stream:
            return json.load(stream, object_pairs_hook=hook)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TaskDataError(f"{path} is truncated or not JSON ({error}); download it again") from error


def read_csv(path: Path, columns: list[str], numeric: Iterable[str] = ()) -> pd.DataFrame:
    """A CSV that must have ``columns``, of which ``numeric`` must be numbers; all columns are read.

    Raises:
        TaskDataError: truncated, missing columns, text in place of numbers.
    """
    try:
        rows = pd.read_csv(path, low_memory=False)
    except (ValueError, UnicodeDecodeError) as error:
        raise TaskDataError(f"{path} is not a readable CSV ({error}); download it again") from error
    if len(rows) and pd.isna(rows.iloc[-1, -1]) and not _ends_with_newline(path):
        raise TaskDataError(
            f"{path} is truncated: it ends in the middle of row {len(rows) - 1}; download it again"
        )
    missing = [name for name in columns if name not in rows]
    if missing:
        raise TaskDataError(
            f"{path}: expected columns {', '.join(columns)}; {', '.join(missing)} missing, found "
            f"{', '.join(map(str, rows.columns))}"
        )
    _expect_numbers(path, rows, numeric)
    return rows


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - 1))
        return stream.read(1) in (b"\n", b"\r")


def locbench_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Where the unpacked archive is looked for: ``root``, ``TSLAB_LOCBENCH``, ``locbench`` in tslab's cache folder."""
    return Path(root or os.environ.get("TSLAB_LOCBENCH") or data_folder() / "locbench").expanduser()


def _dataset_folder(info: DatasetInfo, root: str | os.PathLike[str] | None) -> Path:
    base = locbench_root(root)
    for folder in (
        base / info.folder,
        base / "data" / info.folder,
        base / "geo_prior_data" / "data" / info.folder,
    ):
        if folder.is_dir():
            return folder
    if base.name == info.folder and base.is_dir():
        return base
    raise FileNotFoundError(
        f"{info.key}: expected a folder {info.folder}/ in {base}, found {_listing(base)}; {HOW_TO_GET}"
    )


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    names = sorted(
        path.name + "/" * path.is_dir() for path in folder.iterdir() if not path.name.startswith(".")
    )
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return (", ".join(names[:12]) + more) or "nothing"


def _image_choice(info: DatasetInfo, image: ImageChoice) -> ImageKind:
    special: dict[str, tuple[ImageKind, ...]] = {"mosaiks": ("feats",), "dhs": ("scalar",)}
    possible = special.get(info.family, ("probs", "feats"))
    if image == "default":
        return possible[0]
    if image == "none":
        return "none"
    if image == "feats" and info.family == "dhs":
        return "scalar"
    if image not in possible:
        raise ValueError(
            f"{info.key} has no image input {image!r}; it has {', '.join(possible)}, or choose 'none'"
        )
    return image


def _class_image(files: Archive, split: str, image: ImageKind, stem: str, features: str) -> ImageInput:
    """Predictions or features of one split; None where the release has none, except for the evaluated rows."""
    if image == "none":
        return None
    names = [f"{stem}_{split}_{features}.npy"]
    if image == "probs":
        names = [f"{stem}_{split}_preds_sparse.npz", f"{stem}_{split}_preds.npy"]
    found = next((path for path in map(files.optional, names) if path), None)
    if found is None:
        if split == files.info.eval_split:
            files.path(*names)  # raises, saying what is there
        return None
    return read_csr(found) if found.suffix == ".npz" else LazyRows(open_npy(found))


def _absent(tables: Mapping[str, Table], image: ImageKind) -> tuple[str, ...]:
    if image == "none":
        return ()
    return tuple(
        f"{split}: no image input among the files." for split, table in tables.items() if table.image is None
    )


def _table(
    path: Path,
    *,
    lon: Any,
    lat: Any,
    target: NDArray[Any],
    user: Any = None,
    date: Any = None,
    image: ImageInput = None,
    **extra: NDArray[Any],
) -> Table:
    """A table from columns as they were read; None becomes NaN, a place with one coordinate missing is missing."""
    try:
        lonlat = np.stack([_floats(lon), _floats(lat)], axis=1)
        lonlat[np.isnan(lonlat).any(axis=1)] = np.nan
        columns: dict[str, Any] = {
            name: torch.from_numpy(np.array(values, dtype=np.int64)) for name, values in extra.items()
        }
        if user is not None:
            columns["user"] = torch.from_numpy(_users(user))
        if date is not None:
            columns["date"] = torch.from_numpy(_floats(date).astype(np.float32))
        return Table(
            torch.from_numpy(lonlat.astype(np.float32)),
            torch.from_numpy(np.array(target)),
            image=image,
            **columns,
        )
    except CoordinateError as error:
        raise CoordinateError(f"{path}: {error}") from error
    except TaskDataError as error:
        raise TaskDataError(f"{path}: {error}") from error


def _floats(values: Any) -> NDArray[np.float64]:
    """Numbers with None for missing, as float64 with NaN."""
    if isinstance(values, np.ndarray):
        return values.astype(np.float64)
    try:
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise TaskDataError(
            f"a coordinate or date is no number ({error}); download the file again"
        ) from error


def _users(values: Any) -> NDArray[np.int64]:
    """User numbers with -1 for missing."""
    if isinstance(values, np.ndarray):
        return values.astype(np.int64)
    try:
        return np.array(
            [-1 if value is None or value != value else int(value) for value in values], dtype=np.int64
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise TaskDataError(f"a user is no number ({error}); download the file again") from error


def _integers(path: Path, column: pd.Series) -> NDArray[np.int64]:
    if column.isna().any() or (column % 1 != 0).any():
        raise TaskDataError(
            f"{path}: column {column.name} must hold whole numbers in every row (one is missing or has a fraction)"
        )
    return column.to_numpy(np.int64)


def _entries(path: Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """A JSON list of objects, reduced to ``keys``; the first of them must be there."""
    entries = read_json(path, keep=keys)
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and keys[0] in entry for entry in entries
    ):
        raise TaskDataError(
            f"{path}: expected a list of objects with {', '.join(keys)}, found something else"
        )
    return entries


def _id_array(path: Path, entries: list[dict[str, Any]], key: str) -> NDArray[np.int64]:
    try:
        return np.array([int(entry[key]) for entry in entries], dtype=np.int64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise TaskDataError(f"{path}: an entry has no whole number {key!r} ({error!r})") from error


def _join(
    wanted: NDArray[np.int64], found: NDArray[np.int64], what: str, where: Path, other: str, source: Path
) -> NDArray[np.int64]:
    """Position in ``found`` of each id in ``wanted``; every id must be there exactly once."""
    order = np.argsort(found, kind="stable")
    sorted_ids = found[order]
    if len(sorted_ids) > 1 and (sorted_ids[1:] == sorted_ids[:-1]).any():
        twice = int(sorted_ids[1:][sorted_ids[1:] == sorted_ids[:-1]][0])
        raise TaskDataError(f"{source}: id {twice} occurs more than once among the {other}")
    at = np.searchsorted(sorted_ids, wanted)
    missing = at >= len(sorted_ids)
    missing[~missing] = sorted_ids[at[~missing]] != wanted[~missing]
    if missing.any():
        first = int(wanted[np.argmax(missing)])
        raise TaskDataError(
            f"{int(missing.sum()):,} of {len(wanted):,} {what} in {where.name} have no entry among the {other} of "
            f"{source.name} (the first is id {first}): the files do not belong together"
        )
    return order[at]


def _class_names(path: Path, numbered: Iterable[tuple[Any, Any]]) -> tuple[str, ...]:
    """Class names ordered by number, which must run from 0 without gaps."""
    try:
        names = {int(number): str(name) for number, name in numbered}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise TaskDataError(
            f"{path}: a class has no name, or no whole number ({error!r}); download it again"
        ) from error
    if sorted(names) != list(range(len(names))):
        raise TaskDataError(
            f"{path}: class numbers must be 0 to {len(names) - 1}, "
            f"found {min(names, default=0)} to {max(names, default=0)}"
        )
    return tuple(names[number] for number in range(len(names)))


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
        there = ", ".join(
            f"{name!r} ({count:,} rows)" for name, count in rows["split"].value_counts().items()
        )
        raise TaskDataError(
            f"{path} has no rows of split {', '.join(map(repr, empty))}; found {there or 'no rows'}"
        )
    return parts


def _expect_keys(path: Path, whole: Any, keys: list[str]) -> None:
    if not isinstance(whole, dict) or any(key not in whole for key in keys):
        found = sorted(whole) if isinstance(whole, dict) else type(whole).__name__
        raise TaskDataError(f"{path}: expected an object with {', '.join(keys)}, found {found}")


def _expect_numbers(path: Path, rows: pd.DataFrame, columns: Iterable[str]) -> None:
    text = [name for name in columns if not pd.api.types.is_numeric_dtype(rows[name])]
    if text:
        raise TaskDataError(
            f"{path}: column {', '.join(text)} holds text where numbers belong; download it again"
        )


def _sample(n: int, fraction: float, seed: int) -> Tensor:
    return random_split(n, (fraction, 1 - fraction), seed=seed)[0]
