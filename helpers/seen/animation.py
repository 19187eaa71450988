"""Moving pictures as GIF files. In: RGB frames uint8 (n, H, W, 3). Out: a file that loops."""

import base64
from pathlib import Path

import numpy as np
from IPython.display import HTML
from PIL import Image

from helpers.files import replacing


def write_gif(path: str | Path, frames: np.ndarray, frame_s: float, *, colors: int = 128) -> Path:
    """Write frames as a GIF that begins again at its end, atomically.

    All frames share one palette, so that nothing flickers.

    Args:
        path: The file, `.gif`.
        frames: RGB uint8 (n, H, W, 3).
        frame_s: How long each is shown, in seconds; GIF counts in hundredths.
        colors: Size of the palette, 2 to 256. Frames of no more colours are kept exactly.

    Returns:
        The path.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"frames must be uint8 (n, H, W, 3) with n > 0, got {frames.dtype} {frames.shape}.")
    path = Path(path)
    strip = Image.fromarray(frames.reshape(-1, *frames.shape[2:]))  # all frames below each other
    indexed = strip.quantize(colors, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)  # rare ones stay
    height = frames.shape[1]
    pictures = [indexed.crop((0, k * height, frames.shape[2], (k + 1) * height)) for k in range(len(frames))]
    with replacing(path) as part:
        pictures[0].save(
            part, "GIF", save_all=True, append_images=pictures[1:], duration=round(100 * frame_s) * 10, loop=0
        )
    return path


def shown(path: str | Path) -> HTML:
    """The file as part of a notebook, which shows it wherever the notebook is opened."""
    data = base64.b64encode(Path(path).read_bytes()).decode()
    return HTML(f'<img src="data:image/gif;base64,{data}" alt="{Path(path).stem}">')
