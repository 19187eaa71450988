"""How fast this machine is: single operations in GFLOP/s, the networks of 03 and 04 in samples per second.

In: sizes and dtypes. Out: timings, and tables of rates over growing batches.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pandas as pd

from helpers.backbones import build_backbone
from helpers.forward import compile_forward
from helpers.i3d import build_motion_network
from helpers.throughput import median_seconds, throughput


@dataclass(frozen=True)
class Timing:
    """A benchmark: median `seconds` of `repeats` runs after one to warm up, and the work of one run in GFLOP."""

    name: str
    dtype: str
    seconds: float
    repeats: int
    gflop: float

    @property
    def gflop_per_s(self) -> float:
        return self.gflop / self.seconds


def benchmark_matmul(size: int = 1024, *, repeats: int = 5, dtype: str = "float32") -> Timing:
    """Time the product of two (size, size) matrices: 2 size^3 operations."""
    a, b = (_random((size, size), seed, dtype) for seed in (0, 1))
    seconds = median_seconds(lambda: keras.ops.matmul(a, b), repeats)
    return Timing(f"matmul {size} x {size}", dtype, seconds, repeats, 2 * size**3 / 1e9)


def benchmark_convolution(
    dims: int = 2, *, size: int = 56, channels: int = 64, batch: int = 4, repeats: int = 5, dtype: str = "float32"
) -> Timing:
    """Time a convolution with 3-wide kernels, stride 1, SAME padding, as ResNet-50 and I3D hold them.

    Args:
        dims: 2 for images (batch, size, size, channels), 3 for clips (batch, 8, size, size, channels).
        size: Height and width in pixels.
        channels: Of input and output alike.
        batch: Samples at once.
        repeats: Timed runs.
        dtype: "float32", "bfloat16" or "float16".
    """
    if dims not in (2, 3):
        raise ValueError(f"dims must be 2 (images) or 3 (clips), got {dims!r}. Choose one of them.")
    space = (size, size) if dims == 2 else (8, size, size)
    x = _random((batch, *space, channels), 0, dtype)
    kernel = _random((*(3,) * dims, channels, channels), 1, dtype)
    seconds = median_seconds(lambda: keras.ops.conv(x, kernel, padding="same"), repeats)
    gflop = 2 * batch * np.prod(space) * channels**2 * 3**dims / 1e9
    return Timing(
        f"conv{dims}d {' x '.join(map(str, (batch, *space, channels)))}", dtype, seconds, repeats, float(gflop)
    )


def _random(shape: tuple[int, ...], seed: int, dtype: str) -> Any:
    values = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return keras.ops.cast(keras.ops.convert_to_tensor(values), dtype)


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
