"""One face through a clip: followed between the looks of the detector, and given a box at every sample.

In: every sample, RGB uint8 (H, W, 3), in order, at a look with the detector's rows. Out: box, confidence, source and
roll per sample, in pixels of the frame. A sample's box is detected, followed, interpolated over a short gap, or missing
(NaN); it is then smoothed in time without delay. Held are small grey pictures since the last look only.

Between looks, points in the face are moved by pyramidal Lucas-Kanade and kept if they come back to where they started
(Kalal, Mikolajczyk and Matas 2010, "Forward-backward error"); their median gives shift and scale. A face that no longer
looks like the one that was detected is lost, and so is one that a cut takes away: where the picture changes as no face
makes it, what surrounds the face must stay.
"""

from functools import cache, partial
from itertools import pairwise
from typing import Any

import cv2
import numpy as np

from helpers.detectors import shrunk
from helpers.shots import Shots, correlation, small, unlikeness
from helpers.tracks import DETECTED, INTERPOLATED, TRACKED

SAME_FACE_IOU = 0.3
CUT_OFF_S = 1.5  # period that smoothing halves; a nod (1 to 3 Hz) stays in the crop, a walk moves the box
HALVED = float(np.sqrt(np.log(2) / 2) / np.pi)  # deviation of the Gaussian that halves a period of 1: 0.187

PICTURE_PX = 180  # longest shorter side of the grey pictures
N_POINTS, MIN_POINTS = 24, 6
MAX_RETURN_PX = 1.0  # of the grey picture: a point that comes back farther off is dropped
PATCH_PX = 24  # side of the patches that similarity is measured on
MIN_SIMILARITY = 0.6  # correlation with the detected face; below it the face is lost
AROUND = 2.4  # widths of a face that are compared to know it again: with hair, collar and wall
CLOSE, STAYS = 1.2, 0.05  # widths that must stay where the rest of the picture changes, and how unlike they may become
MAX_FACES = 4  # followed at once, the largest
LUCAS_KANADE = {"winSize": (11, 11), "maxLevel": 2, "criteria": (3, 10, 0.03)}
Place = tuple[int, int]  # of a detection: look, and row among the faces found there
PAIRS = cache(partial(np.triu_indices, k=1))  # by the number of points


class Leg:
    """The path of one face from a detection on, forwards or backwards, until it is found again or lost.

    `start` (look, row) is the detection it comes from, `arrived` the one that it ran into, None when it did not. Per
    sample: its number in `samples`, `boxes_xyxy` in pixels of the frame, `similarity` with the detected face, up to 1.
    `through`: samples at which the picture changed, but not about the face: a slide behind a speaker.
    """

    def __init__(self, start: Place, gray: np.ndarray, box_xyxy: np.ndarray) -> None:
        """Take the face in a box of a small grey picture, in pixels of that."""
        self.start, self.arrived = start, None
        self.samples, self.boxes_xyxy, self.similarity, self.through = [], [], [], []
        self._detected = _patch(gray, box_xyxy)
        self._seed(gray, box_xyxy)

    def _seed(self, gray: np.ndarray, box_xyxy: np.ndarray) -> None:
        """Choose new points in a box; later boxes are that box moved as the points have moved since."""
        x0, y0, x1, y1 = np.maximum(box_xyxy, 0).astype(int)
        face = gray[y0:y1, x0:x1]
        spacing = max(3.0, (box_xyxy[2] - box_xyxy[0]) / 10)
        points = cv2.goodFeaturesToTrack(face, N_POINTS, 0.01, spacing) if face.size else None
        points = np.zeros((0, 2), np.float32) if points is None else points.reshape(-1, 2) + np.float32([x0, y0])
        self._box, self._seeded, self._points, self._last = box_xyxy, points, points, box_xyxy

    def step(self, sample: int, before: np.ndarray, gray: np.ndarray, scale: float, change: int | None) -> bool:
        """Move the box to the next picture and note it; False when the face is lost.

        `change`: the later of both samples where they differ as no face makes them, else None.
        """
        if len(self._points) < MIN_POINTS:
            return False
        there, went, _ = cv2.calcOpticalFlowPyrLK(before, gray, self._points, None, **LUCAS_KANADE)
        back, came, _ = cv2.calcOpticalFlowPyrLK(gray, before, there, None, **LUCAS_KANADE)
        kept = (went & came)[:, 0].astype(bool) & (np.abs(back - self._points).max(axis=1) <= MAX_RETURN_PX)
        kept &= ((there >= 0) & (there <= np.float32(gray.shape[::-1]) - 1)).all(axis=1)
        self._seeded, self._points = self._seeded[kept], there[kept]
        if len(self._points) < MIN_POINTS:
            return False
        box = moved_box(self._box, self._seeded, self._points)
        similarity = correlation(self._detected, _patch(gray, box))
        if similarity < MIN_SIMILARITY:
            return False
        if change is not None:
            close = (small(_cut_out(*there, CLOSE)) for there in ((before, self._last), (gray, box)))
            if unlikeness(*close) > STAYS:
                return False
            self.through.append(change)
        if len(self._points) < N_POINTS // 2 and not kept.all():
            self._seed(gray, box)
        self._last = box
        self.samples.append(sample)
        self.boxes_xyxy.append(box / scale)
        self.similarity.append(similarity)
        return True


