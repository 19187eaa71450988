"""How near is 04 to its limit, from stored flow and from videos, and what does one pass over a clip save?

In alternation: the whole stage on stored flow, files in, feature files out, in float32 and bfloat16; the compiled
forward pass alone on as many clips in memory, one after the other and two at once as the engine has them; the whole
stage on videos, with flow on the fly; on TensorFlow, a plain `tf.function`; and windows of 16 flows at every one of the
clip's instead of one pass over it. What can be had on the fly, per clip, is the forward pass plus the core-seconds of
decoding, cropping and flow over the number of cores. Ratios are medians over rounds, more is faster. Clips of the
sample (72 flows), I3D to Mixed_3c at 112 px, random weights. On a fast GPU take more clips.

    python -m benchmarks.dynamic [--clips N] [--json FILE]
"""

import tempfile
from argparse import Namespace
from collections import deque
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from benchmarks.alternation import options_of, ratio, report
from benchmarks.decode import one_thread
from benchmarks.networks import (
    PRECISIONS,
    Ways,
    forward_ways,
    plain_ways,
    ratios,
    rows_of,
    seconds_per_unit,
    tell,
    worst_cosine,
)
from benchmarks.stages import DATA, named, prepare, run_stage, sample_clips, write_flows
from helpers.config import DynamicConfig
from helpers.extract import open_source
from helpers.flow import read_flow
from helpers.forward import Forward, compile_forward
from helpers.i3d import build_motion_network
from helpers.rows import face_flows
from helpers.workers import cores

COLUMNS = {"way": "{}", "clips": "{}", "per_s": "{:.2f}", "to_forward": "{:.3f}"}
ENDPOINT = "Mixed_3c"
WINDOW = 16
FLY, WORK, WINDOWS = "on the fly float32", "decode, crop, flow: one core", "windows of stride 1"


def work_on(clips: pd.DataFrame, cfg: DynamicConfig) -> None:
    """What the decoder processes do with the clips, on one core."""
    source = open_source(cfg, clips)
    with one_thread():
        for key, below in clips["path"].items():
            path = DATA / below
            deque(face_flows(source.job(path, key, source.fingerprint(path, key))), maxlen=0)


def ways_of(
    clips: pd.DataFrame, folder: Path, network: keras.Model, forwards: dict[str, Forward], options: Namespace
) -> tuple[Ways, float]:
    """Every way with the clips it takes, and the cosine of bfloat16's rows to float32's."""
    few, n = clips.iloc[: options.few], len(clips)
    on_the_fly = DynamicConfig(data_dir=str(DATA), out_dir=str(folder / "run"), endpoint=ENDPOINT)
    write_flows(clips, on_the_fly, folder / "flow")
    flow = read_flow(folder / "flow" / f"{clips.index[0]}.npz").flow / np.float32(on_the_fly.flow_clip_px)
    flow = flow[: len(flow) // 8 * 8]
    x = flow[None]
    windows = np.stack([flow[first : first + WINDOW] for first in range(len(flow) - WINDOW + 1)])
    ways = plain_ways(network, x, options.few) | {
        FLY: (partial(run_stage, few, on_the_fly, network, forwards["float32"]), len(few)),
        WORK: (partial(work_on, few, on_the_fly), len(few)),
        WINDOWS: (lambda: [forwards["float32"](part) for part in np.array_split(windows, 8)], 1),
    }
    ways |= forward_ways(forwards, x, n, options.few)
    for precision, forward in forwards.items():
        cfg = DynamicConfig(
            out_dir=str(folder / "run"), flow_dir=str(folder / "flow"), endpoint=ENDPOINT, precision=precision
        )
        ways[f"stage {precision}"] = partial(run_stage, clips, cfg, network, forward), n
    return ways, worst_cosine(forwards["bfloat16"](x), forwards["float32"](x), len(flow) // 8)


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options_of(__doc__)
    parser.add_argument("--clips", type=int, default=144, metavar="N", help="with stored flow (default: 144)")
    parser.add_argument("--few", type=int, default=36, metavar="N", help="clips of the slow ways (default: 36)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    network, _ = build_motion_network("random", ENDPOINT)
    forwards = {precision: compile_forward(network, precision) for precision in PRECISIONS}
    clips = named(sample_clips(), options.clips)
    with tempfile.TemporaryDirectory() as folder:
        prepare(clips, Path(folder) / "run")
        ways, cosine = ways_of(clips, Path(folder), network, forwards, options)
        taken = seconds_per_unit(ways, options.rounds)
    attainable = [alone + work / cores() for alone, work in zip(taken["forward float32"], taken[WORK], strict=True)]
    headline = {
        **ratios(taken),
        "ratio_pipeline_to_attainable": ratio(attainable, taken[FLY]),
        "attainable_clips_per_s": 1 / float(np.median(attainable)),
        "on_the_fly_clips_per_s": 1 / float(np.median(taken[FLY])),
        "ratio_clip_pass_to_stride1": ratio(taken[WINDOWS], taken["forward float32"]),
        "cosine_bf16": cosine,
    }
    report(rows_of(ways, taken, "clips"), COLUMNS, options, **headline)
    tell(headline)


if __name__ == "__main__":
    main()
