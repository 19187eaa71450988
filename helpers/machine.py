"""What 00 asks of this machine: whether it has a GPU, and how fast operations and the networks of 03 and 04 are."""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import pandas as pd

from helpers.backbones import build_backbone
from helpers.device import measured_rates, median_seconds
from helpers.forward import compile_forward
from helpers.i3d import build_motion_network


def enable_memory_growth() -> str:
    """Let TensorFlow take GPU memory as it needs it, not all at once; must come before the GPU is first used.

    Returns one sentence that says what is now so, also when it is too late or there is nothing to set.
    """
    if keras.backend.backend() != "tensorflow":
        return f"Memory growth is TensorFlow's setting; the backend is {keras.backend.backend()}."
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "TensorFlow sees no GPU, so there is no GPU memory to grow."
    try:
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError:  # "Physical devices cannot be modified after being initialized"
        return "TensorFlow already uses the GPU, so memory growth stays as it was: restart the kernel and set it first."
    return f"TensorFlow takes the memory of {len(gpus)} GPU(s) as it needs it."


def require_gpu(found: pd.DataFrame) -> None:
    """Raise RuntimeError that names what was found, a table of `list_devices`, unless there is a GPU."""
    if "GPU" not in set(found["kind"]):
        there = ", ".join(f"{row.kind} {row.name} ({row.cores} cores)" for row in found.itertuples(index=False))
        raise RuntimeError(
            f"a GPU must be there because require_gpu is on, got {there} on {found['backend'].iloc[0]}. "
            "Install the gpu extra and a driver, or turn require_gpu off to run on the processor."
        )


def benchmark_operation(kind: str, *, size: int = 0, repeats: int = 5, dtype: str = "float32") -> dict[str, Any]:
    """Time what the networks are made of.

    Args:
        kind: "matmul" of two (size, size) matrices, 1024 by default; "conv2d" or "conv3d", 3-wide kernels over
            (4, [8,] size, size, 64), 56 by default, as ResNet-50 and I3D hold them.
        size, repeats: Side in elements or pixels; timed runs after one to warm up.
        dtype: "float32", "bfloat16" or "float16".

    Returns:
        name, dtype, repeats, median `seconds` of them, `gflop` of one run, `gflop_per_s`.
    """
    side = size or (1024 if kind == "matmul" else 56)
    shape, kernel = {
        "matmul": ((side, side), (side, side)),
        "conv2d": ((4, side, side, 64), (3, 3, 64, 64)),
        "conv3d": ((4, 8, side, side, 64), (3, 3, 3, 64, 64)),
    }[kind]
    random = np.random.default_rng(0)
    x, w = (keras.ops.cast(random.standard_normal(s, np.float32), dtype) for s in (shape, kernel))
    run = keras.ops.matmul if kind == "matmul" else lambda x, w: keras.ops.conv(x, w, padding="same")
    seconds, gflop = median_seconds(lambda: run(x, w), repeats), 2 * math.prod(shape[:-1]) * math.prod(kernel) / 1e9
    row = {"name": f"{kind} {' x '.join(map(str, shape))}", "dtype": dtype, "seconds": seconds, "repeats": repeats}
    return row | {"gflop": gflop, "gflop_per_s": gflop / seconds}


def network_rates(
    batches: Iterable[int],
    clips: Iterable[int] | None = None,
    *,
    precision: str = "float32",
    repeats: int = 2,
    endpoint: str = "Mixed_3c",
    px: int = 112,
) -> pd.DataFrame:
    """Time ResNet-50 over growing batches, and the motion network on so many `clips` (default: alike) of 16 flows.

    Returns:
        Columns network, unit ("images/s", "clips/s"), batch, per_s and memory_gib of `measured_rates`; `note` says that
        memory ran out.
    """
    static = build_backbone("resnet50", "random")
    motion, _ = build_motion_network("random", endpoint)
    sizes = sorted(set(batches)), sorted(set(clips or batches))
    image = measured_rates(
        compile_forward(static.model, precision, static.prepare),
        (static.input_px, static.input_px, 3),
        sizes[0],
        repeats=repeats,
        dtype=np.uint8,
    )
    clip = measured_rates(compile_forward(motion, precision), (16, px, px, 2), sizes[1], repeats=repeats)
    name = f"I3D to {endpoint or 'its pooled features'}, 16 flows"
    rows = [("resnet50", "images/s", *row) for row in image] + [(name, "clips/s", *row) for row in clip]
    table = pd.DataFrame(rows, columns=["network", "unit", "batch", "per_s", "memory_gib"])
    return table.assign(note=np.where(table["per_s"].isna(), "out of memory", ""))
