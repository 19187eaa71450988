"""Faces: finds the main face of a clip and one stable box for all of its frames, and writes crops as pictures.

In: video files. Out: a `helpers.tracks.FaceTrack` per clip. A clip with too little face is a `NoFaceError`, never a
guess. `export_faces` writes the crops as the tree of JPEG files that the source project's tools read.
"""

import logging
import os
import shutil
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from helpers.config import PreparationConfig
from helpers.detectors import (
    DETECTION_PX,
    SMALLER,
    chosen_detector,
    detect_faces,
    detector_file,
    detector_version,
    require_detector,
    shrunk,
)
from helpers.failures import reason_of
from helpers.files import PART
from helpers.store import Stage, clip_stamp, read_arrays, read_manifest, write_arrays
from helpers.tracking import Follower, MainFace, face_path, main_face
from helpers.tracks import UP, FaceTrack, NoFaceError, crop_at, square, track_of, write_track
from helpers.video import backend_name, backend_version, iter_frames

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

TRACK_LAYOUT = 2  # arrays of a track's file; 1 had the looked-at frames only
KEPT = 9  # looks of a clip at least, spread over it, that are searched once more where no face moves
MOST_OUTSIDE = 0.1  # share of the looks at which the face may be out of the stable box without a remark
SIZE_PX, QUALITY = 224, 95  # of the exported JPEG files; the size is the source project's


def prepare_clips(clips: "pd.DataFrame", cfg: PreparationConfig) -> dict[str, Any]:
    """Find the main face of every clip and write its track to `faces/<key>.npz`; returns the manifest.

    Its `remarks`, if there are any, say by key what is odd about a clip's face, or was done to its pictures.
    """
    from helpers.pipeline import NOT_DECISIVE, ClipRun, Work  # slow to import for decoder processes

    cfg = replace(cfg, detector=chosen_detector(cfg.detector, cfg.out / "faces"))
    require_detector(cfg.detector)
    cfg = replace(cfg, backend=backend_name(cfg.backend))
    identity = {
        "parameters": cfg.as_dict(without=NOT_DECISIVE),
        "detector": detector_file(cfg.detector),
        "track": TRACK_LAYOUT,
    }
    made_with = {"decoder": backend_version(cfg.backend)}
    work = Work(tracks_of, lambda path, key, stamp: ((path, cfg), None))
    with (
        Stage(cfg.out / "faces", "faces", identity, made_with) as stage,
        ClipRun("02 preparation", clips, cfg, stage, work) as run,
    ):
        for clip, tracks in run:
            with run.of(clip):
                (track,) = tracks
                write_track(stage.path(clip.key), replace(track, stamp=clip.stamp))
                run.count("made")
        counts = run.finish()
        there = clips.index.difference([entry["clip"] for entry in stage.failed], sort=False)
        remarks = {key: text for key in there if (text := _remarks(stage.path(key)))}
        return stage.finish({"remarks": remarks} if remarks else {}, **counts)


def _remarks(path: Path) -> str:
    """What a track's file says of its face and its pictures; files made earlier know nothing of that."""
    found = read_arrays(path)
    return "; ".join(filter(None, [str(found.get("remarks", "")), *str(found.get("decoder", "")).split("; ")[1:]]))


def export_faces(
    clips: "pd.DataFrame", data: str | Path, run: str | Path, to: str | Path, *, every: int = 5, progress: bool = False
) -> dict[str, Any]:
    """Write the face crops of all clips into `faces_jpeg/` and their times into `faces_jpeg_times/`, both below `to`.

    `clips` has the index `key` and the column `path` below `data`; `run` holds 02's `faces/`; every `every`th frame of
    a file is taken from its first on, 5 as in the source project. Clips that are done are not done again.

    Returns:
        The manifest: counts of clips and files, and the clips that could not be exported, with the reason.
        FileNotFoundError where 02 is not done; ValueError where `to` was made with other settings.
    """
    from tqdm import tqdm  # not for decoder processes

    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}.")
    faces = read_manifest(Path(run) / "faces", "02_clip_preparation")
    backend = faces["identity"]["parameters"]["backend"]
    no_track = {entry["clip"]: entry["reason"] for entry in faces["failed"]}
    identity = {"preparation": faces["identity"], "every": every, "quality": QUALITY, "size_px": SIZE_PX}
    made_with = {"decoder": backend_version(backend), "opencv": cv2.__version__}
    counts = {"clips": len(clips), "made": 0, "found": 0, "failed": 0, "files": 0}
    with Stage(Path(to) / "faces_jpeg_times", "faces_jpeg", identity, made_with) as stage:
        for key, below in tqdm(clips["path"].items(), total=len(clips), unit="clip", disable=not progress):
            path, folder = Path(data) / below, Path(to) / "faces_jpeg" / key
            stamp = clip_stamp(path)
            if folder.is_dir() and stage.done(key, stamp):
                counts["found"] += 1
                continue
            try:
                rows = _write_crops(path, track_of(Path(run), key, stamp, no_track), folder, every, backend)
                write_arrays(stage.path(key), **rows, stamp=stamp)
                counts["made"] += 1
                counts["files"] += len(rows["frame"])
            except BaseException as error:
                stage.fail(key, reason_of(error, path.name))
                log.warning("%s: %s", key, stage.failed[-1]["reason"])
                shutil.rmtree(folder, ignore_errors=True)  # of an earlier version of the clip
                stage.path(key).unlink(missing_ok=True)
                counts["failed"] += 1
        return stage.finish(**counts)


def _write_crops(path: Path, track: FaceTrack, folder: Path, every: int, backend: str) -> dict[str, np.ndarray]:
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


