"""The fusion model: its size, its inputs, masks, time, a hand-computed attention, saving."""

import math

import keras
import numpy as np
import pytest

from helpers.model import TIME_GAIN, CompletePersonalityModel, CrossAttention, masked_mean, time_code
from helpers.variants import aligned_mlp, concat_mlp

B, TS, TD, STATIC, DYNAMIC, HEADS, WIDTH, TARGETS = 3, 5, 7, 11, 13, 2, 34, 17  # distinct primes (34 = 2 x 17)


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return CompletePersonalityModel(STATIC, DYNAMIC, WIDTH, HEADS, n_targets=TARGETS)


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    return {
        "static": rng.normal(size=(B, TS, STATIC)).astype("float32"),
        "dynamic": rng.normal(size=(B, TD, DYNAMIC)).astype("float32"),
        "static_t_s": np.sort(rng.uniform(0, 5, (B, TS))).astype("float32"),
        "dynamic_t_s": np.sort(rng.uniform(0, 5, (B, TD))).astype("float32"),
        "static_mask": np.ones((B, TS), bool),
        "dynamic_mask": np.ones((B, TD), bool),
    }


def padded(inputs: dict, extra: int) -> dict:
    """The same clips with `extra` masked tokens of large values behind each stream."""
    out = {}
    for name, x in inputs.items():
        fill = False if name.endswith("mask") else 99.0
        out[name] = np.pad(x, [(0, 0), (0, extra), *[(0, 0)] * (x.ndim - 2)], constant_values=fill)
    return out


def test_the_default_model_has_the_published_number_of_parameters():
    model = CompletePersonalityModel()
    trainable = sum(math.prod(v.shape) for v in model.trainable_variables)
    assert (model.count_params(), trainable) == (371_717, 371_461)


def test_sizes_go_where_they_belong(model, inputs):
    scores, attention = model(inputs, return_attention=True)
    assert tuple(scores.shape) == (B, TARGETS)
    assert tuple(attention.shape) == (B, HEADS, TS, TD)
    np.testing.assert_allclose(np.asarray(attention).sum(-1), 1, atol=1e-6)


def test_a_vector_is_a_sequence_of_one_token_whatever_its_time(model, inputs):
    vectors = inputs["static"][:, 0], inputs["dynamic"][:, 0]
    one = {"static": vectors[0][:, None], "dynamic": vectors[1][:, None]}
    late = one | {"static_t_s": np.full((B, 1), 40.0, "float32"), "dynamic_t_s": np.full((B, 1), 2.0, "float32")}
    expected = np.asarray(model(vectors))
    np.testing.assert_allclose(np.asarray(model(one)), expected, atol=1e-6)
    np.testing.assert_allclose(np.asarray(model(late)), expected, atol=1e-6)


def test_missing_times_are_whole_seconds(model, inputs):
    pair = {"static": inputs["static"], "dynamic": inputs["dynamic"]}
    counted = pair | {
        "static_t_s": np.tile(np.arange(TS, dtype="float32"), (B, 1)),
        "dynamic_t_s": np.tile(np.arange(TD, dtype="float32"), (B, 1)),
    }
    assert np.array_equal(np.asarray(model(pair)), np.asarray(model(counted)))
    assert not np.allclose(np.asarray(model(pair)), np.asarray(model(inputs)), atol=1e-5)


def test_attention_over_a_single_key_warns_and_is_one(model, inputs):
    with pytest.warns(UserWarning, match="single motion token is constant"):
        _, attention = model((inputs["static"], inputs["dynamic"][:, :1]), return_attention=True)
    assert np.array_equal(np.asarray(attention), np.ones((B, HEADS, TS, 1)))


def test_padding_changes_neither_scores_nor_attention(model, inputs):
    scores, attention = model(inputs, return_attention=True)
    more_scores, more_attention = model(padded(inputs, 2), return_attention=True)
    np.testing.assert_allclose(np.asarray(more_scores), np.asarray(scores), atol=1e-5)
    np.testing.assert_allclose(np.asarray(more_attention)[:, :, :TS, :TD], np.asarray(attention), atol=1e-6)
    assert not np.asarray(more_attention)[:, :, TS:].any()
    assert not np.asarray(more_attention)[..., TD:].any()


def test_padding_stays_out_of_the_batch_statistics(model, inputs):
    def mean_after_one_step(x: dict) -> np.ndarray:
        clone = CompletePersonalityModel.from_config(model.get_config())
        clone.set_weights(model.get_weights())
        clone(x, training=True)
        return np.asarray(clone.fusion.norm.moving_mean)

    np.testing.assert_allclose(mean_after_one_step(padded(inputs, 2)), mean_after_one_step(inputs), atol=1e-5)
    assert np.abs(mean_after_one_step(inputs)).max() > 0


def test_the_order_of_tokens_with_their_times_does_not_matter(model, inputs):
    order = np.random.default_rng(1).permutation(TD)
    moved = inputs | {name: inputs[name][:, order] for name in ("dynamic", "dynamic_t_s", "dynamic_mask")}
    np.testing.assert_allclose(np.asarray(model(moved)), np.asarray(model(inputs)), atol=1e-5)


