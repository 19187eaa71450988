"""Faces: the main face of a clip, one stable box for all of its frames, and the crops.

In: a video file. Out: a `FaceTrack` with boxes in pixels (x0, y0, x1, y1) of the displayed frame and times in seconds,
and square RGB uint8 crops (S, S, 3). By default one box serves the whole clip: a box per frame would cancel the head's
motion. A clip with too little face is a `NoFaceError`, never a guess.
"""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np

from helpers.config import PreparationConfig
from helpers.container import VideoError
from helpers.store import Stage, clip_stamp, read_arrays, read_manifest, write_arrays
from helpers.video import Frames, backend_version, iter_frames, read_frames, uniform_indices
from helpers.weights import WEIGHTS, fetch

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

DETECTORS = ("haar", "yunet")
LANDMARKS = ("yunet",)  # detectors that find the eyes
DETECTION_PX = 360  # longest shorter side that is searched; larger frames are shrunk
MIN_FACE = 0.2  # of the shorter side, Haar only
N_NEIGHBOURS = 5  # overlapping hits that make a face
MIN_SCORE, MAX_OVERLAP = 0.6, 0.3  # of YuNet, as in opencv_zoo's models/face_detection_yunet/yunet.py
HAAR = "haarcascade_frontalface_alt2"


YUNET = WEIGHTS["yunet"].files[0]


def detect_faces(frame: np.ndarray, detector: str = "haar") -> np.ndarray:
    """Find the faces of one frame.

    Args:
        frame: RGB uint8 (H, W, 3).
        detector: "haar" (frontal faces) or "yunet" (any pose; its file must be there: `require_detector`).

    Returns:
        float32, (n, 5) of "haar" and (n, 15) of "yunet": x, y, width, height in pixels of `frame`, confidence,
        landmarks. The confidence is the number of overlapping hits of "haar" (at least 5), the score of "yunet"
        (0.6 to 1); the two cannot be compared.
    """
    height, width = frame.shape[:2]
    scale = min(1.0, DETECTION_PX / min(height, width))
    if detector == "haar":
        return _detect_haar(frame, scale)
    if detector == "yunet":
        return _detect_yunet(frame, scale, _yunet())
    raise ValueError(f"detector must be one of {', '.join(map(repr, DETECTORS))}, got {detector!r}.")


def _detect_haar(frame: np.ndarray, scale: float) -> np.ndarray:
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    if scale < 1:
        gray = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    least = round(MIN_FACE * min(gray.shape))
    boxes, hits = _cascade().detectMultiScale2(gray, 1.1, N_NEIGHBOURS, minSize=(least, least))
    if not len(boxes):
        return np.zeros((0, 5), np.float32)
    return np.column_stack([boxes / scale, hits]).astype(np.float32)


def _detect_yunet(frame: np.ndarray, scale: float, network: "cv2.FaceDetectorYN") -> np.ndarray:
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    if scale < 1:
        bgr = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    network.setInputSize((bgr.shape[1], bgr.shape[0]))
    return rows_of_yunet(network.detect(bgr)[1], scale)


def rows_of_yunet(found: np.ndarray | None, scale: float) -> np.ndarray:
    """Bring YuNet's table into this module's order.

    YuNet's boxes are taller than wide; here they become squares of the same centre with the longer side, like Haar's,
    so that one `crop_scale` serves both.

    Args:
        found: What `cv2.FaceDetectorYN.detect` gives: None, or float32 (n, 15) of x, y, width, height, ten landmark
            coordinates, score.
        scale: The searched picture's size in that of the frame.

    Returns:
        float32 (n, 15), see `detect_faces`.
    """
    if found is None:
        return np.zeros((0, 15), np.float32)
    boxes, landmarks, score = found[:, :4] / scale, found[:, 4:14] / scale, found[:, 14:]
    side = boxes[:, 2:].max(axis=1, keepdims=True)
    corner = boxes[:, :2] + (boxes[:, 2:] - side) / 2
    return np.concatenate([corner, side, side, score, landmarks], axis=1).astype(np.float32)


@cache
def _cascade() -> cv2.CascadeClassifier:
    path = Path(cv2.__file__).parent / "data" / f"{HAAR}.xml"
    if not hasattr(cv2, "CascadeClassifier") or not path.exists():
        raise RuntimeError(
            f"OpenCV {cv2.__version__} ships no Haar data. Install 'opencv-contrib-python-headless>=4.10,<5'."
        )
    return cv2.CascadeClassifier(str(path))


