"""The clips of a stage that still have to be made: their pieces from the decoder processes, and what became of each.

In: the table of clips and a stage's folder. Out: clip after clip with its pieces, and the counts of the manifest. What
cannot be used is recorded with its reason and the run goes on; what is done is not done again.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import pandas as pd

from helpers.engine.pool import ClipPool
from helpers.engine.progress import Progress
from helpers.engine.rows import TooShortError
from helpers.engine.stored import StoredError
from helpers.engine.worker import WorkerError
from helpers.faces import NoFaceError
from helpers.forward import NetworkError
from helpers.store import Stage, clip_stamp
from helpers.video import VideoError

log = logging.getLogger(__name__)

PATIENCE_S = 1800.0  # without a piece or a sign of life: 02 gives one a minute, but none while a file is opened
CLIP_ERRORS = (
    VideoError,
    NoFaceError,
    StoredError,
    TooShortError,
    NetworkError,
    WorkerError,
    cv2.error,
    av.FFmpegError,
)


@dataclass(frozen=True)
class Clip:
    """A clip to be made: its key, its file and that file's version, and what its rows are made with besides pieces."""

    key: str
    path: Path
    stamp: str
    kept: Any


class ClipRun:
    """Goes through the clips of a stage; used as `with`, and iterated over once.

    Attributes:
        counts: Of the manifest, so far.
        n_found: How many clips were done already.

    Args:
        clips: Index `key`, column `path` below `data`.
        data: Folder of the clips.
        stage: Where their files go.
        work: Runs in the decoder processes: a job's pieces.
        job_of: From path, key and stamp of a clip to its job, and to what stays here, `Clip.kept`.
        workers: Decoder processes.
        progress: Is told of every clip.
        stamp_of: From path and key of a clip to what tells one version of it from another.
        on_found: Gets the key, and what stays of the job, of every clip that was done already.
    """

    def __init__(
        self,
        clips: pd.DataFrame,
        data: Path,
        stage: Stage,
        work: Callable[[Any], Iterator[Any]],
        job_of: Callable[[Path, str, str], tuple[Any, Any]],
        workers: int,
        progress: Progress,
        stamp_of: Callable[[Path, str], str] = lambda path, key: clip_stamp(path),
        on_found: Callable[[str, Any], None] = lambda key, kept: None,
    ) -> None:
        self.counts = {"clips": len(clips), "made": 0, "failed": 0}
        self.n_found = 0
        self._clips, self._data, self._stage = clips, data, stage
        self._job_of, self._stamp_of, self._on_found, self._progress = job_of, stamp_of, on_found, progress
        self._pool = ClipPool(work, workers=workers, patience_s=PATIENCE_S)

    def __enter__(self) -> "ClipRun":
        self._pool.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.__exit__(*error)

    def __iter__(self) -> Iterator[tuple[Clip, Iterator[Any]]]:
        """Every clip that is not done, with its pieces; call `made` or `fail` for each, now or later."""
        return self._pool.run(self._tasks())

    def finish(self) -> dict[str, int]:
        """Put what failed into the order of the clips, and return the counts of the manifest."""
        order = {key: place for place, key in enumerate(self._clips.index)}
        self._stage.failed.sort(key=lambda entry: order[entry["clip"]])
        return self.counts | {"found": self.n_found}

    def made(self, clip: Clip, n_rows: int = 0) -> None:
        """Count a clip whose file is there now."""
        self.counts["made"] += 1
        self._progress.clip(n_rows)

    def fail(self, clip: Clip, error: Exception) -> None:
        """Record a clip that cannot be used, and remove what an earlier version of it has left."""
        reason = str(error).removeprefix(f"{clip.path.name}: ")
        log.warning("%s: %s", clip.key, reason)
        self._stage.path(clip.key).unlink(missing_ok=True)
        self._stage.fail(clip.key, reason)
        self.counts["failed"] += 1
        self._progress.clip(made=False)

    def _tasks(self) -> Iterator[tuple[Clip, Any]]:
        for key, below in self._clips["path"].items():
            path = self._data / below
            stamp = self._stamp_of(path, key)
            try:
                job, kept = self._job_of(path, key, stamp)
            except CLIP_ERRORS as error:  # also where it could be used when it was done
                self.fail(Clip(key, path, stamp, None), error)
                continue
            if self._stage.done(key, stamp):
                self._on_found(key, kept)
                self.n_found += 1
                self._progress.clip(made=False)
            else:
                yield Clip(key, path, stamp, kept), job
