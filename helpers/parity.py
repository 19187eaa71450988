"""Do two decoders deliver the same frames? Numbers, times and pixels of the same frames by each, and how fast.

In: a clip. Out: a table, one row per backend. `python -m helpers.parity CLIP` prints it.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.decoding.choice import REFERENCE
from helpers.decoding.decoders import BACKENDS, HARDWARE
from helpers.video import Frames, VideoError, read_frames

MEAN_LEVELS, MAX_LEVELS = 1.0, 24  # rounding and the spreading of colour; another frame or colour matrix is far more
N_FRAMES = 64


def compare(path: str | Path, backend: str, *, n_frames: int = N_FRAMES, rounds: int = 3) -> dict[str, Any]:
    """Decode the same frames by a backend and by the reference, PyAV in software.

    Args:
        path: A clip.
        backend: One of `helpers.decoding.decoders.BACKENDS` or `HARDWARE`.
        n_frames: Frames spread evenly over the clip, at full size.
        rounds: Timings, in alternation.

    Returns:
        `decoder` as the library reports it, `same_index`, `same_t_s`, `mean_levels`, `max_levels` (difference of
        grey levels, 0 to 255), `times_reference` (speed, median of the ratios) and `exact`: the same frames within
        rounding.

    Raises:
        VideoError, RuntimeError: the clip, or the backend on this machine, cannot be used.
    """
    ours, theirs = (read_frames(path, n_frames=n_frames, backend=name) for name in (backend, REFERENCE))
    ratios = []
    for _ in range(rounds):
        seconds = [_seconds(path, n_frames, name) for name in (backend, REFERENCE)]
        ratios.append(seconds[1] / seconds[0])
    return {"backend": backend, **_differences(ours, theirs), "times_reference": statistics.median(ratios)}


def parity_table(path: str | Path, backends: Sequence[str] = BACKENDS, **settings: int) -> pd.DataFrame:
    """The rows of `compare` for several backends, index `backend`; one that cannot be used has its `error`."""
    rows = []
    for backend in backends:
        try:
            rows.append(compare(path, backend, **settings))
        except (VideoError, RuntimeError, OSError) as error:
            rows.append({"backend": backend, "error": str(error)})
    return pd.DataFrame(rows).set_index("backend")


def _differences(ours: Frames, theirs: Frames) -> dict[str, Any]:
    same_index = np.array_equal(ours.index, theirs.index)
    same_t_s = same_index and np.allclose(ours.t_s, theirs.t_s)
    difference = (
        np.abs(ours.frames.astype(np.int16) - theirs.frames) if ours.frames.shape == theirs.frames.shape else 255
    )
    mean, most = float(np.mean(difference)), int(np.max(difference))
    return {
        "decoder": ours.backend,
        "same_index": same_index,
        "same_t_s": same_t_s,
        "mean_levels": mean,
        "max_levels": most,
        "exact": same_t_s and mean <= MEAN_LEVELS and most <= MAX_LEVELS,
    }


def _seconds(path: str | Path, n_frames: int, backend: str) -> float:
    start = time.perf_counter()
    read_frames(path, n_frames=n_frames, size=(256, 256), backend=backend)
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(prog="python -m helpers.parity", description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--backend", choices=(*BACKENDS, *HARDWARE), help="this one only; default: PyAV and OpenCV")
    parser.add_argument("--json", action="store_true", help="print JSON: for one backend")
    options = parser.parse_args(argv)
    try:
        if options.json:
            print(json.dumps(compare(options.clip, options.backend)))
        else:
            print(parity_table(options.clip, [options.backend] if options.backend else BACKENDS).T.to_string())
    except VideoError as error:
        print(json.dumps({"clip_unusable": True, "error": str(error)}))
    except (RuntimeError, OSError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
