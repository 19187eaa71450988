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
import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from helpers.clips import find_clips
from helpers.container import VideoError, open_video
from helpers.files import FolderLock, file_sha256
from helpers.names import match_clips
from helpers.precomputed import clips_by_name, files_below, is_array, read_npy
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
TEXT = ("clip", "face")  # roles whose cells stay as they are: blanks may belong to a name
KNOWN = ("frame", "valid", "t_s", "t_start_s", "t_end_s")  # what may be known of a row
NOT_A_NUMBER = ["", "nan", "NaN", "NA", "null"]
FLAGS = {"true": 1.0, "false": 0.0}
TABLES = (".csv", ".tsv")
SHOWN = 5  # names that a line lists
LONGER, LONGER_S = 1.1, 1.0  # than its video a clip's times may be: by this factor, and by so many seconds


class Rows(NamedTuple):
    """Rows as they were found.

    Attributes:
        known: One column per role; the index says where in its file a row is. Times are in seconds, frames count from
            0 where that can be told, and `valid` is 0 where the confidence is not above 0.
        features: (n, D), NaN for an empty cell.
        columns: Names of a CSV's columns: "features" (D), "known" by role, and "left_out", which are no features or
            without any number.
    """

    known: pd.DataFrame
    features: np.ndarray
    columns: dict[str, Any] = {}  # noqa: RUF012  never changed


