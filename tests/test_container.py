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

N = 61
OPEN = {"x264-params": "keyint=24:open-gop=1:bframes=3:b-adapt=0:scenecut=0"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=12:bframes=2"}
HEVC = {"x265-params": "log-level=none:keyint=24:min-keyint=24:open-gop=1:bframes=4:b-adapt=0"}
KEYS = {"g": "12", "bf": "2", "b": "800000"}
VP9 = {"b": "0", "g": "20"}
STREAMS = {  # encoder, its options, of a cut how many packets before the second key picture it begins, other pixels
    "no reordering.mp4": ("libx264", {"bf": "0"}, None),
    "b pictures.mkv": ("libx264", {"bf": "3", "x264-params": "b-pyramid=none"}, None),
    "open groups.mp4": ("libx264", {"g": "8", "bf": "3", "x264-params": "open-gop=1:b-adapt=0:scenecut=0"}, None),
    "intra refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:keyint=12"}, None),
    "start codes.ts": ("libx264", {"bf": "3"}, None),
    "more colour.mov": ("libx264", {}, None, "yuv422p"),
    "whole hevc.mp4": ("libx265", {"x265-params": "log-level=none"}, None),
    "open hevc.mkv": ("libx265", {"x265-params": "log-level=none:keyint=8:min-keyint=8:open-gop=1"}, None),
    "whole vp9.webm": ("libvpx-vp9", VP9, None),
    "counted.avi": ("mpeg4", {"bf": "2"}, None),
    "counted h264.avi": ("libx264", {"bf": "3"}, None),
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
NULL_FRAMES = {"fps": 25, "times": [*range(10), *range(51, 70)]}
NONE, DEFAULT = Disposition(0), Disposition.default
SMALL, LARGE = (80, 48), (160, 96)
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


def cut(whole: Path, path: Path, before: int = 0) -> Path:
    """The clip from its second key picture on, or from so many packets before it."""
    return copied(whole, path, first=lambda packets: [k for k, p in enumerate(packets) if p.is_keyframe][1] - before)


@pytest.mark.parametrize("name", STREAMS)
def test_chosen_frames_are_those_of_a_whole_decoding_and_a_cut_begins_with_the_first_that_can_be_decoded(
    tmp_path, name
):
    codec, options, before, *pixels = STREAMS[name]
    how = {"codec": codec, "codec_options": options, "pixels": (*pixels, "yuv420p")[0]}
    whole = path = write_numbered(tmp_path / f"whole {name}", N, **how)
    if before is not None:
        path = cut(whole, tmp_path / name, before)
        assert "begins in the middle" in " ".join(probe(path).remarks) or (codec != "libx264" and not before)
    frames, got = read_frames(whole).frames, read_frames(path)
    numbers = read_numbers(got.frames)
    assert numbers == list(range(numbers[0], N))
    np.testing.assert_array_equal(got.frames, frames[numbers])
    for wanted in ([3], [3, 20], [10, 11, 12], [27, 34], list(range(0, 35, 5))):
        np.testing.assert_array_equal(read_frames(path, wanted).frames, got.frames[wanted])
    if before is None:
        assert numbers == list(range(N)) == read_numbers(read_frames(path, backend="opencv").frames)
    else:
        assert 5 < numbers[0] <= 25


def test_a_refresh_is_right_whatever_the_number_of_its_first_picture(tmp_path):
    """H.264 counts to 16 here: at 0 FFmpeg has nothing to refer to, and would show wrong pictures without a word."""
    options = {"x264-params": "keyint=4:intra-refresh=1:bframes=0:scenecut=0"}
    whole = write_numbered(tmp_path / "whole.mkv", N, codec_options=options)
    frames = read_frames(whole).frames
    for path in (cut(whole, tmp_path / f"{k}.mkv", -4 * k) for k in range(4)):
        got = read_frames(path)
        np.testing.assert_array_equal(got.frames, frames[-len(got.frames) :])


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


def test_null_frames_of_avi_are_waited_for(tmp_path):
    got = read_frames(write_numbered(tmp_path / "clip.avi", 29, codec="mpeg4", **NULL_FRAMES))
    assert read_numbers(got.frames) == list(range(29))
    np.testing.assert_allclose(got.t_s, np.array(NULL_FRAMES["times"]) / 25, atol=1e-6)


def clip_with(change, n=N, **container_options):
    """What writes a clip of which `change` takes the bytes and gives others."""
    how = {"container_options": {"cluster_time_limit": "800"} | container_options}
    how["codec_options"] = {"g": "8", "bf": "0"}
    return lambda path: path.write_bytes(change(write_numbered(path, n, **how).read_bytes()))


