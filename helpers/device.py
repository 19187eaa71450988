"""What this machine can compute with, and whether it does so rightly: devices, memory growth, benchmarks, a gradient.

In: sizes and dtypes. Out: a table of devices, sentences for a notebook, timings in seconds and GFLOP/s. Sees the
devices of the Keras backend that runs (TensorFlow, JAX or PyTorch), and imports that backend only.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import psutil

from helpers.engine.monitor import GIB, gpu_handle


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
    """Row of `list_devices` for a name of `helpers.engine.placement.use_device`; for none the first GPU, if any."""
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


def require_gpu(found: pd.DataFrame | None = None) -> None:
    """Raise RuntimeError that names what was found, unless there is a GPU.

    Args:
        found: A table of `list_devices`; None asks for it.
    """
    found = list_devices() if found is None else found
    if "GPU" not in set(found["kind"]):
        there = ", ".join(f"{row.kind} {row.name} ({row.cores} cores)" for row in found.itertuples(index=False))
        raise RuntimeError(
            f"a GPU must be there because require_gpu is on, got {there} on {found['backend'].iloc[0]}. "
            "Install the gpu extra and a driver, or turn require_gpu off to run on the processor."
        )


def benchmark_matmul(size: int = 1024, *, repeats: int = 5, dtype: str = "float32") -> Timing:
    """Time the product of two (size, size) matrices: 2 size^3 operations."""
    a, b = (_random((size, size), seed, dtype) for seed in (0, 1))
    seconds = _median_seconds(lambda: keras.ops.matmul(a, b), repeats)
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
    seconds = _median_seconds(lambda: keras.ops.conv(x, kernel, padding="same"), repeats)
    gflop = 2 * batch * np.prod(space) * channels**2 * 3**dims / 1e9
    return Timing(
        f"conv{dims}d {' x '.join(map(str, (batch, *space, channels)))}", dtype, seconds, repeats, float(gflop)
    )


def _random(shape: tuple[int, ...], seed: int, dtype: str) -> Any:
    values = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return keras.ops.cast(keras.ops.convert_to_tensor(values), dtype)


def _median_seconds(run: Callable[[], Any], repeats: int) -> float:
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


def check_gradient(step: float = 1e-2) -> float:
    """Compare the backend's gradient through convolution, tanh and matrix product with central finite differences.

    Args:
        step: Half the width of a finite difference; with float32, 1e-2 balances rounding against curvature.

    Returns:
        Largest difference over 12 of the kernel's 135 values, in units of the largest finite difference; under 1e-3
        where training can be trusted.
    """
    rng = np.random.default_rng(0)
    x, dense, kernel = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 7, 7, 3), (5, 2), (3, 3, 3, 5)))
    kernel *= np.float32(0.3)

    def loss(kernel: Any) -> Any:
        hidden = keras.ops.tanh(keras.ops.conv(x, kernel, padding="same"))
        return keras.ops.mean(keras.ops.square(keras.ops.matmul(hidden, dense)))

    places = [np.unravel_index(flat, kernel.shape) for flat in rng.choice(kernel.size, 12, replace=False)]
    gradient = _gradient(loss, kernel)
    differences = []
    for place in places:
        nudge = np.zeros_like(kernel)
        nudge[place] = step
        upper, lower = (float(keras.ops.convert_to_numpy(loss(kernel + sign * nudge))) for sign in (1, -1))
        differences.append((upper - lower) / (2 * step))
    ours = np.array([gradient[place] for place in places])
    return float(np.abs(ours - differences).max() / np.abs(differences).max())


def _gradient(loss: Callable[[Any], Any], at: np.ndarray) -> np.ndarray:
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return np.asarray(jax.grad(loss)(at))
    if backend == "torch":
        leaf = keras.ops.convert_to_tensor(at).clone().requires_grad_()
        loss(leaf).backward()
        return leaf.grad.cpu().numpy()
    import tensorflow as tf

    variable = tf.Variable(at)
    with tf.GradientTape() as tape:
        value = loss(variable)
    return tape.gradient(value, variable).numpy()
