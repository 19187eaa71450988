"""Where a clip is cut, and what is no cut."""

import cv2
import numpy as np
import pytest

from helpers.detectors import shrunk
from helpers.files import ROOT
from helpers.shots import Shots, small, unlikeness
from helpers.video import read_frames

NAMES = ("4rfnd819V3N.000", "B62kW3nmp1p.000")
ONE, OTHER = (read_frames(ROOT / "data_sample" / "training80_01" / f"{name}.mp4").frames[:60] for name in NAMES)
TWO = np.concatenate([ONE[:25], OTHER[:25]])


def scaled(frames: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return np.clip(frames * np.asarray(gain)[:, None, None, None], 0, 255).astype(np.uint8)


def with_frames(numbers: list[int], change) -> np.ndarray:
    frames = ONE.copy()
    for number in numbers:
        frames[number] = change(frames[number], number)
    return frames


def shaken(px: float) -> np.ndarray:
    moves = np.random.default_rng(0).normal(0, px, (60, 2))
    return with_frames(
        range(60), lambda f, k: cv2.warpAffine(f, np.float32([[1, 0, moves[k, 0]], [0, 1, moves[k, 1]]]), (320, 240))
    )


def hand(frame: np.ndarray, number: int) -> np.ndarray:
    return cv2.circle(frame.copy(), (80 * number - 1700, 120), 130, (180, 140, 120), -1)


def flash(frame: np.ndarray, number: int) -> np.ndarray:
    return cv2.convertScaleAbs(frame, alpha=3, beta=60) if number < 30 else frame * 0 + 255


def faded(n: int) -> np.ndarray:
    share = np.r_[np.zeros(20), np.linspace(0, 1, n), np.ones(40 - n)][:, None, None, None]
    return (ONE * (1 - share) + OTHER * share).astype(np.uint8)


DIP = np.r_[np.ones(15), np.linspace(1, 0, 8), np.zeros(4), np.linspace(0, 1, 8), np.ones(15)]
CLIPS = {
    "two cuts": (np.concatenate([ONE[:20], OTHER[:20], ONE[20:40]]), [20, 40]),
    "three shots of a quarter second": (np.concatenate([ONE[:20], OTHER[:4], ONE[24:28], OTHER[28:50]]), [20, 24, 28]),
    "a cut in the dark": (scaled(TWO, np.full(50, 0.15)), [25]),
    "one frame in between": (with_frames([30], lambda f, k: OTHER[k]), []),
    "a flash": (with_frames([20, 40], flash), []),
    "out of black and back": (scaled(ONE[:50], DIP), []),
    "from one to the other through black": (scaled(TWO, DIP), [28]),
    "a shaken camera": (shaken(4), []),
    "a hand before the camera": (with_frames(range(20, 28), hand), []),
    "black": (ONE * 0, []),
    "one picture": (ONE[:1], []),
}  # fmt: skip


def cuts_of(frames: np.ndarray) -> list[int]:
    shots = Shots(15.0)
    for frame in frames:
        shots.step(shrunk(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 180)[0])
    return shots.cuts().tolist()


@pytest.mark.parametrize("name", CLIPS)
def test_cuts_are_where_the_picture_changes_as_no_face_makes_it(name):
    frames, expected = CLIPS[name]
    assert cuts_of(frames) == pytest.approx(expected, abs=3 if "through black" in name else 0)


@pytest.mark.parametrize("n", [8, 16, 30])
def test_a_cross_fade_is_a_cut_in_its_middle(n):
    (cut,) = cuts_of(faded(n))
    assert cut == pytest.approx(20 + n / 2, abs=4)


def test_a_moved_brighter_picture_is_alike_and_another_one_is_not():
    gray = cv2.cvtColor(ONE[0], cv2.COLOR_RGB2GRAY)
    moved = cv2.warpAffine(gray, np.float32([[1, 0, 5], [0, 1, -4]]), (320, 240), borderMode=cv2.BORDER_REPLICATE)
    assert unlikeness(small(gray), small(moved // 2 + 20)) < 0.05
    assert unlikeness(small(gray), small(cv2.cvtColor(OTHER[0], cv2.COLOR_RGB2GRAY))) > 0.2
    assert unlikeness(small(gray), small(gray[:, :-4])) < 0.05  # of another size
    assert small(gray * 0) is None
    assert unlikeness(None, None) == 0
    assert unlikeness(small(gray), None) == 2
