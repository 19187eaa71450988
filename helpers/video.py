"""Exact frames of video files with their times: all, chosen ones, evenly spread ones, or at a fixed rate.

In: a path. Out: RGB uint8 frames (H, W, 3) in presentation order, upright as a player shows them, with times in seconds
from the first frame. The packets tell beforehand when every picture is shown; a decoded picture counts only if it
carries the time that this table announces, so that no decoder loses, repeats or shifts one unnoticed. A file that
breaks off is an error before anything is computed from it. `python -m helpers.video CLIP` compares decoders.
"""

import argparse
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
from av.codec.hwaccel import HWAccel
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from helpers.container import (
    COPY_AGAIN,
    OpenVideo,
    VideoError,
    VideoInfo,
    display_size,
    open_container,
    open_video,
    orientation,
)

if TYPE_CHECKING:
    import pandas as pd

BACKENDS = ("pyav", "opencv")
HARDWARE = ("cuda", "qsv", "vaapi", "videotoolbox", "d3d11va", "drm", "amf")  # FFmpeg's names; cuda is NVDEC
REFERENCE = "pyav"
# What "auto" takes by codec and pixel format; of others the reference. Another decoder belongs here when
# `benchmarks.decode` finds it exact and 1.1 times as fast. On two cores OpenCV was exact and .6 to .7 times as fast on
# each of these; no hardware has been measured.
FASTEST = {(codec, "yuv420p"): REFERENCE for codec in ("h264", "hevc", "vp9", "av1")}
STRICT = {"err_detect": "crccheck+explode"}  # damage is an error, not a picture patched up from its neighbours
PLANAR = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12")  # 8 bits, luma at full size

ROUNDING_S = 1e-3  # Matroska and WebM round timestamps to whole milliseconds
TRIES = 3  # clips that may be damaged before "auto" is the reference
MEAN_LEVELS, MAX_LEVELS = 1.0, 24  # rounding and the spreading of colour; another frame or colour matrix is far more


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


class Converter:
    """Turns the decoded pictures of one video into upright RGB uint8 arrays (H, W, 3), of one size.

    One scaler serves every decoder: swscale's area averaging when a picture shrinks, bilinear otherwise. Its tables are
    made once and used again.
    """

    def __init__(self, size: tuple[int, int] | None, pixel_aspect: Fraction | None = None):
        """
        Args:
            size: (height, width) of the arrays; default: as displayed.
            pixel_aspect: Width of a stored pixel in heights.
        """
        self._size, self._aspect, self._stored = size, pixel_aspect, (0, 0)
        self._scaler, self._colours = VideoReformatter(), VideoReformatter()

    def __call__(self, picture: av.VideoFrame) -> np.ndarray:
        """Convert a picture; the first one decides on turn and size."""
        if self._stored == (0, 0):
            self._turn, self._mirrored = orientation(picture)
            shown = self._size[::-1] if self._size else display_size(picture, self._aspect)
            self._stored = shown[::-1] if self._turn in (90, -90) else shown
        width, height = self._stored
        shrinks = width * height < picture.width * picture.height
        how = "AREA" if shrinks else "BILINEAR"
        if shrinks and picture.format.name in PLANAR:
            # Scaling first and colouring the few pixels that are left takes less than half of doing both at once.
            picture = self._scaler.reformat(picture, width, height, picture.format.name, interpolation=how, threads=1)
        pixels = self._colours.reformat(picture, width, height, "rgb24", interpolation=how, threads=1).to_ndarray()
        return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if self._mirrored else pixels, self._turn // 90))


Decoded = Iterator[tuple[int, av.VideoFrame, str]]  # number in the file, picture, what decoded it


