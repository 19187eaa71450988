import matplotlib.pyplot as plt
import numpy as np
import pytest

from helpers.classification import class_curves, per_class, reliability
from helpers.plots import classification as drawings

pytestmark = pytest.mark.usefixtures("figures")

CLASSES = ("left_right", "still")
TRUTH = np.array([0, 0, 0, 1, 1])
P = np.array([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
MODELS = {
    "majority": {"accuracy": 0.5, "interval": [0.4, 0.6], "accuracy_corrupted": None},
    "bilstm": {"accuracy": 0.8, "interval": [0.7, 0.9], "accuracy_corrupted": 0.65},
}


def test_accuracies_are_drawn_with_their_intervals_and_the_damaged_clips_on_the_given_axes():
    _, ax = plt.subplots()
    assert drawings.plot_accuracies(MODELS, ax=ax) is ax
    assert [patch.get_width() for patch in ax.patches] == [0.5, 0.8]
    reach = [segment[:, 0] for segment in ax.collections[0].get_segments()]
    np.testing.assert_allclose(reach, [[0.4, 0.6], [0.7, 0.9]])
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [np.nan, 0.65])
    assert ax.get_title(loc="left") == "bilstm: 0.80, majority 0.50"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["majority", "bilstm"]


def test_a_confusion_matrix_shows_counts_on_the_share_of_the_true_class():
    ax = drawings.plot_confusion([[3, 1], [0, 4]], CLASSES)
    np.testing.assert_allclose(ax.collections[0].get_array(), [[0.75, 0.25], [0, 1]])
    assert [text.get_text() for text in ax.texts] == ["3", "1", "0", "4"]
    assert ax.get_title(loc="left") == "7 of 8 clips right"
    assert ax.collections[0].colorbar.ax.get_ylabel() == "share of the true class"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true class")


def test_curves_carry_their_areas():
    table = per_class(P, TRUTH, CLASSES)
    fig = drawings.plot_curves(class_curves(P, TRUTH, CLASSES), table)
    labels = [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
    assert labels == [
        f"{name} {area:.2f}" for name, area in zip(("left right", "still"), table["roc_auc"], strict=True)
    ]
    assert [ax.get_xlabel() for ax in fig.axes] == ["false positive rate", "recall"]


def test_reliability_has_a_panel_per_model_with_confidence_against_accuracy():
    table = reliability(P, TRUTH)
    fig = drawings.plot_reliability({"bilstm": table, "ensemble": table}, {"bilstm": 0.1, "ensemble": 0.2})
    below = fig.axes[2]
    points = below.lines[1]
    np.testing.assert_allclose(points.get_xdata(), table["confidence"])
    np.testing.assert_allclose(points.get_ydata(), table["accuracy"])
    few = [bar.get_height() for bar, n in zip(below.patches, table["clips"], strict=True) if n < drawings.FEW_CLIPS]
    assert few
    assert np.isnan(few).all()
    assert fig.axes[1].get_title(loc="left") == "ensemble\ncalibration error 0.20"


def test_gains_are_drawn_with_their_intervals_around_zero():
    gain = {"difference": 0.1, "interval": [0.05, 0.2]}
    ax = drawings.plot_gains({"b - a": {"clean": gain}, "c - b": {"clean": gain, "corrupted": gain}})
    dots, _, (reach,) = ax.containers[0].lines
    assert dots.get_xdata().tolist() == [0.1, 0.1]
    np.testing.assert_allclose(reach.get_segments()[0][:, 0], [0.05, 0.2])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b\n− a", "c\n− b"]
    assert {text.get_text() for text in ax.figure.legends[0].get_texts()} == {"clips as they are", "damaged clips"}
