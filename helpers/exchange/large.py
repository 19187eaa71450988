"""A stage's rows in one large file, for tools that know nothing of this package.

In: a stage folder, `<key>.npz` per clip. Out, all readable with numpy, pandas and h5py alone:

- `<stage>_features_large.npy` float32 (n_rows, D), the rows of all clips one below the other;
  `<stage>_features_large.csv`, its index (`row, clip, t_start_s, t_end_s, frame, valid`), times in seconds;
  `<stage>_features_large.json`, how the rows were made.
- `<stage>_features.h5`, one padded sequence per clip; `write_hdf5` lists what is in it.

One clip is held at a time: memory does not grow with their number.
"""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from helpers.clips import line_end, load_clips, natural_order, targets_of
from helpers.exchange.feature_sets import write_sequences
from helpers.files import PART, DiskFullError, FolderLock, free_bytes, replacing, size, write_json
from helpers.reduction import STREAMS
from helpers.store import FeatureFile, read_arrays, read_features, read_manifest

INDEX_COLUMNS = ("t_start_s", "t_end_s", "frame", "valid")


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
    manifest = _manifest(stage_folder, name)
    path = Path(out) / f"{name}_features_large.npy"
    listing = path.with_suffix(".csv")
    with FolderLock(Path(stage_folder).parent):
        files = clip_files(stage_folder)
        index, width = _index(files)
        with replacing(listing) as listing_part:
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

    Datasets, N clips with at most T rows of D channels: `features` float32 (N, T, D), gzip 4; `labels` float32 (N, k),
    NaN where unrated; `num_frames` int32 (N,), the true length; `t_s` float64 (N, T), the centre of a row in seconds;
    `valid` bool (N, T), False for padding and for rows that are not to be used; `clips` (N,) and `targets` (k,), text.
    Attributes: `num_videos`, `max_frames`, `feature_dim`, `category_mapping` (JSON; "{}": ratings, not categories),
    `multi_scale` (False), `identity` (JSON, how the rows were made).

    Args:
        stage_folder: See `write_large`, also for what is raised.
        path: The file.
        name: "static" or "dynamic".
        ratings: Index key, one column per target in [0, 1], and what else a table of clips holds.
    """
    manifest = _manifest(stage_folder, name)
    with FolderLock(Path(stage_folder).parent):
        _write_hdf5(manifest, clip_files(stage_folder), path, ratings)


def _write_hdf5(manifest: dict[str, Any], files: dict[str, Path], path: str | Path, ratings: pd.DataFrame) -> None:
    index, width = _index(files)
    lengths = index.groupby("clip", sort=False).size().reindex(list(files), fill_value=0).to_numpy("int32")
    targets = targets_of(ratings)
    labels = ratings.reindex(list(files))[targets].to_numpy("float32")
    text = h5py.string_dtype()
    datasets = {"labels": labels, "clips": np.asarray(list(files), text), "targets": np.asarray(targets, text)}
    attributes = {"category_mapping": "{}", "multi_scale": False}
    attributes["identity"] = json.dumps(manifest["identity"], sort_keys=True)
    clips = (_rows(file, width) for file in files.values())
    sequences = ((rows.features, rows.t_s, rows.valid) for rows in clips)
    write_sequences(path, sequences, (lengths, width), datasets, attributes)


def clip_files(stage_folder: str | Path) -> dict[str, Path]:
    """The feature files of a stage by key: of the clips in the run's table, in its order.

    Without such a table, of all clips there are, in natural order; files that were never finished are passed over.
    """
    folder = Path(stage_folder)
    table = folder.parent / "clips.csv"
    if table.exists():
        paths = {key: folder / f"{key}.npz" for key in load_clips(table).index}
        return {key: path for key, path in paths.items() if path.exists()}
    paths = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.npz")}
    return {key: paths[key] for key in sorted(paths, key=natural_order) if not paths[key].name.startswith(PART)}


def _write_array(path: Path, files: dict[str, Path], shape: tuple[int, int]) -> None:
    """Write all rows as an npy; not through a memory map, where a full disk ends the process without a word."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype("float32")), "fortran_order": False, "shape": shape}
    n_bytes, free = 4 * shape[0] * shape[1], free_bytes(path.parent.resolve())
    if n_bytes > free:
        raise DiskFullError(
            f"the disk is full: {path.parent} needs room for {size(n_bytes)} of rows, {size(free)} are free there. "
            "Free some and run the same command."
        )
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for source in files.values():
            file.write(np.ascontiguousarray(_rows(source, shape[1]).features, np.float32))


def _manifest(stage_folder: str | Path, name: str) -> dict[str, Any]:
    if name not in STREAMS:
        raise ValueError(f"name must be {' or '.join(STREAMS)}, got {name!r}.")
    manifest = read_manifest(stage_folder, STREAMS[name])
    if manifest["stage"] != name:
        raise ValueError(f"stage_folder must hold the stage {name}, {stage_folder} holds {manifest['stage']}.")
    return manifest


def _index(files: dict[str, Path]) -> tuple[pd.DataFrame, int]:
    """The index of all rows, and their width; features are not read, but for one clip."""
    if not files:
        raise ValueError("the stage must hold clips, got none. Look at what its manifest lists as failed.")
    parts = []
    for clip, path in files.items():
        columns = read_arrays(path, INDEX_COLUMNS)
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
