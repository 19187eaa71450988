import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from helpers import device

PROCESSOR = pd.DataFrame({"backend": ["tensorflow 2.0"], "kind": ["CPU"], "name": ["Abacus 9"], "cores": [7]})


def test_the_processor_is_listed_with_name_memory_and_cores():
    table = device.list_devices()
    cpu = table.iloc[0]
    assert cpu["backend"].startswith(keras.backend.backend())
    assert (cpu["kind"], cpu["physical"], cpu["compute_capability"]) == ("CPU", "CPU:0", "")
    assert cpu["name"]
    assert cpu["memory_gib"] > 0.5
    assert cpu["cores"] >= 1


def test_a_gpu_is_listed_with_its_details(monkeypatch):
    gpus = [tf.config.PhysicalDevice(f"/physical_device:GPU:{index}", "GPU") for index in range(2)]
    halves = [tf.config.LogicalDevice(f"/device:GPU:{index}", "GPU") for index in range(4)]
    details = {"device_name": "Loom 3", "compute_capability": (9, 0)}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: halves)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    monkeypatch.setattr(device, "_nvml_memory_gib", lambda index: 11.0 + index)
    row = device.list_devices().iloc[2]
    assert row[["kind", "physical", "logical", "name", "compute_capability", "memory_gib", "cores"]].tolist() == [
        "GPU", "GPU:1", "GPU:2, GPU:3", "Loom 3", "9.0", 12.0, 0,
    ]  # fmt: skip


def test_memory_growth_says_what_is_so(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert device.enable_memory_growth() == "TensorFlow sees no GPU, so there is no GPU memory to grow."
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a", "b"])
    grown = []
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, on: grown.append((gpu, on)))
    assert device.enable_memory_growth() == "TensorFlow takes the memory of 2 GPU(s) as it needs it."
    assert grown == [("a", True), ("b", True)]


def test_memory_growth_that_comes_too_late_is_a_sentence_and_no_error(monkeypatch):
    def late(gpu, on):
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", late)
    assert "restart the kernel and set it first" in device.enable_memory_growth()


def test_a_required_gpu_that_is_missing_is_an_error_naming_what_was_found():
    with pytest.raises(RuntimeError, match=r"got CPU Abacus 9 \(7 cores\) on tensorflow 2.0. Install the gpu extra"):
        device.require_gpu(PROCESSOR)
    device.require_gpu(pd.concat([PROCESSOR, PROCESSOR.assign(kind="GPU")]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_matrix_product_is_timed_with_its_work(dtype):
    timing = device.benchmark_matmul(67, repeats=3, dtype=dtype)
    assert (timing.name, timing.dtype, timing.repeats) == ("matmul 67 x 67", dtype, 3)
    assert timing.gflop == pytest.approx(2 * 67**3 / 1e9)
    assert timing.gflop_per_s == pytest.approx(timing.gflop / timing.seconds)


@pytest.mark.parametrize(("dims", "space"), [(2, "13 x 13"), (3, "8 x 13 x 13")])
def test_convolution_is_timed_with_its_work(dims, space):
    timing = device.benchmark_convolution(dims, size=13, channels=5, batch=2, repeats=3)
    assert timing.name == f"conv{dims}d 2 x {space} x 5"
    assert timing.gflop == pytest.approx(2 * 2 * 13 * 13 * (8 if dims == 3 else 1) * 5 * 5 * 3**dims / 1e9)
    assert timing.seconds > 0


def test_timing_is_the_median_without_the_first_run(monkeypatch):
    clock = iter([0, 100, 100, 101, 101, 104, 104, 111])
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(clock))
    assert device._median_seconds(lambda: np.zeros((2, 3)), repeats=3) == 3


def test_unusable_benchmark_sizes_are_refused():
    with pytest.raises(ValueError, match="dims must be 2 .* got 1"):
        device.benchmark_convolution(1)
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        device.benchmark_matmul(3, repeats=0)


def test_gradient_agrees_with_finite_differences():
    assert device.check_gradient() < 1e-3


def test_a_wrong_gradient_is_seen(monkeypatch):
    right = device.gradient_of
    monkeypatch.setattr(device, "gradient_of", lambda loss, at: (0.0, 1.05 * right(loss, at)[1]))
    assert device.check_gradient() > 0.04
