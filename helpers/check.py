"""The check before a run: what is in every clip of a folder, and what a run over them will take of time and disk.

Few frames of a clip are decoded, in processes of their own, which import this module: a clip that crashes a decoder
costs that clip.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pandas as pd
from av.video.frame import PictureType
from tqdm.auto import tqdm

from helpers.clips import as_lines
from helpers.config import NOTEBOOKS, PreparationConfig
from helpers.container import Converter, OpenVideo, open_container, open_video
from helpers.files import read_json, resolve, stderr_into
from helpers.names import match_clips
from helpers.store import reason_of
from helpers.tracking import SMALLER, Shots, chosen_detector, detect_faces, small, unlikeness
from helpers.video import STRICT, VideoInfo, describe, iter_frames
from helpers.workbook import rated_clips, why_no_training
from helpers.workers import ClipPool, cores

LOOKS = 5  # frames of a clip in which a face is searched
SHORTEST_S = 0.2  # 4 flows, the fewest that make a row, at the 25 fps of I3D's training
LOWEST_FPS = 12.0  # below it, sampling at 25 fps shows every frame twice: half of the flow is zero
DIFFER = 0.15  # unlikeness of two looks from which on a clip may be cut: of two people 95 % are beyond .12
SMALL_PX, LONGEST_S = 96, 180.0  # how it is then searched for cuts: shorter side of the pictures, length of the clip
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
SAMPLE_S, MOST_CLIPS = 20.0, 32  # clips that an estimate runs: so many seconds per core, so many in all
BOUND = 0.8  # share of its time that a stage waits for the network when the network bounds it


def check_clips(
    root: str | Path,
    clips: pd.DataFrame,
    left_out: pd.DataFrame,
    cfg: PreparationConfig | None = None,
    *,
    thorough: bool = False,
    progress: bool = False,
) -> pd.DataFrame:
    """Look at the clips below `root`, one per core at a time; see `helpers.clips.scan_clips` for both tables.

    Too few faces for `cfg`, the parameters of 02, are a remark here, as looks are few. `thorough` decodes every frame,
    which finds damage inside a file; `progress` shows a bar.

    Returns:
        Index `key`, of files that for their names alone are no clips their path; columns `path`, `bytes`; `codec`,
        `width`, `height` (displayed pixels), `fps`, `duration_s`, `rotation_deg`, `n_frames`, `audio` (empty where the
        file cannot be opened); `coverage`, the share of looked-at frames with a face, `n_faces_max`, `face_px`, the
        median width of a frame's largest face in displayed pixels (empty without any); `usable`; `problems`, why a clip
        is unusable, and `remarks`, what is odd about it and does not hinder: text, several joined by "; ".
    """
    cfg = cfg or PreparationConfig()
    cfg = replace(cfg, detector=chosen_detector(cfg.detector))
    requests = [(Path(root, path), cfg, thorough) for path in clips["path"]]
    rows = []
    with ClipPool(look_at, workers=min(cores(), len(clips))) as pool:
        answers = pool.run(zip(clips.index, requests, strict=True))
        for _, of_clip in tqdm(answers, total=len(clips), unit="clip", disable=not progress):
            rows.append(_row(requests[len(rows)][0].name, of_clip, cfg))
    found = pd.DataFrame(rows, index=clips.index).join(clips[["path", "bytes"]])
    misnamed = left_out[left_out["kind"].isin(MISNAMED)].rename(columns={"problem": "problems"})
    misnamed = misnamed.set_index(misnamed["path"].rename("key")).assign(bytes=0, codec="", usable=False, remarks="")
    return pd.concat([found, misnamed]).reindex(columns=list(COLUMNS)).astype(COLUMNS)


def look_at(request: tuple[Path, PreparationConfig, bool]) -> Iterator[dict[str, Any]]:
    """Look at one clip (path, parameters of 02, whether to decode every frame): parts of what `_row` puts together.

    An empty part is a sign of life. VideoError: see `helpers.video.iter_frames`.
    """
    path, cfg, thorough = request
    with open_video(path) as video:
        info = describe(video)
        yield {"info": info}
        frames = key_frames(video)
    middles = np.unique(((np.arange(LOOKS) + 0.5) * info.n_frames / LOOKS).astype(int))
    looks, pictures = [], []
    for frame in frames or (frame for frame, *_ in iter_frames(path, indices=middles, backend="pyav")):
        looks.append(_look(frame, cfg))
        pictures.append(small(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)))
        yield {"looks": looks}
    differ = max((unlikeness(one, next_one) for one, next_one in pairwise(pictures)), default=0) >= DIFFER
    if thorough or (differ and info.duration_s < LONGEST_S):
        shots, scale = Shots(), SMALL_PX / min(info.width, info.height)
        size = round(info.height * scale), round(info.width * scale)
        for frame, *_ in iter_frames(path, size=size, backend="pyav"):
            shots.step(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
            yield {}
        yield {"shots": len(shots.cuts()) + 1}


def key_frames(video: OpenVideo) -> list[np.ndarray]:
    """Of each of `LOOKS` equal parts of a clip the key picture nearest to its middle, decoded alone: that costs least.

    Empty where a part has no key picture, or one of them is damaged or refers to others.
    """
    numbers, half = np.searchsorted(video.ticks, video.keys), len(video.ticks) / LOOKS / 2
    away = np.abs(numbers - (2 * np.arange(LOOKS)[:, None] + 1) * half)  # (LOOKS, keys)
    if not video.timed or not len(numbers) or away.min(axis=1).max() > half:
        return []
    wanted = set(video.keys[away.argmin(axis=1)].tolist())
    with suppress(av.FFmpegError), open_container(video.path) as container:
        packets = [packet for packet in video.packets_of(container) if packet.is_keyframe and packet.pts in wanted]
        codec = container.streams[video.stream.index].codec_context
        codec.options = STRICT
        pictures = [picture for packet in (*packets, None) for picture in codec.decode(packet)]
        if [p.pts for p in pictures if p.pict_type == PictureType.I] == [packet.pts for packet in packets]:
            return list(map(Converter(None, video.stream.sample_aspect_ratio), pictures))
    return []


def _look(frame: np.ndarray, cfg: PreparationConfig) -> tuple[int, float, float]:
    """In RGB uint8 (H, W, 3): faces, the largest one's width in px (NaN: none), without any a too small one's."""
    faces, smaller = detect_faces(frame, cfg.detector, cfg.min_face), ()
    if cfg.detector == "haar" and not len(faces) and cfg.min_face > SMALLER:
        smaller = detect_faces(frame, cfg.detector, SMALLER)
    width, too_small = (max((float(row[2]) for row in rows), default=0.0) for rows in (faces, smaller))
    return len(faces), width or np.nan, too_small


def _row(name: str, answers: Iterator[dict[str, Any]], cfg: PreparationConfig) -> dict[str, Any]:
    """Columns of one clip, from what a worker says of it up to its end or its first error."""
    found, problems, remarks, row = {"info": None, "looks": [], "shots": 1}, [], [], {"codec": ""}
    try:
        for answer in answers:
            found |= answer
    except BaseException as error:
        problems.append(reason_of(error, name))
    if info := found["info"]:
        looks = pd.DataFrame(found["looks"], columns=["faces", "width", "too_small"])
        problems += _problems(info, looks, cfg)
        remarks = _remarks(info, looks, found["shots"], cfg)
        row = {column: getattr(info, column) for column in OF_FILE}
        row |= {"coverage": (looks["faces"] > 0).mean(), "n_faces_max": looks["faces"].max()}
        row["face_px"] = looks["width"].median()
    return row | {"usable": not problems, "problems": "; ".join(problems), "remarks": "; ".join(remarks)}


def _problems(info: VideoInfo, looks: pd.DataFrame, cfg: PreparationConfig) -> list[str]:
    found, n = [], len(looks)
    if info.duration_s < SHORTEST_S:
        found.append(f"too short for any motion ({info.duration_s:.2f} s, at least {SHORTEST_S} s needed)")
    if n and not looks["faces"].any():
        found.append(_too_small(looks, cfg) or f"no face in {n} looked-at frame{'s' if n > 1 else ''}")
    return found


def _remarks(info: VideoInfo, looks: pd.DataFrame, shots: int, cfg: PreparationConfig) -> list[str]:
    n, seen, most = len(looks), (looks["faces"] > 0).sum(), looks["faces"].max()
    odd = {
        f"face in only {seen} of {n} looked-at frames: 02 may refuse it": 0 < seen < cfg.min_coverage * n,
        _too_small(looks, cfg): seen,
        f"several faces ({most} at once)": most > 1,
        f"rate below {LOWEST_FPS:g} fps ({info.fps:.1f})": info.fps < LOWEST_FPS,
        "variable frame rate": info.variable_rate,
        **dict.fromkeys(info.remarks, True),
        f"{shots} shots": shots > 1,
    }
    return [text for text, holds in odd.items() if text and holds]


def _too_small(looks: pd.DataFrame, cfg: PreparationConfig) -> str:
    """What to say of a face that only a smaller `min_face` finds; "" where there is none."""
    if not (small_px := looks["too_small"].median()) > 0:
        return ""
    return (
        f"the face is too small: {small_px:.0f} px wide, below min_face ({cfg.min_face:g} of the picture's shorter "
        "side). Set a smaller min_face in 02, or take a larger picture"
    )


def as_text(table: pd.DataFrame) -> str:
    """The table of `check_clips`, of more than `LONGEST_TABLE` clips its ends, then every problem and remark."""
    shown = table.drop(columns=["path", "bytes", "face_px", "usable", "problems", "remarks"]).round(2)
    lines = [shown.to_string(max_rows=LONGEST_TABLE, index_names=False, na_rep="?")]
    for label, column in (("unusable", "problems"), ("remark", "remarks")):
        lines += [f"{label}: {key}: {text}" for key, text in table.loc[table[column] != "", column].items()]
    usable = table[table["usable"]]
    length, odd = tqdm.format_interval(usable["duration_s"].sum()), (usable["remarks"] != "").sum()
    lines.append(f"{len(usable)} of {len(table)} clips are usable, {length} long, {odd} of them with a remark.")
    return "\n".join(lines)


def ratings_text(tasks: dict[str, dict[str, Any]], data: Path, clips: pd.DataFrame, limit: int = 0) -> str:
    """What the ratings of a folder's clips were matched to, and why 06 could not train on them, as lines."""
    try:
        clips, ratings, targets = rated_clips(tasks, data, clips)
    except Exception as error:  # the table of clips stands, whatever the ratings are like
        return f"ratings cannot be used: {error}"
    rated = clips[targets].notna().any(axis=1)
    lines = [f"{rated.sum():,} of {len(clips):,} clips are rated", *as_lines(ratings.matched)]
    if problem := why_no_training(tasks, clips, targets, data, limit):
        lines.append(f"WARNING: 06 could not train: {problem}")
    return "\n".join(lines)


