"""Features as other programs leave them: files per clip, one array with an index, one table.

In: a folder of one `.npy`, `.npz` or `.csv` per clip, one `.npy` with an index CSV, or one CSV. Out: `Features`, which
gives the rows of each clip by what the files call it.

Arrays are known by name: times in seconds as `t_s` (centre of a row: it is taken for a moment) or `t_start_s` and
`t_end_s`; if there are any, `frame` (first frame of a row in the video, from 0) and `valid`. Without times, a row
stands for its frame, at `fps` frames per second; without `frame`, rows are taken for frames 0, 1, 2, …. The columns of
a CSV are known by these names and by those of other programs (`helpers.feature_table`); all others are features.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.feature_table import TABLES, TIMES, Columns, read_columns, table_chunks
from helpers.files import file_sha256
from helpers.precomputed import clips_by_name, files_below, is_array, kinds_as_text, read_npy
from helpers.store import FeatureFile, read_arrays

KNOWN = ("frame", "valid", *TIMES)  # what may be known of a row

Rows = tuple[FeatureFile, dict[int, str]]  # of a clip, and the reason of every invalid one by its number


@dataclass(frozen=True)
class Features:
    """Features of many clips as they were found.

    `kind`: "files", "array", "table" or "tables". `names`: what the files call the clips. `sha256`: of the file; of a
    folder, of the sorted lines `<sha256>  <path>`. `rows`: from a name to its rows, ValueError where they cannot be
    used. `index_sha256`: of the index CSV of an array, "" without one. `columns`: of tables, names of columns by what
    they are: `features`, `known` (by role), `left_out`, `constant`. `other_faces`: number of rows that are left out,
    as they are of other people in a clip. `passed_over`: number of files in the folder that hold no features, by kind.
    """

    kind: str
    names: list[str]
    sha256: str
    rows: Callable[[str], Rows]
    index_sha256: str = ""
    columns: dict[str, Any] = field(default_factory=dict)
    other_faces: int = 0
    passed_over: Mapping[str, int] = field(default_factory=dict)


def open_features(
    source: Path, scratch: Path, index: str | Path | None, fps: float | None, wanted: Sequence[str]
) -> Features:
    """Find the clips of a folder or file of features; `scratch` holds the numbers of CSVs meanwhile."""
    if fps is not None and not 0 < fps < np.inf:
        raise ValueError(f"fps must be above 0, got {fps}.")
    if not source.exists():
        raise FileNotFoundError(f"source must be a folder or a file of features, {source} does not exist.")
    if source.is_file() and source.suffix.lower() == ".npy":
        return _array(source, Path(index or source.with_suffix(".csv")), fps)
    if index is None and source.is_dir():
        return _folder(source, scratch, fps, wanted)
    if index is None and source.suffix.lower() in (*TABLES, ".txt"):
        return _tables({source.stem: source}, scratch, fps, wanted, "table", file_sha256(source))
    raise ValueError(
        f"source must be a folder, a .csv, or a .npy with an index, got {source} and index {index}. "
        "Unpack it, or save it as one of these."
    )


def _folder(folder: Path, scratch: Path, fps: float | None, wanted: Sequence[str]) -> Features:
    """A file per clip: arrays, or where there are none, CSVs."""
    found, others = files_below(folder, is_array)
    kind = "files" if found else "tables"
    if not found:
        found, others = files_below(folder, is_table)
    if not found:
        there = kinds_as_text(others) or "nothing"
        raise ValueError(f"{folder} must hold a .npy or .npz per clip, got none, nor a .csv of each: it holds {there}.")
    paths = clips_by_name(folder, found)
    listing = "".join(sorted(f"{file_sha256(p)}  {p.relative_to(folder).as_posix()}\n" for p in paths.values()))
    sha256 = hashlib.sha256(listing.encode()).hexdigest()
    if kind == "tables":
        return replace(_tables(paths, scratch, fps, wanted, kind, sha256), passed_over=others)
    return Features(kind, list(paths), sha256, lambda name: _rows_of(paths[name], fps), passed_over=others)


def is_table(name: str) -> bool:
    """Say whether a file in a folder is taken for a table of features."""
    return name.lower().endswith(TABLES)


def _rows_of(path: Path, fps: float | None) -> Rows:
    """The rows of a clip's own file, whose arrays are known by name; an only array is the features."""
    try:
        arrays = read_arrays(path) if path.suffix == ".npz" else {"features": np.asarray(read_npy(path))}
        if len(arrays) == 1:
            arrays = {"features": next(iter(arrays.values()))}
        if "features" not in arrays:
            raise ValueError(f"it must hold an array 'features', got {', '.join(sorted(arrays)) or 'none'}.")
        return usable_rows(arrays["features"], {name: arrays[name] for name in KNOWN if name in arrays}, fps)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}".replace(f"{path.parent}/", "")) from None


