"""Batches across clips, and what a long run says of itself."""

import logging
import threading
import time
from types import SimpleNamespace

import chunkwork
import numpy as np
import pandas as pd
import pytest

from helpers.forward import NetworkError
from helpers.pipeline import AT_ONCE, ClipRun, Network, Work


def doubled(x: np.ndarray) -> np.ndarray:
    return 2 * x


class Seen:
    """A network that remembers the shapes of its inputs; it fails on values from `limit` on, and has so much room."""

    def __init__(self, limit: float = np.inf, room: int = 1000):
        self.limit, self.room, self.shapes = limit, room, []

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.shapes.append(x.shape)
        if len(x) > self.room:
            raise MemoryError(f"the network ran out of memory on an input of {x.shape}.")
        if x.max() >= self.limit:
            raise NetworkError("the network failed")
        return doubled(x)


def run(network, samples, batch_size, n_rows=1, **more):
    """The output of each sample, by its place."""
    found = dict(Network(network, batch_size, **more).run((k, sample, n_rows) for k, sample in enumerate(samples)))
    return [found[place] for place in range(len(samples))]


def samples_of(n: int, size: int = 2) -> list[np.ndarray]:
    return [np.full(size, k, np.float32) for k in range(n)]


def values(outputs) -> list[float]:
    return [float(output[0]) if isinstance(output, np.ndarray) else np.nan for output in outputs]


@pytest.mark.parametrize("n", [1, 4, 11])
def test_the_network_meets_one_shape_and_everyone_gets_their_own(n):
    network = Seen()
    assert values(run(network, samples_of(n), 4)) == [2.0 * k for k in range(n)]
    assert set(network.shapes) == {(min(n, 4), 2)}
    assert len(network.shapes) == -(-n // 4)


def test_samples_of_different_shapes_do_not_meet():
    network = Seen()
    samples = [sample for k in range(5) for sample in (np.full(2, k, np.float32), np.full(3, -k, np.float32))]
    assert values(run(network, samples, 4)) == [2.0 * sign * k for k in range(5) for sign in (1, -1)]
    assert set(network.shapes) == {(4, 2), (4, 3)}


def test_a_sample_of_many_rows_takes_their_room():
    network = Seen()
    run(network, samples_of(4), 8, n_rows=4)
    run(network, samples_of(2), 8, n_rows=9)
    assert network.shapes == [(2, 2), (2, 2), (1, 2), (1, 2)]


def test_what_waits_in_batches_that_do_not_fill_up_is_bounded(monkeypatch):
    monkeypatch.setattr("helpers.pipeline.WAITING_BYTES", 20)  # two samples of 2, or one of 3
    network = Seen()
    assert len(list(Network(network, 100).run((k, np.zeros(2 + k % 2, np.float32), 1) for k in range(9)))) == 9
    assert len(network.shapes) >= 4
    assert max(shape[0] for shape in network.shapes) == 2


def test_the_network_works_while_the_next_batch_is_filled():
    go_on = threading.Event()

    def waits(x: np.ndarray) -> np.ndarray:
        assert go_on.wait(10)
        return doubled(x)

    def samples():
        yield from ((k, sample, 1) for k, sample in enumerate(samples_of(4)))
        go_on.set()  # would never be reached if the network were waited for

    assert values(output for _, output in Network(waits, 2).run(samples())) == [0, 2, 4, 6]


def test_half_as_many_are_tried_when_memory_runs_out_and_kept_to(caplog):
    network = Seen(room=2)
    assert values(run(network, samples_of(19), 8)) == [2.0 * k for k in range(19)]
    sizes = [shape[0] for shape in network.shapes]
    assert set(sizes) == {8, 4, 2}
    assert sizes.count(2) == 10
    assert len(sizes) <= 10 + 2 * AT_ONCE
    assert "Going on with 2 at a time" in caplog.text


def test_where_two_do_not_fit_beside_each_other_one_goes_after_the_other():
    inside, most = threading.Semaphore(1), []

    def crowded(x: np.ndarray) -> np.ndarray:
        if not inside.acquire(blocking=False):
            raise MemoryError("the network ran out of memory.")
        time.sleep(0.02)
        most.append(len(x))
        inside.release()
        return doubled(x)

    assert values(run(crowded, samples_of(12), 2)) == [2.0 * k for k in range(12)]
    assert sum(most) >= 12


def test_where_not_even_one_fits_the_run_ends_with_a_sentence():
    with pytest.raises(MemoryError, match="Not even one at a time fits"):
        run(Seen(room=0), samples_of(3), 4)


def test_a_sample_that_the_network_fails_on_costs_itself_only(caplog):
    outputs = run(Seen(limit=6), samples_of(7), 4)
    np.testing.assert_array_equal(values(outputs), [0, 2, 4, 6, 8, 10, np.nan])
    assert isinstance(outputs[6], NetworkError)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_any_other_error_of_the_network_comes_out():
    with pytest.raises(AttributeError):
        run(lambda x: x.no_such_method(), samples_of(3), 2)


def test_two_batches_are_in_the_network_at_a_time_and_their_seconds_count_once():
    meet = threading.Barrier(AT_ONCE, timeout=10)

    def slow(x: np.ndarray) -> np.ndarray:
        meet.wait()
        time.sleep(0.4)
        return doubled(x)

    pair = Network(slow, 1)
    outputs = pair.run((k, sample, 1) for k, sample in enumerate(samples_of(4)))
    assert values(output for _, output in outputs) == [0, 2, 4, 6]
    assert 0.8 <= pair.busy_s < 1.6


def stage_of(n_clips, folder, **more) -> ClipRun:
    """A run of so many clips, none of which is ever begun."""
    clips = pd.DataFrame({"path": ["x.mp4"] * n_clips}, index=range(n_clips))
    cfg = SimpleNamespace(data=folder, out=folder, progress=False, workers=1)
    return ClipRun("03 static", clips, cfg, None, Work(chunkwork.call, None), **more)


def test_a_line_a_minute_and_one_at_the_end(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with stage_of(5, tmp_path, network=Network(doubled, 1), usage=lambda: "memory 2.0 GiB at most") as run:
        run.count("found")
        for _ in range(4):
            now[0] += 40
            run.count("made", 10)
    lines = [line.split(": ", 1)[1] for line in (tmp_path / "progress.log").read_text().splitlines()]
    assert lines == [
        "3 of 5 clips in 01:20, 01:20 left, 40.00s/clip, 0.2 rows/s, network 0%, memory 2.0 GiB at most",
        "5 of 5 clips in 02:40, 00:00 left, 40.00s/clip, 0.2 rows/s, network 0%, memory 2.0 GiB at most",
        "done: 5 of 5 clips in 02:40, 00:00 left, 40.00s/clip, 0.2 rows/s, network 0%, memory 2.0 GiB at most",
    ]