def decode_pyav(video: OpenVideo, wanted: np.ndarray, device: str = "", alone: bool = False) -> Decoded:
    """Decode the wanted pictures with PyAV, in hardware on a device of `HARDWARE`; stops where one is not as announced.

    `alone`: decode no others. The wanted ones are of `video.keys`; stops where one refers to others all the same.

    Raises:
        RuntimeError: This machine has no such device.
    """
    container = video.container
    if device:
        try:
            container = open_container(video.path, HWAccel(device))
        except (av.FFmpegError, RuntimeError, ValueError) as error:  # the file was opened before
            why = getattr(error, "strerror", None) or error
            message = f"backend {device!r} cannot be used on this machine ({why}). Take 'auto' or 'pyav'."
            raise RuntimeError(message) from None
    with container:
        codec = container.streams[video.stream.index].codec_context
        codec.thread_type, codec.thread_count = "AUTO", max(1, cv2.getNumThreads())  # decoder processes set it to 1
        codec.options = {} if video.cut_out else STRICT  # after a cut the decoder misses what nothing refers to
        numbers = wanted if alone else np.arange(wanted[-1] + 1)
        packets = (packet for packet in video.iter_packets() if not alone or packet.pts in video.ticks[wanted])
        pictures = (picture for packet in chain(packets, [None]) for picture in codec.decode(packet))
        for number, is_wanted, picture in zip(numbers, np.isin(numbers, wanted), pictures, strict=False):
            is_other = video.timed and picture.pts != video.ticks[number]
            if picture.is_corrupt or is_other or (alone and picture.pict_type != PictureType.I):
                return
            if is_wanted:
                yield number, picture, _describe(codec, device)


def _describe(codec: av.VideoCodecContext, device: str) -> str:
    """What decodes, as the library itself reports it: "pyav 18.1.0 (libavcodec 62.28.102), h264, software"."""
    version = ".".join(map(str, av.library_versions["libavcodec"]))
    where = device if codec.is_hwaccel else "software"
    return f"pyav {av.__version__} (libavcodec {version}), {codec.name}, {where}"


def decode_opencv(video: OpenVideo, wanted: np.ndarray) -> Decoded:
    """Decode with OpenCV, which counts pictures and turns them by itself; what it shows wrongly is refused."""
    first = video.first_picture()
    for wrong, what in ((first.interlaced_frame, "interlaced"), (orientation(first)[1], "mirrored")):
        if wrong:
            raise VideoError(f"{video.path.name}: OpenCV does not show {what} video as it is. Take the backend 'pyav'.")
    capture = cv2.VideoCapture(str(video.path.absolute()), cv2.CAP_FFMPEG)
    decoder = f"opencv {cv2.__version__} (ffmpeg), {video.codec}, software"
    try:
        for number, is_wanted in enumerate(np.isin(np.arange(wanted[-1] + 1), wanted)):
            if not capture.grab():
                return
            if is_wanted:
                ok, bgr = capture.retrieve()
                if not ok:
                    return
                yield number, av.VideoFrame.from_ndarray(bgr, format="bgr24"), decoder
    finally:
        capture.release()


def backend_name(backend: str = "auto", clips: Iterable[Path] = ()) -> str:
    """The backend that `backend` stands for: "auto" is the one of `FASTEST` for the first clip that can be opened.

    Args:
        backend: "auto", one of `BACKENDS` or of `HARDWARE`.
        clips: Real clips; without one "auto" is the reference.
    """
    if backend not in (legal := ("auto", *BACKENDS, *HARDWARE)):
        raise ValueError(f"backend must be one of {', '.join(map(repr, legal))}, got {backend!r}.")
    if backend != "auto":
        return backend
    for path in islice(clips, TRIES):
        with suppress(VideoError), open_video(path) as video:
            return _fastest(video)
    return REFERENCE


