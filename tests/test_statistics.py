"""The bootstrap over sources: against one written out, analytic cases, planted groups; and the words."""

import numpy as np
import pandas as pd
import pytest

from helpers import metrics, statistics
from helpers.clips import TRAITS
from helpers.statistics import bootstrap_differences, mean_interval


def noisy(n: int = 31, k: int = 5, noise: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    truth = np.random.default_rng(0).random((n, k))
    return truth, truth + noise * np.random.default_rng(seed + round(1000 * noise)).standard_normal((n, k))


def compared(truth, a, b, sources, metric="mean_accuracy", **options) -> tuple[float, float, float]:
    return tuple(bootstrap_differences([(truth, a, b, np.asarray(sources))], metric, **options)[-1])


@pytest.mark.parametrize("metric", list(metrics.METRICS))
def test_the_difference_is_that_of_the_metric_itself(metric):
    truth, a = noisy()
    truth[:3, 1] = np.nan
    b = np.tile(np.linspace(0.2, 0.8, 5), (31, 1))  # constants
    rows = bootstrap_differences([(truth, a, b, np.arange(31))], metric, n=3)
    np.testing.assert_allclose(
        rows[:5, 0], metrics.evaluate(metric, truth, a) - metrics.evaluate(metric, truth, b), atol=1e-9
    )
    assert rows[5, 0] == pytest.approx(np.mean(rows[:5, 0]))


def test_the_interval_is_that_of_drawing_whole_sources_one_by_one():
    truth, a = noisy(n=40)
    _, b = noisy(n=40, noise=0.2)
    sources = np.random.default_rng(3).integers(0, 11, 40).astype(str)
    names = np.unique(sources)
    random, draws, mean = np.random.RandomState(0), [], truth.mean(0)
    for _ in range(50):
        rows = np.concatenate(
            [np.flatnonzero(sources == names[i]) for i in random.randint(len(names), size=len(names))]
        )
        of_mean = np.square(truth[rows] - mean).mean(0)  # of the whole set, in every draw
        draws.append(
            (
                (metrics.evaluate("mse", truth[rows], b[rows]) - metrics.evaluate("mse", truth[rows], a[rows]))
                / of_mean
            ).mean()
        )
    low, high = np.quantile(draws, [0.025, 0.975])
    assert compared(truth, a, b, sources, "r2", n=50)[1:] == pytest.approx((low, high))


def test_the_bootstrap_finds_a_clear_difference_and_repeats():
    truth, good = noisy(n=120, noise=0.05)
    _, bad = noisy(n=120, noise=0.2)
    sources = np.arange(120) // 4
    found = difference, low, high = compared(truth, good, bad, sources, n=200)
    assert 0 < low < difference < high < 0.2
    assert found == compared(truth, good, bad, sources, n=200)
    assert compared(truth, bad, good, sources, n=200) == pytest.approx((-difference, -high, -low))
    assert compared(truth, good, good, sources, n=20) == (0, 0, 0)


def test_the_interval_of_equal_models_covers_zero_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(statistics, "LEVEL", 0.8)
    covered = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        truth = random.random((50, 1))
        a, b = (truth + 0.1 * random.standard_normal((50, 1)) for _ in range(2))
        _, low, high = compared(truth, a, b, np.arange(50), n=300)
        covered += low <= 0 <= high
    assert 0.68 < covered / 100 < 0.92


def test_seeds_count_alike_and_are_drawn_together():
    truth, a = noisy(n=30)
    _, b = noisy(n=30, noise=0.2)
    sources = np.arange(30)
    one = [(truth, a, b, sources)]
    assert np.allclose(bootstrap_differences(one, n=40), bootstrap_differences(one * 2, n=40))
    halves = [tuple(x[part] for x in one[0]) for part in (slice(10), slice(10, None))]
    rows = bootstrap_differences(halves, n=40)
    alone = [bootstrap_differences([half], n=2)[:, 0] for half in halves]
    np.testing.assert_allclose(rows[:, 0], np.mean(alone, axis=0))


def table_of(truth: np.ndarray, sources: np.ndarray, **models: np.ndarray) -> pd.DataFrame:
    """Predictions (N, k) of models on test clips as `predictions.csv` has them."""
    clip, trait = (index.ravel() for index in np.indices(truth.shape))
    rows = {"seed": 0, "split": "test", "clip": clip, "source": sources[clip].astype(str), "truth": truth.ravel()}
    rows["trait"] = np.array(TRAITS)[trait]
    return pd.concat([pd.DataFrame(rows | {"model": m, "prediction": p.ravel()}) for m, p in models.items()])


@pytest.mark.parametrize("n_sources", [1, 2, 4])
def test_few_sources_have_a_difference_and_no_interval(n_sources):
    truth, a = noisy(n=8)
    sources = np.arange(8) % n_sources
    found = statistics.compare_models(table_of(truth, sources, a=a, constant=truth), "a", "constant", "mae")
    assert found["difference"] > 0
    assert (found["low"], found["high"]) == (None, None)
    assert f"{n_sources} sources are too few" in found["verdict"]
    assert mean_interval([a[:, 0]], [sources])["interval"] is None


@pytest.mark.parametrize("truth", [np.full((1, 5), 0.4), np.full((8, 5), 0.5), np.full((8, 5), np.nan)])
def test_what_is_not_defined_for_one_or_equal_ratings_is_none_and_said(truth):
    table = table_of(truth, np.arange(len(truth)), a=np.random.default_rng(0).random(truth.shape), ridge=truth * 0)
    found = statistics.compare_models(table.fillna({"prediction": 0}), "a", "ridge")
    assert (found["difference"], found["low"], found["high"]) == (None, None, None)
    assert "cannot be compared with ridge" in found["verdict"]


def predictions(**models: float) -> pd.DataFrame:
    """Two seeds' test clips; a model's number is the sd of its error, 0 for the constant."""
    tables = []
    for seed in (0, 1):
        truth = np.random.default_rng(seed).uniform(0.2, 0.8, (60, 5))
        said = {
            name: truth + np.random.default_rng([seed, round(1000 * sd)]).normal(0, sd, truth.shape)
            if sd
            else truth * 0
            for name, sd in models.items()
        }
        tables.append(table_of(truth, np.arange(60) // 3, **said).assign(seed=seed))
    table = pd.concat(tables)
    return table.assign(prediction=table["prediction"].where(table["model"] != "constant", 0.5))


def test_any_two_models_of_a_table_are_compared_and_the_words_follow_the_interval():
    table = predictions(constant=0, good=0.05, fair=0.1, useless=0.173, bad=0.3)
    good = statistics.compare_models(table, "good", "fair")
    assert good["low"] > 0
    assert good["verdict"].startswith("good is better than fair by 0.")
    assert list(good["targets"]) == ["O", "C", "E", "A", "N"]
    assert (good["sources"], good["clips"]) == (20, 120)
    worse = statistics.compare_models(table, "fair", "good")
    assert worse["verdict"].startswith("fair is worse than good by 0.")
    assert worse["verdict"].endswith(f" mean R² [{-worse['high']:.3f}, {-worse['low']:.3f}].")
    constant = statistics.compare_models(table, "good", "constant")
    assert constant["verdict"].startswith("good is better than a constant by")
    for name in ("useless", "bad"):
        assert f"{name} is no better than a constant" in statistics.compare_models(table, name, "constant")["verdict"]
    lower = statistics.compare_models(table, "good", "fair", "mae")
    assert lower["high"] < 0
    assert "better than fair" in lower["verdict"]
    assert statistics.signed(-1e-9) == "+0.000"
    same = statistics.compare_models(table, "good", "good")
    assert "cannot be told apart" in same["verdict"]


def test_the_pairs_that_matter_are_all_with_the_constant_and_the_main_model_with_all():
    table = predictions(constant=0, good=0.05, fair=0.1)
    pairs = [(c["a"], c["b"]) for c in statistics.comparisons(table, ["constant", "good", "fair"], "good")]
    assert pairs == [("good", "constant"), ("fair", "constant"), ("good", "fair")]
    with pytest.raises(ValueError, match="best"):
        statistics.compare_models(table, "good", "best")


def test_clips_of_one_source_move_together():
    values, n = np.repeat([0.0, 1.0], 50), 100
    low, high = mean_interval([values], [np.repeat(list("abcdefgh"), [13, 13, 12, 12] * 2)])["interval"]
    alone = mean_interval([values], [np.arange(n).astype(str)])["interval"]
    assert low < 0.2
    assert high > 0.8
    assert alone == pytest.approx([0.4, 0.6], abs=0.03)  # 1.96 sqrt(.25 / 100) = .098


def test_what_is_missing_is_left_out_and_nothing_is_none():
    values = np.array([1.0, np.nan, 3.0])
    assert mean_interval([values], [np.array(["a", "b", "c"])])["value"] == 2.0
    assert mean_interval([values, np.array([10.0])], [np.array(["a", "b", "c"]), np.array(["a"])])["value"] == 6.0
    assert mean_interval([values[1:2]], [np.array(["b"])]) == {"value": None, "interval": None}
    assert mean_interval([values[:1]], [np.array(["a"])]) == {"value": 1.0, "interval": None}


def test_a_planted_bias_of_a_group_is_found_with_its_sign():
    """Clips of 40 sources, alternately of group a and b, b's predictions .15 too high; one clip has no group."""
    random, source = np.random.default_rng(0), np.arange(120) // 3
    rows = pd.DataFrame({"clip": [f"c{i}" for i in range(120)], "source": source.astype(str), "truth": 0.5})
    rows["prediction"] = 0.5 + 0.1 * random.standard_normal(120) + 0.15 * (source % 2)
    groups = pd.Series(np.where(source % 2, "b", "a"), index=rows["clip"])
    groups.iloc[0], groups.iloc[6:9] = "", "rare"
    found = statistics.group_errors(rows, groups)
    error = (rows["prediction"] - rows["truth"])[source % 2 == 1]
    assert found["b"]["bias"] == pytest.approx(error.mean())
    assert found["b"]["mae"] == pytest.approx(error.abs().mean())
    assert 0.08 < found["b"]["bias_low"] < found["b"]["bias"] < found["b"]["bias_high"]
    assert found["a"]["bias_low"] < 0 < found["a"]["bias_high"]
    assert [found[name][n] for name in ("a", "b", "rare") for n in ("clips", "sources")] == [56, 19, 60, 20, 3, 1]
    assert (found["rare"]["mae_low"], found["rare"]["bias_high"]) == (None, None)
    assert found["rare"]["mae"] > 0
