"""What features are worth, on clips of a known make-up; and stages as their notebooks show them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from helpers.feature_quality import (
    Review,
    apart,
    consistency,
    effective_dimensions,
    mean_features,
    planes,
    rated_or_all,
    sample_rows,
)
from helpers.store import FeatureFile, write_features

SOURCES = np.repeat([f"source {k}" for k in range(11)], 3)


def write_rows(folder, key, features, valid=None):
    n = len(features)
    t_s = np.arange(n) / 2
    valid = np.ones(n, bool) if valid is None else np.array(valid)
    write_features(folder / f"{key}.npz", FeatureFile(np.float32(features), t_s, t_s + 0.5, np.arange(n), valid))


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


def test_effective_dimensions_are_those_that_the_rows_fill():
    full = np.random.default_rng(0).normal(size=(4000, 7))
    assert effective_dimensions(full) == pytest.approx(7, rel=0.01)
    assert effective_dimensions(full[:, [0] * 5]) == pytest.approx(1)
    assert effective_dimensions(np.ones((3, 2))) == 0


def test_consistency_is_the_mean_over_pairs():
    means = pd.DataFrame([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    table = consistency(means, ["x", "x", "y"], standardise=False)
    diagonal = 1 / np.sqrt(2)
    assert table["value"].tolist() == pytest.approx([diagonal, 1 - diagonal / 2])
    assert table["permuted"].iloc[0] == pytest.approx(2 * diagonal / 3, abs=0.2)


@pytest.mark.parametrize("most_clips", [1000, 15])
def test_features_of_identity_are_consistent_within_sources_and_others_are_not(most_clips, monkeypatch):
    monkeypatch.setattr("helpers.feature_quality.MOST_CLIPS", most_clips)  # of more, some sources are drawn
    within, between = consistency(clips_of(SOURCES, identity=1.0), SOURCES).itertuples()
    assert 0.3 < within.value < 0.7
    assert within.value > within.permuted_high
    assert between.value > between.permuted
    noise = consistency(clips_of(SOURCES, identity=0.0), SOURCES).iloc[0]
    assert noise["value"] < noise["permuted_high"] + 0.03
    raw = consistency(clips_of(SOURCES, identity=0.0) + 20, SOURCES, standardise=False).iloc[0]
    assert min(raw["value"], raw["permuted"]) > 0.99  # what is never negative looks consistent for anybody


@pytest.mark.parametrize("sources", ["abc", "aaa"])
def test_nothing_is_said_of_sources_without_a_pair(sources):
    assert consistency(clips_of("abc", identity=1.0), list(sources)) is None


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


def table_of_clips():
    """Four clips of two sources; c has no rating and d no features."""
    table = pd.DataFrame({"path": "x", "source": ["s", "r", "s", "r"], "split": ""}, index=list("abcd"))
    return table.assign(openness=[0.2, 0.4, np.nan, 0.6])


def test_mean_features_are_of_valid_rows_with_sources_together(tmp_path):
    write_rows(tmp_path, "a", [[1, 1], [9, 9], [3, 5]], valid=[True, False, True])
    write_rows(tmp_path, "b", [[7, 7]])
    write_rows(tmp_path, "c", [[2, 4]])
    means = mean_features(tmp_path, table_of_clips(), "abcd")
    assert means.index.tolist() == ["b", "a", "c"]
    assert means.loc["a"].tolist() == [2, 3]
    assert rated_or_all(table_of_clips(), "abc") == ["a", "b"]
    assert rated_or_all(table_of_clips(), "c") == ["c"]


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("n_sources", [1, 2])
@pytest.mark.parametrize(("features", "ratings"), [("vary", "vary"), ("equal", "vary"), ("vary", "equal")])
def test_few_or_equal_clips_are_shown_as_far_as_they_can_be(tmp_path, capsys, n, n_sources, features, ratings):
    rows = np.random.default_rng(0).normal(size=(n, 4, 7))
    if features == "equal":  # copies, up to rounding
        rows = rows[:1, :1] * (1 + 1e-7 * np.arange(4 * n).reshape(n, 4, 1))
    names = [f"clip {k}" for k in range(n)]
    for name, own in zip(names, rows, strict=True):
        write_rows(tmp_path / "static", name, own)
    table = pd.DataFrame({"path": "x", "source": [f"s{k % n_sources}" for k in range(n)], "split": ""}, index=names)
    table["openness"] = 0.5 if ratings == "equal" else np.linspace(0.2, 0.8, n)
    review = Review(tmp_path / "static", table, {"failed": [], "counts": {"rows": 4 * n, "invalid_rows": 0}})
    assert str(review) == f"{n} of {n} clips, {4 * n} rows, 0 of them masked"
    assert review.example()[0] == "clip 0"
    (review.folder / "extraction_log.json").write_text('{"extraction_time_seconds": 1.0}')  # of an earlier version
    review.show_time(1)
    review.show_channels()
    review.show_consistency()
    review.show_plane()
    plt.close("all")
    drawn = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert ("03_plane" in drawn) == (n > 2 and features == "vary")
    assert ("03_consistency" in drawn) == (features == "vary" and 1 < n_sources < n)
    assert "nan" not in capsys.readouterr().out
