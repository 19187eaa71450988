"""Clips that are stored as faces or as flow instead of videos: what their readers and the extraction share.

In: the files of a clip and how many a second there are. Out: what stands in for the clip's `FaceTrack`, and the stamp
that tells one version of the files from another.
"""

import hashlib
import logging
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from helpers.clips import clip_key, find_clips, fitting_keys, natural_order
from helpers.crops import CROPS_PER_CHUNK, FLOWS_PER_CHUNK, Chunk, Clock
from helpers.faces import crop_face
from helpers.files import FolderLock, file_sha256
from helpers.flow import PAIR, flow_in_folder, flow_shape, normalise_flow, open_flow, pair_files, resize_flow
from helpers.store import NOT_NPY, STREAMS, FeatureFile, Stage, clip_stamp, read_arrays, write_features

log = logging.getLogger(__name__)


class StoredError(ValueError):
    """A clip whose stored files cannot be used; the message is the reason."""


@dataclass(frozen=True)
class StoredTrack:
    """Of a `FaceTrack` what rows need: `n_frames` samples at `fps`. Whoever stored them has seen the face in each."""

    fps: float
    n_frames: int

    def has_face(self, t_s: np.ndarray) -> np.ndarray:
        """True for every time in seconds: bool, same shape."""
        return np.ones(np.shape(t_s), bool)


def stamp_of(paths: Iterable[Path]) -> str:
    """Tell one version of some files from another: their number, and a hash of names, sizes and times of change."""
    digest, n = hashlib.sha256(), 0
    for path in paths:
        n += 1
        digest.update(f"{path.name}\0{clip_stamp(path)}\n".encode(errors="surrogateescape"))
    return f"{n}-{digest.hexdigest()[:16]}"


def spread(items: Sequence[Any], n: int) -> list[Any]:
    """Up to `n` of the items, evenly spread, the first and the last among them."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(n, len(items))).astype(int))]


def commonest(found: Iterable[Hashable]) -> Any:
    """The value that occurs most often, of equally frequent ones the first; None without any."""
    return next((value for value, _ in Counter(found).most_common(1)), None)


PICTURE = re.compile(r"(?:.*\D)?(\d+)\D*\.(?:jpe?g|png)", re.I)  # the last number counts: face_frame_0035.jpg
TIMES_SUFFIX = "_times"  # of the folder beside the tree in which `helpers.faces` keeps numbers and seconds
LOOKED_AT_CLIPS, LOOKED_AT_PICTURES = 16, 3  # to find out the side of a tree's pictures
EXIF_ORIENTATION = 0x0112
OTHER_MODES = {
    "1": "black and white",
    "L": "greyscale",
    "LA": "greyscale with transparency",
    "P": "a palette of colours",
    "RGBA": "with transparency (RGBA)",
    "CMYK": "CMYK",
}
UNREADABLE = Exception  # damage makes Pillow raise nearly anything


class PictureError(ValueError):
    """A picture that cannot be used; the message is the reason."""


@dataclass(frozen=True)
class FaceJob:
    """The pictures of one clip, n of them: `paths`, `number (n,)` in their names, ascending, `t_s (n,)` seconds, and
    `fps`, by how much the numbers grow in a second; `side_px` of every picture and `size_px` of the network's input.
    """

    paths: tuple[Path, ...]
    number: np.ndarray
    t_s: np.ndarray
    fps: float
    side_px: int
    size_px: int

    @property
    def track(self) -> StoredTrack:
        """What stands in for the clip's track: a picture stands for the time that one number takes."""
        return StoredTrack(self.fps, len(self.paths))


@dataclass(frozen=True)
class FaceTree:
    """A tree of pictures: `clips` by what the tree calls them, `side_px` of the pictures, and `fps`, by how much the
    numbers in their names grow in a second.
    """

    folder: Path
    clips: dict[str, Path]
    side_px: int
    fps: float

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers, besides the pictures themselves."""
        return {"faces": self.folder.name, "side_px": self.side_px, "fps": self.fps}

    def job(self, name: str, size_px: int) -> FaceJob:
        """The pictures of a clip; `StoredError` when they cannot be put in order and time."""
        pictures = pictures_of(self.clips[name])
        number = np.array(list(pictures), np.int64)
        t_s, fps = number / self.fps, self.fps
        if (times := self._times(name)).exists():
            t_s = _exact_times(times, pictures)
            fps = float(np.ptp(number) / np.ptp(t_s)) if len(number) > 1 else fps
        return FaceJob(tuple(pictures.values()), number, t_s, fps, self.side_px, size_px)

    def stamp(self, name: str) -> str:
        """Tells one version of a clip's pictures, and of their exact times, from another."""
        times = self._times(name)
        return stamp_of([*pictures_of(self.clips[name]).values(), *([times] if times.exists() else [])])

    def _times(self, name: str) -> Path:
        return self.folder.with_name(self.folder.name + TIMES_SUFFIX) / f"{name}.npz"


