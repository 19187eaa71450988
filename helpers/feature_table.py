"""CSVs of features as programs write them: what their columns are, by name, and their rows.

In: UTF-8 text with one line of column names, `,` `;` or tab between cells. Out: what is known of each row, and its
features. `ROLES` is the one list of known names: all other columns are features.
"""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

# Roles and the names they go by, in small letters with "_" between words, the first of each our own. Of OpenFace 2.2,
# py-feat, openSMILE and LibreFace, and as people name MediaPipe's results; "": neither known of a row nor a feature.
ROLES = {
    "clip": "clip video clip_id clip_name video_id video_name videoname file file_name filename file_path input name",
    "t_start_s": "t_start_s start_s start_time start",
    "t_end_s": "t_end_s end_s end_time end",
    "t_s": "t_s timestamp timestamp_s time time_s time_sec t seconds frametime frame_time",
    "t_ms": "t_ms timestamp_ms time_ms timestampms frame_time_in_ms milliseconds",
    "frame": "frame frame_number frame_idx frame_index frame_id frame_no frame_num framenumber",
    "valid": "valid success is_valid face_detected detected",
    "confidence": "confidence face_confidence facescore face_score detection_confidence presence visibility",
    "face": "face_id faceid face person_id person identity track_id",
    "row": "row",  # of an array that the table is the index of
    "": "index id level_0 approx_time facerectx facerecty facerectwidth facerectheight frameheight framewidth "
    "facial_expression dominant_emotion unnamed_0",
}
ROLE_OF = {name: role for role, names in ROLES.items() for name in names.split()} | {"": ""}
FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
NOT_A_NUMBER = ["", "nan", "NaN", "NA", "null"]


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError
    return text


def _seconds(text: str) -> float:
    """Seconds, or `0 days 00:00:01.50` as openSMILE's package for Python writes them."""
    return pd.Timedelta(text).total_seconds() if ":" in text else float(text)


# What a cell must be by the role of its column, and what reads it, to the last bit, which readers of CSV miss; a
# ValueError or KeyError where it is not. Blanks may belong to a name.
READERS: dict[str | None, tuple[str, Callable[[str], Any]]] = {
    "clip": ("a name", _name),
    "face": ("a name", str),
    "valid": ("True or False", lambda text: FLAGS[text.strip().lower()]),
    "confidence": ("a number", lambda text: 0.0 if text.strip() in NOT_A_NUMBER else float(text)),
    None: ("a number", lambda text: np.nan if text.strip() in NOT_A_NUMBER else float(text)),
} | dict.fromkeys(("t_s", "t_start_s", "t_end_s"), ("a number", _seconds))


class Rows(NamedTuple):
    """Rows as they were found.

    Attributes:
        known: One column per role; the index says where in its file a row is. Times are in seconds, frames count from
            0 where that can be told, and `valid` is False where the confidence is not above 0.
        features: (n, D), NaN for an empty cell.
        columns: Names of a CSV's columns: "features" (D), "known" by role, and "left_out", which are no features or
            without any number.
    """

    known: pd.DataFrame
    features: np.ndarray
    columns: dict[str, Any] = {}  # noqa: RUF012  never changed