@cache
def _yunet() -> "cv2.FaceDetectorYN":
    path = _checked_file()
    return cv2.FaceDetectorYN.create(str(path), "", (320, 320), MIN_SCORE, MAX_OVERLAP)


def _checked_file() -> Path:
    """YuNet's file, or an error that says where to put it."""
    path = YUNET.place
    if not path.is_file():
        raise FileNotFoundError(_how_to_get(path, "is missing"))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != YUNET.file_hash:
        raise ValueError(_how_to_get(path, f"must have sha256 {YUNET.file_hash}, got {found}"))
    return path


def _how_to_get(path: Path, what: str) -> str:
    file = f"{YUNET.name} ({YUNET.n_bytes:,} bytes, {WEIGHTS['yunet'].licence} licence)"
    return (
        f"{path} {what}. Put {file} there, from\n  {YUNET.url}\n"
        "or name another folder in OCEAN_WEIGHTS, or choose detector=haar, which needs no file."
    )


def require_detector(detector: str) -> None:
    """Make sure that a detector can be used, fetching YuNet's file if it is not there yet; call it before any work.

    Raises:
        FileNotFoundError: The file cannot be had; the message has its address and place.
        ValueError: The file that is there is another one.
    """
    if detector == "haar":
        _cascade()
    elif detector == "yunet":
        if not YUNET.place.is_file() and (reason := fetch(YUNET)):
            raise FileNotFoundError(_how_to_get(YUNET.place, f"is missing and could not be fetched ({reason})"))
        _checked_file()
    else:
        raise ValueError(f"detector must be one of {', '.join(map(repr, DETECTORS))}, got {detector!r}.")


def detector_file(detector: str) -> str:
    """What decides a detector's boxes besides OpenCV, as manifests record it."""
    return {"haar": HAAR, "yunet": f"{YUNET.name} sha256:{YUNET.file_hash}"}[detector]


def detector_version(detector: str) -> str:
    """The detector with its library's version, as tracks record it: "haarcascade_frontalface_alt2, OpenCV 4.14.0"."""
    return f"{ {'haar': HAAR, 'yunet': Path(YUNET.name).stem}[detector] }, OpenCV {cv2.__version__}"


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
            faces: Rows of `helpers.faces.detect_faces` if it was looked at, else None.
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


NONE, DETECTED, TRACKED, INTERPOLATED = range(4)
SOURCES = ("none", "detected", "tracked", "interpolated")  # by the number in `source`
SAME_FACE_IOU = 0.3
CUT_OFF_S = 1.5  # period that smoothing halves; a nod (1 to 3 Hz) stays in the crop, a walk moves the box
HALVED = float(np.sqrt(np.log(2) / 2) / np.pi)  # deviation of the Gaussian that halves a period of 1: 0.187


@dataclass(frozen=True)
class MainFace:
    """The main face: the `looks` that show it (n,), the number of its row in each, and the rows, float32 (n, >= 5).

    `reason` says why it was chosen; `looks` is empty when there is no face at all.
    """

    looks: list[int]
    numbers: list[int]
    rows: np.ndarray
    reason: str


@dataclass(frozen=True)
class FacePath:
    """A face at every sample: `found_xyxy (n, 4)` as found, `boxes_xyxy (n, 4)` smoothed, float32 pixels, NaN if none.

    `source (n,) uint8` counts in `SOURCES`. `confidence (n,) float32`: the detector's own where detected; where tracked
    that of the detection it comes from times the similarity with it; 0 elsewhere. `angle_deg (n,) float32`: roll of the
    eye line, positive when the picture's right eye is lower, NaN without landmarks. `jitter_found_px`, `jitter_px`:
    deviation of the change of the box's centre from sample to sample, before and after smoothing.
    """

    found_xyxy: np.ndarray
    boxes_xyxy: np.ndarray
    confidence: np.ndarray
    source: np.ndarray
    angle_deg: np.ndarray
    jitter_found_px: float
    jitter_px: float


