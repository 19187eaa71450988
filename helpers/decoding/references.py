"""Which packets a decoder needs to show some pictures exactly, and which it can do without.

In: packets in decoding order. Out: a flag for each. Pictures that no other refers to are left out, and so is everything
between the last wanted picture and the next point where decoding starts afresh. The flags are read from the bit stream
(H.264: ITU-T H.264, 7.3.1; HEVC: ITU-T H.265, 7.3.1.2): the containers' own `is_disposable` is often not set.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np

FRESH_BY_FLAG = ("vp8", "vp9", "av1", "mjpeg", "prores", "mpeg4", "mpeg2video")  # a key picture forgets all before it
H264_SLICES, H264_IDR = range(1, 6), 5
HEVC_SLICES, HEVC_IRAP = range(32), range(16, 24)


@dataclass(frozen=True)
class Picture:
    """What its first slice says of a picture.

    `fresh`: decoding can start here; `layer`: 0 or its temporal layer; `referred`: pictures of its own or a lower layer
    may refer to it; `n_slices`: into how many parts it is cut, that can be decoded at the same time.
    """

    fresh: bool
    referred: bool
    layer: int = 0
    n_slices: int = 1


def read_picture(packet: av.Packet, codec: str, length_bytes: int) -> Picture:
    """Read a packet's picture; of codecs that are not known here every picture counts as referred to.

    Args:
        packet: One packet of the stream.
        codec: The codec's common name.
        length_bytes: See `nal_length_bytes`.
    """
    if codec == "h264":
        headers = [data[0] for data in nal_units(packet, length_bytes) if data[0] & 31 in H264_SLICES]
        if headers:
            return Picture(headers[0] & 31 == H264_IDR, bool(headers[0] >> 5 & 3), n_slices=len(headers))
    elif codec == "hevc":
        headers = [data[:2] for data in nal_units(packet, length_bytes) if data[0] >> 1 & 63 in HEVC_SLICES]
        if headers:
            kind, layer = headers[0][0] >> 1 & 63, (headers[0][1] & 7) - 1
            return Picture(kind in HEVC_IRAP, kind >= 16 or kind % 2 == 1, layer, len(headers))
    return Picture(codec in FRESH_BY_FLAG and packet.is_keyframe, True)


def nal_length_bytes(stream: av.VideoStream) -> int:
    """Bytes of the length before each unit of an H.264 or HEVC stream in mp4 or mkv; 0: start codes stand between."""
    extradata = stream.codec_context.extradata or b""
    if not extradata or extradata[0] != 1:
        return 0
    at = {"h264": 4, "hevc": 21}.get(stream.codec_context.codec.canonical_name)
    return 0 if at is None or len(extradata) <= at else (extradata[at] & 3) + 1


def nal_units(packet: av.Packet, length_bytes: int) -> Iterator[memoryview]:
    """The units of a packet that hold two bytes or more, each from its header on; none where start codes are used."""
    data = memoryview(packet)
    position = 0
    while length_bytes and position + length_bytes + 2 <= len(data):
        length = int.from_bytes(data[position : position + length_bytes], "big")
        if length >= 2:
            yield data[position + length_bytes : position + length_bytes + length]
        position += length_bytes + length


def needed_packets(
    packets: list[av.Packet], pictures: list[Picture], wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which packets show the wanted pictures exactly as decoding all of them would.

    Args:
        packets: All of the stream, in decoding order, every one with a time.
        pictures: What each holds.
        wanted: Their times, in units of the stream's time base, int (n,).

    Returns:
        Which packets are needed, and where decoding starts afresh: both bool (len(packets),).
    """
    ticks = np.array([packet.pts for packet in packets])
    is_wanted = np.isin(ticks, wanted)
    fresh = np.array([picture.fresh for picture in pictures]) & _parts_time(ticks)
    group = np.cumsum(fresh)  # packets from one fresh start to the next have one number
    positions = np.arange(len(packets))
    last = np.full(group[-1] + 1, -1)
    np.maximum.at(last, group[is_wanted], positions[is_wanted])
    highest = max(picture.layer for picture in pictures)
    droppable = np.array([not picture.referred and picture.layer == highest for picture in pictures])
    return (positions <= last[group]) & (is_wanted | ~droppable), fresh


def _parts_time(ticks: np.ndarray) -> np.ndarray:
    """Where all earlier packets are shown before, and all later ones after: no picture refers across such a place."""
    latest_before = np.r_[np.iinfo(ticks.dtype).min, np.maximum.accumulate(ticks)[:-1]]
    earliest_after = np.minimum.accumulate(ticks[::-1])[::-1]
    return (latest_before < ticks) & (earliest_after == ticks)
