"""Devices, the choice of one, timings, and what a stage takes while it runs."""

import logging
import math
import subprocess
import sys
import time
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from helpers import device
from helpers.device import GIB, Monitor
from helpers.files import ROOT

GPUS = [tf.config.PhysicalDevice(f"/physical_device:GPU:{index}", "GPU") for index in range(2)]


def fail(error):
    raise error


def nvml(*, used_gib=(), busy=(), opened=None):
    """NVML of a machine whose GPUs of 11 GiB are used so from sample to sample, and are then lost."""
    used_gib, busy, opened = iter(used_gib), iter(busy), [] if opened is None else opened

    def memory(handle):
        used = next(used_gib, None) or fail(LookupError("GPU is lost"))
        return SimpleNamespace(used=used * GIB, total=11 * GIB)

    return SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: opened.append(index) or "handle",
        nvmlDeviceGetHandleByUUID=lambda uuid: opened.append(uuid) or "handle",
        nvmlDeviceGetName=lambda handle: "Loom 3",
        nvmlDeviceGetCudaComputeCapability=lambda handle: (9, 0),
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=next(busy)),
    )


def test_a_gpu_is_listed_with_its_details_if_the_process_may_see_it(monkeypatch):
    halves = [tf.config.LogicalDevice(f"/device:GPU:{index}", "GPU") for index in range(4)]
    cpu = [tf.config.LogicalDevice("/device:CPU:0", "CPU")]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: GPUS if kind == "GPU" else cpu)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda device_type: halves if device_type == "GPU" else cpu)
    monkeypatch.setitem(sys.modules, "pynvml", nvml(used_gib=(1,) * 8, opened=(opened := [])))
    assert device.list_devices()["logical"].tolist() == ["CPU:0", "GPU:0", "GPU:1", "GPU:2", "GPU:3"]
    row = device.chosen_device("GPU:3")
    of_gpu = {"kind": "GPU", "physical": "GPU:1", "logical": "GPU:3", "name": "Loom 3", "compute_capability": "9.0"}
    assert row.drop("backend").to_dict() == of_gpu | {"memory_gib": 11.0, "cores": 0}
    for visible, handle in (("5,3", 3), ("GPU-a, MIG-b", "MIG-b"), ("7", 1)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        device.open_nvml(1)
        assert opened.pop() == handle
    monkeypatch.setitem(sys.modules, "pynvml", None)
    row = device.chosen_device("")
    assert (row["logical"], row["name"], math.isnan(row["memory_gib"])) == ("GPU:0", "GPU", True)


def test_memory_growth_says_what_is_so_also_when_it_comes_too_late(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a", "b"])
    growth = Mock(side_effect=[None, None, RuntimeError("initialized")])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", growth)
    assert "2 GPU" in device.enable_memory_growth()
    assert [of.args for of in growth.call_args_list] == [("a", True), ("b", True)]
    assert "restart" in device.enable_memory_growth()


def holds(n):
    """A network for which the memory suffices up to n samples."""
    return lambda x: x.mean(axis=1) if len(x) <= n else fail(MemoryError("ran out of memory"))


ABACUS = pd.DataFrame({"backend": ["tensorflow 2.0"], "kind": ["CPU"], "name": ["Abacus 9"], "cores": [7]})


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda: device.require_gpu(ABACUS), RuntimeError, "Abacus 9"),
        (lambda: device.measured_batch(holds(0), (2,), network="abacus"), MemoryError, "abacus"),
        *[(device.use_device(name).__enter__, ValueError, "CPU:0") for name in ("GPU:7", "CPU:0:1", "first")],
    ],
)
def test_what_is_not_there_is_an_error_naming_what_is(call, error, named):
    with pytest.raises(error, match=named):
        call()
    device.require_gpu(pd.concat([ABACUS, ABACUS.assign(kind="GPU")]))


# Two logical processors must be asked for before TensorFlow starts: in a process of its own.
SECOND_PROCESSOR = """
import logging, sys
import keras, numpy as np, tensorflow as tf
from helpers.forward import compile_forward
from helpers.device import list_devices, use_device

two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
ran = []

def traced(session, fetch, feed_list):
    def run(x):
        seen = tf.compat.v1.RunMetadata()
        options = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE)
        y = session.run(fetch, {feed_list[0]: x}, options=options, run_metadata=seen)
        used = seen.step_stats.dev_stats
        ran.append([stats.device[-5:] for stats in used if any("conv" in node.node_name for node in stats.node_stats)])
        return y
    return run

tf.compat.v1.Session.make_callable = traced
x, outputs = np.ones((2, 9, 9, 3), np.float32), []
for name in ("CPU:1", "cpu"):
    with use_device(name) as full:
        keras.utils.set_random_seed(0)
        inputs = keras.Input((9, 9, 3))
        model = keras.Model(inputs, keras.layers.Conv2D(5, 3)(inputs))
        outputs.append(compile_forward(model)(x))
        print(full, model.weights[0].value.device[-5:], *ran[-1])
assert np.abs(outputs[0] - outputs[1]).max() < 1e-6
print(*list_devices()["logical"])
"""


