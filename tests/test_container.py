"""The table of a file's pictures: edit lists, broken files, several streams, cuts out of longer videos."""

import re
from contextlib import suppress
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition
from numbered import numbered_frames, read_numbers, write_numbered

from data_sample.make.sample import write_mp4
from helpers.container import CLUSTER, VideoError
from helpers.video import iter_frames, probe, read_frames

both_backends = pytest.mark.parametrize("backend", ["pyav", "opencv"])


def copied(whole: Path, path: Path, shift_frames: int = 0, first=lambda packets: 0) -> Path:
    """Copy a clip's packets from the `first` on, with all times moved; those before zero an edit list hides."""
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for packet in packets[first(packets) :]:
            if shift_frames:
                ticks = round(shift_frames / (15 * packet.time_base))
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            packet.stream = stream
            target.mux(packet)
    return path


@both_backends
@pytest.mark.parametrize(("name", "shift_frames", "hidden"), [("hidden.mp4", -6, range(4, 7)), ("late.mkv", 30, [0])])
def test_what_an_edit_list_hides_is_not_shown_and_a_late_start_is_zero(tmp_path, backend, name, shift_frames, hidden):
    whole = write_numbered(tmp_path / "whole.mp4", 29, codec_options={"bf": "2", "g": "50"})
    path = copied(whole, tmp_path / name, shift_frames)
    got = read_frames(path, backend=backend)
    numbers = read_numbers(got.frames)
    assert numbers == list(range(numbers[0], 29))
    assert numbers[0] in hidden
    np.testing.assert_allclose(got.t_s, np.arange(len(numbers)) / 15, atol=2e-3)
    assert read_numbers(read_frames(path, [3, 10], backend=backend).frames) == [numbers[3], numbers[10]]


def numbered(path: Path, **options) -> bytearray:
    return bytearray(write_numbered(path, 61, codec_options={"g": "8", "bf": "0"}, **options).read_bytes())


def zero_durations(path):
    data = numbered(path)
    count = data.index(b"stts") + 12  # of the frames in the first entry of the table of durations
    data[count : count + 4] = bytes(4)
    path.write_bytes(data)


def spoil_the_first(path):
    data = bytearray(write_numbered(path, 9).read_bytes())
    start = data.index(b"mdat") + 4
    data[start : start + 700] = bytes(700)
    path.write_bytes(data)


def cut_off(path, share, **options):
    data = numbered(path, **options)
    path.write_bytes(data[: int(share * len(data))])


def wait(path, hours):
    write_mp4(numbered_frames(6), path, 15, t_s=np.array([0, 1, 2, 3, 54_000 * hours, 54_000 * hours + 1]) / 15)


def write_sound(path):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 16000
        container.mux(stream.encode(samples))
        container.mux(stream.encode())


def lose_a_start(path):
    whole = write_numbered(path.with_name("w.ts"), 61, codec_options={"g": "999", "sc_threshold": "0"})
    copied(whole, path, first=lambda packets: 9)