def _fastest(video: OpenVideo) -> str:
    return FASTEST.get((video.codec, video.stream.codec_context.pix_fmt), REFERENCE)


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

    def __init__(self, path: Path, sampling: tuple[Any, Any, Any], size: tuple[int, int] | None, backend: str):
        self._frames = self._decode(path, sampling, size, backend)

    def __next__(self) -> tuple[np.ndarray, float, int]:
        return next(self._frames)

    def close(self) -> None:
        """Stop decoding and let go of the file."""
        self._frames.close()

    def _decode(
        self, path: Path, sampling: tuple[Any, Any, Any], size: tuple[int, int] | None, backend: str
    ) -> Iterator[tuple[np.ndarray, float, int]]:
        with open_video(path) as video:
            backend = _fastest(video) if backend == "auto" else backend_name(backend)
            index, t_s = _plan(video, *sampling)
            convert, wanted, position = Converter(size, video.stream.sample_aspect_ratio), np.unique(index), 0
            if backend == "opencv":
                pictures = decode_opencv(video, wanted)
            else:
                pictures = decode_pyav(video, wanted, backend if backend in HARDWARE else "")
            try:
                for number, picture, self.decoder in pictures:
                    if not position:
                        self.info, self.length = video.info(None if backend == "opencv" else picture), len(index)
                    frame = convert(picture)
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
        size: (height, width) to scale to; default: as displayed. See `Converter`.
        backend: See `backend_name`.

    Returns:
        An iterator of (RGB uint8 (H, W, 3), time in seconds, frame number in the file). At fixed rate the time is that
        of the sample.

    Raises:
        VideoError: see `probe`; also when decoding fails somewhere, saying at which second. Both come with the frames.
    """
    return FrameStream(Path(path), (indices, fps, n_frames), size, backend)


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


def parity_table(
    path: str | Path, backends: Sequence[str] = BACKENDS, *, n_frames: int = 64, rounds: int = 3
) -> "pd.DataFrame":
    """Do decoders deliver the same frames as the reference, PyAV in software, and how fast?

    Args:
        path: A clip.
        backends: Of `BACKENDS` or `HARDWARE`.
        n_frames: Frames spread evenly over the clip, at full size.
        rounds: Timings, in alternation.

    Returns:
        Index `backend`; `decoder` as the library reports it, `same_index`, `same_t_s`, `mean_levels`, `max_levels`
        (difference of grey levels, 0 to 255), `exact`: the same frames within rounding, and `times_reference` (speed,
        median of the ratios). Of one that cannot be used on this machine, or of a damaged clip, the `error`.
    """
    import pandas as pd

    def seconds(backend: str) -> float:
        start = time.perf_counter()
        read_frames(path, n_frames=n_frames, size=(256, 256), backend=backend)
        return time.perf_counter() - start

    rows = []
    for backend in backends:
        try:
            ours, theirs = (read_frames(path, n_frames=n_frames, backend=name) for name in (backend, REFERENCE))
            ratios = [seconds(REFERENCE) / seconds(backend) for _ in range(rounds)]
            rows.append(_differences(ours, theirs) | {"times_reference": statistics.median(ratios)})
        except (VideoError, RuntimeError, OSError) as error:
            rows.append({"error": str(error)})
    return pd.DataFrame(rows, index=pd.Index(backends, name="backend"))


def _differences(ours: Frames, theirs: Frames) -> dict[str, Any]:
    same_t_s = (same_index := np.array_equal(ours.index, theirs.index)) and np.allclose(ours.t_s, theirs.t_s)
    same_size = ours.frames.shape == theirs.frames.shape
    levels = np.abs(ours.frames.astype(np.int16) - theirs.frames) if same_size else np.array(255)
    return {
        "decoder": ours.backend,
        "same_index": same_index,
        "same_t_s": same_t_s,
        "mean_levels": float(levels.mean()),
        "max_levels": int(levels.max()),
        "exact": same_t_s and bool(levels.mean() <= MEAN_LEVELS and levels.max() <= MAX_LEVELS),
    }


def main(argv: list[str] | None = None) -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(prog="python -m helpers.video", description=parity_table.__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--backend", nargs="+", choices=(*BACKENDS, *HARDWARE), default=BACKENDS)
    options = parser.parse_args(argv)
    print(parity_table(options.clip, options.backend).T.to_string())


if __name__ == "__main__":
    main()
