"""The rows of one clip: what the static and the motion network say about its face, with times in seconds.

In: the pieces of a clip (`helpers.crops`), its `FaceTrack` and a compiled network. Out: a `FeatureFile` with features
(n, D) float32. A clip's rows depend on nothing but that clip.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from helpers.backbones import Backbone
from helpers.config import DynamicConfig
from helpers.crops import Piece
from helpers.faces import FaceTrack
from helpers.forward import Forward, NetworkError
from helpers.store import FeatureFile

log = logging.getLogger(__name__)

MIN_FLOWS = 4  # half of the shortest segment: with fewer, a row would be mostly padding
CHUNK_FLOWS = 512  # flows that go through the motion network in one pass; bounds memory for long videos
POOL_OVERHANG = 8  # the 2x7x7 pool joins two steps of 8 flows: row i stands for flows 8i to 8i+15


class TooShortError(ValueError):
    """A clip with fewer flows than a row needs; the message is the reason."""


def static_rows(pieces: Iterable[Piece], track: FaceTrack, backbone: Backbone, forward: Forward) -> FeatureFile:
    """Run the static network over the face crops of a clip.

    Args:
        pieces: Of `helpers.crops.face_crops`, `backbone.input_px` wide.
        track: The clip's face, which also says at which rate it is sampled.
        backbone: Gives the preprocessing.
        forward: Its compiled network.

    Returns:
        Rows (n, feature_dim), n >= 1; a row stands for one frame, [t, t + 1 / fps) seconds.
    """
    features, t_s, numbers, decoder = [], [], [], ""
    for piece in pieces:
        features.append(_rows_or_nan(forward, backbone.preprocess(piece.values), backbone.feature_dim))
        t_s.append(piece.t_s)
        numbers.append(piece.frame)
        decoder = piece.decoder
    start_s = np.concatenate(t_s)
    end_s = start_s + 1 / track.fps
    return _usable(np.concatenate(features), start_s, end_s, np.concatenate(numbers), track, decoder)


def _rows_or_nan(forward: Forward, batch: np.ndarray, feature_dim: int) -> np.ndarray:
    """The network's rows of a batch; NaN, which makes them invalid, when it fails on it."""
    try:
        return forward(batch)
    except NetworkError as error:
        log.warning("%s", error)
        return np.full((len(batch), feature_dim), np.nan, np.float32)


def dynamic_rows(pieces: Iterable[Piece], track: FaceTrack, forward: Forward, cfg: DynamicConfig) -> FeatureFile:
    """Run the motion network over the flow of the face, in one pass (`whole`) or window by window (`windows`).

    `whole` gives one row per `cfg.segment` flows: the mean of what the tapped stage says about them. The network sees
    whole segments only; flows after the last one are dropped. Without an endpoint a row also sees the next 8 flows.
    `windows` gives one row per `cfg.window` flows every `cfg.stride` flows, each computed by itself. A clip too short
    for one row is padded with zero flow, as if its last frame were repeated; its row is valid if half of it is real.

    Args:
        pieces: Of `helpers.crops.face_flows`.
        track: The clip's face, which also says at which rate it is sampled.
        forward: Compiled motion network of `cfg.endpoint`.
        cfg: Says how flows become rows.

    Returns:
        Rows (n, C), n >= 1; flow j stands for the time from sample j to j + 1.

    Raises:
        TooShortError: fewer than `MIN_FLOWS` flows.
    """
    n_flows = track.n_frames - 1
    if n_flows < MIN_FLOWS:
        raise TooShortError(f"only {n_flows} flows, at least {MIN_FLOWS} needed")
    length, stride, rows_per_block = row_layout(cfg)
    seen: list[Piece] = []
    features = []
    for block in _blocks(_each_flow(pieces, seen), (rows_per_block - 1) * stride + length, rows_per_block * stride):
        n_rows = min(rows_per_block, (len(block) - length) // stride + 1)
        if n_rows < 1 and not features:
            block, n_rows = block + [np.zeros_like(block[0])] * (length - len(block)), 1
        if n_rows >= 1:
            features.append(_rows_of_block(block, n_rows, length, stride, forward, cfg.mode))
    rows = np.concatenate(features)
    start = np.arange(len(rows)) * stride
    stop = np.minimum(start + length, n_flows)
    numbers = np.concatenate([piece.frame for piece in seen])
    padded = 2 * (stop - start) < length
    return _usable(rows, start / track.fps, stop / track.fps, numbers[start], track, seen[-1].decoder, padded)


def _each_flow(pieces: Iterable[Piece], seen: list[Piece]) -> Iterator[np.ndarray]:
    """Flow after flow (S, S, 2); of each piece, `seen` keeps all but the flows."""
    lost = 0
    for piece in pieces:
        yield from piece.values
        seen.append(replace(piece, values=piece.values[:0]))
        lost += piece.camera_lost
    if lost:
        n = sum(len(piece.frame) for piece in seen)
        log.info("the camera's motion could not be told in %d of %d flows: it counts as still there", lost, n)


def row_layout(cfg: DynamicConfig) -> tuple[int, int, int]:
    """Flows per row, flows from row to row, and rows computed at a time."""
    if cfg.mode == "windows":
        return cfg.window, cfg.stride, cfg.batch_size
    overhang = 0 if cfg.endpoint else POOL_OVERHANG
    return cfg.segment + overhang, cfg.segment, max(1, CHUNK_FLOWS // cfg.segment)


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
    decoder: str,
    also_invalid: np.ndarray | bool = False,
) -> FeatureFile:
    """Mark rows without a face or with values that are not finite as invalid, and set them to zero."""
    bad = ~np.isfinite(features).all(axis=1) | ~track.has_face((t_start_s + t_end_s) / 2)
    features = np.where(bad[:, None], np.float32(0), features)
    return FeatureFile(features, t_start_s, t_end_s, frame, ~(bad | also_invalid), decoder)


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
