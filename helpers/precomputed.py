"""What is there already instead of videos: pictures of faces, or optical flow.

In: a folder with the samples of many clips. Each of the two readers finds the clips by name and gives, per clip, its
samples in the order of time, what tells one version of its files from another, and the reason of every sample that
cannot be used: such a one is zeros and becomes a masked row. Rows of features made elsewhere: `helpers.external`.

- `FaceTree`: `<clip>/face_000035.jpg`, as the source project and `helpers.faces.export_faces` write them.
- `OpticalFlowSequenceLoader`: `<clip>/flow_0000_0001.npy` as of the source project, `helpers.flow` files, plain arrays.
"""

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageOps

from helpers.flow import flow_header, normalise_flow, read_flow, resize_flow
from helpers.names import clip_key, natural_order, video_files
from helpers.store import NOT_NPY, clip_stamp, read_arrays
from helpers.tracks import crop_face

PICTURE = re.compile(r"(?:.*\D)?(\d+)\D*\.(?:jpe?g|png)", re.I)  # the last number counts: face_frame_0035.jpg
PAIR = re.compile(r"flow_(\d+)_(\d+)\.npy")
PAIRS, ARRAY = "pairs of unknown method", "arrays of unknown method"
TIMES_SUFFIX = "_times"  # of the folder beside the tree in which `helpers.faces` keeps numbers and seconds
LOOKED_AT_CLIPS, LOOKED_AT_SAMPLES = 16, 3  # to find out what most samples of a folder are like
UNREADABLE = Exception  # damage makes Pillow raise nearly anything

Values = tuple[np.ndarray, dict[int, str]]  # of some samples, zeros where one cannot be used; and by place, why not


class StoredError(ValueError):
    """A clip, or a sample of it, whose file cannot be used; the message is the reason."""


@dataclass(frozen=True)
class StoredClip(ABC):
    """The samples of one clip, n of them, to be read in another process; to rows it is what a `FaceTrack` is.

    Attributes:
        paths: The file of each sample, also of one that is missing; or the one file that holds all.
        number: int (n,), ascending: in the names of pictures, or of the frame that a field of flow begins with.
        t_s: (n,) seconds.
        fps: By how much the number grows in a second.
        side_px: Of every sample as it is stored.
        size_px: Of the network's input.
        reader: What reads them, for the manifest.
        n_frames: How many samples of the video they stand for.
    """

    paths: tuple[Path, ...]
    number: np.ndarray
    t_s: np.ndarray
    fps: float
    side_px: int
    size_px: int
    reader: str
    n_frames: int

    def has_face(self, t_s: np.ndarray) -> np.ndarray:
        """True for every time in seconds, bool, same shape: whoever stored the samples has seen the face in each."""
        return np.ones(np.shape(t_s), bool)

    def chunks(self, n: int) -> Iterator[tuple[slice, np.ndarray, dict[int, str]]]:
        """Up to `n` samples at a time.

        Yields:
            Their places; the samples (k, size_px, size_px, C), zeros where one cannot be used; and by place in these,
            why not.
        """
        read = self.opened()
        for first in range(0, len(self.t_s), n):
            places = slice(first, min(first + n, len(self.t_s)))
            yield places, *read(places)

    @abstractmethod
    def opened(self) -> Callable[[slice], Values]:
        """What reads the samples at some places as the network is shown them. `StoredError`: none can be used."""


@dataclass(frozen=True)
class StoredFaces(StoredClip):
    """The pictures of one clip: RGB uint8 (size_px, size_px, 3), each of which stands for the time of one number."""

    def opened(self) -> Callable[[slice], Values]:
        whole = np.array([0, 0, self.side_px, self.side_px])

        def read(path: Path) -> np.ndarray:
            face = read_face(path, self.side_px)
            return face if self.size_px == self.side_px else crop_face(face, whole, self.size_px)

        return lambda places: _each(read, self.paths[places], (self.size_px, self.size_px, 3), np.uint8)


