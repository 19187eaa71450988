"""Attention and occlusion on models whose answer is known, and whether what is seen of a model is real."""

import keras
import numpy as np
import pandas as pd
import pytest
from toy_tokens import DD, DS, TD, TS, aligned, tokens

from helpers import attention
from helpers.attention import get_attention_weights, occlusion
from helpers.clips import TRAITS
from helpers.config import TrainingConfig
from helpers.experiment import TrainingData
from helpers.model import CompletePersonalityModel, clips_at_once

B, HEADS = 3, 2


class OneTokenModel:
    """Answers with the first channel of one motion token, times the target's number; attends as it is told."""

    def __init__(self, place: int, weights: np.ndarray | None = None):
        self.place, self.weights = place, weights

    def __call__(self, inputs: dict, training: bool, return_attention: bool = False):
        scores = inputs["dynamic"][:, self.place, :1] * np.arange(5)
        return (scores, self.weights) if return_attention else scores


def network(seed: int = 1) -> CompletePersonalityModel:
    keras.utils.set_random_seed(seed)
    return CompletePersonalityModel(DS, DD, 8, HEADS)


def test_weights_skip_masked_tokens_and_of_a_single_one_they_are_one():
    inputs = tokens()
    inputs["dynamic_mask"][1, 5:] = inputs["static_mask"][2, 4:] = False
    weights = get_attention_weights(network(), inputs)
    assert weights.shape == (B, HEADS, TS, TD)
    np.testing.assert_allclose(weights.sum(-1), np.tile(inputs["static_mask"][:, None], (HEADS, 1)), atol=1e-6)
    assert not weights[1, ..., 5:].any()
    single = {name: x[:, :1] if name.startswith("dynamic") else x for name, x in inputs.items()}
    np.testing.assert_allclose(get_attention_weights(network(), single)[0], 1)


def test_long_clips_go_through_a_model_few_at_a_time(monkeypatch):
    for static, dynamic, n in (((9,), (9,), 1024), ((9, 2), (9, 2), 1024), ((4096, 2), (2048, 2), 2)):
        assert clips_at_once({"static": np.zeros((1, *static)), "dynamic": np.zeros((1, *dynamic))}) == n
    inputs, found = tokens(), []
    for _ in range(2):
        found.append((get_attention_weights(network(), inputs), occlusion(network(), inputs, np.zeros(DD))))
        monkeypatch.setattr("helpers.model.PASS_NUMBERS", 2 * TS * DS)
    for whole, parts in zip(*found, strict=True):
        np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_entropy_and_share_by_time_are_those_of_real_tokens():
    weights = np.zeros((3, HEADS, TS, TD))
    weights[0] = 1 / TD
    weights[1, :, :, 2] = 1
    weights[2, :, :2, :3] = 1 / 3
    masks = np.arange(TS)[None] < [[TS], [TS], [2]], np.arange(TD)[None] < [[TD], [TD], [3]]
    np.testing.assert_allclose(attention.attention_entropy(weights, *masks), [[1, 1], [0, 0], [1, 1]], atol=1e-9)
    by_time = attention.attention_by_time(OneTokenModel(0, weights), tokens() | {"static_mask": masks[0]})
    np.testing.assert_allclose(by_time[[0, 2]], [[1 / TD] * TD, [1 / 3] * 3 + [0] * 4], atol=1e-9)
    assert by_time[1].tolist() == [0, 0, 1, 0, 0, 0, 0]


def test_a_clock_shows_in_the_lag():
    """Each face token looks at the motion token .5 s later."""
    weights = np.zeros((B, HEADS, TS, TD))
    weights[:, :, np.arange(TS), np.arange(TS)] = 1
    profile = attention.attention_by_lag(OneTokenModel(0, weights), tokens(), step_s=1.0)
    assert profile.loc[profile["attention"].idxmax(), "lag_s"] == 0.5
    assert profile["attention"].tolist().count(1) == profile["attention"].sum() == 1
    clips = aligned(3)
    clips.dynamic_mask[:, 1:] = False  # clips of one motion token
    assert attention.token_duration(clips) == 1.0
    assert len(attention.attention_by_lag(OneTokenModel(0, weights), clips.inputs(), 1.0)) == TS


