"""Exact frames of video files with their times: all, chosen ones, evenly spread ones, or at a fixed rate.

In: a path. Out: RGB uint8 frames (H, W, 3) in presentation order, upright as a player shows them, with times in seconds
from the first frame. Which decoder delivers them changes no number and no time.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from itertools import chain, compress, islice, takewhile
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import av
import cv2
import numpy as np
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.sidedata.sidedata import Type
from av.video.reformatter import VideoReformatter
from platformdirs import user_cache_path

from helpers.files import ROOT, read_json, write_json

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


SEGMENT, CLUSTER, CUES = 0x18538067, 0x1F43B675, 0x1C53BB6B
TO_POSITION = (0xBB, 0xB7, 0xF1)  # from the Cues to where a cluster begins: point, positions in a track, the number
CRC_32, CRC_BYTES = 0xBF, 4
LONGEST_NUMBER = 8  # bytes


class Element(NamedTuple):
    """An element's number, and where its content lies in the file; `end` is None if its size was not known."""

    number: int
    start: int
    end: int | None


def damage(path: str | Path) -> str:
    """Say what is missing from or damaged in a Matroska file; "" if nothing is found."""
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        segment = next((e for e in elements(file, 0, size) if e.number == SEGMENT), None)
        if segment is None or segment.end is None:  # a live recording, whose end nobody knew
            return ""
        if segment.end > size:
            return f"its last {segment.end - size:,} bytes are missing"
        parts = list(elements(file, segment.start, segment.end))
        reached = parts[-1].end if parts else segment.start
        if reached is not None and reached < segment.end:
            return f"what follows byte {reached:,} is damaged"
        for cues in (part for part in parts if part.number == CUES and part.end is not None):
            for position in _cluster_positions(file, cues.start, min(cues.end, segment.end)):
                if not _is_cluster(file, segment.start + position, size):
                    return f"the part that its index puts at byte {segment.start + position:,} is missing"
        for part in parts:
            if part.number == CLUSTER and part.end is not None and not _sum_is_right(file, part, segment.end):
                return f"the part at byte {part.start:,} is damaged (its checksum differs)"
    return ""


def elements(file: BinaryIO, start: int, end: int) -> Iterator[Element]:
    """The elements between two places of a file, as far as they can be told."""
    position = start
    while position < end:
        file.seek(position)
        number, n_number = _read_vint(file, keep_marker=True)
        size, n_size = _read_vint(file, keep_marker=False)
        if not n_number or not n_size:
            return
        content = position + n_number + n_size
        unknown = size == (1 << 7 * n_size) - 1
        yield Element(number, content, None if unknown else content + size)
        if unknown:
            return
        position = content + size


def _read_vint(file: BinaryIO, *, keep_marker: bool) -> tuple[int, int]:
    """A number of variable length, and its length in bytes; 0 bytes if there is none."""
    first = file.read(1)
    if not first or first[0] == 0:
        return 0, 0
    length = 9 - first[0].bit_length()
    value = first[0] if keep_marker else first[0] - (1 << 8 - length)
    rest = file.read(length - 1)
    return (value << 8 * len(rest)) + int.from_bytes(rest, "big"), length if len(rest) == length - 1 else 0


def _cluster_positions(file: BinaryIO, start: int, end: int, path: tuple[int, ...] = TO_POSITION) -> Iterator[int]:
    """Where the index says that clusters begin, in bytes from the segment's start; damaged entries are passed over."""
    for part in elements(file, start, end):
        if part.number != path[0]:
            continue
        if path[1:]:
            yield from _cluster_positions(file, part.start, min(part.end or end, end), path[1:])
        elif part.end is not None and part.end - part.start <= LONGEST_NUMBER:
            file.seek(part.start)
            yield int.from_bytes(file.read(part.end - part.start), "big")


def _is_cluster(file: BinaryIO, place: int, size: int) -> bool:
    """Whether a cluster begins at a place of a file of so many bytes."""
    if place >= size:  # not to be sought: it may be more than the system can count
        return False
    file.seek(place)
    return file.read(4) == CLUSTER.to_bytes(4, "big")


def _sum_is_right(file: BinaryIO, cluster: Element, end: int) -> bool:
    """Whether a cluster of a segment that reaches to `end` is what its checksum says; True without one."""
    first = next(elements(file, cluster.start, min(cluster.end, end)), None)
    if first is None or first.number != CRC_32:
        return True
    if first.end is None or first.end - first.start != CRC_BYTES or not first.end <= cluster.end <= end:
        return False
    file.seek(first.start)
    stated = int.from_bytes(file.read(CRC_BYTES), "little")
    return zlib.crc32(file.read(cluster.end - first.end)) == stated


PLANAR = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12")  # 8 bits, luma at full size


def display_matrix(picture: av.VideoFrame) -> np.ndarray:
    """The turn and flip that displays a picture, signs of [[a, b], [c, d]] of ISO/IEC 14496-12, 8.3.2: int (2, 2).

    A stored pixel (x, y) is shown at (a x + c y, b x + d y). What is no turn or flip, as when all are zero, leaves a
    picture as it is.
    """
    stored = picture.side_data.get(Type.DISPLAYMATRIX)
    if stored is None:
        return np.eye(2, dtype=int)
    matrix = np.frombuffer(stored, np.int32)[[0, 1, 3, 4]].reshape(2, 2).astype(int)
    turned = np.abs(matrix[0, 1]) > np.abs(matrix[0, 0])
    matrix = np.sign(matrix) * ([[0, 1], [1, 0]] if turned else [[1, 0], [0, 1]])
    return matrix if abs(round(np.linalg.det(matrix))) == 1 else np.eye(2, dtype=int)


