"""What the network is shown of a labelled clip (08): whole frames in many views, made of one decoding.

Views are seeded copies to train on (J7) and to test with (J8), and corrupted copies that show robustness. What is
random for one depends on seed, key and its name alone, never on order or on other views. Names: "plain"; "view01", …
for training; "tta01", … gentler, for testing; a corruption; and "noise_tta01", …, a corrupted clip in the view of that
number. S3 names the kinds only: flips, crops, light, noise, speed; how strong they are is chosen here. Nothing here
imports a network, so that decoder processes start quickly.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO

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
CORRUPTIONS = ("noise", "blur", "dark")
NOISE_SD = 25.0  # grey levels
BLUR = 1 / 28  # standard deviation, of the side
DARK = 0.3  # of the light


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
    """The frames of every view of a clip, view by view. VideoError where it cannot be decoded.

    At most `STEP` (n_frames - 1) + 1 of its frames are held, evenly spread; of a shorter clip each once. An array has
    no times: its seconds count frames.
    """
    clock, side = Clock(), (job.cfg.frame_px, job.cfg.frame_px)
    n_dense = STEP * (job.cfg.n_frames - 1) + 1
    with clock("decoding"):
        if job.place >= 0:
            clip, decoder = read_clip(job.path, job.place), "array"
            number = np.unique(uniform_indices(len(clip), n_dense))
            frames = np.stack([cv2.resize(frame, side, interpolation=cv2.INTER_AREA) for frame in clip[number]])
            t_s = number.astype(float)
        else:
            video = read_frames(job.path, n_frames=n_dense, size=side, backend=job.backend)
            number, first = np.unique(video.index, return_index=True)
            frames, t_s, decoder = video.frames[first], video.t_s[first], video.backend
    for corruption, names in groupby(job.views, lambda name: split_name(name)[0]):
        with clock("views"):
            random = (_generator(job.cfg.seed, job.key, corruption, place) for place in range(len(frames)))
            seen = np.stack([corrupt(frame, corruption, r) for frame, r in zip(frames, random, strict=True)])
        for name in names:
            view = show_view(seen, split_name(name)[1], job)
            for batch in batches_of(clock.each("views", view), CROPS_PER_CHUNK):
                places, shown = map(np.array, zip(*batch, strict=True))
                yield ViewChunk(shown, t_s[places], number[places], decoder, spent_s=clock.read(), view=name)


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

    Args:
        frames: RGB uint8 (n, S, S, 3): `STEP` (n_frames - 1) + 1 evenly spread ones, or all of a shorter clip.
        view: Its name, without a corruption: "plain", "view01", "tta01".
        job: `cfg.flip`: exchange left and right in half of the views; not where a class is a direction.

    Yields:
        Place among the frames, ascending, and what is shown there, uint8 (px, px, 3).
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


def corrupt(frame: np.ndarray, corruption: str, r: np.random.Generator) -> np.ndarray:
    """A frame as a corruption leaves it, RGB uint8 (S, S, 3); "" is none."""
    if corruption == "noise":
        return relight(frame, 1.0, NOISE_SD, r)
    if corruption == "blur":
        return cv2.GaussianBlur(frame, (0, 0), BLUR * len(frame))
    return relight(frame, DARK, 0.0, r) if corruption == "dark" else frame


def relight(frame: np.ndarray, light: float, noise_sd: float, r: np.random.Generator) -> np.ndarray:
    """A frame with so much light, and normal noise of so many grey levels; uint8."""
    values = frame * np.float32(light)
    if noise_sd:
        values += np.float32(noise_sd) * r.standard_normal(frame.shape, np.float32)
    return np.clip(values, 0, 255).astype(np.uint8)


def count_clips(path: Path) -> int:
    """How many clips an array file holds. VideoError if it is damaged or holds something else."""
    with _opened(path) as (_, shape, _):
        return shape[0]


def read_clip(path: Path, place: int) -> np.ndarray:
    """One clip of an array file, RGB uint8 (T, H, W, 3); no other is held in memory. VideoError as `count_clips`."""
    with _opened(path) as (file, (_, *shape), dtype):
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        file.seek(place * n_bytes, 1)
        clip = np.frombuffer(file.read(n_bytes), dtype).reshape(shape)
        if dtype != np.uint8:
            if not (dtype.kind == "f" and clip.min() >= 0 and clip.max() <= 1):
                raise ValueError(
                    f"values must be uint8, or floats in [0, 1], got {dtype} from {clip.min():g} to {clip.max():g}. "
                    "Undo their normalisation: each network has its own, and applies it itself"
                )
            clip = np.round(clip * 255).astype(np.uint8)
    return np.ascontiguousarray(clip.transpose(0, 2, 3, 1))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype]]:
    """An npy file, or the member `videos` of an npz file, where its numbers begin, with their shape and type.

    Whatever is wrong with them is a VideoError.
    """
    try:
        if path.suffix == ".pt":
            raise ValueError("PyTorch files are not read: save its tensor by np.savez(..., videos=tensor.numpy())")
        with ExitStack() as files:
            file = files.enter_context(path.open("rb"))
            if path.suffix == ".npz":
                file = files.enter_context(files.enter_context(zipfile.ZipFile(file)).open("videos.npy"))
            np.lib.format.read_magic(file)
            shape, in_fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
            if len(shape) != 5 or shape[2] != 3 or 0 in shape or in_fortran_order or dtype.kind not in "uif":
                raise ValueError(f"it must be numbers in C order of shape (N, T, 3, H, W), got {dtype} {shape}")
            yield file, shape, dtype
    except Exception as error:  # damage raises nearly anything
        raise VideoError(f"{path.name}: cannot be read as an array of clips ({error}).") from None
