"""A pool of decoder processes: the chunks of many clips in order, prepared ahead of need, with bounded memory.

In: an importable generator function, and tasks (key, argument). Out: for each key the chunks that the function yields,
whatever pickles. Scripts and notebooks need no guard, since workers run nothing of the main script; a worker imports
what the function's module imports, which should not be TensorFlow.

The pools of libraries give one result per task and limit its whole time; a long video must come in chunks, and end by
silence. A chunk is pickled with its arrays beside it, which cross the socket into the memory where they stay.
"""

import json
import os
import pickle
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

COMMAND = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from helpers.workers import serve; serve()"
START_S = 120.0  # what a start may take: imports from a cold network disk
EXIT_S = 5.0  # a process that closed its socket has ended within this, or is killed
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
    argument: bytes
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
        workers: Processes, started with the first clips.
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
        if workers < 1 or ahead_clips < 0:
            raise ValueError(f"workers must be at least 1 and ahead_clips 0, got {workers} and {ahead_clips}.")
        if ahead_bytes < 1 or patience_s <= 0:
            raise ValueError(f"ahead_bytes and patience_s must be above 0, got {ahead_bytes} and {patience_s}.")
        self._work, self._n_workers, self._patience_s = _pickle_work(work), workers, patience_s
        self._ahead_clips, self._share = ahead_clips, ahead_bytes // (1 + ahead_clips)  # bytes that wait of a clip
        self._changed = threading.Condition()  # guards all of the following
        self._failure: Exception | None = RuntimeError("a ClipPool must be open. Use it as `with ClipPool(...)`.")
        self._running = False
        self._threads: list[threading.Thread] = []
        self._processes: list[WorkerProcess] = []
        self._to_begin: deque[_Clip] = deque()

    def __enter__(self) -> "ClipPool":
        self._failure = None
        self._threads = [threading.Thread(target=self._keep_busy, daemon=True) for _ in range(self._n_workers)]
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
                    begun.append(_Clip(key, pickle.dumps(argument)))
                    with self._changing():
                        self._to_begin.append(begun[-1])
                if not begun:
                    return
                yield begun[0].key, self._chunks(begun[0])
                self._drop(begun.popleft())
        finally:
            self._running = False
            for clip in begun:
                self._drop(clip)

    def _chunks(self, clip: _Clip) -> Iterator[Any]:
        while True:
            with self._changing():
                self._changed.wait_for(lambda: clip.chunks or clip.ended or clip.dropped or self._failure)
                if self._failure:
                    raise self._failure
                if clip.dropped:
                    raise RuntimeError(f"the chunks of {clip.key} must be used before the next clip is asked for.")
                if clip.chunks:
                    _, chunk = clip.chunks.popleft()
                elif clip.error:
                    raise clip.error
                else:
                    return
            yield chunk
            del chunk  # it must not be held here while the next one is waited for

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
                if process and not process.is_alive():  # it died between two clips, or was ended
                    process.end(wait_s=0)
                    process = None
                process = process or self._start()
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

    def _start(self) -> "WorkerProcess":
        """A worker that is ready; RuntimeError when several in a row end before they are."""
        for _ in range(MAX_STARTS):
            with self._changed:  # so that the pool cannot close between the look and the start
                if self._failure:
                    raise self._failure
                process = WorkerProcess()
                self._processes = [*filter(WorkerProcess.is_alive, self._processes), process]
            try:
                process.make_ready(self._work, self._patience_s)
                return process
            except Exception as error:
                reason = process.end_after(error)
        raise RuntimeError(
            f"a decoder process must start, but {MAX_STARTS} in a row did not: {reason!r}. "
            "Its standard error may say more."
        )

    def _work_on(self, clip: _Clip, process: "WorkerProcess") -> Exception | None:
        """Have a worker make the clip's chunks; returns the error that it ended with."""
        try:
            process.send(clip.argument)
            while True:
                (is_chunk, content), n_bytes = process.receive()
                if not is_chunk:
                    return content
                if not self._deliver(clip, content, n_bytes):
                    process.end(wait_s=0)
                    return None
                del content  # it is the caller's: it must not live longer than that
        except Exception as error:
            return process.end_after(error)

    def _deliver(self, clip: _Clip, chunk: Any, n_bytes: int) -> bool:
        """Put a chunk where the caller finds it, once there is room; False if nobody wants more of the clip.

        A clip has room for its share of `ahead_bytes`, or one chunk. None is a sign of life.
        """

        def has_room() -> bool:
            fits = n_bytes + sum(waiting for waiting, _ in clip.chunks) <= self._share
            return fits or not clip.chunks or clip.dropped or self._failure

        with self._changing():
            self._changed.wait_for(has_room)
            if chunk is not None and not clip.dropped:
                clip.chunks.append((n_bytes, chunk))
            return not clip.dropped


