"""Decoded pictures to upright RGB: one size, one colour space and whole pictures throughout a clip.

In: pictures as a decoder gives them. Out: RGB uint8 arrays (H, W, 3), SDR, as a player shows them. What a stream says
of its matrix, range, transfer and primaries is followed; where it says nothing, pictures are BT.601 of limited range,
as FFmpeg takes them, and HDR is BT.2020. `Converter.done` lists what was changed beyond that.
"""

import math
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import cache
from itertools import chain, groupby

import av
import cv2
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.reformatter import VideoReformatter

from helpers.container import VideoError

PLANAR = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12")  # 8 bits, luma at full size
UNSPECIFIED, BT2020, P3, PQ, HLG = 2, 9, 12, 16, 18  # of matrix, primaries and transfer in ITU-T H.273
HDR = (PQ, HLG)
TO_BT709 = {  # of linear light: ITU-R BT.2087-0; SMPTE EG 432-1
    BT2020: np.float32([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]),
    P3: np.float32([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]]),
}
LUMA = np.float32([[0.2627, 0.6780, 0.0593]])  # of BT.2020
WHITE, PEAK = 203, 1000  # cd/m²: HDR's diffuse white (ITU-R BT.2408), which becomes SDR's; the screen HLG is made for
GAMMA = 2.4  # of an SDR screen (ITU-R BT.1886)
BWDIF = "mode=send_frame:deint=interlaced"
DEINTERLACED = "interlaced: deinterlaced (bwdif)"
CHANGES = "its picture changes size or shape. Convert it: ffmpeg -i old -vf scale=iw*sar:ih,setsar=1 new.mp4"


def orientation(picture: av.VideoFrame) -> tuple[int, bool]:
    """Degrees, counter-clockwise, by which a picture is turned for display, and whether it is mirrored before.

    A stored pixel (x, y) is shown at (a x + c y, b x + d y) of ISO/IEC 14496-12, 8.3.2. What is no turn or flip, as
    when all are zero, leaves a picture as it is.
    """
    stored = picture.side_data.get(Type.DISPLAYMATRIX) if len(picture.side_data) else None  # `get` alone is slow
    a, b, c, d = (1, 0, 0, 1) if stored is None else np.frombuffer(stored, np.int32)[[0, 1, 3, 4]].tolist()
    if a * d == b * c:
        return 0, False
    mirrored = a * d < b * c
    a, b = (-a, -b) if mirrored else (a, b)
    return 90 * round(math.degrees(math.atan2(-b, a)) / 90), mirrored


def shown_size(picture: av.VideoFrame, aspect: Fraction | None, turn: int) -> tuple[int, int]:
    """Width and height at which a player shows a picture; `aspect`: the width of a pixel in heights."""
    width, height = round(picture.width * (aspect or 1)), picture.height
    return (height, width) if turn in (90, -90) else (width, height)


def remarks_of(picture: av.VideoFrame) -> list[str]:
    """What is odd about the scan and the colours of a picture, and what is done about it here."""
    found = {
        DEINTERLACED: picture.interlaced_frame,
        "HDR (PQ): brought to SDR": picture.color_trc == PQ,
        "HDR (HLG): brought to SDR": picture.color_trc == HLG,
        "wide gamut: brought to BT.709": picture.color_primaries in TO_BT709 and picture.color_trc not in HDR,
    }
    return [remark for remark, holds in found.items() if holds]


def deinterlaced(pictures: Iterator[av.VideoFrame], done: dict[str, None]) -> Iterator[av.VideoFrame]:
    """Of every picture of a clip, in order, one by FFmpeg's bwdif, as at the time of its first field.

    Pictures that are not flagged as interlaced pass as they are; `DEINTERLACED` is put into `done` where one is.
    """
    for _, alike in groupby(pictures, lambda picture: (picture.width, picture.height, picture.format.name)):
        graph = None
        for picture in chain(alike, [None]):
            if graph is None and picture and picture.interlaced_frame:
                graph, done[DEINTERLACED] = Graph(), None
                graph.threads = 1
                nodes = graph.add_buffer(picture, time_base=picture.time_base), graph.add("bwdif", BWDIF)
                graph.link_nodes(*nodes, graph.add("buffersink")).configure()
            if graph:
                graph.push(picture)
                with suppress(BlockingIOError, EOFError):
                    while True:
                        yield graph.pull()
            elif picture:
                yield picture


