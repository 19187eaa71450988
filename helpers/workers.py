"""A pool of decoder processes: the chunks of many clips in order, prepared ahead of need, with bounded memory.

In: an importable generator function, and tasks (key, argument). Out: for each key the chunks that the function yields,
whatever pickles. Scripts and notebooks need no guard, since workers run nothing of the main script; a worker imports
what the function's module imports, which should not be TensorFlow.

The pools of libraries give one result per task and limit its whole time; a long video must come in chunks, and end by
silence. A message between the processes is a kind, the number of its parts, their sizes in bytes, and the parts: a
chunk is pickled with its arrays beside it, which cross the pipe into the memory where they stay.
"""

import json
import os
import pickle
import queue
import select
import signal
import struct
import subprocess
import sys
import threading
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

READY, CHUNK, END, REQUEST = range(4)  # kinds of message; the last one goes to a worker
HEADER = "<BI"
COMMAND = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from helpers.workers import serve; serve()"
START_S = 120.0  # what a start may take: imports from a cold network disk
EXIT_S = 5.0  # a process that closed its pipe has ended within this, or is killed
MAX_STARTS = 3  # processes that may end before they are ready, one after the other, until the pool gives up

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


@dataclass(eq=False)
class _Clip:
    """A clip on its way, and those of its chunks that wait, as (bytes, chunk)."""

    key: Any
    request: Any
    chunks: deque[tuple[int, Any]] = field(default_factory=deque)
    error: Exception | None = None
    ended: bool = False
    dropped: bool = False


