import keras
import numpy as np
import pytest
from keras import layers, ops

from helpers import gradients
from helpers.gradients import gradient_of


def test_the_gradient_of_a_known_function_is_the_known_one():
    x = np.array([[1.0, -2.0], [3.0, 5.0]], np.float32)
    value, gradient = gradient_of(lambda a: ops.sum(a**3), x)
    assert value == pytest.approx((x**3).sum())
    assert gradient.dtype == np.float32
    np.testing.assert_allclose(gradient, 3 * x**2)


def test_arrays_in_a_dict_have_their_gradients_under_the_same_names():
    x = {"a": np.array([2.0, 3.0]), "b": np.array([5.0, 7.0, 11.0]), "unused": np.array([13.0])}
    value, gradient = gradient_of(lambda t: ops.sum(t["a"]) * ops.sum(t["b"]), x)
    assert value == 5 * 23
    assert {name: one.tolist() for name, one in gradient.items()} == {"a": [23] * 2, "b": [5] * 3, "unused": [0]}


def test_the_gradient_through_a_model_is_that_of_small_steps():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((7, 7, 3)), layers.Conv2D(5, 3), layers.GlobalAveragePooling2D()])
    x = np.random.default_rng(0).normal(size=(1, 7, 7, 3)).astype(np.float32)

    def score(x):
        return model(x, training=False)[0, 2]

    _, gradient = gradient_of(score, x)
    for place in ((0, 3, 3, 1), (0, 0, 6, 2)):
        step = np.zeros_like(x)
        step[place] = 0.5
        above, below = (ops.convert_to_numpy(score(x + sign * step)) for sign in (1, -1))
        assert gradient[place] == pytest.approx(above - below, rel=1e-2)


def test_the_functions_that_have_no_gradient_are_refused():
    x = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"fn must return one value, got shape \(3,\)\. Sum it"):
        gradient_of(lambda a: ops.sum(a, axis=0), x)
    with pytest.raises(ValueError, match=r"fn must depend on x, got a value without any connection"):
        gradient_of(lambda a: ops.convert_to_tensor(np.float32(ops.convert_to_numpy(a).sum())), x)


def test_gradient_agrees_with_finite_differences():
    assert gradients.check_gradient() < 1e-3


def test_a_wrong_gradient_is_seen(monkeypatch):
    right = gradients.gradient_of
    monkeypatch.setattr(gradients, "gradient_of", lambda loss, at: (0.0, 1.05 * right(loss, at)[1]))
    assert gradients.check_gradient() > 0.04