def _array(path: Path, index: Path, fps: float | None) -> Features:
    if not index.exists():
        raise FileNotFoundError(
            f"{index} is missing: an array needs an index CSV whose column 'clip' says whose its rows are. Name it."
        )
    array = read_npy(path)
    if array.ndim != 2:
        raise ValueError(f"{path.name} must have shape (n, D), got {array.shape}.")
    columns = replace(_with_clip(index, read_columns(index)), features=())
    table = pd.concat([known for known, _ in table_chunks(index, columns)])
    if "row" not in table and len(table) != len(array):
        raise ValueError(f"{index.name} must have a line per row of {path.name}, {len(array)}, got {len(table)}.")
    at = table.pop("row") if "row" in table else pd.Series(range(len(table)), table.index)
    odd = ~at.between(0, len(array) - 1) | at.duplicated()
    if odd.any():
        raise ValueError(
            f"{index.name} line {odd.idxmax()}: row must be 0 to {len(array) - 1}, each once, got "
            f"{at[odd.idxmax()]:g}. Take the index that belongs to {path.name}."
        )
    table = table.rename_axis("line").reset_index().assign(file=index.name)
    names, rows, other_faces = _of_lines(
        table, lambda at: np.asarray(read_npy(path)[at]), at.to_numpy(np.int64), fps, columns
    )
    return Features("array", names, file_sha256(path), rows, file_sha256(index), other_faces=other_faces)


def _with_clip(path: Path, columns: Columns) -> Columns:
    if "clip" not in columns.known:
        raise ValueError(
            f"{path.name} must have a column 'clip', got {', '.join(columns.names[:8])}. "
            "Add it, or name the folder of a file per clip."
        )
    return columns


def _tables(
    paths: Mapping[str, Path], scratch: Path, fps: float | None, wanted: Sequence[str], kind: str, sha256: str
) -> Features:
    """CSVs, turned into one array on disk some lines at a time: as text they may be larger than memory.

    In a folder, a file that cannot be used is its clip's misfortune, and a clip is called as its file is, unless a
    column `clip`, or several names in another column, say otherwise.
    """
    headers: dict[str, Columns] = {}
    parts, failed = [], {}
    for name, path in paths.items():
        with _costs(failed, name, kind):
            headers[name] = _with_features(path, read_columns(path, wanted))
            if kind == "table":
                _with_clip(path, headers[name])
    like = _commonest(headers)
    numbers = Numbers(scratch / "features.float32", len(like.features) if like else 0)
    for name, columns in headers.items():
        with _costs(failed, name, kind):
            table = numbers.append(paths[name], columns.ordered_like(like, paths[name]))
            own = "clip" in table and ("clip" not in columns.renamed or table["clip"].nunique() > 1)
            parts.append(table if own else table.assign(clip=name))
    if not parts:
        raise ValueError(f"a clip at least must have usable features, got none of {len(paths)}: {min(failed.values())}")
    table, used = pd.concat(parts, ignore_index=True), np.flatnonzero(numbers.any_number)
    names, rows, others = _of_lines(table, lambda at: numbers.read(at)[:, used], np.arange(len(table)), fps, like)

    def rows_or_reason(name: str) -> Rows:
        if name in failed:
            raise ValueError(failed[name])
        return rows(name)

    about = like.about(used) | {"constant": [like.names[like.features[i]] for i in numbers.constant]}
    return Features(kind, [*names, *failed], sha256, rows_or_reason, columns=about, other_faces=others)


