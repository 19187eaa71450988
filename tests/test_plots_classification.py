import matplotlib.pyplot as plt
import numpy as np
import pytest

from helpers.classification import per_class, reliability
from helpers.plots import classification as drawings

pytestmark = pytest.mark.usefixtures("figures")

CLASSES = ["left_right", "still"]
TRUTH = np.array([0, 0, 0, 1, 1])
P = np.array([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
MODELS = {
    "majority": {"accuracy": 0.5, "interval": None, "accuracy_corrupted": 0.5},
    "bilstm": {"accuracy": 0.8, "interval": [0.7, 0.9], "accuracy_corrupted": 0.65},
}


def test_accuracies_are_drawn_with_their_intervals_and_the_damaged_clips_on_the_given_axes():
    _, ax = plt.subplots()
    assert drawings.plot_accuracies(MODELS, ax=ax) is ax
    assert [patch.get_width() for patch in ax.patches] == [0.5, 0.8]
    np.testing.assert_allclose(ax.collections[0].get_segments()[-1][:, 0], [0.7, 0.9])
    assert 0.65 in ax.lines[-2].get_xdata()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["majority", "bilstm"]


def test_a_confusion_matrix_shows_counts_on_the_share_of_the_true_class():
    ax = drawings.plot_confusion([[3, 1], [0, 4]], CLASSES)
    np.testing.assert_allclose(ax.collections[0].get_array(), [[0.75, 0.25], [0, 1]])
    assert [text.get_text() for text in ax.texts] == ["3", "1", "0", "4"]


def test_curves_carry_their_areas():
    labels = [text.get_text() for text in drawings.plot_curves(P, TRUTH, CLASSES).axes[0].get_legend().get_texts()]
    areas = per_class(P, TRUTH, CLASSES)["roc_auc"]
    assert [f"{area:.2f}" in label for area, label in zip(areas, labels, strict=False)] == [True, True]


def test_reliability_has_a_panel_per_model_with_confidence_against_accuracy():
    table = reliability(P, TRUTH)
    below = drawings.plot_reliability({"bilstm": table, "ensemble": table}, {"bilstm": 0.1, "ensemble": 0.2}).axes[2]
    np.testing.assert_allclose(below.lines[1].get_xdata(), table["confidence"])
    np.testing.assert_allclose(below.lines[1].get_ydata(), table["accuracy"])
    assert np.isnan([bar.get_height() for bar in below.patches]).all()  # few clips in each bin


def test_gains_are_drawn_with_their_intervals_around_zero():
    gain = {"difference": 0.1, "interval": [0.05, 0.2]}
    both = {"clean": gain, "corrupted": gain | {"interval": None}}
    ax = drawings.plot_gains({"b - a": both, "c - b": both})
    dots, _, (reach,) = ax.containers[0].lines
    assert dots.get_xdata().tolist() == [0.1, 0.1]
    np.testing.assert_allclose(reach.get_segments()[0][:, 0], [0.05, 0.2])
