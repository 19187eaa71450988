"""Warps whose motion is known, and the table of errors made with them."""

import cv2
import numpy as np
import pytest

from benchmarks.flow import accuracy_table, end_point_error, warped_pairs

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


def test_the_end_point_error_is_the_mean_distance_inside_the_border():
    truth = np.zeros((11, 13, 2), np.float32)
    flow = truth + np.float32([3, -4])
    flow[0] = 100
    assert end_point_error(flow, truth, border_px=1) == 5
    assert end_point_error(flow, truth, border_px=0) > 5
    for given, message in (((flow, truth), r"sides above 32"), ((flow[:, :5], truth, 1), "one shape")):
        with pytest.raises(ValueError, match=message):
            end_point_error(*given)


def test_the_table_ranks_the_methods_as_their_makers_do():
    table = accuracy_table(("farneback", "dis_fast", "dis_medium"), seeds=(0,), side_px=128)
    mean = table.groupby("method")[["motion_px", "clean_px", "fields_per_s"]].mean()
    assert mean["clean_px"]["dis_medium"] < mean["clean_px"]["dis_fast"] < mean["clean_px"]["farneback"]
    assert mean["clean_px"]["dis_medium"] < 0.2
    assert (mean["clean_px"] < mean["motion_px"]).all()
    assert mean["fields_per_s"]["dis_fast"] > mean["fields_per_s"]["dis_medium"] > 0