def orientation(picture: av.VideoFrame) -> tuple[int, bool]:
    """Degrees, counter-clockwise, by which a picture is turned for display, after it is mirrored or not."""
    matrix = display_matrix(picture)
    mirrored = bool(np.linalg.det(matrix) < 0)
    a, b = matrix[0] * (-1 if mirrored else 1)
    return {(1, 0): 0, (0, -1): 90, (-1, 0): 180, (0, 1): -90}[int(a), int(b)], mirrored


def display_size(picture: av.VideoFrame, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """Width and height at which a player shows a picture: pixels that are not square are widened."""
    width, height = picture.width, picture.height
    if pixel_aspect and pixel_aspect != 1:
        width = round(width * pixel_aspect)
    return (height, width) if display_matrix(picture)[0, 1] else (width, height)


class Converter:
    """Turns the decoded pictures of one video into RGB arrays; the scaler's tables are made once and used again.

    `first`: the first picture it was given.
    """

    first: av.VideoFrame | None = None

    def __init__(self, size: tuple[int, int] | None, pixel_aspect: Fraction | None = None):
        """
        Args:
            size: (height, width) of the arrays; default: as displayed.
            pixel_aspect: Width of a stored pixel in heights.
        """
        self.size, self._aspect = size, pixel_aspect
        self._scaler, self._colours = VideoReformatter(), VideoReformatter()

    def again(self) -> "Converter":
        """Another one that does the same: two threads may not share one."""
        return Converter(self.size, self._aspect)

    def __call__(self, picture: av.VideoFrame) -> np.ndarray:
        """One picture as upright RGB uint8 (H, W, 3)."""
        if self.first is None:
            self.first, self._matrix = picture, display_matrix(picture)
            self._shown = display_size(picture, self._aspect) if self.size is None else self.size[::-1]
        width, height = self._shown[:: -1 if self._matrix[0, 1] else 1]
        return upright(self._rgb(picture, width, height), self._matrix)

    def _rgb(self, picture: av.VideoFrame, width: int, height: int) -> np.ndarray:
        shrinks = width * height < picture.width * picture.height
        how = "AREA" if shrinks else "BILINEAR"
        if shrinks and picture.format.name in PLANAR:
            # Scaling first and colouring the few pixels that are left takes less than half of doing both at once.
            picture = self._scaler.reformat(picture, width, height, picture.format.name, interpolation=how, threads=1)
        rgb = self._colours.reformat(picture, width, height, "rgb24", interpolation=how, threads=1)
        return rgb.to_ndarray()


def upright(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turn and flip pixels (H, W, 3) as a display matrix says; contiguous."""
    if matrix[0, 1]:
        pixels = pixels.swapaxes(0, 1)
    along_x, along_y = matrix.sum(axis=0).tolist()  # 1 or -1
    return np.ascontiguousarray(pixels[::along_y, ::along_x])


MISSING_S = 0.3  # packets ending this much before the duration in the header: the file is cut off
DECLARING = {"mov", "matroska", "avi"}  # containers whose header states the duration; elsewhere FFmpeg guesses it
HELD_BYTES = 64 * 2**20  # packets of larger files are read a second time instead of kept
LONGEST_S = 3600.0  # that a frame is shown: a time beyond is a damaged one, and would be sampled for days
UNEVEN = 1.5  # an interval this many times the median one makes a rate variable
NO_VIDEOS = {"image2": "a picture", "tty": "text", "ico": "a picture (ico)", "svg": "a drawing", "ass": "subtitles"}
COPY_AGAIN = "Copy or download it again"


class VideoError(ValueError):
    """A file that is not a whole, readable video; the message is one line that names the file."""


@dataclass(frozen=True)
class VideoInfo:
    """What is in a video file: `width`, `height` in pixels as displayed, `fps` the mean rate, `duration_s` seconds,
    `rotation_deg` the turn that displays it, counter-clockwise, `mirrored` whether it is flipped left to right as well.
    """

    codec: str
    width: int
    height: int
    fps: float
    n_frames: int
    duration_s: float
    rotation_deg: int
    mirrored: bool
    variable_rate: bool
    audio: bool


@dataclass(frozen=True)
class OpenVideo:
    """An open file. `packets` are those of the picture in decoding order; None when they are too many to be kept.

    `ticks (n,) int64`: when each shown picture appears, ascending, in units of the stream's time base; `t_s (n,)` the
    same in seconds from the first one. `timed`: whether packets and pictures carry that time, each another one, so that
    a decoded picture is known by it; otherwise pictures can only be counted. `cut_out`: it begins with pictures that
    refer to what was cut away before them; they are left out.
    """

    path: Path
    container: av.container.InputContainer
    stream: av.VideoStream
    packets: list[av.Packet] | None
    ticks: np.ndarray
    t_s: np.ndarray
    timed: bool
    cut_out: bool

    @property
    def interval_s(self) -> float:
        """The median time from picture to picture; that of the declared rate where the times do not tell."""
        between = float(np.median(np.diff(self.t_s))) if len(self.t_s) > 1 else 0.0
        return between or 1 / float(self.stream.average_rate or 25)

    @property
    def duration_s(self) -> float:
        """When the last picture disappears, seconds from the first one."""
        return float(self.t_s[-1]) + self.interval_s

    @property
    def codec(self) -> str:
        """The codec's common name: "h264", "av1"."""
        return self.stream.codec_context.codec.canonical_name

    def iter_packets(self) -> Iterator[av.Packet]:
        """The packets of the picture in decoding order."""
        if self.packets is not None:
            yield from self.packets
            return
        with open_container(self.path) as again:
            packets = (packet for packet in again.demux(again.streams[self.stream.index]) if packet.size)
            yield from without_orphans(packets, self.ticks[0])

    def info(self, first: av.VideoFrame) -> VideoInfo:
        """Describe the video; its first decoded picture says how it is displayed."""
        width, height = display_size(first, self.stream.sample_aspect_ratio)
        n, last_s = len(self.t_s), self.t_s[-1]
        gaps = np.diff(self.t_s)
        turn, mirrored = orientation(first)
        return VideoInfo(
            codec=self.codec,
            width=width,
            height=height,
            fps=float((n - 1) / last_s if last_s > 0 else 1 / self.interval_s),
            n_frames=n,
            duration_s=self.duration_s,
            rotation_deg=turn,
            mirrored=mirrored,
            variable_rate=bool(n > 1 and gaps.max() > UNEVEN * self.interval_s),
            audio=len(self.container.streams.audio) > 0,
        )


def probe(path: str | Path) -> VideoInfo:
    """Read what is in a video without decoding more than its first frame.

    Raises:
        VideoError: the file is missing, empty, cut off, or no video.
    """
    with open_video(path) as video:
        return video.info(first_picture(video.path, video.stream.index))


def survey(paths: Mapping[str, Path]) -> tuple["pd.DataFrame", dict[str, str]]:
    """Probe many videos.

    Args:
        paths: Key of each clip to its file.

    Returns:
        The fields of `VideoInfo` as columns, index `key`; and key -> reason for those that cannot be opened.
    """

    import pandas as pd  # late: decoder processes import this file, and start in 0.25 instead of 0.57 s without it

    infos, broken = {}, {}
    for key, path in paths.items():
        try:
            infos[key] = asdict(probe(path))
        except VideoError as error:
            broken[key] = str(error)
    columns = [f.name for f in fields(VideoInfo)]
    return pd.DataFrame(infos.values(), columns=columns, index=pd.Index(infos, name="key")), broken


def open_container(path: Path, hardware: HWAccel | None = None) -> av.container.InputContainer:
    """Open a file with FFmpeg; titles and the like in another encoding than UTF-8 are no reason to refuse it."""
    return av.open(str(path.absolute()), metadata_errors="replace", hwaccel=hardware)


@contextmanager
def open_video(path: str | Path, hardware: HWAccel | None = None) -> Iterator[OpenVideo]:
    """Open a video file and read the table of its pictures; nothing is decoded if the file begins as it should.

    Args:
        path: Video file.
        hardware: Decode on this device where it can; default: in software.

    Raises:
        VideoError: see `probe`.
    """
    path = Path(path)
    if not path.is_file():
        raise VideoError(f"{path.name}: there is no such file in {path.parent}.")
    if path.stat().st_size == 0:
        raise VideoError(f"{path.name}: the file is empty (0 bytes). {COPY_AGAIN}.")
    try:
        with open_container(path, hardware) as container:
            yield _read_table(path, container)
    except av.FFmpegError as error:
        raise VideoError(f"{path.name}: not a readable video ({error.strerror}). {COPY_AGAIN}, or remove it.") from None


def without_orphans(packets: Iterable[av.Packet], first_tick: int) -> Iterator[av.Packet]:
    """Leave out pictures shown before the first one that can be decoded: what they refer to was cut away."""
    for packet in packets:
        if packet.is_discard or packet.pts is None or packet.pts >= first_tick:
            yield packet


def first_picture(path: Path, index: int) -> av.VideoFrame:
    """Decode the first picture of a file's stream `index`."""
    with open_container(path) as container:
        try:
            for picture in container.decode(container.streams[index]):
                return picture
        except av.FFmpegError as error:
            raise VideoError(
                f"{path.name}: its first frame cannot be decoded ({error.strerror}). {COPY_AGAIN}."
            ) from None
    raise VideoError(f"{path.name}: holds no frame that can be decoded. {COPY_AGAIN}, or remove it.")


def _read_table(path: Path, container: av.container.InputContainer) -> OpenVideo:
    _refuse_stills(path, container)
    stream = _video_stream(container, path.name)
    packets, held = [], 0
    end = dict.fromkeys(range(len(container.streams)), 0)  # of each stream, in its ticks
    moments = []  # of the pictures that are shown
    timed = "avi" not in container.format.name  # AVI knows the order of decoding only
    for packet in container.demux():
        moment = packet.dts if packet.pts is None else packet.pts
        if moment is None or packet.stream.type == "data":
            continue
        end[packet.stream_index] = max(end[packet.stream_index], moment + (packet.duration or 0))
        if packet.stream is not stream:
            continue
        if packet.is_corrupt:
            raise VideoError(f"{path.name}: breaks off at {float(moment * stream.time_base):.1f} s. {COPY_AGAIN}.")
        held += packet.size
        if held <= HELD_BYTES or not packets:
            packets.append(packet)
        if not packet.is_discard:
            moments.append(moment)
            timed = timed and packet.pts is not None
    if not moments:
        raise VideoError(f"{path.name}: holds no frame that can be decoded. {COPY_AGAIN}, or remove it.")
    _check_whole(container, max(float(end[s.index] * s.time_base) for s in container.streams), path.name)
    if "matroska" in container.format.name and (missing := damage(path)):
        raise VideoError(f"{path.name}: {missing}. {COPY_AGAIN}.")
    ticks = np.sort(moments)
    if not packets[0].is_keyframe or packets[0].pts != ticks[0]:
        first = first_picture(path, stream.index).pts
        ticks = ticks if first is None else ticks[ticks >= first]
        packets = list(without_orphans(packets, ticks[0]))
    video = OpenVideo(
        path,
        container,
        stream,
        packets if held <= HELD_BYTES else None,
        ticks,
        t_s=(ticks - ticks[0]) * float(stream.time_base),
        timed=timed and len(np.unique(ticks)) == len(ticks),
        cut_out=len(ticks) < len(moments),
    )
    _check_times(video)
    return video


def _refuse_stills(path: Path, container: av.container.InputContainer) -> None:
    """FFmpeg takes pictures and even text for short videos; a GIF is one only where it is called so."""
    kind = container.format.name
    if kind.endswith("_pipe") or kind in NO_VIDEOS or (kind == "gif" and path.suffix.lower() != ".gif"):
        what = kind.removesuffix("_pipe")
        raise VideoError(f"{path.name}: not a video but {NO_VIDEOS.get(kind, f'a picture ({what})')}. Remove it.")


def _video_stream(container: av.container.InputContainer, name: str) -> av.VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:  # a cover picture is not a video
            break
    else:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoError(
            f"{name}: holds no video stream ({kinds} only). Remove it, or take the file that has the picture."
        )
    if stream.codec_context is None:
        raise VideoError(
            f"{name}: its codec cannot be decoded here. Convert it: ffmpeg -i {name} -c:v libx264 new.mp4."
        )
    return stream


def _check_times(video: OpenVideo) -> None:
    """Refuse times that no camera gives."""
    shown_s = np.append(np.diff(video.ticks.astype(float)) * float(video.stream.time_base), video.interval_s)
    name, n = video.path.name, len(shown_s)
    if n > 1 and not shown_s[:-1].any() and not video.stream.average_rate:
        raise VideoError(f"{name}: shows all of its {n} frames at once, and declares no rate. {COPY_AGAIN}.")
    longest = shown_s.argmax()
    if shown_s[longest] > LONGEST_S:
        start_s, shown_h = shown_s[:longest].sum(), shown_s[longest] / 3600
        raise VideoError(f"{name}: shows one frame for {shown_h:.1f} hours, from {start_s:.1f} s on. {COPY_AGAIN}.")


def _check_whole(container: av.container.InputContainer, end_s: float, name: str) -> None:
    if container.duration is None or not DECLARING & set(container.format.name.split(",")):
        return
    declared_s = (container.duration + min(container.start_time or 0, 0)) / av.time_base
    if end_s < declared_s - MISSING_S:
        raise VideoError(f"{name}: breaks off at {end_s:.1f} s of {declared_s:.1f} s. {COPY_AGAIN}.")


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


HARDWARE = ("cuda", "qsv", "vaapi", "videotoolbox", "d3d11va", "drm", "amf")  # FFmpeg's names; cuda is NVDEC
BACKENDS = ("pyav", "opencv")
STRICT = {"err_detect": "crccheck+explode"}  # damage is an error, not a picture patched up from its neighbours

WAITING_BYTES = 64 * 2**20
WORTH_SHARE = 0.1  # of the bytes: a smaller part is not worth a decoder of its own
EVEN_SHARE = 0.55  # up to it one thread per part is fastest: threads inside a decoder cost a sixth of their work

Decode = Callable[[OpenVideo, np.ndarray, Converter], Iterator[tuple[int, np.ndarray]]]


@contextmanager
def open_for(path: str | Path, backend: str) -> Iterator[OpenVideo]:
    """Open a video for a backend, as `open_video` does.

    Raises:
        VideoError: see `helpers.video.probe`.
        RuntimeError: this machine has no such hardware decoder.
    """
    if backend not in HARDWARE:
        with open_video(path) as video:
            yield video
        return
    try:
        with ExitStack() as stack:
            video = stack.enter_context(open_video(path, HWAccel(backend)))
            opened = stack.pop_all()
    except (VideoError, RuntimeError, ValueError) as error:
        why = getattr(error.__context__, "strerror", None) or error
        with open_video(path):  # if it is the file, this says so
            raise RuntimeError(
                f"backend {backend!r} cannot be used on this machine ({why}). Take 'auto' or 'pyav'."
            ) from None
    with opened:
        yield video


def decode_pyav(video: OpenVideo, wanted: np.ndarray, convert: Converter) -> Iterator[tuple[int, np.ndarray]]:
    """Decode with PyAV, in hardware if the video was opened so; packets that no wanted picture needs are left out.

    Threads inside one decoder leave part of two cores idle. Where the needed packets fall into two parts that know
    nothing of each other, and the frames of the second are small enough to wait, a second decoder works on it.
    """
    threads = max(1, cv2.getNumThreads())  # one setting for both libraries: decoder processes set it to 1
    whole = _needed_part(video, wanted)
    codec = video.stream.codec_context
    waiting_bytes = len(wanted) * (np.prod(convert.size) if convert.size else codec.width * codec.height) * 3
    halves = whole.halves() if threads > 1 and codec.hwaccel is None and waiting_bytes <= WAITING_BYTES else None
    if halves is None:
        yield from _decode_part(video, video.stream, whole, wanted, convert, threads)
        return
    shared = [threads if part.n_bytes > EVEN_SHARE * whole.n_bytes else 1 for part in halves]
    abandoned, helper = Event(), ThreadPoolExecutor(1)
    try:
        later = helper.submit(_decode_apart, video, halves[1], wanted, convert.again(), shared[1], abandoned)
        yield from _decode_part(video, video.stream, halves[0], wanted, convert, shared[0])
        yield from later.result()
    finally:  # without waiting: an abandoned generator may be collected in the very thread of its helper
        abandoned.set()
        helper.shutdown(wait=False)


def _decode_apart(
    video: OpenVideo, part: "_Part", wanted: np.ndarray, convert: Converter, threads: int, abandoned: Event
) -> list[tuple[int, np.ndarray]]:
    """Decode a part through a container of its own, in one go."""
    with open_container(video.path) as again:
        pictures = _decode_part(video, again.streams[video.stream.index], part, wanted, convert, threads)
        return list(takewhile(lambda _: not abandoned.is_set(), pictures))


@dataclass(frozen=True)
class _Part:
    """Packets to be decoded in this order; `numbers`: the shown pictures that come of them, ascending.

    `fresh`: where decoding can start anew; none where packets were not looked into. `n_slices`: of every picture.
    """

    packets: Sequence[av.Packet] | None
    numbers: np.ndarray
    fresh: np.ndarray
    n_slices: int = 1

    @property
    def n_bytes(self) -> int:
        """What there is to decode."""
        return sum(packet.size for packet in self.packets)

    def halves(self) -> tuple["_Part", "_Part"] | None:
        """Cut at the fresh start that is nearest to half of the bytes; None if the smaller part is not worth it."""
        if not len(self.fresh):
            return None
        read = np.cumsum([packet.size for packet in self.packets])
        before = read[self.fresh - 1] / read[-1]
        best = np.abs(before - 0.5).argmin()
        if not WORTH_SHARE <= before[best] <= 1 - WORTH_SHARE:
            return None
        cut = int(self.fresh[best])
        n_before = sum(not packet.is_discard for packet in self.packets[:cut])
        none = self.fresh[:0]
        return (
            _Part(self.packets[:cut], self.numbers[:n_before], none, self.n_slices),
            _Part(self.packets[cut:], self.numbers[n_before:], none, self.n_slices),
        )


def _needed_part(video: OpenVideo, wanted: np.ndarray) -> _Part:
    """What must be decoded for the wanted pictures; all of a video whose packets carry no usable times."""
    nothing = np.zeros(0, int)
    if video.packets is None or not video.timed:
        return _Part(None, np.arange(len(video.ticks)), nothing)
    length = nal_length_bytes(video.stream)
    pictures = [read_picture(packet, video.codec, length) for packet in video.packets]
    needed, fresh = needed_packets(video.packets, pictures, video.ticks[wanted])
    packets = list(compress(video.packets, needed))
    numbers = np.searchsorted(video.ticks, np.sort([packet.pts for packet in packets if not packet.is_discard]))
    starts = np.flatnonzero(fresh[needed])
    return _Part(packets, numbers, starts[starts > 0], min(picture.n_slices for picture in pictures))


def _decode_part(
    video: OpenVideo, stream: av.VideoStream, part: _Part, wanted: np.ndarray, convert: Converter, threads: int
) -> Iterator[tuple[int, np.ndarray]]:
    codec = stream.codec_context
    codec.thread_type = "SLICE" if part.n_slices > 1 else "FRAME"
    codec.thread_count = threads
    codec.options = {} if video.cut_out else STRICT  # after a cut the decoder misses what nothing refers to
    is_wanted = np.isin(part.numbers, wanted)
    expected = video.ticks[part.numbers]
    position = 0
    for packet in chain(video.iter_packets() if part.packets is None else part.packets, [None]):
        for picture in codec.decode(packet):
            if position == len(expected) or picture.is_corrupt:
                return
            if video.timed and picture.pts != expected[position]:
                log.debug("%s: time %d instead of %d", video.path.name, picture.pts, expected[position])
                return
            if is_wanted[position]:
                yield int(part.numbers[position]), convert(picture)
            position += 1


def decode_opencv(video: OpenVideo, wanted: np.ndarray, convert: Converter) -> Iterator[tuple[int, np.ndarray]]:
    """Decode with OpenCV, which counts pictures and turns them by itself; what it shows wrongly is refused."""
    first = first_picture(video.path, video.stream.index)
    for wrong, what in ((first.interlaced_frame, "interlaced"), (orientation(first)[1], "mirrored")):
        if wrong:
            raise VideoError(f"{video.path.name}: OpenCV does not show {what} video as it is. Take the backend 'pyav'.")
    capture = cv2.VideoCapture(str(video.path.absolute()), cv2.CAP_FFMPEG)
    try:
        chosen = iter(wanted)
        next_wanted = next(chosen, None)
        for number in range(len(video.ticks)):
            if next_wanted is None or not capture.grab():
                return
            if number == next_wanted:
                ok, bgr = capture.retrieve()
                if not ok:
                    return
                yield number, convert(av.VideoFrame.from_ndarray(bgr, format="bgr24"))
                next_wanted = next(chosen, None)
    finally:
        capture.release()


def decoder_of(backend: str) -> Decode:
    """The function that decodes for a backend."""
    return decode_opencv if backend == "opencv" else decode_pyav


def describe(video: OpenVideo, backend: str) -> str:
    """What decodes a video, as the library itself reports it: "pyav 18.1.0 (libavcodec 62.28.102), h264, software"."""
    if backend == "opencv":
        return f"opencv {cv2.__version__} (ffmpeg), {video.codec}, software"
    version = ".".join(map(str, av.library_versions["libavcodec"]))
    codec = video.stream.codec_context
    where = backend if codec.is_hwaccel else "software"
    return f"pyav {av.__version__} (libavcodec {version}), {codec.name}, {where}"


REFERENCE = "pyav"
WORTH = 1.1  # a decoder must be so many times faster than the reference: another decoder is other data
TRIAL_S = 60
TRIES = 3


_measured: dict[str, str] = {}  # this process's own memory, for a home folder that cannot be written


def choose_backend(clips: Iterable[Path]) -> str:
    """The fastest exact backend of this machine, measured on the first of the clips that can be decoded, once.

    As long as there is no such clip among the first `TRIES`, it is PyAV.
    """
    machine = _machine()
    if machine not in _measured:
        memory = user_cache_path("ocean-workbook") / "decoders.json"
        known = read_json(memory) if memory.exists() else {}
        if machine not in known:
            files = islice((path for path in clips if path.is_file()), TRIES)
            trials = next(filter(None, map(measure, files)), None)
            if trials is None:
                return REFERENCE
            known[machine] = {"backend": best(trials), "measured": trials}
            try:
                write_json(memory, known)
            except OSError as error:
                log.info("the choice of decoder cannot be kept (%s): it is measured again next time", error)
        _measured[machine] = known[machine]["backend"]
    return _measured[machine]


def best(trials: dict[str, dict[str, Any]]) -> str:
    """The fastest exact backend, the reference unless another is `WORTH` the change.

    Args:
        trials: Backend to what `helpers.video` says of it beside the reference; with `error` if it failed.
    """
    exact = {name: trial["times_reference"] for name, trial in trials.items() if trial.get("exact")}
    name = max(exact, key=exact.__getitem__, default=REFERENCE)
    return name if exact.get(name, 0) >= WORTH else REFERENCE


def measure(path: Path) -> dict[str, dict[str, Any]]:
    """Try every backend that this PyAV and OpenCV know beside the reference, each in a process of its own.

    Returns:
        Backend to its trial; empty if the reference itself cannot decode the clip.
    """
    log.info("choosing the decoder of this machine on %s: once", path.name)
    trials = {}
    for backend in ("opencv", *hwdevices_available()):
        trial = _trial(path, backend)
        if trial.get("clip_unusable"):
            return {}
        trials[backend] = trial
        log.info("decoder %s: %s", backend, trial.get("error") or f"{trial['times_reference']:.2f} times {REFERENCE}")
    return trials


def _trial(path: Path, backend: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "helpers.video", str(path), "--backend", backend, "--json"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TRIAL_S)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {TRIAL_S} s"}
    if done.returncode < 0:
        return {"error": f"crashed with signal {-done.returncode}"}
    try:
        trial = json.loads(done.stdout)
    except ValueError:
        return {"error": (done.stderr.strip().splitlines() or ["no answer"])[-1]}
    in_software = backend in HARDWARE and trial.get("decoder", "").endswith("software")
    return {"error": "it decodes in software"} if in_software else trial


def _machine() -> str:
    """What the choice depends on: another computer, another number of cores or another version is measured anew."""
    return f"{platform.node()}, {os.cpu_count()} cores, pyav {av.__version__}, opencv {cv2.__version__}"


ROUNDING_S = 1e-3  # Matroska and WebM round timestamps to whole milliseconds


@dataclass(frozen=True)
class Frames:
    """Decoded frames: `frames (T, H, W, 3) uint8` RGB, `t_s (T,)` seconds, `index (T,)` number in the file from 0.

    `backend`: what decoded them, as the library reports it. `frames, t_s = read_frames(...)` works as well.
    """

    frames: np.ndarray
    t_s: np.ndarray
    index: np.ndarray
    backend: str
    info: VideoInfo

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.frames, self.t_s))


