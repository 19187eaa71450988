"""Figures of 09: the scores of one clip in context, and when the model looked."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.clips import DISPLAY
from helpers.plots import TRAIT_COLORS


def plot_score(result) -> Figure:
    """Draw each trait's score with its interval, the constant beside it, and its percentile.

    Args:
        result: A `helpers.score.ClipScore`.
    """
    fig, ax = plt.subplots(figsize=(7, 0.55 * len(result.score) + 1.2), layout="constrained")
    for row, (target, value) in enumerate(result.score.items()):
        color = TRAIT_COLORS.get(target, "C0")
        ax.plot(
            [result.low[target], result.high[target]], [row, row], color=color, lw=6, alpha=0.3, solid_capstyle="butt"
        )
        ax.plot(value, row, "o", color=color, ms=9)
        ax.plot(result.constant[target], row, "|", color="0.2", ms=18, mew=2)
        ax.text(1.02, row, f"{value:.2f}   above {result.percentile[target]:.0%}", va="center")
    ax.plot([], [], "o", color="0.5", label="score, 90 % interval")
    ax.plot([], [], "|", color="0.2", ms=12, mew=2, label="constant predictor")
    ax.set(
        xlim=(0, 1),
        ylim=(len(result.score) - 0.5, -0.5),
        xlabel="apparent trait (scale of the ratings); right: share of training ratings below the score",
        yticks=range(len(result.score)),
        yticklabels=[DISPLAY.get(target, target) for target in result.score],
        title=result.video,
    )
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=2, frameon=False)
    return fig


def plot_motion_share(result, *, ax: Axes | None = None) -> Axes:
    """Draw the attention per motion token on the clip's time axis, beside the uniform share.

    Args:
        result: A `helpers.score.ClipScore`.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 2.2), layout="constrained")
    t_s, share = np.array(result.motion_t_s), np.array(result.motion_share)
    width = np.diff(t_s).min() if len(t_s) > 1 else 0.5
    ax.bar(t_s, share, width=0.92 * width, color="C1")
    ax.axhline(1 / len(share), ls=":", c="0.4", label="uniform")
    ax.set(xlabel="time (s)", ylabel="attention share", title=f"{result.video}: attention over motion tokens")
    ax.legend(frameon=False)
    return ax
