"""Reads rating files safely, as people keep them, and says how far raters agree.

In: a folder. Out: a table of rating rows, one per (file, clip name) or rater, values as they stand in the file; which
clip a name means is for `helpers.names`. ChaLearn's pickles and JSON of the same shape, text with any usual
separator, Excel's workbooks, positional arrays. Columns are found by name, never by place; scales and missing names are
never guessed. Nothing in a file is executed: pickles yield dicts, strings and numbers, or an error.
"""

import csv
import io
import json
import logging
import math
import pickle
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import NoneType
from typing import Any

import numpy as np
import pandas as pd

from helpers.splits import split_named

log = logging.getLogger(__name__)

TRAITS = ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism")
STATED = ("source", "split", "rater", "group")  # optional columns
KINDS = {"pkl": "pickle", "pickle": "pickle", "json": "json", "csv": "csv", "tsv": "tsv", "txt": "txt", "xlsx": "excel"}
RATING_FILE = re.compile(rf"(?:annotations?|ratings)(?:[_-](?P<split>[a-z]+))?\.(?:{'|'.join(KINDS)})", re.I)
TABLES = {"csv", "tsv", "xlsx", "xls", "ods", "numbers"}  # may be ratings where no others are
NOT_READ = {"", "xlsm", "sav", "dta", "rds", "parquet", "feather", "gz", "zip"} | TABLES | set(KINDS)
HEADINGS = {"videoname": "clip", "neurotisicm": "neuroticism", "extroversion": "extraversion"}  # the first two sic
NOT_A_NUMBER = {"", "nan", "na", "n/a", "#n/a", "<na>", "none", "null", "-", "–", "—", ".", "?"}
SEPARATORS = ",;\t| "
HEAD_LINES = 20  # in which the column names must stand; before them `sep=`, titles and comments

THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+")

Table = tuple[str, list[list[str]]]  # what parts cells, "" where nothing does; the cells of each line


@dataclass(frozen=True)
class Ratings:
    """Ratings of clips; index of `table` and `given` is `key`."""

    table: pd.DataFrame  # of rated clips: a float64 column per target in [0, 1], NaN where unrated
    kind: str  # one of `KINDS`, or "none" when the folder holds no ratings
    problems: pd.DataFrame  # columns `name` (a clip's key, or the name in the file) and `problem`
    given: pd.DataFrame  # `source`, `split` and `group` as the files state them, "" where they do not
    matched: pd.DataFrame  # of each name in the files: `name`, `key` ("": no clip), `rule` of `names.match_names`
    reliability: pd.DataFrame | None = None  # of mean ratings; None where no raters are named


def read_rating_rows(data_dir: str | Path, targets: Sequence[str]) -> tuple[str, pd.DataFrame]:
    """Read every rating file of a data folder, see `rating_files`.

    Returns the kind (of `KINDS`, or "none"), and one row per (file, clip name): columns `file`, `name`, `file_split`
    (which split the file's name speaks of), those of `STATED` ("" if not), and one float64 column per target.
    ValueError where there are two kinds of ratings, or several files of all splits, or a file is damaged, asks for
    code, or lacks a target.
    """
    paths = rating_files(Path(data_dir))
    kinds = {KINDS[path.suffix[1:].lower()]: path for path in reversed(paths)}
    if len(kinds) > 1:
        named = " and ".join(f"{kind} ({path.name})" for kind, path in sorted(kinds.items()))
        raise ValueError(f"ratings must be of one kind, got {named} in {data_dir}. Keep the one that holds.")
    splits = {path: split_named(RATING_FILE.fullmatch(path.name)["split"] or "") for path in paths}
    if len(paths) > 1 and "" in splits.values():
        named = ", ".join(path.relative_to(data_dir).as_posix() for path in paths)
        raise ValueError(f"ratings must stand in one file, or in one per split, got {named} in {data_dir}. Keep one.")
    rows = []
    for path, split in splits.items():
        rows += [{"file": path.name, "file_split": split} | row for row in _file_rows(path, targets)]
    table = pd.DataFrame(rows, columns=["file", "name", "file_split", *STATED, *targets])
    return next(iter(kinds), "none"), table.astype(dict.fromkeys(targets, np.float64))


