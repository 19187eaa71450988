"""Attention at a price: a flat start, masks, the price by hand, the warm-up, saving."""

import keras
import numpy as np
import pytest

from helpers.model import GAIN, KNOT_S, PRICE, REACH_S, CompletePersonalityModel, SalienceAttention

B, TS, TD, STATIC, DYNAMIC, HEADS, WIDTH, TARGETS = 3, 5, 7, 11, 13, 2, 34, 17


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return CompletePersonalityModel(
        STATIC, DYNAMIC, WIDTH, HEADS, n_targets=TARGETS, attention="salience", warmup_steps=1
    )


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    times = np.tile(np.arange(TD, dtype="float32") * KNOT_S, (B, 1))
    return {
        "static": rng.normal(size=(B, TS, STATIC)).astype("float32"),
        "dynamic": rng.normal(size=(B, TD, DYNAMIC)).astype("float32"),
        "static_t_s": times[:, :TS],
        "dynamic_t_s": times,
        "static_mask": np.ones((B, TS), bool),
        "dynamic_mask": np.ones((B, TD), bool),
    }


def set_bias(model: CompletePersonalityModel, lag_s: float, value: float) -> None:
    bias = np.zeros(model.cross_attention.bias.shape, "float32")
    bias[round((lag_s + REACH_S) / KNOT_S)] = value
    model.cross_attention.bias.assign(bias)


def test_every_row_starts_flat_over_the_tokens_that_are_there(model, inputs):
    inputs["dynamic_mask"][1, -3:] = False
    inputs["static_mask"][2, -1] = False
    scores, attention = (np.asarray(x) for x in model(inputs, return_attention=True))
    assert scores.shape == (B, TARGETS)
    assert attention.shape == (B, HEADS, TS, TD)
    np.testing.assert_allclose(attention[0], 1 / TD, rtol=1e-5)
    np.testing.assert_allclose(attention[1, ..., :4], 0.25, rtol=1e-5)
    assert attention[1, ..., 4:].max() == attention[2, :, -1].max() == 0


def test_a_bias_at_no_lag_looks_at_the_same_time_as_sharply_as_the_token_is_salient(model, inputs):
    layer = model.cross_attention
    layer.salience.kernel.assign(np.zeros(layer.salience.kernel.shape))
    set_bias(model, 0.0, 1 / GAIN)
    attention = np.asarray(model(inputs, return_attention=True)[1])
    logit = np.log1p(np.e)  # softplus(1)
    np.testing.assert_allclose(attention[0, 0, 2, 2], np.exp(logit) / (np.exp(logit) + TD - 1), rtol=1e-4)
    set_bias(model, KNOT_S, 1.0)  # face tokens look half a second back
    attention = np.asarray(model(inputs, return_attention=True)[1])
    assert attention[0, 0, 1:].argmax(-1).tolist() == [0, 1, 2, 3]


def test_attention_costs_its_nats_after_the_warm_up_and_never_without_training(model, inputs):
    set_bias(model, 0.0, 1.0)
    attention = np.asarray(model(inputs, return_attention=True)[1])
    assert not model.losses
    model(inputs, training=True)
    warming, naming = (float(loss) for loss in model.losses)
    assert warming == 0
    assert naming > 0
    model(inputs, training=True)
    price, naming = (float(loss) for loss in model.losses)
    nats = np.log(TD) + (attention * np.log(attention + 1e-9)).sum(-1)
    assert price == pytest.approx(PRICE * nats.mean(), rel=1e-3)
    assert naming == 0


def test_padding_changes_neither_the_scores_nor_the_losses(model, inputs):
    set_bias(model, 0.0, 0.1)
    longer = {}
    for name, x in inputs.items():
        fill = False if name.endswith("mask") else 99.0
        longer[name] = np.pad(x, [(0, 0), (0, 3), *[(0, 0)] * (x.ndim - 2)], constant_values=fill)
    np.testing.assert_allclose(np.asarray(model(longer)), np.asarray(model(inputs)), atol=1e-5)
    model.fusion.dropout.rate = 0
    losses = []
    for given in (inputs, longer):
        model.cross_attention.steps.assign(0)
        for _ in range(2):
            model(given, training=True)
            losses.append([float(loss) for loss in model.losses])
    np.testing.assert_allclose(losses[:2], losses[2:], rtol=1e-4)


def test_the_salience_model_and_its_step_count_survive_saving(model, inputs, tmp_path):
    set_bias(model, 0.0, 0.3)
    model(inputs, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.cross_attention, SalienceAttention)
    assert int(loaded.cross_attention.steps) == 1
    np.testing.assert_allclose(np.asarray(loaded(inputs)), np.asarray(model(inputs)), atol=1e-6)


def test_fitting_counts_the_steps_and_moves_the_bias(model, inputs):
    model.compile(keras.optimizers.Adam(0.01), loss="mse", steps_per_execution=2)
    labels = np.random.default_rng(1).uniform(size=(B, TARGETS)).astype("float32")
    model.fit(inputs, labels, batch_size=2, epochs=2, verbose=0)
    assert int(model.cross_attention.steps) == 4
    assert np.abs(np.asarray(model.cross_attention.bias)).max() > 0
