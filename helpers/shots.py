"""Shots: where a clip is cut or cross-faded, and whether two pictures show the same.

Two pictures are alike if one, moved along its optical flow to the other (DIS, Kroeger et al. 2016,
https://arxiv.org/abs/1603.03590), correlates with it. That leaves out all that a head, a hand or a camera does between
neighbours, and brightness; a cut stays: on pictures of 45 px, neighbours of 52 clips differed by .02 at most, two
people in the same place by .26. A plain picture (black, white, the peak of a flash) is passed over: what comes after it
is compared with what was before it.
"""

from collections import deque
from functools import cache

import cv2
import numpy as np

PICTURE_PX = 45  # shorter side of the compared pictures: a quarter of those that faces are followed in, quick to make
PLAIN = 1.5  # deviation in grey levels; below it a picture shows nothing
CONTRAST = 40.0  # deviation in grey levels that pictures are brought to
NEAR = 8  # grey levels on average
SUSPECT = 0.08  # unlikeness of neighbours from which on something has happened: dissolves of 6 samples reach it
ALIKE = 0.1  # of the same face at other times: .06 at most in 52 clips; of two people: 99 % are beyond .12
ALONE = 3.0  # a cut stands out so many times from three neighbours on each side; a gesture, a hand, a flash does not
BLENDS_S = (0.5, 1.0)  # over which a cross-fade is looked for: one of 3 s is found, and one of a face that moves
BLEND_MISS = 0.13  # share of the middle picture's variance that its ends do not explain


def small(gray: np.ndarray) -> np.ndarray | None:
    """A grey picture uint8 (h, w) as it is compared: 45 px, of one contrast; None where it is plain."""
    scale = PICTURE_PX / min(gray.shape)
    size = [max(16, round(side * scale)) for side in gray.shape[::-1]]
    picture = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    (mean,), (deviation,) = (found.ravel().tolist() for found in cv2.meanStdDev(picture))
    if deviation < PLAIN:
        return None
    return cv2.convertScaleAbs(picture, alpha=CONTRAST / deviation, beta=128 - mean * CONTRAST / deviation)


def unlikeness(before: np.ndarray | None, after: np.ndarray | None) -> float:
    """How unlike two pictures of `small` are, from 0 to 2; 2 where only one of them is plain."""
    if before is None or after is None:
        return 0.0 if before is after else 2.0
    if before.shape != after.shape:
        after = cv2.resize(after, before.shape[::-1], interpolation=cv2.INTER_AREA)
    if cv2.norm(before, after, cv2.NORM_L1) < NEAR * after.size:
        return 0.0  # .03 at most, without any motion
    flow = _flow().calc(after, before, None)
    x, y = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in after.shape[::-1]))
    moved = cv2.remap(before, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return 1.0 - correlation(moved, after)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two pictures of one shape; 0 when one of them is plain."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


@cache
def _flow() -> cv2.DISOpticalFlow:
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)


class Shots:
    """Takes the grey pictures of a clip one by one, `fps` of them a second."""

    def __init__(self, fps: float) -> None:
        self.fps, self._halves = fps, [round(span_s * fps / 2) for span_s in BLENDS_S]
        self._changes: list[float] = []
        self._blended: list[int] = []  # samples in the middle of a cross-fade
        self._last: np.ndarray | None = None
        self._recent: deque[np.ndarray | None] = deque(maxlen=2 * max(self._halves) + 1)

    def step(self, gray: np.ndarray) -> bool:
        """Take the next picture; whether it differs from the last one as no face makes it."""
        picture = small(gray)
        comparable = self._last is not None and picture is not None
        self._changes.append(unlikeness(self._last, picture) if comparable else 0.0)
        self._last = self._last if picture is None else picture
        self._recent.append(picture)
        self._blended += [len(self._changes) - 1 - half for half in self._halves if self._is_blend(half)]
        return self._changes[-1] > SUSPECT

    def _is_blend(self, half: int) -> bool:
        """Whether the middle one of the last 2 half + 1 pictures is about half of the first and half of the last."""
        pictures = list(self._recent)[-2 * half - 1 :]
        if half < 2 or len(pictures) <= 2 * half or any(picture is None for picture in pictures):
            return False
        first, between, last = (pictures[k] for k in (0, half, -1))
        if cv2.norm(first, last, cv2.NORM_L1) < CONTRAST / 4 * first.size:
            return False
        ends, whole = (np.float32(part).reshape(len(part), -1) - 128 for part in ([first, last], [between]))
        weights, *_ = np.linalg.lstsq(ends.T, whole[0], rcond=None)
        missed = np.square(whole[0] - weights @ ends).sum() / np.square(whole).sum()
        return weights.min() > 0.3 and missed < BLEND_MISS and unlikeness(first, last) > ALIKE

    def fades(self) -> list[int]:
        """The samples in the middle of cross-fades, increasing."""
        samples = np.unique(np.array(self._blended, int))
        runs = np.split(samples, np.flatnonzero(np.diff(samples) > max(self._halves)) + 1)
        return [int(run[len(run) // 2]) for run in runs if len(run)]

    def cuts(self) -> np.ndarray:
        """The samples that begin a shot, but for the first shot, those of cross-fades included: int64, increasing."""
        changes = np.array(self._changes)
        padded = np.pad(changes, 3)
        around = np.max([padded[k : k + len(changes)] for k in (0, 1, 2, 4, 5, 6)], axis=0, initial=0)
        hard = np.flatnonzero((changes > SUSPECT) & (changes >= ALONE * around))
        return np.union1d(hard, self.fades()).astype(np.int64)
