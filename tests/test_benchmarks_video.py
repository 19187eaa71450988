"""The benchmarks of video in run and say what they promise; how fast anything is, no test judges."""

import numpy as np
import pytest

from benchmarks import clips, damaged, decode, readers, variants
from benchmarks.decode import AUTO
from benchmarks.readers import OPENCV, Job, Way
from helpers.files import read_json
from helpers.video import probe, read_frames

N_FRAMES, NAME = 31, "h264 faststart mp4"
SMALL = {name: clips.TO_DAMAGE[name] for name in (NAME, "h264 mkv", "mpeg4 avi", "vp9 webm", "av1 mkv")}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The same few pictures in several encodings: name -> file."""
    pictures = clips.draw_pictures(76, (160, 112), 25)[:N_FRAMES]
    return clips.write_encodings(pictures, SMALL, tmp_path_factory.mktemp("clips"), 25)


@pytest.mark.parametrize("name", SMALL)
def test_a_way_that_is_off_by_one_frame_is_not_exact(small, name):
    path, asked = small[name], {"n_frames": 11}
    assert (probe(path).codec, probe(path).n_frames) == (name.split()[0], N_FRAMES)
    frames = read_frames(path, **asked, size=(16, 16), backend="pyav")
    job = Job(path, asked, np.unique(frames.index), probe(path).n_frames)
    known = decode.neighbourhood(job)
    for shift, n_wrong in ((0, 0), (1, 11), (-1, 11)):
        off = (job.numbers + shift).clip(0, N_FRAMES - 1)
        frames = np.stack([known[number] for number in off.tolist()])
        n_stuck = int((off == job.numbers).sum()) if shift else 0  # at the end of the clip
        assert decode.wrong_frames(frames, job, known) == n_wrong - n_stuck
    assert decode.wrong_frames(frames[:-1], job, known) == 11


def test_decode_measures_every_way_and_whether_its_frames_are_exact(small, tmp_path, monkeypatch):
    def failing(job):
        raise RuntimeError("no such codec")

    monkeypatch.setattr(readers, "PEERS", {"failing": lambda: Way(failing, failing, "failing 1.0")})
    monkeypatch.setattr(decode, "hwdevices_available", lambda: [])
    monkeypatch.setattr(decode, "cores", lambda: 1)
    path = str(small[NAME])
    decode.main([path, "--rounds", "1", "--clips", "7200", "--json", str(tmp_path / "result.json")])
    result = read_json(tmp_path / "result.json")
    assert result["auto_to_best_peer"][path] == result["auto_to_opencv"][path] > 0  # OpenCV is the only exact peer
    assert [(row["backend"], row["exact"]) for row in result["parity"]] == [("pyav", True), ("opencv", True)]
    rows = [row for row in result["rows"] if row["way"] != "failing"]
    assert [row["way"] for row in rows] == [AUTO, "pyav", "opencv", OPENCV] * 3
    assert [row["n_frames"] for row in rows[::4]] == [N_FRAMES, N_FRAMES, 7]
    for row in rows:
        assert row["exact"] == "yes"
        assert row["frames_per_s"] == pytest.approx(row["n_frames"] * row["videos_per_s"])
        assert row["hours"] == pytest.approx(2 / row["videos_per_s"])
    assert [row["decoder"] for row in result["rows"] if row["way"] == "failing"] == ["RuntimeError: no such codec"] * 3


def test_damage_is_named_and_counted(small, tmp_path, monkeypatch):
    source = variants.Source(NAME, small[NAME], small[NAME].read_bytes(), variants.media_ranges(small[NAME]))
    for make in (variants.cut_off, variants.remove_box):
        path = tmp_path / f"{make.__name__}.mp4"
        path.write_bytes(make(source, np.random.default_rng(2))[1])
        found = readers.read_fully(path, "pyav")
        assert found["verdict"] == "named"
        assert path.name in found["reason"]
    monkeypatch.setattr(damaged, "SAMPLE", ("awkward/very_short.mp4",))
    monkeypatch.setattr(damaged, "DRAWN_SIZE", (160, 112))
    damaged.main(["--variants", "40", "--encodings", NAME, "--json", str(tmp_path / "result.json")])
    result = read_json(tmp_path / "result.json")
    assert (result["variants"], result["good"], result["good_refused"], len(result["cases"])) == (40, 2, {}, 40)
    assert (result["crashed"], result["hung"]) == (0, 0)
    assert [row["kind"] for row in result["rows"]] == list(variants.KINDS)
    for row in result["rows"]:
        assert row["variants"] == sum(row[name] for name in list(damaged.COLUMNS)[2:])
    assert sum(row["variants"] for row in result["rows"]) == 40
