"""One way from clips to rows: decoder processes, fixed batches across clips, rows back to their clips, files.

In: the table of clips, what decoder processes do with each, and a stage's folder. Out: a file per clip, and the counts
of the manifest. Decoding, the network and writing go on at the same time, and memory does not grow with the number of
clips. What cannot be used is recorded with its reason and the run goes on; what is done is not done again.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any

import cv2
import numpy as np
import pandas as pd
from av import FFmpegError
from tqdm.auto import tqdm

from helpers.container import VideoError
from helpers.crops import Chunk
from helpers.device import device_scope
from helpers.forward import Forward, NetworkError
from helpers.precomputed import StoredError
from helpers.rows import ClipRows, TooShortError
from helpers.store import FeatureFile, Stage, clip_stamp, read_features
from helpers.tracks import NoFaceError
from helpers.workers import ClipPool, WorkerError

log = logging.getLogger(__name__)

CLIP_ERRORS = (VideoError, NoFaceError, StoredError, TooShortError, NetworkError, WorkerError, cv2.error, FFmpegError)
NOT_DECISIVE = ("data_dir", "out_dir", "limit", "progress", "batch_size", "workers", "device")  # for files
PATIENCE_S = 1800.0  # without a chunk or a sign of life: 02 gives one a minute, but none while a file is opened
UNWRITTEN = 8  # files that may wait to be written
AT_ONCE = 2  # batches in the network, where memory suffices for both
BEGUN = AT_ONCE + 1  # batches on their way: one more waits for it
WAITING_BYTES = 256 * 2**20  # of samples in unfilled batches; there are several where clips differ in length
LINE_S = 60.0  # between two lines in the log
FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"

Kind = tuple[tuple[int, ...], np.dtype, int]  # shape and type of a sample, and its rows: what fits into one batch


class Network:
    """Runs a network over samples in batches of one shape; two batches are in it while the next one is filled.

    Cores that one batch leaves idle at the end of a layer the other uses. No result depends on what else is in its
    batch. All batches of a kind have the size of the first, so that nothing is compiled twice, and no more is computed
    where there are too few samples to fill it. When memory does not suffice for a batch, half of it is tried, and kept
    to from then on; a single sample, with no other batch beside it. A sample that the network fails on is found by
    running the samples of its batch one by one.

    Attributes:
        batch_size: Rows at once; less than it was after memory has run out.
        device: Where it runs; empty leaves the choice to the backend.
        busy_s: Seconds that the network has worked so far, on one batch or on two.
    """

    def __init__(self, forward: Forward, batch_size: int, device: str = "") -> None:
        """
        Args:
            forward: Compiled network, (B, ...) to (B, ...).
            batch_size: Rows at once. A sample that makes more rows than that is a batch by itself.
            device: What `helpers.device.use_device` gave.
        """
        self.batch_size, self.device, self.busy_s, self._forward = batch_size, device, 0.0, forward
        self._turns, self._waits_for_all = Semaphore(AT_ONCE), Lock()
        self._sizes: dict[Kind, int] = {}  # samples in a batch of each kind, known with its first
        self._inside, self._since_s, self._clock = 0, 0.0, Lock()

    def run(self, samples: Iterable[tuple[Any, np.ndarray, int]]) -> Iterator[tuple[Any, np.ndarray | NetworkError]]:
        """Run the network over all samples.

        Args:
            samples: Of each its owner, what the network takes (without the axis of the batch, not to be changed
                afterwards), and the rows of features that come of it.

        Yields:
            Each owner with the network's output, or why it failed, some batches later; of one kind in order.

        Raises:
            MemoryError: not even one sample fits. Whatever else the network raised comes out here, too.
        """
        running: deque[tuple[Future, list[Any]]] = deque()
        threads = ThreadPoolExecutor(AT_ONCE, "network")
        try:
            for kind, batch in self._batches(samples):
                while running and (len(running) >= BEGUN or running[0][0].done()):
                    yield from _delivered(running)
                owners, values = zip(*batch, strict=True)
                self._sizes.setdefault(kind, len(batch))
                running.append((threads.submit(self._run, values, kind), owners))
            while running:
                yield from _delivered(running)
        finally:
            threads.shutdown(cancel_futures=True)

    def _batches(self, samples: Iterable[tuple[Any, np.ndarray, int]]) -> Iterator[tuple[Kind, list[tuple]]]:
        """Samples of one kind together, (owner, sample) each; full but for the first and the last."""
        filling: dict[Kind, list[tuple]] = {}
        for owner, sample, n_rows in samples:
            kind = (sample.shape, sample.dtype, n_rows)
            filling.setdefault(kind, []).append((owner, sample))
            if len(filling[kind]) == self._sizes.get(kind, max(1, self.batch_size // n_rows)):
                yield kind, filling.pop(kind)
            elif sum(waiting.nbytes for batch in filling.values() for _, waiting in batch) > WAITING_BYTES:
                oldest = next(iter(filling))
                yield oldest, filling.pop(oldest)
        yield from filling.items()

    def _run(self, samples: tuple[np.ndarray, ...], kind: Kind) -> list[np.ndarray | NetworkError]:
        """What the network says about every sample; where memory does not suffice, of half as many at a time."""
        n_rows = kind[-1]
        room = min(self._sizes[kind], max(1, self.batch_size // n_rows))  # less, if memory has run out since
        outputs: list[np.ndarray | NetworkError] = []
        with device_scope(self.device):  # which holds for one thread only
            while len(outputs) < len(samples):
                try:
                    outputs += self._outputs(samples[len(outputs) :][:room], room)
                except MemoryError as error:
                    if room == 1:
                        raise MemoryError(f"{error} Not even one at a time fits into memory.") from None
                    room //= 2
                    self.batch_size = min(self.batch_size, room * n_rows)
                    log.warning("%s Going on with %d at a time, here and in what follows.", error, room)
        return outputs

    def _outputs(self, samples: tuple[np.ndarray, ...], room: int) -> list[np.ndarray | NetworkError]:
        """The network's outputs, always of `room` samples, so that it meets one shape only: zeros fill it up."""
        x = samples[0][None] if room == 1 else np.zeros((room, *samples[0].shape), samples[0].dtype)
        if room > 1:
            np.stack(samples, out=x[: len(samples)])
        try:
            return list(self._forwarded(x)[: len(samples)])
        except NetworkError as error:
            if len(samples) > 1:
                return [output for sample in samples for output in self._outputs((sample,), room)]
            log.warning("%s", error)
            return [error]

    def _forwarded(self, x: np.ndarray) -> np.ndarray:
        """What the network makes of a batch; where memory has no room for one sample, without others beside it."""
        try:
            with self._turns, self._busy():
                return self._forward(x)
        except MemoryError:
            if len(x) > 1:
                raise
        with ExitStack() as turns, self._waits_for_all:
            for _ in range(AT_ONCE):
                turns.enter_context(self._turns)
            with self._busy():
                return self._forward(x)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """Count the time inside, once where it is that of two threads."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._clock:
            now_s = time.perf_counter()
            self.busy_s += now_s - self._since_s if self._inside else 0.0
            self._inside, self._since_s = self._inside + change, now_s


def _delivered(running: deque[tuple[Future, list[Any]]]) -> Iterator[tuple[Any, np.ndarray | NetworkError]]:
    future, owners = running.popleft()
    yield from zip(owners, future.result(), strict=True)


def run_batches(
    forward: Forward,
    samples: Iterable[np.ndarray],
    batch_size: int,
    kept: Callable[[np.ndarray], np.ndarray] = lambda output: output,
) -> list[np.ndarray]:
    """What is `kept` of the network's output for every sample, in their order; NetworkError if it fails on one."""
    outputs = {}
    for place, output in Network(forward, batch_size).run((k, sample, 1) for k, sample in enumerate(samples)):
        if isinstance(output, NetworkError):
            raise output
        outputs[place] = kept(output)
    return [outputs[place] for place in range(len(outputs))]


