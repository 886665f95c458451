"""Geo-bias on the map: what a model's scores say in each cell of the Earth's surface, small enough to keep and to draw.

`bias_map` takes the scores of all centres (`tslab.geobias.summary`) to cells of equal area: how many centres there
are, how many are hits, how surprising they are, and which share lies in a significant cluster of hits or of misses.
`two_nulls` asks which centres a null hypothesis calls, of the hits as they are and of the same hits dealt anew: with
no geography left, a test of the model should call hardly any.

    python -m tslab_book.bias_map

computes the maps of released results into ``book/results/geobias_map.csv``, with a note of when and from what beside
it. Only cell sums leave the released files, and only of cells with enough centres.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tslab._files import atomic_write
from tslab.benchmark.store import release_stamp
from tslab.geobias.aggregate import GeoBiasSummary, false_discovery, local_moran, significance_map, summary
from tslab.geobias.neighbors import NeighborGraph, neighbor_graph
from tslab.geobias.self_information import Null, ssi
from tslab.geobias.torchspatial import released_hits
from tslab.released import load_released_results
from tslab_book import RESULTS
from tslab_book.ruler import deal

RECORD = "geobias_map.csv"
"""For `tslab_book.records.read_record`: the cells of all `PAIRS`, and ``totals`` by ``dataset/encoder`` beside them."""

NUM_LON, NUM_LAT = 72, 36
"""Cells of equal area, 5 degrees of longitude wide: about 560 km by 350 km on the equator."""

RADIUS_KM = 100.0
MAX_NEIGHBORS = 100
ALPHA = 0.05
"""Of the neighbourhoods, and of the significance tests; the record holds them."""

MIN_CENTERS = 10
"""A cell with fewer centres is left out."""

NUM_DEALS = 5
"""How often the hits are dealt out anew."""

PAIRS = tuple(
    (dataset, encoder) for dataset in ("fmow", "inat2018", "yfcc") for encoder in ("no_prior", "sphere2vec_sphereC+")
)
"""Released pairs in the record."""


def bias_map(
    result: GeoBiasSummary,
    hits: NDArray[np.float64],
    *,
    more: Mapping[str, Tensor] | None = None,
    min_centers: int = MIN_CENTERS,
) -> pd.DataFrame:
    """Cells of equal area with at least ``min_centers`` centres, one row each.

    Args:
        result: scores of all samples.
        hits: 1 or 0 for each sample.
        more: further columns, one value for each centre; cells have their mean.

    Returns:
        columns lon_index, lat_index (of `tslab.plot.equal_area_grid`, counted from 180 W and from the South
        Pole), centers, top1 (share of hits), score (mean), significant (share of centres with a significant score),
        hot and cold (shares of centres that are hits in a significant cluster of hits, and misses in one of misses).
    """
    table = centers_table(result, hits)
    located = ~result.scores.lonlat[:, 0].isnan()
    extra = {name: values[located].double().cpu().numpy() for name, values in (more or {}).items()}
    table = table.assign(**extra)
    shares = by_cell(table, NUM_LON, NUM_LAT).agg(
        centers=("hit", "size"),
        top1=("hit", "mean"),
        score=("score", "mean"),
        significant=("significant", "mean"),
        hot=("hot", "mean"),
        cold=("cold", "mean"),
        **{name: (name, "mean") for name in extra},
    )
    return shares[shares["centers"] >= min_centers].reset_index()


def centers_table(result: GeoBiasSummary, hits: NDArray[np.float64]) -> pd.DataFrame:
    """``result.to_pandas()`` of the centres with a location, with columns hit, hot and cold.

    A centre is hot (cold) if it is a hit (a miss), its neighbours have a hit rate above (below) the mean of all, and
    its local Moran's I is significant after control of false discoveries at the level of the significance map.
    """
    table = result.to_pandas().assign(hit=np.asarray(hits, np.float64)[result.scores.rows.cpu().numpy()])
    table = table[table["lon"].notna()].reset_index(drop=True)
    if "moran_p" not in table:  # all hits or all misses: there are no clusters
        return table.assign(hot=False, cold=False)
    p = torch.from_numpy(table["moran_p"].to_numpy(copy=True))
    called = false_discovery(p, result.significance.alpha)[0].numpy()
    return table.assign(hot=called & (table["quadrant"] == 1), cold=called & (table["quadrant"] == 3))


def by_cell(table: pd.DataFrame, num_lon: int, num_lat: int) -> Any:
    """Rows with lon and lat in degrees, grouped by lon_index and lat_index: their cell of equal area, as those of
    `tslab.plot.equal_area_grid` counted from 180 W and from the South Pole."""
    lon_index = np.floor(np.mod(table["lon"] + 180, 360) / 360 * num_lon).astype(int)
    height = (np.sin(np.deg2rad(table["lat"])) + 1) / 2
    lat_index = np.clip(np.floor(height * num_lat), 0, num_lat - 1).astype(int)
    return table.assign(lon_index=lon_index, lat_index=lat_index).groupby(["lon_index", "lat_index"])


def as_field(cells: pd.DataFrame, column: str, num_lon: int = NUM_LON, num_lat: int = NUM_LAT) -> NDArray[np.float64]:
    """One column as (num_lat, num_lon), NaN where there is no cell: a field of `tslab.plot.map_slider`."""
    field = np.full((num_lat, num_lon), np.nan)
    field[cells["lat_index"], cells["lon_index"]] = cells[column]
    return field


def totals(result: GeoBiasSummary, hits: NDArray[np.float64]) -> dict[str, float]:
    """Numbers of the whole data set: centers, top1, score with its interval, and shares of centres."""
    table = centers_table(result, hits)
    shares = {name: float(table[name].mean()) for name in ("significant", "hot", "cold")}
    return {
        "centers": result.num_centers,
        "top1": float(table["hit"].mean()),
        "score": result.mean,
        "score_low": result.interval[0],
        "score_high": result.interval[1],
        "saturated": result.saturated,
    } | shares


def two_nulls(
    graph: NeighborGraph, hits: Float[Tensor, " n"], *, num_deals: int = NUM_DEALS, alpha: float = ALPHA
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """What the joint and the conditional null call of the hits as they are, and of the same hits dealt at random.

    A centre is called if its score is significant after control of false discoveries at ``alpha``.

    Returns:
        shares of centres: observed_<null>, and dealt_<null> (mean), dealt_<null>_low and _high (range over the deals);
        with _alone, the share with a p-value of at most ``alpha`` before that control. dealt_score, the mean
        conditional score of dealt hits; dealt_moran, the share that local Moran's I calls. Then, by the same names,
        the called centres of the hits as they are and of the first deal.
    """
    located = graph.neighborhood >= 0  # all rows are centres
    columns = torch.cat([hits[:, None], deal(hits, located, times=num_deals)], 1)
    facts: dict[str, float] = {}
    maps: dict[str, Tensor] = {}
    for null in get_args(Null):
        result = ssi(graph, columns, null=null)
        called = [significance_map(result.select(i), alpha=alpha).significant for i in range(columns.shape[1])]
        share = torch.stack([part[located].double().mean() for part in called])
        alone = (result.p[located] <= alpha).double().mean(0)
        maps |= {f"observed_{null}": called[0], f"dealt_{null}": called[1]}
        facts |= {f"observed_{null}": float(share[0]), f"observed_{null}_alone": float(alone[0])}
        facts |= {f"dealt_{null}": float(share[1:].mean()), f"dealt_{null}_alone": float(alone[1:].mean())}
        facts |= {f"dealt_{null}_low": float(share[1:].min()), f"dealt_{null}_high": float(share[1:].max())}
        if null == "conditional":
            facts["dealt_score"] = float(result.score[:, 1:].nanmean())
    moran = [false_discovery(local_moran(graph, dealt).p, alpha)[0][located] for dealt in columns[:, 1:].unbind(1)]
    facts["dealt_moran"] = float(torch.stack(moran).double().mean())
    return facts, maps


def released_map(
    dataset: str, encoder: str, *, neighbors: NeighborGraph | None = None, root: str | Path | None = None
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Cells and totals of a released pair: hits are Top-1 hits, scores those of `tslab.geobias.summary`.

    ``neighbors`` is the graph of the data set, `released_graph`, where it is at hand.
    """
    graph = released_graph(dataset, encoder, root=root) if neighbors is None else neighbors
    hits = released_hits(load_released_results(dataset, encoder, root=root))
    result = summary(graph, torch.from_numpy(hits), alpha=ALPHA)
    facts, maps = two_nulls(graph, torch.from_numpy(hits))
    del maps["observed_conditional"]  # the column significant
    return bias_map(result, hits, more=maps), totals(result, hits) | facts


