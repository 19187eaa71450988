"""Pictures of notebook 01: ratings, their correlations, the constant floor, what leaks between splits.

In: tables as `helpers.clips` and `helpers.metrics` return them; without ratings or splits the pictures are empty and
their titles say so. Out: Axes, or a Figure for grids.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.clips import DISPLAY, TRAITS
from helpers.plots import ACCENT, NEUTRAL, TRAIT_COLORS


def plot_rating_distributions(clips: pd.DataFrame, *, targets: Sequence[str] = TRAITS) -> Figure:
    """Draw a histogram of the ratings of each target; a dashed line marks their mean.

    Args:
        clips: One column per target, ratings in [0, 1]; NaN is left out.
        targets: The columns to draw.
    """
    size = (1.5 * len(targets) + 0.4, 2.8)
    fig, axes = plt.subplots(1, len(targets), figsize=size, sharey=True, squeeze=False, layout="constrained")
    statistics = clips[list(targets)].agg(["count", "mean", "std"])
    for target, ax in zip(targets, axes[0], strict=True):
        n, mean, sd = statistics[target]
        ax.hist(clips[target].dropna(), bins=np.linspace(0, 1, 11), color=TRAIT_COLORS.get(target, NEUTRAL))
        if n:
            ax.axvline(mean, color=ACCENT, ls="--", lw=1)
        name = _label(target).replace(" ", "\n", 1)
        ax.set_title(f"{name}\nmean {mean:.2f}, sd {sd:.2f}" if n else name, fontsize=9)
        ax.set(xlim=(0, 1))
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes[0, 0].set_ylabel("clips")
    fig.supxlabel("rating (0 to 1)", fontsize=10)
    rated = clips[list(targets)].notna().any(axis=1).sum()
    found = f"means {_span(statistics.loc['mean'])}, standard deviations {_span(statistics.loc['std'])}"
    fig.suptitle(f"{rated} rated clips: {found}" if rated else "No clip is rated")
    return fig


def plot_trait_correlations(correlations: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw a matrix of Pearson correlations, as `clips[list(TRAITS)].corr()` gives it, (k, k) in [-1, 1]."""
    if ax is None:
        _, ax = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    values = correlations.to_numpy()
    labels = [_label(name) for name in correlations]
    image = ax.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            text, color = f"{round(value, 2) + 0.0:.2f}", "w" if abs(value) > 0.6 else "k"
            ax.text(column, row, text, ha="center", va="center", fontsize=9, color=color)
    ax.set_xticks(range(len(labels)), labels, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(labels)), labels)
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, ticks=[-1, -0.5, 0, 0.5, 1], label="Pearson's r between ratings")
    pairs = values[np.triu_indices(len(values), 1)]
    rated = np.isfinite(pairs).any()
    ax.set_title(f"Pairs correlate by r = {_span(pairs, '+.2f')}" if rated else "No pair is rated")
    return ax


def plot_constant_floor(table: pd.DataFrame, *, n_clips: int = 0, ax: Axes | None = None) -> Axes:
    """Draw what the constant predictor scores: the mark that a model has to beat.

    Args:
        table: `mean_accuracy` (1 - MAE, at most 1) by target, last row `mean`, as `metrics.constant_floor` gives it.
        n_clips: How many clips that is; 0: not said.
        ax: Where to draw.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
    scores = table["mean_accuracy"][::-1]
    colors = [TRAIT_COLORS.get(name, ACCENT) for name in scores.index]
    left = np.floor(20 * scores.min() - 1) / 20 if scores.notna().any() else 0.5
    ax.scatter(scores, range(len(scores)), color=colors, s=45, zorder=3)
    for y, score in enumerate(scores):
        if np.isfinite(score):
            ax.text(score, y, f"   {score:.3f}", va="center", fontsize=9)
    ax.set_yticks(range(len(scores)), [_label(name) for name in scores.index])
    ax.set(xlim=(left, 1), ylim=(-0.6, len(scores) - 0.4), xlabel="mean accuracy, 1 - MAE (right edge: perfect)")
    ax.grid(axis="y", visible=False)
    mean = table["mean_accuracy"].iloc[-1]
    rated = np.isfinite(mean)
    said = f"Answering the mean for everyone scores {mean:.3f}" + (f" on {n_clips} clips" if n_clips else "")
    ax.set_title(said if rated else "No ratings to score against")
    return ax


def plot_leakage(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how many clips of a split share a source with clips that are trained on, as `clips.leakage` counts them."""
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 0.5 * max(len(table), 1) + 1.5), layout="constrained")
    ax.set_xlabel("clips")
    ax.grid(axis="y", visible=False)
    if not len(table):
        ax.set(xticks=[], yticks=[], title="There are no two splits that could leak")
        return ax
    rows = range(len(table))
    ax.barh(rows, table["sharing"], color=ACCENT, height=0.6, label="their source is in it too")
    ax.barh(rows, table["clips"] - table["sharing"], left=table["sharing"], color="0.8", height=0.6, label="it is not")
    for y, row in zip(rows, table.itertuples(), strict=True):
        ax.text(row.clips, y, f" {row.sharing} of {row.clips} ({row.share:.0%})", va="center", fontsize=9)
    ax.set_yticks(rows, [f"{row.split}, against\n{row.against}" for row in table.itertuples()])
    ax.set(xlim=(0, 1.45 * table["clips"].max()), ylim=(len(table) - 0.4, -0.6))
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.28), ncols=2, frameon=False)
    worst = table.loc[table["share"].idxmax()]
    ax.set_title(f"{worst.share:.0%} of the {worst.split} clips share a source with {worst.against}")
    return ax


def _label(target: str) -> str:
    return DISPLAY.get(target, target)


def _span(values: Sequence[float], form: str = ".2f") -> str:
    return f"{np.fmin.reduce(values):{form}} to {np.fmax.reduce(values):{form}}"
