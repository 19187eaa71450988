"""Attention, occlusion and relevance on models whose answer is known, and whether what is seen of a model is real."""

import keras
import numpy as np
import pandas as pd
import pytest

from helpers import evidence
from helpers.align import Aligned
from helpers.attention import (
    attention_by_lag,
    attention_by_time,
    attention_entropy,
    deletion_area,
    get_attention_weights,
    mean_motion,
    occlusion,
    relevance,
    shares,
)
from helpers.clips import TRAITS
from helpers.config import TrainingConfig
from helpers.evidence import MEASURES, planted_windows, window_spans
from helpers.experiment import TrainingData
from helpers.model import INPUT_NAMES, CompletePersonalityModel

B, TS, TD, DS, DD, HEADS, K = 3, 5, 7, 11, 13, 2, 3  # distinct primes, but for the batch


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


def network(seed: int = 1, n_targets: int = 5) -> CompletePersonalityModel:
    keras.utils.set_random_seed(seed)
    return CompletePersonalityModel(DS, DD, 8, HEADS, n_targets=n_targets)


@pytest.fixture
def inputs():
    given = tokens()
    given["dynamic_mask"][1, 5:] = False
    given["static_mask"][2, 4:] = False
    return given


def scores(model, inputs) -> np.ndarray:
    return np.asarray(model(inputs, training=False), "float64")


def test_weights_skip_masked_tokens_and_say_nothing_of_a_single_one(inputs):
    weights = get_attention_weights(network(), inputs)
    assert weights.shape == (B, HEADS, TS, TD)
    np.testing.assert_allclose(weights.sum(-1), np.tile(inputs["static_mask"][:, None], (HEADS, 1)), atol=1e-6)
    assert not weights[1, ..., 5:].any()
    inputs["dynamic_mask"][:, 1:] = False
    with pytest.warns(UserWarning, match="more than one"):
        get_attention_weights(network(), inputs)


def test_entropy_is_one_for_uniform_rows_over_real_tokens_and_zero_for_a_single_token():
    weights = np.zeros((3, HEADS, TS, TD))
    weights[0] = 1 / TD
    weights[1, :, :, 2] = 1
    weights[2, :, :2, :3] = 1 / 3
    masks = np.arange(TS)[None] < [[TS], [TS], [2]], np.arange(TD)[None] < [[TD], [TD], [3]]
    np.testing.assert_allclose(attention_entropy(weights, *masks), [[1, 1], [0, 0], [1, 1]], atol=1e-9)


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
    assert profile["attention"].tolist().count(1) == profile["attention"].sum() == 1


def test_occlusion_moves_the_answer_only_where_the_model_looks(inputs):
    baseline = np.full(DD, 4.0, "float32")
    effects = occlusion(OneTokenModel(2), inputs, baseline)
    assert effects.shape == (B, TD, 5)
    np.testing.assert_allclose(effects[:, 2, 3], 3 * (4 - inputs["dynamic"][:, 2, 0]), rtol=1e-5)
    assert not np.delete(effects, 2, axis=1).any()
    of_parts = occlusion(OneTokenModel(2), inputs, baseline, [[0, 1], [2, 3]])
    np.testing.assert_allclose(of_parts[:, 1], effects[:, 2], rtol=1e-5)
    assert not of_parts[:, 0].any()


def test_a_good_order_moves_the_answer_sooner_than_others():
    """The model reads token 2: where it goes first, all of TD + 1 steps but the first are without it."""
    inputs, baseline = tokens(), np.full(DD, 4.0, "float32")
    inputs["dynamic_mask"][1, 3:] = False  # a short clip has as many steps, of which its tokens take a share
    change = np.abs(4 - inputs["dynamic"][:, 2, 0])
    first, last = np.eye(TD)[[2] * B], -np.eye(TD)[[2] * B]
    early, late = (deletion_area(OneTokenModel(2), inputs, order, baseline, 1) for order in (first, last))
    np.testing.assert_allclose(early / change, [7 / 8, 5 / 8 + 1 / 8, 7 / 8], rtol=1e-5)
    np.testing.assert_allclose(late / change, [1 / 8, 2 / 8, 1 / 8], rtol=1e-5)


