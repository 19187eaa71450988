"""Trainings of all folds and seeds, and the tables that come of them."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from drawn_features import write_drawn
from sklearn.metrics import accuracy_score

from helpers import __main__
from helpers.classification import calibration_error, evaluate_all, gains, per_class, reliability, score_models
from helpers.clip_features import feature_file
from helpers.config import ClassificationConfig
from helpers.files import ROOT
from helpers.store import read_arrays

CLASSES = ["a", "b", "c"]
SMALL = {"scales": [1.0], "folds": 3, "n_models": 2, "units": 8, "epochs": 20, "clips_per_batch": 8} | {
    "learning_rate": 0.02, "patience": 0, "views": 1, "tta_views": 1, "workers": 1
}  # fmt: skip
SCRIPT = """
import sys
from helpers.classification import evaluate_all
from helpers.config import ClassificationConfig
evaluate_all(ClassificationConfig.checked(eval(sys.argv[1])))
"""


def invented(n_sources=20):
    """Models that are right as often as their names say, on three clips of each source."""
    random = np.random.RandomState(0)
    truth, sources = np.tile([0, 1, 2], n_sources), np.repeat(np.arange(n_sources), 3)

    def right(share):
        return np.eye(3)[np.where(random.random_sample(len(truth)) < share, truth, (truth + 1) % 3)] * 0.7 + 0.1

    models = {"bag_of_frames": 0.4, "bilstm": 0.8, "bilstm_augmented": 0.85, "ensemble": 0.95}
    views = ("plain", "noise", "blur")
    p = {"majority": dict.fromkeys(views, np.full((len(truth), 3), 1 / 3))}
    return p | {name: {view: right(share) for view in views} for name, share in models.items()}, truth, sources


def test_accuracies_stand_beside_both_baselines_with_paired_intervals():
    p, truth, sources = invented()
    scores = score_models(p, truth, sources)
    for name, by_view in p.items():
        low, high = scores[name]["interval"]
        right = {view: accuracy_score(truth, x.argmax(1)) for view, x in by_view.items()}
        assert scores[name]["accuracy"] == pytest.approx(right["plain"])
        assert low <= scores[name]["accuracy"] <= high
        assert scores[name]["accuracy_corrupted"] == pytest.approx((right["noise"] + right["blur"]) / 2)
    assert scores["majority"]["interval"] == [pytest.approx(1 / 3)] * 2  # one clip of each class in every source
    assert scores["bag_of_frames"]["minus_bag_of_frames"] == [0, 0]
    assert scores["bilstm"]["minus_bag_of_frames"][0] > 0


def test_gains_are_differences_to_the_step_before_over_all_damaged_copies():
    p, truth, sources = invented()
    steps, scores = gains(p, truth, sources), score_models(p, truth, sources)
    assert list(steps) == ["bilstm_augmented - bilstm", "ensemble - bilstm_augmented"]
    found = steps["ensemble - bilstm_augmented"]
    for kind, column in (("clean", "accuracy"), ("corrupted", "accuracy_corrupted")):
        expected = scores["ensemble"][column] - scores["bilstm_augmented"][column]
        assert found[kind]["difference"] == pytest.approx(expected)
        assert found[kind]["interval"][0] < expected < found[kind]["interval"][1]


def test_a_class_is_scored_against_the_others():
    truth = np.array([0, 0, 1, 1, 2, 2])
    p = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]])
    table = per_class(p, truth, CLASSES)
    assert table.loc["a"].to_dict() == pytest.approx(
        {"precision": 1, "recall": 0.5, "f1": 2 / 3, "clips": 2, "roc_auc": 15 / 16, "average_precision": 1}, abs=0.1
    )
    assert table.loc["b", "precision"] == pytest.approx(2 / 3)


def test_calibration_error_is_the_distance_of_confidence_and_accuracy():
    truth, p = np.zeros(100, int), np.tile([0.82, 0.1, 0.08], (100, 1))
    p[:40] = [0.03, 0.95, 0.02]  # 40 clips, sure of the wrong class; 60 of .82, all right
    p[40:60] = [0.55, 0.25, 0.2]
    assert calibration_error(p, truth) == pytest.approx(0.4 * 0.95 + 0.2 * 0.45 + 0.4 * 0.18)
    table = reliability(p, truth)
    assert table["clips"].tolist() == [20, 40, 40]
    assert table["accuracy"].tolist() == [1, 1, 0]


def config(folder, **values):
    cfg = ClassificationConfig(out_dir=str(folder), **SMALL | values)
    noisy = {f"{name}{after}": 1.0 for name in ("noise", "blur", "dark") for after in ("", "_tta01")}
    write_drawn(feature_file(cfg, "train").parent, 9, view01=0.3, tta01=0.2, **noisy)
    return cfg


def trainings(cfg):
    return {path.name: read_arrays(path) for path in (cfg.out / "classification" / "models").glob("[!.]*.npz")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted, and its results."""
    cfg = config(tmp_path_factory.mktemp("whole"))
    return cfg, evaluate_all(cfg)


