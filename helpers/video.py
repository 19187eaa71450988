"""Decoding of video files: what is in a file, and exact frames with their times, by PyAV or OpenCV.

In: a path. Out: RGB uint8 frames (H, W, 3) in presentation order, upright as a player shows them, with times in seconds
from the first frame. The packets are read first, without decoding: they tell when every frame is shown and whether the
file is whole, so both backends deliver the same frames, and a file that breaks off is an error, never a shorter clip.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
from av.video.reformatter import VideoReformatter

log = logging.getLogger(__name__)

BACKENDS = ("pyav", "opencv")
ROUNDING_S = 1e-3  # Matroska and WebM round timestamps to whole milliseconds
MISSING_S = 0.3  # packets ending this much before the duration in the header: the file is cut off
DECLARING = {"mov", "matroska", "avi"}  # containers whose header states the duration; elsewhere FFmpeg guesses it
COPY_AGAIN = "Copy or download it again"


class VideoError(ValueError):
    """A file that is not a whole, readable video; the message is one line that names the file."""


@dataclass(frozen=True)
class VideoInfo:
    """What is in a video file: `width`, `height` in pixels as displayed, `fps` the mean rate, `duration_s` seconds,
    `rotation_deg` the turn that displays it, counter-clockwise.
    """

    codec: str
    width: int
    height: int
    fps: float
    n_frames: int
    duration_s: float
    rotation_deg: int


@dataclass(frozen=True)
class Frames:
    """Decoded frames: `frames (T, H, W, 3) uint8` RGB, `t_s (T,)` seconds, `index (T,)` number in the file from 0."""

    frames: np.ndarray
    t_s: np.ndarray
    index: np.ndarray
    backend: str
    info: VideoInfo


def backend_name(backend: str = "auto") -> str:
    """The backend that `backend` stands for: "auto" is PyAV, which comes with its own FFmpeg."""
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend must be one of 'auto', {', '.join(map(repr, BACKENDS))}, got {backend!r}.")
    return "pyav" if backend == "auto" else backend


def backend_version(backend: str = "auto") -> str:
    """The backend with its library's version, as manifests record it: "pyav 18.1.0"."""
    name = backend_name(backend)
    return f"{name} {av.__version__ if name == 'pyav' else cv2.__version__}"


def probe(path: str | Path) -> VideoInfo:
    """Read what is in a video without decoding more than its first frame.

    Raises:
        VideoError: the file is missing, empty, cut off, or no video.
    """
    return _scan(path)[0]