class Follower:
    """Takes the samples of a clip one by one, `fps` a second; the legs of all followed faces gather in `legs`.

    Of every look, `looked` has the sample's number and `found` the detector's rows; `looks` of every followed detection
    what is about it, as `helpers.shots.small` makes it. `shots` knows where the clip is cut.
    """

    def __init__(self, fps: float = 15.0) -> None:
        self.legs: list[Leg] = []
        self.looked: list[int] = []
        self.found: list[np.ndarray] = []
        self.looks: dict[Place, np.ndarray | None] = {}
        self.shots = Shots(fps)
        self._changes: list[int | None] = []  # of `_pictures`
        self._moving: list[Leg] = []
        self._pictures: list[np.ndarray] = []  # grey, since the last look and with it, the newest last

    def step(self, sample: int, frame: np.ndarray, faces: np.ndarray | None) -> None:
        """Take the next sample: number, RGB uint8 (H, W, 3), and the rows of `detect_faces` at a look, else None."""
        gray, scale = shrunk(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), PICTURE_PX)
        change = sample if self.shots.step(gray) else None
        self._moving = [leg for leg in self._moving if leg.step(sample, self._pictures[-1], gray, scale, change)]
        self._pictures.append(gray)
        self._changes.append(change)
        if faces is not None:
            self._look(sample, scale, faces)

    def _look(self, sample: int, scale: float, faces: np.ndarray) -> None:
        """End the legs that arrive at a detection; start one at every detection, and one back where none arrived."""
        boxes, gray = corners(faces), self._pictures[-1]
        for leg in self._moving:
            overlaps = [iou(leg.boxes_xyxy[-1], box) for box in boxes]
            if max(overlaps, default=0) >= SAME_FACE_IOU:
                leg.arrived = (len(self.looked), int(np.argmax(overlaps)))
        arrived = {leg.arrived for leg in self._moving}
        bridging = [leg for leg in self._moving if leg.arrived is None]
        self._moving = []
        for row in np.argsort(-faces[:, 2] * faces[:, 3], kind="stable")[:MAX_FACES].tolist():
            start = (len(self.looked), row)
            self.looks[start] = small(_cut_out(gray, boxes[row] * scale, AROUND))
            if start not in arrived and len(self._pictures) > 2:
                self.legs.append(Leg(start, gray, boxes[row] * scale))
                self._go_back(self.legs[-1], sample, scale)
            self._moving.append(Leg(start, gray, boxes[row] * scale))
            self.legs.append(self._moving[-1])
        self._moving += bridging[: MAX_FACES - len(self._moving)]
        self._pictures, self._changes = [gray], [None]
        self.looked.append(sample)
        self.found.append(faces)

    def _go_back(self, leg: Leg, sample: int, scale: float) -> None:
        """Follow a face that appeared at a look backwards to the look before."""
        backwards = enumerate(zip(pairwise(self._pictures[:0:-1]), self._changes[::-1], strict=False), start=1)
        all(leg.step(sample - back, *pictures, scale, change) for back, (pictures, change) in backwards)

    def unlikeness(self, one: Place, other: Place) -> float:
        """How unlike the surroundings of two detections are."""
        return unlikeness(self.looks.get(one), self.looks.get(other))


