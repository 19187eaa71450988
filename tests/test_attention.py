"""Attention maps and occlusion, on models and windows whose answer is known."""

import keras
import numpy as np
import pandas as pd
import pytest

from helpers import attention
from helpers.align import Aligned
from helpers.attention import (
    attention_by_lag,
    attention_by_time,
    attention_entropy,
    get_attention_weights,
    inside_windows,
    occlusion,
    planted_windows,
    pointing,
    speed_per_token,
)
from helpers.clips import TRAITS
from helpers.config import TrainingConfig
from helpers.model import CompletePersonalityModel
from helpers.train import TrainingData, split_of
from helpers.variants import SHUFFLED_MODEL, shuffled_order

B, TS, TD, DS, DD, HEADS = 3, 5, 7, 11, 13, 2  # distinct primes


class OneTokenModel:
    """Answers with the first channel of one motion token, times the target's number."""

    def __init__(self, place: int):
        self.place = place

    def predict(self, inputs: dict, batch_size: int, verbose: int) -> np.ndarray:
        return inputs["dynamic"][:, self.place, :1] * np.arange(5)


def tokens(n: int = B) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "static": rng.normal(size=(n, TS, DS)).astype("float32"),
        "dynamic": rng.normal(size=(n, TD, DD)).astype("float32"),
        "static_t_s": np.tile(np.arange(TS, dtype="float32"), (n, 1)),
        "dynamic_t_s": np.tile(np.arange(TD, dtype="float32") + 0.5, (n, 1)),
        "static_mask": np.ones((n, TS), bool),
        "dynamic_mask": np.ones((n, TD), bool),
    }


def aligned(n: int = 40) -> Aligned:
    parts = {f"{k}_features" if k in ("static", "dynamic") else k: v for k, v in tokens(n).items()}
    names = np.array([f"clip{i}" for i in range(n)])
    labels = np.random.default_rng(1).uniform(0, 1, (n, 5)).astype("float32")
    return Aligned(**parts, labels=labels, clips=names, sources=names, splits=names, targets=np.array(TRAITS))


def test_weights_have_the_models_shape_and_skip_masked_tokens():
    keras.utils.set_random_seed(0)
    inputs = tokens()
    inputs["dynamic_mask"][1, 4:] = False
    weights = get_attention_weights(CompletePersonalityModel(DS, DD, 8, HEADS), inputs)
    assert weights.shape == (B, HEADS, TS, TD)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert not weights[1, ..., 4:].any()


def test_one_motion_token_per_clip_warns_that_attention_says_nothing():
    keras.utils.set_random_seed(0)
    inputs = tokens()
    inputs["dynamic_mask"][:, 1:] = False
    with pytest.warns(UserWarning, match="no clip has more than one motion token"):
        get_attention_weights(CompletePersonalityModel(DS, DD, 8, HEADS), inputs)


def test_entropy_is_one_for_a_uniform_row_and_zero_for_a_single_token():
    weights = np.zeros((2, HEADS, TS, TD))
    weights[0] = 1 / TD
    weights[1, :, :, 2] = 1
    masks = np.ones((2, TS), bool), np.ones((2, TD), bool)
    np.testing.assert_allclose(attention_entropy(weights, *masks), [[1, 1], [0, 0]], atol=1e-9)


def test_entropy_counts_real_tokens_only():
    weights = np.zeros((2, 1, TS, TD))
    weights[:, :, :2, :3] = 1 / 3
    masks = np.arange(TS)[None] < [[2], [2]], np.arange(TD)[None] < [[3], [3]]
    np.testing.assert_allclose(attention_entropy(weights, *masks), 1, atol=1e-9)


def test_attention_by_time_keeps_only_the_motion_axis_and_real_face_tokens():
    weights = np.zeros((HEADS, TS, TD))
    weights[:, :4, 3] = 1
    weights[:, 4, 0] = 1
    share = attention_by_time(weights, np.arange(TS) < 4)
    assert share.shape == (TD,)
    assert share[3] == 1


def test_attention_by_time_of_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"must be \(heads, Ts, Td\) of one clip.*got \(3, 2, 5, 7\)"):
        attention_by_time(np.zeros((B, HEADS, TS, TD)), np.ones(TS, bool))


