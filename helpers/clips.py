"""The clips of a data folder: which files are clips and what was left out, keys, sources, splits, ratings, leaks.

In: a folder of video files in any layout, with or without ratings. Out: tables with one row per clip, index `key`, and
a table of everything else. A file is a clip if it holds a video stream of more than one picture; where the suffix says
that it is none it is not opened: of pictures there may be many thousands. Keys: `helpers.names`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from helpers.container import VideoError, open_video
from helpers.files import needs, replacing
from helpers.names import (
    NO_CLIP,
    SEVERAL,
    UNDECODED,
    clip_key,
    is_regular,
    is_video,
    match_names,
    natural_order,
    walk_files,
)
from helpers.ratings import (
    STATED,
    TRAITS,
    Ratings,
    rating_files,
    read_rating_rows,
    reliability,
    scaled,
    why_not_read,
)
from helpers.splits import source_of, split_named
from helpers.store import reason_of
from helpers.video import VideoInfo, probe
from helpers.workers import ClipPool, WorkerError, cores

LETTERS = ("O", "C", "E", "A", "N")
ABOUT = ("path", "source", "split", "group", "bytes")  # columns of a table of clips that are no ratings
DISPLAY = {trait: f"{trait} ({letter})" for trait, letter in zip(TRAITS, LETTERS, strict=True)} | {
    "neuroticism": "emotional stability (N)"  # what is high "neuroticism" in this data
}
SUFFIXES = """7z aac ac3 ai aif aifc aiff amr ape aria2 arrow arw ass au avif bak bat bib bin bmp bz2 c caf cfg ckpt
conf cpp cr2 cr3 crdownload css csv db dcm dll dmg dng doc docm docx download dta eaf eps epub exe exr feather flac go
gz h h5 hdf5 heic heif hog hpp htm html ico ini ipynb iso j2k jar java joblib jp2 jpe jpeg jpg js json jsonl jxl keras
key lock log lrc lrf lrv m m4a m4b markdown mat md mid midi mka mp2 mp3 msgpack nc nef nfo npy npz numbers odp ods odt
oga ogg old onnx opus orf orig pages parquet part partial pb pbm pdf pgm php pickle pkl png pnm ppm ppt pptx ps1 psd pt
pth py pyc r ra raf rar raw rb rda rds rmd rs rst rtf rw2 safetensors sav sbv sh so sps sqlite sqlite3 srt ssa sub svg
tar tbz tex textgrid tflite tfrecord tfrecords tga tgz tif tiff tmp toml tsv ttml txt txz url vtt wav webp wma xls xlsm
xlsx xml xz yaml yml ytdl z zip zst"""
NOT_OPENED = set(SUFFIXES.split())  # of files that are no clips, or copies of clips (lrf, lrv: of cameras)
HIDDEN = {"thumbs.db", "desktop.ini"}  # what systems leave
NAMED = 5  # files or names in one line
LINE_END = "\r\n"  # of tables: "\r" in a name is quoted only where it ends lines


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
    """Find every clip below a folder, in any layout, and what else lies there (see `take_inventory`).

    The clips come in natural order (`clip 2` before `clip 10`): index `key`; columns `path` (below `data_dir`, "/"
    between its parts), `source`, `split` ("train", "validation", "test", or "" when no folder's name says it; the
    innermost counts) and `bytes`. FileNotFoundError, NotADirectoryError where there is no folder, ValueError without
    clips.
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


def take_inventory(root: Path) -> tuple[dict[str, str], pd.DataFrame]:
    """Sort everything below a folder (see `walk_files`) into clips and what is none.

    Of videos with the same key none is a clip: features could be of either. Nor is a file whose name is not UTF-8.
    Returns paths of the clips by key, "/" between the parts of both; and one row per other file, and per folder that
    was not entered: `path` (bytes that are not UTF-8 as `\\xe9`), `kind` (a suffix, "no video", …; "ratings" for those
    that are read) and `problem`: what hinders and what to do, "" where there is nothing to be done.
    """
    read, kinds = rating_files(root), {}
    for path, kind in walk_files(root):
        why = "" if kind or root / path in read else why_not_read(PurePosixPath(path), read)
        is_read = "ratings" if root / path in read else "ratings not read" if why else ""
        kinds[path] = kind or is_read or kind_of(root / path), why
    for path, answer in _each_by(_kind, {path: root / path for path, (kind, _) in kinds.items() if not kind}):
        kinds[path] = answer if isinstance(answer, tuple) else ("cannot be read", f"{answer}. Mend it, or remove it.")
    by_key: dict[str, list[str]] = {}
    for path, (kind, _) in kinds.items():
        if kind == "clip" and UNDECODED.search(path):
            kinds[path] = "not UTF-8", "its name is not UTF-8: no table could hold it. Rename the file."
        elif kind == "clip":
            by_key.setdefault(clip_key(path), []).append(path)
    for key, paths in by_key.items():
        if len(paths) > 1:
            problem = f"{' and '.join(paths)} have the same key {key}. Rename or remove all but one."
            kinds |= dict.fromkeys(paths, ("same key", problem))
    rows = [(path, *why) for path, why in kinds.items() if why[0] != "clip"]
    told = [[text.encode(errors="surrogateescape").decode(errors="backslashreplace") for text in row] for row in rows]
    table = pd.DataFrame(told, columns=["path", "kind", "problem"], dtype="str")
    return {key: paths[0] for key, paths in by_key.items() if len(paths) == 1}, table


