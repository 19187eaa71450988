"""What this machine computes with: its processor and GPUs, the choice of one, how fast it is, and how busy.

In: names of devices ("CPU:0", "GPU:1"), compiled networks. Out: a table of devices, timings, memory and load over time.
It sees the devices of the Keras backend that runs (TensorFlow, JAX or PyTorch), and imports that backend only.
"""

import logging
import math
import os
import platform
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pandas as pd
import psutil

from helpers.forward import Forward

log = logging.getLogger(__name__)

GIB = 2**30
NEARLY = 0.95  # of the best rate: what a larger batch adds beyond is not worth its memory
LARGEST_POWER = 10  # batches of 1,024 at most
SHARE = 0.4  # of a device's memory that a batch may take: two are in the network, and other programs need some

# Resident memory of this process and, shared pages counted in each, of its children together (the decoders); busy share
# of all cores, in [0, 1], whoever uses them; what is taken of the GPU's memory, by everyone; the share it was busy.
SAMPLE_COLUMNS = ("memory_gib", "children_gib", "load", "gpu_memory_gib", "gpu_load")


def list_devices() -> pd.DataFrame:
    """List the processor and the GPUs that the Keras backend sees, which starts it: set memory growth before.

    Returns:
        One row per device: `backend` (with version), `kind` (CPU or GPU), `physical` and `logical` (the latter as
        `use_device` takes them, several joined by a comma), `name`, `compute_capability` ("" where there is none),
        `memory_gib` (NaN where unknown), `cores` (physical cores of a CPU, 0 for a GPU).
    """
    name = keras.backend.backend()
    n_cpus, gpus = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[name]()
    logical, memory = ", ".join(f"CPU:{index}" for index in range(n_cpus)), psutil.virtual_memory().total / GIB
    cores = psutil.cpu_count(logical=False) or os.cpu_count()
    rows = [("CPU", "CPU:0", logical, _cpu_name(), "", memory, cores)]
    rows += [("GPU", f"GPU:{index}", *gpu, 0) for index, gpu in enumerate(gpus)]
    table = pd.DataFrame(
        rows, columns=["kind", "physical", "logical", "name", "compute_capability", "memory_gib", "cores"]
    )
    table.insert(0, "backend", f"{name} {__import__(name).__version__}")
    return table


def device_names() -> list[str]:
    """List the devices that `use_device` takes, such as CPU:0 and GPU:0; this starts the backend."""
    return ", ".join(list_devices()["logical"]).split(", ")


def chosen_device(name: str) -> pd.Series:
    """Row of `list_devices` for a name of `use_device`; for none the first GPU, if any."""
    table = list_devices()
    gpus = table[table["kind"] == "GPU"]
    if gpus.empty or name.startswith("CPU"):
        return table.iloc[0]
    return gpus.iloc[min(gpu_index(name), len(gpus) - 1)]  # TensorFlow may count parts of a GPU


def gpu_index(name: str) -> int:
    """The number in "GPU:1"; 0 where none is said."""
    return int(name.partition(":")[2] or 0) if name.startswith("GPU") else 0


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")  # Linux; platform.processor() is empty there
    name = re.search(r"^model name\s*:\s*(.+)$", info.read_text() if info.is_file() else "", re.MULTILINE)
    return name[1] if name else platform.processor() or platform.machine()


# How many processors the backend counts; of each GPU its logical names, name, compute capability, memory in GiB.
Found = tuple[int, list[tuple[str, str, str, float]]]


def _tensorflow() -> Found:
    import tensorflow as tf

    physical = tf.config.list_physical_devices("GPU")
    logical = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]
    share = len(logical) // max(len(physical), 1)  # a GPU may be split, each into as many
    rows = []
    for index, gpu in enumerate(physical):
        known = tf.config.experimental.get_device_details(gpu)
        names = ", ".join(logical[index * share : (index + 1) * share])
        capability = ".".join(map(str, known.get("compute_capability", ())))
        rows.append((names, known.get("device_name", ""), capability, _nvml_memory_gib(index)))
    return len(tf.config.list_logical_devices("CPU")), rows


def _jax() -> Found:
    import jax

    rows = []
    for gpu in _jax_gpus():
        memory = (gpu.memory_stats() or {}).get("bytes_limit", math.nan)
        rows.append((f"GPU:{gpu.id}", gpu.device_kind, str(getattr(gpu, "compute_capability", "")), memory / GIB))
    return len(jax.devices("cpu")), rows


