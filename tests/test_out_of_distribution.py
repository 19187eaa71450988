"""How unlike a clip is to the training clips."""

import dataclasses

import numpy as np
import pytest

from helpers import out_of_distribution
from helpers.align import read_aligned
from helpers.files import ROOT


@pytest.fixture(scope="module")
def clips():
    return read_aligned(ROOT / "data_sample" / "tokens").take(np.arange(300))


@pytest.fixture(scope="module")
def known(clips):
    return out_of_distribution.learn_training_tokens(clips.take(np.arange(200)), clips.take(np.arange(200, 300)))


def test_training_tokens_lie_at_one_on_average_and_what_is_written_is_read(clips, known, tmp_path):
    out_of_distribution.write_training_tokens(tmp_path / "familiar.npz", known)
    again = out_of_distribution.read_training_tokens(tmp_path / "familiar.npz")
    for name, of in known.items():
        tokens = getattr(clips, f"{name}_features")[:200][getattr(clips, f"{name}_mask")[:200]]
        assert of.distance(tokens) == again[name].distance(tokens) == pytest.approx(1, rel=0.03)
        assert np.array_equal(again[name].held_out, of.held_out)
    np.savez(tmp_path / "familiar.npz", static_mean=np.zeros(2))
    with pytest.raises(ValueError, match="static_precision"):
        out_of_distribution.read_training_tokens(tmp_path / "familiar.npz")


def test_a_distance_is_the_mahalanobis_distance(clips):
    random, one = np.random.default_rng(0), clips.take([0])
    tokens = random.standard_normal((1, 20_000, 2)).astype("float32") * np.float32([1, 4])
    mask, t_s = np.ones((1, 20_000), bool), np.zeros((1, 20_000), "float32")
    many = dataclasses.replace(one, static_features=tokens, static_mask=mask, static_t_s=t_s)
    known = out_of_distribution.learn_training_tokens(many, many)["static"]
    here, along = known.distance(np.array([[2.0, 0.0]])), known.distance(np.array([[0.0, 8.0]]))
    assert here == pytest.approx(np.sqrt(2), rel=0.03)  # sqrt(2^2 / 2 channels)
    assert along == pytest.approx(here, rel=0.03)


def test_few_held_out_clips_are_called_unlike_and_strange_ones_are(clips, known):
    later = clips.take(np.arange(200, 300)).static_features
    assert np.mean([known["static"].describe(x)["unlike"] for x in later]) <= 0.02
    strange = known["static"].describe(later[0] * 5)
    assert (strange["unlike"], strange["held_out_clips"]) == (True, 100)
    assert strange["p_value"] == pytest.approx(1 / 101, abs=1e-6)
    assert strange["distance"] > strange["farthest_held_out"]
