"""What the network is shown of a labelled clip: whole frames, in as many views as are asked for, decoded once.

In: a `FrameJob`. Out: `ViewChunk`s, frames RGB uint8 (n, px, px, 3) of one view. Nothing here imports a network, so
that decoder processes start quickly. Of a clip at most `STEP` (n_frames - 1) + 1 frames of `frame_px` are held.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from helpers.array_clips import read_clip
from helpers.config import ClassificationConfig
from helpers.crops import CROPS_PER_CHUNK, Chunk, Clock, batches_of
from helpers.video import iter_frames, uniform_indices
from helpers.views import PLAIN, STEP, corrupt, draw_view, exposed, generator, held, places_of, show, split_name


@dataclass(frozen=True)
class FrameJob:
    """A labelled clip to be shown to a network: a video, or with `place` from 0 on one of an array file.

    `views` are the names of its views (`helpers.views`), `px` is the side of the network's input.
    """

    path: Path
    place: int
    key: str
    views: tuple[str, ...]
    cfg: ClassificationConfig
    backend: str
    px: int


@dataclass(frozen=True)
class ViewChunk(Chunk):
    """Neighbouring frames of one view, by its name; `t_s` is as fast as the view is."""

    view: str = PLAIN


@dataclass(frozen=True)
class _Decoded:
    frames: np.ndarray  # RGB uint8 (k, S, S, 3), evenly spread
    t_s: np.ndarray
    number: np.ndarray
    decoder: str


def clip_frames(job: FrameJob) -> Iterator[ViewChunk]:
    """The frames of every view of a clip, view by view. VideoError where it cannot be decoded."""
    clock = Clock()
    with clock("decoding"):
        clip = _decode_array(job) if job.place >= 0 else _decode(job)
    for name in job.views:
        yield from _view(job, name, clip, clock)


def _view(job: FrameJob, name: str, clip: _Decoded, clock: Clock) -> Iterator[ViewChunk]:
    cfg, n = job.cfg, len(clip.frames)
    corruption, view_name = split_name(name)
    r = generator(cfg.seed, job.key, view_name, 1)  # not the one that draws the view
    view = draw_view(cfg.seed, job.key, view_name, flip=cfg.flip)
    view = exposed(view, corrupt(clip.frames[n // 2], corruption, cfg.seed, job.key, n // 2))
    places = places_of(view, n, cfg.n_frames, r)
    shown = held(corruption, places, n, cfg.n_frames)
    for batch in batches_of(zip(places, shown, strict=True), CROPS_PER_CHUNK):
        at = np.array([place for place, _ in batch])
        with clock("views"):
            whole = (corrupt(clip.frames[k], corruption, cfg.seed, job.key, k) for _, k in batch)
            frames = np.stack([show(frame, view, job.px, r) for frame in whole])
        t_s = (clip.t_s[at] - clip.t_s[places[0]]) / view.speed
        yield ViewChunk(frames, t_s, clip.number[at], clip.decoder, spent_s=clock.read(), view=name)


def _decode(job: FrameJob) -> _Decoded:
    """Frames for all views, spread evenly; of a shorter video each frame once."""
    side = (job.cfg.frame_px, job.cfg.frame_px)
    n_dense = STEP * (job.cfg.n_frames - 1) + 1
    stream = iter_frames(job.path, n_frames=n_dense, size=side, backend=job.backend)
    frames, t_s, numbers = [], [], []
    for frame, t, number in stream:
        if not numbers or number != numbers[-1]:
            frames.append(frame)
            t_s.append(t)
            numbers.append(number)
    return _Decoded(np.stack(frames), np.array(t_s), np.array(numbers), stream.decoder)


def _decode_array(job: FrameJob) -> _Decoded:
    """As `_decode`, of an array; it has no times, so that seconds count its frames."""
    clip = read_clip(job.path, job.place)
    number = np.unique(uniform_indices(len(clip), STEP * (job.cfg.n_frames - 1) + 1))
    side = (job.cfg.frame_px, job.cfg.frame_px)
    frames = [cv2.resize(frame, side, interpolation=cv2.INTER_AREA) for frame in clip[number]]
    return _Decoded(np.stack(frames), number.astype(float), number, "array")
