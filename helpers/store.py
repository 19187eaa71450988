"""A feature file per clip and the stage folder it lies in: atomic npz files, resume, manifests.

Every clip's file lies at `<stage>/<key>.npz`; `manifest.json` beside them says how they were made and what failed.
"""

import json
import time
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from helpers.clips import line_end, load_clips, natural_order, targets_of
from helpers.files import (
    PART,
    DiskFullError,
    FolderLock,
    code_version,
    differences,
    free_bytes,
    needs,
    read_json,
    replacing,
    size,
    write_json,
)

STREAMS = {"static": "03_static_extraction", "dynamic": "04_dynamic_extraction"}  # and what makes it
NOT_NPY = (ValueError, EOFError, TypeError, SyntaxError, OverflowError, tokenize.TokenError)  # the header is Python's
_DAMAGED = (*NOT_NPY, OSError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def write_arrays(path: str | Path, *, compressed: bool = True, **arrays: Any) -> None:
    """Write an npz atomically. Object arrays are refused (ValueError): they would need pickle."""
    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    for name, value in arrays.items():
        if value.dtype == object:
            raise ValueError(f"{name} must be numbers, flags or text, got an array of objects.")
    with replacing(path) as part, open(part, "wb") as file:
        (np.savez_compressed if compressed else np.savez)(file, **arrays)


def read_arrays(path: str | Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of an npz file, all or those named; a damaged one is a ValueError that names it."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in (names or file.files)}
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        raise ValueError(f"{path} is damaged ({error}). Delete it and run its notebook again.") from None


@dataclass(frozen=True)
class FeatureFile:
    """The rows of one clip: `features (n, D) float32`, `t_start_s`, `t_end_s (n,)` in seconds,
    `frame (n,) int` (first frame of the row), `valid (n,) bool`; `decoder`: what decoded its frames, if that is known;
    `reason (n,) str`: why rows are invalid, "" where nothing but the track tells, None where that is so of all.
    """

    features: np.ndarray
    t_start_s: np.ndarray
    t_end_s: np.ndarray
    frame: np.ndarray
    valid: np.ndarray
    decoder: str = ""
    reason: np.ndarray | None = None

    def __post_init__(self):
        n = len(self.features)
        if self.features.ndim != 2:
            raise ValueError(f"features must have shape (n, D), got {self.features.shape}.")
        for name in ("t_start_s", "t_end_s", "frame", "valid", *(() if self.reason is None else ("reason",))):
            shape = getattr(self, name).shape
            if shape != (n,):
                raise ValueError(f"{name} must have shape ({n},) like features, got {shape}.")

    @property
    def t_s(self) -> np.ndarray:
        """Centre of each row in seconds, (n,)."""
        return (self.t_start_s + self.t_end_s) / 2

    def in_time(self) -> "FeatureFile":
        """The valid rows in the order of time; they have no reason."""
        order = np.argsort(self.t_s, kind="stable")
        order = order[self.valid[order]]
        arrays = {f.name: getattr(self, f.name)[order] for f in fields(self) if f.name not in ("decoder", "reason")}
        return FeatureFile(**arrays, decoder=self.decoder)


def write_features(path: str | Path, rows: FeatureFile, stamp: str = "") -> None:
    """Write one clip's rows; `stamp` tells later which version of the clip they were made from.

    Not compressed: it would save a sixth of the bytes and take six times as long.
    """
    write_arrays(
        path,
        compressed=False,
        features=np.asarray(rows.features, np.float32),
        t_start_s=np.asarray(rows.t_start_s, np.float64),
        t_end_s=np.asarray(rows.t_end_s, np.float64),
        frame=np.asarray(rows.frame, np.int64),
        valid=np.asarray(rows.valid, bool),
        decoder=rows.decoder,
        stamp=stamp,
        **({} if rows.reason is None else {"reason": np.asarray(rows.reason, np.str_)}),
    )


def read_features(path: str | Path) -> FeatureFile:
    """Read one clip's rows; a damaged file is a ValueError that names it."""
    arrays = read_arrays(path)
    arrays.pop("stamp", None)
    decoder = str(arrays.pop("decoder", ""))
    try:
        return FeatureFile(**arrays, decoder=decoder)
    except TypeError:
        raise ValueError(f"{path} is not a feature file: it holds {', '.join(sorted(arrays))}.") from None


def stage_is_whole(folder: Path) -> bool:
    """Whether a stage was finished and the files of all its clips end as they should; their content is not read."""
    try:
        manifest = read_json(folder / "manifest.json")
    except ValueError:
        return False
    files = [zipfile.is_zipfile(path) for path in folder.rglob("*.npz")]
    n_made = sum(manifest.get("counts", {}).get(name, 0) for name in ("made", "found"))
    return manifest.get("finished", False) and all(files) and len(files) >= n_made


def valid_rows(path: str | Path) -> FeatureFile | None:
    """The valid rows of a clip in the order of time; None when there is no file or no such row."""
    rows = read_features(path).in_time() if Path(path).exists() else None
    return rows if rows is not None and len(rows.valid) else None


def gather_rows(clips: Iterable[str], folder: str | Path) -> np.ndarray:
    """All valid rows of some clips, float32 (n, D), to fit a reduction on. Clips without rows are passed over."""
    found = [rows.features for key in clips if (rows := valid_rows(Path(folder) / f"{key}.npz")) is not None]
    if not found:
        raise ValueError(f"{folder} must hold rows of the clips to fit on, got none. Run its notebook first.")
    return np.concatenate(found)


def clip_stamp(path: str | Path) -> str:
    """What tells one version of a video file from another: its size and time of change; "missing" where it is not."""
    if not Path(path).exists():
        return "missing"
    stat = Path(path).stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"


@dataclass
class Stage:
    """A stage's folder while it is being filled.

    `identity` (parameters, weights, backend, precision, inputs) decides the numbers. Opening a folder that was made
    with another identity is a ValueError that shows the differences; with the same one, finished clips stay. Until
    `finish`, or the end of a `with`, the folder is locked: see `helpers.files.FolderLock`.
    """

    folder: Path
    name: str
    identity: dict[str, Any]
    made_with: dict[str, Any] = field(default_factory=dict)
    failed: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self):
        self.folder = Path(self.folder)
        self._started = time.monotonic()
        self._seconds = 0.0
        self._lock = FolderLock(self.folder)
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _open(self) -> None:
        if self.manifest_path.exists():
            before = read_json(self.manifest_path)
            changed = differences(self.identity, before["identity"])
            if changed:
                raise ValueError(
                    f"{self.folder} was made differently: {'; '.join(changed)}. "
                    "Take another out_dir, or delete the folder to make it again."
                )
            self._seconds = before["seconds"]
            self.made_with = before.get("made_with", {}) | self.made_with
        self._write(finished=False, counts={})

    @property
    def manifest_path(self) -> Path:
        return self.folder / "manifest.json"

    def path(self, key: str) -> Path:
        """The file of one clip."""
        return self.folder / f"{key}.npz"

    def done(self, key: str, stamp: str) -> bool:
        """Whether the clip's file is there, whole, and made from this version of the clip."""
        try:
            return str(read_arrays(self.path(key))["stamp"]) == stamp
        except (FileNotFoundError, ValueError, KeyError):
            return False

    def write(self, key: str, rows: FeatureFile, stamp: str) -> None:
        """Write the rows of one clip."""
        write_features(self.path(key), rows, stamp)

    def fail(self, clip: str, reason: str, row: int | None = None) -> None:
        """Record a clip, or one row of it, that could not be made."""
        self.failed.append({"clip": clip, "reason": reason} | ({} if row is None else {"row": row}))

    def finish(self, **counts: int) -> dict[str, Any]:
        """Write the final manifest, give the folder back, and return the manifest."""
        manifest = self._write(finished=True, counts=counts)
        self._lock.release()
        return manifest

    def _write(self, *, finished: bool, counts: dict[str, int]) -> dict[str, Any]:
        manifest = {
            "stage": self.name,
            "identity": self.identity,
            "made_with": self.made_with,
            "code_version": code_version(),
            "finished": finished,
            "counts": counts,
            "seconds": round(self._seconds + time.monotonic() - self._started, 3),
            "failed": self.failed,
        }
        write_json(self.manifest_path, manifest)
        return manifest


def write_manifest(folder: str | Path, stage: str, identity: dict[str, Any], **counts: int) -> dict[str, Any]:
    """Write the manifest of a folder that is made in one go, and return it."""
    manifest = {
        "stage": stage,
        "identity": identity,
        "code_version": code_version(),
        "finished": True,
        "counts": counts,
        "failed": [],
    }
    write_json(Path(folder) / "manifest.json", manifest)
    return manifest


def read_manifest(folder: str | Path, made_by: str) -> dict[str, Any]:
    """Read a finished stage's manifest; a missing or unfinished stage says which notebook makes it."""
    path = Path(folder) / "manifest.json"
    if not path.exists() or not (manifest := read_json(path))["finished"]:
        raise FileNotFoundError(f"{Path(folder)} is not made yet. Run {made_by} first: it makes it.")
    return manifest


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
        ValueError: It is damaged, or holds something else, such as the ratings of `helpers.store`.
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