def main_face(found: list[np.ndarray]) -> MainFace:
    """Link faces from look to look by overlap and take the one with the largest summed area.

    Args:
        found: Per look, the rows of `helpers.faces.detect_faces`.
    """
    tracks: list[list[tuple[int, int]]] = []  # (look, row) of each face
    for look, faces in enumerate(found):
        last = [found[i][j] for i, j in (track[-1] for track in tracks)]
        pairs = sorted(((iou(a, b), i, j) for i, a in enumerate(last) for j, b in enumerate(faces)), reverse=True)
        linked: dict[int, int] = {}
        for overlap, i, j in pairs:
            if overlap >= SAME_FACE_IOU and j not in linked and i not in linked.values():
                linked[j] = i
        for j in range(len(faces)):
            if j not in linked:
                linked[j] = len(tracks)
                tracks.append([])
            tracks[linked[j]].append((look, j))
    if not tracks:
        return MainFace([], [], np.zeros((0, 5), np.float32), "no face")
    areas = [sum(found[i][j][2] * found[i][j][3] for i, j in track) for track in tracks]
    chosen = tracks[int(np.argmax(areas))]
    looks, numbers = zip(*chosen, strict=True)
    return MainFace(list(looks), list(numbers), np.stack([found[i][j] for i, j in chosen]), _reason(areas))


def _reason(areas: list[float]) -> str:
    if len(areas) == 1:
        return "the only face"
    second, first = sorted(areas)[-2:]
    return f"largest summed area: {first / second:.1f} times the next of {len(areas)} faces"


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (x, y, width, height, ...)."""
    overlap = [min(a[k] + a[k + 2], b[k] + b[k + 2]) - max(a[k], b[k]) for k in (0, 1)]
    if min(overlap) <= 0:
        return 0.0
    area = overlap[0] * overlap[1]
    return float(area / (a[2] * a[3] + b[2] * b[3] - area))


def face_path(main: MainFace, legs: list[Leg], n: int, *, every: int, fps: float, max_gap_s: float) -> FacePath:
    """Give the main face a box at every sample.

    Args:
        main: The main face, not empty.
        legs: Legs of all followed faces.
        n: Samples in the clip.
        every: Every which sample was looked at, from the first.
        fps: Samples per second.
        max_gap_s: Longest time between two known boxes that is interpolated.
    """
    found, confidence, source = join_legs(main, legs, n, every)
    known = np.flatnonzero(source)
    fills = fillable(known, max_gap_s * fps)
    for column in found.T:
        column[fills] = np.interp(fills, known, column[known])
    source[fills] = INTERPOLATED
    boxes = smooth(found, CUT_OFF_S * fps)
    angle = np.full(n, np.nan)
    if main.rows.shape[1] == 15:
        has_box = source != NONE
        looked = np.array(main.looks) * every
        angle[has_box] = np.interp(np.flatnonzero(has_box), looked, roll_deg(main.rows))
        angle = smooth(angle[:, None], CUT_OFF_S * fps)[:, 0]
    return FacePath(
        found.astype(np.float32),
        boxes.astype(np.float32),
        confidence.astype(np.float32),
        source,
        angle.astype(np.float32),
        jitter(found),
        jitter(boxes),
    )


def join_legs(main: MainFace, legs: list[Leg], n: int, every: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay the main face's detections and legs along the samples.

    A leg that arrives at the next detection is bent so that it ends on it; where two legs meet, each sample takes the
    one whose detection is nearer.

    Returns:
        Boxes (n, 4), NaN where there is none, confidence (n,), source (n,) uint8.
    """
    rows = np.column_stack([main.rows[:, :2], main.rows[:, :2] + main.rows[:, 2:4]]).astype(np.float64)
    detected = {start: k for k, start in enumerate(zip(main.looks, main.numbers, strict=True))}
    found, confidence, source = np.full((n, 4), np.nan), np.zeros(n), np.zeros(n, np.uint8)
    away = np.full(n, np.inf)  # samples to the detection that a box comes from
    for leg in legs:
        if leg.start not in detected or not leg.samples:
            continue
        k = detected[leg.start]
        samples, boxes, origin = np.array(leg.samples), np.array(leg.boxes_xyxy), main.looks[k] * every
        distance = np.abs(samples - origin)
        if leg.arrived in detected:
            boxes += (distance / distance[-1])[:, None] * (rows[detected[leg.arrived]] - boxes[-1])
            distance = np.minimum(distance, distance[-1] - distance)
        nearer = distance < away[samples]
        samples = samples[nearer]
        found[samples], away[samples], source[samples] = boxes[nearer], distance[nearer], TRACKED
        confidence[samples] = main.rows[k, 4] * np.array(leg.similarity)[nearer]
    looked = np.array(main.looks) * every
    found[looked], confidence[looked], source[looked] = rows, main.rows[:, 4], DETECTED
    return found, confidence, source