def moved_box(box_xyxy: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Shift and scale a box (4,) by the medians of how its points (n, 2) have moved and how far apart they are."""
    one, other = PAIRS(len(before))
    apart, apart_later = (np.hypot(*(p[one] - p[other]).T) for p in (before, after))
    far = apart > 1
    scale = np.median(apart_later[far] / apart[far]) if far.any() else 1.0
    shift = np.median(after - scale * before, axis=0)
    return (scale * np.asarray(box_xyxy, np.float64).reshape(2, 2) + shift).ravel()


def _patch(gray: np.ndarray, box_xyxy: np.ndarray) -> np.ndarray:
    """What a box shows, float32 (24, 24)."""
    shown = cv2.resize(_cut_out(gray, box_xyxy), (PATCH_PX, PATCH_PX), interpolation=cv2.INTER_AREA)
    return shown.astype(np.float32)


def _cut_out(gray: np.ndarray, box_xyxy: np.ndarray, widths: float = 1.0) -> np.ndarray:
    size = np.maximum(np.round(widths * (box_xyxy[2:] - box_xyxy[:2])), 2).astype(int)
    centre = (box_xyxy[:2] + box_xyxy[2:] - 1) / 2
    return cv2.getRectSubPix(gray, tuple(size.tolist()), tuple(centre.tolist()))


def corners(faces: np.ndarray) -> np.ndarray:
    """The boxes of a detector's rows (n, >= 4) of x, y, width, height as x0, y0, x1, y1, float64 (n, 4)."""
    return np.column_stack([faces[:, :2], faces[:, :2] + faces[:, 2:4]]).astype(np.float64)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    shared = np.prod((np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(0))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))


def face_path(
    rows: np.ndarray, places: list[Place], legs: list[Leg], shot: np.ndarray, every: int, fps: float, max_gap_s: float
) -> dict[str, Any]:
    """Give a face a box at every sample of a clip.

    Args:
        rows: The detector's rows of the face, (k, >= 5), at least one.
        places: Of each, as `helpers.people.main_face` gives them.
        legs: Legs of all followed faces.
        shot: Number of each sample's shot, (n,): nothing is interpolated or smoothed from one to another.
        every: Every which sample was looked at, from the first.
        max_gap_s: Longest time between two known boxes that is interpolated.

    Returns:
        The fields of `helpers.tracks.FaceTrack` that have a row per sample, and the two jitters.
    """
    n, looked = len(shot), np.array([look for look, _ in places]) * every
    found, confidence, source = _join_legs(rows, places, legs, shot, looked)
    known = np.flatnonzero(source)
    fills = fillable(known, max_gap_s * fps, shot)
    for column in found.T:
        column[fills] = np.interp(fills, known, column[known])
    source[fills] = INTERPOLATED
    roll = roll_deg(rows) if rows.shape[1] == 15 else np.full(len(rows), np.nan)
    smoothed = np.column_stack([found, np.where(source, np.interp(np.arange(n), looked, roll), np.nan)])
    for cut in np.unique(shot):
        smoothed[shot == cut] = smooth(smoothed[shot == cut], CUT_OFF_S * fps)
    return {
        "found_xyxy": found.astype(np.float32),
        "boxes_xyxy": smoothed[:, :4].astype(np.float32),
        "confidence": confidence.astype(np.float32),
        "source": source,
        "angle_deg": smoothed[:, 4].astype(np.float32),
        "jitter_found_px": jitter(found),
        "jitter_px": jitter(smoothed),
    }


