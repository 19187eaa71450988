"""The clips of a stage that still have to be made: their chunks from the decoder processes, and what became of each.

In: the table of clips and a stage's folder. Out: clip after clip with its chunks, and the counts of the manifest. What
cannot be used is recorded with its reason and the run goes on; what is done is not done again.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any

import av
import cv2
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from helpers.container import VideoError
from helpers.crops import Chunk
from helpers.device import device_scope
from helpers.faces import NoFaceError
from helpers.forward import Forward, NetworkError
from helpers.precomputed import StoredError
from helpers.rows import ClipRows, TooShortError
from helpers.store import FeatureFile, Stage, clip_stamp
from helpers.workers import ClipPool, WorkerError


class BusyTime:
    """Seconds in which at least one thread was inside a `with` of this object."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside, self._since_s, self._spent_s = 0, 0.0, 0.0

    def __enter__(self) -> None:
        with self._lock:
            self._since_s = self._since_s if self._inside else time.perf_counter()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            self._spent_s += 0.0 if self._inside else time.perf_counter() - self._since_s

    @property
    def seconds(self) -> float:
        """So far."""
        with self._lock:
            return self._spent_s + (time.perf_counter() - self._since_s if self._inside else 0.0)


log = logging.getLogger(__name__)

LINE_S = 60.0  # between two lines in the log
FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class Progress:
    """Counts the clips and rows of a stage; used as `with`.

    Args:
        name: Of the stage.
        total: Clips.
        folder: Of the run.
        shown: Show a bar.
        network_s: Gives the seconds that the network has worked so far; None where there is none.
        usage: Gives words about memory and load for the log, such as `Monitor.in_words`.
    """

    def __init__(
        self,
        name: str,
        total: int,
        folder: Path,
        *,
        shown: bool,
        network_s: Callable[[], float] | None = None,
        usage: Callable[[], str] | None = None,
    ):
        self._name, self._total, self._folder = name, total, folder
        self._network_s, self._usage = network_s, usage
        self._bar = tqdm(total=total, desc=name, disable=not shown, bar_format=FORMAT)
        self._started_s = self._told_s = time.monotonic()
        self._done = self._made = self._rows = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._tell(f"{'done' if self._done == self._total else 'stopped'} after {self._elapsed()}")

    def clip(self, n_rows: int = 0, *, made: bool = True) -> None:
        """Count a clip; one that was there already, or cannot be used, is not `made`."""
        self._done += 1
        self._made += made
        self._rows += n_rows
        self._bar.set_postfix_str(self._speed(), refresh=False)
        self._bar.update()
        if time.monotonic() - self._told_s >= LINE_S:
            self._told_s = time.monotonic()
            self._tell(f"{self.left()} left")

    def left(self) -> timedelta | str:
        """Time until the end, to the second, if it goes on as it went; "?" before the first clip is made."""
        if not self._made:
            return "?"
        elapsed_s = time.monotonic() - self._started_s
        return timedelta(seconds=round(elapsed_s / self._made * (self._total - self._done)))

    def _elapsed(self) -> timedelta:
        return timedelta(seconds=round(time.monotonic() - self._started_s))

    def _tell(self, when: str) -> None:
        line = f"{self._name}: {self._done} of {self._total} clips, {self._speed()}, {when}" + (
            f"; {self._usage()}" if self._usage else ""
        )
        log.info("%s", line)
        with suppress(OSError), open(self._folder / "progress.log", "a", encoding="utf-8") as file:  # no run ends here
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")

    def _speed(self) -> str:
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        told = [f"{self._made / elapsed_s:.2f} clips/s"]
        if self._network_s:
            told += [f"{self._rows / elapsed_s:.1f} rows/s", f"network {self._network_s() / elapsed_s:.0%}"]
        return ", ".join(told)


log = logging.getLogger(__name__)

AT_ONCE = 2  # batches in the network, where memory suffices for both
BEGUN = AT_ONCE + 1  # batches on their way: one more waits for it
WAITING_BYTES = 256 * 2**20  # of samples in unfilled batches; there are several where clips differ in length

Receive = Callable[[np.ndarray | NetworkError], None]
Kind = tuple[tuple[int, ...], np.dtype]  # of a sample: what makes it fit into a batch


@dataclass
class _Batch:
    """A batch that is being filled: `x (room, ...)`, so many rows per sample, and who gave the samples so far."""

    x: np.ndarray
    n_rows: int
    receivers: list[Receive] = field(default_factory=list)


