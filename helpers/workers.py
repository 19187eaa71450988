"""A pool of decoder processes: the chunks of many clips in order, prepared ahead of need, with bounded memory.

In: an importable generator function, and tasks (key, argument). Out: for each key the chunks that the function yields,
whatever pickles. Scripts and notebooks need no guard, since workers run nothing of the main script; a worker imports
what the function's module imports, which should not be TensorFlow. The pools of libraries give one result per task and
limit its whole time; a long video must come in chunks, and end by silence.
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
AHEAD_CLIPS = 4  # that may be begun beyond the one whose turn it is; with more workers as many as these
START_S = 120.0  # what a start may take: imports from a cold network disk
EXIT_S = 5.0  # a process that closed its socket has ended within this, or is killed
LOOK_S = 0.1  # between two looks whether the pool was closed

KEEP_MEMORY = {  # glibc returns large blocks to the system at once: the next ones cost a decoder a quarter of its time
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20),
}


class PoolError(RuntimeError):
    """No process can be started, or the pool is closed: no clip's fault."""


class WorkerError(RuntimeError):
    """What became of a worker: it raised anything but a ValueError, it ended (with which signal or status), it hung."""


def cores() -> int:
    """Cores that this process may use: its affinity, within the limit of its control group (containers, SLURM)."""
    from joblib import cpu_count  # not for decoder processes

    return cpu_count()


class ClipPool(AbstractContextManager):
    """Worker processes that run `work` over clips while the caller uses the chunks of an earlier one.

    A worker that fails costs the clip it is at; a new process takes the next. A thread per worker hands over the clips,
    in order, and takes the chunks. `work`, of a module that workers can import, takes an argument and yields chunks;
    None, yielded now and then, is a sign of life and no chunk. `ahead_chunks` of a clip may wait here; up to three more
    per worker are received, being sent, being made. After `patience_s` seconds of silence a worker is killed.
    """

    def __init__(
        self,
        work: Callable[[Any], Iterator[Any]],
        *,
        workers: int,
        ahead_chunks: int = 4,
        patience_s: float = 600.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._work, self._patience_s, self._environment = work, patience_s, environment or {}
        self._n_begun, self._ahead_chunks = 1 + max(AHEAD_CLIPS, workers), ahead_chunks
        self._threads, self._own = ThreadPoolExecutor(workers, "worker"), threading.local()
        self._starting = threading.Lock()  # guards the following
        self._processes: list[WorkerProcess] = []
        self._closed = False

    def __exit__(self, *_: object) -> None:
        """End the workers, busy or not, and wait until they are gone."""
        with self._starting:
            self._closed = True
            for process in self._processes:
                process.popen.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.end()

    def run(self, tasks: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Iterator[Any]]]:
        """Yield (key, chunks) for each task (key, argument), in order; begin no other run before this one has ended.

        A task is taken, in this thread, when it may be begun. `chunks` must be used before the next clip; what is left
        is dropped. They raise what `work` raises if that is a ValueError, else WorkerError; PoolError where the pool is
        closed or no worker can be started.
        """
        tasks, begun = iter(tasks), deque()
        while True:
            for key, argument in islice(tasks, self._n_begun - len(begun)):
                waiting, room = queue.SimpleQueue(), threading.Semaphore(self._ahead_chunks)
                made = self._threads.submit(self._make, argument, waiting, room)
                made.add_done_callback(waiting.put)
                begun.append((key, self._chunks(waiting, room)))
            if not begun:
                return
            yield begun[0]
            with suppress(Exception):
                deque(begun.popleft()[1], maxlen=0)

    def _chunks(self, waiting: queue.SimpleQueue, room: threading.Semaphore) -> Iterator[Any]:
        while not self._closed:
            chunk = waiting.get()
            if isinstance(chunk, Future):  # all is made, or something was raised
                return chunk.result()
            room.release()
            yield chunk
            del chunk  # it must not be held here while the next one is waited for
        raise PoolError("a ClipPool must be open while its chunks are used. Use them inside `with`.")

    def _make(self, argument: Any, waiting: queue.SimpleQueue, room: threading.Semaphore) -> None:
        """Have this thread's worker make a clip's chunks, and hand them over as there is room for them."""
        for chunk in self._process().answers(argument, self._patience_s):
            if chunk is not None:
                while not (self._closed or room.acquire(timeout=LOOK_S)):
                    pass
                waiting.put(chunk)

    def _process(self) -> "WorkerProcess":
        """This thread's worker, which waits for a clip; PoolError where none can be started."""
        if (process := getattr(self._own, "process", None)) and process.popen.poll() is None:
            return process
        try:
            with self._starting:
                if self._closed:
                    raise RuntimeError("the pool is closed")
                process = self._own.process = WorkerProcess(self._environment)
                self._processes.append(process)
            list(process.answers(self._work, START_S))
        except Exception as error:  # it must not be blamed on a clip
            raise PoolError(f"a decoder process must start, got {error!r}. Its output may say more.") from None
        return process


