"""Features that other programs made become a stage like any other.

In: a folder of one `.npy`, `.npz` or `.csv` per clip, or one CSV of all; and the clips of a data folder. Out: the stage
folder `static/` or `dynamic/` of a run, which 05 aligns like those of 03 and 04.

Arrays are known by name: times in seconds as `t_s` (centre of a row: it is taken for a moment) or `t_start_s` and
`t_end_s`; if there are any, `frame` (first frame of a row in the video, from 0) and `valid`. Without times, a row
stands for its frame, at `fps` frames per second; without `frame`, rows are taken for frames 0, 1, 2, …. The columns of
a CSV (UTF-8, one line of names, `,` `;` or tab between cells) are known by the names in `ROLES`; all others are
features.
"""

import csv
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from tqdm.auto import tqdm

from helpers.clips import find_clips
from helpers.container import VideoError, open_video
from helpers.files import FolderLock, file_sha256
from helpers.names import match_clips
from helpers.precomputed import ARRAYS, clips_by_name, files_below, read_npy
from helpers.store import STREAMS, FeatureFile, Stage, read_arrays

log = logging.getLogger(__name__)

# Roles and the names they go by, in small letters with "_" between words, the first of each our own. Of OpenFace 2.2,
# py-feat, openSMILE and LibreFace, and as people name MediaPipe's results; "": neither known of a row nor a feature.
ROLES = {
    "clip": "clip video clip_id clip_name video_id video_name videoname file file_name filename file_path input name",
    "t_start_s": "t_start_s start_s start_time start",
    "t_end_s": "t_end_s end_s end_time end",
    "t_s": "t_s timestamp timestamp_s time time_s time_sec t seconds frametime frame_time",
    "t_ms": "t_ms timestamp_ms time_ms timestampms frame_time_in_ms milliseconds",
    "frame": "frame frame_number frame_idx frame_index frame_id frame_no frame_num framenumber",
    "valid": "valid success is_valid face_detected detected",
    "confidence": "confidence face_confidence facescore face_score detection_confidence presence visibility",
    "face": "face_id faceid face person_id person identity track_id",
    "": "index id level_0 row approx_time facerectx facerecty facerectwidth facerectheight frameheight framewidth "
    "facial_expression dominant_emotion unnamed_0",
}
ROLE_OF = {name: role for role, names in ROLES.items() for name in names.split()} | {"": ""}
TEXT = ("clip", "face")  # roles whose cells stay as they are
KNOWN = ("frame", "valid", "t_s", "t_start_s", "t_end_s")  # what may be known of a row
TABLES = re.compile(r".*\.[ct]sv", re.I)
SHOWN = 5  # reasons and names that an error lists
LONGER, LONGER_S = 1.1, 1.0  # than its video a clip's times may be: by this factor, and by so many seconds


class Rows(NamedTuple):
    """Rows as they were found.

    `known`: one column per role; the index says where in its file a row is. Times are in seconds, frames count from 0
    where that can be told, and `valid` is 0 where the confidence is not above 0. `features`: (n, D), NaN for an empty
    cell; its columns are called as in the CSV. `columns`: names of a CSV's columns: "features" (D), "known" by role,
    and "left_out", which are no features or without any number.
    """

    known: pd.DataFrame
    features: pd.DataFrame
    columns: dict[str, Any] = {}  # noqa: RUF012  never changed


