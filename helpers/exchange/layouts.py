"""Reads features that other programs made, in the three layouts they come in.

In: a folder of one `.npy` or `.npz` per clip, one `.npy` with an index CSV, or one CSV. Out: `Layout`, which gives the
rows (n, D) float32 of one clip after the other, in the order of time, by the name that the files call the clip.

Columns and arrays are known by name: `clip`; times in seconds as `t_s` (centre of a row: it is taken for a moment) or
`t_start_s` and `t_end_s`; if there are any, `frame` (first frame of a row in the video) and `valid`. Without times, a
row stands for its frame, at `fps` frames per second; without `frame`, rows are taken for frames 0, 1, 2, ….
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.clips import natural_order
from helpers.exchange.tables import TIMES, table_pieces
from helpers.files import file_sha256
from helpers.store import FeatureFile, read_arrays


@dataclass(frozen=True)
class Layout:
    """Features of many clips as they were found.

    Attributes:
        kind: "files", "array" or "table".
        names: What the files call the clips.
        sha256: Of the file; of a folder, of the sorted lines `<sha256>  <path>`.
        index_sha256: Of the index CSV of an array, "" without one.
        rows: From a name to its rows and the reason of every invalid one. ValueError: they cannot be used.
    """

    kind: str
    names: list[str]
    sha256: str
    rows: Callable[[str], tuple[FeatureFile, dict[int, str]]]
    index_sha256: str = ""


def open_layout(
    source: str | Path, scratch: str | Path, *, index: str | Path | None = None, fps: float | None = None
) -> Layout:
    """Find out which layout a source has, and read what it says about its rows.

    Args:
        source: A folder, a `.npy` or a `.csv`.
        scratch: Folder for the numbers of a CSV, float32, as long as the layout is used.
        index: Index CSV of a `.npy`; default: the file of the same name with `.csv`. Its lines are those of the array
            in order, or a column `row` says which they are, from 0.
        fps: Frames per second, for rows without times.

    Raises:
        FileNotFoundError: The source or its index is missing.
        ValueError: Not a layout that is read; a table that names file, line and column of what is wrong with it.
    """
    source = Path(source)
    if fps is not None and not 0 < fps < np.inf:
        raise ValueError(f"fps must be above 0, got {fps}.")
    if not source.exists():
        raise FileNotFoundError(f"source must be a folder or a file of features, {source} does not exist.")
    suffix = source.suffix.lower()
    if index is not None and suffix != ".npy":
        raise ValueError(f"index must be left out unless the source is a .npy, got it with {source}.")
    if source.is_dir():
        return _files(source, fps)
    if suffix == ".npy":
        return _array(source, Path(index) if index is not None else source.with_suffix(".csv"), fps)
    if suffix == ".csv":
        return _table(source, Path(scratch), fps)
    raise ValueError(f"source must be a folder, a .npy with an index, or a .csv, got {source}.")


def _files(folder: Path, fps: float | None) -> Layout:
    paths: dict[str, Path] = {}
    for path in folder.rglob("*.np[yz]"):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if path.name.startswith("."):
            continue
        if name in paths:
            raise ValueError(f"{folder} must hold one file of {name}, got .npy and .npz. Remove one of the two.")
        paths[name] = path
    if not paths:
        raise ValueError(f"{folder} must hold a .npy or .npz per clip, got none.")
    names = sorted(paths, key=natural_order)
    lines = sorted(f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths.values())

    def rows(name: str) -> tuple[FeatureFile, dict[int, str]]:
        arrays = _arrays_of(paths[name])
        try:
            return usable_rows(arrays.pop("features"), arrays, fps)
        except ValueError as error:
            raise ValueError(f"{paths[name].name}: {error}") from None

    listing = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    return Layout("files", names, listing, rows)


def _arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays of one clip that are known by name; an only array is the features."""
    try:
        arrays = read_arrays(path) if path.suffix == ".npz" else {"features": np.asarray(_mapped(path))}
    except ValueError:
        raise ValueError(f"{path.name} is damaged, or holds objects instead of numbers. Make it again.") from None
    if len(arrays) == 1:
        return {"features": next(iter(arrays.values()))}
    if "features" not in arrays:
        raise ValueError(f"{path.name} must hold an array 'features', got {', '.join(sorted(arrays)) or 'none'}.")
    return {name: array for name, array in arrays.items() if name in ("features", "frame", "valid", *TIMES)}


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read as a plain array ({error}). Make it again.") from None


def _array(path: Path, index: Path, fps: float | None) -> Layout:
    if not index.exists():
        raise FileNotFoundError(
            f"{index} is missing: an array needs an index CSV whose column 'clip' says whose its rows are. Name it."
        )
    array = _mapped(path)
    if array.ndim != 2:
        raise ValueError(f"{path.name} must have shape (n, D), got {array.shape}.")
    table = pd.concat([piece for piece, _ in table_pieces(index, features=False)])
    if "row" not in table and len(table) != len(array):
        raise ValueError(f"{index.name} must have a line per row of {path.name}, {len(array)}, got {len(table)}.")
    at = table.pop("row").to_numpy() if "row" in table else np.arange(len(table))
    odd = (at < 0) | (at >= len(array)) | pd.Series(at).duplicated().to_numpy()
    if odd.any():
        line = int(odd.argmax())
        raise ValueError(
            f"{index.name} line {line + 2}: row must be 0 to {len(array) - 1}, each once, got {at[line]:g}. "
            f"Take the index that belongs to {path.name}."
        )
    _check_once(index, table)
    of_clip = _by_clip(table)
    rows = partial(_rows_of_array, partial(_mapped, path), at.astype(np.int64), table, of_clip, fps)
    return Layout("array", list(of_clip), file_sha256(path), rows, file_sha256(index))