def released_graph(dataset: str, encoder: str, *, root: str | Path | None = None) -> NeighborGraph:
    """Neighbourhoods of a released pair, the same for all models of a classification data set."""
    table = load_released_results(dataset, encoder, root=root)
    lonlat = torch.from_numpy(table[["lon", "lat"]].to_numpy(np.float64, copy=True))
    return neighbor_graph(lonlat, radius_km=RADIUS_KM, max_neighbors=MAX_NEIGHBORS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the maps of the released pairs and write them to the file of the book."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, help="the released files; default: TSLAB_MIRROR, then the cache folder")
    parser.add_argument("--out", type=Path, default=RESULTS / RECORD)
    chosen = parser.parse_args(arguments)
    tables, of_pair, graphs = [], {}, {}
    for dataset, encoder in PAIRS:
        if dataset not in graphs:
            graphs = {dataset: released_graph(dataset, encoder, root=chosen.root)}
        cells, totals_here = released_map(dataset, encoder, neighbors=graphs[dataset], root=chosen.root)
        of_pair[f"{dataset}/{encoder}"] = totals_here
        cells.insert(0, "dataset", dataset)
        cells.insert(1, "encoder", encoder)
        tables.append(cells)
        print(dataset, encoder, {k: round(v, 4) for k, v in totals_here.items()}, flush=True)
    about = {
        **release_stamp(),
        "radius_km": RADIUS_KM,
        "max_neighbors": MAX_NEIGHBORS,
        "alpha": ALPHA,
        "totals": of_pair,
    }
    atomic_write(chosen.out, pd.concat(tables).to_csv(index=False, float_format="%.4g", lineterminator="\n"))
    atomic_write(chosen.out.with_suffix(".json"), json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