REFUSED = {  # a file's name, what makes it, and a word of the reason
    "gone.mp4": (lambda path: None, "no such file"),
    "empty.mp4": (lambda path: path.write_bytes(b""), "empty"),
    "text.mp4": (lambda path: path.write_text("not a video\n" * 99), "not a readable video"),
    "sound.mp4": (write_sound, "no video stream"),
    "first picture.mp4": (spoil_the_first, "decoded"),
    "at once.mp4": (zero_durations, "at once"),
    "hours.mp4": (lambda path: wait(path, 1.1), "hours"),
    "days.mp4": (lambda path: wait(path, 28), "hours"),
    "index last.mp4": (lambda path: cut_off(path, 0.5), "not a readable video"),
    "index first.mp4": (lambda p: cut_off(p, 0.6, container_options={"movflags": "faststart"}), "breaks off at"),
    "cut.mkv": (lambda path: cut_off(path, 0.6), r"breaks off at [0123]\.\d s of 4\.1 s"),
    "no beginning.ts": (lose_a_start, "first frame"),
} | {
    f"picture{suffix}.mp4": (
        lambda p, suffix=suffix: p.write_bytes(cv2.imencode(suffix, np.full((48, 80, 3), 99, np.uint8))[1]), "picture",
    )
    for suffix in (".jpg", ".png", ".bmp", ".gif", ".webp")
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_whole_video_is_refused_with_its_name_and_a_reason_before_anything_is_sampled(tmp_path, name):
    write, word = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(VideoError, match=rf"^{name}: .*{word}"):
        next(iter_frames(tmp_path / name, fps=15))


@both_backends
def test_damage_in_the_middle_is_an_error_that_says_where(tmp_path, backend):
    data = numbered(tmp_path / "clip.mp4")
    middle = len(data) // 2
    data[middle : middle + 1500] = np.random.default_rng(0).bytes(1500)
    (tmp_path / "clip.mp4").write_bytes(data)
    before = []
    with pytest.raises(VideoError, match=r"clip\.mp4: cannot be decoded from [123]\.\d s on \(of 4\.1 s\)"):
        before.extend(number for _, _, number, _ in iter_frames(tmp_path / "clip.mp4", backend=backend))
    assert before == list(range(len(before)))
    assert 10 < len(before) < 50


@pytest.fixture(scope="module")
def matroska(tmp_path_factory):
    path = tmp_path_factory.mktemp("mkv") / "clip.mkv"
    return write_numbered(path, 61, codec_options={"g": "10"}, container_options={"cluster_time_limit": "800"})


def changed(matroska, tmp_path, change) -> Path:
    """A copy in which the second cluster, from its first byte to its end, was changed."""
    data, path = bytearray(matroska.read_bytes()), tmp_path / "clip.mkv"
    _, second, third, *_ = (m.start() for m in re.finditer(CLUSTER.to_bytes(4, "big"), data))
    change(data, second, third)
    path.write_bytes(data)
    return path


def lose_the_end(data, start, end):
    del data[-1:]


def blank_a_part(data, start, end):
    data[start + 40 : end] = bytes(end - start - 40)


def void_a_part(data, start, end):  # as an element that readers pass over (Void, 0xEC)
    data[start:end] = b"\xec\x01" + (end - start - 9).to_bytes(7, "big") + bytes(end - start - 9)


@pytest.mark.parametrize(
    ("change", "word"), [(lose_the_end, "1 bytes"), (blank_a_part, "byte"), (void_a_part, "index")]
)
def test_a_matroska_file_that_lost_something_says_so(matroska, tmp_path, change, word):
    with pytest.raises(VideoError, match=rf"clip\.mkv: .*{word}"):
        probe(changed(matroska, tmp_path, change))


def test_what_a_second_recording_behind_the_first_lost_is_missed(matroska, tmp_path):
    both = tmp_path / "both.mkv"
    both.write_bytes(2 * matroska.read_bytes())
    assert probe(both).n_frames > 61
    both.write_bytes(matroska.read_bytes() + changed(matroska, tmp_path, blank_a_part).read_bytes())
    with pytest.raises(VideoError, match="byte"):
        probe(both)


def test_whole_matroska_files_live_recordings_and_zeros_behind_the_end_pass(matroska, tmp_path):
    assert read_numbers(read_frames(matroska).frames) == list(range(61))
    assert probe(changed(matroska, tmp_path, lambda data, *_: data.extend(bytes(64)))).n_frames == 61
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


NONE, DEFAULT = Disposition(0), Disposition.default
SMALL, LARGE = (80, 48), (160, 96)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
@pytest.mark.parametrize(
    ("streams", "remark"),
    [
        ([(9, SMALL, NONE), (7, LARGE, DEFAULT)], "number 2"),
        ([(9, LARGE, DEFAULT), (7, SMALL, NONE)], "number 1"),
        ([(1, SMALL, DEFAULT), (7, LARGE, NONE)], ""),
        ([(9, LARGE, DEFAULT), (1, SMALL, NONE)], ""),
    ],
)
def test_the_default_stream_of_several_is_read_and_the_others_are_mentioned(tmp_path, suffix, streams, remark):
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as target:
        added = [target.add_stream("libx264" if suffix != ".webm" else "libvpx-vp9", rate=15) for _ in streams]
        for stream, (_, (stream.width, stream.height), stream.disposition) in zip(added, streams, strict=True):
            stream.pix_fmt = "yuv420p"
        for stream, (n, size, _) in zip(added, streams, strict=True):
            for frame in numbered_frames(n):
                target.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(*size)))
            target.mux(stream.encode())
    info = probe(path)
    assert info.width == 160 == read_frames(path).frames.shape[2]
    assert info.n_frames == max(n for n, size, _ in streams if size == LARGE)
    assert remark in " ".join(info.remarks)
    assert bool(remark) == bool(info.remarks)
    with pytest.raises(VideoError, match="OpenCV"):
        read_frames(path, backend="opencv")


