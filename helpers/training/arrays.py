"""Features and labels that lie in plain `.npy` files and belong together by row, as other programs leave them.

In: `static_features.npy` (N, D) or (N, T, D), `dynamic_features.npy` likewise, `labels.npy` (N, k), and, where there is
one, a file that says whose the rows are. Out: `RowArrays`, checked before anything is trained on it.
"""

import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.clips import TRAITS
from helpers.names import source_of
from helpers.ratings import read_positional

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 4096  # looked at while searching for what is not finite: 32 MB of 2048 channels


@dataclass(frozen=True)
class RowArrays:
    """Rows of both streams with their ratings.

    Attributes:
        static, dynamic: float32 (N, D) or (N, T, D), on disk until they are used; D differs between the streams.
        labels: float32 (N, k) in [0, 1], NaN where unrated.
        clips: What each row is called, str (N,); rows of one clip share it.
        targets: Names of the labels' columns.
        order_trusted: True when nothing but their order ties rows to clips: sources, and so leakage, are unknown.
    """

    static: np.ndarray
    dynamic: np.ndarray
    labels: np.ndarray
    clips: np.ndarray
    targets: tuple[str, ...]
    order_trusted: bool

    @property
    def sources(self) -> np.ndarray:
        """What a split may not cut apart, str (N,)."""
        return np.array([source_of(clip) for clip in self.clips])

    @property
    def forms(self) -> dict[str, str]:
        """What a row of each stream is; see `form_of`."""
        return {name: form_of(getattr(self, name)) for name in ("static", "dynamic")}

    @property
    def widths(self) -> tuple[int, int]:
        """Columns of the static and of the dynamic features."""
        return self.static.shape[-1], self.dynamic.shape[-1]

    def inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What the network takes, for these rows, in memory."""
        return {name: np.asarray(getattr(self, name)[rows], "float32") for name in ("static", "dynamic")}


def read_arrays_by_row(
    static_features: str | Path,
    dynamic_features: str | Path,
    labels: str | Path,
    *,
    ids: str | Path | None = None,
    targets: Sequence[str] | None = None,
    rating_range: tuple[float, float] = (0.0, 1.0),
) -> RowArrays:
    """Read three files whose rows belong together by position.

    Args:
        static_features, dynamic_features, labels: The `.npy` files.
        ids: Clip of each row: a text file with a key per line, or a CSV with a column `clip`. Without it the order is
            trusted, with a warning.
        targets: Names of the labels' columns; default: the five traits, or `target_1` and so on for another number.
        rating_range: Ends of the rating scale.

    Raises:
        ValueError: Other numbers of rows; another shape; a value that is not finite, with its clip and column.
    """
    static, dynamic = read_features_by_row(static_features, dynamic_features)
    _check_scale(labels, rating_range)
    n_columns = _load(labels).shape[-1]
    if targets is None:
        targets = TRAITS if n_columns == len(TRAITS) else [f"target_{k + 1}" for k in range(n_columns)]
    clips = None if ids is None else _read_ids(Path(ids))
    names = None if clips is None else [f"{clip}#{row}" for row, clip in enumerate(clips)]  # rows may share a clip
    ratings = read_positional(labels, names, targets, rating_range)
    if len(ratings) != len(static):
        _refuse(labels, len(ratings), static_features, len(static))
    clips = np.array(ratings.index if clips is None else clips, dtype=str)
    for name, array in (("static_features", static), ("dynamic_features", dynamic)):
        _check_finite(name, array, clips)
    return RowArrays(
        static, dynamic, ratings.to_numpy("float32"), clips, tuple(map(str, targets)), order_trusted=ids is None
    )


def read_features_by_row(static_features: str | Path, dynamic_features: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Open both feature files, mapped from disk; ValueError where their shapes cannot belong together."""
    paths = {"static_features": static_features, "dynamic_features": dynamic_features}
    opened = {name: _load(path) for name, path in paths.items()}
    for name, array in opened.items():
        if array.ndim not in (2, 3) or array.dtype.kind != "f":
            raise ValueError(f"{name} must hold floats of shape (N, D) or (N, T, D), got {array.dtype} {array.shape}.")
    static, dynamic = opened.values()
    if len(static) != len(dynamic):
        _refuse(static_features, len(static), dynamic_features, len(dynamic))
    return static, dynamic


def form_of(features: np.ndarray) -> str:
    """Whether each row of (N, D) or (N, T, D) is a "vector" or a "sequence"; one vector in time is no sequence."""
    return "sequence" if features.ndim == 3 and features.shape[1] > 1 else "vector"


def _load(path: str | Path) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a plain array ({error}). Name a `.npy` file.") from None
    if not isinstance(found, np.ndarray):
        with found:
            held = f"{len(found.files)} in an archive ({', '.join(found.files[:5])})"
        raise ValueError(f"{path} must hold one plain array, got {held}. Name a `.npy` file: np.save writes one.")
    return found


def _refuse(one: str | Path, n: int, other: str | Path, m: int) -> None:
    raise ValueError(
        f"rows must belong together one by one, got {n} in {Path(one).name} and {m} in {Path(other).name}. "
        "Cut neither to length: align them by clip (`python -m helpers features` and notebook 05)."
    )


def _check_scale(labels: str | Path, rating_range: tuple[float, float]) -> None:
    """Raise ValueError where a label lies outside; arrays have no notebook 01 that could be told the scale."""
    values, (low, high) = _load(labels), rating_range
    outside = np.argwhere((values < low) | (values > high)) if values.dtype.kind in "fiu" and values.ndim == 2 else []
    if len(outside):
        row, column = outside[0]
        raise ValueError(
            f"{Path(labels).name} must hold labels between {low:g} and {high:g}, got {values[row, column]:g} in column "
            f"{column} of row {row}. Correct it, or scale the labels to {low:g}..{high:g} before."
        )


def _read_ids(path: Path) -> list[str]:
    if path.suffix.lower() != ".csv":
        return path.read_text(encoding="utf-8").split("\n")[: -1 if path.read_bytes().endswith(b"\n") else None]
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if "clip" not in table:
        raise ValueError(f"{path.name} must have a column clip, got {', '.join(table)}. Name its column so.")
    return table["clip"].tolist()


def _check_finite(name: str, array: np.ndarray, clips: np.ndarray) -> None:
    for start in range(0, len(array), ROWS_AT_ONCE):
        bad = np.argwhere(~np.isfinite(array[start : start + ROWS_AT_ONCE]))
        if len(bad):
            row, column = int(start + bad[0][0]), int(bad[0][-1])
            raise ValueError(
                f"{name} must be finite, got {array[(row, *bad[0][1:])]} in column {column} of row {row} "
                f"(clip {clips[row]}). Leave such rows out, or make them again."
            )
