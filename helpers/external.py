"""Features that other programs made become a stage like any other.

In: a folder of one `.npy`, `.npz` or `.csv` per clip, one `.npy` with an index CSV, or one CSV; and the clips of a data
folder. Out: the stage folder `static/` or `dynamic/` of a run, which 05 aligns like those of 03 and 04.

Arrays are known by name: times in seconds as `t_s` (centre of a row: it is taken for a moment) or `t_start_s` and
`t_end_s`; if there are any, `frame` (first frame of a row in the video, from 0) and `valid`. Without times, a row
stands for its frame, at `fps` frames per second; without `frame`, rows are taken for frames 0, 1, 2, …. The columns of
a CSV are known by these names and by those of other programs (`helpers.feature_table`); all others are features.
"""

import hashlib
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from helpers import matching
from helpers.clips import find_clips
from helpers.container import VideoError, open_video
from helpers.feature_table import FeatureTable, open_table
from helpers.files import FolderLock, file_sha256
from helpers.names import NO_CLIP, match_clips
from helpers.precomputed import clips_by_name, files_below, is_array, kinds_as_text, read_npy
from helpers.store import STREAMS, FeatureFile, Stage, read_arrays

log = logging.getLogger(__name__)

KNOWN = ("frame", "valid", "t_s", "t_start_s", "t_end_s")  # what may be known of a row
TABLES = (".csv", ".tsv")
SHOWN = 5  # names that an error lists
LONGER, LONGER_S = 1.1, 1.0  # than its video a clip's times may be: by this factor, and by so many seconds

Rows = tuple[FeatureFile, dict[int, str]]  # of a clip, and the reason of every invalid one by its number


@dataclass(frozen=True)
class Features:
    """Features of many clips as they were found.

    `kind`: "files", "array", "table" or "tables". `names`: what the files call the clips. `sha256`: of the file; of a
    folder, of the sorted lines `<sha256>  <path>`. `rows`: from a name to its rows, or a ValueError. `index_sha256`:
    of an array's index. `columns`: see `FeatureTable.about`. `other_faces`: number of their rows, which are left out.
    `passed_over`: number of other files by suffix.
    """

    kind: str
    names: list[str]
    sha256: str
    rows: Callable[[str], Rows]
    index_sha256: str = ""
    columns: dict[str, Any] = field(default_factory=dict)
    other_faces: int = 0
    passed_over: Mapping[str, int] = field(default_factory=dict)


