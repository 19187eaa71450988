"""Backbones of 03, and the extractors for scripts."""

import inspect
from dataclasses import replace
from typing import get_args

import h5py
import keras
import numpy as np
import pytest
from keras.src.applications import efficientnet_v2, resnet, vgg19
from keras.src.legacy.saving import legacy_h5_format

from helpers import backbones, config, weights
from helpers.extractors import DynamicFeatureExtractor, StaticFeatureExtractor, freeze

R = np.random.default_rng(7)
KERAS = {
    "resnet50": (resnet, "resnet50"),
    "resnet101": (resnet, "resnet101"),
    "efficientnetv2_s": (efficientnet_v2, "-s"),
    "efficientnetv2_m": (efficientnet_v2, "-m"),
}
SLOW = ("resnet101", "efficientnetv2_s", "efficientnetv2_m")


def frames(n: int, px: int = 224) -> np.ndarray:
    return R.integers(0, 256, (n, px, px, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def resnet50():
    return backbones.build_backbone("resnet50", "random")


@pytest.mark.parametrize("name", get_args(config.Backbone))
def test_files_are_those_that_keras_would_fetch(name):
    (file,) = backbones.BACKBONES[name].files
    if name == "vgg19":  # its hash stands inside the function
        assert f'file_hash="{file.file_hash}"' in inspect.getsource(vgg19.VGG19)
        assert file.url == vgg19.WEIGHTS_PATH_NO_TOP
    else:
        module, key = KERAS[name]
        assert file.file_hash == module.WEIGHTS_HASHES[key][1]
        assert file.url == module.BASE_WEIGHTS_PATH + file.name


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in backbones.BACKBONES]
)
def test_every_backbone_is_as_its_record_says_and_drawn_as_ever(name):
    backbone = backbones.build_backbone(name, "random")
    record = backbones.BACKBONES[name]
    px = record.input_px
    assert backbone.model.input_shape == (None, px, px, 3)
    assert backbone.model.output_shape == (None, record.feature_dim)
    assert backbone.weights.sha256 == weights.RANDOM_SHA256[name]
    assert not any(isinstance(layer, keras.layers.Rescaling) for layer in backbone.model.layers)
    shown = frames(2, px)
    shown[1] = np.linspace(0, 255, shown[1].size).reshape(shown[1].shape)
    seen = backbone.preprocess(shown)
    order = ["RGB".index(channel) for channel in record.preprocessing.order]
    theirs = (shown[..., order].astype(np.float64) - record.preprocessing.mean) * record.preprocessing.scale
    np.testing.assert_allclose(seen, theirs, atol=1e-4)
    if name in ("resnet50", "vgg19"):
        np.testing.assert_array_equal(seen, resnet.preprocess_input(shown.astype(np.float32)))
    rows = np.asarray(backbone.model(seen, training=False))
    assert 0.01 < rows.std() < 1000
    assert np.abs(rows[0] - rows[1]).mean() > 0.1 * np.abs(rows).mean()


def test_published_weights_are_loaded_from_the_weights_folder_unless_they_are_others(resnet50, tmp_path, monkeypatch):
    row = weights.WEIGHTS["resnet50_imagenet"]
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path))
    with h5py.File(row.path, "w") as file:  # the published file's format
        legacy_h5_format.save_weights_to_hdf5_group(file, resnet50.model)
    with pytest.raises(ValueError, match="hash"):  # put there by hand
        backbones.build_backbone("resnet50", "pretrained")
    with monkeypatch.context() as patch:
        patch.setitem(weights.WEIGHTS, "resnet50_imagenet", replace(row, files=(replace(row.files[0], file_hash=""),)))
        backbone = backbones.build_backbone("resnet50", "pretrained")
    assert all(map(np.array_equal, backbone.model.get_weights(), resnet50.model.get_weights()))
    sha256 = weights.file_sha256(row.path)
    assert backbone.weights == weights.Weights("resnet50_imagenet", row.files[0].url, sha256, row.licence)
    row.path.unlink()  # 94 MB


