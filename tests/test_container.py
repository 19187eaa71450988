"""The table of a file's pictures: edit lists, cut-off files, streams without times, files too large to be kept."""

import re
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition
from numbered import WIDTH, numbered_frames, read_numbers, write_numbered

from data_sample.make.awkward import turn_clockwise
from data_sample.make.sample import write_mp4
from helpers import container
from helpers.container import CLUSTER, VideoError, open_video
from helpers.excerpt import write_excerpt
from helpers.probe import probe
from helpers.video import read_frames


def shifted(whole, path, frames: int):
    """Copy a clip's packets with all times moved; times before zero become an edit list that hides them."""
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                ticks = round(frames / (15 * packet.time_base))
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                packet.stream = stream
                target.mux(packet)
    return path


@pytest.mark.parametrize("backend", ["pyav", "opencv"])
def test_what_an_edit_list_hides_is_not_shown(tmp_path, backend):
    whole = write_numbered(tmp_path / "whole.mp4", 29, codec_options={"bf": "2", "g": "50"})
    path = shifted(whole, tmp_path / "hidden.mp4", -6)
    got = read_frames(path, backend=backend)
    numbers = read_numbers(got.frames)
    assert numbers == list(range(numbers[0], 29))
    assert numbers[0] >= 4
    assert read_numbers(read_frames(path, [3, 10], backend=backend).frames) == [numbers[3], numbers[10]]
    assert got.t_s[0] == 0


@pytest.mark.parametrize("backend", ["pyav", "opencv"])
def test_a_late_start_is_time_zero(tmp_path, backend):
    path = shifted(write_numbered(tmp_path / "whole.mp4", 12), tmp_path / "late.mkv", 30)
    got = read_frames(path, backend=backend)
    assert read_numbers(got.frames) == list(range(12))
    np.testing.assert_allclose(got.t_s, np.arange(12) / 15, atol=2e-3)


def test_streams_without_times_are_counted(tmp_path):
    path = write_numbered(tmp_path / "clip.avi", 23, codec_options={"bf": "3"})
    with open_video(path) as video:
        assert not video.timed
    assert read_numbers(read_frames(path).frames) == list(range(23))
    assert read_numbers(read_frames(path, [4, 20]).frames) == [4, 20]


def test_a_variable_rate_and_sound_are_told(tmp_path):
    kept = np.array([0, 1, 2, 5, 6, 11])
    write_mp4(np.zeros((6, 48, 80, 3), np.uint8), tmp_path / "vfr.mp4", 15, t_s=kept / 15)
    steady = write_numbered(tmp_path / "cfr.mp4", 9)
    assert probe(tmp_path / "vfr.mp4").variable_rate
    assert not probe(steady).variable_rate
    assert not probe(steady).audio


