"""A face's box at every sample: following, joining, filling gaps, smoothing."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from helpers.tracking import (
    MAX_FACES,
    Follower,
    correlation,
    face_path,
    fillable,
    iou,
    jitter,
    moved_box,
    roll_deg,
    smooth,
)
from helpers.tracks import DETECTED, INTERPOLATED, NONE, TRACKED

NOTHING = np.zeros((0, 5), np.float32)


def row(x: float, y: float = 10, side: float = 20, confidence: float = 8) -> np.ndarray:
    return np.float32([x, y, side, side, confidence])


def leg(start: int, samples: list[int], xs: list[float], arrived: int | None = None, row: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        start=(start, row),
        arrived=None if arrived is None else (arrived, 0),
        samples=samples,
        boxes_xyxy=[np.array([x, 10, x + 20, 30], float) for x in xs],
        similarity=[0.5] * len(samples),
    )


def path_of(looks: list[int], rows: list[float] | np.ndarray, legs: list, n: int) -> SimpleNamespace:
    """The path of a face with one row per look, or whose rows begin at these x."""
    rows = np.stack([row(x) for x in rows]) if isinstance(rows, list) else rows
    law = {"every": 4, "fps": 10.0, "max_gap_s": 0.4}
    return SimpleNamespace(**face_path(rows, [(look, 0) for look in looks], legs, np.zeros(n, int), **law))


def test_overlap_of_boxes():
    assert iou(np.array([0, 0, 4, 4]), np.array([2, 0, 6, 4])) == pytest.approx(8 / 24)
    assert iou(np.array([0, 0, 4, 4]), np.array([4, 0, 8, 4])) == 0
    assert iou(np.array([1, 2, 4, 7]), np.array([1, 2, 4, 7])) == 1


def test_a_leg_that_arrives_is_bent_onto_the_detection():
    legs = [leg(0, [1, 2, 3, 4], [11, 13, 13, 12], arrived=1)]  # 4 px short of the detection
    path = path_of([0, 1], [10, 16], legs, 5)
    assert path.found_xyxy[:, 0].tolist() == [10, 12, 15, 16, 16]
    assert path.source.tolist() == [DETECTED, TRACKED, TRACKED, TRACKED, DETECTED]
    assert path.confidence.tolist() == [8, 4, 4, 4, 8]


def test_where_legs_meet_the_nearer_detection_counts():
    legs = [leg(0, [1, 2], [50, 50]), leg(1, [3, 2, 1], [60, 60, 60])]
    path = path_of([0, 1], [50, 60], legs, 5)
    assert path.found_xyxy[:, 0].tolist() == [50, 50, 50, 60, 60]


def test_legs_of_other_faces_are_not_taken():
    other = leg(0, [1, 2, 3], [90, 90, 90], row=1)
    path = path_of([0, 1], [10, 14], [other], 5)
    assert path.source.tolist() == [DETECTED, INTERPOLATED, INTERPOLATED, INTERPOLATED, DETECTED]
    assert path.found_xyxy[:, 0].tolist() == [10, 11, 12, 13, 14]
    assert path.confidence.tolist() == [8, 0, 0, 0, 8]


def test_a_gap_is_filled_up_to_the_limit_and_masked_beyond_it():
    path = path_of([1, 2, 4], [10, 14, 20], [leg(2, [9, 10], [15, 16])], 20)
    before = [NONE] * 4 + [DETECTED] + [INTERPOLATED] * 3
    assert path.source.tolist() == before + [DETECTED, TRACKED, TRACKED] + [NONE] * 5 + [DETECTED] + [NONE] * 3
    assert np.isnan(path.boxes_xyxy).all(axis=1).tolist() == [s == NONE for s in path.source]
    path = path_of([1, 3, 5], [10, 14, 20], [leg(3, [13, 14, 15, 16], [15, 16, 17, 18])], 24)
    assert path.source[13:21].tolist() == [TRACKED] * 4 + [INTERPOLATED] * 3 + [DETECTED]


def test_gaps_are_counted_between_known_samples():
    one, two = np.zeros(12, int), np.repeat([0, 1], [8, 4])
    assert fillable(np.array([2, 5, 6, 11]), 3, one).tolist() == [3, 4]
    assert fillable(np.array([2, 5, 6, 11]), 5, one).tolist() == [3, 4, 7, 8, 9, 10]
    assert fillable(np.array([2, 5, 6, 11]), 5, two).tolist() == [3, 4]  # a cut lies in the second gap
    assert fillable(np.array([7]), 99, one).tolist() == []


def test_smoothing_has_no_delay_and_halves_its_cut_off():
    t = np.arange(400)
    slow, fast = np.sin(2 * np.pi * t / 200), np.sin(2 * np.pi * t / 20)
    got = smooth(np.column_stack([slow, fast, 3 * t + 2]), 20)[60:-60]
    np.testing.assert_allclose(got[:, 0], slow[60:-60], atol=0.01)
    np.testing.assert_allclose(got[:, 1], fast[60:-60] / 2, atol=0.01)
    np.testing.assert_allclose(smooth((3.0 * t + 2)[:, None], 20)[:, 0], 3 * t + 2)  # to the very ends


def test_smoothing_does_not_reach_over_gaps():
    values = np.r_[np.zeros(9), np.full(3, np.nan), np.full(5, 7), np.nan, 3][:, None]
    np.testing.assert_allclose(smooth(values, 10), values, atol=1e-12)


def test_roll_is_positive_when_the_right_of_the_picture_is_lower():
    def eyes(right: tuple, left: tuple) -> list[float]:
        return [0, 0, 9, 9, 1, *right, *left, *[0] * 6]

    rows = np.float32([eyes((2, 4), (8, 4)), eyes((2, 4), (8, 10)), eyes((2, 4), (8, -2))])
    np.testing.assert_allclose(roll_deg(rows), [0, 45, -45], atol=1e-5)


def test_the_roll_is_known_where_there_is_a_box_and_landmarks():
    rows = np.zeros((2, 15), np.float32)
    rows[:, :5], rows[:, 7] = [row(10), row(14)], 10  # left eye 10 px to the right
    rows[:, 8] = 10 * np.tan(np.radians([10, 14]))
    path = path_of([1, 2], rows, [], 12)
    assert np.isnan(path.angle_deg).tolist() == [True] * 4 + [False] * 5 + [True] * 3
    np.testing.assert_allclose(path.angle_deg[4:9], [10, 11, 12, 13, 14], rtol=1e-5)
    assert np.isnan(path_of([1, 2], [10, 14], [], 12).angle_deg).all()


def test_jitter_is_the_deviation_of_the_change():
    steady = np.arange(10.0)[:, None] + [0, 0, 20, 20]
    assert jitter(steady) == pytest.approx(0, abs=1e-12)
    shaken = steady + np.where(np.arange(10) % 2, 1.0, -1.0)[:, None] * [1, 0, 1, 0]
    assert jitter(shaken) == pytest.approx(np.std(np.diff(shaken[:, 0])))
    shaken[5] = np.nan
    assert np.isfinite(jitter(shaken))
    assert jitter(steady[:1]) == 0


def rows_at(x: float, y: float, side: float = 60) -> np.ndarray:
    return np.float32([[x, y, side, side, 9]])


SIZE = 60  # of the square that stands for a face


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth noise, RGB uint8."""
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 2.5)
    gray = np.clip(128 + 60 * blurred / blurred.std(), 0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


FACE, WALL = texture(1, 3 * SIZE, 3 * SIZE), texture(2, 180, 320)


def scene(x: float, y: float, side: float = SIZE) -> np.ndarray:
    """The face with its upper left corner at (x, y) before the wall."""
    k = side / len(FACE)
    matrix = np.float32([[k, 0, x], [0, k, y]])
    return cv2.warpAffine(FACE, matrix, (320, 180), WALL.copy(), cv2.INTER_AREA, cv2.BORDER_TRANSPARENT)


def test_a_face_that_moves_and_grows_is_followed_until_it_is_found_again():
    follower = Follower()
    where = [(20 + 6 * k, 40 + 2 * k, SIZE * 1.02**k) for k in range(9)]
    for k, place in enumerate(where):
        follower.step(k, scene(*place), rows_at(*place) if k in (0, 8) else None)
    leg = follower.legs[0]
    assert leg.start == (0, 0)
    assert leg.arrived == (1, 0)
    assert leg.samples == list(range(1, 9))
    expected = [[x, y, x + side, y + side] for x, y, side in where[1:]]
    np.testing.assert_allclose(leg.boxes_xyxy, expected, atol=1.5)
    assert min(leg.similarity) > 0.8


def test_boxes_are_in_pixels_of_the_frame_whatever_its_size():
    follower = Follower()
    for k in range(3):
        frame = cv2.resize(scene(50 + 4 * k, 60), None, fx=3, fy=3)
        follower.step(k, frame, rows_at(150, 180, 3 * SIZE) if k == 0 else None)
    np.testing.assert_allclose(follower.legs[0].boxes_xyxy[-1], [174, 180, 354, 360], atol=3)


def test_a_missed_look_is_bridged():
    follower = Follower()
    for k in range(13):
        faces = rows_at(50 + 3 * k, 60) if k in (0, 12) else NOTHING if k == 6 else None
        follower.step(k, scene(50 + 3 * k, 60), faces)
    (first, second) = follower.legs
    assert first.arrived == (2, 0)
    assert first.samples == list(range(1, 13))
    assert second.start == (2, 0)


def test_a_face_that_vanishes_is_lost_at_once_though_the_wall_has_texture():
    follower = Follower()
    for k in range(8):
        frame = scene(50, 60) if k < 4 else WALL
        follower.step(k, frame, rows_at(50, 60) if k == 0 else None)
    assert follower.legs[0].samples == [1, 2, 3]


def test_a_face_that_leaves_the_picture_is_lost():
    follower = Follower()
    for k in range(12):
        follower.step(k, scene(230 + 10 * k, 60), rows_at(230, 60) if k == 0 else None)
    assert 2 < follower.legs[0].samples[-1] < 8


def test_a_face_that_appears_is_followed_back_to_the_look_before():
    follower = Follower()
    for k in range(9):
        faces = NOTHING if k == 0 else rows_at(50 + 3 * k, 60) if k == 8 else None
        follower.step(k, scene(50 + 3 * k, 60) if k > 2 else WALL, faces)
    back = follower.legs[0]
    assert back.samples == [7, 6, 5, 4, 3]
    np.testing.assert_allclose(back.boxes_xyxy[-1], [59, 60, 59 + SIZE, 60 + SIZE], atol=1.5)


def test_several_faces_are_followed_the_largest_first():
    rows = np.concatenate([rows_at(10 * k, 10 * k, 20 + 10 * k) for k in range(MAX_FACES + 2)])
    follower = Follower()
    follower.step(0, WALL, rows)
    assert [leg.start for leg in follower.legs] == [(0, k) for k in range(MAX_FACES + 1, 1, -1)]


def test_a_plain_face_or_one_outside_the_picture_is_not_followed():
    for place in (rows_at(5, 5), rows_at(400, 10), rows_at(-100, -100)):
        follower = Follower()
        for k in range(3):
            follower.step(k, np.full((90, 90, 3), 7, np.uint8), place if k == 0 else None)
        assert follower.legs[0].samples == []


def test_a_box_moves_as_most_of_its_points():
    before = np.random.default_rng(0).uniform(10, 50, (21, 2))
    after = 1.1 * (before - 30) + [37, 23]
    after[:4] += 40  # points that stuck to something else
    np.testing.assert_allclose(moved_box([10, 10, 50, 50], before, before + [3, -2]), [13, 8, 53, 48])
    moved = moved_box([10, 10, 50, 50], before[4:], after[4:])
    np.testing.assert_allclose(moved, [15, 1, 59, 45], atol=1e-9)
    assert np.abs(moved_box([10, 10, 50, 50], before, after) - moved).max() < 3


def test_similarity_is_a_correlation():
    a = np.random.default_rng(0).normal(size=(7, 5))
    assert correlation(a, 3 * a + 2) == pytest.approx(1)
    assert correlation(a, -a) == pytest.approx(-1)
    assert correlation(a, np.ones((7, 5))) == 0
