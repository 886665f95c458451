"""Kriging by its defining properties, and residuals that are honest."""

import pytest
import torch

from tslab import great_circle_distance, sample_sphere
from tslab.kriging import LocalKriging, train_with_residuals
from tslab.metrics import r2
from tslab.tasks import Table, Task, TaskMeta
from tslab.training import train


def places(n: int, seed: int = 0) -> torch.Tensor:
    return sample_sphere(n, generator=torch.Generator().manual_seed(seed))


def test_without_nugget_kriging_goes_through_the_data_and_a_constant_stays() -> None:
    table = Table(lonlat=places(200), target=torch.randn(200, generator=torch.Generator().manual_seed(1)))
    model = LocalKriging(table, k=16, length_km=2000.0, nugget=1e-9)
    torch.testing.assert_close(model.predict(table.lonlat), table.target.double(), atol=1e-5, rtol=1e-5)
    flat = LocalKriging(Table(lonlat=table.lonlat, target=torch.full((200,), 7.0)), k=16)
    torch.testing.assert_close(flat.predict(places(50, 2)), torch.full((50,), 7.0, dtype=torch.float64))


def test_kriging_is_the_textbook_solution() -> None:
    table = Table(lonlat=places(12), target=torch.arange(12.0))
    asked = places(1, 5)
    model = LocalKriging(table, k=11, length_km=3000.0, nugget=0.2)
    distance, index = model.neighbors.query(asked)
    x = table.lonlat[index[0]].double()
    system = torch.ones((12, 12), dtype=torch.float64)
    system[:11, :11] = torch.exp(-great_circle_distance(x[:, None], x[None]) / 3000) + 0.2 * torch.eye(11)
    system[11, 11] = 0
    right = torch.cat([torch.exp(-distance[0] / 3000), torch.ones(1)])
    weight = torch.linalg.solve(system, right)[:11]
    expected = float(weight @ table.target[index[0]].double())
    assert float(model.predict(asked)[0]) == pytest.approx(expected, rel=1e-8)


def gaussian_field(n: int, length_km: float) -> Table:
    """Synthetic: a Gaussian field with covariance exp(-d / L) and a tenth of noise variance."""
    lonlat = places(n).double()
    covariance = torch.exp(-great_circle_distance(lonlat[:, None], lonlat[None]) / length_km)
    draw = torch.randn(n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    field = torch.linalg.cholesky(covariance + 0.1 * torch.eye(n)) @ draw
    return Table(lonlat=lonlat.float(), target=field.float())


def test_leaving_out_tells_a_smooth_field_from_noise() -> None:
    smooth = LocalKriging(gaussian_field(1500, 3000.0))
    assert smooth.length_km >= 1000
    noise = torch.randn(1500, generator=torch.Generator().manual_seed(6))
    white = LocalKriging(Table(lonlat=places(1500), target=noise))
    assert float(white.predict(places(500, 7)).std()) < 0.4  # stays near the mean of noise with deviation 1


def test_residuals_add_what_the_encoder_cannot_resolve() -> None:
    """The encoder is xyz, one wave around the globe; the field has much finer detail."""
    table = gaussian_field(1500, 1000.0)
    order = torch.randperm(1500, generator=torch.Generator().manual_seed(4))
    fit, check = table.where(order[:1200]), table.where(order[1200:])
    task = Task(
        name="field", train=fit, val=check, test=check, meta=TaskMeta(kind="regression", synthetic=True)
    )
    model = train_with_residuals(task, "xyz", folds=2, epochs=5, hidden_dim=32, dropout=0.0, progress=False)
    trend, both = (r2(f(check.lonlat), check.target.double()) for f in (model.trend, model.predict))
    assert both > trend + 0.1
    assert len(model.runs) == 2 and all(len(run.history) == 5 for run in model.runs)


def test_no_row_is_predicted_by_a_model_that_saw_it() -> None:
    lonlat = places(60)
    task = Task(
        name="rows",
        train=Table(lonlat=lonlat, target=torch.arange(60.0)),
        val=Table(lonlat=lonlat, target=torch.arange(60.0)),
        test=Table(lonlat=lonlat, target=torch.arange(60.0)),
        meta=TaskMeta(kind="regression", synthetic=True),
    )
    seen: list[set[float]] = []

    def watch(part: Task, *arguments: object, **options: object) -> object:
        seen.append(set(part.train.target.tolist()))
        return train(part, "xyz", epochs=1, fusion="none", progress=False)

    train_with_residuals(task, folds=3, k=8, build=watch)  # type: ignore[arg-type]
    left_out = [set(range(60)) - rows for rows in seen]
    assert sorted(row for rows in left_out for row in rows) == list(range(60))
