import hashlib
import os
import re
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras.src.applications import resnet

from helpers import __main__, i3d, weights


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
    assert sorted(path.name for path in (source / "mine").rglob("*.*")) == ["a.h5", "b.data", "b.index"]
    (source / "a.h5").unlink()
    assert weights.require(["one"]) == {"one": source / "mine/one/a.h5"}
    provenance = weights.published_weights("one")
    assert (provenance.name, provenance.sha256) == ("one", hashlib.sha256(b"this is a.h5").hexdigest())


def test_a_download_has_its_name_only_when_its_bytes_are_on_disk(source, monkeypatch):
    target, flushed = source / "mine/one/a.h5", []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append((os.fstat(handle).st_ino, target.exists())))
    assert weights.fetch(weights.WEIGHTS["one"].files[0]) == ""
    assert flushed[0] == (target.stat().st_ino, False)
    assert target.read_text() == "this is a.h5"


def test_all_weights_that_cannot_be_had_are_named_in_one_error(source):
    for path in source.glob("?.*"):
        path.unlink()
    with pytest.raises(FileNotFoundError) as error:
        weights.require(["one", "two"])
    text = str(error.value)
    assert text.startswith("3 weight file(s) are missing and could not be fetched (<urlopen error")
    assert "OCEAN_WEIGHTS" in text
    for name in ("one/a.h5", "two/b.index", "two/b.data"):
        assert f"{source / 'mine' / name} from {(source / name.split('/')[1]).as_uri()}" in text


def test_a_download_with_another_hash_is_not_kept(source):
    row = weights.WEIGHTS["one"]
    weights.WEIGHTS["one"] = replace(row, files=(replace(row.files[0], file_hash="0" * 64),))
    with pytest.raises(FileNotFoundError, match="a.h5 is not the file that was published"):
        weights.require(["one"])
    assert not (source / "mine/one/a.h5").exists()


def test_a_checkpoint_is_read_by_variable_name(tmp_path):
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "m.ckpt"), tensor_names=["a/b"], shape_and_slices=[""], tensors=[value])
    found = i3d.read_tf_checkpoint(tmp_path / "m.ckpt")
    assert list(found) == ["a/b"]
    assert np.array_equal(found["a/b"], value)


def test_a_missing_or_damaged_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"m.ckpt.index and .*m.ckpt.data-\* are not both there"):
        i3d.read_tf_checkpoint(tmp_path / "m.ckpt")
    value = np.arange(600, dtype=np.float32)
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "m.ckpt"), tensor_names=["a"], shape_and_slices=[""], tensors=[value])
    data = tmp_path / "m.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"m.ckpt must be a whole TensorFlow checkpoint, got"):
        i3d.read_tf_checkpoint(tmp_path / "m.ckpt")


def test_a_depthwise_kernel_is_drawn_for_one_channel_of_input():
    inputs = keras.Input((5, 5, 64))
    model = keras.Model(inputs, keras.layers.DepthwiseConv2D(3, name="depthwise")(inputs))
    weights.fill_random(model, 0, "he")
    assert np.abs(model.layers[1].kernel).max() == pytest.approx(np.sqrt(6 / 9), rel=0.01)


