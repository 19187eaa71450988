"""Decoder processes: what arrives from them, in which order and how much memory; what becomes of those that fail."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from chunkwork import call, counting, dying, slow, some

from helpers.files import ROOT
from helpers.workers import ClipPool, PoolError, WorkerError


def outcomes(run, pause_s=0):
    """key -> chunks, the last one an error if there was one; the caller takes some time over each."""
    found = {}
    for key, chunks in run:
        found[key] = []
        try:
            for chunk in chunks:
                time.sleep(pause_s)
                found[key].append(chunk)
        except WorkerError as error:
            found[key].append(error)
    return found


def children():
    return psutil.Process().children(recursive=True)


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
    hows = ["fine", "SIGSEGV", "fine", "exit", "SIGKILL", "SIGSEGV", "fine", "fine"]
    reasons = {"SIGSEGV": "signal 11", "SIGKILL": "want of memory", "exit": "exit status 3", "fine": "[0 1 2]"}
    with ClipPool(call, workers=2) as pool:
        found = outcomes(pool.run((n, (dying, how, tmp_path / "begun")) for n, how in enumerate(hows)))
    for how, (first, second) in zip(hows, found.values(), strict=True):
        assert (first, isinstance(second, WorkerError)) == (how, how != "fine")
        assert reasons[how] in str(second)
    assert sorted((tmp_path / "begun").read_text().split()) == sorted(hows)


def test_silence_ends_a_worker_and_signs_of_life_or_a_slow_caller_do_not():
    start_s = time.monotonic()
    tasks = ("a", (slow, 1, 60)), ("b", (slow, 5, 0.4)), ("c", (counting, os.devnull, 3, 40_000))
    with ClipPool(call, workers=1, ahead_chunks=1, patience_s=1) as pool:
        found = outcomes(pool.run(tasks), pause_s=1.2)
    assert time.monotonic() - start_s < 13
    assert "gave nothing for 1 s" in str(found["a"])
    assert (found["b"], len(found["c"])) == (["done"], 3)


def test_no_more_chunks_wait_than_allowed(tmp_path):
    logs = [tmp_path / str(n) for n in range(4)]
    size = 300_000  # more than a pipe holds
    with ClipPool(call, workers=2, ahead_chunks=1) as pool:
        run = pool.run((log.name, (counting, log, 50, size)) for log in logs)
        _, chunks = next(run)
        next(chunks)
        made, before = [0], []
        while not sum(made) or made != before:
            time.sleep(0.4)
            made, before = [log.stat().st_size if log.exists() else 0 for log in logs], made
        assert 5 <= sum(made) <= 1 + 2 * 4  # taken, and per worker one waiting, one received, one sent and one made
        assert made[2:] == [0, 0]
        assert 1 + len(list(chunks)) == 50
        assert [len(list(chunks)) for _, chunks in run] == [50] * 3


def test_leaving_early_leaves_no_process_and_chunks_outlive_no_pool():
    before = set(children())
    with pytest.raises(KeyboardInterrupt), ClipPool(call, workers=2, ahead_chunks=1) as pool:
        for _, chunks in pool.run((n, (counting, os.devnull, 10**9, 100_000)) for n in range(6)):
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


MAIN = f"""
import signal, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from chunkwork import call, counting, slow, surroundings
from helpers.workers import ClipPool
signal.signal(signal.SIGINT, signal.default_int_handler)  # heeded in the background, too
with ClipPool(call, workers=2, ahead_chunks=1) as pool:
    tasks = ("a", (surroundings,)), ("b", (slow, 1, 60)), ("c", (counting, "/dev/null", 10**9, 100_000))
    for key, chunks in pool.run(tasks):
        print(key, *chunks, flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_of_a_main_program_without_a_guard_have_no_framework_and_one_thread_and_end_with_it(how):
    with subprocess.Popen(
        [sys.executable, "-c", MAIN], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout.readline() == "a (0, 1, '1', True)\n"  # what workers print is not among it
        workers = psutil.Process(parent.pid).children()
        assert len(workers) == 2
        parent.send_signal(how)
        parent.wait(5)
        assert not psutil.wait_procs(workers, timeout=5)[1]