def scaled(rows: pd.DataFrame, targets: Sequence[str], rating_range: tuple[float, float]) -> pd.DataFrame:
    """Map the target columns from `rating_range` to [0, 1]; a value outside is a ValueError with clip and column."""
    low, high = rating_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"rating_range must be two numbers, the lower first, got {rating_range}.")
    for target in targets:
        outside = rows[(rows[target] < low) | (rows[target] > high)]
        if len(outside):
            file, name, value = outside.iloc[0][["file", "name", target]]
            raise ValueError(
                f"{file}: {target} of {name} must be between {low:g} and {high:g}, got {value:g}. "
                "Correct it, or set the scale of the ratings (rating_low and rating_high in 01)."
            )
    return rows.assign(**{target: (rows[target] - low) / (high - low) for target in targets})


def rating_files(folder: Path) -> list[Path]:
    """The rating files of a folder; where it has none, those of its direct children.

    They are called `annotation_{training,validation,test}` (`.pkl`, `.json`) or `ratings` (`.csv`, `.xlsx`, …).
    """
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if here := list(filter(_is_rating_file, entries)):
        return here
    below = []
    for child in filter(Path.is_dir, entries):
        with suppress(OSError):  # `names.walk_files` tells of it
            below += sorted(filter(_is_rating_file, child.iterdir()))
    return below


def _is_rating_file(path: Path) -> bool:
    match = RATING_FILE.fullmatch(path.name)
    return bool(match) and path.is_file() and (match["split"] is None or split_named(match["split"]) != "")


def why_not_read(path: PurePosixPath, read: Sequence[Path]) -> str:
    """Say what to do with a file of a data folder that looks like ratings and is not among those read; else "".

    Where none is read any table beside the clips is thought to be ratings.
    """
    depth, suffix, name = len(path.parts), path.suffix[1:].lower(), path.name.lower()
    like = (depth < 3 or not read) and suffix in NOT_READ and ("rating" in name or "annotation" in name)
    if suffix == "npy" and name.startswith("label"):
        return "may be ratings by order, which name no clip. Use `python -m helpers train --labels … --ids …`."
    if name.startswith("~$") or not (like or (not read and depth == 1 and suffix in TABLES)):  # ~$: open in Excel
        return ""
    if read:
        return f"looks like ratings and is not read: {read[0].name} is. Remove one of the two, or join them."
    return "may be ratings and is not read. Save it beside the clips as ratings.csv or .xlsx, with a column clip."