def backend_name(backend: str = "auto", clips: Iterable[Path] = ()) -> str:
    """The backend that `backend` stands for: "auto" is the fastest exact one of this machine, measured once.

    Args:
        backend: "auto", one of `BACKENDS` or of `helpers.video.HARDWARE`.
        clips: Real clips to measure on if that has not been done yet; without one "auto" is then PyAV.
    """
    if backend not in (legal := ("auto", *BACKENDS, *HARDWARE)):
        raise ValueError(f"backend must be one of {', '.join(map(repr, legal))}, got {backend!r}.")
    return choose_backend(clips) if backend == "auto" else backend


def backend_version(backend: str = "auto") -> str:
    """The backend with its library's version, as manifests record it: "pyav 18.1.0"."""
    name = backend_name(backend)
    return f"{name} {cv2.__version__ if name == 'opencv' else av.__version__}"


def uniform_indices(n_total: int, n: int) -> np.ndarray:
    """`n` frame numbers spread evenly from the first to the last of `n_total`, int (n,); repeats if n > n_total."""
    if n_total < 1 or n < 1:
        raise ValueError(f"n_total and n must be at least 1, got {n_total} and {n}.")
    return np.linspace(0, n_total - 1, n).round().astype(int)


def count_samples(duration_s: float, fps: float) -> int:
    """How many samples at `fps` a video of `duration_s` seconds gives; at least 1."""
    return max(1, int(np.ceil((duration_s - ROUNDING_S) * fps)))


