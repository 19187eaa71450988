"""Reads tables of ratings as people keep them: text with any usual separator, and Excel's workbooks.

In: a file with a line of column names, `clip` among them, and one line per clip, or per clip and rater. Out: one dict
per line. Columns are found by name, never by place; scales and missing names are never guessed.
"""

import csv
import io
import logging
import math
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.splits import split_named

log = logging.getLogger(__name__)

TRAITS = ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism")
STATED = ("source", "split", "rater", "group")  # optional columns
HEADINGS = {"videoname": "clip", "neurotisicm": "neuroticism", "extroversion": "extraversion"}  # the first two sic
NOT_A_NUMBER = {"", "nan", "na", "n/a", "#n/a", "<na>", "none", "null", "-", "–", "—", ".", "?"}
SEPARATORS = ",;\t| "
HEAD_LINES = 20  # in which the column names must stand; before them `sep=`, titles and comments

Line = tuple[str, list[str]]  # where it stands, for messages; its cells


def table_rows(path: Path, targets: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield `name`, the columns of `STATED` ("" where there are none) and a number per target of every line.

    Raises:
        ValueError: no such table; a column is missing or there twice; a cell is no number; a line without a clip.
    """
    tables = _excel_sheets(path) if path.suffix.lower() == ".xlsx" else _text_tables(path)
    seen: list[str] = []
    for lines in tables:
        if (head := _place_of_head(lines)) is not None:
            break
        seen = seen or next((cells for _, cells in lines if any(map(str.strip, cells))), [])
    else:
        if not seen:
            raise ValueError(f"{path.name} must begin with a line of column names, got none.")
        raise ValueError(f"{path.name} must have a column 'clip', got {', '.join(seen[:20])}.")
    headings = lines[head][1]
    columns = columns_of(path, headings, ["clip", *targets], STATED)
    for where, cells in lines[head + 1 :]:
        if rest := list(filter(str.strip, cells[len(headings) :])):
            raise ValueError(f"{where} must have at most {len(headings)} fields, got {len(headings) + len(rest)}.")
        cells += [""] * (len(headings) - len(cells))
        if any(map(str.strip, cells)):
            yield _table_row({name: cells[at].strip() for name, at in columns.items()}, targets, where)


def _place_of_head(lines: list[Line]) -> int | None:
    """The place of the line of column names."""
    is_clip = [any(heading_name(cell.partition("(")[0]) == "clip" for cell in cells) for _, cells in lines[:HEAD_LINES]]
    return is_clip.index(True) if any(is_clip) else None


def columns_of(
    path: Path, headings: Sequence[str], wanted: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, int]:
    """Find the place of each wanted column, and of the optional ones that are there.

    A heading is taken as it is, without regard to case and spaces; else without what stands in brackets behind it; else
    as a trait's initial, where all of O, C, E, A, N are there.
    """
    full = [heading_name(heading) for heading in headings]
    bare = [heading_name(re.sub(r"\s*[(\[].*[)\]]\s*$", "", heading)) for heading in headings]
    initials = {trait[0]: trait for trait in TRAITS} if set("ocean") <= set(bare) else {}
    columns = {}
    for name in (*wanted, *optional):
        for spelled in (full, bare, [initials.get(heading, "") for heading in bare]):
            places = [place for place, heading in enumerate(spelled) if heading == heading_name(name)]
            if len(places) > 1:
                raise ValueError(f"{path.name} must have one column {heading_name(name)!r}, got two.")
            if places:
                columns[name] = places[0]
                break
        if name in wanted and name not in columns:
            raise ValueError(f"{path.name} must have a column {name!r}, got {', '.join(headings[:20]) or 'none'}.")
    return columns


def heading_name(text: str) -> str:
    """A column's name without case, spaces, and the prefix of the challenge's CSV (`ValueOpenness`)."""
    name = unicodedata.normalize("NFC", text).strip().casefold()
    name = name.removeprefix("value") or name
    return HEADINGS.get(name, name)


def _table_row(cells: dict[str, str], targets: Sequence[str], where: str) -> dict[str, Any]:
    stated = {name: cells.get(name, "") for name in STATED}
    if not cells["clip"]:
        raise ValueError(f"{where} must name a clip, got {cells}.")
    if cells.get("rater") == "":
        raise ValueError(f"{where} must name a rater like the other lines, got {cells}.")
    if stated["split"] and not split_named(stated["split"]):
        raise ValueError(f"{where}: split must be train, validation or test, got {stated['split']!r}.")
    numbers = {target: _number(cells[target], f"{where}: {target}") for target in targets}
    return {"name": cells["clip"]} | stated | {"split": split_named(stated["split"])} | numbers


def _number(text: str, what: str) -> float:
    """The number in a cell, NaN for an empty one; a decimal comma is read as a point."""
    if text.casefold() in NOT_A_NUMBER:
        return math.nan
    try:
        return float(text.replace(",", ".").replace("_", "no number"))
    except ValueError:
        raise ValueError(f"{what} must be a number, got {text!r}.") from None


def _text_tables(path: Path) -> Iterator[list[Line]]:
    """The lines as each separator parts them, or as that of Excel's line `sep=;` does."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        said = re.match(r'"?sep=(.)', text, re.I)
        for separator in said[1] if said else SEPARATORS:
            lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
            yield [(f"{path.name} line {lines.line_num}", cells) for cells in lines]
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} must be UTF-8 text. Save it as CSV UTF-8.") from None
    except csv.Error as error:
        raise ValueError(f"{path.name} is not CSV ({error}).") from None


def _excel_sheets(path: Path) -> list[list[Line]]:
    """The lines of the sheets that hold any, those with a column `clip` first."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of what Excel knows and openpyxl does not
            read = pd.read_excel(path, sheet_name=None, header=None, dtype=str, na_filter=False, engine="openpyxl")
    except ImportError:
        advice = "Run pip install openpyxl, or save it as ratings.csv."
        raise ValueError(f"{path.name} is read with openpyxl, which is not installed. {advice}") from None
    except Exception as error:  # openpyxl raises whatever it stumbles over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path.name} is not a workbook of Excel ({reason}). Save it anew, or as CSV UTF-8.") from None
    rows = {title: enumerate(sheet.fillna("").to_numpy().tolist(), 1) for title, sheet in read.items() if len(sheet)}
    sheets = {title: [(f"{path.name} row {n}", cells) for n, cells in lines] for title, lines in rows.items()}
    chosen, *others = sorted(sheets, key=lambda title: _place_of_head(sheets[title]) is None) or [""]
    if others:
        log.warning("%s: the sheet %r is read, and not %s", path.name, chosen, ", ".join(map(repr, others)))
    return [sheets[title] for title in (chosen, *others) if sheets]
