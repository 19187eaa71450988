"""Reads CSV files of rows of features, or of what is known about such rows, some lines at a time.

Columns known by name: `clip`, `row`, `frame` (whole numbers from 0), `valid` (True or False, 1 or 0) and the times of
a row in seconds. All other columns are features, in their order.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TIMES = ("t_s", "t_start_s", "t_end_s")
NOT_FEATURES = ("clip", "row", "frame", "valid", *TIMES)
FLAGS = {"true": True, "1": True, "false": False, "0": False}
NOT_A_NUMBER = ["", "nan", "NaN", "NA", "null"]
CELLS_AT_A_TIME = 2**21  # of a CSV: 2,097,152 numbers are 16 MB


def table_pieces(path: Path, *, features: bool) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """Read a CSV some lines at a time.

    Args:
        path: UTF-8, one line of column names.
        features: Whether the columns that are not known by name are numbers to be read; otherwise they are passed over.

    Yields:
        The columns that are known by name, with their types; the others as float32 (n, D), NaN for an empty cell.

    Raises:
        ValueError: Not such a CSV, no column `clip`, or a cell that is not what its column holds, with its line.
    """
    reading: dict[str, Any] = {"encoding": "utf-8-sig", "low_memory": False}
    try:
        header = pd.read_csv(path, nrows=0, dtype=str, **reading).columns.tolist()
        known = [name for name in header if name in NOT_FEATURES]
        others = [name for name in header if name not in NOT_FEATURES] if features else []
        _check_header(path, known, others, header, features)
        reading |= {"keep_default_na": False, "dtype": dict.fromkeys(known, str)}
        reading |= {"na_values": dict.fromkeys(others, NOT_A_NUMBER), "chunksize": CELLS_AT_A_TIME // len(header) + 1}
        line = 2
        with pd.read_csv(path, **reading) as pieces:
            for piece in pieces:
                if not isinstance(piece.index, pd.RangeIndex):
                    raise ValueError(f"{path.name} must have a name for each column, got lines with further cells.")
                piece.index = range(line, line + len(piece))
                line += len(piece)
                yield _known(path, piece[known]), _numbers(path, piece[others])
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not a CSV in UTF-8 ({' '.join(str(error).split())}).") from None
    if line == 2:
        raise ValueError(f"{path.name} must have lines below its column names, got none.")


def _check_header(path: Path, known: list[str], others: list[str], header: list[str], features: bool) -> None:
    if "clip" not in known:
        raise ValueError(f"{path.name} must have a column 'clip', got {', '.join(header[:8])}.")
    if features and not others:
        raise ValueError(f"{path.name} must have columns of features beside {', '.join(known)}, got none.")


def _known(path: Path, texts: pd.DataFrame) -> pd.DataFrame:
    """The columns that are known by name with their types; the index is the number of the line in the file."""
    made = {}
    for column in texts:
        cells = texts[column].fillna("").str.strip()
        if column == "clip":
            made[column], wrong, rule = texts[column].fillna(""), cells == "", "name a clip"  # blanks may belong to it
        elif column == "valid":
            made[column] = cells.str.lower().map(FLAGS)
            wrong, rule = made[column].isna(), "be True or False"
        else:
            made[column] = cells.map(_exact).astype(np.float64)
            wrong, rule = ~np.isfinite(made[column]), "be a number"
            if column in ("row", "frame"):
                wrong, rule = wrong | (made[column] % 1 != 0), "be a whole number"
        if wrong.any():
            line = wrong.idxmax()
            raise ValueError(f"{path.name} line {line}: {column} must {rule}, got {texts[column][line]!r}.")
    return pd.DataFrame(made).astype({"valid": bool} if "valid" in made else {})


def _exact(text: str) -> float:
    """The number that a text says, to the last bit, which older readers of CSV miss; NaN for another text."""
    try:
        return float(text)
    except ValueError:
        return np.nan


def _numbers(path: Path, cells: pd.DataFrame) -> np.ndarray:
    """Cells as float32 (n, D); one that is not a number is a ValueError with its line and column."""
    for column in cells.columns[[dtype.kind not in "fiu" for dtype in cells.dtypes]]:
        wrong = pd.to_numeric(cells[column].astype(str), errors="coerce").isna() & cells[column].notna()
        if wrong.any():
            line = wrong.idxmax()
            raise ValueError(f"{path.name} line {line}: {column} must be a number, got {cells[column][line]!r}.")
    with np.errstate(over="ignore"):  # too large for float32 is infinite, and then invalid
        return cells.to_numpy(np.float32, na_value=np.nan)
