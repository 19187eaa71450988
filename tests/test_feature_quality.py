"""What features are worth, on clips of a known make-up."""

import numpy as np
import pandas as pd
import pytest

from helpers.feature_quality import (
    apart,
    best_rating,
    consistency,
    example_clip,
    mean_features,
    planes,
    rated_or_all,
    sample_rows,
    usable_clips,
)
from helpers.store import FeatureFile, write_features

SOURCES = np.repeat([f"source {k}" for k in range(11)], 3)


def write_rows(folder, key, features, valid=None):
    t_s = np.arange(len(features)) / 2
    valid = np.array(valid or [True] * len(t_s))
    write_features(folder / f"{key}.npz", FeatureFile(np.float32(features), t_s, t_s + 0.5, np.arange(len(t_s)), valid))


def clips_of(sources, identity, seed=0, channels=53):
    """Mean rows of clips: a part of their source's, and noise."""
    rng = np.random.default_rng(seed)
    of_source = {name: rng.normal(size=channels) for name in sorted(set(sources))}
    rows = [identity * of_source[s] for s in sources] + rng.normal(size=(len(sources), channels))
    return pd.DataFrame(rows, index=[f"clip {k}" for k in range(len(sources))])


def test_rows_are_drawn_from_all_clips_and_only_valid_ones(tmp_path, monkeypatch):
    write_rows(tmp_path, "a", [[1, 1], [2, 2], [3, 3]], valid=[True, False, True])
    write_rows(tmp_path, "b", np.full((50, 2), 7))
    monkeypatch.setattr("helpers.feature_quality.SAMPLED_ROWS", 12)
    rows = sample_rows(tmp_path, ["a", "b", "missing"])
    assert sorted(set(rows[:, 0])) == [1, 3, 7]
    assert (rows == 7).all(axis=1).sum() == 4  # a third of 12, for each of three


def test_consistency_is_the_mean_over_pairs():
    """Standardised rows are (1, 1), (-1, 1) and their opposites: each is opposite to one and square to two."""
    means = pd.DataFrame([[3.0, 5.0], [1.0, 5.0], [1.0, 1.0], [3.0, 1.0]])
    table = consistency(means, ["x", "y", "x", "z"])
    assert table["value"].tolist() == pytest.approx([-1, 1 + 1 / 5])


@pytest.mark.parametrize("most_clips", [1000, 15])
def test_features_of_identity_are_consistent_within_sources_and_others_are_not(most_clips, monkeypatch):
    monkeypatch.setattr("helpers.feature_quality.MOST_CLIPS", most_clips)  # of more, some sources are drawn
    within, between = consistency(clips_of(SOURCES, identity=1.0), SOURCES).itertuples()
    assert 0.3 < within.value < 0.7
    assert within.value > within.permuted_high
    assert between.value > between.permuted_high
    noise = consistency(clips_of(SOURCES, identity=0.0), SOURCES).iloc[0]
    assert noise["value"] < noise["permuted_high"] + 0.03
    monkeypatch.setattr("helpers.feature_quality.MOST_CLIPS", 60)
    two = np.repeat(["a", "b"], 60)  # more clips than are looked at
    assert consistency(clips_of(two, identity=1.0), two) is not None
    for without_a_pair in ("abc", "aaa"):
        assert consistency(clips_of("abc", identity=1.0), list(without_a_pair)) is None


def test_the_direction_of_a_clip_points_from_the_mean_clip_to_it():
    means = clips_of(SOURCES, identity=2.0)
    means[0] = 3.0  # a channel that does not vary
    direction = apart(means, "clip 4")
    along = (means - means.mean()) @ direction
    assert direction.dtype == np.float32
    assert direction[0] == 0
    assert along.idxmax() == "clip 4"
    z = (means.loc["clip 4"] - means.mean())[1:] / means.std(ddof=0)[1:]
    assert along["clip 4"] == pytest.approx(np.linalg.norm(z), rel=1e-3)
    assert np.linalg.norm(apart(means.iloc[[4]], "clip 4")) == pytest.approx(1, rel=1e-4)


def test_sources_lie_together_in_the_plane_and_some_clips_have_none():
    means = clips_of(SOURCES[:12], identity=9.0)
    pca, tsne = planes(means)
    for table in (pca, tsne):
        points = table.to_numpy().reshape(4, 3, 2)
        within = np.linalg.norm(points - points.mean(1, keepdims=True), axis=-1).mean()
        between = np.linalg.norm(points.mean(1) - points.mean((0, 1)), axis=-1).mean()
        assert within < 0.5 * between
    assert sum(pca.attrs["shares"]) < 1
    for none in (means.iloc[:2], means[[0]], pd.DataFrame([[0.1, 0.2, 0.3]] * 5)):
        assert planes(none) is None


@pytest.fixture
def table():
    """Four clips of two sources; c has no rating and d no features."""
    table = pd.DataFrame({"path": "x", "source": ["s", "r", "s", "r"], "split": ""}, index=list("abcd"))
    return table.assign(openness=[0.2, 0.4, np.nan, 0.1])


def test_mean_features_are_of_valid_rows_with_sources_together(tmp_path, table):
    write_rows(tmp_path, "a", [[1, 1], [9, 9], [3, 5]], valid=[True, False, True])
    write_rows(tmp_path, "b", [[7, 7]])
    write_rows(tmp_path, "c", [[2, 4]])
    means = mean_features(tmp_path, table, "abcd")
    assert means.index.tolist() == ["b", "a", "c"]
    assert means.loc["a"].tolist() == [2, 3]
    assert [rated_or_all(table, keys) for keys in ("abc", "c")] == [["a", "b"], ["c"]]


def test_the_example_is_the_first_rated_clip_with_a_valid_row(tmp_path, table):
    for key, valid in (("a", [False, False]), ("b", [False, True]), ("c", [True, True])):
        write_rows(tmp_path, key, np.ones((2, 3)), valid)
    failed = [{"clip": "d", "reason": "no face"}, {"clip": "b", "row": 0, "reason": "lost"}]
    assert (usable := usable_clips(table, {"failed": failed})) == ["a", "b", "c"]
    assert example_clip(tmp_path, table, usable)[0] == "b"
    with pytest.raises(ValueError, match="valid row"):
        example_clip(tmp_path, table, ["a"])


def test_the_rating_that_goes_best_with_a_component_is_taken_and_equal_ones_are_not(table):
    x = pd.Series([1.0, 2.0, 3.0], index=list("abd"))
    assert best_rating(table.assign(neuroticism=[0.6, 0.4, 0.1, 0.2]), x).name == "neuroticism"
    assert best_rating(table.assign(openness=0.5), x) is None
