"""One number at a time: the metrics of one encoder on one dataset from its per-sample results, with intervals.

Per-sample results come from a released file or from a model trained here; they have the same columns and go
through the same functions. Every interval is a 95 % bootstrap interval with a seed of its own, so that the
same rows give the same interval, on any machine.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from tslab._checks import check_count
from tslab.geobias.torchspatial import DENSITY_CEILING, LARGEST_FINITE, center_scores
from tslab.metrics import bootstrap_means, interval_of, r2_of_means, regression_values
from tslab.published import CLASSIFICATION_DATASETS
from tslab.released import load_released_results
from tslab.released_files import EmptyFileError, NotReleasedError, result_path

REPLICATES = 2000
LEVEL = 0.95
SAME_IMAGES = {"birdsnap_ebird": "birdsnap"}
"""Datasets that hold the images of another, in the same order: their bootstrap draws the same rows."""

GEOBIAS_SEEDS = 3
GEOBIAS_CENTERS = 1000
"""Misses that geo-bias looks at for each seed; a dataset with fewer is used whole."""

MIN_NEIGHBORS = {"classification": (5, 15), "regression": (5, 5)}
"""Smallest neighbourhoods that enter base and relative geo-bias. With 15, the thin draws of the regression files
would leave no neighbourhood at all."""


@dataclass(frozen=True)
class Measured:
    """One number with its 95 % interval, from ``n`` rows; ``details`` holds what else is worth keeping."""

    value: float
    low: float
    high: float
    n: int
    details: dict[str, float]


class NothingToRecomputeError(Exception):
    """There are no per-sample results to recompute a number from; ``reason`` is a key of `tslab.benchmark.REASONS`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def released_samples(
    dataset: str, encoder: str, root: str | os.PathLike[str] | None = None
) -> tuple[pd.DataFrame, str]:
    """Released per-sample results and the path of their file inside the release.

    Raises:
        NothingToRecomputeError: the release has none.
        tslab.released_files.ReleasedFilesMissingError: the release has them, this machine does not.
    """
    if encoder == "gpt4v":
        raise NothingToRecomputeError("asked GPT-4V", "GPT-4V answered itself; no answers were released")
    if dataset.startswith("sustainbench_"):
        raise NothingToRecomputeError(
            "no SustainBench files", f"no per-sample results of {dataset} were released, of any encoder"
        )
    try:
        path = result_path(dataset, encoder, root)
        samples = load_released_results(dataset, encoder, root)
    except NotReleasedError as error:
        reason = "empty file" if isinstance(error, EmptyFileError) else "no file"
        raise NothingToRecomputeError(reason, str(error)) from error
    return samples, (Path(*path.parts[-3:])).as_posix()


def located_images(root: str | os.PathLike[str] | None = None) -> dict[str, int]:
    """Dataset -> how many of its evaluated images have a location, where the release says so."""
    samples = {key: released_samples(key, "no_prior", root)[0] for key in CLASSIFICATION_DATASETS}
    return {key: table.attrs["n_located"] for key, table in samples.items() if table.attrs["n_located"]}


def measure(samples: pd.DataFrame, metrics: tuple[str, ...], dataset: str, **geobias: Any) -> dict[str, Measured]:
    """The metrics of per-sample results: ``top1`` (percent), ``r2``, ``geobias_base``, ``geobias_relative``.

    Args:
        samples: columns as `tslab.load_released_results` returns them.
        metrics: which ones.
        dataset: its key, which seeds the bootstrap of ``top1``.
        **geobias: of `measure_geobias`.

    Raises:
        NothingToRecomputeError: geo-bias of results without coordinates.
    """
    if samples.empty:
        raise ValueError(f"there are no rows of {dataset} to measure")
    out: dict[str, Measured] = {}
    if "top1" in metrics:
        out["top1"] = measure_top1(samples, dataset)
    if "r2" in metrics:
        out["r2"] = measure_r2(samples)
    if {"geobias_base", "geobias_relative"} & set(metrics):
        both = measure_geobias(samples, **geobias)
        out |= {name: value for name, value in both.items() if name in metrics}
    return out


def measure_top1(samples: pd.DataFrame, dataset: str) -> Measured:
    """Top-1 accuracy in percent over all rows, with the percentile bootstrap interval over rows."""
    hits, n = int(samples["hit1"].sum()), len(samples)
    replicates = top1_replicates(hits, n, dataset)
    return Measured(100 * hits / n, *interval_of(torch.from_numpy(replicates), level=LEVEL), n, {})