def test_attention_of_one_face_token_over_two_motion_tokens_by_hand():
    """Codes at t = 0 are [0, gain]; kernels are chosen so that the logits are 1 and 0: weights e/(1+e), 1/(1+e)."""
    layer = CrossAttention(fusion_dim=2, num_heads=1)
    layer.build((1, 1, 2), (1, 2, 2))
    eye, zero = np.eye(2, dtype="float32"), np.zeros(2, "float32")
    scale = np.sqrt(2).astype("float32") / TIME_GAIN  # undoes 1 / sqrt(width) and the gain of the query's code
    first_only = np.array([[1, 0], [0, 0]], "float32")
    cosine_first = np.array([[0, 0], [scale, 0]], "float32")
    for name in ("static_projection", "dynamic_projection", "output_projection", "value"):
        getattr(layer, name).set_weights([eye, zero])
    layer.query.set_weights([cosine_first, zero])
    layer.key.set_weights([first_only, zero])
    times, mask = np.zeros((1, 2), "float32"), np.ones((1, 2), bool)
    motion = np.array([[[1, 0], [0, 3]]], "float32")
    fused, attention = layer(np.zeros((1, 1, 2), "float32"), motion, times[:, :1], times, mask[:, :1], mask)
    first = math.e / (1 + math.e)
    np.testing.assert_allclose(np.asarray(attention)[0, 0, 0], [first, 1 - first], atol=1e-6)
    read = np.array([first, 3 * (1 - first)])
    np.testing.assert_allclose(np.asarray(fused)[0, 0], (read - read.mean()) / read.std(), atol=1e-3)


def test_a_masked_key_gets_no_attention(model, inputs):
    inputs["dynamic_mask"][:, 3] = False
    _, attention = model(inputs, return_attention=True)
    assert not np.asarray(attention)[..., 3].any()
    np.testing.assert_allclose(np.asarray(attention).sum(-1), 1, atol=1e-6)


def test_a_tied_start_looks_at_its_own_time_and_an_untied_one_does_not():
    times = np.tile((np.arange(9, dtype="float32") + 0.5) * 8 / 15, (1, 1))
    x = {"static": np.zeros((1, 9, STATIC), "float32"), "dynamic": np.zeros((1, 9, DYNAMIC), "float32")}
    x |= {"static_t_s": times, "dynamic_t_s": times}

    def own_time(tied: bool) -> float:
        keras.utils.set_random_seed(1)
        _, attention = CompletePersonalityModel(STATIC, DYNAMIC, tied_start=tied)(x, return_attention=True)
        return float(np.asarray(attention).mean((0, 1)).diagonal().mean())

    assert own_time(True) > 0.25
    assert own_time(False) < 0.2


def test_time_codes_depend_on_the_difference_only_and_do_not_repeat_within_a_minute():
    times = np.arange(0, 60, 8 / 15, dtype="float32")
    code = np.asarray(time_code(times[None], 128))[0]
    likeness = code @ code.T / (code[0] @ code[0])
    np.testing.assert_allclose(likeness[1:, 1:], likeness[:-1, :-1], atol=1e-3)
    assert likeness[0, 1:].max() < 0.3


def test_the_mean_over_time_takes_only_what_the_mask_keeps():
    x = np.array([[[1, 2], [3, 4], [100, 100]], [[5, 6], [7, 8], [9, 10]]], "float32")
    mask = np.array([[True, True, False], [False, False, False]])
    np.testing.assert_array_equal(np.asarray(masked_mean(x, mask)), [[2, 3], [0, 0]])


def test_reloading_gives_equal_outputs(model, inputs, tmp_path):
    model.compile("adam", "mse")
    model.fit(inputs, np.zeros((B, TARGETS)), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(np.asarray(again(inputs)), np.asarray(model(inputs)))


def test_a_seed_repeats_the_start_and_another_gives_another(inputs):
    def scores(seed: int) -> np.ndarray:
        keras.utils.set_random_seed(seed)
        return np.asarray(CompletePersonalityModel(STATIC, DYNAMIC)(inputs))

    assert np.array_equal(scores(1), scores(1))
    assert not np.allclose(scores(1), scores(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"static": np.zeros((B, TS, 19), "float32")}, r"static must have shape \(batch, 11\).*got \(3, 5, 19\)"),
        ({"dynamic": np.zeros((B, 19), "float32")}, r"dynamic must have shape \(batch, 13\).*got \(3, 19\)"),
        ({"audio": np.zeros((B, 2), "float32")}, "none but the keys static.*got audio"),
    ],
)
def test_wrong_inputs_are_refused_with_both_sizes(model, inputs, change, message):
    with pytest.raises(ValueError, match=message):
        model(inputs | change)


def test_times_of_one_stream_alone_are_refused(model, inputs):
    del inputs["static_t_s"]
    with pytest.raises(ValueError, match="static_t_s and dynamic_t_s must be given together"):
        model(inputs)


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="fusion_dim must be a positive even number, got 7"):
        CompletePersonalityModel(fusion_dim=7)


def test_baselines_take_their_streams_and_return_the_targets(inputs):
    pooled = {name: inputs[name].mean(1) for name in ("static", "dynamic")}
    assert tuple(concat_mlp(STATIC, DYNAMIC, n_targets=TARGETS)(pooled).shape) == (B, TARGETS)
    model = aligned_mlp(STATIC, DYNAMIC, n_targets=TARGETS)
    paired = {"static": inputs["static"], "dynamic": inputs["dynamic"][:, :TS], "mask": inputs["static_mask"]}
    assert tuple(model(paired).shape) == (B, TARGETS)
    longer = padded(paired, 2)
    np.testing.assert_allclose(np.asarray(model(longer)), np.asarray(model(paired)), atol=1e-5)
