"""Which clip a name in a file of ratings means, by which rule, and why a name means none.

In: names as people keep them (keys, file names, paths of another computer) and the table of clips. Out: one row per
name. Rules go from strict to loose; a loose one counts only where it leaves one clip.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from helpers.names import clip_key, fitting_keys

ABSOLUTE = re.compile(r"(?:/|~|\.\./|[a-z]:|[a-z]+://)", re.I)  # how a path begins that is no path below the folder
NUMBER = re.compile(r"0*([0-9]+)(?:\.0+)?")  # 1, 001, and 1.0 as spreadsheets write it
NONE = "there is no such clip"
SHOWN = 5  # names in one line

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
    splits = list(name_splits) if name_splits is not None else [""] * len(names)
    keys, of_split = find_keys(names, clips["split"].to_dict(), splits), clips["split"]
    asked = dict.fromkeys(zip(names, splits, strict=True))
    found = dict(zip(zip(names, splits, strict=True), keys, strict=True))
    rules = {pair: ("key" if clip_key(pair[0]) == key else "file name") if key else "" for pair, key in found.items()}
    for rule in _rules(Path(root), dict(zip(clips["path"], clips.index, strict=True))):
        if not (left := [pair for pair in asked if not found[pair]]):
            break
        forms: dict[str, list[str]] = {}
        for key in clips.index.difference(set(found.values()) if rule.unnamed else [], sort=False):
            for form in dict.fromkeys(rule.of_key(key)):
                forms.setdefault(form, []).append(key)
        for pair in left:
            fitting = next((forms[form] for form in rule.of_name(_tidied(pair[0])) if form in forms), [])
            fitting = [key for key in fitting if not pair[1] or of_split[key] in ("", pair[1])]
            if len(fitting) == 1:
                found[pair], rules[pair] = fitting[0], rule.label
            elif fitting:
                rules[pair] = f"fits {fitting[0]} and {fitting[1]}"
    rows = [(pair[0], found[pair], rules[pair] or NONE) for pair in zip(names, splits, strict=True)]
    return pd.DataFrame(rows, columns=["name", "key", "rule"], dtype="str")


def find_keys(names: Iterable[str], splits: Mapping[str, str], name_splits: Iterable[str]) -> list[str]:
    """Find the clip that each name means as a key, or as the end of one.

    Args:
        names: As `fitting_keys` takes them.
        splits: The split of each key there is, "" where it is unknown.
        name_splits: For each name the split its clip is known to be in, or "". Clips of other splits are passed over.

    Returns:
        A key per name; "" where there is no such clip.

    Raises:
        ValueError: a name that fits more than one clip.
    """
    names, keys = list(names), []
    for name, candidates, split in zip(names, fitting_keys(names, splits), name_splits, strict=True):
        fitting = [key for key in candidates if not split or splits[key] in ("", split)]
        if len(fitting) > 1:
            raise ValueError(f"{name!r} must name one clip, got {fitting[0]} and {fitting[1]}. Call it by its key.")
        keys.append(fitting[0] if fitting else "")
    return keys


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
    path = name.strip().strip("\"'").replace("\\", "/").removeprefix("./")
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
