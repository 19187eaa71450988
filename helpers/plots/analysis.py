"""Figures of 01: ratings, their correlations, the constant floor, and what leaks between splits.

In: tables as `helpers.clips` and `helpers.metrics` return them; without ratings or splits the titles say so.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.clips import TRAITS, name_of
from helpers.plots import ACCENT, NEUTRAL, TRAIT_COLORS, axes, matrix, named_rows, panels
from helpers.statistics import number


def plot_rating_distributions(clips: pd.DataFrame, *, targets: Sequence[str] = TRAITS) -> Figure:
    """Draw a histogram of the ratings of each target, a column in [0, 1], NaN left out; a line marks their mean."""
    fig, (row,) = panels(1, len(targets), (1.5 * len(targets) + 0.4, 2.8), sharey=True)
    statistics = clips[list(targets)].agg(["count", "mean", "std"])
    for target, ax in zip(targets, row, strict=True):
        n, mean, sd = statistics[target]
        ax.hist(clips[target].dropna(), bins=np.linspace(0, 1, 11), color=TRAIT_COLORS.get(target, NEUTRAL))
        if n:
            ax.axvline(mean, color=ACCENT, ls="--", lw=1)
        name = name_of(target).replace(" ", "\n", 1)
        ax.set_title(f"{name}\nmean {number(mean)}, sd {number(sd)}", fontsize=9)
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        ax.set(xlim=(0, 1))
    row[0].set_ylabel("clips")
    fig.supxlabel("rating (0 to 1)", fontsize=10)
    rated = clips[list(targets)].notna().any(axis=1).sum()
    found = f"means {_span(statistics.loc['mean'])}, standard deviations {_span(statistics.loc['std'])}"
    fig.suptitle(f"{rated} rated clips: {found}" if rated else "No clip is rated")
    return fig


def plot_trait_correlations(correlations: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw a matrix of Pearson correlations, as `clips[list(TRAITS)].corr()` gives it, (k, k) in [-1, 1]."""
    names = [name_of(target) for target in correlations]
    pairs = correlations.to_numpy()[np.triu_indices(len(names), 1)]
    varies = np.isfinite(pairs).any()
    title = f"Pairs correlate by r = {_span(pairs, sign=True)}" if varies else "No pair of ratings varies"
    ax = axes(ax, (5.6, 4.2), grid="", title=title)
    table = correlations.set_axis(names).set_axis(names, axis=1)
    matrix(table, ax, bar="Pearson's r between ratings", cmap="RdBu_r", vmin=-1, vmax=1)
    plt.setp(ax.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor")
    return ax


def plot_constant_floor(table: pd.DataFrame, *, n_clips: int, ax: Axes | None = None) -> Axes:
    """Draw what the constant predictor scores on so many clips: the mark that a model has to beat.

    `table`: `mean_accuracy` (1 - MAE, at most 1) by target, last row `mean`, as `metrics.constant_floor` gives it.
    """
    scores = table["mean_accuracy"]
    mean, left = scores.iloc[-1], np.floor(20 * scores.min() - 1) / 20 if scores.notna().any() else 0.5
    said = f"Answering the mean for everyone scores {mean:.3f} on {n_clips} clips"
    ax = axes(ax, (6.4, 2.8), grid="x", title=said if np.isfinite(mean) else "No ratings to score against")
    names = [name_of(target) for target in scores.index]
    colors = [TRAIT_COLORS.get(target, ACCENT) for target in scores.index]
    sns.stripplot(x=scores.to_numpy(), y=names, hue=names, palette=colors, size=7, jitter=False, legend=False, ax=ax)
    for y, score in enumerate(scores):
        ax.text(score, y, f"   {score:.3f}" if np.isfinite(score) else "", va="center", fontsize=9)
    ax.set(xlim=(left, 1), xlabel="mean accuracy, 1 - MAE (right edge: perfect)")
    return ax


def plot_leakage(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how many clips of a split share a source with clips that are trained on, as `clips.leakage` counts them."""
    worst = table.loc[table["share"].idxmax()]
    title = f"{worst.share:.0%} of the {worst.split} clips share a source with {worst.against}"
    ax = axes(ax, (6.4, 0.5 * len(table) + 1.5), grid="x", xlabel="clips", title=title)
    rows = range(len(table))
    ax.barh(rows, table["sharing"], color=ACCENT, height=0.6, label="their source is in it too")
    ax.barh(rows, table["clips"] - table["sharing"], left=table["sharing"], color="0.8", height=0.6, label="it is not")
    texts = [f" {row.sharing} of {row.clips} ({row.share:.0%})" for row in table.itertuples()]
    ax.bar_label(ax.containers[1], texts, fontsize=9)
    named_rows(ax, [f"{row.split}, against\n{row.against}" for row in table.itertuples()])
    ax.set(xlim=(0, 1.45 * table["clips"].max()))
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.28), ncols=2)
    return ax


def _span(values: Sequence[float], *, sign: bool = False) -> str:
    return " to ".join(number(end, sign=sign) for end in (np.fmin.reduce(values), np.fmax.reduce(values)))
