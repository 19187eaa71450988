"""What was planted in drawn clips, and whether something found points at it.

In: `truth.csv` beside the tokens (key, warm_s, cool_s, window_s in seconds), `Aligned` clips. Out: which tokens lie in
planted windows, and shares of clips. None where clips were not drawn: then nothing is known.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from helpers.align import Aligned


def inside_windows(t_s: np.ndarray, token_s: float, starts_s: np.ndarray, window_s: np.ndarray) -> np.ndarray:
    """Whether at least half of each token's duration lies in one clip's windows.

    Args:
        t_s: Centre of each token in seconds, (N, Td).
        token_s: Duration of a token in seconds.
        starts_s: Start of each window in seconds, (N, windows), not overlapping.
        window_s: Length of each clip's windows in seconds, (N,).

    Returns:
        bool (N, Td).
    """
    low, high = t_s[:, :, None] - token_s / 2, t_s[:, :, None] + token_s / 2
    stops_s = starts_s + window_s[:, None]
    overlap = np.minimum(high, stops_s[:, None]) - np.maximum(low, starts_s[:, None])  # (N, Td, windows)
    return np.clip(overlap, 0, None).sum(-1) >= token_s / 2 - 1e-9


def planted_windows(folder: str | Path, aligned: Aligned) -> np.ndarray | None:
    """Read which motion tokens lie in a planted light window, bool (N, Td); None when the clips were not drawn.

    Args:
        folder: Holds `truth.csv`: key, warm_s, cool_s, window_s in seconds.
        aligned: Clips of that table.
    """
    found = window_starts(folder, aligned)
    return None if found is None else inside_windows(aligned.dynamic_t_s, token_duration(aligned), *found)


def window_starts(folder: str | Path, aligned: Aligned) -> tuple[np.ndarray, np.ndarray] | None:
    """Read the planted light windows' starts (N, 2) and length (N,) in seconds; None unless all clips were drawn."""
    path = Path(folder) / "truth.csv"
    if not path.exists():
        return None
    truth = pd.read_csv(path, index_col="key")
    if not np.isin(aligned.clips, truth.index).all():
        return None
    truth = truth.loc[aligned.clips]
    return truth[["warm_s", "cool_s"]].to_numpy(), truth["window_s"].to_numpy()


def window_spans(folder: str | Path, clip: str) -> dict[str, tuple[float, float]]:
    """Start and stop in seconds of what was planted in one clip, by name; empty when it was not drawn."""
    path = Path(folder) / "truth.csv"
    truth = pd.read_csv(path, index_col="key") if path.exists() else pd.DataFrame()
    if clip not in truth.index:
        return {}
    row = truth.loc[clip]
    return {f"{name} light": (row[f"{name}_s"], row[f"{name}_s"] + row["window_s"]) for name in ("warm", "cool")}


def token_duration(aligned: Aligned) -> float:
    """Duration of a motion token in seconds: the step from one to the next, for tokens that do not overlap."""
    steps = np.diff(aligned.dynamic_t_s, axis=1)[aligned.dynamic_mask[:, 1:]]
    return float(np.median(steps))


def event_rows(folder: str | Path, aligned: Aligned) -> np.ndarray | None:
    """Say which face tokens were taken inside a planted light window, bool (N, Ts); None for clips not drawn."""
    found = window_starts(folder, aligned)
    if found is None:
        return None
    starts_s, window_s = found
    after = aligned.static_t_s[:, :, None] - starts_s[:, None]  # (N, Ts, windows)
    return ((after >= 0) & (after <= window_s[:, None, None])).any(-1) & aligned.static_mask


def pointing_at(effects: np.ndarray, inside: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Whether each clip's largest effect is inside, float (N,), 1 or 0.

    Args:
        effects: Change of the prediction by each token, (N, Td).
        inside: bool (N, Td).
        mask: bool (N, Td), real tokens.
    """
    largest = np.where(mask, np.abs(effects), -1).argmax(1)
    return inside[np.arange(len(inside)), largest].astype(float)


def pointing(effects: np.ndarray, inside: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Share of clips whose largest effect is inside, see `pointing_at`, and what chance would give, both in [0, 1]."""
    chance = (inside & mask).sum(1) / mask.sum(1)
    return float(pointing_at(effects, inside, mask).mean()), float(chance.mean())
