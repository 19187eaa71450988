"""What this machine computes with: its processor and GPUs, the choice of one, how fast it is, and how busy.

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

from helpers.forward import Forward, compile_forward

log = logging.getLogger(__name__)

GIB = 2**30
NEARLY = 0.95  # of the best rate: what a larger batch adds beyond is not worth its memory
LARGEST_POWER = 10  # batches of 1,024 at most

# Resident memory of this process and, shared pages counted in each, of its children together (the decoders); busy share
# of all cores, in [0, 1], whoever uses them; what is taken of the GPU's memory, by everyone; the share it was busy.
SAMPLE_COLUMNS = ("memory_gib", "children_gib", "load", "gpu_memory_gib", "gpu_load")


def list_devices() -> pd.DataFrame:
    """List the processor and the GPUs that the Keras backend sees, which starts it: set memory growth before.

    Returns:
        One row per device, or part of one that TensorFlow has split: `backend` (with version), `kind` (CPU or GPU),
        `physical`, `logical` (as `use_device` takes it), `name`, `compute_capability` and `memory_gib` (of a GPU by
        NVML; "" and NaN where it does not say), `cores` (physical cores of a CPU, 0 for a GPU).
    """
    backend, rows = keras.backend.backend(), []
    for kind, about in (("CPU", _about_cpu), ("GPU", _about_gpu)):
        names = _logical_names(kind)
        n_physical = len(names)
        if backend == "tensorflow":
            import tensorflow as tf

            n_physical = len(tf.config.list_physical_devices(kind))
        for number, name in enumerate(names):
            index = number * n_physical // len(names)
            rows.append((kind, f"{kind}:{index}", name, *about(index)))
    columns = ["kind", "physical", "logical", "name", "compute_capability", "memory_gib", "cores"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(0, "backend", f"{backend} {__import__(backend).__version__}")
    return table


def _logical_names(kind: str) -> list[str]:
    """The backend's names of its devices of a kind: GPU:0, ..."""
    if keras.backend.backend() == "torch":  # of which Keras lists none
        from torch import cuda

        return [f"{kind}:{index}" for index in range(1 if kind == "CPU" else cuda.device_count())]
    with suppress(RuntimeError):  # JAX without such a device
        return [name.upper() for name in keras.distribution.list_devices(kind.lower())]
    return []


def _about_cpu(index: int) -> tuple[str, str, float, int]:
    """Name, no compute capability, memory in GiB, cores."""
    info = Path("/proc/cpuinfo")  # Linux; platform.processor() is empty there
    name = re.search(r"^model name\s*:\s*(.+)$", info.read_text() if info.is_file() else "", re.MULTILINE)
    cores = psutil.cpu_count(logical=False) or os.cpu_count()
    known = name[1] if name else platform.processor() or platform.machine()
    return known, "", psutil.virtual_memory().total / GIB, cores


def _about_gpu(index: int) -> tuple[str, str, float, int]:
    """Name, compute capability, memory in GiB, no cores."""
    try:
        nvml, gpu = open_nvml(index)
        capability = ".".join(map(str, nvml.nvmlDeviceGetCudaComputeCapability(gpu)))
        return nvml.nvmlDeviceGetName(gpu), capability, nvml.nvmlDeviceGetMemoryInfo(gpu).total / GIB, 0
    except Exception:  # no such library here; a card that NVML does not know by this number: not needed
        return "GPU", "", math.nan, 0


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


def chosen_device(name: str) -> pd.Series:
    """Row of `list_devices` for a name of `use_device`; for none the first GPU, if any."""
    table = list_devices().set_index("logical", drop=False)
    first_gpu = min((table["kind"] == "CPU").sum(), len(table) - 1)  # the processor without one
    return table.loc[_full_name(name)] if name else table.iloc[first_gpu]


def _full_name(name: str) -> str:
    """A device as `list_devices` spells it: CPU:0 for "cpu"; "" stays."""
    return name.upper() if ":" in name or not name else f"{name.upper()}:0"


def require_gpu(found: pd.DataFrame) -> None:
    """Raise RuntimeError that names what was found, a table of `list_devices`, unless there is a GPU."""
    if "GPU" not in set(found["kind"]):
        first = found.iloc[0]
        raise RuntimeError(
            f"a GPU must be there because require_gpu is on, got {first['name']} ({first['cores']} cores) on "
            f"{first['backend']}. Install the gpu extra and a driver, or turn require_gpu off to run on the processor."
        )


