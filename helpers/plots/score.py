"""Figures of 09, of a `helpers.score.ClipScore`: its scores, when the model looked, and what moved the scores."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.clips import name_of
from helpers.plots import TRAIT_COLORS, axes, named_rows, panels, picture_at


def plot_score(result) -> Axes:
    """Draw each trait's score with its interval, the constant beside it, and the share of ratings below it."""
    ax = axes(None, (7, 0.6 * len(result.score) + 1.2), grid="x", title=result.video, xlim=(0, 1))
    for row, (target, value) in enumerate(result.score.items()):
        color = TRAIT_COLORS.get(target, "C0")
        ax.hlines(row, result.low[target], result.high[target], color=color, lw=7, alpha=0.5)
        ax.plot(value, row, "o", color=color, ms=9, mec="w", clip_on=False, zorder=3)
        ax.plot(result.constant[target], row, "|", color="0.2", ms=20, mew=2)
        ax.text(1.02, row, f"{value:.2f}   above {result.share_below[target]:.0%}", va="center")
    ax.plot([], [], "o", color="0.5", label="score, 90 % interval")
    ax.plot([], [], "|", color="0.2", ms=12, mew=2, label="constant predictor")
    named_rows(ax, list(map(name_of, result.score)))
    ax.set_xlabel("apparent trait (scale of the ratings); right: share of training ratings below the score")
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
    _motion_share(looked, np.array(result.motion_t_s), np.array(result.motion_share))
    _effects(moved, result)
    moved.set_xlim(0, result.duration_s)
    return fig


def _motion_share(ax: Axes, t_s: np.ndarray, share: np.ndarray) -> None:
    """The attention per motion token, beside the uniform share."""
    ax.bar(t_s, share, width=0.92 * (np.diff(t_s).min() if len(t_s) > 1 else 0.5), color="C1")
    ax.axhline(1 / len(share), ls=":", c="0.4", label="uniform")
    ax.set(ylabel="attention share", ylim=(0, 1.35 * share.max()))
    ax.legend(loc="upper right")


def _effects(ax: Axes, result) -> None:
    """How far each stretch of motion moves the score of each trait."""
    values = np.array(list(result.effects.values()))  # (targets, parts)
    edges = np.array([start for start, _ in result.parts_s] + [result.parts_s[-1][1]])
    limit = np.abs(values).max() or 1.0
    rows = np.arange(len(values) + 1) - 0.5
    mesh = ax.pcolormesh(edges, rows, values, cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set_yticks(range(len(values)), list(map(name_of, result.effects)))
    ax.set(xlabel="time (s)", ylim=(len(values) - 0.5, -0.5))
    ax.figure.colorbar(mesh, ax=ax, label="effect on the score")
