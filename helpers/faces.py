"""Faces: the main face of a clip, one stable box for all of its frames, and the crops.

In: a video file. Out: a `FaceTrack` with boxes in pixels (x0, y0, x1, y1) of the displayed frame and times in seconds,
and square RGB uint8 crops (S, S, 3). By default one box serves the whole clip: a box per frame would cancel the head's
motion. A clip with too little face is a `NoFaceError`, never a guess. `export_faces` writes the crops as the tree of
JPEG files that the source project's tools read.
"""

import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
from tqdm.auto import tqdm

from helpers.config import PreparationConfig
from helpers.container import VideoError
from helpers.detectors import detect_faces, detector_version
from helpers.files import PART
from helpers.store import Stage, clip_stamp, read_arrays, read_manifest, write_arrays
from helpers.tracking import DETECTED, TRACKED, Follower, face_path, main_face
from helpers.video import Frames, backend_version, iter_frames, read_frames, uniform_indices

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

UP = 0.08  # of the face's width: Haar boxes sit low, the crop is raised to hold forehead and hair
ALIVE_S = 60.0  # between two signs of life of a decoder process
TRACK_LAYOUT = 2  # arrays of a track's file; 1 had the looked-at frames only
SIZE_PX, QUALITY = 224, 95  # of the exported JPEG files; the size is the source project's


class NoFaceError(ValueError):
    """A clip without a usable face; the message is the reason."""


@dataclass(frozen=True)
class FaceTrack:
    """The main face of a clip, sample by sample; n = `n_frames` samples at `fps`.

    `found_xyxy (n, 4)` as found, `boxes_xyxy (n, 4)` smoothed, float32 pixels, NaN if none. `source (n,) uint8` counts
    in `helpers.tracking.SOURCES`. `confidence (n,) float32`: the detector's own where detected; where tracked that of
    the detection it comes from times the similarity with it; 0 elsewhere. `angle_deg (n,) float32`: roll of the eye
    line, positive when the picture's right eye is lower, NaN without landmarks. `jitter_found_px`, `jitter_px`:
    deviation of the change of the box's centre from sample to sample, before and after smoothing.

    `box_xyxy (4,) float32`: the clip's one square box, enlarged, may reach beyond the frame. `t_s (n,)` seconds and
    `frame (n,)` numbers in the file. `coverage`: share of the looked-at frames with the main face. `n_faces_max`: most
    faces in one frame. `every`: every which sample was looked at. `scale`: side of the stable box in face widths.
    `crop`, `align_eyes`: how `crop_at` cuts. `detector`, `decoder`: names with versions. `reason`: why this is the main
    face.
    """

    found_xyxy: np.ndarray
    boxes_xyxy: np.ndarray
    confidence: np.ndarray
    source: np.ndarray
    angle_deg: np.ndarray
    jitter_found_px: float
    jitter_px: float
    box_xyxy: np.ndarray
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

    def has_face(self, t_s: np.ndarray) -> np.ndarray:
        """Whether the face was found within two looks of each time in seconds, or is tracked then: bool, same shape."""
        t_s, looks = np.asarray(t_s), self.t_s[self.source == DETECTED]
        nearest = looks[np.searchsorted((looks[1:] + looks[:-1]) / 2, t_s)]
        is_near = np.abs(t_s - nearest) <= 2 * self.every / self.fps + 1e-9
        return is_near | (self.source[self.sample_at(t_s)] == TRACKED)

    def sample_at(self, t_s: np.ndarray) -> np.ndarray:
        """Number of the sample on screen at each time in seconds: int, same shape."""
        return (np.searchsorted(self.t_s, np.asarray(t_s) + 1e-9, side="right") - 1).clip(0)


