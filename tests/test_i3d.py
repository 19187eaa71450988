import shutil
from dataclasses import replace

import h5py
import keras
import numpy as np
import pytest
import reference_i3d
from stand_ins import random_variables, save_checkpoint, save_keras_port

from helpers import __main__, i3d, weights, weights_commands

CHANNELS = {"flow": 2, "rgb": 3}


def furthest(ours, theirs):
    """The largest difference in units of the largest value."""
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.fixture(scope="module", params=["flow", "rgb"])
def loaded(request, tmp_path_factory):
    """(channels, variables, model, checkpoint path) of one stream; the model was loaded from the checkpoint."""
    variables = random_variables(request.param)
    path = tmp_path_factory.mktemp(request.param) / "model.ckpt"
    save_checkpoint(variables, path)
    model = i3d.build_i3d(CHANNELS[request.param])
    i3d.load_tf_checkpoint(model, path)
    return CHANNELS[request.param], variables, model, path


@pytest.fixture(scope="module")
def whole():
    """A flow network with Keras' initial values."""
    return i3d.build_i3d(2)


@pytest.mark.parametrize("n_steps", [16, 17])
def test_features_and_logits_equal_an_independent_implementation(loaded, n_steps):
    channels, variables, model, _ = loaded
    x = np.random.default_rng(n_steps).uniform(-1, 1, (1, n_steps, 224, 224, channels)).astype(np.float32)
    feature_map, logits = reference_i3d.pooled_and_logits(variables, x)
    assert feature_map.shape == (1, -(-n_steps // 8) - 1, 1024)
    assert furthest(i3d.feature_map(model, x), feature_map) < 1e-4
    assert furthest(i3d.logits(model, x), logits) < 1e-4


def test_features_are_the_mean_of_the_feature_map_over_time(whole):
    x = np.random.default_rng(4).uniform(-1, 1, (1, 17, 224, 224, 2)).astype(np.float32)
    assert np.allclose(i3d.features(whole, x), i3d.feature_map(whole, x).mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 10, 44, 46), (1, 7, 37, 53)], ids=["even", "odd"])
def test_every_stage_equals_an_independent_implementation(loaded, shape):
    channels, variables, model, _ = loaded
    x = np.random.default_rng(3).uniform(-1, 1, (*shape, channels)).astype(np.float32)
    theirs = reference_i3d.stages(variables, x)
    assert tuple(theirs) == i3d.STAGES
    every = keras.Model(model.input, [model.get_layer(name).output for name in i3d.STAGES])
    for name, ours in zip(i3d.STAGES, every(x, training=False), strict=True):
        assert furthest(np.asarray(ours), theirs[name].numpy()) < 1e-4, name
    assert furthest(i3d.feature_map(model, x, endpoint="Mixed_3c"), theirs["Mixed_3c"].numpy()) < 1e-4


def test_variables_have_the_published_names_and_shapes(loaded):
    _, variables, model, _ = loaded
    ours = {name: tuple(variable.shape) for name, variable in i3d.published_variables(model).items()}
    assert len(ours) == 230
    assert ours == {name: value.shape for name, value in variables.items()}


def test_stages_have_the_published_sizes(whole):
    sizes = {
        "Conv3d_1a_7x7": (8, 112, 112, 64), "MaxPool3d_2a_3x3": (8, 56, 56, 64), "Conv3d_2c_3x3": (8, 56, 56, 192),
        "Mixed_3b": (8, 28, 28, 256), "Mixed_3c": (8, 28, 28, 480), "Mixed_4b": (4, 14, 14, 512),
        "Mixed_4e": (4, 14, 14, 528), "Mixed_4f": (4, 14, 14, 832), "Mixed_5b": (2, 7, 7, 832),
        "Mixed_5c": (2, 7, 7, 1024),
    }  # fmt: skip
    x = keras.KerasTensor((1, 16, 224, 224, 2))
    for name, size in sizes.items():
        assert tuple(keras.ops.shape(i3d.tap(whole, name)(x)))[1:] == size, name


