"""From detections at intervals to the main face of a clip and its box at every sample.

In: the detector's rows of every look and the `Leg`s between looks. Out: the `MainFace` with the reason for the choice,
and a `FacePath`: box, confidence, source and roll per sample. A sample's box is detected, followed, interpolated over a
short gap, or missing (NaN); it is then smoothed in time without delay.
"""

from dataclasses import dataclass

import numpy as np

from helpers.tracking.follower import Leg

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
        found: Per look, the rows of `helpers.tracking.detectors.detect_faces`.
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
