"""What lies in a data folder: which files are clips, and what was left out, by kind.

In: a folder in any layout. Out: the clips by key, and a table of everything else. A file is a clip if it holds a video
stream of more than one picture. What a suffix tells is not opened: of pictures there may be many thousands.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import av
import pandas as pd

from helpers.container import NO_VIDEOS, STILLS
from helpers.files import replacing
from helpers.names import UNDECODED, clip_key, is_regular, is_video, walk_files
from helpers.ratings import rating_files, why_not_read

KINDS = {
    "pictures": "ai arw avif bmp cr2 cr3 dcm dng eps exr heic heif ico j2k jp2 jpe jpeg jpg jxl nef orf pbm pgm png "
    "pnm ppm psd raf raw rw2 svg tga tif tiff webp",
    "sound": "aac ac3 aif aifc aiff amr ape au caf flac m4a m4b mid midi mka mp2 mp3 oga ogg opus ra wav wma",
    "subtitles": "ass eaf lrc sbv srt ssa sub textgrid ttml vtt",
    "text": "cfg conf css htm html ini json jsonl log markdown md nfo rst toml txt url xml yaml yml",
    "tables": "csv db feather numbers ods parquet sav sqlite sqlite3 tsv xls xlsm xlsx",
    "arrays": "arrow bin ckpt dta h5 hdf5 hog joblib keras mat msgpack nc npy npz onnx pb pickle pkl pt pth rda "
    "rds safetensors tflite tfrecord tfrecords",
    "archives": "7z bz2 dmg gz iso jar rar tar tbz tgz txz xz z zip zst",
    "documents": "bib doc docm docx epub key odp odt pages pdf ppt pptx rtf tex",
    "code": "bat c cpp dll exe go h hpp ipynb java js m php ps1 py pyc r rb rmd rs sh so sps",
    "camera previews": "lrf lrv",
    "unfinished downloads": "aria2 crdownload download part partial tmp ytdl",
}
KIND_OF = {f".{suffix}": kind for kind, suffixes in KINDS.items() for suffix in suffixes.split()}
PLAYLISTS = {"concat", "dash", "hls", "imf", "sdp"}  # formats: their videos are files of their own
HIDDEN = {"thumbs.db", "desktop.ini"}  # what systems leave
PATIENCE_S = 10.0  # for opening and reading a file of unknown kind
NAMED = 3  # files that one line names


class Inventory(NamedTuple):
    """Everything in a folder.

    Attributes:
        clips: Paths of the clips by key, "/" between the parts of both.
        left_out: One row per other file, and per folder that was not entered: `path` (bytes that are not UTF-8 as
            `\\xe9`), `kind` ("pictures", "sound", …; "ratings" for those that are read) and `problem`: what hinders
            and what to do, "" where there is nothing to be done.
    """

    clips: dict[str, str]
    left_out: pd.DataFrame


def take_inventory(root: Path) -> Inventory:
    """Sort everything below a folder (see `walk_files`) into clips and what is none.

    Of videos with the same key none is a clip: features could be of either. Nor is a file whose name is not UTF-8.
    """
    rows: list[tuple[str, str, str]] = []
    by_key: dict[str, list[str]] = {}
    read = rating_files(root)
    for path, kind in walk_files(root):
        problem = "" if kind or root / path in read else why_not_read(PurePosixPath(path), read)
        if not kind:
            kind = "ratings" if root / path in read else "ratings not read" if problem else kind_of(root / path)
        if kind == "clip" and UNDECODED.search(path):
            kind, problem = "not UTF-8", "its name is not UTF-8: no table could hold it. Rename the file."
        if kind == "clip":
            by_key.setdefault(clip_key(path), []).append(path)
        else:
            rows.append((path, kind, problem))
    for path in [path for paths in by_key.values() for path in paths if _is_copy(path, by_key)]:
        by_key[clip_key(path)].remove(path)
        rows.append((path, "copies", "is called like a video beside it. Rename it if it is another clip."))
    for key, paths in by_key.items():
        if len(paths) > 1:
            problem = f"{' and '.join(paths)} have the same key {key}. Rename or remove all but one."
            rows += [(path, "same key", problem) for path in paths]
    told = [
        [text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for text in row] for row in rows
    ]
    table = pd.DataFrame(told, columns=["path", "kind", "problem"], dtype="str")
    return Inventory({key: paths[0] for key, paths in by_key.items() if len(paths) == 1}, table)


def _is_copy(path: str, by_key: Mapping[str, list[str]]) -> bool:
    """Whether a video of no video's suffix is called like one beside it, as previews and backups are."""
    beside = by_key.get(clip_key(str(PurePosixPath(path).with_suffix(""))), [])
    return not is_video(path) and any(map(is_video, beside))


