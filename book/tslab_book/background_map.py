"""Where a released model sees anything at all: the mean probability over classes, mapped.

The released training code draws its background points in one quarter of the globe (`tslab.losses.background_points`,
"north_east"). Nothing outside that quarter and away from the data ever taught the model to say "absent". The chapter
*What the background points do* maps that from the released fMoW checkpoint, or from the record that
``python -m tslab_book.background_map`` writes: 1,800 numbers of cells and their provenance, no weights.
"""

import json
import os
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tslab._files import atomic_write
from tslab.benchmark.store import release_stamp
from tslab.encoders.pretrained import load_released_checkpoint
from tslab_book import RESULTS
from tslab_book.records import Record, recompute_or_read
from tslab_book.released_encoders import checkpoint_folder

CHECKPOINT = "sphere2vec_sphereC/model_fmow_Sphere2Vec-sphereC_inception_v3_0.0050_64_0.0005000_1_512.pth.tar"
"""The checkpoint that is mapped, below ``pre_trained_models/``."""

CELL_DEG = 6
RECORD = RESULTS / "background_points.json"

REGIONS: dict[str, tuple[float, float, float, float]] = {
    "north-west Pacific": (150, 180, 30, 50),
    "Siberian Arctic": (90, 150, 66, 84),
    "Arabian Sea": (60, 72, 6, 18),
    "North Atlantic": (-48, -24, 30, 48),
    "South Pacific": (-150, -102, -48, -24),
    "Southern Ocean": (-180, 180, -66, -54),
}
"""West, east, south, north: boxes with few or no images in them, the first three inside the north-east quarter."""


def mean_presence(
    predict_proba: Callable[[Float[Tensor, "n 2"]], Float[Tensor, "n k"]], cell_deg: int = CELL_DEG
) -> Float[Tensor, "n_lat n_lon"]:
    """Mean over classes of P(class is here | place), averaged over 9 places in each cell of ``cell_deg`` degrees.

    Cells run from 180 W and from 90 S; places lie at 1/6, 3/6 and 5/6 of a cell's width and height.
    """
    step = cell_deg / 3
    lon = torch.arange(-180 + step / 2, 180, step, dtype=torch.float64)
    lat = torch.arange(-90 + step / 2, 90, step, dtype=torch.float64)
    places = torch.stack(torch.meshgrid(lat, lon, indexing="ij")[::-1], dim=-1)
    with torch.inference_mode():
        rows = [predict_proba(row.to(torch.get_default_dtype())).double().mean(1) for row in places]
    fine = torch.stack(rows)
    return fine.reshape(len(lat) // 3, 3, len(lon) // 3, 3).mean(dim=(1, 3))


def region_means(cells: Float[Tensor, "n_lat n_lon"]) -> pd.DataFrame:
    """The mean of a map of `mean_presence` by region of `REGIONS`, cells weighted by area.

    A cell belongs to a region if its centre does. Columns: region, inside (all of it in the north-east quarter), mean.
    """
    n_lat, n_lon = cells.shape
    lon = (torch.arange(n_lon) + 0.5) * 360 / n_lon - 180
    lat = (torch.arange(n_lat) + 0.5) * 180 / n_lat - 90
    area = torch.deg2rad(lat).cos()[:, None].expand_as(cells)
    rows = []
    for name, (west, east, south, north) in REGIONS.items():
        chosen = ((lat > south) & (lat < north))[:, None] & ((lon > west) & (lon < east))[None]
        mean = float((cells * area)[chosen].sum() / area[chosen].sum())
        rows.append({"region": name, "inside": west >= 0 and south >= 0, "mean": mean})
    return pd.DataFrame(rows)


def released_background_map(root: str | os.PathLike[str] | None = None) -> Record:
    """`mean_presence` of the released checkpoint `CHECKPOINT`, as a tensor.

    Recomputed if the checkpoint is on this machine (``root``, else ``TSLAB_MIRROR``, else the cache folder), else read
    from the committed record.
    """
    return recompute_or_read(
        RECORD, lambda: _compute(root), lambda record: torch.tensor(record["mean_presence"], dtype=torch.float64)
    )


def write_record(path: str | os.PathLike[str] = RECORD, root: str | os.PathLike[str] | None = None) -> None:
    """Compute the map and write it, with its provenance, to ``path``.

    Raises:
        tslab.released_files.ReleasedFilesMissingError: the checkpoint is not on this machine.
    """
    cells = [[round(value, 4) for value in row] for row in _compute(root).tolist()]
    record: dict[str, Any] = {
        **release_stamp(),
        "file": CHECKPOINT,
        "what": f"mean over classes of the predicted probability, in cells of {CELL_DEG} degrees, south to north",
    }
    rows = ",\n  ".join(json.dumps(row, separators=(",", ":")) for row in cells)
    head = json.dumps(record, indent=1)[:-2]
    atomic_write(path, f'{head},\n "mean_presence": [\n  {rows}\n ]\n}}\n')


def _compute(root: str | os.PathLike[str] | None) -> Float[Tensor, "n_lat n_lon"]:
    path = checkpoint_folder([CHECKPOINT], root) / CHECKPOINT
    return mean_presence(load_released_checkpoint(path).predict_proba)


if __name__ == "__main__":
    write_record()