def enable_memory_growth() -> str:
    """Let TensorFlow take GPU memory as it needs it, not all at once; must come before the GPU is first used.

    Returns one sentence that says what is now so, also when it is too late or there is nothing to set.
    """
    gpus = []
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
    try:
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError:  # "Physical devices cannot be modified after being initialized"
        return "TensorFlow already uses the GPU, so memory growth stays as it was: restart the kernel and set it first."
    if not gpus:
        return f"{keras.backend.backend()}: no GPU whose memory TensorFlow could grow."
    return f"TensorFlow takes the memory of {len(gpus)} GPU(s) as it needs it."


@contextmanager
def use_device(name: str) -> Iterator[str]:
    """Build and run networks on one device while the context lasts, in this thread; yields its full name, or empty.

    Both must happen inside: a network stays where its weights were made, and a compiled pass where it first ran.
    `name` is "CPU:0", "GPU:1", ..., without a number the first; empty leaves the choice to the backend, which takes the
    first GPU where there is one. ValueError names the devices that are there.
    """
    full = _full_name(name)
    if full:
        there = list_devices()["logical"].tolist()
        if full not in there:
            raise ValueError(f"device must be one of {', '.join(there)}, got {name!r}. Choose one of them.")
        log.info("computing on %s (%s)", full, keras.backend.backend())
    with device_scope(full):
        yield full


def device_scope(name: str) -> AbstractContextManager:
    """The context of a name that `use_device` has given, for use in further threads; empty: none."""
    return keras.device(name.lower()) if name else nullcontext()


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median over `repeats` runs after one untimed; one value is read back, since a device computes behind our back."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        y = run()
        float(keras.ops.cast(y[(0,) * len(y.shape)], "float32"))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def benchmark_operation(kind: str, *, size: int = 0, repeats: int = 5, dtype: str = "float32") -> dict[str, Any]:
    """Time what the networks are made of, in float32, bfloat16 or float16.

    `kind` is "matmul" of two (size, size) matrices, 1024 by default; "conv2d" or "conv3d", 3-wide kernels over
    (4, [8,] size, size, 64), 56 by default, as ResNet-50 and I3D hold them.

    Returns name, dtype, repeats (after one to warm up), their median `seconds`, `gflop` of one run, `gflop_per_s`.
    """
    side = size or (1024 if kind == "matmul" else 56)
    shape, kernel = {
        "matmul": ((side, side), (side, side)),
        "conv2d": ((4, side, side, 64), (3, 3, 64, 64)),
        "conv3d": ((4, 8, side, side, 64), (3, 3, 3, 64, 64)),
    }[kind]
    random = np.random.default_rng(0)
    x, w = (keras.ops.cast(random.standard_normal(s, np.float32), dtype) for s in (shape, kernel))
    run = keras.ops.matmul if kind == "matmul" else lambda x, w: keras.ops.conv(x, w, padding="same")
    seconds, gflop = median_seconds(lambda: run(x, w), repeats), 2 * math.prod(shape[:-1]) * math.prod(kernel) / 1e9
    row = {"name": f"{kind} {' x '.join(map(str, shape))}", "dtype": dtype, "seconds": seconds, "repeats": repeats}
    return row | {"gflop": gflop, "gflop_per_s": gflop / seconds}


def measured_rates(
    forward: Forward,
    sample_shape: tuple[int, ...],
    batches: Iterable[int],
    *,
    repeats: int = 1,
    dtype: type = np.float32,
) -> Iterator[tuple[int, float]]:
    """Time a compiled network on batches of noise (batch, *sample_shape), up to the first that memory does not hold.

    Yields samples at once, and samples per second by the median of `repeats` runs after one that compiles; NaN where
    memory did not suffice.
    """
    for batch in batches:
        x = np.random.default_rng(0).integers(0, 256, (batch, *sample_shape), np.uint8).astype(dtype)
        try:
            yield batch, batch / median_seconds(lambda x=x: forward(x), repeats)
        except MemoryError as error:
            log.info("batch %d: %s", batch, error)
            yield batch, math.nan
            return


