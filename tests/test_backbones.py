import inspect
from dataclasses import replace
from typing import get_args

import h5py
import keras
import numpy as np
import pytest
from keras.src.applications import efficientnet_v2, resnet, vgg19
from keras.src.legacy.saving import legacy_h5_format

from helpers import backbones, config, weights, weights_commands

KERAS_HASHES = {
    "resnet50": resnet.WEIGHTS_HASHES["resnet50"][1],
    "resnet101": resnet.WEIGHTS_HASHES["resnet101"][1],
    "efficientnetv2_s": efficientnet_v2.WEIGHTS_HASHES["-s"][1],
    "efficientnetv2_m": efficientnet_v2.WEIGHTS_HASHES["-m"][1],
}


@pytest.fixture(scope="module")
def resnet50():
    return backbones.build_backbone("resnet50", "random")


def frames(n):
    return np.random.default_rng(n).integers(0, 256, (n, 224, 224, 3), dtype=np.uint8)


def test_resnet50_gives_one_row_of_features_per_frame(resnet50):
    assert (resnet50.input_px, resnet50.feature_dim) == (224, 2048)
    rows = np.asarray(resnet50.model(resnet50.preprocess(frames(2)), training=False))
    assert rows.shape == (2, 2048)
    assert np.isfinite(rows).all()
    assert np.abs(rows[0] - rows[1]).max() > 0


def test_random_resnet50_is_stamped_and_the_same_each_time(resnet50):
    again = backbones.build_backbone("resnet50", "random")
    assert resnet50.weights == again.weights
    assert resnet50.weights.name == "random"
    assert resnet50.weights.sha256 == weights.RANDOM_SHA256["resnet50", "glorot", 0]
    assert all(map(np.array_equal, resnet50.model.get_weights(), again.model.get_weights()))


@pytest.mark.parametrize("name", backbones.BACKBONES)
def test_preprocessing_is_what_the_record_of_the_weights_says_and_leaves_its_input_alone(name, resnet50):
    record = weights.WEIGHTS[backbones.BACKBONES[name].published]
    shown = np.random.default_rng(3).integers(0, 256, (3, *(record.input_px,) * 2, 3), dtype=np.uint8)
    before = shown.copy()
    backbone = replace(resnet50, name=name, input_px=record.input_px)
    ours = backbone.preprocess(shown)
    order = ["RGB".index(channel) for channel in record.preprocessing.order]
    theirs = (shown[..., order].astype(np.float64) - record.preprocessing.mean) * record.preprocessing.scale
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() < 1e-4
    assert np.array_equal(shown, before)


def test_frames_that_are_not_whole_rgb_frames_are_refused(resnet50):
    with pytest.raises(
        ValueError, match=r"frames_rgb must be uint8 \(n, 224, 224, 3\), got float32 \(2, 224, 224, 3\)"
    ):
        resnet50.preprocess(frames(2) / np.float32(255))
    with pytest.raises(ValueError, match=r"got uint8 \(2, 100, 224, 3\). Pass whole RGB frames"):
        resnet50.preprocess(frames(2)[:, :100])


def test_published_weights_are_loaded_from_the_weights_folder(resnet50, tmp_path, monkeypatch):
    row = weights.WEIGHTS["resnet50_imagenet"]
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path))
    path = tmp_path / row.path
    with h5py.File(path, "w") as file:  # the published file's format
        legacy_h5_format.save_weights_to_hdf5_group(file, resnet50.model)
    backbone = backbones.build_backbone("resnet50", "pretrained")
    assert all(map(np.array_equal, backbone.model.get_weights(), resnet50.model.get_weights()))
    assert backbone.weights == weights.Weights(
        "resnet50_imagenet", row.files[0].url, weights.file_sha256(path), row.licence
    )
    unpublished = replace(row, files=(replace(row.files[0], file_hash=""),))
    monkeypatch.setitem(weights.WEIGHTS, "resnet50_imagenet", unpublished)
    assert weights_commands.verify("resnet50_imagenet").endswith("; names, shapes and finite values of resnet50")
    with h5py.File(path, "r+") as file:
        del file["conv5_block3_3_bn"]
    with pytest.raises(ValueError, match="must hold the layers of resnet50, got: .*conv5_block3_3_bn"):
        weights_commands.verify("resnet50_imagenet")
    path.unlink()  # 94 MB


