"""Metrics: ranks with honest ties, calibration, regression errors, and intervals for all of them.

Per-sample results come first (a rank, an error), summaries second, so that every summary can be taken over
any part of the Earth and every one can have an interval. Tensors stay on their device; nothing loops over rows.
"""

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Real, Shaped
from torch import Tensor

from tslab._checks import check_count, check_number
from tslab._numbers import Numbers

Statistic = Callable[[Float[Tensor, "*b m"]], Float[Tensor, "*b"]]
"""A number of means, for any number of them at once."""

CHUNK_ELEMENTS = 2**24
HITS = {"top1": "hit1", "top3": "hit3", "mrr": "reciprocal_rank"}
"""Metrics of classes that are means of a column of per-sample results."""
SMALLEST_VARIANCE = 1e-12
"""Labels whose variance is below this share of their mean square about a fixed point are equal, but for rounding."""


def true_class_ranks(scores: Real[Tensor, "n k"] | Numbers, target: Int[Tensor, " n"] | Numbers) -> Float[Tensor, " n"]:
    """Rank of the true class in each row: 1 + (number of classes that score higher) + (number that tie) / 2.

    Ties are common, because sparse image predictions hold exact zeros. Sorting breaks them by position, so
    the rank of a class would depend on its number; here a tie costs half a rank, whoever is tied. A row in
    which all K classes tie has rank (K + 1) / 2. float32, on the device of ``scores``; log probabilities
    serve as well, -inf included.

    Raises:
        ValueError: shapes that do not match, a class that does not exist, or NaN among the scores; names the row.
    """
    scores, target = as_tensor(scores), as_tensor(target)
    if scores.ndim != 2 or not scores.shape[1] or target.shape != scores.shape[:1]:
        raise ValueError(f"scores must be (n, k) and target (n,), got {tuple(scores.shape)} and {tuple(target.shape)}")
    if target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(f"target must be class numbers, got {target.dtype}")
    target, last = target.long(), scores.shape[1] - 1
    rows = max(1, CHUNK_ELEMENTS // max(scores.shape[1], 1))
    out = torch.empty(len(scores), dtype=torch.float32, device=scores.device)
    for ranks, block, truth in zip(out.split(rows), scores.split(rows), target.split(rows), strict=True):
        own = block.gather(1, truth.clamp(0, last)[:, None])
        greater, equal = (block > own).sum(1), (block == own).sum(1) - 1
        ranks.copy_(1 + greater + equal / 2)
    # a NaN score equals nothing, itself included: it would count as a rank of 1/2 or be silently passed over
    outside = (target < 0) | (target > last)
    if bool(outside.any() | scores.isnan().any()):  # one look, so that an accelerator waits once
        _explain_ranks(scores, target, outside)
    return out


def _explain_ranks(scores: Real[Tensor, "n k"], target: Int[Tensor, " n"], outside: Tensor) -> None:
    if bool(outside.any()):
        row, count = int(outside.nonzero()[0, 0]), scores.shape[1]
        there = f"there are scores of {count} classes (0 to {count - 1})"
        raise ValueError(f"row {row} has class {int(target[row])}, but {there}; do they belong to the same classes?")
    row = int(scores.isnan().any(1).nonzero()[0, 0])
    raise ValueError(f"scores of row {row} hold NaN; without a location, a row falls back to the image before ranking")


def top_k_accuracy(ranks: Real[Tensor, " n"] | Numbers, k: int) -> float:
    """Share of rows whose true class has rank <= ``k``; a tie for the last place does not count."""
    check_count("k", k)
    return float((as_tensor(ranks) <= k).double().mean())


def mean_reciprocal_rank(ranks: Real[Tensor, " n"] | Numbers) -> float:
    """Mean of 1 / rank."""
    return float(as_tensor(ranks).double().reciprocal().mean())


def reliability(
    confidence: Real[Tensor, " n"] | Numbers, correct: Shaped[Tensor, " n"] | Numbers, *, bins: int = 15
) -> pd.DataFrame:
    """Data of a reliability diagram: for each of ``bins`` equal intervals of confidence in (0, 1], how often
    the model was right.

    Columns: low, high (edges), n, confidence (mean), accuracy (mean); the means are NaN in an empty bin.
    """
    check_count("bins", bins)
    confidence, correct = as_tensor(confidence).double().cpu(), as_tensor(correct).double().cpu()
    if confidence.shape != correct.shape or confidence.ndim != 1:
        got = f"{tuple(confidence.shape)} and {tuple(correct.shape)}"
        raise ValueError(f"confidence and correct must both be (n,), got {got}")
    wrong = ~((confidence >= 0) & (confidence <= 1 + 1e-6))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0, 0])
        raise ValueError(f"confidence must lie in [0, 1], got {float(confidence[row])} in row {row}")
    index = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    count = torch.bincount(index, minlength=bins)
    mean = [torch.bincount(index, weights=value, minlength=bins) / count for value in (confidence, correct)]
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    columns = {"low": edges[:-1], "high": edges[1:], "n": count, "confidence": mean[0], "accuracy": mean[1]}
    return pd.DataFrame({name: value.numpy() for name, value in columns.items()})


