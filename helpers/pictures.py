"""Decoded pictures to upright RGB.

In: pictures as a decoder gives them. Out: RGB uint8 arrays (H, W, 3) of one size, turned and widened as a player shows
them.
"""

from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from helpers.container import display_size, orientation

PLANAR = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12")  # 8 bits, luma at full size


class Converter:
    """Turns the decoded pictures of one video into upright RGB uint8 arrays (H, W, 3), of one size.

    One scaler serves every decoder: swscale's area averaging when a picture shrinks, bilinear otherwise. Its tables are
    made once and used again.
    """

    def __init__(self, size: tuple[int, int] | None, pixel_aspect: Fraction | None = None):
        """Take (height, width) of the arrays, by default as displayed, and the width of a stored pixel in heights."""
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
