"""What 00 asks of this machine: whether it has a GPU, and how fast single operations and the networks of 03 and 04 are.

In: sizes and dtypes. Out: sentences, rows of timings in GFLOP/s, tables of samples per second over growing batches.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import pandas as pd

from helpers.backbones import build_backbone
from helpers.forward import Forward, compile_forward
from helpers.i3d import build_motion_network
from helpers.throughput import measured_rate, median_seconds


def enable_memory_growth() -> str:
    """Let TensorFlow take GPU memory as it needs it, not all at once; must come before the GPU is first used.

    Returns:
        One sentence that says what is now so, also when it is too late or there is nothing to set.
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


def benchmark_matmul(size: int = 1024, *, repeats: int = 5, dtype: str = "float32") -> dict[str, Any]:
    """Time the product of two (size, size) matrices, 2 size^3 operations.

    Returns:
        name, dtype, repeats, median `seconds` of them after one to warm up, `gflop` of one run, `gflop_per_s`.
    """
    a, b = (_random((size, size), seed, dtype) for seed in (0, 1))
    return _timed(f"matmul {size} x {size}", dtype, 2 * size**3, repeats, lambda: keras.ops.matmul(a, b))


def benchmark_convolution(
    dims: int = 2, *, size: int = 56, channels: int = 64, batch: int = 4, repeats: int = 5, dtype: str = "float32"
) -> dict[str, Any]:
    """Time a convolution with 3-wide kernels, stride 1, SAME padding, as ResNet-50 and I3D hold them.

    Args:
        dims: 2 for images (batch, size, size, channels), 3 for clips (batch, 8, size, size, channels).
        size: Height and width in pixels.
        channels: Of input and output alike.
        batch: Samples at once.
        repeats: Timed runs.
        dtype: "float32", "bfloat16" or "float16".

    Returns:
        As for `benchmark_matmul`.
    """
    space = {2: (size, size), 3: (8, size, size)}[dims]
    shape = (batch, *space, channels)
    x, kernel = _random(shape, 0, dtype), _random((*(3,) * dims, channels, channels), 1, dtype)
    operations = 2 * batch * math.prod(space) * channels**2 * 3**dims
    name = f"conv{dims}d {' x '.join(map(str, shape))}"
    return _timed(name, dtype, operations, repeats, lambda: keras.ops.conv(x, kernel, padding="same"))


def _random(shape: tuple[int, ...], seed: int, dtype: str) -> Any:
    values = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return keras.ops.cast(keras.ops.convert_to_tensor(values), dtype)


def _timed(name: str, dtype: str, operations: int, repeats: int, run: Callable[[], Any]) -> dict[str, Any]:
    seconds, gflop = median_seconds(run, repeats), operations / 1e9
    row = {"name": name, "dtype": dtype, "seconds": seconds, "repeats": repeats, "gflop": gflop}
    return row | {"gflop_per_s": gflop / seconds}


def throughput(
    forward: Forward,
    sample_shape: tuple[int, ...],
    batches: Iterable[int],
    *,
    network: str,
    unit: str,
    repeats: int,
    dtype: type = np.float32,
) -> pd.DataFrame:
    """Time a network over growing batches of noise; running out of memory is the last row, not an error.

    Args:
        forward, sample_shape, repeats, dtype: As for `measured_rate`.
        batches: Samples at once; taken in increasing order.
        network: What the rows are called.
        unit: What is counted: "images/s" or "clips/s".

    Returns:
        Columns network, unit, batch, and per_s and memory_gib of `measured_rate`; `note` says what went wrong.
    """
    rows = []
    for batch in sorted(set(batches)):
        per_s, memory_gib = measured_rate(forward, sample_shape, batch, repeats=repeats, dtype=dtype)
        row = {"network": network, "unit": unit, "batch": batch, "per_s": per_s, "memory_gib": memory_gib}
        rows.append(row | {"note": "out of memory" if math.isnan(per_s) else ""})
        if math.isnan(per_s):
            break
    return pd.DataFrame(rows)


def static_throughput(batches: Iterable[int], *, precision: str = "float32", repeats: int = 3) -> pd.DataFrame:
    """Time ResNet-50, the static network of 03, over batch sizes; see `throughput`."""
    built = build_backbone("resnet50", "random")
    forward = compile_forward(built.model, precision, built.prepare)
    shape = (built.input_px, built.input_px, 3)
    return throughput(forward, shape, batches, network="resnet50", unit="images/s", repeats=repeats, dtype=np.uint8)


def motion_throughput(
    batches: Iterable[int],
    *,
    endpoint: str = "Mixed_3c",
    px: int = 112,
    precision: str = "float32",
    repeats: int = 3,
) -> pd.DataFrame:
    """Time the motion network of 04 over batches of clips of 16 flows, `px` wide; see `throughput`."""
    model, _ = build_motion_network("random", endpoint)
    name = f"I3D to {endpoint or 'its pooled features'}, 16 flows"
    forward = compile_forward(model, precision)
    return throughput(forward, (16, px, px, 2), batches, network=name, unit="clips/s", repeats=repeats)