def kind_of(file: Path) -> str:
    """What a file is by its name: "clip", its suffix, "hidden", "special file", "link to nothing"; "" if unknown."""
    name, suffix = file.name.lower(), file.suffix.lower()
    if name in HIDDEN or name.startswith("~$"):
        return "hidden"
    if suffix[1:] in NOT_OPENED:
        return suffix
    if not is_regular(file):
        return "special file"
    if is_video(name):
        return "clip"
    return "" if file.exists() else "link to nothing"


def _each_by(work: Callable[[Path], Iterator[Any]], files: Mapping[str, Path]) -> Iterator[tuple[str, Any]]:
    """What a decoder process says of each file, or the error that it ended with: a file may crash it, or hang."""
    with ClipPool(work, workers=max(1, min(cores(), len(files)))) as pool:
        for key, answers in pool.run(files.items()):
            try:
                yield key, next(answers)
            except (ValueError, WorkerError) as error:
                yield key, error


def _kind(file: Path) -> Iterator[tuple[str, str]]:
    """Kind and problem of a file of unknown suffix."""
    try:
        with open_video(file) as video:
            yield "clip" if len(video.ticks) > 1 else "pictures", ""
    except VideoError as error:
        yield "no video", reason_of(error, file.name)


def _info(file: Path) -> Iterator[VideoInfo]:
    yield probe(file)


