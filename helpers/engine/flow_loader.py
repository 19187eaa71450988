"""Stored flow of many clips as batches of equal length and size, whoever stored it.

In: a folder, or some files, of our flow files, of the source project's trees, or of plain arrays. Out: `FlowBatch`,
flow float32 (B, T, S, S, 2) in [-1, 1] with a mask and keys. One clip is held at full size at a time.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.clips import natural_order
from helpers.engine.flow_files import PAIR, pair_files, read_flow, read_flow_array, read_flow_tree
from helpers.flow import normalise_flow, resize_flow

log = logging.getLogger(__name__)

TRIMS = ("start", "centre")


@dataclass(frozen=True)
class FlowBatch:
    """`flow (B, T, S, S, 2) float32` in [-1, 1]; `mask (B, T) bool`, False where a field is padding or was missing;
    `keys`, B of them.
    """

    flow: np.ndarray
    mask: np.ndarray
    keys: tuple[str, ...]


@dataclass(frozen=True)
class _Stored:
    """What a file or tree holds: flow (T, H, W, 2), which fields are real (T,), and how it was made."""

    flow: np.ndarray
    real: np.ndarray
    made: str


class OpticalFlowSequenceLoader:
    """Reads, resizes, pads or trims and batches the stored flow of clips.

    A key is a path below the folder without suffix: of a file (`training80_01/id.003.npz`, `.npy`), or of a folder of
    `flow_0000_0001.npy`, ... For a list, it is the path below the folder that all of them share. `keys` lists them in
    natural order.
    """

    def __init__(
        self,
        source: str | Path | Sequence[str | Path],
        *,
        clip_px: float = 20.0,
        gaps: str = "error",
        trim: str = "start",
        repeat_single: bool = False,
    ):
        """Find the clips; nothing is read yet.

        Args:
            source: A folder, searched to any depth, or a list of files and of folders of pairs.
            clip_px: Batches are cut to +-this after resizing, and divided by it. 20 px is I3D's training range.
            gaps: "error" or "zero", see `helpers.engine.flow_files.read_flow_tree`; zeros are masked in batches.
            trim: Which part of a long sequence stays: "start" (field i is the i-th of the clip, as in the features of
                04) or "centre".
            repeat_single: Repeat the field of an input that has one field only, as the source project did for all.
                Off, it is padded like any other short input: a repeated field is a motion that nobody made.
        """
        for name, value, legal in (("gaps", gaps, ("error", "zero")), ("trim", trim, TRIMS)):
            if value not in legal:
                raise ValueError(f"{name} must be one of {', '.join(legal)}, got {value!r}.")
        if clip_px <= 0:
            raise ValueError(f"clip_px must be above 0, got {clip_px}.")
        self._paths = flow_in_folder(source) if isinstance(source, str | Path) else _of_list(source)
        self.clip_px, self.gaps, self.trim, self.repeat_single = clip_px, gaps, trim, repeat_single

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self._paths)

    def missing(self, key: str) -> list[str]:
        """Names of the pairs that a tree lacks; empty for files, which hold all fields."""
        path = self._path(key)
        return [name for name, file in pair_files(path).items() if file is None] if path.is_dir() else []

    def load(self, key: str) -> np.ndarray:
        """All flow of a clip as stored: float32 (T, H, W, 2), pixels per frame at the rate it was computed at.

        Raises:
            ValueError: NaN, a wrong shape or a missing pair, with the file and the reason.
        """
        return self._read(key).flow

    def resize(self, flow: np.ndarray, size_px: int) -> np.ndarray:
        """Scale flow (T, S, S, 2) to another side, u and v with it: see `helpers.flow.resize_flow`."""
        return flow if flow.shape[-2] == flow.shape[-3] == size_px else resize_flow(flow, size_px)

    def pad_or_trim(self, flow: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Bring flow (T, ...) to (length, ...): a long one is trimmed by `trim`, a short one gets no motion behind.

        Returns:
            The flow, and bool (length,), True where a field is the input's.
        """
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}.")
        if len(flow) == 1 and self.repeat_single:
            return np.repeat(flow, length, axis=0), np.ones(length, bool)
        first = max(0, len(flow) - length) // 2 if self.trim == "centre" else 0
        kept = flow[first : first + length]
        padding = np.zeros((length - len(kept), *flow.shape[1:]), flow.dtype)
        return np.concatenate([kept, padding]), np.arange(length) < len(kept)

    def batches(self, keys: Sequence[str], *, batch_size: int, length: int, size_px: int) -> Iterator[FlowBatch]:
        """Yield batches of clips in the given order; the last one may hold fewer.

        Args:
            keys: Which clips, e.g. `loader.keys`.
            batch_size: Clips in a batch.
            length: Fields per clip.
            size_px: Side of a field.

        Raises:
            ValueError: as `load`; and for flow of another method or rate than the first clip's, which is another
                distribution: a network would learn the difference between files.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        made = None
        for start in range(0, len(keys), batch_size):
            chosen = tuple(keys[start : start + batch_size])
            flow = np.zeros((len(chosen), length, size_px, size_px, 2), np.float32)
            mask = np.zeros((len(chosen), length), bool)
            for i, key in enumerate(chosen):
                stored = self._read(key)
                made = made or stored.made
                if stored.made != made:
                    raise ValueError(f"{key} holds {stored.made}, {keys[0]} {made}. Batch them apart: they differ.")
                flow[i], mask[i] = self._row(key, stored, length, size_px)
            yield FlowBatch(flow, mask, chosen)

    def _row(self, key: str, stored: _Stored, length: int, size_px: int) -> tuple[np.ndarray, np.ndarray]:
        """One clip of a batch, (length, S, S, 2) in [-1, 1], and its mask."""
        flow, mask = self.pad_or_trim(stored.flow, length)
        real, _ = self.pad_or_trim(stored.real, length)
        try:
            return normalise_flow(self.resize(flow, size_px), self.clip_px), mask & real
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None

    def _path(self, key: str) -> Path:
        if key not in self._paths:
            first = ", ".join(self.keys[:3])
            raise ValueError(f"key must be one of the {len(self.keys)} clips ({first}, ...), got {key!r}. See keys.")
        return self._paths[key]

    def _read(self, key: str) -> _Stored:
        path = self._path(key)
        if path.is_dir():
            flow, real = read_flow_tree(path, self.gaps)
            if not real.all():
                log.warning("%s: %d of %d pairs are missing and count as no motion", key, (~real).sum(), len(real))
            return _Stored(flow, real, "pairs of the source project, of unknown rate")
        if path.suffix == ".npy":
            flow = read_flow_array(path)
            return _Stored(flow, np.ones(len(flow), bool), "an array of unknown method and rate")
        file = read_flow(path)
        if file.clamped_share and file.clip_px < self.clip_px:
            log.warning("%s: %.2g of its values were cut at %g px", key, file.clamped_share, file.clip_px)
        return _Stored(file.flow, np.ones(len(file.flow), bool), f"{file.method} at {file.fps:g} fps")


def flow_in_folder(source: str | Path) -> dict[str, Path]:
    """Key and path of every clip below a folder, in natural order; for a file, of that file."""
    source = Path(source)
    if source.is_file():
        return _of_list([source])
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is missing. Store flow there with helpers.engine.flow_files.write_flow.")
    found = []
    for folder, _, names in os.walk(source):
        if any(PAIR.fullmatch(name) for name in names):
            found.append(Path(folder))
        else:
            found += [Path(folder, n) for n in names if n.endswith((".npz", ".npy")) and not n.startswith(".")]
    return _keyed(found, source.parent if found == [source] else source)


def _of_list(paths: Sequence[str | Path]) -> dict[str, Path]:
    paths = [Path(path).absolute() for path in paths]
    if missing := [path for path in paths if not path.exists()]:
        raise FileNotFoundError(f"{missing[0]} is missing, and {len(missing) - 1} more. Leave them out or copy them.")
    return _keyed(paths, Path(os.path.commonpath([path.parent for path in paths])) if paths else Path())


def _keyed(paths: list[Path], below: Path) -> dict[str, Path]:
    """Paths by key. A folder's name keeps its last dot: `id.003` is a clip, not a suffix."""
    found: dict[str, Path] = {}
    for path in paths:
        name = path.relative_to(below)
        key = (name if path.is_dir() else name.with_suffix("")).as_posix()
        if key in found:
            raise ValueError(f"{key} must be stored once, got {found[key]} and {path}. Delete or leave out one.")
        found[key] = path
    if not found:
        raise ValueError(f"{below} must hold flow (npz, npy, or folders of flow_0000_0001.npy), got none.")
    return dict(sorted(found.items(), key=lambda item: natural_order(item[0])))
