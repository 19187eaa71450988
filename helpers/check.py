"""The check before a run: what is in every clip of a folder, and what a run over it will take of time and disk.

In: a folder of clips; ratings are not needed. Out: a table with one row per clip, index `key`, and the same as text;
then a table with one row per stage. Few frames of a clip are decoded, in processes of their own: a clip that crashes a
decoder costs that clip. These processes import this module, so what needs Keras is imported by the forecast alone.

The forecast runs the stages themselves, 02 to 04, with random weights of the same shape, into a folder that is then
removed: on the beginning of one clip, which pays for starting, then on that of several, whose further seconds are what
a second of clip costs. Features, not the files of the run's notebooks, make up the disk.
"""

import math
import shutil
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import pandas as pd
from av.video.frame import PictureType
from tqdm.auto import tqdm

from helpers.clips import find_clips
from helpers.config import NOTEBOOKS, AlignmentConfig
from helpers.container import OpenVideo, VideoError, open_container, open_video
from helpers.detectors import chosen_detector, detect_faces, require_detector
from helpers.excerpt import write_excerpt
from helpers.files import read_json, resolve
from helpers.pictures import Converter, shapes_of
from helpers.probe import VideoInfo, describe, probe
from helpers.video import STRICT, iter_frames
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


class Request(NamedTuple):
    """What a worker is asked to look at: the file, how many frames, with which detector, whether to decode them all."""

    path: Path
    looks: int
    detector: str
    thorough: bool


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
        workers: Processes, one clip each; default: one per core that may be used.
        looks: Frames of a clip in which a face is searched; see `spread_numbers`.
        thorough: Decode every frame, which finds damage inside a file.
        detector: See `detect_faces`.
        min_coverage: Share of frames with a face that 02 will ask for; less is a remark here, as looks are few.
        progress: Whether to show a bar.

    Returns:
        Index `key` as of `find_clips`; columns `path`, `bytes`; `codec`, `width`, `height` (displayed pixels), `fps`,
        `duration_s`, `rotation_deg`, `n_frames`, `audio` (empty where the file cannot be opened); `coverage`, the share
        of looked-at frames with a face, `n_faces_max`, `face_px`, the median width of a frame's largest face in
        displayed pixels (empty without any); `usable`; `problems`, why a clip is unusable, and `remarks`, what is odd
        about it and does not hinder: text, several joined by "; ".

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: see `find_clips`; `looks` below 1.
    """
    if looks < 1:
        raise ValueError(f"looks must be at least 1, got {looks}. Ask for 5 frames per clip or so.")
    clips = find_clips(root, limit)
    detector = chosen_detector(detector)
    require_detector(detector)
    workers = min(cores() if workers is None else workers, len(clips))
    requests = ((key, Request(Path(root, path), looks, detector, thorough)) for key, path in clips["path"].items())
    rows = []
    with ClipPool(look_at, workers=workers, ahead_clips=2 * workers) as pool:
        for _, answers in tqdm(pool.run(requests), total=len(clips), unit="clip", disable=not progress):
            rows.append(_row(answers, min_coverage))
    found = pd.DataFrame(rows, index=clips.index).join(clips[["path", "bytes"]])
    names = (f"{Path(path).name}: " for path in found["path"])
    found["problems"] = [text.removeprefix(name) for text, name in zip(found["problems"], names, strict=True)]
    return found[list(COLUMNS)].astype(COLUMNS)


def look_at(request: Request) -> Iterator[VideoInfo | np.ndarray | None]:
    """Look at one clip: what is in the file, then the faces of each looked-at frame; None is a sign of life.

    Raises:
        VideoError: see `helpers.video.iter_frames`.
    """
    with open_video(request.path) as video, suppress(av.FFmpegError):
        info, convert = describe(video), Converter(None, shapes_of(video))
        numbers = spread_numbers(len(video.t_s), request.looks)
        pictures = [] if request.thorough else key_pictures(video, request.looks)
        faces = [detect_faces(convert(picture), request.detector) for picture in pictures]
        if faces:
            yield from (info, *faces)
            return
    stream = iter_frames(request.path, indices=None if request.thorough else numbers, backend="pyav")
    looked_at = set(numbers.tolist())
    for position, (frame, _, number) in enumerate(stream):
        if position == 0:
            yield info
        yield detect_faces(frame, request.detector) if number in looked_at else None


def key_pictures(video: OpenVideo, looks: int) -> list[av.VideoFrame]:
    """Of each of `looks` equal parts of a clip the key picture nearest to its middle, decoded alone: that costs least.

    None where a part has no key picture, or one of them is damaged or refers to others.
    """
    n, nearest = len(video.ticks), {}  # by part: how far from its middle, and the packet; no more are held
    with open_container(video.path) as container:
        for packet in video.packets_of(container):
            if packet.is_keyframe and video.timed:
                number = int(np.searchsorted(video.ticks, packet.pts))
                part = number * looks // n
                away = abs(number - (part + 0.5) * n / looks)
                if away < nearest.get(part, (n, None))[0]:
                    nearest[part] = away, packet
        if len(nearest) < looks:
            return []
        codec = container.streams[video.stream.index].codec_context
        codec.options = STRICT
        packets = [nearest[part][1] for part in range(looks)]
        pictures = [picture for packet in (*packets, None) for picture in codec.decode(packet)]
    is_alone = [not picture.is_corrupt and picture.pict_type == PictureType.I for picture in pictures]
    as_known = [picture.pts for picture in pictures] == [packet.pts for packet in packets]
    return pictures if as_known and all(is_alone) else []


def spread_numbers(n_frames: int, looks: int) -> np.ndarray:
    """The middle frame of each of `looks` equal parts of a clip, int (n,); all frames of a shorter clip."""
    return np.unique(((np.arange(looks) + 0.5) * n_frames / looks).astype(int))


def _row(answers: Iterator[Any], min_coverage: float) -> dict[str, Any]:
    """Columns of one clip, from what a worker says of it up to its end or its first error."""
    info, faces, problems = None, [], []
    try:
        for answer in answers:
            if isinstance(answer, VideoInfo):
                info = answer
            elif answer is not None:
                faces.append(answer)
    except CLIP_ERRORS as error:
        problems.append(" ".join(str(error).split()) or type(error).__name__)
    widths_px = [found[:, 2].max() for found in faces if len(found)]
    row = {name: getattr(info, name, None) for name in OF_FILE} | {
        "codec": info.codec if info else "",
        "coverage": len(widths_px) / len(faces) if faces else math.nan,
        "n_faces_max": max(map(len, faces), default=None),
        "face_px": float(np.median(widths_px)) if widths_px else math.nan,
    }
    if info and info.duration_s < SHORTEST_S:
        problems.append(f"too short for any motion ({info.duration_s:.2f} s, at least {SHORTEST_S} s needed)")
    if faces and not widths_px:
        problems.append(f"no face in {len(faces)} looked-at frame{'s' if len(faces) > 1 else ''}")
    remarks = _remarks(row, info)
    if 0 < row["coverage"] < min_coverage:
        remarks.insert(0, f"face in only {len(widths_px)} of {len(faces)} looked-at frames: 02 may refuse it")
    return row | {"usable": not problems, "problems": "; ".join(problems), "remarks": "; ".join(remarks)}


def _remarks(row: dict[str, Any], info: VideoInfo | None) -> list[str]:
    """What is odd about a clip and does not make it unusable."""
    remarks = {
        f"very low resolution face ({row['face_px']:.0f} px wide)": row["face_px"] < SMALLEST_FACE_PX,
        f"several faces ({row['n_faces_max']} at once)": (row["n_faces_max"] or 0) > 1,
    }
    if info:
        short = f"shorter than one segment ({info.duration_s:.2f} s of {SEGMENT_S} s): its only row is padded"
        remarks |= {
            short: SHORTEST_S <= info.duration_s < SEGMENT_S,
            f"rate below {LOWEST_FPS:g} fps ({info.fps:.1f})": info.fps < LOWEST_FPS,
            "variable frame rate": info.variable_rate,
            "mirrored": info.mirrored,
        }
    return [remark for remark, holds in remarks.items() if holds]


TEXT_COLUMNS = {
    "codec": "codec", "width": "width", "height": "height", "fps": "fps", "duration_s": "seconds",
    "n_frames": "frames", "rotation_deg": "turn", "audio": "audio", "coverage": "face", "n_faces_max": "faces",
}  # fmt: skip
FORMATS = {"fps": "{:.2f}", "seconds": "{:.1f}", "face": "{:.0%}"}


def as_text(table: pd.DataFrame) -> str:
    """The table of `check_clips` as lines of at most `WIDTH` characters, problems and remarks below their clip.

    Of more than `LONGEST_TABLE` clips it shows those that have any, after a count by codec, size and rate.
    """
    usable, lines, shown = table[table["usable"]], [], table
    if len(table) > LONGEST_TABLE:
        kinds = table.round({"fps": 2}).value_counts(["codec", "width", "height", "fps"])
        lines = [f"{n:6} clips: {c}, {w}x{h}, {fps:.2f} fps" for (c, w, h, fps), n in kinds.head(10).items()]
        lines += [f"{kinds[10:].sum():6} clips of {len(kinds) - 10} other kinds"] * (len(kinds) > 10) + [""]
        shown = table[(table["problems"] != "") | (table["remarks"] != "")]
    if len(shown):
        cells = shown.rename(index=lambda key: f"…{key[-47:]}" if len(key) > 48 else key, columns=TEXT_COLUMNS)
        cells = cells[list(TEXT_COLUMNS.values())].rename_axis(index=None, columns="clip").astype(object)
        for name, form in FORMATS.items():
            cells[name] = cells[name].map(form.format, na_action="ignore")
        cells["audio"] = cells["audio"].map({True: "yes", False: "no"})
        head, *rows = cells.where(cells.notna(), "?").to_string().splitlines()
        lines.append(head)
        for row, problems, remarks in zip(rows, shown["problems"], shown["remarks"], strict=True):
            lines.append(row)
            for label, text in (("unusable: ", problems), ("remark: ", remarks)):
                more = {"initial_indent": f"    {label}", "subsequent_indent": " " * 6}
                lines += textwrap.wrap(text, WIDTH, **more) if text else []
    length, odd = _duration(usable["duration_s"].sum() / 3600), (usable["remarks"] != "").sum()
    said = f"{len(usable)} of {len(table)} clips are usable, {length}, {odd} of them with a remark"
    return "\n".join([*lines, f"{said}; {len(table) - len(usable)} are not."])


# Stages that touch every clip: the notebook, the folder of its files.
STAGES = {
    "02 preparation": ("02_clip_preparation", "faces"),
    "03 static": ("03_static_extraction", "static"),
    "04 dynamic": ("04_dynamic_extraction", "dynamic"),
}
FIRST_S = 2.0  # of one clip: what a stage takes for it is mostly its start
EXCERPT_S = 6.0  # of several clips: long enough for rows, short enough for clips of any length and size
MOST_CLIPS = 32  # for all cores of a large machine
CANDIDATES = 3  # clips that are tried first, since a few looks do not show that a whole clip can be used
BOUND = 0.8  # share of its time that a stage waits for the network when the network bounds it


class Profile(NamedTuple):
    """One run of a stage: seconds in all (`spent_s`) and in the network; what it made: seconds of clip, bytes, rows of
    `dim` features.
    """

    spent_s: float
    network_s: float
    clip_s: float
    n_bytes: int
    rows: int
    dim: int


def forecast(checked: pd.DataFrame, root: str | Path, parameters: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Forecast what a run over the usable clips of a folder will take.

    Args:
        checked: As `check_clips` returns it.
        root: The folder that its paths lie below.
        parameters: Notebook name -> parameters of the run, as `helpers.workbook.plan` puts them together.

    Returns:
        Index `stage`: those of `STAGES` and "05 alignment" (its files only); columns `per_s` (seconds per second of
        clip), `start_s`, `bound` ("cores" or "GPU"), `hours` and `bytes` for all usable clips. `attrs` tell `clip` (the
        first one run), `clips`, `clip_hours`, `device`, `flow`, and `trees` (what 03 and 04 read instead of videos).

    Raises:
        ValueError: no clip is usable, a tree holds none of them, or none of those tried can be run; says why.
    """
    from helpers.device import chosen_device
    from helpers.machine import enable_memory_growth
    from helpers.sources import open_source

    usable = checked[checked["usable"]]
    if usable.empty:
        raise ValueError("a forecast needs at least one usable clip, got none. See the problems above.")
    configs = {stage: NOTEBOOKS[name].checked(parameters[name]) for stage, (name, *_) in STAGES.items()}
    trees = {"03 static": configs["03 static"].faces_dir, "04 dynamic": configs["04 dynamic"].flow_dir}
    trees = {stage: folder for stage, folder in trees.items() if folder}
    in_trees = usable
    for stage in trees:
        in_trees = in_trees[in_trees.index.isin(open_source(configs[stage], usable.index).named)]
    if in_trees.empty:
        raise ValueError(f"a forecast needs a clip that all trees hold, got none in {' and '.join(trees.values())}.")
    enable_memory_growth()
    chosen, first, then = _run_some(in_trees, Path(root), configs, trees)
    devices = {stage: chosen_device(configs[stage].device.upper()) for stage in ("03 static", "04 dynamic")}
    names = [d["name"] + ("" if d["kind"] == "GPU" else f" ({cores()} cores, no GPU)") for d in devices.values()]
    total_s = float(usable["duration_s"].sum())
    rows = {stage: scaled(first[stage], then[stage], stage in devices and devices[stage]["kind"]) for stage in STAGES}
    rows["05 alignment"] = {"per_s": 0.0, "start_s": 0.0, "bound": ""}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("stage")
    table["hours"] = (table["per_s"] * total_s + table["start_s"]) / 3600
    bytes_per_s = [then[stage].n_bytes / then[stage].clip_s for stage in STAGES]
    bytes_per_s.append(aligned_bytes(then, NOTEBOOKS["05_alignment"].checked(parameters["05_alignment"])))
    table["bytes"] = (np.array(bytes_per_s) * total_s).round().astype(int)
    flow = "stored" if "04 dynamic" in trees else configs["04 dynamic"].flow
    about = {"clip": chosen, "clips": len(usable), "clip_hours": total_s / 3600}
    table.attrs = about | {"device": " and ".join(dict.fromkeys(names)), "flow": flow, "trees": trees}
    return table


