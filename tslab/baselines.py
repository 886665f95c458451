"""Baselines: what you get without a location encoder, so that every table can show what an encoder adds.

For classes: frequency, grid histogram, nearest neighbours on the sphere, kernel density. For numbers: the
mean, an inverse-distance average of neighbours, gradient-boosted trees on the coordinates. (The image alone
is ``tslab.evaluate("no_prior", table)``.) Each is fitted to a training table and goes into `tslab.evaluate`
like a trained model.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from tslab._checks import check_choice, check_count, check_finite, check_number, require
from tslab.coords import EARTH_RADIUS_KM, check_lonlat, has_location, unit_vectors
from tslab.earth import check_grid, grid_cells
from tslab.tasks.table import Table
from tslab.tasks.task import Task, check_classes

CHUNK_ELEMENTS = 2**24


class ClassFrequency:
    """P(c) = (n_c + a) / (n + a K): how often each class occurs, wherever you are. ``smoothing`` is a."""

    def __init__(self, table: Table, num_classes: int, *, smoothing: float = 1.0) -> None:
        check_number("smoothing", smoothing, at_least=0)
        if not len(table):
            raise ValueError("the training table is empty; a baseline cannot be fitted")
        if table.target.is_floating_point():
            raise ValueError("labels are numbers; baselines of classes need class numbers")
        check_classes(table.target, num_classes, "the training table")
        count = torch.bincount(table.target.cpu(), minlength=num_classes).double()
        self.num_classes = num_classes
        self.log_p = ((count + smoothing) / (count.sum() + smoothing * num_classes)).log()

    def log_prior(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n k"]:
        return self.log_p.to(lonlat).expand(len(lonlat), -1)


class GridHistogram:
    """P(c | cell) = (n_{c,cell} + a P(c)) / (n_cell + a): class frequencies in cells of ``cell_deg`` degrees.

    ``smoothing`` a is the weight, in observations, of the global class frequency: an empty cell says what
    the world says.
    """

    def __init__(self, table: Table, num_classes: int, *, cell_deg: float = 2.0, smoothing: float = 1.0) -> None:
        check_grid("cell_deg", cell_deg)
        check_number("smoothing", smoothing, above=0)
        located = _located(table)
        self.cell_deg, self.smoothing, self.num_classes = cell_deg, smoothing, num_classes
        self.world = ClassFrequency(located, num_classes).log_p.exp()
        cells = grid_cells(located.lonlat.cpu(), cell_deg)
        self.cells, inverse = cells.unique(return_inverse=True)
        pairs = inverse * num_classes + located.target.cpu()
        size = len(self.cells) * num_classes
        self.count = torch.bincount(pairs, minlength=size).view(-1, num_classes).float()

    def log_prior(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n k"]:
        cells = grid_cells(lonlat.cpu(), self.cell_deg)
        row = torch.searchsorted(self.cells, cells).clamp(max=len(self.cells) - 1)
        known = (self.cells[row] == cells)[:, None]
        count = torch.where(known, self.count[row], 0.0).double()
        p = (count + self.smoothing * self.world) / (count.sum(1, keepdim=True) + self.smoothing)
        return p.log().to(lonlat)


class NearestNeighbors:
    """P(c | x) from the classes of the k nearest training places on the sphere, with a little of the class frequency.

    P(c | x) = (sum_j w_j [y_j = c] + a P(c)) / (sum_j w_j + a), w_j = 1 ("uniform") or 1 / (d_j +
    ``softening_km``) scaled to a maximum of 1 ("distance").
    """

    def __init__(
        self,
        table: Table,
        num_classes: int,
        *,
        k: int = 10,
        weights: str = "uniform",
        softening_km: float = 10.0,
        smoothing: float = 0.1,
    ) -> None:
        check_choice("weights", weights, ("uniform", "distance"))
        check_number("softening_km", softening_km, above=0)
        check_number("smoothing", smoothing, at_least=0)
        located = _located(table)
        self.neighbors = SphereNeighbors(located.lonlat, k)
        self.target = located.target.cpu()
        self.world = ClassFrequency(located, num_classes).log_p.exp()
        self.num_classes, self.smoothing = num_classes, smoothing
        self.weights, self.softening_km = weights, softening_km

    def log_prior(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n k"]:
        out = lonlat.new_full((len(lonlat), self.num_classes), torch.nan)
        located = has_location(lonlat)
        distance, index = self.neighbors.query(lonlat[located])
        weight = torch.ones_like(distance)
        if self.weights == "distance":
            weight = (distance[:, :1] + self.softening_km) / (distance + self.softening_km)
        votes = torch.zeros((len(index), self.num_classes), dtype=torch.float64)
        votes.scatter_add_(1, self.target[index], weight)
        p = (votes + self.smoothing * self.world) / (weight.sum(1, keepdim=True) + self.smoothing)
        out[located] = p.log().to(out)
        return out


class KernelDensity:
    """P(c | x) from a density of each class around its training places, a von Mises-Fisher kernel on the sphere.

    P(c | x) = (sum_{j: y_j = c} K(x, x_j) + a P(c)) / (sum_j K(x, x_j) + a), K = exp(kappa (x . x_j - 1)),
    kappa = (radius / bandwidth)^2, so that K falls like a Gaussian of standard deviation ``bandwidth_km``.
    The cost is the number of places asked times the number of training places.
    """

    def __init__(self, table: Table, num_classes: int, *, bandwidth_km: float = 200.0, smoothing: float = 1e-3) -> None:
        check_number("bandwidth_km", bandwidth_km, at_least=1e-3)
        check_number("smoothing", smoothing, at_least=0)
        located = _located(table)
        self.num_classes, self.smoothing = num_classes, smoothing
        self.kappa = (EARTH_RADIUS_KM / bandwidth_km) ** 2
        order = located.target.argsort(stable=True)
        self.places = unit_vectors(located.lonlat.double())[order]
        self.classes = located.target[order]
        self.world = ClassFrequency(located, num_classes).log_p.exp()

    def log_prior(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n k"]:
        out = lonlat.new_empty((len(lonlat), self.num_classes))
        places, classes = self.places.to(lonlat.device), self.classes.to(lonlat.device)
        world = self.world.to(lonlat.device)
        rows = max(1, CHUNK_ELEMENTS // len(places))
        for target, block in zip(out.split(rows), lonlat.split(rows), strict=True):
            cosine = unit_vectors(block.double()) @ places.T
            kernel = torch.exp(self.kappa * (cosine - 1))
            votes = kernel.new_zeros((len(block), self.num_classes)).index_add_(1, classes, kernel)
            p = (votes + self.smoothing * world) / (votes.sum(1, keepdim=True) + self.smoothing)
            target.copy_(p.log())
        return out


class MeanLabel:
    """The mean label of the training rows, everywhere: R^2 = 0 by construction, up to the difference of the
    splits."""

    def __init__(self, table: Table) -> None:
        if not len(table):
            raise ValueError("the training table is empty; a baseline cannot be fitted")
        check_finite("the label", table.target)
        self.mean = float(table.target.double().mean())

    def predict(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        return lonlat.new_full((len(lonlat),), self.mean, dtype=torch.float64)


class NeighborAverage:
    """The average label of the k nearest training places on the sphere, weighted by distance^-``power`` (0:
    not weighted).

    A place without a location gets the mean of all training labels.
    """

    def __init__(self, table: Table, *, k: int = 10, power: float = 1.0, softening_km: float = 1.0) -> None:
        check_number("power", power, at_least=0)
        check_number("softening_km", softening_km, above=0)
        check_finite("the label", table.target)
        located = _located(table)
        self.neighbors = SphereNeighbors(located.lonlat, k)
        self.label = located.target.double().cpu()
        self.mean, self.power, self.softening_km = float(self.label.mean()), power, softening_km

    def predict(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        out = torch.full((len(lonlat),), self.mean, dtype=torch.float64)
        located = has_location(lonlat).cpu()
        distance, index = self.neighbors.query(lonlat.cpu()[located])
        out[located] = self.average(distance, index)
        return out.to(lonlat.device)

    def leave_one_out(self) -> Float[Tensor, " m"]:
        """The prediction at each located training place from its neighbours, itself left out."""
        distance, index = self.neighbors.query_self()
        return self.average(distance, index)

    def average(self, distance: Float[Tensor, "n k"], index: Int[Tensor, "n k"]) -> Float[Tensor, " n"]:
        """The weighted average of neighbours at these distances in km; ``index`` are their rows."""
        weight = (distance + self.softening_km) ** -self.power
        return (weight * self.label[index]).sum(1) / weight.sum(1)


class CoordinateTrees:
    """Gradient-boosted trees on longitude and latitude (``coordinates="lonlat"``) or on these and the unit
    vector ("both").

    scikit-learn's HistGradientBoostingRegressor; a missing place is a missing value to it. ``options`` go to
    the regressor.
    """

    def __init__(self, table: Table, *, coordinates: str = "both", seed: int = 0, **options: Any) -> None:
        check_choice("coordinates", coordinates, ("lonlat", "both"))
        check_count("seed", seed, at_least=0, at_most=2**32 - 1)
        check_finite("the label", table.target)
        regressor: Any = require("sklearn.ensemble", "ml").HistGradientBoostingRegressor
        self.coordinates = coordinates
        defaults = {"max_iter": 1000, "learning_rate": 0.1, "max_leaf_nodes": 63, "early_stopping": True}
        self.trees = regressor(random_state=seed, **(defaults | options))
        self.trees.fit(self._features(table.lonlat), table.target.double().cpu().numpy())

    def predict(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        return torch.from_numpy(self.trees.predict(self._features(lonlat))).to(lonlat.device)

    def _features(self, lonlat: Float[Tensor, "n 2"]) -> np.ndarray:
        degrees = lonlat.double().cpu()
        return (degrees if self.coordinates == "lonlat" else torch.cat([degrees, unit_vectors(degrees)], 1)).numpy()


class SphereNeighbors:
    """The k nearest of a set of places, by great-circle distance, through a k-d tree over unit vectors.

    Raises:
        ValueError: fewer places than ``k`` + 1 (so that leaving one out is always possible).
    """

    def __init__(self, lonlat: Float[Tensor, "m 2"], k: int) -> None:
        if not 1 <= check_count("k", k) < len(lonlat):
            raise ValueError(f"k={k} neighbours of {len(lonlat)} located places: k must lie in 1 ... {len(lonlat) - 1}")
        self.k = k
        self.xyz = unit_vectors(check_lonlat(lonlat).double()).cpu().numpy()
        self.tree = cKDTree(self.xyz)

    def query(self, lonlat: Float[Tensor, "n 2"]) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
        """(distance in km, row of the place), nearest first."""
        chord, index = self.tree.query(unit_vectors(lonlat.double()).cpu().numpy(), k=range(1, self.k + 1), workers=-1)
        return _kilometres(chord), torch.from_numpy(np.asarray(index, dtype=np.int64))

    def query_self(self) -> tuple[Float[Tensor, "m k"], Int[Tensor, "m k"]]:
        """As `query` at the places themselves, each without its own row (places that coincide with it stay)."""
        chord, index = self.tree.query(self.xyz, k=self.k + 1, workers=-1)
        own = index == np.arange(len(index))[:, None]
        own[~own.any(1), -1] = True  # more coinciding places than k: drop the last
        keep = ~own
        rows = torch.from_numpy(index[keep].reshape(-1, self.k).astype(np.int64))
        return _kilometres(chord[keep].reshape(-1, self.k)), rows


CLASS_BASELINES: dict[str, Callable[..., Any]] = {
    "class_frequency": ClassFrequency,
    "grid": GridHistogram,
    "knn": NearestNeighbors,
    "kde": KernelDensity,
}
REGRESSION_BASELINES: dict[str, Callable[..., Any]] = {
    "mean": MeanLabel,
    "knn": NeighborAverage,
    "trees": CoordinateTrees,
}


def fit_baseline(key: str, task: Task, **options: Any) -> Any:
    """Fit the baseline ``key`` to the training rows of a task; the result goes into `tslab.evaluate`.

    Keys for classes: "class_frequency", "grid", "knn", "kde"; for numbers: "mean", "knn", "trees".
    ``options`` are those of its class.

    Raises:
        KeyError: not a baseline of this kind of task, with the list.
    """
    classes = task.meta.kind == "classification"
    known = CLASS_BASELINES if classes else REGRESSION_BASELINES
    if key not in known:
        raise KeyError(f"baseline {key!r} is not one for {task.meta.kind}; choose one of {', '.join(known)}")
    return known[key](task.train, task.num_classes, **options) if classes else known[key](task.train, **options)


def _located(table: Table) -> Table:
    located = table.has_location
    if not bool(located.any()):
        raise ValueError("no training row has a location; a baseline of places cannot be fitted")
    return table.where(located)


def _kilometres(chord: np.ndarray) -> Float[Tensor, "n k"]:
    """Great-circle distance of a straight line through a sphere of radius 1."""
    return 2 * EARTH_RADIUS_KM * torch.from_numpy(np.arcsin(np.clip(chord / 2, 0, 1)))
