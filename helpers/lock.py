"""A lock on a folder while a process fills it, so that two runs cannot spoil each other's files.

In: a folder. Out: a lock that is held until it is released or its process is gone. The operating system keeps it, on
the file `.lock`, which stays in the folder: so the lock of a dead process is no lock, whatever that file says. Reading
takes no lock, nor does a notebook run by hand outside the stages of 02 to 04.

Network file systems: Linux hands these locks to the server on NFS and (since 5.5) on SMB, so they hold between
machines, unless the mount says `nolock`, `local_lock` or `nobrl`: then on one machine only. Lustre has them under the
mount option `flock`. Where there are none at all, a warning says so and the run goes on.
"""

import errno
import logging
import os
import platform
import shutil
import weakref
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from helpers.files import PART, disk_full

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None

log = logging.getLogger(__name__)

LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
BEYOND = 2**30  # Windows locks bytes, and a locked byte cannot be read: this one lies behind the holder's name


class LockedError(RuntimeError):
    """Another run fills the folder; the message names its process and says what to do."""


class FolderLock:
    """A folder that this process alone fills, from now until `release`, the end of a `with`, or its own end.

    What killed writers left in the folder is removed, since nobody can be writing it any more.

    Args:
        folder: Made if it is not there.
        shared: Let others in that say so too (several processes that fill one folder on purpose). Leftovers then
            stay, and on Windows, which knows no such locks, nobody is kept out.

    Raises:
        LockedError: Someone else holds it. The same process counts as someone else.
    """

    def __init__(self, folder: str | Path, *, shared: bool = False) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        self._close = weakref.finalize(self, os.close, handle)  # which ends the lock
        try:
            self._take(handle, shared)
        except BaseException as error:
            self.release()  # now: the traceback would keep this object, and with it the lock
            if full := disk_full(error, self.folder / LOCK):
                raise full from None
            raise

    def _take(self, handle: int, shared: bool) -> None:
        try:
            _lock(handle, shared)
        except OSError as error:
            if error.errno in NO_LOCKS:
                log.warning(
                    "%s cannot be locked (%s). See to it that nothing else writes there.", self.folder, error.strerror
                )
                return
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                raise
            raise LockedError(
                f"{self.folder} is being filled by {_holder(self.folder)}. "
                "Wait until that has ended, or stop it, or take another folder."
            ) from None
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {platform.node()} since {since}".encode())
        if not shared:
            remove_leftovers(self.folder)

    def release(self) -> None:
        """Give the folder back; a second call does nothing."""
        self._close()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders of killed writers, below `folder` too, except where one has its own lock."""
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not Path(where, name, LOCK).exists()]
        for name in folders:
            if name.startswith(PART):
                shutil.rmtree(Path(where, name), ignore_errors=True)
        for name in files:
            if name.startswith(PART):
                Path(where, name).unlink(missing_ok=True)


def _lock(handle: int, shared: bool) -> None:
    """Lock an open file or raise OSError at once. Processes started from here do not inherit the handle."""
    if fcntl:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    elif not shared:
        os.lseek(handle, BEYOND, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)


def _holder(folder: Path) -> str:
    """Who says in the lock's file that it holds the lock."""
    with suppress(OSError):  # SMB lets nobody read a locked file
        return (folder / LOCK).read_text(encoding="utf-8") or "another process"  # which is about to write its name
    return "another process"
