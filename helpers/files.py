"""Where files lie and how they are written: paths, atomic replacement, JSON, locks, the code's version.

A file that these functions wrote is whole whenever it is there, however the process stopped. A full disk is a
`DiskFullError`. Locks are the operating system's: a dead process holds none, and on NFS and SMB they hold between
machines, unless the mount says `nolock`, `local_lock` or `nobrl`.
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
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
PART = ".part-"  # begins the name of a file that is being written
LOCK = ".lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's quota, a limit on the size of files
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


class DiskFullError(OSError):
    """There is no room for a file; the message says where, and how to go on."""


class LockedError(RuntimeError):
    """Another run fills the folder; the message names its process and says what to do."""


def resolve(path: str | Path) -> Path:
    """Return an absolute path; a relative one lies below the repository, a leading `results/` in `WORKBOOK_RESULTS`."""
    path, elsewhere = Path(path).expanduser(), os.environ.get("WORKBOOK_RESULTS")
    if elsewhere and path.parts[:1] == ("results",):
        return Path(elsewhere).resolve().joinpath(*path.parts[1:])
    return (ROOT / path).resolve()


def weights_folder() -> Path:
    """Return the folder of published weights: `OCEAN_WEIGHTS`, else `~/.cache/ocean-workbook/weights`."""
    return Path(os.environ.get("OCEAN_WEIGHTS") or "~/.cache/ocean-workbook/weights").expanduser()


def needs(path: str | Path, made_by: str) -> Path:
    """Return `path`, or raise FileNotFoundError that says which notebook makes it."""
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} is missing. Run {made_by} first: it makes it.")
    return Path(path)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success its file is flushed to disk and renamed, otherwise removed.

    DiskFullError where there is no room; what was at `path` before is then still there.
    """
    path = Path(path)
    temporary = path.with_name(f"{PART}{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        raise disk_full(error, path) or error  # noqa: B904  chained by itself
    finally:
        with suppress(OSError):  # the folder may be what is missing
            temporary.unlink()


def disk_full(error: BaseException | None, path: Path) -> DiskFullError | None:
    """Return what to raise where `error`, or what led to it, is want of room for the file `path`; None otherwise."""
    while error is not None and not (isinstance(error, OSError) and error.errno in _FULL):
        if isinstance(error, DiskFullError):
            return error
        error = error.__cause__ or error.__context__  # closing a half-written archive hides the first error
    if error is None:
        return None
    return DiskFullError(
        f"the disk is full ({os.strerror(error.errno)}): {path} needs more room. "
        "Free some and run the same command: it goes on from here."
    )


def write_json(path: str | Path, data: Any) -> None:
    """Write JSON atomically, keys sorted. NaN and infinity, which are no numbers of JSON, become null."""
    known = json.loads(json.dumps(data, sort_keys=True), parse_constant=lambda name: None)
    with replacing(path) as part:
        part.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


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
    """Version of the package, with the git commit when it runs from a checkout of its own."""
    command, commit = ["git", f"--git-dir={ROOT / '.git'}", f"--work-tree={ROOT}", "describe"], ""
    command += ["--always", "--dirty", "--abbrev=10"]
    with suppress(OSError, subprocess.CalledProcessError):
        commit = "+" + subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return metadata.version("ocean-workbook") + commit


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


@contextmanager
def stderr_into(path: str | Path = os.devnull) -> Iterator[None]:
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


class FolderLock(AbstractContextManager):
    """A folder that this process alone fills, from now until `release`, the end of a `with`, or its own end.

    The folder is made, and what killed writers left in it is removed: nobody is writing it any more. Where the file
    system has no locks, a warning says so and the run goes on. LockedError where someone else holds it, be it this
    process.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / LOCK
        self._lock = FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False, on_acquired=_sign)
        try:
            self._lock.acquire()
            _remove_leftovers(folder)
        except Timeout:
            holder = "another process"
            with suppress(OSError):  # SMB lets nobody read a locked file
                holder = path.read_bytes().decode().strip("\0 ") or holder
            raise LockedError(
                f"{folder} is being filled by {holder}. Wait until that has ended, or stop it, or take another folder."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise (disk_full(error, path) or error) from None
            log.warning("%s cannot be locked (%s). See to it that nothing else writes there.", folder, error.strerror)

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


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders of killed writers, below `folder` too, except where one has its own lock."""
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not Path(where, name, LOCK).exists()]
        for part in (Path(where, name) for name in (*folders, *files) if name.startswith(PART)):
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)
