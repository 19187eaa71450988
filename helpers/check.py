"""The check before a run: what is in every clip of a folder, and what a run over them will take of time and disk.

In: the files of a folder as `helpers.clips.scan_clips` sorts them, and the parameters of the run. Out: a table with one
row per clip, index `key`; a table with one row per stage. Few frames of a clip are decoded, in processes of their own,
which import this module: a clip that crashes a decoder costs that clip.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import pandas as pd
from av.video.frame import PictureType
from tqdm.auto import tqdm

from helpers.config import NOTEBOOKS, PreparationConfig
from helpers.container import OpenVideo, open_container, open_video, write_excerpt
from helpers.detectors import SMALLER, chosen_detector, detect_faces, require_detector
from helpers.files import read_json, resolve
from helpers.pictures import Converter, shapes_of
from helpers.shots import Shots, small, unlikeness
from helpers.store import reason_of
from helpers.video import STRICT, VideoInfo, describe, iter_frames, probe
from helpers.workers import ClipPool, cores

LOOKS = 5  # frames of a clip in which a face is searched
SHORTEST_S = 0.2  # 4 flows, the fewest that make a row, at the 25 fps of I3D's training
LOWEST_FPS = 12.0  # below it, sampling at 25 fps shows every frame twice: half of the flow is zero
DIFFER = 0.15  # unlikeness of two looks from which on a clip may be cut: of two people 95 % are beyond .12
SHOWN_FPS, SHOWN_PX, LONGEST_SHOWN_S = 15.0, 96, 180.0  # how it is then watched for cuts: rate, shorter side, length
LONGEST_TABLE = 40  # clips that the text shows with all columns

MISNAMED = ("same key", "not UTF-8")  # kinds of files, see `helpers.clips`
COLUMNS = {
    "path": "str", "bytes": "int64", "codec": "str", "width": "Int64", "height": "Int64", "fps": "float64",
    "duration_s": "float64", "rotation_deg": "Int64", "n_frames": "Int64", "audio": "boolean", "coverage": "float64",
    "n_faces_max": "Int64", "face_px": "float64", "usable": "bool", "problems": "str", "remarks": "str",
}  # fmt: skip
OF_FILE = ("codec", "width", "height", "fps", "duration_s", "rotation_deg", "n_frames", "audio")

# Stages that touch every clip: the notebook, the folder of its files.
STAGES = {
    "02 preparation": ("02_clip_preparation", "faces"),
    "03 static": ("03_static_extraction", "static"),
    "04 dynamic": ("04_dynamic_extraction", "dynamic"),
}
FIRST_S = 2.0  # of few clips: what a stage takes for them is mostly its start
EXCERPT_S = 6.0  # of several clips: long enough for rows, short enough for clips of any length and size
WHOLE_S = 60.0  # a clip that cannot be cut is run as a whole up to this length
FEWEST_CLIPS, MOST_CLIPS = 6, 32  # of which half are run first: a clip may be unusable; enough for all cores
BOUND = 0.8  # share of its time that a stage waits for the network when the network bounds it


class Request(NamedTuple):
    """What a worker is to look at: the file, how 02 will find faces in it, whether to decode all frames."""

    path: Path
    cfg: PreparationConfig
    thorough: bool


class Look(NamedTuple):
    """A frame that was looked at: the detector's rows; without any, the width in pixels of a face that is too small for
    02, 0 where there is none; the picture as `helpers.shots` compares it.
    """

    faces: np.ndarray
    small_px: float
    picture: np.ndarray


def check_clips(
    root: str | Path,
    clips: pd.DataFrame,
    left_out: pd.DataFrame,
    cfg: PreparationConfig | None = None,
    *,
    workers: int | None = None,
    thorough: bool = False,
    progress: bool = False,
) -> pd.DataFrame:
    """Look at clips.

    Args:
        root: The folder they lie below.
        clips, left_out: See `helpers.clips.scan_clips`; files that are no clips for their names alone are told as well.
        cfg: Parameters of 02; too few faces for them are a remark here, as looks are few.
        workers: Processes, one clip each; default: one per core that may be used.
        thorough: Decode every frame, which finds damage inside a file.
        progress: Show a bar.

    Returns:
        Index `key`, of files that are no clips their path; columns `path`, `bytes`; `codec`, `width`, `height`
        (displayed pixels), `fps`, `duration_s`, `rotation_deg`, `n_frames`, `audio` (empty where the file cannot be
        opened); `coverage`, the share of looked-at frames with a face, `n_faces_max`, `face_px`, the median width of a
        frame's largest face in displayed pixels (empty without any); `usable`; `problems`, why a clip is unusable, and
        `remarks`, what is odd about it and does not hinder: text, several joined by "; ".
    """
    cfg = cfg or PreparationConfig()
    cfg = replace(cfg, detector=chosen_detector(cfg.detector))
    require_detector(cfg.detector)
    workers = min(cores() if workers is None else workers, len(clips))
    requests = [Request(Path(root, path), cfg, thorough) for path in clips["path"]]
    rows = []
    with ClipPool(look_at, workers=workers) as pool:
        answers = pool.run(zip(clips.index, requests, strict=True))
        for _, of_clip in tqdm(answers, total=len(clips), unit="clip", disable=not progress):
            rows.append(_row(requests[len(rows)], of_clip))
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
            if looks := [look(convert(picture), request.cfg) for picture in pictures]:
                yield from (info, *looks)
                yield from _shots(request.path, info, looks)
                return
    stream = iter_frames(request.path, indices=None if request.thorough else numbers, backend="pyav")
    looks, shots = [], Shots(info.fps)
    for position, (frame, _, number) in enumerate(stream):
        if position == 0:
            yield info
        if request.thorough:
            shots.step(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
        if number in numbers:
            looks.append(look(frame, request.cfg))
        yield looks[-1] if number in numbers else None
    yield from [len(shots.cuts()) + 1] if request.thorough else _shots(request.path, info, looks)


def look(frame: np.ndarray, cfg: PreparationConfig) -> Look:
    """Look at a frame, RGB uint8 (H, W, 3)."""
    faces, smaller = detect_faces(frame, cfg.detector, cfg.min_face), ()
    if cfg.detector == "haar" and not len(faces) and cfg.min_face > SMALLER:
        smaller = detect_faces(frame, cfg.detector, SMALLER)
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


def _row(request: Request, answers: Iterator[Any]) -> dict[str, Any]:
    """Columns of one clip, from what a worker says of it up to its end or its first error."""
    info, looks, shots, problems, remarks = None, [], 1, [], []
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
    row = {"codec": ""}
    if info:
        row, wrong, odd = _judged(info, looks, request.cfg)
        problems += [text for text, holds in wrong.items() if holds]
        remarks = [text for text, holds in odd.items() if holds] + [*info.remarks, *[f"{shots} shots"] * (shots > 1)]
    return row | {"usable": not problems, "problems": "; ".join(problems), "remarks": "; ".join(remarks)}


def _judged(
    info: VideoInfo, looks: list[Look], cfg: PreparationConfig
) -> tuple[dict[str, Any], dict[str, bool], dict[str, bool]]:
    """Columns of a clip; what may be wrong with it, and what odd, and whether it is."""
    n, widths_px = len(looks), [look.faces[:, 2].max() for look in looks if len(look.faces)]
    coverage = len(widths_px) / n if n else math.nan
    n_faces = max((len(look.faces) for look in looks), default=0)
    small_px = np.median([look.small_px for look in looks] or 0)
    too_small = (
        f"the face is too small: {small_px:.0f} px wide, below min_face ({cfg.min_face:g} of the picture's shorter "
        "side). Set a smaller min_face in 02, or take a larger picture"
    )
    wrong = {
        f"too short for any motion ({info.duration_s:.2f} s, at least {SHORTEST_S} s needed)": (
            info.duration_s < SHORTEST_S
        ),
        too_small: coverage == 0 and small_px > 0,
        f"no face in {n} looked-at frame{'s' if n > 1 else ''}": coverage == 0 and small_px == 0,
    }
    odd = {
        f"face in only {len(widths_px)} of {n} looked-at frames: 02 may refuse it": 0 < coverage < cfg.min_coverage,
        too_small: coverage > 0 and small_px > 0,
        f"several faces ({n_faces} at once)": n_faces > 1,
        f"rate below {LOWEST_FPS:g} fps ({info.fps:.1f})": info.fps < LOWEST_FPS,
        "variable frame rate": info.variable_rate,
    }
    face_px = float(np.median(widths_px)) if widths_px else math.nan
    of_faces = {"coverage": coverage, "n_faces_max": n_faces if n else None, "face_px": face_px}
    return {name: getattr(info, name) for name in OF_FILE} | of_faces, wrong, odd


def as_text(table: pd.DataFrame) -> str:
    """The table of `check_clips`, of more than `LONGEST_TABLE` clips its ends, then every problem and remark."""
    shown = table.drop(columns=["path", "bytes", "face_px", "usable", "problems", "remarks"]).round(2).astype(object)
    lines = [shown.where(shown.notna(), "?").to_string(max_rows=LONGEST_TABLE, index_names=False)]
    for label, column in (("unusable", "problems"), ("remark", "remarks")):
        lines += [f"{label}: {key}: {text}" for key, text in table.loc[table[column] != "", column].items()]
    usable = table[table["usable"]]
    length, odd = tqdm.format_interval(usable["duration_s"].sum()), (usable["remarks"] != "").sum()
    said = f"{len(usable)} of {len(table)} clips are usable, {length} long, {odd} of them with a remark"
    return "\n".join([*lines, f"{said}; {len(table) - len(usable)} are not."])


def estimate(checked: pd.DataFrame, root: str | Path, parameters: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Estimate what a run over the usable clips of a folder will take, by running its stages.

    02 to 04 are run with random weights of the same shape into a folder that is then removed: on the first seconds of
    few clips, which pay for starting, then on more of several, whose further seconds are what a second of clip costs.

    Args:
        checked: As `check_clips` returns it.
        root: The folder that its paths lie below.
        parameters: Notebook name -> parameters of the run, as `helpers.workbook.plan` puts them together.

    Returns:
        Index `stage`: those of `STAGES` and "05 alignment" (its files only); columns `per_s` (seconds per second of
        clip), `start_s`, `bound` ("cores" or "GPU"), `hours` and `bytes` of features for all usable clips. `attrs`
        tell `clips`, `clip_s`, `device`, and `trees` (what 03 and 04 read instead of videos).

    Raises:
        ValueError: no clip is usable, a tree holds none of them, or none of those tried can be run.
    """
    from helpers.device import chosen_device
    from helpers.machine import enable_memory_growth

    usable = checked[checked["usable"]]
    configs = {stage: NOTEBOOKS[name].checked(parameters[name]) for stage, (name, _) in STAGES.items()}
    several = _typical(usable, configs)
    few = several.head(max(1, len(several) // 2))
    enable_memory_growth()
    with tempfile.TemporaryDirectory() as folder:
        first = _run_stages(few, Path(root), Path(folder, "first"), FIRST_S, configs)
        then = _run_stages(several, Path(root), Path(folder, "then"), EXCERPT_S, configs)
    device = chosen_device(configs["04 dynamic"].device.upper())
    table = scaled(first, then, device["kind"])
    cfg, clip_s = NOTEBOOKS["05_alignment"].checked(parameters["05_alignment"]), float(usable["duration_s"].sum())
    bytes_per_s = [*(then["bytes"] / then["clip_s"]), aligned_bytes(then, cfg)]
    table.loc["05 alignment"] = {"per_s": 0.0, "start_s": 0.0, "bound": ""}
    table["hours"] = (table["per_s"] * clip_s + table["start_s"]) / 3600
    table["bytes"] = (np.array(bytes_per_s) * clip_s).round().astype(int)
    name = device["name"] + ("" if device["kind"] == "GPU" else f" ({cores()} cores, no GPU)")
    trees = {stage: tree_of(cfg) for stage, cfg in configs.items() if tree_of(cfg)}
    table.attrs = {"clips": len(usable), "clip_s": clip_s, "device": name, "trees": trees}
    return table


def _typical(usable: pd.DataFrame, configs: dict[str, Any]) -> pd.DataFrame:
    """Clips of the most usual length, of those that all trees hold."""
    from helpers.extract import open_source

    keys = usable.index
    for cfg in configs.values():
        if tree_of(cfg) and len(keys):
            source = open_source(cfg, usable)
            usable = usable[[source.fingerprint(Path(), key) != "missing" for key in usable.index]]
    if usable.empty:
        raise ValueError("a forecast needs a usable clip that all trees hold, got none.")
    unlike = (usable["duration_s"] - usable["duration_s"].median()).abs().round(1)
    return usable.loc[unlike.sort_values(kind="stable").index[: min(max(FEWEST_CLIPS, 2 * cores()), MOST_CLIPS)]]


def tree_of(cfg: Any) -> str:
    """The folder that a stage reads instead of videos, "" where it reads those."""
    return getattr(cfg, "faces_dir", "") or getattr(cfg, "flow_dir", "")


def _run_stages(clips: pd.DataFrame, root: Path, folder: Path, seconds: float, configs: dict[str, Any]) -> pd.DataFrame:
    """Run the stages into a folder, on the first `seconds` of each clip, or on all that a tree holds.

    Returns a row per stage: seconds in all (`spent_s`) and in the network; what it made: seconds of clip, bytes, rows
    of `dim` features.
    """
    from helpers.extract import extract_dynamic, extract_static
    from helpers.faces import prepare_clips

    lengths_s, found = beginnings(clips, root, folder, seconds), {}
    clips = clips.loc[lengths_s.index]
    for (stage, cfg), run in zip(configs.items(), (prepare_clips, extract_static, extract_dynamic), strict=True):
        random = {"weights": "random"} if hasattr(cfg, "weights") else {}
        cfg = replace(cfg, data_dir=str(folder), out_dir=str(folder / "run"), progress=False, **random)
        started_s = time.perf_counter()
        manifest = run(clips[["path"]], cfg)
        spent_s = time.perf_counter() - started_s
        made = folder / "run" / STAGES[stage][1]
        sizes = {key: file.stat().st_size for key in clips.index if (file := made / f"{key}.npz").is_file()}
        if not sizes:
            raise ValueError(
                "a forecast needs a clip that can be run, got {clip}: {reason}".format(**manifest["failed"][0])
            )
        log, counts = made / "extraction_log.json", manifest["counts"]
        found[stage] = {
            "spent_s": spent_s,
            "network_s": read_json(log)["seconds_spent"]["network"] if log.is_file() else 0.0,
            "clip_s": float((clips["duration_s"] if tree_of(cfg) else lengths_s)[list(sizes)].sum()),
            "bytes": sum(sizes.values()),
            "rows": counts.get("rows", 0),
            "dim": counts.get("feature_dim", 0),
        }
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("stage")


def beginnings(clips: pd.DataFrame, root: Path, folder: Path, seconds: float) -> pd.Series:
    """Put the first `seconds` of each clip into a folder; their lengths by key.

    A clip that cannot be cut is taken whole where it is not too long, and left out otherwise; what hindered the last is
    raised where not one could be taken.
    """
    lengths_s, hindered = {}, None
    for key, path, whole_s in clips[["path", "duration_s"]].itertuples():
        excerpt = folder / path
        excerpt.parent.mkdir(parents=True, exist_ok=True)
        try:
            lengths_s[key] = probe(write_excerpt(root / path, excerpt, seconds)).duration_s
        except Exception as error:
            hindered = error
            if whole_s <= WHOLE_S:
                shutil.copy(root / path, excerpt)
                lengths_s[key] = whole_s
    if not lengths_s:
        raise hindered
    return pd.Series(lengths_s)


def scaled(first: pd.DataFrame, then: pd.DataFrame, kind: str) -> pd.DataFrame:
    """What a second of clip costs beyond the start, and what bounds it, by stage: `per_s`, `start_s`, `bound`."""
    columns = ["clip_s", "spent_s", "network_s"]
    further = then[columns] - first[columns]
    shorter = (further[["clip_s", "spent_s"]] <= 0).any(axis=1)
    further.loc[shorter] = then.loc[shorter, columns]
    per_s = further["spent_s"] / further["clip_s"]
    waits = (further["network_s"] > BOUND * further["spent_s"]) & (kind == "GPU")
    start_s = (first["spent_s"] - per_s * first["clip_s"]).clip(lower=0)
    return pd.DataFrame({"per_s": per_s, "start_s": start_s, "bound": np.where(waits, "GPU", "cores")})


def aligned_bytes(made: pd.DataFrame, cfg: Any) -> float:
    """Bytes of 05's files per second of clip: tokens of both streams, and each face row paired with a motion row."""
    made = made.loc[["03 static", "04 dynamic"]]
    static, dynamic = made["rows"] / made["clip_s"]
    most = [math.inf, math.inf] if cfg.reduction == "none" else [cfg.static_dim, cfg.dynamic_dim]
    static_dim, dynamic_dim = np.minimum(made["dim"], most)
    return 4 * (static * (2 * static_dim + dynamic_dim) + dynamic * dynamic_dim)  # 4: float32


def estimate_text(table: pd.DataFrame) -> str:
    """The estimate as lines, and whether the disk that `results/` is on has room for it."""
    facts, n_bytes, time_text = table.attrs, table["bytes"].sum(), tqdm.format_interval
    shown = table.assign(hours=[time_text(3600 * h) for h in table["hours"]], bytes=[_size(n) for n in table["bytes"]])
    shown.columns = ["per second", "start (s)", "bound by", "time", "disk"]
    lines = [
        f"Forecast for {facts['clips']} clips ({time_text(facts['clip_s'])}) on {facts['device']}:",
        shown.round(3).to_string(index_names=False),
        f"together {time_text(3600 * table['hours'].sum())}, {_size(n_bytes)}; without 06 and 07, of 05 the disk.",
    ]
    lines += [f"{stage} reads {folder} instead of the videos." for stage, folder in facts["trees"].items()]
    if "GPU" not in set(table["bound"]) and "no GPU" not in facts["device"]:
        lines.append("The cores bound every stage: a second GPU would make none of them faster.")
    folder = resolve("results")
    free = shutil.disk_usage(next(there for there in (folder, *folder.parents) if there.exists())).free
    enough = "" if free > n_bytes else " WARNING: not enough. Name a larger disk with --out."
    return "\n".join([*lines, f"Free on the disk of {folder}: {_size(free)}.{enough}"])


def _size(n_bytes: float) -> str:
    """Bytes in the unit that fits: "3.06MB"."""
    return f"{tqdm.format_sizeof(n_bytes)}B"