def test_a_network_that_ends_at_a_stage_holds_nothing_after_it_and_takes_its_part_of_a_checkpoint(loaded):
    channels, _, whole, path = loaded
    part = i3d.build_i3d(channels, endpoint="Mixed_3c")
    assert part.layers[-1].name == "Mixed_3c"
    assert {name.split("/")[2] for name in i3d.published_variables(part)} == {
        "Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "Mixed_3b", "Mixed_3c",
    }  # fmt: skip
    i3d.load_tf_checkpoint(part, path)
    x = np.random.default_rng(1).uniform(-1, 1, (1, 5, 19, 23, channels)).astype(np.float32)
    assert np.array_equal(np.asarray(part(x)), i3d.feature_map(whole, x, endpoint="Mixed_3c"))
    assert i3d.tap(whole, "Mixed_3c").layers[-1].name == "Mixed_3c"


def test_a_saved_network_gives_equal_outputs_after_reloading(tmp_path, whole):
    whole.save(tmp_path / "i3d.keras")
    again = keras.models.load_model(tmp_path / "i3d.keras")
    x = np.random.default_rng(2).uniform(-1, 1, (1, 9, 224, 224, 2)).astype(np.float32)
    assert np.array_equal(i3d.logits(again, x), i3d.logits(whole, x))


ROOT = "Flow/inception_i3d"
UNIT = f"{ROOT}/Mixed_3b/Branch_1/Conv3d_0a_1x1/conv_3d/w"


@pytest.mark.parametrize(
    ("removed", "changed", "message"),
    [
        ([f"{ROOT}/Mixed_5b/Branch_2/Conv3d_0a_3x3/batch_norm/beta"], {}, "Conv3d_0a_3x3/batch_norm/beta is missing"),
        ([], {UNIT: np.zeros((1, 1, 1, 192, 97), "f4")}, rf"{UNIT} is .*, 97\)\), not .*96\)\)"),
        ([], {f"{ROOT}/Conv3d_1a_7x7/batch_norm/gamma": np.ones(64, "f4")}, "1a_7x7/batch_norm/gamma is unknown"),
        ([], {f"{ROOT}/Logits/Conv3d_0c_1x1/conv_3d/b": np.zeros(400, "f8")}, "conv_3d/b is .'float64'"),
        ([f"{ROOT}/Conv3d_{unit}/conv_3d/w" for unit in ("1a_7x7", "2b_1x1", "2c_3x3")]
         + [f"{ROOT}/Mixed_3b/Branch_{k}/Conv3d_0a_1x1/conv_3d/w" for k in range(3)], {}, "6 are otherwise: .*"),
    ],
    ids=["missing", "misshaped", "unknown", "dtype", "many"],
)  # fmt: skip
def test_a_checkpoint_with_wrong_variables_is_refused_by_name(tmp_path, whole, removed, changed, message):
    variables = {name: value for name, value in random_variables("flow").items() if name not in removed}
    save_checkpoint(variables | changed, tmp_path / "model.ckpt")
    before = whole.get_weights()
    with pytest.raises(ValueError, match=message):
        i3d.load_tf_checkpoint(whole, tmp_path / "model.ckpt")
    assert all(np.array_equal(a, b) for a, b in zip(before, whole.get_weights(), strict=True))


def test_a_checkpoint_of_the_other_stream_is_refused_naming_both(tmp_path):
    save_checkpoint({"RGB/inception_i3d/x": np.zeros(3, "f4")}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="Flow stream, for 2 channels, got one of RGB"):
        i3d.load_tf_checkpoint(i3d.build_i3d(2, endpoint="Conv3d_1a_7x7"), tmp_path / "model.ckpt")
    save_checkpoint({"step": np.zeros(3, "f4")}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="got one of neither Flow nor RGB"):
        i3d.load_tf_checkpoint(i3d.build_i3d(2, endpoint="Conv3d_1a_7x7"), tmp_path / "model.ckpt")


