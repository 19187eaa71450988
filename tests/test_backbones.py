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
        raise Exception("no answer")  # what keras.utils.get_file raises

    monkeypatch.setattr(keras.utils, "get_file", offline)
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"1 weight file.*no answer.*\n .*resnet50_weights_tf.*notop.h5 from"):
        backbones.build_backbone("resnet50", "pretrained")


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="name must be one of resnet50, resnet101, .*, got 'resnet5'"):
        backbones.build_backbone("resnet5", "random")
    with pytest.raises(
        ValueError, match="weights must be random, pretrained or a file of write_backbone, got 'imagenet'"
    ):
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


def convolutions(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]


def test_extraction_is_frozen_and_training_may_leave_the_first_convolutions_so(resnet50):
    assert resnet50.model.trainable_variables == []
    model = keras.applications.ResNet50(weights=None, include_top=False, pooling="avg")
    backbones.freeze(model, 4)
    assert [layer.trainable for layer in convolutions(model)] == [False] * 4 + [True] * 49
    fifth = model.layers.index(convolutions(model)[4])
    assert not any(layer.trainable for layer in model.layers[:fifth])
    assert all(layer.trainable for layer in model.layers[fifth:])
    assert (
        len(model.trainable_variables) == 4 * 49 + 2
    )  # kernel, bias, gamma, beta; a shortcut's norm stands behind the fifth
    backbones.freeze(model, 0)
    assert all(layer.trainable for layer in model.layers)
    backbones.freeze(model, 53)
    assert model.trainable_variables == []
    with pytest.raises(ValueError, match="n_convolutions must be 0 to 53, .* got 54. None freezes everything"):
        backbones.freeze(model, 54)


def test_frozen_variables_stay_as_they_are_in_training():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(5, 3)(inputs))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(7, 3)(x))
    model = keras.Model(inputs, x)
    backbones.freeze(model, 1)
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
    return backbones.build_backbone("vgg19", "random")


def test_weights_written_are_weights_read(tiny, tmp_path):
    tiny.model.layers[1].bias.assign([1.0, 2.0, 3.0])  # as training would
    backbones.write_backbone(tmp_path / "mine.npz", tiny)
    again = backbones.build_backbone("vgg19", str(tmp_path / "mine.npz"), frozen=1)
    assert all(map(np.array_equal, again.model.get_weights(), tiny.model.get_weights()))
    assert (again.weights.name, again.weights.source) == ("file", "mine.npz")
    assert again.weights.sha256 == weights.file_sha256(tmp_path / "mine.npz")
    assert [layer.trainable for layer in convolutions(again.model)] == [False, True]


def test_weights_of_another_network_are_refused(tiny, tmp_path):
    np.savez(tmp_path / "other.npz", **{"one/kernel": np.zeros((3, 3, 3, 3)), "two/bias": np.zeros(7)})
    with pytest.raises(ValueError, match="other.npz must hold the weights of vgg19, .* 7 of 8 arrays do not fit"):
        backbones.build_backbone("vgg19", str(tmp_path / "other.npz"))
    with pytest.raises(FileNotFoundError, match="none.npz"):
        backbones.build_backbone("vgg19", str(tmp_path / "none.npz"))