def read_table(path: Path, *, clips: bool = False, features: bool = True) -> Rows:
    """Read a CSV; of several columns with one role that one counts whose name comes first in `ROLES`.

    Args:
        path: The CSV.
        clips, features: Whether a column must say the clip, and others are features.

    Raises:
        ValueError: No CSV in UTF-8, no lines, two columns of one name, a missing column, or a cell that is not what its
            column holds, with its line.
    """
    try:
        separator, head, names = _head(path)
        plain = [re.sub(r"[^0-9a-z]+", "_", name.casefold()).strip("_") if name.isascii() else name for name in names]
        roles: dict[str, int] = {}
        for word in filter(plain.__contains__, ROLE_OF):
            roles.setdefault(ROLE_OF[word], plain.index(word))
        roles.pop("", None)
        places = [at for at, word in enumerate(plain) if features and word not in ROLE_OF]
        cells = _cells(path, separator, head, len(names), places, counted=not roles)
    except ValueError as error:  # pandas' errors are such, too
        raise ValueError(f"{path.name} is not a CSV in UTF-8 ({' '.join(str(error).split())}).") from None

    if clips and "clip" not in roles:
        must = f"{path.name} must have a column 'clip', got {', '.join(names[:8])}"
        raise ValueError(f"{must}. Add it, or name the folder of a file per clip.")

    where = {at: (separator != ",", f"{path.name} line {{}}: {name}") for at, name in enumerate(names)}
    known = pd.DataFrame({role: _typed(cells[at], role, *where[at]) for role, at in roles.items()}, cells.index)
    for at in cells[places].select_dtypes(exclude="number").columns:
        cells[at] = _typed(cells[at], None, *where[at])
    with np.errstate(over="ignore"):  # too large for float32 is infinite, and then invalid
        numbers = cells[places].to_numpy(np.float32, na_value=np.nan)
    used = ~np.isnan(numbers).all(axis=0)
    if features and not used.any():
        raise ValueError(f"{path.name} must have columns of features beside {', '.join(names)}, got none.")
    said = {"features": [names[at] for at in np.array(places, int)[used]]}
    said |= {"known": {role: names[at] for role, at in roles.items()}}
    others = [name for name in names if name not in (*said["features"], *said["known"].values())]
    return Rows(_tidied(known), numbers[:, used], said | {"left_out": [name or "(no name)" for name in others]})


def _typed(cells: pd.Series, role: str | None, commas: bool, where: str) -> pd.Series:
    """A column as what its role wants; `commas`: of decimals."""
    (rule, read), values = READERS.get(role, ("a number", float)), {}
    for line, cell in cells.fillna("").astype(str).items():
        try:
            values[line] = read(cell.replace(",", ".") if commas and role not in ("clip", "face") else cell)
        except (ValueError, KeyError):
            what = f"{where.format(line)} must be {rule}, got {cell!r}"
            raise ValueError(f"{what}. Correct it, or remove the column.") from None
    return pd.Series(values)


def _head(path: Path) -> tuple[str, int, list[str]]:
    """What separates cells, the number of lines before the first row, and the names of the columns."""
    with open(path, encoding="utf-8-sig") as file:
        first, second = file.readline(), file.readline()
    by_excel = re.fullmatch('"?sep=(.)"?\n', first, re.I)
    line = second if by_excel else first
    separator = by_excel[1] if by_excel else max(",;\t", key=line.count)
    names = [name.strip() for name in next(csv.reader([line], delimiter=separator), ())]
    if not any(names) or len(set(filter(None, names))) < sum(map(bool, names)):
        raise ValueError(f"its columns must have different names, got {', '.join(names) or 'none'}")
    return separator, 1 + bool(by_excel), names


def _cells(path: Path, separator: str, head: int, n: int, features: list[int], counted: bool) -> pd.DataFrame:
    """Cells by place, features as numbers; the index is the line, and empty ones are there where rows are `counted`."""
    how = {"sep": separator, "skiprows": head, "header": None, "names": range(n + 1), "index_col": False}
    how |= {"encoding": "utf-8-sig", "low_memory": False, "skip_blank_lines": False, "keep_default_na": False}
    how |= {"dtype": dict.fromkeys(set(range(n + 1)).difference(features), str)}
    cells = pd.read_csv(path, na_values=dict.fromkeys(features, NOT_A_NUMBER), **how)
    cells.index += head + 1
    empty = cells.isin(["", np.nan])
    if not empty[n].all():  # an empty cell is behind a last separator
        raise ValueError(f"line {empty[n].idxmin()} has more cells than there are names")
    cells = cells if counted else cells[~empty.all(axis=1)].copy()
    if cells.empty:
        raise ValueError("it has no lines below the names of its columns")
    return cells


def _tidied(known: pd.DataFrame) -> pd.DataFrame:
    if "t_ms" in known:
        known = known.assign(t_s=known.get("t_s", known["t_ms"] / 1000))
    if "confidence" in known:
        known = known.assign(valid=known.get("valid", True) & (known["confidence"] > 0))
    if {"frame", "t_s"} <= {*known} and ((known["frame"] == 1) & (known["t_s"] == 0)).any():
        known = known.assign(frame=known["frame"] - 1)  # other programs count from 1, as their times tell
    return known