def rows_of_clip(clip: ClipRows, chunks: Iterable[Chunk], forward: Forward, batch_size: int) -> FeatureFile:
    """The rows of one clip by itself; see `Network` for the network's arguments, `ClipRows` for what may be raised."""
    for place, output in Network(forward, batch_size).run(clip.samples(chunks)):
        clip.receive(place, output)
    return clip.result()


class Progress:
    """How far a stage is and how fast: a bar, and for those without a screen a line a minute in `progress.log`.

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
        self._started_s = self._line_s = time.monotonic()
        self._done = self._made = self._rows = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        elapsed = timedelta(seconds=round(time.monotonic() - self._started_s))
        self._write(f"{'done' if self._done == self._total else 'stopped'} after {elapsed}")

    def clip(self, n_rows: int = 0, *, made: bool = True) -> None:
        """Count a clip; one that was there already, or cannot be used, is not `made`."""
        self._done += 1
        self._made += made
        self._rows += n_rows
        self._bar.set_postfix_str(self._speed(), refresh=False)
        self._bar.update()
        if time.monotonic() - self._line_s >= LINE_S:
            self._line_s = time.monotonic()
            self._write(f"{self.left()} left")

    def left(self) -> timedelta | str:
        """Time until the end, to the second, if it goes on as it went; "?" before the first clip is made."""
        if not self._made:
            return "?"
        elapsed_s = time.monotonic() - self._started_s
        return timedelta(seconds=round(elapsed_s / self._made * (self._total - self._done)))

    def _write(self, when: str) -> None:
        line = f"{self._name}: {self._done} of {self._total} clips, {self._speed()}, {when}"
        line += f"; {self._usage()}" if self._usage else ""
        log.info("%s", line)
        with suppress(OSError), open(self._folder / "progress.log", "a", encoding="utf-8") as file:  # no run ends here
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")

    def _speed(self) -> str:
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        parts = [f"{self._made / elapsed_s:.2f} clips/s"]
        if self._network_s:
            parts += [f"{self._rows / elapsed_s:.1f} rows/s", f"network {self._network_s() / elapsed_s:.0%}"]
        return ", ".join(parts)


@dataclass(frozen=True)
class Clip:
    """A clip to be made: its key, its file and that file's version, and what its rows are made with besides chunks."""

    key: str
    path: Path
    stamp: str
    kept: Any = None