def expected_calibration_error(
    confidence: Real[Tensor, " n"] | Numbers, correct: Shaped[Tensor, " n"] | Numbers, *, bins: int = 15
) -> float:
    """Mean over rows of |accuracy - confidence| of the row's bin (see `reliability`).

    Source: Guo et al., On calibration of modern neural networks, ICML 2017, eq. 3.
    """
    table = reliability(confidence, correct, bins=bins)
    gap = (table["accuracy"] - table["confidence"]).abs()
    return float((gap * table["n"]).sum() / max(int(table["n"].sum()), 1))


def r2(prediction: Real[Tensor, " n"] | Numbers, label: Real[Tensor, " n"] | Numbers) -> float:
    """R^2 = 1 - SSE / SST, SST about the mean of these labels; negative for a model worse than that mean,
    NaN if all labels are equal."""
    return _regression_statistics(prediction, label)["r2"]


def mae(prediction: Real[Tensor, " n"] | Numbers, label: Real[Tensor, " n"] | Numbers) -> float:
    """Mean absolute error, in the unit of the label."""
    return _regression_statistics(prediction, label)["mae"]


def rmse(prediction: Real[Tensor, " n"] | Numbers, label: Real[Tensor, " n"] | Numbers) -> float:
    """Root of the mean squared error, in the unit of the label."""
    return _regression_statistics(prediction, label)["rmse"]