@dataclass(frozen=True)
class StoredFlow(StoredClip):
    """The fields of flow of one clip: float32 (size_px, size_px, 2).

    `made`: how the flow was computed; for `PAIRS`, each field has a file. `clip_px`: fields are cut to +-this after
    resizing and divided by it; None leaves them in pixels.
    """

    made: str
    clip_px: float | None

    def opened(self) -> Callable[[slice], Values]:
        stored = self._stored()

        def read(places: slice) -> Values:
            flow, reasons = stored(places)
            flow = resize_flow(flow, self.size_px)  # what is not finite stays so
            for i in np.flatnonzero(~np.isfinite(flow).all(axis=(1, 2, 3))).tolist():
                place = places.start + i
                name = self.paths[place].name if self.made == PAIRS else f"field {place}"
                flow[i], reasons[i] = 0, f"{name}: NaN or infinity"
            return flow if self.clip_px is None else normalise_flow(flow, self.clip_px), dict(sorted(reasons.items()))

        return read

    def _stored(self) -> Callable[[slice], Values]:
        """What reads the fields at some places in pixels, as they are stored; a file of ours is held as its codes."""
        shape = self.side_px, self.side_px, 2
        if self.made == PAIRS:
            read = lambda path: checked(read_npy(path), path.name, shape)  # noqa: E731
            return lambda places: _each(read, self.paths[places], shape, np.float32)
        (path,) = self.paths
        try:
            fields = _fields_of(path)
        except (ValueError, OSError) as error:
            raise _of_clip(error, path) from None
        return lambda places: (checked(fields(places), path.name, (places.stop - places.start, *shape)), {})


def _each(read: Callable[[Path], np.ndarray], paths: Iterable[Path], shape: tuple[int, ...], dtype: type) -> Values:
    """One sample per file."""
    paths, reasons = list(paths), {}
    values = np.zeros((len(paths), *shape), dtype)
    for i, path in enumerate(paths):
        try:
            values[i] = read(path)
        except StoredError as error:
            reasons[i] = str(error)
    return values, reasons


def _spread(items: Sequence[Any], n: int) -> list[Any]:
    """Up to `n` of the items, evenly spread, the first and the last among them."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(n, len(items))).astype(int))]


def _commonest(values: Iterable[Any]) -> Any:
    """The value that occurs most often, of equally frequent ones the first; None without any."""
    return next((value for value, _ in Counter(value for value in values if value).most_common(1)), None)


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

    Raises:
        StoredError: There are none any more, or two have the same number.
    """
    found: dict[int, Path] = {}
    for name in sorted(os.listdir(folder) if folder.is_dir() else [], key=natural_order):
        if name.startswith(".") or not (match := pattern.fullmatch(name)):
            continue
        number = int(match[1])
        if number > np.iinfo(np.int64).max:
            raise StoredError(f"the number in {name} is too large")
        if found.setdefault(number, folder / name).name != name:
            raise StoredError(f"{found[number].name} and {name} have the same number {number}")
    if not found:
        raise StoredError(f"{folder.name} holds no numbered files")
    return dict(sorted(found.items()))


class Tree(ABC):
    """A folder with the samples of many clips, all square and of one size.

    Attributes:
        clips: Path of each clip by what the folder calls it, in natural order.
        side_px, fps, made: Side, samples or numbers per second, and origin of those in most of the clips that were
            looked at. A network cannot be shown two of a kind.
    """

    parameter: ClassVar[str]
    what: ClassVar[str]
    like: ClassVar[str]
    channels: ClassVar[int]

    def __init__(self, folder: str | Path, fps: float):
        """Find the clips, and what most of their samples are; a few of them are looked at.

        Args:
            folder: Searched to any depth, through links too.
            fps: By how much the numbers in the files' names grow in a second.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: It holds no samples, none that can be read, or such that are not square.
        """
        self.folder, self.fps = Path(folder), float(fps)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.parameter} must be a folder of {self.what}, {folder} is none. Check it.")
        self.clips = clips_by_name(self.folder, self._paths())
        if not self.clips:
            raise ValueError(f"{self.parameter} must hold {self.what} like {self.like}, got none below {folder}.")
        few = _spread(list(self.clips.values()), LOOKED_AT_CLIPS)
        common = _commonest(map(self._kind, few))
        if common is None:
            raise ValueError(
                f"{self.parameter} must hold {self.what}, not one of {len(few)} clips looked at can be read."
            )
        self.fps, self.made, shape = common
        if len(shape) != 3 or shape[0] != shape[1] or shape[2] != self.channels:
            raise ValueError(
                f"the {self.what} of {self.parameter} must have shape (S, S, {self.channels}), got {shape}. "
                "Crop them to squares."
            )
        self.side_px = shape[0]

    def _kind(self, path: Path) -> tuple[float, str, tuple[int, ...]] | None:
        """Rate, origin and commonest shape of a clip's samples; None where they cannot be read."""
        try:
            _, *kind = self._about(path)
        except StoredError:
            return None
        return tuple(kind) if kind[-1] else None

    def stamp(self, name: str) -> str:
        """Tells one version of a clip's files from another: their number, a hash of names, sizes, times of change."""
        paths = self._files(name)
        lines = [f"{path.name}\0{clip_stamp(path)}\n".encode(errors="surrogateescape") for path in paths]
        return f"{len(lines)}-{hashlib.sha256(b''.join(lines)).hexdigest()[:16]}"

    @abstractmethod
    def _paths(self) -> Iterable[Path]:
        """The file or folder of each clip."""

    @abstractmethod
    def _about(self, path: Path) -> tuple[int, float, str, tuple[int, ...] | None]:
        """Number, rate, origin and commonest shape of a clip's samples; None where none that were looked at is read."""

    @abstractmethod
    def _files(self, name: str) -> list[Path]:
        """All files of a clip."""


