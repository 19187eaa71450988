"""Optical flow between neighbouring frames, its resizing, normalising and colouring.

In: RGB uint8 frames (T, H, W, 3). Out: flow float32 (T-1, H, W, 2), (dx, dy) in pixels per frame; dx > 0 moves right,
dy > 0 moves down. "Per frame" means from one of the given frames to the next: at half the rate the same movement is
twice as many pixels, so flow goes with the rate (fps) at which its frames were taken.
"""

import logging
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from helpers.clips import natural_order
from helpers.store import read_arrays, write_arrays

log = logging.getLogger(__name__)


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


DTYPES = ("uint8", "int16", "float16", "float32")
INT16_STEP_PX = 1 / 64  # the step of the KITTI flow benchmark's files
UINT8_ZERO, UINT8_STEPS = 128, 127  # code of no motion, and steps from there to clip_px: no motion stays exactly zero
PAIR = re.compile(r"flow_(\d+)_(\d+)\.npy")
FIELDS = ("codes", "t_s", "fps", "method", "clip_px", "quantum_px", "clamped_share")


@dataclass(frozen=True)
class FlowFile:
    """The flow of one clip: `flow (n, H, W, 2) float32` in pixels per frame, `t_s (n,)` when each field's first frame
    is shown, in seconds.

    `fps`: frames per second that "per frame" means. `method`: how it was computed, see `helpers.flow.METHODS`.
    `clip_px`: longer components were cut to +-this. `quantum_px`: step between stored values, 0 for float32; within
    the range no value is wrong by more than half of it. `clamped_share`: share of the values that were cut.
    """

    flow: np.ndarray
    t_s: np.ndarray
    fps: float
    method: str
    clip_px: float
    quantum_px: float
    clamped_share: float


def write_flow(
    path: str | Path,
    flow: np.ndarray,
    t_s: np.ndarray,
    fps: float,
    method: str,
    clip_px: float = 20.0,
    dtype: str = "int16",
) -> None:
    """Write the flow of one clip, cut to +-clip_px and rounded to what `dtype` can hold; atomic, no pickle.

    Args:
        path: The npz file.
        flow: (n, H, W, 2), n >= 1, pixels per frame, finite.
        t_s: Seconds of each field's first frame, ascending, (n,).
        fps: Frames per second between which the flow is.
        method: One of `helpers.flow.METHODS`, or another name for flow from elsewhere.
        clip_px: Largest component kept. 20 px is what I3D was trained on.
        dtype: "uint8" (127 steps to clip_px on either side), "int16" (steps of 1/64 px), "float16" or "float32".
    """
    flow, t_s = checked_flow(flow, "flow"), np.asarray(t_s, np.float64)
    if t_s.shape != (len(flow),) or np.any(np.diff(t_s) <= 0):
        raise ValueError(f"t_s must ascend and have shape ({len(flow)},) like flow, got {t_s.shape}.")
    if not (fps > 0 and method):
        raise ValueError(f"fps must be above 0 and method a name, got {fps} and {method!r}. Say what the flow is.")
    step_px = quantum(dtype, clip_px)
    write_arrays(
        path,
        codes=_coded(np.clip(flow, -clip_px, clip_px), dtype, step_px),
        t_s=t_s,
        fps=float(fps),
        method=method,
        clip_px=float(clip_px),
        quantum_px=step_px,
        clamped_share=float((np.abs(flow) > clip_px).mean()),
    )


