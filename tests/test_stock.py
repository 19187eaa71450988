"""The weights folder from the command line, on stand-ins in the published formats."""

import hashlib
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import h5py
import keras
import numpy as np
import pytest
import reference_i3d
from stand_ins import random_variables, save_checkpoint, save_keras_port

from helpers import __main__, catalogue, gold, i3d, weights
from helpers.checkpoints import published, records

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
    save_keras_port(variables, folder / published.WEIGHTS[PORT].path)
    save_keras_port(variables, folder / published.WEIGHTS[NO_TOP].path, top=False)
    clip = np.random.default_rng(1).uniform(-1, 1, (1, 9, 224, 224, 2)).astype(np.float32)
    np.save(folder / "v_CricketShot_g04_c01_flow.npy", clip)
    yield folder
    shutil.rmtree(folder)  # 200 MB


@pytest.fixture(scope="module")
def truth(variables, stand_ins):
    """What an independent implementation says of the sample."""
    clip = np.load(stand_ins / "v_CricketShot_g04_c01_flow.npy")
    logits = np.asarray(reference_i3d.pooled_and_logits(variables, clip)[1][0], np.float64)
    probability = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    return gold.Gold(np.linalg.norm(logits), int(logits.argmax()), logits.max(), probability.max())


@pytest.fixture
def mine(stand_ins, monkeypatch):
    """The folder in use, without records; its files need not have the published bytes."""
    monkeypatch.setenv("OCEAN_WEIGHTS", str(stand_ins))
    for table in (published.WEIGHTS, published.SAMPLES):
        for name, row in table.items():
            files = tuple(replace(file, git_blob=None) for file in row.files)
            monkeypatch.setitem(table, name, replace(row, files=files))
    yield stand_ins
    for path in [*stand_ins.rglob("*.json"), *stand_ins.glob("*.npz")]:
        path.unlink()


def test_the_list_names_file_address_licence_and_place_of_everything_and_what_is_there(capsys, mine):
    status, text, _ = weigh(capsys, "list", "--folder", mine)
    assert status == 0
    for name, row in catalogue.assets().items():
        assert f"\n{name} " in text
        assert all(f"from     {file.url}\n    to       {mine / file.name}\n" in text for file in row.files)
        assert f"licence  {row.licence}" in text
    blocks = {block.split()[0]: block for block in text.split("\n\n")[1:]}
    assert "here, never verified" in blocks[CHECKPOINT]
    assert "not here" in blocks["i3d_rgb_kinetics"]
    assert "94.8 MB  not here" in blocks["resnet50_imagenet"]
    assert len(blocks) == 21  # 5 of keras.applications, 5 checkpoints, 8 files of the port, YuNet, 2 samples


def test_whole_weights_are_verified_with_their_logits_and_the_verdict_is_kept(capsys, mine, truth, monkeypatch):
    monkeypatch.setitem(gold.PUBLISHED, CHECKPOINT, truth)
    status, text, error = weigh(capsys, "verify", CHECKPOINT)
    assert (status, error, text.count("\n")) == (0, "", 1)
    sha256 = records.file_sha256(mine / CHECKPOINT / "model.ckpt.data-00000-of-00001")
    assert f"{sha256[:16]}… recorded now; 230 arrays, 12,682,592 values, all finite; names and shapes of I3D" in text
    assert f"(published: {truth}; tolerance 0.1%)" in text
    assert 0.01 < truth.probability < 0.99
    assert f"sha256   {sha256}" in catalogue.as_text()
    assert "here, verified 20" in catalogue.state(published.WEIGHTS[CHECKPOINT])

    monkeypatch.setitem(gold.PUBLISHED, CHECKPOINT, replace(truth, norm=1.002 * truth.norm))
    status, text, error = weigh(capsys, "verify", CHECKPOINT)
    assert (status, text) == (1, "")
    assert error.startswith(f"error: {CHECKPOINT}: logits of the sample: norm {truth.norm:.3f}")
    assert error.count("\n") == 1
    assert catalogue.state(published.WEIGHTS[CHECKPOINT]) == "here, not verified"


def test_changed_or_damaged_weights_are_named(capsys, mine, monkeypatch):
    path, row = mine / published.WEIGHTS[NO_TOP].path, published.WEIGHTS[NO_TOP]
    monkeypatch.setitem(published.WEIGHTS, NO_TOP, replace(row, files=(replace(row.files[0], git_blob="0" * 40),)))
    assert "must be the published git blob 0000" in weigh(capsys, "verify", NO_TOP)[2]
    monkeypatch.setitem(published.WEIGHTS, NO_TOP, row)
    records.write_record(NO_TOP, row)
    with h5py.File(path, "r+") as file:
        value = file["Conv3d_3b_0a_1x1_conv/Conv3d_3b_0a_1x1_conv/kernel:0"]
        before = value[0, 0, 0, 0, 0]
        value[0, 0, 0, 0, 0] = np.nan
    assert "must have the sha256 it was recorded with" in weigh(capsys, "verify", NO_TOP)[2]
    records.record_path(row).unlink()
    scope = "Flow/inception_i3d/Mixed_3b/Branch_0/Conv3d_0a_1x1/conv_3d/w"
    assert f"must be finite, got others in 1, first in {scope}" in weigh(capsys, "verify", NO_TOP)[2]
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
    found = weights.read_original(PORT)
    assert found.keys() == variables.keys()
    assert all(np.array_equal(found[name], variables[name]) for name in variables)


