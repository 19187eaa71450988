"""Features and labels that lie in plain `.npy` files and belong together by row, as other programs leave them.

In: `static_features.npy` (N, D) or (N, T, D), `dynamic_features.npy` likewise, `labels.npy` (N, k), and, where there is
one, a file that says whose the rows are. Out: the same aligned data as 05 makes, checked before anything is trained.
"""

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.align import Aligned
from helpers.clips import TRAITS
from helpers.ratings import read_positional
from helpers.splits import source_of
from helpers.store import STREAMS


def read_arrays_by_row(
    static_features: str | Path, dynamic_features: str | Path, labels: str | Path, ids: str | Path | None = None
) -> Aligned:
    """Read three files whose rows belong together by position as the clips that 05 aligns.

    Args:
        static_features, dynamic_features, labels: The `.npy` files; columns of labels are the five traits, or
            `target_1` and so on where it is another number.
        ids: Clip of each row: a text file with a key per line, or a CSV with a column `clip`. Without it the order is
            trusted, with a warning.

    Raises:
        ValueError: Other numbers of rows; another shape; a value that is not finite, a label outside of [0, 1], with
            its clip and column.
    """
    features = dict(zip(STREAMS, read_features_by_row(static_features, dynamic_features), strict=True))
    n_columns = _load(labels).shape[-1]
    targets = TRAITS if n_columns == len(TRAITS) else [f"target_{k + 1}" for k in range(n_columns)]
    clips = names = None if ids is None else _read_ids(Path(ids))
    if clips and len(set(clips)) < len(clips):  # rows may share a clip
        names = [f"{clip}#{row}" for row, clip in enumerate(clips)]
    ratings = read_positional(labels, names, targets)
    n = len(ratings)
    if n != len(features["static"]):
        _refuse(labels, n, static_features, len(features["static"]))
    known = {}
    for name, array in features.items():
        array = array[:, None] if array.ndim == 2 else array  # (N, T, D)
        known |= {f"{name}_features": array, f"{name}_mask": np.ones(array.shape[:2], bool)}
        known[f"{name}_t_s"] = np.tile(np.arange(array.shape[1], dtype="float32"), (n, 1))
    known |= {"clips": ratings.index.to_numpy(str), "splits": np.full(n, ""), "targets": np.array(targets)}
    sources = np.array([source_of(clip) for clip in clips or ratings.index])
    return Aligned(**known, sources=sources, labels=ratings.to_numpy("float32"))


def read_features_by_row(static_features: str | Path, dynamic_features: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read both files of features, float32; ValueError where their shapes cannot belong together."""
    read = []
    for name, path in (("static_features", static_features), ("dynamic_features", dynamic_features)):
        array = _load(path)
        if array.ndim not in (2, 3) or array.dtype.kind != "f":
            raise ValueError(f"{name} must hold floats of shape (N, D) or (N, T, D), got {array.dtype} {array.shape}.")
        read.append(array.astype("float32", copy=False))
    static, dynamic = read
    if len(static) != len(dynamic):
        _refuse(static_features, len(static), dynamic_features, len(dynamic))
    return static, dynamic


def form_of(features: np.ndarray) -> str:
    """Whether each row of (N, D) or (N, T, D) is a "vector" or a "sequence"; one vector in time is no sequence."""
    return "sequence" if features.ndim == 3 and features.shape[1] > 1 else "vector"


def _load(path: str | Path) -> np.ndarray:
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a plain array ({error}). Name a `.npy` file.") from None
    if not isinstance(found, np.ndarray):
        with found:
            held = f"{len(found.files)} in an archive ({', '.join(found.files[:5])})"
        raise ValueError(f"{path} must hold one plain array, got {held}. Name a `.npy` file: np.save writes one.")
    return found


def _refuse(one: str | Path, n: int, other: str | Path, m: int) -> None:
    raise ValueError(
        f"rows must belong together one by one, got {n} in {Path(one).name} and {m} in {Path(other).name}. "
        "Cut neither to length: align them by clip (`python -m helpers features` and notebook 05)."
    )


def _read_ids(path: Path) -> list[str]:
    if path.suffix.lower() != ".csv":
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if "clip" not in table:
        raise ValueError(f"{path.name} must have a column clip, got {', '.join(table)}. Name its column so.")
    return table["clip"].tolist()


def checked_output(path: str | Path, suffix: str = ".keras") -> Path:
    """An absolute path that ends so; ValueError says what became of `.h5`."""
    path = Path(path).expanduser().absolute()
    if path.suffix != suffix:
        old = " Keras' old .h5 cannot hold this network; it is only read." if path.suffix == ".h5" else ""
        raise ValueError(f"output must end in {suffix}, got {path.name}.{old}")
    return path
