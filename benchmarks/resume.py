"""Does a run that is killed at any instant end with the files of a run that was left alone?

Shipped clips go through the work of notebooks 02, 03 and 04, with networks that only rearrange their input: it is the
rest that is asked. A run is killed (SIGKILL) in the midst of writing: a random number of files after its first, and
then at once when a temporary file is seen, or after a random part of the time until the next. The next run goes on in
the same folder, and is killed in turn; the last of such a chain ends by itself. After every kill the files that are
there must be those of the run that was left alone, byte by byte, and at the end of a chain none may be missing or left
over, and the manifests be equal but for their times, and for which run made a clip. `identical` counts the kills of
which all this holds; not all is exit status 1. Not for Windows.

    python -m benchmarks.resume [--kills N] [--clips N] [--seed S] [--json FILE]
"""

import multiprocessing
import os
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.alternation import options_of, report
from benchmarks.rearranged import DATA, extract_all
from helpers.clips import find_clips
from helpers.files import PART, differences, read_json

AWKWARD = ("no_face", "face_leaving")  # so that manifests have a failed clip and failed rows to agree on
STAGES = ("faces", "static", "dynamic")
MAX_CHAIN = 5  # kills of one folder, at most
LOOK_S = 0.0005  # between two looks at the folder; a file takes some milliseconds to write
LIMIT_S = 480.0  # no chain begins later
COLUMNS = {"chain": "{}", "killed_in": "{}", "files": "{}", "unfinished": "{}", "identical": "{}", "differs": "{}"}


def start_run(clips: pd.DataFrame, out: Path) -> BaseProcess:
    """Start the run in a process of its own; all are forked from one that has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.rearranged"])
    process = context.Process(target=extract_all, args=(clips, out))
    process.start()
    return process


@contextmanager
def running(clips: pd.DataFrame, out: Path) -> Iterator[BaseProcess]:
    """A run, which does not outlive the `with`."""
    process = start_run(clips, out)
    try:
        yield process
    finally:
        process.kill()
        process.join()


def look(out: Path) -> tuple[list[str], list[str]]:
    """Feature files, and temporary files, below a folder by their names in it."""
    files, parts = [], []
    for folder, _, names in os.walk(out):
        for name in names:
            if name.startswith(PART):
                parts.append(os.path.relpath(os.path.join(folder, name), out))
            elif name.endswith(".npz"):
                files.append(os.path.relpath(os.path.join(folder, name), out))
    return files, parts


def wait_until(condition: Callable[[list[str], list[str]], bool], process: BaseProcess, out: Path) -> bool:
    """Look at the folder until the condition on its files and temporary files holds; False if the run ended before."""
    while process.is_alive():
        if condition(*look(out)):
            return True
        time.sleep(LOOK_S)
    return False


def is_in_midst(process: BaseProcess, out: Path, n_whole: int, gap_s: float, r: np.random.Generator) -> bool:
    """Wait for a random instant of a run's writing; False if it ended before.

    Args:
        process: The run.
        out: Its folder.
        n_whole: Feature files of a whole run.
        gap_s: Seconds from one to the next.
        r: Chooses the instant.
    """
    files, left = look(out)  # what an earlier kill left goes when the run begins to write: it is no sign of writing
    there = len(files)
    wanted = there + int(r.integers(0, max(1, n_whole - there)))
    in_midst, pause_s = bool(r.integers(2)), float(r.uniform(0, gap_s))

    def writes(files: list[str], parts: list[str]) -> bool:
        return not set(parts) <= set(left)

    def is_there(files: list[str], parts: list[str]) -> bool:
        return len(files) >= wanted and (len(files) > there or writes(files, parts))

    if not wait_until(is_there, process, out):
        return False
    if in_midst:
        return wait_until(writes, process, out)
    process.join(pause_s)
    return process.is_alive()


def contents(out: Path) -> dict[str, bytes]:
    """Name and bytes of every feature file."""
    return {name: (out / name).read_bytes() for name in look(out)[0]}


def manifests(out: Path) -> dict[str, Any]:
    """The manifest of every stage without seconds, which run made a clip, and whether someone edits the code now."""
    found = {stage: read_json(out / stage / "manifest.json") for stage in STAGES}
    for manifest in found.values():
        del manifest["seconds"], manifest["code_version"]
        manifest["counts"]["done"] = manifest["counts"].pop("made") + manifest["counts"].pop("found")
    return found


def difference(out: Path, whole: Path, *, ended: bool) -> str:
    """In what a killed run's folder, or one where a run has ended since, differs from the whole one's."""
    ours, theirs = contents(out), contents(whole)
    wrong = sorted(name for name, data in ours.items() if data != theirs.get(name))
    if wrong or not ended:
        return ", ".join(wrong)
    missing, left = sorted(theirs.keys() - ours.keys()), look(out)[1]
    if missing or left:
        return f"missing: {missing}, left over: {left}"
    return "; ".join(differences(manifests(out), manifests(whole)))


def run_chain(
    clips: pd.DataFrame, out: Path, whole: Path, n_kills: int, gap_s: float, r: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Kill up to so many runs in one folder, then let one end; yields a row per kill once all are judged."""
    rows, n_whole = [], len(look(whole)[0])
    for _ in range(n_kills):
        with running(clips, out) as process:
            found = is_in_midst(process, out, n_whole, gap_s, r)
        if not found or process.exitcode == 0:
            break
        files, parts = look(out)
        stage = next((name for name in reversed(STAGES) if (out / name).exists()), STAGES[0])
        counts = {"files": len(files), "unfinished": len(parts)}
        rows.append({"killed_in": stage} | counts | {"differs": difference(out, whole, ended=False)})
    with running(clips, out) as process:
        process.join()
    at_end = f"exit status {process.exitcode}" if process.exitcode else difference(out, whole, ended=True)
    for row in rows:
        differs = row["differs"] or at_end
        yield row | {"identical": not differs, "differs": differs}


