"""Exact frames of video files with their times: all, chosen ones, evenly spread ones, or at a fixed rate.

In: a path. Out: RGB uint8 frames (H, W, 3) in presentation order, upright as a player shows them, with times in seconds
from the first frame. Which decoder delivers them changes no number and no time.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from helpers.decoding.choice import choose_backend
from helpers.decoding.container import COPY_AGAIN, OpenVideo, VideoError, VideoInfo, probe, survey
from helpers.decoding.decoders import BACKENDS, HARDWARE, decoder_of, describe, open_for
from helpers.decoding.pictures import Converter

__all__ = ["BACKENDS", "VideoError", "VideoInfo", "probe", "survey"]

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
        backend: "auto", one of `BACKENDS` or of `helpers.decoding.decoders.HARDWARE`.
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
        size: (height, width) to scale to; default: as displayed. See `helpers.decoding.pictures`.
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
