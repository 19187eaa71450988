"""How near is 03 to its limit, the network alone, and how far ahead of the source project's loop?

Faces are a tree of JPEG files, 224 px, as in the source project. In alternation: the whole stage, files in, feature
files out, in float32 and bfloat16; the compiled forward pass alone on as many batches in memory, one after the other
and two at once as the engine has them; the source project's loop (read an image, and every 32 of them `model.predict`
and a garbage collection); and, on TensorFlow, a plain `tf.function`. Ratios are medians over rounds, more is faster. No
stage can be more than `limit_to_source_loop` times the loop on this machine. ResNet-50, batches of 32, random weights.
On a fast GPU take more clips: starting and ending the stage takes a third of a second.

    python -m benchmarks.static [--clips N] [--json FILE]
"""

import gc
import tempfile
from argparse import Namespace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from benchmarks.alternation import options_of, ratio, report
from benchmarks.networks import (
    PRECISIONS,
    TOGETHER,
    Ways,
    forward_ways,
    plain_ways,
    ratios,
    rows_of,
    seconds_per_unit,
    tell,
    worst_cosine,
)
from benchmarks.stages import FACES_PER_CLIP, run_stage, write_faces
from helpers.backbones import Backbone, build_backbone
from helpers.config import StaticConfig
from helpers.forward import Forward, compile_forward

COLUMNS = {"way": "{}", "images": "{}", "per_s": "{:.1f}", "to_forward": "{:.3f}"}
LOOP = "source loop float32"


def read_image(path: Path, side_px: int) -> np.ndarray:
    """A JPEG file as the source project reads it: RGB uint8 (side_px, side_px, 3)."""
    return cv2.resize(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), (side_px, side_px))


def source_loop(paths: list[Path], backbone: Backbone, batch_size: int) -> np.ndarray:
    """Rows of images as the source project makes them; what does not fill a batch is left out."""
    rows, waiting = [], []
    for path in paths:
        waiting.append(read_image(path, backbone.input_px))
        if len(waiting) == batch_size:
            rows.append(backbone.model.predict(backbone.preprocess(np.stack(waiting)), verbose=0))
            waiting = []
            gc.collect()
    return np.concatenate(rows)


def ways_of(
    clips: pd.DataFrame, folder: Path, backbone: Backbone, forwards: dict[str, Forward], options: Namespace
) -> tuple[Ways, float]:
    """Every way with the images it takes, and the cosine of bfloat16's rows to float32's."""
    n, size = len(clips) * FACES_PER_CLIP, options.batch
    n_batches = max(1, n // size)
    paths = sorted((folder / "faces").rglob("*.jpg"))[: options.few * size]
    x = np.stack([read_image(path, backbone.input_px) for path in paths[:size]])
    ways = plain_ways(backbone.model, backbone.preprocess(x), options.few)
    ways[LOOP] = partial(source_loop, paths, backbone, size), len(paths) // size * size
    ways |= forward_ways(forwards, x, n_batches, options.few)
    for precision, forward in forwards.items():
        cfg = StaticConfig(
            out_dir=str(folder / "run"), faces_dir=str(folder / "faces"), precision=precision, batch_size=size
        )
        ways[f"stage {precision}"] = partial(run_stage, clips, cfg, backbone, forward), n
    return ways, worst_cosine(forwards["bfloat16"](x), forwards["float32"](x), size)


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options_of(__doc__)
    parser.add_argument("--clips", type=int, default=48, metavar="N", help="of 15 faces each (default: 48)")
    parser.add_argument("--few", type=int, default=4, metavar="N", help="batches of the slow ways (default: 4)")
    parser.add_argument("--batch", type=int, default=32, help="images at once (default: 32)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    backbone = build_backbone("resnet50", "random")
    forwards = {precision: compile_forward(backbone.model, precision, backbone.prepare) for precision in PRECISIONS}
    with tempfile.TemporaryDirectory() as folder:
        clips = write_faces(Path(folder) / "faces", options.clips)
        ways, cosine = ways_of(clips, Path(folder), backbone, forwards, options)
        taken = seconds_per_unit(ways, options.rounds)
    headline = {
        **ratios(taken),
        "ratio_to_source_loop": ratio(taken[LOOP], taken["stage float32"]),
        "limit_to_source_loop": ratio(taken[LOOP], taken[f"{TOGETHER} float32"]),
        "ratio_bf16_to_source_loop": ratio(taken[LOOP], taken["stage bfloat16"]),
        "limit_bf16_to_source_loop": ratio(taken[LOOP], taken[f"{TOGETHER} bfloat16"]),
        "cosine_bf16": cosine,
    }
    report(rows_of(ways, taken, "images"), COLUMNS, options, **headline)
    tell(headline)


if __name__ == "__main__":
    main()
