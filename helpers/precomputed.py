"""What is there already instead of videos: pictures of faces, or optical flow.

In: a folder with the samples of many clips. Each of the two readers finds the clips by name and gives, per clip, its
samples in the order of time, what tells one version of its files from another, and the reason of every sample that
cannot be used: such a one is zeros and becomes a masked row. Rows of features made elsewhere: `helpers.external`.

- `FaceTree`: `<clip>/face_000035.jpg`, as the source project and `helpers.faces.export_faces` write them, and
  `<clip>_aligned/frame_det_00_000001.bmp`, as OpenFace does.
- `FlowTree`: `<clip>/flow_0000_0001.npy` as of the source project, `helpers.flow` files, plain arrays.
"""

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageOps

from helpers.crops import CROPS_PER_CHUNK, Chunk, Clock
from helpers.failures import ClipError
from helpers.flow import flow_header, normalise_flow, read_flow, resize_flow
from helpers.names import clip_key, natural_order, video_files
from helpers.store import NOT_NPY, clip_stamp, read_arrays
from helpers.tracks import crop_face

log = logging.getLogger(__name__)

SUFFIX = r"\.(?:bmp|jpe?g|png|webp)"
PICTURE = re.compile(rf"(?!\.)(?:.*\D)?(\d+)\D*{SUFFIX}", re.I)  # the last number: face_frame_0035.jpg
OPENFACE = re.compile(rf"frame_det_(\d+)_\d+{SUFFIX}")  # the number of the face, then of the frame
PAIR = re.compile(r"flow_(\d+)_(\d+)\.npy")
TIMES_SUFFIX = "_times"  # of the folder beside the tree in which `helpers.faces` keeps numbers and seconds
LOOKED_AT = 16  # clips, to find out what most samples of a folder are like

Values = tuple[np.ndarray, dict[int, str]]  # of some samples, zeros where one cannot be used; and by place, why not
About = tuple[int, float, str, tuple[int, ...]]  # number, rate, origin and shape of samples


class StoredError(ClipError):
    """A clip, or a sample of it, whose file cannot be used; the message is the reason."""


@dataclass(frozen=True)
class StoredClip:
    """The samples of one clip, n of them, to be read in another process; for rows it takes the place of a `FaceTrack`.

    `number`: int (n,), ascending: in the names of pictures, or of the frame that a field of flow begins with. `t_s`:
    (n,) seconds. `fps`: by how much the number grows in a second. `n_frames`: of the video that they stand for.
    `reader`: what reads them, for the manifest. `read`: yields samples as the network is shown them.
    """

    number: np.ndarray
    t_s: np.ndarray
    fps: float
    n_frames: int
    reader: str
    read: Callable[[], Iterator[Values]]

    def has_face(self, t_s: np.ndarray) -> np.ndarray:
        """True for every time in seconds, bool, same shape: whoever stored the samples has seen the face in each."""
        return np.ones(np.shape(t_s), bool)


def stored_chunks(clip: StoredClip) -> Iterator[Chunk]:
    """What is stored of a clip, chunk by chunk; `StoredError`: none of it can be used."""
    clock, first = Clock(), 0
    for values, reasons in clock.each("reading", clip.read()):
        places = slice(first, first + len(values))
        yield Chunk(values, clip.t_s[places], clip.number[places], clip.reader, reasons, clock.read())
        first += len(values)


def _read_faces(paths: Sequence[Path], side_px: int, size_px: int) -> Iterator[Values]:
    """Pictures: RGB uint8 (k, size_px, size_px, 3)."""
    whole = np.array([0, 0, side_px, side_px])
    yield from _each(paths, lambda path: crop_face(read_face(path, side_px), whole, size_px), size_px, 3, np.uint8)


