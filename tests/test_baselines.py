"""Baselines by their definitions: exact neighbours on the sphere, counts that can be done by hand, known limits."""

import math

import pytest
import torch

from tslab import great_circle_distance, sample_sphere
from tslab.baselines import (
    ClassFrequency,
    CoordinateTrees,
    GridHistogram,
    KernelDensity,
    MeanLabel,
    NearestNeighbors,
    NeighborAverage,
    SphereNeighbors,
    fit_baseline,
)
from tslab.evaluation import evaluate
from tslab.tasks import Table, load_task


def places(n: int, seed: int = 0) -> torch.Tensor:
    return sample_sphere(n, generator=torch.Generator().manual_seed(seed))


def test_neighbours_are_the_nearest_by_great_circle_also_across_date_line_and_pole() -> None:
    train = torch.cat([places(300), torch.tensor([[179.9, 10.0], [-179.9, 10.0], [0.0, 89.9], [180.0, 89.9]])])
    asked = torch.cat([places(50, 1), torch.tensor([[-179.95, 10.0], [90.0, 90.0]])])
    distance, index = SphereNeighbors(train, 3).query(asked)
    everything = great_circle_distance(asked.double()[:, None], train.double()[None])
    expected, order = everything.sort(dim=1)
    assert torch.equal(index, order[:, :3]) or torch.allclose(distance, expected[:, :3], atol=1e-6)
    torch.testing.assert_close(distance, expected[:, :3], atol=1e-5, rtol=1e-9)
    assert set(index[-2, :2].tolist()) == {300, 301}  # one place on each side of the date line


def test_leaving_one_out_never_uses_the_place_itself() -> None:
    train = places(200)
    _, index = SphereNeighbors(train, 4).query_self()
    assert not (index == torch.arange(200)[:, None]).any()
    coinciding = torch.zeros((8, 2))
    _, index = SphereNeighbors(coinciding, 2).query_self()
    assert not (index == torch.arange(8)[:, None]).any()


def test_too_few_places_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match=r"k must lie in 1 \.\.\. 4"):
        SphereNeighbors(places(5), 5)


def table(lonlat: list[list[float]], target: list[int]) -> Table:
    return Table(lonlat=torch.tensor(lonlat, dtype=torch.float32), target=torch.tensor(target))


def test_class_frequency_counts() -> None:
    prior = ClassFrequency(table([[0, 10]] * 4, [0, 0, 0, 2]), 3, smoothing=1.0)
    p = prior.log_prior(places(2)).exp()
    torch.testing.assert_close(p[0], torch.tensor([4 / 7, 1 / 7, 2 / 7]))


def test_grid_histogram_counts_in_its_cell_and_says_the_world_elsewhere() -> None:
    train = table([[0.5, 0.5], [0.6, 0.7], [1.9, 1.9], [100.0, 50.0]], [0, 0, 1, 2])
    grid = GridHistogram(train, 3, cell_deg=2.0, smoothing=1.0)
    world = torch.tensor([3 / 7, 2 / 7, 2 / 7])
    p = grid.log_prior(torch.tensor([[1.0, 1.0], [-60.0, -30.0]])).exp()
    torch.testing.assert_close(p[0], (torch.tensor([2.0, 1.0, 0.0]) + world) / 4)
    torch.testing.assert_close(p[1], world)
    # the date line is not an edge: 180 and -180 are one place
    both = grid.log_prior(torch.tensor([[180.0, 5.0], [-180.0, 5.0]]))
    assert torch.equal(both[0], both[1])


def test_neighbours_vote() -> None:
    train = table([[0, 0], [0, 1], [0, 2], [90, 0], [90, 1]], [1, 1, 0, 2, 2])
    p = NearestNeighbors(train, 3, k=3, smoothing=0.0).log_prior(torch.tensor([[0.0, 0.5]])).exp()
    torch.testing.assert_close(p, torch.tensor([[1 / 3, 2 / 3, 0.0]]))


