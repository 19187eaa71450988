"""Follows faces through the samples between two looks of the detector, by points in the face.

In: every sample, RGB uint8 (H, W, 3), in order; at a look also the detector's rows. Out: `Leg`s, the paths of faces
away from detections, in pixels of the frame. Held are small grey pictures since the last look, never the clip.

Points are moved by pyramidal Lucas-Kanade and kept only if they come back to where they started (Kalal, Mikolajczyk and
Matas 2010, "Forward-backward error"); their median gives shift and scale. A face that no longer looks like the one that
was detected is lost.
"""

from dataclasses import dataclass, field
from functools import cache

import cv2
import numpy as np

PICTURE_PX = 180  # longest shorter side of the grey pictures
N_POINTS = 24
MIN_POINTS = 6
MAX_RETURN_PX = 1.0  # of the grey picture: a point that comes back farther off is dropped
PATCH_PX = 24  # side of the patches that similarity is measured on
MIN_SIMILARITY = 0.6  # correlation with the detected face; below it the face is lost
MAX_FACES = 4  # followed at once, the largest
ARRIVED_IOU = 0.3
LUCAS_KANADE = {"winSize": (11, 11), "maxLevel": 2, "criteria": (3, 10, 0.03)}


@dataclass
class Leg:
    """The path of one face from a detection on, forwards or backwards, until it is found again or lost.

    `start` (look, row) is the detection it comes from, `arrived` the one that it ran into, None when it did not. Per
    sample: its number, box x0, y0, x1, y1 in pixels of the frame, and similarity with the detected face, up to 1.
    """

    start: tuple[int, int]
    arrived: tuple[int, int] | None = None
    samples: list[int] = field(default_factory=list)
    boxes_xyxy: list[np.ndarray] = field(default_factory=list)
    similarity: list[float] = field(default_factory=list)

    def add(self, sample: int, box_xyxy: np.ndarray, similarity: float) -> None:
        """Append one sample."""
        self.samples.append(sample)
        self.boxes_xyxy.append(box_xyxy)
        self.similarity.append(similarity)


class Follower:
    """Takes the samples of a clip one by one; the legs of all followed faces gather in `legs`."""

    def __init__(self) -> None:
        self.legs: list[Leg] = []
        self._chases: list[tuple[Leg, _Chase]] = []
        self._since_look: list[np.ndarray] = []  # grey pictures after the last look, the newest last
        self._before: np.ndarray | None = None
        self._n_looks = 0

    def step(self, sample: int, frame: np.ndarray, faces: np.ndarray | None) -> None:
        """Take the next sample.

        Args:
            sample: Its number, one more than that of the call before.
            frame: RGB uint8 (H, W, 3).
            faces: Rows of `helpers.tracking.detectors.detect_faces` if it was looked at, else None.
        """
        gray, scale = small_gray(frame)
        going = []
        for leg, chase in self._chases:
            moved = chase.step(self._before, gray)
            if moved is not None:
                leg.add(sample, moved[0] / scale, moved[1])
                going.append((leg, chase))
        self._chases = going
        if faces is None:
            self._since_look.append(gray)
        else:
            self._look(sample, gray, scale, faces)
        self._before = gray

    def _look(self, sample: int, gray: np.ndarray, scale: float, faces: np.ndarray) -> None:
        """End the legs that arrive at a detection; start one at every detection, and one back where none arrived."""
        boxes = np.column_stack([faces[:, :2], faces[:, :2] + faces[:, 2:4]]).astype(np.float64)
        for leg, _ in self._chases:
            overlaps = [iou_xyxy(leg.boxes_xyxy[-1], box) for box in boxes]
            if overlaps and max(overlaps) >= ARRIVED_IOU:
                leg.arrived = (self._n_looks, int(np.argmax(overlaps)))
        arrived = {leg.arrived for leg, _ in self._chases}
        bridging = [(leg, chase) for leg, chase in self._chases if leg.arrived is None]
        largest = np.argsort(-faces[:, 2] * faces[:, 3], kind="stable")[:MAX_FACES]
        self._chases = []
        for row in largest.tolist():
            start = (self._n_looks, row)
            if start not in arrived and self._since_look:
                self._go_back(Leg(start), _Chase(gray, boxes[row] * scale), sample, gray, scale)
            self._chases.append((Leg(start), _Chase(gray, boxes[row] * scale)))
            self.legs.append(self._chases[-1][0])
        self._chases += bridging[: MAX_FACES - len(self._chases)]
        self._since_look = []
        self._n_looks += 1

    def _go_back(self, leg: Leg, chase: "_Chase", sample: int, gray: np.ndarray, scale: float) -> None:
        """Follow a face that appeared at a look backwards to the look before."""
        for back, earlier in enumerate(reversed(self._since_look), start=1):
            moved = chase.step(gray, earlier)
            if moved is None:
                break
            leg.add(sample - back, moved[0] / scale, moved[1])
            gray = earlier
        self.legs.append(leg)


