"""Geo-bias of any released (dataset, encoder) pair, ready for a map."""

import os
from typing import TYPE_CHECKING, Literal, Unpack, get_args

import numpy as np
import torch

from tslab._checks import check_choice
from tslab.geobias.aggregate import GeoBiasSummary, SummaryOptions, summary
from tslab.released import load_released_results
from tslab.released_files import ReleasedResultsError

if TYPE_CHECKING:
    import pandas as pd

Outcome = Literal["hit1", "hit3"]


def released_geobias(
    dataset: str,
    encoder: str,
    *,
    outcome: Outcome = "hit1",
    root: str | os.PathLike[str] | None = None,
    **options: Unpack[SummaryOptions],
) -> GeoBiasSummary:
    """Geo-bias of a released result, by one call: ``released_geobias("fmow", "rbf").to_pandas()`` is a map's data.

    The radius is 100 km unless ``options`` say another; they are the keyword arguments of `tslab.geobias.summary`.
    A hit is ``outcome`` for classification, and for regression (MOSAIKS) an absolute error that is at most the mean
    absolute error of the table.

    Pass ``neighbors=neighbor_graph(...)`` to share one graph between the encoders of a classification dataset, whose
    rows are the same images; regression tables hold other rows for each encoder.

    Errors: those of `tslab.released.load_released_results`; ``ReleasedResultsError`` where no row has coordinates
    (iNat2017, of which the release holds the image-only results alone).
    """
    table = load_released_results(dataset, encoder, root=root)
    lonlat = torch.from_numpy(table[["lon", "lat"]].to_numpy(dtype=np.float64, copy=True))
    if bool(lonlat.isnan().any(1).all()):
        raise ReleasedResultsError(
            f"the released results of {encoder} on {dataset} have no coordinates to map; take another dataset"
        )
    if options.get("neighbors") is None and options.get("radius_rad") is None:
        options = {"radius_km": 100.0, **options}
    return summary(lonlat, torch.from_numpy(released_hits(table, outcome)), **options)


def released_hits(table: "pd.DataFrame", outcome: Outcome = "hit1") -> np.ndarray:
    """Hits of a released table as float64 1 and 0: its ``outcome`` column, or errors at most the mean error."""
    check_choice("outcome", outcome, get_args(Outcome))
    if outcome in table:
        return table[outcome].to_numpy(dtype=np.float64)
    error = (table["prediction"] - table["label"]).abs().to_numpy(dtype=np.float64)
    return (error <= np.nanmean(error)).astype(np.float64)
