"""Which device the Keras backend computes on, and how much of its memory a piece of work takes.

In: a device's name, "CPU:0" or "GPU:1". Out: a context in which that device is used, and GiB. Imports the backend that
runs only.
"""

import logging
import math
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import keras

from helpers.engine.monitor import GIB

log = logging.getLogger(__name__)

Result = TypeVar("Result")


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


def measure_peak_gib(work: Callable[[], Result]) -> tuple[Result, float]:
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