def import_features(
    source: str | Path,
    out: str | Path,
    stream: str,
    *,
    data: str | Path,
    fps: float | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Make a run's stage out of features from elsewhere; started again, it goes on. Returns the stage's manifest.

    Rows are brought into the order of time. What cannot be used is left out with its reason in the manifest: rows that
    are not finite or that another program marked as failed; names that fit no clip or several; clips without a valid
    row, with rows of several faces, or of other columns than the first.

    Args:
        source: A folder, or a `.csv` (also `.tsv`, `.txt`), which is held in memory.
        out, data: Folders of the run and of its clips, whose names are matched as those of ratings are.
        stream: "static" or "dynamic", which becomes the name of the stage.
        fps: Frames per second, for rows without times.

    Raises:
        FileNotFoundError: The source is missing.
        ValueError: A damaged table; no clip that can be used; a stage that is there already and was made otherwise.
    """
    if stream not in STREAMS or not 0 < (fps or 1) < np.inf:
        raise ValueError(f"stream must be {' or '.join(STREAMS)} and fps above 0, got {stream!r} and {fps}.")
    source, out, clips = Path(source), Path(out), find_clips(data)
    with FolderLock(out):
        layout, sources = _open(source)
        named, refused = match_clips(sources, clips.index, data)
        readers = {
            key: partial(_read_clip, sources[name][1], Path(data) / clips.at[key, "path"], fps)
            for key, name in named.items()
        }
        first = _first(readers, refused)
        made_with = {"source": str(source.resolve()), "columns": first.columns}
        with Stage(out / stream, stream, _identity(layout, source, fps, first.columns), made_with) as stage:
            for name, reason in refused.items():
                log.warning("%s is left out: %s", name, reason)
                stage.fail(name, reason)
            counts = Counter(dict.fromkeys(("made", "found", "failed", "rows", "invalid_rows"), 0))
            for key in tqdm(clips.index, unit="clip", disable=not progress):
                version = sources[named[key]][0] if key in named else ""
                counts.update(_import_clip(stage, key, version, readers.get(key), first))
            about = {"clips": len(clips), "unmatched": len(refused), "feature_dim": first.features.shape[1]}
            return stage.finish(**about, **counts)


def _import_clip(stage: Stage, key: str, version: str, read: Callable | None, like: Rows) -> dict[str, int]:
    """Write the rows of a clip if they are not there yet, and count them."""
    try:
        if not read:
            raise ValueError("there are no features of it in the source")
        rows, _ = read(like)
    except ValueError as error:
        log.warning("%s is left out: %s", key, error)
        stage.fail(key, str(error))
        stage.path(key).unlink(missing_ok=True)  # of an earlier import, when it could be used
        return {"failed": 1}
    done, invalid = stage.done(key, version), np.flatnonzero(~rows.valid).tolist()
    if not done:
        stage.write(key, rows, version)
    for row in invalid:
        stage.fail(key, str(rows.reason[row]), row)
    return {"found" if done else "made": 1, "rows": len(rows.valid), "invalid_rows": len(invalid)}


def _identity(layout: str, source: Path, fps: float | None, columns: dict[str, Any]) -> dict[str, Any]:
    """What decides the numbers beside each clip's own file; renamed and left-out columns only where there are any."""
    external: dict[str, Any] = {"layout": layout, "fps": fps}
    renamed = {role: name for role, name in columns.get("known", {}).items() if role != name}
    if renamed or columns.get("left_out"):
        external["columns"] = {"renamed": renamed, "left_out": columns["left_out"]}
    weights = {"name": "external", "source": source.name, "sha256": ""}  # of features: in each clip's file
    return {"parameters": {"weights": "external"}, "weights": weights, "external": external}


def as_text(manifest: Mapping[str, Any]) -> str:
    """What was taken, and what the columns of a CSV became, in lines of YAML."""
    said = manifest["counts"] | {"columns": manifest["made_with"]["columns"]}
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120).rstrip()


def _first(readers: Mapping[str, Callable], refused: Mapping[str, str]) -> Rows:
    """What was found of the first clip that can be used: there must be one before anything is written."""
    reasons = {}
    for name, read in readers.items():
        try:
            return read()[1]
        except ValueError as error:
            reasons[name] = error
    got = "; ".join([f"{name}: {reason}" for name, reason in {**reasons, **refused}.items()][:SHOWN])
    raise ValueError(f"a clip at least must have usable features, got none: {got}. Call them by key.")


