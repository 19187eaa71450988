"""What goes into a run: what is refused or told before any work is done, and what became of it at the end.

In: the planned notebooks, the data folder and the run's folder. Out: the table of clips, sentences, or one error.
"""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.clips import (
    add_ratings,
    as_line,
    clip_table,
    is_synthetic,
    read_ratings,
    scan_clips,
    take_inventory,
    target_names,
    write_rows,
)
from helpers.config import NOTEBOOKS, AnalysisConfig, Parameters, TrainingConfig
from helpers.files import read_json
from helpers.names import as_lines
from helpers.ratings import Ratings
from helpers.splits import training_problem
from helpers.store import by_kind
from helpers.weights import PUBLISHED, require
from helpers.workbook import ANALYSIS, TRAINING

log = logging.getLogger(__name__)


def check_inputs(
    tasks: dict[str, dict[str, Any]],
    data: Path,
    out: Path,
    limit: int = 0,
    stored: Sequence[str] = (),
    chosen: Sequence[str] = tuple(NOTEBOOKS),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Raise before any work is done: no clips, unreadable ratings or none to train on, a folder that cannot be written,
    absent weights. What 06 could not train on is a warning where it is not among the `chosen`.

    Returns what `scan_clips` returns, or the clips of the keys `stored` if there are any.
    """
    if out == data:
        raise ValueError(f"--out must be another folder than --data, got {data} for both. Name one in it, or beside.")
    if stored:
        found, left_out = clip_table({key: key for key in stored}, data), take_inventory(data)[1]
    else:
        found, left_out = scan_clips(data)
    clips, _, targets = rated_clips(tasks, data, found)
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise PermissionError(f"{out} cannot be written ({error.strerror}). Name another folder with --out.") from None
    if problem := why_no_training(tasks, clips, targets, data, limit):
        if TRAINING in chosen and TRAINING in tasks:
            raise ValueError(f"{problem} Or stop before training with --only 00,01,02,03,04,05.")
        if clips[targets].notna().any(axis=None):
            log.warning("WARNING: 06 could not train: %s", problem)
    _require_weights([NOTEBOOKS[name].checked(values) for name, values in tasks.items() if name in chosen])
    return clips.head(limit or len(clips)), left_out


def rated_clips(
    tasks: dict[str, dict[str, Any]], data: Path, clips: pd.DataFrame
) -> tuple[pd.DataFrame, Ratings, list[str]]:
    """All clips of a folder with their ratings as 01 will read them, these ratings, and what was rated.

    Raises:
        ValueError, OSError: see `helpers.clips.read_ratings`.
    """
    cfg = AnalysisConfig.checked(tasks.get(ANALYSIS, {}))
    targets = target_names(cfg.targets)
    ratings = read_ratings(data, clips, targets, (cfg.rating_low, cfg.rating_high))
    return add_ratings(clips, ratings), ratings, targets


def why_no_training(
    tasks: dict[str, dict[str, Any]], clips: pd.DataFrame, targets: list[str], data: Path, limit: int = 0
) -> str:
    """Why 06 could not train on the first `limit` clips even if all of them can be used; "" where it can.

    Synthetic clips, and ratings that are to be invented, are trained on whatever their number: see `choose_data`.
    """
    rated = clips[targets].notna().any(axis=1).to_numpy()
    if any(values.get("synthetic_labels") for values in tasks.values()):
        return ""
    if not rated.any():
        beside = "".join(f" ({path} is not in it: move it there)" for path in sorted(data.parent.glob("ratings.*"))[:1])
        return f"{data} holds no ratings, so there is nothing to train on. Add ratings.csv or annotation files{beside}."
    if not rated[: limit or None].any():
        return (
            f"none of the first {limit} clips of {data} is rated, so there is nothing to train on. The first rated "
            f"clip is number {rated.argmax() + 1}: take more with --limit."
        )
    if is_synthetic(data):
        return ""
    return training_problem(clips.head(limit or len(clips)), targets, TrainingConfig.checked(tasks.get(TRAINING, {})))


def ratings_text(tasks: dict[str, dict[str, Any]], data: Path, clips: pd.DataFrame, limit: int = 0) -> str:
    """What the ratings of a folder's clips were matched to, and why 06 could not train on them, as lines."""
    try:
        clips, ratings, targets = rated_clips(tasks, data, clips)
    except Exception as error:  # the table of clips stands, whatever the ratings are like
        return f"ratings cannot be used: {error}"
    rated = clips[targets].notna().any(axis=1)
    lines = [f"{rated.sum():,} of {len(clips):,} clips are rated", *as_lines(ratings.matched.to_numpy())]
    if problem := why_no_training(tasks, clips, targets, data, limit):
        lines.append(f"WARNING: 06 could not train: {problem}")
    return "\n".join(lines)


def account(clips: pd.DataFrame, left_out: pd.DataFrame, out: Path) -> str:
    """What a run has seen, used and left out, in one line; `left_out.csv` in `out` lists it: path, kind, problem."""
    failed: dict[str, str] = {}
    for path in (out / stage / "manifest.json" for stage in ("faces", "static", "dynamic")):
        for entry in read_json(path).get("failed", []) if path.exists() else []:
            if "row" not in entry and entry["clip"] in clips.index:
                failed.setdefault(entry["clip"], entry["reason"])
    rows = [(clips.at[key, "path"], "clip", reason) for key, reason in failed.items()]
    rows = pd.DataFrame(rows, columns=left_out.columns, dtype="str")
    write_rows(pd.concat([left_out, rows]), out / "left_out.csv")
    cannot = f", {len(failed):,} cannot be ({by_kind(failed.values())})" if failed else ""
    used = f"of these clips {len(clips) - len(failed):,} used{cannot}"
    return f"{as_line(len(clips), left_out)}; {used}; list: {out / 'left_out.csv'}"


def _require_weights(configs: list[Parameters]) -> None:
    """Raise FileNotFoundError naming every published weight file that is needed and not to be had."""
    wanted = [cfg for cfg in configs if getattr(cfg, "weights", "") == "pretrained"]
    require([f"{cfg.backbone}{PUBLISHED}" if hasattr(cfg, "backbone") else "i3d_flow_kinetics" for cfg in wanted])
