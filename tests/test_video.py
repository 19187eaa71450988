"""Decoding: every frame once, at its time, upright, by both backends alike."""

import gc
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numbered import HEIGHT, WIDTH, numbered_frames, read_numbers, write_numbered

from data_sample.make.sample import write_mp4
from helpers import video
from helpers.container import Converter, VideoError
from helpers.files import ROOT
from helpers.video import (
    BACKENDS,
    backend_name,
    backend_version,
    count_samples,
    differences,
    fixed_rate_indices,
    iter_frames,
    parity_table,
    probe,
    read_frames,
    uniform_indices,
)

SHIPPED = sorted((ROOT / "data_sample" / "training80_01").glob("*.mp4"))
TURNS = {  # [[a, b], [c, d]] to what it does to an array (H, W, 3)
    "as it is": ([[1, 0], [0, 1]], lambda x: x),
    "clockwise": ([[0, 1], [-1, 0]], lambda x: np.rot90(x, -1)),
    "half": ([[-1, 0], [0, -1]], lambda x: np.rot90(x, 2)),
    "counter-clockwise": ([[0, -1], [1, 0]], lambda x: np.rot90(x, 1)),
    "mirrored": ([[-1, 0], [0, 1]], lambda x: x[:, ::-1]),
    "upside down mirrored": ([[1, 0], [0, -1]], lambda x: x[::-1]),
    "nothing": ([[0, 0], [0, 0]], lambda x: x),
    "a line": ([[1, 1], [1, 1]], lambda x: x),
}
both_backends = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("clips") / "a b ü.mp4", 29, codec_options={"g": "7", "bf": "2"})


@both_backends
def test_every_frame_comes_once_in_order_with_its_time_in_rgb(clip, backend):
    got = read_frames(clip, backend=backend)
    assert got.frames.shape == (29, HEIGHT, WIDTH, 3)
    assert got.frames.dtype == np.uint8
    assert read_numbers(got.frames) == list(range(29)) == got.index.tolist()
    np.testing.assert_allclose(got.t_s, np.arange(29) / 15, atol=1e-6)
    assert got.backend.startswith(backend_version(backend))
    assert got.backend.endswith("h264, software")
    lower = got.frames[0, 30:40].mean(axis=0)
    assert lower[-8:, 0].min() > 180
    assert lower[:, 1:].max() < 60
    info = probe(clip)
    assert (info.codec, info.width, info.height, info.n_frames, info.rotation_deg) == ("h264", WIDTH, HEIGHT, 29, 0)
    assert (info.fps, info.duration_s) == pytest.approx((15, 29 / 15))
    assert (info.audio, info.variable_rate) == (False, False)


@both_backends
@pytest.mark.parametrize(
    ("shown_at", "native", "wanted"),
    [
        (range(29), 15, list(range(29))),
        (range(29), 30, list(range(0, 29, 2))),
        (range(29), Fraction(15, 2), [k // 2 for k in range(58)]),
        ([0, 1, 2, 5, 6, 11, 12, 13], 15, [0, 1, 2, 2, 2, 5, 6, 6, 6, 6, 6, 11, 12, 13]),
    ],
)
def test_fixed_rate_takes_the_frame_on_screen(tmp_path, backend, shown_at, native, wanted):
    path, shown_at = tmp_path / "clip.mp4", np.array(shown_at)
    write_mp4(numbered_frames(29)[shown_at], path, native, crf=12, t_s=shown_at / float(native))
    got = read_frames(path, fps=15, backend=backend)
    assert read_numbers(got.frames) == wanted
    np.testing.assert_allclose(got.t_s, np.arange(len(wanted)) / 15)
    assert len(wanted) == count_samples(probe(path).duration_s, 15)
    assert probe(path).variable_rate == (len(shown_at) < 29)


@pytest.mark.parametrize("fps", [10, 15, 24, 25, 29.97, 30])
def test_indices_by_hand_and_every_frame_once_at_a_clips_own_rate_even_with_rounded_times(fps):
    t_s = np.round(np.arange(211) / fps, 3)
    assert fixed_rate_indices(t_s, t_s[-1] + np.median(np.diff(t_s)), fps).tolist() == list(range(211))
    assert fixed_rate_indices(np.array([0, 0.1, 0.5]), 0.6, 10).tolist() == [0, 1, 1, 1, 1, 2]
    assert fixed_rate_indices(np.array([0.0]), 0.01, 15).tolist() == [0]
    assert uniform_indices(29, 5).tolist() == [0, 7, 14, 21, 28]
    assert uniform_indices(2, 4).tolist() == [0, 0, 1, 1]


@both_backends
@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ({"indices": [3, 11, 28]}, [3, 11, 28]),
        ({"indices": slice(4, None, 8), "fps": 15}, [4, 12, 20, 28]),
        ({"n_frames": 5}, [0, 7, 14, 21, 28]),
        ({"n_frames": 3, "fps": 15}, None),
        ({"n_frames": 0}, None),
        ({"fps": 0}, None),
        *(({"indices": wrong}, None) for wrong in ([3, 2], [-1], [29], [], slice(40, None))),
    ],
)
def test_chosen_frames_are_exact_and_wrong_arguments_refused(clip, backend, how, wanted):
    with pytest.raises(ValueError, match=" must ") if wanted is None else nullcontext():
        assert read_numbers(read_frames(clip, **{"backend": backend} | how).frames) == wanted


