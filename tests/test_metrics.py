"""Facts about metrics: ranks by definition, agreement with scikit-learn, intervals that cover."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as sk

from tslab import metrics
from tslab.coords import EARTH_RADIUS_KM, sample_sphere, unit_vectors
from tslab.earth import spatial_blocks


def test_ranks_without_ties_are_positions_in_the_sorted_list() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand((200, 37), generator=generator, dtype=torch.float64)
    target = torch.randint(37, (200,), generator=generator)
    order = scores.argsort(dim=1, descending=True)
    position = (order == target[:, None]).nonzero()[:, 1] + 1
    assert torch.equal(metrics.true_class_ranks(scores, target), position.float())


def test_a_tie_costs_half_a_rank_and_no_class_number_matters() -> None:
    scores = torch.tensor([[0.5, 0.2, 0.2, 0.0, 0.0, 0.0]])
    expected = [1.0, 2.5, 2.5, 5.0, 5.0, 5.0]
    got = [float(metrics.true_class_ranks(scores, torch.tensor([c]))) for c in range(6)]
    assert got == expected
    assert np.isclose(sum(got), 6 * 7 / 2)  # ties share the ranks they stand on


def test_all_classes_tied_at_zero_probability_rank_in_the_middle() -> None:
    log_scores = torch.full((1, 9), -torch.inf)
    assert float(metrics.true_class_ranks(log_scores, torch.tensor([3]))) == 5.0


def test_ranks_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randint(5, (100, 7), generator=generator).float()
    target = torch.randint(7, (100,), generator=generator)
    whole = metrics.true_class_ranks(scores, target)
    monkeypatch.setattr(metrics, "CHUNK_ELEMENTS", 21)
    assert torch.equal(metrics.true_class_ranks(scores, target), whole)


def test_ranks_refuse_nan_and_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="NaN"):
        metrics.true_class_ranks(torch.tensor([[0.1, torch.nan]]), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"\(n, k\)"):
        metrics.true_class_ranks(torch.zeros(3, 4), torch.zeros(2, dtype=torch.long))


def test_top_k_agrees_with_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(2)
    scores = torch.rand((500, 11), generator=generator, dtype=torch.float64)
    target = torch.randint(11, (500,), generator=generator)
    ranks = metrics.true_class_ranks(scores, target)
    for k in (1, 3, 5):
        expected = sk.top_k_accuracy_score(target.numpy(), scores.numpy(), k=k, labels=range(11))
        assert metrics.top_k_accuracy(ranks, k) == pytest.approx(expected, abs=1e-12)
    one_hot = np.eye(11)[target.numpy()]
    expected_mrr = sk.label_ranking_average_precision_score(one_hot, scores.numpy())
    assert metrics.mean_reciprocal_rank(ranks) == pytest.approx(expected_mrr, abs=1e-6)


def test_regression_metrics_agree_with_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(3)
    label = 1000 + 50 * torch.randn(400, generator=generator, dtype=torch.float64)
    prediction = label + 30 * torch.randn(400, generator=generator, dtype=torch.float64)
    a, b = label.numpy(), prediction.numpy()
    assert metrics.r2(prediction, label) == pytest.approx(sk.r2_score(a, b), abs=1e-12)
    assert metrics.mae(prediction, label) == pytest.approx(sk.mean_absolute_error(a, b), abs=1e-9)
    assert metrics.rmse(prediction, label) == pytest.approx(sk.root_mean_squared_error(a, b), abs=1e-9)


def test_a_calibrated_forecast_has_no_calibration_error() -> None:
    generator = torch.Generator().manual_seed(4)
    confidence = torch.rand(200_000, generator=generator, dtype=torch.float64)
    correct = torch.rand(200_000, generator=generator, dtype=torch.float64) < confidence
    assert metrics.expected_calibration_error(confidence, correct) < 0.005
    certain = torch.ones(1000)
    half = torch.arange(1000) % 2 == 0
    assert metrics.expected_calibration_error(certain, half) == pytest.approx(0.5)


def test_reliability_counts_every_row_once_and_puts_one_into_the_last_bin() -> None:
    confidence = torch.tensor([0.0, 0.25, 0.2500001, 0.5, 1.0])
    table = metrics.reliability(confidence, torch.ones(5), bins=4)
    assert table["n"].sum() == 5
    assert table["n"].iloc[-1] == 1
    assert table["n"].iloc[0] == 2  # 0.0 and 0.25: intervals are open below, closed above


def test_bootstrap_interval_of_a_mean_matches_its_standard_error() -> None:
    values = torch.randn((2000, 1), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    low, high = metrics.bootstrap_interval(values, lambda m: m[..., 0], replicates=1000)
    error = float(values.std() / 2000**0.5)
    assert low < float(values.mean()) < high
    assert (high - low) == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_summary_has_intervals_around_each_metric() -> None:
    generator = torch.Generator().manual_seed(6)
    label = torch.randn(300, generator=generator).numpy()
    frame = pd.DataFrame({"prediction": label + 0.3, "label": label})
    out = metrics.summarise(frame, intervals=True)
    assert out["mae"] == pytest.approx(0.3, abs=1e-6)
    for name in ("r2", "mae", "rmse"):
        assert out[f"{name}_low"] <= out[name] <= out[f"{name}_high"]
    with pytest.raises(ValueError, match="columns"):
        metrics.summarise(pd.DataFrame({"x": [1.0]}))


def test_the_interval_of_a_mean_over_seeds_is_that_of_the_t_test() -> None:
    from scipy.stats import ttest_1samp

    values = np.array([0.31, 0.35, 0.28, 0.33, 0.40])
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    mean, low, high = metrics.mean_interval(values)
    assert (mean, low, high) == pytest.approx((values.mean(), expected.low, expected.high))
    assert np.isnan(metrics.mean_interval(values[:1])[1:]).all()


def test_the_interval_allows_for_splits_that_share_rows() -> None:
    """Nadeau and Bengio: s^2 (1/n + r) in place of s^2 / n; 5 splits with r = 1/4 give 3/2 of the width."""
    values = np.array([0.31, 0.35, 0.28, 0.33, 0.40])
    _, low, high = metrics.mean_interval(values)
    _, wide_low, wide_high = metrics.mean_interval(values, overlap=0.25)
    assert wide_high - wide_low == pytest.approx(1.5 * (high - low))
    with pytest.raises(ValueError, match="level"):
        metrics.mean_interval(values, level=95)


def test_r2_is_undefined_where_all_labels_are_equal_and_so_is_its_interval() -> None:
    prediction, label = torch.arange(50.0), torch.full((50,), 0.1)
    assert math.isnan(metrics.r2(prediction, label))
    frame = pd.DataFrame({"prediction": prediction.numpy(), "label": label.numpy()})
    summary = metrics.summarise(frame, intervals=True)
    assert all(math.isnan(summary[name]) for name in ("r2", "r2_low", "r2_high"))
    assert summary["mae_low"] < summary["mae"] < summary["mae_high"]


def test_an_interval_leaves_out_resamples_without_an_r2() -> None:
    """Of three rows with two labels, one resample in nine holds one label only."""
    frame = pd.DataFrame({"prediction": [1.0, 2.0, 3.0], "label": [1.1, 2.0, 2.0]})
    summary = metrics.summarise(frame, intervals=True)
    assert math.isfinite(summary["r2_low"]) and math.isfinite(summary["r2_high"])


def test_columns_of_pandas_and_numpy_are_taken_by_position() -> None:
    label = pd.Series([1.0, 2.0, 4.0], index=[7, 8, 9])
    assert metrics.r2(label.to_numpy(), label) == 1
    assert metrics.mae(pd.Series([0.0, 0.0, 0.0]), label) == pytest.approx(7 / 3)
    assert metrics.rmse([1.0, 2.0, 4.0], label) == 0
    assert metrics.top_k_accuracy(pd.Series([1.0, 2.0, 5.0]), 2) == pytest.approx(2 / 3)
    assert metrics.mean_reciprocal_rank(np.array([1, 2])) == 0.75
    assert metrics.true_class_ranks(np.array([[0.1, 0.9]]), [0]).tolist() == [2]
    assert metrics.expected_calibration_error(pd.Series([1.0, 1.0]), [True, True]) == 0
    low, high = metrics.bootstrap_interval(label.to_frame(), lambda m: m[..., 0])
    assert low <= 7 / 3 <= high


@pytest.mark.parametrize(
    ("name", "value"),
    [("level", 0), ("level", 1.5), ("level", math.nan), ("replicates", 0), ("replicates", 1.5), ("seed", -1)],
)
def test_the_bootstrap_names_a_parameter_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        metrics.bootstrap_interval(torch.rand(5, 1), lambda m: m[..., 0], **{name: value})  # type: ignore[arg-type]


def test_a_class_without_a_score_is_named_with_its_row() -> None:
    with pytest.raises(ValueError, match="row 2 has class 2"):
        metrics.true_class_ranks(torch.rand(3, 2), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="row 1 has class -1"):
        metrics.true_class_ranks(torch.rand(2, 2), torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="row 1 hold NaN"):
        metrics.true_class_ranks(torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=r"1\.2 in row 1"):
        metrics.reliability([0.5, 1.2], [1, 1])


def test_text_is_no_prediction() -> None:
    with pytest.raises(ValueError, match="expected numbers, got list"):
        metrics.mae(["1", "2"], [1, 2])


def a_block_split_of_correlated_errors(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(errors, blocks) at the places of some 10 degree blocks; the errors are a smooth field with mean 0."""
    places = sample_sphere(6000, generator=generator).double()
    blocks = spatial_blocks(places, size_degrees=10.0)
    chosen = torch.randperm(int(blocks.max()) + 1, generator=generator)[:60]
    kept = torch.isin(blocks, chosen)
    waves = torch.randn((3, 100), generator=generator, dtype=torch.float64) * EARTH_RADIUS_KM / 400  # alike to 400 km
    phase = 2 * torch.pi * torch.rand(100, generator=generator, dtype=torch.float64)
    return (unit_vectors(places[kept]) @ waves + phase).cos().mean(1), blocks[kept]


