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
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from helpers.clips import find_clips
from helpers.container import VideoError, open_video
from helpers.feature_table import Rows, read_table
from helpers.files import FolderLock, file_sha256
from helpers.names import match_clips
from helpers.precomputed import clips_by_name, files_below, is_array, read_npy
from helpers.store import STREAMS, FeatureFile, Stage, read_arrays

log = logging.getLogger(__name__)

KNOWN = ("frame", "valid", "t_s", "t_start_s", "t_end_s")  # what may be known of a row
TABLES = (".csv", ".tsv")
SHOWN = 5  # names that a line lists
LONGER, LONGER_S = 1.1, 1.0  # than its video a clip's times may be: by this factor, and by so many seconds


@dataclass(frozen=True)
class Features:
    """Features of many clips.

    `kind`: "files", "tables", "array" or "table". `names`: what the files call the clips. `read`: from a name to its
    rows, or a ValueError. `sha256`: of the file; of a folder, of the sorted lines `<sha256>  <path>`. `index_sha256`:
    of an array's index.
    """

    kind: str
    names: list[str]
    read: Callable[[str], Rows]
    sha256: str
    index_sha256: str = ""


def import_features(
    source: str | Path,
    out: str | Path,
    stream: str,
    *,
    data: str | Path,
    index: str | Path | None = None,
    fps: float | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Make a run's stage out of features from elsewhere; started again, it goes on. Returns the stage's manifest.

    Rows are brought into the order of time. What cannot be used is left out with its reason in the manifest: rows that
    are not finite or that another program marked as failed; names that fit no clip or several; clips without a valid
    row, or of other columns than the first. Of several faces in a clip the one with the most valid rows is taken, of
    two alike the surer one.

    Args:
        source: A folder, a `.npy`, or a `.csv` (also `.tsv`, `.txt`), which is held in memory.
        out, data: Folders of the run and of its clips, whose names are matched as those of ratings are.
        stream: "static" or "dynamic", which becomes the name of the stage.
        index: Index CSV of a `.npy`, default: the file of the same name with `.csv`. Its lines are those of the array
            in order, or a column `row` says which, from 0.
        fps: Frames per second, for rows without times.

    Raises:
        FileNotFoundError: The source or its index is missing.
        ValueError: A damaged table, with line and column; no clip that can be used; a stage that is there already and
            was made otherwise.
    """
    if stream not in STREAMS or not 0 < (fps or 1) < np.inf:
        raise ValueError(f"stream must be {' or '.join(STREAMS)} and fps above 0, got {stream!r} and {fps}.")
    source, out, clips = Path(source), Path(out), find_clips(data)
    with FolderLock(out):
        features = _open(source, index)
        named, refused = match_clips(features.names, clips.index, data)
        if not named:
            listed = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:SHOWN])
            raise ValueError(f"features must be of clips in {data}, got {listed}. Call them by key.")
        videos = {key: Path(data) / path for key, path in clips["path"].items()}
        first = _first(features, named, videos, fps)
        made_with = {"source": str(source.resolve()), "columns": first.columns}
        with Stage(out / stream, stream, _identity(features, source, fps, first.columns), made_with) as stage:
            for name, reason in refused.items():
                _leave_out(stage, name, reason)
            counts = {"clips": len(clips), "unmatched": len(refused), "feature_dim": first.rows.features.shape[1]}
            counts |= dict.fromkeys(("made", "found", "failed", "rows", "invalid_rows", "other_faces"), 0)
            for key, video in tqdm(videos.items(), unit="clip", disable=not progress):
                try:
                    clip = _read(features, named, key, video, fps, first)
                except ValueError as error:
                    _leave_out(stage, key, str(error))
                    stage.path(key).unlink(missing_ok=True)  # of an earlier import, when it could be used
                    counts["failed"] += 1
                else:
                    _write_clip(stage, key, clip, features.sha256[:16], counts)
            return stage.finish(**counts)


def _leave_out(stage: Stage, name: str, reason: str) -> None:
    log.warning("%s is left out: %s", name, reason)
    stage.fail(name, reason)


def as_text(manifest: Mapping[str, Any]) -> str:
    """What was taken, and what the columns of a CSV became, in lines."""
    counts = manifest["counts"]
    lines = [
        f"{counts['made']} clips made, {counts['found']} were there, {counts['failed']} left out; {counts['rows']} "
        f"rows of {counts['feature_dim']}, {counts['invalid_rows']} of them invalid; "
        f"{counts['other_faces']} rows of other faces and {counts['unmatched']} names that fit no clip left out"
    ]
    for what, names in manifest["made_with"]["columns"].items():
        if what == "known":
            names = [f"{name} as {role}" if name != role else name for role, name in names.items()]
        few = [*names[:SHOWN], "…", *names[-SHOWN:]] if len(names) > 2 * SHOWN else names
        lines += [f"{len(names)} columns are {what.replace('_', ' ')}: {', '.join(few)}"] * bool(names)
    return "\n".join(lines)


def _identity(features: Features, source: Path, fps: float | None, columns: dict[str, Any]) -> dict[str, Any]:
    """What decides the numbers; renamed and left-out columns only where there are any."""
    elsewhere = {"layout": features.kind, "index_sha256": features.index_sha256, "fps": fps}
    renamed = {role: name for role, name in columns.get("known", {}).items() if role != name}
    if renamed or columns.get("left_out"):
        elsewhere["columns"] = {"renamed": renamed, "left_out": columns["left_out"]}
    weights = {"name": "elsewhere", "source": source.name, "sha256": features.sha256}
    return {"parameters": {"weights": "elsewhere"}, "weights": weights, "elsewhere": elsewhere}


class Clip(NamedTuple):
    """Rows of a clip in the order of time, the reason of every invalid one by its number, the names of its columns, and
    how many rows of other faces were left out.
    """

    rows: FeatureFile
    reasons: dict[int, str]
    columns: dict[str, Any]
    other_faces: int


def _first(features: Features, named: dict[str, str], videos: dict[str, Path], fps: float | None) -> Clip:
    """The first clip that can be used: there must be one before anything is written."""
    reasons = []
    for key in named:
        try:
            return _read(features, named, key, videos[key], fps)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(f"a clip at least must have usable features, got none of {len(named)}: {reasons[0]}")


def _read(
    features: Features, named: dict[str, str], key: str, video: Path, fps: float | None, like: Clip | None = None
) -> Clip:
    """The rows of a clip; ValueError where they cannot be used, or are of other columns than those of another."""
    if key not in named:
        raise ValueError("there are no features of it in the source")
    found = features.read(named[key])
    main, numbers, names = _main_face(found.known), found.features, found.columns.get("features", [])
    if like and names:
        if odd := sorted({*names} ^ {*like.columns["features"]}):
            raise ValueError(f"{named[key]} must have the columns of features of the others, got {odd[0]!r} otherwise.")
        numbers = numbers[:, [names.index(name) for name in like.columns["features"]]]
    try:
        rows, reasons = usable_rows(numbers[main], found.known[main], fps)
    except ValueError as error:
        raise ValueError(f"{named[key]}: {error}") from None
    if not rows.valid.any():
        raise ValueError(f"none of its {len(rows.valid)} rows is valid (the first: {reasons[0]}).")
    if like and (width := like.rows.features.shape[1]) != rows.features.shape[1]:
        raise ValueError(f"its rows must be {width} wide like those of the others, got {rows.features.shape[1]}.")
    _check_times(float(rows.t_start_s.max()), video)
    return Clip(rows, reasons, found.columns, int((~main).sum()))


def _check_times(last_s: float, video: Path) -> None:
    """Refuse times beyond the end of a clip; where its length cannot be looked up, they are taken as they are."""
    with suppress(OSError, av.FFmpegError, VideoError), av.open(str(video)) as container:
        if last_s <= LONGER * (container.duration or np.inf) / av.time_base + LONGER_S:
            return
        with open_video(video) as opened:  # a header may be wrong
            length_s = opened.duration_s
        if last_s > LONGER * length_s + LONGER_S:
            what = f"its rows must lie within its video of {length_s:.1f} s, got {last_s:g} s"
            raise ValueError(f"{what}. Say t_ms if times are in milliseconds; if there are none, give the rows' fps.")


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


def _main_face(known: pd.DataFrame) -> np.ndarray:
    """Which rows of a clip are of the face that has the most valid rows, or of two alike the surer one, bool."""
    if "face" not in known:
        return np.ones(len(known), bool)
    faces = known.assign(valid=known.get("valid", True), confidence=known.get("confidence", 1.0)).groupby("face")
    ranked = faces.agg({"valid": "sum", "confidence": "mean"}).sort_values(["valid", "confidence"], kind="stable")
    return (known["face"] == ranked.index[-1]).to_numpy()


def _open(source: Path, index: str | Path | None) -> Features:
    """Find the clips of a folder or file of features."""
    if not source.exists():
        raise FileNotFoundError(f"source must be a folder or a file of features, {source} does not exist.")
    if source.suffix.lower() == ".npy" and source.is_file():
        return _array(source, Path(index or source.with_suffix(".csv")))
    if index is None and source.is_dir():
        return _folder(source)
    if index is None and source.suffix.lower() in (*TABLES, ".txt"):
        table = read_table(source, clips=True)
        return Features("table", *_by_clip(table, table.features.__getitem__), file_sha256(source))
    must = f"source must be a folder, a .csv, or a .npy with an index, got {source} and index {index}"
    raise ValueError(f"{must}. Unpack it, or save it as one of these.")


def _folder(folder: Path) -> Features:
    """A file per clip: arrays, or where there are none, CSVs."""
    found = files_below(folder, is_array, lambda name: name.lower().endswith(TABLES))
    if not found:
        raise ValueError(f"{folder} must hold a .npy or .npz per clip, or a .csv of each, got none. Save them as such.")
    paths = clips_by_name(folder, found)
    listing = "".join(sorted(f"{file_sha256(p)}  {p.relative_to(folder).as_posix()}\n" for p in paths.values()))
    sha256 = hashlib.sha256(listing.encode()).hexdigest()
    kind, read = ("files", _read_arrays) if is_array(found[0].name) else ("tables", read_table)
    return Features(kind, list(paths), lambda name: read(paths[name]), sha256)


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


def _array(path: Path, index: Path) -> Features:
    """One array of the rows of many clips, and its index."""
    if not index.exists():
        raise FileNotFoundError(
            f"{index} is missing: its column 'clip' says whose the rows of {path.name} are. Name it."
        )
    array, table = read_npy(path), read_table(index, clips=True, features=False)
    if array.ndim != 2:
        raise ValueError(f"{path.name} must have shape (n, D), got {array.shape}.")
    at = table.known.get("row", pd.Series(range(len(table.known)), table.known.index))
    odd = ~at.isin(range(len(array))) | at.duplicated()
    if odd.any() or ("row" not in table.known and len(at) < len(array)):
        got = f"row {at[odd.idxmax()]:g} in line {odd.idxmax()}" if odd.any() else f"{len(at)} lines"
        raise ValueError(f"{index.name} must name rows 0 to {len(array) - 1} of {path.name}, each once, got {got}.")
    numbers = at.to_numpy(np.int64)
    found = _by_clip(table, lambda places: np.asarray(read_npy(path)[numbers[places]]))
    return Features("array", *found, file_sha256(path), file_sha256(index))


def _by_clip(table: Rows, features: Callable[[np.ndarray], np.ndarray]) -> tuple[list[str], Callable[[str], Rows]]:
    """Names of the clips in a table, and what gives the rows of one; `features`: by their places in the table."""
    places = table.known.groupby("clip", sort=False).indices
    return list(places), lambda name: Rows(
        table.known.iloc[places[name]], features(places[name]), table.columns if table.columns["features"] else {}
    )


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
    start_s, end_s, frame = _placed(known[[name for name in KNOWN if name in known]].astype(np.float64), fps)
    wrong = ~(np.isfinite(start_s) & np.isfinite(end_s) & (end_s >= start_s) & (frame % 1 == 0))
    twice = pd.DataFrame({"start": start_s, "end": end_s}).duplicated()
    if (odd := np.asarray(wrong | twice)).any():
        i = int(odd.argmax())
        got = f"{'another' if twice[i] else 'one'} of frame {frame[i]:g}, {start_s[i]:g} to {end_s[i]:g} s"
        raise ValueError(f"line {known.index[i]} must be the only row of its time, with a whole frame, got {got}.")
    with np.errstate(over="ignore"):
        features = features.astype(np.float32)
    given = known.get("valid", pd.Series(True, known.index)).to_numpy(bool)
    order = np.argsort((start_s + end_s) / 2, kind="stable")
    features, given = features[order], given[order]
    finite = np.isfinite(features)
    usable = finite.all(axis=1)
    reasons = {int(i): "marked invalid where it was made" for i in np.flatnonzero(~given)}
    reasons |= {int(i): f"value {int(finite[i].argmin())} is not finite" for i in np.flatnonzero(~usable)}
    features[~usable] = 0
    return FeatureFile(features, start_s[order], end_s[order], frame[order].astype(np.int64), given & usable), reasons


def _placed(known: pd.DataFrame, fps: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start and end of each row in seconds, and its first frame, -1 where it is unknown."""
    columns = {name: known[name].to_numpy() for name in known}
    if ("t_start_s" in columns) != ("t_end_s" in columns):
        raise ValueError("t_start_s and t_end_s must come together, got one of the two.")
    frame, start_s = columns.get("frame"), columns.get("t_start_s", columns.get("t_s"))
    if start_s is not None:
        return start_s, columns.get("t_end_s", start_s), np.full(len(known), -1) if frame is None else frame
    if fps is None or not 0 < fps < np.inf:
        raise ValueError(
            f"rows must have times (t_s, or t_start_s and t_end_s), got none. Give fps, above 0, not {fps}."
        )
    frame = np.arange(len(known)) if frame is None else frame
    return frame / fps, (frame + 1) / fps, frame
