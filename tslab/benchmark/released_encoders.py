"""What the released checkpoints say about the encoders in them: small facts, recomputed from the files or read from a record.

The record ``book/results/released_encoders.json`` holds numbers and shapes only, no weights. Chapters show it to readers
without the released files, and say so.
"""

import datetime
import json
import os
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tslab._files import atomic_write
from tslab.benchmark.records import find_record
from tslab.coords import sample_sphere
from tslab.encoders import ENCODERS, location_encoder
from tslab.released_files import RELEASE, REPOSITORY, ReleasedFilesMissingError, released_root

RECORD = "released_encoders.json"

CHECKPOINTS = {
    "tile": "tile/model_fmow_tile_ffn_inception_v3_0.00182000_32_0.0000026_1_512_leakyrelu.pth.tar",
    "wrap_ffn": "wrap_ffn/model_yfcc_wrap_ffn_inception_v3_0.0020_64_0.0005000_1_512.pth.tar",
    "rbf": "rbf/model_yfcc_rbf_inception_v3_0.0010_64_0.0005000_1_512_200_2.0.pth.tar",
    "rff_fmow": "rff/model_fmow_rff_inception_v3_0.0050_64_0.0000010_1_512_2.0.pth.tar",
    "rff_yfcc": "rff/model_yfcc_rff_inception_v3_0.0010_64_0.0000010_1_512_1.0.pth.tar",
    "nerf": "nerf/model_fmow_NeRF_inception_v3_0.0100_64_0.0500000_1_256.pth.tar",
}
"""The checkpoints that the facts are read from, below ``pre_trained_models/``."""


def released_encoder_facts(root: str | os.PathLike[str] | None = None) -> tuple[dict[str, Any], str]:
    """Facts by encoder, and a sentence on where they come from.

    Recomputed if the checkpoints are on this machine (``root``, else ``TSLAB_MIRROR``, else the cache folder), else read from the
    committed record.

    Raises:
        FileNotFoundError: there are neither checkpoints nor a record.
    """
    folder = _checkpoint_folder(root)
    if folder is not None:
        return compute_facts(folder), f"Recomputed now from the released checkpoints of {REPOSITORY}."
    record = json.loads(find_record(RECORD).read_text(encoding="utf-8"))
    origin = (
        f"The released checkpoints are not on this machine; this is the committed record, computed on {record['date']} "
        f"from {record['repository']}, commit {record['release'][:10]}."
    )
    return record["facts"], origin


def write_released_encoder_facts(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> None:
    """Recompute the facts and write the record to ``path``.

    Raises:
        FileNotFoundError: the checkpoints are not on this machine.
    """
    folder = _checkpoint_folder(root)
    if folder is None:
        raise FileNotFoundError("the released checkpoints are not on this machine; set TSLAB_MIRROR to a copy of the repository")
    record = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "repository": REPOSITORY,
        "release": RELEASE,
        "files": CHECKPOINTS,
        "facts": compute_facts(folder),
    }
    atomic_write(Path(path), json.dumps(record, indent=1) + "\n")