def quantum(dtype: str, clip_px: float) -> float:
    """Step between neighbouring stored values in pixels, for float16 the largest; half of it is the largest error."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    most = {"uint8": np.inf, "int16": np.iinfo(np.int16).max * INT16_STEP_PX, "float16": 1e4, "float32": np.inf}[dtype]
    if not 0 < clip_px <= most:
        raise ValueError(f"clip_px must be above 0 and at most {most:g} for {dtype}, got {clip_px}.")
    # float16's steps grow with the value; below clip_px they are those of the largest value in range
    widest = float(np.spacing(np.nextafter(np.float16(clip_px), np.float16(0))))
    return {"uint8": clip_px / UINT8_STEPS, "int16": INT16_STEP_PX, "float16": widest, "float32": 0.0}[dtype]


def _coded(flow: np.ndarray, dtype: str, step_px: float) -> np.ndarray:
    """What is stored, (n, 2, H, W): whole numbers as differences from row to row, which compress a quarter better."""
    planes = np.moveaxis(flow, -1, 1)
    if dtype.startswith("float"):
        return planes.astype(dtype)
    zero = UINT8_ZERO if dtype == "uint8" else 0
    codes = (np.round(planes / step_px) + zero).astype(dtype)
    return np.diff(codes, axis=2, prepend=codes.dtype.type(0))  # unsigned and 16-bit numbers wrap around, and back


def _decoded(codes: np.ndarray, step_px: float) -> np.ndarray:
    """Flow float32 (n, H, W, 2) from what `_coded` made."""
    if codes.dtype.kind == "f":
        return np.ascontiguousarray(np.moveaxis(codes, 1, -1), dtype=np.float32)
    codes = codes.copy()
    for row in range(1, codes.shape[2]):  # a running sum; np.cumsum along this axis takes four times as long
        codes[:, :, row] += codes[:, :, row - 1]
    flow = np.empty((*codes[:, 0].shape, 2), np.float32)
    for k in range(2):
        np.subtract(codes[:, k], np.float32(UINT8_ZERO if codes.dtype == np.uint8 else 0), out=flow[..., k])
    flow *= np.float32(step_px)
    return flow


def read_flow(path: str | Path) -> FlowFile:
    """Read a file of `write_flow`; a damaged one, or another kind of file, is a ValueError that names it."""
    fields, about = open_flow(path)
    return FlowFile(fields(0, None), **about)


def open_flow(path: str | Path) -> tuple[Callable[[int, int | None], np.ndarray], dict[str, Any]]:
    """Read a file of `write_flow`, and decode its fields later: they take twice to four times the memory.

    Returns:
        From first and end to the flow float32 (end - first, H, W, 2) between them, and what else `FlowFile` says.

    Raises:
        ValueError: As for `read_flow`, here or where a field is decoded.
    """
    arrays = read_arrays(path)
    if arrays.keys() != set(FIELDS):
        raise ValueError(f"{path} is not a flow file: it holds {', '.join(sorted(arrays))}. Write it with write_flow.")
    codes = arrays["codes"]
    if codes.dtype.name not in DTYPES or codes.ndim != 4 or codes.shape[1] != 2:
        raise ValueError(
            f"{path}: codes must have shape (n, 2, H, W), got {codes.shape} {codes.dtype}. Write it again."
        )
    if any(arrays[name].size != 1 for name in FIELDS[2:]) or arrays["t_s"].shape != (len(codes),):
        raise ValueError(f"{path}: t_s must be one per field, {len(codes)}, got {arrays['t_s'].shape}. Write it again.")
    about = {name: arrays[name].item() for name in FIELDS[2:]}

    def fields(first: int, end: int | None) -> np.ndarray:
        return checked_flow(_decoded(codes[first:end], about["quantum_px"]), str(path), first)

    return fields, about | {"t_s": arrays["t_s"]}


def flow_shape(path: str | Path) -> tuple[int, int, int, int]:
    """Shape (n, H, W, 2) of a file of `write_flow`, by its header alone; ValueError where it has none."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("codes.npy") as codes:
            np.lib.format.read_magic(codes)
            (n, components, height, width), *_ = np.lib.format.read_array_header_1_0(codes)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a flow file ({error}). Write it with write_flow.") from None
    return n, height, width, components


def read_flow_array(path: str | Path) -> np.ndarray:
    """Read a plain npy array of flow (T, H, W, 2), or one field (H, W, 2): float32 (T, H, W, 2)."""
    array = _loaded(path)
    return checked_flow(array[None] if array.ndim == 3 else array, str(path))