def _table(path: Path, scratch: Path, fps: float | None) -> Layout:
    """A CSV, turned into an array on disk piece by piece: as text it may be larger than memory."""
    numbers = scratch / "features.float32"
    parts, width = [], 0
    with open(numbers, "wb") as file:
        for meta, features in table_pieces(path, features=True):
            file.write(features.tobytes())
            parts.append(meta)
            width = features.shape[1]
    table = pd.concat(parts)
    _check_once(path, table)
    mapped = partial(np.memmap, numbers, np.float32, "r", shape=(len(table), width))
    table = table.drop(columns="row", errors="ignore")
    of_clip = _by_clip(table)
    rows = partial(_rows_of_array, mapped, np.arange(len(table)), table, of_clip, fps)
    return Layout("table", list(of_clip), file_sha256(path), rows)


def _check_once(path: Path, table: pd.DataFrame) -> None:
    """Raise ValueError when two lines give a clip the same time; the table's index is the number of the line."""
    known = (["t_start_s", "t_end_s"], ["t_s"], ["frame"])
    times = next((names for names in known if set(names) <= set(table.columns)), None)
    again = table[table.duplicated(["clip", *times])] if times else table[:0]
    if len(again):
        clip, time = again.iloc[0][["clip", times[0]]]
        raise ValueError(
            f"{path.name} line {again.index[0]}: {clip} must have one row at a time, got another with {times[0]} "
            f"{time:g}. Keep the right one."
        )


def _by_clip(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Lines of each clip, by its name."""
    return table.groupby("clip", sort=False).indices


def _rows_of_array(
    mapped: Callable[[], np.ndarray],
    at: np.ndarray,
    table: pd.DataFrame,
    of_clip: Mapping[str, np.ndarray],
    fps: float | None,
    name: str,
) -> tuple[FeatureFile, dict[int, str]]:
    lines = of_clip[name]
    columns = {column: table[column].to_numpy()[lines] for column in table.columns if column != "clip"}
    # mapped anew for each clip: pages once read do not stay in this process's memory
    return usable_rows(np.asarray(mapped()[at[lines]]), columns, fps)


def usable_rows(
    features: np.ndarray, columns: Mapping[str, np.ndarray], fps: float | None
) -> tuple[FeatureFile, dict[int, str]]:
    """Rows of one clip in the order of time; those with values that are not finite are zero and invalid.

    Args:
        features: Numbers (n, D).
        columns: Some of `frame`, `valid` and `TIMES`, each (n,).
        fps: Frames per second, for rows without times.

    Returns:
        The rows, `frame` -1 where it is unknown, and the reason of every invalid one by its number.
    """
    if features.ndim != 2 or 0 in features.shape or features.dtype.kind not in "fiu":
        raise ValueError(f"features must be numbers of shape (n, D), got {features.dtype} {features.shape}.")
    for name, column in columns.items():
        if column.shape != (len(features),) or column.dtype.kind not in "fiub":
            raise ValueError(f"{name} must be numbers of shape ({len(features)},), got {column.dtype} {column.shape}.")
    start_s, end_s, frame = _placed(columns, len(features), fps)
    with np.errstate(over="ignore"):
        features = features.astype(np.float32)
    given = np.asarray(columns.get("valid", np.ones(len(features)))).astype(bool)
    order = np.argsort((start_s + end_s) / 2, kind="stable")
    features, given = features[order], given[order]
    finite = np.isfinite(features).all(axis=1)
    reasons = {int(i): "marked invalid where it was made" for i in np.flatnonzero(~given)}
    for i in np.flatnonzero(~finite):
        reasons[int(i)] = f"value {int(np.isfinite(features[i]).argmin())} is not finite"
    features[~finite] = 0
    return FeatureFile(features, start_s[order], end_s[order], frame[order], given & finite), reasons


def _placed(columns: Mapping[str, np.ndarray], n: int, fps: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start and end of each row in seconds, and its first frame."""
    start_s, end_s, frame = (columns.get(name) for name in ("t_start_s", "t_end_s", "frame"))
    if (start_s is None) != (end_s is None):
        raise ValueError("t_start_s and t_end_s must come together, got one of the two.")
    if start_s is None:
        start_s = end_s = columns.get("t_s")
    if start_s is None:
        if fps is None:
            raise ValueError("rows must have times (t_s, or t_start_s and t_end_s), got none. Give fps.")
        frame = np.arange(n) if frame is None else frame
        start_s, end_s = frame / fps, (frame + 1) / fps
    frame = np.full(n, -1) if frame is None else frame
    wrong = ~(np.isfinite(start_s) & np.isfinite(end_s) & (end_s >= start_s) & (frame % 1 == 0))
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(
            f"row {i} must have a whole frame and end when or after it starts, "
            f"got frame {frame[i]:g}, {start_s[i]:g} to {end_s[i]:g} s."
        )
    return start_s.astype(np.float64), end_s.astype(np.float64), frame.astype(np.int64)
