"""Optical flow between neighbouring frames, its resizing, normalising and colouring.

In: RGB uint8 frames (T, H, W, 3). Out: flow float32 (T-1, H, W, 2), (dx, dy) in pixels per frame; dx > 0 moves right,
dy > 0 moves down. "Per frame" means from one of the given frames to the next: at half the rate the same movement is
twice as many pixels, so flow goes with the rate (fps) at which its frames were taken.
"""

from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np


def _dis(preset: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    engine = cv2.DISOpticalFlow_create(preset)
    return lambda a, b: engine.calc(a, b, None)


def _farneback() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The parameters of OpenCV's tutorial: pyramid of 3 halvings, window 15, 3 iterations, polynomials over 5 px."""
    return lambda a, b: cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)


def _tvl1() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """TV-L1, the flow that the published I3D weights were trained on; about 70 times slower than DIS medium.

    OpenCV's pyramid for it ends at 0.4 of the size: 12 px per frame are followed with an error of half a pixel.
    """
    engine = cv2.optflow.DualTVL1OpticalFlow_create()
    return lambda a, b: engine.calc(a, b, None)


METHODS: dict[str, Callable[[], Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "dis_fast": lambda: _dis(cv2.DISOPTICAL_FLOW_PRESET_FAST),
    "dis_medium": lambda: _dis(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM),
    "farneback": _farneback,
    "tvl1": _tvl1,
}


class OpticalFlowComputer:
    """Dense optical flow by one of `METHODS`; one object serves any number of clips, in one thread."""

    def __init__(self, method: str = "dis_medium"):
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
        self.method = method
        self._calculate = METHODS[method]()

    def pair(self, gray0: np.ndarray, gray1: np.ndarray) -> np.ndarray:
        """Flow from one grey uint8 image (H, W) to the next: float32 (H, W, 2), pixels."""
        return self._calculate(gray0, gray1)

    def compute(self, frames_rgb: np.ndarray) -> np.ndarray:
        """Flow between neighbours of RGB uint8 (T, H, W, 3), T >= 2: float32 (T-1, H, W, 2), pixels per frame."""
        if frames_rgb.ndim != 4 or frames_rgb.shape[-1] != 3 or len(frames_rgb) < 2:
            raise ValueError(
                f"frames_rgb must have shape (T, H, W, 3) with T at least 2, got {frames_rgb.shape}. "
                "Flow is what moves between two frames: pass more of them."
            )
        gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames_rgb]
        return np.stack([self.pair(a, b) for a, b in pairwise(gray)])


def resize_flow(flow: np.ndarray, size_px: int) -> np.ndarray:
    """Scale flow (S, S, 2) or (T, S, S, 2) to another side, the vectors with it: half the size is half the pixels."""
    side = flow.shape[-2]
    if flow.ndim not in (3, 4) or flow.shape[-3] != side or flow.shape[-1] != 2:
        raise ValueError(f"flow must have shape (S, S, 2) or (T, S, S, 2), got {flow.shape}. Crop it to a square.")
    if side == size_px:
        return flow
    how = cv2.INTER_AREA if size_px < side else cv2.INTER_LINEAR
    fields = [cv2.resize(field, (size_px, size_px), interpolation=how) for field in flow.reshape(-1, side, side, 2)]
    return (np.stack(fields) * np.float32(size_px / side)).reshape(*flow.shape[:-3], size_px, size_px, 2)


def flow_at_rate(flow: np.ndarray, fps_from: float, fps_to: float) -> np.ndarray:
    """Express flow in pixels per frame of another rate, to compare speeds: float32, same shape.

    The speed in pixels per second stays: 6 px per frame at 15 fps are 3 px per frame at 30 fps. The number of fields
    stays too: nothing is resampled in time.
    """
    if not (fps_from > 0 and fps_to > 0):
        raise ValueError(f"fps_from and fps_to must be above 0, got {fps_from} and {fps_to}. Give frames per second.")
    return (flow * (fps_from / fps_to)).astype(np.float32)


def normalise_flow(flow: np.ndarray, clip_px: float = 20.0) -> np.ndarray:
    """Truncate flow in pixels to +-clip_px and divide by it: float32 in [-1, 1]. I3D's training used 20 px."""
    if clip_px <= 0:
        raise ValueError(f"clip_px must be above 0, got {clip_px}.")
    return (np.clip(flow, -clip_px, clip_px) / clip_px).astype(np.float32, copy=False)


def flow_to_rgb(flow: np.ndarray, max_px: float | None = None) -> np.ndarray:
    """Colour flow by direction (hue) and length (saturation); no motion is white.

    Args:
        flow: (..., H, W, 2) pixels.
        max_px: Length shown in full colour; default: the longest vector.

    Returns:
        RGB uint8 (..., H, W, 3). Right is red, down yellow-green, left cyan, up violet.
    """
    length = np.linalg.norm(flow, axis=-1)
    max_px = max(float(length.max()), 1e-6) if max_px is None else max_px
    hue = np.degrees(np.arctan2(flow[..., 1], flow[..., 0])) % 360
    hsv = np.stack([hue, (length / max_px).clip(0, 1), np.ones_like(length)], axis=-1).astype(np.float32)
    rgb = cv2.cvtColor(hsv.reshape(-1, 1, 3), cv2.COLOR_HSV2RGB).reshape(hsv.shape)
    return (rgb * 255).round().astype(np.uint8)


def flow_wheel(side_px: int = 101) -> np.ndarray:
    """The legend of `flow_to_rgb`: a disc that shows the colour of every direction and length, RGB uint8 (S, S, 3)."""
    axis = np.linspace(-1, 1, side_px, dtype=np.float32)
    flow = np.stack(np.meshgrid(axis, axis), axis=-1)
    rgb = flow_to_rgb(flow, 1.0)
    rgb[np.linalg.norm(flow, axis=-1) > 1] = 255
    return rgb