def compute_facts(folder: Path) -> dict[str, Any]:
    """The facts, from the checkpoints below ``folder`` (``pre_trained_models``)."""
    stored = {name: _load(folder / path) for name, path in CHECKPOINTS.items()}
    places = sample_sphere(1000, generator=torch.Generator().manual_seed(0))
    lon = torch.linspace(-180, 175, 72)
    north, south = (torch.stack([lon, torch.full_like(lon, pole)], dim=-1) for pole in (90.0, -90.0))

    tile = stored["tile"]
    tile_answers = _class_probabilities(tile, "tile", places)
    wrap = stored["wrap_ffn"]
    wrap_answers = [_class_probabilities(wrap, "wrap_ffn", pole) for pole in (north, south)]
    rbf_names = [name for name in stored["rbf"]["state_dict"] if name.startswith("spa_enc.")]
    anchors = stored["rbf"]["params"]["rbf_anchor_pt_ids"]
    extents = {name: [float(v) for v in stored[name]["params"]["map_range"]] for name in ("rff_fmow", "rff_yfcc")}
    whole = (-180.0, 180.0, -90.0, 90.0)
    rff = [_class_probabilities(stored["rff_fmow"], "rff", places, extent) for extent in (whole, extents["rff_fmow"])]
    first_layer = stored["nerf"]["state_dict"]["spa_enc.ffn.layers.0.linear.weight"]
    return {
        "tile": {
            "table_shape": list(tile["state_dict"]["spa_enc.position_encoder.embedding.weight"].shape),
            "cell_size_in_name": float(tile["params"]["min_radius"]),
            "places": len(places),
            "largest_difference": float((tile_answers.amax(0) - tile_answers.amin(0)).max()),
        },
        "wrap_ffn": {
            "longitudes": len(lon),
            "classes": wrap_answers[0].shape[1],
            "largest_difference": float((wrap_answers[0] - wrap_answers[1]).abs().max()),
        },
        "rbf": {
            "stored_tensors": rbf_names,
            "anchors_stored": any("anchor" in name for name in rbf_names),
            "num_anchors": len(anchors),
            "row_numbers": [int(min(anchors)), int(max(anchors))],
        },
        "rff": {
            "extents": extents,
            "epochs_of_last_run": {name: int(stored[name]["params"]["num_epochs"]) for name in extents},
            "places": len(places),
            "same_top_class": float((rff[0].argmax(1) == rff[1].argmax(1)).double().mean()),
        },
        "nerf": {
            "octaves_in_name": int(stored["nerf"]["params"]["frequency_num"]),
            "input_width": int(first_layer.shape[1]),
        },
    }


def _checkpoint_folder(root: str | os.PathLike[str] | None) -> Path | None:
    try:
        folder = released_root(root) / "pre_trained_models"
    except ReleasedFilesMissingError:
        return None
    return folder if all((folder / path).is_file() for path in CHECKPOINTS.values()) else None


def _load(path: Path) -> dict[str, Any]:
    """A checkpoint, without running any code in it; NumPy integers (row numbers of rbf anchors) are allowed."""
    import numpy as np

    scalar = np._core.multiarray.scalar  # what a pickled NumPy integer is rebuilt with
    allowed: list[Any] = [scalar, np.dtype, *{type(np.dtype(kind)) for kind in (np.int32, np.int64)}]
    with torch.serialization.safe_globals([(scalar, "numpy.core.multiarray.scalar"), *allowed]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _class_probabilities(
    stored: dict[str, Any], key: str, lonlat: Float[Tensor, "n 2"], extent: Any = None
) -> Float[Tensor, "n classes"]:
    """Class probabilities of a checkpoint with the ordinary network at places; ``extent`` for rff."""
    params, weights = stored["params"], stored["state_dict"]
    position: dict[str, Any] = {}
    if key == "rff":
        position = {"num_scales": params["frequency_num"], "extent": tuple(extent)}
    preset = {"preset": "locbench2024"} if "locbench2024" in ENCODERS[key].presets or key == "wrap_ffn" else {}
    encoder = location_encoder(
        key,
        params["num_filts"],
        hidden_dim=params["hidden_dim"],
        num_hidden_layers=params["num_hidden_layer"],
        activation=params["spa_f_act"],
        final_activation=True,
        **preset,
        **position,
    ).eval()
    network = {
        name.removeprefix("spa_enc.ffn.").replace(".layernorm.", ".norm."): value
        for name, value in weights.items()
        if name.startswith("spa_enc.ffn.")
    }
    encoder.network.load_state_dict(network)
    with torch.no_grad():
        if key == "tile":
            encoder.position_encoder.table.copy_(weights["spa_enc.position_encoder.embedding.weight"])  # type: ignore[union-attr,operator]
        if key == "rff":
            encoder.position_encoder.directions.copy_(weights["spa_enc.position_encoder.dirvec"].T)  # type: ignore[union-attr,operator]
            encoder.position_encoder.shift.copy_(weights["spa_enc.position_encoder.shift"])  # type: ignore[union-attr,operator]
        return torch.sigmoid(encoder(lonlat) @ weights["class_emb.weight"].T)