def test_a_first_picture_that_cannot_be_decoded_is_named(tmp_path):
    path = write_numbered(tmp_path / "clip.mp4", 9)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start : start + 700] = bytes(700)
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"clip\.mp4: (its first frame cannot|holds no frame that can) be decoded"):
        probe(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_title_in_another_encoding_is_no_reason_to_refuse_a_file(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as target:
        target.metadata["title"] = "Gruesse"
        stream = target.add_stream("mpeg4", rate=15)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        for frame in numbered_frames(11):
            target.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        target.mux(stream.encode())
    data = path.read_bytes()
    assert b"Gruesse" in data
    data = data.replace(b"Gruesse", "Gr\xfc\xdfe--".encode("latin-1"))
    path.write_bytes(turn_clockwise(data, width=WIDTH) if suffix == ".mp4" else data)
    assert abs(probe(path).rotation_deg) == (90 if suffix == ".mp4" else 0)
    with open_video(path) as video:
        assert video.container.metadata["title"] == "Gr\ufffd\ufffde--"
    assert probe(write_excerpt(path, tmp_path / f"part{suffix}", 0.2)).n_frames >= 3
    assert len(read_frames(path).frames) == 11


def test_frames_that_are_all_shown_at_once_have_the_declared_rate(tmp_path):
    path = write_numbered(tmp_path / "clip.mp4", 9, codec_options={"bf": "0"})
    data = bytearray(path.read_bytes())
    count = data.index(b"stts") + 12  # of the frames in the first entry of the table of durations
    data[count : count + 4] = bytes(4)
    path.write_bytes(data)
    info = probe(path)
    assert (info.n_frames, info.fps) == (9, pytest.approx(1 / info.duration_s))
    with open_video(path) as video:
        rateless = replace(video, stream=SimpleNamespace(time_base=video.stream.time_base, average_rate=None))
    with pytest.raises(VideoError, match=r"^clip\.mp4: shows all of its 9 frames at once, and declares no rate\."):
        container._check_times(rateless)


@pytest.mark.parametrize("late_s", [4000.0, 100_000.0])
def test_a_time_that_no_camera_gives_is_refused_before_anything_is_sampled(tmp_path, late_s):
    times = np.array([0, 1, 2, 3, 15 * late_s, 15 * late_s + 1]) / 15
    write_mp4(numbered_frames(6), tmp_path / "clip.mp4", 15, t_s=times)
    message = (
        rf"^clip\.mp4: shows one frame for {late_s / 3600:.1f} hours, from 0\.2 s on\. Copy or download it again\.$"
    )
    with pytest.raises(VideoError, match=message):
        read_frames(tmp_path / "clip.mp4", fps=15)


def write_sound(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 16000
        container.mux(stream.encode(samples))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, r"bad\.mp4: there is no such file"),
        (lambda path: path.write_bytes(b""), r"bad\.mp4: the file is empty \(0 bytes\)\. Copy or download it again"),
        (lambda path: path.write_text("not a video\n" * 99), r"bad\.mp4: not a readable video \(Invalid data"),
        (write_sound, r"bad\.mp4: holds no video stream \(audio only\)"),
    ],
)
def test_what_is_no_video_is_refused_with_a_reason(tmp_path, write, message):
    path = tmp_path / "bad.mp4"
    write(path)
    with pytest.raises(VideoError, match=message):
        probe(path)


@pytest.mark.parametrize(
    ("name", "options", "share", "message"),
    [
        ("index last.mp4", {}, 0.5, "not a readable video"),
        ("index first.mp4", {"movflags": "faststart"}, 0.6, r"breaks off at \d\.\d s"),
        ("clip.mkv", {}, 0.6, r"breaks off at [0123]\.\d s of 4\.1 s"),
    ],
)
def test_a_truncated_file_is_refused(tmp_path, name, options, share, message):
    path = write_numbered(tmp_path / name, 61, codec_options={"g": "8"}, container_options=options)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(VideoError, match=f"{name}: {message}"):
        probe(path)


@pytest.fixture(scope="module")
def matroska(tmp_path_factory):
    path = tmp_path_factory.mktemp("mkv") / "clip.mkv"
    return write_numbered(path, 61, codec_options={"g": "10"}, container_options={"cluster_time_limit": "800"})


def second_cluster(data) -> tuple[int, int]:
    """First byte of the second cluster and of the third."""
    _, second, third, *_ = (m.start() for m in re.finditer(CLUSTER.to_bytes(4, "big"), data))
    return second, third


def changed(matroska, tmp_path, change) -> Path:
    data = bytearray(matroska.read_bytes())
    change(data, *second_cluster(data))
    (tmp_path / "clip.mkv").write_bytes(data)
    return tmp_path / "clip.mkv"


def lose_the_end(data, start, end):
    del data[-1:]


def blank_a_part(data, start, end):
    data[start + 40 : end] = bytes(end - start - 40)


def void_a_part(data, start, end):  # as an element that readers pass over (Void, 0xEC)
    data[start:end] = b"\xec\x01" + (end - start - 9).to_bytes(7, "big") + bytes(end - start - 9)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lose_the_end, r"its last 1 bytes are missing"),
        (blank_a_part, r"what follows byte [\d,]+ is damaged"),
        (void_a_part, r"what its index puts at [01]\.\d s is missing"),
    ],
)
def test_a_matroska_file_that_lost_something_says_so(matroska, tmp_path, change, reason):
    with pytest.raises(VideoError, match=rf"clip\.mkv: {reason}\. Copy or download it again"):
        probe(changed(matroska, tmp_path, change))


