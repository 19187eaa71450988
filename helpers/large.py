"""Rows of many clips in one large file, for tools that know nothing of this package, and for the classifier.

All of these are readable with numpy, pandas and h5py alone; one clip is held at a time.

- `<stage>_features_large.npy` float32 (n_rows, D), the rows of all clips one below the other;
  `<stage>_features_large.csv`, its index (`row, clip, t_start_s, t_end_s, frame, valid`), times in seconds;
  `<stage>_features_large.json`, how the rows were made: `write_large`.
- HDF5 of one sequence per clip, padded with zeros to the longest: N clips with at most T rows of D channels.
  `features` float32 (N, T, D), gzip 4; `t_s` float64 (N, T), seconds; `valid` bool (N, T); `num_frames` int32 (N,);
  attributes `num_videos`, `max_frames`, `feature_dim`, `category_mapping` (JSON: name to label), `multi_scale`.
  Of 03 and 04: `<stage>_features.h5`, see `write_hdf5`. Of labelled clips (08): with `labels` int64 (N,), `key` and
  `source` text (N,).
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from helpers.clips import line_end, load_clips, targets_of
from helpers.files import PART, DiskFullError, FolderLock, needs, replacing, write_json
from helpers.names import natural_order
from helpers.store import STREAMS, FeatureFile, read_arrays, read_features, read_manifest

CHUNK_ROWS = 256  # of a clip that are compressed together: 2 MB of 2048 channels
GZIP: dict[str, Any] = {"compression": "gzip", "compression_opts": 4}

Sequence = tuple[np.ndarray, np.ndarray, np.ndarray]  # features (n, D), t_s (n,), valid (n,) of one clip


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


def read_labelled(path: str | Path) -> dict[str, Any]:
    """Read frame features of labelled clips (08).

    Returns:
        The datasets, `key` and `source` as str (N,); `categories`, name of each class to its label; `multi_scale`.

    Raises:
        FileNotFoundError: It is not made yet.
        ValueError: It is damaged, or holds something else, such as the ratings of `write_hdf5`.
    """
    try:
        with h5py.File(needs(path, "08_clip_classification"), "r") as file:
            arrays = {name: file[name][:] for name in ("features", "labels", "num_frames", "t_s", "valid")}
            arrays |= {name: file[name].asstr()[:].astype(str) for name in ("key", "source")}
            return arrays | {
                "categories": json.loads(file.attrs["category_mapping"]),
                "multi_scale": bool(file.attrs["multi_scale"]),
            }
    except FileNotFoundError:
        raise
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} must be frame features of labelled clips, got something else or a damaged file ({error}). "
            "Delete it and run 08_clip_classification again."
        ) from None


@contextmanager
def _files_of(stage_folder: str | Path, name: str) -> Iterator[tuple[dict[str, Any], dict[str, Path]]]:
    """The manifest and the feature files of a stage, whose run is locked meanwhile."""
    if name not in STREAMS:
        raise ValueError(f"name must be {' or '.join(STREAMS)}, got {name!r}.")
    manifest = read_manifest(stage_folder, STREAMS[name])
    if manifest["stage"] != name:
        raise ValueError(f"stage_folder must hold the stage {name}, {stage_folder} holds {manifest['stage']}.")
    with FolderLock(Path(stage_folder).parent):
        if not (files := clip_files(stage_folder)):
            raise ValueError("the stage must hold clips, got none. Look at what its manifest lists as failed.")
        yield manifest, files


def write_large(stage_folder: str | Path, out: str | Path, name: str) -> Path:
    """Write the rows of a stage as one array with its index.

    The array takes the place of the one before once it is whole, the index last: an index that is there fits the array
    beside it.

    Args:
        stage_folder: Folder of 03 or 04, or of features made elsewhere, in its run, which is locked meanwhile.
        out: Where the files go.
        name: "static" or "dynamic".

    Returns:
        Path of the array; clips are in the order of `clip_files`, rows of a clip as in its file.

    Raises:
        FileNotFoundError: The stage is not made.
        ValueError: A damaged file, clips of different widths, or no rows at all.
        LockedError: The run is being filled.
        DiskFullError: There is no room; what was there before still is.
    """
    path = Path(out) / f"{name}_features_large.npy"
    listing = path.with_suffix(".csv")
    with _files_of(stage_folder, name) as (manifest, files), replacing(listing) as listing_part:
        index, width = _index(files)
        index.to_csv(listing_part, lineterminator=line_end(files))
        with replacing(path) as part:
            _write_array(part, files, (len(index), width))
            listing.unlink(missing_ok=True)
        counts = {"clips": len(files), "rows": len(index), "invalid_rows": int((~index["valid"]).sum())}
        said = {"counts": counts, "shape": [len(index), width], "dtype": "float32"}
        write_json(path.with_suffix(".json"), manifest | said)
    return path


def write_hdf5(stage_folder: str | Path, path: str | Path, name: str, ratings: pd.DataFrame) -> None:
    """Write the rows of a stage as one HDF5 file of sequences, zero-padded to the longest.

    Besides what all such files hold: `labels` float32 (N, k), NaN where unrated; `clips` (N,) and `targets` (k,), text;
    attributes `category_mapping` "{}" (ratings, not categories) and `identity` (JSON, how the rows were made).

    Args:
        stage_folder: See `write_large`, also for what is raised.
        path: The file.
        name: "static" or "dynamic".
        ratings: Index key, one column per target in [0, 1], and what else a table of clips holds.
    """
    with _files_of(stage_folder, name) as (manifest, files):
        index, width = _index(files)
        lengths = index.groupby("clip", sort=False).size().reindex(list(files), fill_value=0).to_numpy("int32")
        targets = targets_of(ratings)
        text = h5py.string_dtype()
        datasets = {
            "labels": ratings.reindex(list(files))[targets].to_numpy("float32"),
            "clips": np.asarray(list(files), text),
            "targets": np.asarray(targets, text),
        }
        identity = json.dumps(manifest["identity"], sort_keys=True)
        clips = (_rows(file, width) for file in files.values())
        sequences = ((rows.features, rows.t_s, rows.valid) for rows in clips)
        attributes = {"category_mapping": "{}", "multi_scale": False, "identity": identity}
        write_sequences(path, sequences, (lengths, width), datasets, attributes)


def clip_files(stage_folder: str | Path) -> dict[str, Path]:
    """The feature files of a stage by key: of the clips in the run's table, in its order.

    Without such a table, of all clips there are, in natural order; files that were never finished are passed over.
    """
    folder = Path(stage_folder)
    table = folder.parent / "clips.csv"
    if table.exists():
        paths = {key: folder / f"{key}.npz" for key in load_clips(table).index}
        return {key: path for key, path in paths.items() if path.is_file()}
    found = (path for path in folder.rglob("*.npz") if path.is_file())
    paths = {path.relative_to(folder).with_suffix("").as_posix(): path for path in found}
    return {key: paths[key] for key in sorted(paths, key=natural_order) if not paths[key].name.startswith(PART)}


def _write_array(path: Path, files: dict[str, Path], shape: tuple[int, int]) -> None:
    """Write all rows as an npy; not through a memory map, where a full disk ends the process without a word."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype("float32")), "fortran_order": False, "shape": shape}
    n_bytes, free = 4 * shape[0] * shape[1], shutil.disk_usage(path.parent).free
    if n_bytes > free:
        raise DiskFullError(
            f"the disk is full: {path.parent} needs room for {n_bytes / 1e6:,.1f} MB of rows, {free / 1e6:,.1f} MB are "
            "free there. Free some and run the same command."
        )
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for source in files.values():
            file.write(np.ascontiguousarray(_rows(source, shape[1]).features, np.float32))


def _index(files: dict[str, Path]) -> tuple[pd.DataFrame, int]:
    """The index of all rows, and their width; features are not read, but for one clip."""
    parts = []
    for clip, path in files.items():
        columns = read_arrays(path, ("t_start_s", "t_end_s", "frame", "valid"))
        parts.append(pd.DataFrame({"clip": clip} | columns, index=range(len(columns["valid"]))))
    index = pd.concat(parts, ignore_index=True).rename_axis("row")
    return index, read_features(next(iter(files.values()))).features.shape[1]


def _rows(path: Path, width: int) -> FeatureFile:
    rows = read_features(path)
    if rows.features.shape[1] != width:
        raise ValueError(
            f"{path} must hold rows of width {width} like the clips before it, got {rows.features.shape[1]}. "
            "Delete the stage and make it again."
        )
    return rows
