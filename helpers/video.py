"""Exact frames of video files with their times: all, chosen ones, evenly spread ones, or at a fixed rate.

In: a path. Out: RGB uint8 frames (H, W, 3) in presentation order, upright as a player shows them, with times in seconds
from the first frame; or what the video is like (`probe`). The packets say beforehand when every picture is shown; a
decoded picture counts only if it carries the time that this table announces, so that no decoder loses, repeats or
shifts one unnoticed. A file that breaks off is an error before anything is computed from it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from timeit import timeit
from typing import Any

import av
import cv2
import numpy as np
import pandas as pd
from av.codec.hwaccel import HWAccel

from helpers.config import DECODERS
from helpers.container import (
    CHANGES,
    Converter,
    OpenVideo,
    VideoError,
    damaged,
    deinterlaced,
    open_container,
    open_video,
    orientation,
    remarks_of,
    shown_size,
)

BACKENDS, HARDWARE = DECODERS[:2], DECODERS[2:]  # FFmpeg's names; cuda is NVDEC
REFERENCE = "pyav"
# What "auto" takes by codec and pixel format; of others the reference. Another decoder belongs here when
# `benchmarks.decode` finds it exact and 1.1 times as fast. On two cores OpenCV was exact and .6 to .7 times as fast on
# each of these; no hardware has been measured.
FASTEST = {(codec, "yuv420p"): REFERENCE for codec in ("h264", "hevc", "vp9", "av1")}
STRICT = {"err_detect": "crccheck+explode"}  # damage is an error, not a picture patched up from its neighbours
LENIENT = {"err_detect": "crccheck"}
HELD = 16  # pictures that a decoder holds, at most (Rec. ITU-T H.264, A.3.1)
# What FFmpeg logs where H.264 begins with no IDR picture and speaks of pictures that were cut away.
CUT_AWAY = ("mmco: unref short failure", "number of reference frames", "co located POCs unavailable")
CUT_AWAY += ("reference picture missing", "Missing reference picture", "illegal short term buffer state")
ROUNDING_S = 1e-3  # Matroska and WebM round timestamps to whole milliseconds
MEAN_LEVELS, MAX_LEVELS = 1.0, 24  # rounding and the spreading of colour; another frame or colour matrix is far more
ROUNDS = 3  # of timing two decoders, in alternation
UNEVEN = 1.5  # an interval this many times the median one makes a rate variable

Decoded = Iterator[tuple[int, av.VideoFrame, str]]  # number in the file, picture, what decoded it
Frame = tuple[np.ndarray, float, int, str]  # RGB uint8 (H, W, 3), time in seconds, number in the file, decoder


@dataclass(frozen=True)
class VideoInfo:
    """What is in a video file: `width`, `height` in pixels as displayed, `fps` the mean rate, `duration_s` seconds,
    `rotation_deg` the turn that displays it, counter-clockwise, `mirrored` whether it is flipped left to right as well.
    `remarks` say in words what is odd about the file or its pictures, and what is done about it.
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
    remarks: tuple[str, ...] = ()


def probe(path: str | Path) -> VideoInfo:
    """What is in a video, of which the first frame is decoded; VideoError as in `helpers.container.open_video`."""
    with open_video(path) as video:
        return describe(video)


def describe(video: OpenVideo) -> VideoInfo:
    """What is in an open file."""
    picture, n, last_s = video.first_picture, len(video.t_s), video.t_s[-1]
    turn, mirrored = orientation(picture)
    width, height = shown_size(picture, video.stream.sample_aspect_ratio, turn)
    return VideoInfo(
        codec=video.codec,
        width=width,
        height=height,
        fps=float((n - 1) / last_s if n > 1 else 1 / video.interval_s),
        n_frames=n,
        duration_s=video.duration_s,
        rotation_deg=turn,
        mirrored=mirrored,
        variable_rate=bool(n > 1 and np.diff(video.t_s).max() > UNEVEN * video.interval_s),
        audio=len(video.container.streams.audio) > 0,
        remarks=(*video.remarks, *remarks_of(picture)),
    )


@dataclass(frozen=True)
class Frames:
    """Decoded frames: `frames (T, H, W, 3) uint8` RGB, `t_s (T,)` seconds, `index (T,)` number in the file from 0;
    `backend`: what decoded them, as the library reports it.
    """

    frames: np.ndarray
    t_s: np.ndarray
    index: np.ndarray
    backend: str


