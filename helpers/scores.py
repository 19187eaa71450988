"""Scores several videos with one model, and writes them down: JSON, a table, a page.

In: video files and folders of them, a `Scorer`. Out: a `ClipScore` of each, or the reason why there is none; files that
say the same.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.clips import natural_order, video_files
from helpers.container import VideoError
from helpers.files import replacing, write_json
from helpers.pipeline import CLIP_ERRORS
from helpers.score import N_FACES, ClipScore, Scorer, as_dict, score_clip
from helpers.scoring.score_page import write_page

VALUES = ("score", "low", "high", "constant", "share_below")


@dataclass(frozen=True)
class Unusable:
    """A video that could not be scored, and why."""

    video: str
    reason: str


def score_videos(
    paths: Iterable[str | Path], scorer: Scorer, *, faces: int = N_FACES
) -> Iterator[ClipScore | Unusable]:
    """Score videos one after the other; one that cannot be used is an `Unusable`, and the others go on.

    Args:
        paths: Video files, and folders that stand for all videos below them.
        scorer: See `load_scorer`.
        faces: See `score_clip`.
    """
    for name, path in named_videos(paths):
        try:
            if path.is_dir():
                raise VideoError(f"{path.name}: this folder holds no videos. Check the path")
            yield score_clip(path, scorer, name=name, faces=faces)
        except CLIP_ERRORS as error:
            yield Unusable(name, str(error).removeprefix(f"{path.name}: "))


def named_videos(paths: Iterable[str | Path]) -> list[tuple[str, Path]]:
    """Each video with its name: its file's name, or its path below the folder that was named.

    Names that occur twice are paths as they were named. A folder without videos, or a path to nothing, stays in the
    list.
    """
    found: list[tuple[str, str, Path]] = []  # short name, long name, file
    for path in map(Path, paths):
        below = list(video_files(path)) if path.is_dir() else []
        found += [(name, str(path / name), path / name) for name in sorted(below, key=natural_order)]
        found += [] if below else [(path.name, str(path), path)]
    often = Counter(short for short, _, _ in found)
    return [(short if often[short] == 1 else long, path) for short, long, path in found]


def as_table(results: Sequence[ClipScore | Unusable]) -> pd.DataFrame:
    """Lay scores out as one row per video and target, as `scores.csv` has them.

    Returns:
        Columns `video`, `target`, `score`, `low`, `high` (90 % interval), `constant`, `share_below` (share of training
        ratings below the score), `face_coverage`, `duration_s`, `warnings` (with "; " between them), `failed` (the
        reason; such a video has one row, without target and numbers).
    """
    rows: list[dict[str, Any]] = []
    for result in results:
        if isinstance(result, Unusable):
            rows.append({"video": result.video, "failed": result.reason})
            continue
        about = {"face_coverage": result.face_coverage, "duration_s": result.duration_s}
        about["warnings"] = "; ".join(result.warnings)
        for target in result.score:
            values = {name: getattr(result, name)[target] for name in VALUES}
            rows.append({"video": result.video, "target": target} | values | about)
    columns = ["video", "target", *VALUES, "face_coverage", "duration_s", "warnings", "failed"]
    return pd.DataFrame(rows, columns=columns)


def as_records(results: Sequence[ClipScore | Unusable]) -> list[dict[str, Any]]:
    """The results as plain types: `helpers.score.as_dict` of each, or `video` and `failed`, the reason."""
    return [
        {"video": result.video, "failed": result.reason} if isinstance(result, Unusable) else as_dict(result)
        for result in results
    ]


def write_scores(
    results: Sequence[ClipScore | Unusable],
    scorer: Scorer,
    *,
    json: str | Path | None = None,
    csv: str | Path | None = None,
    html: str | Path | None = None,
) -> list[Path]:
    """Write the files that are named; return their paths.

    Args:
        results: What `score_videos` gave.
        scorer: What scored them: the page shows its training ratings.
        json: Gets `as_records`, one entry per video.
        csv: Gets `as_table`.
        html: Gets one page that needs no other file.
    """
    if json:
        write_json(json, as_records(results))
    if csv:
        with replacing(csv) as part:
            as_table(results).to_csv(part, index=False, float_format="%.6g")
    if html:
        write_page(html, [r for r in results if isinstance(r, ClipScore)], _failed(results), scorer)
    return [Path(path) for path in (json, csv, html) if path]


def _failed(results: Sequence[ClipScore | Unusable]) -> dict[str, str]:
    return {result.video: result.reason for result in results if isinstance(result, Unusable)}
