"""Flow on disk: our compact files, the source project's trees of one field per file, and plain arrays.

In and out: flow float32 (n, H, W, 2), (dx, dy) in pixels per frame. Our file is an npz with whole numbers of a small
step, so that it compresses to a few per cent of float32 and says itself how exact it is. For a face of a real clip at
224 px (224x224x2 values, DIS medium, 24 fps), bytes per field and largest error of a value within +-20 px:

    uint8      5,700 B   0.079 px    movement below 0.079 px becomes zero: a third of the values of that face
    int16     23,200 B   0.0078 px   the default: far below the error of any flow method
    float16  170,000 B   0.0078 px   exact to 0.05 %, so finer for small movement
    float32  364,000 B   0
"""

import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.clips import natural_order
from helpers.store import read_arrays, write_arrays

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
