"""Compares two results folders: what a change of the code was meant to leave as it is.

Usage: python tools/compare_results.py OLD NEW. Point values may differ by 1e-6, ends of intervals by .01; feature rows
must be the same bits wherever the face boxes are; failures, their reasons and the manifests' identities must be equal.
Times, paths, versions and facts about the machine are ignored. Exit status: 0 equal, 1 different, 2 not comparable.
"""

import argparse
import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

POINT, INTERVAL = 1e-6, 0.01
SHOWN = 30  # differences of one part
IGNORED_FILES = re.compile(
    r"^(setup|run)\.json|task\.json$|^(figures|notebooks)/|\.(log|html|keras|ipynb|png|gif|mp4|onnx)$|(^|/)\."
    r"|time_(track|anal)"
)
IGNORED_KEYS = re.compile(
    r"seconds|_time_|_time$|^(total|step|epoch|other|steps|start|validation|training_length)_m?s$|per_s(econd)?$"
    r"|fingerprint|^(code_)?version$|made_with|_dir$|^path|saved_to|memory|^devices?$|decoder|^cores$"
    r"|network_share|^usage$|^gpu_|recommendations|^(found|made)$|^uneven$"
)
INTERVAL_KEYS = re.compile(r"interval|^(low|high|minus_\w+)$|_(low|high)$")
NUMBER = re.compile(r"[-+−]?\d+(?:\.\d+)?")
WHERE_FACES_ARE = ("box_xyxy", "t_s", "frame", "every")


@dataclass
class Part:
    """What was compared of one part of the results, and what differs."""

    name: str
    values: int = 0
    largest: float = 0.0
    where: str = ""
    notes: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def numbers(self, place: str, old: Any, new: Any, tolerance: float) -> None:
        """Compare numbers or arrays; NaN equals NaN, and the tolerance is relative above 1."""
        old, new = np.asarray(old), np.asarray(new)
        if old.shape != new.shape:
            self.differences.append(f"{place}: shape {old.shape} became {new.shape}")
            return
        self.values += old.size
        if old.dtype.kind not in "fiub" or new.dtype.kind not in "fiub":
            if (changed := old != new).any():
                self.differences.append(f"{place}: {_first(old, changed)!r} became {_first(new, changed)!r}")
            return
        old, new = old.astype(float), new.astype(float)
        with np.errstate(invalid="ignore"):
            change = np.where((old == new) | (np.isnan(old) & np.isnan(new)), 0.0, np.abs(old - new))
        change = np.where(np.isnan(change), np.inf, change)
        if change.size and change.max() > self.largest and tolerance == POINT:
            self.largest, self.where = float(change.max()), place
        beyond = change > tolerance * np.maximum(1, np.nan_to_num(np.abs(old), posinf=1))
        if beyond.any():
            text = f"{place}: {_first(old, beyond):.9g} became {_first(new, beyond):.9g}"
            many = f" ({beyond.sum()} of {beyond.size} values, by up to {change.max():.2g})" if beyond.size > 1 else ""
            self.differences.append(text + many)

    def text(self, place: str, old: str, new: str) -> None:
        """Compare text; numbers in a sentence are rounded values and may differ by .01."""
        self.values += 1
        same = NUMBER.sub("#", old) == NUMBER.sub("#", new)
        pairs = zip(NUMBER.findall(old.replace("−", "-")), NUMBER.findall(new.replace("−", "-")), strict=False)
        if not same or any(abs(float(a) - float(b)) > INTERVAL * 1.01 for a, b in pairs):
            self.differences.append(f"{place}: {old!r} became {new!r}")

    def __str__(self) -> str:
        largest = f", largest difference {self.largest:.2g} at {self.where}" if self.largest else ""
        verdict = f"{len(self.differences)} DIFFERENCES" if self.differences else "equal"
        lines = [f"{self.name:24} {verdict}: {self.values} values{largest}", *(f"    ({note})" for note in self.notes)]
        lines += [f"    {text}" for text in self.differences[:SHOWN]]
        rest = len(self.differences) - SHOWN
        return "\n".join([*lines, f"    … and {rest} more"] if rest > 0 else lines)