def probe_clips(clips: pd.DataFrame, root: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """What is in the videos of a table of clips: index key, columns of `VideoInfo`; and why others cannot be opened."""
    found = dict(_each_by(_info, {key: root / path for key, path in clips["path"].items()}))
    broken = {key: reason_of(error) for key, error in found.items() if isinstance(error, Exception)}
    infos = {key: info for key, info in found.items() if key not in broken}
    columns = [field.name for field in fields(VideoInfo)]
    return pd.DataFrame(list(infos.values()), index=list(infos), columns=columns), broken


def as_line(n_clips: int, left_out: pd.DataFrame, where: str | Path = "") -> str:
    """What was seen, used and left out, in one line; `where`: the file that lists it.

    Files that want a hand, and those that had to be opened, are named; what looks like ratings with what to do.
    """
    others = left_out[left_out["kind"] != "ratings"]
    parts = []
    for kind, these in sorted(others.groupby("kind"), key=lambda group: -len(group[1])):
        is_named = kind == "no video" or (these["problem"] != "").any()
        parts.append(f"{len(these):,} {kind}" + (f": {_some(these['path'])}" if is_named else ""))
    n_ratings = len(left_out) - len(others)
    of_ratings = f", {n_ratings} of ratings" if n_ratings else ""
    not_used = f"{len(others):,} left out ({'; '.join(parts)})" if parts else "none left out"
    line = [f"seen {n_clips + len(left_out):,} files: {n_clips:,} clips{of_ratings}, {not_used}"]
    line += [f"list: {where}"] * bool(where)
    for row in others[others["kind"] == "ratings not read"][:1].itertuples():
        line.append(f"{row.path} {row.problem.rstrip('.')}")
    return "; ".join(line)


def _some(names: pd.Series) -> str:
    return ", ".join(names[:NAMED]) + ", …" * (len(names) > NAMED)


def write_rows(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table without index as CSV, atomically: what was left out, or what was matched."""
    with replacing(path) as part:
        table.to_csv(part, index=False, lineterminator=LINE_END)


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

    `clips` are all of the folder, as `find_clips` returns them; the ends of `rating_range` become 0 and 1. Without
    rating files the ratings are of kind "none", with an empty table.

    Raises:
        ValueError: Ratings of two kinds, a damaged or unsafe file, a missing target, a name that fits several clips, a
            value out of range, a clip rated twice with different values, ratings of other clips only.
    """
    kind, rows = read_rating_rows(data_dir, targets)
    rows = scaled(rows, targets, rating_range)
    matched = match_names(rows["name"], clips.index, data_dir)
    matched = pd.DataFrame(matched, columns=["name", "key", "rule"], dtype="str")
    _check_matched(matched, rows["file"], clips, data_dir)
    rows["key"] = matched["key"]
    rows["split"] = rows["split"].where(rows["split"] != "", rows["file_split"])
    once = rows[rows["key"] != ""].drop_duplicates(["key", *STATED, *targets])
    _check_rated_once(once, targets)
    by_clip = once.groupby("key", sort=False)
    means, given = by_clip[list(targets)].mean(), by_clip[["source", "split", "group"]].first()
    misfits = _misfits(rows, means, clips) if kind != "none" else []
    problems = pd.DataFrame(misfits, columns=["name", "problem"], dtype="str")
    agreement = reliability(once, targets) if (once["rater"] != "").any() else None
    return Ratings(means, kind, problems, given, matched.drop_duplicates(ignore_index=True), agreement)


def _check_matched(matched: pd.DataFrame, files: pd.Series, clips: pd.DataFrame, data_dir: str | Path) -> None:
    """Raise ValueError where a file name is that of several clips, or no name is that of any."""
    for at, name, _, why in matched[matched["rule"].str.startswith(SEVERAL)].itertuples():
        raise ValueError(f"{name!r} in {files[at]} must name one clip, it {why}. Call it by its key.")
    if len(matched) and not matched["key"].any():
        must = f"{files[0]} must rate the {len(clips)} clips in {data_dir}, got {matched['name'].nunique()} names"
        first = f"{matched['name'][0]}: {matched['rule'][0]}"
        raise ValueError(f"{must} of others ({first}). Call clips by their keys, such as {clips.index[0]}.")


def _check_rated_once(rows: pd.DataFrame, targets: Sequence[str]) -> None:
    """Raise ValueError when a rater rated a clip in two ways, or raters name two sources, splits or groups of it."""
    about = ["source", "split", "group"]
    for by, columns in ((["key", "rater"], [*about, *targets]), (["key"], about)):
        parted = rows.groupby(by)[columns].nunique(dropna=False).gt(1).stack()
        for *at, column in parted[parted].index:
            first, second = rows.loc[(rows[by] == at).all(axis=1), column].unique()[:2]
            raise ValueError(
                f"{at[0]} must be rated once, got {column} {first} and {second}. Keep the right one, or name raters in "
                "a column rater."
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


def as_lines(matched: pd.DataFrame, what: str = "ratings") -> list[str]:
    """How many names were matched by which rule, and which fit no clip: a line each; none where there are no names."""
    fits = matched["key"] != ""
    by = ", ".join(f"{n:,} by {rule}" for rule, n in matched.loc[fits, "rule"].value_counts().items())
    lines = [f"{what}: {fits.sum():,} names matched{f' ({by})' if by else ''}"]
    if len(lost := matched[~fits].drop_duplicates("name")):
        why = lost["rule"].map(lambda reason: "" if reason == NO_CLIP else f" ({reason})")
        lines.append(f"{what}: {len(lost):,} names fit no clip: {_some(lost['name'] + why)}")
    return lines if len(matched) else []


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


def leakage(clips: pd.DataFrame) -> pd.DataFrame:
    """Count the clips for validation and test whose source also has clips to train on.

    Where names do not tell the source, it is a lower bound. Returns one row per pair of splits that both have clips:
    `split`, `against` ("train" or "train + validation"), `clips`, `sharing` (of them) and `share` in [0, 1].
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
        clips.to_csv(part, lineterminator=LINE_END)


def load_clips(path: str | Path) -> pd.DataFrame:
    """Read the table of clips that 01_data_analysis wrote: index `key`, text columns as text, ratings as numbers."""
    made = needs(path, "01_data_analysis")
    targets = targets_of(pd.read_csv(made, index_col="key", nrows=0))
    text = dict.fromkeys(("key", "path", "source", "split", "group"), str)
    return pd.read_csv(made, index_col="key", dtype=text, keep_default_na=False, na_values={t: [""] for t in targets})
