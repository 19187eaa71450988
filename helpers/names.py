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

VIDEOS = """3g2 3gp 3gpp amv asf avi divx dv f4v ivf m1v m2t m2ts m2v m4v mjpeg mjpg mk3d mkv mov mp4 mpe mpeg mpg mts
mxf nut obu ogm ogv qt rm rmvb tod vob webm wmv wtv y4m"""
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in VIDEOS.split())
DOUBTFUL = frozenset({".dat", ".gif", ".mod", ".ts"})  # of videos and of other things: the file is opened to know
UNDECODED = re.compile("[\ud800-\udfff]")  # in place of bytes that are not UTF-8
LEAVE_OUT = ".nomedia"  # as media players know it: a folder with such a file is left out


def is_video(name: str) -> bool:
    """Say whether a file is taken for a video, by its suffix in any case."""
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES


def clip_key(path: str) -> str:
    """Return the key of a path: the path without a video suffix, in composed Unicode (NFC).

    Only the last suffix goes, and only if it is one of videos: `id.003.mp4` and `id.003` both give `id.003`.
    """
    known = PurePosixPath(path).suffix.lower() in VIDEO_SUFFIXES | DOUBTFUL
    return unicodedata.normalize("NFC", path.rpartition(".")[0] if known else path)


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
    found, clip = next(equal, None) or next(ends, []), tidied.removesuffix("_aligned")  # as OpenFace calls its faces
    return found if found or clip == tidied else _candidates(clip, tails)


def video_files(root: Path, wanted: Callable[[str], bool] = is_video) -> Iterator[str]:
    """Yield the path of every video file, or of those whose names are `wanted`, below a folder: see `walk_files`.

    A link to nothing is a file too: it will be named where it fails. A name that is not UTF-8 is logged and left out.
    """
    for path in walk_files(root):
        if wanted(path.rpartition("/")[2]) and is_regular(root / path):
            if not UNDECODED.search(path):
                yield path
            else:
                log.warning("%r is left out: file names must be UTF-8. Rename the file.", path)


def is_regular(path: Path) -> bool:
    """Whether a path is a file, or a link to nothing, and no pipe, socket or device."""
    return path.is_file() or not path.exists()


def walk_files(root: Path, passed_over: Callable[[str, str], None] = lambda path, why: None) -> Iterator[str]:
    """Yield the path of everything below a folder that is no folder, relative to it.

    Hidden files and folders are left out, and folders below `root` that hold a file `.nomedia`: clips of another kind,
    such as the sample's classes of motion. Folders that are links are followed, each folder once, however many links
    lead to it. A folder that cannot be read is logged and left out, if not `root`. `passed_over` is called with the
    path of what is left out, and why.
    """

    def unreadable(error: OSError) -> None:
        if error.filename == str(root):
            raise error
        log.warning("%s cannot be read (%s): its clips are left out", error.filename, error.strerror)
        passed_over(Path(error.filename).relative_to(root).as_posix(), "folder that cannot be read")

    visited = {root.resolve(), *root.resolve().parents}
    for folder, folders, files in os.walk(str(root), followlinks=True, onerror=unreadable):
        inside = Path(folder).relative_to(root)
        if LEAVE_OUT in files and folder != str(root):
            folders.clear()
            passed_over(inside.as_posix(), f"folder with {LEAVE_OUT}")
            continue
        for name in sorted(name for name in (*folders, *files) if name[0] == "."):
            passed_over((inside / name).as_posix(), "hidden")
        entered = sorted((name for name in folders if name[0] != "." and name != "__pycache__"), reverse=True)
        below = {Path(folder, name).resolve(): name for name in entered}
        folders[:] = sorted(name for path, name in below.items() if path not in visited)
        visited.update(below)
        yield from ((inside / name).as_posix() for name in sorted(files) if name[0] != ".")