def open_face_tree(folder: str | Path, fps: float) -> FaceTree:
    """Find the clips of a tree and the side of its pictures; a few of them are looked at.

    Args:
        folder: Searched to any depth, through links too; hidden folders and files are left out. A folder that holds
            numbered pictures is a clip.
        fps: By how much the numbers in the names grow in a second: the clips' own rate where they number frames.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no pictures, none that can be read, or such that are not square.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"faces_dir must be a folder of face pictures, {folder} is none. Check the path.")
    clips: dict[str, Path] = {}
    for path in _picture_folders(folder):
        name = clip_key(path.relative_to(folder).as_posix())
        if name in clips:
            raise ValueError(f"{clips[name]} and {path} are the same clip {name!r}. Rename one of the two.")
        clips[name] = path
    if not clips:
        raise ValueError(f"faces_dir must hold pictures like clip/face_0001.jpg, got none below {folder}.")
    clips = dict(sorted(clips.items(), key=lambda item: natural_order(item[0])))
    return FaceTree(folder, clips, _side(list(clips.values())), float(fps))


def _picture_folders(root: Path) -> Iterator[Path]:
    """Every folder that holds numbered pictures; each folder once, however many links lead to it."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        stat = os.stat(folder)
        again = (stat.st_dev, stat.st_ino) in seen
        seen.add((stat.st_dev, stat.st_ino))
        folders[:] = [] if again else sorted(name for name in folders if not name.startswith("."))
        if not again and any(map(_is_numbered, names)):
            yield Path(folder)


def _is_numbered(name: str) -> bool:
    return PICTURE.fullmatch(name) is not None and not name.startswith(".")


def _side(folders: list[Path]) -> int:
    """Side in pixels of most of the pictures that are looked at."""
    looked_at = [p for f in spread(folders, LOOKED_AT_CLIPS) for p in spread(_numbered(f), LOOKED_AT_PICTURES)]
    size = commonest(size for size in map(_size, looked_at) if size)
    if size is None:
        raise ValueError(f"faces_dir must hold pictures, not one of {len(looked_at)} looked at can be read.")
    if size[0] != size[1]:
        raise ValueError(f"the pictures of faces_dir must be square, got {size[0]}x{size[1]} px. Crop them to squares.")
    return size[0]


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            return image.size
    except UNREADABLE:
        return None


def _numbered(folder: Path) -> list[Path]:
    """The numbered pictures in a folder in natural order; other files are passed over."""
    return [folder / name for name in sorted(filter(_is_numbered, os.listdir(folder)), key=natural_order)]


def pictures_of(folder: Path) -> dict[int, Path]:
    """The pictures of a clip by the last number in their names, ascending.

    Raises:
        StoredError: There are none any more, or two have the same number.
    """
    found: dict[int, Path] = {}
    for path in _numbered(folder) if folder.is_dir() else []:
        number = int(PICTURE.fullmatch(path.name)[1])
        if number > np.iinfo(np.int64).max:
            raise StoredError(f"the number in {path.name} is too large")
        if number in found:
            raise StoredError(f"{found[number].name} and {path.name} have the same number {number}")
        found[number] = path
    if not found:
        raise StoredError("its folder holds no numbered pictures")
    return dict(sorted(found.items()))


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


def read_face(path: Path, side_px: int) -> np.ndarray:
    """Read one picture as it is to be seen (its EXIF orientation is applied).

    Args:
        path: JPEG or PNG, by content.
        side_px: Side that it must have.

    Returns:
        RGB uint8 (side_px, side_px, 3).

    Raises:
        PictureError: Empty, unreadable, cut short, not RGB, more than 8 bits per channel, or of another size. Nothing
            is converted: among colour pictures a grey one is another input.
    """
    try:
        with Image.open(path) as image:
            _require_like_all(image, side_px)
            if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
                return np.asarray(ImageOps.exif_transpose(image))
            return np.asarray(image)
    except PictureError as error:
        raise PictureError(f"{path.name}: {error}") from None
    except FileNotFoundError:
        raise PictureError(f"{path.name}: there is no such file any more") from None
    except PIL.UnidentifiedImageError:
        what = "not a picture" if path.stat().st_size else "empty (0 bytes)"
        raise PictureError(f"{path.name}: {what}") from None
    except UNREADABLE as error:
        why = getattr(error, "strerror", None) or error  # the text of the others names no folder
        raise PictureError(f"{path.name}: unreadable ({why})") from None


def _require_like_all(image: Image.Image, side_px: int) -> None:
    """Refuse by the header what is not 8-bit RGB of the tree's size."""
    if ";16" in str(image.tile) or image.mode.startswith("I"):  # Pillow opens 16-bit RGB as RGB, and cuts it to 8 bits
        raise PictureError("16 bits per channel, not 8")
    if image.mode != "RGB":
        raise PictureError(f"{OTHER_MODES.get(image.mode, image.mode)}, not RGB")
    if image.size != (side_px, side_px):
        raise PictureError(f"{image.width}x{image.height} px, not {side_px}x{side_px} px like the others")