class Converter:
    """Turns the decoded pictures of one video into upright RGB uint8 arrays (H, W, 3), of one size.

    One scaler serves every decoder: swscale's area averaging when a picture shrinks, bilinear otherwise. `done` lists
    in words what was changed.
    """

    def __init__(self, size: tuple[int, int] | None, aspect: Fraction | None = None):
        """Take (height, width) of the arrays, by default as displayed, and the width of a pixel in heights."""
        self._size, self._aspect, self._stored = size, aspect, None
        self._scaler, self._colours = VideoReformatter(), VideoReformatter()
        self.done: dict[str, None] = {}

    def __call__(self, picture: av.VideoFrame) -> np.ndarray:
        """Convert a picture; VideoError where it is of another size than the first."""
        stored = picture.width, picture.height
        is_first = self._stored is None
        if is_first:  # once: a picture whose side data are looked at stays in memory for long
            self._stored, (self._turn, self._mirrored) = stored, orientation(picture)
            self._size = self._size or shown_size(picture, self._aspect, self._turn)[::-1]
        if stored != self._stored:
            raise VideoError(CHANGES)
        if is_first or picture.key_frame:
            self.done |= dict.fromkeys(remarks_of(picture))
        height, width = self._size
        pixels = self._rgb(picture, *((height, width) if self._turn in (90, -90) else (width, height)))
        return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if self._mirrored else pixels, self._turn // 90))

    def _rgb(self, picture: av.VideoFrame, width: int, height: int) -> np.ndarray:
        shrinks = width * height < picture.width * picture.height
        how = "AREA" if shrinks else "BILINEAR"
        if shrinks and picture.format.name in PLANAR:
            # Scaling first and colouring the few pixels that are left takes less than half of doing both at once.
            picture = self._scaler.reformat(picture, width, height, picture.format.name, interpolation=how, threads=1)
        if picture.color_trc not in HDR and picture.color_primaries not in TO_BT709:
            return self._colours.reformat(picture, width, height, "rgb24", interpolation=how, threads=1).to_ndarray()
        primaries = BT2020 if picture.color_primaries == UNSPECIFIED else picture.color_primaries
        if picture.colorspace == UNSPECIFIED and primaries == BT2020:
            picture.colorspace = BT2020
        deep = self._colours.reformat(picture, width, height, "rgb48le", interpolation=how, threads=1).to_ndarray()
        return to_sdr(deep, picture.color_trc, primaries)


def to_sdr(pixels: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """SDR BT.709 uint8 of RGB uint16 (H, W, 3) in PQ, HLG or SDR; numbers of ITU-T H.273.

    Diffuse white becomes white; what is brighter, or more colourful than BT.709 can be, is clipped.
    """
    table, screen = _tables(transfer)
    light = table[pixels]
    if transfer == HLG:  # ITU-R BT.2100, table 5: on a screen of `PEAK`
        light *= PEAK / WHITE * cv2.transform(light, LUMA)[..., None] ** np.float32(0.2)
    if primaries in TO_BT709:
        light = cv2.transform(light, TO_BT709[primaries])
    return screen[(np.clip(light, 0, 1) * 65535).astype(np.uint16)]


@cache
def _tables(transfer: int) -> tuple[np.ndarray, np.ndarray]:
    """Light of 16-bit values (ITU-R BT.2100, tables 4 and 5), float32, 1 is white or HLG's peak; SDR of light."""
    v = np.linspace(0, 1, 65536)
    light = v**GAMMA
    if transfer == PQ:
        power = v ** (1 / 78.84375)
        part = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
        light = 10_000 / WHITE * part ** (1 / 0.1593017578125)
    elif transfer == HLG:
        light = np.where(v <= 0.5, v**2 / 3, (np.exp((v - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    return light.astype(np.float32), np.rint(255 * v ** (1 / GAMMA)).astype(np.uint8)