def _run_some(
    clips: pd.DataFrame, root: Path, configs: dict[str, Any], trees: dict[str, str]
) -> tuple[str, dict[str, Profile], dict[str, Profile]]:
    """Run the stages on one clip of about median length, then on several; the key of the one, and both profiles."""
    order = (clips["duration_s"] - clips["duration_s"].median()).abs().round(1).sort_values(kind="stable").index
    reasons = []
    with tempfile.TemporaryDirectory() as folder:
        for key in order[:CANDIDATES]:
            try:
                first = _run_stages(clips.loc[[key]], root, Path(folder, f"{len(reasons)}"), FIRST_S, configs, trees)
            except CLIP_ERRORS + (ValueError,) as error:
                reasons.append(f"{key}: {error}")
                continue
            several = clips.loc[order[: min(MOST_CLIPS, 2 * cores())]]
            return key, first, _run_stages(several, root, Path(folder, "several"), EXCERPT_S, configs, trees)
    raise ValueError(f"a forecast needs a clip that can be run, got {'; '.join(reasons)}.")


def _run_stages(
    clips: pd.DataFrame, root: Path, folder: Path, seconds: float, configs: dict[str, Any], trees: dict[str, str]
) -> dict[str, Profile]:
    """Run the stages into a folder, on the first `seconds` of each clip, or on all that a tree holds."""
    from helpers.extract import extract_dynamic, extract_static
    from helpers.faces import prepare_clips

    run = dict(zip(STAGES, (prepare_clips, extract_static, extract_dynamic), strict=True))
    lengths_s, found = pd.Series(0.0, clips.index), {}
    for key, path in clips["path"].items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if clips.at[key, "duration_s"] > seconds:
            write_excerpt(root / path, folder / path, seconds)
        else:
            shutil.copy(root / path, folder / path)
        lengths_s[key] = probe(folder / path).duration_s
    for stage, cfg in configs.items():
        random = {"weights": "random"} if hasattr(cfg, "weights") else {}
        cfg = replace(cfg, data_dir=str(folder), out_dir=str(folder / "run"), progress=False, **random)
        started_s = time.perf_counter()
        manifest = run[stage](clips[["path"]], cfg)
        spent_s = time.perf_counter() - started_s
        of = clips["duration_s"] if stage in trees else lengths_s
        found[stage] = _profile(folder / "run" / STAGES[stage][1], manifest, spent_s, of)
    return found


