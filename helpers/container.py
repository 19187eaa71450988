"""What is in a video file: when every picture is shown, whether the file is whole, and its pictures as upright RGB.

`open_video` reads packets into the table of pictures; nothing but the first picture is decoded. A file that breaks off
is an error here, before anything is computed from it, never a shorter clip.

`Converter` makes RGB uint8 (H, W, 3) of decoded pictures: SDR, one size, as a player shows them. What a stream says of
its matrix, range, transfer and primaries is followed; where it says nothing, pictures are BT.601 of limited range, as
FFmpeg takes them, and HDR is BT.2020. `Converter.done` lists what was changed beyond that.
"""

import math
from collections import Counter, defaultdict, namedtuple
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, cached_property
from itertools import chain, groupby, islice
from pathlib import Path
from typing import BinaryIO

import av
import cv2
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.codec.hwaccel import HWAccel
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from helpers.store import ClipError

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


MISSING_S = 0.3  # packets ending this much before the duration in the header: the file is cut off
DECLARING = {"mov", "matroska", "avi"}  # containers whose header states the duration; elsewhere FFmpeg guesses it
LONGEST_S = 3600.0  # that a frame is shown: a time beyond is a damaged one, and would be sampled for days
NO_VIDEOS = {"image2": "a picture", "tty": "text", "ico": "a picture (ico)", "svg": "a drawing", "ass": "subtitles"}
NO_VIDEOS |= dict.fromkeys(("hls", "dash", "concat", "sdp", "imf"), "a playlist")
STILLS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
IDR = "filter_units=pass_types=5"  # pictures that refer to none before them (Rec. ITU-T H.264, table 7-1)
Row = namedtuple("Row", "moment pts dts key hidden")  # of a packet: when its picture is shown, in ticks
EBML, SEGMENT, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675  # of Matroska, RFC 8794 and 9559


class VideoError(ClipError):
    """A file that is not a whole, readable video; the message is one line that names the file."""


def damaged(path: Path, what: str) -> VideoError:
    """The error of a file that is not whole."""
    return VideoError(f"{path.name}: {what}. Copy or download it again.")


@dataclass(frozen=True)
class OpenVideo:
    """An open file and the table of its pictures.

    `ticks (n,) int64`: when each shown picture appears, ascending, in units of the stream's time base; `keys` those of
    key pictures; `t_s (n,)` in seconds from the first one. `timed`: whether packets and pictures carry that time, each
    another one, so that a decoded picture is known by it; otherwise pictures can only be counted. `start`: packets
    before the first that decoding can begin with. `is_open`: H.264 that does not begin with an IDR picture, and speaks
    of ones that were cut away. `remarks`: what is odd, a phrase each.
    """

    path: Path
    container: av.container.InputContainer
    stream: av.VideoStream
    ticks: np.ndarray
    keys: np.ndarray
    timed: bool
    start: int = 0
    is_open: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def t_s(self) -> np.ndarray:
        """When each picture appears, seconds from the first one, (n,)."""
        return (self.ticks - self.ticks[0]) * float(self.stream.time_base)

    @property
    def interval_s(self) -> float:
        """The median time from picture to picture; that of the declared rate where there is one picture."""
        between = float(np.median(np.diff(self.t_s))) if len(self.ticks) > 1 else 0.0
        return between or 1 / float(self.stream.average_rate or 25)

    @property
    def duration_s(self) -> float:
        """When the last picture disappears, seconds from the first one."""
        return float(self.t_s[-1]) + self.interval_s

    @property
    def codec(self) -> str:
        """The codec's common name: "h264", "av1"."""
        return self.stream.codec_context.codec.canonical_name

    def packets_of(self, again: av.container.InputContainer) -> Iterator[av.Packet]:
        """The packets of the picture in decoding order, from the file opened again; the last one is empty."""
        return islice(again.demux(again.streams[self.stream.index]), self.start, None)

    @cached_property
    def first_picture(self) -> av.VideoFrame:
        """The first picture that can be decoded; VideoError where there is none."""
        try:
            with closing(self.decode()) as pictures:
                return next(pictures)
        except av.FFmpegError as error:
            raise damaged(self.path, f"its first frame cannot be decoded ({error.strerror})") from None
        except StopIteration:
            cut = " without what was cut away before it" if self.is_open or self.start else ""
            raise damaged(self.path, f"holds no frame that can be decoded{cut}") from None

    def decode(self) -> Iterator[av.VideoFrame]:
        """The pictures as a player shows them, damaged or not."""
        with open_container(self.path) as container:
            for packet in self.packets_of(container):
                yield from container.streams[self.stream.index].codec_context.decode(packet)


