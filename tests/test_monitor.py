import logging
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.device import GIB, open_nvml
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


@pytest.fixture
def watch(monkeypatch):
    """Starts a monitor beside this NVML, and waits until it has sampled so often."""

    def watching(module=None, **how):
        monkeypatch.setitem(sys.modules, "pynvml", module)
        return Monitor(every_s=0.02, **how)

    return watching


def wait_for(watched, n_samples):
    n_samples += len(watched.samples())
    while len(watched.samples()) < n_samples:
        time.sleep(0.01)


def test_memory_of_this_process_is_seen_to_grow(watch):
    with watch() as watched:
        wait_for(watched, 1)
        before = watched.summary()
        block = np.ones(GIB // 64, np.float64)  # an eighth of a GiB
        wait_for(watched, 2)
        grown = watched.summary()["memory_peak_gib"] - before["memory_peak_gib"]
        assert len(block)
    assert 0.1 < grown < 0.4


def test_memory_of_child_processes_is_counted_apart(watch):
    hold = "b = b'1' * 2**27; print('ready', flush=True); input()"
    with watch() as watched:
        child = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdout.readline()
        wait_for(watched, 2)
        child.communicate(b"\n")
    children = watched.samples()["children_gib"]
    assert 0.125 < children.max() < 0.5
    assert children.iloc[-1] < children.max(), watched.samples()


def test_samples_are_taken_until_the_work_ends(watch):
    with watch() as watched:
        wait_for(watched, 3)
        n_samples = len(watched.samples())
    table = watched.samples()
    assert len(table) > n_samples
    assert table["t_s"].is_monotonic_increasing
    assert table["load"].isna().tolist() == [True] + [False] * (len(table) - 1)
    assert table["load"].dropna().between(0, 1).all()
    assert not watched._thread.is_alive()


def test_the_gpu_is_sampled_with_its_peak_and_median_until_it_is_lost(watch, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    opened = []
    with watch(nvml(used_gib=(2, 7, 3), busy=(11, 97, 53), opened=opened), gpu=1) as watched:
        wait_for(watched, 5)
    used = watched.summary()
    assert set(opened) == {1}
    assert (used["gpu_memory_peak_gib"], used["gpu_memory_median_gib"]) == (7, 3)
    assert (used["gpu_load_peak"], used["gpu_load_median"]) == (0.97, 0.53)
    assert (
        "gpu memory peak gib 7, gpu memory median gib 3, gpu load peak 0.97, gpu load median 0.53" in watched.in_words()
    )
    assert caplog.text.count("the GPU is not monitored: LostError: GPU is lost") == 1
    assert watched.samples()["memory_gib"].notna().all()
    assert watched.samples()["gpu_load"].notna().sum() == 3


@pytest.mark.parametrize(("visible", "handle"), [("5,3", 3), ("GPU-a, MIG-b", "MIG-b"), ("7", 1)])
def test_the_gpu_is_the_one_that_the_process_may_see(monkeypatch, visible, handle):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    opened = []
    monkeypatch.setitem(sys.modules, "pynvml", nvml(opened=opened))
    open_nvml(1)
    assert opened == [handle]


@pytest.mark.parametrize(("module", "reason"), [(without_gpu(), "NVML Shared Library Not Found"), (None, "pynvml")])
def test_a_machine_without_a_gpu_or_the_extra_is_said_once(watch, caplog, tmp_path, module, reason):
    caplog.set_level(logging.INFO)
    with watch(module) as watched:
        wait_for(watched, 3)
    assert caplog.text.count("the GPU is not monitored") == caplog.text.count(reason) == 1
    used = watched.summary()
    assert used["gpu_memory_peak_gib"] is None
    assert "gpu" not in watched.in_words()
    assert "memory " in watched.in_words()
    write_json(tmp_path / "log.json", used)
    assert read_json(tmp_path / "log.json")["gpu_load_median"] is None


def test_an_error_of_the_work_comes_out_as_it_is(watch):
    with pytest.raises(KeyError, match="mine"), watch() as watched:
        raise KeyError("mine")
    assert not watched._thread.is_alive()


def test_a_monitor_that_has_not_begun_has_nothing_to_say():
    watched = Monitor()
    assert watched.in_words() == "seconds 0, samples 0"
    assert watched.summary()["memory_peak_gib"] is None