def _profile(folder: Path, manifest: dict[str, Any], spent_s: float, lengths_s: pd.Series) -> Profile:
    """Read what a stage made and where its time went; ValueError where no clip could be used."""
    files = {key: folder / f"{key}.npz" for key in lengths_s.index}
    made = [key for key, path in files.items() if path.is_file()]
    if not made:
        raise ValueError(manifest["failed"][0]["reason"])
    log, counts = folder / "extraction_log.json", manifest["counts"]
    return Profile(
        spent_s=spent_s,
        network_s=read_json(log)["seconds_spent"]["network"] if log.is_file() else 0.0,
        clip_s=float(lengths_s[made].sum()),
        n_bytes=sum(files[key].stat().st_size for key in made),
        rows=counts.get("rows", 0),
        dim=counts.get("feature_dim", 0),
    )


def scaled(first: Profile, then: Profile, kind: str) -> dict[str, Any]:
    """What a second of clip costs beyond the start, and what bounds it."""
    further = [getattr(then, name) - getattr(first, name) for name in ("clip_s", "spent_s", "network_s")]
    clip_s, spent_s, network_s = further if min(further[:2]) > 0 else (then.clip_s, then.spent_s, then.network_s)
    per_s = spent_s / clip_s
    bound = "GPU" if kind == "GPU" and network_s > BOUND * spent_s else "cores"
    return {"per_s": per_s, "start_s": max(0.0, first.spent_s - per_s * first.clip_s), "bound": bound}


