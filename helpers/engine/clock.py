"""Where the time goes: seconds by what was done in them."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class Clock:
    """Seconds by what was done in them."""

    def __init__(self) -> None:
        self._spent_s: dict[str, float] = {}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self._spent_s[what] = self._spent_s.get(what, 0.0) + time.perf_counter() - started_s

    def each(self, what: str, items: Iterable[Any]) -> Iterator[Any]:
        """The items; the time in which the next one is made counts."""
        items, end = iter(items), object()
        while True:
            with self(what):
                item = next(items, end)
            if item is end:
                return
            yield item

    def read(self) -> dict[str, float]:
        """What was counted since the last time."""
        spent_s, self._spent_s = self._spent_s, {}
        return spent_s