def test_blocks_cover_the_truth_where_errors_resemble_their_neighbours_and_rows_do_not() -> None:
    generator, trials = torch.Generator().manual_seed(0), 250
    covered = {"rows": 0, "blocks": 0}
    for _ in range(trials):
        error, blocks = a_block_split_of_correlated_errors(generator)
        for name, unit in (("rows", None), ("blocks", blocks)):
            low, high = metrics.bootstrap_interval(error[:, None], lambda m: m[..., 0], blocks=unit, replicates=160)
            covered[name] += low <= 0 <= high
    assert 0.90 <= covered["blocks"] / trials <= 0.98
    assert covered["rows"] / trials < 0.60


def test_blocks_of_one_row_are_rows_and_few_blocks_are_as_uncertain_as_students_t_says() -> None:
    values = torch.randn((400, 1), generator=torch.Generator().manual_seed(1))
    mean = lambda m: m[..., 0]  # noqa: E731
    rows = metrics.bootstrap_interval(values, mean, replicates=4000)
    each = metrics.bootstrap_interval(values, mean, blocks=torch.full((400,), -1), replicates=4000)
    assert each == pytest.approx(rows, abs=0.01)
    few = values[:8].repeat_interleave(50, 0)  # eight places, fifty times each: t with 7 degrees of freedom
    low, high = metrics.bootstrap_interval(few, mean, blocks=np.repeat(np.arange(8), 50), replicates=4000)
    _, t_low, t_high = metrics.mean_interval(values[:8, 0])
    assert high - low == pytest.approx(t_high - t_low, rel=0.15)
    assert all(math.isnan(end) for end in metrics.bootstrap_interval(few, mean, blocks=torch.zeros(400).long()))


@pytest.mark.parametrize("blocks", [torch.zeros(4).long(), torch.zeros(5), torch.zeros((5, 1)).long()])
def test_blocks_are_one_whole_number_for_each_row(blocks: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="blocks must be a whole number for each of the 5 rows"):
        metrics.bootstrap_interval(torch.rand(5, 1), lambda m: m[..., 0], blocks=blocks)