def import_features(
    source: str | Path,
    out: str | Path,
    stream: str,
    *,
    data: str | Path,
    index: str | Path | None = None,
    fps: float | None = None,
    columns: Sequence[str] = (),
    skip_unmatched: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Make a run's stage out of features from elsewhere; started again, it goes on.

    Rows are brought into the order of time. Rows with values that are not finite, or that another program marked as
    failed, become invalid, with the reason in the manifest; a clip whose file is damaged, and one of the data folder
    without features, is there as failed. Of several faces in a clip the one with the most valid rows is taken, of two
    alike the surer one; the others' rows are counted. The manifest's `made_with.columns` says what the columns of a
    CSV became.

    Args:
        source: A folder, a `.npy`, or a `.csv` (also `.tsv`, `.txt`).
        out: The run's folder.
        stream: "static" or "dynamic", which becomes the name of the stage.
        data: The folder of clips. Features belong to the clip with that key, or whose key ends in the name.
        index: Index CSV of a `.npy`, default: the file of the same name with `.csv`. Its lines are those of the array
            in order, or a column `row` says which, from 0.
        fps: Frames per second, for rows without times.
        columns: Patterns (`AU*_r`) of the columns of a CSV that are features, default: all that are not known.
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
        features = _open(source, Path(scratch), index, fps, columns)
        named, refused = _match(features.names, clips, Path(data))
        if refused and (not skip_unmatched or not named):
            listed = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:SHOWN])
            must = f"{len(refused)} names in {source.name} must fit one clip each, got {listed}"
            raise ValueError(f"{must}. Check the data folder, call them by key, or leave them out (skip_unmatched).")
        videos = {key: Path(data) / path for key, path in clips["path"].items()}
        failed, width = _survey(features, named, videos, progress)
        failed |= {key: f"there are no features of it in {source.name}" for key in clips.index if key not in named}
        identity = {
            "parameters": {"weights": "elsewhere"},
            "weights": {"name": "elsewhere", "source": source.name, "sha256": features.sha256},
            "elsewhere": {"layout": features.kind, "index_sha256": features.index_sha256, "fps": fps},
        }
        renamed = {role: name for role, name in features.columns.get("known", {}).items() if role != name}
        if renamed or features.columns.get("left_out"):
            identity["elsewhere"]["columns"] = {"renamed": renamed, "left_out": features.columns["left_out"]}
        passed_over = dict(features.passed_over)
        made_with = {"source": str(source.resolve()), "columns": features.columns, "passed_over": passed_over}
        counts = {"clips": len(clips), "made": 0, "found": 0, "failed": len(failed), "rows": 0, "invalid_rows": 0}
        counts["other_faces"] = features.other_faces
        with Stage(out / stream, stream, identity, made_with) as stage:
            for key, reason in [*refused.items(), *failed.items()]:
                log.warning("%s is left out: %s", key, reason)
                stage.fail(key, reason)
            for key in clips.index:
                if key in failed:
                    stage.path(key).unlink(missing_ok=True)  # of an earlier import, when it could be told from others
                else:
                    _write_clip(stage, key, features.rows(named[key]), features.sha256[:16], counts)
            return stage.finish(**counts, feature_dim=width, unmatched=len(refused))


def as_lines(manifest: Mapping[str, Any]) -> list[str]:
    """What the features of a stage were made of, in words."""
    lines = []
    for what, names in manifest["made_with"]["columns"].items():
        if what == "known":
            names = [f"{name} as {role}" if name != role else name for role, name in names.items()]
        few = [*names[:SHOWN], "…", *names[-SHOWN:]] if len(names) > 2 * SHOWN else names
        lines += [f"{len(names)} columns are {what.replace('_', ' ')}: {', '.join(few)}"] * bool(names)
    if others := manifest["counts"]["other_faces"]:
        lines.append(f"{others} rows of other faces left out: of each clip the face with the most valid rows is taken")
    passed_over = manifest["made_with"]["passed_over"]
    return lines + [f"files passed over: {kinds_as_text(passed_over)}"] * bool(passed_over)


def _match(names: Sequence[str], clips: pd.DataFrame, data: Path) -> tuple[dict[str, str], dict[str, str]]:
    """As `match_clips`; what fits no clip is then taken for a name of another computer, see `matching`."""
    named, refused = match_clips(names, clips.index)
    lost = [name for name, reason in refused.items() if reason == NO_CLIP]
    matched = matching.match_names(lost, clips.assign(split=""), root=data)
    for name, key, rule in matched.itertuples(index=False):
        if not key or named.setdefault(key, name) != name:
            refused[name] = f"{named[key]} means the same clip {key}" if key else rule
        else:
            del refused[name]
    for line in matching.as_lines(matched[matched["key"] != ""], "features"):
        log.info("%s", line)
    return named, refused


def _survey(
    features: Features, named: dict[str, str], videos: Mapping[str, Path], progress: bool
) -> tuple[dict[str, str], int]:
    """Read every clip once before the first is written: the reasons of those that cannot be used, and the width."""
    failed: dict[str, str] = {}
    widths: dict[int, str] = {}
    for key, name in tqdm(named.items(), unit="clip", disable=not progress):
        with _costs(key, failed):
            rows, reasons = features.rows(name)
            if not rows.valid.any():
                raise ValueError(f"none of its {len(rows.valid)} rows is valid (the first: {reasons[0]}).")
            _check_times(float(rows.t_start_s.max()), videos[key])
            widths.setdefault(rows.features.shape[1], name)
    if not widths:
        raise ValueError(f"a clip at least must have usable features, got none of {len(named)}: {min(failed.values())}")
    if len(widths) > 1:
        each = " and ".join(f"{width} for {name}" for width, name in list(widths.items())[:2])
        raise ValueError(f"features must be of one width, got {each}. Take those of one network.")
    return failed, next(iter(widths))


