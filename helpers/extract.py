"""From clips to features: face tracks (02), rows of the static network (03), rows of the motion network (04).

In: the table of clips (index `key`; column `path` below the data folder) and a notebook's parameters. Out: one npz per
clip in the stage's folder and its manifest. Decoder processes prepare the next clips while a network works on this one.
A clip that cannot be used is recorded with its reason and the run goes on; a clip that is done is not done again. A
clip's rows depend on that clip only, never on its neighbours in the run. A folder is locked while it is filled, against
everyone, or with `shared` against those who do not say so too: several processes may each bring some of its clips.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import av
import cv2
import keras
import pandas as pd
from tqdm.auto import tqdm

from helpers.backbones import build_backbone
from helpers.config import DynamicConfig, PreparationConfig, StaticConfig
from helpers.crops import CROP_PX, Job, Piece, face_crops, face_flows
from helpers.detectors import detector_file, require_detector
from helpers.deviation import compared
from helpers.device import list_devices
from helpers.faces import TRACK_LAYOUT, FaceTrack, NoFaceError, read_track, track_of, tracks_of, write_track
from helpers.files import write_json
from helpers.forward import NetworkError, compile_forward
from helpers.i3d import build_motion_network
from helpers.pool import ClipPool
from helpers.rows import TooShortError, dynamic_rows, static_rows, why_invalid
from helpers.store import FeatureFile, Stage, clip_stamp, read_features, read_manifest, write_features
from helpers.video import VideoError, backend_name, backend_version
from helpers.worker import WorkerError, cores

log = logging.getLogger(__name__)

NOT_DECISIVE = ("data_dir", "out_dir", "limit", "progress", "batch_size", "workers")
PATIENCE_S = 1800.0  # without a piece of a clip: an hour of video takes 02 about ten minutes
CLIP_ERRORS = (VideoError, NoFaceError, TooShortError, NetworkError, WorkerError, cv2.error, av.FFmpegError)


def prepare_clips(clips: pd.DataFrame, cfg: PreparationConfig, *, shared: bool = False) -> dict[str, Any]:
    """Find the main face of every clip and write its track to `faces/<key>.npz`; returns the manifest."""
    require_detector(cfg.detector)
    cfg = replace(cfg, backend=backend_name(cfg.backend, [cfg.data / path for path in clips["path"]]))
    identity = {
        "parameters": cfg.as_dict(without=NOT_DECISIVE),
        "detector": detector_file(cfg.detector),
        "track": TRACK_LAYOUT,
    }

    def write(key: str, stamp: str, _: None, tracks: Iterable[FaceTrack]) -> None:
        (track,) = tracks
        write_track(stage.path(key), track, stamp)

    made_with = {"decoder": backend_version(cfg.backend)}
    with Stage(cfg.out / "faces", "faces", identity, made_with, shared=shared) as stage:
        counts = _for_each(clips, cfg, stage, tracks_of, lambda path, key, stamp: ((path, cfg), None), write)
        return stage.finish(**counts)


def extract_static(clips: pd.DataFrame, cfg: StaticConfig, *, shared: bool = False) -> dict[str, Any]:
    """Write the static network's rows of every clip to `static/<key>.npz`; returns the manifest."""
    faces = read_manifest(cfg.out / "faces", "02_clip_preparation")
    backbone = build_backbone(cfg.backbone, cfg.weights)
    found: dict[str, Any] = {}
    forward = compared(compile_forward(backbone.model, cfg.precision), backbone.model, cfg.precision, found)

    def rows(pieces: Iterable[Piece], track: FaceTrack) -> FeatureFile:
        return static_rows(pieces, track, backbone, forward)

    weights = backbone.weights.as_dict()
    return _extract(clips, cfg, "static", faces, weights, face_crops, rows, found, backbone.input_px, shared=shared)


def extract_dynamic(clips: pd.DataFrame, cfg: DynamicConfig, *, shared: bool = False) -> dict[str, Any]:
    """Write the motion network's rows of every clip to `dynamic/<key>.npz`; returns the manifest."""
    check_dynamic(cfg)
    faces = read_manifest(cfg.out / "faces", "02_clip_preparation")
    network, weights = build_motion_network(cfg.weights, cfg.endpoint)
    found: dict[str, Any] = {}
    forward = compared(compile_forward(network, cfg.precision), network, cfg.precision, found)

    def rows(pieces: Iterable[Piece], track: FaceTrack) -> FeatureFile:
        return dynamic_rows(pieces, track, forward, cfg)

    return _extract(clips, cfg, "dynamic", faces, weights.as_dict(), face_flows, rows, found, shared=shared)


def check_dynamic(cfg: DynamicConfig) -> None:
    """Refuse parameters that do not go together, before any work."""
    if cfg.mode == "whole" and cfg.segment % 8:
        raise ValueError(f"segment must be a multiple of 8, got {cfg.segment}. The network halves time three times.")
    if not cfg.endpoint and cfg.input_px != 224:
        raise ValueError(
            f"input_px must be 224 for pooled features (endpoint ''), got {cfg.input_px}. Set it, or name an endpoint."
        )