def _read_clip(
    read: Callable[[], Rows], video: Path, fps: float | None, like: Rows | None = None
) -> tuple[FeatureFile, Rows]:
    """The rows of a clip, also as found; ValueError where none can be used, or their columns are not as in `like`."""
    found = read()
    columns = (like or found).features.columns
    if odd := sorted({*found.features} ^ {*columns}):
        n, others = found.features.shape[1], len(columns)
        raise ValueError(f"its rows must have the {others} columns of the others, got {n}, {odd[0]!r} in one only.")
    rows = usable_rows(found.features[columns].to_numpy(), found.known, fps)
    if not rows.valid.any():
        raise ValueError(f"none of its {len(rows.valid)} rows is valid (the first: {rows.reason[0]}).")
    _check_times(float(rows.t_start_s.max()), video)
    return rows, found


def _check_times(last_s: float, video: Path) -> None:
    """Refuse times beyond the end of a clip; where its length cannot be looked up, they are taken as they are."""
    with suppress(OSError, VideoError), open_video(video) as opened:
        if last_s > LONGER * opened.duration_s + LONGER_S:
            what = f"its rows must lie within its video of {opened.duration_s:.1f} s, got {last_s:g} s"
            raise ValueError(f"{what}. Say t_ms if times are in milliseconds; if there are none, give the rows' fps.")


def usable_rows(features: np.ndarray, known: pd.DataFrame, fps: float | None) -> FeatureFile:
    """Rows of one clip in the order of time; those with values that are not finite are zero and invalid.

    `features`: numbers (n, D). `known`: some of `KNOWN` of each row, numbers, and its "face"; the index says where a
    row stands. `fps`: frames per second, for rows without times. `frame` becomes -1 where it is unknown.
    """
    if len(faces := known.get("face", pd.Series(dtype=str)).dropna().str.strip().unique()) > 1:
        raise ValueError(f"its rows must be of one face, got {', '.join(faces[:SHOWN])}. Keep those of one.")
    known = known[[name for name in KNOWN if name in known]].astype(np.float64)
    times, given = _placed(known, fps), known.get("valid", pd.Series(1, known.index))
    start_s, end_s, frame = times.to_numpy().T
    timed = np.isfinite(times).all(axis=1) & (start_s <= end_s) & (frame % 1 == 0)
    repeated = times.duplicated(["start", "end"])
    rules = {"have a time, and a whole frame": timed, "be the only row of its time": ~repeated}
    for rule, holds in (rules | {"be valid (1) or not (0)": given.isin([0, 1])}).items():
        if not holds.all():
            raise ValueError(f"line {holds.idxmin()} must {rule}, got {dict(times.loc[holds.idxmin()])}.")
    with np.errstate(over="ignore"):  # too large for float32 is infinite
        features = features.astype(np.float32)
    order = np.argsort((start_s + end_s) / 2, kind="stable")
    features, given = features[order], given.to_numpy(bool)[order]
    finite = np.isfinite(features)
    why = [f"value {value} is not finite" for value in finite.argmin(axis=1)]
    reason = np.where(finite.all(axis=1), np.where(given, "", "marked invalid where it was made"), why)
    features[~finite.all(axis=1)] = 0
    start_s, end_s, frame = start_s[order], end_s[order], frame[order].astype(np.int64)
    return FeatureFile(features, start_s, end_s, frame, reason == "", reason=reason if reason.any() else None)


def _placed(known: pd.DataFrame, fps: float | None) -> pd.DataFrame:
    """Start and end of each row in seconds, and its first frame, -1 where it is unknown; index as `known`."""
    if {"t_start_s", "t_end_s"} <= {*known}:
        start_s, end_s = known["t_start_s"], known["t_end_s"]
    elif "t_s" in known:
        start_s = end_s = known["t_s"]
    elif {"t_start_s", "t_end_s"} & {*known}:
        raise ValueError("t_start_s and t_end_s must come together, got one of the two.")
    elif fps is None:
        raise ValueError("rows must have times (t_s, or t_start_s and t_end_s), got none. Give fps.")
    else:
        frame = known.get("frame", pd.Series(range(len(known)), known.index))
        return pd.DataFrame({"start": frame / fps, "end": (frame + 1) / fps, "frame": frame})
    return pd.DataFrame({"start": start_s, "end": end_s, "frame": known.get("frame", -1)})


