"""Features that other programs made become a stage like any other.

In: a folder of one `.npy` or `.npz` per clip, one `.npy` with an index CSV, or one CSV; and the clips of a data folder.
Out: the stage folder `static/` or `dynamic/` of a run, which 05 aligns like those of 03 and 04.

Columns and arrays are known by name: `clip`; times in seconds as `t_s` (centre of a row: it is taken for a moment) or
`t_start_s` and `t_end_s`; if there are any, `frame` (first frame of a row in the video) and `valid`. Without times, a
row stands for its frame, at `fps` frames per second; without `frame`, rows are taken for frames 0, 1, 2, …. All other
columns of a CSV are features, in their order.
"""

import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from helpers.clips import find_clips
from helpers.files import FolderLock, file_sha256
from helpers.names import match_clips, video_files
from helpers.precomputed import clips_by_name, is_array, read_npy
from helpers.store import STREAMS, FeatureFile, Stage, read_arrays

log = logging.getLogger(__name__)

TIMES = ("t_s", "t_start_s", "t_end_s")
COLUMNS = ("frame", "valid", *TIMES)  # known by name, beside `clip`, and `row` of an index
FLAGS = {"true": True, "1": True, "false": False, "0": False}
NOT_A_NUMBER = ["", "nan", "NaN", "NA", "null"]
CELLS_AT_A_TIME = 2**21  # of a CSV: 2,097,152 numbers are 16 MB
SHOWN = 5  # names that an error lists

Rows = tuple[FeatureFile, dict[int, str]]  # of a clip, and the reason of every invalid one by its number


@dataclass(frozen=True)
class Features:
    """Features of many clips as they were found.

    `kind`: "files", "array" or "table". `names`: what the files call the clips. `sha256`: of the file; of a folder, of
    the sorted lines `<sha256>  <path>`. `rows`: from a name to its rows, ValueError where they cannot be used.
    `index_sha256`: of the index CSV of an array, "" without one.
    """

    kind: str
    names: list[str]
    sha256: str
    rows: Callable[[str], Rows]
    index_sha256: str = ""


