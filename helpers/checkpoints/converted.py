"""Converted weights: `<name>.npz` in the weights folder, which NumPy alone reads, so that any Keras backend loads it.

In and out: variables by their published names, float32. The file says which bytes it was made from; where the original
lies beside it and is another one now, the converted file is out of date and is not read.
"""

import json
import logging
import zipfile
import zlib
from pathlib import Path

import numpy as np

from helpers.checkpoints.published import Published
from helpers.checkpoints.records import is_here, main_file
from helpers.files import file_sha256, replacing, weights_folder

log = logging.getLogger(__name__)

SOURCE = "__source__"  # no variable is called so
CONVERTIBLE = ("i3d_checkpoint", "i3d_h5")  # kinds; Keras and OpenCV read the others as they are


def converted_path(name: str) -> Path:
    """Where the converted file of a row of the table lies."""
    return weights_folder() / f"{name}.npz"


def write_converted(name: str, row: Published, variables: dict[str, np.ndarray]) -> Path:
    """Write variables beside the sha256 of the file they were read from, whole or not at all."""
    source = {"name": name, "sha256": file_sha256(main_file(row)), "url": row.files[0].url}
    with replacing(converted_path(name)) as part:
        np.savez(part, **variables, **{SOURCE: np.array(json.dumps(source))})
    return converted_path(name)


def converted_source(name: str) -> dict[str, str]:
    """Return `{"name", "sha256", "url"}` of what a converted file was made from; ValueError for a damaged file."""
    return json.loads(str(_read(converted_path(name), [SOURCE])[SOURCE]))


def read_converted(name: str) -> dict[str, np.ndarray]:
    """Return the variables of a converted file by their published names; ValueError for a damaged file."""
    variables = _read(converted_path(name))
    del variables[SOURCE]
    return variables


def is_converted(name: str, row: Published) -> bool:
    """Whether there is a converted file that may be read: the original is as it was then, or lies elsewhere."""
    if row.kind not in CONVERTIBLE or not converted_path(name).is_file():
        return False
    if not is_here(row) or converted_source(name)["sha256"] == file_sha256(main_file(row)):
        return True
    log.warning(
        "%s was made from another file than the one that is there, which is read instead. Make it again: "
        "python -m helpers weights convert %s",
        converted_path(name),
        name,
    )
    return False


def _read(path: Path, names: list[str] | None = None) -> dict[str, np.ndarray]:
    try:
        # NumPy leaves a damaged file open that it has opened; every member carries a CRC-32, which is checked here.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            found = {name: file[name] for name in (names or file.files)}
        if SOURCE not in found:
            raise KeyError(SOURCE)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} must be whole converted weights, got: {error}. Delete it, and convert again."
        ) from None
    return found