def measured_batch(forward: Forward, sample_shape: tuple[int, ...], *, network: str, dtype: type = np.float32) -> int:
    """Choose a batch size by measuring, and log why: the smallest that comes within 5 % of the best rate.

    It is doubled until memory runs out or a doubling brings less than 5 %. Where memory has run out, half of the
    largest that fits is taken, as two batches are in the network at a time. MemoryError where not one sample fits.
    """
    chosen, best, batches = 0, 0.0, (2**power for power in range(LARGEST_POWER + 1))
    for batch, per_s in measured_rates(forward, sample_shape, batches, dtype=dtype):
        if not per_s > best / NEARLY:  # or NaN
            chosen = max(chosen // 2, min(chosen, 1)) if math.isnan(per_s) else chosen
            break
        chosen, best = batch, per_s
    if not chosen:
        raise MemoryError(f"{network} does not fit into memory with one sample of {sample_shape}. Make it smaller.")
    log.info("%s: batch %d; the fastest makes %.1f samples/s", network, chosen, best)
    return chosen


def network_rates(
    batches: Iterable[int],
    clips: Iterable[int] | None = None,
    *,
    precision: str = "float32",
    repeats: int = 2,
    endpoint: str = "Mixed_3c",
    px: int = 112,
) -> pd.DataFrame:
    """Time ResNet-50 over growing batches, and the motion network on so many `clips` (default: alike) of 16 flows.

    Returns columns network, unit ("images/s", "clips/s"), batch, per_s (NaN: out of memory).
    """
    from helpers.backbones import build_backbone
    from helpers.i3d import build_motion_network

    static, (motion, _) = build_backbone("resnet50", "random"), build_motion_network("random", endpoint)
    prepared, moving = compile_forward(static.model, precision, static.prepare), compile_forward(motion, precision)
    name, image = f"I3D to {endpoint or 'its pooled features'}, 16 flows", (static.input_px, static.input_px, 3)
    rows = []
    for network, unit, forward, shape, sizes, dtype in (
        ("resnet50", "images/s", prepared, image, batches, np.uint8),
        (name, "clips/s", moving, (16, px, px, 2), clips or batches, np.float32),
    ):
        rates = measured_rates(forward, shape, sorted(set(sizes)), repeats=repeats, dtype=dtype)
        rows += [(network, unit, *rate) for rate in rates]
    return pd.DataFrame(rows, columns=["network", "unit", "batch", "per_s"])


class Monitor:
    """Sample what the work inside `with` takes: at its start, every `every_s` seconds, and at its end.

    A thread takes the samples, in some milliseconds each; what it cannot read it leaves out, and it never ends a run.
    `device` is a name that `use_device` has given; the GPU is the first where that names none.
    """

    def __init__(self, device: str = "", *, every_s: float = 5.0) -> None:
        self._every_s, self._gpu = every_s, int(device.partition("GPU:")[2] or 0)
        self._rows: list[dict[str, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_sampling, name="monitor", daemon=True)

    def __enter__(self) -> "Monitor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def summary(self) -> dict[str, float | int | None]:
        """Return seconds, samples, and peak and median of `SAMPLE_COLUMNS`, such as memory_peak_gib; None unknown."""
        table = pd.DataFrame(list(self._rows), columns=["t_s", *SAMPLE_COLUMNS], dtype="float64")
        values = {"seconds": table["t_s"].max(), "samples": len(table)}
        for name in SAMPLE_COLUMNS:
            stem, unit, _ = name.partition("_gib")
            values |= {f"{stem}_peak{unit}": table[name].max(), f"{stem}_median{unit}": table[name].median()}
        return {name: None if math.isnan(value) else round(float(value), 3) for name, value in values.items()}

    def in_words(self) -> str:
        """Say the summary in one line, for a log."""
        known = {name.replace("_", " "): value for name, value in self.summary().items() if value is not None}
        return ", ".join(f"{name} {value:g}" for name, value in known.items())

    def _keep_sampling(self) -> None:
        started_s, gpu_is_read, ended = time.monotonic(), True, False
        while not ended:
            ended = self._ended.is_set()
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
            self._ended.wait(self._every_s)


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