def test_shares_are_of_real_tokens_and_sum_to_one():
    found = shares(np.array([[1.0, -3.0, 5.0], [0.0, 0.0, 0.0]]), np.array([[True, True, False]] * 2))
    np.testing.assert_array_equal(found, [[0.25, 0.75, np.nan], [np.nan] * 3])


def test_relevance_sums_to_what_the_motion_did_to_the_score_where_attention_stays(inputs):
    """Keys blind to motion: the map is the same on the whole way from mean motion to the clip."""
    model = network(n_targets=K)
    model.cross_attention.key.kernel.assign(np.zeros(model.cross_attention.key.kernel.shape))
    baseline = np.linspace(-1, 1, DD).astype("float32")
    found = relevance(model, inputs, baseline)
    assert found.shape == (B, K, TS, TD)
    mean_motion = inputs | {"dynamic": np.broadcast_to(baseline, inputs["dynamic"].shape)}
    expected = scores(model, inputs) - scores(model, mean_motion)
    np.testing.assert_allclose(found.sum((2, 3)), expected, atol=0.05 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.05


def test_what_has_no_part_in_a_score_has_no_relevance(inputs):
    """Masked tokens, the mean token, and a target whose score reads nothing."""
    model, baseline = network(n_targets=K), np.zeros(DD, "float32")
    kernel = np.array(model.head.scores.kernel)
    kernel[:, 1] = 0
    model.head.scores.kernel.assign(kernel)
    inputs["dynamic"][0, 2] = baseline
    found = relevance(model, inputs, baseline)
    assert not found[1, :, :, 5:].any()
    assert not found[2, :, 4:].any()
    assert not found[:, 1].any()
    np.testing.assert_allclose(found[0, :, :, 2], 0, atol=1e-6)
    assert np.abs(found.sum(2)[0, [0, 2], 3]).min() > 0


def write_truth(folder, clips, warm_s, cool_s, window_s=1.0):
    pd.DataFrame({"key": clips, "warm_s": warm_s, "cool_s": cool_s, "window_s": window_s}).to_csv(folder / "truth.csv")


def test_a_token_is_inside_when_half_of_it_lies_in_a_window_of_its_own_clip(tmp_path):
    """Tokens of 1 s at .5, 1.5, ...; windows 1.5 to 2.5 (half of two tokens) and 4.2 to 5.2 (.8 of one)."""
    write_truth(tmp_path, ["clip1", "clip0"], [0.0, 1.5], [5.0, 4.2])
    inside = planted_windows(tmp_path, aligned(2))
    assert [np.flatnonzero(row).tolist() for row in inside] == [[1, 2, 4], [0, 5]]
    assert planted_windows(tmp_path / "none", aligned(2)) is None
    assert planted_windows(tmp_path, aligned(3)) is None  # one of them is not synthetic
    assert window_spans(tmp_path, "clip0")["cool light"] == (4.2, 5.2)
    assert window_spans(tmp_path, "another") == {}


def reads(place: int) -> CompletePersonalityModel:
    """A network that sees one motion token only: the others look like nothing special, the mean token where given."""
    model = network(3)
    attend = model.cross_attention.attend

    def attend_to_one(*given, **streams):
        streams |= dict(zip(INPUT_NAMES, given, strict=False))
        dynamic = np.asarray(streams["dynamic"])
        seen = (np.arange(dynamic.shape[1]) == place).astype("float32")[None, :, None]
        blank = dynamic[:, -1:] if dynamic.shape[1] > TD else 0.0
        return attend(**streams | {"dynamic": dynamic * seen + blank * (1 - seen)})

    model.cross_attention.attend = attend_to_one
    return model


@pytest.fixture
def bank(monkeypatch):
    """Models that rest on token 2, and controls on token 4 of their shuffled motion."""
    clips = aligned(40)
    clips.dynamic_features[:, 1] *= 9  # the most unusual motion
    monkeypatch.setattr(evidence, "rated_clips", lambda _: clips)
    monkeypatch.setattr(evidence, "load_trained", lambda _, name, __: reads(4 if "shuffled" in name else 2))
    return clips


def test_a_model_that_rests_on_what_was_planted_is_told_from_one_that_does_not(bank, tmp_path):
    write_truth(tmp_path, bank.clips, 2.0, 5.0)  # tokens 2 and 5
    found = evidence.evaluate(TrainingData(tmp_path, None, ""), TrainingConfig(seeds=[0, 1]), 3)
    assert found["trait"] == "agreeableness"
    assert found["occlusion_chance"] == pytest.approx(2 / TD)
    assert found["occlusion_pointing"] == 1
    assert found["occlusion_pointing_interval"] == [1, 1]
    low, high = found["occlusion_pointing_shuffled_interval"]
    assert low <= found["occlusion_pointing_shuffled"] <= high
    assert found["occlusion_pointing_shuffled"] < 0.7
    assert found["motion_pointing"] == 0  # token 1 is not planted
    assert [seed["seed"] for seed in found["seeds"]] == [0, 1]
    assert list(found["relevance"]) == list(TRAITS)
    for row in found["relevance"].values():
        assert row["inside"] > 0.99
        assert row["inside_shuffled"] < 0.7
    assert found["attention"]["uniform"] == pytest.approx(2 / TD)
    for deletion in (found["deletion"], found["deletion"]["control"]):
        assert deletion["interval"][0] <= deletion["value"] <= deletion["interval"][1]


def test_without_a_planted_truth_nothing_is_measured_against_it(bank, tmp_path):
    found = evidence.evaluate(TrainingData(tmp_path, None, ""), TrainingConfig(seeds=[0]), 3)
    assert found.pop("trait") == "agreeableness"
    assert found.pop("deletion")["control"]["value"] is not None
    assert found.pop("seeds") == []
    assert not any(found.values())


def test_shares_are_of_each_clips_own_weight():
    clips, inside, alike = aligned(40), np.zeros((40, TD), bool), np.ones((40, TD))
    inside[:, 0] = True
    first = alike + (TD - 2) * inside
    tests = {
        end: [evidence.Tested(clips, None, inside, {"a": weight})]
        for end, weight in (("", first), ("_shuffled", alike))
    }
    row = evidence.share_table(tests, lambda test: test.weights["a"])
    assert row["inside"] == pytest.approx(0.5)
    assert row["interval"] == pytest.approx([0.5, 0.5])
    assert [row["inside_shuffled"], row["uniform"]] == pytest.approx([1 / TD] * 2)


def test_rank_correlations_are_those_of_ranks_and_skip_what_is_missing():
    a = np.array([[1.0, 2.0, 9.0], [1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [1.0, 2.0, np.nan]])
    b = np.array([[0.1, 0.2, 0.3], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    np.testing.assert_allclose(evidence.rank_correlation(a, b), [1, -1, np.nan, np.nan])


def test_a_model_agrees_with_itself_and_not_with_other_weights():
    model, clips = network(0), aligned(20)
    clips.dynamic_mask[1, 3:] = False
    clips.static_mask[2, 2:] = False
    shown = evidence.show(model, clips, mean_motion(clips), 3)
    assert np.isnan(shown["relevance"][1]).tolist() == [False] * 3 + [True] * (TD - 3)
    assert np.isfinite(shown["attention"][2].reshape(TS, TD)).all(1).tolist() == [True, True, False, False, False]
    found = evidence.randomisation(model, {"itself": model, "other": network(7)}, clips, mean_motion(clips), 3)
    for measure in MEASURES:
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
    assert evidence.agreement(data, TrainingConfig(seeds=[0]), 3) is None  # a single seed
