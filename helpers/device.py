"""What this machine computes with: its processor and GPUs, the choice of one, and the memory that work takes on it.

In: names of devices ("CPU:0", "GPU:1"). Out: a table of devices. It sees the devices of the
Keras backend that runs (TensorFlow, JAX or PyTorch), and imports that backend only.
"""

import logging
import math
import os
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import pandas as pd
import psutil

log = logging.getLogger(__name__)

GIB = 2**30


def list_devices() -> pd.DataFrame:
    """List the processor and the GPUs that the Keras backend sees.

    This starts the backend: call `helpers.machine.enable_memory_growth` before it.

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

    `CUDA_VISIBLE_DEVICES` may hold numbers, which are NVML's where CUDA_DEVICE_ORDER is PCI_BUS_ID, or UUIDs.

    Raises:
        ImportError: The extra is not installed.
        Exception: NVML's own, where there is no driver or no such GPU.
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
    """Build and run networks on one device while the context lasts, in this thread.

    Both must happen inside: a network stays where its weights were made, and a compiled pass where it first ran.

    Args:
        name: "CPU:0", "GPU:1", ...; without a number the first; empty leaves the choice to the backend, which takes
            the first GPU where there is one.

    Yields:
        The name in full, or empty. It is logged.

    Raises:
        ValueError: There is no such device; lists those that are there.
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
