"""Flow that is stored instead of computed, as the motion network's input: trees of one field per file as the source
project writes them (`<clip>/flow_0000_0001.npy`), our flow files and plain arrays.

In: a folder of them, see `helpers.engine.flow_files` and `helpers.engine.flow_loader`. Out: `Piece`s of flow float32
(n, input_px, input_px, 2) in [-1, 1] as of `helpers.crops.face_flows`; a field that is missing or cannot be used
is zeros and has its reason. Nothing here imports a network.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from helpers.clips import clip_key
from helpers.crops import PIECE_FLOWS, Clock, Piece
from helpers.engine.flow_files import PAIR, flow_shape, open_flow, pair_files
from helpers.engine.flow_loader import flow_in_folder
from helpers.engine.stored import StoredError, StoredTrack, commonest, spread, stamp_of
from helpers.flow import normalise_flow, resize_flow
from helpers.store import NOT_NPY, read_arrays

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
            return len(_array(path)), float(fps), ARRAY
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
            yield (_array(path).shape if path.suffix == ".npy" else flow_shape(path))[1:]
    except ValueError:
        return


def stored_flows(job: FlowJob) -> Iterator[Piece]:
    """Every field of a clip, scaled and normalised: float32 (n, input_px, input_px, 2) in [-1, 1], bad ones zeros."""
    number, read = _reader(job)
    clock = Clock()
    for first in range(0, job.n_flows, PIECE_FLOWS):
        places = np.arange(first, min(first + PIECE_FLOWS, job.n_flows))
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
        yield Piece(flows, places / job.fps, number[places], reader, unusable=unusable, spent_s=clock.read())


def _reader(job: FlowJob) -> tuple[np.ndarray, Callable[[int], np.ndarray]]:
    """Numbers (n,) of the samples that the fields of a clip begin with, and what reads the field at a place."""
    if job.path.is_dir():
        files = list(pair_files(job.path).items())
        number = np.array([int(PAIR.fullmatch(name)[1]) for name, _ in files], np.int64)
        return number, lambda place: read_field(*files[place], job.side_px)
    with _refusing(job.path):
        fields = _array(job.path).__getitem__ if job.path.suffix == ".npy" else _decoded(job.path)
    return np.arange(job.n_flows), lambda place: _checked(fields(place), f"field {place}", job.side_px)


def _decoded(path: Path) -> Callable[[int], np.ndarray]:
    """What reads the field at a place of our file: its codes stay in memory, and two pieces of it as flow."""
    fields, _ = open_flow(path)

    @lru_cache(maxsize=1)
    def piece(first: int) -> np.ndarray:
        with _refusing(path):
            return fields(first, first + PIECE_FLOWS)

    return lambda place: piece(place // PIECE_FLOWS * PIECE_FLOWS)[place % PIECE_FLOWS]


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


def _array(path: Path) -> np.ndarray:
    """All fields of a plain array, (n, H, W, 2)."""
    array = _loaded(path)
    return array[None] if array.ndim == 3 else array