class Clip(NamedTuple):
    """Rows of a clip in the order of time, the reason of every invalid one by its number, the names of its columns, and
    how many rows of other faces were left out.
    """

    rows: FeatureFile
    reasons: dict[int, str]
    columns: dict[str, Any]
    other_faces: int


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
    row, or of other columns than the first. Of several faces in a clip the one with the most valid rows is taken, of
    two alike the surer one.

    Args:
        source: A folder, or a `.csv` (also `.tsv`, `.txt`), which is held in memory.
        out, data: Folders of the run and of its clips, whose names are matched as those of ratings are.
        stream: "static" or "dynamic", which becomes the name of the stage.
        fps: Frames per second, for rows without times.

    Raises:
        FileNotFoundError: The source is missing.
        ValueError: A damaged table, with line and column; no clip that can be used; a stage that is there already and
            was made otherwise.
    """
    if stream not in STREAMS or not 0 < (fps or 1) < np.inf:
        raise ValueError(f"stream must be {' or '.join(STREAMS)} and fps above 0, got {stream!r} and {fps}.")
    source, out, clips = Path(source), Path(out), find_clips(data)
    with FolderLock(out):
        layout, names, read, sha256 = _open(source)
        named, refused = match_clips(names, clips.index, data)
        videos = {key: Path(data) / path for key, path in clips["path"].items()}
        readers = {key: partial(_read_clip, read, name, videos[key], fps) for key, name in named.items()}
        first = _first(readers, refused)
        identity = _identity(layout, source, sha256, fps, first.columns)
        with Stage(
            out / stream, stream, identity, {"source": str(source.resolve()), "columns": first.columns}
        ) as stage:
            counts = {"clips": len(clips), "unmatched": len(refused), "feature_dim": first.rows.features.shape[1]}
            counts |= dict.fromkeys(("made", "found", "failed", "rows", "invalid_rows", "other_faces"), 0)
            for name, reason in refused.items():
                _leave_out(stage, name, reason)
            for key in tqdm(clips.index, unit="clip", disable=not progress):
                try:
                    if key not in readers:
                        raise ValueError("there are no features of it in the source")
                    clip = readers[key](like=first)
                except ValueError as error:
                    _leave_out(stage, key, str(error))
                    stage.path(key).unlink(missing_ok=True)  # of an earlier import, when it could be used
                    counts["failed"] += 1
                else:
                    _write_clip(stage, key, clip, sha256[:16], counts)
            return stage.finish(**counts)


def _leave_out(stage: Stage, name: str, reason: str) -> None:
    log.warning("%s is left out: %s", name, reason)
    stage.fail(name, reason)


def _write_clip(stage: Stage, key: str, clip: Clip, fingerprint: str, counts: dict[str, int]) -> None:
    """Write the rows of a clip that are not there yet, and count them."""
    done = stage.done(key, fingerprint)
    if not done:
        stage.write(key, clip.rows, fingerprint)
    counts["found" if done else "made"] += 1
    counts["rows"] += len(clip.rows.valid)
    counts["invalid_rows"] += len(clip.reasons)
    counts["other_faces"] += clip.other_faces
    for row, reason in sorted(clip.reasons.items()):
        stage.fail(key, reason, row)


def _identity(layout: str, source: Path, sha256: str, fps: float | None, columns: dict[str, Any]) -> dict[str, Any]:
    """What decides the numbers; renamed and left-out columns only where there are any."""
    elsewhere = {"layout": layout, "index_sha256": "", "fps": fps}
    renamed = {role: name for role, name in columns.get("known", {}).items() if role != name}
    if renamed or columns.get("left_out"):
        elsewhere["columns"] = {"renamed": renamed, "left_out": columns["left_out"]}
    weights = {"name": "elsewhere", "source": source.name, "sha256": sha256}
    return {"parameters": {"weights": "elsewhere"}, "weights": weights, "elsewhere": elsewhere}


def as_text(manifest: Mapping[str, Any]) -> str:
    """What was taken, and what the columns of a CSV became, in lines."""
    counts = manifest["counts"]
    lines = [", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items())]
    for what, names in manifest["made_with"]["columns"].items():
        if what == "known":
            names = [f"{name} as {role}" if name != role else name for role, name in names.items()]
        few = [*names[:SHOWN], "…", *names[-SHOWN:]] if len(names) > 2 * SHOWN else names
        lines += [f"{len(names)} columns are {what.replace('_', ' ')}: {', '.join(few)}"] * bool(names)
    return "\n".join(lines)


def _first(readers: Mapping[str, Callable[[], Clip]], refused: Mapping[str, str]) -> Clip:
    """The first clip that can be used: there must be one before anything is written."""
    reasons = []
    for read in readers.values():
        try:
            return read()
        except ValueError as error:
            reasons.append(str(error))
    reasons += [f"{name}: {reason}" for name, reason in refused.items()]
    got = "; ".join(reasons[:SHOWN])
    raise ValueError(f"a clip at least must have usable features, got none: {got}. Call them by key.")


def _read_clip(
    read: Callable[[str], Rows], name: str, video: Path, fps: float | None, like: Clip | None = None
) -> Clip:
    """The rows of a clip; ValueError where they cannot be used, or are of other columns than those of another."""
    found = read(name)
    main, numbers, names = _main_face(found.known), found.features, found.columns.get("features", [])
    if like and names:
        if odd := sorted({*names} ^ {*like.columns["features"]}):
            raise ValueError(f"{name} must have the columns of features of the others, got {odd[0]!r} otherwise.")
        numbers = numbers[:, [names.index(column) for column in like.columns["features"]]]
    try:
        rows, reasons = usable_rows(numbers[main], found.known[main], fps)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not rows.valid.any():
        raise ValueError(f"none of its {len(rows.valid)} rows is valid (the first: {reasons[0]}).")
    if like and (width := like.rows.features.shape[1]) != rows.features.shape[1]:
        raise ValueError(f"its rows must be {width} wide like those of the others, got {rows.features.shape[1]}.")
    _check_times(float(rows.t_start_s.max()), video)
    return Clip(rows, reasons, found.columns, int((~main).sum()))


def _main_face(known: pd.DataFrame) -> np.ndarray:
    """Which rows of a clip are of the face that has the most valid rows, or of two alike the surer one, bool."""
    if "face" not in known:
        return np.ones(len(known), bool)
    faces = known.assign(valid=known.get("valid", 1), confidence=known.get("confidence", 1.0)).groupby("face")
    ranked = faces.agg({"valid": "sum", "confidence": "mean"}).sort_values(["valid", "confidence"], kind="stable")
    return (known["face"] == ranked.index[-1]).to_numpy()


def _check_times(last_s: float, video: Path) -> None:
    """Refuse times beyond the end of a clip; where its length cannot be looked up, they are taken as they are."""
    with suppress(OSError, av.FFmpegError, VideoError):
        with av.open(str(video)) as container:
            length_s = (container.duration or np.inf) / av.time_base
        if last_s > LONGER * length_s + LONGER_S:
            with open_video(video) as opened:  # a header may be wrong
                length_s = opened.duration_s
        if last_s > LONGER * length_s + LONGER_S:
            what = f"its rows must lie within its video of {length_s:.1f} s, got {last_s:g} s"
            raise ValueError(f"{what}. Say t_ms if times are in milliseconds; if there are none, give the rows' fps.")


def usable_rows(features: np.ndarray, known: pd.DataFrame, fps: float | None) -> tuple[FeatureFile, dict[int, str]]:
    """Rows of one clip in the order of time; those with values that are not finite are zero and invalid.

    Args:
        features: Numbers (n, D).
        known: Some of `KNOWN` of each row, numbers; the index says where a row stands.
        fps: Frames per second, for rows without times.

    Returns:
        The rows, `frame` -1 where it is unknown, and the reason of every invalid one by its number.
    """
    if features.ndim != 2 or 0 in features.shape or features.dtype.kind not in "fiu":
        raise ValueError(f"features must be numbers of shape (n, D), got {features.dtype} {features.shape}.")
    times = _placed(known[[name for name in KNOWN if name in known]].astype(np.float64), fps)
    start_s, end_s, frame = times.to_numpy().T
    wrong = ~np.isfinite(times).all(axis=1) | (end_s < start_s) | (frame % 1 != 0)
    for rule, odd in (
        ("have a time, and a whole frame", wrong),
        ("be the only row of its time", times.duplicated(["start", "end"])),
    ):
        if odd.any():
            raise ValueError(f"line {odd.idxmax()} must {rule}, got {dict(times.loc[odd.idxmax()])}.")
    with np.errstate(over="ignore"):
        features = features.astype(np.float32)
    order = np.argsort((start_s + end_s) / 2, kind="stable")
    features, given = features[order], known.get("valid", pd.Series(1, known.index)).to_numpy(bool)[order]
    finite = np.isfinite(features)
    usable = finite.all(axis=1)
    reasons = {int(i): "marked invalid where it was made" for i in np.flatnonzero(~given)}
    reasons |= {int(i): f"value {int(finite[i].argmin())} is not finite" for i in np.flatnonzero(~usable)}
    features[~usable] = 0
    return FeatureFile(features, start_s[order], end_s[order], frame[order].astype(np.int64), given & usable), reasons


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


def _open(source: Path) -> tuple[str, list[str], Callable[[str], Rows], str]:
    """The layout of a source, what it calls the clips, what reads the rows of one, and the sha256 of it all."""
    if not source.exists():
        raise FileNotFoundError(f"source must be a folder or a file of features, {source} does not exist.")
    if source.is_dir():
        return _folder(source)
    if source.suffix.lower() not in (*TABLES, ".txt"):
        raise ValueError(f"source must be a folder or a .csv, got {source}. Unpack it, or save it as one of these.")
    table = read_table(source, clips=True)
    places = table.known.groupby("clip", sort=False).indices

    def read(name: str) -> Rows:
        return Rows(table.known.iloc[places[name]], table.features[places[name]], table.columns)

    return "table", list(places), read, file_sha256(source)


def _folder(folder: Path) -> tuple[str, list[str], Callable[[str], Rows], str]:
    """A file per clip: arrays, or where there are none, CSVs; the sha256 is of the sorted lines `<sha256>  <path>`."""
    found = files_below(folder, is_array, lambda name: name.lower().endswith(TABLES))
    if not found:
        raise ValueError(f"{folder} must hold a .npy or .npz per clip, or a .csv of each, got none. Save them as such.")
    paths = clips_by_name(folder, found)
    listing = "".join(sorted(f"{file_sha256(p)}  {p.relative_to(folder).as_posix()}\n" for p in paths.values()))
    layout, read = ("files", _read_arrays) if is_array(found[0].name) else ("tables", read_table)
    return layout, list(paths), lambda name: read(paths[name]), hashlib.sha256(listing.encode()).hexdigest()


def _read_arrays(path: Path) -> Rows:
    """The rows of a clip's own npy or npz, whose arrays are known by name; an only array is the features."""
    try:
        arrays = read_arrays(path) if path.suffix == ".npz" else {"features": np.asarray(read_npy(path))}
        if len(arrays) == 1:
            arrays = {"features": next(iter(arrays.values()))}
        if "features" not in arrays:
            raise ValueError(f"it must hold an array 'features', got {', '.join(sorted(arrays)) or 'none'}.")
        known = {name: arrays[name] for name in KNOWN if name in arrays}
        return Rows(pd.DataFrame(known, range(len(arrays["features"]))), arrays["features"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path.name}: {error}".replace(f"{path.parent}/", "")) from None


def read_table(path: Path, *, clips: bool = False) -> Rows:
    """Read a CSV; of several columns with one role that one counts whose name comes first in `ROLES`.

    `clips`: whether a column must say the clip. ValueError: no CSV in UTF-8, no lines, two columns of one name, a
    missing column, or a cell that is not what its column holds, with its line.
    """
    try:
        separator, head, names = _head(path)
        plain = [re.sub(r"[^0-9a-z]+", "_", name.casefold()).strip("_") if name.isascii() else name for name in names]
        roles: dict[str, int] = {}
        for word in filter(plain.__contains__, ROLE_OF):
            roles.setdefault(ROLE_OF[word], plain.index(word))
        roles.pop("", None)
        cells = _cells(path, separator, head, len(names), roles)
        if roles:  # without, the place of a row is its frame
            cells = cells[~cells.isna().all(axis=1)]
        if cells.empty:
            raise ValueError("it has no lines below the names of its columns")
    except ValueError as error:  # pandas' errors are such, too
        raise ValueError(f"{path.name} is not a CSV in UTF-8 ({' '.join(str(error).split())}).") from None
    if clips and "clip" not in roles:
        must = f"{path.name} must have a column 'clip', got {', '.join(names[:8])}"
        raise ValueError(f"{must}. Add it, or name the folder of a file per clip.")
    known = {role: _typed(cells[at], role, path, names[at], separator) for role, at in roles.items()}
    numbers = {
        at: _typed(cells[at], "", path, names[at], separator) for at, word in enumerate(plain) if word not in ROLE_OF
    }
    numbers = {at: column for at, column in numbers.items() if column.notna().any()}
    if not numbers:
        raise ValueError(f"{path.name} must have columns of features beside {', '.join(names)}, got none.")
    with np.errstate(over="ignore"):  # too large for float32 is infinite, and then invalid
        features = np.stack([column.to_numpy(np.float32, na_value=np.nan) for column in numbers.values()], axis=1)
    said = {"features": [names[at] for at in numbers], "known": {role: names[at] for role, at in roles.items()}}
    others = [name for at, name in enumerate(names) if at not in (*numbers, *roles.values())]
    return Rows(
        _tidied(pd.DataFrame(known, cells.index)), features, said | {"left_out": [n or "(no name)" for n in others]}
    )


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


def _cells(path: Path, separator: str, head: int, n: int, roles: Mapping[str, int]) -> pd.DataFrame:
    """Cells by place, those with a role as text, NaN where they are empty; the index is the line."""
    how = {"sep": separator, "skiprows": head, "header": None, "names": range(n + 1), "index_col": False}
    how |= {"encoding": "utf-8-sig", "low_memory": False, "skip_blank_lines": False, "keep_default_na": False}
    how |= {"dtype": dict.fromkeys(roles.values(), str)}
    text = [roles.get(role) for role in TEXT]
    na_values = {at: [""] if at in text else NOT_A_NUMBER for at in range(n + 1)}
    cells = pd.read_csv(path, na_values=na_values, **how)
    cells.index += head + 1
    if (more := cells.pop(n).notna()).any():  # an empty cell is behind a last separator
        raise ValueError(f"line {more.idxmax()} has more cells than there are names")
    return cells


def _typed(cells: pd.Series, role: str, path: Path, name: str, separator: str) -> pd.Series:
    """A column as what its role wants: numbers, with decimal commas if these separate nothing, but for `TEXT`."""
    if role in TEXT:
        typed = cells.fillna("")
        odd = typed.str.strip().eq("") & (role == "clip")
    else:
        typed = cells
        if cells.dtype.kind not in "fiu":
            text = cells.fillna("").astype(str)
            typed = (text if separator == "," else text.str.replace(",", ".")).map(_number).astype(float)
        odd = typed.isna() & (cells.notna() | (role in KNOWN)) | (role == "valid") & ~typed.isin([0, 1])
    if odd.any():
        what = f"{path.name} line {odd.idxmax()}: {name} must be {'a name' if role == 'clip' else 'a number'}"
        raise ValueError(f"{what}, got {cells.fillna('')[odd.idxmax()]!r}. Correct it, or remove the column.")
    return typed


def _number(text: str) -> float:
    """The number in a cell, also a flag, or a time `0 days 00:00:01.50` of openSMILE; or NaN."""
    text = text.strip().lower()
    try:
        return pd.Timedelta(text).total_seconds() if ":" in text else float(FLAGS.get(text, text))
    except ValueError:
        return np.nan


def _tidied(known: pd.DataFrame) -> pd.DataFrame:
    if "t_ms" in known:
        known = known.assign(t_s=known.get("t_s", known["t_ms"] / 1000))
    if "confidence" in known:
        known = known.assign(valid=known.get("valid", 1) * (known["confidence"] > 0))
    if {"frame", "t_s"} <= {*known} and ((known["frame"] == 1) & (known["t_s"] == 0)).any():
        known = known.assign(frame=known["frame"] - 1)  # other programs count from 1, as their times tell
    return known
