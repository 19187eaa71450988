"""Faces: detection, the main face of a clip, and one stable box for all of its frames.

In: a video file. Out: a `FaceTrack` with boxes in pixels (x0, y0, x1, y1) of the displayed frame and times in seconds,
and square RGB uint8 crops (T, S, S, 3). One box serves the whole clip: a box per frame would cancel the head's motion.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from helpers.store import read_arrays, write_arrays
from helpers.video import count_samples, iter_frames, probe

DETECTION_PX = 360  # longest shorter side that is searched; larger frames are shrunk
MIN_FACE = 0.2  # of the shorter side
N_NEIGHBOURS = 5  # overlapping hits that make a face
UP = 0.08  # of the face's width: Haar boxes sit low, the crop is raised to hold forehead and hair
SAME_FACE_IOU = 0.3


class NoFaceError(ValueError):
    """A clip without a usable face; the message is the reason."""


@dataclass(frozen=True)
class FaceTrack:
    """The main face of a clip.

    `box_xyxy (4,) float32`: the clip's one square box, enlarged, may reach beyond the frame. `boxes_xyxy (n, 4)
    float32`, `confidence (n,) float32` (overlapping hits of the detector), `t_s (n,)` seconds and `frame (n,)` numbers
    in the file: what was found in the looked-at frames. `coverage`: share of the looked-at frames with the main face.
    `n_faces_max`: most faces in one frame. `fps`: sampling rate of the clip, `every`: every which sample was looked at,
    `n_frames`: samples in the clip.
    """

    box_xyxy: np.ndarray
    boxes_xyxy: np.ndarray
    confidence: np.ndarray
    t_s: np.ndarray
    frame: np.ndarray
    coverage: float
    n_faces_max: int
    fps: float
    every: int
    n_frames: int

    def has_face(self, t_s: np.ndarray) -> np.ndarray:
        """Whether the face was found within two looks of each time in seconds: bool, same shape."""
        distance_s = np.abs(np.asarray(t_s)[..., None] - self.t_s).min(axis=-1)
        return distance_s <= 2 * self.every / self.fps + 1e-9


def detect_faces(frame: np.ndarray) -> np.ndarray:
    """Find frontal faces with OpenCV's Haar cascade `alt2`.

    Args:
        frame: RGB uint8 (H, W, 3).

    Returns:
        float32 (n, 5): x, y, width, height in pixels of `frame`, and the number of overlapping hits.
    """
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, DETECTION_PX / min(gray.shape))
    if scale < 1:
        gray = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    least = round(MIN_FACE * min(gray.shape))
    boxes, hits = _cascade().detectMultiScale2(gray, 1.1, N_NEIGHBOURS, minSize=(least, least))
    if not len(boxes):
        return np.zeros((0, 5), np.float32)
    return np.column_stack([boxes / scale, hits]).astype(np.float32)


@cache
def _cascade() -> cv2.CascadeClassifier:
    path = Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_alt2.xml"
    if not hasattr(cv2, "CascadeClassifier") or not path.exists():
        raise RuntimeError(
            f"OpenCV {cv2.__version__} ships no Haar data. Install 'opencv-contrib-python-headless>=4.10,<5'."
        )
    return cv2.CascadeClassifier(str(path))


def track_face(
    path: str | Path, *, fps: float, every: int, scale: float, min_coverage: float, backend: str = "auto"
) -> FaceTrack:
    """Find the main face of a clip and its one stable box.

    The main face is the one whose boxes, linked by overlap from look to look, have the largest summed area.

    Args:
        path: Video file.
        fps: Rate at which the clip is sampled.
        every: Every which sample is searched, from the first.
        scale: Side of the stable box in widths of the detected face.
        min_coverage: Share of the looked-at frames that must show the face.
        backend: See `helpers.video.iter_frames`.

    Raises:
        NoFaceError: no face, or too rarely.
        VideoError: the file cannot be decoded.
    """
    found, t_s, numbers = [], [], []
    for frame, t, number in iter_frames(path, fps=fps, indices=slice(0, None, every), backend=backend):
        found.append(detect_faces(frame))
        t_s.append(t)
        numbers.append(number)
    looks, faces = main_face(found)
    coverage = len(looks) / len(found)
    if not looks:
        raise NoFaceError(f"no face found in {len(found)} looked-at frames")
    if coverage < min_coverage:
        share = f"{100 * coverage:.0f} % of the looked-at frames, at least {100 * min_coverage:.0f} % needed"
        raise NoFaceError(f"face in only {share}")
    return FaceTrack(
        box_xyxy=stable_box(faces, scale),
        boxes_xyxy=np.column_stack([faces[:, :2], faces[:, :2] + faces[:, 2:4]]),
        confidence=faces[:, 4],
        t_s=np.array(t_s)[looks],
        frame=np.array(numbers)[looks],
        coverage=coverage,
        n_faces_max=max(map(len, found)),
        fps=float(fps),
        every=every,
        n_frames=count_samples(probe(path).duration_s, fps),
    )


def main_face(found: list[np.ndarray]) -> tuple[list[int], np.ndarray]:
    """Link faces from look to look by overlap and take the one with the largest summed area.

    Args:
        found: Per look, the rows of `detect_faces`.

    Returns:
        The looks that show it, and its rows, float32 (n, 5).
    """
    tracks: list[tuple[list[int], list[np.ndarray]]] = []
    for look, faces in enumerate(found):
        pairs = sorted(
            ((iou(rows[-1], face), i, j) for i, (_, rows) in enumerate(tracks) for j, face in enumerate(faces)),
            reverse=True,
        )
        linked: dict[int, int] = {}
        for overlap, i, j in pairs:
            if overlap >= SAME_FACE_IOU and j not in linked and i not in linked.values():
                linked[j] = i
        for j, face in enumerate(faces):
            if j not in linked:
                linked[j] = len(tracks)
                tracks.append(([], []))
            tracks[linked[j]][0].append(look)
            tracks[linked[j]][1].append(face)
    if not tracks:
        return [], np.zeros((0, 5), np.float32)
    looks, rows = max(tracks, key=lambda track: sum(row[2] * row[3] for row in track[1]))
    return looks, np.stack(rows)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (x, y, width, height, ...)."""
    overlap = [min(a[k] + a[k + 2], b[k] + b[k + 2]) - max(a[k], b[k]) for k in (0, 1)]
    if min(overlap) <= 0:
        return 0.0
    area = overlap[0] * overlap[1]
    return float(area / (a[2] * a[3] + b[2] * b[3] - area))


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


def crop_face(frame: np.ndarray, box_xyxy: np.ndarray, size_px: int) -> np.ndarray:
    """Cut a square box out of an RGB frame, scaled to (size_px, size_px, 3); beyond the frame its edge repeats."""
    x0, y0, x1, _ = np.asarray(box_xyxy, np.float64)
    k = size_px / (x1 - x0)
    matrix = np.float32([[k, 0, -x0 * k], [0, k, -y0 * k]])
    size = (size_px, size_px)
    return cv2.warpAffine(frame, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def crop_faces(frames: Iterable[np.ndarray], box_xyxy: np.ndarray, size_px: int = 224) -> np.ndarray:
    """Cut the same box out of every RGB uint8 frame: (T, size_px, size_px, 3)."""
    return np.stack([crop_face(frame, box_xyxy, size_px) for frame in frames])


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
