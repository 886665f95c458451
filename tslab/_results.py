"""What a model says about each row of a table, whatever kind of model it is, and which row is to blame if it cannot.

`tslab.evaluation` makes metrics of these results.
"""

import inspect
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tslab.coords import has_location
from tslab.encoders.storage import evaluating
from tslab.metrics import true_class_ranks
from tslab.models import Ensemble, Regressor
from tslab.tasks.table import Table

BATCH_ELEMENTS = 2**22
"""Scores (rows x classes) that are held at a time."""


def classification_results(model: Any, table: Table, use_image: bool | None) -> tuple[pd.DataFrame, Tensor]:
    """Per-sample results and, row by row, the largest normalised score."""
    prior = _prior_of(model, table)
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
        raise ValueError("no row of the table has a location, and images are not used: there is nothing to evaluate")
    device = _device_of(model, table)
    rows, step = len(table), _rows_at_a_time(model, table)
    true_prob, rank, confidence = (torch.empty(rows, device=device) for _ in range(3))
    with evaluating(model):
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))
            lonlat, target = table.lonlat[part].to(device), table.target[part].to(device)
            scores = table.image_rows(part, device=device).log() if use_image else None
            if prior is not None:
                log_prior = prior(lonlat, part)
                present = has_location(lonlat)[:, None]
                # a uniform prior where there is no location: zero added to every class leaves the image as it is
                log_prior = torch.where(present, log_prior, 0.0)
                scores = log_prior if scores is None else scores + log_prior
            assert scores is not None
            try:
                rank[part] = true_class_ranks(scores, target)
            except ValueError as error:
                raise ValueError(_explain(table, part, scores, use_image)) from error
            true_prob[part] = scores.gather(1, target[:, None])[:, 0].exp()
            largest = torch.exp(scores.amax(1) - scores.logsumexp(1))
            confidence[part] = largest.nan_to_num(1 / scores.shape[1])  # no score at all: uniform
    lon, lat = table.lonlat.double().cpu().unbind(-1)
    rank = rank.cpu().double()
    columns = {"lon": lon, "lat": lat, "true_class_prob": true_prob.cpu().double(), "reciprocal_rank": 1 / rank}
    results = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
    results["hit1"], results["hit3"] = (rank <= 1).numpy(), (rank <= 3).numpy()
    if use_image:
        return results, confidence.cpu()
    present = has_location(table.lonlat).cpu()
    return results[present.numpy()], confidence.cpu()[present]


def regression_results(model: Any, table: Table) -> pd.DataFrame:
    device = _device_of(model, table)
    rows, step = len(table), _rows_at_a_time(model, table)
    prediction = torch.empty(rows, dtype=torch.float64, device=device)
    predict = _call_of(model, table, device) if isinstance(model, nn.Module) else None
    with evaluating(model):
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))
            lonlat = table.lonlat[part].to(device)
            got = model.predict(lonlat) if predict is None else predict(lonlat, part)
            got = got[:, 0] if got.shape == (len(lonlat), 1) else got
            if got.shape != (len(lonlat),):
                raise ValueError(
                    f"{type(model).__name__} returned {tuple(got.shape)} for {len(lonlat)} rows; a regression needs "
                    "one number for each, (n,) or (n, 1)"
                )
            prediction[part] = got.double()
    label = table.target.double().cpu()
    _check_numbers(prediction.cpu(), label, table)
    lon, lat = table.lonlat.double().cpu().unbind(-1)
    columns = {"lon": lon, "lat": lat, "prediction": prediction.cpu(), "label": label}
    return pd.DataFrame({name: column.numpy() for name, column in columns.items()})


def _check_numbers(prediction: Float[Tensor, " n"], label: Float[Tensor, " n"], table: Table) -> None:
    for what, values in (("the label", label), ("the prediction", prediction)):
        bad = (~torch.isfinite(values)).nonzero()
        if not len(bad):
            continue
        row = int(bad[0, 0])
        causes = "leave such rows out with table.where(...)"
        if what == "the prediction":
            causes = "look for NaN or infinite weights of the model"
            if _bad_image(table, row):
                causes = "its image input holds NaN or infinite numbers; fill them or leave such rows out"
            elif not bool(table.has_location[row]):
                causes = "it has no location; leave such rows out with table.where(table.has_location)"
        raise ValueError(f"{what} of row {row} is {float(values[row])} ({len(bad)} such rows): {causes}")


def _explain(table: Table, part: slice, scores: Tensor, use_image: bool) -> str:
    """What is wrong with the class scores of some rows."""
    target = table.target[part]
    outside = (target >= scores.shape[1]).cpu()
    if bool(outside.any()):
        row = int(outside.nonzero()[0, 0])
        return (
            f"row {part.start + row} of the table has class {int(target[row])}, but the model knows "
            f"{scores.shape[1]} classes (0 to {scores.shape[1] - 1}); it was trained on another task"
        )
    row = part.start + int(scores.isnan().any(1).nonzero()[0, 0])
    if use_image and (_bad_image(table, row) or bool((table.image_rows(slice(row, row + 1)) < 0).any())):
        return (
            f"the image predictions of row {row} of the table are no probabilities (NaN or negative); "
            "fill them, leave such rows out with table.where(...), or pass use_image=False"
        )
    return f"the model's scores of row {row} of the table are NaN; look for NaN or infinite weights of the model"