def aligned_bytes(profiles: dict[str, Profile], cfg: AlignmentConfig) -> float:
    """Bytes of 05's files per second of clip: the tokens of both streams, and each face row paired with a motion row.

    `profiles` are those of "03 static" and "04 dynamic".
    """
    streams = ((profiles["03 static"], cfg.static_dim), (profiles["04 dynamic"], cfg.dynamic_dim))
    dims = [made.dim if cfg.reduction == "none" else min(made.dim, most) for made, most in streams]
    static, dynamic = (made.rows / made.clip_s for made, _ in streams)
    return 4 * (static * dims[0] + dynamic * dims[1] + static * sum(dims))  # 4: float32


def forecast_text(table: pd.DataFrame, out: str | Path = "results") -> str:
    """The forecast as lines, and whether the disk that `out` is on has room for it."""
    facts = table.attrs
    lines = [
        f"Forecast for {facts['clips']} clips ({_duration(facts['clip_hours'])}) on {facts['device']}:",
        f"{'stage':15} {'per second':>11} {'start':>6}  {'bound by':8}  {'time':18} {'disk':>9}",
        *(
            f"{row.Index:15} {row.per_s:9.3f} s {row.start_s:4.0f} s  {row.bound:8}  {_duration(row.hours):18} "
            f"{_size(row.bytes):>9}"
            for row in table.itertuples()
        ),
        f"{'together':45} {_duration(table['hours'].sum()):18} {_size(table['bytes'].sum()):>9}",
        f"Measured on {facts['clip']} and others with {facts['flow']} flow and random weights of the same shape; per",
        "second of clip. 06 and 07 are not in it; 05 is for its files only.",
    ]
    lines += [f"{stage} reads {folder} instead of the videos." for stage, folder in facts["trees"].items()]
    if "GPU" not in set(table["bound"]) and "no GPU" not in facts["device"]:
        lines.append("The cores bound every stage: a second GPU would make none of them faster.")
    folder = resolve(out)
    free = shutil.disk_usage(next(there for there in (folder, *folder.parents) if there.exists())).free
    enough = "" if free > table["bytes"].sum() else " WARNING: not enough. Name a larger disk with --out."
    return "\n".join([*lines, f"Free on the disk of {folder}: {_size(free)}.{enough}"])


def _duration(hours: float) -> str:
    """Hours in words: "0.4 h (25 min)"; minutes under six hours, seconds under two minutes."""
    seconds = 3600 * hours
    if seconds < 120:
        return f"{hours:.1f} h ({seconds:.0f} s)"
    return f"{hours:.1f} h ({seconds / 60:.0f} min)" if hours < 6 else f"{hours:,.0f} h"


def _size(n_bytes: float) -> str:
    """Bytes in the unit that fits: "3.06MB"."""
    return f"{tqdm.format_sizeof(n_bytes)}B"
