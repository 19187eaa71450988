import hashlib
import os
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras.src.applications import resnet

from helpers import weights
from helpers.checkpoints import records


def small_model():
    inputs = keras.Input((7, 7, 3))
    x = layers.Conv2D(5, 3, name="first")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    return keras.Model(inputs, layers.Dense(11, name="last")(x))


@pytest.mark.parametrize(
    ("law", "limits", "sha256"),
    [
        (
            "glorot",
            {"first": 6 / (27 + 45), "last": 6 / (5 + 11)},
            "bdedbfda14fac9d02a71db3353097313ef91f43d84791189dcf776ffe1bce2c7",
        ),
        ("he", {"first": 6 / 27, "last": 6 / 5}, "73f48f357adc0dee0f3b37e227909e3303e306ab07f73e6e0445e4ab41c67fe2"),
    ],
)
def test_random_kernels_are_the_same_in_every_process_and_keep_to_the_law(law, limits, sha256):
    model = small_model()
    assert weights.fill_random(model, 3, law) == sha256
    assert weights.fill_random(small_model(), 3, law) == sha256
    assert weights.fill_random(small_model(), 4, law) != sha256
    for name, square in limits.items():
        kernel = np.asarray(model.get_layer(name).kernel)
        assert np.abs(kernel).max() <= np.sqrt(square)
        assert kernel.var() == pytest.approx(square / 3, rel=0.3)  # of a uniform distribution
        assert not np.asarray(model.get_layer(name).bias).any()
    assert [np.unique(value).tolist() for value in model.get_layer("norm").get_weights()] == [[1], [0], [0], [1]]


def test_an_unknown_law_is_refused():
    with pytest.raises(ValueError, match="law must be one of glorot, he, swish, got 'lecun'"):
        weights.fill_random(small_model(), 0, "lecun")


def test_random_weights_that_differ_from_the_recorded_hash_are_refused(monkeypatch):
    provenance = weights.random_weights(small_model(), "small", seed=3, law="he")
    assert provenance.as_dict() == {
        "name": "random",
        "source": "frozen generator, he, seed 3, small",
        "sha256": weights.fill_random(small_model(), 3, "he"),
        "licence": "none",
    }
    monkeypatch.setitem(weights.RANDOM_SHA256, ("small", "he", 3), "0123")
    with pytest.raises(RuntimeError, match=r"random weights of small \(he, seed 3\) must have sha256 0123, got"):
        weights.random_weights(small_model(), "small", seed=3, law="he")


def test_the_folder_of_weights_can_be_named(monkeypatch, tmp_path):
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path))
    assert weights.weights_folder() == tmp_path
    monkeypatch.delenv("OCEAN_WEIGHTS")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.weights_folder() == tmp_path / ".cache/ocean-workbook/weights"


def test_the_table_says_what_keras_says_of_resnet50():
    file = weights.WEIGHTS["resnet50_imagenet"].files[0]
    assert file.file_hash == resnet.WEIGHTS_HASHES["resnet50"][1]
    assert file.url == f"{resnet.BASE_WEIGHTS_PATH}{file.name}"


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Two published networks of one and two files whose addresses are files; an empty weights folder "mine"."""
    rows = {}
    for name, parts in {"one": ["a.h5"], "two": ["b.index", "b.data"]}.items():
        files = []
        for part in parts:
            (tmp_path / part).write_text(f"this is {part}")
            files.append(weights.PublishedFile(f"{name}/{part}", (tmp_path / part).as_uri()))
        rows[name] = replace(weights.WEIGHTS["resnet50_imagenet"], path=f"{name}/{parts[0]}", files=tuple(files))
    monkeypatch.setattr(weights, "WEIGHTS", rows)
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path / "mine"))
    return tmp_path


def test_missing_weights_are_fetched_once_and_whole(source):
    paths = weights.require(["one", "two"])
    assert paths == {"one": source / "mine/one/a.h5", "two": source / "mine/two/b.index"}
    assert (source / "mine/two/b.data").read_text() == "this is b.data"
    assert sorted(path.name for path in (source / "mine").rglob("*.*")) == [
        "a.h5", "a.h5.json", "b.data", "b.index", "b.index.json",
    ]  # fmt: skip
    record = records.read_record(weights.WEIGHTS["one"])
    assert record["files"]["one/a.h5"] == {
        "sha256": hashlib.sha256(b"this is a.h5").hexdigest(),
        "n_bytes": 12,
        "url": (source / "a.h5").as_uri(),
    }
    (source / "a.h5").unlink()
    assert weights.require(["one"]) == {"one": source / "mine/one/a.h5"}
    provenance = weights.published_weights("one")
    assert (provenance.name, provenance.sha256) == ("one", hashlib.sha256(b"this is a.h5").hexdigest())


def test_a_download_has_its_name_only_when_its_bytes_are_on_disk(source, monkeypatch):
    target, flushed = source / "mine/one/a.h5", []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append((os.fstat(handle).st_ino, target.exists())))
    assert weights.fetch(weights.WEIGHTS["one"].files[0]) == ""
    assert flushed == [(target.stat().st_ino, False), (target.parent.stat().st_ino, True)]
    assert target.read_text() == "this is a.h5"


def test_all_weights_that_cannot_be_had_are_named_in_one_error(source):
    for path in source.glob("?.*"):
        path.unlink()
    with pytest.raises(FileNotFoundError) as error:
        weights.require(["one", "two"])
    text = str(error.value)
    assert text.startswith("3 weight file(s) are missing and could not be fetched (URL fetch failure on file:")
    assert "OCEAN_WEIGHTS" in text
    for name in ("one/a.h5", "two/b.index", "two/b.data"):
        assert f"{source / 'mine' / name}\n    from {(source / name.split('/')[1]).as_uri()}" in text


def test_a_download_with_another_hash_is_not_kept(source):
    row = weights.WEIGHTS["one"]
    weights.WEIGHTS["one"] = replace(row, files=(replace(row.files[0], file_hash="0" * 64),))
    with pytest.raises(FileNotFoundError, match="Incomplete or corrupted file detected"):
        weights.require(["one"])
    assert not (source / "mine/one/a.h5").exists()


def test_unknown_weights_are_refused():
    with pytest.raises(ValueError, match="names must be of resnet50_imagenet, .* got vgg_moon"):
        weights.require(["resnet50_imagenet", "vgg_moon"])


def test_a_checkpoint_is_read_by_variable_name(tmp_path):
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "m.ckpt"), tensor_names=["a/b"], shape_and_slices=[""], tensors=[value])
    found = weights.read_tf_checkpoint(tmp_path / "m.ckpt")
    assert list(found) == ["a/b"]
    assert np.array_equal(found["a/b"], value)


def test_a_missing_or_damaged_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"m.ckpt.index and .*m.ckpt.data-\* are not both there"):
        weights.read_tf_checkpoint(tmp_path / "m.ckpt")
    value = np.arange(600, dtype=np.float32)
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "m.ckpt"), tensor_names=["a"], shape_and_slices=[""], tensors=[value])
    data = tmp_path / "m.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"m.ckpt must be a whole TensorFlow checkpoint, got"):
        weights.read_tf_checkpoint(tmp_path / "m.ckpt")


def test_a_depthwise_kernel_is_drawn_for_one_channel_of_input():
    inputs = keras.Input((5, 5, 64))
    model = keras.Model(inputs, keras.layers.DepthwiseConv2D(3, name="depthwise")(inputs))
    weights.fill_random(model, 0, "he")
    assert np.abs(model.layers[1].kernel).max() == pytest.approx(np.sqrt(6 / 9), rel=0.01)
