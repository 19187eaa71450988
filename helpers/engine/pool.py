"""A pool of decoder processes: the pieces of many clips in order, prepared ahead of need, with bounded memory.

In: an importable generator function, and tasks (key, argument). Out: for each key the pieces that the function yields,
whatever pickles. Notebooks and scripts need no guard, since workers run nothing of the main script; a worker imports
what the function's module imports, which should not be TensorFlow. The processes are those of `helpers.engine.worker`.
"""

import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from helpers.engine.worker import ALIVE, CLIP, END, ERROR, PIECE, STOP, WorkerProcess

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
