"""CSVs of features as programs write them: what their columns are, by name, and their rows some lines at a time.

In: UTF-8 text with one line of column names, `,` `;` or tab between cells. Out: what is known of each row, and its
features. `ROLES` is the one list of known names: all other columns are features.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

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
CELLS_AT_A_TIME = 2**21  # 2,097,152 numbers are 16 MB
NOT_CSV = (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError)
REMOVE = " Remove the column, or say which are features (columns)."


def _number(text: str, empty: float | None = None) -> float | None:
    """The number that a text says, to the last bit, which readers of CSV miss; None for another text."""
    if text.strip() in NOT_A_NUMBER:
        return empty
    try:
        return float(text)
    except ValueError:
        return None


def _seconds(text: str) -> float | None:
    """Seconds, or `0 days 00:00:01.50` as openSMILE's package for Python writes them."""
    try:
        return pd.Timedelta(text).total_seconds() if ":" in text else _number(text)
    except ValueError:
        return None


# What a cell must be by the role of its column, and what reads it: None where it is not. Blanks may belong to a name.
RULES: dict[str | None, tuple[str, Callable[[str], Any]]] = {
    "clip": ("name a clip", lambda text: text if text.strip() else None),
    "face": ("name a face", str),
    "valid": ("be True or False", lambda text: FLAGS.get(text.strip().lower())),
    "confidence": ("be a number", lambda text: _number(text, 0.0)),
    None: ("be a number", lambda text: _number(text, np.nan)),
} | dict.fromkeys(("t_s", "t_start_s", "t_end_s"), ("be a number", _seconds))


