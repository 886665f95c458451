"""The unpacked folder of one dataset of the release: where it is, which files it has, which images are wanted."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tslab.released_files import data_folder
from tslab.tasks.arrays import open_npy, read_csr
from tslab.tasks.datasets import DatasetInfo
from tslab.tasks.images import ImageInput, LazyRows
from tslab.tasks.meta import ImageKind
from tslab.tasks.table import Table

ImageChoice = Literal["default", "probs", "feats", "none"]

HOW_TO_GET = (
    "download it with `python data_scripts/fetch_locbench.py`, or pass root= (or set TSLAB_LOCBENCH to) the "
    "folder that holds birdsnap/, inat_2018/, mosaiks/ and so on; source='synthetic' needs no download"
)


def locbench_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Where the unpacked archive is looked for: ``root``, ``TSLAB_LOCBENCH``, ``locbench`` in tslab's cache folder."""
    return Path(root or os.environ.get("TSLAB_LOCBENCH") or data_folder() / "locbench").expanduser()


@dataclass(frozen=True)
class Archive:
    """The unpacked folder of one dataset, and which image input of it is wanted."""

    info: DatasetInfo
    folder: Path
    image: ImageKind
    variant: str

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

    def class_image(self, split: str, stem: str, features: str = "net_feats") -> ImageInput:
        """Predictions or features of one split; None where the release has none, except for the evaluated rows."""
        if self.image == "none":
            return None
        names = [f"{stem}_{split}_{features}.npy"]
        if self.image == "probs":
            names = [f"{stem}_{split}_preds_sparse.npz", f"{stem}_{split}_preds.npy"]
        if split != self.info.eval_split and not any((self.folder / name).is_file() for name in names):
            return None
        found = self.path(*names)
        return read_csr(found) if found.suffix == ".npz" else LazyRows(open_npy(found))

    def without_image(self, tables: Mapping[str, Table]) -> tuple[str, ...]:
        """Remarks on the splits that have no image input although one is wanted."""
        lacking = [split for split, table in tables.items() if table.image is None and self.image != "none"]
        return tuple(f"{split}: no image input among the files." for split in lacking)


def open_archive(info: DatasetInfo, root: str | os.PathLike[str] | None, image: ImageChoice, variant: str) -> Archive:
    """The folder of a dataset, and the image input that is meant by ``image``.

    Raises:
        FileNotFoundError: no such folder; says what was expected, what was found and how to get it.
        ValueError: an image input that the dataset does not have.
    """
    return Archive(info, _dataset_folder(info, root), _image_kind(info, image), variant)


def _dataset_folder(info: DatasetInfo, root: str | os.PathLike[str] | None) -> Path:
    base = locbench_root(root)
    for folder in (base / info.folder, base / "data" / info.folder, base / "geo_prior_data" / "data" / info.folder):
        if folder.is_dir():
            return folder
    if base.name == info.folder and base.is_dir():
        return base
    raise FileNotFoundError(
        f"{info.key}: expected a folder {info.folder}/ in {base}, found {_listing(base)}; {HOW_TO_GET}"
    )


def _image_kind(info: DatasetInfo, image: ImageChoice) -> ImageKind:
    special: dict[str, tuple[ImageKind, ...]] = {"mosaiks": ("feats",), "dhs": ("scalar",)}
    possible = special.get(info.family, ("probs", "feats"))
    if image == "default":
        return possible[0]
    if image == "none":
        return "none"
    if image == "feats" and info.family == "dhs":
        return "scalar"
    if image not in possible:
        raise ValueError(f"{info.key} has no image input {image!r}; it has {', '.join(possible)}, or choose 'none'")
    return image


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if not path.name.startswith("."))
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return (", ".join(names[:12]) + more) or "nothing"
