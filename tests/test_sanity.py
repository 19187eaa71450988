"""Randomisation and agreement: rank correlations by hand, and models that are known to agree or not."""

import keras
import numpy as np
import pytest
from test_attention import DD, DS, TD, TS, aligned

from helpers import evidence
from helpers.config import TrainingConfig
from helpers.model import CompletePersonalityModel
from helpers.training.train import TrainingData

BASELINE = np.zeros(DD, "float32")


def network(seed: int) -> CompletePersonalityModel:
    keras.utils.set_random_seed(seed)
    return CompletePersonalityModel(DS, DD, 8, 2)


def test_rank_correlations_are_those_of_ranks_and_skip_what_is_missing():
    a = np.array([[1.0, 2.0, 9.0], [1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [1.0, 2.0, np.nan]])
    b = np.array([[0.1, 0.2, 0.3], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    np.testing.assert_allclose(evidence.rank_correlation(a, b), [1, -1, np.nan, np.nan])


def test_masked_tokens_show_nothing():
    clips = aligned(4)
    clips.dynamic_mask[1, 3:] = False
    clips.static_mask[2, 2:] = False
    shown = evidence.show(network(0), clips, BASELINE, 3)
    assert shown["attention"].shape == (4, TS * TD)
    assert np.isnan(shown["relevance"][1]).tolist() == [False] * 3 + [True] * (TD - 3)
    assert np.isfinite(shown["attention"][2].reshape(TS, TD)).all(1).tolist() == [True, True, False, False, False]


def test_a_model_agrees_with_itself_and_not_with_other_weights():
    model, clips = network(0), aligned(20)
    found = evidence.randomisation(model, {"itself": model, "other": network(7)}, clips, BASELINE, 3)
    for measure in evidence.MEASURES:
        assert found["itself"][measure]["value"] == pytest.approx(1)
    low, high = found["other"]["relevance"]["interval"]
    assert low <= found["other"]["relevance"]["value"] <= high < 0.6


@pytest.mark.parametrize("n_live", [5, 1, None])
def test_seeds_are_compared_on_clips_that_neither_has_seen(n_live, tmp_path, monkeypatch):
    bank = aligned(60)
    data = TrainingData(tmp_path, tmp_path if n_live else None, "")
    monkeypatch.setattr(evidence, "rated_clips", lambda _: bank)
    monkeypatch.setattr(TrainingData, "live_clips", property(lambda _: n_live and aligned(n_live)))
    monkeypatch.setattr(evidence, "load_trained", lambda *_: network(0))
    cfg = TrainingConfig(seeds=[0, 1], test_share=0.4)
    found = evidence.agreement(data, cfg, 3)
    both = (evidence.split_of(bank, cfg, 0) == "test") & (evidence.split_of(bank, cfg, 1) == "test")
    assert found["clips"] == (5 if n_live == 5 else both.sum())
    assert found["attention"]["value"] == pytest.approx(1)  # of one and the same network
    assert found["relevance"]["other_clips"] < 0.9


def test_a_single_seed_agrees_with_nobody(tmp_path):
    assert evidence.agreement(TrainingData(tmp_path, None, ""), TrainingConfig(seeds=[0]), 0) is None