def test_published_weights_that_cannot_be_had_are_an_error(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no answer")

    monkeypatch.setattr("helpers.weights.urlopen", offline)
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"1 weight file.*no answer.*\n .*resnet50_weights_tf.*notop.h5 from"):
        backbones.build_backbone("resnet50", "pretrained")


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="name must be one of resnet50, resnet101, .*, got 'resnet5'"):
        backbones.build_backbone("resnet5", "random")
    with pytest.raises(ValueError, match="weights must be random or pretrained, got 'imagenet'"):
        backbones.build_backbone("resnet50", "imagenet")


def test_the_notebook_offers_every_backbone():
    assert get_args(config.Backbone) == tuple(backbones.BACKBONES)


@pytest.mark.parametrize("name", backbones.BACKBONES)
def test_files_are_those_that_keras_would_fetch(name, monkeypatch):
    row = weights.WEIGHTS[backbones.BACKBONES[name].published]
    assert len(row.files) == 1
    if name == "vgg19":  # its hash stands inside the function
        assert f'file_hash="{row.files[0].file_hash}"' in inspect.getsource(vgg19.VGG19)
        assert row.files[0].url == vgg19.WEIGHTS_PATH_NO_TOP
    else:
        base = {"resnet": resnet, "effici": efficientnet_v2}[name[:6]].BASE_WEIGHTS_PATH
        assert row.files[0].file_hash == KERAS_HASHES[name]
        assert row.files[0].url == base + row.path
    assert row.licence.startswith(("MIT", "Apache-2.0", "CC BY 4.0"))


@pytest.fixture(
    scope="module",
    params=[
        "vgg19",
        pytest.param("resnet101", marks=pytest.mark.slow),
        pytest.param("efficientnetv2_s", marks=pytest.mark.slow),
        pytest.param("efficientnetv2_m", marks=pytest.mark.slow),
    ],
)
def backbone(request):
    return backbones.build_backbone(request.param, "random")


def test_every_backbone_is_as_its_record_says_and_drawn_as_ever(backbone):
    row = backbones.BACKBONES[backbone.name]
    record = weights.WEIGHTS[row.published]
    px = record.input_px
    assert backbone.model.input_shape == (None, px, px, 3)
    assert backbone.model.output_shape == (None, record.feature_dim)
    assert backbone.weights.sha256 == weights.RANDOM_SHA256[backbone.name, row.law, 0]
    assert not any(isinstance(layer, keras.layers.Rescaling) for layer in backbone.model.layers)
    shown = np.random.default_rng(0).integers(0, 256, (2, px, px, 3), dtype=np.uint8)
    shown[1] = np.linspace(0, 255, shown[1].size).reshape(shown[1].shape)
    rows = np.asarray(backbone.model(backbone.preprocess(shown), training=False))
    assert np.isfinite(rows).all()
    assert 0.01 < rows.std() < 1000
    assert np.abs(rows[0] - rows[1]).mean() > 0.1 * np.abs(rows).mean()


@pytest.mark.parametrize(
    ("name", "preprocess"), [("resnet50", resnet.preprocess_input), ("vgg19", vgg19.preprocess_input)]
)
def test_preprocessing_is_that_of_keras_to_the_bit(name, preprocess, resnet50):
    ours = replace(resnet50, name=name).preprocess(frames(2))
    assert np.array_equal(ours, preprocess(frames(2).astype(np.float32)))


def test_preprocessing_of_efficientnet_is_the_layer_that_keras_would_put_in_front(resnet50):
    ours = replace(resnet50, name="efficientnetv2_m").preprocess(frames(2))
    theirs = keras.layers.Rescaling(1 / 128, -1)(frames(2).astype(np.float32))
    assert np.array_equal(ours, theirs)
