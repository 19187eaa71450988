"""The clips of a data folder: their keys, sources, official splits and ratings, and what leaks between splits.

In: a folder of video files in any layout, with or without ratings. Out: tables with one row per clip, index `key`.
Keys and sources: `helpers.names`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from helpers.files import needs, replacing
from helpers.inventory import as_line, take_inventory
from helpers.matching import SEVERAL, match_names
from helpers.names import natural_order
from helpers.ratings import STATED, TRAITS, Ratings, read_rating_rows, reliability, scaled
from helpers.splits import source_of, split_named

LETTERS = ("O", "C", "E", "A", "N")
ABOUT = ("path", "source", "split", "group", "bytes")  # columns of a table of clips that are no ratings
DISPLAY = {trait: f"{trait} ({letter})" for trait, letter in zip(TRAITS, LETTERS, strict=True)} | {
    "neuroticism": "emotional stability (N)"  # what is high "neuroticism" in this data
}


def name_of(target: str) -> str:
    """The name of a target as readers see it."""
    return DISPLAY.get(target, target)


def letter_of(target: str) -> str:
    """The letter of a trait, or the name of another target."""
    return dict(zip(TRAITS, LETTERS, strict=True)).get(target, target)


def find_clips(data_dir: str | Path) -> pd.DataFrame:
    """Find every clip below a folder: the first half of `scan_clips`."""
    return scan_clips(data_dir)[0]


def scan_clips(data_dir: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find every clip below a folder, in any layout, and what else lies there (see `inventory.take_inventory`).

    Returns:
        The clips in natural order (`clip 2` before `clip 10`): index `key`; columns `path` (below `data_dir`, "/"
        between its parts), `source`, `split` ("train", "validation", "test", or "" when no folder's name says it; the
        innermost counts) and `bytes`. What was left out: columns `path`, `kind` and `problem`.

    Raises:
        FileNotFoundError, NotADirectoryError: `data_dir` is missing or a file.
        ValueError: No clips.
    """
    root = Path(data_dir)
    if not root.is_dir():
        error = NotADirectoryError if root.exists() else FileNotFoundError
        raise error(f"data_dir must be a folder of clips, {root} is {'a file' if root.exists() else 'not there'}.")
    paths, left_out = take_inventory(root)
    if not paths:
        seen = as_line(0, left_out)
        raise ValueError(f"data_dir must hold clips (videos of any suffix), got none below {root}: {seen}. Check it.")
    return clip_table(paths, root), left_out


def clip_table(paths: Mapping[str, str], root: Path) -> pd.DataFrame:
    """The table of `find_clips` for clips by key; `bytes` is 0 where a path below `root` is no file."""
    keys = sorted(paths, key=natural_order)
    files = [root / paths[key] for key in keys]
    columns = {
        "path": [paths[key] for key in keys],
        "source": [source_of(key) for key in keys],
        "split": [next(filter(None, map(split_named, reversed(key.split("/")[:-1]))), "") for key in keys],
        "bytes": [file.stat().st_size if file.is_file() else 0 for file in files],
    }
    return pd.DataFrame(columns, index=pd.Index(keys, name="key"))


def read_clips(
    data_dir: str | Path,
    limit: int = 0,
    *,
    targets: Sequence[str] = TRAITS,
    rating_range: tuple[float, float] = (0.0, 1.0),
) -> pd.DataFrame:
    """Return the first `limit` clips (0: all) of a data folder with ratings: see `find_clips` and `read_ratings`."""
    if limit < 0:
        raise ValueError(f"limit must be 0 (all) or more, got {limit}.")
    clips = find_clips(data_dir)
    return add_ratings(clips, read_ratings(data_dir, clips, targets, rating_range)).head(limit or len(clips))


