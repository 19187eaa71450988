"""How far a stage is and how fast: a bar where someone looks at it, a line in the run's `progress.log` every minute.

The log is for runs without a screen: `tail -f results/<run>/progress.log`.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from tqdm.auto import tqdm

log = logging.getLogger(__name__)

LINE_S = 60.0  # between two lines in the log
FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class Progress:
    """Counts the clips and rows of a stage; used as `with`.

    Args:
        name: Of the stage.
        total: Clips.
        folder: Of the run.
        shown: Show a bar.
        network_s: Gives the seconds that the network has worked so far; None where there is none.
        usage: Gives words about memory and load for the log, such as `Monitor.in_words`.
    """

    def __init__(
        self,
        name: str,
        total: int,
        folder: Path,
        *,
        shown: bool,
        network_s: Callable[[], float] | None = None,
        usage: Callable[[], str] | None = None,
    ):
        self._name, self._total, self._folder = name, total, folder
        self._network_s, self._usage = network_s, usage
        self._bar = tqdm(total=total, desc=name, disable=not shown, bar_format=FORMAT)
        self._started_s = self._told_s = time.monotonic()
        self._done = self._made = self._rows = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._tell(f"{'done' if self._done == self._total else 'stopped'} after {self._elapsed()}")

    def clip(self, n_rows: int = 0, *, made: bool = True) -> None:
        """Count a clip; one that was there already, or cannot be used, is not `made`."""
        self._done += 1
        self._made += made
        self._rows += n_rows
        self._bar.set_postfix_str(self._speed(), refresh=False)
        self._bar.update()
        if time.monotonic() - self._told_s >= LINE_S:
            self._told_s = time.monotonic()
            self._tell(f"{self.left()} left")

    def left(self) -> timedelta | str:
        """Time until the end, to the second, if it goes on as it went; "?" before the first clip is made."""
        if not self._made:
            return "?"
        elapsed_s = time.monotonic() - self._started_s
        return timedelta(seconds=round(elapsed_s / self._made * (self._total - self._done)))

    def _elapsed(self) -> timedelta:
        return timedelta(seconds=round(time.monotonic() - self._started_s))

    def _tell(self, when: str) -> None:
        line = f"{self._name}: {self._done} of {self._total} clips, {self._speed()}, {when}" + (
            f"; {self._usage()}" if self._usage else ""
        )
        log.info("%s", line)
        with suppress(OSError), open(self._folder / "progress.log", "a", encoding="utf-8") as file:  # no run ends here
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")

    def _speed(self) -> str:
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        told = [f"{self._made / elapsed_s:.2f} clips/s"]
        if self._network_s:
            told += [f"{self._rows / elapsed_s:.1f} rows/s", f"network {self._network_s() / elapsed_s:.0%}"]
        return ", ".join(told)
