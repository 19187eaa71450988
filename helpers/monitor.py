"""What a stage takes while it runs: memory of this process and its children, processor load, and the GPU's by NVML.

In: nothing but a `with` around the work. Out: samples as a DataFrame, one row every few seconds, and their peaks and
medians for manifests and logs. A thread takes the samples; what it cannot read it says once in the log and leaves out,
and it never ends a run.
"""

import logging
import math
import threading
import time
from importlib import import_module
from types import ModuleType
from typing import Any

import pandas as pd
import psutil

from helpers.device import GIB, gpu_handle

log = logging.getLogger(__name__)

# Resident memory of this process and, shared pages counted in each, of its children together (the decoders); busy share
# of all cores, in [0, 1], whoever uses them; what is taken of the GPU's memory, by everyone; the share it was busy.
SAMPLE_COLUMNS = ("memory_gib", "children_gib", "load", "gpu_memory_gib", "gpu_load")


class Monitor:
    """Sample what the work inside `with` takes: once at its start, every `every_s` seconds, and once at its end.

    Args:
        every_s: Seconds from sample to sample, above 0. A sample takes some milliseconds of one core.
        gpu: Which of the visible GPUs.
        nvml: NVML's Python module; None takes `pynvml` where the `gpu` extra is installed.
    """

    def __init__(self, *, every_s: float = 5.0, gpu: int = 0, nvml: ModuleType | None = None) -> None:
        if not 0 < every_s <= threading.TIMEOUT_MAX:
            raise ValueError(f"every_s must be above 0, got {every_s}. 5 is enough for a stage that takes minutes.")
        self._every_s, self._gpu, self._nvml = every_s, gpu, nvml
        self._handle: Any = None
        self._rows: list[dict[str, float]] = []
        self._said: set[str] = set()
        self._process = psutil.Process()
        self._cpu: Any = None
        self._start_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_sampling, name="monitor", daemon=True)

    def __enter__(self) -> "Monitor":
        self._start_s, self._cpu = time.monotonic(), psutil.cpu_times()
        self._open_gpu()
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._sample()

    def samples(self) -> pd.DataFrame:
        """Return one row per sample, also while the work goes on.

        Returns:
            Columns t_s (seconds since the start) and `SAMPLE_COLUMNS`; NaN where nothing could be read.
        """
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
        used = self.summary()
        parts = {
            "memory {:.1f} GiB at most": used["memory_peak_gib"],
            "decoders {:.1f} GiB": used["children_peak_gib"],
            "processor {:.0%} busy": used["load_median"],
            "GPU {:.0%} busy": used["gpu_load_median"],
            "GPU memory {:.1f} GiB": used["gpu_memory_peak_gib"],
        }
        return ", ".join(form.format(value) for form, value in parts.items() if value is not None) or "nothing sampled"

    def _keep_sampling(self) -> None:
        while not self._ended.wait(self._every_s):
            self._sample()

    def _sample(self) -> None:
        row = {"t_s": time.monotonic() - self._start_s}
        readings = (("memory", self._read_memory), ("processor", self._read_load), ("GPU", self._read_gpu))
        for what, read in readings:
            try:
                row |= read()
            except Exception as error:  # NVML has errors of its own; none of them is the work's
                self._say(f"the {what} could not be read: {type(error).__name__}: {error}", what)
        self._rows.append(row)

    def _say(self, message: str, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.info("%s", message)

    def _read_memory(self) -> dict[str, float]:
        children = 0
        for child in self._process.children(recursive=True):
            try:
                children += child.memory_info().rss
            except psutil.NoSuchProcess:  # it has ended since
                continue
        return {"memory_gib": self._process.memory_info().rss / GIB, "children_gib": children / GIB}

    def _read_load(self) -> dict[str, float]:
        before, self._cpu = self._cpu, psutil.cpu_times()
        spent = {name: getattr(self._cpu, name) - getattr(before, name) for name in before._fields}
        total = sum(value for name, value in spent.items() if not name.startswith("guest"))  # which user holds already
        idle = spent["idle"] + spent.get("iowait", 0.0)
        return {"load": min(max(1 - idle / total, 0.0), 1.0)} if total > 0 else {}

    def _read_gpu(self) -> dict[str, float]:
        if self._handle is None:
            return {}
        memory = {"gpu_memory_gib": self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used / GIB}
        return memory | {"gpu_load": self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100}

    def _open_gpu(self) -> None:
        try:
            self._nvml = self._nvml or import_module("pynvml")
            self._nvml.nvmlInit()
            self._handle = gpu_handle(self._nvml, self._gpu)
        except ImportError:
            self._say("no GPU is monitored: the gpu extra (nvidia-ml-py) is not installed", "GPU")
        except Exception as error:  # no driver, no such GPU: NVML has errors of its own
            self._say(f"no GPU is monitored: {error}", "GPU")
