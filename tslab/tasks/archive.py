"""The unpacked folder of one dataset of the release: where it is, which files it has, which images are wanted.

Which file holds which image input stands in ``data/locbench_files.json``: family, variant of the image model, kind of
input, and for that the model and (for classes) the file.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tslab._files import packaged_json
from tslab.released_files import data_folder
from tslab.tasks.datasets import DatasetInfo
from tslab.tasks.images import ImageInput, LazyRows
from tslab.tasks.meta import ImageKind
from tslab.tasks.records import open_npy, read_csr

ImageChoice = Literal["default", "probs", "feats", "none"]

IMAGE_FILES: dict[str, dict[str, dict[ImageKind, dict[str, str]]]] = packaged_json("locbench_files.json")
"""Family -> variant -> kind of image input -> its model, and for classes its file without the ending."""

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

    @property
    def image_model(self) -> str:
        """Where the image input comes from."""
        return "" if self.image == "none" else IMAGE_FILES[self.info.family][self.variant][self.image]["model"]

    def path(self, *names: str) -> Path:
        """The first of several possible files that is there.

        Raises:
            FileNotFoundError: none is; lists what the folder holds instead.
        """
        for name in names:
            if (self.folder / name).is_file():
                return self.folder / name
        expected = f"expected {' or '.join(names)} in {self.folder}"
        raise FileNotFoundError(f"{self.info.key}: {expected}, found {_listing(self.folder)}; {HOW_TO_GET}")

    def class_image(self, split: str) -> ImageInput:
        """Predictions or features of one split; None where the release has none, except for the evaluated rows."""
        if self.image == "none":
            return None
        pattern = IMAGE_FILES[self.info.family][self.variant][self.image]["file"]
        name = pattern.format(split=split, stem=self.info.folder.replace("_", ""))
        names = [f"{name}{end}" for end in ("_sparse.npz", ".npy")]
        if split != self.info.eval_split and not any((self.folder / name).is_file() for name in names):
            return None
        found = self.path(*names)
        return read_csr(found) if found.suffix == ".npz" else LazyRows(open_npy(found))


def open_archive(info: DatasetInfo, root: str | os.PathLike[str] | None, image: ImageChoice, variant: str) -> Archive:
    """The folder of a dataset, and the image input that is meant by ``image``.

    Raises:
        FileNotFoundError: no such folder; says what was expected, what was found and how to get it.
        ValueError: an image input that the dataset does not have.
    """
    base, kinds = locbench_root(root), [*IMAGE_FILES[info.family][variant]]
    kind: ImageKind = kinds[0] if image == "default" or (image, kinds) == ("feats", ["scalar"]) else image
    if kind not in (*kinds, "none"):
        raise ValueError(f"{info.key} has no image input {image!r}; it has {', '.join(kinds)}, or choose 'none'")
    folders = [base / parent / info.folder for parent in ("", "data", "geo_prior_data/data")]
    folders += [base] if base.name == info.folder else []
    for folder in folders:
        if folder.is_dir():
            return Archive(info, folder, kind, variant)
    expected = f"expected a folder {info.folder}/ in {base}"
    raise FileNotFoundError(f"{info.key}: {expected}, found {_listing(base)}; {HOW_TO_GET}")


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if not path.name.startswith("."))
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return (", ".join(names[:12]) + more) or "nothing"
