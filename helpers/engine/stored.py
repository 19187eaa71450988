"""Clips that are stored as faces or as flow instead of videos: what their readers and the extraction share.

In: the files of a clip and how many a second there are. Out: what stands in for the clip's `FaceTrack`, and the stamp
that tells one version of the files from another.
"""

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.store import clip_stamp


class StoredError(ValueError):
    """A clip whose stored files cannot be used; the message is the reason."""


@dataclass(frozen=True)
class StoredTrack:
    """Of a `FaceTrack` what rows need: `n_frames` samples at `fps`. Whoever stored them has seen the face in each."""

    fps: float
    n_frames: int

    def has_face(self, t_s: np.ndarray) -> np.ndarray:
        """True for every time in seconds: bool, same shape."""
        return np.ones(np.shape(t_s), bool)


def stamp_of(paths: Iterable[Path]) -> str:
    """Tell one version of some files from another: their number, and a hash of names, sizes and times of change."""
    digest, n = hashlib.sha256(), 0
    for path in paths:
        n += 1
        digest.update(f"{path.name}\0{clip_stamp(path)}\n".encode(errors="surrogateescape"))
    return f"{n}-{digest.hexdigest()[:16]}"


def spread(items: Sequence[Any], n: int) -> list[Any]:
    """Up to `n` of the items, evenly spread, the first and the last among them."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(n, len(items))).astype(int))]


def commonest(found: Iterable[Hashable]) -> Any:
    """The value that occurs most often, of equally frequent ones the first; None without any."""
    return next((value for value, _ in Counter(found).most_common(1)), None)