def fixed_rate_indices(t_s: np.ndarray, duration_s: float, fps: float) -> np.ndarray:
    """Which frame is on screen at 0, 1/fps, 2/fps, ... seconds.

    Args:
        t_s: When each frame appears, seconds from the first one, (n,), increasing; any spacing.
        duration_s: When the last frame disappears.
        fps: Samples per second.

    Returns:
        Frame numbers, int (count_samples,). A frame may be repeated or left out; a clip sampled at its own rate gives
        every frame once.
    """
    if fps <= 0:
        raise ValueError(f"fps must be above 0, got {fps}.")
    moments = np.arange(count_samples(duration_s, fps)) / fps
    return np.searchsorted(t_s, moments + ROUNDING_S, side="right").clip(1) - 1


class FrameStream(Iterator[tuple[np.ndarray, float, int]]):
    """Frames of one video as they are decoded: (RGB uint8 (H, W, 3), time in seconds, number in the file).

    `info` and `decoder`, what is in the file and what decodes it, and `length`, how many frames will come, are there
    with the first frame.
    """

    info: VideoInfo
    decoder: str
    length: int

    def __init__(
        self,
        path: Path,
        indices: Sequence[int] | slice | None,
        fps: float | None,
        n_frames: int | None,
        size: tuple[int, int] | None,
        backend: str,
    ):
        self._path, self._asked, self._size, self._backend = path, (indices, fps, n_frames), size, backend
        self._frames = self._decode()

    def __next__(self) -> tuple[np.ndarray, float, int]:
        return next(self._frames)

    def close(self) -> None:
        """Stop decoding and let go of the file."""
        self._frames.close()

    def _decode(self) -> Iterator[tuple[np.ndarray, float, int]]:
        backend = backend_name(self._backend, [self._path])
        with open_for(self._path, backend) as video:
            index, t_s = _plan(video, *self._asked)
            convert = Converter(self._size, video.stream.sample_aspect_ratio)
            position = 0
            try:
                for number, frame in decoder_of(backend)(video, np.unique(index), convert):
                    if number != index[position]:  # of two parts that are decoded at once the first broke off
                        break
                    if not position:
                        self.info = probe(self._path) if backend == "opencv" else video.info(convert.first)
                        self.decoder, self.length = describe(video, backend), len(index)
                    while position < len(index) and index[position] == number:
                        yield frame, float(t_s[position]), number
                        position += 1
            except av.FFmpegError as error:
                raise _broken(video, t_s[position], f" ({error.strerror})") from None
            if position < len(index):
                raise _broken(video, t_s[position])