@pytest.mark.parametrize(
    ("act", "word"),
    [
        (lambda net: net.preprocess(frames(2) / np.float32(255)), "uint8"),
        (lambda net: net.preprocess(frames(2)[:, :100]), "224"),
        (lambda net: backbones.build_backbone("resnet5", "random"), "efficientnetv2_s"),
        (lambda net: backbones.build_backbone("resnet50", "imagenet"), "pretrained"),
        (lambda net: freeze(net.model, 54), "53"),
    ],
)
def test_what_cannot_be_is_refused(resnet50, act, word):
    with pytest.raises(ValueError, match=word):
        act(resnet50)


def test_frames_become_rows_in_their_order_and_weights_written_are_weights_read(tmp_path):
    extractor = StaticFeatureExtractor("resnet50", "random", batch_size=4)
    shown = frames(5)
    rows = extractor.extract_features(shown)
    assert (rows.shape, extractor.extract_features(shown[:0]).shape) == ((5, 2048), (0, 2048))
    expected = keras.ops.convert_to_numpy(extractor.backbone.model(extractor.backbone.preprocess(shown[3:])))
    np.testing.assert_allclose(rows[3:], expected, atol=1e-4 * expected.max())
    extractor.backbone.model.layers[2].bias.assign_add(np.ones(64))  # as training would
    path = tmp_path / "mine.weights.h5"
    extractor.save(path)
    again = StaticFeatureExtractor("resnet50", str(path), frozen=1)
    assert all(map(np.array_equal, again.backbone.model.get_weights(), extractor.backbone.model.get_weights()))
    assert (again.backbone.weights.name, again.backbone.weights.sha256) == ("file", weights.file_sha256(path))
    assert np.abs(again.extract_features(shown) - rows).max() > 0
    with pytest.raises(ValueError, match="vgg19"):
        StaticFeatureExtractor("vgg19", str(path))
    with pytest.raises(ValueError, match="uint8"):
        extractor.extract_features(shown.astype("float32") / 255)
    path.write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match="mine"):
        StaticFeatureExtractor("resnet50", str(path))


@pytest.fixture(scope="module")
def dynamic():
    return DynamicFeatureExtractor("random", "Conv3d_2c_3x3", batch_size=2)


FLOWS = np.random.default_rng(7).uniform(-1, 1, (3, 16, 32, 32, 2)).astype(np.float32)


def test_clips_of_flow_become_the_means_of_their_stage(dynamic):
    rows = dynamic.extract_features(FLOWS)
    expected = keras.ops.convert_to_numpy(dynamic.network(FLOWS)).mean(axis=(1, 2, 3))
    assert (rows.shape, dynamic.extract_features(FLOWS[:0]).shape) == ((3, 192), (0, 192))
    np.testing.assert_allclose(rows, expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize("dense_units", [0, 7])
def test_a_head_for_training_end_to_end(dynamic, dense_units):
    def trained(model):
        return {variable.path.split("/")[0] for variable in model.trainable_variables}

    model = dynamic.with_head(5, dropout_rate=0.5, dense_units=dense_units)
    assert model(FLOWS).shape == (3, 5)
    dropped = [keras.ops.convert_to_numpy(model(FLOWS, training=True)) for _ in range(2)]
    assert not np.array_equal(*dropped)
    assert trained(model) == ({"outputs", "dense"} if dense_units else {"outputs"})
    dynamic.with_head(5, frozen=2)
    assert trained(dynamic.network) == {"Conv3d_2c_3x3_conv_3d", "Conv3d_2c_3x3_batch_norm"}


def test_training_may_leave_the_first_convolutions_as_they_are(resnet50):
    model = keras.models.clone_model(resnet50.model)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    freeze(model, 4)
    assert [layer.trainable for layer in convolutions] == [False] * 4 + [True] * 49
    fifth = model.layers.index(convolutions[4])
    assert [layer.trainable for layer in model.layers] == [k >= fifth for k in range(len(model.layers))]
    freeze(model, 0)
    assert all(layer.trainable for layer in model.layers)
    freeze(model)
    assert model.trainable_variables == []
