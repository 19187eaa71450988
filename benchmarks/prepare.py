"""How fast is a folder of clips prepared: decoded, faces detected and tracked, cropped, and turned into flow?

Drawn clips, 640×360 at 30 fps, or a folder of yours, every frame of each: the work of notebook 02, then what 04 does
before its network, by as many decoder processes as there are cores. `times real time` is seconds of video per second.
The share of each step is measured in one process, in alternation. The first row is the limit: decoding alone, twice.

    python -m benchmarks.prepare [--data DIR] [--clips N] [--flow dis_medium …] [--json FILE]
"""

import statistics
import tempfile
from argparse import Namespace
from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2

from benchmarks.alternation import alternate, minus, options_of, ratio, report
from benchmarks.clips import BENCHMARK, FPS, N_FRAMES, draw_pictures, encode
from helpers.clips import find_clips
from helpers.config import DynamicConfig, PreparationConfig
from helpers.faces import track_clip
from helpers.flow import METHODS, OpticalFlowComputer
from helpers.rows import CROP_PX, Job, face_flows
from helpers.tracking import detect_faces
from helpers.tracks import FaceTrack, crop_at
from helpers.video import backend_name, count_samples, iter_frames, probe
from helpers.workers import ClipPool, cores

PREPARATION = PreparationConfig(fps=FPS, detect_every=FPS // 2, backend="pyav")  # two looks a second, as by default
COLUMNS = {"what": "{}", "times_real_time": "{:.1f}", "to_limit": "{:.2f}", "share": "{:.0%}", "ms_per_frame": "{:.2f}"}
DECODING = "decoding alone, twice"
Task = tuple[Path, PreparationConfig, str]

drain = deque(maxlen=0).extend


def prepared(task: Task) -> Iterator[int]:
    """Prepare one clip in a decoder process; yields the number of its flows."""
    path, cfg, flow = task
    track = track_clip(path, cfg)
    yield sum(len(piece.frame) for piece in face_flows(Job(path, track, DynamicConfig(flow=flow), cfg.backend)))


def decoded_twice(task: Task) -> Iterator[int]:
    """The limit: what any way must do that fixes a clip's box before it looks at the motion inside."""
    path, cfg, _ = task
    for _ in range(2):
        drain(iter_frames(path, fps=cfg.fps, backend=cfg.backend))
    yield 0


def run_folder(paths: list[Path], cfg: PreparationConfig, work: Any, flow: str) -> None:
    """Prepare all clips, one per core at a time."""
    with ClipPool(work, workers=cores()) as pool:
        for _, pieces in pool.run((path, (path, cfg, flow)) for path in paths):
            drain(pieces)


def step_seconds(path: Path, cfg: PreparationConfig, flow: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each step on one clip in one thread; what cannot be run alone is a difference."""
    track = track_clip(path, cfg)
    frames = list(iter_frames(path, fps=cfg.fps, backend=cfg.backend))
    looks = [frame for frame, *_ in frames[:: cfg.detect_every]]
    crops = [crop_of(frame, track) for frame, *_ in frames]
    computer = OpticalFlowComputer(flow)
    job = Job(path, track, DynamicConfig(flow=flow), cfg.backend)
    ways = {
        "decode": lambda: drain(iter_frames(path, fps=cfg.fps, backend=cfg.backend)),
        "02": lambda: track_clip(path, cfg),
        "detect": lambda: [detect_faces(frame, cfg.detector) for frame in looks],
        "crop": lambda: [crop_of(frame, track) for frame, *_ in frames],
        "flow": lambda: [computer.pair(a, b) for a, b in pairwise(crops)],
        "04": lambda: drain(face_flows(job)),
    }
    s = alternate(ways, rounds)
    rest = minus(minus(s["04"], s["decode"]), [a + b for a, b in zip(s["crop"], s["flow"], strict=True)])
    return {
        "decode": [2 * seconds for seconds in s["decode"]],
        "detect": s["detect"],
        "track": minus(minus(s["02"], s["decode"]), s["detect"]),
        "crop": s["crop"],
        "flow": s["flow"],
        "scale and hand over": rest,
    }


def crop_of(frame: Any, track: FaceTrack) -> Any:
    """The grey crop that flow is computed on."""
    return cv2.cvtColor(crop_at(frame, track, CROP_PX), cv2.COLOR_RGB2GRAY)


def measure(paths: list[Path], options: Namespace) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The rows of the table, and times real time by method of flow."""
    cfg = PREPARATION if options.data is None else PreparationConfig(
        fps=options.fps, detect_every=max(1, round(options.fps / 2)), backend=backend_name()
    )  # fmt: skip
    n_samples = {path: count_samples(probe(path).duration_s, cfg.fps) for path in dict.fromkeys(paths)}
    video_s = sum(n_samples[path] for path in paths) / cfg.fps
    ways = {DECODING: partial(run_folder, paths, cfg, decoded_twice, "")}
    ways |= {flow: partial(run_folder, paths, cfg, prepared, flow) for flow in options.flow}
    seconds = alternate(ways, options.rounds)
    speeds = {name: video_s / statistics.median(seconds[name]) for name in ways}
    rows = [
        {"what": name, "times_real_time": speeds[name], "to_limit": ratio(seconds[DECODING], s), "seconds": s}
        for name, s in seconds.items()
    ]
    cv2.setNumThreads(1)  # as in a decoder process
    for flow in options.flow:
        steps = step_seconds(paths[0], cfg, flow, options.rounds)
        median = {name: statistics.median(s) for name, s in steps.items()}
        rows += [
            {
                "what": f"  {flow}: {name}",
                "share": s / sum(median.values()),
                "ms_per_frame": 1000 * s / n_samples[paths[0]],
            }
            for name, s in median.items()
        ]
    return rows, {flow: speeds[flow] for flow in options.flow}


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options_of(__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR", help="clips of yours; default: drawn")
    parser.add_argument("--clips", type=int, default=12, metavar="N", help="how many (default: 12)")
    parser.add_argument("--fps", type=float, default=float(FPS), help="rate at which clips of yours are sampled")
    default = [DynamicConfig().flow, "dis_medium"]
    parser.add_argument("--flow", nargs="+", choices=tuple(METHODS), default=default, help=f"default: {default}")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if options.data is None:
            paths = [encode(draw_pictures(), Path(folder) / "clip.mp4", BENCHMARK["h264 droppable"])] * options.clips
            print(f"{options.clips} times a drawn clip, 640×360, {N_FRAMES / FPS:.0f} s, {FPS} fps")
        else:
            paths = [options.data / path for path in find_clips(options.data)["path"].iloc[: options.clips]]
        rows, speeds = measure(paths, options)
    report(rows, COLUMNS, options, times_real_time=speeds[options.flow[0]], times_real_time_by_flow=speeds)


if __name__ == "__main__":
    from benchmarks import prepare  # decoder processes import the work by its module's name

    prepare.main()
