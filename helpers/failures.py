"""What becomes of an error: it is one clip's, whatever its class, or it ends the run; and how many clips were left out.

In: what was raised, where a clip is worked on. Out: the clip's reason in one line for the list, or the error again.
Nothing here is slow to import: decoder processes use it.
"""

import errno
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from textwrap import shorten

from helpers.files import disk_full
from helpers.workers import PoolError, WorkerError

LONGEST = 400  # characters of a reason
KINDS, SHOWN = 5, 70  # of reasons in a line, and characters of each
VARYING = re.compile(r"(?<!\w)/[^'\"]*[^'\". ]|\b0x[0-9a-f]+\b|\d+(?:[.,]\d+)*")  # paths and numbers


class ClipError(ValueError):
    """What is wrong with a clip, in words for the list; it needs no traceback."""


class RepeatedError(RuntimeError):
    """Many clips failed alike: that is not theirs; the message says how, how many, and what to do."""


OF_RUN = (KeyboardInterrupt, SystemExit, GeneratorExit, PoolError, RepeatedError)


def reason_of(error: BaseException, name: str = "") -> str:
    """Say in one line why the clip called `name` cannot be used.

    Raises:
        BaseException: The same error, where it is the run's: an interrupt, a full or read-only disk, processes that do
            not start, the same failure in clip after clip.
    """
    if isinstance(error, OF_RUN) or disk_full(error, Path(name)) or getattr(error, "errno", None) == errno.EROFS:
        raise error
    text = ""
    with suppress(Exception):  # an error of the error's own
        text = str(error).removeprefix(f"{name}: ")[: 4 * LONGEST]
    text = "".join(c if c.isprintable() else " " for c in text)
    if not (text and isinstance(error, ClipError | WorkerError)):
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return shorten(text, LONGEST, placeholder=" …")


def kind_of(reason: str) -> str:
    """What reasons that are alike but for numbers and details have in common: "no face found in … frames"."""
    return re.split(r" \(|[.;] ", VARYING.sub("…", reason), maxsplit=1)[0][:SHOWN]


def by_kind(reasons: Iterable[str]) -> str:
    """Count reasons that are alike: "3 no face found in … frames, 1 the file is empty"."""
    kinds = Counter(map(kind_of, reasons)).most_common()
    others = sum(n for _, n in kinds[KINDS:])
    return ", ".join([f"{n} {kind}" for kind, n in kinds[:KINDS]] + [f"{others} of other kinds"] * bool(others))