def measure(clips: pd.DataFrame, options: Namespace) -> list[dict[str, Any]]:
    """Let one run alone, then kill others until there were enough kills, or the time is up."""
    r, rows, begun_s = np.random.default_rng(options.seed), [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        with running(clips, whole) as process:
            process.join()
        if process.exitcode:
            raise RuntimeError(f"the run that was left alone ended with exit status {process.exitcode}.")
        ends_s = sorted((whole / name).stat().st_mtime for name in look(whole)[0])
        gap_s = float(np.median(np.diff(ends_s)))
        chain = 0
        while len(rows) < options.kills and time.monotonic() < begun_s + LIMIT_S:
            chain += 1
            n_kills = min(int(r.integers(1, MAX_CHAIN + 1)), options.kills - len(rows))
            found = run_chain(clips, Path(folder) / str(chain), whole, n_kills, gap_s, r)
            rows += [{"chain": chain} | row for row in found]
    return rows


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = options_of(__doc__)
    parser.add_argument("--kills", type=int, default=30, metavar="N", help="default: 30")
    parser.add_argument("--clips", type=int, default=4, metavar="N", help="besides two awkward ones (default: 4)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the instants (default: 0)")
    options = parser.parse_args(argv)
    if options.kills < 1 or options.clips < 1:
        raise ValueError(f"--kills and --clips must be at least 1, got {options.kills} and {options.clips}.")
    clips = find_clips(DATA)
    clips = pd.concat([clips[clips["split"] != ""].iloc[: options.clips], clips.loc[clips.index.str.endswith(AWKWARD)]])
    rows = measure(clips, options)
    n_identical = sum(row["identical"] for row in rows)
    n_unfinished = sum(row["unfinished"] > 0 for row in rows)
    report(rows, COLUMNS, options, kills=len(rows), identical=n_identical, kills_in_a_file=n_unfinished)
    print(f"{len(rows)} kills, {n_unfinished} of them in the midst of a file; identical after {n_identical}")
    return 0 if n_identical == len(rows) >= options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
