"""Portraits of an encoder: the figures that every encoder chapter of the book opens with.

Each function takes an encoder (anything that `tslab.diagnostics` can measure) and returns a plotly figure whose controls work without a
kernel: what its features look like on the map, how similarity falls with distance, and what happens at the date line and the poles.
Maps are cylindrical equal-area: longitude along x, the sine of latitude along y.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from tslab import diagnostics, figures
from tslab.diagnostics import Encoder
from tslab.land import land_lines

LAT_TICKS = (-90, -60, -30, 0, 30, 60, 90)


def equal_area_grid(n_lon: int = 120, n_lat: int = 60) -> tuple[np.ndarray, np.ndarray, Float[Tensor, "n 2"]]:
    """Centres of an equal-area grid: longitudes (n_lon,), sines of latitude (n_lat,), and the places (n_lat * n_lon, 2), latitude-major."""
    lon = (np.arange(n_lon) + 0.5) * 360 / n_lon - 180
    sin_lat = (np.arange(n_lat) + 0.5) * 2 / n_lat - 1
    grid = np.stack(np.meshgrid(lon, np.rad2deg(np.arcsin(sin_lat))), axis=-1).reshape(-1, 2)
    return lon, sin_lat, torch.from_numpy(grid)


def feature_browser(
    encoder: Encoder, columns: Sequence[int], labels: Sequence[str], *, n_lon: int = 120, n_lat: int = 60
) -> go.Figure:
    """A world map of one feature at a time, with a slider over the features ``columns`` named ``labels``.

    Values are shown on [-m, m], m the largest magnitude of the chosen features, as bytes: a figure of twenty maps weighs some 200 kB.
    """
    lon, sin_lat, places = equal_area_grid(n_lon, n_lat)
    features = diagnostics._encode(encoder, places)[:, list(columns)].numpy()
    limit = float(np.abs(features).max())
    maps = [np.round(features[:, i].reshape(n_lat, n_lon) / limit * 127).astype(np.int8) for i in range(len(columns))]

    ticks = [-127, 0, 127]
    colorbar = {"tickvals": ticks, "ticktext": [f"{-limit:.2g}", "0", f"{limit:.2g}"], "thickness": 12, "title": "value"}

    def heatmap(index: int) -> go.Heatmap:
        return go.Heatmap(
            x=lon.astype(np.float32), y=sin_lat.astype(np.float32), z=maps[index], zmin=-127, zmax=127,
            colorscale=figures.DIVERGING_SCALE, colorbar=colorbar, hoverinfo="skip",
        )  # fmt: skip

    figure = go.Figure([heatmap(0), coastline()])
    figure.frames = [go.Frame(data=[heatmap(i)], traces=[0], name=str(i)) for i in range(len(columns))]
    figure.update_layout(sliders=[_slider(labels, "")], height=430, margin={"l": 45, "r": 10, "t": 15, "b": 10})
    _map_axes(figure)
    return figure


def kernel_profiles(
    encoder: Encoder, *, color: str, lat_deg: Sequence[float] = (0, 30, 60, 80), max_km: float = 4000.0, steps: int = 200
) -> go.Figure:
    """Similarity against great-circle distance, along the parallel and along the meridian, with a slider over latitude."""
    distances = torch.linspace(0, max_km, steps, dtype=torch.float64)
    x = distances.numpy().astype(np.float32)

    def lines(lat: float) -> list[go.Scatter]:
        traces = []
        for direction, dash in (("parallel", "solid"), ("meridian", "dash")):
            y = diagnostics.kernel_profile(encoder, distances, lon_deg=20, lat_deg=lat, direction=direction)  # type: ignore[arg-type]
            name = "east along the parallel" if direction == "parallel" else "along the meridian"
            traces.append(
                go.Scatter(x=x, y=y.numpy().astype(np.float32), name=name, mode="lines",
                           line={"color": color, "dash": dash, "width": 2})
            )  # fmt: skip
        return traces

    figure = go.Figure(lines(lat_deg[0]))
    figure.frames = [go.Frame(data=lines(lat), name=str(i)) for i, lat in enumerate(lat_deg)]
    figure.update_layout(
        sliders=[_slider([f"{lat:g}°" for lat in lat_deg], "latitude ")],
        xaxis={"title": "great-circle distance (km)", "range": [0, max_km]},
        yaxis={"title": "similarity (cosine)", "range": [-1.02, 1.05]},
        legend={"orientation": "h", "y": 1.12, "x": 0}, height=400, margin={"l": 60, "r": 15, "t": 30, "b": 10},
    )  # fmt: skip
    return figure


def edges(encoder: Encoder, *, color: str, lat_deg: float = 40.0) -> go.Figure:
    """The two places where a map tears: similarity along a parallel across the date line, and at a pole along its longitudes.

    On the left, similarity of (179 E, ``lat_deg``) to the places of its parallel on both sides of the date line: an encoder of the
    sphere has the same curve on both sides. On the right, similarity of the North Pole named with longitude 0 to the same point named
    with other longitudes: it should be 1 throughout.
    """
    offsets = torch.linspace(-30, 30, 241, dtype=torch.float64)
    lon = (180 + offsets + 180) % 360 - 180
    lon[offsets == 0] = 180
    parallel = torch.stack([lon, torch.full_like(lon, lat_deg)], dim=-1)
    here = torch.tensor([[179.0, lat_deg]], dtype=torch.float64)
    across = _similarity(encoder, here, parallel)
    west, east = offsets <= 0, offsets > 0

    names = torch.linspace(-180, 180, 181, dtype=torch.float64)
    pole = torch.stack([names, torch.full_like(names, 90)], dim=-1)
    at_pole = _similarity(encoder, torch.tensor([[0.0, 90.0]], dtype=torch.float64), pole)

    figure = make_subplots(1, 2, horizontal_spacing=0.1, shared_yaxes=True,
                           subplot_titles=("across the date line", "at the North Pole"))  # fmt: skip
    line = {"color": color, "width": 2}
    for side in (west, east):
        figure.add_scatter(x=_short(180 + offsets[side]), y=_short(across[side]), mode="lines", line=line, row=1, col=1)
    figure.add_scatter(x=_short(names), y=_short(at_pole), mode="lines", line=line, row=1, col=2)
    figure.add_vline(x=180, line={"dash": "dot", "width": 1, "color": "#888"}, row=1, col=1)
    figure.update_xaxes(title="longitude", row=1, col=1, tickvals=[150, 165, 180, 195, 210],
                        ticktext=["150°E", "165°E", "180°", "165°W", "150°W"])  # fmt: skip
    figure.update_xaxes(title="the pole's longitude", tickvals=[-180, -90, 0, 90, 180], ticksuffix="°", row=1, col=2)
    figure.update_yaxes(title="similarity (cosine)", range=[-1.05, 1.08], row=1, col=1)
    figure.update_layout(showlegend=False, height=320, margin={"l": 60, "r": 15, "t": 40, "b": 50})
    return figure


def coastline(*, width: float = 0.8) -> go.Scatter:
    """The coastlines as one line on the equal-area map."""
    lines = land_lines()
    return go.Scatter(
        x=np.round(lines[:, 0], 1).astype(np.float32), y=np.round(np.sin(np.deg2rad(lines[:, 1])), 3).astype(np.float32),
        mode="lines", line={"color": "#333", "width": width}, hoverinfo="skip", showlegend=False,
    )  # fmt: skip


def _similarity(encoder: Encoder, one: Float[Tensor, "1 2"], places: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    return torch.cosine_similarity(diagnostics._encode(encoder, one), diagnostics._encode(encoder, places), dim=-1)


def _short(values: Tensor) -> np.ndarray:
    return values.numpy().astype(np.float32)


def _map_axes(figure: go.Figure) -> None:
    lat_values = [float(np.sin(np.deg2rad(lat))) for lat in LAT_TICKS]
    figure.update_xaxes(tickvals=[-180, -90, 0, 90, 180], ticksuffix="°", range=[-180, 180], showgrid=False, zeroline=False)
    figure.update_yaxes(
        tickvals=lat_values, ticktext=[f"{lat}°" for lat in LAT_TICKS], range=[-1, 1], showgrid=False, zeroline=False
    )


def _slider(labels: Sequence[str], prefix: str) -> dict:
    steps = [
        {"label": label, "method": "animate",
         "args": [[str(i)], {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}]}
        for i, label in enumerate(labels)
    ]  # fmt: skip
    return {"active": 0, "currentvalue": {"prefix": prefix}, "pad": {"t": 45, "b": 5}, "steps": steps}