def test_kernel_density_falls_like_a_gaussian_of_its_bandwidth() -> None:
    """One place of each class: the ratio of the probabilities is the ratio of the kernels."""
    degree_km = 6371.0088 * math.pi / 180
    train = table([[0, 0], [0, 40]], [0, 1])
    kde = KernelDensity(train, 2, bandwidth_km=10 * degree_km, smoothing=0.0)
    log_p = kde.log_prior(torch.tensor([[0.0, 10.0]], dtype=torch.float64))
    kappa = (180 / math.pi / 10) ** 2
    expected = kappa * (math.cos(math.radians(10)) - math.cos(math.radians(30)))
    assert float(log_p[0, 0] - log_p[0, 1]) == pytest.approx(expected, rel=1e-9)


def test_baselines_recover_a_smooth_field_and_the_mean_does_not() -> None:
    train, test = places(4000), places(500, 1)
    field = lambda x: torch.sin(torch.deg2rad(x[:, 1]) * 2).float()  # noqa: E731
    fit, check = Table(lonlat=train, target=field(train)), Table(lonlat=test, target=field(test))
    r2 = {
        "mean": evaluate(MeanLabel(fit), check, intervals=False).metrics["r2"],
        "knn": evaluate(NeighborAverage(fit, k=10), check, intervals=False).metrics["r2"],
        "trees": evaluate(CoordinateTrees(fit, max_iter=100), check, intervals=False).metrics["r2"],
    }
    assert abs(r2["mean"]) < 0.02
    assert r2["knn"] > 0.99 and r2["trees"] > 0.99


def test_leave_one_out_is_what_a_fit_without_the_place_predicts() -> None:
    lonlat = places(60)
    label = torch.randn(60, generator=torch.Generator().manual_seed(2))
    loo = NeighborAverage(Table(lonlat=lonlat, target=label), k=5).leave_one_out()
    rest = torch.arange(60) != 7
    without = NeighborAverage(Table(lonlat=lonlat[rest], target=label[rest]), k=5)
    assert float(loo[7]) == pytest.approx(float(without.predict(lonlat[7:8])), rel=1e-6)


def test_a_missing_place_gets_the_mean_label() -> None:
    fit = Table(lonlat=places(30), target=torch.arange(30.0))
    asked = torch.tensor([[torch.nan, torch.nan], [0.0, 0.0]])
    assert float(NeighborAverage(fit, k=3).predict(asked)[0]) == pytest.approx(14.5)
    assert torch.isfinite(CoordinateTrees(fit, max_iter=5, early_stopping=False).predict(asked)).all()


@pytest.mark.parametrize("key", ["class_frequency", "grid", "knn", "kde"])
def test_every_class_baseline_is_evaluated_like_a_model(key: str) -> None:
    task = load_task("sphere_toy", n_train=1024, n_test=256)
    options = {"cell_deg": 10.0} if key == "grid" else {}
    metrics = evaluate(fit_baseline(key, task, **options), task.test, intervals=False).metrics
    if key == "class_frequency":
        assert metrics["top1"] < 0.3
    else:
        assert 0.75 < metrics["top1"] <= 0.95
    with pytest.raises(KeyError, match="class_frequency, grid, knn, kde"):
        fit_baseline("trees", task)


@pytest.mark.parametrize(
    ("key", "name", "value"),
    [
        ("knn", "k", 0),
        ("knn", "k", 2.5),
        ("knn", "softening_km", 0.0),
        ("knn", "weights", "gaussian"),
        ("grid", "cell_deg", 0.0),
        ("grid", "cell_deg", math.nan),
        ("kde", "bandwidth_km", math.inf),
        ("kde", "bandwidth_km", 0),
        ("class_frequency", "smoothing", -1.0),
    ],
)
def test_parameters_of_baselines_are_named(key: str, name: str, value: object) -> None:
    task = load_task("sphere_toy", n_train=64, n_val=8, n_test=8)
    with pytest.raises(ValueError, match=name):
        fit_baseline(key, task, **{name: value})


def test_baselines_of_classes_are_not_fitted_to_numbers_nor_to_classes_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="labels are numbers"):
        ClassFrequency(Table(places(4), torch.rand(4)), 3)
    with pytest.raises(ValueError, match="row 3 has class 3"):
        GridHistogram(Table(places(4), torch.arange(4)), 3)
    labels = Table(places(2), torch.tensor([0.0, 1.0]))
    labels.target[1] = math.inf  # a table refuses it; here it comes in afterwards
    with pytest.raises(ValueError, match="label in row 1"):
        MeanLabel(labels)
