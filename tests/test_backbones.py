"""Backbones of 03 and extractors for scripts; weights: random by law, or fetched, verified and refused by name."""

import hashlib
import inspect
import shutil
from dataclasses import replace
from typing import get_args

import h5py
import keras
import numpy as np
import pytest
from keras.src.applications import efficientnet_v2, resnet, vgg19
from keras.src.legacy.saving import legacy_h5_format

from helpers import __main__, backbones, config, weights
from helpers.extractors import DynamicFeatureExtractor, StaticFeatureExtractor, freeze

R = np.random.default_rng(7)
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
        module, key = (resnet, name) if name.startswith("resnet") else (efficientnet_v2, f"-{name[-1]}")
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
        (lambda net: backbones.build_backbone("resnet50", "random", input_px=16), "32 px or more"),
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


def test_clips_of_flow_become_the_means_of_their_stage_and_a_head_is_trained_behind_it():
    dynamic = DynamicFeatureExtractor("random", "Conv3d_2c_3x3", batch_size=2)
    flows = R.uniform(-1, 1, (3, 16, 32, 32, 2)).astype(np.float32)
    rows = dynamic.extract_features(flows)
    expected = keras.ops.convert_to_numpy(dynamic.network(flows)).mean(axis=(1, 2, 3))
    assert (rows.shape, dynamic.extract_features(flows[:0]).shape) == ((3, 192), (0, 192))
    np.testing.assert_allclose(rows, expected, atol=1e-5 * expected.max())
    third = {"Conv3d_2c_3x3_conv_3d", "Conv3d_2c_3x3_batch_norm"}
    for units, frozen, trained in ((0, None, {"outputs"}), (7, 2, {"outputs", "dense"} | third)):
        model = dynamic.with_head(5, dropout_rate=0.5, dense_units=units, frozen=frozen)
        assert {variable.path.split("/")[0] for variable in model.trainable_variables} == trained
        assert model(flows).shape == (3, 5)
        assert not np.array_equal(*(np.asarray(model(flows, training=True)) for _ in range(2)))  # it drops out


def test_training_may_leave_the_first_convolutions_as_they_are(resnet50):
    model = keras.models.clone_model(resnet50.model)
    convolutions = [k for k, layer in enumerate(model.layers) if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) == 53
    freeze(model, 4)
    assert [layer.trainable for layer in model.layers] == [k >= convolutions[4] for k in range(len(model.layers))]
    freeze(model, 0)
    assert all(layer.trainable for layer in model.layers)
    freeze(model)
    assert model.trainable_variables == []


def small_model() -> keras.Model:
    inputs = keras.Input((7, 7, 3))
    x = keras.layers.Conv2D(5, 3, name="first")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    return keras.Model(
        inputs, keras.layers.Dense(11, name="last")(keras.layers.DepthwiseConv2D(3, name="depthwise")(x))
    )


