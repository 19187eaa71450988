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


def _number(text: str) -> float | None:
    """The number that a text says, to the last bit, which readers of CSV miss; None for another text."""
    try:
        return float(text)
    except ValueError:
        return None


def _finite(text: str) -> float | None:
    number = _number(text)
    return number if number is not None and np.isfinite(number) else None


def _seconds(text: str) -> float | None:
    """Seconds, or `0 days 00:00:01.50` as openSMILE's package for Python writes them."""
    if not (clock := re.fullmatch(r"(?:(\d+) days? )?(\d+):(\d\d):(\d\d(?:\.\d+)?)", text.strip())):
        return _finite(text)
    days, hours, minutes, seconds = map(float, clock.groups("0"))
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _whole(text: str) -> float | None:
    number = _finite(text)
    return number if number is not None and number % 1 == 0 else None


# What a cell must be by the role of its column, and what reads it: None where it is not. Blanks may belong to a name.
RULES: dict[str | None, tuple[str, Callable[[str], Any]]] = {
    "clip": ("name a clip", lambda text: text if text.strip() else None),
    "face": ("name a face", str),
    "valid": ("be True or False", lambda text: FLAGS.get(text.strip().lower())),
    "confidence": ("be a number", lambda text: 0.0 if text.strip() in NOT_A_NUMBER else _number(text)),
    "frame": ("be a whole number", _whole),
    "row": ("be a whole number", _whole),
    "t_ms": ("be a number", _finite),
    None: ("be a number", lambda text: np.nan if text in NOT_A_NUMBER else _number(text)),
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
        """Names of the columns: `features`, of these those that are `used`; `known` by role, and `renamed`, those of
        them that go by another name than our own; `left_out`.
        """
        features = [name for name, is_used in zip(self.feature_names, used, strict=True) if is_used]
        known = {role: self.names[at] for role, at in self.known.items()}
        renamed = {role: name for role, name in known.items() if name != ROLES[role].split()[0]}
        taken = {*features, *known.values()}
        left_out = [name or "(no name)" for name in self.names if name not in taken]
        return {"features": features, "known": known, "renamed": renamed, "left_out": left_out}

    def ordered_like(self, other: "FeatureTable") -> "FeatureTable":
        """The same with the features in the order of another table; ValueError where what the two hold differs."""
        ours, theirs = ({*table.feature_names, *table.known} for table in (self, other))
        if odd := sorted(ours ^ theirs):
            got = f"{'another' if odd[0] in ours else 'no'} {odd[0]!r}"
            raise ValueError(f"{self.path.name} must have the columns of {other.path.name}, got {got}.")
        places = {name: at for at, name in enumerate(self.names)}
        return replace(self, features=tuple(places[name] for name in other.feature_names))

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
        how = self.reading | {"skiprows": line - 1, "header": None, "names": range(n + 1), "keep_default_na": False}
        how |= {"na_values": dict.fromkeys(self.features, NOT_A_NUMBER), "low_memory": False, "skip_blank_lines": False}
        how |= {"dtype": dict.fromkeys(set(range(n + 1)).difference(self.features), str)}
        try:
            with pd.read_csv(self.path, chunksize=max(CELLS_AT_A_TIME // (n + 1), 100), **how) as chunks:
                for chunk in chunks:
                    if not len(chunk):
                        raise ValueError(f"{self.path.name} must have lines below its column names, got none.")
                    longer = ~chunk[n].isin(["", np.nan])  # an empty cell is behind a last separator
                    if longer.any() or not isinstance(chunk.index, pd.RangeIndex):  # of more cells, some are the index
                        where = line + int(longer.argmax())
                        raise self._no_csv(f"it must have a name for each column, line {where} has further cells")
                    chunk.index = range(line, line + len(chunk))
                    line += len(chunk)
                    blank = chunk.isin(["", np.nan]).all(axis=1) & bool(
                        self.known
                    )  # where rows are counted, they count
                    yield chunk[~blank].copy()
        except NOT_CSV as error:
            raise self._no_csv(error) from None

    def _typed(self, chunk: pd.DataFrame, at: int, role: str | None) -> pd.Series:
        """A column with its type; a cell that is not what its role wants is a ValueError with its line."""
        rule, read = RULES[role]
        cells = chunk[at].fillna("").astype(str)
        if self.reading["decimal"] == "," and role not in ("clip", "face"):
            cells = cells.str.replace(",", ".")
        values = [read(text) for text in cells]
        if None in values:
            line, name = cells.index[values.index(None)], self.names[at]
            got = f"{self.path.name} line {line}: {name} must {rule}, got {cells[line].strip()!r}."
            raise ValueError(got + ("" if role else REMOVE))
        return pd.Series(values, chunk.index, None if values else float)

    def _no_csv(self, error: Exception | str) -> ValueError:
        return ValueError(f"{self.path.name} is not a CSV in UTF-8 ({' '.join(str(error).split())}).")


def open_table(path: Path, wanted: Sequence[str] = ()) -> FeatureTable:
    """Read the names of a CSV's columns and tell what they are.

    Args:
        path: The CSV.
        wanted: Patterns (`AU*_r`) of the columns that are features, default: all that are not known. A column that is
            called by its whole name is a feature whatever it is known as.

    Raises:
        ValueError: Not a CSV in UTF-8; two columns of one name.
    """
    table = FeatureTable(path, _format(path), (), {}, ())
    try:
        first = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, **table.reading)
    except NOT_CSV as error:
        raise table._no_csv(error) from None
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
    features = (at for at, role in enumerate(roles) if role is None)
    features = (at for at in features if not wanted or any(fnmatchcase(names[at], pattern) for pattern in wanted))
    return replace(table, names=names, known=known, features=tuple(features))


def _format(path: Path) -> dict[str, Any]:
    """How a CSV is written, from its first lines: separator, decimal sign, whether a line `sep=;` comes first."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        first, *more = [file.readline().rstrip("\n") for _ in range(4)]
    said = re.fullmatch('"?sep=(.)"?', first, re.I)
    sep = said[1] if said else max(",;\t", key=first.count)
    comma = sep != "," and any(re.fullmatch(r"\s*-?\d+,\d+", cell) for line in more for cell in line.split(sep))
    return {"sep": sep, "decimal": "," if comma else ".", "skiprows": int(bool(said)), "encoding": "utf-8-sig"}