class ClipPool:
    """Worker processes that run `work` over clips while the caller uses the chunks of an earlier one.

    At most `ahead_bytes` wait in this process, or one chunk of each clip where that is more; beside them there are up
    to three per worker: received, being sent, being made. A worker that fails costs the clip it is at; a new process
    takes the next. A thread per worker hands over the clips, in order, and takes the chunks.

    Args:
        work: Takes an argument, yields chunks; at the top level of a module, not of the main script. What it raises
            is raised from the clip's chunks. None, yielded now and then, is a sign of life and no chunk.
        workers: Processes, started with the first clips; 0 works in this process, with nothing prepared ahead.
        ahead_clips: Clips that may be begun beyond the one whose turn it is.
        ahead_bytes: Bytes of chunks that may wait.
        patience_s: Seconds of silence after which a worker counts as hung and is killed.
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
        self._changed = threading.Condition()  # guards all of the following
        self._failure: Exception | None = RuntimeError("a ClipPool must be open. Use it as `with ClipPool(...)`.")
        self._running = False
        self._threads: list[threading.Thread] = []
        self._processes: list[WorkerProcess] = []
        self._to_begin: deque[_Clip] = deque()

    def __enter__(self) -> "ClipPool":
        self._failure = None
        self._threads = [threading.Thread(target=self._keep_busy, daemon=True) for _ in range(self._workers)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers, busy or not, and wait until they are gone."""
        with self._changing():
            self._failure = RuntimeError("a ClipPool must be open while its chunks are used. Use them inside `with`.")
            for process in self._processes:
                process.kill()
        for thread in self._threads:
            thread.join()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._changed:
            yield
            self._changed.notify_all()

    def run(self, tasks: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Iterator[Any]]]:
        """Work on all tasks; one `run` at a time.

        Args:
            tasks: (key, argument) of each clip; taken from in this thread, the next clip and `ahead_clips` more.

        Yields:
            (key, chunks) in the order of tasks. What is left of `chunks` is dropped when the next clip is asked for.

        Raises:
            RuntimeError: the pool is not open, or no worker can be started. `chunks` raise what `work` raises, or
                WorkerError where that does not pickle, WorkerCrashed and WorkerHung.
        """
        tasks, begun = iter(tasks), deque()
        if self._failure or self._running:
            raise self._failure or RuntimeError("a ClipPool must have no other run going on. End that one first.")
        self._running = True
        try:
            while True:
                for key, argument in islice(tasks, 1 + self._ahead_clips - len(begun)):
                    begun.append(_Clip(key, pickle.dumps(argument) if self._workers else argument))
                    with self._changing():
                        self._to_begin.append(begun[-1])
                if not begun:
                    return
                yield begun[0].key, (self._chunks if self._workers else self._chunks_here)(begun[0])
                self._drop(begun.popleft())
        finally:
            self._running = False
            for clip in begun:
                self._drop(clip)

    def _chunks(self, clip: _Clip) -> Iterator[Any]:
        while True:
            with self._changing():
                self._changed.wait_for(lambda: clip.chunks or clip.ended or clip.dropped or self._failure)
                self._check_served(clip)
                if clip.chunks:
                    _, chunk = clip.chunks.popleft()
                elif clip.error:
                    raise clip.error
                else:
                    return
            yield chunk
            del chunk  # it must not be held here while the next one is waited for

    def _chunks_here(self, clip: _Clip) -> Iterator[Any]:
        for chunk in self._work(clip.request):
            self._check_served(clip)
            if chunk is not None:
                yield chunk

    def _check_served(self, clip: _Clip) -> None:
        if self._failure:
            raise self._failure
        if clip.dropped:
            raise RuntimeError(f"the chunks of {clip.key} must be used before the next clip is asked for.")

    def _drop(self, clip: _Clip) -> None:
        with self._changing():
            clip.dropped = True
            clip.chunks.clear()
            with suppress(ValueError):
                self._to_begin.remove(clip)

    def _keep_busy(self) -> None:
        """Keep one worker busy, in a thread: it waits without the GIL, and unpickling takes it microseconds."""
        process = None
        try:
            while True:
                with self._changed:  # clips are begun in order, so that none waits behind a later one
                    self._changed.wait_for(lambda: self._to_begin or self._failure)
                    if self._failure:
                        return
                    clip = self._to_begin.popleft()
                if not process or not process.is_alive():  # or it died between two clips, or was ended
                    process = self._start(process)
                error = self._work_on(clip, process)
                with self._changing():
                    clip.ended, clip.error = True, error
        except Exception as error:  # whatever it is, the caller must not wait for ever, nor blame a clip
            reason = f"the pool must keep its workers, but {type(error).__name__}: {error}"
            with self._changing():
                self._failure = self._failure or (error if type(error) is RuntimeError else RuntimeError(reason))
        finally:
            if process:
                process.end(wait_s=0)

    def _start(self, before: "WorkerProcess | None") -> "WorkerProcess":
        """A worker that is ready, in place of one; RuntimeError when several in a row end before they are."""
        process = before
        for _ in range(MAX_STARTS):
            if process:
                process.end(wait_s=0)
            with self._changed:  # so that the pool cannot close between the look and the start
                if self._failure:
                    raise self._failure
                process = WorkerProcess()
                self._processes = [*filter(WorkerProcess.is_alive, self._processes), process]
            try:
                process.make_ready(self._pickled_work, self._patience_s)
                return process
            except (EOFError, OSError):
                reason = process.end()
            except Exception as error:
                reason = repr(error)
        process.end(wait_s=0)
        raise RuntimeError(
            f"a decoder process must start, but {MAX_STARTS} in a row did not: {reason}. "
            "Its standard error may say more."
        )

    def _work_on(self, clip: _Clip, process: "WorkerProcess") -> Exception | None:
        """Have a worker make the clip's chunks; returns the error that it ended with."""
        try:
            process.send(REQUEST, [clip.request])
            while True:
                kind, parts = process.receive()
                if kind == END:
                    return pickle.loads(parts[0]) if parts else None
                if not self._deliver(clip, parts):
                    process.end(wait_s=0)
                    return None
                del parts  # their memory is the chunk's: it must not live longer than that
        except (EOFError, OSError):  # the pipe is broken
            return process.end()
        except Exception as error:  # it hangs; or of this process: no memory for a chunk, a class unknown here
            process.end(wait_s=0)
            return error

    def _deliver(self, clip: _Clip, parts: list[np.ndarray]) -> bool:
        """Put a chunk where the caller finds it, once there is room; False if nobody wants more of the clip.

        A clip has room for its share of `ahead_bytes`, or one chunk. A sign of life has no parts.
        """
        n_bytes, share = sum(part.nbytes for part in parts), self._ahead_bytes // (1 + self._ahead_clips)

        def has_room() -> bool:
            fits = n_bytes + sum(waiting for waiting, _ in clip.chunks) <= share
            return fits or not clip.chunks or clip.dropped or self._failure

        with self._changing():
            self._changed.wait_for(has_room)
            if parts and not clip.dropped:
                clip.chunks.append((n_bytes, pickle.loads(parts[0], buffers=parts[1:])))
            return not clip.dropped


def _pickle_work(work: Callable[[Any], Iterator[Any]]) -> bytes:
    if getattr(work, "__module__", None) == "__main__":
        raise ValueError(f"work must be in a module that workers can import, got {work!r}. Move it to one.")
    try:
        return pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"work must be a function at the top level of a module, got {work!r} ({error}).") from None