class FaceTree(Tree):
    """A folder with a folder of numbered JPEG or PNG pictures per clip, all RGB.

    Where `helpers.faces` left exact times beside it, these count, and not `fps`.
    """

    parameter, what, like, channels = "faces_dir", "face pictures", "clip/face_0001.jpg", 3

    def _paths(self) -> Iterable[Path]:
        return dict.fromkeys((self.folder / name).parent for name in video_files(self.folder, PICTURE.fullmatch))

    def _about(self, path: Path) -> tuple[int, float, str, tuple[int, ...] | None]:
        pictures = list(numbered_files(path, PICTURE).values())
        return len(pictures), self.fps, self.what, _commonest(map(_picture_shape, _spread(pictures, LOOKED_AT_SAMPLES)))

    def _files(self, name: str) -> list[Path]:
        times = self._times(name)
        return [*numbered_files(self.clips[name], PICTURE).values(), *([times] if times.exists() else [])]

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers, besides the pictures themselves."""
        return {"faces": self.folder.name, "side_px": self.side_px, "fps": self.fps}

    def job(self, name: str, size_px: int) -> StoredFaces:
        """The pictures of a clip; `StoredError` when they cannot be put in order and time."""
        pictures = numbered_files(self.clips[name], PICTURE)
        number = np.array(list(pictures), np.int64)
        t_s, fps = number / self.fps, self.fps
        if (times := self._times(name)).exists():
            t_s = _exact_times(times, pictures)
            fps = float(np.ptp(number) / np.ptp(t_s)) if len(number) > 1 else fps
        reader, paths = f"Pillow {PIL.__version__}", tuple(pictures.values())
        return StoredFaces(paths, number, t_s, fps, self.side_px, size_px, reader, len(paths))

    def _times(self, name: str) -> Path:
        return self.folder.with_name(self.folder.name + TIMES_SUFFIX) / f"{name}.npz"


def _exact_times(path: Path, pictures: dict[int, Path]) -> np.ndarray:
    """Seconds (n,) of the pictures from the file that `helpers.faces` has written about the clip."""
    try:
        arrays = read_arrays(path, ("frame", "t_s"))
    except ValueError:
        raise StoredError(f"the file of its exact times, {path.name}, is damaged. Export the clip again") from None
    t_s = dict(zip(arrays["frame"].tolist(), arrays["t_s"].tolist(), strict=True))
    if strange := [picture.name for number, picture in pictures.items() if number not in t_s]:
        raise StoredError(f"the exported times say nothing of {strange[0]}. Export the clip again, or remove it")
    return np.array([t_s[number] for number in pictures], np.float64)


def _picture_shape(path: Path) -> tuple[int, int, int] | None:
    try:
        with Image.open(path) as image:
            return image.height, image.width, 3
    except UNREADABLE:
        return None


def read_face(path: Path, side_px: int) -> np.ndarray:
    """Read one JPEG or PNG, known by its content, as it is to be seen: its EXIF orientation is applied.

    Returns:
        RGB uint8 (side_px, side_px, 3).

    Raises:
        StoredError: Missing, empty, unreadable, cut short, not RGB, more than 8 bits per channel, or of another size.
            Nothing is converted: among colour pictures a grey one is another input.
    """
    try:
        with Image.open(path) as image:
            deep = ";16" in str(image.tile)  # Pillow opens 16-bit RGB as RGB, and cuts it to 8 bits
            if image.mode == "RGB" and not deep and image.size == (side_px, side_px):
                return np.asarray(ImageOps.exif_transpose(image))
            got = f"{image.width}x{image.height} px {image.mode}{' of 16 bits' if deep else ''}"
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    raise StoredError(f"{path.name}: {got}, not {side_px}x{side_px} px RGB of 8 bits like the others")


def _unreadable(path: Path, error: Exception) -> StoredError:
    """Why a file cannot be read, without the name of its folder."""
    if isinstance(error, FileNotFoundError):
        why = "missing"
    elif os.path.isfile(path) and not os.path.getsize(path):
        why = "empty (0 bytes)"
    else:
        why = f"unreadable ({getattr(error, 'strerror', None) or error})".replace(f"{path.parent}/", "")
    return StoredError(f"{path.name}: {why}")


class FlowBatch(NamedTuple):
    """`flow (B, T, S, S, 2) float32` in [-1, 1]; `mask (B, T) bool`, False where a field is padding or cannot be used;
    `keys`, B of them.
    """

    flow: np.ndarray
    mask: np.ndarray
    keys: tuple[str, ...]


class OpticalFlowSequenceLoader(Tree):
    """A folder of stored flow: a folder of `flow_0000_0001.npy`, ... per clip, or a file of ours, or a plain array.

    `fps` is for pairs and arrays; our flow files know their own.
    """

    parameter, what, like, channels = "flow_dir", "stored flow", "clip.npz, clip.npy or clip/flow_0000_0001.npy", 2

    def _paths(self) -> Iterable[Path]:
        files = [self.folder / path for path in video_files(self.folder, is_array)]
        trees = {path.parent for path in files if PAIR.fullmatch(path.name)}
        return [*trees, *(path for path in files if path.parent not in trees)]

    def _about(self, path: Path) -> tuple[int, float, str, tuple[int, ...] | None]:
        try:
            if path.is_dir():
                files = list(pair_files(path).values())
                shape = _commonest(map(_field_shape, _spread(files, LOOKED_AT_SAMPLES)))
                return len(files), self.fps, PAIRS, shape
            if path.suffix == ".npy":
                array = _array(path)
                return len(array), self.fps, ARRAY, array.shape[1:]
            (n, *shape), t_s, rate, method = flow_header(path)
        except (ValueError, OSError) as error:
            raise _of_clip(error, path) from None
        if not (rate > 0 and n and t_s.shape == (n,)):
            raise StoredError(f"{path.name}: it must have fields and a rate above 0, got {t_s.shape} times at {rate:g}")
        if np.abs(t_s - np.arange(n) / rate).max() > 0.5 / rate:
            raise StoredError(f"{path.name}: its fields must be {rate:g} a second from 0 s on, its times say otherwise")
        return n, rate, method, tuple(shape)

    def _files(self, name: str) -> list[Path]:
        path = self.clips[name]
        return sorted(path.glob("flow_*.npy")) if path.is_dir() else [path]

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers, besides the fields themselves."""
        return {"flow": self.folder.name, "side_px": self.side_px, "fps": self.fps, "made": self.made}

    def job(self, name: str, size_px: int, clip_px: float | None) -> StoredFlow:
        """The flow of a clip; `StoredError` where none of it can be used, or it is of another kind than the others'."""
        path = self.clips[name]
        n, fps, made, _ = self._about(path)
        if (fps, made) != (self.fps, self.made):
            there, here = f"{self.made}, {self.fps:g} a second", f"{made}, {fps:g} a second"
            raise StoredError(f"its flow is {here}, that of the others {there}: a network cannot be shown both")
        paths = pair_files(path) if path.is_dir() else {}
        number = np.array(list(paths), np.int64) if paths else np.arange(n)
        files, reader = tuple(paths.values()) or (path,), f"stored flow: {made}"
        return StoredFlow(
            files, number, np.arange(n) / fps, fps, self.side_px, size_px, reader, n + 1, made=made, clip_px=clip_px
        )

    def load(self, name: str, size_px: int | None = None, clip_px: float | None = None) -> Values:
        """Read the whole flow of a clip.

        Args:
            name: One of `clips`.
            size_px: Side to which fields are scaled, u and v with them; default: as stored.
            clip_px: See `StoredFlow`; 20 px is I3D's training range.

        Returns:
            Flow float32 (T, size_px, size_px, 2), and by place the reason of every field that cannot be used: zeros.
        """
        if name not in self.clips:
            few = ", ".join(list(self.clips)[:3])
            raise ValueError(f"name must be one of the {len(self.clips)} clips ({few}, ...), got {name!r}. See clips.")
        job = self.job(name, size_px or self.side_px, clip_px)
        return job.opened()(slice(0, len(job.t_s)))

    def batches(
        self,
        names: Sequence[str],
        *,
        batch_size: int,
        length: int,
        size_px: int,
        clip_px: float = 20.0,
        repeat_single: bool = False,
    ) -> Iterator[FlowBatch]:
        """Yield batches of clips in the given order; the last one may hold fewer.

        Args:
            names: Which clips, e.g. all `clips`.
            batch_size: Clips in a batch.
            length: Fields per clip; a longer one keeps its start, a shorter one gets no motion behind.
            size_px, clip_px: See `load`.
            repeat_single: Repeat the field of a clip that has one only, as the source project did for all: a motion
                that nobody made, so it is off.
        """
        if batch_size < 1 or length < 1:
            raise ValueError(f"batch_size and length must be at least 1, got {batch_size} and {length}.")
        for start in range(0, len(names), batch_size):
            chosen = tuple(names[start : start + batch_size])
            flow = np.zeros((len(chosen), length, size_px, size_px, 2), np.float32)
            mask = np.zeros((len(chosen), length), bool)
            for i, name in enumerate(chosen):
                fields, reasons = self.load(name, size_px, clip_px)
                if repeat_single and len(fields) == 1 and not reasons:
                    fields = np.repeat(fields, length, axis=0)
                n = min(length, len(fields))
                flow[i, :n] = fields[:length]
                mask[i, :n] = [place not in reasons for place in range(n)]
            yield FlowBatch(flow, mask, chosen)


