"""What 03 and 04 cost on one clip: seconds of reading it and of the network, and bytes, by doing it.

In: a clip, as a video with its track (`helpers.crops.Job`) or as what a tree holds of it. Out: `Measured`, per
second of clip. Networks have random weights; the rows that are written go to a folder of the caller's.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from helpers.backbones import build_backbone
from helpers.config import StaticConfig
from helpers.crops import CROP_PX, FLOWS_PER_CHUNK, Chunk, Job, face_crops, face_flows
from helpers.decoding.excerpt import write_excerpt
from helpers.device import device_scope, use_device
from helpers.faces import FaceTrack
from helpers.forward import Forward, compile_forward
from helpers.i3d import build_motion_network
from helpers.pipeline import rows_of_clip
from helpers.precomputed import StoredTrack
from helpers.rows import MIN_FLOWS, DynamicRows, StaticRows, TooShortError, row_layout
from helpers.sources import StoredSource
from helpers.store import FeatureFile, write_features

FEW_FLOWS, MANY_FLOWS = 2, 64  # measured of a slow and of a fast method
ENOUGH_S = 4.0  # that MANY_FLOWS may take


@dataclass(frozen=True)
class Measured:
    """What a stage costs: seconds and bytes per second of clip, and `start_s` seconds once; `rows_per_s`, `dim`: what
    its features are, per second of clip.
    """

    work_s: float
    network_s: float
    start_s: float
    bytes_per_s: float
    rows_per_s: float = 0.0
    dim: int = 0


@dataclass(frozen=True)
class Input:
    """What a network is shown of a clip: the first `pieces`, its track, the seconds that reading a second of clip
    takes, and how many faces or flows a second of it has.
    """

    pieces: list[Chunk]
    track: FaceTrack | StoredTrack
    work_s: float
    per_s: float


Stored = Callable[[int], Input]  # from the side of the crops to what a tree holds of a clip


def stored_input(source: StoredSource, key: str, duration_s: float, size_px: int) -> Input:
    """What a tree holds of a clip, the beginning of it; `source.work` reads as decoder processes do."""
    job, track = source.job(Path(), key, "", size_px)
    per_s = len(job.t_s) / duration_s
    with one_thread():
        pieces, spent_s = timed(partial(_first, source.work(job), -(-MANY_FLOWS // FLOWS_PER_CHUNK)))
    return Input(pieces, track, spent_s / sum(len(piece.t_s) for piece in pieces) * per_s, per_s)


def _cropped(job: Job, size_px: int) -> Input:
    """The faces of a video."""
    with one_thread():
        pieces, work_s = timed(lambda: list(face_crops(replace(job, size_px=size_px))))
    fps = job.track.fps
    return Input(pieces, job.track, work_s * fps / job.track.n_frames, fps / job.cfg.every_n_frames)


def measure_static(job: Job, folder: Path, stored: Stored | None = None) -> Measured:
    """What 03 costs on a clip, of the video or of a tree; files go to `folder`."""
    with use_device(job.cfg.device) as device:
        backbone, build_s = timed(lambda: build_backbone(job.cfg.backbone, "random"))
        forward = _placed(compile_forward(backbone.model, job.cfg.precision, backbone.prepare), device)
    seen = (stored or partial(_cropped, job))(backbone.input_px)
    rows = sum(len(piece.t_s) for piece in seen.pieces)
    batch_size = min(job.cfg.batch_size or StaticConfig.batch_size, rows)  # nothing that fills a batch up

    def run() -> FeatureFile:
        return rows_of_clip(StaticRows(seen.track), seen.pieces, forward, batch_size)

    return _with_network(run, seen.work_s, build_s, seen.per_s, folder / "static.npz")


def measure_dynamic(job: Job, folder: Path, stored: Stored | None = None) -> Measured:
    """What 04 costs on a clip, of the video or of a tree; files go to `folder`. TooShortError as 04 raises it."""
    with use_device(job.cfg.device) as device:
        (network, _), build_s = timed(lambda: build_motion_network("random", job.cfg.endpoint))
        forward = _placed(compile_forward(network, job.cfg.precision), device)
    seen = (stored or partial(_moved, job, folder))(CROP_PX)
    n_flows = sum(len(piece.t_s) for piece in seen.pieces)
    repeats = -(-MANY_FLOWS // n_flows)  # what a network takes does not depend on what it sees
    track = replace(seen.track, n_frames=repeats * n_flows + 1)

    def run() -> FeatureFile:
        return rows_of_clip(DynamicRows(track, job.cfg), seen.pieces * repeats, forward, job.cfg.batch_size)

    return _with_network(run, seen.work_s, build_s, seen.per_s / row_layout(job.cfg)[1], folder / "dynamic.npz")


def _moved(job: Job, folder: Path, size_px: int) -> Input:
    """The flow of a video."""
    if (n_flows := job.track.n_frames - 1) < MIN_FLOWS:
        raise TooShortError(f"only {n_flows} flows, at least {MIN_FLOWS} needed")
    with one_thread():
        pieces, flow_s = measure_flow(job, folder)
    return Input(pieces, job.track, flow_s * job.track.fps, job.track.fps)


def measure_flow(job: Job, folder: Path) -> tuple[list[Chunk], float]:
    """Some flows of a clip, and the seconds that each takes: few where they are slow, as TV-L1's may take a second."""
    seconds = FEW_FLOWS / job.track.fps
    few = replace(job, path=write_excerpt(job.path, folder / f"few{job.path.suffix}", seconds))
    for chosen, n_pieces in ((few, 1), (job, -(-MANY_FLOWS // FLOWS_PER_CHUNK))):
        pieces, total_s = timed(partial(_first, face_flows(chosen), n_pieces))
        flow_s = total_s / sum(len(piece.t_s) for piece in pieces)
        if flow_s * MANY_FLOWS > ENOUGH_S:
            break
    return pieces, flow_s


def _first(pieces: Iterator[Chunk], n: int) -> list[Chunk]:
    return list(islice(pieces, n))


def _placed(forward: Forward, device: str) -> Forward:
    """The same on a device that `use_device` gave, in whatever thread it is called."""

    def placed(x: np.ndarray) -> np.ndarray:
        with device_scope(device):
            return forward(x)

    return placed


def _with_network(
    run: Callable[[], FeatureFile], work_s: float, build_s: float, rows_per_s: float, path: Path
) -> Measured:
    """Add what a network costs: the second of two runs. The first compiles and allocates, as for each shape it meets.

    Args:
        run: Makes the rows.
        work_s: What its input takes, per second of clip.
        build_s: What building it took.
        rows_per_s: Rows that a long clip has per second.
        path: A file to write the rows to.
    """
    _, first_s = timed(run)
    rows, seconds = timed(run)
    write_features(path, rows)
    n_rows, dim = rows.features.shape
    per_row = rows_per_s / n_rows
    start_s = build_s + max(0.0, first_s - seconds)
    return Measured(work_s, seconds * per_row, start_s, path.stat().st_size * per_row, rows_per_s, dim)


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What `run` returns, and the seconds it took."""
    started_s = time.perf_counter()
    result = run()
    return result, time.perf_counter() - started_s


@contextmanager
def one_thread() -> Iterator[None]:
    """Let OpenCV and the decoders use one thread, as decoder processes do."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
