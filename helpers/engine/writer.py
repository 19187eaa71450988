"""Feature files on their way to disk: written in a thread of its own while the network goes on.

In: clips with their rows. Out: `<stage>/<key>.npz`, whole or not at all.
"""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from helpers.engine.clip_run import Clip, ClipRun
from helpers.store import FeatureFile, Stage

UNWRITTEN = 8  # files that may wait to be written


class FeatureWriter:
    """Writes the rows of clips and tells the run of them; a full disk comes out of a later call, or the end of `with`.

    Attributes:
        spent_s: Seconds spent on writing.
        n_rows: Rows that are written.
    """

    def __init__(self, run: ClipRun, stage: Stage):
        self.spent_s, self.n_rows = 0.0, 0
        self._run, self._stage = run, stage
        self._thread = ThreadPoolExecutor(1, "writer")
        self._waiting: deque[tuple[Clip, int, Future]] = deque()

    def __enter__(self) -> "FeatureWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self._count(0)

    def write(self, clip: Clip, rows: FeatureFile) -> None:
        """Have the rows of a clip written; waits while too many are."""
        self._waiting.append((clip, len(rows.valid), self._thread.submit(self._write, clip, rows)))
        self._count(UNWRITTEN)

    def _write(self, clip: Clip, rows: FeatureFile) -> None:
        started_s = time.perf_counter()
        self._stage.write(clip.key, rows, clip.stamp)
        self.spent_s += time.perf_counter() - started_s

    def _count(self, n_waiting: int) -> None:
        """Wait until at most so many are unwritten, and count those that are."""
        while self._waiting and (len(self._waiting) > n_waiting or self._waiting[0][2].done()):
            clip, n_rows, written = self._waiting.popleft()
            written.result()
            self.n_rows += n_rows
            self._run.made(clip, n_rows)