def _read_flow(paths: Sequence[Path], side_px: int, size_px: int, clip_px: float | None) -> Iterator[Values]:
    """Fields of flow: float32 (k, size_px, size_px, 2)."""
    shape = (side_px, side_px, 2)
    if len(paths) > 1:
        chunks = _each(paths, lambda path: _checked(read_npy(path), path.name, shape), side_px, 2, np.float32)
    else:
        chunks = _of_one(paths[0], shape)
    first = 0
    for flow, reasons in chunks:
        flow = resize_flow(flow, size_px)  # what is not finite stays so
        for i in np.flatnonzero(~np.isfinite(flow).all(axis=(1, 2, 3))).tolist():
            name = paths[first + i].name if len(paths) > 1 else f"field {first + i}"
            flow[i], reasons[i] = 0, f"{name}: NaN or infinity"
        first += len(flow)
        yield flow if clip_px is None else normalise_flow(flow, clip_px), dict(sorted(reasons.items()))


def _each(paths: Sequence[Path], read: Callable, size: int, channels: int, dtype: type) -> Iterator[Values]:
    """What is read of files that hold one sample each."""
    for first in range(0, len(paths), CROPS_PER_CHUNK):
        some = paths[first : first + CROPS_PER_CHUNK]
        values, reasons = np.zeros((len(some), size, size, channels), dtype), {}
        for i, path in enumerate(some):
            try:
                values[i] = read(path)
            except StoredError as error:
                reasons[i] = str(error)
        yield values, reasons


def _of_one(path: Path, shape: tuple[int, ...]) -> Iterator[Values]:
    """What is read of one file that holds all samples."""
    if path.suffix == ".npy":
        fields, n = _array(path).__getitem__, len(_array(path))
    else:
        file = _of_clip(read_flow, path)
        fields, n = file.fields, len(file.t_s)
    for first in range(0, n, CROPS_PER_CHUNK):
        some = fields(slice(first, first + CROPS_PER_CHUNK))
        yield _checked(some, path.name, (len(some), *shape)), {}


def files_below(folder: Path, *wanted: Callable[[str], Any]) -> list[Path]:
    """The files below a folder whose names the first of `wanted` fits that fits any; others are told in the log."""
    paths = [folder / path for path in video_files(folder, bool)]
    found = next(filter(None, ([path for path in paths if fits(path.name)] for fits in wanted)), [])
    others = Counter(path.suffix.lower() or path.name for path in set(paths).difference(found))
    if found and others:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(others.items()))
        log.warning("in %s other files are passed over: %s", folder, kinds)
    return found


def is_array(name: str) -> bool:
    """Say whether a file is taken for arrays of NumPy."""
    return name.endswith((".npz", ".npy"))


def clips_by_name(folder: Path, paths: Iterable[Path]) -> dict[str, Path]:
    """Clips by key, in natural order. A folder's name keeps its last dot: `id.003` is a clip, not a suffix."""
    found: dict[str, Path] = {}
    for path in paths:
        name = path.relative_to(folder if path != folder else folder.parent)
        key = clip_key((name if path.is_dir() else name.with_suffix("")).as_posix())
        if found.setdefault(key, path) != path:
            raise ValueError(f"{found[key]} and {path} are the same clip {key!r}. Rename one of the two, or remove it.")
    return dict(sorted(found.items(), key=lambda item: natural_order(item[0])))


def numbered_files(folder: Path, pattern: re.Pattern) -> dict[int, Path]:
    """The files in a folder whose names fit, by the number that is the pattern's first group, ascending.

    `StoredError`: there are none any more, or two have the same number.
    """
    found: dict[int, Path] = {}
    for name in sorted(os.listdir(folder) if folder.is_dir() else [], key=natural_order):
        match = pattern.fullmatch(name)
        if match and found.setdefault(int(match[1]), folder / name).name != name:
            raise StoredError(f"{found[int(match[1])].name} and {name} have the same number {int(match[1])}")
    if not found:
        raise StoredError(f"{folder.name} holds no numbered files")
    return dict(sorted(found.items()))


