"""How close a stand-in is to its dataset: target and achieved, side by side."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from tslab.earth import CONTINENTS, continents
from tslab.metrics import r2, true_class_ranks
from tslab.synthetic import CLASS_SPECS, VALUE_SPECS
from tslab.tasks.datasets import DATASETS
from tslab.tasks.table import Table
from tslab.tasks.task import Task

CHUNK_ROWS = 2048


def image_statistics(table: Table) -> dict[str, float]:
    """Accuracy of image predictions: top1, top3, top10, mrr, and the quartiles p25, p50, p75 of P(true class).

    Classes that tie with the true one count as half ahead of it.
    """
    ranks, stated = [], []
    for start in range(0, len(table), CHUNK_ROWS):
        rows = torch.arange(start, min(start + CHUNK_ROWS, len(table)), device=table.device)
        scores = table.image_rows(rows)
        ranks.append(true_class_ranks(scores, table.target[rows]))
        stated.append(scores.gather(1, table.target[rows, None])[:, 0])
    rank, p = torch.cat(ranks).double(), torch.cat(stated).double()
    quartiles = torch.quantile(p, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64, device=p.device)).tolist()
    found = {f"top{k}": float((rank <= k).double().mean()) for k in (1, 3, 10)}
    return found | {"mrr": float((1 / rank).mean())} | dict(zip(("p25", "p50", "p75"), quartiles, strict=True))


def linear_image_r2(task: Task) -> float:
    """R² on the test rows of a ridge regression on the image input alone, fitted on the training rows.

    A scalar night light enters as its logarithm, with a level and a slope per satellite.
    """
    features = [_features(table, task.meta.image_kind) for table in (task.train, task.test)]
    y, truth = task.train.target.double(), task.test.target.double()
    mean = y.mean()
    gram = features[0].T @ features[0]
    gram += 1e-6 * torch.diag(gram.diagonal())
    predicted = mean + features[1] @ torch.linalg.solve(gram, features[0].T @ (y - mean))
    return r2(predicted, truth)


def compare_with_targets(task: Task) -> pd.DataFrame:
    """Statistics of a synthetic stand-in: one row per statistic with columns target, achieved and difference.

    Targets are published scores and what was measured on the released results; latitudes in degrees, everything else as
    fractions. Statistics without a target are left out.
    """
    info = DATASETS[task.name]
    rows = list(_class_rows(task) if info.kind == "classification" else _value_rows(task))
    frame = pd.DataFrame(rows, columns=["statistic", "target", "achieved"]).set_index("statistic")
    return frame.assign(difference=frame["achieved"] - frame["target"])


def _class_rows(task: Task) -> Iterator[tuple[str, float, float]]:
    info, spec = DATASETS[task.name], CLASS_SPECS[task.name]
    found = image_statistics(task.test)
    for name, target in info.no_prior.items():
        yield f"image model {name}", target, found[name]
    ceiling = task.meta.ceiling
    yield "gain from the true location prior", spec.gain, ceiling["product_top1"] - ceiling["image_top1"]
    yield "rows without location", spec.missing[2], float((~task.test.has_location).double().mean())
    lonlat = concatenated_places(task)
    shares = torch.bincount(continents(lonlat), minlength=len(CONTINENTS)).double() / len(lonlat)
    for region, target, share in zip(CONTINENTS.values(), spec.geography.regions, shares.tolist(), strict=True):
        yield f"share {region}", target, share
    quantiles = torch.quantile(lonlat[:, 1].double(), torch.tensor([0.01, 0.5, 0.99], dtype=torch.float64)).tolist()
    for name, target, value in zip(("1 %", "50 %", "99 %"), spec.geography.latitudes, quantiles, strict=True):
        yield f"latitude {name}", target, value


def _value_rows(task: Task) -> Iterator[tuple[str, float, float]]:
    spec = VALUE_SPECS[task.name]
    whole = torch.cat([table.target for table in task.tables.values()]).double()
    mixed = task.resplit(seed=0) if spec.countries else task  # whole countries differ too much from each other
    yield "image-only R² (ridge)", spec.image_r2, linear_image_r2(mixed)
    if spec.quantiles is not None:
        at = np.array([0.1, 0.5, 0.9, 0.99])
        wanted = np.interp(at, *spec.quantiles)
        for p, target, value in zip(at, wanted, np.quantile(whole.numpy(), at), strict=True):
            yield f"label {p:.0%} quantile", float(target), float(value)
        zeros = np.mean(np.interp(np.linspace(0, 1, 10_001), *spec.quantiles) == 0)
        yield "label exactly 0", float(zeros), float((whole == 0).double().mean())
    else:
        yield "label standard deviation", 1.0, float(whole.std())
    if task.truth is not None:
        expected = task.truth(concatenated_places(task).double())
        yield "R² of the truth from the location", spec.location_r2, r2(expected, whole)


def concatenated_places(task: Task) -> torch.Tensor:
    """The locations of all rows of a task that have one."""
    lonlat = torch.cat([table.lonlat for table in task.tables.values()])
    return lonlat[~lonlat.isnan().any(-1)]


def _features(table: Table, kind: str) -> torch.Tensor:
    rows = table.image_rows().double()
    if kind == "scalar":
        light, late = torch.log(rows[:, 0]), (table.year >= 2012).double()
        columns = torch.stack([1 - late, late, light * (1 - late), light * late], -1)
        return columns
    return torch.cat([torch.ones(len(rows), 1, dtype=torch.float64), rows], -1)
