"""Where files lie and how they are written: paths, atomic replacement, JSON, the code's version.

A file that these functions wrote is whole whenever it is there, however the process or the machine stopped.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


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
    """Yield a temporary name beside `path`; on success its file is flushed to disk and renamed, otherwise removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@cache
def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