def test_pooled_features_of_short_or_small_clips_are_refused(whole):
    with pytest.raises(ValueError, match="at least 9 time steps .* for pooled features, .* got 1x7x7"):
        i3d.features(whole, np.zeros((1, 8, 224, 224, 2), np.float32))
    with pytest.raises(ValueError, match="224 px wide and high for pooled features.*got 2x2x2"):
        i3d.logits(whole, np.zeros((1, 9, 64, 64, 2), np.float32))
    assert i3d.feature_map(whole, np.zeros((1, 1, 16, 16, 2), np.float32), endpoint="Mixed_5c").shape[-1] == 1024


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match=r"channels must be 2 \(flow\) or 3 \(RGB\), got 4"):
        i3d.build_i3d(4)
    with pytest.raises(ValueError, match="endpoint must be one of Conv3d_1a_7x7, .*got 'Mixed_6a'"):
        i3d.build_i3d(2, endpoint="Mixed_6a")
    with pytest.raises(ValueError, match="weights must be random, pretrained or of .*, got 'imagenet'"):
        i3d.build_motion_network("imagenet")
    part = i3d.build_i3d(2, endpoint="Conv3d_1a_7x7")
    with pytest.raises(ValueError, match="endpoint must be a part of i3d_flow_Conv3d_1a_7x7, got Mixed_3b"):
        i3d.tap(part, "Mixed_3b")
    with pytest.raises(ValueError, match="model must be a whole network"):
        i3d.logits(part, np.zeros((1, 9, 16, 16, 2), np.float32))


def test_random_motion_networks_hold_the_same_kernels_whole_or_cut_short():
    part, provenance = i3d.build_motion_network("random", "Mixed_3c")
    whole, _ = i3d.build_motion_network("random")
    assert provenance.name == "random"
    assert whole.output_shape[1:] == (None, 1024)
    ours, theirs = i3d.published_variables(part), i3d.published_variables(whole)
    assert all(np.array_equal(np.asarray(value), np.asarray(theirs[name])) for name, value in ours.items())


def test_pretrained_motion_network_loads_the_checkpoint_from_the_weights_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path))
    folder = tmp_path / "i3d_flow_kinetics"
    folder.mkdir()
    variables = random_variables("flow")
    save_checkpoint(variables, folder / "model.ckpt")
    model, provenance = i3d.build_motion_network("pretrained", "Conv3d_2b_1x1")
    assert (provenance.name, provenance.licence, len(provenance.sha256)) == ("i3d_flow_kinetics", "Apache-2.0", 64)
    assert all(np.array_equal(np.asarray(v), variables[name]) for name, v in i3d.published_variables(model).items())


CHECKPOINT, PORT, NO_TOP = "i3d_flow_kinetics", "i3d_flow_kinetics_h5", "i3d_flow_kinetics_h5_no_top"


def weigh(capsys, *arguments):
    """Exit status, stdout and stderr of `python -m helpers weights`."""
    status = __main__.main(["weights", *map(str, arguments)])
    return status, *capsys.readouterr()


@pytest.fixture(scope="module")
def variables():
    """With a classifier whose probabilities are neither 0 nor 1."""
    found = random_variables("flow")
    found["Flow/inception_i3d/Logits/Conv3d_0c_1x1/conv_3d/w"] *= 1e-4
    return found


