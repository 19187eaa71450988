"""What the network is shown of a labelled clip (08): whole frames in many views, made of one decoding.

In: a `FrameJob`: a video, or one clip of an array (N, T, C, H, W) as preprocessing tools leave it, and names of views.
Out: `ViewChunk`s, frames RGB uint8 (n, px, px, 3) of one view. Views are seeded copies to train on (J7) and to test
with (J8), and corrupted copies that show robustness. What is random about one depends on seed, key and its name alone,
never on order or on other views. Names: "plain"; "view01", … for training; "tta01", … gentler, for testing; a
corruption; and "noise_tta01", …, a corrupted clip in the view of that number. How strong they are is chosen here: S3
names the kinds only. Nothing here imports a network, so that decoder processes start quickly.
"""

import importlib.util
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from helpers.config import ClassificationConfig
from helpers.container import VideoError
from helpers.crops import CROPS_PER_CHUNK, Chunk, Clock, batches_of
from helpers.video import read_frames, uniform_indices

ARRAY_FILES, ARRAY = ("processed_data.npz", "processed_data.npy", "processed_data.pt"), "videos"

ArrayFile = tuple[tuple[int, ...], Callable[[int], np.ndarray]]  # shape, and what reads one clip (T, 3, H, W)

PLAIN = "plain"
CORRUPTIONS = ("noise", "blur", "dark", "low_rate", "crop")
NAME = re.compile(rf"(?:({'|'.join(CORRUPTIONS)})(?:_|$))?(.*)")
STEP = 4  # frames are decoded so much more densely than a plain clip shows them, for speed and jitter

NOISE_SD = 25.0  # grey levels
BLUR = 1 / 28  # standard deviation, of the side
DARK = 0.3  # of the light
HELD = 3  # rows of a plain clip in which a low rate shows one frame
CROPPED = 0.7  # of the side
EXPOSURE, MOST_GAIN = 110.0, 4.0  # mean grey level of an exposed clip; at most so much light is added or taken away


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
    """Neighbouring frames of one view, by its name; `t_s` is as fast as the view is."""

    view: str = PLAIN


@dataclass(frozen=True)
class View:
    """How a clip is seen.

    Attributes:
        speed: How many times as fast.
        start: Where it begins, as a share of what is left over, in [0, 1].
        jitter: Largest displacement of a row in time, in rows.
        flip: Left and right exchanged.
        window: The part of the picture that is shown: x0, y0, side, as shares of the side.
        gain: Of the light, RGB (3,).
        exposed: The clip's light is first brought to `EXPOSURE`, so that a dark one is seen as others are.
        erased: A rectangle that is grey: x0, y0, x1, y1, as shares; empty where x1 is 0.
        noise_sd: Grey levels.
    """

    speed: float = 1.0
    start: float = 0.0
    jitter: float = 0.0
    flip: bool = False
    window: tuple[float, float, float] = (0.0, 0.0, 1.0)
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    exposed: bool = False
    erased: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    noise_sd: float = 0.0


def clip_frames(job: FrameJob) -> Iterator[ViewChunk]:
    """The frames of every view of a clip, view by view. VideoError where it cannot be decoded.

    At most `STEP` (n_frames - 1) + 1 of its frames are held, evenly spread; of a shorter clip each once. An array has
    no times: its seconds count frames.
    """
    clock, side = Clock(), (job.cfg.frame_px, job.cfg.frame_px)
    n_dense = STEP * (job.cfg.n_frames - 1) + 1
    with clock("decoding"):
        if job.place >= 0:
            clip = read_clip(job.path, job.place)
            number = np.unique(uniform_indices(len(clip), n_dense))
            frames = np.stack([cv2.resize(frame, side, interpolation=cv2.INTER_AREA) for frame in clip[number]])
            t_s, decoder = number.astype(float), "array"
        else:
            video = read_frames(job.path, n_frames=n_dense, size=side, backend=job.backend)
            number, first = np.unique(video.index, return_index=True)
            frames, t_s, decoder = video.frames[first], video.t_s[first], video.backend
    for name in job.views:
        view, places, shown, r = _plan_view(job, name, frames)
        for batch in batches_of(zip(places, shown, strict=True), CROPS_PER_CHUNK):
            at = np.array([place for place, _ in batch])
            with clock("views"):
                whole = (corrupt(frames[k], name, job.cfg.seed, job.key, k) for _, k in batch)
                values = np.stack([show(frame, view, job.px, r) for frame in whole])
            seconds = (t_s[at] - t_s[places[0]]) / view.speed
            yield ViewChunk(values, seconds, number[at], decoder, spent_s=clock.read(), view=name)