def fillable(known: np.ndarray, max_gap: float) -> np.ndarray:
    """Samples that are unknown and lie between two known ones at most `max_gap` samples apart."""
    unknown = np.setdiff1d(np.arange(known[0], known[-1]), known)
    following = np.searchsorted(known, unknown)
    return unknown[known[following] - known[following - 1] <= max_gap + 1e-9]


def smooth(values: np.ndarray, cut_off: float) -> np.ndarray:
    """Low-pass every run of rows without NaN with a Gaussian, which has no delay; straight motion stays as it is.

    Args:
        values: (n, C); a row is NaN as a whole or not at all.
        cut_off: Period in rows whose amplitude is halved.

    Returns:
        (n, C), NaN where `values` is.
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
    change = np.diff((boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2, axis=0)
    change = change[~np.isnan(change[:, 0])]
    return float(np.sqrt(change.var(axis=0).sum())) if len(change) > 1 else 0.0


UP = 0.08  # of the face's width: Haar boxes sit low, the crop is raised to hold forehead and hair
ALIVE_S = 60.0  # between two signs of life of a decoder process
TRACK_LAYOUT = 2  # arrays of a track's file; 1 had the looked-at frames only


class NoFaceError(ValueError):
    """A clip without a usable face; the message is the reason."""


@dataclass(frozen=True)
class FaceTrack:
    """The main face of a clip, sample by sample; n = `n_frames` samples at `fps`.

    `box_xyxy (4,) float32`: the clip's one square box, enlarged, may reach beyond the frame. `t_s (n,)` seconds and
    `frame (n,)` numbers in the file. `boxes_xyxy`, `found_xyxy`, `confidence`, `source`, `angle_deg`, `jitter_px` and
    `jitter_found_px`: see `helpers.faces.FacePath`. `coverage`: share of the looked-at frames with the main
    face. `n_faces_max`: most faces in one frame. `every`: every which sample was looked at. `scale`: side of the stable
    box in face widths. `crop`, `align_eyes`: how `crop_at` cuts. `detector`, `decoder`: names with versions. `reason`:
    why this is the main face.
    """

    box_xyxy: np.ndarray
    boxes_xyxy: np.ndarray
    found_xyxy: np.ndarray
    confidence: np.ndarray
    source: np.ndarray
    angle_deg: np.ndarray
    t_s: np.ndarray
    frame: np.ndarray
    coverage: float
    n_faces_max: int
    fps: float
    every: int
    n_frames: int
    scale: float
    crop: str
    align_eyes: bool
    detector: str
    decoder: str
    reason: str
    jitter_found_px: float
    jitter_px: float

    def has_face(self, t_s: np.ndarray) -> np.ndarray:
        """Whether the face was found within two looks of each time in seconds, or is tracked then: bool, same shape."""
        t_s, looks = np.asarray(t_s), self.t_s[self.source == DETECTED]
        after = np.searchsorted(looks, t_s)
        distance_s = np.minimum(
            np.abs(t_s - looks[(after - 1).clip(0)]), np.abs(t_s - looks[after.clip(max=len(looks) - 1)])
        )
        return (distance_s <= 2 * self.every / self.fps + 1e-9) | (self.source[self.sample_at(t_s)] == TRACKED)

    def sample_at(self, t_s: np.ndarray) -> np.ndarray:
        """Number of the sample on screen at each time in seconds: int, same shape."""
        return (np.searchsorted(self.t_s, np.asarray(t_s) + 1e-9, side="right") - 1).clip(0)


def track_clip(path: str | Path, cfg: PreparationConfig) -> FaceTrack:
    """Find the main face of a clip as the parameters of 02 say; raises as `track_face`."""
    *_, track = tracks_of((path, cfg))
    return track


def track_face(
    path: str | Path,
    *,
    fps: float,
    every: int,
    scale: float,
    min_coverage: float,
    backend: str = "auto",
    detector: str = "haar",
    crop: str = "stable",
    align_eyes: bool = False,
    max_gap_s: float = 1.0,
) -> FaceTrack:
    """Find the main face of a clip, its one stable box, and its smoothed box at every sample.

    The main face is the one whose boxes, linked by overlap from look to look, have the largest summed area. Between
    looks it is followed; one frame is held at a time.

    Args:
        path: Video file.
        fps: Rate at which the clip is sampled.
        every: Every which sample is searched, from the first.
        scale: Side of the stable box in widths of the detected face.
        min_coverage: Share of the looked-at frames that must show the face.
        backend: See `helpers.video.iter_frames`.
        detector: See `helpers.faces.detect_faces`.
        crop: "stable", or "smooth": the box follows the smoothed path.
        align_eyes: Whether crops are turned so that the eyes lie level; needs landmarks.
        max_gap_s: Longest time between two known boxes that is interpolated.

    Raises:
        NoFaceError: no face, or too rarely.
        VideoError: the file cannot be decoded.
    """
    cfg = PreparationConfig(
        fps=fps,
        detect_every=every,
        crop_scale=scale,
        min_coverage=min_coverage,
        backend=backend,
        detector=detector,
        crop=crop,
        align_eyes=align_eyes,
        max_gap_s=max_gap_s,
    )
    return track_clip(path, cfg)


def tracks_of(job: tuple[str | Path, PreparationConfig]) -> Iterator[FaceTrack | None]:
    """The one track of a clip, as decoder processes make it; before it None about once a minute, as a sign of life."""
    video, cfg = job
    found, t_s, numbers, follower = [], [], [], Follower()
    stream = iter_frames(video, fps=cfg.fps, backend=cfg.backend)
    told_s = time.monotonic()
    for sample, (frame, t, number) in enumerate(stream):
        faces = detect_faces(frame, cfg.detector) if sample % cfg.detect_every == 0 else None
        follower.step(sample, frame, faces)
        if faces is not None:
            found.append(faces)
        t_s.append(t)
        numbers.append(number)
        if time.monotonic() >= told_s + ALIVE_S:
            yield None
            told_s = time.monotonic()
    main = main_face(found)
    coverage = _enough(len(main.looks), len(found), cfg.min_coverage)
    path = face_path(main, follower.legs, len(t_s), every=cfg.detect_every, fps=cfg.fps, max_gap_s=cfg.max_gap_s)
    yield FaceTrack(
        box_xyxy=stable_box(main.rows, cfg.crop_scale),
        **vars(path),
        t_s=np.array(t_s),
        frame=np.array(numbers),
        coverage=coverage,
        n_faces_max=max(map(len, found)),
        fps=cfg.fps,
        every=cfg.detect_every,
        n_frames=len(t_s),
        scale=cfg.crop_scale,
        crop=cfg.crop,
        align_eyes=cfg.align_eyes,
        detector=detector_version(cfg.detector),
        decoder=stream.decoder,
        reason=main.reason,
    )


def _enough(n_shown: int, n_looks: int, min_coverage: float) -> float:
    """The coverage, or `NoFaceError` when it is too low."""
    coverage = n_shown / n_looks
    if not n_shown:
        raise NoFaceError(f"no face found in {n_looks} looked-at frames")
    if coverage < min_coverage:
        share = f"{100 * coverage:.0f} % of the looked-at frames, at least {100 * min_coverage:.0f} % needed"
        raise NoFaceError(f"face in only {share}")
    return coverage


def stable_box(faces: np.ndarray, scale: float) -> np.ndarray:
    """One square box for all detections of a face: median centre and width, enlarged and raised.

    Args:
        faces: (n, >= 4): x, y, width, height.
        scale: Side of the box in face widths.

    Returns:
        x0, y0, x1, y1, float32 (4,).
    """
    x, y, w, h = faces[:, :4].astype(np.float64).T
    cx, cy, width = np.median([x + w / 2, y + h / 2, w], axis=1)
    cy, half = cy - UP * width, width * scale / 2
    return np.array([cx - half, cy - half, cx + half, cy + half], np.float32)


def crop_box(track: FaceTrack, t_s: float) -> tuple[np.ndarray, float]:
    """The square box that the crop at a time shows, and the roll that is taken out of it.

    "stable": the clip's one box and median roll. "smooth": a box of the same size about the smoothed face, raised
    alike; where the face has no box, at the nearest sample that has one (such rows are invalid unless it is near).

    Returns:
        x0, y0, x1, y1 in pixels (4,), and degrees, 0 unless the track says `align_eyes`.
    """
    if track.crop == "stable":
        return track.box_xyxy, float(np.nanmedian(track.angle_deg)) if track.align_eyes else 0.0
    known = np.flatnonzero(~np.isnan(track.boxes_xyxy[:, 0]))
    sample = known[np.abs(known - track.sample_at(t_s)).argmin()]
    x0, y0, x1, y1 = track.boxes_xyxy[sample].astype(np.float64)
    side = float(track.box_xyxy[2] - track.box_xyxy[0])
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2 - UP * side / track.scale
    box = np.array([cx - side / 2, cy - side / 2, cx + side / 2, cy + side / 2], np.float32)
    return box, float(track.angle_deg[sample]) if track.align_eyes else 0.0


def crop_at(frame: np.ndarray, track: FaceTrack, t_s: float, size_px: int) -> np.ndarray:
    """Cut the face out of the frame at a time, as the track says.

    Args:
        frame: RGB uint8 (H, W, 3), the one at `t_s`.
        track: The face of its clip.
        t_s: Time in seconds.
        size_px: Side of the crop.

    Returns:
        RGB uint8 (size_px, size_px, 3).
    """
    box, angle_deg = crop_box(track, t_s)
    return crop_face(frame, box, size_px, angle_deg)


def crop_face(frame: np.ndarray, box_xyxy: np.ndarray, size_px: int, angle_deg: float = 0.0) -> np.ndarray:
    """Cut a square box out of an RGB frame, scaled to (size_px, size_px, 3); beyond the frame its edge repeats.

    A roll of `angle_deg` (see `helpers.faces.FacePath`) is taken out by turning the box about its centre.
    """
    x0, y0, x1, _ = np.asarray(box_xyxy, np.float64)
    k = size_px / (x1 - x0)
    matrix = np.float32([[k, 0, -x0 * k], [0, k, -y0 * k]])
    if angle_deg:
        turn = cv2.getRotationMatrix2D((size_px / 2, size_px / 2), angle_deg, 1.0)
        matrix = np.float32(turn @ np.vstack([matrix, [0, 0, 1]]))
    size = (size_px, size_px)
    return cv2.warpAffine(frame, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def crop_faces(frames: Iterable[np.ndarray], box_xyxy: np.ndarray, size_px: int = 224) -> np.ndarray:
    """Cut the same box out of every RGB uint8 frame: (T, size_px, size_px, 3)."""
    return np.stack([crop_face(frame, box_xyxy, size_px) for frame in frames])


def sheet_of_clip(
    path: str | Path, track: FaceTrack, n: int = 10, *, backend: str = "auto"
) -> tuple[Frames, np.ndarray]:
    """Frames for a contact sheet: up to `n` samples spread evenly, and their numbers (n,) in the track's arrays."""
    samples = uniform_indices(track.n_frames, min(n, track.n_frames))
    return read_frames(path, fps=track.fps, indices=samples.tolist(), backend=backend), samples