def _jax_gpus() -> list:
    import jax

    return [device for device in jax.devices() if device.platform == "gpu"]


def _torch() -> Found:
    from torch import cuda

    gpus = enumerate(map(cuda.get_device_properties, range(cuda.device_count())))
    return 1, [(f"GPU:{i}", gpu.name, f"{gpu.major}.{gpu.minor}", gpu.total_memory / GIB) for i, gpu in gpus]


def open_nvml(index: int) -> tuple[ModuleType, Any]:
    """NVML's module (the `gpu` extra, nvidia-ml-py), and its handle of the index-th GPU that this process may see.

    `CUDA_VISIBLE_DEVICES` may hold numbers, which are NVML's where CUDA_DEVICE_ORDER is PCI_BUS_ID, or UUIDs. Raises
    ImportError without the extra, NVML's own errors where there is no driver or no such GPU.
    """
    import pynvml

    pynvml.nvmlInit()
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    name = visible[index] if index < len(visible) else str(index)
    by_name = pynvml.nvmlDeviceGetHandleByIndex if name.isdigit() else pynvml.nvmlDeviceGetHandleByUUID
    return pynvml, by_name(int(name) if name.isdigit() else name)


def _nvml_memory_gib(index: int) -> float:
    try:
        nvml, gpu = open_nvml(index)
        return nvml.nvmlDeviceGetMemoryInfo(gpu).total / GIB
    except Exception:  # no such library here; a card that NVML does not know by this name: not needed
        return math.nan


@contextmanager
def use_device(name: str) -> Iterator[str]:
    """Build and run networks on one device while the context lasts, in this thread; yields its full name, or empty.

    Both must happen inside: a network stays where its weights were made, and a compiled pass where it first ran.
    `name` is "CPU:0", "GPU:1", ..., without a number the first; empty leaves the choice to the backend, which takes the
    first GPU where there is one. ValueError names the devices that are there.
    """
    full = name.upper() if ":" in name or not name else f"{name.upper()}:0"
    if full:
        there = device_names()
        if full not in there:
            raise ValueError(f"device must be one of {', '.join(there)}, got {name!r}. Choose one of them.")
        log.info("computing on %s (%s)", full, keras.backend.backend())
    with device_scope(full):
        yield full


def device_scope(name: str) -> AbstractContextManager:
    """The context of a name that `use_device` has given, for use in further threads; empty: none."""
    return keras.device(name.lower()) if name else nullcontext()


def measure_peak_gib(work: Callable[[], Any]) -> tuple[Any, float]:
    """Run a piece of work; also return the largest memory that the backend held on one GPU meanwhile, in GiB.

    On JAX, which cannot forget a peak, it is the largest since the process began. NaN without a GPU.
    """
    _peaks(forget=True)
    result = work()
    return result, max(_peaks(), default=math.nan) / GIB


