"""A pool of decoder processes: the pieces of many clips in order, prepared ahead of need, with bounded memory.

In: an importable generator function, and tasks (key, argument). Out: for each key the pieces that the function yields,
whatever pickles. Notebooks and scripts need no guard, since workers run nothing of the main script; a worker imports
what the function's module imports, which should not be TensorFlow. The processes are those of `helpers.workers`.
"""

import json
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

READY, PIECE, ALIVE, END, ERROR = range(5)  # kinds of message from a worker
CLIP, STOP = range(5, 7)  # and to it; the first CLIP is the work itself
HEADER = "<BI"
COMMAND = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from helpers.workers import serve; serve()"
START_S = 120.0  # what a start may take: imports from a cold network disk
EXIT_S = 5.0  # a process that closed its pipe has ended within this, or is killed

KEEP_MEMORY = {  # glibc returns large blocks to the system at once: the next ones cost a decoder a quarter of its time
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20),
}
ONE_THREAD = {  # for processes whose figures may depend neither on their number nor on the machine's cores
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_DETERMINISTIC_OPS": "1",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}


class WorkerError(RuntimeError):
    """An error in a worker that could not be carried over as it was; the message is its type and text."""


class WorkerCrashed(WorkerError):
    """The process ended while it worked on the clip; the message says with which signal or status."""


class WorkerHung(WorkerError):
    """The process gave nothing for as long as the caller's patience lasts, and was killed."""


def cores() -> int:
    """Cores that this process may use: its affinity, within the limit of its control group (containers, SLURM)."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    usable = len(affinity(0)) if affinity else os.cpu_count() or 1
    shares = [_read_numbers("cpu.max"), _read_numbers("cpu/cpu.cfs_quota_us") + _read_numbers("cpu/cpu.cfs_period_us")]
    limits = [quota // period for quota, period in (share for share in shares if len(share) == 2) if quota > 0]
    return max(1, min([usable, *limits]))


def _read_numbers(name: str) -> list[int]:
    """Microseconds in a control group's file (version 2, then 1); none where it is missing or says "max"."""
    with suppress(OSError, ValueError):
        return [int(word) for word in Path("/sys/fs/cgroup", name).read_text().split()]
    return []


class WorkerProcess:
    """A decoder process as its parent sees it.

    A fresh interpreter, not a fork (the parent may hold TensorFlow), in a session of its own, so that Ctrl-C in a
    terminal does not reach it. It runs nothing of the main script. Its standard error is the parent's.

    Args:
        pickled_work: The pickled generator function.
        patience_s: Seconds that it may take for a message, once it is ready, before `check_patience` kills it.
    """

    def __init__(self, pickled_work: bytes, patience_s: float) -> None:
        self._pickled_work, self._clip_patience_s = pickled_work, patience_s
        self._patience_s = START_S
        self._waiting_since_s: float | None = None  # None while it is the parent that takes its time
        self._hung = False
        self._process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, json.dumps([os.path.abspath(path) for path in sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**KEEP_MEMORY, **os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def await_ready(self) -> str | None:
        """Hand over the work and wait until its module is imported; returns what went wrong, if so."""
        try:
            self.send(CLIP, [self._pickled_work])
            kind, sizes = self.receive_sizes()
            parts = self.receive_parts(sizes)
        except (EOFError, OSError):
            return str(self.end())
        self._patience_s = self._clip_patience_s
        return None if kind == READY else repr(pickle.loads(parts[0]))

    def is_usable(self) -> bool:
        return self._process.poll() is None and not self._hung

    def send(self, kind: int, parts: Sequence[Any] = ()) -> None:
        """See the function `send`; OSError when the process is gone."""
        with self._timed():
            send(self._process.stdin, kind, parts)

    def receive_sizes(self) -> tuple[int, list[int]]:
        """See the function `receive_sizes`."""
        with self._timed():
            return receive_sizes(self._process.stdout)

    def receive_parts(self, sizes: list[int]) -> list[np.ndarray]:
        """See the function `receive_parts`."""
        with self._timed():
            return receive_parts(self._process.stdout, sizes)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        self._waiting_since_s = time.monotonic()
        try:
            yield
        finally:
            self._waiting_since_s = None

    def check_patience(self) -> float:
        """Kill the process if it is overdue, from any thread; returns the seconds until the next look."""
        since_s = self._waiting_since_s
        if since_s is None or self._hung:
            return self._patience_s
        left_s = since_s + self._patience_s - time.monotonic()
        if left_s <= 0:
            self._hung = True
            self.kill()
        return max(left_s, 0.01)

    def kill(self) -> None:
        """End it at once, from any thread."""
        self._process.kill()

    def end(self, wait_s: float = EXIT_S) -> WorkerError:
        """Wait until it has ended by itself or kill it, and say what became of it."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(wait_s)
        self._process.kill()
        status = self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        if self._hung:
            return WorkerHung(f"the decoder process gave nothing for {self._patience_s:g} s and was killed")
        if status >= 0:
            return WorkerCrashed(f"the decoder process ended with exit status {status}")
        name = next((known.name for known in signal.Signals if known == -status), "unknown")
        cause = ": often want of memory" if name == "SIGKILL" else ""
        return WorkerCrashed(f"the decoder process stopped with signal {-status} ({name}){cause}")


def send(pipe: FileIO, kind: int, parts: Sequence[Any] = ()) -> None:
    """Write a message; `parts` are bytes or flat memoryviews of bytes."""
    sizes = [memoryview(part).nbytes for part in parts]
    for part in (struct.pack(f"{HEADER}{len(parts)}Q", kind, len(parts), *sizes), *parts):
        view = memoryview(part)
        while view:
            view = view[pipe.write(view) :]


def receive_sizes(pipe: FileIO) -> tuple[int, list[int]]:
    """Wait for a message and read its kind and the sizes of its parts in bytes; EOFError when the other end is gone."""
    kind, n_parts = struct.unpack(HEADER, _read(pipe, struct.calcsize(HEADER)))
    return kind, list(struct.unpack(f"<{n_parts}Q", _read(pipe, 8 * n_parts)))


def receive_parts(pipe: FileIO, sizes: list[int]) -> list[np.ndarray]:
    """Read the parts whose sizes `receive_sizes` gave: uint8 (size,) each, memory of their own."""
    return [_read(pipe, size) for size in sizes]


def _read(pipe: FileIO, size: int) -> np.ndarray:
    buffer = np.empty(size, np.uint8)  # unlike a bytearray not filled with zeros first
    view = memoryview(buffer)
    while view:
        count = pipe.readinto(view)
        if not count:
            raise EOFError
        view = view[count:]
    return buffer


def serve() -> None:
    """Answer clips until the pool is gone: all that a decoder process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    cv2.setNumThreads(1)  # the processes share the cores already
    incoming, outgoing = _take_pipes()
    inbox, stop = queue.SimpleQueue(), threading.Event()
    threading.Thread(target=_listen, args=(incoming, inbox, stop), daemon=True).start()
    with suppress(OSError):  # a broken pipe: the parent is gone
        try:
            work = pickle.loads(inbox.get())
        except Exception as error:
            send(outgoing, ERROR, [_dump_error(error)])
            return
        send(outgoing, READY)
        while True:
            for kind, parts in _answer(work, inbox.get(), stop):
                send(outgoing, kind, parts)


def _take_pipes() -> tuple[FileIO, FileIO]:
    """Standard input and output, under other numbers: what `work` prints must not end up among the messages."""
    incoming, outgoing = FileIO(os.dup(0), "r"), FileIO(os.dup(1), "w")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return incoming, outgoing


def _listen(incoming: FileIO, inbox: queue.SimpleQueue, stop: threading.Event) -> None:
    """Take messages while the work goes on; the end of them is the end of the parent, however it died, and so ours."""
    try:
        while True:
            kind, sizes = receive_sizes(incoming)
            parts = receive_parts(incoming, sizes)
            if kind == STOP:
                stop.set()
            else:
                stop.clear()  # it was meant for the clip before
                inbox.put(parts[0])
    finally:
        os._exit(0)


def _answer(work: Callable[[Any], Iterator[Any]], request: np.ndarray, stop: threading.Event) -> Iterator[tuple]:
    """The messages (kind, parts) about one clip; the last is END or ERROR."""
    try:
        for piece in work(pickle.loads(request)):
            if stop.is_set():
                break
            if piece is None:
                yield ALIVE, []
                continue
            arrays = []
            pickled = pickle.dumps(piece, protocol=5, buffer_callback=arrays.append)
            yield PIECE, [pickled, *(array.raw() for array in arrays)]
    except Exception as error:
        yield ERROR, [_dump_error(error)]
    else:
        yield END, []


def _dump_error(error: Exception) -> bytes:
    """Pickle an error, with the worker's traceback as a note; as WorkerError where it would not come out the same.

    So does a want of memory: here it costs one clip, while a MemoryError is one of the parent, which ends the run.
    """
    note = f"In the decoder process:\n{''.join(traceback.format_exception(error))}"
    if isinstance(error, MemoryError):
        error = WorkerError(f"no memory: {error}".removesuffix(": "))
    with suppress(Exception):
        error.add_note(note)
        pickled = pickle.dumps(error)
        copy = pickle.loads(pickled)
        if type(copy) is type(error) and str(copy) == str(error):
            return pickled
    stand_in = WorkerError(f"{type(error).__name__}: {error}")
    stand_in.add_note(note)
    return pickle.dumps(stand_in)


MAX_STARTS = 3  # processes that may end before they are ready, one after the other, until the pool gives up


@dataclass(eq=False)
class _Clip:
    """A clip on its way: `pieces` wait as (bytes, piece); `n_bytes` is the room they and the next one take."""

    key: Any
    request: Any
    pieces: deque[tuple[int, Any]] = field(default_factory=deque)
    n_bytes: int = 0
    error: Exception | None = None
    ended: bool = False
    dropped: bool = False


class ClipPool:
    """Worker processes that run `work` over clips while the caller uses the pieces of an earlier one.

    At most `ahead_bytes` wait in this process, or one piece where that alone is larger; a worker holds the piece it
    sends and the one it makes. A worker that fails costs the clip it is at; a new process takes the next.

    Args:
        work: Takes an argument, yields pieces; at the top level of a module, not of the main script. What it raises
            is raised from the clip's pieces. None, yielded now and then, is a sign of life and no piece.
        workers: Processes, started with the first clips; 0 works in this process, with nothing prepared ahead.
        ahead_clips: Clips that may be begun beyond the one whose turn it is.
        ahead_bytes: Bytes of pieces that may wait.
        patience_s: Seconds of silence that make a worker count as hung; noticed while the caller waits.
    """

    def __init__(
        self,
        work: Callable[[Any], Iterator[Any]],
        *,
        workers: int,
        ahead_clips: int = 4,
        ahead_bytes: int = 256 * 2**20,
        patience_s: float = 600.0,
    ) -> None:
        if workers < 0 or ahead_clips < 0:
            raise ValueError(f"workers and ahead_clips must be at least 0, got {workers} and {ahead_clips}.")
        if ahead_bytes < 1 or not 0 < patience_s <= threading.TIMEOUT_MAX:
            raise ValueError(f"ahead_bytes and patience_s must be above 0, got {ahead_bytes} and {patience_s}.")
        self._work, self._pickled_work = work, _pickle_work(work) if workers else b""
        self._workers, self._ahead_clips = workers, ahead_clips if workers else 0
        self._ahead_bytes, self._patience_s = ahead_bytes, patience_s
        self._desk, self._lanes = None, []

    def __enter__(self) -> "ClipPool":
        self._desk = _Desk(self._ahead_bytes)
        self._lanes = [_Lane(self._desk, self._pickled_work, self._patience_s) for _ in range(self._workers)]
        for lane in self._lanes:
            lane.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers, busy or not, and wait until they are gone."""
        self._desk.fail(RuntimeError("a ClipPool must be open while its pieces are used. Use them inside `with`."))
        for lane in self._lanes:
            lane.kill()
        for lane in self._lanes:
            lane.join()

    def run(self, tasks: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Iterator[Any]]]:
        """Work on all tasks; one `run` at a time.

        Args:
            tasks: (key, argument) of each clip; taken from in this thread, the next clip and `ahead_clips` more.

        Yields:
            (key, pieces) in the order of tasks. What is left of `pieces` is dropped when the next clip is asked for.

        Raises:
            RuntimeError: the pool is not open, or no worker can be started. `pieces` raise what `work` raises, or
                WorkerError where that does not pickle, WorkerCrashed and WorkerHung.
        """
        desk, tasks, begun = self._desk, iter(tasks), deque()
        if desk is None or desk.running:
            raise RuntimeError("a ClipPool must be open, with no other run going on. Use it as `with ClipPool(...)`.")
        if desk.failure:
            raise desk.failure
        desk.running = True
        try:
            while True:
                for key, argument in islice(tasks, 1 + self._ahead_clips - len(begun)):
                    begun.append(_Clip(key, pickle.dumps(argument) if self._workers else argument))
                    desk.add(begun[-1])
                if not begun:
                    return
                desk.serve(begun[0])
                yield begun[0].key, (self._pieces if self._workers else self._pieces_here)(desk, begun[0])
                desk.drop(begun.popleft())
        finally:
            desk.running = False
            for clip in begun:
                desk.drop(clip)

    def _pieces(self, desk: "_Desk", clip: _Clip) -> Iterator[Any]:
        while piece := desk.next_piece(clip, lambda: min(lane.check_patience() for lane in self._lanes)):
            yield piece.pop()  # so that it is not held here while the next one is waited for

    def _pieces_here(self, desk: "_Desk", clip: _Clip) -> Iterator[Any]:
        for piece in self._work(clip.request):
            desk.check_served(clip)
            if piece is not None:
                yield piece


def _pickle_work(work: Callable[[Any], Iterator[Any]]) -> bytes:
    if getattr(work, "__module__", None) == "__main__":
        raise ValueError(f"work must be in a module that workers can import, got {work!r}. Move it to one.")
    try:
        return pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"work must be a function at the top level of a module, got {work!r} ({error}).") from None


class _Desk:
    """What the caller's thread and the lanes share: the clips to begin and the room for pieces, under one lock."""

    def __init__(self, ahead_bytes: int) -> None:
        self.changed = threading.Condition()
        self.failure: Exception | None = None  # why no clip can be worked on any more
        self.running = False
        self._ahead_bytes, self._held_bytes = ahead_bytes, 0
        self._to_begin: deque[_Clip] = deque()
        self._served: _Clip | None = None  # whose turn it is

    def add(self, clip: _Clip) -> None:
        with self.changed:
            self._to_begin.append(clip)
            self.changed.notify_all()

    def begin(self) -> _Clip | None:
        """Wait for the next clip to begin, in order, so that the one whose turn it is never waits behind another."""
        with self.changed:
            self.changed.wait_for(lambda: self._to_begin or self.failure)
            return None if self.failure else self._to_begin.popleft()

    def serve(self, clip: _Clip) -> None:
        with self.changed:
            self._served = clip
            self.changed.notify_all()

    def reserve(self, clip: _Clip, n_bytes: int) -> bool:
        """Wait until a piece may be read; False if nobody wants it. The clip whose turn it is may always have one."""

        def has_room() -> bool:
            starving = clip is self._served and not clip.pieces
            return starving or clip.dropped or self.failure or self._held_bytes + n_bytes <= self._ahead_bytes

        with self.changed:
            self.changed.wait_for(has_room)
            if not clip.dropped:
                self._hold(clip, n_bytes)
            return not clip.dropped

    def deliver(self, clip: _Clip, n_bytes: int, piece: Any) -> None:
        with self.changed:
            if not clip.dropped:
                clip.pieces.append((n_bytes, piece))
                self.changed.notify_all()

    def end(self, clip: _Clip, error: Exception | None) -> None:
        with self.changed:
            clip.ended, clip.error = True, error
            self.changed.notify_all()

    def next_piece(self, clip: _Clip, wait_s: Callable[[], float]) -> list[Any]:
        """Wait for a piece of the clip, at most `wait_s()` seconds at a time: [piece], or [] after the last one."""
        with self.changed:
            while not (clip.pieces or clip.ended):
                self.check_served(clip)
                self.changed.wait(wait_s())
            self.check_served(clip)
            if clip.pieces:
                n_bytes, piece = clip.pieces.popleft()
                self._hold(clip, -n_bytes)
                return [piece]
            if clip.error:
                raise clip.error
            return []

    def check_served(self, clip: _Clip) -> None:
        if self.failure:
            raise self.failure
        if clip.dropped:
            raise RuntimeError(f"the pieces of {clip.key} must be used before the next clip is asked for.")

    def drop(self, clip: _Clip) -> None:
        with self.changed:
            clip.dropped = True
            clip.pieces.clear()
            self._hold(clip, -clip.n_bytes)
            with suppress(ValueError):
                self._to_begin.remove(clip)

    def fail(self, failure: Exception) -> None:
        with self.changed:
            self.failure = self.failure or failure
            self.changed.notify_all()

    def _hold(self, clip: _Clip, n_bytes: int) -> None:
        clip.n_bytes += n_bytes
        self._held_bytes += n_bytes
        self.changed.notify_all()


class _Lane(threading.Thread):
    """A thread that keeps one worker busy; it waits without the GIL, and unpickling takes it microseconds."""

    def __init__(self, desk: _Desk, pickled_work: bytes, patience_s: float) -> None:
        super().__init__(daemon=True)
        self._desk, self._pickled_work, self._patience_s = desk, pickled_work, patience_s
        self._worker: WorkerProcess | None = None

    def run(self) -> None:
        try:
            while clip := self._desk.begin():
                self._start_worker()
                self._desk.end(clip, self._work_on(clip))
        except Exception as error:  # whatever it is, the caller must not wait for ever, nor blame a clip
            reason = f"the pool must keep its workers, but {type(error).__name__}: {error}"
            self._desk.fail(error if isinstance(error, RuntimeError) else RuntimeError(reason))
        finally:
            if self._worker:
                self._worker.end(wait_s=0)

    def kill(self) -> None:
        with self._desk.changed:
            if self._worker:
                self._worker.kill()

    def check_patience(self) -> float:
        return self._worker.check_patience() if self._worker else self._patience_s

    def _start_worker(self) -> None:
        """Make sure that there is one; RuntimeError when several in a row end before they can work."""
        if self._worker and self._worker.is_usable():
            return
        for _ in range(MAX_STARTS):
            if self._worker:
                self._worker.end(wait_s=0)
            with self._desk.changed:  # so that the pool cannot close between the look and the start
                if self._desk.failure:
                    raise self._desk.failure
                self._worker = WorkerProcess(self._pickled_work, self._patience_s)
            reason = self._worker.await_ready()
            if reason is None:
                return
        raise RuntimeError(
            f"a decoder process must start, but {MAX_STARTS} in a row did not: {reason}. "
            "Its standard error may say more; workers=0 does the work without it."
        )

    def _work_on(self, clip: _Clip) -> Exception | None:
        try:
            self._worker.send(CLIP, [clip.request])
            return self._relay(clip)
        except (EOFError, OSError):  # the pipe is broken
            return self._worker.end()
        except Exception as error:  # of this process: no memory for a piece, or a class that is unknown here
            self._worker.end(wait_s=0)
            return error

    def _relay(self, clip: _Clip) -> Exception | None:
        """Pass the pieces on; returns the error that the clip ended with."""
        stopped = False
        while True:
            kind, sizes = self._worker.receive_sizes()
            wanted = kind not in (PIECE, ALIVE) or self._desk.reserve(clip, sum(sizes))
            if not wanted and not stopped:
                self._worker.send(STOP)
                stopped = True
            parts = self._worker.receive_parts(sizes)
            if kind in (END, ERROR):
                return pickle.loads(parts[0]) if kind == ERROR else None
            if kind == PIECE:
                self._desk.deliver(clip, sum(sizes), pickle.loads(parts[0], buffers=parts[1:]))
            del parts  # their memory is the piece's: it must not live longer than that
