"""Sizes, colours and scan of pictures: what a player shows comes out, whatever the stream holds."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.filter import Graph

from helpers.container import VideoError
from helpers.video import probe, read_frames

TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # ITU-R BT.2087-0
TO_P3 = np.array([[0.8225, 0.1774, 0], [0.0332, 0.9669, 0], [0.0171, 0.0724, 0.9108]])
GRAYS = [(v, v, v) for v in range(0, 256, 17)]
SKIN = [(224, 172, 150), (150, 100, 80), (90, 60, 50), (241, 194, 175)]
PATCH_PX = 16
QUIET = {"x265-params": "log-level=none:bframes=0"}  # in the order of showing
YCGCO = {"x264-params": "colormatrix=YCgCo"}
PAL = [Fraction(12, 11), Fraction(16, 11)]


def pictures_of(
    frames: np.ndarray, like: dict[str, int], pixels: str, filters: str = "null"
) -> Iterator[av.VideoFrame]:
    """Pictures of RGB frames (uint8, or floats in [0, 1]), tagged, through one of FFmpeg's filters."""
    graph = Graph()
    height, width = frames[0].shape[:2]
    source = graph.add_buffer(width=width, height=height, format=pixels, time_base=Fraction(1, 25))
    name, _, arguments = filters.partition("=")
    graph.link_nodes(source, graph.add(name, arguments), graph.add("buffersink")).configure()
    for number, frame in enumerate(frames):
        deep = frame if frame.dtype == np.uint8 else np.rint(frame.clip(0, 1) * 65535).astype(np.uint16)
        picture = av.VideoFrame.from_ndarray(deep, format="rgb24" if deep.dtype == np.uint8 else "rgb48le")
        to = {"dst_colorspace": like.get("colorspace", 5), "dst_color_range": like.get("color_range", 1)}
        picture = picture.reformat(format=pixels, **to)
        picture.pts, picture.time_base = number, Fraction(1, 25)
        for tag, value in like.items():
            setattr(picture, tag, value)
        graph.push(picture)
        yield graph.pull()


def write_parts(path: Path, parts: list[np.ndarray], codec: str = "libvpx", **how) -> Path:
    """Encode each part for itself, as a sender does that begins anew, and join their packets.

    `how`: `pixels`, `filters`, `options` of the encoder, and tags; a list has one entry per part.
    """
    with av.open(str(path), "w") as container:
        stream, first = None, 0
        for k, frames in enumerate(parts):
            mine = {name: value[k] if isinstance(value, list) else value for name, value in how.items()}
            pixels, filters = mine.pop("pixels", "yuv420p"), mine.pop("filters", "null")
            options, aspect = mine.pop("options", {}), mine.pop("sample_aspect_ratio", Fraction(1))
            encoders = [av.CodecContext.create(codec, "w")]
            if stream is None:
                stream = container.add_stream(codec, rate=25)
                encoders.append(stream.codec_context)
            for encoder in encoders:
                encoder.height, encoder.width = frames[0].shape[:2]
                encoder.pix_fmt, encoder.time_base, encoder.framerate = pixels, Fraction(1, 25), 25
                encoder.options, encoder.sample_aspect_ratio = options, aspect
                for tag, value in mine.items():
                    setattr(encoder, tag, value)
            packets = [
                packet
                for picture in pictures_of(frames, mine, pixels, filters)
                for packet in encoders[0].encode(picture)
            ]
            for packet in packets + encoders[0].encode(None):
                packet.pts, packet.dts = packet.pts + first, packet.dts + first
                packet.stream, packet.time_base = stream, Fraction(1, 25)
                container.mux(packet)
            first += len(frames)
    return path


