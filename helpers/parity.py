"""Do decoders deliver the same frames as the reference, PyAV in software, and how fast?"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.video import BACKENDS, REFERENCE, Frames, read_frames

MEAN_LEVELS, MAX_LEVELS = 1.0, 24  # rounding and the spreading of colour; another frame or colour matrix is far more
ROUNDS = 3  # of timing, in alternation


def parity_table(path: str | Path, backends: Sequence[str] = BACKENDS, *, n_frames: int = 64) -> pd.DataFrame:
    """Compare the frames of decoders with those of the reference, `n_frames` spread evenly over a clip.

    Returns:
        Index `backend`, of `helpers.video.BACKENDS` or `HARDWARE`; `decoder` as the library reports it, with what was
        done to the pictures, `same_index`, `same_t_s`, `mean_levels`, `max_levels` (difference of grey levels, 0 to
        255), `exact`: all of these within rounding, and `times_reference` (speed, median of the ratios). Of one that
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
            ratios = [seconds(REFERENCE) / seconds(backend) for _ in range(ROUNDS)]
            rows.append(differences(ours, theirs) | {"times_reference": statistics.median(ratios)})
        except Exception as error:  # of one decoder: the others are compared all the same
            rows.append({"error": str(error) or type(error).__name__})
    return pd.DataFrame(rows, index=pd.Index(backends, name="backend"))


def differences(ours: Frames, theirs: Frames) -> dict[str, Any]:
    """How the same frames of two decoders differ, as columns of `parity_table`."""
    same_index, same_size = np.array_equal(ours.index, theirs.index), ours.frames.shape == theirs.frames.shape
    levels = np.abs(ours.frames.astype(np.int16) - theirs.frames) if same_size else np.array(255)
    same_t_s = bool(same_index and np.allclose(ours.t_s, theirs.t_s))
    return {
        "decoder": ours.backend,
        "same_index": same_index,
        "same_t_s": same_t_s,
        "mean_levels": float(levels.mean()),
        "max_levels": int(levels.max()),
        "exact": bool(same_t_s and levels.mean() <= MEAN_LEVELS and levels.max() <= MAX_LEVELS),
    }
