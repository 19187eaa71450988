"""Reads rating files safely: ChaLearn pickles, JSON of the same shape, tables, positional arrays.

In: a folder. Out: a table of rating rows, one per (file, clip name), values as they stand in the file; which clip a
name means is for `helpers.names`. Nothing in a file is executed: pickles yield dicts, strings and numbers, or an error.
"""

import json
import logging
import math
import pickle
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import NoneType
from typing import Any

import numpy as np
import pandas as pd

from helpers.rating_tables import STATED, columns_of, table_rows
from helpers.splits import split_named

log = logging.getLogger(__name__)

KINDS = {"pkl": "pickle", "pickle": "pickle", "json": "json", "csv": "csv", "tsv": "tsv", "txt": "txt", "xlsx": "excel"}
RATING_FILE = re.compile(rf"(?:annotations?|ratings)(?:[_-](?P<split>[a-z]+))?\.(?:{'|'.join(KINDS)})", re.I)
TABLES = {"csv", "tsv", "xlsx", "xls", "ods", "numbers"}  # may be ratings where no others are
NOT_READ = {"", "xlsm", "sav", "dta", "rds", "parquet", "feather", "gz", "zip"} | TABLES | set(KINDS)
PICKLE_ERRORS = (pickle.UnpicklingError, AttributeError, EOFError, LookupError, MemoryError, TypeError, ValueError)


@dataclass(frozen=True)
class Ratings:
    """Ratings of clips.

    Attributes:
        table: One row per rated clip (index `key`), one float64 column per target in [0, 1]; NaN where unrated.
        kind: One of `KINDS`, or "none" when the folder holds no ratings.
        problems: Columns `name` (a clip's key, or the name in the file) and `problem`; empty when all is in order.
        given: Columns `source`, `split` and `group` as the files state them, index as `table`; "" where they do not.
        matched: One row per name in the files: `name`, `key` ("" where it fits no clip) and `rule`, see
            `matching.match_names`.
        reliability: Of mean ratings, see `reliability`; None where no raters are named.
    """

    table: pd.DataFrame
    kind: str
    problems: pd.DataFrame
    given: pd.DataFrame
    matched: pd.DataFrame
    reliability: pd.DataFrame | None = None


def read_rating_rows(data_dir: str | Path, targets: Sequence[str]) -> tuple[str, pd.DataFrame]:
    """Read every rating file of a data folder, see `rating_files`.

    Returns:
        The kind (of `KINDS`, or "none"), and one row per (file, clip name) with the columns `file`, `name`,
        `file_split` (which split the file's name speaks of), `source`, `split`, `rater`, `group` (as stated in the
        file; "" if not), and one float64 column per target.

    Raises:
        ValueError: two kinds of ratings; a file that is damaged, asks for code, or lacks a target.
    """
    paths = rating_files(Path(data_dir))
    kinds = {KINDS[path.suffix[1:].lower()]: path for path in reversed(paths)}
    if len(kinds) > 1:
        named = " and ".join(f"{kind} ({path.name})" for kind, path in sorted(kinds.items()))
        raise ValueError(f"ratings must be of one kind, got {named} in {data_dir}. Keep the one that holds.")
    kind = next(iter(kinds), "none")
    read = {"pickle": _pickle_rows, "json": _json_rows}.get(kind, table_rows)
    rows = []
    for path in paths:
        file_split = split_named(RATING_FILE.fullmatch(path.name)["split"] or "")
        about = {"file": path.name, "file_split": file_split} | dict.fromkeys(STATED, "")
        rows += [about | row for row in read(path, targets)]
    table = pd.DataFrame(rows, columns=["file", "name", "file_split", *STATED, *targets])
    return kind, table.astype(dict.fromkeys(targets, np.float64))


