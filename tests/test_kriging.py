"""Kriging by its defining properties, and a stack whose weight is chosen on rows that nobody has seen."""

import pytest
import torch

from tslab import great_circle_distance, sample_sphere
from tslab.kriging import LENGTHS_KM, NUGGETS, LocalKriging, neighbors_in_other_folds, train_stack
from tslab.metrics import r2
from tslab.tasks import Table, Task, TaskMeta
from tslab.tasks.splits import block_folds
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


def test_the_stack_is_at_least_as_good_as_its_better_half_where_the_weight_is_chosen() -> None:
    table = gaussian_field(1000, 1000.0)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(4))
    fit, check = table.where(order[:800]), table.where(order[800:])
    task = Task(name="field", train=fit, val=check, test=check, meta=TaskMeta(kind="regression", synthetic=True))
    model = train_stack(task, "xyz", folds=2, epochs=5, hidden_dim=32, dropout=0.0, progress=False)
    assert model.fold_r2["both"] >= max(model.fold_r2["encoder"], model.fold_r2["kriging"])
    assert 0 <= model.weight < 0.5  # one wave around the globe knows less than the neighbours
    together = model.weight * model.encoders(check.lonlat) + (1 - model.weight) * model.kriging.predict(check.lonlat)
    torch.testing.assert_close(model.predict(check.lonlat), together)
    assert r2(model.predict(check.lonlat), check.target.double()) > 0.3


@pytest.mark.parametrize("block_degrees", [None, 30.0])
def test_no_row_chooses_the_weight_by_a_model_that_saw_it(block_degrees: float | None) -> None:
    lonlat = places(90)
    table = Table(lonlat=lonlat, target=torch.arange(90.0))
    task = Task(name="rows", train=table, val=table, test=table, meta=TaskMeta(kind="regression", synthetic=True))
    seen: list[set[float]] = []

    def watch(part: Task, *arguments: object, **options: object) -> object:
        seen.append(set(part.train.target.tolist()))
        return train(part, "xyz", epochs=1, fusion="none", progress=False)

    train_stack(task, folds=3, block_degrees=block_degrees, k=8, build=watch)  # type: ignore[arg-type]
    left_out = [set(range(90)) - rows for rows in seen]
    assert sorted(row for rows in left_out for row in rows) == list(range(90))


def test_neighbours_in_other_folds_are_the_nearest_of_them() -> None:
    table = Table(lonlat=places(60), target=torch.zeros(60))
    folds = torch.arange(60) % 3
    asked = torch.tensor([5, 17, 40])
    distance, index = neighbors_in_other_folds(LocalKriging(table, k=4).neighbors, folds, asked)
    apart = great_circle_distance(table.lonlat[asked][:, None].double(), table.lonlat[None].double())
    apart[folds[asked][:, None] == folds[None]] = torch.inf
    expected = apart.topk(4, largest=False)
    assert torch.equal(index, expected.indices)
    torch.testing.assert_close(distance, expected.values, rtol=1e-4, atol=1e-2)


def test_blocks_as_folds_choose_what_predicts_left_out_blocks_best() -> None:
    table = gaussian_field(600, 3000.0)
    folds = block_folds(table.lonlat, 3, size_degrees=30.0)
    label = table.target.double()

    def error(length: float, nugget: float) -> float:
        total = 0.0
        for fold in range(3):
            model = LocalKriging(table.where(folds != fold), k=16, length_km=length, nugget=nugget)
            total += float(((model.predict(table.lonlat) - label)[folds == fold] ** 2).sum())
        return total

    model = LocalKriging(table, k=16, folds=folds)
    best = min(((length, g) for length in LENGTHS_KM for g in NUGGETS), key=lambda choice: error(*choice))
    assert (model.length_km, model.nugget) == best


def test_places_that_coincide_need_a_nugget() -> None:
    """Two equal rows of the equations have no solution; with a nugget the answer is about their mean."""
    here = places(30)
    twice = Table(lonlat=torch.cat([here, here]), target=torch.cat([torch.zeros(30), torch.ones(30)]))
    with pytest.raises(ValueError, match=r"nugget=0.*coincide.*nugget above 0"):
        LocalKriging(twice, k=10, length_km=500.0, nugget=0.0).predict(here[:2])
    both = LocalKriging(twice, k=2, length_km=500.0, nugget=0.02).predict(here[:2])
    torch.testing.assert_close(both, torch.full((2,), 0.5, dtype=torch.float64), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("k", 0), ("k", 2.5), ("length_km", 0.0), ("length_km", float("inf")), ("nugget", -1.0), ("seed", -1)]
    + [("nugget", float("nan")), ("folds", torch.zeros(5, dtype=torch.long)), ("folds", torch.rand(50))],
)
def test_parameters_of_kriging_are_named(name: str, value: object) -> None:
    table = Table(lonlat=places(50), target=torch.arange(50.0))
    with pytest.raises(ValueError, match=name):
        LocalKriging(table, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one fold"):
        LocalKriging(table, folds=torch.zeros(50, dtype=torch.long))


SMALL = {"epochs": 1, "embedding_dim": 8, "hidden_dim": 8, "progress": False, "device": "cpu"}


def regression(rows: int) -> Task:
    table = Table(lonlat=places(rows), target=places(rows)[:, 1])
    return Task("latitude", table, table, table, TaskMeta(kind="regression"))


def test_a_stack_of_few_rows_is_made_or_says_why_not() -> None:
    stack = train_stack(regression(40), "xyz", folds=2, block_degrees=30.0, **SMALL)  # fewer rows than neighbours
    assert torch.isfinite(stack.predict(places(5, 1))).all() and 0 <= stack.weight <= 1
    with pytest.raises(ValueError, match=r"8 training rows.*3 folds need at least 9"):
        train_stack(regression(8), "xyz", **SMALL)
    one_block = Table(lonlat=torch.rand((40, 2)), target=torch.arange(40.0))
    with pytest.raises(ValueError, match="smaller blocks"):
        train_stack(
            Task("spot", one_block, one_block, one_block, TaskMeta(kind="regression")),
            "xyz",
            folds=2,
            block_degrees=30.0,
            **SMALL,
        )
    with pytest.raises(ValueError, match="folds"):
        train_stack(regression(40), "xyz", folds=1, **SMALL)
