"""Synthetic stand-ins of the ten regression datasets.

A label is drawn in four steps whose laws are known, so the best possible R² is known:

- a field f(x) of several octaves, plus a climatic part and, for SustainBench, a random effect per country;
- noise: z = f(x) + eta n with n ~ N(0, 1), eta chosen so that the location explains the wanted share of the label;
- the label's own distribution: y = Q(F(z)), with F the distribution of z over the rows and Q the quantiles measured on
  the released labels, zeros and tails included; the truth is E[y | x], an integral over n;
- image features that see two noisy scores: the part of y that no location explains, and (less well) the part that it
  does. Their noise is set so that the scores alone explain the published share without location.

SustainBench images are one number, the night light of the cluster: ln(nl) is a noisy copy of the label in the unit
of its satellite, DMSP up to 2011, VIIRS later.
"""

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from tslab.coords import has_location, unit_vectors
from tslab.earth import is_land
from tslab.synthetic.specs import ROWS, VALUE_SPECS, Quantiles, ValueSpec, stand_in_meta
from tslab.synthetic.world import SphereField, World, draw, land_places, on_grid, random_stream, scatter
from tslab.tasks.datasets import DATASETS, Scale
from tslab.tasks.images import ImageInput, LazyRows
from tslab.tasks.table import Table
from tslab.tasks.task import Task

REFERENCE_PLACES = 12_000
NODES, WEIGHTS = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(48))
WEIGHTS = WEIGHTS / WEIGHTS.sum()
NUISANCE = 28
COUNTRIES = 56


def value_task(name: str, scale: Scale, seed: int) -> Task:
    """The stand-in of one regression dataset."""
    info, spec, world = DATASETS[name], VALUE_SPECS[name], World(seed)
    stream = partial(random_stream, seed, name, scale)
    truth = build_truth(name, spec, world, seed)
    n = spec.rows if scale == "full" else ROWS[scale]["regression"]
    lonlat = _places(n, spec, world, stream("places"))
    field = truth.field(lonlat)
    latent = field + truth.noise * torch.from_numpy(stream("noise").standard_normal(n))
    truth = ValueTruth(truth.field, truth.noise, Marginal(latent, spec.quantiles))
    label = truth.marginal(latent)
    location_r2 = explained_share(truth, field)
    extra: dict[str, Any] = {}
    facts: dict[str, Any] = {"image_kind": "feats", "label_transform": info.label_transform}
    test, val = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    if truth.field.countries is not None:
        countries = truth.field.countries
        group, year = countries.of(lonlat), torch.from_numpy(stream("year").integers(1996, 2020, n))
        extra = {"group": group, "year": year}
        facts = {"image_kind": "scalar", "label_transform": "standard normal", "groups": countries.names}
        image: ImageInput = night_lights(label, year, spec, stream("image"))
        together = 1 - 1 / (1 / (1 - location_r2) + spec.image_r2 / (1 - spec.image_r2))
        test, val = torch.isin(group, countries.test), torch.isin(group, countries.val)
    else:
        scores, together = image_scores(label, truth.moments(field)[0], location_r2, spec, stream("image"))
        generated = GeneratedRows(scores, 2048 if scale == "full" else 64, stream("mixing"))
        image = LazyRows(generated) if scale == "full" else torch.from_numpy(generated[:])
        test[torch.from_numpy(stream("split").permutation(n)[: round(0.2 * n)])] = True
    whole = Table(lonlat=lonlat.float(), target=label.float(), image=image, **extra)
    ceiling = {"location_r2": location_r2, "image_r2": spec.image_r2, "both_r2": together}
    meta = stand_in_meta(
        info,
        scale,
        seed,
        label_unit=info.label_unit,
        image_model="simulated, calibrated to the published R² without location",
        ceiling={key: round(value, 4) for key, value in ceiling.items()},
        **facts,
    )
    return Task(name, whole.where(~test & ~val), whole.where(val), whole.where(test), meta, truth)


def _places(n: int, spec: ValueSpec, world: World, rng: np.random.Generator) -> Float[Tensor, "n 2"]:
    """Where the rows of a dataset may lie."""
    return surveyed_places(n, world, rng) if spec.countries else land_places(n, rng, spec.lat_range)