def _face_files(folder: Path) -> dict[int, Path]:
    """The pictures in a folder by number; of OpenFace's, which count from 1, those of the face that has most."""
    faces = Counter(match[1] for name in sorted(os.listdir(folder)) if (match := OPENFACE.fullmatch(name)))
    if not faces:
        return numbered_files(folder, PICTURE)
    main = re.compile(rf"frame_det_{faces.most_common(1)[0][0]}_(\d+){SUFFIX}")
    return {number - 1: path for number, path in numbered_files(folder, main).items()}


def _pair_files(folder: Path) -> dict[int, Path]:
    """The file of each pair of faces in a folder by the first number, ascending; also of those that are missing.

    Numbers start at 0 as in the source project, or at 1 where there is no 0: a higher start means missing pairs. What
    is missing after the last file cannot be known. `StoredError`: a file is no pair of neighbours, or there is none.
    """
    found = numbered_files(folder, PAIR)
    for first, path in found.items():
        if int(PAIR.fullmatch(path.name)[2]) != first + 1:
            raise StoredError(f"{path.name} must be the pair of {first} and {first + 1}. Number faces without gaps.")
    digits = len(PAIR.fullmatch(found[min(found)].name)[1])
    numbers = range(0 if min(found) != 1 else 1, max(found) + 1)
    return {i: found.get(i, folder / f"flow_{i:0{digits}d}_{i + 1:0{digits}d}.npy") for i in numbers}


class Tree:
    """A folder with the samples of many clips, to any depth, all square and of one size.

    `clips`: path of each by what the folder calls it, in natural order. `fps`, `made`, `side_px`: numbers per second,
    origin and side of the samples in most of the clips that were looked at: a network cannot be shown two of a kind.
    Each kind of tree says the `parameter` that names it, `what` it holds, a file's name (`like`), a sample's
    `channels`; its clips' paths (`_find`); number, rate, origin and shape of a clip's samples (`_about`); all files of
    a clip (`_files`).
    """

    def __init__(self, folder: str | Path, fps: float):
        """Find the clips in a folder, and what most of their samples are; a few are looked at.

        `fps`: by how much the numbers in the files' names grow in a second. FileNotFoundError: there is no folder;
        ValueError: it holds no samples, none that can be read, or such that are not square.
        """
        self.folder, self.fps = Path(folder), float(fps)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.parameter} must be a folder of {self.what}, {folder} is none. Check it.")
        self.clips = clips_by_name(self.folder, self._find())
        paths, kinds = list(self.clips.values()), Counter()
        for i in np.unique(np.linspace(0, len(paths) - 1, min(LOOKED_AT, len(paths))).astype(int)):
            with suppress(Exception):  # of a clip, which it will be told of
                kinds[self._about(paths[i])[1:]] += 1
        must = f"{self.parameter} must hold {self.what} of shape (S, S, {self.channels}) like {self.like}"
        if not kinds:
            raise ValueError(f"{must}, got none that can be read below {folder}. Check it.")
        ((self.fps, self.made, shape), _), *_ = kinds.most_common(1)
        if shape not in {(side, side, self.channels) for side in shape}:
            raise ValueError(f"{must}, got {shape}. Crop them to squares.")
        self.side_px = shape[0]

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers, besides the samples themselves."""
        return {self.parameter.removesuffix("_dir"): self.folder.name, "side_px": self.side_px, "fps": self.fps}

    def stamp(self, name: str) -> str:
        """Tells one version of a clip's files from another: their number, a hash of names, sizes, times of change."""
        paths = self._files(name)
        lines = [f"{path.name}\0{clip_stamp(path)}\n".encode(errors="surrogateescape") for path in paths]
        return f"{len(lines)}-{hashlib.sha256(b''.join(lines)).hexdigest()[:16]}"


