"""Plots of notebook 02: what is drawn is read back from the artists."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from benchmarks.flow import accuracy_table
from helpers.plots import preparation
from helpers.plots.flow import flow_to_rgb, flow_wheel

pytestmark = pytest.mark.usefixtures("figures")


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (7, 11, 13, 3)).astype(np.uint8)


@pytest.fixture
def flow():
    flow = np.zeros((29, 29, 2), np.float32)
    flow[..., 0], flow[..., 1] = 3, -2
    return flow


def test_the_contact_sheet_shows_every_frame_with_its_time_and_boxes(frames):
    boxes = np.float32([[1, 2, 4, 5]] * 6 + [[np.nan] * 4])
    sources = ["detected", "tracked", "interpolated", "tracked", "tracked", "detected", "none"]
    figure = preparation.plot_contact_sheet(
        frames,
        np.arange(7) / 4,
        boxes=boxes,
        sources=sources,
        stable_box=np.float32([0, 1, 8, 9]),
        columns=3,
        title="a/b.001",
    )
    drawn = [ax for ax in figure.axes if ax.images]
    assert len(drawn) == 7
    for k, ax in enumerate(drawn):
        np.testing.assert_array_equal(ax.images[0].get_array(), frames[k])
        assert ax.patches[0].get_bbox().extents.tolist() == [0, 1, 8, 9]
        assert ax.patches[0].get_linestyle() == "--"
    assert [ax.get_title(loc="left") for ax in drawn[4:]] == ["1.00 s", "1.25 s", "1.50 s, no box"]
    assert drawn[0].patches[1].get_bbox().extents.tolist() == [1, 2, 4, 5]
    assert len(drawn[6].patches) == 1
    assert figure.get_suptitle() == "a/b.001"


def test_the_contact_sheet_tells_boxes_apart_by_where_they_are_from(frames):
    boxes = np.float32([[1, 2, 4, 5]] * 3)
    sources = ["detected", "tracked", "interpolated"]
    figure = preparation.plot_contact_sheet(frames[:3], np.arange(3), boxes=boxes, sources=sources, stable_box=boxes[0])
    of_face = [ax.patches[1] for ax in figure.axes[:3]]
    looks = [(mpl.colors.to_hex(box.get_edgecolor()), box.get_linestyle()) for box in of_face]
    assert looks == [("#e69f00", "-"), ("#56b4e9", "-"), ("#cc79a7", ":")]
    assert [text.get_text() for text in figure.legends[0].texts] == [*sources, "the clip's one box"]


def test_coverage_counts_every_clip_once_and_the_refused_apart():
    _, ax = plt.subplots()
    coverage = np.array([1, 1, 1, 0.42, 0.3])
    assert preparation.plot_coverage(coverage, 2, min_coverage=0.3, ax=ax) is ax
    heights = {round(bar.get_x(), 2): bar.get_height() for bar in ax.patches if bar.get_height()}
    assert list(heights.values()) == [1, 1, 3, 2]
    assert list(heights)[1:3] == [0.4, 0.95]
    assert list(heights)[-1] < 0
    assert ax.lines[0].get_xdata() == [0.3, 0.3]
    assert ax.get_title(loc="left") == "3 of 7 clips show the face at every look"
    assert "refused" in [label.get_text() for label in ax.get_xticklabels()]


def test_coverage_of_a_folder_in_which_every_clip_is_refused_is_drawn():
    ax = preparation.plot_coverage(np.zeros(0), 3, min_coverage=0.3)
    assert sum(bar.get_height() for bar in ax.patches) == 3


def test_sources_are_stacked_to_the_whole():
    shares = pd.DataFrame(
        [[0.125, 0.5, 0.375, 0.0], [0.25, 0.0, 0.0, 0.75]],
        index=["all 5 clips", "a/b"],
        columns=["detected", "tracked", "interpolated", "none"],
    )
    _, ax = plt.subplots()
    assert preparation.plot_sources(shares, title="where from", ax=ax) is ax
    for row in range(2):
        bars = [container[row] for container in ax.containers]
        assert [bar.get_width() for bar in bars] == shares.iloc[row].tolist()
        assert [bar.get_x() for bar in bars] == (shares.iloc[row].cumsum() - shares.iloc[row]).tolist()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["all 5 clips", "a/b"]
    assert "75%" in [text.get_text() for text in ax.texts]
    assert ax.get_xlabel() == "share of the samples"


def test_the_path_shows_found_and_smoothed_centres_and_the_one_box():
    t_s = np.arange(5) / 15
    found = np.float32([[k, 2 * k, k + 10, 2 * k + 20] for k in range(5)])
    found[3] = np.nan
    confidence = np.float32([7, 6, 0, 0, 9])
    figure = preparation.plot_box_path(
        t_s,
        found,
        found + 1,
        sources=["detected", "tracked", "interpolated", "none", "detected"],
        confidence=confidence,
        stable_box=np.float32([0, 0, 16, 30]),
        title="a/b.001",
    )
    x, y, sure = figure.axes
    lines = {line.get_label(): line for line in x.lines}
    np.testing.assert_allclose(lines["detected"].get_ydata(), [5, 9])
    np.testing.assert_allclose(lines["tracked"].get_ydata(), [6])
    np.testing.assert_allclose(lines["smoothed"].get_ydata(), [6, 7, 8, np.nan, 10])
    assert lines["the clip's one box"].get_ydata() == [8, 8]
    np.testing.assert_allclose({line.get_label(): line for line in y.lines}["tracked"].get_ydata(), [12])
    assert y.yaxis_inverted()
    assert not x.yaxis_inverted()
    np.testing.assert_allclose(sure.lines[0].get_ydata(), [7, 6, np.nan, np.nan, 9])
    assert sure.get_ylim()[1] > 9
    assert [ax.get_ylabel() for ax in figure.axes] == ["centre x (px)", "centre y (px)", "confidence"]
    legend = [text.get_text() for text in figure.legends[0].texts]
    assert legend == ["detected", "tracked", "interpolated", "smoothed", "the clip's one box"]


def test_crops_stand_side_by_side_over_their_times(frames):
    _, ax = plt.subplots()
    assert preparation.plot_crops(frames[:, :, :11], np.arange(7) / 2, title="steady", ax=ax) is ax
    assert ax.images[0].get_array().shape == (11, 77, 3)
    assert [label.get_text() for label in ax.get_xticklabels()][:3] == ["0.00", "0.50", "1.00"]
    assert ax.get_xlabel() == "time (s)"


def test_coloured_flow_carries_its_wheel_and_scale(flow):
    _, ax = plt.subplots()
    rgb = flow_to_rgb(flow, 5)
    assert preparation.plot_flow(rgb, flow_wheel(31), 5.0, title="0.40 s", ax=ax) is ax
    np.testing.assert_array_equal(ax.images[0].get_array(), rgb)
    legend = ax.child_axes[0]
    np.testing.assert_array_equal(legend.images[0].get_array(), flow_wheel(31))
    assert legend.texts[0].get_text() == "rim: 5 px per frame"


def test_magnitude_is_viridis_from_zero_with_its_unit(flow):
    _, ax = plt.subplots()
    length = np.linalg.norm(flow, axis=-1)
    assert preparation.plot_flow_magnitude(length, max_px=7, ax=ax) is ax
    image = ax.images[0]
    np.testing.assert_array_equal(image.get_array(), length)
    assert image.get_cmap().name == "viridis"
    assert image.get_clim() == (0, 7)
    assert image.colorbar.ax.get_ylabel() == "px per frame"


def test_arrows_point_where_the_picture_moves(flow):
    _, ax = plt.subplots()
    crop = np.zeros((29, 29, 3), np.uint8)
    assert preparation.plot_flow_arrows(crop, flow, step_px=7, stretch=2, ax=ax) is ax
    (arrows,) = ax.collections
    assert (arrows.U == 6).all()
    assert (arrows.V == -4).all()
    assert arrows.angles == arrows.scale_units == "xy"
    assert ax.yaxis_inverted()
    assert ax.texts[0].get_text() == "arrows 2 times the motion"
    preparation.plot_flow_arrows(crop, flow, ax=ax)
    assert ax.texts[-1].get_text() == "arrows to scale"


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
    dots = [sorted(dots.get_offsets()[:, 0]) for dots in ax.collections if hasattr(dots.get_offsets(), "mask")][-3:]
    assert dots == [[2, 4, 6], [0.5, 1, 3], [0, 0, 0]]
    assert [text.strip() for text in texts(ax)] == ["median 4.0 px", "median 1.0 px", "median 0.0 px"]
    assert ax.get_title(loc="left") == "Smoothing leaves 25% of the jitter, one box for the clip none"
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
    cells = ax.collections[0]
    np.testing.assert_allclose(cells.get_array(), [[0.1, 0.5], [0.3, 0.7]])
    assert texts(ax) == ["0.10 / 0.20", "0.50 / 0.60", "0.30 / 0.40", "0.70 / 1.60"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["slow", "fast"]
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "shift 3 px\n(mean 3.0 px)",
        "turn 3°\n(mean 2.0 px)",
    ]
    assert cells.colorbar.ax.get_ylabel() == "clean pictures (px)"


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
    assert ax.collections[0].get_array().shape == (6, 2)
    assert len(preparation.plot_error_against_speed(table).lines[0].get_xdata()) == 2
