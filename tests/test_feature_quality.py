"""What features are worth, on clips of a known make-up."""

import numpy as np
import pandas as pd
import pytest

from helpers.feature_quality import (
    apart,
    consistency,
    example_clip,
    mean_features,
    planes,
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


def test_consistency_is_the_mean_over_pairs():
    """Standardised rows are (1, 1), (-1, 1) and their opposites: each is opposite to one and square to two."""
    means = pd.DataFrame([[3.0, 5.0], [1.0, 5.0], [1.0, 1.0], [3.0, 1.0]])
    found = consistency(means, ["x", "y", "x", "z"])
    assert [row["measured"]["value"] for row in found.values()] == pytest.approx([-1, 1 + 1 / 5])


@pytest.mark.parametrize("most_clips", [1000, 15])
def test_features_of_identity_are_consistent_within_sources_and_others_are_not(most_clips, monkeypatch):
    monkeypatch.setattr("helpers.feature_quality.MOST_CLIPS", most_clips)
    within, between = consistency(clips_of(SOURCES, identity=1.0), SOURCES).values()
    assert 0.3 < within["measured"]["value"] < 0.7
    assert within["measured"]["value"] > within["permuted sources"]["interval"][1]
    assert between["measured"]["value"] > between["permuted sources"]["interval"][1]
    noise, _ = consistency(clips_of(SOURCES, identity=0.0), SOURCES).values()
    assert noise["measured"]["value"] < noise["permuted sources"]["interval"][1] + 0.03
    two = np.repeat(["a", "b"], 60)  # more clips of a source than are looked at
    monkeypatch.setattr("helpers.feature_quality.MOST_CLIPS", 60)
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


def test_clips_of_a_stage_are_their_valid_rows(tmp_path):
    table = pd.DataFrame({"source": list("srsr"), "openness": [0.2, 0.4, np.nan, 0.1]}, index=list("cbad"))
    write_rows(tmp_path, "a", [[1, 1], [9, 9], [3, 5]], valid=[True, False, True])
    write_rows(tmp_path, "b", [[7, 7]])
    write_rows(tmp_path, "c", [[2, 4]], valid=[False])
    failed = [{"clip": "d", "reason": "no face"}, {"clip": "b", "row": 0, "reason": "lost"}]
    usable = usable_clips(table, {"failed": failed})
    assert usable == ["c", "b", "a"]  # rated ones first
    means = mean_features(tmp_path, table, usable)
    assert means.T.to_dict("list") == {"b": [7, 7], "a": [2, 3]}  # sources beside each other
    assert [example_clip(tmp_path, keys)[0] for keys in (usable, ["c", "a"])] == ["b", "a"]
    with pytest.raises(ValueError, match="valid row"):
        example_clip(tmp_path, ["c"])
