"""Plots of notebook 02 about its methods: what is drawn is read back from the artists."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from benchmarks.flow import accuracy_table
from helpers.plots import preparation


@pytest.fixture(autouse=True)
def figures():
    yield
    plt.close("all")


@pytest.fixture
def decoders():
    rows = {
        "pyav": {"exact": True, "mean_levels": 0.0, "max_levels": 0, "times_reference": 1.0},
        "opencv": {"exact": True, "mean_levels": 0.3, "max_levels": 5, "times_reference": 0.5},
        "cuda": {"exact": False, "mean_levels": 31.0, "max_levels": 255, "times_reference": 3.0},
        "qsv": {"error": "it decodes in software"},
    }
    return pd.DataFrame.from_dict(rows, orient="index")


@pytest.fixture
def errors():
    rows = [
        ("slow", "shift 3 px", 3.0, 0.1, 0.2, 5.0),
        ("slow", "turn 3°", 2.0, 0.3, 0.4, 5.0),
        ("fast", "shift 3 px", 3.0, 0.5, 0.6, 900.0),
        ("fast", "turn 3°", 2.0, 0.7, 1.6, 900.0),
    ]
    return pd.DataFrame(rows, columns=["method", "warp", "motion_px", "clean_px", "noisy_px", "fields_per_s"])


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_jitter_shows_every_clip_and_says_what_smoothing_leaves():
    jitter_px = pd.DataFrame({"as found": [4.0, 2.0, 6.0], "smoothed": [1.0, 0.5, 3.0], "one box": 0.0})
    _, ax = plt.subplots()
    assert preparation.plot_jitter(jitter_px, ax=ax) is ax
    dots = [line.get_xdata().tolist() for line in ax.lines if line.get_marker() == "."]
    assert dots == [[4, 2, 6], [1, 0.5, 3], [0, 0, 0]]
    assert [text.strip() for text in texts(ax)] == ["median 4.0 px", "median 1.0 px", "median 0.0 px"]
    assert ax.get_title() == "Smoothing leaves 25% of the jitter, one box for the clip none"
    assert [label.get_text() for label in ax.get_yticklabels()] == list(jitter_px)


def test_one_clip_that_does_not_move_has_a_jitter_picture_too():
    ax = preparation.plot_jitter(pd.DataFrame({"as found": [0.0], "smoothed": [0.0], "one box": [0.0]}))
    assert ax.get_xlim()[1] > 0


def test_speeds_are_lines_with_their_means():
    _, ax = plt.subplots()
    speeds = {"one box": np.array([1.0, 3.0]), "box as found": np.array([0.5, 0.5])}
    assert preparation.plot_speeds(np.array([0, 0.1]), speeds, title="vanishes", ax=ax) is ax
    assert [line.get_ydata().tolist() for line in ax.lines] == [[1, 3], [0.5, 0.5]]
    assert [t.get_text() for t in ax.get_legend().texts] == ["one box: mean 2.0", "box as found: mean 0.5"]
    assert ax.get_ylabel() == "speed (px per frame)"
    assert ax.get_ylim()[1] > 3


def test_decoders_are_bars_that_say_whether_the_frames_are_the_same(decoders):
    _, ax = plt.subplots()
    assert preparation.plot_decoders(decoders, title="by pyav", ax=ax) is ax
    assert [bar.get_width() for bar in ax.patches] == [1, 0.5, 3, 0]
    colors = [mpl.colors.to_hex(bar.get_facecolor()) for bar in ax.patches]
    assert colors[0] == colors[1] == preparation.BLUE.lower()
    assert colors[2] == preparation.RED.lower()
    said = [text for text in texts(ax) if len(text) > 6]
    assert said[1] == "same frames and times, pixels differ by 0.3 levels, at most 5"
    assert said[2].startswith("NOT THE SAME FRAMES")
    assert said[3] == "cannot be used on this machine"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["pyav", "opencv", "cuda", "qsv"]
    assert ax.get_xlabel() == "speed, times pyav (measured just now)"


def test_decoders_that_all_work_are_drawn_from_a_table_without_errors(decoders):
    table = decoders.iloc[:2].drop(columns="error").astype({"exact": bool})
    ax = preparation.plot_decoders(table)
    assert {mpl.colors.to_hex(bar.get_facecolor()) for bar in ax.patches} == {preparation.BLUE.lower()}


def test_the_table_of_flow_errors_keeps_the_order_and_both_errors(errors):
    _, ax = plt.subplots()
    assert preparation.plot_flow_errors(errors, ax=ax) is ax
    image = ax.images[0]
    np.testing.assert_allclose(image.get_array(), [[0.1, 0.5], [0.3, 0.7]])
    assert texts(ax) == ["0.10 / 0.20", "0.50 / 0.60", "0.30 / 0.40", "0.70 / 1.60"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["slow", "fast"]
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "shift 3 px\n(mean 3.0 px)",
        "turn 3°\n(mean 2.0 px)",
    ]
    assert image.get_cmap().name == "viridis"
    assert image.colorbar.ax.get_ylabel() == "clean pictures (px)"


def test_error_against_speed_has_a_full_and_a_hollow_point_per_method(errors):
    _, ax = plt.subplots()
    assert preparation.plot_error_against_speed(errors, title="trade", ax=ax) is ax
    clean, noisy = ax.lines
    np.testing.assert_allclose(clean.get_xydata(), [[5, 0.2], [900, 0.6]])
    np.testing.assert_allclose(noisy.get_xydata(), [[5, 0.3], [900, 1.1]])
    assert noisy.get_markerfacecolor() == "white"
    assert ax.get_xscale() == "log"
    assert texts(ax) == ["slow", "fast"]
    assert [text.get_text() for text in ax.get_legend().texts] == ["clean pictures", "with noise"]


def test_real_measurements_can_be_drawn():
    table = accuracy_table(["dis_fast", "farneback"], side_px=64)
    ax = preparation.plot_flow_errors(table)
    assert ax.images[0].get_array().shape == (6, 2)
    assert len(preparation.plot_error_against_speed(table).lines[0].get_xdata()) == 2
