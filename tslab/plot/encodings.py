"""What an encoder does, drawn: its features, which places look similar to it, how similarity falls with distance, and
what happens at the date line and at the poles.

Each function takes an encoder (anything that `tslab.diagnostics` can measure) and returns a plotly figure.
"""

from collections.abc import Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from tslab import diagnostics
from tslab._checks import check_count
from tslab.diagnostics import Encoder, encodings
from tslab.plot.projection import Place, equal_area_grid, short
from tslab.plot.sliders import Curve, curve_slider, map_slider
from tslab.plot.style import NEUTRAL


def feature_maps(
    encoder: Encoder,
    columns: Sequence[int],
    labels: Sequence[str],
    *,
    prefix: str = "",
    n_lon: int = 120,
    n_lat: int = 60,
) -> go.Figure:
    """A world map of one feature at a time, with a slider over the features ``columns`` named ``labels``."""
    _, _, places = equal_area_grid(n_lon, n_lat)
    every = encodings(encoder, places)
    for column in columns:
        check_count("columns", column, at_least=0, at_most=every.shape[1] - 1)
    features = every[:, list(columns)].reshape(n_lat, n_lon, -1)
    return map_slider(list(features.unbind(-1)), labels, prefix=prefix, colorbar="value")


def similarity_maps(
    encoder: Encoder | Sequence[Encoder],
    places: Sequence[Place],
    labels: Sequence[str],
    *,
    prefix: str = "",
    n_lon: int = 120,
    n_lat: int = 60,
    active: int = 0,
) -> go.Figure:
    """A world map of the similarity (cosine) of every place to one marked place, with a slider.

    The slider runs over ``places``, over several encoders, or over pairs of both; a single one of either is
    used throughout.
    """
    encoders = list(encoder) if isinstance(encoder, Sequence) else [encoder] * len(places)
    marked = list(places) if len(places) > 1 else list(places) * len(encoders)
    _, _, grid = equal_area_grid(n_lon, n_lat)
    fields = [_similarity(one, place, grid) for one, place in zip(encoders, marked, strict=True)]
    return map_slider(
        [field.reshape(n_lat, n_lon) for field in fields],
        labels,
        prefix=prefix,
        colorbar="similarity",
        limits=(-1, 1),
        points=[[place] for place in marked],
        active=active,
    )


def kernel_profiles(
    encoder: Encoder,
    *,
    color: str,
    lat_deg: Sequence[float] = (0, 30, 60, 80),
    max_km: float = 4000.0,
    steps: int = 200,
    active: int = 0,
) -> go.Figure:
    """Similarity against great-circle distance, along parallel and meridian, with a slider over latitude."""
    distances = torch.linspace(0, max_km, steps, dtype=torch.float64)

    def curves(lat: float) -> list[Curve]:
        both = {
            direction: diagnostics.kernel_profile(encoder, distances, lon_deg=20, lat_deg=lat, direction=direction)
            for direction in ("parallel", "meridian")
        }
        return [
            Curve("east along the parallel", distances, both["parallel"], color, "solid"),
            Curve("along the meridian", distances, both["meridian"], NEUTRAL, "dash"),
        ]

    return curve_slider(
        [curves(lat) for lat in lat_deg],
        [f"{lat:g}°" for lat in lat_deg],
        prefix="latitude ",
        active=active,
        x={"title": "great-circle distance (km)", "range": [0, max_km]},
        y={"title": "similarity (cosine)", "range": [-1.02, 1.05]},
    )


def edges(encoder: Encoder, *, color: str, lat_deg: float = 40.0) -> go.Figure:
    """The two places where a map tears: similarity across the date line, and of a pole to itself.

    On the left, similarity of (179 E, ``lat_deg``) to the places of its parallel on both sides of the date
    line: an encoder of the sphere has the same curve on both sides. On the right, similarity of the North
    Pole named with longitude 0 to the same point named with other longitudes: it should be 1 throughout.
    """
    offsets = torch.linspace(-30, 30, 241, dtype=torch.float64)
    lon = (180 + offsets + 180) % 360 - 180
    lon[offsets == 0] = 180
    parallel = torch.stack([lon, torch.full_like(lon, lat_deg)], dim=-1)
    across = _similarity(encoder, (179.0, lat_deg), parallel)
    names = torch.linspace(-180, 180, 181, dtype=torch.float64)
    pole = torch.stack([names, torch.full_like(names, 90)], dim=-1)
    at_pole = _similarity(encoder, (0.0, 90.0), pole)

    titles = ("the date line", "the North Pole")
    figure = make_subplots(1, 2, horizontal_spacing=0.14, shared_yaxes=True, subplot_titles=titles)
    line = {"color": color, "width": 2}
    for side in (offsets <= 0, offsets > 0):
        figure.add_scatter(x=short(180 + offsets[side]), y=short(across[side]), mode="lines", line=line, row=1, col=1)
    figure.add_scatter(x=short(names), y=short(at_pole), mode="lines", line=line, row=1, col=2)
    figure.add_vline(x=180, line={"dash": "dot", "width": 1, "color": NEUTRAL}, row=1, col=1)
    return figure.update_layout(
        xaxis={"title": "longitude", "tickvals": [150, 180, 210], "ticktext": ["150°E", "180°", "150°W"]},
        xaxis2={"title": "the pole's longitude", "tickvals": [-90, 0, 90], "ticktext": ["90°W", "0°", "90°E"]},
        yaxis={"title": "similarity (cosine)", "range": [-1.05, 1.08]},
        showlegend=False,
        height=320,
        margin={"l": 60, "r": 15, "t": 40, "b": 50},
    )


def _similarity(encoder: Encoder, place: Place, places: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """Similarity of each of ``places`` to one place."""
    one = encodings(encoder, torch.tensor([place], dtype=torch.float64))
    return torch.cosine_similarity(one, encodings(encoder, places), dim=-1)
