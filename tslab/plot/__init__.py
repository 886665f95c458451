"""Figures of places and of encoders: globes, maps, sliders, curves and tables that work without a kernel.

    from tslab import plot
    plot.show(plot.similarity_maps(encoder, [(10.4, 51.2)], ["central Germany"]), alt="Similarity to central Germany.")

Every function returns a plotly figure (`static_map` a matplotlib one, `sortable_table` a table) that you may change
further; `show` displays it with a text alternative and a caption.
"""

from tslab.plot.encodings import edges, feature_maps, kernel_profiles, similarity_maps
from tslab.plot.maps import globe, static_map, world_map
from tslab.plot.projection import equal_area_grid, equal_earth, globe_grid, inverse_equal_earth, place_name
from tslab.plot.sliders import Curve, coastline, curve_slider, frame_slider, globe_slider, map_slider
from tslab.plot.style import (
    DIVERGING_SCALE,
    FAMILY_COLORS,
    FIELD_SCALE,
    MARKER,
    MISSING_COLOR,
    NEUTRAL,
    encoder_color,
    encoder_dash,
    matplotlib_style,
    show,
)
from tslab.plot.tables import sortable_table

__all__ = [
    "DIVERGING_SCALE",
    "FAMILY_COLORS",
    "FIELD_SCALE",
    "MARKER",
    "MISSING_COLOR",
    "NEUTRAL",
    "Curve",
    "coastline",
    "curve_slider",
    "edges",
    "encoder_color",
    "encoder_dash",
    "equal_area_grid",
    "equal_earth",
    "feature_maps",
    "frame_slider",
    "globe",
    "globe_grid",
    "globe_slider",
    "inverse_equal_earth",
    "kernel_profiles",
    "map_slider",
    "matplotlib_style",
    "place_name",
    "show",
    "similarity_maps",
    "sortable_table",
    "static_map",
    "world_map",
]
