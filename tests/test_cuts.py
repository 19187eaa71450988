"""Cuts out of longer videos, which begin where a stream does not: right pictures only, and damage is still named."""

import av
import numpy as np
import pytest
from numbered import read_numbers, write_numbered

from helpers.container import VideoError, open_video
from helpers.video import read_frames

N = 61
OPEN = {"x264-params": "keyint=24:open-gop=1:bframes=3:b-adapt=0:scenecut=0"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=12:bframes=2"}
HEVC = {"x265-params": "log-level=none:keyint=24:min-keyint=24:open-gop=1:bframes=4:b-adapt=0"}
KEYS = {"g": "12", "bf": "2", "b": "800000"}
VP9 = {"b": "0", "g": "20"}
CUTS = {  # encoder, its options, the packet that becomes the first: "key" the second key picture, or so many before it
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


def cut(whole, path, before: int = 0):
    """Copy a clip's packets from its second key picture on, or from so many before it."""
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        packets = [packet for packet in source.demux(video=0) if packet.size]
        key = [k for k, packet in enumerate(packets) if packet.is_keyframe][1]
        for packet in packets[key - before :]:
            packet.stream = stream
            target.mux(packet)
    return path


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
    with open_video(path) as video:
        told = any(text.startswith("begins in the middle of a longer video; ") for text in video.remarks)
    assert told or (codec != "libx264" and not before)


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


def test_what_has_no_place_to_begin_is_refused(tmp_path):
    path = tmp_path / "cut.ts"
    whole = write_numbered(tmp_path / "whole.ts", N, codec_options={"g": "999", "sc_threshold": "0"})
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in [packet for packet in source.demux(video=0) if packet.size][9:]:
            packet.stream = stream
            target.mux(packet)
    with pytest.raises(VideoError, match=r"cut\.ts: its first frame cannot be decoded"):
        read_frames(path)
