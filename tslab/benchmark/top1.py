"""Table 1 of TorchSpatial, recomputed: Top-1 accuracy from the released per-sample results.

Every cell gets a verdict and a note, by the rule of `tslab.benchmark.cells.judge`; none is written by hand. The
chapter on Table 1 shows and discusses the result.
"""

import math
import os
from collections.abc import Callable, Sequence

import pandas as pd

from tslab.benchmark.cells import judge
from tslab.benchmark.recompute import NothingToRecomputeError, measure_top1, released_samples
from tslab.published import CLASSIFICATION_DATASETS, ENCODER_ROWS, published_tables

COLUMNS = ("dataset", "encoder", "metric", "published", "recomputed", "low", "high", "n", "verdict", "note")


def recompute_top1(
    datasets: Sequence[str] | None = None,
    encoders: Sequence[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    tolerance: float = 0.01,
    progress: Callable[[str, str], None] | None = None,
) -> pd.DataFrame:
    """Recompute Top-1 accuracy for cells of Table 1, each beside its published number.

    Top-1 is 100 times the share of evaluated images whose true class is ranked first, over all rows of the
    released file, with and without location.

    Args:
        datasets: classification dataset keys, all seven if None.
        encoders: rows of the table (`tslab.published.ENCODER_ROWS`), all seventeen if None.
        root: where the released files are, see `tslab.load_released_results`.
        tolerance: largest absolute difference in points that counts as reproduced.
        progress: called with dataset and encoder before each cell.

    Returns:
        One row per cell, in the order of the table: dataset, encoder, metric (``top1``), published and
        recomputed (percent; NaN if there is nothing to recompute from), low and high (95 % bootstrap interval of
        recomputed), n (rows read, <NA> likewise), verdict (`tslab.benchmark.VERDICTS`), note
        (`tslab.benchmark.REASONS`).

    Raises:
        ValueError: unknown dataset or encoder.
        ReleasedFilesMissingError: a released file is not on this machine.
        ReleasedResultsError: a file is damaged.
    """
    _check_keys("dataset", datasets, CLASSIFICATION_DATASETS)
    _check_keys("encoder", encoders, ENCODER_ROWS)
    printed = published_tables().query("metric == 'top1'").set_index(["dataset", "encoder"])["published"]
    rows = []
    located: dict[str, int] = {}
    for encoder in ENCODER_ROWS if encoders is None else encoders:
        for dataset in CLASSIFICATION_DATASETS if datasets is None else datasets:
            if progress:
                progress(dataset, encoder)
            rows.append(
                _recompute_cell(dataset, encoder, float(printed[dataset, encoder]), root, tolerance, located)
            )
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        {"n": "Int64", "recomputed": float, "low": float, "high": float}
    )
    table.attrs["located"] = {key: located[key] for key in CLASSIFICATION_DATASETS if key in located}
    return table


def standard_error(top1: float, n: int) -> float:
    """Standard error in points of a Top-1 accuracy (percent) over n images: 100 sqrt(p (1 - p) / n).

    How far the number would move, typically, had another n images of the same kind been drawn.
    """
    share = top1 / 100
    return 100 * math.sqrt(share * (1 - share) / n)


def _recompute_cell(
    dataset: str,
    encoder: str,
    published: float,
    root: str | os.PathLike[str] | None,
    tolerance: float,
    located: dict[str, int],
) -> dict[str, object]:
    """One row of the record; notes in ``located`` how many images of the dataset have a location."""
    cell = {"dataset": dataset, "encoder": encoder, "metric": "top1", "published": published}
    try:
        results, _ = released_samples(dataset, encoder, root)
    except NothingToRecomputeError as error:
        nothing = {"recomputed": math.nan, "low": math.nan, "high": math.nan, "n": pd.NA}
        word = "published only" if encoder == "gpt4v" else "not released"
        return cell | nothing | {"verdict": word, "note": error.reason}
    top1 = measure_top1(results, dataset)
    if results.attrs["n_located"]:
        located[dataset] = results.attrs["n_located"]
    word, reason = judge("top1", encoder, published, top1.value, top1.low, top1.high, tolerance)
    return cell | {
        **{"recomputed": top1.value, "low": top1.low, "high": top1.high, "n": top1.n},
        **{"verdict": word, "note": reason},
    }


def _check_keys(what: str, given: Sequence[str] | None, known: dict[str, str]) -> None:
    """Raise if a key is unknown."""
    if isinstance(given, str):
        raise ValueError(f"{what}s must be a list of keys, got the string {given!r}; use [{given!r}]")
    for key in given or ():
        if key not in known:
            raise ValueError(f"no {what} {key!r} in Table 1; use one of {', '.join(known)}")
