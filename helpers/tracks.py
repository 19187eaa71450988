"""Face tracks: what is known of the main face of a clip, its file, and the crops that it gives.

In: `faces/<key>.npz`, and RGB uint8 frames (H, W, 3). Out: a `FaceTrack` with boxes in pixels (x0, y0, x1, y1) of the
displayed frame and times in seconds, and square RGB uint8 crops (S, S, 3). One box serves the whole clip: a box per
frame would cancel the head's motion. `helpers.faces` finds the faces.
"""

from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import cv2
import numpy as np

from helpers.store import AbsentError, ClipError, read_arrays, write_arrays

TRACKER = 3  # what finds tracks, by number
NONE, DETECTED, _, INTERPOLATED = range(4)
SOURCES = ("none", "detected", "tracked", "interpolated")  # by the number in `FaceTrack.source`; none is "tracked"


class NoFaceError(ClipError):
    """A clip without a usable face; the message is the reason."""


@dataclass(frozen=True)
class FaceTrack:
    """The main face of a clip, sample by sample; boxes are pixels of the displayed frame, NaN where there is none."""

    found_xyxy: np.ndarray  # (n, 4) float32, as found at the looks, interpolated between them
    confidence: np.ndarray  # (n,) float32, the detector's own; 0 where nothing was detected
    source: np.ndarray  # (n,) uint8, counts in `SOURCES`
    box_xyxy: np.ndarray  # (4,) float32, the clip's one square box, enlarged; may reach beyond the frame
    t_s: np.ndarray  # (n,) seconds
    frame: np.ndarray  # (n,) numbers in the file
    coverage: float  # share of the looks with the main face
    n_faces_max: int  # in one frame
    fps: float  # of the samples
    every: int  # every which sample was looked at
    n_frames: int  # n, samples
    align_eyes: bool  # whether crops are turned
    detector: str  # this and the next: names with versions
    decoder: str
    reason: str  # why this is the main face
    angle_deg: float = np.nan  # roll of the eyes, positive when the picture's right is lower; NaN unknown
    fingerprint: str = ""  # version of the clip (`helpers.store.clip_fingerprint`)
    cuts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # (k,) samples that begin a later shot
    remarks: str = ""  # what is odd about the choice of the face, joined by "; "

    def has_face(self, t_s: np.ndarray) -> np.ndarray:
        """Whether the face was found within two looks of a time, in its shot: bool, same shape."""
        apart_s = 1e6 * np.searchsorted(self.cuts, np.arange(len(self.t_s)), side="right")  # from shot to shot
        looks = (self.t_s + apart_s)[self.source == DETECTED]
        t_s = np.asarray(t_s) + apart_s[self.sample_at(t_s)]
        nearest = looks[np.searchsorted((looks[1:] + looks[:-1]) / 2, t_s)]
        return np.abs(t_s - nearest) <= 2 * self.every / self.fps + 1e-9

    def sample_at(self, t_s: np.ndarray) -> np.ndarray:
        """Number of the sample on screen at each time in seconds: int, same shape."""
        return (np.searchsorted(self.t_s, np.asarray(t_s) + 1e-9, side="right") - 1).clip(0)


def crop_at(frame: np.ndarray, track: FaceTrack, size_px: int) -> np.ndarray:
    """Cut the face out of any RGB uint8 frame (H, W, 3) of its clip: RGB uint8 (size_px, size_px, 3)."""
    return crop_face(frame, track.box_xyxy, size_px, track.angle_deg if track.align_eyes else 0.0)


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
    arrays, wanted = read_arrays(path), {field.name for field in fields(FaceTrack)}
    try:
        return FaceTrack(**{k: v.item() if v.ndim == 0 else v for k, v in arrays.items() if k in wanted})
    except TypeError:
        raise ValueError(f"{path} is not a face track: it holds {', '.join(sorted(arrays))}.") from None


def track_of(out: Path, key: str, fingerprint: str, no_track: dict[str, str]) -> FaceTrack:
    """The track of a clip in the run's folder `out`, where it was made from this version of the clip.

    NoFaceError where there is none, with the reason. `no_track` (key -> reason) are those that 02 could not use.
    """
    if key in no_track:
        raise AbsentError(f"no faces file: {no_track[key]}")
    with suppress(FileNotFoundError, ValueError):
        track = read_track(out / "faces" / f"{key}.npz")
        if track.fingerprint == fingerprint:
            return track
    raise NoFaceError(
        "no faces file: there is none, it is damaged, or the clip has changed since. Run 02_clip_preparation again"
    )
