"""Clips that lie in one array, as preprocessing tools leave them: `processed_data.npz`, `.npy` or `.pt`.

In: a file with an array (N, T, C, H, W), in an npz or pt file under the name `videos`: RGB (C = 3), uint8, or floats in
[0, 1]. Out: one clip of it at a time, frames RGB uint8 (T, H, W, 3) with their times. A pt file is read by torch where
that is installed, with nothing but tensors and plain values allowed in it; no other file can run code either.
"""

import importlib.util
import pickle
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from helpers.container import VideoError

STEM, SUFFIXES, NAME = "processed_data", (".npz", ".npy", ".pt"), "videos"
DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    TypeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
)


def is_array_file(name: str) -> bool:
    """Say whether a file is taken for an array of clips, by its name."""
    return Path(name).stem == STEM and Path(name).suffix in SUFFIXES


def count_clips(path: Path) -> int:
    """How many clips a file holds. VideoError if it is damaged or holds something else."""
    with _checked(path):
        if path.suffix == ".pt":
            return _legal(tuple(_tensor(path).shape))[0]
        with _opened(path) as file:
            return _legal(_header(file)[0])[0]


def read_clip(path: Path, place: int) -> np.ndarray:
    """One clip of a file, RGB uint8 (T, H, W, 3); no other is held in memory.

    Raises:
        VideoError: The file is damaged, or its values are of another kind.
    """
    with _checked(path):
        if path.suffix == ".pt":
            clip = _tensor(path)[place]
            clip = (clip.float() if clip.is_floating_point() else clip).numpy()  # numpy has no bfloat16
        else:
            with _opened(path) as file:
                shape, dtype = _header(file)
                n_bytes = int(np.prod(_legal(shape)[1:])) * dtype.itemsize
                file.seek(place * n_bytes, 1)
                clip = np.frombuffer(file.read(n_bytes), dtype).reshape(shape[1:])
        return _as_frames(clip)


def _as_frames(clip: np.ndarray) -> np.ndarray:
    if clip.dtype != np.uint8:
        if not (np.issubdtype(clip.dtype, np.floating) and clip.min() >= 0 and clip.max() <= 1):
            raise ValueError(
                f"values must be uint8, or floats in [0, 1], got {clip.dtype} from {clip.min():g} to {clip.max():g}. "
                "Undo their normalisation: each network has its own, and applies it itself"
            )
        clip = np.round(clip * 255).astype(np.uint8)
    return np.ascontiguousarray(clip.transpose(0, 2, 3, 1))


def _legal(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) != 5 or shape[2] != 3 or 0 in shape:
        raise ValueError(f"{NAME} must have shape (N, T, 3, H, W), got {shape}")
    return shape


@contextmanager
def _checked(path: Path) -> Iterator[None]:
    if path.suffix == ".pt" and importlib.util.find_spec("torch") is None:
        raise RuntimeError(
            f"reading {path} needs torch, which is not installed. Install it, or save the clips with "
            f"numpy.savez({STEM!r}, {NAME}=tensor.numpy())."
        )
    try:
        yield
    except DAMAGED as error:
        raise VideoError(f"{path.name}: cannot be read as an array of clips ({error}).") from None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The npy file itself, or the member `videos` of an npz file; its array is read from there as far as needed."""
    if path.suffix == ".npy":
        with open(path, "rb") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive, archive.open(f"{NAME}.npy") as file:
        yield file


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array; `file` then stands at its first value."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    if fortran_order or dtype.hasobject:
        raise ValueError(f"{NAME} must be numbers in C order, got {dtype}{' in Fortran order' * fortran_order}")
    return shape, dtype


def _tensor(path: Path) -> Any:
    """The tensor of a pt file, by itself or under the name `videos`; of newer files only what is used is read."""
    import torch

    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:  # whose text says how to run the code in such a file
        raise ValueError("it holds code or objects, not only tensors and plain values; nothing of it was run") from None
    found = data.get(NAME) if isinstance(data, dict) else data
    if not isinstance(found, torch.Tensor):
        held = f"dict {list(data)}" if isinstance(data, dict) and NAME not in data else type(found).__name__
        raise ValueError(f"it must hold a tensor, by itself or in a dict under the name {NAME!r}, got {held}")
    return found
