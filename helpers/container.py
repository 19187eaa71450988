"""What is in a video file, read from its packets: when every picture is shown, and whether the file is whole.

In: a path. Out: an `OpenVideo` with the table of its pictures, and a `VideoInfo`. Nothing but the first picture is
decoded. A file that breaks off is an error here, before anything is computed from it, never a shorter clip.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import av
import numpy as np
from av.codec.hwaccel import HWAccel
from av.sidedata.sidedata import Type

if TYPE_CHECKING:
    import pandas as pd

HELD_BYTES = 64 * 2**20  # packets of larger files are read a second time instead of kept
MISSING_S = 0.3  # packets ending this much before the duration in the header: the file is cut off
DECLARING = {"mov", "matroska", "avi"}  # containers whose header states the duration; elsewhere FFmpeg guesses it
LONGEST_S = 3600.0  # that a frame is shown: a time beyond is a damaged one, and would be sampled for days
UNEVEN = 1.5  # an interval this many times the median one makes a rate variable
NO_VIDEOS = {"image2": "a picture", "tty": "text", "ico": "a picture (ico)", "svg": "a drawing", "ass": "subtitles"}
COPY_AGAIN = "Copy or download it again"
SEGMENT, CLUSTER = 0x18538067, 0x1F43B675  # of Matroska, RFC 9559


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
    """An open file and the table of its pictures. `packets` are theirs, in decoding order; None when too many to keep.

    `ticks (n,) int64`: when each shown picture appears, ascending, in units of the stream's time base; `t_s (n,)` the
    same in seconds from the first one. `timed`: whether packets and pictures carry that time, each another one, so that
    a decoded picture is known by it; otherwise pictures can only be counted. `cut_out`: it begins with pictures that
    refer to what was cut away before them; they are left out. `keys (k,) int`: numbers of the pictures that the file
    calls key pictures, which refer to no other; none unless `timed`.
    """

    path: Path
    container: av.container.InputContainer
    stream: av.VideoStream
    packets: list[av.Packet] | None
    ticks: np.ndarray
    t_s: np.ndarray
    timed: bool
    cut_out: bool
    keys: np.ndarray

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

    def info(self, picture: av.VideoFrame | None = None) -> VideoInfo:
        """What is in the file; one decoded picture, by default the first, says how it is displayed."""
        picture = picture or self.first_picture()
        n, last_s, (turn, mirrored) = len(self.t_s), self.t_s[-1], orientation(picture)
        width, height = display_size(picture, self.stream.sample_aspect_ratio)
        return VideoInfo(
            codec=self.codec,
            width=width,
            height=height,
            fps=float((n - 1) / last_s if last_s > 0 else 1 / self.interval_s),
            n_frames=n,
            duration_s=self.duration_s,
            rotation_deg=turn,
            mirrored=mirrored,
            variable_rate=bool(n > 1 and np.diff(self.t_s).max() > UNEVEN * self.interval_s),
            audio=len(self.container.streams.audio) > 0,
        )

    def first_picture(self) -> av.VideoFrame:
        """The first picture, decoded."""
        return _first_picture(self.path, self.stream.index)

    def iter_packets(self) -> Iterator[av.Packet]:
        """The packets of the picture in decoding order."""
        if self.packets is not None:
            yield from self.packets
            return
        with open_container(self.path) as again:
            packets = (packet for packet in again.demux(again.streams[self.stream.index]) if packet.size)
            yield from _without_orphans(packets, self.ticks[0])


def probe(path: str | Path) -> VideoInfo:
    """Read what is in a video without decoding more than its first frame.

    Raises:
        VideoError: the file is missing, empty, cut off, or no video.
    """
    with open_video(path) as video:
        return video.info()


def survey(paths: Mapping[str, Path]) -> tuple["pd.DataFrame", dict[str, str]]:
    """Probe many videos, key of each clip to its file.

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
def open_video(path: str | Path) -> Iterator[OpenVideo]:
    """Open a video file and read the table of its pictures; raises as `probe`."""
    path = Path(path)
    if not path.is_file():
        raise VideoError(f"{path.name}: there is no such file in {path.parent}.")
    if path.stat().st_size == 0:
        raise VideoError(f"{path.name}: the file is empty (0 bytes). {COPY_AGAIN}.")
    try:
        with open_container(path) as container:
            yield _read_table(path, container)
    except av.FFmpegError as error:
        raise VideoError(f"{path.name}: not a readable video ({error.strerror}). {COPY_AGAIN}, or remove it.") from None


