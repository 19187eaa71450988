"""The check before a run: what is in every clip of a folder, whether a face shows, and what makes a clip unusable.

In: a folder of clips; ratings are not needed. Out: a table with one row per clip, index `key`, and the same as text.
Few frames of a clip are decoded, in processes of their own: a clip that crashes a decoder costs that clip.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from helpers.clips import find_clips
from helpers.container import VideoError, VideoInfo, probe
from helpers.detectors import detect_faces, require_detector
from helpers.files import duration
from helpers.video import iter_frames
from helpers.workers import ClipPool, WorkerError, cores

SHORTEST_S = 0.2  # 4 flows, the fewest that make a row, at the 25 fps of I3D's training
SEGMENT_S = 0.5  # a row of 04: 8 flows at the 15 fps of the defaults; 8 and the pool's overhang at 25 fps
LOWEST_FPS = 12.0  # below it, sampling at 25 fps shows every frame twice: half of the flow is zero
SMALLEST_FACE_PX = 44  # of width: the crop of 1.7 widths is then enlarged threefold to 224 px
LONGEST_TABLE = 40  # clips; of a longer table the text shows those with a problem or a remark
WIDTH = 120  # characters of the text

CLIP_ERRORS = (VideoError, WorkerError, av.FFmpegError, cv2.error, OSError, MemoryError)
COLUMNS = {
    "path": "str", "bytes": "int64", "codec": "str", "width": "Int64", "height": "Int64", "fps": "float64",
    "duration_s": "float64", "rotation_deg": "Int64", "n_frames": "Int64", "audio": "boolean", "coverage": "float64",
    "n_faces_max": "Int64", "face_px": "float64", "usable": "bool", "problems": "str", "remarks": "str",
}  # fmt: skip
OF_FILE = ("codec", "width", "height", "fps", "duration_s", "rotation_deg", "n_frames", "audio")


@dataclass(frozen=True)
class Request:
    """What a worker is asked to look at: the file, how many frames, with which detector, whether to decode them all."""

    path: Path
    looks: int
    detector: str
    thorough: bool


@dataclass
class Finding:
    """What is known of a clip: `faces` (x, y, width, height, ... of each; see `detect_faces`) of each look so far."""

    info: VideoInfo | None = None
    faces: list[np.ndarray] = field(default_factory=list)
    error: str = ""

    @property
    def coverage(self) -> float:
        """Share of the looked-at frames with a face; NaN without a look."""
        return float(np.mean([len(found) > 0 for found in self.faces])) if self.faces else float("nan")

    @property
    def n_faces_max(self) -> int | None:
        return max(map(len, self.faces), default=None)

    @property
    def face_px(self) -> float:
        """Median width of the largest face of a look, in pixels of the displayed frame; NaN without a face."""
        widths = [found[:, 2].max() for found in self.faces if len(found)]
        return float(np.median(widths)) if widths else float("nan")


def check_clips(
    root: str | Path,
    *,
    limit: int = 0,
    workers: int | None = None,
    looks: int = 5,
    thorough: bool = False,
    detector: str = "haar",
    min_coverage: float = 0.3,
    progress: bool = False,
) -> pd.DataFrame:
    """Look at every clip below a folder.

    Args:
        root: The folder.
        limit: The first so many clips only; 0 means all.
        workers: Processes, one clip each; default: one per core that may be used; 0: in this process.
        looks: Frames of a clip in which a face is searched; see `spread_numbers`.
        thorough: Decode every frame, which finds damage inside a file.
        detector: See `detect_faces`.
        min_coverage: Share of frames with a face that 02 will ask for; less is a remark here, as looks are few.
        progress: Whether to show a bar.

    Returns:
        Index `key` as of `find_clips`; columns `path`, `bytes`; `codec`, `width`, `height` (displayed pixels), `fps`,
        `duration_s`, `rotation_deg`, `n_frames`, `audio` (empty where the file cannot be opened); `coverage`,
        `n_faces_max`, `face_px` (see `Finding`); `usable`; `problems`, why a clip is unusable, and `remarks`, what is
        odd about it and does not hinder: text, several joined by "; ".

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: see `find_clips`; `looks` below 1.
    """
    if looks < 1:
        raise ValueError(f"looks must be at least 1, got {looks}. Ask for 5 frames per clip or so.")
    clips = find_clips(root, limit)
    require_detector(detector)
    workers = min(cores() if workers is None else workers, len(clips))
    requests = ((key, Request(Path(root, path), looks, detector, thorough)) for key, path in clips["path"].items())
    rows = []
    with ClipPool(look_at, workers=workers, ahead_clips=2 * workers) as pool:
        for _, pieces in tqdm(pool.run(requests), total=len(clips), unit="clip", disable=not progress):
            rows.append(_row(_gather(pieces), min_coverage))
    found = pd.DataFrame(rows, index=clips.index).join(clips[["path", "bytes"]])
    found["problems"] = [
        text.removeprefix(f"{Path(path).name}: ") for text, path in zip(found["problems"], found["path"], strict=True)
    ]
    return found[list(COLUMNS)].astype(COLUMNS)


def look_at(request: Request) -> Iterator[VideoInfo | np.ndarray | None]:
    """Look at one clip: what is in the file, then the faces of each looked-at frame; None is a sign of life.

    Raises:
        VideoError: see `helpers.video.iter_frames`.
    """
    numbers = spread_numbers(probe(request.path).n_frames, request.looks)
    stream = iter_frames(request.path, indices=None if request.thorough else numbers, backend="pyav")
    looked_at = set(numbers.tolist())
    for position, (frame, _, number) in enumerate(stream):
        if position == 0:
            yield stream.info
        yield detect_faces(frame, request.detector) if number in looked_at else None


def spread_numbers(n_frames: int, looks: int) -> np.ndarray:
    """The middle frame of each of `looks` equal parts of a clip, int (n,); all frames of a shorter clip."""
    return np.unique(((np.arange(looks) + 0.5) * n_frames / looks).astype(int))


def _gather(pieces: Iterator[Any]) -> Finding:
    """Collect what a worker says of a clip, up to its end or its first error."""
    finding = Finding()
    try:
        for piece in pieces:
            if isinstance(piece, VideoInfo):
                finding.info = piece
            elif piece is not None:
                finding.faces.append(piece)
    except CLIP_ERRORS as error:
        finding.error = " ".join(str(error).split()) or type(error).__name__
    return finding


def _row(finding: Finding, min_coverage: float) -> dict[str, Any]:
    info = finding.info
    problems, remarks = problems_of(finding), remarks_of(finding, min_coverage)
    of_file = {name: getattr(info, name, None) for name in OF_FILE}
    return of_file | {
        "codec": info.codec if info else "",
        "coverage": finding.coverage,
        "n_faces_max": finding.n_faces_max,
        "face_px": finding.face_px,
        "usable": not problems,
        "problems": "; ".join(problems),
        "remarks": "; ".join(remarks),
    }


def problems_of(finding: Finding) -> list[str]:
    """Why a clip is unusable; empty if it is usable."""
    problems = [finding.error] if finding.error else []
    if finding.info and finding.info.duration_s < SHORTEST_S:
        problems.append(f"too short for any motion ({finding.info.duration_s:.2f} s, at least {SHORTEST_S} s needed)")
    if finding.faces and finding.coverage == 0:
        problems.append(f"no face in {_looks(finding)}")
    return problems


def remarks_of(finding: Finding, min_coverage: float) -> list[str]:
    """What is odd about a clip and does not make it unusable."""
    remarks = []
    info, n_shown = finding.info, sum(len(found) > 0 for found in finding.faces)
    if n_shown and finding.coverage < min_coverage:
        remarks.append(f"face in only {n_shown} of {_looks(finding)}: 02 may refuse it")
    if finding.face_px < SMALLEST_FACE_PX:
        remarks.append(f"very low resolution face ({finding.face_px:.0f} px wide)")
    if (finding.n_faces_max or 0) > 1:
        remarks.append(f"several faces ({finding.n_faces_max} at once)")
    if info and SHORTEST_S <= info.duration_s < SEGMENT_S:
        remarks.append(f"shorter than one segment ({info.duration_s:.2f} s of {SEGMENT_S} s): its only row is padded")
    if info and info.fps < LOWEST_FPS:
        remarks.append(f"rate below {LOWEST_FPS:g} fps ({info.fps:.1f})")
    if info and info.variable_rate:
        remarks.append("variable frame rate")
    if info and info.mirrored:
        remarks.append("mirrored")
    return remarks


def _looks(finding: Finding) -> str:
    n = len(finding.faces)
    return f"{n} looked-at frame{'s' if n > 1 else ''}"


def as_text(table: pd.DataFrame) -> str:
    """The table of `check_clips` as lines of at most `WIDTH` characters, problems and remarks below their clip.

    Of more than `LONGEST_TABLE` clips it shows those that have any, after a count by codec, size and rate.
    """
    long = len(table) > LONGEST_TABLE
    shown = table[(table["problems"] != "") | (table["remarks"] != "")] if long else table
    lines = [*_kinds(table), ""] if long else []
    if len(shown):
        width = min(max(4, *map(len, shown.index)), WIDTH - len(_line("", shown.iloc[0], 0)))
        lines.append(f"{'clip':{width}} {'codec':>6} {'size':>10} {'fps':>6} {'seconds':>8} {'frames':>7} {'turn':>5} "
                     f"{'audio':>5} {'face':>6} {'faces':>5}")  # fmt: skip
    for key, row in shown.iterrows():
        lines.append(_line(key, row, width))
        lines += _wrapped("unusable: ", row["problems"]) + _wrapped("remark: ", row["remarks"])
    return "\n".join([*lines, verdict(table)])


def _line(key: str, row: pd.Series, width: int) -> str:
    name = key if len(key) <= width else f"…{key[len(key) - width + 1 :]}"
    if pd.isna(row["width"]):
        return f"{name:{width}} {'?':>6} {'?':>10} {'?':>6} {'?':>8} {'?':>7} {'?':>5} {'?':>5} {'?':>6} {'?':>5}"
    size = f"{row['width']}x{row['height']}"
    face = "?" if np.isnan(row["coverage"]) else f"{100 * row['coverage']:.0f} %"
    faces = "?" if pd.isna(row["n_faces_max"]) else row["n_faces_max"]
    return (
        f"{name:{width}} {row['codec'][:6]:>6} {size:>10} {row['fps']:6.2f} {row['duration_s']:8.1f} "
        f"{row['n_frames']:7} {row['rotation_deg']:5} {'yes' if row['audio'] else 'no':>5} {face:>6} {faces:>5}"
    )


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"    {label}", subsequent_indent=" " * 6) if text else []


def _kinds(table: pd.DataFrame) -> list[str]:
    """How many clips there are of each codec, size and rate, most frequent first."""
    opened = table[table["codec"] != ""]
    size = opened["width"].astype(str) + "x" + opened["height"].astype(str)
    kinds = (opened["codec"] + ", " + size + ", " + opened["fps"].map("{:.2f} fps".format)).value_counts()
    lines = [f"{n:6} clips: {kind}" for kind, n in kinds.head(10).items()]
    return lines + ([f"{kinds[10:].sum():6} clips of {len(kinds) - 10} other kinds"] if len(kinds) > 10 else [])


def verdict(table: pd.DataFrame) -> str:
    """One line: how many clips are usable, how many are not, and how long the usable ones are together."""
    usable = table[table["usable"]]
    n, n_all, n_remarks = len(usable), len(table), int((usable["remarks"] != "").sum())
    length = duration(usable["duration_s"].sum() / 3600)
    return f"{n} of {n_all} clips are usable, {length}, {n_remarks} of them with a remark; {n_all - n} are not."
