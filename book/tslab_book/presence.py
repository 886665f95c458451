"""One synthetic species whose truth is known, for distribution models: where it lives, who looked where, what they
reported; a small model of such reports, its scores and its maps.

Presence-only records mix two things: where a species lives and where people look. `SyntheticSpecies` holds both as
functions of the place, on the land of South America, so that a model (`fit_presence_only`) can be compared with the
truth. `auc` and `threshold_at_omission` are what such models are judged by. The chapter *A species distribution model*
uses all of it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike, NDArray
from plotly.subplots import make_subplots
from scipy.stats import mannwhitneyu
from torch import Tensor

from tslab import plot
from tslab.coords import great_circle_distance, sample_sphere, unit_vectors
from tslab.earth import is_land, land_lines
from tslab.encoders import location_encoder
from tslab.losses import presence_only_loss
from tslab.models import LocationClassifier
from tslab.plot import frame_slider
from tslab_book.waves import random_waves

REGION = (-83.0, -34.0, -56.0, 13.0)
"""West, east, south and north of the study area in degrees."""

OBSERVERS = ((-46.6, -23.5), (-58.4, -34.6), (-74.1, 4.7), (-77.0, -12.0), (-60.0, -3.1), (-38.5, -12.9))
"""Where the invented observers of `SyntheticSpecies.effort` live: six cities."""


@dataclass(frozen=True)
class SyntheticSpecies:
    """An invented species of South America.

    Attributes:
        seed: of its habitat, a random field.
        shortest_km, longest_km: wavelengths of the habitat.
        reach_km: how far from their city observers go.
        elsewhere: effort far from all of them, as a share of that in a city.
    """

    seed: int = 3
    shortest_km: float = 800.0
    longest_km: float = 5_000.0
    reach_km: float = 500.0
    elsewhere: float = 0.05

    def probability(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        """P(it lives here), float64; 0 at sea and outside `REGION`.

        sigmoid(4 h(x) - 2), with the habitat h(x) a sum of 48 waves in space, minus the square of the distance from
        12 degrees south in units of 20 degrees.
        """
        generator = torch.Generator().manual_seed(self.seed)
        waves, phase, _ = random_waves(48, self.shortest_km, self.longest_km, generator)
        habitat = (unit_vectors(lonlat.double()) @ waves.T + phase).cos().sum(1) / math.sqrt(24)
        climate = ((lonlat[:, 1].double() + 12) / 20) ** 2
        return torch.sigmoid(4 * (habitat - climate) - 2) * in_region(lonlat)

    def effort(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        """How much people look here, between ``elsewhere`` and about 1; 0 at sea and outside `REGION`."""
        cities = torch.tensor(OBSERVERS, dtype=torch.float64)
        distance = great_circle_distance(lonlat.double()[:, None], cities[None])
        near = torch.exp(-((distance / self.reach_km) ** 2) / 2).amax(1)
        return (self.elsewhere + (1 - self.elsewhere) * near) * in_region(lonlat)

    def presences(self, n: int, *, seed: int = 0) -> Float[Tensor, "n 2"]:
        """``n`` reported places: drawn in proportion to probability times effort."""
        generator = torch.Generator().manual_seed(seed)
        return _thinned(n, lambda places: self.probability(places) * self.effort(places), generator)

    def survey(self, n: int, *, seed: int = 0) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, " n"]]:
        """``n`` random land places where somebody looked properly, and whether the species is there."""
        generator = torch.Generator().manual_seed(seed)
        places = land_places(n, generator=generator)
        there = torch.rand(n, generator=generator, dtype=torch.float64) < self.probability(places)
        return places, there


def in_region(lonlat: Float[Tensor, "n 2"]) -> Bool[Tensor, " n"]:
    """True on the land of the study area."""
    west, east, south, north = REGION
    lon, lat = lonlat.unbind(1)
    box = (lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)
    inside = torch.zeros_like(box)
    inside[box] = is_land(lonlat[box])
    return inside


def land_places(n: int, *, generator: torch.Generator) -> Float[Tensor, "n 2"]:
    """``n`` places on the land of the study area, uniform by area."""
    west, east, south, north = REGION
    low, high = math.sin(math.radians(south)), math.sin(math.radians(north))
    found = torch.empty(0, 2)
    while len(found) < n:
        u = torch.rand((3 * n, 2), generator=generator)
        lat = torch.rad2deg(torch.asin(low + (high - low) * u[:, 1]))
        places = torch.stack([west + (east - west) * u[:, 0], lat], dim=1)
        found = torch.cat([found, places[in_region(places)]])
    return found[:n]


BACKGROUNDS = ("sphere", "land", "observers")


def background(kind: str, n: int, species: SyntheticSpecies, *, generator: torch.Generator) -> Float[Tensor, "n 2"]:
    """Background places: "sphere" (the whole Earth), "land" (of the study area) or "observers" (land, in proportion to
    effort, as the records of all other species would be: the target-group background).

    Raises:
        ValueError: another kind.
    """
    if kind == "sphere":
        return sample_sphere(n, generator=generator)
    if kind == "land":
        return land_places(n, generator=generator)
    if kind != "observers":
        raise ValueError(f"background {kind!r} is not known; choose one of {', '.join(BACKGROUNDS)}")
    return _thinned(n, species.effort, generator)


def _thinned(
    n: int, share: Callable[[Float[Tensor, "m 2"]], Float[Tensor, " m"]], generator: torch.Generator
) -> Float[Tensor, "n 2"]:
    """``n`` land places, each kept with probability ``share``."""
    found = torch.empty(0, 2)
    while len(found) < n:
        places = land_places(4 * n, generator=generator)
        kept = torch.rand(len(places), generator=generator, dtype=torch.float64) < share(places)
        found = torch.cat([found, places[kept]])
    return found[:n]


def fit_presence_only(
    presences: Float[Tensor, "n 2"],
    background_points: Float[Tensor, "m 2"],
    encoder: str,
    *,
    epochs: int = 150,
    seed: int = 0,
    **parameters: Any,
) -> LocationClassifier:
    """A distribution model of one species: its logit is ln(reports / background), up to a constant.

    Adam on all rows at once; ``parameters`` are those of `tslab.location_encoder`.
    """
    generator = torch.Generator().manual_seed(seed)
    how = {"hidden_dim": 64} | parameters
    behind = location_encoder(encoder, 32, generator=generator, **how)
    model = LocationClassifier(behind, 1, generator=generator)
    n = len(presences)
    # fixed: computed once
    features = behind.position_encoder(torch.cat([presences, background_points]))
    only_class = torch.zeros(n, dtype=torch.long)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for dropout
        for _ in range(epochs):
            logits = model.classes(behind.network(features))
            loss = presence_only_loss(logits[:n], only_class, logits[n:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def auc(score: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> float:
    """The probability that a random positive scores higher than a random negative, ties counting one half.

    AUC = U / (P N), U Mann and Whitney's statistic, P and N the numbers of positives and negatives. NaN if one of them
    is 0.

    Source: Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 1982.
    """
    yes = positive.cpu().numpy().astype(bool)
    values = score.detach().double().cpu().numpy()
    pairs = int(yes.sum()) * int((~yes).sum())
    return float(mannwhitneyu(values[yes], values[~yes], method="asymptotic").statistic / pairs) if pairs else math.nan


def threshold_at_omission(score_at_presences: Float[Tensor, " n"], omission: float = 0.1) -> float:
    """The score that a share ``omission`` of the presences falls below."""
    if not 0 <= omission < 1:
        raise ValueError(f"omission is a share in [0, 1), got {omission}")
    return float(np.quantile(score_at_presences.detach().double().cpu().numpy(), omission))


def region_grid(step_deg: float = 0.75) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, " n"]]:
    """Cell centres of a regular grid over `REGION`, row by row from the south-west, and which of them are land."""
    lon, lat = _grid_axes(step_deg)
    grid = torch.from_numpy(np.stack(np.meshgrid(lon, lat), -1).reshape(-1, 2)).float()
    return grid, in_region(grid)


def region_maps(
    left: ArrayLike,
    rights: Sequence[ArrayLike],
    labels: Sequence[str],
    *,
    titles: tuple[str, str],
    bar: str,
    dots: Float[Tensor, "k 2"] | None = None,
    active: int = 0,
    step_deg: float = 0.75,
) -> go.Figure:
    """Two maps of the study area side by side; a slider goes through ``rights``.

    Args:
        left: values between 0 and 1 at the land cells of `region_grid`, in their order.
        rights: the same, one for each step of the slider.
        labels: what the slider calls them.
        titles: above the two maps.
        bar: title of the colour bar.
        dots: places to mark on the left map.
        active: the step shown first.
        step_deg: of `region_grid`.
    """
    lon, lat = _grid_axes(step_deg)
    land = region_grid(step_deg)[1].numpy()

    def cells(values: ArrayLike) -> NDArray[np.int8]:
        out = np.full(len(land), -1, np.int8)
        out[land] = np.round(100 * np.asarray(values, np.float64))
        return out.reshape(len(lat), len(lon))

    clear = "rgba(0,0,0,0)"
    lowest = 1 / 101
    scale = [[0, clear], [lowest * 0.99, clear]]
    scale += [[lowest + (1 - lowest) * float(stop), color] for stop, color in plot.FIELD_SCALE]
    heat: dict[str, Any] = {"x": lon.astype("f4"), "y": lat.astype("f4"), "zmin": -1, "zmax": 100}
    heat |= {"colorscale": scale, "hoverinfo": "skip"}
    color_bar = {"orientation": "h", "x": 0.5, "y": 1.07, "yanchor": "bottom", "len": 0.7, "thickness": 10}
    color_bar |= {"title": {"text": bar, "side": "top"}, "tickvals": [0, 50, 100], "ticktext": ["0", "0.5", "1"]}
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.03)
    figure.add_trace(go.Heatmap(z=cells(left), showscale=False, **heat), 1, 1)
    steps = [cells(right) for right in rights]
    figure.add_trace(go.Heatmap(z=steps[active], colorbar=color_bar, **heat), 1, 2)
    for column in (1, 2):
        x, y = _coast_of_region().T
        line = {"color": plot.NEUTRAL, "width": 1}
        coast = go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)
        figure.add_trace(coast, 1, column)
    if dots is not None:
        x, y = dots.numpy().round(1).T
        marker = {"size": 4, "color": "#d1290b", "line": {"width": 0.5, "color": "white"}}
        marks = go.Scatter(x=x, y=y, mode="markers", marker=marker, hoverinfo="skip", showlegend=False)
        figure.add_trace(marks, 1, 1)
    figure.frames = [go.Frame(data=[go.Heatmap(z=z)], traces=[1], name=str(i)) for i, z in enumerate(steps)]
    figure.update_layout(
        height=520, margin={"l": 10, "r": 10, "t": 85, "b": 10}, sliders=[frame_slider(labels, "", active)]
    )
    west, east, south, north = REGION
    figure.update_xaxes(range=[west, east], visible=False, constrain="domain")
    square: dict[str, Any] = {"constrain": "domain", "constraintoward": "top", "scaleratio": 1.05}
    figure.update_yaxes(range=[south, north], visible=False, **square)
    figure.update_yaxes(scaleanchor="x", col=1)
    figure.update_yaxes(scaleanchor="x2", col=2)
    return figure


def _grid_axes(step_deg: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    west, east, south, north = REGION
    return np.arange(west + step_deg / 2, east, step_deg), np.arange(south + step_deg / 2, north, step_deg)


def _coast_of_region() -> NDArray[np.float32]:
    """The coastlines around `REGION`, with one NaN row between two lines."""
    west, east, south, north = REGION
    line = land_lines().astype(np.float32).round(1)
    lon, lat = line.T
    near = (lon > west - 5) & (lon < east + 5) & (lat > south - 5) & (lat < north + 5)
    line[~near] = np.nan
    gap = np.isnan(line[:, 0])
    return line[~(gap & np.roll(gap, 1))]
