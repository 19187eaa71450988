"""The check before a run: what is in every clip of a folder.

In: the files of a folder as `helpers.clips.scan_clips` sorts them; ratings are not needed. Out: a table with one row
per clip, index `key`, and the same as text. Few frames of a clip are decoded, in processes of their own, which import
this module: a clip that crashes a decoder costs that clip.
"""

import math
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import pandas as pd
from av.video.frame import PictureType
from tqdm.auto import tqdm

from helpers.container import OpenVideo, open_container, open_video
from helpers.detectors import MIN_FACE, SMALLER, chosen_detector, detect_faces, require_detector
from helpers.failures import reason_of
from helpers.pictures import Converter, shapes_of
from helpers.shots import Shots, small, unlikeness
from helpers.video import STRICT, VideoInfo, describe, iter_frames
from helpers.workers import ClipPool, cores

LOOKS = 5  # frames of a clip in which a face is searched
SHORTEST_S = 0.2  # 4 flows, the fewest that make a row, at the 25 fps of I3D's training
SEGMENT_S = 0.5  # a row of 04: 8 flows at the 15 fps of the defaults; 8 and the pool's overhang at 25 fps
LOWEST_FPS = 12.0  # below it, sampling at 25 fps shows every frame twice: half of the flow is zero
SMALLEST_FACE_PX = 44  # of width: the crop of 1.7 widths is then enlarged threefold to 224 px
DIFFER = 0.15  # unlikeness of two looks from which on a clip may be cut: of two people 95 % are beyond .12
SHOWN_FPS, SHOWN_PX, LONGEST_SHOWN_S = 15.0, 96, 180.0  # how it is then watched for cuts: rate, shorter side, length
LONGEST_TABLE = 40  # clips; of a longer table the text shows those with a problem or a remark
WIDTH = 120  # characters of the text

MISNAMED = ("same key", "not UTF-8")  # kinds of files, see `helpers.inventory`
COLUMNS = {
    "path": "str", "bytes": "int64", "codec": "str", "width": "Int64", "height": "Int64", "fps": "float64",
    "duration_s": "float64", "rotation_deg": "Int64", "n_frames": "Int64", "audio": "boolean", "coverage": "float64",
    "n_faces_max": "Int64", "face_px": "float64", "usable": "bool", "problems": "str", "remarks": "str",
}  # fmt: skip
OF_FILE = ("codec", "width", "height", "fps", "duration_s", "rotation_deg", "n_frames", "audio")
TEXT_COLUMNS = {
    "codec": "codec", "width": "width", "height": "height", "fps": "fps", "duration_s": "seconds",
    "n_frames": "frames", "rotation_deg": "turn", "audio": "audio", "coverage": "face", "n_faces_max": "faces",
}  # fmt: skip
FORMATS = {name: form.format for name, form in {"fps": "{:.2f}", "duration_s": "{:.1f}", "coverage": "{:.0%}"}.items()}
FORMATS["audio"] = {True: "yes", False: "no"}.get


class Request(NamedTuple):
    """What a worker is asked to look at: the file, how faces are found, whether to decode all frames."""

    path: Path
    detector: str
    min_face: float
    thorough: bool


class Look(NamedTuple):
    """A frame that was looked at: the detector's rows; without any, the width in pixels of a face that is too small for
    02, 0 where there is none; the picture as `helpers.shots` compares it.
    """

    faces: np.ndarray
    small_px: float
    picture: np.ndarray | None


def check_clips(
    root: str | Path,
    clips: pd.DataFrame,
    left_out: pd.DataFrame,
    *,
    workers: int | None = None,
    thorough: bool = False,
    detector: str = "haar",
    min_coverage: float = 0.3,
    min_face: float = MIN_FACE,
    progress: bool = False,
) -> pd.DataFrame:
    """Look at clips.

    Args:
        root: The folder they lie below.
        clips, left_out: See `helpers.clips.scan_clips`; files that are no clips for their names alone are told as well.
        workers: Processes, one clip each; default: one per core that may be used.
        thorough: Decode every frame, which finds damage inside a file.
        detector, min_coverage, min_face: Parameters of 02; too few faces are a remark here, as looks are few.

    Returns:
        Index `key`, of files that are no clips their path; columns `path`, `bytes`; `codec`, `width`, `height`
        (displayed pixels), `fps`, `duration_s`, `rotation_deg`, `n_frames`, `audio` (empty where the file cannot be
        opened); `coverage`, the share of looked-at frames with a face, `n_faces_max`, `face_px`, the median width of a
        frame's largest face in displayed pixels (empty without any); `usable`; `problems`, why a clip is unusable, and
        `remarks`, what is odd about it and does not hinder: text, several joined by "; ".
    """
    detector = chosen_detector(detector)
    require_detector(detector)
    workers = min(cores() if workers is None else workers, len(clips))
    requests = [Request(Path(root, path), detector, min_face, thorough) for path in clips["path"]]
    rows = []
    with ClipPool(look_at, workers=workers) as pool:
        answers = pool.run(zip(clips.index, requests, strict=True))
        for _, of_clip in tqdm(answers, total=len(clips), unit="clip", disable=not progress):
            rows.append(_row(requests[len(rows)], of_clip, min_coverage))
    found = pd.DataFrame(rows, index=clips.index).join(clips[["path", "bytes"]])
    misnamed = left_out[left_out["kind"].isin(MISNAMED)].rename(columns={"problem": "problems"})
    misnamed = misnamed.set_index(misnamed["path"].rename("key")).assign(bytes=0, codec="", usable=False, remarks="")
    return pd.concat([found, misnamed]).reindex(columns=list(COLUMNS)).astype(COLUMNS)


