"""Features made elsewhere become a stage like any other.

In: features of clips in one of the layouts of `helpers.exchange.layouts`, and the clips of a data folder. Out: the
stage folder `static/` or `dynamic/` of a run, which 05 aligns like those of 03 and 04: a feature file per clip, and a
manifest that says where the numbers came from.
"""

import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from helpers.clips import find_clips, fitting_keys
from helpers.exchange.layouts import Layout, open_layout
from helpers.files import FolderLock
from helpers.reduction import STREAMS
from helpers.store import Stage, write_features

log = logging.getLogger(__name__)

SHOWN = 5  # names that an error lists


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
        source: See `open_layout`, as `index` and `fps`.
        out: The run's folder.
        stream: "static" or "dynamic", which becomes the name of the stage.
        data: The folder of clips. Features belong to the clip with that key, or whose key ends in the name.
        index: Index CSV of a `.npy`; default: the file of the same name with `.csv`.
        fps: Frames per second, for rows without times.
        skip_unmatched: Leave out features whose name fits no clip or several, with the reason, instead of refusing.
        progress: Whether to show a progress bar.

    Returns:
        The manifest of the stage.

    Raises:
        ValueError: Names that fit no clip or several; a damaged table; no usable rows; rows of different widths; a
            stage that is there already and was made otherwise.
        LockedError: The run is being filled.
    """
    if stream not in STREAMS:
        raise ValueError(f"stream must be {' or '.join(STREAMS)}, got {stream!r}.")
    source, out, clips = Path(source), Path(out), find_clips(data)
    with FolderLock(out), tempfile.TemporaryDirectory(dir=out, prefix=".part-") as scratch:
        layout = open_layout(source, scratch, index=index, fps=fps)
        named, refused = match_clips(layout.names, clips.index)
        if refused and (not skip_unmatched or not named):
            _refuse(source, refused, skip_unmatched)
        failed, width = _survey(layout, named, progress)
        identity, made_with = _identity(layout, source, fps), {"source": str(source.resolve())}
        with Stage(out / stream, stream, identity, made_with) as stage:
            for name, reason in refused.items():
                log.warning("%s is left out: %s", name, reason)
                stage.fail(name, reason)
            counts = {"clips": len(clips), "made": 0, "found": 0, "failed": 0, "rows": 0, "invalid_rows": 0}
            counts |= {"feature_dim": width, "unmatched": len(refused)}
            for key in clips.index:
                reason = failed.get(key) if key in named else f"there are no features of it in {source.name}"
                if reason is not None:
                    _leave_out(stage, key, reason, counts)
                else:
                    _write_clip(stage, layout, key, named[key], counts)
            return stage.finish(**counts)


def match_clips(names: Iterable[str], keys: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Find the clip of each name.

    Args:
        names: What the features call their clips: keys, or ends of keys, with or without a video's suffix.
        keys: Of the clips there are.

    Returns:
        From key to name; and from every other name to the reason: it fits no clip, several, or another name's clip.
    """
    names = list(names)
    named: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name, fitting in zip(names, fitting_keys(names, keys), strict=True):
        if not fitting:
            refused[name] = "there is no such clip"
        elif len(fitting) > 1:
            refused[name] = f"it fits {fitting[0]} and {fitting[1]}"
        elif named.setdefault(fitting[0], name) != name:
            refused[name] = f"{named[fitting[0]]} means the same clip {fitting[0]}"
    return named, refused


def _refuse(source: Path, refused: dict[str, str], skip_unmatched: bool) -> None:
    listed = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:SHOWN])
    more = f"; and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
    advice = "Check the data folder." if skip_unmatched else "Call them by key, or leave them out (skip_unmatched)."
    raise ValueError(f"names in {source.name} must fit one clip each, got {listed}{more}. {advice}")


def _survey(layout: Layout, named: dict[str, str], progress: bool) -> tuple[dict[str, str], int]:
    """Read every clip once before the first is written: the reasons of those that cannot be used, and the width."""
    failed: dict[str, str] = {}
    first: tuple[str, int] | None = None
    for key, name in tqdm(named.items(), unit="clip", disable=not progress):
        try:
            rows, _ = layout.rows(name)
        except ValueError as error:
            failed[key] = str(error)
            continue
        first = first or (name, rows.features.shape[1])
        if rows.features.shape[1] != first[1]:
            raise ValueError(
                f"features must be of one width, got {first[1]} for {first[0]} and {rows.features.shape[1]} "
                f"for {name}. Take the features of one network."
            )
    if first is None:
        raise ValueError(f"a clip at least must have usable features, got none of {len(named)}: {min(failed.values())}")
    return failed, first[1]


def _identity(layout: Layout, source: Path, fps: float | None) -> dict[str, Any]:
    """What later stages compare and name: `weights` as other stages have it, so that nothing takes it for ours."""
    return {
        "parameters": {"weights": "elsewhere"},
        "weights": {"name": "elsewhere", "source": source.name, "sha256": layout.sha256},
        "elsewhere": {"layout": layout.kind, "index_sha256": layout.index_sha256, "fps": fps},
    }


def _leave_out(stage: Stage, key: str, reason: str, counts: dict[str, int]) -> None:
    log.warning("%s is left out: %s", key, reason)
    stage.path(key).unlink(missing_ok=True)  # of an earlier import, when the clip could be told from others
    stage.fail(key, reason)
    counts["failed"] += 1


def _write_clip(stage: Stage, layout: Layout, key: str, name: str, counts: dict[str, int]) -> None:
    rows, reasons = layout.rows(name)
    stamp = layout.sha256[:16]
    done = stage.done(key, stamp)
    if not done:
        write_features(stage.path(key), rows, stamp)
    counts["found" if done else "made"] += 1
    counts["rows"] += len(rows.valid)
    counts["invalid_rows"] += len(reasons)
    for row, reason in sorted(reasons.items()):
        stage.fail(key, reason, row)