def _file_rows(path: Path, targets: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield `name`, the columns of `STATED` ("" where there are none) and a number per target of every line."""
    read = {"pkl": _pickle_tables, "pickle": _pickle_tables, "json": _json_tables, "xlsx": _excel_tables}
    separator, lines, head = _with_head(path, read.get(path.suffix[1:].lower(), _text_tables)(path))
    columns, n = _columns_of(path, lines[head], ["clip", *targets]), len(lines[head])
    for number, line in enumerate(lines[head + 1 :], head + 2):
        if any(cells := [cell.strip() for cell in line]):
            row = {name: cells[at] if at < len(cells) else "" for name, at in columns.items()}
            numbers = {target: _number(row[target], separator == ",") for target in targets}
            stated = {name: row.get(name, "") for name in STATED}
            split = split_named(stated["split"])
            wrong = {
                f"must have at most {n} fields": any(cells[n:]),
                "must name a clip, and a rater where other lines do": not row["clip"] or row.get("rater") == "",
                "must have the split train, validation or test": stated["split"] and not split,
                **{f"must have a number as {target}": value is None for target, value in numbers.items()},
            }
            for must in filter(wrong.get, wrong):
                raise ValueError(f"{path.name} line {number} {must}, got {' '.join(', '.join(cells).split())}.")
            yield {"name": row["clip"]} | stated | {"split": split} | numbers


def _with_head(path: Path, tables: Iterable[Table]) -> tuple[str, list[list[str]], int]:
    """The first table with a column `clip`, and the place of its line of column names."""
    first: list[str] = []
    for separator, lines in tables:
        if (head := _place_of_head(lines)) is not None:
            return separator, lines, head
        first = first or next((cells for cells in lines if any(map(str.strip, cells))), [])
    raise ValueError(f"{path.name} must have a column 'clip', got {', '.join(first[:20]) or 'none'}.")


def _number(text: str, thousands: bool) -> float | None:
    """The number in a cell, NaN for an empty one, None for none; a decimal comma is a point.

    `thousands`: where commas part the cells, "1,234" is no 1.234.
    """
    if text.casefold() in NOT_A_NUMBER:
        return math.nan
    with suppress(ValueError):
        if not (thousands and THOUSANDS.fullmatch(text)):
            return float(text.replace(",", ".").replace("_", "no number"))
    return None


def _place_of_head(lines: list[list[str]]) -> int | None:
    """The place of the line of column names."""
    return next((n for n, cells in enumerate(lines[:HEAD_LINES]) if "clip" in map(_heading, map(_bare, cells))), None)


def _columns_of(path: Path, headings: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
    """Find the place of each wanted column, and of those of `STATED` that are there.

    A heading is taken as it is, without regard to case and spaces; else without what stands in brackets behind it; else
    as a trait's initial, where all of O, C, E, A, N are there.
    """
    full, bare = list(map(_heading, headings)), [_heading(_bare(heading)) for heading in headings]
    initials = {trait[0]: trait for trait in TRAITS} if set("ocean") <= set(bare) else {}
    columns = {}
    for name in (*wanted, *STATED):
        for spelled in (full, bare, [initials.get(heading) for heading in bare]):
            if places := [place for place, heading in enumerate(spelled) if heading == _heading(name)]:
                columns[name] = places[0]
                break
        if len(places) > 1 or (name in wanted and not places):
            got = f"{len(places)} in {', '.join(headings[:20])}"
            raise ValueError(f"{path.name} must have one column {_heading(name)!r}, got {got}.")
    return columns


def _bare(heading: str) -> str:
    """A heading without what stands in brackets behind it."""
    return re.sub(r"\s*[(\[][^()\[\]]*[)\]]\s*$", "", heading)


def _heading(text: str) -> str:
    """A column's name without case, spaces, and the prefix of the challenge's CSV (`ValueOpenness`)."""
    name = unicodedata.normalize("NFC", text).strip().casefold()
    name = name.removeprefix("value") or name
    return HEADINGS.get(name, name)


def _text_tables(path: Path) -> Iterator[Table]:
    """The lines as each separator parts them, or as that of Excel's line `sep=;` does."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        said = re.match(r'"?sep=(.)', text, re.I)
        for separator in said[1] if said else SEPARATORS:
            yield separator, list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True))
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} must be UTF-8 text. Save it as CSV UTF-8.") from None
    except csv.Error as error:
        raise ValueError(f"{path.name} is not CSV ({error}).") from None


def _excel_tables(path: Path) -> list[Table]:
    """The lines of the sheets that hold any, those with a column `clip` first."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of what Excel knows and openpyxl does not
            read = pd.read_excel(path, sheet_name=None, header=None, dtype=str, na_filter=False, engine="openpyxl")
    except Exception as error:  # openpyxl raises whatever it stumbles over, and may not be installed
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = "pip install openpyxl" if isinstance(error, ImportError) else "Save it anew"
        raise ValueError(f"{path.name} cannot be read ({reason}). {advice}, or save it as ratings.csv.") from None
    sheets = {title: sheet.fillna("").to_numpy().tolist() for title, sheet in read.items() if len(sheet)}
    titles = sorted(sheets, key=lambda title: _place_of_head(sheets[title]) is None)
    if len(titles) > 1:
        log.warning("%s: the sheet %r is read, and not %s", path.name, titles[0], ", ".join(map(repr, titles[1:])))
    return [("", sheets[title]) for title in titles]


class _PlainUnpickler(pickle.Unpickler):
    """Loads dicts, strings and numbers. Whatever names a class or a function is refused before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        asked = ascii(f"{module}.{name}")[1:-1][:100]  # words of a hostile file stay on one line
        raise pickle.UnpicklingError(f"it asks for {asked}, and may be unsafe")