def write_track(path: str | Path, track: FaceTrack, stamp: str = "") -> None:
    """Write a track as npz; `stamp` tells later which version of the clip it was made from."""
    write_arrays(path, **asdict(track), stamp=stamp)


def read_track(path: str | Path) -> FaceTrack:
    """Read a track; a damaged file is a ValueError that names it."""
    arrays = read_arrays(path)
    arrays.pop("stamp", None)
    try:
        return FaceTrack(**{name: value.item() if value.ndim == 0 else value for name, value in arrays.items()})
    except TypeError:
        raise ValueError(f"{path} is not a face track: it holds {', '.join(sorted(arrays))}.") from None


def track_of(out: Path, key: str, stamp: str, no_track: dict[str, str]) -> FaceTrack:
    """The track of a clip in a run's folder.

    Args:
        out: The run's folder; `faces/<key>.npz` lies in it.
        key: The clip's key.
        stamp: Its version now, see `helpers.store.clip_stamp`.
        no_track: Key -> reason of the clips that 02 could not use.

    Raises:
        NoFaceError: There is no track of this version of the clip; the message says why.
    """
    if key in no_track:
        raise NoFaceError(f"no faces file: {no_track[key]}")
    if stamp == "missing":
        raise NoFaceError("the video is not in the folder of clips")
    path = out / "faces" / f"{key}.npz"
    try:
        found, track = str(read_arrays(path)["stamp"]), read_track(path)
    except FileNotFoundError:
        raise NoFaceError("no faces file: the clip is new, or it was deleted. Run 02_clip_preparation again") from None
    except ValueError:
        raise NoFaceError("no faces file: it is damaged. Run 02_clip_preparation again") from None
    if found != stamp:
        raise NoFaceError("no faces file: the clip has changed since. Run 02_clip_preparation again")
    return track


