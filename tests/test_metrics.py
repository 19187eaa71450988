"""Metrics against hand-worked values, libraries and analytic results; calibration."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from helpers import metrics
from helpers.clips import TRAITS


def noisy(n=31, k=5, noise=0.1, seed=0):
    random = np.random.default_rng(seed)
    truth = random.random((n, k))
    return truth, truth + noise * random.standard_normal((n, k))


def column(*values):
    return np.array(values, dtype=float)[:, None]


def test_metrics_equal_those_of_the_libraries():
    truth, prediction = noisy()
    expected = {
        "mae": mean_absolute_error(truth, prediction, multioutput="raw_values"),
        "mse": mean_squared_error(truth, prediction, multioutput="raw_values"),
        "r2": r2_score(truth, prediction, multioutput="raw_values"),
        "pearson": [pearsonr(t, p).statistic for t, p in zip(truth.T, prediction.T, strict=True)],
    }
    for metric, values in expected.items():
        np.testing.assert_allclose(metrics.evaluate(metric, truth, prediction), values, rtol=1e-12)
    # means 2 and 4, variances over N 2/3 and 8/3, covariance 4/3: 2 * 4/3 / (2/3 + 8/3 + 4) = 4/11
    assert metrics.evaluate("ccc", column(1, 2, 3), column(2, 4, 6)) == pytest.approx([4 / 11])
    assert metrics.evaluate("ccc", column(1, 2, 3), column(3, 2, 1)) == pytest.approx([-1])


def test_unrated_clips_are_left_out_target_by_target():
    truth, prediction = noisy()
    truth[3, 1] = truth[7, 1] = truth[5, 4] = np.nan
    prediction[3, 1] = np.nan
    for metric in metrics.METRICS:
        for target in range(5):
            rated = ~np.isnan(truth[:, target])
            alone = metrics.evaluate(metric, truth[rated, target][:, None], prediction[rated, target][:, None])
            assert metrics.evaluate(metric, truth, prediction)[target] == pytest.approx(alone[0], rel=1e-12)


def test_a_constant_predictor_scores_the_analytic_values():
    truth = np.linspace(0, 1, 101)[:, None]  # mean absolute deviation 25.5/101 * 50/50.5, variance 102/1200
    prediction = np.full_like(truth, 0.5)
    assert metrics.evaluate("mean_accuracy", truth, prediction) == pytest.approx([1 - 25.5 / 101])
    assert metrics.evaluate("mse", truth, prediction) == pytest.approx([102 / 1200])
    assert metrics.evaluate("r2", truth, prediction) == pytest.approx([0])
    assert metrics.evaluate("r2", truth, prediction + 0.1) == pytest.approx([-0.01 * 1200 / 102])
    assert metrics.score_table(truth, prediction, [0.5], ["warmth"])["skill"].tolist() == pytest.approx([0, 0])


@pytest.mark.parametrize("value", [0.1, 0.3, np.float32(0.7), 1 / 3])
def test_correlations_of_a_constant_are_exactly_zero_and_with_one_not_defined(value):
    truth, _ = noisy(n=37)
    constant = np.full_like(truth, value)
    assert metrics.evaluate("pearson", truth, constant).tolist() == [0] * 5
    assert metrics.evaluate("ccc", truth, constant).tolist() == [0] * 5
    for of_constant_truth in ("r2", "pearson", "ccc"):
        for prediction in (truth, constant):
            assert np.isnan(metrics.evaluate(of_constant_truth, constant, prediction)).all()
        assert np.isnan(metrics.evaluate(of_constant_truth, truth[:1], constant[:1])).all()


def test_shapes_that_differ_and_predictions_that_are_not_numbers_are_refused():
    truth, prediction = noisy(n=7, k=3)
    wrong = np.where(np.arange(3) == 1, np.nan, prediction)
    for given in ((truth, prediction.T), (truth[:, 0], prediction[:, 0]), (truth, wrong)):
        with pytest.raises(ValueError, match="prediction"):
            metrics.evaluate("ccc", *given)


def test_a_score_table_has_every_metric_beside_each_other_and_a_summary_is_json():
    truth, prediction = noisy()
    truth[:, 2] = np.nan
    table = metrics.score_table(truth, prediction, np.full(5, 0.5))
    assert table.index.tolist() == [*TRAITS, "mean"]
    assert table.columns.tolist() == ["mean_accuracy", "mae", "r2", "pearson", "ccc", "skill"]
    assert table.loc["extraversion"].isna().all()
    assert table.loc["mean", "r2"] == pytest.approx(np.nanmean(metrics.evaluate("r2", truth, prediction)))
    mse, of_constant = (metrics.evaluate("mse", truth, each) for each in (prediction, np.full(truth.shape, 0.5)))
    assert table.loc["neuroticism", "skill"] == pytest.approx(1 - mse[4] / of_constant[4])
    summary = json.loads(json.dumps(metrics.as_summary(table), allow_nan=False))
    assert list(summary["r2"]) == ["O", "C", "E", "A", "N", "mean"]
    assert summary["r2"]["E"] is None
    assert summary["ccc"]["A"] == table.loc["agreeableness", "ccc"]
    assert summary["mean_accuracy"] == table.loc["mean", "mean_accuracy"]
    other = metrics.score_table(truth[:, :1], prediction[:, :1], [0.5], ["warmth"])
    assert list(metrics.as_summary(other)["mae"]) == ["warmth", "mean"]


def test_the_constant_floor_answers_the_training_mean_for_everyone():
    train = np.array([[0.25, 0.5], [0.75, np.nan]])
    test = np.array([[0.5, 0.25], [0.75, 0.75], [1.0, np.nan]])
    table = metrics.constant_floor(train, test, ["warmth", "openness"])
    assert table["constant"].tolist() == [0.5, 0.5, 0.5]
    assert table["mae"].tolist() == [0.25, 0.25, 0.25]
    assert table["ccc"].tolist() == [0, 0, 0]
    assert "skill" not in table


def test_the_conformal_quantile_is_the_ranked_residual_of_rated_clips():
    residuals = np.stack([np.arange(1, 20), -np.arange(1, 20) / 10], axis=1)  # 19 values: rank ceil(20 * 0.9) = 18
    assert metrics.conformal_quantile(residuals).tolist() == [18, 1.8]
    assert metrics.conformal_quantile(residuals, 0.5).tolist() == [10, 1.0]
    assert metrics.conformal_quantile(residuals[:9]).tolist() == [9, 0.9]
    assert metrics.conformal_quantile(residuals[:8]).tolist() == [math.inf, math.inf]
    partly = np.array([[0.1, np.nan], [-0.3, np.nan], [np.nan, 0.2], [0.2, np.nan]])
    assert metrics.conformal_quantile(partly, 0.5).tolist() == [0.2, 0.2]


def test_conformal_intervals_cover_new_clips_as_promised():
    random = np.random.default_rng(0)
    inside = []
    for _ in range(400):
        width = metrics.conformal_quantile(random.standard_normal((17, 1)), 0.8)
        inside.append(abs(random.standard_normal()) <= width[0])
    assert 0.76 < np.mean(inside) < 0.88  # exact: ceil(18 * 0.8) / 18 = 0.833


def test_predictions_that_are_spread_too_far_have_a_slope_below_one_and_unrated_ones_none():
    truth = np.random.default_rng(0).uniform(0.3, 0.7, 200)
    rows = pd.DataFrame({"trait": np.repeat(["warmth", "calm"], 100), "truth": truth, "prediction": 2 * truth - 0.5})
    rows.loc[100:, "prediction"] = 0.5
    rows.loc[:9, ["truth", "prediction"]] = np.nan, 9.0
    slopes = metrics.calibration_slopes(rows)
    assert slopes["warmth"] == pytest.approx(0.5)
    assert np.isnan(slopes["calm"])