@pytest.fixture(scope="module")
def stand_ins(variables, tmp_path_factory):
    """A weights folder with a checkpoint, both forms of the Keras port, and a sample, all of the flow stream."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / CHECKPOINT).mkdir()
    save_checkpoint(variables, folder / CHECKPOINT / "model.ckpt")
    save_keras_port(variables, folder / weights.WEIGHTS[PORT].path)
    save_keras_port(variables, folder / weights.WEIGHTS[NO_TOP].path, top=False)
    clip = np.random.default_rng(1).uniform(-1, 1, (1, 9, 224, 224, 2)).astype(np.float32)
    np.save(folder / "v_CricketShot_g04_c01_flow.npy", clip)
    yield folder
    shutil.rmtree(folder)  # 200 MB


@pytest.fixture
def mine(stand_ins, monkeypatch):
    """The folder in use; its files need not have the published bytes."""
    monkeypatch.setenv("OCEAN_WEIGHTS", str(stand_ins))
    for name, row in weights.WEIGHTS.items():
        files = tuple(replace(file, file_hash="") for file in row.files)
        monkeypatch.setitem(weights.WEIGHTS, name, replace(row, files=files))
    yield stand_ins
    for path in stand_ins.glob("*.npz"):
        path.unlink()


def test_whole_weights_are_verified_with_their_logits(capsys, mine, variables, monkeypatch):
    clip = np.load(mine / "v_CricketShot_g04_c01_flow.npy")
    logits = np.asarray(reference_i3d.pooled_and_logits(variables, clip)[1][0], np.float64)  # an independent one
    probability = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    truth = (np.linalg.norm(logits), int(logits.argmax()), logits.max(), probability.max())
    assert 0.01 < truth[-1] < 0.99
    row = weights.WEIGHTS[CHECKPOINT]
    monkeypatch.setitem(weights.WEIGHTS, CHECKPOINT, replace(row, reference=truth))
    status, text, error = weigh(capsys, "verify", CHECKPOINT)
    assert (status, error, text.count("\n")) == (0, "", 1)
    assert weights.file_sha256(mine / CHECKPOINT / "model.ckpt.data-00000-of-00001") in text
    assert "names, shapes and finite values of i3d_flow; norm, class, logit, probability of the sample: [" in text

    other = (1.002 * truth[0], *truth[1:])
    monkeypatch.setitem(weights.WEIGHTS, CHECKPOINT, replace(row, reference=other))
    status, text, error = weigh(capsys, "verify", CHECKPOINT)
    assert (status, text) == (1, "")
    assert "These are other weights, or this installation computes otherwise" in error
    assert error.count("\n") == 1


def test_changed_or_damaged_weights_are_named(capsys, mine, monkeypatch):
    path, row = mine / weights.WEIGHTS[NO_TOP].path, weights.WEIGHTS[NO_TOP]
    monkeypatch.setitem(weights.WEIGHTS, NO_TOP, replace(row, files=(replace(row.files[0], file_hash="0" * 40),)))
    assert "must have the published hash 0000" in weigh(capsys, "verify", NO_TOP)[2]
    monkeypatch.setitem(weights.WEIGHTS, NO_TOP, row)
    with h5py.File(path, "r+") as file:
        value = file["Conv3d_3b_0a_1x1_conv/Conv3d_3b_0a_1x1_conv/kernel:0"]
        before = value[0, 0, 0, 0, 0]
        value[0, 0, 0, 0, 0] = np.nan
    assert "Mixed_3b_Branch_0_Conv3d_0a_1x1_conv_3d/kernel must be finite" in weigh(capsys, "verify", NO_TOP)[2]
    with h5py.File(path, "r+") as file:
        file["Conv3d_3b_0a_1x1_conv/Conv3d_3b_0a_1x1_conv/kernel:0"][0, 0, 0, 0, 0] = before
        names = file["Conv3d_5b_2b_3x3_bn"].attrs["weight_names"]
        file["Conv3d_5b_2b_3x3_bn"].attrs["weight_names"] = names[1:]
    status, _, error = weigh(capsys, "verify", NO_TOP)
    assert "Mixed_5b/Branch_2/Conv3d_0a_3x3/batch_norm/beta is missing" in error
    assert (status, error.count("\n")) == (1, 1)
    with h5py.File(path, "r+") as file:
        file["Conv3d_5b_2b_3x3_bn"].attrs["weight_names"] = names


def test_the_port_and_the_checkpoint_hold_the_same_variables(mine, variables):
    found = weights_commands.read_original(PORT)
    assert found.keys() == variables.keys()
    assert all(np.array_equal(found[name], variables[name]) for name in variables)


def test_converted_weights_are_read_instead_of_the_original_also_without_it(capsys, mine, variables, monkeypatch):
    before = i3d.build_motion_network("pretrained", "Conv3d_2b_1x1")[1]
    monkeypatch.setitem(weights.WEIGHTS, CHECKPOINT, replace(weights.WEIGHTS[CHECKPOINT], reference=None))
    status, text, _ = weigh(capsys, "convert", CHECKPOINT)
    assert (status, text) == (0, f"{CHECKPOINT}: converted to {mine / CHECKPOINT}.npz, 50.8 MB\n")
    monkeypatch.delattr(i3d, "read_tf_checkpoint")  # so that nothing can read the original
    (mine / CHECKPOINT).rename(mine / "away")
    model, provenance = i3d.build_motion_network("pretrained", "Conv3d_2b_1x1")
    assert provenance == before
    assert all(np.array_equal(np.asarray(v), variables[name]) for name, v in i3d.published_variables(model).items())
    (mine / "away").rename(mine / CHECKPOINT)


def test_a_damaged_converted_file_is_refused(mine):
    (mine / f"{NO_TOP}.npz").write_bytes(b"PK and no more")
    with pytest.raises(ValueError, match=r"must be whole converted weights, .*Delete it, and run"):
        i3d.read_published(NO_TOP)


def test_a_converted_file_of_another_original_than_is_there_is_refused_until_it_is_converted_again(capsys, mine):
    path = mine / weights.WEIGHTS[NO_TOP].path
    assert weigh(capsys, "convert", NO_TOP)[0] == 0
    converted_from = i3d.read_published(NO_TOP)[1].sha256
    with h5py.File(path, "r+") as file:
        file["Conv3d_1a_7x7_conv/Conv3d_1a_7x7_conv/kernel:0"][0, 0, 0, 0, 0] += 1
        changed = file["Conv3d_1a_7x7_conv/Conv3d_1a_7x7_conv/kernel:0"][()]
    sha256 = weights.file_sha256(path)
    with pytest.raises(ValueError, match=f"sha256 {sha256}, got it from {NO_TOP} with sha256 {converted_from}"):
        i3d.build_motion_network(NO_TOP)
    status, _, error = weigh(capsys, "verify", NO_TOP)
    assert (status, error.count("\n")) == (1, 1)
    assert f"run `python -m helpers weights convert {NO_TOP}`" in error
    assert weigh(capsys, "convert", NO_TOP)[0] == 0
    model, provenance = i3d.build_motion_network(NO_TOP)
    assert provenance.sha256 == sha256
    kernel = "Flow/inception_i3d/Conv3d_1a_7x7/conv_3d/w"
    assert np.array_equal(np.asarray(i3d.published_variables(model)[kernel]), changed)
    with h5py.File(path, "r+") as file:
        file["Conv3d_1a_7x7_conv/Conv3d_1a_7x7_conv/kernel:0"][0, 0, 0, 0, 0] -= 1


def test_a_converted_file_under_another_name_is_refused(capsys, mine):
    assert weigh(capsys, "convert", NO_TOP)[0] == 0
    (mine / f"{NO_TOP}.npz").rename(mine / f"{PORT}.npz")
    with pytest.raises(ValueError, match=f"must be converted from {PORT} .*, got it from {NO_TOP}"):
        i3d.read_published(PORT)


def test_weights_without_a_classifier_make_a_network_that_ends_at_the_feature_map(capsys, mine, variables):
    with pytest.raises(ValueError, match=f"must be converted before it is used. Run .*weights convert {NO_TOP}"):
        i3d.build_motion_network(NO_TOP)
    assert weigh(capsys, "convert", NO_TOP)[0] == 0
    features, provenance = i3d.build_motion_network(NO_TOP)
    assert features.output_shape == (None, None, 1024)
    assert provenance.name == NO_TOP
    kernel = "Flow/inception_i3d/Mixed_5b/Branch_2/Conv3d_0a_3x3/conv_3d/w"
    assert np.array_equal(np.asarray(i3d.published_variables(features)[kernel]), variables[kernel])


def test_the_checkpoint_of_600_classes_is_read_without_the_optimizers_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path))
    name = "i3d_rgb_kinetics600_scratch"
    (tmp_path / name).mkdir()
    bias = np.arange(600, dtype=np.float32)
    scope = "Logits/Conv3d_0c_1x1/conv_3d/b"
    save_checkpoint({scope: bias, f"{scope}/Momentum": bias + 1}, tmp_path / name / "model.ckpt")
    found = weights_commands.read_original(name)
    assert list(found) == [f"RGB/inception_i3d/{scope}"]
    assert np.array_equal(found[f"RGB/inception_i3d/{scope}"], bias)
    assert i3d.build_i3d(3, n_classes=600).output_shape == (None, 600)