def stored_crops(job: FaceJob) -> Iterator[Chunk]:
    """Every picture of a clip, scaled like a face crop: RGB uint8 (n, size_px, size_px, 3), zeros where it is bad."""
    whole = np.array([0, 0, job.side_px, job.side_px])
    clock = Clock()
    for first in range(0, len(job.paths), CROPS_PER_CHUNK):
        part = slice(first, first + CROPS_PER_CHUNK)
        paths = job.paths[part]
        crops = np.zeros((len(paths), job.size_px, job.size_px, 3), np.uint8)
        unusable = {}
        with clock("reading"):
            for place, path in enumerate(paths):
                try:
                    face = read_face(path, job.side_px)
                    crops[place] = face if job.size_px == job.side_px else crop_face(face, whole, job.size_px)
                except PictureError as error:
                    unusable[place] = str(error)
        reader = f"Pillow {PIL.__version__}"
        yield Chunk(crops, job.t_s[part], job.number[part], reader, unusable=unusable, spent_s=clock.read())


LOOKED_AT_CLIPS, LOOKED_AT_FIELDS = 5, 3  # to find out what most fields of a tree are like
PAIRS, ARRAY = "pairs of unknown method", "arrays of unknown method"


class FieldError(ValueError):
    """A field of flow that cannot be used; the message is the reason."""


@dataclass(frozen=True)
class FlowJob:
    """The stored flow of one clip: a folder of pairs or a file, `n_flows` fields `fps` times a second, as `made` says.

    `side_px` of every field, `input_px` of the network; `clip_px`: see `helpers.flow.normalise_flow`.
    """

    path: Path
    n_flows: int
    fps: float
    made: str
    side_px: int
    input_px: int
    clip_px: float

    @property
    def track(self) -> StoredTrack:
        """What stands in for the clip's track: flow lies between samples, of which there is one more."""
        return StoredTrack(self.fps, self.n_flows + 1)


@dataclass(frozen=True)
class FlowTree:
    """Stored flow of many clips: `clips` by what the tree calls them; side, rate and origin of most of their fields."""

    folder: Path
    clips: dict[str, Path]
    side_px: int
    fps: float
    made: str

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers, besides the fields themselves."""
        return {"flow": self.folder.name, "side_px": self.side_px, "fps": self.fps, "made": self.made}

    def job(self, name: str, input_px: int, clip_px: float) -> FlowJob:
        """The flow of a clip; `StoredError` where none of it can be used, or it is of another kind than the tree's."""
        path = self.clips[name]
        n_flows, fps, made = _about(path, self.fps)
        if (fps, made) != (self.fps, self.made):
            there, here = f"{self.made}, {self.fps:g} a second", f"{made}, {fps:g} a second"
            raise StoredError(f"its flow is {here}, that of the others {there}: a network cannot be shown both")
        return FlowJob(path, n_flows, fps, made, self.side_px, input_px, clip_px)

    def stamp(self, name: str) -> str:
        """Tells one version of a clip's flow from another."""
        path = self.clips[name]
        return stamp_of(sorted(path.glob("flow_*.npy")) if path.is_dir() else [path])


