"""How many samples per second a network makes over growing batches, and the batch size to use.

In: a compiled network and the shape of a sample. Out: a table of rates, and the batch size that it speaks for.
"""

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import pandas as pd

from helpers.device import measure_peak_gib
from helpers.forward import Forward

log = logging.getLogger(__name__)

THROUGHPUT_COLUMNS = ("network", "unit", "batch", "per_s", "memory_gib", "note")
NEARLY = 0.95  # of the best rate: what a larger batch adds beyond is not worth its memory
LARGEST_POWER = 10  # batches of 1,024 at most
SHARE = 0.4  # of a device's memory that a batch may take: two are in the network, and other programs need some


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median over `repeats` runs after one untimed; one value is read back, since a device computes behind our back."""
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}. Ask for one run or more.")
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        y = run()
        float(keras.ops.cast(y[(0,) * len(y.shape)], "float32"))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


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
        forward: Compiled network.
        sample_shape: Of one sample, without the batch.
        batches: Samples at once, each at least 1; taken in increasing order.
        network: What the rows are called.
        unit: What is counted: "images/s" or "clips/s".
        repeats: Timed runs of each batch after one that compiles.
        dtype: Of a sample: np.uint8 for pixels.

    Returns:
        `THROUGHPUT_COLUMNS`: `per_s` is samples per second by the median run, NaN where memory did not suffice;
        `memory_gib` the peak on the GPU, weights included, NaN where unknown; `note` says what went wrong.
    """
    sizes = sorted(set(batches))
    if repeats < 1 or not sizes or sizes[0] < 1:
        raise ValueError(f"batches and repeats must be at least 1, got {sizes} and {repeats}. Name one or more.")
    rows = []
    for size in sizes:
        row = {"network": network, "unit": unit, "batch": size, "per_s": math.nan, "memory_gib": math.nan, "note": ""}
        rows.append(row)
        try:
            x = np.random.default_rng(0).integers(0, 256, (size, *sample_shape), np.uint8).astype(dtype)
            row["per_s"], row["memory_gib"] = measure_peak_gib(
                lambda x=x: len(x) / median_seconds(lambda: forward(x), repeats)
            )
        except MemoryError as error:
            log.info("%s, batch %d: %s", network, size, error)
            row["note"] = "out of memory"
            break
    return pd.DataFrame(rows, columns=list(THROUGHPUT_COLUMNS))


def measured_batch(
    forward: Forward,
    sample_shape: tuple[int, ...],
    *,
    network: str,
    unit: str,
    dtype: type = np.float32,
    memory_gib: float = math.nan,
) -> int:
    """Choose a batch size by measuring: doubled until memory runs out or a doubling brings under 5 %; see `throughput`.

    `memory_gib` is as for `suggest_batch`. MemoryError when not even one sample fits.
    """
    parts: list[pd.DataFrame] = []
    best = 0.0
    for size in (2**k for k in range(LARGEST_POWER + 1)):
        parts.append(throughput(forward, sample_shape, [size], network=network, unit=unit, repeats=1, dtype=dtype))
        rate = parts[-1]["per_s"].iloc[0]
        if not rate > best / NEARLY:  # NaN, too
            break
        best = rate
    table = pd.concat(parts, ignore_index=True)
    if table["per_s"].isna().all():
        raise MemoryError(f"{network} does not fit into memory with one sample of {sample_shape}. Make it smaller.")
    return suggest_batch(table, memory_gib)


def suggest_batch(table: pd.DataFrame, memory_gib: float = math.nan) -> int:
    """Choose a batch size from the measured rows of one network, and log why.

    It is the smallest that comes within 5 % of the best rate among those that fit into `SHARE` of the memory. What a
    batch takes is a line through the measured peaks: a constant for the weights, and so much per sample.

    Args:
        table: Of `throughput`, one network, at least one row that has a rate.
        memory_gib: Of the device that will be used; NaN where unknown: then every batch that ran fits.
    """
    ran = table[table["per_s"].notna()]
    if ran.empty or table["network"].nunique() != 1:
        raise ValueError(
            f"table must hold the rows of one network of which one ran, got {len(ran)} that ran, of "
            f"{', '.join(table['network'].unique()) or 'no network'}. Measure smaller batches, one network at a time."
        )
    needed = _memory_of(ran)
    fitting = ran[~(needed > SHARE * memory_gib)]  # NaN is no reason against
    if fitting.empty:
        fitting = ran.head(1)
    best = fitting["per_s"].max()
    chosen = fitting[fitting["per_s"] >= NEARLY * best].iloc[0]
    log.info(
        "%s: batch %d makes %.1f %s, the best that fits %.1f", chosen["network"], chosen["batch"], chosen["per_s"],
        chosen["unit"], best,
    )  # fmt: skip
    return int(chosen["batch"])


def _memory_of(ran: pd.DataFrame) -> pd.Series:
    """GiB of each batch by the line through the known ones; the known value where there is only one."""
    known = ran.dropna(subset="memory_gib")
    if len(known) < 2:
        return ran["memory_gib"]
    slope, constant = np.polyfit(known["batch"], known["memory_gib"], 1)
    return ran["batch"] * slope + constant