def _pickle_work(work: Callable[[Any], Iterator[Any]]) -> bytes:
    if getattr(work, "__module__", None) == "__main__":
        raise ValueError(f"work must be in a module that workers can import, got {work!r}. Move it to one.")
    try:
        return pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"work must be a function at the top level of a module, got {work!r} ({error}).") from None


class Channel:
    """One end of a socket, for whatever pickles; EOFError or OSError when the other end is gone."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, message: Any) -> None:
        arrays: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(message, protocol=5, buffer_callback=arrays.append)
        parts = [memoryview(pickled), *(array.raw() for array in arrays)]
        for part in (struct.pack(f"<{1 + len(parts)}Q", len(parts), *(part.nbytes for part in parts)), *parts):
            self._end.sendall(part)

    def receive(self) -> tuple[Any, int]:
        """Wait for a message; returns it and its bytes."""
        (n_parts,) = struct.unpack("<Q", self._read(8))
        sizes = struct.unpack(f"<{n_parts}Q", self._read(8 * n_parts))
        pickled, *arrays = [self._read(size) for size in sizes]
        return pickle.loads(pickled, buffers=arrays), sum(sizes)

    def _read(self, size: int) -> np.ndarray:
        buffer = np.empty(size, np.uint8)  # unlike a bytearray not filled with zeros first
        view = memoryview(buffer)
        while view:
            count = self._end.recv_into(view)
            if not count:
                raise EOFError
            view = view[count:]
        return buffer


class WorkerProcess(Channel):
    """A decoder process as its parent sees it; TimeoutError when it is silent for too long.

    A fresh interpreter, not a fork (the parent may hold TensorFlow), in a session of its own, so that Ctrl-C in a
    terminal does not reach it. It runs nothing of the main script. What it prints goes to the parent's standard error.
    """

    def __init__(self) -> None:
        ours, its = socket.socketpair()
        super().__init__(ours)
        ours.settimeout(START_S)
        paths = json.dumps([os.path.abspath(path) for path in sys.path])
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-c", COMMAND, paths, str(its.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[its.fileno()],
                env={**KEEP_MEMORY, **os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            its.close()

    def make_ready(self, work: bytes, patience_s: float) -> None:
        """Hand over the pickled work and wait until its module is imported; raises what went wrong."""
        self.send(work)
        (is_ready, error), _ = self.receive()
        if not is_ready:
            raise error
        self._end.settimeout(patience_s)

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
        self._end.close()
        if status >= 0:
            return WorkerCrashed(f"the decoder process ended with exit status {status}")
        name = next((known.name for known in signal.Signals if known == -status), "unknown")
        cause = ": often want of memory" if name == "SIGKILL" else ""
        return WorkerCrashed(f"the decoder process stopped with signal {-status} ({name}){cause}")

    def end_after(self, error: Exception) -> Exception:
        """End it after an error, and say what was the matter: of the process, or the error of this one.

        Such are no memory for a chunk, or a class that is unknown here.
        """
        if isinstance(error, TimeoutError):
            error = WorkerHung(f"the decoder process gave nothing for {self._end.gettimeout():g} s and was killed")
        elif isinstance(error, EOFError | OSError):  # the socket is broken
            return self.end()
        self.end(wait_s=0)
        return error


def serve() -> None:
    """Answer requests until the pool is gone: all that a decoder process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    cv2.setNumThreads(1)  # the processes share the cores already
    channel = Channel(socket.socket(fileno=int(sys.argv[2])))
    inbox = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, inbox), daemon=True).start()
    with suppress(OSError):  # the socket is broken: the parent is gone
        try:
            work = pickle.loads(inbox.get())
        except Exception as error:
            channel.send((False, _portable(error)))
            return
        channel.send((True, None))
        while True:
            _answer(channel, work, inbox.get())


def _listen(channel: Channel, inbox: queue.SimpleQueue) -> None:
    """Take requests while the work goes on; the end of them is the end of the parent, however it died, and so ours."""
    try:
        while True:
            inbox.put(channel.receive()[0])
    finally:
        os._exit(0)


def _answer(channel: Channel, work: Callable[[Any], Iterator[Any]], argument: bytes) -> None:
    """Send (True, chunk) for every chunk of a clip, then (False, error), or None where there was no error."""
    error = None
    try:
        for chunk in work(pickle.loads(argument)):
            channel.send((True, chunk))
    except Exception as raised:
        error = _portable(raised)
    channel.send((False, error))


def _portable(error: Exception) -> Exception:
    """An error with the traceback as a note; a WorkerError where it would not come out of a pickle the same.

    So is a want of memory: here it costs one clip, while a MemoryError is one of the parent, which ends the run.
    """
    note = f"In the decoder process:\n{''.join(traceback.format_exception(error))}"
    stand_in = WorkerError(f"{type(error).__name__}: {error}")
    if isinstance(error, MemoryError):
        stand_in = error = WorkerError(f"no memory: {error}".removesuffix(": "))
    with suppress(Exception):
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            stand_in = copy
    stand_in.add_note(note)
    return stand_in
