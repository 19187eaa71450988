"""What the network is shown of a labelled clip (08): whole frames in many views, made of one decoding.

Views are seeded copies to train on and to test with, and corrupted copies that show robustness. What is random for one
depends on seed, key and its name alone. Names: "plain"; "view01", … for training; "tta01", … gentler, for testing; a
corruption; "noise_tta01", …, a corrupted clip in the view of that number. Nothing here imports a network, so that
decoder processes start quickly.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np

from helpers.config import ClassificationConfig
from helpers.container import VideoError
from helpers.rows import CROPS_PER_CHUNK, Chunk, Clock, batches_of
from helpers.video import read_frames, uniform_indices

ARRAY_FILES = ("processed_data.npz", "processed_data.npy", "processed_data.pt")  # S2's last kind is refused by name
PLAIN = "plain"
RANGES = {  # of what is random: how many times as fast, side of the part that is shown, light, noise in grey levels
    PLAIN: ((1, 1), (1, 1), (1, 1), (0, 0)),
    "view": ((0.9, 1.15), (0.8, 1), (0.5, 1.4), (0, 15)),
    "tta": ((0.95, 1.05), (0.9, 1), (0.9, 1.1), (0, 0)),
}
STEP = 4  # frames are decoded so much more densely than a plain clip shows them, for speed
EXPOSURE, MOST_GAIN = 110.0, 4.0  # grey level that views for testing are brought to, by at most so much light
CORRUPTIONS = {  # of a frame RGB uint8 (S, S, 3), with a generator
    "noise": lambda frame, r: relight(frame, 1.0, 25.0, r),  # standard deviation, grey levels
    "blur": lambda frame, r: cv2.GaussianBlur(frame, (0, 0), 1 / 28 * len(frame)),  # standard deviation, of the side
    "dark": lambda frame, r: relight(frame, 0.3, 0.0, r),
}


@dataclass(frozen=True)
class FrameJob:
    """A labelled clip to be shown to a network: a video, or with `place` from 0 on one clip of an array file.

    `views` are the names of its views, `px` is the side of the network's input.
    """

    path: Path
    place: int
    key: str
    views: tuple[str, ...]
    cfg: ClassificationConfig
    backend: str
    px: int


@dataclass(frozen=True)
class ViewChunk(Chunk):
    """Neighbouring frames of one view, by its name: RGB uint8 (n, px, px, 3)."""

    view: str = PLAIN


def clip_frames(job: FrameJob) -> Iterator[ViewChunk]:
    """The frames of every view of a clip, view by view. VideoError where it cannot be decoded."""
    clock = Clock()
    with clock("decoding"):
        frames, t_s, number, decoder = _decoded(job)
    for corruption, names in groupby(job.views, lambda name: split_name(name)[0]):
        with clock("views"):
            random = (_generator(job.cfg.seed, job.key, corruption, place) for place in range(len(frames)))
            seen = np.stack([*map(CORRUPTIONS[corruption], frames, random)]) if corruption else frames
        for name in names:
            view = show_view(seen, split_name(name)[1], job)
            for batch in batches_of(clock.each("views", view), CROPS_PER_CHUNK):
                places, shown = map(np.array, zip(*batch, strict=True))
                yield ViewChunk(shown, t_s[places], number[places], decoder, spent_s=clock.read(), view=name)


def _decoded(job: FrameJob) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Frames uint8 (n, S, S, 3), evenly spread, at most `STEP` (n_frames - 1) + 1 and each once; their seconds (an
    array has no times: it counts frames), their numbers, and what decoded them.
    """
    n_dense, side = STEP * (job.cfg.n_frames - 1) + 1, (job.cfg.frame_px, job.cfg.frame_px)
    if job.place >= 0:
        clip = read_clip(job.path, job.place)
        number = np.unique(uniform_indices(len(clip), n_dense))
        frames = np.stack([cv2.resize(frame, side, interpolation=cv2.INTER_AREA) for frame in clip[number]])
        return frames, number.astype(float), number, "array"
    video = read_frames(job.path, n_frames=n_dense, size=side, backend=job.backend)
    number, first = np.unique(video.index, return_index=True)
    return video.frames[first], video.t_s[first], number, video.backend


def view_names(n_views: int, n_tta: int) -> tuple[list[str], list[str]]:
    """Names of the views for training, and of those for testing, corrupted ones included; the plain one in neither."""
    testing = [name for view in (PLAIN, *CORRUPTIONS) for name in (view, *tta_names(view, n_tta))]
    return [f"view{k:02}" for k in range(1, n_views + 1)], testing[1:]


