"""Decoding: every frame once, at its time, upright, by both backends alike; what a player shows comes out."""

import gc
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.filter import Graph
from numbered import HEIGHT, WIDTH, numbered_frames, read_numbers, write_numbered

from data_sample.make.sample import write_mp4
from helpers import video
from helpers.container import Converter, VideoError
from helpers.files import ROOT
from helpers.video import BACKENDS, backend_name, iter_frames, parity_table, probe, read_frames

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
ODD = {  # what only the reference shows rightly
    "more than 8 bits": {"pixels": "yuv420p10le", "codec": "libx265"},
    "HDR": {"codec_options": {"x264-params": "transfer=arib-std-b67"}},
    "not square": {"codec_options": {"x264-params": "sar=3/2"}},
    "interlaced": {"codec_options": {"x264-params": "tff=1"}},
}
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # ITU-R BT.2087-0
TO_P3 = np.array([[0.8225, 0.1774, 0], [0.0332, 0.9669, 0], [0.0171, 0.0724, 0.9108]])
COLOURS = [*((v, v, v) for v in range(0, 256, 17)), (224, 172, 150), (150, 100, 80), (90, 60, 50), (241, 194, 175)]
PATCH_PX = 16
QUIET = {"x265-params": "log-level=none:bframes=0"}  # in the order of showing
YCGCO = {"x264-params": "colormatrix=YCgCo"}
PAL = [Fraction(12, 11), Fraction(16, 11)]
TAGS = {"color_trc", "color_primaries", "colorspace", "color_range"}
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
    assert got.backend.startswith(video.backend_version(backend))
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
    assert len(wanted) == video.count_samples(probe(path).duration_s, 15)
    assert probe(path).variable_rate == (len(shown_at) < 29)


@pytest.mark.parametrize("fps", [10, 15, 24, 25, 29.97, 30])
def test_indices_by_hand_and_every_frame_once_at_a_clips_own_rate_even_with_rounded_times(fps):
    t_s = np.round(np.arange(211) / fps, 3)
    assert video.fixed_rate_indices(t_s, t_s[-1] + np.median(np.diff(t_s)), fps).tolist() == list(range(211))
    assert video.fixed_rate_indices(np.array([0, 0.1, 0.5]), 0.6, 10).tolist() == [0, 1, 1, 1, 1, 2]
    assert video.fixed_rate_indices(np.array([0.0]), 0.01, 15).tolist() == [0]
    assert video.uniform_indices(29, 5).tolist() == [0, 7, 14, 21, 28]
    assert video.uniform_indices(2, 4).tolist() == [0, 0, 1, 1]


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


