import json

import numpy as np
import pandas as pd
import pytest
from drawn_features import write_drawn
from sklearn.metrics import accuracy_score

from helpers.classification import (
    calibration_error,
    class_curves,
    evaluate_all,
    gains,
    per_class,
    reliability,
    score_models,
)
from helpers.clip_features import features_folder
from helpers.config import ClassificationConfig

CLASSES = ("a", "b", "c")


def one_hot(labels):
    return np.eye(3)[labels] * 0.7 + 0.1


def invented(n_sources=20, seed=0):
    """Models that are right as often as their names say, on three clips of each source."""
    random = np.random.RandomState(seed)
    truth, sources = np.tile([0, 1, 2], n_sources), np.repeat(np.arange(n_sources), 3)
    wrong = (truth + 1) % 3

    def right(share):
        return one_hot(np.where(random.random_sample(len(truth)) < share, truth, wrong))

    models = {"majority": 1 / 3, "bag_of_frames": 0.4, "bilstm": 0.8, "bilstm_augmented": 0.85, "ensemble": 0.95}
    p = {name: {"plain": right(share), "noise": right(share / 2)} for name, share in models.items()}
    return p | {"majority": dict.fromkeys(("plain", "noise"), np.full((len(truth), 3), 1 / 3))}, truth, sources


def test_accuracies_stand_beside_both_baselines_with_paired_intervals():
    p, truth, sources = invented()
    scores = score_models(p, truth, sources)
    for name, by_variant in p.items():
        assert scores[name]["accuracy"] == pytest.approx(accuracy_score(truth, by_variant["plain"].argmax(1)))
        low, high = scores[name]["interval"]
        assert low <= scores[name]["accuracy"] <= high
    assert scores["majority"]["interval"] == [pytest.approx(1 / 3)] * 2  # one clip of each class in every source
    assert scores["bag_of_frames"]["minus_bag_of_frames"] == [0, 0]
    assert scores["bilstm"]["minus_bag_of_frames"][0] > 0
    assert scores["ensemble"]["accuracy_corrupted"] == pytest.approx(
        accuracy_score(truth, p["ensemble"]["noise"].argmax(1))
    )


def test_gains_are_differences_to_the_step_before_over_all_damaged_copies():
    p, truth, sources = invented()
    for by_variant in p.values():
        by_variant["blur"] = by_variant["plain"]
    steps = gains(p, truth, sources)
    assert list(steps) == ["bilstm_augmented - bilstm", "ensemble - bilstm_augmented"]
    shares = [
        np.mean([accuracy_score(truth, p[name][view].argmax(1)) for view in ("noise", "blur")])
        for name in ("ensemble", "bilstm_augmented")
    ]
    found = steps["ensemble - bilstm_augmented"]["corrupted"]
    assert found["difference"] == pytest.approx(shares[0] - shares[1])
    assert found["interval"][0] < found["difference"] < found["interval"][1]


def test_a_class_table_and_its_curves_agree():
    truth = np.array([0, 0, 1, 1, 2, 2])
    p = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]])
    table = per_class(p, truth, CLASSES)
    assert table.loc["a", ["precision", "recall", "f1", "clips"]].tolist() == [1, 0.5, pytest.approx(2 / 3), 2]
    assert table.loc["b", "precision"] == pytest.approx(2 / 3)
    curve = class_curves(p, truth, CLASSES)["a"]
    assert np.trapezoid(curve["tpr"], curve["fpr"]) == pytest.approx(table.loc["a", "roc_auc"])


def test_calibration_error_is_the_distance_of_confidence_and_accuracy():
    truth = np.zeros(100, int)
    p = np.tile([0.8, 0.1, 0.1], (100, 1))
    p[20:60] = [0.05, 0.9, 0.05]  # 40 clips, sure of the wrong class; 60 of .8, all right
    assert calibration_error(p, truth) == pytest.approx(0.6 * 0.2 + 0.4 * 0.9)
    table = reliability(p, truth)
    assert table["clips"].tolist() == [60, 40]
    assert table["accuracy"].tolist() == [1, 0]
    p[:] = [1.0, 0.0, 0.0]
    assert calibration_error(p, truth) == 0


def test_an_evaluation_writes_what_the_summary_takes_and_the_classifier_beats_the_bag(tmp_path):
    cfg = ClassificationConfig(
        out_dir=str(tmp_path), scales=[1.0], folds=3, n_models=2, units=8, epochs=30, patience=0, workers=1,
        learning_rate=0.02, clips_per_batch=8,
    )  # fmt: skip
    write_drawn(features_folder(cfg), 9, view01=0.3, tta01=0.2, noise=1.0, noise_tta01=1.0)
    results = evaluate_all(cfg)
    names = ["majority", "bag_of_frames", "bilstm", "bilstm_augmented", "bilstm_augmented_tta", "ensemble"]
    assert list(results["models"]) == names
    assert results["models"]["bilstm"]["minus_bag_of_frames"][0] > 0
    assert results["models"]["ensemble"]["minus_majority"][0] > 0
    assert results["split"] == {
        "by": "source", "folds": 3, "clips": 27, "sources": 9, "test_clips": 27, "test_sources": 9,
        "test_clips_sharing_a_source_with_train": 0,
    }  # fmt: skip
    assert np.sum(results["confusion"]) == 27
    assert json.loads((tmp_path / "classification" / "classification.json").read_text())["best"] == "ensemble"
    said = pd.read_csv(tmp_path / "classification" / "predictions.csv")
    rows = said[(said["model"] == "ensemble") & (said["variant"] == "plain")]
    assert (rows["truth"] == rows["prediction"]).mean() == results["models"]["ensemble"]["accuracy"]
    np.testing.assert_allclose(rows[["p_down", "p_turn", "p_up"]].sum(axis=1), 1, atol=1e-5)
