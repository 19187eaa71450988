"""Leaving packets out changes no wanted frame, and what can be left out is found."""

from pathlib import Path

import numpy as np
import pytest
from numbered import read_numbers, write_numbered

from helpers.video import nal_length_bytes, needed_packets, open_video, read_frames, read_picture

N = 61
QUIET = "log-level=none"
STREAMS = {
    "no reordering.mp4": ("libx264", {"bf": "0"}),
    "b pictures.mp4": ("libx264", {"bf": "3", "x264-params": "b-pyramid=none"}),
    "pyramid.mkv": ("libx264", {"bf": "8", "x264-params": "b-pyramid=normal:ref=8"}),
    "short groups.mp4": ("libx264", {"g": "6", "bf": "2"}),
    "open groups.mp4": ("libx264", {"g": "8", "bf": "3", "x264-params": "open-gop=1:b-adapt=0:scenecut=0"}),
    "intra refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:keyint=12"}),
    "start codes.ts": ("libx264", {"bf": "3"}),
    "hevc.mp4": ("libx265", {"x265-params": QUIET}),
    "layers.mp4": ("libx265", {"x265-params": f"{QUIET}:temporal-layers=3"}),
    "open hevc.mkv": ("libx265", {"x265-params": f"{QUIET}:keyint=8:min-keyint=8:open-gop=1"}),
    "vp8.webm": ("libvpx", {"crf": "4", "b": "1M", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp9.webm": ("libvpx-vp9", {"b": "0", "g": "20"}),
    "mpeg2.ts": ("mpeg2video", {"bf": "2", "g": "9"}),
    "stills.mov": ("mjpeg", {}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("streams")


def stream(folder: Path, name: str) -> Path:
    codec, options = STREAMS[name]
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = folder / name
    return path if path.exists() else write_numbered(path, N, 25, codec=codec, pixels=pixels, codec_options=options)


def needed(path: Path, wanted: list[int]) -> np.ndarray:
    with open_video(path) as video:
        length = nal_length_bytes(video.stream)
        pictures = [read_picture(packet, video.codec, length) for packet in video.packets]
        return needed_packets(video.packets, pictures, video.ticks[wanted])[0]


@pytest.mark.parametrize("name", STREAMS)
def test_chosen_frames_are_those_of_a_whole_decoding(folder, name):
    path = stream(folder, name)
    whole = read_frames(path).frames
    assert read_numbers(whole) == list(range(N))
    for wanted in ([3], [0], [N - 1], [10, 11, 12], [5, 30, 31, 60], [33, 47], list(range(0, N, 5))):
        np.testing.assert_array_equal(read_frames(path, wanted).frames, whole[wanted])


@pytest.mark.parametrize("name", ["b pictures.mp4", "hevc.mp4"])
def test_pictures_that_nothing_refers_to_are_left_out(folder, name):
    sent = needed(stream(folder, name), list(range(0, N, 5)))
    assert sent.mean() < 0.75


def test_whole_groups_are_left_out(folder):
    path = stream(folder, "short groups.mp4")
    assert needed(path, [40]).sum() <= 6
    assert needed(path, [2, 40]).sum() <= 12
    assert needed(stream(folder, "stills.mov"), [7, 9]).sum() == 2


def test_nothing_is_left_out_where_every_picture_is_referred_to(folder):
    path = stream(folder, "no reordering.mp4")
    assert needed(path, [N - 1]).all()
    assert needed(path, [20]).sum() == 21


def test_streams_with_start_codes_are_decoded_whole(folder):
    path = stream(folder, "start codes.ts")
    with open_video(path) as video:
        assert nal_length_bytes(video.stream) == 0
    assert needed(path, [N - 1]).all()
