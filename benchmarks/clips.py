"""The clips of the video benchmarks: a drawn person, encoded as users' files are.

In: a folder. Out: the same pictures as files in several codecs and containers. The drawing is the same every time, the
encoders' bytes need not be.
"""

import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from data_sample.make.sample import draw_clip
from helpers.files import stderr_into

N_FRAMES, FPS, SIZE = 300, 30, (640, 360)
SEED = 77
NOISE_LEVELS = 3.0  # the drawn pictures then take as many bits as those of real clips


@dataclass(frozen=True)
class Encoding:
    """An encoder with its options, and the container (suffix) with its own."""

    encoder: str
    suffix: str
    options: dict[str, str] = field(default_factory=dict)
    container: dict[str, str] = field(default_factory=dict)


HEVC = {"x265-params": "log-level=none"}
VP9 = {"b": "0", "crf": "32", "cpu-used": "5", "row-mt": "1"}
AV1 = {"preset": "8", "crf": "35"}
FASTSTART = {"movflags": "+faststart"}  # the index comes first, so that a file that is cut off can still be opened

BENCHMARK = {
    "h264": Encoding("libx264", ".mp4", {"bf": "0"}),
    "h264 droppable": Encoding("libx264", ".mp4"),  # the encoder's defaults: three B-pictures in a row
    "hevc": Encoding("libx265", ".mp4", HEVC),
    "vp9": Encoding("libvpx-vp9", ".webm", VP9),
    "av1": Encoding("libsvtav1", ".mp4", AV1),
}
TO_DAMAGE = {
    "h264 mp4": Encoding("libx264", ".mp4"),
    "h264 faststart mp4": Encoding("libx264", ".mp4", {"g": "25"}, FASTSTART),
    "h264 mov": Encoding("libx264", ".mov", {"bf": "0"}),
    "h264 mkv": Encoding("libx264", ".mkv", {"g": "25"}),
    "h264 ts": Encoding("libx264", ".ts", {"g": "25"}),
    "hevc faststart mp4": Encoding("libx265", ".mp4", HEVC, FASTSTART),
    "hevc mkv": Encoding("libx265", ".mkv", HEVC),
    "vp9 webm": Encoding("libvpx-vp9", ".webm", VP9),
    "av1 faststart mp4": Encoding("libsvtav1", ".mp4", AV1, FASTSTART),
    "av1 mkv": Encoding("libsvtav1", ".mkv", AV1),
    "mpeg4 avi": Encoding("mpeg4", ".avi", {"b": "800000"}),
}


def draw_pictures(n_frames: int = N_FRAMES, size: tuple[int, int] = SIZE, fps: float = FPS) -> np.ndarray:
    """Draw a moving person, each frame with camera noise of its own: planar 4:2:0, uint8 (n_frames, 1.5 H, W)."""
    frames = draw_clip(SEED, SEED, n_frames=n_frames, fps=fps, size=size).frames
    pictures = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420) for frame in frames])
    r = np.random.default_rng(SEED)
    for picture in pictures:
        noise = r.standard_normal(picture.shape, np.float32) * NOISE_LEVELS
        picture[:] = (picture + noise).round().clip(0, 255)
    return pictures


def encode(pictures: np.ndarray, path: Path, encoding: Encoding, fps: float = FPS) -> Path:
    """Write pictures of `draw_pictures` as a video file."""
    rate = Fraction(fps).limit_denominator(1001)
    with (
        stderr_into(os.devnull),  # SVT-AV1 says what it does
        av.open(str(path), "w", container_options=encoding.container) as container,
    ):
        stream = container.add_stream(encoding.encoder, rate=rate, options=encoding.options)
        stream.height, stream.width = pictures.shape[1] * 2 // 3, pictures.shape[2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_type = "FRAME"  # PyAV's own default cuts pictures into slices: users' files are not
        for k, planes in enumerate(pictures):
            picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            picture.pts, picture.time_base = k, 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def draw_benchmark_clips(folder: Path, n_frames: int = N_FRAMES, size: tuple[int, int] = SIZE) -> dict[str, Path]:
    """Draw a clip once and write it in every encoding of the decoding benchmark; name -> file."""
    return write_encodings(draw_pictures(n_frames, size), BENCHMARK, folder)


def write_encodings(
    pictures: np.ndarray, encodings: dict[str, Encoding], folder: Path, fps: float = FPS
) -> dict[str, Path]:
    """Write the same pictures in several encodings; name -> file."""
    paths = {}
    for name, encoding in encodings.items():
        path = folder / f"{name.replace(' ', '_')}{encoding.suffix}"
        paths[name] = encode(pictures, path, encoding, fps)
    return paths


def droppable_share(path: Path) -> float:
    """The share of pictures that no other refers to: they need not be decoded when they are not wanted."""
    n_all, n_needed = (_n_decoded(path, skip) for skip in ("DEFAULT", "NONREF"))
    return 1 - n_needed / n_all


def _n_decoded(path: Path, skip: str) -> int:
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.skip_frame = skip
        return sum(1 for _ in container.decode(video=0))
