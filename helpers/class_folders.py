"""Labelled clips in folders: `<split>/<class>[/<sub>…]/<clip>`, videos or arrays (`array_clips`).

In: a folder. Out: a table with one row per clip and the label of every class. What splits are called, and what a clip's
key and source are, is as everywhere (`helpers.names`); the clips of an array are sources of their own.
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.array_clips import count_clips, is_array_file
from helpers.container import VideoError
from helpers.files import file_sha256
from helpers.names import clip_key, is_video, natural_order, source_of, video_files
from helpers.splits import SPLITS, split_named

log = logging.getLogger(__name__)

BEGINNING = 65536  # bytes


@dataclass(frozen=True)
class LabelledClips:
    """Clips and their classes.

    Attributes:
        table: Index key; columns path (below the data folder), place (in an array of clips; -1: a video), source,
            split, category, label.
        categories: Name of each class, sorted, to its label from 0; the same in all splits.
        problems: Columns name and problem: what was left out, or is to be known before training.
    """

    table: pd.DataFrame
    categories: dict[str, int]
    problems: pd.DataFrame


def find_classes(data_dir: str | Path) -> LabelledClips:
    """Find the clips of all classes in all splits.

    Folders are classes by their place: below a folder whose name says a split (`train`, `val`, `test80_01`). Hidden
    files are left out. A class folder without clips, a class that a split lacks, a file beside the class folders and
    an array that cannot be read are problems, not errors.

    Args:
        data_dir: The data folder.

    Raises:
        FileNotFoundError: It does not exist.
        RuntimeError: A pt file, and no torch to read it.
        ValueError: No splits, fewer than two classes with clips, one file's content in two classes, or two files with
            one key.
    """
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir must be a folder of classes, {root} does not exist. Check the path.")
    splits = [folder for folder in _subfolders(root) if split_named(folder.name)]
    if not splits:
        raise ValueError(
            f"data_dir must hold folders {', '.join(SPLITS)} with a folder per class in each, got none in {root}. "
            "Name the folder above them."
        )
    problems: list[tuple[str, str]] = []
    rows: list[tuple] = []
    for split in splits:
        problems += [(f"{split.name}/{name}", "lies beside the class folders") for name in _loose_clips(split)]
        for folder in _subfolders(split):
            found = _clips_below(root, folder, problems)
            rows += [(key, path, place, split_named(split.name), folder.name) for key, path, place in found]
            if not found:
                problems.append((f"{split.name}/{folder.name}", "a class folder without clips"))
    return _labelled(root, rows, problems)


def _labelled(root: Path, rows: list[tuple], problems: list[tuple[str, str]]) -> LabelledClips:
    columns = ["key", "path", "place", "split", "category"]
    table = pd.DataFrame(sorted(rows, key=lambda row: natural_order(row[0])), columns=columns).set_index("key")
    if table.index.has_duplicates:
        key = table.index[table.index.duplicated()][0]
        raise ValueError(f"{' and '.join(table.loc[key, 'path'])} have the same key {key!r}. Rename one of the two.")
    categories = {name: label for label, name in enumerate(sorted(set(table["category"])))}
    if len(categories) < 2:
        raise ValueError(f"data_dir must hold clips of two classes at least, got {list(categories)} in {root}.")
    _check_one_class_each(root, table)
    table["source"] = [source_of(key) for key in table.index]
    table["label"] = table["category"].map(categories).astype("int64")
    for split, present in table.groupby("split")["category"]:
        problems += [(split, f"no clips of class {name}") for name in categories if name not in set(present)]
    for name, problem in problems:
        log.warning("%s: %s", name, problem)
    columns = ["path", "place", "source", "split", "category", "label"]
    return LabelledClips(table[columns], categories, pd.DataFrame(problems, columns=["name", "problem"], dtype="str"))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _loose_clips(split: Path) -> list[str]:
    return sorted(path.name for path in split.iterdir() if path.is_file() and _is_clip(path.name))


def _is_clip(name: str) -> bool:
    return is_video(name) or is_array_file(name)


def _clips_below(root: Path, folder: Path, problems: list[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """Key, path below root, and place of every clip of a class folder."""
    clips = []
    for below in video_files(folder, _is_clip):
        path = (folder / below).relative_to(root).as_posix()
        if is_video(path):
            clips.append((clip_key(path), path, -1))
            continue
        try:
            places = range(count_clips(root / path))
        except VideoError as error:
            problems.append((path, str(error).removeprefix(f"{Path(path).name}: ")))
            continue
        stem = clip_key(path.removesuffix(Path(path).suffix))
        clips += [(f"{stem}/{place:04d}", path, place) for place in places]
    return clips


def _check_one_class_each(root: Path, table: pd.DataFrame) -> None:
    """Refuse one content in two classes; only what cannot be told apart by size and beginning is read whole."""
    files = table.drop_duplicates("path")
    category_of = dict(zip(files["path"], files["category"], strict=True))
    groups = [[path for path in category_of if (root / path).exists()]]
    for told_by in (lambda path: path.stat().st_size, _beginning, file_sha256):
        groups = [alike for group in groups for alike in _alike(root, group, told_by)]
        groups = [group for group in groups if len({category_of[path] for path in group}) > 1]
    for group in groups:
        first, *others = group
        other = next(path for path in others if category_of[path] != category_of[first])
        if (root / first).stat().st_size:
            raise ValueError(
                f"a clip must have one class, {first} and {other} are the same file. Delete it where it is wrong."
            )


def _alike(root: Path, paths: list[str], told_by: Callable[[Path], Any]) -> list[list[str]]:
    groups = defaultdict(list)
    for path in paths:
        groups[told_by(root / path)].append(path)
    return list(groups.values())


def _beginning(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(BEGINNING)
