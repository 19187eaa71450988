"""The rows of one clip: what the static and the motion network say about its face, with times in seconds.

In: a video file, its `FaceTrack` and a compiled network. Out: a `FeatureFile` with features (n, D) float32. Frames are
streamed: a clip is never held at full size. A clip's rows depend on nothing but that clip.
"""

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from helpers.backbones import Backbone
from helpers.config import DynamicConfig, StaticConfig
from helpers.faces import FaceTrack, crop_face
from helpers.flow import OpticalFlowComputer, normalise_flow, resize_flow
from helpers.forward import Forward, NetworkError
from helpers.store import FeatureFile
from helpers.video import iter_frames

log = logging.getLogger(__name__)

CROP_PX = 224  # side of the face crop that flow is computed on
MIN_FLOWS = 4  # half of the shortest segment: with fewer, a row would be mostly padding
CHUNK_FLOWS = 512  # flows that go through the motion network in one pass; bounds memory for long videos
POOL_OVERHANG = 8  # the 2x7x7 pool joins two steps of 8 flows: row i stands for flows 8i to 8i+15


class TooShortError(ValueError):
    """A clip with fewer flows than a row needs; the message is the reason."""


def static_of_clip(
    path: str | Path,
    track: FaceTrack,
    backbone: Backbone,
    forward: Forward,
    cfg: StaticConfig,
    *,
    backend: str = "auto",
) -> FeatureFile:
    """Run the static network over the face in the middle frame of every `cfg.every_n_frames` samples.

    Args:
        path: Video file.
        track: Its face, which also says at which rate it is sampled.
        backbone: Gives preprocessing and input size.
        forward: Its compiled network.
        cfg: `every_n_frames` and `batch_size` are used.
        backend: See `helpers.video.iter_frames`.

    Returns:
        Rows (n, feature_dim), n >= 1; a row stands for one frame, [t, t + 1 / fps) seconds.
    """
    first = min(cfg.every_n_frames, track.n_frames) // 2
    samples = iter_frames(path, fps=track.fps, indices=slice(first, None, cfg.every_n_frames), backend=backend)
    features, t_s, numbers = [], [], []
    for batch in _batches(samples, cfg.batch_size):
        crops = np.stack([crop_face(frame, track.box_xyxy, backbone.input_px) for frame, _, _ in batch])
        features.append(_rows_or_nan(forward, backbone.preprocess(crops), backbone.feature_dim))
        t_s += [t for _, t, _ in batch]
        numbers += [number for _, _, number in batch]
    t_start_s = np.array(t_s)
    return _usable(np.concatenate(features), t_start_s, t_start_s + 1 / track.fps, np.array(numbers), track)


def _rows_or_nan(forward: Forward, batch: np.ndarray, feature_dim: int) -> np.ndarray:
    """The network's rows of a batch; NaN, which makes them invalid, when it fails on it."""
    try:
        return forward(batch)
    except NetworkError as error:
        log.warning("%s", error)
        return np.full((len(batch), feature_dim), np.nan, np.float32)


