"""Splits of N clips into training, validation and test, by source unless another kind is chosen.

A source is what splits may not cut apart: a `source` column in `ratings.csv`, or what `source_of` says of the key.
"""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from helpers.config import TrainingConfig

SPLITS = ("train", "validation", "test")
SPLIT_NAME = re.compile(r"(?:(train|training)|(val|valid|validation)|(test))[\d _-]*", re.I)  # training80_01, val-1
CHALEARN_NAME = re.compile(r"([\w-]{11})\.\d{3}", re.ASCII)


def source_of(key: str) -> str:
    """Return the video's id in a name of ChaLearn First Impressions (`<11 characters>.003`), else the key itself."""
    match = CHALEARN_NAME.fullmatch(PurePosixPath(key).name)
    return match[1] if match else key


def split_named(name: str) -> str:
    """Return "train", "validation" or "test" for the name of a split (`training80_01`, `val`, `TEST`), else ""."""
    match = SPLIT_NAME.fullmatch(name.strip())
    return SPLITS[match.lastindex - 1] if match else ""


def split_clips(
    keys: Sequence[str],
    sources: Sequence[str],
    official: Sequence[str],
    kind: str,
    seed: int,
    validation: float,
    test: float,
) -> np.ndarray:
    """Split clips: "train", "validation" or "test" for each, (N,) str; "" for clips outside the official split.

    `keys`, `sources`, `official`: of each clip, (N,). `kind`: "source", "random" (which leaks wherever clips share a
    source) or "official". `seed`: of a frozen generator; the same sources, in any order, give the same split in every
    version. `validation`, `test`: share of the sources in [0, 1), or with 1 and more their number. ValueError: a part
    is empty.
    """
    if kind == "official":
        split = np.asarray(official, dtype=str)
        if absent := sorted(set(SPLITS) - set(split)):
            parts = " and ".join(absent)
            raise ValueError(f"the official split must have rated {parts} clips, got none. Use split: source.")
        return split
    groups = np.asarray(keys if kind == "random" else sources).astype(str)
    names = np.unique(groups)
    shuffled, n_test = np.random.RandomState(seed).permutation(names), _number(test, names)
    tested, rest = shuffled[:n_test], shuffled[n_test:]
    n_validation = _number(validation, names)
    if not len(tested) or not 0 < n_validation < len(rest):
        raise ValueError(
            f"validation and test must leave a source to each part, got {n_validation} and {len(tested)} of "
            f"{len(names)} sources. Change their shares, or add clips of other sources."
        )
    parts = [np.isin(groups, tested), np.isin(groups, rest[:n_validation])]
    return np.select(parts, ["test", "validation"], "train")


def _number(share: float, names: np.ndarray) -> int:
    return round(share * len(names)) if share < 1 else int(share)


def training_splits(clips: pd.DataFrame, targets: Sequence[str], cfg: TrainingConfig) -> dict[int, np.ndarray]:
    """The split of every seed of a training, as `split_clips` returns it.

    `clips` are the rated ones: index key, columns `source`, `split` (the official one) and one per target, NaN:
    unrated. ValueError where 06 cannot train on them: too few sources for a part, a target without a rating in one, or
    ratings of a target that are all equal.
    """
    how = cfg.validation_share, cfg.test_share
    splits = {s: split_clips(clips.index, clips["source"], clips["split"], cfg.split, s, *how) for s in cfg.seeds}
    for target, ratings in clips[list(targets)].items():
        if ratings.nunique() == 1:
            raise ValueError(
                f"ratings of {target} must differ, got {ratings.max():g} for all of {ratings.count()} clips. "
                "Correct them, or leave it out of targets in 01."
            )
    for seed, split in splits.items():
        for part in SPLITS:
            here = clips.loc[split == part, list(targets)]
            if unrated := [target for target in targets if here[target].isna().all()]:
                raise ValueError(
                    f"{unrated[0]} must be rated in every part of the split, got no rating in the {len(here)} {part} "
                    f"clips of seed {seed}. Leave the target out, or rate more clips."
                )
    return splits


def training_problem(clips: pd.DataFrame, targets: Sequence[str], cfg: TrainingConfig) -> str:
    """Why 06 could not train on the rated ones of these clips, "" where it can: to be told before hours are spent."""
    try:
        training_splits(clips[clips[list(targets)].notna().any(axis=1)], targets, cfg)
    except ValueError as error:
        return str(error)
    return ""