def look_at(request: Request) -> Iterator[VideoInfo | Look | int | None]:
    """Look at one clip: what is in the file, each looked-at frame, how many shots; None is a sign of life.

    Raises:
        VideoError: see `helpers.video.iter_frames`.
    """
    with open_video(request.path) as video:
        info = describe(video)
        numbers = spread_numbers(len(video.t_s))
        with suppress(av.FFmpegError):
            pictures = [] if request.thorough else key_pictures(video)
            shapes = shapes_of(video) if pictures and info.remarks else None
            convert = Converter(None, video.stream.sample_aspect_ratio, shapes)
            if looks := [look(convert(picture), request) for picture in pictures]:
                yield from (info, *looks)
                yield from _shots(request.path, info, looks)
                return
    stream = iter_frames(request.path, indices=None if request.thorough else numbers, backend="pyav")
    looked_at, looks, shots = set(numbers.tolist()), [], Shots(info.fps)
    for position, (frame, _, number) in enumerate(stream):
        if position == 0:
            yield info
        if request.thorough:
            shots.step(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
        if number in looked_at:
            looks.append(look(frame, request))
        yield looks[-1] if number in looked_at else None
    yield from [len(shots.cuts()) + 1] if request.thorough else _shots(request.path, info, looks)


def look(frame: np.ndarray, request: Request) -> Look:
    """Look at a frame, RGB uint8 (H, W, 3)."""
    faces, smaller = detect_faces(frame, request.detector, request.min_face), ()
    if request.detector == "haar" and not len(faces) and request.min_face > SMALLER:
        smaller = detect_faces(frame, request.detector, SMALLER)
    small_px = float(max((width for _, _, width, *_ in smaller), default=0))
    return Look(faces, small_px, small(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)))


