"""The check before a run: the drawn awkward clips, whose truth is known, and the command's exit status."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import cv2
import lookers
import numpy as np
import pandas as pd
import pytest
from numbered import read_numbers, write_numbered

from data_sample.make.sample import write_mp4
from helpers import __main__, check, forecast
from helpers.clips import scan_clips
from helpers.container import VideoError, open_video
from helpers.video import probe, read_frames

ROOT = Path(__file__).resolve().parent.parent
AWKWARD = ROOT / "data_sample" / "awkward"
PEOPLE = ("4rfnd819V3N.000", "B62kW3nmp1p.000")
CLIP = ROOT / "data_sample" / "training80_01" / "4eke_igcKkn.000.mp4"


def checked(folder, **how):
    """The table of a folder's clips."""
    return check.check_clips(folder, *scan_clips(folder), **how)


@pytest.fixture(scope="module")
def awkward():
    return checked(AWKWARD, workers=2)


@pytest.fixture
def good(tmp_path):
    """A folder of three good clips, without ratings."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in "abc":
        shutil.copy(CLIP, folder / f"{name}.mp4")
    return folder


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("broken", "not a readable video"),
        ("no_face", "no face in 5 looked-at frames"),
    ],
)
def test_unusable_clips_say_why(awkward, key, problem):
    assert not awkward.at[key, "usable"]
    assert awkward.at[key, "problems"].startswith(problem)


def test_odd_clips_are_usable_with_a_remark(awkward):
    assert awkward["usable"].sum() == 6
    assert awkward.at["very_short", "remarks"].startswith("shorter than one segment (0.47 s of 0.5 s)")
    assert awkward.at["two_faces", "remarks"] == "several faces (2 at once)"
    assert awkward.at["variable_frame_rate", "remarks"] == "rate below 12 fps (9.0); variable frame rate"
    assert awkward.at["odd_frame_rate", "remarks"] == ""


def test_the_columns_say_what_is_in_the_file(awkward):
    for key in awkward.index.drop("broken"):
        info = probe(AWKWARD / f"{key}.mp4")
        for name in check.OF_FILE:
            assert awkward.at[key, name] == getattr(info, name)
    assert awkward.loc["broken", ["width", "n_frames", "audio", "coverage", "n_faces_max"]].isna().all()
    assert awkward["bytes"].tolist() == [(AWKWARD / path).stat().st_size for path in awkward["path"]]


def test_coverage_is_that_of_a_face_that_leaves(awkward):
    assert awkward.at["face_leaving", "coverage"] == 0.4  # gone from half of the clip on
    assert awkward.at["no_face", "coverage"] == 0
    assert awkward.at["portrait_rotated", "coverage"] == 1


def test_too_few_faces_for_02_are_remarked():
    table = checked(AWKWARD, workers=1, min_coverage=0.5).loc["face_leaving"]
    assert table["usable"]
    assert table["remarks"] == "face in only 2 of 5 looked-at frames: 02 may refuse it"


def test_damage_inside_a_clip_is_found_by_decoding_all_of_it(good):
    damaged(good / "b.mp4", -2).rename(good / "b.mp4")
    assert checked(good, workers=1)["usable"].all()
    table = checked(good, workers=1, thorough=True)
    assert table["usable"].tolist() == [True, False, True]
    assert table.at["b", "problems"].startswith("cannot be decoded from 4.")
    assert table.at["b", "coverage"] == table.at["a", "coverage"] == 1
    assert table.at["b", "codec"] == "h264"


def test_a_clip_that_crashes_the_decoder_costs_that_clip(good, monkeypatch):
    monkeypatch.setattr(check, "look_at", lookers.dying_at_b)
    table = checked(good, workers=1)
    assert table["usable"].tolist() == [True, False, True]
    assert "SIGSEGV" in table.at["b", "problems"]


def test_names_that_no_clip_can_have_hide_nothing(good, capsys, tmp_path):
    for name in (b"c.MOV", b"d\xe9.mp4", b"e\n\x0b{}.mp4"):
        shutil.copy(CLIP, os.fsencode(good) + b"/" + name)
    (good / "notes.pdf").touch()
    (good / "f.MTS").write_bytes((good / "a.mp4").read_bytes())
    status, printed = run(capsys, good, "--no-forecast", "--csv", tmp_path / "t.csv")
    assert status == 3
    table = pd.read_csv(tmp_path / "t.csv", index_col="key", keep_default_na=False)
    assert table.index[table["usable"]].tolist() == ["a", "b", "e\n\x0b{}", "f"]
    assert sorted(table.index[~table["usable"]]) == ["c.MOV", "c.mp4", "d\\xe9.mp4"]
    assert table.at["c.mp4", "problems"].startswith("c.MOV and c.mp4 have the same key c")
    assert "seen 8 files: 4 clips, 4 left out" in printed.out
    assert f"list: {tmp_path / 't_left_out.csv'}" in printed.out
    assert "list: --csv FILE writes it" in run(capsys, good, "--no-forecast")[1].out
    assert "4 of 7 clips are usable" in printed.out
    others = pd.read_csv(tmp_path / "t_left_out.csv")
    assert others.loc[others["kind"] == "documents", "path"].tolist() == ["notes.pdf"]


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a\nb"), AssertionError(), MemoryError(), UnicodeError("x"), KeyError("k")]
)
def test_no_error_of_a_clip_ends_the_check(good, monkeypatch, error):
    def one_fails(answers):
        for number, (key, chunks) in enumerate(answers):
            yield key, failing(error) if number == 1 else chunks

    run_all = check.ClipPool.run
    monkeypatch.setattr(check.ClipPool, "run", lambda pool, tasks: one_fails(run_all(pool, tasks)))
    table = checked(good, workers=1)
    assert table["usable"].tolist() == [True, False, True]
    assert table.at["b", "problems"].startswith(type(error).__name__)
    assert "\n" not in table.at["b", "problems"]


def failing(error):
    yield None
    raise error


def test_cuts_and_faces_that_are_too_small_are_told(tmp_path):
    one, other = (read_frames(ROOT / "data_sample" / "training80_01" / f"{name}.mp4").frames[:30] for name in PEOPLE)
    write_mp4(np.concatenate([one, other, one]), tmp_path / "cut.mp4")
    page = np.full((20, 360, 640, 3), 235, np.uint8)
    page[:, 15::24, 30:300] = 90
    page[:, 230:350, 460:620] = cv2.resize(one[0], (160, 120), interpolation=cv2.INTER_AREA)
    write_mp4(page, tmp_path / "inset.mp4")
    for thorough in (False, True):
        table = checked(tmp_path, workers=1, thorough=thorough)
        assert "3 shots" in table.at["cut", "remarks"].split("; ")
        assert "the face is too small: 5" in table.at["inset", "problems"]
        assert "below min_face (0.2 of" in table.at["inset", "problems"]
    assert checked(tmp_path, workers=1, min_face=0.1).loc["inset", "usable"]


def test_looks_are_spread_over_a_clip_and_see_all_of_a_short_one():
    assert check.spread_numbers(50).tolist() == [5, 15, 25, 35, 45]
    assert check.spread_numbers(3).tolist() == [0, 1, 2]


@pytest.fixture
def looked_at(monkeypatch):
    """What a clip's look saw: the numbers that its frames carry."""
    seen = []
    monkeypatch.setattr(check, "DIFFER", 9.0)  # nothing is watched for cuts
    monkeypatch.setattr(check, "detect_faces", lambda frame, *_: seen.append(frame) or np.ones((1, 5)))

    def look(path, *, thorough=False):
        seen.clear()
        list(check.look_at(check.Request(path, "haar", 0.2, thorough)))
        return read_numbers(np.stack(seen))

    return look


