import logging
import math
import subprocess
import sys

import pytest
import tensorflow as tf

from helpers import device as placement
from helpers.files import ROOT

# Two logical processors must be asked for before TensorFlow starts: in a process of its own.
SECOND_PROCESSOR = """
import keras, numpy as np, tensorflow as tf
from helpers.forward import compile_forward
from helpers.device import device_names, use_device

two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
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
print(*device_names())
"""


def test_a_network_is_built_and_run_on_the_chosen_device():
    done = subprocess.run([sys.executable, "-c", SECOND_PROCESSOR], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["CPU:1 CPU:1 CPU:1", "CPU:0 CPU:0 CPU:0", "CPU:0 CPU:1"]


def test_the_choice_is_logged(caplog):
    caplog.set_level(logging.INFO)
    with placement.use_device("cpu") as name:
        assert name == "CPU:0"
    assert "computing on CPU:0 (tensorflow)" in caplog.text


def test_no_choice_leaves_it_to_the_backend(caplog):
    caplog.set_level(logging.INFO)
    with placement.use_device("") as name:
        assert name == ""
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["GPU:7", "CPU:1", "TPU", "CPU:0:1", "first"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name, monkeypatch):
    monkeypatch.setattr(placement, "device_names", lambda: ["CPU:0", "GPU:0"])
    with (
        pytest.raises(ValueError, match=f"device must be one of CPU:0, GPU:0, got '{name}'"),
        placement.use_device(name),
    ):
        pass


def test_the_largest_peak_of_the_gpus_belongs_to_the_work(monkeypatch):
    done, memory = [], tf.config.experimental
    gpus = [tf.config.LogicalDevice(f"/device:GPU:{index}", "GPU") for index in range(2)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    monkeypatch.setattr(memory, "reset_memory_stats", lambda name: done.append(f"forgotten {name[-5:]}"))
    monkeypatch.setattr(memory, "get_memory_info", lambda name: {"peak": (2 + int(name[-1])) * 2**30})
    assert placement.measure_peak_gib(lambda: done.append("worked") or 7) == (7, 3.0)
    assert done == ["forgotten GPU:0", "forgotten GPU:1", "worked"]


def test_without_a_gpu_no_peak_is_known():
    result, gib = placement.measure_peak_gib(lambda: 7)
    assert result == 7
    assert math.isnan(gib)
