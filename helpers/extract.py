"""From clips to features: rows of the static network (03), rows of the motion network (04).

In: the table of clips (index `key`; column `path` below the data folder) and a notebook's parameters; videos with the
tracks of 02, or trees of faces and of stored flow. Out: one npz per clip in the stage's folder and its manifest. A clip
that cannot be used is recorded with its reason and the run goes on; a clip that is done is not done again.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from helpers.backbones import build_backbone
from helpers.config import DynamicConfig, StaticConfig
from helpers.device import chosen_device, measured_batch, use_device
from helpers.files import resolve, write_json
from helpers.forward import Forward, compile_forward
from helpers.i3d import build_motion_network
from helpers.pipeline import NOT_DECISIVE, ClipRun, Network
from helpers.precomputed import FaceTree, OpticalFlowSequenceLoader, StoredClip
from helpers.rows import CROP_PX, ClipRows, DynamicRows, Job, Source, StaticRows, face_crops, face_flows, row_layout
from helpers.store import Stage, read_manifest
from helpers.tracks import track_of
from helpers.video import backend_version

MEASURED_FLOWS = 64  # of a clip, when the batch size is measured: 4 s at 15 per second
OF_TREES = ("faces_dir", "flow_dir", "faces_fps", "flow_fps")  # the tree's own identity says what of them decides


def extract_static(clips: pd.DataFrame, cfg: StaticConfig) -> dict[str, Any]:
    """Write the static network's rows of every clip to `static/<key>.npz`; returns the manifest."""
    with use_device(cfg.device) as device:
        backbone = build_backbone(cfg.backbone, cfg.weights)
        source = open_source(cfg, clips, backbone.input_px)
        forward = compile_forward(backbone.model, cfg.precision, backbone.prepare)
        shape = (backbone.input_px, backbone.input_px, 3)
        size = cfg.batch_size or measured_batch(forward, shape, network=cfg.backbone, dtype=np.uint8)
    return _extract(clips, cfg, source, Network(forward, size, device), backbone.weights.as_dict())


def extract_dynamic(clips: pd.DataFrame, cfg: DynamicConfig) -> dict[str, Any]:
    """Write the motion network's rows of every clip to `dynamic/<key>.npz`; returns the manifest."""
    with use_device(cfg.device) as device:
        source = open_source(cfg, clips)
        motion, weights = build_motion_network(cfg.weights, cfg.endpoint)
        forward = compile_forward(motion, cfg.precision)
        size = cfg.batch_size or _measured_rows(forward, cfg)
    return _extract(clips, cfg, source, Network(forward, size, device), weights.as_dict())


def _measured_rows(forward: Forward, cfg: DynamicConfig) -> int:
    """Rows of the motion network at once, by measuring on windows, or on clips of `MEASURED_FLOWS` flows."""
    length, stride, _ = row_layout(cfg)
    n_rows = max(1, MEASURED_FLOWS // stride) if cfg.mode == "whole" else 1
    shape = ((n_rows - 1) * stride + length, cfg.input_px, cfg.input_px, 2)
    return n_rows * measured_batch(forward, shape, network="I3D")


def open_source(cfg: StaticConfig | DynamicConfig, clips: pd.DataFrame, size_px: int = CROP_PX) -> Source:
    """Where the parameters of 03 or 04 say that the clips are: videos with the tracks of 02, or a tree.

    `size_px`: side of the faces (03). FileNotFoundError: 02 has not made the tracks, or there is no tree; ValueError:
    the tree holds nothing that can be used, or nothing of these clips.
    """

    def rows(job: Job | StoredClip) -> ClipRows:
        track = getattr(job, "track", job)
        return StaticRows(track) if isinstance(cfg, StaticConfig) else DynamicRows(track, cfg)

    if tree := open_tree(cfg):
        sizes = (size_px,) if isinstance(cfg, StaticConfig) else (cfg.input_px, cfg.flow_clip_px)
        return tree.source(clips.index, rows, *sizes)
    faces = read_manifest(cfg.out / "faces", "02_clip_preparation")
    about, no_track = faces["identity"], {entry["clip"]: entry["reason"] for entry in faces["failed"]}
    backend = about["parameters"]["backend"]

    def job(path: Path, key: str, fingerprint: str) -> Job:
        return Job(path, track_of(cfg.out, key, fingerprint, no_track), cfg, backend, size_px)

    identity = {"preparation": about}
    work, made_with = face_crops if isinstance(cfg, StaticConfig) else face_flows, {"decoder": backend_version(backend)}
    return Source(work, job, rows, identity=identity, made_with=made_with)


def open_tree(cfg: StaticConfig | DynamicConfig) -> FaceTree | OpticalFlowSequenceLoader | None:
    """The tree that the parameters of 03 or 04 name; None when they name none."""
    if isinstance(cfg, StaticConfig):
        return FaceTree(resolve(cfg.faces_dir), cfg.faces_fps) if cfg.faces_dir else None
    return OpticalFlowSequenceLoader(resolve(cfg.flow_dir), cfg.flow_fps) if cfg.flow_dir else None


def _extract(
    clips: pd.DataFrame, cfg: StaticConfig | DynamicConfig, source: Source, network: Network, weights: dict[str, str]
) -> dict[str, Any]:
    """What both extractors share: clips in, feature files, invalid rows and the log out; returns the manifest."""
    step, name, unit = ("03", "static", "image") if isinstance(cfg, StaticConfig) else ("04", "dynamic", "sequence")
    identity = {
        "parameters": cfg.as_dict(without=NOT_DECISIVE + OF_TREES + source.not_decisive),
        "weights": weights,
        "network_backend": keras.backend.backend(),
        **source.identity,
    }
    started, made_with = datetime.now(UTC), {"keras": keras.__version__, **source.made_with}
    with Stage(cfg.out / name, name, identity, made_with) as stage:
        with ClipRun(f"{step} {name}", clips, cfg, stage, source, network) as run:
            run.stream()
        counts = run.finish()
        if run.n_rows:
            log = _speed(unit, network, started, run) | {"weights": weights, "failed": counts["failed"]}
            log |= {"features_shape": [counts["rows"], counts["feature_dim"]], "usage": run.monitor.summary()}
            write_json(stage.folder / "extraction_log.json", log | {"features_saved_to": f"{cfg.out_dir}/{name}"})
        return stage.finish(**counts)


def _speed(unit: str, network: Network, started: datetime, run: ClipRun) -> dict[str, Any]:
    """How fast new rows were made until now, under the source project's keys; what took the time may overlap."""
    chosen, ended, n_rows = chosen_device(network.device), datetime.now(UTC), run.n_rows
    seconds = max((ended - started).total_seconds(), 1e-6)
    return {
        "start_time": started.isoformat(timespec="seconds"),
        f"total_{unit}s": n_rows,
        "batch_size": network.batch_size,
        "gpu_acceleration": chosen["kind"] == "GPU",
        "device": chosen["name"],
        "end_time": ended.isoformat(timespec="seconds"),
        "extraction_time_seconds": seconds,
        "extraction_time_formatted": str(timedelta(seconds=round(seconds))),
        f"average_time_per_{unit}": seconds / n_rows,
        f"{unit}s_per_second": n_rows / seconds,
        "seconds_spent": {what: round(spent, 3) for what, spent in run.spent_s.items()},
        "network_share": round(run.spent_s["network"] / seconds, 3),
    }
