"""The faces of a clip: followed from look to look, linked, the one that the clip is about, and its box at every sample.

A sample's box is detected, followed, interpolated over a short gap, or missing (NaN); it is then smoothed in time
without delay. Between looks, points in the face are moved by pyramidal Lucas-Kanade and kept if they come back to where
they started (Kalal, Mikolajczyk and Matas 2010, "Forward-backward error"); their median gives shift and scale. A face
that no longer looks like the one that was detected is lost, and so is one that a cut takes away: where the picture
changes as no face makes it, what surrounds the face must stay.

There is no face recognition here: a face is the same from one look to the next if a leg leads there, or if it is at the
same place and what is about it looks alike; so a person comes back after a cut where the camera does.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np

from helpers.detectors import shrunk
from helpers.shots import ALIKE, Shots, correlation, small, unlikeness
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
SAME_SHOT = 0.25  # unlikeness of what is about a face that was lost in between; two people: .35 in the middle
FADE_S = 0.5  # on each side of a cross-fade's middle: what is seen there is of two pictures
NEARLY = 1.5  # times the area of the next face; below it there is a remark
# How far a still picture's patch is from the one detected, as 1 - correlation: .0007 in the middle and .013 at most, be
# it noisy, compressed, filmed by hand or zoomed into; a man who smiles .004 and .028, a blink at most .02.
STILL_MEDIAN, STILL_MOST = 0.0015, 0.015
STILL_S = 1.5  # that a face must be followed for: for a second a man may keep as quiet as a picture
Place = tuple[int, int]  # of a detection: look, and row among the faces found there


class Leg:
    """The path of one face from a detection on, until it is found again or lost.

    `start` is the detection it comes from, `arrived` the one that it ran into, None when it did not. Per sample: its
    number in `samples`, `boxes_xyxy` in pixels of the frame, `similarity` with the detected face, up to 1. `through`:
    samples at which the picture changed, but not about the face: a slide behind a speaker.
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

    def step(self, sample: int, before: np.ndarray, gray: np.ndarray, scale: float, changed: bool) -> bool:
        """Move the box to the next picture and note it; False when the face is lost.

        `changed`: the pictures differ as no face makes them.
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
        if changed:
            if unlikeness(small(_cut_out(before, self._last, CLOSE)), small(_cut_out(gray, box, CLOSE))) > STAYS:
                return False
            self.through.append(sample)
        if len(self._points) < N_POINTS // 2 and not kept.all():
            self._seed(gray, box)
        self._last = box
        self.samples.append(sample)
        self.boxes_xyxy.append(box / scale)
        self.similarity.append(similarity)
        return True


class Follower:
    """Takes the samples of a clip one by one, `fps` a second; the legs of all followed faces gather in `legs`.

    Of every look, `looked` has the sample's number and `found` the detector's rows; `about` of every followed detection
    what is about it, as `helpers.shots.small` makes it. `shots` knows where the clip is cut.
    """

    def __init__(self, fps: float = 15.0) -> None:
        self.legs: list[Leg] = []
        self.looked: list[int] = []
        self.found: list[np.ndarray] = []
        self.about: dict[Place, np.ndarray | None] = {}
        self.shots = Shots(fps)
        self._moving: list[Leg] = []
        self._last: np.ndarray | None = None  # picture, grey

    def step(self, sample: int, frame: np.ndarray, faces: np.ndarray | None) -> None:
        """Take the next sample: number, RGB uint8 (H, W, 3), and the rows of `detect_faces` at a look, else None."""
        gray, scale = shrunk(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), PICTURE_PX)
        changed = self.shots.step(gray)
        self._moving = [leg for leg in self._moving if leg.step(sample, self._last, gray, scale, changed)]
        self._last = gray
        if faces is not None:
            self._look(sample, scale, faces)

    def _look(self, sample: int, scale: float, faces: np.ndarray) -> None:
        """End the legs that arrive at a detection; start one at every detection."""
        boxes = corners(faces)
        for leg in self._moving:
            overlaps = [iou(leg.boxes_xyxy[-1], box) for box in boxes]
            if max(overlaps, default=0) >= SAME_FACE_IOU:
                leg.arrived = (len(self.looked), int(np.argmax(overlaps)))
        bridging = [leg for leg in self._moving if leg.arrived is None]
        self._moving = []
        for row in np.argsort(-faces[:, 2] * faces[:, 3], kind="stable")[:MAX_FACES].tolist():
            start, box = (len(self.looked), row), boxes[row] * scale
            self.about[start] = small(_cut_out(self._last, box, AROUND))
            self._moving.append(Leg(start, self._last, box))
        self.legs += self._moving
        self._moving += bridging[: MAX_FACES - len(self._moving)]
        self.looked.append(sample)
        self.found.append(faces)

    def unlikeness(self, one: Place, other: Place) -> float:
        """How unlike the surroundings of two detections are."""
        return unlikeness(self.about.get(one), self.about.get(other))


def moved_box(box_xyxy: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Shift and scale a box (4,) by the medians of how its points (n, 2) have moved and how far apart they are."""
    one, other = np.triu_indices(len(before), k=1)
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