def _shots(path: Path, info: VideoInfo, looks: list[Look]) -> Iterator[int | None]:
    """How many shots a clip has, for which all of it is decoded where its looks differ, unless it is long."""
    changes = (unlikeness(before.picture, after.picture) for before, after in pairwise(looks))
    if info.duration_s > LONGEST_SHOWN_S or max(changes, default=0) < DIFFER:
        return
    shots, scale = Shots(SHOWN_FPS), SHOWN_PX / min(info.width, info.height)
    size = round(info.height * scale), round(info.width * scale)
    for frame, _, _ in iter_frames(path, fps=SHOWN_FPS, size=size, backend="pyav"):
        shots.step(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
        yield None
    yield len(shots.cuts()) + 1


def key_pictures(video: OpenVideo) -> list[av.VideoFrame]:
    """Of each of `LOOKS` equal parts of a clip the key picture nearest to its middle, decoded alone: that costs least.

    None where a part has no key picture, or one of them is damaged or refers to others.
    """
    numbers, half = np.searchsorted(video.ticks, video.keys), len(video.ticks) / LOOKS / 2
    away = np.abs(numbers - (2 * np.arange(LOOKS)[:, None] + 1) * half)  # (LOOKS, keys)
    if not video.timed or not len(numbers) or away.min(axis=1).max() > half:
        return []
    wanted = set(video.keys[away.argmin(axis=1)].tolist())
    with open_container(video.path) as container:
        packets = [packet for packet in video.packets_of(container) if packet.is_keyframe and packet.pts in wanted]
        codec = container.streams[video.stream.index].codec_context
        codec.options = STRICT
        pictures = [picture for packet in (*packets, None) for picture in codec.decode(packet)]
    is_alone = [not picture.is_corrupt and picture.pict_type == PictureType.I for picture in pictures]
    as_known = [picture.pts for picture in pictures] == [packet.pts for packet in packets]
    return pictures if as_known and all(is_alone) else []


def spread_numbers(n_frames: int) -> np.ndarray:
    """The middle frame of each of `LOOKS` equal parts of a clip, int (n,); all frames of a shorter clip."""
    return np.unique(((np.arange(LOOKS) + 0.5) * n_frames / LOOKS).astype(int))


def _row(request: Request, answers: Iterator[Any], min_coverage: float) -> dict[str, Any]:
    """Columns of one clip, from what a worker says of it up to its end or its first error."""
    info, looks, shots, problems = None, [], 1, []
    try:
        for answer in answers:
            match answer:
                case VideoInfo():
                    info = answer
                case Look():
                    looks.append(answer)
                case int():
                    shots = answer
    except BaseException as error:
        problems.append(reason_of(error, request.path.name))
    row, remarks = {"codec": ""}, []
    if info:
        row, wrong, odd = _judged(info, looks, request.min_face, min_coverage)
        problems += [text for text, holds in wrong.items() if holds]
        remarks = [text for text, holds in odd.items() if holds] + [*info.remarks, *[f"{shots} shots"] * (shots > 1)]
    return row | {"usable": not problems, "problems": "; ".join(problems), "remarks": "; ".join(remarks)}


def _judged(
    info: VideoInfo, looks: list[Look], min_face: float, min_coverage: float
) -> tuple[dict[str, Any], dict[str, bool], dict[str, bool]]:
    """Columns of a clip; what may be wrong with it, and what odd, and whether it is."""
    n, widths_px = len(looks), [look.faces[:, 2].max() for look in looks if len(look.faces)]
    coverage = len(widths_px) / n if n else math.nan
    n_faces = max((len(look.faces) for look in looks), default=0)
    face_px = float(np.median(widths_px)) if widths_px else math.nan
    small_px = np.median([look.small_px for look in looks] or 0)
    length, share = f"{info.duration_s:.2f} s", f"{min_face:g} of the picture's shorter side"
    too_small = (
        f"the face is too small: {small_px:.0f} px wide, below min_face ({share}). Set a smaller min_face in 02, or "
        "take a larger picture"
    )
    wrong = {
        f"too short for any motion ({length}, at least {SHORTEST_S} s needed)": info.duration_s < SHORTEST_S,
        too_small: coverage == 0 and small_px > 0,
        f"no face in {n} looked-at frame{'s' if n > 1 else ''}": coverage == 0 and small_px == 0,
    }
    odd = {
        f"face in only {len(widths_px)} of {n} looked-at frames: 02 may refuse it": 0 < coverage < min_coverage,
        too_small: coverage > 0 and small_px > 0,
        f"very low resolution face ({face_px:.0f} px wide)": face_px < SMALLEST_FACE_PX,
        f"several faces ({n_faces} at once)": n_faces > 1,
        f"shorter than one segment ({length} of {SEGMENT_S} s): its only row is padded": info.duration_s < SEGMENT_S,
        f"rate below {LOWEST_FPS:g} fps ({info.fps:.1f})": info.fps < LOWEST_FPS,
        "variable frame rate": info.variable_rate,
        "mirrored": info.mirrored,
    }
    of_faces = {"coverage": coverage, "n_faces_max": n_faces if n else None, "face_px": face_px}
    return {name: getattr(info, name) for name in OF_FILE} | of_faces, wrong, odd


def as_text(table: pd.DataFrame) -> str:
    """The table of `check_clips` as lines of at most `WIDTH` characters, problems and remarks below their clip.

    Of more than `LONGEST_TABLE` clips it shows those that have any, after a count by codec, size and rate.
    """
    lines, shown = [], table
    if len(table) > LONGEST_TABLE:
        kinds = table.round({"fps": 2}).value_counts(["codec", "width", "height", "fps"])
        lines = [f"{n:6} clips: {c}, {w}x{h}, {fps:.2f} fps" for (c, w, h, fps), n in kinds.head(10).items()]
        lines += [f"{kinds[10:].sum():6} clips of {len(kinds) - 10} other kinds"] * (len(kinds) > 10)
        shown = table[(table["problems"] != "") | (table["remarks"] != "")]
    if len(shown):
        cells = shown.rename(index=lambda key: f"…{key[-47:]}" if len(key) > 48 else key)
        cells = cells.astype(object).where(cells.notna(), math.nan).rename_axis(index=None, columns="clip")
        how = {"columns": list(TEXT_COLUMNS), "header": list(TEXT_COLUMNS.values()), "formatters": FORMATS}
        head, *rows = cells.to_string(**how, na_rep="?").split("\n")
        lines.append(head)
        for row, problems, remarks in zip(rows, shown["problems"], shown["remarks"], strict=True):
            lines.append(row)
            for label, text in (("unusable: ", problems), ("remark: ", remarks)):
                lines += textwrap.wrap(text, WIDTH, initial_indent=f"    {label}", subsequent_indent=" " * 6)
    usable = table[table["usable"]]
    length, odd = duration_text(usable["duration_s"].sum() / 3600), (usable["remarks"] != "").sum()
    said = f"{len(usable)} of {len(table)} clips are usable, {length}, {odd} of them with a remark"
    return "\n".join([*lines, f"{said}; {len(table) - len(usable)} are not."])


def duration_text(hours: float) -> str:
    """Hours in words: "0.4 h (25 min)"; minutes under six hours, seconds under two minutes."""
    seconds = 3600 * hours
    if seconds < 120:
        return f"{hours:.1f} h ({seconds:.0f} s)"
    return f"{hours:.1f} h ({seconds / 60:.0f} min)" if hours < 6 else f"{hours:,.0f} h"
