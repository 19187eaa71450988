"""What this machine computes with and how fast: devices, choice and memory of one, benchmarks, rates by batch size.

In: names of devices ("CPU:0", "GPU:1"), sizes, dtypes, compiled networks. Out: a table of devices, sentences for a
notebook, timings in seconds and GFLOP/s, rates, and the batch size to use. Sees the devices of the Keras backend that
runs (TensorFlow, JAX or PyTorch), and imports that backend only.
"""

import logging
import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pandas as pd
import psutil

from helpers.backbones import build_backbone
from helpers.forward import Forward, compile_forward, gradient_of
from helpers.i3d import build_motion_network

log = logging.getLogger(__name__)

GIB = 2**30


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
    _, gradient = gradient_of(loss, kernel)
    differences = []
    for place in places:
        nudge = np.zeros_like(kernel)
        nudge[place] = step
        upper, lower = (float(keras.ops.convert_to_numpy(loss(kernel + sign * nudge))) for sign in (1, -1))
        differences.append((upper - lower) / (2 * step))
    ours = np.array([gradient[place] for place in places])
    return float(np.abs(ours - differences).max() / np.abs(differences).max())


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


THROUGHPUT_COLUMNS = ("network", "unit", "batch", "per_s", "memory_gib", "note")
NEARLY = 0.95  # of the best rate: what a larger batch adds beyond is not worth its memory
LARGEST_POWER = 10  # batches of 1,024 at most
SHARE = 0.4  # of a device's memory that a batch may take: two are in the network, and other programs need some


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
                lambda x=x: len(x) / _median_seconds(lambda: forward(x), repeats)
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


def static_throughput(
    batches: Iterable[int], *, backbone: str = "resnet50", precision: str = "float32", repeats: int = 3
) -> pd.DataFrame:
    """Time the static network of 03 over batch sizes; see `throughput`."""
    built = build_backbone(backbone, "random")
    forward = compile_forward(built.model, precision, built.prepare)
    shape = (built.input_px, built.input_px, 3)
    return throughput(forward, shape, batches, network=backbone, unit="images/s", repeats=repeats, dtype=np.uint8)


def motion_throughput(
    batches: Iterable[int],
    *,
    endpoint: str = "Mixed_3c",
    px: int = 112,
    flows: int = 16,
    precision: str = "float32",
    repeats: int = 3,
) -> pd.DataFrame:
    """Time the motion network of 04 over batches of clips of `flows` flows, `px` wide; see `throughput`."""
    model, _ = build_motion_network("random", endpoint)
    name = f"I3D to {endpoint or 'its pooled features'}, {flows} flows"
    shape = (flows, px, px, 2)
    forward = compile_forward(model, precision)
    return throughput(forward, shape, batches, network=name, unit="clips/s", repeats=repeats)


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
