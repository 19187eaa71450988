"""A decoder process, from outside (`WorkerProcess`) and from inside (`serve`), and the messages between the two.

In: a pickled generator function, then pickled arguments. Out: the pieces it yields, pickled with their arrays beside
the pickle, so that an array crosses the pipe straight from its memory into the memory where it stays. A message is a
kind, the number of its parts, their sizes in bytes, and the parts. `helpers.engine.pool` runs several of these
processes.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np

READY, PIECE, ALIVE, END, ERROR = range(5)  # kinds of message from a worker
CLIP, STOP = range(5, 7)  # and to it; the first CLIP is the work itself
HEADER = "<BI"
COMMAND = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from helpers.engine.worker import serve; serve()"
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