def test_whole_matroska_files_and_live_recordings_pass(matroska, tmp_path):
    assert read_numbers(read_frames(matroska).frames) == list(range(61))
    assert probe(write_numbered(tmp_path / "clip.webm", 23, codec="libvpx-vp9")).n_frames == 23
    assert probe(write_numbered(tmp_path / "live.mkv", 9, container_options={"live": "1"})).n_frames == 9


def test_a_damaged_matroska_file_is_never_more_than_a_reason(matroska, tmp_path):
    rng = np.random.default_rng(0)

    def spoil(data, *_):
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.choice([0, 1, 8, 127, 128, 255, rng.integers(256)])

    for _ in range(200):
        with suppress(VideoError):
            probe(changed(matroska, tmp_path, spoil))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".gif", ".webp"])
def test_a_renamed_picture_is_no_video(tmp_path, suffix):
    ok, data = cv2.imencode(suffix, np.full((48, 80, 3), 99, np.uint8))
    assert ok
    (tmp_path / "clip.mp4").write_bytes(data)
    with pytest.raises(VideoError, match=r"clip\.mp4: not a video but a picture"):
        probe(tmp_path / "clip.mp4")


def write_streams(path, streams) -> None:
    """Write video streams side by side: so many frames, size, disposition."""
    with av.open(str(path), "w") as target:
        added = [target.add_stream("libx264" if path.suffix != ".webm" else "libvpx-vp9", rate=15) for _ in streams]
        for stream, (_, (stream.width, stream.height), stream.disposition) in zip(added, streams, strict=True):
            stream.pix_fmt = "yuv420p"
        for stream, (n, size, _) in zip(added, streams, strict=True):
            for frame in numbered_frames(n):
                target.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(*size)))
            target.mux(stream.encode())


NONE, DEFAULT = Disposition(0), Disposition.default
SMALL, LARGE = (80, 48), (160, 96)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
@pytest.mark.parametrize(
    ("streams", "width", "remark"),
    [
        ([(9, SMALL, NONE), (7, LARGE, DEFAULT)], 160, ("number 2 is read, the default one",)),
        ([(9, LARGE, DEFAULT), (7, SMALL, NONE)], 160, ("number 1 is read, the default one",)),
        ([(1, SMALL, DEFAULT), (7, LARGE, NONE)], 160, ()),
        ([(9, LARGE, DEFAULT), (1, SMALL, NONE)], 160, ()),
    ],
)
def test_the_default_stream_of_several_is_read_and_the_others_are_mentioned(tmp_path, suffix, streams, width, remark):
    path = tmp_path / f"clip{suffix}"
    write_streams(path, streams)
    info = probe(path)
    assert info.width == width == read_frames(path).frames.shape[2]
    assert info.n_frames == max(n for n, size, _ in streams if size == LARGE)
    assert tuple(text.split(": ")[1] for text in info.remarks) == remark
    with pytest.raises(VideoError, match="OpenCV would show it wrongly"):
        read_frames(path, backend="opencv")


@pytest.mark.parametrize("bf", ["0", "2"])
def test_null_frames_of_avi_are_waited_for_and_named_where_times_are_unsure(tmp_path, bf):
    path, times = tmp_path / "clip.avi", np.array([*range(10), *range(51, 70)])  # in frames of 1/25 s
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=25, options={"bf": bf, "x264-params": "b-adapt=0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, 48, "yuv420p"
        for time, frame in zip(times, numbered_frames(len(times)), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = int(time), Fraction(1, 25)
            target.mux(stream.encode(picture))
        target.mux(stream.encode())
    got = read_frames(path)
    assert read_numbers(got.frames) == list(range(29))
    np.testing.assert_allclose(got.t_s, times / 25, atol=1e-6)
    assert "beside gaps (the longest 1.7 s, at 0.4 s) unsure" in probe(path).remarks[0]
    assert probe(write_numbered(tmp_path / "steady.avi", 23, codec_options={"bf": bf})).remarks == ()
