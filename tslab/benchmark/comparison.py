"""Whether two encoders differ, and which rankings survive.

All classification results of a dataset are about the same images, so two encoders can be compared image by image:
only the images that exactly one of them gets right say anything. How many these are also bounds how far apart two runs
of one model can be. With sixteen rows there are 120 pairs for each
dataset, so p-values are corrected (Holm). Ranks over several datasets are compared as in Demsar (2006): Friedman's
test, then Nemenyi's critical difference.
"""

import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor

from tslab._checks import check_count, check_number
from tslab._files import atomic_write, read_csv
from tslab.benchmark.recompute import NothingToRecomputeError, released_samples
from tslab.benchmark.records import find_record
from tslab.metrics import bootstrap_means, interval_of, r2_of_means, regression_values
from tslab.published import CLASSIFICATION_DATASETS, ENCODER_ROWS

COMPARISONS = "comparisons.csv"
COMPARISON_COLUMNS = ("dataset", "a", "b", "n", "only_a", "only_b", "difference", "p", "p_holm")
NO_ENCODER = ("no_prior", "tile")
"""Rows without a place in them: the image alone, and tile as released, whose only cell is the whole map."""


@dataclass(frozen=True)
class RankTest:
    """Friedman's test over datasets and Nemenyi's critical difference.

    Attributes:
        ranks: mean rank of each method, 1 is best, sorted.
        critical_difference: mean ranks that differ by less are not significantly different.
        statistic, p: Friedman's chi-square (corrected for ties) and its p-value.
        datasets: number of datasets.
        groups: the largest sets of methods whose mean ranks lie within one critical difference.
    """

    ranks: pd.Series
    critical_difference: float
    statistic: float
    p: float
    datasets: int
    groups: tuple[tuple[str, ...], ...]


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


def rank_test(scores: pd.DataFrame, *, level: float = 0.05) -> RankTest:
    """Friedman's test and Nemenyi's critical difference, q sqrt(k (k + 1) / (6 N)).

    Args:
        scores: methods (rows) by datasets (columns), larger is better; rows with a missing value are left out.
        level: of the critical difference.

    Raises:
        ValueError: fewer than three methods or two datasets.
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    check_number("level", level, above=0, below=1)
    complete = scores.dropna()
    k, n = complete.shape
    if k < 3 or n < 2:
        raise ValueError(f"ranks need at least three methods and two datasets without gaps, got {k} and {n}")
    ranked = np.stack([rankdata(-complete[column].to_numpy()) for column in complete], axis=1)
    ranks = pd.Series(ranked.mean(axis=1), index=complete.index).sort_values(kind="stable")
    statistic, p = friedmanchisquare(*complete.to_numpy())
    q = studentized_range.ppf(1 - level, k, np.inf) / math.sqrt(2)
    difference = float(q * math.sqrt(k * (k + 1) / (6 * n)))
    return RankTest(ranks, difference, float(statistic), float(p), n, _groups(ranks, difference))


def ranking_survival(cells: pd.DataFrame, comparisons: pd.DataFrame, *, level: float = 0.05) -> pd.DataFrame:
    """How much of the published order of encoders is left, dataset by dataset.

    Args:
        cells: `tslab.benchmark.read_cells`.
        comparisons: `compare_released`.

    Returns:
        one row for each dataset: dataset, pairs (with two different published numbers), same (the recomputed order
        is the published one), significant (and Holm's p is below ``level``), contradicted (the other way round, and
        significantly), kendall (tau-b of published and recomputed numbers), leader, leader_recomputed, tied_with
        (encoders that the recomputed leader is not significantly better than).
    """
    from scipy.stats import kendalltau

    rows = []
    top1 = cells[(cells["metric"] == "top1") & cells["recomputed"].notna() & (cells["encoder"] != "no_prior")]
    for dataset, part in top1.groupby("dataset", sort=False):
        pairs = comparisons[comparisons["dataset"] == dataset]
        printed = part.set_index("encoder")["published"]
        ours = part.set_index("encoder")["recomputed"]
        pairs = pairs[pairs["a"].isin(printed.index) & pairs["b"].isin(printed.index)]
        if len(pairs) == 0:
            continue
        gap = printed[pairs["a"]].to_numpy() - printed[pairs["b"]].to_numpy()
        agrees = np.sign(gap) * np.sign(pairs["difference"].to_numpy())
        sure = pairs["p_holm"].to_numpy() < level
        best = ours.idxmax()
        mine = pairs[(pairs["a"] == best) | (pairs["b"] == best)]
        rows.append(
            {
                "dataset": dataset,
                "pairs": int((gap != 0).sum()),
                "same": int((agrees > 0).sum()),
                "significant": int(((agrees > 0) & sure).sum()),
                "contradicted": int(((agrees < 0) & sure).sum()),
                "kendall": float(kendalltau(printed, ours[printed.index]).statistic),
                "leader": printed.idxmax(),
                "leader_recomputed": best,
                "tied_with": int((mine["p_holm"] >= level).sum()),
            }
        )
    return pd.DataFrame(rows)


def best_group(comparisons: pd.DataFrame, scores: pd.Series, *, level: float = 0.05) -> list[str]:
    """The best model and those that it is not significantly better than, best first."""
    order = scores.sort_values(ascending=False, kind="stable").index
    p: Callable[[str], float] = lambda other: float(  # noqa: E731
        comparisons.loc[
            ((comparisons["a"] == order[0]) & (comparisons["b"] == other))
            | ((comparisons["b"] == order[0]) & (comparisons["a"] == other)),
            "p_holm",
        ].iloc[0]
    )
    return [order[0], *(other for other in order[1:] if p(other) >= level)]


def _groups(ranks: pd.Series, difference: float) -> tuple[tuple[str, ...], ...]:
    """The largest runs of sorted ranks whose ends lie within one critical difference."""
    names, values = list(ranks.index), ranks.to_numpy()
    runs: list[tuple[int, int]] = []
    for start in range(len(values)):
        stop = int(np.searchsorted(values, values[start] + difference, side="right"))
        if stop - start > 1 and not (runs and stop <= runs[-1][1]):
            runs.append((start, stop))
    return tuple(tuple(names[start:stop]) for start, stop in runs)