def open_flow_tree(folder: str | Path, fps: float) -> FlowTree:
    """Find the clips of a folder of stored flow, and what most of their fields are; a few of them are looked at.

    Args:
        folder: Searched to any depth for flow files, arrays, and folders of pairs.
        fps: Fields per second, for trees of pairs and arrays. Our flow files know their own.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no flow, none that can be read, or such that is not square.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"flow_dir must be a folder of stored flow, {folder} is none. Check the path.")
    clips = {clip_key(name): path for name, path in flow_in_folder(folder).items()}
    looked_at = spread(list(clips.values()), LOOKED_AT_CLIPS)
    kind = commonest(kind for kind in (_kind(path, fps) for path in looked_at) if kind)
    shape = commonest(shape for path in looked_at for shape in _shapes(path))
    if kind is None or shape is None:
        raise ValueError(f"flow_dir must hold flow, not one of {len(looked_at)} clips looked at can be read.")
    if len(shape) != 3 or shape[0] != shape[1] or shape[2] != 2:
        raise ValueError(f"the fields of flow_dir must have shape (S, S, 2), got {shape}. Crop them to squares.")
    return FlowTree(folder, clips, shape[0], *kind)


def _kind(path: Path, fps: float) -> tuple[float, str] | None:
    try:
        return _about(path, fps)[1:]
    except StoredError:
        return None


def _about(path: Path, fps: float) -> tuple[int, float, str]:
    """How many fields a clip has, how many a second, and how they were made; StoredError with the reason if not."""
    with _refusing(path):
        if path.is_dir():
            return len(pair_files(path)), float(fps), PAIRS
        if path.suffix == ".npy":
            return len(_plain_array(path)), float(fps), ARRAY
        arrays = read_arrays(path, ("t_s", "fps", "method"))
        t_s, rate = arrays["t_s"], float(arrays["fps"])
    if not (rate > 0 and t_s.ndim == 1 and len(t_s)):
        raise StoredError(f"{path.name}: it must have fields and a rate above 0, got {t_s.shape} times at {rate:g}")
    if np.abs(t_s - np.arange(len(t_s)) / rate).max() > 0.5 / rate:
        raise StoredError(f"{path.name}: its fields must be {rate:g} a second from 0 s on, its times say otherwise")
    return len(t_s), rate, str(arrays["method"])


def _shapes(path: Path) -> Iterator[tuple[int, ...]]:
    """Shapes of a few fields of a clip; nothing of what cannot be read."""
    try:
        if path.is_dir():
            for file in spread([file for file in pair_files(path).values() if file], LOOKED_AT_FIELDS):
                yield _loaded(file).shape
        else:
            yield (_plain_array(path).shape if path.suffix == ".npy" else flow_shape(path))[1:]
    except ValueError:
        return


def stored_flows(job: FlowJob) -> Iterator[Chunk]:
    """Every field of a clip, scaled and normalised: float32 (n, input_px, input_px, 2) in [-1, 1], bad ones zeros."""
    number, read = _reader(job)
    clock = Clock()
    for first in range(0, job.n_flows, FLOWS_PER_CHUNK):
        places = np.arange(first, min(first + FLOWS_PER_CHUNK, job.n_flows))
        flows = np.zeros((len(places), job.input_px, job.input_px, 2), np.float32)
        unusable = {}
        with clock("reading"):
            for i, place in enumerate(places):
                try:
                    flows[i] = resize_flow(read(place), job.input_px)
                except FieldError as error:
                    unusable[i] = str(error)
            flows = normalise_flow(flows, job.clip_px)
        reader = f"stored flow: {job.made}"
        yield Chunk(flows, places / job.fps, number[places], reader, unusable=unusable, spent_s=clock.read())


def _reader(job: FlowJob) -> tuple[np.ndarray, Callable[[int], np.ndarray]]:
    """Numbers (n,) of the samples that the fields of a clip begin with, and what reads the field at a place."""
    if job.path.is_dir():
        files = list(pair_files(job.path).items())
        number = np.array([int(PAIR.fullmatch(name)[1]) for name, _ in files], np.int64)
        return number, lambda place: read_field(*files[place], job.side_px)
    with _refusing(job.path):
        fields = _plain_array(job.path).__getitem__ if job.path.suffix == ".npy" else _decoded(job.path)
    return np.arange(job.n_flows), lambda place: _checked(fields(place), f"field {place}", job.side_px)


def _decoded(path: Path) -> Callable[[int], np.ndarray]:
    """What reads the field at a place of our file: its codes stay in memory, and two pieces of it as flow."""
    fields, _ = open_flow(path)

    @lru_cache(maxsize=1)
    def piece(first: int) -> np.ndarray:
        with _refusing(path):
            return fields(first, first + FLOWS_PER_CHUNK)

    return lambda place: piece(place // FLOWS_PER_CHUNK * FLOWS_PER_CHUNK)[place % FLOWS_PER_CHUNK]


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Make of what is wrong with a clip's file the reason why the clip cannot be used."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise StoredError(str(error).replace(f"{path.parent}/", "")) from None


def read_field(name: str, path: Path | None, side_px: int) -> np.ndarray:
    """Read the field of one pair.

    Args:
        name: Of the file.
        path: The file; None where it is missing.
        side_px: Side that the field must have.

    Returns:
        Flow float32 (side_px, side_px, 2) in pixels.

    Raises:
        FieldError: Missing, empty, unreadable, cut short, of another shape, not decimal numbers, or not finite.
    """
    if path is None or not path.exists():
        raise FieldError(f"{name}: missing")
    return _checked(_loaded(path), name, side_px)


def _checked(field: np.ndarray, name: str, side_px: int) -> np.ndarray:
    if field.shape != (side_px, side_px, 2):
        raise FieldError(f"{name}: shape {field.shape}, not {(side_px, side_px, 2)} like the others")
    if field.dtype.kind != "f":
        raise FieldError(f"{name}: {field.dtype} values, not decimal numbers in pixels")
    if not np.isfinite(field).all():
        raise FieldError(f"{name}: NaN or infinity")
    return field.astype(np.float32, copy=False)


def _loaded(path: Path) -> np.ndarray:
    """The array of an npy file, read where it is used."""
    try:
        if not path.stat().st_size:
            raise FieldError(f"{path.name}: empty (0 bytes)")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FieldError:
        raise
    except OSError as error:
        raise FieldError(f"{path.name}: unreadable ({error.strerror or error})") from None
    except NOT_NPY as error:
        with open(path, "rb") as file:
            plain = file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX
        what = f"cut short or damaged ({error})" if plain else "not an npy file"
        raise FieldError(f"{path.name}: {what}") from None


def _plain_array(path: Path) -> np.ndarray:
    """All fields of a plain array, (n, H, W, 2)."""
    array = _loaded(path)
    return array[None] if array.ndim == 3 else array


TIMES = ("t_s", "t_start_s", "t_end_s")
NOT_FEATURES = ("clip", "row", "frame", "valid", *TIMES)
FLAGS = {"true": True, "1": True, "false": False, "0": False}
NOT_A_NUMBER = ["", "nan", "NaN", "NA", "null"]
CELLS_AT_A_TIME = 2**21  # of a CSV: 2,097,152 numbers are 16 MB


def table_pieces(path: Path, *, features: bool) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """Read a CSV some lines at a time.

    Args:
        path: UTF-8, one line of column names.
        features: Whether the columns that are not known by name are numbers to be read; otherwise they are passed over.

    Yields:
        The columns that are known by name, with their types; the others as float32 (n, D), NaN for an empty cell.

    Raises:
        ValueError: Not such a CSV, no column `clip`, or a cell that is not what its column holds, with its line.
    """
    reading: dict[str, Any] = {"encoding": "utf-8-sig", "low_memory": False}
    try:
        header = pd.read_csv(path, nrows=0, dtype=str, **reading).columns.tolist()
        known = [name for name in header if name in NOT_FEATURES]
        others = [name for name in header if name not in NOT_FEATURES] if features else []
        _check_header(path, known, others, header, features)
        reading |= {"keep_default_na": False, "dtype": dict.fromkeys(known, str)}
        reading |= {"na_values": dict.fromkeys(others, NOT_A_NUMBER), "chunksize": CELLS_AT_A_TIME // len(header) + 1}
        line = 2
        with pd.read_csv(path, **reading) as pieces:
            for piece in pieces:
                if not isinstance(piece.index, pd.RangeIndex):
                    raise ValueError(f"{path.name} must have a name for each column, got lines with further cells.")
                piece.index = range(line, line + len(piece))
                line += len(piece)
                yield _known(path, piece[known]), _numbers(path, piece[others])
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not a CSV in UTF-8 ({' '.join(str(error).split())}).") from None
    if line == 2:
        raise ValueError(f"{path.name} must have lines below its column names, got none.")


def _check_header(path: Path, known: list[str], others: list[str], header: list[str], features: bool) -> None:
    if "clip" not in known:
        raise ValueError(f"{path.name} must have a column 'clip', got {', '.join(header[:8])}.")
    if features and not others:
        raise ValueError(f"{path.name} must have columns of features beside {', '.join(known)}, got none.")


def _known(path: Path, texts: pd.DataFrame) -> pd.DataFrame:
    """The columns that are known by name with their types; the index is the number of the line in the file."""
    made = {}
    for column in texts:
        cells = texts[column].fillna("").str.strip()
        if column == "clip":
            made[column], wrong, rule = texts[column].fillna(""), cells == "", "name a clip"  # blanks may belong to it
        elif column == "valid":
            made[column] = cells.str.lower().map(FLAGS)
            wrong, rule = made[column].isna(), "be True or False"
        else:
            made[column] = cells.map(_exact).astype(np.float64)
            wrong, rule = ~np.isfinite(made[column]), "be a number"
            if column in ("row", "frame"):
                wrong, rule = wrong | (made[column] % 1 != 0), "be a whole number"
        if wrong.any():
            line = wrong.idxmax()
            raise ValueError(f"{path.name} line {line}: {column} must {rule}, got {texts[column][line]!r}.")
    return pd.DataFrame(made).astype({"valid": bool} if "valid" in made else {})


def _exact(text: str) -> float:
    """The number that a text says, to the last bit, which older readers of CSV miss; NaN for another text."""
    try:
        return float(text)
    except ValueError:
        return np.nan


def _numbers(path: Path, cells: pd.DataFrame) -> np.ndarray:
    """Cells as float32 (n, D); one that is not a number is a ValueError with its line and column."""
    for column in cells.columns[[dtype.kind not in "fiu" for dtype in cells.dtypes]]:
        wrong = pd.to_numeric(cells[column].astype(str), errors="coerce").isna() & cells[column].notna()
        if wrong.any():
            line = wrong.idxmax()
            raise ValueError(f"{path.name} line {line}: {column} must be a number, got {cells[column][line]!r}.")
    with np.errstate(over="ignore"):  # too large for float32 is infinite, and then invalid
        return cells.to_numpy(np.float32, na_value=np.nan)


@dataclass(frozen=True)
class Layout:
    """Features of many clips as they were found.

    Attributes:
        kind: "files", "array" or "table".
        names: What the files call the clips.
        sha256: Of the file; of a folder, of the sorted lines `<sha256>  <path>`.
        index_sha256: Of the index CSV of an array, "" without one.
        rows: From a name to its rows and the reason of every invalid one. ValueError: they cannot be used.
    """

    kind: str
    names: list[str]
    sha256: str
    rows: Callable[[str], tuple[FeatureFile, dict[int, str]]]
    index_sha256: str = ""


def open_layout(
    source: str | Path, scratch: str | Path, *, index: str | Path | None = None, fps: float | None = None
) -> Layout:
    """Find out which layout a source has, and read what it says about its rows.

    Args:
        source: A folder, a `.npy` or a `.csv`.
        scratch: Folder for the numbers of a CSV, float32, as long as the layout is used.
        index: Index CSV of a `.npy`; default: the file of the same name with `.csv`. Its lines are those of the array
            in order, or a column `row` says which they are, from 0.
        fps: Frames per second, for rows without times.

    Raises:
        FileNotFoundError: The source or its index is missing.
        ValueError: Not a layout that is read; a table that names file, line and column of what is wrong with it.
    """
    source = Path(source)
    if fps is not None and not 0 < fps < np.inf:
        raise ValueError(f"fps must be above 0, got {fps}.")
    if not source.exists():
        raise FileNotFoundError(f"source must be a folder or a file of features, {source} does not exist.")
    suffix = source.suffix.lower()
    if index is not None and suffix != ".npy":
        raise ValueError(f"index must be left out unless the source is a .npy, got it with {source}.")
    if source.is_dir():
        return _files(source, fps)
    if suffix == ".npy":
        return _array(source, Path(index) if index is not None else source.with_suffix(".csv"), fps)
    if suffix == ".csv":
        return _table(source, Path(scratch), fps)
    raise ValueError(f"source must be a folder, a .npy with an index, or a .csv, got {source}.")


def _files(folder: Path, fps: float | None) -> Layout:
    paths: dict[str, Path] = {}
    for path in folder.rglob("*.np[yz]"):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if path.name.startswith("."):
            continue
        if name in paths:
            raise ValueError(f"{folder} must hold one file of {name}, got .npy and .npz. Remove one of the two.")
        paths[name] = path
    if not paths:
        raise ValueError(f"{folder} must hold a .npy or .npz per clip, got none.")
    names = sorted(paths, key=natural_order)
    lines = sorted(f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths.values())

    def rows(name: str) -> tuple[FeatureFile, dict[int, str]]:
        arrays = _arrays_of(paths[name])
        try:
            return usable_rows(arrays.pop("features"), arrays, fps)
        except ValueError as error:
            raise ValueError(f"{paths[name].name}: {error}") from None

    listing = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    return Layout("files", names, listing, rows)


def _arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays of one clip that are known by name; an only array is the features."""
    try:
        arrays = read_arrays(path) if path.suffix == ".npz" else {"features": np.asarray(_mapped(path))}
    except ValueError:
        raise ValueError(f"{path.name} is damaged, or holds objects instead of numbers. Make it again.") from None
    if len(arrays) == 1:
        return {"features": next(iter(arrays.values()))}
    if "features" not in arrays:
        raise ValueError(f"{path.name} must hold an array 'features', got {', '.join(sorted(arrays)) or 'none'}.")
    return {name: array for name, array in arrays.items() if name in ("features", "frame", "valid", *TIMES)}


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read as a plain array ({error}). Make it again.") from None