class MainFace(NamedTuple):
    """The face that a clip is about.

    `places` of its detections and their `rows` (k, >= 5); `coverage`, their share of the looks; `cuts`, samples that
    begin a shot, but for the first shot and for what changed behind the face alone; why it was chosen; remarks.
    """

    places: list[Place]
    rows: np.ndarray
    coverage: float
    cuts: np.ndarray
    moves: bool
    reason: str
    remarks: list[str]


def main_face(follower: Follower) -> MainFace | None:
    """Choose the face that a clip is about, once it is followed; None where there is none.

    Faces that do not move are passed over where another one does. In a clip that is cut it is then the face of most
    looks, else the one with the largest summed area.
    """
    found, faces, cuts = follower.found, link(follower), follower.shots.cuts()
    if not faces:
        return None
    moving = [face for face in faces if not is_still(face, follower)]
    remarks = [] if moving else ["the face does not move: a still picture?"]
    if 0 < len(moving) < len(faces):
        width = max(found[look][row][2] for face in faces if face not in moving for look, row in face)
        remarks.append(f"a still face of {width:.0f} px is passed over")
    sizes = [sum(found[look][row][2] * found[look][row][3] for look, row in face) for face in moving or faces]
    order = sorted(zip(sizes, moving or faces, strict=True), key=lambda of: -of[0])
    size, face = order[0]
    reason = "the only face" if len(faces) == 1 else "the only face that moves"
    if len(order) > 1:
        times = size / order[1][0]
        reason = f"largest summed area: {times:.1f} times the next of {len(order)} faces"
        if len(cuts):
            _, face = max(order, key=lambda of: (len(of[1]), of[0]))
            reason = f"most time on screen: {len(face)} of {len(found)} looks, of {len(order)} faces"
        elif times < NEARLY:
            remarks.append(f"another face is nearly as large ({times:.1f} times)")
    rows = np.stack([found[look][row] for look, row in face])
    behind = [sample for leg in _legs_of(face, follower) for sample in leg.through]
    cuts = np.setdiff1d(cuts, behind).astype(np.int64)
    return MainFace(face, rows, len(face) / len(found), cuts, bool(moving), reason, remarks)


def link(follower: Follower) -> list[list[Place]]:
    """The detections of each face: they overlap from look to look, and a leg leads there or they look alike.

    Those in a cross-fade are nobody's.
    """
    faces: list[list[Place]] = []
    boxes, looked, shots = [corners(rows) for rows in follower.found], follower.looked, follower.shots
    shot = np.searchsorted(shots.cuts(), looked, side="right")
    arrived = [leg for leg in follower.legs if leg.arrived]
    led = {(leg.start, leg.arrived) for leg in arrived if leg.through or shot[leg.start[0]] == shot[leg.arrived[0]]}
    fades = shots.fades()
    fading = [any(abs(sample - fade) < FADE_S * shots.fps for fade in fades) for sample in looked]
    for look, here in enumerate(boxes):
        last = [boxes[i][j] for i, j in (face[-1] for face in faces)]
        pairs = sorted(((iou(a, b), i, j) for i, a in enumerate(last) for j, b in enumerate(here)), reverse=True)
        free = dict.fromkeys(range(0 if fading[look] else len(here)))
        for overlap, i, j in pairs:
            before, place = faces[i][-1], (look, j)
            if overlap < SAME_FACE_IOU or j not in free or before[0] == look:
                continue
            limit = SAME_SHOT if shot[look] == shot[before[0]] else ALIKE
            if (before, place) in led or follower.unlikeness(before, place) <= limit:
                faces[i].append(place)
                del free[j]
        faces += [[(look, j)] for j in free]
    return faces


