"""Means with intervals: by hand, with seeds, with what is missing."""

import numpy as np
import pytest

from helpers.statistics import mean_interval


def test_the_mean_is_over_clips_then_over_seeds():
    values = [np.array([1.0, 2.0, 3.0]), np.array([10.0])]
    found = mean_interval(values, [np.array(["a", "b", "b"]), np.array(["a"])])
    assert found["value"] == 6.0


def test_clips_of_one_source_move_together():
    values, n = np.repeat([0.0, 1.0], 50), 100
    pairs = mean_interval([values], [np.repeat(["a", "b"], 50)])["interval"]
    alone = mean_interval([values], [np.arange(n).astype(str)])["interval"]
    assert pairs == [0.0, 1.0]
    assert alone == pytest.approx([0.4, 0.6], abs=0.03)  # 1.96 sqrt(.25 / 100) = .098


def test_what_is_missing_is_left_out_and_nothing_is_none():
    values = np.array([1.0, np.nan, 3.0])
    assert mean_interval([values], [np.array(["a", "b", "c"])])["value"] == 2.0
    assert mean_interval([values[1:2]], [np.array(["b"])]) == {"value": None, "interval": None}
    assert mean_interval([values[:1]], [np.array(["a"])]) == {"value": 1.0, "interval": None}


def test_sources_must_fit():
    with pytest.raises(ValueError, match=r"sources must be one per value, got \[1\] for \[2\]"):
        mean_interval([np.ones(2)], [np.array(["a"])])