def decode_pyav(video: OpenVideo, wanted: np.ndarray, device: str = "") -> Decoded:
    """Decode the wanted pictures with PyAV, in hardware on a device of `HARDWARE`; RuntimeError if there is none.

    It stops at the first picture that is damaged, or shown at another time than its packet says.
    """
    with _opened(video, device) as container:
        codec, packets = container.streams[video.stream.index].codec_context, video.packets_of(container)
        codec.thread_type, codec.thread_count = "AUTO", max(1, cv2.getNumThreads())  # decoder processes set it to 1
        codec.options, done = STRICT, {}
        pictures = (picture for packet in packets for picture in codec.decode(packet))
        if video.is_open:
            pictures = _decode_open(video, codec, packets)
        shown, numbers = deinterlaced(_as_announced(video, codec, pictures), done), set(wanted.tolist())
        for number, picture in enumerate(islice(shown, max(numbers) + 1)):
            if number in numbers:
                version = ".".join(map(str, av.library_versions["libavcodec"]))
                where = device if codec.is_hwaccel else "software"
                decoder = f"pyav {av.__version__} (libavcodec {version}), {codec.name}, {where}"
                yield number, picture, "; ".join((decoder, *done))


def _opened(video: OpenVideo, device: str) -> av.container.InputContainer:
    try:
        return open_container(video.path, HWAccel(device) if device else None)
    except (av.FFmpegError, RuntimeError, ValueError) as error:  # the file was opened before
        why = getattr(error, "strerror", None) or error
        message = f"backend {device!r} cannot be used on this machine ({why}). Take 'auto' or 'pyav'."
        raise RuntimeError(message) from None


def _as_announced(
    video: OpenVideo, codec: av.VideoCodecContext, pictures: Iterator[av.VideoFrame]
) -> Iterator[av.VideoFrame]:
    """The pictures up to the first that is damaged or comes at another time; VideoError where one has another shape."""
    first = None
    for number, picture in enumerate(pictures):
        first = first or (picture.width, picture.height, codec.sample_aspect_ratio)
        if (picture.width, picture.height, codec.sample_aspect_ratio if picture.key_frame else first[2]) != first:
            raise VideoError(f"{video.path.name}: {CHANGES}")
        if picture.is_corrupt or (video.timed and picture.pts != video.ticks[number]):
            return
        yield picture


def _decode_open(video: OpenVideo, codec: av.VideoCodecContext, packets: Iterator[av.Packet]) -> Iterator:
    """Decode H.264 that begins with no IDR picture, where `STRICT` refuses good pictures; stops at damage.

    FFmpeg reports damage in its log only. Those of `CUT_AWAY` are none up to the second key picture and as long as the
    decoder holds pictures (`HELD`): a recovery point promises right pictures (Rec. ITU-T H.264, D.2.8), and before the
    first one FFmpeg shows none.
    """
    codec.options, codec.thread_count = LENIENT, 1
    if not video.first_picture.key_frame:  # a refresh step by step: it must have a picture to refer to, any
        codec.decode(first := next(packets))
        packets = chain((first,), packets)
    level, n_keys = av.logging.get_level(), 0
    av.logging.set_skip_repeated(False)  # of an earlier file
    for k, packet in enumerate(packets):
        n_keys += packet.is_keyframe
        av.logging.set_level(av.logging.INFO)  # for this call only: a decoder of many threads may wait for the GIL
        try:
            with av.logging.Capture() as messages:
                pictures = codec.decode(packet)
        finally:
            av.logging.set_level(level)
        yield from pictures
        errors = [text for how, _, text in messages if how <= av.logging.ERROR or "concealing" in text]
        if not all(text.startswith(CUT_AWAY if n_keys < 2 or k < HELD else ()) for text in errors):
            return


def decode_opencv(video: OpenVideo, wanted: np.ndarray) -> Decoded:
    """Decode with OpenCV, which counts pictures and turns them by itself; what it shows wrongly is refused."""
    if odd := _oddities(video):
        raise VideoError(f"{video.path.name}: OpenCV would show it wrongly ({odd[0]}). Take the backend 'pyav'.")
    capture = cv2.VideoCapture(str(video.path.absolute()), cv2.CAP_FFMPEG)
    decoder = f"opencv {cv2.__version__} (ffmpeg), {video.codec}, software"
    try:
        for number, is_wanted in enumerate(np.isin(np.arange(wanted[-1] + 1), wanted)):
            is_there, bgr = capture.read() if is_wanted else (capture.grab(), None)
            if not is_there:
                return
            if is_wanted:
                yield number, av.VideoFrame.from_ndarray(bgr, format="bgr24"), decoder
    finally:
        capture.release()