def _array(path: Path, index: Path, fps: float | None) -> Layout:
    if not index.exists():
        raise FileNotFoundError(
            f"{index} is missing: an array needs an index CSV whose column 'clip' says whose its rows are. Name it."
        )
    array = _mapped(path)
    if array.ndim != 2:
        raise ValueError(f"{path.name} must have shape (n, D), got {array.shape}.")
    table = pd.concat([piece for piece, _ in table_pieces(index, features=False)])
    if "row" not in table and len(table) != len(array):
        raise ValueError(f"{index.name} must have a line per row of {path.name}, {len(array)}, got {len(table)}.")
    at = table.pop("row").to_numpy() if "row" in table else np.arange(len(table))
    odd = (at < 0) | (at >= len(array)) | pd.Series(at).duplicated().to_numpy()
    if odd.any():
        line = int(odd.argmax())
        raise ValueError(
            f"{index.name} line {line + 2}: row must be 0 to {len(array) - 1}, each once, got {at[line]:g}. "
            f"Take the index that belongs to {path.name}."
        )
    _check_once(index, table)
    of_clip = _by_clip(table)
    rows = partial(_rows_of_array, partial(_mapped, path), at.astype(np.int64), table, of_clip, fps)
    return Layout("array", list(of_clip), file_sha256(path), rows, file_sha256(index))


