"""Faces: finds the main face of a clip and one stable box for all of its frames.

In: video files. Out: a `helpers.tracks.FaceTrack` per clip, or a `NoFaceError` where there is too little face.
"""

from collections.abc import Generator, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from helpers.config import PreparationConfig
from helpers.store import Stage
from helpers.tracking import (
    EVERY,
    SMALLER,
    Follower,
    MainFace,
    chosen_detector,
    corners,
    detect_faces,
    detector_file,
    main_face,
    roll_deg,
)
from helpers.tracks import DETECTED, INTERPOLATED, NONE, TRACKER, FaceTrack, NoFaceError, read_track, write_track
from helpers.video import backend_name, backend_version, iter_frames

UP = 0.08  # of the face's width: Haar boxes sit low, the crop is raised to hold forehead and hair
MOST_OUTSIDE = 0.1  # share of the looks at which the face may be out of the clip's box without a remark


def prepare_clips(clips: pd.DataFrame, cfg: PreparationConfig) -> dict[str, Any]:
    """Find the main face of every clip and write its track to `faces/<key>.npz`; returns the manifest.

    Its `remarks`, if there are any, say by key what is odd about a clip's face, or was done to its pictures.
    """
    from helpers.pipeline import NOT_DECISIVE, ClipRun, Source  # slow to import for decoder processes

    detector = chosen_detector(cfg.detector)
    cfg = replace(cfg, detector=detector, backend=backend_name(cfg.backend))
    identity = {"parameters": cfg.as_dict(without=NOT_DECISIVE), "detector": detector_file(detector), "track": TRACKER}
    made_with = {"decoder": backend_version(cfg.backend)}
    source = Source(tracks_of, lambda path, key, fingerprint: (path, cfg))
    with (
        Stage(cfg.out / "faces", "faces", identity, made_with) as stage,
        ClipRun("02 preparation", clips, cfg, stage, source) as run,
    ):
        for clip, tracks in run:
            with run.of(clip):
                (track,) = tracks
                write_track(stage.path(clip.key), replace(track, fingerprint=clip.fingerprint))
                run.count("made")
        counts = run.finish()
        remarks = _remarks(stage, clips.index)
        return stage.finish({"remarks": remarks} if remarks else {}, **counts)


def _remarks(stage: Stage, keys: pd.Index) -> dict[str, str]:
    """What tracks say of faces and pictures, by key."""
    remarks = {}
    for key in keys.difference([entry["clip"] for entry in stage.failed], sort=False):
        track = read_track(stage.path(key))
        remarks[key] = "; ".join(filter(None, [track.remarks, *track.decoder.split("; ")[1:]]))
    return {key: text for key, text in remarks.items() if text}


def track_clip(path: str | Path, cfg: PreparationConfig) -> FaceTrack:
    """Find the main face of a clip and its one stable box.

    Raises NoFaceError where there is none or too rarely, VideoError where the file cannot be decoded.
    """
    *_, track = tracks_of((path, cfg))
    return track


def tracks_of(job: tuple[str | Path, PreparationConfig]) -> Iterator[FaceTrack | None]:
    """The one track of a clip, as decoder processes make it; before it None at every look, as a sign of life.

    Where no face moves, Haar looks for smaller ones than `min_face`, too: who moves wins over what is still.
    """
    video, cfg = job
    face, follower, times = yield from _follow(video, cfg)
    if not (face and face.moves) and cfg.detector == "haar" and cfg.min_face > SMALLER:
        smaller, *of_smaller = yield from _follow(video, replace(cfg, min_face=SMALLER))
        if smaller and smaller.coverage > (0.5 if face else cfg.min_coverage / 2):
            small = f"{np.median(smaller.rows[:, 2]):.0f} px wide, below min_face ({cfg.min_face:g} of the "
            small += "picture's shorter side)"
            if not face:
                raise NoFaceError(f"the face is too small: {small}. Set a smaller min_face, or take a larger picture")
            if smaller.moves:
                remarks = [*smaller.remarks, f"the face is {small}"]
                face, follower, times = smaller._replace(remarks=remarks), *of_smaller
    if not face:
        raise NoFaceError(f"no face found in {len(follower.found)} looked-at frames")
    if face.coverage < cfg.min_coverage:
        wanted = f"of the looked-at frames, at least {100 * cfg.min_coverage:.0f} % needed"
        cut = f" ({len(face.cuts) + 1} shots)" if len(face.cuts) else ""
        raise NoFaceError(f"face in only {100 * face.coverage:.0f} % {wanted}{cut}")
    t_s, numbers, decoders = zip(*times, strict=True)
    yield track_of_face(face, follower.found, cfg, t_s=np.array(t_s), frame=np.array(numbers), decoder=decoders[-1])