def _with_features(path: Path, columns: Columns) -> Columns:
    if not columns.features:
        raise ValueError(f"{path.name} must have columns of features beside {', '.join(columns.names)}, got none.")
    return columns


def _commonest(headers: Mapping[str, Columns]) -> Columns | None:
    """The first of the tables whose columns most of them have, in any order."""
    kinds = {name: (frozenset(columns.feature_names), frozenset(columns.known)) for name, columns in headers.items()}
    most = Counter(kinds.values()).most_common(1)
    return next((headers[name] for name, kind in kinds.items() if kind == most[0][0]), None)


@contextmanager
def _costs(failed: dict[str, str], name: str, kind: str) -> Iterator[None]:
    """What is wrong with a file is the reason why its clip fails; of a single file, it is raised."""
    try:
        yield
    except ValueError as error:
        if kind == "table":
            raise
        failed[name] = str(error)


class Numbers:
    """The features of tables, on disk: float32 (n, width), of which rows are read where they are needed."""

    def __init__(self, path: Path, width: int):
        self.path, self.width, self.n = path, width, 0
        self.low, self.high = np.full((2, width), np.nan, np.float32)

    def append(self, path: Path, columns: Columns) -> pd.DataFrame:
        """Add the features of a CSV; what is known of their rows, with `line` and `file`, all of it or nothing."""
        known, n = [], self.n
        with open(self.path, "ab") as file:
            file.truncate(4 * self.width * n)  # of a table that was damaged further down
            for table, features in table_chunks(path, columns):
                file.write(features.tobytes())
                self.low = np.fmin(self.low, np.fmin.reduce(features))
                self.high = np.fmax(self.high, np.fmax.reduce(features))
                known.append(table)
        table = pd.concat(known).drop(columns="row", errors="ignore").rename_axis("line").reset_index()
        self.n += len(table)
        return table.assign(file=path.name)

    def read(self, at: np.ndarray) -> np.ndarray:
        """Some rows; the file is mapped anew, so that pages once read do not stay in this process's memory."""
        return np.memmap(self.path, np.float32, "r", shape=(self.n, self.width))[at]

    @property
    def any_number(self) -> np.ndarray:
        """Which columns hold a number somewhere, bool (width,)."""
        return ~np.isnan(self.low)

    @property
    def constant(self) -> np.ndarray:
        """The places of the columns that hold one number only, where there are several rows."""
        return np.flatnonzero((self.low == self.high) & (self.n > 1))


def _of_lines(
    table: pd.DataFrame, read: Callable[[np.ndarray], np.ndarray], at: np.ndarray, fps: float | None, columns: Columns
) -> tuple[list[str], Callable[[str], Rows], int]:
    """Names of the clips in a table, what gives the rows of one, and how many rows are of other faces.

    Args:
        table: `clip`, `file`, `line` and what is known of each row.
        read: From places in the array to the features there.
        at: The place of each row.
        fps: For rows without times.
        columns: Of the table.
    """
    main = _main_faces(table)
    table, at = table[main], at[main]
    lines = table.groupby("clip", sort=False).indices
    known = {name: table[name].to_numpy() for name in KNOWN if name in table}
    line, file = table["line"].to_numpy(), table["file"].to_numpy()
    counted = "frame" in known and ("t_s" in columns.renamed or "t_ms" in columns.known)

    def rows(name: str) -> Rows:
        mine = lines[name]
        of_clip = {column: values[mine] for column, values in known.items()}
        if counted:
            of_clip["frame"] = _from_zero(of_clip["frame"], of_clip["t_s"])
        return usable_rows(read(at[mine]), of_clip, fps, lambda i: f"{file[mine[i]]} line {line[mine[i]]}: {name}")

    return list(lines), rows, int((~main).sum())