def read_positional(
    labels_npy: str | Path,
    ids: Sequence[str] | None,
    targets: Sequence[str],
    rating_range: tuple[float, float] = (0.0, 1.0),
) -> pd.DataFrame:
    """Read an array of labels whose rows are told apart by position only (`labels_train1.npy`).

    Args:
        labels_npy: A `.npy` of shape (N, k), k columns in the order of `targets`.
        ids: The N keys of the clips, in the order of the rows. None: the order is trusted, with a warning; rows are
            called by their numbers, and leakage cannot be known.
        targets: Names of the columns: the file does not say them.
        rating_range: Ends of the rating scale.

    Returns:
        One row per clip (index `key`), one float64 column per target in [0, 1].

    Raises:
        ValueError: not a plain numeric (N, k) array; doubled ids; a value out of range.
    """
    file = Path(labels_npy)
    try:
        values = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file.name} cannot be read as a plain array ({error}).") from None
    shape = getattr(values, "shape", ())
    if len(shape) != 2 or shape[1] != len(targets) or values.dtype.kind not in "fiu":
        raise ValueError(f"{file.name} must hold numbers of shape (N, {len(targets)}), got {shape}.")
    names = [str(name) for name in (range(len(values)) if ids is None else ids)]
    if len(set(names)) != len(values) or len(names) != len(values):
        raise ValueError(f"ids must be {len(values)} different names, got {len(names)}, {len(set(names))} different.")
    rows = pd.DataFrame(values, columns=list(targets), dtype=np.float64).assign(name=names, file=file.name)
    if ids is None:
        log.warning("%s: order trusted: nothing ties a row to its clip, and leakage cannot be known", file.name)
    return scaled(rows, targets, rating_range).set_index(pd.Index(names, name="key"))[list(targets)]


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
    if here := [path for path in entries if _is_rating_file(path)]:
        return here
    below = []
    for child in filter(Path.is_dir, entries):
        try:
            below += sorted(path for path in child.iterdir() if _is_rating_file(path))
        except OSError as error:
            log.warning("%s cannot be read (%s): ratings in it are left out", child, error.strerror)
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
    if name.startswith("~$") or not (like or (not read and depth == 1 and suffix in TABLES)):  # ~$: open in Excel
        return ""
    if read:
        return f"looks like ratings and is not read: {read[0].name} is. Remove one of the two, or join them."
    return "may be ratings and is not read. Save it beside the clips as ratings.csv or .xlsx, with a column clip."


class _PlainUnpickler(pickle.Unpickler):
    """Loads dicts, strings and numbers. Whatever names a class or a function is refused before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        raise _Refused(ascii(f"{module}.{name}")[1:-1][:100])  # words of a hostile file stay on one line

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("an object kept elsewhere (persistent id)")


class _Refused(Exception):
    """What a pickle asked for."""


def _pickle_rows(path: Path, targets: Sequence[str]) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            data = _PlainUnpickler(file, encoding="latin1").load()  # Python 2 wrote the challenge's files
    except _Refused as refused:
        raise ValueError(
            f"{path.name} asks for {refused}. Only dicts, strings and numbers are read: it may be unsafe, get it anew."
        ) from None
    except PICKLE_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path.name} cannot be read as dicts, strings and numbers ({reason}). Get it anew.") from None
    return _mapping_rows(path, data, targets)


def _json_rows(path: Path, targets: Sequence[str]) -> Iterator[dict[str, Any]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not JSON ({error}). Get it anew.") from None
    return _mapping_rows(path, data, targets)


def _mapping_rows(path: Path, data: Any, targets: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of `{trait: {clip: number}}`, read by name, never by position."""
    _check_shape(path, data)
    headings = list(data)
    traits = {target: data[headings[at]] for target, at in columns_of(path, headings, targets).items()}
    for name in dict.fromkeys(name for values in traits.values() for name in values):
        yield {"name": name} | {target: values.get(name) for target, values in traits.items()}


def _check_shape(path: Path, data: Any) -> None:
    rule = f"{path.name} must hold {{trait: {{clip: number}}}}, got"
    if not isinstance(data, dict):
        raise ValueError(f"{rule} {type(data).__name__}.")
    for trait, values in data.items():
        if not isinstance(trait, str) or not isinstance(values, dict):
            raise ValueError(f"{rule} {type(values).__name__} for {trait!r}.")
        for name, value in values.items():
            if not isinstance(name, str) or type(value) not in (int, float, NoneType):
                raise ValueError(f"{rule} {type(value).__name__} for {trait} of {name!r}.")
            if value and abs(value) > 2**53:
                raise ValueError(f"{rule} a number too large for a rating for {trait} of {name!r}.")