def top1_replicates(hits: int, n: int, dataset: str) -> Float[np.ndarray, " b"]:
    """Bootstrap replicates of a share of hits, in percent: drawing n rows with replacement and counting hits is a
    binomial draw. Datasets of the same images (`SAME_IMAGES`) get the same uniform numbers."""
    from scipy.stats import binom

    uniform = _rng(SAME_IMAGES.get(dataset, dataset)).random(REPLICATES)
    return np.asarray(100 * binom.ppf(uniform, n, hits / n) / n)


def measure_r2(samples: pd.DataFrame) -> Measured:
    """R2 = 1 - SSE / SST, SST about the mean of the rows, with the percentile bootstrap interval over rows, or over
    blocks where the samples have a column ``block``; NaN where all labels are equal."""
    values = regression_values(*(samples[name].to_numpy(dtype=float) for name in ("prediction", "label")))
    blocks = samples.get("block")
    replicates = r2_of_means(bootstrap_means(values, blocks=blocks, replicates=REPLICATES, seed=_rng("r2")))
    low, high = interval_of(replicates, level=LEVEL, blocks=blocks)
    return Measured(float(r2_of_means(values.mean(0))), low, high, len(values), {})


def measure_geobias(
    samples: pd.DataFrame, *, num_seeds: int = GEOBIAS_SEEDS, max_centers: int | None = GEOBIAS_CENTERS
) -> dict[str, Measured]:
    """Base and relative geo-bias by the inferred recipe of `tslab.geobias.torchspatial`.

    A regression result counts as a hit where its absolute error is at most the mean absolute error; that, too, is
    inferred. For each seed, up to ``max_centers`` misses are drawn, with new background points and shuffles. The
    value is the mean over the centres of all seeds; the interval is a bootstrap over cells of one degree, because
    centres close to each other share their neighbours. ``details`` hold the standard deviation over seeds.

    Raises:
        NothingToRecomputeError: the results have no coordinates, or no miss has enough neighbours.
    """
    check_count("num_seeds", num_seeds)
    if max_centers is not None:
        check_count("max_centers", max_centers)
    located = samples["lon"].notna() & samples["lat"].notna()
    if not located.any():
        raise NothingToRecomputeError("no coordinates", "these per-sample results have no coordinates in degrees")
    lonlat = torch.tensor(samples[["lon", "lat"]].to_numpy(dtype=float))
    if "hit1" in samples:
        hits, kind = samples["hit1"].to_numpy(dtype=bool), "classification"
    else:
        error = (samples["prediction"] - samples["label"]).abs()
        hits, kind = (error <= error.mean()).to_numpy(), "regression"
    if not (located.to_numpy() & ~hits).any():
        raise NothingToRecomputeError("too sparse", "there is no miss with a location to look around")
    parts = []
    for seed in range(num_seeds):
        centers = center_scores(lonlat, torch.tensor(hits), seed=seed, max_centers=max_centers)
        parts.append(centers.assign(seed=seed))
    table = pd.concat(parts, ignore_index=True)
    corner = np.floor(samples[["lon", "lat"]].to_numpy(dtype=float)[table["row"]])
    table["cell"] = pd.factorize(pd.MultiIndex.from_arrays([corner[:, 0], corner[:, 1]]))[0]
    base_n, relative_n = MIN_NEIGHBORS[kind]
    table["base"] = table["score"].clip(upper=DENSITY_CEILING).where(table["n"] >= base_n)
    finite = (table["score"] < LARGEST_FINITE) & (table["lowest"] < LARGEST_FINITE)
    table["relative"] = (table["score"] - table["lowest"]).where((table["n"] >= relative_n) & finite)
    out = {}
    for name in ("base", "relative"):
        used = table[table[name].notna()]
        if used.empty:
            continue
        over_seeds = used.groupby("seed")[name].mean()
        sums = used.groupby("cell")[name].agg(["sum", "size"]).to_numpy()
        rng = _rng(f"geobias {name}")
        weights = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=REPLICATES)
        totals = weights @ sums
        out[f"geobias_{name}"] = Measured(
            float(used[name].mean()),
            *interval_of(torch.from_numpy(totals[:, 0] / totals[:, 1]), level=LEVEL),
            int(used["row"].nunique()),
            {"seeds": num_seeds, "std_over_seeds": float(over_seeds.std(ddof=1)), "cells": len(sums)},
        )
    if not out:
        raise NothingToRecomputeError("too sparse", "no miss has enough neighbours within 100 km")
    return out


def _rng(name: str) -> np.random.Generator:
    """A generator whose seed is the name."""
    return np.random.default_rng(crc32(name.encode()))
