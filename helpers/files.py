"""Where files lie and how they are written: paths, atomic replacement, JSON, locks, the code's version, disk space.

A file that these functions wrote is whole whenever it is there, however the process or the machine stopped. A full
disk is a `DiskFullError`.

The lock of a folder is an operating system's (`filelock`), on the file `.lock`, which stays there: a dead process holds
none, whatever that file says. Linux hands such locks to the server on NFS and SMB, so they hold between machines,
unless the mount says `nolock`, `local_lock` or `nobrl`. Reading takes no lock.
"""

import errno
import hashlib
import json
import logging
import os
import platform
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from functools import cache
from importlib import metadata
from itertools import takewhile
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
PART = ".part-"  # begins the name of a file that is being written
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's quota, a limit on the size of files
LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # of folders, on some network file systems


class DiskFullError(OSError):
    """There is no room for a file; the message says where, and how to go on."""


def resolve(path: str | Path) -> Path:
    """Return an absolute path; a relative one lies below the repository.

    A leading `results/` is replaced by the folder in the environment variable `WORKBOOK_RESULTS` when that is set
    (a larger disk, or a scratch folder for tests).
    """
    path = Path(path).expanduser()
    elsewhere = os.environ.get("WORKBOOK_RESULTS")
    if elsewhere and not path.is_absolute() and path.parts[:1] == ("results",):
        return Path(elsewhere).resolve().joinpath(*path.parts[1:])
    return (ROOT / path).resolve()


def weights_folder() -> Path:
    """Return the folder of published weights: `OCEAN_WEIGHTS`, else `~/.cache/ocean-workbook/weights`."""
    return Path(os.environ.get("OCEAN_WEIGHTS") or "~/.cache/ocean-workbook/weights").expanduser()


def needs(path: str | Path, made_by: str) -> Path:
    """Return `path`, or raise FileNotFoundError that says which notebook makes it."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. Run {made_by} first: it makes it.")
    return path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success its file is flushed to disk and renamed, otherwise removed.

    The name is flushed too: after a power cut, a manifest must not be there without the files that it counts.

    Raises:
        DiskFullError: There is no room; what was at `path` before is still there.
    """
    path = Path(path)
    temporary = path.with_name(f"{PART}{secrets.token_hex(4)}{path.suffix}")
    try:
        new = list(takewhile(lambda folder: not folder.exists(), path.parents))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        for folder in (path.parent, *(folder.parent for folder in new)):
            sync_folder(folder)
    except Exception as error:
        if full := disk_full(error, path):
            raise full from error
        raise
    finally:
        with suppress(OSError):  # the folder may be what is missing
            temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, where the system can do that."""
    if os.name == "nt":  # flushes names by itself, and cannot open a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


def disk_full(error: BaseException | None, path: Path) -> DiskFullError | None:
    """Return what to raise where `error`, or what led to it, is want of room for the file `path`; None otherwise."""
    while error is not None and not (isinstance(error, OSError) and error.errno in _FULL):
        if isinstance(error, DiskFullError):
            return error
        error = error.__cause__ or error.__context__  # closing a half-written archive hides the first error
    if error is None:
        return None
    return DiskFullError(
        f"the disk is full ({os.strerror(error.errno)}): {path} needs more room, "
        f"{free_bytes(path.parent) / 1e6:,.1f} MB are free there. "
        "Free some and run the same command: it goes on from here."
    )


def free_bytes(folder: str | Path) -> int:
    """Free bytes on the disk that a folder is on, or will be."""
    folder = resolve(folder)
    return shutil.disk_usage(next(there for there in (folder, *folder.parents) if there.exists())).free


def write_json(path: str | Path, data: Any) -> None:
    """Write JSON atomically, keys sorted. NaN and infinity are refused (ValueError): they are not JSON."""
    text = json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with replacing(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a damaged one is a ValueError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}). Delete it and run the step that makes it again.") from None


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file, as `sha256sum` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_version() -> str:
    """Version of the package, with the git commit when it runs from a checkout."""
    version = metadata.version("ocean-workbook")
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return version
    return f"{version}+{commit}"


@contextmanager
def stderr_into(path: str | Path) -> Iterator[None]:
    """Send what this process, its C++ libraries and the processes it starts write to standard error into a file."""
    sys.stderr.flush()
    before = os.dup(2)
    with open(path, "ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def differences(ours: dict, theirs: dict, prefix: str = "") -> list[str]:
    """Say in what two nested dictionaries differ: `weights.name: 'random' here, 'imagenet' there`."""
    found = []
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a!r} here, {b!r} there")
    return found


class LockedError(RuntimeError):
    """Another run fills the folder; the message names its process and says what to do."""


class FolderLock(AbstractContextManager):
    """A folder that this process alone fills, from now until `release`, the end of a `with`, or its own end.

    The folder is made if it is not there. What killed writers left in it is removed: nobody is writing it any more.
    Where the file system has no locks, a warning says so and the run goes on.

    Raises:
        LockedError: Someone else holds it. The same process counts as someone else.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / LOCK
        self._lock = FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False, on_acquired=_sign)
        try:
            self._lock.acquire()
        except Timeout:
            raise LockedError(
                f"{self.folder} is being filled by {_holder(path)}. "
                "Wait until that has ended, or stop it, or take another folder."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise (disk_full(error, path) or error) from None
            log.warning(
                "%s cannot be locked (%s). See to it that nothing else writes there.", self.folder, error.strerror
            )
        else:
            remove_leftovers(self.folder)

    def release(self) -> None:
        """Give the folder back; a second call does nothing."""
        self._lock.release()

    def __exit__(self, *_: object) -> None:
        self.release()


def _sign(handle: int) -> None:
    """Write who holds the lock behind the first byte, which Windows lets nobody else read."""
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    os.ftruncate(handle, 0)
    os.write(handle, f" process {os.getpid()} on {platform.node()} since {since}".encode())


def _holder(path: Path) -> str:
    """Who says in the lock's file that it holds the lock."""
    with suppress(OSError), open(path, "rb", buffering=0) as file:  # SMB lets nobody read a locked file
        file.seek(1)
        return file.read().decode() or "another process"  # which is about to write its name
    return "another process"


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders of killed writers, below `folder` too, except where one has its own lock."""
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not Path(where, name, LOCK).exists()]
        for part in (Path(where, name) for name in (*folders, *files) if name.startswith(PART)):
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)


def duration(hours: float) -> str:
    """Hours as they are said: "0.4 h (25 min)"; minutes under six hours, seconds under two minutes."""
    seconds = 3600 * hours
    if seconds < 120:
        return f"{hours:.1f} h ({seconds:.0f} s)"
    return f"{hours:.1f} h ({seconds / 60:.0f} min)" if hours < 6 else f"{hours:,.0f} h"


def size(n_bytes: float) -> str:
    """Bytes in the unit that fits: "3.1 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.{0 if unit == 'B' else 1}f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} TB"
