"""What distinguishes the synthetic stand-ins: the statistics that each one follows, and what was fitted to meet them.

Facts stand in ``data/synthetic_specs.json``: shares of continents, quantiles and gaps measured on the released results,
published scores without location, and how much the location tells (a choice above the published best). The numbers
of the simulated image models stand in ``data/synthetic_calibration.json``.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from tslab._files import packaged_json
from tslab.synthetic.images import ImageModel
from tslab.synthetic.world import GENERATOR_VERSION, Geography
from tslab.tasks.datasets import DatasetInfo, Scale, TaskMeta

Quantiles = tuple[tuple[float, ...], tuple[float, ...]]
"""Probabilities and values of a distribution."""


@dataclass(frozen=True)
class ClassSpec:
    """What makes one classification stand-in like its dataset.

    Attributes:
        geography: where its rows lie.
        classes: number of classes at each scale.
        tail: exponent of the class frequencies, 0 for equal ones.
        balanced_test: the evaluated rows hold every class equally often (iNat2018).
        missing: share of rows without location in train, val and test.
        users: number of photographers at full scale, 0 where they are unknown.
        dates: whether rows have dates.
        sparse: predictions are stored sparse, small entries dropped.
        land_use: classes follow the landscape in place of ranges (fMoW).
        train_images: predictions exist for the training rows.
        gain: accuracy that the true location prior adds to the image model, by the benchmark's rule (product).
    """

    geography: Geography
    classes: dict[str, int]
    gain: float
    tail: float = 0.0
    balanced_test: bool = False
    missing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    users: int = 0
    dates: bool = True
    sparse: bool = True
    land_use: bool = False
    train_images: bool = True


@dataclass(frozen=True)
class ValueSpec:
    """What makes one regression stand-in like its dataset.

    Attributes:
        quantiles: probabilities and values of the label's distribution; None for a standard normal.
        location_r2: share of the label's variance that the location explains (the ceiling), a choice above the
            published best.
        image_r2: share that the image explains: the published score without location.
        octaves, amplitudes: of the field.
        climate: weight of temperature in the field.
        lat_range: latitudes that rows lie between, degrees.
        countries: SustainBench: rows cluster in 56 countries with effects of their own.
        rows: rows at full scale, train and test together.
    """

    location_r2: float
    image_r2: float
    rows: int
    quantiles: Quantiles | None = None
    octaves: tuple[float, ...] = (2, 6, 18, 54)
    amplitudes: tuple[float, ...] = (1.0, 0.8, 0.5, 0.3)
    climate: float = 0.0
    lat_range: tuple[float, float] = (-63.0, 80.0)
    countries: bool = False


@dataclass(frozen=True)
class Calibration:
    """Numbers fitted once so that a stand-in meets the published statistics."""

    image: ImageModel
    floor: float


@cache
def calibration(name: str, scale: Scale) -> Calibration:
    """The stored calibration of a classification stand-in (``data_scripts/make_synthetic.py --calibrate`` makes it)."""
    numbers = dict(packaged_json("synthetic_calibration.json")[name][scale])
    floor = numbers.pop("floor")
    return Calibration(ImageModel(**numbers), floor)


def synthetic_meta(scale: Scale | Literal[""], seed: int, **facts: Any) -> TaskMeta:
    """What all generated tasks say of themselves, and ``facts`` about one of them (see `TaskMeta`)."""
    return TaskMeta(
        **({"generator_version": GENERATOR_VERSION, "scale": scale, "seed": seed} | _STORED["meta"] | facts)
    )


def stand_in_meta(info: DatasetInfo, scale: Scale, seed: int, **facts: Any) -> TaskMeta:
    """`synthetic_meta` of the stand-in of one dataset."""
    note = f"Synthetic stand-in of {info.title}: generated rows with its schema and statistics. "
    return synthetic_meta(
        scale,
        seed,
        kind=info.kind,
        label_name=f"{info.label_name} (synthetic)",
        eval_split=info.eval_split,
        notes=(f"{note}Results on it are no results on {info.title}.",),
        **facts,
    )


def _class_spec(geography: dict[str, Any], **facts: Any) -> ClassSpec:
    return ClassSpec(Geography(**geography), **facts)


def _value_spec(quantiles: tuple[float, ...] | None = None, **facts: Any) -> ValueSpec:
    return ValueSpec(quantiles=(_STORED["quantile_probabilities"], quantiles) if quantiles else None, **facts)


def _as_tuples(value: Any) -> Any:
    """JSON's lists as tuples, which cannot change."""
    if isinstance(value, dict):
        return {key: _as_tuples(part) for key, part in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


_STORED = _as_tuples(packaged_json("synthetic_specs.json"))

ROWS: dict[str, dict[str, Any]] = _STORED["rows"]
"""Rows at each scale below full: train, val and test of the classification datasets, all of the others."""

STRESS_SPECS: dict[str, dict[str, Any]] = _STORED["stress"]
"""Rows of train, val and test at each scale, and what is said of them, of the two stress tests."""

CLASS_SPECS: dict[str, ClassSpec] = {name: _class_spec(**facts) for name, facts in _STORED["classes"].items()}
"""Key -> `ClassSpec` of the classification datasets."""

VALUE_SPECS: dict[str, ValueSpec] = {name: _value_spec(**facts) for name, facts in _STORED["values"].items()}
"""Key -> `ValueSpec` of the regression datasets."""
