"""What a stage takes while it runs: memory of this process and its children, processor load, and the GPU's by NVML.

In: nothing but a `with` around the work. Out: samples as a DataFrame, one row every few seconds, and their peaks and
medians as a frozen `Usage` for manifests and logs. A thread takes the samples; what it cannot read it says once in the
log and leaves out, and it never ends a run.
"""

import logging
import os
import threading
import time
from dataclasses import asdict, dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import pandas as pd
import psutil

log = logging.getLogger(__name__)

GIB = 2**30
COLUMNS = ("memory_gib", "children_gib", "load", "gpu_memory_gib", "gpu_load")


@dataclass(frozen=True)
class Usage:
    """Peaks and medians over the samples of `seconds`; None where nothing could be read.

    `memory` is the resident memory of this process in GiB, `children` that of its processes (the decoders) together,
    pages they share counted in each; `load` the busy share of all cores of the machine, in [0, 1], whoever uses them;
    `gpu_memory` what is taken of the GPU's memory in GiB, by everyone; `gpu_load` the share of time it was busy, in
    [0, 1].
    """

    seconds: float
    samples: int
    memory_peak_gib: float | None
    memory_median_gib: float | None
    children_peak_gib: float | None
    children_median_gib: float | None
    load_peak: float | None
    load_median: float | None
    gpu_memory_peak_gib: float | None
    gpu_memory_median_gib: float | None
    gpu_load_peak: float | None
    gpu_load_median: float | None

    def as_dict(self) -> dict[str, Any]:
        """As plain types, rounded to what a sample is worth."""
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(self).items()}


def gpu_handle(nvml: ModuleType, index: int) -> Any:
    """Return NVML's handle of the index-th GPU that this process may see; NVML has been started.

    `CUDA_VISIBLE_DEVICES` may hold numbers, which are NVML's where CUDA_DEVICE_ORDER is PCI_BUS_ID, or UUIDs.
    """
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    name = visible[index] if index < len(visible) else str(index)
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)


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
            Columns t_s (seconds since the start) and `COLUMNS`, as in `Usage`; NaN where nothing could be read.
        """
        return pd.DataFrame(list(self._rows), columns=["t_s", *COLUMNS], dtype="float64")

    def summary(self) -> Usage:
        """Return peaks and medians of the samples so far."""
        table = self.samples()
        values: dict[str, float | None] = {}
        for name in COLUMNS:
            stem, unit = (name.removesuffix("_gib"), "_gib") if name.endswith("_gib") else (name, "")
            found = table[name].dropna()
            values[f"{stem}_peak{unit}"] = float(found.max()) if len(found) else None
            values[f"{stem}_median{unit}"] = float(found.median()) if len(found) else None
        return Usage(float(table["t_s"].max()) if len(table) else 0.0, len(table), **values)

    def in_words(self) -> str:
        """Say the summary in one line, for a log."""
        used = self.summary()
        parts = {
            "memory {:.1f} GiB at most": used.memory_peak_gib,
            "decoders {:.1f} GiB": used.children_peak_gib,
            "processor {:.0%} busy": used.load_median,
            "GPU {:.0%} busy": used.gpu_load_median,
            "GPU memory {:.1f} GiB": used.gpu_memory_peak_gib,
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