def _follow(video: str | Path, cfg: PreparationConfig) -> Generator[None, None, tuple[MainFace | None, Follower, list]]:
    """The main face of a clip, all faces, and time, number and decoder of every sample."""
    times, follower = [], Follower(min(EVERY, cfg.detect_every))
    for sample, (frame, t, number, decoder) in enumerate(iter_frames(video, fps=cfg.fps, backend=cfg.backend)):
        faces = None
        if sample % cfg.detect_every == 0:
            faces = detect_faces(frame, cfg.detector, cfg.min_face)
            yield None
        follower.step(sample, frame, faces)
        times.append((t, number, decoder))
    return main_face(follower, cfg.fps), follower, times


def track_of_face(face: MainFace, found: list[np.ndarray], cfg: PreparationConfig, **times: Any) -> FaceTrack:
    """The face's box at each of a clip's samples, and what else is known of it."""
    n, rows = len(times["t_s"]), face.rows
    boxes, source, confidence = _by_sample(face, n, cfg)
    box = stable_box(rows, cfg.crop_scale)
    return FaceTrack(
        found_xyxy=boxes.astype(np.float32),
        confidence=confidence,
        source=source,
        box_xyxy=box,
        coverage=face.coverage,
        n_faces_max=max(map(len, found)),
        fps=cfg.fps,
        every=cfg.detect_every,
        n_frames=n,
        align_eyes=cfg.align_eyes,
        detector=f"{Path(detector_file(cfg.detector).split()[0]).stem}, OpenCV {cv2.__version__}",
        reason=face.reason,
        angle_deg=float(np.median(roll_deg(rows))) if rows.shape[1] == 15 else np.nan,
        cuts=face.cuts,
        remarks="; ".join(_remarks_of(face, box, found, n / cfg.fps)),
        **times,
    )


def _by_sample(face: MainFace, n: int, cfg: PreparationConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4), interpolated between two of a shot at most `max_gap_s` apart; where each is from; confidence."""
    boxes, source, confidence = np.full((n, 4), np.nan), np.full(n, NONE, np.uint8), np.zeros(n, np.float32)
    looked = np.array(face.looks) * cfg.detect_every
    boxes[looked], source[looked], confidence[looked] = corners(face.rows), DETECTED, face.rows[:, 4]
    shot = np.searchsorted(face.cuts, np.arange(n), side="right")
    for before, after in pairwise(looked):
        if after - before <= cfg.max_gap_s * cfg.fps + 1e-9 and shot[before] == shot[after]:
            share = (np.arange(before + 1, after)[:, None] - before) / (after - before)
            boxes[before + 1 : after] = (1 - share) * boxes[before] + share * boxes[after]
            source[before + 1 : after] = INTERPOLATED
    return boxes, source, confidence


def _remarks_of(face: MainFace, box: np.ndarray, found: list[np.ndarray], seconds: float) -> list[str]:
    """What is odd about the choice of the face and its one box."""
    remarks = list(face.remarks)
    if len(face.cuts):
        others = face.coverage < np.mean([len(rows) > 0 for rows in found])
        taken = f"; the face of {face.coverage * seconds:.1f} s of {seconds:.1f} s is taken" if others else ""
        remarks.insert(0, f"{len(face.cuts) + 1} shots{taken}")
    centres = face.rows[:, :2] + face.rows[:, 2:4] / 2
    outside = np.mean(((centres < box[:2]) | (centres > box[2:])).any(axis=1))
    if outside > MOST_OUTSIDE:
        remarks.append(f"the face is outside of the clip's one box at {outside:.0%} of the looks")
    return remarks


def stable_box(faces: np.ndarray, scale: float) -> np.ndarray:
    """One square box for all rows (n, >= 4) of a face, `scale` face widths wide: x0, y0, x1, y1, float32 (4,).

    It lies about the median centre of x, y, width, height, raised by `UP`.
    """
    x, y, w, h = faces[:, :4].astype(np.float64).T
    cx, cy, width = np.median([x + w / 2, y + h / 2, w], axis=1)
    cy, half = cy - UP * width, scale * width / 2
    return np.array([cx - half, cy - half, cx + half, cy + half], np.float32)
