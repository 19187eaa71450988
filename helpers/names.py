"""What clips are called, and where they lie: keys, the clip that a name means, and walking a folder.

A key is the clip's path below the data folder without suffix (`training80_01/-AmMDnVl4s8.003`), "/" between its parts.
"""

import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv"})
UNDECODED = re.compile("[\ud800-\udfff]")  # in place of bytes that are not UTF-8
LEAVE_OUT = ".nomedia"  # as media players know it: a folder with such a file is left out


def is_video(name: str) -> bool:
    """Say whether a file is taken for a video, by its suffix in any case."""
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES


def clip_key(path: str) -> str:
    """Return the key of a path: the path without a video suffix, in composed Unicode (NFC).

    Only the last suffix goes, and only if it is one of videos: `id.003.mp4` and `id.003` both give `id.003`.
    """
    return unicodedata.normalize("NFC", path.rpartition(".")[0] if is_video(path) else path)


def natural_order(key: str) -> tuple:
    """Sort key that puts `clip 2` before `clip 10`, folder by folder."""
    parts = [re.split(r"([0-9]+)", part) for part in key.split("/")]
    return [[int(p) if i % 2 else p for i, p in enumerate(part)] for part in parts], key


def fitting_keys(names: Iterable[str], keys: Iterable[str]) -> list[list[str]]:
    """List for each name all keys it fits: the equal one, or else those that end in it.

    Names are keys, or their last parts (a file name; a folder and a file name), with or without video suffix. A name is
    tried as it is, and then without spaces around it and with "/" for backslashes.
    """
    tails: dict[str, list[str]] = {}
    for key in keys:
        parts = key.split("/")
        for first in range(len(parts)):
            tails.setdefault("/".join(parts[first:]), []).append(key)
    return [_candidates(name, tails) for name in names]


def match_clips(names: Iterable[str], keys: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Find the clip of each name: see `fitting_keys`.

    Returns:
        From key to name; and from every other name to the reason: it fits no clip, several, or another name's clip.
    """
    names = list(names)
    named: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name, fitting in zip(names, fitting_keys(names, keys), strict=True):
        if not fitting:
            refused[name] = "there is no such clip"
        elif len(fitting) > 1:
            refused[name] = f"it fits {fitting[0]} and {fitting[1]}"
        elif named.setdefault(fitting[0], name) != name:
            refused[name] = f"{named[fitting[0]]} means the same clip {fitting[0]}"
    return named, refused


def _candidates(name: str, tails: Mapping[str, list[str]]) -> list[str]:
    tidied = name.strip().replace("\\", "/").removeprefix("./")
    spellings = [s for path in (name, tidied) for s in (clip_key(path), unicodedata.normalize("NFC", path))]
    equal = ([s] for s in spellings if s in tails.get(s, []))
    ends = (tails[s] for s in spellings if s in tails)
    return next(equal, None) or next(ends, [])


def video_files(root: Path, wanted: Callable[[str], bool] = is_video) -> Iterator[str]:
    """Yield the path of every video file, or of those whose names are `wanted`, below a folder, relative to it.

    Hidden files and folders are left out, and folders below `root` that hold a file `.nomedia`: clips of another kind,
    such as the sample's classes of motion. Folders that are links are followed, each folder once, however many links
    lead to it. A link to nothing is a file too: it will be named where it fails. A folder that cannot be read is logged
    and left out, if not `root`.

    Raises:
        ValueError: a name that is not UTF-8: no table could hold it.
    """

    def unreadable(error: OSError) -> None:
        if error.filename == str(root):
            raise error
        log.warning("%s cannot be read (%s): its clips are left out", error.filename, error.strerror)

    visited = {root.resolve(), *root.resolve().parents}
    for folder, folders, files in os.walk(str(root), followlinks=True, onerror=unreadable):
        if LEAVE_OUT in files and folder != str(root):
            folders.clear()
            continue
        below = {Path(folder, name).resolve(): name for name in sorted(folders, reverse=True) if name[0] != "."}
        folders[:] = sorted(name for path, name in below.items() if path not in visited)
        visited.update(below)
        for path in (Path(folder, name) for name in sorted(files) if name[0] != "." and wanted(name)):
            if path.is_file() or not path.exists():
                name = path.relative_to(root).as_posix()
                if UNDECODED.search(name):
                    raise ValueError(f"file names must be UTF-8, got {name!r}. Rename the file.")
                yield name