def import_features(
    source: str | Path,
    out: str | Path,
    stream: str,
    *,
    data: str | Path,
    index: str | Path | None = None,
    fps: float | None = None,
    skip_unmatched: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Make a run's stage out of features from elsewhere; started again, it goes on.

    Rows are brought into the order of time. Rows with values that are not finite become invalid, with the reason in the
    manifest; so does a clip whose file is damaged, and a clip of the data folder without features, as failed.

    Args:
        source: A folder, a `.npy` or a `.csv`.
        out: The run's folder.
        stream: "static" or "dynamic", which becomes the name of the stage.
        data: The folder of clips. Features belong to the clip with that key, or whose key ends in the name.
        index: Index CSV of a `.npy`, default: the file of the same name with `.csv`. Its lines are those of the array
            in order, or a column `row` says which, from 0.
        fps: Frames per second, for rows without times.
        skip_unmatched: Leave out features whose name fits no clip or several, with the reason, instead of refusing.
        progress: Whether to show a progress bar.

    Returns:
        The manifest of the stage.

    Raises:
        FileNotFoundError: The source or its index is missing.
        ValueError: Names that fit no clip or several; a damaged table, with file, line and column; no usable rows; rows
            of different widths; a stage that is there already and was made otherwise.
        LockedError: The run is being filled.
    """
    if stream not in STREAMS:
        raise ValueError(f"stream must be {' or '.join(STREAMS)}, got {stream!r}.")
    source, out, clips = Path(source), Path(out), find_clips(data)
    with FolderLock(out), tempfile.TemporaryDirectory(dir=out, prefix=".part-") as scratch:
        features = _open(source, Path(scratch), index, fps)
        named, refused = match_clips(features.names, clips.index)
        if refused and (not skip_unmatched or not named):
            listed = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:SHOWN])
            raise ValueError(
                f"{len(refused)} names in {source.name} must fit one clip each, got {listed}. Check "
                "the data folder, call them by key, or leave them out (skip_unmatched)."
            )
        failed, width = _survey(features, named, progress)
        failed |= {key: f"there are no features of it in {source.name}" for key in clips.index if key not in named}
        identity = {
            "parameters": {"weights": "elsewhere"},
            "weights": {"name": "elsewhere", "source": source.name, "sha256": features.sha256},
            "elsewhere": {"layout": features.kind, "index_sha256": features.index_sha256, "fps": fps},
        }
        counts = {"clips": len(clips), "made": 0, "found": 0, "failed": len(failed), "rows": 0, "invalid_rows": 0}
        with Stage(out / stream, stream, identity, {"source": str(source.resolve())}) as stage:
            for key, reason in [*refused.items(), *failed.items()]:
                log.warning("%s is left out: %s", key, reason)
                stage.fail(key, reason)
            for key in clips.index:
                if key in failed:
                    stage.path(key).unlink(missing_ok=True)  # of an earlier import, when it could be told from others
                else:
                    _write_clip(stage, key, features.rows(named[key]), features.sha256[:16], counts)
            return stage.finish(**counts, feature_dim=width, unmatched=len(refused))


def _survey(features: Features, named: dict[str, str], progress: bool) -> tuple[dict[str, str], int]:
    """Read every clip once before the first is written: the reasons of those that cannot be used, and the width."""
    failed: dict[str, str] = {}
    widths: dict[int, str] = {}
    for key, name in tqdm(named.items(), unit="clip", disable=not progress):
        try:
            widths.setdefault(features.rows(name)[0].features.shape[1], name)
        except ValueError as error:
            failed[key] = str(error)
    if not widths:
        raise ValueError(f"a clip at least must have usable features, got none of {len(named)}: {min(failed.values())}")
    if len(widths) > 1:
        each = " and ".join(f"{width} for {name}" for width, name in list(widths.items())[:2])
        raise ValueError(f"features must be of one width, got {each}. Take those of one network.")
    return failed, next(iter(widths))


def _write_clip(stage: Stage, key: str, found: Rows, stamp: str, counts: dict[str, int]) -> None:
    rows, reasons = found
    done = stage.done(key, stamp)
    if not done:
        stage.write(key, rows, stamp)
    counts["found" if done else "made"] += 1
    counts["rows"] += len(rows.valid)
    counts["invalid_rows"] += len(reasons)
    for row, reason in sorted(reasons.items()):
        stage.fail(key, reason, row)


def _open(source: Path, scratch: Path, index: str | Path | None, fps: float | None) -> Features:
    """Find the clips of a folder or file of features; `scratch` holds the numbers of a CSV meanwhile."""
    if fps is not None and not 0 < fps < np.inf:
        raise ValueError(f"fps must be above 0, got {fps}.")
    if not source.exists():
        raise FileNotFoundError(f"source must be a folder or a file of features, {source} does not exist.")
    kind = "folder" if source.is_dir() else source.suffix.lower()
    if kind == ".npy":
        return _array(source, Path(index or source.with_suffix(".csv")), fps)
    if index is None and kind in ("folder", ".csv"):
        return _files(source, fps) if kind == "folder" else _table(source, scratch, fps)
    raise ValueError(f"source must be a folder, a .csv, or a .npy with an index, got {source} and index {index}.")


def _files(folder: Path, fps: float | None) -> Features:
    paths = clips_by_name(folder, (folder / path for path in video_files(folder, is_array)))
    if not paths:
        raise ValueError(f"{folder} must hold a .npy or .npz per clip, got none.")
    listing = "".join(sorted(f"{file_sha256(p)}  {p.relative_to(folder).as_posix()}\n" for p in paths.values()))
    sha256 = hashlib.sha256(listing.encode()).hexdigest()
    return Features("files", list(paths), sha256, lambda name: _rows_of(paths[name], fps))


def _rows_of(path: Path, fps: float | None) -> Rows:
    """The rows of a clip's own file, whose arrays are known by name; an only array is the features."""
    try:
        arrays = read_arrays(path) if path.suffix == ".npz" else {"features": np.asarray(read_npy(path))}
        if len(arrays) == 1:
            arrays = {"features": next(iter(arrays.values()))}
        if "features" not in arrays:
            raise ValueError(f"it must hold an array 'features', got {', '.join(sorted(arrays)) or 'none'}.")
        return usable_rows(arrays["features"], {name: arrays[name] for name in COLUMNS if name in arrays}, fps)
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
    table = pd.concat([known for known, _ in table_chunks(index, features=False)])
    if "row" not in table and len(table) != len(array):
        raise ValueError(f"{index.name} must have a line per row of {path.name}, {len(array)}, got {len(table)}.")
    at = table.pop("row") if "row" in table else pd.Series(range(len(table)), table.index)
    odd = ~at.between(0, len(array) - 1) | at.duplicated()
    if odd.any():
        raise ValueError(
            f"{index.name} line {odd.idxmax()}: row must be 0 to {len(array) - 1}, each once, got "
            f"{at[odd.idxmax()]:g}. Take the index that belongs to {path.name}."
        )
    names, rows = _of_lines(index, table, partial(read_npy, path), at.to_numpy(np.int64), fps)
    return Features("array", names, file_sha256(path), rows, file_sha256(index))


def _table(path: Path, scratch: Path, fps: float | None) -> Features:
    """A CSV, turned into an array on disk some lines at a time: as text it may be larger than memory."""
    numbers = scratch / "features.float32"
    parts, width = [], 0
    with open(numbers, "wb") as file:
        for known, features in table_chunks(path, features=True):
            file.write(features.tobytes())
            parts.append(known)
            width = features.shape[1]
    table = pd.concat(parts).drop(columns="row", errors="ignore")
    mapped = partial(np.memmap, numbers, np.float32, "r", shape=(len(table), width))
    names, rows = _of_lines(path, table, mapped, np.arange(len(table)), fps)
    return Features("table", names, file_sha256(path), rows)


def _of_lines(
    path: Path, table: pd.DataFrame, mapped: Callable[[], np.ndarray], at: np.ndarray, fps: float | None
) -> tuple[list[str], Callable[[str], Rows]]:
    """Names of the clips in a table, whose index is the number of the line, and what gives the rows of one.

    `mapped` opens the array anew for each clip: pages once read do not stay in this process's memory. ValueError: two
    lines give a clip the same time.
    """
    known = (["t_start_s", "t_end_s"], ["t_s"], ["frame"])
    times = next((names for names in known if set(names) <= set(table.columns)), None)
    again = table[table.duplicated(["clip", *times])] if times else table[:0]
    if len(again):
        clip, time = again.iloc[0][["clip", times[0]]]
        raise ValueError(
            f"{path.name} line {again.index[0]}: {clip} must have one row at a time, got another with {times[0]} "
            f"{time:g}. Keep the right one."
        )
    lines = table.groupby("clip", sort=False).indices
    columns = {name: table[name].to_numpy() for name in table.columns if name != "clip"}

    def rows(name: str) -> Rows:
        mine = {column: values[lines[name]] for column, values in columns.items()}
        return usable_rows(np.asarray(mapped()[at[lines[name]]]), mine, fps)

    return list(lines), rows


def usable_rows(features: np.ndarray, columns: Mapping[str, np.ndarray], fps: float | None) -> Rows:
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


def table_chunks(path: Path, *, features: bool) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """Read a UTF-8 CSV some lines at a time; one line of it are the names of the columns.

    Yields:
        The columns that are known by name, their index the number of the line; and, with `features`, all others as
        float32 (n, D), NaN for an empty cell.

    Raises:
        ValueError: Not such a CSV, no column `clip`, or a cell that is not what its column holds, with its line.
    """
    reading: dict[str, Any] = {"encoding": "utf-8-sig", "low_memory": False}
    try:
        header = pd.read_csv(path, nrows=0, dtype=str, **reading).columns.tolist()
        known = [name for name in header if name in ("clip", "row", *COLUMNS)]
        others = [name for name in header if name not in known] if features else []
        if "clip" not in known:
            raise ValueError(f"{path.name} must have a column 'clip', got {', '.join(header[:8])}.")
        if features and not others:
            raise ValueError(f"{path.name} must have columns of features beside {', '.join(known)}, got none.")
        reading |= {"keep_default_na": False, "na_values": dict.fromkeys(others, NOT_A_NUMBER)}
        reading |= {"dtype": dict.fromkeys(known, str), "chunksize": CELLS_AT_A_TIME // len(header) + 1}
        line = 2
        with pd.read_csv(path, **reading) as chunks:
            for chunk in chunks:
                if not isinstance(chunk.index, pd.RangeIndex):
                    raise ValueError(f"{path.name} must have a name for each column, got lines with further cells.")
                chunk.index = range(line, line + len(chunk))
                line += len(chunk)
                for name in chunk[others].select_dtypes(exclude="number"):
                    _typed(path, chunk[name])
                with np.errstate(over="ignore"):  # too large for float32 is infinite, and then invalid
                    numbers = chunk[others].to_numpy(np.float32, na_value=np.nan)
                yield pd.DataFrame({name: _typed(path, chunk[name]) for name in known}), numbers
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not a CSV in UTF-8 ({' '.join(str(error).split())}).") from None
    if line == 2:
        raise ValueError(f"{path.name} must have lines below its column names, got none.")


def _typed(path: Path, cells: pd.Series) -> pd.Series:
    """A column with its type; a cell that is not what it must be is a ValueError with its line."""
    rule, typed = "be a number", cells.map(_exact).astype(np.float64)
    right = np.isfinite(typed) if cells.name in ("row", *COLUMNS) else typed.notna() | cells.isna()
    if cells.name == "clip":
        rule, typed, right = "name a clip", cells, cells.str.strip() != ""  # blanks may belong to it
    elif cells.name == "valid":
        typed = cells.str.strip().str.lower().map(FLAGS)
        rule, right = "be True or False", typed.notna()
    elif cells.name in ("row", "frame"):
        rule, right = "be a whole number", right & (typed % 1 == 0)
    if not right.all():
        line = right.idxmin()
        raise ValueError(f"{path.name} line {line}: {cells.name} must {rule}, got {cells[line]!r}.")
    return typed.astype(bool) if cells.name == "valid" else typed


def _exact(text: str) -> float:
    """The number that a text says, to the last bit, which readers of CSV miss; NaN for another text."""
    try:
        return float(text)
    except ValueError:
        return np.nan
