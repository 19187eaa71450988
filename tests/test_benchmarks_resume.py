"""The benchmark of resuming: real kills of small runs, one that can bear them and one that cannot."""

import multiprocessing
from functools import partial

import chunkwork
import pytest

from benchmarks import rearranged, resume
from helpers.clips import find_clips
from helpers.files import read_json
from helpers.store import read_features


def kills_of(run, tmp_path, monkeypatch, *, status):
    """Put a run in place of the real one, kill it once; returns the benchmark's JSON."""

    def start_run(clips, out):
        process = multiprocessing.get_context("spawn").Process(target=run, args=(clips, out))
        process.start()
        return process

    monkeypatch.setattr(resume, "start_run", start_run)
    arguments = ["--kills", "1", "--seed", "1"]  # of this seed, the instant lies in the midst of the second stage
    assert resume.main([*arguments, "--json", str(tmp_path / "result.json")]) == status
    return read_json(tmp_path / "result.json")


def test_a_run_that_can_be_killed_at_any_instant_ends_in_identical_files(tmp_path, monkeypatch, capsys):
    result = kills_of(partial(chunkwork.fill, forgetful=False), tmp_path, monkeypatch, status=0)
    assert (result["kills"], result["identical"]) == (1, 1)
    assert [row.keys() for row in result["rows"]] == [set(resume.COLUMNS)]
    assert "1 kills" in capsys.readouterr().out


def test_a_run_that_goes_on_differently_after_a_kill_is_found_out(tmp_path, monkeypatch):
    result = kills_of(partial(chunkwork.fill, forgetful=True), tmp_path, monkeypatch, status=1)
    assert (result["kills"], result["identical"]) == (1, 0)


@pytest.mark.slow
def test_the_run_that_is_killed_makes_rows_as_wide_as_those_of_the_real_networks(tmp_path):
    clips = find_clips(rearranged.DATA).iloc[-1:]
    rearranged.extract_all(clips, tmp_path)
    for name, width in {"static": 2048, "dynamic": 1024}.items():
        assert read_features(tmp_path / name / f"{clips.index[0]}.npz").features.shape == (9, width)
