"""Decoder processes: what arrives from them, in which order and how much memory; what becomes of those that fail."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from chunkwork import (
    Batch,
    call,
    children,
    counting,
    dying,
    endless,
    failing,
    frames_of,
    hanging,
    mixed,
    outcomes,
    slow,
    some,
    surroundings,
)

from helpers.container import VideoError
from helpers.workers import ClipPool, PoolError, WorkerCrashed, WorkerError, WorkerHung, cores

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "data_sample" / "training80_01"


@pytest.fixture(scope="module")
def pool():
    with ClipPool(call, workers=2) as pool:
        yield pool


def settled(path, seconds=0.4):
    """Size of a file once it has not grown for a while."""
    size, since = -1, time.monotonic()
    while time.monotonic() < since + seconds:
        now = path.stat().st_size if path.exists() else 0
        if now != size:
            size, since = now, time.monotonic()
        time.sleep(0.02)
    return size


def test_clips_and_chunks_come_in_the_order_of_the_tasks():
    with ClipPool(call, workers=2) as pool:
        found = outcomes(pool.run((f"clip {n}", (some, 7 * (n % 3), n)) for n in range(23)))
    assert list(found) == [f"clip {n}" for n in range(23)]
    for n, chunks in enumerate(found.values()):
        assert [number for number, _ in chunks] == list(range(n, n + 7 * (n % 3)))
        assert all(array.shape == (number % 5, 3) and (array == number).all() for number, array in chunks)


def test_frames_decoded_in_workers_equal_those_decoded_here():
    paths = sorted(SAMPLE.glob("*.mp4"))[:2]
    with ClipPool(frames_of, workers=2) as pool:
        for path, chunks in pool.run((path, path) for path in paths):
            for (frame, t_s, number), (ours, our_t_s, our_number) in zip(chunks, frames_of(path), strict=True):
                assert (t_s, number) == (our_t_s, our_number)
                np.testing.assert_array_equal(frame, ours)


def test_a_process_that_dies_costs_its_clip_and_no_other_is_repeated(tmp_path):
    log = tmp_path / "begun"
    hows = ["fine", "SIGSEGV", "fine", "exit", "SIGKILL", "SIGSEGV", "fine", "fine"]
    with ClipPool(call, workers=2) as pool:
        found = outcomes(pool.run((n, (dying, how, log)) for n, how in enumerate(hows)))
    reasons = {
        "SIGSEGV": "the decoder process stopped with signal 11 (SIGSEGV)",
        "SIGKILL": "the decoder process stopped with signal 9 (SIGKILL): often want of memory",
        "exit": "the decoder process ended with exit status 3",
    }
    for how, (first, second) in zip(hows, found.values(), strict=True):
        assert first == how
        if how == "fine":
            assert second.tolist() == [0, 1, 2]
        else:
            assert isinstance(second, WorkerCrashed)
            assert str(second) == reasons[how]
    assert sorted(log.read_text().split()) == sorted(hows)


def test_a_worker_that_died_while_idle_is_replaced_at_no_cost():
    before = set(children())
    with ClipPool(call, workers=1) as pool:
        assert len(outcomes(pool.run([("a", (some, 2))]))["a"]) == 2
        (process,) = set(children()) - before
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended; its status is left for the pool to ask
        assert [type(chunk) for chunk in outcomes(pool.run([("b", (some, 2))]))["b"]] == [tuple, tuple]


def test_a_hanging_worker_is_ended_and_replaced():
    start_s = time.monotonic()
    with ClipPool(call, workers=1, patience_s=1) as pool:
        found = outcomes(pool.run([("a", (hanging,)), ("b", (some, 3))]))
    assert time.monotonic() - start_s < 6
    assert found["a"][0] == "before"
    assert isinstance(found["a"][1], WorkerHung)
    assert str(found["a"][1]) == "the decoder process gave nothing for 1 s and was killed"
    assert len(found["b"]) == 3


def test_signs_of_life_renew_the_patience_and_are_no_chunks():
    with ClipPool(call, workers=2, patience_s=1) as pool:
        found = outcomes(pool.run([("a", (slow, 5, 0.4)), ("b", (slow, 2, 0.01))]))
    assert found == {"a": ["done"], "b": ["done"]}


def test_a_caller_that_takes_its_time_is_not_a_hanging_worker():
    with ClipPool(call, workers=1, patience_s=0.5) as pool:
        for _, chunks in pool.run([("a", (counting, os.devnull, 3, 40_000))]):
            assert sum(time.sleep(0.6) is None for _ in chunks) == 3


def test_no_more_chunks_wait_than_allowed(tmp_path):
    logs = [tmp_path / str(n) for n in range(4)]
    size = 300_000  # more than a pipe holds
    with ClipPool(call, workers=2) as pool:
        run = pool.run((log.name, (counting, log, 50, size)) for log in logs)
        _, chunks = next(run)
        next(chunks)
        made = [settled(log) for log in logs]
        assert 9 <= sum(made) <= 1 + 2 * 7  # taken, and per worker four waiting, one received, one sent and one made
        assert made[2:] == [0, 0]
        assert 1 + len(list(chunks)) == 50
        assert [len(list(chunks)) for _, chunks in run] == [50] * 3


def test_no_more_clips_are_begun_than_allowed(tmp_path):
    taken = []

    def tasks():
        for n in range(20):
            taken.append(n)
            yield n, (counting, tmp_path / str(n), 1, 10)

    with ClipPool(call, workers=2) as pool:
        for n, chunks in itertools.islice(pool.run(tasks()), 5):
            assert len(list(chunks)) == 1
            assert taken == list(range(n + 5))
            assert settled(tmp_path / str(n + 4), 0.05) <= 1
            assert not (tmp_path / str(n + 5)).exists()


def test_a_giant_clip_passes_a_small_budget():
    with ClipPool(call, workers=2) as pool:
        for _, chunks in pool.run((n, (counting, os.devnull, 30, 1_000_000)) for n in range(3)):
            assert sum(chunk.nbytes for chunk in chunks) == 30_000_000


def test_chunks_that_nobody_takes_are_dropped(pool):
    found = [next(chunks)[0] for _, chunks in pool.run((n, (some, 50, n)) for n in range(6))]
    assert found == [0, 1, 2, 3, 4, 5]
    assert len(outcomes(pool.run([("a", (some, 2))]))["a"]) == 2


def test_leaving_early_leaves_no_process():
    before = set(children())
    with pytest.raises(KeyboardInterrupt), ClipPool(call, workers=2) as pool:
        for _, chunks in pool.run((n, (endless,)) for n in range(6)):
            next(chunks)
            assert len(set(children()) - before) == 2
            start_s = time.monotonic()
            raise KeyboardInterrupt
    assert set(children()) == before
    assert time.monotonic() - start_s < 1


def test_chunks_outlive_no_pool():
    with ClipPool(call, workers=1) as pool:
        run = pool.run([("a", (endless,))])
        _, chunks = next(run)
        next(chunks)
    with pytest.raises(RuntimeError, match="must be open while its chunks are used"):
        next(chunks)
    run.close()


def test_workers_that_cannot_start_are_an_error_of_the_run(tmp_path, monkeypatch):
    (tmp_path / "gone_work.py").write_text("def work(argument):\n    yield argument\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        from gone_work import work
    with ClipPool(work, workers=2) as pool:
        _, chunks = next(run := pool.run([("a", 1), ("b", 2)]))
        with pytest.raises(RuntimeError, match="must start.*gone_work") as caught:
            next(chunks)
        run.close()
    assert not isinstance(caught.value, WorkerError)  # not a clip's: it must not be listed clip by clip


def test_a_machine_without_room_for_a_process_is_no_error_of_a_clip(monkeypatch):
    def refuse(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", refuse)
    with ClipPool(call, workers=1) as pool:
        (found,) = outcomes(pool.run([("a", (some, 1))]))["a"]
    assert isinstance(found, PoolError)
    assert "Resource temporarily unavailable" in str(found)


def test_work_that_no_process_could_import_is_refused():
    with pytest.raises(ValueError, match="work must be at the top level of a module .* got <function"):
        ClipPool(lambda argument: iter(()), workers=1)


def test_memory_stays_flat_over_two_thousand_clips():
    def rss():
        return psutil.Process().memory_info().rss + sum(child.memory_info().rss for child in children())

    with ClipPool(call, workers=2) as pool:
        for n, chunks in pool.run((n, (counting, os.devnull, 2, 200_000)) for n in range(2000)):
            assert sum(chunk.nbytes for chunk in chunks) == 400_000
            if n == 400:
                early = rss()
        assert rss() - early < 8 * 2**20  # 640 MB went through since


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
        "av": WorkerError,
        "memory": WorkerError,
        "os": WorkerError,
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
    assert str(found["memory"][1]) == "MemoryError: full"
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
    assert done.stdout.startswith("10\nwork must be at the top level of a module")
    assert not done.stderr


BUSY = """
with ClipPool(chunkwork.call, workers=2) as pool:
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
    heeded = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # in the background, too
    with subprocess.Popen(
        [sys.executable, "-c", heeded + script(BUSY)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
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