def estimate(checked: pd.DataFrame, root: str | Path, parameters: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Estimate what 02 to 04 will take for the usable clips below `root`, by running them on some.

    They are run with random weights of the same shape into a folder that is then removed, on `SAMPLE_S` of a clip at
    most: on half of several clips of usual length, which pay for starting, then on all; what these take more is what a
    second of clip costs. A tree's clips are run whole. `checked`: see `check_clips`; `parameters`: `workbook.plan`.

    Returns:
        Index `stage`, those of `STAGES`; columns `per_s` (seconds per second of clip), `bound` ("cores" or "GPU"),
        `hours` and `bytes` of features for all usable clips. `attrs` tell `clips`, `clip_s` and `device`.

    Raises:
        ValueError: no clip is usable, or none of those tried can be run.
    """
    from helpers.device import chosen_device, enable_memory_growth
    from helpers.extract import open_tree

    configs = {stage: NOTEBOOKS[name].checked(parameters[name]) for stage, (name, _) in STAGES.items()}
    trees = [tree for stage, cfg in configs.items() if stage != "02 preparation" and (tree := open_tree(cfg))]
    usable = checked[checked["usable"]].sort_values("duration_s", kind="stable")
    for tree in trees:
        usable = usable[usable.index.isin(match_clips(tree.clips, usable.index)[0])]
    if usable.empty:
        raise ValueError("a forecast needs a usable clip, which all trees hold, got none.")
    enable_memory_growth()
    with tempfile.TemporaryDirectory() as folder:
        several = _usual(usable) if trees else _beginnings(_usual(usable), Path(root), Path(folder))
        first = _run_stages(several.head(max(1, len(several) // 2)), root, Path(folder, "first"), configs)
        then = _run_stages(several, root, Path(folder, "then"), configs)
    further = then - first if (then > first)[["clip_s", "spent_s"]].all(axis=None) else then
    device, clip_s = chosen_device(configs["04 dynamic"].device), float(usable["duration_s"].sum())
    waits = (further["network_s"] > BOUND * further["spent_s"]) & (device["kind"] == "GPU")
    table = pd.DataFrame({"per_s": further["spent_s"] / further["clip_s"], "bound": np.where(waits, "GPU", "cores")})
    table["hours"] = table["per_s"] * clip_s / 3600
    table["bytes"] = (then["bytes"] / then["clip_s"] * clip_s).round().astype(int)
    name = device["name"] + ("" if device["kind"] == "GPU" else f" ({cores()} cores, no GPU)")
    table.attrs = {"clips": len(usable), "clip_s": clip_s, "device": name}
    return table


def _usual(clips: pd.DataFrame) -> pd.DataFrame:
    """The shortest clips of usual length, at least two: `SAMPLE_S` per core."""
    usual = clips[clips["duration_s"] >= clips["duration_s"].median() / 2]
    n = (usual["duration_s"].clip(upper=SAMPLE_S).cumsum() <= SAMPLE_S * cores()).sum()
    return usual.head(min(max(n, 2), MOST_CLIPS))


def _beginnings(clips: pd.DataFrame, root: Path, folder: Path) -> pd.DataFrame:
    """Those clips, of long ones the first `SAMPLE_S` in files of `folder`; where none can be cut, whole."""
    clips, uncut = clips.copy(), []
    for n, (key, path, seconds) in enumerate(clips[["path", "duration_s"]].itertuples()):
        if seconds > SAMPLE_S:
            try:
                clips.loc[key, ["path", "duration_s"]] = _copied(root / path, folder / f"{n}.mkv"), SAMPLE_S
            except (av.FFmpegError, ValueError):
                uncut.append(key)
    return clips.drop(uncut) if len(uncut) < len(clips) else clips


def _copied(path: Path, to: Path) -> str:
    """Copy the first `SAMPLE_S` of a video's pictures, without decoding them; returns the new path."""
    with av.open(str(path)) as video, av.open(str(to), "w", format="matroska") as copy:
        source = video.streams.best("video")
        stream = copy.add_stream_from_template(source, opaque=True)
        end = (source.start_time or 0) + SAMPLE_S / source.time_base
        for packet in video.demux(source):
            if packet.pts is not None:
                if packet.pts > end and packet.is_keyframe:
                    break
                packet.stream = stream
                copy.mux(packet)
    return str(to)


def _run_stages(clips: pd.DataFrame, root: str | Path, out: Path, configs: dict[str, Any]) -> pd.DataFrame:
    """Run the stages on clips; a row per stage: seconds in all (`spent_s`) and in the network, of clips, and bytes."""
    from helpers.extract import extract_dynamic, extract_static
    from helpers.faces import prepare_clips

    rows = {}
    for (stage, cfg), run in zip(configs.items(), (prepare_clips, extract_static, extract_dynamic), strict=True):
        random = {"weights": "random"} if hasattr(cfg, "weights") else {}
        started_s = time.perf_counter()
        manifest = run(clips[["path"]], replace(cfg, data_dir=str(root), out_dir=str(out), progress=False, **random))
        spent_s, made = time.perf_counter() - started_s, out / STAGES[stage][1]
        sizes = {key: file.stat().st_size for key in clips.index if (file := made / f"{key}.npz").is_file()}
        if not sizes:
            reason = "{clip}: {reason}".format(**manifest["failed"][0])
            raise ValueError(f"a forecast needs a clip that can be run, got {reason}")
        log = made / "extraction_log.json"
        network_s = read_json(log)["seconds_spent"]["network"] if log.is_file() else 0.0
        rows[stage] = spent_s, network_s, clips.loc[list(sizes), "duration_s"].sum(), sum(sizes.values())
    return pd.DataFrame.from_dict(rows, orient="index", columns=["spent_s", "network_s", "clip_s", "bytes"])


def forecast(checked: pd.DataFrame, root: Path, parameters: dict[str, dict[str, Any]]) -> str:
    """The estimate as text, or why there is none: the table of clips stands, whatever comes of it."""
    try:
        with stderr_into():
            return estimate_text(estimate(checked, root, parameters))
    except Exception as error:
        return f"No forecast: {' '.join(str(error).split()) or type(error).__name__}"


def estimate_text(table: pd.DataFrame) -> str:
    """The estimate as lines, and whether the disk that `results/` is on has room for it."""
    facts, n_bytes, time_text = table.attrs, table["bytes"].sum(), tqdm.format_interval
    shown = table.assign(hours=(3600 * table["hours"]).map(time_text), bytes=table["bytes"].map(_size)).round(3)
    folder = resolve("results")
    free = shutil.disk_usage(next(there for there in (folder, *folder.parents) if there.exists())).free
    lines = [
        f"Forecast for {facts['clips']} clips ({time_text(facts['clip_s'])}) on {facts['device']}:",
        shown.set_axis(["per second", "bound by", "time", "disk"], axis=1).to_string(),
        f"together {time_text(3600 * table['hours'].sum())}, {_size(n_bytes)}; without 05 to 07.",
        f"Free on the disk of {folder}: {_size(free)}.",
    ]
    if free < n_bytes:
        lines.append("WARNING: not enough. Name a larger disk with --out.")
    if "GPU" not in set(table["bound"]) and "no GPU" not in facts["device"]:
        lines.append("The cores bound every stage: a second GPU would make none of them faster.")
    return "\n".join(lines)


def _size(n_bytes: float) -> str:
    """Bytes in the unit that fits: "3.06MB"."""
    return f"{tqdm.format_sizeof(n_bytes)}B"
