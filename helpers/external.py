"""Features that other programs made become a stage like any other.

In: what `helpers.feature_files` reads, and the clips of a data folder. Out: the stage folder `static/` or `dynamic/` of
a run, which 05 aligns like those of 03 and 04.
"""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
from tqdm.auto import tqdm

from helpers.clips import find_clips
from helpers.container import VideoError, open_video
from helpers.feature_files import Features, Rows, open_features
from helpers.files import FolderLock
from helpers.names import match_clips
from helpers.precomputed import kinds_as_text
from helpers.store import STREAMS, FeatureFile, Stage

log = logging.getLogger(__name__)

SHOWN = 5  # names that an error lists
LONGER, LONGER_S = 1.1, 1.0  # than its video a clip's times may be: by this factor, and by so many seconds


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
    without features, is there as failed. Of several faces in a clip the one with the most valid rows is taken, and of
    two alike the one that the program was surer of; the others' rows are counted. What became of the columns of a CSV
    is the manifest's `made_with.columns`, and its identity's where other names than our own were understood.

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
        features = open_features(source, Path(scratch), index, fps, columns)
        named, refused = match_clips(features.names, clips.index)
        if refused and (not skip_unmatched or not named):
            listed = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:SHOWN])
            raise ValueError(
                f"{len(refused)} names in {source.name} must fit one clip each, got {listed}. Check "
                "the data folder, call them by key, or leave them out (skip_unmatched)."
            )
        videos = {key: Path(data) / path for key, path in clips["path"].items()}
        failed, width = _survey(features, named, videos, progress)
        failed |= {key: f"there are no features of it in {source.name}" for key in clips.index if key not in named}
        identity = {
            "parameters": {"weights": "elsewhere"},
            "weights": {"name": "elsewhere", "source": source.name, "sha256": features.sha256},
            "elsewhere": {"layout": features.kind, "index_sha256": features.index_sha256, "fps": fps},
        }
        understood = {name: features.columns[name] for name in ("renamed", "left_out") if features.columns.get(name)}
        identity["elsewhere"] |= {"columns": understood} if understood else {}
        made_with = {"source": str(source.resolve()), "passed_over": dict(features.passed_over)}
        made_with |= {"columns": features.columns} if features.columns else {}
        counts = {"clips": len(clips), "made": 0, "found": 0, "failed": len(failed), "rows": 0, "invalid_rows": 0}
        counts |= {"other_faces": features.other_faces} if features.other_faces else {}
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
    """What the features of a stage were made of, in words, for people."""
    columns, passed_over = manifest["made_with"].get("columns", {}), manifest["made_with"]["passed_over"]
    lines = []
    if columns:
        lines.append(f"{len(columns['features'])} columns are features: {_listed(columns['features'])}")
        known = [role if role == name else f"{role} from {name}" for role, name in columns["known"].items()]
        lines.append(f"known of a row: {', '.join(known) or 'nothing'}")
    for name, said in (
        ("left_out", "columns left out"),
        ("constant", "columns that never vary, features all the same"),
    ):
        if columns.get(name):
            lines.append(f"{len(columns[name])} {said}: {_listed(columns[name])}")
    if other := manifest["counts"].get("other_faces"):
        lines.append(f"{other} rows of other faces left out: of each clip the face with the most valid rows is taken")
    return lines + ([f"files passed over: {kinds_as_text(passed_over)}"] if passed_over else [])


def _listed(names: Sequence[str], most: int = 12) -> str:
    """Names in one line, the middle of many left out."""
    few = [*names[: most - 2], "…", names[-1]] if len(names) > most else names
    return ", ".join(few)


def _survey(
    features: Features, named: dict[str, str], videos: Mapping[str, Path], progress: bool
) -> tuple[dict[str, str], int]:
    """Read every clip once before the first is written: the reasons of those that cannot be used, and the width."""
    failed: dict[str, str] = {}
    widths: dict[int, str] = {}
    for key, name in tqdm(named.items(), unit="clip", disable=not progress):
        try:
            rows = features.rows(name)[0]
            _check_times(rows, videos[key])
            widths.setdefault(rows.features.shape[1], name)
        except ValueError as error:
            failed[key] = str(error)
    if not widths:
        raise ValueError(f"a clip at least must have usable features, got none of {len(named)}: {min(failed.values())}")
    if len(widths) > 1:
        each = " and ".join(f"{width} for {name}" for width, name in list(widths.items())[:2])
        raise ValueError(f"features must be of one width, got {each}. Take those of one network.")
    return failed, next(iter(widths))


def _check_times(rows: FeatureFile, video: Path) -> None:
    """Refuse times beyond the end of a clip, whose length is looked up; where it cannot be, they are taken as told."""
    last_s = float(rows.t_start_s.max())
    try:
        with av.open(str(video)) as container:
            stated_s = (container.duration or 0) / av.time_base
        if not stated_s or last_s <= LONGER * stated_s + LONGER_S:
            return
        with open_video(video) as opened:
            length_s = opened.duration_s
    except (OSError, av.FFmpegError, VideoError):
        return
    if last_s > LONGER * length_s + LONGER_S:
        raise ValueError(
            f"its rows must lie within its video of {length_s:.1f} s, got {last_s:g} s. Say t_ms if times are in "
            "milliseconds; if there are none, give the fps of the rows."
        )


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