def _extract(
    clips: pd.DataFrame,
    cfg: StaticConfig | DynamicConfig,
    name: str,
    faces: dict[str, Any],
    weights: dict[str, str],
    work: Callable[[Job], Iterator[Piece]],
    rows_of_clip: Callable[[Iterable[Piece], FaceTrack], FeatureFile],
    found: dict[str, Any],
    size_px: int = CROP_PX,
    *,
    shared: bool,
) -> dict[str, Any]:
    """What both extractions share: tracks in, feature files, invalid rows and what was `found` out."""
    identity = {
        "parameters": cfg.as_dict(without=NOT_DECISIVE),
        "weights": weights,
        "network_backend": keras.backend.backend(),
        "preparation": {name: faces["identity"][name] for name in ("parameters", "detector")},
    }
    backend = faces["identity"]["parameters"]["backend"]
    no_track = {entry["clip"]: entry["reason"] for entry in faces["failed"]}
    made_with = {"keras": keras.__version__, "decoder": backend_version(backend)}
    started, n_made = datetime.now(UTC), 0

    def job(path: Path, key: str, stamp: str) -> tuple[Job, FaceTrack]:
        track = track_of(cfg.out, key, stamp, no_track)
        return Job(path, track, cfg, backend, size_px), track

    def write(key: str, stamp: str, track: FaceTrack, pieces: Iterable[Piece]) -> None:
        nonlocal n_made
        rows = rows_of_clip(pieces, track)
        write_features(stage.path(key), rows, stamp)
        n_made += len(rows.valid)

    with Stage(cfg.out / name, name, identity, made_with, shared=shared) as stage:
        counts = _for_each(clips, cfg, stage, work, job, write)
        ended = datetime.now(UTC)
        counts |= _count_rows(clips, stage, cfg.out / "faces")
        if n_made:
            entry = extraction_log(cfg, name, started, ended, n_made, (counts["rows"], counts["feature_dim"]))
            write_json(stage.folder / "extraction_log.json", entry | {"weights": weights, "failed": counts["failed"]})
        stage.made_with = found | stage.made_with  # what an earlier run of this stage has found stays
        return stage.finish(**counts)


def _count_rows(clips: pd.DataFrame, stage: Stage, faces: Path) -> dict[str, int]:
    """Count the rows of a stage's clips, recording the reason of every invalid one."""
    counts = {"rows": 0, "invalid_rows": 0, "feature_dim": 0}
    failed = {entry["clip"] for entry in stage.failed}
    for key in clips.index.difference(failed, sort=False):
        rows = read_features(stage.path(key))
        counts["rows"] += len(rows.valid)
        counts["feature_dim"] = rows.features.shape[1]
        if not rows.valid.all():
            for row, reason in why_invalid(rows, read_track(faces / f"{key}.npz")).items():
                stage.fail(key, reason, row)
                counts["invalid_rows"] += 1
    return counts


def extraction_log(
    cfg: StaticConfig | DynamicConfig,
    name: str,
    started: datetime,
    ended: datetime,
    n_made: int,
    shape: tuple[int, int],
) -> dict[str, Any]:
    """Describe one extraction under the eleven keys of the source project's logs.

    Args:
        cfg: Its parameters.
        name: "static" (rows are images) or "dynamic" (rows are sequences).
        started: When it began.
        ended: When it ended.
        n_made: Rows made between the two; clips that were there already are not in it.
        shape: Rows and columns of the features of all clips.
    """
    unit = {"static": "image", "dynamic": "sequence"}[name]
    seconds = max((ended - started).total_seconds(), 1e-6)
    return {
        "start_time": started.isoformat(timespec="seconds"),
        f"total_{unit}s": n_made,
        "batch_size": cfg.batch_size,
        "gpu_acceleration": bool((list_devices()["kind"] == "GPU").any()),
        "end_time": ended.isoformat(timespec="seconds"),
        "extraction_time_seconds": seconds,
        "extraction_time_formatted": str(timedelta(seconds=round(seconds))),
        "features_shape": list(shape),
        "features_saved_to": f"{cfg.out_dir}/{name}",
        f"average_time_per_{unit}": seconds / n_made,
        f"{unit}s_per_second": n_made / seconds,
    }


def _for_each(
    clips: pd.DataFrame,
    cfg: PreparationConfig | StaticConfig | DynamicConfig,
    stage: Stage,
    work: Callable[[Any], Iterator[Any]],
    job_of: Callable[[Path, str, str], tuple[Any, Any]],
    write: Callable[[str, str, Any, Iterable[Any]], None],
) -> dict[str, int]:
    """Make every clip's file that is not there yet; clips that cannot be used are recorded.

    Args:
        clips: See above.
        cfg: `data`, `workers` and `progress` are used.
        stage: Where the files go.
        work: Runs in the decoder processes: a job's pieces.
        job_of: From path, key and stamp of a clip to its job, and to what stays here for `write`.
        write: Makes the clip's file of key, stamp, what stayed here, and the pieces.

    Returns:
        The counts of the manifest.
    """
    counts = {"clips": len(clips), "made": 0, "found": 0, "failed": 0}
    bar = tqdm(total=len(clips), unit="clip", disable=not cfg.progress)

    def fail(key: str, path: Path, error: Exception) -> None:
        reason = str(error).removeprefix(f"{path.name}: ")
        log.warning("%s: %s", key, reason)
        stage.path(key).unlink(missing_ok=True)  # of an earlier version of the clip
        stage.fail(key, reason)
        counts["failed"] += 1

    def tasks() -> Iterator[tuple[tuple[str, Path, str, Any], Any]]:
        for key, path in clips["path"].items():
            path = cfg.data / path
            stamp = clip_stamp(path) if path.exists() else "missing"
            if stage.done(key, stamp):
                counts["found"] += 1
                bar.update()
                continue
            try:
                job, kept = job_of(path, key, stamp)
            except CLIP_ERRORS as error:
                fail(key, path, error)
                bar.update()
                continue
            yield (key, path, stamp, kept), job

    with bar, ClipPool(work, workers=cfg.workers or cores(), patience_s=PATIENCE_S) as pool:
        for (key, path, stamp, kept), pieces in pool.run(tasks()):
            try:
                write(key, stamp, kept, pieces)
                counts["made"] += 1
            except CLIP_ERRORS as error:
                fail(key, path, error)
            bar.update()
    return counts
