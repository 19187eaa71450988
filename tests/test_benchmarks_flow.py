"""Warps whose motion is known, and the table of errors made with them."""

import cv2
import numpy as np
import pytest

from benchmarks.flow import (
    COLUMNS,
    FINE,
    MARGIN_PX,
    NOISE_SD,
    TEXTURES,
    WARPS,
    accuracy_table,
    cloud_texture,
    end_point_error,
    face_texture,
    warp_picture,
    warped_pairs,
    with_noise,
)
from helpers.files import ROOT, read_json
from helpers.flow import METHODS

SIDE = 96
PAIRS = {(pair.texture, pair.warp): pair for pair in warped_pairs(3, SIDE)}
MIDDLE = slice(16, -16)


def test_there_is_a_pair_for_every_texture_and_warp():
    assert PAIRS.keys() == {(texture, warp) for texture in TEXTURES for warp in WARPS}
    for pair in PAIRS.values():
        assert pair.gray0.shape == pair.gray1.shape == (SIDE, SIDE)
        assert pair.gray0.dtype == pair.gray1.dtype == np.uint8
        assert pair.truth.shape == (SIDE, SIDE, 2)
        assert pair.truth.dtype == np.float32


@pytest.mark.parametrize("name", PAIRS)
def test_following_the_true_motion_shows_the_first_picture_again(name):
    pair = PAIRS[name]
    y, x = np.indices((SIDE, SIDE), np.float32)
    back = cv2.remap(pair.gray1, x + pair.truth[..., 0], y + pair.truth[..., 1], cv2.INTER_CUBIC)
    off = np.abs(back.astype(float) - pair.gray0)[MIDDLE, MIDDLE].mean()
    still = np.abs(pair.gray1.astype(float) - pair.gray0)[MIDDLE, MIDDLE].mean()
    assert off < 1
    assert off < 0.5 * still or name[1] in ("shift 0.5 px", "smile")  # these change little by themselves


@pytest.mark.parametrize(("warp", "length_px"), [("shift 0.5 px", 0.5), ("shift 3 px", 3.0), ("shift 12 px", 12.0)])
def test_a_shift_is_as_long_as_its_name_says_everywhere(warp, length_px):
    truth = PAIRS["clouds", warp].truth
    np.testing.assert_allclose(np.linalg.norm(truth, axis=-1), length_px, rtol=1e-5)
    assert np.ptp(truth.reshape(-1, 2), axis=0).max() < 1e-5


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


def test_the_truth_solves_its_own_equation():
    def wave(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return 2 * np.sin(y / 9), 1.5 * np.cos(x / 11)

    gray0, _, truth = warp_picture(cloud_texture(1, SIDE), wave, SIDE)
    y, x = np.indices((SIDE, SIDE), np.float64)
    back = np.stack(wave(x + truth[..., 0], y + truth[..., 1]), axis=-1)
    np.testing.assert_allclose(truth, -back, atol=1e-4)
    assert gray0.shape == (SIDE, SIDE)


def test_textures_use_the_greys_and_differ_by_seed():
    for draw in (face_texture, cloud_texture):
        one, other = draw(1, 32), draw(2, 32)
        assert one.shape == (FINE * (32 + 2 * MARGIN_PX),) * 2
        assert one.std() > 15
        assert not np.array_equal(one, other)
        assert np.array_equal(one, draw(1, 32))


def test_noise_is_another_on_each_picture_and_as_strong_as_stated():
    pair = PAIRS["clouds", "shift 3 px"]
    noisy = with_noise(pair, 1)
    off = [noisy.gray0.astype(float) - pair.gray0, noisy.gray1.astype(float) - pair.gray1]
    for each in off:
        assert each.std() == pytest.approx(NOISE_SD, rel=0.05)
    assert abs(np.corrcoef(off[0].ravel(), off[1].ravel())[0, 1]) < 0.05
    assert np.array_equal(noisy.truth, pair.truth)


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


def test_the_committed_table_holds_every_method_and_motion():
    rows = read_json(ROOT / "benchmarks" / "flow.json")["rows"]
    assert {(row["method"], row["warp"]) for row in rows} == {(method, warp) for method in METHODS for warp in WARPS}
    assert rows[0].keys() == COLUMNS.keys()
