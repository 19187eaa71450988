"""Tables of features as programs write them: CSVs whose columns are known by name.

In: a CSV with one line of column names, whatever separates its cells. Out: what each column is, and chunk by chunk what
is known of the rows and their features. `ROLES` is the one list of known names: all other columns are features.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.csv_text import csv_format

# Roles and the names they go by, in small letters with "_" between words, the first of each our own. Of OpenFace 2.2,
# py-feat, openSMILE, LibreFace and iMotions, and as people name MediaPipe's and DeepFace's results.
ROLES = {
    "clip": "clip video clip_id clip_name video_id video_name videoname file file_name filename file_path input name",
    "t_start_s": "t_start_s start_s start_time start",
    "t_end_s": "t_end_s end_s end_time end",
    "t_s": "t_s timestamp timestamp_s time time_s time_sec t seconds frametime frame_time",
    "t_ms": "t_ms timestamp_ms time_ms timestampms frame_time_in_ms milliseconds",
    "frame": "frame frame_number frame_idx frame_index frame_id frame_no frame_num framenumber",
    "valid": "valid success is_valid face_detected detected",
    "confidence": "confidence face_confidence facescore face_score detection_confidence face_detection_score "
    "presence visibility",
    "face": "face_id faceid face person_id person identity track_id",
    "row": "row",  # of an array that the table is the index of
}
LEFT_OUT = (  # neither known of a row nor a feature: numbers of lines, boxes in pixels, words
    "index id level_0 approx_time facerectx facerecty facerectwidth facerectheight frameheight framewidth "
    "facial_expression dominant_emotion dominant_gender dominant_race face_alignment_method"
)
TIMES = ("t_s", "t_start_s", "t_end_s")
TABLES = (".csv", ".tsv")
TEXTS = ("clip", "face")
FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
NOT_A_NUMBER = ["", "nan", "NaN", "NA", "null"]
_NOT_CSV = (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError)
CELLS_AT_A_TIME = 2**21  # of a CSV: 2,097,152 numbers are 16 MB
_ROLE_OF = {name: role for role, names in ROLES.items() for name in names.split()} | dict.fromkeys(LEFT_OUT.split(), "")


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are, by their places in `names`: `known` by role, `features`; the rest is left out.

    Several columns may have a role: the one whose name comes first in `ROLES` counts.
    """

    names: tuple[str, ...]
    known: dict[str, int]
    features: tuple[int, ...]

    @property
    def feature_names(self) -> list[str]:
        """Names of the features."""
        return [self.names[at] for at in self.features]

    @property
    def renamed(self) -> dict[str, str]:
        """From the roles to the columns that have them under another name than our own."""
        return {role: self.names[at] for role, at in self.known.items() if self.names[at] != ROLES[role].split()[0]}

    def about(self, used: Sequence[int]) -> dict[str, Any]:
        """Names by what they are, for a manifest; `used`: places, among the features, of those that hold numbers."""
        taken = {*self.known.values(), *(self.features[place] for place in used)}
        return {
            "features": [self.names[self.features[place]] for place in used],
            "known": {role: self.names[at] for role, at in self.known.items()},
            "renamed": self.renamed,
            "left_out": [name or "(no name)" for at, name in enumerate(self.names) if at not in taken],
        }

    def ordered_like(self, other: "Columns", path: Path) -> "Columns":
        """The same with the features in the order of another table; ValueError where it has others, or other roles."""
        ours, theirs = (set(columns.feature_names) | columns.known.keys() for columns in (self, other))
        if ours != theirs:
            odd = sorted(ours ^ theirs)
            raise ValueError(
                f"{path.name} must have the columns of the other files, got {'another' if odd[0] in ours else 'no'} "
                f"{odd[0]!r}. Make all with the same options."
            )
        return replace(self, features=tuple(self.names.index(name) for name in other.feature_names))


def read_columns(path: Path, wanted: Sequence[str] = ()) -> Columns:
    """Read the names of a CSV's columns and tell what they are.

    Args:
        path: The CSV.
        wanted: Patterns (`AU*_r`) of the columns that are features, default: all that are not known. A column that is
            called by its whole name is a feature whatever it is known as.

    Raises:
        ValueError: Not a CSV in UTF-8; two columns of one name; no features.
    """
    try:
        first = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, **csv_format(path))
    except _NOT_CSV as error:
        raise _not_csv(path, error) from None
    names = [name.strip() for name in first.iloc[0]]
    counts = Counter(filter(None, names))
    if counts and max(counts.values()) > 1:
        raise ValueError(f"{path.name} must have one column {max(counts, key=counts.get)!r}, got two. Rename one.")
    roles = [None if name in wanted else _role_of(name) for name in names]
    known = {}
    for role, spellings in ROLES.items():
        places = [at for at, found in enumerate(roles) if found == role]
        if places:
            known[role] = min(places, key=lambda at: spellings.split().index(_plain(names[at])))
    features = tuple(at for at, role in enumerate(roles) if role is None and _is_wanted(names[at], wanted))
    return Columns(tuple(names), known, features)


def _plain(name: str) -> str:
    """A column's name as `ROLES` spells it: `Timestamp (ms)` is `timestamp_ms`."""
    return re.sub(r"[^0-9a-z]+", "_", name.casefold()).strip("_") if name.isascii() else name


