"""The BiLSTM and the bag of frames, trainings of all folds and seeds, the tables of them, classes of videos."""

import shutil
import time
from dataclasses import replace
from multiprocessing import get_context

import keras
import numpy as np
import pandas as pd
import pytest
from synthetic_features import N_FRAMES, WIDTH, synthetic_clips

from helpers import __main__
from helpers.classifier import (
    FrameClassifier,
    build_classifier,
    evaluate_all,
    gains,
    load_clip_classifier,
    score_models,
)
from helpers.clip_features import LabelledClips, extract_clip_features, views_of
from helpers.config import ClassificationConfig, TrainingConfig
from helpers.files import ROOT, read_json, write_json
from helpers.model import CompletePersonalityModel
from helpers.store import FeatureFile, read_arrays, write_features
from helpers.train import Trainer

MOTION = ROOT / "data_sample" / "motion" / "test"
SMALL = {"scales": [1.0], "folds": 3, "n_models": 2, "units": 8, "epochs": 20, "clips_per_batch": 8} | {
    "learning_rate": 0.02, "patience": 0, "views": 1, "tta_views": 1, "workers": 1
}  # fmt: skip
NOISE = {"view01": 0.3, "tta01": 0.2} | {f"{n}{tta}": 1.0 for n in ("noise", "blur", "dark") for tta in ("", "_tta01")}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_what_only_order_tells_is_learned_in_every_precision_and_a_clip_is_told_alike_beside_longer_ones(
    precision, tmp_path
):
    model = build_classifier(WIDTH, 3, ClassificationConfig(units=8, precision=precision), seed=5)
    (train, _), _, (clips, truth) = parts = [synthetic_clips(n, seed=n) for n in (30, 10, 50)]
    model.adapt(np.concatenate(train))
    parts = [(model.reduce(part), np.eye(3, dtype="float32")[labels]) for part, labels in parts[:2]]
    training = TrainingConfig(epochs=25, batch_size=16, learning_rate=0.02, weight_decay=0.0)
    Trainer(model, training, keras.losses.CategoricalCrossentropy()).fit(model, *parts)
    assert model.lstm.compute_dtype == precision
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    p = model.classify(model.reduce(clips))
    assert (p.argmax(1) == truth).mean() > 0.9
    beside = model.classify(model.reduce([*clips, np.concatenate([clips[0], clips[1]])]))
    np.testing.assert_allclose(beside[: len(p)], p, atol=1e-5 if precision == "float32" else 1e-2)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.classify(again.reduce(clips)), p)


def test_components_keep_their_proportions():
    random, spread = np.random.RandomState(0), np.array([4.0, 2.0, 1.0])
    directions = np.linalg.qr(random.normal(size=(11, 11)))[0][:3]
    clips = (random.normal(size=(7, 13, 3)) * spread) @ directions + 5
    model = FrameClassifier(11, 2, 4, 0.0, components=3)
    model.adapt(np.concatenate(clips))
    z = model.reduce(clips)["frames"].reshape(-1, 3)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-4)
    assert z[:, 0].std() == pytest.approx(1, rel=0.01)
    assert z[:, 0].std() > z[:, 1].std() > z[:, 2].std()


def test_accuracies_stand_beside_both_baselines_and_gains_are_paired():
    """Models that are right as often as told, on three clips of each source."""
    random, sources, views = np.random.RandomState(0), np.repeat(np.arange(20), 3), ("plain", "noise", "blur")
    shares = {"bag_of_frames": 0.4, "bilstm": 0.8, "bilstm_augmented": 0.85, "ensemble": 0.95}
    right = {("majority", view): np.tile([1.0, 0, 0], 20) for view in views}
    right |= {(name, view): 1.0 * (random.random_sample(60) < shares[name]) for name in shares for view in views}
    scores = score_models(right := pd.DataFrame(right), sources)
    for name in ("majority", *shares):
        assert scores[name]["accuracy"] == pytest.approx(right[name]["plain"].mean())
        assert scores[name]["accuracy_corrupted"] == pytest.approx(right[name][["noise", "blur"]].to_numpy().mean())
    assert scores["majority"]["interval"] == [pytest.approx(1 / 3)] * 2  # one clip of each class in every source
    assert scores["bag_of_frames"]["minus_bag_of_frames"] == [0, 0]
    assert scores["bilstm"]["minus_bag_of_frames"][0] > 0
    steps = gains(right, sources)
    for kind, column in (("clean", "accuracy"), ("corrupted", "accuracy_corrupted")):
        found = steps["ensemble - bilstm_augmented"][kind]
        expected = scores["ensemble"][column] - scores["bilstm_augmented"][column]
        assert found["value"] == pytest.approx(expected)
        assert found["interval"][0] < expected < found["interval"][1]


