"""Whether a map is evidence: information by hand, event rows by their times, maps that point and maps that do not."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from test_experiment import tokens

from benchmarks import map_evidence

HEADS = 2


@pytest.fixture
def clips():
    return tokens(6).take(np.arange(6))  # tokens at 0.5, 1.5, ... 4.5 s in both streams


@pytest.fixture
def events(clips, tmp_path):
    """A window from 1 to 2 s and one from 3 to 4 s: tokens 1 and 3."""
    table = pd.DataFrame({"key": clips.clips, "warm_s": 1.0, "cool_s": 3.0, "window_s": 1.0})
    table.to_csv(tmp_path / "truth.csv", index=False)
    return map_evidence.event_rows(tmp_path, clips)


def test_the_information_of_a_row_is_its_divergence_from_looking_everywhere_alike(clips):
    n = clips.dynamic_mask.shape[1]
    attention = np.full((6, HEADS, n, n), 1 / n)
    attention[0, 0, 2] = np.eye(n)[4]
    attention[1, :, 3] = [0.5, 0.5, 0, 0, 0]
    nats = map_evidence.row_information(attention, clips.static_mask, clips.dynamic_mask)
    assert nats[0, 2] == pytest.approx(np.log(n) / HEADS)
    assert nats[1, 3] == pytest.approx(np.log(n / 2))
    assert nats.sum() == pytest.approx(nats[0, 2] + nats[1, 3], abs=1e-9)


def test_masked_tokens_carry_no_information(clips):
    short = dataclasses.replace(
        clips, dynamic_mask=clips.dynamic_mask & (np.arange(5) < 3), static_mask=clips.static_mask & (np.arange(5) < 4)
    )
    attention = np.zeros((6, HEADS, 5, 5))
    attention[..., :3] = 1 / 3
    nats = map_evidence.row_information(attention, short.static_mask, short.dynamic_mask)
    np.testing.assert_allclose(nats, 0, atol=1e-9)


def test_event_rows_are_the_face_tokens_inside_a_window(events, tmp_path, clips):
    assert events.tolist() == [[False, True, False, True, False]] * 6
    assert map_evidence.event_rows(tmp_path / "elsewhere", clips) is None


def test_a_map_that_looks_only_in_events_points_and_a_clock_does_not(clips, events):
    n = clips.dynamic_mask.shape[1]
    clock = np.tile(np.eye(n), (6, HEADS, 1, 1))
    looks = np.where(events[:, None, :, None], clock, 1 / n)
    pointing, clock = (map_evidence.map_evidence(attention, clips, events) for attention in (looks, clock))
    assert (pointing["map_share"], pointing["map_pointing"]) == pytest.approx((1, 1))
    assert pointing["map_nats"] == pytest.approx(0.4 * np.log(n))
    assert clock["map_share"] == pytest.approx(clock["map_chance"]) == pytest.approx(0.4)
    flat = map_evidence.map_evidence(np.full((6, HEADS, n, n), 1 / n), clips, events)
    assert flat["map_nats"] == pytest.approx(0, abs=1e-9)
