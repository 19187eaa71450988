"""How fast does the compiled forward pass run, against the ways everybody knows?

ResNet-50 on a batch of images and I3D to Mixed_3c on the flow of one clip: `helpers.forward.compile_forward` in float32
and in bfloat16 beside `model.predict` and a plain `tf.function`, which is the peer: its ratio is 1, more is faster.
The cosine says how far the rows that extraction would keep point away from those of `tf.function`; the worst is shown.

    python -m benchmarks.forward [--json FILE]
"""

import statistics
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf  # the peer is TensorFlow's own; elsewhere only forward.py, weights.py and device.py import it

from benchmarks.alternation import alternate, options_of, ratio, report
from helpers.backbones import build_backbone
from helpers.forward import compile_forward
from helpers.i3d import build_motion_network

PEER = "tf.function"
ENDPOINT = "Mixed_3c"
SEGMENT = 8  # flows per row of features
COLUMNS = {"network": "{}", "way": "{}", "unit": "{}", "per_s": "{:.2f}", "ratio": "{:.2f}", "cosine": "{:.6f}"}


def resnet50(options: Namespace) -> tuple[keras.Model, np.ndarray, int]:
    """Return the network, preprocessed noise (batch, 224, 224, 3), and how many rows of features it makes."""
    backbone = build_backbone("resnet50", "random")
    shape = (options.batch, backbone.input_px, backbone.input_px, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return backbone.model, backbone.preprocess(frames), options.batch


def i3d(options: Namespace) -> tuple[keras.Model, np.ndarray, int]:
    """Return the network, noise for flow (1, flows, px, px, 2), and how many rows of features it makes."""
    network, _ = build_motion_network("random", ENDPOINT)
    shape = (1, options.flows, options.px, options.px, 2)
    return network, np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32), options.flows // SEGMENT


NETWORKS = {"resnet50": (resnet50, "images"), "i3d": (i3d, "clips")}


def ways_of(model: keras.Model, x: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    """Return every way from the same array to an array."""
    function = tf.function(lambda batch: model(batch, training=False))
    float32, bfloat16 = (compile_forward(model, precision) for precision in ("float32", "bfloat16"))
    return {
        PEER: lambda: function(x).numpy(),
        "model.predict": lambda: model.predict(x, batch_size=len(x), verbose=0),
        "compile_forward float32": lambda: float32(x),
        "compile_forward bfloat16": lambda: bfloat16(x),
    }


def worst_cosine(y: np.ndarray, reference: np.ndarray, n_rows: int) -> float:
    """Return the smallest cosine between rows (n_rows, C), each the mean of its part of an activation (..., C)."""
    a, b = (part.astype(np.float64).reshape(n_rows, -1, part.shape[-1]).mean(1) for part in (y, reference))
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def measure(name: str, options: Namespace) -> list[dict[str, Any]]:
    """Return one row per way of running the network of this name."""
    make, unit = NETWORKS[name]
    model, x, n_rows = make(options)
    ways = ways_of(model, x)
    outputs = {way: run() for way, run in ways.items()}  # compiles, too
    seconds = alternate(ways, options.rounds)
    return [
        {
            "network": name,
            "way": way,
            "unit": f"{unit}/s",
            "per_s": len(x) / statistics.median(seconds[way]),
            "ratio": ratio(seconds[PEER], seconds[way]),
            "cosine": worst_cosine(outputs[way], outputs[PEER], n_rows),
            "seconds": seconds[way],
        }
        for way in ways
    ]


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options_of(__doc__)
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=32, help="images at once (default: 32)")
    parser.add_argument("--flows", type=int, default=72, help="flows of the clip, a multiple of 8 (default: 72)")
    parser.add_argument("--px", type=int, default=112, help="side of the flow (default: 112)")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(argv)
    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"KERAS_BACKEND must be tensorflow, got {keras.backend.backend()}. Set it: the peer is.")
    report([row for name in options.networks for row in measure(name, options)], COLUMNS, options)


if __name__ == "__main__":
    main()
