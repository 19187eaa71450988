"""The decoders: the wanted pictures of an open video, exactly and in order, by PyAV in software or hardware, or OpenCV.

In: an `OpenVideo` and the numbers of the wanted pictures. Out: an iterator of (number, RGB uint8 (H, W, 3)), and text
that says what decoded them. A picture counts only if it carries the time that the file's table announces: a decoder
that loses, repeats or damages one stops there, and the caller says where.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, compress, takewhile
from pathlib import Path
from threading import Event

import av
import cv2
import numpy as np
from av.codec.hwaccel import HWAccel

from helpers.decoding.container import OpenVideo, VideoError, first_picture, open_container, open_video
from helpers.decoding.pictures import Converter, orientation
from helpers.decoding.references import nal_length_bytes, needed_packets, read_picture

log = logging.getLogger(__name__)

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
        VideoError: see `helpers.decoding.container.probe`.
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
