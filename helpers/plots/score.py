"""Figures of 09: the scores of one clip in context, when the model looked, and what moved the scores.

In: a `helpers.score.ClipScore`. Out: Axes, or Figures for grids.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.plots import TRAIT_COLORS, axes, name_of, picture_at


def plot_score(result, shares: Mapping[str, np.ndarray] | None = None) -> Figure:
    """Draw each trait's score with its interval, the constant beside it, and the share of ratings below it.

    Args:
        result: A `ClipScore`.
        shares: By target, share of the training ratings in equal parts of [0, 1], drawn behind.
    """
    fig, ax = plt.subplots(figsize=(7, 0.6 * len(result.score) + 1.2), layout="constrained")
    for row, (target, value) in enumerate(result.score.items()):
        color = TRAIT_COLORS.get(target, "C0")
        if shares is not None:  # bars that stand on the lower edge of the row
            share, width = shares[target], 1 / len(shares[target])
            look = {"bottom": row + 0.42, "align": "edge", "color": "0.87", "lw": 0, "zorder": 0.5}
            label = "" if row else "training ratings"
            ax.bar(np.arange(len(share)) * width, -0.8 * share / share.max(), width, label=label, **look)
        ax.hlines(row, result.low[target], result.high[target], color=color, lw=7, alpha=0.5)
        ax.plot(value, row, "o", color=color, ms=9, mec="w", clip_on=False, zorder=3)
        ax.plot(result.constant[target], row, "|", color="0.2", ms=20, mew=2)
        ax.text(1.02, row, f"{value:.2f}   above {result.share_below[target]:.0%}", va="center")
    ax.plot([], [], "o", color="0.5", label="score, 90 % interval")
    ax.plot([], [], "|", color="0.2", ms=12, mew=2, label="constant predictor")
    ax.set_yticks(range(len(result.score)), [name_of(target) for target in result.score])
    ax.set(xlim=(0, 1), ylim=(len(result.score) - 0.5, -0.5), title=result.video)
    ax.set_xlabel("apparent trait (scale of the ratings); right: share of training ratings below the score")
    ax.grid(False, axis="y")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=3)
    return fig


def plot_motion_share(result, *, ax: Axes | None = None) -> Axes:
    """Draw the attention per motion token on the clip's time axis, beside the uniform share."""
    ax = axes(ax, (7, 2.2))
    t_s, share = np.array(result.motion_t_s), np.array(result.motion_share)
    width = np.diff(t_s).min() if len(t_s) > 1 else 0.5
    ax.bar(t_s, share, width=0.92 * width, color="C1")
    ax.axhline(1 / len(share), ls=":", c="0.4", label="uniform")
    ax.set(xlabel="time (s)", ylabel="attention share", ylim=(0, 1.35 * share.max()))
    ax.set_title(f"{result.video}: attention over motion tokens")
    ax.legend(loc="upper right")
    return ax


def plot_looks(result, faces: Sequence[np.ndarray]) -> Figure:
    """Draw a clip's faces, the attention on its motion and what each stretch of motion does to the scores, over time.

    Args:
        result: A `ClipScore` with `effects`.
        faces: Its faces as RGB uint8 (S, S, 3), evenly spread over the clip.
    """
    tall = (0.6, 1, 1.6)
    fig, panels = plt.subplots(3, 1, figsize=(7, 4.6), sharex=True, height_ratios=tall, layout="constrained")
    side_s = result.duration_s / len(faces)
    for place, face in enumerate(faces):
        picture_at(panels[0], face, (place + 0.5) * side_s, 0.97 * side_s)
    panels[0].set(ylabel="face", title=f"{result.video}: where it looked, and what moved its scores")
    plot_motion_share(result, ax=panels[1]).set(title="", xlabel="")
    plot_effects(result, ax=panels[2])
    panels[2].set_xlim(0, result.duration_s)
    return fig


def plot_effects(result, *, ax: Axes | None = None) -> Axes:
    """Draw how far each stretch of motion moves the score of each trait, for a `ClipScore` with `effects`."""
    ax = axes(ax, (7, 2.4))
    values = np.array(list(result.effects.values()))  # (targets, parts)
    edges = np.array([start for start, _ in result.parts_s] + [result.parts_s[-1][1]])
    limit = np.abs(values).max() or 1.0
    rows = np.arange(len(values) + 1) - 0.5
    mesh = ax.pcolormesh(edges, rows, values, cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set_yticks(range(len(values)), [name_of(target) for target in result.effects])
    ax.set(xlabel="time (s)", ylim=(len(values) - 0.5, -0.5))
    ax.figure.colorbar(mesh, ax=ax, label="effect on the score")
    return ax