def _pickle_tables(path: Path) -> list[Table]:
    try:
        with path.open("rb") as file:
            return _table_of(_PlainUnpickler(file, encoding="latin1").load())  # Python 2 wrote the challenge's
    except (pickle.UnpicklingError, AttributeError, EOFError, LookupError, MemoryError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path.name} cannot be read as dicts, strings and numbers ({reason}). Get it anew.") from None


def _json_tables(path: Path) -> list[Table]:
    try:
        return _table_of(json.loads(path.read_text(encoding="utf-8-sig")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not JSON of ratings ({error}). Get it anew.") from None


def _table_of(data: Any) -> list[Table]:
    """`{trait: {clip: number}}` as lines."""
    whole = isinstance(data, dict) and all(isinstance(values, dict) for values in data.values())
    for cell in [(trait, *each) for trait in data for each in data[trait].items()] if whole else [type(data).__name__]:
        if not whole or not isinstance(cell[1], str) or type(cell[2]) not in (int, float, NoneType):
            raise ValueError(f"it must hold {{trait: {{clip: number}}}}, got {str(cell)[:80]}")
    table = pd.DataFrame(data, dtype=object)
    table = table.where(table.notna(), "").map(str).reset_index(names="clip")
    return [("", [table.columns.map(str).tolist(), *table.to_numpy().tolist()])]


def reliability(ratings: pd.DataFrame, targets: Sequence[str]) -> pd.DataFrame:
    """Measure the reliability of mean ratings: intraclass correlation (Shrout and Fleiss 1979, Psych. Bull. 86:420).

    ICC(1,k) from the analysis of variance of clips: a rater's leniency counts as error, k is the harmonic mean of the
    raters per clip. Noise in the mean rating bounds every model: one that knew the true score would correlate with it
    by the root of the reliability (Spearman 1904, Am. J. Psych. 15:72), and reach the reliability itself as R².

    `ratings` has one row per clip and rater: `key`, `rater`, a column per target (NaN: not rated). Returns, index
    target: `clips` with two raters or more, `raters`, `per_clip` (mean number of raters), `kind` ("ICC(1,k)"), `single`
    (of one rater), `mean` (of the mean rating), `max_pearson`, `max_r2`; NaN where no two raters rated two clips, or
    nothing varies. A negative estimate is given as 0.
    """
    rows = {target: _reliability(ratings[["key", "rater", target]].dropna(), target) for target in targets}
    return pd.DataFrame.from_dict(rows, "index").rename_axis("target")


def _reliability(long: pd.DataFrame, target: str) -> dict[str, float | int | str]:
    long = long[long.groupby("key")[target].transform("size") > 1]
    by_clip, overall = long.groupby("key")[target], long[target].mean()
    counts, n, total, single, mean = by_clip.size(), by_clip.ngroups, len(long), np.nan, np.nan
    if n > 1:
        within = ((long[target] - by_clip.transform("mean")) ** 2).sum() / (total - n)
        between = (counts * (by_clip.mean() - overall) ** 2).sum() / (n - 1)
        of_clips = max(0.0, (between - within) / (total - (counts**2).sum() / total) * (n - 1))
        if of_clips + within > 0:
            single, mean = (float(of_clips / (of_clips + within * part)) for part in (1, (1 / counts).mean()))
    known = {"clips": n, "raters": long["rater"].nunique(), "per_clip": float(counts.mean()), "kind": "ICC(1,k)"}
    return known | {"single": single, "mean": mean, "max_pearson": float(np.sqrt(mean)), "max_r2": mean}