def kind_of(file: Path) -> str:
    """What a file is: "clip", one of `KINDS`, "hidden", "special file", "link to nothing" or what `look_into` says."""
    name, suffix = file.name.lower(), file.suffix.lower()
    if name in HIDDEN or name.startswith("~$"):
        return "hidden"
    if suffix in KIND_OF:
        return KIND_OF[suffix]
    if not is_regular(file):
        return "special file"
    if is_video(name):
        return "clip"
    return look_into(file) if file.exists() else "link to nothing"


def look_into(file: Path) -> str:
    """What a file of unknown kind holds: "clip", "pictures", "playlists", "text", "sound" or "no video"."""
    local = {"protocol_whitelist": "file"}  # whatever a playlist names
    try:
        if not file.stat().st_size:
            return "empty"
        with av.open(str(file.absolute()), options=local, metadata_errors="replace", timeout=PATIENCE_S) as container:
            return _kind_in(container)
    except PermissionError:
        return "cannot be read"
    except (av.FFmpegError, OSError, ValueError):
        return "no video"


def _kind_in(container: av.container.InputContainer) -> str:
    kind = container.format.name
    if kind in PLAYLISTS:
        return "playlists"
    if kind.endswith("_pipe") or kind in NO_VIDEOS:
        return "text" if kind in ("tty", "ass") else "pictures"
    videos = [s for s in container.streams.video if not s.disposition & STILLS and s.codec_context and s.width]
    pictures = Counter()
    for packet in container.demux(videos) if videos else ():
        pictures[packet.stream] += packet.size > 0
        if pictures[packet.stream] == 2:
            return "clip"
    return "pictures" if videos else "sound" if container.streams.audio else "no video"


def as_line(n_clips: int, left_out: pd.DataFrame, where: str | Path = "") -> str:
    """What was seen, used and left out, in one line; `where`: the file that lists it.

    Files that want a hand, and those that had to be opened, are named; what looks like ratings with what to do.
    """
    others = left_out[left_out["kind"] != "ratings"]
    parts = []
    for kind, these in sorted(others.groupby("kind"), key=lambda group: -len(group[1])):
        named = kind in ("no video", "cannot be read") or (these["problem"] != "").any()
        names = f": {', '.join(these['path'][:NAMED])}{', …' if len(these) > NAMED else ''}" if named else ""
        parts.append(f"{len(these):,} {kind}{names}")
    n_ratings = len(left_out) - len(others)
    of_ratings = f", {n_ratings} of ratings" if n_ratings else ""
    not_used = f"{len(others):,} left out ({'; '.join(parts)})" if parts else "none left out"
    said = [f"seen {n_clips + len(left_out):,} files: {n_clips:,} clips{of_ratings}, {not_used}"]
    said += [f"list: {where}"] if where else []
    for row in others[others["kind"] == "ratings not read"][:1].itertuples():
        said.append(f"{row.path} {row.problem.rstrip('.')}")
    return "; ".join(said)


def write_rows(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table without index as CSV, atomically: what was left out, or what was matched."""
    with replacing(path) as part:
        table.to_csv(part, index=False)
