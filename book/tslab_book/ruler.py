"""Testing the ruler: how the parts of a geo-bias score behave when nothing, or something known, is there to measure.

A score is only as good as its behaviour on data whose answer is known. `shuffled_statistics` draws the distribution
that the moments claim to describe. `ruler_facts` gathers, for a data set and the models evaluated on it, how far the
published and the exact moments are apart, how many neighbourhoods were cut and where, what raw marks and signed marks
say, and how many direction sectors are seen north and south of the equator.

    python -m tslab_book.ruler

computes the facts of the released classification results into ``book/results/geobias_ruler.csv``.
"""

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tslab._checks import check_count
from tslab._files import atomic_write
from tslab.coords import unit_vectors
from tslab.geobias.neighbors import NeighborGraph, neighbor_graph, squared_chord
from tslab.geobias.relative import sri
from tslab.geobias.self_information import Marks, Null, ssi
from tslab.geobias.torchspatial import released_hits
from tslab.released import load_released_results
from tslab.released_files import ENCODER_TOKENS, ReleasedResultsError
from tslab_book import RESULTS
from tslab_book.walkthrough import background_grid, marked

PUBLISHED_SETTINGS = {"yfcc": 8, "inat2018": 8, "fmow": 12}
"""Datasets of `main` and the number of direction sectors: the published ones, and for YFCC those of iNat2018."""

RADIUS_RAD = 0.05
"""Radius of the published per-sample tables, about 319 km."""


@dataclass(frozen=True)
class Shuffles:
    """The statistic of one neighbourhood, observed and with the values shuffled over all nodes."""

    observed: float
    shuffled: Float[Tensor, " s"]


def shuffled_statistics(
    graph: NeighborGraph,
    center: int,
    performance: Float[Tensor, " n"] | None,
    *,
    marks: Marks = "signed",
    k: int = 4,
    num_shuffles: int = 2000,
    seed: int = 0,
) -> Shuffles:
    """Moran sum of one neighbourhood under ``num_shuffles`` random placements of its values.

    Samples and background points keep their places and the graph its edges; the values, background zeros included,
    change places. This is the distribution whose mean and spread `exact_moments` gives in closed form.

    Args:
        graph, center: neighbourhoods, and the centre (an index into ``graph.center_rows``).
        performance, marks, k: as in `ssi`.

    Errors: ``ValueError`` for a centre without samples.
    """
    which = int(graph.neighborhood[center])
    if which < 0 or int(graph.sizes[which]) == 0:
        raise ValueError(f"center {center} has no samples in its neighbourhood; take one with graph.n > 0")
    member = graph.indices[graph.indptr[which] : graph.indptr[which + 1]].long()
    place = graph.frame_lonlat[which].cpu()
    background = unit_vectors(background_grid(place, graph.radius_rad, n=len(member))).to(graph.device)
    nodes = torch.cat([graph.xyz[member], background])
    d2 = squared_chord(nodes[:, None], nodes[None])
    d2[:, : len(member)] *= 1 - 1e-9  # the tie rule of `tslab.geobias.weights`: samples first
    d2.fill_diagonal_(math.inf)
    target = torch.sort(d2, dim=1, stable=True)[1][:, :k]
    z = torch.zeros(len(nodes), dtype=torch.float64, device=graph.device)
    values = torch.ones(graph.num_samples) if performance is None else performance
    z[: len(member)] = marked(values, marks).to(graph.device)[graph.order][member]
    x = z - z.mean()
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand((num_shuffles, len(nodes)), generator=generator).argsort(1).to(graph.device)
    drawn = x[order]
    sums = drawn.new_zeros(num_shuffles)
    for column in target.unbind(1):
        sums += (drawn * drawn[:, column]).sum(1)
    return Shuffles(float((x[:, None] * x[target]).sum()), sums)


def ruler_facts(
    lonlat: Float[Tensor, "n 2"],
    hits: Float[Tensor, "n e"],
    names: Sequence[str],
    *,
    radius_rad: float = RADIUS_RAD,
    max_neighbors: int = 100,
    sectors: int = 8,
) -> pd.DataFrame:
    """What the published ruler and the exact one say about several models on one set of samples: a row for each model.

    Returns:
        columns name, top1 (per cent), located, saturated (share of centres cut), reach (median over cut centres of the
        distance to the last sample kept, as a share of the radius); sigma_unmarked, sigma_signed (median of published
        over exact sigma); raw, signed (mean published score), unscored_raw (share of centres without a raw score);
        exact (mean score with exact moments, signed marks, tail form), rank_agreement (Spearman, over centres, of the
        published signed score with the exact one); conditional (mean score if marks are shuffled among the samples
        only); dealt_joint and dealt_conditional (share of centres with p at most 0.05 under either null, if the hits
        are dealt out to all samples at random); sectors_north, sectors_south and with the suffix _published:
        mean number of direction sectors with at least 20 samples; sector_score_* the mean scores.
    """
    graph = neighbor_graph(lonlat, radius_rad=radius_rad, max_neighbors=max_neighbors)
    located = graph.neighborhood >= 0
    shared = {
        "located": int(located.sum()),
        "saturated": float(graph.saturated[located].double().mean()),
        "reach": float(_reach(graph)[graph.saturated].nanmedian()) if bool(graph.saturated.any()) else math.nan,
    }
    bare = [ssi(graph, None, marks="unmarked", moments=kind) for kind in ("published", "exact")]
    shared["sigma_unmarked"] = float((bare[0].sigma / bare[1].sigma)[bare[0].sigma > 0].nanmedian())
    raw = ssi(graph, hits, marks="raw", moments="published", form="density", overfull=True)
    signed = ssi(graph, hits, moments="published", form="density", overfull=True)
    exact = ssi(graph, hits)
    conditional = ssi(graph, hits, null="conditional")
    dealt = deal(hits, located)
    chance = {null: (ssi(graph, dealt, null=null).p[located] <= 0.05).double().mean(0) for null in get_args(Null)}
    south = lonlat[:, 1] < 0
    by_side = {}
    for kind in ("correct", "published"):
        result = sri(lonlat, hits, radius_rad=radius_rad, partition="direction_sector", size=sectors, azimuth=kind)
        for side, rows in (("north", located & ~south), ("south", located & south)):
            by_side[side, kind] = (float(result.parts[rows].double().mean()), result.score[rows].mean(0))
    facts = []
    for i, name in enumerate(names):
        row = {"name": name, "top1": 100 * float(hits[located, i].double().mean()), **shared}
        row["sigma_signed"] = float((signed.sigma[:, i] / exact.sigma[:, i])[signed.sigma[:, i] > 0].nanmedian())
        row["raw"] = float(raw.score[:, i].nanmean())
        row["unscored_raw"] = float(raw.score[located, i].isnan().double().mean())
        row["signed"] = float(signed.score[:, i].nanmean())
        row["exact"] = float(exact.score[:, i].nanmean())
        row["rank_agreement"] = _spearman(signed.score[:, i], exact.score[:, i])
        row["conditional"] = float(conditional.score[:, i].nanmean())
        row |= {f"dealt_{null}": float(share[i]) for null, share in chance.items()}
        for (side, kind), (parts, score) in by_side.items():
            suffix = f"{side}_published" if kind == "published" else side
            row[f"sectors_{suffix}"] = parts
            row[f"sector_score_{suffix}"] = float(score[i])
        facts.append(row)
    return pd.DataFrame(facts)


