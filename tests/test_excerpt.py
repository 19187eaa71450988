"""The beginning of a video, against the pictures of the whole."""

from pathlib import Path

import av
import numpy as np
import pytest
from numbered import write_numbered

from helpers.container import VideoError, write_excerpt
from helpers.video import probe, read_frames

SAMPLE = Path(__file__).resolve().parent.parent / "data_sample"
CLIP = SAMPLE / "training80_01" / "4eke_igcKkn.000.mp4"


@pytest.mark.parametrize("path", [CLIP, SAMPLE / "awkward" / "portrait_rotated.mp4"])
def test_an_excerpt_shows_the_same_pictures(tmp_path, path):
    excerpt = write_excerpt(path, tmp_path / "excerpt.mp4", 2.0)
    found, whole = read_frames(excerpt, backend="pyav"), read_frames(path, backend="pyav")
    assert 2.0 <= probe(excerpt).duration_s < 2.5
    assert probe(excerpt).rotation_deg == probe(path).rotation_deg
    first = slice(0, 30)  # later ones may come with them, and lack what they refer to
    np.testing.assert_array_equal(found.frames[first], whole.frames[first])


@pytest.mark.parametrize("suffix", [".mkv", ".mov", ".flv", ".ts"])
def test_any_format_can_be_cut(tmp_path, suffix):
    path = tmp_path / f"whole{suffix}"
    with av.open(str(CLIP)) as whole, av.open(str(path), "w") as copy:
        stream = copy.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    excerpt = write_excerpt(path, tmp_path / f"excerpt{suffix}", 1.0)
    assert 1.0 <= probe(excerpt).duration_s < 1.5


def test_an_avi_without_times_of_showing_can_be_cut(tmp_path):
    path = tmp_path / "whole.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for k in range(30):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * k, np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    assert 1.0 <= probe(write_excerpt(path, tmp_path / "excerpt.avi", 1.0)).duration_s <= 1.2


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_av1_can_be_cut_though_its_decoder_writes_none(tmp_path, suffix):
    path = write_numbered(tmp_path / f"whole{suffix}", 30, codec="libsvtav1", codec_options={"preset": "12"})
    excerpt = write_excerpt(path, tmp_path / f"excerpt{suffix}", 1.0)
    assert probe(excerpt).codec == "av1"
    assert 1.0 <= probe(excerpt).duration_s < probe(path).duration_s


def test_a_file_that_is_no_video_is_named(tmp_path):
    with pytest.raises(VideoError, match="broken.mp4: not a readable video"):
        write_excerpt(SAMPLE / "awkward" / "broken.mp4", tmp_path / "excerpt.mp4", 1.0)
