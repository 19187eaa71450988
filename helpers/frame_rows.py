"""The rows of one labelled clip in all its views, and the stage they lie in.

In: the chunks of a clip (`helpers.clip_frames`). Out: a feature file per view, `<key>/<view>.npz`
(`helpers.store`). A further view is computed alone; those that are there are not made again.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from helpers.rows import ClipRows
from helpers.store import FeatureFile, Stage, read_arrays

PARTS = ("features", "t_start_s", "t_end_s", "frame", "valid")


@dataclass(frozen=True)
class ViewRows(FeatureFile):
    """Rows of several views, one below the other; `views (n,)` names them. A row stands for the moment of its frame."""

    views: np.ndarray = field(default_factory=lambda: np.empty(0, str))


class FrameRows(ClipRows):
    """A row stands for one frame; equal frames, such as those of a low rate, are shown to the network once."""

    def __init__(self) -> None:
        super().__init__()
        self._sample_of: list[int] = []  # of each frame

    def _samples(self, values: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
        known: dict[bytes, int] = {}
        for frame in values:
            content = hashlib.blake2b(frame, digest_size=16).digest()
            is_new = content not in known
            self._sample_of.append(known.setdefault(content, len(known)))
            if is_new:
                yield frame, 1

    def _file(self, features: np.ndarray) -> ViewRows:
        t_s = np.concatenate([chunk.t_s for chunk in self._seen])
        frame = np.concatenate([chunk.frame for chunk in self._seen])
        views = np.concatenate([[chunk.view] * len(chunk.t_s) for chunk in self._seen])
        features = features[self._sample_of]
        valid = np.isfinite(features).all(axis=1)
        features[~valid] = 0
        return ViewRows(features, t_s, t_s, frame, valid, self._seen[-1].decoder, views=views)


@dataclass
class FrameStage(Stage):
    """A stage with a file per clip and view; `views` says which each clip is to have, by key."""

    views: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def missing(self, key: str, stamp: str) -> tuple[str, ...]:
        """The views that a clip is to have and has not, of this version of the clip."""
        return tuple(view for view in self.views[key] if not Stage.done(self, f"{key}/{view}", stamp))

    def done(self, key: str, stamp: str) -> bool:
        return not self.missing(key, stamp)

    def write(self, key: str, rows: ViewRows, stamp: str) -> None:
        """Write the rows of a clip's views beside those that are there."""
        for view in dict.fromkeys(rows.views.tolist()):
            arrays = [getattr(rows, part)[rows.views == view] for part in PARTS]
            super().write(f"{key}/{view}", FeatureFile(*arrays, rows.decoder), stamp)

    def read(self, key: str, view: str, *parts: str) -> tuple[np.ndarray, ...]:
        """Some of the arrays of a view's feature file."""
        return tuple(read_arrays(self.path(f"{key}/{view}"), parts).values())

    def fail_rows(self, key: str) -> int:
        """Record the rows of a clip that cannot be used, and return how many they are."""
        lost = [(view, row) for view in self.views[key] for row in np.flatnonzero(~self.read(key, view, "valid")[0])]
        for view, row in lost:
            self.fail(key, f"{view}: the network failed on it, or gave values that are not finite", int(row))
        return len(lost)