def _main_faces(table: pd.DataFrame) -> np.ndarray:
    """Which rows are of the face of their clip that has the most valid rows, or of two alike the surer one, bool."""
    if "face" not in table:
        return np.ones(len(table), bool)
    faces = table.assign(valid=table.get("valid", True), confidence=table.get("confidence", 1.0))
    faces = faces.groupby(["clip", "face"], sort=False).agg({"valid": "sum", "confidence": "mean"})
    main = faces.sort_values(["valid", "confidence"], ascending=False, kind="stable").reset_index()
    main = main.drop_duplicates("clip")[["clip", "face"]]
    return pd.MultiIndex.from_frame(table[["clip", "face"]]).isin(pd.MultiIndex.from_frame(main))


def _from_zero(frame: np.ndarray, t_s: np.ndarray) -> np.ndarray:
    """Numbers of frames from 0, where times say that those of another program are from 1."""
    first, last = t_s.argmin(), t_s.argmax()
    per_s = (frame[last] - frame[first]) / (t_s[last] - t_s[first]) if t_s[last] > t_s[first] else 0.0
    return frame - (frame.min() >= 1 and np.rint(frame[first] - t_s[first] * per_s) == 1)


def usable_rows(
    features: np.ndarray,
    columns: Mapping[str, np.ndarray],
    fps: float | None,
    place: Callable[[int], str] = "row {}: the clip".format,
) -> Rows:
    """Rows of one clip in the order of time; those with values that are not finite are zero and invalid.

    Args:
        features: Numbers (n, D); (n, 1, D) and (1, n, D) are taken for it.
        columns: Some of `frame`, `valid` and `TIMES`, each (n,).
        fps: Frames per second, for rows without times.
        place: Says of which clip a row is, and where.

    Returns:
        The rows, `frame` -1 where it is unknown, and the reason of every invalid one by its number.
    """
    if features.ndim == 3 and 1 in features.shape[:2]:
        features = features.reshape(-1, features.shape[2])
    if features.ndim != 2 or 0 in features.shape or features.dtype.kind not in "fiu":
        raise ValueError(f"features must be numbers of shape (n, D), got {features.dtype} {features.shape}.")
    for name, column in columns.items():
        if column.shape != (len(features),) or column.dtype.kind not in "fiub":
            raise ValueError(f"{name} must be numbers of shape ({len(features)},), got {column.dtype} {column.shape}.")
    start_s, end_s, frame = _placed(columns, len(features), fps)
    _, once = np.unique(np.stack([start_s, end_s]), axis=1, return_index=True)
    if len(once) < len(features):
        i = int(np.setdiff1d(np.arange(len(features)), once)[0])
        time = next(name for name in ("t_start_s", "t_s", "frame") if name in columns)
        raise ValueError(
            f"{place(i)} must have one row at a time, got another with {time} {columns[time][i]:g}. Keep the right one."
        )
    with np.errstate(over="ignore"):
        features = features.astype(np.float32)
    given = np.asarray(columns.get("valid", np.ones(len(features)))).astype(bool)
    order = np.argsort((start_s + end_s) / 2, kind="stable")
    features, given = features[order], given[order]
    finite = np.isfinite(features)
    usable = finite.all(axis=1)
    reasons = {int(i): "marked invalid where it was made" for i in np.flatnonzero(~given)}
    reasons |= {int(i): f"value {int(finite[i].argmin())} is not finite" for i in np.flatnonzero(~usable)}
    features[~usable] = 0
    return FeatureFile(features, start_s[order], end_s[order], frame[order], given & usable), reasons


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
