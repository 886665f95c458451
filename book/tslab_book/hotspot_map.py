"""Hot spots of a released model on the map: where images are recognised more or less often than everywhere together.

    python -m tslab_book.hotspot_map

computes Getis and Ord's G* of HIT@1 for `ENCODERS` from the released results and writes cells of equal area into
``book/results/hotspot_map.csv``, with totals and their origin beside it. Only sums of cells with enough images leave
the released files.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from tslab._files import atomic_write
from tslab.benchmark.store import release_stamp
from tslab.geobias import false_discovery, getis_ord, neighbor_graph
from tslab.released import load_released_results
from tslab_book import RESULTS, bias_map
from tslab_book.ruler import deal

RECORD = "hotspot_map.csv"
"""For `tslab_book.records.read_record`: cells by encoder; ``totals`` by encoder beside them."""

DATASET = "fmow"
ENCODERS = ("space2vec_theory", "no_prior")
"""The model that the slides of the paper show, and the image alone."""

RADIUS_KM = 100.0
ALPHA = 0.05
NUM_LON, NUM_LAT = 90, 45
"""Cells of equal area, 4 degrees of longitude wide."""

MIN_IMAGES = 10
"""A cell with fewer images is left out."""


def hotspots(lonlat: torch.Tensor, hits: torch.Tensor) -> tuple[pd.DataFrame, dict[str, float]]:
    """Cells and totals of one model.

    G* compares the hit rate of all images within `RADIUS_KM`, the image itself included, with that of the whole set;
    which images are called hot or cold is decided with control of false discoveries at `ALPHA`.

    Args:
        lonlat: places in degrees, (n, 2); rows without a place take no part.
        hits: 1 or 0 for each row.

    Returns:
        one row for each cell with at least `MIN_IMAGES` images: lon_index, lat_index (of
        `tslab.plot.equal_area_grid`, from 180 W and from the South Pole), images, top1, hot, cold (shares of images);
        and the totals images, top1, hot, cold, and permuted: the share called either after a shuffle of the hits.
    """
    graph = neighbor_graph(lonlat, radius_km=RADIUS_KM, max_neighbors=None)
    located = ~lonlat.isnan().any(1)
    called, side = _called(graph, hits)
    table = pd.DataFrame(lonlat[located].numpy(), columns=["lon", "lat"]).assign(
        top1=hits[located].double().numpy(),
        hot=(called & (side > 0))[located].double().numpy(),
        cold=(called & (side < 0))[located].double().numpy(),
    )
    totals = {"images": len(table)} | {name: float(table[name].mean()) for name in ("top1", "hot", "cold")}
    totals["permuted"] = float(_called(graph, deal(hits, located))[0][located].double().mean())
    grouped = bias_map.by_cell(table, NUM_LON, NUM_LAT)
    cells = grouped.agg(images=("top1", "size"), top1=("top1", "mean"), hot=("hot", "mean"), cold=("cold", "mean"))
    return cells[cells["images"] >= MIN_IMAGES].reset_index(), totals


def released_hotspots(
    encoder: str, root: str | os.PathLike[str] | None = None
) -> tuple[pd.DataFrame, dict[str, float]]:
    """`hotspots` of HIT@1 of a released model on `DATASET`."""
    table = load_released_results(DATASET, encoder, root=root)
    lonlat = torch.from_numpy(table[["lon", "lat"]].to_numpy(dtype=np.float64, copy=True))
    return hotspots(lonlat, torch.from_numpy(table["hit1"].to_numpy(dtype=np.float64, copy=True)))


def as_field(cells: pd.DataFrame) -> NDArray[np.float64]:
    """Share of images in hot spots minus that in cold ones, (NUM_LAT, NUM_LON), NaN where there is no cell."""
    return bias_map.as_field(cells.assign(side=cells["hot"] - cells["cold"]), "side", NUM_LON, NUM_LAT)


def _called(graph: Any, hits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which rows are in a spot, and on which side."""
    spots = getis_ord(graph, hits)
    return false_discovery(spots.p, ALPHA)[0], spots.z.nan_to_num()


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the maps and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, help="the released files; default: TSLAB_MIRROR, then the cache folder")
    parser.add_argument("--out", type=Path, default=RESULTS / RECORD)
    chosen = parser.parse_args(arguments)
    tables, totals = [], {}
    for encoder in ENCODERS:
        cells, totals[encoder] = released_hotspots(encoder, chosen.root)
        cells.insert(0, "encoder", encoder)
        tables.append(cells)
        print(encoder, {name: round(value, 4) for name, value in totals[encoder].items()}, flush=True)
    about = {**release_stamp(), "dataset": DATASET, "radius_km": RADIUS_KM, "alpha": ALPHA, "totals": totals}
    atomic_write(chosen.out, pd.concat(tables).to_csv(index=False, float_format="%.4g", lineterminator="\n"))
    atomic_write(chosen.out.with_suffix(".json"), json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