def test_an_evaluation_writes_what_the_summary_takes_and_the_classifier_beats_the_bag(whole):
    (_, results), folder = whole, whole[0].out / "classification"
    models = results["models"]
    assert list(models) == [
        "majority", "bag_of_frames", "bilstm", "bilstm_augmented", "bilstm_augmented_tta", "ensemble"
    ]  # fmt: skip
    assert models["bilstm"]["minus_bag_of_frames"][0] > 0
    assert models["ensemble"]["minus_majority"][0] > 0
    assert results["split"] == {
        "by": "source", "folds": 3, "clips": 27, "sources": 9, "test_clips": 27, "test_sources": 9,
        "test_clips_sharing_a_source_with_train": 0,
    }  # fmt: skip
    assert np.sum(results["confusion"]) == 27
    assert json.loads((folder / "classification.json").read_text())["best"] == "ensemble"
    said = pd.read_csv(folder / "predictions.csv")
    assert list(said.columns[:7]) == ["model", "variant", "clip", "source", "fold", "truth", "prediction"]
    rows = said[(said["model"] == "ensemble") & (said["variant"] == "plain")]
    assert (rows["truth"] == rows["prediction"]).mean() == models["ensemble"]["accuracy"]
    np.testing.assert_allclose(rows[["p_down", "p_turn", "p_up"]].sum(axis=1), 1, atol=1e-5)
    card = json.loads((folder / "model" / "card.json").read_text())
    assert sorted(path.name for path in (folder / "model").glob("*.keras")) == sorted(card["checkpoints"])
    assert len(card["checkpoints"]) == 6


def test_every_training_leaves_the_probabilities_of_its_test_clips_in_every_view(whole):
    cfg, _ = whole
    found = trainings(cfg)
    assert len(found) == 12  # bag and bilstm in 3 folds, bilstm_augmented in 3 folds with 2 seeds
    for name, arrays in found.items():
        assert {"p_plain", "p_noise", "p_noise_tta01", "test", "stamp"} <= set(arrays), name
        assert arrays["p_noise"].shape == (9, 3)
        checkpoint = (cfg.out / "classification" / "models" / name).with_suffix(".keras")
        assert checkpoint.exists() != name.startswith("bag")
    assert not np.array_equal(
        found["bilstm_augmented-0-0.npz"]["p_plain"], found["bilstm_augmented-0-1.npz"]["p_plain"]
    )


def test_a_run_that_is_killed_and_started_again_gives_the_same(whole, tmp_path):
    cfg = config(tmp_path, workers=2)
    values = repr(cfg.as_dict(without=()))
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, values], cwd=ROOT)
    deadline = time.monotonic() + 300
    while len(trainings(cfg)) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL) if os.name != "nt" else process.kill()
    process.wait()
    folder = cfg.out / "classification" / "models"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("[!.]*.npz")}
    assert 2 <= len(before) < 12
    evaluate_all(cfg)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    expected = trainings(whole[0])
    for name, arrays in trainings(cfg).items():
        for key, found in arrays.items():
            if key != "stamp":
                np.testing.assert_array_equal(found, expected[name][key], err_msg=f"{name}, {key}")


def test_what_is_missing_or_unknown_is_said_in_one_line(tmp_path, capsys):
    (tmp_path / "p.yaml").write_text("08: {unit: 3}")
    given = ["--data", str(tmp_path), "--out", str(tmp_path), "--params", str(tmp_path / "p.yaml")]
    assert __main__.main(["classify", "train", *given]) == 1
    assert "'unit'" in capsys.readouterr().err
