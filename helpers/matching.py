"""Which clip a name in a file of ratings means, by which rule, and why a name means none.

In: names as people keep them (keys, file names, paths of another computer) and the table of clips. Out: one row per
name. Rules go from strict to loose; a loose one counts only where it leaves one clip.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd

from helpers.names import NO_CLIP, clip_key, ends, spellings, tidied

ABSOLUTE = re.compile(r"(?:/|~|\.\./|[a-z]:|[a-z]+://)", re.I)  # how a path begins that is no path below the folder
NUMBER = re.compile(r"0*([0-9]+)(?:\.0+)?")  # 1, 001, and 1.0 as spreadsheets write it
SEVERAL = "is the name of"  # begins the reason of a name that is the end of several keys
SHOWN = 5  # names in one line

Forms = Callable[[str], Iterable[str]]
Rule = tuple[str, Forms, Forms]  # a name means the clip whose key shares a form with it; forms are tried in order


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
    """
    names = list(names)
    pairs = list(zip(names, [""] * len(names) if name_splits is None else name_splits, strict=True))
    found = dict.fromkeys(pairs, ("", NO_CLIP))  # key and rule by name and split
    for rule, of_name, of_key in _rules(Path(root), clips):
        if not (left := [pair for pair, (_, why) in found.items() if why == NO_CLIP]):
            break
        # Where the folders of a path are passed over, only clips count that no stricter rule has found.
        taken = [key for key, _ in found.values()] if "file name of" in rule else []
        forms: dict[str, list[str]] = {}
        for key in clips.index.difference(taken, sort=False):
            for form in dict.fromkeys(of_key(key)):
                forms.setdefault(form, []).append(key)
        for name, split in left:
            spelled = of_name(name if of_name is spellings else clip_key(tidied(name)))
            fitting = next((forms[form] for form in spelled if form in forms), [])
            if fitting := [key for key in fitting if not split or clips.at[key, "split"] in ("", split)]:
                why = f"{SEVERAL if rule == 'file name' else 'fits'} {' and '.join(fitting[:2])}"
                found[name, split] = (fitting[0], rule) if len(fitting) == 1 else ("", why)
    rows = [(name, *found[name, split]) for name, split in pairs]
    return pd.DataFrame(rows, columns=["name", "key", "rule"], dtype="str")


def _rules(root: Path, clips: pd.DataFrame) -> Iterator[Rule]:
    """The rules, strictest first; what fits several clips by one is not settled by a looser one."""
    folder = root.absolute().parts

    def below(name: str) -> Iterator[str]:  # ends of a path of another computer, or from the folder above the data
        parts = name.split("/")
        for i in range(1, len(parts)):
            if ABSOLUTE.match(name) or tuple(parts[:i]) == folder[-i:]:
                yield "/".join(parts[i:])

    def file_name(name: str) -> list[str]:
        return [name.rpartition("/")[2]] if ABSOLUTE.match(name) else []

    def without_suffix(key: str) -> Iterable[str]:  # only of a file of unknown suffix, which its key has kept
        stem, _, suffix = key.rpartition(".")
        return ends(stem) if suffix[:1].isalpha() and clips.at[key, "path"] == key else []

    def number(name: str) -> list[str]:
        folder, _, last = name.rpartition("/")
        return [f"{folder}/{match[1]}"] if (match := NUMBER.fullmatch(last)) else []

    yield "key", spellings, _alone
    yield "file name", spellings, ends
    yield "other case", _folded(_alone), _folded(ends)
    for rule, of_name, of_key in [("path", below, _alone), ("file name of a path", file_name, ends)]:
        yield rule, of_name, of_key
        yield f"{rule}, other case", _folded(of_name), _folded(of_key)
    yield "without suffix", _alone, without_suffix
    yield "same number", number, lambda key: (form for end in ends(key) for form in number(end))
    folders = _folded(lambda key: filter(None, ends(key.rpartition("/")[0])))
    yield "only clip of its folder", _folded(_alone), folders


def _alone(text: str) -> list[str]:
    return [text]


def _folded(forms: Forms) -> Forms:
    return lambda text: [form.casefold() for form in forms(text)]


def as_lines(matched: pd.DataFrame, what: str = "ratings") -> list[str]:
    """How many names were matched by which rule, and which fit no clip: a line each."""
    fits = matched["key"] != ""
    rules = sorted(matched.loc[fits, "rule"].value_counts().items(), key=lambda each: (-each[1], each[0]))
    by = f" ({', '.join(f'{n:,} by {rule}' for rule, n in rules)})" if rules else ""
    lines = [f"{what}: {fits.sum():,} names matched{by}"]
    lost = matched.loc[~fits].drop_duplicates("name")
    if len(lost):
        why = lost["rule"].map(lambda reason: "" if reason == NO_CLIP else f" ({reason})")
        named = ", ".join((lost["name"] + why)[:SHOWN])
        lines.append(f"{what}: {len(lost):,} names fit no clip: {named}{', …' if len(lost) > SHOWN else ''}")
    return lines if len(matched) else []