def _open(source: Path) -> tuple[str, dict[str, tuple[str, Callable[[], Rows]]]]:
    """The layout of a source; by what it calls a clip, the version of the clip's file and what reads its rows."""
    if not source.exists():
        raise FileNotFoundError(f"source must be a folder or a file of features, {source} does not exist.")
    if source.is_dir():
        if not (paths := clips_by_name(source, files_below(source, ARRAYS, TABLES))):
            raise ValueError(f"{source} must hold a .npy, .npz or .csv per clip, got none. Save them as such.")
        of_arrays = ARRAYS.fullmatch(next(iter(paths.values())).name)
        layout, read = ("files", _read_arrays) if of_arrays else ("tables", read_table)
        return layout, {name: (file_sha256(path)[:16], partial(read, path)) for name, path in paths.items()}
    if source.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise ValueError(f"source must be a folder or a .csv, got {source}. Unpack it, or save it as one of these.")
    return "table", _open_table(source)


def _open_table(source: Path) -> dict[str, tuple[str, Callable[[], Rows]]]:
    """The rows of each clip in a table of many, and the version of it."""
    table, version = read_table(source), file_sha256(source)[:16]
    if "clip" not in table.known:
        got = ", ".join([*table.columns["known"].values(), *table.features, *table.columns["left_out"]][:8])
        raise ValueError(f"{source.name} must have a column 'clip', got {got}. Add it, or give a file per clip.")
    if (nameless := table.known["clip"].isna()).any():
        raise ValueError(f"{source.name} line {nameless.idxmax()} must name its clip.")

    def rows(places: np.ndarray) -> Rows:
        return Rows(table.known.iloc[places], table.features.iloc[places], table.columns)

    places = table.known.groupby("clip", sort=False).indices
    return {name: (version, partial(rows, at)) for name, at in places.items()}


def _read_arrays(path: Path) -> Rows:
    """The rows of a clip's own npy or npz, whose arrays are known by name; an only array is the features."""
    try:
        arrays = read_arrays(path) if path.suffix == ".npz" else {"features": np.asarray(read_npy(path))}
        features = arrays.get("features", next(iter(arrays.values()))) if len(arrays) == 1 else arrays["features"]
        if features.ndim != 2 or 0 in features.shape or features.dtype.kind not in "fiu":
            raise ValueError(f"features must be numbers of shape (n, D), got {features.dtype} {features.shape}.")
        known, n = {name: arrays[name] for name in KNOWN if name in arrays}, len(features)
        for name, array in known.items():
            if array.shape != (n,) or array.dtype.kind not in "fiub":
                raise ValueError(f"{name} must be {n} numbers like the rows, got {array.dtype} {array.shape}.")
        return Rows(pd.DataFrame(known, range(n)), pd.DataFrame(features))
    except KeyError:
        raise ValueError(f"it must hold an array 'features', got {', '.join(arrays) or 'none'}.") from None