def track_clip(path: str | Path, cfg: PreparationConfig) -> FaceTrack:
    """Find the main face of a clip, its one stable box, and its smoothed box at every sample.

    The main face is the one whose boxes, linked by overlap from look to look, have the largest summed area. Between
    looks it is followed; one frame is held at a time.

    Raises:
        NoFaceError: no face, or too rarely.
        VideoError: the file cannot be decoded.
    """
    *_, track = tracks_of((path, cfg))
    return track


def tracks_of(job: tuple[str | Path, PreparationConfig]) -> Iterator[FaceTrack | None]:
    """The one track of a clip, as decoder processes make it; before it None about once a minute, as a sign of life."""
    video, cfg = job
    found, times, follower = [], [], Follower()
    stream = iter_frames(video, fps=cfg.fps, backend=cfg.backend)
    told_s = time.monotonic()
    for sample, (frame, t, number) in enumerate(stream):
        faces = detect_faces(frame, cfg.detector) if sample % cfg.detect_every == 0 else None
        follower.step(sample, frame, faces)
        if faces is not None:
            found.append(faces)
        times.append((t, number))
        if time.monotonic() >= told_s + ALIVE_S:
            yield None
            told_s = time.monotonic()
    places, reason = main_face(found)
    coverage = len(places) / len(found)
    if not places:
        raise NoFaceError(f"no face found in {len(found)} looked-at frames")
    if coverage < cfg.min_coverage:
        share = f"{100 * coverage:.0f} % of the looked-at frames, at least {100 * cfg.min_coverage:.0f} % needed"
        raise NoFaceError(f"face in only {share}")
    rows = np.stack([found[look][row] for look, row in places])
    t_s, numbers = map(np.array, zip(*times, strict=True))
    gap = {"every": cfg.detect_every, "fps": cfg.fps, "max_gap_s": cfg.max_gap_s}
    yield FaceTrack(
        **face_path(rows, places, follower.legs, len(t_s), **gap),
        box_xyxy=stable_box(rows, cfg.crop_scale),
        t_s=t_s,
        frame=numbers,
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
        reason=reason,
    )


def stable_box(faces: np.ndarray, scale: float) -> np.ndarray:
    """One square box for all rows (n, >= 4) of a face, `scale` face widths wide: x0, y0, x1, y1, float32 (4,).

    It lies about the median centre of x, y, width, height, raised by `UP`.
    """
    x, y, w, h = faces[:, :4].astype(np.float64).T
    cx, cy, width = np.median([x + w / 2, y + h / 2, w], axis=1)
    return square(cx, cy - UP * width, width * scale)


def crop_box(track: FaceTrack, t_s: float) -> tuple[np.ndarray, float]:
    """The square box that the crop at a time shows, and the roll that is taken out of it.

    "stable": the clip's one box and median roll. "smooth": a box of the same size about the smoothed face, raised
    alike; where the face has no box, at the nearest sample that has one (such rows are invalid unless it is near).

    Returns:
        x0, y0, x1, y1 in pixels (4,), and degrees, 0 unless the track says `align_eyes`.
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


def crop_faces(frames: Iterable[np.ndarray], box_xyxy: np.ndarray, size_px: int = 224) -> np.ndarray:
    """Cut the same box out of every RGB uint8 frame: (T, size_px, size_px, 3)."""
    return np.stack([crop_face(frame, box_xyxy, size_px) for frame in frames])


def sheet_of_clip(path: str | Path, track: FaceTrack, n: int, *, backend: str = "auto") -> tuple[Frames, np.ndarray]:
    """Frames for a contact sheet: up to `n` samples spread evenly, and their numbers (n,) in the track's arrays."""
    samples = uniform_indices(track.n_frames, min(n, track.n_frames))
    return read_frames(path, fps=track.fps, indices=samples.tolist(), backend=backend), samples


def write_track(path: str | Path, track: FaceTrack, stamp: str = "") -> None:
    """Write a track as npz; `stamp` tells later which version of the clip it was made from."""
    write_arrays(path, **asdict(track), stamp=stamp)


def read_track(path: str | Path) -> FaceTrack:
    """Read a track; a damaged file is a ValueError that names it."""
    return _read_track(path)[0]