def survey(paths: Mapping[str, Path]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Probe many videos.

    Args:
        paths: Key of each clip to its file.

    Returns:
        The fields of `VideoInfo` as columns, index `key`; and key -> reason for those that cannot be opened.
    """
    infos, broken = {}, {}
    for key, path in paths.items():
        try:
            infos[key] = asdict(probe(path))
        except VideoError as error:
            broken[key] = str(error)
    columns = [f.name for f in fields(VideoInfo)]
    return pd.DataFrame(infos.values(), columns=columns, index=pd.Index(infos, name="key")), broken


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


def iter_frames(
    path: str | Path,
    *,
    indices: Sequence[int] | slice | None = None,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    backend: str = "auto",
) -> Iterator[tuple[np.ndarray, float, int]]:
    """Decode a video frame by frame; one frame is held at a time.

    Args:
        path: Video file.
        indices: Which frames, ascending numbers or a slice; of the samples when `fps` is given. Default: all.
        fps: Samples per second at fixed rate (see `fixed_rate_indices`); default: the frames as they are.
        size: (height, width) to scale to: averaging when it shrinks, linear otherwise, the same for both backends.
        backend: "pyav", "opencv" or "auto".

    Yields:
        (RGB uint8 (H, W, 3), time in seconds, frame number in the file). At fixed rate the time is that of the sample.

    Raises:
        VideoError: see `probe`; also when decoding fails somewhere, saying at which second.
    """
    decode = {"pyav": _decode_pyav, "opencv": _decode_opencv}[backend_name(backend)]
    info, t_s = _scan(path)
    index, t_s = _plan(t_s, info.duration_s, indices, fps)
    position = 0
    for number, frame in decode(path, np.unique(index), info):
        frame = frame if size is None else _resized(frame, size)
        while position < len(index) and index[position] == number:
            yield frame, float(t_s[position]), number
            position += 1
    if position < len(index):
        where = f"from {t_s[position]:.1f} s on (of {info.duration_s:.1f} s)"
        raise VideoError(f"{Path(path).name}: cannot be decoded {where}. {COPY_AGAIN}.")


def read_frames(
    path: str | Path,
    *,
    indices: Sequence[int] | slice | None = None,
    fps: float | None = None,
    n_frames: int | None = None,
    size: tuple[int, int] | None = None,
    backend: str = "auto",
) -> Frames:
    """Decode frames into one array: by `indices` or `fps` as `iter_frames`, or `n_frames` spread evenly."""
    info = probe(path)
    if n_frames is not None:
        if indices is not None or fps is not None:
            raise ValueError("n_frames must be given alone, got indices or fps with it. Choose one kind of sampling.")
        indices = uniform_indices(info.n_frames, n_frames)
    frames, t_s, index = zip(*iter_frames(path, indices=indices, fps=fps, size=size, backend=backend), strict=True)
    return Frames(np.stack(frames), np.array(t_s), np.array(index), backend_version(backend), info)


def _plan(
    t_s: np.ndarray, duration_s: float, indices: Sequence[int] | slice | None, fps: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Frame numbers and times to deliver, in order."""
    index = np.arange(len(t_s)) if fps is None else fixed_rate_indices(t_s, duration_s, fps)
    t_s = t_s if fps is None else np.arange(len(index)) / fps
    if indices is None:
        return index, t_s
    chosen = np.arange(len(index))[indices] if isinstance(indices, slice) else np.asarray(indices, int)
    if not len(chosen) or np.any(np.diff(chosen) < 0) or chosen[0] < 0 or chosen[-1] >= len(index):
        raise ValueError(f"indices must ascend within 0 to {len(index) - 1} and choose a frame, got {indices}.")
    return index[chosen], t_s[chosen]


def _scan(path: str | Path) -> tuple[VideoInfo, np.ndarray]:
    """What is in a video, and when each displayed frame appears: seconds from the first one, (n_frames,)."""
    path = Path(path)
    if not path.is_file():
        raise VideoError(f"{path.name}: there is no such file in {path.parent}.")
    if path.stat().st_size == 0:
        raise VideoError(f"{path.name}: the file is empty (0 bytes). {COPY_AGAIN}.")
    try:
        with av.open(str(path.absolute())) as container:
            return _scan_container(container, path.name)
    except av.FFmpegError as error:
        raise VideoError(f"{path.name}: not a readable video ({error.strerror}). {COPY_AGAIN}, or remove it.") from None


def _scan_container(container: av.container.InputContainer, name: str) -> tuple[VideoInfo, np.ndarray]:
    stream = _video_stream(container, name)
    first, ticks, end_s = None, [], 0.0
    for packet in container.demux():
        if packet.stream is stream and first is None:
            first = next(iter(packet.decode()), None)
        moment = packet.dts if packet.pts is None else packet.pts
        if moment is None or packet.stream.type == "data":
            continue
        if packet.stream is stream and not packet.is_discard:
            if packet.is_corrupt:
                raise VideoError(f"{name}: breaks off at {float(moment * stream.time_base):.1f} s. {COPY_AGAIN}.")
            ticks.append(moment)
        end_s = max(end_s, float((moment + (packet.duration or 0)) * packet.time_base))
    if first is None or not ticks:
        raise VideoError(f"{name}: holds no frame that can be decoded. {COPY_AGAIN}, or remove it.")
    _check_whole(container, end_s, name)
    # A clip cut from a longer video may open with frames that refer to what was cut away: no decoder shows them.
    ticks = np.sort([tick for tick in ticks if first.pts is None or tick >= first.pts])
    t_s = (ticks - ticks[0]) * float(stream.time_base)
    interval_s = float(np.median(np.diff(t_s))) if len(t_s) > 1 else 1 / float(stream.average_rate or 25)
    turned = first.rotation % 180 == 90
    width, height = (first.height, first.width) if turned else (first.width, first.height)
    fps = (len(t_s) - 1) / t_s[-1] if t_s[-1] > 0 else 1 / interval_s
    duration_s, codec = float(t_s[-1]) + interval_s, stream.codec_context.name
    return VideoInfo(codec, width, height, float(fps), len(t_s), duration_s, first.rotation), t_s


def _video_stream(container: av.container.InputContainer, name: str) -> av.VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:  # a cover picture is not a video
            return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise VideoError(f"{name}: holds no video stream ({kinds} only). Remove it, or take the file that has the picture.")


def _check_whole(container: av.container.InputContainer, end_s: float, name: str) -> None:
    if container.duration is None or not DECLARING & set(container.format.name.split(",")):
        return
    declared_s = (container.duration + min(container.start_time or 0, 0)) / av.time_base
    if end_s < declared_s - MISSING_S:
        raise VideoError(f"{name}: breaks off at {end_s:.1f} s of {declared_s:.1f} s. {COPY_AGAIN}.")


def _decode_pyav(path: str | Path, wanted: np.ndarray, info: VideoInfo) -> Iterator[tuple[int, np.ndarray]]:
    """Frame number and upright RGB frame of each wanted one, as far as the file can be decoded."""
    with av.open(str(Path(path).absolute())) as container:
        stream = _video_stream(container, Path(path).name)
        stream.thread_type = "AUTO" if info.codec == "hevc" else "SLICE"  # the faster one of each: benchmarks
        frames = container.decode(stream)
        reformatter = VideoReformatter()  # one for all frames: a new one per frame costs more than the conversion
        position = 0
        for number in range(info.n_frames):
            try:
                frame = next(frames, None)
            except av.FFmpegError as error:
                log.warning("%s: frame %d: %s", Path(path).name, number, error)
                return
            if frame is None or frame.is_corrupt or position == len(wanted):
                return
            if number == wanted[position]:
                position += 1
                rgb = reformatter.reformat(frame, format="rgb24").to_ndarray()
                yield number, np.ascontiguousarray(np.rot90(rgb, info.rotation_deg // 90))


def _decode_opencv(path: str | Path, wanted: np.ndarray, info: VideoInfo) -> Iterator[tuple[int, np.ndarray]]:
    """Frame number and upright RGB frame of each wanted one; OpenCV turns frames by itself."""
    capture = cv2.VideoCapture(str(Path(path).absolute()), cv2.CAP_FFMPEG)
    try:
        position = 0
        for number in range(info.n_frames):
            if position == len(wanted) or not capture.grab():
                return
            if number == wanted[position]:
                position += 1
                ok, bgr = capture.retrieve()
                if not ok:
                    return
                yield number, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def _resized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    shrinks = height * width < frame.shape[0] * frame.shape[1]
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