def _oddities(video: OpenVideo) -> list[str]:
    """Why only the reference is exact on a clip: nothing where it is as most are."""
    first = video.first_picture
    found = {
        "one of several video streams": len(video.container.streams.video) > 1,
        "mirrored": orientation(first)[1],
        "pixels are not square": (video.stream.sample_aspect_ratio or 1) != 1,
        "more than 8 bits a colour": first.format.components[0].bits > 8,
    }
    return [*video.remarks, *remarks_of(first), *(what for what, holds in found.items() if holds)]


def backend_name(backend: str = "auto") -> str:
    """What `backend`, "auto" (by `FASTEST`) or one of `BACKENDS` or `HARDWARE`, stands for in a manifest."""
    return REFERENCE if backend == "auto" and set(FASTEST.values()) == {REFERENCE} else backend


def backend_version(backend: str = "auto") -> str:
    """The backend with its library's version, as manifests record it: "pyav 18.1.0"."""
    name = backend_name(backend)
    return f"{name} {cv2.__version__ if name == 'opencv' else av.__version__}"


def _decode(video: OpenVideo, wanted: np.ndarray, backend: str) -> Decoded:
    """The wanted pictures, by the backend of this name."""
    if (name := backend_name(backend)) == "auto":
        name = FASTEST.get((video.codec, video.stream.codec_context.pix_fmt), REFERENCE)
        name = REFERENCE if name != REFERENCE and _oddities(video) else name
    if name == "opencv":
        return decode_opencv(video, wanted)
    return decode_pyav(video, wanted, "" if name == REFERENCE else name)


def uniform_indices(n_total: int, n: int) -> np.ndarray:
    """`n` frame numbers spread evenly from the first to the last of `n_total`, int (n,); repeats if n > n_total."""
    if n_total < 1 or n < 1:
        raise ValueError(f"n_total and n must be at least 1, got {n_total} and {n}.")
    return np.linspace(0, n_total - 1, n).round().astype(int)


def count_samples(duration_s: float, fps: float) -> int:
    """How many samples at `fps` a video of `duration_s` seconds gives; at least 1."""
    return max(1, int(np.ceil((duration_s - ROUNDING_S) * fps)))


def fixed_rate_indices(t_s: np.ndarray, duration_s: float, fps: float) -> np.ndarray:
    """Which frame is on screen at 0, 1/fps, 2/fps, ... seconds: int (count_samples,).

    `t_s (n,)`: when each appears, seconds from the first, increasing; `duration_s`: when the last disappears. A frame
    may be repeated or left out; a clip sampled at its own rate gives every frame once.
    """
    if fps <= 0:
        raise ValueError(f"fps must be above 0, got {fps}.")
    moments = np.arange(count_samples(duration_s, fps)) / fps
    return np.searchsorted(t_s, moments + ROUNDING_S, side="right").clip(1) - 1


def iter_frames(
    path: str | Path,
    *,
    indices: Sequence[int] | slice | None = None,
    fps: float | None = None,
    n_frames: int | None = None,
    size: tuple[int, int] | None = None,
    backend: str = "auto",
) -> Iterator[Frame]:
    """Decode a video frame by frame; one frame is held at a time.

    Args:
        path: Video file; VideoError as in `open_video`, and where decoding fails, with the second.
        indices: Which frames, ascending numbers or a slice; of the samples when `fps` is given. Default: all.
        fps: Samples per second at fixed rate (see `fixed_rate_indices`); default: the frames as they are.
        n_frames: So many frames spread evenly (see `uniform_indices`), instead of the two above.
        size: (height, width) to scale to; default: as displayed. See `helpers.container.Converter`.
        backend: See `backend_name`.

    Yields:
        RGB uint8 (H, W, 3), seconds (at fixed rate those of the sample), number in the file, and what decoded it.
    """
    with open_video(path) as video:
        yield from _frames(video, *_plan(video, indices, fps, n_frames), size, backend)


