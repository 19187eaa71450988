from dataclasses import replace

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

from helpers import backbones, stock, weights


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
    shown = frames(3)
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
    unpublished = replace(row, files=(replace(row.files[0], file_hash=None),))
    facts = stock.verify("resnet50_imagenet", unpublished)
    assert facts[1].startswith("106 layers, 318 arrays, 23,587,712 values, all finite")
    with h5py.File(path, "r+") as file:
        del file["conv5_block3_3_bn"]
    with pytest.raises(ValueError, match=r"conv5_block3_3_bn has \[\], not \[\(2048,\),"):
        stock.verify("resnet50_imagenet", unpublished)
    path.unlink()  # 94 MB


def test_published_weights_that_cannot_be_had_are_an_error(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise Exception("no answer")  # what keras.utils.get_file raises

    monkeypatch.setattr(keras.utils, "get_file", offline)
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"1 weight file.*no answer.*\n .*resnet50_weights_tf.*notop.h5\n .*from"
    ):
        backbones.build_backbone("resnet50", "pretrained")


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="name must be one of resnet50, got 'resnet5'"):
        backbones.build_backbone("resnet5", "random")
    with pytest.raises(ValueError, match="weights must be random or pretrained, got 'imagenet'"):
        backbones.build_backbone("resnet50", "imagenet")
