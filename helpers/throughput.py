"""How many samples per second a compiled network makes, and the batch size that this speaks for.

In: a compiled network and the shape of a sample. Out: rates of batches of noise, and a batch size.
"""

import logging
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from helpers.device import chosen_device, measure_peak_gib
from helpers.forward import Forward

log = logging.getLogger(__name__)

NEARLY = 0.95  # of the best rate: what a larger batch adds beyond is not worth its memory
LARGEST_POWER = 10  # batches of 1,024 at most
SHARE = 0.4  # of a device's memory that a batch may take: two are in the network, and other programs need some


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median over `repeats` runs after one untimed; one value is read back, since a device computes behind our back."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        y = run()
        float(keras.ops.cast(y[(0,) * len(y.shape)], "float32"))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def measured_rate(
    forward: Forward, sample_shape: tuple[int, ...], batch: int, *, repeats: int = 1, dtype: type = np.float32
) -> tuple[float, float]:
    """Time a network on one batch of noise.

    Args:
        forward: Compiled network.
        sample_shape: Of one sample, without the batch.
        batch: Samples at once.
        repeats: Timed runs after one that compiles.
        dtype: Of a sample: np.uint8 for pixels.

    Returns:
        Samples per second by the median run, NaN where memory did not suffice; the peak of memory on the GPU in GiB,
        weights included, NaN where unknown.
    """
    x = np.random.default_rng(0).integers(0, 256, (batch, *sample_shape), np.uint8).astype(dtype)
    try:
        seconds, memory_gib = measure_peak_gib(lambda: median_seconds(lambda: forward(x), repeats))
    except MemoryError as error:
        log.info("batch %d: %s", batch, error)
        return math.nan, math.nan
    return batch / seconds, memory_gib


def measured_batch(
    forward: Forward,
    sample_shape: tuple[int, ...],
    device: str = "",
    *,
    network: str,
    dtype: type = np.float32,
) -> int:
    """Choose a batch size by measuring, and log why: the smallest that comes within 5 % of the best rate.

    It is doubled until memory runs out, `SHARE` of it is passed, or a doubling brings less than 5 %.

    Args:
        forward, sample_shape, dtype: As for `measured_rate`.
        device: A name of `helpers.device.use_device`. Where the memory of a GPU is unknown, every batch that ran fits.
        network: What the log calls the network.

    Raises:
        MemoryError: Not even one sample fits.
    """
    there = chosen_device(device)
    memory_gib = there["memory_gib"] if there["kind"] == "GPU" else math.nan  # a processor runs out after it is slow
    chosen, best = 0, 0.0
    for batch in (2**power for power in range(LARGEST_POWER + 1)):
        per_s, taken_gib = measured_rate(forward, sample_shape, batch, dtype=dtype)
        if not per_s > best / NEARLY or (chosen and taken_gib > SHARE * memory_gib):  # NaN: out of memory; no reason
            break
        chosen, best = batch, per_s
    if not chosen:
        raise MemoryError(f"{network} does not fit into memory with one sample of {sample_shape}. Make it smaller.")
    log.info("%s: batch %d makes %.1f samples/s", network, chosen, best)
    return chosen
