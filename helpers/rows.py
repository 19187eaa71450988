"""What the networks are shown of a clip, made while it is decoded, and the rows that come of it.

In: a `Job`, a video file with its `FaceTrack` and the parameters of 03 or 04. It becomes `Chunk`s of neighbouring face
crops or flows in a decoder process (nothing here imports a network), then samples for a network (`helpers.pipeline`),
then a `FeatureFile` with features (n, D) float32. A clip's rows depend on nothing but that clip.
"""

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from helpers.config import DynamicConfig, StaticConfig
from helpers.flow import OpticalFlowComputer, normalise_flow, resize_flow
from helpers.store import ClipError, FeatureFile, clip_fingerprint
from helpers.tracks import FaceTrack, crop_at
from helpers.video import Frame, iter_frames

CROP_PX = 224  # side of the face crop that flow is computed on
CROPS_PER_CHUNK = 32  # crops that are handed over at a time: 5 MB at 224 px
FLOWS_PER_CHUNK = 32  # flows that are handed over at a time: 3 MB at 112 px
MIN_FLOWS = 4  # half of the shortest segment: with fewer, a row would be mostly padding
FLOWS_AT_ONCE = 512  # flows that go through the motion network in one pass; bounds memory for long videos
BESIDE = 16  # flows by which passes overlap on either side: up to Mixed_3c a row sees less than 10 beside its own
POOL_OVERHANG = 8  # the 2x7x7 pool joins two steps of 8 flows: row i stands for flows 8i to 8i+15
FAILED = "the network failed on it, or gave values that are not finite"


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
    clock, first = Clock(), min(job.cfg.every_n_frames, job.track.n_frames) // 2
    crops = _crops(job, clock, job.size_px, slice(first, None, job.cfg.every_n_frames))
    return _chunks(crops, clock, CROPS_PER_CHUNK)


def face_flows(job: Job) -> Iterator[Chunk]:
    """Flow of the face crop from sample to sample, 0 across a cut: float32 (n, input_px, input_px, 2) in [-1, 1]."""
    clock = Clock()
    return _chunks(_flows(_crops(job, clock, CROP_PX), job, clock), clock, FLOWS_PER_CHUNK)


def _crops(job: Job, clock: Clock, size_px: int, indices: slice | None = None) -> Iterator[Frame]:
    stream = iter_frames(job.path, fps=job.track.fps, indices=indices, backend=job.backend)
    for frame, t, *of_frame in clock.each("decoding", stream):
        with clock("cropping"):
            crop = crop_at(frame, job.track, size_px)
        yield crop, t, *of_frame


def _flows(crops: Iterator[Frame], job: Job, clock: Clock) -> Iterator[Frame]:
    """Flow from each crop to the next, with what is known of the first."""
    computer, before, cuts = OpticalFlowComputer(job.cfg.flow), None, set(job.track.cuts.tolist())
    for sample, (crop, *of_crop) in enumerate(crops):
        with clock("cropping"):
            gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
        if before:
            gray_before, *of_before = before
            with clock("flow"):
                flow = resize_flow(computer.pair(gray_before, gray), job.cfg.input_px)
                flow = normalise_flow(flow, job.cfg.flow_clip_px)
            yield np.zeros_like(flow) if sample in cuts else flow, *of_before
        before = gray, *of_crop


def _chunks(items: Iterator[Frame], clock: Clock, size: int) -> Iterator[Chunk]:
    for batch in batches_of(items, size):
        values, t_s, numbers, decoders = zip(*batch, strict=True)
        yield Chunk(np.stack(values), np.array(t_s), np.array(numbers), decoders[-1], spent_s=clock.read())


