"""Geo-bias of any released (dataset, encoder) pair, ready for a map."""

import os
from typing import TYPE_CHECKING, Literal, Unpack, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tslab._checks import check_count
from tslab.geobias.aggregate import GeoBiasSummary, SummaryOptions, summary
from tslab.geobias.inputs import check_word
from tslab.released import load_released_results
from tslab.released_files import ENCODER_TOKENS, ReleasedResultsError

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
            f"the released results of {encoder} on {dataset} have no coordinates, and no other released file of "
            f"{dataset} lends them any: there is nothing to map; take another dataset"
        )
    if options.get("neighbors") is None and options.get("radius_rad") is None:
        options = {"radius_km": 100.0, **options}
    return summary(lonlat, torch.from_numpy(released_hits(table, outcome)), **options)


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


def released_hits(table: "pd.DataFrame", outcome: Outcome = "hit1") -> np.ndarray:
    """Hits of a released table as float64 1 and 0: its ``outcome`` column, or errors at most the mean error."""
    check_word("outcome", outcome, get_args(Outcome))
    if outcome in table:
        return table[outcome].to_numpy(dtype=np.float64)
    error = (table["prediction"] - table["label"]).abs().to_numpy(dtype=np.float64)
    return (error <= np.nanmean(error)).astype(np.float64)
