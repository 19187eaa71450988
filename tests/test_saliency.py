"""What networks see: layers, activations, Grad-CAM, inputs found by ascent, gradients."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from helpers import saliency
from helpers.backbones import BACKBONES, build_backbone
from helpers.i3d import build_i3d
from helpers.saliency import activations, grad_cam, gradient_of, layer_table, maximise, stages_of
from helpers.weights import fill_random


@pytest.fixture(scope="module")
def resnet():
    return build_backbone("resnet50", "random", input_px=64)


def test_the_table_lists_layers_with_the_shapes_that_they_have(resnet):
    table = layer_table(resnet.model, (64, 64, 3))
    stages = stages_of(resnet.model, table)
    assert stages == ["conv1_relu", *(f"conv{k}_block{n}_out" for k, n in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True))]
    x = resnet.preprocess(np.random.default_rng(0).integers(0, 256, (11, 64, 64, 3)).astype(np.uint8))
    said = activations(resnet.model, x, stages)
    sizes = table.loc[stages, ["height", "width", "channels"]].to_numpy().tolist()
    assert [list(one.shape[1:]) for one in said.values()] == sizes
    rows = ops.convert_to_numpy(resnet.model(x, training=False))
    np.testing.assert_allclose(said["conv5_block3_out"].mean((1, 2)), rows, rtol=1e-3, atol=1e-4)
    assert "avg_pool" not in table.index  # it has no positions
    assert table.loc["conv1_conv", "parameters"] == 7 * 7 * 3 * 64 + 64


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_each_backbone_has_five_stages_or_more_that_halve_the_picture(name):
    model = build_backbone(name, "random", input_px=64).model
    table = layer_table(model, (64, 64, 3))
    assert table.loc[stages_of(model, table), "height"].tolist()[-5:] == [32, 16, 8, 4, 2]


def test_the_stages_of_i3d_are_the_published_ones_with_their_time():
    model = build_i3d(2, endpoint="Mixed_3c")
    table = layer_table(model, (16, 32, 32, 2))
    assert stages_of(model, table) == ["Conv3d_1a_7x7", "Conv3d_2c_3x3", "Mixed_3c"]
    assert table.loc["Mixed_3c", ["time", "height", "width", "channels"]].tolist() == [8, 4, 4, 480]


def test_what_is_taken_of_activations():
    said = np.zeros((2, 3, 5))
    said[..., 3], said[..., 1], said[..., 4] = 2, 7, 2
    assert saliency.strongest_channels(said, 4).tolist() == [1, 3, 4, 0]  # equal ones by their number
    assert saliency.centres(4, 8.0).tolist() == [1, 3, 5, 7]
    assert saliency.energy(np.array([[[3.0, -4.0], [0.0, 0.0]]])).tolist() == [[pytest.approx(12.5**0.5), 0.0]]


def test_the_map_lights_up_where_the_direction_comes_from():
    """Channels are mean red and mean blue. Red at rows 2 and 3, columns 8 and 9; blue at rows 6 and 7, columns 0, 1."""
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(2, 1, use_bias=False, name="colours")(inputs)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(layers.AveragePooling2D(2, name="pool")(x)))
    kernel = np.zeros((1, 1, 3, 2), np.float32)
    kernel[0, 0, 0, 0] = kernel[0, 0, 2, 1] = 1
    model.get_layer("colours").set_weights([kernel])
    spots = np.zeros((2, 12, 12, 3), np.float32)
    spots[0, 2:4, 8:10, 0] = 1
    spots[:, 6:8, 0:2, 2] = 5
    red = grad_cam(model, spots, "pool", np.float32([1, 0]))
    assert red.shape == (2, 6, 6)
    assert np.argwhere(red[0] > 0).tolist() == [[1, 4]]
    assert (red[1] <= 0).all()
    assert red[0].sum() == pytest.approx(4 / 144)  # of a mean, the map is its parts
    both = grad_cam(model, spots, "pool", np.float32([[1, -1], [0, 2]]))  # each input has its own
    assert both[0, 1, 4] > 0 > both[0, 3, 0]
    assert both[1, 3, 0] > 0


def test_i3d_is_explained_over_space_and_time():
    model = build_i3d(2, endpoint="Conv3d_2c_3x3")
    fill_random(model, 0, "he")
    x = np.zeros((1, 16, 32, 32, 2), np.float32)
    x[0, 10:14, 4:12, 20:28] = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 2))
    direction = np.random.default_rng(1).normal(size=192).astype(np.float32)
    said = activations(model, x, ["Conv3d_2c_3x3"])["Conv3d_2c_3x3"]
    last = grad_cam(model, x, "Conv3d_2c_3x3", direction)
    np.testing.assert_allclose(last, said @ direction / np.prod(said.shape[1:4]), rtol=1e-3, atol=1e-7)
    strongest = np.eye(192, dtype="float32")[said.mean((0, 1, 2, 3)).argmax()]
    early = grad_cam(model, x, "Conv3d_1a_7x7", strongest)[0]
    t, y, column = np.unravel_index(np.abs(early).argmax(), early.shape)
    assert early.shape == (8, 16, 16)
    assert (4 <= t <= 7, y <= 8, column >= 8) == (True,) * 3  # the motion is at 5 and 6 of 8; layers see 3 to each side


def test_the_activation_of_every_channel_rises_within_the_bounds(resnet):
    layer, channels = "conv2_block3_out", [2, 5, 7]
    how = {"low": 0, "high": 255, "prepare": resnet.prepare, "steps": 4}
    found, before, after = maximise(resnet.model, layer, channels, (64, 64, 3), **how)
    assert found.shape == (3, 64, 64, 3)
    assert 0 <= found.min() <= found.max() <= 255
    assert (after > 2 * before).all()
    said = activations(resnet.model, np.asarray(resnet.prepare(found)), [layer])[layer].mean((1, 2))
    np.testing.assert_allclose(after, said[[0, 1, 2], channels], rtol=1e-4)  # of the picture's own channel


def test_the_gradient_of_a_known_function_is_the_known_one():
    x = np.array([[1.0, -2.0], [3.0, 5.0]], np.float32)
    value, gradient = gradient_of(lambda a: ops.sum(a**3), x)
    assert value == pytest.approx((x**3).sum())
    assert gradient.dtype == np.float32
    np.testing.assert_allclose(gradient, 3 * x**2)
    with pytest.raises(ValueError, match="connection"):
        gradient_of(lambda a: ops.convert_to_tensor(np.float32(ops.convert_to_numpy(a).sum())), x)
    assert saliency.check_gradient() < 1e-3
