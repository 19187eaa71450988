"""Small clips whose frames carry their number as black or white blocks, so that a test can read which came out."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH = 48, 80


def numbered_frames(n: int) -> np.ndarray:
    """RGB uint8 (n, 48, 80, 3): bit k of a frame's number is block k of the upper half, the lower is a red ramp."""
    frames = np.zeros((n, HEIGHT, WIDTH, 3), np.uint8)
    for number in range(n):
        for bit in range(8):
            frames[number, :24, 10 * bit : 10 * bit + 10] = 235 if number >> bit & 1 else 20
    frames[:, 24:, :, 0] = np.linspace(20, 220, WIDTH).astype(np.uint8)
    return frames


def read_numbers(frames: np.ndarray) -> list[int]:
    """The numbers that decoded, upright frames carry."""
    blocks = frames[:, 6:18].reshape(len(frames), 12, 8, 10, 3).mean(axis=(1, 3, 4)) > 128
    return (blocks @ (1 << np.arange(8))).tolist()


def write_numbered(
    path: Path,
    n: int,
    fps: Fraction | int = 15,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
) -> Path:
    """Encode `numbered_frames`, shown at `times` in 1 / fps; the container follows from the suffix."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.options = {"crf": "12", **(codec_options or {})}
        for time, frame in zip(times or range(n), numbered_frames(n), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pixels)
            picture.pts, picture.time_base = time, 1 / Fraction(fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path
