import logging
import math

import keras
import numpy as np
import pytest

from benchmarks.machine import compare_machines
from helpers import machine
from helpers import throughput as rates
from helpers.backbones import Backbone
from helpers.machine import throughput
from helpers.weights import Weights


def holds(n):
    """A network for which the memory suffices up to n samples."""

    def forward(x):
        if len(x) > n:
            raise MemoryError("the network ran out of memory.")
        return x.mean(axis=1)

    return forward


def test_batches_are_timed_in_growing_order():
    found = throughput(holds(99), (3,), [7, 2, 2, 5], network="abacus", unit="images/s", repeats=2)
    assert list(found.columns) == ["network", "unit", "batch", "per_s", "memory_gib", "note"]
    assert found["batch"].tolist() == [2, 5, 7]
    assert (found["per_s"] > 0).all()
    assert set(found["note"]) == {""}


def test_want_of_memory_is_the_last_row_and_no_error(caplog):
    caplog.set_level(logging.INFO)
    found = throughput(holds(4), (3,), [2, 4, 8, 16], network="abacus", unit="images/s", repeats=1)
    assert found["batch"].tolist() == [2, 4, 8]
    assert found["per_s"].isna().tolist() == [False, False, True]
    assert found["note"].tolist() == ["", "", "out of memory"]
    assert "batch 8: the network ran out of memory" in caplog.text


def test_the_rate_is_samples_over_the_median_run(monkeypatch):
    clock = iter([0, 99, 0, 1, 1, 5, 5, 13])
    monkeypatch.setattr(rates.time, "perf_counter", lambda: next(clock))
    assert throughput(holds(9), (3,), [6], network="a", unit="b", repeats=3)["per_s"].tolist() == [6 / 4]


def test_a_static_network_is_timed_on_its_own_input(monkeypatch):
    inputs = keras.Input((31, 31, 3))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(5, 3)(inputs)))
    small = Backbone("resnet50", model, 31, 5, Weights("random", "", "", ""))
    monkeypatch.setattr(machine, "build_backbone", lambda name, weights: small)
    found = machine.static_throughput([1, 3], repeats=1)
    assert found[["network", "unit"]].drop_duplicates().to_numpy().tolist() == [["resnet50", "images/s"]]
    assert (found["per_s"] > 0).all()


def test_the_motion_network_is_timed_in_clips():
    found = machine.motion_throughput([1, 2], endpoint="MaxPool3d_2a_3x3", px=32, repeats=1)
    assert found["network"].unique().tolist() == ["I3D to MaxPool3d_2a_3x3, 16 flows"]
    assert (found["unit"] == "clips/s").all()
    assert (found["per_s"] > 0).all()


def test_two_machines_are_compared_where_both_were_measured():
    def machine(**per_s):
        return {"rows": [{"name": n, "unit": "u", "batch": 2, "per_s": v} for n, v in per_s.items()]}

    found = compare_machines(machine(a=3.0, b=5.0, c=7.0), machine(c=None, a=12.0))
    assert found[["name", "one_per_s", "other_per_s"]].iloc[0].tolist() == ["a", 3.0, 12.0]
    assert found["ratio"].tolist()[0] == 4
    assert np.isnan(found["ratio"].tolist()[1])
    with pytest.raises(ValueError, match="must have rows in common"):
        compare_machines(machine(a=1.0), machine(b=1.0))


@pytest.mark.parametrize(
    ("per_s", "memory_gib", "there_gib", "batch"),
    [
        ([10, 18, 20, 20.5], [math.nan] * 4, math.nan, 4),  # 20 is within 5 % of 20.5, 18 is not
        ([10, 20, 30, math.nan], [math.nan] * 4, math.nan, 4),  # the last did not fit
        ([10, 10], [math.nan] * 2, math.nan, 1),
        ([10, 20, 30, 40], [2.0, 3.0, 5.0, 9.0], 14.0, 4),  # 40 % of 14 GiB hold 5, not 9
        ([10, 20], [2.0, 3.0], 1.0, 1),  # none fits: the smallest
    ],
)
def test_the_measured_batch_is_the_smallest_near_the_best_that_fits(
    monkeypatch, caplog, per_s, memory_gib, there_gib, batch
):
    caplog.set_level(logging.INFO)
    measured = zip(per_s, memory_gib, strict=True)
    monkeypatch.setattr(rates, "measured_rate", lambda *_, **__: next(measured))
    gpu = {"kind": "GPU", "memory_gib": there_gib}
    monkeypatch.setattr(rates, "chosen_device", {"GPU:1": gpu}.get)
    assert rates.measured_batch(len, (2,), "GPU:1", network="abacus") == batch
    assert f"abacus: batch {batch} makes {per_s[int(math.log2(batch))]:.1f} samples/s" in caplog.text


def test_the_measured_batch_is_one_that_memory_holds():
    def room_for_two(x):
        if len(x) > 2:
            raise MemoryError("the network ran out of memory.")
        return x

    assert rates.measured_batch(room_for_two, (2,), network="n") in (1, 2)

    def no_room(x):
        raise MemoryError("the network ran out of memory.")

    with pytest.raises(MemoryError, match="n does not fit into memory with one sample"):
        rates.measured_batch(no_room, (2,), network="n")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_matrix_product_is_timed_with_its_work(dtype):
    timing = machine.benchmark_matmul(67, repeats=3, dtype=dtype)
    assert (timing["name"], timing["dtype"], timing["repeats"]) == ("matmul 67 x 67", dtype, 3)
    assert timing["gflop"] == pytest.approx(2 * 67**3 / 1e9)
    assert timing["gflop_per_s"] == pytest.approx(timing["gflop"] / timing["seconds"])


@pytest.mark.parametrize(("dims", "space"), [(2, "13 x 13"), (3, "8 x 13 x 13")])
def test_convolution_is_timed_with_its_work(dims, space):
    timing = machine.benchmark_convolution(dims, size=13, channels=5, batch=2, repeats=3)
    assert timing["name"] == f"conv{dims}d 2 x {space} x 5"
    assert timing["gflop"] == pytest.approx(2 * 2 * 13 * 13 * (8 if dims == 3 else 1) * 5 * 5 * 3**dims / 1e9)
    assert timing["seconds"] > 0


def test_timing_is_the_median_without_the_first_run(monkeypatch):
    clock = iter([0, 100, 100, 101, 101, 104, 104, 111])
    monkeypatch.setattr(rates.time, "perf_counter", lambda: next(clock))
    assert rates.median_seconds(lambda: np.zeros((2, 3)), repeats=3) == 3