class _Chase:
    """One box that is moved from picture to picture; all in pixels of the small grey pictures."""

    def __init__(self, gray: np.ndarray, box_xyxy: np.ndarray) -> None:
        self._detected = _patch(gray, box_xyxy)
        self._seed(gray, box_xyxy)

    def _seed(self, gray: np.ndarray, box_xyxy: np.ndarray) -> None:
        """Choose new points in a box; later boxes are that box moved as the points have moved since."""
        x0, y0 = np.maximum(box_xyxy[:2], 0).astype(int)
        x1, y1 = np.maximum(box_xyxy[2:], 0).astype(int)
        face = gray[y0:y1, x0:x1]
        spacing = max(3.0, (box_xyxy[2] - box_xyxy[0]) / 10)
        corners = cv2.goodFeaturesToTrack(face, N_POINTS, 0.01, spacing) if face.size else None
        corners = np.zeros((0, 2), np.float32) if corners is None else corners.reshape(-1, 2) + np.float32([x0, y0])
        self._box, self._seeded, self._points = box_xyxy, corners, corners

    def step(self, before: np.ndarray, gray: np.ndarray) -> tuple[np.ndarray, float] | None:
        """Box and similarity in the next picture, or None when the face is lost."""
        if len(self._points) < MIN_POINTS:
            return None
        there, went, _ = cv2.calcOpticalFlowPyrLK(before, gray, self._points, None, **LUCAS_KANADE)
        back, came, _ = cv2.calcOpticalFlowPyrLK(gray, before, there, None, **LUCAS_KANADE)
        kept = (went & came)[:, 0].astype(bool) & (np.abs(back - self._points).max(axis=1) <= MAX_RETURN_PX)
        kept &= ((there >= 0) & (there <= np.float32(gray.shape[::-1]) - 1)).all(axis=1)
        n_seeded, self._seeded, self._points = len(self._seeded), self._seeded[kept], there[kept]
        if len(self._points) < MIN_POINTS:
            return None
        box = moved_box(self._box, self._seeded, self._points)
        similarity = correlation(self._detected, _patch(gray, box))
        if similarity < MIN_SIMILARITY:
            return None
        if len(self._points) < N_POINTS // 2 and len(self._points) < n_seeded:
            self._seed(gray, box)
        return box, similarity


def small_gray(frame: np.ndarray) -> tuple[np.ndarray, float]:
    """A frame in grey with at most `PICTURE_PX` pixels on its shorter side, and its size in that of the frame."""
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, PICTURE_PX / min(gray.shape))
    if scale < 1:
        gray = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return gray, scale


def moved_box(box_xyxy: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Shift and scale a box by the medians of how its points have moved and how far apart they are.

    Args:
        box_xyxy: x0, y0, x1, y1, (4,).
        before: Points in the box, (n, 2).
        after: The same points later, (n, 2).
    """
    one, other = _pairs(len(before))
    apart, apart_later = (np.hypot(*(p[one] - p[other]).T) for p in (before, after))
    far = apart > 1
    scale = np.median(apart_later[far] / apart[far]) if far.any() else 1.0
    shift = np.median(after - scale * before, axis=0)
    return (scale * np.asarray(box_xyxy, np.float64).reshape(2, 2) + shift).ravel()


@cache
def _pairs(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(n, k=1)


def _patch(gray: np.ndarray, box_xyxy: np.ndarray) -> np.ndarray:
    """What a box shows, float32 (24, 24)."""
    size = np.maximum(np.round(box_xyxy[2:] - box_xyxy[:2]), 2).astype(int)
    centre = (box_xyxy[:2] + box_xyxy[2:] - 1) / 2
    seen = cv2.getRectSubPix(gray, tuple(size.tolist()), tuple(centre.tolist()))
    return cv2.resize(seen, (PATCH_PX, PATCH_PX), interpolation=cv2.INTER_AREA).astype(np.float32)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two pictures of one shape; 0 when one of them is plain."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def iou_xyxy(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    overlap = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if overlap.min() <= 0:
        return 0.0
    area = float(np.prod(overlap))
    return area / float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - area)
