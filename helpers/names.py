"""What clips are called, and where they lie: keys, the clip that a name means, and walking a folder.

A key is the clip's path below the data folder without suffix (`training80_01/-AmMDnVl4s8.003`), "/" between its parts.
"""

import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

log = logging.getLogger(__name__)

VIDEOS = """3g2 3gp 3gpp amv asf avi divx dv f4v ivf m1v m2t m2ts m2v m4v mjpeg mjpg mk3d mkv mov mp4 mpe mpeg mpg mts
mxf nut obu ogm ogv qt rm rmvb tod vob webm wmv wtv y4m"""
VIDEO_SUFFIXES = set(VIDEOS.split())
DOUBTFUL = {"dat", "gif", "mod", "ts"}  # of videos and of other things: the file is opened to know
UNDECODED = re.compile("[\ud800-\udfff]")  # in place of bytes that are not UTF-8
NO_CLIP = "there is no such clip"
LEAVE_OUT = ".nomedia"  # as media players know it: a folder with such a file is left out


def is_video(name: str) -> bool:
    """Say whether a file is taken for a video, by its suffix in any case."""
    return PurePosixPath(name).suffix[1:].lower() in VIDEO_SUFFIXES


def clip_key(path: str) -> str:
    """Return the key of a path: the path without a video suffix, in composed Unicode (NFC).

    Only the last suffix goes, and only if it is one of videos: `id.003.mp4` and `id.003` both give `id.003`.
    """
    known = PurePosixPath(path).suffix[1:].lower() in VIDEO_SUFFIXES | DOUBTFUL
    return unicodedata.normalize("NFC", path.rpartition(".")[0] if known else path)


def natural_order(key: str) -> tuple:
    """Sort key that puts `clip 2` before `clip 10`, folder by folder."""
    parts = [re.split(r"([0-9]+)", part) for part in key.split("/")]
    return [[int(p) if i % 2 else p for i, p in enumerate(part)] for part in parts], key


def ends(key: str) -> Iterator[str]:
    """A key, and the key without its first folder, and so on."""
    parts = key.split("/")
    return ("/".join(parts[first:]) for first in range(len(parts)))


def tidied(name: str) -> str:
    """A name without spaces around it, with "/" for backslashes."""
    return name.strip().replace("\\", "/").removeprefix("./")


def spellings(name: str) -> Iterator[str]:
    """What a name with or without video suffix may mean: it, it tidied, and without OpenFace's `_aligned`."""
    for path in (name, tidied(name), tidied(name).removesuffix("_aligned")):
        yield from (clip_key(path), unicodedata.normalize("NFC", path))


def match_clips(names: Iterable[str], keys: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Find the clip of each name, by its key or else the only one that ends in the name.

    Returns:
        From key to name; and from every other name to the reason.
    """
    ending: dict[str, list[str]] = {}
    for key in keys:
        for end in ends(key):
            ending.setdefault(end, []).append(key)
    named: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name in names:
        known = [spelled for spelled in spellings(name) if spelled in ending]
        exact = [spelled for spelled in known if spelled in ending[spelled]]
        fitting = exact[:1] or (ending[known[0]] if known else [])
        if len(fitting) != 1:
            refused[name] = f"it fits {fitting[0]} and {fitting[1]}" if fitting else NO_CLIP
        elif named.setdefault(fitting[0], name) != name:
            refused[name] = f"{named[fitting[0]]} means the same clip {fitting[0]}"
    return named, refused


def video_files(root: Path, wanted: Callable[[str], bool] = is_video) -> Iterator[str]:
    """Yield the path of every video file, or of those whose names are `wanted`, below a folder: see `walk_files`.

    A link to nothing is a file too: it will be named where it fails. A name that is not UTF-8 is logged and left out.
    """
    for path, passed_over in walk_files(root):
        if not passed_over and wanted(path.rpartition("/")[2]) and is_regular(root / path):
            if not UNDECODED.search(path):
                yield path
            else:
                log.warning("%r is left out: file names must be UTF-8. Rename the file.", path)


def is_regular(path: Path) -> bool:
    """Whether a path is a file, or a link to nothing, and no pipe, socket or device."""
    return path.is_file() or not path.exists()


def walk_files(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the path, relative to a folder, of everything below it that is no folder, and "" or why it is passed over.

    Hidden files and folders are passed over, folders that cannot be read (logged; not `root`), and folders below `root`
    that hold a file `.nomedia`: clips of another kind, such as the sample's classes of motion. Folders that are links
    are followed, each folder once, however many links lead to it.
    """
    unread: list[OSError] = []
    visited = {root.resolve(), *root.resolve().parents}
    for folder, folders, files in os.walk(str(root), followlinks=True, onerror=unread.append):
        inside = Path(folder).relative_to(root)
        if LEAVE_OUT in files and folder != str(root):
            folders.clear()
            yield inside.as_posix(), f"folder with {LEAVE_OUT}"
            continue
        entered = sorted((name for name in folders if name[0] != "." and name != "__pycache__"), reverse=True)
        below = {Path(folder, name).resolve(): name for name in entered}
        for name in sorted(files + [name for name in folders if name[0] == "."]):
            yield (inside / name).as_posix(), "hidden" if name[0] == "." else ""
        folders[:] = sorted(name for path, name in below.items() if path not in visited)
        visited.update(below)
    for error in unread:
        if error.filename == str(root):
            raise error
        log.warning("%s cannot be read (%s): its clips are left out", error.filename, error.strerror)
        yield Path(error.filename).relative_to(root).as_posix(), "folder that cannot be read"
