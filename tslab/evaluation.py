"""Evaluation: per-sample results first, then metrics over everything, over strata of the Earth and over blocks.

The per-sample results have the columns of `tslab.load_released_results`, so that a model trained here and a
released file go through the same analysis.
"""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tslab._checks import check_choice, check_count
from tslab._results import classification_results, model_of, predicts_numbers, regression_results
from tslab.earth import cell_corner, check_grid, grid_cells, strata
from tslab.metrics import HITS, expected_calibration_error, reliability, summarise
from tslab.tasks.table import Table


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` returns.

    Attributes:
        metrics: name to value; classification: n, top1, top3, mrr, ece; regression: n, r2, mae, rmse; with
            intervals also ``<name>_low`` and ``<name>_high`` (`tslab.metrics.bootstrap_interval`);
            ``<name>_blocks``: mean over spatial blocks, each block counting the same.
        results: one row for each evaluated row, indexed by its row in the table; columns lon, lat (degrees)
            and true_class_prob, reciprocal_rank, hit1, hit3 (classification) or prediction, label (regression);
            block where the table was split by blocks.
        strata: one row for each stratum of `tslab.earth.strata` with its metrics and intervals; "all" first.
        blocks: one row for each occupied spatial block: lon, lat of its south-west corner, n, metrics.
        reliability: data of the reliability diagram (`tslab.metrics.reliability`); None for regression.
    """

    metrics: dict[str, float]
    results: pd.DataFrame
    strata: pd.DataFrame
    blocks: pd.DataFrame
    reliability: pd.DataFrame | None = field(default=None)

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v:.4g}" for k, v in self.metrics.items() if not k.endswith(("_low", "_high")))
        return f"Evaluation({shown})"


def evaluate(
    run_or_model: Any,
    table: Table,
    *,
    use_image: bool | None = None,
    intervals: bool = True,
    block_deg: float = 10.0,
    bins: int = 15,
) -> Evaluation:
    """Evaluate a run, a model or a baseline on a table.

    Classification: the score of class c is P(c | image) times P(c | place). A row without a location falls
    back to the image; with ``use_image=False`` (or without images) the place alone is scored, and rows
    without a location are left out. ``run_or_model`` may be "no_prior": the image alone. ``true_class_prob``
    is the score of the true class, a product that is not normalised over classes, as in the released files;
    calibration (ece, reliability) uses the scores normalised over classes.

    Regression: whatever inputs the model has; all rows count.

    A torch module of your own is called with places (n, 2), or with places and image input if it takes both. It
    returns a number for each place, (n,) or (n, 1), or class scores (n, K), whose softmax is P(c | place).

    Args:
        run_or_model: what `tslab.train` returns, a model of `tslab.models`, a module of your own, a baseline of
            `tslab.baselines`, or "no_prior".
        table: a split of a task, for example ``task.test``.
        use_image: None means: if the table has image predictions, one column for each class.
        intervals: add 95 % bootstrap intervals. They resample the blocks that the table was split by
            (``table.block``), and rows where it was not split by blocks.
        block_deg: size of the spatial blocks, in degrees.
        bins: bins of the reliability diagram.

    Raises:
        ValueError: nothing to evaluate (an empty table, or neither images nor locations), labels, images or
            predictions that are none; names the first row. Or an argument out of its range.
        TypeError: something that predicts no classes on a table of classes, or no numbers on one of numbers.
    """
    if not isinstance(table, Table):
        raise TypeError(f"evaluate needs a table, such as task.test, got {type(table).__name__}")
    check_choice("use_image", use_image, (None, True, False))
    check_count("bins", bins)
    check_grid("block_deg", block_deg)
    model = model_of(run_or_model)
    if len(table) == 0:
        raise ValueError("the table is empty; check its filter, or choose another split of the task")
    results, confidence = _results(model, table, use_image)
    if bool((table.block >= 0).any()):
        results["block"] = table.block.cpu().numpy()[results.index]
    metrics = summarise(results, intervals=intervals)
    diagram = None
    if confidence is not None:
        correct = torch.tensor(results["hit1"].to_numpy())
        metrics["ece"] = expected_calibration_error(confidence, correct, bins=bins)
        diagram = reliability(confidence, correct, bins=bins)
    blocks = block_metrics(results, block_deg)
    shared = [c for c in blocks.columns if c not in ("block", "lon", "lat", "n")]
    metrics |= {f"{name}_blocks": float(blocks[name].mean()) for name in shared}
    return Evaluation(metrics, results, stratum_metrics(results, intervals=intervals), blocks, diagram)


def quick_metrics(model: Any, table: Table) -> dict[str, float]:
    """The metrics of `evaluate` without intervals, strata and blocks; top1 or r2 first."""
    metrics = summarise(_results(model, table, None)[0])
    return {name: value for name, value in metrics.items() if name != "n"}


def stratum_metrics(results: pd.DataFrame, *, intervals: bool = True) -> pd.DataFrame:
    """Metrics of per-sample results by stratum (`tslab.earth.strata`), "all" first; empty strata have n = 0
    and no row."""
    masks: dict[str, Any] = {name: mask.numpy() for name, mask in strata(_lonlat(results)).items()}
    parts = {"all": results} | {name: results[mask] for name, mask in masks.items() if mask.any()}
    rows = [{"stratum": name, **summarise(part, intervals=intervals, replicates=200)} for name, part in parts.items()]
    return pd.DataFrame(rows)


def block_metrics(results: pd.DataFrame, block_deg: float = 10.0) -> pd.DataFrame:
    """Metrics of per-sample results by spatial block: block, lon, lat (south-west corner), n, then top1,
    top3, mrr or mae, rmse."""
    block = grid_cells(_lonlat(results), block_deg).numpy()
    if "reciprocal_rank" in results:
        values = results[list(HITS.values())].astype(float).set_axis(list(HITS), axis=1)
    else:
        error = results["prediction"] - results["label"]
        values = pd.DataFrame({"mae": error.abs(), "rmse": error**2})
    grouped = values[block >= 0].groupby(block[block >= 0])
    means = grouped.mean()
    if "rmse" in means:
        means["rmse"] **= 0.5
    corners = pd.DataFrame([cell_corner(int(b), block_deg) for b in means.index], means.index, ["lon", "lat"])
    return corners.assign(n=grouped.size()).join(means).rename_axis("block").reset_index()


def _results(model: Any, table: Table, use_image: bool | None) -> tuple[pd.DataFrame, Tensor | None]:
    """Per-sample results; of classes also the largest normalised score, row by row."""
    if predicts_numbers(model, table):
        return regression_results(model, table), None
    return classification_results(model, table, use_image)


def _lonlat(results: pd.DataFrame) -> Float[Tensor, "n 2"]:
    return torch.tensor(results[["lon", "lat"]].to_numpy(dtype=float))
