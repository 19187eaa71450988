"""One way from clips to rows: decoder processes, fixed batches across clips, rows back to their clips, files.

In: the table of clips, a `Source` of what decoder processes do with each, and a stage's folder. Out: a file per clip
and the manifest's counts. Decoding, the network and writing go on at the same time; memory does not grow with the
number of clips. What cannot be used is recorded with its reason; what is done is not done again.
"""

import logging
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from helpers.config import Parameters
from helpers.device import Monitor, device_scope
from helpers.forward import Forward, NetworkError
from helpers.rows import Chunk, ClipRows, Clock, Source, batches_of
from helpers.store import AbsentError, ClipError, FeatureFile, Stage, by_kind, features_of, kind_of, reason_of
from helpers.workers import ClipPool, cores

log = logging.getLogger(__name__)

NOT_DECISIVE = ("data_dir", "out_dir", "limit", "progress", "batch_size", "workers", "device")  # for files
PATIENCE_S = 1800.0  # without a chunk or a sign of life: 02 gives one at every look, but none while a file is opened
AT_ONCE = 2  # batches in the network, where memory suffices for both; one more waits for it
FIRST, LEAST = 20, 40  # clips that end a run if all of the first, or half of at least so many, fail alike
LINE_S = 60.0  # between two lines in the log
LINE = "{n_fmt} of {total_fmt} clips in {elapsed}, {remaining} left, {rate_fmt}"

Sample = tuple[Any, np.ndarray, int]  # whose it is; what the network takes, without the axis of the batch; its rows