def _broken(video: OpenVideo, t_s: float, why: str = "") -> VideoError:
    where = f"from {t_s:.1f} s on (of {video.duration_s:.1f} s)"
    return VideoError(f"{video.path.name}: cannot be decoded {where}{why}. {COPY_AGAIN}.")


def iter_frames(
    path: str | Path,
    *,
    indices: Sequence[int] | slice | None = None,
    fps: float | None = None,
    n_frames: int | None = None,
    size: tuple[int, int] | None = None,
    backend: str = "auto",
) -> FrameStream:
    """Decode a video frame by frame; one frame is held at a time.

    Args:
        path: Video file.
        indices: Which frames, ascending numbers or a slice; of the samples when `fps` is given. Default: all.
        fps: Samples per second at fixed rate (see `fixed_rate_indices`); default: the frames as they are.
        n_frames: So many frames spread evenly (see `uniform_indices`), instead of the two above.
        size: (height, width) to scale to; default: as displayed. See `helpers.video`.
        backend: See `backend_name`.

    Returns:
        An iterator of (RGB uint8 (H, W, 3), time in seconds, frame number in the file). At fixed rate the time is that
        of the sample.

    Raises:
        VideoError: see `probe`; also when decoding fails somewhere, saying at which second. Both come with the frames.
    """
    return FrameStream(Path(path), indices, fps, n_frames, size, backend)