def _frames(video: OpenVideo, index: np.ndarray, t_s: np.ndarray, size: Any, backend: str) -> Iterator[Frame]:
    convert, position, why = Converter(size, video.stream.sample_aspect_ratio), 0, ""
    try:
        for number, picture, decoder in _decode(video, np.unique(index), backend):
            frame = convert(picture)
            while position < len(index) and index[position] == number:
                yield frame, float(t_s[position]), number, "; ".join((decoder, *convert.done))
                position += 1
    except av.FFmpegError as error:
        why = f" ({error.strerror})"
    if position < len(index):
        what = f"cannot be decoded from {t_s[position]:.1f} s on (of {video.duration_s:.1f} s){why}"
        if "not supported" not in why:
            raise damaged(video.path, what)
        convert = f"its colours are none that FFmpeg reads. Convert it: ffmpeg -i {video.path.name} new.mp4."
        raise VideoError(f"{video.path.name}: {what}: {convert}")


def read_frames(path: str | Path, indices: Sequence[int] | slice | None = None, **how: Any) -> Frames:
    """Decode frames into one array; the arguments are those of `iter_frames`."""
    frames, t_s, index, backends = zip(*iter_frames(path, indices=indices, **how), strict=True)
    return Frames(np.stack(frames), np.array(t_s), np.array(index), backends[-1])


def _plan(video: OpenVideo, indices: Any, fps: float | None, n_frames: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Frame numbers and times to deliver, in order."""
    index, t_s = np.arange(len(video.t_s)), video.t_s
    if n_frames is not None:
        if indices is not None or fps is not None:
            raise ValueError("n_frames must be given alone, got indices or fps with it. Choose one kind of sampling.")
        indices = uniform_indices(len(index), n_frames)
    if fps is not None:
        index = fixed_rate_indices(video.t_s, video.duration_s, fps)
        t_s = np.arange(len(index)) / fps
    places = np.arange(len(index))
    chosen = places[indices] if isinstance(indices, slice) else np.asarray(places if indices is None else indices, int)
    if not len(chosen) or np.any(np.diff(chosen) < 0) or chosen[0] < 0 or chosen[-1] >= len(index):
        raise ValueError(f"indices must ascend within 0 to {len(index) - 1} and choose a frame, got {indices}.")
    return index[chosen], t_s[chosen]


def parity_table(path: str | Path, backends: Sequence[str] = BACKENDS, *, n_frames: int = 64) -> pd.DataFrame:
    """Compare the frames of decoders with those of the reference, `n_frames` spread evenly over a clip.

    By `backend`, of `BACKENDS` or `HARDWARE`: `decoder` as the library reports it, with what was done to the pictures,
    `same_index`, `same_t_s`, `mean_levels` (difference of grey levels, 0 to 255), `exact`: all of these within
    rounding, `times_reference` (speed, median of the ratios); of one that fails on this machine or clip, the `error`.
    """
    read, rows = partial(read_frames, path, n_frames=n_frames), []
    for backend in backends:
        both = backend, REFERENCE
        try:
            found = differences(*(read(backend=name) for name in both))
            ways = [partial(read, size=(256, 256), backend=name) for name in both]
            seconds = np.array([[timeit(way, number=1) for way in ways] for _ in range(ROUNDS)])
            rows.append(found | {"times_reference": float(np.median(seconds[:, 1] / seconds[:, 0]))})
        except Exception as error:  # of one decoder: the others are compared all the same
            rows.append({"error": str(error) or type(error).__name__})
    return pd.DataFrame(rows, index=pd.Index(backends, name="backend"))


def differences(ours: Frames, theirs: Frames) -> dict[str, Any]:
    """How the same frames of two decoders differ, as columns of `parity_table`."""
    same_index, same_size = np.array_equal(ours.index, theirs.index), ours.frames.shape == theirs.frames.shape
    same_t_s = bool(same_index and np.allclose(ours.t_s, theirs.t_s))
    levels = np.abs(ours.frames.astype(np.int16) - theirs.frames) if same_size else np.array(255)
    mean, is_near = float(levels.mean()), bool(levels.mean() <= MEAN_LEVELS and levels.max() <= MAX_LEVELS)
    found = {"decoder": ours.backend, "same_index": same_index, "same_t_s": same_t_s, "mean_levels": mean}
    return found | {"exact": same_t_s and is_near}