@pytest.mark.parametrize(("codec", "bf"), [("mpeg4", "0"), ("libx264", "2")])
def test_null_frames_of_avi_are_waited_for_and_refused_where_times_are_unsure(tmp_path, codec, bf):
    times = [*range(10), *range(51, 70)]  # in frames of 1/25 s
    options = {"bf": bf, "x264-params": "b-adapt=0"}
    path = write_numbered(tmp_path / "clip.avi", 29, 25, codec=codec, codec_options=options, times=times)
    if bf != "0":
        with pytest.raises(VideoError, match=r"clip\.avi: its times are unsure"):
            probe(path)
        return
    got = read_frames(path)
    assert read_numbers(got.frames) == list(range(29))
    np.testing.assert_allclose(got.t_s, np.array(times) / 25, atol=1e-6)


N = 61
OPEN = {"x264-params": "keyint=24:open-gop=1:bframes=3:b-adapt=0:scenecut=0"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=12:bframes=2"}
HEVC = {"x265-params": "log-level=none:keyint=24:min-keyint=24:open-gop=1:bframes=4:b-adapt=0"}
KEYS = {"g": "12", "bf": "2", "b": "800000"}
VP9 = {"b": "0", "g": "20"}
CUTS = {  # encoder, its options, how many packets before the second key picture the cut begins
    "forgetting.mp4": ("libx264", {"x264-params": "keyint=25:open-gop=1:bframes=3"}, 0),
    "open.mp4": ("libx264", OPEN, 0),
    "open.ts": ("libx264", OPEN, 0),
    "open.avi": ("libx264", OPEN, 0),
    "before a key picture.mkv": ("libx264", OPEN, 3),
    "refreshed.ts": ("libx264", REFRESH, 0),
    "hevc.mp4": ("libx265", HEVC, 0),
    "hevc before.ts": ("libx265", HEVC, 2),
    "mpeg2.ts": ("mpeg2video", KEYS, 0),
    "mpeg2 before.mpg": ("mpeg2video", KEYS, 3),
    "mpeg4 before.mp4": ("mpeg4", KEYS, 3),
    "vp9.webm": ("libvpx-vp9", VP9, 0),
    "vp9 before.webm": ("libvpx-vp9", VP9, 3),
}


def cut(whole: Path, path: Path, before: int = 0) -> Path:
    """The clip from its second key picture on, or from so many packets before it."""
    return copied(whole, path, first=lambda packets: [k for k, p in enumerate(packets) if p.is_keyframe][1] - before)


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_shows_the_pictures_of_the_whole_from_the_first_that_can_be_decoded(tmp_path, name):
    codec, options, before = CUTS[name]
    whole = write_numbered(tmp_path / f"whole {name}", N, codec=codec, codec_options=options)
    path = cut(whole, tmp_path / name, before)
    frames, got = read_frames(whole).frames, read_frames(path)
    numbers = read_numbers(got.frames)
    assert numbers == list(range(numbers[0], N))
    assert 5 < numbers[0] <= 25
    np.testing.assert_array_equal(got.frames, frames[numbers])
    np.testing.assert_array_equal(read_frames(path, [3, 20]).frames, frames[[numbers[3], numbers[20]]])
    assert "begins in the middle" in " ".join(probe(path).remarks) or (codec != "libx264" and not before)


def test_a_refresh_is_right_whatever_the_number_of_its_first_picture(tmp_path):
    """H.264 counts to 16 here: at 0 FFmpeg has nothing to refer to, and would show wrong pictures without a word."""
    options = {"x264-params": "keyint=4:intra-refresh=1:bframes=0:scenecut=0"}
    whole = write_numbered(tmp_path / "whole.mkv", N, codec_options=options)
    frames = read_frames(whole).frames
    for path in (cut(whole, tmp_path / f"{k}.mkv", -4 * k) for k in range(4)):
        got = read_frames(path)
        np.testing.assert_array_equal(got.frames, frames[-len(got.frames) :])


@pytest.mark.parametrize("options", [OPEN, REFRESH])
@pytest.mark.parametrize("share", [0.15, 0.4, 0.9])
def test_damage_in_a_cut_is_named(tmp_path, options, share):
    path = cut(write_numbered(tmp_path / "whole.mp4", N, codec_options=options), tmp_path / "cut.mp4")
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    place = start + round(share * (len(data) - start))
    data[place : place + 300] = np.random.default_rng(0).bytes(300)
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"cut\.mp4: "):
        read_frames(path)