def read_ratings(
    data_dir: str | Path,
    clips: pd.DataFrame,
    targets: Sequence[str] = TRAITS,
    rating_range: tuple[float, float] = (0.0, 1.0),
) -> Ratings:
    """Read the ratings in a data folder (formats: `helpers.ratings`) and find out which clip each is of.

    Args:
        data_dir: The data folder.
        clips: All its clips, as `find_clips` returns them without a limit.
        targets: What was rated, by name.
        rating_range: Ends of the rating scale, mapped to 0 and 1.

    Returns:
        The ratings; a folder without any is kind "none" with an empty table.

    Raises:
        ValueError: Ratings of two kinds, a damaged or unsafe file, a missing target, a name that fits several clips, a
            value out of range, a clip rated twice with different values, ratings of other clips only.
    """
    kind, rows = read_rating_rows(data_dir, targets)
    rows = scaled(rows, targets, rating_range)
    matched = match_names(rows["name"], clips, rows["file_split"], data_dir)
    _check_matched(matched, rows, clips, data_dir)
    rows["key"] = matched["key"].to_numpy()
    rows["split"] = rows["split"].where(rows["split"] != "", rows["file_split"])
    once = rows[rows["key"] != ""].drop_duplicates(["key", *STATED, *targets])
    _check_rated_once(once, [*STATED, *targets])
    by_clip = once.groupby("key", sort=False)
    means, given = by_clip[list(targets)].mean(), by_clip[["source", "split", "group"]].first()
    if kind == "none":  # positional labels may lie there: nothing says which clip a row is of
        arrays = sorted(path.name for path in Path(data_dir).glob("labels*.npy"))
        problems = [(name, "order only: see ratings.read_positional") for name in arrays]
    else:
        problems = _misfits(rows, means, clips)
    table = pd.DataFrame(problems, columns=["name", "problem"], dtype="str")
    agreement = reliability(once, targets) if (once["rater"] != "").any() else None
    return Ratings(means, kind, table, given, matched.drop_duplicates(ignore_index=True), agreement)


def _check_matched(matched: pd.DataFrame, rows: pd.DataFrame, clips: pd.DataFrame, data_dir: str | Path) -> None:
    """Raise ValueError where a file name is that of several clips, or no name is that of any."""
    for name, _, why in matched[matched["rule"].str.startswith(SEVERAL)].itertuples(index=False):
        raise ValueError(f"{name!r} in {rows['file'].iloc[0]} must name one clip, it {why}. Call it by its key.")
    if len(rows) and (matched["key"] == "").all():
        what = (
            f"{rows['file'].iloc[0]} must rate the {len(clips)} clips in {data_dir}, got {rows['name'].nunique()} names"
        )
        first = f"{matched['name'].iloc[0]}: {matched['rule'].iloc[0]}"
        raise ValueError(f"{what} of others ({first}). Call clips by their keys, such as {clips.index[0]}.")


