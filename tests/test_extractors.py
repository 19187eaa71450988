"""The extractors for scripts: the rows of 03 and 04, from arrays."""

import tracemalloc
from dataclasses import replace

import keras
import numpy as np
import pytest

from helpers import backbones, extractors
from helpers.extractors import DynamicFeatureExtractor, StaticFeatureExtractor
from helpers.files import file_sha256

R = np.random.default_rng(7)


@pytest.fixture(scope="module")
def dynamic() -> DynamicFeatureExtractor:
    return DynamicFeatureExtractor("random", "Conv3d_2c_3x3", batch_size=2)


def test_frames_become_rows_in_their_order(tmp_path):
    extractor = StaticFeatureExtractor("resnet50", "random", batch_size=4)
    frames = R.integers(0, 256, (5, 224, 224, 3), np.uint8)
    rows = extractor.extract_features(frames)
    assert rows.shape == (5, 2048)
    expected = keras.ops.convert_to_numpy(extractor.backbone.model(extractor.backbone.preprocess(frames[3:])))
    np.testing.assert_allclose(rows[3:], expected, atol=1e-4 * expected.max())
    assert extractor.extract_features(frames[:0]).shape == (0, 2048)
    extractor.save(tmp_path / "weights.npz")
    again = StaticFeatureExtractor("resnet50", str(tmp_path / "weights.npz"), batch_size=4)
    np.testing.assert_array_equal(again.extract_features(frames), rows)


def test_clips_of_flow_become_the_means_of_their_stage(dynamic):
    clips = R.uniform(-1, 1, (3, 16, 32, 32, 2)).astype(np.float32)
    rows = dynamic.extract_features(clips)
    expected = keras.ops.convert_to_numpy(dynamic.network(clips)).mean(axis=(1, 2, 3))
    assert rows.shape == (3, 192)
    np.testing.assert_allclose(rows, expected, atol=1e-5 * expected.max())
    assert dynamic.extract_features(clips[:0]).shape == (0, 192)


def test_memory_holds_the_means_and_no_activations(dynamic, monkeypatch):
    """40 activations of .8 MB, of which the batches on their way hold eight."""
    monkeypatch.setattr(dynamic, "_forward", lambda x: np.ones((len(x), 4, 16, 16, 192), np.float32))
    tracemalloc.start()
    rows = dynamic.extract_features(np.zeros((40, 1, 1, 1, 2), np.float32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(rows, np.ones((40, 192)))
    assert peak < 15e6


@pytest.mark.parametrize("dense_units", [0, 7])
def test_a_head_for_training_end_to_end(dynamic, dense_units):
    model = dynamic.with_head(5, dropout_rate=0.5, dense_units=dense_units)
    clips = R.uniform(-1, 1, (2, 16, 32, 32, 2)).astype(np.float32)
    assert model(clips).shape == (2, 5)
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(model(clips, training=False)) for _ in range(2)))
    dropped = [keras.ops.convert_to_numpy(model(clips, training=True)) for _ in range(2)]
    assert not np.array_equal(*dropped)
    names = {variable.path.split("/")[0] for variable in model.trainable_variables}
    assert names == ({"outputs", "dense"} if dense_units else {"outputs"})
    dynamic.with_head(5, frozen=2)
    trained = {variable.path.split("/")[0] for variable in dynamic.network.trainable_variables}
    assert trained == {"Conv3d_2c_3x3_conv_3d", "Conv3d_2c_3x3_batch_norm"}


def convolutions(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]


def test_training_may_leave_the_first_convolutions_as_they_are():
    model = keras.applications.ResNet50(weights=None, include_top=False, pooling="avg")
    extractors.freeze(model, 4)
    assert [layer.trainable for layer in convolutions(model)] == [False] * 4 + [True] * 49
    fifth = model.layers.index(convolutions(model)[4])
    assert not any(layer.trainable for layer in model.layers[:fifth])
    assert all(layer.trainable for layer in model.layers[fifth:])
    assert (
        len(model.trainable_variables) == 4 * 49 + 2
    )  # kernel, bias, gamma, beta; a shortcut's norm stands behind the fifth
    extractors.freeze(model, 0)
    assert all(layer.trainable for layer in model.layers)
    extractors.freeze(model, 53)
    assert model.trainable_variables == []
    with pytest.raises(ValueError, match="n_convolutions must be 0 to 53, .* got 54. None freezes everything"):
        extractors.freeze(model, 54)


def test_frozen_variables_stay_as_they_are_in_training():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(5, 3)(inputs))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(7, 3)(x))
    model = keras.Model(inputs, x)
    extractors.freeze(model, 1)
    before = [np.array(v) for v in model.weights]
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    model.fit(rng.standard_normal((4, 8, 8, 3)), rng.standard_normal((4, 7)), verbose=0)
    same = [np.array_equal(a, b) for a, b in zip(before, model.weights, strict=True)]
    assert same == [True] * 6 + [False] * 2  # kernel, bias, gamma, beta, mean, variance; kernel, bias


@pytest.fixture
def tiny(monkeypatch):
    """A backbone of two convolutions under the name of VGG19."""

    def build(weights, include_top, input_shape, pooling):
        inputs = keras.Input(input_shape)
        x = keras.layers.Conv2D(3, 3, strides=8, name="one")(inputs)
        x = keras.layers.BatchNormalization(name="norm")(x)
        return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(512, 3, name="two")(x)))

    row = replace(backbones.BACKBONES["vgg19"], build=build, law="glorot")
    monkeypatch.setitem(backbones.BACKBONES, "vgg19", row)
    return extractors.StaticFeatureExtractor("vgg19", "random")


def test_weights_written_are_weights_read(tiny, tmp_path):
    tiny.backbone.model.layers[1].bias.assign([1.0, 2.0, 3.0])  # as training would
    tiny.save(tmp_path / "mine.npz")
    again = extractors.StaticFeatureExtractor("vgg19", str(tmp_path / "mine.npz"), frozen=1).backbone
    assert all(map(np.array_equal, again.model.get_weights(), tiny.backbone.model.get_weights()))
    assert (again.weights.name, again.weights.source) == ("file", "mine.npz")
    assert again.weights.sha256 == file_sha256(tmp_path / "mine.npz")
    assert [layer.trainable for layer in convolutions(again.model)] == [False, True]


def test_weights_of_another_network_are_refused(tiny, tmp_path):
    np.savez(tmp_path / "other.npz", **{"one/kernel": np.zeros((3, 3, 3, 3)), "two/bias": np.zeros(7)})
    with pytest.raises(ValueError, match="other.npz must hold the weights of vgg19, .* 7 of 8 arrays do not fit"):
        extractors.read_backbone("vgg19", str(tmp_path / "other.npz"))
    with pytest.raises(FileNotFoundError, match="none.npz"):
        extractors.read_backbone("vgg19", str(tmp_path / "none.npz"))
