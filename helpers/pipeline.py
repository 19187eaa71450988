"""One way from clips to rows: decoder processes, fixed batches across clips, rows back to their clips, files.

In: the table of clips, what decoder processes do with each, and a stage's folder. Out: a file per clip, and the counts
of the manifest. Decoding, the network and writing go on at the same time, and memory does not grow with the number of
clips. What cannot be used is recorded with its reason and the run goes on; what is done is not done again.
"""

import logging
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from helpers.config import Parameters
from helpers.crops import Chunk, Clock
from helpers.device import device_scope
from helpers.failures import ClipError, RepeatedError, by_kind, kind_of, reason_of
from helpers.forward import Forward, NetworkError
from helpers.rows import ClipRows
from helpers.store import FeatureFile, Stage, clip_stamp, read_features
from helpers.workers import ClipPool, cores

log = logging.getLogger(__name__)

NOT_DECISIVE = ("data_dir", "out_dir", "limit", "progress", "batch_size", "workers", "device")  # for files
PATIENCE_S = 1800.0  # without a chunk or a sign of life: 02 gives one at every look, but none while a file is opened
AT_ONCE = 2  # batches in the network, where memory suffices for both; one more waits for it
WAITING_BYTES = 256 * 2**20  # of samples in unfilled batches; there are several where clips differ in length
FIRST, LEAST = 20, 40  # clips that end a run if all of the first, or half of at least so many, fail alike
LINE_S = 60.0  # between two lines in the log
LINE = "{n_fmt} of {total_fmt} clips in {elapsed}, {remaining} left, {rate_fmt}{postfix}"

Kind = tuple[tuple[int, ...], np.dtype, int]  # shape and type of a sample, and its rows: what fits into one batch


