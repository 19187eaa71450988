"""What was seen of weights files: one small JSON beside the files of each row, with sha256, bytes, source, verdict.

In: a name and its row of the table. Out: the record, a dict `{"name", "recorded", "files": {name: {"sha256", "n_bytes",
"url"}}, "verified"}`; `verified` is None, or what `python -m helpers weights verify` found. Imports no Keras.
"""

import hashlib
import logging
from datetime import date
from pathlib import Path

from helpers.checkpoints.published import Published
from helpers.files import file_sha256, read_json, weights_folder, write_json

log = logging.getLogger(__name__)


def has_hash(path: str | Path, file_hash: str) -> bool:
    """Whether a file's bytes have this md5 (32 hexadecimal digits) or sha256 (64)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5" if len(file_hash) == 32 else "sha256").hexdigest() == file_hash


def git_blob_id(path: str | Path) -> str:
    """Return the id git gives a file's bytes: sha1 over "blob <bytes>", a zero byte, and the bytes."""
    with open(path, "rb") as file:
        start = hashlib.sha1(f"blob {Path(path).stat().st_size}\0".encode())
        return hashlib.file_digest(file, start.copy).hexdigest()


def is_here(row: Published) -> bool:
    """Whether every file of a row lies in the weights folder."""
    return all((weights_folder() / file.name).is_file() for file in row.files)


def main_file(row: Published) -> Path:
    """Return the largest file of a row that is here: the one whose sha256 stands for the weights."""
    return max((weights_folder() / file.name for file in row.files), key=lambda path: path.stat().st_size)


def record_path(row: Published) -> Path:
    """Where the record of a row lies."""
    return weights_folder() / f"{row.path}.json"


def read_record(row: Published) -> dict:
    """Return the record of a row, or an empty dict where there is none; a damaged one is a ValueError that names it."""
    path = record_path(row)
    if not path.is_file():
        return {}
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("files"), dict):
        raise ValueError(f"{path} must be a record of weights, got something else. Delete it and verify again.")
    return record


def write_record(name: str, row: Published, verified: dict | None = None) -> dict:
    """Record the files of a row as they are now; a folder that cannot be written is logged, and keeps no record."""
    files = {
        file.name: {
            "sha256": file_sha256(weights_folder() / file.name),
            "n_bytes": (weights_folder() / file.name).stat().st_size,
            "url": file.url,
        }
        for file in row.files
    }
    record = {"name": name, "recorded": date.today().isoformat(), "files": files, "verified": verified}
    _write(row, record)
    return record


def doubt(row: Published) -> None:
    """Take back that a row was verified; what was seen of its files stays in the record."""
    record = read_record(row)
    if record.get("verified"):
        _write(row, {**record, "verified": None})


def _write(row: Published, record: dict) -> None:
    try:
        write_json(record_path(row), record)
    except OSError as error:
        log.warning("%s cannot be written (%s), so nothing is recorded.", record_path(row), error.strerror)


def has_changed(row: Published, record: dict) -> bool:
    """Whether a file has another size than its record says: quick, for the list; `verify` compares sha256."""
    return any(
        record["files"].get(file.name, {}).get("n_bytes") != (weights_folder() / file.name).stat().st_size
        for file in row.files
    )
