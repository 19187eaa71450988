"""What clips are called, and where they lie: keys, walking a folder, and the clip that a name means.

A key is the clip's path below the data folder without suffix (`training80_01/-AmMDnVl4s8.003`), "/" between its parts.
A name is what people and programs call a clip: a key, a file's name, a path on another computer. Rules go from strict
to loose, and a loose one counts only where it leaves one clip.
"""

import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

log = logging.getLogger(__name__)

VIDEOS = """3g2 3gp 3gpp amv asf avi divx dv f4v ivf m1v m2t m2ts m2v m4v mjpeg mjpg mk3d mkv mov mp4 mpe mpeg mpg mts
mxf nut obu ogm ogv qt rm rmvb tod vob webm wmv wtv y4m"""
VIDEO_SUFFIXES = set(VIDEOS.split())
DOUBTFUL = {"dat", "gif", "mod", "ts"}  # of videos and of other things: the file is opened to know
UNDECODED = re.compile("[\ud800-\udfff]")  # in place of bytes that are not UTF-8
LEAVE_OUT = ".nomedia"  # as media players know it: a folder with such a file is left out
ABSOLUTE = re.compile(r"(?:/|~|\.\./|[a-z]:|[a-z]+://)", re.I)  # how a path begins that is no path below the folder
NO_CLIP = "there is no such clip"
SEVERAL = "is the name of"  # begins the reason of a name that is the end of several keys

Forms = Callable[[str], Iterable[str]]
Match = tuple[str, str, str]  # a name; the key of its clip, "" where it fits none; the rule by which, or the reason


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


def match_clips(names: Iterable[str], keys: Iterable[str], root: str | Path = "") -> tuple[dict[str, str], dict]:
    """From key to the name that means it; and from every other name to the reason. Of two names the first counts."""
    named: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name, key, rule in match_names(names, keys, root):
        if not key or named.setdefault(key, name) != name:
            refused[name] = f"{named[key]} means the same clip {key}" if key else rule
    return named, refused


def match_names(names: Iterable[str], keys: Iterable[str], root: str | Path = "") -> list[Match]:
    """Find the clip that each name means; a row per name, in their order.

    Relative names may begin with the name of `root`, the data folder.
    """
    names, keys = list(names), list(keys)
    found = dict.fromkeys(names, ("", NO_CLIP))
    for rule, of_name, of_key in _rules(Path(root)):
        if not (left := [name for name, (_, why) in found.items() if why == NO_CLIP]):
            break
        # Where the folders of a path are passed over, only clips count that no stricter rule has found.
        taken = {key for key, _ in found.values()} if "file name of" in rule else set()
        forms: dict[str, list[str]] = {}
        for key in keys:
            for form in dict.fromkeys(of_key(key) if key not in taken else ()):
                forms.setdefault(form, []).append(key)
        for name in left:
            if fitting := next((forms[form] for form in of_name(name) if form in forms), []):
                why = f"{SEVERAL if rule == 'file name' else 'fits'} {' and '.join(fitting[:2])}"
                found[name] = (fitting[0], rule) if len(fitting) == 1 else ("", why)
    return [(name, *found[name]) for name in names]


def _rules(root: Path) -> Iterator[tuple[str, Forms, Forms]]:
    """Names of rules, and the forms of a name, in order, and of a key: the clip is meant that shares one with the name.

    Strictest first; what fits several clips by one rule is not settled by a looser one.
    """
    yield "key", _spellings, lambda key: [key]
    for rule, of_name, of_key in (
        ("file name", _spellings, _ends),
        ("path", partial(_below, root.absolute().parts), lambda key: [key]),
        ("file name of a path", _file_name, _ends),
    ):
        yield rule, of_name, of_key
        yield f"{rule}, other case".removeprefix("file name, "), _folded(of_name), _folded(of_key)


def _folded(forms: Forms) -> Forms:
    return lambda text: [form.casefold() for form in forms(text)]


def _below(folder: tuple[str, ...], name: str) -> Iterator[str]:
    """Ends of a path of another computer, or from the folder above the data."""
    parts = clip_key(_tidied(name)).split("/")
    for i in range(1, len(parts)):
        if ABSOLUTE.match(_tidied(name)) or tuple(parts[:i]) == folder[-i:]:
            yield "/".join(parts[i:])


def _file_name(name: str) -> list[str]:
    return [clip_key(_tidied(name)).rpartition("/")[2]] if ABSOLUTE.match(_tidied(name)) else []


def _tidied(name: str) -> str:
    """A name without spaces around it, with "/" for backslashes."""
    return name.strip().replace("\\", "/").removeprefix("./")


def _spellings(name: str) -> Iterator[str]:
    """What a name with or without video suffix may mean: it, it tidied, and without OpenFace's `_aligned`."""
    for path in (name, _tidied(name), _tidied(name).removesuffix("_aligned")):
        yield from (clip_key(path), unicodedata.normalize("NFC", path))


def _ends(key: str) -> Iterator[str]:
    """A key, and the key without its first folder, and so on."""
    parts = key.split("/")
    return ("/".join(parts[first:]) for first in range(len(parts)))


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
