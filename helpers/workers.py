"""A pool of decoder processes: the chunks of many clips in order, prepared ahead of need, with bounded memory.

In: an importable generator function, and tasks (key, argument). Out: for each key the chunks that the function yields,
whatever pickles. Scripts and notebooks need no guard, since workers run nothing of the main script; a worker imports
what the function's module imports, which should not be TensorFlow.

The pools of libraries give one result per task and limit its whole time; a long video must come in chunks, and end by
silence.
"""

import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from io import BufferedRWPair
from itertools import islice
from typing import Any

import cv2

COMMAND = "from helpers.workers import serve; serve()"
START_S = 120.0  # what a start may take: imports from a cold network disk
EXIT_S = 5.0  # a process that closed its socket has ended within this, or is killed

KEEP_MEMORY = {  # glibc returns large blocks to the system at once: the next ones cost a decoder a quarter of its time
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20),
}


class PoolError(RuntimeError):
    """No process can be started, or the pool is closed: no clip's fault."""


class WorkerError(RuntimeError):
    """An error in a worker that could not be carried over as it was; the message is its type and text."""


class WorkerCrashed(WorkerError):
    """The process ended while it worked on the clip; the message says with which signal or status."""


class WorkerHung(WorkerError):
    """The process gave nothing for as long as the caller's patience lasts, and was killed."""


def cores() -> int:
    """Cores that this process may use: its affinity, within the limit of its control group (containers, SLURM)."""
    from joblib import cpu_count  # not for decoder processes

    return cpu_count()


class ClipPool(AbstractContextManager):
    """Worker processes that run `work` over clips while the caller uses the chunks of an earlier one.

    Of each clip that is begun, at most `ahead_chunks` wait in this process; beside them there are up to three per
    worker: received, being sent, being made. A worker that fails costs the clip it is at; a new process
    takes the next. A thread per worker hands over the clips, in order, and takes the chunks.

    Args:
        work: Takes an argument, yields chunks; at the top level of a module, not of the main script. What it raises
            is raised from the clip's chunks. None, yielded now and then, is a sign of life and no chunk.
        workers: Processes, started with the first clips.
        ahead_clips: Clips that may be begun beyond the one whose turn it is.
        ahead_chunks: Chunks of a clip that may wait.
        patience_s: Seconds of silence after which a worker counts as hung and is killed.
        environment: Further variables of the workers, such as numbers of threads.
    """

    def __init__(
        self,
        work: Callable[[Any], Iterator[Any]],
        *,
        workers: int,
        ahead_clips: int = 4,
        ahead_chunks: int = 4,
        patience_s: float = 600.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if work.__module__ == "__main__" or "<" in work.__qualname__:
            raise ValueError(f"work must be at the top level of a module that workers can import, got {work!r}.")
        self._work, self._patience_s = pickle.dumps(work), patience_s
        self._environment = environment or {}
        self._ahead_clips, self._ahead_chunks = ahead_clips, ahead_chunks
        self._threads = ThreadPoolExecutor(workers, "worker")
        self._changed = threading.Condition()  # guards the following, and the chunks that wait
        self._processes: list[WorkerProcess] = []
        self._idle: list[WorkerProcess] = []
        self._closed = False

    def __exit__(self, *_: object) -> None:
        """End the workers, busy or not, and wait until they are gone."""
        with self._changed:
            self._closed = True
            for process in self._processes:
                process.popen.kill()
            self._changed.notify_all()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.end()

    def run(self, tasks: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Iterator[Any]]]:
        """Work on all tasks; begin no other run before this one has ended.

        Args:
            tasks: (key, argument) of each clip; taken from in this thread, the next clip and `ahead_clips` more.

        Yields:
            (key, chunks) in the order of tasks. `chunks` must be used before the next clip; what is left is dropped.

        Raises:
            PoolError: the pool is closed. `chunks` raise it where no worker can be started, or what `work` raises,
                or WorkerError where that is no Exception or does not pickle, WorkerCrashed and WorkerHung.
        """
        tasks, begun = iter(tasks), deque()
        while True:
            for key, argument in islice(tasks, 1 + self._ahead_clips - len(begun)):
                waiting: deque[Any] = deque()
                made = self._threads.submit(self._make, argument, waiting)
                made.add_done_callback(self._tell)
                begun.append((key, self._chunks(waiting, made)))
            if not begun:
                return
            yield begun[0]
            with suppress(Exception):
                deque(begun.popleft()[1], maxlen=0)

    def _chunks(self, waiting: deque[Any], made: Future) -> Iterator[Any]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: waiting or made.done() or self._closed)
                if self._closed:
                    raise PoolError("a ClipPool must be open while its chunks are used. Use them inside `with`.")
                if not waiting:
                    break
                chunk = waiting.popleft()
                self._changed.notify_all()
            yield chunk
            del chunk  # it must not be held here while the next one is waited for
        made.result()

    def _tell(self, _: Future) -> None:
        with self._changed:
            self._changed.notify_all()

    def _make(self, argument: Any, waiting: deque[Any]) -> None:
        """Have a worker make a clip's chunks, in a thread, which waits without the GIL; raises why it could not."""
        process = self._ready()
        try:
            for chunk in process.answers(pickle.dumps(argument), self._patience_s):
                self._deliver(waiting, chunk)
        finally:
            self._idle.append(process)

    def _ready(self) -> "WorkerProcess":
        """A worker that waits for a clip; PoolError where none can be started."""
        with self._changed:
            while self._idle:
                process = self._idle.pop()
                if process.popen.poll() is None:
                    return process
        try:
            with self._changed:  # so that the pool cannot close between the look and the start
                if self._closed:
                    raise RuntimeError("the pool is closed")
                process = WorkerProcess(self._environment)
                self._processes.append(process)
            list(process.answers(self._work, START_S))
        except Exception as error:  # it must not be blamed on a clip
            raise PoolError(f"a decoder process must start, got {error!r}. Its output may say more.") from None
        return process

    def _deliver(self, waiting: deque[Any], chunk: Any) -> None:
        """Put a chunk where the caller finds it, once there is room. None is no chunk."""
        with self._changed:
            self._changed.wait_for(lambda: len(waiting) < self._ahead_chunks or self._closed)
            if chunk is not None:
                waiting.append(chunk)
                self._changed.notify_all()


