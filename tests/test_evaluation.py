"""What may be evaluated, on what, and which row is to blame when it cannot be."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tslab
from tslab.baselines import MeanLabel
from tslab.models import Ensemble, Regressor
from tslab.tasks import Table, Task, TaskMeta
from tslab.training import train

PLACES = tslab.sample_sphere(60, generator=torch.Generator().manual_seed(0))
CLASSES = Table(PLACES, torch.arange(60) % 3)
NUMBERS = Table(PLACES, PLACES[:, 1].clone())
SMALL: dict[str, Any] = {"epochs": 1, "embedding_dim": 8, "hidden_dim": 8, "progress": False, "device": "cpu"}


def evaluate(model: Any, table: Table, **options: Any) -> tslab.Evaluation:
    return tslab.evaluate(model, table, intervals=False, **options)


class Latitude(nn.Module):
    """Knows the label: its latitude."""

    def forward(self, lonlat: Tensor) -> Tensor:
        return lonlat[:, 1]


class North(nn.Module):
    """Scores of three classes that rise with the latitude, and with the image if there is one."""

    def forward(self, lonlat: Tensor, image: Tensor | None = None) -> Tensor:
        scores = lonlat[:, 1:] * torch.tensor([[-1.0, 0.0, 1.0]])
        return scores if image is None else scores + image


# ------------------------------------------------------------------------------- modules of one's own


def test_a_module_that_returns_the_label_is_perfect_in_either_shape() -> None:
    for module in (Latitude(), nn.Sequential(Latitude(), nn.Unflatten(0, (-1, 1)))):
        metrics = evaluate(module, NUMBERS).metrics
        assert metrics["r2"] == 1 and metrics["mae"] == 0


def test_scores_of_a_module_are_logits_and_join_the_image_like_a_prior() -> None:
    result = evaluate(North(), CLASSES).results
    expected = torch.softmax(North()(PLACES), dim=1)[torch.arange(60), CLASSES.target]
    torch.testing.assert_close(torch.tensor(result["true_class_prob"].to_numpy()), expected.double())

    class Places(nn.Module):
        def forward(self, lonlat: Tensor) -> Tensor:
            return North()(lonlat)

    certain = Table(PLACES, CLASSES.target, image=torch.eye(3)[CLASSES.target])
    assert evaluate(Places(), certain).metrics["top1"] == 1


def test_a_module_with_two_inputs_gets_the_image() -> None:
    class Image(nn.Module):
        def forward(self, lonlat: Tensor, image: Tensor) -> Tensor:
            return image.sum(1)

    table = Table(PLACES, NUMBERS.target, image=torch.stack([NUMBERS.target, torch.zeros(60)], 1))
    assert evaluate(Image(), table).metrics["r2"] == pytest.approx(1)


def test_a_module_in_double_precision_is_evaluated_and_keeps_its_mode() -> None:
    module = nn.Sequential(nn.Linear(2, 1), nn.Dropout(0.5)).double().train()
    first, second = evaluate(module, NUMBERS).metrics, evaluate(module, NUMBERS).metrics
    assert first == second and module.training


def test_a_module_of_the_wrong_shape_is_told_the_right_one() -> None:
    class Three(nn.Module):
        def forward(self, image: Tensor, lonlat: Tensor, date: Tensor) -> Tensor:
            return image

    with pytest.raises(ValueError, match=r"returned \(60, 3\) for 60 rows.*\(n,\) or \(n, 1\)"):
        evaluate(North(), NUMBERS)
    with pytest.raises(TypeError, match=r"forward\(lonlat\) or forward\(lonlat, image\)"):
        evaluate(Three(), NUMBERS)
    with pytest.raises(TypeError, match=r"neither log_prior\(lonlat\) nor predict\(lonlat\)"):
        evaluate(object(), CLASSES)
    with pytest.raises(TypeError, match="no_prior"):
        evaluate("noprior", CLASSES)
    with pytest.raises(TypeError, match=r"task\.test"):
        evaluate("no_prior", Task("mine", CLASSES, CLASSES, CLASSES, TaskMeta("classification", tuple("abc"))))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------- kinds of labels


def test_whole_numbers_are_numbers_to_a_regressor() -> None:
    table = Table(PLACES, torch.arange(60))
    task = Task("counts", table, table, table, TaskMeta(kind="regression"))
    run = train(task, "xyz", patience=1, **SMALL)
    same = Table(PLACES, torch.arange(60).float())
    assert evaluate(run, table).metrics == evaluate(run, same).metrics
    assert evaluate(Latitude(), table).metrics["n"] == 60
    assert evaluate(MeanLabel(table), table).metrics["r2"] == pytest.approx(0)
    members: list[nn.Module] = [Regressor(tslab.location_encoder("xyz", 8), fusion="none") for _ in range(2)]
    assert "r2" in evaluate(Ensemble(members), table).metrics


def test_a_model_of_classes_is_not_evaluated_on_numbers() -> None:
    task = Task("mine", CLASSES, CLASSES, CLASSES, TaskMeta(kind="classification", classes=tuple("abc")))
    with pytest.raises(TypeError, match="LocationClassifier predicts classes"):
        evaluate(train(task, "xyz", **SMALL), NUMBERS)
    with pytest.raises(TypeError, match=r"tslab\.train\(task, 'no_prior'\)"):
        evaluate("no_prior", NUMBERS)


def test_r2_of_equal_labels_is_undefined_everywhere() -> None:
    equal = Table(PLACES, torch.full((60,), 0.1))
    result = tslab.evaluate(Latitude(), equal)
    assert all(result.metrics[name] != result.metrics[name] for name in ("r2", "r2_low", "r2_high"))
    assert result.strata[["r2", "r2_low", "r2_high"]].isna().all(axis=None)
    assert result.metrics["mae"] > 0


# ------------------------------------------------------------------------------- rows to blame


def test_the_row_and_the_cause_are_named() -> None:
    wide = Table(PLACES, torch.arange(60) % 5)
    with pytest.raises(ValueError, match=r"row 3 of the table has class 3.*3 classes"):
        evaluate(North(), wide)
    for value in (torch.nan, -0.1):
        with_image = Table(PLACES, CLASSES.target, image=torch.rand(60, 3))
        with_image.image[7, 1] = value  # a table refuses NaN; here it comes in afterwards
        with pytest.raises(ValueError, match="image predictions of row 7"):
            evaluate("no_prior", with_image)
    missing = PLACES.clone()
    missing[4] = torch.nan
    with pytest.raises(ValueError, match=r"row 4 .*no location.*has_location"):
        evaluate(Latitude(), Table(missing, NUMBERS.target))
    labels = Table(PLACES, NUMBERS.target.clone())
    labels.target[2] = torch.inf
    with pytest.raises(ValueError, match="label of row 2 is inf"):
        evaluate(Latitude(), labels)
    broken = nn.Linear(2, 1)
    nn.init.constant_(broken.weight, torch.nan)
    with pytest.raises(ValueError, match=r"row 0 is nan.*weights"):
        evaluate(broken, NUMBERS)


@pytest.mark.parametrize(("name", "value"), [("block_deg", 7), ("block_deg", 0), ("bins", 0), ("use_image", "no")])
def test_parameters_are_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        evaluate(Latitude(), NUMBERS, **{name: value})


def test_a_table_that_was_split_by_blocks_is_resampled_by_blocks() -> None:
    """Errors that are alike within a block: the interval over blocks is several times as wide."""
    places = tslab.sample_sphere(3000, generator=torch.Generator().manual_seed(0))
    table = Table(places, places[:, 1] + 40 * torch.sin(places[:, 0] // 10 * 7 + places[:, 1] // 10 * 3))
    whole = Task("mine", table, table.where([]), table.where([]), TaskMeta(kind="regression", image_kind="none"))
    split = whole.resplit((0.5, 0.25, 0.25), size_degrees=10.0)
    assert not set(split.train.block.tolist()) & set(split.test.block.tolist())
    found = tslab.evaluate(Latitude(), split.test)
    assert (found.results["block"].to_numpy() == split.test.block.numpy()).all()
    rows = tslab.evaluate(Latitude(), split.resplit((0.5, 0.25, 0.25)).test)
    assert "block" not in rows.results

    def width(evaluation: tslab.Evaluation) -> float:
        return evaluation.metrics["mae_high"] - evaluation.metrics["mae_low"]

    assert width(found) > 1.8 * width(rows)
    everywhere = found.strata.set_index("stratum").loc["all"]
    assert everywhere["mae_high"] - everywhere["mae_low"] == pytest.approx(width(found), rel=0.3)
    again = Table.from_pandas(split.test.to_pandas())
    assert again.block.equal(split.test.block)
    validated = whole.with_validation(0.2, size_km=1000.0)
    assert int(validated.val.block.min()) >= 0 and int(validated.with_validation().train.block.min()) >= 0
