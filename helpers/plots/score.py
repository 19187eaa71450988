"""Figures of 09, of a `helpers.score.ClipScore`: its scores, when the model looked, and what moved the scores."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure

from helpers.clips import name_of
from helpers.plots import panels, picture_at, plot_intervals, step_of, time_rows


def plot_score(result) -> Axes:
    """Draw each trait's score with its interval, and the constant beside it."""
    rows = {
        name_of(target): {
            "score, 90 % interval": {"value": value, "interval": [result.low[target], result.high[target]]},
            "constant predictor": {"value": result.constant[target], "interval": None},
        }
        for target, value in result.score.items()
    }
    ax = plot_intervals(rows, "apparent trait (scale of the ratings)", {}, title=result.video)
    ax.set_xlim(0, 1)
    return ax


def plot_looks(result, faces: Sequence[np.ndarray]) -> Figure:
    """Draw a clip's faces, the attention on its motion and what each stretch of motion does to the scores, over time.

    `faces`: RGB uint8 (S, S, 3), evenly spread over the clip.
    """
    tall = (0.6, 1, 1.6)
    fig, ((seen,), (looked,), (moved,)) = panels(3, 1, (7, 4.6), sharex=True, height_ratios=tall)
    side_s = result.duration_s / len(faces)
    for place, face in enumerate(faces):
        picture_at(seen, face, (place + 0.5) * side_s, 0.97 * side_s)
    seen.set(ylabel="face", title=f"{result.video}: where it looked, and what moved its scores")
    t_s, share = np.array(result.motion_t_s), np.array(result.motion_share)
    looked.bar(t_s, share, 0.92 * step_of(t_s), color="C1")
    looked.axhline(1 / len(share), ls=":", c="0.4", label="uniform")
    looked.set(ylabel="attention share", ylim=(0, 1.35 * share.max()))
    looked.legend(loc="upper right")
    effects, names = np.array(list(result.effects.values())), list(map(name_of, result.effects))  # (targets, parts)
    look = {"cmap": "RdBu_r", "norm": CenteredNorm()}
    time_rows(moved, effects, np.mean(result.parts_s, axis=1), names, "effect on the score", **look)
    moved.set(xlabel="time (s)", xlim=(0, result.duration_s))
    return fig