def _legs_of(face: list[Place], follower: Follower) -> list[Leg]:
    places = set(face)
    return [leg for leg in follower.legs if leg.start in places]


def is_still(face: list[Place], follower: Follower) -> bool:
    """Whether a face hardly changes while it is followed, blinks and breathing included: a picture of one."""
    changes = [1 - value for leg in _legs_of(face, follower) for value in leg.similarity]
    is_long = len(changes) >= STILL_S * follower.shots.fps
    return is_long and np.median(changes) < STILL_MEDIAN and max(changes) < STILL_MOST


def face_path(follower: Follower, face: MainFace, n: int, every: int, max_gap_s: float) -> dict[str, Any]:
    """Give the face a box at each of a clip's `n` samples, of which every `every`th was looked at, from the first.

    Unknown boxes between two known ones of a shot, at most `max_gap_s` apart, are interpolated.

    Returns:
        The fields of `helpers.tracks.FaceTrack` that have a row per sample, and the two jitters.
    """
    fps, shot = follower.shots.fps, np.searchsorted(face.cuts, np.arange(n), side="right")
    rows, looked = face.rows, np.array([look for look, _ in face.places]) * every
    found, confidence, source = _join_legs(face, dict(zip(face.places, looked, strict=True)), follower.legs, shot)
    known = np.flatnonzero(source)
    unknown = np.setdiff1d(np.arange(known[0], known[-1]), known)
    after = np.searchsorted(known, unknown)
    before, after = known[after - 1], known[after]
    fills = unknown[(after - before <= max_gap_s * fps + 1e-9) & (shot[after] == shot[before])]
    for column in found.T:
        column[fills] = np.interp(fills, known, column[known])
    source[fills] = INTERPOLATED
    roll = roll_deg(rows) if rows.shape[1] == 15 else np.full(len(rows), np.nan)
    smoothed = np.column_stack([found, np.where(source, np.interp(np.arange(n), looked, roll), np.nan)])
    for number in np.unique(shot):
        smoothed[shot == number] = smooth(smoothed[shot == number], CUT_OFF_S * fps)
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
    face: MainFace, looked: dict[Place, int], legs: list[Leg], shot: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay a face's detections and legs along the samples: boxes (n, 4) or NaN, confidence, source (n,) uint8.

    A leg that arrives at a detection is bent so that it ends on it; a later leg counts more; none reaches into another
    shot. `looked` has the samples of the detections.
    """
    n, boxes_at = len(shot), dict(zip(looked, corners(face.rows), strict=True))
    trust = dict(zip(looked, face.rows[:, 4], strict=True))
    found, confidence, source = np.full((n, 4), np.nan), np.zeros(n), np.zeros(n, np.uint8)
    for leg in legs:
        if leg.start not in looked or not leg.samples:
            continue
        start, samples, boxes = looked[leg.start], np.array(leg.samples), np.array(leg.boxes_xyxy)
        inside = shot[samples] == shot[start]
        if leg.arrived in looked and inside[-1]:
            boxes += ((samples - start) / (samples[-1] - start))[:, None] * (boxes_at[leg.arrived] - boxes[-1])
        found[samples[inside]], source[samples[inside]] = boxes[inside], TRACKED
        confidence[samples[inside]] = trust[leg.start] * np.array(leg.similarity)[inside]
    at = list(looked.values())
    found[at], confidence[at], source[at] = list(boxes_at.values()), face.rows[:, 4], DETECTED
    return found, confidence, source


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
