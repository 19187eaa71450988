"""The fastest exact decoder is chosen once, by trials that cannot take the process with them."""

import subprocess

import pytest

from helpers import video as choice
from helpers.files import ROOT, read_json
from helpers.video import best, choose_backend, compare, main, measure, parity_table

CLIP = sorted((ROOT / "data_sample" / "training80_01").glob("*.mp4"))[0]
FAST, SLOW = {"exact": True, "times_reference": 2.0}, {"exact": True, "times_reference": 1.05}


@pytest.fixture
def memory(tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "user_cache_path", lambda name: tmp_path / name)
    monkeypatch.setattr(choice, "_measured", {})
    return tmp_path / "ocean-workbook" / "decoders.json"


def test_only_an_exact_decoder_that_is_clearly_faster_replaces_the_reference():
    assert best({"opencv": SLOW}) == "pyav"
    assert best({"opencv": SLOW, "cuda": FAST}) == "cuda"
    assert best({"cuda": FAST | {"exact": False}}) == "pyav"
    assert best({"cuda": {"error": "crashed with signal 11"}}) == "pyav"


def test_the_choice_is_measured_once_and_remembered(memory, monkeypatch):
    asked = []
    monkeypatch.setattr(choice, "measure", lambda path: asked.append(path) or {"cuda": FAST})
    assert choose_backend([]) == "pyav"
    assert choose_backend([CLIP]) == "cuda"
    assert choose_backend([CLIP.with_name("another.mp4")]) == "cuda"
    choice._measured.clear()
    assert choose_backend([]) == "cuda"
    assert asked == [CLIP]
    assert [entry["backend"] for entry in read_json(memory).values()] == ["cuda"]


def test_a_home_that_cannot_be_written_does_not_matter(memory, monkeypatch):
    memory.parent.write_text("a file where the folder should be")
    monkeypatch.setattr(choice, "measure", lambda path: {"opencv": FAST})
    assert choose_backend([CLIP]) == "opencv"


def test_a_broken_clip_decides_nothing(memory, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(CLIP.read_bytes()[:3000])
    assert measure(broken) == {}
    assert choose_backend([broken]) == "pyav"
    assert not memory.exists()


def test_a_trial_on_a_real_clip_says_what_each_decoder_did():
    trials = measure(CLIP)
    assert trials["opencv"]["exact"]
    assert trials["opencv"]["decoder"].startswith("opencv")
    for trial in trials.values():  # a device that this machine lacks is an error or decodes in software, and says so
        assert "error" in trial or trial["decoder"].startswith(("opencv", "pyav"))


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (subprocess.CompletedProcess([], -11, "", ""), "crashed with signal 11"),
        (subprocess.CompletedProcess([], 1, "", "x\nRuntimeError: no device"), "RuntimeError: no device"),
        (subprocess.TimeoutExpired([], 60), "no answer within 60 s"),
    ],
)
def test_a_trial_that_fails_is_an_error_of_that_decoder(monkeypatch, outcome, error):
    def run(*_, **__):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(subprocess, "run", run)
    assert measure(CLIP)["opencv"] == {"error": error}


def test_parity_tells_the_same_frames_from_others(capsys):
    row = compare(CLIP, "opencv", n_frames=8, rounds=1)
    assert row["same_index"]
    assert row["same_t_s"]
    assert row["exact"]
    assert row["mean_levels"] < 1
    table = parity_table(CLIP, ("pyav", "vaapi"), n_frames=4, rounds=1)
    assert table.loc["pyav", "max_levels"] == 0
    assert main([str(CLIP)]) == 0
    assert "mean_levels" in capsys.readouterr().out


def test_parity_of_other_frames_is_not_exact():
    from helpers.video import _differences, read_frames

    ours, theirs = read_frames(CLIP, [0, 9, 20]), read_frames(CLIP, [0, 10, 20])
    assert not _differences(ours, theirs)["exact"]
