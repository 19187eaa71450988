"""Labelled clips in folders `<split>/<class>[/<sub>…]/<clip>`, videos or arrays, and their folds for training.

What splits are called, and what a clip's key and source are, is as everywhere (`helpers.names`); the clips of an array
are sources of their own.
"""

import logging
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from helpers.clip_frames import ARRAY_FILES, count_clips
from helpers.config import ClassificationConfig
from helpers.container import VideoError
from helpers.files import file_sha256
from helpers.names import clip_key, is_video, natural_order, video_files
from helpers.splits import SPLITS, source_of, split_named

log = logging.getLogger(__name__)


class LabelledClips(NamedTuple):
    """Clips and their classes.

    Attributes:
        table: Index key; columns path (below the data folder), place (in an array of clips; -1: a video), split,
            category, source, label.
        categories: Name of each class, sorted, to its label from 0; the same in all splits.
        problems: Columns name and problem: what was left out, or is to be known before training.
    """

    table: pd.DataFrame
    categories: dict[str, int]
    problems: pd.DataFrame


class Fold(NamedTuple):
    """Rows of the clips to train on, to choose the epoch on, and to test on, int."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def find_classes(data_dir: str | Path) -> LabelledClips:
    """Find the clips of all classes in all splits.

    Folders are classes by their place: below a folder whose name says a split (`train`, `val`, `test80_01`). Hidden
    files are left out. A class that a split lacks, a file beside the class folders and an array that cannot be read are
    problems, not errors.

    Raises:
        ValueError: No splits, fewer than two classes with clips, one file's content in two classes, or two files with
            one key.
    """
    root = Path(data_dir)
    splits = {folder: split_named(folder.name) for folder in _subfolders(root)}
    if not any(splits.values()):
        raise ValueError(
            f"data_dir must hold folders {', '.join(SPLITS)} with a folder per class in each, got none in {root}. "
            "Name the folder above them."
        )
    rows, problems, names = [], [], []
    for folder, split in splits.items():
        if not split:
            continue
        names += [(split, below.name) for below in _subfolders(folder)]
        for below in video_files(folder, lambda name: is_video(name) or name in ARRAY_FILES):
            path, (category, _, inside) = f"{folder.name}/{below}", below.partition("/")
            if not inside:
                problems.append((path, "lies beside the class folders"))
                continue
            try:
                rows += [(*clip, split, category) for clip in _clips_of(root, path)]
            except VideoError as error:
                problems.append((path, str(error)))
    columns = ["key", "path", "place", "split", "category"]
    table = pd.DataFrame(sorted(rows, key=lambda row: natural_order(row[0])), columns=columns).set_index("key")
    present = set(table[["split", "category"]].itertuples(index=False, name=None))
    wanted = {(split, category) for split in table["split"].unique() for category in table["category"].unique()}
    absent = sorted(wanted.union(names) - present)
    problems += [(split, f"no clips of class {category}") for split, category in absent]
    for name, problem in problems:
        log.warning("%s: %s", name, problem)
    return _labelled(root, table, pd.DataFrame(problems, columns=["name", "problem"], dtype="str"))


def _labelled(root: Path, table: pd.DataFrame, problems: pd.DataFrame) -> LabelledClips:
    if table.index.has_duplicates:
        key = table.index[table.index.duplicated()][0]
        raise ValueError(f"{' and '.join(table.loc[key, 'path'])} have the same key {key!r}. Rename one of the two.")
    categories = {name: label for label, name in enumerate(sorted(set(table["category"])))}
    if len(categories) < 2:
        raise ValueError(f"data_dir must hold clips of two classes at least, got {list(categories)} in {root}.")
    _check_one_class_each(root, table)
    table = table.assign(source=[source_of(key) for key in table.index], label=table["category"].map(categories))
    return LabelledClips(table.astype({"label": "int64"}), categories, problems)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _clips_of(root: Path, path: str) -> list[tuple[str, str, int]]:
    """Key, path below root, and place of the clip that a video is, or of those in an array."""
    if is_video(path):
        return [(clip_key(path), path, -1)]
    stem = clip_key(path.removesuffix(Path(path).suffix))
    return [(f"{stem}/{place:04d}", path, place) for place in range(count_clips(root / path))]


def _check_one_class_each(root: Path, table: pd.DataFrame) -> None:
    """Refuse one content in two classes; files are read only where others have their size."""
    files = table[[os.access(root / path, os.R_OK) for path in table["path"]]].drop_duplicates("path")
    files = files[files["path"].map(lambda path: (root / path).stat().st_size).duplicated(keep=False)]
    for _, alike in files.groupby(files["path"].map(lambda path: file_sha256(root / path))):
        if alike["category"].nunique() > 1:
            raise ValueError(
                f"a clip must have one class, {' and '.join(alike['path'])} are the same file. "
                "Delete it where it is wrong."
            )


def plan_folds(table: pd.DataFrame, cfg: ClassificationConfig) -> list[Fold]:
    """Divide clips for training; their table has columns split, source and label.

    "source": `cfg.folds` parts of whole sources with equal shares of the classes; each is the test part once and the
    validation part once, so that every clip has a prediction of a model that saw neither it nor its source.
    "official": one fold, the folders train, validation and test.
    """
    if cfg.split == "official":
        fold = Fold(*(np.flatnonzero(table["split"] == split) for split in SPLITS))
        if not all(map(len, fold)):
            there = ", ".join(sorted(set(table["split"])))
            raise ValueError(f"split 'official' needs folders {', '.join(SPLITS)}, got {there}. Choose 'source'.")
        return [fold]
    most = min(table["source"].nunique(), table["label"].value_counts().max())
    if most < cfg.folds:
        raise ValueError(f"folds must be at most {most}, as sources and clips of the largest class, got {cfg.folds}.")
    part = np.empty(len(table), int)
    divide = StratifiedGroupKFold(cfg.folds, shuffle=True, random_state=cfg.seed)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of small classes: see `check_folds`
        for k, (_, rows) in enumerate(divide.split(table, table["label"], table["source"])):
            part[rows] = k
    after = (part - 1) % cfg.folds  # the part after a test part chooses the epoch
    kinds = [((part != k) & (after != k), after == k, part == k) for k in range(cfg.folds)]
    return [Fold(*map(np.flatnonzero, kind)) for kind in kinds]


def check_folds(table: pd.DataFrame, classes: list[str], cfg: ClassificationConfig) -> None:
    """Raise ValueError, before hours of work, where labelled clips cannot be trained and tested on as `cfg` says.

    Every class has to be in the training clips of every fold and among the test clips, which are of two sources at
    least: intervals are drawn over sources.
    """
    folds = plan_folds(table, cfg)
    parts = {f"the training clips of fold {k}": fold.train for k, fold in enumerate(folds)}
    parts["the test clips"] = test = np.concatenate([fold.test for fold in folds])
    for part, rows in parts.items():
        absent = [name for label, name in enumerate(classes) if label not in set(table["label"].iloc[rows])]
        if absent:
            raise ValueError(f"{part} must be of all classes, got none of {absent[0]}. Add some, or leave it out.")
    n_sources = table["source"].iloc[test].nunique()
    if n_sources < 2:
        raise ValueError(f"the test clips must be of 2 sources at least, got {n_sources}. Add clips of another source.")
