"""What is there already instead of videos: pictures of faces, or optical flow.

In: a folder with the samples of many clips. Each of the two readers finds the clips by name and gives, per clip, its
samples in the order of time, what tells one version of its files from another, and the reason of every sample that
cannot be used: such a one is zeros and becomes a masked row. Rows of features made elsewhere: `helpers.external`.

- `FaceTree`: `<clip>/face_000035.jpg`, as the source project writes them, and
  `<clip>_aligned/frame_det_00_000001.bmp`, as OpenFace does.
- `OpticalFlowSequenceLoader`: `<clip>/flow_0000_0001.npy` as of the source project, `helpers.flow` files, plain
  arrays; also in batches, for networks of one's own.
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

from helpers.flow import normalise_flow, read_flow, resize_flow
from helpers.names import NO_CLIP, clip_key, match_clips, natural_order, video_files
from helpers.rows import CROPS_PER_CHUNK, Chunk, ClipRows, Clock, Source, batches_of
from helpers.store import AbsentError, ClipError, clip_fingerprint, read_arrays
from helpers.tracks import crop_face

log = logging.getLogger(__name__)

SUFFIX = r"\.(?:bmp|jpe?g|png|webp)"
PICTURE = re.compile(rf"(?!\.)(?:.*\D)?(\d+)\D*{SUFFIX}", re.I)  # the last number: face_frame_0035.jpg
OPENFACE = re.compile(rf"frame_det_(\d+)_\d+{SUFFIX}")  # the number of the face, then of the frame
PAIR = re.compile(r"flow_(\d+)_(\d+)\.npy")
ARRAYS = re.compile(r".*\.np[yz]")

LOOKED_AT = 16  # clips that say what a tree is like
About = tuple[int, float, str, tuple[int, ...]]  # number, rate and origin of samples, and the shape of one


class StoredError(ClipError):
    """A clip, or a sample of it, whose file cannot be used; the message is the reason."""


@dataclass(frozen=True)
class StoredClip:
    """The samples of one clip, n of them, to be read in another process; for rows it takes the place of a `FaceTrack`.

    `number`: int (n,), ascending: in the names of pictures, or of the frame that a field of flow begins with. `t_s`:
    (n,) seconds. `fps`: by how much the number grows in a second. `n_frames`: of the video that they stand for.
    `reader`: what reads them, for the manifest. `shape`, `dtype`: of a sample as the network is shown it. `open`: gives
    what reads the i-th sample, or raises `StoredError`; raises it itself where none can be used.
    """

    number: np.ndarray
    t_s: np.ndarray
    fps: float
    n_frames: int
    reader: str
    shape: tuple[int, int, int]
    dtype: str
    open: Callable[[], Callable[[int], np.ndarray]]

    def has_face(self, t_s: np.ndarray) -> np.ndarray:
        """True for every time in seconds, bool, same shape: whoever stored the samples has seen the face in each."""
        return np.ones(np.shape(t_s), bool)


def stored_chunks(clip: StoredClip) -> Iterator[Chunk]:
    """What is stored of a clip, chunk by chunk; `StoredError`: none of it can be used."""
    clock, read = Clock(), clip.open()
    for first in range(0, len(clip.number), CROPS_PER_CHUNK):
        places, reasons = slice(first, first + CROPS_PER_CHUNK), {}
        values = np.zeros((len(clip.number[places]), *clip.shape), clip.dtype)
        with clock("reading"):
            for i in range(len(values)):
                try:
                    values[i] = read(first + i)
                except StoredError as error:
                    reasons[i] = str(error)
        yield Chunk(values, clip.t_s[places], clip.number[places], clip.reader, reasons, clock.read())


class Tree:
    """A folder with the samples of many clips, to any depth, all square and of one size.

    `clips`: path of each by what the folder calls it, in natural order. `fps`, `made`, `side_px`: numbers per second,
    origin and side, as most of the first clips have them: a network cannot be shown two kinds. Each kind of tree says
    the `parameter` that names it, `what` it holds, a file's name (`like`), a sample's `channels`, the parameter that
    only videos need (`of_videos`), a `sample`'s name in a clip's folder; its clips' paths (`_find`); what a clip is
    like (`_about`); its samples (`job`).
    """

    def __init__(self, folder: str | Path, fps: float):
        """Find the clips in a folder.

        `fps`: by how much the numbers in the files' names grow in a second. FileNotFoundError: there is no folder;
        ValueError: it holds no samples, none that can be read, or such that are not square.
        """
        self.folder, self.fps = Path(folder), float(fps)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.parameter} must be a folder of {self.what}, {folder} is none. Check it.")
        self.clips, found = clips_by_name(self.folder, self._find()), []
        for path in self.clips.values():
            with suppress(Exception):  # of a clip, which it will be told of
                found.append(self._about(path)[1:])
            if len(found) == LOOKED_AT:
                break
        must = f"{self.parameter} must hold {self.what} of shape (S, S, {self.channels}) like {self.like}"
        if not found:
            raise ValueError(f"{must}, got none that can be read below {folder}. Check it.")
        self.fps, self.made, shape = Counter(found).most_common(1)[0][0]
        if shape != (shape[0], shape[0], self.channels):
            raise ValueError(f"{must}, got {shape}. Crop them to squares.")
        self.side_px = shape[0]

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers, besides the samples themselves."""
        return {self.parameter.removesuffix("_dir"): self.folder.name, "side_px": self.side_px, "fps": self.fps}

    def fingerprint(self, name: str) -> str:
        """Tells one version of a clip's samples from another: their number, a hash of names, sizes, times of change."""
        path, digest = self.clips[name], hashlib.sha256()
        files = sorted(file for file in path.iterdir() if self.sample.fullmatch(file.name)) if path.is_dir() else [path]
        for file in files:
            version = clip_fingerprint(file) if file.exists() else "missing"
            digest.update(f"{file.name}\0{version}\n".encode(errors="surrogateescape"))
        return f"{len(files)}-{digest.hexdigest()[:16]}"

    def source(self, keys: Iterable[str], rows: Callable[[Any], ClipRows], *sizes: float | None) -> Source:
        """What is done with the clips of these keys; `rows`: see `Source`, `sizes`: see `job`."""
        named = self._named(keys)

        def fingerprint(path: Path, key: str) -> str:
            with suppress(KeyError, OSError):  # nothing of this name; removed just now
                return self.fingerprint(named[key])
            return "missing"

        def job(path: Path, key: str, fingerprint: str) -> StoredClip:
            if key not in named:
                raise AbsentError(f"there is nothing of it in {self.folder.name}")
            return self.job(named[key], *sizes)

        about = {"identity": {"stored": self.identity}, "made_with": {"stored": str(self.folder)}}
        return Source(stored_chunks, job, rows, fingerprint, **about, not_decisive=(self.of_videos,))

    def _named(self, keys: Iterable[str]) -> dict[str, str]:
        """What the tree calls these clips; what fits several, or fits twice, is told in the log."""
        named, refused = match_clips(self.clips, keys)
        if not named:
            must = f"{self.folder} must hold clips of this run, got {', '.join(list(self.clips)[:5])}"
            raise ValueError(f"{must}. Call its folders like the clips.")
        for name, reason in refused.items():
            if reason != NO_CLIP:
                log.warning("%s in %s is left out: %s", name, self.folder.name, reason)
        return named