def _read_table(path: Path, container: av.container.InputContainer) -> OpenVideo:
    stream = _video_stream(path, container)
    end = dict.fromkeys(range(len(container.streams)), 0)  # of each stream, in its ticks
    packets, held, moments, keys, pts = [], 0, [], [], set()  # moments: of the pictures that are shown
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
            keys += [moment] * packet.is_keyframe
        pts.add(packet.pts)
    if not moments:
        raise VideoError(f"{path.name}: holds no frame that can be decoded. {COPY_AGAIN}, or remove it.")
    _check_whole(path, container, max(float(end[s.index] * s.time_base) for s in container.streams))
    if "matroska" in container.format.name:
        _check_matroska(path, container, stream, pts)
    ticks = np.sort(moments)
    if not packets[0].is_keyframe or packets[0].pts != ticks[0]:
        first = _first_picture(path, stream.index).pts
        ticks = ticks if first is None else ticks[ticks >= first]
        packets = list(_without_orphans(packets, ticks[0]))
    # AVI knows the order of decoding only.
    timed = "avi" not in container.format.name and None not in pts and len(np.unique(ticks)) == len(ticks)
    t_s, cut_out = (ticks - ticks[0]) * float(stream.time_base), len(ticks) < len(moments)
    kept, keys = packets if held <= HELD_BYTES else None, np.flatnonzero(np.isin(ticks, keys) & timed)
    video = OpenVideo(path, container, stream, kept, ticks, t_s, timed, cut_out, keys)
    _check_times(video)
    return video


def _without_orphans(packets: Iterable[av.Packet], first_tick: int) -> Iterator[av.Packet]:
    """Leave out pictures shown before the first one that can be decoded: what they refer to was cut away."""
    for packet in packets:
        if packet.is_discard or packet.pts is None or packet.pts >= first_tick:
            yield packet


def _first_picture(path: Path, index: int) -> av.VideoFrame:
    with open_container(path) as container:
        try:
            for picture in container.decode(container.streams[index]):
                return picture
        except av.FFmpegError as error:
            why = error.strerror
        else:
            raise VideoError(f"{path.name}: holds no frame that can be decoded. {COPY_AGAIN}, or remove it.")
    raise VideoError(f"{path.name}: its first frame cannot be decoded ({why}). {COPY_AGAIN}.")


