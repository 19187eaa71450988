"""Plots of notebook 02: what is drawn is read back from the artists."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from helpers.flow import flow_to_rgb, flow_wheel
from helpers.plots import preparation


@pytest.fixture(autouse=True)
def figures():
    yield
    plt.close("all")


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (7, 11, 13, 3)).astype(np.uint8)


@pytest.fixture
def flow():
    flow = np.zeros((29, 29, 2), np.float32)
    flow[..., 0], flow[..., 1] = 3, -2
    return flow


def test_the_contact_sheet_shows_every_frame_with_its_time_and_boxes(frames):
    boxes = [np.float32([[1, 2, 4, 5]])] * 6 + [np.zeros((0, 4), np.float32)]
    figure = preparation.plot_contact_sheet(
        frames, np.arange(7) / 4, boxes=boxes, stable_box=np.float32([0, 1, 8, 9]), columns=3, title="a/b.001"
    )
    drawn = [ax for ax in figure.axes if ax.images]
    assert len(drawn) == 7
    for k, ax in enumerate(drawn):
        np.testing.assert_array_equal(ax.images[0].get_array(), frames[k])
    assert [ax.get_title() for ax in drawn[:3]] == ["0.00 s", "0.25 s", "0.50 s"]
    assert drawn[0].patches[0].get_bbox().extents.tolist() == [1, 2, 4, 5]
    assert drawn[0].patches[-1].get_bbox().extents.tolist() == [0, 1, 8, 9]
    assert len(drawn[6].patches) == len(drawn[0].patches) - 1
    assert figure.get_suptitle() == "a/b.001"
    assert [text.get_text() for text in figure.legends[0].texts] == ["face found in this frame", "the clip's one box"]


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
    assert ax.texts[0].get_text() == "arrows 2 times as long as the motion"
    preparation.plot_flow_arrows(crop, flow, ax=ax)
    assert ax.texts[-1].get_text() == "arrows to scale"