def _join_legs(
    rows: np.ndarray, places: list[Place], legs: list[Leg], shot: np.ndarray, looked: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Lay a face's detections and legs along the samples: boxes (n, 4) or NaN, confidence, source (n,) uint8.

    A leg that arrives at the next detection is bent so that it ends on it; where two legs meet, each sample takes the
    one whose detection is nearer. None reaches into another shot.
    """
    detected, detections = {place: k for k, place in enumerate(places)}, corners(rows)
    n = len(shot)
    found, confidence, source = np.full((n, 4), np.nan), np.zeros(n), np.zeros(n, np.uint8)
    away = np.full(n, np.inf)  # samples to the detection that a box comes from
    for leg in legs:
        if leg.start not in detected or not leg.samples:
            continue
        k = detected[leg.start]
        samples, boxes = np.array(leg.samples), np.array(leg.boxes_xyxy)
        distance = np.abs(samples - looked[k])
        if leg.arrived in detected and shot[samples[-1]] == shot[looked[k]]:
            boxes += (distance / distance[-1])[:, None] * (detections[detected[leg.arrived]] - boxes[-1])
            distance = np.minimum(distance, distance[-1] - distance)
        nearer = (distance < away[samples]) & (shot[samples] == shot[looked[k]])
        samples = samples[nearer]
        found[samples], away[samples], source[samples] = boxes[nearer], distance[nearer], TRACKED
        confidence[samples] = rows[k, 4] * np.array(leg.similarity)[nearer]
    found[looked], confidence[looked], source[looked] = detections, rows[:, 4], DETECTED
    return found, confidence, source


def fillable(known: np.ndarray, max_gap: float, shot: np.ndarray) -> np.ndarray:
    """Samples that are unknown and lie between two known ones of one shot, at most `max_gap` samples apart."""
    unknown = np.setdiff1d(np.arange(known[0], known[-1]), known)
    following = np.searchsorted(known, unknown)
    before, after = known[following - 1], known[following]
    return unknown[(after - before <= max_gap + 1e-9) & (shot[after] == shot[before])]


def smooth(values: np.ndarray, cut_off: float) -> np.ndarray:
    """Low-pass every run of known rows with a Gaussian, which has no delay; straight motion stays as it is.

    A row of `values` (n, C) is known where its first column is not NaN; others stay. `cut_off` is the period in rows
    whose amplitude is halved.
    """
    sigma = HALVED * cut_off
    reach = max(1, round(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    smoothed = values.copy()
    known = np.flatnonzero(~np.isnan(values[:, 0]))
    for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
        if len(run) > 1:
            padded = np.pad(values[run], ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
            smoothed[run] = np.stack([np.convolve(column, kernel, mode="valid") for column in padded.T], axis=1)
    return smoothed


def roll_deg(rows: np.ndarray) -> np.ndarray:
    """Roll of the eye line in degrees, (n,), from rows with landmarks: positive when the picture's right is lower."""
    right, left = rows[:, 5:7], rows[:, 7:9]  # the person's right eye lies left in the picture
    return np.degrees(np.arctan2(left[:, 1] - right[:, 1], left[:, 0] - right[:, 0]))


def jitter(boxes_xyxy: np.ndarray) -> float:
    """Deviation in pixels of the change of the boxes' centre from row to row; 0 with fewer than two changes."""
    change = np.diff((boxes_xyxy[:, :2] + boxes_xyxy[:, 2:4]) / 2, axis=0)
    change = change[~np.isnan(change[:, 0])]
    return float(np.sqrt(change.var(axis=0).sum())) if len(change) > 1 else 0.0