MIDDLES, KEYS = [10, 30, 50, 70, 90], [12, 30, 48, 72, 90]
CLOSED = {"g": "6", "bf": "2", "sc_threshold": "0"}


@pytest.mark.parametrize(
    ("name", "codec", "options", "numbers"),
    [
        ("many.mp4", "libx264", CLOSED, KEYS),
        ("open.mp4", "libx264", {"g": "6", "bf": "2", "x264-params": "open-gop=1:scenecut=0:b-adapt=0"}, MIDDLES),
        ("many.webm", "libvpx-vp9", {"b": "0", "g": "6"}, KEYS),
        ("hevc.mkv", "libx265", {"x265-params": "log-level=none:keyint=6:min-keyint=6:open-gop=1"}, KEYS),
        ("only.mov", "mjpeg", {}, MIDDLES),
        ("few.mp4", "libx264", {"g": "50", "bf": "2", "sc_threshold": "0"}, MIDDLES),
        ("none.mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=6"}, MIDDLES),
        ("untimed.avi", "mpeg4", {"g": "6"}, MIDDLES),
    ],
)
def test_a_look_sees_the_pictures_it_asks_for(tmp_path, looked_at, name, codec, options, numbers):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_numbered(tmp_path / name, 100, codec=codec, pixels=pixels, codec_options=options)
    assert looked_at(path) == numbers
    assert looked_at(path, thorough=True) == MIDDLES