class Network:
    """Runs a network over samples in batches of one shape; two batches are in it while the next one is filled.

    No result depends on what else is in its batch. All batches of a kind have the size of the first, so that nothing is
    compiled twice. When memory does not suffice for a batch, half of it is tried, and kept to from then on; a single
    sample, with no other batch beside it. Where the network fails, the samples of the batch are run one by one.

    Attributes:
        batch_size: Rows at once; less after memory has run out. A sample of more rows is a batch by itself.
        device: Where it runs; empty leaves the choice to the backend.
        busy_s: Seconds that the network has worked so far, on one batch or on two.
    """

    def __init__(self, forward: Forward, batch_size: int, device: str = "") -> None:
        """Take a compiled network, (B, ...) to (B, ...), and what `helpers.device.use_device` gave."""
        self.batch_size, self.device, self.busy_s, self._forward = batch_size, device, 0.0, forward
        self._sizes: dict[Kind, int] = {}  # samples in a batch of each kind, known with its first
        self._turns, self._alone = Semaphore(AT_ONCE), Lock()
        self._counting, self._until_s = Lock(), 0.0  # up to when `busy_s` counts
        self._works, self._failure = False, None  # whether any sample went through, and the first error of another kind

    def run(self, samples: Iterable[tuple[Any, np.ndarray, int]]) -> Iterator[tuple[Any, np.ndarray | Exception]]:
        """Run the network over all samples: (owner, what the network takes without the axis of the batch, its rows).

        Yields:
            Each owner with the network's output, or why it failed, some batches later; of one kind in order.

        Raises:
            Exception: At the end, where not one sample went through, what the network raised if it was no NetworkError:
                then it is the network's fault, or memory is too small for it (MemoryError).
        """
        running: deque[Future] = deque()
        threads = ThreadPoolExecutor(AT_ONCE, "network")
        try:
            for kind, batch in self._batches(samples):
                while running and (len(running) > AT_ONCE or running[0].done()):
                    yield from running.popleft().result()
                self._sizes.setdefault(kind, len(batch))
                running.append(threads.submit(self._run, batch, kind))
            while running:
                yield from running.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)
        if self._failure and not self._works:
            raise self._failure

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

    def _run(self, batch: list[tuple], kind: Kind) -> list[tuple[Any, np.ndarray | Exception]]:
        """What the network says about every sample; where memory does not suffice, of half as many at a time."""
        n_rows, (owners, samples) = kind[-1], zip(*batch, strict=True)
        room = min(self._sizes[kind], max(1, self.batch_size // n_rows))  # less, if memory has run out since
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
                log.warning("%s", error)
                error.add_note("".join(traceback.format_exception(error)))  # as text, since the traceback holds a batch
                error.__traceback__ = error.__cause__ = error.__context__ = None
                self._failure = self._failure or (None if isinstance(error, NetworkError) else error)
                return [error]
        return [output for sample in samples for output in self._outputs((sample,), room)]

    def _forwarded(self, x: np.ndarray) -> np.ndarray:
        """What the network makes of a batch; where memory has no room for one sample, without others beside it."""
        for turns in (1, AT_ONCE):
            try:
                with self._inside_it(turns):
                    return self._forward(x)
            except MemoryError as error:
                if len(x) > 1:
                    raise
                failure = MemoryError(f"{error} Not even one at a time fits into memory.")
        raise failure

    @contextmanager
    def _inside_it(self, turns: int) -> Iterator[None]:
        """Take so many of the network's `AT_ONCE` turns, and count the time inside, once where it is two threads'."""
        with self._alone if turns > 1 else nullcontext():
            for _ in range(turns):
                self._turns.acquire()
        since_s = time.perf_counter()
        try:
            yield
        finally:
            self._turns.release(turns)
            with self._counting:
                now_s = time.perf_counter()
                self.busy_s += now_s - max(since_s, self._until_s)
                self._until_s = now_s


def rows_of_clip(clip: ClipRows, chunks: Iterable[Chunk], forward: Forward, batch_size: int) -> FeatureFile:
    """The rows of one clip by itself; see `Network` for the network's arguments, `ClipRows` for what may be raised."""
    for place, output in Network(forward, batch_size).run(clip.samples(chunks)):
        clip.receive(place, output)
    return clip.result()


class Work(NamedTuple):
    """What is done with every clip of a stage: `function` runs in the decoder processes and gives a job's chunks; `job`
    makes of path, key and stamp of a clip its job, and what stays here, `Clip.kept`; `stamp` gives the version.
    """

    function: Callable[[Any], Iterator[Any]]
    job: Callable[[Path, str, str], tuple[Any, Any]]
    stamp: Callable[[Path, str], str] = lambda path, key: clip_stamp(path)


class Clip(NamedTuple):
    """A clip to be made: its key, its file and that file's version, and what its rows are made with besides chunks."""

    key: str
    path: Path
    stamp: str
    kept: Any = None


@dataclass
class ClipRun(AbstractContextManager):
    """Goes through the clips of a stage; used as `with`. Either iterate over it, or have it `stream` rows, once.

    Whatever is raised about a clip is that clip's failure: its reason in the manifest, its traceback in `progress.log`.
    What is not (`helpers.failures.reason_of`) ends the run, and what is done stays.

    Attributes:
        clips: Index `key`, column `path` below `cfg.data`.
        stage, work, network: Where the clips' files go, what is done with them, what their rows go through.
        usage: Gives words about memory and load for the log, such as `Monitor.in_words`.
        on_rows: Gets the key, the rows and `Clip.kept` of every clip, also where they were there already.
        counts, n_rows, spent_s: Clips of the manifest, rows that were made, and seconds by what was done, so far.
    """

    name: str
    clips: pd.DataFrame
    cfg: Parameters
    stage: Stage
    work: Work
    network: Network | None = None
    usage: Callable[[], str] = str
    on_rows: Callable[[str, FeatureFile, Any], None] | None = None

    def __post_init__(self) -> None:
        self.counts = {"clips": len(self.clips), "made": 0, "failed": 0, "found": 0}
        self.n_rows, self.spent_s = 0, Clock()
        self._failed: dict[str, str] = {}  # reasons by key
        self._alike: dict[str, set[str]] = defaultdict(set)  # keys by the kind of reason
        self._n_begun = 0
        self._names: dict[str, str] = {}  # of files, as the file system distinguishes them, and whose each is
        self._bar = tqdm(total=len(self.clips), desc=self.name, disable=not self.cfg.progress, unit="clip")
        self._started_s = self._line_s = time.monotonic()
        self._pool = ClipPool(self.work.function, workers=self.cfg.workers or cores(), patience_s=PATIENCE_S)

    def __exit__(self, kind: object, *error: object) -> None:
        self._pool.__exit__(kind, *error)
        self._bar.close()
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
            clip = Clip(key, self.cfg.data / below, "missing")
            with self.of(clip):
                if (other := self._names.setdefault(self.stage.name_of(key), key)) != key:
                    raise ClipError(f"its file would take the place of that of {other}. Rename one of the two.")
                clip = clip._replace(stamp=self.work.stamp(clip.path, key))
                job, kept = self.work.job(clip.path, key, clip.stamp)  # also where it could be used when it was done
                if not self.stage.done(key, clip.stamp):
                    yield clip._replace(kept=kept), job
                    continue
                if self.on_rows:
                    self.on_rows(key, read_features(self.stage.path(key)), kept)
                self.count("found")

    def _fail(self, clip: Clip, error: BaseException) -> None:
        """Record a clip that cannot be used; raises what is the run's, and RepeatedError."""
        reason = reason_of(error, clip.path.name)
        if clip.key in self._failed:
            return
        self._failed[clip.key] = reason
        log.warning("%s: %s", clip.key, reason)
        if not isinstance(error, ClipError):
            self._log(f"{clip.key}: {reason}\n{''.join(part[:2000] for part in traceback.format_exception(error))}")
        self.stage.fail(clip.key, reason)
        self.count("failed")
        alike = self._alike[kind_of(reason)]
        alike.add(clip.key)
        is_half = self._n_begun >= LEAST and 2 * len(alike) >= self._n_begun
        if is_half or (len(alike) >= FIRST and alike.issuperset(self.clips.index[:FIRST])):
            raise RepeatedError(
                f"{len(alike)} of the first {self._n_begun} clips failed alike: {kind_of(reason)}. This is rarely the "
                "clips' fault: look for the cause, remove it and run the same command; or take such clips out of the "
                "folder."
            ) from None

    def stream(self, rows_of: Callable[[Any], ClipRows]) -> None:
        """Read, compute and write all clips at once, each with its last row; `rows_of` makes them of `Clip.kept`."""
        with closing(self.network.run(self._samples(rows_of))) as outputs:
            for (clip, rows, place), output in outputs:
                with self.of(clip):
                    rows.receive(place, output)
                    self._write_if_complete(clip, rows)
        self.spent_s["network"] = self.network.busy_s

    def _samples(self, rows_of: Callable[[Any], ClipRows]) -> Iterator[tuple[Any, np.ndarray, int]]:
        """Of all clips, one after the other; the owner of one is its clip, the clip's rows, and its place in them."""
        for clip, chunks in self:
            with self.of(clip):
                rows = rows_of(clip.kept)
                for place, sample, n_rows in rows.samples(chunks):
                    yield (clip, rows, place), sample, n_rows
                self._write_if_complete(clip, rows)

    def _write_if_complete(self, clip: Clip, rows: ClipRows) -> None:
        if rows.complete:
            self.spent_s.update(rows.spent_s)
            made = rows.result()
            with self.spent_s("writing"):
                self.stage.write(clip.key, made, clip.stamp)
            if self.on_rows:
                self.on_rows(clip.key, made, clip.kept)
            self.count("made", len(made.valid))

    def finish(self) -> dict[str, int]:
        """Remove what failed clips have left, list them in the order of all, say how many; the manifest's counts."""
        for key in self._failed:
            if self._names.get(self.stage.name_of(key)) == key:
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
        self._bar.set_postfix_str(self._speed(), refresh=False)
        self._bar.update()
        if time.monotonic() - self._line_s >= LINE_S:
            self._line_s = time.monotonic()
            self._log_progress()

    def _speed(self) -> str:
        if not self.network:
            return ""
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        return f"{self.n_rows / elapsed_s:.1f} rows/s, network {self.network.busy_s / elapsed_s:.0%}"

    def _log_progress(self, what: str = "") -> None:
        n, *done = self.counts.values()
        how = {"initial": self.counts["found"], "unit": "clip", "bar_format": LINE}
        postfix = ", ".join(filter(None, [self._speed(), self.usage()]))
        self._log(what + tqdm.format_meter(sum(done), n, time.monotonic() - self._started_s, postfix=postfix, **how))

    def _log(self, text: str) -> None:
        line = f"{self.name}: {text}".encode(errors="backslashreplace").decode()  # names may hold what is no text
        log.info("%s", line)
        with suppress(OSError), open(self.cfg.out / "progress.log", "a", encoding="utf-8") as file:  # no run ends here
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")
