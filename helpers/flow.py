"""Optical flow between neighbouring frames: computing, scaling, normalising and storing it.

In: RGB uint8 frames (T, H, W, 3). Out: flow float32 (T-1, H, W, 2), (dx, dy) in pixels per frame; dx > 0 moves right,
dy > 0 moves down. "Per frame" means from one of the given frames to the next: at half the rate the same movement is
twice as many pixels, so flow goes with the rate (fps) at which its frames were taken.

A flow file is a compressed npz of whole steps of 1/64 px: no value is wrong by more than 0.0078 px, far below the error
of any flow method.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from helpers.store import read_arrays, write_arrays

STEP_PX = 1 / 64  # between stored values, as in the files of the KITTI flow benchmark
MOST_PX = np.iinfo(np.int16).max * STEP_PX  # 511.98

METHODS: dict[str, Callable[[], cv2.DenseOpticalFlow]] = {
    "dis_fast": lambda: cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST),
    "dis_medium": lambda: cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM),
    # as in OpenCV's tutorial: a pyramid of 3 halvings, window 15, 3 iterations, polynomials over 5 px
    "farneback": lambda: cv2.FarnebackOpticalFlow_create(3, 0.5, winSize=15, numIters=3, polyN=5, polySigma=1.2),
    # what the published I3D weights were trained on; about 70 times slower than DIS medium. OpenCV's pyramid for it
    # ends at 0.4 of the size: 12 px per frame are followed with an error of half a pixel
    "tvl1": lambda: cv2.optflow.DualTVL1OpticalFlow_create(),
}


class OpticalFlowComputer:
    """Dense optical flow by one of `METHODS`; one object serves any number of clips, in one thread."""

    def __init__(self, method: str = "dis_medium"):
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
        self.method = method
        self._engine = METHODS[method]()

    def pair(self, gray0: np.ndarray, gray1: np.ndarray) -> np.ndarray:
        """Flow from one grey uint8 image (H, W) to the next: float32 (H, W, 2), pixels."""
        return self._engine.calc(gray0, gray1, None)

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
    scaled = np.empty((*flow.shape[:-3], size_px, size_px, 2), np.float32)
    for field, out in zip(flow.reshape(-1, side, side, 2), scaled.reshape(-1, size_px, size_px, 2), strict=True):
        cv2.resize(field, (size_px, size_px), dst=out, interpolation=how)
    scaled *= np.float32(size_px / side)
    return scaled


def normalise_flow(flow: np.ndarray, clip_px: float = 20.0) -> np.ndarray:
    """Truncate flow in pixels to +-clip_px and divide by it: float32 in [-1, 1]. I3D's training used 20 px."""
    if clip_px <= 0:
        raise ValueError(f"clip_px must be above 0, got {clip_px}.")
    return (np.clip(flow, -clip_px, clip_px) / clip_px).astype(np.float32, copy=False)


@dataclass(frozen=True)
class FlowFile:
    """The flow of one clip as it is stored; `file[i]` or `file[i:k]`: float32 ([n,] H, W, 2), pixels per frame.

    Attributes:
        codes: int16 (n, H, W, 2), steps of `STEP_PX` as differences from row to row, which take half the bytes.
        t_s: float64 (n,), when each field's first frame is shown, in seconds.
        fps: Frames per second that "per frame" means.
        method: How it was computed, one of `METHODS` or another name.
        clip_px: Longer components were cut to +-this.
    """

    codes: np.ndarray
    t_s: np.ndarray
    fps: float
    method: str
    clip_px: float

    @property
    def flow(self) -> np.ndarray:
        """All fields: float32 (n, H, W, 2), pixels per frame."""
        return self[:]

    def __getitem__(self, places: int | slice) -> np.ndarray:
        return np.cumsum(self.codes[places], axis=-3, dtype=np.int16) * np.float32(STEP_PX)


def write_flow(
    path: str | Path, flow: np.ndarray, t_s: np.ndarray, fps: float, method: str, clip_px: float = 20.0
) -> None:
    """Write the flow of one clip, cut to +-clip_px and rounded to whole steps; atomic, no pickle.

    `flow`: finite decimal numbers (n, H, W, 2), n >= 1, pixels per frame. `t_s`, `fps`, `method`: see `FlowFile`; `t_s`
    ascends. `clip_px`: largest component kept, at most 511.98; I3D was trained on 20 px. ValueError: one is otherwise.
    """
    flow, t_s = np.asarray(flow), np.asarray(t_s, np.float64)
    numbers = flow.dtype.kind == "f" and flow.shape[3:] == (2,) and flow.size > 0
    right = {
        "flow must be finite decimal numbers (n, H, W, 2)": numbers and np.isfinite(flow).all(),
        "t_s must ascend, one for each field of flow": t_s.shape == flow.shape[:1] and np.all(np.diff(t_s) > 0),
        f"fps and clip_px must be above 0, clip_px at most {MOST_PX:g}": fps > 0 and 0 < clip_px <= MOST_PX,
    }
    for rule, holds in right.items():
        if not holds:
            got = f"{flow.dtype} {flow.shape}, {t_s.shape}, fps {fps}, clip_px {clip_px}"
            raise ValueError(f"{rule}, got {got}. Compute the flow again.")
    codes = np.round(np.clip(flow.astype(np.float32, copy=False), -clip_px, clip_px) / STEP_PX).astype(np.int16)
    clamped_share = float((np.abs(flow) > clip_px).mean())  # this and the rest are for readers without this package
    about = {"fps": float(fps), "method": method, "clip_px": float(clip_px), "clamped_share": clamped_share}
    differences = np.diff(codes, axis=1, prepend=np.int16(0))  # 16-bit numbers wrap around, and back
    write_arrays(path, codes=differences, shape=codes.shape, t_s=t_s, quantum_px=STEP_PX, **about)


def read_flow(path: str | Path) -> FlowFile:
    """Read a file of `write_flow`; ValueError for another one."""
    arrays = read_arrays(path)
    try:
        file = FlowFile(arrays["codes"], arrays["t_s"], *(arrays[key].item() for key in ("fps", "method", "clip_px")))
        if (file.codes.dtype, file.codes.ndim, file.t_s.shape) != (np.int16, 4, file.codes.shape[:1]):
            raise ValueError(f"codes {file.codes.dtype} {file.codes.shape} and t_s {file.t_s.shape}")
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is no flow file, or a damaged one: {error}. Write it with write_flow.") from None
    return file
