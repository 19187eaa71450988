"""Pictures come upright whatever the file's matrix says, at their displayed size, scaled by averaging."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numbered import HEIGHT, WIDTH, numbered_frames, read_numbers, write_numbered

from data_sample.make.sample import write_mp4
from helpers.video import Converter, VideoError, probe, read_frames, upright

ONE = 1 << 16
TURNS = {  # [[a, b], [c, d]] to what it does to an array (H, W, 3)
    "as it is": ([[1, 0], [0, 1]], lambda x: x),
    "clockwise": ([[0, 1], [-1, 0]], lambda x: np.rot90(x, -1)),
    "half": ([[-1, 0], [0, -1]], lambda x: np.rot90(x, 2)),
    "counter-clockwise": ([[0, -1], [1, 0]], lambda x: np.rot90(x, 1)),
    "mirrored": ([[-1, 0], [0, 1]], lambda x: x[:, ::-1]),
    "upside down mirrored": ([[1, 0], [0, -1]], lambda x: x[::-1]),
}


def with_matrix(path: Path, matrix: list[list[int]]) -> Path:
    """Write a display matrix into the first track of an mp4 (ISO/IEC 14496-12, 8.3.2)."""
    data = path.read_bytes()
    start = data.index(b"tkhd") + 4 + 40
    (a, b), (c, d) = np.array(matrix) * ONE
    path.write_bytes(data[:start] + np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes() + data[start + 36 :])
    return path


@pytest.mark.parametrize("name", TURNS)
def test_a_display_matrix_is_followed(tmp_path, name):
    matrix, turn = TURNS[name]
    frames = numbered_frames(5)
    write_mp4(frames, tmp_path / "clip.mp4", 15, crf=8)
    plain = read_frames(tmp_path / "clip.mp4").frames
    got = read_frames(with_matrix(tmp_path / "clip.mp4", matrix))
    np.testing.assert_array_equal(got.frames[3], turn(plain[3]))
    np.testing.assert_array_equal(upright(plain[3], np.array(matrix)), turn(plain[3]))
    assert (got.info.height, got.info.width) == got.frames.shape[1:3]
    assert got.info.mirrored == ("mirrored" in name)
    if not got.info.mirrored:
        assert np.array_equal(np.rot90(plain[3], got.info.rotation_deg // 90), got.frames[3])


@pytest.mark.parametrize(
    "matrix", [[[0, 0], [0, 0]], [[1, 0], [0, 0]], [[0, 1], [0, 0]], [[1, 1], [1, 1]], [[0, 0], [1, 0]]]
)
def test_a_matrix_that_turns_and_flips_nothing_leaves_a_picture_as_it_is(tmp_path, matrix):
    write_mp4(numbered_frames(5), tmp_path / "clip.mp4", 15, crf=8)
    got = read_frames(with_matrix(tmp_path / "clip.mp4", matrix))
    assert read_numbers(got.frames) == list(range(5))
    assert (got.info.width, got.info.height, got.info.rotation_deg, got.info.mirrored) == (WIDTH, HEIGHT, 0, False)


def test_opencv_refuses_what_it_would_show_wrongly(tmp_path):
    write_mp4(numbered_frames(5), tmp_path / "clip.mp4", 15)
    path = with_matrix(tmp_path / "clip.mp4", TURNS["mirrored"][0])
    with pytest.raises(VideoError, match=r"clip\.mp4: OpenCV does not show mirrored video"):
        read_frames(path, backend="opencv")
    path = write_numbered(tmp_path / "fields.mp4", 9, codec_options={"x264-params": "tff=1"})
    assert read_numbers(read_frames(path).frames) == list(range(9))
    with pytest.raises(VideoError, match=r"fields\.mp4: OpenCV does not show interlaced video"):
        read_frames(path, backend="opencv")


def test_pixels_that_are_not_square_are_widened(tmp_path):
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=15)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        for frame in numbered_frames(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    assert (probe(path).width, probe(path).height) == (WIDTH * 3 // 2, HEIGHT)
    frames = read_frames(path).frames
    assert frames.shape == (6, HEIGHT, WIDTH * 3 // 2, 3)
    assert read_numbers(frames[:, :, ::3][:, :, : WIDTH // 2].repeat(2, axis=2)) == list(range(6))


def test_a_smaller_size_is_an_average_and_a_larger_one_is_smooth():
    stripes = np.tile(np.uint8([0, 255]), (64, 32))[..., None].repeat(3, axis=2)
    picture = av.VideoFrame.from_ndarray(stripes, format="rgb24")
    assert np.abs(Converter((16, 16))(picture).astype(int) - 128).max() <= 2
    gray = av.VideoFrame.from_ndarray(np.full((8, 8, 3), 90, np.uint8), format="rgb24")
    assert Converter((20, 30))(gray).shape == (20, 30, 3)
    assert np.abs(Converter((20, 30))(gray).astype(int) - 90).max() <= 1