def _bad_image(table: Table, row: int) -> bool:
    return table.image is not None and not bool(torch.isfinite(table.image_rows(slice(row, row + 1))).all())


def model_of(run_or_model: Any) -> Any:
    """The model of a run; a module or a baseline as it is."""
    if isinstance(run_or_model, nn.Module):
        return run_or_model
    return getattr(run_or_model, "model", run_or_model)


def predicts_numbers(model: Any, table: Table) -> bool:
    """True for a regression: by what the model is, and for one that could be either by the labels."""
    numbers = table.target.is_floating_point()
    if model is None or isinstance(model, str):
        if model not in (None, "no_prior"):
            raise TypeError(f'{model!r} cannot be evaluated: pass a run, a model, a baseline, or "no_prior"')
        if numbers:
            raise TypeError(
                '"no_prior" is for classes, and the labels of this table are numbers; '
                "train a regressor of the image: tslab.train(task, 'no_prior')"
            )
        return False
    one = _member(model)
    if isinstance(one, Regressor):
        return True
    if hasattr(one, "log_prior"):
        if numbers and not hasattr(one, "predict"):
            raise TypeError(
                f"{type(one).__name__} predicts classes, and the labels of this table are numbers; "
                "evaluate it on the task that it was trained on"
            )
        return numbers
    if isinstance(model, nn.Module):
        return numbers or _returns_numbers(model, table)
    if hasattr(model, "predict"):
        return True
    raise TypeError(
        f"{type(model).__name__} cannot be evaluated: it has neither log_prior(lonlat) nor predict(lonlat); "
        "pass a run of tslab.train, a model, a baseline, or 'no_prior'"
    )


def _member(model: Any) -> Any:
    return model.members[0] if isinstance(model, Ensemble) else model


def _returns_numbers(model: nn.Module, table: Table) -> bool:
    """What a module of the user's own says about the first place."""
    device = _device_of(model, table)
    with evaluating(model):
        got = _call_of(model, table, device)(table.lonlat[:1].to(device), slice(0, 1))
    return got.ndim == 1 or got.shape[-1] == 1


def _call_of(model: nn.Module, table: Table, device: torch.device) -> Callable[[Tensor, slice], Tensor]:
    """How to call a module with places and the part of the table that they come from."""
    one = _member(model)
    if isinstance(one, Regressor):
        takes_image, reads_image, dtype = True, _needs_image(model), table.lonlat.dtype
    else:
        takes_image = _takes_image(one)
        reads_image = takes_image and table.image is not None
        double = next((p.dtype == torch.float64 for p in model.parameters()), False)
        dtype = torch.float64 if double else table.lonlat.dtype

    def call(lonlat: Tensor, part: slice) -> Tensor:
        image = table.image_rows(part, device=device) if reads_image else None
        places = lonlat.to(dtype)
        got = model(places, image) if takes_image else model(places)
        if not isinstance(got, Tensor):
            raise TypeError(f"{type(model).__name__} returned {type(got).__name__}, not a tensor")
        return got

    return call


def _takes_image(model: nn.Module) -> bool:
    """True for a module that is called with places and image input, False for one called with places alone."""
    signature = inspect.signature(model.forward)
    try:
        signature.bind(None)
    except TypeError:
        try:
            signature.bind(None, None)
        except TypeError as error:
            raise TypeError(
                f"{type(model).__name__} cannot be evaluated: evaluate calls forward(lonlat) or "
                f"forward(lonlat, image), and it takes {signature}"
            ) from error
        return True
    return "image" in signature.parameters


def _needs_image(model: nn.Module) -> bool:
    members = getattr(model, "members", [model])
    return any(getattr(member, "image", None) is not None for member in members)


def _prior_of(model: Any, table: Table) -> Callable[[Tensor, slice], Float[Tensor, "n k"]] | None:
    """ln P(class | place) of places and the part of the table that they come from; None for the image alone."""
    if model is None or isinstance(model, str):
        return None
    if hasattr(model, "log_prior"):
        return lambda lonlat, part: model.log_prior(lonlat)
    call = _call_of(model, table, _device_of(model, table))

    def log_softmax(lonlat: Tensor, part: slice) -> Tensor:
        scores = call(lonlat, part)
        if scores.ndim != 2 or len(scores) != len(lonlat):
            raise ValueError(
                f"{type(model).__name__} returned {tuple(scores.shape)} for {len(lonlat)} rows; "
                "classes need scores (n, K)"
            )
        return F.log_softmax(scores.float(), dim=-1)

    return log_softmax


def _device_of(model: Any, table: Table) -> torch.device:
    tensor = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return tensor.device if tensor is not None else table.lonlat.device


def _rows_at_a_time(model: Any, table: Table) -> int:
    width = getattr(model, "num_classes", None) or (table.image.shape[-1] if table.image is not None else 1)
    return max(256, BATCH_ELEMENTS // max(int(width), 256))
