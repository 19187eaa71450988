"""Agreement of raters: the published example, a known noise, unequal numbers of raters."""

import numpy as np
import pandas as pd
import pytest

from helpers.ratings import reliability

SHROUT_AND_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]  # table 2


def long(table, target="warmth") -> pd.DataFrame:
    rows = [(f"c{i}", f"r{j}", value) for i, row in enumerate(table) for j, value in enumerate(row)]
    return pd.DataFrame(rows, columns=["key", "rater", target])


def test_raters_of_the_same_clips_give_the_published_icc():
    found = reliability(long(SHROUT_AND_FLEISS), ["warmth"]).loc["warmth"]
    assert found["kind"] == "ICC(2,k)"
    assert found["single"] == pytest.approx(0.29, abs=0.005)
    assert found["mean"] == pytest.approx(0.62, abs=0.005)
    assert found["max_pearson"] == pytest.approx(found["mean"] ** 0.5)
    assert (found["clips"], found["raters"], found["per_clip"]) == (6, 4, 4)


def test_raters_that_differ_from_clip_to_clip_give_the_one_way_icc():
    table = long(SHROUT_AND_FLEISS)
    table["rater"] = [f"someone {i}" for i in range(len(table))]
    found = reliability(table, ["warmth"]).loc["warmth"]
    assert found["kind"] == "ICC(1,k)"
    assert found["single"] == pytest.approx(0.17, abs=0.005)
    assert found["mean"] == pytest.approx(0.44, abs=0.005)
    stepped_up = 4 * found["single"] / (1 + 3 * found["single"])  # Spearman and Brown
    assert found["mean"] == pytest.approx(stepped_up)


def test_a_perfect_model_reaches_the_ceiling_and_no_more():
    random = np.random.default_rng(0)
    n, k, noise = 4000, 3, 0.2
    truth = random.normal(0.5, 0.15, n)
    ratings = truth[:, None] + noise * random.standard_normal((n, k))
    ratings[::2, 2] = np.nan  # half of the clips have two raters
    found = reliability(long(ratings), ["warmth"]).loc["warmth"]
    assert found["per_clip"] == 2.5
    assert found["max_pearson"] == pytest.approx(np.corrcoef(truth, np.nanmean(ratings, 1))[0, 1], abs=0.01)


def test_one_rater_per_clip_tells_nothing_and_chance_agreement_is_zero():
    alone = reliability(long(np.random.default_rng(0).random((9, 1))), ["warmth"]).loc["warmth"]
    assert alone["clips"] == 0
    assert np.isnan(alone["mean"])
    against = reliability(long([[1, 5], [5, 1], [2, 4], [4, 2]]), ["warmth"]).loc["warmth"]
    assert against["mean"] == 0
