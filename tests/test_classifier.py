"""The BiLSTM, the bag of frames, and the ensemble that names the class of a video."""

import json
import shutil
import zipfile

import keras
import numpy as np
import pytest
from drawn_features import draw_features

from helpers import __main__
from helpers.backbones import build_backbone
from helpers.classifier import (
    FrameClassifier,
    build_classifier,
    classify_clip,
    fit_bag,
    load_clip_classifier,
)
from helpers.clip_features import extract_clip_features, feature_file
from helpers.config import ClassificationConfig, TrainingConfig
from helpers.files import ROOT
from helpers.large import read_labelled
from helpers.model import CompletePersonalityModel
from helpers.serializer import load_model
from helpers.train import Trainer

MOTION = ROOT / "data_sample" / "motion" / "test"


def frames_of(drawn):
    return drawn["features"], np.ones(drawn["features"].shape[:2], bool)


def trained(precision="float32", drawn=None):
    """A classifier of ordered poses."""
    model = build_classifier(6, 3, ClassificationConfig(units=8, precision=precision), seed=5)
    drawn = drawn or (draw_features(30), draw_features(10, seed=3))
    model.reduction.adapt([frames_of(drawn[0])])
    parts = [(model.reduce(*frames_of(part)), np.eye(3, dtype="float32")[part["labels"]]) for part in drawn]
    training = TrainingConfig(epochs=25, batch_size=16, learning_rate=0.02, weight_decay=0.0)
    Trainer(model, training, keras.losses.CategoricalCrossentropy()).fit(model, *parts)
    return model


@pytest.fixture(scope="module")
def model():
    return trained()


def test_the_classifier_solves_what_only_order_tells_and_the_bag_of_frames_cannot(model):
    tested = draw_features(50, seed=7)
    p = model.classify(*frames_of(tested))
    assert (p.argmax(1) == tested["labels"]).mean() > 0.9
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    train, validation = draw_features(30), draw_features(10, seed=3)
    bag = fit_bag(frames_of(train), train["labels"], frames_of(validation), validation["labels"])
    assert (bag(*frames_of(tested)).argmax(1) == tested["labels"]).mean() < 0.5


def test_masked_frames_change_nothing_wherever_they_stand(model):
    features, mask = frames_of(draw_features(4, seed=7))
    n, t, d = features.shape
    wide, kept = np.full((n, t + 3, d), 1e3, "float32"), [1, 2, 3, 5, 6, 7, 8, 10]  # gaps before and between
    wide[:, kept], wide_mask = features, np.isin(np.arange(t + 3), kept)[None].repeat(n, 0)
    np.testing.assert_allclose(model.classify(wide, wide_mask), model.classify(features, mask), atol=1e-5)


def test_components_are_those_of_all_parts_and_keep_their_proportions():
    random = np.random.RandomState(0)
    directions, spread = np.linalg.qr(random.normal(size=(11, 11)))[0], np.array([4.0, 2.0, 1.0])
    parts = [((random.normal(size=(7, 13, 3)) * spread) @ directions[:3] + 5, np.ones((7, 13), bool)) for _ in range(2)]
    model = FrameClassifier(11, 2, components=3)
    model.reduction.adapt(parts)
    z = np.concatenate([model.reduce(*part)["frames"] for part in parts]).reshape(-1, 3)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-4)
    assert z[:, 0].std() == pytest.approx(1, rel=0.01)
    assert z[:, 0].std() > z[:, 1].std() > z[:, 2].std()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_keeps_float32_weights_and_learns_as_well(model, precision, tmp_path):
    mixed, tested = trained(precision), draw_features(50, seed=7)
    assert mixed.lstm.compute_dtype == precision
    assert {variable.dtype for variable in mixed.trainable_variables} == {"float32"}
    p = mixed.classify(*frames_of(tested))
    assert (p.argmax(1) == tested["labels"]).mean() > 0.9
    assert np.abs(p - model.classify(*frames_of(tested))).max() > 1e-5  # float32 would give the same
    mixed.save(tmp_path / "mixed.keras")
    again = load_model(tmp_path / "mixed.keras", feature_dim=6)
    np.testing.assert_array_equal(again.classify(*frames_of(tested)), p)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model folder of two clips in two classes, with two checkpoints that nobody trained; and the clips' features."""
    folder = tmp_path_factory.mktemp("run")
    for name in ("lean_raise_bow", "raise_bow_lean"):
        clip = sorted((MOTION / name).rglob("*.mp4"))[0]
        (folder / "data" / "train" / name).mkdir(parents=True)
        shutil.copyfile(clip, folder / "data" / "train" / name / clip.name)
    folders = {"data_dir": str(folder / "data"), "out_dir": str(folder)}
    cfg = ClassificationConfig(**folders, views=0, tta_views=0, n_frames=4, input_px=32)
    extract_clip_features(cfg)
    features = read_labelled(feature_file(cfg, "train"))
    (folder / "model").mkdir()
    for seed in (0, 1):
        member = build_classifier(2048, 2, ClassificationConfig(units=4, components=1), seed)
        member.reduction.adapt([(features["features"], features["valid"])])
        member.save(folder / "model" / f"{seed}.keras")
    config = cfg.as_dict(without=("data_dir", "out_dir", "workers", "progress"))
    card = {"classes": list(features["categories"]), "checkpoints": ["0.keras", "1.keras"], "config": config}
    (folder / "model" / "card.json").write_text(json.dumps(card | {"tta_views": 0, "drawn": True}))
    return folder, features


