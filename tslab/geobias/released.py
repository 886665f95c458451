"""Geo-bias of any released (dataset, encoder) pair, ready for a map."""

import os
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tslab.geobias.aggregate import GeoBiasSummary, summary
from tslab.geobias.neighbors import NeighborGraph
from tslab.geobias.self_information import Form, Marks, MomentKind, Preset
from tslab.released import load_released_results
from tslab.released_files import ENCODER_TOKENS, ReleasedResultsError

Outcome = Literal["hit1", "hit3"]


def released_geobias(
    dataset: str,
    encoder: str,
    *,
    outcome: Outcome = "hit1",
    radius_km: float = 100.0,
    k: int = 4,
    max_neighbors: int | None = 100,
    neighbors: NeighborGraph | None = None,
    marks: Marks | None = None,
    moments: MomentKind | None = None,
    form: Form | None = None,
    preset: Preset | None = None,
    alpha: float = 0.05,
    base_relative: bool = False,
    seed: int = 0,
    root: str | os.PathLike[str] | None = None,
) -> GeoBiasSummary:
    """Geo-bias of a released result, by one call: ``released_geobias("fmow", "rbf").to_pandas()`` is a map's data.

    A hit is ``outcome`` for classification, and for regression (MOSAIKS) an absolute error that is at most the mean
    absolute error of the table. Other arguments: `tslab.geobias.summary`.

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
    return summary(
        lonlat,
        torch.from_numpy(released_hits(table, outcome)),
        radius_km=None if neighbors is not None else radius_km,
        k=k,
        max_neighbors=max_neighbors,
        neighbors=neighbors,
        marks=marks,
        moments=moments,
        form=form,
        preset=preset,
        alpha=alpha,
        base_relative=base_relative,
        seed=seed,
    )


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


def released_hits(table: pd.DataFrame, outcome: Outcome = "hit1") -> np.ndarray:
    """Hits of a released table as float64 1 and 0: its ``outcome`` column, or errors at most the mean error."""
    if outcome not in ("hit1", "hit3"):
        raise ValueError(f'outcome must be "hit1" or "hit3", got {outcome!r}')
    if outcome in table:
        return table[outcome].to_numpy(dtype=np.float64)
    error = (table["prediction"] - table["label"]).abs().to_numpy(dtype=np.float64)
    return (error <= np.nanmean(error)).astype(np.float64)