class Channel:
    """Messages through two pipes, as either end sees it.

    All raise EOFError or OSError when the other end is gone, and WorkerHung when it is silent for `patience_s`.
    """

    def __init__(self, incoming: FileIO, outgoing: FileIO, patience_s: float | None = None) -> None:
        self.patience_s = patience_s
        self._incoming, self._outgoing = incoming, outgoing
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(incoming, select.POLLIN)
        self._writable.register(outgoing, select.POLLOUT)

    def send(self, kind: int, parts: Sequence[Any] = ()) -> None:
        """Write a message; `parts` are bytes or flat memoryviews of bytes."""
        sizes = [memoryview(part).nbytes for part in parts]
        for part in (struct.pack(f"{HEADER}{len(parts)}Q", kind, len(parts), *sizes), *parts):
            view = memoryview(part)
            while view:
                self._wait(self._writable)
                view = view[self._outgoing.write(view) or 0 :]

    def receive(self) -> tuple[int, list[np.ndarray]]:
        """Wait for a message: its kind, and its parts, uint8 (bytes,) each, memory of their own."""
        kind, n_parts = struct.unpack(HEADER, self._read(struct.calcsize(HEADER)))
        sizes = struct.unpack(f"<{n_parts}Q", self._read(8 * n_parts))
        return kind, [self._read(size) for size in sizes]

    def _read(self, size: int) -> np.ndarray:
        buffer = np.empty(size, np.uint8)  # unlike a bytearray not filled with zeros first
        view = memoryview(buffer)
        while view:
            self._wait(self._readable)
            count = self._incoming.readinto(view)
            if not count:
                raise EOFError
            view = view[count:]
        return buffer

    def _wait(self, pipe: select.poll) -> None:
        if self.patience_s and not pipe.poll(1000 * self.patience_s):
            raise WorkerHung(f"the decoder process gave nothing for {self.patience_s:g} s and was killed")


class WorkerProcess(Channel):
    """A decoder process as its parent sees it.

    A fresh interpreter, not a fork (the parent may hold TensorFlow), in a session of its own, so that Ctrl-C in a
    terminal does not reach it. It runs nothing of the main script. Its standard error is the parent's.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, json.dumps([os.path.abspath(path) for path in sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**KEEP_MEMORY, **os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        super().__init__(self._process.stdout, self._process.stdin, START_S)
        os.set_blocking(self._process.stdin.fileno(), False)

    def make_ready(self, pickled_work: bytes, patience_s: float) -> None:
        """Hand over the work and wait until its module is imported; raises what went wrong."""
        self.send(REQUEST, [pickled_work])
        kind, parts = self.receive()
        if kind != READY:
            raise pickle.loads(parts[0])
        self.patience_s = patience_s

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """End it at once, from any thread."""
        self._process.kill()

    def end(self, wait_s: float = EXIT_S) -> WorkerCrashed:
        """Wait until it has ended by itself or kill it, and say what became of it."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(wait_s)
        self._process.kill()
        status = self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        if status >= 0:
            return WorkerCrashed(f"the decoder process ended with exit status {status}")
        name = next((known.name for known in signal.Signals if known == -status), "unknown")
        cause = ": often want of memory" if name == "SIGKILL" else ""
        return WorkerCrashed(f"the decoder process stopped with signal {-status} ({name}){cause}")


def serve() -> None:
    """Answer requests until the pool is gone: all that a decoder process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    cv2.setNumThreads(1)  # the processes share the cores already
    channel = Channel(FileIO(os.dup(0), "r"), FileIO(os.dup(1), "w"))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what `work` prints must not end up among the messages
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    inbox = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, inbox), daemon=True).start()
    with suppress(OSError):  # a broken pipe: the parent is gone
        try:
            work = pickle.loads(inbox.get())
        except Exception as error:
            channel.send(END, [_dump_error(error)])
            return
        channel.send(READY)
        while True:
            for kind, parts in _answer(work, inbox.get()):
                channel.send(kind, parts)


def _listen(channel: Channel, inbox: queue.SimpleQueue) -> None:
    """Take requests while the work goes on; the end of them is the end of the parent, however it died, and so ours."""
    try:
        while True:
            _, (request,) = channel.receive()
            inbox.put(request)
    finally:
        os._exit(0)


def _answer(work: Callable[[Any], Iterator[Any]], request: np.ndarray) -> Iterator[tuple[int, list[Any]]]:
    """The messages (kind, parts) about one clip; the last is END, with an error if there was one."""
    try:
        for chunk in work(pickle.loads(request)):
            arrays = []
            pickled = pickle.dumps(chunk, protocol=5, buffer_callback=arrays.append)
            yield CHUNK, [] if chunk is None else [pickled, *(array.raw() for array in arrays)]
    except Exception as error:
        yield END, [_dump_error(error)]
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
