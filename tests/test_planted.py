"""What was planted, and pointing at it, by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_attention import aligned

from helpers.evidence import HeldOut, inside_windows, planted_windows, window_spans


def test_a_token_is_inside_when_half_of_it_lies_in_a_window():
    """Tokens of 1 s at .5, 1.5, ...; windows 1.5 to 2.5 (half of two tokens) and 4.2 to 5.2 (.8 of one)."""
    times = np.arange(7)[None] + 0.5
    inside = inside_windows(times, 1.0, np.array([[1.5, 4.2]]), np.array([1.0]))
    assert inside[0].tolist() == [False, True, True, False, True, False, False]


def test_pointing_counts_clips_whose_largest_effect_is_inside():
    effects = np.array([[0.1, -0.9, 0.2], [0.5, 0.1, 0.3], [0.1, 0.2, 9.0]])
    inside = np.array([[False, True, False], [False, True, True], [True, False, True]])
    mask = np.array([[True, True, True], [True, True, True], [True, True, False]])
    test = HeldOut(None, SimpleNamespace(dynamic_mask=mask), inside, np.zeros(1))
    assert test.points(effects).tolist() == [1, 0, 0]
    assert test.uniform() == pytest.approx((1 / 3 + 2 / 3 + 1 / 2) / 3)


def test_windows_are_read_by_key(tmp_path):
    clips = aligned(2)
    truth = pd.DataFrame(
        {"key": ["clip1", "clip0"], "warm_s": [0.0, 3.0], "cool_s": [5.0, 1.0], "window_s": [1.0, 1.0]}
    )
    truth.to_csv(tmp_path / "truth.csv", index=False)
    inside = planted_windows(tmp_path, clips)
    assert np.flatnonzero(inside[0]).tolist() == [1, 3]
    assert np.flatnonzero(inside[1]).tolist() == [0, 5]
    assert planted_windows(tmp_path / "none", clips) is None
    assert window_spans(tmp_path, "clip0")["cool light"] == (1.0, 2.0)
    assert window_spans(tmp_path, "another") == {}
