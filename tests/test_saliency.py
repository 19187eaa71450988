"""What networks see: layers, activations, Grad-CAM, inputs found by ascent, gradients."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from helpers import gradients
from helpers.backbones import build_backbone
from helpers.gradients import gradient_of
from helpers.i3d import build_i3d, build_motion_network, feature_map
from helpers.saliency import (
    activations,
    centres,
    energy,
    from_pixels,
    grad_cam,
    layer_table,
    maximise,
    stages_of,
    strongest_channels,
)
from helpers.weights import fill_random


@pytest.fixture(scope="module")
def resnet():
    return build_backbone("resnet50", "random", input_px=64)


def test_the_table_lists_layers_with_the_shapes_that_they_have(resnet):
    table = layer_table(resnet.model, (64, 64, 3))
    stages = stages_of(resnet.model, table)
    ends = ["conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out"]
    assert stages == ends
    said = activations(resnet.model, np.zeros((1, 64, 64, 3), np.float32), stages)
    assert [one.shape[1:] for one in said.values()] == list(
        table.loc[stages, ["height", "width", "channels"]].itertuples(index=False, name=None)
    )
    assert "avg_pool" not in table.index  # it has no positions
    assert table.loc["conv1_conv", "parameters"] == 7 * 7 * 3 * 64 + 64


def test_the_stages_of_i3d_are_the_published_ones_with_their_time():
    model = build_i3d(2, endpoint="Mixed_3c")
    table = layer_table(model, (16, 32, 32, 2))
    assert stages_of(model, table) == ["Conv3d_1a_7x7", "Conv3d_2c_3x3", "Mixed_3c"]
    assert table.loc["Mixed_3c", ["time", "height", "width", "channels"]].tolist() == [8, 4, 4, 480]
    x = np.random.default_rng(0).uniform(-1, 1, (2, 16, 32, 32, 2)).astype(np.float32)
    said = activations(model, x, ["Conv3d_1a_7x7"])["Conv3d_1a_7x7"]
    np.testing.assert_allclose(said, feature_map(model, x, endpoint="Conv3d_1a_7x7"), rtol=1e-4, atol=1e-5)


def test_a_stage_is_where_all_paths_meet_also_beside_squeezing_layers():
    model = keras.applications.EfficientNetV2B0(include_top=False, weights=None, input_shape=(64, 64, 3), pooling="avg")
    table = layer_table(model, (64, 64, 3))
    stages = stages_of(model, table)
    assert table.loc[stages, "height"].tolist() == [32, 16, 8, 4, 2]
    assert stages[-1] == "top_activation"


def test_activations_are_those_of_the_network_in_any_number_of_passes(resnet):
    faces = np.random.default_rng(0).integers(0, 256, (11, 64, 64, 3)).astype(np.uint8)
    x = resnet.preprocess(faces)
    said = activations(resnet.model, x, ["conv5_block3_out", "conv1_relu"])
    assert list(said) == ["conv5_block3_out", "conv1_relu"]
    rows = keras.ops.convert_to_numpy(resnet.model(x, training=False))
    np.testing.assert_allclose(said["conv5_block3_out"].mean((1, 2)), rows, rtol=1e-3, atol=1e-4)


def test_what_is_taken_of_activations():
    said = np.zeros((2, 3, 5))
    said[..., 3], said[..., 1], said[..., 4] = 2, 7, 2
    assert strongest_channels(said, 4).tolist() == [1, 3, 4, 0]  # equal ones by their number
    assert centres(4, 8.0).tolist() == [1, 3, 5, 7]
    assert energy(np.array([[[3.0, -4.0], [0.0, 0.0]]])).tolist() == [[pytest.approx(12.5**0.5), 0.0]]


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


def test_the_map_lights_up_where_the_direction_comes_from(red_and_blue):
    """Red at rows 2 and 3, columns 8 and 9; blue at rows 6 and 7, columns 0 and 1."""
    spots = np.zeros((2, 12, 12, 3), np.float32)
    spots[0, 2:4, 8:10, 0] = 1
    spots[:, 6:8, 0:2, 2] = 5
    red = grad_cam(red_and_blue, spots, "pool", np.float32([1, 0]))
    assert red.shape == (2, 6, 6)
    assert np.argwhere(red[0] > 0).tolist() == [[1, 4]]
    assert (red[1] <= 0).all()
    assert red[0].sum() == pytest.approx(4 / 144)  # of a mean, the map is its parts
    both = grad_cam(red_and_blue, spots, "pool", np.float32([[1, -1], [0, 2]]))  # each input has its own
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
    assert 4 <= t <= 7  # the motion is at steps 5 and 6 of 8, and these layers see 3 steps to both sides at most
    assert 0 <= y <= 8
    assert 8 <= column <= 15


def test_layers_that_are_not_there_or_not_on_every_path_and_other_spaces_are_refused(resnet, red_and_blue):
    x = np.zeros((1, 64, 64, 3), np.float32)
    with pytest.raises(ValueError, match="conv9"):
        activations(resnet.model, x, ["conv9"])
    with pytest.raises(ValueError, match="conv4_block6_1_conv"):
        grad_cam(resnet.model, x, "conv4_block6_1_conv", np.ones(2048))
    with pytest.raises(Exception, match="3"):
        grad_cam(red_and_blue, np.zeros((2, 12, 12, 3), np.float32), "pool", np.ones(3, np.float32))


def test_the_activation_of_every_channel_rises_within_the_bounds(resnet):
    layer, channels = "conv2_block3_out", [2, 5, 7]
    how = {"low": 0, "high": 255, "prepare": from_pixels(resnet)}
    found, before, after = maximise(resnet.model, layer, channels, (64, 64, 3), steps=6, **how)
    assert found.shape == (3, 64, 64, 3)
    assert 0 <= found.min() <= found.max() <= 255
    assert (before > 0).all()
    assert (after > 3 * before).all()
    said = activations(resnet.model, np.asarray(from_pixels(resnet)(found)), [layer])[layer].mean((1, 2))
    np.testing.assert_allclose(after, said[[0, 1, 2], channels], rtol=1e-4)  # of the picture's own channel
    short, grain = {"steps": 3} | how, []
    for sigma in (0.3, 2):
        pictures, *_ = maximise(resnet.model, layer, channels, (64, 64, 3), blur_px=sigma, **short)
        grain.append(np.abs(np.diff(pictures, axis=2)).mean())
    assert grain[1] < 0.8 * grain[0]


def test_pixels_are_prepared_as_extraction_prepares_them(resnet):
    faces = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    np.testing.assert_allclose(from_pixels(resnet)(faces.astype(np.float32)), resnet.preprocess(faces), atol=1e-4)


def test_flow_is_found_for_channels_of_i3d_within_its_bounds():
    network, _ = build_motion_network("random", "Conv3d_1a_7x7")
    found, before, after = maximise(network, "Conv3d_1a_7x7", [0, 1], (9, 16, 16, 2), low=-1, high=1, steps=4)
    assert found.shape == (2, 9, 16, 16, 2)
    assert np.abs(found).max() <= 1
    assert (after > 2 * before).all()


def test_the_gradient_of_a_known_function_is_the_known_one():
    x = np.array([[1.0, -2.0], [3.0, 5.0]], np.float32)
    value, gradient = gradient_of(lambda a: ops.sum(a**3), x)
    assert value == pytest.approx((x**3).sum())
    assert gradient.dtype == np.float32
    np.testing.assert_allclose(gradient, 3 * x**2)
    with pytest.raises(ValueError, match="connection"):
        gradient_of(lambda a: ops.convert_to_tensor(np.float32(ops.convert_to_numpy(a).sum())), x)


def test_gradients_agree_with_finite_differences_and_a_wrong_one_is_seen(monkeypatch):
    assert gradients.check_gradient() < 1e-3
    right = gradients.gradient_of
    monkeypatch.setattr(gradients, "gradient_of", lambda loss, at: (0.0, 1.05 * right(loss, at)[1]))
    assert gradients.check_gradient() > 0.04
