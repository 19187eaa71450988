"""Where the time goes: seconds by what was done in them, and those in which any of several threads was at work."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
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


class BusyTime:
    """Seconds in which at least one thread was inside a `with` of this object."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside, self._since_s, self._spent_s = 0, 0.0, 0.0

    def __enter__(self) -> None:
        with self._lock:
            self._since_s = self._since_s if self._inside else time.perf_counter()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            self._spent_s += 0.0 if self._inside else time.perf_counter() - self._since_s

    @property
    def seconds(self) -> float:
        """So far."""
        with self._lock:
            return self._spent_s + (time.perf_counter() - self._since_s if self._inside else 0.0)
