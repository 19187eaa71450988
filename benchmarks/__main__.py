"""Run every benchmark in turn, each in a process of its own: `python -m benchmarks [--json FOLDER]`.

Each can be run by itself, with settings: `python -m benchmarks.static --help`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from helpers.files import ROOT

BENCHMARKS = (
    "static",
    "dynamic",
    "flow",
    "memory",
    "training",
    "decode",
    "damaged",
    "prepare",
    "resume",
    "machine",
    "calibration",
)


def main(argv: list[str] | None = None, names: tuple[str, ...] = BENCHMARKS) -> int:
    """Return 0, or 1 when a benchmark failed; the others have run all the same."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write <benchmark>.json into this folder as well")
    folder = parser.parse_args(argv).json
    failed = []
    for name in names:
        print(f"\n== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        if folder:
            command += ["--json", str(folder.resolve() / f"{name}.json")]
        if subprocess.run(command, cwd=ROOT).returncode:
            failed.append(name)
    if failed:
        print(f"error: {', '.join(failed)} failed, see above", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
