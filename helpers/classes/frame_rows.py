"""The rows of one labelled clip in all its views, and the file they lie in.

In: the pieces of a clip (`helpers.classes.clip_frames`). Out: `<key>.npz` with, for each view, `<view>.features`
float32 (n, D), `<view>.t_s` (n,) seconds, `<view>.frame` (n,) numbers in the file and `<view>.valid` (n,); besides
`views`, their names, `decoder` and `stamp`. A further view is added to the file; those that are there are not made
again. The file is there until the feature files of the splits hold its rows (`helpers.classes.held_rows`).
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from helpers.classes.held_rows import HeldRows
from helpers.rows import ClipRows
from helpers.store import FeatureFile, Sequence, Stage, read_arrays, write_arrays


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

    def _rows_of(self, output: np.ndarray, n_rows: int) -> np.ndarray:
        return output[None]

    def _file(self, features: np.ndarray) -> ViewRows:
        t_s = np.concatenate([piece.t_s for piece in self._seen])
        frame = np.concatenate([piece.frame for piece in self._seen])
        views = np.concatenate([[piece.view] * len(piece.t_s) for piece in self._seen])
        features = features[self._sample_of]
        valid = np.isfinite(features).all(axis=1)
        features[~valid] = 0
        return ViewRows(features, t_s, t_s, frame, valid, self._seen[-1].decoder, views=views)


@dataclass
class FrameStage(Stage):
    """A stage of clips in views; `views` says which each clip is to have, by key, `held` what feature files hold."""

    views: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    held: HeldRows = field(default_factory=lambda: HeldRows({}, ""))

    def missing(self, key: str, stamp: str) -> tuple[str, ...]:
        """The views that a clip is to have and has not, of this version of the clip."""
        there = {*views_there(self.path(key), stamp), *self.held.views(key, stamp)}
        return tuple(name for name in self.views[key] if name not in there)

    def done(self, key: str, stamp: str) -> bool:
        return not self.missing(key, stamp)

    def write(self, key: str, rows: FeatureFile, stamp: str) -> None:
        """Write the rows of a clip's views beside those that are there."""
        path = self.path(key)
        there = views_there(path, stamp)
        arrays = {name: value for name, value in read_arrays(path).items() if "." in name} if there else {}
        new = list(dict.fromkeys(rows.views.tolist()))
        for name in new:
            of_view = rows.views == name
            for part in ("features", "t_s", "frame", "valid"):
                arrays[f"{name}.{part}"] = getattr(rows, part)[of_view]
        # not compressed: features are noise to a compressor, which would take longer than the network does
        write_arrays(path, compressed=False, views=[*there, *new], decoder=rows.decoder, stamp=stamp, **arrays)

    def computed(self, key: str, stamp: str, view: str) -> np.ndarray:
        """Whether the network gave each row of a view, bool (n,); its features are not read."""
        if view in self.held.views(key, stamp):
            return self.held.computed(key, stamp, view)
        return read_arrays(self.path(key), [f"{view}.valid"])[f"{view}.valid"]

    def fail_rows(self, key: str, stamp: str) -> int:
        """Record the rows of a clip that cannot be used, and return how many they are."""
        n_rows = 0
        for name in self.views[key]:
            for row in np.flatnonzero(~self.computed(key, stamp, name)):
                self.fail(key, f"{name}: the network failed on it, or gave values that are not finite", int(row))
                n_rows += 1
        return n_rows

    def drop_files(self) -> None:
        """Remove the files of the clips, once feature files hold what was in them."""
        for path in self.folder.rglob("*.npz"):
            path.unlink()
        for folder in sorted((path for path in self.folder.rglob("*") if path.is_dir()), reverse=True):
            with suppress(OSError):  # something else is in it
                folder.rmdir()


def views_there(path: Path, stamp: str) -> list[str]:
    """Names of the views in a clip's file; none if it is damaged, or of another version of the clip."""
    try:
        about = read_arrays(path, ("stamp", "views"))
    except (FileNotFoundError, ValueError):
        return []
    return about["views"].tolist() if about["stamp"] == stamp else []


def read_view(path: Path, view: str) -> Sequence:
    """Features (n, D), times (n,) and validity (n,) of one view."""
    arrays = read_arrays(path, [f"{view}.{part}" for part in ("features", "t_s", "valid")])
    return arrays[f"{view}.features"], arrays[f"{view}.t_s"], arrays[f"{view}.valid"]