def _check_times(last_s: float, video: Path) -> None:
    """Refuse times beyond the end of a clip; where its length cannot be looked up, they are taken as told."""
    with suppress(OSError, av.FFmpegError, VideoError), av.open(str(video)) as container:
        if last_s <= LONGER * (container.duration or np.inf) / av.time_base + LONGER_S:
            return
        with open_video(video) as opened:  # a header may be wrong
            length_s = opened.duration_s
        if last_s > LONGER * length_s + LONGER_S:
            what = f"its rows must lie within its video of {length_s:.1f} s, got {last_s:g} s"
            raise ValueError(f"{what}. Say t_ms if times are in milliseconds; if there are none, give the rows' fps.")


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


def _open(source: Path, scratch: Path, index: str | Path | None, fps: float | None, wanted: Sequence[str]) -> Features:
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
        return _tables({"": source}, scratch, fps, wanted, file_sha256(source))
    must = f"source must be a folder, a .csv, or a .npy with an index, got {source} and index {index}"
    raise ValueError(f"{must}. Unpack it, or save it as one of these.")


def _folder(folder: Path, scratch: Path, fps: float | None, wanted: Sequence[str]) -> Features:
    """A file per clip: arrays, or where there are none, CSVs."""
    found, others = files_below(folder, is_array)
    if tables := not found:
        found, others = files_below(folder, lambda name: name.lower().endswith(TABLES))
    if not found:
        there = f" ({kinds_as_text(others)} must be saved as one of these)" if others else ""
        raise ValueError(f"{folder} must hold a .npy or .npz per clip, got none, nor a .csv of each{there}.")
    paths = clips_by_name(folder, found)
    listing = "".join(sorted(f"{file_sha256(p)}  {p.relative_to(folder).as_posix()}\n" for p in paths.values()))
    sha256 = hashlib.sha256(listing.encode()).hexdigest()
    if tables:
        return replace(_tables(paths, scratch, fps, wanted, sha256), kind="tables", passed_over=others)
    return Features("files", list(paths), sha256, lambda name: _rows_of(paths[name], fps), passed_over=others)


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
        what = "an array needs an index CSV whose column 'clip' says whose its rows are"
        raise FileNotFoundError(f"{index} is missing: {what}. Name it.")
    array = read_npy(path)
    if array.ndim != 2:
        raise ValueError(f"{path.name} must have shape (n, D), got {array.shape}.")
    if "clip" not in (columns := replace(open_table(index), features=())).known:
        raise _no_clip(columns)
    table = pd.concat([known for known, _ in columns.chunks()])
    if "row" not in table and len(table) != len(array):
        raise ValueError(f"{index.name} must have a line per row of {path.name}, {len(array)}, got {len(table)}.")
    at = table.pop("row") if "row" in table else pd.Series(range(len(table)), table.index)
    odd = ~at.between(0, len(array) - 1) | at.duplicated() | (at % 1 != 0)
    if odd.any():
        must = f"{index.name} line {odd.idxmax()}: row must be 0 to {len(array) - 1}, each once"
        raise ValueError(f"{must}, got {at[odd.idxmax()]:g}. Take the index that belongs to {path.name}.")
    table = table.assign(line=table.index, file=index.name)
    numbers = at.to_numpy(np.int64)
    names, rows, others = _of_lines(table, lambda lines: np.asarray(read_npy(path)[numbers[lines]]), fps, {})
    return Features("array", names, file_sha256(path), rows, file_sha256(index), other_faces=others)