def _plan_view(
    job: FrameJob, name: str, frames: np.ndarray
) -> tuple[View, np.ndarray, np.ndarray, np.random.Generator]:
    """The view of this name, its frames by place, those that stand in for them at a low rate, and what draws noise."""
    cfg, n = job.cfg, len(frames)
    r = generator(cfg.seed, job.key, split_name(name)[1], 1)  # not the one that draws the view
    view = draw_view(cfg.seed, job.key, split_name(name)[1], flip=cfg.flip)
    view = exposed(view, corrupt(frames[n // 2], name, cfg.seed, job.key, n // 2))
    places = places_of(view, n, cfg.n_frames, r)
    return view, places, held(name, places, n, cfg.n_frames), r


def view_names(n_views: int, n_tta: int) -> tuple[list[str], list[str]]:
    """Names of the views for training, and of those for testing, corrupted ones included; the plain one in neither."""
    tta = [f"tta{k:02}" for k in range(1, n_tta + 1)]
    corrupted = [f"{name}{after}" for name in CORRUPTIONS for after in ("", *(f"_{view}" for view in tta))]
    return [f"view{k:02}" for k in range(1, n_views + 1)], tta + corrupted


def split_name(name: str) -> tuple[str, str]:
    """Corruption, or "", and view of a name: "low_rate_tta01" is "low_rate" and "tta01"."""
    corruption, view = NAME.fullmatch(name).groups("")
    return corruption, view or PLAIN


def generator(seed: int, key: str, name: str, *numbers: int) -> np.random.Generator:
    """The generator of a view of a clip."""
    return np.random.default_rng([seed, *(zlib.crc32(text.encode()) for text in (key, name)), *numbers])


def draw_view(seed: int, key: str, name: str, *, flip: bool) -> View:
    """Draw how a clip is seen in a view.

    Args:
        seed: Of the run.
        key: Of the clip.
        name: "plain", or begins with "view" or "tta".
        flip: Exchange left and right in half of the views; not where a class is a direction.
    """
    if name == PLAIN:
        return View()
    r = generator(seed, key, name)
    is_strong = name.startswith("view")
    side = r.uniform(0.8 if is_strong else 0.9, 1)
    darkest, lightest, tint = (0.5, 1.4, 0.1) if is_strong else (0.9, 1.1, 0.03)
    gain = r.uniform(darkest, lightest) * r.uniform(1 - tint, 1 + tint, 3)
    view = View(
        speed=r.uniform(0.9, 1.15) if is_strong else r.uniform(0.95, 1.05),
        start=r.random(),
        jitter=0.45 if is_strong else 0.25,
        flip=flip and bool(r.random() < 0.5),
        window=(*(r.uniform(0, 1 - side, 2)), side),
        gain=tuple(gain),
        exposed=not is_strong,
    )
    if not is_strong:
        return view
    x, y, width, height = *r.uniform(0, 0.85, 2), *r.uniform(0.1, 0.25, 2)
    has_erased, has_noise = r.random(2) < 0.5
    erased = (x, y, x + width, y + height) if has_erased else View.erased
    return replace(view, erased=erased, noise_sd=r.uniform(3, 15) if has_noise else 0.0)


def places_of(view: View, n_frames: int, n_rows: int, r: np.random.Generator) -> np.ndarray:
    """Which frames a view shows, ascending, int (n,) with n at most `n_rows`; a faster view has fewer.

    Args:
        view: How the clip is seen.
        n_frames: Frames there are: `STEP` (n_rows - 1) + 1 evenly spread ones, or all of a shorter clip.
        n_rows: Rows of a plain clip.
        r: Draws the jitter.
    """
    n_rows = min(n_rows, n_frames)
    step = (n_frames - 1) / max(n_rows - 1, 1)
    left_over = (n_frames - 1) * max(0.0, 1 - view.speed)
    at = view.start * left_over + np.arange(n_rows) * step * view.speed
    at = at[at <= n_frames - 1 + 1e-9]
    at = at + r.uniform(-1, 1, len(at)) * view.jitter * step
    return np.clip(at.round().astype(int), 0, n_frames - 1)


def held(name: str, places: np.ndarray, n_frames: int, n_rows: int) -> np.ndarray:
    """The frames that are really shown at `places`: at a low rate one stands still for `HELD` rows."""
    if split_name(name)[0] != "low_rate":
        return places
    hold = max(1, round(HELD * (n_frames - 1) / max(min(n_rows, n_frames) - 1, 1)))
    return places // hold * hold


def corrupt(frame: np.ndarray, name: str, seed: int, key: str, place: int) -> np.ndarray:
    """A frame as the corruption in a view's name leaves it, RGB uint8 (S, S, 3); the same in all views of the clip.

    `place` is its number in the clip.
    """
    side, corruption = frame.shape[0], split_name(name)[0]
    if corruption == "noise":
        noise = generator(seed, key, corruption, place).standard_normal(frame.shape, np.float32)
        return np.clip(frame + NOISE_SD * noise, 0, 255).astype(np.uint8)
    if corruption == "blur":
        return cv2.GaussianBlur(frame, (0, 0), BLUR * side)
    if corruption == "dark":
        return (frame * np.float32(DARK)).astype(np.uint8)
    if corruption == "crop":
        kept = round(CROPPED * side)
        x, y = generator(seed, key, corruption).integers(0, side - kept + 1, 2)
        return cv2.resize(frame[y : y + kept, x : x + kept], (side, side), interpolation=cv2.INTER_LINEAR)
    return frame


def exposed(view: View, frame: np.ndarray) -> View:
    """The view with its gain as the light of a clip needs it, told by one frame of it; others are left as they are."""
    if not view.exposed:
        return view
    gain = np.clip(EXPOSURE / max(float(frame.mean()), 1.0), 1 / MOST_GAIN, MOST_GAIN)
    return replace(view, gain=tuple(gain * np.array(view.gain)))


def show(frame: np.ndarray, view: View, px: int, r: np.random.Generator) -> np.ndarray:
    """A frame as a view shows it, RGB uint8 (px, px, 3); `r` draws its noise."""
    side = frame.shape[0]
    x, y, kept = (round(share * side) for share in view.window)
    seen = frame[y : y + kept, x : x + kept].copy()
    x0, y0, x1, y1 = (round(share * seen.shape[0]) for share in view.erased)
    seen[y0:y1, x0:x1] = 128
    if seen.shape[:2] != (px, px):
        smaller = seen.shape[0] > px
        seen = cv2.resize(seen, (px, px), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    if view.flip:
        seen = seen[:, ::-1]
    light = seen * np.float32(view.gain)
    if view.noise_sd:
        light += np.float32(view.noise_sd) * r.standard_normal(light.shape, np.float32)
    return np.ascontiguousarray(np.clip(light, 0, 255).astype(np.uint8))


def count_clips(path: Path) -> int:
    """How many clips an array file holds. VideoError if it is damaged or holds something else."""
    with _opened(path) as (shape, _):
        return shape[0]


def read_clip(path: Path, place: int) -> np.ndarray:
    """One clip of an array file, RGB uint8 (T, H, W, 3); no other is held in memory. VideoError as `count_clips`."""
    with _opened(path) as (_, read):
        clip = read(place)
        if clip.dtype != np.uint8:
            if not (np.issubdtype(clip.dtype, np.floating) and clip.min() >= 0 and clip.max() <= 1):
                raise ValueError(
                    f"values must be uint8, or floats in [0, 1], got {clip.dtype} from {clip.min():g} to "
                    f"{clip.max():g}. Undo their normalisation: each network has its own, and applies it itself"
                )
            clip = np.round(clip * 255).astype(np.uint8)
    return np.ascontiguousarray(clip.transpose(0, 2, 3, 1))


@contextmanager
def _opened(path: Path) -> Iterator[ArrayFile]:
    """The shape of a file's array, and what reads one clip of it; whatever is wrong with them is a VideoError."""
    if path.suffix == ".pt" and importlib.util.find_spec("torch") is None:
        raise RuntimeError(
            f"reading {path} needs torch, which is not installed. Install it, or save the clips with "
            f"numpy.savez({path.stem!r}, {ARRAY}=tensor.numpy())."
        )
    try:
        with ExitStack() as files:
            shape, read = _open_torch(path) if path.suffix == ".pt" else _open_numpy(path, files)
            if len(shape) != 5 or shape[2] != 3 or 0 in shape:
                raise ValueError(f"{ARRAY} must have shape (N, T, 3, H, W), got {shape}")
            yield shape, read
    except Exception as error:  # damage raises nearly anything
        raise VideoError(f"{path.name}: cannot be read as an array of clips ({error}).") from None


def _open_numpy(path: Path, files: ExitStack) -> ArrayFile:
    """An npy file, or the member `videos` of an npz file, which is read from there as far as needed."""
    if path.suffix == ".npz":
        file = files.enter_context(files.enter_context(zipfile.ZipFile(path)).open(f"{ARRAY}.npy"))
    else:
        file = files.enter_context(path.open("rb"))
    is_first = np.lib.format.read_magic(file) == (1, 0)
    header = (np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0)(file)
    shape, in_fortran_order, dtype = header
    if in_fortran_order or dtype.hasobject:
        raise ValueError(f"{ARRAY} must be numbers in C order, got {dtype}{' in Fortran order' * in_fortran_order}")

    def read(place: int) -> np.ndarray:
        n_bytes = int(np.prod(shape[1:])) * dtype.itemsize
        file.seek(place * n_bytes, 1)
        return np.frombuffer(file.read(n_bytes), dtype).reshape(shape[1:])

    return shape, read


def _open_torch(path: Path) -> ArrayFile:
    """The tensor of a pt file, alone or as `videos` in a dict, read by torch; nothing but plain values is allowed."""
    import torch

    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:  # whose text says how to run the code in such a file
        raise ValueError("it holds code or objects, not only tensors and plain values; nothing of it was run") from None
    tensor = data.get(ARRAY) if isinstance(data, dict) else data
    if not isinstance(tensor, torch.Tensor):
        names = f" {list(data)}" if isinstance(data, dict) else ""
        raise ValueError(f"it must hold a tensor, alone or as {ARRAY!r} in a dict, got {type(data).__name__}{names}")
    is_float = tensor.is_floating_point()  # numpy has no bfloat16
    return tuple(tensor.shape), lambda place: (tensor[place].float() if is_float else tensor[place]).numpy()