def compare(old: Path, new: Path) -> list[Part]:
    """Compare two results folders, faces first; each part is a file or folder at their top."""
    files = {path: (old / path, new / path) for path in sorted(_files(old) | _files(new))}
    names = sorted({path.split("/")[0] for path in files}, key=lambda name: (name != "faces", name))
    moved: set[str] = set()
    parts = []
    for name in names:
        part = Part(name)
        inside = {path: pair for path, pair in files.items() if path.split("/")[0] == name}
        absent = [path for path, pair in inside.items() if not (pair[0].is_file() and pair[1].is_file())]
        part.differences += [f"{path}: only in {'OLD' if files[path][0].is_file() else 'NEW'}" for path in absent]
        rows = name in ("faces", "static", "dynamic")
        for path, pair in inside.items():
            if path not in absent:
                kind = ".rows" if rows and path.endswith(".npz") else Path(path).suffix
                COMPARE.get(kind, _compare_bytes)(part, path, *pair, moved)
        _sum_up(part, moved)
        parts.append(part)
    return parts


def _files(folder: Path) -> set[str]:
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {path for path in paths if not IGNORED_FILES.search(path)}


def _first(values: np.ndarray, chosen: np.ndarray) -> Any:
    return np.asarray(values[chosen]).tolist()[0] if values.ndim else values.item()


def _compare_rows(part: Part, path: str, old: Path, new: Path, moved: set[str]) -> None:
    """Compare a clip's faces, or its rows: bit for bit where its faces are."""
    a, b = (dict(np.load(file, allow_pickle=False)) for file in (old, new))
    clip = path.partition("/")[2]
    names = [name for name in sorted(a.keys() | b.keys()) if not IGNORED_KEYS.search(name)]
    changed = [name for name in names if not _same_bits(a.get(name), b.get(name))]
    part.values += sum(np.size(a[name]) for name in names if name in a)
    if part.name == "faces" and any(name in WHERE_FACES_ARE for name in changed):
        moved.add(clip)
        part.differences.append(f"{path}: {_box_change(a, b)}")
    elif part.name == "faces" or clip not in moved:
        part.differences += [f"{path}: {name} {_change(a.get(name), b.get(name))}" for name in changed]


