"""Scores several videos with one model: which ones, what came of each, and the files that say so.

In: video files and folders of them, a `Scorer`. Out: a `ClipScore` of each, or the reason why there is none; JSON and
a table that say the same.
"""

import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.clips import LETTERS, TRAITS, load_clips, targets_of
from helpers.container import VideoError
from helpers.failures import reason_of
from helpers.files import read_json, replacing, resolve, write_json
from helpers.inventory import as_line, take_inventory
from helpers.names import clip_key, natural_order
from helpers.score import N_FACES, ClipScore, Scorer, as_text, score_clip
from helpers.store import read_arrays, write_arrays

log = logging.getLogger(__name__)

SHOWN = 50  # videos with figures of their own: more make a page too large for a phone
EXAMPLES = 5  # videos that are tried until one shows its face throughout
VALUES = ("score", "low", "high", "constant", "share_below")


@dataclass(frozen=True)
class Unusable:
    """A video that could not be scored, and why."""

    video: str
    failed: str


def named_videos(paths: Iterable[str | Path]) -> list[tuple[str, Path]]:
    """Each video with its name: its file's name, or its path below the folder that was named.

    Names that occur twice are paths below the folder that all lie in. A folder without videos, or a path to nothing,
    stays in the list.
    """
    paths = [Path(os.path.abspath(path)) for path in paths]
    found: list[tuple[str, Path]] = []
    for path in paths:
        below = sorted(_clips_in(path), key=natural_order) if path.is_dir() else []
        found += [(name, path / name) for name in below] or [(path.name, path)]
    often = Counter(name for name, _ in found)
    root = os.path.commonpath([path.parent for path in paths]) if paths else ""
    return [(name if often[name] == 1 else path.relative_to(root).as_posix(), path) for name, path in found]


def _clips_in(folder: Path) -> list[str]:
    """The videos of a folder, also those of one key: nothing is filed under keys here. Others are logged by kind."""
    clips, left_out = take_inventory(folder)
    again = left_out["kind"] == "same key"
    if not left_out[~again].empty:
        log.info("%s: %s", folder, as_line(len(clips) + again.sum(), left_out[~again]))
    return [*clips.values(), *left_out.loc[again, "path"]]


def videos_of(video: str | list[str]) -> list[Path]:
    """The videos that 09's parameter names: one path, several with commas between them, or a list."""
    if isinstance(video, str):
        video = [video] if resolve(video).exists() else [part.strip() for part in video.split(",")]
    return [resolve(path) for path in video]


def score_all(
    paths: Iterable[str | Path],
    scorer: Scorer,
    *,
    faces: int = N_FACES,
    json: Path | None = None,
    csv: Path | None = None,
    report: Callable[[ClipScore | Unusable], None] = lambda result: None,
) -> list[ClipScore | Unusable]:
    """Score videos one after the other, `report` each, and write the files that are named.

    A video that cannot be used is an `Unusable`, and the others go on. What ends a long list of videos early leaves
    the scores that are there.

    Args:
        paths: Video files, and folders that stand for all videos below them.
        scorer: See `load_scorer`.
        faces: See `score_clip`.
        json, csv: See `write_scores`.
        report: Takes each result as soon as it is there.
    """
    results: list[ClipScore | Unusable] = []
    try:
        for name, path in named_videos(paths):
            results.append(_score(path, scorer, name, faces))
            report(results[-1])
    finally:
        write_scores(results, json=json, csv=csv)
    return results


def _score(path: Path, scorer: Scorer, name: str, faces: int = N_FACES) -> ClipScore | Unusable:
    try:
        if path.is_dir():
            raise VideoError(f"{path.name}: this folder holds no videos. Check the path")
        return score_clip(path, scorer, name=name, faces=faces)
    except BaseException as error:
        return Unusable(name, reason_of(error, path.name))


def print_score(result: ClipScore | Unusable) -> None:
    """Print a score; why there is none goes to stderr."""
    if isinstance(result, Unusable):
        print(f"error: {result.video}: {result.failed}", file=sys.stderr, flush=True)
    else:
        print(as_text(result), flush=True)