def disc(n: int, width: int, height: int) -> np.ndarray:
    """A disc in the middle, a third of the height wide: (n, height, width, 3)."""
    frame = np.full((height, width, 3), 60, np.uint8)
    cv2.circle(frame, (width // 2, height // 2), height // 6, (220, 170, 150), -1)
    return np.stack([frame] * n)


@pytest.mark.parametrize(
    ("name", "codec", "sizes", "how", "word"),
    [
        ("vp8.webm", "libvpx", [(320, 180), (160, 90)], {}, "changes size"),
        ("vp9.webm", "libvpx-vp9", [(160, 90), (320, 180)], {"options": {"cpu-used": "8"}}, "changes size"),
        ("h264.ts", "libx264", [(320, 180), (160, 90)], {"pixels": ["yuv420p", "yuv444p"]}, "changes size"),
        ("hevc.mkv", "libx265", [(320, 180), (160, 90)], {"options": QUIET}, "changes size"),
        ("jpeg.avi", "mjpeg", [(320, 180), (160, 90)], {"pixels": "yuvj420p"}, "changes size"),
        ("mpeg2.ts", "mpeg2video", [(320, 240), (160, 120)], {}, "changes size"),
        ("shape.ts", "libx264", [(320, 240), (320, 240)], {"sample_aspect_ratio": PAL}, "shape"),
        ("shape 2.ts", "mpeg2video", [(320, 240), (320, 240)], {"sample_aspect_ratio": PAL}, "shape"),
        ("colours.ts", "libx264", [(64, 48)], {"options": YCGCO, "pixels": "yuv444p"}, "colours"),
    ],
)
@pytest.mark.parametrize("threads", [1, 4])
def test_what_cannot_be_shown_rightly_is_named_whatever_part_is_read(tmp_path, name, codec, sizes, how, word, threads):
    path = write_parts(tmp_path / name, [disc(26, *size) for size in sizes], codec, **how)
    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)  # that decode
    try:
        for wanted in (None, [40] if len(sizes) > 1 else [3]):
            with pytest.raises(VideoError, match=rf"{name}: .*{word}.*Convert it"):
                read_frames(path, wanted)
    finally:
        cv2.setNumThreads(before)


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


def sdr(light: np.ndarray) -> np.ndarray:
    """BT.1886."""
    return light ** (1 / 2.4)


@pytest.mark.parametrize(
    ("curve", "to", "tags", "remark"),
    [
        (pq, TO_BT2020, (16, 9, 9), "HDR (PQ): brought to SDR"),
        (pq, np.eye(3), (16, 1, 1), "HDR (PQ): brought to SDR"),
        (hlg, TO_BT2020, (18, 9, 9), "HDR (HLG): brought to SDR"),
        (sdr, TO_BT2020, (14, 9, 9), "wide gamut: brought to BT.709"),
        (sdr, TO_P3, (1, 12, 1), "wide gamut: brought to BT.709"),
        (sdr, np.eye(3), (1, 1, 1), ""),
    ],
)  # fmt: skip
def test_colours_come_as_in_the_sdr_original(tmp_path, curve, to, tags, remark):
    patches = np.array(GRAYS + SKIN, np.uint8).reshape(4, 5, 3)
    original = patches.repeat(PATCH_PX, axis=0).repeat(PATCH_PX, axis=1)
    deep = curve((original / 255) ** 2.4 @ to.T)
    how = dict(zip(("color_trc", "color_primaries", "colorspace"), tags, strict=True)) | {"color_range": 1}
    options = QUIET | {"crf": "1"}
    path = write_parts(tmp_path / "clip.mkv", [[deep] * 2], "libx265", pixels="yuv420p10le", options=options, **how)
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
    [("clip.mp4", "libx264", {"crf": "5", "x264-params": "tff=1"}), ("clip.mkv", "ffv1", {}),
     ("clip.ts", "mpeg2video", {"flags": "+ildct+ilme", "b": "8000000"})],
)  # fmt: skip
def test_interlaced_pictures_come_whole_as_at_their_first_field(tmp_path, first, name, codec, options):
    n, fields = 12, []
    for number in range(n):
        woven = moving(2 * number + 1)
        top = int(first == "bff")
        woven[top::2] = moving(2 * number)[top::2]
        fields.append(woven)
    path = write_parts(tmp_path / name, [fields], codec, filters=f"setfield={first}", options=options)
    frames = read_frames(path)
    assert frames.index.tolist() == list(range(n))
    error = [np.abs(frames.frames[k].astype(int) - moving(2 * k)).mean() for k in range(n)]
    late = [np.abs(frames.frames[k].astype(int) - moving(2 * k + 1)).mean() for k in range(n)]
    assert np.all(np.array(error) < np.array(late)), (error, late)
    assert probe(path).remarks == ("interlaced: deinterlaced (bwdif)",)
    assert frames.backend.endswith("; interlaced: deinterlaced (bwdif)")
    for wanted in ([0], [5], [3, 4, 9], [n - 1]):
        np.testing.assert_array_equal(read_frames(path, wanted).frames, frames.frames[wanted])


def test_of_mixed_pictures_the_interlaced_ones_are_deinterlaced(tmp_path):
    still = [moving(0)] * 6
    path = write_parts(tmp_path / "clip.mkv", [still, still], "ffv1", filters=["setfield=prog", "setfield=tff"])
    frames = read_frames(path)
    assert len(frames.frames) == 12
    assert frames.backend.endswith("; interlaced: deinterlaced (bwdif)")
    np.testing.assert_array_equal(frames.frames[:6], read_frames(path, range(6)).frames)