def bootstrap_interval(
    values: Real[Tensor, "n m"] | Numbers,
    statistic: Statistic,
    *,
    blocks: Int[Tensor, " n"] | Numbers | None = None,
    level: float = 0.95,
    replicates: int = 500,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic that is a function of means.

    Rows of ``values`` are drawn with replacement, ``replicates`` times; ``statistic`` gets the means of
    their m columns. The mean itself is ``lambda m: m[..., 0]``. (nan, nan) for fewer than two rows or blocks.

    With ``blocks``, whole blocks are drawn. Errors at places near each other resemble each other, so a test set of a
    few regions says less than its number of rows promises: rows drawn one by one give an interval that is several times
    too narrow for it. Rows of a random split were drawn one by one, and are resampled so.

    Args:
        values: one row for each example.
        statistic: of the means.
        blocks: block of each row (`tslab.earth.spatial_blocks`); a row with a negative number is a block of its own.
        level, replicates, seed: of the interval.

    Raises:
        ValueError: an argument out of its range; names it.
    """
    drawn = bootstrap_means(values, blocks=blocks, replicates=replicates, seed=seed)
    return interval_of(statistic(drawn), level=level, blocks=blocks)


def bootstrap_means(
    values: Real[Tensor, "n m"] | Numbers,
    *,
    blocks: Int[Tensor, " n"] | Numbers | None = None,
    replicates: int = 500,
    seed: int | np.random.Generator = 0,
) -> Float[Tensor, "{replicates} m"]:
    """Means of the columns over rows, or whole ``blocks`` of rows, drawn with replacement, once for each replicate.

    NaN for fewer than two rows or blocks. ``seed`` may be a NumPy generator, which then draws.
    """
    check_count("replicates", replicates)
    values = as_tensor(values).double().cpu()
    if values.ndim != 2:
        raise ValueError(f"values must have shape (n, m), got {tuple(values.shape)}")
    size = None
    if blocks is not None:
        unit = _units(blocks, len(values))
        size = torch.bincount(unit).double()
        values = values.new_zeros((len(size), values.shape[1])).index_add_(0, unit, values)
    n = len(values)
    if not isinstance(seed, np.random.Generator):
        generator = torch.Generator().manual_seed(check_count("seed", seed, at_least=0))
    if n < 2:
        return values.new_full((replicates, values.shape[1]), torch.nan)
    means = []
    for _ in range(replicates):  # through the counts of the rows, far cheaper than gathering them
        if isinstance(seed, np.random.Generator):
            drawn = torch.from_numpy(seed.integers(n, size=n))
        else:
            drawn = torch.randint(n, (n,), generator=generator)
        count = torch.bincount(drawn, minlength=n).double()
        means.append(count @ values / (n if size is None else count @ size))
    return torch.stack(means)


def interval_of(
    replicates: Float[Tensor, " b"], *, level: float = 0.95, blocks: Int[Tensor, " n"] | Numbers | None = None
) -> tuple[float, float]:
    """The middle ``level`` of replicated values, as (low, high); replicates without a value (NaN) are left out.

    Of ``blocks`` that were drawn there are few, and of unequal size. The interval then reaches to the quantiles
    Phi(-+ t sqrt(g / (g - 1))), t Student's quantile for g - 1 degrees of freedom, g = n^2 / sum n_b^2 the number of
    blocks of equal size that would say as much.

    Source: Hesterberg, What teachers should know about the bootstrap, The American Statistician, 2015 (expanded
    percentile interval); Kish, Survey sampling, 1965 (effective number).
    """
    check_number("level", level, above=0, below=1)
    tail = (1 - level) / 2
    if blocks is not None:
        tail = _expanded(tail, blocks)
    low, high = torch.nanquantile(replicates, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def mean_interval(
    values: Real[Tensor, " n"] | Numbers, *, level: float = 0.95, overlap: float = 0.0
) -> tuple[float, float, float]:
    """Mean of a few values (one for each seed), with its interval by Student's t: (mean, low, high).

    m -+ t s sqrt(1/n + r), s the standard deviation with n - 1, t the quantile for n - 1 degrees of freedom: 12.7 for
    two values, 4.3 for three, 2.8 for five. The interval is (nan, nan) for fewer than two values.

    Args:
        values: one for each seed.
        level: of the interval.
        overlap: r, 0 for independent values. Splits of the same rows share most of them; r = (test rows) / (training
            rows) allows for that (the corrected resampled t-test).

    Source of the correction: Nadeau and Bengio, Inference for the generalization error, Machine Learning, 2003.
    """
    from scipy.stats import t

    check_number("level", level, above=0, below=1)
    check_number("overlap", overlap, at_least=0)
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"values must be one number for each seed, got an array of shape {values.shape}")
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, float("nan"), float("nan")
    half = float(t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) * (1 / n + overlap) ** 0.5)
    return mean, mean - half, mean + half


def summarise(
    results: pd.DataFrame, *, intervals: bool = False, level: float = 0.95, replicates: int = 500, seed: int = 0
) -> dict[str, float]:
    """Metrics of per-sample results, by the columns that they have.

    Classification (``reciprocal_rank``, ``hit1``, ``hit3``): n, top1, top3, mrr.
    Regression (``prediction``, ``label``): n, r2, mae, rmse.
    With ``intervals=True``, each metric also has ``<name>_low`` and ``<name>_high`` (`bootstrap_interval`): over
    blocks where the results have a column ``block``, over rows elsewhere.
    """
    if "reciprocal_rank" in results:
        values = torch.tensor(results[list(HITS.values())].to_numpy(dtype=float))
        statistics: Mapping[str, Statistic] = {name: itemgetter((..., i)) for i, name in enumerate(HITS)}
    elif "prediction" in results:
        values = regression_values(*(results[name].to_numpy(dtype=float) for name in ("prediction", "label")))
        statistics = REGRESSION_STATISTICS
    else:
        raise ValueError("results need columns reciprocal_rank, hit1, hit3 (classes) or prediction, label (numbers)")
    out: dict[str, float] = {"n": len(results)}
    means = values.mean(0) if len(values) else torch.full(values.shape[1:], float("nan"))
    blocks = results.get("block")
    resampled = bootstrap_means(values, blocks=blocks, replicates=replicates, seed=seed) if intervals else None
    for name, statistic in statistics.items():
        out[name] = float(statistic(means))
        if resampled is not None:
            out[f"{name}_low"], out[f"{name}_high"] = interval_of(statistic(resampled), level=level, blocks=blocks)
    return out


def r2_of_means(means: Float[Tensor, "*b m"]) -> Float[Tensor, "*b"]:
    """R^2 from means over rows of: squared error, anything, label c and its square, c counted from any fixed point.

    NaN where the labels are equal (but for rounding): the mean of their squares is the square of their mean.
    """
    square = means[..., 3]
    variance = square - means[..., 2] ** 2
    defined = variance > SMALLEST_VARIANCE * square
    return 1 - means[..., 0] / variance.where(defined, torch.nan)


def _units(blocks: Int[Tensor, " n"] | Numbers, n: int) -> Int[Tensor, " n"]:
    """What is drawn, numbered from 0: the blocks, and each row without one (a negative number)."""
    blocks = as_tensor(blocks).cpu()
    if blocks.shape != (n,) or blocks.is_floating_point():
        got = f"{blocks.dtype} of shape {tuple(blocks.shape)}"
        raise ValueError(f"blocks must be a whole number for each of the {n} rows, got {got}")
    return torch.where(blocks < 0, -1 - torch.arange(n), blocks).unique(return_inverse=True)[1]


def _expanded(tail: float, blocks: Int[Tensor, " n"] | Numbers) -> float:
    """The share that an interval over blocks leaves out on either side, see `interval_of`."""
    from scipy.stats import norm, t

    size = torch.bincount(_units(blocks, len(blocks))).double()
    equal = float(size.sum() ** 2 / (size**2).sum()) if len(size) > 1 else 1.0
    return float(norm.cdf(t.ppf(tail, equal - 1) * (equal / (equal - 1)) ** 0.5)) if equal > 1 else tail


def as_tensor(values: Any) -> Tensor:
    """A tensor of tensors, NumPy arrays, pandas columns (by position, whatever their index) or sequences."""
    if isinstance(values, Tensor):
        return values.detach()
    array = np.array(values)  # a copy: an array that cannot be written to gives a warning
    if array.dtype.kind not in "fiub":
        raise ValueError(f"expected numbers, got {type(values).__name__} of {array.dtype}")
    return torch.from_numpy(array)


REGRESSION_STATISTICS: Mapping[str, Statistic] = {
    "r2": r2_of_means,
    "mae": lambda m: m[..., 1],
    "rmse": lambda m: m[..., 0].sqrt(),
}
"""Metrics as functions of the means of: squared error, absolute error, centred label, its square."""


def regression_values(prediction: Any, label: Any) -> Float[Tensor, "n 4"]:
    """What `REGRESSION_STATISTICS` take means of: squared error, absolute error, centred label, its square."""
    prediction, label = as_tensor(prediction), as_tensor(label)
    if prediction.shape != label.shape or prediction.ndim != 1:
        got = f"{tuple(prediction.shape)} and {tuple(label.shape)}"
        raise ValueError(f"prediction and label must both be (n,), got {got}")
    prediction, label = prediction.double(), label.double()
    error, centred = prediction - label, label - label.mean()
    return torch.stack([error**2, error.abs(), centred, centred**2], dim=1)


def _regression_statistics(prediction: Any, label: Any) -> dict[str, float]:
    means = regression_values(prediction, label).mean(0)
    return {name: float(statistic(means)) for name, statistic in REGRESSION_STATISTICS.items()}
