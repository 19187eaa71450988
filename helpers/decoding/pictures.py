"""From a decoded picture to pixels: upright as a player shows it, RGB, at the size asked for.

In: PyAV's `VideoFrame` in the codec's own pixel format. Out: RGB uint8 (H, W, 3). One scaler serves every decoder:
swscale's area averaging when a picture shrinks, bilinear otherwise.
"""

from fractions import Fraction

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import VideoReformatter

PLANAR = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12")  # 8 bits, luma at full size


def display_matrix(picture: av.VideoFrame) -> np.ndarray:
    """The turn and flip that displays a picture, signs of [[a, b], [c, d]] of ISO/IEC 14496-12, 8.3.2: int (2, 2).

    A stored pixel (x, y) is shown at (a x + c y, b x + d y). What is no turn or flip, as when all are zero, leaves a
    picture as it is.
    """
    stored = picture.side_data.get(Type.DISPLAYMATRIX)
    if stored is None:
        return np.eye(2, dtype=int)
    matrix = np.frombuffer(stored, np.int32)[[0, 1, 3, 4]].reshape(2, 2).astype(int)
    turned = np.abs(matrix[0, 1]) > np.abs(matrix[0, 0])
    matrix = np.sign(matrix) * ([[0, 1], [1, 0]] if turned else [[1, 0], [0, 1]])
    return matrix if abs(round(np.linalg.det(matrix))) == 1 else np.eye(2, dtype=int)


def orientation(picture: av.VideoFrame) -> tuple[int, bool]:
    """Degrees, counter-clockwise, by which a picture is turned for display, after it is mirrored or not."""
    matrix = display_matrix(picture)
    mirrored = bool(np.linalg.det(matrix) < 0)
    a, b = matrix[0] * (-1 if mirrored else 1)
    return {(1, 0): 0, (0, -1): 90, (-1, 0): 180, (0, 1): -90}[int(a), int(b)], mirrored


def display_size(picture: av.VideoFrame, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """Width and height at which a player shows a picture: pixels that are not square are widened."""
    width, height = picture.width, picture.height
    if pixel_aspect and pixel_aspect != 1:
        width = round(width * pixel_aspect)
    return (height, width) if display_matrix(picture)[0, 1] else (width, height)


class Converter:
    """Turns the decoded pictures of one video into RGB arrays; the scaler's tables are made once and used again.

    `first`: the first picture it was given.
    """

    first: av.VideoFrame | None = None

    def __init__(self, size: tuple[int, int] | None, pixel_aspect: Fraction | None = None):
        """
        Args:
            size: (height, width) of the arrays; default: as displayed.
            pixel_aspect: Width of a stored pixel in heights.
        """
        self.size, self._aspect = size, pixel_aspect
        self._scaler, self._colours = VideoReformatter(), VideoReformatter()

    def again(self) -> "Converter":
        """Another one that does the same: two threads may not share one."""
        return Converter(self.size, self._aspect)

    def __call__(self, picture: av.VideoFrame) -> np.ndarray:
        """One picture as upright RGB uint8 (H, W, 3)."""
        if self.first is None:
            self.first, self._matrix = picture, display_matrix(picture)
            self._shown = display_size(picture, self._aspect) if self.size is None else self.size[::-1]
        width, height = self._shown[:: -1 if self._matrix[0, 1] else 1]
        return upright(self._rgb(picture, width, height), self._matrix)

    def _rgb(self, picture: av.VideoFrame, width: int, height: int) -> np.ndarray:
        shrinks = width * height < picture.width * picture.height
        how = "AREA" if shrinks else "BILINEAR"
        if shrinks and picture.format.name in PLANAR:
            # Scaling first and colouring the few pixels that are left takes less than half of doing both at once.
            picture = self._scaler.reformat(picture, width, height, picture.format.name, interpolation=how, threads=1)
        rgb = self._colours.reformat(picture, width, height, "rgb24", interpolation=how, threads=1)
        return rgb.to_ndarray()


def upright(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turn and flip pixels (H, W, 3) as a display matrix says; contiguous."""
    if matrix[0, 1]:
        pixels = pixels.swapaxes(0, 1)
    along_x, along_y = matrix.sum(axis=0).tolist()  # 1 or -1
    return np.ascontiguousarray(pixels[::along_y, ::along_x])