def read_table(path: Path) -> Rows:
    """Read a CSV; of several columns with one role that one counts whose name comes first in `ROLES`.

    A cell of a feature that is no number becomes NaN, and a column without any number is left out. ValueError: no CSV
    in UTF-8, no lines, two columns of one name, no features.
    """
    try:
        separator, head, names = _head(path)
        plain = [re.sub(r"[^0-9a-z]+", "_", name.casefold()).strip("_") if name.isascii() else name for name in names]
        found = {ROLE_OF[word]: plain.index(word) for word in reversed(ROLE_OF) if word in plain}  # the first counts
        roles = {role: found[role] for role in ROLES if role and role in found}
        text = [roles[role] for role in TEXT if role in roles]
        cells = _cells(path, separator, head, len(names), text)
        if roles:  # without, the place of a row is its frame
            cells = cells[~cells.isna().all(axis=1)]
        if cells.empty:
            raise ValueError("it has no lines below the names of its columns")
    except ValueError as error:  # pandas' errors are such, too
        raise ValueError(f"{path.name} is not a CSV in UTF-8 ({' '.join(str(error).split())}).") from None
    numbers = cells.drop(columns=text).apply(_as_numbers, decimal="." if separator == "," else ",")
    known = pd.DataFrame({role: (cells if role in TEXT else numbers)[at] for role, at in roles.items()}, cells.index)
    features = numbers[[at for at, word in enumerate(plain) if word not in ROLE_OF]].dropna(axis=1, how="all")
    if features.empty:
        raise ValueError(f"{path.name} must have columns of features beside {', '.join(names)}, got none.")
    left_out = [name or "(no name)" for at, name in enumerate(names) if at not in (*features, *roles.values())]
    features.columns = [names[at] for at in features]
    said = {"features": [*features], "known": {role: names[at] for role, at in roles.items()}, "left_out": left_out}
    return Rows(_tidied(known), features, said)


def _head(path: Path) -> tuple[str, int, list[str]]:
    """What separates cells, the number of lines before the first row, and the names of the columns."""
    with open(path, encoding="utf-8-sig") as file:
        first, second = file.readline(), file.readline()
    by_excel = re.fullmatch('"?sep=(.)"?\n', first, re.I)
    line = second if by_excel else first
    separator = by_excel[1] if by_excel else max(",;\t", key=line.count)
    names = [name.strip() for name in next(csv.reader([line], delimiter=separator), ())]
    if not any(names) or len(set(filter(None, names))) < sum(map(bool, names)):
        raise ValueError(f"its columns must have different names, got {', '.join(names) or 'none'}")
    return separator, 1 + bool(by_excel), names


def _cells(path: Path, separator: str, head: int, n: int, text: list[int]) -> pd.DataFrame:
    """Cells by place, those at `text` as they are, NaN where they are empty; the index is the line."""
    how = {"sep": separator, "skiprows": head, "header": None, "names": range(n + 1), "index_col": False}
    how |= {"encoding": "utf-8-sig", "low_memory": False, "skip_blank_lines": False}
    how |= {"na_values": [""], "keep_default_na": False}  # a clip may be called "NA"
    cells = pd.read_csv(path, dtype=dict.fromkeys(text, str), **how)
    cells.index += head + 1
    if (more := cells.pop(n).notna()).any():  # an empty cell is behind a last separator
        raise ValueError(f"line {more.idxmax()} has more cells than there are names")
    return cells


def _as_numbers(column: pd.Series, decimal: str) -> pd.Series:
    """The numbers in a column, also flags, and times `0 days 00:00:01.50` of openSMILE in seconds; else NaN."""
    if column.dtype.kind in "fiub":
        return column.astype(float)
    text = column.astype(str).str.strip()
    times = pd.to_timedelta(text.where(text.str.contains(":")), errors="coerce").dt.total_seconds()
    flags = text.str.casefold().map({"true": 1.0, "false": 0.0})
    return pd.to_numeric(text.str.replace(decimal, "."), errors="coerce").astype(float).fillna(times).fillna(flags)


def _tidied(known: pd.DataFrame) -> pd.DataFrame:
    if "t_ms" in known:
        known = known.assign(t_s=known.get("t_s", known["t_ms"] / 1000))
    if "confidence" in known:
        known = known.assign(valid=known.get("valid", 1) * (known["confidence"] > 0))
    if {"frame", "t_s"} <= {*known} and ((known["frame"] == 1) & (known["t_s"] == 0)).any():
        known = known.assign(frame=known["frame"] - 1)  # other programs count from 1, as their times tell
    return known