def _role_of(name: str) -> str | None:
    """The role of a column, "" where it is left out, None for a feature."""
    return "" if not name or re.fullmatch(r"Unnamed: \d+", name) else _ROLE_OF.get(_plain(name))


def _is_wanted(name: str, wanted: Sequence[str]) -> bool:
    return not wanted or any(fnmatchcase(name, pattern) for pattern in wanted)


def table_chunks(path: Path, columns: Columns) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """Read a UTF-8 CSV some lines at a time.

    Yields:
        One column per role, their index the number of the line; times in seconds, `valid` bool where a flag or a
        confidence (above 0) says it. And the features as float32 (n, D), NaN for an empty cell.

    Raises:
        ValueError: Not such a CSV, or a cell that is not what its column holds, with its line.
    """
    n, features, form = len(columns.names), list(columns.features), csv_format(path)
    reading = form | {"skiprows": form["skiprows"] + 1, "header": None, "names": range(n + 1), "low_memory": False}
    reading |= {"keep_default_na": False, "na_values": dict.fromkeys(features, NOT_A_NUMBER)}
    reading |= {"dtype": dict.fromkeys(set(range(n + 1)).difference(features), str)}
    line = first = reading["skiprows"] + 1
    try:
        with pd.read_csv(path, chunksize=CELLS_AT_A_TIME // (n + 1) + 1, **reading) as chunks:
            for chunk in filter(len, chunks):
                whole = isinstance(chunk.index, pd.RangeIndex)  # the first cells of longer lines would be the index
                chunk.index = range(line, line + len(chunk))
                _check_length(path, chunk, whole, n)
                line += len(chunk)

                def typed(at: int, role: str = "", chunk: pd.DataFrame = chunk) -> pd.Series:
                    return _typed(path, chunk[at].rename(columns.names[at]), role, form["decimal"])

                for at in chunk[features].select_dtypes(exclude="number"):
                    chunk[at] = typed(at)
                with np.errstate(over="ignore"):  # too large for float32 is infinite, and then invalid
                    numbers = chunk[features].to_numpy(np.float32, na_value=np.nan)
                yield (
                    _in_our_words(pd.DataFrame({role: typed(at, role) for role, at in columns.known.items()})),
                    numbers,
                )
    except _NOT_CSV as error:
        raise _not_csv(path, error) from None
    if line == first:
        raise ValueError(f"{path.name} must have lines below its column names, got none.")


def _not_csv(path: Path, error: Exception | str) -> ValueError:
    return ValueError(f"{path.name} is not a CSV in UTF-8 ({' '.join(str(error).split())}).")


def _check_length(path: Path, chunk: pd.DataFrame, whole: bool, n: int) -> None:
    """Refuse lines with cells beyond the names of the columns; an empty one, behind a last separator, is none."""
    longer = ~chunk[n].isin(["", np.nan]) if whole else chunk[n] == chunk[n]
    if longer.any() or not whole:
        line = longer.idxmax()
        raise _not_csv(path, f"it must have a name for each column, line {line} has further cells")


def _in_our_words(table: pd.DataFrame) -> pd.DataFrame:
    """Seconds for milliseconds, and a confidence above 0 for a flag."""
    if "t_ms" in table:
        table["t_s"] = table.get("t_s", table["t_ms"] / 1000)
    if "confidence" in table:
        table["valid"] = table.get("valid", True) & (table["confidence"] > 0)
    return table.drop(columns=["t_ms"], errors="ignore")


def _typed(path: Path, cells: pd.Series, role: str, decimal: str) -> pd.Series:
    """A column with its type; a cell that is not what its role wants is a ValueError with its line."""
    rule, hint = "be a number", ""
    if role in TEXTS:
        typed = cells.fillna("")  # blanks may belong to a name
        rule, right = "name a clip", (typed.str.strip() != "") | (role == "face")
    elif role == "valid":
        typed = cells.fillna("").str.strip().str.lower().map(FLAGS)
        rule, right = "be True or False", typed.notna()
    else:
        typed = cells.map(lambda text: _number(text, decimal, role in (*TIMES, "t_ms"))).astype(np.float64)
        right = typed.notna() | cells.isna() if role == "" else np.isfinite(typed)
    if role in ("row", "frame"):
        rule, right = "be a whole number", right & (typed % 1 == 0)
    elif role == "confidence":
        right |= cells.fillna("").str.strip().isin(NOT_A_NUMBER)
    elif role == "":
        hint = " Remove the column, or say which are features (columns)."
    if not right.all():
        line = right.idxmin()
        got = "" if cells.isna()[line] else cells[line].strip()
        raise ValueError(f"{path.name} line {line}: {cells.name} must {rule}, got {got!r}.{hint}")
    return typed.astype(bool) if role == "valid" else typed


def _number(text: Any, decimal: str, is_time: bool) -> float:
    """The number that a text says, to the last bit, which readers of CSV miss; NaN for another text.

    A time may be a duration, as openSMILE's `0 days 00:00:01.250`.
    """
    try:
        return float(text.replace(decimal, ".") if isinstance(text, str) else text)
    except ValueError:
        with suppress(ValueError):
            return pd.Timedelta(text).total_seconds() if is_time else np.nan
    return np.nan