def is_array(name: str) -> bool:
    """Say whether a file is taken for arrays of NumPy."""
    return name.endswith((".npz", ".npy"))


def pair_files(folder: Path) -> dict[int, Path]:
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


def _field_shape(path: Path) -> tuple[int, ...] | None:
    try:
        return read_npy(path).shape
    except StoredError:
        return None


def _of_clip(error: Exception, path: Path) -> StoredError:
    """What is wrong with a clip's file, as the reason why the clip cannot be used."""
    return StoredError(str(error).replace(f"{path.parent}/", ""))


def checked(fields: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Flow as float32; `StoredError`: of another shape, or not decimal numbers."""
    if fields.shape != shape:
        raise StoredError(f"{name}: shape {fields.shape}, not {shape} like the others")
    if fields.dtype.kind != "f":
        raise StoredError(f"{name}: {fields.dtype} values, not decimal numbers in pixels")
    with np.errstate(over="ignore"):  # too large for float32 is infinite
        return fields.astype(np.float32, copy=False)


def _fields_of(path: Path) -> Callable[[slice], np.ndarray]:
    """What reads some fields (n, H, W, 2) of a clip's one file."""
    if path.suffix != ".npy":
        return read_flow(path).fields
    array = _array(path)
    return lambda places: np.array(array[places])


def _array(path: Path) -> np.ndarray:
    """All fields of a plain array, (n, H, W, 2)."""
    array = read_npy(path)
    return array[None] if array.ndim == 3 else array


def read_npy(path: Path) -> np.ndarray:
    """The array of an npy file, mapped into memory: read where it is used. `StoredError` with the reason if not."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, *NOT_NPY) as error:
        raise _unreadable(path, error) from None
