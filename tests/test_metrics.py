"""Metrics against hand-worked values, libraries and analytic results."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import mean_absolute_error, r2_score

from helpers import metrics
from helpers.clips import TRAITS


def noisy(n=31, k=5):
    random = np.random.default_rng(0)
    truth = random.random((n, k))
    return truth, truth + 0.1 * random.standard_normal((n, k))


def test_metrics_equal_those_of_the_libraries_for_rated_clips():
    truth, prediction = noisy()
    truth[[3, 7], 1] = truth[5, 4] = prediction[3, 1] = np.nan
    table = metrics.score_table(truth, prediction, np.full(5, 0.5))
    assert table.index.tolist() == [*TRAITS, "mean"]
    for row, t, p in zip(table.itertuples(), truth.T, prediction.T, strict=False):
        t, p = t[~np.isnan(t)], p[~np.isnan(t)]
        skill = 1 - np.square(t - p).mean() / np.square(t - 0.5).mean()
        mae = mean_absolute_error(t, p)
        expected = [1 - mae, mae, r2_score(t, p), pearsonr(t, p).statistic, skill]
        assert [row.mean_accuracy, row.mae, row.r2, row.pearson, row.skill] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        # means 2 and 4, variances over N 2/3 and 8/3, covariance 4/3: 2 * 4/3 / (2/3 + 8/3 + 4) = 4/11
        ([1, 2, 3], [2, 4, 6], {"ccc": 4 / 11}),
        ([1, 2, 3], [3, 2, 1], {"ccc": -1, "pearson": -1}),
        # mean absolute deviation 25.5/101 * 50/50.5, variance 102/1200
        (np.linspace(0, 1, 101), [0.5] * 101, {"mean_accuracy": 1 - 25.5 / 101, "r2": 0, "skill": 0}),
        (np.linspace(0, 1, 101), [0.6] * 101, {"r2": -0.01 * 1200 / 102, "pearson": 0, "ccc": 0}),
        ([0.1, 0.3, 0.8], [1 / 3] * 3, {"pearson": 0, "ccc": 0}),
        ([1 / 3] * 3, [0.1, 0.3, 0.8], {"r2": math.nan, "pearson": math.nan, "ccc": math.nan}),
        ([0.7], [0.7], {"mae": 0, "r2": math.nan, "pearson": math.nan, "ccc": math.nan}),
        ([math.nan], [0.7], {"mae": math.nan, "mean_accuracy": math.nan, "skill": math.nan}),
    ],
)
def test_hand_worked_values_and_what_does_not_exist(truth, prediction, expected):
    found = metrics.score_target(np.array(truth, float), np.array(prediction, float), 0.5)
    assert {name: found[name] for name in expected} == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_shapes_that_differ_and_predictions_that_are_not_numbers_are_refused():
    truth, prediction = noisy(n=7, k=3)
    wrong = np.where(np.arange(3) == 1, np.nan, prediction)
    for given in ((truth, prediction.T), (truth[:, 0], prediction[:, 0]), (truth, wrong)):
        with pytest.raises(ValueError, match="prediction"):
            metrics.score_table(*given, [0.5] * 3, "abc")


def test_a_summary_is_json_by_letters():
    truth, prediction = noisy()
    truth[:, 2] = np.nan
    table = metrics.score_table(truth, prediction, np.full(5, 0.5))
    assert table.loc["extraversion"].isna().all()
    assert table.loc["mean", "r2"] == pytest.approx(table["r2"].iloc[[0, 1, 3, 4]].mean())
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


def test_predictions_that_are_spread_too_far_have_a_slope_below_one_and_equal_ones_none():
    truth = np.random.default_rng(0).uniform(0.3, 0.7, 200)
    rows = pd.DataFrame({"trait": np.repeat(["warmth", "calm"], 100), "truth": truth, "prediction": 2 * truth - 0.5})
    rows.loc[100:, "prediction"] = 0.5
    rows.loc[:9, ["truth", "prediction"]] = np.nan, 9.0
    slopes = metrics.calibration_slopes(rows)
    assert slopes["warmth"] == pytest.approx(0.5)
    assert np.isnan(slopes["calm"])
