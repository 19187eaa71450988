"""Decoding: every frame once, at its time, upright, by both backends alike; broken files are errors with one line."""

from fractions import Fraction
from pathlib import Path
from threading import Event, current_thread, main_thread

import av
import cv2
import numpy as np
import pytest
from numbered import HEIGHT, WIDTH, numbered_frames, read_numbers, write_numbered

from data_sample.make.awkward import turn_clockwise
from data_sample.make.sample import write_mp4
from helpers import video
from helpers.files import ROOT
from helpers.video import (
    BACKENDS,
    VideoError,
    backend_name,
    backend_version,
    count_samples,
    decode_pyav,
    fixed_rate_indices,
    iter_frames,
    open_video,
    probe,
    read_frames,
    uniform_indices,
)

SHIPPED = sorted((ROOT / "data_sample" / "training80_01").glob("*.mp4"))
both_backends = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("clips") / "a b ü.mp4", 29, codec_options={"g": "7", "bf": "2"})


def cut(path: Path, share: float, to: Path) -> Path:
    data = path.read_bytes()
    to.write_bytes(data[: int(share * len(data))])
    return to


@both_backends
def test_every_frame_comes_once_in_order_with_its_time(clip, backend):
    got = read_frames(clip, backend=backend)
    assert got.frames.shape == (29, HEIGHT, WIDTH, 3)
    assert got.frames.dtype == np.uint8
    assert read_numbers(got.frames) == list(range(29)) == got.index.tolist()
    np.testing.assert_allclose(got.t_s, np.arange(29) / 15, atol=1e-6)
    assert got.backend.startswith(backend_version(backend))
    assert got.backend.endswith("h264, software")


@both_backends
def test_colours_are_rgb(clip, backend):
    lower = read_frames(clip, indices=[0], backend=backend).frames[0, 30:40].mean(axis=0)
    assert lower[-8:, 0].min() > 180
    assert lower[:, 1:].max() < 60


def test_probe_tells_what_is_in_the_file(clip):
    info = probe(clip)
    assert (info.codec, info.width, info.height, info.n_frames, info.rotation_deg) == ("h264", WIDTH, HEIGHT, 29, 0)
    assert info.fps == pytest.approx(15)
    assert info.duration_s == pytest.approx(29 / 15)


def test_backends_agree_on_a_drawn_clip():
    ours, theirs = (read_frames(SHIPPED[0], fps=15, backend=backend) for backend in BACKENDS)
    assert ours.index.tolist() == theirs.index.tolist() == list(range(73))
    assert np.abs(ours.frames.astype(int) - theirs.frames).mean() < 1