@pytest.mark.parametrize("name", TURNS)
def test_a_display_matrix_is_followed(tmp_path, name):
    (matrix, turn), path = TURNS[name], tmp_path / "clip.mp4"
    write_mp4(numbered_frames(5), path, 15, crf=8)
    plain, data = read_frames(path).frames, path.read_bytes()
    start = data.index(b"tkhd") + 44  # of the matrix of the first track (ISO/IEC 14496-12, 8.3.2)
    (a, b), (c, d) = np.array(matrix) * (1 << 16)
    path.write_bytes(data[:start] + np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes() + data[start + 36 :])
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
    path = write_numbered(tmp_path / "wide.mp4", 6, **ODD["not square"])
    frames = read_frames(path).frames
    assert frames.shape == (6, probe(path).height, probe(path).width, 3) == (6, HEIGHT, WIDTH * 3 // 2, 3)
    assert read_numbers(frames[:, :, ::3][:, :, : WIDTH // 2].repeat(2, axis=2)) == list(range(6))


def test_auto_is_what_the_table_says_of_a_codec_if_that_shows_the_clip_rightly(clip, tmp_path, monkeypatch):
    assert backend_name("auto") == "pyav"
    for codec, pixels in (("h264", "yuv420p"), ("hevc", "yuv420p10le")):
        monkeypatch.setitem(video.FASTEST, (codec, pixels), "opencv")
    assert backend_name("auto") == "auto"  # each clip's own, whatever the first one was
    assert read_frames(clip).backend.startswith("opencv")
    assert read_frames(write_numbered(tmp_path / "full.mp4", 9, pixels="yuv444p")).backend.startswith("pyav")
    for word, change in ODD.items():
        path = write_numbered(tmp_path / "odd.mp4", 7, **change)
        assert read_frames(path).backend.startswith("pyav")
        table = parity_table(path, n_frames=3)
        assert word in table.loc["opencv", "error"]
        assert table.loc["pyav", "exact"]


def test_parity_tells_the_same_frames_from_others(clip):
    table = parity_table(sorted((ROOT / "data_sample" / "training80_01").glob("*.mp4"))[0], n_frames=8)
    assert table.loc["pyav", "mean_levels"] == 0
    assert table.loc["opencv", ["same_index", "exact"]].all()
    for others in (read_frames(clip, [0, 10, 20]), read_frames(clip, [0, 9, 20], size=(24, 40))):
        assert not video.differences(read_frames(clip, [0, 9, 20]), others)["exact"]
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


def write_parts(path: Path, parts: list, codec: str = "libvpx", **how) -> Path:
    """Encode each part, RGB frames of 8 or 16 bits, for itself, as a sender does that begins anew; join their packets.

    `how`: attributes of the encoder, `TAGS` of the pictures among them, and their `field`; a list: one for each part.
    """
    tick, first = Fraction(1, 25), 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        for k, frames in enumerate(parts):
            height, width = frames[0].shape[:2]
            mine = {"height": height, "width": width, "pix_fmt": "yuv420p", "time_base": tick, "framerate": 25}
            mine |= {name: value[k] if isinstance(value, list) else value for name, value in how.items()}
            graph, field, pixels = Graph(), mine.pop("field", "auto"), mine["pix_fmt"]
            source = graph.add_buffer(width=width, height=height, format=pixels, time_base=tick)
            graph.link_nodes(source, graph.add("setfield", field), graph.add("buffersink")).configure()
            encoder, packets = av.CodecContext.create(codec, "w"), []
            for each in (encoder,) if first else (encoder, stream.codec_context):
                for name, value in mine.items():
                    setattr(each, name, value)
            to = {"dst_colorspace": mine.get("colorspace", 5), "dst_color_range": mine.get("color_range", 1)}
            for number, frame in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24" if frame.dtype == np.uint8 else "rgb48le")
                picture = picture.reformat(format=pixels, **to)
                picture.pts, picture.time_base = number, tick
                for tag in TAGS & mine.keys():
                    setattr(picture, tag, mine[tag])
                graph.push(picture)
                packets += encoder.encode(graph.pull())
            for packet in packets + encoder.encode(None):
                packet.pts, packet.dts = packet.pts + first, packet.dts + first
                packet.stream, packet.time_base = stream, tick
                container.mux(packet)
            first += len(frames)
    return path


@pytest.mark.parametrize(
    ("name", "codec", "sizes", "how", "word"),
    [
        ("vp8.webm", "libvpx", [(320, 180), (160, 90)], {}, "changes size"),
        ("vp9.webm", "libvpx-vp9", [(160, 90), (320, 180)], {"options": {"cpu-used": "8"}}, "changes size"),
        ("h264.ts", "libx264", [(320, 180), (160, 90)], {"pix_fmt": ["yuv420p", "yuv444p"]}, "changes size"),
        ("hevc.mkv", "libx265", [(320, 180), (160, 90)], {"options": QUIET}, "changes size"),
        ("jpeg.avi", "mjpeg", [(320, 180), (160, 90)], {"pix_fmt": "yuvj420p"}, "changes size"),
        ("mpeg2.ts", "mpeg2video", [(320, 240), (160, 120)], {}, "changes size"),
        ("shape.ts", "libx264", [(320, 240), (320, 240)], {"sample_aspect_ratio": PAL}, "shape"),
        ("shape 2.ts", "mpeg2video", [(320, 240), (320, 240)], {"sample_aspect_ratio": PAL}, "shape"),
        ("colours.ts", "libx264", [(64, 48)], {"options": YCGCO, "pix_fmt": "yuv444p"}, "colours"),
    ],
)
def test_what_cannot_be_shown_rightly_is_named_whatever_part_is_read(tmp_path, name, codec, sizes, how, word):
    parts = [[np.full((height, width, 3), 60, np.uint8)] * 26 for width, height in sizes]
    path, before = write_parts(tmp_path / name, parts, codec, **how), cv2.getNumThreads()
    for threads in (1, 4, before):  # that decode
        cv2.setNumThreads(threads)
        for wanted in (None, [40] if len(sizes) > 1 else [3]):
            with pytest.raises(VideoError, match=rf"{name}: .*{word}.*Convert it"):
                read_frames(path, wanted)


def pq(light: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084 of light, 1 at 203 cd/m²."""
    power = (light * 203 / 10_000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def hlg(light: np.ndarray) -> np.ndarray:
    """ARIB STD-B67 of light on a screen of 1000 cd/m², 1 at 203."""
    shown = light * 0.203
    scene = shown * np.maximum(shown @ [0.2627, 0.6780, 0.0593], 1e-9)[..., None] ** (1 / 1.2 - 1)
    curve = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), curve)


@pytest.mark.parametrize(
    ("curve", "to", "tags", "remark"),
    [
        (pq, TO_BT2020, (16, 9, 9), "HDR (PQ): brought to SDR"),
        (pq, np.eye(3), (16, 1, 1), "HDR (PQ): brought to SDR"),
        (hlg, TO_BT2020, (18, 9, 9), "HDR (HLG): brought to SDR"),
        (None, TO_BT2020, (14, 9, 9), "wide gamut: brought to BT.709"),
        (None, TO_P3, (1, 12, 1), "wide gamut: brought to BT.709"),
        (None, np.eye(3), (1, 1, 1), ""),
    ],
)
def test_colours_come_as_in_the_sdr_original(tmp_path, curve, to, tags, remark):
    patches = np.array(COLOURS, np.uint8).reshape(4, 5, 3)
    original = patches.repeat(PATCH_PX, axis=0).repeat(PATCH_PX, axis=1)
    light = (original / 255) ** 2.4 @ to.T
    deep = curve(light) if curve else light ** (1 / 2.4)  # BT.1886
    deep = np.rint(deep.clip(0, 1) * 65535).astype(np.uint16)
    how = dict(zip(("color_trc", "color_primaries", "colorspace"), tags, strict=True)) | {"color_range": 1}
    how |= {"pix_fmt": "yuv420p10le", "options": QUIET | {"crf": "1"}}
    path = write_parts(tmp_path / "clip.mkv", [[deep] * 2], "libx265", **how)
    frames = read_frames(path)
    middle = slice(PATCH_PX // 2, None, PATCH_PX)
    assert np.abs(frames.frames[1][middle, middle].astype(int) - patches).max() <= 3
    assert probe(path).remarks == ((remark,) if remark else ())
    assert frames.backend.partition("; ")[2] == remark


def moving(field: int) -> np.ndarray:
    """A textured disc that moves 2 px to the right from field to field, before stripes that stand."""
    y, x = np.mgrid[:96, :128]
    left = 30 + 2 * field
    stripes, inside = 128 + 60 * np.sin(x / 9) * np.cos(y / 7), (x - left) ** 2 + (y - 48) ** 2 < 20**2
    gray = np.where(inside, 230 + 20 * np.sin((x - left) / 3), stripes).clip(0, 255)
    return gray.astype(np.uint8)[..., None].repeat(3, axis=2)


@pytest.mark.parametrize("first", ["tff", "bff"])
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("clip.mp4", "libx264", {"crf": "5", "x264-params": "tff=1"}),
        ("clip.mkv", "ffv1", {}),
        ("clip.ts", "mpeg2video", {"flags": "+ildct+ilme", "b": "8000000"}),
    ],
)
def test_interlaced_pictures_come_whole_as_at_their_first_field(tmp_path, first, name, codec, options):
    n = 12
    is_first = (np.arange(96) % 2 == (first == "bff"))[:, None, None]  # of the lines
    woven = [np.where(is_first, moving(2 * k), moving(2 * k + 1)) for k in range(n)]
    path = write_parts(tmp_path / name, [woven], codec, field=first, options=options)
    frames = read_frames(path)
    assert frames.index.tolist() == list(range(n))
    for k, frame in enumerate(frames.frames.astype(int)):
        assert np.abs(frame - moving(2 * k)).mean() < np.abs(frame - moving(2 * k + 1)).mean()
    assert probe(path).remarks == ("interlaced: deinterlaced (bwdif)",)
    assert frames.backend.endswith("; interlaced: deinterlaced (bwdif)")
    for wanted in ([0], [5], [3, 4, 9], [n - 1]):
        np.testing.assert_array_equal(read_frames(path, wanted).frames, frames.frames[wanted])


def test_of_mixed_pictures_the_interlaced_ones_are_deinterlaced(tmp_path):
    still = [moving(0)] * 6
    path = write_parts(tmp_path / "clip.mkv", [still, still], "ffv1", field=["prog", "tff"])
    frames = read_frames(path)
    assert len(frames.frames) == 12
    assert frames.backend.endswith("; interlaced: deinterlaced (bwdif)")
    np.testing.assert_array_equal(frames.frames[:6], read_frames(path, range(6)).frames)
