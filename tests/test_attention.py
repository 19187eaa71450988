"""Attention maps and their summaries, on maps whose answer is known."""

import keras
import numpy as np
import pytest

from helpers.align import Aligned
from helpers.attention import (
    attention_by_lag,
    attention_by_time,
    attention_entropy,
    get_attention_weights,
)
from helpers.clips import TRAITS
from helpers.model import CompletePersonalityModel

B, TS, TD, DS, DD, HEADS = 3, 5, 7, 11, 13, 2  # distinct primes


class OneTokenModel:
    """Answers with the first channel of one motion token, times the target's number."""

    def __init__(self, place: int):
        self.place = place

    def __call__(self, inputs: dict, training: bool) -> np.ndarray:
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
    weights = np.zeros((B, HEADS, TS, TD))
    weights[:, :, :4, 3] = 1
    weights[:, :, 4, 0] = 1
    share = attention_by_time(weights, np.tile(np.arange(TS) < 4, (B, 1)))
    assert share.shape == (B, TD)
    assert share[:, 3].tolist() == [1] * B


def test_a_clock_shows_in_the_lag():
    """Each face token looks at the motion token .5 s later."""
    weights = np.zeros((B, HEADS, TS, TD))
    weights[:, :, np.arange(TS), np.arange(TS)] = 1
    profile = attention_by_lag(weights, tokens(), step_s=1.0)
    assert profile.loc[profile["attention"].idxmax(), "lag_s"] == 0.5
    assert profile["attention"].max() == 1
    assert profile["attention"].sum() == 1
