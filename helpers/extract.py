"""From clips to features: rows of the static network (03), rows of the motion network (04).

In: the table of clips (index `key`; column `path` below the data folder) and a notebook's parameters. Out: one npz per
clip in the stage's folder and its manifest. Decoder processes prepare the next clips, the network works on batches
filled across clips, and files are written, all at the same time. A clip that cannot be used is recorded with its reason
and the run goes on; a clip that is done is not done again. A folder is locked while it is filled.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import keras
import numpy as np
import pandas as pd

from helpers.backbones import build_backbone
from helpers.config import DynamicConfig, StaticConfig
from helpers.device import Monitor, chosen_device, gpu_index, measured_batch, use_device
from helpers.files import write_json
from helpers.forward import Forward, compile_forward
from helpers.i3d import build_motion_network
from helpers.pipeline import NOT_DECISIVE, ClipRun, Network, Work
from helpers.precomputed import StoredClip
from helpers.rows import ClipRows, DynamicRows, StaticRows, row_layout, why_invalid
from helpers.sources import StoredSource, VideoSource, open_source
from helpers.store import FeatureFile, Stage
from helpers.tracks import FaceTrack

MEASURED_FLOWS = 64  # of a clip, when the batch size is measured: 4 s at 15 per second


def extract_static(clips: pd.DataFrame, cfg: StaticConfig) -> dict[str, Any]:
    """Write the static network's rows of every clip to `static/<key>.npz`; returns the manifest."""
    with use_device(cfg.device) as device:
        source = open_source(cfg, clips.index)
        backbone = build_backbone(cfg.backbone, cfg.weights)
        forward = compile_forward(backbone.model, cfg.precision, backbone.prepare)
        shape = (backbone.input_px, backbone.input_px, 3)
        size = cfg.batch_size or measured_batch(forward, shape, device, network=cfg.backbone, dtype=np.uint8)
    network = Network(forward, size, device)
    work = Work(source.work, partial(source.job, size_px=backbone.input_px), source.stamp)
    return _extract(clips, cfg, source, network, backbone.weights.as_dict(), work, StaticRows)


def extract_dynamic(clips: pd.DataFrame, cfg: DynamicConfig) -> dict[str, Any]:
    """Write the motion network's rows of every clip to `dynamic/<key>.npz`; returns the manifest."""
    with use_device(cfg.device) as device:
        source = open_source(cfg, clips.index)
        motion, weights = build_motion_network(cfg.weights, cfg.endpoint)
        forward = compile_forward(motion, cfg.precision)
        size = cfg.batch_size or _measured_rows(forward, cfg, device)
    network = Network(forward, size, device)
    work = Work(source.work, source.job, source.stamp)
    return _extract(clips, cfg, source, network, weights.as_dict(), work, partial(DynamicRows, cfg=cfg))


def _measured_rows(forward: Forward, cfg: DynamicConfig, device: str) -> int:
    """Rows of the motion network at once, by measuring on windows, or on clips of `MEASURED_FLOWS` flows."""
    length, stride, _ = row_layout(cfg)
    n_rows = max(1, MEASURED_FLOWS // stride) if cfg.mode == "whole" else 1
    shape = ((n_rows - 1) * stride + length, cfg.input_px, cfg.input_px, 2)
    return n_rows * measured_batch(forward, shape, device, network="I3D")


def _extract(
    clips: pd.DataFrame,
    cfg: StaticConfig | DynamicConfig,
    source: VideoSource | StoredSource,
    network: Network,
    weights: dict[str, str],
    work: Work,
    rows_of: Callable[[FaceTrack | StoredClip], ClipRows],
) -> dict[str, Any]:
    """What both extractions share: clips in, feature files, invalid rows and the log out; returns the manifest.

    `weights` is the provenance of those of `network`; `rows_of` makes of the face's track the rows of a clip.
    """
    step, name, unit = ("03", "static", "image") if isinstance(cfg, StaticConfig) else ("04", "dynamic", "sequence")
    identity = {
        "parameters": cfg.as_dict(without=NOT_DECISIVE + source.not_decisive),
        "weights": weights,
        "network_backend": keras.backend.backend(),
        **source.identity,
    }
    counts, started = {"rows": 0, "invalid_rows": 0, "feature_dim": 0}, datetime.now(UTC)
    with (
        Stage(cfg.out / name, name, identity, {"keras": keras.__version__, **source.made_with}) as stage,
        Monitor(gpu=gpu_index(network.device)) as monitor,
    ):

        def count(key: str, rows: FeatureFile, track: FaceTrack | StoredClip) -> None:
            why = why_invalid(rows, track)
            for row, reason in why.items():
                stage.fail(key, reason, row)
            counts.update(feature_dim=rows.features.shape[1], rows=counts["rows"] + len(rows.valid))
            counts["invalid_rows"] += len(why)

        with ClipRun(f"{step} {name}", clips, cfg, stage, work, network, monitor.in_words, count) as run:
            run.stream(rows_of)
        counts |= run.finish()
        if run.n_rows:
            log = _speed(unit, network, started, run) | {
                "features_shape": [counts["rows"], counts["feature_dim"]],
                "features_saved_to": f"{cfg.out_dir}/{name}",
                "weights": weights,
                "failed": counts["failed"],
                "usage": monitor.summary(),
            }
            write_json(stage.folder / "extraction_log.json", log)
        return stage.finish(**counts)


def _speed(unit: str, network: Network, started: datetime, run: ClipRun) -> dict[str, Any]:
    """How fast an extraction that ends now was, under the source project's keys, and where its time went.

    Rows that were there already are not in it. Several things are done at once.
    """
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