def test_scaling_averages_alike_in_both_backends_and_is_smooth_in_a_larger_size(clip):
    ours, theirs = (read_frames(clip, indices=[5], size=(12, 20), backend=backend).frames for backend in BACKENDS)
    mean = read_frames(clip, indices=[5]).frames.reshape(1, 12, 4, 20, 4, 3).mean(axis=(2, 4))
    # Colours are stored for 2 x 2 pixels, here of the small frame: at an edge they spread by half a pixel.
    assert np.abs(ours - mean).mean() < 1.5
    assert np.abs(ours.astype(int) - theirs).mean() < 1.5
    gray = av.VideoFrame.from_ndarray(np.full((8, 8, 3), 90, np.uint8), format="rgb24")
    assert np.abs(Converter((20, 30))(gray).astype(int) - 90).max() <= 1


def with_matrix(path: Path, matrix: list[list[int]]) -> Path:
    """Write a display matrix into the first track of an mp4 (ISO/IEC 14496-12, 8.3.2)."""
    data = path.read_bytes()
    start = data.index(b"tkhd") + 4 + 40
    (a, b), (c, d) = np.array(matrix) * (1 << 16)
    path.write_bytes(data[:start] + np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes() + data[start + 36 :])
    return path


@pytest.mark.parametrize("name", TURNS)
def test_a_display_matrix_is_followed(tmp_path, name):
    matrix, turn = TURNS[name]
    write_mp4(numbered_frames(5), tmp_path / "clip.mp4", 15, crf=8)
    plain = read_frames(tmp_path / "clip.mp4").frames
    path = with_matrix(tmp_path / "clip.mp4", matrix)
    got, info = read_frames(path), probe(path)
    np.testing.assert_array_equal(got.frames[3], turn(plain[3]))
    assert (info.height, info.width) == got.frames.shape[1:3]
    assert info.mirrored == ("mirrored" in name)
    if info.mirrored:
        with pytest.raises(VideoError, match="mirrored"):
            read_frames(path, backend="opencv")
    else:
        assert np.array_equal(np.rot90(plain[3], info.rotation_deg // 90), got.frames[3])
        assert np.abs(read_frames(path, backend="opencv").frames.astype(int) - got.frames).mean() < 1


def test_pixels_that_are_not_square_are_widened(tmp_path):
    path = write_numbered(tmp_path / "wide.mp4", 6, codec_options={"x264-params": "sar=3/2"})
    assert (probe(path).width, probe(path).height) == (WIDTH * 3 // 2, HEIGHT)
    frames = read_frames(path).frames
    assert frames.shape == (6, HEIGHT, WIDTH * 3 // 2, 3)
    assert read_numbers(frames[:, :, ::3][:, :, : WIDTH // 2].repeat(2, axis=2)) == list(range(6))


def test_auto_is_what_the_table_says_of_a_codec_and_its_pixels(clip, tmp_path, monkeypatch):
    assert backend_name("auto") == "pyav"
    monkeypatch.setitem(video.FASTEST, ("h264", "yuv420p"), "opencv")
    assert backend_name("auto") == "auto"  # each clip's own, whatever the first one was
    assert read_frames(clip).backend.startswith("opencv")
    for odd in ({"codec_options": {"x264-params": "tff=1"}}, {"pixels": "yuv444p"}):
        assert read_frames(write_numbered(tmp_path / "odd.mp4", 9, **odd)).backend.startswith("pyav")


def test_parity_tells_the_same_frames_from_others_and_names_what_only_the_reference_shows_rightly(clip, tmp_path):
    for name, change, why in (
        ("deep.mp4", {"pixels": "yuv420p10le", "codec": "libx265"}, "8 bits"),
        ("hdr.mp4", {"codec_options": {"x264-params": "transfer=arib-std-b67"}}, "HDR"),
        ("wide.mp4", {"codec_options": {"x264-params": "sar=4/3"}}, "square"),
        ("fields.mp4", {"codec_options": {"x264-params": "tff=1"}}, "interlaced"),
    ):
        table = parity_table(write_numbered(tmp_path / name, 7, **change), n_frames=3)
        assert why in table.loc["opencv", "error"]
        assert table.loc["pyav", "exact"]
    table = parity_table(SHIPPED[0], n_frames=8)
    assert table.loc["pyav", "mean_levels"] == 0
    assert table.loc["opencv", ["same_index", "exact"]].all()
    for others in (read_frames(clip, [0, 10, 20]), read_frames(clip, [0, 9, 20], size=(24, 40))):
        assert not differences(read_frames(clip, [0, 9, 20]), others)["exact"]
    assert "'decord' cannot be used" in parity_table(clip, ["decord"]).loc["decord", "error"]
    assert "no such file" in parity_table(clip.parent / "gone.mp4").loc["opencv", "error"]


def test_pictures_do_not_stay_in_memory(tmp_path):
    path = write_numbered(tmp_path / "clip.mp4", 40)
    gc.collect()
    gc.disable()  # which would find those that hold themselves, some hundreds later
    try:
        for _ in iter_frames(path, size=(32, 48)):
            pass
        assert sum(isinstance(each, av.VideoFrame) for each in gc.get_objects()) < 10
    finally:
        gc.enable()