@pytest.mark.parametrize(
    ("law", "squares"),
    [
        ("glorot", {"first": 6 / (27 + 45), "last": 6 / (5 + 11)}),
        ("he", {"first": 6 / 27, "last": 6 / 5, "depthwise": 6 / 9}),  # depthwise: one channel of input
        ("swish", {"first": 4.4 / 27, "last": 4.4 / 5, "depthwise": 4.4 / 9}),
    ],
)
def test_random_kernels_keep_to_their_law_and_others_than_ever_are_refused(law, squares, monkeypatch):
    model = small_model()
    assert weights.fill_random(model, 3, law) == weights.fill_random(small_model(), 3, law)
    assert weights.fill_random(small_model(), 4, law) != weights.fill_random(small_model(), 3, law)
    for name, square in squares.items():
        kernel = np.asarray(model.get_layer(name).kernel)
        assert 0.8 * np.sqrt(square) < np.abs(kernel).max() <= np.sqrt(square)
        assert not np.asarray(model.get_layer(name).bias).any()
    assert [np.unique(value).tolist() for value in model.get_layer("norm").get_weights()] == [[1], [0], [0], [1]]
    monkeypatch.setitem(weights.RANDOM_SHA256, "small", "0123")
    with pytest.raises(RuntimeError, match="0123"):
        weights.random_weights(small_model(), "small", law)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Published files "one" (a.h5) and "two" (b.index, b.data) whose addresses are files; an empty folder "mine"."""
    for name, parts in {"one": ["a.h5"], "two": ["b.index", "b.data"]}.items():
        for part in parts:
            (tmp_path / part).write_text(f"this is {part}")
        files = tuple(weights.PublishedFile(f"{name}/{part}", (tmp_path / part).as_uri()) for part in parts)
        monkeypatch.setitem(weights.WEIGHTS, name, replace(weights.WEIGHTS["yunet"], files=files))
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path / "mine"))
    return tmp_path


def test_missing_weights_are_fetched_once_and_whole_or_all_named_in_one_error(source):
    weights.require(["one", "two"])
    assert (source / "mine/two/b.data").read_text() == "this is b.data"
    assert sorted(path.name for path in (source / "mine").rglob("*.*")) == ["a.h5", "b.data", "b.index"]
    assert weights.WEIGHTS["one"].path == source / "mine/one/a.h5"
    assert weights.WEIGHTS["two"].path == source / "mine/two/b"
    for path in source.glob("?.*"):
        path.unlink()
    weights.require(["one", "two"])
    assert weights.published_weights("one").name == "one"
    shutil.rmtree(source / "mine")
    with pytest.raises(FileNotFoundError, match="OCEAN_WEIGHTS") as error:
        weights.require(["one", "two"])
    for name in ("one/a.h5", "two/b.index", "two/b.data"):
        assert f"{source / 'mine' / name} from {(source / name.split('/')[1]).as_uri()}" in str(error.value)


TEXT = b"this is a.h5"
SHA256 = hashlib.sha256(TEXT).hexdigest()


@pytest.mark.parametrize(
    "digest",  # the last one is git's of a blob
    [hashlib.md5(TEXT).hexdigest(), SHA256, hashlib.sha1(b"blob 12\0" + TEXT).hexdigest()],
    ids=["md5", "sha256", "blob"],
)
def test_a_file_with_another_hash_is_neither_kept_nor_accepted(source, monkeypatch, digest):
    row = weights.WEIGHTS["one"]
    others, ours = ((replace(row.files[0], file_hash=one),) for one in ("0" * len(digest), digest))
    monkeypatch.setitem(weights.WEIGHTS, "one", replace(row, files=others))
    with pytest.raises(FileNotFoundError, match="is not the file that was published"):
        weights.require(["one"])
    assert not row.path.exists()
    monkeypatch.setitem(weights.WEIGHTS, "one", replace(row, files=ours))
    weights.require(["one"])
    assert weights.published_weights("one").sha256 == SHA256
    row.path.write_text("this is b.h5")  # put there by hand
    with pytest.raises(ValueError, match="published hash"):
        weights.published_weights("one")


def test_the_command_lists_fetches_and_verifies_in_the_folder_named_or_says_in_a_line_why_not(capsys, source):
    other = ["--folder", str(source / "other")]
    __main__.main(["weights", "list", *other])
    text = capsys.readouterr().out
    for name, row in weights.WEIGHTS.items():
        places = [part for file in row.files for part in (file.url, f"other/{file.name}")]
        assert all(part in text for part in (name, row.licence, *places))
    for arguments, word in (("fetch vgg_moon", "vgg_moon"), ("verify", "NAME"), ("verify yunet", "yunet_2023mar.onnx")):
        assert __main__.main(["weights", *arguments.split(), *other]) == 1
        error = capsys.readouterr().err
        assert (error.count("\n"), word in error) == (1, True)
    assert __main__.main(["weights", "fetch", "one", *other]) == 0
    assert SHA256 in capsys.readouterr().out
    assert (source / "other/one/a.h5").is_file()
    assert __main__.main(["weights", "verify", *other]) == 0
