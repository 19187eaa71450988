"""What features are worth, on clips of a known make-up, and how unlike a clip is to the training clips."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from helpers import feature_quality as quality
from helpers.align import read_aligned
from helpers.files import ROOT
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
    found = quality.consistency(means, ["x", "y", "x", "z"])
    assert [row["measured"]["value"] for row in found.values()] == pytest.approx([-1, 1 + 1 / 5])


@pytest.mark.parametrize("most_clips", [1000, 15])
def test_features_of_identity_are_consistent_within_sources_and_others_are_not(most_clips, monkeypatch):
    monkeypatch.setattr("helpers.feature_quality.MOST_CLIPS", most_clips)
    within, between = quality.consistency(clips_of(SOURCES, identity=1.0), SOURCES).values()
    assert 0.3 < within["measured"]["value"] < 0.7
    assert within["measured"]["value"] > within["permuted sources"]["interval"][1]
    assert between["measured"]["value"] > between["permuted sources"]["interval"][1]
    noise, _ = quality.consistency(clips_of(SOURCES, identity=0.0), SOURCES).values()
    assert noise["measured"]["value"] < noise["permuted sources"]["interval"][1] + 0.03
    two = np.repeat(["a", "b"], 60)  # more clips of a source than are looked at
    monkeypatch.setattr("helpers.feature_quality.MOST_CLIPS", 60)
    assert quality.consistency(clips_of(two, identity=1.0), two) is not None
    for without_a_pair in ("abc", "aaa"):
        assert quality.consistency(clips_of("abc", identity=1.0), list(without_a_pair)) is None


def test_the_direction_of_a_clip_points_from_the_mean_clip_to_it():
    means = clips_of(SOURCES, identity=2.0)
    means[0] = 3.0  # a channel that does not vary
    direction = quality.apart(means, "clip 4")
    along = (means - means.mean()) @ direction
    assert direction.dtype == np.float32
    assert direction[0] == 0
    assert along.idxmax() == "clip 4"
    z = (means.loc["clip 4"] - means.mean())[1:] / means.std(ddof=0)[1:]
    assert along["clip 4"] == pytest.approx(np.linalg.norm(z), rel=1e-3)
    assert np.linalg.norm(quality.apart(means.iloc[[4]], "clip 4")) == pytest.approx(1, rel=1e-4)


def test_sources_lie_together_in_the_plane_and_some_clips_have_none():
    means = clips_of(SOURCES[:12], identity=9.0)
    pca, tsne = quality.planes(means)
    for table in (pca, tsne):
        points = table.to_numpy().reshape(4, 3, 2)
        within = np.linalg.norm(points - points.mean(1, keepdims=True), axis=-1).mean()
        between = np.linalg.norm(points.mean(1) - points.mean((0, 1)), axis=-1).mean()
        assert within < 0.5 * between
    assert sum(pca.attrs["shares"]) < 1
    for none in (means.iloc[:2], means[[0]], pd.DataFrame([[0.1, 0.2, 0.3]] * 5)):
        assert quality.planes(none) is None


def test_clips_of_a_stage_are_their_valid_rows(tmp_path):
    table = pd.DataFrame({"source": list("srsr"), "openness": [0.2, 0.4, np.nan, 0.1]}, index=list("cbad"))
    write_rows(tmp_path, "a", [[1, 1], [9, 9], [3, 5]], valid=[True, False, True])
    write_rows(tmp_path, "b", [[7, 7]])
    write_rows(tmp_path, "c", [[2, 4]], valid=[False])
    failed = [{"clip": "d", "reason": "no face"}, {"clip": "b", "row": 0, "reason": "lost"}]
    usable = quality.usable_clips(table, {"failed": failed})
    assert usable == ["c", "b", "a"]  # rated ones first
    means = quality.mean_features(tmp_path, table, usable)
    assert means.T.to_dict("list") == {"b": [7, 7], "a": [2, 3]}  # sources beside each other
    assert [quality.example_clip(tmp_path, keys)[0] for keys in (usable, ["c", "a"])] == ["b", "a"]
    with pytest.raises(ValueError, match="valid row"):
        quality.example_clip(tmp_path, ["c"])


@pytest.fixture(scope="module")
def bank():
    return read_aligned(ROOT / "data_sample" / "tokens").take(np.arange(300))


@pytest.fixture(scope="module")
def known(bank, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "familiar.npz"
    quality.write_training_tokens(path, bank.take(np.arange(200)), bank.take(np.arange(200, 300)))
    return quality.read_training_tokens(path)


def test_a_distance_is_the_mahalanobis_distance_and_another_version_is_refused(bank, tmp_path):
    random, one = np.random.default_rng(0), bank.take([0])
    tokens = random.standard_normal((1, 20_000, 2)).astype("float32") * np.float32([1, 4])
    mask, t_s = np.ones((1, 20_000), bool), np.zeros((1, 20_000), "float32")
    many = dataclasses.replace(one, static_features=tokens, static_mask=mask, static_t_s=t_s)
    quality.write_training_tokens(tmp_path / "familiar.npz", many, many)
    known = quality.read_training_tokens(tmp_path / "familiar.npz")["static"]
    here, along = known.distance(np.array([[2.0, 0.0]])), known.distance(np.array([[0.0, 8.0]]))
    assert here == pytest.approx(np.sqrt(2), rel=0.03)  # sqrt(2^2 / 2 channels)
    assert along == pytest.approx(here, rel=0.03)
    np.savez(tmp_path / "familiar.npz", static_mean=np.zeros(2))  # as another version wrote it
    with pytest.raises(ValueError, match="static_precision"):
        quality.read_training_tokens(tmp_path / "familiar.npz")


def test_few_held_out_clips_are_called_unlike_and_strange_ones_are(bank, known):
    for name, of in known.items():  # training tokens lie at 1 on average
        tokens = getattr(bank, f"{name}_features")[:200][getattr(bank, f"{name}_mask")[:200]]
        assert of.distance(tokens) == pytest.approx(1, rel=0.03)
    later = bank.take(np.arange(200, 300)).static_features
    assert np.mean([known["static"].describe(x)["unlike"] for x in later]) <= 0.02
    strange = known["static"].describe(later[0] * 5)
    assert (strange["unlike"], strange["held_out_clips"]) == (True, 100)
    assert strange["p_value"] == pytest.approx(1 / 101, abs=1e-6)
    assert strange["distance"] > strange["farthest_held_out"]