def blank(data, mark, skip, n):
    """Put n zeros so many bytes behind a mark."""
    start = data.index(mark) + skip
    return data[:start] + bytes(n) + data[start + n :]


def in_cluster(data, skip, begin=lambda n: b""):
    """Put zeros into the second cluster of Matroska from so many bytes on, or what gives `begin` of their number."""
    _, start, end, *_ = (m.start() for m in re.finditer(CLUSTER.to_bytes(4, "big"), data))
    return data[: start + skip] + begin(end - start).ljust(end - start - skip, b"\0") + data[end:]


def void(n):  # an element that readers pass over (Void, 0xEC)
    return b"\xec\x01" + (n - 9).to_bytes(7, "big")


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
    whole = write_numbered(path.with_name("w.ts"), N, codec_options={"g": "999", "sc_threshold": "0"})
    copied(whole, path, first=lambda packets: 9)


REFUSED = {  # a file's name, what makes it, and a word of the reason
    "gone.mp4": (lambda path: None, "no such file"),
    "empty.mp4": (lambda path: path.touch(), "empty"),
    "text.mp4": (lambda path: path.write_text("not a video\n" * 99), "not a readable video"),
    "sound.mp4": (write_sound, "no video stream"),
    "first picture.mp4": (clip_with(lambda data: blank(data, b"mdat", 4, 700), n=2), "decoded"),
    "at once.mp4": (clip_with(lambda data: blank(data, b"stts", 12, 4)), "at once"),  # the first count of durations
    "hours.mp4": (lambda path: wait(path, 1.1), "hours"),
    "days.mp4": (lambda path: wait(path, 28), "hours"),
    "index last.mp4": (clip_with(lambda data: data[: len(data) // 2]), "not a readable video"),
    "index first.mp4": (clip_with(lambda data: data[: 3 * len(data) // 5], movflags="faststart"), "breaks off at"),
    "cut.mkv": (clip_with(lambda data: data[: 3 * len(data) // 5]), r"breaks off at [0123]\.\d s of 4\.1 s"),
    "end.mkv": (clip_with(lambda data: data[:-1]), "1 bytes"),
    "blank.mkv": (clip_with(lambda data: in_cluster(data, 40)), "byte"),
    "void.mkv": (clip_with(lambda data: in_cluster(data, 0, void)), "index"),
    "blank in the second of two.mkv": (clip_with(lambda data: data + in_cluster(data, 40)), "byte"),
    "no beginning.ts": (lose_a_start, "first frame"),
    "unsure.avi": (lambda path: write_numbered(path, 29, codec_options=OPEN, **NULL_FRAMES), "its times are unsure"),
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


@pytest.mark.parametrize(
    ("options", "share", "n_bytes", "backend"),
    [
        (None, 0.5, 1500, "pyav"),
        (None, 0.5, 1500, "opencv"),
        *((options, share, 300, "pyav") for options in (OPEN, REFRESH) for share in (0.25, 0.4, 0.8)),
    ],
)
def test_damage_in_the_middle_also_of_a_cut_is_an_error_that_says_where(tmp_path, options, share, n_bytes, backend):
    path = whole = write_numbered(tmp_path / "clip.mp4", N, codec_options=options or {"g": "8", "bf": "0"})
    if options:
        path = cut(whole, tmp_path / "cut.mp4")
    data = bytearray(path.read_bytes())
    start, end = data.index(b"mdat"), data.index(b"moov")
    place = start + round(share * (end - start))
    data[place : place + n_bytes] = np.random.default_rng(0).bytes(n_bytes)
    path.write_bytes(data)
    before = []
    with pytest.raises(VideoError, match=rf"{path.name}: cannot be decoded from [0-3]\.\d s on \(of [2-4]\.\d s\)"):
        before.extend(number for _, _, number, _ in iter_frames(path, backend=backend))
    assert before == list(range(len(before)))
    assert 0 < len(before) < 50


def test_whole_matroska_files_live_recordings_and_what_follows_the_end_pass(tmp_path):
    for n, change in ((N, lambda data: data), (N, lambda data: data + bytes(64)), (2 * N, lambda data: 2 * data)):
        clip_with(change)(path := tmp_path / "clip.mkv")
        assert probe(path).n_frames == n
    assert probe(write_numbered(tmp_path / "clip.webm", 23, codec="libvpx-vp9")).n_frames == 23
    assert probe(write_numbered(tmp_path / "live.mkv", 9, container_options={"live": "1"})).n_frames == 9


def test_a_damaged_matroska_file_is_never_more_than_a_reason(tmp_path):
    clip_with(lambda data: data)(path := tmp_path / "clip.mkv")
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.choice([0, 1, 8, 127, 128, 255, rng.integers(256)])
        path.write_bytes(data)
        with suppress(VideoError):
            probe(path)


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
