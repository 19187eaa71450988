"""Figures of 01: ratings and their correlations; without ratings the titles say so."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.clips import TRAITS, name_of
from helpers.plots import ACCENT, NEUTRAL, TRAIT_COLORS, axes, matrix, panels
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


def _span(values: Sequence[float], *, sign: bool = False) -> str:
    return " to ".join(number(end, sign=sign) for end in (np.fmin.reduce(values), np.fmax.reduce(values)))