def tta_names(view: str, n_tta: int) -> list[str]:
    """Names of the views to average over with this one: with "noise", "noise_tta01", …; with "plain", "tta01", …."""
    return [f"{view}_tta{k:02}".removeprefix(f"{PLAIN}_") for k in range(1, n_tta + 1)]


def split_name(name: str) -> tuple[str, str]:
    """Corruption, or "", and view of a name: "noise_tta01" is "noise" and "tta01"."""
    first, _, second = name.partition("_")
    return (first, second or PLAIN) if first in CORRUPTIONS else ("", name)


def show_view(frames: np.ndarray, view: str, job: FrameJob) -> Iterator[tuple[int, np.ndarray]]:
    """Show a clip in a view, at most `job.cfg.n_frames` times; a faster view has fewer rows.

    `frames` RGB uint8 (n, S, S, 3): `STEP` (n_frames - 1) + 1 evenly spread ones, or all of a shorter clip. `view`: a
    name without a corruption. Yields the place among the frames, ascending, and what is shown, uint8 (px, px, 3).
    """
    (n, size), r = frames.shape[:2], _generator(job.cfg.seed, job.key, view)
    speed, side, light, noise_sd = (r.uniform(*ends) for ends in RANGES[view.rstrip("0123456789")])
    start, x, y, turn = r.random(4)
    is_flipped = job.cfg.flip and view != PLAIN and turn < 0.5
    if view.startswith("tta"):
        light *= np.clip(EXPOSURE / max(frames[n // 2].mean(), 1.0), 1 / MOST_GAIN, MOST_GAIN)
    n_rows, kept = min(job.cfg.n_frames, n), round(side * size)
    first = start * (n - 1) * max(0.0, 1 - speed)  # a slower view leaves frames over, before and behind
    at = first + np.arange(n_rows) * speed * (n - 1) / max(n_rows - 1, 1)
    left, top = (round(share * (size - kept)) for share in (x, y))
    how = cv2.INTER_AREA if kept > job.px else cv2.INTER_LINEAR
    for place in at[at <= n - 1 + 1e-9].round().astype(int):
        part = frames[place, top : top + kept, left : left + kept]
        shown = cv2.resize(part, (job.px, job.px), interpolation=how)
        yield place, relight(shown[:, ::-1] if is_flipped else shown, light, noise_sd, r)


def _generator(seed: int, key: str, name: str, *numbers: int) -> np.random.Generator:
    return np.random.default_rng([seed, *(zlib.crc32(text.encode()) for text in (key, name)), *numbers])


def relight(frame: np.ndarray, light: float, noise_sd: float, r: np.random.Generator) -> np.ndarray:
    """A frame with so much light, and normal noise of so many grey levels; uint8."""
    values = frame * np.float32(light)
    if noise_sd:
        values += np.float32(noise_sd) * r.standard_normal(frame.shape, np.float32)
    return np.clip(values, 0, 255).astype(np.uint8)


def read_clip(path: Path, place: int) -> np.ndarray:
    """One clip of an array file, RGB uint8 (T, H, W, 3). VideoError as `open_array`."""
    clip = _held(path, path.stat().st_mtime_ns)[place]
    if clip.dtype != np.uint8:
        if not (clip.dtype.kind == "f" and clip.min() >= 0 and clip.max() <= 1):
            got = f"got {clip.dtype} from {clip.min():g} to {clip.max():g}. Undo their normalisation"
            raise VideoError(f"{path.name}: values must be uint8, or floats in [0, 1], {got}.")
        clip = np.round(clip * 255).astype(np.uint8)
    return np.ascontiguousarray(clip.transpose(0, 2, 3, 1))


def open_array(path: Path) -> np.ndarray:
    """The clips (N, T, 3, H, W) of an npy file, as a memory map, or `videos` of an npz file, in memory; VideoError."""
    try:
        if path.suffix == ".pt":
            raise ValueError("PyTorch files are not read: save its tensor by np.savez(..., videos=tensor.numpy())")
        videos = np.load(path, mmap_mode="r")
        videos = videos["videos"] if path.suffix == ".npz" else videos
        if videos.ndim != 5 or videos.shape[2] != 3 or not videos.size or videos.dtype.kind not in "uif":
            raise ValueError(f"it must be numbers of shape (N, T, 3, H, W), got {videos.dtype} {videos.shape}")
        return videos
    except Exception as error:  # damage raises nearly anything
        raise VideoError(f"{path.name}: cannot be read as an array of clips ({error}).") from None


_held = lru_cache(maxsize=1)(lambda path, changed_ns: open_array(path))  # the clips of one file follow each other
