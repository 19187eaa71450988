"""Which clip a name in a file of ratings means, by which rule, and why a name means none.

In: names as people keep them (keys, file names, paths of another computer) and the table of clips. Out: one row per
name. Rules go from strict to loose; a loose one counts only where it leaves one clip.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from helpers.names import clip_key, fitting_keys

ABSOLUTE = re.compile(r"(?:/|~|\.\./|[a-z]:|[a-z]+://)", re.I)  # how a path begins that is no path below the folder
NUMBER = re.compile(r"0*([0-9]+)(?:\.0+)?")  # 1, 001, and 1.0 as spreadsheets write it
NONE = "there is no such clip"
SHOWN = 5  # names in one line
COLUMNS = ["name", "key", "rule"]

Forms = Callable[[str], Iterable[str]]


class Rule(NamedTuple):
    """A loose rule: a name means the clip that shares a form with it; forms are tried in order.

    With `unnamed` it counts for clips only that no stricter rule has found: the folders of a path were passed over.
    """

    label: str
    of_name: Forms
    of_key: Forms
    unnamed: bool = False


def match_names(
    names: Iterable[str], clips: pd.DataFrame, name_splits: Iterable[str] | None = None, root: str | Path = ""
) -> pd.DataFrame:
    """Find the clip that each name means.

    Args:
        names: As they stand in a file.
        clips: Index key, columns `path` and `split` ("" where it is unknown), see `clips.find_clips`.
        name_splits: For each name the split its clip is known to be in, or "". Clips of other splits are passed over.
        root: The data folder: relative names may begin with its own.

    Returns:
        One row per name, in their order: `name`, `key` and `rule`; where it fits no clip `key` is "", and `rule` the
        reason.

    Raises:
        ValueError: a key or file name that fits more than one clip.
    """
    names = list(names)
    pairs = list(zip(names, name_splits if name_splits is not None else [""] * len(names), strict=True))
    found: dict[tuple[str, str], tuple[str, str]] = {}  # key and rule by name and split
    for (name, split), fitting in zip(pairs, fitting_keys(names, clips.index), strict=True):
        fitting = _of_split(fitting, split, clips)
        if len(fitting) > 1:
            raise ValueError(f"{name!r} must name one clip, got {fitting[0]} and {fitting[1]}. Call it by its key.")
        found[name, split] = (
            ("", NONE) if not fitting else (fitting[0], "key" if _tidied(name) == fitting[0] else "file name")
        )
    for loose in _rules(Path(root), dict(zip(clips["path"], clips.index, strict=True))):
        if not (left := [pair for pair, (key, _) in found.items() if not key]):
            break
        forms: dict[str, list[str]] = {}
        for key in clips.index.difference([key for key, _ in found.values()] if loose.unnamed else [], sort=False):
            for form in dict.fromkeys(loose.of_key(key)):
                forms.setdefault(form, []).append(key)
        for name, split in left:
            fitting = next((forms[form] for form in loose.of_name(_tidied(name)) if form in forms), [])
            if fitting := _of_split(fitting, split, clips):
                unclear = "", f"fits {' and '.join(fitting[:2])}"
                found[name, split] = (fitting[0], loose.label) if len(fitting) == 1 else unclear
    return pd.DataFrame([(name, *found[name, split]) for name, split in pairs], columns=COLUMNS, dtype="str")


def _of_split(keys: Sequence[str], split: str, clips: pd.DataFrame) -> list[str]:
    return [key for key in keys if not split or clips.at[key, "split"] in ("", split)]


def _rules(root: Path, by_path: Mapping[str, str]) -> Iterator[Rule]:
    """The loose rules, strictest first."""
    folder = root.absolute().parts if str(root) else ()

    def below(name: str) -> Iterator[str]:  # ends of a path of another computer, or from the folder above the data
        parts = name.split("/")
        for i in range(1, len(parts)):
            if ABSOLUTE.match(name) or tuple(parts[:i]) == folder[-i:]:
                yield "/".join(parts[i:])

    def file_name(name: str) -> Iterator[str]:
        if ABSOLUTE.match(name):
            yield name.rpartition("/")[2]

    def without_suffix(key: str) -> Iterator[str]:  # only of a file of unknown suffix, which its key has kept
        if by_path.get(key) == key and re.fullmatch(r"\.[a-z]\w*", PurePosixPath(key).suffix, re.I):
            yield from _ends(key.rpartition(".")[0])

    def number(name: str) -> Iterator[str]:
        if match := NUMBER.fullmatch(name.rpartition("/")[2]):
            yield name.rpartition("/")[0] + "/" + match[1]

    strict = [Rule("path", below, lambda key: [key]), Rule("file name of a path", file_name, _ends, unnamed=True)]
    yield from strict
    yield Rule("other case", lambda name: [name.casefold()], _folded(_ends))
    for label, of_name, of_key, unnamed in strict:
        yield Rule(f"{label}, other case", _folded(of_name), _folded(of_key), unnamed)
    yield Rule("without suffix", lambda name: [name], without_suffix)
    yield Rule("same number", number, lambda key: (form for end in _ends(key) for form in number(end)))


def _folded(forms: Forms) -> Forms:
    return lambda text: [form.casefold() for form in forms(text)]


def _ends(key: str) -> Iterator[str]:
    """A key, and the key without its first folder, and so on."""
    parts = key.split("/")
    return ("/".join(parts[first:]) for first in range(len(parts)))


def _tidied(name: str) -> str:
    path = name.strip().replace("\\", "/").removeprefix("./")
    return unicodedata.normalize("NFC", clip_key(path))


def as_lines(matched: pd.DataFrame, what: str = "ratings") -> list[str]:
    """How many names were matched by which rule, and which fit no clip: a line each."""
    fits = matched["key"] != ""
    rules = sorted(matched.loc[fits, "rule"].value_counts().items(), key=lambda each: (-each[1], each[0]))
    by = f" ({', '.join(f'{n:,} by {rule}' for rule, n in rules)})" if rules else ""
    lines = [f"{what}: {fits.sum():,} names matched{by}"]
    lost = matched.loc[~fits].drop_duplicates("name")
    if len(lost):
        why = lost["rule"].map(lambda reason: "" if reason == NONE else f" ({reason})")
        named = ", ".join((lost["name"] + why)[:SHOWN])
        lines.append(f"{what}: {len(lost):,} names fit no clip: {named}{', …' if len(lost) > SHOWN else ''}")
    return lines if len(matched) else []
