"""I3D: the published architecture and numbers, whole or cut short; checkpoints and files that are refused.

First I3D once more, which shares no code with `helpers`: raw operations on variables by their published names, SAME
padding worked out by hand; and random variables in the published formats.
"""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from helpers import __main__, i3d, weights

ORDER = {  # stage -> stride, or window and strides
    "Conv3d_1a_7x7": 2, "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)), "Conv3d_2b_1x1": 1, "Conv3d_2c_3x3": 1,
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)), "Mixed_3b": 0, "Mixed_3c": 0,
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)), "Mixed_4b": 0, "Mixed_4c": 0, "Mixed_4d": 0, "Mixed_4e": 0,
    "Mixed_4f": 0, "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)), "Mixed_5b": 0, "Mixed_5c": 0,
}  # fmt: skip


def pad_same(x, window, strides, value):
    """Pad so that a VALID operation gives ceil(n / stride) steps; the odd one goes to the end."""
    paddings = [(0, 0)]
    for n, k, s in zip(x.shape[1:4], window, strides, strict=True):
        total = max((math.ceil(n / s) - 1) * s + k - n, 0)
        paddings.append((total // 2, total - total // 2))
    return tf.pad(x, [*paddings, (0, 0)], constant_values=value)


def unit(x, variables, scope, stride=1):
    """Convolution, batch norm without gamma at epsilon 1e-3, ReLU."""
    kernel = variables[f"{scope}/conv_3d/w"]
    strides = (stride,) * 3
    x = tf.nn.conv3d(pad_same(x, kernel.shape[:3], strides, 0.0), kernel, (1, *strides, 1), "VALID")
    mean, variance, beta = (
        variables[f"{scope}/batch_norm/{name}"] for name in ("moving_mean", "moving_variance", "beta")
    )
    return tf.nn.relu((x - mean) / np.sqrt(variance + np.float32(1e-3)) + beta)


def max_pool(x, window, strides):
    return tf.nn.max_pool3d(pad_same(x, window, strides, -np.inf), (1, *window, 1), (1, *strides, 1), "VALID")


def stages(variables, x):
    """Return stage -> activation (B, T', H', W', C) of all sixteen stages."""
    root = next(iter(variables)).split("/")[0] + "/inception_i3d"
    found = {}
    for name, setting in ORDER.items():
        scope = f"{root}/{name}"
        if name.startswith("Conv3d"):
            x = unit(x, variables, scope, setting)
        elif name.startswith("MaxPool3d"):
            x = max_pool(x, *setting)
        else:
            last = "Conv3d_0a_3x3" if name == "Mixed_5b" else "Conv3d_0b_3x3"
            chains = (["Conv3d_0a_1x1"], ["Conv3d_0a_1x1", "Conv3d_0b_3x3"], ["Conv3d_0a_1x1", last], ["Conv3d_0b_1x1"])
            branches = []
            for k, chain in enumerate(chains):
                y = max_pool(x, (3, 3, 3), (1, 1, 1)) if k == 3 else x
                for part in chain:
                    y = unit(y, variables, f"{scope}/Branch_{k}/{part}")
                branches.append(y)
            x = tf.concat(branches, -1)
        found[name] = x
    return found


def pooled_and_logits(variables, x):
    """Return the feature map (B, ceil(T / 8) - 1, 1024) and the logits (B, 400) of 224 px clips."""
    last = stages(variables, x)["Mixed_5c"].numpy()
    means = last.mean(axis=(2, 3))  # of all 7 x 7
    feature_map = (means[:, :-1] + means[:, 1:]) / 2
    root = next(iter(variables)).split("/")[0] + "/inception_i3d/Logits/Conv3d_0c_1x1/conv_3d"
    logits = feature_map @ variables[f"{root}/w"][0, 0, 0] + variables[f"{root}/b"]
    return feature_map, logits.mean(axis=1)


def random_variables(stream):
    """Published names and shapes with values that tell wrong wiring, padding and epsilon apart."""
    rng = np.random.default_rng(5)
    variables = {}
    for row in json.loads((Path(__file__).parent / "data" / f"i3d_{stream}_variables.json").read_text())["variables"]:
        name, shape = row["name"], row["shape"]
        if name.endswith("/w"):
            value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
        elif name.endswith("moving_variance"):
            value = rng.uniform(0.05, 1.5, shape)
        else:
            value = rng.normal(0, 0.1, shape)
        variables[name] = value.astype(np.float32)
    return variables


def save_checkpoint(variables, path):
    names = list(variables)
    tf.raw_ops.SaveV2(
        prefix=str(path), tensor_names=names, shape_and_slices=[""] * len(names), tensors=list(variables.values())
    )


def save_keras_port(variables, path):
    """Write variables of one stream as the port's file: Mixed_3b/Branch_1/Conv3d_0a_1x1 is Conv3d_3b_1a_1x1 there."""
    odd = {"Mixed_5b/Branch_2/Conv3d_0a_3x3": "Conv3d_5b_2b_3x3", "Logits/Conv3d_0c_1x1": "Conv3d_6a_1x1"}
    layers = {"input_1": {}}
    for name, value in variables.items():
        scope, kind, variable = name.partition("inception_i3d/")[2].rsplit("/", 2)
        unit = odd.get(scope) or re.sub(r"Mixed_(..)/Branch_(\d)/Conv3d_0", r"Conv3d_\1_\2", scope)
        layer = f"{unit}_{'conv' if kind == 'conv_3d' else 'bn'}"
        weight = {"w": "kernel", "b": "bias"}.get(variable, variable)
        layers.setdefault(layer, {})[f"{layer}/{weight}:0"] = value
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([layer.encode() for layer in layers])
        for layer, weights in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([name.encode() for name in weights], "S")
            for name, value in weights.items():
                group[name] = value


CHANNELS = {"flow": 2, "rgb": 3}
CHECKPOINT, PORT = "i3d_flow_kinetics", "i3d_flow_kinetics_h5"


def furthest(ours, theirs):
    """The largest difference in units of the largest value."""
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def random_clip(*shape):
    return np.random.default_rng(3).uniform(-1, 1, shape).astype(np.float32)


def same_values(model, variables):
    return all(np.array_equal(np.asarray(v), variables[name]) for name, v in i3d.published_variables(model).items())


@pytest.fixture(scope="module", params=["flow", "rgb"])
def loaded(request, tmp_path_factory):
    """(channels, variables, model, checkpoint path) of one stream; the model was loaded from the checkpoint."""
    variables, channels = random_variables(request.param), CHANNELS[request.param]
    path = tmp_path_factory.mktemp(request.param) / "model.ckpt"
    save_checkpoint(variables, path)
    model = i3d.build_i3d(channels)
    i3d.load_tf_checkpoint(model, path)
    return channels, variables, model, path


@pytest.fixture(scope="module")
def whole():
    """A flow network with Keras' initial values."""
    return i3d.build_i3d(2)


@pytest.mark.parametrize("n_steps", [16, 17])
def test_features_and_logits_equal_an_independent_implementation(loaded, n_steps):
    channels, variables, model, _ = loaded
    x = random_clip(1, n_steps, 224, 224, channels)
    feature_map, logits = pooled_and_logits(variables, x)
    assert feature_map.shape == (1, -(-n_steps // 8) - 1, 1024)
    assert furthest(i3d.feature_map(model, x), feature_map) < 1e-4
    assert furthest(i3d.features(model, x), feature_map.mean(axis=1)) < 1e-4
    assert furthest(i3d.logits(model, x), logits) < 1e-4


@pytest.mark.parametrize("shape", [(2, 10, 44, 46), (1, 7, 37, 53)], ids=["even", "odd"])
def test_every_stage_equals_an_independent_implementation(loaded, shape):
    channels, variables, model, path = loaded
    x = random_clip(*shape, channels)
    theirs = stages(variables, x)
    assert tuple(theirs) == i3d.STAGES
    every = keras.Model(model.input, [model.get_layer(name).output for name in i3d.STAGES])
    for name, ours in zip(i3d.STAGES, every(x, training=False), strict=True):
        assert furthest(np.asarray(ours), theirs[name].numpy()) < 1e-4, name
    part = i3d.build_i3d(channels, endpoint="Mixed_3c")
    named = {name.split("/")[2] for name in i3d.published_variables(part)}
    assert named == {"Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "Mixed_3b", "Mixed_3c"}
    i3d.load_tf_checkpoint(part, path)
    assert np.array_equal(np.asarray(part(x)), i3d.feature_map(model, x, endpoint="Mixed_3c"))


ROOT = "Flow/inception_i3d"
BETA = f"{ROOT}/Mixed_5b/Branch_2/Conv3d_0a_3x3/batch_norm/beta"
WRONG = {
    BETA: None,
    f"{ROOT}/Mixed_3b/Branch_1/Conv3d_0a_1x1/conv_3d/w": np.zeros((1, 1, 1, 192, 97), "f4"),
    f"{ROOT}/Conv3d_1a_7x7/batch_norm/gamma": np.ones(64, "f4"),
    f"{ROOT}/Logits/Conv3d_0c_1x1/conv_3d/b": np.zeros(400, "f8"),
}


def test_wrong_variables_and_missing_or_damaged_checkpoints_are_refused_and_change_nothing(tmp_path, whole):
    before, variables = whole.get_weights(), random_variables("flow")
    given = {name: variables | {name: value} for name, value in WRONG.items()} | {"Flow": random_variables("rgb")}
    for name, wrong in given.items():
        with pytest.raises(ValueError, match=name):
            i3d.load_variables(whole, {key: value for key, value in wrong.items() if value is not None}, "a file")
    with pytest.raises(FileNotFoundError, match="not both there"):
        i3d.load_tf_checkpoint(whole, tmp_path / "m.ckpt")
    save_checkpoint({"a": np.arange(600, dtype=np.float32)}, tmp_path / "m.ckpt")
    data = tmp_path / "m.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(ValueError, match="whole TensorFlow checkpoint"):
        i3d.load_tf_checkpoint(whole, tmp_path / "m.ckpt")
    assert all(map(np.array_equal, before, whole.get_weights()))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda net: i3d.features(net, np.zeros((1, 8, 224, 224, 2), np.float32)), "9 time steps"),
        (lambda net: i3d.features(net, np.zeros((1, 9, 256, 256, 2), np.float32)), "224 px"),
        (lambda net: i3d.logits(net, np.zeros((1, 9, 64, 64, 2), np.float32)), "224 px"),
        (lambda _: i3d.build_i3d(4), "channels"),
        (lambda _: i3d.build_i3d(2, endpoint="Mixed_6a"), "endpoint"),
        (lambda _: i3d.build_motion_network("imagenet"), "pretrained"),
        (lambda _: i3d.tap(i3d.build_i3d(2, endpoint="Conv3d_1a_7x7"), "Mixed_3b"), "Mixed_3b"),
        (lambda _: i3d.logits(i3d.build_i3d(2, endpoint="Conv3d_1a_7x7"), np.zeros((1, 9, 16, 16, 2))), "whole"),
    ],
)
def test_what_cannot_be_is_refused(whole, act, message):
    with pytest.raises(ValueError, match=message):
        act(whole)


def test_random_motion_networks_hold_the_same_kernels_whole_or_cut_short():
    part, provenance = i3d.build_motion_network("random", "Mixed_3c")
    whole, _ = i3d.build_motion_network("random")
    assert provenance.sha256 == weights.RANDOM_SHA256["i3d_flow_Mixed_3c"]
    assert same_values(part, i3d.published_variables(whole))


@pytest.mark.weights
@pytest.mark.parametrize(
    ("stream", "published"),  # norm, class, logit and probability of DeepMind's out/imagenet_*.txt at commit 0667e88
    [("flow", (63.252754, 227, 15.957031, 0.94775660)), ("rgb", (87.108871, 227, 25.856646, 0.9999968))],
)
def test_published_weights_give_the_published_logits(stream, published):
    name, sample = f"i3d_{stream}_kinetics", weights.weights_folder() / f"v_CricketShot_g04_c01_{stream}.npy"
    if not (weights.WEIGHTS[name].is_here and sample.is_file()):
        pytest.skip(f"{name} and {sample} of {weights.DEEPMIND} are not both there")
    model = i3d.build_i3d(CHANNELS[stream])
    i3d.load_tf_checkpoint(model, weights.WEIGHTS[name].path)
    y = i3d.logits(model, np.load(sample).astype(np.float32))[0].astype(np.float64)
    got = (np.linalg.norm(y), y.argmax(), y.max(), 1 / np.exp(y - y.max()).sum())
    np.testing.assert_allclose(got, published, rtol=1e-3)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """Variables of the flow stream, and a weights folder with them as the checkpoint and as the Keras port's file."""
    folder, variables = tmp_path_factory.mktemp("weights"), random_variables("flow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OCEAN_WEIGHTS", str(folder))
        (folder / CHECKPOINT).mkdir()
        save_checkpoint(variables, weights.WEIGHTS[CHECKPOINT].path)
        save_keras_port(variables, weights.WEIGHTS[PORT].path)
        for name in (CHECKPOINT, PORT):  # these bytes are not the published ones
            files = tuple(replace(file, file_hash="") for file in weights.WEIGHTS[name].files)
            patch.setitem(weights.WEIGHTS, name, replace(weights.WEIGHTS[name], files=files))
        yield folder, variables
    shutil.rmtree(folder)  # 200 MB


@pytest.mark.parametrize("name", [CHECKPOINT, PORT])
def test_published_files_are_converted_once_and_enough_without_the_original(stand_ins, name):
    folder, variables = stand_ins
    model, provenance = i3d.build_motion_network("pretrained" if name == CHECKPOINT else name)
    assert model.output_shape == (None, None, 1024)
    assert (provenance.name, provenance.licence, len(provenance.sha256)) == (name, "Apache-2.0", 64)
    assert same_values(model, variables)
    original = weights.WEIGHTS[name].files[-1].place
    original.rename(folder / "away")
    model, again = i3d.build_motion_network(name, "Conv3d_2b_1x1")
    (folder / "away").rename(original)
    assert again == provenance
    assert same_values(model, variables)


def test_a_converted_file_of_another_original_or_damaged_is_made_again_and_damaged_weights_are_named(capsys, stand_ins):
    original, converted = weights.WEIGHTS[PORT].path, stand_ins[0] / f"{PORT}.npz"
    before = i3d.read_published(PORT)[1]
    with h5py.File(original, "r+") as file:
        file["Conv3d_5b_2b_3x3_bn/Conv3d_5b_2b_3x3_bn/beta:0"][0] = 7
    of_another = converted.with_name(f"{CHECKPOINT}.npz").read_bytes()
    for there in (converted.read_bytes(), of_another, b"PK and no more"):
        converted.write_bytes(there)
        found, provenance = i3d.read_published(PORT)
        assert found[BETA][0] == 7
        assert provenance.sha256 != before.sha256
    converted.write_bytes(b"PK and no more")
    original.rename(stand_ins[0] / "away")
    with pytest.raises(ValueError, match="damaged"):
        i3d.read_published(PORT)
    (stand_ins[0] / "away").rename(original)
    converted.unlink()
    with h5py.File(original, "r+") as file:
        file["Conv3d_3b_0a_1x1_conv/Conv3d_3b_0a_1x1_conv/kernel:0"][0, 0, 0, 0, 0] = np.nan
    assert __main__.main(["weights", "verify", PORT]) == 1
    assert "finite" in capsys.readouterr().err
    original.write_bytes(original.read_bytes()[:1000])
    converted.unlink()
    assert __main__.main(["weights", "verify", PORT]) == 1
    assert original.name in capsys.readouterr().err