def read_flow_tree(folder: str | Path, gaps: str = "error") -> tuple[np.ndarray, np.ndarray]:
    """Read the flow of a clip from one file per pair of faces, `flow_0000_0001.npy`, `flow_0001_0002.npy`, ...

    The source project computed them by Farneback between faces of every 5th frame: 30 fps clips make them pixels per
    1/6 s.

    Args:
        folder: The clip's folder; files of other names in it are passed over.
        gaps: "error" refuses a folder in which a pair is missing; "zero" puts no motion there and says so in the mask.

    Returns:
        Flow float32 (T, H, W, 2) in the order of the numbers, and bool (T,), False where a pair was missing.

    Raises:
        ValueError: a missing pair by name; a field with NaN or of another shape than the first, by file and reason.
    """
    if gaps not in ("error", "zero"):
        raise ValueError(f"gaps must be 'error' or 'zero', got {gaps!r}.")
    files, first = pair_files(folder), None
    fields = []
    for name, path in files.items():
        if path is None and gaps == "error":
            raise ValueError(f"{folder}: {name} is missing. Copy it again, or read the folder with gaps='zero'.")
        field = None if path is None else _field(path, first)
        first = field if first is None else first
        fields.append(field)
    flow = np.stack([np.zeros_like(first) if field is None else field for field in fields])
    return flow, np.array([path is not None for path in files.values()])


def pair_files(folder: str | Path) -> dict[str, Path | None]:
    """The files of pairs in a folder by name, in the order of their numbers; None for a pair that is missing.

    Numbers start at 0 as in the source project, or at 1 where there is no 0: a higher start means missing pairs. What
    is missing after the last file cannot be known.
    """
    found = {}
    for path in sorted(Path(folder).iterdir(), key=lambda path: natural_order(path.name)):
        if match := PAIR.fullmatch(path.name):
            first, second = int(match[1]), int(match[2])
            if second != first + 1 or first in found:
                raise ValueError(f"{path} must be the one pair of {first} and {first + 1}. Number faces without gaps.")
            found[first] = path
    if not found:
        raise ValueError(f"{folder} must hold files like flow_0000_0001.npy, got none.")
    digits = len(PAIR.fullmatch(found[min(found)].name)[1])
    numbers = range(0 if min(found) != 1 else 1, max(found) + 1)
    return {f"flow_{i:0{digits}d}_{i + 1:0{digits}d}.npy": found.get(i) for i in numbers}


def _field(path: Path, like: np.ndarray | None) -> np.ndarray:
    """One field, float32 (H, W, 2), of the same shape as another."""
    array = _loaded(path)
    if array.ndim != 3:
        raise ValueError(f"{path}: flow must have shape (H, W, 2), got {array.shape}. One file holds one pair.")
    field = checked_flow(array[None], str(path))[0]
    if like is not None and field.shape != like.shape:
        raise ValueError(f"{path}: flow must have shape {like.shape} as in the first file, got {field.shape}.")
    return field


