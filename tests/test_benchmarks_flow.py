"""Warps whose motion is known, and the table of errors made with them."""

import cv2
import numpy as np
import pytest

from benchmarks.flow import (
    WARPS,
    accuracy_table,
    end_point_error,
    warped_pairs,
)

SIDE = 96
PAIRS = {(pair.texture, pair.warp): pair for pair in warped_pairs(3, SIDE)}
MIDDLE = slice(16, -16)


@pytest.mark.parametrize("name", PAIRS)
def test_following_the_true_motion_shows_the_first_picture_again(name):
    pair = PAIRS[name]
    y, x = np.indices((SIDE, SIDE), np.float32)
    back = cv2.remap(pair.gray1, x + pair.truth[..., 0], y + pair.truth[..., 1], cv2.INTER_CUBIC)
    off = np.abs(back.astype(float) - pair.gray0)[MIDDLE, MIDDLE].mean()
    still = np.abs(pair.gray1.astype(float) - pair.gray0)[MIDDLE, MIDDLE].mean()
    assert off < 1
    assert off < 0.5 * still or name[1] in ("shift 0.5 px", "smile")  # these change little by themselves


def test_turn_and_zoom_are_the_ones_of_their_names():
    y, x = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    for pair in warped_pairs(4, SIDE):
        if pair.warp == "turn 3°":
            ends = np.stack([x, y], axis=-1) + pair.truth
            turned = np.angle((ends[..., 0] + 1j * ends[..., 1]) / (x + 1j * y), deg=True)
            np.testing.assert_allclose(np.abs(turned), 3, atol=1e-3)
            np.testing.assert_allclose(np.linalg.norm(ends, axis=-1), np.hypot(x, y), rtol=1e-4)
        if pair.warp == "zoom 4 %":
            factor = (x + pair.truth[..., 0])[:, 0] / x[:, 0]
            np.testing.assert_allclose(np.minimum(factor, 1 / factor), 0.96, atol=2e-3)  # 1 / 1.04 or 0.96 back


def test_a_smile_draws_the_corners_of_the_mouth_out_and_up_and_leaves_the_rest():
    truth = PAIRS["face", "smile"].truth
    left, right = truth[:, : SIDE // 2], truth[:, SIDE // 2 :]
    assert left[..., 0].min() < -1
    assert right[..., 0].max() > 1
    assert truth[..., 1].min() == pytest.approx(-3, abs=0.1)
    assert truth[..., 1].max() < 0.05
    assert np.abs(truth[: SIDE // 4]).max() < 0.05


def test_the_end_point_error_is_the_mean_distance_inside_the_border():
    truth = np.zeros((11, 13, 2), np.float32)
    flow = truth + np.float32([3, -4])
    flow[0] = 100
    assert end_point_error(flow, truth, border_px=1) == 5
    assert end_point_error(flow, truth, border_px=0) > 5
    assert end_point_error(truth, truth, border_px=2) == 0
    with pytest.raises(ValueError, match=r"sides above 32, got \(11, 13, 2\) and \(11, 13, 2\)"):
        end_point_error(flow, truth)
    with pytest.raises(ValueError, match="one shape"):
        end_point_error(flow[:, :5], truth, border_px=1)


def test_the_table_ranks_the_methods_as_their_makers_do():
    methods, before = ("farneback", "dis_fast", "dis_medium"), cv2.getNumThreads()
    table = accuracy_table(methods, seeds=(0,), side_px=128)
    assert cv2.getNumThreads() == before
    assert list(table) == ["method", "warp", "motion_px", "clean_px", "noisy_px", "fields_per_s"]
    assert list(table["method"]) == [m for m in methods for _ in WARPS]
    assert list(table["warp"]) == list(WARPS) * 3
    mean = table.groupby("method")[["motion_px", "clean_px", "noisy_px", "fields_per_s"]].mean()
    assert mean.loc["dis_medium", "clean_px"] < 0.2
    assert mean["clean_px"]["dis_medium"] < mean["clean_px"]["dis_fast"] < mean["clean_px"]["farneback"]
    assert (mean["clean_px"] < mean["motion_px"]).all()
    assert mean["fields_per_s"]["dis_fast"] > mean["fields_per_s"]["dis_medium"] > 0
