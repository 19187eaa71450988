"""Frame features of labelled clips as one HDF5 file: what extraction hands to the classifier, and J3 of the workbook.

In and out: a `FeatureSet`, or sequences one after the other where all of them would be too large to hold. N clips have
at most T rows of D channels; padding behind a clip's rows is zero and not valid. h5py alone reads the file:

- `features` float32 (N, T, D), gzip 4; `t_s` float64 (N, T), seconds; `valid` bool (N, T); `num_frames` int32 (N,);
- `labels` int64 (N,); `key`, `source` text (N,);
- attributes `num_videos`, `max_frames`, `feature_dim`, `category_mapping` (JSON: name to label), `multi_scale`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from helpers.files import needs, replacing

CHUNK_ROWS = 256  # of a clip that are compressed together: 2 MB of 2048 channels
GZIP: dict[str, Any] = {"compression": "gzip", "compression_opts": 4}

Sequence = tuple[np.ndarray, np.ndarray, np.ndarray]  # features (n, D), t_s (n,), valid (n,) of one clip


@dataclass(frozen=True)
class FeatureSet:
    """Frame features of labelled clips.

    Attributes:
        features: float32 (N, T, D), zero where not valid.
        labels: int64 (N,), values of `categories`.
        num_frames: int32 (N,), rows of each clip, without what fills up to T.
        t_s: float64 (N, T), seconds from the clip's first frame.
        valid: bool (N, T), False for padding and for rows that are not to be used.
        keys: str (N,), see `helpers.clips`.
        sources: str (N,), what splits may not cut apart.
        categories: Name of each class to its label.
        multi_scale: Whether rows are means over temporal scales.
    """

    features: np.ndarray
    labels: np.ndarray
    num_frames: np.ndarray
    t_s: np.ndarray
    valid: np.ndarray
    keys: np.ndarray
    sources: np.ndarray
    categories: dict[str, int]
    multi_scale: bool = False

    def __post_init__(self):
        if self.features.ndim != 3:
            raise ValueError(f"features must have shape (N, T, D), got {self.features.shape}.")
        n, longest, _ = self.features.shape
        shapes = dict.fromkeys(("labels", "num_frames", "keys", "sources"), (n,))
        for name, shape in (shapes | {"t_s": (n, longest), "valid": (n, longest)}).items():
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"{name} must have shape {shape} to match features, got {found}.")
        unknown = set(self.labels.tolist()) - set(self.categories.values())
        if unknown:
            raise ValueError(f"labels must be among {sorted(self.categories.values())}, got {min(unknown)}.")
        if self.features[~self.valid].any():
            raise ValueError("features must be zero where valid is False, got other values. Set them to zero.")


def write_feature_set(path: str | Path, feature_set: FeatureSet) -> None:
    """Write a feature set, atomically."""
    sequences = (
        (rows[:n], t_s[:n], valid[:n])
        for rows, t_s, valid, n in zip(
            feature_set.features, feature_set.t_s, feature_set.valid, feature_set.num_frames, strict=True
        )
    )
    labels, keys, sources = feature_set.labels, feature_set.keys, feature_set.sources
    write_sequences(
        path,
        sequences,
        (feature_set.num_frames, feature_set.features.shape[2]),
        labelled_datasets(labels, keys, sources),
        {"category_mapping": json.dumps(feature_set.categories), "multi_scale": feature_set.multi_scale},
    )


def labelled_datasets(labels: Iterable[int], keys: Iterable[str], sources: Iterable[str]) -> dict[str, np.ndarray]:
    """The datasets that say what each clip of a file is."""
    texts = {"key": keys, "source": sources}
    return {"labels": np.asarray(labels, np.int64)} | {
        name: np.asarray(list(values), h5py.string_dtype()) for name, values in texts.items()
    }


def write_sequences(
    path: str | Path,
    sequences: Iterable[Sequence],
    shape: tuple[np.ndarray, int],
    datasets: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
) -> None:
    """Write sequences one after the other, zero-padded to the longest; one is held at a time. Atomic.

    Args:
        path: The file.
        sequences: `features (n, D)`, `t_s (n,)` seconds and `valid (n,)` of each clip.
        shape: How many rows each clip has, (N,), and their width D.
        datasets: What else is known of the clips, such as `labels`.
        attributes: Besides `num_videos`, `max_frames` and `feature_dim`.
    """
    lengths, width = np.asarray(shape[0], np.int32), shape[1]
    n, longest = len(lengths), int(lengths.max())
    with replacing(path) as part, _Sink(part, "w+") as sink:
        with h5py.File(sink, "w") as file:
            chunks = (1, min(longest, CHUNK_ROWS), width)
            features = file.create_dataset("features", (n, longest, width), "float32", chunks=chunks, **GZIP)
            t_s = file.create_dataset("t_s", (n, longest), "float64", **GZIP)
            valid = file.create_dataset("valid", (n, longest), bool, **GZIP)
            for i, (rows, times, usable) in enumerate(sequences):
                k = len(usable)
                features[i, :k], t_s[i, :k], valid[i, :k] = rows, times, usable
                sink.check()
            file["num_frames"] = lengths
            for name, values in datasets.items():
                file[name] = values
            file.attrs.update({"num_videos": n, "max_frames": longest, "feature_dim": width} | dict(attributes))
        sink.check()


class _Sink(FileIO):
    """A file that lets HDF5 go on when the disk is full, since a write that fails may end the interpreter.

    What was written is lost then, and `check` says so.
    """

    _error: OSError | None = None

    def write(self, data: memoryview) -> int:
        done, n = 0, len(data)
        try:
            while done < n:
                done += super().write(data[done:])
        except OSError as error:
            self._error = self._error or error
        return n

    def truncate(self, n_bytes: int) -> int:
        try:
            return super().truncate(n_bytes)
        except OSError as error:
            self._error = self._error or error
        return n_bytes

    def check(self) -> None:
        """Raise the OSError of the first write that failed."""
        if self._error:
            raise self._error


def read_feature_set(path: str | Path) -> FeatureSet:
    """Read a feature set.

    Raises:
        FileNotFoundError: It is not made yet.
        ValueError: It is damaged, or holds something else, such as the ratings of `helpers.exchange.large`.
    """
    try:
        with h5py.File(needs(path, "08_clip_classification"), "r") as file:
            arrays = {name: file[name][:] for name in ("features", "labels", "num_frames", "t_s", "valid")}
            texts = {f"{name}s": file[name].asstr()[:].astype(str) for name in ("key", "source")}
            categories, multi_scale = json.loads(file.attrs["category_mapping"]), bool(file.attrs["multi_scale"])
    except FileNotFoundError:
        raise
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} must be frame features of labelled clips, got something else or a damaged file ({error}). "
            "Delete it and run 08_clip_classification again."
        ) from None
    return FeatureSet(**arrays, **texts, categories=categories, multi_scale=multi_scale)