@both_backends
@pytest.mark.parametrize(
    ("native", "wanted"),
    [(15, list(range(29))), (30, list(range(0, 29, 2))), (Fraction(15, 2), [k // 2 for k in range(58)])],
)
def test_fixed_rate_takes_the_frame_on_screen(tmp_path, backend, native, wanted):
    path = write_numbered(tmp_path / "clip.mp4", 29, native)
    got = read_frames(path, fps=15, backend=backend)
    assert read_numbers(got.frames) == wanted == got.index.tolist()
    np.testing.assert_allclose(got.t_s, np.arange(len(wanted)) / 15)
    assert len(wanted) == count_samples(probe(path).duration_s, 15)


@both_backends
def test_fixed_rate_follows_the_timestamps_of_a_variable_rate(tmp_path, backend):
    kept = np.array([0, 1, 2, 5, 6, 11, 12, 13, 19])
    write_mp4(numbered_frames(20)[kept], tmp_path / "vfr.mp4", 15, crf=12, t_s=kept / 15)
    got = read_frames(tmp_path / "vfr.mp4", fps=15, backend=backend)
    assert read_numbers(got.frames) == [0, 1, 2, 2, 2, 5, 6, 6, 6, 6, 6, 11, 12, 13, 13, 13, 13, 13, 13, 19]


def test_fixed_rate_indices_by_hand():
    assert fixed_rate_indices(np.array([0, 0.1, 0.5]), 0.6, 10).tolist() == [0, 1, 1, 1, 1, 2]
    assert fixed_rate_indices(np.array([0.0]), 0.01, 15).tolist() == [0]
    with pytest.raises(ValueError, match="fps must be above 0, got 0"):
        fixed_rate_indices(np.array([0.0]), 1, 0)


@pytest.mark.parametrize("fps", [10, 15, 24, 25, 29.97, 30])
def test_a_clip_sampled_at_its_own_rate_gives_every_frame_once_even_with_rounded_times(fps):
    n = 211
    t_s = np.round(np.arange(n) / fps, 3)
    duration_s = t_s[-1] + np.median(np.diff(t_s))
    assert fixed_rate_indices(t_s, duration_s, fps).tolist() == list(range(n))


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"),
    [(".mkv", "libx264", "yuv420p"), (".webm", "libvpx-vp9", "yuv420p"), (".avi", "mpeg4", "yuv420p"),
     (".mov", "libx264", "yuv422p"), (".mp4", "libx265", "yuv420p10le")],
)  # fmt: skip
@both_backends
def test_other_containers_and_codecs_give_the_same_frames(tmp_path, backend, suffix, codec, pixels):
    path = write_numbered(tmp_path / f"clip{suffix}", 23, codec=codec, pixels=pixels)
    assert read_numbers(read_frames(path, fps=15, backend=backend).frames) == list(range(23))


@both_backends
def test_a_turned_clip_comes_upright(tmp_path, backend):
    frames = np.ascontiguousarray(np.rot90(numbered_frames(11), axes=(1, 2)))
    write_mp4(frames, tmp_path / "lying.mp4", 15, crf=12)
    path = tmp_path / "turned.mp4"
    path.write_bytes(turn_clockwise((tmp_path / "lying.mp4").read_bytes(), width=WIDTH))
    got = read_frames(path, backend=backend)
    assert read_numbers(got.frames) == list(range(11))
    assert (got.info.width, got.info.height, abs(got.info.rotation_deg)) == (WIDTH, HEIGHT, 90)


@both_backends
def test_frames_that_lack_their_reference_are_not_counted(tmp_path, backend):
    options = {"g": "8", "bf": "2", "x264-params": "open-gop=1:scenecut=0:b-adapt=0"}
    whole = write_numbered(tmp_path / "whole.mp4", 29, codec_options=options)
    path = tmp_path / "tail.mkv"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        second_key = [k for k, packet in enumerate(packets) if packet.is_keyframe][1]
        for packet in packets[second_key:]:
            packet.stream = stream
            target.mux(packet)
    got = read_frames(path, backend=backend)
    assert len(packets) - second_key > got.info.n_frames
    assert np.diff(read_numbers(got.frames)).tolist() == [1] * (got.info.n_frames - 1)


@both_backends
def test_chosen_frames_are_exact(clip, backend):
    assert read_numbers(read_frames(clip, indices=[3, 11, 28], backend=backend).frames) == [3, 11, 28]
    assert read_numbers(read_frames(clip, indices=slice(4, None, 8), fps=15, backend=backend).frames) == [4, 12, 20, 28]
    assert read_numbers(read_frames(clip, n_frames=5, backend=backend).frames) == [0, 7, 14, 21, 28]


def test_uniform_indices_reach_from_first_to_last():
    assert uniform_indices(29, 5).tolist() == [0, 7, 14, 21, 28]
    assert uniform_indices(2, 4).tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="n_total and n must be at least 1, got 0 and 5"):
        uniform_indices(0, 5)


def test_scaling_averages_and_is_the_same_for_both_backends(clip):
    ours, theirs = (read_frames(clip, indices=[5], size=(12, 20), backend=backend).frames for backend in BACKENDS)
    full = read_frames(clip, indices=[5]).frames
    mean = full.reshape(1, 12, 4, 20, 4, 3).mean(axis=(2, 4))
    # Colours are stored for 2 x 2 pixels, here of the small frame: at an edge they spread by half a pixel.
    assert np.abs(ours - mean).mean() < 1.5
    assert np.abs(theirs - mean).mean() < 1.5
    assert np.abs(ours.astype(int) - theirs).mean() < 1.5


def test_wrong_arguments_say_what_is_right(clip):
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'pyav', 'opencv', 'cuda', .*got 'decord'"):
        backend_name("decord")
    with pytest.raises(ValueError, match="n_frames must be given alone"):
        read_frames(clip, n_frames=3, fps=15)
    for wrong in ([3, 2], [-1], [29], [], slice(40, None)):
        with pytest.raises(ValueError, match="indices must ascend within 0 to 28"):
            read_frames(clip, indices=wrong)


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
@both_backends
def test_what_is_no_video_is_refused_with_a_reason(tmp_path, backend, write, message):
    path = tmp_path / "bad.mp4"
    write(path)
    with pytest.raises(VideoError, match=message):
        read_frames(path, backend=backend)


@both_backends
def test_a_truncated_file_is_refused(tmp_path, clip, backend):
    whole = write_numbered(tmp_path / "whole.mp4", 61, container_options={"movflags": "faststart"})
    with pytest.raises(VideoError, match="half.mp4: not a readable video"):
        read_frames(cut(clip, 0.5, tmp_path / "half.mp4"), backend=backend)
    with pytest.raises(VideoError, match=r"breaks off at \d\.\d s"):
        read_frames(cut(whole, 0.6, tmp_path / "index first.mp4"), backend=backend)
    whole = write_numbered(tmp_path / "whole.mkv", 61, codec_options={"g": "8"})
    with pytest.raises(VideoError, match=r"breaks off at [0123]\.\d s of 4\.1 s"):
        read_frames(cut(whole, 0.6, tmp_path / "half.mkv"), backend=backend)


@both_backends
def test_damage_in_the_middle_is_an_error_that_says_where(tmp_path, backend):
    whole = bytearray(write_numbered(tmp_path / "clip.mp4", 61, codec_options={"g": "8"}).read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 1500] = np.random.default_rng(0).bytes(1500)
    (tmp_path / "clip.mp4").write_bytes(whole)
    before = []
    with pytest.raises(VideoError, match=r"clip\.mp4: cannot be decoded from [123]\.\d s on \(of 4\.1 s\)"):
        before.extend(number for _, _, number in iter_frames(tmp_path / "clip.mp4", backend=backend))
    assert before == list(range(len(before)))
    assert 10 < len(before) < 50


@pytest.mark.parametrize("n_before", [0, 1])
def test_what_follows_a_part_that_broke_off_is_not_shown(clip, monkeypatch, n_before):
    black = av.VideoFrame.from_ndarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8), format="rgb24")

    def decode(_video, _wanted, convert):
        for number in (*range(n_before), *range(10, 29)):
            yield number, (convert if number < 10 else convert.again())(black)

    monkeypatch.setattr(video, "decoder_of", lambda backend: decode)
    with pytest.raises(VideoError, match=rf"cannot be decoded from 0\.{n_before} s on \(of 1\.9 s\)"):
        read_frames(clip, backend="pyav")


def test_an_abandoned_stream_may_be_collected_in_the_thread_of_its_own_helper(clip, monkeypatch):
    """The collector runs in whichever thread allocates; waiting for the helper there would wait for itself."""
    monkeypatch.setattr(cv2, "getNumThreads", lambda: 2)
    begun, closed = Event(), Event()

    class Closing:
        """A converter of the second half, in its helper's thread: closes the stream that it belongs to."""

        size = (8, 8)

        def again(self):
            return self

        def __call__(self, picture):
            if current_thread() is not main_thread():
                assert begun.wait(10)
                stream.close()
                closed.set()
            return picture.pts

    with open_video(clip) as video:
        stream = decode_pyav(video, np.arange(29), Closing())
        next(stream)
        begun.set()
        assert closed.wait(10)