def _check_rated_once(rows: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise ValueError when a rater rated a clip in two ways, or raters name two sources, splits or groups of it."""
    again = rows[rows.duplicated(["key", "rater"])]
    parted = rows.groupby("key")[["source", "split", "group"]].nunique().gt(1).any(axis=1)
    if len(again):
        twice = rows[(rows["key"] == again["key"].iloc[0]) & (rows["rater"] == again["rater"].iloc[0])]
    elif parted.any():
        twice, columns = rows[rows["key"] == parted.idxmax()], ["source", "split", "group"]
    else:
        return
    column = next(c for c in columns if twice[c].nunique(dropna=False) > 1)
    first, second = twice[column].unique()[:2]
    raise ValueError(
        f"{twice['key'].iloc[0]} must be rated once, got {column} {first} and {second}. Keep the right one, or name "
        "the raters in a column rater."
    )


def _misfits(rows: pd.DataFrame, means: pd.DataFrame, clips: pd.DataFrame) -> list[tuple[str, str]]:
    """List (name, problem) of what does not fit between rows of rating files, mean ratings and clips."""
    matched = rows[rows["key"] != ""]
    partial = means[means.isna().any(axis=1)]
    return [
        *((name, "rating without clip") for name in rows.loc[rows["key"] == "", "name"]),
        *((key, "clip without rating") for key in clips.index.difference(matched["key"], sort=False)),
        *((key, "rated twice, alike") for key in matched.loc[matched.duplicated(["key", "rater"]), "key"]),
        *((key, f"no number for {', '.join(row.index[row.isna()])}") for key, row in partial.iterrows()),
    ]


def add_ratings(clips: pd.DataFrame, ratings: Ratings) -> pd.DataFrame:
    """Return the table of clips with one column per target (NaN where unrated).

    Sources and splits that the rating files state take the place of those that the names suggest; a column `group` is
    there when they state one.
    """
    given = ratings.given.reindex(clips.index, fill_value="")
    stated = {name: given[name].where(given[name] != "", clips[name]) for name in ("source", "split")}
    if (given["group"] != "").any():
        stated["group"] = given["group"]
    return clips.assign(**stated).join(ratings.table)


def is_synthetic(folder: str | Path) -> bool:
    """Whether `data_sample/make` drew the clips of a folder: the columns of its `truth.csv` say so."""
    path = Path(folder) / "truth.csv"
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        columns = file.readline().strip().split(",")
    return "key" in columns and not {"window_s", "clip_seed"}.isdisjoint(columns)


def target_names(targets: str) -> list[str]:
    """What was rated: "ocean" means the five traits, anything else is names with commas between them."""
    return list(TRAITS) if targets == "ocean" else [name.strip() for name in targets.split(",")]


def targets_of(clips: pd.DataFrame) -> list[str]:
    """The rating columns of a table of clips, in its order."""
    return [column for column in clips.columns if column not in ABOUT]


def trait_statistics(clips: pd.DataFrame, targets: Sequence[str] = TRAITS) -> pd.DataFrame:
    """Return `n`, `mean`, `sd` (of the sample, n - 1), `min` and `max` of each target's ratings, one row per target."""
    table = clips[list(targets)].agg(["count", "mean", "std", "min", "max"]).T
    return table.rename(columns={"count": "n", "std": "sd"}).astype({"n": int})


def leakage(clips: pd.DataFrame) -> pd.DataFrame:
    """Count the clips for validation and test whose source also has clips to train on.

    Clips that are their own source share it with none: where names do not tell the source, it is a lower bound.

    Returns:
        One row per pair of splits that both have clips: `split`, `against` ("train" or "train + validation"), `clips`,
        `sharing` (how many of them share a source) and `share` in [0, 1].
    """
    rows, sources = [], {split: table["source"] for split, table in clips.groupby("split")}
    for split, *against in (("validation", "train"), ("test", "train"), ("test", "train", "validation")):
        if sources.keys() >= {split, *against}:
            shared = sources[split].isin(pd.concat([sources[name] for name in against]))
            rows.append((split, " + ".join(against), len(shared), int(shared.sum()), float(shared.mean())))
    return pd.DataFrame(rows, columns=["split", "against", "clips", "sharing", "share"])


def write_clips(clips: pd.DataFrame, path: str | Path) -> None:
    """Write the table of clips as CSV, atomically."""
    with replacing(path) as part:
        clips.to_csv(part, lineterminator=line_end(clips.index))


def line_end(names: Iterable[str]) -> str:
    """How the lines of a CSV must end for these names to come back: a carriage return is quoted where it ends lines."""
    return "\r\n" if any("\r" in name for name in names) else "\n"


def load_clips(path: str | Path) -> pd.DataFrame:
    """Read the table of clips that 01_data_analysis wrote: index `key`, text columns as text, ratings as numbers."""
    made = needs(path, "01_data_analysis")
    targets = targets_of(pd.read_csv(made, index_col="key", nrows=0))
    text = dict.fromkeys(("key", "path", "source", "split", "group"), str)
    return pd.read_csv(made, index_col="key", dtype=text, keep_default_na=False, na_values={t: [""] for t in targets})