def open_container(path: Path, hardware: HWAccel | None = None) -> av.container.InputContainer:
    """Open a file with FFmpeg, and no other by its contents; titles need not be UTF-8."""
    how = {"options": {"protocol_whitelist": "file"}, "metadata_errors": "replace", "hwaccel": hardware}
    return av.open(str(path.absolute()), **how)


@contextmanager
def open_video(path: str | Path) -> Iterator[OpenVideo]:
    """Open a video file and read the table of its pictures.

    VideoError: the file is missing, empty, cut off, or no video; OSError: it cannot be opened.
    """
    path = Path(path)
    if not path.is_file():
        raise VideoError(f"{path.name}: there is no such file in {path.parent}.")
    with path.open("rb") as file:  # no permission, a broken disk: not the video's fault
        if not file.read(1):
            raise damaged(path, "the file is empty (0 bytes)")
    with ExitStack() as stack:
        try:
            video = _read_table(path, stack.enter_context(open_container(path)))
        except av.FFmpegError as error:
            what = f"{path.name}: not a readable video ({error.strerror})"
            raise VideoError(f"{what}. Copy or download it again, or remove it.") from None
        yield video


def _read_table(path: Path, container: av.container.InputContainer) -> OpenVideo:
    end, rows = Counter(), defaultdict(list)  # by stream
    begins_with_idr: dict[av.VideoStream, bool] = {}
    for packet in container.demux():
        stream, moment = packet.stream, packet.dts if packet.pts is None else packet.pts  # AVI knows dts only
        if moment is not None and stream.type != "data":
            end[stream] = max(end[stream], moment + (packet.duration or 0))
        if stream.type == "video":
            if packet.is_corrupt and moment is not None:
                raise damaged(path, f"breaks off at {float(moment * stream.time_base):.1f} s")
            rows[stream].append(Row(moment, packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
            if packet.is_keyframe and stream not in begins_with_idr and stream.codec_context:
                is_h264 = stream.codec_context.codec.canonical_name == "h264"
                begins_with_idr[stream] = not is_h264 or any(BitStreamFilterContext(IDR, stream).filter(packet))
    stream, remarks = _choose_stream(path, container, rows)
    is_open = stream.codec_context.codec.canonical_name == "h264" and not begins_with_idr.get(stream)
    video = replace(_table_of(path, container, stream, rows[stream]), is_open=is_open, remarks=remarks)
    _check_whole(video, max(float(ticks * each.time_base) for each, ticks in end.items()), rows[stream])
    return _without_cut(video)


def _choose_stream(
    path: Path, container: av.container.InputContainer, rows: Mapping[av.VideoStream, list[Row]]
) -> tuple[av.VideoStream, tuple[str, ...]]:
    """The stream of the picture, which is the default one of those that are no covers or stills; and a remark.

    FFmpeg takes pictures and even text for short videos; a GIF must be called so.
    """
    kind, name = container.format.name, path.name
    if kind.endswith("_pipe") or kind in NO_VIDEOS or (kind == "gif" and path.suffix.lower() != ".gif"):
        what = NO_VIDEOS.get(kind, f"a picture ({kind.removesuffix('_pipe')})")
        raise VideoError(f"{name}: not a video but {what}. Remove it.")
    streams = [stream for stream in container.streams.video if not stream.disposition & STILLS]
    streams = [stream for stream in streams if len(rows[stream]) > 2] or streams  # the last packet is empty
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoError(f"{name}: holds no video stream ({kinds} only). Remove it, or take the file with the picture.")
    stream = next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])
    if stream.codec_context is None:
        convert = f"ffmpeg -i {name} -c:v libx264 new.mp4"
        raise VideoError(f"{name}: its codec cannot be decoded here. Convert it: {convert}.")
    which = "default" if stream.disposition & Disposition.default else "first"
    several = f"{len(streams)} video streams: number {streams.index(stream) + 1} is read, the {which} one"
    return stream, (several,) if len(streams) > 1 else ()


