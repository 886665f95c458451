"""What the released checkpoints say about the encoders in them: small facts, from the files or from a record.

The record holds numbers and shapes only, no weights. Chapters show it to readers without the
released files, and say so.

    python -m tslab_book.released_encoders

writes it again.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from tslab._files import atomic_write
from tslab.benchmark.store import release_stamp
from tslab.coords import sample_sphere
from tslab.encoders.planar import GLOBE, Extent
from tslab.encoders.pretrained import load_released_checkpoint
from tslab.encoders.storage import read_torch_file
from tslab.released_files import HOW_TO_GET, ReleasedFilesMissingError, released_root
from tslab_book import RESULTS
from tslab_book.records import Record, recompute_or_read

RECORD = RESULTS / "released_encoders.json"

CHECKPOINTS = {
    "tile": "tile/model_fmow_tile_ffn_inception_v3_0.00182000_32_0.0000026_1_512_leakyrelu.pth.tar",
    "wrap_ffn": "wrap_ffn/model_yfcc_wrap_ffn_inception_v3_0.0020_64_0.0005000_1_512.pth.tar",
    "rbf": "rbf/model_yfcc_rbf_inception_v3_0.0010_64_0.0005000_1_512_200_2.0.pth.tar",
    "rff_fmow": "rff/model_fmow_rff_inception_v3_0.0050_64_0.0000010_1_512_2.0.pth.tar",
    "rff_yfcc": "rff/model_yfcc_rff_inception_v3_0.0010_64_0.0000010_1_512_1.0.pth.tar",
    "nerf": "nerf/model_fmow_NeRF_inception_v3_0.0100_64_0.0500000_1_256.pth.tar",
}
"""The checkpoints that the facts are read from, below ``pre_trained_models/``."""


def released_encoder_facts(root: str | os.PathLike[str] | None = None) -> Record:
    """Facts by encoder.

    Recomputed if the checkpoints are on this machine (``root``, else ``TSLAB_MIRROR``, else the cache folder), else
    read from the committed record.
    """
    return recompute_or_read(RECORD, lambda: compute_facts(root), lambda record: record["facts"])


def write_released_encoder_facts(
    path: str | os.PathLike[str] = RECORD, root: str | os.PathLike[str] | None = None
) -> None:
    """Recompute the facts and write the record to ``path``.

    Raises:
        tslab.released_files.ReleasedFilesMissingError: the checkpoints are not on this machine.
    """
    record = {**release_stamp(), "files": CHECKPOINTS, "facts": compute_facts(root)}
    atomic_write(path, json.dumps(record, indent=1) + "\n")


def compute_facts(root: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """The facts, from the checkpoints on this machine.

    Raises:
        tslab.released_files.ReleasedFilesMissingError: they are not here.
    """
    folder = checkpoint_folder(CHECKPOINTS.values(), root)
    paths = {name: folder / path for name, path in CHECKPOINTS.items()}
    stored = {name: read_torch_file(path) for name, path in paths.items()}
    options = {name: checkpoint["params"] for name, checkpoint in stored.items()}
    places = sample_sphere(1000, generator=torch.Generator().manual_seed(0))
    lon = torch.linspace(-180, 175, 72)
    poles = [torch.stack([lon, torch.full_like(lon, pole)], dim=-1) for pole in (90.0, -90.0)]

    tile = load_released_checkpoint(paths["tile"]).predict_proba(places)
    wrap = load_released_checkpoint(paths["wrap_ffn"])
    north, south = (wrap.predict_proba(pole) for pole in poles)
    rbf_names = [name for name in stored["rbf"]["state_dict"] if name.startswith("spa_enc.")]
    anchors = options["rbf"]["rbf_anchor_pt_ids"]
    extents = {name: _extent(options[name]["map_range"]) for name in ("rff_fmow", "rff_yfcc")}
    globe, box = (
        load_released_checkpoint(paths["rff_fmow"], extent=extent).predict_proba(places).argmax(1)
        for extent in (GLOBE, extents["rff_fmow"])
    )
    first_layer = stored["nerf"]["state_dict"]["spa_enc.ffn.layers.0.linear.weight"]
    return {
        "tile": {
            "table_shape": list(stored["tile"]["state_dict"]["spa_enc.position_encoder.embedding.weight"].shape),
            "cell_size_in_name": float(options["tile"]["min_radius"]),
            "places": len(places),
            "largest_difference": float((tile.amax(0) - tile.amin(0)).max()),
        },
        "wrap_ffn": {
            "longitudes": len(lon),
            "classes": north.shape[1],
            "largest_difference": float((north - south).abs().max()),
        },
        "rbf": {
            "stored_tensors": rbf_names,
            "num_anchors": len(anchors),
            "row_numbers": [int(min(anchors)), int(max(anchors))],
        },
        "rff": {
            "extents": {name: list(extent) for name, extent in extents.items()},
            "epochs_of_last_run": {name: int(options[name]["num_epochs"]) for name in extents},
            "places": len(places),
            "same_top_class": float((globe == box).double().mean()),
        },
        "nerf": {"octaves_in_name": int(options["nerf"]["frequency_num"]), "input_width": int(first_layer.shape[1])},
    }


def checkpoint_folder(names: Iterable[str], root: str | os.PathLike[str] | None = None) -> Path:
    """The folder ``pre_trained_models`` of the release, with all checkpoints ``names`` in it.

    Raises:
        tslab.released_files.ReleasedFilesMissingError: one of them is not on this machine.
    """
    folder = released_root(root) / "pre_trained_models"
    for name in names:
        if not (folder / name).is_file():
            raise ReleasedFilesMissingError(f"the checkpoint {name} is not in {folder}; {HOW_TO_GET}")
    return folder


def _extent(values: Any) -> Extent:
    lon_min, lon_max, lat_min, lat_max = (float(value) for value in values)
    return lon_min, lon_max, lat_min, lat_max


if __name__ == "__main__":
    write_released_encoder_facts()
