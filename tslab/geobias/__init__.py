"""Geo-bias: how unevenly a model performs over the Earth, measured around every sample.
"""

from tslab.geobias.background import background_count, background_density, background_grid
from tslab.geobias.moments import exact_moments, published_moments, surprisal
from tslab.geobias.neighbors import NeighborGraph, neighbor_graph
from tslab.geobias.relative import SRIResult, sri
from tslab.geobias.self_information import SSIResult, ssi, ssi_on_graph

__all__ = [
    "NeighborGraph",
    "SRIResult",
    "SSIResult",
    "background_count",
    "background_density",
    "background_grid",
    "exact_moments",
    "neighbor_graph",
    "published_moments",
    "sri",
    "ssi",
    "ssi_on_graph",
    "surprisal",
]
