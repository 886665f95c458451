"""Whether two encoders differ.

All classification results of a dataset are about the same images, so two encoders can be compared image by image:
only the images that exactly one of them gets right say anything. How many these are also bounds how far apart two runs
of one model can be. With sixteen rows there are 120 pairs for each dataset, so p-values are corrected (Holm).
"""

import itertools
import os
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor

from tslab._checks import check_count
from tslab._files import atomic_write, read_csv
from tslab.benchmark.recompute import NothingToRecomputeError, released_samples
from tslab.benchmark.store import find_record
from tslab.metrics import bootstrap_means, interval_of, r2_of_means, regression_values
from tslab.published import CLASSIFICATION_DATASETS, ENCODER_ROWS

COMPARISONS = "comparisons.csv"
COMPARISON_COLUMNS = ("dataset", "a", "b", "n", "only_a", "only_b", "difference", "p", "p_holm")
NO_ENCODER = ("no_prior", "tile")
"""Rows without a place in them: the image alone, and tile as released, whose only cell is the whole map."""


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value of McNemar's test: are images that one of two models alone gets right as often
    a's as b's? Under the null hypothesis only_a ~ Binomial(only_a + only_b, 1/2). 1.0 without any such image."""
    from scipy.stats import binomtest

    total = check_count("only_a", only_a, at_least=0) + check_count("only_b", only_b, at_least=0)
    return float(binomtest(only_a, total, 0.5).pvalue) if total else 1.0


def holm(p: ArrayLike) -> Float[np.ndarray, " m"]:
    """Holm's step-down correction: p-values that can be compared with 0.05 although there are many of them.

    Sorted ascending, the i-th of m is multiplied by m - i + 1, then made non-decreasing and cut at 1.
    """
    values = np.asarray(p, dtype=float)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("p must be p-values: numbers from 0 to 1 in one dimension, without NaN")
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    out = np.empty_like(values)
    out[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return out


def compare_hits(hits: Mapping[str, Bool[np.ndarray, " n"]]) -> pd.DataFrame:
    """All pairs of models on the same rows, by McNemar's test with Holm's correction over the pairs.

    Args:
        hits: model -> whether it got each row right; the rows must be the same for all models.

    Returns:
        one row for each pair, in the order of ``hits``: a, b, n, only_a and only_b (rows that only one gets right),
        difference (Top-1 of a minus b, in points), p, p_holm.
    """
    lengths = {len(rows) for rows in hits.values()}
    if len(lengths) > 1:
        raise ValueError(f"models must be compared on the same rows, but they have {sorted(lengths)} of them")
    rows = []
    for a, b in itertools.combinations(hits, 2):
        x, y = np.asarray(hits[a], dtype=bool), np.asarray(hits[b], dtype=bool)
        only_a, only_b = int((x & ~y).sum()), int((y & ~x).sum())
        difference = 100 * (only_a - only_b) / len(x)
        rows.append((a, b, len(x), only_a, only_b, difference, mcnemar(only_a, only_b)))
    table = pd.DataFrame(rows, columns=[c for c in COMPARISON_COLUMNS if c not in ("dataset", "p_holm")])
    return table.assign(p_holm=holm(table["p"]))


def compare_released(datasets: Sequence[str] | None = None, root: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """`compare_hits` for the released results of each dataset; columns dataset and those of `compare_hits`.

    A dataset without at least two released rows (iNat2017) has no pairs.
    """
    parts = []
    for dataset in datasets or CLASSIFICATION_DATASETS:
        hits = {}
        for encoder in ENCODER_ROWS:
            try:
                hits[encoder] = released_samples(dataset, encoder, root)[0]["hit1"].to_numpy(dtype=bool)
            except NothingToRecomputeError:
                continue
        if len(hits) > 1:
            parts.append(compare_hits(hits).assign(dataset=dataset))
    if not parts:
        return pd.DataFrame(columns=list(COMPARISON_COLUMNS))
    return pd.concat(parts, ignore_index=True)[list(COMPARISON_COLUMNS)]


def write_comparisons(table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write the record of `compare_released`, with 4 decimals and p-values to 3 digits."""
    rows = table.assign(difference=table["difference"].map("{:.4f}".format))
    for name in ("p", "p_holm"):
        rows[name] = table[name].map("{:.3g}".format)
    atomic_write(path, rows.to_csv(index=False, lineterminator="\n"))


def read_comparisons(path: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """The record of `compare_released`: the committed one, or the one at ``path``."""
    return read_csv(find_record(COMPARISONS) if path is None else path)


def run_noise(comparisons: pd.DataFrame) -> pd.DataFrame:
    """How far apart the Top-1 of two runs of one model plausibly are on the same images, in points.

    Runs differ only by images that one of them alone gets right. If there are D of these, and each falls to either
    run like a coin, their hits differ by less than 1.96 sqrt(D) in 95 % of cases: 196 sqrt(D) / n points of n images.
    For two runs of one model nobody released a D. **Assumption**: it lies in the range that D has between two encoders
    of the dataset, which were trained apart as two runs are and differ in more.

    Args:
        comparisons: columns dataset, a, b, n, only_a, only_b, as `compare_released` gives them.

    Returns:
        dataset -> the bound for the ``smallest``, ``median`` and ``largest`` D among pairs of encoders (without
        `NO_ENCODER`).
    """
    pairs = comparisons[~comparisons["a"].isin(NO_ENCODER) & ~comparisons["b"].isin(NO_ENCODER)]
    apart = 196 * np.sqrt(pairs["only_a"] + pairs["only_b"]) / pairs["n"]
    by_dataset = apart.groupby(pairs["dataset"], sort=False)
    return pd.DataFrame(
        {"smallest": by_dataset.min(), "median": by_dataset.median(), "largest": by_dataset.max()}, dtype=float
    )


def paired_bootstrap(
    a: pd.DataFrame, b: pd.DataFrame, *, replicates: int = 2000, seed: int = 0
) -> tuple[float, float, float, float]:
    """R2 of ``a`` minus R2 of ``b`` on the same rows: difference, 95 % interval, two-sided p-value.

    Both hold prediction and label; rows are drawn with replacement, the same for both, or whole blocks where ``a`` has
    a column ``block``. The p-value is twice the
    smaller share of replicates on either side of zero, at least 1 / replicates. All are NaN if all labels are equal.
    """
    check_count("replicates", replicates)
    check_count("seed", seed, at_least=0)
    label = a["label"].to_numpy(dtype=float)
    if len(a) != len(b) or not np.allclose(label, b["label"].to_numpy(dtype=float)):
        raise ValueError("a paired comparison needs the same rows in the same order, but the labels differ")
    errors = regression_values(a["prediction"].to_numpy(dtype=float), label)
    errors[:, 1] = regression_values(b["prediction"].to_numpy(dtype=float), label)[:, 0]

    def difference(means: Tensor) -> Tensor:
        return r2_of_means(means) - r2_of_means(means[..., [1, 1, 2, 3]])

    blocks, rng = a.get("block"), np.random.default_rng(seed)
    drawn = difference(bootstrap_means(errors, blocks=blocks, replicates=replicates, seed=rng))
    defined = drawn[~drawn.isnan()]
    side = min(float((defined <= 0).double().mean()), float((defined >= 0).double().mean()))
    p = float(np.clip(2 * side, 1 / replicates, 1.0))
    return float(difference(errors.mean(0))), *interval_of(drawn, blocks=blocks), p