class FaceTree(Tree):
    """A folder with a folder of numbered pictures per clip, all RGB: BMP, JPEG, PNG or WebP."""

    parameter, what, like, channels = "faces_dir", "face pictures", "clip/face_0001.jpg", 3
    of_videos, sample = "every_n_frames", PICTURE

    def _find(self) -> Iterable[Path]:
        return {path.parent for path in files_below(self.folder, PICTURE)}

    def _about(self, path: Path) -> About:
        pictures = _face_files(path).values()
        return len(pictures), self.fps, self.what, _first_shape(pictures)

    def job(self, name: str, size_px: int) -> StoredClip:
        """The pictures of a clip; `StoredError` when they cannot be put in order."""
        pictures = _face_files(self.clips[name])
        if others := sum(map(bool, map(PICTURE.fullmatch, os.listdir(self.clips[name])))) - len(pictures):
            log.warning("%s: %d pictures of other faces are left out", name, others)
        number = np.array(list(pictures), np.int64)
        read = partial(_open_faces, tuple(pictures.values()), self.side_px, size_px)
        of_faces = f"Pillow {PIL.__version__}", (size_px, size_px, 3), "uint8"
        return StoredClip(number, number / self.fps, self.fps, len(number), *of_faces, read)


class OpticalFlowSequenceLoader(Tree):
    """A folder of stored flow: a folder of `flow_0000_0001.npy`, ... per clip, or a file of ours, or a plain array.

    `fps` is for pairs and arrays; our flow files know their own.
    """

    parameter, what, like, channels = "flow_dir", "stored flow", "clip.npz, clip.npy or clip/flow_0000_0001.npy", 2
    of_videos, sample = "flow", PAIR

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers, besides the fields themselves."""
        return super().identity | {"made": self.made}

    def _find(self) -> Iterable[Path]:
        files = files_below(self.folder, ARRAYS)
        trees = {path.parent for path in files if PAIR.fullmatch(path.name)}
        return [*trees, *(path for path in files if path.parent not in trees)]

    def _about(self, path: Path) -> About:
        if path.is_dir():
            pairs = _pair_files(path).values()
            return len(pairs), self.fps, "pairs of unknown method", _first_shape(pairs)
        if path.suffix == ".npy":
            n, *shape = _array(path).shape
            return n, self.fps, "arrays of unknown method", tuple(shape)
        file = _opened(partial(read_arrays, names=("shape", "t_s", "fps", "method")), path)
        (n, *shape), fps = file["shape"].tolist(), file["fps"].item()
        if not (n == len(file["t_s"]) and fps > 0 and np.allclose(file["t_s"] * fps, range(n), rtol=0, atol=0.5)):
            raise StoredError(f"{path.name}: its fields must be {fps} a second from 0 s on, its times differ")
        return n, fps, str(file["method"]), tuple(shape)

    def job(self, name: str, size_px: int, clip_px: float | None) -> StoredClip:
        """The flow of a clip; `StoredError` where none of it can be used, or it is of another kind than the others'."""
        path = self.clips[name]
        n, fps, made, _ = _opened(self._about, path)
        if (fps, made) != (self.fps, self.made):
            there, here = f"{self.made}, {self.fps:g} a second", f"{made}, {fps:g} a second"
            raise StoredError(f"its flow is {here}, that of the others {there}: a network cannot be shown both")
        pairs = _pair_files(path) if path.is_dir() else {}
        number = np.array(list(pairs) or range(n), np.int64)
        read = partial(_open_flow, tuple(pairs.values()) or (path,), self.side_px, size_px, clip_px)
        of_flow = f"stored flow: {made}", (size_px, size_px, 2), "float32"
        return StoredClip(number, np.arange(n) / fps, fps, n + 1, *of_flow, read)

    def load(
        self, name: str, size_px: int | None = None, clip_px: float | None = None
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Read the whole flow of one of `clips`.

        Flow is float32 (T, size_px, size_px, 2), u and v scaled with the fields, in pixels, or cut to +-`clip_px` and
        divided by it. By place comes the reason of every field that cannot be used: zeros.
        """
        if name not in self.clips:
            raise ValueError(f"name must be one of the {len(self.clips)} clips, got {name!r}. See clips.")
        values, reasons = [], {}
        for chunk in stored_chunks(self.job(name, size_px or self.side_px, clip_px)):
            reasons |= {len(values) + place: why for place, why in chunk.unusable.items()}
            values.extend(chunk.values)
        return np.stack(values), reasons

    def batches(
        self,
        names: Sequence[str],
        *,
        batch_size: int,
        length: int,
        size_px: int,
        clip_px: float = 20.0,
        repeat_single: bool = False,
    ) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
        """Yield B clips at a time, in the given order: flow, mask and names; the last may be fewer.

        Flow is float32 (B, length, size_px, size_px, 2) in [-1, 1]: a longer clip keeps its start, a shorter one gets
        no motion behind. The mask is bool (B, length), False where a field is padding or cannot be used.
        `repeat_single`: repeat the field of a clip that has one only, as the source project did for all: a motion that
        nobody made.
        """
        for chosen in batches_of(names, batch_size):
            flow = np.zeros((len(chosen), length, size_px, size_px, 2), np.float32)
            mask = np.zeros((len(chosen), length), bool)
            for i, name in enumerate(chosen):
                fields, reasons = self.load(name, size_px, clip_px)
                if repeat_single and len(fields) == 1 and not reasons:
                    fields = np.repeat(fields, length, axis=0)
                n = min(length, len(fields))
                flow[i, :n] = fields[:length]
                mask[i, :n] = [place not in reasons for place in range(n)]
            yield flow, mask, chosen


def files_below(folder: Path, *wanted: re.Pattern) -> list[Path]:
    """The files below a folder whose names the first of `wanted` fits that fits any; others are told in the log."""
    paths = [folder / path for path in video_files(folder, bool)]
    found = next(filter(None, ([path for path in paths if name.fullmatch(path.name)] for name in wanted)), [])
    others = Counter(path.suffix.lower() or path.name for path in set(paths).difference(found))
    if found and others:
        kinds = ", ".join(f"{n} {kind}" for kind, n in others.items())
        log.warning("in %s other files are passed over: %s", folder, kinds)
    return found


def clips_by_name(folder: Path, paths: Iterable[Path]) -> dict[str, Path]:
    """Clips by key, in natural order. A folder's name keeps its last dot: `id.003` is a clip, not a suffix."""
    found: dict[str, Path] = {}
    for path in paths:
        name = path.relative_to(folder if path != folder else folder.parent)
        key = clip_key((name if path.is_dir() else name.with_suffix("")).as_posix())
        if found.setdefault(key, path) != path:
            raise ValueError(f"{found[key]} and {path} are the same clip {key!r}. Rename one of the two, or remove it.")
    return dict(sorted(found.items(), key=lambda item: natural_order(item[0])))


def _numbered_files(folder: Path, pattern: re.Pattern) -> dict[int, Path]:
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
        return _numbered_files(folder, PICTURE)
    main = re.compile(rf"frame_det_{faces.most_common(1)[0][0]}_(\d+){SUFFIX}")
    return {number - 1: path for number, path in _numbered_files(folder, main).items()}


def _pair_files(folder: Path) -> dict[int, Path]:
    """The file of each pair of faces in a folder by the first number, ascending; also of those that are missing.

    Numbers start at 0 as in the source project, or at 1 where there is no 0: a higher start means missing pairs. What
    is missing after the last file cannot be known. `StoredError`: a file is no pair of neighbours, or there is none.
    """
    found = _numbered_files(folder, PAIR)
    for first, path in found.items():
        if int(PAIR.fullmatch(path.name)[2]) != first + 1:
            raise StoredError(f"{path.name} must be the pair of {first} and {first + 1}. Number faces without gaps.")
    digits = len(PAIR.fullmatch(found[min(found)].name)[1])
    numbers = range(0 if min(found) != 1 else 1, max(found) + 1)
    return {i: found.get(i, folder / f"flow_{i:0{digits}d}_{i + 1:0{digits}d}.npy") for i in numbers}


def _first_shape(paths: Iterable[Path]) -> tuple[int, ...]:
    """The shape of the first picture or array that can be read."""
    for path in paths:
        with suppress(Exception):
            if path.suffix == ".npy":
                return read_npy(path).shape
            with Image.open(path) as image:
                return image.height, image.width, 3
    raise StoredError("none of its files can be read")


def _open_faces(paths: Sequence[Path], side_px: int, size_px: int) -> Callable[[int], np.ndarray]:
    """What reads pictures: RGB uint8 (size_px, size_px, 3)."""
    whole = np.array([0, 0, side_px, side_px])
    return lambda i: crop_face(read_face(paths[i], side_px), whole, size_px)


def _open_flow(paths: Sequence[Path], side_px: int, size_px: int, clip_px: float | None) -> Callable[[int], np.ndarray]:
    """What reads fields of flow, from a file for each or one for all: float32 (size_px, size_px, 2)."""

    def read(i: int) -> np.ndarray:
        name = paths[i].name if fields is None else f"field {i}"
        field = _checked(read_npy(paths[i]) if fields is None else fields[i], name, side_px)
        with np.errstate(over="ignore"):  # too large for float32 is infinite
            flow = resize_flow(field.astype(np.float32, copy=False), size_px)  # what is not finite stays so
        if not np.isfinite(flow).all():
            raise StoredError(f"{name}: NaN or infinity")
        return flow if clip_px is None else normalise_flow(flow, clip_px)

    fields: Any = None
    if len(paths) == 1:
        (path,) = paths
        fields = _array(path) if path.suffix == ".npy" else _opened(read_flow, path)
        _checked(fields[0], path.name, side_px)
    return read


def _checked(field: np.ndarray, name: str, side_px: int) -> np.ndarray:
    if field.shape != (side_px, side_px, 2) or field.dtype.kind != "f":
        must = f"not decimal numbers {side_px, side_px, 2} like the others"
        raise StoredError(f"{name}: {field.dtype} {field.shape}, {must}")
    return field


def read_face(path: Path, side_px: int) -> np.ndarray:
    """Read one picture, known by its content and turned as its EXIF says: RGB uint8 (side_px, side_px, 3).

    `StoredError`: unreadable, not RGB, more than 8 bits per channel, or of another size. Nothing is converted: among
    colour pictures a grey one is another input.
    """

    def read(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            deep = ";16" in str(image.tile)  # Pillow opens 16-bit RGB as RGB, and cuts it to 8 bits
            if image.mode == "RGB" and not deep and image.size == (side_px, side_px):
                return np.asarray(ImageOps.exif_transpose(image))
            got = f"{image.width}x{image.height} px {image.mode}{' of 16 bits' if deep else ''}"
        raise StoredError(f"{path.name}: {got}, not {side_px}x{side_px} px RGB of 8 bits like the others")

    return _opened(read, path)


def _array(path: Path) -> np.ndarray:
    """All fields of a plain array, (n, H, W, 2)."""
    array = read_npy(path)
    return array[None] if array.ndim == 3 else array


def read_npy(path: Path) -> np.ndarray:
    """The array of an npy file, mapped into memory: read where it is used. `StoredError` with the reason if not."""
    return _opened(partial(np.lib.format.open_memmap, mode="c"), path)  # changes stay in memory


def _opened(read: Callable[[Path], Any], path: Path) -> Any:
    """What `read` makes of a file; what is wrong with it is a `StoredError` without the name of its folder."""
    try:
        return read(path)
    except StoredError:
        raise
    except Exception as error:  # damage makes libraries raise nearly anything
        why = f"unreadable ({getattr(error, 'strerror', None) or error})".replace(f"{path.parent}/", "")
        if isinstance(error, FileNotFoundError) or not os.path.getsize(path):
            why = "empty (0 bytes)" if path.exists() else "missing"
        raise StoredError(f"{path.name}: {why}") from None