def _peaks(forget: bool = False) -> list[float]:
    """Bytes of each GPU at most since they were last forgotten; `forget` does so."""
    backend = keras.backend.backend()
    if backend == "jax":
        return [(gpu.memory_stats() or {}).get("peak_bytes_in_use", math.nan) for gpu in _jax_gpus()]
    if backend == "tensorflow":
        import tensorflow as tf

        memory, gpus = tf.config.experimental, [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
        reset, read = memory.reset_memory_stats, lambda gpu: memory.get_memory_info(gpu)["peak"]
    else:
        from torch import cuda

        gpus, reset, read = range(cuda.device_count()), cuda.reset_peak_memory_stats, cuda.max_memory_allocated
    for gpu in gpus if forget else ():
        reset(gpu)
    return [read(gpu) for gpu in gpus]


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median over `repeats` runs after one untimed; one value is read back, since a device computes behind our back."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        y = run()
        float(keras.ops.cast(y[(0,) * len(y.shape)], "float32"))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def measured_rates(
    forward: Forward,
    sample_shape: tuple[int, ...],
    batches: Iterable[int],
    *,
    repeats: int = 1,
    dtype: type = np.float32,
) -> Iterator[tuple[int, float, float]]:
    """Time a compiled network on batches of noise (batch, *sample_shape), up to the first that memory does not hold.

    Yields:
        Samples at once; samples per second by the median of `repeats` runs after one that compiles, NaN where memory
        did not suffice; the peak of memory on the GPU in GiB, weights included, NaN where unknown.
    """
    for batch in batches:
        x = np.random.default_rng(0).integers(0, 256, (batch, *sample_shape), np.uint8).astype(dtype)
        try:
            seconds, memory_gib = measure_peak_gib(lambda x=x: median_seconds(lambda: forward(x), repeats))
        except MemoryError as error:
            log.info("batch %d: %s", batch, error)
            yield batch, math.nan, math.nan
            return
        yield batch, batch / seconds, memory_gib


def measured_batch(
    forward: Forward, sample_shape: tuple[int, ...], device: str = "", *, network: str, dtype: type = np.float32
) -> int:
    """Choose a batch size by measuring, and log why: the smallest that comes within 5 % of the best rate.

    It is doubled until memory runs out, `SHARE` of that of `device` is passed (where the memory of a GPU is unknown,
    every batch that ran fits), or a doubling brings less than 5 %. MemoryError where not even one sample fits.
    """
    there = chosen_device(device)
    memory_gib = there["memory_gib"] if there["kind"] == "GPU" else math.nan  # a processor runs out after it is slow
    chosen, best = 0, 0.0
    batches = (2**power for power in range(LARGEST_POWER + 1))
    for batch, per_s, taken_gib in measured_rates(forward, sample_shape, batches, dtype=dtype):
        if not per_s > best / NEARLY or (chosen and taken_gib > SHARE * memory_gib):  # NaN: out of memory; no reason
            break
        chosen, best = batch, per_s
    if not chosen:
        raise MemoryError(f"{network} does not fit into memory with one sample of {sample_shape}. Make it smaller.")
    log.info("%s: batch %d makes %.1f samples/s", network, chosen, best)
    return chosen


class Monitor:
    """Sample what the work inside `with` takes: at its start, every `every_s` seconds, and at its end.

    A thread takes the samples, in some milliseconds each; what it cannot read it leaves out, and it never ends a run.
    `gpu` is one of the visible ones.
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
        """Return seconds, samples, and peak and median of `SAMPLE_COLUMNS`, such as memory_peak_gib; None unknown."""
        table = self.samples()
        values = {"seconds": table["t_s"].max() if len(table) else 0.0, "samples": len(table)}
        for name in SAMPLE_COLUMNS:
            stem, unit = (name.removesuffix("_gib"), "_gib") if name.endswith("_gib") else (name, "")
            values |= {f"{stem}_peak{unit}": table[name].max(), f"{stem}_median{unit}": table[name].median()}
        return {name: None if math.isnan(value) else round(float(value), 3) for name, value in values.items()}

    def in_words(self) -> str:
        """Say the summary in one line, for a log."""
        known = {name.replace("_", " "): value for name, value in self.summary().items() if value is not None}
        return ", ".join(f"{name} {value:g}" for name, value in known.items())

    def _keep_sampling(self) -> None:
        started_s, gpu_is_read, ended = time.monotonic(), True, False
        while True:
            busy = psutil.cpu_percent() / 100  # since the call before, of this thread
            row = {"t_s": time.monotonic() - started_s, "load": busy if self._rows else math.nan}
            with suppress(psutil.Error):
                row |= _memory_of_processes()
            try:
                row |= _use_of_gpu(self._gpu) if gpu_is_read else {}
            except Exception as error:  # no library, no driver, a GPU that is lost: none of them is the work's
                log.info("the GPU is not monitored: %s: %s", type(error).__name__, error)
                gpu_is_read = False
            self._rows.append(row)
            if ended:
                return
            ended = self._ended.wait(self._every_s)


def _memory_of_processes() -> dict[str, float]:
    me, children = psutil.Process(), 0
    for child in me.children(recursive=True):
        with suppress(psutil.Error):  # it has ended since
            children += child.memory_info().rss
    return {"memory_gib": me.memory_info().rss / GIB, "children_gib": children / GIB}


def _use_of_gpu(index: int) -> dict[str, float]:
    nvml, gpu = open_nvml(index)
    used, busy = nvml.nvmlDeviceGetMemoryInfo(gpu).used, nvml.nvmlDeviceGetUtilizationRates(gpu).gpu
    return {"gpu_memory_gib": used / GIB, "gpu_load": busy / 100}
