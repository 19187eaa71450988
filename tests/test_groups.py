"""Errors by group: planted differences are found, absent ones are not claimed."""

import numpy as np
import pandas as pd
import pytest

from helpers import statistics


def table(bias: float = 0.0, noise_of_b: float = 0.1, n: int = 120) -> tuple[pd.DataFrame, pd.Series]:
    """Clips of 40 sources, alternately of group a and b; b's predictions are `bias` too high, with more noise."""
    random = np.random.default_rng(0)
    of_source = np.arange(n) // 3
    is_b = of_source % 2 == 1
    truth = random.uniform(0.3, 0.7, n)
    prediction = truth + np.where(is_b, bias + noise_of_b * random.standard_normal(n), 0.1 * random.standard_normal(n))
    clips = [f"c{i}" for i in range(n)]
    rows = pd.DataFrame(
        {"seed": 0, "clip": clips, "source": [f"s{i}" for i in of_source], "truth": truth, "prediction": prediction}
    )
    return rows, pd.Series(np.where(is_b, "b", "a"), index=clips)


def test_a_planted_bias_of_a_group_is_found_with_its_sign():
    rows, of_clip = table(bias=0.15)
    found = statistics.group_errors(rows, of_clip, n=300)
    is_b = of_clip.to_numpy() == "b"
    error = (rows["prediction"] - rows["truth"]).to_numpy()
    assert found["b"]["bias"]["value"] == pytest.approx(error[is_b].mean())
    assert found["b"]["mae"]["value"] == pytest.approx(np.abs(error[is_b]).mean())
    assert found["b"]["bias_over_others"]["low"] > 0.08
    assert found["a"]["bias_over_others"]["high"] < -0.08
    assert (found["b"]["clips"], found["b"]["sources"]) == (60, 20)
    assert any(line.startswith("b: mean signed error differs") for line in statistics.in_words(found))


def test_groups_alike_are_not_told_apart():
    found = statistics.group_errors(*table(), n=300)
    assert statistics.in_words(found) == ["No group's errors can be told from the others': a, b."]


def test_larger_errors_of_a_group_are_found():
    found = statistics.group_errors(*table(noise_of_b=0.25), n=300)
    assert found["b"]["mae_over_others"]["low"] > 0


def test_clips_without_a_group_count_to_the_others_and_one_source_has_no_interval():
    rows, of_clip = table()
    alone = pd.Series("", index=of_clip.index)
    alone.iloc[:3] = "rare"
    found = statistics.group_errors(rows, alone, n=100)
    assert list(found) == ["rare"]
    assert found["rare"]["sources"] == 1
    assert [found["rare"][name]["low"] for name in statistics.MEASURES] == [None] * 4
    assert found["rare"]["mae"]["value"] > 0
    assert statistics.in_words({}) == []


def test_a_card_says_what_is_known_about_groups_and_that_it_is_not():
    known, _ = statistics.caveats(statistics.group_errors(*table(), n=300))
    assert known.startswith("No group's errors can be told from the others': a, b. Raters of apparent traits")
    unknown, what = statistics.caveats({})
    assert unknown.startswith(
        "Errors by group are unknown: no groups were given (column group of ratings.csv). Raters of apparent"
    )
    assert "what viewers would say" in what


def test_random_groups_of_few_sources_are_seldom_told_apart():
    told = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        source = np.repeat(np.arange(12), 3)
        error = random.normal(0, 0.05, 12)[source] + random.normal(0, 0.05, len(source))
        rows = pd.DataFrame({"clip": [f"c{i}" for i in range(36)], "source": source.astype(str), "truth": 0.5})
        found = statistics.group_errors(
            rows.assign(prediction=0.5 + error), pd.Series(np.where(source % 2, "a", "b"), index=rows["clip"]), n=200
        )
        told += not found["a"]["bias_over_others"]["low"] < 0 < found["a"]["bias_over_others"]["high"]
    assert told <= 3  # 2 are expected; a plain percentile interval tells 6 apart
    assert statistics.expanded_tail(0.95, 10_000) == pytest.approx(0.025, rel=0.01)
    assert statistics.expanded_tail(0.95, 6) < 0.005
