"""The check before a run: the awkward clips, whose truth is known; estimates; the command's exit status."""

import os
import re
import shutil
import subprocess
import sys

import av
import cv2
import lookers
import numpy as np
import pandas as pd
import pytest
from numbered import read_numbers, write_numbered
from trees import write_faces
from trees import write_pairs as write_flow

from data_sample.make.sample import write_mp4
from helpers import __main__, check
from helpers.clips import scan_clips
from helpers.config import PreparationConfig
from helpers.container import VideoError, open_video
from helpers.files import ROOT
from helpers.video import probe, read_frames

AWKWARD = ROOT / "data_sample" / "awkward"
TRAINING = ROOT / "data_sample" / "training80_01"
CLIP = TRAINING / "4eke_igcKkn.000.mp4"


def checked(folder, *, thorough=False, **parameters):
    """The table of a folder's clips."""
    return check.check_clips(folder, *scan_clips(folder), PreparationConfig(**parameters), thorough=thorough)


@pytest.fixture(scope="module")
def awkward():
    return checked(AWKWARD, min_coverage=0.5)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of two good clips and a broken one, without ratings, and its table."""
    folder = tmp_path_factory.mktemp("clips")
    for name, clip in {"a": CLIP, "b": CLIP, "c": AWKWARD / "broken.mp4"}.items():
        shutil.copy(clip, folder / f"{name}.mp4")
    return folder, checked(folder)


@pytest.fixture
def copy(clips, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(clips[0], tmp_path / "clips")


@pytest.mark.parametrize(
    ("key", "usable", "text", "coverage"),
    [
        ("broken", False, "not a readable video", None),
        ("no_face", False, "no face in 5", 0),
        ("two_faces", True, "several faces (2 at once)", 1),
        ("variable_frame_rate", True, "rate below 12 fps (9.0); variable frame rate", 1),
        ("odd_frame_rate", True, "", 1),
        ("face_leaving", True, "face in only 2 of 5", 0.4),  # gone from half of the clip on
        ("portrait_rotated", True, "", 1),
    ],
)
def test_what_is_in_each_clip_is_said(awkward, key, usable, text, coverage):
    row = awkward.loc[key]
    assert row["usable"] == usable
    assert row["remarks" if usable else "problems"].startswith(text)
    assert (row["bytes"], row["path"]) == ((AWKWARD / f"{key}.mp4").stat().st_size, f"{key}.mp4")
    if coverage is None:
        assert row[["width", "n_frames", "audio", "coverage", "n_faces_max"]].isna().all()
        return
    assert row["coverage"] == coverage
    info = probe(AWKWARD / f"{key}.mp4")
    assert all(row[name] == getattr(info, name) for name in check.OF_FILE)


@pytest.mark.parametrize(
    ("look", "thorough", "problem"),
    [
        ("look_at", False, ""),
        ("look_at", True, "cannot be decoded from 4."),
        ("dying_at_b", False, "SIGSEGV"),
        ("failing_at_b", False, "KeyError: 'k'"),
    ],
)
def test_damage_inside_a_clip_is_found_by_decoding_all_of_it_and_a_crash_costs_that_clip(
    copy, monkeypatch, look, thorough, problem
):
    damaged(copy / "b.mp4", -2).rename(copy / "b.mp4")
    monkeypatch.setattr(check, "look_at", getattr(lookers, look))
    table = checked(copy, thorough=thorough)
    assert table["usable"].tolist() == [True, not problem, False]
    assert problem in table.at["b", "problems"]
    assert (table.at["a", "coverage"], table.at["b", "coverage"] == 1) == (1, look == "look_at")


def test_names_that_no_clip_can_have_hide_nothing(copy, capsys, tmp_path):
    for name in (b"c.MOV", b"d\xe9.mp4", b"e\n\x0b{}.mp4"):
        shutil.copy(CLIP, os.fsencode(copy) + b"/" + name)
    (copy / "notes.pdf").touch()
    shutil.copy(CLIP, copy / "f.MTS")
    assert __main__.main(["check", str(copy), "--no-forecast", "--csv", str(tmp_path / "new" / "t.csv")]) == 3
    table = pd.read_csv(tmp_path / "new" / "t.csv", index_col="key", keep_default_na=False)
    assert list(table.columns) == list(check.COLUMNS)
    assert table.index[table["usable"]].tolist() == ["a", "b", "e\n\x0b{}", "f"]
    assert sorted(table.index[~table["usable"]]) == ["c.MOV", "c.mp4", "d\\xe9.mp4"]
    assert "c.MOV and c.mp4 have the same key c" in table.at["c.mp4", "problems"]
    printed = capsys.readouterr().out
    assert "4 of 7 clips are usable" in printed
    assert "seen 8 files: 4 clips, 4 left out" in printed
    others = pd.read_csv(tmp_path / "new" / "t_left_out.csv")
    assert others.loc[others["kind"] == ".pdf", "path"].tolist() == ["notes.pdf"]


@pytest.mark.parametrize("thorough", [False, True])
def test_cuts_and_faces_that_are_too_small_are_told(tmp_path, thorough):
    people = ("4rfnd819V3N.000", "B62kW3nmp1p.000")
    one, other = (read_frames(TRAINING / f"{name}.mp4").frames[:30] for name in people)
    write_mp4(np.concatenate([one, other, one]), tmp_path / "cut.mp4")
    page = np.full((20, 360, 640, 3), 235, np.uint8)
    page[:, 15::24, 30:300] = 90
    page[:, 230:350, 460:620] = cv2.resize(one[0], (160, 120), interpolation=cv2.INTER_AREA)
    write_mp4(page, tmp_path / "inset.mp4")
    table = checked(tmp_path, thorough=thorough)
    assert "3 shots" in table.at["cut", "remarks"].split("; ")
    assert re.search(r"too small.*min_face \(0\.2 of", table.at["inset", "problems"])
    assert checked(tmp_path, thorough=thorough, min_face=0.1).loc["inset", "usable"]


def damaged(whole, number):
    """The clip with the packet of one picture set to zero."""
    with open_video(whole) as video:
        packet = next(packet for packet in video.packets_of(av.open(str(whole))) if packet.pts == video.ticks[number])
    data = bytearray(whole.read_bytes())
    data[packet.pos + 8 : packet.pos + packet.size] = bytes(packet.size - 8)
    path = whole.with_stem(f"damaged_{number}")
    path.write_bytes(data)
    return path


MIDDLES, KEYS = [10, 30, 50, 70, 90], [12, 30, 48, 72, 90]


@pytest.mark.parametrize(
    ("name", "codec", "options", "numbers"),
    [
        ("many.mp4", "libx264", {"g": "6", "bf": "2", "sc_threshold": "0"}, KEYS),
        ("open.mp4", "libx264", {"g": "6", "bf": "2", "x264-params": "open-gop=1:scenecut=0:b-adapt=0"}, MIDDLES),
        ("only.mov", "mjpeg", {}, MIDDLES),
        ("few.mp4", "libx264", {"g": "50", "bf": "2", "sc_threshold": "0"}, MIDDLES),
        ("none.mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=6"}, MIDDLES),
        ("untimed.avi", "mpeg4", {"g": "6"}, MIDDLES),
    ],
)
def test_a_look_sees_the_pictures_that_it_should(tmp_path, monkeypatch, name, codec, options, numbers):
    def looked_at(path):
        seen = []
        monkeypatch.setattr(check, "detect_faces", lambda frame, *_: seen.append(frame) or np.ones((1, 5)))
        list(check.look_at((path, PreparationConfig(), False)))
        return read_numbers(np.stack(seen))

    monkeypatch.setattr(check, "DIFFER", 9.0)  # nothing is watched for cuts
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_numbered(tmp_path / name, 100, codec=codec, pixels=pixels, codec_options=options)
    assert looked_at(path) == numbers
    if numbers == KEYS:  # they are decoded alone
        assert looked_at(damaged(path, 51)) == KEYS
        with pytest.raises(VideoError, match=r"damaged_90.mp4: cannot be decoded from 6\.\d s on"):
            looked_at(damaged(path, 90))


def test_the_command_ends_with_0_when_every_clip_is_usable_and_needs_no_tensorflow(copy, tmp_path):
    (tmp_path / "p.yaml").write_text("02: {detector: haar}")
    code = "import sys; from helpers.__main__ import main; sys.exit(main(sys.argv[1:]) or 'keras' in sys.modules)"
    given = ["check", str(copy), "--no-forecast", "--limit", "2", "--params", str(tmp_path / "p.yaml")]
    done = subprocess.run([sys.executable, "-c", code, *given], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 of 2 clips are usable" in done.stdout


SMALL = {
    "02_clip_preparation": {"fps": 2.0, "detect_every": 2},
    "03_static_extraction": {"every_n_frames": 4, "workers": 1},
    "04_dynamic_extraction": {"endpoint": "Conv3d_1a_7x7", "input_px": 32},
}
ONE_ROW = 2048 * 4  # bytes


def test_an_estimate_is_the_rates_times_the_length_of_the_usable_clips_or_of_what_trees_hold(clips, tmp_path):
    folder, table = clips
    found = check.estimate(table, folder, SMALL)
    assert (found.index.tolist(), set(found["bound"])) == (list(check.STAGES), {"cores"})
    assert (found["per_s"] > 0).all()
    seconds, row = found.attrs["clip_s"], found.loc["03 static"]
    assert (found.attrs["clips"], seconds) == (2, pytest.approx(2 * probe(CLIP).duration_s))
    assert row["hours"] * 3600 == pytest.approx(seconds * row["per_s"])
    assert 0.5 < row["bytes"] / (seconds / 2) / ONE_ROW < 1.5  # 2 fps, every 4th: a row in 2 seconds
    for n_bytes in (row["bytes"], 10**18):
        assert ("WARNING" in check.estimate_text(found.assign(bytes=n_bytes))) == (n_bytes == 10**18)
    found.attrs["device"] = "NVIDIA H200"
    for bound in ("cores", "GPU"):
        assert ("second GPU" in check.estimate_text(found.assign(bound=bound))) == (bound == "cores")
    flow = np.random.default_rng(0).normal(0, 2, (25, 32, 32, 2)).astype(np.float32)
    for key in "ab":  # clips of 5 s: 1.6 faces and 5 flows a second
        write_faces(tmp_path / "faces" / key, range(0, 40, 5))
        write_flow(tmp_path / "flow" / key, flow)
    trees = [{}, {"faces_dir": str(tmp_path / "faces")}, {"flow_dir": str(tmp_path / "flow")}]
    of_trees = {name: SMALL[name] | tree for name, tree in zip(SMALL, trees, strict=True)}
    found = check.estimate(table, folder, of_trees)
    assert 0.5 < found.loc["03 static", "bytes"] / (2 * 8) / ONE_ROW < 1.5  # two clips of 8 faces


def test_without_a_clip_that_can_be_run_there_is_no_estimate(capsys, clips, monkeypatch):
    folder, table = clips
    unusable = table.loc[["c"]].assign(usable=True, duration_s=5.0)  # as a few looks may say
    for of_clips, message in ((table.loc[["c"]], "got none"), (unusable, "got c: .*readable")):
        with pytest.raises(ValueError, match=message):
            check.estimate(of_clips, folder, SMALL)
    monkeypatch.setattr(check, "estimate", lambda *_: {}["the face tree\nholds none"])
    assert __main__.main(["check", str(folder)]) == 3
    printed = capsys.readouterr().out
    assert "No forecast: 'the face tree\\nholds none'" in printed
    assert "2 of 3 clips are usable" in printed