def trainings(cfg):
    """Arrays and time of each training that was done, by name."""
    files = (cfg.out / "classification" / "models").glob("[!.]*.npz")
    return {path.stem: (read_arrays(path), path.stat().st_mtime_ns) for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted: its clips, which are synthetic, its parameters and its results."""
    cfg = ClassificationConfig(out_dir=str(tmp_path_factory.mktemp("whole")), **SMALL)
    views, classes, folder = views_of("train", cfg), ["down", "turn", "up"], cfg.out / "classification" / "views"
    shown, labels = [synthetic_clips(9, view_noise=NOISE.get(view, 0.0))[0] for view in views], np.arange(27) % 3
    table = pd.DataFrame({"split": "train", "source": [f"{k // 3:03}" for k in range(27)], "label": labels})
    table.index = pd.Index([f"train/{classes[label]}/{source}" for _, source, label in table.to_numpy()], name="key")
    t_s, view = np.tile(np.arange(N_FRAMES) / 10.0, len(views)), np.repeat(views, N_FRAMES)
    for k, key in enumerate(table.index):
        features = np.concatenate([clips[k] for clips in shown])
        rows = FeatureFile(features, t_s, t_s, t_s, np.ones(len(t_s), bool), view=view)
        write_features(folder / f"{key}.npz", rows)
    clips = LabelledClips(table, classes, [], folder, {"identity": {}, "counts": {"feature_dim": WIDTH}, "failed": []})
    return clips, cfg, evaluate_all(clips, cfg)


def test_an_evaluation_writes_what_the_summary_takes_and_the_classifier_beats_the_bag(whole):
    _, cfg, results = whole
    folder, models = cfg.out / "classification", results["models"]
    assert models["bilstm"]["minus_bag_of_frames"][0] > 0
    assert models["ensemble"]["minus_majority"][0] > 0
    assert results["split"] == {
        "by": "source", "folds": 3, "clips": 27, "sources": 9, "test_clips": 27, "test_sources": 9,
        "test_clips_sharing_a_source_with_train": 0,
    }  # fmt: skip
    assert np.sum(results["confusion"]) == 27
    assert read_json(folder / "classification.json")["best"] == "ensemble"
    assert np.trace(results["confusion"]) / 27 == pytest.approx(models["ensemble"]["accuracy"])
    checkpoints = read_json(folder / "model" / "card.json")["checkpoints"]
    assert sorted(path.name for path in (folder / "model").glob("*.keras")) == sorted(checkpoints)
    assert len(checkpoints) == 6
    found = trainings(cfg)
    assert len(found) == 12  # bag and bilstm in 3 folds, bilstm_augmented in 3 folds with 2 seeds
    assert not np.array_equal(*(found[f"bilstm_augmented-0-{seed}"][0]["p_plain"] for seed in (0, 1)))


def test_a_run_that_is_killed_and_started_again_gives_the_same(whole, tmp_path):
    clips, cfg, _ = whole
    again = replace(cfg, out_dir=str(tmp_path), workers=2)
    process = get_context("spawn").Process(target=evaluate_all, args=(clips, again))
    process.start()
    while process.is_alive() and len(list(tmp_path.rglob("[!.]*.npz"))) < 2:
        time.sleep(0.02)
    process.kill()
    process.join()
    before = trainings(again)
    assert 2 <= len(before) < 12
    evaluate_all(clips, again)
    after = trainings(again)
    assert {name: after[name][1] for name in before} == {name: at for name, (_, at) in before.items()}
    for name, (arrays, _) in trainings(cfg).items():
        for key in arrays.keys() - {"fingerprint"}:
            np.testing.assert_array_equal(after[name][0][key], arrays[key], err_msg=f"{name}, {key}")
    evaluate_all(clips, replace(again, epochs=1, views=0, n_models=1))
    changed = {name for name, (_, at) in trainings(again).items() if after[name][1] != at}
    assert changed == {f"{name}-{fold}-0" for name in ("bag_of_frames", "bilstm") for fold in range(3)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder of two classes, and a model of it with two untrained checkpoints; features of two clips by key."""
    folder = tmp_path_factory.mktemp("run")
    for name in ("lean_raise_bow", "raise_bow_lean"):
        shutil.copytree(MOTION / name, folder / "data" / "train" / name)
    how = {"folds": 3, "views": 0, "tta_views": 0, "n_frames": 4, "workers": 1}
    cfg = ClassificationConfig(data_dir=str(folder / "data"), out_dir=str(folder), **how)
    clips = extract_clip_features(cfg)
    features = {key: next(clips.read(key))[0] for key in clips.table.index[[0, -1]]}
    (folder / "model").mkdir()
    for seed in (0, 1):
        member = build_classifier(2048, 2, ClassificationConfig(units=4, components=1), seed)
        member.adapt(np.concatenate([*features.values()]))
        member.save(folder / "model" / f"{seed}.keras")
    config = cfg.as_dict(without=("data_dir", "out_dir", "workers", "progress"))
    card = {"classes": clips.classes, "checkpoints": ["0.keras", "1.keras"], "config": config, "synthetic": True}
    write_json(folder / "model" / "card.json", card)
    return folder, features


def test_videos_are_seen_as_the_clips_of_the_run_were_and_the_command_names_those_that_it_could_not_use(
    run, tmp_path, capsys
):
    folder, features = run
    names = {"clip9": 0, "clip10": 1, "deep/clip11": 0}  # in natural order; whose copies they are
    members = load_clip_classifier(folder / "model").members
    p = [member.classify(member.reduce(features.values())) for member in members]
    assert np.abs(p[0] - p[1]).max() > 0.01
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for name, k in names.items():
        shutil.copyfile(folder / "data" / f"{[*features][k]}.mp4", tmp_path / "videos" / f"{name}.mp4")
    (bad := tmp_path / "videos" / "bad.mp4").write_bytes(b"no video")
    found = tmp_path / "p.json"
    given = [tmp_path / "videos", tmp_path / "empty", "--model", folder / "model", "--json", found]
    assert __main__.main(["classify", "predict", *map(str, given)]) == 0  # what failed is listed
    said, (out, err) = read_json(found), capsys.readouterr()
    videos = [str(tmp_path / "videos" / f"{name}.mp4") for name in names]
    assert [line.split(": ")[0] for line in out.splitlines()[:3]] == videos
    assert ["random" in said["warnings"][0], "synthetic" in said.pop("warnings")[1]] == [True, True]
    assert said.keys() == set(videos)
    for video, k in zip(videos, names.values(), strict=True):
        assert list(said[video]) == ["lean_raise_bow", "raise_bow_lean"]
        np.testing.assert_allclose(list(said[video].values()), np.mean(p, axis=0)[k], atol=1e-3)
    assert str(bad) in err
    assert str(tmp_path / "empty") in err


def test_what_does_not_fit_is_refused_by_name_before_it_is_loaded(run, tmp_path, capsys):
    card = read_json(run[0] / "model" / "card.json")
    CompletePersonalityModel(6, 6, 8, 1).save(tmp_path / "traits.keras")
    build_classifier(6, 3, ClassificationConfig(units=8), seed=5).save(tmp_path / "narrow.keras")
    for known, word in (
        ({"targets": ["openness"]}, "traits"),
        (card | {"checkpoints": ["traits.keras"]}, "trained with None"),
        (card | {"checkpoints": ["narrow.keras"]}, "trained with 6"),
    ):
        write_json(tmp_path / "card.json", known)
        assert __main__.main(["classify", "predict", "video.mp4", "--model", str(tmp_path)]) == 1
        assert word in capsys.readouterr().err
