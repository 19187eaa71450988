"""Walks a data folder: which video files lie below it.

In: a folder of any layout, with links and loops. Out: relative paths as text, in no order to rely on.
"""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from helpers.labels.names import is_video

log = logging.getLogger(__name__)

LEAVE_OUT = ".nomedia"  # a file of this name, as media players know it: whoever walks past leaves the folder out


def video_files(root: Path, wanted: Callable[[str], bool] = is_video) -> Iterator[str]:
    """Yield the path of every video file, or of those whose names are `wanted`, below a folder, relative to it.

    Parts of a path have "/" between them. Hidden files and folders are left out, and folders below `root` that hold a
    file `.nomedia`: clips of another kind, such as the sample's classes of motion, which are looked for in their own
    folder. Folders that are links are followed, each folder once, however many links lead to it. A link to nothing is
    a file too: it will be named where it fails. A folder that cannot be read is logged and left out, if not `root`.

    Raises:
        ValueError: a name that is not UTF-8: no table could hold it.
    """
    seen = {_identity(folder) for folder in (root.resolve(), *root.resolve().parents)}
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            if folder == root:
                raise
            log.warning("%s cannot be read (%s): its clips are left out", folder, error.strerror)
            continue
        if LEAVE_OUT in names and folder != root:
            continue
        for path in (folder / name for name in names if not name.startswith(".")):
            if os.path.isdir(path):
                if _identity(path) not in seen:
                    seen.add(_identity(path))
                    folders.append(path)
            elif wanted(path.name) and (os.path.isfile(path) or not os.path.exists(path)):
                yield _checked(path.relative_to(root).as_posix())


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def _checked(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"file names must be UTF-8, got {path!r}. Rename the file.") from None
    return path