class Marginal:
    """The label's distribution as a function of the latent z: y = Q(F(z)), both piecewise linear."""

    def __init__(self, latent: Float[Tensor, " k"], quantiles: Quantiles | None) -> None:
        grid = (np.arange(4096) + 0.5) / 4096
        self.knots = linear_quantiles(latent.numpy(), grid)
        self.values = np.round(ndtri(grid) if quantiles is None else np.interp(grid, *quantiles), 6)

    def __call__(self, latent: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return torch.from_numpy(np.interp(latent.numpy(), self.knots, self.values))


def linear_quantiles(values: NDArray[np.float64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """``np.quantile(values, probabilities)`` to the last bit, a hundred times faster for thousands of probabilities."""
    ordered = np.sort(values)
    at = probabilities * (len(ordered) - 1)
    below = np.floor(at).astype(np.int64)
    low, high = ordered[below], ordered[np.minimum(below + 1, len(ordered) - 1)]
    t = at - below
    return np.where(t >= 0.5, high - (high - low) * (1 - t), low + (high - low) * t)


class ValueTruth:
    """E[label | place]: (n, 2) degrees to (n,) float64; the average of the world's land where the place is missing."""

    def __init__(self, field: "LabelField", noise: float, marginal: Marginal) -> None:
        self.field, self.noise, self.marginal = field, noise, marginal
        self.mean = float(marginal.values.mean())

    def __call__(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        place = lonlat.detach().double().cpu()
        result = torch.full((len(place),), self.mean, dtype=torch.float64)
        located = has_location(place)
        result[located], _ = self.moments(self.field(place[located]))
        return result.to(lonlat.device)

    def moments(self, field: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """E[label | f] and Var[label | f] by Gauss-Hermite quadrature over the noise."""
        first, second = torch.empty_like(field), torch.empty_like(field)
        for start in range(0, len(field), 1 << 14):
            part = slice(start, start + (1 << 14))
            values = self.marginal(field[part, None] + self.noise * NODES)
            first[part], second[part] = values @ WEIGHTS, values**2 @ WEIGHTS
        return first, (second - first**2).clamp_min(0)


class LabelField:
    """f: octaves, climate and country effects, standardised over the world's land; (n, 2) degrees to (n,) float64."""

    def __init__(self, name: str, spec: ValueSpec, world: World, seed: int) -> None:
        self.octaves = SphereField(random_stream(seed, name, "field"), spec.octaves, spec.amplitudes)
        self.world, self.climate = world, spec.climate
        self.countries = Countries(seed) if spec.countries else None
        self.effects = torch.from_numpy(random_stream(seed, name, "effects").standard_normal(COUNTRIES))
        self.shift, self.scale = 0.0, 1.0

    def standardise(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        """Shift and scale so that f has mean 0 and standard deviation 1 over ``lonlat``; returns f there."""
        raw = self(lonlat)
        self.shift, self.scale = float(raw.mean()), float(raw.std())
        return (raw - self.shift) / self.scale

    def __call__(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        xyz = unit_vectors(lonlat.double())
        total = self.octaves(xyz) + self.climate * self.world.temperature(xyz)
        if self.countries is not None:
            total = total + 0.7 * self.effects[self.countries.of(lonlat)]
        return (total - self.shift) / self.scale


class Countries:
    """56 countries: the land of low and middle latitudes, divided by the nearest of 56 capitals."""

    def __init__(self, seed: int) -> None:
        rng = random_stream(seed, "countries")
        land = land_places(4000, rng, (-35.0, 40.0))
        land = land[is_surveyed(land)]
        capitals = [0]
        xyz = unit_vectors(land.double())
        nearness = xyz @ xyz[0]
        while len(capitals) < COUNTRIES:
            capitals.append(int(nearness.argmin()))
            nearness = torch.maximum(nearness, xyz @ xyz[capitals[-1]])
        self.capitals = xyz[capitals]
        self.names = tuple(f"{chr(65 + i // 26)}{chr(65 + i % 26)}" for i in range(COUNTRIES))
        order = torch.from_numpy(rng.permutation(COUNTRIES))
        self.test, self.val, self.train = order[:13], order[13:26], order[26:]

    def of(self, lonlat: Float[Tensor, "n 2"]) -> Int[Tensor, " n"]:
        """The country of each place."""
        return (unit_vectors(lonlat.double()) @ self.capitals.T).argmax(-1)


def is_surveyed(lonlat: Float[Tensor, "n 2"]) -> Tensor:
    """True in Africa and the Middle East, Latin America, and South and South-East Asia."""
    lon, lat = lonlat.unbind(-1)
    africa = (lon > -20) & (lon < 55) & (lat < 40)
    america = (lon > -118) & (lon < -34) & (lat < 23) & (lat > -35)
    asia = (lon >= 55) & (lon < 130) & (lat < 40) & (lat > -11)
    return africa | america | asia


def surveyed_places(n: int, world: World, rng: np.random.Generator) -> Float[Tensor, "n 2"]:
    """``n`` survey clusters around settlements: degrees, float64 on a grid of 1e-4."""
    land = land_places(12_000, rng, (-35.0, 40.0))
    land = land[is_surveyed(land)]
    weights = torch.exp(0.7 * world.settlement(unit_vectors(land))).numpy()
    towns = unit_vectors(land[torch.from_numpy(draw(rng, weights, n))])
    around = on_grid(scatter(rng, towns, np.full(n, 30_000.0)))
    keep = is_land(around) & is_surveyed(around)
    return torch.where(keep[:, None], around, on_grid(towns))


class GeneratedRows:
    """Image features that are computed when asked for: tanh nuisance and the scores, mixed into ``dim`` columns.

    Behaves like a two-dimensional float32 array (shape, dtype, indexing by rows); only the scores are stored.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, scores: Float[Tensor, "n k"], dim: int, rng: np.random.Generator) -> None:
        self.scores = scores.numpy()
        self.mixing = rng.standard_normal((self.scores.shape[1], dim)) / math.sqrt(self.scores.shape[1])
        self.shape = (len(self.scores), dim)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        return (self.scores[index].astype(np.float64) @ self.mixing).astype(np.float32)


def build_truth(name: str, spec: ValueSpec, world: World, seed: int) -> ValueTruth:
    """The field, the noise and the label's distribution of one stand-in.

    eta is found by bisection on a grid of 1/512 such that Var(E[y | f]) / Var(y) = ``location_r2`` over the world's
    land.
    """
    field = LabelField(name, spec, world, seed)
    places = _places(REFERENCE_PLACES, spec, world, rng := random_stream(seed, name, "reference"))
    f = field.standardise(places)
    noise = torch.from_numpy(rng.standard_normal(len(f)))

    def truth(step: int) -> ValueTruth:
        eta = step / 512
        return ValueTruth(field, eta, Marginal(f + eta * noise, spec.quantiles))

    low, high = 1, 512 * 8
    while high - low > 1:
        middle = (low + high) // 2
        too_little_noise = explained_share(truth(middle), f) > spec.location_r2
        low, high = (middle, high) if too_little_noise else (low, middle)
    return truth(low)


def explained_share(truth: ValueTruth, field: Float[Tensor, " n"]) -> float:
    """Var(E[y | f]) / Var(y) over places with these values of the field: the R² of the truth, without sampling."""
    expected, variance = truth.moments(field)
    between = float(expected.var())
    return between / (between + float(variance.mean()))


def image_scores(
    label: Float[Tensor, " n"],
    expected: Float[Tensor, " n"],
    location_r2: float,
    spec: ValueSpec,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, "n k"], float]:
    """What the image sees, (n, 2 + nuisance) float32, and the share of the label that image and location explain
    together.

    With V_r = Var(y - E[y|x]) and V_s = Var(E[y|x]) the scores are y - E[y|x] and E[y|x] with noise of reliabilities a
    and b, a V_r + b V_s = ``image_r2`` Var(y). As much as plausible comes from what the location cannot explain.
    """
    rest = label - expected
    unexplained, explained = 1 - location_r2, location_r2
    a = min(0.8, 0.6 * spec.image_r2 / unexplained)
    b = min(0.99, max(0.0, (spec.image_r2 - a * unexplained) / explained))
    columns = [_noisy(rest, a, rng), _noisy(expected - expected.mean(), b, rng)]
    nuisance = torch.tanh(torch.from_numpy(rng.standard_normal((len(label), NUISANCE))) * 1.5)
    return torch.cat([torch.stack(columns, -1), nuisance], -1).float(), 1 - unexplained * (1 - a)


def night_lights(
    label: Float[Tensor, " n"], year: Int[Tensor, " n"], spec: ValueSpec, rng: np.random.Generator
) -> Float[Tensor, "n 1"]:
    """The mean night light of each cluster: ln(nl) correlates with the (normal) label by the root of ``image_r2``."""
    strength = math.sqrt(spec.image_r2)
    other = torch.from_numpy(rng.standard_normal(len(label)))
    latent = strength * label / label.std() + math.sqrt(1 - spec.image_r2) * other
    dmsp, viirs = 8 * torch.exp(0.8 * latent), 0.6 * torch.exp(1.1 * latent)
    return torch.where(year < 2012, dmsp, viirs).float()[:, None]


def _noisy(values: Tensor, reliability: float, rng: np.random.Generator) -> Tensor:
    """Standardised values plus noise, such that ``reliability`` is the squared correlation with the values."""
    noise = torch.from_numpy(rng.standard_normal(len(values)))
    clean = values / values.std().clamp_min(1e-12)
    return math.sqrt(reliability) * clean + math.sqrt(1 - reliability) * noise
