"""How far a stage is and how fast: one bar where someone looks at it, otherwise a line in the log every minute."""

import logging
import time
from collections.abc import Callable
from datetime import timedelta

from tqdm.auto import tqdm

log = logging.getLogger(__name__)

LINE_S = 60.0  # between two lines in the log
FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class Progress:
    """Counts the clips and rows of a stage; used as `with`.

    Args:
        name: Of the stage.
        total: Clips.
        shown: Show a bar; otherwise lines go to the log.
        network_s: Gives the seconds that the network has worked so far; None where there is none.
    """

    def __init__(self, name: str, total: int, *, shown: bool, network_s: Callable[[], float] | None = None):
        self._name, self._total, self._network_s = name, total, network_s
        self._bar = tqdm(total=total, desc=name, disable=not shown, bar_format=FORMAT)
        self._started_s = self._told_s = time.monotonic()
        self._done = self._made = self._rows = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def clip(self, n_rows: int = 0, *, made: bool = True) -> None:
        """Count a clip; one that was there already, or cannot be used, is not `made`."""
        self._done += 1
        self._made += made
        self._rows += n_rows
        self._bar.set_postfix_str(self._speed(), refresh=False)
        self._bar.update()
        now_s = time.monotonic()
        if self._bar.disable and now_s - self._told_s >= LINE_S:
            self._told_s = now_s
            log.info("%s: %d of %d clips, %s, %s left", self._name, self._done, self._total, self._speed(), self.left())

    def left(self) -> timedelta | str:
        """Time until the end, to the second, if it goes on as it went; "?" before the first clip is made."""
        if not self._made:
            return "?"
        elapsed_s = time.monotonic() - self._started_s
        return timedelta(seconds=round(elapsed_s / self._made * (self._total - self._done)))

    def _speed(self) -> str:
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        told = [f"{self._made / elapsed_s:.2f} clips/s"]
        if self._network_s:
            told += [f"{self._rows / elapsed_s:.1f} rows/s", f"network {self._network_s() / elapsed_s:.0%}"]
        return ", ".join(told)
