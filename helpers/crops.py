"""What the networks are shown of a clip, made while it is decoded: face crops, and the flow between them.

In: a `Job`, a video file with its `FaceTrack` and the parameters of 03 or 04. Out: `Chunk`s of neighbouring crops or
flows. Nothing here imports a network, so that decoder processes start quickly; a clip is never held at full size.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from helpers.config import DynamicConfig, StaticConfig
from helpers.flow import OpticalFlowComputer, normalise_flow, resize_flow
from helpers.tracks import FaceTrack, crop_at
from helpers.video import Frame, iter_frames

CROP_PX = 224  # side of the face crop that flow is computed on
CROPS_PER_CHUNK = 32  # crops that are handed over at a time: 5 MB at 224 px
FLOWS_PER_CHUNK = 32  # flows that are handed over at a time: 3 MB at 112 px


class Clock(Counter):
    """Seconds by what was done in them."""

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        started_s = time.perf_counter()
        yield
        self[what] += time.perf_counter() - started_s

    def each(self, what: str, items: Iterable[Any]) -> Iterator[Any]:
        """The items, none of them None; the time in which the next one is made counts."""
        items = iter(items)
        while True:
            with self(what):
                item = next(items, None)
            if item is None:
                return
            yield item

    def read(self) -> dict[str, float]:
        """What was counted since the last time."""
        spent_s = dict(self)
        self.clear()
        return spent_s


@dataclass(frozen=True)
class Job:
    """A clip to be shown to a network; `size_px` is the side of the crops (03)."""

    path: Path
    track: FaceTrack
    cfg: StaticConfig | DynamicConfig
    backend: str = "auto"
    size_px: int = CROP_PX


@dataclass(frozen=True)
class Chunk:
    """Crops or flows that are neighbours in time: `values (n, S, S, C)`; `t_s`, `frame (n,)`: seconds, and number in
    the file, of the sample that each begins with; `decoder`: what decoded them; `unusable`: by place, why one cannot be
    used, whose values are zeros; `spent_s`: seconds that making the chunk took, by what was done.
    """

    values: np.ndarray
    t_s: np.ndarray
    frame: np.ndarray
    decoder: str
    unusable: dict[int, str] = field(default_factory=dict)
    spent_s: dict[str, float] = field(default_factory=dict)


def face_crops(job: Job) -> Iterator[Chunk]:
    """Crops of the face in the middle sample of every `cfg.every_n_frames`: RGB uint8 (n, size_px, size_px, 3)."""
    first = min(job.cfg.every_n_frames, job.track.n_frames) // 2
    chosen = slice(first, None, job.cfg.every_n_frames)
    stream, clock = iter_frames(job.path, fps=job.track.fps, indices=chosen, backend=job.backend), Clock()
    for batch in batches_of(clock.each("decoding", stream), CROPS_PER_CHUNK):
        with clock("cropping"):
            crops = np.stack([crop_at(frame, job.track, t, job.size_px) for frame, t, *_ in batch])
        _, t_s, numbers, decoders = zip(*batch, strict=True)
        yield Chunk(crops, np.array(t_s), np.array(numbers), decoders[-1], spent_s=clock.read())


def face_flows(job: Job) -> Iterator[Chunk]:
    """Flow of the face crop from sample to sample, 0 across a cut: float32 (n, input_px, input_px, 2) in [-1, 1]."""
    stream, clock = iter_frames(job.path, fps=job.track.fps, backend=job.backend), Clock()
    for batch in batches_of(_flows(clock.each("decoding", stream), job, clock), FLOWS_PER_CHUNK):
        flows, t_s, numbers, decoders = map(np.array, zip(*batch, strict=True))
        yield Chunk(flows, t_s, numbers, str(decoders[-1]), spent_s=clock.read())


def _flows(stream: Iterable[Frame], job: Job, clock: Clock) -> Iterator[tuple[Any, ...]]:
    """Flow, and time, number and decoder of its first sample."""
    computer, before, cuts = OpticalFlowComputer(job.cfg.flow), None, set(job.track.cuts.tolist())
    for sample, (frame, t, number, decoder) in enumerate(stream):
        with clock("cropping"):
            crop = cv2.cvtColor(crop_at(frame, job.track, t, CROP_PX), cv2.COLOR_RGB2GRAY)
        if before:
            crop_before, *of_before = before
            with clock("flow"):
                flow = resize_flow(computer.pair(crop_before, crop), job.cfg.input_px)
                flow = normalise_flow(flow, job.cfg.flow_clip_px)
            yield np.zeros_like(flow) if sample in cuts else flow, *of_before
        before = crop, t, number, decoder


def batches_of(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of so many items; the last may be shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch
