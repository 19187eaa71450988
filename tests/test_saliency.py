import keras
import numpy as np
import pytest
from keras import layers

from helpers.i3d import build_i3d
from helpers.saliency import activations, direction_target, grad_cam
from helpers.weights import fill_random


@pytest.fixture(scope="module")
def red_and_blue():
    """A network whose first channel is the mean red of a picture, and its second the mean blue."""
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(2, 1, use_bias=False, name="colours")(inputs)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(layers.AveragePooling2D(2, name="pool")(x)))
    kernel = np.zeros((1, 1, 3, 2), np.float32)
    kernel[0, 0, 0, 0] = kernel[0, 0, 2, 1] = 1
    model.get_layer("colours").set_weights([kernel])
    return model


@pytest.fixture
def spots():
    """Red at rows 2 and 3, columns 8 and 9; blue at rows 6 and 7, columns 0 and 1."""
    pictures = np.zeros((2, 12, 12, 3), np.float32)
    pictures[0, 2:4, 8:10, 0] = 1
    pictures[:, 6:8, 0:2, 2] = 5
    return pictures


def test_the_map_lights_up_where_the_channel_comes_from(red_and_blue, spots):
    red = grad_cam(red_and_blue, spots, "pool", direction_target(np.float32([1, 0])))
    assert red.signed.shape == (2, 6, 6)
    assert np.argwhere(red.signed[0] > 0).tolist() == [[1, 4]]
    assert (red.signed[1] <= 0).all()
    assert red.value.tolist() == [pytest.approx(4 / 144), 0]
    blue = grad_cam(red_and_blue, spots, "colours", direction_target(np.float32([0, 1])))
    assert {tuple(place) for place in np.argwhere(blue.signed[1] > 0)} == {(6, 0), (6, 1), (7, 0), (7, 1)}


def test_a_direction_has_two_ends_and_each_input_may_have_its_own(red_and_blue, spots):
    seen = grad_cam(red_and_blue, spots, "pool", direction_target(np.float32([[1, -1], [0, 2]])))
    assert seen.signed[0, 1, 4] > 0 > seen.signed[0, 3, 0]
    assert seen.signed[1, 3, 0] > 0
    np.testing.assert_allclose(seen.signed.sum((1, 2)), seen.value, rtol=1e-5)  # of a sum, the map is its parts


def test_i3d_is_explained_over_space_and_time():
    model = build_i3d(2, endpoint="Conv3d_2c_3x3")
    fill_random(model, 0, "he")
    x = np.zeros((1, 16, 32, 32, 2), np.float32)
    x[0, 10:14, 4:12, 20:28] = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 2))
    direction = np.random.default_rng(1).normal(size=192).astype(np.float32)
    seen = grad_cam(model, x, "Conv3d_2c_3x3", direction_target(direction))
    said = activations(model, x, ["Conv3d_2c_3x3"])["Conv3d_2c_3x3"]
    np.testing.assert_allclose(seen.signed, said @ direction / np.prod(said.shape[1:4]), rtol=1e-3, atol=1e-7)
    early = grad_cam(
        model, x, "Conv3d_1a_7x7", direction_target(np.eye(192, dtype="float32")[said.mean((0, 1, 2, 3)).argmax()])
    )
    t, y, column = np.unravel_index(np.abs(early.signed[0]).argmax(), early.signed[0].shape)
    assert early.signed.shape == (1, 8, 16, 16)
    assert 4 <= t <= 7  # the motion is at steps 5 and 6 of 8, and these layers see 3 steps to both sides at most
    assert 0 <= y <= 8
    assert 8 <= column <= 15


def test_a_direction_of_another_space_is_refused(red_and_blue, spots):
    with pytest.raises(ValueError, match=r"direction must have the 2 channels of the features, got 3\."):
        grad_cam(red_and_blue, spots, "pool", direction_target(np.ones(3, np.float32)))
