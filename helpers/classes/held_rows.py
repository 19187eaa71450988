"""The rows that feature files hold already: with them, the file of each single clip need not stay.

In: HDF5 files of one view each (`helpers.store`) that have, besides, `stamp` (N,), the version of each
clip, and `computed` bool (N, T): False for padding and where the network failed on the frame. Out: which views of a
clip are there, and its rows. A file that is damaged, or was made with other parameters, holds nothing.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from helpers.store import Sequence


class HeldRows:
    """Rows of clips by key, version and view.

    Args:
        files: By (split, view), as they are to be; those that are not there hold nothing.
        identity: What the attribute `identity` of a file has to be.
    """

    def __init__(self, files: Mapping[tuple[str, str], Path], identity: str):
        self._views: dict[tuple[str, str], dict[str, tuple[Path, int, np.ndarray]]] = defaultdict(dict)
        for (_, view), path in files.items():
            for place, (key, stamp, computed) in enumerate(_clips_of(path, identity)):
                self._views[key, stamp][view] = path, place, computed

    def views(self, key: str, stamp: str) -> list[str]:
        """Names of the views that are there of this version of a clip."""
        return list(self._views.get((key, stamp), ()))

    def read(self, key: str, stamp: str, view: str) -> Sequence:
        """Features (n, D), times (n,) and validity (n,), averaged over scales as they are in the file."""
        path, place, computed = self._views[key, stamp][view]
        n = len(computed)
        with h5py.File(path, "r") as file:
            return tuple(file[name][place, :n] for name in ("features", "t_s", "valid"))

    def computed(self, key: str, stamp: str, view: str) -> np.ndarray:
        """Whether the network gave each row, bool (n,)."""
        return self._views[key, stamp][view][2]


def _clips_of(path: Path, identity: str) -> list[tuple[str, str, np.ndarray]]:
    """Key and version of each clip of a file, and whether the network gave each of its rows."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs["identity"] != identity or "computed" not in file:
                return []
            texts = (file[name].asstr()[:].tolist() for name in ("key", "stamp"))
            computed = [rows[:n] for rows, n in zip(file["computed"][:], file["num_frames"][:], strict=True)]
            return list(zip(*texts, computed, strict=True))
    except (OSError, KeyError):  # none, a damaged one, or one of an older version
        return []
