"""Following faces between looks: known motion is found again, and what is gone is lost."""

import cv2
import numpy as np
import pytest

from helpers.faces import MAX_FACES, Follower, correlation, iou_xyxy, moved_box, small_gray

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


def row(x: float, y: float, side: float = SIZE) -> np.ndarray:
    return np.float32([[x, y, side, side, 9]])


NOTHING = np.zeros((0, 5), np.float32)


def test_a_face_that_moves_and_grows_is_followed_until_it_is_found_again():
    follower = Follower()
    where = [(20 + 6 * k, 40 + 2 * k, SIZE * 1.02**k) for k in range(9)]
    for k, place in enumerate(where):
        follower.step(k, scene(*place), row(*place) if k in (0, 8) else None)
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
        follower.step(k, frame, row(150, 180, 3 * SIZE) if k == 0 else None)
    np.testing.assert_allclose(follower.legs[0].boxes_xyxy[-1], [174, 180, 354, 360], atol=3)


def test_a_missed_look_is_bridged():
    follower = Follower()
    for k in range(13):
        faces = row(50 + 3 * k, 60) if k in (0, 12) else NOTHING if k == 6 else None
        follower.step(k, scene(50 + 3 * k, 60), faces)
    (first, second) = follower.legs
    assert first.arrived == (2, 0)
    assert first.samples == list(range(1, 13))
    assert second.start == (2, 0)


def test_a_face_that_vanishes_is_lost_at_once_though_the_wall_has_texture():
    follower = Follower()
    for k in range(8):
        frame = scene(50, 60) if k < 4 else WALL
        follower.step(k, frame, row(50, 60) if k == 0 else None)
    assert follower.legs[0].samples == [1, 2, 3]


def test_a_face_that_leaves_the_picture_is_lost():
    follower = Follower()
    for k in range(12):
        follower.step(k, scene(230 + 10 * k, 60), row(230, 60) if k == 0 else None)
    assert 2 < follower.legs[0].samples[-1] < 8


def test_a_face_that_appears_is_followed_back_to_the_look_before():
    follower = Follower()
    for k in range(9):
        faces = NOTHING if k == 0 else row(50 + 3 * k, 60) if k == 8 else None
        follower.step(k, scene(50 + 3 * k, 60) if k > 2 else WALL, faces)
    back = follower.legs[0]
    assert back.samples == [7, 6, 5, 4, 3]
    np.testing.assert_allclose(back.boxes_xyxy[-1], [59, 60, 59 + SIZE, 60 + SIZE], atol=1.5)


def test_several_faces_are_followed_the_largest_first():
    rows = np.concatenate([row(10 * k, 10 * k, 20 + 10 * k) for k in range(MAX_FACES + 2)])
    follower = Follower()
    follower.step(0, WALL, rows)
    assert [leg.start for leg in follower.legs] == [(0, k) for k in range(MAX_FACES + 1, 1, -1)]


def test_a_plain_face_or_one_outside_the_picture_is_not_followed():
    for place in (row(5, 5), row(400, 10), row(-100, -100)):
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


def test_overlap_of_corners():
    assert iou_xyxy(np.array([0, 0, 4, 4]), np.array([2, 0, 6, 4])) == pytest.approx(8 / 24)
    assert iou_xyxy(np.array([0, 0, 4, 4]), np.array([4, 0, 8, 4])) == 0


def test_the_grey_picture_is_small_and_says_how_small():
    gray, scale = small_gray(np.zeros((720, 1280, 3), np.uint8))
    assert gray.shape == (180, 320)
    assert scale == 0.25
    assert small_gray(np.zeros((60, 80, 3), np.uint8))[1] == 1