class WorkerProcess:
    """A decoder process as its parent sees it.

    A fresh interpreter, not a fork (the parent may hold TensorFlow), in a session of its own, so that Ctrl-C in a
    terminal does not reach it. What it prints goes to the parent's standard error.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair()
        paths = os.pathsep.join(map(os.path.abspath, sys.path))
        command = [sys.executable, "-u", "-P", "-c", COMMAND]
        env = {**KEEP_MEMORY, **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment}
        try:
            with theirs:
                self.popen = subprocess.Popen(command, stdin=theirs, stdout=2, env=env, start_new_session=True)
        except OSError:
            self._socket.close()
            raise
        self._stream = self._socket.makefile("rwb")

    def answers(self, request: Any, patience_s: float) -> Iterator[Any]:
        """The chunks that come of a request; what the work raises comes out here, or what became of the process."""
        self._socket.settimeout(patience_s)
        try:
            _send(self._stream, pickle.dumps(request))
            while True:
                is_chunk, content = pickle.load(self._stream)
                if not is_chunk:
                    break
                yield content
        except TimeoutError:
            self.end(wait_s=0)
            raise WorkerError(f"the decoder process gave nothing for {patience_s:g} s and was killed") from None
        except (EOFError, OSError, pickle.UnpicklingError):  # the socket is broken
            raise self.end() from None
        except BaseException:  # no memory for a chunk, a class that is unknown here
            self.end(wait_s=0)
            raise
        if content is not None:
            raise content

    def end(self, wait_s: float = EXIT_S) -> WorkerError:
        """Wait until it has ended by itself or kill it, and say what became of it."""
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(wait_s)
        self.popen.kill()
        status = self.popen.wait()
        with suppress(OSError):  # of what was not sent
            self._stream.close()
        self._socket.close()
        if status >= 0:
            return WorkerError(f"the decoder process ended with exit status {status}")
        name = signal.Signals(-status).name
        cause = ": often want of memory" if name == "SIGKILL" else ""
        return WorkerError(f"the decoder process stopped with signal {-status} ({name}){cause}")


def _send(stream: BufferedRWPair, message: Any) -> None:
    pickle.dump(message, stream, 5)  # large arrays are not copied for it, as `multiprocessing` does
    stream.flush()


def serve() -> None:
    """Answer requests until the pool is gone: all that a decoder process does.

    The first request is the work, the others are arguments; each is answered by (True, chunk) as often as there is one,
    then (False, error), or None where there was no error.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    cv2.setNumThreads(1)  # the processes share the cores already
    stream, inbox, work = socket.socket(fileno=0).makefile("rwb"), queue.SimpleQueue(), None
    threading.Thread(target=_listen, args=(stream, inbox), daemon=True).start()
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
    """A ValueError as it is, anything else as a WorkerError; the traceback is a note."""
    text, carried = "", None
    with suppress(Exception):  # of the error's own methods
        text = str(error)
        if isinstance(error, ValueError) and str(pickle.loads(pickle.dumps(error))) == text:
            carried = error
    carried = carried or WorkerError(f"{type(error).__name__}: {text}".removesuffix(": "))
    carried.add_note(f"In the decoder process:\n{''.join(part[:2000] for part in traceback.format_exception(error))}")
    return carried
