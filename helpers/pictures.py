"""Decoded pictures to upright RGB: one size, one colour space and whole pictures throughout a clip.

In: pictures as a decoder gives them. Out: RGB uint8 arrays (H, W, 3), SDR, as a player shows them. What a stream says
of its matrix, range, transfer and primaries is followed; where it says nothing, pictures are BT.601 of limited range,
as FFmpeg takes them, and HDR is BT.2020. What was changed beyond that is told in words.
"""

import math
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import cache

import av
import cv2
import numpy as np
from av.filter import Graph
from av.video.reformatter import VideoReformatter

from helpers.container import OpenVideo, open_container, orientation

PLANAR = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12")  # 8 bits, luma at full size
RESCALING = ("vp9", "av1")  # their pictures may change size anywhere, those of others at key pictures
LOOKS, APART_S = 32, 1.0  # key pictures that are looked at for the clip's size, at least so far apart
SNAP_PX = 2  # encoders round sizes to even ones: 426 x 240 fills 640 x 360
UNTOLD, BT2020, P3, PQ, HLG = 2, 9, 12, 16, 18  # of matrix, primaries and transfer in ITU-T H.273
TO_BT709 = {  # of linear light: ITU-R BT.2087-0; SMPTE EG 432-1
    BT2020: [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    P3: [[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]],
}
LUMA = [[0.2627, 0.6780, 0.0593]]  # of BT.2020
WHITE, PEAK = 203, 1000  # cd/m²: HDR's diffuse white (ITU-R BT.2408), which becomes SDR's; the screen HLG is made for
GAMMA = 2.4  # of an SDR screen (ITU-R BT.1886)
DEINTERLACED = "interlaced: deinterlaced (bwdif)"
CHANGES = "picture size changes: brought to {}x{}"

Shapes = dict[tuple[int, int], Fraction | None]  # by stored width and height: the width of a pixel in heights


def shapes_of(video: OpenVideo) -> Shapes:
    """The sizes of a clip's pictures, from key pictures spread over it; (0, 0) where the first picture tells it."""
    told, apart, keys = video.stream.sample_aspect_ratio, max(APART_S, video.duration_s / LOOKS), []
    for tick in video.keys.tolist():
        if not keys or (tick - keys[-1]) * video.stream.time_base >= apart:
            keys.append(tick)
    if len(keys) < 2 and video.codec not in RESCALING:
        return {(0, 0): told}
    shapes: Shapes = {}
    with open_container(video.path) as container:
        codec = container.streams[video.stream.index].codec_context
        codec.thread_count = 1  # so that the aspect is that of the picture
        for packet in video.packets_of(container):
            if packet.is_keyframe and (packet.dts if packet.pts is None else packet.pts) in keys:
                with suppress(av.FFmpegError):  # damage is told when all is decoded
                    for picture in (*codec.decode(packet), *codec.decode(None)):
                        aspect = codec.sample_aspect_ratio or told
                        shapes.setdefault((picture.width, picture.height), aspect if shapes else told)
                codec.flush_buffers()
    return shapes or {(0, 0): told}


def shown_size(stored: tuple[int, int], pixel_aspect: Fraction | None, turn: int) -> tuple[int, int]:
    """Width and height at which a player shows a picture: pixels that are not square are widened."""
    width, height = round(stored[0] * (pixel_aspect or 1)), stored[1]
    return (height, width) if turn in (90, -90) else (width, height)


def clip_size(shapes: Shapes, turn: int) -> tuple[int, int]:
    """Width and height of the largest picture as shown."""
    return max((shown_size(stored, aspect, turn) for stored, aspect in shapes.items()), key=math.prod)


def remarks_of(picture: av.VideoFrame) -> list[str]:
    """What is odd about the scan and the colours of a picture, and what is done about it here."""
    hdr, wide = picture.color_trc in (PQ, HLG), picture.color_primaries
    found = {
        DEINTERLACED: picture.interlaced_frame,
        f"HDR ({'PQ' if picture.color_trc == PQ else 'HLG'}): brought to SDR": hdr,
        f"wide gamut ({'P3' if wide == P3 else 'BT.2020'}): brought to BT.709": not hdr and wide in TO_BT709,
    }
    return [remark for remark, holds in found.items() if holds]


class Deinterlacer:
    """Makes whole pictures of interlaced ones with FFmpeg's bwdif, one of each; others pass as they are.

    `used` tells whether there were any.
    """

    used = False

    def __call__(self, pictures: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """Pass all pictures of a clip, in order: a picture needs its neighbours."""
        graph, kind = None, None
        for picture in pictures:
            if graph and kind != (kind := (picture.width, picture.height, picture.format.name)):
                yield from _flow(graph, None)
                graph = None
            if graph is None and picture.interlaced_frame:
                graph, self.used = _bwdif(picture), True
                kind = (picture.width, picture.height, picture.format.name)
            yield from _flow(graph, picture) if graph else (picture,)
        if graph:
            yield from _flow(graph, None)


def _bwdif(like: av.VideoFrame) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(width=like.width, height=like.height, format=like.format, time_base=like.time_base)
    bwdif = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
    return graph


def _flow(graph: Graph, picture: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
    """Put a picture, or the end, into a graph; what comes out."""
    graph.push(picture)
    with suppress(BlockingIOError, EOFError):
        while True:
            yield graph.pull()


class Converter:
    """Turns the decoded pictures of one video into upright RGB uint8 arrays (H, W, 3), of one size.

    One scaler serves every decoder: swscale's area averaging when a picture shrinks, bilinear otherwise. A picture of
    another shape than the largest lies in the middle of black. `done` tells in words what was changed.
    """

    def __init__(self, size: tuple[int, int] | None = None, shapes: Shapes | None = None):
        """Take (height, width) of the arrays, by default that of the largest picture as displayed; see `shapes_of`."""
        self._size, self._shapes, self._clip = size, shapes or {(0, 0): None}, None
        self._scaler, self._colours, self._plans = VideoReformatter(), VideoReformatter(), {}
        self.done: dict[str, None] = {}

    def __call__(self, picture: av.VideoFrame) -> np.ndarray:
        """Convert a picture."""
        turn, mirrored = orientation(picture)
        kind = picture.width, picture.height, turn, picture.color_trc, picture.color_primaries
        if kind not in self._plans:
            self._plans[kind] = self._place(picture, turn)
            self.done |= dict.fromkeys(remarks_of(picture))
        height, width = self._plans[kind]
        pixels = self._rgb(picture, *((height, width) if turn in (90, -90) else (width, height)))
        upright = np.ascontiguousarray(np.rot90(pixels[:, ::-1] if mirrored else pixels, turn // 90))
        if (height, width) == self._size:
            return upright
        top, left = (self._size[0] - height) // 2, (self._size[1] - width) // 2
        whole = np.zeros((*self._size, 3), np.uint8)
        whole[top : top + height, left : left + width] = upright
        return whole

    def _place(self, picture: av.VideoFrame, turn: int) -> tuple[int, int]:
        """Height and width that a picture takes up in the array."""
        stored = picture.width, picture.height
        if (0, 0) in self._shapes:
            self._shapes = {stored: self._shapes[0, 0]}
        self._clip = self._clip or clip_size(self._shapes, turn)
        self._size = self._size or self._clip[::-1]
        shown = shown_size(stored, self._shapes.get(stored, next(iter(self._shapes.values()))), turn)
        share = min(whole / part for whole, part in zip(self._clip, shown, strict=True))
        if shown != self._clip:
            self.done[CHANGES.format(*self._clip)] = None
        fitted = [w if w - share * p <= SNAP_PX else share * p for w, p in zip(self._clip, shown, strict=True)]
        return tuple(
            max(1, round(n * f / w)) for n, f, w in zip(self._size, fitted[::-1], self._clip[::-1], strict=True)
        )

    def _rgb(self, picture: av.VideoFrame, width: int, height: int) -> np.ndarray:
        shrinks = width * height < picture.width * picture.height
        how = "AREA" if shrinks else "BILINEAR"
        if shrinks and picture.format.name in PLANAR:
            # Scaling first and colouring the few pixels that are left takes less than half of doing both at once.
            picture = self._scaler.reformat(picture, width, height, picture.format.name, interpolation=how, threads=1)
        transfer, primaries = picture.color_trc, picture.color_primaries
        plain = transfer not in (PQ, HLG) and primaries not in TO_BT709
        if not plain and primaries != P3 and picture.colorspace == UNTOLD:
            picture.colorspace = BT2020
        form = "rgb24" if plain else "rgb48le"
        pixels = self._colours.reformat(picture, width, height, form, interpolation=how, threads=1).to_ndarray()
        return pixels if plain else to_sdr(pixels, transfer, primaries)


def to_sdr(pixels: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """RGB of an SDR BT.709 screen, uint8, of HDR or wide gamut RGB uint16 (H, W, 3); what such a screen cannot show is
    clipped.

    Light is that of ITU-R BT.2100 (tables 4 and 5), on a screen of `PEAK` for HLG, of BT.1886 for SDR.
    """
    light = _light(transfer)[pixels]
    if transfer == HLG:
        light *= PEAK / WHITE * cv2.transform(light, np.array(LUMA, np.float32))[..., None] ** np.float32(0.2)
    light = cv2.transform(light, np.array(TO_BT709.get(primaries, TO_BT709[BT2020]), np.float32))
    return _screen()[(np.clip(light, 0, 1) * 65535).astype(np.uint16)]


@cache
def _light(transfer: int) -> np.ndarray:
    """Linear light of every 16-bit value, float32 (65536,); 1 is SDR's white, of HLG the camera's full range."""
    v = np.linspace(0, 1, 65536)
    if transfer == PQ:
        power = v ** (1 / 78.84375)
        light = (
            10_000
            / WHITE
            * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
        )
    elif transfer == HLG:
        light = np.where(v <= 0.5, v**2 / 3, (np.exp((v - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    else:
        light = v**GAMMA
    return light.astype(np.float32)


@cache
def _screen() -> np.ndarray:
    """SDR's value of linear light in [0, 65535], uint8 (65536,)."""
    return np.rint(255 * np.linspace(0, 1, 65536) ** (1 / GAMMA)).astype(np.uint8)
