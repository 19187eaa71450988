"""From clips to features: face tracks (02), rows of the static network (03), rows of the motion network (04).

In: the table of clips (index `key`; column `path` below the data folder) and a notebook's parameters. Out: one npz per
clip in the stage's folder and its manifest. A clip that cannot be used is recorded with its reason and the run goes on;
a clip that is done is not done again. A clip's rows depend on that clip only, never on its neighbours in the run.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import av
import cv2
import keras
import pandas as pd
from tqdm.auto import tqdm

from helpers.backbones import build_backbone
from helpers.config import DynamicConfig, Parameters, PreparationConfig, StaticConfig
from helpers.device import list_devices
from helpers.faces import FaceTrack, NoFaceError, read_track, track_face, write_track
from helpers.files import write_json
from helpers.forward import NetworkError, compile_forward
from helpers.i3d import build_motion_network
from helpers.rows import TooShortError, dynamic_of_clip, static_of_clip, why_invalid
from helpers.store import FeatureFile, Stage, clip_stamp, read_arrays, read_features, read_manifest, write_features
from helpers.video import VideoError, backend_name, backend_version

log = logging.getLogger(__name__)

NOT_DECISIVE = ("data_dir", "out_dir", "limit", "progress", "batch_size")


CLIP_ERRORS = (VideoError, NoFaceError, TooShortError, NetworkError, cv2.error, av.FFmpegError)


def prepare_clips(clips: pd.DataFrame, cfg: PreparationConfig) -> dict[str, Any]:
    """Find the main face of every clip and write its track to `faces/<key>.npz`; returns the manifest."""
    backend = backend_name(cfg.backend)
    identity = {
        "parameters": {**cfg.as_dict(without=NOT_DECISIVE), "backend": backend},
        "detector": "haarcascade_frontalface_alt2",
    }

    def make(path: Path, key: str, stamp: str) -> None:
        track = track_face(
            path,
            fps=cfg.fps,
            every=cfg.detect_every,
            scale=cfg.crop_scale,
            min_coverage=cfg.min_coverage,
            backend=backend,
        )
        write_track(stage.path(key), track, stamp)

    stage = Stage(cfg.out / "faces", "faces", identity, {"decoder": backend_version(backend)})
    return stage.finish(**_for_each(clips, cfg, stage, make))


def extract_static(clips: pd.DataFrame, cfg: StaticConfig) -> dict[str, Any]:
    """Write the static network's rows of every clip to `static/<key>.npz`; returns the manifest."""
    faces = read_manifest(cfg.out / "faces", "02_clip_preparation")
    backbone = build_backbone(cfg.backbone, cfg.weights)
    forward = compile_forward(backbone.model, cfg.precision)
    backend = faces["identity"]["parameters"]["backend"]

    def rows(path: Path, track: FaceTrack) -> FeatureFile:
        return static_of_clip(path, track, backbone, forward, cfg, backend=backend)

    return _extract(clips, cfg, "static", faces, backbone.weights.as_dict(), rows)


def extract_dynamic(clips: pd.DataFrame, cfg: DynamicConfig) -> dict[str, Any]:
    """Write the motion network's rows of every clip to `dynamic/<key>.npz`; returns the manifest."""
    check_dynamic(cfg)
    faces = read_manifest(cfg.out / "faces", "02_clip_preparation")
    network, weights = build_motion_network(cfg.weights, cfg.endpoint)
    forward = compile_forward(network, cfg.precision)
    backend = faces["identity"]["parameters"]["backend"]

    def rows(path: Path, track: FaceTrack) -> FeatureFile:
        return dynamic_of_clip(path, track, forward, cfg, backend=backend)

    return _extract(clips, cfg, "dynamic", faces, weights.as_dict(), rows)


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
    rows_of_clip: Callable[[Path, FaceTrack], FeatureFile],
) -> dict[str, Any]:
    """What both extractions share: tracks in, feature files and invalid rows out."""
    identity = {
        "parameters": cfg.as_dict(without=NOT_DECISIVE),
        "weights": weights,
        "network_backend": keras.backend.backend(),
        "preparation": faces["identity"],
    }
    decoder = backend_version(faces["identity"]["parameters"]["backend"])
    no_track = {entry["clip"]: entry["reason"] for entry in faces["failed"]}
    stage = Stage(cfg.out / name, name, identity, {"keras": keras.__version__, "decoder": decoder})
    started, n_made = datetime.now(UTC), 0

    def make(path: Path, key: str, stamp: str) -> None:
        nonlocal n_made
        rows = rows_of_clip(path, _track_of(cfg.out, key, stamp, no_track))
        write_features(stage.path(key), rows, stamp)
        n_made += len(rows.valid)

    counts = _for_each(clips, cfg, stage, make)
    ended = datetime.now(UTC)
    counts |= _count_rows(clips, stage, cfg.out / "faces")
    manifest = stage.finish(**counts)
    if n_made:
        log_entry = extraction_log(cfg, name, started, ended, n_made, (counts["rows"], counts["feature_dim"]))
        write_json(stage.folder / "extraction_log.json", log_entry | {"weights": weights, "failed": counts["failed"]})
    return manifest


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


def _track_of(out: Path, key: str, stamp: str, no_track: dict[str, str]) -> FaceTrack:
    if key in no_track:
        raise NoFaceError(f"no faces file: {no_track[key]}")
    path = out / "faces" / f"{key}.npz"
    try:
        if str(read_arrays(path)["stamp"]) != stamp:
            raise NoFaceError("no faces file: the clip has changed since. Run 02_clip_preparation again")
        return read_track(path)
    except FileNotFoundError:
        raise NoFaceError("no faces file: the clip is new. Run 02_clip_preparation again") from None


def _for_each(
    clips: pd.DataFrame, cfg: Parameters, stage: Stage, make: Callable[[Path, str, str], None]
) -> dict[str, int]:
    """Make every clip's file that is not there yet; clips that cannot be used are recorded. Returns the counts."""
    counts = {"clips": len(clips), "made": 0, "found": 0, "failed": 0}
    for key, path in tqdm(clips["path"].items(), total=len(clips), unit="clip", disable=not cfg.progress):
        path = cfg.data / path
        stamp = clip_stamp(path) if path.exists() else "missing"
        if stage.done(key, stamp):
            counts["found"] += 1
            continue
        try:
            make(path, key, stamp)
            counts["made"] += 1
        except CLIP_ERRORS as error:
            reason = str(error).removeprefix(f"{path.name}: ")
            log.warning("%s: %s", key, reason)
            stage.path(key).unlink(missing_ok=True)  # of an earlier version of the clip
            stage.fail(key, reason)
            counts["failed"] += 1
    return counts