def track_clip(path: str | Path, cfg: PreparationConfig) -> FaceTrack:
    """Find the main face of a clip, its one stable box, and its smoothed box at every sample.

    Raises NoFaceError where there is none or too rarely, VideoError where the file cannot be decoded.
    """
    *_, track = tracks_of((path, cfg))
    return track


def tracks_of(job: tuple[str | Path, PreparationConfig]) -> Iterator[FaceTrack | None]:
    """The one track of a clip, as decoder processes make it; before it None at every look, as a sign of life.

    A clip without a face that moves is watched again where a few kept looks have smaller ones: one of them may move,
    or be too small.
    """
    video, cfg = job
    seen = yield from _watch(video, cfg)
    face, found = seen.face, seen.follower.found
    if cfg.detector == "haar" and cfg.min_face > SMALLER and not (face and face.moves):
        more = [len(detect_faces(picture, "haar", SMALLER)) > len(found[look]) for look, picture in seen.kept.items()]
        if np.mean(more) > cfg.min_coverage / 2:
            smaller = yield from _watch(video, replace(cfg, min_face=SMALLER))
            seen = _of_both(seen, smaller, cfg)
    if not seen.face:
        raise NoFaceError(f"no face found in {len(found)} looked-at frames")
    if seen.face.coverage < cfg.min_coverage:
        wanted = f"of the looked-at frames, at least {100 * cfg.min_coverage:.0f} % needed"
        cut = f" ({len(seen.face.cuts) + 1} shots)" if len(seen.face.cuts) else ""
        raise NoFaceError(f"face in only {100 * seen.face.coverage:.0f} % {wanted}{cut}")
    yield _track(seen, cfg)


class _Seen(NamedTuple):
    """What one pass over a clip has shown: faces, the one that it is about, and some looks, made small."""

    follower: Follower
    face: MainFace | None
    times: list[tuple[float, int]]  # seconds, and number in the file, of every sample
    decoder: str
    kept: dict[int, np.ndarray]


def _watch(video: str | Path, cfg: PreparationConfig) -> Generator[None, None, _Seen]:
    times, kept, follower = [], {}, Follower(cfg.fps)
    stream = iter_frames(video, fps=cfg.fps, backend=cfg.backend)
    for sample, (frame, t, number) in enumerate(stream):
        look, since = divmod(sample, cfg.detect_every)
        faces = None
        if not since:
            if look % max(1, stream.length // (KEPT * cfg.detect_every)) == 0:
                kept[look] = shrunk(frame, DETECTION_PX)[0]
            faces = detect_faces(frame, cfg.detector, cfg.min_face)
            yield None
        follower.step(sample, frame, faces)
        times.append((t, number))
    return _Seen(follower, main_face(follower), times, stream.decoder, kept)


def _of_both(seen: _Seen, smaller: _Seen, cfg: PreparationConfig) -> _Seen:
    """The pass that counts where the first showed no face that moves; NoFaceError where one is there but too small."""
    face, least = smaller.face, max(cfg.min_coverage, 2 / len(seen.follower.found))
    if not face or face.coverage < least or not (face.moves or not seen.face):
        return seen
    small = f"{np.median(face.rows[:, 2]):.0f} px wide, below min_face ({cfg.min_face:g} of the picture's shorter side)"
    if not seen.face:
        raise NoFaceError(f"the face is too small: {small}. Set a smaller min_face, or take a larger picture")
    face.remarks.append(f"the face is {small}")
    return smaller


def _track(seen: _Seen, cfg: PreparationConfig) -> FaceTrack:
    face, found, n = seen.face, seen.follower.found, len(seen.times)
    box, remarks = stable_box(face.rows, cfg.crop_scale), list(face.remarks)
    if len(face.cuts):
        others = face.coverage < np.mean([len(rows) > 0 for rows in found])
        taken = f"; the face of {face.coverage * n / cfg.fps:.1f} s of {n / cfg.fps:.1f} s is taken" if others else ""
        remarks.insert(0, f"{len(face.cuts) + 1} shots{taken}")
    centres = face.rows[:, :2] + face.rows[:, 2:4] / 2
    outside = np.mean(((centres < box[:2]) | (centres > box[2:])).any(axis=1))
    if outside > MOST_OUTSIDE and cfg.crop == "stable":
        where = f"outside of the clip's one box at {outside:.0%} of the looks"
        remarks.append(f"the face is {where}: crop: smooth follows it")
    t_s, frame = map(np.array, zip(*seen.times, strict=True))
    return FaceTrack(
        **face_path(seen.follower, face, n, cfg.detect_every, cfg.max_gap_s),
        box_xyxy=box,
        t_s=t_s,
        frame=frame,
        coverage=face.coverage,
        n_faces_max=max(map(len, found)),
        fps=cfg.fps,
        every=cfg.detect_every,
        n_frames=n,
        scale=cfg.crop_scale,
        crop=cfg.crop,
        align_eyes=cfg.align_eyes,
        detector=detector_version(cfg.detector),
        decoder=seen.decoder,
        reason=face.reason,
        cuts=face.cuts,
        remarks="; ".join(remarks),
    )


def stable_box(faces: np.ndarray, scale: float) -> np.ndarray:
    """One square box for all rows (n, >= 4) of a face, `scale` face widths wide: x0, y0, x1, y1, float32 (4,).

    It lies about the median centre of x, y, width, height, raised by `UP`.
    """
    x, y, w, h = faces[:, :4].astype(np.float64).T
    cx, cy, width = np.median([x + w / 2, y + h / 2, w], axis=1)
    return square(cx, cy - UP * width, width * scale)