def deal(
    hits: Float[Tensor, "n *e"], located: Bool[Tensor, " n"], *, times: int | None = None, seed: int = 0
) -> Float[Tensor, "n *e"]:
    """Hits dealt out at random to the samples with a location: no geography is left. Other samples keep theirs.

    Columns of hits are dealt with one order; ``times`` makes of one column so many columns, each with its own order.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = located.nonzero()[:, 0]
    dealt = hits.clone() if times is None else hits[:, None].repeat(1, check_count("times", times))
    if times is None:
        dealt[rows] = hits[rows[torch.randperm(len(rows), generator=generator)]]
    for i in range(times or 0):
        dealt[rows, i] = hits[rows[torch.randperm(len(rows), generator=generator)]]
    return dealt


def _reach(graph: NeighborGraph) -> Tensor:
    """Distance from each centre to the farthest sample of its neighbourhood, as a share of the radius."""
    center = unit_vectors(graph.frame_lonlat)
    owner = torch.repeat_interleave(torch.arange(len(graph.sizes), device=graph.device), graph.sizes)
    chord = squared_chord(center[owner], graph.xyz[graph.indices.long()]).sqrt()
    farthest = torch.zeros(len(graph.sizes), dtype=torch.float64, device=graph.device)
    farthest.scatter_reduce_(0, owner, chord, "amax")
    return graph.per_center(2 * torch.asin((farthest / 2).clamp_max(1)) / graph.radius_rad)


def _spearman(a: Tensor, b: Tensor) -> float:
    usable = ~(a.isnan() | b.isnan())
    return float(pd.Series(a[usable].cpu().numpy()).corr(pd.Series(b[usable].cpu().numpy()), method="spearman"))


def released_models(
    dataset: str, *, at_most: int | None = None, root: str | os.PathLike[str] | None = None
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n e"], list[str]]:
    """Places, Top-1 hits and encoder keys of a classification data set's released models, which share their rows.

    Args:
        dataset: key of the data set.
        at_most: stop after so many models.
        root: where the released files are, see `tslab.load_released_results`.

    Models whose file was released empty are left out. Errors: ``FileNotFoundError`` if a file is missing.
    """
    if at_most is not None:
        check_count("at_most", at_most)
    names: list[str] = []
    columns: list[np.ndarray] = []
    lonlat = torch.zeros((0, 2), dtype=torch.float64)
    for encoder in ENCODER_TOKENS:
        if at_most is not None and len(names) == at_most:
            break
        try:
            table = load_released_results(dataset, encoder, root=root)
        except ReleasedResultsError as error:
            if isinstance(error, FileNotFoundError):
                raise
            continue  # released empty
        names.append(encoder)
        columns.append(released_hits(table))
        lonlat = torch.from_numpy(table[["lon", "lat"]].to_numpy(np.float64, copy=True))
    return lonlat, torch.from_numpy(np.stack(columns, 1)), names


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the facts of the released results and write them to the file of the book."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--datasets", nargs="*", default=list(PUBLISHED_SETTINGS), choices=list(PUBLISHED_SETTINGS))
    parser.add_argument("--root", type=Path, help="the released files; default: TSLAB_MIRROR, then the cache folder")
    parser.add_argument("--out", type=Path, default=RESULTS / "geobias_ruler.csv")
    chosen = parser.parse_args(arguments)
    tables = []
    for dataset in chosen.datasets:
        lonlat, hits, names = released_models(dataset, root=chosen.root)
        facts = ruler_facts(lonlat, hits, names, sectors=PUBLISHED_SETTINGS[dataset])
        facts.insert(0, "dataset", dataset)
        tables.append(facts.rename(columns={"name": "encoder"}))
        print(facts.to_string(float_format="{:.4g}".format), flush=True)
        atomic_write(chosen.out, pd.concat(tables).to_csv(index=False, float_format="%.6g", lineterminator="\n"))


if __name__ == "__main__":
    main()