def batches_of(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of so many items; the last may be shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


@dataclass(frozen=True)
class Source:
    """What is done with every clip of a stage.

    `work` runs in the decoder processes: what it yields of a job are the clip's chunks. `job` makes that of a clip's
    path, key and fingerprint, also where the clip is done; `rows` makes of it the clip's rows, where the chunks are not
    used as they come. `fingerprint`: the version of a clip's files, by path and key. For the manifest: `identity` and
    `made_with` of the input, and parameters that are `not_decisive` for rows.
    """

    work: Callable[[Any], Iterator[Any]]
    job: Callable[[Path, str, str], Any]
    rows: Callable[[Any], "ClipRows"] | None = None
    fingerprint: Callable[[Path, str], str] = lambda path, key: clip_fingerprint(path)
    identity: dict[str, Any] = field(default_factory=dict)
    made_with: dict[str, str] = field(default_factory=dict)
    not_decisive: tuple[str, ...] = ()


class ClipRows(ABC):
    """The rows of one clip while they are being made; here one for each value of the chunks.

    Attributes:
        track: The face that the rows are about, or a `StoredClip`; None where they are about whole frames.
        spent_s: Seconds of decoder processes on the clip, by what they did.
    """

    margin = 0  # rows of a sample, on either side, that its neighbours know better

    def __init__(self, track: FaceTrack | Any | None = None):
        self.track, self.spent_s = track, Counter()
        self._seen: list[Chunk] = []  # without their values
        self._n_rows: list[int] = []  # of each sample
        self._made: list[np.ndarray | Exception] = []  # of each sample that the network has been shown, in order
        self._is_read = False

    @property
    def complete(self) -> bool:
        """Whether all samples are in, and what the network says about each is here."""
        return self._is_read and len(self._made) == len(self._n_rows)

    def samples(self, chunks: Iterable[Chunk]) -> Iterator[tuple[np.ndarray, int]]:
        """What the network is shown, sample by sample, and how many rows come of each; ClipError: too short a clip."""
        for sample, n_rows in self._samples(self._values(chunks)):
            self._n_rows.append(n_rows)
            yield sample, n_rows
        self._is_read = True

    def receive(self, output: np.ndarray | Exception) -> None:
        """Take what the network says about the next sample: (..., D), averaged over each row's part of it."""
        if not isinstance(output, Exception):
            output = output.reshape(self._n_rows[len(self._made)], -1, output.shape[-1]).mean(axis=1)
        self._made.append(output)

    def result(self) -> FeatureFile:
        """The rows, once `complete`, NaN where the network failed; where it failed on every sample, what it raised."""
        widths = {rows.shape[1] for rows in self._made if not isinstance(rows, Exception)}
        if not widths:
            raise self._made[0] if self._made else ClipError("there is nothing of it to show to a network")
        nothing, last, parts = np.full((1, *widths), np.nan, np.float32), len(self._made) - 1, []
        for k, (n, rows) in enumerate(zip(self._n_rows, self._made, strict=True)):
            kept = slice(self.margin if k else 0, n - self.margin if k < last else n)
            parts.append((nothing.repeat(n, 0) if isinstance(rows, Exception) else rows)[kept])
        return self._file(np.concatenate(parts))

    def why_invalid(self, rows: FeatureFile) -> dict[int, str]:
        """The reason of every invalid row of the clip, by its number."""
        reasons = {}
        for row in np.flatnonzero(~rows.valid).tolist():
            stored = "" if rows.reason is None else str(rows.reason[row])
            lost = "" if self.track.has_face(rows.t_s[row]) else f"the face is lost at {rows.t_s[row]:.1f} s"
            padded = "made mostly of padding: the clip is too short" if rows.features[row].any() else ""
            reasons[row] = stored or lost or padded or FAILED
        return reasons

    def _values(self, chunks: Iterable[Chunk]) -> Iterator[np.ndarray]:
        """One crop or flow after the other; of each chunk, all but these is kept."""
        for chunk in chunks:
            self._seen.append(replace(chunk, values=np.empty(0)))  # a slice of them would hold them all
            self.spent_s.update(chunk.spent_s)
            yield from chunk.values

    def _column(self, name: str) -> np.ndarray:
        return np.concatenate([getattr(chunk, name) for chunk in self._seen])

    def _reasons(self) -> list[str]:
        """Why each crop or flow cannot be used; "" where it can."""
        return [chunk.unusable.get(place, "") for chunk in self._seen for place in range(len(chunk.frame))]

    def _samples(self, values: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
        """What the network is shown, in order, and how many rows come of each."""
        return ((value, 1) for value in values)

    @abstractmethod
    def _file(self, features: np.ndarray) -> FeatureFile:
        """The clip's rows, with their times."""

    def _checked(self, features: np.ndarray, bounds_s: Any, frame: np.ndarray, reasons: list[str]) -> FeatureFile:
        """Rows by start and end in seconds; with a reason, no face, or values not finite they are invalid and zero."""
        reason, (start_s, end_s) = np.array(reasons), bounds_s
        bad = ~np.isfinite(features).all(axis=1) | ~self.track.has_face((start_s + end_s) / 2) | (reason != "")
        features, reason = np.where(bad[:, None], np.float32(0), features), reason if any(reasons) else None
        return FeatureFile(features, start_s, end_s, frame, ~bad, self._seen[-1].decoder, reason)


class StaticRows(ClipRows):
    """A row stands for one frame of `face_crops`, [t, t + 1 / fps) seconds."""

    def _file(self, features: np.ndarray) -> FeatureFile:
        t_s = self._column("t_s")
        return self._checked(features, (t_s, t_s + 1 / self.track.fps), self._column("frame"), self._reasons())


class DynamicRows(ClipRows):
    """A row stands for neighbouring flows of `face_flows`, as `cfg` says.

    `whole` gives one row per `cfg.segment` flows: the mean of what the tapped stage says about them, in one pass over
    the clip, or in passes of `FLOWS_AT_ONCE` that overlap. The network sees whole segments only; flows after the last
    one are dropped. Without an endpoint a row also sees the next 8 flows. `windows` gives one row per `cfg.window`
    flows every `cfg.stride` flows, each computed by itself. A clip too short for one row is padded with zero flow, as
    if its last frame were repeated; its row is valid if half of it is real.

    A row whose own flows are not all usable is invalid. In `whole` mode the rows beside it stay valid: the convolutions
    reach over, but a missing flow moved them by a third of what it moved its own row.
    """

    def __init__(self, track: FaceTrack | Any, cfg: DynamicConfig):
        super().__init__(track)
        self._length, self._stride, self._rows_at_once = row_layout(cfg)
        self.margin = min(-(-BESIDE // self._stride), (self._rows_at_once - 1) // 2)

    def _samples(self, values: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
        n_flows, length, stride, most = self.track.n_frames - 1, self._length, self._stride, self._rows_at_once
        if n_flows < MIN_FLOWS:
            raise ClipError(f"only {n_flows} flows, at least {MIN_FLOWS} needed")
        for block in _blocks(values, (most - 1) * stride + length, (most - 2 * self.margin) * stride):
            n_rows = min(most, (len(block) - length) // stride + 1)
            if n_rows < 1 and not self._n_rows:
                block, n_rows = block + [np.zeros_like(block[0])] * (length - len(block)), 1
            if n_rows >= 1:
                yield np.stack(block[: (n_rows - 1) * stride + length]), n_rows  # (T, S, S, 2)

    def _file(self, features: np.ndarray) -> FeatureFile:
        fps, start = self.track.fps, np.arange(len(features)) * self._stride
        stop, flows = np.minimum(start + self._length, self.track.n_frames - 1), self._reasons()
        for cut in getattr(self.track, "cuts", ()):  # samples with which a new shot begins
            flows[cut - 1] = flows[cut - 1] or f"crosses a cut at {cut / fps:.1f} s"
        reasons = [next(filter(None, flows[first:last]), "") for first, last in zip(start, stop, strict=True)]
        rows = self._checked(features, (start / fps, stop / fps), self._column("frame")[start], reasons)
        return replace(rows, valid=rows.valid & (2 * (stop - start) >= self._length))  # mostly padding: kept, invalid


def row_layout(cfg: DynamicConfig) -> tuple[int, int, int]:
    """Flows per row, flows from row to row, and rows that one pass of the network gives."""
    if cfg.mode == "windows":
        return cfg.window, cfg.stride, 1
    overhang = 0 if cfg.endpoint else POOL_OVERHANG
    return cfg.segment + overhang, cfg.segment, max(1, FLOWS_AT_ONCE // cfg.segment)


def _blocks(items: Iterable[Any], size: int, hop: int) -> Iterator[list[Any]]:
    """Lists of at least `size` neighbours, each `hop` items after the one before; the last may be shorter."""
    block: list[Any] = []
    for item in items:
        block.append(item)
        if len(block) == max(size, hop):
            yield block
            block = block[hop:]
    if block:
        yield block
