"""Decoder processes: what arrives from them, in which order and how much memory; what becomes of those that fail."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from chunkwork import call, children, counting, dying, endless, outcomes, slow, some, surroundings

from helpers.files import ROOT
from helpers.workers import ClipPool, PoolError, WorkerError


def settled(path):
    """Size of a file once it has not grown for a while."""
    size = -1
    while size < (size := path.stat().st_size if path.exists() else 0):
        time.sleep(0.4)
    return size


def test_clips_and_chunks_come_in_the_order_of_the_tasks_as_they_are():
    with ClipPool(call, workers=2) as pool:
        found = outcomes(pool.run((f"clip {n}", (some, 7 * (n % 3), n)) for n in range(23)))
        # what nobody takes is dropped
        assert [next(chunks)[0] for _, chunks in pool.run((n, (some, 50, n)) for n in range(6))] == list(range(6))
        assert len(outcomes(pool.run([("a", (some, 2))]))["a"]) == 2
    assert list(found) == [f"clip {n}" for n in range(23)]
    for n, chunks in enumerate(found.values()):
        assert [number for number, _ in chunks] == list(range(n, n + 7 * (n % 3)))
        assert all(array.shape == (number % 5, 3) and (array == number).all() for number, array in chunks)


def test_a_process_that_dies_costs_its_clip_and_no_other_is_repeated(tmp_path):
    log = tmp_path / "begun"
    hows = ["fine", "SIGSEGV", "fine", "exit", "SIGKILL", "SIGSEGV", "fine", "fine"]
    reasons = {"SIGSEGV": "signal 11", "SIGKILL": "want of memory", "exit": "exit status 3"}
    with ClipPool(call, workers=2) as pool:
        found = outcomes(pool.run((n, (dying, how, log)) for n, how in enumerate(hows)))
    for how, (first, second) in zip(hows, found.values(), strict=True):
        assert first == how
        if how == "fine":
            assert second.tolist() == [0, 1, 2]
        else:
            assert isinstance(second, WorkerError)
            assert reasons[how] in str(second)
    assert sorted(log.read_text().split()) == sorted(hows)


def test_silence_ends_a_worker_and_signs_of_life_or_a_slow_caller_do_not():
    start_s = time.monotonic()
    tasks = ("a", (slow, 1, 60)), ("b", (slow, 5, 0.4)), ("c", (counting, os.devnull, 3, 40_000))
    with ClipPool(call, workers=1, patience_s=1) as pool:
        found = {}
        for key, chunks in pool.run(tasks):
            try:
                found[key] = [time.sleep(1.2) if key == "c" else chunk for chunk in chunks]
            except WorkerError as error:
                found[key] = error
    assert time.monotonic() - start_s < 12
    assert "gave nothing for 1 s" in str(found["a"])
    assert (found["b"], len(found["c"])) == (["done"], 3)


def test_no_more_chunks_wait_than_allowed(tmp_path):
    logs = [tmp_path / str(n) for n in range(4)]
    size = 300_000  # more than a pipe holds
    with ClipPool(call, workers=2, ahead_chunks=1) as pool:
        run = pool.run((log.name, (counting, log, 50, size)) for log in logs)
        _, chunks = next(run)
        next(chunks)
        made = [settled(log) for log in logs]
        assert 5 <= sum(made) <= 1 + 2 * 4  # taken, and per worker one waiting, one received, one sent and one made
        assert made[2:] == [0, 0]
        assert 1 + len(list(chunks)) == 50
        assert [len(list(chunks)) for _, chunks in run] == [50] * 3


def test_leaving_early_leaves_no_process_and_chunks_outlive_no_pool():
    before = set(children())
    with pytest.raises(KeyboardInterrupt), ClipPool(call, workers=2, ahead_chunks=1) as pool:
        for _, chunks in pool.run((n, (endless,)) for n in range(6)):
            next(chunks)
            assert len(set(children()) - before) == 2
            start_s = time.monotonic()
            raise KeyboardInterrupt
    assert set(children()) == before
    assert time.monotonic() - start_s < 1
    with pytest.raises(PoolError, match="open"):
        next(chunks)


def test_memory_stays_flat_over_a_thousand_clips():
    def rss():
        return psutil.Process().memory_info().rss + sum(child.memory_info().rss for child in children())

    with ClipPool(call, workers=2) as pool:
        for n, chunks in pool.run((n, (counting, os.devnull, 2, 200_000)) for n in range(1000)):
            assert sum(chunk.nbytes for chunk in chunks) == 400_000
            if n == 400:
                early = rss()
        assert rss() - early < 8 * 2**20  # 240 MB went through since


def test_workers_load_no_framework_use_one_thread_ignore_ctrl_c_and_print_to_standard_error(capfd):
    with ClipPool(call, workers=1) as pool:
        [(loaded, cv2_threads, omp_threads, ignores, process)] = outcomes(pool.run([("a", (surroundings,))]))["a"]
    assert not loaded
    assert (cv2_threads, omp_threads, ignores) == (1, "1", True)
    assert process != os.getpid()
    captured = capfd.readouterr()
    assert "must not end up" in captured.err
    assert not captured.out


HEAD = f"""import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import chunkwork
from helpers.workers import ClipPool
"""
SUM = (
    HEAD
    + """
with ClipPool(chunkwork.call, workers=2) as pool:
    print(sum(len(list(chunks)) for _, chunks in pool.run((n, (chunkwork.some, n)) for n in range(5))))
"""
)


def test_it_works_from_a_main_program_without_a_guard():
    done = subprocess.run([sys.executable, "-"], input=SUM, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("10\n", "")


BUSY = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # heeded in the background, too
with ClipPool(chunkwork.call, workers=2, ahead_chunks=1) as pool:
    tasks = ("a", (chunkwork.surroundings,)), ("b", (chunkwork.slow, 1, 60)), ("c", (chunkwork.endless,))
    for key, chunks in pool.run(tasks):
        print(key, flush=True)
        list(chunks)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(how):
    with subprocess.Popen(
        [sys.executable, "-c", HEAD + BUSY], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert [parent.stdout.readline() for _ in range(2)] == ["a\n", "b\n"]
        workers = psutil.Process(parent.pid).children()
        assert len(workers) == 2
        parent.send_signal(how)
        parent.wait(5)
        assert not psutil.wait_procs(workers, timeout=5)[1]
