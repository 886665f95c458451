"""Table 1 of TorchSpatial, recomputed: Top-1 accuracy from the released per-sample results.

Every cell gets a verdict and, where one fits, a note from a fixed vocabulary. Both follow from the numbers by
the rules in this module; none is written by hand. The chapter on Table 1 shows and discusses the result.
"""

import math
import os
from collections.abc import Callable, Sequence

import pandas as pd

from tslab.published import CLASSIFICATION_DATASETS, ENCODER_ROWS, published_tables
from tslab.released import load_released_results
from tslab.released_files import EmptyFileError, NotReleasedError

VERDICTS: dict[str, str] = {
    "reproduced": "The released per-sample results give the published number, within the tolerance.",
    "differs": "The released per-sample results give another number.",
    "not released": "The release holds no per-sample results for this cell, so nothing can be recomputed.",
    "published only": "The number was never meant to be recomputed from the release (GPT-4V).",
}
"""Verdict of a cell and what it says."""

NOTES: dict[str, str] = {
    "no file": "No per-sample file of this encoder and dataset is among the released files.",
    "empty file": "The released per-sample file is empty.",
    "no per-sample results": "The paper asked GPT-4V itself; no per-sample answers were released.",
    "one-cell tile": (
        "The released tile encoder has one cell that covers the whole map (its cell size was never passed "
        "on), so it is a "
        "constant class prior: the same for every location."
    ),
    "reloaded rbf": (
        "More than two standard errors below the published number, and rbf models are known to break on "
        "reloading: "
        "the released code draws the anchor points anew at every start and ignores the saved ones."
    ),
    "reloaded rff": (
        "More than two standard errors below the published number, and rff models are known to break on "
        "reloading: "
        "evaluation scaled coordinates by a box around the United States, training by the globe."
    ),
    "within noise": (
        "Another number, closer than two standard errors of the recomputed one, which is how far another "
        "draw of "
        "test images would move it."
    ),
    "another run": "Further off than two standard errors, and no known cause fits: another run or other "
    "settings.",
}
"""Note on a cell and what it says; a cell can carry several, joined by ``; ``."""

COLUMNS = ("dataset", "encoder", "metric", "published", "recomputed", "n", "verdict", "note")


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
        recomputed (percent; NaN if there is nothing to recompute from), n (rows read, <NA> likewise),
        verdict, note.

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
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"n": "Int64", "recomputed": "float64"})
    table.attrs["located"] = {key: located[key] for key in CLASSIFICATION_DATASETS if key in located}
    return table


def verdict(published: float, recomputed: float | None, tolerance: float = 0.01) -> str:
    """``reproduced`` or ``differs``, or ``not released`` if there is no recomputed number.

    The difference is compared with the tolerance at full precision; 1e-9 points cover floating-point
    rounding.
    """
    if recomputed is None or math.isnan(recomputed):
        return "not released"
    return "reproduced" if abs(recomputed - published) <= tolerance + 1e-9 else "differs"


def standard_error(top1: float, n: int) -> float:
    """Standard error in points of a Top-1 accuracy (percent) over n images: 100 sqrt(p (1 - p) / n).

    How far the number would move, typically, had another n images of the same kind been drawn.
    """
    share = top1 / 100
    return 100 * math.sqrt(share * (1 - share) / n)


def explain(encoder: str, published: float, recomputed: float, n: int, tolerance: float = 0.01) -> str:
    """The note on a cell that was recomputed: codes of `NOTES` joined by ``; ``, or the empty string.

    Rules, in this order: every ``tile`` cell is a one-cell tile. A cell that differs is, within two standard
    errors of the recomputed number, ``within noise``; else, if it lies below the published number and the
    encoder is known to break on reloading (rbf, rff), that is the note; else it is ``another run``.
    """
    notes = ["one-cell tile"] if encoder == "tile" else []
    if verdict(published, recomputed, tolerance) == "differs":
        if abs(recomputed - published) <= 2 * standard_error(recomputed, n):
            notes.append("within noise")
        elif encoder in ("rbf", "rff") and recomputed < published:
            notes.append(f"reloaded {encoder}")
        else:
            notes.append("another run")
    return "; ".join(notes)


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
    nothing = {"recomputed": math.nan, "n": pd.NA}
    if encoder == "gpt4v":
        return cell | nothing | {"verdict": "published only", "note": "no per-sample results"}
    try:
        results = load_released_results(dataset, encoder, root)
    except NotReleasedError as error:
        note = "empty file" if isinstance(error, EmptyFileError) else "no file"
        return cell | nothing | {"verdict": "not released", "note": note}
    top1, n = 100 * float(results["hit1"].mean()), len(results)
    if results.attrs["n_located"]:
        located[dataset] = results.attrs["n_located"]
    return cell | {
        "recomputed": top1,
        "n": n,
        "verdict": verdict(published, top1, tolerance),
        "note": explain(encoder, published, top1, n, tolerance),
    }


def _check_keys(what: str, given: Sequence[str] | None, known: dict[str, str]) -> None:
    """Raise if a key is unknown."""
    if isinstance(given, str):
        raise ValueError(f"{what}s must be a list of keys, got the string {given!r}; use [{given!r}]")
    for key in given or ():
        if key not in known:
            raise ValueError(f"no {what} {key!r} in Table 1; use one of {', '.join(known)}")