def _tables(
    paths: Mapping[str, Path], scratch: Path, fps: float | None, wanted: Sequence[str], sha256: str
) -> Features:
    """CSVs, turned into one array on disk some lines at a time: as text they may be larger than memory.

    `paths` by what the clips are called, "" for a single CSV of many clips, which is refused for what in a folder costs
    a file's own clip only. A column `clip` tells better whose the rows are. All files must have the columns that most
    of them have.
    """
    numbers, size, tables, failed, parts = scratch / "features.float32", 0, {}, {}, []
    numbers.touch()
    for name, path in paths.items():
        with _costs(name, failed):
            tables[name] = _opened(path, wanted, needs_clip=not name)
    kinds = Counter(frozenset(table.names) for table in tables.values())
    first = max(tables.values(), key=lambda table: kinds[frozenset(table.names)], default=None)
    for name, table in tables.items():
        with _costs(name, failed):
            os.truncate(numbers, size)  # what was written of one that failed
            known, found = _append(numbers, table.ordered_like(first))
            parts.append((known if "clip" in table.names or not name else known.assign(clip=name), found))
            size = numbers.stat().st_size
    if not parts:
        got = "" if "" in paths else f"a clip at least must have usable features, got none of {len(paths)}: "
        raise ValueError(got + min(failed.values()))
    table, used = pd.concat([known for known, _ in parts], ignore_index=True), np.any([found for _, found in parts], 0)

    def read(lines: np.ndarray) -> np.ndarray:  # mapped anew: pages once read do not stay in this process's memory
        return np.memmap(numbers, np.float32, "r", shape=(len(table), len(used)))[lines][:, used]

    names, rows, others = _of_lines(table, read, fps, failed)
    return Features("table", names, sha256, rows, columns=first.about(used), other_faces=others)


@contextmanager
def _costs(name: str, failed: dict[str, str]) -> Iterator[None]:
    """Let what is wrong with a clip's features be the reason why the clip is left out."""
    try:
        yield
    except ValueError as error:
        failed[name] = str(error)


def _opened(path: Path, wanted: Sequence[str], needs_clip: bool) -> FeatureTable:
    table = open_table(path, wanted)
    if needs_clip and "clip" not in table.known:
        raise _no_clip(table)
    if not table.features:
        raise ValueError(f"{path.name} must have columns of features beside {', '.join(table.names)}, got none.")
    return table


def _no_clip(table: FeatureTable) -> ValueError:
    got = f"{table.path.name} must have a column 'clip', got {', '.join(table.names[:8])}"
    return ValueError(f"{got}. Add it, or name the folder of a file per clip.")


def _append(numbers: Path, table: FeatureTable) -> tuple[pd.DataFrame, np.ndarray]:
    """Add a table's features to a file; what is known of its rows, and which features have a number anywhere."""
    parts, found = [], np.zeros(len(table.features), bool)
    with open(numbers, "ab") as file:
        for known, features in table.chunks():
            file.write(features.tobytes())
            found |= ~np.isnan(features).all(0)
            parts.append(known.assign(line=known.index, file=table.path.name))
    known = pd.concat(parts)
    if {"frame", "t_s"} <= {*known}:  # other programs count from 1, as their times tell
        known["frame"] -= float(((known["frame"] == 1) & (known["t_s"] == 0)).any())
    return known, found