SIZE_PX = 224  # of the source project's faces


def export_faces(
    clips: "pd.DataFrame",
    data: str | Path,
    run: str | Path,
    to: str | Path,
    *,
    every: int = 5,
    quality: int = 95,
    progress: bool = False,
) -> dict[str, Any]:
    """Write the face crops of all clips; clips that are done are not done again.

    Args:
        clips: Index `key`, column `path` below `data`.
        data: Folder of the clips.
        run: The run's folder, with `faces/` of 02.
        to: Where `faces_jpeg/` and `faces_jpeg_times/` are made.
        every: Every which frame of the file, from the first; 5 as in the source project.
        quality: Of the JPEG files, 1 to 100.
        progress: Whether to show a progress bar.

    Returns:
        The manifest: counts of clips and files, and the clips that could not be exported, with the reason.

    Raises:
        FileNotFoundError: 02 is not done.
        ValueError: `to` was made with other settings.
    """
    from tqdm.auto import tqdm

    if every < 1 or not 1 <= quality <= 100:
        raise ValueError(f"every must be at least 1 and quality 1 to 100, got {every} and {quality}.")
    faces = read_manifest(Path(run) / "faces", "02_clip_preparation")
    backend = faces["identity"]["parameters"]["backend"]
    no_track = {entry["clip"]: entry["reason"] for entry in faces["failed"]}
    identity = {"preparation": faces["identity"], "every": every, "quality": quality, "size_px": SIZE_PX}
    made_with = {"decoder": backend_version(backend), "opencv": cv2.__version__}
    with Stage(Path(to) / "faces_jpeg_times", "faces_jpeg", identity, made_with) as stage:
        counts = {"clips": len(clips), "made": 0, "found": 0, "failed": 0, "files": 0}
        for key, path in tqdm(clips["path"].items(), total=len(clips), unit="clip", disable=not progress):
            path, folder = Path(data) / path, Path(to) / "faces_jpeg" / key
            stamp = clip_stamp(path)
            if folder.is_dir() and stage.done(key, stamp):
                counts["found"] += 1
                continue
            try:
                track = track_of(Path(run), key, stamp, no_track)
                numbers, t_s = export_clip(path, track, folder, every=every, quality=quality, backend=backend)
            except (VideoError, NoFaceError, cv2.error, av.FFmpegError) as error:
                log.warning("%s: %s", key, error)
                shutil.rmtree(folder, ignore_errors=True)  # of an earlier version of the clip
                stage.path(key).unlink(missing_ok=True)
                stage.fail(key, str(error).removeprefix(f"{path.name}: "))
                counts["failed"] += 1
                continue
            write_arrays(stage.path(key), frame=numbers, t_s=t_s, stamp=stamp)
            counts["made"] += 1
            counts["files"] += len(numbers)
        return stage.finish(**counts)


def export_clip(
    path: str | Path, track: FaceTrack, folder: Path, *, every: int, quality: int, backend: str = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """Write one clip's crops into `folder`, replacing what is there; frames without the face are left out.

    Returns:
        Numbers in the file of the frames that were written, int64 (n,), and their times in seconds, float64 (n,).
    """
    numbers, t_s = [], []
    with replacing_folder(folder) as part:
        for frame, t, number in iter_frames(path, indices=slice(0, None, every), backend=backend):
            if track.has_face(np.array(t)):
                crop = cv2.cvtColor(crop_at(frame, track, t, SIZE_PX), cv2.COLOR_RGB2BGR)
                ok, jpeg = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, quality])
                if not ok:
                    raise RuntimeError(f"OpenCV {cv2.__version__} could not encode frame {number} as JPEG")
                (part / f"face_{number:06d}.jpg").write_bytes(jpeg.tobytes())
                numbers.append(number)
                t_s.append(t)
    return np.array(numbers, np.int64), np.array(t_s, np.float64)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` on success, and is removed otherwise."""
    part = folder.parent / f".part-{folder.name}"
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    part.mkdir(parents=True)
    try:
        yield part
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
