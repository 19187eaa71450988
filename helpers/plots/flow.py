"""Optical flow as colours: direction as hue, length as saturation.

In: flow (..., H, W, 2), (dx, dy) in pixels. Out: pictures RGB uint8 (..., H, W, 3), which `preparation` draws.
"""

import cv2
import numpy as np


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
