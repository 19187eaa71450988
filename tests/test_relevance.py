"""Relevance of looks: slopes against finite differences, sums against scores, masks, and traits told apart."""

import keras
import numpy as np
import pytest
from test_attention import DD, DS, HEADS, TD, TS, B, tokens

from helpers.attention import _slopes, gradient_attention, per_motion_token, relevance
from helpers.model import CompletePersonalityModel

K = 3


@pytest.fixture(params=["content", "salience"])
def model(request):
    keras.utils.set_random_seed(1)
    return CompletePersonalityModel(DS, DD, 8, HEADS, n_targets=K, attention=request.param)


@pytest.fixture
def inputs():
    given = tokens()
    given["dynamic_mask"][1, 5:] = False
    given["static_mask"][2, 4:] = False
    return given


def scores(model, inputs, **options) -> np.ndarray:
    return np.asarray(model(inputs, training=False, **options), "float64")


def test_slopes_are_those_of_small_changes_of_one_weight(model, inputs):
    attention, slope = _slopes(model, inputs, K)
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


def test_relevance_sums_to_what_the_motion_did_to_the_score_where_attention_stays(inputs):
    """Keys blind to motion: the map is the same on the whole way from mean motion to the clip."""
    keras.utils.set_random_seed(1)
    model = CompletePersonalityModel(DS, DD, 8, HEADS, n_targets=K)
    model.cross_attention.key.kernel.assign(np.zeros(model.cross_attention.key.kernel.shape))
    baseline = np.linspace(-1, 1, DD).astype("float32")
    found = relevance(model, inputs, baseline, steps=24)
    assert found.shape == (B, K, TS, TD)
    mean_motion = inputs | {"dynamic": np.broadcast_to(baseline, inputs["dynamic"].shape)}
    expected = scores(model, inputs) - scores(model, mean_motion)
    np.testing.assert_allclose(found.sum((2, 3)), expected, atol=0.02 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.05


def test_masked_tokens_and_mean_tokens_have_no_relevance(model, inputs):
    baseline = np.zeros(DD, "float32")
    inputs["dynamic"][0, 2] = baseline
    found = relevance(model, inputs, baseline, steps=2)
    assert not found[1, :, :, 5:].any()
    assert not found[2, :, 4:].any()
    np.testing.assert_allclose(found[0, :, :, 2], 0, atol=1e-6)
    assert np.abs(per_motion_token(found)[0, :, 3]).max() > 0


def test_relevance_of_a_target_is_nought_where_its_score_reads_nothing(inputs):
    keras.utils.set_random_seed(1)
    model = CompletePersonalityModel(DS, DD, 8, HEADS, n_targets=K)
    kernel = np.array(model.head.scores.kernel)
    kernel[:, 1] = 0
    model.head.scores.kernel.assign(kernel)
    for found in (relevance(model, inputs, np.zeros(DD, "float32"), steps=2), gradient_attention(model, inputs)):
        assert not found[:, 1].any()
        assert found[:, 0].any()
        assert found[:, 2].any()


def test_gradient_attention_is_the_mean_positive_product(model, inputs):
    attention, slope = _slopes(model, inputs, K)
    found = gradient_attention(model, inputs)
    np.testing.assert_allclose(found, np.clip(attention * slope, 0, None).mean(2), atol=1e-7)
    assert found.shape == (B, K, TS, TD)


def test_no_steps_are_refused(model, inputs):
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        relevance(model, inputs, np.zeros(DD, "float32"), steps=0)