def _table(path: Path, scratch: Path, fps: float | None) -> Layout:
    """A CSV, turned into an array on disk piece by piece: as text it may be larger than memory."""
    numbers = scratch / "features.float32"
    parts, width = [], 0
    with open(numbers, "wb") as file:
        for meta, features in table_pieces(path, features=True):
            file.write(features.tobytes())
            parts.append(meta)
            width = features.shape[1]
    table = pd.concat(parts)
    _check_once(path, table)
    mapped = partial(np.memmap, numbers, np.float32, "r", shape=(len(table), width))
    table = table.drop(columns="row", errors="ignore")
    of_clip = _by_clip(table)
    rows = partial(_rows_of_array, mapped, np.arange(len(table)), table, of_clip, fps)
    return Layout("table", list(of_clip), file_sha256(path), rows)


def _check_once(path: Path, table: pd.DataFrame) -> None:
    """Raise ValueError when two lines give a clip the same time; the table's index is the number of the line."""
    known = (["t_start_s", "t_end_s"], ["t_s"], ["frame"])
    times = next((names for names in known if set(names) <= set(table.columns)), None)
    again = table[table.duplicated(["clip", *times])] if times else table[:0]
    if len(again):
        clip, time = again.iloc[0][["clip", times[0]]]
        raise ValueError(
            f"{path.name} line {again.index[0]}: {clip} must have one row at a time, got another with {times[0]} "
            f"{time:g}. Keep the right one."
        )


