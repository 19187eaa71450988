"""What a stage takes while it runs: memory of this process and its children, processor load, and the GPU's by NVML.

In: nothing but a `with` around the work. Out: samples as a DataFrame, one row every few seconds, and their peaks and
medians for manifests and logs. A thread takes the samples; what it cannot read it leaves out, and it never ends a run.
"""

import logging
import math
import threading
import time
from contextlib import suppress
from functools import partial

import pandas as pd
import psutil

from helpers.device import GIB, open_nvml

log = logging.getLogger(__name__)

# Resident memory of this process and, shared pages counted in each, of its children together (the decoders); busy share
# of all cores, in [0, 1], whoever uses them; what is taken of the GPU's memory, by everyone; the share it was busy.
SAMPLE_COLUMNS = ("memory_gib", "children_gib", "load", "gpu_memory_gib", "gpu_load")


class Monitor:
    """Sample what the work inside `with` takes: once at its start, every `every_s` seconds, and once at its end.

    Args:
        every_s: Seconds from sample to sample, above 0. A sample takes some milliseconds of one core.
        gpu: Which of the visible GPUs.
    """

    def __init__(self, *, every_s: float = 5.0, gpu: int = 0) -> None:
        self._every_s, self._gpu = every_s, gpu
        self._rows: list[dict[str, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_sampling, name="monitor", daemon=True)

    def __enter__(self) -> "Monitor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def samples(self) -> pd.DataFrame:
        """Return one row per sample so far: t_s, seconds since the start, and `SAMPLE_COLUMNS`; NaN where unknown."""
        return pd.DataFrame(list(self._rows), columns=["t_s", *SAMPLE_COLUMNS], dtype="float64")

    def summary(self) -> dict[str, float | int | None]:
        """Return seconds, samples, and peak and median of each of `SAMPLE_COLUMNS`, such as memory_peak_gib.

        They are rounded to what a sample is worth; None where nothing could be read.
        """
        table = self.samples()
        values = {"seconds": round(float(table["t_s"].max()), 3) if len(table) else 0.0, "samples": len(table)}
        for name in SAMPLE_COLUMNS:
            stem, unit = (name.removesuffix("_gib"), "_gib") if name.endswith("_gib") else (name, "")
            for what, value in (("peak", table[name].max()), ("median", table[name].median())):
                values[f"{stem}_{what}{unit}"] = None if math.isnan(value) else round(float(value), 3)
        return values

    def in_words(self) -> str:
        """Say the summary in one line, for a log."""
        used = {name.replace("_", " "): value for name, value in self.summary().items() if value is not None}
        return ", ".join(f"{name} {value:g}" for name, value in used.items())

    def _keep_sampling(self) -> None:
        started_s = time.monotonic()
        readers = {"memory": _of_processes, "GPU": partial(_of_gpu, self._gpu)}
        silent, ended = set(), False
        while True:
            busy = psutil.cpu_percent() / 100  # since the call before, of this thread
            row = {"t_s": time.monotonic() - started_s, "load": busy if self._rows else math.nan}
            for what, read in readers.items():
                try:
                    row |= read()
                except Exception as error:  # no library, no driver, a GPU that is lost: none of them is the work's
                    if what not in silent:
                        log.info("the %s is not monitored: %s: %s", what, type(error).__name__, error)
                    silent.add(what)
            self._rows.append(row)
            if ended:
                return
            ended = self._ended.wait(self._every_s)


def _of_processes() -> dict[str, float]:
    me, children = psutil.Process(), 0
    for child in me.children(recursive=True):
        with suppress(psutil.Error):  # it has ended since
            children += child.memory_info().rss
    return {"memory_gib": me.memory_info().rss / GIB, "children_gib": children / GIB}


def _of_gpu(index: int) -> dict[str, float]:
    nvml, gpu = open_nvml(index)
    used, busy = nvml.nvmlDeviceGetMemoryInfo(gpu).used, nvml.nvmlDeviceGetUtilizationRates(gpu).gpu
    return {"gpu_memory_gib": used / GIB, "gpu_load": busy / 100}