def _loaded(path: str | Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is not an array of numbers ({error}). Copy or compute it again.") from None


def checked_flow(flow: np.ndarray, name: str, first: int = 0) -> np.ndarray:
    """Flow as float32, or a ValueError that begins with `name`: not (n, H, W, 2), not decimal numbers, not finite.

    `first` is the number of the first field, in what is said.
    """
    flow = np.asarray(flow)
    if flow.ndim != 4 or flow.shape[-1] != 2 or 0 in flow.shape:
        raise ValueError(
            f"{name}: flow must have shape (n, H, W, 2), n at least 1, got {flow.shape}. Put (dx, dy) last."
        )
    if flow.dtype.kind != "f":
        raise ValueError(f"{name}: flow must be decimal numbers in pixels, got {flow.dtype}. Pictures are no flow.")
    finite = np.isfinite(flow).all(axis=(1, 2, 3))
    if not finite.all():
        raise ValueError(
            f"{name}: flow must be finite, got NaN or infinity in field {first + finite.argmin()}. Compute it again."
        )
    return flow.astype(np.float32, copy=False)


TRIMS = ("start", "centre")


@dataclass(frozen=True)
class FlowBatch:
    """`flow (B, T, S, S, 2) float32` in [-1, 1]; `mask (B, T) bool`, False where a field is padding or was missing;
    `keys`, B of them.
    """

    flow: np.ndarray
    mask: np.ndarray
    keys: tuple[str, ...]


@dataclass(frozen=True)
class _Stored:
    """What a file or tree holds: flow (T, H, W, 2), which fields are real (T,), and how it was made."""

    flow: np.ndarray
    real: np.ndarray
    made: str


class OpticalFlowSequenceLoader:
    """Reads, resizes, pads or trims and batches the stored flow of clips.

    A key is a path below the folder without suffix: of a file (`training80_01/id.003.npz`, `.npy`), or of a folder of
    `flow_0000_0001.npy`, ... For a list, it is the path below the folder that all of them share. `keys` lists them in
    natural order.
    """

    def __init__(
        self,
        source: str | Path | Sequence[str | Path],
        *,
        clip_px: float = 20.0,
        gaps: str = "error",
        trim: str = "start",
        repeat_single: bool = False,
    ):
        """Find the clips; nothing is read yet.

        Args:
            source: A folder, searched to any depth, or a list of files and of folders of pairs.
            clip_px: Batches are cut to +-this after resizing, and divided by it. 20 px is I3D's training range.
            gaps: "error" or "zero", see `helpers.flow.read_flow_tree`; zeros are masked in batches.
            trim: Which part of a long sequence stays: "start" (field i is the i-th of the clip, as in the features of
                04) or "centre".
            repeat_single: Repeat the field of an input that has one field only, as the source project did for all.
                Off, it is padded like any other short input: a repeated field is a motion that nobody made.
        """
        for name, value, legal in (("gaps", gaps, ("error", "zero")), ("trim", trim, TRIMS)):
            if value not in legal:
                raise ValueError(f"{name} must be one of {', '.join(legal)}, got {value!r}.")
        if clip_px <= 0:
            raise ValueError(f"clip_px must be above 0, got {clip_px}.")
        self._paths = flow_in_folder(source) if isinstance(source, str | Path) else _of_list(source)
        self.clip_px, self.gaps, self.trim, self.repeat_single = clip_px, gaps, trim, repeat_single

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self._paths)

    def missing(self, key: str) -> list[str]:
        """Names of the pairs that a tree lacks; empty for files, which hold all fields."""
        path = self._path(key)
        return [name for name, file in pair_files(path).items() if file is None] if path.is_dir() else []

    def load(self, key: str) -> np.ndarray:
        """All flow of a clip as stored: float32 (T, H, W, 2), pixels per frame at the rate it was computed at.

        Raises:
            ValueError: NaN, a wrong shape or a missing pair, with the file and the reason.
        """
        return self._read(key).flow

    def resize(self, flow: np.ndarray, size_px: int) -> np.ndarray:
        """Scale flow (T, S, S, 2) to another side, u and v with it: see `helpers.flow.resize_flow`."""
        return flow if flow.shape[-2] == flow.shape[-3] == size_px else resize_flow(flow, size_px)

    def pad_or_trim(self, flow: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Bring flow (T, ...) to (length, ...): a long one is trimmed by `trim`, a short one gets no motion behind.

        Returns:
            The flow, and bool (length,), True where a field is the input's.
        """
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}.")
        if len(flow) == 1 and self.repeat_single:
            return np.repeat(flow, length, axis=0), np.ones(length, bool)
        first = max(0, len(flow) - length) // 2 if self.trim == "centre" else 0
        kept = flow[first : first + length]
        padding = np.zeros((length - len(kept), *flow.shape[1:]), flow.dtype)
        return np.concatenate([kept, padding]), np.arange(length) < len(kept)

    def batches(self, keys: Sequence[str], *, batch_size: int, length: int, size_px: int) -> Iterator[FlowBatch]:
        """Yield batches of clips in the given order; the last one may hold fewer.

        Args:
            keys: Which clips, e.g. `loader.keys`.
            batch_size: Clips in a batch.
            length: Fields per clip.
            size_px: Side of a field.

        Raises:
            ValueError: as `load`; and for flow of another method or rate than the first clip's, which is another
                distribution: a network would learn the difference between files.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        made = None
        for start in range(0, len(keys), batch_size):
            chosen = tuple(keys[start : start + batch_size])
            flow = np.zeros((len(chosen), length, size_px, size_px, 2), np.float32)
            mask = np.zeros((len(chosen), length), bool)
            for i, key in enumerate(chosen):
                stored = self._read(key)
                made = made or stored.made
                if stored.made != made:
                    raise ValueError(f"{key} holds {stored.made}, {keys[0]} {made}. Batch them apart: they differ.")
                flow[i], mask[i] = self._row(key, stored, length, size_px)
            yield FlowBatch(flow, mask, chosen)

    def _row(self, key: str, stored: _Stored, length: int, size_px: int) -> tuple[np.ndarray, np.ndarray]:
        """One clip of a batch, (length, S, S, 2) in [-1, 1], and its mask."""
        flow, mask = self.pad_or_trim(stored.flow, length)
        real, _ = self.pad_or_trim(stored.real, length)
        try:
            return normalise_flow(self.resize(flow, size_px), self.clip_px), mask & real
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None

    def _path(self, key: str) -> Path:
        if key not in self._paths:
            first = ", ".join(self.keys[:3])
            raise ValueError(f"key must be one of the {len(self.keys)} clips ({first}, ...), got {key!r}. See keys.")
        return self._paths[key]

    def _read(self, key: str) -> _Stored:
        path = self._path(key)
        if path.is_dir():
            flow, real = read_flow_tree(path, self.gaps)
            if not real.all():
                log.warning("%s: %d of %d pairs are missing and count as no motion", key, (~real).sum(), len(real))
            return _Stored(flow, real, "pairs of the source project, of unknown rate")
        if path.suffix == ".npy":
            flow = read_flow_array(path)
            return _Stored(flow, np.ones(len(flow), bool), "an array of unknown method and rate")
        file = read_flow(path)
        if file.clamped_share and file.clip_px < self.clip_px:
            log.warning("%s: %.2g of its values were cut at %g px", key, file.clamped_share, file.clip_px)
        return _Stored(file.flow, np.ones(len(file.flow), bool), f"{file.method} at {file.fps:g} fps")


def flow_in_folder(source: str | Path) -> dict[str, Path]:
    """Key and path of every clip below a folder, in natural order; for a file, of that file."""
    source = Path(source)
    if source.is_file():
        return _of_list([source])
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is missing. Store flow there with helpers.flow.write_flow.")
    found = []
    for folder, _, names in os.walk(source):
        if any(PAIR.fullmatch(name) for name in names):
            found.append(Path(folder))
        else:
            found += [Path(folder, n) for n in names if n.endswith((".npz", ".npy")) and not n.startswith(".")]
    return _keyed(found, source.parent if found == [source] else source)


def _of_list(paths: Sequence[str | Path]) -> dict[str, Path]:
    paths = [Path(path).absolute() for path in paths]
    if missing := [path for path in paths if not path.exists()]:
        raise FileNotFoundError(f"{missing[0]} is missing, and {len(missing) - 1} more. Leave them out or copy them.")
    return _keyed(paths, Path(os.path.commonpath([path.parent for path in paths])) if paths else Path())


def _keyed(paths: list[Path], below: Path) -> dict[str, Path]:
    """Paths by key. A folder's name keeps its last dot: `id.003` is a clip, not a suffix."""
    found: dict[str, Path] = {}
    for path in paths:
        name = path.relative_to(below)
        key = (name if path.is_dir() else name.with_suffix("")).as_posix()
        if key in found:
            raise ValueError(f"{key} must be stored once, got {found[key]} and {path}. Delete or leave out one.")
        found[key] = path
    if not found:
        raise ValueError(f"{below} must hold flow (npz, npy, or folders of flow_0000_0001.npy), got none.")
    return dict(sorted(found.items(), key=lambda item: natural_order(item[0])))
