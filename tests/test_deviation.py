"""Rows whose deviation is known: turned by an angle, off by a share, lost."""

from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest

from helpers.engine import deviation as deviations
from helpers.engine.deviation import KEY, comparison, deviation, in_words
from helpers.forward import compile_forward


def test_the_worst_row_is_told_as_its_angle_and_its_share_of_the_largest_value():
    reference = np.array([[3.0, 4.0], [0.0, 10.0], [0.0, 0.0]])
    turned = np.array([[3.0, 4.0], [6.0, 8.0], [0.0, 0.0]])  # the second by an angle whose cosine is 0.8
    found = deviation(turned, reference)
    assert (found.rows, found.not_finite) == (3, 0)
    assert found.smallest_cosine == pytest.approx(0.8)
    assert found.largest_difference == pytest.approx(0.6)


def test_equal_rows_deviate_by_nothing():
    rows = np.random.default_rng(0).standard_normal((7, 11)).astype(np.float32)
    found = deviation(rows, rows)
    assert found.smallest_cosine == pytest.approx(1)
    assert found.largest_difference == 0


def test_a_row_that_vanishes_points_nowhere():
    assert deviation(np.zeros((1, 3)), np.ones((1, 3))).smallest_cosine == 0


def test_height_and_width_are_averaged_and_steps_of_time_are_rows():
    reference = np.random.default_rng(0).standard_normal((2, 3, 5, 7, 11))
    swapped = reference[:, :, ::-1, ::-1]  # the same means over height and width
    found = deviation(swapped, reference)
    assert found.rows == 6
    assert found.largest_difference < 1e-12


def test_rows_that_only_float32_can_hold_are_counted_and_left_out():
    reference = np.ones((4, 3))
    ours = reference.copy()
    ours[1, 2], ours[3, 0] = np.inf, np.nan
    found = deviation(ours, reference)
    assert (found.rows, found.not_finite, found.largest_difference) == (2, 2, 0)
    none = deviation(ours[[1]], reference[[1]])
    assert (none.rows, none.not_finite, none.smallest_cosine) == (0, 1, None)


def test_outputs_of_two_inputs_are_not_compared():
    with pytest.raises(ValueError, match=r"ours must have the shape of reference, \(2, 3\), got \(1, 3\)"):
        deviation(np.ones((1, 3)), np.ones((2, 3)))


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((17, 17, 3))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(11, 3)(inputs)))


def test_the_first_batch_is_measured_and_no_other(model, monkeypatch):
    x, found, compiled = np.random.default_rng(0).uniform(-1, 1, (5, 17, 17, 3)).astype(np.float32), {}, []
    half = compile_forward(model, "float16")
    monkeypatch.setattr(
        deviations, "compile_forward", lambda model, prepare: compiled.append(1) or compile_forward(model)
    )
    compare = comparison(model, "float16", found)
    assert compiled == []
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(compare, [x, x], [half(x)] * 2))
    compare(x[:2], half(x[:2]))
    assert compiled == [1]
    assert found[KEY]["rows"] == 5
    assert 0.999 < found[KEY]["smallest_cosine"] <= 1
    assert 0 < found[KEY]["largest_difference"] < 0.01


def test_float32_is_not_compared_with_itself(model):
    assert comparison(model, "float32", {}) is None


def test_a_comparison_that_fails_is_told_and_the_run_goes_on(model, monkeypatch):
    def fails(x):
        raise MemoryError("the network ran out of memory")

    found = {}
    monkeypatch.setattr(deviations, "compile_forward", lambda model, prepare: fails)
    comparison(model, "bfloat16", found)(np.zeros(2), np.ones(2))
    assert in_words(found[KEY]) == "deviation from float32 not measured: the network ran out of memory"


def test_what_was_found_is_said_in_a_line():
    found = {"rows": 32, "not_finite": 0, "smallest_cosine": 0.9999953, "largest_difference": 0.0029178}
    assert in_words(found) == (
        "deviation from float32 over 32 rows: cosine at least 0.999995, largest difference 0.0029 of the largest value"
    )
    assert in_words(found | {"not_finite": 2}).endswith(", 2 rows are not finite")
    nothing = {"rows": 0, "not_finite": 3, "smallest_cosine": None, "largest_difference": None}
    assert in_words(nothing) == "deviation from float32: no row could be compared, 3 rows are not finite"
