"""How unlike a clip is to the training clips."""

import dataclasses

import numpy as np
import pytest

from helpers.align import read_aligned
from helpers.files import ROOT
from helpers.out_of_distribution import read_training_tokens, write_training_tokens


@pytest.fixture(scope="module")
def clips():
    return read_aligned(ROOT / "data_sample" / "tokens").take(np.arange(300))


@pytest.fixture(scope="module")
def known(clips, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "familiar.npz"
    write_training_tokens(path, clips.take(np.arange(200)), clips.take(np.arange(200, 300)))
    return read_training_tokens(path)


def test_training_tokens_lie_at_one_on_average(clips, known):
    for name, of in known.items():
        tokens = getattr(clips, f"{name}_features")[:200][getattr(clips, f"{name}_mask")[:200]]
        assert of.distance(tokens) == pytest.approx(1, rel=0.03)


def test_a_file_of_another_version_is_refused(tmp_path):
    np.savez(tmp_path / "familiar.npz", static_mean=np.zeros(2))
    with pytest.raises(ValueError, match="static_precision"):
        read_training_tokens(tmp_path / "familiar.npz")


def test_a_distance_is_the_mahalanobis_distance(clips, tmp_path):
    random, one = np.random.default_rng(0), clips.take([0])
    tokens = random.standard_normal((1, 20_000, 2)).astype("float32") * np.float32([1, 4])
    mask, t_s = np.ones((1, 20_000), bool), np.zeros((1, 20_000), "float32")
    many = dataclasses.replace(one, static_features=tokens, static_mask=mask, static_t_s=t_s)
    write_training_tokens(tmp_path / "familiar.npz", many, many)
    known = read_training_tokens(tmp_path / "familiar.npz")["static"]
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
