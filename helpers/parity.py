"""Do decoders deliver the same frames as the reference, and how fast? `python -m helpers.parity CLIP` says so.

In: a clip. Out: a table with a row per decoder.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.video import BACKENDS, HARDWARE, REFERENCE, Frames, read_frames

MEAN_LEVELS, MAX_LEVELS = 1.0, 24  # rounding and the spreading of colour; another frame or colour matrix is far more


def parity_table(
    path: str | Path, backends: Sequence[str] = BACKENDS, *, n_frames: int = 64, rounds: int = 3
) -> pd.DataFrame:
    """Compare the frames of decoders with those of the reference, PyAV in software.

    Args:
        path: A clip.
        backends: Of `BACKENDS` or `HARDWARE`.
        n_frames: Frames spread evenly over the clip, at full size.
        rounds: Timings, in alternation.

    Returns:
        Index `backend`; `decoder` as the library reports it, with what was done to the pictures, `same_index`,
        `same_t_s`, `mean_levels`, `max_levels` (difference of grey levels, 0 to 255), `differs`: what of these in
        words, `exact`: nothing does, within rounding, and `times_reference` (speed, median of the ratios). Of one that
        cannot be used on this machine or on this clip, or of a damaged clip, the `error`.
    """

    def seconds(backend: str) -> float:
        start = time.perf_counter()
        read_frames(path, n_frames=n_frames, size=(256, 256), backend=backend)
        return time.perf_counter() - start

    rows = []
    for backend in backends:
        try:
            ours, theirs = (read_frames(path, n_frames=n_frames, backend=name) for name in (backend, REFERENCE))
            ratios = [seconds(REFERENCE) / seconds(backend) for _ in range(rounds)]
            rows.append(differences(ours, theirs) | {"times_reference": statistics.median(ratios)})
        except Exception as error:  # of one decoder: the others are compared all the same
            rows.append({"error": str(error) or type(error).__name__})
    return pd.DataFrame(rows, index=pd.Index(backends, name="backend"))


def differences(ours: Frames, theirs: Frames) -> dict[str, Any]:
    """How the same frames of two decoders differ, as columns of `parity_table`."""
    same_index = np.array_equal(ours.index, theirs.index)
    sizes = [f"{frames.frames.shape[2]}x{frames.frames.shape[1]}" for frames in (ours, theirs)]
    same_size = ours.frames.shape == theirs.frames.shape
    levels = np.abs(ours.frames.astype(np.int16) - theirs.frames) if same_size else np.array(255)
    found = {
        "which frames": not same_index,
        "times": not (same_t_s := same_index and np.allclose(ours.t_s, theirs.t_s)),
        f"size ({sizes[0]}, not {sizes[1]})": sizes[0] != sizes[1],
        "pixels": levels.mean() > MEAN_LEVELS or levels.max() > MAX_LEVELS,
    }
    return {
        "decoder": ours.backend,
        "same_index": same_index,
        "same_t_s": same_t_s,
        "mean_levels": float(levels.mean()),
        "max_levels": int(levels.max()),
        "differs": ", ".join(what for what, differs in found.items() if differs),
        "exact": not any(found.values()),
    }


def main(argv: list[str] | None = None) -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(prog="python -m helpers.parity", description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--backend", nargs="+", choices=(*BACKENDS, *HARDWARE), default=BACKENDS)
    options = parser.parse_args(argv)
    print(parity_table(options.clip, options.backend).T.to_string())


if __name__ == "__main__":
    main()
