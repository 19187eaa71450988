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

from helpers.store import open_arrays, write_arrays

STEP_PX = 1 / 64  # between stored values, as in the files of the KITTI flow benchmark
MOST_PX = np.iinfo(np.int16).max * STEP_PX  # 511.98


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
    """The flow of one clip as it is stored.

    Attributes:
        codes: int16 (n, H, W, 2), steps of `quantum_px` as differences from row to row, which take half the bytes.
        shape: (4,), that of `codes`, to be read without them.
        t_s: float64 (n,), when each field's first frame is shown, in seconds.
        fps: Frames per second that "per frame" means.
        method: How it was computed, one of `METHODS` or another name.
        clip_px, clamped_share: Longer components were cut to +-this, and the share of the values that were.
    """

    codes: np.ndarray
    shape: np.ndarray
    t_s: np.ndarray
    fps: float
    method: str
    clip_px: float
    quantum_px: float
    clamped_share: float

    @property
    def flow(self) -> np.ndarray:
        """All fields: float32 (n, H, W, 2), pixels per frame."""
        return self.fields(slice(None))

    def fields(self, places: int | slice) -> np.ndarray:
        """One or some fields: float32 ([k,] H, W, 2), pixels per frame."""
        return np.cumsum(self.codes[places], axis=-3, dtype=np.int16) * np.float32(self.quantum_px)


def write_flow(
    path: str | Path, flow: np.ndarray, t_s: np.ndarray, fps: float, method: str, clip_px: float = 20.0
) -> None:
    """Write the flow of one clip, cut to +-clip_px and rounded to whole steps; atomic, no pickle.

    Args:
        path: The npz file.
        flow: Decimal numbers (n, H, W, 2), n >= 1, pixels per frame, finite.
        t_s: Seconds of each field's first frame, ascending, (n,).
        fps: Frames per second between which the flow is.
        method: One of `METHODS`, or another name for flow that was not computed here.
        clip_px: Largest component kept, at most 511.98. 20 px is what I3D was trained on.
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
    about = {"fps": float(fps), "method": method, "clip_px": float(clip_px), "quantum_px": STEP_PX}
    clamped_share = float((np.abs(flow) > clip_px).mean())
    codes = np.diff(codes, axis=1, prepend=np.int16(0))  # 16-bit numbers wrap around, and back
    write_arrays(path, codes=codes, shape=codes.shape, t_s=t_s, **about, clamped_share=clamped_share)


def read_flow(path: str | Path, *, fields: bool = True) -> FlowFile:
    """Read a file of `write_flow`, without `fields` its `codes` as an empty array, fast; ValueError for another one."""
    names = FlowFile.__dataclass_fields__.keys()
    with open_arrays(path) as file:
        found = set(file.files)
        arrays = {name: file[name] for name in names & found if fields or name != "codes"}
    if found != names:
        raise ValueError(f"{path} is no flow file: it holds {', '.join(sorted(found))}. Write it with write_flow.")
    codes, shape, t_s = arrays.pop("codes", np.empty(0)), arrays.pop("shape"), arrays.pop("t_s")
    whole = not fields or (codes.dtype == np.int16 and codes.shape == tuple(shape))
    whole &= shape.shape == (4,) and t_s.shape == tuple(shape[:1]) and arrays["fps"].dtype.kind == "f"
    if not whole or any(value.size != 1 for value in arrays.values()):
        got = f"{codes.dtype} {codes.shape}, {shape} and {t_s.shape}"
        raise ValueError(f"{path}: codes must be int16 (n, H, W, 2) and t_s (n,), got {got}. Write it again.")
    return FlowFile(codes, shape, t_s, **{name: value.item() for name, value in arrays.items()})
