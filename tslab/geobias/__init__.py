"""Geo-bias: how unevenly a model performs over the Earth, measured around every sample.

- `ssi` (spatial self-information): how surprising is the pattern of hits and misses around each centre?
- `sri` (spatial relative information): how much do the parts of a neighbourhood differ from the whole?
- `summary`: a data set's scores with intervals, a significance map and hot spots.
- `neighbor_graph`: the neighbourhoods, found once for all models of a data set.
- `marked_ssi_loss`: the score as a training loss.
- `released_geobias`: all of it for a released (dataset, encoder) pair.
"""

from tslab.geobias.aggregate import (
    GeoBiasSummary,
    GetisOrd,
    LocalMoran,
    SignificanceMap,
    block_bootstrap,
    false_discovery,
    getis_ord,
    local_moran,
    significance_map,
    summary,
)
from tslab.geobias.background import background_density
from tslab.geobias.neighbors import NeighborGraph, neighbor_graph
from tslab.geobias.relative import SRIResult, parts_of, sri
from tslab.geobias.self_information import SSIResult, density_weights, marked_ssi_loss, ssi, straight_through_marks
from tslab.geobias.statistic import exact_moments, published_moments, surprisal
from tslab.geobias.torchspatial import BaseRelative, base_and_relative, released_geobias, released_hits

__all__ = [
    "BaseRelative",
    "GeoBiasSummary",
    "GetisOrd",
    "LocalMoran",
    "NeighborGraph",
    "SRIResult",
    "SSIResult",
    "SignificanceMap",
    "background_density",
    "base_and_relative",
    "block_bootstrap",
    "density_weights",
    "exact_moments",
    "false_discovery",
    "getis_ord",
    "local_moran",
    "marked_ssi_loss",
    "neighbor_graph",
    "parts_of",
    "published_moments",
    "released_geobias",
    "released_hits",
    "significance_map",
    "sri",
    "ssi",
    "straight_through_marks",
    "summary",
    "surprisal",
]
