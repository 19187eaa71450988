"""The benchmark of resuming: real kills of small runs, one that can bear them and one that cannot."""

import multiprocessing
from functools import partial

import chunkwork
import pytest

from benchmarks import rearranged, resume
from helpers.clips import find_clips
from helpers.files import read_json
from helpers.store import read_features


@pytest.mark.parametrize(("forgetful", "status", "identical"), [(False, 0, 1), (True, 1, 0)])
def test_a_run_that_goes_on_differently_after_a_kill_is_found_out(tmp_path, monkeypatch, forgetful, status, identical):
    def start_run(clips, out):
        run = partial(chunkwork.fill, clips, out, forgetful=forgetful)
        process = multiprocessing.get_context("spawn").Process(target=run)
        process.start()
        return process

    monkeypatch.setattr(resume, "start_run", start_run)
    arguments = ["--kills", "1", "--seed", "1"]  # of this seed, the instant lies in the midst of the second stage
    assert resume.main([*arguments, "--json", str(tmp_path / "result.json")]) == status
    result = read_json(tmp_path / "result.json")
    assert (result["kills"], result["identical"]) == (1, identical)


@pytest.mark.slow
def test_the_run_that_is_killed_makes_rows_as_wide_as_those_of_the_real_networks(tmp_path):
    clips = find_clips(rearranged.DATA).iloc[-1:]
    rearranged.extract_all(clips, tmp_path)
    for name, width in {"static": 2048, "dynamic": 1024}.items():
        assert read_features(tmp_path / name / f"{clips.index[0]}.npz").features.shape == (9, width)
