"""Does the engine's memory grow with the number of rows, and what does the engine cost per row?

03 over a tree of JPEG faces (the same files under many names), 82,290 of them as in the source project, with a network
that costs nothing: it is the engine that is asked. Peak resident memory of this process above what it was after the
network had run one batch, over the first 8,000 rows, over the last 8,000 (as many, since a peak over more looks is
higher by chance), and over all; beside it that of the decoder processes, all of it. Looked at with every batch.
Processor time per row, of this process and of the decoders, tells how fast a network this machine, or one with more
cores, could feed.

    python -m benchmarks.memory [--rows N] [--json FILE]
"""

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil

from benchmarks.alternation import options_of, report
from benchmarks.stages import FACE_PX, FACES_PER_CLIP, run_stage, write_faces
from helpers.config import StaticConfig
from helpers.weights import Weights

COLUMNS = {"rows": "{}", "rss_mb": "{:.1f}", "decoders_mb": "{:.1f}"}
FIRST = 8000
BATCH = 32
MB = 2**20


def some_values(x: np.ndarray) -> np.ndarray:
    """A static network of 2,048 features: values of crops here and there."""
    return x.reshape(len(x), -1)[:, :: x[0].size // 2048][:, :2048].astype(np.float32)


@dataclass
class Watched:
    """A network that looks at the memory in use at every batch: rows so far, own bytes, bytes of child processes."""

    seen: list[tuple[int, int, int]] = field(default_factory=list)
    process: psutil.Process = field(default_factory=psutil.Process)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        y = some_values(x)
        rows = self.seen[-1][0] + len(x) if self.seen else len(x)
        self.seen.append((rows, self.process.memory_info().rss, self._children() if len(self.seen) % 16 == 0 else 0))
        return y

    def _children(self) -> int:
        total = 0
        for child in self.process.children():
            try:
                total += child.memory_info().rss
            except psutil.NoSuchProcess:  # it has just ended
                continue
        return total


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options_of(__doc__)
    parser.add_argument("--rows", type=int, default=82290, metavar="N", help="default: 82290")
    options = parser.parse_args(argv)
    backbone = SimpleNamespace(
        input_px=FACE_PX,
        feature_dim=2048,
        prepare=None,
        weights=Weights("random", "some values", "", ""),
        model=None,
    )
    network = Watched()
    network(np.zeros((BATCH, FACE_PX, FACE_PX, 3), np.uint8))
    (_, base, _), network.seen = network.seen[0], []
    with tempfile.TemporaryDirectory() as folder:
        clips = write_faces(Path(folder) / "faces", -(-options.rows // FACES_PER_CLIP))
        cfg = StaticConfig(out_dir=str(Path(folder) / "run"), faces_dir=str(Path(folder) / "faces"), batch_size=BATCH)
        before, started_s = network.process.cpu_times(), time.perf_counter()
        run_stage(clips, cfg, backbone, network)
        seconds, after = time.perf_counter() - started_s, network.process.cpu_times()
    seen = np.array(network.seen)
    rows = []
    for limit in (FIRST, options.rows):
        until = seen[(seen[:, 0] > limit - FIRST) & (seen[:, 0] <= limit + BATCH)]
        peak_mb, decoders_mb = (until[:, 1].max() - base) / MB, until[:, 2].max() / MB
        rows.append({"rows": limit, "rss_mb": float(peak_mb), "decoders_mb": float(decoders_mb)})
    keys = {f"rss_mb_{row['rows']}": row["rss_mb"] for row in rows} | {"rss_mb_peak": (seen[:, 1].max() - base) / MB}
    own_s = after.user + after.system - before.user - before.system
    decoders_s = after.children_user + after.children_system - before.children_user - before.children_system
    keys |= {
        "rows_per_s": options.rows / seconds,
        "cpu_ms_per_row": 1000 * own_s / options.rows,
        "decoder_cpu_ms_per_row": 1000 * decoders_s / options.rows,
    }
    growth = rows[1]["rss_mb"] / rows[0]["rss_mb"]
    report(rows, COLUMNS, options, growth=growth, **keys)
    print(f"growth from {FIRST} to {options.rows} rows: {growth - 1:+.1%}; peak {keys['rss_mb_peak']:.1f} MB")
    print(
        f"{keys['rows_per_s']:.0f} rows/s; processor time per row: {keys['cpu_ms_per_row']:.2f} ms here, "
        f"{keys['decoder_cpu_ms_per_row']:.2f} ms in decoders"
    )


if __name__ == "__main__":
    main()