def reliability(ratings: pd.DataFrame, targets: Sequence[str]) -> pd.DataFrame:
    """Measure the reliability of mean ratings: intraclass correlation (Shrout and Fleiss 1979, Psych. Bull. 86:420).

    Where all raters rated the same clips it is ICC(2,k): absolute agreement, raters as a random sample. Where raters
    differ from clip to clip it is ICC(1,k), in which a rater's leniency counts as error, k being the harmonic mean of
    the raters per clip. ICC(1,k) is ICC(1,1) stepped up by Spearman and Brown's formula.

    Noise in the mean rating bounds every model: one that knew the true score would correlate with it by the root of
    the reliability (Spearman 1904, Am. J. Psych. 15:72), and reach the reliability itself as R².

    Args:
        ratings: One row per clip and rater: columns `key`, `rater`, and one per target (NaN = not rated).
        targets: The rating columns.

    Returns:
        Index target; `clips` with two raters or more, `raters`, `per_clip` (mean number of raters), `kind`
        ("ICC(2,k)" or "ICC(1,k)"), `single` (of one rater), `mean` (of the mean rating), `max_pearson`, `max_r2`; NaN
        where no two raters rated a clip, or nothing varies. A negative estimate is given as 0.
    """
    rows = {target: _of_target(ratings[["key", "rater", target]].dropna(), target) for target in targets}
    return pd.DataFrame.from_dict(rows, "index").rename_axis("target")


def _of_target(long: pd.DataFrame, target: str) -> dict[str, float | int | str]:
    table = long.pivot(index="key", columns="rater", values=target)
    table = table[table.count(axis=1) > 1].dropna(axis=1, how="all")
    counts = table.count(axis=1)
    known = {"clips": len(table), "raters": table.shape[1], "per_clip": float(counts.mean())}
    if len(table) < 2:
        return known | dict.fromkeys(("kind", "single", "mean", "max_pearson", "max_r2"), np.nan)
    crossed = bool(table.notna().all(axis=None))
    single, mean = _two_way(table.to_numpy()) if crossed else _one_way(table, counts)
    ceilings = {"max_pearson": float(np.sqrt(mean)), "max_r2": mean}
    return known | {"kind": "ICC(2,k)" if crossed else "ICC(1,k)", "single": single, "mean": mean} | ceilings


def _two_way(x: np.ndarray) -> tuple[float, float]:
    """ICC(2,1) and ICC(2,k) of x (clips, raters)."""
    n, k = x.shape
    of_clips = k * np.sum((x.mean(1) - x.mean()) ** 2) / (n - 1)
    of_raters = n * np.sum((x.mean(0) - x.mean()) ** 2) / (k - 1)
    error = np.sum((x - x.mean(1, keepdims=True) - x.mean(0) + x.mean()) ** 2) / ((n - 1) * (k - 1))
    leniency = (of_raters - error) / n
    single = _share(of_clips - error, of_clips + (k - 1) * error + k * leniency)
    return single, _share(of_clips - error, of_clips + leniency)


def _one_way(table: pd.DataFrame, counts: pd.Series) -> tuple[float, float]:
    """ICC(1,1) and ICC(1,k) from the analysis of variance of clips with unequal numbers of raters."""
    n, total = len(table), int(counts.sum())
    means, overall = table.mean(axis=1), float(table.stack().mean())
    within = float(table.sub(means, axis=0).pow(2).sum(axis=None)) / (total - n)
    between = float((counts * (means - overall) ** 2).sum()) / (n - 1)
    typical = (total - float((counts**2).sum()) / total) / (n - 1)
    of_clips = max(0.0, (between - within) / typical)
    harmonic = n / float((1 / counts).sum())
    return _share(of_clips, of_clips + within), _share(of_clips, of_clips + within / harmonic)


def _share(part: float, whole: float) -> float:
    """part / whole; 0 for a negative estimate, NaN where nothing varies."""
    if part < 0:
        return 0.0
    return float(part / whole) if whole > 0 else float("nan")
