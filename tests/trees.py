"""Trees of face pictures and of flow as the source project stores them, good ones and bad ones."""

import cv2
import numpy as np
from PIL import Image

SIDE = 32


def face(seed: int = 0, side: int = SIDE) -> np.ndarray:
    """A smooth colour picture, RGB uint8 (side, side, 3), that JPEG keeps well."""
    corners = np.random.default_rng(seed).integers(40, 216, (3, 3, 3)).astype(np.uint8)
    return cv2.resize(corners, (side, side), interpolation=cv2.INTER_CUBIC)


def write_faces(folder, numbers, name="face_{:06d}.jpg", side=SIDE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(face(number, side)).save(folder / name.format(number), quality=95)


def write_bad_pictures(folder) -> None:
    """One file of every bad kind, numbered from 100: see `KINDS`."""
    rgb = Image.fromarray(face())
    paths = {kind: folder / f"face_{number:06d}" for number, kind in enumerate(KINDS, 100)}
    paths["empty"].with_suffix(".jpg").touch()
    paths["text"].with_suffix(".jpg").write_text("no picture\n")
    rgb.save(paths["cut"].with_suffix(".jpg"), quality=95)
    whole = paths["cut"].with_suffix(".jpg").read_bytes()
    paths["cut"].with_suffix(".jpg").write_bytes(whole[:-40])
    rgb.save(paths["cut png"].with_suffix(".png"))
    whole = paths["cut png"].with_suffix(".png").read_bytes()
    paths["cut png"].with_suffix(".png").write_bytes(whole[: len(whole) // 2])
    rgb.resize((SIDE, SIDE - 1)).save(paths["size"].with_suffix(".jpg"))
    rgb.convert("L").save(paths["grey"].with_suffix(".jpg"))
    rgb.convert("RGBA").save(paths["alpha"].with_suffix(".png"))
    rgb.convert("CMYK").save(paths["cmyk"].with_suffix(".jpg"))
    rgb.convert("P").save(paths["palette"].with_suffix(".png"))
    cv2.imwrite(str(paths["deep grey"].with_suffix(".png")), face()[..., 0].astype(np.uint16) * 257)
    cv2.imwrite(str(paths["deep"].with_suffix(".png")), face().astype(np.uint16) * 257)


KINDS = {
    "empty": "face_000100.jpg: empty (0 bytes)",
    "text": "face_000101.jpg: unreadable (cannot identify image file 'face_000101.jpg')",
    "cut": "face_000102.jpg: unreadable (image file is truncated",
    "cut png": "face_000103.png: unreadable (",
    "size": "face_000104.jpg: 32x31 px RGB, not 32x32 px RGB of 8 bits like the others",
    "grey": "face_000105.jpg: 32x32 px L, not",
    "alpha": "face_000106.png: 32x32 px RGBA, not",
    "cmyk": "face_000107.jpg: 32x32 px CMYK, not",
    "palette": "face_000108.png: 32x32 px P, not",
    "deep grey": "face_000109.png: 32x32 px I;16 of 16 bits, not",
    "deep": "face_000110.png: 32x32 px RGB of 16 bits, not",
}


def some_flow(n: int = 3, height: int = 11, width: int = 13, sd_px: float = 4.0) -> np.ndarray:
    return np.random.default_rng(2).normal(0, sd_px, (n, height, width, 2)).astype(np.float32)


def write_pairs(folder, flow: np.ndarray, first: int = 0, digits: int = 4) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, field in enumerate(flow, first):
        np.save(folder / f"flow_{i:0{digits}d}_{i + 1:0{digits}d}.npy", field)
