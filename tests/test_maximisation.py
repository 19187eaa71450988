import keras
import numpy as np
import pytest

from helpers.backbones import build_backbone
from helpers.i3d import build_motion_network
from helpers.saliency import from_pixels, maximise, noise


@pytest.fixture(scope="module")
def resnet():
    return build_backbone("resnet50", "random", input_px=32)


def climb(resnet, **options):
    start = noise((3, 32, 32, 3), 0, 255)
    how = {"low": 0, "high": 255, "prepare": from_pixels(resnet), "steps": 6} | options
    return start, maximise(resnet.model, "conv2_block3_out", [2, 5, 7], start, **how)


def test_the_activation_of_every_channel_rises_by_a_large_factor(resnet):
    start, found = climb(resnet)
    assert found.inputs.shape == start.shape
    assert found.inputs.min() >= 0
    assert found.inputs.max() <= 255
    assert (found.before > 0).all()
    assert (found.after > 3 * found.before).all()
    assert np.array_equal(climb(resnet)[1].inputs, found.inputs)  # all chance is seeded


def test_what_is_reported_is_the_activation_of_the_pictures_own_channel(resnet):
    start, found = climb(resnet, steps=1)
    tapped = keras.Model(resnet.model.input, resnet.model.get_layer("conv2_block3_out").output)
    for pictures, said in ((start, found.before), (found.inputs, found.after)):
        x = np.asarray(from_pixels(resnet)(pictures))
        mean = np.asarray(tapped(x, training=False)).mean((1, 2))
        np.testing.assert_allclose(said, [mean[0, 2], mean[1, 5], mean[2, 7]], rtol=1e-4)


def test_pixels_are_prepared_as_extraction_prepares_them(resnet):
    faces = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    np.testing.assert_allclose(from_pixels(resnet)(faces.astype(np.float32)), resnet.preprocess(faces), atol=1e-4)


def test_a_blur_leaves_less_fine_grain(resnet):
    grain = [np.abs(np.diff(climb(resnet, blur_px=sigma, steps=3)[1].inputs, axis=2)).mean() for sigma in (0, 2)]
    assert grain[1] < 0.8 * grain[0]


def test_flow_is_found_for_channels_of_i3d_within_its_bounds():
    network, _ = build_motion_network("random", "Conv3d_1a_7x7")
    start = noise((2, 9, 16, 16, 2), -1, 1)
    found = maximise(network, "Conv3d_1a_7x7", [0, 1], start, low=-1, high=1, steps=4)
    assert found.inputs.shape == start.shape
    assert np.abs(found.inputs).max() <= 1
    assert (found.after > 2 * found.before).all()


def test_channels_that_are_not_there_are_refused(resnet):
    with pytest.raises(ValueError, match=r"channels must be 0 to 255, those of conv2_block3_out, got \[256\]\."):
        maximise(resnet.model, "conv2_block3_out", [256], noise((1, 32, 32, 3), 0, 255), low=0, high=255)
    with pytest.raises(ValueError, match=r"start must have one input per channel, 2, got 1\. Repeat it\."):
        maximise(resnet.model, "conv2_block3_out", [0, 1], noise((1, 32, 32, 3), 0, 255), low=0, high=255)