class ClipRun:
    """Goes through the clips of a stage; used as `with`, and iterated over once.

    Rows are written in a thread of its own; a full disk comes out of a later call, or the end of `with`.

    Attributes:
        counts: Of the manifest, so far.
        spent_s: Seconds by what was done in them, of rows.
        n_rows: Rows that are written.

    Args:
        clips: Index `key`, column `path` below `data`.
        data: Folder of the clips.
        stage: Where their files go.
        work: Runs in the decoder processes: a job's chunks.
        job_of: From path, key and stamp of a clip to its job, and to what stays here, `Clip.kept`.
        workers: Decoder processes.
        progress: Is told of every clip.
        stamp_of: From path and key of a clip to what tells one version of it from another.
        on_rows: Gets the key, the rows and `Clip.kept` of every clip, also where they were there already.
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
        on_rows: Callable[[str, FeatureFile, Any], None] | None = None,
    ) -> None:
        self.counts = {"clips": len(clips), "made": 0, "failed": 0, "found": 0}
        self.spent_s, self.n_rows = Counter(), 0
        self._clips, self._data, self._stage, self._progress = clips, data, stage, progress
        self._job_of, self._stamp_of, self._on_rows = job_of, stamp_of, on_rows
        self._pool = ClipPool(work, workers=workers, patience_s=PATIENCE_S)
        self._writer = ThreadPoolExecutor(1, "writer")
        self._unwritten: deque[Future] = deque()

    def __enter__(self) -> "ClipRun":
        self._pool.__enter__()
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._pool.__exit__(kind, *error)
        self._writer.shutdown()  # whatever ends the run, no clip that is complete is lost
        if kind is None:
            self._await_writer(0)

    def __iter__(self) -> Iterator[tuple[Clip, Iterator[Any]]]:
        """Every clip that is not done, with its chunks; call `made`, `write` or `fail` for each, now or later."""
        return self._pool.run(self._tasks())

    def _tasks(self) -> Iterator[tuple[Clip, Any]]:
        for key, below in self._clips["path"].items():
            path = self._data / below
            stamp = self._stamp_of(path, key)
            try:
                job, kept = self._job_of(path, key, stamp)
            except CLIP_ERRORS as error:  # also where it could be used when it was done
                self.fail(Clip(key, path, stamp), error)
                continue
            if not self._stage.done(key, stamp):
                yield Clip(key, path, stamp, kept), job
                continue
            if self._on_rows:
                self._on_rows(key, read_features(self._stage.path(key)), kept)
            self.counts["found"] += 1
            self._progress.clip(made=False)

    def made(self, n_rows: int = 0) -> None:
        """Count a clip whose file is there now."""
        self.counts["made"] += 1
        self.n_rows += n_rows
        self._progress.clip(n_rows)

    def fail(self, clip: Clip, error: Exception) -> None:
        """Record a clip that cannot be used, and remove what an earlier version of it has left."""
        reason = str(error).removeprefix(f"{clip.path.name}: ")
        log.warning("%s: %s", clip.key, reason)
        self._stage.path(clip.key).unlink(missing_ok=True)
        self._stage.fail(clip.key, reason)
        self.counts["failed"] += 1
        self._progress.clip(made=False)

    def write(self, clip: Clip, rows: FeatureFile) -> None:
        """Have the rows of a clip written; waits while too many are."""
        if self._on_rows:
            self._on_rows(clip.key, rows, clip.kept)
        self._unwritten.append(self._writer.submit(self._write, clip, rows))
        self._await_writer(UNWRITTEN)

    def _write(self, clip: Clip, rows: FeatureFile) -> int:
        started_s = time.perf_counter()
        self._stage.write(clip.key, rows, clip.stamp)
        self.spent_s["writing"] += time.perf_counter() - started_s
        return len(rows.valid)

    def _await_writer(self, n_unwritten: int) -> None:
        """Wait until at most so many clips are unwritten, and count those that are not."""
        while self._unwritten and (len(self._unwritten) > n_unwritten or self._unwritten[0].done()):
            self.made(self._unwritten.popleft().result())

    def finish(self) -> dict[str, int]:
        """Put what failed into the order of the clips, and return the counts of the manifest."""
        order = {key: place for place, key in enumerate(self._clips.index)}
        self._stage.failed.sort(key=lambda entry: order[entry["clip"]])
        return self.counts


def stream_rows(run: ClipRun, rows_of: Callable[[Any], ClipRows], network: Network) -> None:
    """Read, compute and write all clips at once; a clip's file is written when its last row is there.

    Args:
        run: The clips; closed by the caller.
        rows_of: From `Clip.kept` to the clip's rows, before they are made.
        network: What they go through.
    """

    def samples() -> Iterator[tuple[Any, np.ndarray, int]]:
        """Of all clips, one after the other; the owner of one is its clip, the clip's rows, and its place in them."""
        for clip, chunks in run:
            rows = rows_of(clip.kept)
            try:
                for place, sample, n_rows in rows.samples(chunks):
                    yield (clip, rows, place), sample, n_rows
            except CLIP_ERRORS as error:
                run.fail(clip, error)
            else:
                hand_over(clip, rows)

    def hand_over(clip: Clip, rows: ClipRows) -> None:
        if not rows.complete:
            return
        run.spent_s.update(rows.spent_s)
        try:
            run.write(clip, rows.result())
        except CLIP_ERRORS as error:
            run.fail(clip, error)

    with closing(network.run(samples())) as outputs:
        for (clip, rows, place), output in outputs:
            rows.receive(place, output)
            hand_over(clip, rows)
    run.spent_s["network"] = network.busy_s