def test_a_network_is_built_and_run_on_the_chosen_device():
    done = subprocess.run([sys.executable, "-c", SECOND_PROCESSOR], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said = [f"computing on {name} (tensorflow)\n{name} {name} {name}\n" for name in ("CPU:1", "CPU:0")]
    assert done.stdout == "".join([*said, "CPU:0 CPU:1\n"])


@pytest.mark.parametrize(
    ("kind", "size", "name", "flop"),
    [
        ("matmul", 67, "matmul 67 x 67", 2 * 67**3),
        ("conv2d", 13, "conv2d 4 x 13 x 13 x 64", 2 * 4 * 13**2 * 64**2 * 3**2),
        ("conv3d", 13, "conv3d 4 x 8 x 13 x 13 x 64", 2 * 4 * 8 * 13**2 * 64**2 * 3**3),
    ],
)
def test_an_operation_is_timed_with_its_work(kind, size, name, flop):
    timing = device.benchmark_operation(kind, size=size, repeats=2, dtype="bfloat16")
    assert (timing["name"], timing["dtype"], timing["repeats"]) == (name, "bfloat16", 2)
    assert timing["gflop"] == pytest.approx(flop / 1e9)
    assert timing["gflop_per_s"] == pytest.approx(flop / 1e9 / timing["seconds"])


def test_the_rate_is_samples_over_the_median_run_without_the_first_up_to_want_of_memory(monkeypatch):
    clock = iter([0, 99, 0, 1, 1, 5, 5, 13, 13])
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(clock))
    rates = list(device.measured_rates(holds(9), (3,), [6, 12, 24], repeats=3))
    assert rates == [(6, 6 / 4), (12, pytest.approx(math.nan, nan_ok=True))]


@pytest.mark.parametrize(
    ("per_s", "batch"),
    [
        ([10, 18, 20, 20.5], 4),  # 20 is within 5 % of 20.5, 18 is not
        ([10, 20, 30, math.nan], 2),  # 8 did not fit, and two batches of 4 may not
        ([10, math.nan], 1),
    ],
)
def test_the_measured_batch_is_the_smallest_near_the_best_that_fits(monkeypatch, per_s, batch):
    rates = zip([1, 2, 4, 8], per_s, strict=False)
    monkeypatch.setattr(device, "measured_rates", lambda *_, **__: rates)
    assert device.measured_batch(len, (2,), network="abacus") == batch


def wait_for(watched, n_samples):
    n_samples += watched.summary()["samples"]
    while watched.summary()["samples"] < n_samples:
        time.sleep(0.01)


def test_memory_grows_with_a_child_and_the_gpu_is_sampled_with_peak_and_median_until_it_is_lost(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", nvml(used_gib=(2, 7, 3), busy=(11, 97, 53), opened=(opened := [])))
    hold = "b = b'1' * 2**27; print('ready', flush=True); input()"
    with pytest.raises(KeyError, match="mine"), Monitor("GPU:1", every_s=0.02) as watched:
        wait_for(watched, 5)
        before = watched.summary()
        block = np.ones(GIB // 64, np.float64)  # an eighth of a GiB
        child = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdout.readline()
        wait_for(watched, 2)
        child.communicate(b"\n")
        assert len(block)
        raise KeyError("mine")
    used = watched.summary()
    assert 0.1 < used["memory_peak_gib"] - before["memory_peak_gib"] < 0.4
    spawning = used["memory_peak_gib"]  # a child counts as its parent until it is another program
    assert 0.125 < used["children_peak_gib"] < 0.5 + spawning
    assert 0 <= used["load_median"] <= 1
    assert (used["gpu_memory_peak_gib"], used["gpu_memory_median_gib"]) == (7, 3)
    assert (used["gpu_load_peak"], used["gpu_load_median"]) == (0.97, 0.53)
    assert (set(opened), caplog.text.count("GPU is lost")) == ({1}, 1)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # without the extra
    with Monitor(every_s=0.02) as watched:
        wait_for(watched, 3)
    assert caplog.text.count("the GPU is not monitored") == 2
    assert ("gpu" in watched.in_words(), watched.summary()["gpu_load_median"]) == (False, None)
