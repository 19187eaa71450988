"""What the benchmarks share: runs in alternation, ratios, and one table on the screen and as JSON.

In: functions to time. Out: seconds per round, and ratios to a limit or a peer of the same run, because seconds alone
say more about the machine, and about what else it does, than about the code.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from helpers.files import write_json

Item = TypeVar("Item")
Way = TypeVar("Way")  # what a way is called


def within(limit_s: float, items: Iterable[Item]) -> Iterator[Item]:
    """Yield items until `limit_s` seconds have passed, the first one in any case."""
    end = time.monotonic() + limit_s
    for item in items:
        yield item
        if time.monotonic() >= end:
            return


def timed(run: Callable[[], Any]) -> float:
    """Return the seconds that one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def alternate(ways: dict[Way, Callable[[], Any]], rounds: int, *, limit_s: float = 240.0) -> dict[Way, list[float]]:
    """Time every way once per round, in turning order, so that each meets the same machine.

    Args:
        ways: Name to function, already warmed up where the first call is another than the rest.
        rounds: How many, at least 1.
        limit_s: No round begins after so many seconds.

    Returns:
        Name to the seconds of each round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}. Ask for one or more.")
    seconds: dict[Way, list[float]] = {name: [] for name in ways}
    for number in within(limit_s, range(rounds)):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            seconds[name].append(timed(ways[name]))
    return seconds


def ratio(a: list[float], b: list[float]) -> float:
    """Return the median over rounds of a / b: pairs of one round share what disturbed them."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def minus(a: list[float], b: list[float]) -> list[float]:
    """Return a - b per round: the time of what `a` does and `b` does not."""
    return [x - y for x, y in zip(a, b, strict=True)]


def options_of(docstring: str) -> argparse.ArgumentParser:
    """Return a parser that shows the benchmark's docstring and knows `--json`."""
    parser = argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write settings, machine and rows here as well")
    return parser


def report(rows: list[dict[str, Any]], columns: dict[str, str], options: argparse.Namespace, **more: Any) -> None:
    """Print the rows as a table under one line about the machine, and write them where `--json` says.

    Args:
        rows: One dict per line of the table; what is not in `columns` goes into the JSON only.
        columns: Name to how its values are printed, such as "{:.2f}".
        options: What the benchmark was called with.
        more: Further entries of the JSON.
    """
    from helpers.device import list_devices  # late: decoder processes import benchmarks, and need no TensorFlow

    devices = list_devices()[["backend", "kind", "name", "cores"]].to_dict("records")
    machine = {"devices": devices, "load_per_core": round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)}
    names = ", ".join(f"{d['kind']} {d['name']}" + (f" ({d['cores']} cores)" if d["cores"] else "") for d in devices)
    print(f"{names}, {devices[0]['backend']}, load {machine['load_per_core']} per core")
    cells = [{name: form.format(row[name]) if name in row else "" for name, form in columns.items()} for row in rows]
    print(pd.DataFrame(cells).to_string(index=False), flush=True)
    if options.json:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k != "json"}
        write_json(options.json, {"settings": settings, "machine": machine, "rows": rows, **more})