def _by_clip(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Lines of each clip, by its name."""
    return table.groupby("clip", sort=False).indices


def _rows_of_array(
    mapped: Callable[[], np.ndarray],
    at: np.ndarray,
    table: pd.DataFrame,
    of_clip: Mapping[str, np.ndarray],
    fps: float | None,
    name: str,
) -> tuple[FeatureFile, dict[int, str]]:
    lines = of_clip[name]
    columns = {column: table[column].to_numpy()[lines] for column in table.columns if column != "clip"}
    # mapped anew for each clip: pages once read do not stay in this process's memory
    return usable_rows(np.asarray(mapped()[at[lines]]), columns, fps)


def usable_rows(
    features: np.ndarray, columns: Mapping[str, np.ndarray], fps: float | None
) -> tuple[FeatureFile, dict[int, str]]:
    """Rows of one clip in the order of time; those with values that are not finite are zero and invalid.

    Args:
        features: Numbers (n, D).
        columns: Some of `frame`, `valid` and `TIMES`, each (n,).
        fps: Frames per second, for rows without times.

    Returns:
        The rows, `frame` -1 where it is unknown, and the reason of every invalid one by its number.
    """
    if features.ndim != 2 or 0 in features.shape or features.dtype.kind not in "fiu":
        raise ValueError(f"features must be numbers of shape (n, D), got {features.dtype} {features.shape}.")
    for name, column in columns.items():
        if column.shape != (len(features),) or column.dtype.kind not in "fiub":
            raise ValueError(f"{name} must be numbers of shape ({len(features)},), got {column.dtype} {column.shape}.")
    start_s, end_s, frame = _placed(columns, len(features), fps)
    with np.errstate(over="ignore"):
        features = features.astype(np.float32)
    given = np.asarray(columns.get("valid", np.ones(len(features)))).astype(bool)
    order = np.argsort((start_s + end_s) / 2, kind="stable")
    features, given = features[order], given[order]
    finite = np.isfinite(features).all(axis=1)
    reasons = {int(i): "marked invalid where it was made" for i in np.flatnonzero(~given)}
    for i in np.flatnonzero(~finite):
        reasons[int(i)] = f"value {int(np.isfinite(features[i]).argmin())} is not finite"
    features[~finite] = 0
    return FeatureFile(features, start_s[order], end_s[order], frame[order], given & finite), reasons


def _placed(columns: Mapping[str, np.ndarray], n: int, fps: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start and end of each row in seconds, and its first frame."""
    start_s, end_s, frame = (columns.get(name) for name in ("t_start_s", "t_end_s", "frame"))
    if (start_s is None) != (end_s is None):
        raise ValueError("t_start_s and t_end_s must come together, got one of the two.")
    if start_s is None:
        start_s = end_s = columns.get("t_s")
    if start_s is None:
        if fps is None:
            raise ValueError("rows must have times (t_s, or t_start_s and t_end_s), got none. Give fps.")
        frame = np.arange(n) if frame is None else frame
        start_s, end_s = frame / fps, (frame + 1) / fps
    frame = np.full(n, -1) if frame is None else frame
    wrong = ~(np.isfinite(start_s) & np.isfinite(end_s) & (end_s >= start_s) & (frame % 1 == 0))
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(
            f"row {i} must have a whole frame and end when or after it starts, "
            f"got frame {frame[i]:g}, {start_s[i]:g} to {end_s[i]:g} s."
        )
    return start_s.astype(np.float64), end_s.astype(np.float64), frame.astype(np.int64)


SHOWN = 5  # names that an error lists


def import_features(
    source: str | Path,
    out: str | Path,
    stream: str,
    *,
    data: str | Path,
    index: str | Path | None = None,
    fps: float | None = None,
    skip_unmatched: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Make a run's stage out of features from elsewhere; started again, it goes on.

    Rows are brought into the order of time. Rows with values that are not finite become invalid, with the reason in the
    manifest; so does a clip whose file is damaged, and a clip of the data folder without features, as failed.

    Args:
        source: See `open_layout`, as `index` and `fps`.
        out: The run's folder.
        stream: "static" or "dynamic", which becomes the name of the stage.
        data: The folder of clips. Features belong to the clip with that key, or whose key ends in the name.
        index: Index CSV of a `.npy`; default: the file of the same name with `.csv`.
        fps: Frames per second, for rows without times.
        skip_unmatched: Leave out features whose name fits no clip or several, with the reason, instead of refusing.
        progress: Whether to show a progress bar.

    Returns:
        The manifest of the stage.

    Raises:
        ValueError: Names that fit no clip or several; a damaged table; no usable rows; rows of different widths; a
            stage that is there already and was made otherwise.
        LockedError: The run is being filled.
    """
    if stream not in STREAMS:
        raise ValueError(f"stream must be {' or '.join(STREAMS)}, got {stream!r}.")
    source, out, clips = Path(source), Path(out), find_clips(data)
    with FolderLock(out), tempfile.TemporaryDirectory(dir=out, prefix=".part-") as scratch:
        layout = open_layout(source, scratch, index=index, fps=fps)
        named, refused = match_clips(layout.names, clips.index)
        if refused and (not skip_unmatched or not named):
            _refuse(source, refused, skip_unmatched)
        failed, width = _survey(layout, named, progress)
        identity, made_with = _identity(layout, source, fps), {"source": str(source.resolve())}
        with Stage(out / stream, stream, identity, made_with) as stage:
            for name, reason in refused.items():
                log.warning("%s is left out: %s", name, reason)
                stage.fail(name, reason)
            counts = {"clips": len(clips), "made": 0, "found": 0, "failed": 0, "rows": 0, "invalid_rows": 0}
            counts |= {"feature_dim": width, "unmatched": len(refused)}
            for key in clips.index:
                reason = failed.get(key) if key in named else f"there are no features of it in {source.name}"
                if reason is not None:
                    _leave_out(stage, key, reason, counts)
                else:
                    _write_clip(stage, layout, key, named[key], counts)
            return stage.finish(**counts)


def match_clips(names: Iterable[str], keys: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Find the clip of each name.

    Args:
        names: What the features call their clips: keys, or ends of keys, with or without a video's suffix.
        keys: Of the clips there are.

    Returns:
        From key to name; and from every other name to the reason: it fits no clip, several, or another name's clip.
    """
    names = list(names)
    named: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name, fitting in zip(names, fitting_keys(names, keys), strict=True):
        if not fitting:
            refused[name] = "there is no such clip"
        elif len(fitting) > 1:
            refused[name] = f"it fits {fitting[0]} and {fitting[1]}"
        elif named.setdefault(fitting[0], name) != name:
            refused[name] = f"{named[fitting[0]]} means the same clip {fitting[0]}"
    return named, refused


def _refuse(source: Path, refused: dict[str, str], skip_unmatched: bool) -> None:
    listed = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:SHOWN])
    more = f"; and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
    advice = "Check the data folder." if skip_unmatched else "Call them by key, or leave them out (skip_unmatched)."
    raise ValueError(f"names in {source.name} must fit one clip each, got {listed}{more}. {advice}")


