"""Spatial self-information of one neighbourhood, with every node and every edge in the open.

`tslab.geobias.ssi` never forms the weight graph of a neighbourhood as a whole; it needs only sums over it. To look at
a neighbourhood one wants the opposite: the background points, who points to whom, and each value. `neighborhood`
builds that plainly, from all distances, and gives the same numbers (the tests compare them). `neighborhood_figure`
draws it for several radii and several sets of marks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int, Real
from numpy.typing import NDArray
from torch import Tensor

from tslab import plot
from tslab._checks import check_count, check_number
from tslab.coords import EARTH_RADIUS_KM, check_lonlat, lonlat_from_unit_vectors, unit_vectors
from tslab.geobias.background import KEY_BITS, background_density, local_frame, make_lattice
from tslab.geobias.neighbors import neighbor_graph, squared_chord
from tslab.geobias.self_information import Marks, MomentKind, ssi
from tslab.geobias.statistic import exact_moments, published_moments, surprisal
from tslab.geobias.weights import SAMPLE_FIRST
from tslab_book.neighborhood_plots import HIT_COLOR, MISS_COLOR


@dataclass(frozen=True)
class Neighborhood:
    """One neighbourhood and its score.

    Attributes:
        n, m: samples and background points; nodes are the samples, in the order of ``rows``, then the background.
        rows: input row of each sample.
        offset_km: places of all N = n + m nodes, in kilometres to the east and to the north of the centre (azimuthal
            equidistant).
        values: z of each node, 0 for background.
        targets: the k nodes that each node points to.
        statistic, mean, sigma: I = sum_ij w_ij x_i x_j, and its moments under random placement of the values.
        tail, density: the two forms of the score.
        conditional: the tail form if the marks are shuffled among the samples only.
    """

    n: int
    m: int
    rows: Int[Tensor, " n"]
    offset_km: Float[Tensor, "N 2"]
    values: Float[Tensor, " N"]
    targets: Int[Tensor, "N k"]
    statistic: float
    mean: float
    sigma: float
    tail: float
    density: float
    conditional: float

    @property
    def z(self) -> float:
        """(statistic - mean) / sigma."""
        return (self.statistic - self.mean) / self.sigma if self.sigma > 0 else math.nan

    @property
    def like_edges(self) -> int:
        """Edges from a sample to a sample with the same value."""
        return int((self._edge_products() > 0).sum())

    @property
    def unlike_edges(self) -> int:
        """Edges from a hit to a miss or from a miss to a hit."""
        return int((self._edge_products() < 0).sum())

    def _edge_products(self) -> Tensor:
        return self.values[:, None] * self.values[self.targets]


def neighborhood(
    lonlat: Float[Tensor, "n 2"],
    performance: Float[Tensor, " n"] | Bool[Tensor, " n"],
    center: int,
    *,
    radius_km: float,
    k: int = 4,
    max_neighbors: int | None = 100,
    marks: Marks = "signed",
    moments: MomentKind = "exact",
) -> Neighborhood:
    """The neighbourhood of row ``center`` with all its nodes, edges, moments and both forms of the score.

    The arguments are those of `tslab.geobias.ssi`. All distances among the N nodes are computed, so this is for one
    neighbourhood at a time.

    Errors: ``ValueError`` if the row has no location.
    """
    graph = neighbor_graph(lonlat, radius_km=radius_km, max_neighbors=max_neighbors, centers=torch.tensor([center]))
    rows = graph.rows_of(0)
    if len(rows) == 0:
        raise ValueError(f"row {center} has no location; take another centre")
    lattice = make_lattice(background_density(len(rows), graph.radius_rad)[None], graph.radius_rad, torch.device("cpu"))
    frame = torch.stack(local_frame(graph.center_lonlat)).squeeze(1)  # (south, east, up) of the centre
    samples = (unit_vectors(lonlat[rows].double()) - frame[2]) @ frame.T
    nodes = torch.cat([samples, lattice.points])
    targets = _nearest(nodes, len(rows), float(lattice.spacing[0]), k)

    values = torch.zeros(len(nodes), dtype=torch.float64)
    values[: len(rows)] = marked(torch.as_tensor(performance)[rows], marks)
    x = values - values.mean()
    statistic = (x[:, None] * x[targets]).sum()
    if moments == "exact":
        mean, sigma = _exact(targets, values)
    else:
        value, count = torch.unique(values, return_counts=True)
        mean, sigma = published_moments(value, count)
    return Neighborhood(
        n=len(rows),
        m=len(lattice.points),
        rows=rows,
        offset_km=_offset_km(nodes),
        values=values,
        targets=targets,
        statistic=float(statistic),
        mean=float(mean),
        sigma=float(sigma),
        tail=float(surprisal(statistic, mean, sigma, "tail")),
        density=float(surprisal(statistic, mean, sigma, "density")),
        conditional=float(ssi(graph, performance, k=k, marks=marks, null="conditional").score[0]),
    )


def background_grid(
    center: Real[Tensor, "2"] | NDArray[Any] | Sequence[float],
    radius_rad: float,
    *,
    n: int | None = None,
    density: float | None = None,
) -> Float[Tensor, "m 2"]:
    """Background points around one centre, (longitude, latitude) in degrees, float64.

    Give the number of samples ``n`` (automatic density) or the density in points per steradian. Points are ordered
    by ring, then by azimuth from -pi, where azimuth 0 points south and pi / 2 east. The outermost ring can lie beyond
    the radius, by less than one spacing.
    """
    if (n is None) == (density is None):
        raise ValueError("give n (number of samples, automatic density) or density (points per steradian)")
    check_number("radius_rad", radius_rad, above=0, below=math.pi / 2)
    place = torch.as_tensor(center, dtype=torch.float64)
    rounded = place.round(decimals=9)  # a pole that came through radians
    check_lonlat(rounded[None] if place.ndim == 1 else rounded, name="center")
    if place.shape != (2,) or bool(place.isnan().any()):
        raise ValueError(f"center must be one place (longitude, latitude), got {center}")
    if n is not None:
        check_count("n", n)
    value = float(background_density(n, radius_rad)) if n is not None else float(density)  # type: ignore[arg-type]
    south, east, up = local_frame(place[None])
    offset = make_lattice([value], radius_rad, torch.device("cpu")).points
    return lonlat_from_unit_vectors(up + offset[:, :1] * south + offset[:, 1:2] * east + offset[:, 2:] * up)


def marked(performance: Float[Tensor, " n"] | Bool[Tensor, " n"], marks: Marks) -> Float[Tensor, " n"]:
    """What neighbours compare, float64: +1 for hits and -1 for misses, the performance itself, or 1 everywhere."""
    values = torch.as_tensor(performance).double()
    if marks == "raw":
        return values
    return torch.ones_like(values) if marks == "unmarked" else torch.where(values > 0, 1.0, -1.0).double()


def _nearest(nodes: Float[Tensor, "N 3"], n: int, spacing: float, k: int) -> Int[Tensor, "N k"]:
    """The k nearest other nodes of each node; at equal distance samples first, then the lower number."""
    d2 = squared_chord(nodes[:, None], nodes[None])
    d2[:, :n] *= SAMPLE_FIRST
    d2 = torch.round(d2 / spacing**2 * 2**KEY_BITS)  # equal up to rounding is equal
    d2.fill_diagonal_(math.inf)
    return torch.sort(d2, dim=1, stable=True)[1][:, :k]


def _exact(targets: Int[Tensor, "N k"], values: Float[Tensor, " N"]) -> tuple[Tensor, Tensor]:
    nodes = len(targets)
    weight = torch.zeros((nodes, nodes), dtype=torch.float64).scatter_(1, targets, 1.0)
    s1 = (weight + weight.T).square().sum() / 2
    s2 = (weight.sum(0) + weight.sum(1)).square().sum()
    powers = (values.sum(), values.pow(2).sum(), values.pow(3).sum(), values.pow(4).sum())
    return exact_moments(weight.sum(), s1, s2, torch.tensor(nodes), powers)


def _offset_km(nodes: Float[Tensor, "N 3"]) -> Float[Tensor, "N 2"]:
    flat = torch.stack([nodes[:, 1], -nodes[:, 0]], -1)
    length = flat.norm(dim=-1)
    angle = torch.atan2(length, 1 + nodes[:, 2])
    return flat * (angle * EARTH_RADIUS_KM / length.clamp_min(1e-12))[:, None]


def neighborhood_figure(
    lonlat: Float[Tensor, "n 2"],
    patterns: Mapping[str, Tensor],
    center: int,
    radii_km: Sequence[float],
    *,
    active: int = 0,
    marks: Marks = "signed",
    moments: MomentKind = "exact",
    height: int = 925,
) -> go.Figure:
    """A neighbourhood with a slider for its radius and a menu for the marks; everything is computed beforehand.

    From top to bottom: nodes and edges on a map; the distribution of the statistic under random placement, the observed
    statistic and all numbers; and the score at all radii for the chosen marks.

    Args:
        patterns: name -> hits, (n,) bool: what the menu offers.
        radii_km: steps of the slider.
        active: the step shown first.
    """
    states = {
        name: [
            neighborhood(lonlat, hits, center, radius_km=radius, marks=marks, moments=moments) for radius in radii_km
        ]
        for name, hits in patterns.items()
    }
    names, every = list(states), [state for per in states.values() for state in per]
    steps = range(len(radii_km))
    shared = [_shared_traces(states[names[0]][i], radii_km[i]) for i in steps]
    own = {name: [_pattern_traces(states[name], radii_km, i) for i in steps] for name in names}

    figure = go.Figure(shared[active])
    for j, name in enumerate(names):
        figure.add_traces([go.Scatter(trace, visible=j == 0) for trace in own[name][active]])
    figure.frames = [
        go.Frame(
            name=str(i),
            data=shared[i] + [trace for name in names for trace in own[name][i]],
            traces=list(range(len(figure.data))),
        )
        for i in steps
    ]
    each = len(own[names[0]][0])
    buttons = [
        {
            "label": name,
            "method": "restyle",
            "args": [{"visible": [True] * len(shared[0]) + [other == name for other in names for _ in range(each)]}],
        }
        for name in names
    ]
    reach = max(float(state.offset_km.abs().max()) for state in every) * 1.02
    scores = [score for state in every for score in (state.tail, state.density, state.conditional)]
    figure.update_layout(
        height=height,
        margin={"l": 55, "r": 12, "t": 135, "b": 10},
        sliders=[plot.frame_slider([f"{r:g} km" for r in radii_km], "radius ", active, space_px=55)],
        updatemenus=[  # above a legend that takes four rows on a phone
            {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 86}}
        ],
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "font": {"size": 12}, "itemclick": False},
        xaxis={"range": [-reach, reach], "title": {"text": "km east", "standoff": 2}, "zeroline": False},
        yaxis={
            "domain": [0.5, 1],
            "range": [-reach, reach],
            "title": {"text": "km north", "standoff": 2},
            "scaleanchor": "x",
            "zeroline": False,
        },
        xaxis2={"anchor": "y2", "title": {"text": "z = (I − μ) / σ", "standoff": 2}, "range": _z_range(every)},
        yaxis2={"domain": [0.22, 0.42], "anchor": "x2", "range": [0, 2.2], "visible": False},
        xaxis3={"anchor": "y3", "title": {"text": "radius in km", "standoff": 2}},
        yaxis3={
            "domain": [0, 0.15],
            "anchor": "x3",
            "title": {"text": "score", "standoff": 2},
            "range": [min(0.0, *scores), 1.1 * max(scores)],
        },
    )
    return figure


def _shared_traces(state: Neighborhood, radius: float) -> list[go.Scatter]:
    """What does not depend on the marks: the circle, edges from samples to background, background, the normal law."""
    turn = np.linspace(0, 2 * np.pi, 61)
    z = np.linspace(-4, 4, 61)
    background = state.offset_km[state.n :]
    to_background = [(i, int(j)) for i in range(state.n) for j in state.targets[i] if j >= state.n]
    soft = "rgba(117,127,136,0.5)"
    quiet: dict[str, Any] = {"hoverinfo": "skip", "showlegend": False}
    return [
        go.Scatter(
            x=_f4(radius * np.cos(turn)),
            y=_f4(radius * np.sin(turn)),
            mode="lines",
            line={"color": plot.NEUTRAL, "dash": "dot", "width": 1.5},
            **quiet,
        ),
        go.Scatter(**_segments(state, to_background), mode="lines", line={"color": soft, "width": 1}, **quiet),
        go.Scatter(
            x=_f4(background[:, 0]),
            y=_f4(background[:, 1]),
            mode="markers",
            name="background",
            marker={"color": plot.MISSING_COLOR, "size": 3},
            hoverinfo="skip",
        ),
        go.Scatter(
            x=_f4(z),
            y=_f4(np.exp(-z * z / 2)),
            mode="lines",
            line={"color": plot.NEUTRAL, "width": 2},
            fill="tozeroy",
            fillcolor="rgba(117,127,136,0.15)",
            xaxis="x2",
            yaxis="y2",
            **quiet,
        ),
    ]


def _pattern_traces(states: Sequence[Neighborhood], radii_km: Sequence[float], now: int) -> list[go.Scatter]:
    """What depends on the marks: edges between samples, samples, the observed statistic, its numbers, the scores."""
    state = states[now]
    edges = [(i, int(j)) for i in range(state.n) for j in state.targets[i] if j < state.n]
    product = [float(state.values[i] * state.values[j]) for i, j in edges]
    place, value = state.offset_km[: state.n], state.values[: state.n]
    traces = []
    for sign, name, color, dash in (
        (1, "same mark", plot.FAMILY_COLORS["harmonic"], "solid"),
        (-1, "different", plot.FAMILY_COLORS["kernel"], "dash"),
    ):
        chosen = [edge for edge, p in zip(edges, product, strict=True) if p * sign > 0]
        line = {"color": color, "width": 2.5, "dash": dash}
        traces.append(go.Scatter(**_segments(state, chosen), mode="lines", name=name, line=line, hoverinfo="skip"))
    for keep, name, color, symbol in ((value > 0, "hit", HIT_COLOR, "circle"), (value < 0, "miss", MISS_COLOR, "x")):
        marker = {"color": color, "size": 8, "symbol": symbol}
        x, y = _f4(place[keep, 0]), _f4(place[keep, 1])
        traces.append(go.Scatter(x=x, y=y, mode="markers", name=name, marker=marker, hoverinfo="skip"))
    below: dict[str, Any] = {"xaxis": "x2", "yaxis": "y2", "showlegend": False, "hoverinfo": "skip"}
    low, high = _z_range(states)
    traces += [
        go.Scatter(
            x=_f4([state.z, state.z]),
            y=_f4([0, 1]),
            mode="lines+markers",
            line={"color": plot.MARKER, "width": 3},
            marker={"color": plot.MARKER, "size": [0, 9]},
            **below,
        ),
        go.Scatter(x=[(low + high) / 2], y=[1.65], mode="text", text=[_numbers(state)], textfont={"size": 12}, **below),
    ]
    for attribute, name, color, dash in (
        ("tail", "tail score", plot.FAMILY_COLORS["spherical"], "solid"),
        ("density", "density score", plot.FAMILY_COLORS["planar"], "dash"),
        ("conditional", "conditional score", plot.FAMILY_COLORS["multi-scale planar"], "dot"),
    ):
        traces.append(
            go.Scatter(
                x=_f4(radii_km),
                y=_f4([getattr(s, attribute) for s in states]),
                mode="lines+markers",
                name=name,
                line={"color": color, "dash": dash},
                marker={"size": [13 if i == now else 4 for i in range(len(states))], "color": color},
                xaxis="x3",
                yaxis="y3",
                hovertemplate="%{x} km: %{y:.2f}<extra></extra>",
            )
        )
    return traces


def _z_range(states: Sequence[Neighborhood]) -> list[float]:
    observed = [state.z for state in states if not math.isnan(state.z)]
    return [min(-4.0, *observed) - 0.5, max(4.0, *observed) + 0.5]


def _numbers(state: Neighborhood) -> str:
    def number(value: float) -> str:
        return f"{value:.2f}".replace("-", "−")

    return (
        f"n = {state.n}, m = {state.m}; same {state.like_edges}, different {state.unlike_edges}<br>"
        f"I = {number(state.statistic)}, μ = {number(state.mean)}, σ = {number(state.sigma)}<br>"
        f"<b>tail {number(state.tail)}</b>, density {number(state.density)}, "
        f"<b>conditional {number(state.conditional)}</b>"
    )


def _segments(state: Neighborhood, edges: Sequence[tuple[int, int]]) -> dict[str, np.ndarray]:
    """Edges as one polyline with gaps."""
    if not edges:
        return {"x": _f4([]), "y": _f4([])}
    ends = state.offset_km[torch.tensor(edges)].numpy()  # (e, 2, 2)
    gaps = np.full((len(edges), 1, 2), np.nan)
    line = np.concatenate([ends, gaps], axis=1).reshape(-1, 2)
    return {"x": _f4(line[:, 0]), "y": _f4(line[:, 1])}


def _f4(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)
