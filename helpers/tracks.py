"""Face tracks: what is known of the main face of a clip, its file, and the crops that it gives.

In: `faces/<key>.npz`, and RGB uint8 frames (H, W, 3). Out: a `FaceTrack` with boxes in pixels (x0, y0, x1, y1) of the
displayed frame and times in seconds, and square RGB uint8 crops (S, S, 3). By default one box serves the whole clip: a
box per frame would cancel the head's motion. `helpers.faces` finds the faces.
"""

from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np

from helpers.store import ClipError, read_arrays, write_arrays

NONE, DETECTED, TRACKED, INTERPOLATED = range(4)
SOURCES = ("none", "detected", "tracked", "interpolated")  # by the number in `FaceTrack.source`
UP = 0.08  # of the face's width: Haar boxes sit low, the crop is raised to hold forehead and hair


class NoFaceError(ClipError):
    """A clip without a usable face; the message is the reason."""


@dataclass(frozen=True)
class FaceTrack:
    """The main face of a clip, sample by sample; boxes are pixels of the displayed frame, NaN where there is none."""

    found_xyxy: np.ndarray  # (n, 4) float32, as found
    boxes_xyxy: np.ndarray  # (n, 4) float32, smoothed
    confidence: np.ndarray  # (n,) float32: detected: the detector's own; tracked: that times the similarity; else 0
    source: np.ndarray  # (n,) uint8, counts in `SOURCES`
    angle_deg: np.ndarray  # (n,) float32, roll of the eyes, positive when the picture's right is lower; NaN unknown
    jitter_found_px: float  # deviation of the change of the box's centre from sample to sample
    jitter_px: float  # the same after smoothing
    box_xyxy: np.ndarray  # (4,) float32, the clip's one square box, enlarged; may reach beyond the frame
    t_s: np.ndarray  # (n,) seconds
    frame: np.ndarray  # (n,) numbers in the file
    coverage: float  # share of the looks with the main face
    n_faces_max: int  # in one frame
    fps: float  # of the samples
    every: int  # every which sample was looked at
    n_frames: int  # n, samples
    scale: float  # side of the stable box in face widths
    crop: str  # this and the next: how `crop_at` cuts
    align_eyes: bool
    detector: str  # this and the next: names with versions
    decoder: str
    reason: str  # why this is the main face
    stamp: str = ""  # version of the clip (`helpers.store.clip_fingerprint`)
    cuts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # (k,) samples that begin a later shot
    remarks: str = ""  # what is odd about the choice of the face, joined by "; "

    def has_face(self, t_s: np.ndarray) -> np.ndarray:
        """Whether the face was found within two looks of a time, in its shot, or is tracked then: bool, same shape."""
        apart_s = 1e6 * np.searchsorted(self.cuts, np.arange(len(self.t_s)), side="right")  # from shot to shot
        sample, looks = self.sample_at(t_s), (self.t_s + apart_s)[self.source == DETECTED]
        t_s = np.asarray(t_s) + apart_s[sample]
        nearest = looks[np.searchsorted((looks[1:] + looks[:-1]) / 2, t_s)]
        is_near = np.abs(t_s - nearest) <= 2 * self.every / self.fps + 1e-9
        return is_near | (self.source[sample] == TRACKED)

    def sample_at(self, t_s: np.ndarray) -> np.ndarray:
        """Number of the sample on screen at each time in seconds: int, same shape."""
        return (np.searchsorted(self.t_s, np.asarray(t_s) + 1e-9, side="right") - 1).clip(0)


def crop_box(track: FaceTrack, t_s: float) -> tuple[np.ndarray, float]:
    """The square that the crop at a time shows, pixels (4,), and the roll in degrees that is taken out of it.

    "stable": the clip's one box and median roll. "smooth": a box of the same size about the smoothed face, raised
    alike; where the face has no box, at the nearest sample that has one. The roll is 0 unless `align_eyes`.
    """
    box, angle_deg = track.box_xyxy, track.angle_deg
    if track.crop == "smooth":
        known = np.flatnonzero(~np.isnan(track.boxes_xyxy[:, 0]))
        sample = known[np.abs(known - track.sample_at(t_s)).argmin()]
        x0, y0, x1, y1 = track.boxes_xyxy[sample].astype(np.float64)
        side = float(box[2] - box[0])
        cx, cy = (x0 + x1) / 2, (y0 + y1) / 2 - UP * side / track.scale
        box, angle_deg = square(cx, cy, side), angle_deg[sample]
    return box, float(np.nanmedian(angle_deg)) if track.align_eyes else 0.0


def square(cx: float, cy: float, side: float) -> np.ndarray:
    """The square about a centre in pixels: x0, y0, x1, y1, float32 (4,)."""
    return np.array([cx - side / 2, cy - side / 2, cx + side / 2, cy + side / 2], np.float32)


def crop_at(frame: np.ndarray, track: FaceTrack, t_s: float, size_px: int) -> np.ndarray:
    """Cut the face out of an RGB uint8 frame (H, W, 3), the one at `t_s` seconds: RGB uint8 (size_px, size_px, 3)."""
    box, angle_deg = crop_box(track, t_s)
    return crop_face(frame, box, size_px, angle_deg)


def crop_face(frame: np.ndarray, box_xyxy: np.ndarray, size_px: int, angle_deg: float = 0.0) -> np.ndarray:
    """Cut a square box out of an RGB frame, scaled to (size_px, size_px, 3); beyond the frame its edge repeats.

    A roll of `angle_deg` (see `FaceTrack`) is taken out by turning the box about its centre.
    """
    x0, y0, x1, _ = np.asarray(box_xyxy, np.float64)
    k = size_px / (x1 - x0)
    matrix = np.float32([[k, 0, -x0 * k], [0, k, -y0 * k]])
    if angle_deg:
        turn = cv2.getRotationMatrix2D((size_px / 2, size_px / 2), angle_deg, 1.0)
        matrix = np.float32(turn @ np.vstack([matrix, [0, 0, 1]]))
    size = (size_px, size_px)
    return cv2.warpAffine(frame, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def write_track(path: str | Path, track: FaceTrack) -> None:
    write_arrays(path, **asdict(track))


def read_track(path: str | Path) -> FaceTrack:
    """Read a track; a damaged file is a ValueError that names it."""
    arrays = {name: value.item() if value.ndim == 0 else value for name, value in read_arrays(path).items()}
    try:
        return FaceTrack(**arrays)
    except TypeError:
        raise ValueError(f"{path} is not a face track: it holds {', '.join(sorted(arrays))}.") from None


def track_of(out: Path, key: str, stamp: str, no_track: dict[str, str]) -> FaceTrack:
    """The track of a clip in the run's folder `out`, where it was made from the version of the clip with this stamp.

    Raises:
        NoFaceError: There is none; the message says why. `no_track` (key -> reason) are those that 02 could not use.
    """
    if key in no_track:
        raise NoFaceError(f"no faces file: {no_track[key]}")
    with suppress(FileNotFoundError, ValueError):
        track = read_track(out / "faces" / f"{key}.npz")
        if track.stamp == stamp:
            return track
    raise NoFaceError(
        "no faces file: there is none, it is damaged, or the clip has changed since. Run 02_clip_preparation again"
    )