def _table_of(path: Path, container: av.container.InputContainer, stream: av.VideoStream, rows: list[Row]) -> OpenVideo:
    """The table of a stream's pictures, by its packets from the first key packet on."""
    start = next((k for k, row in enumerate(rows) if row.key), 0)
    shown = [row for row in rows[start:] if row.moment is not None and not row.hidden]
    if not shown:
        raise damaged(path, "holds no frame that can be decoded")
    ticks, keys = (np.sort([row.moment for row in part]) for part in (shown, [row for row in shown if row.key]))
    in_avi, codec = "avi" in container.format.name, stream.codec_context
    if in_avi and codec.codec.canonical_name in ("h264", "hevc") and codec.reorder_depth:
        gaps = np.diff([row.dts for row in shown[1:]])  # AVI stores when pictures are decoded, not when they are shown
        if len(set(gaps)) > 1:
            what = f"its times are unsure: AVI stores none of showing, and it has gaps of {gaps.max()} frames"
            raise VideoError(f"{path.name}: {what}. Convert its source again, to mp4.")
    timed = not in_avi and len(np.unique(ticks)) == len(ticks) and all(row.pts is not None for row in shown)
    return OpenVideo(path, container, stream, ticks, keys, timed, start)


def _without_cut(video: OpenVideo) -> OpenVideo:
    """Leave out what cannot be decoded because it refers to what was cut away."""
    ticks, n = video.ticks, video.start
    if video.is_open or not len(video.keys) or video.keys[0] != ticks[0]:
        shown = video.first_picture.pts
        if video.timed:
            ticks = ticks if shown is None else ticks[ticks >= shown]
        else:
            ticks = ticks[-sum(1 for _ in video.decode()) :]
        if not len(ticks):
            raise damaged(video.path, "its first frame comes after all others")
        n += len(video.ticks) - len(ticks)
    cut = f"left out are pictures that need what was cut away: {n}" if n else "no picture is left out"
    remark = f"begins in the middle of a longer video; {cut}"
    return replace(video, ticks=ticks, remarks=video.remarks + (remark,) * (n > 0 or video.is_open))


def _check_whole(video: OpenVideo, end_s: float, rows: list[Row]) -> None:
    """Refuse a file that breaks off or has a hole, and times that no camera gives."""
    path, container = video.path, video.container
    kind, declared = container.format.name, container.duration
    declared_s = ((declared or 0) + min(container.start_time or 0, 0)) / av.time_base
    if end_s < declared_s - MISSING_S and DECLARING & set(kind.split(",")):
        raise damaged(path, f"breaks off at {end_s:.1f} s of {declared_s:.1f} s")
    if "matroska" in kind:
        with open(path, "rb") as file:
            _check_elements(path, file, 0, path.stat().st_size)
        container.seek(0)  # FFmpeg reads the file's index when it seeks
        shown = {row.pts for row in rows}
        if lost := [entry.timestamp for entry in video.stream.index_entries if entry.timestamp not in shown]:
            raise damaged(path, f"what its index puts at {float(min(lost) * video.stream.time_base):.1f} s is missing")
    shown_s = np.diff(video.t_s, append=video.duration_s)
    n, longest = len(shown_s), shown_s.argmax()
    if n > 1 and not shown_s[:-1].any():
        raise damaged(path, f"shows all of its {n} frames at once")
    if shown_s[longest] > LONGEST_S:
        shown = f"{shown_s[longest] / 3600:.1f} hours, from {video.t_s[longest]:.1f} s on"
        raise damaged(path, f"shows one frame for {shown}")


def _check_elements(path: Path, file: BinaryIO, place: int, end: int) -> None:
    """Refuse a place of Matroska where no element begins (RFC 8794, 4), which FFmpeg passes over without a word.

    One of unknown size, as in a live recording, is the last.
    """
    while place < end:
        file.seek(place)
        head = file.read(12)
        n = 9 - head[0].bit_length() if head else 9
        if n > 4 or len(head) <= n or not head[n]:
            raise damaged(path, f"what follows byte {place:,} is damaged")
        m = 9 - head[n].bit_length()  # length and size carry their own length in leading zeros
        number, unknown = int.from_bytes(head[:n], "big"), (1 << 7 * m) - 1
        size, content = int.from_bytes(head[n : n + m], "big") & unknown, place + n + m
        if size == unknown:
            return
        place = content + size
        if place > end:
            raise damaged(path, f"{place - end:,} bytes before byte {place:,} are missing")
        if number in (SEGMENT, CLUSTER):
            _check_elements(path, file, content, place)
        if number == SEGMENT:
            file.seek(place)
            if int.from_bytes(file.read(4)) not in (EBML, SEGMENT):  # what follows is no video
                return