def _read_track(path: str | Path) -> tuple[FaceTrack, str]:
    arrays = {name: value.item() if value.ndim == 0 else value for name, value in read_arrays(path).items()}
    stamp = arrays.pop("stamp", "")
    try:
        return FaceTrack(**arrays), stamp
    except TypeError:
        raise ValueError(f"{path} is not a face track: it holds {', '.join(sorted(arrays))}.") from None


def track_of(out: Path, key: str, stamp: str, no_track: dict[str, str]) -> FaceTrack:
    """The track of a clip in the run's folder `out`, where it was made from the version of the clip with this stamp.

    Raises:
        NoFaceError: There is none; the message says why. `no_track` (key -> reason) are those that 02 could not use.
    """
    if key in no_track:
        raise NoFaceError(f"no faces file: {no_track[key]}")
    if stamp == "missing":
        raise NoFaceError("the video is not in the folder of clips")
    try:
        track, found = _read_track(out / "faces" / f"{key}.npz")
        if found == stamp:
            return track
        why = "the clip has changed since"
    except FileNotFoundError:
        why = "the clip is new, or it was deleted"
    except ValueError:
        why = "it is damaged"
    raise NoFaceError(f"no faces file: {why}. Run 02_clip_preparation again")


def export_faces(
    clips: "pd.DataFrame", data: str | Path, run: str | Path, to: str | Path, *, every: int = 5, progress: bool = False
) -> dict[str, Any]:
    """Write the face crops of all clips into `faces_jpeg/` and their times into `faces_jpeg_times/`, both below `to`.

    Clips that are done are not done again.

    Args:
        clips: Index `key`, column `path` below `data`.
        data: Folder of the clips.
        run: The run's folder, with `faces/` of 02.
        every: Every which frame of the file, from the first; 5 as in the source project.

    Returns:
        The manifest: counts of clips and files, and the clips that could not be exported, with the reason.

    Raises:
        FileNotFoundError: 02 is not done.
        ValueError: `to` was made with other settings.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}.")
    faces = read_manifest(Path(run) / "faces", "02_clip_preparation")
    backend = faces["identity"]["parameters"]["backend"]
    no_track = {entry["clip"]: entry["reason"] for entry in faces["failed"]}
    identity = {"preparation": faces["identity"], "every": every, "quality": QUALITY, "size_px": SIZE_PX}
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
                rows = _export_clip(path, track, folder, every, backend)
            except (VideoError, NoFaceError, cv2.error, av.FFmpegError) as error:
                log.warning("%s: %s", key, error)
                shutil.rmtree(folder, ignore_errors=True)  # of an earlier version of the clip
                stage.path(key).unlink(missing_ok=True)
                stage.fail(key, str(error).removeprefix(f"{path.name}: "))
                counts["failed"] += 1
                continue
            write_arrays(stage.path(key), **rows, stamp=stamp)
            counts["made"] += 1
            counts["files"] += len(rows["frame"])
        return stage.finish(**counts)


def _export_clip(path: Path, track: FaceTrack, folder: Path, every: int, backend: str) -> dict[str, np.ndarray]:
    """Put a clip's crops in the place of `folder`; returns `frame` numbers int64 and `t_s` of those with the face."""
    numbers, t_s = [], []
    part = folder.parent / f"{PART}{folder.name}"
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    part.mkdir(parents=True)
    try:
        for frame, t, number in iter_frames(path, indices=slice(0, None, every), backend=backend):
            if track.has_face(t):
                crop = cv2.cvtColor(crop_at(frame, track, t, SIZE_PX), cv2.COLOR_RGB2BGR)
                _, jpeg = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
                (part / f"face_{number:06d}.jpg").write_bytes(jpeg.tobytes())
                numbers.append(number)
                t_s.append(t)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return {"frame": np.array(numbers, np.int64), "t_s": np.array(t_s, np.float64)}
