"""What a clip's name says: its key, its source, its split, and which clip a name in a table means.

In and out: strings. Keys and paths are relative to the data folder and have "/" between their parts.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

SPLITS = ("train", "validation", "test")
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv"})
CHALEARN_NAME = re.compile(r"([\w-]{11})\.\d{3}", re.ASCII)
SPLIT_NAME = re.compile(r"(?:(train|training)|(val|valid|validation)|(test))[\d _-]*", re.I)  # training80_01, val-1


def is_video(name: str) -> bool:
    """Say whether a file is taken for a video, by its suffix in any case."""
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES


def clip_key(path: str) -> str:
    """Return the key of a path: the path without a video suffix, in composed Unicode (NFC).

    Only the last suffix goes, and only if it is one of videos: `id.003.mp4` and `id.003` both give `id.003`.
    """
    key = path.rpartition(".")[0] if is_video(path) else path
    return unicodedata.normalize("NFC", key)


def source_of(key: str) -> str:
    """Return the video id in a ChaLearn name (`<11 characters>.003`), else the key: a clip is then its own source."""
    found = CHALEARN_NAME.fullmatch(PurePosixPath(key).name)
    return found[1] if found else key


def split_of(key: str) -> str:
    """Return the split that the innermost telling folder of a key names, or ""."""
    named = (split_named(folder) for folder in reversed(key.split("/")[:-1]))
    return next(filter(None, named), "")


def split_named(name: str) -> str:
    """Return "train", "validation" or "test" for the name of a split (`training80_01`, `val`, `TEST`), else ""."""
    found = SPLIT_NAME.fullmatch(name.strip())
    return SPLITS[found.lastindex - 1] if found else ""


def natural_order(key: str) -> tuple:
    """Sort key that puts `clip 2` before `clip 10`, folder by folder."""
    parts = [re.split(r"([0-9]+)", part) for part in key.split("/")]
    return [[int(p) if i % 2 else p for i, p in enumerate(part)] for part in parts], key


def find_keys(names: Iterable[str], splits: Mapping[str, str], name_splits: Iterable[str] | None = None) -> list[str]:
    """Find the clip that each name means.

    Args:
        names: Keys, or the last parts of keys (a file name; a folder and a file name), with or without video suffix.
        splits: The split of each key there is, "" where it is unknown.
        name_splits: For each name the split its clip is known to be in, or "". Clips of other splits are passed over.

    Returns:
        A key per name; "" where there is no such clip.

    Raises:
        ValueError: a name that fits more than one clip.
    """
    names = list(names)
    wanted = name_splits if name_splits is not None else [""] * len(names)
    found = []
    for name, candidates, split in zip(names, fitting_keys(names, splits), wanted, strict=True):
        fitting = [key for key in candidates if not split or splits[key] in ("", split)]
        if len(fitting) > 1:
            raise ValueError(f"{name!r} must name one clip, got {fitting[0]} and {fitting[1]}. Call it by its key.")
        found.append(fitting[0] if fitting else "")
    return found


def fitting_keys(names: Iterable[str], keys: Iterable[str]) -> list[list[str]]:
    """List for each name all keys it fits: the equal one, or else those that end in it; suffixes as in `find_keys`."""
    tails: dict[str, list[str]] = {}
    for key in keys:
        parts = key.split("/")
        for first in range(len(parts)):
            tails.setdefault("/".join(parts[first:]), []).append(key)
    return [_candidates(name, tails) for name in names]


def _candidates(name: str, tails: Mapping[str, list[str]]) -> list[str]:
    """The clips a name may mean, as it is or else tidied: the one with that key, or those whose keys end in it."""
    tidied = name.strip().replace("\\", "/").removeprefix("./")
    paths = [unicodedata.normalize("NFC", spelled) for spelled in (name, tidied)]
    for spelling in (spelled for path in paths for spelled in (path, clip_key(path))):
        if spelling in tails.get(spelling, []):
            return [spelling]
    ends = (tails.get(clip_key(path)) or tails.get(path) for path in paths)
    return next(filter(None, ends), [])
