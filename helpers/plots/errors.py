"""Pictures of where a model's errors lie: correlations between traits, errors by source and by clip length.

In: the tables of `helpers.errors` and of `helpers.compare`. Out: Figures and Axes.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.clips import LETTERS, TRAITS
from helpers.plots import ACCENT, NEUTRAL, TRAIT_COLORS


def plot_correlations(truth: pd.DataFrame, prediction: pd.DataFrame) -> Figure:
    """Draw the correlations between traits of the ratings beside those of the predictions, [-1, 1]."""
    letters = [dict(zip(TRAITS, LETTERS, strict=True)).get(name, name) for name in truth.columns]
    fig, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
    for ax, table, title in zip(axes, (truth, prediction), ("ratings", "predictions"), strict=True):
        image = ax.imshow(table, cmap="RdBu_r", vmin=-1, vmax=1)
        for (row, column), value in np.ndenumerate(table.to_numpy()):
            dark = abs(value) > 0.6
            ax.text(column, row, f"{value:+.2f}", ha="center", va="center", fontsize=9, color="w" if dark else "k")
        off_diagonal = table.to_numpy()[~np.eye(len(table), dtype=bool)]
        ax.set_title(f"{title}: mean |r| {np.nanmean(np.abs(off_diagonal)):.2f}" if len(table) > 1 else title)
        ax.set_xticks(range(len(letters)), letters)
        ax.set_yticks(range(len(letters)), letters)
        ax.grid(False)
    fig.colorbar(image, ax=axes, label="Pearson r", shrink=0.8)
    return fig


def plot_calibration(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw mean rating over mean prediction per trait (`errors.calibration`); on the dotted line it is calibrated."""
    if ax is None:
        _, ax = plt.subplots(figsize=(4.2, 4), layout="constrained")
    letters = dict(zip(TRAITS, LETTERS, strict=True))
    ax.plot([0, 1], [0, 1], ":", color=ACCENT, lw=1, label="calibrated")
    for trait, rows in table.groupby("trait", sort=False):
        label = f"{letters.get(trait, trait)}, slope {rows['slope'].iloc[0]:.2f}"
        ax.plot(rows["prediction"], rows["truth"], "o-", ms=4, color=TRAIT_COLORS.get(trait, NEUTRAL), label=label)
    ax.set(xlabel="mean prediction of a fifth of the clips", ylabel="their mean rating", xlim=(0, 1), ylim=(0, 1))
    ax.set_box_aspect(1)
    ax.legend(frameon=False)
    return ax


def plot_errors_by_source(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the mean absolute error of each source, worst first, and in what share of it all its clips err alike."""
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
    x = np.arange(len(table))
    ax.bar(x, table["mae"], color=NEUTRAL, width=0.9, label="mean absolute error")
    ax.plot(x, table["bias"], ".", color="#D55E00", label="mean signed error")
    ax.axhline(0, color=ACCENT, lw=1)
    worst = table.index[0] if len(table) else ""
    ax.set(xlabel="source, worst first", ylabel="error", title=f"{len(table)} sources, the worst is {worst}")
    ax.set_xticks([])
    ax.legend(frameon=False)
    return ax


def plot_errors_by_length(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the errors over clip length (`errors.errors_by_length`), the number of clips at each point."""
    if ax is None:
        _, ax = plt.subplots(figsize=(4.2, 2.6), layout="constrained")
    ax.plot(table["length_s"], table["mae"], "o-", color=ACCENT, label="mean absolute error")
    ax.plot(table["length_s"], table["bias"], "o-", color="#D55E00", label="mean signed error")
    for _, row in table.iterrows():
        ax.annotate(f"{row['clips']:.0f}", (row["length_s"], row["mae"]), xytext=(0, 5), textcoords="offset points")
    ax.axhline(0, color=NEUTRAL, lw=1)
    ax.margins(x=0.1, y=0.25)
    ax.set(xlabel="clip length (s)", ylabel="error", title="numbers: clips")
    ax.legend(frameon=False)
    return ax


def plot_intervals(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw each model's mean R² over the constant's with its interval (`compare.table_of`), best on top."""
    rows = table.dropna(subset=["over_constant"]).sort_values("over_constant")
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 0.28 * len(rows) + 1), layout="constrained")
    y = np.arange(len(rows))
    reach = [rows["over_constant"] - rows["over_constant_low"], rows["over_constant_high"] - rows["over_constant"]]
    told_apart = rows["over_constant_low"] > 0
    for chosen, color, label in ((told_apart, ACCENT, "better than a constant"), (~told_apart, "#D55E00", "no better")):
        if chosen.any():
            bars = [side[chosen] for side in reach]
            ax.errorbar(rows["over_constant"][chosen], y[chosen], xerr=bars, fmt="o", ms=4, color=color, label=label)
    ax.axvline(0, color=NEUTRAL, lw=1)
    ax.set_yticks(y, [name.replace("_", " ") for name in rows.index])
    ax.set(xlabel="mean test R² over the constant's, 95 % interval by source", ylim=(-0.6, len(rows) - 0.4))
    ax.legend(frameon=False, loc="upper left")
    return ax