def _video_stream(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    """The stream of the picture. FFmpeg takes pictures and even text for short videos; a GIF must be called so."""
    kind, name = container.format.name, path.name
    if kind.endswith("_pipe") or kind in NO_VIDEOS or (kind == "gif" and path.suffix.lower() != ".gif"):
        what = NO_VIDEOS.get(kind, f"a picture ({kind.removesuffix('_pipe')})")
        raise VideoError(f"{name}: not a video but {what}. Remove it.")
    cover = av.stream.Disposition.attached_pic
    stream = next((stream for stream in container.streams.video if not stream.disposition & cover), None)
    if stream is None:
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


def _check_whole(path: Path, container: av.container.InputContainer, end_s: float) -> None:
    if container.duration is None or not DECLARING & set(container.format.name.split(",")):
        return
    declared_s = (container.duration + min(container.start_time or 0, 0)) / av.time_base
    if end_s < declared_s - MISSING_S:
        raise VideoError(f"{path.name}: breaks off at {end_s:.1f} s of {declared_s:.1f} s. {COPY_AGAIN}.")


def _check_matroska(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream, pts: set[int | None]
) -> None:
    """Refuse a Matroska or WebM file with a hole, which FFmpeg passes over without a word."""
    with open(path, "rb") as file:
        hole = _hole(file, path.stat().st_size)
    if hole:
        raise VideoError(f"{path.name}: {hole}. {COPY_AGAIN}.")
    container.seek(0)  # FFmpeg reads the file's index when it seeks
    if lost := [entry.timestamp for entry in stream.index_entries if entry.timestamp not in pts]:
        at_s = float(min(lost) * stream.time_base)
        raise VideoError(f"{path.name}: what its index puts at {at_s:.1f} s is missing. {COPY_AGAIN}.")


def _hole(file: BinaryIO, size: int) -> str:
    """What is missing from a Matroska file of so many bytes; "" if nothing is, or a live recording knew no end."""
    try:
        start, end = next(content for number, *content in _elements(file, 0, 2 * size) if number == SEGMENT)
        if end > size:
            return f"its last {end - size:,} bytes are missing"
        for number, inner, stop in _elements(file, start, end):
            if number == CLUSTER:
                deque(_elements(file, inner, stop), maxlen=0)
    except EOFError as error:
        return f"what follows byte {error} is damaged"
    return ""


def _elements(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The elements between two places of a file (RFC 8794, 4): number, where its content begins and ends.

    One of unknown size is the last, and empty.

    Raises:
        EOFError: Something else stands there; the message is the place.
    """
    position = start
    while position < end:
        file.seek(position)
        head = file.read(12)
        n = 9 - head[0].bit_length() if head else 9
        if n > 4 or len(head) <= n or not head[n]:
            raise EOFError(f"{position:,}")
        m = 9 - head[n].bit_length()  # length and size carry their own length in leading zeros
        size, unknown = int.from_bytes(head[n : n + m], "big") & ((1 << 7 * m) - 1), (1 << 7 * m) - 1
        content = position + n + m
        if size == unknown:
            yield int.from_bytes(head[:n], "big"), content, content
            return
        if content + size > end:
            raise EOFError(f"{position:,}")
        position = content + size
        yield int.from_bytes(head[:n], "big"), content, position


def orientation(picture: av.VideoFrame) -> tuple[int, bool]:
    """Degrees, counter-clockwise, by which a picture is turned for display, and whether it is mirrored before.

    A stored pixel (x, y) is shown at (a x + c y, b x + d y) of ISO/IEC 14496-12, 8.3.2. What is no turn or flip, as
    when all are zero, leaves a picture as it is.
    """
    stored = picture.side_data.get(Type.DISPLAYMATRIX)
    a, b, c, d = (1, 0, 0, 1) if stored is None else np.frombuffer(stored, np.int32)[[0, 1, 3, 4]].tolist()
    if abs(b) > abs(a):
        a = d = 0
    else:
        b = c = 0
    if a * d == b * c:
        return 0, False
    mirrored = a * d < b * c
    a, b = (-a, -b) if mirrored else (a, b)
    if a:
        return (0 if a > 0 else 180), mirrored
    return (90 if b < 0 else -90), mirrored


def display_size(picture: av.VideoFrame, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """Width and height at which a player shows a picture: pixels that are not square are widened."""
    width, height = round(picture.width * (pixel_aspect or 1)), picture.height
    return (height, width) if orientation(picture)[0] in (90, -90) else (width, height)


def write_excerpt(path: str | Path, excerpt: str | Path, seconds: float) -> Path:
    """Copy the first seconds of a video, its pictures only: nothing is decoded or coded again.

    Args:
        path: Video file.
        excerpt: File to write, of the same format.
        seconds: Length; a few later pictures, which these refer to, come with them.

    Returns:
        `excerpt`.

    Raises:
        VideoError: see `probe`.
    """
    with open_video(path) as video:
        end = video.ticks[0] + seconds / float(video.stream.time_base)
        n_missing, packets = int((video.ticks <= end).sum()), []
        for packet in video.iter_packets():
            packets.append(packet)
            n_missing -= not packet.is_discard and _moment(packet) <= end
            if n_missing <= 0:
                break
        with av.open(str(excerpt), "w", format=video.container.format.name.split(",")[0]) as copy:
            stream = copy.add_stream_from_template(video.stream)
            # Matroska stores no times of decoding, and no file can be written without: made from those of showing.
            shown = sorted(map(_moment, packets))
            delay = max(tick - _moment(packet) for tick, packet in zip(shown, packets, strict=True))
            for tick, packet in zip(shown, packets, strict=True):
                packet.pts, packet.dts, packet.stream = _moment(packet), tick - delay, stream
                copy.mux(packet)
    return Path(excerpt)


def _moment(packet: av.Packet) -> int:
    """When a packet's picture is shown, in ticks; AVI knows the order of decoding only."""
    return packet.dts if packet.pts is None else packet.pts
