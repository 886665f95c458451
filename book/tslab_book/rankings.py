"""Which published rankings survive: ranks over several datasets, and orders within one, of the chapter
*Which rankings survive?*

Ranks over several datasets are compared as in Demsar (2006): Friedman's test, then Nemenyi's critical difference.
Orders within a dataset follow from pairs of encoders on the same images (`tslab.benchmark.compare_hits`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tslab._checks import check_number


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