@dataclass(frozen=True)
class FeatureTable:
    """A CSV. By their places in `names`, what its columns are: `known` by role, and `features`; the rest is left out.

    `reading`: how pandas reads it. Of several columns with one role the one counts whose name comes first in `ROLES`.
    """

    path: Path
    reading: dict[str, Any]
    names: tuple[str, ...]
    known: dict[str, int]
    features: tuple[int, ...]

    @property
    def feature_names(self) -> list[str]:
        """Names of the features."""
        return [self.names[at] for at in self.features]

    def about(self, used: Sequence[bool]) -> dict[str, Any]:
        """Names of the columns: `features`, of these those that are `used`; `known` by role; `left_out`."""
        features = [name for name, is_used in zip(self.feature_names, used, strict=True) if is_used]
        known = {role: self.names[at] for role, at in self.known.items()}
        left_out = [name or "(no name)" for name in self.names if name not in (*features, *known.values())]
        return {"features": features, "known": known, "left_out": left_out}

    def ordered_like(self, other: "FeatureTable") -> "FeatureTable":
        """The same with the features in the order of another table; ValueError where their columns differ."""
        if odd := sorted({*self.names} ^ {*other.names}):
            got = f"{'another' if odd[0] in self.names else 'no'} {odd[0]!r}"
            raise ValueError(f"{self.path.name} must have the columns of {other.path.name}, got {got}.")
        return replace(self, features=tuple(map(self.names.index, other.feature_names)))

    def chunks(self) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
        """Read some lines at a time.

        Yields:
            One column per role, the index the number of the line; milliseconds are `t_s` too, and `valid` is False
            where the confidence is not above 0. And the features, float32 (n, D), NaN for an empty cell.

        Raises:
            ValueError: No CSV, no lines, or a cell that is not what its column holds, with its line.
        """
        for chunk in self._lines():
            texts = chunk[list(self.features)].select_dtypes(exclude="number").columns
            chunk[texts] = pd.DataFrame({at: self._typed(chunk, at, None) for at in texts}, chunk.index)
            with np.errstate(over="ignore"):  # too large for float32 is infinite, and then invalid
                numbers = chunk[list(self.features)].to_numpy(np.float32, na_value=np.nan)
            known = {role: self._typed(chunk, at, role) for role, at in self.known.items()}
            if "t_ms" in known:
                known.setdefault("t_s", known.pop("t_ms") / 1000)
            if "confidence" in known:
                known["valid"] = known.get("valid", True) & (known["confidence"] > 0)
            yield pd.DataFrame(known, chunk.index), numbers

    def _lines(self) -> Iterator[pd.DataFrame]:
        """Cells by place, some lines at a time, the index their numbers; the last column is what has no name."""
        n, line = len(self.names), self.reading["skiprows"] + 2
        how = self.reading | {"skiprows": line - 1, "header": None, "names": range(n + 1), "index_col": False}
        how |= {"na_values": dict.fromkeys(self.features, NOT_A_NUMBER), "keep_default_na": False}
        how |= {"dtype": dict.fromkeys(set(range(n + 1)).difference(self.features), str)}
        how |= {"low_memory": False, "skip_blank_lines": False}
        try:
            with pd.read_csv(self.path, chunksize=max(CELLS_AT_A_TIME // (n + 1), 100), **how) as chunks:
                for chunk in chunks:
                    chunk.index = range(line, line + len(chunk))
                    line += len(chunk)
                    empty = chunk.isin(["", np.nan])
                    if not empty[n].all():  # an empty cell is behind a last separator
                        raise _no_csv(
                            self.path, f"line {empty[n].idxmin()} must not have more cells than there are names"
                        )
                    # where rows are counted, blank ones count
                    yield chunk[~empty.all(axis=1)].copy() if self.known else chunk
        except NOT_CSV as error:
            raise _no_csv(self.path, error) from None
        if line == self.reading["skiprows"] + 2:
            raise ValueError(f"{self.path.name} must have lines below its column names, got none.")

    def _typed(self, chunk: pd.DataFrame, at: int, role: str | None) -> pd.Series:
        """A column with its type; a cell that is not what its role wants is a ValueError with its line."""
        rule, read = RULES.get(role, ("be a number", _number))
        cells = chunk[at].fillna("").astype(str)
        if self.reading["sep"] != "," and role not in ("clip", "face"):
            cells = cells.str.replace(",", ".")
        values = [read(text) for text in cells]
        if None in values:
            line, name = cells.index[values.index(None)], self.names[at]
            got = f"{self.path.name} line {line}: {name} must {rule}, got {cells[line].strip()!r}."
            raise ValueError(got + ("" if role else REMOVE))
        return pd.Series(values, chunk.index, None if values else float)


def _no_csv(path: Path, error: Exception | str) -> ValueError:
    return ValueError(f"{path.name} is not a CSV in UTF-8 ({' '.join(str(error).split())}).")


def open_table(path: Path, wanted: Sequence[str] = ()) -> FeatureTable:
    """Read the names of a CSV's columns and tell what they are.

    Args:
        path: The CSV.
        wanted: Patterns (`AU*_r`) of the columns that are features, default: all that are not known. A column that is
            called by its whole name is a feature whatever it is known as.

    Raises:
        ValueError: Not a CSV in UTF-8; two columns of one name.
    """
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        line = file.readline().strip("\n")
    said = re.fullmatch('"?sep=(.)"?', line, re.I)  # by Excel
    reading = {"sep": said[1] if said else max(",;\t", key=line.count), "skiprows": int(bool(said))}
    reading["encoding"] = "utf-8-sig"
    try:
        first = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, **reading)
    except NOT_CSV as error:
        raise _no_csv(path, error) from None
    names = tuple(name.strip() for name in first.iloc[0])
    if len(set(filter(None, names))) < sum(map(bool, names)):
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise ValueError(f"{path.name} must have one column {twice!r}, got two. Rename one.")
    plain = [re.sub(r"[^0-9a-z]+", "_", name.casefold()).strip("_") if name.isascii() else name for name in names]
    roles = [None if name in wanted else ROLE_OF.get(word) for name, word in zip(names, plain, strict=True)]
    known: dict[str, int] = {}
    for word, role in ROLE_OF.items():
        if role and word in plain and roles[at := plain.index(word)] == role:
            known.setdefault(role, at)
    unknown = [at for at, role in enumerate(roles) if role is None]
    features = [at for at in unknown if not wanted or any(fnmatchcase(names[at], pattern) for pattern in wanted)]
    return FeatureTable(path, reading, names, known, tuple(features))
