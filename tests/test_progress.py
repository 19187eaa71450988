"""What a long run tells: a bar for those who look, lines in a file for those who do not."""

from datetime import timedelta

import pytest

from helpers import pipeline
from helpers.pipeline import Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    now = [0.0]
    monkeypatch.setattr(pipeline.time, "monotonic", lambda: now[0])
    return now


def lines(folder) -> list[str]:
    """What the log says, without date and time."""
    return [line.split(" ", 2)[2] for line in (folder / "progress.log").read_text().splitlines()]


def test_a_line_a_minute_and_one_at_the_end(tmp_path, clock):
    network_s, usage = lambda: 0.9 * clock[0], lambda: "memory 2.0 GiB at most"
    with Progress("03 static", 5, tmp_path, shown=False, network_s=network_s, usage=usage) as told:
        told.clip(made=False)  # was there
        for _ in range(4):
            clock[0] += 40
            told.clip(10)
    assert lines(tmp_path) == [
        "03 static: 3 of 5 clips, 0.03 clips/s, 0.2 rows/s, network 90%, 0:01:20 left; memory 2.0 GiB at most",
        "03 static: 5 of 5 clips, 0.03 clips/s, 0.2 rows/s, network 90%, 0:00:00 left; memory 2.0 GiB at most",
        "03 static: 5 of 5 clips, 0.03 clips/s, 0.2 rows/s, network 90%, done after 0:02:40; memory 2.0 GiB at most",
    ]


def test_a_stage_without_a_network_tells_clips_only(tmp_path, clock):
    with Progress("02 preparation", 2, tmp_path, shown=False) as told:
        clock[0] += 4
        told.clip()
    assert lines(tmp_path) == ["02 preparation: 1 of 2 clips, 0.25 clips/s, stopped after 0:00:04"]


def test_the_time_left_is_that_of_the_clips_that_had_to_be_made(tmp_path, clock):
    with Progress("02 preparation", 12, tmp_path, shown=False) as told:
        assert told.left() == "?"
        for _ in range(6):
            told.clip(made=False)
        clock[0] += 30
        for _ in range(3):
            told.clip()
        assert told.left() == timedelta(seconds=30)


def test_a_bar_shows_the_same(tmp_path, clock, capsys):
    with Progress("03 static", 2, tmp_path, shown=True, network_s=lambda: 1.0) as told:
        clock[0] += 2
        told.clip(9)
        told.clip(9)
    assert "03 static: 100%" in (shown := capsys.readouterr().err)
    assert "9.0 rows/s, network 50%" in shown


def test_a_log_that_cannot_be_written_ends_no_run(tmp_path, clock):
    with Progress("03 static", 1, tmp_path / "missing", shown=False) as told:
        told.clip()
