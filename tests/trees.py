"""Trees of face pictures and of flow as the source project stores them, good ones and bad ones; tables of clips."""

import cv2
import numpy as np
import pandas as pd
from PIL import Image

SIDE = 32


def table_of(keys, suffix: str = ".mp4") -> pd.DataFrame:
    """Clips as `helpers.clips.find_clips` gives them."""
    keys = list(keys)
    return pd.DataFrame({"path": [f"{key}{suffix}" for key in keys]}, index=pd.Index(keys, name="key"))


def reasons(manifest) -> dict[str, str]:
    """Why clips failed, by key."""
    return {entry["clip"]: entry["reason"] for entry in manifest["failed"] if "row" not in entry}


def face(seed: int = 0, side: int = SIDE) -> np.ndarray:
    """A smooth colour picture, RGB uint8 (side, side, 3), that JPEG keeps well."""
    corners = np.random.default_rng(seed).integers(40, 216, (3, 3, 3)).astype(np.uint8)
    return cv2.resize(corners, (side, side), interpolation=cv2.INTER_CUBIC)


def write_faces(folder, numbers, name="face_{:06d}.jpg", side=SIDE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(face(number, side)).save(folder / name.format(number), quality=95)


def cut_off(path, n_bytes: int) -> None:
    Image.fromarray(face()).save(path, quality=95)
    path.write_bytes(path.read_bytes()[:-n_bytes])


def as_mode(mode, pixels=None):
    return lambda path: Image.fromarray(face() if pixels is None else pixels).convert(mode).save(path)


def deep(pixels: np.ndarray):
    return lambda path: cv2.imwrite(str(path), pixels.astype(np.uint16) * 257)


BAD_PICTURES = {  # file, what writes it, the reason
    "face_000100.jpg": (lambda path: path.touch(), "empty (0 bytes)"),
    "face_000101.jpg": (lambda path: path.write_text("no picture\n"), "unreadable (cannot identify image file"),
    "face_000102.jpg": (lambda path: cut_off(path, 40), "unreadable (image file is truncated"),
    "face_000103.png": (lambda path: cut_off(path, 900), "unreadable ("),
    "face_000104.jpg": (as_mode("RGB", face()[1:]), "32x31 px RGB, not 32x32 px RGB of 8 bits"),
    "face_000105.jpg": (as_mode("L"), "32x32 px L, not"),
    "face_000106.png": (as_mode("RGBA"), "32x32 px RGBA, not"),
    "face_000107.jpg": (as_mode("CMYK"), "32x32 px CMYK, not"),
    "face_000108.png": (as_mode("P"), "32x32 px P, not"),
    "face_000109.png": (deep(face()[..., 0]), "32x32 px I;16 of 16 bits, not"),
    "face_000110.png": (deep(face()), "32x32 px RGB of 16 bits, not"),
}


def some_flow(n: int = 3, height: int = 11, width: int = 13, sd_px: float = 4.0) -> np.ndarray:
    return np.random.default_rng(2).normal(0, sd_px, (n, height, width, 2)).astype(np.float32)


def write_pairs(folder, flow: np.ndarray, first: int = 0, digits: int = 4) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, field in enumerate(flow, first):
        np.save(folder / f"flow_{i:0{digits}d}_{i + 1:0{digits}d}.npy", field)
