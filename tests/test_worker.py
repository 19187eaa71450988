import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import av
import cv2
import numpy as np
import psutil
import pytest
from chunkwork import Batch, call, failing, mixed, outcomes, some, surroundings

from helpers.container import VideoError
from helpers.workers import ClipPool, WorkerError, cores

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def pool():
    with ClipPool(call, workers=2, ahead_clips=3) as pool:
        yield pool


def test_whatever_pickles_arrives_as_it_was(pool):
    batch, listed = outcomes(pool.run([("a", (mixed,))]))["a"]
    first, (*arrays, text, none) = mixed()
    assert isinstance(batch, Batch)
    np.testing.assert_array_equal(batch.crops, first.crops)
    np.testing.assert_array_equal(batch.t_s, first.t_s)
    assert batch.crops.dtype == np.float32
    assert batch.crops.flags.writeable
    for array, expected in zip(listed[:3], arrays, strict=True):
        np.testing.assert_array_equal(array, expected)
    assert listed[3:] == [text, none]


def test_expected_errors_keep_their_type_and_cost_one_clip(pool):
    types = {
        "video": VideoError,
        "av": av.FFmpegError,
        "cv2": cv2.error,
        "memory": WorkerError,  # a MemoryError is one of the parent
        "os": PermissionError,
        "lossy": WorkerError,
    }
    tasks = [(kind, (failing, kind)) for kind in types]
    found = outcomes(pool.run([*tasks, ("after", (some, 1))]))
    for kind, expected in types.items():
        before, error = found[kind]
        assert before == "before"
        assert isinstance(error, expected)
    assert str(found["video"][1]) == "such.mp4: there is no such file in no."
    assert str(found["lossy"][1]) == "LossyError: a fails at 2 s"
    assert str(found["memory"][1]) == "no memory: full"
    assert "in failing" in found["lossy"][1].__notes__[0]
    assert "in failing" in found["memory"][1].__notes__[0]
    assert "in failing" in found["video"][1].__notes__[0]
    assert len(found["after"]) == 1


def test_workers_load_no_framework_use_one_thread_and_ignore_ctrl_c(pool):
    [(loaded, cv2_threads, omp_threads, ignores, process)] = outcomes(pool.run([("a", (surroundings,))]))["a"]
    assert not loaded
    assert cv2_threads == 1
    assert omp_threads == "1"
    assert ignores
    assert process != os.getpid()


def test_what_the_work_prints_goes_to_standard_error(capfd):
    with ClipPool(call, workers=1) as pool:
        assert len(outcomes(pool.run([("a", (surroundings,))]))["a"]) == 1
    captured = capfd.readouterr()
    assert "nor this" in captured.err
    assert "must not end up" in captured.err
    assert not captured.out


def script(text):
    """A Python program that has the pool and its work imported."""
    head = f"import sys\nsys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
    return head + "import chunkwork\nfrom helpers.workers import ClipPool\n" + textwrap.dedent(text)


SUM = """
with ClipPool(chunkwork.call, workers=2) as pool:
    print(sum(len(list(chunks)) for _, chunks in pool.run((n, (chunkwork.some, n)) for n in range(5))))
def local(argument):
    yield argument
try:
    ClipPool(local, workers=1)
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("way", ["standard input", "-c", "script without a guard"])
def test_it_works_from_any_main_program(way, tmp_path):
    (tmp_path / "main.py").write_text(script(SUM))
    command = {"standard input": ["-"], "-c": ["-c", script(SUM)]}.get(way, [str(tmp_path / "main.py")])
    done = subprocess.run([sys.executable, *command], input=script(SUM), capture_output=True, text=True, timeout=30)
    assert done.stdout.startswith("10\nwork must be in a module that workers can import")
    assert not done.stderr


BUSY = """
with ClipPool(chunkwork.call, workers=2, ahead_bytes=1000) as pool:
    tasks = ("a", (chunkwork.surroundings,)), ("b", (chunkwork.hanging,)), ("c", (chunkwork.endless,))
    for key, chunks in pool.run(tasks):
        for chunk in chunks:
            print(key, flush=True)
"""


def is_alive(process):
    """Whether it runs; one that has ended and whose status nobody has asked for does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(how):
    with subprocess.Popen(
        [sys.executable, "-c", script(BUSY)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert [parent.stdout.readline() for _ in range(2)] == ["a\n", "b\n"]
        workers = psutil.Process(parent.pid).children()
        assert len(workers) == 2
        parent.send_signal(how)
        parent.wait(5)
        deadline_s = time.monotonic() + 5
        while any(is_alive(worker) for worker in workers):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)


def test_cores_counts_those_that_this_process_may_use():
    assert 1 <= cores() <= os.cpu_count()
    if hasattr(os, "sched_setaffinity"):
        one = min(os.sched_getaffinity(0))
        alone = f"import os; os.sched_setaffinity(0, {{{one}}}); from helpers.workers import cores; print(cores())"
        assert subprocess.check_output([sys.executable, "-c", alone], cwd=ROOT, text=True) == "1\n"
