"""What is in a video file, read from its packets: when every picture is shown, and whether the file is whole.

In: a path. Out: an `OpenVideo` with the table of its pictures, and a `VideoInfo`. Nothing but the first picture is
decoded. A file that breaks off is an error here, before anything is computed from it, never a shorter clip.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.codec.hwaccel import HWAccel

from helpers.decoding.matroska import damage
from helpers.decoding.pictures import display_size, orientation

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

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