def weigh(capsys, *arguments):
    """Exit status, stdout and stderr of `python -m helpers weights`."""
    status = __main__.main(["weights", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_the_list_names_file_address_licence_and_place_of_everything_and_what_is_there(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("OCEAN_WEIGHTS", "restored behind the test")
    (tmp_path / "face_detection_yunet_2023mar.onnx").write_bytes(bytes(200_000))
    status, text, _ = weigh(capsys, "list", "--folder", tmp_path)
    assert status == 0
    for name, row in weights.WEIGHTS.items():
        assert f"\n{name} " in text
        assert all(f"from     {file.url}\n    to       {tmp_path / file.name}\n" in f"{text}\n" for file in row.files)
        assert f"licence  {row.licence}" in text
    blocks = {block.split()[0]: block for block in text.split("\n\n")[1:]}
    assert "0.2 MB  here" in blocks["yunet"]
    assert "94.8 MB  not here" in blocks["resnet50_imagenet"]
    assert len(blocks) == 21  # 5 of keras.applications, 5 checkpoints, 8 files of the port, YuNet, 2 samples


def test_files_are_fetched_and_found_again(capsys, tmp_path, monkeypatch):
    (tmp_path / "there.npy").write_bytes(b"published bytes")
    row = weights.WEIGHTS["i3d_rgb_sample"]
    blob = hashlib.sha1(b"blob 15\0published bytes").hexdigest()  # git hash-object
    file = replace(row.files[0], url=(tmp_path / "there.npy").as_uri(), file_hash=blob)
    monkeypatch.setitem(weights.WEIGHTS, "i3d_rgb_sample", replace(row, files=(file,)))
    monkeypatch.setenv("OCEAN_WEIGHTS", "restored behind the test")
    said = f"i3d_rgb_sample: {file.name} sha256 {hashlib.sha256(b'published bytes').hexdigest()}\n"
    status, text, _ = weigh(capsys, "fetch", "i3d_rgb_sample", "--folder", tmp_path / "mine")
    assert status == 0
    assert text.endswith(said)
    (tmp_path / "there.npy").write_bytes(b"other bytes")
    assert weigh(capsys, "fetch", "i3d_rgb_sample")[:2] == (0, said)
    (tmp_path / "mine" / file.name).unlink()
    status, _, error = weigh(capsys, "fetch", "i3d_rgb_sample")
    assert status == 1
    assert "is not the file that was published" in error
    assert not (tmp_path / "mine" / file.name).exists()


def test_without_a_network_the_error_names_file_address_and_folder(capsys, tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no answer")

    monkeypatch.setattr("helpers.weights.urlopen", offline)
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path))
    status, _, error = weigh(capsys, "fetch", "i3d_flow_kinetics")
    assert status == 1
    assert "2 weight file(s) are missing and could not be fetched (no answer)" in error
    for file in weights.WEIGHTS["i3d_flow_kinetics"].files:
        assert f"  {tmp_path / file.name} from {file.url}\n" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fetch", "vgg_moon"], "NAME must be all or of resnet50_imagenet, .*got vgg_moon"),
        (["fetch"], "NAME must be all or of .*got nothing"),
        (["verify"], "holds no weights"),
        (
            ["verify", "yunet"],
            "face_detection_yunet_2023mar.onnx is not there. Run .* fetch yunet`, or put it there from",
        ),
        (["convert", "yunet"], "NAME must be of I3D's weights, got yunet"),
        (["convert", "i3d_flow_kinetics"], "model.ckpt.index, .*is not there"),
    ],
)
def test_what_cannot_be_done_is_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path))
    status, _, error = weigh(capsys, *arguments)
    assert status == 1
    assert error.count("\n") == 1
    assert re.search(message, error)


@pytest.mark.parametrize("law", ["md5", "sha256"])
def test_published_hashes_are_compared(capsys, tmp_path, monkeypatch, law):
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path))
    row = weights.WEIGHTS["i3d_flow_sample"]
    np.save(tmp_path / row.path, np.zeros((1, 2, 3), np.float32))
    digest = hashlib.new(law, (tmp_path / row.path).read_bytes()).hexdigest()
    for said, status in ((digest, 0), (digest[:-1] + "x", 1)):
        file = replace(row.files[0], file_hash=said)
        monkeypatch.setitem(weights.WEIGHTS, "i3d_flow_sample", replace(row, files=(file,)))
        found, text, error = weigh(capsys, "verify", "i3d_flow_sample")
        assert found == status
        assert (": well: " in text, f"must have the published hash {said}" in error) == (not status, bool(status))


def test_the_table_is_read_without_any_backend():
    code = "import sys, helpers.faces; assert not {'keras', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