class Network:
    """Runs a network over samples in batches of one shape; two batches are in it while the next one is filled.

    No result depends on what else is in its batch, but for rounding. A batch is full, or ends where samples become of
    another kind; it is then filled up to the largest of its kind so far, so that little is compiled twice. When memory
    does not suffice for a batch, half of it is tried, and kept to from then on; a single sample, with no other batch
    beside it. Where the network fails, the samples of the batch are run one by one.

    Attributes:
        batch_size: Rows at once; less after memory has run out. A sample of more rows is a batch by itself.
        device: Where it runs; empty leaves the choice to the backend.
        busy_s: Seconds that the network has worked so far, on one batch or on two.
    """

    def __init__(self, forward: Forward, batch_size: int, device: str = "") -> None:
        """Take a compiled network, (B, ...) to (B, ...), and what `helpers.device.use_device` gave."""
        self.batch_size, self.device, self.busy_s, self._forward = batch_size, device, 0.0, forward
        self._turns, self._alone = Semaphore(AT_ONCE), Lock()
        self._counting, self._until_s = Lock(), 0.0  # up to when `busy_s` counts
        self._works, self._failure = False, None  # whether any sample went through, and the first error of another kind

    def run(self, samples: Iterable[Sample]) -> Iterator[tuple[Any, np.ndarray | Exception]]:
        """Yield each owner with the network's output, or why it failed, in the order of samples, some batches later.

        Where not one sample went through, what the network raised comes out at the end if it was no NetworkError: then
        it is the network's fault, or memory is too small for it (MemoryError).
        """
        running: deque[Future] = deque()
        threads = ThreadPoolExecutor(AT_ONCE, "network")
        try:
            for batch, size in self._batches(samples):
                while running and (len(running) > AT_ONCE or running[0].done()):
                    yield from running.popleft().result()
                running.append(threads.submit(self._run, batch, size))
            while running:
                yield from running.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)
        if self._failure and not self._works:
            raise self._failure

    def _batches(self, samples: Iterable[Sample]) -> Iterator[tuple[list[Sample], int]]:
        """Neighbouring samples of one shape, type and number of rows, and how many the network is to be given."""
        sizes: dict[tuple, int] = {}
        for kind, alike in groupby(samples, lambda sample: (sample[1].shape, sample[1].dtype, sample[2])):
            for batch in batches_of(alike, max(1, self.batch_size // kind[-1])):
                sizes[kind] = max(len(batch), sizes.get(kind, 0))
                yield batch, sizes[kind]

    def _run(self, batch: list[Sample], size: int) -> list[tuple[Any, np.ndarray | Exception]]:
        """What the network says about every sample; where memory does not suffice, of half as many at a time."""
        owners, samples, (n_rows, *_) = zip(*batch, strict=True)
        room = min(size, max(1, self.batch_size // n_rows))  # less, if memory has run out since
        outputs: list[np.ndarray | Exception] = []
        with device_scope(self.device):  # which holds for one thread only
            while len(outputs) < len(samples):
                try:
                    outputs += self._outputs(samples[len(outputs) :][:room], room)
                except MemoryError as error:
                    room //= 2
                    self.batch_size = min(self.batch_size, room * n_rows)
                    log.warning("%s Going on with %d at a time, here and in what follows.", error, room)
        return list(zip(owners, outputs, strict=True))

    def _outputs(self, samples: tuple[np.ndarray, ...], room: int) -> list[np.ndarray | Exception]:
        """The network's outputs, always of `room` samples, so that it meets one shape only: zeros fill it up."""
        x = samples[0][None] if room == 1 else np.zeros((room, *samples[0].shape), samples[0].dtype)
        if room > 1:
            np.stack(samples, out=x[: len(samples)])
        try:
            outputs = list(self._forwarded(x)[: len(samples)])
            self._works = True
            return outputs
        except Exception as error:
            if isinstance(error, MemoryError) and room > 1:
                raise
            if len(samples) == 1:
                return [self._without_traceback(error)]
        return [output for sample in samples for output in self._outputs((sample,), room)]

    def _forwarded(self, x: np.ndarray) -> np.ndarray:
        """What the network makes of a batch; one sample that memory has no room for is tried again, alone in it."""
        try:
            with self._turns:
                return self._timed(x)
        except MemoryError:
            if len(x) > 1:
                raise
        with self._alone, self._turns, self._turns:  # of `AT_ONCE` turns
            return self._timed(x)

    def _timed(self, x: np.ndarray) -> np.ndarray:
        """Run the network; what two threads spend in it at one time counts once."""
        since_s = time.perf_counter()
        try:
            return self._forward(x)
        finally:
            with self._counting:
                now_s = time.perf_counter()
                self.busy_s += now_s - max(since_s, self._until_s)
                self._until_s = now_s

    def _without_traceback(self, error: Exception) -> Exception:
        """The error of one sample; its traceback, which holds a batch, becomes a note."""
        log.warning("%s", error)
        error.add_note("".join(traceback.format_exception(error)))
        error.__traceback__ = error.__cause__ = error.__context__ = None
        self._failure = self._failure or (None if isinstance(error, NetworkError) else error)
        return error


def rows_of_clip(rows: ClipRows, chunks: Iterable[Chunk], forward: Forward, batch_size: int) -> FeatureFile:
    """The rows of one clip by itself; see `Network` for the network's arguments, `ClipRows` for what may be raised."""
    samples = ((None, *sample) for sample in rows.samples(chunks))
    for _, output in Network(forward, batch_size).run(samples):
        rows.receive(output)
    return rows.result()


@dataclass
class Clip:
    """A clip to be made: its key, its file and that file's version, its job, its rows while they are made."""

    key: str
    path: Path
    fingerprint: str = ""
    job: Any = None
    rows: ClipRows | None = None


class RepeatedError(RuntimeError):
    """Many clips failed alike: that is not theirs."""


@dataclass
class ClipRun(AbstractContextManager):
    """Goes through the clips of a stage, in a `with`. Either iterate over it, or have it `stream` rows, once.

    Whatever is raised about a clip is that clip's failure: its reason in the manifest, its traceback in `progress.log`.
    What is not (`helpers.store.reason_of`) ends the run, and what is done stays. `clips` has the index `key` and the
    column `path` below `cfg.data`. So far: `counts` of the manifest, `n_rows` that were made, `spent_s` by what was
    done, and the `monitor` of load and memory.
    """

    name: str
    clips: pd.DataFrame
    cfg: Parameters
    stage: Stage
    source: Source
    network: Network | None = None

    def __post_init__(self) -> None:
        twice = self.clips.index[self.clips.index.str.lower().duplicated()]
        if len(twice) and (self.stage.folder / "MANIFEST.JSON").exists():  # a file system that ignores case
            raise ValueError(f"{self.stage.folder} cannot tell {twice[0]} from a key in other case. Rename one.")
        self.counts = {"rows": 0, "invalid_rows": 0, "feature_dim": 0} if self.network else {}
        self.counts |= {"clips": len(self.clips), "made": 0, "failed": 0, "found": 0}
        self.n_rows, self.spent_s = 0, Clock()
        self._failed: dict[str, str] = {}  # reasons by key
        self._alike: dict[str, set[str]] = defaultdict(set)  # keys by the kind of reason
        self._n_begun = 0
        self._started_s = self._line_s = time.monotonic()
        self._open = ExitStack()
        bar = tqdm(total=len(self.clips), desc=self.name, disable=not self.cfg.progress, unit="clip")
        self._bar = self._open.enter_context(bar)
        self.monitor = self._open.enter_context(Monitor(self.network.device if self.network else ""))
        pool = ClipPool(self.source.work, workers=self.cfg.workers or cores(), patience_s=PATIENCE_S)
        self._pool = self._open.enter_context(pool)

    def __exit__(self, kind: object, *error: object) -> None:
        self._open.close()
        self._log_progress("stopped: " if kind else "done: ")

    def __iter__(self) -> Iterator[tuple[Clip, Iterator[Any]]]:
        """Every clip that is not done, with its chunks; `count` each, inside `of`."""
        return self._pool.run(self._tasks())

    @contextmanager
    def of(self, clip: Clip) -> Iterator[None]:
        """What is raised inside is the clip's failure, if it is not the run's."""
        try:
            yield
        except BaseException as error:
            self._fail(clip, error)

    def _tasks(self) -> Iterator[tuple[Clip, Any]]:
        for key, below in self.clips["path"].items():
            self._n_begun += 1
            clip = Clip(key, self.cfg.data / below)
            with self.of(clip):
                clip.fingerprint = self.source.fingerprint(clip.path, key)
                clip.job = self.source.job(clip.path, key, clip.fingerprint)
                if not (arrays := self.stage.done(key, clip.fingerprint)):
                    yield clip, clip.job
                    continue
                if self.network:
                    self._list(clip, features_of(arrays, self.stage.path(key)))
                self.count("found")

    def _fail(self, clip: Clip, error: BaseException) -> None:
        """Record a clip that cannot be used; raises what is the run's, and RepeatedError."""
        reason = reason_of(error, clip.path.name)
        if clip.key in self._failed:
            return
        self._failed[clip.key] = reason
        log.warning("%s: %s", clip.key, reason)
        self.stage.fail(clip.key, reason)
        self.count("failed")
        if not isinstance(error, ClipError):
            self._log(f"{clip.key}: {reason}\n{''.join(part[:2000] for part in traceback.format_exception(error))}")
        if not isinstance(error, AbsentError):
            self._check_repeated(clip.key, kind_of(reason))

    def _check_repeated(self, key: str, kind: str) -> None:
        """Raise RepeatedError where too many clips have failed alike."""
        alike = self._alike[kind]
        alike.add(key)
        is_half = self._n_begun >= LEAST and 2 * len(alike) >= self._n_begun
        if is_half or (len(alike) >= FIRST and alike.issuperset(self.clips.index[:FIRST])):
            raise RepeatedError(
                f"{len(alike)} of the first {self._n_begun} clips failed alike: {kind}. This is rarely their fault: "
                "remove the cause and run the same command, or take such clips out of the folder."
            ) from None

    def stream(self) -> None:
        """Read, compute and write all clips at once, each with its last row."""
        with closing(self.network.run(self._samples())) as outputs:
            for clip, output in outputs:
                with self.of(clip):
                    clip.rows.receive(output)
                    self._write_if_complete(clip)
        self.spent_s["network"] = self.network.busy_s

    def _samples(self) -> Iterator[Sample]:
        """Of all clips, one after the other; the owner of one is its clip."""
        for clip, chunks in self:
            with self.of(clip):
                clip.rows = self.source.rows(clip.job)
                for sample, n_rows in clip.rows.samples(chunks):
                    yield clip, sample, n_rows
                self._write_if_complete(clip)

    def _write_if_complete(self, clip: Clip) -> None:
        if clip.rows.complete:
            self.spent_s.update(clip.rows.spent_s)
            made = clip.rows.result()
            with self.spent_s("writing"):
                self.stage.write(clip.key, made, clip.fingerprint)
            self._list(clip, made)
            self.count("made", len(made.valid))

    def _list(self, clip: Clip, rows: FeatureFile) -> None:
        """Count a clip's rows, and record those that cannot be used."""
        for row, reason in self.source.rows(clip.job).why_invalid(rows).items():
            self.stage.fail(clip.key, reason, row)
            self.counts["invalid_rows"] += 1
        self.counts |= {"rows": self.counts["rows"] + len(rows.valid), "feature_dim": rows.features.shape[1]}

    def finish(self) -> dict[str, int]:
        """Remove what failed clips have left, list them in the order of all, say how many; the manifest's counts."""
        for key in self._failed:
            with suppress(OSError, ValueError):  # no file, a folder, a name that no file can have
                self.stage.path(key).unlink()
        order = {key: place for place, key in enumerate(self.clips.index)}
        self.stage.failed.sort(key=lambda entry: order[entry["clip"]])
        line = "%s: {made} of {clips} clips made, {found} found, {failed} left out (%s): see %s".format(**self.counts)
        log.info(line, self.name, by_kind(self._failed.values()), self.stage.folder / "manifest.json")
        return self.counts

    def count(self, became: str, n_rows: int = 0) -> None:
        """Count a clip that was "made", has "failed", or was "found"."""
        self.counts[became] += 1
        self.n_rows += n_rows
        self._bar.update()
        if time.monotonic() - self._line_s >= LINE_S:
            self._log_progress()

    def _log_progress(self, what: str = "") -> None:
        self._line_s = time.monotonic()
        elapsed_s, found = max(self._line_s - self._started_s, 1e-9), self.counts["found"]
        n, n_done = self.counts["clips"], found + self.counts["made"] + self.counts["failed"]
        facts = [what + tqdm.format_meter(n_done, n, elapsed_s, initial=found, unit="clip", bar_format=LINE)]
        if self.network:
            facts.append(f"{self.n_rows / elapsed_s:.1f} rows/s, network {self.network.busy_s / elapsed_s:.0%}")
        self._log(", ".join([*facts, self.monitor.in_words()]))

    def _log(self, text: str) -> None:
        line = f"{self.name}: {text}".encode(errors="backslashreplace").decode()  # names may hold what is no text
        log.info("%s", line)
        with suppress(OSError), open(self.cfg.out / "progress.log", "a", encoding="utf-8") as file:  # no run ends here
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")
