"""Labelled clips in folders `<split>/<class>[/<sub>…]/<clip>`, videos or arrays, and their folds for training.

What splits are called, and what a clip's key and source are, is as everywhere (`helpers.names`); the clips of an array
are sources of their own.
"""

import logging
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from helpers.clip_frames import ARRAY_FILES, count_clips
from helpers.config import ClassificationConfig
from helpers.container import VideoError
from helpers.names import clip_key, is_video, natural_order, video_files
from helpers.splits import SPLITS, source_of, split_named
from helpers.statistics import FEWEST

log = logging.getLogger(__name__)


class LabelledClips(NamedTuple):
    """Clips and their classes.

    Attributes:
        table: Index key; columns path (below the data folder), place (in an array of clips; -1: a video), split,
            category, source, label.
        categories: Name of each class, sorted, to its label from 0; the same in all splits.
        problems: What was left out, or is to be known before training: `name` and `problem`.
    """

    table: pd.DataFrame
    categories: dict[str, int]
    problems: list[dict[str, str]]


class Fold(NamedTuple):
    """Rows of the clips to train on, to choose the epoch on, and to test on, int."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def find_classes(data_dir: str | Path) -> LabelledClips:
    """Find the clips of all classes in all splits.

    Folders are classes by their place: below a folder whose name says a split (`train`, `val`, `test80_01`). A class
    that a split lacks, a file beside the class folders and an array that cannot be read are problems, not errors.

    Raises:
        ValueError: No splits, fewer than two classes with clips, or two files with one key.
    """
    root, rows, problems, named = Path(data_dir), [], {}, set()
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and split_named(path.name)):
        split = split_named(folder.name)
        named |= {(split, below.name) for below in folder.iterdir() if below.is_dir() and below.name[0] != "."}
        for below in video_files(folder, lambda name: is_video(name) or name in ARRAY_FILES):
            path, (category, _, inside) = f"{folder.name}/{below}", below.partition("/")
            try:
                if not inside:
                    raise VideoError("lies beside the class folders")
                rows += [(*clip, split, category) for clip in _clips_of(root, path)]
            except VideoError as error:
                problems[path] = str(error)
    columns = ["key", "path", "place", "split", "category"]
    table = pd.DataFrame(sorted(rows, key=lambda row: natural_order(row[0])), columns=columns).set_index("key")
    categories = {name: label for label, name in enumerate(sorted(set(table["category"])))}
    if len(categories) < 2:
        raise ValueError(
            f"data_dir must hold folders {', '.join(SPLITS)} with a folder of clips per class in each, two at least, "
            f"got {list(categories)} in {root}. Name the folder above them."
        )
    if table.index.has_duplicates:
        key = table.index[table.index.duplicated()][0]
        raise ValueError(f"{' and '.join(table.loc[key, 'path'])} have the same key {key!r}. Rename one of the two.")
    present = set(zip(table["split"], table["category"], strict=True))
    wanted = named | {(split, category) for split, _ in present for category in categories}
    problems |= {f"{split}/{category}": "no clips of this class" for split, category in sorted(wanted - present)}
    table = table.assign(source=[source_of(key) for key in table.index], label=table["category"].map(categories))
    problems = [{"name": name, "problem": text} for name, text in problems.items()]
    return LabelledClips(table.astype({"label": "int64"}), categories, problems)


def _clips_of(root: Path, path: str) -> list[tuple[str, str, int]]:
    """Key, path below root, and place of the clip that a video is, or of those in an array."""
    if is_video(path):
        return [(clip_key(path), path, -1)]
    stem = clip_key(path.removesuffix(Path(path).suffix))
    return [(f"{stem}/{place:04d}", path, place) for place in range(count_clips(root / path))]


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


def check_folds(table: pd.DataFrame, classes: list[str], cfg: ClassificationConfig) -> list[dict[str, str]]:
    """Check, before hours of work, that labelled clips can be trained and tested on as `cfg` says.

    Returns:
        What is to be known before, as `LabelledClips.problems`: test clips of too few sources for intervals.

    Raises:
        ValueError: The training clips of a fold, or the test clips, lack a class.
    """
    folds = plan_folds(table, cfg)
    parts = {f"the training clips of fold {k}": fold.train for k, fold in enumerate(folds)}
    parts["the test clips"] = test = np.concatenate([fold.test for fold in folds])
    for part, rows in parts.items():
        absent = [name for label, name in enumerate(classes) if label not in set(table["label"].iloc[rows])]
        if absent:
            raise ValueError(f"{part} must be of all classes, got none of {absent[0]}. Add some, or leave it out.")
    n_sources = table["source"].iloc[test].nunique()
    few = f"of {n_sources} sources only: accuracies have no interval, which needs {FEWEST}"
    return [{"name": "the test clips", "problem": few}] if n_sources < FEWEST else []