def _of_lines(
    table: pd.DataFrame, read: Callable[[np.ndarray], np.ndarray], fps: float | None, failed: Mapping[str, str]
) -> tuple[list[str], Callable[[str], Rows], int]:
    """Names of the clips in a table, what gives the rows of one, and how many rows are left out, as of other faces.

    `table`: `clip`, `file`, `line` and what is known of each row. `read`: from numbers of rows to their features.
    `failed`: reasons of clips that it says nothing of.
    """
    main = _main_faces(table)
    lines = {name: np.flatnonzero(main)[at] for name, at in table[main].groupby("clip", sort=False).indices.items()}
    columns = {name: table[name].to_numpy() for name in (*KNOWN, "file", "line") if name in table}

    def rows(name: str) -> Rows:
        if name in failed:
            raise ValueError(failed[name])
        mine = {column: values[lines[name]] for column, values in columns.items()}
        file, line = mine.pop("file"), mine.pop("line")
        return usable_rows(read(lines[name]), mine, fps, lambda i: f"{file[i]} line {line[i]}: {name}")

    return [*lines, *failed], rows, int((~main).sum())


def _main_faces(table: pd.DataFrame) -> np.ndarray:
    """Which rows are of the face of their clip that has the most valid rows, or of two alike the surer one, bool."""
    if "face" not in table:
        return np.ones(len(table), bool)
    faces = table.assign(valid=table.get("valid", True), confidence=table.get("confidence", 1.0))
    faces = faces.groupby(["clip", "face"], sort=False, as_index=False).agg({"valid": "sum", "confidence": "mean"})
    main = faces.sort_values(["valid", "confidence"], ascending=False, kind="stable").drop_duplicates("clip")
    return pd.MultiIndex.from_frame(table[["clip", "face"]]).isin(pd.MultiIndex.from_frame(main[["clip", "face"]]))


def usable_rows(
    features: np.ndarray,
    columns: Mapping[str, np.ndarray],
    fps: float | None,
    place: Callable[[int], str] = "row {}: the clip".format,
) -> Rows:
    """Rows of one clip in the order of time; those with values that are not finite are zero and invalid.

    Args:
        features: Numbers (n, D).
        columns: Some of `frame`, `valid` and `TIMES`, each (n,).
        fps: Frames per second, for rows without times.
        place: Says of which clip a row is, and where.

    Returns:
        The rows, `frame` -1 where it is unknown, and the reason of every invalid one by its number.
    """
    if features.ndim != 2 or 0 in features.shape or features.dtype.kind not in "fiu":
        raise ValueError(f"features must be numbers of shape (n, D), got {features.dtype} {features.shape}.")
    for name, column in columns.items():
        if column.shape != (len(features),) or column.dtype.kind not in "fiub":
            raise ValueError(f"{name} must be numbers of shape ({len(features)},), got {column.dtype} {column.shape}.")
    columns = {name: column.astype(np.float64) for name, column in columns.items()}
    start_s, end_s, frame = _placed(columns, len(features), fps)
    wrong = ~(np.isfinite(start_s) & np.isfinite(end_s) & (end_s >= start_s) & (frame % 1 == 0))
    if wrong.any():
        i = int(wrong.argmax())
        got = f"frame {frame[i]:g}, {start_s[i]:g} to {end_s[i]:g} s"
        raise ValueError(f"{place(i)} must have a whole frame and end when or after it starts, got {got}.")
    if (twice := pd.DataFrame({"start": start_s, "end": end_s}).duplicated()).any():
        i = int(twice.argmax())
        got = f"got another at {start_s[i]:g} s. Keep the right one."
        raise ValueError(f"{place(i)} must have one row at a time, {got}")
    with np.errstate(over="ignore"):
        features = features.astype(np.float32)
    given = columns.get("valid", np.ones(len(features))).astype(bool)
    order = np.argsort((start_s + end_s) / 2, kind="stable")
    features, given = features[order], given[order]
    finite = np.isfinite(features)
    usable = finite.all(axis=1)
    reasons = {int(i): "marked invalid where it was made" for i in np.flatnonzero(~given)}
    reasons |= {int(i): f"value {int(finite[i].argmin())} is not finite" for i in np.flatnonzero(~usable)}
    features[~usable] = 0
    return FeatureFile(features, start_s[order], end_s[order], frame[order].astype(np.int64), given & usable), reasons


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
    return start_s, end_s, np.full(n, -1) if frame is None else frame