def score_example(folder: Path, scorer: Scorer, out: Path) -> ClipScore:
    """Score one video of a folder: held out by the run in `out` and rated if there is one, its face always visible.

    Of the first `EXAMPLES` that can be used the one with the most face is taken.

    Raises:
        ValueError: No video of the folder can be used; the message has the first reason.
    """
    rated = ratings_of(out).index
    results: list[ClipScore | Unusable] = []
    for name in sorted(
        take_inventory(folder).clips.values(), key=lambda name: (clip_key(name) not in rated, natural_order(name))
    ):
        results.append(_score(folder / name, scorer, name))
        usable = [result for result in results if isinstance(result, ClipScore)]
        if len(usable) == EXAMPLES or (usable and usable[-1].face_coverage == 1 and not usable[-1].unlike):
            break
    if not results or not usable:
        first = f": {results[0].video}: {results[0].failed}" if results else ""
        raise ValueError(f"{folder} must hold a video that can be scored, got {len(results)} that cannot{first}")
    return max(usable, key=lambda result: (not result.unlike, result.face_coverage))


def ratings_of(out: Path) -> pd.DataFrame:
    """Ratings of the clips that a run held out of training, index clip, a column per target; empty without a run."""
    if not (out / "clips.csv").exists() or not (out / "predictions.csv").exists():
        return pd.DataFrame()
    clips = load_clips(out / "clips.csv")
    said = pd.read_csv(out / "predictions.csv", usecols=["split", "clip"])
    held_out = said.loc[said["split"].isin(["test", "live"]), "clip"].unique()
    return clips.loc[clips.index.isin(held_out), targets_of(clips)].dropna()


def write_scores(
    results: Sequence[ClipScore | Unusable],
    *,
    json: Path | None = None,
    csv: Path | None = None,
    pictures: bool = False,
) -> None:
    """Write the files that are named.

    Args:
        results: Scores, and what could not be scored.
        json: A record of each: the fields of `ClipScore` without the pictures, or `video` and `failed`, the reason.
        csv: `as_table`.
        pictures: Write the faces into an npz beside the JSON.
    """
    if json:
        records = [asdict(result) for result in results]
        faces = {f"faces_{n}": np.array(record.pop("faces", [])) for n, record in enumerate(records)}
        write_json(json, records)
        if pictures:
            write_arrays(json.with_suffix(".npz"), **faces)
    if csv:
        with replacing(csv) as part:
            as_table(results).to_csv(part, index=False, float_format="%.6g")


def read_scores(json: Path) -> list[ClipScore | Unusable]:
    """Read what `write_scores` wrote with pictures; traits in their order, which a JSON file does not keep."""
    faces, results = read_arrays(json.with_suffix(".npz")), []
    for n, record in enumerate(read_json(json)):
        if "failed" not in record:
            order = sorted(record["score"], key=lambda target: (*TRAITS, target).index(target))
            record |= {name: {target: record[name][target] for target in order} for name in VALUES}
            record["faces"] = list(faces[f"faces_{n}"])
        results.append(Unusable(**record) if "failed" in record else ClipScore(**record))
    return results


def as_table(results: Sequence[ClipScore | Unusable]) -> pd.DataFrame:
    """Lay scores out as one row per video and target, as `score.csv` has them.

    Returns:
        Columns `video`, `target`, `score`, `low`, `high` (90 % interval), `constant`, `share_below` (share of training
        ratings below the score), `face_coverage`, `duration_s`, `warnings` and `remarks` (with "; " between them),
        `failed` (the reason; such a video has one row, without target and numbers).
    """
    rows: list[dict[str, Any]] = []
    for result in results:
        if isinstance(result, Unusable):
            rows.append(asdict(result))
            continue
        about = {"face_coverage": result.face_coverage, "duration_s": result.duration_s}
        about |= {name: "; ".join(getattr(result, name)) for name in ("warnings", "remarks")} | {"video": result.video}
        for target in result.score:
            rows.append({"target": target} | {name: getattr(result, name)[target] for name in VALUES} | about)
    columns = ["video", "target", *VALUES, "face_coverage", "duration_s", "warnings", "remarks", "failed"]
    return pd.DataFrame(rows, columns=columns)


def in_context(results: Sequence[ClipScore], card: dict[str, Any], ratings: pd.DataFrame) -> pd.DataFrame:
    """`as_table`, with the `rating` of each clip where it is known (`ratings_of`), and the model's `r2` by target."""
    letters = dict(zip(TRAITS, LETTERS, strict=True))
    r2 = card.get("metrics", {}).get("r2", {})  # cards that were made earlier have none
    rated = ratings.stack().to_dict() if len(ratings) else {}
    table = as_table(results)
    pairs = zip(table["video"], table["target"], strict=True)
    return table.assign(
        rating=[rated.get((clip_key(video), target)) for video, target in pairs],
        r2=[r2.get(letters.get(target, target)) for target in table["target"]],
    )