def _same_bits(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return (
        a is not None and b is not None and (a.dtype.kind, a.shape) == (b.dtype.kind, b.shape) and _bits(a) == _bits(b)
    )


def _bits(array: np.ndarray) -> tuple:
    return (array.tolist(),) if array.dtype.kind == "U" else (array.dtype.str, array.tobytes())


def _change(a: np.ndarray | None, b: np.ndarray | None) -> str:
    if a is None or b is None:
        return f"is only in {'NEW' if a is None else 'OLD'}"
    if a.shape != b.shape or a.dtype.kind == "U" or a.dtype != b.dtype:
        return f"{a.dtype} {a.shape} {a if a.ndim == 0 else ''} became {b.dtype} {b.shape} {b if b.ndim == 0 else ''}"
    return f"is not the same bits (largest change {np.abs(a.astype(float) - b.astype(float)).max():.2g})"


def _box_change(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> str:
    cover = f"coverage {float(a['coverage']):.3f} -> {float(b['coverage']):.3f}"
    if a["found_xyxy"].shape != b["found_xyxy"].shape:
        return f"{len(a['found_xyxy'])} boxes became {len(b['found_xyxy'])}, {cover}"
    change = np.abs(a["found_xyxy"].astype(float) - b["found_xyxy"])
    one = np.abs(a["box_xyxy"].astype(float) - b["box_xyxy"]).max()
    boxes = f"boxes moved by {np.nanmedian(change):.2f} px (median), {np.nanmax(change):.2f} px (largest)"
    return f"{boxes}, stable box by {one:.2f} px, {cover}"


def _sum_up(part: Part, moved: set[str]) -> None:
    if part.name == "faces" and moved:
        part.notes.append(f"boxes differ in {len(moved)} clips")
    if part.name in ("static", "dynamic") and moved:
        part.notes.append(f"rows of {len(moved)} clips not compared bit for bit: their boxes differ")


def _compare_json(part: Part, path: str, old: Path, new: Path, moved: set[str]) -> None:
    a, b = (json.loads(file.read_text(encoding="utf-8")) for file in (old, new))
    _compare_values(part, path, a, b, POINT)


def _compare_values(part: Part, place: str, old: Any, new: Any, tolerance: float) -> None:
    """Compare JSON values of any depth; an order of failures, and a unit of their numbers, does not matter."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(key for key in old.keys() | new.keys() if not IGNORED_KEYS.search(key)):
            if key in old and key in new:
                inner = INTERVAL if INTERVAL_KEYS.search(key) else tolerance
                _compare_values(part, f"{place}:{key}", *_ordered(key, old[key], new[key]), inner)
            else:
                part.differences.append(f"{place}:{key} is only in {'OLD' if key in old else 'NEW'}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, pair in enumerate(zip(old, new, strict=True)):
            _compare_values(part, f"{place}[{i}]", *pair, tolerance)
    elif isinstance(old, str) and isinstance(new, str):
        part.text(place, old, new)
    elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in (old, new)):
        part.numbers(place, old, new, tolerance)
    elif old != new:
        part.differences.append(f"{place}: {str(old)[:200]} became {str(new)[:200]}")


def _ordered(key: str, *values: Any) -> Iterator[Any]:
    return (sorted(v, key=json.dumps) if key in ("failed", "problems") and isinstance(v, list) else v for v in values)


def _compare_csv(part: Part, path: str, old: Path, new: Path, moved: set[str]) -> None:
    """Compare tables whose rows are named by their columns of text and whole numbers, in any order."""
    a, b = (pd.read_csv(file) for file in (old, new))
    if set(a) != set(b) or len(a) != len(b):
        part.differences.append(f"{path}: {len(a)} rows of {sorted(a)} became {len(b)} rows of {sorted(b)}")
        return
    names = [column for column in a if a[column].dtype.kind != "f" and b[column].dtype.kind != "f"]
    a, b = (table.sort_values(names, kind="stable").reset_index(drop=True) if names else table for table in (a, b))
    for column in a:
        as_text = column in names and a[column].dtype.kind not in "ib"
        pair = (table[column].fillna("").astype(str) if as_text else table[column] for table in (a, b))
        tolerance = INTERVAL if INTERVAL_KEYS.search(column) else POINT
        part.numbers(f"{path}:{column}", *(series.to_numpy() for series in pair), tolerance)


def _compare_npz(part: Part, path: str, old: Path, new: Path, moved: set[str]) -> None:
    a, b = (dict(np.load(file, allow_pickle=False)) for file in (old, new))
    _compare_arrays(part, path, a, b)


def _compare_h5(part: Part, path: str, old: Path, new: Path, moved: set[str]) -> None:
    _compare_arrays(part, path, _h5_arrays(old), _h5_arrays(new))


def _h5_arrays(path: Path) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return arrays


def _compare_arrays(part: Part, path: str, a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    for name in sorted(name for name in a.keys() | b.keys() if not IGNORED_KEYS.search(name)):
        if name in a and name in b:
            part.numbers(f"{path}:{name}", a[name], b[name], POINT)
        else:
            part.differences.append(f"{path}:{name} is only in {'OLD' if name in a else 'NEW'}")


def _compare_bytes(part: Part, path: str, old: Path, new: Path, moved: set[str]) -> None:
    part.values += 1
    if old.read_bytes() != new.read_bytes():
        part.differences.append(f"{path}: not the same bytes")


COMPARE: dict[str, Callable] = {
    ".rows": _compare_rows,
    ".json": _compare_json,
    ".csv": _compare_csv,
    ".npz": _compare_npz,
    ".h5": _compare_h5,
}


def main() -> int:
    """Print one line per part and one per difference; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    args = parser.parse_args()
    for folder in (args.old, args.new):
        if not folder.is_dir() or not _files(folder):
            print(f"{folder} must be a results folder, got none or an empty one.", file=sys.stderr)
            return 2
    try:
        parts = compare(args.old, args.new)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        print(f"A file cannot be read: {error}", file=sys.stderr)
        return 2
    print(*parts, sep="\n")
    different = [part.name for part in parts if part.differences]
    print(f"DIFFERENT: {', '.join(different)}" if different else f"equal: all {len(parts)} parts")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
