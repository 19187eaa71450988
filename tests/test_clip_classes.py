import json
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest

from helpers import __main__, clip_classes
from helpers.classification import models_folder
from helpers.classifier import FrameClassifier, predict_classes
from helpers.clip_classes import classify_clip, keep_model, load_clip_classifier, warnings_of
from helpers.clip_features import extract_clip_features, feature_file
from helpers.config import ClassificationConfig
from helpers.files import ROOT
from helpers.large import read_labelled

MOTION = ROOT / "data_sample" / "motion" / "test"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two clips in two classes, with two checkpoints that nobody trained."""
    folder = tmp_path_factory.mktemp("run")
    for name in ("lean_raise_bow", "raise_bow_lean"):
        clip = sorted((MOTION / name).rglob("*.mp4"))[0]
        (folder / "data" / "train" / name).mkdir(parents=True)
        shutil.copyfile(clip, folder / "data" / "train" / name / clip.name)
    cfg = ClassificationConfig(
        data_dir=str(folder / "data"), out_dir=str(folder), views=0, tta_views=0, n_frames=4, input_px=32
    )
    extract_clip_features(cfg)
    features = read_labelled(feature_file(cfg, "train"))
    models_folder(cfg).mkdir(parents=True)
    for seed, name in enumerate(("bilstm-0-0", "bilstm-1-0")):
        keras.utils.set_random_seed(seed)
        model = FrameClassifier(2048, 2, units=4, components=1)
        model.reduction.adapt(features["features"], features["valid"])
        model.save(models_folder(cfg) / f"{name}.keras")
    found = {"members": ["bilstm-0-0", "bilstm-1-0"], "models": {}, "split": {}}
    keep_model(cfg, found | {"classes": list(features["categories"])})
    return cfg, features


def changed_copy(model, folder, config=(), **values):
    """A copy of a classifier, with other values on its card."""
    shutil.copytree(model, folder)
    card = json.loads((folder / "card.json").read_text())
    card["config"].update(config)
    (folder / "card.json").write_text(json.dumps(card | values))
    return folder


@pytest.fixture(scope="module")
def joined(run, tmp_path_factory):
    """The classifier of the run, and with it one that sees more frames of a clip."""
    model, folder = run[0].out / "classification" / "model", tmp_path_factory.mktemp("other") / "model"
    other = changed_copy(model, folder, config={"n_frames": 7}, checkpoints=["bilstm-0-0.keras"])
    return load_clip_classifier(model, [other])


def test_a_video_is_seen_as_the_clips_of_the_run_were_and_the_checkpoints_are_averaged(run, joined):
    cfg, features = run
    classifier = replace(joined, others=())
    inputs = {"features": features["features"], "mask": features["valid"]}
    members = [predict_classes(member, inputs) for member in classifier.members]
    assert np.abs(members[0] - members[1]).max() > 0.01
    expected = np.mean(members, axis=0)
    for key, p in zip(features["key"], expected, strict=True):
        found = classify_clip(cfg.data / f"{key}.mp4", classifier)
        assert list(found) == ["lean_raise_bow", "raise_bow_lean"]
        np.testing.assert_allclose(list(found.values()), p, atol=1e-3)


def test_classifiers_of_two_runs_each_see_their_own_frames_and_count_alike(run, joined):
    cfg, features = run
    video = cfg.data / f"{features['key'][0]}.mp4"
    p = [list(classify_clip(video, one).values()) for one in (replace(joined, others=()), *joined.others)]
    assert np.abs(np.subtract(*p)).max() > 1e-3
    np.testing.assert_allclose(list(classify_clip(video, joined).values()), np.mean(p, axis=0), atol=1e-6)


def test_a_classifier_of_other_classes_is_refused_before_it_is_loaded(run, tmp_path):
    cfg, _ = run
    model = cfg.out / "classification" / "model"
    other = changed_copy(model, tmp_path / "other", classes=["bow", "lean", "raise"], checkpoints=["none.keras"])
    with pytest.raises(ValueError, match="other must tell the 2 classes lean_raise_bow, raise_bow_lean, got 3: bow,"):
        load_clip_classifier(model, [other])


def test_the_command_names_classes_and_the_videos_that_it_could_not_use(run, tmp_path, capsys):
    cfg, features = run
    good, bad = str(cfg.data / f"{features['key'][0]}.mp4"), tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    model = str(cfg.out / "classification" / "model")
    arguments = ["classify", "predict", good, str(bad), "--model", model, "--json", str(tmp_path / "said.json")]
    assert __main__.main(arguments) == 1
    said = json.loads((tmp_path / "said.json").read_text())
    assert list(said) == [good, "warnings"]
    assert sum(said[good].values()) == pytest.approx(1, abs=1e-5)
    out, err = capsys.readouterr()
    assert out.startswith(f"{good}: ")
    assert f"error: {bad}: " in err
    assert [f"note: {text}" for text in said["warnings"]] == out.splitlines()[1:]
    assert said["warnings"] == ["the backbone has random weights: these probabilities say nothing about a real video"]


def test_a_folder_stands_for_its_videos(joined, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(clip_classes, "load_clip_classifier", lambda *_: joined)
    monkeypatch.setattr(clip_classes, "classify_clip", lambda *_: {"bow": 1.0})
    videos = [tmp_path / "clips" / name for name in ("clip9.mp4", "clip10.mp4", "deep/clip11.mp4")]  # natural order
    (tmp_path / "clips" / "deep").mkdir(parents=True)
    for path in (*videos, tmp_path / "clips" / "notes.txt"):
        path.touch()
    (tmp_path / "empty").mkdir()
    arguments = [str(tmp_path / "clips"), str(tmp_path / "empty"), "--model", "m"]
    assert __main__.main(["classify", "predict", *arguments]) == 1
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if not line.startswith("note: ")] == [f"{v}: bow 1.00" for v in videos]
    assert f"error: {tmp_path / 'empty'}: this folder holds no videos" in err


def test_drawn_clips_are_noted_on_the_card_and_with_what_it_says(run, joined, tmp_path):
    cfg, features = run
    assert not joined.card["drawn"]
    assert len(warnings_of(joined)) == 1
    (tmp_path / "truth.csv").touch()
    shutil.copytree(models_folder(cfg), models_folder(replace(cfg, out_dir=str(tmp_path))))
    found = {"members": ["bilstm-0-0"], "models": {}, "split": {}, "classes": list(features["categories"])}
    card = keep_model(replace(cfg, data_dir=str(tmp_path), out_dir=str(tmp_path)), found)
    drawn = replace(joined, others=(replace(joined, others=(), card=card),))
    assert "the model was trained on drawn clips" in warnings_of(drawn)[1]


def test_a_model_of_traits_is_refused_with_what_to_name(run, tmp_path, capsys):
    (tmp_path / "card.json").write_text('{"targets": ["openness"], "extractors": {}}')
    model = str(run[0].out / "classification" / "model")
    for given in (["--model", str(tmp_path)], ["--model", model, "--with", str(tmp_path)]):
        assert __main__.main(["classify", "predict", "video.mp4", *given]) == 1
        error = capsys.readouterr().err
        assert f"{tmp_path} must be a model of classes, got one of traits. Name the folder classification/" in error


def test_a_checkpoint_of_another_backbone_is_refused_by_name(run, tmp_path, capsys):
    cfg, features = run
    FrameClassifier(1280, 2, units=4).save(tmp_path / "other.keras")
    model, video = str(cfg.out / "classification" / "model"), str(cfg.data / f"{features['key'][0]}.mp4")
    assert __main__.main(["classify", "predict", video, "--model", model, "--with", str(tmp_path / "other.keras")]) == 1
    assert "other.keras must fit features of 2048 channels, it was trained on 1280" in capsys.readouterr().err


def test_what_is_missing_is_said_in_one_line(tmp_path, capsys):
    assert __main__.main(["classify", "evaluate", "--run", str(tmp_path)]) == 1
    assert "Run classify train first" in capsys.readouterr().err
    (tmp_path / "p.yaml").write_text("08: {unit: 3}")
    given = ["--data", str(tmp_path), "--out", str(tmp_path), "--params", str(tmp_path / "p.yaml")]
    assert __main__.main(["classify", "train", *given]) == 1
    assert "unknown parameter 'unit'" in capsys.readouterr().err