def damaged(whole, number):
    """The clip with the packet of one picture set to zero."""
    with open_video(whole) as video:
        packet = next(packet for packet in video.packets_of(av.open(str(whole))) if packet.pts == video.ticks[number])
    data = bytearray(whole.read_bytes())
    data[packet.pos + 8 : packet.pos + packet.size] = bytes(packet.size - 8)
    path = whole.with_stem(f"damaged_{number}")
    path.write_bytes(data)
    return path


def test_key_pictures_are_decoded_alone_and_a_damaged_one_is_named(tmp_path, looked_at):
    whole = write_numbered(tmp_path / "clip.mp4", 100, codec_options=CLOSED)
    between = damaged(whole, 51)
    assert looked_at(between) == KEYS
    with pytest.raises(VideoError, match=r"damaged_51.mp4: cannot be decoded from 3\.\d s on"):
        looked_at(between, thorough=True)
    with pytest.raises(VideoError, match=r"damaged_90.mp4: cannot be decoded from 6\.\d s on"):
        looked_at(damaged(whole, 90))


def test_the_text_fits_the_terminal_and_holds_every_clip(awkward):
    text = check.as_text(awkward.rename({"two_faces": "folder/" * 20 + "two_faces"}))
    assert max(map(len, text.splitlines())) <= check.WIDTH
    assert all(key[:8] in text for key in awkward.index)
    assert "unusable: no face in 5 looked-at frames" in text
    assert next(line for line in text.splitlines() if line.startswith("broken")).split()[1:] == ["?"] * 9
    assert text.endswith("6 of 8 clips are usable, 0.0 h (23 s), 3 of them with a remark; 2 are not.")


def test_the_text_of_many_clips_shows_the_odd_ones_and_counts_the_rest(awkward):
    many = pd.concat([awkward.add_prefix(f"{k}/", axis=0) for k in range(6)])
    many.loc[many["usable"], "remarks"] = ""
    text = check.as_text(many)
    assert "    24 clips: h264, 320x240, 15.00 fps" in text
    assert "0/broken" in text
    assert "0/two_faces" not in text


def run(capsys, *arguments):
    status = __main__.main(["check", *map(str, arguments)])
    return status, capsys.readouterr()


def test_the_command_ends_with_3_when_a_clip_is_unusable(capsys, tmp_path):
    status, printed = run(capsys, AWKWARD, "--no-forecast", "--csv", tmp_path / "new" / "table.csv")
    assert status == 3
    assert "2 are not." in printed.out
    assert "Forecast" not in printed.out
    table = pd.read_csv(tmp_path / "new" / "table.csv", index_col="key")
    assert list(table.columns) == list(check.COLUMNS)
    assert table.at["no_face", "problems"] == "no face in 5 looked-at frames"
    assert table.at["portrait_rotated", "rotation_deg"] == -90


def test_the_command_ends_with_0_when_every_clip_is_usable_and_needs_no_tensorflow(good, tmp_path):
    (tmp_path / "p.yaml").write_text("02: {detector: haar}")
    code = "import sys; from helpers.__main__ import main; s = main(sys.argv[1:]); assert 'keras' not in sys.modules"
    command = [sys.executable, "-c", f"{code}; sys.exit(s)", "check", str(good), "--no-forecast", "--limit", "2"]
    command += ["--params", str(tmp_path / "p.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 of 2 clips are usable" in done.stdout


def test_the_command_ends_with_1_at_a_missing_folder_or_a_wrong_parameter(capsys, good, tmp_path):
    status, printed = run(capsys, tmp_path / "nowhere", "--no-forecast")
    assert status == 1
    assert "does not exist" in printed.err
    (tmp_path / "p.yaml").write_text("02: {fsp: 25}")
    status, printed = run(capsys, good, "--no-forecast", "--params", tmp_path / "p.yaml")
    assert status == 1
    assert "unknown parameter 'fsp'" in printed.err
    assert run(capsys, good, "--no-forecast", "--limit", -1)[0] == 1


def test_a_forecast_that_fails_says_why_and_the_check_stands(capsys, good, monkeypatch):
    def fail(*_):
        raise KeyError("the face tree\nholds none")

    monkeypatch.setattr(forecast, "forecast", fail)
    status, printed = run(capsys, good)
    assert status == 0
    assert "No forecast: 'the face tree\\nholds none'" in printed.out
    assert "3 of 3 clips are usable" in printed.out


@pytest.mark.parametrize(
    ("hours", "text"),
    [(0.01, "0.0 h (36 s)"), (0.4166, "0.4 h (25 min)"), (5.99, "6.0 h (359 min)"), (1234.5, "1,234 h")],
)
def test_hours_are_said_in_the_unit_that_fits(hours, text):
    assert check.duration_text(hours) == text
