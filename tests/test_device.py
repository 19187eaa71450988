import keras
import pandas as pd
import pytest
import tensorflow as tf

from helpers import device, machine

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
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: halves if kind == "GPU" else ["CPU:0"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    monkeypatch.setattr(device, "_nvml_memory_gib", lambda index: 11.0 + index)
    row = device.list_devices().iloc[2]
    assert row[["kind", "physical", "logical", "name", "compute_capability", "memory_gib", "cores"]].tolist() == [
        "GPU", "GPU:1", "GPU:2, GPU:3", "Loom 3", "9.0", 12.0, 0,
    ]  # fmt: skip


def test_memory_growth_says_what_is_so(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert machine.enable_memory_growth() == "TensorFlow sees no GPU, so there is no GPU memory to grow."
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a", "b"])
    grown = []
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, on: grown.append((gpu, on)))
    assert machine.enable_memory_growth() == "TensorFlow takes the memory of 2 GPU(s) as it needs it."
    assert grown == [("a", True), ("b", True)]


def test_memory_growth_that_comes_too_late_is_a_sentence_and_no_error(monkeypatch):
    def late(gpu, on):
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", late)
    assert "restart the kernel and set it first" in machine.enable_memory_growth()


def test_a_required_gpu_that_is_missing_is_an_error_naming_what_was_found():
    with pytest.raises(RuntimeError, match=r"got CPU Abacus 9 \(7 cores\) on tensorflow 2.0. Install the gpu extra"):
        machine.require_gpu(PROCESSOR)
    machine.require_gpu(pd.concat([PROCESSOR, PROCESSOR.assign(kind="GPU")]))
