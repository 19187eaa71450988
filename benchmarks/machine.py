"""How fast is this machine, and how fast is that one?

The operations that the networks are made of (matrix product, 2-D and 3-D convolution), then ResNet-50 in images per
second and I3D in clips per second over growing batches, up to the first that memory does not hold. Here nothing is
compared within one run: the peer is another machine. `--json` stamps the figures with this one, and `--compare` puts
two such files side by side.

    python -m benchmarks.machine [--json FILE]
    python -m benchmarks.machine --compare A.json B.json
"""

import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.alternation import options_of, report
from helpers.device import benchmark_operation, network_rates, use_device
from helpers.files import read_json
from helpers.forward import PRECISIONS

COLUMNS = {"name": "{}", "unit": "{}", "batch": "{}", "per_s": "{:.1f}"}


def compare_machines(one: dict[str, Any], other: dict[str, Any]) -> pd.DataFrame:
    """Put what `benchmarks.machine` wrote on two machines side by side.

    Args:
        one, other: Its JSON: `rows` with name, unit, batch and per_s.

    Returns:
        What both measured, in the order of `one`: name, unit, batch, `one_per_s`, `other_per_s` and `ratio` (other /
        one: above 1 the other is faster; NaN where one of them ran out of memory).
    """
    keys = ["name", "unit", "batch"]
    tables = [pd.DataFrame(part["rows"])[[*keys, "per_s"]].astype({"per_s": float}) for part in (one, other)]
    both = tables[0].merge(tables[1], on=keys, suffixes=("_one", "_other"))
    if both.empty:
        raise ValueError("the two files must have rows in common, got none. Measure both with the same settings.")
    both = both.rename(columns={"per_s_one": "one_per_s", "per_s_other": "other_per_s"})
    return both.assign(ratio=both["other_per_s"] / both["one_per_s"])


def operations(options: Namespace) -> list[dict[str, Any]]:
    """Return a row per operation, its work per second."""
    how = {"repeats": options.repeats, "dtype": options.precision}
    timings = [benchmark_operation("matmul", size=options.size, **how)]
    timings += [benchmark_operation(kind, **how) for kind in ("conv2d", "conv3d")]
    return [{"name": t["name"], "unit": "GFLOP/s", "batch": 1, "per_s": t["gflop_per_s"]} for t in timings]


def networks(options: Namespace) -> list[dict[str, Any]]:
    """Return a row per network and batch size; what is not known of it is left out."""
    how = {name: getattr(options, name) for name in ("batches", "clips", "precision", "repeats", "endpoint", "px")}
    rows = network_rates(**how).rename(columns={"network": "name"}).to_dict("records")
    return [{key: value for key, value in row.items() if pd.notna(value) and value != ""} for row in rows]


def compare(files: list[Path]) -> None:
    """Print two files of `--json` side by side."""
    one, other = (read_json(file) for file in files)
    for letter, result in zip("AB", (one, other), strict=True):
        names = ", ".join(f"{d['kind']} {d['name']}" for d in result["machine"]["devices"])
        print(f"{letter}: {names}, {result['machine']['devices'][0]['backend']}, {result['measured']}")
    differing = [key for key, value in one["settings"].items() if other["settings"].get(key) != value]
    if differing:
        print(f"measured with different settings: {', '.join(differing)}")
    table = compare_machines(one, other).rename(columns={"one_per_s": "A", "other_per_s": "B", "ratio": "B / A"})
    print(table.to_string(index=False, float_format="{:.2f}".format))


def main(argv: list[str] | None = None) -> None:
    """Measure and print, or compare."""
    parser = options_of(__doc__)
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A.json", "B.json"), help="measure nothing")
    parser.add_argument("--device", default="", help="CPU:0, GPU:1, ... (default: what the backend takes)")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--size", type=int, default=2048, help="side of the multiplied matrices (default: 2048)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 32, 64, 128], help="images at once")
    parser.add_argument("--clips", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="clips of 16 flows at once")
    parser.add_argument("--px", type=int, default=112, help="side of the flow (default: 112)")
    parser.add_argument("--endpoint", default="Mixed_3c", help="stage of I3D (default: Mixed_3c)")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(argv)
    if options.compare:
        compare(options.compare)
        return
    with use_device(options.device):
        rows = operations(options) + networks(options)
    del options.compare
    report(rows, COLUMNS, options, measured=time.strftime("%Y-%m-%d"))


if __name__ == "__main__":
    main()
