"""A stage's folder: atomic npz files of clips, resume, manifests, and what becomes of a clip that cannot be used.

Every clip's file lies at `<stage>/<key>.npz`; `manifest.json` beside them says how they were made and what failed.
"""

import errno
import re
import time
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from helpers.files import FolderLock, code_version, differences, disk_full, read_json, replacing, write_json
from helpers.workers import PoolError, WorkerError

STREAMS = {"static": "03_static_extraction", "dynamic": "04_dynamic_extraction"}  # and what makes it
DTYPES = {"features": "float32", "t_start_s": "float64", "t_end_s": "float64", "frame": "int64", "valid": bool}
NOT_NPY = (ValueError, EOFError, TypeError, SyntaxError, OverflowError, tokenize.TokenError)  # the header is Python's
_DAMAGED = (*NOT_NPY, OSError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
OF_RUN = (KeyboardInterrupt, SystemExit, GeneratorExit, PoolError)
LONGEST = 400  # characters of a reason
KINDS, SHOWN = 5, 70  # of reasons in a line, and characters of each
VARYING = re.compile(r"(?<!\w)/[^'\"]*[^'\". ]|\b0x[0-9a-f]+\b|\d+(?:[.,]\d+)*")  # paths and numbers


class ClipError(ValueError):
    """What is wrong with a clip, in words for the list; it needs no traceback."""


class AbsentError(ClipError):
    """A stage before, or a tree, has nothing of a clip: that is no failure of this stage."""


def reason_of(error: BaseException, name: str = "") -> str:
    """Say in one line why the clip called `name` cannot be used, whatever the class of the error.

    The same error is raised where it is the run's: an interrupt, a full or read-only disk, processes that do not start.
    """
    if isinstance(error, OF_RUN) or disk_full(error, Path(name)) or getattr(error, "errno", None) == errno.EROFS:
        raise error
    text = ""
    with suppress(Exception):  # an error of the error's own
        text = str(error).removeprefix(f"{name}: ")[: 4 * LONGEST]
    text = "".join(c if c.isprintable() else " " for c in text)
    if not (text and isinstance(error, ClipError | WorkerError)):
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return shorten(text, LONGEST, placeholder=" …")


def kind_of(reason: str) -> str:
    """What reasons that are alike but for numbers and details have in common: "no face found in … frames"."""
    return shorten(re.split(r" \(|[.;] ", VARYING.sub("…", reason), maxsplit=1)[0], SHOWN, placeholder=" …")


def by_kind(reasons: Iterable[str]) -> str:
    """Count reasons that are alike: "3 no face found in … frames, 1 the file is empty"."""
    kinds = Counter(map(kind_of, reasons)).most_common()
    others = sum(n for _, n in kinds[KINDS:])
    return ", ".join([f"{n} {kind}" for kind, n in kinds[:KINDS]] + [f"{others} of other kinds"] * bool(others))


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
    except (FileNotFoundError, PermissionError):
        raise
    except _DAMAGED as error:
        what = f"{path} is damaged ({error})"
        raise ValueError(f"{what}. If a notebook has made it, delete it and run that again.") from None


@dataclass(frozen=True)
class FeatureFile:
    """The rows of one clip: `features (n, D) float32`, `t_start_s`, `t_end_s (n,)` in seconds,
    `frame (n,) int` (first frame of the row), `valid (n,) bool`; `decoder`: what decoded its frames, if that is known;
    `reason (n,) str`: why rows are invalid, "" where only the track says it, None where that is so of all;
    `view (n,) str`: what a clip is shown in, where it is shown in several.
    """

    features: np.ndarray
    t_start_s: np.ndarray
    t_end_s: np.ndarray
    frame: np.ndarray
    valid: np.ndarray
    decoder: str = ""
    reason: np.ndarray | None = None
    view: np.ndarray | None = None

    def __post_init__(self):
        shapes = {name: array.shape for name, array in vars(self).items() if isinstance(array, np.ndarray)}
        rows = {shape for name, shape in shapes.items() if name != "features"}
        if self.features.ndim != 2 or rows != {(len(self.features),)}:
            raise ValueError(f"features must have shape (n, D) and all else (n,), got {shapes}.")

    @property
    def t_s(self) -> np.ndarray:
        """Centre of each row in seconds, (n,)."""
        return (self.t_start_s + self.t_end_s) / 2

    def in_time(self) -> "FeatureFile":
        """The valid rows in the order of time; they have no reason."""
        order = np.argsort(self.t_s, kind="stable")
        order = order[self.valid[order]]
        arrays = {f.name: getattr(self, f.name)[order] for f in fields(self) if f.name in DTYPES}
        return FeatureFile(**arrays, decoder=self.decoder)


def write_features(path: str | Path, rows: FeatureFile, fingerprint: str = "") -> None:
    """Write one clip's rows; `fingerprint`: of the version of the clip that they were made from.

    Not compressed: it would save a sixth of the bytes and take six times as long.
    """
    arrays = {name: np.asarray(getattr(rows, name), dtype) for name, dtype in DTYPES.items()}
    texts = {
        name: np.asarray(text, np.str_) for name in ("reason", "view") if (text := getattr(rows, name)) is not None
    }
    write_arrays(path, compressed=False, **arrays, decoder=rows.decoder, fingerprint=fingerprint, **texts)


def read_features(path: str | Path) -> FeatureFile:
    """Read one clip's rows; a damaged file is a ValueError that names it."""
    return features_of(read_arrays(path), path)


def features_of(arrays: dict[str, np.ndarray], path: str | Path) -> FeatureFile:
    """The rows that a clip's file holds."""
    known = {name: array for name, array in arrays.items() if name != "fingerprint"}
    try:
        return FeatureFile(**known | {"decoder": str(known.get("decoder", ""))})
    except TypeError:
        raise ValueError(f"{path} is not a feature file: it holds {', '.join(sorted(arrays))}.") from None


def valid_rows(path: str | Path) -> FeatureFile | None:
    """The valid rows of a clip in the order of time; None when there is no file or no such row."""
    rows = read_features(path).in_time() if Path(path).is_file() else None
    return rows if rows is not None and len(rows.valid) else None


def clip_fingerprint(path: str | Path) -> str:
    """The version of a file: its size and time of change; FileNotFoundError where it is not."""
    stat = Path(path).stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"


@dataclass
class Stage(FolderLock):
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
        self._since_s = time.monotonic()
        super().__init__(self.folder)
        try:
            if (path := self.folder / "manifest.json").exists():
                before = read_json(path)
                if changed := differences(self.identity, before["identity"]):
                    raise ValueError(
                        f"{self.folder} was made differently: {'; '.join(changed)}. "
                        "Take another out_dir, or delete the folder to make it again."
                    )
                self._since_s -= before["seconds"]
                self.made_with = before.get("made_with", {}) | self.made_with
            self._write(False, {})
        except BaseException:
            self.release()
            raise

    def path(self, key: str) -> Path:
        """The file of one clip."""
        return self.folder / f"{key}.npz"

    def done(self, key: str, fingerprint: str) -> dict[str, np.ndarray]:
        """What the clip's file holds if it is whole and made from this version of the clip; else nothing."""
        with suppress(Exception):  # whatever damage does to it
            arrays = read_arrays(self.path(key))
            if str(arrays["fingerprint"]) == fingerprint:
                return arrays
        return {}

    def write(self, key: str, rows: FeatureFile, fingerprint: str) -> None:
        """Write the rows of one clip."""
        write_features(self.path(key), rows, fingerprint)

    def fail(self, clip: str, reason: str, row: int | None = None) -> None:
        """Record a clip, or one row of it, that could not be made."""
        self.failed.append({"clip": clip, "reason": reason} | ({} if row is None else {"row": row}))

    def finish(self, about: dict[str, Any] | None = None, /, **counts: int) -> dict[str, Any]:
        """Write the final manifest, with what more there is to say `about` it, free the folder, return the manifest."""
        manifest = self._write(True, counts, about)
        self.release()
        return manifest

    def _write(self, finished: bool, counts: dict[str, int], more: dict[str, Any] | None = None) -> dict[str, Any]:
        about = {"finished": finished, "seconds": round(time.monotonic() - self._since_s, 3)}
        about |= {"made_with": self.made_with, "failed": self.failed} | (more or {})
        return write_manifest(self.folder, self.name, self.identity, about, **counts)


def write_manifest(
    folder: str | Path, stage: str, identity: dict[str, Any], about: dict[str, Any] | None = None, /, **counts: int
) -> dict[str, Any]:
    """Write the manifest of a folder, and return it; of one that is made in one go, there is nothing else to say.

    `about`: what takes the place of `finished` (True) and `failed` ([]), and what is added.
    """
    manifest = {"stage": stage, "identity": identity, "code_version": code_version(), "finished": True}
    manifest |= {"counts": counts, "failed": []} | (about or {})
    write_json(Path(folder) / "manifest.json", manifest)
    return manifest


def read_manifest(folder: str | Path, made_by: str) -> dict[str, Any]:
    """Read a finished stage's manifest; a missing or unfinished stage says which notebook makes it."""
    path = Path(folder) / "manifest.json"
    if not path.exists() or not (manifest := read_json(path))["finished"]:
        raise FileNotFoundError(f"{Path(folder)} is not made yet. Run {made_by} first: it makes it.")
    return manifest
