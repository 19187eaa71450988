"""Figures of one clip, of equal clips, of no value at all: drawn without a warning, and with words."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from helpers import metrics
from helpers.clips import TRAITS
from helpers.plots import alignment, analysis, attention, classification, dynamic, features, preparation, training

PIXELS = np.zeros((1, 8, 8, 3), np.uint8)
ONE = pd.DataFrame([np.linspace(0.2, 0.6, 5)], columns=TRAITS)
EQUAL = pd.DataFrame(np.full((8, 5), 0.5), columns=TRAITS)
NO_ENDS = {"value": 0.1, "low": None, "high": None}
ENDS = [f"{side}{end}" for side in ("over_constant", "under_token") for end in ("", "_low", "_high")]


def models(**differences):
    """The part of a table of models that is about differences: all without an interval."""
    rows = {name: [value, np.nan, np.nan] * 2 for name, value in differences.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=ENDS)


def predictions(truth):
    """Equal predictions of clips with these ratings."""
    rows = truth.rename_axis("clip").melt(var_name="trait", value_name="truth", ignore_index=False)
    return rows.reset_index().assign(prediction=0.5)


def accuracies():
    return {name: {"accuracy": 0.5, "interval": None, "accuracy_corrupted": None} for name in ("majority", "bilstm")}


DRAWN = {
    "one row": (
        lambda: features.plot_rows(np.ones((1, 7)), np.array([0.2])),
        "no channel varies over the clip's 1 row",
    ),
    "equal rows": (lambda: features.plot_rows(np.ones((3, 7)), np.arange(3.0)), "varies over the clip's 3 rows"),
    "one token": (
        lambda: alignment.plot_component_spread({"face": np.ones((1, 5)), "motion": np.zeros((1, 3))}),
        "no channel varies over the tokens",
    ),
    "times of one token": (lambda: alignment.plot_token_times(np.zeros(1), np.zeros(1), segment_s=0.5), "motion"),
    "one moment": (lambda: dynamic.plot_evolution(np.zeros(1), np.zeros((1, 2)), ["a", "b"]), "a"),
    "no answer": (lambda: dynamic.plot_space_time(np.zeros((1, 1)), np.zeros(1), np.zeros(1)), "activation"),
    "flat": (lambda: dynamic.plot_surface(np.zeros((2, 2)), np.arange(2), np.arange(2)), "activation"),
    "no motion": (
        lambda: dynamic.plot_flow_and_features(
            PIXELS, np.zeros(1), np.zeros((1, 2, 2)), np.zeros(1), np.zeros((1, 3)), np.zeros(1)
        ),
        "flow",
    ),
    "silent layers": (lambda: features.plot_layers(["a", "b"], [np.zeros(3), np.ones(1)]), "100% are 0"),
    "silent maps": (lambda: features.plot_feature_maps(np.zeros((1, 2, 2)), [3], 32), "channel 3"),
    "one row's channels": (lambda: features.plot_channels(np.ones((1, 1))), "median"),
    "copies": (lambda: features.plot_points(pd.DataFrame(np.zeros((3, 2)), columns=["x", "y"])), "t-SNE 1"),
    "one crop": (lambda: preparation.plot_crops(PIXELS, [0.0], title="a long " * 8), ""),
    "one map": (lambda: features.plot_overlay(PIXELS, np.zeros((1, 2, 2)), [0.0]), ""),
    "one rating": (lambda: analysis.plot_rating_distributions(ONE), "sd –"),
    "equal ratings": (lambda: analysis.plot_rating_distributions(EQUAL), "sd 0.00"),
    "correlations of one": (lambda: analysis.plot_trait_correlations(ONE.corr()), "No pair of ratings varies"),
    "correlations of equals": (lambda: analysis.plot_trait_correlations(EQUAL.corr()), "No pair of ratings varies"),
    "no difference": (lambda: training.plot_comparisons(models(ridge=np.nan)), "R² is not defined"),
    "no interval": (lambda: training.plot_comparisons(models(ridge=0.1)), "too few sources for an interval"),
    "groups": (
        lambda: training.plot_group_errors({"a": {"clips": 1} | dict.fromkeys(training.GROUP_MEASURES, NO_ENDS)}),
        "too few sources for an interval",
    ),
    "traits": (lambda: training.plot_correlations(*metrics.trait_correlations(predictions(ONE))), "mean |r| –"),
    "calibration": (lambda: training.plot_calibration(metrics.calibration(predictions(EQUAL))), "O, slope –"),
    "predictions": (lambda: training.plot_predictions(predictions(ONE), dict.fromkeys(TRAITS, 0.5)), "1−MAE"),
    "accuracies": (lambda: classification.plot_accuracies(accuracies()), "bilstm"),
    "gains": (lambda: classification.plot_gains({"b - a": {"clean": {"difference": 0, "interval": None}}}), "b"),
    "maps": (
        lambda: attention.plot_map_correlations({"the same clip": {"occlusion": {"value": None, "interval": None}}}),
        "the same clip",
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_not_defined_is_said_in_the_figure(name):
    draw, words = DRAWN[name]
    drawn = draw()
    fig = getattr(drawn, "figure", drawn)
    fig.savefig(io.BytesIO())
    said = " ".join(text.get_text() for text in fig.findobj(plt.Text))
    plt.close("all")
    assert words in said
    assert "nan" not in said
    assert "None" not in said