class Batches:
    """Runs a network over samples; used as `with`, which waits for the batch that is running.

    All batches of a kind have the size of the first, so that nothing is compiled twice, and no more is computed where
    there are too few samples to fill it. When memory does not suffice for a batch, half of it is tried, and kept
    to from then on; a single sample, with no other batch beside it. A sample that the network fails on is found by
    running the samples of its batch one by one.

    Attributes:
        batch_size: Rows at once; less than it was after memory has run out.
        network_s: Seconds that the network has worked, on one batch or on two.
    """

    def __init__(
        self,
        forward: Forward,
        batch_size: int,
        *,
        device: str = "",
    ) -> None:
        """
        Args:
            forward: Compiled network, (B, ...) to (B, ...).
            batch_size: Rows at once. A sample that makes more rows than that is a batch by itself.
            device: What `helpers.device.use_device` gave; empty leaves the choice to the backend.
        """
        self.batch_size, self._busy = batch_size, BusyTime()
        self._forward, self._device = forward, device
        self._filling: dict[Kind, _Batch] = {}
        self._waiting_bytes = 0
        self._running: deque[tuple[Future, list[Receive]]] = deque()
        self._threads = ThreadPoolExecutor(AT_ONCE, "network")
        self._turns, self._waits_for_all = Semaphore(AT_ONCE), Lock()
        self._sizes: dict[Kind, int] = {}  # samples in a batch of each kind, known with its first

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    @property
    def network_s(self) -> float:
        return self._busy.seconds

    def add(self, sample: np.ndarray, receive: Receive, n_rows: int = 1) -> None:
        """Put a sample into the next batch of its shape.

        Args:
            sample: What the network takes, without the axis of the batch; not to be changed afterwards.
            receive: Gets the network's output for it, or why it failed: in this thread, in a later call.
            n_rows: Rows of features that come of it; the same for all samples of a shape.

        Raises:
            MemoryError: not even one sample fits. Whatever else the network raised comes out here, too.
        """
        kind = (sample.shape, sample.dtype)
        batch = self._filling.get(kind)
        if batch is None:
            room = self._sizes.get(kind) or max(1, self.batch_size // n_rows)
            x = sample[None] if room == 1 else np.empty((room, *sample.shape), sample.dtype)
            batch = self._filling[kind] = _Batch(x, n_rows)
        if len(batch.x) > 1:
            batch.x[len(batch.receivers)] = sample
        batch.receivers.append(receive)
        self._waiting_bytes += sample.nbytes
        if len(batch.receivers) == len(batch.x):
            self._start(kind)
        elif self._waiting_bytes > WAITING_BYTES:
            self._start(next(iter(self._filling)))

    def finish(self) -> None:
        """Run what is left in unfilled batches, and deliver everything."""
        while self._filling:
            self._start(next(iter(self._filling)))
        while self._running:
            self._deliver()

    def _start(self, kind: Kind) -> None:
        batch = self._filling.pop(kind)
        batch.x = batch.x[: self._sizes.setdefault(kind, len(batch.receivers))]
        self._waiting_bytes -= batch.x[: len(batch.receivers)].nbytes
        while self._running and (len(self._running) >= BEGUN or self._running[0][0].done()):
            self._deliver()
        self._running.append((self._threads.submit(self._run_on_device, batch), batch.receivers))

    def _deliver(self) -> None:
        future, receivers = self._running.popleft()
        for output, receive in zip(future.result(), receivers, strict=True):
            receive(output)

    def _run_on_device(self, batch: _Batch) -> list[np.ndarray | NetworkError]:
        with device_scope(self._device):  # which holds for one thread only
            return self._run(batch)

    def _run(self, batch: _Batch) -> list[np.ndarray | NetworkError]:
        """What the network says about every sample; where memory does not suffice, of half as many at a time."""
        outputs: list[np.ndarray | NetworkError] = []
        samples = batch.x[: len(batch.receivers)]
        room = min(len(batch.x), max(1, self.batch_size // batch.n_rows))  # less, if memory has run out since
        while len(outputs) < len(samples):
            try:
                outputs += self._outputs(samples[len(outputs) :][:room], room)
            except MemoryError as error:
                if room == 1:
                    raise MemoryError(f"{error} Not even one at a time fits into memory.") from None
                room //= 2
                self.batch_size = min(self.batch_size, room * batch.n_rows)
                log.warning("%s Going on with %d at a time, here and in what follows.", error, room)
        return outputs

    def _outputs(self, samples: np.ndarray, room: int) -> list[np.ndarray | NetworkError]:
        """The network's outputs, always of `room` samples, so that it meets one shape only: zeros fill it up."""
        x = samples
        if len(samples) < room:
            x = np.zeros((room, *samples.shape[1:]), samples.dtype)
            x[: len(samples)] = samples
        try:
            y = self._forwarded(x)[: len(samples)]
        except NetworkError as error:
            if len(samples) > 1:
                return [output for place in range(len(samples)) for output in self._outputs(samples[[place]], room)]
            log.warning("%s", error)
            return [error]
        return list(y)

    def _forwarded(self, x: np.ndarray) -> np.ndarray:
        """What the network makes of a batch; where memory has no room for one sample, without others beside it."""
        try:
            with self._turns, self._busy:
                return self._forward(x)
        except MemoryError:
            if len(x) > 1:
                raise
        with ExitStack() as turns, self._waits_for_all:
            for _ in range(AT_ONCE):
                turns.enter_context(self._turns)
            with self._busy:
                return self._forward(x)


def run_batches(
    forward: Forward,
    samples: Iterable[np.ndarray],
    batch_size: int,
    kept: Callable[[np.ndarray], np.ndarray] = lambda output: output,
) -> list[np.ndarray]:
    """What is `kept` of the network's output for every sample, in their order; NetworkError if it fails on one.

    Args:
        forward, batch_size: See `Batches`.
        samples: What the network takes, without the axis of the batch.
        kept: Is applied to an output as it arrives; memory holds what it returns.
    """
    outputs: dict[int, np.ndarray | NetworkError] = {}

    def receive(place: int, output: np.ndarray | NetworkError) -> None:
        outputs[place] = output if isinstance(output, NetworkError) else kept(output)

    with Batches(forward, batch_size) as batches:
        for place, sample in enumerate(samples):
            batches.add(sample, partial(receive, place))
        batches.finish()
    for output in outputs.values():
        if isinstance(output, NetworkError):
            raise output
    return [outputs[place] for place in range(len(outputs))]


log = logging.getLogger(__name__)

PATIENCE_S = 1800.0  # without a chunk or a sign of life: 02 gives one a minute, but none while a file is opened
CLIP_ERRORS = (
    VideoError,
    NoFaceError,
    StoredError,
    TooShortError,
    NetworkError,
    WorkerError,
    cv2.error,
    av.FFmpegError,
)


@dataclass(frozen=True)
class Clip:
    """A clip to be made: its key, its file and that file's version, and what its rows are made with besides chunks."""

    key: str
    path: Path
    stamp: str
    kept: Any


class ClipRun:
    """Goes through the clips of a stage; used as `with`, and iterated over once.

    Attributes:
        counts: Of the manifest, so far.
        n_found: How many clips were done already.

    Args:
        clips: Index `key`, column `path` below `data`.
        data: Folder of the clips.
        stage: Where their files go.
        work: Runs in the decoder processes: a job's chunks.
        job_of: From path, key and stamp of a clip to its job, and to what stays here, `Clip.kept`.
        workers: Decoder processes.
        progress: Is told of every clip.
        stamp_of: From path and key of a clip to what tells one version of it from another.
        on_found: Gets the key, and what stays of the job, of every clip that was done already.
    """

    def __init__(
        self,
        clips: pd.DataFrame,
        data: Path,
        stage: Stage,
        work: Callable[[Any], Iterator[Any]],
        job_of: Callable[[Path, str, str], tuple[Any, Any]],
        workers: int,
        progress: Progress,
        stamp_of: Callable[[Path, str], str] = lambda path, key: clip_stamp(path),
        on_found: Callable[[str, Any], None] = lambda key, kept: None,
    ) -> None:
        self.counts = {"clips": len(clips), "made": 0, "failed": 0}
        self.n_found = 0
        self._clips, self._data, self._stage = clips, data, stage
        self._job_of, self._stamp_of, self._on_found, self._progress = job_of, stamp_of, on_found, progress
        self._pool = ClipPool(work, workers=workers, patience_s=PATIENCE_S)

    def __enter__(self) -> "ClipRun":
        self._pool.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.__exit__(*error)

    def __iter__(self) -> Iterator[tuple[Clip, Iterator[Any]]]:
        """Every clip that is not done, with its chunks; call `made` or `fail` for each, now or later."""
        return self._pool.run(self._tasks())

    def finish(self) -> dict[str, int]:
        """Put what failed into the order of the clips, and return the counts of the manifest."""
        order = {key: place for place, key in enumerate(self._clips.index)}
        self._stage.failed.sort(key=lambda entry: order[entry["clip"]])
        return self.counts | {"found": self.n_found}

    def made(self, clip: Clip, n_rows: int = 0) -> None:
        """Count a clip whose file is there now."""
        self.counts["made"] += 1
        self._progress.clip(n_rows)

    def fail(self, clip: Clip, error: Exception) -> None:
        """Record a clip that cannot be used, and remove what an earlier version of it has left."""
        reason = str(error).removeprefix(f"{clip.path.name}: ")
        log.warning("%s: %s", clip.key, reason)
        self._stage.path(clip.key).unlink(missing_ok=True)
        self._stage.fail(clip.key, reason)
        self.counts["failed"] += 1
        self._progress.clip(made=False)

    def _tasks(self) -> Iterator[tuple[Clip, Any]]:
        for key, below in self._clips["path"].items():
            path = self._data / below
            stamp = self._stamp_of(path, key)
            try:
                job, kept = self._job_of(path, key, stamp)
            except CLIP_ERRORS as error:  # also where it could be used when it was done
                self.fail(Clip(key, path, stamp, None), error)
                continue
            if self._stage.done(key, stamp):
                self._on_found(key, kept)
                self.n_found += 1
                self._progress.clip(made=False)
            else:
                yield Clip(key, path, stamp, kept), job


UNWRITTEN = 8  # files that may wait to be written


class FeatureWriter:
    """Writes the rows of clips and tells the run of them; a full disk comes out of a later call, or the end of `with`.

    Attributes:
        spent_s: Seconds spent on writing.
        n_rows: Rows that are written.
    """

    def __init__(self, run: ClipRun, stage: Stage):
        self.spent_s, self.n_rows = 0.0, 0
        self._run, self._stage = run, stage
        self._thread = ThreadPoolExecutor(1, "writer")
        self._waiting: deque[tuple[Clip, int, Future]] = deque()

    def __enter__(self) -> "FeatureWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self._count(0)

    def write(self, clip: Clip, rows: FeatureFile) -> None:
        """Have the rows of a clip written; waits while too many are."""
        self._waiting.append((clip, len(rows.valid), self._thread.submit(self._write, clip, rows)))
        self._count(UNWRITTEN)

    def _write(self, clip: Clip, rows: FeatureFile) -> None:
        started_s = time.perf_counter()
        self._stage.write(clip.key, rows, clip.stamp)
        self.spent_s += time.perf_counter() - started_s

    def _count(self, n_waiting: int) -> None:
        """Wait until at most so many are unwritten, and count those that are."""
        while self._waiting and (len(self._waiting) > n_waiting or self._waiting[0][2].done()):
            clip, n_rows, written = self._waiting.popleft()
            written.result()
            self.n_rows += n_rows
            self._run.made(clip, n_rows)


def stream_rows(
    run: ClipRun,
    stage: Stage,
    rows_of: Callable[[Any], ClipRows],
    batches: Batches,
    told: Callable[[str, FeatureFile, Any], None] = lambda key, rows, kept: None,
) -> tuple[dict[str, float], int]:
    """Read, compute and write all clips at once; a clip's file is written when its last row is there.

    Args:
        run: The clips; closed by the caller.
        stage: Where the files go.
        rows_of: From `Clip.kept` to the clip's rows, before they are made.
        batches: The network; closed here.
        told: Gets the key, the rows and `Clip.kept` of every clip whose rows are made.

    Returns:
        Seconds by what was done in them, and how many rows were made.
    """
    spent_s: Counter[str] = Counter()
    on_way: list[tuple[Clip, ClipRows]] = []
    with batches, FeatureWriter(run, stage) as writer:

        def hand_over() -> None:
            for clip, rows in [entry for entry in on_way if entry[1].complete]:
                on_way.remove((clip, rows))
                spent_s.update(rows.spent_s)
                try:
                    made = rows.result()
                except CLIP_ERRORS as error:
                    run.fail(clip, error)
                else:
                    told(clip.key, made, clip.kept)
                    writer.write(clip, made)

        try:
            for clip, chunks in run:
                rows = rows_of(clip.kept)
                try:
                    rows.feed(chunks, batches.add)
                except CLIP_ERRORS as error:
                    run.fail(clip, error)
                else:
                    on_way.append((clip, rows))
                hand_over()
            batches.finish()
        finally:  # whatever ends the run, no clip that is complete is lost
            hand_over()
    return dict(spent_s) | {"network": batches.network_s, "writing": writer.spent_s}, writer.n_rows


def rows_of_clip(clip: ClipRows, chunks: Iterable[Chunk], forward: Forward, batch_size: int) -> FeatureFile:
    """The rows of one clip by itself; see `Batches` for the network's arguments, `ClipRows` for what may be raised."""
    with Batches(forward, batch_size) as batches:
        clip.feed(chunks, batches.add)
        batches.finish()
    return clip.result()
