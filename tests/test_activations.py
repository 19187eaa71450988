import keras
import numpy as np
import pytest

from helpers.backbones import build_backbone
from helpers.i3d import build_i3d, feature_map
from helpers.saliency import activations, behind, centres, energy, layer_table, stages_of, strongest_channels


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


def test_activations_are_those_of_the_network_in_any_number_of_passes(resnet):
    faces = np.random.default_rng(0).integers(0, 256, (11, 64, 64, 3)).astype(np.uint8)
    x = resnet.preprocess(faces)
    said = activations(resnet.model, x, ["conv5_block3_out", "conv1_relu"])
    assert list(said) == ["conv5_block3_out", "conv1_relu"]
    rows = keras.ops.convert_to_numpy(resnet.model(x, training=False))
    np.testing.assert_allclose(said["conv5_block3_out"].mean((1, 2)), rows, rtol=1e-3, atol=1e-4)


def test_the_stages_of_i3d_are_the_published_ones_with_their_time():
    model = build_i3d(2, endpoint="Mixed_3c")
    table = layer_table(model, (16, 32, 32, 2))
    stages = stages_of(model, table)
    assert stages == ["Conv3d_1a_7x7", "Conv3d_2c_3x3", "Mixed_3c"]
    assert table.loc["Mixed_3c", ["time", "height", "width", "channels"]].tolist() == [8, 4, 4, 480]
    x = np.random.default_rng(0).uniform(-1, 1, (2, 16, 32, 32, 2)).astype(np.float32)
    said = activations(model, x, ["Conv3d_1a_7x7"])["Conv3d_1a_7x7"]
    np.testing.assert_allclose(said, feature_map(model, x, endpoint="Conv3d_1a_7x7"), rtol=1e-4, atol=1e-5)


def test_what_follows_a_layer_ends_as_the_whole_network_does(resnet):
    x = resnet.preprocess(np.full((2, 64, 64, 3), 77, np.uint8))
    said = activations(resnet.model, x, ["conv4_block6_out"])["conv4_block6_out"]
    rest = behind(resnet.model, "conv4_block6_out")
    np.testing.assert_allclose(rest(said), resnet.model(x), rtol=1e-4, atol=1e-5)
    last = behind(resnet.model, "avg_pool")
    assert np.array_equal(last(np.ones((2, 2048))), np.ones((2, 2048)))


def test_layers_that_are_not_there_or_not_on_every_path_are_refused(resnet):
    with pytest.raises(
        ValueError, match=r"layer must be a layer of resnet50, such as .*, got 'conv9'\. See layer_table"
    ):
        activations(resnet.model, np.zeros((1, 64, 64, 3), np.float32), ["conv9"])
    with pytest.raises(
        ValueError, match=r"layer must be one that all paths of resnet50 go through, got conv4_block6_1_conv"
    ):
        behind(resnet.model, "conv4_block6_1_conv")


def test_a_stage_is_where_all_paths_meet_also_beside_squeezing_layers():
    model = keras.applications.EfficientNetV2B0(include_top=False, weights=None, input_shape=(64, 64, 3), pooling="avg")
    table = layer_table(model, (64, 64, 3))
    stages = stages_of(model, table)
    assert table.loc[stages, "height"].tolist() == [32, 16, 8, 4, 2]
    assert stages[-1] == "top_activation"


def test_the_strongest_channels_come_first_and_equal_ones_by_their_number():
    said = np.zeros((2, 3, 5))
    said[..., 3], said[..., 1], said[..., 4] = 2, 7, 2
    assert strongest_channels(said, 4).tolist() == [1, 3, 4, 0]
    assert strongest_channels(said, 99).tolist() == [1, 3, 4, 0, 2]


def test_positions_lie_in_the_middle_of_their_parts():
    assert centres(4, 8.0).tolist() == [1, 3, 5, 7]


def test_energy_is_the_root_mean_square_over_channels():
    assert energy(np.array([[[3.0, -4.0], [0.0, 0.0]]])).tolist() == [[pytest.approx(12.5**0.5), 0.0]]
