"""Where does the time of extraction go, and how near is a whole stage to its limit, the network alone?

Clip by clip, in alternation: the parts by themselves; the work of notebooks 03 and 04 on the clip, video file in,
feature file out; and their networks alone on the very batches that they get there. Ratio: stage to network, 1 is the
limit. Medians over clips. Building and compiling the networks, once per run, is not in it. The weights are random.

    python -m benchmarks.extraction [--data DIR] [--limit N] [--json FILE]
"""

import statistics
import tempfile
from argparse import Namespace
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.alternation import alternate, minus, options_of, ratio, report, within
from helpers.backbones import build_backbone
from helpers.clips import find_clips
from helpers.config import DynamicConfig, PreparationConfig, StaticConfig
from helpers.crops import Job, face_crops, face_flows
from helpers.extract import CLIP_ERRORS
from helpers.faces import FaceTrack, detect_faces, track_face
from helpers.files import ROOT
from helpers.forward import Forward, compile_forward
from helpers.i3d import build_motion_network
from helpers.rows import dynamic_rows, static_rows
from helpers.store import FeatureFile, write_features
from helpers.video import iter_frames

LIMITS = {"03_static_extraction": "ResNet-50", "04_dynamic_extraction": "I3D"}  # stage to its network
PARTS = ("decode", "detect", "crop + flow", *LIMITS.values(), *LIMITS)
COLUMNS = {"part": "{}", "s_per_clip": "{:.3f}", "limit": "{}", "ratio": "{:.2f}"}
LIMIT_S = 420.0  # no clip begins later

Stages = dict[str, tuple[Callable[[Path, FaceTrack, Forward], FeatureFile], Forward]]
Seconds = dict[str, list[float]]


def build_stages(precision: str) -> Stages:
    """Return, for both stages, what makes the rows of a clip, and the compiled network it does that with."""
    static, dynamic = StaticConfig(precision=precision), DynamicConfig(precision=precision)
    backbone = build_backbone(static.backbone, static.weights)
    network, _ = build_motion_network(dynamic.weights, dynamic.endpoint)
    rows_of_clip = (
        lambda path, track, forward: static_rows(
            face_crops(Job(path, track, static, size_px=backbone.input_px)), track, backbone, forward
        ),
        lambda path, track, forward: dynamic_rows(face_flows(Job(path, track, dynamic)), track, forward, dynamic),
    )
    forwards = [compile_forward(model, precision) for model in (backbone.model, network)]
    return dict(zip(LIMITS, zip(rows_of_clip, forwards, strict=True), strict=True))


def ways_of_stages(stages: Stages, path: Path, track: FaceTrack, out: Path) -> dict[str, Callable[[], object]]:
    """Return each stage's whole work on a clip, and its network alone on what it gets there; all is compiled."""
    ways: dict[str, Callable[[], object]] = {}
    for name, (rows_of_clip, forward) in stages.items():
        batches: list[np.ndarray] = []
        rows_of_clip(path, track, lambda x, f=forward, seen=batches: (seen.append(x), f(x))[1])
        ways[LIMITS[name]] = lambda f=forward, seen=batches: [f(x) for x in seen]
        ways[name] = lambda f=forward, rows=rows_of_clip: write_features(out / "clip.npz", rows(path, track, f))
    return ways


def measure_clip(path: Path, stages: Stages, rounds: int, out: Path) -> Seconds:
    """Return the seconds of all PARTS on one clip, a value per round; feature files go to `out`."""
    prep = PreparationConfig()
    found = {"scale": prep.crop_scale, "min_coverage": prep.min_coverage}
    track = track_face(path, fps=prep.fps, every=prep.detect_every, **found)
    looks = [frame for frame, _, _ in iter_frames(path, fps=prep.fps, indices=slice(0, None, prep.detect_every))]
    drain = deque(maxlen=0).extend
    parts = {
        "decode": lambda: drain(iter_frames(path, fps=prep.fps)),
        "all but I3D": lambda: drain(face_flows(Job(path, track, DynamicConfig()))),
        "detect": lambda: [detect_faces(frame) for frame in looks],
    }
    seconds = alternate(parts | ways_of_stages(stages, path, track, out), rounds)
    return seconds | {"crop + flow": minus(seconds["all but I3D"], seconds["decode"])}


def measure(clips: pd.DataFrame, options: Namespace) -> tuple[Seconds, list[dict[str, str]]]:
    """Measure clip after clip; returns the seconds of all, and the clips that could not be used with the reasons."""
    stages, seconds, skipped = build_stages(options.precision), {name: [] for name in PARTS}, []
    with tempfile.TemporaryDirectory() as out:
        for key, path in within(LIMIT_S, clips["path"].items()):
            try:
                found = measure_clip(options.data / path, stages, options.rounds, Path(out))
            except CLIP_ERRORS as error:
                skipped.append({"clip": key, "reason": str(error)})
                print(f"not measured: {key}: {error}")
                continue
            for name in PARTS:
                seconds[name] += found[name]
    if not seconds[PARTS[0]]:
        raise ValueError(f"{options.data} must hold a clip that can be used, got {len(skipped)} that cannot.")
    return seconds, skipped


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options_of(__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data_sample", metavar="DIR", help="default: data_sample")
    parser.add_argument("--limit", type=int, default=36, metavar="N", help="the first N clips (default: 36; 0: all)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=2, help="per clip (default: 2)")
    options = parser.parse_args(argv)
    clips = find_clips(options.data)
    in_split = clips["split"] != ""  # leaves data_sample/awkward out: its clips are like no others
    seconds, skipped = measure(clips[in_split | ~in_split.any()].iloc[: options.limit or None], options)
    rows = [{"part": name, "s_per_clip": statistics.median(seconds[name]), "seconds": seconds[name]} for name in PARTS]
    for row in rows[-len(LIMITS) :]:
        row |= {"limit": LIMITS[row["part"]], "ratio": ratio(seconds[row["part"]], seconds[LIMITS[row["part"]]])}
    print(f"{len(seconds[PARTS[0]]) // options.rounds} clips, {options.precision}")
    report(rows, COLUMNS, options, skipped=skipped)


if __name__ == "__main__":
    main()