def test_a_clock_shows_in_the_lag():
    """Each face token looks at the motion token .5 s later."""
    weights = np.zeros((B, HEADS, TS, TD))
    weights[:, :, np.arange(TS), np.arange(TS)] = 1
    profile = attention_by_lag(weights, tokens(), step_s=1.0)
    assert profile.loc[profile["attention"].idxmax(), "lag_s"] == 0.5
    assert profile["attention"].max() == 1
    assert profile["attention"].sum() == 1


def test_occlusion_moves_the_answer_only_where_the_model_looks():
    inputs = tokens()
    baseline = np.full(DD, 4.0, "float32")
    effects = occlusion(OneTokenModel(2), inputs, 3, baseline)
    assert effects.shape == (B, TD)
    np.testing.assert_allclose(effects[:, 2], 3 * (4 - inputs["dynamic"][:, 2, 0]), rtol=1e-5)
    assert not np.delete(effects, 2, axis=1).any()


def test_a_token_is_inside_when_half_of_it_lies_in_a_window():
    """Tokens of 1 s at .5, 1.5, ...; windows 1.5 to 2.5 (half of two tokens) and 4.2 to 5.2 (.8 of one)."""
    times = np.arange(7)[None] + 0.5
    inside = inside_windows(times, 1.0, np.array([[1.5, 4.2]]), np.array([1.0]))
    assert inside[0].tolist() == [False, True, True, False, True, False, False]


def test_pointing_counts_clips_whose_largest_effect_is_inside():
    effects = np.array([[0.1, -0.9, 0.2], [0.5, 0.1, 0.3], [0.1, 0.2, 9.0]])
    inside = np.array([[False, True, False], [False, True, True], [True, False, True]])
    mask = np.array([[True, True, True], [True, True, True], [True, True, False]])
    found, chance = pointing(effects, inside, mask)
    assert found == pytest.approx(1 / 3)
    assert chance == pytest.approx((1 / 3 + 2 / 3 + 1 / 2) / 3)


def test_windows_are_read_by_key(tmp_path):
    clips = aligned(2)
    truth = pd.DataFrame(
        {"key": ["clip1", "clip0"], "warm_s": [0.0, 3.0], "cool_s": [5.0, 1.0], "window_s": [1.0, 1.0]}
    )
    truth.to_csv(tmp_path / "truth.csv", index=False)
    inside = planted_windows(tmp_path, clips)
    assert np.flatnonzero(inside[0]).tolist() == [1, 3]
    assert np.flatnonzero(inside[1]).tolist() == [0, 5]
    assert planted_windows(tmp_path / "none", clips) is None


def test_speed_is_averaged_within_each_motion_token():
    flows = [np.full((3, 3, 2), k) for k in range(4)]
    speed = speed_per_token(flows, np.array([0.0, 0.2]), np.array([0.2, 0.4]), fps=10)
    assert speed.shape == (2, 3, 3)
    np.testing.assert_allclose(speed[:, 0, 0], np.sqrt(2) * np.array([0.5, 2.5]), rtol=1e-6)


def test_evidence_tells_a_model_that_looks_from_one_that_does_not(tmp_path, monkeypatch):
    """Every clip's first window covers motion token 2, which the true model reads; the control reads token 4."""
    bank = aligned()
    pd.DataFrame({"key": bank.clips, "warm_s": 2.0, "cool_s": 5.0, "window_s": 1.0}).to_csv(tmp_path / "truth.csv")
    cfg = TrainingConfig(seeds=[0, 1])
    monkeypatch.setattr(attention, "rated_clips", lambda _: bank)
    monkeypatch.setattr(
        attention, "load_trained", lambda _, name, __: OneTokenModel(4 if name == SHUFFLED_MODEL else 2)
    )
    found = attention.evaluate(TrainingData(tmp_path, None, ""), cfg, "agreeableness")
    assert found["occlusion_pointing"] == 1
    assert found["occlusion_chance"] == pytest.approx(2 / TD)
    came_from = [shuffled_order(bank, s)[split_of(bank, cfg, s) == "test", 4] for s in (0, 1)]
    expected = np.mean([np.isin(places, (2, 5)).mean() for places in came_from])
    assert found["occlusion_pointing_shuffled"] == pytest.approx(expected)
    assert [seed["seed"] for seed in found["seeds"]] == [0, 1]


def test_without_a_planted_truth_the_evidence_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "rated_clips", lambda _: aligned())
    found = attention.evaluate(TrainingData(tmp_path, None, ""), TrainingConfig(), "agreeableness")
    assert found["occlusion_pointing"] is None
