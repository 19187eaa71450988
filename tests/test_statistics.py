"""Metrics against hand-worked values and libraries; the bootstrap over sources against one written out; the words."""

import ast
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, pearsonr
from scipy.stats import t as student
from sklearn.metrics import mean_absolute_error, r2_score

from benchmarks import calibration
from helpers import statistics
from helpers.clips import TRAITS
from helpers.files import ROOT
from helpers.statistics import mean_interval


def noisy(n: int = 31, k: int = 5, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    truth = np.random.default_rng(0).random((n, k))
    return truth, truth + noise * np.random.default_rng(round(1000 * noise)).standard_normal((n, k))


def test_metrics_equal_those_of_the_libraries_for_rated_clips_and_what_cannot_be_scored_is_refused():
    truth, prediction = noisy()
    truth[[3, 7], 1] = truth[5, 4] = prediction[3, 1] = np.nan
    table = statistics.score_table(truth, prediction, np.full(5, 0.5))
    assert table.index.tolist() == [*TRAITS, "mean"]
    for row, t, p in zip(table.itertuples(), truth.T, prediction.T, strict=False):
        t, p = t[~np.isnan(t)], p[~np.isnan(t)]
        skill = 1 - np.square(t - p).mean() / np.square(t - 0.5).mean()
        mae = mean_absolute_error(t, p)
        expected = [1 - mae, mae, r2_score(t, p), pearsonr(t, p).statistic, skill]
        assert [row.mean_accuracy, row.mae, row.r2, row.pearson, row.skill] == pytest.approx(expected, rel=1e-12)
    wrong = np.where(np.arange(5) == 1, np.nan, prediction)
    for given in ((truth, prediction.T), (truth[:, 0], prediction[:, 0]), (truth, wrong)):
        with pytest.raises(ValueError, match="prediction"):
            statistics.score_table(*given, [0.5] * 5)


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
    found = statistics.score_target(np.array(truth, float), np.array(prediction, float), 0.5)
    assert {name: found[name] for name in expected} == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_a_summary_is_json_by_letters_and_a_floor_the_training_mean_for_everyone():
    truth, prediction = noisy()
    truth[:, 2] = np.nan
    table = statistics.score_table(truth, prediction, np.full(5, 0.5))
    assert table.loc["extraversion"].isna().all()
    assert table.loc["mean", "r2"] == pytest.approx(table["r2"].iloc[[0, 1, 3, 4]].mean())
    summary = json.loads(json.dumps(statistics.as_summary(table), allow_nan=False))
    assert list(summary["r2"]) == ["O", "C", "E", "A", "N", "mean"]
    assert (summary["r2"]["E"], summary["ccc"]["A"]) == (None, table.loc["agreeableness", "ccc"])
    assert summary["mean_accuracy"] == table.loc["mean", "mean_accuracy"]
    other = statistics.score_table(truth[:, :1], prediction[:, :1], [0.5], ["warmth"])
    assert list(statistics.as_summary(other)["mae"]) == ["warmth", "mean"]
    train = np.array([[0.25, 0.5], [0.75, np.nan]])
    test = np.array([[0.5, 0.25], [0.75, 0.75], [1.0, np.nan]])
    table = statistics.constant_floor(train, test, ["warmth", "openness"])
    assert table[["constant", "mae", "ccc"]].to_numpy().tolist() == [[0.5, 0.25, 0]] * 3
    assert "skill" not in table


def test_the_conformal_quantile_is_the_ranked_residual_of_rated_clips():
    residuals = np.stack([np.arange(1, 20), -np.arange(1, 20) / 10], axis=1)  # 19 values: rank ceil(20 * 0.9) = 18
    assert statistics.conformal_quantile(residuals).tolist() == [18, 1.8]
    assert statistics.conformal_quantile(residuals, 0.5).tolist() == [10, 1.0]
    assert statistics.conformal_quantile(residuals[:9]).tolist() == [9, 0.9]
    assert statistics.conformal_quantile(residuals[:8]).tolist() == [math.inf, math.inf]
    partly = np.array([[0.1, np.nan], [-0.3, np.nan], [np.nan, 0.2], [0.2, np.nan]])
    assert statistics.conformal_quantile(partly, 0.5).tolist() == [0.2, 0.2]


def test_the_interval_is_that_of_drawing_whole_sources_one_by_one_and_seeds_count_alike(monkeypatch):
    monkeypatch.setattr(statistics, "DRAWS", 50)
    truth, a = noisy(n=40)
    _, b = noisy(n=40, noise=0.2)
    sources = np.random.default_rng(3).integers(0, 11, 40).astype(str)
    names = np.unique(sources)
    random, draws, mean = np.random.RandomState(0), [], truth.mean(0)
    for _ in range(50):
        drawn = names[random.randint(len(names), size=len(names))]
        rows = np.concatenate([np.flatnonzero(sources == name) for name in drawn])
        worse = np.square(truth - b)[rows].mean(0) - np.square(truth - a)[rows].mean(0)
        draws.append((worse / np.square(truth[rows] - mean).mean(0)).mean())  # mean: of the whole set, in every draw
    one = (truth, a, b, sources)
    found = statistics.r2_differences([one])[0]
    tail = norm.cdf(np.sqrt(11 / 10) * student.ppf(0.025, 10))  # of 11 sources
    assert found[-1, 1:] == pytest.approx(np.quantile(draws, [tail, 1 - tail]))
    np.testing.assert_allclose(statistics.r2_differences([one] * 2)[0], found)  # seeds are drawn together
    halves = [tuple(x[part] for x in one) for part in (slice(10), slice(10, None))]
    alone = [statistics.r2_differences([half])[0][:, 0] for half in halves]
    np.testing.assert_allclose(statistics.r2_differences(halves)[0][:, 0], np.mean(alone, axis=0))
    truth[:3, 1] = np.nan
    found = statistics.r2_differences([one])[0]
    for target, rated in ((0, truth[:, 0] > -1), (1, np.arange(40) > 2)):
        ours, theirs = (r2_score(truth[rated, target], x[rated, target]) for x in (a, b))
        assert found[target, 0] == pytest.approx(ours - theirs)


def table_of(truth: np.ndarray, sources: np.ndarray, **models: np.ndarray) -> pd.DataFrame:
    """Predictions (N, k) of models on test clips as `predictions.csv` has them."""
    clip, trait = (index.ravel() for index in np.indices(truth.shape))
    rows = {"seed": 0, "split": "test", "clip": clip, "source": sources[clip].astype(str), "truth": truth.ravel()}
    rows |= {"trait": np.array(TRAITS)[trait]}
    return pd.concat([pd.DataFrame(rows | {"model": m, "prediction": p.ravel()}) for m, p in models.items()])


@pytest.mark.parametrize(
    ("truth", "n_sources", "said"),
    [
        *((noisy(n=8)[0], n, f"{n} sources are too few") for n in (1, 2, 7)),
        *((np.full((n, 5), value), n, "cannot be compared") for n, value in ((1, 0.4), (8, 0.5), (8, np.nan))),
    ],
)
def test_what_is_not_defined_for_few_sources_or_equal_ratings_is_none_and_said(truth, n_sources, said):
    sources = np.arange(len(truth)) % n_sources
    table = table_of(truth, sources, a=noisy(n=len(truth), noise=0.2)[1], ridge=np.zeros(truth.shape))
    found = statistics.compare_models(table, "a", "ridge")
    assert (found["difference"] is None) == (said == "cannot be compared")
    assert (found["low"], found["high"]) == (None, None)
    assert said in found["verdict"]


def test_any_two_models_of_a_table_are_compared_and_the_words_follow_the_interval():
    """Two seeds' test clips; a model's number is the sd of its error."""
    tables = []
    for seed in (0, 1):
        truth = np.random.default_rng(seed).uniform(0.2, 0.8, (60, 5))
        noise = {"good": 0.05, "fair": 0.1, "useless": 0.173, "bad": 0.3}
        said = {name: truth + np.random.default_rng(seed).normal(0, sd, truth.shape) for name, sd in noise.items()}
        tables.append(table_of(truth, np.arange(60) // 3, constant=0 * truth + 0.5, **said).assign(seed=seed))
    table = pd.concat(tables)
    good = statistics.compare_models(table, "good", "fair")
    assert good["low"] > 0
    assert list(good["targets"]) == ["O", "C", "E", "A", "N"]
    assert (good["sources"], good["clips"]) == (20, 120)
    for a, b, said in (
        ("good", "fair", "is better than fair by 0."),
        ("fair", "good", "is worse than good by 0."),
        ("good", "constant", "is better than a constant by"),
        ("good", "good", "cannot be told apart"),
        ("useless", "constant", "is no better than a constant"),
        ("bad", "constant", "is no better than a constant"),
    ):
        assert said in statistics.compare_models(table, a, b)["verdict"]
    pairs = [(c["a"], c["b"]) for c in statistics.comparisons(table, ["constant", "good", "fair"], "good")]
    assert pairs == [("good", "constant"), ("fair", "constant"), ("good", "fair")]
    with pytest.raises(ValueError, match="best"):
        statistics.compare_models(table, "good", "best")


def test_clips_of_one_source_move_together_and_what_is_missing_or_of_too_few_sources_is_none():
    values = np.repeat([0.0, 1.0], 50)
    low, high = mean_interval([values], [np.repeat(list("abcdefgh"), [13, 13, 12, 12] * 2)])["interval"]
    assert low < 0.2 < 0.8 < high
    alone = mean_interval([values], [np.arange(100).astype(str)])["interval"]
    assert alone == pytest.approx([0.4, 0.6], abs=0.03)  # 1.96 sqrt(.25 / 100) = .098
    some, nan = [1.0, math.nan, 3.0], [math.nan]
    for seeds, value in (([some], 2.0), ([some, [10.0]], 6.0), ([range(4)], 1.5), ([nan], None), ([[1.0]], 1.0)):
        sources = [np.array(list("abcd"))[: len(seed)] for seed in seeds]
        assert mean_interval([np.array(seed) for seed in seeds], sources) == {"value": value, "interval": None}


def test_a_planted_bias_of_a_group_is_found_with_its_sign():
    """Clips of 40 sources, alternately of group a and b, b's predictions .15 too high; one clip has no group."""
    random, source = np.random.default_rng(0), np.arange(120) // 3
    rows = pd.DataFrame({"clip": [f"c{i}" for i in range(120)], "source": source.astype(str), "truth": 0.5})
    rows["prediction"] = 0.5 + 0.1 * random.standard_normal(120) + 0.15 * (source % 2)
    groups = pd.Series(np.where(source % 2, "b", "a"), index=rows["clip"])
    groups.iloc[0], groups.iloc[6:9] = "", "rare"
    found = statistics.group_errors(rows, groups)
    error = (rows["prediction"] - rows["truth"])[source % 2 == 1]
    assert (found["b"]["bias"], found["b"]["mae"]) == pytest.approx((error.mean(), error.abs().mean()))
    assert 0.08 < found["b"]["bias_low"] < found["b"]["bias"] < found["b"]["bias_high"]
    assert found["a"]["bias_low"] < 0 < found["a"]["bias_high"]
    assert [found[name][n] for name in ("a", "b", "rare") for n in ("clips", "sources")] == [56, 19, 60, 20, 3, 1]
    assert (found["rare"]["mae_low"], found["rare"]["bias_high"]) == (None, None)


MAKES = re.compile(r"\b(nanquantile|percentile|mean_interval|r2_differences|conformal_quantile)\(|p_value =")


def test_everything_that_makes_an_interval_or_a_p_value_has_its_rates():
    makers = set()
    for path in (ROOT / "helpers").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
        for function in functions:
            if MAKES.search(ast.unparse(function)):
                makers.add(f"{path.stem}.{function.name}")
    assert makers == set(calibration.RATES)
    assert {rate for rates in calibration.RATES.values() for rate in rates} == {
        *calibration.FALSE_ALARMS,
        *calibration.COVERAGE,
    }


def test_tests_raise_few_false_alarms_and_intervals_hold_the_truth():
    """Of 12 sources, where a plain percentile interval covers .84 and raises 10 % false alarms."""
    for of, least, most in ((calibration.FALSE_ALARMS, 0, 0.08), (calibration.COVERAGE, 0.87, 0.95)):
        for what in of:
            r = np.random.default_rng(0)
            assert least <= np.mean([of[what](r, 12) for _ in range(400)]) <= most, what