def _survey(layout: Layout, named: dict[str, str], progress: bool) -> tuple[dict[str, str], int]:
    """Read every clip once before the first is written: the reasons of those that cannot be used, and the width."""
    failed: dict[str, str] = {}
    first: tuple[str, int] | None = None
    for key, name in tqdm(named.items(), unit="clip", disable=not progress):
        try:
            rows, _ = layout.rows(name)
        except ValueError as error:
            failed[key] = str(error)
            continue
        first = first or (name, rows.features.shape[1])
        if rows.features.shape[1] != first[1]:
            raise ValueError(
                f"features must be of one width, got {first[1]} for {first[0]} and {rows.features.shape[1]} "
                f"for {name}. Take the features of one network."
            )
    if first is None:
        raise ValueError(f"a clip at least must have usable features, got none of {len(named)}: {min(failed.values())}")
    return failed, first[1]


def _identity(layout: Layout, source: Path, fps: float | None) -> dict[str, Any]:
    """What later stages compare and name: `weights` as other stages have it, so that nothing takes it for ours."""
    return {
        "parameters": {"weights": "elsewhere"},
        "weights": {"name": "elsewhere", "source": source.name, "sha256": layout.sha256},
        "elsewhere": {"layout": layout.kind, "index_sha256": layout.index_sha256, "fps": fps},
    }


def _leave_out(stage: Stage, key: str, reason: str, counts: dict[str, int]) -> None:
    log.warning("%s is left out: %s", key, reason)
    stage.path(key).unlink(missing_ok=True)  # of an earlier import, when the clip could be told from others
    stage.fail(key, reason)
    counts["failed"] += 1


def _write_clip(stage: Stage, layout: Layout, key: str, name: str, counts: dict[str, int]) -> None:
    rows, reasons = layout.rows(name)
    stamp = layout.sha256[:16]
    done = stage.done(key, stamp)
    if not done:
        write_features(stage.path(key), rows, stamp)
    counts["found" if done else "made"] += 1
    counts["rows"] += len(rows.valid)
    counts["invalid_rows"] += len(reasons)
    for row, reason in sorted(reasons.items()):
        stage.fail(key, reason, row)