def test_a_contribution_is_the_score_with_a_part_minus_that_without_it():
    inputs, baseline = tokens(), np.full(DD, 4.0, "float32")
    inputs["dynamic_mask"][1, 5:] = False
    effects = occlusion(OneTokenModel(2), inputs, baseline)
    assert effects.shape == (B, TD, 5)
    np.testing.assert_allclose(effects[:, 2, 3], 3 * (inputs["dynamic"][:, 2, 0] - 4), rtol=1e-5)
    assert not np.delete(effects, 2, axis=1).any()
    of_parts = occlusion(OneTokenModel(2), inputs, baseline, [[0, 1], [2, 3]])
    np.testing.assert_allclose(of_parts[:, 1], effects[:, 2], rtol=1e-5)
    assert not of_parts[:, 0].any()
    assert not occlusion(OneTokenModel(5), inputs, baseline)[1].any()  # token 5 of clip 1 is masked
    found = attention.shares(np.array([[1.0, -3.0, 5.0], [0.0, 0.0, 0.0]]), np.array([[True, True, False]] * 2))
    np.testing.assert_array_equal(found, [[0.25, 0.75, np.nan], [np.nan] * 3])


def write_truth(folder, clips, warm_s, cool_s):
    pd.DataFrame({"key": clips, "warm_s": warm_s, "cool_s": cool_s, "window_s": 1.0}).to_csv(folder / "truth.csv")


def test_a_token_is_inside_when_half_of_it_lies_in_a_window_of_its_own_clip(tmp_path):
    """Tokens of 1 s at .5, 1.5, ...; windows 1.5 to 2.5 (half of two tokens) and 4.2 to 5.2 (.8 of one)."""
    write_truth(tmp_path, ["clip1", "clip0"], [0.0, 1.5], [5.0, 4.2])
    inside = attention.planted_windows(tmp_path, aligned(2))
    assert [np.flatnonzero(row).tolist() for row in inside] == [[1, 2, 4], [0, 5]]
    assert attention.planted_windows(tmp_path / "none", aligned(2)) is None
    assert attention.planted_windows(tmp_path, aligned(3)) is None  # one of them is not synthetic
    assert attention.window_spans(tmp_path, "clip0")["cool light"] == (4.2, 5.2)
    assert attention.window_spans(tmp_path, "another") == {}


def test_a_model_that_rests_on_what_was_planted_is_told_from_one_that_does_not(monkeypatch, tmp_path):
    """Models rest on token 2, controls on token 4 of their shuffled motion; the most unusual motion is token 1."""
    clips = aligned(40)
    clips.dynamic_features[:, 1] *= 9
    monkeypatch.setattr(attention, "rated_clips", lambda _: clips)
    monkeypatch.setattr(attention, "load_trained", lambda _, name, __: OneTokenModel(4 if "shuffled" in name else 2))
    asked = TrainingData(tmp_path, None, ""), TrainingConfig(seeds=[0, 1]), "agreeableness"
    without = attention.evaluate(*asked)
    assert without.pop("trait") == "agreeableness"
    assert not any(without.values())
    write_truth(tmp_path, clips.clips, 2.0, 5.0)  # tokens 2 and 5
    found = attention.evaluate(*asked)
    assert found.keys() == without.keys() | {"trait"}
    assert found["occlusion_chance"] == pytest.approx(2 / TD)
    assert (found["occlusion_pointing"], found["occlusion_pointing_interval"]) == (1, [1, 1])
    low, high = found["occlusion_pointing_shuffled_interval"]
    assert low <= found["occlusion_pointing_shuffled"] <= high
    assert found["occlusion_pointing_shuffled"] < 0.7
    assert found["motion_pointing"] == 0
    assert list(found["pointing"]) == list(TRAITS)
    assert found["pointing"]["openness"]["true model"]["value"] == 0  # it answers with 0: no effect
    assert found["pointing"]["neuroticism"]["true model"]["value"] == 1


def test_rank_correlations_are_those_of_ranks_and_skip_what_is_missing():
    a = np.array([[1.0, 2.0, 9.0], [1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [1.0, 2.0, np.nan]])
    b = np.array([[0.1, 0.2, 0.3], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    np.testing.assert_allclose(attention.rank_correlation(a, b), [1, -1, np.nan, np.nan])


def test_a_model_agrees_with_itself_and_not_with_other_weights():
    model, clips = network(0), aligned(20)
    clips.dynamic_mask[1, 3:] = clips.static_mask[2, 2:] = False
    found = attention.randomisation(
        model, {"itself": model, "other": network(7)}, clips, attention.mean_motion(clips), 3
    )
    for measure in ("attention", "occlusion"):
        assert found["itself"][measure]["value"] == pytest.approx(1)
    low, high = found["other"]["occlusion"]["interval"]
    assert low <= found["other"]["occlusion"]["value"] <= high < 0.6