def dynamic_of_clip(
    path: str | Path, track: FaceTrack, forward: Forward, cfg: DynamicConfig, *, backend: str = "auto"
) -> FeatureFile:
    """Run the motion network over the flow of the face, in one pass (`whole`) or window by window (`windows`).

    `whole` gives one row per `cfg.segment` flows: the mean of what the tapped stage says about them. The network sees
    whole segments only; flows after the last one are dropped. Without an endpoint a row also sees the next 8 flows.
    `windows` gives one row per `cfg.window` flows every `cfg.stride` flows, each computed by itself. A clip too short
    for one row is padded with zero flow, as if its last frame were repeated; its row is valid if half of it is real.

    Args:
        path: Video file.
        track: Its face, which also says at which rate it is sampled.
        forward: Compiled motion network of `cfg.endpoint`.
        cfg: Everything but weights and precision is used.
        backend: See `helpers.video.iter_frames`.

    Returns:
        Rows (n, C), n >= 1; flow j stands for the time from sample j to j + 1.

    Raises:
        TooShortError: fewer than `MIN_FLOWS` flows.
    """
    n_flows = track.n_frames - 1
    if n_flows < MIN_FLOWS:
        raise TooShortError(f"only {n_flows} flows, at least {MIN_FLOWS} needed")
    length, stride, rows_per_block = row_layout(cfg)
    numbers: list[int] = []
    features = []
    flows = iter_flows(path, track, cfg, numbers, backend)
    for block in _blocks(flows, (rows_per_block - 1) * stride + length, rows_per_block * stride):
        n_rows = min(rows_per_block, (len(block) - length) // stride + 1)
        if n_rows < 1 and not features:
            block, n_rows = block + [np.zeros_like(block[0])] * (length - len(block)), 1
        if n_rows >= 1:
            features.append(_rows_of_block(block, n_rows, length, stride, forward, cfg.mode))
    rows = np.concatenate(features)
    start = np.arange(len(rows)) * stride
    stop = np.minimum(start + length, n_flows)
    padded = 2 * (stop - start) < length
    return _usable(rows, start / track.fps, stop / track.fps, np.array(numbers)[start], track, also_invalid=padded)


def row_layout(cfg: DynamicConfig) -> tuple[int, int, int]:
    """Flows per row, flows from row to row, and rows computed at a time."""
    if cfg.mode == "windows":
        return cfg.window, cfg.stride, cfg.batch_size
    overhang = 0 if cfg.endpoint else POOL_OVERHANG
    return cfg.segment + overhang, cfg.segment, max(1, CHUNK_FLOWS // cfg.segment)


def iter_flows(
    path: str | Path, track: FaceTrack, cfg: DynamicConfig, numbers: list[int], backend: str = "auto"
) -> Iterator[np.ndarray]:
    """Yield the flow of the face crop from sample to sample, float32 (input_px, input_px, 2) in [-1, 1].

    The file's number of each flow's first frame is appended to `numbers`.
    """
    computer = OpticalFlowComputer(cfg.flow)
    before = None
    for frame, _, number in iter_frames(path, fps=track.fps, backend=backend):
        gray = cv2.cvtColor(crop_face(frame, track.box_xyxy, CROP_PX), cv2.COLOR_RGB2GRAY)
        if before is not None:
            yield normalise_flow(resize_flow(computer.pair(before, gray), cfg.input_px), cfg.flow_clip_px)
        numbers.append(number)
        before = gray


def _rows_of_block(
    block: list[np.ndarray], n_rows: int, length: int, stride: int, forward: Forward, mode: str
) -> np.ndarray:
    """Rows (n_rows, C) of neighbouring flows; a stage's activation is averaged over a row's time, height and width."""
    flows = np.stack(block[: (n_rows - 1) * stride + length])  # (T, S, S, 2)
    if mode == "windows":
        out = forward(np.stack([flows[i * stride :][:length] for i in range(n_rows)]))  # (n, T', H', W', C)
    else:
        out = forward(flows[None])  # (1, T', H', W', C), T' a multiple of n
    return out.reshape(n_rows, -1, out.shape[-1]).mean(axis=1)


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _blocks(items: Iterable[Any], size: int, hop: int) -> Iterator[list[Any]]:
    """Lists of at least `size` neighbours, each starting `hop` items after the one before; the last may be shorter."""
    block: list[Any] = []
    for item in items:
        block.append(item)
        if len(block) == max(size, hop):
            yield block
            block = block[hop:]
    if block:
        yield block


def _usable(
    features: np.ndarray,
    t_start_s: np.ndarray,
    t_end_s: np.ndarray,
    frame: np.ndarray,
    track: FaceTrack,
    also_invalid: np.ndarray | bool = False,
) -> FeatureFile:
    """Mark rows without a face or with values that are not finite as invalid, and set them to zero."""
    bad = ~np.isfinite(features).all(axis=1) | ~track.has_face((t_start_s + t_end_s) / 2)
    features = np.where(bad[:, None], np.float32(0), features)
    return FeatureFile(features, t_start_s, t_end_s, frame, ~(bad | also_invalid))


def why_invalid(rows: FeatureFile, track: FaceTrack) -> dict[int, str]:
    """The reason of every invalid row of a clip, by its number."""
    reasons = {}
    for row in np.flatnonzero(~rows.valid):
        if not track.has_face(rows.t_s[row]):
            reasons[int(row)] = f"the face is lost at {rows.t_s[row]:.1f} s"
        elif rows.features[row].any():
            reasons[int(row)] = "made mostly of padding: the clip is too short"
        else:
            reasons[int(row)] = "the network failed on it, or gave values that are not finite"
    return reasons
