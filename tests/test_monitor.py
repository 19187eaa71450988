import logging
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.device import GIB, gpu_handle
from helpers.files import read_json, write_json
from helpers.monitor import Monitor


class LostError(Exception):
    """What NVML raises."""


def nvml(*, used_gib=(), busy=(), opened=None):
    """NVML of a machine whose GPUs are used so from sample to sample, and are then lost."""
    used_gib, busy, opened = iter(used_gib), iter(busy), [] if opened is None else opened

    def following(values):
        for value in values:
            return value
        raise LostError("GPU is lost")

    return SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: opened.append(index) or "handle",
        nvmlDeviceGetHandleByUUID=lambda uuid: opened.append(uuid) or "handle",
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=following(used_gib) * GIB),
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=following(busy)),
    )


def without_gpu():
    def fail():
        raise LostError("NVML Shared Library Not Found")

    return SimpleNamespace(nvmlInit=fail)


def test_memory_of_this_process_is_seen_to_grow():
    with Monitor(every_s=3600, nvml=without_gpu()) as watched:
        before = watched.summary()
        block = np.ones(GIB // 64, np.float64)  # an eighth of a GiB
        watched._sample()
        grown = watched.summary()["memory_peak_gib"] - before["memory_peak_gib"]
        assert len(block)
    assert 0.1 < grown < 0.4
    assert watched.summary()["samples"] == 3


def test_memory_of_child_processes_is_counted_apart():
    hold = "b = b'1' * 2**27; print('ready', flush=True); input()"
    with Monitor(every_s=3600, nvml=without_gpu()) as watched:
        child = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdout.readline()
        watched._sample()
        child.communicate(b"\n")
    children = watched.samples()["children_gib"]
    assert 0.125 < children[1] < 0.5
    assert children[2] < children[1]


def test_the_thread_samples_by_itself_and_ends_with_the_work():
    with Monitor(every_s=0.01, nvml=without_gpu()) as watched:
        while len(watched.samples()) < 4:
            sum(range(1000))
    table = watched.samples()
    assert table["t_s"].is_monotonic_increasing
    assert table["load"].dropna().between(0, 1).all()
    assert not watched._thread.is_alive()


def test_the_gpu_is_sampled_with_its_peak_and_median(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    opened = []
    with Monitor(every_s=3600, gpu=1, nvml=nvml(used_gib=(2, 7, 3), busy=(11, 97, 53), opened=opened)) as watched:
        watched._sample()
    used = watched.summary()
    assert opened == [1]
    assert (used["gpu_memory_peak_gib"], used["gpu_memory_median_gib"]) == (7, 3)
    assert (used["gpu_load_peak"], used["gpu_load_median"]) == (0.97, 0.53)
    assert "GPU 53% busy, GPU memory 7.0 GiB" in watched.in_words()


@pytest.mark.parametrize(("visible", "handle"), [("5,3", 3), ("GPU-a, MIG-b", "MIG-b"), ("7", 1)])
def test_the_gpu_is_the_one_that_the_process_may_see(monkeypatch, visible, handle):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    opened = []
    gpu_handle(nvml(opened=opened), 1)
    assert opened == [handle]


def test_a_gpu_that_is_lost_is_said_once_and_the_rest_goes_on(caplog):
    caplog.set_level(logging.INFO)
    with Monitor(every_s=3600, nvml=nvml(used_gib=(2,), busy=(50,))) as watched:
        watched._sample()
        watched._sample()
    assert caplog.text.count("the GPU could not be read: LostError: GPU is lost") == 1
    assert watched.samples()["memory_gib"].notna().all()
    assert watched.samples()["gpu_load"].notna().tolist() == [True, False, False, False]


def test_a_machine_without_a_gpu_is_said_once_and_has_no_gpu_values(caplog, tmp_path):
    caplog.set_level(logging.INFO)
    with Monitor(every_s=3600, nvml=without_gpu()) as watched:
        pass
    assert caplog.text.count("no GPU is monitored: NVML Shared Library Not Found") == 1
    used = watched.summary()
    assert used["gpu_memory_peak_gib"] is None
    assert "GPU" not in watched.in_words()
    assert "memory " in watched.in_words()
    write_json(tmp_path / "log.json", used)
    assert read_json(tmp_path / "log.json")["gpu_load_median"] is None


def test_without_the_extra_no_gpu_is_monitored(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with Monitor(every_s=3600):
        pass
    assert "the gpu extra (nvidia-ml-py) is not installed" in caplog.text


def test_an_error_of_the_work_comes_out_as_it_is():
    with pytest.raises(KeyError, match="mine"), Monitor(every_s=3600, nvml=without_gpu()) as watched:
        raise KeyError("mine")
    assert not watched._thread.is_alive()


def test_a_monitor_that_has_not_begun_has_nothing_to_say():
    watched = Monitor()
    assert watched.in_words() == "nothing sampled"
    assert watched.summary()["memory_peak_gib"] is None


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(ValueError, match="every_s must be above 0, got 0"):
        Monitor(every_s=0)
