"""Figures of 09, of a `helpers.score.ClipScore`: its scores, when the model looked, and what moved the scores."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure

from helpers.clips import name_of
from helpers.plots import TRAIT_COLORS, axes, named_rows, panels, picture_at, step_of, time_rows


def plot_score(result) -> Axes:
    """Draw each trait's score with its interval, and the constant beside it."""
    ax = axes(None, (7, 0.6 * len(result.score) + 1.2), grid="x", title=result.video, xlim=(0, 1))
    for row, (target, value) in enumerate(result.score.items()):
        color = TRAIT_COLORS.get(target, "C0")
        ax.hlines(row, result.low[target], result.high[target], color=color, lw=7, alpha=0.5)
        ax.plot(value, row, "o", color=color, ms=9, mec="w", clip_on=False, zorder=3)
        ax.plot(result.constant[target], row, "|", color="0.2", ms=20, mew=2)
        ax.text(1.02, row, f"{value:.2f}", va="center")
    ax.plot([], [], "o", color="0.5", label="score, 90 % interval")
    ax.plot([], [], "|", color="0.2", ms=12, mew=2, label="constant predictor")
    named_rows(ax, list(map(name_of, result.score)))
    ax.set_xlabel("apparent trait (scale of the ratings)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=2)
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
