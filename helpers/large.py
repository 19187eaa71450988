"""Rows of many clips in one large file, for tools that know nothing of this package.

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
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from helpers.clips import LINE_END, load_clips, targets_of
from helpers.files import FolderLock, replacing, write_json
from helpers.store import STREAMS, FeatureFile, read_arrays, read_features, read_manifest

CHUNK_ROWS = 256  # of a clip that are compressed together: 2 MB of 2048 channels
SPARE_BYTES = 2**20  # of an HDF5 file, beside its arrays
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

    `shape`: how many rows each clip has, (N,), and their width D. `datasets`: what else is known of the clips, such as
    `labels`. `attributes`: besides `num_videos`, `max_frames` and `feature_dim`.
    """
    lengths, width = np.asarray(shape[0], np.int32), shape[1]
    n, longest = len(lengths), int(lengths.max())
    with replacing(path) as part:
        chunks = (1, min(longest, CHUNK_ROWS), width)
        n_chunks = int(np.ceil(lengths / chunks[1]).sum())  # rows of padding alone are not written
        _reserve(part, n_chunks * chunks[1] * 4 * width + n * longest * 9)
        with h5py.File(part, "w") as file:
            features = file.create_dataset("features", (n, longest, width), "float32", chunks=chunks, **GZIP)
            t_s = file.create_dataset("t_s", (n, longest), "float64", **GZIP)
            valid = file.create_dataset("valid", (n, longest), bool, **GZIP)
            for i, (rows, times, usable) in enumerate(sequences):
                k = len(usable)
                features[i, :k], t_s[i, :k], valid[i, :k] = rows, times, usable
            for name, values in {"num_frames": lengths, **datasets}.items():
                file[name] = values
            file.attrs.update({"num_videos": n, "max_frames": longest, "feature_dim": width, **attributes})


def _reserve(path: Path, n_bytes: int) -> None:
    """See that there is room, also for what does not compress: HDF5 ends the interpreter where the disk fills up."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, n_bytes + SPARE_BYTES)


def write_large(stage_folder: str | Path, out: str | Path, name: str) -> Path:
    """Write the rows of a stage as one array with its index, clips in the run's order; returns the array's path.

    The array takes the place of the one before once it is whole, the index last: an index that is there fits the array
    beside it.

    `stage_folder`: of 03 or 04, or of features made elsewhere, in its run, which is locked meanwhile. `out`: where the
    files go. `name`: "static" or "dynamic".

    Raises:
        FileNotFoundError: The stage or the run's `clips.csv` is not made.
        ValueError: A damaged file, clips of different widths, or no rows at all.
        DiskFullError: There is no room; what was there before still is.
    """
    path = Path(out) / f"{name}_features_large.npy"
    listing = path.with_suffix(".csv")
    with _stage(stage_folder, name) as (manifest, files, index, width), replacing(listing) as listing_part:
        index.to_csv(listing_part, lineterminator=LINE_END)
        shape = (len(index), width)
        with replacing(path) as part:
            with open(part, "wb") as file:  # not through a memory map: a full disk would end the process without a word
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for source in files.values():
                    file.write(np.ascontiguousarray(_rows(source, width).features, np.float32))
            listing.unlink(missing_ok=True)
        counts = {"clips": len(files), "rows": len(index), "invalid_rows": int((~index["valid"]).sum())}
        write_json(path.with_suffix(".json"), manifest | {"counts": counts, "shape": shape, "dtype": "float32"})
    return path


def write_hdf5(stage_folder: str | Path, path: str | Path, name: str, ratings: pd.DataFrame) -> None:
    """Write the rows of a stage as one HDF5 file of sequences, zero-padded to the longest.

    Besides what all such files hold: `labels` float32 (N, k), NaN where unrated; `clips` (N,) and `targets` (k,), text;
    attributes `category_mapping` "{}" (ratings, not categories) and `identity` (JSON, how the rows were made).

    `ratings`: index key, one column per target in [0, 1], and what else a table of clips holds. The rest, also what is
    raised: see `write_large`.
    """
    with _stage(stage_folder, name) as (manifest, files, index, width):
        lengths = index.groupby("clip", sort=False).size().reindex(list(files), fill_value=0).to_numpy("int32")
        targets, text = targets_of(ratings), h5py.string_dtype()
        datasets = {
            "labels": ratings.reindex(list(files))[targets].to_numpy("float32"),
            "clips": np.asarray(list(files), text),
            "targets": np.asarray(targets, text),
        }
        clips = (_rows(file, width) for file in files.values())
        sequences = ((rows.features, rows.t_s, rows.valid) for rows in clips)
        identity = json.dumps(manifest["identity"], sort_keys=True)
        attributes = {"category_mapping": "{}", "multi_scale": False, "identity": identity}
        write_sequences(path, sequences, (lengths, width), datasets, attributes)


@contextmanager
def _stage(folder: str | Path, name: str) -> Iterator[tuple[dict[str, Any], dict[str, Path], pd.DataFrame, int]]:
    """The manifest of a stage whose run is locked meanwhile, its files by clip, the index of all rows, their width."""
    folder, manifest = Path(folder), read_manifest(folder, STREAMS.get(name, "03_static_extraction"))
    if manifest["stage"] != name or name not in STREAMS:
        raise ValueError(f"name must be that of the stage in {folder}, {manifest['stage']}, got {name!r}.")
    with FolderLock(folder.parent):
        paths = {key: folder / f"{key}.npz" for key in load_clips(folder.parent / "clips.csv").index}
        files = {key: path for key, path in paths.items() if path.is_file()}
        if not files:
            raise ValueError("the stage must hold clips, got none. Look at what its manifest lists as failed.")
        parts = []
        for clip, path in files.items():
            columns = read_arrays(path, ("t_start_s", "t_end_s", "frame", "valid"))
            parts.append(pd.DataFrame({"clip": clip} | columns, index=range(len(columns["valid"]))))
        index = pd.concat(parts, ignore_index=True).rename_axis("row")
        yield manifest, files, index, read_features(next(iter(files.values()))).features.shape[1]


def _rows(path: Path, width: int) -> FeatureFile:
    rows = read_features(path)
    if rows.features.shape[1] != width:
        must = f"{path} must hold rows of width {width} like the clips before it, got {rows.features.shape[1]}"
        raise ValueError(f"{must}. Delete the stage and make it again.")
    return rows