def _shape(look: Callable[[Path], tuple[int, ...]], paths: Iterable[Path]) -> tuple[int, ...]:
    """The shape that most of three samples have, evenly spread."""
    paths, shapes = list(paths), Counter()
    for path in dict.fromkeys((paths[0], paths[len(paths) // 2], paths[-1])):
        with suppress(Exception):
            shapes[look(path)] += 1
    return shapes.most_common(1)[0][0]


class FaceTree(Tree):
    """A folder with a folder of numbered pictures per clip, all RGB: BMP, JPEG, PNG or WebP.

    Where `helpers.faces` left exact times beside it, these count, and not `fps`.
    """

    parameter, what, like, channels = "faces_dir", "face pictures", "clip/face_0001.jpg", 3

    def _find(self) -> Iterable[Path]:
        return {path.parent for path in files_below(self.folder, PICTURE.fullmatch)}

    def _about(self, path: Path) -> About:
        pictures = _face_files(path).values()
        return len(pictures), self.fps, self.what, _shape(_picture_shape, pictures)

    def _files(self, name: str) -> list[Path]:
        times = self._times(name)
        return [*_face_files(self.clips[name]).values(), *[times] * times.exists()]

    def _times(self, name: str) -> Path:
        return self.folder.with_name(self.folder.name + TIMES_SUFFIX) / f"{name}.npz"

    def job(self, name: str, size_px: int) -> StoredClip:
        """The pictures of a clip; `StoredError` when they cannot be put in order and time."""
        pictures = _face_files(self.clips[name])
        if others := sum(map(bool, map(PICTURE.fullmatch, os.listdir(self.clips[name])))) - len(pictures):
            log.warning("%s: %d pictures of other faces are left out", name, others)
        number = np.array(list(pictures), np.int64)
        t_s, fps = number / self.fps, self.fps
        if (times := self._times(name)).exists():
            t_s = _exact_times(times, pictures)
            fps = float(np.ptp(number) / np.ptp(t_s)) if len(number) > 1 else fps
        read = partial(_read_faces, tuple(pictures.values()), self.side_px, size_px)
        return StoredClip(number, t_s, fps, len(number), f"Pillow {PIL.__version__}", read)


def _exact_times(path: Path, pictures: dict[int, Path]) -> np.ndarray:
    """Seconds (n,) of the pictures from the file that `helpers.faces` has written about the clip."""
    arrays = _of_clip(read_arrays, path)
    t_s = dict(zip(arrays["frame"].tolist(), arrays["t_s"].tolist(), strict=True))
    if strange := [picture.name for number, picture in pictures.items() if number not in t_s]:
        raise StoredError(f"the exported times say nothing of {strange[0]}. Export the clip again, or remove it")
    return np.array([t_s[number] for number in pictures], np.float64)


def _picture_shape(path: Path) -> tuple[int, int, int]:
    with Image.open(path) as image:
        return image.height, image.width, 3


def read_face(path: Path, side_px: int) -> np.ndarray:
    """Read one picture, known by its content and turned as its EXIF says: RGB uint8 (side_px, side_px, 3).

    `StoredError`: unreadable, not RGB, more than 8 bits per channel, or of another size. Nothing is converted: among
    colour pictures a grey one is another input.
    """
    try:
        with Image.open(path) as image:
            deep = ";16" in str(image.tile)  # Pillow opens 16-bit RGB as RGB, and cuts it to 8 bits
            if image.mode == "RGB" and not deep and image.size == (side_px, side_px):
                return np.asarray(ImageOps.exif_transpose(image))
            got = f"{image.width}x{image.height} px {image.mode}{' of 16 bits' if deep else ''}"
    except Exception as error:  # damage makes Pillow raise nearly anything
        raise _unreadable(path, error) from None
    raise StoredError(f"{path.name}: {got}, not {side_px}x{side_px} px RGB of 8 bits like the others")


def _unreadable(path: Path, error: Exception) -> StoredError:
    """Why a file cannot be read, without the name of its folder."""
    why = f"unreadable ({getattr(error, 'strerror', None) or error})".replace(f"{path.parent}/", "")
    if isinstance(error, FileNotFoundError) or not os.path.getsize(path):
        why = "empty (0 bytes)" if path.exists() else "missing"
    return StoredError(f"{path.name}: {why}")


class FlowTree(Tree):
    """A folder of stored flow: a folder of `flow_0000_0001.npy`, ... per clip, or a file of ours, or a plain array.

    `fps` is for pairs and arrays; our flow files know their own.
    """

    parameter, what, like, channels = "flow_dir", "stored flow", "clip.npz, clip.npy or clip/flow_0000_0001.npy", 2

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers, besides the fields themselves."""
        return super().identity | {"made": self.made}

    def _find(self) -> Iterable[Path]:
        files = files_below(self.folder, is_array)
        trees = {path.parent for path in files if PAIR.fullmatch(path.name)}
        return [*trees, *(path for path in files if path.parent not in trees)]

    def _about(self, path: Path) -> About:
        if path.is_dir():
            pairs = _pair_files(path).values()
            return len(pairs), self.fps, "pairs of unknown method", _shape(lambda pair: read_npy(pair).shape, pairs)
        if path.suffix == ".npy":
            n, *shape = _array(path).shape
            return n, self.fps, "arrays of unknown method", tuple(shape)
        (n, *shape), t_s, rate, method = _of_clip(flow_header, path)
        if not (rate > 0 and len(t_s) == n and np.allclose(t_s * rate, range(n), rtol=0, atol=0.5)):
            raise StoredError(f"{path.name}: its fields must be {rate:g} a second from 0 s on, its times say otherwise")
        return n, rate, method, tuple(shape)

    def _files(self, name: str) -> list[Path]:
        path = self.clips[name]
        return sorted(path.glob("flow_*.npy")) if path.is_dir() else [path]

    def job(self, name: str, size_px: int, clip_px: float | None) -> StoredClip:
        """The flow of a clip; `StoredError` where none of it can be used, or it is of another kind than the others'."""
        path = self.clips[name]
        n, fps, made, _ = self._about(path)
        if (fps, made) != (self.fps, self.made):
            there, here = f"{self.made}, {self.fps:g} a second", f"{made}, {fps:g} a second"
            raise StoredError(f"its flow is {here}, that of the others {there}: a network cannot be shown both")
        pairs = _pair_files(path) if path.is_dir() else {}
        number = np.array(list(pairs) or range(n), np.int64)
        read = partial(_read_flow, tuple(pairs.values()) or (path,), self.side_px, size_px, clip_px)
        t_s = np.arange(len(number)) / fps
        return StoredClip(number, t_s, fps, len(number) + 1, f"stored flow: {made}", read)


def _of_clip(read: Callable[[Path], Any], path: Path) -> Any:
    """What `read` makes of a clip's file; what is wrong with it is the reason why the clip cannot be used."""
    try:
        return read(path)
    except (ValueError, OSError) as error:
        raise StoredError(str(error).replace(f"{path.parent}/", "")) from None


def _checked(fields: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Flow as float32; `StoredError`: of another shape, or not decimal numbers."""
    if fields.shape != shape or fields.dtype.kind != "f":
        raise StoredError(f"{name}: {fields.dtype} {fields.shape}, not decimal numbers {shape} like the others")
    with np.errstate(over="ignore"):  # too large for float32 is infinite
        return fields.astype(np.float32, copy=False)


def _array(path: Path) -> np.ndarray:
    """All fields of a plain array, (n, H, W, 2)."""
    array = read_npy(path)
    return array[None] if array.ndim == 3 else array


def read_npy(path: Path) -> np.ndarray:
    """The array of an npy file, mapped into memory: read where it is used. `StoredError` with the reason if not."""
    try:
        return np.lib.format.open_memmap(path, mode="c")  # changes stay in memory
    except (OSError, *NOT_NPY) as error:
        raise _unreadable(path, error) from None