def test_converted_weights_are_read_instead_of_the_original_also_without_it(capsys, mine, variables, monkeypatch):
    status, text, _ = weigh(capsys, "convert", CHECKPOINT)
    assert (status, text) == (0, f"{CHECKPOINT}: converted to {mine / CHECKPOINT}.npz, 50.8 MB\n")
    assert weigh(capsys, "convert", CHECKPOINT)[1] == f"{CHECKPOINT}: is converted, {mine / CHECKPOINT}.npz\n"
    provenance = weights.published_weights(CHECKPOINT)
    monkeypatch.delattr(weights, "read_tf_checkpoint")  # so that nothing can read the original
    (mine / CHECKPOINT).rename(mine / "away")
    model, said = i3d.build_motion_network("pretrained", "Conv3d_2b_1x1")
    assert said == provenance
    assert all(np.array_equal(np.asarray(v), variables[name]) for name, v in i3d.published_variables(model).items())
    (mine / "away").rename(mine / CHECKPOINT)


def test_converted_weights_of_another_original_are_not_read(mine, variables, caplog):
    records_path = mine / f"{NO_TOP}.npz"
    row = published.WEIGHTS[NO_TOP]
    np.savez(records_path, __source__=np.array('{"sha256": "0123"}'), x=np.zeros(3, np.float32))
    assert weights.read_variables(NO_TOP).keys() < variables.keys()
    assert f"{records_path} was made from another file" in caplog.text
    records_path.write_bytes(records_path.read_bytes()[:100])
    with pytest.raises(ValueError, match="must be whole converted weights, got: .*Delete it, and convert again"):
        weights.read_variables(NO_TOP)
    assert records.is_here(row)


def test_a_converted_file_is_read_without_any_backend():
    code = "import sys, helpers.checkpoints.converted; assert not {'keras', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_weights_without_a_classifier_make_a_network_that_ends_at_the_feature_map(mine, variables):
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
    found = weights.read_original(name)
    assert list(found) == [f"RGB/inception_i3d/{scope}"]
    assert np.array_equal(found[f"RGB/inception_i3d/{scope}"], bias)
    assert i3d.build_i3d(3, n_classes=600).output_shape == (None, 600)


def test_files_are_fetched_recorded_and_found_again(capsys, tmp_path, monkeypatch):
    (tmp_path / "there.npy").write_bytes(b"published bytes")
    row = published.SAMPLES["i3d_rgb_sample"]
    blob = hashlib.sha1(b"blob 15\0published bytes").hexdigest()
    file = replace(row.files[0], url=(tmp_path / "there.npy").as_uri(), git_blob=blob)
    monkeypatch.setitem(published.SAMPLES, "i3d_rgb_sample", replace(row, files=(file,)))
    monkeypatch.setenv("OCEAN_WEIGHTS", "restored behind the test")
    sha256 = hashlib.sha256(b"published bytes").hexdigest()
    status, text, _ = weigh(capsys, "fetch", "i3d_rgb_sample", "--folder", tmp_path / "mine")
    assert status == 0
    assert text.endswith(f"i3d_rgb_sample: fetched, {file.name} sha256 {sha256}\n")
    assert records.read_record(row)["files"][file.name]["sha256"] == sha256
    assert weigh(capsys, "fetch", "i3d_rgb_sample")[1] == f"i3d_rgb_sample: is there, {tmp_path / 'mine' / file.name}\n"
    (tmp_path / "mine" / file.name).unlink()
    (tmp_path / "there.npy").write_bytes(b"other bytes")
    status, _, error = weigh(capsys, "fetch", "i3d_rgb_sample")
    assert status == 1
    assert "is not the file that was published" in error
    assert not (tmp_path / "mine" / file.name).exists()


def test_without_a_network_the_error_names_file_address_and_folder_in_one_line(capsys, tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise Exception("no answer")  # what keras.utils.get_file raises

    monkeypatch.setattr(keras.utils, "get_file", offline)
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path))
    status, _, error = weigh(capsys, "fetch", "all")
    file = published.WEIGHTS["resnet50_imagenet"].files[0]
    assert (status, error.count("\n")) == (1, 1)
    assert (
        f"{file.name} could not be fetched (no answer). Put there {tmp_path / file.name} (from {file.url}), or" in error
    )
    index, data = published.WEIGHTS[CHECKPOINT].files
    assert (
        f"Put there {tmp_path / index.name} (from {index.url}) and {tmp_path / data.name} (from {data.url}), "
        in (weigh(capsys, "fetch", CHECKPOINT)[2])
    )


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
        (["convert", CHECKPOINT], "model.ckpt.index, .*is not there"),
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
    row = published.SAMPLES["i3d_flow_sample"]
    np.save(tmp_path / row.path, np.zeros((1, 2, 3), np.float32))
    digest = hashlib.new(law, (tmp_path / row.path).read_bytes()).hexdigest()
    for said, status in ((digest, 0), (digest[:-1] + "x", 1)):
        file = replace(row.files[0], git_blob=None, file_hash=said)
        monkeypatch.setitem(published.SAMPLES, "i3d_flow_sample", replace(row, files=(file,)))
        found, text, error = weigh(capsys, "verify", "i3d_flow_sample")
        assert found == status
        assert ("as published" in text, f"must have the published hash {said}" in error) == (not status, bool(status))


def test_git_names_bytes_as_we_do(tmp_path):
    (tmp_path / "a").write_bytes(b"hello\n")
    assert records.git_blob_id(tmp_path / "a") == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