class WorkerProcess:
    """A decoder process as its parent sees it.

    A fresh interpreter, not a fork (the parent may hold TensorFlow), in a session of its own, so that Ctrl-C in a
    terminal does not reach it. It runs nothing of the main script. What it prints goes to the parent's standard error.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket, its = socket.socketpair()
        paths = os.pathsep.join(map(os.path.abspath, sys.path))
        try:
            self.popen = subprocess.Popen(
                [sys.executable, "-u", "-P", "-c", COMMAND],
                stdin=its,
                stdout=2,
                env={**KEEP_MEMORY, **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment},
                start_new_session=True,
            )
        except OSError:
            self._socket.close()
            raise
        finally:
            its.close()
        self._stream = self._socket.makefile("rwb")

    def answers(self, request: bytes, patience_s: float) -> Iterator[Any]:
        """The chunks that come of a pickled request.

        Raises:
            WorkerCrashed, WorkerHung: The process has ended. Whatever else the work raised comes out here, too.
        """
        self._socket.settimeout(patience_s)
        try:
            _send(self._stream, request)
            while True:
                is_chunk, content = pickle.load(self._stream)
                if not is_chunk:
                    break
                yield content
        except TimeoutError:
            self.end(wait_s=0)
            raise WorkerHung(f"the decoder process gave nothing for {patience_s:g} s and was killed") from None
        except (EOFError, OSError, pickle.UnpicklingError):  # the socket is broken
            raise self.end() from None
        except BaseException:  # no memory for a chunk, a class that is unknown here
            self.end(wait_s=0)
            raise
        if content is not None:
            raise content

    def end(self, wait_s: float = EXIT_S) -> WorkerCrashed:
        """Wait until it has ended by itself or kill it, and say what became of it."""
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(wait_s)
        self.popen.kill()
        status = self.popen.wait()
        with suppress(OSError):  # of what was not sent
            self._stream.close()
        self._socket.close()
        if status >= 0:
            return WorkerCrashed(f"the decoder process ended with exit status {status}")
        name = signal.Signals(-status).name
        cause = ": often want of memory" if name == "SIGKILL" else ""
        return WorkerCrashed(f"the decoder process stopped with signal {-status} ({name}){cause}")


def _send(stream: BufferedRWPair, message: Any) -> None:
    """Pickle a message into a socket; large arrays are not copied for it."""
    pickle.dump(message, stream, 5)
    stream.flush()


def serve() -> None:
    """Answer requests until the pool is gone: all that a decoder process does.

    The first request is the work, the others are arguments; each is answered by (True, chunk) as often as there is one,
    then (False, error), or None where there was no error.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    cv2.setNumThreads(1)  # the processes share the cores already
    stream, inbox = socket.socket(fileno=0).makefile("rwb"), queue.SimpleQueue()
    threading.Thread(target=_listen, args=(stream, inbox), daemon=True).start()
    work = None
    with suppress(OSError):  # the socket is broken: the parent is gone
        while True:
            request, error = inbox.get(), None
            try:
                content = pickle.loads(request)
                work, chunks = (work, work(content)) if work else (content, ())
                for chunk in chunks:
                    _send(stream, (True, chunk))
            except BaseException as raised:
                error = _portable(raised)
            _send(stream, (False, error))


def _listen(stream: BufferedRWPair, inbox: queue.SimpleQueue) -> None:
    """Take requests while the work goes on; the end of them is the end of the parent, however it died, and so ours."""
    try:
        while True:
            inbox.put(pickle.load(stream))
    finally:
        os._exit(0)


def _portable(error: BaseException) -> Exception:
    """An error with the traceback as a note; a WorkerError where it would not come out of a pickle the same.

    So are a want of memory and what is no Exception: here they cost one clip, while in the parent they end the run.
    """
    text, kind = "", "no memory" if isinstance(error, MemoryError) else type(error).__name__
    note = f"In the decoder process:\n{''.join(part[:2000] for part in traceback.format_exception(error))}"
    with suppress(Exception):  # of the error's own methods
        text = str(error)
        again = pickle.loads(pickle.dumps(error))
        if isinstance(error, Exception) and kind != "no memory" and str(again) == text and again:  # futures ask that
            again.add_note(note)
            return again
    carried = WorkerError(f"{kind}: {text}".removesuffix(": "))
    carried.add_note(note)
    return carried
