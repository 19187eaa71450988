"""Splits of clips into training, validation and test: by source by default.

In: keys, sources and official splits of N clips. Out: "train", "validation" or "test" for each, (N,) str.
"""

import re
from collections.abc import Sequence

import numpy as np

SPLITS = ("train", "validation", "test")
SPLIT_NAME = re.compile(r"(?:(train|training)|(val|valid|validation)|(test))[\d _-]*", re.I)  # training80_01, val-1


def split_named(name: str) -> str:
    """Return "train", "validation" or "test" for the name of a split (`training80_01`, `val`, `TEST`), else ""."""
    found = SPLIT_NAME.fullmatch(name.strip())
    return SPLITS[found.lastindex - 1] if found else ""


def split_by_source(sources: Sequence[str], seed: int, *, validation: float, test: float) -> np.ndarray:
    """Draw a split that never parts the clips of one source.

    A random split of clips, which leaks, is the same with the clips' keys for `sources`.

    Args:
        sources: Source of each clip, (N,).
        seed: Of a frozen generator: the same sources, in any order, give the same split in every version.
        validation, test: Share of the sources in [0, 1), or with 1 and more their number.

    Returns:
        "train", "validation" or "test" for each clip, (N,) str.

    Raises:
        ValueError: not one source would be left for a part.
    """
    names, of_clip = np.unique(np.asarray(sources, dtype=str), return_inverse=True)
    counts = {"validation": validation, "test": test}
    counts = {part: round(n * len(names)) if n < 1 else int(n) for part, n in counts.items()}
    if min(counts.values()) < 1 or sum(counts.values()) >= len(names):
        raise ValueError(
            f"validation and test must leave a source to each part, got {counts} of {len(names)} sources. "
            "Change their shares, or add clips of other sources."
        )
    parts = np.repeat(["test", "validation"], [counts["test"], counts["validation"]])
    drawn = np.full(len(names), "train", dtype="<U10")
    drawn[np.random.RandomState(seed).permutation(len(names))[: len(parts)]] = parts
    return drawn[of_clip]


def split_folds(sources: Sequence[str], seed: int, *, validation: float, folds: int) -> np.ndarray:
    """Draw one of k folds by source as the test clips: seeds 0 to k - 1 test every clip once.

    Seed s is fold s % k of the (s // k)-th shuffle of the sources. Validation clips are drawn from the other folds.
    Arguments and result are those of `split_by_source`, whose shares are of all sources.
    """
    names = np.unique(np.asarray(sources, dtype=str))
    if not 2 <= folds <= len(names):
        raise ValueError(f"folds must be 2 to {len(names)}, the number of sources, got {folds}. Lower it.")
    shuffled = np.random.RandomState(seed // folds).permutation(names)
    in_test = np.isin(sources, np.array_split(shuffled, folds)[seed % folds])
    rest = np.asarray(sources, dtype=str)[~in_test]
    n_rest, n_validation = len(np.unique(rest)), round(validation * len(names)) if validation < 1 else int(validation)
    if not 0 < n_validation < n_rest:
        raise ValueError(
            f"validation must leave a source to each part, got {n_validation} of {n_rest} sources beside the fold. "
            "Change its share, or add clips of other sources."
        )
    chosen = np.random.RandomState(seed).permutation(np.unique(rest))[:n_validation]
    split = np.where(np.isin(sources, chosen), "validation", "train")
    return np.where(in_test, "test", split)


def split_clips(
    keys: Sequence[str],
    sources: Sequence[str],
    official: Sequence[str],
    kind: str,
    seed: int,
    validation: float,
    test: float,
    folds: int = 5,
) -> np.ndarray:
    """Split clips by source, in folds by source, at random, or as the data says.

    Args:
        keys, sources, official: Of each clip, (N,).
        kind: "source", "kfold", "random" (which leaks wherever clips share a source) or "official".
        seed: Not used by "official".
        validation, test: See `split_by_source`; not used by "official", `test` not by "kfold".
        folds: Used by "kfold": see `split_folds`.

    Returns:
        "train", "validation" or "test" for each clip, (N,) str; "" for clips outside the official split.
    """
    if kind == "official":
        split = np.asarray(official, dtype=str)
        absent = sorted(set(SPLITS) - set(split))
        if absent:
            raise ValueError(
                f"the official split must have rated {' and '.join(absent)} clips, got none. Use split: source."
            )
        return split
    if kind == "kfold":
        return split_folds(sources, seed, validation=validation, folds=folds)
    groups = {"source": sources, "random": keys}
    if kind not in groups:
        raise ValueError(f"kind must be source, kfold, random or official, got {kind!r}.")
    return split_by_source(groups[kind], seed, validation=validation, test=test)