def test_a_video_is_seen_as_the_clips_of_the_run_were_and_the_checkpoints_are_averaged(run):
    folder, features = run
    ensemble = load_clip_classifier(folder / "model")
    members = [member.classify(features["features"], features["valid"]) for member in ensemble.members]
    assert np.abs(members[0] - members[1]).max() > 0.01
    for key, p in zip(features["key"], np.mean(members, axis=0), strict=True):
        found = classify_clip(folder / "data" / f"{key}.mp4", ensemble)
        assert list(found) == ["lean_raise_bow", "raise_bow_lean"]
        np.testing.assert_allclose(list(found.values()), p, atol=1e-3)


def test_the_command_names_classes_and_the_videos_that_it_could_not_use(run, tmp_path, capsys):
    folder, features = run
    videos = tmp_path / "videos"
    (videos / "deep").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for name in ("clip9.mp4", "clip10.mp4", "deep/clip11.mp4"):
        shutil.copyfile(folder / "data" / f"{features['key'][0]}.mp4", videos / name)
    (videos / "bad.mp4").write_bytes(b"no video")
    given = [str(videos), str(tmp_path / "empty"), "--model", str(folder / "model"), "--json", str(tmp_path / "p.json")]
    assert __main__.main(["classify", "predict", *given]) == 1
    said = json.loads((tmp_path / "p.json").read_text())
    used = [str(videos / name) for name in ("clip9.mp4", "clip10.mp4", "deep/clip11.mp4")]  # natural order
    assert said.keys() == {*used, "warnings"}
    assert sum(said[str(videos / "clip9.mp4")].values()) == pytest.approx(1, abs=1e-5)
    out, err = capsys.readouterr()
    assert [line.split(": ")[0] for line in out.splitlines()[:3]] == used
    assert [f"note: {text}" for text in said["warnings"]] == out.splitlines()[3:]
    assert ["random" in said["warnings"][0], "synthetic" in said["warnings"][1]] == [True, True]
    assert str(videos / "bad.mp4") in err
    assert str(tmp_path / "empty") in err


def test_what_does_not_fit_is_refused_by_name_before_it_is_loaded(model, tmp_path, capsys):
    CompletePersonalityModel(6, 6, 8, 1).save(tmp_path / "traits.keras")
    model.save(tmp_path / "whole.keras")
    with zipfile.ZipFile(tmp_path / "whole.keras") as whole, zipfile.ZipFile(tmp_path / "narrow.keras", "w") as narrow:
        narrow.writestr("config.json", whole.read("config.json"))  # no weights: loading it would fail
    (tmp_path / "card.json").write_text('{"targets": ["openness"], "extractors": {}}')
    refused = {"traits.keras": "None", "narrow.keras": "2048.* 6"}
    for name, word in refused.items():
        with pytest.raises(ValueError, match=word):
            load_model(tmp_path / name, feature_dim=2048)
    assert __main__.main(["classify", "predict", "video.mp4", "--model", str(tmp_path)]) == 1
    assert "traits" in capsys.readouterr().err
    with pytest.raises(ValueError, match="n_classes"):
        FrameClassifier(6, 1)


def test_a_backbone_takes_another_input_size_with_the_same_weights():
    backbones = [build_backbone("resnet50", "random", input_px=px) for px in (32, 64)]
    assert backbones[0].weights.sha256 == backbones[1].weights.sha256
    assert np.asarray(backbones[0].model(np.zeros((2, 32, 32, 3), "float32"), training=False)).shape == (2, 2048)
    with pytest.raises(ValueError, match="32"):
        build_backbone("resnet50", "random", input_px=16)
