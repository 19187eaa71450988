"""Faces: finds the main face of a clip and one stable box for all of its frames.

In: video files. Out: a `helpers.tracks.FaceTrack` per clip. A clip with too little face is a `NoFaceError`, never a
guess.
"""

import logging
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
from helpers.store import Stage, read_arrays
from helpers.tracking import Follower, MainFace, face_path, main_face
from helpers.tracks import UP, FaceTrack, NoFaceError, square, write_track
from helpers.video import backend_name, backend_version, iter_frames

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

TRACK_LAYOUT = 2  # arrays of a track's file; 1 had the looked-at frames only
KEPT = 9  # looks of a clip at least, spread over it, that are searched once more where no face moves
MOST_OUTSIDE = 0.1  # share of the looks at which the face may be out of the stable box without a remark


def prepare_clips(clips: "pd.DataFrame", cfg: PreparationConfig) -> dict[str, Any]:
    """Find the main face of every clip and write its track to `faces/<key>.npz`; returns the manifest.

    Its `remarks`, if there are any, say by key what is odd about a clip's face, or was done to its pictures.
    """
    from helpers.pipeline import NOT_DECISIVE, ClipRun, Source  # slow to import for decoder processes

    cfg = replace(cfg, detector=chosen_detector(cfg.detector, cfg.out / "faces"))
    require_detector(cfg.detector)
    cfg = replace(cfg, backend=backend_name(cfg.backend))
    identity = {
        "parameters": cfg.as_dict(without=NOT_DECISIVE),
        "detector": detector_file(cfg.detector),
        "track": TRACK_LAYOUT,
    }
    made_with = {"decoder": backend_version(cfg.backend)}
    source = Source(tracks_of, lambda path, key, fingerprint: (path, cfg))
    with (
        Stage(cfg.out / "faces", "faces", identity, made_with) as stage,
        ClipRun("02 preparation", clips, cfg, stage, source) as run,
    ):
        for clip, tracks in run:
            with run.of(clip):
                (track,) = tracks
                write_track(stage.path(clip.key), replace(track, stamp=clip.fingerprint))
                run.count("made")
        counts = run.finish()
        there = clips.index.difference([entry["clip"] for entry in stage.failed], sort=False)
        remarks = {key: text for key in there if (text := _remarks(stage.path(key)))}
        return stage.finish({"remarks": remarks} if remarks else {}, **counts)


def _remarks(path: Path) -> str:
    """What a track's file says of its face and its pictures; files made earlier know nothing of that."""
    found = read_arrays(path)
    return "; ".join(filter(None, [str(found.get("remarks", "")), *str(found.get("decoder", "")).split("; ")[1:]]))


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
    times, kept, apart, follower = [], {}, 1, Follower(cfg.fps)
    for sample, (frame, t, number, made_by) in enumerate(iter_frames(video, fps=cfg.fps, backend=cfg.backend)):
        look, since = divmod(sample, cfg.detect_every)
        faces = None
        if not since:
            if look % apart == 0:
                kept[look] = shrunk(frame, DETECTION_PX)[0]
            if len(kept) > 2 * KEPT:
                apart *= 2
                kept = {look: picture for look, picture in kept.items() if look % apart == 0}
            faces = detect_faces(frame, cfg.detector, cfg.min_face)
            yield None
        follower.step(sample, frame, faces)
        times.append((t, number))
        decoder = made_by
    return _Seen(follower, main_face(follower), times, decoder, kept)


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
