"""Evaluation: per-sample results first, then metrics over everything, over strata of the Earth and over blocks.

The per-sample results have the columns of `tslab.load_released_results`, so that a model trained here and a
released file go through the same analysis.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tslab.coords import has_location
from tslab.metrics import expected_calibration_error, reliability, summarise, true_class_ranks
from tslab.strata import cell_corner, grid_cells, strata
from tslab.tasks.task import Table

BATCH_ELEMENTS = 2**22
"""Scores (rows x classes) that are held at a time."""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` returns.

    Attributes:
        metrics: name to value; classification: n, top1, top3, mrr, ece; regression: n, r2, mae, rmse; with
            intervals also ``<name>_low`` and ``<name>_high`` (bootstrap over rows); ``<name>_blocks``: mean
            over spatial blocks, each block counting the same.
        results: one row for each evaluated row, indexed by its row in the table; columns lon, lat (degrees)
            and true_class_prob, reciprocal_rank, hit1, hit3 (classification) or prediction, label (regression).
        strata: one row for each stratum of `tslab.strata.strata` with its metrics and intervals; "all" first.
        blocks: one row for each occupied spatial block: lon, lat of its south-west corner, n, metrics.
        reliability: data of the reliability diagram (`tslab.metrics.reliability`); None for regression.
    """

    metrics: dict[str, float]
    results: pd.DataFrame
    strata: pd.DataFrame
    blocks: pd.DataFrame
    reliability: pd.DataFrame | None = field(default=None)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{k}={v:.4g}" for k, v in self.metrics.items() if not k.endswith(("_low", "_high"))
        )
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

    Args:
        run_or_model: what `tslab.train` returns, a model of `tslab.models`, a baseline of `tslab.baselines`,
            or "no_prior".
        table: a split of a task, for example ``task.test``.
        use_image: None means: if the table has image predictions, one column for each class.
        intervals: add 95 % bootstrap intervals.
        block_deg: size of the spatial blocks, in degrees.
        bins: bins of the reliability diagram.

    Raises:
        ValueError: nothing to evaluate: an empty table, or neither images nor locations.
    """
    if len(table) == 0:
        raise ValueError("the table is empty; check its filter, or choose another split of the task")
    model = getattr(run_or_model, "model", run_or_model)
    confidence = None
    if table.target.is_floating_point():
        results = _regression_results(model, table)
    else:
        results, confidence = _classification_results(model, table, use_image)
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
    if table.target.is_floating_point():
        results = _regression_results(model, table)
    else:
        results, _ = _classification_results(model, table, None)
    metrics = summarise(results)
    del metrics["n"]
    return metrics


def stratum_metrics(results: pd.DataFrame, *, intervals: bool = True) -> pd.DataFrame:
    """Metrics of per-sample results by stratum (`tslab.strata.strata`), "all" first; empty strata have n = 0
    and no row."""
    masks: dict[str, Any] = {name: mask.numpy() for name, mask in strata(_lonlat(results)).items()}
    parts = {"all": results} | {name: results[mask] for name, mask in masks.items() if mask.any()}
    rows = [
        {"stratum": name, **summarise(part, intervals=intervals, replicates=200)}
        for name, part in parts.items()
    ]
    return pd.DataFrame(rows)


def block_metrics(results: pd.DataFrame, block_deg: float = 10.0) -> pd.DataFrame:
    """Metrics of per-sample results by spatial block: block, lon, lat (south-west corner), n, then top1,
    top3, mrr or mae, rmse."""
    block = grid_cells(_lonlat(results), block_deg).numpy()
    if "reciprocal_rank" in results:
        values = results[["hit1", "hit3", "reciprocal_rank"]].astype(float)
        values.columns = pd.Index(["top1", "top3", "mrr"])
    else:
        error = results["prediction"] - results["label"]
        values = pd.DataFrame({"mae": error.abs(), "rmse": error**2})
    grouped = values[block >= 0].groupby(block[block >= 0])
    table = grouped.mean()
    if "rmse" in table:
        table["rmse"] = table["rmse"] ** 0.5
    corners = [cell_corner(int(b), block_deg) for b in table.index]
    table.insert(0, "n", grouped.size())
    table.insert(0, "lat", [lat for _, lat in corners])
    table.insert(0, "lon", [lon for lon, _ in corners])
    return table.rename_axis("block").reset_index()


def _classification_results(model: Any, table: Table, use_image: bool | None) -> tuple[pd.DataFrame, Tensor]:
    """Per-sample results and, row by row, the largest normalised score."""
    prior = _prior_of(model)
    classes = getattr(model, "num_classes", None)
    has_image = table.image is not None and table.image.shape[1] == (classes or table.image.shape[1])
    use_image = has_image if use_image is None else use_image
    if use_image and not has_image:
        raise ValueError(
            "use_image=True but the table has no image predictions (one column for each class); leave use_image out"
        )
    if prior is None and not use_image:
        raise ValueError('"no_prior" is the image alone, and there are no image predictions to use')
    if not use_image and not bool(has_location(table.lonlat).any()):
        raise ValueError(
            "no row of the table has a location, and images are not used: there is nothing to evaluate"
        )
    device = _device_of(model, table)
    rows, step = len(table), _rows_at_a_time(model, table)
    true_prob, rank, confidence = (torch.empty(rows, device=device) for _ in range(3))
    with _evaluating(model):
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))
            lonlat, target = table.lonlat[part].to(device), table.target[part].to(device)
            scores = table.image_rows(part, device=device).log() if use_image else None
            if prior is not None:
                log_prior = prior(lonlat)
                present = has_location(lonlat)[:, None]
                # a uniform prior where there is no location: zero added to every class leaves the image as it is
                log_prior = torch.where(present, log_prior, 0.0)
                scores = log_prior if scores is None else scores + log_prior
            assert scores is not None
            rank[part] = true_class_ranks(scores, target)
            true_prob[part] = scores.gather(1, target[:, None])[:, 0].exp()
            largest = torch.exp(scores.amax(1) - scores.logsumexp(1))
            confidence[part] = largest.nan_to_num(1 / scores.shape[1])  # no score at all: uniform
    lon, lat = table.lonlat.double().cpu().unbind(-1)
    rank = rank.cpu().double()
    columns = {
        "lon": lon,
        "lat": lat,
        "true_class_prob": true_prob.cpu().double(),
        "reciprocal_rank": 1 / rank,
    }
    results = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
    results["hit1"], results["hit3"] = (rank <= 1).numpy(), (rank <= 3).numpy()
    if use_image:
        return results, confidence.cpu()
    present = has_location(table.lonlat).cpu()
    return results[present.numpy()], confidence.cpu()[present]


def _regression_results(model: Any, table: Table) -> pd.DataFrame:
    device = _device_of(model, table)
    rows, step = len(table), _rows_at_a_time(model, table)
    prediction = torch.empty(rows, dtype=torch.float64, device=device)
    with _evaluating(model):
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))
            lonlat = table.lonlat[part].to(device)
            if isinstance(model, nn.Module):
                needs_image = _needs_image(model)
                image = table.image_rows(part, device=device) if needs_image else None
                prediction[part] = model(lonlat, image).double()
            else:
                prediction[part] = model.predict(lonlat).double()
    lon, lat = table.lonlat.double().cpu().unbind(-1)
    columns = {"lon": lon, "lat": lat, "prediction": prediction.cpu(), "label": table.target.double().cpu()}
    return pd.DataFrame({name: column.numpy() for name, column in columns.items()})


def _needs_image(model: nn.Module) -> bool:
    members = getattr(model, "members", [model])
    return any(getattr(member, "image", None) is not None for member in members)


def _prior_of(model: Any) -> Callable[[Float[Tensor, "n 2"]], Float[Tensor, "n k"]] | None:
    if model is None or (isinstance(model, str) and model == "no_prior"):
        return None
    if not hasattr(model, "log_prior"):
        raise TypeError(
            f"{type(model).__name__} cannot be evaluated on classes: it has no log_prior(lonlat); "
            "pass a run of tslab.train, a LocationClassifier, a baseline, or 'no_prior'"
        )
    return model.log_prior


def _device_of(model: Any, table: Table) -> torch.device:
    tensor = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return tensor.device if tensor is not None else table.lonlat.device


def _rows_at_a_time(model: Any, table: Table) -> int:
    width = getattr(model, "num_classes", None) or (table.image.shape[-1] if table.image is not None else 1)
    return max(256, BATCH_ELEMENTS // max(int(width), 256))


class _evaluating:
    """Inference mode with the module switched to evaluation, and back to what it was afterwards."""

    def __init__(self, model: Any) -> None:
        self.module: nn.Module = model if isinstance(model, nn.Module) else nn.Identity()
        self.inference = torch.inference_mode()

    def __enter__(self) -> None:
        self.was_training = self.module.training
        self.module.eval()
        self.inference.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.inference.__exit__(*error)
        self.module.train(self.was_training)


def _lonlat(results: pd.DataFrame) -> Float[Tensor, "n 2"]:
    return torch.tensor(results[["lon", "lat"]].to_numpy(dtype=float))
