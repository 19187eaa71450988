"""The bootstrap over sources: against one written out, analytic cases, planted groups; and the words."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import r2_score

from helpers import statistics
from helpers.clips import TRAITS
from helpers.statistics import mean_interval


def noisy(n: int = 31, k: int = 5, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    truth = np.random.default_rng(0).random((n, k))
    return truth, truth + noise * np.random.default_rng(round(1000 * noise)).standard_normal((n, k))


def compared(truth, a, b, sources) -> np.ndarray:
    return statistics.r2_differences([(truth, a, b, np.asarray(sources))])[0]


def test_the_interval_is_that_of_drawing_whole_sources_one_by_one(monkeypatch):
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
    found = compared(truth, a, b, sources)
    assert found[-1, 1:] == pytest.approx(np.quantile(draws, [0.025, 0.975]))
    truth[:3, 1] = np.nan
    for target, rated in ((0, truth[:, 0] > -1), (1, np.arange(40) > 2)):
        ours, theirs = (r2_score(truth[rated, target], x[rated, target]) for x in (a, b))
        assert compared(truth, a, b, sources)[target, 0] == pytest.approx(ours - theirs)


def test_the_bootstrap_finds_a_clear_difference_and_turns_with_the_models():
    truth, good = noisy(n=120, noise=0.05)
    _, bad = noisy(n=120, noise=0.2)
    sources = np.arange(120) // 4
    found = difference, low, high = compared(truth, good, bad, sources)[-1]
    assert 0 < low < difference < high < 0.8
    assert compared(truth, bad, good, sources)[-1] == pytest.approx([-difference, -high, -low])
    assert (compared(truth, good, good, sources) == 0).all()
    assert len(found) == 3


def test_the_interval_of_equal_models_covers_zero_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(statistics, "LEVEL", 0.8)
    monkeypatch.setattr(statistics, "DRAWS", 300)
    covered = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        truth = random.random((50, 1))
        a, b = (truth + 0.1 * random.standard_normal((50, 1)) for _ in range(2))
        _, low, high = compared(truth, a, b, np.arange(50))[-1]
        covered += low <= 0 <= high
    assert 0.68 < covered / 100 < 0.92


def test_seeds_count_alike_and_are_drawn_together():
    truth, a = noisy(n=30)
    _, b = noisy(n=30, noise=0.2)
    one = (truth, a, b, np.arange(30))
    np.testing.assert_allclose(statistics.r2_differences([one])[0], statistics.r2_differences([one] * 2)[0])
    halves = [tuple(x[part] for x in one) for part in (slice(10), slice(10, None))]
    alone = [statistics.r2_differences([half])[0][:, 0] for half in halves]
    np.testing.assert_allclose(statistics.r2_differences(halves)[0][:, 0], np.mean(alone, axis=0))


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
    found = statistics.compare_models(table_of(truth, sources, a=a, constant=truth * 0), "a", "constant")
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
    for a, b, words in (
        ("good", "fair", "good is better than fair by 0."),
        ("fair", "good", "fair is worse than good by 0."),
        ("good", "constant", "good is better than a constant by"),
        ("useless", "constant", "useless is no better than a constant"),
        ("bad", "constant", "bad is no better than a constant"),
        ("good", "good", "cannot be told apart"),
    ):
        assert words in statistics.compare_models(table, a, b)["verdict"]
    pairs = [(c["a"], c["b"]) for c in statistics.comparisons(table, ["constant", "good", "fair"], "good")]
    assert pairs == [("good", "constant"), ("fair", "constant"), ("good", "fair")]
    with pytest.raises(ValueError, match="best"):
        statistics.compare_models(table, "good", "best")
    assert statistics.signed(-1e-9) == "+0.000"


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
