"""The extractors for scripts: the rows of 03 and 04, from arrays."""

import tracemalloc

import keras
import numpy as np
import pytest

from helpers.extract import DynamicFeatureExtractor, StaticFeatureExtractor

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
