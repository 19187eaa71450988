"""Attention, occlusion and relevance, on models whose answer is known and by finite differences."""

import keras
import numpy as np
import pytest

from helpers.align import Aligned
from helpers.attention import (
    _slopes,
    attention_by_lag,
    attention_by_time,
    attention_entropy,
    curves,
    delete,
    get_attention_weights,
    gradient_attention,
    occlusion,
    order_of,
    random_orders,
    relevance,
    replaced_per_step,
    step_effects,
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


def test_occlusion_moves_the_answer_only_where_the_model_looks():
    inputs = tokens()
    baseline = np.full(DD, 4.0, "float32")
    effects = occlusion(OneTokenModel(2), inputs, baseline)[..., 3]
    assert effects.shape == (B, TD)
    np.testing.assert_allclose(effects[:, 2], 3 * (4 - inputs["dynamic"][:, 2, 0]), rtol=1e-5)
    assert not np.delete(effects, 2, axis=1).any()


def test_orders_begin_with_the_most_important_real_token():
    mask = np.array([[True, True, True, False]])
    assert order_of(np.array([[0.1, 0.5, 0.2, 9.0]]), mask).tolist() == [[1, 2, 0, 3]]
    drawn = random_orders(np.tile(mask, (50, 1)), 2)
    assert (drawn[0][:, 3] == 3).all()
    assert (drawn[0] != drawn[1]).any()
    assert {tuple(sorted(row)) for row in drawn[0].tolist()} == {(0, 1, 2, 3)}


def test_short_clips_take_as_many_steps_as_long_ones():
    mask = np.arange(5)[None] < [[5], [2]]
    counts = replaced_per_step(mask)
    assert counts[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert (counts[1, 0], counts[1, -1]) == (0, 2)
    assert np.diff(counts[1]).max() == 1


def test_deletion_and_insertion_replace_what_the_order_says():
    """The model reads token 2, which comes third in every order."""
    inputs = tokens()
    baseline = np.full(DD, 4.0, "float32")
    order = np.tile([5, 0, 2, 1, 3, 4, 6], (B, 1))
    before, after = inputs["dynamic"][:, 2, 0], np.full(B, 4.0)
    deleted = delete(OneTokenModel(2), inputs, order, 1, baseline)
    inserted = delete(OneTokenModel(2), inputs, order, 1, baseline, insert=True)
    assert deleted.shape == (B, TD + 1)
    for step in range(TD + 1):
        np.testing.assert_allclose(deleted[:, step], after if step > 2 else before, rtol=1e-6)
        np.testing.assert_allclose(inserted[:, step], before if step > 2 else after, rtol=1e-6)
    effects = step_effects(deleted, order, inputs["dynamic_mask"])
    np.testing.assert_allclose(effects[:, 2], after - before, rtol=1e-5)
    assert not np.delete(effects, 2, axis=1).any()


def test_steps_of_a_short_clip_belong_to_its_real_tokens():
    inputs = tokens()
    inputs["dynamic_mask"][0, 3:] = False
    order = order_of(np.tile(np.arange(TD, 0, -1.0), (B, 1)), inputs["dynamic_mask"])
    predictions = delete(OneTokenModel(2), inputs, order, 1, np.zeros(DD, "float32"))
    effects = step_effects(predictions, order, inputs["dynamic_mask"])
    np.testing.assert_allclose(effects[:, 2], -inputs["dynamic"][:, 2, 0], rtol=1e-5)
    assert not effects[0, 3:].any()


def test_a_good_order_changes_the_answer_sooner_than_a_random_one():
    inputs = tokens()
    importance = np.zeros((B, TD))
    importance[:, 2] = 1
    mask = inputs["dynamic_mask"]
    orders = {"good": [order_of(importance, mask)], "random": random_orders(mask, 20)}
    found = curves(OneTokenModel(2), inputs, orders, 1, np.zeros(DD, "float32"))
    whole = np.abs(inputs["dynamic"][:, 2, 0])
    np.testing.assert_allclose(found["good"]["deletion"][:, 1:], np.tile(whole[:, None], TD), rtol=1e-5)
    np.testing.assert_allclose(found["good"]["insertion"][:, 1:], 0, atol=1e-6)
    assert (found["random"]["deletion"].mean(1) < found["good"]["deletion"].mean(1)).all()
    np.testing.assert_allclose(np.abs(found["random"]["effects"]).argmax(1), 2)


K = 3


@pytest.fixture
def model():
    keras.utils.set_random_seed(1)
    return CompletePersonalityModel(DS, DD, 8, HEADS, n_targets=K)


@pytest.fixture
def inputs():
    given = tokens()
    given["dynamic_mask"][1, 5:] = False
    given["static_mask"][2, 4:] = False
    return given


def scores(model, inputs, **options) -> np.ndarray:
    return np.asarray(model(inputs, training=False, **options), "float64")


def test_slopes_are_those_of_small_changes_of_one_weight(model, inputs):
    attention, slope = _slopes(model, inputs)
    assert slope.shape == (B, K, HEADS, TS, TD)
    for h, i, j in ((0, 0, 0), (1, 3, 4), (0, 2, 6)):
        delta = np.zeros(attention[:, 0].shape, "float32")
        delta[:, h, i, j] = step = 1e-3
        moved = scores(model, inputs, attention_delta=delta) - scores(model, inputs, attention_delta=-delta)
        np.testing.assert_allclose(slope[:, :, h, i, j], moved / (2 * step), rtol=0.03, atol=2e-3)
        assert np.abs(slope[:, :, h, i, j]).max() > 0.02


def test_no_delta_changes_no_score(model, inputs):
    zero = np.zeros((B, HEADS, TS, TD), "float32")
    np.testing.assert_array_equal(scores(model, inputs), scores(model, inputs, attention_delta=zero))


def test_relevance_sums_to_what_the_motion_did_to_the_score_where_attention_stays(inputs, monkeypatch):
    """Keys blind to motion: the map is the same on the whole way from mean motion to the clip."""
    keras.utils.set_random_seed(1)
    model = CompletePersonalityModel(DS, DD, 8, HEADS, n_targets=K)
    model.cross_attention.key.kernel.assign(np.zeros(model.cross_attention.key.kernel.shape))
    baseline = np.linspace(-1, 1, DD).astype("float32")
    monkeypatch.setattr("helpers.attention.STEPS", 24)
    found = relevance(model, inputs, baseline)
    assert found.shape == (B, K, TS, TD)
    mean_motion = inputs | {"dynamic": np.broadcast_to(baseline, inputs["dynamic"].shape)}
    expected = scores(model, inputs) - scores(model, mean_motion)
    np.testing.assert_allclose(found.sum((2, 3)), expected, atol=0.02 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.05


def test_masked_tokens_and_mean_tokens_have_no_relevance(model, inputs):
    baseline = np.zeros(DD, "float32")
    inputs["dynamic"][0, 2] = baseline
    found = relevance(model, inputs, baseline)
    assert not found[1, :, :, 5:].any()
    assert not found[2, :, 4:].any()
    np.testing.assert_allclose(found[0, :, :, 2], 0, atol=1e-6)
    assert np.abs(found.sum(2)[0, :, 3]).max() > 0


def test_relevance_of_a_target_is_nought_where_its_score_reads_nothing(inputs):
    keras.utils.set_random_seed(1)
    model = CompletePersonalityModel(DS, DD, 8, HEADS, n_targets=K)
    kernel = np.array(model.head.scores.kernel)
    kernel[:, 1] = 0
    model.head.scores.kernel.assign(kernel)
    for found in (relevance(model, inputs, np.zeros(DD, "float32")), gradient_attention(model, inputs)):
        assert not found[:, 1].any()
        assert found[:, 0].any()
        assert found[:, 2].any()


def test_gradient_attention_is_the_mean_positive_product(model, inputs):
    attention, slope = _slopes(model, inputs)
    found = gradient_attention(model, inputs)
    np.testing.assert_allclose(found, np.clip(attention * slope, 0, None).mean(2), atol=1e-7)
    assert found.shape == (B, K, TS, TD)
