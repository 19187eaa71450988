"""What this machine computes with: its processor and GPUs, the choice of one, and the memory that work takes on it.

In: names of devices ("CPU:0", "GPU:1"). Out: a table of devices, sentences for a notebook. It sees the devices of the
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

    This starts the backend: call `enable_memory_growth` before it.

    Returns:
        One row per device: `backend` (with version), `kind` (CPU or GPU), `physical` and `logical` (the backend's
        names, several logical ones joined by a comma), `name`, `compute_capability` ("" where there is none),
        `memory_gib` (NaN where unknown), `cores` (physical cores of a CPU, 0 for a GPU).
    """
    name = keras.backend.backend()
    gpus = {"tensorflow": _tensorflow_gpus, "jax": _jax_gpus, "torch": _torch_gpus}[name]()
    cpu = {
        "kind": "CPU", "physical": "CPU:0", "logical": "CPU:0", "name": _cpu_name(), "compute_capability": "",
        "memory_gib": psutil.virtual_memory().total / GIB, "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
    }  # fmt: skip
    table = pd.DataFrame([cpu, *({"kind": "GPU", "cores": 0, **gpu} for gpu in gpus)])
    table.insert(0, "backend", f"{name} {__import__(name).__version__}")
    return table


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
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _tensorflow_gpus() -> list[dict[str, Any]]:
    import tensorflow as tf

    physical = tf.config.list_physical_devices("GPU")
    logical = [device.name for device in tf.config.list_logical_devices("GPU")]
    share = max(len(logical) // len(physical), 1) if physical else 1  # a GPU may be split, each into as many
    rows = []
    for index, device in enumerate(physical):
        details = tf.config.experimental.get_device_details(device)
        rows.append(
            {
                "physical": device.name.removeprefix("/physical_device:"),
                "logical": ", ".join(logical[index * share : (index + 1) * share]).replace("/device:", ""),
                "name": details.get("device_name", ""),
                "compute_capability": ".".join(map(str, details.get("compute_capability", ()))),
                "memory_gib": _nvml_memory_gib(index),
            }
        )
    return rows


def _nvml_memory_gib(index: int) -> float:
    """Total memory of the index-th visible NVIDIA GPU, NaN without the `gpu` extra (nvidia-ml-py) or its driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetMemoryInfo(gpu_handle(pynvml, index)).total / GIB
    except Exception:  # no such library here; a card that NVML does not know by this name: told, not needed
        return float("nan")


def gpu_handle(nvml: ModuleType, index: int) -> Any:
    """Return NVML's handle of the index-th GPU that this process may see; NVML has been started.

    `CUDA_VISIBLE_DEVICES` may hold numbers, which are NVML's where CUDA_DEVICE_ORDER is PCI_BUS_ID, or UUIDs.
    """
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    name = visible[index] if index < len(visible) else str(index)
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)


def _jax_gpus() -> list[dict[str, Any]]:
    import jax

    return [
        {
            "physical": f"GPU:{device.id}",
            "logical": str(device),
            "name": device.device_kind,
            "compute_capability": str(getattr(device, "compute_capability", "")),
            "memory_gib": (device.memory_stats() or {}).get("bytes_limit", float("nan")) / GIB,
        }
        for device in jax.devices()
        if device.platform == "gpu"
    ]


def _torch_gpus() -> list[dict[str, Any]]:
    import torch

    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        {
            "physical": f"GPU:{index}",
            "logical": f"cuda:{index}",
            "name": gpu.name,
            "compute_capability": f"{gpu.major}.{gpu.minor}",
            "memory_gib": gpu.total_memory / GIB,
        }
        for index, gpu in enumerate(properties)
    ]


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


def device_names() -> list[str]:
    """List the devices that `use_device` takes, such as CPU:0 and GPU:0; this starts the backend."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]
    if backend == "jax":
        return [f"{kind.upper()}:{index}" for kind in ("cpu", "gpu") for index in range(len(_jax_devices(kind)))]
    import torch

    return ["CPU:0", *(f"GPU:{index}" for index in range(torch.cuda.device_count()))]


def _jax_devices(kind: str) -> list:
    import jax

    try:
        return jax.devices(kind)
    except RuntimeError:  # there is no such platform
        return []


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
    if not name:
        yield ""
        return
    full = name.upper() if ":" in name else f"{name.upper()}:0"
    there = device_names()
    if not re.fullmatch(r"(CPU|GPU):\d+", full) or full not in there:
        raise ValueError(f"device must be one of {', '.join(there)}, got {name!r}. Choose one of them.")
    log.info("computing on %s (%s)", full, keras.backend.backend())
    with device_scope(full):
        yield full


def device_scope(name: str) -> AbstractContextManager:
    """The backend's own context for a name that `use_device` has given, for use in further threads; empty: none.

    Keras' `device` would take the first of JAX's devices by the number of any.
    """
    if not name:
        return nullcontext()
    if keras.backend.backend() != "jax":
        return keras.device(name.lower())
    import jax

    kind, index = name.lower().split(":")
    return jax.default_device(_jax_devices(kind)[int(index)])


def measure_peak_gib(work: Callable[[], Any]) -> tuple[Any, float]:
    """Run a piece of work; also return the largest memory that the backend held on one GPU meanwhile, in GiB.

    On JAX, which cannot forget a peak, it is the largest since the process began. NaN without a GPU.
    """
    reset, read = {"tensorflow": _tensorflow_peaks, "jax": _jax_peaks, "torch": _torch_peaks}[keras.backend.backend()]()
    reset()
    result = work()
    return result, max((n_bytes / GIB for n_bytes in read()), default=math.nan)


Peaks = tuple[Callable[[], object], Callable[[], list[float]]]  # forget the peaks of all GPUs; their bytes


def _tensorflow_peaks() -> Peaks:
    import tensorflow as tf

    memory, gpus = tf.config.experimental, [name for name in device_names() if name.startswith("GPU")]
    return (
        lambda: [memory.reset_memory_stats(gpu) for gpu in gpus],
        lambda: [memory.get_memory_info(gpu)["peak"] for gpu in gpus],
    )


def _jax_peaks() -> Peaks:
    gpus = _jax_devices("gpu")
    return lambda: None, lambda: [(gpu.memory_stats() or {}).get("peak_bytes_in_use", math.nan) for gpu in gpus]


def _torch_peaks() -> Peaks:
    from torch import cuda

    gpus = range(cuda.device_count())
    return (
        lambda: [cuda.reset_peak_memory_stats(gpu) for gpu in gpus],
        lambda: [cuda.max_memory_allocated(gpu) for gpu in gpus],
    )