def read_frames(
    path: str | Path,
    indices: Sequence[int] | slice | None = None,
    *,
    fps: float | None = None,
    n_frames: int | None = None,
    size: tuple[int, int] | None = None,
    backend: str = "auto",
) -> Frames:
    """Decode frames into one array; the arguments are those of `iter_frames`."""
    stream = iter_frames(path, indices=indices, fps=fps, n_frames=n_frames, size=size, backend=backend)
    first, t_s, index = next(stream)
    frames = np.empty((stream.length, *first.shape), np.uint8)
    times, numbers = np.full(stream.length, t_s), np.full(stream.length, index)
    frames[0] = first
    for k, (frame, t_s, index) in enumerate(stream, start=1):
        frames[k], times[k], numbers[k] = frame, t_s, index
    return Frames(frames, times, numbers, stream.decoder, stream.info)


def _plan(
    video: OpenVideo, indices: Sequence[int] | slice | None, fps: float | None, n_frames: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Frame numbers and times to deliver, in order."""
    if n_frames is not None:
        if indices is not None or fps is not None:
            raise ValueError("n_frames must be given alone, got indices or fps with it. Choose one kind of sampling.")
        indices = uniform_indices(len(video.t_s), n_frames)
    index = np.arange(len(video.t_s)) if fps is None else fixed_rate_indices(video.t_s, video.duration_s, fps)
    t_s = video.t_s if fps is None else np.arange(len(index)) / fps
    if indices is None:
        return index, t_s
    chosen = np.arange(len(index))[indices] if isinstance(indices, slice) else np.asarray(indices, int)
    if not len(chosen) or np.any(np.diff(chosen) < 0) or chosen[0] < 0 or chosen[-1] >= len(index):
        raise ValueError(f"indices must ascend within 0 to {len(index) - 1} and choose a frame, got {indices}.")
    return index[chosen], t_s[chosen]


MEAN_LEVELS, MAX_LEVELS = 1.0, 24  # rounding and the spreading of colour; another frame or colour matrix is far more
N_FRAMES = 64


def compare(path: str | Path, backend: str, *, n_frames: int = N_FRAMES, rounds: int = 3) -> dict[str, Any]:
    """Decode the same frames by a backend and by the reference, PyAV in software.

    Args:
        path: A clip.
        backend: One of `helpers.video.BACKENDS` or `HARDWARE`.
        n_frames: Frames spread evenly over the clip, at full size.
        rounds: Timings, in alternation.

    Returns:
        `decoder` as the library reports it, `same_index`, `same_t_s`, `mean_levels`, `max_levels` (difference of
        grey levels, 0 to 255), `times_reference` (speed, median of the ratios) and `exact`: the same frames within
        rounding.

    Raises:
        VideoError, RuntimeError: the clip, or the backend on this machine, cannot be used.
    """
    ours, theirs = (read_frames(path, n_frames=n_frames, backend=name) for name in (backend, REFERENCE))
    ratios = []
    for _ in range(rounds):
        seconds = [_seconds(path, n_frames, name) for name in (backend, REFERENCE)]
        ratios.append(seconds[1] / seconds[0])
    return {"backend": backend, **_differences(ours, theirs), "times_reference": statistics.median(ratios)}


def parity_table(path: str | Path, backends: Sequence[str] = BACKENDS, **settings: int) -> "pd.DataFrame":
    """The rows of `compare` for several backends, index `backend`; one that cannot be used has its `error`."""
    import pandas as pd

    rows = []
    for backend in backends:
        try:
            rows.append(compare(path, backend, **settings))
        except (VideoError, RuntimeError, OSError) as error:
            rows.append({"backend": backend, "error": str(error)})
    return pd.DataFrame(rows).set_index("backend")


def _differences(ours: Frames, theirs: Frames) -> dict[str, Any]:
    same_index = np.array_equal(ours.index, theirs.index)
    same_t_s = same_index and np.allclose(ours.t_s, theirs.t_s)
    difference = (
        np.abs(ours.frames.astype(np.int16) - theirs.frames) if ours.frames.shape == theirs.frames.shape else 255
    )
    mean, most = float(np.mean(difference)), int(np.max(difference))
    return {
        "decoder": ours.backend,
        "same_index": same_index,
        "same_t_s": same_t_s,
        "mean_levels": mean,
        "max_levels": most,
        "exact": same_t_s and mean <= MEAN_LEVELS and most <= MAX_LEVELS,
    }


def _seconds(path: str | Path, n_frames: int, backend: str) -> float:
    start = time.perf_counter()
    read_frames(path, n_frames=n_frames, size=(256, 256), backend=backend)
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(prog="python -m helpers.video", description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--backend", choices=(*BACKENDS, *HARDWARE), help="this one only; default: PyAV and OpenCV")
    parser.add_argument("--json", action="store_true", help="print JSON: for one backend")
    options = parser.parse_args(argv)
    try:
        if options.json:
            print(json.dumps(compare(options.clip, options.backend)))
        else:
            print(parity_table(options.clip, [options.backend] if options.backend else BACKENDS).T.to_string())
    except VideoError as error:
        print(json.dumps({"clip_unusable": True, "error": str(error)}))
    except (RuntimeError, OSError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
